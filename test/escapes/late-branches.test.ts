import { expect } from 'chai'
import { OptimisticLockError } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import { mergeJsonKey, retryTransaction, withLock, withLocks } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf } from '../rejection.js'
import { createJobs, defineJobs, freshJobs, storedJobs, untouched } from './jobs.js'
import type { Job } from './jobs.js'
import { codeOf, signal } from './outcomes.js'
import type { Signal } from './outcomes.js'

eachDatabase('a branch that outlives its callback', (database) => {
  let sequelize: Sequelize
  let Jobs: typeof Job
  /** The same table, through connections that know nothing of the others. */
  let Others: typeof Job
  let run: Job
  let release: Signal

  before(async () => {
    ;({ sequelize } = database.connect())
    Jobs = await createJobs(sequelize)
    Others = defineJobs(database.connect().sequelize)
  })
  beforeEach(async () => {
    ;[run] = (await freshJobs(Jobs, 1)) as [Job]
    release = signal()
  })

  const refused = ['ROLLED_BACK', 'OUTSIDE_TRANSACTION']
  const quick = { baseDelayMs: 0, maxDelayMs: 0 }

  type Options = { transaction?: Transaction }
  const writes: Readonly<Record<string, (row: Job, options: Options) => Promise<unknown>>> = {
    'row.update()': (row, options) => row.update({ progress: { ...row.progress, late: 1 } }, options),
    'row.save() of a change in place': (row, options) => {
      row.progress['late'] = 1
      return row.save(options)
    },
    'row.increment()': (row, options) => row.increment('n', options),
    'row.destroy()': (row, options) => row.destroy(options),
    'row.mergeJsonKey()': (row, options) => row.mergeJsonKey('progress', 'late', 1, options),
    'mergeJsonKey([Model, id])': (row, options) => mergeJsonKey([Jobs, row.id], 'progress', 'late', 1, options),
    'Model.update()': (row, options) => Jobs.update({ title: 'late' }, { where: { id: row.id }, ...options }),
    'Model.create()': (_row, options) => Jobs.create({ title: 'late' }, options),
    'withLock([Model, id])': (row, options) =>
      withLock([Jobs, row.id], (own) => own.update({ title: 'late' }), options),
  }

  type Callback = (row: Job, transaction: Transaction) => Promise<unknown>
  const ways: Readonly<Record<string, (fn: Callback) => Promise<unknown>>> = {
    'row.withLock()': (fn) => run.withLock(fn),
    'withLock([Model, id])': (fn) => withLock([Jobs, run.id], fn),
    withLocks: (fn) => withLocks([[Jobs, run.id]], ([row], transaction) => fn(row, transaction)),
    retryTransaction: (fn) => retryTransaction(sequelize, (transaction) => fn(run, transaction)),
  }

  for (const [name, write] of Object.entries(writes)) {
    for (const told of [false, true]) {
      it(`is refused after a failure, and writes nothing: ${name} ${told ? 'with the transaction' : 'without a transaction'}`, async () => {
        let late!: Promise<unknown>
        const failing = withLock([Jobs, run.id], (row, transaction) =>
          Promise.all([
            // A duplicate key.
            Jobs.create({ id: row.id }, { transaction }),
            (late = release.given.then(() => write(row, told ? { transaction } : {}))),
          ]),
        )
        expect(await outcomeOf(failing)).to.have.property('name', 'SequelizeUniqueConstraintError')
        await mergeJsonKey([Others, run.id], 'progress', 'theirs', 1)
        release.give()
        expect(await codeOf(late)).to.be.oneOf(refused)
        expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, progress: { theirs: 1 } }])
      })
    }
  }

  for (const [name, call] of Object.entries(ways)) {
    it(`is refused after ${name} failed with the error of the first branch`, async () => {
      const mine = new RangeError('mine')
      let late!: Promise<unknown>
      const failing = call((row) =>
        Promise.all([Promise.reject(mine), (late = release.given.then(() => row.update({ title: 'late' })))]),
      )
      expect(await outcomeOf(failing)).to.equal(mine)
      release.give()
      expect(await codeOf(late)).to.be.oneOf(refused)
      expect(await storedJobs(Jobs)).to.deep.equal([untouched])
    })

    it(`is refused after ${name} succeeded, except with { transaction: null }`, async () => {
      let late!: Promise<string>
      let onPurpose!: Promise<string>
      await call(async (row, transaction) => {
        await row.update({ title: 'in time' }, { transaction })
        late = release.given.then(() => codeOf(row.update({ title: 'late' })))
        onPurpose = late.then(() => codeOf(row.increment('n', { transaction: null })))
      })
      release.give()
      expect(await late).to.be.oneOf(refused)
      expect(await onPurpose).to.equal('written')
      expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 1, title: 'in time' }])
    })
  }

  it('does not block the row for the code after the callback, while the branch still runs', async () => {
    let late!: Promise<unknown>
    const failing = run.withLock((row) =>
      Promise.all([
        Promise.reject(new RangeError('mine')),
        (late = release.given.then(() => row.update({ title: 'late' }))),
      ]),
    )
    expect(await outcomeOf(failing)).to.be.instanceOf(RangeError)
    await run.update({ title: 'after' })
    await run.withLock((row) => row.increment('n'))
    release.give()
    expect(await codeOf(late)).to.be.oneOf(refused)
    expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 1, title: 'after' }])
  })

  describe('of the first attempt', () => {
    /** The first attempt fails and leaves a branch, which goes on while the second one is at work. */
    function attempts(write: (row: Job) => Promise<unknown>): { fn: Callback; late: () => Promise<string> } {
      let count = 0
      let late!: Promise<string>
      const fn: Callback = async (row, transaction) => {
        if (count++ === 0) {
          late = release.given.then(() => codeOf(write(row)))
          throw new OptimisticLockError({ message: 'another was first' })
        }
        release.give()
        await row.increment('n', { transaction })
      }
      return { fn, late: () => late }
    }

    const retrying: Readonly<Record<string, (fn: Callback) => Promise<unknown>>> = {
      'row.withLock()': (fn) => run.withLock(fn, { retry: quick }),
      'withLock([Model, id])': (fn) => withLock([Jobs, run.id], fn, { retry: quick }),
      retryTransaction: (fn) => retryTransaction(sequelize, (transaction) => fn(run, transaction), quick),
    }

    for (const [name, call] of Object.entries(retrying)) {
      it(`writes nothing beside the second attempt: ${name}, row.increment()`, async () => {
        const { fn, late } = attempts((row) => row.increment('n'))
        await call(fn)
        expect(await late()).to.be.oneOf(refused)
        expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 1 }])
      })

      it(`writes nothing beside the second attempt: ${name}, Model.increment()`, async () => {
        const { fn, late } = attempts((row) => Jobs.increment('n', { where: { id: row.id } }))
        await call(fn)
        expect(await late()).to.be.oneOf(refused)
        expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 1 }])
      })
    }
  })

  describe('differs from a hook after COMMIT, which', () => {
    for (const [name, call] of Object.entries(ways)) {
      it(`can write, and lock the same row again: ${name}`, async () => {
        await call(async (row, transaction) => {
          await row.update({ title: 'in time' }, { transaction })
          transaction.afterCommit(async () => {
            await row.update({ title: 'after' })
            await Jobs.increment('n', { where: { id: row.id } })
            await mergeJsonKey([Jobs, row.id], 'progress', 'after', 1)
            await row.withLock(async (locked) => {
              locked.progress['locked'] = 1
              await locked.save()
            })
          })
        })
        expect(await storedJobs(Jobs)).to.deep.equal([{ n: 1, title: 'after', progress: { after: 1, locked: 1 } }])
      })
    }

    it('can open a new transaction', async () => {
      await run.withLock((row, transaction) => {
        transaction.afterCommit(() =>
          retryTransaction(sequelize, async (own) => void (await row.increment('n', { transaction: own }))),
        )
      })
      expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 1 }])
    })
  })

  describe('resembles a callback that commits by itself, which', () => {
    const typed = ['ROLLED_BACK', 'OUTSIDE_TRANSACTION', 'USAGE', 'UNSAVED_CHANGES']

    for (const joined of [true, false]) {
      it(`cannot save a change in place after ${joined ? 'it committed a joined transaction' : 'it committed its own'}`, async () => {
        let code = 'was not called'
        const fn: Callback = async (row, transaction) => {
          await row.update({ title: 'in time' })
          await transaction.commit()
          row.progress['mine'] = 1
          code = await codeOf(() => row.save())
        }
        if (joined) {
          const transaction = await sequelize.transaction()
          await outcomeOf(run.withLock(fn, { transaction }))
        } else await outcomeOf(run.withLock(fn))
        expect(code).to.be.oneOf(typed)
        expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, title: 'in time' }])
      })
    }
  })
})
