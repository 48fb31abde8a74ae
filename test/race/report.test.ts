import { expect } from 'chai'
import type { Sequelize } from 'sequelize'
import { mergeJsonKey, UsageError, withLock } from 'sequelize-lossless'
import { checkers, explain, explore, replay, timeline } from 'sequelize-lossless/race'
import type { ExploreOptions } from 'sequelize-lossless/race'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

eachDatabase('the report of a failure', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  const isSqlite = database.name === 'sqlite'

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
  })

  const setup = async (): Promise<number> => (await Runs.create({ progress: {} })).id
  const check = checkers.jsonKeys((id: number) => Runs.findByPk(id), 'progress', { A: { a: 1 }, B: { b: 1 } })

  async function naive(id: number, key: string): Promise<void> {
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    await run.update({ progress: { ...run.progress, [key]: 1 } })
  }

  /** Locks the row, and saves what was read before. */
  async function readBeforeLock(id: number, key: string): Promise<void> {
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    await withLock([Runs, id], (row) => row.update({ progress: { ...run.progress, [key]: 1 } }))
  }

  function options(participant: typeof naive): ExploreOptions<number> {
    const participants = { A: (id: number) => participant(id, 'a'), B: (id: number) => participant(id, 'b') }
    return { sequelize, setup, participants, check }
  }

  it('is a table with a column for each participant, and a last line that names key, statement and read', async () => {
    const { first } = await explore({
      ...options(naive),
      check: checkers.jsonKeys((id: number) => Runs.findByPk(id), 'progress', { A: { a: 1 } }),
    })
    const text = timeline(first!)
    const lines = text.split('\n')
    expect(lines[0]).to.match(/^ {4}A \(ok\) +│ B \(ok\)$/)
    expect(text).to.match(/^ {2}\d (.*│ )?SELECT … FROM workflow_runs AS WorkflowRun/m)
    expect(text).to.include('→ {"progress":').and.include('UPDATE workflow_runs SET progress={"b":1}')
    expect(text.replace(/\n */g, ' ')).to.match(
      /lost: "a" of progress, which A wrote at \d: B overwrote it at 4 with UPDATE workflow_runs, from its read at \d, which took no lock replay/,
    )
    expect(lines.at(-1)).to.equal(`replay: ${first!.token}`)
    for (const width of [80, 120]) {
      for (const line of timeline(first!, width).split('\n')) expect(line.length).to.be.at.most(width)
    }
  })

  it('needs no check to name the key', async () => {
    const { participants } = options(naive)
    const { first } = await explore({ sequelize, setup, participants })
    const { column, key, overwriter, staleRead, undone } = explain(first!)!
    expect([column, ['a', 'b'].includes(key!)]).to.deep.equal(['progress', true])
    expect(overwriter.participant).to.equal(staleRead!.participant).and.not.equal(undone!.participant)
  })

  it('says so if nothing was overwritten, or the check fails of something else', async () => {
    const merge = (id: number, key: string): Promise<void> => mergeJsonKey([Runs, id], 'progress', key, 1)
    const { first } = await explore({ ...options(merge), check: () => expect.fail('on purpose') })
    expect(timeline(first!)).to.include('the check failed: on purpose')
  })

  if (!isSqlite) {
    it('shows who waited, and how it went on', async () => {
      const { first, failures } = await explore(options(readBeforeLock))
      expect(failures.length).to.be.above(0)
      const waiting = failures.find(({ steps }) => steps.some(({ waitedFor }) => waitedFor.length > 0))!
      const text = timeline(waiting, 80)
      expect(text)
        .to.match(/⏳ waits for [AB]/)
        .and.match(/\d goes on/)
      expect(timeline(first!)).to.match(/lost: "[ab]" of progress.* from its read at \d+/)
    })
  }

  const times = /3\.5|through|SQLite/.test(database.title) ? 5 : 50
  it(`has a token that replays it, ${times} of ${times} times`, async () => {
    const { first } = await explore(options(naive))
    const keys = (error: unknown): unknown => (error as { lost: unknown }).lost
    for (let time = 0; time < times; time++) {
      const again = await replay(first!.token, options(naive))
      expect(again).to.deep.include({ verdict: 'lost', schedules: 1, isComplete: false })
      expect(again.first!.token).to.equal(first!.token)
      expect(keys(again.first!.error)).to.deep.equal(keys(first!.error))
    }
  })

  it('refuses a token that is none, or of other code', async () => {
    for (const token of ['', 'v0:AB', 'v1:XY', undefined as never]) {
      expect((await rejection(replay(token, options(naive)), UsageError)).message).to.include('expected the token')
    }
    const { message } = await rejection(replay('v1:AB', options(naive)), UsageError)
    expect(message).to.match(/v1:AB is not a schedule of these participants: at place 3, where it ends/)
  })
})
