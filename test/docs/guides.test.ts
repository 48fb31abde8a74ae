import { execFile } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { DataTypes, Model } from 'sequelize'
import type { ModelStatic, Sequelize } from 'sequelize'
import * as lossless from 'sequelize-lossless'
import { assert, restore, stub } from 'sinon'
import ts from 'typescript'
import { eachDatabase, eachServer } from '../each-database.js'
import { createRuns, createTextRuns } from '../workflow-run.js'
import { allCodeBlocks, codeBlocks, readme, root } from './readme.js'

type Runnable = (...values: unknown[]) => Promise<unknown>
const AsyncFunction = (async () => {}).constructor as new (...code: string[]) => Runnable

/** Runs a block of a page with the names that the page imports or takes for granted. */
function evaluate(block: string, names: Readonly<Record<string, unknown>>): Promise<unknown> {
  const { outputText } = ts.transpileModule(block.replaceAll(/^import .*$/gm, ''), {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
  })
  return new AsyncFunction(...Object.keys(names), outputText)(...Object.values(names))
}

/** Creates the empty table of the guides' `Job`, which one page defines. */
async function createJobs(sequelize: Sequelize): Promise<ModelStatic<Model>> {
  const { code } = allCodeBlocks('docs/guides/which-cure.md').find(({ name }) => name === 'job.ts')!
  const define = code.replace(/^export const sequelize .*$/m, '').replaceAll(/^export /gm, '')
  const names = { sequelize, DataTypes, Model, lossless: lossless.lossless }
  const Job = (await evaluate(`${define}\nreturn Job`, names)) as ModelStatic<Model>
  await Job.sync({ force: true })
  return Job
}

const titles = { mysql: 'MySQL', mariadb: 'MariaDB', postgres: 'PostgreSQL', sqlite: 'SQLite' } as const

eachDatabase('the guides', (database) => {
  it('convert a TEXT column to a JSON column with the statements that they show', async () => {
    const { sequelize } = database.connect()
    const Texts = sequelize.define('job', { stats: DataTypes.TEXT }, { tableName: 'jobs', timestamps: false })
    await Texts.sync({ force: true })
    await Texts.create({ stats: '{"phase":"first"}' })
    const statements = codeBlocks('docs/guides/migrating.md', 'sql').join('\n')
    const [, own] = new RegExp(`^-- ${titles[database.name]}\\b.*\n((?:[^-].*;\n)+)`, 'm').exec(statements)!
    for (const statement of own!.trim().split('\n')) await sequelize.query(statement)
    const stats = database.name === 'postgres' ? DataTypes.JSONB : DataTypes.JSON
    const Jobs = sequelize.define('job', { stats }, { tableName: 'jobs', timestamps: false })
    await lossless.mergeJsonKey([Jobs, 1], 'stats', 'owner', 'me')
    const job = await Jobs.findByPk(1, { rejectOnEmpty: true })
    await Jobs.drop()
    expect(job.get('stats')).to.deep.equal({ phase: 'first', owner: 'me' })
  })

  it('let concurrent requests change a row whose instance they share, and discard a save that was refused', async () => {
    const WorkflowRun = lossless.lossless(await createRuns(database.connect().sequelize), {
      wholeColumnWrites: 'throw',
    })
    const run = await WorkflowRun.create({ progress: {} })
    const recipe = codeBlocks('docs/guides/locks.md', 'ts').find((block) => block.includes('await run.reload()'))!
    const keys = Array.from({ length: 8 }, (_, index) => `step_${index}`)
    const requests = keys.map((key) =>
      evaluate(recipe.replace('step_a', key), { WorkflowRun, run, withLock: lossless.withLock }),
    )
    await Promise.all(requests)
    const stored = Object.fromEntries(keys.map((key) => [key, 'done']))
    const row = await WorkflowRun.findByPk(run.id, { rejectOnEmpty: true })
    expect(row.progress).to.deep.equal(stored)
    const refused = await run.update({ progress: { mine: 1 } }).catch((error: unknown) => error)
    expect(refused).to.be.instanceOf(lossless.WholeColumnWriteError)
    expect(run.progress).to.deep.equal({ mine: 1 })
    await run.reload()
    expect([run.progress, run.changed()]).to.deep.equal([stored, false])
  })

  it('have a whole model, on which the recipes of the README run', async () => {
    const { sequelize } = database.connect()
    const Job = await createJobs(sequelize)
    const job = await Job.create({ stats: { phase: 'first' }, status: 'running' })
    const [first, ...others] = readme().rest
    const names = { ...lossless, sequelize, Job, job, id: 7 }
    await evaluate(first!.replace(/^const (columns|Job) = .*$/gm, ''), names)
    for (const recipe of others) await evaluate(recipe, names)
    const rows = await Job.findAll({ order: ['id'], attributes: { exclude: ['createdAt', 'updatedAt'] } })
    await Job.drop()
    expect(rows.map((row): unknown => row.toJSON())).to.deep.equal([
      {
        id: 1,
        stats: { phase: 'finished', log: { lines: ['done'] }, attempts: 1 },
        watchers: [{ id: 1, role: 'owner' }],
        status: 'finished',
        runs: 1,
      },
      { id: 7, stats: { attempts: 1 }, watchers: null, status: 'queued', runs: 0 },
    ])
  })

  it('count the statements of a call as the README does', async () => {
    const { sequelize, log } = database.connect()
    const Job = await createJobs(sequelize)
    const Texts = await createTextRuns(sequelize)
    const { atLeast, atomicUpsert, increment, mergeJsonKey, not, set, updateJson, withNext } = lossless
    const job = await Job.create({ stats: {}, watchers: null, status: 'queued' })
    const text = await Texts.create({ progress: {} })
    const id = job.get('id') as number
    const create = { status: 'queued' }
    await atomicUpsert([Job, 7], { stats: [set('phase', 'first')] }, { create }) // reads the indexes, and the settings of the session
    const isFree = { if: [not(atLeast('lockedUntil', '2026'))] }
    const lease = [set('lockedUntil', '2025'), increment('fence')]
    const counts: Record<string, number> = {}
    const counted = async (name: string, call: () => Promise<unknown>): Promise<void> => {
      log.length = 0
      await call()
      counts[name] = log.length
    }
    await counted('key', () => mergeJsonKey([Job, id], 'stats', 'phase', 'second'))
    await counted('lease', () => updateJson([Job, id], 'stats', lease, isFree))
    await counted('lease, returning', () => updateJson([Job, id], 'stats', lease, { ...isFree, returning: true }))
    await counted('key of NULL', () => mergeJsonKey([Job, id], 'watchers', 'a', 1))
    await counted('key in TEXT', () => mergeJsonKey([Texts, text.id], 'progress', 'a', 1))
    await counted('upsert of a new row', () => atomicUpsert([Job, 8], { stats: [set('phase', 'first')] }, { create }))
    await counted('upsert', () => atomicUpsert([Job, 8], { stats: [set('phase', 'second')] }, { create }))
    await counted('next row', () => withNext(Job, { order: ['id'] }, (row) => row.update({ runs: 1 })))
    await Job.drop()
    const isMySQL = database.name === 'mysql'
    const isOfBoth = isMySQL || database.name === 'mariadb'
    expect(counts).to.deep.equal({
      key: 1,
      lease: 1,
      'lease, returning': isOfBoth ? 4 : 1,
      'key of NULL': isMySQL ? 2 : 1,
      'key in TEXT': isMySQL ? 4 : 1,
      'upsert of a new row': isMySQL ? 4 : 3,
      upsert: 1,
      'next row': isOfBoth ? 6 : 5,
    })
  })

  it('adopt the guard: a warning for a call site that exists, and none for a call site that was fixed', async () => {
    const { sequelize } = database.connect()
    const { lossless: attach } = lossless
    const messages: string[] = []
    attach(sequelize, { wholeColumnWrites: 'warn', onReport: ({ message }) => messages.push(message) })
    const WorkflowRun = await createRuns(sequelize)
    const Job = await createJobs(sequelize)
    const run = await WorkflowRun.create({ progress: {} })
    const job = await Job.create({ stats: {}, status: 'queued' })
    const names = { ...lossless, sequelize, WorkflowRun, Job, run, job, id: job.get('id') }
    const [report, fix] = codeBlocks('docs/guides/existing-code.md', 'ts')
    await evaluate(report!, names)
    const [, shown] = codeBlocks('docs/guides/existing-code.md', 'text')
    const withoutPlace = (text: string): string => text.replace(/ at .*?, over/, ' at FILE:LINE, over')
    expect(messages.map(withoutPlace)).to.deep.equal([
      withoutPlace(shown!.trim().replace('[WHOLE_COLUMN_WRITE] SequelizeLosslessWarning: ', '')),
    ])
    attach(sequelize, { wholeColumnWrites: 'throw' })
    await evaluate(fix!, names)
    await Job.drop()
  })

  it('replace a method of a row in a unit test', async () => {
    const WorkflowRun = await createRuns(database.connect().sequelize)
    const mock = codeBlocks('docs/guides/mocking.md', 'ts').find((block) => block.includes("from 'sinon'"))
    try {
      await evaluate(mock!, { WorkflowRun, assert, stub })
    } finally {
      restore()
    }
  })
})

eachServer('the guide to testing', (database) => {
  it('has a file that passes as it is, and fails with its text for code that reads, changes and saves', async () => {
    const folder = join(root, 'build', 'pages', 'testing')
    mkdirSync(folder, { recursive: true })
    const { code } = allCodeBlocks('docs/guides/testing.md').find(({ name }) => name === 'lost-update.test.ts')!
    const run = async (name: string, text: string): Promise<string> => {
      const { outputText } = ts.transpileModule(text, {
        compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
      })
      writeFileSync(join(folder, name), outputText)
      const env = { ...process.env, DATABASE_URL: database.name === 'sqlite' ? 'sqlite:test.sqlite' : database.url() }
      const options = { cwd: folder, env }
      return new Promise((resolve) => {
        execFile(process.execPath, ['--test', '--test-reporter=tap', name], options, (_error, stdout) =>
          resolve(stdout),
        )
      })
    }
    expect(await run('right.test.mjs', code)).to.match(/^# pass 1$/m)
    const naive = code.replace(
      "await mergeJsonKey(row, 'progress', step, 'done')",
      "await row.update({ progress: { ...row.progress, [step]: 'done' } })",
    )
    const printed = await run('naive.test.mjs', naive)
    expect(printed).to.match(/^# fail 1$/m)
    const [shown] = codeBlocks('docs/guides/testing.md', 'text')
    for (const line of shown!.trim().split('\n')) expect(printed).to.include(line)
  })
})
