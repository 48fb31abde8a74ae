import type { Model } from 'sequelize'
import { ConditionNotMetError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { disjointOperations } from '../json/combine.js'
import type {
  Fitting,
  JsonColumn,
  JsonDocument,
  JsonKey,
  JsonKeyValue,
  KeyCompletion,
  JsonValueAt,
  ObjectPatch,
} from '../json/document-types.js'
import { condition, operation, operationsOf } from '../json/operation.js'
import type { Condition, Operation } from '../json/operation.js'
import type { PathInput } from '../json/values.js'
import type { Target } from '../rows/row-ref.js'
import { checkJsonOptions, writeDocument } from './atomic-write.js'
import type { JsonWriteOptions, Result, TargetOf } from './options.js'

/**
 * Sets one key of a JSON column. Every other key keeps its value *in the database*, not its value in this instance.
 *
 * One UPDATE without an earlier read: concurrent calls for different keys never lose an update; for the same key, the
 * last write wins. `key` is literal (`'a.b'` is one key) and its value is replaced, not merged. A column that is NULL
 * or JSON null becomes an object. The same statement changes `updatedAt` and `version`; hooks and validators do not
 * run, as with `Model.increment`. Sends, on MySQL:
 *
 *     UPDATE `workflow_runs` SET `progress` = JSON_SET(`progress`, ?, CAST(? AS JSON)), `updatedAt` = ?
 *     WHERE `id` = ? AND JSON_TYPE(`progress`) = 'OBJECT' AND …
 *
 * If this matches no row, a second UPDATE, for a column that is NULL, starts from an empty object.
 *
 * For `[Model, { where }]`, a SELECT finds the row first, and the UPDATE has its primary key and the `where`: a row that has
 * ceased to meet it is not written, and is looked up again.
 *
 * @param target a row; `[Model, primaryKey]`, which needs no earlier read; or `[Model, { where }]`: exactly one row
 * @param value  any JSON value; `null` stores JSON null, `undefined` is refused
 * @returns the row. Its column has the operation applied to the value in memory or, with `returning: true`, the whole
 *   stored document. For `[Model, …]`: nothing or, with `returning: true`, the whole stored document.
 * @throws {UsageError} before any SQL: not a JSON column, not a JSON value, an unknown option. After the look-up: several rows
 *   meet the `where`
 * @throws {UnsupportedValueError} before the write: a key or value that this database cannot hold exactly
 * @throws {UnsavedChangesError} before any SQL: the column has unsaved changes on this row
 * @throws {OutsideTransactionError} before any SQL: inside `withLock`, without its transaction
 * @throws {RowNotFoundError} the row does not exist, or no row meets the `where`
 * @throws {JsonShapeError} the column holds an array or a scalar; nothing was written
 * @throws {ConditionNotMetError} the stored document does not meet the option `if`; nothing was written
 * @throws {ConflictError} a deadlock, or a row newer than the caller's snapshot; nothing was written
 * @throws {LockTimeoutError} another session held the lock longer than the timeout of the server; nothing was written
 * @throws {UnknownOutcomeError} the connection was lost after the write was sent
 * @example
 *     await run.mergeJsonKey('progress', 'step_a', 'done')
 *     await mergeJsonKey([WorkflowRun, id], 'progress', 'step_a', 'done')
 * @see https://dev.mysql.com/doc/refman/9.7/en/json-modification-functions.html#function_json-set
 */
export function mergeJsonKey<
  M extends Model,
  C extends JsonColumn<M>,
  K extends JsonKey<M, C>,
  const I extends readonly Condition[] = readonly Condition[],
  R extends boolean = false,
  Row extends boolean = never,
  Pair extends 2 = never,
>(
  target: TargetOf<M, Row, Pair>,
  column: C,
  key: K,
  value: JsonKeyValue<M, C, K>,
  options?: JsonWriteOptions<M, C, I, R>,
): Promise<Result<M, R extends true ? JsonDocument<M, C> : undefined, Row, Pair>>
export function mergeJsonKey(
  target: Target<Model>,
  column: string,
  key: string,
  value: unknown,
  options: JsonWriteOptions = {},
): Promise<unknown> {
  const method = 'mergeJsonKey'
  return writeDocument(method, target, column, options, () => {
    if (typeof key !== 'string') throw usage.key(method, key)
    return [operation(method, 'set', key, value)]
  })
}

/**
 * Changes a document by several operations in one atomic statement: all of them, or none.
 *
 * One UPDATE without an earlier read, or, for more than 32 keys on MariaDB and 64 on SQLite, for {@link matching} and
 * {@link replaceOrAppend}, and, except on MySQL, for every path into an array, a locking read and an UPDATE in one transaction:
 * concurrent calls for different paths never lose an update, and counters, arrays
 * and sets are exact under concurrent writers. Missing parents become objects. The paths must not overlap. Sends, on
 * MySQL, for example for `[increment('attempts'), append('log', 'started')]`:
 *
 *     UPDATE `workflow_runs` SET `progress` = JSON_SET(`progress`, ?, …, ?, …), `updatedAt` = ?
 *     WHERE `id` = ? AND JSON_TYPE(`progress`) = 'OBJECT' AND …
 *
 * The last part of the WHERE clause checks that each operation fits the stored value.
 *
 * @param operations {@link set}, {@link assign}, {@link setIfAbsent}, {@link remove}, {@link rename}, {@link increment}, {@link min},
 *   {@link max}, {@link append}, {@link prepend}, {@link addToSet}, {@link pull}, {@link replaceOrAppend}, {@link merge}
 * @returns as {@link mergeJsonKey}
 * @throws the errors of {@link mergeJsonKey}; {@link JsonShapeError} also if an operation needs a number or an array
 * @throws {ElementNotFoundError} the stored array has no element at an index, or none that is {@link matching}; nothing was
 *   written
 * @example
 *     await run.updateJson('progress', [increment(['steps', 'done']), append('log', 'step_a'), addToSet('tags', 'fast')])
 * @see https://dev.mysql.com/doc/refman/9.7/en/json-modification-functions.html
 */
export function updateJson<
  M extends Model,
  C extends JsonColumn<M>,
  const O extends readonly Operation[],
  const I extends readonly Condition[] = readonly Condition[],
  R extends boolean = false,
  Row extends boolean = never,
  Pair extends 2 = never,
>(
  target: TargetOf<M, Row, Pair>,
  column: C,
  operations: (O & Fitting<M, C, O>) | KeyCompletion<M, C>,
  options?: JsonWriteOptions<M, C, I, R>,
): Promise<Result<M, R extends true ? JsonDocument<M, C> : undefined, Row, Pair>>
export function updateJson(
  target: Target<Model>,
  column: string,
  operations: readonly Operation[],
  options: JsonWriteOptions = {},
): Promise<unknown> {
  const method = 'updateJson'
  return writeDocument(method, target, column, options, () => {
    const given = operationsOf(operations)
    if (!given) throw usage.operations(method, operations)
    return disjointOperations(method, given)
  })
}

/**
 * Merges a patch into a document, objects key by key; `null` removes a key: RFC 7396 JSON Merge Patch. Arrays are
 * replaced. The same as `updateJson` with one {@link merge}. Sends, on MySQL:
 *
 *     UPDATE `workflow_runs` SET `progress` = JSON_MERGE_PATCH(`progress`, ?), `updatedAt` = ?
 *     WHERE `id` = ? AND JSON_TYPE(`progress`) = 'OBJECT' AND …
 *
 * @returns as {@link mergeJsonKey}
 * @throws the errors of {@link mergeJsonKey}
 * @example await run.mergeJson('progress', { step_a: 'done', draft: null })
 * @see https://www.rfc-editor.org/rfc/rfc7396
 */
export function mergeJson<
  M extends Model,
  C extends JsonColumn<M>,
  const I extends readonly Condition[] = readonly Condition[],
  R extends boolean = false,
  Row extends boolean = never,
  Pair extends 2 = never,
>(
  target: TargetOf<M, Row, Pair>,
  column: C,
  patch: ObjectPatch<JsonDocument<M, C>>,
  options?: JsonWriteOptions<M, C, I, R>,
): Promise<Result<M, R extends true ? JsonDocument<M, C> : undefined, Row, Pair>>
export function mergeJson(
  target: Target<Model>,
  column: string,
  patch: unknown,
  options: JsonWriteOptions = {},
): Promise<unknown> {
  const method = 'mergeJson'
  return writeDocument(method, target, column, options, () => [operation(method, 'merge', [], patch)])
}

/**
 * Compare-and-set: sets the value at a path if the stored value equals `expected`, in one atomic statement. Of
 * concurrent calls that expect the same value, exactly one gets `true`. Equality is deep, in any order of keys; an
 * absent value equals nothing (see the option `if` and {@link absent}). The same as `updateJson` with a {@link set} and
 * the condition {@link equals}.
 *
 * @returns `true` if it was set, `false` if the stored value differed
 * @throws the errors of {@link updateJson}
 * @example
 *     if (await job.compareAndSetJson('state', 'phase', 'queued', 'running')) await work(job)
 */
export async function compareAndSetJson<
  M extends Model,
  C extends JsonColumn<M>,
  const P extends PathInput,
  const I extends readonly Condition[] = readonly Condition[],
>(
  target: Target<M>,
  column: C,
  path: P,
  expected: JsonValueAt<M, C, P>,
  value: JsonValueAt<M, C, P>,
  options: JsonWriteOptions<M, C, I> = {},
): Promise<boolean> {
  const method = 'compareAndSetJson'
  const comparison = condition(method, 'equals', path, expected)
  const given = checkJsonOptions(method, options)
  const own: JsonWriteOptions = { ...given, if: [...given.if, comparison] }
  try {
    await writeDocument(method, target, column, own, () => [operation(method, 'set', path, value)])
    return true
  } catch (error) {
    if (error instanceof ConditionNotMetError && error.condition === comparison) return false
    throw error
  }
}
