import { DataTypes, Model, OptimisticLockError } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { connect } from '../connect.js'

class WorkflowRun extends Model<InferAttributes<WorkflowRun>, InferCreationAttributes<WorkflowRun>> {
  declare id: CreationOptional<number>
  declare progress: { step_a?: 'done'; step_b?: 'done' }
  declare version: CreationOptional<number>
}

const maxAttempts = 5

/** Reads the run, thinks, and saves; once more from a new read if another save came in between. */
async function completeStep(
  id: number,
  step: 'step_a' | 'step_b',
  think?: (attempt: number) => Promise<void>,
): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const run = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
    await think?.(attempt)
    try {
      await run.update({ progress: { ...run.progress, [step]: 'done' } })
      console.log(`${step}: saved in attempt ${attempt}`)
      return
    } catch (error) {
      if (!(error instanceof OptimisticLockError) || attempt === maxAttempts) throw error
      console.log(`${step}: the run was saved by another job since it was read`)
    }
  }
}

async function main(): Promise<void> {
  const sequelize = connect()
  WorkflowRun.init(
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      progress: DataTypes.JSON,
      version: { type: DataTypes.INTEGER, allowNull: false, defaultValue: 0 },
    },
    { sequelize, version: true },
  )
  await WorkflowRun.sync({ force: true })
  const { id } = await WorkflowRun.create({ progress: {} })

  await completeStep(id, 'step_b', async (attempt) => {
    // The other job comes and goes between the first read of this one and its save.
    if (attempt === 1) await completeStep(id, 'step_a')
  })

  const { progress, version } = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  console.log(`In the table: ${JSON.stringify(progress)}, version ${version}`)
  await sequelize.close()
}

void main()
