import { assertNoLostUpdate, explore } from 'every-order'
import type { Result } from 'every-order'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
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
  // In braces: Vitest calls a function that this returns, and sync() resolves to the class.
  beforeAll(async () => {
    await WorkflowRun.sync({ force: true })
  })
  afterAll(() => sequelize.close())

  it('lost a step, as the handler was', { timeout: 30_000 }, async () => {
    const { verdict } = await race(completeStepNaive)
    expect(verdict).toBe('lost')
  })

  it('keep both, in every order', { timeout: 30_000 }, async () => {
    assertNoLostUpdate(await race(completeStep))
  })
})
