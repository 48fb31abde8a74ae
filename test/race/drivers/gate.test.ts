import { once } from 'node:events'
import { expect } from 'chai'
import knex from 'knex'
import { createConnection, createPool } from 'mysql2'
import type { Connection, Pool, PoolConnection } from 'mysql2'
import { Pool as PgPool, Query } from 'pg'
import { QueryTypes } from 'sequelize'
import { checkServer, explore, OpenTransactionError, StuckError, UsageError } from 'every-order'
import type { ExploreOptions, Result } from 'every-order'
import { connect } from '../../connect.js'
import { requestedDatabases } from '../../databases/index.js'
import { servers } from '../../each-database.js'
import { rejection } from '../../rejection.js'

const add = 'UPDATE every_order_gate SET n = n + 1 WHERE id = 1'
const creation = [
  'DROP TABLE IF EXISTS every_order_gate',
  'CREATE TABLE every_order_gate (id INT PRIMARY KEY, n INT)',
  'INSERT INTO every_order_gate VALUES (1, 0)',
]

/** A connection of the callback interface. */
function take(pool: Pool): Promise<PoolConnection> {
  return new Promise((resolve, reject) => {
    pool.getConnection((error, connection) => {
      if (error) reject(error)
      else resolve(connection)
    })
  })
}

/** The method that the gate replaces. */
async function addCommandOf(pool: Pool): Promise<unknown> {
  const connection = await take(pool)
  connection.release()
  return (connection as unknown as { addCommand: unknown }).addCommand
}

function uriOf(name: 'mysql' | 'mariadb'): string {
  return servers.get(name)!.url.replace(/^\w+:/, 'mysql:')
}

if (requestedDatabases().includes('mysql')) {
  describe('the gate at mysql2', () => {
    let pool: Pool

    before(async () => {
      pool = createPool({ uri: uriOf('mysql'), connectionLimit: 6 })
      for (const sql of creation) await pool.promise().query(sql)
    })

    after(() => pool.promise().end())

    const setup = (): Promise<unknown> => pool.promise().query('UPDATE every_order_gate SET n = 0')

    /** Two participants of the same code. */
    function race(fn: () => unknown, options: Partial<ExploreOptions<unknown>> = {}): Promise<Result> {
      return explore({ connections: [pool], setup, participants: { A: fn, B: fn }, ...options })
    }

    /** Reads on a connection, and writes one more. */
    const readAndWrite = (read: (connection: Connection) => Promise<number>) => async (): Promise<void> => {
      const connection = await take(pool)
      try {
        const n = await read(connection)
        await connection.promise().query('UPDATE every_order_gate SET n = ? WHERE id = 1', [n + 1])
      } finally {
        connection.release()
      }
    }

    it('holds a query that is read by its events', async () => {
      const byEvents = async (connection: Connection): Promise<number> => {
        const query = connection.query('SELECT n FROM every_order_gate WHERE id = 1')
        const end = once(query, 'end')
        const [row] = (await once(query, 'result')) as [{ n: number }]
        await end
        return row.n
      }
      expect(await race(readAndWrite(byEvents))).to.deep.include({ verdict: 'lost', reasons: [], schedules: 4 })
    })

    it('holds the executions of a prepared statement', async () => {
      const prepared = async (connection: Connection): Promise<number> => {
        const statement = await connection.promise().prepare('SELECT n FROM every_order_gate WHERE id = ?')
        const [[row]] = (await statement.execute([1])) as unknown as [{ n: number }[]]
        return row!.n
      }
      expect(await race(readAndWrite(prepared))).to.deep.include({ verdict: 'lost', reasons: [], schedules: 4 })
    })

    it('passes on the error of a statement, of its preparation, and of an event', async () => {
      const seen = new Set<string>()
      const fails = async (): Promise<void> => {
        const own = pool.promise()
        const connection = await take(pool)
        const wrong = 'SELECT missing FROM every_order_gate'
        const [error] = (await once(connection.query(wrong), 'error')) as [Error]
        connection.release()
        for (const each of [
          error,
          await rejection(own.query(wrong), Error),
          await rejection(own.execute(wrong), Error),
        ])
          seen.add(each.message)
        await own.query(add)
      }
      expect((await race(fails, { maxSchedules: 2 })).verdict).to.equal('kept')
      expect([...seen]).to.deep.equal(["Unknown column 'missing' in 'field list'"])
    })

    it('holds statements of another pool to the same server, and knows which participant waits for a connection', async () => {
      const other = createPool({ uri: uriOf('mysql'), connectionLimit: 1 })
      const read = async (): Promise<void> => {
        const found = (await other.promise().query('SELECT n FROM every_order_gate WHERE id = 1')) as unknown as [
          { n: number }[],
        ]
        await pool.promise().query('UPDATE every_order_gate SET n = ? WHERE id = 1', [found[0][0]!.n + 1])
      }
      for (const connections of [[pool], [pool, other.promise()]]) {
        const { verdict, first } = await race(read, { connections })
        expect(verdict).to.equal('lost')
        const steps = first!.steps.map(({ kind, participant }) => `${kind} of ${participant}`)
        expect(steps.toSorted()).to.deep.equal(['read of A', 'read of B', 'write of A', 'write of B'])
      }
      await other.promise().end()
    })

    it('holds statements that bypass Sequelize, and explores both together', async () => {
      const sequelize = connect(uriOf('mysql'), { logging: false, pool: { max: 4 } })
      const participant = async (): Promise<void> => {
        const [row] = await sequelize.query<{ n: number }>('SELECT n FROM every_order_gate WHERE id = 1', {
          type: QueryTypes.SELECT,
        })
        await pool.promise().query('UPDATE every_order_gate SET n = ? WHERE id = 1', [row!.n + 1])
      }
      for (const connections of [[sequelize], [sequelize, pool]]) {
        const result = await race(participant, { connections })
        expect(result).to.deep.include({ verdict: 'lost', reasons: [], schedules: 4 })
      }
      await sequelize.close()
    })

    it('opens connections of Sequelize that the participants need beside those opened in advance', async () => {
      const sequelize = connect(uriOf('mysql'), { logging: false, pool: { max: 6 } })
      const addThrice = (): Promise<unknown> => Promise.all([1, 2, 3].map(() => sequelize.query(add)))
      try {
        const participants = { A: addThrice, B: addThrice }
        const result = await explore({ connections: [sequelize], setup, participants, preemptions: 0 })
        expect([result.verdict, result.reasons]).to.deep.equal(['kept', []])
      } finally {
        await sequelize.close()
      }
    })

    it('reports statements to another address of the server, and statements of other code', async () => {
      const url = new URL(uriOf('mysql'))
      // A container has the name, other servers have the number.
      url.hostname = url.hostname === 'localhost' ? '127.0.0.1' : 'localhost'
      const elsewhere = createPool(url.href).promise()
      let poll: () => void
      let polled: Promise<unknown>
      const start = (): Promise<unknown> => {
        polled = new Promise<void>((resolve) => (poll = resolve)).then(() => pool.promise().query('SELECT 1'))
        return setup()
      }
      const { verdict, reasons } = await race(
        async () => {
          await elsewhere.query('SELECT 2')
          poll()
          await polled
          await pool.promise().query(add)
        },
        { setup: start },
      )
      expect(verdict).to.equal('unknown')
      const text = reasons.join('\n')
      expect(text).to.match(/^[AB] sent a statement to another server, or to this one by another address/m)
      expect(text).to.match(/^a statement came from outside the participants \(SELECT \?\).*connections of its own$/m)
      await elsewhere.end()
    })

    it('rejects the held statements of an exploration that is stopped, and restores the driver', async () => {
      const own = createPool({ uri: uriOf('mysql'), connectionLimit: 4 })
      const before = await addCommandOf(own)
      const errors: Error[] = []
      const stop = new AbortController()
      const participant = async (): Promise<void> => {
        const taken = await take(own)
        await taken.promise().beginTransaction()
        await taken.promise().query(add)
        stop.abort()
        const event = once(taken.query('SELECT 1'), 'error').then(([error]) => errors.push(error as Error))
        await own
          .promise()
          .query('SELECT 2')
          .catch((error: unknown) => errors.push(error as Error))
        await event
        await new Promise(() => undefined)
      }
      const check = (): void => undefined
      const { reasons } = await race(participant, { connections: [own], signal: stop.signal, check })
      expect(reasons).to.deep.equal(['the exploration was stopped by its signal'])
      expect(errors.map(({ message }) => message)).to.include('stopped by its signal')
      // No lock is left.
      await setup()
      expect(await addCommandOf(own)).to.equal(before)
      await own.promise().end()
    })

    it('names a transaction that a participant leaves open, and rolls it back: in a pool, and on a connection', async () => {
      const leave = async (): Promise<void> => {
        const connection = await pool.promise().getConnection()
        await connection.beginTransaction()
        await connection.query(add)
        connection.release()
      }
      const single = createConnection(uriOf('mysql')).promise()
      const leaveSingle = async (): Promise<void> => {
        await single.beginTransaction()
        await single.query(add)
      }
      const B = (): Promise<unknown> => pool.promise().query(add)
      for (const [A, connections] of [
        [leave, [pool]],
        [leaveSingle, [pool, single]],
      ] as const) {
        const participants = { A, B }
        const { verdict, reasons, first, outcomes } = await explore({ connections, setup, participants })
        expect([verdict, reasons]).to.deep.equal(['lost', []])
        expect(first!.error).to.be.instanceOf(OpenTransactionError)
        expect((first!.error as Error).message).to.match(
          /^A left a transaction open: it ended without a COMMIT or ROLLBACK after statement \d \(START TRANSACTION\)\..*path of A, and await it\.$/,
        )
        expect(Object.keys(outcomes).join()).to.not.include('failed')
      }
      await single.query(add)
      await single.end()
    })

    it('counts the tables of several statements in one text as used', async () => {
      const several = createPool({ uri: uriOf('mysql'), connectionLimit: 4, multipleStatements: true })
      const result = await race(() => several.promise().query(`SET @x = 1; ${add}`), { connections: [several] })
      expect(result).to.deep.include({ verdict: 'kept', reasons: [] })
      await several.promise().end()
    })

    it('names the lost update of one of several statements in one text', async () => {
      const several = createPool({ uri: uriOf('mysql'), connectionLimit: 4, multipleStatements: true })
      const save = async (): Promise<void> => {
        const [rows] = await several.promise().query('SELECT n FROM every_order_gate WHERE id = ?', [1])
        const update = 'UPDATE every_order_gate SET n = ? WHERE id = ?'
        await several.promise().query(`${update}; ${update}`, [7, 2, (rows as { n: number }[])[0]!.n + 1, 1])
      }
      const { first, reasons } = await race(save, { connections: [several] })
      expect(reasons).to.deep.equal([])
      expect(first!.anomaly.name).to.equal('lost update')
      expect(first!.anomaly.sentence).to.match(/^([AB]) read at \d before .*, and \1 overwrote that at \d\.$/)
      await several.promise().end()
    })

    it('stops at its time limit, also while setup or a check waits', async () => {
      const blocker = createConnection(uriOf('mysql')).promise()
      await blocker.beginTransaction()
      await blocker.query(add)
      const own = createPool({ uri: uriOf('mysql'), connectionLimit: 6 })
      const blocked = (): Promise<unknown> => own.promise().query(add)
      const touch = (): Promise<unknown> => own.promise().query('SELECT n FROM every_order_gate')
      const options = { connections: [own], participants: { A: touch, B: touch } }
      const limited = await explore({ ...options, setup: blocked, timeoutMs: 300 })
      expect(limited.reasons).to.deep.equal(['the exploration was stopped after 300 ms, as timeoutMs says'])
      const stop = new AbortController()
      const check = (): Promise<unknown> => {
        stop.abort()
        return blocked()
      }
      const aborted = await explore({ ...options, setup: () => undefined, check, signal: stop.signal })
      expect(aborted.reasons).to.deep.equal(['the exploration was stopped by its signal'])
      await blocker.rollback()
      await blocker.end()
      await own.promise().end()
    })

    it('rejects with an explanation if setup waits for a connection that a participant keeps', async () => {
      const own = createPool({ uri: uriOf('mysql'), connectionLimit: 1 })
      const kept: PoolConnection[] = []
      const touch = (): Promise<unknown> => pool.promise().query(add)
      const keep = async (): Promise<unknown> => {
        kept.push(await take(own))
        return touch()
      }
      const reset = (): Promise<unknown> => own.promise().query('UPDATE every_order_gate SET n = 0')
      const exploration = explore({ connections: [pool], setup: reset, participants: { A: keep, B: touch } })
      const { message } = await rejection(exploration, StuckError)
      expect(message).to.match(
        /^explore: setup did not end within 8000 ms, although it ended soon in earlier orders.*Release each connection/,
      )
      for (const connection of kept) connection.release()
      await own.promise().end()
    })

    it('refuses connections of two databases, and of an unknown driver', async () => {
      const other = createConnection(uriOf('mysql').replace(/\/\w+$/, '/mysql'))
      const two = await rejection(
        race(() => undefined, { connections: [pool, other] }),
        UsageError,
      )
      expect(two.message).to.include('the connections reach different databases (mysql ')
      other.end()
      const sqlite = knex({ client: 'sqlite3', connection: ':memory:', useNullAsDefault: true, pool: { max: 2 } })
      const unknown = await rejection(
        race(() => undefined, { connections: [sqlite] }),
        UsageError,
      )
      expect(unknown.message).to.include('the connections are of Database, and their statements cannot be held')
      await sqlite.destroy()
      const small = createPool({ uri: uriOf('mysql'), connectionLimit: 1 })
      const one = await rejection(
        race(() => undefined, { connections: [small] }),
        UsageError,
      )
      expect(one.message).to.include('there is 1 connection for 2 participants').and.include('connectionLimit: 4')
    })

    it('checks the account of each connection', async () => {
      await checkServer(pool)
      const { message } = await rejection(checkServer({}), UsageError)
      expect(message).to.include('checkServer: expected its argument to be a pool or a connection of mysql2')
    })
  })
}

if (requestedDatabases().includes('postgres')) {
  describe('the gate at pg', () => {
    let pool: PgPool

    before(async () => {
      pool = new PgPool({ connectionString: servers.get('postgres')!.url, max: 6 })
      for (const sql of creation) await pool.query(sql)
    })

    after(() => pool.end())

    const setup = (): Promise<unknown> => pool.query('UPDATE every_order_gate SET n = 0')

    it('holds query objects', async () => {
      const participant = async (): Promise<void> => {
        const client = await pool.connect()
        const query = client.query(new Query('SELECT n FROM every_order_gate WHERE id = 1'))
        const rows: { n: number }[] = []
        query.on('row', (row) => rows.push(row as { n: number }))
        await once(query, 'end')
        await client.query('UPDATE every_order_gate SET n = $1 WHERE id = 1', [rows[0]!.n + 1])
        const wrong = client.query(new Query('SELECT missing'))
        await once(wrong, 'error')
        client.release()
      }
      const participants = { A: participant, B: participant }
      const { verdict, reasons, first } = await explore({ connections: [pool], setup, participants })
      expect([verdict, reasons]).to.deep.equal(['lost', []])
      expect(first!.steps.filter(({ error }) => error !== undefined)).to.have.length(2)
    })

    it('counts the tables of several statements, and of a WITH that writes, as used', async () => {
      for (const sql of [`BEGIN; ${add}; COMMIT`, `WITH changed AS (${add} RETURNING n) SELECT n FROM changed`]) {
        const send = (): Promise<void> => pool.query(sql).then(() => undefined)
        const result = await explore({ connections: [pool], setup, participants: { A: send, B: send } })
        expect(result).to.deep.include({ verdict: 'kept', reasons: [] })
      }
    })

    it('names the lost update of a WITH that writes', async () => {
      const update = 'UPDATE every_order_gate SET n = $1 WHERE id = 1 RETURNING n'
      const save = (extra: number) => async (): Promise<void> => {
        const { rows } = await pool.query<{ n: number }>('SELECT n FROM every_order_gate WHERE id = 1')
        await pool.query(`WITH changed AS (${update}) SELECT n FROM changed`, [rows[0]!.n + extra])
      }
      const { first, reasons } = await explore({ connections: [pool], setup, participants: { A: save(1), B: save(2) } })
      expect(reasons).to.deep.equal([])
      expect(first!.anomaly.name).to.equal('lost update')
      expect(first!.anomaly.sentence).to.match(/^([AB]) read at \d before .*, and \1 overwrote that at \d\.$/)
    })

    it('names the transaction that another participant waits for, and rolls it back', async () => {
      for (const isReleased of [true, false]) {
        const own = new PgPool({ connectionString: servers.get('postgres')!.url, max: 3 })
        const A = async (): Promise<void> => {
          const client = await own.connect()
          await client.query('BEGIN')
          await client.query(add)
          if (isReleased) client.release()
        }
        const participants = { A, B: () => own.query(add) }
        const { verdict, reasons, first, outcomes } = await explore({ connections: [own], setup, participants })
        expect([verdict, reasons]).to.deep.equal(['lost', []])
        expect(first!.error).to.be.instanceOf(OpenTransactionError)
        expect(Object.keys(outcomes).join())
          .to.match(/A left a transaction open/)
          .and.not.include('failed')
        await own.end()
      }
    })

    it('releases the locks of transactions and of sessions if the exploration fails', async () => {
      const own = new PgPool({ connectionString: servers.get('postgres')!.url, max: 4 })
      const participant = async (): Promise<void> => {
        const client = await own.connect()
        await client.query('BEGIN')
        await client.query(add)
        await own.query('SELECT pg_advisory_lock(4712)')
        const refused = client.query(new Query('SELECT 1'))
        await once(refused, 'error')
        await new Promise(() => undefined)
      }
      const participants = { A: participant, B: participant }
      await rejection(explore({ connections: [own], setup, participants, check: () => undefined }), StuckError)
      await setup()
      const { rows } = await pool.query<{ isFree: boolean }>('SELECT pg_try_advisory_lock(4712) AS "isFree"')
      expect(rows[0]!.isFree).to.equal(true)
      await own.end()
    })
  })
}
