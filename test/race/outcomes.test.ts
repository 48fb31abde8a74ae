import { expect } from 'chai'
import type { Sequelize } from 'sequelize'
import { assertNoLostUpdate, explore, FailureError, HangError, ResultsError, StuckError, timeline } from 'every-order'
import type { ExploreOptions, Result } from 'every-order'
import { eachServer } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

type Ids = readonly [first: number, second: number]

eachServer('explore() compares the results and the errors of participants', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  const isSqlite = database.name === 'sqlite'

  before(async () => {
    const sooner = { dialectOptions: { options: '-c deadlock_timeout=1ms' } }
    ;({ sequelize } = database.connect(database.name === 'postgres' ? sooner : {}))
    Runs = await createRuns(sequelize)
  })

  const create = async (): Promise<number> => (await Runs.create({ progress: {}, title: 'new' })).id
  const setup = async (): Promise<Ids> => [await create(), await create()]
  const title = async (id: number): Promise<string> => (await Runs.findByPk(id, { rejectOnEmpty: true })).title!

  function race(
    A: (ids: Ids) => unknown,
    B: (ids: Ids) => unknown = A,
    options: Partial<ExploreOptions<Ids>> = {},
  ): Promise<Result> {
    return explore({ sequelize, setup, participants: { A, B }, ...options })
  }

  it('a charge that two participants both make: lost, since the results are not those of a serial run', async () => {
    const pay = async ([id]: Ids): Promise<string> => {
      if ((await title(id)) === 'paid') return 'already paid'
      await Runs.update({ title: 'paid' }, { where: { id } })
      return 'charged'
    }
    const { verdict, first } = await race(pay)
    expect(verdict).to.equal('lost')
    expect(first!.error).to.be.instanceOf(ResultsError)
    expect(timeline(first!).replace(/\s+/g, ' ')).to.include(
      'the participants return what they return in no serial order: A returns "charged", B returns "charged" instead of A returns "charged", B returns "already paid" (A, B) or',
    )
  })

  it('the same charge with a condition in the UPDATE: kept', async () => {
    const pay = async ([id]: Ids): Promise<string> => {
      const [changed] = await Runs.update({ title: 'paid' }, { where: { id, title: 'new' } })
      return changed === 1 ? 'charged' : 'already paid'
    }
    assertNoLostUpdate(await race(pay))
  })

  it('a report that reads two rows changed by another transaction: lost with two reads, kept with one', async () => {
    const report = async ([first, second]: Ids): Promise<string[]> => [await title(first), await title(second)]
    const replace = ([first, second]: Ids): Promise<unknown> =>
      sequelize.transaction(async (transaction) => {
        await Runs.update({ title: 'old' }, { where: { id: first }, transaction })
        await Runs.update({ title: 'old' }, { where: { id: second }, transaction })
      })
    const { verdict, first } = await race(report, replace)
    expect(verdict).to.equal('lost')
    expect((first!.error as Error).message).to.match(/A returns \["(new","old|old","new)"\] instead of A returns/)
    const inOne = async (ids: Ids): Promise<string[]> => {
      const rows = await Runs.findAll({ where: { id: [...ids] }, order: ['id'] })
      return rows.map((row) => row.title!)
    }
    assertNoLostUpdate(await race(inOne, replace))
  })

  it('does not compare generated keys and instances of models', async () => {
    const add = async ([id]: Ids): Promise<unknown> => {
      const seen = await Runs.findByPk(id, { rejectOnEmpty: true })
      await Runs.update({ title: sequelize.literal("'same'") }, { where: { id } })
      return seen
    }
    assertNoLostUpdate(await race(add))
    const key = async ([id]: Ids): Promise<unknown> => {
      await Runs.update({ title: 'same' }, { where: { id } })
      return { key: await create() }
    }
    assertNoLostUpdate(await race(key))
  })

  it('passes the results to a check', async () => {
    const seen = new Set<string>()
    const read = async ([id]: Ids): Promise<string> => {
      await Runs.update({ title: 'same' }, { where: { id } })
      return title(id)
    }
    await race(read, read, { check: (_ids, _outcomes, results) => void seen.add(JSON.stringify(results)) })
    expect([...seen]).to.deep.equal(['{"A":"same","B":"same"}'])
  })

  if (isSqlite) return

  it('a lock that its own participant waits for: reported, with the statement that holds it', async () => {
    const hang = ([id]: Ids): Promise<unknown> =>
      sequelize.transaction(async (transaction) => {
        await Runs.findByPk(id, { lock: true, transaction })
        await Runs.update({ title: 'a' }, { where: { id } })
      })
    const touch = ([id]: Ids): Promise<unknown> => Runs.update({ title: 'b' }, { where: { id } })
    const { verdict, first } = await race(hang, touch)
    expect(verdict).to.equal('lost')
    expect(first!.error).to.be.instanceOf(HangError)
    expect((first!.error as Error).message).to.match(
      /^A waits for its own lock: statement \d+ \(UPDATE .*\) waits for a row that statement \d+ \(SELECT .*\) has locked in another transaction of A\. Pass { transaction } to the call that sends statement \d+\.$/s,
    )
    const ended = first!.steps.find(({ error }) => error !== undefined)
    expect(ended!.error).to.include('the exploration ended this wait')
    // Both hang, so that no run writes anything.
    const { reasons } = await race(hang)
    expect(reasons.join()).to.include('A waits for its own lock')
  })

  it('a deadlock: allowed, forbidden, or allowed by its message', async () => {
    const both =
      (key: string) =>
      (ids: readonly number[]): Promise<unknown> =>
        sequelize.transaction(async (transaction) => {
          for (const id of ids) await Runs.update({ title: key }, { where: { id }, transaction })
        })
    const explored = (failures?: ExploreOptions<Ids>['failures']): Promise<Result> =>
      race(both('a'), (ids) => both('b')(ids.toReversed()), { ...(failures && { failures }) })
    expect((await explored()).verdict).to.equal('kept')
    const { verdict, first } = await explored('forbid')
    expect(verdict).to.equal('lost')
    expect(first!.error).to.be.instanceOf(FailureError)
    expect((first!.error as Error).message).to.match(/^[AB] failed: .*deadlock/i)
    expect((await explored(/deadlock/i)).verdict).to.equal('kept')
    expect((await explored(/duplicate/i)).verdict).to.equal('lost')
  })

  it('a row lock against a lock of this process: says that it may be a deadlock', async () => {
    let queue = Promise.resolve()
    const alone = async (fn: () => Promise<unknown>): Promise<void> => {
      const before = queue
      const { promise, resolve } = deferred()
      queue = promise
      await before
      try {
        await fn()
      } finally {
        resolve()
      }
    }
    const lockThenAlone = ([id]: Ids): Promise<unknown> =>
      sequelize.transaction(async (transaction) => {
        await Runs.findByPk(id, { lock: true, transaction })
        await alone(() => Runs.update({ title: 'a' }, { where: { id }, transaction }))
      })
    const aloneThenLock = ([id]: Ids): Promise<unknown> => alone(() => Runs.update({ title: 'b' }, { where: { id } }))
    if (database.name === 'mariadb') {
      // It does not report who holds the lock.
      const { message } = await rejection(race(lockThenAlone, aloneThenLock), StuckError)
      expect(message).to.include('a lock in this process')
      return
    }
    const { verdict, reasons } = await race(lockThenAlone, aloneThenLock)
    expect(verdict).to.equal('unknown')
    expect(reasons.join('\n')).to.include('this is a deadlock that the server does not see')
  })
})

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => undefined
  const promise = new Promise<void>((done) => (resolve = done))
  return { promise, resolve }
}
