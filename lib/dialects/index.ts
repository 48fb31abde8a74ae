import { UnsupportedDatabaseError } from '../errors/errors.js'
import type { Condition, Operation } from '../json/operation.js'
import { mariadb } from './mariadb.js'
import { mysql } from './mysql.js'
import { postgres } from './postgres.js'
import { sqlite } from './sqlite.js'

/** Adds a value to the statement's binds and returns its placeholder: no path, key or value enters the SQL text. */
export type Bind = (value: string) => string

/** A JSON column, quoted for SQL. */
export interface Column {
  readonly sql: string
  readonly type: 'JSON' | 'JSONB'
}

/** What one UPDATE does to the document: `SET column = document … WHERE … AND guard`. */
interface Write {
  readonly document: string
  readonly guard: string
  /** Stands before UPDATE. */
  readonly prefix?: string
}

/** What is to be written, and when; the paths of operations do not overlap. */
export interface Change {
  readonly operations: readonly Operation[]
  readonly conditions: readonly Condition[]
  /** The server has to prepare each text, so there had better be few, be they longer. */
  readonly isPrepared?: boolean
}

/** A way to write a change to a column. */
export type Form = (change: Change, column: Column, bind: Bind) => Write

/** The driver's error, as Sequelize hands it on in `parent`. */
export interface DriverError {
  readonly message: string
  readonly errno?: number
  readonly code?: string
  /** Of what PostgreSQL's server itself says. */
  readonly severity?: string
}

/**
 * What a statement failed of, where another session or the network got in the way. All but `'lost'` say for certain
 * that it wrote nothing; of a connection lost while the answer was awaited nobody knows.
 */
export type Failure = 'deadlock' | 'conflict' | 'lock timeout' | 'cancelled' | 'lost'

/** A locking read that does not wait for ever. */
interface LockWait {
  /** Stands after SELECT. */
  readonly hint?: string
  /** Stands at the end. */
  readonly clause?: string
  /** What the connection must be told before, and told back after. */
  readonly setting?: Setting
}

/** A setting of a connection, as text. */
export interface Setting {
  readonly value: string
  /** Answers with the value in force alone. */
  readonly read: string
  readonly write: (value: string) => readonly [sql: string, ...binds: string[]]
}

/** A database: the only place that knows its SQL, its limits and its errors. Pure; no I/O. */
export interface Dialect {
  /** As error texts call it. */
  readonly name: string
  /** Sent in order until one matches the row. No two match the same document; all together match every one that can be written. */
  readonly forms: readonly Form[]
  /** True if a column holds a document that equals a bound text, whatever the order of keys; NULL is JSON null. */
  readonly holds: (column: Column, text: string) => string
  /** The document as text, which no driver parses or rounds. */
  readonly documentText: (column: Column) => string
  /** For a database that stores JSON as the text it was given: the spelling that its functions need, and the condition that a column holds just a text. */
  readonly respell?: {
    readonly text: (json: string) => string
    readonly isText: (column: Column, text: string) => string
  }
  /** The row is matched, from the answer to an UPDATE; `undefined` if the answer cannot tell. Absent where UPDATE … RETURNING tells. */
  readonly matched?: (header: unknown) => boolean | undefined
  /** Ends a SELECT that locks its row; empty where a transaction locks the whole database. */
  readonly lockClause: '' | 'FOR UPDATE' | 'FOR NO KEY UPDATE'
  /** For a database that has one writer at a time and lets those who wait block it: the file that Sequelize's options name, or `'in memory'`. */
  readonly writerQueue?: (options: { readonly storage?: string; readonly host?: string }) => string
  /** How a locking read is told to wait so many milliseconds at most; 0 for not at all. */
  readonly lockWait: (timeoutMs: number) => LockWait
  /** Where to look for who holds a lock. */
  readonly lockHolders: string
  readonly isolationLevels: readonly string[]
  /** Levels of arrays and objects that a document may have, its root included. */
  readonly maxDepth: number
  /** How many keys one write may remove, and patches merge, where each is a call around another one; absent where there is no end. */
  readonly maxNesting?: number
  /** The integers that it keeps exact, past those that JavaScript does; absent where there is no end. */
  readonly integers?: readonly [least: bigint, greatest: bigint]
  /** What the server takes in one statement; absent where there is no such limit. */
  readonly maxStatementBytes?: number
  /** Why this key cannot be held, or `undefined`. */
  readonly refuseKey: (key: string) => string | undefined
  /** Why this text, a string value or an inner key, cannot be held, or `undefined`. */
  readonly refuseText: (text: string) => string | undefined
  readonly classify: (error: DriverError) => Failure | undefined
  /** Those after which the server has rolled the whole transaction back on its own, past every savepoint. */
  readonly endsTransaction: readonly Failure[]
  /** COMMIT was answered with success, and rolled back. */
  readonly isRollback: (result: unknown) => boolean
}

/** One of Sequelize's own dialects: how to ask the server behind it who it is. */
export interface Connector {
  /** Answers with the server's `version`, and with what became of the text bound to `$1`. */
  readonly probe: string
  /** Its driver puts bound text into the statement, where quotes and the like take a backslash each. */
  readonly escapes?: true
  /** Its driver has the server prepare each text once, and keep it; a server keeps so many for all its clients, and no more. */
  readonly prepares?: true
  /** An error that says that nothing was done, and that the same statement may succeed if it is sent again. */
  readonly busy?: RegExp
  readonly recognise: (answer: Readonly<Record<string, unknown>>) => Dialect
}

// Both connectors reach both servers, and only the server decides which SQL is right.
const mysqlOrMariadb: Connector = {
  probe:
    'SELECT VERSION() AS version, @@character_set_client AS charset, @@max_allowed_packet AS packet, ' +
    '@@innodb_rollback_on_timeout AS timeoutEnds, $1 AS echo',
  recognise({ version, charset, packet, timeoutEnds, echo }) {
    if (charset !== 'utf8mb4') {
      throw new UnsupportedDatabaseError(
        `the connection's character set is ${String(charset)}, which cannot carry every JSON text`,
        `Connect with utf8mb4: new Sequelize({ …, dialectOptions: { charset: 'utf8mb4' } }).`,
      )
    }
    if (echo !== probeText) {
      throw new UnsupportedDatabaseError(
        `the driver changes bound text (sql_mode NO_BACKSLASH_ESCAPES, which mariadb before 3.5 does not heed), so that any value could be taken for SQL`,
        `Take NO_BACKSLASH_ESCAPES out of sql_mode, or use dialect: 'mysql' with mysql2, or npm install mariadb@^3.5.4.`,
      )
    }
    const dialect = /mariadb/i.test(String(version)) ? mariadb : mysql
    return {
      ...dialect,
      maxStatementBytes: Number(packet),
      endsTransaction: [...dialect.endsTransaction, ...(Number(timeoutEnds) === 1 ? (['lock timeout'] as const) : [])],
    }
  },
}

/** What a driver that escapes where it should bind would change. */
export const probeText = '\\'

const connectors: Readonly<Record<string, Connector>> = {
  mysql: { ...mysqlOrMariadb, prepares: true },
  mariadb: { ...mysqlOrMariadb, escapes: true },
  postgres: { probe: 'SELECT version() AS version, $1::text AS echo', recognise: () => postgres },
  sqlite: {
    busy: /SQLITE_BUSY/,
    probe: 'SELECT sqlite_version() AS version, $1 AS echo',
    recognise({ version }) {
      const [major = 0, minor = 0] = String(version).split('.').map(Number)
      // Before 3.45 a quote or backslash in a path's key is not understood, and another key is written.
      if (major > 3 || (major === 3 && minor >= 45)) return sqlite
      throw new UnsupportedDatabaseError(
        `SQLite ${String(version)} does not understand every JSON key`,
        `Use SQLite 3.45 or newer: npm install sqlite3@6.`,
      )
    },
  },
}

/** The connector of a Sequelize dialect. */
export function connectorOf(name: string): Connector {
  const connector = Object.hasOwn(connectors, name) ? connectors[name] : undefined
  if (connector) return connector
  throw new UnsupportedDatabaseError(
    `the dialect "${name}" is not supported`,
    `Use one of: ${Object.keys(connectors).join(', ')}.`,
  )
}
