import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { ModelOptions, Sequelize } from 'sequelize'
import { lossless } from 'sequelize-lossless'
import type { LosslessOptions, WholeColumnReport } from 'sequelize-lossless'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

/** The model of the tests, guarded, with its empty table. */
export async function guardedRuns(
  sequelize: Sequelize,
  guard: LosslessOptions,
  options: ModelOptions<WorkflowRun> = {},
): Promise<typeof WorkflowRun> {
  const Runs = await createRuns(sequelize, options)
  return lossless(Runs, guard)
}

/** What is reported while `act` runs. */
export async function reports(act: () => Promise<unknown>): Promise<WholeColumnReport[]> {
  const seen: WholeColumnReport[] = []
  const see = (write: unknown): void => void seen.push(write as WholeColumnReport)
  subscribe('sequelize-lossless:whole-column-write', see)
  try {
    await act()
  } finally {
    unsubscribe('sequelize-lossless:whole-column-write', see)
  }
  return seen
}

/** The warnings of the process while `act` runs. */
export async function warnings(act: () => Promise<unknown>): Promise<(Error & { readonly code?: string })[]> {
  const seen: Error[] = []
  const see = (warning: Error): void => void seen.push(warning)
  process.on('warning', see)
  try {
    await act()
    // A warning is emitted in the next tick.
    await new Promise(setImmediate)
  } finally {
    process.off('warning', see)
  }
  return seen
}

/** The number of the line that calls this. */
export function hereLine(): number {
  return Number(/:(\d+):\d+\)?$/.exec(new Error().stack!.split('\n')[2]!)![1])
}
