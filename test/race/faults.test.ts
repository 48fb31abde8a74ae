import { setTimeout as delay } from 'node:timers/promises'
import { expect } from 'chai'
import { createConnection } from 'mysql2'
import { DataTypes, UniqueConstraintError } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import {
  assertNoLostUpdate,
  CommittedError,
  explore,
  htmlReport,
  NotSerialError,
  replay,
  sequenceDiagram,
  timeline,
  UsageError,
} from 'every-order'
import type { ExploreOptions, Fault, Result } from 'every-order'
import { requestedDatabases } from '../databases/index.js'
import { eachServer, servers } from '../each-database.js'
import { rejection } from '../rejection.js'
import { expectReadable } from './readable.js'

eachServer('explore() with faults', (database) => {
  let sequelize: Sequelize
  const { warn } = console

  before(async () => {
    // Sequelize warns of each lost connection.
    console.warn = () => undefined
    ;({ sequelize } = database.connect({ pool: { max: 4 } }))
    const id = { type: DataTypes.INTEGER, primaryKey: true }
    sequelize.define('Account', { id, n: DataTypes.INTEGER }, { tableName: 'fault_accounts', timestamps: false })
    const name = { type: DataTypes.STRING(20), primaryKey: true }
    sequelize.define('Key', { name }, { tableName: 'fault_keys', timestamps: false })
    await sequelize.sync({ force: true })
  })

  after(() => void (console.warn = warn))

  const setup = async (): Promise<void> => {
    await sequelize.query('DELETE FROM fault_keys')
    await sequelize.query('DELETE FROM fault_accounts')
    await sequelize.query('INSERT INTO fault_accounts VALUES (1, 0), (2, 0)')
  }
  const increment = (id: number, transaction?: Transaction): Promise<unknown> =>
    sequelize.query(`UPDATE fault_accounts SET n = n + 1 WHERE id = ${id}`, transaction && { transaction })
  const both = async (transaction?: Transaction): Promise<void> => {
    await increment(1, transaction)
    await increment(2, transaction)
  }
  const twice = async (fn: () => Promise<unknown>): Promise<void> => {
    await fn().catch(fn)
  }

  async function race(
    flow: (name: string) => unknown,
    options: Partial<ExploreOptions<void>> = {},
  ): Promise<Result & { options: ExploreOptions<void> }> {
    const participants = { A: () => flow('a'), B: () => flow('b') }
    const all = { sequelize, setup, participants, faults: true, ...options }
    return { ...(await explore(all)), options: all }
  }

  /** The kinds of faults after which an order fails, and the names of the failures. */
  const kinds = ({ failures }: Result): Fault[] => [...new Set(failures.map(({ fault }) => fault!.kind))].sort()
  const names = ({ failures }: Result): string[] => [...new Set(failures.map(({ anomaly }) => anomaly.name))]

  if (database.name === 'sqlite') {
    it('refuses SQLite, which has no connection to lose', async () => {
      const error = await rejection(
        race(() => both()),
        UsageError,
      )
      expect(error.message).to.equal(
        'explore: faults are lost connections to a server, and SQLite has none. Leave out faults, or explore on MySQL, MariaDB or PostgreSQL.',
      )
      expect((await race(() => both(), { faults: false })).faults).to.equal(0)
    })
    return
  }

  it('two increments without a transaction: one of them, in 20 of 36 orders with a fault', async () => {
    const result = await race(() => both())
    const { verdict, reasons, faults, schedules, isComplete, first, options } = result
    expect({ verdict, reasons, faults, schedules, isComplete }).to.deep.equal({
      verdict: 'lost',
      reasons: [],
      faults: 36,
      schedules: 40,
      isComplete: true,
    })
    expect(kinds(result)).to.deep.equal(['killed-after', 'killed-before', 'stopped'])
    expect(names(result)).to.deep.equal(['partial write'])
    expect(result.failures).to.have.length(20)
    expect(first!.error).to.be.instanceOf(NotSerialError)
    const stopped = result.failures.find(({ fault }) => fault!.kind === 'stopped')!
    expect(stopped.outcomes).to.deep.equal({ A: 'stopped', B: 'ok' })
    expect(stopped.fault).to.deep.equal({ kind: 'stopped', participant: 'A' })
    expect(stopped.token).to.equal('v1:AABB/stopped@2')
    const text = timeline(stopped).replace(/\s+/g, ' ')
    expect(text).to.include('✗ the participant stopped here, before the statement was')
    expect(text).to.include(
      'partial write: A wrote row 1 of fault_accounts at 1, which was committed, and stopped at 2. remedy: Make all writes of the participant in one transaction',
    )
    expect(sequenceDiagram(stopped)).to.include('the participant stopped here')
    await expectReadable(stopped)
    const page = htmlReport(result)
    expect(page).to.include('>20 of 40 orders fail<').and.to.include('the participant stopped here')
    for (const failure of [stopped, first!]) {
      const again = await replay(failure.token, options)
      expect(again.first).to.deep.include({ fault: failure.fault, outcomes: failure.outcomes, token: failure.token })
    }
  })

  it('two increments in one transaction: both or none, after every fault', async () => {
    const result = await race(() => sequelize.transaction((transaction) => both(transaction)))
    assertNoLostUpdate(result)
    expect(result.isComplete).to.equal(true)
    const after = (outcome: string): number =>
      Object.entries(result.outcomes)
        .filter(([ended]) => ended.includes(outcome))
        .reduce((sum, [, orders]) => sum + orders, 0)
    // A COMMIT whose answer is lost, in each of two serial orders for each participant, and right before and after the fault.
    expect(after('unknown')).to.equal(8)
    expect(after('stopped')).to.be.at.least(28)
  })

  it('a retry after the error of a COMMIT that was executed: both writes, with the name double write', async () => {
    const result = await race(() =>
      twice(() => sequelize.transaction(async (transaction) => void (await increment(1, transaction)))),
    )
    expect(
      [result.verdict, kinds(result), names(result), result.reasons].slice(0, result.reasons.length ? 4 : 3),
    ).to.deep.equal(['lost', ['lost-commit-answer'], ['double write']])
    const { first } = result
    expect(first!.outcomes).to.deep.equal({ A: 'ok', B: 'ok' })
    expect(first!.anomaly.sentence).to.match(
      /^A wrote row 1 of fault_accounts at 2, which was committed, got the error of a lost connection at 3, and made the same write again at \d\.$/,
    )
    expect(first!.anomaly.remedy).to.match(/^Let a retry see that the first attempt was committed/)
    const frames = htmlReport(result).split('<section')[1]!.split('class="frame"')
    expect(frames[3]).to.include('A at 2').and.to.not.include('not committed')
  })

  it('the same retry with a key of the request in the transaction: kept', async () => {
    const result = await race((name) =>
      twice(() =>
        sequelize.transaction(async (transaction) => {
          await sequelize.query(`INSERT INTO fault_keys VALUES ('${name}')`, { transaction })
          await increment(1, transaction)
        }),
      ).catch((error: unknown) => {
        if (!(error instanceof UniqueConstraintError)) throw error
      }),
    )
    assertNoLostUpdate(result)
  })

  it('an error that a participant ignores: lost write', async () => {
    const result = await race(() => increment(1).catch(() => undefined))
    expect(
      [result.verdict, kinds(result), names(result), result.reasons].slice(0, result.reasons.length ? 4 : 3),
    ).to.deep.equal(['lost', ['killed-before'], ['lost write']])
    expect(result.first!.anomaly.sentence).to.equal(
      'A resolved, but its write at 1 was not committed: its connection was lost at 1.',
    )
  })

  it('an error after the acknowledged COMMIT: the caller assumes a rollback', async () => {
    const result = await race(async () => {
      await increment(1)
      await sequelize.models['Account']!.findAll()
    })
    expect(
      [result.verdict, kinds(result), names(result), result.reasons].slice(0, result.reasons.length ? 4 : 3),
    ).to.deep.equal(['lost', ['killed-after', 'killed-before'], ['partial write']])
    expect(result.first!.error).to.be.instanceOf(CommittedError)
    expect(result.first!.error).to.include({ participant: 'A', code: 'RACE_COMMITTED' })
  })

  it('kinds of faults, a check, failures and maxSchedules', async () => {
    const { faults, verdict, isComplete, leftOut } = await race(() => both(), {
      faults: ['killed-before'],
      maxSchedules: 7,
      failures: 'forbid',
      check: () => undefined,
    })
    expect({ faults, verdict, isComplete, leftOut }).to.deep.equal({
      faults: 7,
      verdict: 'kept',
      isComplete: false,
      leftOut: ['7 of 12 orders with a fault were run'],
    })
  })

  it('stops a participant: its other statements, its transaction, and the code of its timers', async () => {
    const seen = new Set<string>()
    const participants = {
      A: async (ended: { timer: boolean }) => {
        let timer: Promise<unknown> | undefined
        await sequelize.transaction(async (transaction) => {
          await increment(1, transaction)
          await Promise.all([increment(2), sequelize.models['Account']!.findAll({ transaction })])
          // It sends its statement after COMMIT, also where the participant is stopped at COMMIT.
          timer = delay(1).then(() => increment(2))
        })
        await timer
        ended.timer = true
      },
      B: () => increment(1),
    }
    await explore({
      sequelize,
      setup: async () => {
        await setup()
        return { timer: false }
      },
      participants,
      faults: ['stopped'],
      check: ({ timer }, { A }) => void seen.add(`${A}, ${timer}`),
    })
    expect([...seen].sort()).to.deep.equal(['ok, true', 'stopped, false'])
  })

  it('compares the rows of a table without a known key in any order', async () => {
    await sequelize.query('DROP TABLE IF EXISTS fault_lines')
    await sequelize.query('CREATE TABLE fault_lines (id INT, n INT)')
    const add = (id: number, transaction: Transaction): Promise<unknown> =>
      sequelize.query(`UPDATE fault_lines SET n = n + 1 WHERE id = ${id}`, { transaction })
    const flow = (): Promise<unknown> =>
      sequelize.transaction(async (transaction) => {
        await add(1, transaction)
        await add(2, transaction)
      })
    const create = async (): Promise<void> => {
      await sequelize.query('DELETE FROM fault_lines')
      await sequelize.query('INSERT INTO fault_lines VALUES (1, 0), (2, 0)')
    }
    assertNoLostUpdate(await race(flow, { setup: create, faults: ['stopped', 'killed-before'] }))
  })

  it('refuses an invalid list of faults, and a token with an unknown fault', async () => {
    for (const faults of [['killed'], 'stopped', 1]) {
      const error = await rejection(
        race(() => both(), { faults: faults as never }),
        UsageError,
      )
      expect(error.message).to.match(
        /^explore: expected faults to be true or an array of killed-before, killed-after, lost-commit-answer, stopped, got .+\. Write { faults: true }\.$/,
      )
    }
    for (const token of ['v1:AABB/killed@1', 'v1:AABB/stopped@0', 'v1:AABB/stopped']) {
      const participants = { A: () => both(), B: () => both() }
      const error = await rejection(replay(token, { sequelize, setup, participants }), UsageError)
      expect(error.message).to.include('expected the token of a failure')
    }
  })
})

if (requestedDatabases().includes('mysql')) {
  it('explore() with faults refuses a single connection, which a fault ends', async () => {
    const connections = [createConnection(servers.get('mysql')!.url), createConnection(servers.get('mysql')!.url)]
    const participants = { A: () => undefined, B: () => undefined }
    const error = await rejection(
      explore({ connections, setup: () => undefined, participants, faults: true }),
      UsageError,
    )
    expect(error.message).to.equal(
      'explore: connections[0] is one connection, which the first fault ends, so there is none for the next order. Pass a pool in its place, or leave out faults.',
    )
    for (const connection of connections) await new Promise((resolve) => connection.end(resolve))
  })
}
