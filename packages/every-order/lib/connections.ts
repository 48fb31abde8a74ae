import { tablesOf } from './catalog.js'
import { driverOf, reachesSame } from './drivers/index.js'
import type { Borrowed, Driver } from './drivers/index.js'
import { usage } from './errors.js'
import type { Database, Gate, OpenDatabase, Row, Session, Table } from './gate.js'
import { unattended } from './run.js'
import { isSequelize, SequelizeDatabase } from './sequelize.js'

/** A pool or a connection of a driver. */
interface Source {
  /** The pool, or the connection. */
  readonly pool: object
  readonly max: number
  borrow(): Promise<Borrowed>
}

/** The database of each pool, connection and Sequelize instance that was explored. */
const databases = new WeakMap<object, Database>()

/** The database of one of `connections`; `undefined` for any other value. */
export function databaseOf(value: unknown): Database | undefined {
  if (isSequelize(value)) return remembered(value, () => new SequelizeDatabase(value))
  const source = sourceOf(value)
  return source && remembered(source.pool, () => new DriverDatabase(source))
}

function remembered(owner: object, make: () => Database): Database {
  const database = databases.get(owner) ?? make()
  databases.set(owner, database)
  return database
}

/** Finds the pool or the connection in a value: of a driver, of its promise interface, or of an ORM. */
function sourceOf(value: unknown): Source | undefined {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return undefined
  if (driverOf(value)) {
    return { pool: value, max: 1, borrow: () => Promise.resolve({ connection: value, giveBack: () => undefined }) }
  }
  for (const find of [mysql2Pool, mariadbPool, pgPool, knexPool]) {
    const source = find(value)
    if (source) return source
  }
  const { $client, driver, pool, connection } = value as {
    /** Drizzle. */
    $client?: unknown
    /** TypeORM. */
    driver?: { master?: unknown; pool?: unknown }
    /** `mysql2/promise`. */
    pool?: unknown
    connection?: unknown
  }
  return sourceOf($client ?? driver?.master ?? driver?.pool ?? pool ?? connection)
}

interface Mysql2Pool {
  readonly config: { readonly connectionLimit: number }
  getConnection(callback: (error: unknown, connection: { release(): void }) => void): void
}

function mysql2Pool(value: object): Source | undefined {
  const pool = value as Mysql2Pool
  const max = pool.config?.connectionLimit
  if (typeof pool.getConnection !== 'function' || typeof max !== 'number') return undefined
  const borrow = (): Promise<Borrowed> =>
    new Promise((resolve, reject) =>
      pool.getConnection((error, connection) =>
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the driver's error
        error ? reject(error) : resolve({ connection, giveBack: () => connection.release() }),
      ),
    )
  return { pool, max: max || Infinity, borrow }
}

interface MariadbPool {
  getConnection(): Promise<{ release(): Promise<void> }>
  readonly totalConnections: unknown
}

/** A pool of MariaDB's connector, with promises. It does not say how many connections it may have. */
function mariadbPool(value: object): Source | undefined {
  const pool = value as MariadbPool
  if (typeof pool.totalConnections !== 'function' || pool.getConnection.length > 0) return undefined
  return {
    pool,
    max: Infinity,
    async borrow() {
      const connection = await pool.getConnection()
      return { connection, giveBack: () => connection.release() }
    },
  }
}

interface PgPool {
  readonly options: { readonly max: number }
  connect(): Promise<{ release(): void }>
}

function pgPool(value: object): Source | undefined {
  const pool = value as PgPool
  if (!('totalCount' in pool) || typeof pool.options?.max !== 'number') return undefined
  return {
    pool,
    max: pool.options.max,
    async borrow() {
      const connection = await pool.connect()
      return { connection, giveBack: () => connection.release() }
    },
  }
}

interface Knex {
  readonly pool: { readonly max: number }
  acquireConnection(): Promise<object>
  releaseConnection(connection: object): Promise<void>
}

function knexPool(value: object): Source | undefined {
  const { client } = value as { client?: Knex }
  if (typeof client?.acquireConnection !== 'function' || typeof client.pool?.max !== 'number') return undefined
  return {
    pool: client,
    max: client.pool.max,
    async borrow() {
      const connection = await client.acquireConnection()
      return { connection, giveBack: () => client.releaseConnection(connection) }
    },
  }
}

/** A pool or a connection of a driver. */
class DriverDatabase implements Database {
  last: Promise<unknown> = Promise.resolve()
  readonly max: number
  readonly #source: Source

  constructor(source: Source) {
    this.max = source.max
    this.#source = source
  }

  async open(count: number): Promise<OpenDatabase> {
    const borrow = (): Promise<Borrowed> => unattended(() => this.#source.borrow())
    const borrowed = await Promise.all(Array.from({ length: count }, borrow))
    for (const each of borrowed) await each.giveBack()
    const connections = new Set(borrowed.map(({ connection }) => connection))
    const [connection] = connections
    const driver = driverOf(connection!)
    if (!driver) throw usage.driver('explore', connection!.constructor.name)
    const session = await driver.connect(connection!, borrow)
    const tables = await tablesOf(driver.dialect, session)
    return new OpenDriverDatabase(driver, this.#source.pool, connections, session, tables)
  }
}

class OpenDriverDatabase implements OpenDatabase {
  readonly dialect: Driver['dialect']
  readonly connections: ReadonlySet<object>
  readonly #driver: Driver
  readonly #pool: object
  readonly #session: Session
  readonly #tables: ReadonlyMap<string, Table>

  constructor(
    driver: Driver,
    pool: object,
    connections: ReadonlySet<object>,
    session: Session,
    tables: ReadonlyMap<string, Table>,
  ) {
    this.dialect = driver.dialect
    this.connections = connections
    this.#driver = driver
    this.#pool = pool
    this.#session = session
    this.#tables = tables
  }

  query<R extends object = Row>(sql: string): Promise<R[]> {
    return this.#session.query(sql)
  }

  table(name: string): Table | undefined {
    return this.#tables.get(name)
  }

  reaches(connection: object): boolean {
    const [first] = this.connections
    return reachesSame(this.#driver, first!, connection)
  }

  connect(): Promise<Session> {
    return Promise.resolve({ query: (sql) => this.query(sql), close: () => Promise.resolve() })
  }

  install(gate: Gate): () => void {
    const [connection] = this.connections
    return this.#driver.install(connection!, this.#pool, gate)
  }

  close(): Promise<void> {
    return this.#session.close()
  }
}
