import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { styleText } from 'node:util'
import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes, Sequelize } from 'sequelize'
import type * as EveryOrder from 'every-order'
import type { Result } from 'every-order'
import { lossless } from '../index.js'
import type { Lossless } from '../index.js'
import { connect, loadFor } from './connect.js'

class WorkflowRun extends Model<InferAttributes<WorkflowRun>, InferCreationAttributes<WorkflowRun>> {
  declare id: CreationOptional<number>
  declare progress: Record<string, string>
}
interface WorkflowRun extends Lossless<WorkflowRun> {}

/** A way to record a step, as a job would write it. */
interface Way {
  readonly code: string
  readonly version?: boolean
  record(run: WorkflowRun, step: string): Promise<unknown>
}

const ways: readonly Way[] = [
  {
    code: 'await run.update({ progress: { ...run.progress, step_a: "done" } })',
    record: (run, step) => run.update({ progress: { ...run.progress, [step]: 'done' } }),
  },
  {
    code: 'await run.withLock(async (run) => { run.progress.step_a = "done"; await run.save() })',
    record: (run, step) =>
      run.withLock(async (run) => {
        run.progress[step] = 'done'
        await run.save()
      }),
  },
  {
    code: 'await run.withOptimisticLock((run) => { run.progress.step_a = "done" }) // version: true',
    version: true,
    record: (run, step) => run.withOptimisticLock((run) => void (run.progress[step] = 'done')),
  },
  {
    code: 'await run.mergeJsonKey("progress", "step_a", "done")',
    record: (run, step) => run.mergeJsonKey('progress', step, 'done'),
  },
]

/** Two jobs that each load the run and record a step, in every order of their statements. */
async function race({ explore }: typeof EveryOrder, sequelize: Sequelize, way: Way): Promise<Result> {
  class Runs extends WorkflowRun {}
  Runs.init(
    { id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true }, progress: DataTypes.JSON },
    {
      sequelize,
      tableName: 'lossless_demo',
      modelName: 'WorkflowRun',
      timestamps: false,
      version: way.version ?? false,
    },
  )
  lossless(Runs)
  const job = (step: string) => async (id: number) => way.record(await Runs.findByPk(id, { rejectOnEmpty: true }), step)
  try {
    await Runs.sync({ force: true })
    return await explore({
      sequelize,
      setup: async () => (await Runs.create({ progress: {} })).id,
      participants: { 'job A': job('step_a'), 'job B': job('step_b') },
    })
  } finally {
    await Runs.drop()
  }
}

/** What the last line of a timeline is for. */
const replayHelp = `
The letters after "replay: v1:" are this order: whose turn it was, A or B. In a test of your own code, explore(options) of
every-order runs every order, and replay('v1:…', options) runs one order again.`

function style(format: 'bold' | 'green' | 'red', text: string): string {
  return process.stdout.isTTY && !process.env['NO_COLOR'] ? styleText(format, text) : text
}

function report(
  { timeline }: typeof EveryOrder,
  { code }: Way,
  { verdict, schedules, failures, first, reasons }: Result,
): void {
  console.log(`\n${style('bold', code)}`)
  if (verdict === 'unknown') throw new Error(reasons.join('; '))
  if (!first) {
    console.log(style('green', `✔ both steps are there, after each of ${schedules} orders`))
    return
  }
  console.log(
    style('red', `✗ a step is lost in ${failures.length} of ${schedules} orders, and nothing is raised. One of them:`),
  )
  console.log(`\n${timeline(first, Math.min(process.stdout.columns ?? 80, 120))}`)
  console.log(replayHelp)
}

/** Shows the lost update, and that three fixes hold in every order of the statements. */
export async function demonstrate(url: string | undefined): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'sequelize-lossless-demo-'))
  try {
    const kit = loadFor('demo', 'every-order') as typeof EveryOrder
    const sequelize = connect('demo', url ?? `sqlite:${join(folder, 'demo.sqlite')}`)
    try {
      const server = `${sequelize.getDialect()} ${await sequelize.databaseVersion()}`
      console.log(`Two jobs each add their step to one workflow run, on ${server}, in every order of their statements.`)
      for (const way of ways) report(kit, way, await race(kit, sequelize, way))
    } finally {
      await sequelize.close()
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
