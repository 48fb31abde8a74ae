import { expect } from 'chai'
import { StaleRowError, withLock } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'

eachDatabase('a locked instance with unsaved changes', (database) => {
  it('does not overwrite what another instance wrote in the same transaction', async () => {
    const { sequelize } = database.connect()
    const Runs = await createRuns(sequelize)
    const { id } = await Runs.create({ progress: {} })
    const call = withLock([Runs, id], async (run, transaction) => {
      run.progress!['mine'] = 1
      const other = await Runs.findByPk(id, { transaction, rejectOnEmpty: true })
      await other.update({ progress: { helper: 1 } }, { transaction })
      await run.save()
    })
    expect((await rejection(call, StaleRowError)).columns).to.deep.equal(['progress'])
    expect((await Runs.findByPk(id, { rejectOnEmpty: true })).progress).to.deep.equal({})
  })

  it('does not overwrite what Model.update wrote in the same transaction, through a scope too', async () => {
    const { sequelize } = database.connect()
    const Runs = await createRuns(sequelize)
    for (const Scope of [Runs, Runs.unscoped()]) {
      const { id } = await Runs.create({ progress: {} })
      const call = withLock([Runs, id], async (run, transaction) => {
        await Scope.update({ progress: { helper: 1 } }, { where: { id }, transaction })
        run.progress!['mine'] = 1
        await run.save()
      })
      expect((await rejection(call, StaleRowError)).columns).to.deep.equal(['progress'])
    }
  })
})
