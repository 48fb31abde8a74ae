/** The SQL of one database that ends a transaction: explicitly, or by an implicit commit. */
export interface TransactionControl {
  /** How its statements begin, as a regular expression. */
  readonly starts: string
  /** The database is MySQL or MariaDB: `\` escapes in strings, `#` starts a comment, and `/*! … *\/` is executed. */
  readonly isMysql: boolean
}

const explicit = 'COMMIT|START\\s+TRANSACTION|PREPARE\\s+TRANSACTION|ROLLBACK(?!\\s+(?:(?:WORK|TRANSACTION)\\s+)?TO\\b)'

/** `END` and `BEGIN` later in a text belong to a compound statement, such as the body of a trigger. */
const onlyFirst = 'END|ABORT|BEGIN(?!\\s+NOT\\s+ATOMIC)'

/** Makes the test of whether SQL ends the transaction that it is sent in. */
export function endsTransactionBySql({ starts, isMysql }: TransactionControl): (sql: string) => boolean {
  const all = [explicit, starts].filter(Boolean).join('|')
  const startsAny = new RegExp(`^\\s*(?:${all})\\b`, 'i')
  const startsFirst = new RegExp(`^\\s*(?:${all}|${onlyFirst})\\b`, 'i')
  // Cheap tests, which almost every statement ends with.
  const startsUnclear = new RegExp(`^\\s*(?:[-/#;]|${all}|${onlyFirst})`, 'i')
  const mentionsAny = /\b(?:COMMIT|ROLLBACK|TRANSACTION)\b/i
  return (sql) => {
    const hasOthers = sql.includes(';') && (isMysql || mentionsAny.test(sql))
    if (!hasOthers && !startsUnclear.test(sql)) return false
    const [first, ...others] = statementsIn(sql, isMysql)
    return first !== undefined && (startsFirst.test(first) || others.some((each) => startsAny.test(each)))
  }
}

/** The statements of a text, without comments, and with '' for every string and quoted name. */
function statementsIn(sql: string, isMysql: boolean): string[] {
  const plain = /[^'"`$#;/*-]+/y
  const dollar = /\$\w*\$/y
  const executed = /\/\*M?!\d*/y
  const statements: string[] = []
  let statement = ''
  const end = (): void => {
    if (statement.trim() !== '') statements.push(statement)
    statement = ''
  }
  const after = (index: number, length: number): number => (index < 0 ? sql.length : index + length)
  const match = (pattern: RegExp, at: number): string | undefined => {
    pattern.lastIndex = at
    return pattern.exec(sql)?.[0]
  }
  for (let at = 0; at < sql.length;) {
    const text = match(plain, at)
    const character = sql[at]!
    const pair = sql.slice(at, at + 2)
    const tag = isMysql ? undefined : match(dollar, at)
    const marker = isMysql ? match(executed, at) : undefined
    if (text !== undefined) {
      statement += text
      at += text.length
    } else if (`'"\``.includes(character)) {
      const hasEscapes = character !== '`' && (isMysql || /\bE$/i.test(statement))
      at = endOfQuoted(sql, at, hasEscapes)
      statement += `''`
    } else if (tag !== undefined) {
      at = after(sql.indexOf(tag, at + tag.length), tag.length)
      statement += `''`
    } else if (pair === '--' || (isMysql && character === '#')) at = after(sql.indexOf('\n', at), 0)
    else if (marker !== undefined) at += marker.length
    else if (pair === '/*') {
      at = after(sql.indexOf('*/', at + 2), 2)
      statement += ' '
    } else if (pair === '*/') at += 2
    else {
      if (character === ';') end()
      else statement += character
      at++
    }
  }
  end()
  return statements
}

/** The place after the quoted text that begins at `at`; a doubled quote does not end it. */
function endOfQuoted(sql: string, at: number, hasEscapes: boolean): number {
  const quote = sql[at]!
  let close = sql.indexOf(quote, at + 1)
  while (close >= 0) {
    if (hasEscapes && isEscaped(sql, close)) close = sql.indexOf(quote, close + 1)
    else if (sql[close + 1] === quote) close = sql.indexOf(quote, close + 2)
    else return close + 1
  }
  return sql.length
}

function isEscaped(sql: string, at: number): boolean {
  let backslashes = 0
  while (sql[at - 1 - backslashes] === '\\') backslashes++
  return backslashes % 2 === 1
}
