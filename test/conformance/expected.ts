import { isDeepStrictEqual } from 'node:util'
import type { Condition, Operation } from 'sequelize-lossless'

type Fields = Record<string, unknown>

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A write needs an array element that is not there. */
export const noElement: unique symbol = Symbol('no such element')

type Step = string | number

/** An operation at one place of a document, or why there is none. */
type Placed = Omit<Operation, 'path'> & { readonly path: readonly Step[] }

/**
 * What a document must be after operations, told once more from the contract and independently of the library;
 * `undefined` where it has the wrong shape, {@link noElement} where it has no such element.
 */
export function expected(operations: readonly Operation[], document: unknown): unknown {
  const holder: Fields = { root: structuredClone(document) ?? null }
  const removed: Placed[] = []
  for (const each of operations.flatMap((each) => [each, ...(each.more ?? []).map((path) => ({ ...each, path }))])) {
    const { matching: members } = each
    const found = places(members ? { ...each, kind: 'remove', path: [...each.path, members] } : each, document)
    if (found === undefined || found === noElement) return found
    for (const one of found) {
      if (one.kind === 'remove' && typeof one.path.at(-1) === 'number') removed.push(one)
      else if (!change(holder, { ...one, path: ['root', ...one.path] })) return undefined
    }
  }
  // From the end: no element moves before its turn.
  removed.sort((one, other) => (other.path.at(-1) as number) - (one.path.at(-1) as number))
  for (const { path } of removed)
    (valueAt(holder.root, path.slice(0, -1)) as unknown[]).splice(path.at(-1) as number, 1)
  return holder.root
}

const createsNothing: readonly string[] = ['remove', 'rename', 'pull']

/** Null counts as a missing number or array. */
const needsType: readonly string[] = ['increment', 'min', 'max', 'append', 'prepend', 'addToSet', 'pull']

function places(operation: Operation, document: unknown): readonly Placed[] | undefined | typeof noElement {
  const { kind, path, json, key } = operation
  let paths: (readonly Step[])[] = [[]]
  for (const step of path) {
    const next: (readonly Step[])[] = []
    for (const at of paths) {
      const value = valueAt(document, at) ?? null
      if (value !== null && !(typeof step === 'string' ? isObject(value) : Array.isArray(value))) return undefined
      const steps = typeof step === 'string' ? [step] : elements((value ?? []) as unknown[], step)
      if (steps.length === 0 && !createsNothing.includes(kind)) return noElement
      next.push(...steps.map((each) => [...at, each]))
    }
    paths = next
  }
  if (key === undefined) return paths.map((at) => ({ ...operation, path: at }))
  const item = JSON.parse(json) as Fields
  return paths.flatMap((at): readonly Placed[] => {
    const items = valueAt(document, at)
    const same = Array.isArray(items) ? elements(items, { json: JSON.stringify({ [key]: item[key] }) }) : []
    if (same.length === 0) return [{ kind: 'append', path: at, json: JSON.stringify([item]) }]
    return same.map((index) => ({ kind: 'set', path: [...at, index], json }))
  })
}

/** The indexes of the elements that a step finds. */
function elements(items: readonly unknown[], step: number | { readonly json: string }): number[] {
  if (typeof step === 'number') return [step < 0 ? step + items.length : step].filter((index) => index in items)
  const wanted = Object.entries(JSON.parse(step.json) as Fields)
  return [...items.keys()].filter((index) => {
    const item = items[index]
    return (
      isObject(item) && wanted.every(([name, each]) => Object.hasOwn(item, name) && isDeepStrictEqual(item[name], each))
    )
  })
}

function valueAt(document: unknown, path: readonly Step[]): unknown {
  let value = document
  for (const step of path) value = isObject(value) || Array.isArray(value) ? own(value as Fields, step) : undefined
  return value
}

const own = (fields: Fields, step: Step): unknown => (Object.hasOwn(fields, step) ? fields[step] : undefined)

/** Whether a document meets a condition. */
export function isMet({ kind, path, json, isNegated = false }: Condition, document: unknown): boolean {
  let found: unknown[] = [document]
  for (const step of path) {
    found = found.flatMap((value) => {
      if (typeof step === 'string') return isObject(value) && Object.hasOwn(value, step) ? [value[step]] : []
      return Array.isArray(value) ? elements(value, step).map((index) => value[index] as unknown) : []
    })
  }
  const operand: unknown = JSON.parse(json)
  const isMet = kind === 'absent' ? found.length === 0 : found.some((value) => tests[kind](value, operand))
  return isMet !== isNegated
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
function change(document: Fields, { kind, path, json }: Placed): boolean {
  const operand: unknown = JSON.parse(json)
  const key = path.at(-1)!
  let parent = document
  for (const name of path.slice(0, -1)) {
    const inner = own(parent, name)
    if (inner !== undefined && inner !== null && typeof inner !== 'object') return false
    // Nothing to change, and no parent to make for it.
    if ((inner ?? null) === null && createsNothing.includes(kind)) return true
    parent = inner ?? put(parent, name, {})
  }
  if (typeof key === 'string' && Array.isArray(parent)) return false
  const stored = own(parent, key)
  const value = path.length === 1 || needsType.includes(kind) ? (stored ?? undefined) : stored
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
  if (kind === 'merge') {
    if (path.length === 1 && value !== undefined && !isObject(value)) return false
    patch(isObject(value) ? value : put(parent, key, {}), operand as Fields)
  }
  return true
}

function assignTo(target: unknown, values: unknown): boolean {
  if (!isObject(target)) return false
  for (const [key, value] of Object.entries(values as Fields)) put(target, key, value)
  return true
}

function put<T>(object: Fields, key: Step, value: T): T {
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
