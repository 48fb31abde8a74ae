import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import { OptimisticLockError, QueryTypes, Transaction } from 'sequelize'
import type { Logging, Sequelize } from 'sequelize'
import { dialectOf, failureOf, statementRetry } from './database.js'
import type { Dialect } from './dialects/dialect.js'
import {
  ConflictError,
  LockTimeoutError,
  OutsideTransactionError,
  RolledBackError,
  UnknownOutcomeError,
} from './errors/errors.js'
import { usage } from './errors/usage.js'
import type { RowFacts } from './errors/errors.js'
import { alone, oneWriter } from './queue.js'
import type { TurnWait } from './queue.js'
import { checkRetryOptions, retry } from './retry.js'
import type { RetryOptions } from './retry.js'

/** What Sequelize 6 keeps about a transaction and does not put in its types. */
interface TransactionInternals {
  readonly sequelize: Sequelize
  readonly parent?: Transaction | null
  readonly options: { readonly readOnly?: boolean; readonly type?: string }
  finished?: 'commit' | 'rollback'
  _afterCommitHooks: unknown[]
}

function internals(transaction: Transaction): TransactionInternals {
  return transaction as unknown as TransactionInternals
}

/** `transaction` and, if it is a savepoint, those around it; the last one is the server's transaction. */
function nesting(transaction: Transaction): Transaction[] {
  const { parent } = internals(transaction)
  return parent ? [transaction, ...nesting(parent)] : [transaction]
}

/** The server's transaction, of which `transaction` may be a savepoint. */
export function outermostOf(transaction: Transaction): Transaction {
  return nesting(transaction).at(-1)!
}

/** Whether both are the same transaction of the server, seen through savepoints or not. */
export function isSameTransaction(one: Transaction, other: Transaction): boolean {
  return outermostOf(one) === outermostOf(other)
}

/** What became of what `transaction` did; `undefined` while that is open. */
export function outcomeOf(transaction: Transaction): 'commit' | 'rollback' | undefined {
  const all = nesting(transaction)
  if (all.some((each) => internals(each).finished === 'rollback')) return 'rollback'
  return internals(all.at(-1)!).finished
}

/** The transaction that holds what `transaction` did: itself, or those around a savepoint that was released; none if that is over. */
export function live(transaction: Transaction): Transaction | undefined {
  const { finished, parent } = internals(transaction)
  if (finished === undefined) return transaction
  return finished === 'commit' && parent ? live(parent) : undefined
}

/** A running callback of `method`, which holds a transaction. */
interface Scope {
  readonly method: string
  readonly sequelize: Sequelize
  readonly transaction: Transaction
  readonly outer: Scope | undefined
}

const scopes = new AsyncLocalStorage<Scope | undefined>()

/** The callbacks that this code runs in, innermost first. */
function runningScopes(): Scope[] {
  const running: Scope[] = []
  for (let scope = scopes.getStore(); scope; scope = scope.outer) running.push(scope)
  // Work that was started inside a callback and outlives it is free again.
  return running.filter((scope) => live(scope.transaction))
}

/** Runs `fn` as a callback of `method`: a model's write in it, without a transaction, is refused. */
export function runInScope<R>(method: string, sequelize: Sequelize, transaction: Transaction, fn: () => R): R {
  return scopes.run({ method, sequelize, transaction, outer: scopes.getStore() }, fn)
}

function scopeOf(sequelize: Sequelize): Scope | undefined {
  return runningScopes().find((scope) => scope.sequelize === sequelize)
}

/** Whether this code runs in a callback that holds `transaction`. */
export function isInScope(transaction: Transaction): boolean {
  return runningScopes().some((scope) => isSameTransaction(scope.transaction, transaction))
}

/** What Sequelize asks of a namespace for its ambient transaction. */
export interface TransactionNamespace {
  get(key: string): unknown
  set<V>(key: string, value: V): V
  run(fn: (context: Map<string, unknown>) => void): Map<string, unknown>
  bind<F extends (...words: unknown[]) => unknown>(fn: F): F
}

const ambient = new AsyncLocalStorage<Map<string, unknown>>()

/**
 * A namespace for `Sequelize.useCLS`, on Node's own AsyncLocalStorage: what is awaited in the callback of
 * `sequelize.transaction()` then takes part in that transaction without being told.
 *
 * Ask for it once, before the first `new Sequelize()`; it holds for all Sequelize instances. Transactions that are begun
 * without a callback are never ambient, and `{ transaction: null }` leaves the ambient one out.
 *
 * @example
 *     Sequelize.useCLS(transactionNamespace)
 *     await sequelize.transaction(async () => {
 *       await run.withLock(async (run) => run.update({ status: 'done' })) // joins it
 *     })
 * @see https://sequelize.org/docs/v6/other-topics/transactions/#automatically-pass-transactions-to-all-queries
 */
export const transactionNamespace: TransactionNamespace = {
  get: (key) => ambient.getStore()?.get(key),
  set(key, value) {
    ambient.getStore()?.set(key, value)
    return value
  },
  run(fn) {
    // A copy, so that what is around a nested transaction comes back after it.
    const context = new Map(ambient.getStore())
    ambient.run(context, fn, context)
    return context
  },
  bind: <F extends (...words: unknown[]) => unknown>(fn: F) => AsyncResource.bind<F, unknown>(fn),
}

/** Sequelize's ambient transaction, if it is one of this instance, and open. */
export function ambientTransaction(sequelize: Sequelize): Transaction | undefined {
  const { _cls } = sequelize.constructor as unknown as { _cls?: { get(key: string): unknown } }
  const transaction = _cls?.get('transaction') as Transaction | null | undefined
  // Sequelize.useCLS is static: the ambient transaction may belong to another Sequelize instance.
  if (!transaction || internals(transaction).sequelize !== sequelize || !live(transaction)) return undefined
  return transaction
}

/**
 * The transaction that a call takes part in: the one asked for, else that of the lock held on its row, else Sequelize's
 * ambient one. `null` asks for none.
 * @throws {UsageError} it is not one of this Sequelize instance, is over, or is read-only
 * @throws {OutsideTransactionError} there is none, inside the callback of withLock
 */
export function transactionFor(
  method: string,
  sequelize: Sequelize,
  asked: Transaction | null | undefined,
  held: Transaction | undefined,
): Transaction | undefined {
  if (asked === null) return undefined
  if (asked !== undefined) {
    if (internals(asked).sequelize !== sequelize) throw usage.transaction(method, asked)
    const { finished } = internals(asked)
    if (finished) throw usage.transactionFinished(method, finished)
  }
  const transaction = asked ?? held ?? ambientTransaction(sequelize)
  if (!transaction) {
    refuseOutside(method, sequelize, 'this call')
    return undefined
  }
  if (nesting(transaction).some((each) => internals(each).options.readOnly)) throw usage.transactionReadOnly(method)
  return transaction
}

const joinIt =
  'Pass the second argument of the callback, { transaction }; or, for rows that have nothing to do with the lock, { transaction: null } to write outside on purpose.'
const nestIt =
  'Nest it, with the second argument of the callback: sequelize.transaction({ transaction }, …), Model.findOrCreate({ …, transaction }); or open it before.'

function refuseOutside(method: string | undefined, sequelize: Sequelize, what: string, remedy = joinIt): void {
  const scope = scopeOf(sequelize)
  if (!scope) return
  throw new OutsideTransactionError(
    method ?? scope.method,
    `${what} would run outside the transaction of the ${scope.method}() around it: it would commit apart from it, and could wait for its lock`,
    remedy,
  )
}

/** How a transaction is opened. */
interface Opening {
  readonly isolationLevel?: Transaction.ISOLATION_LEVELS | undefined
  readonly logging?: Logging['logging'] | undefined
  /** How long the lock that follows may take. */
  readonly wait?: TurnWait | undefined
}

const isolationLevels: readonly string[] = Object.values(Transaction.ISOLATION_LEVELS)

/** @throws {UsageError} SQL has no such level */
export function checkIsolationLevel(method: string, level: string | undefined): void {
  if (level !== undefined && !isolationLevels.includes(level)) throw usage.isolationLevel(method, level, 'SQL')
}

/** What is put back when a transaction is rolled back, or a savepoint in it. */
interface Undo {
  /** The way back to where things are now. */
  readonly save: () => () => void
  readonly restore: () => void
}

/** Of transactions that are watched; those of others tell nobody that they were rolled back as a whole. */
const undos = new WeakMap<Transaction, Undo[]>()
/** By the name of a savepoint, what puts things back as they were at it. */
const savepoints = new WeakMap<Transaction, Map<string, (() => void)[]>>()

/**
 * Has things put back if `transaction` is rolled back, and it was opened here, or to a savepoint that comes later.
 *
 * @param save takes note of how things are now, and returns the way back
 */
export function onRollback(transaction: Transaction, save: () => () => void): void {
  const outermost = outermostOf(transaction)
  const undo = { save, restore: save() }
  undos.set(outermost, [...(undos.get(outermost) ?? []), undo])
}

function keepSavepoint(transaction: Transaction, name: string): void {
  const kept = savepoints.get(transaction) ?? new Map<string, (() => void)[]>()
  const saved = (undos.get(transaction) ?? []).map(({ save }) => save())
  savepoints.set(transaction, kept.set(name, saved))
}

function restoreSavepoint(transaction: Transaction, name: string): void {
  for (const restore of savepoints.get(transaction)?.get(name)?.toReversed() ?? []) restore()
}

/** Those whose COMMIT was answered with success. */
const committed = new WeakSet<Transaction>()

/** What was thrown after a COMMIT: nothing is to be put back, told otherwise or tried again. */
const afterCommit = new WeakSet<object>()

/** Those that were opened here. */
const ours = new WeakSet<Transaction>()

/** Why COMMIT failed, of transactions that were opened here: Sequelize is not told, which would drop the connection, aloud. */
const failedCommits = new WeakMap<Transaction, unknown>()

/** The first error of a statement in a transaction, which a callback may have caught. */
const firstErrors = new WeakMap<Transaction, unknown>()

/**
 * Opens a transaction that may write, runs `fn` in it, and commits; rolls back if `fn` throws.
 * @throws {UnknownOutcomeError} the connection was lost after COMMIT was sent
 * @throws {RolledBackError} the database rolled back instead of committing
 */
export async function openTransaction<R>(
  method: string,
  sequelize: Sequelize,
  dialect: Dialect,
  { isolationLevel, logging, wait }: Opening,
  fn: (transaction: Transaction) => Promise<R>,
): Promise<R> {
  if (isolationLevel !== undefined && !dialect.isolationLevels.includes(isolationLevel)) {
    throw usage.isolationLevel(method, isolationLevel, dialect.name)
  }
  // IMMEDIATE takes SQLite's write lock at once, since a transaction that read first can never get it after another's
  // write; how long it waits cannot be told before it, so there the first statement takes the lock.
  const type = Transaction.TYPES[wait ? 'DEFERRED' : 'IMMEDIATE']
  const options = {
    ...(isolationLevel && { isolationLevel }),
    ...(logging !== undefined && { logging }),
    ...(dialect.writerQueue && { type }),
  }
  const scope = scopes.getStore()
  let isCommitting = false
  let opened: Transaction | undefined
  const run = async (transaction: Transaction): Promise<R> => {
    opened = transaction
    watch(transaction, dialect)
    ours.add(transaction)
    const result = await scopes.run(scope, () => fn(transaction))
    // A statement was told so, and the callback caught its error.
    const firstError = firstErrors.get(transaction)
    if (internals(transaction).finished === 'rollback' && firstError !== undefined)
      throw new RolledBackError(method, firstError)
    isCommitting = true
    return result
  }
  // Asked for by us, so it is no transaction that somebody forgot to nest.
  const open = async (): Promise<R> => {
    const result = await scopes.run(undefined, () => sequelize.transaction(options, run))
    if (failedCommits.has(opened!)) throw failedCommits.get(opened!)
    return result
  }
  try {
    return await oneWriter(method, sequelize, dialect, open, wait)
  } catch (error) {
    if (opened && committed.has(opened)) {
      if (error instanceof Error) afterCommit.add(error)
      throw error
    }
    for (const { restore } of (opened && undos.get(opened))?.toReversed() ?? []) restore()
    const isLost = isCommitting && failureOf(error, dialect) === 'lost'
    throw isLost ? new UnknownOutcomeError(method, 'COMMIT', error) : error
  }
}

/** Whether another session got in the way: it is certain that nothing was written, and the next time may go well. */
export function isConflict(error: unknown, dialect: Dialect): boolean {
  if (isAfterCommit(error)) return false
  const failure = failureOf(error, dialect)
  return failure === 'deadlock' || failure === 'conflict'
}

/** Whether a transaction may go well if it is run again, from its first read. */
export function isRetryable(error: unknown, dialect: Dialect): boolean {
  return isConflict(error, dialect) || (error instanceof OptimisticLockError && !isAfterCommit(error))
}

function isAfterCommit(error: unknown): boolean {
  return error instanceof Error && afterCommit.has(error)
}

export interface RetryTransactionOptions extends RetryOptions, Logging {
  /** The isolation level of each transaction. Default: Sequelize's own. */
  readonly isolationLevel?: Transaction.ISOLATION_LEVELS
}

/**
 * Runs `fn` in a transaction, and runs it again in a new one, from its first read, when another session got in the way:
 * after a deadlock, a serialization failure, a certification conflict of a cluster, or a stale `version`.
 *
 * Sequelize's own option `retry` repeats a single statement, in a transaction that the server has rolled back. Between
 * attempts it pauses for a random time that grows (full jitter). What it can never do is to run `fn` again when it may
 * have been committed. Lock timeouts and lost connections are not tried again: the holder may be at work for long, and
 * after COMMIT the outcome is unknown. `fn` may run several times: it has to read inside, and to leave alone what a
 * rollback does not undo, such as mail. Rows that `withLock` and `lock` refreshed in it, or a JSON method wrote, are put back
 * before each attempt.
 *
 * @returns what `fn` returned, once it is committed
 * @throws {UsageError} before any SQL: a wrong option; or a transaction is open already, which cannot be run again here
 * @throws {UnknownOutcomeError} the connection was lost after COMMIT was sent
 * @throws what `fn` threw last; `signal.reason`, if it was aborted
 * @example
 *     await retryTransaction(sequelize, async (transaction) => {
 *       const [from, to] = await Promise.all([1, 2].map((id) => Account.findByPk(id, { transaction, lock: true })))
 *       await from.decrement('cents', { by: 100, transaction })
 *       await to.increment('cents', { by: 100, transaction })
 *     }, { maxAttempts: 10, signal })
 * @see https://dev.mysql.com/doc/refman/9.7/en/innodb-deadlocks-handling.html
 */
export async function retryTransaction<R>(
  sequelize: Sequelize,
  fn: (transaction: Transaction) => R | Promise<R>,
  options: RetryTransactionOptions = {},
): Promise<R> {
  const method = 'retryTransaction'
  if (typeof (sequelize as Partial<Sequelize> | undefined)?.transaction !== 'function') {
    throw usage.sequelize(method, sequelize, `${method}(sequelize, async (transaction) => { … })`)
  }
  if (typeof fn !== 'function') throw usage.callback(method, fn, 'transaction')
  const policy = checkRetryOptions(method, options, ['isolationLevel', 'logging'])
  const { isolationLevel, logging } = options
  checkIsolationLevel(method, isolationLevel)
  if (scopeOf(sequelize) ?? ambientTransaction(sequelize)) throw usage.retryJoined(method)
  const dialect = await dialectOf(sequelize, { transaction: undefined, logging })
  const attempt = (): Promise<R> =>
    openTransaction(method, sequelize, dialect, { isolationLevel, logging }, async (transaction) =>
      runInScope(method, sequelize, transaction, () => fn(transaction)),
    )
  return retry(attempt, (error) => isRetryable(error, dialect), policy)
}

/** Whether the transaction was opened in the way that holds SQLite's write lock from its first moment. */
export function takesWriteLockFirst(transaction: Transaction): boolean {
  return /^(IMMEDIATE|EXCLUSIVE)$/.test(internals(outermostOf(transaction)).options.type ?? '')
}

/** An error of a statement of ours, in the words of this library if another session got in the way. */
export function translated(
  error: unknown,
  dialect: Dialect,
  method: string,
  row: RowFacts,
  transaction: Transaction | undefined,
  timeoutMs?: number,
): unknown {
  const isTold = [ConflictError, LockTimeoutError, RolledBackError].some((type) => error instanceof type)
  if (isTold || isAfterCommit(error)) return error
  const failure = failureOf(error, dialect)
  if (failure === 'lock timeout') return new LockTimeoutError(method, row, timeoutMs, dialect.lockHolders, error)
  if (failure !== 'deadlock' && failure !== 'conflict') return error
  const reason = failure === 'deadlock' ? 'a deadlock' : 'a change made by another session since this transaction began'
  return new ConflictError(method, row, reason, transaction !== undefined, error)
}

/** Told of what is sent for an instance, as it is sent; returns what to do once it was done. */
type Observer = (instance: object, columns: readonly string[]) => () => void

const watched = new WeakMap<Transaction, { readonly dialect: Dialect; readonly observe: Observer | undefined }>()

/**
 * From now on, `transaction` cannot commit half of its work: a statement in it that failed because the server rolled
 * the transaction back finishes it here too, and a COMMIT that the database turned into a rollback is an error.
 */
export function watch(transaction: Transaction, dialect: Dialect, observe?: Observer): void {
  const outermost = outermostOf(transaction)
  watched.set(outermost, { dialect, observe: observe ?? watched.get(outermost)?.observe })
  interceptQueries(internals(transaction).sequelize, dialect)
}

const intercepted = new WeakSet<Sequelize>()

interface SentOptions {
  readonly type?: string
  readonly transaction?: Transaction | null
  readonly model?: { readonly name: string }
  readonly instance?: object
  readonly fields?: readonly string[]
  readonly completesTransaction?: boolean
  readonly retry?: object
}

const modelWrites: ReadonlySet<string | undefined> = new Set([
  QueryTypes.INSERT,
  QueryTypes.UPDATE,
  QueryTypes.BULKUPDATE,
  QueryTypes.DELETE,
  QueryTypes.BULKDELETE,
  QueryTypes.UPSERT,
])

/**
 * Sequelize's hooks do not serve here: they are left out by `hooks: false` and for increment(), know no error, and
 * `beforeQuery` runs only once a connection was waited for.
 */
function interceptQueries(sequelize: Sequelize, dialect: Dialect): void {
  if (intercepted.has(sequelize)) return
  intercepted.add(sequelize)
  const query = sequelize.query.bind(sequelize) as (sql: unknown, options?: SentOptions) => Promise<unknown>

  const intercepting = async (sql: unknown, given: SentOptions = {}): Promise<unknown> => {
    // As Sequelize itself does for raw queries, only later.
    const transaction = given.transaction === undefined ? ambientTransaction(sequelize) : given.transaction
    const options = transaction === undefined ? given : { ...given, transaction }
    refuseUntold(sequelize, sql, options)
    if (transaction) {
      const watching = watched.get(outermostOf(transaction))
      if (!watching) return query(sql, options)
      const done = options.instance && watching.observe?.(options.instance, options.fields ?? [])
      const result = await sendWatched(query, sql, options, transaction, watching.dialect)
      done?.()
      return result
    }
    return alone(sequelize, dialect, () => query(sql, options))
  }
  sequelize.query = intercepting as Sequelize['query']
}

function refuseUntold(sequelize: Sequelize, sql: unknown, { transaction, type, model, instance }: SentOptions): void {
  if (transaction === undefined && modelWrites.has(type)) {
    const name = model?.name ?? instance?.constructor.name ?? 'a model'
    refuseOutside(undefined, sequelize, `a write of ${name} (${type})`)
  }
  // findOrCreate() opens one of its own.
  const isOpened = transaction && !internals(transaction).parent && /^(START|BEGIN)\b/i.test(String(sql))
  if (isOpened) refuseOutside(undefined, sequelize, 'a transaction that is opened in the callback', nestIt)
}

async function sendWatched(
  query: (sql: unknown, options: SentOptions) => Promise<unknown>,
  sql: unknown,
  options: SentOptions,
  transaction: Transaction,
  dialect: Dialect,
): Promise<unknown> {
  const isCommit = options.completesTransaction === true && /^COMMIT/i.test(String(sql))
  // Sequelize would send one statement again, after the server has ended the transaction that it was part of.
  if (!dialect.writerQueue) options = { ...options, retry: statementRetry(internals(transaction).sequelize, true) }
  const outermost = outermostOf(transaction)
  const [, toSavepoint, savepoint] = /^(ROLLBACK TO )?SAVEPOINT (.*);$/i.exec(String(sql)) ?? []
  try {
    if (!isCommit) {
      const result = await query(sql, options)
      if (savepoint !== undefined) (toSavepoint ? restoreSavepoint : keepSavepoint)(outermost, savepoint)
      return result
    }
    // Only a RAW result carries the word that a database answers with.
    const result = await query(sql, { ...options, type: QueryTypes.RAW })
    if (dialect.isRollback(result)) throw new RolledBackError('sequelize-lossless', firstErrors.get(transaction))
    committed.add(outermost)
    return result
  } catch (error) {
    const failure = failureOf(error, dialect)
    if (!firstErrors.has(outermost)) firstErrors.set(outermost, error)
    if (isCommit) {
      // Sequelize would call them although nothing was committed.
      internals(transaction)._afterCommitHooks = []
      // SQLite is still in the transaction, and would keep its file locked.
      if (failure !== 'lost') await query('ROLLBACK;', { ...options, type: QueryTypes.RAW }).catch(() => undefined)
      if (failure !== undefined && failure !== 'lost' && ours.has(transaction)) {
        failedCommits.set(transaction, error)
        return undefined
      }
    } else if (failure && dialect.endsTransaction.includes(failure)) await finish(transaction)
    throw error
  }
}

/** Marks a transaction that the server has rolled back, and all around it, as such: Sequelize alone would go on in autocommit. */
async function finish(transaction: Transaction): Promise<void> {
  const all = nesting(transaction)
  const outermost = all.at(-1)!
  // Gives the connection back; whether the server still had something to roll back does not matter.
  if (!internals(outermost).finished) await outermost.rollback().catch(() => undefined)
  for (const each of all) internals(each).finished = 'rollback'
}
