import { expect } from 'chai'
import { DataTypes } from 'sequelize'
import {
  increment,
  lock,
  retryTransaction,
  UnsupportedDatabaseError,
  updateJson,
  withLock,
  withLocks,
  withOptimisticLock,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

// Run by `npm run test:versions` on a server whose JSON functions are too old.
eachDatabase('a server whose JSON functions are too old', (database) => {
  const count = (run: WorkflowRun): void => {
    run.progress = { n: Number(run.progress?.['n'] ?? 0) + 1 }
  }
  const countAndSave = async (run: WorkflowRun): Promise<void> => {
    count(run)
    await run.save()
  }

  it('keeps every change that is made under a lock', async () => {
    const { sequelize } = database.connect()
    const Runs = await createRuns(sequelize)
    const { id } = await Runs.create({ progress: {} })
    await Promise.all(Array.from({ length: 20 }, () => withLock([Runs, id], countAndSave)))
    await withLock([Runs, id], countAndSave, { nowait: true })
    await withLocks([[Runs, id]], ([run]) => countAndSave(run))
    await retryTransaction(sequelize, async (transaction) => {
      const run = await Runs.findByPk(id, { transaction, rejectOnEmpty: true })
      await lock(run, { transaction })
      count(run)
      await run.save({ transaction })
    })
    expect((await Runs.findByPk(id))!.progress).to.deep.equal({ n: 23 })
  })

  it('keeps every change of withOptimisticLock', async () => {
    const { sequelize } = database.connect()
    const Runs = await createRuns(sequelize, { tableName: 'versioned_runs', version: true })
    await sequelize.getQueryInterface().changeColumn('versioned_runs', 'version', {
      type: DataTypes.INTEGER,
      allowNull: false,
      defaultValue: 0,
    })
    const { id } = await Runs.create({ progress: {} })
    const retry = { maxAttempts: 50 }
    await Promise.all(Array.from({ length: 8 }, () => withOptimisticLock([Runs, id], count, { retry })))
    expect((await Runs.findByPk(id))!.progress).to.deep.equal({ n: 8 })
  })

  it('refuses every JSON write before it is sent, with the version that it needs', async () => {
    const { sequelize, log } = database.connect()
    const Runs = await createRuns(sequelize)
    const run = await Runs.create({ progress: { n: 1 } })
    const calls: readonly (() => Promise<unknown>)[] = [
      () => run.mergeJsonKey('progress', 'k', 1),
      () => updateJson([Runs, run.id], 'progress', [increment('n')]),
      () => run.withLock((locked) => locked.mergeJson('progress', { k: 1 })),
    ]
    for (const call of calls) {
      const error = await rejection(call(), UnsupportedDatabaseError)
      expect(error.message).to.match(/cannot write part of a JSON document.*Use \w+ [\d.]+ or newer/)
    }
    expect(log.filter((sql) => sql.startsWith('UPDATE'))).to.deep.equal([])
    expect((await run.reload()).progress).to.deep.equal({ n: 1 })
  })
})
