import { expect } from 'chai'
import { explore, OpenTransactionError } from 'every-order'
import type * as connector from 'mariadb'
import { requestedDatabases } from '../../databases/index.js'
import { servers } from '../../each-database.js'
import { defineBank } from './bank.js'
import type { Account, Way } from './bank.js'

type Connector = typeof connector

function poolOf({ createPool }: Connector): connector.Pool {
  const { hostname, port, username, password, pathname } = new URL(servers.get('mariadb')!.url)
  const database = pathname.slice(1)
  return createPool({ host: hostname, port: Number(port), user: username, password, database, connectionLimit: 5 })
}

function wayOf(module: Connector): Way<connector.PoolConnection> {
  const own = poolOf(module)
  return {
    connections: [own],
    run: (sql) => own.query(sql),
    async transaction(fn) {
      const connection = await own.getConnection()
      try {
        await connection.beginTransaction()
        await fn(connection)
        await connection.commit()
      } catch (error) {
        await connection.rollback()
        throw error
      } finally {
        await connection.release()
      }
    },
    async read(connection, id, isLocking) {
      const sql = `SELECT * FROM every_order_accounts WHERE id = ?${isLocking ? ' FOR UPDATE' : ''}`
      const [row] = (await connection.execute({ sql }, [id])) as Account[]
      return row!
    },
    save(connection, id, account) {
      const [[column, value]] = Object.entries(account) as [[string, unknown]]
      const text = typeof value === 'object' ? JSON.stringify(value) : value
      return connection.query(`UPDATE every_order_accounts SET ${column} = ? WHERE id = ?`, [text, id])
    },
    close: () => own.end(),
  }
}

if (requestedDatabases().includes('mariadb')) {
  describe('explore() of MariaDB’s bare connector', () => {
    for (const name of ['mariadb', 'mariadb-3.5']) {
      // eslint-disable-next-line @typescript-eslint/no-require-imports -- two versions of one package
      const module = (): Connector => require(name) as Connector
      defineBank(name, 'mysql', () => Promise.resolve(wayOf(module())), { hasFaults: true })

      describe(`the gate at ${name}`, () => {
        let pool: connector.Pool

        before(async () => {
          pool = poolOf(module())
          await pool.query('CREATE TABLE IF NOT EXISTS every_order_pool (id INT PRIMARY KEY, n INT)')
        })

        after(() => pool.end())

        const setup = (): Promise<unknown> => pool.query('REPLACE INTO every_order_pool VALUES (1, 0)')

        it('holds the statements of the pool itself', async () => {
          const participant = async (): Promise<void> => {
            const [row] = (await pool.execute('SELECT n FROM every_order_pool WHERE id = 1')) as [{ n: number }]
            await pool.query('UPDATE every_order_pool SET n = ? WHERE id = 1', [row.n + 1])
          }
          const participants = { A: participant, B: participant }
          const result = await explore({ connections: [pool], setup, participants })
          expect(result).to.deep.include({ verdict: 'lost', reasons: [], schedules: 4 })
        })

        it('names a transaction that a participant leaves open, and rolls it back', async () => {
          const update = 'UPDATE every_order_pool SET n = n + 1'
          const A = async (): Promise<void> => {
            const connection = await pool.getConnection()
            await connection.beginTransaction()
            await connection.query(update)
          }
          const participants = { A, B: () => pool.query(update) }
          const { verdict, reasons, first } = await explore({ connections: [pool], setup, participants })
          expect([verdict, reasons]).to.deep.equal(['lost', []])
          expect(first!.error).to.be.instanceOf(OpenTransactionError)
          expect(pool.activeConnections()).to.equal(0)
        })

        it('sends statements that a participant does not await, and keeps no connection', async () => {
          const update = 'UPDATE every_order_pool SET n = n + 1'
          const late: Promise<unknown>[] = []
          const A = (): void => void late.push(pool.query(update))
          const { verdict } = await explore({
            connections: [pool],
            setup,
            participants: { A, B: () => pool.query(update) },
          })
          expect(verdict).to.equal('unknown')
          await Promise.all(late)
          expect(pool.activeConnections()).to.equal(0)
        })

        it('reports a stream, which it cannot hold, and rejects the held statements when it is stopped', async () => {
          const stop = new AbortController()
          const participant = async (): Promise<void> => {
            const connection = await pool.getConnection()
            const stream = connection.queryStream('SELECT n FROM every_order_pool')
            for await (const row of stream) expect(row).to.have.property('n')
            await connection.beginTransaction()
            await connection.query('UPDATE every_order_pool SET n = n + 1')
            await connection.rollback()
            await connection.release()
          }
          const participants = { A: participant, B: participant }
          const check = (): void => undefined
          const { verdict, reasons } = await explore({
            connections: [pool],
            setup,
            participants,
            check,
            maxSchedules: 2,
          })
          expect(verdict).to.equal('unknown')
          expect(reasons.join('\n')).to.include(
            'A sent a statement that cannot be held (SELECT n FROM every_order_pool): send it with query() or execute()',
          )
          const halves = async (): Promise<void> => {
            const connection = await pool.getConnection()
            await connection.query('START TRANSACTION')
            await connection.query('UPDATE every_order_pool SET n = n + 1')
            stop.abort()
            await connection.query('COMMIT')
          }
          const options = { connections: [pool], setup, participants: { A: halves, B: halves }, check }
          const stopped = await explore({ ...options, signal: stop.signal })
          expect(stopped.reasons).to.deep.equal(['the exploration was stopped by its signal'])
          // No lock is left.
          await setup()
        })
      })
    }
  })
}
