import { isInteger, pathText, stringOrNumber } from '../json/encode.js'
import type { Operation } from '../json/operation.js'
import { createsMissing, neededType, renamedPath } from '../json/semantics.js'
import { isObject } from '../json/values.js'
import type { Kind, Path } from '../json/values.js'
import type { Bind, Change } from './index.js'

/** What MySQL, MariaDB and SQLite, whose JSON_SET functions are alike, say differently. */
export interface Vocabulary {
  /** The JSON at a path of a document; NULL if nothing is there. */
  readonly at: (document: string, path: string) => string
  /** A bound text as JSON. */
  readonly value: (text: string) => string
  /** What {@link at} found, as JSON. */
  readonly same: (value: string) => string
  /** `parent` if it is an object, else an empty one. */
  readonly objectOrEmpty: (parent: string) => string
  /** True if `value` is an object, or NULL, or JSON null. */
  readonly isObjectOrNull: (value: string) => string
  /**
   * True if each path is there once at most: of a key that was stored twice, writers change the first and readers see the
   * last. None of the paths lies inside another.
   */
  readonly isUnique?: (document: string, paths: readonly string[]) => string
  /** True if a value is there and equals a bound text, whatever the order of keys. */
  readonly equals: (value: string, text: string) => string
  readonly set: (document: string, pairs: readonly string[]) => string
  readonly remove: (document: string, paths: readonly string[]) => string
  readonly patch: (document: string, text: string) => string
  /** The patch is to have no null in it: what it removes is removed before. */
  readonly patchesWithoutNull?: true
  /** The new value at a path, from the one there; one left out does not compile. */
  readonly result: Readonly<
    Record<Exclude<Kind, 'set' | 'remove' | 'rename' | 'merge'>, (value: string, operand: Operand) => string>
  >
  /** True if an operation can work on the value at its path. */
  readonly accepts: Readonly<Record<'number' | 'array', (value: string) => string>>
}

/** An operand: its text, and its placeholder, which may be used more than once. */
interface Operand {
  readonly text: string
  readonly bound: string
}

/** No database finds a key inside an item of a document that is an object, or makes one: a value set there is left out. */
const nowhere = `'$[1].a'`

/** So many operations are in an ordinary call; more come from calls that are sent together. */
const few = 8

/**
 * The last of `items` so often that there are 1, 2, 4, 8 …, so that there are few texts. To do one twice is to do it once,
 * since each reads what is stored, not what another one has made of it.
 */
function repeated<T>(items: readonly T[]): readonly T[] {
  if (items.length === 0) return items
  const length = 2 ** Math.ceil(Math.log2(items.length))
  return [...items, ...new Array<T>(length - items.length).fill(items.at(-1)!)]
}

/** Operations by what makes their SQL look alike, in an order that does not depend on theirs. */
function bySort(operations: readonly Operation[]): Operation[][] {
  const groups = new Map<string, Operation[]>()
  for (const each of operations) {
    const sort = each.kind === 'increment' && isInteger(each.json) ? 'increment by an integer' : each.kind
    groups.set(sort, [...(groups.get(sort) ?? []), each])
  }
  return [...groups].sort(([one], [other]) => (one < other ? -1 : 1)).map(([, group]) => group)
}

/** An expression for the document, and what must be true of the stored one. */
interface Written {
  readonly document: string
  readonly guards: readonly string[]
  /** That the conditions are met. */
  readonly met: readonly string[]
  /** Placeholders of the paths that are read, not only written. */
  readonly read: readonly string[]
  /** Placeholders of the operands. */
  readonly operands: readonly string[]
}

/**
 * The document after `operations`, as one expression: JSON_SET of missing parents and new values, then what is removed
 * from it, then what is merged into it. Their order does not matter, since no two paths overlap.
 *
 * @param root     what the outermost function changes
 * @param document what values are read from; NULL reads as nothing
 */
export function write(
  words: Vocabulary,
  root: string,
  document: string,
  { operations, conditions, isPrepared }: Change,
  bind: Bind,
): Written {
  const isMany = isPrepared === true && operations.length > few
  const many = <T>(items: readonly T[]): readonly T[] => (isMany ? repeated(items) : items)
  const placeholders = new Map<string, string>()
  const depthOf = new Map<string, number>()
  const bound = (path: Path): string => {
    const text = pathText(path)
    const known = placeholders.get(text) ?? bind(text)
    placeholders.set(text, known)
    depthOf.set(known, path.length)
    return known
  }
  const read = new Set<string>()
  const at = (path: Path): string => {
    read.add(bound(path))
    return words.at(document, bound(path))
  }
  const [parentGuards, guards, operands]: [string[], string[], string[]] = [[], [], []]
  const [parentPairs, pairs, removed]: [string[], string[], string[]] = [[], [], []]
  const parents = new Map<string, boolean>()
  let patched: ((document: string) => string) | undefined

  for (const operation of isPrepared ? bySort(operations).flatMap(many) : operations) {
    const { kind, path, json } = operation
    // JSON_MERGE_PATCH makes the parents of what it merges.
    const makesParents = createsMissing(kind) && kind !== 'merge'
    for (let depth = 1; depth < path.length; depth++) {
      const parent = path.slice(0, depth)
      const placeholder = bound(parent)
      const value = at(parent)
      if (!parents.has(placeholder)) parentGuards.push(words.isObjectOrNull(value))
      if (makesParents && !parents.get(placeholder)) parentPairs.push(`${placeholder}, ${words.objectOrEmpty(value)}`)
      parents.set(placeholder, makesParents || parents.get(placeholder) === true)
    }
    if (kind === 'remove') {
      removed.push(bound(path))
      continue
    }
    if (kind === 'merge') {
      const before = patched ?? ((into: string) => into)
      const patch = JSON.parse(json) as object
      const text = words.patchesWithoutNull ? spelled(json, true) : json
      const operand = bind(path.reduceRight((inner, key) => `{${JSON.stringify(key)}:${inner}}`, text))
      operands.push(operand)
      for (const { path: changed, isNull } of pathsOf(patch, path)) {
        const placeholder = bound(changed)
        if (isNull && words.patchesWithoutNull) removed.push(placeholder)
      }
      patched = (into) => words.patch(before(into), operand)
      continue
    }
    const ifThere = (placeholder: string): string =>
      `CASE WHEN ${at(path)} IS NULL THEN ${nowhere} ELSE ${placeholder} END`
    if (kind === 'rename') {
      removed.push(bound(path))
      pairs.push(ifThere(bound(renamedPath(operation))), words.same(at(path)))
      continue
    }
    const operand = { text: json, bound: bind(json) }
    operands.push(operand.bound)
    if (kind === 'set') {
      pairs.push(bound(path), words.value(operand.bound))
      continue
    }
    const value = at(path)
    const needed = neededType(kind)
    if (needed) guards.push(words.accepts[needed](value))
    pairs.push(createsMissing(kind) ? bound(path) : ifThere(bound(path)), words.result[kind](value, operand))
  }

  // A parent before what is inside it.
  let after = pairs.length > 0 ? words.set(root, [...many(parentPairs), ...pairs]) : root
  if (removed.length > 0) after = words.remove(after, many([...new Set(removed)]))
  if (patched) after = patched(after)
  const met = conditions.map(({ kind, path, json }) => {
    // A parent that was stored twice hides what is in the other one.
    if (words.isUnique) path.forEach((_key, depth) => bound(path.slice(0, depth + 1)))
    const value = at(path)
    if (kind === 'equals') return words.equals(value, bind(json))
    return `${value} IS ${kind === 'exists' ? 'NOT ' : ''}NULL`
  })
  if (words.isUnique) {
    for (const depth of new Set(depthOf.values())) {
      const paths = [...depthOf].filter(([, each]) => each === depth).map(([placeholder]) => placeholder)
      guards.push(words.isUnique(document, many(paths)))
    }
  }
  return { document: after, guards: [...many(parentGuards), ...guards], met, read: many([...read]), operands }
}

/** The paths that a patch changes or removes, and those of the objects that it goes into. */
function pathsOf(patch: object, parent: Path): { readonly path: Path; readonly isNull?: boolean }[] {
  const inner = Object.entries(patch).flatMap(([key, value]: [string, unknown]) => {
    const path = [...parent, key]
    return isObject(value) ? pathsOf(value, path) : [{ path, isNull: value === null }]
  })
  return parent.length > 0 ? [{ path: parent }, ...inner] : inner
}

/**
 * The same JSON in the spelling that JSON_SET reads: no escapes that need not be, and of a key that was stored twice the
 * last, which is the one that JSON.parse sees. Every number keeps its digits.
 */
export function respelled(json: string): string {
  return spelled(json, false)
}

/** `json` spelled anew, on wish without what is null in it or in an object of it, as in a patch. */
function spelled(json: string, isPatch: boolean): string {
  const tagged = json.replace(stringOrNumber, (token) =>
    JSON.stringify(token.startsWith('"') ? `s${JSON.parse(token) as string}` : `n${token}`),
  )
  const spell = (value: unknown, leaveOut: boolean): string => {
    if (typeof value === 'string') return value.startsWith('s') ? JSON.stringify(value.slice(1)) : value.slice(1)
    if (Array.isArray(value)) return `[${value.map((item) => spell(item, false)).join(',')}]`
    if (typeof value !== 'object' || value === null) return String(value)
    return `{${Object.entries(value)
      .filter(([, each]) => !leaveOut || each !== null)
      .map(([key, each]) => `${JSON.stringify(key.slice(1))}:${spell(each, leaveOut)}`)
      .join(',')}}`
  }
  return spell(JSON.parse(tagged), isPatch)
}
