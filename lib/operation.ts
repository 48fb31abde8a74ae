/** Any value that JSON can hold. */
export type JsonValue = string | number | boolean | null | readonly JsonValue[] | { readonly [key: string]: JsonValue }

/** Replaces the value at one key of the document. `json` is the value's text, taken when the call was made. */
export interface SetOperation {
  readonly kind: 'set'
  readonly key: string
  readonly json: string
}

/** A change of one JSON document, as data: each dialect turns it into SQL, {@link apply} says what that SQL must mean. */
export type Operation = SetOperation

export function set(key: string, json: string): SetOperation {
  return Object.freeze({ kind: 'set', key, json })
}

/** `'object'`, `'array'`, `'null'`, `'string'` …: JSON's own names; NULL and a column that was not loaded count as `'null'`. */
export function jsonType(value: unknown): string {
  return value === null || value === undefined ? 'null' : Array.isArray(value) ? 'array' : typeof value
}

/** The document after `operation`. NULL and JSON null count as an empty object; the document given is left as it is. */
export function apply(operation: Operation, document: unknown): { [key: string]: JsonValue } {
  // A computed key makes '__proto__' an ordinary property.
  return { ...(document as object | null), [operation.key]: JSON.parse(operation.json) as JsonValue }
}

/** One key as a path of MySQL, MariaDB and SQLite, for a bind: `$."a.b"`. */
export function pathText(key: string): string {
  return '$.' + JSON.stringify(key)
}
