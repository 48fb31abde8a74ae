import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import type { Sequelize } from 'sequelize'
import { StaleRowError, WholeColumnWriteError } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { Job, recordStep } from '../races/two-jobs.js'
import { rejection } from '../rejection.js'
import { sample } from '../sample.js'
import { storedText } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import { guardedRuns, reports } from './guarded-runs.js'

const naiveFile = join(__dirname, '..', 'races', 'two-jobs.js')
const naiveLine =
  readFileSync(naiveFile, 'utf8')
    .split('\n')
    .findIndex((line) => line.includes('naive: (run')) + 1

type Step = { readonly id: number; readonly state?: string }
type Document = {
  readonly log?: readonly string[]
  readonly steps?: Readonly<Record<string, string>>
  readonly items?: readonly Step[]
  readonly counts?: Readonly<Record<string, number>>
  readonly [key: string]: unknown
}
type Edit = (document: Document) => unknown

/** Two edits of a document, as applications write them. */
function flow(before: unknown, one: Edit, other: Edit): readonly [before: unknown, one: Edit, other: Edit] {
  return [before, one, other]
}

const tagged = (tag: string) => (tags: unknown) => [...(tags as readonly string[]), tag]
const withState = (id: number, state: string) => (document: Document) => ({
  ...document,
  items: document.items!.map((item) => (item.id === id ? { ...item, state } : item)),
})
const without = (id: number) => (document: Document) => ({
  ...document,
  items: document.items!.filter((item) => item.id !== id),
})
const logged = (entry: string) => (document: Document) => ({ ...document, log: [...(document.log ?? []), entry] })
const counted = (document: Document): Document => ({
  ...document,
  counts: { ...document.counts, hits: (document.counts?.['hits'] ?? 0) + 1 },
})
const items = [{ id: 1 }, { id: 2 }, { id: 3 }]

const flows = {
  'different keys': flow(
    {},
    (document) => ({ ...document, a: 'done' }),
    (document) => ({ ...document, b: 2 }),
  ),
  'keys of an object that is not there yet': flow(
    {},
    (document) => ({ ...document, steps: { ...document.steps, a: 'done' } }),
    (document) => ({ ...document, steps: { ...document.steps, b: 'done' } }),
  ),
  'the same array, appended to': flow({ log: ['x'] }, logged('a'), logged('b')),
  'an array that is not there yet': flow({}, logged('a'), logged('b')),
  'a document that is an array': flow(['x'], tagged('a'), tagged('b')),
  'elements by their index': flow(
    { log: ['x', 'y'] },
    ({ log, ...rest }) => ({ ...rest, log: log!.with(0, 'X') }),
    ({ log, ...rest }) => ({ ...rest, log: log!.with(1, 'Y') }),
  ),
  'an item appended and one removed': flow({ log: ['x'] }, logged('a'), (document) => ({
    ...document,
    log: document.log!.filter((entry) => entry !== 'x'),
  })),
  'elements by their id': flow({ items }, withState(1, 'done'), withState(2, 'failed')),
  'an element that is removed and changed': flow({ items }, without(2), withState(2, 'done')),
  'a document that is reset': flow(
    { a: 1 },
    () => ({}),
    (document) => ({ ...document, b: 1 }),
  ),
  'a document that is replaced': flow(
    { a: 1 },
    () => ({ fresh: true }),
    (document) => ({ ...document, a: 2 }),
  ),
  counters: flow({}, counted, counted),
}

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

  const many = sample(100, 100, 20)
  it(`'patch': 0 of ${many} runs lose a key, sequential and concurrent`, async () => {
    const Runs = await guardedRuns(sequelize, { wholeColumnWrites: 'patch' })
    for (let run = 0; run < many; run++) {
      const [id, jobs] = await twoJobs(Runs)
      if (run % 2 === 0) for (const job of jobs) await job.go()
      else await Promise.all(jobs.map((job) => job.go()))
      expect(await stored(Runs, id)).to.deep.equal({ step_a: 'done', step_b: 'done' })
    }
  })

  const runs = sample(100, 3, 3)
  for (const [title, [before, one, other]] of Object.entries(flows)) {
    it(`'patch': ${title}: 0 of ${runs} runs lose an acknowledged edit`, async () => {
      const Runs = await guardedRuns(sequelize, { wholeColumnWrites: 'patch' })
      // What the acknowledged edits make of the document, one after the other.
      const serial = (edits: readonly Edit[]): unknown =>
        edits.reduce((document, edit) => edit(document as Document), before)
      for (let run = 0; run < runs; run++) {
        const { id } = await Runs.create({ progress: before as never })
        const edits = run % 3 === 1 ? [other, one] : [one, other]
        const rows = await Promise.all(edits.map(() => Runs.findByPk(id, { rejectOnEmpty: true })))
        const acknowledged: Edit[] = []
        const save = async (index: number): Promise<void> => {
          const [row, edit] = [rows[index]!, edits[index]!]
          try {
            await row.update({ progress: edit(row.progress!) as never })
            acknowledged.push(edit)
          } catch (error) {
            if (!(error instanceof StaleRowError)) throw error
          }
        }
        if (run % 3 === 2) await Promise.all([save(0), save(1)])
        else for (const index of [0, 1]) await save(index)
        expect(acknowledged).to.not.have.length(0)
        const results = [serial(acknowledged), serial(acknowledged.toReversed())]
        expect(results).to.deep.include(await stored(Runs, id))
      }
    })
  }

  it(`'throw': each write of ${many} runs is refused, naming its line, before any SQL`, async () => {
    const Runs = await guardedRuns(sequelize, { wholeColumnWrites: 'throw' })
    for (let run = 0; run < many; run++) {
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

  it(`'warn': step_a is still lost in ${many} of ${many} runs, and the one call site is reported once`, async () => {
    const Runs = await guardedRuns(sequelize, { wholeColumnWrites: 'warn' })
    const seen = await reports(async () => {
      for (let run = 0; run < many; run++) {
        const [id, jobs] = await twoJobs(Runs)
        for (const job of jobs) await job.go()
        expect(await stored(Runs, id)).to.deep.equal({ step_b: 'done' })
      }
    })
    expect(seen.map(({ file, line, keys }) => [file, line, keys])).to.deep.equal([[naiveFile, naiveLine, ['step_a']]])
  })
})
