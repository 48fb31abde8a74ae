import type { Socket } from 'node:net'

/** A statement that has reached the gate. */
export interface Passing {
  readonly sql: string
  readonly parameters: unknown
  /** The connection object of the driver. */
  readonly connection: object
  /** Its main table, if it is known. */
  readonly table: Table | undefined
  /** Sends the statement, or `sql` in its place. */
  readonly send: (sql?: string) => unknown
  /** The rows of a result of `send`. */
  readonly rowsOf: (answer: unknown) => readonly unknown[]
  /** Closes the connection, in use or not, and removes it from its pool; a connection without a pool only gives up its locks. */
  readonly discard: () => unknown
  /** The socket of the connection, unless it is closed. SQLite has none. */
  readonly socket?: () => Socket | undefined
  /** Sends the statement again, after `send` or in place of it. */
  readonly resend: (sql: string) => unknown
}

/** What an exploration knows of a table. */
export interface Table {
  /** The columns of the primary key, by their names in the rows of a read, and in the table. */
  readonly keys: readonly { readonly attribute: string; readonly field: string }[]
  /** The columns that the database generates. */
  readonly given: readonly string[]
  /** The columns with the time of the last change, such as `updatedAt`. */
  readonly times: readonly string[]
  /** The table that a column refers to. */
  readonly references: ReadonlyMap<string, string>
  /** The column that optimistic locking counts in. */
  readonly version: string | undefined
}

export type Row = Readonly<Record<string, unknown>>

/** A connection, or more, for the statements of the kit, which no gate holds. */
export interface Session {
  query<R extends object = Row>(sql: string): Promise<R[]>
  close(): Promise<void>
}

/** Where the statements of the participants are held. */
export interface Gate {
  /** Whether a statement that the current code sends on this connection is to be kept. */
  holds(connection: object): boolean
  /** Sends a statement when it is its turn. */
  keep(passing: Passing): Promise<unknown>
  tableOf(sql: string): Table | undefined
  /** Records a statement that cannot be kept. */
  goesAround(sql: string): void
}

/** One of `connections`: a pool, a connection, or an ORM that has a pool. */
export interface Database {
  /** The last exploration of it that has started or waits: the next one waits for it. */
  last: Promise<unknown>
  /** The maximum number of connections. */
  readonly max: number
  /** Opens connections in advance, since connecting can exceed the computing time of a participant. */
  open(count: number): Promise<OpenDatabase>
}

/** A database during an exploration. */
export interface OpenDatabase extends Session {
  readonly dialect: 'mysql' | 'postgres' | 'sqlite'
  /** The connections that were open at the start. */
  readonly connections: ReadonlySet<object>
  table(name: string): Table | undefined
  /** Whether a connection of its driver reaches the same server. SQLite has none. */
  reaches?(connection: object): boolean
  /** Another session with the same credentials, which the participants cannot exhaust. SQLite needs none. */
  connect?(): Promise<Session>
  /** Passes the statements to the gate; returns a function that undoes that. */
  install(gate: Gate): () => void
  /** The server, if it is one without sessions of its own. */
  server?(): Server
}

/** A connection that waits for a lock, and the connections that hold it, if the server reports them. */
export interface Wait {
  readonly waiter: number
  readonly blockers?: readonly number[]
}

/** The differences between servers: how to read lock waits, and how to end a wait. */
export interface Server {
  /** The server's id of a connection. */
  readonly connectionId: (connection: object) => number
  /** The connections among `ids` that wait for a lock now. */
  readonly waits: (ids: readonly number[]) => Promise<Wait[]>
  /** The connections among `ids` with an open transaction that holds a lock; on PostgreSQL and SQLite, with any. */
  readonly open: (ids: readonly number[]) => Promise<readonly number[]>
  /** Cancels the waiting statement of a connection; absent if the kit itself makes statements wait. */
  readonly cancel?: (id: number) => Promise<void>
  /** Ends a connection; resolves when it has given up its locks. Absent if connections have no sessions on a server. */
  readonly kill?: (id: number) => Promise<void>
  /** Whether the error is from the server, so the failure of the statement is certain. */
  readonly isAnswer: (error: DriverError) => boolean
  /** Whether the database was busy and did nothing: the kit resends the statement when another one has ended. */
  readonly isBusy: (error: DriverError) => boolean
  /** Prepares a connection for a participant. */
  readonly prepare: (connection: object) => void
  /** Writers queue in this process, so the order of the starts matters. */
  readonly hasQueue: boolean
  /** The maximum computing time of a participant, in milliseconds, before the other participants continue. */
  readonly computingMs: number
  /** The maximum time in milliseconds until the server ends a deadlock. */
  readonly deadlockMs: number
  /** The same for a guessed deadlock, if the server does not report the holders of locks. */
  readonly guessedDeadlockMs: number
  /** A statement without effect; without rows, too, on MySQL and MariaDB, where Sequelize fails on rows of a COMMIT. */
  readonly nothing: string
  readonly close: () => Promise<void>
}

export interface DriverError {
  readonly code?: string
  readonly errno?: number
  readonly sqlState?: string
  readonly severity?: string
}
