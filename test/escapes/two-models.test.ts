import { expect } from 'chai'
import { DataTypes } from 'sequelize'
import type { Model, ModelStatic, Sequelize, Transaction } from 'sequelize'
import {
  atomicUpdate,
  increment,
  lossless,
  plus,
  StaleRowError,
  updateJson,
  updateWhere,
  withLock,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'

interface Job extends Model {
  readonly id: number
  stats: Record<string, unknown>
  runs: number
  price: number
  gross: number
}

interface Report extends Model {
  readonly id: number
  data: Record<string, unknown>
  count: number
  /** The column `gross`; the column `price` is no attribute. */
  price: number
}

eachDatabase('two models of one table, whose attributes have other names,', (database) => {
  let sequelize: Sequelize
  let Jobs: ModelStatic<Job>
  let Reports: ModelStatic<Report>
  let id: number

  before(async () => {
    ;({ sequelize } = database.connect())
    const key = () => ({ type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true })
    const number = (field?: string) => ({ type: DataTypes.INTEGER, defaultValue: 0, ...(field && { field }) })
    const options = { tableName: 'shared_jobs', timestamps: false }
    const own = { id: key(), stats: DataTypes.JSON, runs: number(), price: number(), gross: number() }
    Jobs = lossless(sequelize.define<Job>('Job', own, options))
    const other = {
      id: key(),
      data: { type: DataTypes.JSON, field: 'stats' },
      count: number('runs'),
      price: number('gross'),
    }
    Reports = lossless(sequelize.define<Report>('Report', other, options))
    await Jobs.sync({ force: true })
  })
  beforeEach(async () => {
    await Jobs.destroy({ where: {} })
    ;({ id } = await Jobs.create({ stats: { n: 0 }, runs: 0, price: 100, gross: 200 }))
  })

  const helpers: Readonly<Record<string, (transaction: Transaction) => Promise<unknown>>> = {
    updateJson: (transaction) => updateJson([Reports, id], 'data', [increment('n')] as never, { transaction }),
    atomicUpdate: (transaction) => atomicUpdate([Reports, id], { count: plus(10) } as never, { transaction }),
    updateWhere: (transaction) => updateWhere(Reports, { id } as never, { count: plus(10) } as never, { transaction }),
    'Model.update()': (transaction) => Reports.update({ count: 10 }, { where: { id }, transaction }),
    'Model.increment()': (transaction) => Reports.increment('count', { by: 10, where: { id }, transaction }),
    'withLock and save()': (transaction) =>
      withLock([Reports, id], (row) => row.update({ data: { n: 1 }, count: 10 }), { transaction }),
    'withLock and increment()': (transaction) =>
      withLock([Reports, id], (row) => row.increment('count', { by: 10 }), { transaction }),
  }
  for (const [name, helper] of Object.entries(helpers)) {
    it(`keep the write of each other, or refuse the save: ${name}`, async () => {
      const call = withLock([Jobs, id], async (job, transaction) => {
        await helper(transaction)
        job.stats = { ...job.stats, phase: 'done' }
        job.runs += 1
        await job.save()
      })
      const outcome = await outcomeOf(call.then(() => 'written'))
      const { stats, runs } = (await Jobs.findByPk(id))!
      if (outcome === 'written') expect([stats['phase'], runs]).to.deep.equal(['done', name === 'updateJson' ? 1 : 11])
      else {
        expect(outcome).to.be.instanceOf(StaleRowError)
        expect([stats, runs]).to.deep.equal([{ n: 0 }, 0])
      }
    })
  }

  it('may save the row after a savepoint in which the other one wrote was rolled back', async () => {
    await withLock([Jobs, id], async (job, transaction) => {
      const failing = sequelize.transaction({ transaction }, async (savepoint) => {
        await Reports.update({ count: 5, data: { n: 5 } }, { where: { id }, transaction: savepoint })
        throw new Error('undo')
      })
      await outcomeOf(failing)
      job.runs += 1
      job.stats = { ...job.stats, phase: 'done' }
      await job.save()
    })
    const { stats, runs } = (await Jobs.findByPk(id))!
    expect([stats, runs]).to.deep.equal([{ n: 0, phase: 'done' }, 1])
  })

  it('do not take an attribute for that of the same name with another column', async () => {
    await withLock([Jobs, id], async (job, transaction) => {
      await withLock([Reports, id], (report) => report.update({ price: 500 }), { transaction })
      expect(job.price).to.equal(100)
      job.price += 1
      await job.save()
      job.gross += 1
      await rejection(job.save(), StaleRowError)
      await job.reload()
    })
    const { price, gross } = (await Jobs.findByPk(id))!
    expect([price, gross]).to.deep.equal([101, 500])
  })
})
