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

export type Step = 'step_a' | 'step_b'

/** The call site as it was: reads fine, passes every test with one job. */
export async function completeStepNaive(run: WorkflowRun, step: Step): Promise<void> {
  await run.update({ progress: { ...run.progress, [step]: 'done' } })
}

/** The call site as it should be. */
export async function completeStep(run: WorkflowRun, step: Step): Promise<void> {
  await mergeJsonKey(run, 'progress', step, 'done')
}
