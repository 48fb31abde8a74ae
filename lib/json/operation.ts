import { usage } from '../errors/usage.js'
import { jsonText, textWithInfinity } from './encode.js'
import { scanJson } from './json-text.js'
import { isMatching } from './matching.js'
import { isObject } from './values.js'
import type {
  BasicKind,
  ComparisonKind,
  ConditionKind,
  JsonValue,
  Completion,
  Kind,
  Matching,
  Path,
  PathInput,
  PathOf,
  PathOrKey,
} from './values.js'

/**
 * A change at one path of a JSON document, as frozen data. Each dialect translates it to SQL; `apply` of semantics.ts
 * defines the result of that SQL.
 */
export interface Operation<K extends Kind = Kind, P extends Path = Path, V = unknown> {
  readonly kind: K
  readonly path: P
  /** The JSON text of the operand (for `append`, of an array). Encoded on creation: later changes have no effect. */
  readonly json: string
  /** Further paths of `remove`. */
  readonly more?: readonly Path[]
  /** The elements that `pull` removes, in place of those that equal its operand. */
  readonly matching?: Matching
  /** The member by which `replaceOrAppend` finds an element. */
  readonly key?: string
  /** The operand's type, for the compiler only. */
  readonly operand?: V
}

/** An operation at one path: see {@link expand}. */
export type BasicOperation = Operation<BasicKind>

/** Creates an operation. Error texts start with `method`; each constructor below passes its own name. */
export function operation<K extends Kind, const P extends PathInput, V>(
  method: string,
  kind: K,
  path: P,
  value: V,
): Operation<K, PathOf<P>, V> {
  if (kind === 'merge' && !isObject(value)) throw usage.patch(method, value)
  const steps = pathOf(method, kind, path) as PathOf<P>
  const json = jsonText(method, value)
  // A Date, or another object whose toJSON() returns none, would replace the document.
  if (kind === 'merge' && !json.startsWith('{')) throw usage.patch(method, value)
  return new MadeOperation(kind, steps, json)
}

/** The kinds of operations and conditions whose path may be the root: others would replace the document as a whole. */
const rootKinds: ReadonlySet<Kind | ConditionKind> = new Set([
  ...(['merge', 'assign', 'append', 'prepend', 'addToSet', 'pull', 'replaceOrAppend'] as const),
  ...(['equals', 'contains', 'size'] as const),
])

function pathOf(method: string, kind: Kind | ConditionKind, path: PathInput): Path {
  return Array.isArray(path) && path.length === 0 && rootKinds.has(kind) ? root : stepsOf(method, path)
}

/** Creates an operation of a save; its operand is a part of a document, in which a number may be too large. */
export function savedOperation(kind: 'set' | 'append', path: Path, value: JsonValue): Operation {
  return new MadeOperation(kind, path, textWithInfinity(value)!)
}

/** The parts of an operation that only some kinds have. */
type OwnParts = Pick<Operation, 'more' | 'matching' | 'key'>

/**
 * The operation `O`. While the compiler infers the type of a call, what {@link Completion} expects: an editor completes the keys.
 */
type Made<Keys, O> = [Keys, 0] extends [unknown, 1] ? Completion<Keys> : O

function made<Keys, O>(operation: O): Made<Keys, O> {
  return operation
}

/** The class of every operation. Parsed JSON, such as a request body, cannot forge its private member. */
class MadeOperation<K extends Kind, P extends Path, V> implements Operation<K, P, V> {
  readonly #made = true
  readonly kind: K
  readonly path: P
  readonly json: string
  declare readonly more?: readonly Path[]
  declare readonly matching?: Matching
  declare readonly key?: string
  declare readonly operand?: V

  constructor(kind: K, path: P, json: string, own?: OwnParts) {
    this.kind = kind
    this.path = path
    this.json = json
    if (own) Object.assign(this, own)
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

/** A copy of an array of operations; `undefined` for another value, also for an array with holes. */
export function operationsOf(value: unknown): readonly Operation[] | undefined {
  const operations = Array.isArray(value) ? [...(value as readonly unknown[])] : undefined
  return operations?.every(isOperation) ? operations : undefined
}

const root: Path = Object.freeze([])

function isStep(value: unknown): value is Path[number] {
  return typeof value === 'string' || typeof value === 'number' || isMatching(value)
}

function stepsOf(method: string, path: PathInput): Path {
  if (typeof path === 'string') return Object.freeze([path])
  const steps: unknown = path
  if (!Array.isArray(steps) || !steps.every(isStep)) throw usage.path(method, path)
  const index = steps.find((step) => typeof step === 'number' && !Number.isSafeInteger(step))
  if (index !== undefined) throw usage.index(method, index)
  if (steps.length === 0) throw usage.emptyPath(method)
  return Object.freeze([...steps])
}

/** Replaces the value at `path`; missing parents become objects. Like MongoDB's `$set`. */
export function set<const P extends PathOrKey<Keys>, const V, Keys extends string = never>(
  path: P,
  value: V,
): Made<Keys, Operation<'set', PathOf<P>, V>> {
  return made(operation('set', 'set', path, value))
}

/** Sets the value at `path` if it is absent; a stored JSON null is present. */
export function setIfAbsent<const P extends PathOrKey<Keys>, const V, Keys extends string = never>(
  path: P,
  value: V,
): Made<Keys, Operation<'setIfAbsent', PathOf<P>, V>> {
  return made(operation('setIfAbsent', 'setIfAbsent', path, value))
}

/**
 * Sets each key of `object` in the object at `path`, as `{ ...document, ...object }` does. Shallow: a value replaces the
 * stored one as a whole, and null is stored as JSON null, other than by {@link merge}. The path `[]` is the whole document.
 * A missing parent becomes an object. The same as one {@link set} for each key: keys of one object do not overlap.
 *
 * @throws {UsageError} not an object, an object without keys, or a value that is undefined
 * @example await user.updateJson('settings', [assign('editor', { theme: 'dark', font: null })])
 */
export function assign<const P extends PathOrKey<Keys>, const V extends object, Keys extends string = never>(
  path: P,
  object: V,
): Made<Keys, Operation<'assign', PathOf<P>, V>> {
  const assigned = operation<'assign', P, V>('assign', 'assign', path, object)
  const members = scanJson(assigned.json).members
  const missing = members && Object.entries(object).find(([, value]) => value === undefined)
  if (missing) throw usage.value('assign', `the value at "${missing[0]}"`, 'undefined')
  if (!members || members.size === 0) throw usage.assigned('assign', object)
  return made(assigned)
}

/**
 * Removes the key at `path`, and those at `more` paths; no error if one is absent. Each argument is a path from the root:
 * `remove(['steps', 'a'], ['steps', 'b'])`. Like MongoDB's `$unset`.
 */
export function remove<
  const P extends PathOrKey<Keys>,
  const R extends readonly PathInput[] = readonly [],
  Keys extends string = never,
>(path: P, ...more: R): Made<Keys, Operation<'remove', PathOf<P>, R extends readonly [] ? null : PathOf<R[number]>>> {
  const paths = more.map((each) => stepsOf('remove', each))
  const own = paths.length > 0 ? { more: paths } : undefined
  return made(new MadeOperation('remove', stepsOf('remove', path) as PathOf<P>, 'null', own))
}

/**
 * Operations in place of those that stand for others: a `set` for each key of `assign`, a `remove` for each path, and for a
 * `pull` of matching elements; none for an `append` without items.
 */
export function expand(operations: readonly Operation[]): readonly Operation[] {
  return operations.flatMap((each): readonly Operation[] => {
    const { kind, path, json, more = [], matching } = each
    if (matching) return [{ kind: 'remove', path: [...path, matching], json: 'null' }]
    if (kind === 'append' && json === '[]') return []
    if (kind !== 'assign') return [each, ...more.map((other) => ({ kind, path: other, json }))]
    const members = [...scanJson(json).members!]
    return members.map(([key, { start, end }]) => ({ kind: 'set', path: [...path, key], json: json.slice(start, end) }))
  })
}

/**
 * Moves the value at `path` to another `key` of the same object and replaces its value; no error if `path` is absent.
 * Like MongoDB's `$rename`.
 */
export function rename<const P extends PathOrKey<Keys>, const K extends string, Keys extends string = never>(
  path: P,
  key: K,
): Made<Keys, Operation<'rename', PathOf<P>, K>> {
  if (typeof key !== 'string') throw usage.key('rename', key)
  const renamed = operation('rename', 'rename', path, key)
  if (typeof renamed.path.at(-1) !== 'string') throw usage.renamedElement('rename', renamed.path)
  if (renamed.path.at(-1) === key) throw usage.sameKey('rename', key)
  return made(renamed)
}

/**
 * Adds `by` (may be negative or a fraction) to the number at `path`; a missing number, or JSON null, is 0. Like MongoDB's `$inc`.
 *
 * Integers are added exactly. If one of the numbers has a fraction or an exponent, the sum is that of JavaScript, of IEEE
 * doubles, on every database. A sum that the database cannot hold so is an `UnsupportedValueError`, and nothing is written.
 */
export function increment<const P extends PathOrKey<Keys>, Keys extends string = never>(
  path: P,
  by: number | bigint = 1,
): Made<Keys, Operation<'increment', PathOf<P>, number>> {
  if (typeof by !== 'number' && typeof by !== 'bigint') throw usage.amount('increment', by)
  return made(operation<'increment', P, number>('increment', 'increment', path, by as number))
}

/** Lowers the number at `path` to `value` if it is higher; a missing number becomes `value`. Like MongoDB's `$min`. */
export function min<const P extends PathOrKey<Keys>, Keys extends string = never>(
  path: P,
  value: number | bigint,
): Made<Keys, Operation<'min', PathOf<P>, number>> {
  if (typeof value !== 'number' && typeof value !== 'bigint') throw usage.amount('min', value)
  return made(operation<'min', P, number>('min', 'min', path, value as number))
}

/** Raises the number at `path` to `value` if it is lower; a missing number becomes `value`. Like MongoDB's `$max`. */
export function max<const P extends PathOrKey<Keys>, Keys extends string = never>(
  path: P,
  value: number | bigint,
): Made<Keys, Operation<'max', PathOf<P>, number>> {
  if (typeof value !== 'number' && typeof value !== 'bigint') throw usage.amount('max', value)
  return made(operation<'max', P, number>('max', 'max', path, value as number))
}

/**
 * Adds `items` to the end of the array at `path`; a missing array, or JSON null, is empty. Without items there is
 * nothing to do. Like MongoDB's `$push` with `$each`.
 */
export function append<
  const P extends PathOrKey<Keys>,
  const V extends readonly unknown[],
  Keys extends string = never,
>(path: P, ...items: V): Made<Keys, Operation<'append', PathOf<P>, ItemOf<V>>> {
  if (items.includes(undefined)) throw usage.value('append', 'the value', 'undefined')
  return made(operation<'append', P, ItemOf<V>>('append', 'append', path, items as never))
}

/** Undefined, which fits no array, for a call without items. */
type ItemOf<V extends readonly unknown[]> = V extends readonly [] ? undefined : V[number]

/** Adds `item` to the start of the array at `path`; a missing array is empty. MongoDB's `$push` with `$position: 0`. */
export function prepend<const P extends PathOrKey<Keys>, const V, Keys extends string = never>(
  path: P,
  item: V,
): Made<Keys, Operation<'prepend', PathOf<P>, V>> {
  return made(operation('prepend', 'prepend', path, item))
}

/** Appends `item` to the array at `path` unless it has an equal item (in any key order). MongoDB's `$addToSet`. */
export function addToSet<const P extends PathOrKey<Keys>, const V, Keys extends string = never>(
  path: P,
  item: V,
): Made<Keys, Operation<'addToSet', PathOf<P>, V>> {
  return made(operation('addToSet', 'addToSet', path, item))
}

/**
 * Removes every item that equals `item` (in any key order), or every element that is {@link matching}, from the array at
 * `path`. Like MongoDB's `$pull`.
 *
 * @example await order.updateJson('data', [pull('items', matching({ id: 7 }))])
 */
export function pull<const P extends PathOrKey<Keys>, const V, Keys extends string = never>(
  path: P,
  item: V,
): Made<Keys, Operation<'pull', PathOf<P>, V>> {
  if (!isMatching(item)) return made(operation('pull', 'pull', path, item))
  return made(new MadeOperation('pull', pathOf('pull', 'pull', path) as PathOf<P>, item.json, { matching: item }))
}

/**
 * Replaces every element of the array at `path` whose member `key` equals that of `item`; if there is none, appends `item`. A
 * missing array is empty.
 *
 * @throws {UsageError} `item` is not an object with the key
 * @example await order.updateJson('data', [replaceOrAppend('items', 'id', { id: 7, name: 'Tea' })])
 */
export function replaceOrAppend<const P extends PathOrKey<Keys>, const V extends object, Keys extends string = never>(
  path: P,
  key: string,
  item: V,
): Made<Keys, Operation<'replaceOrAppend', PathOf<P>, V>> {
  const method = 'replaceOrAppend'
  if (typeof key !== 'string') throw usage.key(method, key)
  const { kind, path: steps, json } = operation<typeof method, P, V>(method, method, path, item)
  if (!scanJson(json).members?.has(key)) throw usage.identified(method, key, item)
  return made(new MadeOperation(kind, steps, json, { key }))
}

/** Merges `patch` into the value at `path`: objects key by key, null removes a key (RFC 7396, JSON Merge Patch). */
export function merge<const P extends PathOrKey<Keys>, const V, Keys extends string = never>(
  path: P,
  patch: V,
): Made<Keys, Operation<'merge', PathOf<P>, V>> {
  return made(operation('merge', 'merge', path, patch))
}

/**
 * A condition on the stored document for a write: {@link equals}, {@link exists}, {@link absent}, {@link greaterThan},
 * {@link atLeast}, {@link lessThan}, {@link atMost}, {@link contains}, {@link size}, {@link not}.
 */
export interface Condition<K extends ConditionKind = ConditionKind, P extends Path = Path, V = unknown> {
  readonly kind: K
  readonly path: P
  /** The JSON text of the operand. */
  readonly json: string
  /** The condition is met where its kind is not: see {@link not}. */
  readonly isNegated?: boolean
  /** A driver has read the value: numbers may be rounded. */
  readonly isLoaded?: boolean
  /** The operand's type, for the compiler only. */
  readonly operand?: V
}

/** Creates a condition. Error texts start with `method`; each constructor below passes its own name. */
export function condition<K extends ConditionKind, const P extends PathInput, V>(
  method: string,
  kind: K,
  path: P,
  value: V,
): Condition<K, PathOf<P>, V> {
  if (Array.isArray(path) && path.length === 0 && !rootKinds.has(kind)) throw usage.emptyConditionPath(method)
  return new MadeCondition(kind, pathOf(method, kind, path) as PathOf<P>, jsonText(method, value), false)
}

/** The class of every condition, as {@link MadeOperation} is of every operation. */
class MadeCondition<K extends ConditionKind, P extends Path, V> implements Condition<K, P, V> {
  readonly #made = true
  readonly kind: K
  readonly path: P
  readonly json: string
  readonly isNegated: boolean
  declare readonly operand?: V

  constructor(kind: K, path: P, json: string, isNegated: boolean) {
    this.kind = kind
    this.path = path
    this.json = json
    this.isNegated = isNegated
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
export function equals<const P extends PathInput, const V>(path: P, value: V): Condition<'equals', PathOf<P>, V> {
  return condition('equals', 'equals', path, value)
}

/** A value is present at `path`; a stored JSON null is present. */
export function exists<const P extends PathInput>(path: P): Condition<'exists', PathOf<P>, null> {
  return condition('exists', 'exists', path, null)
}

/** No value is present at `path`. */
export function absent<const P extends PathInput>(path: P): Condition<'absent', PathOf<P>, null> {
  return condition('absent', 'absent', path, null)
}

/**
 * The value at `path` is a number greater than the number `than`, or a string after the string `than`.
 *
 * Integers are compared by all their digits, strings by code point on every database, whatever the collation: 'B' is
 * before 'a', 'z' before 'é'. The texts of `Date.prototype.toISOString()` are in the order of time. A value that is missing, JSON null or of
 * another type meets no comparison, and so it meets the {@link not} of each.
 *
 * @throws {UsageError} `than` is neither a number nor a string
 */
export function greaterThan<const P extends PathInput, const V extends Comparable>(
  path: P,
  than: V,
): Condition<'greaterThan', PathOf<P>, V> {
  return comparison('greaterThan', path, than)
}

/** The value at `path` is a number or a string that is not less than `value`. Compares as {@link greaterThan}. */
export function atLeast<const P extends PathInput, const V extends Comparable>(
  path: P,
  value: V,
): Condition<'atLeast', PathOf<P>, V> {
  return comparison('atLeast', path, value)
}

/** The value at `path` is a number or a string that is less than `than`. Compares as {@link greaterThan}. */
export function lessThan<const P extends PathInput, const V extends Comparable>(
  path: P,
  than: V,
): Condition<'lessThan', PathOf<P>, V> {
  return comparison('lessThan', path, than)
}

/** The value at `path` is a number or a string that is not greater than `value`. Compares as {@link greaterThan}. */
export function atMost<const P extends PathInput, const V extends Comparable>(
  path: P,
  value: V,
): Condition<'atMost', PathOf<P>, V> {
  return comparison('atMost', path, value)
}

/** What a comparison compares with. */
type Comparable = number | bigint | string

function comparison<K extends ComparisonKind, const P extends PathInput, V extends Comparable>(
  kind: K,
  path: P,
  value: V,
): Condition<K, PathOf<P>, V> {
  if (!['number', 'bigint', 'string'].includes(typeof value)) throw usage.comparison(kind, value)
  return condition(kind, kind, path, value)
}

/** The array at `path` has an item that equals `item`, by the rule of {@link equals}. A value that is no array has none. */
export function contains<const P extends PathInput, const V>(path: P, item: V): Condition<'contains', PathOf<P>, V> {
  return condition('contains', 'contains', path, item)
}

/** A number of items or keys, or the least and the greatest one. */
type Size = number | { readonly atLeast?: number; readonly atMost?: number }

/**
 * The array at `path` has so many items, or the object so many keys: exactly `size`, or within `{ atLeast, atMost }`. No
 * other value has a size; a missing one does not count as empty.
 *
 * @throws {UsageError} not a whole number from 0, neither `atLeast` nor `atMost`, or `atLeast` above `atMost`
 * @example await event.updateJson('data', [append('guests', 'me')], { if: [size('guests', { atMost: 99 })] })
 */
export function size<const P extends PathInput>(path: P, size: Size): Condition<'size', PathOf<P>, Size> {
  const bounds: unknown[] = typeof size === 'object' && size !== null ? Object.values(size) : [size]
  const isKnown =
    typeof size !== 'object' || size === null || Object.keys(size).every((name) => ['atLeast', 'atMost'].includes(name))
  const areSizes = bounds.every((each) => Number.isSafeInteger(each) && (each as number) >= 0)
  const { atLeast = 0, atMost = Infinity } = typeof size === 'object' && (size as unknown) !== null ? size : {}
  if (bounds.length === 0 || !isKnown || !areSizes || atLeast > atMost) throw usage.size('size', size)
  return condition('size', 'size', path, size)
}

/** The kind of the negation of a condition. */
type Negated<K extends ConditionKind> = K extends 'exists' ? 'absent' : K extends 'absent' ? 'exists' : K

/**
 * The condition is not met: `not(exists(path))` is `absent(path)`. A comparison that a missing value, or a value of
 * another type, does not meet, is met under `not`.
 *
 * @throws {UsageError} not a condition
 */
export function not<K extends ConditionKind, P extends Path, V>(
  condition: Condition<K, P, V>,
): Condition<Negated<K>, P, V> {
  if (!isCondition(condition)) throw usage.condition('not', condition)
  const { kind, path, json, isNegated } = condition
  const opposite = kind === 'exists' ? 'absent' : kind === 'absent' ? 'exists' : undefined
  return new MadeCondition((opposite ?? kind) as Negated<K>, path, json, opposite === undefined && !isNegated)
}
