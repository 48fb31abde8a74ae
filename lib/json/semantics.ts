import { isDeepStrictEqual } from 'node:util'
import { compareNumbers, isSameScalar, parseJson, scanJson } from './json-text.js'
import type { JsonNode } from './json-text.js'
import type { BasicOperation, Condition, Operation } from './operation.js'
import { isReadingOfText, isSameText } from './respell.js'
import { isObject, jsonType } from './values.js'
import type { ComparisonKind, JsonObject, JsonValue, Kind, Path } from './values.js'

/** Whether a stored text meets a condition; numbers are compared by all their digits. */
export function meets(condition: Condition, text: string): boolean {
  return holds(condition, textAt(text, condition.path)) !== (condition.isNegated === true)
}

/** Whether the text at the path of a condition, `undefined` if there is none, meets it without its negation. */
function holds({ kind, json, isLoaded }: Condition, stored: string | undefined): boolean {
  if (kind === 'absent' || stored === undefined) return kind === 'absent' && stored === undefined
  switch (kind) {
    case 'exists':
      return true
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

/** The text of the value at a path of a JSON text; `undefined` if there is none. */
export function textAt(text: string, path: Path, root: JsonNode = scanJson(text)): string | undefined {
  let node: JsonNode | undefined = root
  for (const key of path) node = node?.members?.get(key)
  return node && text.slice(node.start, node.end)
}

/**
 * A condition that a stored text meets, with the stored spelling of its value, if that spelling is another one: the
 * database compares numbers as they are spelled. SQLite does not decide about some numbers with a fraction or an exponent, and
 * about integers past 64 bits: there, the condition is that the value is still the stored one.
 */
export function inStoredSpelling(condition: Condition, text: string): Condition {
  const { kind, path, isNegated = false } = condition
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
export function valueAt(document: unknown, path: Path): unknown {
  let value = document
  for (const key of path) {
    if (!isObject(value) || !Object.hasOwn(value, key)) return undefined
    value = value[key]
  }
  return value
}

/** A type mismatch between a stored value and an operation. */
export interface Mismatch {
  readonly path: Path
  readonly needed: 'an object' | 'a number' | 'an array'
  /** The stored type, as named by {@link jsonType}. */
  readonly found: string
}

const needs: Partial<Record<Kind, readonly [type: 'number' | 'array', needed: Mismatch['needed']]>> = {
  increment: ['number', 'a number'],
  min: ['number', 'a number'],
  max: ['number', 'a number'],
  append: ['array', 'an array'],
  prepend: ['array', 'an array'],
  addToSet: ['array', 'an array'],
  pull: ['array', 'an array'],
}

/** Whether operations of a kind create a missing value and its parents; other kinds do not change the document then. */
export function createsMissing(kind: Kind): boolean {
  return kind !== 'remove' && kind !== 'rename' && kind !== 'pull'
}

/** Whether the result of operations of a kind depends on the numbers in the stored value. */
export function computes(kind: Kind): boolean {
  return ['increment', 'min', 'max', 'addToSet', 'pull'].includes(kind)
}

/** Whether NULL or JSON null becomes an object; other operations find nothing to change there. */
export function makesDocument(operations: readonly Operation[]): boolean {
  return operations.some(({ kind }) => createsMissing(kind))
}

/** The path of a value after its rename. */
export function renamedPath({ path, json }: Operation): Path {
  return [...path.slice(0, -1), JSON.parse(json) as string]
}

/** The type that an existing value must have for operations of a kind; `undefined` if any type will do. */
export function neededType(kind: Kind): 'number' | 'array' | undefined {
  return needs[kind]?.[0]
}

/** Why `operation` cannot change `document`: a parent is an array or a scalar, or the value has the wrong type. */
export function findMismatch({ kind, path }: Operation, document: unknown): Mismatch | undefined {
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
 * The document after `operation`. The SQL of every dialect must have the same result. NULL and JSON null, as document or
 * as parent, count as an empty object. Does not modify its argument. Call {@link findMismatch} first.
 */
function apply(operation: Operation, document: unknown): JsonValue {
  const { kind, path, json } = operation as BasicOperation
  const operand = parseJson(json)
  const value = valueAt(document, path) as JsonValue | undefined
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
  return operations.reduce((before, each) => (findMismatch(each, before) ? before : apply(each, before)), document)
}
