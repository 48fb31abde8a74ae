import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { expect } from 'chai'
import type { Sequelize } from 'sequelize'
import { eachDatabase } from '../each-database.js'
import { sample } from '../sample.js'
import { createRuns } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'
import { Job, recordStep } from './two-jobs.js'
import type { RecordStep } from './two-jobs.js'
import type { Task } from './worker.js'

const both = { step_a: 'done', step_b: 'done' }

eachDatabase('two jobs on one row', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
  })

  async function progress(id: number): Promise<Progress | null> {
    return (await Runs.findByPk(id, { rejectOnEmpty: true })).progress
  }

  /** Both jobs read; then a writes; then b writes. */
  async function readReadWriteWrite(record: RecordStep): Promise<Progress | null> {
    const { id } = await Runs.create({ progress: {} })
    const a = new Job(Runs, id, 'step_a', record)
    const b = new Job(Runs, id, 'step_b', record)
    await Promise.all([a.ready, b.ready])
    await a.go()
    await b.go()
    return progress(id)
  }

  /** Both jobs read; then both write at once. */
  async function readReadTogether(record: RecordStep): Promise<Progress | null> {
    const { id } = await Runs.create({ progress: {} })
    const jobs = ['step_a', 'step_b'].map((step) => new Job(Runs, id, step, record))
    await Promise.all(jobs.map((job) => job.ready))
    await Promise.all(jobs.map((job) => job.go()))
    return progress(id)
  }

  const runs = sample(100, 100, 20)

  it(`naive: step_a is lost in ${runs} of ${runs} runs`, async () => {
    for (let run = 0; run < runs; run++) {
      expect(await readReadWriteWrite(recordStep.naive)).to.deep.equal({ step_b: 'done' })
    }
  })

  it('naive: one key is lost in every interleaving of the two writes, and neither rejects', async () => {
    const after = await readReadTogether(recordStep.naive)
    expect(after).to.be.deep.oneOf([{ step_a: 'done' }, { step_b: 'done' }])
  })

  for (const [name, record] of Object.entries({ withLock: recordStep.locked, mergeJsonKey: recordStep.atomic })) {
    it(`${name}: both keys are stored in ${runs} of ${runs} runs, sequential and concurrent`, async () => {
      for (let run = 0; run < runs / 2; run++) {
        expect(await readReadWriteWrite(record)).to.deep.equal(both)
        expect(await readReadTogether(record)).to.deep.equal(both)
      }
    })
  }

  describe('in separate processes', () => {
    const workers: ChildProcess[] = []

    afterEach(() => {
      for (const worker of workers.splice(0)) worker.kill()
    })

    /** Starts a worker that has loaded the run and waits to be told to go. */
    async function ready(task: Task): Promise<ChildProcess> {
      const worker = fork(join(__dirname, 'worker.js'), { execArgv: [] })
      workers.push(worker)
      worker.send(task)
      expect(await once(worker, 'message')).to.deep.equal(['ready', undefined])
      return worker
    }

    async function go(worker: ChildProcess): Promise<void> {
      worker.send('go')
      expect(await once(worker, 'exit')).to.deep.equal([0, null])
    }

    for (const [way, expected] of [
      ['naive', { step_b: 'done' }],
      ['locked', both],
      ['atomic', both],
    ] as const) {
      it(`${way}: ${Object.keys(expected).join(' and ')}`, async () => {
        const { id } = await Runs.create({ progress: {} })
        const task = { url: database.url(), id, way }
        const [a, b] = await Promise.all(['step_a', 'step_b'].map((step) => ready({ ...task, steps: [step] })))
        await go(a!)
        await go(b!)
        expect(await progress(id)).to.deep.equal(expected)
      })
    }

    const processes = database.isOtherWay ? 4 : sample(10, 10, 4)
    it(`atomic: ${processes} processes that each write 50 keys to a NULL column keep all`, async () => {
      const { id } = await Runs.create()
      const steps = (worker: number): string[] => Array.from({ length: 50 }, (_, step) => `worker_${worker}_${step}`)
      const all = Array.from({ length: processes }, (_, worker) => steps(worker))
      const started = await Promise.all(all.map((own) => ready({ url: database.url(), id, way: 'atomic', steps: own })))
      await Promise.all(started.map(go))
      expect(await progress(id)).to.have.all.keys(all.flat())
    })
  })
})
