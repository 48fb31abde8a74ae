import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { lossless } from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
import { connect } from '../connect.js'

class WorkflowRun extends Model<InferAttributes<WorkflowRun>, InferCreationAttributes<WorkflowRun>> {
  declare id: CreationOptional<number>
  declare progress: { step_a?: 'done'; step_b?: 'done' }
}
interface WorkflowRun extends Lossless<WorkflowRun> {}

async function main(): Promise<void> {
  const sequelize = connect()
  WorkflowRun.init(
    { id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true }, progress: DataTypes.JSON },
    { sequelize },
  )
  lossless(WorkflowRun)
  await WorkflowRun.sync({ force: true })
  const { id } = await WorkflowRun.create({ progress: {} })

  const runOfA = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  console.log('Job A reads: ', JSON.stringify(runOfA.progress))

  const runOfB = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  console.log('Job B reads: ', JSON.stringify(runOfB.progress))

  await runOfA.mergeJsonKey('progress', 'step_a', 'done')
  console.log('Job A merges:', JSON.stringify(runOfA.progress))

  // The only job that can tell whether it was the last one.
  await runOfB.mergeJsonKey('progress', 'step_b', 'done', { returning: true })
  console.log('Job B merges:', JSON.stringify(runOfB.progress))

  const run = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  console.log('In the table:', JSON.stringify(run.progress))
  await sequelize.close()
}

void main()
