import { isDeepStrictEqual, types } from 'node:util'
import { tookEffect } from './faults.js'
import { assignments, conditions, endsTransaction, insertions, kindOf, nameOf, partsOf, tableOf } from './statement.js'
import type { Assignment, Part } from './statement.js'
import { isSameRow } from './step.js'
import type { Step } from './step.js'

/** How one statement depends on an earlier one of another participant, after Adya. */
export interface Dependency {
  /**
   * `ww`: `to` overwrote what `from` had written. `wr`: `to` read what `from` had written. `rw`: `to` changed what `from` had
   * read. `waits`: `from` waits for the lock that `to` took.
   */
  readonly kind: 'ww' | 'wr' | 'rw' | 'waits'
  readonly from: Step
  readonly to: Step
  /** The row that they share, as `table#key`; `table#*` if it is not known which. */
  readonly item: string
}

/** What one statement did, as far as its text and its result show. */
export interface Access {
  readonly step: Step
  /** Its text: that of the step, or one of several statements in it. */
  readonly sql: string
  /** The number of rows that it changed, if that is known. */
  readonly affected: number | undefined
  /** Its place in the order: a statement that waited took effect when its wait ended. */
  readonly at: number
  readonly table: string
  readonly verb: 'select' | 'insert' | 'update' | 'delete'
  /** The equalities of its condition. */
  readonly where: readonly Assignment[]
  /** What an UPDATE sets. */
  readonly sets: readonly Assignment[]
  /** The rows of an INSERT. */
  readonly rows: readonly (readonly Assignment[])[]
  /** When its transaction was committed; `Infinity` if it was not. */
  readonly committedAt: number
}

/** A dependency with what its statements did. */
export interface Edge extends Dependency {
  readonly source: Access
  readonly target: Access
  /** A `wr` of a value that was not committed. */
  readonly isDirty: boolean
}

/** The statements that read or wrote a table, in the order in which they took effect. */
export function accessesOf(steps: readonly Step[]): Access[] {
  const isAccess = ({ kind }: Pick<Step, 'kind'>): boolean => /^(read|lock|write)$/.test(kind)
  const done = steps.filter((step) => tookEffect(step) && isAccess(step))
  const all = done.flatMap((step) => {
    const parts = partsOf(step.sql, step.binds)
    if (parts.length < 2) return [accessOf(step, steps, step)]
    // The driver reports the number of rows for some of them only.
    const all = parts.map((part) => ({ ...part, kind: kindOf(part.sql), affected: undefined }))
    return all.filter(isAccess).map((part) => accessOf(step, steps, part))
  })
  return all.sort((one, other) => one.at - other.at)
}

function accessOf(step: Step, steps: readonly Step[], part: Part & Pick<Step, 'kind' | 'affected'>): Access {
  const { sql, binds, kind, affected } = part
  const isInsert = kind === 'write' && insertions(sql, binds).length > 0
  const verb = kind !== 'write' ? 'select' : isInsert ? 'insert' : /^\s*DELETE\b/i.test(sql) ? 'delete' : 'update'
  return {
    step,
    sql,
    affected,
    at: placeOf(step),
    table: nameOf(tableOf(sql) ?? ''),
    verb,
    where: verb === 'insert' ? [] : conditions(sql, binds).filter((each) => 'value' in each),
    sets: assignments(sql, binds),
    rows: insertions(sql, binds),
    committedAt: committedAt(step, steps),
  }
}

function placeOf({ number, waitedFor, answeredAfter }: Step): number {
  return waitedFor.length > 0 ? answeredAfter + 0.5 : number
}

function committedAt(step: Step, steps: readonly Step[]): number {
  if (step.transaction === undefined) return placeOf(step)
  const end = steps.find(
    ({ transaction, sql, number }) => transaction === step.transaction && number > step.number && endsTransaction(sql),
  )
  return end && tookEffect(end) && /^COMMIT/i.test(end.sql) ? placeOf(end) : Infinity
}

/** Every dependency between statements of different participants that the record of an order proves. */
export function dependenciesOf(steps: readonly Step[]): Edge[] {
  const all = accessesOf(steps)
  const writes = all.filter(({ verb, affected }) => verb !== 'select' && affected !== 0)
  return writes.flatMap((write) =>
    all.flatMap((other): Edge[] => {
      if (other.step.participant === write.step.participant || !mayShare(other, write)) return []
      if (other.verb === 'select' || missesItsRow(other, write)) return readEdge(other, write, writes)
      const isOverwritten = write.at < other.at && write.committedAt <= other.at && overwrites(other, write)
      return isOverwritten ? [edge('ww', write, other, write)] : []
    }),
  )
}

/** Whether two participants depend on each other: by a row, by a condition that a write changes, or by a unique key. */
export function dependOnEachOther(steps: readonly Step[]): boolean {
  const all = accessesOf(steps)
  return (
    dependenciesOf(steps).length > 0 ||
    all.some((access) => all.some((write) => mayEnd(access, write))) ||
    steps.some((step) => insertRefusing(step, steps) !== undefined)
  )
}

/** Whether a row may have met the condition of a statement until another participant changed it: `status = 'new'` of a queue. */
function mayEnd({ step, table, where, verb }: Access, write: Access): boolean {
  const isOther = write.step.participant !== step.participant && write.table === table && write.step.affected !== 0
  return isOther && verb !== 'insert' && changesCondition(write, where) && !isApart(where, write)
}

/** The insert of another participant that took the unique key of a statement. */
export function insertRefusing(failed: Step, steps: readonly Step[]): Step | undefined {
  const { error, participant, sql, number } = failed
  if (error === undefined || !/duplicate (entry|key)|unique constraint|validation error/i.test(error)) return undefined
  return steps.find(
    (each) =>
      each.kind === 'write' &&
      each.error === undefined &&
      each.number < number &&
      each.participant !== participant &&
      tableOf(each.sql) === tableOf(sql),
  )
}

/** Whether a write changed no row, since an earlier write had changed what its condition compares. */
function missesItsRow({ affected, where }: Access, write: Access): boolean {
  return affected === 0 && changesCondition(write, where)
}

/** Whether a write made a condition false that was true before. */
export function changesCondition({ verb, sets }: Access, where: Access['where']): boolean {
  return (
    verb === 'delete' ||
    where.some(({ column, value }) => {
      const set = sets.find((each) => each.column === column)
      return set !== undefined && !isEqual(set.value, value)
    })
  )
}

function readEdge(read: Access, write: Access, writes: readonly Access[]): Edge[] {
  const isSeen = saw(read, write, writes)
  if (isSeen === true) return [edge('wr', write, read, write)]
  return isSeen === false && write.committedAt < Infinity ? [edge('rw', read, write, write)] : []
}

function edge(kind: Edge['kind'], source: Access, target: Access, write: Access): Edge {
  const item = write.step.touched.find((each) => tableIn(each) === write.table) ?? `${write.table}#*`
  const isDirty = kind === 'wr' && source.committedAt > target.at
  return { kind, from: source.step, to: target.step, item, source, target, isDirty }
}

/** Whether a write changed columns that an earlier write had set. */
function overwrites(later: Access, earlier: Access): boolean {
  if (later.verb === 'insert' || earlier.verb !== 'update') return false
  return later.verb === 'delete' || earlier.sets.some(({ column }) => setOf(later, column) !== undefined)
}

export function setOf({ sets }: Access, column: string): Assignment | undefined {
  return sets.find((each) => each.column === column && !isTime(each.value))
}

/** Whether a statement may have read or written a row that a write changed, and one of its columns. */
export function mayShare(access: Access, write: Access): boolean {
  if (!mentions(access.sql, write.table)) return false
  const { touched, rows } = access.step
  if (write.verb === 'insert') {
    if (access.verb === 'insert') return false
    const isKnown = touched.length > 0 && touched.every((row) => !row.endsWith('#*'))
    const isLookup = isKnown && (rows.length > 0 || access.verb !== 'select')
    return write.rows.some((row) =>
      access.where.every(({ column, value }) => {
        const given = row.find((each) => each.column === column && 'value' in each)
        return given ? isEqual(given.value, value) : !isLookup
      }),
    )
  }
  const isKnownRow = touched.some((row) => write.step.touched.some((their) => isSameRow(row, their)))
  const isNowMet = write.sets.some(({ column, value }) =>
    access.where.some((each) => each.column === column && isEqual(each.value, value)),
  )
  if (!isKnownRow && !isNowMet && touched.length > 0) return false
  return (
    !isApart(access.where, write) && (write.verb === 'delete' || access.verb === 'delete' || usesColumn(access, write))
  )
}

/** Whether the condition of a write excludes the rows of another condition. */
function isApart(where: Access['where'], write: Access): boolean {
  return where.some(
    (one) =>
      setOf(write, one.column) === undefined &&
      write.where.some((other) => other.column === one.column && !isEqual(other.value, one.value)),
  )
}

function usesColumn({ sql, verb }: Access, { sets }: Access): boolean {
  const isWhole = verb === 'select' && /(?<!\(\s*)\*/.test(sql)
  // A time that a condition compares is no mere record: `deletedAt IS NULL`.
  const [, condition = ''] = /\bWHERE\b(.*)/is.exec(sql) ?? []
  return sets.some(({ column, value }) =>
    isTime(value) ? mentions(condition, column) : isWhole || mentions(sql, column),
  )
}

function mentions(sql: string, name: string): boolean {
  return new RegExp(`(?<!\\w)${name.replace(/[^\w]/g, '\\$&')}(?!\\w)`, 'i').test(sql)
}

const locking = /\bFOR\s+(UPDATE|SHARE|NO KEY|KEY)\b|\bLOCK IN SHARE MODE\b/i

/** Whether a read returned what a write wrote; `undefined` if its record does not show that. */
function saw(read: Access, write: Access, writes: readonly Access[]): boolean | undefined {
  if (read.at < write.at) return false
  const isCommitted = write.committedAt <= read.at
  const shown = shows(read, write, writes)
  if (shown === true) return isCommitted || isNew(write, read, writes) ? true : undefined
  if (shown === false) return false
  if (!isCommitted) return write.committedAt < Infinity ? false : undefined
  const hasSnapshot = read.verb === 'select' && !locking.test(read.sql)
  const snapshot = hasSnapshot ? (read.step.transaction ?? read.at) : read.at
  return write.committedAt <= snapshot ? true : undefined
}

/** Whether a read shows an older state than that of a write that was committed before it. */
export function isStale(read: Access, write: Access): boolean {
  return shows(read, write, []) === false
}

/** Whether the rows of a read have the values of a write; `undefined` if these cannot be compared. */
function shows({ step: { rows, touched }, at }: Access, write: Access, writes: readonly Access[]): boolean | undefined {
  if (write.verb === 'insert') {
    const columns = new Set(write.rows.flatMap((row) => row.map(({ column }) => column)))
    if (rows.length > 0 && !rows.some((row) => Object.keys(row).some((column) => columns.has(column)))) return undefined
    return write.rows.some((values) => rows.some((row) => hasValues(row, values) === true))
  }
  const index = touched.findIndex((each) => !each.endsWith('#*') && write.step.touched.includes(each))
  if (write.verb === 'delete') return index >= 0 ? false : undefined
  const shown = rows[index] ?? (rows.length === 1 && touched.some((each) => each.endsWith('#*')) ? rows[0] : undefined)
  const has = shown && hasValues(shown, write.sets)
  const isOverwritten = writes.some((each) => each.at > write.at && each.at < at && overwrites(each, write))
  return has === false && isOverwritten ? undefined : has
}

/** Whether a row has all of these values, or none of them. */
function hasValues(row: Readonly<Record<string, unknown>>, values: readonly Assignment[]): boolean | undefined {
  const known = values.filter((each) => 'value' in each && each.column in row && !isTime(each.value))
  const same = known.filter(({ column, value }) => isEqual(row[column], value))
  if (known.length === 0 || (same.length > 0 && same.length < known.length)) return undefined
  return same.length > 0
}

/** Whether a read cannot have found the value of an update but by reading that update. */
function isNew(write: Access, read: Access, writes: readonly Access[]): boolean {
  const values = write.sets.filter((each) => 'value' in each && !isTime(each.value))
  return !writes.some(
    (each) =>
      each !== write &&
      each.at < read.at &&
      values.some(({ column, value }) => isEqual(setOf(each, column)?.value, value)),
  )
}

/** Whether two values are the same to a database: numbers and booleans as text or not, documents parsed or not. */
export function isEqual(one: unknown, other: unknown): boolean {
  return isDeepStrictEqual(plain(one), plain(other))
}

function plain(value: unknown): unknown {
  if (typeof value === 'boolean') return String(Number(value))
  if (typeof value === 'number' || typeof value === 'bigint') return String(value)
  const document = documentOf(value)
  return document === undefined ? value : (JSON.parse(JSON.stringify(document)) as unknown)
}

/** The object or array that a value is, or that its JSON text stands for. */
export function documentOf(value: unknown): object | undefined {
  try {
    const document: unknown = typeof value === 'string' ? JSON.parse(value) : value
    return typeof document === 'object' && document !== null ? document : undefined
  } catch {
    return undefined
  }
}

/** Whether a value is a time, which a statement may write only to keep a record of its own. */
export function isTime(value: unknown): boolean {
  return types.isDate(value) || (typeof value === 'string' && /^\d{4}-\d\d-\d\d[ T]\d\d:/.test(value))
}

/** What a failure is called in the literature on isolation levels. */
export type AnomalyName =
  | 'lost update'
  | 'check-then-act'
  | 'write skew'
  | 'read skew'
  | 'non-repeatable read'
  | 'phantom'
  | 'intermediate read'
  | 'dirty read'
  | 'write cycle'
  | 'double insert'
  | 'partial write'
  | 'double write'
  | 'lost write'
  | 'deadlock'
  | 'self-deadlock'
  | 'serialization failure'
  | 'livelock'
  | 'unnamed'

/** The name of a failure, as far as the record of its statements proves it. */
export interface Anomaly {
  /** `unnamed`: the statements, their rows and their numbers of rows do not prove one of the names. */
  readonly name: AnomalyName
  /** The dependencies that form a circle: no serial order of the participants has all of them. Empty if none was found. */
  readonly cycle: readonly Dependency[]
  /** The cycle in a sentence, with the numbers of the statements. */
  readonly sentence: string
  /** What prevents it; empty for `unnamed`. */
  readonly remedy: string
}

/** The table of an item. */
export function tableIn(item: string): string {
  return item.slice(0, item.indexOf('#'))
}

/** An item in words: `row 1 of accounts`. */
export function rowOf(item: string): string {
  const key = item.slice(item.indexOf('#') + 1)
  return key === '*' ? tableIn(item) : `row ${key.replaceAll('#', ', ')} of ${tableIn(item)}`
}
