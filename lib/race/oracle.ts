import { isDeepStrictEqual } from 'node:util'
import type { Laboratory } from './laboratory.js'
import type { ExploreOptions } from './options.js'
import type { Outcome } from './run.js'
import { changeOf, columnsThatDiffer, NotSerialError, readRows, serialOrders, writtenTables } from './serial.js'
import type { Change } from './serial.js'

/** Looks at the end of one schedule; what it throws says what is wrong there. */
export type Judge = (outcomes: Readonly<Record<string, Outcome>>) => unknown

/** The check for who gives none: the rows have to be as if the participants had run one after the other. */
export class Oracle<C> {
  readonly #options: ExploreOptions<C>
  readonly #laboratory: Laboratory<C>
  readonly #names: readonly string[]
  readonly #serial = new Map<string, Promise<Change>>()
  #tables: readonly string[] = []

  constructor(options: ExploreOptions<C>, laboratory: Laboratory<C>) {
    this.#options = options
    this.#laboratory = laboratory
    this.#names = Object.keys(options.participants)
  }

  /** Finds out which tables to compare; returns why that cannot be done. */
  async prepare(): Promise<string[]> {
    const run = await this.#laboratory.runSerially(await this.#options.setup(), this.#names)
    this.#tables = writtenTables(run.steps)
    if (this.#tables.length === 0) {
      return ['no participant wrote to a table, so there is nothing to compare: pass a check']
    }
    const [one, other] = [await this.#changeOf(this.#names), await this.#runSerially(this.#names)]
    if (isDeepStrictEqual(one, other)) return []
    const differing = [...columnsThatDiffer(one, other)].join(', ')
    return [
      `two runs of the same order ended with different rows (${differing}), so rows cannot be compared: make setup() and the participants write the same each time, or pass a check`,
    ]
  }

  /** Looks at the rows before a schedule, and is then the judge of what it made of them. */
  async judge(): Promise<Judge> {
    const changed = await this.#watch()
    return async (outcomes) => this.#compare(outcomes, await changed())
  }

  /** @throws {NotSerialError} the participants cannot have run one after the other, in any order */
  async #compare(outcomes: Readonly<Record<string, Outcome>>, change: Change): Promise<void> {
    const orders = serialOrders(outcomes)
    const changes: Change[] = []
    for (const order of orders) {
      const serial = await this.#changeOf(order)
      if (isDeepStrictEqual(serial, change)) return
      changes.push(serial)
    }
    throw new NotSerialError(orders, changes, change)
  }

  /** What a serial run in this order changes; each is run once. */
  async #changeOf(order: readonly string[]): Promise<Change> {
    const key = order.join('\n')
    const known = this.#serial.get(key) ?? this.#runSerially(order)
    this.#serial.set(key, known)
    return known
  }

  async #runSerially(order: readonly string[]): Promise<Change> {
    const context = await this.#options.setup()
    const changed = await this.#watch()
    await this.#laboratory.runSerially(context, order)
    return changed()
  }

  async #watch(): Promise<() => Promise<Change>> {
    const { sequelize } = this.#options
    const before = await readRows(sequelize, this.#tables)
    return async () => changeOf(sequelize, before, await readRows(sequelize, this.#tables))
  }
}
