import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { QueryTypes } from 'sequelize'
import type { Transaction } from 'sequelize'
import { withLock } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { until } from '../patience.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import type { Observed } from './observed.js'
import { codeBlocks, root } from './readme.js'

const titles = { mysql: 'MySQL', mariadb: 'MariaDB', postgres: 'PostgreSQL', sqlite: 'SQLite' } as const

eachDatabase('the guide to observability', (database) => {
  it('creates spans and metrics of calls, statements, locks, retries and batches', async () => {
    const program = join(root, 'build', 'test', 'docs', 'observed.js')
    const { stdout } = await promisify(execFile)(process.execPath, [program, database.url()])
    const { spans, texts, metrics } = JSON.parse(stdout) as Observed
    expect(spans.filter(([, parent]) => parent?.startsWith('withLock'))).to.deep.equal([
      ['withLock lock', 'withLock call', null],
      ['withLock statement', 'withLock lock', null],
      ['mergeJsonKey call', 'withLock call', null],
    ])
    expect(spans).to.deep.include(['mergeJsonKey call', null, 'ROW_NOT_FOUND'])
    expect(texts.some((sql) => sql.includes('UPDATE'))).to.equal(true)
    const { 'sequelize_lossless.retries': retries, 'sequelize_lossless.batch.calls': batches } = metrics
    expect(retries).to.deep.equal([
      { value: 1, method: 'withOptimisticLock', model: 'WorkflowRun', reason: 'stale row' },
    ])
    expect(batches!.map(({ value }) => value)).to.deep.equal([1, 2])
    const { 'sequelize_lossless.call.duration': calls, 'sequelize_lossless.statement.duration': statements } = metrics
    expect(calls!.map(({ method }) => method)).to.have.members([
      ...['withLock', 'withOptimisticLock', 'mergeJsonKey', 'mergeJsonKey', 'mergeJsonKey', 'mergeJsonKey'],
      'mergeJsonKey',
    ])
    for (const { value } of [...calls!, ...statements!]) expect(value).to.be.above(0)
    expect(metrics['sequelize_lossless.lock.wait']![0]).to.include({ method: 'withLock', model: 'WorkflowRun' })
  })
})

/** The statements of a page for a database: below a comment with its name. */
function statementsOf(page: string, title: string): readonly (readonly string[])[] {
  return codeBlocks(page, 'sql').map((block) => {
    const [, own = ''] = new RegExp(`^-- ${title}\\n([^]*?)(?=^-- |$(?![^]))`, 'm').exec(block) ?? []
    return own.split(/;\n/).filter((sql) => sql.trim() !== '')
  })
}

eachDatabase('the page for the DBA', (database) => {
  // It has no server.
  if (database.name === 'sqlite') return

  let Runs: typeof WorkflowRun
  let id: number

  before(async () => {
    Runs = await createRuns(database.connect().sequelize)
    ;({ id } = await Runs.create({ progress: {} }))
  })

  const select = (sql: string, transaction?: Transaction): Promise<Record<string, unknown>[]> =>
    Runs.sequelize!.query(sql, { type: QueryTypes.SELECT, transaction: transaction ?? null })

  it('has a statement for each question, which shows a session that waits for another one', async () => {
    const [whoWaits, ...more] = statementsOf('docs/guides/dba.md', titles[database.name])
    expect(more).to.have.length(4)
    let release!: () => void
    const released = new Promise<void>((resolve) => (release = resolve))
    let holding!: Promise<void>
    await new Promise<void>((resolve) => {
      holding = withLock([Runs, id], async () => {
        resolve()
        await released
      })
    })
    const waiting = withLock([Runs, id], () => undefined)
    try {
      // MariaDB keeps its answer while it is asked more often than each 100 ms.
      const ask = async (): Promise<true | undefined> =>
        JSON.stringify(await select(whoWaits![0]!)).includes('workflow_runs') || undefined
      await until('a session waits', ask, 150)
      const [locks] = more[0]!
      expect(JSON.stringify(await select(locks!))).to.include(
        database.name === 'mariadb' ? 'trx_state' : 'workflow_runs',
      )
      for (const sql of more.flat()) expect(await select(sql), sql).to.be.an('array')
    } finally {
      release()
      await Promise.all([holding, waiting])
    }
  })

  it('names only settings that exist on the server', async () => {
    const page = readFileSync(join(root, 'docs/guides/dba.md'), 'utf8')
    const settings = [...page.matchAll(/^\| `(\w+)` +\| ([^|]+) \|/gm)].flatMap(([, name, databases]) =>
      databases!.includes(titles[database.name]) ? [name!] : [],
    )
    expect(settings).to.have.length.of.at.least(5)
    for (const name of settings) {
      const sql = database.name === 'postgres' ? `SHOW ${name}` : `SELECT @@GLOBAL.${name}`
      expect(await select(sql), name).to.have.length(1)
    }
  })
})
