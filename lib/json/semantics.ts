import { isDeepStrictEqual } from 'node:util'
import { textWithInfinity } from './encode.js'
import { compareNumbers, isSameScalar, parseJson, scanJson } from './json-text.js'
import type { JsonNode } from './json-text.js'
import type { Condition, Operation } from './operation.js'
import { isReadingOfText, isSameNode, isSameText } from './respell.js'
import { isObject, jsonType } from './values.js'
import type { BasicKind, ComparisonKind, ElementPath, JsonObject, JsonValue, Kind, Matching, Path } from './values.js'

/**
 * Whether a stored text meets a condition; numbers are compared by all their digits. Of several elements that its path finds,
 * one must meet it.
 */
export function meets(condition: Condition, text: string): boolean {
  const found = [...placesOf(text, scanJson(text), condition.path)].flatMap(({ node }) => node ?? [])
  const isMet =
    condition.kind === 'absent'
      ? found.length === 0
      : found.some(({ start, end }) => holds(condition, text.slice(start, end)))
  return isMet !== (condition.isNegated === true)
}

/** Whether a stored text meets a condition without its negation. */
function holds({ kind, json, isLoaded }: Condition, stored: string): boolean {
  if (kind === 'exists' || kind === 'absent') return kind === 'exists'
  switch (kind) {
    case 'equals':
      return isSameText(stored, json) || (isLoaded === true && isReadingOfText(stored, parseJson(json)))
    case 'contains': {
      const { items = [] } = scanJson(stored)
      return items.some(({ start, end }) => isSameText(stored.slice(start, end), json, isSameScalar))
    }
    case 'size': {
      const { items, members } = scanJson(stored)
      const count = items?.length ?? members?.size
      const [least, greatest] = sizes(json)
      return count !== undefined && least <= count && count <= greatest
    }
    default:
      return isOrdered(kind, stored, json)
  }
}

/** The least and the greatest size that the operand of the condition `size` allows. */
export function sizes(json: string): readonly [least: number, greatest: number] {
  const operand = JSON.parse(json) as number | { atLeast?: number; atMost?: number }
  if (typeof operand === 'number') return [operand, operand]
  return [operand.atLeast ?? 0, operand.atMost ?? Number.MAX_SAFE_INTEGER]
}

/** The SQL operator of each comparison. */
export const operators: Readonly<Record<ComparisonKind, '>' | '>=' | '<' | '<='>> = {
  greaterThan: '>',
  atLeast: '>=',
  lessThan: '<',
  atMost: '<=',
}

/** Whether two JSON texts are numbers or strings in this order. Strings are compared by code point, as in UTF-8. */
function isOrdered(kind: ComparisonKind, stored: string, operand: string): boolean {
  const isText = operand.startsWith('"')
  if (isText ? !stored.startsWith('"') : !/^[-\d]/.test(stored)) return false
  const bytes = (json: string): Buffer => Buffer.from(JSON.parse(json) as string)
  const order = isText ? Buffer.compare(bytes(stored), bytes(operand)) : compareNumbers(stored, operand)
  return order === 0 ? operators[kind].endsWith('=') : order > 0 === operators[kind].startsWith('>')
}

/** The text of the first value at a path of a JSON text; `undefined` if there is none. */
export function textAt(text: string, path: Path, root: JsonNode = scanJson(text)): string | undefined {
  const [{ node } = {}] = placesOf(text, root, path)
  return node && text.slice(node.start, node.end)
}

/** A place in a JSON text, or a missing one: a key that its object does not have. */
interface FoundPlace {
  readonly path: ElementPath
  readonly node: JsonNode | undefined
}

/**
 * The places of a path in a JSON text; none where an array does not have the element.
 * @param onMiss called for a place that is an array without the element, or that has the wrong type, and the depth of the step
 */
function placesOf(
  text: string,
  root: JsonNode,
  path: Path,
  onMiss: (place: FoundPlace, depth: number) => void = () => undefined,
): FoundPlace[] {
  let places: FoundPlace[] = [{ path: [], node: root }]
  for (const [depth, step] of path.entries()) {
    places = places.flatMap((place) => {
      const { node } = place
      if (typeof step === 'string') {
        if (node && !node.members) onMiss(place, depth)
        return { path: [...place.path, step], node: node?.members?.get(step) }
      }
      const indexes = node?.items ? indexesOf(text, node.items, step) : []
      if (indexes.length === 0) onMiss(place, depth)
      return indexes.map((index) => ({ path: [...place.path, index], node: node!.items![index] }))
    })
  }
  return places
}

/** The indexes of the stored elements that a step into an array finds. */
function indexesOf(text: string, items: readonly JsonNode[], step: number | Matching): readonly number[] {
  if (typeof step === 'number') return [step < 0 ? items.length + step : step].filter((index) => items[index])
  const wanted = [...scanJson(step.json).members!]
  const hasAll = (item: JsonNode): boolean => wanted.every(([key, each]) => hasMember(text, item, key, step.json, each))
  return [...items.keys()].filter((index) => hasAll(items[index]!))
}

/** Whether a stored object has a key with the same value as a node of another text. */
function hasMember(text: string, { members }: JsonNode, key: string, other: string, value: JsonNode): boolean {
  const own = members?.get(key)
  return own !== undefined && isSameNode(text, own, other, value, isSameScalar)
}

/** Whether a path goes into an array. */
export function entersArray(path: Path): boolean {
  return path.some((step) => typeof step !== 'string')
}

/** Whether the stored document decides at which paths an operation writes. */
export function needsElements({ kind, path }: Operation): boolean {
  return kind === 'replaceOrAppend' || entersArray(path)
}

/** Whether operations change a document that is an array. */
export function isOfRootArray(operations: readonly Operation[]): boolean {
  return operations.some(({ kind, path: [first] }) =>
    first === undefined ? neededType(kind) === 'array' : typeof first !== 'string',
  )
}

/** A basic operation at one place of a stored document. */
export type PlacedOperation = Operation<BasicKind, ElementPath>

/** Where in a stored text an operation writes: the same change, with a path to each stored element; or why it cannot. */
function place(operation: Operation, text: string, root: JsonNode): readonly PlacedOperation[] | Mismatch {
  const { kind, path, json, key } = operation
  if (!needsElements(operation)) return [operation as PlacedOperation]
  let mismatch: Mismatch | undefined
  const places = placesOf(text, root, path, ({ path: parent, node }, depth) => {
    const found = node ? jsonType(parseJson(text.slice(node.start, node.end))) : 'null'
    const type = typeof path[depth] === 'string' ? 'object' : 'array'
    if (found !== type && found !== 'null') mismatch ??= { path: parent, needed: `an ${type}`, found }
    // The other elements are not written either.
    else if (type === 'array' && createsMissing(kind))
      mismatch ??= { path: [...parent, path[depth]!], needed: 'an element', found: 'nothing' }
  })
  if (mismatch) return mismatch
  if (key === undefined) return places.map((each) => ({ ...operation, path: each.path }) as PlacedOperation)
  const by = scanJson(json).members!.get(key)!
  return places.flatMap(({ path: at, node }): readonly PlacedOperation[] => {
    const found = [...(node?.items ?? []).entries()].filter(([, item]) => hasMember(text, item, key, json, by))
    if (found.length === 0) return [{ kind: 'append', path: at, json: `[${json}]` }]
    return found.map(([index]) => ({ kind: 'set', path: [...at, index], json }))
  })
}

/**
 * The operations with a path to each stored element, in an order in which none moves the element of another one; an operation
 * that does not fit the document is left out.
 */
export function placed(operations: readonly Operation[], text: string): readonly PlacedOperation[] {
  if (!operations.some(needsElements)) return operations as readonly PlacedOperation[]
  const root = scanJson(text)
  const all = operations.flatMap((each) => {
    const found = place(each, text, root)
    return 'needed' in found ? [] : found
  })
  const removedIndex = ({ kind, path }: PlacedOperation): number => {
    const last = path.at(-1)
    return kind === 'remove' && typeof last === 'number' ? last : Infinity
  }
  return all.sort((one, other) => removedIndex(other) - removedIndex(one) || 0)
}

/**
 * A condition that a stored text meets, with the stored spelling of its value, if that spelling is another one: the
 * database compares numbers as they are spelled. SQLite does not decide about some numbers with a fraction or an exponent, and
 * about integers past 64 bits: there, the condition is that the value is still the stored one.
 */
export function inStoredSpelling(condition: Condition, text: string): Condition {
  const { kind, path, isNegated = false } = condition
  if (entersArray(path)) return condition
  const stored = textAt(text, path)
  if (stored === undefined) return condition
  if (kind === 'equals' && !isNegated) return { ...condition, json: stored }
  const comparesNumbers = kind === 'equals' || kind === 'contains' || kind in operators
  return comparesNumbers && /\d[.eE][-+\d]|\d{19}/.test(stored) ? { kind: 'equals', path, json: stored } : condition
}

/** Whether a stored value equals an operand. Some databases store -0; an operand has only 0. */
function isEqual(value: unknown, operand: unknown): boolean {
  if (typeof value !== 'object' || value === null) return value === operand
  return isDeepStrictEqual(parseJson(JSON.stringify(value)), operand)
}

/** The value at a path of a document; `undefined` if there is none. */
function valueAt(document: unknown, path: Path): unknown {
  let value = document
  for (const step of path) {
    if (typeof step === 'number' && Array.isArray(value)) value = value[step] as unknown
    else if (typeof step === 'string' && isObject(value) && Object.hasOwn(value, step)) value = value[step]
    else return undefined
  }
  return value
}

/** A type mismatch between a stored value and an operation. */
export interface Mismatch {
  readonly path: Path
  readonly needed: 'an object' | 'a number' | 'an array' | 'an element'
  /** The stored type, as named by {@link jsonType}. */
  readonly found: string
  /** The condition whose path needs it, if no operation does. */
  readonly condition?: Condition
}

const needs: Partial<Record<Kind, readonly [type: 'number' | 'array', needed: Mismatch['needed']]>> = {
  increment: ['number', 'a number'],
  min: ['number', 'a number'],
  max: ['number', 'a number'],
  append: ['array', 'an array'],
  prepend: ['array', 'an array'],
  addToSet: ['array', 'an array'],
  pull: ['array', 'an array'],
  replaceOrAppend: ['array', 'an array'],
}

/** Whether operations of a kind create a missing value and its parents; other kinds do not change the document then. */
export function createsMissing(kind: Kind): boolean {
  return kind !== 'remove' && kind !== 'rename' && kind !== 'pull'
}

/** Whether an operation finds elements by their members. */
export function findsElements({ kind, path }: Operation): boolean {
  return kind === 'replaceOrAppend' || path.some((step) => typeof step === 'object')
}

/** Whether the result of an operation depends on the numbers in the stored value. */
export function computes(operation: Operation): boolean {
  return findsElements(operation) || ['increment', 'min', 'max', 'addToSet', 'pull'].includes(operation.kind)
}

/** The paths of all keys inside a JSON text. */
export function keyPaths(json: string): Path[] {
  const inside = (value: unknown, path: Path): Path[] => {
    if (typeof value !== 'object' || value === null) return []
    return Object.entries(value).flatMap(([key, each]) => {
      const own = [...path, Array.isArray(value) ? Number(key) : key]
      return [...(Array.isArray(value) ? [] : [own]), ...inside(each, own)]
    })
  }
  return inside(parseJson(json), [])
}

/**
 * Whether an operation or a condition writes if an operand with keys equals no stored value: what the database does not find
 * equal must not equal it.
 */
export function comparesInside(each: Operation | Condition): boolean {
  const isNegated = 'isNegated' in each && each.isNegated
  const { kind, json } = each
  const writes = isNegated ? kind === 'equals' || kind === 'contains' : kind === 'addToSet' || kind === 'pull'
  return writes && json.includes('{') && keyPaths(json).length > 0
}

/** Whether NULL or JSON null becomes a document; other operations find nothing to change there. */
export function makesDocument(operations: readonly Operation[]): boolean {
  return operations.some(({ kind }) => createsMissing(kind))
}

/** The path of a value after its rename. */
export function renamedPath<P extends Path>({ path, json }: Operation<Kind, P>): (P[number] | string)[] {
  return [...path.slice(0, -1), JSON.parse(json) as string]
}

/**
 * The type that an existing value must have for operations of a kind, to which JSON null counts as missing; `undefined` if any
 * type will do.
 */
export function neededType(kind: Kind): 'number' | 'array' | undefined {
  return needs[kind]?.[0]
}

/** Why one of some operations cannot change a document, stored as `text`: a value has the wrong type, or is no element. */
export function findMismatch(operations: readonly Operation[], document: unknown, text: string): Mismatch | undefined {
  const root = operations.some(needsElements) ? scanJson(text) : undefined
  for (const each of operations) {
    const found = root ? place(each, text, root) : [each as PlacedOperation]
    if ('needed' in found) return found
    for (const one of found) {
      const mismatch = mismatchOf(one, document)
      if (mismatch) return mismatch
    }
  }
  return undefined
}

/** Why an operation cannot change a document: a parent, or the value itself, has the wrong type. */
function mismatchOf({ kind, path }: PlacedOperation, document: unknown): Mismatch | undefined {
  for (const [depth, step] of path.entries()) {
    const parent = path.slice(0, depth)
    const found = jsonType(valueAt(document, parent))
    const type = typeof step === 'string' ? 'object' : 'array'
    if (found !== type && found !== 'null') return { path: parent, needed: `an ${type}`, found }
  }
  const isRoot = path.length === 0
  const need = needs[kind] ?? (isRoot ? (['object', 'an object'] as const) : undefined)
  const value = valueAt(document, path)
  // Null counts as a missing number or array, and as an empty document.
  if (!need || (value ?? null) === null || jsonType(value) === need[0]) return undefined
  return { path, needed: need[1], found: jsonType(value) }
}

/**
 * The document after `operation`. The SQL of every dialect must have the same result. NULL and JSON null, as document or
 * as parent, count as empty, and JSON null as a missing number or array. Does not modify its argument. The operation must
 * fit the document.
 */
function apply(operation: PlacedOperation, document: unknown): JsonValue {
  const { kind, path, json } = operation
  const operand = parseJson(json)
  const stored = valueAt(document, path) as JsonValue | undefined
  const value = path.length === 0 || neededType(kind) ? (stored ?? undefined) : stored
  if (value === undefined && !createsMissing(kind)) return document as JsonValue
  const items = (value ?? []) as readonly JsonValue[]
  switch (kind) {
    case 'set':
      return setAt(document, path, operand)
    case 'setIfAbsent':
      return setAt(document, path, value === undefined ? operand : value)
    case 'remove':
      return setAt(document, path, undefined)
    case 'rename':
      return setAt(setAt(document, path, undefined), renamedPath(operation), value)
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
      return setAt(document, path, items.some((item) => isEqual(item, operand)) ? items : [...items, operand])
    case 'pull':
      return setAt(
        document,
        path,
        items.filter((item) => !isEqual(item, operand)),
      )
    case 'merge':
      return setAt(document, path, mergePatch(value, operand))
  }
}

function setAt(document: unknown, path: ElementPath, value: JsonValue | undefined): JsonValue {
  const [key, ...rest] = path
  if (key === undefined) return value ?? null
  if (typeof key === 'number') {
    const items = [...(document as readonly JsonValue[])]
    const item = rest.length > 0 ? setAt(items[key], rest, value) : value
    items.splice(key, 1, ...(item === undefined ? [] : [item]))
    return items
  }
  const object = (document ?? {}) as JsonObject
  if (rest.length > 0) value = setAt(Object.hasOwn(object, key) ? object[key] : undefined, rest, value)
  if (value !== undefined) return { ...object, [key]: value }
  return Object.fromEntries(Object.entries(object).filter(([name]) => name !== key))
}

/** RFC 7396, section 2. */
function mergePatch(target: JsonValue | undefined, patch: JsonValue): JsonValue {
  if (!isObject(patch)) return patch
  const merged = new Map(isObject(target) ? Object.entries(target) : [])
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) merged.delete(key)
    else merged.set(key, mergePatch(merged.get(key), value))
  }
  return Object.fromEntries(merged)
}

/** The document after all of `operations`; an operation that does not match the document is skipped. */
export function applyAll(operations: readonly Operation[], document: unknown): unknown {
  const text = operations.some(needsElements) ? (textWithInfinity(document) ?? 'null') : ''
  return placed(operations, text).reduce(
    (before, each) => (mismatchOf(each, before) ? before : apply(each, before)),
    document,
  )
}
