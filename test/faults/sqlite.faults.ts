import { expect } from 'chai'
import * as sqlite3 from 'sqlite3'
import { LockTimeoutError } from 'sequelize-lossless'
import { eachDatabase, servers } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import { endure, flaws } from './endure.js'
import type { Endured, Scene } from './endure.js'
import { lossless, naive } from './load.js'
import type { Way } from './load.js'
import { Random, seed } from './random.js'

/** The driver, with less patience than its second for a file that another process holds. */
const impatientDriver = {
  ...sqlite3,
  Database: class extends sqlite3.Database {
    constructor(...given: ConstructorParameters<typeof sqlite3.Database>) {
      super(...given)
      this.configure('busyTimeout', 10)
    }
  },
  verbose: () => impatientDriver,
}

eachDatabase('faults', (database) => {
  if (database.name !== 'sqlite') return
  let Observed: typeof WorkflowRun
  let other: sqlite3.Database

  before(async () => {
    Observed = await createRuns(database.connect().sequelize)
    other = new sqlite3.Database(servers.get('sqlite')!.url)
  })
  after(() => new Promise((resolve) => other.close(resolve)))

  function execute(sql: string): Promise<void> {
    return new Promise((resolve, reject) => {
      other.exec(sql, (error) => (error ? reject(error) : resolve()))
    })
  }

  async function heldByAnother({ failures }: Scene): Promise<void> {
    await execute('BEGIN IMMEDIATE')
    await failures(/SQLITE_BUSY/, 1)
    await execute('ROLLBACK')
  }

  function endured(ways: readonly Way[]): Promise<Endured> {
    const { sequelize } = database.connect({ dialectModule: impatientDriver, retry: { max: 1 } })
    return endure({
      Runs: defineRuns(sequelize),
      Observed,
      ways,
      writers: 8,
      random: new Random(seed),
      times: 5,
      fails: /SQLITE_BUSY/,
      acknowledged: 800,
      inject: heldByAnother,
    })
  }

  it('loses nothing, and writes nothing that it denies, when another connection holds the file', async () => {
    expect(flaws(await endured(lossless))).to.deep.equal([])
  })

  it('gives the file back after a COMMIT that a reader kept from succeeding', async () => {
    const { sequelize } = database.connect({ dialectModule: impatientDriver, retry: { max: 1 } })
    const run = await defineRuns(sequelize).create({ progress: {} })
    await execute('BEGIN; SELECT * FROM workflow_runs')
    try {
      await rejection(
        run.withLock((row) => row.update({ title: 'kept' })),
        LockTimeoutError,
      )
      expect(run.title).to.equal(undefined)
    } finally {
      await execute('ROLLBACK')
    }
    await run.withLock((row) => row.update({ title: 'free' }))
    expect((await Observed.findByPk(run.id, { rejectOnEmpty: true })).title).to.equal('free')
  })

  it('sees what read, merge and save lose', async () => {
    const { result, lost } = await endured(naive)
    expect(result).to.equal('invalid')
    expect(lost).to.not.deep.equal([])
  })
})
