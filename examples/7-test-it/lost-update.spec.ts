import { expect } from 'chai'
import { completeStep, completeStepNaive, sequelize, WorkflowRun } from './complete-step.js'
import type { Step } from './complete-step.js'

const complete = process.env['COMPLETE_STEP'] === 'naive' ? completeStepNaive : completeStep

/** A job that has loaded the run when `ready` resolves, and writes to it when `go` is called. */
interface Job {
  readonly ready: Promise<unknown>
  go(): Promise<void>
}

function startJob(id: number, step: Step): Job {
  let start!: () => void
  const started = new Promise<void>((resolve) => (start = resolve))
  const ready = WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  const done = ready.then(async (run) => {
    await started
    await complete(run, step)
  })
  return {
    ready,
    go: () => {
      start()
      return done
    },
  }
}

describe('two jobs that finish steps of one run', () => {
  before(() => WorkflowRun.sync({ force: true }))
  after(() => sequelize.close())

  it('keep the step of the other', async () => {
    const { id } = await WorkflowRun.create({ progress: {} })
    const jobA = startJob(id, 'step_a')
    const jobB = startJob(id, 'step_b')

    await Promise.all([jobA.ready, jobB.ready])
    await jobA.go()
    await jobB.go()

    const run = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
    expect(run.progress).to.deep.equal({ step_a: 'done', step_b: 'done' })
  })
})
