import { expect } from 'chai'
import { DataTypes } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import { explore, replay } from 'every-order'
import type { ExploreOptions, Result } from 'every-order'
import { eachServer } from '../each-database.js'

type Send = (sql: string) => Promise<Record<string, number>[]>
type Flow = (send: Send, name: string) => Promise<unknown>

eachServer('explore() leaves out orders of independent statements', (database) => {
  if (database.name === 'sqlite') return
  let sequelize: Sequelize

  before(async () => {
    const sooner = { dialectOptions: { options: '-c deadlock_timeout=1ms' } }
    ;({ sequelize } = database.connect(database.name === 'postgres' ? sooner : {}))
    const engine = database.name === 'postgres' ? '' : ' ENGINE = InnoDB'
    for (const name of ['s', 't', 'u']) {
      const columns = { id: { type: DataTypes.INTEGER, primaryKey: true }, n: DataTypes.INTEGER }
      await sequelize.define(`indep_${name}`, columns, { tableName: `indep_${name}`, timestamps: false }).sync()
      await sequelize.query(`INSERT INTO indep_${name} VALUES (1, 0), (2, 0)`)
    }
    await sequelize.query(`CREATE TABLE indep_key (id INT PRIMARY KEY, n INT NOT NULL UNIQUE)${engine}`)
    await sequelize.query(
      `CREATE TABLE indep_child (id INT PRIMARY KEY, n INT NOT NULL, FOREIGN KEY (n) REFERENCES indep_key (id))${engine}`,
    )
    await sequelize.query('CREATE VIEW indep_view AS SELECT * FROM indep_t')
    await sequelize.query('INSERT INTO indep_key VALUES (1, 1), (2, 2)')
    await sequelize.query('INSERT INTO indep_child VALUES (1, 1)')
  })

  const setup = async (): Promise<void> => {
    for (const name of ['s', 't', 'u']) await sequelize.query(`UPDATE indep_${name} SET n = 0`)
  }

  const sender =
    (transaction?: Transaction): Send =>
    async (sql) => {
      const [rows] = await sequelize.query(sql, { ...(transaction && { transaction }) })
      return rows as Record<string, number>[]
    }

  const alone = (flow: Flow, name: string) => (): Promise<unknown> => flow(sender(), name)
  const together = (flow: Flow, name: string) => (): Promise<unknown> =>
    sequelize.transaction((transaction) => flow(sender(transaction), name))

  function race(flows: readonly (() => unknown)[], options: Partial<ExploreOptions<void>> = {}): Promise<Result> {
    const participants = Object.fromEntries(flows.map((flow, index) => [String.fromCharCode(65 + index), flow]))
    return explore({ sequelize, setup, participants, preemptions: Infinity, maxSchedules: 5_000, ...options })
  }

  const read = (table: string, id = 1): string => `SELECT n FROM indep_${table} WHERE id = ${id}`
  const add = (table: string, id = 1): string => `UPDATE indep_${table} SET n = n + 1 WHERE id = ${id}`

  const bump: Flow = async (send) => {
    const [row] = await send(read('t'))
    await send(`UPDATE indep_t SET n = ${row!['n']! + 1} WHERE id = 1`)
  }

  it('ten reads of a table that no participant writes add no order', async () => {
    const withReads: Flow = async (send, name) => {
      for (let count = 0; count < 10; count++) await send(read('u'))
      await bump(send, name)
    }
    for (const way of [alone, together]) {
      const few = await race([way(bump, 'A'), way(bump, 'B')])
      const many = await race([way(withReads, 'A'), way(bump, 'B')])
      expect([many.verdict, many.reasons, many.isComplete]).to.deep.equal(['lost', [], true])
      expect(many.schedules).to.be.at.most(few.schedules + 2)
      expect(Object.keys(many.outcomes).sort()).to.deep.equal(Object.keys(few.outcomes).sort())
    }
  })

  it('runs the same number of orders after a setup that deletes rows as after one that truncates the table', async () => {
    const [removed, emptied] = ['DELETE FROM indep_s', 'TRUNCATE TABLE indep_s']
    const lockRange: Flow = async (send, name) => {
      await send('SELECT n FROM indep_s WHERE id >= 1 FOR UPDATE')
      await send(`INSERT INTO indep_s VALUES (${name === 'A' ? 11 : 12}, 0)`)
    }
    const lookAndInsert: Flow = async (send, name) => {
      const id = name === 'A' ? 3 : 4
      await send(read('s', id))
      await send(`INSERT INTO indep_s VALUES (${id}, 0)`)
    }
    for (const flow of [lockRange, lookAndInsert]) {
      const counts: number[] = []
      for (const clear of [removed, removed, emptied]) {
        const start = async (): Promise<void> => {
          await sequelize.query(clear)
          await sequelize.query('INSERT INTO indep_s VALUES (1, 0), (2, 0), (5, 0)')
        }
        const result = await race([together(flow, 'A'), together(flow, 'B')], { setup: start })
        expect([result.verdict, result.reasons]).to.deep.equal(['kept', []])
        counts.push(result.schedules)
      }
      expect(new Set(counts)).to.have.property('size', 1)
    }
  })

  if (database.name === 'postgres') {
    it('runs the same number of orders with each tag of a text in dollar quotes', async () => {
      const counts: number[] = []
      for (const tag of ['$$', '$a$', '$tag_1$']) {
        const flow: Flow = async (send) => {
          await send(`SELECT ${tag}FROM 'indep_u${tag}, n FROM indep_t WHERE id = 1`)
          await send(`${add('t')} AND ${tag}it's${tag} <> 'a'`)
        }
        const result = await race([alone(flow, 'A'), alone(flow, 'B')])
        expect([result.verdict, result.reasons]).to.deep.equal(['kept', []])
        counts.push(result.schedules)
      }
      expect(new Set(counts)).to.have.property('size', 1)
    })
  }

  it('two rows named by primary key are independent; one row, a unique key and a reference are not', async () => {
    const schedules = async (one: string, other: string): Promise<number> => {
      const common: Flow = (send) => send(add('s'))
      const flow =
        (sql: string): Flow =>
        async (send, name) => {
          await send(sql)
          await common(send, name)
        }
      return (await race([alone(flow(one), 'A'), alone(flow(other), 'B')], { check: () => undefined })).schedules
    }
    const least = await schedules(add('t', 1), add('u', 2))
    expect(least).to.equal(2)
    expect(await schedules(add('t', 1), add('t', 2))).to.equal(least)
    expect(await schedules(add('t', 1), 'SELECT n FROM indep_t WHERE (n >= 0 AND id = 2)')).to.equal(least)
    expect(await schedules(add('t', 1), 'SELECT n FROM indep_u, indep_t WHERE indep_t.id = 2')).to.be.above(least)
    expect(await schedules(add('t', 1), 'SELECT n FROM indep_view WHERE id = 2')).to.be.above(least)
    expect(await schedules(add('t', 1), 'SELECT n FROM indep_t WHERE id = 2 OR n = 0')).to.be.above(least)
    expect(await schedules(add('t', 1), 'UPDATE indep_t SET n = n + 1 WHERE n > 5')).to.be.above(least)
    const keep = 'UPDATE indep_key SET n = n WHERE id = 1'
    expect(await schedules(keep, 'UPDATE indep_key SET n = n WHERE id = 2')).to.be.above(least)
    expect(await schedules(keep, 'UPDATE indep_child SET n = 1 WHERE id = 1')).to.be.above(least)
    expect(await schedules(add('t', 1), 'SELECT SQRT(n) FROM indep_u WHERE id = 2')).to.be.above(least)
  })

  /** Every statement that a participant of a generated program may send. */
  const statements = [read('t'), add('t'), read('u'), add('u'), `${read('t')} FOR UPDATE`, add('t', 2), add('s')]

  function generated(seed: number): Flow {
    let state = seed
    const number = (below: number): number => (state = (state * 1_103_515_245 + 12_345) % 2 ** 31) % below
    const chosen = Array.from({ length: 3 }, () => statements[Math.floor(number(7_000) / 1_000)]!)
    const value = Math.floor(number(3_000) / 1_000)
    return async (send) => {
      const seen: unknown[] = []
      for (const sql of chosen) seen.push(...((await send(sql)) ?? []))
      const rows = seen.filter((row) => typeof row === 'object')
      if (value > 0) await send(`UPDATE indep_s SET n = n * 2 + ${value} + ${rows.length} WHERE id = 1`)
      return rows
    }
  }

  it('has the same outcomes as all orders: programs of random statements, with and without transactions', async () => {
    const orders = { reduced: 0, all: 0 }
    for (let seed = 1; seed <= 12; seed++) {
      const [A, B] = [generated(seed * 7_919), generated(seed * 104_729)]
      const flows = [(seed % 2 === 0 ? together : alone)(A, 'A'), (seed % 3 === 0 ? alone : together)(B, 'B')]
      const seen = [new Set<string>(), new Set<string>()]
      const explored = (index: number, reduce: boolean): Promise<Result> =>
        race(flows, {
          reduce,
          check: async (_context, outcomes, results) => {
            const [s, t, u] = await Promise.all(
              ['s', 't', 'u'].map((name) => sender()(`SELECT n FROM indep_${name} ORDER BY id`)),
            )
            seen[index]!.add(JSON.stringify([outcomes, results, s, t, u]))
          },
        })
      const reduced = await explored(0, true)
      const all = await explored(1, false)
      expect([reduced.isComplete, all.isComplete], `seed ${seed}`).to.deep.equal([true, true])
      expect([...seen[0]!].sort(), `seed ${seed}`).to.deep.equal([...seen[1]!].sort())
      orders.reduced += reduced.schedules
      orders.all += all.schedules
    }
    expect(orders.reduced * 2).to.be.below(orders.all)
  })

  it('runs orders with more than two preemptions only up to 300 orders, unless all orders are requested', async () => {
    const six: Flow = async (send) => {
      for (let count = 0; count < 6; count++) await send(add('t'))
    }
    const participants = { A: alone(six, 'A'), B: alone(six, 'B') }
    const result = await explore({ sequelize, setup, participants })
    expect([result.verdict, result.isComplete, result.schedules]).to.deep.equal(['kept', false, 300])
    expect(result.leftOut.join('\n')).to.include('orders with more than 2 preemptions were run only up to 300 orders')
  })

  it('samples orders of four participants: the same for the same seed, and finds a loss that needs two preemptions', async () => {
    const withReads: Flow = async (send, name) => {
      for (let count = 0; count < 3; count++) await send(add('u', 2))
      await bump(send, name)
    }
    const flows = ['A', 'B', 'C', 'D'].map((name) => alone(name === 'D' ? withReads : bump, name))
    const random = { schedules: 60, seed: 7 }
    const result = await race(flows, { random })
    expect([result.verdict, result.reasons, result.isComplete]).to.deep.equal(['lost', [], false])
    expect([result.schedules, result.seed]).to.deep.equal([60, 7])
    expect(result.leftOut.join()).to.match(
      /^60 orders were chosen at random with the seed 7, \d\d of them different: others were not run$/,
    )
    const again = await race(flows, { random })
    expect(again.failures.map(({ token }) => token)).to.deep.equal(result.failures.map(({ token }) => token))
    const other = await race(flows, { random: { schedules: 60 } })
    expect(other.seed).to.equal(1)
    expect(other.failures.map(({ token }) => token)).to.not.deep.equal(result.failures.map(({ token }) => token))
    const participants = { A: flows[0]!, B: flows[1]!, C: flows[2]!, D: flows[3]! }
    const repeated = await replay(result.first!.token, { sequelize, setup, participants })
    expect(repeated.verdict).to.equal('lost')
  })
})
