import { isDeepStrictEqual } from 'node:util'
import { matching } from './matching.js'
import { operation, savedOperation } from './operation.js'
import type { Operation } from './operation.js'
import { entersArray } from './semantics.js'
import { isObject } from './values.js'
import type { JsonObject, JsonValue, Path } from './values.js'

const method = 'save'

/** The loaded document, and the document to write. */
export interface Edit {
  readonly before: JsonValue
  readonly after: JsonValue
}

/** An operation of a save, and the loaded value at its path. */
export interface EditedValue {
  readonly operation: Operation
  readonly loaded: JsonValue | undefined
}

/**
 * The operations that turn `before` into `after`, each at the deepest changed path; items added to the end of an array
 * become an `append`, changes of elements with an `id` are made at the element. `undefined` if the document is replaced: it
 * is or becomes a scalar or NULL, it loses all its keys, it is an array that changes in another way, or NULL becomes empty.
 */
export function difference({ before, after }: Edit): readonly EditedValue[] | undefined {
  if (Array.isArray(after) && (before === null || Array.isArray(before))) {
    if (before === null && after.length === 0) return undefined
    return arrayChanges(before ?? undefined, after as readonly JsonValue[], [])
  }
  if (!isObject(after) || !isObject(before ?? {})) return undefined
  const old = (before ?? {}) as JsonObject
  if (isReplaced(old, after)) return undefined
  const operations = changes(old, after, [])
  // From NULL to an empty object is a change without a changed key.
  return before === null && operations.length === 0 ? undefined : operations
}

/** Whether an object keeps none of its keys: it is emptied, or replaced by another one. */
function isReplaced(before: JsonObject, after: JsonObject): boolean {
  const keys = Object.keys(before)
  return keys.length > 0 && !keys.some((key) => Object.hasOwn(after, key))
}

/** The operations inside one object, at the path `parent`. */
function changes(before: JsonObject, after: JsonObject, parent: Path): EditedValue[] {
  const removed = Object.keys(before).filter((key) => !Object.hasOwn(after, key))
  return [
    ...removed.map((key) => ({
      operation: operation(method, 'remove', [...parent, key], null),
      loaded: before[key],
    })),
    ...Object.entries(after).flatMap(([key, value]) => {
      const loaded = Object.hasOwn(before, key) ? before[key] : undefined
      return valueChanges(loaded, value, [...parent, key])
    }),
  ]
}

/** The operations that change the value at a path. */
function valueChanges(loaded: JsonValue | undefined, value: JsonValue, path: Path): EditedValue[] {
  if (isDeepStrictEqual(loaded, value)) return []
  const replaced = [{ operation: savedOperation('set', path, value), loaded }]
  if (isObject(value) && isObject(loaded ?? {})) {
    const before = (loaded ?? {}) as JsonObject
    // An object with keys is made key by key: another writer may make it at the same time, with other keys.
    const isMade = isObject(loaded) || Object.keys(value).length > 0
    return isMade && !isReplaced(before, value) ? changes(before, value, path) : replaced
  }
  if (Array.isArray(value) && (loaded === undefined ? value.length > 0 : Array.isArray(loaded))) {
    return arrayChanges(loaded, value as readonly JsonValue[], path) ?? replaced
  }
  return replaced
}

/** The operations that change an array at a path; `undefined` if it is replaced. */
function arrayChanges(
  loaded: JsonValue | undefined,
  value: readonly JsonValue[],
  path: Path,
): EditedValue[] | undefined {
  if (isDeepStrictEqual(loaded, value)) return []
  const before = (loaded ?? []) as readonly JsonValue[]
  if (isDeepStrictEqual(value.slice(0, before.length), before)) {
    return [{ operation: savedOperation('append', path, value.slice(before.length)), loaded }]
  }
  return elementChanges(before, value, path)
}

/** The operations on elements with an `id`, which keep their order; `undefined` if the array changes in another way. */
function elementChanges(
  loaded: readonly JsonValue[],
  value: readonly JsonValue[],
  path: Path,
): EditedValue[] | undefined {
  const [before, after] = [byId(loaded), byId(value)]
  // A path has one step into an array.
  if (!before || !after || entersArray(path)) return undefined
  const kept = [...before.keys()].filter((id) => after.has(id))
  if (kept.length === 0 || !isDeepStrictEqual([...after.keys()], kept)) return undefined
  return [...before].flatMap(([id, element]) => {
    const at = [...path, matching({ id })]
    const changed = after.get(id)
    if (!changed) return [{ operation: operation(method, 'remove', at, null), loaded: element }]
    return changes(element, changed, at)
  })
}

/** The elements of an array by their `id`; `undefined` unless all are objects with a different one. */
function byId(items: readonly JsonValue[]): ReadonlyMap<string | number, JsonObject> | undefined {
  const elements = new Map<string | number, JsonObject>()
  for (const item of items) {
    const id = isObject(item) && Object.hasOwn(item, 'id') ? item['id'] : undefined
    if (typeof id !== 'string' && !Number.isSafeInteger(id)) return undefined
    elements.set(id as string | number, item as JsonObject)
  }
  return elements.size === items.length ? elements : undefined
}
