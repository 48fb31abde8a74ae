import { usage } from '../errors/usage.js'
import { jsonText, textWithInfinity } from './encode.js'
import { isObject } from './values.js'
import type { JsonValue, Kind, Path, PathInput, PathOf } from './values.js'

/**
 * A change at one path of a JSON document, as frozen data. Each dialect translates it to SQL; `apply` of semantics.ts
 * defines the result of that SQL.
 */
export interface Operation<K extends Kind = Kind, P extends Path = Path, V = unknown> {
  readonly kind: K
  readonly path: P
  /** The JSON text of the operand (for `append`, of an array). Encoded on creation: later changes have no effect. */
  readonly json: string
  /** The operand's type, for the compiler only. */
  readonly operand?: V
}

/** Creates an operation. Error texts start with `method`; each constructor below passes its own name. */
export function operation<K extends Kind, const P extends PathInput, V>(
  method: string,
  kind: K,
  path: P,
  value: V,
): Operation<K, PathOf<P>, V> {
  if (kind === 'merge' && !isObject(value)) throw usage.patch(method, value)
  const keys = kind === 'merge' && path.length === 0 && typeof path !== 'string' ? root : keysOf(method, path)
  return new MadeOperation(kind, keys as PathOf<P>, jsonText(method, value))
}

/** Creates an operation of a save; its operand is a part of a document, in which a number may be too large. */
export function savedOperation(kind: 'set' | 'append', path: Path, value: JsonValue): Operation {
  return new MadeOperation(kind, path, textWithInfinity(value)!)
}

/** The class of every operation. Parsed JSON, such as a request body, cannot forge its private member. */
class MadeOperation<K extends Kind, P extends Path, V> implements Operation<K, P, V> {
  readonly #made = true
  readonly kind: K
  readonly path: P
  readonly json: string
  declare readonly operand?: V

  constructor(kind: K, path: P, json: string) {
    this.kind = kind
    this.path = path
    this.json = json
    Object.freeze(this)
  }

  static isOperation(value: unknown): value is Operation {
    return typeof value === 'object' && value !== null && #made in value
  }
}

/** Whether a constructor below created the value. Copies of operations and parsed JSON are not operations. */
export function isOperation(value: unknown): value is Operation {
  return MadeOperation.isOperation(value)
}

const root: Path = Object.freeze([])

function keysOf(method: string, path: PathInput): Path {
  const keys: readonly string[] = typeof path === 'string' ? [path] : path
  if (!Array.isArray(keys) || !keys.every((key) => typeof key === 'string')) throw usage.path(method, path)
  if (keys.length === 0) throw usage.emptyPath(method)
  return Object.freeze([...keys])
}

/** Replaces the value at `path`; missing parents become objects. Like MongoDB's `$set`. */
export function set<const P extends PathInput, const V>(path: P, value: V): Operation<'set', PathOf<P>, V> {
  return operation('set', 'set', path, value)
}

/** Sets the value at `path` if it is absent; a stored JSON null is present. */
export function setIfAbsent<const P extends PathInput, const V>(
  path: P,
  value: V,
): Operation<'setIfAbsent', PathOf<P>, V> {
  return operation('setIfAbsent', 'setIfAbsent', path, value)
}

/** Removes the key at `path`; no error if it is absent. Like MongoDB's `$unset`. */
export function remove<const P extends PathInput>(path: P): Operation<'remove', PathOf<P>, null> {
  return operation('remove', 'remove', path, null)
}

/**
 * Moves the value at `path` to another `key` of the same object and replaces its value; no error if `path` is absent.
 * Like MongoDB's `$rename`.
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

/**
 * Adds `by` (may be negative or a fraction) to the number at `path`; a missing number is 0. Like MongoDB's `$inc`.
 *
 * Integers are added exactly. If one of the numbers has a fraction or an exponent, the sum is that of JavaScript, of IEEE
 * doubles, on every database. A sum that the database cannot hold so is an `UnsupportedValueError`, and nothing is written.
 */
export function increment<const P extends PathInput>(
  path: P,
  by: number | bigint = 1,
): Operation<'increment', PathOf<P>, number> {
  if (typeof by !== 'number' && typeof by !== 'bigint') throw usage.amount('increment', by)
  return operation<'increment', P, number>('increment', 'increment', path, by as number)
}

/** Lowers the number at `path` to `value` if it is higher; a missing number becomes `value`. Like MongoDB's `$min`. */
export function min<const P extends PathInput>(path: P, value: number | bigint): Operation<'min', PathOf<P>, number> {
  if (typeof value !== 'number' && typeof value !== 'bigint') throw usage.amount('min', value)
  return operation<'min', P, number>('min', 'min', path, value as number)
}

/** Raises the number at `path` to `value` if it is lower; a missing number becomes `value`. Like MongoDB's `$max`. */
export function max<const P extends PathInput>(path: P, value: number | bigint): Operation<'max', PathOf<P>, number> {
  if (typeof value !== 'number' && typeof value !== 'bigint') throw usage.amount('max', value)
  return operation<'max', P, number>('max', 'max', path, value as number)
}

/** Adds `items` to the end of the array at `path`; a missing array is empty. Like MongoDB's `$push` with `$each`. */
export function append<const P extends PathInput, const V extends readonly [unknown, ...unknown[]]>(
  path: P,
  ...items: V
): Operation<'append', PathOf<P>, V[number]> {
  if (items.length < 1 || items.includes(undefined)) throw usage.value('append', 'the value', 'undefined')
  return operation<'append', P, V[number]>('append', 'append', path, items)
}

/** Adds `item` to the start of the array at `path`; a missing array is empty. MongoDB's `$push` with `$position: 0`. */
export function prepend<const P extends PathInput, const V>(path: P, item: V): Operation<'prepend', PathOf<P>, V> {
  return operation('prepend', 'prepend', path, item)
}

/** Appends `item` to the array at `path` unless it has an equal item (in any key order). MongoDB's `$addToSet`. */
export function addToSet<const P extends PathInput, const V>(path: P, item: V): Operation<'addToSet', PathOf<P>, V> {
  return operation('addToSet', 'addToSet', path, item)
}

/** Removes every item that equals `item` (in any key order) from the array at `path`. Like MongoDB's `$pull`. */
export function pull<const P extends PathInput, const V>(path: P, item: V): Operation<'pull', PathOf<P>, V> {
  return operation('pull', 'pull', path, item)
}

/** Merges `patch` into the value at `path`: objects key by key, null removes a key (RFC 7396, JSON Merge Patch). */
export function merge<const P extends PathInput, const V>(path: P, patch: V): Operation<'merge', PathOf<P>, V> {
  return operation('merge', 'merge', path, patch)
}

/** A condition on the stored document for a write: see {@link equals}, {@link exists}, {@link absent}. */
export interface Condition {
  readonly kind: 'equals' | 'exists' | 'absent'
  readonly path: Path
  /** The expected value's JSON text. */
  readonly json: string
  /** A driver has read the value: numbers may be rounded. */
  readonly isLoaded?: boolean
}

/** Creates a condition. Error texts start with `method`. */
export function condition(method: string, kind: Condition['kind'], path: PathInput, value: unknown): Condition {
  return new MadeCondition(kind, keysOf(method, path), jsonText(method, value))
}

/** The class of every condition, as {@link MadeOperation} is of every operation. */
class MadeCondition implements Condition {
  readonly #made = true
  readonly kind: Condition['kind']
  readonly path: Path
  readonly json: string

  constructor(kind: Condition['kind'], path: Path, json: string) {
    this.kind = kind
    this.path = path
    this.json = json
    Object.freeze(this)
  }

  static isCondition(value: unknown): value is Condition {
    return typeof value === 'object' && value !== null && #made in value
  }
}

/** Whether a constructor below created the value. Copies of conditions and parsed JSON are not conditions. */
export function isCondition(value: unknown): value is Condition {
  return MadeCondition.isCondition(value)
}

/** The value at `path` deeply equals `value`, in any key order; 1 equals 1.0. An absent value equals nothing. */
export function equals(path: PathInput, value: unknown): Condition {
  return condition('equals', 'equals', path, value)
}

/** A value is present at `path`; a stored JSON null is present. */
export function exists(path: PathInput): Condition {
  return condition('exists', 'exists', path, null)
}

/** No value is present at `path`. */
export function absent(path: PathInput): Condition {
  return condition('absent', 'absent', path, null)
}
