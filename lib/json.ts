import type { Logging, Model, Transaction, Transactionable } from 'sequelize'
import { coalesce, untilSettled } from './coalesce.js'
import type { Call } from './coalesce.js'
import {
  dialectOf,
  failureOf,
  isRefused,
  sendForHeader,
  sendForRows,
  sequelizeOf,
  Statement,
  updatedAtAttribute,
  versionAttribute,
} from './database.js'
import type { Sending } from './database.js'
import { connectorOf } from './dialects/connector.js'
import type { Change, Column, Dialect, UpdateVariant } from './dialects/dialect.js'
import { applyAll } from './json/semantics.js'
import { readDocument, unchanged, unmatched, untilMatched } from './document.js'
import type { Unmatched } from './document.js'
import { ConditionNotMetError, JsonShapeError, UnsupportedValueError } from './errors/errors.js'
import { usage } from './errors/usage.js'
import { adopt, adoptWrite, heldTransaction, rowText, refuseUnsavedChanges, snapshot, values } from './instance.js'
import { condition, isCondition, isOperation, operation } from './json/operation.js'
import { overlap } from './json/combine.js'
import type { Condition, Operation } from './json/operation.js'
import type { JsonValue, PathInput } from './json/values.js'
import { refuseTooLarge, refuseUnsupported } from './dialects/limits.js'
import { policyOf } from './policy.js'
import { checkOptions, facts, identify, jsonColumnType } from './target.js'
import type {
  Fitting,
  JsonColumn,
  JsonDocument,
  JsonKey,
  JsonKeyValue,
  JsonValueAt,
  Patch,
} from './json/document-types.js'
import type { Identity, Target } from './target.js'
import { oneWriter, refuseOwnTurn } from './queue.js'
import { checkRetryOptions, retry } from './retry.js'
import type { RetryOptions } from './retry.js'
import { isConflict, onRollback, openTransaction, transactionFor, watch } from './transaction.js'

export interface JsonWriteOptions extends Logging, Transactionable {
  /**
   * Read the whole document as it stands right after this write, others' keys included. Costs nothing on PostgreSQL and
   * SQLite (`RETURNING`); 4 round trips instead of 1 on MySQL and MariaDB. Default: false.
   */
  readonly returning?: boolean
  /**
   * Write only if all of these are true of the stored document, judged by the statement that writes; else a
   * `ConditionNotMetError`. `{ if: [equals('state', 'new'), absent('owner')] }`. Default: none.
   */
  readonly if?: readonly Condition[]
  /**
   * How often to try again after a deadlock, or a conflict in a cluster, which wrote nothing; refused in a transaction,
   * which has to be run again as a whole. Default: 3 attempts.
   */
  readonly retry?: RetryOptions
  /**
   * While a write of this row and column is on its way, wait and go out together with the others that wait, as one
   * statement: for a row that everybody writes. Resolves after the commit that holds the call's own operations, in the
   * order of calls; see the chapter "A row that everybody writes" of README. Does nothing in a transaction. Default: that
   * of the model, see {@link lossless}; else false.
   */
  readonly coalesce?: boolean
}

/** A row by its model and primary key, which has no instance to return. */
type Named<M extends Model> = readonly [model: { new (): M }, primaryKey: unknown] & Target<M>

/**
 * Sets one key of a JSON column and leaves every other key as it is *in the database*, not as this row last saw it.
 *
 * One UPDATE, no read before it: callers that set different keys never lose one, in any order; of callers that set the
 * same key, the last one wins. `key` is literal (`'a.b'` is one key) and its value is replaced, not merged. A column
 * that is NULL or JSON null becomes an object. `updatedAt` and `version` move in the same statement; hooks and
 * validators do not run, as with `Model.increment`. Sends, on MySQL:
 *
 *     UPDATE `workflow_runs` SET `progress` = JSON_SET(`progress`, ?, CAST(? AS JSON)), `updatedAt` = ?
 *     WHERE `id` = ? AND JSON_TYPE(`progress`) = 'OBJECT'
 *
 * and, only if that matched nothing, the same from an empty object where the column is NULL.
 *
 * @param target a row, or `[Model, primaryKey]`, which needs no read
 * @param value  anything JSON can hold; `null` stores JSON null, `undefined` is refused
 * @returns the row; its column then holds the operation applied to what this row had last seen, or, with
 *   `returning: true`, the whole document. For `[Model, primaryKey]`: the whole document with `returning: true`.
 * @throws {UsageError} before any SQL: not a JSON column, not a JSON value, an unknown option
 * @throws {UnsupportedValueError} before the write: a key or value that this database cannot hold exactly
 * @throws {UnsavedChangesError} before any SQL: the column has unsaved changes on this row
 * @throws {OutsideTransactionError} before any SQL: inside `withLock`, without its transaction
 * @throws {RowNotFoundError} the row does not exist
 * @throws {JsonShapeError} the column holds an array or a scalar; nothing was written
 * @throws {ConditionNotMetError} the stored document does not meet the option `if`; nothing was written
 * @throws {ConflictError} a deadlock, or a row newer than the caller's snapshot; nothing was written
 * @throws {LockTimeoutError} another session holds the row longer than the server waits; nothing was written
 * @throws {UnknownOutcomeError} the connection was lost after the write was sent
 * @example
 *     await run.mergeJsonKey('progress', 'step_a', 'done')
 *     await mergeJsonKey([WorkflowRun, id], 'progress', 'step_a', 'done')
 * @see https://dev.mysql.com/doc/refman/9.7/en/json-modification-functions.html#function_json-set
 */
export function mergeJsonKey<M extends Model, C extends JsonColumn<M>, K extends JsonKey<M, C>>(
  target: Named<M>,
  column: C,
  key: K,
  value: JsonKeyValue<M, C, K>,
  options: JsonWriteOptions & { readonly returning: true },
): Promise<JsonDocument<M, C>>
export function mergeJsonKey<M extends Model, C extends JsonColumn<M>, K extends JsonKey<M, C>>(
  target: Named<M>,
  column: C,
  key: K,
  value: JsonKeyValue<M, C, K>,
  options?: JsonWriteOptions,
): Promise<void>
export function mergeJsonKey<M extends Model, C extends JsonColumn<M>, K extends JsonKey<M, C>>(
  target: M,
  column: C,
  key: K,
  value: JsonKeyValue<M, C, K>,
  options?: JsonWriteOptions,
): Promise<M>
export function mergeJsonKey<M extends Model, C extends JsonColumn<M>, K extends JsonKey<M, C>>(
  target: Target<M>,
  column: C,
  key: K,
  value: JsonKeyValue<M, C, K>,
  options?: JsonWriteOptions,
): Promise<unknown>
export async function mergeJsonKey(
  target: Target<Model>,
  column: string,
  key: string,
  value: unknown,
  options: JsonWriteOptions = {},
): Promise<unknown> {
  const method = 'mergeJsonKey'
  const request = identifyWrite(method, target, column)
  if (typeof key !== 'string') throw usage.key(method, key)
  return write({ ...request, operations: [operation(method, 'set', [key], value)] }, options)
}

/**
 * Changes a document by several operations in one atomic statement: all of them, or none.
 *
 * One UPDATE, no read before it; callers whose paths differ never lose anything, in any order, and counters, arrays and
 * sets are exact whoever writes them. Missing parents become objects. The paths must not overlap. Sends, on MySQL, for
 * `[increment('attempts'), append('log', 'started')]` and the like:
 *
 *     UPDATE `workflow_runs` SET `progress` = JSON_SET(`progress`, ?, …, ?, …), `updatedAt` = ?
 *     WHERE `id` = ? AND JSON_TYPE(`progress`) = 'OBJECT' AND …
 *
 * where the second part of the condition says that each operation fits what is stored.
 *
 * @param operations of {@link set}, {@link setIfAbsent}, {@link remove}, {@link rename}, {@link increment}, {@link min},
 *   {@link max}, {@link append}, {@link prepend}, {@link addToSet}, {@link pull}, {@link merge}
 * @returns as {@link mergeJsonKey}
 * @throws what {@link mergeJsonKey} throws; {@link JsonShapeError} also where a number or an array is needed
 * @example
 *     await run.updateJson('progress', [increment(['steps', 'done']), append('log', 'step_a'), addToSet('tags', 'fast')])
 * @see https://dev.mysql.com/doc/refman/9.7/en/json-modification-functions.html
 */
export function updateJson<M extends Model, C extends JsonColumn<M>, const O extends readonly Operation[]>(
  target: Named<M>,
  column: C,
  operations: O & Fitting<M, C, O>,
  options: JsonWriteOptions & { readonly returning: true },
): Promise<JsonDocument<M, C>>
export function updateJson<M extends Model, C extends JsonColumn<M>, const O extends readonly Operation[]>(
  target: Named<M>,
  column: C,
  operations: O & Fitting<M, C, O>,
  options?: JsonWriteOptions,
): Promise<void>
export function updateJson<M extends Model, C extends JsonColumn<M>, const O extends readonly Operation[]>(
  target: M,
  column: C,
  operations: O & Fitting<M, C, O>,
  options?: JsonWriteOptions,
): Promise<M>
export function updateJson<M extends Model, C extends JsonColumn<M>, const O extends readonly Operation[]>(
  target: Target<M>,
  column: C,
  operations: O & Fitting<M, C, O>,
  options?: JsonWriteOptions,
): Promise<unknown>
export async function updateJson(
  target: Target<Model>,
  column: string,
  operations: readonly Operation[],
  options: JsonWriteOptions = {},
): Promise<unknown> {
  const method = 'updateJson'
  const request = identifyWrite(method, target, column)
  if (!Array.isArray(operations) || !operations.every(isOperation) || operations.length === 0)
    throw usage.operations(method, operations)
  const overlapping = overlap(operations)
  if (overlapping) throw usage.overlap(method, ...overlapping)
  return write({ ...request, operations }, options)
}

/**
 * Merges a patch into a document, objects key by key; `null` removes a key: RFC 7396 JSON Merge Patch. Arrays are
 * replaced. The same as `updateJson` with one {@link merge}. Sends, on MySQL:
 *
 *     UPDATE `workflow_runs` SET `progress` = JSON_MERGE_PATCH(`progress`, ?), `updatedAt` = ?
 *     WHERE `id` = ? AND JSON_TYPE(`progress`) = 'OBJECT'
 *
 * @returns as {@link mergeJsonKey}
 * @throws what {@link mergeJsonKey} throws
 * @example await run.mergeJson('progress', { step_a: 'done', draft: null })
 * @see https://www.rfc-editor.org/rfc/rfc7396
 */
export function mergeJson<M extends Model, C extends JsonColumn<M>>(
  target: Named<M>,
  column: C,
  patch: Patch<JsonDocument<M, C>>,
  options: JsonWriteOptions & { readonly returning: true },
): Promise<JsonDocument<M, C>>
export function mergeJson<M extends Model, C extends JsonColumn<M>>(
  target: Named<M>,
  column: C,
  patch: Patch<JsonDocument<M, C>>,
  options?: JsonWriteOptions,
): Promise<void>
export function mergeJson<M extends Model, C extends JsonColumn<M>>(
  target: M,
  column: C,
  patch: Patch<JsonDocument<M, C>>,
  options?: JsonWriteOptions,
): Promise<M>
export function mergeJson<M extends Model, C extends JsonColumn<M>>(
  target: Target<M>,
  column: C,
  patch: Patch<JsonDocument<M, C>>,
  options?: JsonWriteOptions,
): Promise<unknown>
export async function mergeJson(
  target: Target<Model>,
  column: string,
  patch: unknown,
  options: JsonWriteOptions = {},
): Promise<unknown> {
  const method = 'mergeJson'
  const request = identifyWrite(method, target, column)
  return write({ ...request, operations: [operation(method, 'merge', [], patch)] }, options)
}

/**
 * Sets the value at a path if what is stored there equals `expected`, in one atomic statement: of many callers that
 * expect the same, exactly one gets `true`. Equality is deep, whatever the order of keys; nothing equals what is not
 * there (see the option `if` and {@link absent}). The same as `updateJson` with one {@link set}, if {@link equals}.
 *
 * @returns `true` if it was set, `false` if the stored value differed
 * @throws what {@link updateJson} throws
 * @example
 *     if (await job.compareAndSetJson('state', 'phase', 'queued', 'running')) await work(job)
 */
export async function compareAndSetJson<M extends Model, C extends JsonColumn<M>, const P extends PathInput>(
  target: Target<M>,
  column: C,
  path: P,
  expected: JsonValueAt<M, C, P>,
  value: JsonValueAt<M, C, P>,
  options: JsonWriteOptions = {},
): Promise<boolean> {
  const method = 'compareAndSetJson'
  const request = identifyWrite(method, target, column)
  const comparison = condition(method, 'equals', path, expected)
  const operations = [operation(method, 'set', path, value)]
  try {
    await write({ ...request, operations }, { ...options, if: [...(options.if ?? []), comparison] })
    return true
  } catch (error) {
    if (error instanceof ConditionNotMetError && error.condition === comparison) return false
    throw error
  }
}

function identifyWrite(
  method: string,
  target: Target<Model>,
  column: string,
): Omit<JsonWrite, 'operations' | 'conditions'> {
  const identity = identify(method, target)
  return { method, identity, column, type: jsonColumnType(method, identity.model, column), now: new Date() }
}

/** One JSON write: what was asked for, and of which row and column. */
interface JsonWrite extends Change {
  /** How many calls it is; 1 if it is left out. */
  readonly calls?: number
  readonly method: string
  readonly identity: Identity
  readonly column: string
  readonly type: Column['type']
  /** The time of the call, for `updatedAt`. */
  readonly now: Date
}

const optionNames = ['transaction', 'returning', 'if', 'retry', 'coalesce', 'logging'] as const

function write(asked: Omit<JsonWrite, 'conditions'>, options: JsonWriteOptions): Promise<unknown> {
  const { method, identity, column, operations } = asked
  const { instance, model } = identity
  const checked = checkOptions(method, options, optionNames)
  const { returning, logging, if: conditions = [] } = checked
  const policy = checked.retry === undefined ? undefined : checkRetryOptions(method, checked.retry)
  if (!Array.isArray(conditions) || !conditions.every(isCondition)) throw usage.conditions(method, conditions)
  if (!['undefined', 'boolean'].includes(typeof checked.coalesce)) throw usage.coalesce(method, checked.coalesce)
  const request: JsonWrite = { ...asked, conditions }
  const sequelize = sequelizeOf(model)
  const joined = transactionFor(method, sequelize, checked.transaction, heldTransaction(instance))
  if (joined && policy) throw usage.retryJoined(method)
  refuseUnsavedChanges(method, identity, 'before', column)
  const isCoalesced = !joined && (checked.coalesce ?? policyOf(model).coalesce)

  const perform = async (): Promise<unknown> => {
    const dialect = await dialectOf(sequelize, { transaction: joined, logging })
    refuseUnsupported(method, column, request, dialect)

    const send = (write: JsonWrite, transaction: Transaction | undefined): Promise<JsonValue | undefined> => {
      if (transaction) watch(transaction, dialect)
      return update(write, dialect, { transaction, logging }, returning === true)
    }
    const again = { ...policy, maxAttempts: policy?.maxAttempts ?? 3 }
    const sendApart = (write: JsonWrite): Promise<JsonValue | undefined> => {
      const attempt = (): Promise<JsonValue | undefined> =>
        returning && dialect.matched
          ? openTransaction(method, sequelize, dialect, { logging }, (transaction) => send(write, transaction))
          : oneWriter(method, sequelize, dialect, () => send(write, undefined))
      return retry(attempt, (error) => isConflict(error, dialect), again)
    }
    const sendCoalesced = (): Promise<JsonValue | undefined> => {
      refuseOwnTurn(method, sequelize, dialect)
      const place = `${column} ${rowText(model, identity.primaryKey)}`
      return coalesce(model.getAttributes(), place, callOf(request, checked), {
        send: (calls, together) => sendApart(joinedWrite(calls, together)),
        maxBytes: Math.min(maxSharedBytes, (dialect.maxStatementBytes ?? Infinity) / 4),
        isOfOneCall: (error) =>
          error instanceof JsonShapeError ||
          error instanceof UnsupportedValueError ||
          (isRefused(error) && failureOf(error, dialect) === undefined),
      })
    }
    const sendOutside = isCoalesced ? sendCoalesced : () => sendApart(request)
    const found = joined ? await send(request, joined) : await sendOutside()

    const document = returning ? found : undefined
    if (!instance) return document
    if (joined) onRollback(joined, () => snapshot(instance))
    adoptWrite(instance, column, (before) => applyAll(operations, before), document)
    adopt(instance, bookkeeping(request, values(instance)))
    return instance
  }
  return isCoalesced ? untilSettled(sequelize, perform()) : perform()
}

/** A call of one of the JSON methods that may share a statement. */
interface JsonCall extends Call {
  readonly request: JsonWrite
}

/** What a statement that is shared may hold: longer ones win nothing. */
const maxSharedBytes = 2 ** 20

/** What is judged, answered, logged or told apart is of one call alone. */
function callOf(request: JsonWrite, { returning, logging, retry: policy }: JsonWriteOptions): JsonCall {
  const isAlone =
    request.conditions.length > 0 || returning || typeof logging === 'function' || policy?.signal || policy?.onRetry
  const terms = isAlone ? undefined : JSON.stringify({ ...policy, logging })
  return { request, operations: request.operations, terms }
}

/** The write that does what all of the calls do. */
function joinedWrite(calls: readonly JsonCall[], operations: readonly Operation[]): JsonWrite {
  const [{ request }] = calls as [JsonCall]
  const method = calls.every((call) => call.request.method === request.method) ? request.method : 'updateJson'
  return { ...request, method, operations, calls: calls.length, now: calls.at(-1)!.request.now }
}

/** Sends the write until it matched the row; returns the document after it, if asked for. */
async function update(
  request: JsonWrite,
  dialect: Dialect,
  sending: Sending,
  returning: boolean,
): Promise<JsonValue | undefined> {
  const { method, identity, column } = request
  const outcome = await untilMatched({ method, identity, documents: [request] }, dialect, sending, {
    send: ([form]) => sendForm(request, dialect, form!, sending, returning),
    refusal: (_document, inTheWay) =>
      'needed' in inTheWay
        ? new JsonShapeError(method, facts(identity), column, inTheWay)
        : new ConditionNotMetError(method, facts(identity), column, inTheWay),
  })
  return 'answer' in outcome ? outcome.answer : outcome.there[0]!.document
}

async function sendForm(
  request: JsonWrite,
  dialect: Dialect,
  form: UpdateVariant,
  sending: Sending,
  returning: boolean,
): Promise<JsonValue | undefined | Unmatched> {
  const { method, identity, column, type, operations, conditions, calls = 1, now } = request
  const { model, primaryKey } = identity
  const statement = new Statement(model)
  const target: Column = { sql: statement.column(column), type }
  const sequelize = sequelizeOf(model)
  const { isPrepared = connectorOf(sequelize.getDialect()).prepares === true } = request
  const { document, guard, prefix = '' } = form({ operations, conditions, isPrepared }, target, statement.bind)
  const assignments = [`${target.sql} = ${document}`]
  const updatedAt = updatedAtAttribute(model)
  if (updatedAt) assignments.push(`${statement.column(updatedAt)} = ${statement.time(updatedAt, now)}`)
  const version = versionAttribute(model)
  if (version) {
    // Each of the calls counts one more: a row that has not seen the others is stale, and its save() has to conflict.
    const by = calls === 1 ? '1' : statement.bind(calls)
    assignments.push(`${statement.column(version)} = COALESCE(${statement.column(version)}, 0) + ${by}`)
  }
  const sql = `${prefix}UPDATE ${statement.table()} SET ${assignments.join(', ')} WHERE ${statement.row(primaryKey)} AND ${guard}`
  const bytes = statement.bytes(sql, dialect.maxStatementBytes)
  if (isPrepared && bytes > (dialect.maxStatementBytes ?? Infinity)) {
    return sendForm({ ...request, isPrepared: false }, dialect, form, sending, returning)
  }
  refuseTooLarge(method, column, bytes, dialect)

  if (!dialect.matched) {
    const answer = `RETURNING ${returning ? dialect.documentText(target) : '1'} AS ${statement.name('document')}`
    const [row] = await sendForRows<{ document: string }>(sequelize, `${sql} ${answer}`, statement.binds, sending)
    if (!row) return unmatched
    return returning ? (JSON.parse(row.document) as JsonValue) : undefined
  }
  const isMatched = dialect.matched(await sendForHeader(sequelize, sql, statement.binds, sending))
  if (!isMatched) return isMatched === undefined ? unchanged : unmatched
  return returning ? (await readDocument(method, identity, { column, type }, dialect, sending)).document : undefined
}

/** The attributes that Sequelize keeps of its own and that the statement moved, as the instance now has them. */
function bookkeeping(
  { identity: { model }, now }: JsonWrite,
  seen: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const updatedAt = updatedAtAttribute(model)
  const version = versionAttribute(model)
  return {
    ...(updatedAt && { [updatedAt]: now }),
    // One more than was seen: equal to the database's exactly if nobody else wrote, so a stale save() still conflicts.
    ...(version && seen[version] !== undefined && { [version]: Number(seen[version] ?? 0) + 1 }),
  }
}
