import { expect } from 'chai'
import { DataTypes, literal, OptimisticLockError } from 'sequelize'
import type { Model, ModelStatic, Sequelize, Transaction } from 'sequelize'
import {
  atomicUpdate,
  lossless,
  lock,
  mergeJsonKey,
  plus,
  StaleRowError,
  updateWhere,
  UsageError,
  withLock,
  withLocks,
  withNext,
} from 'sequelize-lossless'
import type { LosslessOptions } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'
import { createJobs, freshJobs } from './jobs.js'
import type { Job } from './jobs.js'

const modes = ['allow', 'throw', 'patch'] as const

eachDatabase('a value that is out of date', (database) => {
  let sequelize: Sequelize
  let Jobs: typeof Job
  let job: Job

  before(() => {
    ;({ sequelize } = database.connect())
  })

  async function start(options: LosslessOptions = {}, version = false): Promise<void> {
    Jobs = await createJobs(sequelize, { lossless: options, ...(version && { version }) })
    ;[job] = (await freshJobs(Jobs, 1)) as [Job]
  }
  const stored = (): Promise<Job> => Jobs.findByPk(job.id, { rejectOnEmpty: true })
  const find = (transaction: Transaction): Promise<Job> => Jobs.findByPk(job.id, { transaction, rejectOnEmpty: true })
  const replaceDocument = (transaction: Transaction, progress: Record<string, unknown>): Promise<unknown> =>
    Jobs.update({ progress }, { where: { id: job.id }, transaction, wholeColumnWrites: 'allow' })
  const undo = new Error('undo')
  const undone = (transaction: Transaction, fn: (savepoint: Transaction) => Promise<unknown>): Promise<unknown> =>
    outcomeOf(
      sequelize.transaction({ transaction }, async (savepoint) => {
        await fn(savepoint)
        throw undo
      }),
    )

  describe('since Model.update() wrote the document', () => {
    beforeEach(() => start())

    it('is not saved by an instance that a finder had read before', async () => {
      await job.withLock(async (_row, transaction) => {
        const found = await find(transaction)
        await replaceDocument(transaction, { a: 1 })
        await rejection(found.update({ progress: { ...found.progress, b: 1 } }, { transaction }), StaleRowError)
      })
      expect((await stored()).progress).to.deep.equal({ a: 1 })
    })

    it('is saved by an instance that a finder read after it', async () => {
      await job.withLock(async (_row, transaction) => {
        await replaceDocument(transaction, { a: 1 })
        const found = await find(transaction)
        await found.update({ progress: { ...found.progress, b: 1 } }, { transaction })
      })
      expect((await stored()).progress).to.deep.equal({ a: 1, b: 1 })
    })

    it('is not saved by such an instance with `fields` that did not change', async () => {
      await job.withLock(async (row, transaction) => {
        const found = await find(transaction)
        await replaceDocument(transaction, { a: 1 })
        await rejection(found.set({ n: 5 }).save({ transaction, fields: ['n', 'progress'] }), StaleRowError)
        await row.update({ title: 'new' })
        await rejection(found.save({ transaction, fields: ['n', 'title'] }), StaleRowError)
        await found.save({ transaction, fields: ['n'] })
      })
      const { progress, title, n } = await stored()
      expect({ progress, title, n }).to.deep.equal({ progress: { a: 1 }, title: 'new', n: 5 })
    })

    it('stays refused after a savepoint that is rolled back', async () => {
      await job.withLock(async (row, transaction) => {
        await replaceDocument(transaction, { a: 1, b: 2 })
        await undone(transaction, (savepoint) => row.update({ title: 'undone' }, { transaction: savepoint }))
        row.progress['x'] = 1
        await rejection(row.save(), StaleRowError)
        await row.reload()
      })
      expect((await stored()).progress).to.deep.equal({ a: 1, b: 2 })
    })

    it('stays refused for a number, after a savepoint that is rolled back', async () => {
      await job.withLock(async (row, transaction) => {
        row.n = 1
        await Jobs.increment('n', { by: 10, where: { id: row.id }, transaction })
        await undone(transaction, (savepoint) =>
          row.update({ title: 'undone' }, { transaction: savepoint, fields: ['title'] }),
        )
        await rejection(row.save(), StaleRowError)
        await row.reload()
      })
      expect((await stored()).n).to.equal(10)
    })

    it('stays refused after a reload() of other columns', async () => {
      await job.withLock(async (row, transaction) => {
        await replaceDocument(transaction, { a: 1, b: 2 })
        await row.reload({ attributes: ['title'] })
        row.progress['x'] = 1
        await rejection(row.save(), StaleRowError)
        await row.reload()
      })
      expect((await stored()).progress).to.deep.equal({ a: 1, b: 2 })
    })
  })

  it('is not taken over from a save that its version refused', async () => {
    await start({}, true)
    await job.withLock(async (row, transaction) => {
      const found = await find(transaction)
      await row.increment('n')
      found.progress = { rejected: 1 }
      found.title = 'rejected'
      await outcomeOf(found.save({ transaction }))
      row.progress['x'] = 1
      await row.save()
    })
    const { progress, title, n } = await stored()
    expect({ progress, title, n }).to.deep.equal({ progress: { x: 1 }, title: 'before', n: 1 })
  })

  for (const mode of modes) {
    it(`is known after a save of SQL, so that a change in place is saved, under '${mode}'`, async () => {
      await start({ wholeColumnWrites: mode })
      const computed = database.name === 'postgres' ? `'{"sql":1}'::json` : `'{"sql":1}'`
      await job.withLock(async (row) => {
        await row.update({ progress: literal(computed) })
        row.progress['step'] = 'done'
        await row.save()
      })
      expect((await stored()).progress).to.deep.equal({ sql: 1, step: 'done' })
    })

    it(`is not saved after increment() of an instance that a finder locked, under '${mode}'`, async () => {
      await start({ wholeColumnWrites: mode })
      await job.withLock(async (_row, transaction) => {
        const found = await Jobs.findByPk(job.id, { transaction, lock: true, rejectOnEmpty: true })
        await found.increment('n', { transaction })
        found.n += 1
        await outcomeOf(found.save({ transaction }))
      })
      expect((await stored()).n).to.be.oneOf([1, 2])
      const isSaved = (await stored()).n === 2
      // PostgreSQL returns the sum into the instance.
      expect(isSaved).to.equal(database.name === 'postgres')
    })
  }

  it("reaches the locked instance: ordinary columns of another instance's patched save", async () => {
    await start({ wholeColumnWrites: 'patch' })
    await job.withLock(async (row, transaction) => {
      row.title = 'mine'
      const found = await find(transaction)
      found.set({ title: 'helper', n: 5, progress: { ...found.progress, k: [1] } })
      await found.save({ transaction })
      expect([row.n, row.progress]).to.deep.equal([5, { k: [1] }])
      found.progress = { ...found.progress, k: [1, 2] }
      await found.save({ transaction })
      expect(row.progress).to.deep.equal({ k: [1, 2] })
      await rejection(row.save(), StaleRowError)
      await row.reload()
    })
    const { n, title, progress } = await stored()
    expect({ n, title, progress }).to.deep.equal({ n: 5, title: 'helper', progress: { k: [1, 2] } })
  })

  it('of a savepoint with findOrCreate() that is rolled back does not stay in the locked row', async () => {
    await start()
    await job.withLock(async (row, transaction) => {
      await undone(transaction, async (savepoint) => {
        await Jobs.findOrCreate({ where: { id: row.id }, transaction: savepoint })
        row.n = 99
        row.progress = { bad: 1 }
        await row.save({ transaction: savepoint })
      })
      expect([row.n, row.progress, row.changed()]).to.deep.equal([0, {}, false])
      row.progress['good'] = 1
      await row.save()
    })
    const { n, progress } = await stored()
    expect([n, progress]).to.deep.equal([0, { good: 1 }])
  })

  for (const mode of ['allow', 'throw'] as const) {
    it(`is not silently passed over: a change in place of an instance whose lock was undone, under '${mode}'`, async () => {
      await start({ wholeColumnWrites: mode })
      await job.withLock(async (row, transaction) => {
        const found = await Jobs.findByPk(row.id, { transaction, lock: true, rejectOnEmpty: true })
        await undone(transaction, (savepoint) => lock(found, { transaction: savepoint }))
        found.progress['k'] = 1
        await rejection(found.save({ transaction }), StaleRowError)
      })
    })
  }

  it('is not silently passed over: a change in place of an instance that a finder has locked, under a guard', async () => {
    await start({ wholeColumnWrites: 'throw' })
    await job.withLock(async (row, transaction) => {
      const found = await Jobs.findByPk(row.id, { transaction, lock: true, rejectOnEmpty: true })
      found.progress['k'] = 1
      await rejection(found.save({ transaction }), StaleRowError)
    })
  })

  const counters: Readonly<Record<string, (row: Job, transaction: Transaction) => readonly Promise<unknown>[]>> = {
    'increment() and save() of one instance': (row) => {
      const added = row.increment('n')
      row.n += 1
      return [added, row.save()]
    },
    'Model.increment() and save()': (row, transaction) => [
      Jobs.increment('n', { where: { id: row.id }, transaction }),
      row.update({ n: row.n + 1 }),
    ],
    'Model.update() of SQL and save()': (row, transaction) => [
      Jobs.update({ n: literal('n + 1') }, { where: { id: row.id }, transaction }),
      row.update({ n: row.n + 1 }),
    ],
  }
  for (const version of [false, true]) {
    for (const [name, both] of Object.entries(counters)) {
      it(`is not written by one of two concurrent writes: ${name}${version ? ' of a model with a version' : ''}`, async () => {
        await start({}, version)
        let written = 0
        const call = job.withLock(async (row, transaction) => {
          const outcomes = await Promise.all(both(row, transaction).map(outcomeOf))
          const errors = outcomes.filter((each) => each !== 'written')
          for (const error of errors) expect(error).to.be.instanceOf(OptimisticLockError)
          written = outcomes.length - errors.length
          await row.reload()
        })
        await call
        expect((await stored()).n).to.equal(written)
      })
    }

    it(`is not written by a finder's instance beside Model.update()${version ? ' of a model with a version' : ''}`, async () => {
      await start({}, version)
      let written = 0
      await job.withLock(async (row, transaction) => {
        const found = await find(transaction)
        const outcomes = await Promise.all(
          [
            Jobs.update({ n: literal('n + 1') }, { where: { id: row.id }, transaction }),
            found.update({ n: found.n + 1 }, { transaction }),
          ].map(outcomeOf),
        )
        written = outcomes.filter((each) => each === 'written').length
      })
      expect((await stored()).n).to.equal(written)
    })
  }

  const kinds = {
    ENUM: { type: DataTypes.ENUM('queued', 'paid', 'gone'), values: ['queued', 'paid', 'gone'] },
    CHAR: { type: DataTypes.CHAR(5), values: ['EUR', 'USD', 'GBP'] },
    UUID: {
      type: DataTypes.UUID,
      values: [1, 2, 3].map((digit) => `AAAAAAAA-0000-4000-8000-00000000000${digit}`),
    },
    TEXT: { type: DataTypes.TEXT, values: ['a', 'b', 'c'] },
  } as const
  for (const [name, { type, values }] of Object.entries(kinds)) {
    it(`is not saved by a finder's instance: ${name}; its own value may be saved again`, async () => {
      const Cells = lossless(
        sequelize.define<Model & { id: number; cell: string }>(
          'Cell',
          { cell: { type } },
          { tableName: `cells_${name.toLowerCase()}`, timestamps: false },
        ),
      )
      await Cells.sync({ force: true })
      const [first, second, third] = values as readonly [string, string, string]
      const { id } = await Cells.create({ cell: first })
      await withLock([Cells, id] as never, async (row: Model, transaction) => {
        const found = await Cells.findByPk(id, { transaction, rejectOnEmpty: true })
        await found.update({ cell: second }, { transaction })
        await found.update({ cell: third }, { transaction })
        await row.update({ cell: second })
        await rejection(found.update({ cell: first }, { transaction }), StaleRowError)
      })
      expect((await Cells.findByPk(id))!.cell.trim().toUpperCase()).to.equal(second.toUpperCase())
    })
  }

  it('is not shared by two withNext() of one transaction: each gets a row of its own', async () => {
    await start()
    await Jobs.create({ title: 'before' })
    const take = (transaction: Transaction): Promise<unknown> =>
      withNext(
        Jobs,
        { where: { title: 'before' }, order: ['id'] },
        async (row) => {
          await row.increment('n')
          await row.update({ title: 'taken' })
        },
        { transaction },
      )
    await sequelize.transaction((transaction) => Promise.all([take(transaction), take(transaction), take(transaction)]))
    const rows = await Jobs.findAll({ order: ['id'] })
    expect(rows.map(({ n, title }) => [n, title])).to.deep.equal([
      [1, 'taken'],
      [1, 'taken'],
    ])
  })
})

interface Tenant extends Model {
  tenant: number
  code: string
  progress: Record<string, unknown>
  n: number
}

interface Renamed extends Model {
  zTenant: number
  code: string
  data: Record<string, unknown>
  num: number
}

eachDatabase('two models of one table, which declare its key otherwise,', (database) => {
  let sequelize: Sequelize
  let Tenants: ModelStatic<Tenant>
  let Renameds: ModelStatic<Renamed>
  const key = { tenant: 1, code: 'n' }
  const renamedKey = { zTenant: 1, code: 'n' }

  before(async () => {
    ;({ sequelize } = database.connect())
    const options = { tableName: 'tenant_rows', timestamps: false }
    const number = { type: DataTypes.INTEGER, allowNull: false, defaultValue: 0 }
    const tenant = { type: DataTypes.INTEGER, primaryKey: true }
    const code = { type: DataTypes.STRING(20), primaryKey: true }
    Tenants = lossless(
      sequelize.define<Tenant>('Tenant', { tenant, code, progress: DataTypes.JSON, n: number }, options),
    )
    Renameds = lossless(
      sequelize.define<Renamed>(
        'Renamed',
        {
          code,
          zTenant: { ...tenant, field: 'tenant' },
          data: { type: DataTypes.JSON, field: 'progress' },
          num: { ...number, field: 'n' },
        },
        options,
      ),
    )
    await Tenants.sync({ force: true })
  })
  beforeEach(async () => {
    await Tenants.destroy({ where: {} })
    await Tenants.create({ ...key, progress: {} })
  })
  const stored = async (): Promise<[Record<string, unknown>, number]> => {
    const { progress, n } = await Tenants.findOne({ where: key, rejectOnEmpty: true })
    return [progress, n]
  }

  it('refuse the save of a document that the other one wrote', async () => {
    await withLock([Tenants, key] as never, async (row: Tenant, transaction) => {
      await withLock([Renameds, renamedKey] as never, (other: Renamed) => other.update({ data: { b: 1 } }), {
        transaction,
      })
      row.progress['a'] = 1
      await rejection(row.save(), StaleRowError)
      await row.reload()
      await mergeJsonKey([Renameds, renamedKey] as never, 'data' as never, 'c' as never, 1 as never, { transaction })
      row.progress['a'] = 1
      await rejection(row.save(), StaleRowError)
      await row.reload()
    })
    expect(await stored()).to.deep.equal([{ b: 1, c: 1 }, 0])
  })

  it('are refused as two targets of one row', async () => {
    const targets = [
      [Tenants, key],
      [Renameds, renamedKey],
    ] as const
    await rejection(
      withLocks(targets as never, () => undefined),
      UsageError,
    )
  })

  it('do not overwrite the document with that of a finder of the other one', async () => {
    await withLock([Tenants, key] as never, async (row: Tenant, transaction) => {
      const other = await Renameds.findOne({ where: renamedKey, transaction, rejectOnEmpty: true })
      await row.update({ progress: { x: 1 } })
      await rejection(other.update({ data: { ...other.data, y: 1 } }, { transaction }), StaleRowError)
    })
    expect(await stored()).to.deep.equal([{ x: 1 }, 0])
  })

  const sums: Readonly<Record<string, (transaction: Transaction) => Promise<unknown>>> = {
    updateWhere: (transaction) => updateWhere(Tenants, key as never, { n: plus(1) } as never, { transaction }),
    atomicUpdate: (transaction) => atomicUpdate([Tenants, key] as never, { n: plus(1) } as never, { transaction }),
    'Model.increment()': (transaction) => Tenants.increment('n', { where: key, transaction }),
  }
  for (const [name, add] of Object.entries(sums)) {
    it(`do not add to a number that the other one has written: ${name}`, async () => {
      await withLock([Tenants, key] as never, async (row: Tenant, transaction) => {
        await Renameds.update({ num: 10 }, { where: renamedKey, transaction })
        await add(transaction)
        row.n += 1
        await outcomeOf(row.save())
        await row.reload()
      })
      expect((await stored())[1]).to.be.oneOf([11, 12])
    })
  }
})
