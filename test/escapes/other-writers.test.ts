import { AsyncResource } from 'node:async_hooks'
import { expect } from 'chai'
import { DataTypes, literal, Sequelize } from 'sequelize'
import type { Model, ModelStatic, Transaction } from 'sequelize'
import {
  OutsideTransactionError,
  RowNotFoundError,
  StaleRowError,
  transactionNamespace,
  UsageError,
  withLock,
} from 'sequelize-lossless'
import { randomName } from '../databases/lookup.js'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'
import { createJobs, defineJobs, freshJobs, storedJobs, untouched } from './jobs.js'
import type { Job } from './jobs.js'

eachDatabase('a callback whose row other code writes', (database) => {
  let sequelize: Sequelize
  let Jobs: typeof Job
  let Versioned: typeof Job
  const isSqlite = database.name === 'sqlite'

  before(async () => {
    ;({ sequelize } = database.connect())
    Jobs = await createJobs(sequelize)
    Versioned = await createJobs(sequelize, { version: true, modelName: 'Versioned', tableName: 'versioned_jobs' })
  })

  describe('which increments it through another instance', () => {
    const helpers: Readonly<Record<string, (other: Job) => Promise<unknown>>> = {
      'a number': (other) => other.increment('n', { by: 5 }),
      'an array': (other) => other.increment(['n'], { by: 5 }),
      'an object': (other) => other.increment({ n: 5 }),
      'decrement()': (other) => other.decrement('n', { by: -5 }),
    }
    for (const kind of ['plain', 'versioned']) {
      for (const [name, helper] of Object.entries(helpers)) {
        it(`keeps both increments: ${name}, of a ${kind} model`, async () => {
          const Model = kind === 'plain' ? Jobs : Versioned
          const [{ id }] = (await freshJobs(Model, 1)) as [Job]
          let runs = 0
          await withLock([Model, id], async (row, transaction) => {
            runs++
            await withLock([Model, id], helper, { transaction })
            expect(row.n).to.equal(5)
            await row.update({ n: row.n + 1 })
          })
          expect(runs).to.equal(1)
          expect((await storedJobs(Model))[0]).to.deep.equal({ ...untouched, n: 6 })
        })
      }
    }
  })

  it('which sets columns by SQL in a save of another instance: each instance has what is stored', async () => {
    const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
    const document = literal(database.name === 'postgres' ? `'{"sql":1}'::json` : `'{"sql":1}'`)
    await withLock([Jobs, id], async (row, transaction) => {
      await withLock(
        [Jobs, id],
        async (other) => {
          await other.update({ title: literal("'by SQL'"), n: literal('n + 1') })
          await other.update({ progress: document })
          expect([other.title, other.n, other.progress]).to.deep.equal(['by SQL', 1, { sql: 1 }])
          other.progress['theirs'] = 1
          await other.save()
        },
        { transaction },
      )
      expect([row.title, row.n, row.progress]).to.deep.equal(['by SQL', 1, { sql: 1, theirs: 1 }])
      row.progress['mine'] = 1
      row.title = `${row.title!}, and more`
      row.n += 1
      await row.save()
    })
    const progress = { sql: 1, theirs: 1, mine: 1 }
    expect(await storedJobs(Jobs)).to.deep.equal([{ n: 2, title: 'by SQL, and more', progress }])
  })

  it('which finds it with a finder, before or after the row is saved: its older number is refused', async () => {
    for (const options of [{}, { lock: true }]) {
      const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
      await withLock([Jobs, id], async (row, transaction) => {
        const found = await Jobs.findByPk(id, { ...options, transaction, rejectOnEmpty: true })
        await row.update({ n: 5 })
        await rejection(found.update({ n: found.n + 1 }, { transaction }), StaleRowError)
        const later = await Jobs.findByPk(id, { ...options, transaction, rejectOnEmpty: true })
        await later.update({ n: later.n + 1 }, { transaction })
        expect(row.n).to.equal(6)
        await later.update({ title: 'other column' }, { transaction })
      })
      expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 6, title: 'other column' }])
    }
  })

  it('which reads it with a finder after a write: values that are stored in another form are no reason to refuse', async () => {
    const attributes = {
      seen: DataTypes.DATE,
      cents: DataTypes.DECIMAL(10, 2),
      ratio: DataTypes.FLOAT,
      flag: DataTypes.BOOLEAN,
      label: DataTypes.CHAR(5),
    }
    const Forms = sequelize.define('Form', attributes, { tableName: 'forms' })
    await Forms.sync({ force: true })
    const values = (n: number): Record<string, unknown> => ({
      seen: new Date(`2026-01-02T03:04:05.67${n}Z`),
      cents: 10 / (3 + n),
      ratio: 1 / (3 + n),
      flag: n % 2 === 0,
      label: `a${n} `,
    })
    const made = await Forms.create(values(0) as never)
    const id = made.get('id') as number
    await withLock([Forms, id], async (row, transaction) => {
      await row.update(values(1))
      const found = await Forms.findByPk(id, { transaction, rejectOnEmpty: true })
      for (const n of [2, 3]) await found.update(values(n), { transaction })
      await row.update(values(4))
    })
    const stored = (await Forms.findByPk(id))!
    expect([Number(stored.get('cents')), stored.get('flag')]).to.deep.equal([isSqlite ? 10 / 7 : 1.43, true])
    await Forms.drop()
  })

  it('which reads it with a finder, whose hooks change the form of a text: it is saved', async () => {
    const Coded = await createJobs(sequelize, {
      modelName: 'Coded',
      tableName: 'coded_jobs',
      hooks: {
        afterFind: (found) => {
          for (const row of [found].flat() as unknown as Job[]) row.dataValues.title = 'plain'
        },
        beforeSave: (row) => {
          if (row.changed('title')) row.title = 'coded'
        },
      },
    })
    const [{ id }] = (await freshJobs(Coded, 1)) as [Job]
    await withLock([Coded, id], async (_row, transaction) => {
      const found = await Coded.findByPk(id, { transaction, rejectOnEmpty: true })
      await found.update({ title: 'one' }, { transaction })
      await found.reload({ transaction })
      await found.update({ title: 'two' }, { transaction })
    })
    const [row] = await Coded.findAll({ hooks: false } as never)
    expect(row!.title).to.equal('coded')
  })

  it('which reads it with a finder before a statement writes it by its key: the older number is refused', async () => {
    const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
    await withLock([Jobs, id], async (row, transaction) => {
      const found = await Jobs.findByPk(id, { transaction, rejectOnEmpty: true })
      row.n = 100
      await Jobs.increment('n', { by: 10, where: { id }, transaction })
      await rejection(found.update({ n: found.n + 1 }, { transaction }), StaleRowError)
      await found.reload({ transaction })
      await found.update({ n: found.n + 1 }, { transaction })
      await row.reload()
    })
    expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 11 }])
  })

  it('which increments a DECIMAL by less than its scale: the instance has what is stored, and can be saved', async () => {
    const Purse = sequelize.define<Model & { id: number; cents: string | number }>(
      'Purse',
      { cents: { type: DataTypes.DECIMAL(10, 2), defaultValue: '1.10' } },
      { tableName: 'rounded_purses' },
    )
    await Purse.sync({ force: true })
    const { id } = await Purse.create()
    await withLock([Purse, id], async (row, transaction) => {
      await row.increment('cents', { by: 0.005 })
      const stored = await Purse.findByPk(id, { transaction, rejectOnEmpty: true })
      expect(Number(row.cents)).to.equal(Number(stored.cents))
      await row.update({ cents: '5.55' })
    })
    expect(Number((await Purse.findByPk(id))!.cents)).to.equal(5.55)
    await Purse.drop()
  })

  it('which increments a number that it has assigned: the save of that number is refused', async () => {
    for (const Model of [Jobs, Versioned]) {
      const [{ id }] = (await freshJobs(Model, 1)) as [Job]
      await withLock([Model, id], async (row) => {
        row.n = 10
        await row.increment('n', { by: 5 })
        await rejection(row.save(), StaleRowError)
        await row.reload()
        await row.update({ n: row.n + 1, title: 'saved' })
      })
      expect(await storedJobs(Model)).to.deep.equal([{ ...untouched, n: 6, title: 'saved' }])
    }
  })

  it('as other code of the application that shares the instance: its save is refused before any SQL', async () => {
    const [job] = (await freshJobs(Jobs, 1)) as [Job]
    let save!: () => Promise<unknown>
    // In the context of the code that calls it, outside the callback.
    const saved = new Promise<unknown>((resolve) => {
      save = () => outcomeOf(job.update({ title: 'by other code' })).then(resolve)
    })
    const bound = AsyncResource.bind(() => save())
    const locking = job.withLock(async (row) => {
      await row.update({ n: 100 })
      await bound()
      throw new Error('undo')
    })
    expect(await outcomeOf(locking)).to.have.property('message', 'undo')
    expect(await saved)
      .to.be.instanceOf(UsageError)
      .and.have.property('reason', 'lockedElsewhere')
    expect(await storedJobs(Jobs)).to.deep.equal([untouched])
  })

  it('which increments a DECIMAL: each instance has the stored sum', async () => {
    const attributes = { cents: { type: DataTypes.DECIMAL(10, 2), defaultValue: '0.10' } }
    const Purse = sequelize.define<Model & { id: number; cents: string | number }>('Purse', attributes, {
      tableName: 'purses',
    })
    await Purse.sync({ force: true })
    const { id } = await Purse.create()
    await withLock([Purse, id], async (row, transaction) => {
      await withLock(
        [Purse, id],
        async (other) => {
          await other.increment('cents', { by: 0.2 })
          const stored = await Purse.findByPk(id, { transaction, rejectOnEmpty: true })
          expect(Number(other.cents)).to.equal(Number(stored.cents))
        },
        { transaction },
      )
      // SQLite adds binary fractions.
      expect(Number(row.cents)).to.equal(isSqlite ? 0.1 + 0.2 : 0.3)
      await row.update({ cents: (Number(row.cents) + 1).toFixed(2) })
    })
    expect(Number((await Purse.findByPk(id))!.cents)).to.equal(1.3)
    await Purse.drop()
  })

  describe('which deletes it', () => {
    const deletions: Readonly<Record<string, (row: Job, transaction: Transaction) => Promise<unknown>>> = {
      'destroy() of the row': (row) => row.destroy(),
      'destroy() of another instance': (row, transaction) =>
        withLock([Jobs, row.id], (other) => other.destroy(), { transaction }),
      'Model.destroy()': ({ id }, transaction) => Jobs.destroy({ where: { id }, transaction }),
      'raw SQL': ({ id }, transaction) => sequelize.query(`DELETE FROM jobs WHERE id = ${id}`, { transaction }),
    }
    for (const [name, remove] of Object.entries(deletions)) {
      it(`gets an error of save() and increment() that the row no longer exists: ${name}`, async () => {
        const writes: Readonly<Record<string, (row: Job) => Promise<unknown>>> = {
          save: (row) => row.update({ progress: { late: 1 } }),
          increment: (row) => row.increment('n'),
        }
        for (const [method, write] of Object.entries(writes)) {
          const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
          const call = withLock([Jobs, id], async (row, transaction) => {
            await remove(row, transaction)
            await write(row)
          })
          expect(await rejection(call, RowNotFoundError))
            .to.have.property('message')
            .that.includes(`${method}: Job id=${id}`)
          expect(await storedJobs(Jobs)).to.deep.equal([untouched])
        }
      })
    }

    it('can call destroy() again', async () => {
      const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
      await withLock([Jobs, id], async (row) => {
        await row.destroy()
        await row.destroy()
      })
      expect(await storedJobs(Jobs)).to.deep.equal([])
    })

    it('can call save() without a change', async () => {
      const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
      await withLock([Jobs, id], async (row) => {
        row.changed('title', true)
        await row.save({ silent: true })
      })
      expect(await storedJobs(Jobs)).to.deep.equal([untouched])
    })
  })

  it('keeps the numbers in memory if the where of increment() is not met', async () => {
    for (const Model of [Jobs, Versioned]) {
      const [{ id }] = (await freshJobs(Model, 1)) as [Job]
      await withLock([Model, id], async (row) => {
        await row.increment('n', { by: 5, where: { title: 'another' } })
        expect(row.n).to.equal(0)
        await row.decrement('n', { by: 5, where: { title: untouched.title } })
        expect(row.n).to.equal(-5)
        await row.update({ n: row.n - 1 })
      })
      expect(await storedJobs(Model)).to.deep.equal([{ ...untouched, n: -6 }])
    }
  })

  it('cannot destroy a row whose version raw SQL has changed', async () => {
    const [{ id }] = (await freshJobs(Versioned, 1)) as [Job]
    const call = withLock([Versioned, id], async (row, transaction) => {
      await sequelize.query(`UPDATE versioned_jobs SET version = 7 WHERE id = ${id}`, { transaction })
      await row.destroy()
    })
    expect(await outcomeOf(call)).to.include({ code: 'STALE_ROW' })
    expect(await storedJobs(Versioned)).to.deep.equal([untouched])
  })

  it('can save its own document after Model.update() of another row', async () => {
    const [{ id }, other] = (await freshJobs(Jobs, 2)) as [Job, Job]
    await withLock([Jobs, id], async (row, transaction) => {
      await Jobs.update({ progress: { theirs: 1 } }, { where: { id: other.id }, transaction })
      row.progress['mine'] = 1
      await row.save()
    })
    expect((await storedJobs(Jobs)).map(({ progress }) => progress)).to.deep.equal([{ mine: 1 }, { theirs: 1 }])
  })

  it('can save its own document after Model.update() that found no row', async () => {
    const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
    await withLock([Jobs, id], async (row, transaction) => {
      await Jobs.update({ progress: { theirs: 1 } }, { where: { title: 'nowhere' }, transaction })
      row.progress['mine'] = 1
      await row.save()
    })
    expect((await storedJobs(Jobs))[0]!.progress).to.deep.equal({ mine: 1 })
  })

  for (const kind of ['plain', 'versioned']) {
    it(`keeps a key that is merged beside update() and save(), of a ${kind} model`, async () => {
      const Model = kind === 'plain' ? Jobs : Versioned
      const [{ id }] = (await freshJobs(Model, 1)) as [Job]
      await withLock([Model, id], async (row) => {
        await Promise.all([
          row.mergeJsonKey('progress', 'a', 1),
          row.mergeJsonKey('progress', 'b', 1),
          row.update({ title: 'updated' }),
        ])
        const merging = row.mergeJsonKey('progress', 'c', 1)
        row.progress['d'] = 1
        await Promise.all([merging, row.save()])
      })
      const [stored] = await storedJobs(Model)
      expect(stored).to.deep.equal({ n: 0, title: 'updated', progress: { a: 1, b: 1, c: 1, d: 1 } })
    })
  }

  it('cannot save a document that bulkCreate() with updateOnDuplicate has replaced', async () => {
    const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
    const call = withLock([Jobs, id], async (row, transaction) => {
      const rows = [{ id, progress: { bulk: 1 } }]
      await Jobs.bulkCreate(rows, { updateOnDuplicate: ['progress'], transaction })
      row.progress['mine'] = 1
      await row.save()
    })
    expect(await outcomeOf(call)).to.have.property('code', 'STALE_ROW')
    expect(await storedJobs(Jobs)).to.deep.equal([untouched])
  })

  it('cannot send a locking read without its transaction, which would wait for its own lock', async () => {
    const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
    const call = withLock([Jobs, id], () => Jobs.findByPk(id, { lock: true }))
    await rejection(call, OutsideTransactionError)
  })

  it('cannot end the transaction itself', async () => {
    const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
    const call = withLock([Jobs, id], async (row, transaction) => {
      await row.update({ n: 1 })
      await transaction.commit()
    })
    expect(await rejection(call, UsageError)).to.have.property('reason', 'committedByCallback')
    expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 1 }])
  })

  if (database.name === 'postgres') {
    it('commits after findOrCreate() finds that the row exists', async () => {
      const Tags = sequelize.define('Tag', { code: { type: DataTypes.STRING, unique: true } }, { tableName: 'tags' })
      await Tags.sync({ force: true })
      const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
      await withLock([Jobs, id], async (row, transaction) => {
        const find = (): Promise<unknown> => Tags.findOrCreate({ where: { code: 'a' }, transaction })
        await Promise.all([find(), find()])
        await row.update({ n: 1 })
      })
      expect(await Tags.count()).to.equal(1)
      expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 1 }])
      await Tags.drop()
    })
  }

  describe('through another Sequelize instance', () => {
    let other: Sequelize
    let Apart: ModelStatic<Job>
    const apart = randomName()

    before(async () => {
      const url = isSqlite ? `${database.url()}-other` : database.url().replace(/[^/]+$/, apart)
      if (!isSqlite) await sequelize.query(`CREATE DATABASE ${apart}`)
      other = database.connect({}, url).sequelize
      Apart = defineJobs(other, { modelName: 'Apart', tableName: 'apart_jobs' })
      await Apart.sync({ force: true })
    })
    after(async () => {
      if (isSqlite) return
      // PostgreSQL drops no database that has a connection.
      await other.close()
      await sequelize.query(`DROP DATABASE ${apart}`)
    })
    afterEach(async () => {
      delete (Sequelize as unknown as { _cls?: unknown })._cls
      await Apart.destroy({ where: {} })
    })

    it('joins a transaction that is passed on, also if it is the ambient one', async () => {
      const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
      const Beside = defineJobs(database.connect().sequelize, { modelName: 'Beside' })
      Sequelize.useCLS(transactionNamespace)
      const undo = new Error('undo')
      const call = withLock([Jobs, id], async (_row, transaction) => {
        await Beside.create({ title: 'created' }, { transaction })
        await Beside.update({ title: 'updated' }, { where: { id }, transaction })
        throw undo
      })
      expect(await outcomeOf(call)).to.equal(undo)
      expect(await storedJobs(Jobs)).to.deep.equal([untouched])
    })

    const writes: Readonly<Record<string, (job: Job) => Promise<unknown>>> = {
      'increment()': (job) => job.increment('n'),
      'Model.increment()': ({ id }) => Apart.increment('n', { where: { id } }),
      'update()': (job) => job.update({ n: 1 }),
      'sequelize.query()': ({ id }) => other.query('UPDATE apart_jobs SET n = n + 1 WHERE id = $id', { bind: { id } }),
    }
    for (const [name, write] of Object.entries(writes)) {
      it(`sends a statement to its own database, in the ambient transaction of another one: ${name}`, async () => {
        const [mine] = (await freshJobs(Jobs, 1)) as [Job]
        const [theirs] = (await freshJobs(Apart, 1)) as [Job]
        await mine.mergeJsonKey('progress', 'a', 1)
        await theirs.mergeJsonKey('progress', 'a', 1)
        Sequelize.useCLS(transactionNamespace)
        await sequelize.transaction(() => write(theirs))
        const numbers = [...(await storedJobs(Jobs)), ...(await storedJobs(Apart))].map(({ n }) => n)
        expect(numbers).to.deep.equal([0, 1])
      })
    }

    if (isSqlite) {
      it('does not join the ambient transaction of another database in memory', async () => {
        const stores = [{}, { storage: ':memory:' }] as const
        for (const store of stores) {
          const [first, second] = [
            new Sequelize({ dialect: 'sqlite', logging: false, ...store }),
            new Sequelize({ dialect: 'sqlite', logging: false, ...store }),
          ]
          const [One, Two] = [await createJobs(first), await createJobs(second)]
          const [{ id }] = (await freshJobs(One, 1)) as [Job]
          const apart = await Two.create({ title: 'loaded' })
          await apart.mergeJsonKey('progress', 'a', 1)
          Sequelize.useCLS(transactionNamespace)
          const undo = new Error('undo')
          const call = withLock([One, id], async () => {
            await Two.create({ title: 'created' })
            throw undo
          })
          expect(await outcomeOf(call)).to.equal(undo)
          expect(await Two.count()).to.equal(2)
          delete (Sequelize as unknown as { _cls?: unknown })._cls
          await first.close()
          await second.close()
        }
      })
    }

    it('does not join the ambient transaction of another database', async () => {
      const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
      const apart = await Apart.create({ title: 'loaded' })
      Sequelize.useCLS(transactionNamespace)
      const undo = new Error('undo')
      const call = withLock([Jobs, id], async (row) => {
        await row.update({ n: 1 })
        await Apart.create({ title: 'created' })
        await apart.update({ title: 'updated' })
        throw undo
      })
      expect(await outcomeOf(call)).to.equal(undo)
      expect(await storedJobs(Jobs)).to.deep.equal([untouched])
      expect((await Apart.findAll({ order: ['id'] })).map(({ title }) => title)).to.deep.equal(['updated', 'created'])
    })
  })
})
