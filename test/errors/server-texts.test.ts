import { expect } from 'chai'
import * as sinon from 'sinon'
import type { Sequelize, Transaction } from 'sequelize'
import { atomicUpsert, isLosslessError, mergeJsonKey, retryTransaction, withLock } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { Collision } from '../escapes/collision.js'
import { createJobs, defineJobs } from '../escapes/jobs.js'
import type { Job } from '../escapes/jobs.js'
import { Proxy } from '../proxy.js'
import { outcomeOf } from '../rejection.js'

/** How to find the session that holds a lock. */
const holders = {
  mysql: `SELECT * FROM performance_schema.data_locks WHERE LOCK_TYPE = 'RECORD'`,
  mariadb: 'SELECT * FROM information_schema.INNODB_TRX ORDER BY trx_started',
  postgres: 'SELECT * FROM pg_stat_activity WHERE xact_start IS NOT NULL ORDER BY xact_start',
  sqlite: 'another connection or process that has the file open',
} as const

/** SQL that changes a session, and the text of the refusal. */
const refusedSessions = {
  mysql: [
    'SET autocommit = 0',
    'sequelize-lossless: the session has autocommit = 0, so a write outside a transaction would report success and be rolled back when the connection closes. Remove SET autocommit = 0 from hooks such as afterConnect, from init_connect and from the configuration of the server.',
  ],
  postgres: [
    'SET extra_float_digits = 0',
    'sequelize-lossless: the session has extra_float_digits = 0, with which increment() would round sums. Remove extra_float_digits from dialectOptions, from hooks such as afterConnect and from the configuration of the server.',
  ],
} as const

/** What to do after an error in a transaction on PostgreSQL. */
const savepoint =
  'Run the statement that may fail in a savepoint, await it before the next statement, and catch the error of the savepoint: ' +
  'await sequelize.transaction({ transaction }, (savepoint) => Model.create({ … }, { transaction: savepoint })).'
const lostToo =
  'Let the error of that statement leave the callback, where a savepoint does not help: it is lost too. Then run the whole transaction again, from its first read.'

eachDatabase('the text of an error that needs another session', (database) => {
  const { name } = database
  const isServer = name !== 'sqlite'
  let sequelize: Sequelize
  let rival: Sequelize
  let Jobs: typeof Job
  /** Declares a unique key that the table does not have. */
  let Declared: typeof Job

  before(async () => {
    ;({ sequelize } = database.connect())
    ;({ sequelize: rival } = database.connect())
    Jobs = await createJobs(sequelize)
    Declared = defineJobs(sequelize, { indexes: [{ unique: true, fields: ['n'] }] })
  })
  beforeEach(async () => {
    sinon.stub(console, 'warn')
    await Jobs.destroy({ where: {} })
    await Jobs.bulkCreate([{ id: 1 }, { id: 2 }])
  })

  afterEach(() => {
    sinon.restore()
  })

  /** Runs a call in a transaction, of which a deadlock makes the call the victim. */
  const inDeadlock = async (transaction: Transaction, call: () => Promise<unknown>): Promise<void> => {
    await sequelize.query('UPDATE jobs SET n = n WHERE id = 1', { transaction })
    const collision = await Collision.begin(database, rival, Jobs, 1, 2)
    try {
      await collision.arm(transaction)
      await call()
    } finally {
      await collision.end()
    }
  }
  /** Runs a call while another session holds the row 1. */
  const whileLocked = (call: () => Promise<unknown>): Promise<unknown> =>
    rival.transaction(async (transaction) => {
      await rival.query('UPDATE jobs SET n = n WHERE id = 1', { transaction })
      await call()
    })
  /** Runs a call through a connection that is lost after a message with this text. */
  const whileLost = async (text: string, call: (Cut: typeof Job) => Promise<unknown>): Promise<void> => {
    const proxy = await Proxy.before(database.url())
    try {
      const Cut = defineJobs(database.connect({}, proxy.url).sequelize)
      await mergeJsonKey([Cut, 1], 'progress', 'a', 1)
      const cut = proxy.hold(
        (message) => message.text.includes(text),
        (held) => {
          held.cut('reset')
        },
      )
      const outcome = await outcomeOf(call(Cut))
      await cut
      if (outcome instanceof Error) throw outcome
    } finally {
      await proxy.stop()
    }
  }

  type Texts = Readonly<Record<string, readonly (readonly [call: () => Promise<unknown>, text: string])[]>>

  const ofServers: Texts = {
    CONFLICT: [
      [
        () =>
          sequelize.transaction((transaction) =>
            inDeadlock(transaction, () => mergeJsonKey([Jobs, 2], 'progress', 'a', 1, { transaction })),
          ),
        'mergeJsonKey: Job id=2 met a deadlock, so nothing was written. Run the whole transaction again, from its first read.',
      ],
      [
        () =>
          withLock(
            [Jobs, 1],
            (_job, transaction) =>
              inDeadlock(transaction, () => Jobs.increment('n', { where: { id: 2 }, transaction })),
            { retry: { maxAttempts: 1 } },
          ),
        'withLock: Job id=1 met a deadlock in the only attempt, so nothing was written. Call withLock() again later, or with more maxAttempts.',
      ],
      [
        () =>
          retryTransaction(
            sequelize,
            (transaction) => inDeadlock(transaction, () => Jobs.increment('n', { where: { id: 2 }, transaction })),
            { maxAttempts: 1 },
          ),
        'retryTransaction: the transaction met a deadlock in the only attempt, so nothing was written. Call retryTransaction() again later, or with more maxAttempts.',
      ],
    ],
    LOCK_TIMEOUT: [
      [
        () =>
          sequelize.transaction(async (transaction) => {
            await sequelize.query('UPDATE jobs SET n = n WHERE id = 1', { transaction })
            await withLock([Jobs, 1], () => 1, { nowait: true })
          }),
        `withLock: Job id=1 is locked and nowait is set, most likely by the enclosing sequelize.transaction(), which this call did not join, so nothing was written. Pass its transaction as the option { transaction }. Otherwise another session holds the lock: ${holders[name]}.`,
      ],
    ],
    ROW_NOT_FOUND: [
      [
        () => withLock([Jobs, 1], () => mergeJsonKey([Jobs, 9], 'progress', 'a', 1, { transaction: null })),
        "mergeJsonKey: Job id=9 does not exist, so nothing was written. It was deleted or never saved: create it with Job.create({ … }, { transaction: null }), or handle the error code 'ROW_NOT_FOUND' in a catch.",
      ],
    ],
    UNKNOWN_OUTCOME: [
      [
        () => whileLost('probe', (Cut) => mergeJsonKey([Cut, 1], 'progress', 'a', 'probe')),
        'mergeJsonKey: the connection was lost after the write was sent, so its outcome is unknown. Read the row with await withLock([Job, 1], (row) => …), which waits for a COMMIT in progress. Idempotent operations (set, merge, addToSet) are safe to repeat; increment() and append() are not.',
      ],
      [
        () =>
          whileLost('COMMIT', (Cut) =>
            Cut.findByPk(1, { rejectOnEmpty: true }).then((job) => job.withLock((row) => row.update({ n: 1 }))),
          ),
        'withLock: the connection was lost after COMMIT was sent, so its outcome is unknown. Read the row with await withLock(row, (row) => …), which waits for a COMMIT in progress. Idempotent operations (set, merge, addToSet) are safe to repeat; increment() and append() are not.',
      ],
      [
        () =>
          whileLost('COMMIT', (Cut) =>
            retryTransaction(Cut.sequelize!, (transaction) => Cut.increment('n', { where: { id: 1 }, transaction })),
          ),
        'retryTransaction: the connection was lost after COMMIT was sent, so its outcome is unknown. Read each row with await withLock([Model, primaryKey], (row) => …), which waits for a COMMIT in progress. Idempotent operations (set, merge, addToSet) are safe to repeat; increment() and append() are not.',
      ],
    ],
  }

  const ofAll: Texts = {
    LOCK_TIMEOUT: [
      [
        () => whileLocked(() => withLock([Jobs, 1], () => 1, { nowait: true })),
        `withLock: Job id=1 is locked by another session and nowait is set, so nothing was written. Try again later, omit nowait to wait, or find the session that holds the lock: ${holders[name]}.`,
      ],
      [
        () => whileLocked(() => withLock([Jobs, 1], () => 1, { timeoutMs: 20 })),
        `withLock: Job id=1 is locked by another session for more than 20 ms, or the lock timeout of the server, so nothing was written. Try again later, with a longer timeoutMs, or find the session that holds the lock: ${holders[name]}.`,
      ],
    ],
    UNSUPPORTED_DATABASE: [
      [
        () => atomicUpsert([Declared, { where: { n: 5 } }], { title: 'x' }),
        "sequelize-lossless: the table of Job has no unique index of exactly n, so concurrent calls of atomicUpsert() would each insert a row. Migrate: await queryInterface.addIndex('<table>', ['n'], { unique: true }).",
      ],
    ],
  }

  const own = refusedSessions[name as keyof typeof refusedSessions] as readonly [string, string] | undefined
  const ofSession: Texts = own
    ? {
        UNSUPPORTED_DATABASE: [
          [
            async () => {
              // One connection, on which the setting stays.
              const single = database.connect({ pool: { max: 1, min: 1 } }).sequelize
              await single.query(own[0])
              await mergeJsonKey([defineJobs(single), 1], 'progress', 'a', 1)
            },
            own[1],
          ],
        ],
      }
    : {}

  const duplicate = (transaction: Transaction): Promise<unknown> => outcomeOf(Jobs.create({ id: 2 }, { transaction }))
  const endSession = (transaction: Transaction): Promise<unknown> =>
    outcomeOf(sequelize.query('SELECT pg_terminate_backend(pg_backend_pid())', { transaction }))

  const ofPostgres: Texts = {
    ROLLED_BACK: [
      [
        () => {
          // The first call of its Sequelize instance, which detects the server in the transaction.
          const first = database.connect().sequelize
          const Own = defineJobs(first)
          return first.transaction(async (transaction) => {
            await outcomeOf(Own.create({ id: 2 }, { transaction }))
            await withLock([Own, 1], () => 1, { transaction })
          })
        },
        `withLock: an earlier statement of the transaction failed. The database then takes no further statement of the transaction, and refused this one. ${savepoint}`,
      ],
      [
        () => withLock([Jobs, 1], (_job, transaction) => duplicate(transaction)),
        `withLock: a statement of the transaction failed (SequelizeUniqueConstraintError, 23505), and its error did not leave the callback, so the transaction was rolled back and nothing was written. ${savepoint}`,
      ],
      [
        () =>
          sequelize.transaction((transaction) => withLock([Jobs, 1], () => duplicate(transaction), { transaction })),
        `withLock: a statement of the joined transaction failed (SequelizeUniqueConstraintError, 23505), and its error did not leave the callback. The transaction is still open, but the database can only roll it back. ${savepoint}`,
      ],
      [
        () =>
          sequelize.transaction(async (transaction) => {
            await mergeJsonKey([Jobs, 1], 'progress', 'a', 1, { transaction })
            await duplicate(transaction)
          }),
        `sequelize.transaction: a statement of the transaction failed (SequelizeUniqueConstraintError, 23505), and its error did not leave the callback, so the transaction was rolled back and nothing was written. ${savepoint}`,
      ],
      [
        () => withLock([Jobs, 1], (_job, transaction) => endSession(transaction)),
        `withLock: the connection of the transaction was lost when a statement of it failed (SequelizeDatabaseError, 57P01), so the database rolled it back and nothing was written. ${lostToo}`,
      ],
      [
        () =>
          withLock([Jobs, 1], async (job, transaction) => {
            await endSession(transaction)
            await job.update({ n: 1 })
          }),
        `withLock: the connection of the transaction was lost when an earlier statement failed (SequelizeDatabaseError, 57P01), so the database rolled it back, and this statement was not sent. ${lostToo}`,
      ],
      [
        () =>
          withLock([Jobs, 1], async (job, transaction) => {
            const [, second] = await Promise.all([duplicate(transaction), outcomeOf(job.update({ n: 1 }))])
            throw second as Error
          }),
        `withLock: an earlier statement of the transaction failed (SequelizeUniqueConstraintError, 23505). The database then takes no further statement of the transaction, so this one was not sent. ${savepoint}`,
      ],
      [
        () =>
          withLock([Jobs, 1], (_job, transaction) =>
            sequelize.transaction({ transaction }, async (inner) => {
              await duplicate(inner)
              await mergeJsonKey([Jobs, 2], 'progress', 'a', 1, { transaction: inner })
            }),
          ),
        'sequelize.transaction: an earlier statement of the transaction failed (SequelizeUniqueConstraintError, 23505). The database then takes no further statement of the transaction, so this one was not sent. Let the error of that statement leave the callback of its savepoint, and await the savepoint before the next statement: await sequelize.transaction({ transaction }, (savepoint) => Model.create({ … }, { transaction: savepoint })).',
      ],
      [
        () =>
          sequelize.transaction(async (transaction) => {
            await duplicate(transaction)
            await mergeJsonKey([Jobs, 1], 'progress', 'a', 1, { transaction })
          }),
        `sequelize.transaction: an earlier statement of the transaction failed. The database then takes no further statement of the transaction, and refused this one. ${savepoint}`,
      ],
    ],
  }

  const texts = [ofAll, ofSession, ...(isServer ? [ofServers] : []), ...(name === 'postgres' ? [ofPostgres] : [])]
  for (const [code, rows] of texts.flatMap((each) => Object.entries(each))) {
    for (const [call, text] of rows) {
      it(`with the code ${code} says ${text.slice(0, 120)}`, async () => {
        const error = await outcomeOf(call())
        if (!isLosslessError(error)) throw error
        expect(error.code).to.equal(code)
        expect(error.message).to.equal(text)
      })
    }
  }
})
