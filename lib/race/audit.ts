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
  /** Files whose own writes are meant, such as those of fixtures: what is called there is not reported. Default: none. */
  readonly ignore?: RegExp
}

/** What an audit has seen. */
export interface AuditReport<R = undefined> {
  /** `covered`: every write seen was safe. `uncovered`: there are findings. `unknown`: none was seen, which proves nothing. */
  readonly verdict: 'covered' | 'uncovered' | 'unknown'
  readonly findings: readonly Finding[]
  /** How many statements wrote to a JSON column of rows that may have been there before. */
  readonly writes: number
  /** How many of them are covered by nothing, and meant: by the call's own option, or by {@link AuditOptions.ignore}. */
  readonly meant: number
  /** What the function returned. */
  readonly result: R
}

/** An audit that goes on until it is stopped. */
export interface RunningAudit {
  readonly stop: () => AuditReport
}

/**
 * Runs `fn`, and reports every UPDATE that writes a whole JSON column and is covered by nothing: no earlier locking read of
 * that row and column in its transaction, no version in its condition, no atomic form. It looks at each statement that goes
 * by, and changes none: any test that uses this Sequelize instance can run inside it, as it is.
 *
 * Without `fn` it begins, and returns `stop`: a test runner has no one function that holds a whole suite, but a hook before
 * and a hook after all tests.
 *
 * A write of a constant is reported too, as nobody can tell a reset from a stale copy; one that is meant says so, with the
 * option `{ wholeColumnWrites: 'allow' }`. If `fn` throws, its error is thrown on, and what was found is told by
 * `console.warn`. What it cannot see: from which of two reads a value was made, where one of them was locked; what other
 * processes send; what triggers and stored procedures do; an isolation level that is set on the server.
 *
 * @throws {UsageError} before any SQL: an option is wrong, or another audit or exploration is at work here
 * @example
 *     const report = await audit(sequelize, () => finishStep(run.id, 'step_a'))
 *     assertNoLostUpdate(report)
 * @example
 *     const running = audit(sequelize) // before all tests
 *     assertNoLostUpdate(running.stop()) // after all tests
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
    // It may be the very reason why fn failed.
    if (report.findings.length > 0) console.warn(reportText(report))
    throw error
  }
}

/** @throws {UsageError} an option is wrong, or the instance has a gate already */
function begin(sequelize: Sequelize, options: AuditOptions = {}): Audit {
  if (!(sequelize instanceof Sequelize)) throw usage.sequelize('audit', 'sequelize')
  const { ignore, ...others } = options
  const [unknown] = Object.keys(others)
  if (unknown !== undefined) throw usage.unknownOption('audit', unknown, ['ignore'])
  if (ignore !== undefined && !(ignore instanceof RegExp)) throw usage.ignore(ignore)
  if (gated.has(sequelize)) throw usage.gated('audit')
  return new Audit(sequelize, ignore)
}

/** What a plain read in a transaction is worth: it is as good as a lock, it sees the latest, or perhaps what is long past. */
type PlainRead = 'locked' | 'fresh' | 'snapshot'

/** What differs from database to database. */
interface Database {
  readonly literals: Literals
  readonly plainRead: (level: string | undefined) => PlainRead
  /** A lock reaches the rows of a statement in parentheses. */
  readonly locksDerived: boolean
  /** A savepoint that is rolled back gives back the locks since. */
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
    // From REPEATABLE READ on it refuses to write over what is newer than the snapshot.
    plainRead: (level = 'READ COMMITTED') => (/^READ/.test(level) ? 'fresh' : 'locked'),
    locksDerived: true,
    unlocksBySavepoint: true,
  },
  // Nobody else writes between a read and a write of the same transaction.
  sqlite: { literals: 'plain', plainRead: () => 'locked', locksDerived: true, unlocksBySavepoint: true },
}

/** Columns of a row, by their names in small letters, as far as they are known. */
type Values = Map<string, unknown>

/** A row that a transaction has locked. */
interface LockedRow {
  readonly table: string
  readonly values: Values
  /** The JSON columns that were read under the lock, or written. */
  readonly columns: Set<string>
  /** Those that were read again, from a snapshot that is older than the lock. */
  readonly old: Set<string>
  /** The lock came after the snapshot that plain reads of its transaction see. */
  readonly isAfterSnapshot: boolean
}

/** What a transaction holds. */
interface Held {
  rows: LockedRow[]
  readonly savepoints: { readonly name: string; readonly count: number }[]
  hasSnapshot: boolean
}

/** A row as a statement answered with it. */
interface AnsweredRow {
  readonly table: string
  readonly row: Readonly<Record<string, unknown>>
  /** The name that it has in the statement; none for a row of its first table. */
  readonly alias: string | undefined
  /** Sequelize has made an instance of it. */
  readonly isBuilt: boolean
}

/** A JSON column that a statement writes. */
interface Written {
  readonly model: ModelStatic<Model>
  readonly attribute: string
  readonly field: string
  readonly isWhole: boolean
}

/** Enough to tell of a lock that was taken elsewhere, without keeping every row of a whole suite. */
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
  /** Of the documents of rows that were read: the transaction in which nobody else can have changed them since. */
  readonly #documents = new WeakMap<object, Held | undefined>()
  readonly #elsewhere: { readonly row: LockedRow; readonly held: Held | undefined }[] = []
  /** The models of each table, found once. */
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

  /** What the transaction of a statement holds; nothing outside of one, even if its connection has one open. */
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

  /** A raw answer does not tell the rows of its tables apart: those but the first are locked, whichever they are. */
  #takeJoined({ joined, returned }: Clauses, held: Held, locks: Clauses['locks']): void {
    for (const { table, alias } of joined) {
      if (locks !== true && !(locks && locks.includes(alias))) continue
      const row = this.#lock(held, table, new Map())
      for (const field of this.#jsonFields(table)) if (mentions(returned, field)) row.columns.add(field)
    }
  }

  /** Takes note of a row that was read: which of its documents nobody else can change before this transaction ends. */
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

  /** The JSON columns that a statement writes, of rows that may be there already. */
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

  /** The locked rows that a write may be about, as far as its condition tells. */
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

  /** Why a write of a whole column is not safe; nothing if it is. */
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

  /** A write locks its rows; what it wrote is known, and what it inserted nobody else can see. */
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

  /** The columns of a table's documents, in small letters. */
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

  /** The rows of an answer, with those that an `include` has put into them. */
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

/** A row's values by column; those of a raw row may be named so already. */
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

/** The condition compares a column that the same statement moves: a version, a counter, or the time of the last write. */
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

/** Whether two values may be the same to the database; where that is not easily told, they may. */
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
  // Rounded, perhaps, by the driver.
  if (typeof value === 'number' && Math.abs(value) > Number.MAX_SAFE_INTEGER) return undefined
  if (typeof value === 'boolean') return value ? '1' : '0'
  if (typeof value === 'string') return /^\d{4}-\d\d-\d\d[ T]/.test(value) ? undefined : value.toLowerCase().trim()
  return typeof value === 'number' || typeof value === 'bigint' ? String(value) : undefined
}

/** How many rows a write matched, as the drivers tell. */
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
