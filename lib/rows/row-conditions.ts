import { Op } from 'sequelize'
import type { Comparison } from '../dialects/dialect.js'
import { usage } from '../errors/usage.js'
import { attributeType } from '../sequelize/internals.js'
import type { RowModel } from '../sequelize/internals.js'
import { jsonAttributes } from '../sequelize/model-state.js'
import type { Statement } from '../sequelize/statement.js'
import { copied, fitsType } from './operand-types.js'

/** A condition on the ordinary columns of a row, as frozen data: values become binds. */
export type RowCondition =
  | {
      readonly kind: 'and' | 'or' | 'not'
      readonly parts: readonly RowCondition[]
      /** Of a list of values, which may be empty. */
      readonly attribute?: string
    }
  | { readonly kind: Comparison; readonly attribute: string; readonly value: unknown }
  | { readonly kind: 'null'; readonly attribute: string }

const comparisons: Readonly<Record<symbol, Comparison>> = {
  [Op.eq]: '=',
  [Op.ne]: '<>',
  [Op.gt]: '>',
  [Op.gte]: '>=',
  [Op.lt]: '<',
  [Op.lte]: '<=',
  [Op.like]: 'LIKE',
  [Op.notLike]: 'NOT LIKE',
}

/** The types whose value has several parts. */
const containerTypes: readonly string[] = ['ARRAY', 'RANGE', 'HSTORE', 'GEOMETRY', 'GEOGRAPHY']

/**
 * Reads a `where` in Sequelize's language; returns its conditions, which must all be met.
 * @throws {UsageError} a name is no ordinary column, an operator is unknown, or a value could not be bound
 */
export function rowConditions(method: string, model: RowModel, where: unknown): readonly RowCondition[] {
  if (!isPlainObject(where)) throw usage.where(method, where)
  return Reflect.ownKeys(where).flatMap((key) => {
    const value = where[key]
    if (key === Op.and) return groups(method, model, value).flat()
    if (key === Op.or) {
      return {
        kind: 'or' as const,
        parts: groups(method, model, value).map((parts) => ({ kind: 'and' as const, parts })),
      }
    }
    if (key === Op.not) return { kind: 'not' as const, parts: groups(method, model, value).flat() }
    if (typeof key === 'symbol') throw usage.whereOperator(method, key)
    return columnConditions(method, model, key, value)
  })
}

/** The conditions of each object of a group; of one object, each of its members is one of them. */
function groups(method: string, model: RowModel, value: unknown): readonly (readonly RowCondition[])[] {
  if (Array.isArray(value)) return value.map((each) => rowConditions(method, model, each))
  return rowConditions(method, model, value).map((each) => [each])
}

function columnConditions(method: string, model: RowModel, attribute: string, value: unknown): RowCondition[] {
  const ordinary = ordinaryColumns(model)
  if (!ordinary.includes(attribute)) {
    throw usage.whereColumn(method, model.name, attribute, jsonAttributes(model).has(attribute), ordinary)
  }
  const type = attributeType(model, attribute)
  if (containerTypes.includes(type)) throw usage.whereType(method, attribute, type)
  const column = { method, model, attribute, type }
  if (Array.isArray(value)) return [anyOf(column, value)]
  if (!isPlainObject(value)) return [compare(column, '=', value)]
  const operators = Reflect.ownKeys(value)
  if (operators.length === 0) throw usage.whereValue(method, attribute, value)
  return operators.map((operator) => operatorCondition(column, operator, value[operator]))
}

/** A column in a `where` of a call. */
interface WhereColumn {
  readonly method: string
  readonly model: RowModel
  readonly attribute: string
  readonly type: string
}

function compare({ method, attribute, type }: WhereColumn, kind: Comparison, operand: unknown): RowCondition {
  const isNegated = kind === '<>'
  if (operand === null && (kind === '=' || isNegated)) {
    const isNull = { kind: 'null' as const, attribute }
    return isNegated ? { kind: 'not', parts: [isNull] } : isNull
  }
  // MySQL compares 'abc' = 0 as equal.
  if (!fitsType(type, operand)) throw usage.whereValue(method, attribute, operand)
  return { kind, attribute, value: copied(operand) }
}

function anyOf(column: WhereColumn, operands: unknown): RowCondition {
  const { method, attribute } = column
  if (!Array.isArray(operands)) throw usage.whereValue(method, attribute, operands)
  // In SQL no value is IN a list because of its NULL, and none is NOT IN a list with NULL.
  if (operands.includes(null)) throw usage.whereList(method, attribute)
  return { kind: 'or', parts: operands.map((each) => compare(column, '=', each)), attribute }
}

function operatorCondition(column: WhereColumn, operator: string | symbol, operand: unknown): RowCondition {
  const { method, model, attribute } = column
  if (operator === Op.in) return anyOf(column, operand)
  if (operator === Op.notIn) return { kind: 'not', parts: [anyOf(column, operand)] }
  if (operator === Op.is) return compare(column, '=', operand)
  if (operator === Op.and || operator === Op.or) {
    const operands: readonly unknown[] = Array.isArray(operand) ? operand : operatorsOf(operand)
    const parts = operands.map((each) => ({
      kind: 'and' as const,
      parts: columnConditions(method, model, attribute, each),
    }))
    return { kind: operator === Op.and ? 'and' : 'or', parts }
  }
  if (operator === Op.not) {
    if (Array.isArray(operand)) return { kind: 'not', parts: [anyOf(column, operand)] }
    // As IS NOT TRUE.
    return typeof operand === 'boolean'
      ? { kind: 'or', parts: [compare(column, '<>', operand), compare(column, '=', null)] }
      : compare(column, '<>', operand)
  }
  if (operator === Op.between || operator === Op.notBetween) {
    if (!Array.isArray(operand) || operand.length !== 2) throw usage.whereValue(method, attribute, operand)
    const parts = [compare(column, '>=', operand[0]), compare(column, '<=', operand[1])]
    return { kind: operator === Op.between ? 'and' : 'not', parts }
  }
  const kind = typeof operator === 'symbol' ? comparisons[operator] : undefined
  if (kind === undefined) throw usage.whereOperator(method, operator)
  return compare(column, kind, operand)
}

/** Each operator of an object as an object of its own; of a value, the value. */
function operatorsOf(value: unknown): readonly unknown[] {
  return isPlainObject(value) ? Reflect.ownKeys(value).map((operator) => ({ [operator]: value[operator] })) : [value]
}

/** The attributes that are columns, and hold no documents. */
export function ordinaryColumns(model: RowModel): readonly string[] {
  return Object.keys(model.getAttributes()).filter(
    (name) => !jsonAttributes(model).has(name) && attributeType(model, name) !== 'VIRTUAL',
  )
}

/** The SQL of a condition. */
export function conditionSql(condition: RowCondition, statement: Statement): string {
  switch (condition.kind) {
    case 'and':
      return condition.parts.length > 0 ? `(${joined(condition.parts, statement, ' AND ')})` : '1 = 1'
    case 'or':
      return condition.parts.length > 0 ? `(${joined(condition.parts, statement, ' OR ')})` : '1 = 0'
    case 'not':
      return condition.parts.length > 0 ? `NOT (${joined(condition.parts, statement, ' AND ')})` : '1 = 0'
    case 'null':
      return `${statement.column(condition.attribute)} IS NULL`
    default: {
      const { attribute, kind, value } = condition
      return statement.comparison(attribute, kind, value)
    }
  }
}

/** Whether every row meets the condition, whatever its columns hold: `{ [Op.or]: [{}] }`, `{ id: { [Op.notIn]: [] } }`. */
export function isAlwaysMet(condition: RowCondition): boolean {
  if (condition.kind === 'and') return condition.parts.every(isAlwaysMet)
  if (condition.kind === 'or') return condition.parts.some(isAlwaysMet)
  return condition.kind === 'not' && condition.parts.some(isNeverMet)
}

/** Whether no row can meet the condition, such as one with an empty list of values. */
export function isNeverMet(condition: RowCondition): boolean {
  if (condition.kind === 'and') return condition.parts.some(isNeverMet)
  if (condition.kind === 'or') return condition.parts.every(isNeverMet)
  return condition.kind === 'not' && condition.parts.every(isAlwaysMet)
}

function joined(parts: readonly RowCondition[], statement: Statement, by: string): string {
  return parts.map((each) => conditionSql(each, statement)).join(by)
}

/** The columns of a condition. */
export function columnsOf(condition: RowCondition): readonly string[] {
  const own = condition.attribute === undefined ? [] : [condition.attribute]
  return 'parts' in condition ? [...new Set([...own, ...condition.parts.flatMap(columnsOf)])] : own
}

function isPlainObject(value: unknown): value is Record<string | symbol, unknown> {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}
