import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { lossless, withLock } from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
import { connect } from '../connect.js'

class WorkflowRun extends Model<InferAttributes<WorkflowRun>, InferCreationAttributes<WorkflowRun>> {
  declare id: CreationOptional<number>
  declare progress: { step_a?: 'done'; step_b?: 'done' }
  declare status: 'running' | 'finished'
}
interface WorkflowRun extends Lossless<WorkflowRun> {}

/** Called while the row is locked: no other session can change what it decides on. */
async function completeStep(run: WorkflowRun, step: 'step_a' | 'step_b'): Promise<string> {
  run.progress[step] = 'done'
  if (run.progress.step_a && run.progress.step_b) run.status = 'finished'
  await run.save()
  return run.status
}

async function main(): Promise<void> {
  const sequelize = connect()
  WorkflowRun.init(
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      progress: DataTypes.JSON,
      status: DataTypes.STRING,
    },
    { sequelize },
  )
  lossless(WorkflowRun)
  await WorkflowRun.sync({ force: true })
  const { id } = await WorkflowRun.create({ progress: {}, status: 'running' })

  // Job A has loaded its row; job B names it, and so saves a read.
  const runOfA = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  const statuses = await Promise.all([
    runOfA.withLock((run) => completeStep(run, 'step_a')),
    withLock([WorkflowRun, id], (run) => completeStep(run, 'step_b')),
  ])
  console.log('Jobs that finished the run:', statuses.filter((status) => status === 'finished').length)

  const { progress, status } = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
  console.log(`In the table: step_a ${progress.step_a}, step_b ${progress.step_b}, status ${status}`)
  await sequelize.close()
}

void main()
