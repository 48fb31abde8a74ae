/**
 * The kind of a statement, for the order of statements:
 * `local` has no effect that other sessions see, two `read`s commute, `end` ends a transaction or a savepoint.
 */
export type Kind = 'local' | 'read' | 'lock' | 'write' | 'end' | 'other'

/** Matches a BEGIN that takes neither a snapshot nor a lock. */
const begins = /^(START TRANSACTION|BEGIN( DEFERRED)?( TRANSACTION)?)\s*;?$/i
const locals = /^(SAVEPOINT [^;]*|SET (SESSION )?TRANSACTION [^;]*)\s*;?$/i
const ends = /^(COMMIT|ROLLBACK|RELEASE)\b/i
const writes = /^(INSERT|UPDATE|DELETE|REPLACE|MERGE|TRUNCATE)\b/i

/** The words that may precede a parenthesis in a read-only SELECT. */
const harmless: ReadonlySet<string> = new Set(
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
  // Also matches words in literals: a literal that looks like a lock or a call counts as one.
  const isLocking = /\bFOR\s+(UPDATE|SHARE|NO KEY|KEY)\b|\bLOCK IN SHARE MODE\b|\bINTO\b/i.test(sql)
  // Match from the start of a word only; otherwise the time is quadratic in the length of a word.
  const calls = [...sql.matchAll(/(?<![\w."`])([\w."`]+)\s*\(/g)].map(([, name]) => name!.toLowerCase())
  const isPlain = calls.every((name) => harmless.has(name) || /^jsonb?_/.test(name))
  return isLocking || !isPlain ? 'lock' : 'read'
}

/** Whether a statement begins a transaction, or lets the next one begin it. */
export function beginsTransaction(sql: string): boolean {
  return /^(START TRANSACTION|BEGIN)\b|^SET (SESSION |@@)?autocommit\s*=\s*(0|OFF)/i.test(sql)
}

/** Whether a statement ends a transaction, not only a savepoint. */
export function endsTransaction(sql: string): boolean {
  return /^(COMMIT|ROLLBACK)\s*(TRANSACTION\s*)?;?$/i.test(sql)
}

/** The statement without literals, numbers and tags of dollar quotes: the same in every run of the same code. */
export function shapeOf(sql: string): string {
  return sql.replace(/'(?:[^'\\]|\\.|'')*'|\b\d+(\.\d+)?\b/gs, '?').replace(/\$[A-Za-z_]\w*\$/g, '$$$$')
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
type Literals = 'backslashes' | 'plain'

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
export function mainStart(sql: string): number {
  const [before] = /^(\s|--[^\n]*\n|\/\*(?!!).*?\*\/)*(SET STATEMENT\b.*?\bFOR\s+)?/is.exec(sql)!
  if (!/^WITH\b/i.test(sql.slice(before.length))) return before.length
  const isVerb = ({ text, depth }: Token): boolean =>
    depth === 0 && /^(SELECT|INSERT|UPDATE|DELETE|REPLACE|MERGE)$/i.test(text)
  return tokensOf(sql).find(isVerb)?.start ?? before.length
}

/** The tokens of the main statement. Bind indexes count from the start of the text. */
function mainTokens(sql: string): Token[] {
  const from = mainStart(sql)
  return tokensOf(sql).filter(({ start }) => start >= from)
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
const written = new RegExp(
  `\\b(?:(?<!FOR |KEY |DO )UPDATE${hint}(?: ONLY)?|INSERT${hint} INTO|DELETE${hint} FROM|MERGE INTO)\\s+(${quotedName.source})`,
  'gis',
)

/** The main table of a statement, as the text quotes it. */
export function tableOf(sql: string): string | undefined {
  return target.exec(sql.slice(mainStart(sql)))?.[1]
}

/** The tables that a statement reads beside its main one: of joins, of queries in it, and of INSERT … SELECT. */
export function tablesBeside(sql: string): string[] {
  const tokens = tokensOf(sql)
  const main = nameOf(tableOf(sql) ?? '')
  const names = tokens.flatMap(({ text }, index) => {
    const [name, dot, last] = tokens.slice(index + 1, index + 4).map((each) => each.text)
    if (!/^(FROM|JOIN)$/i.test(text) || !/^[`"\w]/.test(name ?? '')) return []
    return [nameOf(dot === '.' ? last! : name!)]
  })
  return [...new Set(names)].filter((name) => name !== main || /^INSERT\b/i.test(sql.slice(mainStart(sql))))
}

/** Whether a text has more than one statement. */
export function isSeveral(sql: string): boolean {
  return /;\s*\S/.test(shapeOf(sql))
}

/** Whether a statement may write to tables that it does not name. */
export function isOpaque(sql: string): boolean {
  return /^(CALL|EXECUTE|DO|COPY|LOAD)\b/i.test(sql.slice(mainStart(sql)))
}

/** The tables that a statement writes to; several if the queries of a WITH write too, or for several statements. */
export function tablesWritten(sql: string): string[] {
  const start = mainStart(sql)
  const beside = isSeveral(sql) ? sql : sql.slice(0, start)
  const within = [...shapeOf(beside).matchAll(written)].map(([, table]) => table!)
  const table = writes.test(sql.slice(start)) ? tableOf(sql) : undefined
  return table === undefined ? within : [...within, table]
}

/** A statement of a text, with its binds. */
export interface Part {
  readonly sql: string
  readonly binds: readonly unknown[]
}

/**
 * The statements of a text: several that semicolons separate, the writes within a WITH, the statement after it, and those in the
 * blocks of a function, such as the one that Sequelize's findOrCreate() creates on PostgreSQL.
 */
export function partsOf(sql: string, binds: readonly unknown[]): Part[] {
  const tokens = tokensOf(sql)
  const main = mainStart(sql)
  const isFunction = /^(CREATE|DO)\b/i.test(sql.slice(main))
  return tokens.flatMap(({ text, start, depth }, index) => {
    const before = tokens[index - 1]
    const isWithin = before?.text === '(' && /^(INSERT|UPDATE|DELETE)$/i.test(text)
    const isInBlock = isFunction && /^(BEGIN|THEN|ELSE|LOOP)$/i.test(before?.text ?? '')
    const isFirst = depth === 0 && (start === main || isInBlock || (before?.text === ';' && before.depth === 0))
    if (!isWithin && !isFirst) return []
    const end = tokens.find(
      (each) => each.start > start && (each.depth < depth || (each.depth === 0 && each.text === ';')),
    )
    const marks = tokens.slice(0, index).filter((each) => each.text === '?')
    return [{ sql: sql.slice(start, end?.start), binds: binds.slice(marks.length) }]
  })
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

/** The assignments of an UPDATE. */
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

/** The values of an INSERT, by row: `INSERT INTO t (a, b) VALUES (1, 2), (3, 4)`. Without a list of columns there are none. */
export function insertions(sql: string, binds: readonly unknown[]): Assignment[][] {
  const tokens = mainTokens(sql)
  const start = tokens.findIndex(({ text, depth }) => depth === 0 && /^VALUES$/i.test(text))
  if (!/^(INSERT|REPLACE)$/i.test(tokens[0]?.text ?? '') || start < 0) return []
  const isName = ({ text, depth }: Token): boolean => depth === 1 && /^[`"\w]/.test(text)
  const columns = tokens.slice(0, start).filter(isName)
  const rows: Token[][][] = []
  for (const token of tokens.slice(start + 1)) {
    if (token.depth === 0 && token.text === '(') rows.push([[]])
    else if (token.depth === 0 && !/^[,)]$/.test(token.text)) break
    else if (token.depth === 1 && token.text === ',') rows.at(-1)!.push([])
    else if (token.depth > 0) rows.at(-1)!.at(-1)!.push(token)
  }
  return rows.map((values) =>
    columns.map(({ text }, index) => {
      const [value, ...more] = values[index] ?? []
      return { column: nameOf(text), ...(value && more.length === 0 ? literal(value, binds) : {}) }
    }),
  )
}

/** The equalities of the condition: `WHERE id = 1 AND version = 2`. */
export function conditions(sql: string, binds: readonly unknown[]): Assignment[] {
  const tokens = mainTokens(sql)
  const start = tokens.findIndex(({ text, depth }) => depth === 0 && /^WHERE$/i.test(text))
  return tokens.flatMap((token, index) => {
    const [name, value] = [tokens[index - 1], tokens[index + 1]]
    if (start < 0 || index < start || token.text !== '=' || !name || !value) return []
    const isColumn = /^[`"A-Za-z_\u0080-\uffff]/.test(name.text) && !isOperator(tokens[index - 2])
    return isColumn && !isOperator(tokens[index + 2]) ? [{ column: nameOf(name.text), ...literal(value, binds) }] : []
  })
}

/** Whether a token makes an expression of what is beside it: `a % 3 = 0` compares no column with 0. */
function isOperator(token: Token | undefined): boolean {
  return token !== undefined && /^([-+*/%|&^#]|\|\||->>?|#>>?)$/.test(token.text)
}
