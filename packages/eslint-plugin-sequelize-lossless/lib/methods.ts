/** What a method of a model does with its own row, as far as its text shows. */
export interface Method {
  /** The columns that it changes from their stored values, and leaves to its caller to save. */
  readonly changes: readonly string[]
  /** Whether it saves the row. */
  readonly saves: boolean
  /** The index of the parameter that holds values for `update` or `set`. */
  readonly values: number | undefined
}

const assigned = /\bthis\.(\w+)\s*=(?!=)[^;]*?\bthis\.\1\b/g
const marked = /\bthis\.changed\(\s*['"](\w+)['"]\s*,\s*true/g
const written = /\bthis\.(?:set|setDataValue)\(\s*['"](\w+)['"]\s*,[^;]*?\bthis\.(?:\1\b|get\(\s*['"]\1['"])/g

/** Reads the text of a method: `saveWithCtx(ctx) { return this.save(ctx) }`. */
export function methodOf(text: string): Method | undefined {
  if (/\b(?:withLock\w*|lock|mutex|LOCK)\b/.test(text)) return undefined
  const saves = /\bthis\.(?:save|update)\w*\(/.test(text)
  const changes = [assigned, marked, written].flatMap((pattern) => [...text.matchAll(pattern)].map(([, name]) => name!))
  const given =
    /\bthis\.(?:update|set)\(\s*(\w+)\s*[,)]/.exec(text)?.[1] ?? /\bassign\(\s*this\s*,\s*(\w+)\s*\)/.exec(text)?.[1]
  const parameters = /\(([^()]*)\)/.exec(text)?.[1]?.split(',') ?? []
  const index = parameters.findIndex((each) => /^\s*(\w+)/.exec(each)?.[1] === given && given !== undefined)
  return { changes: saves ? [] : [...new Set(changes)], saves, values: saves && index >= 0 ? index : undefined }
}
