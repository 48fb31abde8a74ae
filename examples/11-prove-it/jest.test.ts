import { afterAll, beforeAll, describe, expect, it } from '@jest/globals'
import { assertNoLostUpdate, explore } from 'every-order'
import type { Result } from 'every-order'
import { completeStep, completeStepNaive, sequelize, WorkflowRun } from './complete-step.js'

const race = (complete: typeof completeStep): Promise<Result> =>
  explore({
    sequelize,
    setup: async () => (await WorkflowRun.create({ progress: {} })).id,
    participants: {
      job_a: (id: number) => complete(id, 'step_a'),
      job_b: (id: number) => complete(id, 'step_b'),
    },
  })

describe('two jobs that complete steps of one run', () => {
  beforeAll(() => WorkflowRun.sync({ force: true }))
  afterAll(() => sequelize.close())

  it('lost a step, as the handler was', async () => {
    const { verdict } = await race(completeStepNaive)
    expect(verdict).toBe('lost')
  }, 30_000)

  it('keep both, in every order', async () => {
    assertNoLostUpdate(await race(completeStep))
  }, 30_000)
})
