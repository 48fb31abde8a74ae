/** Whether a statement ends a transaction, not only a savepoint. */
export function endsTransaction(sql: string): boolean {
  return /^(COMMIT|ROLLBACK)\s*(TRANSACTION\s*)?;?$/i.test(sql)
}

/** The binds of a statement in the order of their placeholders, from the format of any driver. */
export function bindList(parameters: unknown): readonly unknown[] {
  return Array.isArray(parameters) ? parameters : Object.values(parameters ?? {})
}

/** A word, a literal or an operator of a statement. */
export interface Token {
  readonly text: string
  readonly start: number
  /** The number of parentheses that are open around it. */
  readonly depth: number
  /** The index of the bind, from 0. */
  readonly bind?: number
  /** The text of a literal. */
  readonly literal?: string
}

const rest = String.raw`\$\d+|\d+\.\d+|[\w\u0080-\uffff]+|::|->>?|#>>?|<=>|[<>!]=|<>|\|\||@>|<@|[^\s]`

/** Whether a backslash in a literal escapes the next character. */
export type Literals = 'backslashes' | 'plain'

/** Matches a comment or a token. */
const tokenPatterns: Readonly<Record<Literals, RegExp>> = {
  backslashes: new RegExp(
    String.raw`/\*.*?\*/|(?:--\s|#)[^\n]*|(${'`(?:[^`]|``)*`'}|"(?:[^"\\]|\\.|"")*"|[xXbB]?'(?:[^'\\]|\\.|'')*'|${rest})`,
    'gs',
  ),
  plain: new RegExp(
    String.raw`/\*.*?\*/|--[^\n]*|(${'`(?:[^`]|``)*`'}|"(?:[^"]|"")*"|[eE]'(?:[^'\\]|\\.|'')*'|[xXbB]?'(?:[^']|'')*'|\$([A-Za-z_]\w*)?\$.*?\$\2\$|${rest})`,
    'gs',
  ),
}

/** The tokens of a statement, without comments. */
export function tokensOf(sql: string, literals: Literals = 'backslashes'): Token[] {
  let depth = 0
  let marks = 0
  return [...sql.matchAll(tokenPatterns[literals])].flatMap(({ 1: text, index: start }) => {
    if (text === undefined) return []
    if (text === ')') depth--
    const token = { text, start, depth }
    if (text === '(') depth++
    if (text === '?') return { ...token, bind: marks++ }
    if (/^\$\d+$/.test(text)) return { ...token, bind: Number(text.slice(1)) - 1 }
    const literal = literalOf(text, literals)
    return literal === undefined ? token : { ...token, literal }
  })
}

const escaped: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t', b: '\b', 0: '\0', Z: '\x1a' }

function literalOf(text: string, literals: Literals): string | undefined {
  const [, prefix, inner] = /^([eExXbB]?)'(.*)'$/s.exec(text) ?? []
  if (inner === undefined) return undefined
  const hides = literals === 'backslashes' || /^e$/i.test(prefix!)
  return inner.replace(hides ? /''|\\(.)/gs : /''/g, (_text, hidden?: string) =>
    typeof hidden === 'string' ? (escaped[hidden] ?? hidden) : "'",
  )
}

/** The index of the main statement: after comments, MariaDB's `SET STATEMENT … FOR`, and the queries of a WITH. */
function mainStart(sql: string): number {
  const [before] = /^(\s|--[^\n]*\n|\/\*(?!!).*?\*\/)*(SET STATEMENT\b.*?\bFOR\s+)?/is.exec(sql)!
  if (!/^WITH\b/i.test(sql.slice(before.length))) return before.length
  const isVerb = ({ text, depth }: Token): boolean =>
    depth === 0 && /^(SELECT|INSERT|UPDATE|DELETE|REPLACE|MERGE)$/i.test(text)
  return tokensOf(sql).find(isVerb)?.start ?? before.length
}

/** The name without quotes and schema: `docs` for `"public"."docs"`. */
export function nameOf(quoted: string): string {
  return (quoted.match(/[^`".]+/g) ?? ['']).at(-1)!
}

const quotedName = /(?:[`"][^`"]+[`"]|\w+)(?:\.(?:[`"][^`"]+[`"]|\w+))?/
/** An optimizer hint of MySQL, after the verb. */
const hint = String.raw`(?:\s*/\*\+.*?\*/)?`
const target = new RegExp(
  `^(?:UPDATE${hint}(?: ONLY)?|INSERT${hint}(?: IGNORE)? INTO|REPLACE${hint} INTO|DELETE${hint} FROM|MERGE INTO|TRUNCATE(?: TABLE)?|SELECT\\b.*?\\bFROM)\\s+(${quotedName.source})`,
  'is',
)

/** The main table of a statement, as the text quotes it. */
export function tableOf(sql: string): string | undefined {
  return target.exec(sql.slice(mainStart(sql)))?.[1]
}
