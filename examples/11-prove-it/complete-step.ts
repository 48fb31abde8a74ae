import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { mergeJsonKey } from 'sequelize-lossless'
import { connect } from '../connect.js'

export class WorkflowRun extends Model<InferAttributes<WorkflowRun>, InferCreationAttributes<WorkflowRun>> {
  declare id: CreationOptional<number>
  declare progress: { step_a?: 'done'; step_b?: 'done' }
}

export const sequelize = connect()

WorkflowRun.init(
  { id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true }, progress: DataTypes.JSON },
  { sequelize },
)

type Step = 'step_a' | 'step_b'

/** The handler as it was: reads fine, passes every test with one job. */
export async function completeStepNaive(id: number, step: Step): Promise<void> {
  const run = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  await run.update({ progress: { ...run.progress, [step]: 'done' } })
}

/** The handler as it should be. */
export async function completeStep(id: number, step: Step): Promise<void> {
  await mergeJsonKey([WorkflowRun, id], 'progress', step, 'done')
}
