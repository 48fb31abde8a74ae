import { Utils } from 'sequelize'
import { usage } from '../errors/usage.js'
import { isOperation } from '../json/operation.js'
import {
  copied,
  expectedOperand,
  fitsType,
  fractionTypes,
  integerTypes,
  isSumKnown,
  sumOf,
} from '../rows/operand-types.js'
import type { RowRef } from '../rows/row-ref.js'
import {
  attributeType,
  changedAttributes,
  updatedAtAttribute,
  valuesOf,
  versionAttribute,
} from '../sequelize/internals.js'
import type { RowModel } from '../sequelize/internals.js'
import { jsonAttributes } from '../sequelize/model-state.js'

/** A relative change of a number in an ordinary column: see {@link plus}. */
class Plus {
  readonly #made = true
  /** The number to add, as decimal text. */
  readonly by: string

  constructor(by: string) {
    this.by = by
    Object.freeze(this)
  }

  static isPlus(value: unknown): value is Plus {
    return typeof value === 'object' && value !== null && #made in value
  }
}
export type { Plus }

/** Whether {@link plus} made the value. */
export function isPlus(value: unknown): value is Plus {
  return Plus.isPlus(value)
}

/**
 * Adds `by` (may be negative) to the stored number of an ordinary column, for {@link atomicUpdate}. NULL counts as 0.
 *
 * Exact for integers and DECIMAL columns, also past 2^53; the database rounds a sum to the scale of a DECIMAL column. FLOAT
 * and DOUBLE columns add as doubles, and SQLite stores DECIMAL as a double.
 *
 * @param by a number, a bigint, or a decimal text such as `'0.10'`
 * @throws {UsageError} not a decimal number, or a number that JavaScript has rounded
 * @example await account.atomicUpdate({ balance: plus('-19.90') }, { where: { balance: { [Op.gte]: '19.90' } } })
 */
export function plus(by: number | bigint | string): Plus {
  const isExact = typeof by !== 'number' || !Number.isInteger(by) || Number.isSafeInteger(by)
  const text = typeof by === 'string' || typeof by === 'number' || typeof by === 'bigint' ? String(by) : ''
  if (!isExact || !/^-?\d{1,35}(\.\d{1,30})?$/.test(text)) throw usage.plus('plus', by)
  return new Plus(/^-?\d+$/.test(text) ? String(BigInt(text)) : text)
}

/** The change of one ordinary column: its new value, or a number to add. */
export type ColumnChange = { readonly attribute: string } & (
  { readonly value: unknown } | { readonly plus: string; readonly type: string }
)

/**
 * The attributes of `changes` that are no JSON columns.
 * @throws {UsageError} an attribute does not exist or cannot be written here, or plus() does not fit its type
 */
export function ordinaryChanges(
  method: string,
  model: RowModel,
  changes: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> {
  const attributes = model.getAttributes()
  const names = Object.keys(changes).filter((name) => !jsonAttributes(model).has(name))
  for (const name of names) {
    const value = changes[name]
    if (!Object.hasOwn(attributes, name)) throw usage.attribute(method, model.name, name, Object.keys(attributes))
    if (model.primaryKeyAttributes.includes(name)) throw usage.keyChange(method, model.name, name)
    const isMoved = name === updatedAtAttribute(model) || name === versionAttribute(model)
    if (isMoved) throw usage.movedColumn(method, model.name, name)
    const isOperations = Array.isArray(value) && value.some(isOperation)
    if (value === undefined || typeof value === 'symbol' || isOperations || value instanceof Utils.SequelizeMethod)
      throw usage.columnValue(method, model.name, name, value)
    if (!Plus.isPlus(value)) continue
    const type = attributeType(model, name)
    const fits = integerTypes.includes(type) ? !value.by.includes('.') : fractionTypes.includes(type)
    if (!fits) throw usage.plusType(method, model.name, name, type, value.by)
  }
  return Object.fromEntries(names.map((name) => [name, copied(changes[name])]))
}

/**
 * Passes new values through the setters and validators of the model, as `Model.update` does; sends no SQL.
 * @throws {ValidationError} of Sequelize: a validator refused a value
 * @throws {UsageError} a value is not of the type of its column, or a setter assigns a JSON column
 */
export async function validatedChanges(
  method: string,
  { model }: Pick<RowRef, 'model'>,
  changes: Readonly<Record<string, unknown>>,
): Promise<readonly ColumnChange[]> {
  const sums = Object.entries(changes).flatMap(([attribute, value]) =>
    Plus.isPlus(value) ? [{ attribute, plus: value.by, type: attributeType(model, attribute) }] : [],
  )
  const values = Object.fromEntries(Object.entries(changes).filter(([, value]) => !Plus.isPlus(value)))
  if (Object.keys(values).length === 0) return sums
  const built = model.build(values)
  const stored = [...new Set([...Object.keys(values), ...changedAttributes(built)])].filter(
    (name) => attributeType(model, name) !== 'VIRTUAL',
  )
  const document = stored.find((name) => jsonAttributes(model).has(name))
  if (document !== undefined) throw usage.setterOfDocument(method, model.name, document)
  const own = [...model.primaryKeyAttributes, updatedAtAttribute(model), versionAttribute(model)]
  const other = stored.find((name) => own.includes(name) || sums.some(({ attribute }) => attribute === name))
  if (other !== undefined) throw usage.setterOfColumn(method, model.name, other)
  const skip = Object.keys(model.getAttributes()).filter((name) => !stored.includes(name) && !(name in values))
  await built.validate({ skip, hooks: false })
  const after = valuesOf(built)
  const unset = stored.length === 0 ? Object.keys(values)[0] : stored.find((name) => after[name] === undefined)
  if (unset !== undefined) throw usage.setterOfNothing(method, model.name, unset)
  const wrong = stored.find(
    (name) =>
      !isStorable(attributeType(model, name), after[name]) || isMadeDate(model, name, values[name], after[name]),
  )
  if (wrong !== undefined) throw usage.columnValue(method, model.name, wrong, values[wrong])
  return [...sums, ...stored.map((attribute) => ({ attribute, value: after[attribute] }))]
}

/** Whether Sequelize has made a date of a value that is none: of `true`, one millisecond after 1970 began. */
function isMadeDate(model: RowModel, attribute: string, given: unknown, built: unknown): boolean {
  return (
    built instanceof Date && given !== null && given !== undefined && !fitsType(attributeType(model, attribute), given)
  )
}

/**
 * Whether a value can be sent for a column. Databases and Sequelize store others, such as 'abc' in a number or a date, and NaN in a
 * text, as 0, NaN, NULL or 'Invalid date'.
 */
export function isStorable(type: string, value: unknown): boolean {
  if (value === null) return true
  const expected = expectedOperand(type)
  if (expected === 'a date') return fitsType(type, value)
  if (typeof value === 'boolean') return true
  if (expected === 'a number') return fitsType(type, value)
  if (type === 'ARRAY') return Array.isArray(value)
  const isExpression = typeof value === 'symbol' || value instanceof Utils.SequelizeMethod
  return typeof value === 'number' ? Number.isFinite(value) : !isExpression
}

/**
 * Whether {@link valueAfter} is what the column holds after a change. A DECIMAL column rounds to its scale, a FLOAT to single
 * precision on some databases.
 * @param addsDecimals the database adds DECIMAL columns exactly
 */
export function isValueKnown(model: RowModel, change: ColumnChange, addsDecimals: boolean): boolean {
  if (!('plus' in change) || integerTypes.includes(change.type)) return true
  return change.type === 'DECIMAL' && addsDecimals && isSumKnown(model, change.attribute, change.plus)
}

/** The value in memory after a change, in the form that the driver gave it. A number that was not loaded stays unknown. */
export function valueAfter(change: ColumnChange, before: unknown): unknown {
  return 'plus' in change ? sumOf(change.type, before, change.plus) : change.value
}
