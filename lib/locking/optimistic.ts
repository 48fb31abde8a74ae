import type { Logging, Model, Transactionable } from 'sequelize'
import { checkOptions } from '../errors/check-options.js'
import {
  ConflictError,
  RowNotFoundError,
  StaleRowError,
  UnknownOutcomeError,
  UnsupportedValueError,
} from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { identifyTarget } from '../rows/row-query.js'
import { refuseRoundedKey } from '../rows/row-ref.js'
import type { RowRef, Target } from '../rows/row-ref.js'
import { assignStored, refuseUnsavedChanges, rowStateOf } from '../rows/row-state.js'
import { traceCall } from '../sequelize/channels.js'
import { changedAttributes, keyFormat, valuesOf, versionAttribute } from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import { failureOf, sendForRows, statementRetry } from '../sequelize/send.js'
import { Statement } from '../sequelize/statement.js'
import { factsOf, isConflict, startCall, toLibraryError, toMissingRow } from '../transactions/execute.js'
import type { Call } from '../transactions/execute.js'
import { withRows } from '../transactions/find-row.js'
import { callWithoutWrites, transactionOption, transactionToJoin } from '../transactions/join.js'
import { checkRetryOptions, retry } from '../transactions/retry.js'
import type { RetryOptions } from '../transactions/retry.js'
import { enqueueWriter } from '../transactions/writer-queue.js'
import { claimInstances, refuseOtherHolder } from './claims.js'
import { runLocked } from './lock.js'
import { selectRow } from '../rows/read-row.js'
import type { RowRead } from '../rows/read-row.js'

export interface WithOptimisticLockOptions extends Logging, Transactionable {
  /** The attempts, and the pauses between them; refused if the call joins a transaction. Default: 5 attempts. */
  readonly retry?: RetryOptions
}

/**
 * Reads the row, runs `fn(row)`, and saves the changes of `fn`; if another session has written the row in between,
 * starts again from a fresh read. For models with `version: true`; no caller waits for a lock. Like Rails' optimistic
 * locking, with the retry loop.
 *
 * Every writer must increment the version: `save`, `update` and `increment` of an instance and the JSON methods of this
 * library do; `Model.update`, `bulkCreate` and raw SQL do not. A hook that fails after the UPDATE does not undo it. Use
 * {@link withLock} for rows with many concurrent writers: a conflict costs a wait there, and a repetition here. `fn`
 * may run several times, and must have no side effects that cannot be undone. Sends, on MySQL:
 *
 *     SELECT `id` AS `id`, `progress` AS `progress`, … FROM `workflow_runs` WHERE `id` = ?
 *     UPDATE `workflow_runs` SET `progress`=?,`updatedAt`=?,`version`=? WHERE `id` = ? AND `version` = ?
 *
 * In a transaction, passed or ambient, this is {@link withLock}: the read locks the row and `fn` runs once, because
 * every later read would return the same old snapshot.
 *
 * @returns the result of `fn`
 * @throws {UsageError} before any SQL: a model without `version: true`; a row never saved
 * @throws {UnsavedChangesError} before any SQL: the row has unsaved changes
 * @throws {RowNotFoundError} the row was deleted
 * @throws {StaleRowError} other sessions wrote the row in every attempt; nothing was written, the instance is restored
 * @throws {ConflictError} the database skipped the row: a trigger, a rule or a policy of row-level security
 * @throws {UnknownOutcomeError} the connection was lost after the UPDATE was sent
 * @example
 *     await run.withOptimisticLock((run) => {
 *       run.progress.step_a = 'done'
 *     })
 * @see https://sequelize.org/docs/v6/other-topics/optimistic-locking/
 */
export async function withOptimisticLock<M extends Model, R>(
  target: Target<M>,
  fn: (row: M) => R | Promise<R>,
  options: WithOptimisticLockOptions = {},
): Promise<R> {
  const method = 'withOptimisticLock'
  const { transaction, logging, ...checked } = checkOptions(method, options, ['transaction', 'retry', 'logging'])
  const policy = checkRetryOptions(method, checked.retry)
  if (typeof fn !== 'function') throw usage.callback(method, fn, 'row')
  const row = identifyTarget(method, target)
  const { session, facts, model, instance } = row
  if (versionAttribute(model) === undefined) throw usage.noVersion(method, model.name)
  const joined = transactionToJoin(method, session, transaction, instance)
  if (joined && policy) throw usage.retryJoined(method)
  const loggingOption = logging === undefined ? {} : { logging }
  if (joined) {
    const locked = async ([row]: readonly Row[]): Promise<R> => {
      const result = await callWithoutWrites(method, row as unknown as M, fn)
      await row!.save(loggingOption)
      return result
    }
    return runLocked(method, [target], locked, { transaction: joined, ...loggingOption }, fn)
  }
  refuseOtherHolder(method, row, undefined)
  refuseUnsavedChanges(method, row, transactionOption(session, undefined))
  const claim = claimInstances([row])
  try {
    const call = await startCall({ method, session, row: facts, transaction: undefined, logging })
    let attempts = 0
    const save = (): Promise<R> =>
      withRows(call, [row], ([ref], own) =>
        retry(
          own,
          () => attemptSave(own, ref!, (row) => fn(row as unknown as M), ++attempts),
          (error) => error instanceof StaleRowError || (isConflict(error) && !(error instanceof CallbackFailed)),
          policy ?? {},
        ),
      ).catch((error: unknown) => {
        throw error instanceof CallbackFailed ? error.cause : error
      })
    return await traceCall(call, save)
  } finally {
    claim.isReleased = true
  }
}

/** Wraps an error of the callback, or of a hook that ran after the row was saved: `fn` must not run again. */
class CallbackFailed extends Error {}

/** Reads the row, runs `fn` on it, and saves it if its version is still the one that was read. */
async function attemptSave<R>(call: Call, ref: RowRef, fn: (row: Row) => R | Promise<R>, attempts: number): Promise<R> {
  const { method } = call
  const { row: fresh, texts } = await readVersioned(call, ref)
  const row = ref.instance ?? fresh
  // Checked again: a change that was made while this call read would be lost.
  refuseUnsavedChanges(method, ref, call.row?.option)
  const state = rowStateOf(row)
  const restore = state.snapshot()
  assignStored(row, valuesOf(fresh))
  state.recordVersionedRead(texts)
  const markChangesInPlace = state.trackChangesInPlace()
  let result: R
  try {
    result = await callWithoutWrites(method, row, fn)
  } catch (error) {
    restore()
    throw new CallbackFailed('', { cause: error })
  }
  markChangesInPlace()
  if (changedAttributes(row).length > 0) await saveVersioned(call, ref, row, attempts, restore)
  return result
}

/**
 * Reads a row, and checks that its version can be compared.
 * @throws {RowNotFoundError} the row does not exist
 * @throws {UsageError} the version is NULL or was not read, or the driver has rounded the primary key
 */
async function readVersioned(call: Call, ref: RowRef): Promise<RowRead> {
  const { method, dialect } = call
  const facts = factsOf(call, ref)
  const read = await selectRow(ref, dialect, call).catch((error: unknown) => {
    throw toMissingRow(error, call, facts)
  })
  if (!read) throw new RowNotFoundError(method, facts)
  refuseRoundedKey(method, facts, ref.model, read.row)
  const version = versionAttribute(ref.model)!
  refuseMissingVersion(method, ref, version, valuesOf(read.row)[version])
  return read
}

/**
 * Saves the changes of a callback, if the row still has the version that was read.
 * @param restore puts the instance back to its state before the callback
 * @throws {StaleRowError} another session has changed the row since
 */
async function saveVersioned(call: Call, ref: RowRef, row: Row, attempts: number, restore: () => void): Promise<void> {
  const { method, session, logging } = call
  const state = rowStateOf(row)
  const columns = changedAttributes(row)
  const options = {
    ...keyFormat(row),
    transaction: null,
    retry: statementRetry(session),
    ...(logging !== undefined && { logging }),
  }
  // A write on this instance that was in flight may have moved it: its changes are in memory, too.
  const versionCompared = valuesOf(row)[versionAttribute(ref.model)!]
  try {
    state.isSavingVersion = true
    state.versionedRows = undefined
    await enqueueWriter(call, () => row.save(options))
  } catch (error) {
    // A hook failed after the UPDATE: the row is saved.
    if (state.versionedRows! > 0) {
      assignStored(row, Object.fromEntries(columns.map((column) => [column, valuesOf(row)[column]])))
      throw new CallbackFailed('', { cause: error })
    }
    restore()
    // No row has the version. Before the UPDATE, a hook may have failed for the version of another row.
    if (state.versionedRows === 0) {
      await refuseSkippedRow(call, ref, columns, versionCompared)
      throw StaleRowError.afterAttempts(method, factsOf(call, ref), attempts, columns, error)
    }
    throw failureOf(error) === 'lost'
      ? new UnknownOutcomeError(method, factsOf(call, ref), 'the write', error)
      : toLibraryError(error, call)
  } finally {
    state.isSavingVersion = false
  }
}

/** @throws {ConflictError} the database skipped the row: the version that its UPDATE compared is still the stored one */
async function refuseSkippedRow(
  call: Call,
  { model, primaryKey, facts }: RowRef,
  columns: readonly string[],
  versionRead: unknown,
): Promise<void> {
  const { method, session, dialect } = call
  if (!dialect.skipsRows) return
  const select = new Statement({ session, model })
  const version = `${select.column(versionAttribute(model)!)} AS ${select.alias('version')}`
  const sql = `SELECT ${version} FROM ${select.table()} WHERE ${select.row(primaryKey)}`
  const [stored] = await sendForRows<{ version: unknown }>(session, sql, select.binds, call)
  if (!stored || Number(stored.version) !== Number(versionRead)) return
  throw ConflictError.skipped(method, facts, columns, dialect.skipsRows('UPDATE'))
}

/** @throws {UnsupportedValueError} the version is NULL: in SQL, NULL equals no NULL, so no conflict is detected */
function refuseMissingVersion(method: string, { model }: RowRef, column: string, version: unknown): void {
  if (version !== null && version !== undefined) return
  throw new UnsupportedValueError(
    method,
    `"${column}" of this ${model.name} is NULL, which cannot detect a concurrent change`,
    `Migrate: UPDATE … SET ${column} = 0 WHERE ${column} IS NULL, and make the column NOT NULL DEFAULT 0.`,
    column,
  )
}
