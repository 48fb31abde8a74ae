import { runInNewContext } from 'node:vm'
import { expect } from 'chai'
import { DataTypes, QueryTypes, Sequelize, Transaction } from 'sequelize'
import type { Model, ModelStatic, Options } from 'sequelize'
import { mergeJsonKey } from 'sequelize-lossless'
import {
  checkers,
  EndlessError,
  explain,
  explore,
  LostKeysError,
  NoFinalReadError,
  OpenTransactionError,
  ProbeError,
  StuckError,
  UsageError,
} from 'every-order'
import type { ExploreOptions, NotSerialError, Result } from 'every-order'
import { eachServer, servers } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

eachServer('explore()', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  const isSqlite = database.name === 'sqlite'

  before(async () => {
    const sooner = { dialectOptions: { options: '-c deadlock_timeout=1ms' } }
    ;({ sequelize } = database.connect(database.name === 'postgres' ? sooner : {}))
    Runs = await createRuns(sequelize)
  })

  const setup = async (): Promise<number> => (await Runs.create({ progress: {} })).id
  const nothing = (): undefined => undefined
  const merge = (id: number, key: string): Promise<unknown> => mergeJsonKey([Runs, id], 'progress', key, 1)

  function race(
    participant: (id: number, key: string) => unknown,
    options: Partial<ExploreOptions<number>> = {},
  ): Promise<Result> {
    const participants = { A: (id: number) => participant(id, 'a'), B: (id: number) => participant(id, 'b') }
    return explore({ sequelize, setup, participants, ...options })
  }

  describe('is inconclusive', () => {
    async function reasons(...words: Parameters<typeof race>): Promise<string> {
      const { verdict, reasons } = await race(...words)
      expect(verdict).to.equal('unknown')
      return reasons.join('\n')
    }

    it('if there is a single schedule, or no statement', async () => {
      expect(await reasons(nothing, { check: nothing })).to.match(/no two participants used the same row/)
      if (!isSqlite) expect(await reasons(nothing, { check: nothing })).to.include('only one schedule')
      expect(await reasons(nothing)).to.include('no participant wrote to a table')
    })

    it('if no two participants access the same row', async () => {
      expect(await reasons(() => Runs.create({ progress: {} }).then(({ id }) => merge(id, 'own')))).to.include(
        'no two participants used the same row',
      )
    })

    it('if every participant fails', async () => {
      const said = await reasons((id) => merge(id, 'a').then(() => Promise.reject(new Error('on purpose'))), {
        check: nothing,
      })
      expect(said).to.equal('A failed in every schedule: on purpose\nB failed in every schedule: on purpose')
    })

    it('if one participant fails in every order', async () => {
      const said = await reasons(async (id, key) => {
        await merge(id, key)
        if (key === 'b') throw new Error('on purpose')
      })
      expect(said).to.equal('B failed in every schedule: on purpose')
    })

    it('if the first participant failed before it wrote, with its error as a reason', async () => {
      const said = await reasons(() => Promise.reject(new Error('on purpose')))
      expect(said).to.equal('no participant wrote to a table, so there is nothing to compare: A failed: on purpose')
    })

    if (!isSqlite) {
      it('if a table is written in some orders only', async () => {
        const Conflicts = await createRuns(sequelize, { modelName: 'Conflict', tableName: 'conflicts' })
        const said = await reasons(async (id, key) => {
          const run = await Runs.findByPk(id, { rejectOnEmpty: true })
          const [count] = await Runs.update({ title: key }, { where: { id, title: run.title } })
          if (count === 0) await Conflicts.create({ title: key })
        })
        expect(said).to.match(/^.conflicts. is written only in some orders, so it was not compared: pass a check/)
      })

      it('if a written table is unknown', async () => {
        const call = database.name === 'postgres' ? 'DO $$ BEGIN END $$' : 'DO SLEEP(0)'
        const said = await reasons(async (id, key) => {
          await merge(id, key)
          await sequelize.query(call)
        })
        expect(said).to.match(/^the tables that DO .* writes to are unknown: pass a check that reads them$/)
      })

      it('if other code sends a statement during the exploration', async () => {
        let ask: () => void
        let other: Promise<unknown>
        const said = await reasons(
          async (id, key) => {
            ask()
            await other
            await merge(id, key)
          },
          {
            setup: () => {
              other = new Promise<void>((resolve) => (ask = resolve)).then(() => Runs.count())
              return setup()
            },
          },
        )
        expect(said).to.match(/^a statement came from outside the participants \(SELECT count/)
      })
    }

    it('if a participant sends a statement after it has ended', async () => {
      let goOn: () => void
      let late: Promise<unknown>
      const said = await reasons(
        async (id, key) => {
          await merge(id, key)
          late = new Promise<void>((resolve) => (goOn = resolve)).then(() => Runs.count())
        },
        {
          check: () => {
            goOn()
            return late
          },
        },
      )
      expect(said).to.match(
        /^[AB] sent a statement after it had ended \(SELECT count.*: make it await everything that it starts$/m,
      )
    })

    it('if a participant does not await a statement', async () => {
      const said = await reasons(
        (id, key) => {
          const write = merge(id, key)
          if (key === 'b') return write
          void write.then(() => merge(id, 'late'))
          return undefined
        },
        { check: nothing, maxSchedules: 3 },
      )
      expect(said).to.match(
        /^A sent a statement after it had ended \(UPDATE.*: make it await everything that it starts$/m,
      )
    })

    it('if the final read finds no row', async () => {
      const check = checkers.jsonKeys(() => Runs.findByPk(-1), 'progress', {})
      expect(await reasons(merge, { check })).to.include('the final read found no row')
    })

    it('if there are more schedules than maxSchedules', async () => {
      const reads = async (id: number): Promise<void> => {
        for (let read = 0; read < 3; read++) await Runs.findByPk(id)
        await merge(id, 'a')
      }
      const cut = await race(reads, { check: nothing, reduce: false, preemptions: Infinity, maxSchedules: 3 })
      expect(cut).to.deep.include({ verdict: 'kept', schedules: 3, isComplete: false })
    })

    it('if the participants send different statements in each run', async () => {
      let call = 0
      const { verdict, isComplete, reasons } = await race(
        async (id, key) => {
          await Runs.findAll({ attributes: new Array<string>(++call).fill('id'), limit: 1 })
          await merge(id, key)
        },
        { check: nothing, maxSchedules: 8 },
      )
      expect([verdict, isComplete]).to.deep.equal(['unknown', false])
      expect(reasons[0]).to.match(/behave differently in different runs.*at choice \d+ one run could choose from/s)
    })

    it('if rows differ between two runs of the same order', async () => {
      let call = 0
      const said = await reasons((id) => mergeJsonKey([Runs, id], 'progress', 'a', call++), { maxSchedules: 2 })
      expect(said).to.match(/two runs of the same order ended with different rows \(workflow_runs\.progress\)/)
    })

    it('if the rows of an outbox hold the generated key of the row in a document', async () => {
      const said = await reasons((id) => Runs.create({ progress: { of: { id } } }), { maxSchedules: 2 })
      expect(said).to.include(
        'two runs of the same order ended with different rows (workflow_runs.progress), so rows cannot be compared: make setup() and the participants write the same each time (let setup() choose the primary key, if a document or a text holds it), or pass a check',
      )
    })
  })

  describe('knows how a participant ended', () => {
    it('by phase: a write that the server refused does not count', async () => {
      const taken = (id: number): Promise<unknown> => Runs.create({ id, progress: {} })
      const { outcomes } = await race(taken, { check: nothing })
      expect(outcomes).to.deep.equal({ 'A failed, B failed: kept': isSqlite ? 4 : 2 })
    })

    it('and checks the keys that each participant promised', async () => {
      const check = checkers.jsonKeys(() => Promise.resolve({ progress: { a: 1 } }), 'progress', {
        A: { a: 1 },
        B: { b: 1 },
      })
      await check(undefined, { A: 'ok', B: 'failed' })
      await check(undefined, { A: 'unknown', B: 'unknown' })
      const lost = async (outcomes: Parameters<typeof check>[1]): Promise<unknown> =>
        (await rejection(Promise.resolve(check(undefined, outcomes)), LostKeysError)).lost
      const phantom = { participant: 'A', column: 'progress', key: 'a', is: 'written by a participant that failed' }
      expect(await lost({ A: 'failed', B: 'unknown' })).to.deep.equal([phantom])
      expect(await lost({ A: 'ok', B: 'ok' })).to.deep.equal([
        { participant: 'B', column: 'progress', key: 'b', is: 'lost' },
      ])
      const none = checkers.jsonKeys(() => Promise.resolve(null), 'progress', {})
      await rejection(Promise.resolve(none(undefined, {})), NoFinalReadError)
    })

    it('and compares promised values as JSON, also those of another realm', async () => {
      const promised = runInNewContext('({ at: new Date(0), list: [{ n: 1 }], big: 2n ** 40n })') as Record<
        string,
        unknown
      >
      const check = checkers.jsonKeys(
        () => Promise.resolve({ progress: { at: '1970-01-01T00:00:00.000Z', list: [{ n: 1 }], big: 2 ** 40 } }),
        'progress',
        { A: promised },
      )
      await check(undefined, { A: 'ok' })
    })

    it('and reports the value that was thrown, also by code of another realm', async () => {
      const failed = async (said: Error): Promise<string> => {
        const { outcomes } = await race(merge, { check: () => Promise.reject(said), maxSchedules: 1 })
        return Object.keys(outcomes).join()
      }
      // As those of Node are in Jest.
      expect(await failed(runInNewContext('new RangeError("of its own")') as Error)).to.equal('A ok, B ok: of its own')
      expect(await failed('text' as never)).to.equal("A ok, B ok: 'text'")
    })

    it('compares columns of any kind', async () => {
      const { first, verdict } = await race(async (id, key) => {
        const run = await Runs.findByPk(id, { rejectOnEmpty: true })
        await run.update({ title: `${run.title ?? '{'}${key}` })
      })
      expect(verdict).to.equal('lost')
      expect(explain(first!)).to.include({ column: 'title', key: undefined })
    })
  })

  describe('compares times by the moment of their run', () => {
    const pay = (isLocked: boolean) => async (id: number) =>
      sequelize.transaction(async (transaction) => {
        const payment = await Payments.findByPk(id, { rejectOnEmpty: true, transaction, lock: isLocked })
        const [now, dueAt] = [new Date(), new Date(Date.now() + 3_600_000)]
        await payment.update(
          { total: payment.total + 1, paidAt: now, dueAt, log: { at: now.toISOString(), ms: now.getTime() } },
          { transaction },
        )
      })
    interface Payment extends Model {
      total: number
    }
    let Payments: ModelStatic<Payment>
    const open = async (): Promise<number> =>
      (await Payments.create({ total: 0, dueAt: new Date(0), log: {} })).get('id') as number
    const explorePayments = (isLocked: boolean): Promise<Result> =>
      explore({ sequelize, setup: open, participants: { A: pay(isLocked), B: pay(isLocked) } })

    before(async () => {
      const { DATE, INTEGER, JSON } = DataTypes
      const columns = { total: INTEGER, paidAt: DATE(3), dueAt: DATE(3), log: JSON }
      Payments = sequelize.define<Payment>('Payment', columns, { tableName: 'race_payments', timestamps: false })
      await Payments.sync({ force: true })
    })

    it('of a correct program: no difference is reported', async () => {
      const { verdict, reasons } = await explorePayments(true)
      expect([verdict, reasons]).to.deep.equal(['kept', []])
    })

    if (!isSqlite) {
      it('of a program that loses an update: the update is reported, and no time', async () => {
        const { verdict, first } = await explorePayments(false)
        expect(verdict).to.equal('lost')
        expect((first!.error as NotSerialError).difference).to.deep.equal({ column: 'total', key: undefined })
      })
    }

    it('but a time that was never written is a difference', async () => {
      const tidy = async (id: number): Promise<unknown> => Payments.update({ paidAt: null }, { where: { id } })
      const stale = async (id: number): Promise<unknown> => {
        const payment = await Payments.findByPk(id, { rejectOnEmpty: true })
        const paidAt = payment.get('paidAt') === null ? null : new Date()
        return Payments.update({ paidAt, total: 2 }, { where: { id } })
      }
      const start = async (): Promise<number> => {
        const id = await open()
        await Payments.update({ paidAt: new Date() }, { where: { id } })
        return id
      }
      const { verdict, first } = await explore({ sequelize, setup: start, participants: { A: tidy, B: stale } })
      expect(verdict).to.equal('lost')
      expect((first!.error as NotSerialError).difference?.column).to.equal('paidAt')
    })
  })

  it('reports no failure that does not fail again in a replay', async () => {
    let checks = 0
    const check = (): void => {
      if (++checks === 1) throw new Error('by the clock')
    }
    const { verdict, failures, reasons } = await race(merge, { check, maxSchedules: 1 })
    expect([verdict, failures]).to.deep.equal(['unknown', []])
    expect(reasons[0]).to.match(/^an order failed once, but not when it was run again: by the clock/)
  })

  it('counts the tables of joins, of subqueries and of INSERT … SELECT as used', async () => {
    const Others = await createRuns(sequelize, { modelName: 'Beside', tableName: 'beside_runs', timestamps: false })
    const type = QueryTypes.SELECT
    const join = "SELECT workflow_runs.id FROM workflow_runs JOIN beside_runs ON beside_runs.title <> ''"
    const insert = `INSERT INTO beside_runs (title)
      SELECT 'only' FROM (SELECT 1 AS one) AS one WHERE NOT EXISTS (SELECT 1 FROM beside_runs WHERE title = 'only')`
    const rename = (): Promise<unknown> => Others.update({ title: 'b' }, { where: { title: 'a' } }).then(nothing)
    const report = async (): Promise<unknown> => (await sequelize.query(join, { type })).length
    const insertOnce = (): Promise<unknown> => sequelize.query(insert, { type: QueryTypes.INSERT }).then(nothing)
    const create = async (): Promise<number> => {
      await Others.destroy({ where: {} })
      await Others.create({ title: 'a' })
      return setup()
    }
    for (const participants of [
      { A: report, B: rename },
      { A: insertOnce, B: insertOnce },
    ]) {
      for (const check of [undefined, nothing]) {
        const { verdict, reasons } = await explore({ sequelize, setup: create, participants, ...(check && { check }) })
        expect([verdict, reasons]).to.deep.equal(['kept', []])
      }
    }
  })

  describe('recognises raw statements that begin with', () => {
    const before = [
      '/* by hand */ -- in two ways\n',
      ...(database.name === 'mariadb' ? [] : ['WITH given AS (SELECT 1) ']),
    ]
    for (const start of before) {
      it(start.trim(), async () => {
        const { verdict, reasons, first } = await race(async (id, key) => {
          const [run] = await sequelize.query<{ title: string | null }>(
            `${start}SELECT title FROM workflow_runs WHERE id = ${id}`,
            { type: QueryTypes.SELECT },
          )
          const title = `${run!.title ?? ''}${key}`
          await sequelize.query(`${start}UPDATE workflow_runs SET title = '${title}' WHERE id = ${id}`)
        })
        expect([verdict, reasons]).to.deep.equal(['lost', []])
        expect(explain(first!)).to.include({ column: 'title' })
      })
    }
  })

  if (database.name === 'postgres') {
    it('treats a query as a read only if it cannot write', async () => {
      await sequelize.query(
        `CREATE OR REPLACE FUNCTION entitle(text) RETURNS void LANGUAGE sql AS 'UPDATE workflow_runs SET title = $1'`,
      )
      for (const query of [
        `SELECT "entitle"('new')`,
        `SELECT title FROM workflow_runs; UPDATE workflow_runs SET title = 'new'`,
      ]) {
        const { schedules } = await race(() => sequelize.query(query), { check: nothing })
        expect(schedules, query).to.equal(2)
      }
    })

    it('recognises that any query takes the snapshot of its transaction', async () => {
      const isolationLevel = Transaction.ISOLATION_LEVELS.REPEATABLE_READ
      const { outcomes } = await race((id, key) =>
        sequelize.transaction({ isolationLevel }, async (transaction) => {
          await sequelize.query('SELECT 1', { transaction })
          await mergeJsonKey([Runs, id], 'progress', key, 1, { transaction })
        }),
      )
      expect(Object.keys(outcomes).sort()).to.deep.equal([
        'A failed, B ok: kept',
        'A ok, B failed: kept',
        'A ok, B ok: kept',
      ])
    })
  }

  it('runs concurrent explorations of one instance sequentially', async () => {
    const results = await Promise.all([race(merge), race(merge), race(merge)])
    for (const result of results) expect(result).to.deep.include({ verdict: 'kept', reasons: [], isComplete: true })
  })

  describe('stops at a limit, and reports how many orders it left out', () => {
    it('after a number of orders', async () => {
      const { isComplete, leftOut } = await race(merge, { maxSchedules: 1 })
      expect(isComplete).to.equal(false)
      expect(leftOut.join()).to.match(/^1 of at least [2-9] orders were run$/)
    })

    it('by its signal, within an order, and releases every lock', async () => {
      const controller = new AbortController()
      let calls = 0
      const stopped = async (id: number, key: string): Promise<void> => {
        await sequelize.transaction(async (transaction) => {
          await Runs.findByPk(id, { lock: true, transaction })
          // The first run is the one that fills caches.
          if (++calls > 4) controller.abort()
          await Runs.update({ title: key }, { where: { id }, transaction })
        })
      }
      const { verdict, reasons, leftOut } = await race(stopped, {
        signal: controller.signal,
        check: () => undefined,
      })
      expect([verdict, reasons]).to.deep.equal(['unknown', ['the exploration was stopped by its signal']])
      expect(leftOut.join()).to.match(/^1 of at least \d+ orders were run$/)
      expect((await race(merge)).verdict).to.equal('kept')
    })

    it('after a time limit', async () => {
      const { verdict, reasons } = await race(merge, { timeoutMs: 0.001 })
      expect([verdict, reasons]).to.deep.equal([
        'unknown',
        ['the exploration was stopped after 0.001 ms, as timeoutMs says'],
      ])
    })
  })

  describe('with participants that wait', () => {
    if (database.name === 'mysql' || isSqlite) {
      it('waits for a participant with a timer, in every order', async () => {
        const explored = (milliseconds: number): Promise<Result> => {
          const slowly = async (id: number): Promise<void> => {
            await Runs.create({ progress: {} })
            if (milliseconds > 0) await new Promise((resolve) => setTimeout(resolve, milliseconds))
            await merge(id, 'a')
          }
          const naive = async (id: number): Promise<void> => {
            const run = await Runs.findByPk(id, { rejectOnEmpty: true })
            await Runs.update({ progress: { ...run.progress, b: 1 } }, { where: { id } })
          }
          const expected = { A: { a: 1 }, B: { b: 1 } }
          const check = checkers.jsonKeys((id: number) => Runs.findByPk(id), 'progress', expected)
          return explore({ sequelize, setup, participants: { A: slowly, B: naive }, check })
        }
        const [quick, slow] = [await explored(0), await explored(isSqlite ? 150 : 500)]
        expect(slow.outcomes).to.deep.equal(quick.outcomes)
        expect(slow).to.deep.include({ verdict: 'lost', reasons: [], isComplete: true, schedules: quick.schedules })
      })
    }

    it('rejects if a loop waits for the write of another participant', async () => {
      const poll = async (id: number): Promise<void> => {
        while ((await Runs.findByPk(id, { rejectOnEmpty: true })).title !== 'done');
      }
      const participants = { A: poll, B: (id: number) => Runs.update({ title: 'done' }, { where: { id } }) }
      const error = await rejection(
        explore({ sequelize, setup, participants, check: nothing, maxStatements: 20 }),
        EndlessError,
      )
      expect(error).to.have.property('code', 'RACE_ENDLESS')
      expect(error.message).to.match(/^explore: A sent 20 statements in one order.*the last 20 of them read SELECT/)
    })

    if (!isSqlite) {
      it('ends a participant that waits for its own lock, and reports the wait', async () => {
        const participants = {
          A: (id: number): Promise<unknown> =>
            sequelize.transaction(async (transaction) => {
              await Runs.findByPk(id, { lock: true, transaction })
              await Runs.update({ title: 'a' }, { where: { id } })
            }),
          B: (id: number): Promise<unknown> => merge(id, 'b'),
        }
        const { failures, outcomes } = await explore({
          sequelize,
          setup,
          participants,
          check: () => expect.fail('seen'),
        })
        expect(Object.keys(outcomes).join()).to.include('A failed, B ok')
        const waits = failures.flatMap(({ steps }) => steps.filter(({ waitedFor }) => waitedFor.includes('A')))
        expect(waits.some(({ participant, error }) => participant === 'A' && error !== undefined)).to.equal(true)
      })

      it('continues after a deadlock that ends one participant', async () => {
        const pair = async (): Promise<number[]> => [await setup(), await setup()]
        const both = (ids: readonly number[], key: string): Promise<unknown> =>
          sequelize.transaction(async (transaction) => {
            for (const id of ids) await mergeJsonKey([Runs, id], 'progress', key, 1, { transaction })
          })
        const participants = {
          A: (ids: number[]) => both(ids, 'a'),
          B: (ids: number[]) => both(ids.toReversed(), 'b'),
        }
        const { verdict, reasons, outcomes } = await explore({ sequelize, setup: pair, participants })
        expect([verdict, reasons]).to.deep.equal(['kept', []])
        expect(Object.keys(outcomes).join()).to.match(/failed/)
      })
    }

    if (database.name === 'mariadb') {
      it('does not report an earlier deadlock as a wait', async () => {
        const { sequelize: two } = database.connect({ pool: { max: 2 } })
        const pair = async (): Promise<number[]> => [await setup(), await setup()]
        const both = (ids: readonly number[]): Promise<unknown> =>
          two.transaction(async (transaction) => {
            for (const id of ids) {
              await two.query(`UPDATE workflow_runs SET title = 'new' WHERE id = ${id}`, { transaction })
            }
          })
        const crossing = { A: (ids: number[]) => both(ids), B: (ids: number[]) => both(ids.toReversed()) }
        const deadlocked = await explore({ sequelize: two, setup: pair, participants: crossing, check: nothing })
        expect(Object.keys(deadlocked.outcomes).join()).to.include('failed')

        // On both connections, and long enough for the server to be asked.
        const slowly = (): Promise<unknown> => two.query('SELECT SLEEP(0.05)')
        const participants = { A: slowly, B: slowly }
        const check = (): never => expect.fail('seen')
        const { failures } = await explore({ sequelize: two, setup, participants, check })
        expect(failures.flatMap(({ steps }) => steps.flatMap(({ waitedFor }) => waitedFor))).to.deep.equal([])
      })
    }

    if (database.name === 'mysql') {
      it('ends a wait that only a lock in this process could end', async () => {
        let release: () => void
        let held: Promise<void> | undefined
        const participants = {
          A: (id: number): Promise<unknown> =>
            sequelize.transaction(async (transaction) => {
              await mergeJsonKey([Runs, id], 'progress', 'a', 1, { transaction })
              await held
              held = undefined
            }),
          B: (id: number): Promise<unknown> => {
            held = new Promise((resolve) => (release = resolve))
            return merge(id, 'b').finally(() => {
              release()
            })
          },
        }
        const { schedules, outcomes } = await explore({
          sequelize,
          setup,
          participants,
          check: nothing,
          maxSchedules: 1,
        })
        expect(schedules).to.equal(1)
        expect(outcomes).to.deep.equal({ 'A ok, B failed: kept': 1 })
      })

      it('reports an order that was chosen without a waiting participant, and is not complete', async () => {
        let release: () => void
        let held: Promise<void> | undefined
        const participants = {
          A: async (id: number): Promise<void> => {
            await merge(id, 'a')
            await held
            held = undefined
          },
          B: (id: number): Promise<unknown> => {
            held = new Promise((resolve) => (release = resolve))
            return merge(id, 'b').finally(() => {
              release()
            })
          },
        }
        const result = await explore({ sequelize, setup, participants, check: nothing })
        expect([result.verdict, result.isComplete]).to.deep.equal(['unknown', false])
        expect(result.reasons[0]).to.match(/^A waited outside the database after 1 of its statements, and the others/)
      })

      it('rejects if a participant never ends', async () => {
        const error = await rejection(
          race((id, key) => merge(id, key).then(() => new Promise(nothing))),
          StuckError,
        )
        expect(error.message).to.match(/sent no statement for 4000 ms.*shorten or fake the timer/)
      })
    }

    if (database.name !== 'mariadb') {
      it('releases every lock and connection if it fails', async () => {
        const own = database.connect({ pool: { max: 4 } }).sequelize
        const lockName = `race_${Date.now()}`
        const take = {
          mysql: `SELECT GET_LOCK('${lockName}', 20) AS taken`,
          postgres: 'SELECT 1 AS taken FROM pg_advisory_lock(4711)',
          sqlite: 'SELECT 1 AS taken',
        }[database.name as 'mysql' | 'postgres' | 'sqlite']
        let id = 0
        const participant = (row: number, key: string): Promise<unknown> =>
          own.transaction(async (transaction) => {
            id = row
            await mergeJsonKey([Runs, row], 'progress', key, 1)
            await own.query(`UPDATE workflow_runs SET title = '${key}' WHERE id = ${row}`, { transaction })
            await own.query(take, { transaction })
            await new Promise(nothing)
          })
        const participants = {
          A: (row: number) => participant(row, 'a'),
          B: (row: number) => participant(row, 'b'),
        }
        await rejection(explore({ sequelize: own, setup, participants, check: nothing }), StuckError)
        const [row] = await own.query(take, { type: QueryTypes.SELECT })
        expect(row).to.deep.equal({ taken: 1 })
        await Runs.update({ title: 'after' }, { where: { id } })
        // The hook that ends the tests closes it again, which SQLite refuses.
        if (database.name !== 'sqlite') await own.close()
      })
    }
  })

  it('ends without an error while the connection of the last transaction is being closed', async () => {
    const inTransaction = (id: number): Promise<unknown> =>
      sequelize.transaction((transaction) => Runs.update({ title: 'a' }, { where: { id }, transaction }))
    for (let exploration = 0; exploration < 5; exploration++) {
      expect((await race(inTransaction, { check: nothing, maxSchedules: 2 })).reasons).to.deep.equal([])
    }
  })

  it('finds a transaction of Sequelize that a participant leaves open, and rolls it back', async () => {
    const leave = async (id: number): Promise<void> => {
      const transaction = await sequelize.transaction()
      await Runs.update({ title: 'left' }, { where: { id }, transaction })
    }
    const participants = { A: leave, B: (id: number) => merge(id, 'b') }
    const { verdict, reasons, first } = await explore({ sequelize, setup, participants })
    expect([verdict, reasons]).to.deep.equal(['lost', []])
    expect(first!.error).to.be.instanceOf(OpenTransactionError)
    expect(await Runs.count({ where: { title: 'left' } })).to.equal(0)
  })

  if (database.name === 'sqlite') {
    it('reports if there are more than 1000 orders', async () => {
      const read = async (id: number): Promise<void> => {
        for (let count = 0; count < 3; count++) await Runs.findByPk(id)
      }
      const participants = { A: read, B: read, C: read }
      const all = { sequelize, setup, participants, check: nothing, reduce: false, preemptions: Infinity }
      const { schedules, isComplete, reasons } = await explore(all)
      expect({ schedules, isComplete }).to.deep.equal({ schedules: 1000, isComplete: false })
      expect(reasons.join()).to.include('there are more than 1000 schedules: pass maxSchedules')
    })
  }

  describe('refuses before any SQL', () => {
    const refusals: Record<string, [Partial<Record<keyof ExploreOptions<number> | 'seed', unknown>> | null, RegExp]> = {
      'no options': [null, /expected an object of options, got null/],
      'an unknown option': [{ seed: 1 }, /no option "seed"/],
      'no Sequelize instance': [{ sequelize: {} }, /expected sequelize to be a pool or a connection/],
      'no connections': [{ connections: [] }, /expected connections to be an array of pools.*, got \[\]/],
      'a connection that is none': [{ connections: [{}] }, /expected connections\[0\] to be a pool or a/],
      'an admin that is none': [{ admin: {} }, /expected admin to be a pool or a connection of mysql2, pg or mariadb/],
      'no setup': [{ setup: undefined }, /expected setup to be a function/],
      'a check that is none': [{ check: 1 }, /expected check to be a function/],
      'one participant': [{ participants: { A: nothing } }, /two functions or more/],
      'a bound that is none': [{ preemptions: -1 }, /expected preemptions to be a number from 0, or Infinity, got -1/],
      'no statements': [{ maxStatements: 0 }, /expected maxStatements to be a number from 1, got 0/],
      'no time': [{ timeoutMs: 0 }, /expected timeoutMs to be a number of milliseconds above 0, got 0/],
      'a signal that is none': [{ signal: 'stop' }, /expected signal to be an AbortSignal, got stop/],
      'failures that are none': [
        { failures: 'some' },
        /expected failures to be 'allow', 'forbid' or a regular expression, got some/,
      ],
      'no orders at random': [{ random: { schedules: 0 } }, /expected random\.schedules to be a number from 1, got 0/],
      'no schedules': [{ maxSchedules: 0 }, /expected maxSchedules to be a number from 1, got 0/],
    }
    for (const [title, [options, text]] of Object.entries(refusals)) {
      it(title, async () => {
        const given = { sequelize, setup, participants: { A: nothing, B: nothing }, ...options }
        const error = await rejection(explore((options && given) as never), UsageError)
        expect(error.message).to.match(text)
      })
    }

    it('a pool with too few connections', async () => {
      const small = database.connect({ pool: { max: 1 } })
      const error = await rejection(race(merge, { sequelize: small.sequelize }), UsageError)
      expect(error.message).to.include('1 connection for 2 participants').and.include('pool: { max: 4 }')
    })

    it('an exploration within another one of the same instance, for which it would wait', async () => {
      const { reasons } = await race(() => race(merge), { check: () => undefined })
      expect(reasons.join()).to.include('is called by setup, a check or a participant of an exploration')
    })

    if (isSqlite) {
      it('a database in memory', async () => {
        const memory = new Sequelize({ dialect: 'sqlite', logging: false })
        const error = await rejection(race(merge, { sequelize: memory }), UsageError)
        expect(error.message).to.include('one connection').and.include('storage')
      })
    }
  })

  if (database.name === 'mysql' || database.name === 'mariadb') {
    it('names the GRANT for an account that cannot see lock waits, and accepts an admin account in its place', async () => {
      const url = new URL(servers.get(database.name)!.url)
      const name = `race_${Date.now() % 1e9}_${database.dialect}${/3.5/.test(database.title) ? 5 : ''}`
      await sequelize.query(`CREATE USER '${name}'@'%' IDENTIFIED BY 'secret'`)
      await sequelize.query(`GRANT ALL ON ${url.pathname.slice(1)}.* TO '${name}'@'%'`)
      const as = (account: string): Sequelize => {
        const { options, config } = sequelize as unknown as { options: Options; config: Options }
        const { database: schema, host, port } = config
        return new Sequelize(schema!, account, 'secret', { ...options, host: host!, port: port!, pool: { max: 4 } })
      }
      const poor = as(name)
      const PoorRuns = poor.define(
        'Run',
        { progress: DataTypes.JSON, title: DataTypes.STRING },
        { tableName: 'workflow_runs' },
      )
      const add = (id: number, key: string): Promise<unknown> =>
        mergeJsonKey([PoorRuns, id], 'progress' as never, key as never, 1 as never)
      const error = await rejection(race(add, { sequelize: poor }), ProbeError)
      expect(error.code).to.equal('RACE_PROBE')
      expect(error.remedy).to.match(
        database.name === 'mysql'
          ? /GRANT SELECT ON performance_schema.data_lock_waits TO 'race_\w+'@'%'/
          : /GRANT PROCESS ON \*\.\* TO 'race_\w+'@'%'/,
      )
      const { verdict, reasons } = await race(add, { sequelize: poor, admin: sequelize })
      expect([verdict, reasons]).to.deep.equal(['kept', []])

      // The admin may see waits, and may end no connection of another account.
      const watcherName = `${name}w`
      await sequelize.query(`CREATE USER '${watcherName}'@'%' IDENTIFIED BY 'secret'`)
      await sequelize.query(`GRANT SELECT ON ${url.pathname.slice(1)}.* TO '${watcherName}'@'%'`)
      for (const grant of error.remedy.match(/GRANT [^;]+(?= TO)/g)!)
        await sequelize.query(`${grant} TO '${watcherName}'@'%'`)
      const watcher = as(watcherName)
      const hang = (id: number): Promise<unknown> =>
        PoorRuns.sequelize!.transaction(async (transaction) => {
          await PoorRuns.findByPk(id, { lock: true, transaction })
          await PoorRuns.update({ title: 'a' }, { where: { id } as never })
        })
      const touch = (id: number): Promise<unknown> => PoorRuns.update({ title: 'b' }, { where: { id } as never })
      for (const connections of [[poor], [sequelize, poor], [watcher, poor]]) {
        const participants = { A: hang, B: (id: number) => touch(id).then(nothing) }
        const ended = await explore({ connections, setup, participants, admin: watcher })
        expect([ended.verdict, (ended.first!.error as Error).name]).to.deep.equal(['lost', 'HangError'])
      }
      for (const each of [poor, watcher]) await each.close()
      for (const each of [name, watcherName]) await sequelize.query(`DROP USER '${each}'@'%'`)
    })
  }
})
