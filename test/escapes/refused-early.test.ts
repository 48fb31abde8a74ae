import { expect } from 'chai'
import { ConnectionAcquireTimeoutError } from 'sequelize'
import type { Options, Sequelize, Transaction } from 'sequelize'
import * as library from 'sequelize-lossless'
import {
  ConditionNotMetError,
  equals,
  LockTimeoutError,
  mergeJsonKey,
  OutsideTransactionError,
  retryTransaction,
  RolledBackError,
  RowNotFoundError,
  set,
  UnsavedChangesError,
  updateJson,
  withLock,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { until } from '../patience.js'
import { outcomeOf, rejection } from '../rejection.js'
import { isSampled } from '../sample.js'
import { meetDeadlock } from './deadlock.js'
import { createTables, defineTables } from './tables.js'
import type { Account, Tables } from './tables.js'

eachDatabase('the error of a refused call', (database) => {
  const isSqlite = database.name === 'sqlite'
  /** For another session, which makes the tables. */
  let theirs: Tables
  /** What may go on after the call that began it. */
  let begun: Promise<unknown>[] = []

  before(async () => {
    const dialectOptions = database.name === 'postgres' ? { options: '-c deadlock_timeout=60s' } : undefined
    theirs = await createTables(database.connect({ ...(dialectOptions && { dialectOptions }) }).sequelize)
  })

  afterEach(async () => {
    await Promise.all(begun)
    begun = []
    await theirs.Entries.destroy({ where: {} })
  })

  /** An instance that has called the library before, so that it knows its server. */
  async function open(options: Options): Promise<{ sequelize: Sequelize; tables: Tables }> {
    const { sequelize } = database.connect(options)
    const tables = defineTables(sequelize)
    await mergeJsonKey([tables.Accounts, (await tables.Accounts.create({})).id], 'progress', 'known', 1)
    return { sequelize, tables }
  }

  /** What `work` ends with, if it does so without a connection of the pool; else it fails, and lets `work` have one. */
  async function withoutConnection(sequelize: Sequelize, work: Promise<unknown>): Promise<unknown> {
    let outcome: { readonly value: unknown } | undefined
    const ended = outcomeOf(work).then((value) => (outcome = { value }))
    begun.push(ended)
    const first = await until(
      'it ends, or waits for a connection',
      () => outcome ?? (waiting(sequelize) > 0 ? 'waits' : undefined),
      1,
    )
    if (first === 'waits') throw new Waited('it waits for a connection of the pool, which its own caller holds')
    return (await ended).value
  }

  const openings: Readonly<Record<string, (tables: Tables, other: number, sequelize: Sequelize) => Promise<unknown>>> =
    {
      'sequelize.transaction(fn)': (_tables, _other, sequelize) => sequelize.transaction(() => Promise.resolve()),
      'sequelize.transaction()': (_tables, _other, sequelize) =>
        sequelize.transaction().then((opened) => opened.rollback()),
      'Model.findOrCreate': ({ Entries }) => Entries.findOrCreate({ where: { token: 'apart', program: 0 } }),
      'Model.create': ({ Entries }) => Entries.create({ token: 'apart', program: 0 }),
      'Model.update': ({ Accounts }, id) => Accounts.update({ title: 'apart' }, { where: { id } }),
      'mergeJsonKey of another row': ({ Accounts }, id) => mergeJsonKey([Accounts, id], 'progress', 'apart', 1),
      'mergeJsonKey with returning': ({ Accounts }, id) =>
        mergeJsonKey([Accounts, id], 'progress', 'apart', 1, { returning: true }),
      'withLock of another row': ({ Accounts }, id) => withLock([Accounts, id], () => undefined),
    }

  describe('in a callback, without { transaction }, is thrown without a wait for a connection', () => {
    for (const [name, opening] of Object.entries(openings)) {
      it(`${name}, when the lock has the only connection`, async () => {
        const { sequelize, tables } = await open({ pool: { max: 1, acquire: 60_000 } })
        const [run, other] = [await tables.Accounts.create({}), await tables.Accounts.create({})]
        let outcome: unknown
        await run.withLock(async () => {
          outcome = await withoutConnection(sequelize, opening(tables, other.id, sequelize))
        })
        expect(outcome).to.be.instanceOf(OutsideTransactionError).with.property('code', 'OUTSIDE_TRANSACTION')
        expect(await tables.Entries.count({ where: { token: 'apart' } })).to.equal(0)
        expect((await other.reload()).progress).to.deep.equal({})
      })
    }

    // SQLite has no pool, and one lock at a time.
    if (!isSqlite) {
      for (const name of ['Model.findOrCreate', 'sequelize.transaction(fn)', 'mergeJsonKey of another row']) {
        it(`${name}, when three locks have all three connections`, async () => {
          const { sequelize, tables } = await open({ pool: { max: 3, acquire: 60_000 } })
          const other = await tables.Accounts.create({})
          const rows = await Promise.all([1, 2, 3].map(() => tables.Accounts.create({})))
          let inside = 0
          const outcomes: unknown[] = []
          const lockOne = (row: Account): Promise<void> =>
            row.withLock(async () => {
              inside++
              await until('all three hold their lock', () => inside === 3 || undefined, 1)
              outcomes.push(await withoutConnection(sequelize, openings[name]!(tables, other.id, sequelize)))
              await until('all three have their answer', () => outcomes.length === 3 || undefined, 1)
            })
          const results = await Promise.allSettled(rows.map(lockOne))
          for (const result of results) if (result.status === 'rejected') throw result.reason
          for (const outcome of outcomes) expect(outcome).to.be.instanceOf(OutsideTransactionError)
          expect((await other.reload()).progress).to.deep.equal({})
        })
      }
    }
  })

  // SQLite opens a connection for each transaction.
  if (!isSqlite) {
    for (const [method, call] of Object.entries({
      withLock: (run: Account, fn: () => Promise<unknown>) => run.withLock(fn),
      retryTransaction: (run: Account, fn: () => Promise<unknown>) => retryTransaction(run.sequelize, fn),
    })) {
      it(`in ${method}, a read without { transaction }, names the missing option first if no connection is free`, async () => {
        const { tables } = await open({ pool: { max: 1, acquire: 300 } })
        const run = await tables.Accounts.create({})
        const error = await rejection(
          call(run, () => tables.Accounts.findByPk(run.id)),
          Error,
        )
        const isAcquire = [error, error.cause].some((each) => each instanceof ConnectionAcquireTimeoutError)
        expect(isAcquire || error instanceof OutsideTransactionError).to.equal(true)
        const [first] = error.message.split('. ')
        expect(first)
          .to.match(/\bread\b/)
          .and.match(/(not part of|outside|without) .*transaction/i)
        expect(error.message).to.include('{ transaction }')
      })
    }
  }

  describe('for a JSON write that waits for the enclosing transaction', () => {
    const quick = async (): Promise<{ sequelize: Sequelize; tables: Tables }> => {
      const lockTimeout = { dialectOptions: { options: '-c lock_timeout=300ms' } }
      const { sequelize } = database.connect(database.name === 'postgres' ? lockTimeout : {})
      if (database.name === 'mysql' || database.name === 'mariadb') {
        sequelize.addHook('afterConnect', async (connection: unknown) => {
          const driver = connection as { query(sql: string, done?: () => void): unknown }
          await new Promise<void>((resolve) => {
            const sent = driver.query('SET SESSION innodb_lock_wait_timeout = 1', resolve)
            // The driver of MariaDB answers with a promise.
            if (sent instanceof Promise) void sent.then(() => resolve())
          })
        })
      }
      // Of the connection outside of transactions, which is always the same.
      if (isSqlite) await sequelize.query('PRAGMA busy_timeout = 10')
      return { sequelize, tables: defineTables(sequelize) }
    }

    const writes: Readonly<Record<string, (row: Account, tables: Tables) => Promise<unknown>>> = {
      'of the row': (row) => row.mergeJsonKey('progress', 'k', 1),
      'of [Model, id]': (row, { Accounts }) => updateJson([Accounts, row.id], 'progress', [set('k', 1)]),
      'with returning': (row, { Accounts }) =>
        mergeJsonKey([Accounts, row.id], 'progress', 'k', 1, { returning: true }),
    }
    for (const [index, [name, write]] of Object.entries(writes).entries()) {
      // There each one waits for all attempts of the driver.
      if (isSqlite && !isSampled(index, 3)) continue
      it(`${name}, names that transaction and { transaction } before any other session`, async () => {
        const { sequelize, tables } = await quick()
        const row = await tables.Accounts.create({})
        const call = sequelize.transaction(async (transaction) => {
          await tables.Accounts.update({ title: 'written' }, { where: { id: row.id }, transaction })
          await write(row, tables)
        })
        const error = await rejection(call, Error)
        const isOne = error instanceof LockTimeoutError || error instanceof OutsideTransactionError
        expect(isOne, `${error.name}: ${error.message}`).to.equal(true)
        const [first] = error.message.split('. ')
        expect(first).to.include('transaction').and.not.include('another session')
        expect(error.message).to.include('{ transaction }')
        expect((await row.reload()).progress).to.deep.equal({})
      })
    }
  })

  describe('names the argument of the callback that is the transaction', () => {
    let sequelize: Sequelize
    let tables: Tables

    before(async () => {
      ;({ sequelize, tables } = await open({}))
    })

    for (const [name, opening] of Object.entries(openings)) {
      // SQLite answers that it has one writer.
      if (isSqlite && name.startsWith('sequelize.transaction')) continue
      it(`${name}: the second argument of withLock, the first one of retryTransaction`, async () => {
        const [run, other] = [await tables.Accounts.create({}), await tables.Accounts.create({})]
        const locked = await rejection(
          run.withLock(() => opening(tables, other.id, sequelize)),
          OutsideTransactionError,
        )
        expect(locked.message).to.include('withLock').and.include('second argument')
        // SQLite has one writer: the write would wait for the transaction.
        if (isSqlite) expect(locked.message).to.not.include('transaction: null')
        const retried = await rejection(
          retryTransaction(sequelize, () => opening(tables, other.id, sequelize)),
          OutsideTransactionError,
        )
        expect(retried.message).to.include('retryTransaction').and.not.include('second argument')
        expect(retried.message).to.include('{ transaction')
      })
    }
  })

  describe('has the caller’s line in its stack', () => {
    const { stackTraceLimit } = Error

    // That of Node, which the command of Mocha raises.
    before(() => (Error.stackTraceLimit = 10))
    after(() => (Error.stackTraceLimit = stackTraceLimit))

    let sequelize: Sequelize
    let tables: Tables
    let run: Account

    before(async () => {
      const dialectOptions = database.name === 'postgres' ? { options: '-c deadlock_timeout=20ms' } : undefined
      ;({ sequelize, tables } = await open({ ...(dialectOptions && { dialectOptions }) }))
    })
    beforeEach(async () => {
      run = await tables.Accounts.create({})
    })

    /** The error that is thrown where `call` is awaited, once it is seen to be of `type` and to have this file in its stack. */
    async function thrownHere(
      call: () => Promise<unknown>,
      type: abstract new (...args: never[]) => Error,
    ): Promise<void> {
      let error: unknown
      try {
        await call()
      } catch (thrown) {
        error = thrown
      }
      expect(error).to.be.instanceOf(type)
      const { stack, message } = error as Error
      expect(stack!.replace(message, '')).to.include(__filename)
    }

    /** A statement fails, and its error is caught, so that the database rolls back. */
    async function caughtFailure(transaction: Transaction): Promise<void> {
      if (database.name === 'postgres') {
        await sequelize.query('SELECT nonsense FROM nowhere', { transaction }).catch(() => undefined)
        return
      }
      const { written, failed } = await meetDeadlock({ tables, theirs }, run.id, transaction, 'survivor')
      await outcomeOf(failed)
      await written
    }

    const calls: Readonly<Record<string, readonly (readonly [string, () => Promise<unknown>])[]>> = {
      RowNotFoundError: [
        ['mergeJsonKey', () => mergeJsonKey([tables.Accounts, 0], 'progress', 'k', 1)],
        [
          'mergeJsonKey with returning',
          () => mergeJsonKey([tables.Accounts, 0], 'progress', 'k', 1, { returning: true }),
        ],
        ['withLock', () => withLock([tables.Accounts, 0], () => undefined)],
        [
          'retryTransaction',
          () =>
            retryTransaction(sequelize, (transaction) =>
              withLock([tables.Accounts, 0], () => undefined, { transaction }),
            ),
        ],
      ],
      ConditionNotMetError: [
        [
          'updateJson',
          () => updateJson([tables.Accounts, run.id], 'progress', [set('k', 1)], { if: [equals('phase', 2)] }),
        ],
        [
          'row.updateJson in withLock',
          () => run.withLock((row) => row.updateJson('progress', [set('k', 1)], { if: [equals('phase', 2)] })),
        ],
      ],
      UnsavedChangesError: [['withLock', () => run.withLock((row) => void (row.progress = { k: 1 }))]],
    }
    const types = { RowNotFoundError, ConditionNotMetError, UnsavedChangesError }
    for (const [name, ways] of Object.entries(calls)) {
      for (const [method, call] of ways) {
        it(`${name} of ${method}`, () => thrownHere(call, types[name as keyof typeof types]))
      }
    }

    for (const [method, call] of calls['RowNotFoundError']!) {
      it(`RowNotFoundError of ${method}, of a promise that is not awaited`, async () => {
        const error = await call().catch((thrown: unknown) => thrown as Error)
        expect(error).to.be.instanceOf(RowNotFoundError)
        expect((error as Error).stack).to.include(__filename)
      })
    }

    it('LockTimeoutError of withLock', async () => {
      await theirs.Accounts.sequelize!.transaction(async (transaction) => {
        await theirs.Accounts.update({ title: 'held' }, { where: { id: run.id }, transaction })
        await thrownHere(() => run.withLock(() => undefined, { nowait: true }), LockTimeoutError)
      })
    })

    if (!isSqlite) {
      it('RolledBackError of withLock', () =>
        thrownHere(() => run.withLock((_row, transaction) => caughtFailure(transaction)), RolledBackError))

      it('RolledBackError of retryTransaction', () =>
        thrownHere(() => retryTransaction(sequelize, caughtFailure, { maxAttempts: 1 }), RolledBackError))
    }

    it('PendingStatementsError of withLock and retryTransaction', async () => {
      const type = (library as unknown as Readonly<Record<string, abstract new () => Error>>)['PendingStatementsError']
      expect(type, 'the class').to.be.a('function')
      const forgets = (transaction: Transaction): void => {
        void outcomeOf(tables.Entries.create({ token: 'forgotten', program: 0 }, { transaction }))
      }
      await thrownHere(() => run.withLock((_row, transaction) => forgets(transaction)), type!)
      await thrownHere(() => retryTransaction(sequelize, forgets), type!)
      expect(await tables.Entries.count({ where: { token: 'forgotten' } })).to.equal(0)
    })
  })
})

class Waited extends Error {}

/** How many wait for a connection of the pool; SQLite has none. */
function waiting(sequelize: Sequelize): number {
  const { pool } = sequelize.connectionManager as unknown as {
    pool: { readonly write?: { waiting: number }; waiting?: number }
  }
  return pool.waiting ?? pool.write?.waiting ?? 0
}
