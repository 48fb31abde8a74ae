import { isDeepStrictEqual } from 'node:util'
import { operation, savedOperation } from './operation.js'
import type { Operation } from './operation.js'
import { isObject } from './values.js'
import type { JsonObject, JsonValue, Path } from './values.js'

const method = 'save'

/** The loaded document, and the document to write. */
export interface Edit {
  readonly before: JsonValue
  readonly after: JsonValue
}

/**
 * The operations that turn `before` into `after`, each at the deepest changed path; items added to the end of an array
 * become an `append`. `undefined` if a document is not an object, or if NULL becomes an empty object.
 */
export function difference({ before, after }: Edit): readonly Operation[] | undefined {
  if (!isObject(after) || !isObject(before ?? {})) return undefined
  const operations = changes((before ?? {}) as JsonObject, after, [])
  // From NULL to an empty object is a change without a changed key.
  return before === null && operations.length === 0 ? undefined : operations
}

/** The operations inside one object, at the path `parent`. */
function changes(before: JsonObject, after: JsonObject, parent: Path): Operation[] {
  const removed = Object.keys(before).filter((key) => !Object.hasOwn(after, key))
  return [
    ...removed.map((key) => operation(method, 'remove', [...parent, key], null)),
    ...Object.entries(after).flatMap(([key, value]) => {
      const path = [...parent, key]
      const old = Object.hasOwn(before, key) ? before[key] : undefined
      if (isDeepStrictEqual(old, value)) return []
      if (isObject(old) && isObject(value)) return changes(old, value, path)
      const hasGrown =
        Array.isArray(old) && Array.isArray(value) && isDeepStrictEqual(value.slice(0, old.length), old as JsonValue[])
      return hasGrown
        ? savedOperation('append', path, (value as JsonValue[]).slice((old as JsonValue[]).length))
        : savedOperation('set', path, value)
    }),
  ]
}
