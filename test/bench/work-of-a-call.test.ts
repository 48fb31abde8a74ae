import { createHook } from 'node:async_hooks'
import { expect } from 'chai'
import { QueryTypes } from 'sequelize'
import type { Sequelize } from 'sequelize'
import { eachDatabase } from '../each-database.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

/** What a call does: the statements that it sends, and the promises that it creates. */
interface Work {
  readonly statements: number
  readonly promises: number
}

/** Does a call once to warm up, and counts what the second one does. Another test must not run at the same time. */
async function workOf(log: readonly string[], call: () => Promise<unknown>): Promise<Work> {
  await call()
  let promises = 0
  const hook = createHook({ init: (_id, type) => void (type === 'PROMISE' && promises++) })
  const before = log.length
  hook.enable()
  await call()
  hook.disable()
  return { statements: log.length - before, promises }
}

// The bench measures times. A loaded machine does not change these counts, which the time of a call follows.
eachDatabase('the work of a call', (database) => {
  let sequelize: Sequelize
  let log: readonly string[]
  let Runs: typeof WorkflowRun
  let run: WorkflowRun
  let step = 0

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Runs = await createRuns(sequelize)
    run = await Runs.create({ progress: {} })
  })

  it('of mergeJsonKey is one statement, and at most 22 promises more than sequelize.query makes', async () => {
    const own = await workOf(log, () => run.mergeJsonKey('progress', 'step', step++))
    const bare = await workOf(log, () =>
      sequelize.query('UPDATE workflow_runs SET title = $1 WHERE id = $2', {
        bind: [String(step++), run.id],
        type: QueryTypes.UPDATE,
      }),
    )
    expect(own.statements).to.equal(bare.statements).and.equal(1)
    expect(own.promises - bare.promises).to.be.within(1, 22)
  })

  it('of withLock and save is that of a transaction by hand, and at most 35 promises', async () => {
    const own = await workOf(log, () =>
      run.withLock((row) => {
        row.progress = { step: step++ }
        return row.save()
      }),
    )
    const byHand = await workOf(log, () =>
      sequelize.transaction(async (transaction) => {
        const row = await Runs.findByPk(run.id, { transaction, lock: true, rejectOnEmpty: true })
        row.progress = { step: step++ }
        await row.save({ transaction })
      }),
    )
    expect(own.statements).to.equal(byHand.statements)
    expect(own.promises - byHand.promises).to.be.within(1, 35)
  })

  it('of withLock and update writes a long document as text twice', async () => {
    let texts = 0
    const counter = {
      toJSON: () => {
        texts++
        return 1
      },
    }
    await run.withLock((row) => row.update({ progress: { text: 'x'.repeat(10_000), counter } }))
    expect(texts).to.equal(2)
  })
})
