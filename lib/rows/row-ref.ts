import { isDeepStrictEqual } from 'node:util'
import { Model, Op } from 'sequelize'
import type { Attributes, ModelStatic, Sequelize, WhereOptions } from 'sequelize'
import type { Column } from '../dialects/dialect.js'
import type { RowFacts } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import {
  attributeType,
  fieldOf,
  hasScope,
  isChanged,
  isParanoid,
  modelOf,
  previousValuesOf,
  valuesOf,
} from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { documentType, jsonAttributes, mayHoldText } from '../sequelize/model-state.js'
import { sessionOfModel } from '../sequelize/session.js'
import type { Session } from '../sequelize/session.js'
import type { Statement } from '../sequelize/statement.js'
import { keyText, looseKeyText, mayBeSameKey } from './key-text.js'
import { copied, expectedOperand, fitsType, isRoundedInteger } from './operand-types.js'
import { conditionSql } from './row-conditions.js'
import type { RowCondition } from './row-conditions.js'

/**
 * The row that a function works on: an instance; a model and a primary key, which needs no earlier read; or a model and a
 * `where`, which exactly one row meets. As for `Model.update`, a row that a `paranoid` model has deleted is only found by its
 * instance.
 * An object has exactly the attributes of the key: `[Setting, { tenantId: 1, name: 'theme' }]`; a composite key needs one.
 */
export type Target<M extends Model> = M | TargetByKey<M>

/** A target without an instance: a call returns no row for it, unless it is asked to. */
export type TargetByKey<M extends Model> =
  readonly [model: ModelStatic<M>, primaryKey: PrimaryKey] | readonly [model: ModelStatic<M>, condition: RowWhere<M>]

export type PrimaryKey =
  string | number | bigint | Date | Uint8Array | { readonly [attribute: string]: unknown; readonly where?: never }

/**
 * The one row that meets these conditions on its ordinary columns: `[User, { where: { email } }]`. As for `Model.update`,
 * the `where` of the model's scope holds too, and rows that a `paranoid` model has deleted do not match. Sequelize's language
 * with the operators eq, ne, gt, gte, lt, lte, in, notIn, is, not, between, notBetween, like, notLike, and, or: all values are
 * bound.
 */
export interface RowWhere<M extends Model> {
  readonly where: WhereOptions<Attributes<M>>
}

/** A reference to one row: model, primary key and, if there is one, the instance. */
export class RowRef {
  readonly model: RowModel
  readonly primaryKey: Readonly<Record<string, unknown>>
  /** The instance; `undefined` if the target was `[Model, …]`. */
  readonly instance: Row | undefined
  /** Conditions without which it is not the row: those by which it was found, or that a `paranoid` model has not deleted it. */
  readonly conditions: readonly RowCondition[]
  #key: string | undefined
  #looseKey: string | undefined
  #session: Session | undefined

  constructor(
    model: RowModel,
    primaryKey: Readonly<Record<string, unknown>>,
    instance?: Row,
    conditions: readonly RowCondition[] = [],
  ) {
    this.model = model
    this.primaryKey = primaryKey
    this.instance = instance
    this.conditions = conditions
  }

  /** The row of an instance, by the primary key in memory. */
  static of(instance: Row): RowRef {
    const model = modelOf(instance)
    const values = valuesOf(instance)
    const primaryKey: Record<string, unknown> = {}
    for (const name of model.primaryKeyAttributes) primaryKey[name] = values[name]
    return new RowRef(model, primaryKey, instance)
  }

  get session(): Session {
    return (this.#session ??= sessionOfModel(this.model))
  }

  /** The model and the primary key, for error texts. */
  get facts(): RowFacts {
    const { conditions, primaryKey, model, instance } = this
    return {
      model: model.name,
      primaryKey,
      ...(conditions.length > 0 && { isParanoid: isParanoid(model) }),
      ...(hasScope(model) && { isScoped: true }),
      ...(instance && { hasInstance: true }),
    }
  }

  /** The table and the primary key as text: equal for two references to one row, different for two rows. */
  get key(): string {
    return (this.#key ??= JSON.stringify([
      this.model.getTableName(),
      keyAttributes(this.model).map((name) => keyText(attributeType(this.model, name), this.primaryKey[name])),
    ]))
  }

  /**
   * {@link key}, made of {@link looseKeyText}. One transaction runs one call for such a key at a time, and all callers
   * lock in its order.
   */
  get looseKey(): string {
    return (this.#looseKey ??= JSON.stringify([
      this.model.getTableName(),
      keyAttributes(this.model).map((name) => looseKeyText(attributeType(this.model, name), this.primaryKey[name])),
    ]))
  }

  /** The primary key by the attributes of a model of the same table. */
  keyIn(model: RowModel): Readonly<Record<string, unknown>> {
    if (model.getAttributes() === this.model.getAttributes()) return this.primaryKey
    const own = keyAttributes(this.model)
    return Object.fromEntries(keyAttributes(model).map((name, index) => [name, this.primaryKey[own[index]!]]))
  }

  /** Whether the database may take the key for that of another reference to a row of the same table. */
  mayBeSame({ model, primaryKey }: RowRef): boolean {
    const names = keyAttributes(model)
    return keyAttributes(this.model).every((name, index) =>
      mayBeSameKey(attributeType(this.model, name), this.primaryKey[name], primaryKey[names[index]!]),
    )
  }

  /** The same row, by its primary key alone. */
  get byKey(): RowRef {
    return this.conditions.length === 0 ? this : new RowRef(this.model, this.primaryKey, this.instance)
  }

  /** The SQL that matches the row. The binds of the primary key are the last ones. */
  sql(statement: Statement): string {
    let sql = statement.row(this.primaryKey)
    for (const each of this.conditions) sql += ` AND ${conditionSql(each, statement)}`
    return sql
  }
}

/** The attributes of the primary key in the order of their columns, which is the same for all models of a table. */
function keyAttributes(model: RowModel): readonly string[] {
  const { primaryKeyAttributes: names } = model
  return names.length < 2
    ? names
    : [...names].sort((one, other) => (fieldOf(model, one) < fieldOf(model, other) ? -1 : 1))
}

export function isSequelize(value: unknown): value is Sequelize {
  return typeof (value as Partial<Sequelize> | null)?.getQueryInterface === 'function'
}

export function isModel(value: unknown): value is RowModel {
  return (
    typeof value === 'function' && 'rawAttributes' in value && 'sequelize' in value && value.sequelize !== undefined
  )
}

/**
 * Resolves an instance to its row.
 * @throws {UsageError} `target` is no instance, is not stored, or its key is incomplete, has a wrong type or was not read exactly
 */
export function identifyRow(method: string, target: unknown): RowRef {
  if (!(target instanceof Model)) throw usage.target(method, target)
  const instance = target as Row
  const model = modelOf(instance)
  if (!isModel(model)) throw usage.model(method, model)
  if (instance.isNewRecord) throw usage.newRecord(method, model.name)
  const row = new RowRef(model, checkedKey(method, model, keyFromInstance(method, model, instance)), instance)
  for (const name of model.primaryKeyAttributes) {
    const value = row.primaryKey[name]
    const mayBeOther = typeof value === 'string' && value.includes('\ufffd') && row.session.connector.replacesBytes
    if (mayBeOther) throw usage.replacedKey(method, row.facts, name)
  }
  return row
}

/**
 * Resolves a model and a primary key to a row.
 * @throws {UsageError} the key is incomplete or has a wrong type
 */
export function rowByKey(method: string, model: RowModel, key: unknown, conditions: readonly RowCondition[]): RowRef {
  return new RowRef(model, checkedKey(method, model, keyFromArgument(method, model, key)), undefined, conditions)
}

/** @throws {UsageError} two of the references are the same row */
export function refuseDuplicates(method: string, refs: readonly RowRef[]): void {
  if (refs.length === 1) return
  const seen = new Set<string>()
  for (const ref of refs) {
    if (seen.has(ref.key)) throw usage.targetTwice(method, ref.facts)
    seen.add(ref.key)
  }
}

function keyNames(method: string, model: RowModel): readonly string[] {
  const names = model.primaryKeyAttributes
  if (names.length === 0) throw usage.noPrimaryKey(method, model.name)
  return names
}

function keyFromArgument(method: string, model: RowModel, key: unknown): Record<string, unknown> {
  const names = keyNames(method, model)
  const isObject = typeof key === 'object' && key !== null && !(key instanceof Date) && !(key instanceof Uint8Array)
  if (names.length === 1 && !isObject) return { [names[0]!]: key }
  if (!isObject || !isDeepStrictEqual(Object.keys(key).sort(), [...names].sort())) {
    throw usage.primaryKeyShape(method, model.name, names, key)
  }
  return Object.fromEntries(names.map((name) => [name, (key as Record<string, unknown>)[name]]))
}

function keyFromInstance(method: string, model: RowModel, instance: Row): Record<string, unknown> {
  const loaded = valuesOf(instance)
  const key: Record<string, unknown> = {}
  for (const name of keyNames(method, model)) {
    if (loaded[name] === undefined) throw usage.primaryKeyNotLoaded(method, model.name, name)
    // If the key was changed and not saved, the old value still identifies the row.
    key[name] = (isChanged(instance, name) ? previousValuesOf(instance)[name] : undefined) ?? loaded[name]
  }
  return key
}

// MySQL compares '7x' = 7 and 'abc' = 0 as equal: a key of the wrong type would match other rows.
function checkedKey(method: string, model: RowModel, key: Record<string, unknown>): Record<string, unknown> {
  for (const name of model.primaryKeyAttributes) {
    const type = attributeType(model, name)
    if (!fitsType(type, key[name])) {
      throw usage.primaryKeyType(method, model.name, name, expectedOperand(type), key[name])
    }
    key[name] = copied(key[name])
  }
  return key
}

/** @throws {UsageError} the driver has rounded the primary key of the row that it read: a save would write another row */
export function refuseRoundedKey(method: string, facts: RowFacts, model: RowModel, read: Row): void {
  for (const name of model.primaryKeyAttributes) {
    const value = valuesOf(read)[name]
    if (isRoundedInteger(attributeType(model, name), value)) throw usage.roundedKey(method, facts, name, value)
  }
}

/** @throws {UsageError} `column` is not the name of a JSON attribute */
export function jsonColumnType(method: string, model: RowModel, column: unknown): Column['type'] {
  const columns = jsonAttributes(model)
  if (typeof column === 'string' && columns.has(column)) return documentType(model, column)
  throw usage.column(method, model.name, column, [...columns], mayHoldText(model, column))
}

/** The attributes of the primary key that a WHERE condition, or the values of a row, determine. */
export function keyNamedIn(model: RowModel, where: object): Readonly<Record<string, unknown>> {
  const { [Op.and]: all = [], ...fields } = where as Record<string | symbol, unknown>
  const parts = [fields, ...[all].flat().filter((each) => typeof each === 'object' && each !== null)] as Record<
    string,
    unknown
  >[]
  const named = model.primaryKeyAttributes.flatMap((name) => {
    const value = parts.map((part) => part[fieldOf(model, name)]).find((each) => each !== undefined)
    const isOne = value !== null && value !== undefined && (typeof value !== 'object' || value instanceof Date)
    return isOne ? [[name, value] as const] : []
  })
  return Object.fromEntries(named)
}
