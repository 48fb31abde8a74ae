import type { Attributes, Logging, Model, ModelStatic, Transaction, Transactionable, WhereOptions } from 'sequelize'
import { checkOptions } from '../errors/check-options.js'
import { ConflictError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { nextRow } from '../rows/row-query.js'
import type { RowOrder, RowQuery } from '../rows/row-query.js'
import type { RowRef } from '../rows/row-ref.js'
import { traceCall } from '../sequelize/channels.js'
import { sendForRows } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import { Statement } from '../sequelize/statement.js'
import { checkIsolationLevel, factsOf, startCall } from '../transactions/execute.js'
import type { Call } from '../transactions/execute.js'
import { readOutside, selectKeys } from '../transactions/find-row.js'
import { transactionToJoin } from '../transactions/join.js'
import { lockingRead } from '../transactions/lock-wait.js'
import { checkRetryOptions } from '../transactions/retry.js'
import type { RetryOptions } from '../transactions/retry.js'
import { watchTransaction } from '../transactions/watch.js'
import { acquireLock, runUnderLocks } from './lock.js'

/** Which row is the next one. */
export interface NextRow<M extends Model> {
  /** Conditions on ordinary columns, as in `[Model, { where }]`. Default: every row. */
  readonly where?: WhereOptions<Attributes<M>>
  /**
   * Attributes, each ascending or with its direction: `['priority', ['createdAt', 'DESC']]`. Rows that are alike in all of them
   * are in no order. NULL is first on MySQL, MariaDB and SQLite, last on PostgreSQL. Default: the primary key.
   */
  readonly order?: readonly (NameOf<M> | readonly [attribute: NameOf<M>, direction: 'ASC' | 'DESC'])[]
}

type NameOf<M extends Model> = keyof Attributes<M> & string

export interface WithNextOptions extends Logging, Transactionable {
  /** The isolation level of the new transaction; refused if the call joins one. Default: Sequelize's own. */
  readonly isolationLevel?: Transaction.ISOLATION_LEVELS
  /**
   * Run `fn` again, in a new transaction and with the row that is then the next one, after a deadlock or a conflict; refused if
   * the call joins a transaction. Default: `fn` runs once; the locking read before it has 3 attempts.
   */
  readonly retry?: RetryOptions
}

/** The number of rows that the first search reads; each further one reads four times as many. */
const firstSearch = 16

/**
 * Runs `fn` while the first row that no other session holds is locked: the next job of a queue. Never waits for the lock of
 * another session, except on SQLite; each of many concurrent sessions gets another row. Calls in one transaction take turns: each
 * finds the rows as the `fn` before it has left them. Otherwise like {@link withLock}. Sends, on PostgreSQL:
 *
 *     START TRANSACTION
 *     SELECT "id" AS "id" FROM "jobs" WHERE "status" = $1 ORDER BY "id" LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
 *     SELECT "id" AS "id", "status" AS "status", … FROM "jobs" WHERE "id" = $1 AND "status" = $2 FOR NO KEY UPDATE
 *     UPDATE "jobs" SET "status"=$1,"updatedAt"=$2 WHERE "id" = $3      -- what fn does
 *     COMMIT
 *
 * MySQL and MariaDB would lock every row that they scan or sort. There, a SELECT before the transaction lists the first rows,
 * and in the transaction they are tried one by one, by primary key, until one is free:
 *
 *     SELECT CASE WHEN `status` = ? THEN 1 ELSE 0 END AS `isNext` FROM `jobs` WHERE `id` = ? FOR UPDATE SKIP LOCKED
 *
 * In a transaction that the call joins, it is one statement there too. SQLite has one writer: callers take turns. Under
 * REPEATABLE READ, a listed row that was deleted in the meantime locks the gap of its key until `fn` ends, and inserts into it
 * wait: pass `isolationLevel: 'READ COMMITTED'` if jobs are deleted.
 *
 * @returns the result of `fn`; `undefined` if no row meets `where`, or other sessions hold all that do
 * @throws {UsageError} before any SQL: a `where` or `order` that cannot be bound, a model without primary key
 * @throws {UnsupportedDatabaseError} MySQL before 8.0.1, MariaDB before 10.6
 * @throws the errors of {@link withLock}
 * @example
 *     const job = await withNext(Job, { where: { status: 'queued' }, order: ['createdAt'] }, (job) =>
 *       job.update({ status: 'running' }),
 *     )
 * @see https://dev.mysql.com/doc/refman/9.7/en/innodb-locking-reads.html
 */
export async function withNext<M extends Model, R>(
  model: ModelStatic<M>,
  next: NextRow<M>,
  fn: (row: M, transaction: Transaction) => R | Promise<R>,
  options: WithNextOptions = {},
): Promise<R | undefined> {
  const method = 'withNext'
  const names = ['transaction', 'isolationLevel', 'retry', 'logging'] as const
  const { transaction, isolationLevel, logging, ...checked } = checkOptions(method, options, names)
  const retry = checkRetryOptions(method, checked.retry)
  checkIsolationLevel(method, isolationLevel)
  const [query, order] = nextRow(method, model, next)
  if (typeof fn !== 'function') throw usage.callback(method, fn)
  const { session, facts } = query
  const joined = transactionToJoin(method, session, transaction, undefined)
  if (joined && isolationLevel !== undefined) throw usage.isolationLevelJoined(method)
  if (joined && retry) throw usage.retryJoined(method)
  const call = await startCall({ method, session, row: facts, transaction: joined, logging })
  const clause = call.dialect.skipLocked()
  const run = (claim: (context: QueryContext) => Promise<RowRef | undefined>): Promise<R | undefined> =>
    runUnderLocks(
      call,
      async (context, state) => {
        const ref = await claim(context)
        return ref ? [await acquireLock({ ...call, row: factsOf(call, ref) }, ref, context, state, true)] : []
      },
      ([row], opened) => (row ? fn(row as M, opened) : undefined),
      { opensTransaction: true, isolationLevel, retry },
    )
  const orderBy = (statement: Statement): string => orderSql(order, statement)

  const runFirst = (): Promise<R | undefined> =>
    run(async (context) => {
      const select = (): Promise<RowRef[]> =>
        selectKeys(call, query, context, (statement) => `${orderBy(statement)} LIMIT 1 ${clause}`)
      const [first] = await lockingRead(call, query, context, select)
      return first
    })
  const runListed = async (): Promise<R | undefined> => {
    const tried = new Tried()
    for (let limit = firstSearch; ;) {
      const listed = await readOutside(call, (context) =>
        selectKeys(call, query, context, (statement) => `${orderBy(statement)} LIMIT ${limit}`),
      )
      const untried = listed.filter(({ key }) => !tried.has(key))
      if (untried.length > 0) {
        let isFound = false
        const result = await run(async (context) => {
          const ref = await claimOne(call, query, untried, tried, context)
          isFound = ref !== undefined
          return ref
        })
        if (isFound) return result
      } else if (listed.length >= limit) limit *= 4
      else if (tried.unmatched) throw ConflictError.unmatchedKey(method, tried.unmatched.facts)
      else return undefined
    }
  }
  return traceCall(call, () => {
    if (!joined) return call.dialect.locksScannedRows ? runListed() : runFirst()
    // The transaction does not skip its own locks: two callbacks at once would get the same row.
    const key = JSON.stringify([method, query.model.getTableName()])
    return watchTransaction(joined, call.dialect).runCallbacks(method, [key], runFirst)
  })
}

/** How often a row that a search has listed may not meet the conditions when it is locked. */
const maxMisses = 5

/** The rows that a call has tried to lock. */
class Tried {
  readonly #held = new Set<string>()
  readonly #misses = new Map<string, number>()
  /** A row that was listed again each time, and did not meet the conditions by its key. */
  unmatched: RowRef | undefined

  /** Another session holds the row. */
  addHeld({ key }: RowRef): void {
    this.#held.add(key)
  }

  /** The row was locked, and did not meet the conditions. */
  addMiss(ref: RowRef): void {
    const misses = (this.#misses.get(ref.key) ?? 0) + 1
    this.#misses.set(ref.key, misses)
    if (misses === maxMisses) this.unmatched = ref
  }

  has(key: string): boolean {
    return this.#held.has(key) || this.#misses.get(key) === maxMisses
  }
}

/** Locks the first of some rows that no other session holds; none if that row no longer meets the conditions. */
async function claimOne(
  { session, dialect }: Call,
  query: RowQuery,
  refs: readonly RowRef[],
  tried: Tried,
  context: QueryContext,
): Promise<RowRef | undefined> {
  for (const ref of refs) {
    const select = new Statement(query)
    const isNext = `CASE WHEN ${query.sql(select)} THEN 1 ELSE 0 END AS ${select.alias('isNext')}`
    const sql = `SELECT ${isNext} FROM ${select.table()} WHERE ${ref.byKey.sql(select)} ${dialect.skipLocked()}`
    const [row] = await sendForRows<{ isNext: unknown }>(session, sql, select.binds, context)
    // Its lock ends with the transaction, in which nothing else is done.
    if (row && Number(row.isNext) === 1) return ref
    if (row) {
      tried.addMiss(ref)
      return undefined
    }
    tried.addHeld(ref)
  }
  return undefined
}

function orderSql(order: RowOrder, statement: Statement): string {
  return `ORDER BY ${order.map(([name, isDescending]) => `${statement.column(name)}${isDescending ? ' DESC' : ''}`).join(', ')}`
}
