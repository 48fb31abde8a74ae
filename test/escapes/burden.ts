import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { queryObjects } from 'node:v8'
import { Transaction } from 'sequelize'
import { mergeJsonKey, withLock } from 'sequelize-lossless'
import { connect } from '../connect.js'
import { defineRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

/** The work of a child process, and what it measures. */
export interface Burden {
  readonly url: string
  readonly id: number
  /** `locks`: withLock of one row object. `merges`: mergeJsonKey of one row, in one transaction. `savepoints`: in one, each with two writes. */
  readonly work: 'locks' | 'merges' | 'savepoints'
  readonly times: number
}

export interface Measured {
  /** What is in use after a collection of garbage, in MiB: after 20 % of the work, and after all of it. */
  readonly heap: readonly [early: number, late: number]
  /** Transactions that are still in memory. */
  readonly transactions: number
  /** Processor time in milliseconds: of the first quarter of the work, and of the last one. */
  readonly processor: readonly [first: number, last: number]
}

declare const gc: () => void

async function heapMebibytes(): Promise<number> {
  // What a turn of the event loop lets go, too.
  for (let round = 0; round < 3; round++) {
    await turn()
    gc()
  }
  return process.memoryUsage().heapUsed / 2 ** 20
}

async function bear(): Promise<void> {
  const [{ url, id, work, times }] = (await once(process, 'message')) as [Burden]
  const sequelize = connect(url, { logging: false, pool: { max: 1 } })
  const Runs = defineRuns(sequelize)
  const row = await Runs.findByPk(id, { rejectOnEmpty: true })
  const heap: number[] = []
  const spent: number[] = []
  const repeat = async (step: (index: number) => Promise<unknown>): Promise<void> => {
    let quarter = process.cpuUsage()
    for (let index = 0; index < times; index++) {
      await step(index)
      if ((index + 1) % (times / 4) === 0) {
        const { user, system } = process.cpuUsage(quarter)
        spent.push((user + system) / 1000)
        quarter = process.cpuUsage()
      }
      if (index + 1 === times / 5 || index + 1 === times) heap.push(await heapMebibytes())
    }
  }
  const works: Readonly<Record<Burden['work'], () => Promise<unknown>>> = {
    locks: () =>
      repeat((index) =>
        row.withLock(async (locked) => {
          locked.progress!['n'] = index
          await locked.save()
        }),
      ),
    merges: () =>
      sequelize.transaction((transaction) =>
        repeat((index) => mergeJsonKey(row, 'progress', `key_${index % 50}`, index, { transaction })),
      ),
    savepoints: () =>
      withLock(row, (locked: WorkflowRun, transaction) =>
        repeat((index) =>
          sequelize.transaction({ transaction }, async () => {
            locked.progress!['n'] = index
            await locked.save()
            await locked.mergeJsonKey('progress', 'k', index)
          }),
        ),
      ),
  }
  await works[work]()
  await heapMebibytes()
  const measured: Measured = {
    heap: [heap[0]!, heap[1]!],
    transactions: queryObjects(Transaction, { format: 'count' }),
    processor: [spent[0]!, spent[3]!],
  }
  await sequelize.close()
  process.send!(measured)
  process.disconnect()
}

void bear()
