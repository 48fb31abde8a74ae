import { expect } from 'chai'
import type { Sequelize } from 'sequelize'
import { mergeJsonKey, withLock } from 'sequelize-lossless'
import { checkers, explore, LostKeysError, NotSerialError } from 'every-order'
import type { ExploreOptions, Result } from 'every-order'
import { eachDatabase } from '../each-database.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

eachDatabase('explore', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  const isSqlite = database.name === 'sqlite'
  // There the order in which the participants are started is part of the schedule.
  const starts = isSqlite ? 2 : 1

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
  })

  const setup = async (): Promise<number> => (await Runs.create({ progress: {} })).id
  const both = checkers.jsonKeys((id: number) => Runs.findByPk(id), 'progress', { A: { a: 1 }, B: { b: 1 } })

  /** Two participants that each add a key of their own. */
  async function race(
    merge: (id: number, key: string) => unknown,
    options: Partial<ExploreOptions<number>> = {},
  ): Promise<Result> {
    const participants = { A: (id: number) => merge(id, 'a'), B: (id: number) => merge(id, 'b') }
    return explore({ sequelize, setup, participants, ...options })
  }

  async function naive(id: number, key: string): Promise<void> {
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    await run.update({ progress: { ...run.progress, [key]: 1 } })
  }

  async function naiveInTransaction(id: number, key: string): Promise<void> {
    await sequelize.transaction(async (transaction) => {
      const run = await Runs.findByPk(id, { rejectOnEmpty: true, transaction })
      await run.update({ progress: { ...run.progress, [key]: 1 } }, { transaction })
    })
  }

  const locked = (id: number, key: string): Promise<unknown> =>
    withLock([Runs, id], (run) => run.update({ progress: { ...run.progress, [key]: 1 } }))
  const atomic = (id: number, key: string): Promise<unknown> => mergeJsonKey([Runs, id], 'progress', key, 1)

  describe('of code that reads, changes and saves', () => {
    const explorations = database.isOtherWay || database.name === 'sqlite' ? 10 : 100
    it(`finds the lost key in ${explorations} of ${explorations} explorations`, async () => {
      for (let exploration = 0; exploration < explorations; exploration++) {
        const result = await race(naive, { check: both })
        expect(result).to.deep.include({ verdict: 'lost', reasons: [], schedules: 4 * starts, isComplete: true })
        expect(result.failures).to.have.length(2 * starts)
        expect(result.kept).to.have.length(2 * starts)
        expect(result.first).to.deep.include({ outcomes: { A: 'ok', B: 'ok' }, switches: 2 })
        expect(result.first!.error).to.be.instanceOf(LostKeysError)
      }
    })

    it('needs no check: the rows differ from those of a serial run', async () => {
      const { verdict, first } = await race(naive)
      expect(verdict).to.equal('lost')
      const error = first!.error as NotSerialError
      expect(error).to.be.instanceOf(NotSerialError)
      expect(error.message).to.match(/instead of .*"a":1,"b":1.*\(A, B\) or .*\(B, A\)/)
      expect(error.order).to.deep.equal(['A', 'B'])
    })

    it('records each statement, and the rows of each read', async () => {
      const { steps } = (await race(naive, { check: both })).first!
      expect(steps.map(({ kind, number }) => [kind, number])).to.deep.equal([
        ['read', 1],
        ['read', 2],
        ['write', 3],
        ['write', 4],
      ])
      const [one, other, ...writers] = steps.map(({ participant }) => participant)
      expect(writers).to.deep.equal([other, one])
      const [id] = steps[0]!.touched
      expect(id).to.match(/^workflow_runs#\d+$/)
      for (const step of steps) expect(step).to.deep.include({ touched: [id], waitedFor: [], error: undefined })
      for (const { rows } of steps.slice(0, 2)) expect(rows).to.have.length(1)
      expect(steps[1]!.rows[0]).to.have.property('progress')
    })

    it('finds the lost key in a transaction too; SQLite refuses one of the two', async () => {
      const result = await race(naiveInTransaction, { check: both, preemptions: Infinity })
      expect(result).to.deep.include({ schedules: 10 * starts, isComplete: true, reasons: [] })
      expect(result.failures).to.have.length(isSqlite ? 0 : 8)
      if (isSqlite) {
        expect(result.verdict).to.equal('kept')
        expect(result.outcomes).to.deep.equal({
          'A ok, B ok: kept': 4,
          'A failed, B ok: kept': 8,
          'A ok, B failed: kept': 8,
        })
      }
    })
  })

  if (!isSqlite) {
    it('finds, every time, the race of a locked handler and a naive job that reads after six other queries', async () => {
      const job = async (id: number): Promise<void> => {
        for (let query = 0; query < 6; query++) await Runs.findOne({ attributes: ['id'] })
        await naive(id, 'b')
      }
      for (let exploration = 0; exploration < 5; exploration++) {
        const participants = { A: (id: number) => locked(id, 'a'), B: job }
        const { verdict, failures } = await explore({ sequelize, setup, participants, check: both, maxSchedules: 20 })
        expect(verdict).to.equal('lost')
        expect(failures[0]!.schedule).to.be.at.most(20)
      }
    })
  }

  for (const [name, merge] of Object.entries({ withLock: locked, mergeJsonKey: atomic })) {
    it(`of ${name} runs every schedule, and no update is lost`, async () => {
      for (const check of [both, undefined]) {
        const result = await race(merge, { preemptions: Infinity, ...(check && { check }) })
        expect(result).to.deep.include({ verdict: 'kept', reasons: [], isComplete: true, failures: [] })
        if (!isSqlite) expect(result.schedules).to.equal(name === 'withLock' ? 6 : 2)
        else expect(result.schedules).to.be.at.least(2)
      }
    })
  }

  if (!isSqlite) {
    it('leaves out equivalent orders: two transactions of four statements have 50, 10 of them different', async () => {
      const all = await race(naiveInTransaction, { check: both, preemptions: Infinity, reduce: false })
      const reduced = await race(naiveInTransaction, { check: both, preemptions: Infinity })
      expect(all).to.deep.include({ schedules: 50, isComplete: true })
      expect(all.failures).to.have.length(40)
      expect(Object.keys(reduced.outcomes).sort()).to.deep.equal(Object.keys(all.outcomes).sort())
    })

    it('runs three participants too: 72 orders of three locks, within two preemptions', async () => {
      const participants = Object.fromEntries(['a', 'b', 'c'].map((key) => [key, (id: number) => locked(id, key)]))
      const result = await explore({ sequelize, setup, participants })
      expect(result).to.deep.include({
        verdict: 'kept',
        reasons: [],
        schedules: 72,
        isComplete: true,
        serverChoices: 0,
      })
    })

    it('records which participant waited for which', async () => {
      const waits: string[] = []
      const failing = await race(locked, { check: () => expect.fail('on purpose') })
      for (const { steps } of failing.failures) {
        for (const { participant, kind, waitedFor, number, answeredAfter } of steps) {
          if (waitedFor.length === 0) continue
          waits.push(`${participant} ${kind} for ${waitedFor.join()}`)
          expect(answeredAfter).to.be.above(number)
        }
      }
      expect([...new Set(waits)].sort()).to.deep.equal(['A lock for B', 'B lock for A'])
    })
  }
})
