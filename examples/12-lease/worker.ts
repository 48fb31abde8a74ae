import { once } from 'node:events'
import { setTimeout as wait } from 'node:timers/promises'
import { equals, remove, set, updateJson } from 'sequelize-lossless'
import { acquire, Job, sequelize } from './job.js'

/** Takes the lease of a job; the worker `two` also does its work. */
async function main(id: number, name: string): Promise<void> {
  await sequelize.authenticate()
  process.send!('ready')
  await once(process, 'message')

  let fence = await acquire(id)
  if (fence === undefined) {
    console.log(`${name}: the lease is taken`)
    process.send!('refused')
  }
  while (fence === undefined) {
    await wait(50)
    fence = await acquire(id)
  }
  console.log(`${name}: holds the lease, fence ${fence}`)
  process.send!('acquired')
  // It is killed here, and does not release the lease.
  if (name === 'one') await once(process, 'message')

  await updateJson([Job, id], 'state', [set('phase', 'finished'), remove('lockedUntil')], {
    if: [equals('fence', fence)],
  })
  console.log(`${name}: finished`)
  await sequelize.close()
}

void main(Number(process.argv[2]), process.argv[3]!)
