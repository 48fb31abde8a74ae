/**
 * What a statement does, as far as the order of statements matters:
 * `local` touches nothing that others can see, two `read`s can be swapped, `end` ends a transaction or a savepoint.
 */
export type Kind = 'local' | 'read' | 'lock' | 'write' | 'end' | 'other'

/** How a transaction is begun without a snapshot and without a lock. */
const begins = /^(START TRANSACTION|BEGIN( DEFERRED)?( TRANSACTION)?)\s*;?$/i
const locals = /^(SAVEPOINT [^;]*|SET (SESSION )?TRANSACTION [^;]*)\s*;?$/i
const ends = /^(COMMIT|ROLLBACK|RELEASE)\b/i
const writes = /^(INSERT|UPDATE|DELETE|REPLACE|MERGE|TRUNCATE)\b/i

/** What may stand before a parenthesis in a SELECT that changes nothing. */
const harmless = new Set(
  'and or not in on as where from select exists values using over any all count sum min max avg coalesce ifnull nullif lower upper trim length substring concat cast date char varchar decimal numeric'.split(
    ' ',
  ),
)

export function kindOf(sql: string): Kind {
  if (begins.test(sql) || locals.test(sql)) return 'local'
  if (ends.test(sql)) return 'end'
  const main = sql.slice(mainStart(sql))
  if (writes.test(main) || tablesWritten(sql).length > 0) return 'write'
  if (!/^SELECT\b/i.test(main) || isSeveral(sql)) return 'other'
  // Words in literals count too: what looks like a lock or a call is taken for one.
  const isLocking = /\bFOR\s+(UPDATE|SHARE|NO KEY|KEY)\b|\bLOCK IN SHARE MODE\b|\bINTO\b/i.test(sql)
  // From the start of a word only: else a long word is read once from each of its characters.
  const calls = [...sql.matchAll(/(?<![\w."`])([\w."`]+)\s*\(/g)].map(([, name]) => name!.toLowerCase())
  const isPlain = calls.every((name) => harmless.has(name) || /^jsonb?_/.test(name))
  return isLocking || !isPlain ? 'lock' : 'read'
}

/** Whether this is how a transaction is left for good, rather than a savepoint. */
export function endsTransaction(sql: string): boolean {
  return /^(COMMIT|ROLLBACK)\s*(TRANSACTION\s*)?;?$/i.test(sql)
}

/** The statement with literals and numbers taken out: the same for every run of the same code. */
export function shapeOf(sql: string): string {
  return sql.replace(/'(?:[^'\\]|\\.|'')*'|\b\d+(\.\d+)?\b/gs, '?')
}

/** The binds of a statement in the order of their placeholders, however the driver wants them. */
export function bindList(parameters: unknown): readonly unknown[] {
  return Array.isArray(parameters) ? parameters : Object.values(parameters ?? {})
}

/** A word, a literal or a sign of a statement. */
export interface Token {
  readonly text: string
  readonly start: number
  /** How many parentheses are open around it. */
  readonly depth: number
  /** Which bind stands here, from 0. */
  readonly bind?: number
  /** The text of a literal. */
  readonly literal?: string
}

const rest = String.raw`\$\d+|\d+\.\d+|[\w\u0080-\uffff]+|::|->>?|#>>?|<=>|[<>!]=|<>|\|\||@>|<@|[^\s]`

/** Whether a backslash in a literal hides what follows it. */
export type Literals = 'backslashes' | 'plain'

/** What a statement is made of: a comment, or a token. */
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

/** Where the statement itself begins: after comments, MariaDB's `SET STATEMENT … FOR`, and the queries of a WITH. */
function mainStart(sql: string): number {
  const [before] = /^(\s|--[^\n]*\n|\/\*(?!!).*?\*\/)*(SET STATEMENT\b.*?\bFOR\s+)?/is.exec(sql)!
  if (!/^WITH\b/i.test(sql.slice(before.length))) return before.length
  const isVerb = ({ text, depth }: Token): boolean =>
    depth === 0 && /^(SELECT|INSERT|UPDATE|DELETE|REPLACE|MERGE)$/i.test(text)
  return tokensOf(sql).find(isVerb)?.start ?? before.length
}

/** The tokens of the statement itself; the binds before them are counted. */
function mainTokens(sql: string): Token[] {
  const from = mainStart(sql)
  return tokensOf(sql).filter(({ start }) => start >= from)
}

/** The name in quotes, `"public"."docs"` as `docs`. */
export function nameOf(quoted: string): string {
  return (quoted.match(/[^`".]+/g) ?? ['']).at(-1)!
}

const quotedName = /(?:[`"][^`"]+[`"]|\w+)(?:\.(?:[`"][^`"]+[`"]|\w+))?/
const target = new RegExp(
  `^(?:UPDATE(?: ONLY)?|INSERT(?: IGNORE)? INTO|REPLACE INTO|DELETE FROM|MERGE INTO|TRUNCATE(?: TABLE)?|SELECT\\b.*?\\bFROM)\\s+(${quotedName.source})`,
  'is',
)
const written = new RegExp(
  `\\b(?:(?<!FOR |KEY |DO )UPDATE(?: ONLY)?|INSERT INTO|DELETE FROM|MERGE INTO)\\s+(${quotedName.source})`,
  'gi',
)

/** The table that a statement is about, as it is written there. */
export function tableOf(sql: string): string | undefined {
  return target.exec(sql.slice(mainStart(sql)))?.[1]
}

/** Whether it is more than one statement. */
function isSeveral(sql: string): boolean {
  return /;\s*\S/.test(shapeOf(sql))
}

/** Whether a statement may write to tables that it does not name. */
export function isOpaque(sql: string): boolean {
  return /^(CALL|EXECUTE|DO|COPY|LOAD)\b/i.test(sql.slice(mainStart(sql)))
}

/** The tables that a statement writes to; more than one if the queries of its WITH write too, or if it is several. */
export function tablesWritten(sql: string): string[] {
  const start = mainStart(sql)
  const beside = isSeveral(sql) ? sql : sql.slice(0, start)
  const within = [...shapeOf(beside).matchAll(written)].map(([, table]) => table!)
  const table = writes.test(sql.slice(start)) ? tableOf(sql) : undefined
  return table === undefined ? within : [...within, table]
}

/** One `column = value` of a statement; without `value` it is more than a value, such as `JSON_SET(…)`. */
export interface Assignment {
  readonly column: string
  readonly value?: unknown
}

function literal(token: Token, binds: readonly unknown[]): Pick<Assignment, 'value'> {
  if (token.bind !== undefined) return { value: binds[token.bind] }
  if (token.literal !== undefined) return { value: token.literal }
  return /^\d+$/.test(token.text) ? { value: Number(token.text) } : {}
}

/** What an UPDATE sets. */
export function assignments(sql: string, binds: readonly unknown[]): Assignment[] {
  const tokens = mainTokens(sql)
  const start = tokens.findIndex(({ text, depth }) => depth === 0 && /^SET$/i.test(text))
  if (!/^UPDATE$/i.test(tokens[0]?.text ?? '') || start < 0) return []
  const end = tokens.findIndex(
    ({ text, depth }, index) => index > start && depth === 0 && /^(WHERE|RETURNING)$/i.test(text),
  )
  const parts: Token[][] = [[]]
  for (const token of tokens.slice(start + 1, end < 0 ? undefined : end)) {
    if (token.depth === 0 && token.text === ',') parts.push([])
    else parts.at(-1)!.push(token)
  }
  return parts.flatMap((part) => {
    const equals = part.findIndex(({ text }) => text === '=')
    const [value, ...more] = part.slice(equals + 1)
    const name = part[equals - 1]
    return name ? [{ column: nameOf(name.text), ...(value && more.length === 0 ? literal(value, binds) : {}) }] : []
  })
}

/** The equalities of the condition: `WHERE id = 1 AND version = 2`. */
export function conditions(sql: string, binds: readonly unknown[]): Assignment[] {
  const tokens = mainTokens(sql)
  const start = tokens.findIndex(({ text, depth }) => depth === 0 && /^WHERE$/i.test(text))
  return tokens.flatMap((token, index) => {
    const [name, value] = [tokens[index - 1], tokens[index + 1]]
    if (start < 0 || index < start || token.text !== '=' || !name || !value) return []
    return [{ column: nameOf(name.text), ...literal(value, binds) }]
  })
}
