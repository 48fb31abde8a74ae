import type { Attributes, Logging, Model, Transactionable, WhereOptions } from 'sequelize'
import { checkOptions, isOptions } from '../errors/check-options.js'
import { usage } from '../errors/usage.js'
import { disjointOperations } from '../json/combine.js'
import type { Changes, Conditions, FittingColumns, KeyCompletions } from '../json/document-types.js'
import { operationsOf } from '../json/operation.js'
import { rowConditions } from '../rows/row-conditions.js'
import { identifyTarget } from '../rows/row-query.js'
import { jsonColumnType } from '../rows/row-ref.js'
import type { Target } from '../rows/row-ref.js'
import { traceCall } from '../sequelize/channels.js'
import type { RowModel } from '../sequelize/internals.js'
import { jsonAttributes } from '../sequelize/model-state.js'
import type { RetryOptions } from '../transactions/retry.js'
import { checkReturning, conditionsOf, writeRow } from './atomic-write.js'
import type { RowRequest } from './atomic-write.js'
import { ordinaryChanges } from './columns.js'
import type { Plus } from './columns.js'
import type { Result, TargetOf } from './options.js'
import type { DocumentChange } from './update-document.js'

export interface AtomicUpdateOptions<
  M extends Model = Model,
  I extends Conditions<M> = Conditions<M>,
  R extends boolean = boolean,
>
  extends Logging, Transactionable {
  /**
   * Write only if the ordinary columns of the row meet these conditions, which the UPDATE itself checks; else a
   * `ConditionNotMetError`. Sequelize's language with the operators eq, ne, gt, gte, lt, lte, in, notIn, is, not, between,
   * notBetween, like, notLike, and, or: all values are bound. Example: `{ where: { status: 'running' } }`. Default: none.
   */
  readonly where?: WhereOptions<Attributes<M>>
  /**
   * Write only if the stored documents meet these conditions, by column; else a `ConditionNotMetError`. The column need not
   * be changed. Example: `{ if: { progress: [exists('step_b')] } }`. Default: none.
   */
  readonly if?: I & FittingColumns<M, I>
  /**
   * Return the row as it is right after this write. In one statement on PostgreSQL and SQLite; on MySQL and MariaDB in a
   * transaction with a SELECT. Default: false.
   */
  readonly returning?: R
  /** As {@link JsonWriteOptions}: attempts after a deadlock or a conflict in a cluster. Default: 3 attempts. */
  readonly retry?: RetryOptions
}

const optionNames = ['transaction', 'where', 'if', 'returning', 'retry', 'logging'] as const

/**
 * Changes several columns of one row in one atomic statement, all of them or none: JSON columns by operations, ordinary
 * columns by their new values or by {@link plus}.
 *
 * One UPDATE without an earlier read: concurrent calls never lose a change of a document or a sum. New values pass through
 * setters and validators of the model, as in `Model.update`; hooks do not run. `updatedAt` and `version` change in the same
 * statement. Sends, on MySQL, for example for `{ progress: [set('step_a', 'done')], status: 'running', attempts: plus(1) }`:
 *
 *     UPDATE `workflow_runs` SET `progress` = JSON_SET(`progress`, ?, CAST(? AS JSON)), `attempts` = COALESCE(`attempts`, 0)
 *     + CAST(? AS DECIMAL(65, 0)), `status` = ?, `updatedAt` = ? WHERE `id` = ? AND JSON_TYPE(`progress`) = 'OBJECT' AND …
 *
 * For several JSON columns of which some are NULL, the statement is sent again for each combination, until one matches.
 *
 * @param target  a row; `[Model, primaryKey]`, which needs no earlier read; or `[Model, { where }]`, as {@link mergeJsonKey}
 * @param changes by attribute: an array of operations for a JSON column, a value or {@link plus} for an ordinary one
 * @returns the row, with the changes in memory or, with `returning: true`, its changed columns as stored. For
 *   `[Model, …]`: nothing or, with `returning: true`, the row as stored
 * @throws the errors of {@link updateJson}, for each JSON column
 * @throws {UsageError} before any SQL: no such attribute, a wrong type of change, a `where` whose values cannot be bound
 * @throws {ValidationError} of Sequelize, before any SQL: a validator of the model refuses a value
 * @throws {ConditionNotMetError} the row does not meet `where`, or a document does not meet `if`; nothing was written
 * @throws {ElementNotFoundError} a path leads to an array element that is not there; nothing was written
 * @throws {UnsupportedValueError} a column cannot hold its new value: a text that is too long, a number or a sum out of its range,
 *   another type; nothing was written. In a joined transaction, PostgreSQL then refuses every statement until a rollback
 * @example
 *     await run.atomicUpdate(
 *       { progress: [set('step_a', 'done')], status: 'finished', attempts: plus(1) },
 *       { where: { status: 'running' } },
 *     )
 * @see https://dev.mysql.com/doc/refman/9.7/en/update.html
 */
export function atomicUpdate<
  M extends Model,
  const G extends object,
  const I extends Conditions<M> = Conditions<M>,
  R extends boolean = false,
  Row extends boolean = never,
  Pair extends 2 = never,
>(
  target: TargetOf<M, Row, Pair>,
  changes: (G & Changes<M, G, Plus>) | KeyCompletions<M>,
  options?: AtomicUpdateOptions<M, I, R>,
): Promise<Result<M, R extends true ? M : undefined, Row, Pair>>
export async function atomicUpdate(
  target: Target<Model>,
  changes: Readonly<Record<string, unknown>>,
  options: AtomicUpdateOptions = {},
): Promise<unknown> {
  const method = 'atomicUpdate'
  const row = identifyTarget(method, target)
  const { where, if: conditions = {}, returning, ...others } = checkOptions(method, options, optionNames)
  checkReturning(method, returning)
  const request = {
    method,
    row,
    ...splitChanges(method, row.model, changes, conditions),
    where: where === undefined ? [] : rowConditions(method, row.model, where),
  }
  const answer = returning ? 'row' : 'nothing'
  const { row: stored } = await traceCall({ method, row: row.facts }, () => writeRow(request, others, answer))
  return row.instance ?? stored
}

/**
 * The changes of JSON columns, with the conditions on them, and the changes of ordinary columns.
 * @throws {UsageError} there is no change, or one of them does not fit its attribute
 */
export function splitChanges(
  method: string,
  model: RowModel,
  changes: Readonly<Record<string, unknown>>,
  conditions: Readonly<Record<string, unknown>> = {},
): Pick<RowRequest, 'documents' | 'changes'> {
  const isObject = typeof changes === 'object' && changes !== null && !Array.isArray(changes)
  if (!isObject || Object.keys(changes).length === 0) throw usage.changes(method, model.name, changes)
  return {
    documents: documentChanges(method, model, changes, conditions),
    changes: ordinaryChanges(method, model, changes),
  }
}

/** The changes of JSON columns, and the columns that only have conditions. */
function documentChanges(
  method: string,
  model: RowModel,
  changes: Readonly<Record<string, unknown>>,
  conditions: Readonly<Record<string, unknown>>,
): readonly DocumentChange[] {
  if (!isOptions(conditions)) throw usage.documentConditions(method, conditions)
  const changed = Object.keys(changes).filter((name) => jsonAttributes(model).has(name))
  return [...new Set([...changed, ...Object.keys(conditions)])].map((column) => {
    const type = jsonColumnType(method, model, column)
    const given = Object.hasOwn(changes, column) ? changes[column] : []
    const operations = operationsOf(given)
    if (!operations) throw usage.documentOperations(method, model.name, column, given)
    const met = Object.hasOwn(conditions, column) ? conditions[column] : []
    return {
      column,
      type,
      operations: disjointOperations(method, operations),
      conditions: conditionsOf(method, met),
    }
  })
}
