import { CommittedError, messageOf } from './errors.js'
import type { Laboratory } from './laboratory.js'
import { isSame } from './moments.js'
import type { ExploreOptions } from './options.js'
import type { Outcome, Run } from './run.js'
import {
  changeOf,
  columnsThatDiffer,
  NotSerialError,
  readReferredRows,
  readRows,
  ResultsError,
  resultsOf,
  serialOrders,
  writtenTables,
} from './serial.js'
import type { End } from './serial.js'
import { isOpaque, shapeOf } from './statement.js'

/** Checks the final state of one schedule; throws if it is wrong. */
export type Judge = (run: Run) => unknown

/** The number of serial orders whose tables are compared: all of three participants. */
const maxOrders = 6

/** The default check: the final rows, and what the participants return, must be those of a serial order. */
export class Oracle<C> {
  readonly #laboratory: Laboratory<C>
  readonly #names: readonly string[]
  readonly #serial = new Map<string, Promise<End>>()
  readonly #objections = new Set<string>()
  #tables: readonly string[] = []
  /** The tables that a run wrote to, and that are not compared. */
  readonly #missed = new Set<string>()
  /** The participants whose results are the same in two runs of the same order. */
  #comparable: readonly string[] = []

  constructor(options: ExploreOptions<C>, laboratory: Laboratory<C>) {
    this.#laboratory = laboratory
    this.#names = Object.keys(options.participants)
  }

  /** Finds the tables to compare; returns the reasons if they cannot be compared. */
  async prepare(): Promise<string[]> {
    const run = await this.#laboratory.runSerially(await this.#laboratory.setUp(), this.#names)
    this.#tables = writtenTables(run.steps)
    if (this.#tables.length === 0) {
      const [failed] = run.errors()
      const remedy = run.finding
        ? run.finding.message
        : failed
          ? `${failed[0]} failed: ${messageOf(failed[1])}`
          : 'pass a check'
      return [`no participant wrote to a table, so there is nothing to compare: ${remedy}`]
    }
    const all = serialOrders(Object.fromEntries(this.#names.map((name) => [name, 'ok'])))
    for (;;) {
      const [one, other] = [await this.#endOf(this.#names), await this.#runSerially(this.#names)]
      // A generated key, for example, is another one in each run.
      this.#comparable = this.#names.filter((name) => isSame(one.results[name], other.results[name]))
      if (!isSame(one.change, other.change)) {
        const differing = columnsThatDiffer(one.change, other.change).join(', ')
        return [
          `two runs of the same order ended with different rows (${differing}), so rows cannot be compared: make setup() and the participants write the same each time (let setup() choose the primary key, if a document or a text holds it), or pass a check`,
        ]
      }
      // One order may not write to a table that another one writes to.
      for (const order of all.slice(0, maxOrders)) await this.#endOf(order)
      if (this.#missed.size === 0) return []
      this.#tables = [...this.#tables, ...this.#missed].sort()
      this.#missed.clear()
      this.#serial.clear()
    }
  }

  /** Reads the rows before a schedule; the returned function checks the rows after it. */
  async judge(): Promise<Judge> {
    const ended = await this.#watch()
    return async (run) => this.#compare(run, await ended(run))
  }

  /** The writes that were not compared. */
  objections(): readonly string[] {
    const written = [...this.#missed].map(
      (table) => `${table} is written only in some orders, so it was not compared: pass a check that reads it`,
    )
    return [...written, ...this.#objections]
  }

  /**
   * @throws {NotSerialError} the participants cannot have run one after the other, in any order
   * @throws {ResultsError} the rows are those of a serial order, but not what the participants returned
   * @throws {CommittedError} a participant failed after its writes were committed
   */
  async #compare(run: Run, { change, results }: End): Promise<void> {
    const outcomes: Readonly<Record<string, Outcome>> = run.outcomes()
    const orders = serialOrders(outcomes)
    const ends: End[] = []
    for (const order of orders) ends.push(await this.#endOf(order))
    const sameRows = ends.filter((serial) => isSame(serial.change, change))
    if (sameRows.length === 0)
      throw new NotSerialError(
        orders,
        ends.map((serial) => serial.change),
        change,
      )
    const { failedAfterCommit: failed } = run
    const isThere = sameRows.every((serial) => orders[ends.indexOf(serial)]!.includes(failed!))
    if (failed !== undefined && isThere) throw new CommittedError(failed)
    // After a fault, a participant may say that it had done so already.
    const compared = this.#comparable.filter((name) => outcomes[name] === 'ok' && name !== run.fault?.participant)
    const isSerial = (serial: End): boolean => compared.every((name) => isSame(serial.results[name], results[name]))
    if (sameRows.some(isSerial)) return
    const of = (each: End['results']): End['results'] =>
      Object.fromEntries(compared.map((name) => [name, each[name]] as const))
    throw new ResultsError(
      of(results),
      sameRows.map((serial) => [orders[ends.indexOf(serial)]!, of(serial.results)]),
    )
  }

  /** The end of a serial run in this order; cached. */
  async #endOf(order: readonly string[]): Promise<End> {
    const key = order.join('\n')
    const known = this.#serial.get(key) ?? this.#runSerially(order)
    this.#serial.set(key, known)
    return known
  }

  async #runSerially(order: readonly string[]): Promise<End> {
    const context = await this.#laboratory.setUp()
    const ended = await this.#watch()
    return ended(await this.#laboratory.runSerially(context, order))
  }

  async #watch(): Promise<(run: Run) => Promise<End>> {
    const before = await readRows(this.#laboratory, this.#tables)
    const referred = await readReferredRows(this.#laboratory, this.#tables)
    const start = Date.now()
    return async (run) => {
      const { steps } = run
      for (const table of writtenTables(steps)) if (!this.#tables.includes(table)) this.#missed.add(table)
      const opaque = steps.find(({ kind, sql }) => kind === 'other' && isOpaque(sql))
      if (opaque) {
        this.#objections.add(
          `the tables that ${shapeOf(opaque.sql)} writes to are unknown: pass a check that reads them`,
        )
      }
      const period = { start, end: Date.now() }
      const after = await readRows(this.#laboratory, this.#tables)
      const change = changeOf(this.#laboratory, before, after, referred, period)
      return { change, results: resultsOf(run, period) }
    }
  }
}
