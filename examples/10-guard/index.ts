import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { lossless } from 'sequelize-lossless'
import { connect } from '../connect.js'

class WorkflowRun extends Model<InferAttributes<WorkflowRun>, InferCreationAttributes<WorkflowRun>> {
  declare id: CreationOptional<number>
  declare progress: { step_a?: 'done'; step_b?: 'done' }
}

/** The application, as it was written long ago, and as it stays: two jobs read, then each changes and saves. */
async function completeSteps(id: number): Promise<void> {
  const a = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  const b = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  await a.update({ progress: { ...a.progress, step_a: 'done' } })
  await b.update({ progress: { ...b.progress, step_b: 'done' } })
}

async function main(): Promise<void> {
  const sequelize = connect()
  WorkflowRun.init(
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      progress: { type: DataTypes.JSON, allowNull: false },
    },
    { sequelize },
  )
  await WorkflowRun.sync({ force: true })
  // Without onReport, reports are warnings of the process.
  lossless(sequelize, {
    onReport: ({ message }) => {
      console.log(`  ${message.replace(/ at \S+[\\/]/, ' at ')}`)
    },
  })

  for (const wholeColumnWrites of ['allow', 'warn', 'throw', 'patch'] as const) {
    lossless(sequelize, { wholeColumnWrites }) // the one line
    const { id } = await WorkflowRun.create({ progress: {} })
    console.log(`${wholeColumnWrites}:`)
    try {
      await completeSteps(id)
    } catch (error) {
      console.log(`  ${(error as Error).name}`)
    }
    const { progress } = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
    console.log(`  in the table: ${JSON.stringify(progress)}`)
  }
  await sequelize.close()
}

void main()
