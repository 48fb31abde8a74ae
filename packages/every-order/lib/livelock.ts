import { accessesOf, isStale, mayShare, rowOf } from './dependencies.js'
import type { Anomaly } from './dependencies.js'
import type { Step } from './step.js'

/** Names the loop of a participant that never ends: a livelock, if it reads an old snapshot again and again. */
export function livelockOf(name: string, steps: readonly Step[]): Anomaly {
  const accesses = accessesOf(steps)
  const last = accesses.findLast(({ step, verb }) => step.participant === name && verb === 'select')
  const begin = last?.step.transaction
  const stale = accesses.find(
    (write) =>
      begin !== undefined &&
      write.verb !== 'select' &&
      write.step.participant !== name &&
      write.committedAt > begin &&
      write.committedAt < last!.at &&
      mayShare(last!, write) &&
      isStale(last!, write),
  )
  if (!stale || !last)
    return { name: 'unnamed', cycle: [], sentence: 'The loop does not read an old snapshot.', remedy: '' }
  const read = {
    kind: 'rw',
    from: last.step,
    to: stale.step,
    item: stale.step.touched[0] ?? `${stale.table}#*`,
  } as const
  const sentence = `The transaction that ${name} began at ${begin} still reads at ${last.step.number} what was there before ${stale.step.participant} wrote ${rowOf(read.item)} at ${stale.step.number}.`
  const remedy =
    'Read in a new transaction in each turn of the loop, or with a lock (FOR UPDATE), and bound the number of turns.'
  return { name: 'livelock', cycle: [read], sentence, remedy }
}
