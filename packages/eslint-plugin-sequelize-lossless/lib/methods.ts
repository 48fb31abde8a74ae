/** What a method of a model does with its own row, as far as its text shows. */
export interface Method {
  /** The columns that it changes from their stored values, and leaves to its caller to save. */
  readonly changes: readonly string[]
  /** Whether it saves the row. */
  readonly saves: boolean
  /** The index of the parameter that holds values for `update` or `set`. */
  readonly values: number | undefined
}

const assigned = /\bthis\.(\w+)\s*=(?![=>])/g
const marked = /\bthis\.changed\(\s*['"](\w+)['"]\s*,\s*true/g
const written = /\bthis\.(?:set|setDataValue)\(\s*['"](\w+)['"]\s*,/g
/** `save(`, `saveWithCtx(`, and not `updateLabel(`: the words after it do not name a thing. */
const saving = /\bthis\.(?:save|update)(?:(?:And|In|Now|Under|Using|With|Without)(?:[A-Z]\w*)?)?\(/

/** Reads the text of a method: `saveWithCtx(ctx) { return this.save(ctx) }`. */
export function methodOf(text: string): Method | undefined {
  if (/\b(?:withLock\w*|lock|mutex|LOCK)\b/.test(text)) return undefined
  const saves = saving.test(text)
  const changes = [
    ...[...text.matchAll(marked)].map(([, name]) => name!),
    ...[assigned, written].flatMap((pattern) =>
      [...text.matchAll(pattern)].flatMap(({ 0: start, 1: name, index }) =>
        isRead(name!, expressionAt(text, index + start.length)) ? [name!] : [],
      ),
    ),
  ]
  const given =
    /\bthis\.(?:update|set)\(\s*(\w+)\s*[,)]/.exec(text)?.[1] ?? /\bassign\(\s*this\s*,\s*(\w+)\s*\)/.exec(text)?.[1]
  const parameters = /\(([^()]*)\)/.exec(text)?.[1]?.split(',') ?? []
  const index = parameters.findIndex((each) => /^\s*(\w+)/.exec(each)?.[1] === given && given !== undefined)
  return { changes: saves ? [] : [...new Set(changes)], saves, values: saves && index >= 0 ? index : undefined }
}

function isRead(column: string, expression: string): boolean {
  return new RegExp(`\\bthis\\.(?:${column}\\b|(?:get|getDataValue)\\(\\s*['"]${column}['"])`).test(expression)
}

/** The expression that starts here. A line ends it outside brackets, unless an operator continues it. */
function expressionAt(text: string, start: number): string {
  let depth = 0
  const tokens = text.slice(start).matchAll(/'[^'\n]*'|"[^"\n]*"|[([{]|[)\]}]|[;,]|\n/g)
  const end = [...tokens].find(({ 0: token, index }) => {
    const [before, after] = [text.slice(start, start + index), text.slice(start + index)]
    if (/^[([{]/.test(token)) depth++
    else if (/^[)\]}]/.test(token)) depth--
    const isEnd =
      /^[;,]/.test(token) ||
      (token === '\n' && !/(?:[=+\-*/%&|?:]|^)\s*$/.test(before) && !/^\s*[.?:+\-*/%&|]/.test(after))
    return depth < 0 || (depth === 0 && isEnd)
  })
  return text.slice(start, end && start + end.index)
}
