import { Model, Sequelize } from 'sequelize'
import type { ModelStatic } from 'sequelize'
import { firstUserFrame } from '../call-site.js'
import { callSite, jsonColumns, noteCallers } from './callers.js'
import { clausesOf, comparesWhole, isComputed } from './clauses.js'
import type { Clauses } from './clauses.js'
import { usage } from './errors.js'
import { findingOf, reportText } from './findings.js'
import type { Finding, Reason } from './findings.js'
import { gated, installGate } from './gate.js'
import type { Passing } from './gate.js'
import { bindList, endsTransaction, nameOf, tableOf } from './statement.js'
import type { Literals } from './statement.js'

export interface AuditOptions {
  /** Matches files that may write whole columns, such as fixtures: calls in them are not reported. Default: none. */
  readonly ignore?: RegExp
}

/** The result of an audit. */
export interface AuditReport<R = undefined> {
  /** `covered`: every write was safe. `uncovered`: there are findings. `unknown`: no write was seen. */
  readonly verdict: 'covered' | 'uncovered' | 'unknown'
  readonly findings: readonly Finding[]
  /** The number of statements that wrote to a JSON column of rows that may have existed before. */
  readonly writes: number
  /** The number of unprotected writes that are allowed: by an option of the call, or by {@link AuditOptions.ignore}. */
  readonly meant: number
  /** What the function returned. */
  readonly result: R
}

/** An audit that runs until `stop()` is called. */
export interface RunningAudit {
  readonly stop: () => AuditReport
}

/**
 * Runs `fn`, and reports every unprotected UPDATE of a whole JSON column: no earlier locking read of that row and
 * column in its transaction, no version in its condition, no atomic expression. The audit inspects statements and
 * changes none: every test that uses this Sequelize instance can run inside it unchanged.
 *
 * Without `fn`, starts the audit and returns `stop`, for the hooks of a test runner: one before all tests, and one
 * after all tests.
 *
 * A write of a constant is reported too, because SQL does not show whether it is a reset or a stale copy; allow a reset
 * with the option `{ wholeColumnWrites: 'allow' }`. If `fn` throws, rethrows the error and prints the findings with
 * `console.warn`. Not detected: which of two reads a value comes from, if only one of them was locked; statements of
 * other processes; triggers and stored procedures; an isolation level that is set on the server.
 *
 * @throws {UsageError} before any SQL: an option is wrong, or another audit runs on this instance
 * @example
 *     const report = await audit(sequelize, () => finishStep(run.id, 'step_a'))
 *     assertCovered(report)
 * @example
 *     const running = audit(sequelize) // before all tests
 *     assertCovered(running.stop()) // after all tests
 */
export function audit(sequelize: Sequelize, options?: AuditOptions): RunningAudit
export function audit<R>(sequelize: Sequelize, fn: () => R, options?: AuditOptions): Promise<AuditReport<Awaited<R>>>
export function audit<R>(
  sequelize: Sequelize,
  ...words: [first?: AuditOptions | (() => R), options?: AuditOptions]
): RunningAudit | Promise<AuditReport<Awaited<R>>> {
  const [first, options] = words
  if (typeof first === 'function') return through(sequelize, first, options)
  if (words.length > 0 && (typeof first !== 'object' || first === null)) throw usage.audited(first)
  const running = begin(sequelize, first)
  return { stop: () => running.stop(undefined) }
}

async function through<R>(sequelize: Sequelize, fn: () => R, options?: AuditOptions): Promise<AuditReport<Awaited<R>>> {
  const running = begin(sequelize, options)
  try {
    return running.stop(await fn())
  } catch (error) {
    const report = running.stop(undefined)
    // A lost update may be the reason why fn failed.
    if (report.findings.length > 0) console.warn(reportText(report))
    throw error
  }
}

/** @throws {UsageError} an option is wrong, or the instance has a gate already */
function begin(sequelize: Sequelize, options: AuditOptions = {}): Audit {
  if (!(sequelize instanceof Sequelize)) throw usage.sequelize()
  const { ignore, ...others } = options
  const [unknown] = Object.keys(others)
  if (unknown !== undefined) throw usage.unknownOption(unknown)
  if (ignore !== undefined && !(ignore instanceof RegExp)) throw usage.ignore(ignore)
  if (gated.has(sequelize)) throw usage.gated()
  return new Audit(sequelize, ignore)
}

/** The guarantee of a plain read in a transaction: like a lock, the latest committed state, or an older snapshot. */
type PlainRead = 'locked' | 'fresh' | 'snapshot'

/** The differences between databases. */
interface Database {
  readonly literals: Literals
  readonly plainRead: (level: string | undefined) => PlainRead
  /** A locking clause also locks the rows of a subquery. */
  readonly locksDerived: boolean
  /** ROLLBACK TO a savepoint releases the locks that were taken since. */
  readonly unlocksBySavepoint: boolean
}

const innodb: Database = {
  literals: 'backslashes',
  plainRead: (level = 'REPEATABLE READ') =>
    level === 'SERIALIZABLE' ? 'locked' : level === 'REPEATABLE READ' ? 'snapshot' : 'fresh',
  locksDerived: false,
  unlocksBySavepoint: false,
}

const databases: Readonly<Record<string, Database>> = {
  mysql: innodb,
  mariadb: innodb,
  postgres: {
    literals: 'plain',
    // From REPEATABLE READ on, it refuses to overwrite a row that is newer than the snapshot.
    plainRead: (level = 'READ COMMITTED') => (/^READ/.test(level) ? 'fresh' : 'locked'),
    locksDerived: true,
    unlocksBySavepoint: true,
  },
  // No other session can write between a read and a write of one transaction.
  sqlite: { literals: 'plain', plainRead: () => 'locked', locksDerived: true, unlocksBySavepoint: true },
}

/** The known column values of a row, by column name in lower case. */
type Values = Map<string, unknown>

/** A row that a transaction has locked. */
interface LockedRow {
  readonly table: string
  readonly values: Values
  /** The JSON columns that were read under the lock, or written. */
  readonly columns: Set<string>
  /** The JSON columns that were read again from a snapshot older than the lock. */
  readonly old: Set<string>
  /** The lock is newer than the snapshot of its transaction. */
  readonly isAfterSnapshot: boolean
}

/** The locked rows, the savepoints and the snapshot of a transaction. */
interface Held {
  rows: LockedRow[]
  readonly savepoints: { readonly name: string; readonly count: number }[]
  hasSnapshot: boolean
}

/** A row in the result of a statement. */
interface AnsweredRow {
  readonly table: string
  readonly row: Readonly<Record<string, unknown>>
  /** Its alias in the statement; `undefined` for a row of the first table. */
  readonly alias: string | undefined
  /** The row is an instance of a model, not a raw row. */
  readonly isBuilt: boolean
}

/** A JSON column that a statement writes. */
interface Written {
  readonly model: ModelStatic<Model>
  readonly attribute: string
  readonly field: string
  readonly isWhole: boolean
}

/** The maximum number of remembered locks, which explain findings by a lock elsewhere; bounds the memory. */
const maxElsewhere = 1000

/** One audit of one Sequelize instance. */
class Audit {
  readonly #sequelize: Sequelize
  readonly #ignore: RegExp | undefined
  readonly #database: Database
  readonly #end: () => void
  readonly #findings = new Map<string, Finding>()
  readonly #held = new WeakMap<object, Held>()
  readonly #levels = new WeakMap<object, string>()
  /** For each document that was read: the transaction that has protected it since; `undefined` if there is none. */
  readonly #documents = new WeakMap<object, Held | undefined>()
  readonly #elsewhere: { readonly row: LockedRow; readonly held: Held | undefined }[] = []
  /** Cache: the models of each table. */
  #tables = { count: 0, byName: new Map<string, ModelStatic<Model>[]>() }
  #writes = 0
  #meant = 0

  constructor(sequelize: Sequelize, ignore: RegExp | undefined) {
    this.#sequelize = sequelize
    this.#ignore = ignore
    this.#database = databases[sequelize.getDialect()]!
    const endCallers = noteCallers(sequelize)
    const uninstall = installGate(sequelize, (passing) => this.#pass(passing))
    gated.add(sequelize)
    this.#end = () => {
      uninstall()
      endCallers()
      gated.delete(sequelize)
    }
  }

  stop<R>(result: R): AuditReport<R> {
    this.#end()
    const findings = Object.freeze([...this.#findings.values()].map((each) => Object.freeze(each)))
    const verdict = findings.length > 0 ? 'uncovered' : this.#writes > this.#meant ? 'covered' : 'unknown'
    return Object.freeze({ verdict, findings, writes: this.#writes, meant: this.#meant, result })
  }

  async #pass(passing: Passing): Promise<unknown> {
    const { connection, options } = passing
    const sql = passing.sql.replace(/^(\s|\/\*.*?\*\/|--[^\n]*\n)+/s, '')
    if (/^SELECT\b/i.test(sql) && !/;\s*(UPDATE|INSERT|REPLACE)\b/i.test(sql)) return this.#passRead(sql, passing)
    if (/^(SELECT|UPDATE|INSERT|REPLACE|WITH)\b/i.test(sql)) return this.#passWrite(sql, passing)
    if (endsTransaction(sql)) {
      this.#held.delete(connection)
      this.#levels.delete(connection)
    }
    const answer = await passing.send()
    if (/^(START TRANSACTION|BEGIN)\b/i.test(sql)) {
      const hasSnapshot = /CONSISTENT SNAPSHOT/i.test(sql)
      this.#held.set(connection, { rows: [], savepoints: [], hasSnapshot })
    }
    const [, level] = /^SET TRANSACTION ISOLATION LEVEL ([A-Z ]+)/i.exec(sql) ?? []
    if (level !== undefined) this.#levels.set(connection, level.trim().toUpperCase())
    const held = this.#heldBy(passing)
    if (held) this.#followSavepoint(sql, held)
    // PostgreSQL's findOrCreate wraps its INSERT in a function.
    if (held && options.type === 'INSERT') this.#takeCreated(options.instance, held)
    return answer
  }

  #takeCreated(instance: unknown, held: Held): void {
    if (!(instance instanceof Model)) return
    const [row] = included(instance, undefined) as [AnsweredRow]
    const locked = this.#lock(held, row.table, valuesOf(row, instance.constructor as ModelStatic<Model>))
    for (const field of this.#jsonFields(row.table)) locked.columns.add(field)
  }

  #followSavepoint(sql: string, held: Held): void {
    const [, begun] = /^SAVEPOINT\s+([^\s;]+)/i.exec(sql) ?? []
    if (begun !== undefined) held.savepoints.push({ name: begun, count: held.rows.length })
    const [, undone] = /^ROLLBACK TO\s+(?:SAVEPOINT\s+)?([^\s;]+)/i.exec(sql) ?? []
    const savepoint = held.savepoints.findLast(({ name }) => name === undone)
    if (savepoint && this.#database.unlocksBySavepoint) held.rows = held.rows.slice(0, savepoint.count)
  }

  /** The locks of a statement's transaction; `undefined` outside one, even if the connection has an open one. */
  #heldBy({ connection, options }: Passing): Held | undefined {
    if (!options.transaction) return undefined
    const held = this.#held.get(connection) ?? { rows: [], savepoints: [], hasSnapshot: false }
    this.#held.set(connection, held)
    return held
  }

  async #passRead(sql: string, passing: Passing): Promise<unknown> {
    const held = this.#heldBy(passing)
    const answer = await passing.send()
    const isConcerned = held !== undefined || /\b(FOR|LOCK)\b/i.test(sql)
    const [clauses] = isConcerned ? clausesOf(sql, bindList(passing.parameters), this.#database.literals) : []
    const plain = this.#database.plainRead(this.#levels.get(passing.connection))
    for (const row of this.#rowsOf(answer, clauses?.table ?? nameOf(tableOf(sql) ?? ''))) {
      this.#takeRead(row, clauses, held, plain)
      if (held && clauses && !row.isBuilt) this.#takeJoined(clauses, held, plain === 'locked' || clauses.locks)
    }
    if (held && clauses && !clauses.locks && plain === 'snapshot') held.hasSnapshot = true
    return answer
  }

  /** A raw result does not separate the rows of its tables: records joined rows as locked, with unknown values. */
  #takeJoined({ joined, returned }: Clauses, held: Held, locks: Clauses['locks']): void {
    for (const { table, alias } of joined) {
      if (locks !== true && !(locks && locks.includes(alias))) continue
      const row = this.#lock(held, table, new Map())
      for (const field of this.#jsonFields(table)) if (mentions(returned, field)) row.columns.add(field)
    }
  }

  /** Records a row that was read, and which of its documents are protected until the transaction ends. */
  #takeRead(answered: AnsweredRow, clauses: Clauses | undefined, held: Held | undefined, plain: PlainRead): void {
    const { table, alias } = answered
    const fields = this.#jsonFields(table)
    if (fields.length === 0) return
    const isMain = alias === undefined
    const values = valuesOf(answered, this.#models(table)[0]!)
    for (const { column, values: some } of isMain ? (clauses?.equalities ?? []) : []) {
      if (some.length === 1 && !values.has(column.toLowerCase())) values.set(column.toLowerCase(), some[0])
    }
    const returned = isMain ? (clauses?.returned ?? []) : []
    const columns = fields.filter((field) => values.has(field) || mentions(returned, field))
    const { locks = false, isDerived = false, own = [] } = clauses ?? {}
    const names = isMain ? own : [alias]
    const isLocked = locks === true || (locks !== false && names.some((name) => locks.includes(name)))
    const isReached = !(isMain && isDerived) || this.#database.locksDerived
    const known = held?.rows.findLast((row) => row.table === table && this.#isSameRow(table, row.values, values))
    let isSafe = false
    if (held && ((isLocked && isReached) || plain === 'locked')) {
      const row = known ?? this.#lock(held, table, values)
      for (const column of columns) row.columns.add(column)
      isSafe = true
    } else if (known) {
      isSafe = plain === 'fresh' || !known.isAfterSnapshot
      for (const column of columns) (isSafe ? known.columns : known.old).add(column)
    } else if (isLocked) {
      this.#remember(newRow(table, values, false), held)
    }
    for (const field of fields) {
      const document = values.get(field)
      if (typeof document === 'object' && document !== null) this.#documents.set(document, isSafe ? held : undefined)
    }
  }

  #lock(held: Held, table: string, values: Values): LockedRow {
    const row = newRow(table, values, held.hasSnapshot)
    held.rows.push(row)
    this.#remember(row, held)
    return row
  }

  #remember(row: LockedRow, held: Held | undefined): void {
    this.#elsewhere.push({ row, held })
    if (this.#elsewhere.length > maxElsewhere) this.#elsewhere.shift()
  }

  async #passWrite(sql: string, passing: Passing): Promise<unknown> {
    const held = this.#heldBy(passing)
    const all = clausesOf(sql, bindList(passing.parameters), this.#database.literals)
    const before = all.map((clauses) => this.#candidates(held, clauses))
    const answer = await passing.send()
    for (const [index, clauses] of all.entries()) {
      if (clauses.verb === 'SELECT') continue
      const written = this.#writtenBy(clauses)
      const uncovered = written.flatMap((each) => {
        const reason = each.isWhole && this.#reason(each, clauses, held, before[index]!, affectedBy(answer), passing)
        return reason ? [{ ...each, reason }] : []
      })
      if (written.length > 0) this.#writes++
      if (uncovered.length > 0) this.#report(uncovered, clauses, sql, passing.options.wholeColumnWrites === 'allow')
      if (held) this.#takeWrite(clauses, written, held, answer, passing)
    }
    return answer
  }

  /** The JSON columns that a statement writes in rows that may exist. */
  #writtenBy(clauses: Clauses): Written[] {
    const { table, assigned } = clauses
    const columns = this.#models(table).flatMap((model) =>
      Object.entries(model.getAttributes()).map(([name, { field }]) => field ?? name),
    )
    const json = this.#jsonColumns(table)
    return assigned.flatMap(({ column, value }) => {
      const found = json.find(({ field }) => field.toLowerCase() === column.toLowerCase())
      return found ? [{ ...found, isWhole: !isComputed(value, clauses, columns, column) }] : []
    })
  }

  /** The locked rows that a write may affect, judged by its condition. */
  #candidates(held: Held | undefined, clauses: Clauses): LockedRow[] {
    return (held?.rows ?? []).filter((row) => row.table === clauses.table && this.#mayBeAbout(clauses, row))
  }

  #mayBeAbout({ verb, table, equalities, rows, conflict }: Clauses, { values }: LockedRow): boolean {
    const agree = (column: string, some: readonly unknown[]): boolean =>
      !values.has(column) || some.some((value) => mayBeEqual(values.get(column), value))
    if (verb === 'UPDATE') return equalities.every(({ column, values: some }) => agree(column.toLowerCase(), some))
    return rows.some((row) => {
      const key = this.#keyFields(table).every((field) => isKnown(row.get(field))) ? this.#keyFields(table) : conflict
      return key.every(
        (field) => !row.has(field.toLowerCase()) || agree(field.toLowerCase(), [row.get(field.toLowerCase())]),
      )
    })
  }

  /** Why a write of a whole column is unsafe; `undefined` if it is safe. */
  #reason(
    { model, attribute, field }: Written,
    clauses: Clauses,
    held: Held | undefined,
    candidates: readonly LockedRow[],
    affected: number | undefined,
    { options }: Passing,
  ): Reason | undefined {
    const column = field.toLowerCase()
    if (clauses.conditions.some((condition) => comparesWhole(condition, field))) return undefined
    if (isVersioned(clauses, versionField(model))) return undefined
    const read = candidates.filter((row) => row.columns.has(column))
    const needed = clauses.verb === 'INSERT' ? clauses.rows.length : (affected ?? 1)
    if (read.length > 0 && read.length >= needed) {
      const loaded: unknown =
        options.instance instanceof Model ? options.instance.previous(attribute as never) : undefined
      const isLoadedBefore =
        typeof loaded === 'object' &&
        loaded !== null &&
        this.#documents.has(loaded) &&
        this.#documents.get(loaded) !== held
      if (!isLoadedBefore) return undefined
      return read.some((row) => row.old.has(column)) ? 'old snapshot' : 'loaded before the lock'
    }
    if (read.length > 0) return 'more rows than locked'
    if (candidates.length > 0)
      return candidates.some((row) => row.old.has(column)) ? 'old snapshot' : 'column not read under the lock'
    const elsewhere = this.#elsewhere.findLast(
      ({ row }) => row.table === clauses.table && this.#mayBeAbout(clauses, row),
    )
    if (elsewhere)
      return elsewhere.held === held && held
        ? 'lock does not reach the row'
        : elsewhere.held
          ? 'lock of another transaction'
          : 'lock outside of a transaction'
    if (held?.rows.some((row) => row.table === clauses.table)) return 'lock of another row'
    return versionField(model) === undefined ? 'no lock' : 'version not compared'
  }

  #report(
    uncovered: readonly (Written & { reason: Reason })[],
    clauses: Clauses,
    sql: string,
    isAllowed: boolean,
  ): void {
    const { file, line } = (isAllowed ? undefined : firstUserFrame(callSite())) ?? {}
    if (isAllowed || (this.#ignore && file !== undefined && file.search(this.#ignore) >= 0)) {
      this.#meant++
      return
    }
    for (const { model, attribute: column, reason } of uncovered) {
      const key = JSON.stringify([file, line, model.name, column, reason])
      const known = this.#findings.get(key)
      const primaryKey = this.#keyNamed(model, clauses)
      const finding = known ?? findingOf({ model, column, primaryKey, sql, reason, file, line })
      this.#findings.set(key, { ...finding, times: finding.times + 1 })
    }
  }

  /** The primary key of the one row that a write names. */
  #keyNamed(
    model: ModelStatic<Model>,
    { verb, equalities, rows }: Clauses,
  ): Readonly<Record<string, unknown>> | undefined {
    const [row] = rows
    const entries = keyOf(model).map(({ attribute, field }) => {
      const values =
        verb === 'UPDATE'
          ? equalities.find(({ column }) => column === field)?.values
          : rows.length === 1
            ? [row!.get(field.toLowerCase())]
            : undefined
      return [attribute, values?.length === 1 ? values[0] : undefined] as const
    })
    return entries.length > 0 && entries.every(([, value]) => isKnown(value)) ? Object.fromEntries(entries) : undefined
  }

  /** Records a write: its rows are locked, its values are known, and other sessions cannot see inserted rows. */
  #takeWrite(clauses: Clauses, written: readonly Written[], held: Held, answer: unknown, { options }: Passing): void {
    const { table, verb, assigned, equalities, rows, returned } = clauses
    const fields = this.#jsonFields(table)
    if (fields.length === 0 || affectedBy(answer) === 0) return
    const whole = written.filter(({ isWhole }) => isWhole).map(({ field }) => field.toLowerCase())
    const known = [...whole, ...fields.filter((field) => mentions(returned, field))]
    const answered = this.#rowsOf(answer, table).map((row) => valuesOf(row, this.#models(table)[0]!))
    if (verb === 'INSERT') {
      const own = options.instance instanceof Model ? this.#rowsOf(options.instance, table) : []
      const all = own.length > 0 ? own.map((row) => valuesOf(row, this.#models(table)[0]!)) : answered
      for (const [index, values] of rows.entries()) {
        const row = this.#lock(held, table, new Map([...values, ...(all.length === rows.length ? all[index]! : [])]))
        for (const field of assigned.length > 0 ? known : fields) row.columns.add(field)
      }
      return
    }
    const named: Values = new Map(
      equalities.flatMap(({ column, values }) => (values.length === 1 ? [[column.toLowerCase(), values[0]]] : [])),
    )
    const about = this.#candidates(held, clauses)
    const isNamed = this.#keyFields(table).every((field) => named.has(field))
    const unseen = isNamed ? [named] : returned.length > 0 ? answered : []
    for (const row of about.length > 0 ? about : unseen.map((values) => this.#lock(held, table, values))) {
      for (const field of known) row.columns.add(field)
      for (const { column, sent } of assigned) {
        if (sent) row.values.set(column.toLowerCase(), sent.value)
        else row.values.delete(column.toLowerCase())
      }
    }
  }

  #models(table: string): ModelStatic<Model>[] {
    const { models } = this.#sequelize
    const count = Object.keys(models).length
    if (count !== this.#tables.count) this.#tables = { count, byName: new Map() }
    const known = this.#tables.byName.get(table) ?? Object.values(models).filter((each) => tableNameOf(each) === table)
    this.#tables.byName.set(table, known)
    return known
  }

  #jsonColumns(table: string): { model: ModelStatic<Model>; attribute: string; field: string }[] {
    return this.#models(table).flatMap((model) => jsonColumns(model).map((column) => ({ model, ...column })))
  }

  /** The JSON columns of a table, in lower case. */
  #jsonFields(table: string): string[] {
    return this.#jsonColumns(table).map(({ field }) => field.toLowerCase())
  }

  #keyFields(table: string): string[] {
    const [model] = this.#models(table)
    return model ? keyOf(model).map(({ field }) => field.toLowerCase()) : []
  }

  #isSameRow(table: string, one: Values, other: Values): boolean {
    const key = this.#keyFields(table)
    return (
      key.length > 0 &&
      key.every((field) => one.has(field) && other.has(field) && mayBeEqual(one.get(field), other.get(field)))
    )
  }

  /** The rows of a result, including the rows that were loaded by `include`. */
  #rowsOf(answer: unknown, table: string): AnsweredRow[] {
    const all: unknown[] = Array.isArray(answer)
      ? Array.isArray(answer[0])
        ? (answer[0] as unknown[])
        : answer
      : [answer]
    return all.flatMap((row) => {
      if (typeof row !== 'object' || row === null) return []
      return row instanceof Model
        ? included(row, undefined)
        : [{ table, row: row as Record<string, unknown>, alias: undefined, isBuilt: false }]
    })
  }
}

function newRow(table: string, values: Values, isAfterSnapshot: boolean): LockedRow {
  return { table, values, columns: new Set(), old: new Set(), isAfterSnapshot }
}

function included(instance: Model, alias: string | undefined): AnsweredRow[] {
  const model = instance.constructor as ModelStatic<Model>
  const { dataValues: row } = instance as unknown as { dataValues: Record<string, unknown> }
  const children = Object.entries(row).flatMap(([as, value]) =>
    [value]
      .flat()
      .flatMap((each) => (each instanceof Model ? included(each, alias === undefined ? as : `${alias}->${as}`) : [])),
  )
  return [{ table: tableNameOf(model), row, alias, isBuilt: true }, ...children]
}

function tableNameOf(model: ModelStatic<Model>): string {
  const name = model.getTableName() as string | { tableName: string }
  return nameOf(typeof name === 'string' ? name : name.tableName)
}

function mentions(tokens: Clauses['returned'], field: string): boolean {
  return tokens.some(({ text }) => text === '*' || nameOf(text).toLowerCase() === field)
}

/** A row's values by column name. The keys of a raw row may already be column names. */
function valuesOf({ row }: AnsweredRow, model: ModelStatic<Model>): Values {
  const attributes = model.getAttributes() as Record<string, { field?: string } | undefined>
  return new Map(Object.entries(row).map(([name, value]) => [(attributes[name]?.field ?? name).toLowerCase(), value]))
}

function keyOf(model: ModelStatic<Model>): { attribute: string; field: string }[] {
  return model.primaryKeyAttributes.map((attribute) => ({
    attribute,
    field: model.getAttributes()[attribute as never]!['field'] ?? attribute,
  }))
}

function versionField(model: ModelStatic<Model>): string | undefined {
  const { version } = model.options
  if (!version) return undefined
  const attribute = typeof version === 'string' ? version : 'version'
  const { field } = (model.getAttributes()[attribute as never] ?? {}) as { field?: string }
  return field ?? attribute
}

/** Whether the condition compares a column that the statement also changes: a version, a counter, or the write time. */
function isVersioned({ equalities, assigned }: Clauses, version: string | undefined): boolean {
  return equalities.some(({ column, values }) => {
    const moved = assigned.find((each) => each.column.toLowerCase() === column.toLowerCase())
    if (!moved || values.length !== 1 || !isKnown(values[0])) return false
    const { sent, value } = moved
    const isCounted = sent
      ? Number(sent.value) === Number(values[0]) + 1
      : /^\W?\w+\W? \+ 1$/.test(value.map(({ text }) => text).join(' '))
    return column === version || isCounted || /version|revision|etag|updated|modified/i.test(column)
  })
}

function isKnown(value: unknown): boolean {
  return value !== undefined && value !== null
}

/** Whether the database may consider two values equal; true in case of doubt. */
function mayBeEqual(one: unknown, other: unknown): boolean {
  const [left, right] = [one, other].map(plain)
  return (
    left === undefined ||
    right === undefined ||
    left === right ||
    (isNumber(left) && isNumber(right) && Number(left) === Number(right))
  )
}

function isNumber(text: string): boolean {
  return text.trim() !== '' && !Number.isNaN(Number(text)) && text.length < 16
}

function plain(value: unknown): string | undefined {
  if (Buffer.isBuffer(value)) return value.toString('hex')
  // The driver may have rounded it.
  if (typeof value === 'number' && Math.abs(value) > Number.MAX_SAFE_INTEGER) return undefined
  if (typeof value === 'boolean') return value ? '1' : '0'
  if (typeof value === 'string') return /^\d{4}-\d\d-\d\d[ T]/.test(value) ? undefined : value.toLowerCase().trim()
  return typeof value === 'number' || typeof value === 'bigint' ? String(value) : undefined
}

/** The number of rows that a write matched, from the result of the driver. */
function affectedBy(answer: unknown): number | undefined {
  if (typeof answer === 'number') return answer
  if (!Array.isArray(answer)) return undefined
  const [first, second] = answer as unknown[]
  for (const each of [second, first]) {
    if (typeof each === 'number') return each
    const { affectedRows, rowCount, changes } = (each ?? {}) as Record<string, unknown>
    for (const count of [affectedRows, rowCount, changes]) if (typeof count === 'number') return count
  }
  return first instanceof Model || answer.length === 0 ? answer.length : undefined
}
