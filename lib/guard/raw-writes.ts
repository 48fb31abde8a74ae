import { fieldOf, tableOf } from '../sequelize/internals.js'
import type { RowModel } from '../sequelize/internals.js'
import { jsonAttributes } from '../sequelize/model-state.js'
import { maskQuotes, setsNumber } from './reasons.js'
import type { Reason } from './reasons.js'

/** A watched column that the text of a statement writes in rows that may exist. */
interface RawWrite {
  readonly model: RowModel
  readonly column: string
  /** `undefined`: the statement computes the column from its stored value. */
  readonly reason: Reason | undefined
}

/** A statement of the application, and what its placeholders stand for. */
interface RawStatement {
  readonly sql: string
  readonly bind: unknown
  readonly replacements: unknown
  readonly inTransaction: boolean
  /** A backslash in a string literal escapes the next character. */
  readonly escapesByBackslash: boolean
}

/** An assignment of a SET clause: the name of the column, and its expression. */
interface Assignment {
  readonly name: string
  readonly expression: string
}

/**
 * The watched columns that a statement writes. Reads as much of the text as is needed to be sure; the rest is
 * `'SQL that was not understood'`.
 * @param columnsOf the watched attributes of a model
 */
export function rawWrites(
  { sql, bind, replacements, inTransaction, escapesByBackslash }: RawStatement,
  models: readonly RowModel[],
  columnsOf: (model: RowModel) => readonly string[],
): RawWrite[] {
  const text = withoutLiterals(sql, escapesByBackslash).replace(/\bFOR\s+(NO\s+KEY\s+)?UPDATE\b/gi, '')
  if (!/\b(UPDATE\s+[\w$]|(REPLACE|MERGE)\s+INTO\b)/i.test(text) || /^\s*(CREATE|ALTER|DROP)\b/i.test(text)) return []
  const names = new Set(text.match(/[\w$]+/g))
  const values = valuesByPlaceholder(bind, replacements)
  const { assignments, condition } = setClauseOf(text)
  return models.flatMap((model) => {
    if (!names.has(tableOf(model).name)) return []
    const keys = new Set([tableOf(model).name, ...model.primaryKeyAttributes.map((name) => fieldOf(model, name))])
    return columnsOf(model).flatMap((column): RawWrite[] => {
      const field = fieldOf(model, column)
      if (!names.has(field)) return []
      const assigned = assignments.find(({ name }) => name.toLowerCase() === field.toLowerCase())
      if (assignments.length > 0 && !assigned) return []
      if (!assigned) return [{ model, column, reason: 'SQL that was not understood' }]
      const { expression } = assigned
      if (startsFrom(tableOf(model).name, field).test(expression)) {
        const isOpen = jsonAttributes(model).has(column) && setsNumber(expression.replace(placeholder, values))
        return [{ model, column, reason: isOpen ? 'number in SQL' : undefined }]
      }
      // Sure only if nothing but the key is compared, and no transaction may hold a lock.
      const isByKey = tokensOf(condition).every((token) => keys.has(token) || keyword.test(token))
      const isSure = /^UPDATE\b/i.test(text.trim()) && isConstant(expression) && isByKey && !inTransaction
      return [{ model, column, reason: isSure ? 'no lock' : 'SQL that was not understood' }]
    })
  })
}

const keyword = /^(and|or|in|is|not|null|between|true|false)$/i
const placeholder = /\$\d+|:\w+/g

/** Matches an expression that changes the stored value of a column: `JSON_SET(progress, …)`, `progress || …`. */
function startsFrom(table: string, field: string): RegExp {
  const [prefix, name] = [table, field].map((each) => each.replaceAll('$', '\\$'))
  return new RegExp(`^[(\\s]*((CAST|COALESCE|IFNULL|jsonb?_\\w+)[(\\s]+)*(${prefix!}\\s*\\.\\s*)?${name!}\\b`, 'i')
}

function isConstant(expression: string): boolean {
  return /^\(*\s*(CAST\s*\(\s*)?(''|\?|\$\d+|:\w+|NULL\b)/i.test(expression)
}

/** The words of a text that are neither numbers nor placeholders. */
function tokensOf(text: string): string[] {
  return (text.replace(placeholder, ' ').match(/[\w$]+/g) ?? []).filter((token) => !/^\d/.test(token))
}

/** The numbers that placeholders stand for, as SQL; other values as an empty literal. */
function valuesByPlaceholder(bind: unknown, replacements: unknown): (name: string) => string {
  return (name) => {
    const index = name.slice(1)
    const given = name.startsWith('$') ? bind : replacements
    const key = Array.isArray(given) ? Number(index) - 1 : index
    const value = (given as Record<string | number, unknown> | null | undefined)?.[key]
    return typeof value === 'number' ? String(value) : "''"
  }
}

/** The text with empty string literals, and without comments and quotes of names. */
function withoutLiterals(sql: string, escapesByBackslash: boolean): string {
  const parts = escapesByBackslash ? /'[^']*'|--[^\n]*|\/\*.*?\*\//gs : /(\$\w*\$).*?\1|'[^']*'|--[^\n]*|\/\*.*?\*\//gs
  const masked = escapesByBackslash ? maskQuotes(sql) : sql
  return masked.replace(parts, (found) => (/^['$]/.test(found) ? "''" : ' ')).replace(/["`[\]]/g, '')
}

/** The assignments of the last SET clause, or of ON DUPLICATE KEY UPDATE, and the condition behind it. */
function setClauseOf(text: string): { readonly assignments: readonly Assignment[]; readonly condition: string } {
  const starts = [...text.matchAll(/\b(SET|ON\s+DUPLICATE\s+KEY\s+UPDATE)\b(?!\s*\()/gi)]
  const start = starts.at(-1)
  if (!start) return { assignments: [], condition: '' }
  const parts: string[] = []
  let part = ''
  let depth = 0
  let end = text.length
  for (let index = start.index + start[0].length; index < text.length; index++) {
    const rest = text.slice(index, index + 10)
    if (depth === 0 && /^(WHERE|RETURNING|FROM|ORDER|LIMIT|;)/i.test(rest) && !/[\w$.]/.test(text[index - 1]!)) {
      end = index
      break
    }
    const char = text[index]!
    depth += char === '(' ? 1 : char === ')' ? -1 : 0
    const isEnd = char === ',' && depth === 0
    if (isEnd) parts.push(part)
    part = isEnd ? '' : part + char
  }
  const assignments = [...parts, part].flatMap((each) => {
    const [, name, expression] = /^\s*(?:[\w$]+\s*\.\s*)*([\w$]+)\s*=(.*)$/s.exec(each) ?? []
    return name === undefined ? [] : [{ name, expression: expression!.trim() }]
  })
  return { assignments, condition: text.slice(end).replace(/^WHERE/i, '') }
}
