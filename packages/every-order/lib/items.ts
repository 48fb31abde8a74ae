import { isSeveral, mainStart, nameOf, tokensOf } from './statement.js'
import type { Token } from './statement.js'

/** The tables that have no trigger, rule or view behind them, by name in lower case. */
export interface PlainTables {
  readonly dialect: 'mysql' | 'postgres'
  readonly byName: ReadonlyMap<string, PlainTable>
}

interface PlainTable {
  /** The same for tables that foreign keys connect. */
  readonly group: string
  /** The column of the primary key, if no other key or reference lets rows depend on each other. */
  readonly key: string | undefined
}

/** What the catalog says of a table. */
export interface TableFacts {
  readonly table: string
  readonly isPlain: number | boolean
  /** The columns of the primary key, with commas. */
  readonly key: string | null
  /** Whether another key or constraint is unique. */
  readonly isUnique: number | boolean
  /** The tables that it refers to, with commas. */
  readonly targets: string | null
}

/** Connects the tables that refer to each other; one that is not plain makes the others unsure. */
export function plainTables(dialect: PlainTables['dialect'], facts: readonly TableFacts[]): PlainTables {
  const groups = new Map(facts.map(({ table }) => [table.toLowerCase(), table.toLowerCase()]))
  const references = facts.flatMap(({ table, targets }) =>
    (targets?.split(',') ?? []).map((target) => [table.toLowerCase(), target.toLowerCase()] as const),
  )
  for (const [table, target] of references) {
    const [from, to] = [groups.get(table)!, groups.get(target) ?? target]
    for (const [name, group] of groups) if (group === to) groups.set(name, from)
    if (!groups.has(target)) groups.set(target, from)
  }
  const unsure = new Set(
    [...groups].flatMap(([name, group]) => {
      const known = facts.filter(({ table }) => table.toLowerCase() === name)
      return known.length === 1 && Number(known[0]!.isPlain) ? [] : [group]
    }),
  )
  const related = new Set(references.flat())
  const plain = facts.filter(({ table }) => !unsure.has(groups.get(table.toLowerCase())!))
  const byName = plain.map(({ table, key, isUnique }): [string, PlainTable] => {
    const name = table.toLowerCase()
    const isAlone = !related.has(name) && !Number(isUnique) && key !== null && !key.includes(',')
    return [name, { group: groups.get(name)!, key: isAlone ? key : undefined }]
  })
  return { dialect, byName: new Map(byName) }
}

/** The words that may precede a parenthesis in a statement that calls no function of the user. */
const known: ReadonlySet<string> = new Set(
  'and or not in on as where from join select exists values using set into over any all some when then else limit conflict by count sum min max avg coalesce ifnull nullif if greatest least lower upper trim length char_length substring replace concat concat_ws cast convert date char varchar decimal numeric now current_timestamp round floor ceil abs mod to_jsonb'.split(
    ' ',
  ),
)

/** The tables that a statement uses, as `table#*`, or one row, as `table#key`; `undefined` if they are not surely known. */
export function itemsOf(sql: string, binds: readonly unknown[], tables: PlainTables): string[] | undefined {
  if (isSeveral(sql) || sql.includes('/*!') || mainStart(sql) > /^\s*/.exec(sql)![0].length) return undefined
  const tokens = tokensOf(sql, tables.dialect === 'mysql' ? 'backslashes' : 'plain')
  const isSure = tokens.every((_token, index) => isSureAt(tokens, index, tables))
  if (!isSure) return undefined
  const used = new Set(tokens.map(({ text }) => nameOf(text).toLowerCase()).filter((name) => tables.byName.has(name)))
  const [name] = used
  if (used.size !== 1) return [...used].map((each) => `${tables.byName.get(each)!.group}#*`)
  const { group, key } = tables.byName.get(name!)!
  return [`${group}#${(key !== undefined && rowNamed(tokens, binds, key)) || '*'}`]
}

/** Whether a word introduces no table, or a known one, and calls no function, or a known one. */
function isSureAt(tokens: readonly Token[], index: number, { byName }: PlainTables): boolean {
  const [before, word, next] = [tokens[index - 1]?.text ?? '', tokens[index]!.text, tokens[index + 1]?.text ?? '']
  const isTable = (text: string): boolean => byName.has(nameOf(text).toLowerCase())
  if (next === '(' && /^[\w"`]/.test(word) && !isTable(word))
    return known.has(word.toLowerCase()) || /^jsonb?_\w+$/i.test(word)
  if (!/^(FROM|JOIN|INTO|UPDATE|TABLE|USING|STRAIGHT_JOIN)$/i.test(word)) return true
  if (/^UPDATE$/i.test(word) && /^(FOR|KEY|DO)$/i.test(before)) return true
  if (next === '(') return /^(SELECT|VALUES)$/i.test(tokens[index + 2]?.text ?? '') || /^USING$/i.test(word)
  if (!isTable(next)) return false
  // A list of tables, a schema, or a text that is not understood.
  const { depth } = tokens[index]!
  const after = tokens.slice(index + 2, index + 5).filter((each) => each.depth === depth && !/^AS$/i.test(each.text))
  return after[0]?.text !== '.' && !after.slice(0, 2).some(({ text }) => text === ',')
}

/** The row that the condition names by its primary key, as text that is equal only for equal keys. */
function rowNamed(tokens: readonly Token[], binds: readonly unknown[], key: string): string | undefined {
  const words = tokens.map(({ text }) => text.toUpperCase())
  const where = words.indexOf('WHERE')
  const ends = ['RETURNING', 'LIMIT', 'FOR', 'LOCK', 'ORDER', 'GROUP', ';']
  const end = words.findIndex((word, index) => index > where && ends.includes(word))
  const conditions = tokens.slice(where + 1, end < 0 ? undefined : end)
  const isKey = (token: Token | undefined): boolean => nameOf(token?.text ?? '').toLowerCase() === key.toLowerCase()
  const isChanged = tokens
    .slice(0, where)
    .some((token, index) => isKey(token) && words[0] === 'UPDATE' && tokens[index + 1]!.text === '=')
  const isOther = !/^(SELECT|UPDATE|DELETE)$/.test(words[0]!) || words.lastIndexOf('SELECT') > 0 || where < 0
  const isNoList = conditions.some(({ text }) => /^(OR|XOR|\|\||NOT|CASE|BETWEEN|UNION)$/i.test(text))
  const isJoin = words.some((word) => /^(JOIN|STRAIGHT_JOIN|USING)$/.test(word))
  if (isOther || isNoList || isJoin || isChanged) return undefined
  const isOuter = (each: readonly Token[]): boolean => {
    const [name, equals, value] = each.length === 5 && each[1]!.text === '.' ? each.slice(2) : each
    return isKey(name) && equals?.text === '=' && value !== undefined && (each.length === 3 || each.length === 5)
  }
  const one = split(conditions).find(isOuter)?.at(-1)
  return one && canonical(one.bind === undefined ? (one.literal ?? one.text) : binds[one.bind])
}

/** The conditions that AND connects, without parentheses around them. */
function split(tokens: readonly Token[]): Token[][] {
  const parts: Token[][] = [[]]
  for (const token of tokens) {
    const isParenthesis = token.text === '(' || token.text === ')'
    if (/^AND$/i.test(token.text)) parts.push([])
    else if (!isParenthesis || parts.at(-1)!.some(({ text }) => text === '=')) parts.at(-1)!.push(token)
  }
  return parts.map((part) => part.filter((token, index) => token.text !== ')' || index < part.length - 1))
}

/** An integer or a UUID: only for these is a different text surely a different key. */
function canonical(value: unknown): string | undefined {
  const text = String(value).toLowerCase()
  return /^(0|-?[1-9]\d{0,17}|[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12})$/.test(text) ? text : undefined
}
