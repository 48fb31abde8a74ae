import { messageOf } from './errors.js'
import type { Laboratory } from './laboratory.js'
import { isSame } from './moments.js'
import type { ExploreOptions } from './options.js'
import type { Outcome, Run } from './run.js'
import { changeOf, columnsThatDiffer, NotSerialError, readRows, serialOrders, writtenTables } from './serial.js'
import type { Change } from './serial.js'
import { isOpaque, shapeOf } from './statement.js'

/** Checks the final state of one schedule; throws if it is wrong. */
export type Judge = (run: Run) => unknown

/** The default check: the final rows must be those of a serial order of the participants. */
export class Oracle<C> {
  readonly #options: ExploreOptions<C>
  readonly #laboratory: Laboratory<C>
  readonly #names: readonly string[]
  readonly #serial = new Map<string, Promise<Change>>()
  readonly #objections = new Set<string>()
  #tables: readonly string[] = []

  constructor(options: ExploreOptions<C>, laboratory: Laboratory<C>) {
    this.#options = options
    this.#laboratory = laboratory
    this.#names = Object.keys(options.participants)
  }

  /** Finds the tables to compare; returns the reasons if they cannot be compared. */
  async prepare(): Promise<string[]> {
    const run = await this.#laboratory.runSerially(await this.#options.setup(), this.#names)
    this.#tables = writtenTables(run.steps)
    if (this.#tables.length === 0) {
      const [failed] = run.errors()
      const remedy = failed ? `${failed[0]} failed: ${messageOf(failed[1])}` : 'pass a check'
      return [`no participant wrote to a table, so there is nothing to compare: ${remedy}`]
    }
    const [one, other] = [await this.#changeOf(this.#names), await this.#runSerially(this.#names)]
    if (isSame(one, other)) return []
    const differing = [...columnsThatDiffer(one, other)].join(', ')
    return [
      `two runs of the same order ended with different rows (${differing}), so rows cannot be compared: make setup() and the participants write the same each time, or pass a check`,
    ]
  }

  /** Reads the rows before a schedule; the returned function checks the rows after it. */
  async judge(): Promise<Judge> {
    const changed = await this.#watch()
    return async (run) => this.#compare(run.outcomes(), await changed(run))
  }

  /** The writes that were not compared. */
  objections(): readonly string[] {
    return [...this.#objections]
  }

  /** @throws {NotSerialError} the participants cannot have run one after the other, in any order */
  async #compare(outcomes: Readonly<Record<string, Outcome>>, change: Change): Promise<void> {
    const orders = serialOrders(outcomes)
    const changes: Change[] = []
    for (const order of orders) {
      const serial = await this.#changeOf(order)
      if (isSame(serial, change)) return
      changes.push(serial)
    }
    throw new NotSerialError(orders, changes, change)
  }

  /** The changes of a serial run in this order; cached. */
  async #changeOf(order: readonly string[]): Promise<Change> {
    const key = order.join('\n')
    const known = this.#serial.get(key) ?? this.#runSerially(order)
    this.#serial.set(key, known)
    return known
  }

  async #runSerially(order: readonly string[]): Promise<Change> {
    const context = await this.#options.setup()
    const changed = await this.#watch()
    return changed(await this.#laboratory.runSerially(context, order))
  }

  async #watch(): Promise<(run: Run) => Promise<Change>> {
    const { sequelize } = this.#options
    const before = await readRows(sequelize, this.#tables)
    const start = Date.now()
    return async ({ steps }) => {
      for (const table of writtenTables(steps)) {
        if (this.#tables.includes(table)) continue
        this.#objections.add(
          `${table} is written only in some orders, so it was not compared: pass a check that reads it`,
        )
      }
      const opaque = steps.find(({ kind, sql }) => kind === 'other' && isOpaque(sql))
      if (opaque) {
        this.#objections.add(
          `the tables that ${shapeOf(opaque.sql)} writes to are unknown: pass a check that reads them`,
        )
      }
      const end = Date.now()
      return changeOf(sequelize, before, await readRows(sequelize, this.#tables), { start, end })
    }
  }
}
