import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect } from 'chai'
import { createPool } from 'mysql2/promise'
import type { PoolConnection } from 'mysql2/promise'
import { Pool } from 'pg'
import type { PoolClient } from 'pg'
import { explore } from 'every-order'
import type { ExploreOptions, Result } from 'every-order'
import { requestedDatabases } from '../../databases/index.js'
import { servers } from '../../each-database.js'

type Send = (sql: string) => Promise<unknown>

/** A connection of a pool; its methods have the same names in mysql2 and pg. */
interface Client {
  readonly send: Send
  release(): void
  /** Closes the connection without a word to the server. */
  destroy(): void
}

/** A pool of mysql2 or pg. */
interface Way {
  readonly pool: object
  readonly send: Send
  connect(): Promise<Client>
  end(): Promise<void>
}

const add = 'UPDATE hostile_rows SET n = n + 1 WHERE id = 1'
const read = 'SELECT n FROM hostile_rows WHERE id = 1'
const lock = `${read} FOR UPDATE`
const forEver = (): Promise<never> => new Promise(() => undefined)

/** A participant that does what no exploration expects, and the sentence with which the exploration ends. */
interface Hostile {
  readonly act: (way: Way) => unknown
  /** Of the reasons, the failure or the error; or `kept`. */
  readonly says: RegExp
  readonly options?: Partial<ExploreOptions<unknown>>
}

async function inTransaction(way: Way, fn: (client: Client) => unknown): Promise<void> {
  const client = await way.connect()
  try {
    await client.send('BEGIN')
    await fn(client)
    await client.send('COMMIT')
  } finally {
    client.release()
  }
}

function hostiles(isPostgres: boolean): Record<string, Hostile> {
  const one = (mysql: string, postgres: string): string => (isPostgres ? postgres : mysql)
  const late: Promise<unknown>[] = []
  return {
    'throws undefined': {
      act: async ({ send }) => {
        await send(add)
        // eslint-disable-next-line @typescript-eslint/only-throw-error -- that is the point
        throw undefined
      },
      says: /^A failed in every schedule: undefined$/m,
    },
    'returns an object that contains itself': {
      act: async ({ send }) => {
        await send(add)
        const own: Record<string, unknown> = {}
        own['own'] = own
        return own
      },
      says: /^kept$/,
    },
    'loops for ever without a statement': {
      act: async (way) => {
        await way.send(add)
        for (const start = Date.now(); Date.now() - start < 20_000;) await nextTurn()
      },
      says: /A.* sent no statement for 4000 ms and did not end/,
    },
    'loops for ever with statements': {
      act: async ({ send }) => {
        for (;;) await send(read)
      },
      says: /A sent 30 statements in one order and did not end; the last 30 of them read SELECT n/,
      options: { maxStatements: 30 },
    },
    'never ends, and holds a lock': {
      act: (way) =>
        inTransaction(way, async ({ send }) => {
          await send(lock)
          await forEver()
        }),
      says: /A sent no statement for 4000 ms and did not end/,
    },
    'blocks the process': {
      act: async ({ send }) => {
        await send(read)
        for (const end = Date.now() + 300; Date.now() < end;);
        await send(add)
      },
      says: /^kept$/,
    },
    'sends a statement that takes its time': {
      act: async ({ send }) => {
        await send(one('SELECT SLEEP(0.4)', 'SELECT pg_sleep(0.4)'))
        await send(add)
      },
      says: /^kept$/,
    },
    'sends a statement that no server understands': {
      act: ({ send }) => send('SELEKT n'),
      says: /^A failed in every schedule: .*syntax/m,
    },
    'kills its own connection': {
      act: (way) =>
        inTransaction(way, async ({ send }) => {
          await send(lock)
          await send(one('KILL CONNECTION_ID()', 'SELECT pg_terminate_backend(pg_backend_pid())'))
        }),
      says: /^A failed in every schedule: /m,
    },
    'destroys its connection within a transaction': {
      act: async (way) => {
        const client = await way.connect()
        await client.send('BEGIN')
        await client.send(add)
        client.destroy()
      },
      says: /^A left a transaction open|^kept$/,
    },
    'closes the pool': {
      act: async (way) => {
        await way.send(add)
        await way.end()
      },
      says: /^A failed in every schedule: |ool is closed|pool after calling end|pool is ending/m,
    },
    'switches autocommit off, and gives the connection back': {
      act: async (way) => {
        const client = await way.connect()
        await client.send(one('SET autocommit = 0', 'BEGIN'))
        await client.send(add)
        client.release()
      },
      says: /^A left a transaction open/,
    },
    'changes settings of its session': {
      act: async (way) => {
        const client = await way.connect()
        await client.send(one("SET SESSION sql_mode = 'ANSI'", "SET statement_timeout = '30s'"))
        await client.send(one('SET SESSION innodb_lock_wait_timeout = 1', "SET lock_timeout = '1s'"))
        await client.send(add)
        client.release()
      },
      says: /^kept$/,
    },
    'goes to another database': {
      act: async (way) => {
        const client = await way.connect()
        await client.send(one('USE information_schema', 'SET search_path TO pg_catalog'))
        await client.send(add).finally(() => {
          client.destroy()
        })
      },
      says: /^A failed in every schedule: /m,
    },
    'locks whole tables': {
      act: async (way) => {
        const client = await way.connect()
        await client.send(one('LOCK TABLES hostile_rows WRITE', 'BEGIN'))
        if (isPostgres) await client.send('LOCK TABLE hostile_rows IN ACCESS EXCLUSIVE MODE')
        await client.send(add)
        await client.send(one('UNLOCK TABLES', 'COMMIT'))
        client.release()
      },
      says: /^kept$|sent no statement for 4000 ms|did not end/,
    },
    'waits in a second transaction for its first one': {
      act: (way) =>
        inTransaction(way, async ({ send }) => {
          await send(lock)
          await inTransaction(way, (second) => second.send(add))
        }),
      says: /^A waits for its own lock: statement \d+ \(UPDATE .*\) waits for a row that statement \d+ \(SELECT/,
    },
    'takes a lock by its name': {
      act: async (way) => {
        const client = await way.connect()
        await client.send(one("SELECT GET_LOCK('hostile', 20)", 'SELECT pg_advisory_lock(4713)'))
        await client.send(add)
        await forEver()
      },
      says: /A.* sent no statement for 4000 ms.*such as GET_LOCK/,
    },
    'does not await its statement': {
      act: ({ send }) => {
        late.push(send(add).catch(() => undefined))
      },
      says: /^A sent a statement after it had ended \(UPDATE|^kept$/m,
    },
    'begins a transaction within a transaction': {
      act: (way) =>
        inTransaction(way, async ({ send }) => {
          await send(add)
          await send('BEGIN')
          await send(add)
        }),
      says: /^kept$|differ/,
    },
    'drops the table': {
      act: ({ send }) => send('DROP TABLE hostile_rows'),
      says: /./,
    },
    'explores in an exploration': {
      act: (way) =>
        explore({ connections: [way.pool], setup: () => undefined, participants: { A: forEver, B: forEver } }),
      says: /^A failed in every schedule: explore: it is called by setup, a check or a participant of an exploration/m,
    },
    'rejects before its first statement': {
      act: () => Promise.reject(new Error('on purpose')),
      says: /^A failed in every schedule: on purpose$/m,
    },
  }
}

/** The sentence with which an exploration ends. */
async function endOf(exploration: Promise<Result>): Promise<string> {
  try {
    const { first, reasons } = await exploration
    return first ? (first.error as Error).message : reasons.join('\n') || 'kept'
  } catch (error) {
    return (error as Error).message
  }
}

for (const name of ['mysql', 'mariadb', 'postgres'] as const) {
  if (!requestedDatabases().includes(name)) continue
  const open = name === 'postgres' ? openPg : openMysql
  const all = hostiles(name === 'postgres')
  describe(`an exploration of ${Object.keys(all).length} hostile participants (${name})`, () => {
    let way: Way

    beforeEach(() => {
      way = open(servers.get(name)!.url)
    })

    afterEach(() => way.end())

    for (const [title, { act, says, options }] of Object.entries(all)) {
      it(`rejects with an explanation if one ${title}, and the next exploration works`, async () => {
        let own = way
        const setup = async (): Promise<void> => {
          await own.send('CREATE TABLE IF NOT EXISTS hostile_rows (id INT PRIMARY KEY, n INT)')
          await own.send('DELETE FROM hostile_rows')
          await own.send('INSERT INTO hostile_rows VALUES (1, 0)')
        }
        const B = async (): Promise<void> => void (await own.send(add))
        const given = { connections: [own.pool], setup, participants: { A: () => act(own), B }, ...options }
        expect(await endOf(explore(given))).to.match(says)
        if (title === 'closes the pool') own = way = open(servers.get(name)!.url)
        const next = await explore({ connections: [own.pool], setup, participants: { A: B, B } })
        expect([next.verdict, next.reasons]).to.deep.equal(['kept', []])
      })
    }
  })
}

function openMysql(url: string): Way {
  const pool = createPool({ uri: url.replace(/^\w+:/, 'mysql:'), connectionLimit: 6 })
  return {
    pool,
    send: (sql) => pool.query(sql),
    async connect() {
      const connection: PoolConnection = await pool.getConnection()
      return {
        send: (sql) => connection.query(sql),
        release: () => connection.release(),
        destroy: () => connection.destroy(),
      }
    },
    end: () => pool.end(),
  }
}

function openPg(url: string): Way {
  const pool = new Pool({ connectionString: url, max: 6 })
  // A connection that the server ends while no one uses it.
  pool.on('error', () => undefined)
  return {
    pool,
    send: (sql) => pool.query(sql),
    async connect() {
      const client: PoolClient = await pool.connect()
      // And one that it ends while it is used.
      client.on('error', () => undefined)
      return {
        send: (sql) => client.query(sql),
        release: () => client.release(),
        destroy: () => client.release(true),
      }
    },
    end: () => pool.end(),
  }
}
