import type { Model, ModelStatic, Options, QueryTypes, Sequelize } from 'sequelize'
import { tablesOf } from './catalog.js'
import { driverOf, reachesSame } from './drivers/index.js'
import type { Driver } from './drivers/index.js'
import { usage } from './errors.js'
import type { Database, Gate, OpenDatabase, Row, Server, Session, Table } from './gate.js'
import { unattended } from './run.js'

/** The object that Sequelize 6 creates for every statement, including BEGIN and COMMIT. */
interface Query {
  readonly connection: object
  run(sql: string, parameters?: unknown): Promise<unknown>
}

type QueryClass = new (...words: unknown[]) => Query

/** The members that Sequelize does not type. */
interface Internals {
  readonly dialect: { Query: QueryClass }
  readonly options: {
    readonly pool?: { readonly max?: number }
    readonly storage?: string
    readonly host?: string
    retry?: object
  }
  readonly config: { database: string; username: string; password: string; host: string; port: number }
  readonly connectionManager: {
    readonly pool: { destroy(connection: object): Promise<void> }
    /** SQLite's. */
    readonly connections: Readonly<Record<string, object>>
    _connect(config: unknown): Promise<object>
    getConnection(options: object): Promise<object>
    releaseConnection(connection: object): void
  }
}

/** The type of a query that returns rows. The package loads nothing of Sequelize, of which there may be several copies. */
const select: QueryTypes.SELECT = 'SELECT' as never

const quietly = { raw: true, logging: false, transaction: null } as const

function internals(sequelize: Sequelize): Internals {
  return sequelize as unknown as Internals
}

/** Whether a value is an instance of Sequelize 6, of any copy of it. */
export function isSequelize(value: unknown): value is Sequelize {
  const { query, getDialect, dialect } = (value ?? {}) as {
    query: unknown
    getDialect: unknown
    dialect?: { Query?: unknown }
  }
  return [query, getDialect, dialect?.Query].every((each) => typeof each === 'function')
}

/** A Sequelize instance. */
export class SequelizeDatabase implements Database {
  last: Promise<unknown> = Promise.resolve()
  readonly max: number
  readonly #sequelize: Sequelize

  constructor(sequelize: Sequelize) {
    this.max = internals(sequelize).options.pool?.max ?? 5
    this.#sequelize = sequelize
  }

  async open(count: number): Promise<OpenDatabase> {
    const sequelize = this.#sequelize
    const dialect = sequelize.getDialect()
    if (dialect === 'sqlite') return new OpenSqlite(sequelize)
    const { connectionManager } = internals(sequelize)
    const borrow = (): Promise<object> =>
      unattended(() => connectionManager.getConnection({ type: 'write', useMaster: true }))
    const borrowed = await Promise.all(Array.from({ length: count }, borrow))
    for (const connection of borrowed) connectionManager.releaseConnection(connection)
    const driver = driverOf(borrowed[0]!)
    if (!driver) throw usage.driver('explore', dialect)
    const query: Session['query'] = (sql) => ask(sequelize, sql)
    const tables = await tablesOf(driver.dialect, { query })
    return new OpenSequelize(sequelize, driver, borrowed[0]!, tables)
  }
}

/** A Sequelize instance on a server. Its statements are held before Sequelize passes them to the driver. */
class OpenSequelize implements OpenDatabase {
  readonly dialect: Driver['dialect']
  readonly connections: ReadonlySet<object> = new Set()
  readonly #sequelize: Sequelize
  readonly #driver: Driver
  readonly #connection: object
  /** The tables in the catalog, for those without a model. */
  readonly #tables: ReadonlyMap<string, Table>

  constructor(sequelize: Sequelize, driver: Driver, connection: object, tables: ReadonlyMap<string, Table>) {
    this.dialect = driver.dialect
    this.#sequelize = sequelize
    this.#driver = driver
    this.#connection = connection
    this.#tables = tables
  }

  query<R extends object = Row>(sql: string): Promise<R[]> {
    return ask(this.#sequelize, sql)
  }

  table(name: string): Table | undefined {
    return tableOfModel(this.#sequelize, name) ?? this.#tables.get(name)
  }

  reaches(connection: object): boolean {
    return reachesSame(this.#driver, this.#connection, connection)
  }

  connect(): Promise<Session> {
    const instance = secondInstance(this.#sequelize)
    return Promise.resolve({ query: (sql) => ask(instance, sql), close: () => instance.close() })
  }

  install(gate: Gate): () => void {
    const { pool } = internals(this.#sequelize).connectionManager
    const discard = (connection: object): unknown => pool.destroy(connection)
    const undo = [
      installGate(this.#sequelize, gate, discard, this.#driver),
      // What goes around Sequelize.
      this.#driver.install(this.#connection, pool, gate),
      connectUnattended(this.#sequelize),
    ]
    return () => {
      for (const each of undo) each()
    }
  }

  close(): Promise<void> {
    return Promise.resolve()
  }
}

function ask<R extends object>(sequelize: Sequelize, sql: string): Promise<R[]> {
  // Sequelize fails on a SELECT without rows.
  const options = /^KILL\b/.test(sql) ? quietly : { ...quietly, type: select }
  return unattended(() => sequelize.query(sql, options)) as Promise<unknown> as Promise<R[]>
}

/** A Sequelize instance with the same credentials and its own pool. */
function secondInstance(sequelize: Sequelize): Sequelize {
  const { config, options } = internals(sequelize)
  const { database, username, password, host, port } = config
  const own: Options = { ...(options as Options), host, port, pool: { max: 2 }, logging: false, hooks: {} }
  return new (sequelize.constructor as typeof Sequelize)(database, username, password, own)
}

/**
 * Passes every statement of a Sequelize instance to the gate; returns a function that undoes that.
 *
 * Sequelize's hooks are not sufficient: `beforeQuery` has no SQL text, and `afterQuery` sees neither result nor error.
 * Only the class of this instance is replaced; other instances are unchanged.
 */
function installGate(
  sequelize: Sequelize,
  gate: Gate,
  discard: (connection: object) => unknown,
  driver?: Driver,
): () => void {
  const { dialect } = internals(sequelize)
  const Original = dialect.Query
  dialect.Query = class extends Original {
    override run(sql: string, parameters?: unknown): Promise<unknown> {
      const { connection } = this
      return gate.keep({
        sql,
        parameters,
        connection,
        table: gate.tableOf(sql),
        send: (text = sql) => super.run(text, parameters),
        rowsOf: valuesOf,
        discard: () => discard(connection),
        ...(driver && { socket: () => driver.socketOf(connection) }),
        resend: (text) => super.run(text, parameters),
      })
    }
  }
  return () => void (dialect.Query = Original)
}

/** The rows of a result of Sequelize, also of instances of models, and of a result with metadata. */
function valuesOf(answer: unknown): readonly unknown[] {
  const all: readonly unknown[] = Array.isArray(answer)
    ? Array.isArray(answer[0])
      ? (answer[0] as unknown[])
      : answer
    : [answer]
  return all.map((row) => (row as { dataValues?: unknown } | null)?.dataValues ?? row)
}

/** What Sequelize sends on a new connection is no statement of a participant; returns a function that undoes that. */
function connectUnattended(sequelize: Sequelize): () => void {
  const manager = internals(sequelize).connectionManager
  const connect = manager._connect.bind(manager)
  manager._connect = (config) => unattended(() => connect(config))
  // The class has the method.
  return () => void Reflect.deleteProperty(manager, '_connect')
}

/** The table of the model that is stored in a table of this name. */
function tableOfModel(sequelize: Sequelize, table: string): Table | undefined {
  const model = Object.values(sequelize.models).find((each) => {
    const name = each.getTableName() as string | { tableName: string }
    return (typeof name === 'string' ? name : name.tableName) === table
  }) as ModelStatic<Model> | undefined
  if (!model) return undefined
  const attributes = model.getAttributes() as Record<
    string,
    { field?: string; primaryKey?: boolean; autoIncrement?: boolean; references?: Reference }
  >
  const fieldOf = (name: string): string => attributes[name]?.field ?? name
  const those = (test: (name: string) => boolean | undefined): string[] => Object.keys(attributes).filter(test)
  const { timestamps, createdAt, updatedAt, version } = model.options
  const times = [createdAt ?? 'createdAt', updatedAt ?? 'updatedAt'].filter((name) => typeof name === 'string')
  return {
    keys: those((name) => attributes[name]!.primaryKey).map((attribute) => ({ attribute, field: fieldOf(attribute) })),
    given: those((name) => attributes[name]!.autoIncrement).map(fieldOf),
    times: timestamps ? times.map(fieldOf) : [],
    references: new Map(
      Object.entries(attributes).flatMap(([name, { field = name, references }]) =>
        references ? [[field, tableReferredTo(references)] as const] : [],
      ),
    ),
    version: version ? fieldOf(typeof version === 'string' ? version : 'version') : undefined,
  }
}

interface Reference {
  readonly model: string | { readonly tableName: string }
}

function tableReferredTo({ model }: Reference): string {
  return typeof model === 'string' ? model : model.tableName
}

/** A file of SQLite. It reports no waits: a statement that finds the file locked is resent when another one has ended. */
class OpenSqlite implements OpenDatabase {
  readonly dialect = 'sqlite'
  readonly connections: ReadonlySet<object> = new Set()
  readonly #sequelize: Sequelize

  /** @throws {UsageError} the database is in memory */
  constructor(sequelize: Sequelize) {
    const { storage, host } = internals(sequelize).options
    if (/^(:memory:)?$/.test(storage ?? host ?? '')) throw usage.inMemory('explore')
    this.#sequelize = sequelize
  }

  query<R extends object = Row>(sql: string): Promise<R[]> {
    return ask(this.#sequelize, sql)
  }

  table(name: string): Table | undefined {
    return tableOfModel(this.#sequelize, name)
  }

  install(gate: Gate): () => void {
    const { connectionManager } = internals(this.#sequelize)
    return installGate(this.#sequelize, gate, (connection) => {
      const { uuid } = connection as { uuid?: string }
      const isOpen = uuid !== undefined && connectionManager.connections[uuid] === connection
      if (isOpen) connectionManager.releaseConnection(connection)
    })
  }

  server(): Server {
    const { options } = internals(this.#sequelize)
    const ids = new Map<object, number>()
    const { retry } = options
    // Otherwise Sequelize pauses before it resends a statement that found the file locked.
    options.retry = { ...retry, backoffBase: 0 }
    return {
      connectionId: (connection) => ids.get(connection) ?? ids.set(connection, ids.size + 1).size,
      waits: () => Promise.resolve([]),
      open: (ids) => Promise.resolve(ids),
      isAnswer: () => true,
      isBusy: ({ code }) => code === 'SQLITE_BUSY',
      prepare: (connection) => busyTimeout(connection, 0),
      hasQueue: true,
      computingMs: 60,
      deadlockMs: 0,
      guessedDeadlockMs: 0,
      nothing: 'SELECT 1',
      close() {
        Object.assign(options, { retry })
        // Restore the driver's default. A connection of a transaction has a `uuid`: Sequelize closes it.
        for (const connection of ids.keys()) if (!('uuid' in connection)) busyTimeout(connection, 1_000)
        return Promise.resolve()
      },
    }
  }

  close(): Promise<void> {
    return Promise.resolve()
  }
}

function busyTimeout(connection: object, milliseconds: number): void {
  const database = connection as { configure(name: 'busyTimeout', value: number): void }
  database.configure('busyTimeout', milliseconds)
}
