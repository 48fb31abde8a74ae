import { once } from 'node:events'
import { flush, mergeJsonKey } from 'sequelize-lossless'
import { connect } from '../connect.js'
import { defineRuns } from '../workflow-run.js'

/** What one of several processes that write to one row is told to do. */
export interface Crowd {
  readonly url: string
  readonly id: number
  readonly name: string
  readonly calls: number
  readonly callers: number
}

/** Sends as many callers as told, each of which sets one key after the other; answers with the most memory that was used. */
async function work(): Promise<void> {
  const [{ url, id, name, calls, callers }] = (await once(process, 'message')) as [Crowd]
  const sequelize = connect(url, { logging: false })
  const Runs = defineRuns(sequelize)
  let next = 0
  let peakBytes = 0
  const caller = async (): Promise<void> => {
    for (let call = next++; call < calls; call = next++) {
      if (call % 100 === 0) peakBytes = Math.max(peakBytes, process.memoryUsage.rss())
      await mergeJsonKey([Runs, id], 'progress', `${name}_${call}`, call, { coalesce: true })
    }
  }
  await Promise.all(Array.from({ length: callers }, caller))
  await flush(sequelize)
  await sequelize.close()
  // Not resourceUsage(), which counts what the parent had when it forked.
  process.send!(peakBytes / 2 ** 20)
  process.disconnect()
}

void work()
