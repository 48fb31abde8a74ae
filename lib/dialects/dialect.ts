import type { Condition, Operation } from '../json/operation.js'
import type { Kind } from '../json/values.js'

/** Adds a value to the binds and returns its placeholder: paths, keys and values never become part of the SQL text. */
export type Bind = (value: string) => string

/** An operator between a column and a bound value. */
export type Comparison = '=' | '<>' | '>' | '>=' | '<' | '<=' | 'LIKE' | 'NOT LIKE'

/** A comparison of an ordinary column. */
export interface Compared {
  /** The column, quoted for SQL. */
  readonly column: string
  readonly operator: Comparison
  /** Binds the value and returns its placeholder. */
  readonly bind: () => string
  readonly value: unknown
  /** The type of the attribute in Sequelize; `values` are those of an ENUM. */
  readonly type: { readonly key: string; readonly values?: readonly unknown[] }
}

/** A column with documents, quoted for SQL. */
export interface Column {
  readonly sql: string
  /** `'TEXT'`: a column of a text type, in which the application stores JSON. */
  readonly type: 'JSON' | 'JSONB' | 'TEXT'
}

/** The parts of one UPDATE: `SET column = document … WHERE … AND guard`. */
interface Write {
  readonly document: string
  readonly guard: string
  /** SQL before UPDATE. */
  readonly prefix?: string
  /** SQL after UPDATE. */
  readonly hint?: string
}

/** The operations on a document and the conditions for them; the paths of the operations do not overlap. */
export interface Change {
  readonly operations: readonly Operation[]
  readonly conditions: readonly Condition[]
  /** The server prepares each SQL text: prefer few long texts to many short ones. */
  readonly isPrepared?: boolean
}

/** Builds the UPDATE of a change for one kind of stored document, such as objects; its guard selects this kind. */
export type UpdateVariant = (change: Change, column: Column, bind: Bind) => Write

/** The driver's error, which Sequelize keeps in `parent`. */
export interface DriverError {
  readonly message: string
  readonly errno?: number
  readonly code?: string
  /** Only in errors of the drivers for MySQL and MariaDB: the connection cannot be used any more. */
  readonly fatal?: boolean
  /** Only in errors that the PostgreSQL server sent. */
  readonly severity?: string
  /** Only in errors that the PostgreSQL server sent: the part of a text that it could not read. */
  readonly detail?: string
  /** Only in errors that the PostgreSQL server sent: what it was working on. */
  readonly where?: string
}

/**
 * The class of a failure that the statement itself did not cause. After `'lost'` (the connection closed before the
 * answer) the outcome is unknown; after every other failure the statement certainly wrote nothing. `'resources'`: the
 * server ran out of memory, disk or locks, and rolled back the transaction. `'not ready'`: the node refuses every statement
 * while it is not in its cluster, ROLLBACK too.
 */
export type Failure =
  'deadlock' | 'conflict' | 'lock timeout' | 'cancelled' | 'resources' | 'read-only' | 'not ready' | 'lost'

/** Why a column cannot hold a new value. */
export type Misfit = 'outside the character set' | 'out of range' | 'too long' | 'of another type'

/** A new value that its column cannot hold, by the name of the column or by the number of its bind, if the error has one. */
export interface RefusedValue {
  readonly misfit: Misfit
  readonly column?: string | undefined
  readonly bind?: number | undefined
}

/** The SQL of a locking read with a limited wait. */
interface LockWait {
  /** SQL after SELECT. */
  readonly hint?: string
  /** SQL at the end. */
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

/** The quoted parts of an INSERT of one row. */
interface InsertParts {
  readonly table: string
  readonly columns: readonly string[]
  readonly values: readonly string[]
  /** The columns of the key, which are also in `columns`. */
  readonly key: readonly string[]
  /** SQL: whether a stored row has the key of the new one. Called once if needed: it adds binds. */
  readonly isKey: () => string
  /** Pass over a duplicate of every unique key, if the statement cannot compare the key of the row that is there. */
  readonly ofEveryKey: boolean
}

/** A column of an index, in the order of the columns of each index. */
export interface IndexColumn {
  readonly name: string
  /** NULL for an expression. */
  readonly column: string | null
  /** The index is unique by whole values of all rows, as soon as a row is inserted. */
  readonly isUnique: boolean
  /** The index is unique at the end of a transaction. */
  readonly isDeferrable: boolean
}

/** How a database inserts a row unless a row with its key is there. */
interface InsertIfAbsent {
  readonly sql: (parts: InsertParts) => string
  /** Whether the result says that the row was inserted; absent if the database has RETURNING. */
  readonly isInserted?: (result: unknown) => boolean
  /**
   * Whether the error says that a row has another unique key of the new one; absent if the driver's error names the key.
   */
  readonly isOtherKey?: (error: DriverError) => boolean
  /** Whether the error says that the key is not unique. */
  readonly isNoKey?: (error: DriverError) => boolean
  /**
   * A statement that finds no row locks the gap of its key until its transaction ends: two such transactions, which then
   * insert into the gap, wait for each other.
   */
  readonly locksGaps?: true
  /** An auto-increment column stores 0 as its next number. */
  readonly countsZero?: true
  /** Lists the columns of the indexes of a table, where the INSERT does not fail if its key is not unique. */
  readonly listIndexes?: Listing<IndexColumn>
}

/** What a database tells about one table, row by row. */
interface Listing<T> {
  /** @param table `quoted` is its name in SQL, with its schema */
  readonly sql: (
    table: { readonly quoted: string; readonly name: string; readonly schema: string | undefined },
    bind: Bind,
  ) => string
  readonly read: (row: Readonly<Record<string, unknown>>) => T
}

/** The character set of a column, in databases where each column has one. */
export interface CharacterSet {
  /** SQL: its name. */
  readonly of: (column: Column) => string
  /** Those that can represent every text. */
  readonly complete: readonly string[]
  /** The one that a column of the type JSON reports; absent if that type is one of text. */
  readonly ofJson?: string
}

/** Why a database cannot store a text, and what to do. */
export type Refusal = readonly [reason: string, remedy: string]

/** The SQL, the limits and the errors of a database. Pure; no I/O. */
export interface Dialect {
  /** Its name in error texts. */
  readonly name: string
  /** Why the server's version cannot run a JSON write, and what to do; absent if it can. */
  readonly refusesJson?: readonly [what: string, remedy: string]
  /** Sent in order until one matches. At most one matches a document; together they match every writable document. */
  readonly variants: readonly UpdateVariant[]
  /** SQL: whether the document in a column equals a bound text, in any order of keys; NULL equals JSON null. */
  readonly holds: (column: Column, text: string) => string
  /** SQL: a bound text as a new document. */
  readonly document: (text: string) => string
  /** SQL: the document as text, which no driver parses or rounds. */
  readonly documentText: (column: Column) => string
  /** Absent if every column can represent every text. */
  readonly characterSet?: CharacterSet
  /** For a database that stores JSON as text: rewrites text for its JSON functions, and compares a column with text. */
  readonly normalizeStoredText?: {
    readonly text: (json: string) => string
    readonly isText: (column: Column, text: string) => string
    /** Matches an escape that its JSON functions misread, however it is spelled. */
    readonly misreadEscape: RegExp
  }
  /**
   * For a database that stores JSON as text, and compares the doubles of some numbers: the operations that match no document
   * in which such a comparison would decide. Their result is then computed from the stored text.
   */
  readonly comparesDoubles?: readonly Kind[]
  /**
   * Whether an UPDATE matched its row, or its number of `rows`; `undefined` if the driver cannot say. Absent if the database has
   * RETURNING.
   */
  readonly matched?: (header: unknown, rows?: number) => boolean | undefined
  /** What makes a statement skip the row that it names; for error texts. Absent if no statement can skip a row. */
  readonly skipsRows?: (statement: 'INSERT' | 'UPDATE' | 'DELETE') => string
  readonly insertIfAbsent: InsertIfAbsent
  /** The locking clause of a SELECT; empty if a transaction locks the whole database. */
  readonly lockClause: '' | 'FOR UPDATE' | 'FOR NO KEY UPDATE'
  /**
   * The locking clause of a SELECT that passes over the rows that another transaction has locked; empty as
   * {@link lockClause}.
   * @throws {UnsupportedDatabaseError} the server is older than the clause
   */
  readonly skipLocked: () => string
  /**
   * SQL after the name of the table that makes an UPDATE of many rows read them by the primary index. Without it, the
   * statement scans the table and locks every row. `isMissing`: the error says that the table has no such index.
   */
  readonly primaryIndex?: { readonly hint: string; readonly isMissing: (error: DriverError) => boolean }
  /** A locking read locks every row that it scans or sorts, not only those that it returns. */
  readonly locksScannedRows?: true
  /** For a database with a single writer: the key of its writer queue, a file or `'in memory'`. */
  readonly writerQueue?: (options: { readonly storage?: string; readonly host?: string }) => string
  /** Limits the wait of a locking read, in milliseconds; 0 does not wait. */
  readonly lockWait: (timeoutMs: number) => LockWait
  /** A query, or a hint, that finds the holder of a lock; for error texts. */
  readonly lockHolders: string
  readonly isolationLevels: readonly string[]
  /** The maximum depth of a document, including its root. */
  readonly maxDepth: number
  /** The maximum number of keys in a path, since each is a nested expression; that of {@link maxDepth} if absent. */
  readonly maxPath?: number
  /**
   * For a database that stores JSON as text, and scans it for each key of a change: the maximum number of keys, in paths
   * and patches, of a change that it computes. A document with a longer change is read under its lock and written as a
   * whole.
   */
  readonly maxComputedKeys?: number
  /**
   * For a database that looks for each key of an operand in the stored values that may equal it: whether the operand has too many
   * keys for this, or one that no path names. The document is then read under its lock.
   */
  readonly readsToCompare?: (operand: string) => boolean
  /**
   * The maximum number of `pull`s in a change that the database computes, since each takes memory and time for all items of
   * its list; a document with a longer change is read under its lock.
   */
  readonly maxPulls?: number
  /**
   * The variants change root arrays, and elements by their index; else a document with such a change is read under its lock and
   * written as a whole.
   */
  readonly writesElements?: true
  /**
   * The JSON functions round the numbers of a document that is stored as text; such a document is read under its lock and
   * written as a whole.
   */
  readonly roundsTexts?: true
  /** The range of integers stored exactly; absent if unlimited. */
  readonly integers?: readonly [least: bigint, greatest: bigint]
  /** The range of integers that can be added exactly; that of {@link integers} if absent. */
  readonly addends?: readonly [least: bigint, greatest: bigint]
  /** The maximum length of one statement; absent if unlimited. */
  readonly maxStatementBytes?: number
  /** Why this key cannot be stored, or `undefined`. */
  readonly refuseKey: (key: string) => Refusal | undefined
  /** Why this text, a string value or an inner key, cannot be stored, or `undefined`. */
  readonly refuseText: (text: string) => Refusal | undefined
  /** Why a statement failed; `undefined` if the server rejected the statement itself. */
  readonly classify: (error: DriverError, statement?: 'COMMIT') => Failure | undefined
  /** The number of the bind that the type of its column cannot represent; absent if the database has no such error. */
  readonly refusedBind?: (error: DriverError, binds: readonly unknown[]) => number | undefined
  /**
   * What in a stored document its JSON functions cannot read, or {@link notJson}; `undefined` if this is not the error.
   */
  readonly unreadable?: (error: DriverError) => string | undefined
  /** SQL: the stored number of an ordinary column, or 0, and a bound decimal text. Exact where the column is. */
  readonly sum: (column: string, by: string, kind: 'integer' | 'fraction') => string
  /** A DECIMAL column is stored by its digits, and added exactly; else as a double. */
  readonly hasDecimals?: true
  /** The session stores the nearest number or the start of a text that a column can hold, without an error. */
  readonly clampsValues?: boolean
  /** Lists the columns of a table that cannot hold every document, by name. With {@link clampsValues}. */
  readonly listShortColumns?: Listing<string>
  /** What the error says about a new value that its column cannot hold; `undefined` if this is not the error. */
  readonly refusedValue: (error: DriverError, binds: readonly unknown[]) => RefusedValue | undefined
  /** The type of JSON that a column has in the database, which the statement wrote text into; absent if it may. */
  readonly typeOfJson?: (error: DriverError) => string | undefined
  /** The failures after which the server has rolled back the whole transaction, including every savepoint. */
  readonly endsTransaction: readonly Failure[]
  /** Matches SQL that ends a transaction, such as COMMIT in a raw query or, on MySQL, DDL. */
  readonly endsTransactionBySql: (sql: string) => boolean
  /**
   * Whether a statement failed only because an earlier one had: after an error, every statement fails and COMMIT rolls back,
   * until a rollback to a savepoint. Absent if the database accepts further statements after an error.
   */
  readonly isAfterError?: (error: DriverError | undefined) => boolean
  /** Whether the connection is lost, and with it the transaction. */
  readonly isDisconnected?: (error: DriverError) => boolean
  /** Whether a COMMIT without an error rolled back the transaction. */
  readonly isRollback: (result: unknown) => boolean
}
