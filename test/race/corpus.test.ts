import { expect } from 'chai'
import type { Sequelize } from 'sequelize'
import { checkers, explain, explore, replay } from 'every-order'
import type { ExploreOptions, Result } from 'every-order'
import { eachDatabase } from '../each-database.js'
import { isSampled, isThorough, sample } from '../sample.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import { createApp, empty } from './app.js'
import type { App } from './app.js'
import { applications } from './applications.js'
import { bad, good } from './programs.js'
import { expectReadable } from './readable.js'

const [lossy, safe] = [true, false].map((isLossy) =>
  Object.values(applications).filter(({ expected }) => (expected !== 'kept') === isLossy),
)
const [lossyCount, safeCount] = [Object.keys(bad).length + lossy!.length, Object.keys(good).length + safe!.length]

eachDatabase(`the corpus of ${lossyCount} programs that lose something and ${safeCount} that do not`, (database) => {
  // One writer at a time, which waits in this process: nearly nothing can go wrong in these ways.
  if (database.name === 'sqlite') return
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  let Versioned: typeof WorkflowRun
  const isPostgres = database.name === 'postgres'

  before(async () => {
    const sooner = { dialectOptions: { options: '-c deadlock_timeout=1ms' } }
    ;({ sequelize } = database.connect(isPostgres ? sooner : {}))
    Runs = await createRuns(sequelize)
    Versioned = await createRuns(sequelize, { version: true, modelName: 'Versioned', tableName: 'versioned_runs' })
  })

  const setup = async (): Promise<readonly number[]> => {
    const runs = await Runs.bulkCreate(Array.from({ length: 3 }, () => ({ title: '', progress: { owner: 'nobody' } })))
    const all = await Runs.findAll({ order: [['id', 'DESC']], limit: runs.length, attributes: ['id'] })
    return [...all.map(({ id }) => id), (await Versioned.create({ progress: {} })).id]
  }

  async function race(title: string, options: Partial<ExploreOptions<readonly number[]>> = {}): Promise<Result> {
    const program = (bad[title] ?? good[title])!
    const ofVersion = /version|Optimistic|retry/.test(title)
    const check = checkers.jsonKeys(
      (ids: readonly number[]) => (ofVersion ? Versioned.findByPk(ids[3]) : Runs.findByPk(ids[0])),
      'progress',
      { A: { a: 1 }, B: { b: 1 } },
    )
    const participants = {
      A: (ids: readonly number[]) => program({ sequelize, Runs, Versioned, ids }, 'a'),
      B: (ids: readonly number[]) => program({ sequelize, Runs, Versioned, ids }, 'b'),
    }
    return explore({ sequelize, setup, participants, check, ...options })
  }

  // PostgreSQL refuses to write over what is newer than the snapshot.
  const harmless = isPostgres ? ['a plain read of an old snapshot under the lock'] : []

  const { isOtherWay } = database
  const used = (programs: object): string[] =>
    Object.keys(programs).filter((_, index) => !isOtherWay || database.isSampled(index, 6))
  const replays = isOtherWay ? 1 : sample(20, 2, 1)

  for (const title of used(bad)) {
    const isFound = !harmless.includes(title)
    it(`${title}: ${isFound ? 'found' : 'refused by the database'}`, async () => {
      const { verdict, failures, first, reasons } = await race(title)
      expect([verdict, reasons]).to.deep.equal([isFound ? 'lost' : 'kept', []])
      if (!isFound) return
      expect(failures[0]!.schedule).to.be.at.most(20)
      for (const failure of failures) await expectReadable(failure)
      // There the lost key was never written.
      if (/swallowed|row count/.test(title)) return
      const { key, overwriter, staleRead } = explain(first!)!
      expect(key).to.be.oneOf(['a', 'b'])
      expect(overwriter.kind).to.equal('write')
      expect(overwriter.participant).to.equal(key === 'a' ? 'B' : 'A')
      expect(staleRead).to.include({ participant: overwriter.participant })
    })
  }

  for (const title of used(good)) {
    it(`${title}: no update is lost`, async () => {
      const { verdict, reasons, isComplete, failures } = await race(title)
      expect([failures.map(({ error }) => error), reasons]).to.deep.equal([[], []])
      expect([verdict, isComplete]).to.deep.equal(['kept', true])
    })
  }

  describe('of code from typical applications', () => {
    let app: App

    before(async () => {
      app = await createApp(database.name, sequelize, database.url())
    })
    beforeEach(() => empty(app))
    after(() => app.bare.close())

    const some = used(applications).filter((_title, index) => isThorough || index % 4 === 0)
    for (const title of some) {
      const application = applications[title]!
      const { expected } = application
      const said = expected === 'kept' ? 'nothing is lost' : `${expected}, ${replays} of ${replays} times again`
      it(`${title}: ${said}`, async () => {
        const options = { connections: [sequelize], ...application.race(app) }
        const { verdict, reasons, first } = await explore(options)
        // A participant that waits for itself fails in every order.
        const isKnown = expected === 'self-deadlock'
        expect([first?.anomaly.name ?? verdict, isKnown ? [] : reasons]).to.deep.equal([expected, []])
        for (let count = 0; first && count < replays; count++)
          expect((await replay(first.token, options)).verdict, `replay ${count + 1}`).to.equal('lost')
      })
    }
  })

  // What the reduction leaves out does not depend on the database.
  if (database.name !== 'mysql') return
  it('has the same outcomes with and without the reduction', async () => {
    for (const [index, title] of [...Object.keys(bad), ...Object.keys(good)].entries()) {
      if (!isSampled(index, 3)) continue
      const every = { preemptions: Infinity, maxSchedules: 5_000 }
      const reduced = await race(title, every)
      const all = await race(title, { ...every, reduce: false })
      expect(Object.keys(reduced.outcomes).sort(), title).to.deep.equal(Object.keys(all.outcomes).sort())
      expect(reduced.schedules, title).to.be.at.most(all.schedules)
    }
  })
})
