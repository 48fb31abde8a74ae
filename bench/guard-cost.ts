import { lossless } from 'sequelize-lossless'
import { median, rounded } from './measure.js'
import { defineRun, documentOf, openSequelize, Tables } from './table.js'
import type { Run } from './table.js'

/** What the guard of whole-column writes adds to a call of Sequelize's own, of one caller. */
export interface GuardCost {
  readonly call: string
  readonly policy: Policy
  /** Of one call: the median of the rounds. */
  readonly microseconds: number
  /** Of which this process was at work itself. */
  readonly cpuMicroseconds: number
  /** By those without a guard in the same round: the median of the rounds. */
  readonly ratio: number
  readonly cpuRatio: number
}

type Policy = 'none' | 'warn' | 'patch'

const policies: readonly Policy[] = ['none', 'warn', 'patch']

/** The calls that are measured, on a row that was loaded. */
const calls: Readonly<Record<string, (row: Run, count: number, options: object) => Promise<unknown>>> = {
  load: (row) => (row.constructor as typeof Run).findByPk(row.id),
  'save of another column': (row) => {
    row.changed('updatedAt', true)
    return row.save()
  },
  'save of the document': (row, count, options) =>
    row.update({ progress: { ...row.progress, step: `step ${count}` } }, options),
}

interface Turn {
  readonly microseconds: number
  readonly cpuMicroseconds: number
}

/** Each call under each policy in turn, on a document of so many bytes; the round before the first one is not counted. */
export async function measureGuard(
  url: string,
  { documentBytes, rounds, callsPerRound }: { documentBytes: number; rounds: number; callsPerRound: number },
): Promise<GuardCost[]> {
  const tables = await Tables.create(url)
  await tables.fill('runs', policies.length, JSON.stringify(documentOf(documentBytes)))
  // A guard is of a whole Sequelize instance: each has one of its own.
  const opened = policies.map((policy) => {
    const sequelize = openSequelize(url)
    const Runs = defineRun(sequelize, 'runs')
    return { policy, sequelize, Runs: policy === 'none' ? Runs : lossless(Runs, { wholeColumnWrites: policy }) }
  })
  const costs: GuardCost[] = []
  for (const [call, run] of Object.entries(calls)) {
    const turns = new Map(policies.map((policy) => [policy, [] as Turn[]]))
    for (let round = 0; round <= rounds; round++) {
      // The mode that comes first in one round comes last in the next.
      const order = round % 2 === 0 ? opened : opened.toReversed()
      for (const { policy, Runs } of order) {
        const row = await Runs.findByPk(policies.indexOf(policy) + 1, { rejectOnEmpty: true })
        // The one report of 'warn' is dropped.
        await run(row, round, { logging: () => undefined })
        const [start, cpuStart] = [process.hrtime.bigint(), process.cpuUsage()]
        for (let count = 0; count < callsPerRound; count++) await run(row, round * callsPerRound + count, {})
        const { user, system } = process.cpuUsage(cpuStart)
        const microseconds = Number(process.hrtime.bigint() - start) / 1000 / callsPerRound
        if (round > 0) turns.get(policy)!.push({ microseconds, cpuMicroseconds: (user + system) / callsPerRound })
      }
    }
    const without = turns.get('none')!
    const ratio = (own: readonly Turn[], key: keyof Turn): number =>
      rounded(median(own.map((turn, round) => turn[key] / without[round]![key])))
    for (const [policy, own] of turns) {
      costs.push({
        call,
        policy,
        microseconds: Math.round(median(own.map((turn) => turn.microseconds))),
        cpuMicroseconds: Math.round(median(own.map((turn) => turn.cpuMicroseconds))),
        ratio: ratio(own, 'microseconds'),
        cpuRatio: ratio(own, 'cpuMicroseconds'),
      })
    }
  }
  for (const { sequelize } of opened) await sequelize.close()
  await tables.close()
  return costs
}

/** A line for each call under each policy: the time, that of this process, and both by those without a guard. */
export function guardLines(costs: readonly GuardCost[]): string[] {
  const rows = costs.map(({ call, policy, microseconds, cpuMicroseconds, ratio, cpuRatio }) => [
    call,
    policy,
    `${microseconds} µs`,
    `${cpuMicroseconds} µs CPU`,
    `${ratio.toFixed(2)} ×`,
    `${cpuRatio.toFixed(2)} × CPU`,
  ])
  const widths = rows[0]!.map((_, index) => Math.max(...rows.map((row) => row[index]!.length)))
  return rows.map((row) =>
    row.map((cell, index) => (index < 2 ? cell.padEnd(widths[index]!) : cell.padStart(widths[index]!))).join('  '),
  )
}
