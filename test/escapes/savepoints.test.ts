import { expect } from 'chai'
import type { Sequelize, Transaction } from 'sequelize'
import {
  atomicUpdate,
  mergeJsonKey,
  PendingStatementsError,
  plus,
  retryTransaction,
  set,
  StaleRowError,
  updateWhere,
  UsageError,
  withLock,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'
import { createJobs, defineJobs, freshJobs, storedJobs, untouched } from './jobs.js'
import type { Job } from './jobs.js'
import { signal } from './outcomes.js'
import type { Signal } from './outcomes.js'

eachDatabase('a savepoint', (database) => {
  let sequelize: Sequelize
  let log: string[]
  let Jobs: typeof Job
  let a: Job
  let b: Job

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Jobs = await createJobs(sequelize)
  })
  beforeEach(async () => {
    ;[a, b] = (await freshJobs(Jobs, 2)) as [Job, Job]
  })

  const undo = new Error('undo')
  const written = { ...untouched, n: 1, progress: { merged: 1 } }

  const add = async ({ id }: Job, transaction: Transaction): Promise<void> => {
    await Jobs.increment('n', { where: { id }, transaction })
    await mergeJsonKey([Jobs, id], 'progress', 'merged', 1, { transaction })
  }
  const failing = (transaction: Transaction, job: Job): Promise<unknown> =>
    outcomeOf(
      sequelize.transaction({ transaction }, async (savepoint) => {
        await add(job, savepoint)
        await add(job, savepoint)
        throw undo
      }),
    )
  const lasting = (transaction: Transaction, job: Job): Promise<unknown> =>
    sequelize.transaction({ transaction }, (savepoint) => add(job, savepoint))

  const ways: Readonly<Record<string, (fn: (transaction: Transaction) => Promise<unknown>) => Promise<unknown>>> = {
    withLock: (fn) => a.withLock((_job, transaction) => fn(transaction)),
    retryTransaction: (fn) => retryTransaction(sequelize, fn),
  }

  for (const [name, inTransaction] of Object.entries(ways)) {
    describe(`in ${name}`, () => {
      const beside: Readonly<Record<string, (transaction: Transaction) => Promise<unknown>>> = {
        'a savepoint': (transaction) => lasting(transaction, b),
        'a write of the transaction around it': (transaction) => add(b, transaction),
        'a write of an instance': (transaction) => b.update({ n: 1 }, { transaction }),
      }
      for (const [what, write] of Object.entries(beside)) {
        it(`that fails beside ${what} rolls everything back, and reports it`, async () => {
          const call = inTransaction((transaction) => Promise.all([failing(transaction, a), write(transaction)]))
          expect(await rejection(call, UsageError)).to.have.property('reason', 'savepointsMixed')
          expect(await storedJobs(Jobs)).to.deep.equal([untouched, untouched])
          expect([b.n, b.changed()]).to.deep.equal([0, false])
        })

        it(`that succeeds beside ${what} keeps both`, async () => {
          await inTransaction((transaction) => Promise.all([lasting(transaction, a), write(transaction)]))
          expect((await storedJobs(Jobs)).map(({ n }) => n)).to.deep.equal([1, 1])
        })
      }

      it('that fails keeps a value assigned to an instance that it did not write', async () => {
        await inTransaction(async (transaction) => {
          await outcomeOf(
            sequelize.transaction({ transaction }, () => {
              a.title = 'failed'
              b.title = 'failed'
              throw undo
            }),
          )
          await a.save({ transaction })
          await b.save({ transaction })
        })
        expect((await storedJobs(Jobs)).map(({ title }) => title)).to.deep.equal(['failed', 'failed'])
      })

      it('does not wait for a statement that waits for it', async () => {
        await inTransaction(async (transaction) => {
          let read: Promise<unknown> | undefined
          const once = (): Promise<unknown> => (read ??= Jobs.findByPk(a.id, { transaction }))
          const nested = (): Promise<unknown> =>
            sequelize.transaction({ transaction }, async (savepoint) => {
              await once()
              await add(b, savepoint)
            })
          await Promise.all([once(), nested()])
        })
        expect(await storedJobs(Jobs)).to.deep.equal([untouched, written])
      })

      it('can use the enclosing transaction', async () => {
        await inTransaction((transaction) =>
          sequelize.transaction({ transaction }, async () => {
            await add(b, transaction)
          }),
        )
        expect(await storedJobs(Jobs)).to.deep.equal([untouched, written])
      })

      it('that fails rolls back the savepoint inside it', async () => {
        await inTransaction(async (transaction) => {
          const outer = sequelize.transaction({ transaction }, async (savepoint) => {
            await add(a, savepoint)
            await lasting(savepoint, b)
            throw undo
          })
          await rejection(outer, Error)
        })
        expect(await storedJobs(Jobs)).to.deep.equal([untouched, untouched])
      })

      it('that fails inside another savepoint rolls back only itself', async () => {
        await inTransaction((transaction) =>
          sequelize.transaction({ transaction }, async (savepoint) => {
            await add(a, savepoint)
            await failing(savepoint, b)
            await lasting(savepoint, b)
          }),
        )
        expect(await storedJobs(Jobs)).to.deep.equal([written, written])
      })

      it('that outlives a failed callback sends nothing, and the rollback does not wait for it', async () => {
        let open!: () => void
        const gate = new Promise<void>((resolve) => (open = resolve))
        let late!: Promise<unknown>
        const call = inTransaction(async (transaction) => {
          let begun!: () => void
          const hasBegun = new Promise<void>((resolve) => (begun = resolve))
          late = outcomeOf(
            sequelize.transaction({ transaction }, async (savepoint) => {
              await add(b, savepoint)
              begun()
              await gate
              await add(b, savepoint)
            }),
          )
          await hasBegun
          throw undo
        })
        expect(await outcomeOf(call)).to.equal(undo)
        log.length = 0
        open()
        expect(await late).to.have.property('code', 'OUTSIDE_TRANSACTION')
        expect(log).to.deep.equal([])
        expect(await storedJobs(Jobs)).to.deep.equal([untouched, untouched])
      })

      it('that the callback does not await rolls everything back', async () => {
        let open!: () => void
        const gate = new Promise<void>((resolve) => (open = resolve))
        let late!: Promise<unknown>
        const call = inTransaction(async (transaction) => {
          await add(a, transaction)
          let begun!: () => void
          const hasBegun = new Promise<void>((resolve) => (begun = resolve))
          late = outcomeOf(
            sequelize.transaction({ transaction }, async () => {
              begun()
              await gate
            }),
          )
          await hasBegun
        })
        await rejection(call, PendingStatementsError)
        open()
        await late
        expect(await storedJobs(Jobs)).to.deep.equal([untouched, untouched])
      })
    })
  }

  it('that is rolled back restores the other instance of a row that it wrote', async () => {
    await withLock([Jobs, a.id], async (job, transaction) => {
      await outcomeOf(
        sequelize.transaction({ transaction }, async (savepoint) => {
          const write = (other: Job): Promise<unknown> => other.update({ n: 5, progress: { undone: 1 } })
          await withLock([Jobs, a.id], write, { transaction: savepoint })
          throw undo
        }),
      )
      expect([job.n, job.progress, job.changed()]).to.deep.equal([0, {}, false])
      job.progress['merged'] = 1
      job.n++
      await job.save()
    })
    expect(await storedJobs(Jobs)).to.deep.equal([written, untouched])
  })

  it('that fails after a method of this library had one inside it rolls back neither less nor more', async () => {
    const addTo = (n: number, transaction: Transaction): Promise<unknown> =>
      updateWhere(Jobs, { id: a.id }, { n: plus(n) }, { transaction })
    await sequelize.transaction(async (transaction) => {
      await addTo(1, transaction)
      const inner = sequelize.transaction({ transaction }, async (savepoint) => {
        await Jobs.increment('n', { by: 100, where: { id: a.id }, transaction: savepoint })
        await addTo(1000, savepoint)
        throw undo
      })
      await outcomeOf(inner)
      await addTo(10, transaction)
    })
    expect((await storedJobs(Jobs))[0]!.n).to.equal(11)
  })

  it('that was set before a method of this library joined it is rolled back', async () => {
    const fresh = database.connect().sequelize
    const Fresh = defineJobs(fresh, { lossless: false })
    await fresh.transaction(async (transaction) => {
      const nested = fresh.transaction({ transaction }, async (savepoint) => {
        await Fresh.increment('n', { where: { id: a.id }, transaction: savepoint })
        await mergeJsonKey([Fresh, a.id], 'progress', 'merged', 1, { transaction: savepoint })
        throw undo
      })
      expect(await outcomeOf(nested)).to.equal(undo)
      await mergeJsonKey([Fresh, b.id], 'progress', 'merged', 1, { transaction })
    })
    expect(await storedJobs(Jobs)).to.deep.equal([untouched, { ...untouched, progress: { merged: 1 } }])
  })

  it('that fails beside another one in a plain transaction rolls everything back', async () => {
    const call = sequelize.transaction((transaction) => {
      const lockIn = (job: Job, end: () => unknown): Promise<void> =>
        sequelize.transaction({ transaction }, async (savepoint) => {
          await job.withLock((locked) => locked.update({ n: 1 }), { transaction: savepoint })
          await end()
        })
      const { given, give } = signal()
      const failed = lockIn(a, async () => {
        await given
        throw undo
      })
      return Promise.all([outcomeOf(failed), lockIn(b, give)])
    })
    expect(await rejection(call, UsageError)).to.have.property('reason', 'savepointsMixed')
    expect(await storedJobs(Jobs)).to.deep.equal([untouched, untouched])
  })

  it('that fails while the write of another branch is in flight rolls everything back', async () => {
    for (const inTransaction of [
      ...Object.values(ways),
      (fn: (transaction: Transaction) => Promise<unknown>) => sequelize.transaction(fn),
    ]) {
      const call = inTransaction(async (transaction) => {
        const [open, sent] = [signal(), signal()]
        const failed = sequelize.transaction({ transaction }, async () => {
          open.give()
          await sent.given
          throw undo
        })
        const write = async (): Promise<unknown> => {
          await open.given
          const logging = (sql: string): void => {
            if (sql.includes('UPDATE')) sent.give()
          }
          return mergeJsonKey([Jobs, b.id], 'progress', 'merged', 1, { transaction, logging })
        }
        return Promise.all([outcomeOf(failed), write()])
      })
      expect(await rejection(call, UsageError)).to.have.property('reason', 'savepointsMixed')
      expect(await storedJobs(Jobs)).to.deep.equal([untouched, untouched])
    }
  })

  it('that fails beside the first call of this library in its transaction rolls everything back', async () => {
    const call = sequelize.transaction((transaction) => {
      const written = signal()
      const write = withLock([Jobs, b.id], (job) => job.update({ n: 1 }), { transaction }).then(written.give)
      const failed = sequelize.transaction({ transaction }, async () => {
        await written.given
        throw undo
      })
      return Promise.all([write, outcomeOf(failed)])
    })
    expect(await rejection(call, UsageError)).to.have.property('reason', 'savepointsMixed')
    expect(await storedJobs(Jobs)).to.deep.equal([untouched, untouched])
  })

  describe('that is rolled back after it has written a row that another branch', () => {
    interface Signals {
      /** The branch is ready for the savepoint. */
      readonly ready: Signal
      readonly written: Signal
      /** The branch has the row, and its changes. */
      readonly changed: Signal
      readonly undone: Signal
    }
    const branches: Readonly<Record<string, (transaction: Transaction, signals: Signals) => Promise<unknown>>> = {
      'has locked since': async (transaction, { ready, written, changed, undone }) => {
        ready.give()
        await written.given
        const save = async (job: Job): Promise<void> => {
          changed.give()
          await undone.given
          job.n += 1
          job.progress['mine'] = 1
          await job.save()
        }
        await withLock([Jobs, a.id], save, { transaction })
      },
      'holds, and has changed since': (transaction, { ready, written, changed, undone }) => {
        const save = async (job: Job): Promise<void> => {
          ready.give()
          await written.given
          job.progress['mine'] = 1
          changed.give()
          await undone.given
          await job.save()
        }
        return withLock([Jobs, a.id], save, { transaction })
      },
    }
    for (const [name, branch] of Object.entries(branches)) {
      it(`${name}: the save of that branch is refused`, async () => {
        const call = retryTransaction(
          sequelize,
          async (transaction) => {
            const signals = { ready: signal(), written: signal(), changed: signal(), undone: signal() }
            const saved = branch(transaction, signals)
            await signals.ready.given
            const failed = sequelize.transaction({ transaction }, async (savepoint) => {
              await atomicUpdate([Jobs, a.id], { progress: [set('theirs', 1)], n: plus(5) }, { transaction: savepoint })
              signals.written.give()
              await signals.changed.given
              throw undo
            })
            await Promise.all([saved, outcomeOf(failed).then(signals.undone.give)])
          },
          { maxAttempts: 1 },
        )
        await rejection(call, StaleRowError)
        expect(await storedJobs(Jobs)).to.deep.equal([untouched, untouched])
      })
    }
  })

  it('that is rolled back in raw SQL restores the locked row too', async () => {
    await withLock([Jobs, a.id], async (job, transaction) => {
      await job.update({ n: 1 })
      await sequelize.query('SAVEPOINT own', { transaction })
      await job.update({ title: 'undone' })
      await outcomeOf(sequelize.query('SELECT nothing', { transaction }))
      await sequelize.query('ROLLBACK TO SAVEPOINT own', { transaction })
      expect([job.title, job.n, job.changed()]).to.deep.equal(['before', 1, false])
      await job.mergeJsonKey('progress', 'merged', 1)
    })
    expect(await storedJobs(Jobs)).to.deep.equal([written, untouched])
  })
})
