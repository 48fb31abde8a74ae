import { isInteger, maskEscapes, pathText, stringOrNumber } from '../json/encode.js'
import { parseJson, scanJson } from '../json/json-text.js'
import type { BasicOperation, Condition, Operation } from '../json/operation.js'
import { comparesInside, createsMissing, neededType, operators, renamedPath, sizes } from '../json/semantics.js'
import { isObject } from '../json/values.js'
import type { BasicKind, Kind, Path } from '../json/values.js'
import type { Bind, Change } from './dialect.js'

/** The JSON functions that differ between MySQL, MariaDB and SQLite. JSON_SET is the same in all three. */
export interface JsonFunctions {
  /** The JSON at a path of a document; NULL if there is none. */
  readonly at: (document: string, path: string) => string
  /** A bound text as JSON. */
  readonly value: (text: string) => string
  /** The result of {@link at} as JSON. */
  readonly same: (value: string) => string
  /** `parent` if it is an object, else an empty object. */
  readonly objectOrEmpty: (parent: string) => string
  /** True if `value` is NULL, or JSON null, which count as a missing number or array. */
  readonly isMissing: (value: string) => string
  /** True if `value` is an object, or NULL, or JSON null. */
  readonly isObjectOrNull: (value: string) => string
  /**
   * True if each path occurs at most once in the document; no path may contain another. Of a key that is stored twice,
   * functions read and change the first occurrence, and JSON.parse reads the last.
   */
  readonly isUnique?: (document: string, paths: readonly BoundPath[], bind: Bind) => string
  /**
   * True unless a value, or an item of an array, may hold a key of an operand twice, and equal the operand as JSON.parse reads
   * it: the database finds it unequal.
   */
  readonly isUniqueInside?: (value: string, of: 'value' | 'items', operand: Operand, bind: Bind) => string
  /**
   * True if the escapes in a value are those of {@link canonicalJson}; absent if the database stores no escapes, or if its
   * guard checks the whole document.
   */
  readonly isCanonical?: (value: string, bind: Bind) => string
  /** True if the database compares all digits of the numbers in a value; absent for an operation for which it always does. */
  readonly isComparable?: Partial<Record<Kind, (value: string) => string>>
  /** True if a value exists and equals a bound text, in any order of keys; NULL if the database cannot decide it. */
  readonly equals: (value: string, text: string) => string
  /**
   * True if a value and the operand are two numbers, or two strings, in this order; NULL if the database cannot decide it.
   * Strings are compared by code point.
   */
  readonly isOrdered: (value: string, than: '>' | '>=' | '<' | '<=', operand: Operand) => string
  /** True if a value is an array with an item equal to a bound text; NULL if the database cannot decide it. */
  readonly contains: (value: string, text: string) => string
  /** True if a value is an array or an object, and its number of items or keys is between two bound integers. */
  readonly hasSize: (value: string, least: string, greatest: string) => string
  readonly set: (document: string, pairs: readonly string[]) => string
  readonly remove: (document: string, paths: readonly string[]) => string
  readonly patch: (document: string, text: string) => string
  /**
   * The patch must not contain null: {@link remove} removes those keys first. Of a key that is stored twice, the patch
   * changes each occurrence.
   */
  readonly patchesWithoutNull?: true
  /**
   * The new value at a path, computed from the old one, which may be JSON null; a missing entry does not compile. That of `pull`
   * is used only for an array.
   */
  readonly result: Readonly<
    Record<Exclude<BasicKind, 'set' | 'remove' | 'rename' | 'merge'>, (value: string, operand: Operand) => string>
  >
  /** True if the value is missing, or a number to which the database adds the operand exactly, or as doubles. */
  readonly canAdd: (value: string, operand: Operand) => string
  /** For a database that writes array elements by their index. */
  readonly elements?: {
    readonly isArray: (value: string) => string
    readonly isArrayOrNull: (value: string) => string
    /** A document that is an array, with a value at its end. */
    readonly appended: (document: string, values: readonly string[]) => string
  }
  /** True if the value is missing, or has the type that an operation needs. */
  readonly accepts: Readonly<Record<'number' | 'array', (value: string) => string>>
}

/** A path, and its placeholder. */
interface BoundPath {
  readonly path: Path
  readonly sql: string
}

/** An operand: its JSON text and its placeholder, which can be used more than once. */
interface Operand {
  readonly text: string
  readonly bound: string
}

/** The kinds whose operand is compared with the items of an array. */
const comparesItems: ReadonlySet<Kind> = new Set(['addToSet', 'pull'])

/**
 * What follows the backslash of an escape that {@link canonicalJson} would write differently, in a text without escaped
 * backslashes. Each is a pattern of GLOB; as a regular expression, `.` replaces `?`.
 */
export const otherEscapes: readonly string[] = [
  '[^"bfnrtu]',
  'u[^0d]',
  'u0[^0]',
  'u00[^01]',
  'u000[^0-7bef]',
  'u001[^0-9a-f]',
  // JSON.stringify escapes lone surrogates only.
  'ud[^89a-f]',
  'ud?[^0-9a-f]',
  'ud??[^0-9a-f]',
  'ud[89ab]??\\ud[c-f]',
]

/** A path that matches nothing in an object in any database: JSON_SET ignores it. */
const noMatchPath = `'$[1].a'`

/** The same for an array too, on MySQL. */
const noElementPath = `'$[4294967295].a'`

/** The maximum number of operations without padding; in practice, only batches have more. */
const maxUnpadded = 8

/**
 * Pads `items` to a power of two by repeating the last item, to bound the number of prepared statements. Repeating is
 * idempotent: every expression reads the stored document.
 */
function padToPowerOfTwo<T>(items: readonly T[]): readonly T[] {
  if (items.length === 0) return items
  const length = 2 ** Math.ceil(Math.log2(items.length))
  return [...items, ...new Array<T>(length - items.length).fill(items.at(-1)!)]
}

/** Groups operations with the same shape of SQL; the order of the groups is independent of the order of operations. */
function groupBySqlShape(operations: readonly Operation[]): Operation[][] {
  const groups = new Map<string, Operation[]>()
  for (const each of operations) {
    const shape = each.kind === 'increment' && isInteger(each.json) ? 'increment by an integer' : each.kind
    const group = groups.get(shape) ?? []
    group.push(each)
    groups.set(shape, group)
  }
  return [...groups].sort(([one], [other]) => (one < other ? -1 : 1)).map(([, group]) => group)
}

/** The SQL of a change: the new document, and the conditions on the stored one. */
interface Written {
  readonly document: string
  readonly guards: readonly string[]
  /** True if the conditions of the change are met. */
  readonly met: readonly string[]
  /** Placeholders of the paths that are read. */
  readonly read: readonly string[]
  /** Placeholders of the operands. */
  readonly operands: readonly string[]
}

/**
 * The document after `operations`, as one expression: JSON_SET of missing parents and new values, then JSON_REMOVE, then
 * the merges. Their order does not matter, since no two paths overlap.
 *
 * @param root     the document that the innermost function changes
 * @param document the document that values are read from; NULL has no values
 */
export function write(
  functions: JsonFunctions,
  root: string,
  document: string,
  { operations, conditions, isPrepared }: Change,
  bind: Bind,
): Written {
  // A removal by index that is repeated would remove the next element.
  const isMany =
    isPrepared === true &&
    operations.length > maxUnpadded &&
    !operations.some(({ kind, path }) => kind === 'remove' && typeof path.at(-1) === 'number')
  const many = <T>(items: readonly T[]): readonly T[] => (isMany ? padToPowerOfTwo(items) : items)
  const placeholders = new Map<string, string>()
  const boundPaths: BoundPath[] = []
  const bound = (path: Path): string => {
    const text = pathText(path)
    let placeholder = placeholders.get(text)
    if (placeholder === undefined) {
      placeholder = bind(text)
      placeholders.set(text, placeholder)
      boundPaths.push({ path, sql: placeholder })
    }
    return placeholder
  }
  const read = new Set<string>()
  const at = (path: Path): string => {
    read.add(bound(path))
    return functions.at(document, bound(path))
  }
  const [parentGuards, guards, operands]: [string[], string[], string[]] = [[], [], []]
  const [parentPairs, pairs, removed]: [string[], string[], string[]] = [[], [], []]
  const elementGuards = new Set<string>()
  const parents = new Map<string, boolean>()
  const patches: Patch[] = []

  const isGrouped = isPrepared && operations.length > 1
  for (const operation of isGrouped ? groupBySqlShape(operations).flatMap(many) : operations) {
    const { kind, path, json } = operation as BasicOperation
    // JSON_MERGE_PATCH creates missing parents itself.
    const creates = createsMissing(kind)
    const isKey = path.length === 1 && typeof path[0] === 'string'
    const afterElement = isKey ? 0 : path.findLastIndex((step) => typeof step === 'number') + 1
    const makesParents = creates && (kind !== 'merge' || afterElement > 0)
    const arrays: string[] = []
    for (const [depth, step] of afterElement > 0 ? path.entries() : []) {
      if (typeof step !== 'number') continue
      const value = depth === 0 ? document : at(path.slice(0, depth))
      arrays.push(functions.elements!.isArray(value))
      elementGuards.add(functions.elements!.isArrayOrNull(value))
      if (!creates) continue
      elementGuards.add(functions.elements!.isArray(value)).add(`${at(path.slice(0, depth + 1))} IS NOT NULL`)
    }
    for (let depth = 1; depth < path.length; depth++) {
      if (typeof path[depth] === 'number') continue
      const parent = path.slice(0, depth)
      const placeholder = bound(parent)
      const value = at(parent)
      if (!parents.has(placeholder)) parentGuards.push(functions.isObjectOrNull(value))
      // An element that exists has its parents, and to write them again would log them.
      const makes = makesParents && depth >= afterElement
      if (makes && !parents.get(placeholder)) parentPairs.push(`${placeholder}, ${functions.objectOrEmpty(value)}`)
      parents.set(placeholder, makes || parents.get(placeholder) === true)
    }
    // MySQL reads index 0 of a value that is no array as the value itself.
    const own =
      arrays.length > 0 && !creates
        ? `CASE WHEN ${arrays.join(' AND ')} THEN ${bound(path)} ELSE ${noElementPath} END`
        : undefined
    if (kind === 'remove') {
      removed.push(own ?? bound(path))
      continue
    }
    if (kind === 'merge' && afterElement > 0) {
      const operand = bind(json)
      operands.push(operand)
      pairs.push(`${bound(path)}, ${functions.patch(functions.objectOrEmpty(at(path)), operand)}`)
      continue
    }
    if (kind === 'merge') {
      patches.push([path, functions.patchesWithoutNull ? rewriteJson(json, true) : json])
      if (!functions.isUnique) continue
      for (const { path: changed, isNull } of pathsOf(parseJson(json) as object, path)) {
        if (!functions.patchesWithoutNull) bound(changed)
        else if (isNull) removed.push(changed.map((_key, depth) => bound(changed.slice(0, depth + 1))).at(-1)!)
      }
      continue
    }
    const valueHere = (): string => (own === undefined ? at(path) : functions.at(document, own))
    const noPath = own === undefined ? noMatchPath : noElementPath
    if (kind === 'rename') {
      removed.push(bound(path))
      const target = `CASE WHEN ${valueHere()} IS NULL THEN ${noPath} ELSE ${bound(renamedPath(operation))} END`
      pairs.push(`${target}, ${functions.same(valueHere())}`)
      continue
    }
    const operand = { text: json, bound: bind(json) }
    operands.push(operand.bound)
    if (kind === 'set') {
      pairs.push(`${bound(path)}, ${functions.value(operand.bound)}`)
      continue
    }
    const value = valueHere()
    const needed = neededType(kind)
    if (needed) guards.push(functions.accepts[needed](value))
    if (kind === 'increment') guards.push(functions.canAdd(value, operand))
    const isComparable = functions.isComparable?.[kind]
    if (isComparable) guards.push(isComparable(value))
    if (functions.isCanonical && comparesItems.has(kind)) guards.push(functions.isCanonical(value, bind))
    if (functions.isUniqueInside && comparesInside(operation)) {
      guards.push(functions.isUniqueInside(value, 'items', operand, bind))
    }
    const target = creates
      ? bound(path)
      : `CASE WHEN ${functions.isMissing(value)} THEN ${noPath} ELSE ${bound(path)} END`
    pairs.push(`${target}, ${functions.result[kind](value, operand)}`)
  }

  // Parents come before their inner values.
  let after = pairs.length > 0 ? functions.set(root, [...many(parentPairs), ...pairs]) : root
  if (removed.length > 0) after = functions.remove(after, many([...new Set(removed)]))
  if (patches.length > 0) {
    const operand = bind(onePatch(patches))
    operands.push(operand)
    after = functions.patch(after, operand)
  }
  const met = conditions.map((condition) => {
    const { kind, path, isNegated = false } = condition
    // If a parent is stored twice, the values in its first occurrence cannot be read.
    if (functions.isUnique) path.forEach((_key, depth) => bound(path.slice(0, depth + 1)))
    const value = at(path)
    // Only a condition that is met by a wrong comparison would write.
    const needsCanonical = kind === 'contains' || kind === 'size' || (kind === 'equals' && isNegated)
    if (functions.isCanonical && needsCanonical) guards.push(functions.isCanonical(value, bind))
    if (functions.isUniqueInside && comparesInside(condition)) {
      const operand = { text: condition.json, bound: bind(condition.json) }
      guards.push(functions.isUniqueInside(value, kind === 'contains' ? 'items' : 'value', operand, bind))
    }
    const sql = conditionSql(functions, condition, value, bind)
    return isNegated ? `NOT (${sql})` : sql
  })
  if (functions.isUnique) {
    for (const depth of new Set(boundPaths.map(({ path }) => path.length))) {
      const paths = boundPaths.filter(({ path }) => path.length === depth)
      guards.push(functions.isUnique(document, many(paths), bind))
    }
  }
  return {
    document: after,
    guards: [...many(parentGuards), ...elementGuards, ...guards],
    met,
    read: many([...read]),
    operands,
  }
}

/** A change of a document that is an array, at its root. */
export function writeRoot(functions: JsonFunctions, document: string, { kind, json }: Operation, bind: Bind): string {
  if (kind === 'append') {
    const { items = [] } = scanJson(json)
    const values = items.map(({ start, end }) => functions.value(bind(json.slice(start, end))))
    return functions.elements!.appended(document, values)
  }
  return functions.result[kind as keyof JsonFunctions['result']](document, { text: json, bound: bind(json) })
}

/** The SQL of a condition on a value, without its negation; NULL if the database cannot decide it. */
function conditionSql(functions: JsonFunctions, { kind, json }: Condition, value: string, bind: Bind): string {
  switch (kind) {
    case 'exists':
      return `${value} IS NOT NULL`
    case 'absent':
      return `${value} IS NULL`
    case 'equals':
      return functions.equals(value, bind(json))
    case 'contains':
      return functions.contains(value, bind(json))
    case 'size': {
      const [least, greatest] = sizes(json)
      return functions.hasSize(value, bind(String(least)), bind(String(greatest)))
    }
    default:
      return functions.isOrdered(value, operators[kind], { text: json, bound: bind(json) })
  }
}

/** The path of an object, and the JSON text of what is merged into it. */
type Patch = readonly [path: Path, json: string]

/** One patch of the document with the effect of all; no two of their paths overlap, unless they are the same. */
function onePatch(patches: readonly Patch[]): string {
  const [[path, json]] = patches as [Patch]
  if (path.length === 0) return json
  const inner = new Map<unknown, Patch[]>()
  for (const [[key, ...rest], text] of patches) {
    const same = inner.get(key) ?? []
    same.push([rest, text])
    inner.set(key, same)
  }
  return `{${[...inner].map(([key, each]) => `${JSON.stringify(key)}:${onePatch(each)}`).join()}}`
}

/** The paths that a patch changes or removes, and the paths of the objects around them. */
function pathsOf(patch: object, parent: Path): { readonly path: Path; readonly isNull?: boolean }[] {
  const inner = Object.entries(patch).flatMap(([key, value]: [string, unknown]) => {
    const path = [...parent, key]
    return isObject(value) ? pathsOf(value, path) : [{ path, isNull: value === null }]
  })
  return parent.length > 0 ? [{ path: parent }, ...inner] : inner
}

/**
 * The same JSON in the form that JSON_SET reads: without unnecessary escapes, and with only the last of duplicate keys
 * (as in JSON.parse). Numbers keep all their digits.
 */
export function canonicalJson(json: string): string {
  return rewriteJson(json, false)
}

/** Rewrites JSON text without unnecessary escapes; in a patch, also without keys that have the value null. */
function rewriteJson(json: string, isPatch: boolean): string {
  const tagged = maskEscapes(json).replace(stringOrNumber, (token, start: number) =>
    JSON.stringify(
      token.startsWith('"') ? `s${JSON.parse(json.slice(start, start + token.length)) as string}` : `n${token}`,
    ),
  )
  const rewrite = (value: unknown, omitNull: boolean): string => {
    if (typeof value === 'string') return value.startsWith('s') ? JSON.stringify(value.slice(1)) : value.slice(1)
    if (Array.isArray(value)) return `[${value.map((item) => rewrite(item, false)).join(',')}]`
    if (typeof value !== 'object' || value === null) return String(value)
    return `{${Object.entries(value)
      .filter(([, each]) => !omitNull || each !== null)
      .map(([key, each]) => `${JSON.stringify(key.slice(1))}:${rewrite(each, omitNull)}`)
      .join(',')}}`
  }
  return rewrite(parseJson(tagged), isPatch)
}
