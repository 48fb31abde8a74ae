import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs, styleText } from 'node:util'
import { DataTypes, Model, Sequelize } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { lossless } from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
import { explore, timeline } from 'every-order'
import type { Result } from 'every-order'

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
async function race(sequelize: Sequelize, way: Way): Promise<Result> {
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

function style(format: 'bold' | 'green' | 'red', text: string): string {
  return process.stdout.isTTY && !process.env['NO_COLOR'] ? styleText(format, text) : text
}

function report({ code }: Way, { verdict, schedules, failures, first, reasons }: Result): void {
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
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { url: { type: 'string' } } })
  const { url } = values
  if (url !== undefined && !/^(mysql|mariadb|postgres):\/\/./.test(url)) {
    throw new Error(`--url must be mysql://, mariadb:// or postgres://user:password@host:port/database, got "${url}"`)
  }
  const folder = await mkdtemp(join(tmpdir(), 'sequelize-lossless-demo-'))
  const options = { logging: false, pool: { max: 4, acquire: 5_000 } } as const
  const sequelize =
    url === undefined
      ? new Sequelize({ dialect: 'sqlite', storage: join(folder, 'demo.sqlite'), ...options })
      : new Sequelize(url, options)
  try {
    const server = `${sequelize.getDialect()} ${await sequelize.databaseVersion()}`
    console.log(`Two jobs each add their step to one workflow run, on ${server}, in every order of their statements.`)
    for (const way of ways) report(way, await race(sequelize, way))
  } finally {
    await sequelize.close()
    await rm(folder, { recursive: true, force: true })
  }
}

main().catch((error: unknown) => {
  // A driver may put its reason into `parent`, one per address, and leave its own message empty.
  const { message, parent } = error as { message: string; parent?: { code?: string; errors?: Error[] } }
  const reason = message || parent?.errors?.[0]?.message || parent?.code || String(error)
  console.error(`demo: ${reason.split('\n')[0]}`)
  process.exitCode = 1
})
