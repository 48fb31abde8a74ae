import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { DataTypes, Model, OptimisticLockError, Sequelize } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { lossless, mergeJsonKey } from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
import { Timeline } from './timeline.js'

class WorkflowRun extends Model<InferAttributes<WorkflowRun>, InferCreationAttributes<WorkflowRun>> {
  declare id: CreationOptional<number>
  declare progress: Record<string, string>
}
interface WorkflowRun extends Lossless<WorkflowRun> {}

type Step = 'step_a' | 'step_b'
type Connect = (logging: false | ((text: string) => void)) => Sequelize

const timeline = new Timeline(process.stdout, process.env)

/** One of the two jobs: a connection of its own, whose statements go to its column of the timeline. */
class Job {
  readonly sequelize: Sequelize
  readonly Runs: typeof WorkflowRun
  #onStatement: (sql: string) => void = () => undefined

  constructor(
    connect: Connect,
    readonly column: 0 | 1,
    readonly step: Step,
    version: boolean,
  ) {
    this.sequelize = connect((text) => this.#log(text))
    this.Runs = class extends WorkflowRun {}
    this.Runs.init(
      { id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true }, progress: DataTypes.JSON },
      { sequelize: this.sequelize, tableName: table, modelName: 'WorkflowRun', timestamps: false, version },
    )
    lossless(this.Runs)
  }

  #log(text: string): void {
    const sql = text.replace(/^Executing \([^)]*\): /, '')
    this.#onStatement(sql)
    timeline.entry(this.column, sql.replace(/^SELECT .* FROM/, 'SELECT … FROM'))
  }

  /** Resolves when this job sends a statement that matches. */
  sends(statement: RegExp): Promise<void> {
    return new Promise((resolve) => (this.#onStatement = (sql) => statement.test(sql) && resolve()))
  }

  load(id: number): Promise<WorkflowRun> {
    return this.Runs.findByPk(id, { rejectOnEmpty: true })
  }
}

const table = 'lossless_demo'

/** One way of recording a step; `a` and `b` have both loaded the run already. */
interface Story {
  readonly title: string
  readonly explanation: string
  readonly version?: boolean
  tell(a: Job, b: Job, runs: { a: WorkflowRun; b: WorkflowRun }, show: () => Promise<void>): Promise<void>
}

const stories: readonly Story[] = [
  {
    title: 'The lost update: read, change in JavaScript, save the whole document',
    explanation: 'run.update({ progress: { ...run.progress, step_a: "done" } })',
    async tell(_a, _b, runs, show) {
      await runs.a.update({ progress: { ...runs.a.progress, step_a: 'done' } })
      await show()
      await runs.b.update({ progress: { ...runs.b.progress, step_b: 'done' } })
      await show()
    },
  },
  {
    title: 'Cure 1, pessimistic: withLock',
    explanation: 'run.withLock(async (run) => { run.progress.step_a = "done"; await run.save() })',
    async tell(a, b, runs, show) {
      // SQLite's writers queue inside this process, before their first statement.
      const queued = a.sequelize.getDialect() === 'sqlite' ? undefined : b.sends(/FOR (NO KEY )?UPDATE/)
      let enter!: () => void
      const entered = new Promise<void>((resolve) => (enter = resolve))
      const second = entered.then(() =>
        runs.b.withLock(async (run) => {
          timeline.note(`job B has the lock, and read progress = ${JSON.stringify(run.progress)} with it`)
          run.progress['step_b'] = 'done'
          await run.save()
        }),
      )
      await runs.a.withLock(async (run) => {
        enter()
        await queued
        timeline.note('job B waits for the lock of job A')
        run.progress['step_a'] = 'done'
        await run.save()
      })
      await second
      await show()
    },
  },
  {
    title: 'Cure 2, optimistic: version: true, and again on conflict',
    explanation: 'run.update({ progress: … }) throws OptimisticLockError; reload, and try again',
    version: true,
    async tell(_a, _b, runs, show) {
      await runs.a.update({ progress: { ...runs.a.progress, step_a: 'done' } })
      await show()
      const record = (): Promise<WorkflowRun> => runs.b.update({ progress: { ...runs.b.progress, step_b: 'done' } })
      await record().catch(async (error: unknown) => {
        if (!(error instanceof OptimisticLockError)) throw error
        timeline.note('OptimisticLockError: job B matched no row, loads it again and repeats')
        await runs.b.reload()
        await record()
      })
      await show()
    },
  },
  {
    title: 'Cure 3, one atomic statement: mergeJsonKey',
    explanation: 'run.mergeJsonKey("progress", "step_a", "done")',
    async tell(_a, _b, runs, show) {
      await runs.a.mergeJsonKey('progress', 'step_a', 'done')
      await show()
      await runs.b.mergeJsonKey('progress', 'step_b', 'done')
      await show()
    },
  },
]

async function tell(story: Story, connect: Connect): Promise<void> {
  const version = story.version ?? false
  const [a, b] = [new Job(connect, 0, 'step_a', version), new Job(connect, 1, 'step_b', version)]
  const quiet = { logging: false } as const
  const { Runs } = a
  try {
    await Runs.sync({ force: true, ...quiet })
    const { id } = await Runs.create({ progress: {} }, quiet)
    const read = async (): Promise<WorkflowRun['progress']> =>
      (await Runs.findByPk(id, { rejectOnEmpty: true, ...quiet })).progress
    // Each job's first statement asks the server who it is; here, before the story.
    for (const job of [a, b]) await mergeJsonKey([job.Runs, id], 'progress', 'x', '', quiet)
    await Runs.update({ progress: {} }, { where: { id }, ...quiet })

    timeline.heading(story.title, story.explanation)
    const runs = { a: await a.load(id), b: await b.load(id) }
    await story.tell(a, b, runs, async () => timeline.note(`progress = ${JSON.stringify(await read())}`))
    const progress = await read()
    const lost = [a.step, b.step].filter((step) => progress[step] !== 'done')
    if (lost.length > 0) timeline.note(`${lost.join(', ')} is LOST, and nothing was raised`, 'red')
    else timeline.note('both steps are there', 'green')
  } finally {
    await Runs.drop(quiet)
    for (const { sequelize } of [a, b]) await sequelize.close()
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { url: { type: 'string' } } })
  const { url } = values
  if (url !== undefined && !/^(mysql|mariadb|postgres):\/\/./.test(url)) {
    throw new Error(`--url must be mysql://, mariadb:// or postgres://user:password@host:port/database, got "${url}"`)
  }
  const folder = await mkdtemp(join(tmpdir(), 'sequelize-lossless-demo-'))
  const options = { pool: { max: 2, acquire: 5_000 } } as const
  const connect: Connect = (logging) =>
    url === undefined
      ? new Sequelize({ dialect: 'sqlite', storage: join(folder, 'demo.sqlite'), logging, ...options })
      : new Sequelize(url, { logging, ...options })
  try {
    const probe = connect(false)
    await probe.authenticate()
    const version = await probe.databaseVersion()
    await probe.close()
    console.log(
      `Two jobs finish two steps of one workflow run, on ${probe.getDialect()} ${version}. Both have read progress = {}.`,
    )
    for (const story of stories) await tell(story, connect)
  } finally {
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
