import { expect } from 'chai'
import { literal } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import { atomicUpdate, atomicUpsert, plus, updateWhere, withLock } from 'sequelize-lossless'
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
