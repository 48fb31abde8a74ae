import { expect } from 'chai'
import { OptimisticLockError } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import { ConflictError, mergeJsonKey, retryTransaction, withLock } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { Collision } from './collision.js'
import { createJobs, freshJobs } from './jobs.js'
import type { Job, JobsOptions } from './jobs.js'

const quick = { baseDelayMs: 0, maxDelayMs: 0 }

/** All that Sequelize knows of a row object. */
function stateOf(row: Job): object {
  return structuredClone({
    dataValues: row.dataValues,
    previous: row.previous(),
    changed: row.changed(),
    isNewRecord: row.isNewRecord,
  })
}

/** A write of a row object that was made or loaded before the transaction. */
interface Work {
  /** What is done to the object before the transaction; default: nothing. */
  readonly change?: (row: Job) => void
  /** Whether the row is not inserted yet. */
  readonly isNew?: true
  /** Whether the row was destroyed before. */
  readonly isDestroyed?: true
  readonly write: (row: Job, transaction: Transaction) => Promise<unknown>
  /** What is stored in the end; `undefined` if the row is gone. */
  readonly stored: object | undefined
  /** By how much the version moves; default: 1. */
  readonly moves?: number
  /** That the model has to be paranoid. */
  readonly paranoid?: true
}

function changeHooked(row: Job): void {
  if (row.title === 'hooked') row.n += 1
}

const save: Work['write'] = (row, transaction) => row.save({ transaction })
const destroy: Work['write'] = (row, transaction) => row.destroy({ transaction })

const works: Readonly<Record<string, Work>> = {
  'save() of a value assigned before': {
    change: (row) => void (row.title = 'changed'),
    write: save,
    stored: { title: 'changed' },
  },
  'save() of a document assigned before': {
    change: (row) => void (row.progress = { mine: 1 }),
    write: save,
    stored: { progress: { mine: 1 } },
  },
  'save() of a document changed in place before, and marked so': {
    change: (row) => {
      row.progress['mine'] = 1
      row.changed('progress', true)
    },
    write: save,
    stored: { progress: { mine: 1 } },
  },
  'save() of a key set by its path before': {
    change: (row) => row.set('progress.mine' as never, 1 as never),
    write: save,
    stored: { progress: { mine: 1 } },
  },
  'save() of a value assigned before, and of one assigned inside': {
    change: (row) => void (row.title = 'changed'),
    write: async (row, transaction) => {
      await row.save({ transaction })
      row.n = 1
      await row.save({ transaction })
    },
    stored: { title: 'changed', n: 1 },
    moves: 2,
  },
  'update()': {
    write: (row, transaction) => row.update({ title: 'changed', progress: { mine: 1 } }, { transaction }),
    stored: { title: 'changed', progress: { mine: 1 } },
  },
  'update() with a hook that changes the row too': {
    write: (row, transaction) => row.update({ title: 'hooked' }, { transaction }),
    stored: { title: 'hooked', n: 1 },
  },
  'increment()': { write: (row, transaction) => row.increment('n', { transaction }), stored: { n: 1 } },
  'increment(), then save() of what was read back': {
    write: async (row, transaction) => {
      await row.increment('n', { transaction })
      await row.reload({ transaction })
      await row.update({ title: `n is ${row.n}` }, { transaction })
    },
    stored: { n: 1, title: 'n is 1' },
    moves: 2,
  },
  'save() of a new row': { isNew: true, write: save, stored: { title: 'before' }, moves: 0 },
  'save() of a new row, and update()': {
    isNew: true,
    write: async (row, transaction) => {
      await row.save({ transaction })
      await row.update({ title: 'changed' }, { transaction })
    },
    stored: { title: 'changed' },
  },
  'destroy()': { write: destroy, stored: undefined },
  'destroy() of a paranoid row': { write: destroy, stored: undefined, paranoid: true },
  'restore() of a paranoid row': {
    isDestroyed: true,
    write: (row, transaction) => row.restore({ transaction }),
    stored: { title: 'before' },
    paranoid: true,
  },
}

eachDatabase('a row object whose transaction was rolled back', (database) => {
  let sequelize: Sequelize
  let rival: Sequelize
  let collision: Collision | undefined

  before(() => {
    ;({ sequelize } = database.connect())
    ;({ sequelize: rival } = database.connect())
  })
  beforeEach(() => (collision = undefined))
  afterEach(() => collision?.end())

  const kinds: Readonly<Record<string, JobsOptions>> = {
    'with a version': { version: true },
    'without a version': {},
    'of a model without lossless()': { lossless: false },
  }
  for (const [kind, given] of Object.entries(kinds)) {
    describe(kind, () => {
      const { version = false } = given
      const options = { ...given, hooks: { beforeUpdate: changeHooked } }
      const models: Record<'plain' | 'paranoid', typeof Job> = {} as never

      before(async () => {
        models.plain = await createJobs(sequelize, options)
        models.paranoid = await createJobs(sequelize, { ...options, paranoid: true, tableName: 'paranoid_jobs' })
      })

      let first: Job
      let second: Job

      beforeEach(async () => {
        ;[first, second] = (await freshJobs(models.plain, 2)) as [Job, Job]
      })

      /** Each makes the first attempt fail with what is tried again. */
      const failures: Readonly<Record<string, (transaction: Transaction) => Promise<unknown>>> = {
        'an OptimisticLockError of the callback': () =>
          Promise.reject(new OptimisticLockError({ message: 'another was first' })),
        ...(database.name !== 'sqlite' && {
          'a deadlock': async (transaction) => {
            await collision!.arm(transaction)
            await collision!.strike(transaction)
          },
          'a ConflictError': async (transaction) => {
            await collision!.arm(transaction)
            const struck = mergeJsonKey([models.plain, second.id], 'progress', 'struck', 1, { transaction })
            throw await rejection(struck, ConflictError)
          },
        }),
      }

      async function prepare({ paranoid, isNew, isDestroyed, change }: Work): Promise<Job> {
        const Jobs = models[paranoid ? 'paranoid' : 'plain']
        const built = Jobs.build({ title: 'before' })
        if (isNew) return built
        await built.save()
        if (isDestroyed) await built.destroy()
        const row = await Jobs.findByPk(built.id, { rejectOnEmpty: true, paranoid: false })
        change?.(row)
        return row
      }

      async function expectStored(row: Job, { stored, moves = 1, isDestroyed }: Work): Promise<void> {
        const found = await (row.constructor as typeof Job).findByPk(row.id)
        if (!stored) {
          expect(found).to.equal(null)
          return
        }
        const values = { n: 0, title: 'before', progress: {}, ...stored }
        const versioned = version && { version: moves + (isDestroyed ? 1 : 0) }
        expect(found?.toJSON() ?? 'no row').to.deep.include({ ...values, ...versioned })
        // Sequelize leaves it to the caller to read back what was incremented.
        if (!('n' in stored)) expect(row.toJSON()).to.deep.include(values)
        expect([row.changed(), row.isNewRecord]).to.deep.equal([false, false])
      }

      for (const [turn, [what, work]] of Object.entries(works).entries()) {
        for (const [index, [failure, fail]] of Object.entries(failures).entries()) {
          if (!database.isSampled(index, 2, turn)) continue
          it(`is written again by the second attempt, after ${failure}: ${what}`, async () => {
            if (!failure.includes('OptimisticLockError'))
              collision = await Collision.begin(database, rival, models.plain, first.id, second.id)
            const row = await prepare(work)
            const seen: object[] = []
            await retryTransaction(
              sequelize,
              async (transaction) => {
                seen.push(stateOf(row))
                await models.plain.findByPk(first.id, { transaction, lock: transaction.LOCK.UPDATE })
                await work.write(row, transaction)
                if (seen.length === 1) await fail(transaction)
              },
              quick,
            )
            expect(seen).to.have.length(2)
            expect(seen[1]).to.deep.equal(seen[0])
            await expectStored(row, work)
          })
        }

        it(`is written again by the second attempt, in withLock of another row: ${what}`, async () => {
          const row = await prepare(work)
          let attempts = 0
          await withLock(
            [models.plain, first.id],
            async (_first, transaction) => {
              await work.write(row, transaction)
              if (attempts++ === 0) throw new OptimisticLockError({ message: 'another was first' })
            },
            { retry: quick },
          )
          expect(attempts).to.equal(2)
          await expectStored(row, work)
        })

        it(`is as it was before the call, after the last attempt: ${what}`, async () => {
          const row = await prepare(work)
          const before = stateOf(row)
          let attempts = 0
          const failing = retryTransaction(
            sequelize,
            async (transaction) => {
              attempts++
              await work.write(row, transaction)
              throw new OptimisticLockError({ message: 'another was first' })
            },
            { ...quick, maxAttempts: 2 },
          )
          await rejection(failing, OptimisticLockError)
          expect(attempts).to.equal(2)
          expect(stateOf(row)).to.deep.equal(before)
          // So the same can be done once more, by a transaction of its own.
          await sequelize.transaction((transaction) => work.write(row, transaction))
          await expectStored(row, work)
        })

        it(`is restored after an error that is not retried: ${what}`, async () => {
          const row = await prepare(work)
          const before = stateOf(row)
          const mine = new RangeError('mine')
          const failing = withLock([models.plain, first.id], async (_first, transaction) => {
            await work.write(row, transaction)
            throw mine
          })
          expect(await rejection(failing, RangeError)).to.equal(mine)
          expect(stateOf(row)).to.deep.equal(before)
        })
      }

      it('keeps what onRetry assigns to it between the attempts', async () => {
        const row = await prepare(works['save() of a value assigned before']!)
        let attempts = 0
        await retryTransaction(
          sequelize,
          async (transaction) => {
            await row.save({ transaction })
            if (attempts++ === 0) throw new OptimisticLockError({ message: 'another was first' })
          },
          {
            ...quick,
            onRetry: () => {
              row.n = 7
            },
          },
        )
        await expectStored(row, { write: save, stored: { title: 'changed', n: 7 } })
      })
    })
  }
})
