import { expect } from 'chai'
import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes, Sequelize, Transaction } from 'sequelize'
import {
  append,
  increment,
  mergeJsonKey,
  retryTransaction,
  StaleRowError,
  updateJson,
  withLock,
  withLocks,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'
import { Collision } from './collision.js'
import { createJobs, freshJobs, storedJobs, untouched } from './jobs.js'
import type { Job } from './jobs.js'

interface AccountModel extends Model<InferAttributes<AccountModel>, InferCreationAttributes<AccountModel>> {
  id: number
  cents: CreationOptional<number>
  log: { n: number }
}

eachDatabase('concurrent statements of one transaction', (database) => {
  let sequelize: Sequelize
  let rival: Sequelize
  let Jobs: typeof Job

  // PostgreSQL looks for a deadlock once, after a wait of this time, which is 1 s otherwise. The first to wait has looked
  // before the second waits, so that the second is always the victim.
  const quickly = database.name === 'postgres' ? { dialectOptions: { options: '-c deadlock_timeout=1ms' } } : {}

  before(async () => {
    ;({ sequelize } = database.connect(quickly))
    ;({ sequelize: rival } = database.connect())
    Jobs = await createJobs(sequelize)
  })

  it('apply each acknowledged transfer exactly once, for 8 concurrent callers with opposite lock orders', async () => {
    const Accounts = sequelize.define<AccountModel>(
      'Account',
      {
        id: { type: DataTypes.INTEGER, primaryKey: true },
        cents: { type: DataTypes.INTEGER, allowNull: false, defaultValue: 0 },
        log: { type: DataTypes.JSON, allowNull: false },
      },
      { tableName: 'accounts' },
    )
    await Accounts.sync({ force: true })
    await Accounts.bulkCreate([1, 2].map((id) => ({ id, log: { n: 0 } })))

    const transfer = (from: number, to: number) =>
      retryTransaction(
        sequelize,
        (transaction) =>
          Promise.all([
            Accounts.decrement('cents', { by: 1, where: { id: from }, transaction }),
            Accounts.increment('cents', { by: 1, where: { id: to }, transaction }),
            updateJson([Accounts, from], 'log', [increment('n')], { transaction }),
            updateJson([Accounts, to], 'log', [increment('n')], { transaction }),
          ]),
        { maxAttempts: 30 },
      )
    const flow = async (index: number): Promise<void> => {
      // 3 of 5 transfers go from 1 to 2, and flows do not keep step.
      for (let turn = 0; turn < 25; turn++) await ((index + turn) % 5 < 3 ? transfer(1, 2) : transfer(2, 1))
    }
    await Promise.all(Array.from({ length: 8 }, (_, index) => flow(index)))

    const rows = await Accounts.findAll({ order: ['id'] })
    expect(rows.map(({ cents, log }) => [cents, log.n])).to.deep.equal([
      [-40, 200],
      [40, 200],
    ])
    await Accounts.drop()
  })

  describe('one of which ends the transaction', () => {
    let first: Job
    let second: Job
    let third: Job
    let collision: Collision

    beforeEach(async () => {
      ;[first, second, third] = (await freshJobs(Jobs, 3)) as [Job, Job, Job]
      collision = await Collision.begin(database, rival, Jobs, first.id, second.id)
    })
    afterEach(() => collision.end())

    let attempts: number
    let statements: Promise<unknown>[]

    /** Sends several statements at once, the first of which ends the transaction in the first attempt. */
    async function work(transaction: Transaction): Promise<unknown> {
      const isFirst = attempts++ === 0
      await Jobs.increment('n', { where: { id: first.id }, transaction })
      if (isFirst) await collision.arm(transaction)
      const sent = [
        isFirst ? collision.strike(transaction) : Promise.resolve(),
        mergeJsonKey([Jobs, third.id], 'progress', 'merged', 1, { transaction }),
        updateJson([Jobs, third.id], 'progress', [increment('count')], { transaction }),
        Jobs.increment('n', { where: { id: third.id }, transaction }),
        third.increment('n', { transaction }),
        Jobs.update({ title: 'updated' }, { where: { id: third.id }, transaction }),
        Jobs.create({ title: 'created' }, { transaction }),
        sequelize.query(`UPDATE jobs SET n = n + 1 WHERE id = ${third.id}`, { transaction }),
      ]
      statements.push(...sent)
      return Promise.all(sent)
    }

    beforeEach(() => {
      attempts = 0
      statements = []
    })

    const ways: Readonly<Record<string, (maxAttempts: number) => Promise<unknown>>> = {
      withLock: (maxAttempts) =>
        withLock([Jobs, first.id], (_run, transaction) => work(transaction), maxAttempts > 1 ? { retry: {} } : {}),
      withLocks: (maxAttempts) =>
        withLocks([[Jobs, first.id]], (_runs, transaction) => work(transaction), maxAttempts > 1 ? { retry: {} } : {}),
      retryTransaction: (maxAttempts) => retryTransaction(sequelize, work, { maxAttempts }),
    }

    for (const [name, call] of Object.entries(ways)) {
      it(`store nothing: ${name} rejects`, async () => {
        const outcome = await outcomeOf(call(1))
        const settled = await Promise.allSettled(statements)
        await collision.acknowledged
        expect(outcome).to.be.instanceOf(Error)
        expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, progress: { theirs: 1 } }, untouched, untouched])
        expect(settled.map(({ status }) => status)).to.deep.equal(statements.map(() => 'rejected'))
      })

      // No deadlock, so nothing that is tried again.
      if (database.name === 'sqlite') continue
      it(`are applied exactly once, by the second attempt: ${name} with retry`, async () => {
        await call(5)
        await Promise.allSettled(statements)
        expect(attempts).to.equal(2)
        expect(await storedJobs(Jobs)).to.deep.equal([
          { n: 1, title: 'before', progress: { theirs: 1 } },
          untouched,
          { n: 3, title: 'updated', progress: { merged: 1, count: 1 } },
          { n: 0, title: 'created', progress: {} },
        ])
      })
    }

    it('store nothing if the callback catches the error of each', async () => {
      const locking = withLock([Jobs, first.id], async (_run, transaction) => {
        await Promise.allSettled([work(transaction)])
        await Promise.allSettled(statements)
        await collision.acknowledged
      })
      expect(await outcomeOf(locking)).to.have.property('code', 'ROLLED_BACK')
      expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, progress: { theirs: 1 } }, untouched, untouched])
    })

    it('store nothing in a savepoint, either', async () => {
      const locking = withLock([Jobs, first.id], (_run, transaction) =>
        sequelize.transaction({ transaction }, (savepoint) => work(savepoint)),
      )
      const outcome = await outcomeOf(locking)
      await Promise.allSettled(statements)
      await collision.acknowledged
      expect(outcome).to.be.instanceOf(Error)
      expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, progress: { theirs: 1 } }, untouched, untouched])
    })
  })

  it('refuse to save a value that is assigned while increment() is in flight', async () => {
    const [{ id }] = (await freshJobs(Jobs, 1)) as [Job]
    await withLock([Jobs, id], async (row) => {
      const added = row.increment('n', { by: 5 })
      const error = await rejection(row.update({ n: 100 }), StaleRowError)
      expect(error.message).to.include('Await increment() and then assign the value')
      await added
      await row.reload()
      await row.update({ n: row.n + 1 })
    })
    expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 6 }])
  })

  describe('reach the server in the order of calls', () => {
    let row: Job

    beforeEach(async () => {
      ;[row] = (await freshJobs(Jobs, 1)) as [Job]
      await mergeJsonKey([Jobs, row.id], 'progress', 'log', [])
    })

    type Options = { readonly transaction: Transaction; readonly logging: () => void }
    /** Each sends one statement. */
    const kinds: Readonly<Record<string, (mark: number, options: Options) => Promise<unknown>>> = {
      'Model.update()': (mark, options) => Jobs.update({ n: mark }, { where: { id: row.id }, ...options }),
      'Model.increment()': (mark, options) => Jobs.increment('n', { by: mark, where: { id: row.id }, ...options }),
      'Model.create()': (mark, options) => Jobs.create({ n: mark }, options),
      'Model.findAll()': (mark, options) => Jobs.findAll({ where: { n: mark }, ...options }),
      'Model.destroy()': (mark, options) => Jobs.destroy({ where: { n: mark + 1_000 }, ...options }),
      // Each call has its own instance: the first save() of a shared instance would write the values of all calls.
      'row.update()': (mark, options) =>
        Jobs.build({ id: row.id }, { isNewRecord: false }).update({ n: mark }, options),
      'row.increment()': (mark, options) => row.increment('n', { by: mark, ...options }),
      'sequelize.query()': (mark, options) =>
        sequelize.query(`UPDATE jobs SET n = ${mark} WHERE id = ${row.id}`, options),
      updateJson: (mark, options) => updateJson([Jobs, row.id], 'progress', [append('log', mark)], options),
      mergeJsonKey: (mark, options) => mergeJsonKey([Jobs, row.id], 'progress', 'last', mark, options),
    }
    const calls = Object.entries(kinds)

    /** The marks of calls in the order in which their statements were sent. */
    async function sent(
      order: readonly (readonly [name: string, call: (typeof calls)[number][1]])[],
    ): Promise<string[]> {
      const seen: string[] = []
      await withLock([Jobs, row.id], (_run, transaction) =>
        Promise.all(
          order.map(([name, call], index) =>
            call(index + 1, { transaction, logging: () => void seen.push(`${index} ${name}`) }),
          ),
        ),
      )
      // The read of a locked row that a bulk statement has written follows it at once.
      return seen.filter((mark, index) => mark !== seen[index - 1])
    }

    for (const [name, call] of calls) {
      it(`if they are of one kind: ${name}`, async () => {
        const order = Array.from({ length: 8 }, () => [name, call] as const)
        expect(await sent(order)).to.deep.equal(order.map(([title], index) => `${index} ${title}`))
      })
    }

    it('also between statements of other kinds', async () => {
      const seen = await sent([1, 2, 3, 4].flatMap(() => calls))
      for (const [kind, [name]] of calls.entries()) {
        const own = seen.filter((mark) => mark.endsWith(` ${name}`))
        expect(own).to.deep.equal([0, 1, 2, 3].map((round) => `${round * calls.length + kind} ${name}`))
      }
    })

    it('if they are JSON methods of different names', async () => {
      const order = [1, 2, 3, 4].flatMap(() => calls.filter(([name]) => !name.includes('()')))
      expect(await sent(order)).to.deep.equal(order.map(([name], index) => `${index} ${name}`))
    })
  })
})
