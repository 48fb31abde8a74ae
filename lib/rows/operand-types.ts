import type { RefusedValue } from '../dialects/dialect.js'
import { isOfText } from '../dialects/limits.js'
import { attributeType, fieldOf, scaleOf } from '../sequelize/internals.js'
import type { RowModel } from '../sequelize/internals.js'

export const integerTypes: readonly string[] = ['TINYINT', 'SMALLINT', 'MEDIUMINT', 'INTEGER', 'BIGINT']
/** Columns of binary fractions, which hold a double, or the nearest one of single precision. */
export const doubleTypes: readonly string[] = ['FLOAT', 'REAL', 'DOUBLE PRECISION']
export const fractionTypes: readonly string[] = ['DECIMAL', ...doubleTypes]
export const numberTypes: readonly string[] = [...integerTypes, ...fractionTypes]
export const dateTypes: readonly string[] = ['DATE', 'DATEONLY']
const stringTypes = ['STRING', 'CHAR', 'TEXT', 'UUID', 'ENUM', 'CITEXT']

/** Whether a database compares a value with a column of a type without converting it. */
export function fitsType(type: string, value: unknown): boolean {
  const expected = expectedOperand(type)
  if (expected === 'a number') return isNumber(value) && !isRoundedInteger(type, value)
  if (expected === 'a string') return isText(value) || (value instanceof Uint8Array && type !== 'UUID')
  if (type === 'BOOLEAN') return typeof value === 'boolean' || value === 0 || value === 1
  if (type === 'TIME') return typeof value === 'string' && time.test(value)
  const isTextOrNumber = isText(value) || (isNumber(value) && !isRoundedInteger(type, value))
  if (expected === 'a date') return (value instanceof Date || isTextOrNumber) && isDate(value)
  return isTextOrNumber || typeof value === 'boolean' || value instanceof Date || value instanceof Uint8Array
}

/** A copy of a date or of bytes, which the caller may change after the call. */
export function copied(value: unknown): unknown {
  if (value instanceof Date) return new Date(value)
  return value instanceof Uint8Array ? Buffer.from(value) : value
}

/** Whether a value has a fraction that a column of integers would round, maybe to the key of another row. */
export function isRoundedBy(type: string, value: unknown): boolean {
  // Of a long text, Number() would round the fraction away.
  return integerTypes.includes(type) && (Number(value) % 1 !== 0 || /\.\d*[1-9]/.test(String(value)))
}

/** Whether JavaScript or a driver may have rounded a number of a column, so that it matches another row. */
export function isRoundedInteger(type: string, value: unknown): boolean {
  return Number.isInteger(value) && !Number.isSafeInteger(value) && !doubleTypes.includes(type)
}

function isNumber(value: unknown): boolean {
  if (typeof value === 'number') return Number.isFinite(value)
  const isDecimal = typeof value === 'string' && /^-?\d+(\.\d+)?$/.test(value) && Number.isFinite(Number(value))
  return isDecimal || typeof value === 'bigint'
}

/** A driver would replace half of a surrogate pair by U+FFFD, which may match another row. */
function isText(value: unknown): boolean {
  return typeof value === 'string' && value.isWellFormed()
}

/** The times of MySQL, up to 838 hours. */
const time = /^-?(?:[0-7]?\d?\d|8[0-2]\d|83[0-8]):[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?$/

/** What a column of a type is compared with. */
export function expectedOperand(type: string): 'a number' | 'a string' | 'a date' | 'a value' {
  if (numberTypes.includes(type)) return 'a number'
  if (stringTypes.includes(type)) return 'a string'
  return dateTypes.includes(type) ? 'a date' : 'a value'
}

/** Whether every database has the date: a year of four digits, and a day that its month has. */
function isDate(value: unknown): boolean {
  const year = new Date(value as Date | string | number).getUTCFullYear()
  const [, ...parts] = (typeof value === 'string' && /^(\d{4})-(\d\d?)-(\d\d?)(?!\d)/.exec(value)) || []
  const [ofText, month, day] = parts.map(Number)
  // For Node, 31 February is a day in March; some drivers bind it as 'Invalid date'.
  const isInMonth = day === undefined || new Date(Date.UTC(ofText!, month! - 1, day)).getUTCDate() === day
  return year > 0 && year < 10_000 && isInMonth
}

/**
 * The attributes whose new values a database may have refused; none if it refused another value.
 * @param ordinary the written attributes that hold no documents
 * @param documents the written documents; `texts` are those in columns of text
 */
export function refusedAttributes(
  model: RowModel,
  { misfit, column }: RefusedValue,
  ordinary: readonly string[],
  documents: readonly string[],
  texts: readonly string[],
): readonly string[] {
  const named = [...ordinary, ...documents].filter((name) => fieldOf(model, name) === column)
  if (named.length > 0 || misfit === 'of another type') return named
  const isText = (name: string): boolean => expectedOperand(attributeType(model, name)) === 'a string'
  const fitting = ordinary.filter((name) => isText(name) === isOfText(misfit))
  if (isOfText(misfit)) fitting.push(...texts)
  return fitting.length > 0 ? fitting : ordinary
}

/** Whether a column of integers, or a DECIMAL, holds a sum without rounding it to its scale. */
export function isSumKnown(model: RowModel, attribute: string, by: string): boolean {
  const scale = integerTypes.includes(attributeType(model, attribute)) ? 0 : scaleOf(model, attribute)
  return /^-?\d+(\.\d+)?$/.test(by) && (by.split('.')[1] ?? '').length <= scale
}

/** The value in memory of a number in a column of a type after adding to it, in the form that the driver gave it. */
export function sumOf(type: string, before: unknown, by: string): unknown {
  if (typeof before !== 'string' && typeof before !== 'number' && before !== null) return before
  // The driver has rounded it, and will round the sum.
  const isRounded = typeof before === 'number' && Number.isInteger(before) && !Number.isSafeInteger(before)
  if (isRounded) return before + Number(by)
  const text = String(before ?? 0)
  const isDecimal = /^-?\d+(\.\d+)?$/.test(text)
  const isDouble = !['DECIMAL', ...integerTypes].includes(type)
  if (!isDecimal || isDouble) return Number(text) + Number(by)
  const sum = decimalSum(text, by)
  const isLong = integerTypes.includes(type) && !Number.isSafeInteger(Number(sum))
  return typeof before === 'string' || isLong ? sum : Number(sum)
}

/** The exact sum of two decimal texts, with the digits after the point that the longer one has. */
function decimalSum(one: string, other: string): string {
  const scale = Math.max(...[one, other].map((text) => text.split('.')[1]?.length ?? 0))
  const scaled = (text: string): bigint => {
    const [whole, part = ''] = text.split('.') as [string, string?]
    return BigInt(`${whole}${part.padEnd(scale, '0')}`)
  }
  const sum = scaled(one) + scaled(other)
  const digits = String(sum < 0n ? -sum : sum).padStart(scale + 1, '0')
  const point = digits.length - scale
  return `${sum < 0n ? '-' : ''}${digits.slice(0, point)}${scale > 0 ? `.${digits.slice(point)}` : ''}`
}
