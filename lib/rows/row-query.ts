import type { Model } from 'sequelize'
import type { RowFacts } from '../errors/errors.js'
import { usage, UsageError } from '../errors/usage.js'
import { isParanoid, whereNotDeleted, whereOfNamedScope, whereOfModel } from '../sequelize/internals.js'
import type { RowModel } from '../sequelize/internals.js'
import { sessionOf } from '../sequelize/session.js'
import type { Session } from '../sequelize/session.js'
import type { Statement } from '../sequelize/statement.js'
import { conditionSql, isAlwaysMet, isNeverMet, ordinaryColumns, rowConditions } from './row-conditions.js'
import type { RowCondition } from './row-conditions.js'
import { identifyRow, isModel, refuseDuplicates, rowByKey, RowRef } from './row-ref.js'
import type { Target } from './row-ref.js'

/** A row that has to be found first, by conditions on its ordinary columns. */
export class RowQuery {
  readonly model: RowModel
  readonly instance = undefined
  readonly conditions: readonly RowCondition[]

  constructor(model: RowModel, conditions: readonly RowCondition[]) {
    this.model = model
    this.conditions = conditions
  }

  get session(): Session {
    return sessionOf(this.model.sequelize!)
  }

  /** For error texts; the primary key is not known yet. */
  get facts(): RowFacts {
    return { model: this.model.name, primaryKey: {} }
  }

  /** Whether a row can meet the conditions: no value is in an empty list. */
  get canBeMet(): boolean {
    return !this.conditions.some(isNeverMet)
  }

  /** The SQL of the conditions. */
  sql(statement: Statement): string {
    return this.conditions.map((each) => conditionSql(each, statement)).join(' AND ') || '1 = 1'
  }
}

/** A row, or a row that has to be found first. */
export type TargetRow = RowRef | RowQuery

/**
 * Resolves a target to a row, or to the query that finds it.
 * @throws {UsageError} `target` is no instance, no [Model, primaryKey] and no [Model, { where }]
 */
export function identifyTarget<M extends Model>(method: string, target: Target<M>): TargetRow {
  if (!Array.isArray(target) || target.length !== 2) return identifyRow(method, target)
  const model: unknown = target[0]
  const value: unknown = target[1]
  if (!isModel(model)) throw usage.model(method, model)
  if (isWhere(model, value)) return queryOf(method, model, value)
  return rowByKey(method, model, value, isParanoid(model) ? conditionsOf(method, model, whereNotDeleted) : [])
}

/** The query of [Model, { where }]. */
function queryOf(method: string, model: RowModel, value: { readonly where: unknown }): RowQuery {
  if (model.primaryKeyAttributes.length === 0) throw usage.noPrimaryKey(method, model.name)
  const { where, ...others } = value
  if (Object.keys(others).length > 0) throw usage.targetKeys(method, model.name, Object.keys(others))
  const conditions = rowConditions(method, model, where)
  if (conditions.length === 0) throw usage.targetWhere(method, model.name, ordinaryColumns(model)[0]!)
  return new RowQuery(model, [...conditions, ...conditionsOf(method, model, whereOfModel)])
}

/**
 * Reads the conditions of the rows that a call changes.
 * @param all whether the call may change every row of the table
 * @throws {UsageError} they are not in the language of {@link rowConditions}, or every row meets them
 */
export function rowsWhere(method: string, model: unknown, where: unknown, all: unknown): RowQuery {
  if (!isModel(model)) throw usage.model(method, model)
  if (model.primaryKeyAttributes.length === 0) throw usage.noPrimaryKey(method, model.name)
  if (!['undefined', 'boolean'].includes(typeof all)) throw usage.all(method, all)
  const conditions = rowConditions(method, model, where)
  const named = [...conditions, ...conditionsOf(method, model, whereOfNamedScope)]
  if (all !== true && named.every(isAlwaysMet)) throw usage.whereOfAll(method, model.name, ordinaryColumns(model)[0]!)
  return new RowQuery(model, [...conditions, ...conditionsOf(method, model, whereOfModel)])
}

/** An order of rows: attributes, and whether each descends. */
export type RowOrder = readonly (readonly [attribute: string, isDescending: boolean])[]

/**
 * Reads the conditions and the order of the next row.
 * @throws {UsageError} they are not in the language of {@link rowConditions}, or the order names no ordinary column
 */
export function nextRow(method: string, model: unknown, next: unknown): readonly [RowQuery, RowOrder] {
  if (!isModel(model)) throw usage.model(method, model)
  const keys = model.primaryKeyAttributes
  if (keys.length === 0) throw usage.noPrimaryKey(method, model.name)
  if (typeof next !== 'object' || next === null) throw usage.next(method, model.name, next)
  const { where = {}, order = keys, ...others } = next as { readonly where?: unknown; readonly order?: unknown }
  if (Object.keys(others).length > 0 || !Array.isArray(order) || order.length === 0) {
    throw usage.next(method, model.name, next)
  }
  const query = new RowQuery(model, [
    ...rowConditions(method, model, where),
    ...conditionsOf(method, model, whereOfModel),
  ])
  return [query, order.map((each: unknown) => orderOf(method, model, each))]
}

function orderOf(method: string, model: RowModel, value: unknown): RowOrder[number] {
  const [name, direction = 'ASC', ...more] = (Array.isArray(value) ? value : [value]) as readonly unknown[]
  const isOrdinary = typeof name === 'string' && ordinaryColumns(model).includes(name)
  if (!isOrdinary || (direction !== 'ASC' && direction !== 'DESC') || more.length > 0) {
    throw usage.order(method, model.name, value, ordinaryColumns(model))
  }
  return [name, direction === 'DESC']
}

function conditionsOf(
  method: string,
  model: RowModel,
  whereOf: (model: RowModel) => readonly unknown[],
): readonly RowCondition[] {
  try {
    return whereOf(model).flatMap((where) => rowConditions(method, model, where))
  } catch (error) {
    throw error instanceof UsageError ? usage.scope(method, model.name) : error
  }
}

function isWhere(model: RowModel, value: unknown): value is { readonly where: unknown } {
  const isObject = typeof value === 'object' && value !== null && Object.hasOwn(value, 'where')
  return isObject && !model.primaryKeyAttributes.includes('where')
}

/**
 * Resolves targets, in the same order.
 * @throws {UsageError} a target is invalid, two targets are one row, or they belong to different Sequelize instances
 */
export function identifyTargets(method: string, targets: readonly Target<Model>[]): readonly TargetRow[] {
  if (!Array.isArray(targets) || targets.length === 0) throw usage.targets(method, targets)
  const rows = targets.map((target: Target<Model>) => identifyTarget(method, target))
  if (rows.some(({ session }) => session !== rows[0]!.session)) throw usage.targetsApart(method)
  refuseDuplicates(
    method,
    rows.filter((row) => row instanceof RowRef),
  )
  return rows
}
