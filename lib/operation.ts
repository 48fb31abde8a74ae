import { randomUUID } from 'node:crypto'
import { isDeepStrictEqual, types } from 'node:util'
import { UnsupportedValueError } from './errors/errors.js'
import { usage } from './errors/usage.js'

/** Any value that JSON can hold. */
export type JsonValue = string | number | boolean | null | readonly JsonValue[] | { readonly [key: string]: JsonValue }

type JsonObject = { readonly [key: string]: JsonValue }

/** Object keys from the root of a document, each literal: `['steps', 'a.b']` are two. Array elements have no path. */
export type Path = readonly string[]

/** A path as callers write it; a bare string is one literal key, never a dotted path. */
export type PathInput = string | Path
export type PathOf<P extends PathInput> = P extends string ? readonly [P] : P

export type Kind =
  | 'set'
  | 'setIfAbsent'
  | 'remove'
  | 'rename'
  | 'increment'
  | 'min'
  | 'max'
  | 'append'
  | 'prepend'
  | 'addToSet'
  | 'pull'
  | 'merge'

/**
 * A change at one path of a JSON document, as frozen data: each dialect turns it into SQL, {@link apply} says what that
 * SQL must mean.
 */
export interface Operation<K extends Kind = Kind, P extends Path = Path, V = unknown> {
  readonly kind: K
  readonly path: P
  /** The operand's JSON text, of `append` an array, taken when the operation was made: later changes of a value do not reach it. */
  readonly json: string
  /** For the compiler only: the operand's type. */
  readonly operand?: V
}

/** Makes an operation in the name of `method`; its constructors below do so in their own. */
export function operation<K extends Kind, const P extends PathInput, V>(
  method: string,
  kind: K,
  path: P,
  value: V,
): Operation<K, PathOf<P>, V> {
  if (kind === 'merge' && jsonType(value) !== 'object') throw usage.patch(method, value)
  const keys = kind === 'merge' && path.length === 0 && typeof path !== 'string' ? root : keysOf(method, path)
  return Object.freeze({ kind, path: keys as never, json: jsonText(method, value) })
}

const root: Path = Object.freeze([])

function keysOf(method: string, path: PathInput): Path {
  const keys: readonly string[] = typeof path === 'string' ? [path] : path
  if (!Array.isArray(keys) || !keys.every((key) => typeof key === 'string')) throw usage.path(method, path)
  if (keys.length === 0) throw usage.emptyPath(method)
  return Object.freeze([...keys])
}

/** Replaces the value at `path`; parents that are missing become objects. MongoDB's `$set`. */
export function set<const P extends PathInput, const V>(path: P, value: V): Operation<'set', PathOf<P>, V> {
  return operation('set', 'set', path, value)
}

/** Sets the value at `path` if nothing is there; JSON null is something. */
export function setIfAbsent<const P extends PathInput, const V>(
  path: P,
  value: V,
): Operation<'setIfAbsent', PathOf<P>, V> {
  return operation('setIfAbsent', 'setIfAbsent', path, value)
}

/** Removes the key at `path`; one that is not there is no error. MongoDB's `$unset`. */
export function remove<const P extends PathInput>(path: P): Operation<'remove', PathOf<P>, null> {
  return operation('remove', 'remove', path, null)
}

/**
 * Moves the value at `path` to another `key` of the same object, over what is there; one that is not there is no error.
 * MongoDB's `$rename`.
 */
export function rename<const P extends PathInput, const K extends string>(
  path: P,
  key: K,
): Operation<'rename', PathOf<P>, K> {
  if (typeof key !== 'string') throw usage.key('rename', key)
  const renamed = operation('rename', 'rename', path, key)
  if (renamed.path.at(-1) === key) throw usage.sameKey('rename', key)
  return renamed
}

/** Adds `by`, which may be negative or a fraction, to the number at `path`; a missing one starts at 0. MongoDB's `$inc`. */
export function increment<const P extends PathInput>(
  path: P,
  by: number | bigint = 1,
): Operation<'increment', PathOf<P>, number> {
  if (typeof by !== 'number' && typeof by !== 'bigint') throw usage.amount('increment', by)
  return operation<'increment', P, number>('increment', 'increment', path, by as number)
}

/** Lowers the number at `path` to `value` if it is higher; a missing one becomes it. MongoDB's `$min`. */
export function min<const P extends PathInput>(path: P, value: number): Operation<'min', PathOf<P>, number> {
  if (typeof value !== 'number') throw usage.amount('min', value)
  return operation('min', 'min', path, value)
}

/** Raises the number at `path` to `value` if it is lower; a missing one becomes it. MongoDB's `$max`. */
export function max<const P extends PathInput>(path: P, value: number): Operation<'max', PathOf<P>, number> {
  if (typeof value !== 'number') throw usage.amount('max', value)
  return operation('max', 'max', path, value)
}

/** Adds `items` to the end of the array at `path`; a missing one starts empty. MongoDB's `$push` with `$each`. */
export function append<const P extends PathInput, const V extends readonly [unknown, ...unknown[]]>(
  path: P,
  ...items: V
): Operation<'append', PathOf<P>, V[number]> {
  if (items.length < 1 || items.includes(undefined)) throw usage.value('append', 'the value', 'undefined')
  return operation<'append', P, V[number]>('append', 'append', path, items)
}

/** Adds `item` to the beginning of the array at `path`; a missing one starts empty. MongoDB's `$push` with `$position: 0`. */
export function prepend<const P extends PathInput, const V>(path: P, item: V): Operation<'prepend', PathOf<P>, V> {
  return operation('prepend', 'prepend', path, item)
}

/** Appends `item` to the array at `path` if no equal one is in it; the order of keys does not matter. MongoDB's `$addToSet`. */
export function addToSet<const P extends PathInput, const V>(path: P, item: V): Operation<'addToSet', PathOf<P>, V> {
  return operation('addToSet', 'addToSet', path, item)
}

/** Removes every item that equals `item` from the array at `path`; the order of keys does not matter. MongoDB's `$pull`. */
export function pull<const P extends PathInput, const V>(path: P, item: V): Operation<'pull', PathOf<P>, V> {
  return operation('pull', 'pull', path, item)
}

/** Merges `patch` into the value at `path`, objects key by key, where null removes: RFC 7396 JSON Merge Patch. */
export function merge<const P extends PathInput, const V>(path: P, patch: V): Operation<'merge', PathOf<P>, V> {
  return operation('merge', 'merge', path, patch)
}

/** What must be true of the stored document for a write to happen; made by {@link equals}, {@link exists}, {@link absent}. */
export interface Condition {
  readonly kind: 'equals' | 'exists' | 'absent'
  readonly path: Path
  /** The expected value's JSON text. */
  readonly json: string
}

/** Makes a condition in the name of `method`; its constructors below do so in their own. */
export function condition(method: string, kind: Condition['kind'], path: PathInput, value: unknown): Condition {
  return Object.freeze({ kind, path: keysOf(method, path), json: jsonText(method, value) })
}

/** The value at `path` equals `value`: deeply, whatever the order of keys, and 1 is 1.0. What is not there equals nothing. */
export function equals(path: PathInput, value: unknown): Condition {
  return condition('equals', 'equals', path, value)
}

/** Something is at `path`; JSON null is something. */
export function exists(path: PathInput): Condition {
  return condition('exists', 'exists', path, null)
}

/** Nothing is at `path`. */
export function absent(path: PathInput): Condition {
  return condition('absent', 'absent', path, null)
}

/** Whether a document meets a condition, which the SQL of every dialect must equal. */
export function meets({ kind, path, json }: Condition, document: unknown): boolean {
  const value = valueAt(document, path)
  if (kind !== 'equals') return (value === undefined) === (kind === 'absent')
  // -0, which some databases keep, is 0 in JSON text.
  return value !== undefined && isDeepStrictEqual(JSON.parse(JSON.stringify(value)), JSON.parse(json))
}

/** `'object'`, `'array'`, `'null'`, `'string'` …: JSON's own names; NULL and what is missing count as `'null'`. */
function jsonType(value: unknown): string {
  return value === null || value === undefined ? 'null' : Array.isArray(value) ? 'array' : typeof value
}

/** What a document holds at a path; `undefined` if nothing. */
function valueAt(document: unknown, path: Path): unknown {
  let value = document
  for (const key of path) {
    if (jsonType(value) !== 'object' || !Object.hasOwn(value as object, key)) return undefined
    value = (value as JsonObject)[key]
  }
  return value
}

/** What stands in the way of an operation. */
export interface Obstacle {
  readonly path: Path
  readonly needed: 'an object' | 'a number' | 'an array'
  /** JSON's name of what is there. */
  readonly found: string
}

const needs: Partial<Record<Kind, readonly [type: 'number' | 'array', needed: Obstacle['needed']]>> = {
  increment: ['number', 'a number'],
  min: ['number', 'a number'],
  max: ['number', 'a number'],
  append: ['array', 'an array'],
  prepend: ['array', 'an array'],
  addToSet: ['array', 'an array'],
  pull: ['array', 'an array'],
}

/** Whether operations of a kind write where nothing was; the others leave even missing parents as they are. */
export function creates(kind: Kind): boolean {
  return kind !== 'remove' && kind !== 'rename' && kind !== 'pull'
}

/** The path that a rename moves its value to. */
export function destination({ path, json }: Operation): Path {
  return [...path.slice(0, -1), JSON.parse(json) as string]
}

/** The type of value that operations of a kind work on, if it is there; `undefined` for those that replace it. */
export function neededType(kind: Kind): 'number' | 'array' | undefined {
  return needs[kind]?.[0]
}

/** What stands in the way of `operation` on `document`: an array or scalar as a parent, or a value of another type than it works on. */
export function obstacle({ kind, path }: Operation, document: unknown): Obstacle | undefined {
  for (let depth = 0; depth === 0 || depth < path.length; depth++) {
    const parent = path.slice(0, depth)
    const found = jsonType(valueAt(document, parent))
    if (found !== 'object' && found !== 'null') return { path: parent, needed: 'an object', found }
  }
  const need = needs[kind]
  const value = valueAt(document, path)
  if (!need || value === undefined || jsonType(value) === need[0]) return undefined
  return { path, needed: need[1], found: jsonType(value) }
}

/**
 * The document after `operation`, which the SQL of every dialect must equal. NULL and JSON null, as document or as
 * parent, count as an empty object. The document given is left as it is. Ask {@link obstacle} first.
 */
export function apply(operation: Operation, document: unknown): JsonValue {
  const { kind, path, json } = operation
  const operand = JSON.parse(json) as JsonValue
  const value = valueAt(document, path) as JsonValue | undefined
  if (value === undefined && !creates(kind)) return (document ?? {}) as JsonValue
  const items = (value ?? []) as readonly JsonValue[]
  switch (kind) {
    case 'set':
      return setAt(document, path, operand)
    case 'setIfAbsent':
      return setAt(document, path, value === undefined ? operand : value)
    case 'remove':
      return setAt(document, path, undefined)
    case 'rename':
      return setAt(setAt(document, path, undefined), destination(operation), value)
    case 'increment':
      return setAt(document, path, ((value ?? 0) as number) + (operand as number))
    case 'min':
    case 'max':
      return setAt(document, path, Math[kind]((value ?? operand) as number, operand as number))
    case 'prepend':
      return setAt(document, path, [operand, ...items])
    case 'append':
      return setAt(document, path, [...items, ...(operand as readonly JsonValue[])])
    case 'addToSet':
      return setAt(document, path, items.some((item) => isDeepStrictEqual(item, operand)) ? items : [...items, operand])
    case 'pull':
      return setAt(
        document,
        path,
        items.filter((item) => !isDeepStrictEqual(item, operand)),
      )
    case 'merge':
      return setAt(document, path, mergePatch(value, operand))
  }
}

function setAt(document: unknown, path: Path, value: JsonValue | undefined): JsonValue {
  const [key, ...rest] = path
  if (key === undefined) return value ?? null
  const object = (document ?? {}) as JsonObject
  if (rest.length > 0) value = setAt(Object.hasOwn(object, key) ? object[key] : undefined, rest, value)
  if (value !== undefined) return { ...object, [key]: value }
  return Object.fromEntries(Object.entries(object).filter(([name]) => name !== key))
}

/** RFC 7396, section 2. */
function mergePatch(target: JsonValue | undefined, patch: JsonValue): JsonValue {
  if (jsonType(patch) !== 'object') return patch
  const merged = new Map(jsonType(target) === 'object' ? Object.entries(target as JsonObject) : [])
  for (const [key, value] of Object.entries(patch as JsonObject)) {
    if (value === null) merged.delete(key)
    else merged.set(key, mergePatch(merged.get(key), value))
  }
  return Object.fromEntries(merged)
}

/** The paths of `operations` of which one is, or lies inside, the other: their order would matter. */
export function overlap(operations: readonly Operation[]): readonly [Path, Path] | undefined {
  const paths = operations.flatMap((each) => (each.kind === 'rename' ? [each.path, destination(each)] : [each.path]))
  for (const [index, one] of paths.entries()) {
    for (const other of paths.slice(index + 1)) {
      const shared = Math.min(one.length, other.length)
      if (isDeepStrictEqual(one.slice(0, shared), other.slice(0, shared))) return [one, other]
    }
  }
  return undefined
}

/**
 * One operation that does what `one` and then `other`, of the same kind and path, do; `undefined` if there is none. Both
 * have the same {@link obstacle}.
 */
export function fold(one: Operation, other: Operation): Operation | undefined {
  if (one.kind !== other.kind) return undefined
  const json = foldedOperand(one.kind, one.json, other.json)
  return json === undefined ? undefined : Object.freeze({ ...one, json })
}

function foldedOperand(kind: Kind, one: string, other: string): string | undefined {
  if (kind === 'set' || kind === 'remove') return other
  if (kind === 'setIfAbsent') return one
  if (kind === 'append') return `${one.slice(0, -1)},${other.slice(1)}`
  // JavaScript would round them.
  if (/\d{16}/.test(`${one} ${other}`)) return undefined
  const [before, after] = [JSON.parse(one), JSON.parse(other)] as [JsonValue, JsonValue]
  if (kind === 'merge') {
    const patch = foldedPatch(before as JsonObject, after as JsonObject)
    return patch && JSON.stringify(patch)
  }
  if (kind === 'increment') {
    const sum = (before as number) + (after as number)
    // The sum of fractions depends on their order.
    return [before, after, sum].every(Number.isSafeInteger) ? String(sum) : undefined
  }
  if (kind === 'min' || kind === 'max') return String(Math[kind](before as number, after as number))
  return undefined
}

/** The patch that does what two do; none if the second one makes an object of what the first one removes or sets. */
function foldedPatch(one: JsonObject, other: JsonObject): JsonObject | undefined {
  const folded = new Map(Object.entries(one))
  for (const [key, value] of Object.entries(other)) {
    const before = folded.get(key)
    if (before === undefined || jsonType(value) !== 'object') folded.set(key, value)
    else {
      const inner = jsonType(before) === 'object' && foldedPatch(before as JsonObject, value as JsonObject)
      if (!inner) return undefined
      folded.set(key, inner)
    }
  }
  return Object.fromEntries(folded)
}

/** The strings and numbers of a JSON text. */
export const stringOrNumber: RegExp = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g

/** Whether a JSON text is an integer, of any length. */
export function isInteger(json: string): boolean {
  return /^-?\d+$/.test(json)
}

/** A path in the grammar of MySQL, MariaDB and SQLite, for a bind: `$."steps"."a.b"`. */
export function pathText(path: Path): string {
  return '$' + path.map((key) => '.' + JSON.stringify(key)).join('')
}

/**
 * `value` as JSON text.
 * @throws {UsageError} it, or something in it, is no JSON value
 * @throws {UnsupportedValueError} something in it would silently become something else
 */
function jsonText(method: string, value: unknown): string {
  const place = (key: string): string => (key === '' ? 'the value' : `the value at "${key}"`)
  const refuse = (key: string, what: string, remedy: string): never => {
    throw new UnsupportedValueError(method, `${place(key)} is ${what}`, remedy)
  }
  // JSON.stringify writes no bigint: a string that nothing else in the value is stands for it.
  let mark: string | undefined
  const check = function (this: unknown, key: string, each: unknown): unknown {
    const original = (this as Record<string, unknown>)[key]
    if (typeof each === 'function' || typeof each === 'symbol')
      throw usage.value(method, place(key), `a ${typeof each}`)
    if (each === undefined && Array.isArray(this)) throw usage.value(method, place(key), 'undefined')
    if (typeof each === 'number' && !Number.isFinite(each)) refuse(key, String(each), 'Store null, or a string.')
    // A toJSON that somebody gave to BigInt would make a string of it.
    if (typeof original === 'bigint') return `${(mark ??= randomUUID())}${original}`
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
  if (typeof value === 'string' || Number.isFinite(value)) return JSON.stringify(value)
  let text: string | undefined
  try {
    text = JSON.stringify(value, check)
  } catch (error) {
    if (error instanceof TypeError && /circular/i.test(error.message)) throw usage.circular(method)
    throw error
  }
  if (text === undefined) throw usage.value(method, 'the value', 'undefined')
  return mark === undefined ? text : text.replace(new RegExp(`"${mark}(-?\\d+)"`, 'g'), '$1')
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
