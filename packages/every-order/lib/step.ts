import type { Fault } from './faults.js'
import type { Table } from './gate.js'
import { conditions, isSeveral, nameOf, tableOf, tablesBeside, tablesWritten } from './statement.js'
import type { Kind } from './statement.js'

/** One statement of a schedule. */
export interface Step {
  /** Its position in the order of released statements, from 1. */
  readonly number: number
  readonly participant: string
  readonly sql: string
  readonly binds: readonly unknown[]
  readonly kind: Kind
  /** The number of the last statement that was released before the result of this one. */
  readonly answeredAfter: number
  /** The participants whose locks it waited for. */
  readonly waitedFor: readonly string[]
  /** The number of the statement that began its transaction; `undefined` outside of one. */
  readonly transaction: number | undefined
  /** The number of rows that a write changed, if the driver reports it. MySQL does not count a row that stays the same. */
  readonly affected: number | undefined
  /** A copy of the rows that a read returned. */
  readonly rows: readonly Readonly<Record<string, unknown>>[]
  readonly error: string | undefined
  /** What happened to its connection, in an order with a fault. */
  readonly fault?: Fault | undefined
  /** The rows that it read or wrote, as `table#key`; `table#*` if they are unknown. */
  readonly touched: readonly string[]
}

/** A copy of rows: the code under test may change what it has read. */
export function copyOf(rows: readonly unknown[]): Record<string, unknown>[] {
  const text = JSON.stringify(rows, (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value))
  return (JSON.parse(text) as unknown[]).filter((row) => typeof row === 'object' && row !== null) as Record<
    string,
    unknown
  >[]
}

/**
 * The number of rows that a write changed: alone or at the end of an array, as Sequelize answers, or in an object of the driver,
 * which mysql2 puts first.
 */
export function affectedBy(answer: unknown): number | undefined {
  const parts: readonly unknown[] = Array.isArray(answer) ? [answer.at(-1), answer[0]] : [answer]
  if (typeof parts[0] === 'number') return parts[0]
  for (const part of parts) {
    const { affectedRows, rowCount = affectedRows } = (part ?? {}) as { affectedRows?: unknown; rowCount?: unknown }
    if (typeof rowCount === 'number') return rowCount
  }
  return undefined
}

/** The rows that a statement read or wrote, as far as its SQL and its result show. */
export function touchedBy({ sql, binds, kind, rows }: Step, of: Table | undefined): string[] {
  const table = tableOf(sql)
  const within = tablesWritten(sql).filter((each) => isSeveral(sql) || each !== table)
  // Of these tables the conditions are not read.
  if (within.length > 0) return within.map((each) => `${nameOf(each)}#*`)
  const isNewRow = /^INSERT\b(?!.*\bON (CONFLICT|DUPLICATE)\b)/is.test(sql)
  const beside = tablesBeside(sql).map((each) => `${each}#*`)
  if (table === undefined || isNewRow) return beside
  const name = nameOf(table)
  const keys = of?.keys ?? []
  if (kind !== 'write') {
    const isKnown = keys.length > 0 && rows.every((row) => keys.every(({ attribute }) => attribute in row))
    return isKnown
      ? [...rows.map((row) => `${name}#${keys.map(({ attribute }) => String(row[attribute])).join('#')}`), ...beside]
      : [`${name}#*`, ...beside]
  }
  const given = conditions(sql, binds)
  const values = keys.map(
    ({ field }) => given.find(({ column, value }) => column === field && value !== undefined)?.value,
  )
  const isOne = keys.length > 0 && values.every((value) => value !== undefined)
  return [`${name}#${isOne ? values.map(String).join('#') : '*'}`, ...beside]
}

/** Whether two participants used the same row and one of them wrote to it, or one waited for the other. */
export function shareRow(steps: readonly Step[]): boolean {
  const writes = steps.filter(({ kind }) => kind === 'write')
  return steps.some(
    ({ participant, touched, waitedFor }) =>
      waitedFor.some((name) => name !== participant) ||
      writes.some(
        (write) =>
          write.participant !== participant &&
          touched.some((row) => write.touched.some((their) => isSameRow(row, their))),
      ),
  )
}

/** Whether two items, as `table#key`, may be the same row. */
export function isSameRow(one: string, other: string): boolean {
  const [[table, key], [theirs, itsKey]] = [one.split(/#(.*)/s), other.split(/#(.*)/s)]
  return table === theirs && (key === itsKey || key === '*' || itsKey === '*')
}
