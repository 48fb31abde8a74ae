import type { WorkflowRun } from '../workflow-run.js'
import { check } from './history.js'
import type { Operation, Outcome, Verdict } from './history.js'
import { finalRead, Load } from './load.js'
import type { Way } from './load.js'
import { until } from '../patience.js'
import type { Random } from './random.js'

/** Writers at work, and what a fault needs of them. */
export interface Scene {
  readonly load: Load
  /** The row that half of all writes go to. */
  readonly hot: WorkflowRun
  /** Resolves once so many more writes have failed in this way. */
  readonly failures: (how: RegExp, more: number) => Promise<void>
}

interface Ordeal {
  /** Through the connection that faults happen to. */
  readonly Runs: typeof WorkflowRun
  /** Through one that they do not. */
  readonly Observed: typeof WorkflowRun
  readonly ways: readonly Way[]
  readonly writers: number
  readonly random: Random
  /** How often the fault has to land. */
  readonly times: number
  /** If it lands as often as writes fail in this way, and not once for each time it is injected. */
  readonly fails?: RegExp | undefined
  /** How many writes are acknowledged at least, spread over the faults. */
  readonly acknowledged: number
  /** Lets the fault happen under load, and resolves once it has. */
  readonly inject: (scene: Scene) => Promise<void>
}

export interface Endured extends Verdict {
  readonly landed: number
  readonly acknowledged: number
  readonly unknown: number
}

/** What is wrong with a run, in words; nothing if it is valid. */
export function flaws(verdict: Verdict): string[] {
  const kinds = ['lost', 'unexpected', 'phantom', 'duplicated', 'doubts'] as const
  return kinds.filter((kind) => verdict[kind].length > 0).map((kind) => `${kind}: ${verdict[kind].join(', ')}`)
}

/** Lets writers write while faults happen, and judges what is left. */
export async function endure(ordeal: Ordeal): Promise<Endured> {
  const { Runs, Observed, times, fails } = ordeal
  const rows: WorkflowRun[] = []
  while (rows.length < 11) rows.push(await Observed.create({ progress: {} }))
  const ids = rows.map(({ id }) => id)
  const load = new Load(Runs, ids, ordeal.ways, ordeal.writers, ordeal.random)
  const { operations } = load.history
  const count = (is: (operation: Operation) => boolean): number =>
    new Set(operations.filter(is).map(({ id }) => id)).size
  const failed = (how: RegExp): number => count(({ error }) => how.test(nameOf(error)))
  const failures = async (how: RegExp, more: number): Promise<void> => {
    const enough = failed(how) + more
    await until(`${enough} writes have failed of ${how.source}`, () => failed(how) >= enough || undefined)
  }

  let injected = 0
  const landed = (): number => (fails ? failed(fails) : injected)
  try {
    while (landed() < times) {
      await load.acknowledges(Math.ceil(ordeal.acknowledged / (times + 1)))
      await load.during(ordeal.inject({ load, hot: rows[0]!, failures }))
      injected++
    }
    await load.during(load.history.reaches(ordeal.acknowledged))
  } finally {
    await load.stop()
  }
  const verdict = check(operations, await finalRead(Observed, ids), { landed: landed(), demanded: times })
  const of = (outcome: Outcome): number => count((operation) => operation.outcome === outcome)
  const endured = { ...verdict, landed: landed(), acknowledged: load.history.acknowledged, unknown: of('unknown') }
  console.log(
    `      ${verdict.result}: ${endured.landed} faults, ${endured.acknowledged} acknowledged, ${of('failed')} failed, ` +
      `${endured.unknown} unknown (${verdict.recovered.length} of them written), ${verdict.lost.length} lost`,
  )
  return endured
}

/** The class of an error, and the codes that it and its causes carry. */
function nameOf(error: unknown): string {
  if (!(error instanceof Error)) return ''
  const { code, parent, cause } = error as Error & { code?: string; parent?: unknown }
  return [error.constructor.name, code, nameOf(parent), nameOf(cause)].join(' ')
}
