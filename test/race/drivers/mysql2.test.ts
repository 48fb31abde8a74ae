import { createConnection, createPool } from 'mysql2'
import type { Connection, Pool, PoolConnection, RowDataPacket } from 'mysql2'
import type { PoolConnection as PromiseConnection } from 'mysql2/promise'
import { requestedDatabases } from '../../databases/index.js'
import { servers } from '../../each-database.js'
import { defineBank } from './bank.js'
import type { Account, Way } from './bank.js'

type Rows = (Account & RowDataPacket)[]

/** The callback interface, as promises of the tests. */
function called<R>(fn: (done: (error: Error | null, result?: R) => void) => unknown): Promise<R> {
  return new Promise((resolve, reject) => fn((error, result) => (error ? reject(error) : resolve(result as R))))
}

function select(isLocking: boolean): string {
  return `SELECT * FROM every_order_accounts WHERE id = ?${isLocking ? ' FOR UPDATE' : ''}`
}

function values(account: Partial<Account>): object {
  return { ...account, ...(account.document && { document: JSON.stringify(account.document) }) }
}

const update = 'UPDATE every_order_accounts SET ? WHERE id = ?'

/** `pool.promise()`, with `query`. */
function promises(pool: Pool): Way<PromiseConnection> {
  const own = pool.promise()
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
        connection.release()
      }
    },
    read: async (connection, id, isLocking) => (await connection.query<Rows>(select(isLocking), [id]))[0][0]!,
    save: (connection, id, account) => connection.query(update, [values(account), id]),
    close: () => own.end(),
  }
}

/** Callbacks, with prepared statements. */
function callbacks(pool: Pool): Way<PoolConnection> {
  return {
    connections: [pool],
    run: (sql) => called((done) => pool.query(sql, done)),
    async transaction(fn) {
      const connection = await called<PoolConnection>((done) => pool.getConnection(done))
      try {
        await called((done) => connection.beginTransaction(done))
        await fn(connection)
        await called((done) => connection.commit(done))
      } finally {
        connection.release()
      }
    },
    read: async (connection, id, isLocking) =>
      (await called<Rows>((done) => connection.execute<Rows>(select(isLocking), [id], done)))[0]!,
    save: (connection, id, account) =>
      called((done) => {
        const [[column, value]] = Object.entries(values(account)) as [[string, string]]
        return connection.execute(`UPDATE every_order_accounts SET ${column} = ? WHERE id = ?`, [value, id], done)
      }),
    close: () => called((done) => pool.end(done)),
  }
}

/** Single connections, which the tests hand out. */
function singles(connections: readonly Connection[]): Way<Connection> {
  const free = [...connections]
  return {
    connections,
    run: (sql) => called((done) => connections[0]!.query(sql, done)),
    async transaction(fn) {
      const connection = free.pop()!
      try {
        await called((done) => connection.query('BEGIN', done))
        await fn(connection)
        await called((done) => connection.query('COMMIT', done))
      } finally {
        free.push(connection)
      }
    },
    read: async (connection, id, isLocking) =>
      (await called<Rows>((done) => connection.query<Rows>({ sql: select(isLocking), values: [id] }, done)))[0]!,
    save: (connection, id, account) => called((done) => connection.query(update, [values(account), id], done)),
    close: () => Promise.all(connections.map((connection) => called((done) => connection.end(done)))),
  }
}

for (const name of ['mysql', 'mariadb'] as const) {
  if (!requestedDatabases().includes(name)) continue
  const uri = (): string => servers.get(name)!.url.replace(/^\w+:/, 'mysql:')
  describe(`explore() of bare mysql2 (${name})`, () => {
    defineBank(
      'its promises',
      'mysql',
      () => Promise.resolve(promises(createPool({ uri: uri(), connectionLimit: 4 }))),
      { hasFaults: true },
    )
    defineBank(
      'its callbacks and prepared statements',
      'mysql',
      () => Promise.resolve(callbacks(createPool({ uri: uri(), connectionLimit: 4 }))),
      { hasFaults: true },
    )
    defineBank('its single connections', 'mysql', () =>
      Promise.resolve(singles([createConnection(uri()), createConnection(uri())])),
    )
  })
}
