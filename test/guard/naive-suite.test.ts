import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import type { Sequelize } from 'sequelize'
import { WholeColumnWriteError } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { Job, recordStep } from '../races/two-jobs.js'
import { rejection } from '../rejection.js'
import { storedText } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import { guardedRuns, reports } from './guarded-runs.js'

const naiveFile = join(__dirname, '..', 'races', 'two-jobs.js')
const naiveLine =
  readFileSync(naiveFile, 'utf8')
    .split('\n')
    .findIndex((line) => line.includes('naive: (run')) + 1

eachDatabase('the naive jobs, unchanged, of a guarded model', (database) => {
  let sequelize: Sequelize
  let log: string[]

  before(() => {
    ;({ sequelize, log } = database.connect())
  })

  /** A run, and two jobs that have read it. */
  async function twoJobs(Runs: typeof WorkflowRun): Promise<readonly [id: number, jobs: Job[]]> {
    const { id } = await Runs.create({ progress: {} })
    const jobs = ['step_a', 'step_b'].map((step) => new Job(Runs, id, step, recordStep.naive))
    await Promise.all(jobs.map((job) => job.ready))
    return [id, jobs]
  }

  async function stored(Runs: typeof WorkflowRun, id: number): Promise<unknown> {
    return JSON.parse((await storedText(Runs, id))!)
  }

  it("'patch': 0 of 100 runs lose a key, one after the other and at once", async () => {
    const Runs = await guardedRuns(sequelize, { wholeColumnWrites: 'patch' })
    for (let run = 0; run < 100; run++) {
      const [id, jobs] = await twoJobs(Runs)
      if (run % 2 === 0) for (const job of jobs) await job.go()
      else await Promise.all(jobs.map((job) => job.go()))
      expect(await stored(Runs, id)).to.deep.equal({ step_a: 'done', step_b: 'done' })
    }
  })

  it("'throw': each write of 100 runs is refused, naming its line, before any SQL", async () => {
    const Runs = await guardedRuns(sequelize, { wholeColumnWrites: 'throw' })
    for (let run = 0; run < 100; run++) {
      const [id, jobs] = await twoJobs(Runs)
      log.length = 0
      for (const job of jobs) {
        const error = await rejection(job.go(), WholeColumnWriteError)
        expect(error).to.include({ file: naiveFile, line: naiveLine, method: 'save', column: 'progress' })
        expect(error.message).to.include(`${naiveFile}:${naiveLine}`)
      }
      expect(log).to.deep.equal([])
      expect(await stored(Runs, id)).to.deep.equal({})
    }
  })

  it("'warn': step_a is still lost in 100 of 100 runs, and the one call site is reported once", async () => {
    const Runs = await guardedRuns(sequelize, { wholeColumnWrites: 'warn' })
    const seen = await reports(async () => {
      for (let run = 0; run < 100; run++) {
        const [id, jobs] = await twoJobs(Runs)
        for (const job of jobs) await job.go()
        expect(await stored(Runs, id)).to.deep.equal({ step_b: 'done' })
      }
    })
    expect(seen.map(({ file, line, keys }) => [file, line, keys])).to.deep.equal([[naiveFile, naiveLine, ['step_a']]])
  })
})
