import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { connect } from '../connect.js'

class WorkflowRun extends Model<InferAttributes<WorkflowRun>, InferCreationAttributes<WorkflowRun>> {
  declare id: CreationOptional<number>
  declare progress: { step_a?: 'done'; step_b?: 'done' }
}

async function main(): Promise<void> {
  const sequelize = connect()
  WorkflowRun.init(
    { id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true }, progress: DataTypes.JSON },
    { sequelize },
  )
  await WorkflowRun.sync({ force: true })
  const { id } = await WorkflowRun.create({ progress: {} })

  const runOfA = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  console.log('Job A reads: ', JSON.stringify(runOfA.progress))

  const runOfB = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  console.log('Job B reads: ', JSON.stringify(runOfB.progress))

  await runOfA.update({ progress: { ...runOfA.progress, step_a: 'done' } })
  console.log('Job A saves: ', JSON.stringify(runOfA.progress))

  await runOfB.update({ progress: { ...runOfB.progress, step_b: 'done' } })
  console.log('Job B saves: ', JSON.stringify(runOfB.progress))

  const run = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  console.log('In the table:', JSON.stringify(run.progress))
  await sequelize.close()
}

void main()
