import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { connect } from '../connect.js'

export const steps = ['step_a', 'step_b', 'step_c', 'step_d'] as const

export type Step = (typeof steps)[number]

export class WorkflowRun extends Model<InferAttributes<WorkflowRun>, InferCreationAttributes<WorkflowRun>> {
  declare id: CreationOptional<number>
  declare progress: { [step in Step]?: 'done' }
  declare status: 'running' | 'finished'
}

export const sequelize = connect()

WorkflowRun.init(
  {
    id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
    progress: DataTypes.JSON,
    status: DataTypes.STRING,
  },
  { sequelize },
)
