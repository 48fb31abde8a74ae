import { createRequire } from 'node:module'
import { expect } from 'chai'
import { DataTypes, DatabaseError, Model } from 'sequelize'
import type { Sequelize } from 'sequelize'
import { compareAndSetJson } from 'sequelize-lossless'
import { explore } from 'every-order'
import type { ExploreOptions, Result } from 'every-order'
import ts from 'typescript'
import { eachDatabase } from '../each-database.js'
import { outcomeOf } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import { codeBlocks } from './readme.js'

const code = codeBlocks('docs/guides/hot-rows.md', 'ts').join('\n')

/** What the page's code exports. */
interface Page {
  setStep(runId: number, step: string): Promise<unknown>
  finishStep(runId: number, name: string, steps: number): Promise<boolean>
  stepsOf(runId: number): Promise<Record<string, string>>
  openCounter(name: string): Promise<void>
  count(name: string): Promise<void>
  totalOf(name: string): Promise<number>
}

/** Runs the page's code with what it takes for granted. */
function evaluate(sequelize: Sequelize, Runs: typeof WorkflowRun): Page {
  const { outputText } = ts.transpileModule(code, {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.CommonJS },
  })
  const exported = {}
  const names = ['require', 'exports', 'sequelize', 'WorkflowRun']
  // eslint-disable-next-line @typescript-eslint/no-implied-eval -- it is the page's own
  const run = new Function(...names, outputText) as (...values: unknown[]) => void
  run(createRequire(__filename), exported, sequelize, Runs)
  return exported as Page
}

eachDatabase('the guide to hot rows', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  let page: Page

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
    page = evaluate(sequelize, Runs)
    await sequelize.sync({ force: true })
  })

  const createRun = async (): Promise<number> => (await Runs.create({ progress: { state: 'running' } })).id

  it('keeps every step of callers whose writes are batched', async () => {
    const id = await createRun()
    await Promise.all(Array.from({ length: 20 }, (_, number) => page.setStep(id, `step_${number}`)))
    const { progress } = await Runs.findByPk(id, { rejectOnEmpty: true })
    expect(Object.keys(progress!)).to.have.length(21)
  })

  it('has a row for each step, and distinguishes keys that differ by case', async () => {
    const id = await createRun()
    const names = ['step_a', 'step_A', 'stép_a', ...Array.from({ length: 17 }, (_, number) => `step_${number}`)]
    await Promise.all([...names, ...names].map((name) => page.finishStep(id, name, 100)))
    expect(await page.stepsOf(id)).to.deep.equal(Object.fromEntries(names.map((name) => [name, 'done'])))
  })

  interface Context {
    readonly id: number
    readonly last: string[]
  }

  /** Two callers that each finish one of two steps; the check wants exactly one of them to be the last. */
  async function race(
    finish: (id: number, name: string) => Promise<boolean>,
    options: Partial<ExploreOptions<Context>> = {},
  ): Promise<Result> {
    const caller =
      (name: string) =>
      async ({ id, last }: Context) => {
        if (await finish(id, name)) last.push(name)
      }
    return explore<Context>({
      sequelize,
      setup: async () => ({ id: await createRun(), last: [] }),
      participants: { a: caller('a'), b: caller('b') },
      check: async ({ id, last }) => {
        expect(last).to.have.length(1)
        const { progress } = await Runs.findByPk(id, { rejectOnEmpty: true })
        expect(progress).to.deep.equal({ state: 'finished' })
      },
      ...options,
    })
  }

  it('returns true to exactly one of two callers, the last one, in every order', async () => {
    const { verdict, reasons, isComplete } = await race((id, name) => page.finishStep(id, name, 2))
    expect({ verdict, reasons, isComplete }).to.deep.equal({ verdict: 'kept', reasons: [], isComplete: true })
  })

  // SQLite has one writer at a time, who sees what the one before has committed.
  if (database.name !== 'sqlite') {
    it('would return true to neither caller if it counted in the transaction of the write', async () => {
      const Step = sequelize.models['Step']!
      const { verdict, first } = await race((runId, name) =>
        sequelize.transaction(async (transaction) => {
          await Step.upsert({ runId, name, state: 'done' }, { transaction })
          if ((await Step.count({ where: { runId, state: 'done' }, transaction })) < 2) return false
          return compareAndSetJson([Runs, runId], 'progress', 'state', 'running', 'finished', { transaction })
        }),
      )
      expect(verdict).to.equal('lost')
      expect(String(first!.error)).to.include('expected [] to have a length of 1')
    })

    it(`${database.name === 'postgres' ? 'has no' : 'names the'} deadlock of a child and its parent, written in one transaction`, async () => {
      class Child extends Model {}
      Child.init(
        {
          runId: { type: DataTypes.INTEGER, primaryKey: true, references: { model: Runs, key: 'id' } },
          name: { type: DataTypes.STRING(64), primaryKey: true },
        },
        { sequelize, timestamps: false },
      )
      await Child.sync({ force: true })
      const id = await createRun()
      let [missing, proceed] = [2, (): void => undefined]
      const bothInserted = new Promise<void>((resolve) => (proceed = resolve))
      const finish = (name: string): Promise<void> =>
        sequelize.transaction(async (transaction) => {
          await Child.create({ runId: id, name }, { transaction })
          if (--missing === 0) proceed()
          await bothInserted
          await Runs.update({ title: 'a step more' }, { where: { id }, transaction })
        })
      const outcomes = await Promise.all(['a', 'b'].map((name) => outcomeOf(finish(name))))
      await Child.drop()
      const failures = outcomes.filter((outcome) => outcome !== 'written')
      if (database.name === 'postgres') expect(failures).to.deep.equal([])
      else {
        expect(failures).to.have.length(1)
        expect(failures[0]).to.be.an.instanceOf(DatabaseError).with.nested.property('parent.errno', 1213)
      }
    })
  }

  it('sums the counts of all slots, and refuses a counter that does not exist', async () => {
    await Promise.all([page.openCounter('views'), page.openCounter('views'), page.openCounter('sales')])
    await Promise.all(Array.from({ length: 40 }, () => page.count('views')))
    await page.openCounter('views')
    expect(await page.totalOf('views')).to.equal(40)
    expect(await page.totalOf('sales')).to.equal(0)
    const refusal = await outcomeOf(page.count('vews'))
    expect(String(refusal)).to.equal("Error: count: there is no counter vews. Create it: await openCounter('vews').")
  })
})
