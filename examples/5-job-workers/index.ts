import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { databaseUrl } from '../connect.js'
import { sequelize, steps, WorkflowRun } from './workflow-run.js'

async function main(): Promise<void> {
  await WorkflowRun.sync({ force: true })
  const { id } = await WorkflowRun.create({ progress: {}, status: 'running' })

  const env = { ...process.env, DATABASE_URL: databaseUrl }
  const workers = steps.map((step) => fork(join(__dirname, 'worker.js'), [String(id), step], { env }))
  const done = Promise.all(workers.map(succeeds))
  // All are connected before the first one starts, so that they meet at the row.
  await Promise.race([Promise.all(workers.map((worker) => once(worker, 'message'))), done])
  for (const worker of workers) worker.send('start')
  await done

  const run = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  for (const step of steps) console.log(`${step}: ${run.progress[step]}`)
  console.log(`status: ${run.status}`)
  await sequelize.close()
}

async function succeeds(worker: ChildProcess): Promise<void> {
  const [code] = (await once(worker, 'exit')) as [number | null]
  if (code !== 0) throw new Error(`a worker ended with exit code ${code}`)
}

void main()
