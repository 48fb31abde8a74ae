import type { Change, Dialect } from './dialects/index.js'
import { UnsupportedValueError } from './errors.js'

/** @throws {UnsupportedValueError} a key, a value or the depth of the document is more than this database holds exactly */
export function refuseUnsupported(
  method: string,
  column: string,
  { operations, conditions }: Change,
  dialect: Dialect,
): void {
  const refuse = (what: string, reason: string): never => {
    throw new UnsupportedValueError(
      method,
      `${what} cannot be held by ${dialect.name}: ${reason}`,
      'Encode it before storing it, for example with encodeURIComponent().',
      column,
    )
  }
  const refuseText = (what: string, text: string): void => {
    if (!text.isWellFormed()) refuse(what, 'it has half of a surrogate pair')
    const reason = dialect.refuseText(text)
    if (reason) refuse(what, reason)
  }
  const refuseDepth = (depth: number): void => {
    if (depth <= dialect.maxDepth) return
    throw new UnsupportedValueError(
      method,
      `the document would be more than ${dialect.maxDepth} levels deep, which ${dialect.name} does not hold`,
      'Store deep parts as text, or in a table of their own.',
      column,
    )
  }
  const refuseKey = (key: string): void => {
    const shown = `the key ${shorten(key)}`
    refuseText(shown, key)
    const reason = dialect.refuseKey(key)
    if (reason) refuse(shown, reason)
  }
  // The keys of a patch are paths, as long as they are those of objects.
  const walk = (value: unknown, depth: number, isPatch: boolean): void => {
    if (typeof value === 'string') refuseText(`the string ${shorten(value)}`, value)
    if (typeof value !== 'object' || value === null) return
    refuseDepth(depth)
    for (const [key, each] of Object.entries(value)) {
      const isKey = !Array.isArray(value)
      if (isKey && isPatch) refuseKey(key)
      else if (isKey) refuseText(`the inner key ${shorten(key)}`, key)
      walk(each, depth + 1, isKey && isPatch)
    }
  }
  for (const { kind, path, json } of [...operations, ...conditions]) {
    for (const key of path) refuseKey(key)
    refuseDepth(path.length)
    // The root is one level, each key of the path leads to the next, and an item is inside its array.
    const isItem = kind === 'append' || kind === 'prepend' || kind === 'addToSet'
    walk(JSON.parse(json), path.length + (isItem ? 2 : 1), kind === 'merge')
  }
}

function shorten(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text)
}
