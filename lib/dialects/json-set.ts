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
  { operations, conditions, isPrepared = false }: Change,
  bind: Bind,
): Written {
  // A removal by index that is repeated would remove the next element.
  const isPadded =
    isPrepared &&
    operations.length > maxUnpadded &&
    !operations.some(({ kind, path }) => kind === 'remove' && typeof path.at(-1) === 'number')
  const builder = new WriteBuilder(functions, document, bind, isPadded)
  if (isPrepared && operations.length > 1) {
    for (const alike of groupBySqlShape(operations)) for (const each of builder.padded(alike)) builder.add(each)
  } else for (const each of operations) builder.add(each)
  return builder.build(root, conditions)
}

/** Collects the parts of {@link write}: what is bound once, however often it is used. */
class WriteBuilder {
  readonly #functions: JsonFunctions
  readonly #document: string
  readonly #bind: Bind
  readonly #isPadded: boolean
  /** The placeholders of the paths, by text. */
  readonly #placeholders = new Map<string, string>()
  readonly #paths: BoundPath[] = []
  /** Placeholders of the paths that are read. */
  readonly #read = new Set<string>()
  readonly #operands: string[] = []
  /** Whether the write makes a parent that is missing, by placeholder. */
  readonly #parents = new Map<string, boolean>()
  readonly #parentGuards: string[] = []
  readonly #elementGuards = new Set<string>()
  readonly #guards: string[] = []
  /** The arguments of JSON_SET: a path and its value. */
  readonly #parentPairs: string[] = []
  readonly #pairs: string[] = []
  /** The arguments of JSON_REMOVE. */
  readonly #removed: string[] = []
  readonly #patches: Patch[] = []

  constructor(functions: JsonFunctions, document: string, bind: Bind, isPadded: boolean) {
    this.#functions = functions
    this.#document = document
    this.#bind = bind
    this.#isPadded = isPadded
  }

  padded<T>(items: readonly T[]): readonly T[] {
    return this.#isPadded ? padToPowerOfTwo(items) : items
  }

  add(operation: Operation): void {
    const { kind, path, json } = operation as BasicOperation
    const creates = createsMissing(kind)
    const isKey = path.length === 1 && typeof path[0] === 'string'
    const afterElement = isKey ? 0 : path.findLastIndex((step) => typeof step === 'number') + 1
    const arrays = afterElement > 0 ? this.#enterArrays(path, creates) : []
    // JSON_MERGE_PATCH creates missing parents itself.
    this.#enterObjects(path, creates && (kind !== 'merge' || afterElement > 0) ? afterElement : Infinity)
    // MySQL reads index 0 of a value that is no array as the value itself.
    const element =
      arrays.length > 0 && !creates
        ? `CASE WHEN ${arrays.join(' AND ')} THEN ${this.#path(path)} ELSE ${noElementPath} END`
        : undefined
    if (kind === 'remove') this.#removed.push(element ?? this.#path(path))
    else if (kind === 'rename') this.#rename(operation, element)
    else if (kind === 'merge' && afterElement > 0) this.#mergeElement(path, json)
    else if (kind === 'merge') this.#merge(path, json)
    else if (kind === 'set') {
      const operand = this.#operand(json)
      this.#pairs.push(`${this.#path(path)}, ${this.#functions.value(operand.bound)}`)
    } else this.#compute(kind, operation, element)
  }

  /** The whole change, with conditions on the document. */
  build(root: string, conditions: readonly Condition[]): Written {
    const functions = this.#functions
    // Parents come before their inner values.
    let after = this.#pairs.length > 0 ? functions.set(root, [...this.padded(this.#parentPairs), ...this.#pairs]) : root
    if (this.#removed.length > 0) after = functions.remove(after, this.padded([...new Set(this.#removed)]))
    if (this.#patches.length > 0) after = functions.patch(after, this.#operand(onePatch(this.#patches)).bound)
    const met = conditions.map((condition) => this.#met(condition))
    for (const depth of new Set(functions.isUnique && this.#paths.map(({ path }) => path.length))) {
      const paths = this.#paths.filter(({ path }) => path.length === depth)
      this.#guards.push(functions.isUnique!(this.#document, this.padded(paths), this.#bind))
    }
    return {
      document: after,
      guards: [...this.padded(this.#parentGuards), ...this.#elementGuards, ...this.#guards],
      met,
      read: this.padded([...this.#read]),
      operands: this.#operands,
    }
  }

  /** The placeholder of a path. */
  #path(path: Path): string {
    const text = pathText(path)
    let placeholder = this.#placeholders.get(text)
    if (placeholder === undefined) {
      placeholder = this.#bind(text)
      this.#placeholders.set(text, placeholder)
      this.#paths.push({ path, sql: placeholder })
    }
    return placeholder
  }

  /**
   * The value at a path.
   * @param element the SQL of the path, if it leads into an array that may be missing
   */
  #at(path: Path, element?: string): string {
    if (element !== undefined) return this.#functions.at(this.#document, element)
    const placeholder = this.#path(path)
    this.#read.add(placeholder)
    return this.#functions.at(this.#document, placeholder)
  }

  #operand(text: string): Operand {
    const operand = { text, bound: this.#bind(text) }
    this.#operands.push(operand.bound)
    return operand
  }

  /** Guards the arrays that a path leads into; returns the conditions that they are arrays. */
  #enterArrays(path: Path, creates: boolean): readonly string[] {
    const { isArray, isArrayOrNull } = this.#functions.elements!
    const arrays: string[] = []
    for (const [depth, step] of path.entries()) {
      if (typeof step !== 'number') continue
      const value = depth === 0 ? this.#document : this.#at(path.slice(0, depth))
      arrays.push(isArray(value))
      this.#elementGuards.add(isArrayOrNull(value))
      if (creates) {
        this.#elementGuards.add(isArray(value)).add(`${this.#at(path.slice(0, depth + 1))} IS NOT NULL`)
      }
    }
    return arrays
  }

  /**
   * Guards the objects that a path leads into.
   * @param madeFrom the depth from which missing ones are made: an element that exists has its parents, and to write them again
   *   would log them
   */
  #enterObjects(path: Path, madeFrom: number): void {
    const { isObjectOrNull, objectOrEmpty } = this.#functions
    for (let depth = 1; depth < path.length; depth++) {
      if (typeof path[depth] === 'number') continue
      const placeholder = this.#path(path.slice(0, depth))
      const value = this.#at(path.slice(0, depth))
      const isMade = this.#parents.get(placeholder)
      if (isMade === undefined) this.#parentGuards.push(isObjectOrNull(value))
      const makes = depth >= madeFrom
      if (makes && !isMade) this.#parentPairs.push(`${placeholder}, ${objectOrEmpty(value)}`)
      this.#parents.set(placeholder, makes || isMade === true)
    }
  }

  #rename(operation: Operation, element: string | undefined): void {
    const { path } = operation
    this.#removed.push(this.#path(path))
    const value = this.#at(path, element)
    const target = this.#unlessMissing(`${value} IS NULL`, renamedPath(operation), element)
    this.#pairs.push(`${target}, ${this.#functions.same(value)}`)
  }

  /** A path, or one that matches nothing if a condition is true. */
  #unlessMissing(condition: string, path: Path, element: string | undefined): string {
    const nowhere = element === undefined ? noMatchPath : noElementPath
    return `CASE WHEN ${condition} THEN ${nowhere} ELSE ${this.#path(path)} END`
  }

  #mergeElement(path: Path, json: string): void {
    const { patch, objectOrEmpty } = this.#functions
    const { bound } = this.#operand(json)
    this.#pairs.push(`${this.#path(path)}, ${patch(objectOrEmpty(this.#at(path)), bound)}`)
  }

  #merge(path: Path, json: string): void {
    const { isUnique, patchesWithoutNull } = this.#functions
    this.#patches.push([path, patchesWithoutNull ? rewriteJson(json, true) : json])
    for (const { path: changed, isNull } of isUnique ? pathsOf(parseJson(json) as object, path) : []) {
      if (!patchesWithoutNull) this.#path(changed)
      else if (isNull) this.#removed.push(this.#pathAndParents(changed))
    }
  }

  /** The placeholder of a path; its parents are bound, too. */
  #pathAndParents(path: Path): string {
    return path.map((_key, depth) => this.#path(path.slice(0, depth + 1))).at(-1)!
  }

  /** A value that is computed from the stored one. */
  #compute(kind: keyof JsonFunctions['result'], operation: Operation, element: string | undefined): void {
    const functions = this.#functions
    const { path, json } = operation
    const operand = this.#operand(json)
    const value = this.#at(path, element)
    const needed = neededType(kind)
    if (needed) this.#guards.push(functions.accepts[needed](value))
    if (kind === 'increment') this.#guards.push(functions.canAdd(value, operand))
    const isComparable = functions.isComparable?.[kind]
    if (isComparable) this.#guards.push(isComparable(value))
    if (functions.isCanonical && comparesItems.has(kind)) this.#guards.push(functions.isCanonical(value, this.#bind))
    if (functions.isUniqueInside && comparesInside(operation)) {
      this.#guards.push(functions.isUniqueInside(value, 'items', operand, this.#bind))
    }
    const target = createsMissing(kind)
      ? this.#path(path)
      : this.#unlessMissing(functions.isMissing(value), path, element)
    this.#pairs.push(`${target}, ${functions.result[kind](value, operand)}`)
  }

  /** True if a condition is met. */
  #met(condition: Condition): string {
    const functions = this.#functions
    const { kind, path, json, isNegated = false } = condition
    // If a parent is stored twice, the values in its first occurrence cannot be read.
    if (functions.isUnique) this.#pathAndParents(path)
    const value = this.#at(path)
    // Only a condition that is met by a wrong comparison would write.
    const needsCanonical = kind === 'contains' || kind === 'size' || (kind === 'equals' && isNegated)
    if (functions.isCanonical && needsCanonical) this.#guards.push(functions.isCanonical(value, this.#bind))
    if (functions.isUniqueInside && comparesInside(condition)) {
      const operand = { text: json, bound: this.#bind(json) }
      const of = kind === 'contains' ? 'items' : 'value'
      this.#guards.push(functions.isUniqueInside(value, of, operand, this.#bind))
    }
    const sql = conditionSql(functions, condition, value, this.#bind)
    return isNegated ? `NOT (${sql})` : sql
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
