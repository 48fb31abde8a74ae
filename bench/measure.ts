import { documentOf, rowCount, Tables } from './table.js'
import { order, ours } from './variants.js'
import type { Library, Variant } from './variants.js'

/** What is measured at once: all variants in turn, round after round, on the same documents. */
export interface Cell {
  readonly documentBytes: number
  /** All callers write to one row, or each to one of its own. */
  readonly rows: 'hot' | 'spread'
  readonly callers: number
  /** By all callers of one variant in one round. */
  readonly calls: number
  readonly rounds: number
}

export interface Measurement {
  readonly variant: string
  /** Time by calls that were acknowledged: the median of the rounds, the shortest and the longest. */
  readonly microseconds: number
  readonly least: number
  readonly greatest: number
  /** Its time by ours in the same round: the median of the rounds. */
  readonly ratio: number
  /** The same of the processor time of this process, user and system. Results of earlier runs do not have it. */
  readonly cpuMicroseconds?: number
  readonly cpuRatio?: number
  readonly acknowledged: number
  /** Of the keys that were acknowledged, those in the document in the end. */
  readonly found: number
  /** Calls that ended in an error. */
  readonly failed: number
}

export interface MeasuredCell extends Cell {
  readonly variants: readonly Measurement[]
}

/**
 * The calls of each variant before the first round. Processor time needs the most: the compiler of Node.js has seen all of a
 * call after some 10,000.
 */
export const warmUpCalls = {
  durable: { server: 2000, sqlite: 500 },
  price: { server: 10_000, sqlite: 2000 },
} as const

/** One database with all that writes to it. */
export class Contest {
  readonly #tables: Tables
  readonly #libraries: readonly Library[]
  readonly #variants: readonly Variant[]

  private constructor(tables: Tables, opened: readonly Library[]) {
    this.#tables = tables
    this.#libraries = opened
    const variants = opened.flatMap((library) => library.variants)
    this.#variants = variants.toSorted((one, other) => order.indexOf(one.name) - order.indexOf(other.name))
  }

  static async open(url: string, libraries: readonly ((url: string) => Promise<Library>)[]): Promise<Contest> {
    const tables = await Tables.create(url)
    const opened: Library[] = []
    for (const open of libraries) opened.push(await open(url))
    return new Contest(tables, opened)
  }

  /** Has the variants of these names make so many calls: what is measured is a process that has run for a while. */
  async warmUp(names: readonly string[], calls: number): Promise<void> {
    const document = JSON.stringify(documentOf(100))
    for (const variant of this.#variants) {
      if (!names.includes(variant.name)) continue
      const callers = Math.min(4, variant.maxCallers?.spread ?? Infinity)
      await this.#turn({ documentBytes: 100, rows: 'spread', callers, calls, rounds: 1 }, variant, document)
    }
  }

  /**
   * Measures a cell; the round before the first one is not counted.
   * @param only the variants to measure; all, if left out
   */
  async measure(
    cell: Cell,
    only: readonly string[] = order,
    onTurn: (variant: string, round: number) => void = () => undefined,
    betweenRounds: () => Promise<unknown> = () => Promise.resolve(),
  ): Promise<MeasuredCell> {
    const { callers, documentBytes, rounds, rows } = cell
    const document = JSON.stringify(documentOf(documentBytes))
    const variants = this.#variants.filter(
      ({ name, maxCallers }) => only.includes(name) && callers <= (maxCallers?.[rows] ?? Infinity),
    )
    const turns = new Map(variants.map(({ name }) => [name, [] as Turn[]]))
    for (let round = 0; round <= rounds; round++) {
      // The variant that comes first or last in one round has another place in the next.
      for (let index = 0; index < variants.length; index++) {
        const variant = variants[(index + round * 5) % variants.length]!
        onTurn(variant.name, round)
        const turn = await this.#turn(cell, variant, document)
        if (round > 0) turns.get(variant.name)!.push(turn)
      }
      await betweenRounds()
    }
    const reference = turns.get(ours)!
    return { ...cell, variants: [...turns].map(([variant, each]) => summary(variant, each, reference)) }
  }

  async #turn(cell: Cell, variant: Variant, document: string): Promise<Turn> {
    const { times = 1 } = cell.rows === 'hot' && cell.callers > 1 ? variant : {}
    const turns: Turn[] = []
    while (turns.length < times) turns.push(await this.#once(cell, variant, document))
    const sum = (count: (turn: Turn) => number): number => turns.reduce((total, turn) => total + count(turn), 0)
    const acknowledged = sum((turn) => turn.acknowledged)
    return {
      microseconds: sum((turn) => turn.microseconds * turn.acknowledged) / acknowledged,
      cpuMicroseconds: sum((turn) => turn.cpuMicroseconds * turn.acknowledged) / acknowledged,
      acknowledged,
      found: sum((turn) => turn.found),
      failed: sum((turn) => turn.failed),
    }
  }

  /** On fresh documents each caller sets one key after the other, all callers at once. */
  async #once(cell: Cell, { table = 'runs', setKey }: Variant, document: string): Promise<Turn> {
    const { callers, calls, rows } = cell
    const rowsUsed = rows === 'hot' ? 1 : Math.min(callers, rowCount)
    await this.#tables.fill(table, rowsUsed, document)
    const acknowledged: string[] = []
    const errors: unknown[] = []
    const caller = async (number: number): Promise<void> => {
      for (let call = number; call < calls; call += callers) {
        const key = `step_${call}`
        try {
          await setKey((number % rowsUsed) + 1, key)
          acknowledged.push(key)
        } catch (error) {
          errors.push(error)
        }
      }
    }
    const [start, cpuStart] = [process.hrtime.bigint(), process.cpuUsage()]
    await Promise.all(Array.from({ length: callers }, (_, number) => caller(number)))
    const nanoseconds = Number(process.hrtime.bigint() - start)
    const { user, system } = process.cpuUsage(cpuStart)
    // A variant that fails always is a mistake of this bench.
    if (acknowledged.length === 0) throw errors[0]
    const keys = await this.#tables.keys(table, rowsUsed)
    return {
      microseconds: nanoseconds / 1000 / acknowledged.length,
      cpuMicroseconds: (user + system) / acknowledged.length,
      acknowledged: acknowledged.length,
      found: acknowledged.filter((key) => keys.has(key)).length,
      failed: errors.length,
    }
  }

  async close(): Promise<void> {
    for (const library of this.#libraries) await library.close()
    await this.#tables.close()
  }
}

/** What one variant did in one round. */
interface Turn {
  readonly microseconds: number
  readonly cpuMicroseconds: number
  readonly acknowledged: number
  readonly found: number
  readonly failed: number
}

function summary(variant: string, turns: readonly Turn[], reference: readonly Turn[]): Measurement {
  const times = turns.map(({ microseconds }) => microseconds)
  const cpuTimes = turns.map(({ cpuMicroseconds }) => cpuMicroseconds)
  const sum = (count: (turn: Turn) => number): number => turns.reduce((total, turn) => total + count(turn), 0)
  return {
    variant,
    microseconds: Math.round(median(times)),
    least: Math.round(Math.min(...times)),
    greatest: Math.round(Math.max(...times)),
    ratio: Number(median(times.map((time, round) => time / reference[round]!.microseconds)).toPrecision(3)),
    cpuMicroseconds: Math.round(median(cpuTimes)),
    cpuRatio: Number(median(cpuTimes.map((time, round) => time / reference[round]!.cpuMicroseconds)).toPrecision(3)),
    acknowledged: sum((turn) => turn.acknowledged),
    found: sum((turn) => turn.found),
    failed: sum((turn) => turn.failed),
  }
}

export function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((one, other) => one - other)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** To two decimals. */
export function rounded(number: number): number {
  return Math.round(number * 100) / 100
}
