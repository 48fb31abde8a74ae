import { nameOf, tokensOf } from './statement.js'
import type { Literals, Token } from './statement.js'

type Tokens = readonly Token[]

/** A condition: a column, and the values that it may have. */
interface Equality {
  readonly column: string
  readonly values: readonly unknown[]
}

/** An assignment: a column, and the tokens of its new value. */
interface Assigned {
  readonly column: string
  readonly value: Tokens
  /** The new value, if it is a constant or a bind. */
  readonly sent: { readonly value: unknown } | undefined
}

/** The parsed clauses of a statement, for its first table. */
export interface Clauses {
  readonly verb: 'SELECT' | 'UPDATE' | 'INSERT'
  readonly table: string
  /** The names of the stored row: the table and its alias. */
  readonly own: readonly string[]
  /** The other tables of a SELECT. */
  readonly joined: readonly { readonly table: string; readonly alias: string }[]
  /** The names of the proposed row of an INSERT: `excluded` and its alias. */
  readonly inserted: readonly string[]
  /** The assignments to an existing row. */
  readonly assigned: readonly Assigned[]
  /** The conjuncts of the WHERE clause. */
  readonly conditions: readonly Tokens[]
  readonly equalities: readonly Equality[]
  /** The rows of an INSERT, as far as they are constants. */
  readonly rows: readonly ReadonlyMap<string, unknown>[]
  /** The conflict target of an INSERT. */
  readonly conflict: readonly string[]
  /** The select list, or the list after RETURNING. */
  readonly returned: Tokens
  /** The rows come from a subquery. */
  readonly isDerived: boolean
  /** The FROM clause of an UPDATE has binds or literals. */
  readonly hasData: boolean
  /** Whether a SELECT locks its rows against every writer: all rows, or the rows of the named tables. */
  readonly locks: readonly string[] | boolean
}

/** Parses the statements of a text; omits all but SELECT, UPDATE, INSERT and REPLACE. */
export function clausesOf(sql: string, binds: readonly unknown[], literals: Literals): readonly Clauses[] {
  return split(tokensOf(sql, literals), ';').flatMap((tokens) => {
    const start = tokens.findIndex(({ text, depth }) => depth === 0 && /^(SELECT|UPDATE|INSERT|REPLACE)$/i.test(text))
    if (start < 0 || (start > 0 && !/^WITH$/i.test(tokens[0]!.text))) return []
    const statement = tokens.slice(start)
    const [{ text }] = statement as [Token]
    return /^SELECT$/i.test(text)
      ? select(statement, binds)
      : /^UPDATE$/i.test(text)
        ? update(statement, binds)
        : insert(statement, binds)
  })
}

const none: Omit<Clauses, 'verb' | 'table' | 'own'> = {
  joined: [],
  inserted: [],
  assigned: [],
  conditions: [],
  equalities: [],
  rows: [],
  conflict: [],
  returned: [],
  isDerived: false,
  hasData: false,
  locks: false,
}

function update(tokens: Tokens, binds: readonly unknown[]): Clauses {
  const head = tokens
    .slice(1, indexOf(tokens, /^SET$/i))
    .filter(({ text }) => !/^(ONLY|IGNORE|LOW_PRIORITY|AS)$/i.test(text))
  const { name: table, next } = nameAt(head, 0)
  const own = [table, ...head.slice(next, next + 1).map(({ text }) => nameOf(text))]
  const conditions = conjuncts(after(tokens, /^WHERE$/i, /^(RETURNING|ORDER|LIMIT)$/i))
  const from = after(tokens, /^FROM$/i, /^(WHERE|RETURNING)$/i)
  return {
    ...none,
    verb: 'UPDATE',
    table,
    own,
    assigned: assignedIn(after(tokens, /^SET$/i, /^(FROM|WHERE|RETURNING|ORDER|LIMIT)$/i), binds),
    conditions,
    equalities: equalities(conditions, own, binds),
    returned: after(tokens, /^RETURNING$/i),
    hasData: from.some(({ bind, literal }) => bind !== undefined || literal !== undefined),
  }
}

function insert(tokens: Tokens, binds: readonly unknown[]): Clauses {
  const into = indexOf(tokens, /^INTO$/i)
  const { name: table, next } = nameAt(tokens, into + 1)
  const own = [table, ...(/^AS$/i.test(tokens[next]?.text ?? '') ? [nameOf(tokens[next + 1]?.text ?? '')] : [])]
  const start = tokens.findIndex(({ text, depth }, index) => index >= next && depth === 0 && text === '(')
  const columns = start < 0 ? [] : split(inside(tokens, start), ',').map(([token]) => nameOf(token?.text ?? ''))
  const tail = tokens.findIndex(
    ({ text, depth }, index) =>
      depth === 0 && /^ON$/i.test(text) && /^(DUPLICATE|CONFLICT)$/i.test(tokens[index + 1]?.text ?? ''),
  )
  const [head, conflict] = tail < 0 ? [tokens, []] : [tokens.slice(0, tail), tokens.slice(tail)]
  const values = after(head, /^VALUES?$/i, /^RETURNING$/i)
  const groups = values.flatMap((token, index) =>
    token.text === '(' && token.depth === 0 ? [inside(values, index)] : [],
  )
  const tuples = groups.map((group) => split(group, ','))
  const alias = values.findIndex(({ text, depth }) => depth === 0 && /^AS$/i.test(text))
  const isReplace = /^REPLACE$/i.test(tokens[0]!.text) || /^REPLACE$/i.test(tokens[2]?.text ?? '')
  const conditions = conjuncts(after(after(conflict, /^UPDATE$/i), /^WHERE$/i, /^RETURNING$/i))
  const assigned = isReplace
    ? columns.map((column, index) => ({ column, value: tuples[0]?.[index] ?? [], sent: undefined }))
    : assignedIn(
        after(conflict, /^UPDATE$/i, /^(WHERE|RETURNING)$/i).filter(
          ({ text, depth }) => depth > 0 || !/^SET$/i.test(text),
        ),
        binds,
      )
  const target = conflict.findIndex(({ text }) => text === '(')
  const isTarget = /^CONFLICT$/i.test(conflict[1]?.text ?? '') && target === 2
  return {
    ...none,
    verb: 'INSERT',
    table,
    own,
    inserted: ['excluded', ...(alias < 0 ? [] : [nameOf(values[alias + 1]?.text ?? '')])],
    assigned,
    conditions,
    equalities: equalities(conditions, own, binds),
    rows: tuples.map(
      (tuple) =>
        new Map(
          tuple.flatMap((value, index) => {
            const known = constant(value, binds)
            return known && columns[index] !== undefined ? [[columns[index].toLowerCase(), known.value] as const] : []
          }),
        ),
    ),
    conflict: isTarget ? split(inside(conflict, target), ',').map(([token]) => nameOf(token?.text ?? '')) : [],
    returned: after(tokens, /^RETURNING$/i),
  }
}

function select(tokens: Tokens, binds: readonly unknown[]): Clauses[] {
  const main = indexOf(tokens, /^FROM$/i)
  const isDerived = tokens[main + 1]?.text === '('
  const start = isDerived
    ? tokens.findIndex(({ text }, index) => index > main && /^FROM$/i.test(text) && isName(tokens[index + 1]))
    : main
  if (start < 0 || !isName(tokens[start + 1])) return []
  const { name: table, next } = nameAt(tokens, start + 1)
  const alias = tokens.slice(next, next + 2).find(({ text }) => !/^AS$/i.test(text))
  const own = [table, ...(isName(alias) ? [nameOf(alias!.text)] : [])]
  const conditions = conjuncts(after(tokens, /^WHERE$/i, /^(GROUP|HAVING|ORDER|LIMIT|FOR|LOCK|UNION)$/i))
  return [
    {
      ...none,
      verb: 'SELECT',
      table,
      own,
      conditions,
      equalities: equalities(conditions, own, binds),
      returned: tokens.slice(1, main),
      joined: joinedIn(after(tokens, /^FROM$/i, /^(WHERE|GROUP|HAVING|ORDER|LIMIT|FOR|LOCK|UNION)$/i)),
      isDerived,
      locks: locksOf(tokens),
    },
  ]
}

function joinedIn(from: Tokens): { table: string; alias: string }[] {
  return from.flatMap((token, index) => {
    if (token.depth > 0 || !/^(JOIN|,)$/i.test(token.text) || !isName(from[index + 1])) return []
    const { name: table, next } = nameAt(from, index + 1)
    const alias = from.slice(next, next + 2).find(({ text }) => !/^AS$/i.test(text))
    return [{ table, alias: isName(alias) && !/^(ON|USING)$/i.test(alias!.text) ? nameOf(alias!.text) : table }]
  })
}

function isName(token: Token | undefined): boolean {
  return token !== undefined && /^([`"]|[A-Za-z_\u0080-\uffff])/.test(token.text) && !/^[eExXbB]'/.test(token.text)
}

/** FOR SHARE suffices: of two writers that both hold it, one fails. PostgreSQL's FOR KEY SHARE blocks no writer. */
function locksOf(tokens: Tokens): readonly string[] | boolean {
  const clause = tokens.findIndex(({ text, depth }, index) => {
    const [second, third] = tokens.slice(index + 1, index + 3).map((token) => token.text)
    return depth === 0 && /^(FOR (UPDATE|SHARE|NO KEY)|LOCK IN SHARE)\b/i.test(`${text} ${second ?? ''} ${third ?? ''}`)
  })
  if (clause < 0) return false
  const of = after(tokens.slice(clause), /^OF$/i, /^(NOWAIT|SKIP|WAIT|;)$/i)
  return of.length === 0 || of.filter(({ text }) => text !== ',').map(({ text }) => nameOf(text))
}

/** The name at `start` without its schema (`"public"."docs"` is `docs`), and the index after it. */
function nameAt(tokens: Tokens, start: number): { name: string; next: number } {
  let next = start + 1
  while (tokens[next]?.text === '.') next += 2
  return { name: nameOf(tokens[next - 1]?.text ?? ''), next }
}

function indexOf(tokens: Tokens, word: RegExp): number {
  const index = tokens.findIndex(({ text, depth }) => depth === 0 && word.test(text))
  return index < 0 ? tokens.length : index
}

/** The tokens after a keyword, up to the first keyword of `ends`. */
function after(tokens: Tokens, word: RegExp, ends?: RegExp): Tokens {
  const rest = tokens.slice(indexOf(tokens, word) + 1)
  return ends ? rest.slice(0, indexOf(rest, ends)) : rest
}

/** The tokens inside the parentheses that open at `start`. */
function inside(tokens: Tokens, start: number): Tokens {
  let end = start + 1
  while (end < tokens.length && tokens[end]!.depth > tokens[start]!.depth) end++
  return tokens.slice(start + 1, end)
}

/** The parts between separators, which have the depth of the first token. */
function split(tokens: Tokens, separator: string): Tokens[] {
  const parts: Token[][] = [[]]
  const depth = tokens[0]?.depth
  for (const token of tokens) {
    if (token.depth === depth && token.text === separator) parts.push([])
    else parts.at(-1)!.push(token)
  }
  return parts
}

function assignedIn(tokens: Tokens, binds: readonly unknown[]): Assigned[] {
  return split(tokens, ',').flatMap((part) => {
    const equals = part.findIndex(({ text }) => text === '=')
    const value = part.slice(equals + 1)
    return equals > 0 ? [{ column: nameOf(part[equals - 1]!.text), value, sent: constant(value, binds) }] : []
  })
}

/** The tokens without the parentheses around all of them. */
function bare(tokens: Tokens): Tokens {
  const isWrapped = tokens[0]?.text === '(' && inside(tokens, 0).length === tokens.length - 2
  return isWrapped ? bare(tokens.slice(1, -1)) : tokens
}

/** The conjuncts of a condition; none if it has an OR. */
function conjuncts(tokens: Tokens): Tokens[] {
  const all = bare(tokens)
  const depth = all[0]?.depth
  if (all.some((token) => token.depth === depth && /^(OR|XOR)$/i.test(token.text))) return []
  let isBetween = false
  const parts: Token[][] = [[]]
  for (const token of all) {
    const isHere = token.depth === depth
    if (isHere && /^AND$/i.test(token.text) && !isBetween) {
      parts.push([])
      continue
    }
    if (isHere) isBetween = isBetween ? !/^AND$/i.test(token.text) : /^BETWEEN$/i.test(token.text)
    parts.at(-1)!.push(token)
  }
  return parts.length > 1 ? parts.flatMap(conjuncts) : parts.filter(({ length }) => length > 0)
}

function equalities(conditions: readonly Tokens[], own: readonly string[], binds: readonly unknown[]): Equality[] {
  return conditions.flatMap((condition) => {
    const depth = condition[0]!.depth
    const sign = condition.findIndex((token) => token.depth === depth && /^(=|IN)$/i.test(token.text))
    if (sign < 0) return []
    const [left, right] = [condition.slice(0, sign), condition.slice(sign + 1)]
    if (/^IN$/i.test(condition[sign]!.text)) {
      const column = columnOf(left, own)
      const values = split(bare(right), ',').map((each) => constant(each, binds))
      return column !== undefined && values.every((each) => each !== undefined)
        ? [{ column, values: values.map(({ value }) => value) }]
        : []
    }
    const column = columnOf(left, own) ?? columnOf(right, own)
    const known = constant(right, binds) ?? constant(left, binds)
    return column !== undefined && known ? [{ column, values: [known.value] }] : []
  })
}

/** The name of the column, if the tokens are only a column reference. */
function columnOf(tokens: Tokens, own: readonly string[]): string | undefined {
  const { name, next } = nameAt(tokens, 0)
  const qualifier = tokens.length > 1 ? nameOf(tokens.at(-3)?.text ?? '') : own[0]!
  return next === tokens.length && isName(tokens.at(-1)) && own.includes(qualifier) ? name : undefined
}

/** The value of a literal, a bind, or a cast of one. */
function constant(tokens: Tokens, binds: readonly unknown[]): { readonly value: unknown } | undefined {
  const all = bare(tokens)
  const [first, second] = all
  if (!first) return undefined
  const cast = all.findIndex(({ text, depth }) => depth === first.depth && text === '::')
  if (cast > 0) return constant(all.slice(0, cast), binds)
  if (/^CAST$/i.test(first.text) && second?.text === '(' && inside(all, 1).length === all.length - 3) {
    const casting = inside(all, 1)
    const as = casting.findIndex(({ text, depth }) => depth === first.depth + 1 && /^AS$/i.test(text))
    return constant(casting.slice(0, as), binds)
  }
  if (first.text === '-' && all.length === 2 && /^\d/.test(second!.text)) return { value: `-${second!.text}` }
  if (/^_\w+$/.test(first.text) && all.length === 2 && second!.literal !== undefined) return constant([second!], binds)
  if (all.length > 1) return undefined
  if (first.bind !== undefined) return { value: binds[first.bind] }
  if (first.literal !== undefined) return { value: first.literal }
  if (/^\d/.test(first.text)) return { value: first.text }
  if (/^(TRUE|FALSE)$/i.test(first.text)) return { value: /^TRUE$/i.test(first.text) }
  return /^NULL$/i.test(first.text) ? { value: null } : undefined
}

/** Whether the database computes a value from stored values; false if the caller sends the value. */
export function isComputed(value: Tokens, clauses: Clauses, columns: readonly string[], written: string): boolean {
  const branches = branchesOf(bare(value), written)
  if (branches) return branches.every((each) => isComputed(each, clauses, columns, written))
  const { own, inserted, hasData } = clauses
  const isOneOf = (names: readonly string[], name: string): boolean => names.some((each) => each.toLowerCase() === name)
  // VALUES(column) in MySQL: the value that the INSERT would have written.
  const given = new Set(
    value.flatMap(({ text }, index) =>
      /^VALUES?$/i.test(text) && value[index + 1]?.text === '(' ? inside(value, index + 1) : [],
    ),
  )
  return value.some((token, index) => {
    const { text } = token
    if (/^SELECT$/i.test(text)) return true
    const [before, following] = [value[index - 1]?.text ?? '', value[index + 1]?.text]
    // Skip functions and types.
    if (!isName(token) || given.has(token) || following === '.' || following === '(' || /^(::|AS)$/i.test(before))
      return false
    const qualifier = before === '.' ? nameOf(value[index - 2]?.text ?? '').toLowerCase() : undefined
    if (qualifier !== undefined && isOneOf(inserted, qualifier)) return false
    if (qualifier !== undefined && !isOneOf(own, qualifier)) return !hasData
    return isOneOf(columns, nameOf(text).toLowerCase())
  })
}

/** The result expressions of a CASE, as in bulk writes; `undefined` if the CASE reads the written column. */
function branchesOf(value: Tokens, written: string): Tokens[] | undefined {
  const depth = value[0]?.depth
  if (!/^CASE$/i.test(value[0]?.text ?? '') || !/^END$/i.test(value.at(-1)!.text)) return undefined
  const results: Token[][] = []
  let isResult = false
  for (const token of value.slice(1, -1)) {
    const word = token.depth === depth ? token.text.toUpperCase() : ''
    if (word === 'THEN' || word === 'ELSE') results.push([])
    else if (isResult && word !== 'WHEN') results.at(-1)!.push(token)
    else if (nameOf(token.text).toLowerCase() === written.toLowerCase()) return undefined
    isResult = word === 'THEN' || word === 'ELSE' || (isResult && word !== 'WHEN')
  }
  return results
}

/** Functions that give equal results only for equal documents. */
const faithful =
  /^(COALESCE|IFNULL|CAST|CONVERT|JSON_EQUALS|JSON_NORMALIZE|JSON_COMPACT|JSON|JSONB|TO_JSONB?|MD5|SHA1|SHA2|SHA256|HEX|CRC32|DIGEST|ENCODE|BINARY)$/i

/** Whether a condition compares a whole column with its old or new value, or requires that it is NULL. */
export function comparesWhole(condition: Tokens, column: string): boolean {
  const isWritten = ({ text, literal }: Token): boolean =>
    literal === undefined && nameOf(text).toLowerCase() === column.toLowerCase()
  if (!condition.some(isWritten)) return false
  const words = condition.map(({ text }) => text.toUpperCase())
  // This library compares two documents on SQLite with EXCEPT.
  if (words.includes('EXCEPT')) return true
  if (words.some((word) => /^(->>?|#>>?|@>|<@|NOT|OR)$/.test(word))) return false
  const calls = words.filter((word, index) => words[index + 1] === '(' && /^\w/.test(word))
  const literals = condition.flatMap(({ literal }) => literal ?? [])
  const isAboutNull = literals.length > 0 && literals.every((text) => /^null$/i.test(text))
  const others = calls.filter((word) => !faithful.test(word) && !(isAboutNull && /^JSONB?_TYPE(OF)?$/.test(word)))
  const isNull = words.at(-2) === 'IS' && words.at(-1) === 'NULL'
  return others.length === 0 && (isNull || words.some((word) => /^(=|<=>|JSON_EQUALS|DISTINCT)$/.test(word)))
}
