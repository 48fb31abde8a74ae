import { once } from 'node:events'
import { connect } from '../connect.js'
import { defineRuns } from '../workflow-run.js'
import { Job, recordStep } from './two-jobs.js'

/** What one operating-system process is told to do. */
export interface Task {
  readonly url: string
  readonly id: number
  readonly way: keyof typeof recordStep
  readonly steps: readonly string[]
}

async function work(): Promise<void> {
  const [task] = (await once(process, 'message')) as [Task]
  const sequelize = connect(task.url, { logging: false })
  const Runs = defineRuns(sequelize)
  const jobs = task.steps.map((step) => new Job(Runs, task.id, step, recordStep[task.way]))
  await Promise.all(jobs.map((job) => job.ready))
  const told = once(process, 'message')
  process.send!('ready')
  await told
  for (const job of jobs) await job.go()
  await sequelize.close()
  process.disconnect()
}

void work()
