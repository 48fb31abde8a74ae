/**
 * Reports writes of whole JSON columns while tests run.
 *
 * @module sequelize-lossless/audit
 */
import { Sequelize } from 'sequelize'
import { captureCallSite, firstUserFrame } from '../call-site.js'
import { checkOptions } from '../errors/check-options.js'
import { describeRow } from '../errors/describe.js'
import { usage } from '../errors/usage.js'
import { isSequelize } from '../rows/row-ref.js'
import { sessionOf } from '../sequelize/session.js'
import type { JudgedStatement, JudgedWrite } from '../sequelize/session.js'
import { guardForAudit } from './guard.js'
import { openReasons, reasons } from './reasons.js'
import type { Reason } from './reasons.js'

export type { Reason } from './reasons.js'

export interface AuditOptions {
  /** Matches files that may write whole columns, such as fixtures: calls in them are not reported. Default: none. */
  readonly ignore?: RegExp
  /**
   * Other columns to look at, besides JSON columns, by the name of the model: `{ WorkflowRun: ['attempts'] }`. Only for
   * columns whose new value is computed from a read: each unprotected write of one is a finding. Default: none.
   */
  readonly columns?: Readonly<Record<string, readonly string[]>>
}

/** Unprotected writes of one column at one call site. */
export interface Finding {
  /** The call: `'save'`, `'update'`, `'upsert'`, `'bulkCreate'` or `'query'`. */
  readonly method: string
  readonly model: string
  readonly column: string
  /** The primary key in the first occurrence, as far as the call names it. */
  readonly primaryKey: Readonly<Record<string, unknown>>
  readonly reason: Reason
  /** The call site; `undefined` if the stack has no application code. */
  readonly file: string | undefined
  readonly line: number | undefined
  /** The number of occurrences. */
  readonly times: number
  /** The SQL of the application in the first occurrence, shortened; `undefined` for Sequelize's own methods. */
  readonly sql: string | undefined
  /** The recommended code. */
  readonly instead: string
}

/** The result of an audit. */
export interface AuditReport<R = undefined> {
  /** `covered`: every write was safe. `uncovered`: there are findings. `unknown`: no write was seen, or one was not understood. */
  readonly verdict: 'covered' | 'uncovered' | 'unknown'
  readonly findings: readonly Finding[]
  /** Writes that may be safe or not: SQL of the application, and values with a number in their SQL. */
  readonly unknown: readonly Finding[]
  /** The number of statements that wrote a watched column of rows that may have existed before. */
  readonly writes: number
  /** The number of unprotected statements that are allowed: by an option of the call, or by {@link AuditOptions.ignore}. */
  readonly allowed: number
  /** What the function returned. */
  readonly result: R
}

/** An audit that runs until `stop()` is called. */
export interface RunningAudit {
  readonly stop: () => AuditReport
}

/**
 * Runs `fn`, and reports each write of a whole JSON column that the guard would report under `wholeColumnWrites: 'warn'`: one
 * definition of a covered write, recorded instead of warned of. Changes no statement, whatever the options of the models: every
 * test that uses this Sequelize instance can run inside it unchanged.
 *
 * A write is covered if its transaction has read the row and column with a lock, by this library or by a finder with `lock` and
 * `transaction`; if it compares the `version` of the model; if it is an atomic write of this library or a save under `'patch'`; or
 * if its value is computed in SQL. A value with a number in its SQL (`JSON_SET(progress, '$.hits', 5)`) is `unknown`: the number
 * may be computed from a read. So is SQL of the application, unless its text alone shows that the column is computed
 * from its stored value, or replaced by a constant.
 *
 * Without `fn`, starts the audit and returns `stop`, for the hooks of a test runner: one before all tests, and one after all tests.
 * If `fn` throws, rethrows the error, and prints the findings with `console.warn`. Not seen: JSON in TEXT columns that `jsonColumns` does not name; statements of
 * other processes; triggers and stored procedures. A reset to a constant is reported too; allow it with
 * `{ wholeColumnWrites: 'allow' }`.
 *
 * @throws {UsageError} before any SQL: an option is wrong, or another audit runs on this instance
 * @example
 *     assertCovered(await audit(sequelize, () => finishStep(run.id, 'step_a')))
 * @example
 *     const running = audit(sequelize) // before all tests
 *     assertCovered(running.stop()) // after all tests
 */
export function audit(sequelize: Sequelize, options?: AuditOptions): RunningAudit
export function audit<R>(sequelize: Sequelize, fn: () => R, options?: AuditOptions): Promise<AuditReport<Awaited<R>>>
export function audit<R>(
  sequelize: Sequelize,
  ...args: [first?: AuditOptions | (() => R), options?: AuditOptions]
): RunningAudit | Promise<AuditReport<Awaited<R>>> {
  const [first, options] = args
  if (typeof first === 'function') return runAudited(sequelize, first, options)
  if (args.length > 0 && (typeof first !== 'object' || (first as unknown) === null)) throw usage.audited(first)
  const running = startAudit(sequelize, first)
  return { stop: () => running.stop(undefined) }
}

async function runAudited<R>(
  sequelize: Sequelize,
  fn: () => R,
  options?: AuditOptions,
): Promise<AuditReport<Awaited<R>>> {
  const running = startAudit(sequelize, options)
  try {
    return running.stop(await fn())
  } catch (error) {
    const report = running.stop(undefined)
    // A lost update may be the reason why fn failed.
    if (report.findings.length > 0) console.warn(reportText(report))
    throw error
  }
}

/** @throws {UsageError} an option is wrong, or an audit runs on this instance */
function startAudit(sequelize: Sequelize, options: AuditOptions = {}): Audit {
  const method = 'audit'
  if (!isSequelize(sequelize)) throw usage.sequelize(method, sequelize, 'await audit(sequelize, async () => { … })')
  const { ignore, columns = {} } = checkOptions(method, options, ['ignore', 'columns'])
  if (ignore !== undefined && !(ignore instanceof RegExp)) throw usage.auditIgnore(ignore)
  for (const [name, names] of Object.entries(columns)) {
    const attributes = Object.keys(sequelize.models[name]?.getAttributes() ?? {})
    if (!Array.isArray(names) || names.some((each) => !attributes.includes(each as string))) {
      throw usage.auditColumns(name, names)
    }
  }
  const session = sessionOf(sequelize)
  if (session.audit) throw usage.audits(method)
  guardForAudit(sequelize)
  return (session.audit = new Audit(ignore, columns, () => (session.audit = undefined)))
}

class Audit {
  readonly #ignore: RegExp | undefined
  readonly #end: () => void
  readonly #findings = new Map<string, Finding>()
  #writes = 0
  #allowed = 0
  #isOver = false
  readonly columns: Readonly<Record<string, readonly string[]>>

  constructor(ignore: RegExp | undefined, columns: Readonly<Record<string, readonly string[]>>, end: () => void) {
    this.#ignore = ignore
    this.columns = columns
    this.#end = end
  }

  record({ writes, isAllowed, site, sql }: JudgedStatement): void {
    if (this.#isOver || writes.length === 0) return
    this.#writes++
    const uncovered = writes.filter(({ reason }) => reason !== undefined)
    if (uncovered.length === 0) return
    const { file, line } = (isAllowed ? undefined : firstUserFrame(site ?? captureCallSite(undefined))) ?? {}
    if (isAllowed || (this.#ignore && file !== undefined && file.search(this.#ignore) >= 0)) {
      this.#allowed++
      return
    }
    for (const { reason, ...write } of uncovered as (JudgedWrite & { reason: Reason })[]) {
      const key = JSON.stringify([file, line, write.method, write.model, write.column, reason])
      const first = { ...write, reason, file, line, times: 0, sql: shortened(sql) }
      const known = this.#findings.get(key) ?? first
      this.#findings.set(key, { ...known, times: known.times + 1 })
    }
  }

  stop<R>(result: R): AuditReport<R> {
    if (!this.#isOver) this.#end()
    this.#isOver = true
    const all = [...this.#findings.values()].map((each) => Object.freeze(each))
    const findings = Object.freeze(all.filter(({ reason }) => !openReasons.includes(reason)))
    const unknown = Object.freeze(all.filter(({ reason }) => openReasons.includes(reason)))
    const isCovered = unknown.length === 0 && this.#writes > this.#allowed
    const verdict = findings.length > 0 ? 'uncovered' : isCovered ? 'covered' : 'unknown'
    return Object.freeze({ verdict, findings, unknown, writes: this.#writes, allowed: this.#allowed, result })
  }
}

function shortened(sql: string | undefined): string | undefined {
  return sql !== undefined && sql.length > 200 ? `${sql.slice(0, 199)}…` : sql
}

/** An audit has findings, or is inconclusive. */
export class UncoveredError extends Error {
  readonly code = 'UNCOVERED'
  override readonly name = 'UncoveredError'
  readonly report: AuditReport<unknown>

  constructor(report: AuditReport<unknown>) {
    super(`assertCovered: expected every write to be covered, but ${reportText(report)}`)
    this.report = report
  }
}

/**
 * Asserts that an audit saw writes, understood them, and has no findings. For any test runner.
 *
 * @throws {UncoveredError} with the findings, or the reason for an inconclusive result
 * @example assertCovered(await audit(sequelize, () => finishStep(run.id, 'step_a')))
 */
export function assertCovered(report: AuditReport<unknown>): void {
  if (report.verdict !== 'covered') throw new UncoveredError(report)
}

function findingText({ model, column, primaryKey, reason, file, line, times, sql, instead }: Finding): string {
  const place = file === undefined ? 'a call without a line of the application' : `${file}:${line!}`
  return [
    `${place} writes "${column}" of ${describeRow({ model, primaryKey })}${times > 1 ? `, ${times} times` : ''}: ${reasons[reason]}.`,
    ...(sql === undefined ? [] : [`  ${sql}`]),
    `  Write: ${instead}; or allow this write on purpose: { wholeColumnWrites: 'allow' }.`,
  ].join('\n')
}

/** The findings of an audit, or the reason why it is inconclusive. */
function reportText({ findings, unknown, writes, allowed }: AuditReport<unknown>): string {
  const all = [...findings, ...unknown]
  if (all.length === 0) {
    const apart = allowed > 0 ? `apart from ${allowed} allowed ${allowed === 1 ? 'write' : 'writes'}, ` : ''
    return `the audit is inconclusive: ${apart}no statement wrote to a JSON column of an existing row. Run tests that do so inside the audit, on its Sequelize instance.`
  }
  const total = all.reduce((sum, { times }) => sum + times, 0)
  return `${total} of ${writes} writes could overwrite a concurrent change:\n\n${all.map(findingText).join('\n\n')}\n`
}
