import { once } from 'node:events'
import { mergeJsonKey } from 'sequelize-lossless'
import { sequelize, steps, WorkflowRun } from './workflow-run.js'
import type { Step } from './workflow-run.js'

/** One job, in a process of its own: records its step, and finishes the run if it was the last. */
async function main(id: number, step: Step): Promise<void> {
  await sequelize.authenticate()
  process.send!('ready')
  await once(process, 'message')

  const progress = await mergeJsonKey([WorkflowRun, id], 'progress', step, 'done', { returning: true })
  if (steps.every((each) => progress[each] === 'done')) {
    await WorkflowRun.update({ status: 'finished' }, { where: { id } })
    console.log('One worker saw that it was the last, and finished the run.')
    console.error(`(This time it was the worker of ${step}, process ${process.pid}.)`)
  }
  await sequelize.close()
}

void main(Number(process.argv[2]), process.argv[3] as Step)
