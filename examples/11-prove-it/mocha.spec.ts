import { expect, use } from 'chai'
import { explore, raceAssertions } from 'every-order'
import type { Result } from 'every-order'
import { completeStep, completeStepNaive, sequelize, WorkflowRun } from './complete-step.js'

use(raceAssertions)

const race = (complete: typeof completeStep): Promise<Result> =>
  explore({
    sequelize,
    setup: async () => (await WorkflowRun.create({ progress: {} })).id,
    participants: {
      job_a: (id: number) => complete(id, 'step_a'),
      job_b: (id: number) => complete(id, 'step_b'),
    },
  })

describe('two jobs that complete steps of one run', function () {
  this.timeout(30_000)
  before(() => WorkflowRun.sync({ force: true }))
  after(() => sequelize.close())

  it('lost a step, as the handler was', async () => {
    expect(await race(completeStepNaive)).not.to.loseNothing()
  })

  it('keep both, in every order', async () => {
    expect(await race(completeStep)).to.loseNothing()
  })
})
