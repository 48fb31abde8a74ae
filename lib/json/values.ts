/** Any value that JSON can hold. */
export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject

/** An object of a JSON document. */
export interface JsonObject {
  readonly [key: string]: JsonValue
}

/** The elements of an array that are objects with certain members: see the function `matching`. */
export interface Matching<V = unknown> {
  /** The JSON text of the members. */
  readonly json: string
  /** The type of the members, for the compiler only. */
  readonly members?: V
}

/**
 * Steps from the root of a document: a string is a literal object key (`['steps', 'a.b']` are two), a number is the index of an
 * array element (-1 is the last), and a {@link Matching} is every element with its members. The path `[]` is the root.
 */
export type Path = readonly (string | number | Matching)[]

/** A {@link Path} whose elements were looked up: every number is the index of a stored element. */
export type ElementPath = readonly (string | number)[]

/** A path as an argument; a bare string is one literal key, never a dotted path. */
export type PathInput = string | Path

/** A {@link PathInput}, for which an editor completes `Keys`: the type `string` would hide them. */
export type PathOrKey<Keys> = (string & {}) | Path | Keys

declare const completed: unique symbol

/** What no call passes: it tells the compiler which keys a document has, so that an editor completes them. */
export interface Completion<Keys> {
  readonly [completed]: Keys
}

/** The {@link Path} for a {@link PathInput}. */
export type PathOf<P extends PathInput> = P extends string ? readonly [P] : P

/** The kinds of operations; each has a constructor of the same name. */
export type Kind = BasicKind | 'assign' | 'replaceOrAppend'

/** The kinds of operations that do not stand for others. */
export type BasicKind =
  | 'set'
  | 'setIfAbsent'
  | 'remove'
  | 'rename'
  | 'increment'
  | 'min'
  | 'max'
  | 'append'
  | 'prepend'
  | 'addToSet'
  | 'pull'
  | 'merge'

/** The kinds of conditions that compare with a number or a string. */
export type ComparisonKind = 'greaterThan' | 'atLeast' | 'lessThan' | 'atMost'

/** The kinds of conditions; each has a constructor of the same name. */
export type ConditionKind = 'equals' | 'exists' | 'absent' | 'contains' | 'size' | ComparisonKind

/** The JSON type of a value: `'object'`, `'array'`, `'string'` …; SQL NULL and a missing value count as `'null'`. */
export function jsonType(value: unknown): string {
  return value === null || value === undefined ? 'null' : Array.isArray(value) ? 'array' : typeof value
}

/** Whether a value is a JSON object: not an array, not null. */
export function isObject(value: unknown): value is JsonObject {
  return jsonType(value) === 'object'
}
