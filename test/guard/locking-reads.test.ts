import { expect } from 'chai'
import { DataTypes, literal, Model, Transaction } from 'sequelize'
import type { FindOptions, Sequelize, TransactionOptions } from 'sequelize'
import { lossless, LockTimeoutError, mergeJsonKey, WholeColumnWriteError, withLock } from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import type { WorkflowRun } from '../workflow-run.js'
import { guardedRuns } from './guarded-runs.js'

class Step extends Model {
  declare id: number
  declare state: Record<string, unknown>
  declare parts: Step[]
}

type RunWithSteps = WorkflowRun & { steps: Step[] }

eachDatabase('a locking finder under a guard', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  let Steps: typeof Step
  let id: number

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await guardedRuns(sequelize, { wholeColumnWrites: 'throw' })
    Steps = class extends Step {}
    Steps.init(
      { state: DataTypes.JSON, runId: DataTypes.INTEGER, stepId: DataTypes.INTEGER },
      { sequelize, modelName: 'Step', tableName: 'guarded_steps' },
    )
    await Steps.sync({ force: true })
    lossless(Steps, { wholeColumnWrites: 'throw' })
    Runs.hasMany(Steps, { as: 'steps', foreignKey: 'runId', constraints: false })
    Steps.hasMany(Steps, { as: 'parts', foreignKey: 'stepId', constraints: false })
  })

  beforeEach(async () => {
    ;({ id } = await Runs.create({ title: 'a', progress: {} }))
    const step = await Steps.create({ runId: id, state: {} })
    await Steps.create({ stepId: step.id, state: {} })
  })

  // PostgreSQL locks no side of an outer join that may be missing.
  const include = { association: 'steps', required: true, include: [{ association: 'parts', required: true }] }

  async function find(options: FindOptions): Promise<RunWithSteps> {
    return (await Runs.findByPk(id, { rejectOnEmpty: true, ...options })) as RunWithSteps
  }

  it('counts as a lock of included rows, at any depth', async () => {
    await sequelize.transaction(async (transaction) => {
      const run = await find({ include, lock: true, transaction })
      const step = run.steps[0]!
      const part = step.parts[0]!
      for (const each of [step, part]) {
        // SQLite locks no row: it refuses what comes too late.
        if (database.name === 'sqlite') continue
        const waiting = withLock([Steps, each.id], () => undefined, { nowait: true, transaction: null })
        await rejection(waiting, LockTimeoutError)
      }
      for (const each of [step, part]) await each.update({ state: { locked: true } }, { transaction })
      await Steps.update({ state: { again: true } }, { where: { id: part.id }, transaction })
      await run.update({ progress: { locked: true } }, { transaction })
    })
    const states = (await Steps.findAll({ order: ['id'] })).slice(-2).map(({ state }) => state)
    expect(states).to.deep.equal([{ locked: true }, { again: true }])
  })

  it('counts as a lock of rows that reload() reads again', async () => {
    const run = await find({ include })
    await sequelize.transaction(async (transaction) => {
      await run.reload({ lock: true, transaction })
      await run.steps[0]!.update({ state: { locked: true } }, { transaction })
      await run.update({ progress: { locked: true } }, { transaction })
      await run.reload({ transaction })
      await rejection(run.steps[0]!.update({ state: {} }, { transaction }), WholeColumnWriteError)
    })
  })

  it('is what reload() of a locked row sends, whatever its options', async () => {
    const run = await find({})
    await run.withLock(async (_run, transaction) => {
      for (const options of [undefined, { transaction }]) {
        await run.reload(options)
        run.progress = { ...run.progress, locked: 1 }
        await run.save()
      }
    })
  })

  if (database.name === 'postgres') {
    it('keeps the lock if the answer of an UPDATE has the documents of the row', async () => {
      await sequelize.transaction(async (transaction) => {
        const run = await find({ lock: true, transaction })
        await run.update({ title: 'b' }, { transaction, returning: true })
        await run.update({ progress: { after: 'update' } }, { transaction })
        await run.increment('id', { by: 0, transaction })
        await run.update({ progress: { after: 'increment' } }, { transaction })
      })
    })
  }

  it('counts as a lock only of rows of the model that `of` names', async () => {
    await sequelize.transaction(async (transaction) => {
      const run = await find({ include, lock: { level: transaction.LOCK.UPDATE, of: Runs }, transaction })
      await run.update({ progress: { locked: true } }, { transaction })
      await rejection(run.steps[0]!.update({ state: { locked: true } }, { transaction }), WholeColumnWriteError)
    })
  })

  it('does not count as a lock of rows that a separate statement reads', async () => {
    const steps = { association: 'steps', separate: true }
    const run = await find({ include: steps })
    await sequelize.transaction(async (transaction) => {
      await run.reload({ lock: true, transaction })
      await rejection(run.steps[0]!.update({ state: { locked: true } }, { transaction }), WholeColumnWriteError)
    })
  })

  it('does not count as a lock of rows that a subquery finds, which may read an older snapshot', async () => {
    await sequelize.transaction(async (transaction) => {
      await find({ transaction })
      // SQLite lets no session write beside a reader.
      if (database.name !== 'sqlite') await mergeJsonKey([Runs, id], 'progress', 'other', 1, { transaction: null })
      const where = { title: 'a' }
      const lock = { level: transaction.LOCK.UPDATE, of: Runs }
      const run = (await Runs.findOne({ where, include: 'steps', order: [['id', 'DESC']], lock, transaction }))!
      expect(run.id).to.equal(id)
      const write = run.update({ progress: { ...run.progress, mine: 1 } }, { transaction })
      await rejection(write, WholeColumnWriteError)
      await rejection(Runs.update({ progress: {} }, { where: { id }, transaction }), WholeColumnWriteError)
    })
    if (database.name !== 'sqlite') expect((await find({})).progress).to.deep.equal({ other: 1 })
  })

  it('counts as a lock if a scope, or a hook, sets the option lock', async () => {
    Runs.addScope('locked', { lock: true })
    await sequelize.transaction(async (transaction) => {
      const run = await Runs.scope('locked').findByPk(id, { transaction, rejectOnEmpty: true })
      await run.update({ progress: { scope: 1 } }, { transaction })
    })
    Runs.addHook('beforeFind', 'lock', (options) => void (options.lock = true))
    await sequelize.transaction(async (transaction) => {
      const run = await find({ transaction })
      await run.update({ progress: { hook: 1 } }, { transaction })
    })
    Runs.removeHook('beforeFind', 'lock')
  })

  it('works without a model', async () => {
    const queryInterface = sequelize.getQueryInterface()
    const rows = await queryInterface.select(null, 'workflow_runs', { where: { id } })
    expect(rows).to.have.length(1)
  })
})

class Job extends Model {
  declare id: number
  declare count: number
  declare data: Record<string, unknown>
}

interface Job extends Lossless<Job> {}

// Sequelize's reload() gives the values of the instance that it has found to the row, not a copy.
eachDatabase('reload() of a locked row without times under a guard', (database) => {
  let sequelize: Sequelize

  before(() => {
    ;({ sequelize } = database.connect())
  })

  for (const wholeColumnWrites of ['warn', 'throw', 'patch', undefined] as const) {
    for (const version of [false, true]) {
      const policy = wholeColumnWrites ? `'${wholeColumnWrites}'` : 'no policy beside a guarded model'
      describe(`${policy}, ${version ? 'with' : 'without'} a version`, () => {
        let Jobs: typeof Job

        before(async () => {
          Jobs = class extends Job {}
          Jobs.init(
            { count: { type: DataTypes.INTEGER, defaultValue: 0 }, data: { type: DataTypes.JSON, defaultValue: {} } },
            { sequelize, modelName: 'Job', tableName: 'reloaded_jobs', timestamps: false, version },
          )
          await Jobs.sync({ force: true })
          lossless(Jobs, wholeColumnWrites && { wholeColumnWrites })
          if (!wholeColumnWrites) await guardedRuns(sequelize, { wholeColumnWrites: 'throw' })
        })

        async function stored(id: number): Promise<unknown> {
          const { count, data } = await Jobs.findByPk(id, { rejectOnEmpty: true })
          return { count, data }
        }

        it('is followed by an increment, which counts once', async () => {
          const job = await Jobs.create()
          await job.withLock(async (row) => {
            await row.reload()
            await row.increment('count', { by: 5 })
            row.count += 1
            await row.save()
          })
          expect(await stored(job.id)).to.deep.equal({ count: 6, data: {} })
        })

        it('is followed by a JSON write and a save', async () => {
          const job = await Jobs.create()
          await job.withLock(async (row) => {
            await row.reload()
            await row.mergeJsonKey('data', 'a', 1)
            row.data['b'] = 1
            await row.save()
          })
          expect(await stored(job.id)).to.deep.equal({ count: 0, data: { a: 1, b: 1 } })
        })

        it('is undone with its savepoint', async () => {
          const job = await Jobs.create()
          await job.withLock(async (row, transaction) => {
            const inside = sequelize.transaction({ transaction }, async (savepoint) => {
              await row.reload({ transaction: savepoint })
              row.count += 1
              row.data['ghost'] = 1
              await row.save({ transaction: savepoint })
              throw new RangeError('undo')
            })
            await rejection(inside, RangeError)
            row.count += 1
            await row.save()
          })
          expect(await stored(job.id)).to.deep.equal({ count: 1, data: {} })
        })

        it('is undone with its callback', async () => {
          const job = await Jobs.create()
          const failed = job.withLock(async (row) => {
            await row.reload()
            row.count += 1
            row.data['ghost'] = 1
            await row.save()
            throw new RangeError('undo')
          })
          await rejection(failed, RangeError)
          expect(job).to.deep.include({ count: 0, data: {} })
        })
      })
    }
  }
})

eachDatabase('two instances of a locked row under a guard', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  let id: number

  before(() => {
    ;({ sequelize } = database.connect())
  })

  /** The kinds of write that store `{ n: 0, helper: 1 }` beside the first instance. */
  const writes: Record<string, (same: WorkflowRun, transaction: Transaction) => Promise<unknown>> = {
    'update()': (same, transaction) => same.update({ progress: { ...same.progress, helper: 1 } }, { transaction }),
    'update() with SQL': (same, transaction) => same.update({ progress: literal(stored) }, { transaction }),
    'Model.update()': ({ id }, transaction) => Runs.update({ progress: next }, { where: { id }, transaction }),
    'Model.update() with SQL': ({ title }, transaction) =>
      Runs.update({ progress: literal(stored) }, { where: { title }, transaction }),
    'Model.upsert()': ({ id }, transaction) => Runs.upsert({ id, progress: next }, { transaction }),
    'Model.bulkCreate()': ({ id }, transaction) =>
      Runs.bulkCreate([{ id, progress: next }], {
        updateOnDuplicate: ['progress'],
        wholeColumnWrites: 'allow',
        transaction,
      }),
  }
  const next = { n: 0, helper: 1 }
  const stored = `'${JSON.stringify(next)}'`

  for (const wholeColumnWrites of ['throw', 'patch'] as const) {
    describe(`'${wholeColumnWrites}'`, () => {
      before(async () => {
        Runs = await guardedRuns(sequelize, { wholeColumnWrites }, { timestamps: false })
      })

      beforeEach(async () => {
        ;({ id } = await Runs.create({ title: 'a', progress: { n: 0 } }))
        await Runs.update({ title: `row ${id}` }, { where: { id } })
      })

      const isolation = { isolationLevel: Transaction.ISOLATION_LEVELS.SERIALIZABLE }
      const reads = {
        'a locking finder': [{ lock: true }, {}],
        ...(database.name !== 'sqlite' && { 'a serializable transaction': [{}, isolation] }),
      } as Record<string, readonly [FindOptions, TransactionOptions]>
      for (const [read, [options, ofTransaction]] of Object.entries(reads)) {
        for (const [title, write] of Object.entries(writes)) {
          it(`${read}: the first one does not overwrite ${title}`, async () => {
            await sequelize.transaction(ofTransaction, async (transaction) => {
              const find = { ...options, transaction, rejectOnEmpty: true } as const
              const [run, same] = [await Runs.findByPk(id, find), await Runs.findByPk(id, find)]
              await write(same, transaction)
              const saved = run.update({ progress: { ...run.progress, own: 1 } }, { transaction })
              if (wholeColumnWrites === 'patch') return saved
              await rejection(saved, WholeColumnWriteError)
              await run.reload({ lock: true, transaction })
              return run.update({ progress: { ...run.progress, own: 1 } }, { transaction })
            })
            const { progress } = await Runs.findByPk(id, { rejectOnEmpty: true })
            expect(progress).to.deep.equal({ n: 0, helper: 1, own: 1 })
          })
        }
      }

      it('the first one is saved beside writes of other columns and rows, and of its own', async () => {
        const other = await Runs.create({ title: 'b', progress: {} })
        await sequelize.transaction(async (transaction) => {
          const find = { lock: true, transaction, rejectOnEmpty: true } as const
          const [run, same] = [await Runs.findByPk(id, find), await Runs.findByPk(id, find)]
          await same.update({ title: 'c' }, { transaction })
          const found = await Runs.findByPk(other.id, find)
          await found.update({ progress: next }, { transaction })
          await Runs.update({ progress: { n: 1 } }, { where: { id: other.id }, transaction })
          await Runs.update({ progress: {} }, { where: { id: 0 }, wholeColumnWrites: 'allow', transaction })
          for (const own of [1, 2]) await run.update({ progress: { ...run.progress, own } }, { transaction })
          await same.update({ progress: next }, { wholeColumnWrites: 'allow', transaction })
          await same.update({ progress: { ...same.progress, same: 1 } }, { transaction })
        })
        const { progress } = await Runs.findByPk(id, { rejectOnEmpty: true })
        expect(progress).to.deep.equal({ n: 0, helper: 1, same: 1 })
      })
    })
  }
})
