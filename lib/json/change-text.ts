import { isInteger } from './encode.js'
import { compareNumbers, isSameScalar, parseJson, scanJson } from './json-text.js'
import type { JsonNode } from './json-text.js'
import type { Operation } from './operation.js'
import { isSameNode } from './respell.js'
import { createsMissing, neededType, placed, renamedPath } from './semantics.js'
import type { PlacedOperation } from './semantics.js'
import { isObject } from './values.js'

/** The number of keys in the paths and the patches of some operations. */
export function countKeys(operations: readonly Operation[]): number {
  const keysIn = (value: unknown): number =>
    isObject(value) ? Object.values(value).reduce<number>((sum, each) => sum + 1 + keysIn(each), 0) : 0
  return operations.reduce(
    (sum, { kind, path, json }) => sum + path.length + (kind === 'merge' ? keysIn(parseJson(json)) : 0),
    0,
  )
}

/** The operation at one place of a document, or the places inside it. */
interface Place {
  operation?: PlacedOperation
  readonly inner: Map<string | number, Place>
}

/**
 * The text of a document after some operations, whose paths do not overlap; what they do not change keeps its spelling,
 * with all digits of its numbers. Call `findMismatch` first. NULL is the text `null`.
 */
export function textAfterOperations(text: string, operations: readonly Operation[]): string {
  const root: Place = { inner: new Map() }
  const all = placed(operations, text)
  if (all.length === 0) return text
  for (const operation of all) {
    let place = root
    for (const step of operation.path) {
      const inner: Place = place.inner.get(step) ?? { inner: new Map<string | number, Place>() }
      place.inner.set(step, inner)
      place = inner
    }
    place.operation = operation
  }
  return textAfter(text, scanJson(text), root) ?? 'null'
}

/** The text of a value after the operations at its place and inside it; `undefined` if there is none. */
function textAfter(text: string, node: JsonNode | undefined, { operation, inner }: Place): string | undefined {
  if (operation) return textOf(text, node, operation)
  if (node?.items && inner.size > 0) {
    const after = node.items.map((item, index) => textAfter(text, item, inner.get(index) ?? untouched))
    return `[${after.filter((each) => each !== undefined).join()}]`
  }
  if (!node?.members && !createsValue(inner)) return node && textIn(text, node)
  return objectAfter(text, node, (members) => {
    for (const [key, place] of inner as ReadonlyMap<string, Place>) {
      const before = members.get(key)
      if (place.operation?.kind === 'rename') {
        if (before === undefined) continue
        members.delete(key)
        members.set(renamedPath(place.operation).at(-1) as string, before)
        continue
      }
      const after = textAfter(text, node?.members?.get(key), place)
      if (after === undefined) members.delete(key)
      else members.set(key, after)
    }
  })
}

const untouched: Place = { inner: new Map() }

function createsValue(places: ReadonlyMap<string | number, Place>): boolean {
  return [...places.values()].some(({ operation, inner }) =>
    operation ? createsMissing(operation.kind) : createsValue(inner),
  )
}

/** The text of an object whose members `change` has changed; of a node that is no object, the members are new. */
function objectAfter(text: string, node: JsonNode | undefined, change: (members: Map<string, string>) => void): string {
  const members = new Map([...(node?.members ?? [])].map(([key, each]) => [key, textIn(text, each)]))
  change(members)
  return `{${[...members].map(([key, each]) => `${JSON.stringify(key)}:${each}`).join()}}`
}

const textIn = (text: string, { start, end }: JsonNode): string => text.slice(start, end)

/** The text of a value after an operation, except a rename, which needs its parent. */
function textOf(text: string, stored: JsonNode | undefined, { kind, path, json }: PlacedOperation): string | undefined {
  const mayBeNull = path.length > 0 && neededType(kind) === undefined
  const node = stored && (mayBeNull || textIn(text, stored) !== 'null') ? stored : undefined
  const before = node && textIn(text, node)
  const items = node?.items ?? []
  const itemTexts = (each: readonly JsonNode[] = items): string[] => each.map((item) => textIn(text, item))
  const operand = kind === 'addToSet' || kind === 'pull' ? scanJson(json) : undefined
  const isOperand = (item: JsonNode): boolean => isSameNode(text, item, json, operand!, isSameScalar)
  switch (kind) {
    case 'set':
      return json
    case 'setIfAbsent':
      return before ?? json
    case 'remove':
    case 'rename':
      return undefined
    case 'increment':
      return before === undefined ? json : sum(before, json)
    case 'min':
      return before === undefined || isLess(json, before) ? json : before
    case 'max':
      return before === undefined || isLess(before, json) ? json : before
    case 'prepend':
      return `[${[json, ...itemTexts()].join()}]`
    case 'append':
      return `[${[...itemTexts(), json.slice(1, -1)].filter((each) => each !== '').join()}]`
    case 'addToSet':
      return items.some(isOperand) ? before : `[${[...itemTexts(), json].join()}]`
    case 'pull':
      return node ? `[${itemTexts(items.filter((item) => !isOperand(item))).join()}]` : stored && 'null'
    case 'merge':
      return patched(text, node, json, scanJson(json))
  }
}

/** RFC 7396, section 2. */
function patched(text: string, node: JsonNode | undefined, patch: string, patchNode: JsonNode): string {
  const { members: changes } = patchNode
  if (!changes) return textIn(patch, patchNode)
  return objectAfter(text, node, (members) => {
    for (const [key, each] of changes) {
      if (textIn(patch, each) === 'null') members.delete(key)
      else members.set(key, patched(text, node?.members?.get(key), patch, each))
    }
  })
}

/** Integers are added exactly, other numbers as doubles. */
function sum(before: string, by: string): string {
  return isInteger(before) && isInteger(by) ? String(BigInt(before) + BigInt(by)) : String(Number(before) + Number(by))
}

const isLess = (one: string, other: string): boolean => compareNumbers(one, other) < 0
