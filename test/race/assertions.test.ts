import { expect, use } from 'chai'
import type { Sequelize } from 'sequelize'
import { mergeJsonKey } from 'sequelize-lossless'
import { assertNoLostUpdate, explore, LostUpdateError, raceAssertions } from 'every-order'
import type { Result } from 'every-order'
import { eachServer } from '../each-database.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

use(raceAssertions)

eachServer('assertions', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
  })

  const race = (participant: (id: number, key: string) => unknown): Promise<Result> =>
    explore({
      sequelize,
      setup: async () => (await Runs.create({ progress: {} })).id,
      participants: { A: (id: number) => participant(id, 'a'), B: (id: number) => participant(id, 'b') },
    })

  async function naive(id: number, key: string): Promise<void> {
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    await run.update({ progress: { ...run.progress, [key]: 1 } })
  }

  it('pass code that loses no update', async () => {
    const kept = await race((id, key) => mergeJsonKey([Runs, id], 'progress', key, 1))
    assertNoLostUpdate(kept)
    expect(kept).to.loseNothing()
    expect(() => expect(kept).not.to.loseNothing()).to.throw(
      /expected an order that loses an update, but all \d+ kept every update/,
    )
  })

  it('fail code that loses an update, with the timeline and the token', async () => {
    const lost = await race(naive)
    const text = /but \d of \d did not.*lost: "[ab]" of progress.*replay: v1:[AB]+/s
    expect(() => assertNoLostUpdate(lost)).to.throw(LostUpdateError, text)
    expect(() => expect(lost).to.loseNothing()).to.throw(text)
    expect(lost).not.to.loseNothing()
  })

  it('fail an inconclusive exploration, both with and without not', async () => {
    const unknown = await race(() => undefined)
    const text = /is inconclusive:\n- no participant wrote to a table/
    expect(() => assertNoLostUpdate(unknown)).to.throw(LostUpdateError, text)
    expect(() => expect(unknown).to.loseNothing()).to.throw(text)
    expect(() => expect(unknown).not.to.loseNothing()).to.throw(text)
  })
})
