import { BaseError } from 'sequelize'
import {
  append,
  atomicUpdate,
  atomicUpsert,
  increment,
  mergeJsonKey,
  replaceOrAppend,
  set,
  UnknownOutcomeError,
  updateJson,
  updateWhere,
  withLock,
} from 'sequelize-lossless'
import type { WorkflowRun } from '../workflow-run.js'
import { History } from './history.js'
import type { FinalRead, Outcome } from './history.js'
import type { Random } from './random.js'

type Runs = typeof WorkflowRun

/** A way to write an id into the documents of one row or several, all or none. */
export interface Way {
  readonly rows: 1 | 2
  readonly write: (Runs: Runs, rows: readonly number[], id: string) => Promise<unknown>
}

/** What this library offers, each with the counter or the keys that the final read is held against. */
export const lossless: readonly Way[] = [
  { rows: 1, write: (Runs, [row], id) => mergeJsonKey([Runs, row!], 'progress', id, 1) },
  {
    rows: 1,
    write: (Runs, [row], id) => updateJson([Runs, row!], 'progress', [increment('count'), append('log', id)]),
  },
  {
    rows: 1,
    write: (Runs, [row], id) =>
      withLock([Runs, row!], async (run) => {
        run.progress![id] = 1
        await run.save()
      }),
  },
  // Several columns; a row that may not be there; every row that matches; a list by id.
  { rows: 1, write: (Runs, [row], id) => atomicUpdate([Runs, row!], { progress: [set(id, 1)], title: id }) },
  { rows: 1, write: (Runs, [row], id) => atomicUpsert([Runs, row!], { progress: [set(id, 1)] }) },
  { rows: 1, write: (Runs, [row], id) => updateWhere(Runs, { id: row! }, { progress: [set(id, 1)] }) },
  {
    rows: 1,
    write: (Runs, [row], id) => updateJson([Runs, row!], 'progress', [replaceOrAppend('list', 'id', { id })]),
  },
]

/** The same without a transaction, in statements that many calls share. */
export const coalesced: readonly Way[] = [
  {
    rows: 1,
    write: (Runs, [row], id) => mergeJsonKey([Runs, row!], 'progress', id, 1, { coalesce: true }),
  },
  {
    rows: 1,
    write: (Runs, [row], id) =>
      updateJson([Runs, row!], 'progress', [increment('count'), append('log', id)], { coalesce: true }),
  },
]

/** Two rows in one transaction, in whichever order: what deadlocks are made of. */
export const crossing: readonly Way[] = [
  {
    rows: 2,
    write: (Runs, [row, other], id) =>
      withLock([Runs, row!], async (run, transaction) => {
        await run.mergeJsonKey('progress', id, 1)
        await mergeJsonKey([Runs, other!], 'progress', id, 1, { transaction })
      }),
  },
]

/** As everybody writes it first. */
export const naive: readonly Way[] = [
  {
    rows: 1,
    async write(Runs, [row], id) {
      const run = await Runs.findByPk(row!, { rejectOnEmpty: true })
      await run.update({ progress: { ...run.progress, [id]: 1 } })
    },
  },
]

/** What is known of a write that failed: nothing, if the library says so; else that it was not done. */
function outcomeOf(error: unknown): Exclude<Outcome, 'acknowledged'> {
  // A mistake of the suite is no fault.
  if (!(error instanceof BaseError)) throw error
  return error instanceof UnknownOutcomeError ? 'unknown' : 'failed'
}

/** How an id is recognised in what is sent. */
export const idPattern = /write-\d+-\d+/

/** Writers that write to a hot row and to others until they are stopped, each id once, and keep a history of it. */
export class Load {
  readonly history = new History()
  readonly #Runs: Runs
  readonly #rows: readonly number[]
  readonly #ways: readonly Way[]
  readonly #random: Random
  readonly #done: Promise<unknown>
  #isStopped = false
  #obstacle: Promise<unknown> | undefined

  /** Half of all writes go to the first row. */
  constructor(Runs: Runs, rows: readonly number[], ways: readonly Way[], writers: number, random: Random) {
    this.#Runs = Runs
    this.#rows = rows
    this.#ways = ways
    this.#random = random
    this.#done = Promise.all(Array.from({ length: writers }, (_, writer) => this.#write(writer)))
    // Its error rejects a later await too.
    this.#done.catch(() => undefined)
  }

  /** `promise`, unless a writer comes to a bad end before. */
  during<Result>(promise: Promise<Result>): Promise<Result> {
    return Promise.race([promise, this.#done.then(() => promise)])
  }

  /** Resolves once so many more writes were acknowledged. */
  async acknowledges(more: number): Promise<void> {
    await this.during(this.history.reaches(this.history.acknowledged + more))
  }

  /** Until `obstacle` is out of the way, a writer whose write failed waits instead of failing again. */
  async around(obstacle: Promise<unknown>): Promise<void> {
    this.#obstacle = obstacle
    await obstacle
    this.#obstacle = undefined
  }

  async stop(): Promise<void> {
    this.#isStopped = true
    await this.#done
  }

  async #write(writer: number): Promise<void> {
    for (let sequence = 0; !this.#isStopped; sequence++) {
      const id = `write-${writer}-${sequence}`
      const way = this.#random.pick(this.#ways)
      const rows = this.#pickRows(way.rows)
      const outcome = await this.history.attempt(
        { id, writer, keys: rows.map(String) },
        () => way.write(this.#Runs, rows, id),
        outcomeOf,
      )
      if (outcome !== 'acknowledged') await this.#obstacle
    }
  }

  #pickRows(count: number): number[] {
    const [hot, ...others] = this.#rows
    const row = this.#random.next() < 0.5 ? hot! : this.#random.pick(others)
    return count === 1 ? [row] : [row, this.#random.pick(this.#rows.filter((other) => other !== row))]
  }
}

interface Progress {
  readonly count?: number
  readonly log?: readonly string[]
  readonly list?: readonly { readonly id: string }[]
  readonly [id: string]: unknown
}

/** What is in the rows in the end: the ids that are keys, those in the list, and those in the log, which the counter has counted. */
export async function finalRead(Runs: Runs, rows: readonly number[]): Promise<FinalRead> {
  const runs = await Runs.findAll({ where: { id: [...rows] } })
  return new Map(
    runs.map(({ id, progress }) => {
      const { count = 0, log = [], list = [], ...keys } = progress as Progress
      if (count !== log.length) throw new Error(`row ${id} counted ${count} and logged ${log.length}`)
      return [String(id), [...Object.keys(keys), ...log, ...list.map((item) => item.id)]]
    }),
  )
}
