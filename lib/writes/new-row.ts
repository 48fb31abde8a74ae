import { Utils } from 'sequelize'
import type { Dialect } from '../dialects/dialect.js'
import { refuseInexactSum, refuseInexactSums, refuseUnstorableText, refuseUnsupported } from '../dialects/limits.js'
import { isOptions } from '../errors/check-options.js'
import type { UsageError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { textAfterOperations } from '../json/change-text.js'
import { jsonText } from '../json/encode.js'
import { parseJson, tryParseJson } from '../json/json-text.js'
import { isOperation } from '../json/operation.js'
import { findMismatch } from '../json/semantics.js'
import { copied, doubleTypes } from '../rows/operand-types.js'
import {
  attributeType,
  createdAtAttribute,
  isAutoIncrement,
  updatedAtAttribute,
  valuesOf,
  versionAttribute,
} from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { documentType, isTextInMemory, jsonAttributes } from '../sequelize/model-state.js'
import type { Call } from '../transactions/execute.js'
import { isPlus, isStorable, valueAfter } from './columns.js'
import type { DocumentChange } from './update-document.js'

/** What a row is made of that a call inserts: as by Model.create() and then by the changes. */
interface NewRowParts {
  readonly model: RowModel
  /** The values of a unique key. */
  readonly key: Readonly<Record<string, unknown>>
  /** The values for Model.create(). */
  readonly create: Readonly<Record<string, unknown>>
  readonly documents: readonly DocumentChange[]
  /** The changes of ordinary columns, which setters and validators have not seen yet. */
  readonly changes: Readonly<Record<string, unknown>>
}

/** A row to insert, by attribute. */
export interface NewRow {
  readonly values: ReadonlyMap<string, unknown>
  /** The texts of its documents; a document that is NULL has none. */
  readonly texts: ReadonlyMap<string, string>
  /** The expressions of SQL that the model declares as defaults. */
  readonly expressions: ReadonlyMap<string, unknown>
  /** Why the row cannot be inserted: a change does not fit its value. It may fit the row that is there. */
  readonly refusal: UsageError | undefined
}

/**
 * The option `create`.
 * @throws {UsageError} it is no object, an attribute does not exist or is not its own, or a value cannot be bound
 */
export function createdValues(
  method: string,
  model: RowModel,
  key: object,
  create: unknown,
): Readonly<Record<string, unknown>> {
  if (!isOptions(create)) throw usage.create(method, model.name, create)
  const attributes = model.getAttributes()
  const moved = [updatedAtAttribute(model), versionAttribute(model)]
  for (const [name, value] of Object.entries(create)) {
    if (!Object.hasOwn(attributes, name)) throw usage.attribute(method, model.name, name, Object.keys(attributes))
    if (name in key || moved.includes(name)) throw usage.createdColumn(method, model.name, name)
    const isOperations = isOperation(value) || (Array.isArray(value) && value.some(isOperation))
    if (typeof value === 'symbol' || isOperations || isPlus(value) || value instanceof Utils.SequelizeMethod) {
      throw usage.createdValue(method, model.name, name, value)
    }
  }
  return Object.fromEntries(Object.entries(create).map(([name, value]) => [name, copied(value)]))
}

/**
 * Builds the row as Model.create() does, with setters, defaults and validators, and applies the changes to it; sends no SQL.
 * @throws {UnsupportedValueError} the database cannot store a part of a document, or a sum, exactly
 * @throws {ValidationError} of Sequelize: a validator refused a value, or a column that is not NULL has none
 * @throws {UsageError} a value is not of the type of its column
 */
export async function newRow(
  { method, dialect }: Call,
  { model, key, create, documents, changes }: NewRowParts,
): Promise<NewRow> {
  for (const each of documents) refuseUnsupported(method, each.column, each, dialect)
  const sums = Object.entries(changes).flatMap(([attribute, value]) =>
    isPlus(value) ? [{ attribute, plus: value.by }] : [],
  )
  const values = Object.fromEntries(Object.entries(changes).filter(([, value]) => !isPlus(value)))
  const given = { ...create, ...values, ...key }
  const row = model.build(given)
  refuseChangedKey(method, model, key, row)
  const built = valuesOf(row)
  Object.assign(built, key)
  const expressions = defaultExpressions(model, given, built)
  const parts = { method, dialect, model, built, expressions }
  const sumRefusal = addSums(parts, sums)
  const { texts, refusal } = changeDocuments(parts, documents)
  const now = new Date()
  for (const name of [createdAtAttribute(model), updatedAtAttribute(model)]) if (name) built[name] ??= now
  await row.validate({ hooks: false })
  const stored = Object.keys(model.getAttributes()).filter((name) => {
    const isGiven = built[name] !== undefined && !(built[name] === null && isAutoIncrement(model, name))
    return isGiven && attributeType(model, name) !== 'VIRTUAL' && !texts.has(name) && !expressions.has(name)
  })
  for (const name of stored) {
    refuseUnstorable(method, model, name, built[name])
    refuseUnstorableText(method, name, built[name], dialect)
  }
  return {
    values: new Map(stored.map((name) => [name, built[name]])),
    texts,
    expressions,
    refusal: sumRefusal ?? refusal,
  }
}

/** A row that was built, to which the changes are applied. */
interface BuiltRow {
  readonly method: string
  readonly dialect: Dialect
  readonly model: RowModel
  readonly built: Record<string, unknown>
  /** Its values that are SQL, to which no change can be applied here. */
  readonly expressions: ReadonlyMap<string, unknown>
}

/** Applies sums to a built row; returns the error for the first one that cannot be applied, if the row does not exist. */
function addSums(
  { method, dialect, model, built, expressions }: BuiltRow,
  sums: readonly { readonly attribute: string; readonly plus: string }[],
): UsageError | undefined {
  let refusal: UsageError | undefined
  for (const { attribute, plus } of sums) {
    if (expressions.has(attribute)) {
      refusal ??= usage.createdExpression(method, model.name, attribute)
      continue
    }
    const change = { attribute, plus, type: attributeType(model, attribute) }
    refuseUnstorable(method, model, attribute, built[attribute])
    built[attribute] = valueAfter(change, numberOf(built[attribute]))
    if (!doubleTypes.includes(change.type)) refuseInexactSum(method, attribute, built[attribute], dialect)
  }
  return refusal
}

/** Applies operations to the documents of a built row; returns the texts of all its documents, and the error as {@link addSums}. */
function changeDocuments(
  { method, dialect, model, built, expressions }: BuiltRow,
  documents: readonly DocumentChange[],
): { readonly texts: ReadonlyMap<string, string>; readonly refusal: UsageError | undefined } {
  let refusal: UsageError | undefined
  const texts = new Map<string, string>()
  for (const name of jsonAttributes(model)) {
    const change = documents.find(({ column }) => column === name) ?? { operations: [], conditions: [] }
    const { operations } = change
    if (expressions.has(name)) {
      if (operations.length > 0) refusal ??= usage.createdExpression(method, model.name, name)
      continue
    }
    const created = createdText(method, model, name, built[name])
    const mismatch = findMismatch(operations, parseJson(created), created)
    if (mismatch) {
      refusal ??= usage.createdDocument(method, model.name, name, mismatch.path, mismatch.found)
      continue
    }
    refuseInexactSums(method, name, change, created, dialect)
    const text = operations.length > 0 ? textAfterOperations(created, operations) : created
    // As by Model.create(), null is NULL.
    if (text === 'null') continue
    const stored = [{ kind: 'set', path: [], json: text }] as const
    refuseUnsupported(method, name, { operations: stored, conditions: [], type: documentType(model, name) }, dialect)
    texts.set(name, text)
    built[name] = isTextInMemory(model, name) ? text : parseJson(text)
  }
  return { texts, refusal }
}

/** The expressions of SQL among the values of a built row that are defaults of its model. */
function defaultExpressions(
  model: RowModel,
  given: Readonly<Record<string, unknown>>,
  built: Readonly<Record<string, unknown>>,
): ReadonlyMap<string, unknown> {
  const attributes = model.getAttributes() as Readonly<Record<string, { readonly defaultValue?: unknown }>>
  const isDefault = (name: string, value: unknown): boolean =>
    value instanceof Utils.SequelizeMethod && given[name] === undefined && attributes[name]?.defaultValue !== undefined
  return new Map(
    Object.entries(built).filter(([name, value]) => isDefault(name, value) && attributeType(model, name) !== 'VIRTUAL'),
  )
}

/**
 * The JSON text of a document that a row is created with.
 * @throws {UsageError} it is text that is not JSON, in a column of text
 */
function createdText(method: string, model: RowModel, name: string, value: unknown): string {
  if (value === undefined) return 'null'
  if (!isTextInMemory(model, name) || typeof value !== 'string') return jsonText(method, value)
  if (tryParseJson(value) === undefined) throw usage.createdText(method, model.name, name, value)
  return value
}

/** @throws {UsageError} a setter of the model stores another value than that of the key */
function refuseChangedKey(method: string, model: RowModel, key: Readonly<Record<string, unknown>>, row: Row): void {
  const attributes = model.getAttributes() as Readonly<Record<string, { readonly set?: unknown }>>
  for (const [name, value] of Object.entries(key)) {
    if (!attributes[name]!.set) continue
    const after = valuesOf(row)[name]
    const isSame = after === value || (after instanceof Date && value instanceof Date && +after === +value)
    if (!isSame) throw usage.keySetter(method, model.name, name)
  }
}

function refuseUnstorable(method: string, model: RowModel, name: string, value: unknown): void {
  if (value === undefined || isStorable(attributeType(model, name), value)) return
  throw usage.createdValue(method, model.name, name, value)
}

/** A number that {@link valueAfter} adds to; NULL and no value are 0. */
function numberOf(value: unknown): unknown {
  if (typeof value === 'bigint') return String(value)
  return typeof value === 'boolean' ? Number(value) : (value ?? null)
}
