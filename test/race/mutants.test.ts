import { expect } from 'chai'
import type { Sequelize } from 'sequelize'
import { mergeJsonKey, withLock, withOptimisticLock } from 'sequelize-lossless'
import { checkers, explore, replay, UsageError } from 'every-order'
import type { ExploreOptions, Mutant, Result } from 'every-order'
import { eachServer } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

eachServer('mutants', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  const isSqlite = database.name === 'sqlite'

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize, { version: true, tableName: 'mutant_runs' })
  })

  function options(
    participant: (id: number, key: string) => Promise<unknown>,
    mutants: readonly Mutant[],
  ): ExploreOptions<number> {
    return {
      sequelize,
      setup: async () => (await Runs.create({ progress: {} })).id,
      participants: { A: (id: number) => participant(id, 'a'), B: (id: number) => participant(id, 'b') },
      check: checkers.jsonKeys((id: number) => Runs.findByPk(id), 'progress', { A: { a: 1 }, B: { b: 1 } }),
      mutants,
    }
  }

  const verdicts = ({ mutants }: Result): unknown =>
    Object.fromEntries(mutants.map((each) => [each.mutant, each.verdict]))

  const withoutVersion = (id: number, key: string): Promise<unknown> =>
    withLock([Runs, id], async ({ progress }, transaction) =>
      Runs.update({ progress: { ...progress, [key]: 1 } }, { where: { id }, transaction }),
    )

  if (!isSqlite) {
    it('of withLock without its lock, or its transaction, lose an update, which a token replays', async () => {
      const all = options(withoutVersion, ['strip-lock', 'strip-transaction'])
      const result = await explore(all)
      expect([result.verdict, verdicts(result)]).to.deep.equal([
        'kept',
        { 'strip-lock': 'lost', 'strip-transaction': 'lost' },
      ])
      const { token } = result.mutants[0]!.first!
      expect(token).to.match(/^v1\.strip-lock:[AB]+$/)
      expect(await replay(token, all)).to.deep.include({ verdict: 'lost', schedules: 1 })
    })
  }

  it('are left out after the exploration is stopped', async () => {
    const controller = new AbortController()
    const kept = options((id, key) => mergeJsonKey([Runs, id], 'progress', key, 1), [])
    const { schedules } = await explore(kept)
    let checked = 0
    const result = await explore({
      ...kept,
      mutants: ['strip-version'],
      signal: controller.signal,
      check: () => {
        if (++checked > schedules) controller.abort()
      },
    })
    expect([result.verdict, result.mutants]).to.deep.equal(['unknown', []])
    expect(result.reasons.join()).to.include('in the exploration of strip-version')
  })

  it('of withOptimisticLock without its version lose an update', async () => {
    const result = await explore(
      options(
        (id, key) => withOptimisticLock([Runs, id], (run) => run.set('progress', { ...run.progress, [key]: 1 })),
        ['strip-version'],
      ),
    )
    // Its writers queue there, but not its readers.
    expect([result.reasons, verdicts(result)]).to.deep.equal([[], { 'strip-version': 'lost' }])
  })

  it('are reported if they lose no update: the protection has no effect there', async () => {
    const result = await explore(
      options((id, key) => mergeJsonKey([Runs, id], 'progress', key, 1), ['strip-lock', 'strip-version']),
    )
    expect(result.verdict).to.equal('unknown')
    expect(verdicts(result)).to.deep.equal({ 'strip-lock': 'idle', 'strip-version': 'idle' })
    expect(result.reasons.join()).to.match(/strip-lock loses no update in \d+ schedules/)
  })

  it('are not run on code that already loses an update', async () => {
    const naive = async (id: number, key: string): Promise<void> => {
      const run = await Runs.findByPk(id, { rejectOnEmpty: true })
      await Runs.update({ progress: { ...run.progress, [key]: 1 } }, { where: { id } })
    }
    expect(await explore(options(naive, ['strip-lock']))).to.deep.include({ verdict: 'lost', mutants: [] })
  })

  it('are refused with an unknown name', async () => {
    const error = await rejection(explore(options(withoutVersion, ['strip' as never])), UsageError)
    expect(error.message).to.include('strip-lock, strip-version, strip-transaction')
    expect((await rejection(replay('v1.strip:AB', options(withoutVersion, [])), UsageError)).message).to.include(
      'token',
    )
  })
})
