import { expect } from 'chai'
import type { Sequelize, Transaction } from 'sequelize'
import { mergeJsonKey, RolledBackError, withLock } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { writeTheirs } from '../escapes/collision.js'
import { createJobs, freshJobs, storedJobs, untouched } from '../escapes/jobs.js'
import type { Job } from '../escapes/jobs.js'
import { codeOf } from '../escapes/outcomes.js'
import { outcomeOf, rejection } from '../rejection.js'

eachDatabase('a callback whose transaction was rolled back by a lock timeout', (database) => {
  // It has no lock to wait for inside a transaction that writes.
  if (database.name === 'sqlite') return

  let sequelize: Sequelize
  let rival: Sequelize
  let Jobs: typeof Job
  let first: Job
  let second: Job
  let holder: Transaction

  before(async () => {
    ;({ sequelize } = database.connect())
    ;({ sequelize: rival } = database.connect())
    Jobs = await createJobs(sequelize)
  })
  beforeEach(async () => {
    ;[first, second] = (await freshJobs(Jobs, 2)) as [Job, Job]
    holder = await rival.transaction()
    await rival.query(`UPDATE jobs SET n = n WHERE id = ${second.id}`, { transaction: holder })
  })
  afterEach(() => holder.rollback())

  /** Has `transaction` wait for a lock no longer than the shortest time that the server knows. */
  async function shortenWaits(transaction: Transaction): Promise<void> {
    const wait =
      database.name === 'postgres' ? `SET LOCAL lock_timeout = '1ms'` : 'SET SESSION innodb_lock_wait_timeout = 1'
    await sequelize.query(wait, { transaction })
  }

  /** Waits in vain for the row that another session holds; MySQL and MariaDB, as these servers are set, roll back then. */
  function timeOut(transaction: Transaction): Promise<unknown> {
    return Jobs.increment('n', { where: { id: second.id }, transaction })
  }

  const stored = (): object[] => {
    const theirs = database.name === 'postgres' ? {} : { theirs: 1 }
    return [{ ...untouched, progress: theirs }, untouched]
  }

  for (const told of [false, true]) {
    it(`cannot write ${told ? 'with that transaction' : 'without a transaction'}, and stores nothing`, async () => {
      const codes: string[] = []
      const locking = withLock([Jobs, first.id], async (run, transaction) => {
        await run.update({ title: 'mine' })
        await shortenWaits(transaction)
        await rejection(timeOut(transaction), Error)
        // So the row is free.
        if (database.name !== 'postgres') await writeTheirs(database, rival, first.id)
        const options = told ? { transaction } : {}
        const calls = [
          () => run.increment('n', options),
          () => run.mergeJsonKey('progress', 'mine', 1, options),
          () => mergeJsonKey([Jobs, first.id], 'progress', 'mine', 1, options),
          () => Jobs.update({ title: 'mine' }, { where: { id: first.id }, ...options }),
          () => Jobs.create({ title: 'mine' }, options),
          () => run.update({ progress: { ...run.progress, mine: 1 } }, options),
          () => run.destroy(options),
        ]
        for (const call of calls) codes.push(await codeOf(call))
      })
      expect(await outcomeOf(locking)).to.be.instanceOf(RolledBackError)
      expect(await storedJobs(Jobs)).to.deep.equal(stored())
      if (database.name === 'postgres') expect(codes).to.not.include('written')
      else expect(new Set(codes)).to.deep.equal(new Set(['ROLLED_BACK']))
    })
  }

  it('stores none of its concurrent statements', async () => {
    const statements: Promise<unknown>[] = []
    const locking = withLock([Jobs, first.id], async (run, transaction) => {
      await run.update({ title: 'mine' })
      await shortenWaits(transaction)
      statements.push(
        timeOut(transaction),
        mergeJsonKey([Jobs, first.id], 'progress', 'mine', 1, { transaction }),
        Jobs.create({ title: 'mine' }, { transaction }),
        Jobs.update({ title: 'mine' }, { where: { id: first.id }, transaction }),
      )
      await Promise.all(statements)
    })
    expect(await outcomeOf(locking)).to.be.instanceOf(Error)
    await Promise.allSettled(statements)
    expect(await storedJobs(Jobs)).to.deep.equal([untouched, untouched])
  })
})
