import { expect } from 'chai'
import type { Sequelize, Transaction } from 'sequelize'
import { eachDatabase } from '../each-database.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

eachDatabase('a locked row, after the rollback of a savepoint', (database) => {
  let sequelize: Sequelize

  before(() => {
    ;({ sequelize } = database.connect())
  })

  const undone = new Error('undone')

  async function rolledBack(
    transaction: Transaction,
    work: (savepoint: Transaction) => Promise<unknown>,
  ): Promise<void> {
    const nested = sequelize.transaction({ transaction }, async (savepoint) => {
      await work(savepoint)
      throw undone
    })
    await nested.catch((error: unknown) => {
      if (error !== undone) throw error
    })
  }

  const writes: Readonly<Record<string, (row: WorkflowRun, savepoint: Transaction) => Promise<unknown>>> = {
    update: (row, transaction) => row.update({ title: 'done' }, { transaction }),
    'update without being told': (row) => row.update({ title: 'done' }),
    'a change in place': (row, transaction) => {
      row.progress!['k'] = 1
      return row.save({ transaction })
    },
    mergeJsonKey: (row, transaction) => row.mergeJsonKey('progress', 'k', 1, { transaction }),
    increment: (row, transaction) => row.increment('id', { by: 0, transaction }),
    withLock: (row, transaction) => row.withLock((locked) => locked.update({ title: 'done' }), { transaction }),
    'a savepoint inside, kept': (row, transaction) =>
      sequelize.transaction({ transaction }, (inner) => row.update({ title: 'done' }, { transaction: inner })),
  }

  for (const version of [false, true]) {
    describe(version ? 'with a version' : 'without a version', () => {
      let Runs: typeof WorkflowRun

      before(async () => {
        Runs = await createRuns(sequelize, { version, tableName: version ? 'versioned_runs' : 'plain_runs' })
      })

      for (const [name, write] of Object.entries(writes)) {
        it(`has its values from before ${name}, and the same change can be written again`, async () => {
          const run = await Runs.create({ title: 'before', progress: {} })
          await run.withLock(async (row, transaction) => {
            await row.update({ title: 'outer' })
            await rolledBack(transaction, (savepoint) => write(row, savepoint))
            expect([row.title, row.progress, row.changed()]).to.deep.equal(['outer', {}, false])
            await row.update({ title: 'done' })
            row.progress!['k'] = 1
            await row.save()
          })
          const stored = await Runs.findByPk(run.id, { rejectOnEmpty: true })
          expect([stored.title, stored.progress]).to.deep.equal(['done', { k: 1 }])
          expect([run.title, run.progress]).to.deep.equal(['done', { k: 1 }])
          await run.update({ title: 'later' })
          await run.destroy()
          expect(await Runs.findByPk(run.id)).to.equal(null)
        })
      }

      it('has the incremented version in memory, so that a later destroy deletes it', async () => {
        const run = await Runs.create({ progress: {} })
        await run.withLock(async (row) => {
          await row.increment('id', { by: 0 })
          await row.update({ title: 'incremented' })
          await row.decrement('id', { by: 0 })
          await row.destroy()
        })
        expect(await Runs.findByPk(run.id)).to.equal(null)
      })
    })
  }
})
