import { Client, Pool } from 'pg'
import type { ClientBase, PoolClient, QueryResult } from 'pg'
import { requestedDatabases } from '../../databases/index.js'
import { servers } from '../../each-database.js'
import { defineBank } from './bank.js'
import type { Account, Way } from './bank.js'

/** The callback interface, as promises of the tests. */
function called<R>(fn: (done: (error: Error | undefined, result?: R) => void) => unknown): Promise<R> {
  return new Promise((resolve, reject) => fn((error, result) => (error ? reject(error) : resolve(result as R))))
}

function select(isLocking: boolean): string {
  return `SELECT * FROM every_order_accounts WHERE id = $1${isLocking ? ' FOR UPDATE' : ''}`
}

function update(account: Partial<Account>, id: number): [sql: string, values: unknown[]] {
  const [[column, value]] = Object.entries(account) as [[string, unknown]]
  return [`UPDATE every_order_accounts SET "${column}" = $1 WHERE id = $2`, [value, id]]
}

async function inTransaction<C extends ClientBase>(client: C, fn: (client: C) => Promise<void>): Promise<void> {
  try {
    await client.query('BEGIN')
    await fn(client)
    await client.query('COMMIT')
  } catch (error) {
    await client.query('ROLLBACK')
    throw error
  }
}

function promises(pool: Pool): Way<PoolClient> {
  return {
    connections: [pool],
    run: (sql) => pool.query(sql),
    async transaction(fn) {
      const client = await pool.connect()
      try {
        await inTransaction(client, fn)
      } finally {
        client.release()
      }
    },
    read: async (client, id, isLocking) => (await client.query<Account>(select(isLocking), [id])).rows[0]!,
    save: (client, id, account) => client.query(...update(account, id)),
    close: () => pool.end(),
  }
}

/** Callbacks, named statements, and rows as arrays. */
function callbacks(pool: Pool): Way<PoolClient> {
  return {
    connections: [pool],
    run: (sql) => called((done) => pool.query(sql, done)),
    async transaction(fn) {
      const [client, release] = await new Promise<[PoolClient, () => void]>((resolve, reject) =>
        pool.connect((error, own, giveBack) => (error ? reject(error) : resolve([own!, () => giveBack()]))),
      )
      await called((done) => client.query('BEGIN', done))
      await fn(client)
      await called((done) => client.query({ text: 'COMMIT' }, done))
      release()
    },
    async read(client, id, isLocking) {
      const query = { name: `read ${isLocking}`, text: select(isLocking), values: [id], rowMode: 'array' as const }
      const { rows } = await called<QueryResult<unknown[]>>((done) => client.query(query, done as never))
      const [, balance, document] = rows[0] as [number, number, Account['document']]
      return { balance, document }
    },
    save: (client, id, account) => called((done) => client.query(...update(account, id), done)),
    close: () => pool.end(),
  }
}

/** Single connections, which the tests hand out. */
function singles(clients: readonly Client[]): Way<Client> {
  const free = [...clients]
  return {
    ...(promises(new Pool()) as unknown as Way<Client>),
    connections: clients,
    run: (sql) => clients[0]!.query(sql),
    async transaction(fn) {
      const client = free.pop()!
      try {
        await inTransaction(client, fn)
      } finally {
        free.push(client)
      }
    },
    close: () => Promise.all(clients.map((client) => client.end())),
  }
}

if (requestedDatabases().includes('postgres')) {
  describe('explore() of bare pg', () => {
    const config = (): { connectionString: string; max: number } => ({
      connectionString: servers.get('postgres')!.url,
      max: 4,
    })
    defineBank('its promises', 'postgres', () => Promise.resolve(promises(new Pool(config()))), { hasFaults: true })
    defineBank('its callbacks and named statements', 'postgres', () => Promise.resolve(callbacks(new Pool(config()))), {
      hasFaults: true,
    })
    defineBank('its single connections', 'postgres', async () => {
      const clients = [new Client(config()), new Client(config())]
      for (const client of clients) await client.connect()
      return singles(clients)
    })
  })
}
