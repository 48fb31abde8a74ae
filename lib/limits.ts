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
  const walk = (value: unknown, depth: number): void => {
    if (typeof value === 'string') refuseText(`the string ${shorten(value)}`, value)
    if (typeof value !== 'object' || value === null) return
    refuseDepth(depth)
    for (const [key, each] of Object.entries(value)) {
      if (!Array.isArray(value)) refuseText(`the inner key ${shorten(key)}`, key)
      walk(each, depth + 1)
    }
  }
  for (const { kind, path, json } of [...operations, ...conditions]) {
    for (const key of path) {
      const shown = `the key ${shorten(key)}`
      refuseText(shown, key)
      const reason = dialect.refuseKey(key)
      if (reason) refuse(shown, reason)
    }
    refuseDepth(path.length)
    // The root is one level, each key of the path leads to the next, and an item is inside its array.
    walk(JSON.parse(json), path.length + (kind === 'append' || kind === 'prepend' || kind === 'addToSet' ? 2 : 1))
  }
}

function shorten(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text)
}
