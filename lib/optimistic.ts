import { OptimisticLockError } from 'sequelize'
import type { Logging, Model, Transactionable } from 'sequelize'
import { dialectOf, failureOf, sequelizeOf, statementRetry, versionAttribute } from './database.js'
import type { Dialect } from './dialects/dialect.js'
import { RowNotFoundError, StaleRowError, UnknownOutcomeError, UnsupportedValueError } from './errors/errors.js'
import { usage } from './errors/usage.js'
import { adopt, heldTransaction, refuseUnsavedChanges, snapshot, trackChangesInPlace, values } from './instance.js'
import { claim, refuseOtherHolder, selectRow, withLock } from './lock.js'
import { oneWriter } from './queue.js'
import { checkRetryOptions, retry } from './retry.js'
import type { RetryOptions } from './retry.js'
import { checkOptions, facts, identify } from './target.js'
import type { Identity, Target } from './target.js'
import { isRetryable, transactionFor, translated } from './transaction.js'

export interface WithOptimisticLockOptions extends Logging, Transactionable {
  /** How often `fn` may run, and the pauses between; refused where a transaction is joined. Default: 5 attempts. */
  readonly retry?: RetryOptions
}

/**
 * Reads the row, runs `fn(row)` on it, and saves what `fn` changed, unless somebody has written the row in between: then
 * again, from a fresh read. For a model with `version: true`; nobody waits for anybody. Rails' optimistic locking, with
 * the loop.
 *
 * A hook after the UPDATE that fails does not undo it. Every writer must move the version: `save`, `update`, `increment` of an instance, and the JSON methods of this library
 * do; `Model.update`, `bulkCreate` and raw SQL do not. Choose {@link withLock} for rows that many write: there a
 * conflict costs a wait, here a repetition. `fn` may run several times and has to leave alone what cannot be undone.
 * Sends, on MySQL:
 *
 *     SELECT `id` AS `id`, `progress` AS `progress`, … FROM `workflow_runs` WHERE `id` = ?
 *     UPDATE `workflow_runs` SET `progress`=?,`updatedAt`=?,`version`=? WHERE `id` = ? AND `version` = ?
 *
 * In a transaction, the one given or the ambient one, the read locks the row, since every later read would show the same
 * old snapshot: it is {@link withLock} there, and `fn` runs once.
 *
 * @returns what `fn` returned
 * @throws {UsageError} before any SQL: a model without `version: true`; a row never saved
 * @throws {UnsavedChangesError} before any SQL: the row has unsaved changes
 * @throws {RowNotFoundError} the row was deleted
 * @throws {StaleRowError} others wrote the row in every attempt; nothing was written, the instance is as it was before
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
  const policy = checked.retry && checkRetryOptions(method, checked.retry)
  if (typeof fn !== 'function') throw usage.callback(method, fn, 'row')
  const identity = identify(method, target)
  const version = versionAttribute(identity.model)
  if (version === undefined) throw usage.noVersion(method, identity.model.name)
  const sequelize = sequelizeOf(identity.model)
  const joined = transactionFor(method, sequelize, transaction, heldTransaction(identity.instance))
  if (joined && policy) throw usage.retryJoined(method)
  if (joined) {
    const locked = async (row: M): Promise<R> => {
      const result = await callWithoutWrites(method, row, fn)
      await row.save(logging === undefined ? {} : { logging })
      return result
    }
    return withLock(target, locked, { transaction: joined, ...(logging !== undefined && { logging }) })
  }
  refuseOtherHolder(method, identity, undefined)
  refuseUnsavedChanges(method, identity, 'before')

  let attempts = 0
  let isSaving = false
  const attempt = async (dialect: Dialect): Promise<R> => {
    attempts++
    isSaving = false
    const fresh = await selectRow(identity, { transaction: undefined, logging })
    if (!fresh) throw new RowNotFoundError(method, facts(identity))
    const versionRead = values(fresh)[version]
    refuseMissingVersion(method, identity, versionRead)
    const row = identity.instance ?? fresh
    // Again: whoever changed it while this call read would lose that.
    refuseUnsavedChanges(method, identity, 'before')
    const restore = snapshot(row)
    adopt(row, values(fresh))
    const markChangesInPlace = trackChangesInPlace(row)
    let columns: readonly string[] = []
    try {
      const result = await callWithoutWrites(method, row as M, fn)
      markChangesInPlace()
      columns = row.changed() || []
      isSaving = true
      const retry = statementRetry(sequelize, false)
      const options = { transaction: null, retry, ...(logging !== undefined && { logging }) }
      const save = (): Promise<unknown> => row.save(options)
      if (columns.length > 0) await oneWriter(method, sequelize, dialect, save)
      return result
    } catch (error) {
      // It was saved, and a hook after that has failed.
      const isSaved = isSaving && values(row)[version] !== versionRead
      if (isSaved) isSaving = false
      else restore()
      if (!isSaving) throw error
      if (error instanceof OptimisticLockError)
        throw StaleRowError.afterAttempts(method, facts(identity), attempts, columns, error)
      if (failureOf(error, dialect) === 'lost') throw new UnknownOutcomeError(method, 'the write', error)
      throw translated(error, dialect, method, facts(identity), undefined)
    }
  }
  const release = claim(identity.instance)
  try {
    const dialect = await dialectOf(sequelize, { transaction: undefined, logging })
    return await retry(
      () => attempt(dialect),
      (error) => isSaving && isRetryable(error, dialect),
      policy ?? {},
    )
  } finally {
    release()
  }
}

const ownWrites = ['save', 'update', 'destroy', 'restore', 'increment', 'decrement'] as const

/** Runs `fn` on a row that refuses to be written meanwhile: what it wrote would be apart from the check that follows. */
async function callWithoutWrites<M extends Model, R>(
  method: string,
  row: M,
  fn: (row: M) => R | Promise<R>,
): Promise<R> {
  const before = ownWrites.map((name) => [name, Object.getOwnPropertyDescriptor(row, name)] as const)
  for (const name of ownWrites) {
    const value = (): never => {
      throw usage.writeInside(method, name)
    }
    Object.defineProperty(row, name, { value, configurable: true, writable: true, enumerable: false })
  }
  try {
    return await fn(row)
  } finally {
    for (const [name, descriptor] of before) {
      if (descriptor) Object.defineProperty(row, name, descriptor)
      else Reflect.deleteProperty(row, name)
    }
  }
}

/** @throws {UnsupportedValueError} SQL finds no NULL equal to another, so that SQLite would never see a conflict */
function refuseMissingVersion(method: string, { model }: Identity, version: unknown): void {
  if (version !== null && version !== undefined) return
  const column = versionAttribute(model)!
  throw new UnsupportedValueError(
    method,
    `"${column}" of this ${model.name} is NULL, which cannot tell that a row was changed`,
    `Migrate: UPDATE … SET ${column} = 0 WHERE ${column} IS NULL, and make the column NOT NULL DEFAULT 0.`,
    column,
  )
}
