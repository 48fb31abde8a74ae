import { isDeepStrictEqual } from 'node:util'
import type { Condition, Operation } from 'sequelize-lossless'

type Fields = Record<string, unknown>

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * What a document must be after operations, told once more from the contract and independently of the library;
 * `undefined` where it must be refused.
 */
export function expected(operations: readonly Operation[], document: unknown): unknown {
  operations = operations.flatMap((each) => [each, ...(each.more ?? []).map((path) => ({ ...each, path }))])
  const isKept = operations.every(({ kind }) => ['remove', 'rename', 'pull'].includes(kind))
  if (isKept && (document ?? null) === null) return null
  const copy = structuredClone(document) ?? {}
  if (!isObject(copy)) return undefined
  return operations.every((operation) => change(copy, operation)) ? copy : undefined
}

/** Whether a document meets a condition. */
export function isMet({ kind, path, json, isNegated = false }: Condition, document: unknown): boolean {
  let value: unknown = document
  for (const key of path) value = isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined
  const operand: unknown = JSON.parse(json)
  return tests[kind](value, operand) !== isNegated
}

type Test = (value: unknown, operand: unknown) => boolean

const tests: Readonly<Record<Condition['kind'], Test>> = {
  exists: (value) => value !== undefined,
  absent: (value) => value === undefined,
  equals: isDeepStrictEqual,
  contains: (value, item) => Array.isArray(value) && value.some((each) => isDeepStrictEqual(each, item)),
  size: (value, wanted) => {
    if (!isObject(value) && !Array.isArray(value)) return false
    const count = Object.keys(value).length
    if (typeof wanted === 'number') return count === wanted
    const { atLeast = count, atMost = count } = wanted as { atLeast?: number; atMost?: number }
    return atLeast <= count && count <= atMost
  },
  greaterThan: ordered((order) => order > 0),
  atLeast: ordered((order) => order >= 0),
  lessThan: ordered((order) => order < 0),
  atMost: ordered((order) => order <= 0),
}

/** Compares two numbers, or two texts by their code points. */
function ordered(isMet: (order: number) => boolean): Test {
  return (value, operand) => {
    if (typeof value === 'number' && typeof operand === 'number') return isMet(value - operand)
    if (typeof value !== 'string' || typeof operand !== 'string') return false
    const codes = (text: string): number[] => Array.from(text, (each) => each.codePointAt(0)!)
    const [one, other] = [codes(value), codes(operand)]
    const at = one.findIndex((each, index) => each !== other[index])
    return isMet(at === -1 ? one.length - other.length : one[at]! - (other[at] ?? -1))
  }
}

/** Changes `document`; false where it cannot be. */
function change(document: Fields, { kind, path, json }: Operation): boolean {
  const operand: unknown = JSON.parse(json)
  const key = path.at(-1)
  if (key === undefined) return kind === 'assign' ? assignTo(document, operand) : patch(document, operand as Fields)
  let parent = document
  for (const name of path.slice(0, -1)) {
    const inner = Object.hasOwn(parent, name) ? parent[name] : undefined
    if (inner !== undefined && inner !== null && !isObject(inner)) return false
    // Nothing to change, and no parent to make for it.
    if (!isObject(inner) && ['remove', 'rename', 'pull'].includes(kind)) return true
    parent = isObject(inner) ? inner : put(parent, name, {})
  }
  const value = Object.hasOwn(parent, key) ? parent[key] : undefined
  if (kind === 'set') put(parent, key, operand)
  if (kind === 'assign') return assignTo(value ?? put(parent, key, {}), operand)
  if (kind === 'setIfAbsent' && value === undefined) put(parent, key, operand)
  if (kind === 'remove') Reflect.deleteProperty(parent, key)
  if (kind === 'rename' && value !== undefined) {
    Reflect.deleteProperty(parent, key)
    put(parent, operand as string, value)
  }
  if (kind === 'pull' && value !== undefined) {
    if (!Array.isArray(value)) return false
    const kept: unknown[] = value.filter((item) => !isDeepStrictEqual(item, operand))
    put(parent, key, kept)
  }
  if (kind === 'increment') {
    if (value !== undefined && typeof value !== 'number') return false
    put(parent, key, (value ?? 0) + (operand as number))
  }
  if (kind === 'min' || kind === 'max') {
    if (value !== undefined && typeof value !== 'number') return false
    const wanted = operand as number
    const isBetter = value === undefined || (kind === 'min' ? wanted < value : wanted > value)
    put(parent, key, isBetter ? wanted : value)
  }
  if (kind === 'prepend') {
    if (value !== undefined && !Array.isArray(value)) return false
    put(parent, key, [operand, ...((value ?? []) as unknown[])])
  }
  if (kind === 'append' || kind === 'addToSet') {
    if (value !== undefined && !Array.isArray(value)) return false
    const items: unknown[] = value ?? []
    const isThere = kind === 'addToSet' && items.some((item) => isDeepStrictEqual(item, operand))
    put(parent, key, isThere ? items : [...items, ...(kind === 'append' ? (operand as unknown[]) : [operand])])
  }
  if (kind === 'merge') patch(isObject(value) ? value : put(parent, key, {}), operand as Fields)
  return true
}

function assignTo(target: unknown, values: unknown): boolean {
  if (!isObject(target)) return false
  for (const [key, value] of Object.entries(values as Fields)) put(target, key, value)
  return true
}

function put<T>(object: Fields, key: string, value: T): T {
  Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true })
  return value
}

function patch(target: Fields, changes: Fields): boolean {
  for (const [key, value] of Object.entries(changes)) {
    if (value === null) Reflect.deleteProperty(target, key)
    else if (isObject(value)) {
      const inner = Object.hasOwn(target, key) ? target[key] : undefined
      patch(isObject(inner) ? inner : put(target, key, {}), value)
    } else put(target, key, value)
  }
  return true
}
