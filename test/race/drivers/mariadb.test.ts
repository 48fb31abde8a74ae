import type * as connector from 'mariadb'
import { requestedDatabases } from '../../databases/index.js'
import { servers } from '../../each-database.js'
import { defineBank } from './bank.js'
import type { Account, Way } from './bank.js'

type Connector = typeof connector

function pool({ createPool }: Connector): Way<connector.PoolConnection> {
  const { hostname, port, username, password, pathname } = new URL(servers.get('mariadb')!.url)
  const database = pathname.slice(1)
  const own = createPool({ host: hostname, port: Number(port), user: username, password, database, connectionLimit: 5 })
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
      defineBank(name, 'mysql', () => Promise.resolve(pool(require(name) as Connector)))
    }
  })
}
