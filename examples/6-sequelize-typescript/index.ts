import 'reflect-metadata'
import { AutoIncrement, Column, DataType, Model, PrimaryKey, Sequelize, Table } from 'sequelize-typescript'
import { lossless } from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
import { databaseUrl, tableName } from '../connect.js'

@Table({ tableName })
class WorkflowRun extends Model {
  @PrimaryKey
  @AutoIncrement
  @Column(DataType.INTEGER)
  declare id: number

  @Column(DataType.JSON)
  declare progress: { step_a?: 'done'; step_b?: 'done' }
}
interface WorkflowRun extends Lossless<WorkflowRun> {}

async function main(): Promise<void> {
  const sequelize = new Sequelize(databaseUrl, { logging: false, models: [WorkflowRun] })
  lossless(WorkflowRun)
  await WorkflowRun.sync({ force: true })
  const { id } = await WorkflowRun.create({ progress: {} })

  // Both jobs have read the run before either of them writes.
  const runOfA = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  const runOfB = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })

  await runOfA.mergeJsonKey('progress', 'step_a', 'done')
  await runOfB.withLock(async (run) => {
    run.progress.step_b = 'done'
    await run.save()
  })

  const run = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  console.log('In the table:', JSON.stringify(run.progress))
  await sequelize.close()
}

void main()
