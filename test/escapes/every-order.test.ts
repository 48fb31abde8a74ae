import { expect } from 'chai'
import type { Sequelize, Transaction } from 'sequelize'
import { mergeJsonKey, retryTransaction, withLock } from 'sequelize-lossless'
import { explore } from 'every-order'
import { eachServer } from '../each-database.js'
import { createJobs, freshJobs, storedJobs } from './jobs.js'
import type { Job } from './jobs.js'

type Name = 'A' | 'B'

/** What a flow works with: the rows in its own order, which is the other way round for the other flow. */
interface Flow {
  readonly name: Name
  readonly ids: readonly [near: number, far: number]
  /** Instances of this flow alone, loaded before it starts. */
  readonly rows: readonly [near: Job, far: Job]
}

/** Code that once left its transaction. It adds 1 to `n`, and a key of its name, to both rows, or to none. */
interface Scenario {
  readonly run: (flow: Flow) => Promise<unknown>
  readonly rejects: 'never' | 'after a conflict' | 'always'
}

eachServer('both rows or none, in every order of two participants', (database) => {
  let sequelize: Sequelize
  let Jobs: typeof Job
  // PostgreSQL looks for a deadlock once, after a wait of this time, which is 1 s otherwise. The first to wait has looked
  // before the second waits, so that the second is always the victim.
  const quickly = database.name === 'postgres' ? { dialectOptions: { options: '-c deadlock_timeout=1ms' } } : {}
  const retry = { maxAttempts: 20, baseDelayMs: 0 }

  before(async () => {
    ;({ sequelize } = database.connect(quickly))
    Jobs = await createJobs(sequelize)
  })

  const addTo = (id: number, { name }: Flow, transaction: Transaction): Promise<unknown>[] => [
    Jobs.increment('n', { where: { id }, transaction }),
    mergeJsonKey([Jobs, id], 'progress', name, 1, { transaction }),
  ]
  const addToBoth = async (flow: Flow, transaction: Transaction): Promise<void> => {
    for (const id of flow.ids) for (const added of addTo(id, flow, transaction)) await added
  }

  const scenarios: Readonly<Record<string, Scenario>> = {
    'several statements at once': {
      rejects: 'never',
      run: (flow) =>
        retryTransaction(
          sequelize,
          (transaction) => Promise.all(flow.ids.flatMap((id) => addTo(id, flow, transaction))),
          retry,
        ),
    },
    'several statements at once under a lock': {
      rejects: 'never',
      run: (flow) =>
        withLock(
          [Jobs, flow.ids[0]],
          (job, transaction) =>
            Promise.all([
              job.increment('n'),
              job.mergeJsonKey('progress', flow.name, 1),
              ...addTo(flow.ids[1], flow, transaction),
            ]),
          { retry },
        ),
    },
    'a statement whose error is caught': {
      rejects: 'after a conflict',
      run: (flow) =>
        withLock([Jobs, flow.ids[0]], async (job, transaction) => {
          for (const added of addTo(flow.ids[1], flow, transaction)) await added.catch(() => undefined)
          await job.increment('n').catch(() => undefined)
          await job.mergeJsonKey('progress', flow.name, 1)
        }),
    },
    'a branch that outlives its callback': {
      rejects: 'always',
      run: (flow) =>
        withLock([Jobs, flow.ids[0]], async (job, transaction) => {
          await job.increment('n')
          const branch = async (): Promise<void> => {
            await job.mergeJsonKey('progress', flow.name, 1)
            await addToBoth(flow, transaction)
            await job.update({ title: flow.name })
          }
          await Promise.all([branch(), Jobs.create({ id: flow.ids[0] }, { transaction })])
        }),
    },
    'a statement that is not awaited': {
      rejects: 'always',
      run: (flow) =>
        withLock([Jobs, flow.ids[0]], (job, transaction) => {
          flow.ids.forEach((id) => void Promise.allSettled(addTo(id, flow, transaction)))
          void job.update({ title: flow.name }).catch(() => undefined)
        }),
    },
    'rows loaded before the transaction, written by a second attempt': {
      rejects: 'never',
      run: (flow) =>
        retryTransaction(
          sequelize,
          async (transaction) => {
            for (const row of flow.rows) {
              await row.reload({ transaction, lock: true })
              row.n++
              row.progress = { ...row.progress, [flow.name]: 1 }
              await row.save({ transaction })
            }
          },
          retry,
        ),
    },
  }

  const plain: Scenario = {
    rejects: 'never',
    run: (flow) => retryTransaction(sequelize, (transaction) => addToBoth(flow, transaction), retry),
  }

  async function setup(): Promise<Record<Name, Flow>> {
    const ids = (await freshJobs(Jobs, 2)).map(({ id }) => id)
    const flow = async (name: Name, [near, far]: number[]): Promise<Flow> => {
      const load = (id: number): Promise<Job> => Jobs.findByPk(id, { rejectOnEmpty: true })
      return { name, ids: [near!, far!], rows: [await load(near!), await load(far!)] }
    }
    return { A: await flow('A', ids), B: await flow('B', ids.toReversed()) }
  }

  async function race(a: Scenario, b: Scenario): Promise<void> {
    const { verdict, reasons, isComplete, outcomes, schedules, serverChoices, leftOut, first } = await explore({
      sequelize,
      setup,
      participants: { A: (flows) => a.run(flows.A), B: (flows) => b.run(flows.B) },
      async check(_flows, ends) {
        const names = (['A', 'B'] as const).filter((name) => ends[name] === 'ok')
        const row = { title: 'before', n: names.length, progress: Object.fromEntries(names.map((name) => [name, 1])) }
        expect(await storedJobs(Jobs)).to.deep.equal([row, row])
      },
    })
    expect(first?.error).to.equal(undefined)
    const isRejected = a.rejects === 'always'
    const isExpected = (reason: string): boolean => isRejected && reason.startsWith('A failed in every schedule')
    expect({ verdict, others: reasons.filter((reason) => !isExpected(reason)) }).to.deep.equal({
      verdict: isRejected ? 'unknown' : 'kept',
      others: [],
    })
    // Where both wait for each other, the server chooses the victim, and not always the same.
    expect(isComplete, leftOut.join()).to.equal(serverChoices === 0)
    if (!isComplete) expect(leftOut.join('; ')).to.match(/^the server chose a victim of a deadlock[^;]*$/)
    expect(schedules).to.be.above(1)
    const always = isRejected ? 'A failed, B ok: kept' : 'A ok, B ok: kept'
    if (a.rejects === 'after a conflict') expect(outcomes).to.include.keys(always)
    else expect(outcomes).to.deep.equal({ [always]: schedules })
  }

  for (const [turn, [title, scenario]] of Object.entries(scenarios).entries()) {
    const others = { 'a participant that awaits each statement': plain, itself: scenario }
    for (const [index, [name, other]] of Object.entries(others).entries()) {
      if (scenario.rejects === 'always' ? index > 0 : !database.isSampled(index, 2, turn)) continue
      it(`${title}, beside ${name}`, () => race(scenario, other))
    }
  }
})
