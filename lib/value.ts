import { types } from 'node:util'
import type { Dialect } from './dialects/index.js'
import { UnsupportedValueError, usage } from './errors.js'
import type { Operation } from './operation.js'

/**
 * `value` as JSON text.
 * @throws {UsageError} it, or something in it, is no JSON value
 * @throws {UnsupportedValueError} something in it would silently become something else
 */
export function jsonText(method: string, column: string, value: unknown): string {
  const place = (key: string): string => (key === '' ? 'the value' : `the value at "${key}"`)
  const refuse = (key: string, what: string, remedy: string): never => {
    throw new UnsupportedValueError(method, column, `${place(key)} is ${what}`, remedy)
  }
  const check = function (this: unknown, key: string, each: unknown): unknown {
    const original = (this as Record<string, unknown>)[key]
    if (typeof each === 'function' || typeof each === 'symbol')
      throw usage.value(method, place(key), `a ${typeof each}`)
    if (each === undefined && Array.isArray(this)) throw usage.value(method, place(key), 'undefined')
    if (typeof each === 'number' && !Number.isFinite(each)) refuse(key, String(each), 'Store null, or a string.')
    if (typeof each === 'bigint') refuse(key, 'a bigint', 'Store a string: String(value).')
    if (types.isDate(original) && each === null) refuse(key, 'an invalid Date', 'Store null.')
    if (types.isPromise(original)) refuse(key, 'a promise', 'Write await before it.')
    if (isNotAsItLooks(original)) {
      const name = (original as object).constructor.name
      refuse(
        key,
        `of class ${name}, of which JSON would keep nothing or something else`,
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
    throw error
  }
  if (text === undefined) throw usage.value(method, 'the value', 'undefined')
  return text
}

function isNotAsItLooks(value: unknown): boolean {
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
  ].some((is) => is(value))
}

/** @throws {UnsupportedValueError} the key or the value is one that this database would store as something else */
export function refuseUnsupported(method: string, column: string, operation: Operation, dialect: Dialect): void {
  const refuse = (what: string, reason: string): never => {
    throw new UnsupportedValueError(
      method,
      column,
      `${what} cannot be held by ${dialect.name}: ${reason}`,
      'Encode it before storing it, for example with encodeURIComponent().',
    )
  }
  const refuseText = (what: string, text: string): void => {
    if (!text.isWellFormed()) refuse(what, 'it has half of a surrogate pair')
    const reason = dialect.refuseText(text)
    if (reason) refuse(what, reason)
  }
  const walk = (value: unknown, depth: number): void => {
    if (typeof value === 'object' && value !== null && depth > dialect.maxDepth) {
      throw new UnsupportedValueError(
        method,
        column,
        `the document would be more than ${dialect.maxDepth} levels deep, which ${dialect.name} does not hold`,
        'Store deep parts as text, or in a table of their own.',
      )
    }
    if (typeof value === 'string') refuseText(`the string ${shorten(value)}`, value)
    if (typeof value !== 'object' || value === null) return
    for (const [key, each] of Object.entries(value)) {
      if (!Array.isArray(value)) refuseText(`the inner key ${shorten(key)}`, key)
      walk(each, depth + 1)
    }
  }
  const shown = `the key ${shorten(operation.key)}`
  refuseText(shown, operation.key)
  const reason = dialect.refuseKey(operation.key)
  if (reason) refuse(shown, reason)
  walk(JSON.parse(operation.json), 2)
}

function shorten(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text)
}
