import { DatabaseError, OptimisticLockError, Transaction } from 'sequelize'
import type { Logging } from 'sequelize'
import type { Dialect, Failure } from '../dialects/dialect.js'
import {
  ConflictError,
  isLosslessError,
  LockTimeoutError,
  PendingStatementsError,
  RowNotFoundError,
  UnknownOutcomeError,
} from '../errors/errors.js'
import type { RowFacts } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import type { RowRef } from '../rows/row-ref.js'
import { finishedState } from '../sequelize/internals.js'
import { checkedBy } from '../sequelize/options.js'
import { failureOf, noteFailure, recogniseDialect } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import type { Session } from '../sequelize/session.js'
import { currentContext, runWith } from './async-context.js'
import type { Scope } from './async-context.js'
import { innermostPlainScope, transactionOption } from './join.js'
import { retry, statementRetries } from './retry.js'
import type { RetryOptions } from './retry.js'
import type { TransactionState } from './transaction-state.js'
import { watchSession, watchTransaction } from './watch.js'
import { enqueueWriter } from './writer-queue.js'
import type { SlotWait } from './writer-queue.js'

/** One call of a public method, from its checked arguments to its result. */
export interface Call {
  readonly method: string
  readonly session: Session
  readonly dialect: Dialect
  /** The row for error texts; `undefined` for a call without one. */
  readonly row: RowFacts | undefined
  /** The transaction that the call joins. */
  readonly transaction: Transaction | undefined
  readonly logging: Logging['logging'] | undefined
  /** The maximum wait for a lock in milliseconds; 0 does not wait, `undefined` is the timeout of the server. */
  readonly timeoutMs?: number | undefined
}

/** Starts a call: watches the statements of its Sequelize instance, and detects its database. */
export function startCall(started: Omit<Call, 'dialect'>): Call | Promise<Call> {
  const { method, session, transaction, logging, timeoutMs } = started
  watchSession(session)
  const option = transactionOption(session, transaction)
  const row = option && started.row ? { ...started.row, option } : started.row
  const { dialect } = session
  return dialect
    ? { method, session, dialect, row, transaction, logging, timeoutMs }
    : startFirstCall({ ...started, row })
}

/** A row of a call, for error texts. */
export function factsOf({ row }: Call, { facts }: Pick<RowRef, 'facts'>): RowFacts {
  return row?.option ? { ...facts, option: row.option } : facts
}

async function startFirstCall(started: Omit<Call, 'dialect'>): Promise<Call> {
  return { ...started, dialect: await recogniseDialect(started.session, started) }
}

const isolationLevels: readonly string[] = Object.values(Transaction.ISOLATION_LEVELS)

/** @throws {UsageError} SQL has no such level */
export function checkIsolationLevel(method: string, level: string | undefined): void {
  if (level !== undefined && !isolationLevels.includes(level)) throw usage.isolationLevel(method, level, 'SQL')
}

/** The two phases of a call. */
interface Work<P, R> {
  /** First, the statements of this library. Retried after a conflict, which wrote nothing. */
  readonly statements: (context: QueryContext, state: TransactionState | undefined) => Promise<P>
  /** Then the user's callback, in the same transaction. Retried only if the user passed `retry`. */
  readonly callback?: (prepared: P, context: QueryContext, state: TransactionState) => Promise<R>
}

/** How to run a call that joins no transaction. */
interface Plan {
  readonly opensTransaction: boolean
  readonly isolationLevel?: Transaction.ISOLATION_LEVELS | undefined
  /** The option of the user. */
  readonly retry?: RetryOptions | undefined
}

/**
 * Runs the work of a call in the joined transaction; else in a new transaction or as single statements, with retries
 * after a conflict. Opens transactions, queues writers, retries, and translates errors. Only `readOutside` and
 * `withOptimisticLock` do without it.
 */
export async function execute<P, R = P>(call: Call, work: Work<P, R>, plan: Plan): Promise<R> {
  let hasCallbackStarted = false
  let attempts = 0
  const runBoth = async (context: QueryContext, state: TransactionState | undefined): Promise<R> => {
    const prepared = await work.statements(context, state)
    hasCallbackStarted = true
    return work.callback!(prepared, context, state!)
  }
  const run = work.callback ? runBoth : (work.statements as unknown as typeof runBoth)
  const attempt = (): Promise<R> => {
    hasCallbackStarted = false
    attempts++
    if (plan.opensTransaction) return openTransaction(call, plan, run)
    return enqueueWriter(call, () => run(call, undefined))
  }
  const isRetryable = (error: unknown): boolean => {
    if (error instanceof AfterCommit) return false
    if (!work.callback) return isConflict(error)
    return plan.retry
      ? isConflict(error) || (error instanceof OptimisticLockError && !ConflictError.isSkipped(error))
      : !hasCallbackStarted && isConflict(error)
  }
  try {
    const { method, row, transaction, logging, dialect } = call
    if (transaction) return await run({ method, row, transaction, logging }, watchTransaction(transaction, dialect))
    return await retry(call, attempt, isRetryable, plan.retry ?? statementRetries)
  } catch (error) {
    if (error instanceof AfterCommit) throw error.cause as Error
    if (!hasCallbackStarted) throw toLibraryError(error, call)
    throw plan.retry ? toExhaustedError(error, call, attempts) : error
  }
}

/** Runs statements in a savepoint of the transaction that a call has joined, or in the transaction that it has opened. */
export function inSavepoint<R>(
  { session, transaction, logging }: Call,
  context: QueryContext,
  statements: (context: QueryContext) => Promise<R>,
): Promise<R> {
  if (!transaction) return statements(context)
  const options = { transaction, ...(logging !== undefined && { logging }), [checkedBy]: 'library' }
  return session.sequelize.transaction(options, (savepoint) => statements({ ...context, transaction: savepoint }))
}

/** Wraps an error that a hook threw after a successful COMMIT: do not restore, retry or translate. */
class AfterCommit extends Error {}

/**
 * Opens a transaction that may write, runs `work` in it, and commits; rolls back if `work` throws.
 * @throws {UnknownOutcomeError} the connection was lost after COMMIT was sent
 * @throws {RolledBackError} the database rolled back instead of committing
 */
async function openTransaction<R>(
  call: Call,
  { isolationLevel }: Plan,
  work: (context: QueryContext, state: TransactionState) => Promise<R>,
): Promise<R> {
  const { method, session, dialect, row, logging } = call
  const { sequelize } = session
  if (isolationLevel !== undefined && !dialect.isolationLevels.includes(isolationLevel)) {
    throw usage.isolationLevel(method, isolationLevel, dialect.name)
  }
  const wait = slotWaitOf(call)
  // IMMEDIATE takes SQLite's write lock at once: after a read, a transaction cannot get it once another session has
  // written. The wait of BEGIN IMMEDIATE cannot be limited: with a timeout, BEGIN is DEFERRED and the first statement
  // takes the lock.
  const type = Transaction.TYPES[wait ? 'DEFERRED' : 'IMMEDIATE']
  const options = {
    ...(isolationLevel && { isolationLevel }),
    ...(logging !== undefined && { logging }),
    ...(dialect.writerQueue && { type }),
    [checkedBy]: 'library',
  }
  let state: TransactionState | undefined
  let isCommitting = false
  const run = async (transaction: Transaction): Promise<R> => {
    state = watchTransaction(transaction, dialect)
    state.own()
    const result = await work({ method, row, transaction, logging }, state)
    isCommitting = true
    return result
  }
  try {
    const result = await enqueueWriter(call, () => sequelize.transaction(options, run), wait)
    if (state?.commitError) throw state.commitError as Error
    return result
  } catch (error) {
    if (state?.outcome === 'committed') throw new AfterCommit('', { cause: error })
    // BEGIN failed: SQLite is locked.
    if (!state) noteFailure(error, dialect)
    state?.restoreRows()
    if (!isCommitting) throw error
    throw failureOf(error) === 'lost'
      ? new UnknownOutcomeError(method, row, 'COMMIT', error)
      : toLibraryError(error, call)
  }
}

/** The maximum wait in the writer queue of the process, if the call limits its wait for the lock. */
function slotWaitOf({ method, row, dialect, timeoutMs }: Call): SlotWait | undefined {
  if (timeoutMs === undefined || !row) return undefined
  return { timeoutMs, error: () => new LockTimeoutError(method, row, timeoutMs, dialect.lockHolders) }
}

const conflicts: readonly (Failure | undefined)[] = ['deadlock', 'conflict', 'read-only', 'not ready']

/** Whether the error is a conflict with another session, or a failover: nothing was written, a retry may succeed. */
export function isConflict(error: unknown): boolean {
  return conflicts.includes(failureOf(error))
}

/**
 * Translates the error for a primary key that its column cannot represent, such as 'x' for a UUID that the model declares as
 * a STRING: no row can have it. The key is the last bind of a statement that finds a row.
 */
export function toMissingRow(error: unknown, { method, dialect }: Call, row: RowFacts): unknown {
  if (!(error instanceof DatabaseError)) return error
  const { parameters, sql } = error as { parameters: unknown; sql: string }
  if (!Array.isArray(parameters) || sql.startsWith('INSERT')) return error
  const bind = dialect.refusedBind?.(error.parent, parameters)
  if (bind === undefined) return error
  const isOfKey = bind > parameters.length - Object.keys(row.primaryKey).length
  return isOfKey ? new RowNotFoundError(method, row, error) : error
}

/** Translates the error of a failed statement: a lock timeout or a conflict becomes an error class of this library. */
export function toLibraryError(error: unknown, call: Call): unknown {
  const { method, row, dialect, transaction, timeoutMs, session } = call
  if (!row || isLosslessError(error)) return error
  const failure = failureOf(error)
  if (failure === 'lock timeout') {
    const isOwnLock = !transaction && innermostPlainScope(session) !== undefined
    return new LockTimeoutError(method, row, timeoutMs, dialect.lockHolders, error, isOwnLock)
  }
  const reason = reasonOf(failure)
  if (!reason) return toMissingRow(error, call, row)
  return new ConflictError(method, row, reason, ConflictError.remedy(method, !!transaction), error)
}

/** Translates the error of the last attempt of a callback: a conflict becomes a {@link ConflictError}. */
function toExhaustedError(error: unknown, { method, row }: Call, attempts: number): unknown {
  const reason = error instanceof DatabaseError && reasonOf(failureOf(error))
  if (!reason) return error
  const remedy = `Call ${method}() again later, or with more maxAttempts.`
  const attempt = attempts === 1 ? 'the only attempt' : `the last of ${attempts} attempts`
  return new ConflictError(method, row, `${reason} in ${attempt}`, remedy, error)
}

/** The text for a conflict in an error. */
function reasonOf(failure: Failure | undefined): string | undefined {
  if (failure === 'deadlock') return 'a deadlock'
  if (failure === 'not ready') return 'a node that is not in its cluster at the moment'
  return failure === 'conflict' ? 'a change made by another session since this transaction began' : undefined
}

/** How often to wait for the statements that a callback left in progress, before further statements are refused. */
const maxLateRounds = 100

// Bound when the module loads: fake timers in tests must not block a callback.
const nextTick = process.nextTick.bind(process)

/** Resolves after the pending microtasks have run. */
function microtasksDone(): Promise<void> {
  return new Promise((resolve) => {
    nextTick(resolve)
  })
}

/**
 * Runs a callback that has a transaction. Refuses a write in it outside the transaction, and every later statement of a
 * branch that the callback did not await.
 * @param sharesTransaction the transaction has work outside of the callback, such as the write that calls onWrite
 * @throws {PendingStatementsError} the callback returned while a statement of it was in progress
 * @throws {RolledBackError} the transaction was rolled back although the callback succeeded
 * @throws {UsageError} the callback returned a value that has not started to run, such as an Observable
 */
export async function runCallback<R>(
  { method, session: { sequelize }, transaction: joined }: Call,
  state: TransactionState,
  transaction: Transaction,
  fn: () => R | Promise<R>,
  sharesTransaction: boolean = joined !== undefined,
): Promise<R> {
  const scope: Scope = {
    method,
    sequelize,
    transaction,
    outermost: state.transaction,
    outer: currentContext().scope,
    isOver: false,
  }
  const isJoined = joined !== undefined
  // The write around it is not complete.
  if (method === 'onWrite') state.refuseCommit(transaction, scope)
  try {
    const returned = runWith({ scope }, fn)
    // The work of a query builder begins when it is awaited: in the scope.
    const result = await (isLazy(returned) ? runWith({ scope }, async () => await returned) : returned)
    await microtasksDone()
    const around = sharesTransaction ? scope : undefined
    const work = [...state.work.of(around), ...state.savepoints.of(around)]
    if (work.length > 0) {
      const own = work.filter(({ isPart }) => !isPart)
      // In onWrite, all statements are part of the write.
      const descriptions = (own.length > 0 ? own : work).map(({ description }) => description)
      await settleWork(state, scope, sharesTransaction)
      throw new PendingStatementsError(method, descriptions, isJoined)
    }
    if (isNotBegun(result)) throw usage.notBegun(method, result)
    if (state.outcome === 'committed') throw usage.committedByCallback(method)
    // A savepoint can be rolled back alone.
    const isRolledBack = state.outcome === 'rolled back' || finishedState(transaction) === 'rollback'
    if (isRolledBack || state.isDoomed) throw state.rolledBackError(method, isJoined)
    return result
  } catch (error) {
    scope.isOver = true
    // A row method that ends after the rollback would change the instance again.
    await settleWork(state, scope, sharesTransaction)
    throw error
  } finally {
    scope.isOver = true
  }
}

async function settleWork(state: TransactionState, scope: Scope, sharesTransaction: boolean): Promise<void> {
  for (let round = 0; round < maxLateRounds; round++) {
    const work = state.work.of(sharesTransaction ? scope : undefined)
    if (work.length === 0) return
    await Promise.all(work.map(({ settled }) => settled))
    await microtasksDone()
  }
}

/** Whether a value is a promise of its own kind, whose work may start when it is awaited. */
function isLazy<R>(value: R | Promise<R>): boolean {
  const isObject = typeof value === 'object' && value !== null
  return isObject && !(value instanceof Promise) && 'then' in value && typeof value.then === 'function'
}

/** Whether a value is lazy: its work starts on subscription (Observable) or iteration (generator). */
function isNotBegun(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  if ('subscribe' in value && typeof value.subscribe === 'function') return true
  return /^\[object (Async)?Generator\]$/.test(Object.prototype.toString.call(value))
}
