import { randomUUID } from 'node:crypto'
import { types } from 'node:util'
import { Model, Utils } from 'sequelize'
import { UnsupportedValueError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import type { Path } from './values.js'

/** Matches each string and each number of a text of {@link maskEscapes}. */
export const stringOrNumber: RegExp = /"[^"]*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g

/**
 * A JSON text with two backslashes in place of each escape, at the same position: no string holds a quote. A regular expression
 * that repeats a group for each escape exceeds its stack in a string with millions of them.
 */
export function maskEscapes(json: string): string {
  return json.includes('\\') ? json.replace(/\\./g, '\\\\') : json
}

/** Whether a JSON text is an integer, of any length. */
export function isInteger(json: string): boolean {
  return /^-?\d+$/.test(json)
}

/**
 * The bound of sums with a fraction or an exponent; all databases add them as doubles. It is a little below the greatest
 * double, so that no sum below it overflows, in whatever way a database compares it.
 */
export const greatestSum = 1.797693134862315e308

/** The greatest index in a path of MySQL; no document has as many elements. */
const greatestIndex = 2 ** 32 - 1

/**
 * A path in the JSON path syntax of MySQL, MariaDB and SQLite: `$."steps"."a.b"`, on MySQL also `$."items"[0]` and
 * `$."items"[last-1]`. Sent as a bind.
 */
export function pathText(path: Path): string {
  let text = '$'
  for (const step of path) {
    if (typeof step !== 'number') text += `.${JSON.stringify(step)}`
    else text += step < 0 ? `[last-${Math.min(-1 - step, greatestIndex)}]` : `[${Math.min(step, greatestIndex)}]`
  }
  return text
}

/**
 * The JSON text of a value.
 *
 * @throws {UsageError} the value, or a part of it, is not a JSON value
 * @throws {UnsupportedValueError} JSON.stringify would silently change a part of the value
 */
export function jsonText(method: string, value: unknown): string {
  if (typeof value === 'string' || Number.isFinite(value)) return JSON.stringify(value)
  const place = (key: string): string => (key === '' ? 'the value' : `the value at "${key}"`)
  const refuse = (key: string, what: string, remedy: string): never => {
    throw new UnsupportedValueError(method, `${place(key)} is ${what}`, remedy)
  }
  // JSON.stringify cannot write a bigint, so a unique string stands for it and is replaced in the text.
  let mark: string | undefined
  const check = function (this: unknown, key: string, each: unknown): unknown {
    const original = (this as Record<string, unknown>)[key]
    if (typeof each === 'function' || typeof each === 'symbol')
      throw usage.value(method, place(key), `a ${typeof each}`)
    if (each === undefined && Array.isArray(this)) throw usage.value(method, place(key), 'undefined')
    if (typeof each === 'number' && !Number.isFinite(each)) refuse(key, String(each), 'Store null, or a string.')
    // Checked before toJSON, since an application may have defined BigInt.prototype.toJSON.
    if (typeof original === 'bigint') return `${(mark ??= randomUUID())}${original}`
    if (types.isDate(original) && each === null) refuse(key, 'an invalid Date', 'Store null.')
    if (types.isPromise(original)) refuse(key, 'a promise', 'Write await before it.')
    if (original instanceof Utils.SequelizeMethod) {
      refuse(key, 'an expression of SQL', 'Compute the value in JavaScript, or send the UPDATE with sequelize.query().')
    }
    if (original instanceof Model) {
      const instance = `an instance of the model ${original.constructor.name}`
      refuse(key, instance, 'Store its primary key, or its values: row.get({ plain: true }).')
    }
    if (hasSymbolKeys(each)) {
      refuse(key, 'an object with symbol keys, which JSON cannot represent', 'Use strings as keys, or omit these keys.')
    }
    if (isLossyInJson(original)) {
      const name = (original as object).constructor.name || 'Generator'
      refuse(
        key,
        `of class ${name}, which JSON.stringify would lose or change`,
        'Convert it: Object.fromEntries(map), [...set], String(error), buffer.toString("base64").',
      )
    }
    return each
  }
  let text: string | undefined
  try {
    text = JSON.stringify(value, check)
  } catch (error) {
    if (error instanceof TypeError && /circular/i.test(error.message)) throw usage.circular(method)
    if (isTooDeep(error)) throw tooDeep(method, 'the value', undefined, error)
    throw error
  }
  if (text === undefined) throw usage.value(method, 'the value', 'undefined')
  return mark === undefined ? text : text.replace(new RegExp(`"${mark}(-?\\d+)"`, 'g'), '$1')
}

/** Whether JavaScript failed because a value is too deep for its stack. */
export function isTooDeep(error: unknown): error is RangeError {
  return error instanceof RangeError && /call stack/i.test(error.message)
}

/** The error for a value or a document that is too deep for JavaScript. */
export function tooDeep(method: string, what: string, column?: string, cause?: unknown): UnsupportedValueError {
  const reason = `${what} is too deep for JavaScript, which compares and writes JSON of some 2,000 levels`
  return new UnsupportedValueError(
    method,
    reason,
    'Store deep parts as text, or in a table of their own.',
    column,
    cause,
  )
}

/** The number of levels of a JSON text; a scalar has none. */
export function depthOf(json: string): number {
  let [depth, greatest] = [0, 0]
  for (const [token] of maskEscapes(json).matchAll(/"[^"]*"|[[{\]}]/g)) {
    if (token === '[' || token === '{') greatest = Math.max(greatest, ++depth)
    else if (!token.startsWith('"')) depth--
  }
  return greatest
}

/** A number that JavaScript reads as Infinity. */
const infinite = '1e999'

/**
 * The text of JSON.stringify, in which Infinity is a number that is too large, as a document may hold: it is not null.
 */
export function textWithInfinity(value: unknown): string | undefined {
  const text = JSON.stringify(value) as string | undefined
  if (!text?.includes('null') || !holdsInfinity(value)) return text
  const mark = randomUUID()
  const marked = JSON.stringify(value, (_key, each: unknown) =>
    each === Infinity || each === -Infinity ? `${each < 0 ? '-' : ''}${mark}` : each,
  )
  return marked.replace(new RegExp(`"(-?)${mark}"`, 'g'), `$1${infinite}`)
}

/** Whether a text of {@link textWithInfinity} may hold Infinity. */
export function mayHoldInfinity(json: string): boolean {
  return json.includes(infinite)
}

function holdsInfinity(value: unknown): boolean {
  if (typeof value === 'number') return Math.abs(value) === Infinity
  if (typeof value !== 'object' || value === null || 'toJSON' in value) return false
  return Object.values(value).some(holdsInfinity)
}

/** Whether an object has data under symbols, such as the operators of a Sequelize query. */
function hasSymbolKeys(value: unknown): boolean {
  return (
    typeof value === 'object' &&
    value !== null &&
    Object.getOwnPropertySymbols(value).some((key) => Object.prototype.propertyIsEnumerable.call(value, key))
  )
}

/** Whether JSON.stringify would lose a value or change its type. */
function isLossyInJson(value: unknown): boolean {
  return [
    types.isMap,
    types.isSet,
    types.isWeakMap,
    types.isWeakSet,
    types.isNativeError,
    types.isRegExp,
    types.isAnyArrayBuffer,
    types.isArrayBufferView,
    types.isBoxedPrimitive,
    isBareIterable,
  ].some((is) => is(value))
}

/** Whether the items of an object are no properties of it, as those of Headers and URLSearchParams. */
function isBareIterable(value: unknown): boolean {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value)
  return isObject && Symbol.iterator in value && !('toJSON' in value) && Object.keys(value).length === 0
}
