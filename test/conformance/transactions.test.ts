import { AsyncLocalStorage } from 'node:async_hooks'
import { expect } from 'chai'
import {
  DatabaseError,
  DataTypes,
  OptimisticLockError,
  QueryTypes,
  Sequelize,
  Transaction,
  ValidationError,
} from 'sequelize'
import {
  ConflictError,
  increment,
  lock,
  LockTimeoutError,
  lossless,
  mergeJsonKey,
  OutsideTransactionError,
  retryTransaction,
  RowNotFoundError,
  StaleRowError,
  transactionNamespace,
  UnsavedChangesError,
  UnsupportedValueError,
  updateJson,
  UsageError,
  withLock,
  withLocks,
  withOptimisticLock,
} from 'sequelize-lossless'
import type { FailedAttempt } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import type { Database } from '../each-database.js'
import { until } from '../patience.js'
import { rejection } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

const quick = { baseDelayMs: 0, maxDelayMs: 0 }

eachDatabase('transactions', (database) => {
  let sequelize: Sequelize
  let log: string[]
  /** With `version: true`. */
  let Runs: typeof WorkflowRun
  /** The same table, through connections that know nothing of the others. */
  let Others: typeof WorkflowRun
  let run: WorkflowRun

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Runs = await createRuns(sequelize, { version: true })
    Others = defineRuns(database.connect().sequelize, { version: true })
    await (await Runs.create()).withLock(() => undefined)
  })
  beforeEach(async () => {
    run = await Runs.create({ progress: { count: 0 } })
  })

  it('commits the statements that were called before commit()', async () => {
    const transaction = await sequelize.transaction()
    await run.mergeJsonKey('progress', 'a', 1, { transaction })
    const titles = ['one', 'two', 'three']
    const writes = titles.map((title) =>
      sequelize.query('UPDATE workflow_runs SET title = $1 WHERE id = $2', { bind: [title, run.id], transaction }),
    )
    await transaction.commit()
    await Promise.all(writes)
    expect((await Others.findByPk(run.id))!.title).to.equal('three')
  })

  async function stored(id: number): Promise<WorkflowRun> {
    return Runs.findByPk(id, { rejectOnEmpty: true })
  }

  /** Meets Sequelize's own stale version, as a real conflict that every database has. */
  async function conflict(transaction: Transaction): Promise<void> {
    const { id } = await Runs.create({}, { transaction })
    const [one, other] = await Promise.all([1, 2].map(() => Runs.findByPk(id, { rejectOnEmpty: true, transaction })))
    await one!.update({ title: 'one' }, { transaction })
    await other!.update({ title: 'other' }, { transaction })
  }

  describe('retryTransaction', () => {
    it('runs the callback again, in a new transaction, until it commits', async () => {
      const seen: FailedAttempt[] = []
      const transactions = new Set<Transaction>()
      const result = await retryTransaction(
        sequelize,
        async (transaction) => {
          transactions.add(transaction)
          await Runs.increment('version' as never, { where: { id: run.id }, transaction })
          await updateJson([Runs, run.id], 'progress', [increment('count')], { transaction })
          if (transactions.size < 3) await conflict(transaction)
          return 'what fn returned'
        },
        { ...quick, onRetry: (failed) => seen.push(failed) },
      )
      expect(result).to.equal('what fn returned')
      expect((await stored(run.id)).progress).to.deep.equal({ count: 1 })
      expect(seen).to.have.length(2)
      expect(seen[0]).to.deep.include({ attempt: 1, maxAttempts: 5, delayMs: 0 })
      expect(seen[0]!.error).to.be.instanceOf(OptimisticLockError)
    })

    it('gives up after maxAttempts, with the last error', async () => {
      let attempts = 0
      const always = retryTransaction(
        sequelize,
        (transaction) => {
          attempts++
          return conflict(transaction)
        },
        { ...quick, maxAttempts: 3 },
      )
      await rejection(always, OptimisticLockError)
      expect(attempts).to.equal(3)
      expect(await Runs.count({ where: { title: 'one' } })).to.equal(0)
    })

    it('refuses a wrong logging, as every call does', async () => {
      const call = retryTransaction(sequelize, () => Promise.resolve(), { logging: 1 as never })
      expect(await rejection(call, UsageError)).to.have.property('reason', 'logging')
    })

    it('rejects with an error whose causes are a cycle', async () => {
      const error = new Error('app')
      error.cause = new Error('inner', { cause: error })
      const call = retryTransaction(sequelize, () => Promise.reject(error))
      expect(await rejection(call, Error)).to.equal(error)
    })

    it('runs it once if it fails with another error', async () => {
      let attempts = 0
      const failing = retryTransaction(sequelize, async (transaction) => {
        attempts++
        await run.update({ title: 'rolled back' }, { transaction })
        throw new RangeError('mine')
      })
      expect((await rejection(failing, RangeError)).message).to.equal('mine')
      expect(attempts).to.equal(1)
      expect((await stored(run.id)).title).to.equal(null)
    })

    it('stops between attempts when its signal is aborted', async () => {
      const controller = new AbortController()
      let attempts = 0
      const aborted = retryTransaction(
        sequelize,
        (transaction) => {
          attempts++
          return conflict(transaction)
        },
        {
          baseDelayMs: 2 ** 31 - 1,
          maxDelayMs: 2 ** 31 - 1,
          signal: controller.signal,
          onRetry: () => {
            // In the pause, which would take days.
            setImmediate(() => {
              controller.abort(new Error('shutting down'))
            })
          },
        },
      )
      expect((await rejection(aborted, Error)).message).to.equal('shutting down')
      expect(attempts).to.equal(1)
      const late = retryTransaction(sequelize, () => attempts++, { signal: controller.signal })
      expect((await rejection(late, Error)).message).to.equal('shutting down')
      expect(attempts).to.equal(1)
    })

    it('restores rows that were locked in it before each attempt', async () => {
      let attempts = 0
      const seen: unknown[] = []
      await retryTransaction(
        sequelize,
        async (transaction) => {
          await lock(run, { transaction })
          seen.push(structuredClone(run.progress))
          run.progress!['count'] = 10
          await run.save()
          await withLock(run, (row) => row.update({ title: 'twice' }), { transaction })
          if (attempts++ === 0) await conflict(transaction)
        },
        quick,
      )
      expect(seen).to.deep.equal([{ count: 0 }, { count: 0 }])
      expect(run.title).to.equal('twice')
      expect((await stored(run.id)).progress).to.deep.equal({ count: 10 })
    })

    it('restores rows that JSON methods wrote, too', async () => {
      let attempts = 0
      await retryTransaction(
        sequelize,
        async (transaction) => {
          await run.updateJson('progress', [increment('count')], { transaction })
          if (attempts++ < 2) await conflict(transaction)
        },
        quick,
      )
      expect(run.progress).to.deep.equal({ count: 1 })
      expect((await stored(run.id)).progress).to.deep.equal({ count: 1 })
    })

    it('refuses a write without its transaction', async () => {
      const call = retryTransaction(sequelize, () => run.update({ title: 'outside' }))
      expect((await rejection(call, OutsideTransactionError)).message).to.include('retryTransaction()')
    })

    it('refuses to be called inside a transaction, which it cannot retry', async () => {
      const inside = run.withLock(() => retryTransaction(sequelize, () => undefined))
      expect((await rejection(inside, UsageError)).message).to.match(/^retryTransaction: .*already open/)
      const joined = sequelize.transaction((transaction) =>
        run.withLock(() => undefined, { transaction, retry: { maxAttempts: 2 } }),
      )
      expect((await rejection(joined, UsageError)).message).to.match(/^withLock: .*already open/)
      const write = sequelize.transaction((transaction) =>
        run.mergeJsonKey('progress', 'k', 1, { transaction, retry: {} }),
      )
      expect((await rejection(write, UsageError)).message).to.match(/^mergeJsonKey: .*already open/)
    })

    it('refuses wrong options before any SQL', async () => {
      const wrong: readonly (readonly [options: object, message: RegExp])[] = [
        [{ maxAttempts: 0 }, /maxAttempts to be an integer from 1, got 0/],
        [{ maxAttempts: 1.5 }, /maxAttempts/],
        [{ baseDelayMs: -1 }, /baseDelayMs to be a number of milliseconds from 0/],
        [{ maxDelayMs: Infinity }, /maxDelayMs/],
        [{ maxDelayMs: 2 ** 31 }, /maxDelayMs/],
        [{ signal: {} }, /AbortSignal/],
        [{ onRetry: 'x' }, /onRetry to be a function/],
        [{ attempts: 3 }, /no option "attempts"\. Use: maxAttempts, .*logging/],
        [{ isolationLevel: 'CHAOS' }, /isolation level "CHAOS"/],
      ]
      log.length = 0
      for (const [options, message] of wrong) {
        const call = retryTransaction(sequelize, () => undefined, options)
        expect((await rejection(call, UsageError)).message).to.match(message)
      }
      for (const retry of [5, false, null, 0]) {
        const calls = [
          run.withLock(() => undefined, { retry: retry as never }),
          run.mergeJson('progress', {}, { retry: retry as never }),
        ]
        for (const call of calls) expect((await rejection(call, UsageError)).message).to.include('{ maxAttempts: 5 }')
      }
      await rejection(
        retryTransaction({} as never, () => undefined),
        UsageError,
      )
      await rejection(retryTransaction(sequelize, 'x' as never), UsageError)
      expect(log).to.deep.equal([])
    })

    if (database.name !== 'sqlite') {
      it('retries after a deadlock, or a row newer than its snapshot', async () => {
        let attempts = 0
        await retryTransaction(
          sequelize,
          async (transaction) => {
            if (attempts++ === 0) await meetAnother(database, Others, sequelize, transaction)
            await run.update({ title: 'repeated' }, { transaction })
          },
          { ...quick, isolationLevel: Transaction.ISOLATION_LEVELS.REPEATABLE_READ },
        )
        expect(attempts).to.equal(2)
        expect((await stored(run.id)).title).to.equal('repeated')
      })

      it('rejects with a ConflictError if the last attempt fails with a deadlock, too', async () => {
        const isolationLevel = Transaction.ISOLATION_LEVELS.REPEATABLE_READ
        const meet = (transaction: Transaction): Promise<void> => meetAnother(database, Others, sequelize, transaction)
        const retry = { ...quick, maxAttempts: 2 }
        const alone = await rejection(retryTransaction(sequelize, meet, { isolationLevel, ...retry }), ConflictError)
        expect(alone.message).to.match(
          /^retryTransaction: the transaction met a .* in the last of 2 attempts, so nothing was written\. Call retryTransaction\(\) again later, or with more maxAttempts\.$/,
        )
        expect(alone).to.deep.include({ code: 'CONFLICT', primaryKey: undefined }).and.have.nested.property('cause.sql')
        const rows = await Promise.all([Others.create(), Others.create()])
        const meetLocked = (_row: WorkflowRun, transaction: Transaction): Promise<void> =>
          meetAnother(database, Others, sequelize, transaction, rows)
        const locked = await rejection(run.withLock(meetLocked, { isolationLevel, retry }), ConflictError)
        expect(locked.message).to.include(`withLock: ${Runs.name} id=${run.id} met a`)
        expect(locked.primaryKey).to.deep.equal({ id: run.id })
        // A callback that runs once has its own error.
        await rejection(run.withLock(meetLocked, { isolationLevel }), DatabaseError)
      })
    }

    if (database.name === 'postgres') {
      it('retries after a COMMIT that the server refused', async () => {
        const other = await Runs.create({ progress: { count: 0 } })
        const failed: unknown[] = []
        let attempts = 0
        await run.withLock(
          async (_row, transaction) => {
            await Runs.findByPk(other.id, { transaction })
            await Runs.update({ title: 'skew' }, { where: { id: run.id }, transaction })
            if (attempts++ > 0) return
            // Each has read what the other writes, and only one may have been first.
            const isolationLevel = Transaction.ISOLATION_LEVELS.SERIALIZABLE
            await Others.sequelize!.transaction({ isolationLevel }, async (theirs) => {
              await Others.findByPk(run.id, { transaction: theirs })
              await Others.update({ title: 'skew' }, { where: { id: other.id }, transaction: theirs })
            })
          },
          {
            isolationLevel: Transaction.ISOLATION_LEVELS.SERIALIZABLE,
            retry: { ...quick, onRetry: ({ error }) => failed.push(error) },
          },
        )
        expect(attempts).to.equal(2)
        expect(failed[0]).to.be.instanceOf(ConflictError).and.have.nested.property('cause.sql', 'COMMIT;')
      })
    }

    if (database.name === 'mysql' || database.name === 'mariadb') {
      it('retries after a deadlock whose error the callback caught', async () => {
        let attempts = 0
        await retryTransaction(
          sequelize,
          async (transaction) => {
            if (attempts++ === 0) await meetAnother(database, Others, sequelize, transaction).catch(() => undefined)
          },
          quick,
        )
        expect(attempts).to.equal(2)
      })

      it('detects a deadlock that the option retry of Sequelize would hide', async () => {
        const { sequelize: own } = database.connect({ retry: { match: [/Deadlock/i], max: 3 } })
        let attempts = 0
        const failed: unknown[] = []
        await retryTransaction(
          own,
          async (transaction) => {
            if (attempts++ === 0) await meetAnother(database, Others, own, transaction)
          },
          { ...quick, onRetry: ({ error }) => failed.push(error) },
        )
        expect(attempts).to.equal(2)
        expect(failed[0]).to.have.nested.property('parent.errno', 1213)
      })
    }
  })

  describe('withLock with retry', () => {
    it('runs fn again with a fresh row', async () => {
      const seen: unknown[] = []
      await run.withLock(
        async (row, transaction) => {
          seen.push(structuredClone(row.progress))
          row.progress!['count'] = 1
          await row.save()
          if (seen.length === 1) await conflict(transaction)
        },
        { retry: quick },
      )
      expect(seen).to.deep.equal([{ count: 0 }, { count: 0 }])
      expect(run.progress).to.deep.equal({ count: 1 })
      expect((await stored(run.id)).progress).to.deep.equal({ count: 1 })
    })

    it('runs fn once without it', async () => {
      let attempts = 0
      const call = run.withLock((_row, transaction) => {
        attempts++
        return conflict(transaction)
      })
      await rejection(call, OptimisticLockError)
      expect(attempts).to.equal(1)
    })
  })

  describe('a row that another session holds', () => {
    /** Runs `work` while a session that knows nothing of this process holds the row. */
    async function whileHeld(work: () => Promise<void>): Promise<void> {
      const other = Others.sequelize!
      const type = Transaction.TYPES.IMMEDIATE
      const holder = await other.transaction(database.name === 'sqlite' ? { type } : {})
      await other.query(`UPDATE workflow_runs SET title = 'held' WHERE id = ${run.id}`, { transaction: holder })
      try {
        await work()
      } finally {
        await holder.rollback()
      }
    }

    for (const [name, options, timeoutMs] of [
      ['nowait', { nowait: true }, 0],
      ['timeoutMs', { timeoutMs: 100 }, 100],
    ] as const) {
      it(`is a LockTimeoutError with ${name}, and fn does not run`, async () => {
        await whileHeld(async () => {
          const start = performance.now()
          const error = await rejection(
            withLock([Runs, run.id], () => expect.fail('fn ran'), options),
            LockTimeoutError,
          )
          expect(error).to.deep.include({ code: 'LOCK_TIMEOUT', model: 'WorkflowRun', primaryKey: { id: run.id } })
          expect(error.timeoutMs).to.equal(timeoutMs)
          expect(error.message).to.include('find the session that holds the lock')
          expect(error.cause).to.be.instanceOf(Error)
          // Timers and clocks differ by a millisecond.
          expect(performance.now() - start).to.be.at.least(timeoutMs - 1)
        })
        await withLock([Runs, run.id], (row) => row.update({ title: 'free' }), options)
        expect((await stored(run.id)).title).to.equal('free')
      })
    }

    it('does not change the lock timeout of later statements', async () => {
      const read: Partial<Record<typeof database.name, string>> = {
        postgres: `SELECT current_setting('lock_timeout') AS wait`,
        sqlite: 'SELECT timeout AS wait FROM pragma_busy_timeout',
      }
      const sql = read[database.name] ?? 'SELECT @@innodb_lock_wait_timeout AS wait'
      const wait = (transaction: Transaction): Promise<object[]> =>
        sequelize.query(sql, { transaction, type: QueryTypes.SELECT })
      const usual = await run.withLock((_row, transaction) => wait(transaction))
      expect(await run.withLock((_row, transaction) => wait(transaction), { timeoutMs: 123 })).to.deep.equal(usual)
    })

    it('does not change the lock timeout of concurrent statements of the transaction', async () => {
      const [one, two] = [await Runs.create(), await Runs.create()]
      const log: string[] = []
      await sequelize.transaction(async (transaction) => {
        const logging = (sql: string): void => void log.push(sql)
        await lock(run, { transaction })
        await Promise.all([
          lock(one, { transaction, timeoutMs: 1000, logging }),
          lock(two, { transaction, timeoutMs: 2000, logging }),
          run.update({ title: 'beside' }, { logging }),
        ])
      })
      const words = log.map((sql) => /set_config|current_setting|FOR NO KEY UPDATE|UPDATE "/.exec(sql)?.[0])
      const limited = ['current_setting', 'set_config', 'FOR NO KEY UPDATE', 'set_config']
      if (database.name === 'postgres') expect(words).to.deep.equal([...limited, ...limited, 'UPDATE "'])
      expect((await stored(run.id)).title).to.equal('beside')
    })

    if (database.name === 'mysql' || database.name === 'mariadb') {
      it('does not end the transaction that the lock would have joined', async () => {
        const other = await Runs.create()
        await whileHeld(() =>
          sequelize.transaction(async (transaction) => {
            await other.update({ title: 'kept' }, { transaction })
            await rejection(lock(run, { transaction, nowait: true }), LockTimeoutError)
          }),
        )
        expect((await stored(other.id)).title).to.equal('kept')
      })
    }

    it('makes the writers of one process wait in order, each no longer than its timeoutMs', async () => {
      let release!: () => void
      const released = new Promise<void>((resolve) => (release = resolve))
      let start!: () => void
      const started = new Promise<void>((resolve) => (start = resolve))
      const holding = withLock([Runs, run.id], async () => {
        start()
        await released
      })
      await started
      for (const options of [{ nowait: true }, { timeoutMs: 50 }]) {
        await rejection(
          withLock([Runs, run.id], () => expect.fail('fn ran'), options),
          LockTimeoutError,
        )
      }
      const waiting = withLock([Runs, run.id], (row) => row.update({ title: 'in turn' }), { timeoutMs: 10_000 })
      release()
      await holding
      await waiting
      expect((await stored(run.id)).title).to.equal('in turn')
    })

    it('refuses an invalid timeout, before any SQL', async () => {
      log.length = 0
      for (const timeoutMs of [0, -1, 1.5, Infinity, '5', 2 ** 31]) {
        const call = run.withLock(() => undefined, { timeoutMs: timeoutMs as number })
        expect((await rejection(call, UsageError)).message).to.include('timeoutMs to be a whole number of milliseconds')
      }
      for (const options of [{ nowait: true, timeoutMs: 5 }, { nowait: 1 as never }]) {
        expect(
          (
            await rejection(
              run.withLock(() => undefined, options),
              UsageError,
            )
          ).message,
        ).to.include('nowait')
      }
      expect(log).to.deep.equal([])
    })
  })

  it('keep the version of an instance whose column is assigned while a write of it is in flight', async () => {
    const write = run.atomicUpdate({ title: 'written' })
    run.title = 'assigned'
    await write
    await rejection(run.save(), OptimisticLockError)
    expect((await stored(run.id)).title).to.equal('written')
  })

  it('refuse reload() of a row that a callback holds, by other code', async () => {
    let holding!: () => void
    let free!: () => void
    const [held, freed] = [new Promise<void>((done) => (holding = done)), new Promise<void>((done) => (free = done))]
    const call = run.withLock(async (row) => {
      row.title = 'mine'
      holding()
      await freed
      await row.save()
    })
    await held
    for (const options of [undefined, { transaction: null }]) {
      expect(await rejection(run.reload(options), UsageError)).to.have.property('reason', 'lockedElsewhere')
    }
    free()
    await call
    expect((await run.reload()).title).to.equal('mine')
  })

  it('of Sequelize wait for each other, as many as there are', async () => {
    const writes: readonly ((transaction: Transaction) => Promise<unknown>)[] = [
      (transaction) => updateJson([Runs, run.id], 'progress', [increment('count')], { transaction }),
      (transaction) =>
        withLock([Runs, run.id], (row) => row.update({ progress: { count: Number(row.progress!['count']) + 1 } }), {
          transaction,
        }),
    ]
    for (const write of writes) await Promise.all(Array.from({ length: 6 }, () => sequelize.transaction(write)))
    expect((await stored(run.id)).progress).to.deep.equal({ count: 12 })
  })

  it('keep a change in place while an UPDATE with an answer writes another column', async () => {
    await run.withLock(async (row) => {
      row.progress!['mine'] = 1
      await row.update({ title: 'new' }, { returning: true } as object)
      await row.save()
    })
    const { title, progress } = await stored(run.id)
    expect([title, progress]).to.deep.equal(['new', { count: 0, mine: 1 }])
  })

  describe('lock', () => {
    it('is joined only by code in the callback of its transaction', async () => {
      const undo = new Error('undo')
      let outside: Promise<unknown> | undefined
      let lockIt!: () => void
      const isLocked = new Promise<void>((resolve) => (lockIt = resolve))
      const other = isLocked.then(() => {
        outside = run.mergeJsonKey('progress', 'outside', 1)
        outside.catch(() => undefined)
      })
      const call = sequelize.transaction(async (transaction) => {
        await lock(run, { transaction })
        await run.mergeJsonKey('progress', 'inside', 1)
        lockIt()
        await other
        throw undo
      })
      expect(await rejection(call, Error)).to.equal(undo)
      await outside
      expect((await stored(run.id)).progress).to.deep.equal({ count: 0, outside: 1 })
    })
  })

  describe('withLocks', () => {
    it('passes the rows in the order of its targets, and locks them in a canonical order', async () => {
      const other = await Runs.create({ title: 'other' })
      const locked = (): string[] =>
        log.splice(0).filter((sql) => /^(SELECT|UPDATE).*WHERE/.test(sql) && !sql.includes('version_'))
      log.length = 0
      const titles = await withLocks([other, [Runs, run.id]], ([first, second], transaction) => {
        expect(first).to.equal(other)
        expect(second.id).to.equal(run.id)
        expect(transaction).to.be.instanceOf(Transaction)
        return [first.title, second.title]
      })
      expect(titles).to.deep.equal(['other', null])
      const statements = locked()
      await withLocks([[Runs, run.id], other], () => undefined)
      expect(locked()).to.deep.equal(statements)
      await withLocks([run, other], async ([one, two]) => {
        one.progress!['count'] = 1
        await one.save()
        await two.update({ title: 'saved' })
      })
      expect((await stored(run.id)).progress).to.deep.equal({ count: 1 })
      expect((await stored(other.id)).title).to.equal('saved')
    })

    it('does not deadlock with concurrent callers that name the rows in the opposite order', async () => {
      const other = await Runs.create({ progress: { count: 0 } })
      const [forth, back] = [
        [run.id, other.id],
        [other.id, run.id],
      ] as const
      const move = ([from, to]: readonly [number, number]): Promise<void> =>
        withLocks(
          [
            [Runs, from],
            [Runs, to],
          ],
          async (rows, transaction) => {
            for (const row of rows) {
              await row.update({ progress: { count: (row.progress!['count'] as number) + 1 } }, { transaction })
            }
          },
        )
      await Promise.all(Array.from({ length: 20 }, (_, index) => move(index % 2 ? forth : back)))
      expect((await stored(run.id)).progress).to.deep.equal({ count: 20 })
      expect((await stored(other.id)).progress).to.deep.equal({ count: 20 })
    })

    it('does not run fn if one of the rows does not exist, and restores the other rows', async () => {
      const other = await Runs.create()
      await Runs.update({ title: 'newer' }, { where: { id: run.id } })
      await Runs.destroy({ where: { id: other.id } })
      await rejection(
        withLocks([run, other], () => expect.fail('fn ran')),
        RowNotFoundError,
      )
      expect(run.title ?? null).to.equal(null)
    })

    it('refuses targets that cannot be locked together, before any SQL', async () => {
      const { sequelize: elsewhere } = database.connect()
      const Foreign = await createRuns(elsewhere, { tableName: 'foreign_runs' })
      const wrong: readonly (readonly [targets: unknown, message: RegExp])[] = [
        [[], /at least one row/],
        [run, /expected an array/],
        [[run, [Runs, run.id]], /WorkflowRun id=\d+ occurs twice/],
        [[run, [Foreign, 1]], /different Sequelize instances/],
      ]
      log.length = 0
      for (const [targets, message] of wrong) {
        expect(
          (
            await rejection(
              withLocks(targets as never, () => undefined),
              UsageError,
            )
          ).message,
        ).to.match(message)
      }
      expect(log).to.deep.equal([])
    })

    if (database.name !== 'sqlite') {
      it('refuses two spellings of a key that name one row of the database', async () => {
        const isPostgres = database.name === 'postgres'
        const Keyed = lossless(
          sequelize.define('Keyed', {
            key: { type: isPostgres ? DataTypes.UUID : DataTypes.STRING, primaryKey: true },
            progress: DataTypes.JSON,
          }),
        )
        await Keyed.sync({ force: true })
        const key = 'c0ffee00-c0ff-4eec-8c0f-feec0ffeec0f'
        await Keyed.create({ key, progress: {} })
        const call = withLocks(
          [
            [Keyed, key],
            [Keyed, key.toUpperCase()],
          ],
          () => expect.fail('fn ran'),
        )
        expect((await rejection(call, UsageError)).message).to.include('occurs twice')
      })
    }

    it('locks keys in one order for every spelling', async () => {
      const other = await Runs.create()
      const order = async (ids: readonly (number | string)[]): Promise<string[]> => {
        const seen: string[] = []
        Runs.addHook('afterFind', 'order', (found) => void seen.push(String((found as WorkflowRun).id)))
        await withLocks(
          ids.map((id) => [Runs, id] as const),
          () => undefined,
        )
        Runs.removeHook('afterFind', 'order')
        return seen
      }
      expect(await order([run.id, String(other.id)])).to.deep.equal(await order([other.id, `0${run.id}`]))
    })

    if (database.name === 'mysql' || database.name === 'mariadb') {
      it('retries after a deadlock that occurs before fn runs', async () => {
        const [one, two] = await Runs.bulkCreate([{}, {}])
        const survivor = await heavyTransaction(Others)
        await Others.update({ title: 'survivor' }, { where: { id: two!.id }, transaction: survivor })
        let runs = 0
        const locking = withLocks([one!, two!], () => runs++)
        await isWaiting(sequelize)
        await Others.update({ title: 'survivor' }, { where: { id: one!.id }, transaction: survivor })
        await survivor.commit()
        await locking
        expect(runs).to.equal(1)
        expect(one!.title).to.equal('survivor')
      })
    }
  })

  describe('withOptimisticLock', () => {
    it('reads the row fresh, and saves what fn changed, in place too', async () => {
      await Runs.update({ progress: { theirs: 1 } }, { where: { id: run.id } })
      log.length = 0
      const result = await run.withOptimisticLock((row) => {
        expect(row).to.equal(run)
        row.progress!['mine'] = 1
        return 'what fn returned'
      })
      expect(result).to.equal('what fn returned')
      expect(log.map((sql) => sql.split(' ')[0])).to.deep.equal(['SELECT', 'UPDATE'])
      expect((await stored(run.id)).progress).to.deep.equal({ theirs: 1, mine: 1 })
      expect(run.changed()).to.equal(false)
      log.length = 0
      await withOptimisticLock([Runs, run.id], (row) => row.title)
      expect(log).to.have.length(1)
    })

    it('runs fn again, on a fresh row, if another writer has saved first', async () => {
      const seen: unknown[] = []
      await run.withOptimisticLock(
        async (row) => {
          seen.push(structuredClone(row.progress))
          if (seen.length === 1) await mergeJsonKey([Runs, run.id], 'progress', 'theirs', 1)
          row.progress = { ...row.progress, mine: seen.length }
        },
        { retry: quick },
      )
      expect(seen).to.deep.equal([{ count: 0 }, { count: 0, theirs: 1 }])
      expect((await stored(run.id)).progress).to.deep.equal({ count: 0, theirs: 1, mine: 2 })
    })

    it('keeps all increments of 8 concurrent writers of one row', async () => {
      const count = (): Promise<void> =>
        withOptimisticLock(
          [Runs, run.id],
          (row) => {
            row.progress = { count: (row.progress!['count'] as number) + 1 }
          },
          { retry: { maxAttempts: 100, baseDelayMs: 1, maxDelayMs: 20 } },
        )
      await Promise.all(Array.from({ length: 8 }, count))
      expect((await stored(run.id)).progress).to.deep.equal({ count: 8 })
    })

    it('rejects with a StaleRowError after the last attempt, and restores the row in memory', async () => {
      const error = await rejection(
        run.withOptimisticLock(
          async (row) => {
            await mergeJsonKey([Runs, run.id], 'progress', 'theirs', 1)
            row.title = 'mine'
          },
          { retry: { ...quick, maxAttempts: 2 } },
        ),
        StaleRowError,
      )
      expect(error).to.be.instanceOf(OptimisticLockError)
      expect(error).to.deep.include({ code: 'STALE_ROW', attempts: 2, columns: ['title'], primaryKey: { id: run.id } })
      expect(error.message).to.include('2 attempts').and.include('"title"').and.include('withLock(row, fn)')
      expect(run.title ?? null).to.equal(null)
      expect(run.changed()).to.equal(false)
      expect((await stored(run.id)).title).to.equal(null)
    })

    it('rethrows an error of fn without a retry, and restores the row in memory', async () => {
      const call = run.withOptimisticLock((row) => {
        row.title = 'mine'
        throw new OptimisticLockError({ message: 'thrown by fn' })
      })
      expect((await rejection(call, OptimisticLockError)).message).to.equal('thrown by fn')
      expect(run.changed()).to.equal(false)
    })

    it('rethrows an error of the save, and restores the row in memory', async () => {
      const call = run.withOptimisticLock((row) => void (row.title = { no: 'text' } as never))
      expect((await rejection(call, ValidationError)).message).to.include('title')
      expect(run.title ?? null).to.equal(null)
    })

    it('locks the row in a transaction, whose snapshot would never see another version', async () => {
      await sequelize.transaction(async (transaction) => {
        await withOptimisticLock(
          run,
          (row) => {
            row.progress!['joined'] = 1
          },
          { transaction },
        )
      })
      expect((await stored(run.id)).progress).to.deep.equal({ count: 0, joined: 1 })
      const joined = run.withLock((row, transaction) =>
        row.withOptimisticLock(() => undefined, { transaction, retry: {} }),
      )
      await rejection(joined, UsageError)
    })

    it('refuses a row that does not exist, has unsaved changes or has no version', async () => {
      const gone = await Runs.create()
      await Runs.destroy({ where: { id: gone.id } })
      await rejection(
        gone.withOptimisticLock(() => undefined),
        RowNotFoundError,
      )
      run.title = 'unsaved'
      await rejection(
        run.withOptimisticLock(() => undefined),
        UnsavedChangesError,
      )
      const Plain = await createRuns(sequelize, { modelName: 'Plain', tableName: 'plain_runs' })
      const plain = await Plain.create()
      const error = await rejection(
        plain.withOptimisticLock(() => undefined),
        UsageError,
      )
      expect(error.message).to.include('version: true').and.include('addColumn')
      await rejection(withOptimisticLock(plain, 'x' as never), UsageError)
    })

    it('refuses a write of the row in fn, and two concurrent calls on one instance', async () => {
      const updating = run.withOptimisticLock((row) => row.update({ title: 'x' }))
      expect((await rejection(updating, UsageError)).message).to.include('row.update() in the callback')
      const joined = run.withLock((row) => row.withOptimisticLock((same) => same.destroy()))
      expect((await rejection(joined, UsageError)).message).to.include('row.destroy() in the callback')
      const one = run.withOptimisticLock((row) => void (row.title = 'one'))
      expect(
        (
          await rejection(
            run.withOptimisticLock(() => undefined),
            UsageError,
          )
        ).message,
      ).to.include('two concurrent calls')
      await one
      await run.update({ title: 'as before' })
      expect((await stored(run.id)).title).to.equal('as before')
    })

    it('keeps a write on the same instance that runs at the same time', async () => {
      for (let round = 0; round < 10; round++) {
        const row = await Runs.create({ progress: {} })
        const save = (): Promise<void> =>
          row.withOptimisticLock((same) => {
            same.progress!['saved'] = 1
          })
        const merge = (): Promise<unknown> => row.mergeJsonKey('progress', 'merged', 1)
        await Promise.all(round % 2 === 0 ? [save(), merge()] : [merge(), save()])
        expect((await stored(row.id)).progress).to.deep.equal({ saved: 1, merged: 1 })
      }
    })

    it('refuses a version that is NULL', async () => {
      const { sequelize: own } = database.connect()
      const Nullable = await createRuns(own, { version: true, tableName: 'nullable_runs' })
      await own
        .getQueryInterface()
        .changeColumn('nullable_runs', 'version', { type: DataTypes.INTEGER, allowNull: true })
      const row = await Nullable.create()
      await own.query(`UPDATE nullable_runs SET version = NULL`)
      const error = await rejection(
        row.withOptimisticLock(() => undefined),
        UnsupportedValueError,
      )
      expect(error.message).to.include('SET version = 0 WHERE version IS NULL')
    })
  })

  it('join the ambient transaction of the exported namespace', async () => {
    Sequelize.useCLS(transactionNamespace)
    try {
      const outer = new Error('rolled back')
      const call = sequelize.transaction(async (transaction) => {
        await run.withLock((row) => row.update({ title: 'ambient' }))
        await run.mergeJsonKey('progress', 'k', 1)
        await rejection(
          retryTransaction(sequelize, () => undefined),
          UsageError,
        )
        await sequelize.transaction({ transaction }, async (nested) => {
          await Runs.findByPk(run.id)
          expect(transactionNamespace.get('transaction')).to.equal(nested)
        })
        expect(transactionNamespace.get('transaction')).to.equal(transaction)
        throw outer
      })
      expect(await rejection(call, Error)).to.equal(outer)
      expect((await stored(run.id)).toJSON()).to.deep.include({ title: null, progress: { count: 0 } })
      // Each flow has its own.
      const own = new AsyncLocalStorage<number>()
      const flows = Array.from({ length: database.name === 'sqlite' ? 1 : 5 }, (_, index) =>
        own.run(index, () =>
          sequelize.transaction(async (transaction) => {
            await Runs.findByPk(run.id)
            expect(transactionNamespace.get('transaction')).to.equal(transaction)
            expect(transactionNamespace.bind(() => transactionNamespace.get('transaction'))()).to.equal(transaction)
          }),
        ),
      )
      await Promise.all(flows)
    } finally {
      delete (Sequelize as unknown as { _cls?: unknown })._cls
    }
  })
})

/** A transaction that the server does not choose as the victim of a deadlock, since it has written more. */
async function heavyTransaction(Runs: typeof WorkflowRun): Promise<Transaction> {
  const transaction = await Runs.sequelize!.transaction()
  for (let index = 0; index < 20; index++) await Runs.create({ title: 'weight' }, { transaction })
  return transaction
}

/** Fails a statement of `transaction` by a deadlock, or on PostgreSQL by a row that is newer than its snapshot. */
async function meetAnother(
  database: Database,
  Others: typeof WorkflowRun,
  sequelize: Sequelize,
  transaction: Transaction,
  rows?: readonly WorkflowRun[],
): Promise<void> {
  const [one, two] = rows ?? (await Others.bulkCreate([{}, {}], { transaction: null }))
  const write = (id: number): string => `UPDATE workflow_runs SET title = 'met' WHERE id = ${id}`
  if (database.name === 'postgres') {
    await sequelize.query('SELECT 1 FROM workflow_runs', { transaction })
    await Others.sequelize!.query(write(one!.id))
    await sequelize.query(write(one!.id), { transaction })
    return
  }
  await sequelize.query(write(one!.id), { transaction })
  const survivor = await heavyTransaction(Others)
  await Others.sequelize!.query(write(two!.id), { transaction: survivor })
  const waiting = Others.sequelize!.query(write(one!.id), { transaction: survivor })
  try {
    await sequelize.query(write(two!.id), { transaction })
  } finally {
    await waiting
    await survivor.commit()
  }
}

/** Resolves once a transaction in this database waits for a row lock. */
async function isWaiting(sequelize: Sequelize): Promise<void> {
  const sql = `SELECT COUNT(*) AS waiting FROM information_schema.INNODB_TRX
    JOIN information_schema.PROCESSLIST ON ID = trx_mysql_thread_id WHERE trx_state = 'LOCK WAIT' AND DB = DATABASE()`
  const ask = async (): Promise<true | undefined> => {
    const [row] = await sequelize.query<{ waiting: number }>(sql, { type: QueryTypes.SELECT })
    return row!.waiting > 0 || undefined
  }
  // MariaDB answers from a cache that is never refreshed while it is asked more often than every 100 ms.
  await until('a transaction waits for a lock', ask, 120)
}
