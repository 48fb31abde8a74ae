import type { Condition, Operation } from '../json/operation.js'

/** Adds a value to the statement's binds and returns its placeholder: no path, key or value enters the SQL text. */
export type Bind = (value: string) => string

/** A JSON column, quoted for SQL. */
export interface Column {
  readonly sql: string
  readonly type: 'JSON' | 'JSONB'
}

/** The parts of one UPDATE: `SET column = document … WHERE … AND guard`. */
interface Write {
  readonly document: string
  readonly guard: string
  /** Stands before UPDATE. */
  readonly prefix?: string
}

/** The operations on a document and the conditions for them; the paths of the operations do not overlap. */
export interface Change {
  readonly operations: readonly Operation[]
  readonly conditions: readonly Condition[]
  /** The server prepares each SQL text, so a few longer texts are better than many. */
  readonly isPrepared?: boolean
}

/** Builds the UPDATE of a change for the documents that one guard selects. */
export type UpdateVariant = (change: Change, column: Column, bind: Bind) => Write

/** The driver's error, which Sequelize keeps in `parent`. */
export interface DriverError {
  readonly message: string
  readonly errno?: number
  readonly code?: string
  /** Only in errors of the PostgreSQL server itself. */
  readonly severity?: string
}

/**
 * Why a statement failed, if not for the statement itself. After all of them but `'lost'` it is certain that the
 * statement wrote nothing; `'lost'` is a connection that was lost before the answer, so the outcome is unknown.
 * `'resources'`: the server ran out of memory, disk or locks, and rolled the transaction back.
 */
export type Failure = 'deadlock' | 'conflict' | 'lock timeout' | 'cancelled' | 'resources' | 'read-only' | 'lost'

/** The SQL of a locking read with a limited wait. */
interface LockWait {
  /** Stands after SELECT. */
  readonly hint?: string
  /** Stands at the end. */
  readonly clause?: string
  /** A setting of the connection, changed before the read and restored after it. */
  readonly setting?: Setting
}

/** A setting of a connection, as text. */
export interface Setting {
  readonly value: string
  /** Selects the current value, in a row of one column. */
  readonly read: string
  readonly write: (value: string) => readonly [sql: string, ...binds: string[]]
}

/** The SQL, the limits and the errors of a database. Pure; no I/O. */
export interface Dialect {
  /** Its name in error texts. */
  readonly name: string
  /** Sent in order until one matches the row. No two match the same document; together they match every document that can be written. */
  readonly variants: readonly UpdateVariant[]
  /** True if the document in a column equals a bound text, in any order of keys; NULL is JSON null. */
  readonly holds: (column: Column, text: string) => string
  /** The document as text, so that no driver parses or rounds it. */
  readonly documentText: (column: Column) => string
  /** For a database that stores JSON as the text that was written: the form that its functions can read, and the condition that a column holds exactly a text. */
  readonly normalizeStoredText?: {
    readonly text: (json: string) => string
    readonly isText: (column: Column, text: string) => string
  }
  /** Whether an UPDATE matched its row, by the driver's answer; `undefined` if unknown. Absent if the database has UPDATE … RETURNING. */
  readonly matched?: (header: unknown) => boolean | undefined
  /** The end of a SELECT that locks its row; empty if a transaction locks the whole database. */
  readonly lockClause: '' | 'FOR UPDATE' | 'FOR NO KEY UPDATE'
  /** For a database with one writer at a time, which waiting writers would block: the file of Sequelize's options, or `'in memory'`. */
  readonly writerQueue?: (options: { readonly storage?: string; readonly host?: string }) => string
  /** Limits the wait of a locking read, in milliseconds; 0 does not wait. */
  readonly lockWait: (timeoutMs: number) => LockWait
  /** Where to find the holder of a lock. */
  readonly lockHolders: string
  readonly isolationLevels: readonly string[]
  /** The depth of nested arrays and objects that a document may have, including its root. */
  readonly maxDepth: number
  /** The number of keys that one write may remove, and of patches that it may merge, since these are nested calls; absent if unlimited. */
  readonly maxNesting?: number
  /** The range of integers that it stores exactly; absent if unlimited. */
  readonly integers?: readonly [least: bigint, greatest: bigint]
  /** The maximum length of one statement; absent if unlimited. */
  readonly maxStatementBytes?: number
  /** Why this key cannot be stored, or `undefined`. */
  readonly refuseKey: (key: string) => string | undefined
  /** Why this text, a string value or an inner key, cannot be stored, or `undefined`. */
  readonly refuseText: (text: string) => string | undefined
  /** Why a statement failed; `undefined` if the statement itself was refused. */
  readonly classify: (error: DriverError) => Failure | undefined
  /** The failures after which the server has rolled back the whole transaction, including every savepoint. */
  readonly endsTransaction: readonly Failure[]
  /** SQL that ends a transaction, as a COMMIT in a raw query or, on MySQL, DDL. */
  readonly endsTransactionBySql: RegExp
  /** The error of any statement makes all that follow fail, and COMMIT roll back, up to the last savepoint. */
  readonly abortsOnError?: true
  /** Whether a COMMIT that succeeded has rolled back. */
  readonly isRollback: (result: unknown) => boolean
}

/** The words that begin a statement which ends a transaction; `ROLLBACK TO` a savepoint does not. */
const transactionControl =
  'COMMIT|END|ABORT|BEGIN(?!\\s+NOT\\s+ATOMIC)|START\\s+TRANSACTION|PREPARE\\s+TRANSACTION|' +
  'ROLLBACK(?!\\s+(?:(?:WORK|TRANSACTION)\\s+)?TO\\b)'

/** Finds SQL that begins with one of these words, after comments; MySQL executes what is in a comment of the form `/*! … *\/`. */
export function endsTransactionBySql(words = ''): RegExp {
  const comments = '(?:\\s|--[^\\n]*\\n|#[^\\n]*\\n|/\\*(?!M?!)[^]*?\\*/|/\\*M?!\\d*)*'
  return new RegExp(`^${comments}(?:${[transactionControl, words].filter(Boolean).join('|')})\\b`, 'i')
}
