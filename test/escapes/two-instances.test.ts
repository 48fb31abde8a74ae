import { expect } from 'chai'
import { Sequelize } from 'sequelize'
import type { Transaction } from 'sequelize'
import { mergeJsonKey, transactionNamespace, withLock } from 'sequelize-lossless'
import type { LosslessOptions } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { writeTheirs } from './collision.js'
import { createJobs, freshJobs, storedJobs } from './jobs.js'
import type { Job } from './jobs.js'
import { codeOf } from './outcomes.js'

/** Errors that say what to do about another write of the row. */
const typed = ['STALE_ROW', 'CONFLICT', 'UNSAVED_CHANGES', 'WHOLE_COLUMN_WRITE', 'OUTSIDE_TRANSACTION', 'USAGE']

const guards: Readonly<Record<string, LosslessOptions>> = {
  "wholeColumnWrites: 'allow'": { wholeColumnWrites: 'allow' },
  "wholeColumnWrites: 'throw'": { wholeColumnWrites: 'throw' },
  "wholeColumnWrites: 'patch'": { wholeColumnWrites: 'patch' },
}

eachDatabase('two instances of one row in one transaction', (database) => {
  let sequelize: Sequelize
  let rival: Sequelize

  before(() => {
    ;({ sequelize } = database.connect())
    ;({ sequelize: rival } = database.connect())
  })

  for (const [guard, options] of Object.entries(guards)) {
    describe(`with ${guard}`, () => {
      let Jobs: typeof Job
      let id: number

      before(async () => {
        Jobs = await createJobs(sequelize, { lossless: options })
      })
      beforeEach(async () => {
        ;[{ id }] = (await freshJobs(Jobs, 1)) as [Job]
      })

      async function document(): Promise<Record<string, unknown>> {
        const [stored] = await storedJobs(Jobs)
        return stored!.progress
      }

      /** All of it is stored, or a typed error says that none of it is. */
      async function expectAllOrNone(call: Promise<unknown>, all: object, none: object = {}): Promise<void> {
        const code = await codeOf(call)
        if (code !== 'written') expect(code).to.be.oneOf(typed)
        expect(await document()).to.deep.equal(code === 'written' ? all : none)
      }

      const both = { helper: 1, mine: 1 }

      /** The row's own write of a key, in place. */
      async function saveMine(run: Job): Promise<void> {
        run.progress['mine'] = 1
        await run.save()
      }

      type Helper = (transaction: Transaction) => Promise<unknown>

      /** Each sets a key of the row without the instance that withLock gave. */
      const exact: Readonly<Record<string, Helper>> = {
        'mergeJsonKey([Model, id])': (transaction) =>
          mergeJsonKey([Jobs, id], 'progress', 'helper', 1, { transaction }),
        'mergeJsonKey() of another instance': async (transaction) => {
          const other = await Jobs.findByPk(id, { transaction, rejectOnEmpty: true })
          await other.mergeJsonKey('progress', 'helper', 1, { transaction })
        },
        'mergeJsonKey() with returning': (transaction) =>
          mergeJsonKey([Jobs, id], 'progress', 'helper', 1, { transaction, returning: true }),
      }

      const others: Readonly<Record<string, Helper>> = {
        'withLock([Model, id]) and save()': (transaction) =>
          withLock(
            [Jobs, id],
            async (row) => {
              row.progress['helper'] = 1
              await row.save()
            },
            { transaction },
          ),
        'withLock() of another instance and update()': async (transaction) => {
          const other = await Jobs.findByPk(id, { transaction, rejectOnEmpty: true })
          const update = (row: Job): Promise<unknown> => row.update({ progress: { ...row.progress, helper: 1 } })
          await other.withLock(update, { transaction })
        },
        'findByPk(), a change in place and save()': async (transaction) => {
          const other = await Jobs.findByPk(id, { transaction, rejectOnEmpty: true })
          other.progress['helper'] = 1
          other.changed('progress', true)
          await other.save({ transaction })
        },
        'findByPk() with a lock and update()': async (transaction) => {
          const other = await Jobs.findByPk(id, { transaction, lock: transaction.LOCK.UPDATE, rejectOnEmpty: true })
          await other.update({ progress: { ...other.progress, helper: 1 } }, { transaction })
        },
        'Model.update()': (transaction) =>
          Jobs.update({ progress: { helper: 1 } }, { where: { id }, transaction, wholeColumnWrites: 'allow' }),
        'Model.upsert()': (transaction) =>
          Jobs.upsert({ id, title: 'before', progress: { helper: 1 } }, { transaction, wholeColumnWrites: 'allow' }),
      }

      for (const [name, helper] of Object.entries(exact)) {
        it(`keeps the keys of both: ${name}, then row.save() of a change in place`, async () => {
          await withLock([Jobs, id], async (run, transaction) => {
            await helper(transaction)
            await saveMine(run)
          })
          expect(await document()).to.deep.equal(both)
        })

        it(`keeps the keys of both: a change in place, ${name}, then row.save()`, async () => {
          const call = withLock([Jobs, id], async (run, transaction) => {
            run.progress['mine'] = 1
            await helper(transaction)
            await run.save()
          })
          await expectAllOrNone(call, both)
        })
      }

      for (const [name, helper] of Object.entries({ ...exact, ...others })) {
        it(`keeps the keys of both, or refuses: ${name}, then row.save() of a change in place`, async () => {
          const call = withLock([Jobs, id], async (run, transaction) => {
            await helper(transaction)
            await saveMine(run)
          })
          await expectAllOrNone(call, both)
        })

        it(`keeps the keys of both, or refuses: ${name}, then row.update() of the document`, async () => {
          const call = withLock([Jobs, id], async (run, transaction) => {
            await helper(transaction)
            await run.update({ progress: { ...run.progress, mine: 1 } })
          })
          await expectAllOrNone(call, both)
        })

        it(`keeps the keys of both: row.save(), then ${name}`, async () => {
          const call = withLock([Jobs, id], async (run, transaction) => {
            await saveMine(run)
            await helper(transaction)
          })
          // A helper that does not read first replaces the document, as it says.
          const isBlind = name === 'Model.update()' || name === 'Model.upsert()'
          await expectAllOrNone(call, isBlind ? { helper: 1 } : both)
        })

        it(`keeps the key of the helper, or refuses: ${name}, then row.save() of another column`, async () => {
          const call = withLock([Jobs, id], async (run, transaction) => {
            await helper(transaction)
            await run.update({ n: 1 })
          })
          await expectAllOrNone(call, { helper: 1 })
        })
      }

      describe('one of which was loaded before the lock', () => {
        for (const told of [true, false]) {
          const how = told ? 'with the transaction' : 'without a transaction'

          it(`never loses its change in place: save() ${how}`, async () => {
            const run = await Jobs.findByPk(id, { rejectOnEmpty: true })
            run.progress['mine'] = 1
            const call = withLock([Jobs, id], (_row, transaction) => run.save(told ? { transaction } : {}))
            await expectAllOrNone(call, { mine: 1 })
          })

          it(`never loses the key of another session: save() of a document that was assigned, ${how}`, async () => {
            const run = await Jobs.findByPk(id, { rejectOnEmpty: true })
            await writeTheirs(database, rival, id)
            const call = withLock([Jobs, id], (_row, transaction) => {
              run.progress = { ...run.progress, mine: 1 }
              return run.save(told ? { transaction } : {})
            })
            await expectAllOrNone(call, { theirs: 1, mine: 1 }, { theirs: 1 })
          })

          it(`never loses the key of another session: update() ${how}`, async () => {
            const run = await Jobs.findByPk(id, { rejectOnEmpty: true })
            await writeTheirs(database, rival, id)
            const call = withLock([Jobs, id], (_row, transaction) =>
              run.update({ progress: { ...run.progress, mine: 1 } }, told ? { transaction } : {}),
            )
            await expectAllOrNone(call, { theirs: 1, mine: 1 }, { theirs: 1 })
          })
        }

        it('may save a column that is not a document', async () => {
          const run = await Jobs.findByPk(id, { rejectOnEmpty: true })
          await writeTheirs(database, rival, id)
          await withLock([Jobs, id], (_row, transaction) => run.update({ title: 'mine' }, { transaction }))
          const [stored] = await storedJobs(Jobs)
          expect(stored).to.deep.equal({ n: 0, title: 'mine', progress: { theirs: 1 } })
        })
      })

      describe('in an ambient transaction', () => {
        before(() => {
          Sequelize.useCLS(transactionNamespace)
        })
        after(() => {
          delete (Sequelize as unknown as { _cls?: unknown })._cls
        })

        const work = (): Promise<void> =>
          withLock([Jobs, id], async (run) => {
            await mergeJsonKey([Jobs, id], 'progress', 'helper', 1)
            await saveMine(run)
          })

        it('keeps the keys of both: mergeJsonKey([Model, id]), then row.save()', async () => {
          await work()
          expect(await document()).to.deep.equal(both)
        })

        it('keeps the keys of both: the same inside sequelize.transaction()', async () => {
          await sequelize.transaction(work)
          expect(await document()).to.deep.equal(both)
        })

        it('keeps the keys of both, or refuses: findByPk() and save() of a helper', async () => {
          const call = withLock([Jobs, id], async (run) => {
            const other = await Jobs.findByPk(id, { rejectOnEmpty: true })
            await other.update({ progress: { ...other.progress, helper: 1 } })
            await saveMine(run)
          })
          await expectAllOrNone(call, both)
        })
      })
    })
  }
})
