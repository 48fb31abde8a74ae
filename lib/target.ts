import { isDeepStrictEqual } from 'node:util'
import { Model } from 'sequelize'
import type { ModelStatic, Sequelize } from 'sequelize'
import type { Row, RowModel } from './database.js'
import type { Column } from './dialects/dialect.js'
import { usage } from './errors/usage.js'
import type { RowFacts, UsageError } from './errors/errors.js'

/**
 * The row that a function works on: an instance, or its model and primary key, which needs no read.
 * A composite key is an object of exactly its attributes: `[Setting, { tenantId: 1, name: 'theme' }]`.
 */
export type Target<M extends Model> = M | readonly [model: ModelStatic<M>, primaryKey: PrimaryKey]

export type PrimaryKey = string | number | bigint | Date | Uint8Array | { readonly [attribute: string]: unknown }

/** One row of one table: what every statement of ours is about. */
export interface Identity {
  readonly model: RowModel
  readonly primaryKey: Readonly<Record<string, unknown>>
  /** The instance, unless the target was [Model, primaryKey]. */
  readonly instance: Row | undefined
}

/** A primary key of a model as text, which no two rows share. */
export function keyText(model: RowModel, primaryKey: Readonly<Record<string, unknown>>): string {
  const parts = model.primaryKeyAttributes.map((name) => {
    const value = primaryKey[name]
    if (value instanceof Date) return [value.getTime()]
    return value instanceof Uint8Array ? [Buffer.from(value).toString('base64')] : String(value)
  })
  return JSON.stringify(parts)
}

export function facts({ model, primaryKey }: Identity): RowFacts {
  return { model: model.name, primaryKey }
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
 * The row that `target` names.
 * @throws {UsageError} `target` is neither an instance nor [Model, primaryKey], or its key is not whole
 */
export function identify<M extends Model>(method: string, target: Target<M>): Identity {
  if (Array.isArray(target) && target.length === 2) {
    const [model, key] = target as unknown as [unknown, unknown]
    if (!isModel(model)) throw usage.model(method, model)
    return { model, primaryKey: wholeKey(method, model, keyGiven(method, model, key)), instance: undefined }
  }
  if (!(target instanceof Model)) throw usage.target(method, target)
  const instance = target as Row
  const model = instance.constructor as RowModel
  if (!isModel(model)) throw usage.model(method, model)
  if (instance.isNewRecord) throw usage.newRecord(method, model.name)
  return { model, primaryKey: wholeKey(method, model, keyLoaded(method, model, instance)), instance }
}

function keyNames(method: string, model: RowModel): readonly string[] {
  const names = model.primaryKeyAttributes
  if (names.length === 0) throw usage.noPrimaryKey(method, model.name)
  return names
}

function keyGiven(method: string, model: RowModel, key: unknown): Record<string, unknown> {
  const names = keyNames(method, model)
  const wrong = (): UsageError => usage.primaryKeyShape(method, model.name, names, key)
  if (names.length === 1) return { [names[0]!]: key }
  if (typeof key !== 'object' || key === null) throw wrong()
  if (!isDeepStrictEqual(Object.keys(key).sort(), [...names].sort())) throw wrong()
  return Object.fromEntries(names.map((name) => [name, (key as Record<string, unknown>)[name]]))
}

function keyLoaded(method: string, model: RowModel, instance: Row): Record<string, unknown> {
  const loaded = instance.dataValues as Record<string, unknown>
  const previous = instance.previous() as Record<string, unknown>
  return Object.fromEntries(
    keyNames(method, model).map((name) => {
      if (loaded[name] === undefined) throw usage.primaryKeyNotLoaded(method, model.name, name)
      // A key that was changed and not saved still names the row by its old value.
      return [name, previous[name] ?? loaded[name]]
    }),
  )
}

const numberTypes = [
  'TINYINT',
  'SMALLINT',
  'MEDIUMINT',
  'INTEGER',
  'BIGINT',
  'DECIMAL',
  'FLOAT',
  'REAL',
  'DOUBLE PRECISION',
]
const stringTypes = ['STRING', 'CHAR', 'TEXT', 'UUID', 'ENUM', 'CITEXT']

// MySQL compares '7x' = 7 and 'abc' = 0 as equal: a key of the wrong type would name other rows.
function wholeKey(method: string, model: RowModel, key: Record<string, unknown>): Record<string, unknown> {
  for (const [name, value] of Object.entries(key)) {
    const type = attributeType(model, name)
    const isNumber =
      typeof value === 'bigint' ||
      // A rounded number would name another row.
      (Number.isInteger(value) ? Number.isSafeInteger(value) : Number.isFinite(value)) ||
      (typeof value === 'string' && /^-?\d+(\.\d+)?$/.test(value))
    const isOther = typeof value === 'boolean' || value instanceof Date || value instanceof Uint8Array
    const expected = numberTypes.includes(type) ? 'a number' : stringTypes.includes(type) ? 'a string' : 'a value'
    const fits =
      expected === 'a number'
        ? isNumber
        : expected === 'a string'
          ? typeof value === 'string' || (value instanceof Uint8Array && type !== 'UUID')
          : isNumber || isOther || typeof value === 'string'
    if (!fits) throw usage.primaryKeyType(method, model.name, name, expected, value)
  }
  return key
}

export function attributeType(model: RowModel, attribute: string): string {
  const { type } = model.getAttributes()[attribute as never] as { type: { key: string } }
  return type.key
}

/** The names of a model's JSON attributes. */
function jsonColumns(model: RowModel): string[] {
  return Object.keys(model.getAttributes()).filter((name) => /^JSONB?$/.test(attributeType(model, name)))
}

/** @throws {UsageError} `column` is not the name of a JSON attribute */
export function jsonColumnType(method: string, model: RowModel, column: unknown): Column['type'] {
  const isAttribute = typeof column === 'string' && Object.hasOwn(model.getAttributes(), column)
  const type = isAttribute ? attributeType(model, column) : undefined
  if (type !== 'JSON' && type !== 'JSONB') throw usage.column(method, model.name, column, jsonColumns(model))
  return type
}

/**
 * The options, if they are an object of known names.
 * @throws {UsageError} they are not: a misspelt `transaction` would write outside it
 */
export function checkOptions<O extends object>(method: string, options: O, known: readonly (keyof O & string)[]): O {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) throw usage.options(method, options)
  for (const name of Object.keys(options)) {
    if (!(known as readonly string[]).includes(name)) throw usage.option(method, name, known)
  }
  return options
}
