import type { Logging, Model, Transaction, Transactionable } from 'sequelize'
import { RowNotFoundError, UnsavedChangesError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { checkOptions } from '../errors/check-options.js'
import { selectRow } from '../rows/read-row.js'
import type { RowRead } from '../rows/read-row.js'
import { identifyTarget, identifyTargets } from '../rows/row-query.js'
import { refuseDuplicates, refuseRoundedKey, RowRef } from '../rows/row-ref.js'
import type { Target } from '../rows/row-ref.js'
import { assignStored, refuseUnsavedChanges, rowStateOf, unsavedColumns } from '../rows/row-state.js'
import { traceCall } from '../sequelize/channels.js'
import { modelOf, valuesOf } from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import type { QueryContext } from '../sequelize/send.js'
import {
  checkIsolationLevel,
  execute,
  factsOf,
  runCallback,
  startCall,
  toLibraryError,
} from '../transactions/execute.js'
import type { Call } from '../transactions/execute.js'
import { withRows } from '../transactions/find-row.js'
import { isInScope, lockTransaction, transactionOption, transactionToJoin } from '../transactions/join.js'
import { lockingRead } from '../transactions/lock-wait.js'
import { checkRetryOptions } from '../transactions/retry.js'
import { joinRowMethods } from '../transactions/row-methods.js'
import type { RetryOptions } from '../transactions/retry.js'
import { tooDeepError } from '../transactions/save-digits.js'
import type { TransactionState } from '../transactions/transaction-state.js'
import { watchTransaction } from '../transactions/watch.js'
import { claimInstances, refuseOtherHolder } from './claims.js'

/** How long to wait for a row that another session has locked. */
export interface LockWaitOptions {
  /**
   * The maximum wait in milliseconds, an integer from 1 (MariaDB: rounded up to seconds); then a `LockTimeoutError`.
   * Default: the timeout of the server (50 s on MySQL and MariaDB, none on PostgreSQL).
   */
  readonly timeoutMs?: number
  /** Do not wait: throw a `LockTimeoutError` at once if the row is locked. Default: false. */
  readonly nowait?: boolean
}

export interface LockOptions extends LockWaitOptions, Logging {
  /** The transaction that keeps the lock until it ends. */
  readonly transaction: Transaction
}

export interface WithLockOptions extends LockWaitOptions, Logging, Transactionable {
  /** The isolation level of the new transaction; refused if the call joins one. Default: Sequelize's own. */
  readonly isolationLevel?: Transaction.ISOLATION_LEVELS
  /**
   * Run `fn` again, in a new transaction and with a fresh row, after a deadlock or a conflict; refused if the call
   * joins a transaction. Default: `fn` runs once; the locking read before it has 3 attempts.
   */
  readonly retry?: RetryOptions
}

/**
 * Locks this row until the transaction ends, and refreshes the instance from the locking read. Like Rails' `lock!`.
 *
 * The read is by primary key: no scope or `include` can hide the row or lock others; `beforeFind`
 * hooks do not run, `afterFind` hooks do. All attributes are refreshed, associations stay as they are. Sends, on MySQL:
 *
 *     SELECT `id` AS `id`, `progress` AS `progress`, … FROM `workflow_runs` WHERE `id` = ? FOR UPDATE
 *
 * @param target a row, `[Model, primaryKey]`, or `[Model, { where }]`
 * @returns the same instance; for `[Model, …]`, a new one
 * @throws {UsageError} before any SQL: no transaction, or a finished or read-only one; a row never saved. After the look-up:
 *   several rows meet the `where`
 * @throws {UnsavedChangesError} before any SQL: the row has unsaved changes
 * @throws {RowNotFoundError} the row was deleted, or no row meets the `where`
 * @throws {ConflictError} a deadlock, or a row newer than the transaction's snapshot
 * @throws {LockTimeoutError} another session held the lock longer than `timeoutMs`, or the timeout of the server
 * @example
 *     await sequelize.transaction(async (transaction) => {
 *       await lock(run, { transaction })
 *       await run.update({ status: 'done' }, { transaction })
 *     })
 * @see https://dev.mysql.com/doc/refman/9.7/en/innodb-locking-reads.html
 */
export async function lock<M extends Model>(target: Target<M>, options: LockOptions): Promise<M> {
  const method = 'lock'
  const { transaction, logging, ...wait } = checkOptions(method, options, [
    'transaction',
    'timeoutMs',
    'nowait',
    'logging',
  ])
  const timeoutMs = checkWait(method, wait)
  const row = identifyTarget(method, target)
  if (!transaction) throw usage.transactionMissing(method)
  const { session, facts } = row
  transactionToJoin(method, session, transaction, undefined)
  refuseOtherHolder(method, row, transaction)
  refuseUnsavedChanges(method, row, transactionOption(session, transaction))
  const call = await startCall({ method, session, row: facts, transaction, logging, timeoutMs })
  const locked = await traceCall(call, () =>
    withRows(call, [row], ([ref], own) =>
      execute(
        own,
        { statements: (context, state) => acquireLock(own, ref!, context, state!, isInScope(transaction)) },
        { opensTransaction: false },
      ),
    ),
  )
  return locked as M
}

/**
 * Runs `fn` while this row is locked: no other session can change it between the read and the write of `fn`. Like
 * Rails' `with_lock`.
 *
 * Opens a transaction (or joins the one given, or Sequelize's ambient one), locks and refreshes the row in one read,
 * runs `fn(row, transaction)`, commits, and returns the result of `fn`. Concurrent callers run one after the other:
 * each reads the changes of the callers before it. Sends, on MySQL:
 *
 *     START TRANSACTION
 *     SELECT `id` AS `id`, `progress` AS `progress`, … FROM `workflow_runs` WHERE `id` = ? FOR UPDATE
 *     UPDATE `workflow_runs` SET `progress`=?,`updatedAt`=? WHERE `id` = ?      -- what fn does
 *     COMMIT
 *
 * Inside `fn`, the row's own methods (`save`, `update`, `destroy`, `reload`, `increment`, `decrement`, `restore`, and
 * those of this library) join the transaction without an option; every other write needs `{ transaction }`, and is
 * refused without it. `save()` also writes a document that was changed in place (`run.progress.step_a = 'done'`). If
 * `fn` throws, the transaction is rolled back and the instance is restored; a joined transaction stays open, and its
 * owner rolls it back.
 *
 * For `[Model, { where }]`, the row is looked up first, before the transaction opens, or in a joined one with a lock; the
 * locking read matches it only if it still meets the `where`, else it is looked up again.
 *
 * @param target a row; `[Model, primaryKey]`, which needs no earlier read; or `[Model, { where }]`: exactly one row
 * @throws {UsageError} before any SQL: a row never saved, a model without primary key, a read-only transaction. After the
 *   look-up: several rows meet the `where`
 * @throws {UnsavedChangesError} before any SQL: the row has unsaved changes; or after a rollback: `fn` left some
 * @throws {RowNotFoundError} the row was deleted, or no row meets the `where`; `fn` does not run
 * @throws {OutsideTransactionError} a write in `fn` is not part of the transaction
 * @throws {ConflictError} the lock failed: a deadlock, or a row newer than the joined transaction's snapshot; or, with
 *   `retry`, the last attempt of `fn` ended in such a conflict
 * @throws {LockTimeoutError} another session held the lock longer than `timeoutMs`, or the timeout of the server
 * @throws {UnknownOutcomeError} the connection was lost after COMMIT was sent
 * @example
 *     await run.withLock(async (run) => {
 *       run.progress.step_a = 'done'
 *       await run.save()
 *     })
 * @see https://dev.mysql.com/doc/refman/9.7/en/innodb-locking-reads.html
 */
export function withLock<M extends Model, R>(
  target: Target<M>,
  fn: (row: M, transaction: Transaction) => R | Promise<R>,
  options: WithLockOptions = {},
): Promise<R> {
  return runLocked('withLock', [target], ([row], transaction) => fn(row as M, transaction), options, fn)
}

/** The types of the rows of targets, in the same order. */
export type RowsOf<T extends readonly Target<Model>[]> = {
  [I in keyof T]: T[I] extends Target<infer M> ? M : never
}

/**
 * Runs `fn` while several rows are locked: {@link withLock} for more than one row, with one locking read for each.
 * Locks the rows in the order of table and primary key, whatever the order of `targets`: concurrent calls do not
 * deadlock on these rows. In a joined transaction, targets by `where` are locked in the order of `targets`.
 *
 * Deadlocks are still possible: through other statements, through foreign keys (an insert or update of a child row
 * locks its parent), and through keys that only the collation of the database considers equal, such as 'é' and 'e'.
 * `retry` runs such a call again.
 *
 * @param targets rows, `[Model, primaryKey]` or `[Model, { where }]`, of one Sequelize instance, each row once
 * @param fn      gets the rows in the order of `targets`
 * @throws the errors of {@link withLock}
 * @example
 *     await withLocks([[Account, 1], [Account, 2]], async ([from, to]) => {
 *       await from.decrement('cents', { by: 100 })
 *       await to.increment('cents', { by: 100 })
 *     })
 */
export function withLocks<const T extends readonly Target<Model>[], R>(
  targets: T,
  fn: (rows: RowsOf<T>, transaction: Transaction) => R | Promise<R>,
  options: WithLockOptions = {},
): Promise<R> {
  return runLocked('withLocks', targets, (rows, transaction) => fn(rows as RowsOf<T>, transaction), options, fn)
}

const lockOptionNames = ['transaction', 'isolationLevel', 'timeoutMs', 'nowait', 'retry', 'logging'] as const

/** {@link withLocks}, with the texts of errors of another method; `given` is the callback of its caller. */
export async function runLocked<R>(
  method: string,
  targets: readonly Target<Model>[],
  fn: (rows: readonly Row[], transaction: Transaction) => R | Promise<R>,
  options: WithLockOptions,
  given: unknown,
): Promise<R> {
  const {
    transaction,
    isolationLevel,
    logging,
    retry: policy,
    ...wait
  } = checkOptions(method, options, lockOptionNames)
  const timeoutMs = checkWait(method, wait)
  const retry = checkRetryOptions(method, policy)
  checkIsolationLevel(method, isolationLevel)
  if (typeof given !== 'function') throw usage.callback(method, given)
  const targeted = identifyTargets(method, targets)
  const { session, facts } = targeted[0]!
  const holding = targeted.find(({ instance }) => lockTransaction(instance))
  const joined = transactionToJoin(method, session, transaction, holding?.instance)
  if (joined && isolationLevel !== undefined) throw usage.isolationLevelJoined(method)
  if (joined && retry) throw usage.retryJoined(method)
  for (const target of targeted) {
    refuseOtherHolder(method, target, joined)
    refuseUnsavedChanges(method, target, transactionOption(session, joined))
  }

  const claim = claimInstances(targeted)
  try {
    const call = await startCall({ method, session, row: facts, transaction: joined, logging, timeoutMs })
    const run = (refs: readonly RowRef[], own: Call): Promise<R> => {
      refuseDuplicates(method, refs)
      const acquire = (context: QueryContext, state: TransactionState): Promise<readonly Row[]> => {
        claim.transaction = context.transaction
        return acquireLocks(own, refs, context, state)
      }
      const locked = (): Promise<R> =>
        runUnderLocks(own, acquire, fn, { opensTransaction: true, isolationLevel, retry })
      if (!joined) return locked()
      const keys = refs.map(({ looseKey }) => looseKey).sort()
      return watchTransaction(joined, own.dialect).runCallbacks(method, keys, locked)
    }
    return await traceCall(call, () => withRows(call, targeted, run))
  } finally {
    claim.isReleased = true
  }
}

/** Runs `fn` with the rows that `acquire` has locked, in the transaction of the call or in a new one. */
export async function runUnderLocks<R>(
  call: Call,
  acquire: (context: QueryContext, state: TransactionState) => Promise<readonly Row[]>,
  fn: (rows: readonly Row[], transaction: Transaction) => R | Promise<R>,
  plan: Parameters<typeof execute>[2],
): Promise<R> {
  let rows: readonly Row[] = []
  try {
    return await execute(
      call,
      {
        async statements(context, state) {
          rows = await acquire(context, state!)
          return rows
        },
        async callback(_rows, context, state) {
          const result = await runCallback(call, state, context.transaction!, () => fn(rows, context.transaction!))
          refuseLeftChanges(call, rows)
          return result
        },
      },
      plan,
    )
  } finally {
    for (const row of rows) rowStateOf(row).endCallback(isInScope)
  }
}

/** Locks the rows in the order of their keys; returns their instances in the order of `refs`. */
async function acquireLocks(
  call: Call,
  refs: readonly RowRef[],
  context: QueryContext,
  state: TransactionState,
): Promise<readonly Row[]> {
  const [only, ...more] = refs as [RowRef, ...RowRef[]]
  if (more.length === 0) return [await acquireLock(call, only, context, state, true)]
  const keys = refs.map(({ looseKey }) => looseKey)
  const order = [...refs.keys()].sort((one, other) => (keys[one]! < keys[other]! ? -1 : 1))
  const rows: Row[] = []
  for (const index of order) rows[index] = await acquireLock(call, refs[index]!, context, state, true)
  // The database may consider two spellings of a key equal.
  refuseDuplicates(
    call.method,
    rows.map((row) => RowRef.of(row)),
  )
  return rows
}

/** @throws {UnsavedChangesError} the callback left unsaved changes */
function refuseLeftChanges({ method, transaction }: Call, rows: readonly Row[]): void {
  for (const row of rows) {
    const changed = unsavedColumns({ instance: row, model: modelOf(row) })
    if (changed.length > 0) {
      const { facts } = RowRef.of(row)
      throw UnsavedChangesError.leftByCallback(method, facts, changed, { isJoined: transaction !== undefined })
    }
  }
}

/** @returns the maximum wait for a lock in milliseconds; 0 does not wait, `undefined` is the timeout of the server */
function checkWait(method: string, { timeoutMs, nowait }: LockWaitOptions): number | undefined {
  if (nowait !== undefined && (typeof nowait !== 'boolean' || (nowait && timeoutMs !== undefined))) {
    throw usage.nowait(method, nowait)
  }
  if (nowait) return 0
  const isTimeout = Number.isSafeInteger(timeoutMs) && timeoutMs! >= 1 && timeoutMs! < 2 ** 31
  if (timeoutMs !== undefined && !isTimeout) throw usage.timeout(method, timeoutMs)
  return timeoutMs
}

/**
 * Locks and reads a row; returns the instance of `ref`, refreshed, or a new one.
 * @param isScoped only code in the callback of the transaction joins the lock
 * @throws {RowNotFoundError} the row does not exist
 * @throws {UsageError} the driver has rounded its primary key
 */
export function acquireLock(
  call: Call,
  ref: RowRef,
  context: QueryContext,
  state: TransactionState,
  isScoped: boolean,
): Promise<Row> {
  const lockRow = async (): Promise<Row> => {
    let read: RowRead | undefined
    try {
      read = await lockingRead(call, ref, context, (hint, clause) =>
        selectRow(ref, call.dialect, context, hint, clause),
      )
    } catch (error) {
      // The call may be for several rows.
      throw toLibraryError(error, { ...call, row: factsOf(call, ref) })
    }
    if (!read) throw new RowNotFoundError(call.method, factsOf(call, ref))
    const { row: fresh, texts } = read
    refuseRoundedKey(call.method, factsOf(call, ref), ref.model, fresh)
    const instance = ref.instance ?? fresh
    if (instance !== fresh) {
      // Checked again: a change that was made while this call waited would be lost.
      refuseUnsavedChanges(call.method, ref, call.row?.option)
      state.remember(instance, context.transaction)
      assignStored(instance, valuesOf(fresh))
    }
    // A model that another definition of its name has replaced is not among those that the instance of Sequelize lists.
    joinRowMethods(ref.model)
    const rowState = rowStateOf(instance)
    rowState.acquire(context.transaction!, isScoped, texts)
    state.addLockedRow(instance, context.transaction)
    for (const column of texts.keys()) {
      if (rowState.isTooDeep(column)) throw tooDeepError(call.method, column)
    }
    return instance
  }
  // After the calls for the row that are in progress: a write whose function onWrite fails is undone.
  return call.transaction ? state.runCall(ref.looseKey, `${call.method}()`, lockRow) : lockRow()
}
