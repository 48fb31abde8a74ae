import { expect } from 'chai'
import { DataTypes, literal, Op } from 'sequelize'
import type { Model, Sequelize, Transaction } from 'sequelize'
import { atomicUpdate, atomicUpsert, plus, updateWhere, withLock, withLocks } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { createJobs, freshJobs, storedJobs, untouched } from './jobs.js'
import type { Job } from './jobs.js'
import { codeOf } from './outcomes.js'

type Service = (id: number, transaction: Transaction) => Promise<unknown>

eachDatabase('an ordinary column of a locked row that other code of the transaction writes', (database) => {
  let sequelize: Sequelize
  let Jobs: typeof Job
  let Versioned: typeof Job

  before(async () => {
    ;({ sequelize } = database.connect())
    Jobs = await createJobs(sequelize)
    Versioned = await createJobs(sequelize, { version: true, modelName: 'Versioned', tableName: 'versioned_jobs' })
  })

  /** Each adds 10 to the number, without the instance of the callback. */
  const servicesOf = (Model: typeof Job): Readonly<Record<string, Service>> => ({
    atomicUpdate: (id, transaction) => atomicUpdate([Model, id], { n: plus(10) }, { transaction }),
    updateWhere: (id, transaction) => updateWhere(Model, { id }, { n: plus(10) }, { transaction }),
    atomicUpsert: (id, transaction) => atomicUpsert([Model, id], { n: plus(10) }, { transaction }),
    'withLock, save': (id, transaction) =>
      withLock([Model, id], (other) => other.update({ n: other.n + 10 }), { transaction }),
    'withLock, increment': (id, transaction) =>
      withLock([Model, id], (other) => other.increment('n', { by: 10 }), { transaction }),
    'Model.update()': (id, transaction) => Model.update({ n: literal('n + 10') }, { where: { id }, transaction }),
    'Model.increment()': (id, transaction) => Model.increment('n', { by: 10, where: { id }, transaction }),
  })

  for (const kind of ['plain', 'versioned'] as const) {
    for (const name of Object.keys(servicesOf(undefined as never))) {
      describe(`by ${name}, of a ${kind} model`, () => {
        let Model: typeof Job
        let add: Service
        let id: number

        beforeEach(async () => {
          Model = kind === 'plain' ? Jobs : Versioned
          add = servicesOf(Model)[name]!
          ;[{ id }] = (await freshJobs(Model, 1)) as [Job]
        })
        const numbers = async (): Promise<number[]> => (await storedJobs(Model)).map(({ n }) => n)

        it('after it was assigned: the save is refused', async () => {
          const call = withLock([Model, id], async (row, transaction) => {
            row.n += 1
            await add(id, transaction)
            await row.save()
          })
          expect(await codeOf(call)).to.equal('STALE_ROW')
          expect(await numbers()).to.deep.equal([0])
        })

        it('before it is assigned: the instance has the new number', async () => {
          await withLock([Model, id], async (row, transaction) => {
            await add(id, transaction)
            expect(row.n).to.equal(10)
            row.n += 1
            await row.save()
          })
          expect(await numbers()).to.deep.equal([11])
        })

        it('before increment(): the instance has the sum', async () => {
          await withLock([Model, id], async (row, transaction) => {
            await add(id, transaction)
            await row.increment('n')
            expect(row.n).to.equal(11)
          })
          expect(await numbers()).to.deep.equal([11])
        })

        it('beside a callback in the same transaction: both are kept, or one is refused', async () => {
          const call = sequelize.transaction((transaction) =>
            Promise.all([
              withLock([Model, id], (row) => row.update({ n: row.n + 1 }), { transaction }),
              add(id, transaction),
            ]),
          )
          const code = await codeOf(call)
          expect(['written', 'STALE_ROW']).to.include(code)
          expect(await numbers()).to.deep.equal([code === 'written' ? 11 : 0])
        })

        it('in a hook after the save: the instance has the sum, and the next save keeps it', async () => {
          let runs = 0
          Model.addHook('afterUpdate', 'service', async (row, { transaction }) => {
            if (runs++ === 0) await add((row as unknown as Job).id, transaction!)
          })
          try {
            await withLock([Model, id], async (row) => {
              await row.update({ n: row.n + 1 })
              expect(row.n).to.equal(11)
              await row.update({ n: row.n + 1 })
            })
          } finally {
            Model.removeHook('afterUpdate', 'service')
          }
          expect(await numbers()).to.deep.equal([12])
        })
      })
    }
  }

  describe('through a statement about other rows, or other columns: the save of the locked row', () => {
    const statements: Readonly<Record<string, (id: number, transaction: Transaction) => Promise<unknown>>> = {
      'of every other row': (id, transaction) =>
        Jobs.update({ n: 9, title: 'other', progress: { other: 1 } }, { where: { id: { [Op.ne]: id } }, transaction }),
      'of rows by a condition': (_id, transaction) =>
        Jobs.update({ n: 9, progress: { other: 1 } }, { where: { title: 'other' }, transaction }),
      'of new rows': (id, transaction) =>
        Jobs.bulkCreate([{ id: id + 1000, n: 9, progress: { other: 1 } }], {
          updateOnDuplicate: ['n', 'title', 'progress'],
          transaction,
        }),
      'of a number that is not assigned': (id, transaction) =>
        Jobs.increment('n', { by: 0, where: { id }, transaction }),
    }
    for (const [name, send] of Object.entries(statements)) {
      it(`is sent: ${name}`, async () => {
        const [{ id }] = (await freshJobs(Jobs, 2)) as [Job]
        await withLock([Jobs, id], async (row, transaction) => {
          row.n += 1
          row.title = 'assigned'
          row.progress['mine'] = 1
          await send(id, transaction)
          await row.save()
          await send(id, transaction)
          row.progress['again'] = 1
          await row.save()
        })
        expect((await storedJobs(Jobs))[0]).to.deep.equal({ n: 1, title: 'assigned', progress: { mine: 1, again: 1 } })
      })
    }
  })

  it('by an upsert that finds it by another unique key', async () => {
    const attributes = {
      code: { type: DataTypes.STRING(20), unique: true },
      n: { type: DataTypes.INTEGER, defaultValue: 0 },
    }
    const Counters = sequelize.define<Model & { id: number; n: number }>('Counter', attributes, {
      tableName: 'upserted',
    })
    await Counters.sync({ force: true })
    const { id } = await Counters.create({ code: 'a' })
    await withLock([Counters, id], async (row, transaction) => {
      await Counters.upsert({ code: 'a', n: 10 }, { transaction })
      await row.update({ n: row.n + 1 })
    })
    expect((await Counters.findOne())!.n).to.equal(11)
    await Counters.drop()
  })

  it('while a save of the instance is in flight: the next save has the new value', async () => {
    const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
    await withLock([Jobs, id], async (row, transaction) => {
      let send!: () => void
      const sent = new Promise<void>((resolve) => (send = resolve))
      const logging = (sql: string): void => {
        if (sql.includes('UPDATE')) send()
      }
      const second = sent.then(() => row.update({ n: 2 }, { transaction }))
      await Promise.all([row.update({ n: 1 }, { logging }), second])
      expect([row.n, row.changed()]).to.deep.equal([2, false])
    })
    expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 2 }])
  })

  it('by increment() of both, at once: the instance has the sum', async () => {
    for (const Model of [Jobs, Versioned]) {
      const [{ id }] = (await freshJobs(Model, 1)) as [Job]
      await withLock([Model, id], async (row, transaction) => {
        await Promise.all([
          row.increment('n'),
          Model.increment('n', { by: 10, where: { id }, transaction }),
          row.increment('n'),
        ])
        expect(row.n).to.equal(12)
        await row.update({ n: row.n + 1 })
      })
      expect((await storedJobs(Model))[0]!.n).to.equal(13)
    }
  })

  it('as a document, by Model.update(): an instance that is loaded after it can be saved', async () => {
    const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
    await withLock([Jobs, id], async (_row, transaction) => {
      await Jobs.update({ progress: { theirs: 1 } }, { where: { id }, transaction })
      const loaded = await Jobs.findByPk(id, { transaction, rejectOnEmpty: true })
      loaded.n = 5
      await loaded.save({ transaction })
      await withLock([Jobs, id], (other) => other.update({ progress: { ...other.progress, mine: 1 } }), { transaction })
    })
    expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 5, progress: { theirs: 1, mine: 1 } }])
  })

  it('of several locked rows: one read refreshes all of them, and is logged as the call says', async () => {
    const jobs = await freshJobs(Jobs, 4)
    const log: string[] = []
    const logging = (sql: string): void => void log.push(sql)
    await withLocks(
      jobs.slice(1).map(({ id }) => [Jobs, id] as const),
      async (rows, transaction) => {
        await Jobs.update({ n: literal('id + 10') }, { where: {}, transaction, logging })
        expect(rows.map(({ n }) => n)).to.deep.equal(rows.map(({ id }) => id + 10))
        for (const row of rows) await row.update({ n: row.n + 1 })
      },
    )
    expect(log.map((sql) => /UPDATE|SELECT/.exec(sql)![0])).to.deep.equal(['UPDATE', 'SELECT'])
    expect((await storedJobs(Jobs)).map(({ n }, index) => n - jobs[index]!.id)).to.deep.equal([10, 11, 11, 11])
  })

  it('of a locked row that it deletes: the save of the other locked row is sent', async () => {
    const jobs = await freshJobs(Jobs, 2)
    const targets = jobs.map(({ id }) => [Jobs, id] as const)
    await withLocks(targets, async (rows, transaction) => {
      await Jobs.destroy({ where: { id: rows[0]!.id }, transaction })
      await Jobs.update({ n: 10 }, { where: {}, transaction })
      await rows[1]!.update({ n: rows[1]!.n + 1 })
    })
    expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 11 }])
  })

  it('passes the hooks of a save the options of Sequelize, and no others', async () => {
    const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
    let seen: object | undefined
    Jobs.addHook('beforeUpdate', 'options', (_row, options) => void (seen = options))
    await withLock([Jobs, id], (row) => row.update({ n: 1 }))
    Jobs.removeHook('beforeUpdate', 'options')
    expect(seen).to.include.keys('transaction', 'fields').and.not.have.property('model')
  })

  it('in a hook before the save, where it has a new document: the save is refused', async () => {
    const services: Readonly<Record<string, Service>> = {
      'withLock, save': (id, transaction) =>
        withLock([Jobs, id], (other) => other.update({ progress: { theirs: 1 } }, { hooks: false }), { transaction }),
      'Model.update()': (id, transaction) =>
        Jobs.update({ progress: { theirs: 1 } }, { where: { id }, transaction, hooks: false }),
    }
    for (const [name, write] of Object.entries(services)) {
      const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
      Jobs.addHook('beforeUpdate', 'service', (_row, { transaction }) => write(id, transaction!) as Promise<void>)
      try {
        const call = withLock([Jobs, id], async (row) => {
          row.progress['mine'] = 1
          await row.save()
        })
        expect(await codeOf(call), name).to.equal('STALE_ROW')
      } finally {
        Jobs.removeHook('beforeUpdate', 'service')
      }
      expect(await storedJobs(Jobs)).to.deep.equal([untouched])
    }
  })
})
