import type { Sequelize, Transaction } from 'sequelize'
import { connectorOf } from '../dialects/connector.js'
import type { Connector } from '../dialects/connector.js'
import type { Dialect } from '../dialects/dialect.js'
import type { Operation } from '../json/operation.js'
import { sequelizeOf } from './internals.js'
import type { RowModel } from './internals.js'
import type { LosslessOptions } from './options.js'

/** A call that waits for a batch, and the functions that settle its promise. */
export interface PendingCall {
  readonly operations: readonly Operation[]
  /** Only calls with the same key go into one batch; a call without a key is sent alone. */
  readonly batchKey: string | undefined
  readonly resolve: (result: unknown) => void
  readonly reject: (error: unknown) => void
}

/** The calls for one row and column, while a statement for them is in flight. */
export class BatchQueue<C extends PendingCall = PendingCall> {
  readonly calls: C[]
  #text: string | undefined

  constructor(calls: C[]) {
    this.calls = calls
  }

  /** Whether the text that the last batch wrote is known: the database did not compute it. */
  get knowsText(): boolean {
    return this.#text !== undefined
  }

  /** The text that the last batch wrote. Another session may have changed it since. */
  takeText(): string | undefined {
    const text = this.#text
    this.#text = undefined
    return text
  }

  keepText(text: string): void {
    this.#text = text
  }
}

/** A write of one column, as the guard judged it. */
export interface JudgedWrite {
  readonly method: string
  readonly model: string
  readonly column: string
  readonly primaryKey: Readonly<Record<string, unknown>>
  /** Why it is unprotected, or not known to be protected; `undefined`: it is covered. */
  readonly reason: string | undefined
  /** The recommended code. */
  readonly instead: string
}

/** The writes of one statement. */
export interface JudgedStatement {
  readonly writes: readonly JudgedWrite[]
  /** The call says that it writes whole columns on purpose. */
  readonly isAllowed: boolean
  readonly site: Error | undefined
  /** The text of a statement that the application has written. */
  readonly sql?: string
}

/** A running audit. */
export interface WriteRecorder {
  /** The attributes to look at besides JSON columns, by the name of the model. */
  readonly columns: Readonly<Record<string, readonly string[]>>
  record(statement: JudgedStatement): void
}

/** The state that this library keeps for one Sequelize instance. */
export class Session {
  readonly sequelize: Sequelize
  /** The facts about the driver, which need no query. */
  readonly connector: Connector
  /** What `lossless(sequelize, options)` set for all its models. */
  options: LosslessOptions | undefined
  /** The detected database; `undefined` before the first probe. */
  dialect: Dialect | undefined
  /** The probe of the server that is in flight. */
  recognition: Promise<Dialect> | undefined
  /** `query`, `transaction` and `log` of the instance, and the methods of its rows, are overridden. */
  isWatched = false
  /** Its query interface is overridden by the guard. */
  isGuarded = false
  /** Its `query` is overridden for audits. */
  isAudited = false
  /** The audit in progress. */
  audit: WriteRecorder | undefined
  /** The row methods are attached to models that are defined later, too. */
  attachesMethods = false
  /** Models that are defined later will be guarded. */
  isGuardingModels = false
  /** Caches: the SQL of the names of tables, columns and aliases. */
  readonly quotedTables: Map<string, string> = new Map()
  readonly quotedNames: Map<string, string> = new Map()
  readonly quotedAliases: Map<string, string> = new Map()
  /** Calls that wait for a batch, by table (its key: the attributes object of the model), then by row and column. */
  readonly batchQueues: Map<object, Map<string, BatchQueue>> = new Map()
  /** Calls that may be batched, and calls of `atomicUpsert`, that have not settled; `flush()` waits for them. */
  readonly unsettledCalls: Set<Promise<unknown>> = new Set()
  /**
   * The columns, with their tables, that can hold every document. A session without strict `sql_mode` has read their
   * types.
   */
  readonly longColumns: Set<string> = new Set()
  /** Call sites of whole-column writes, and of reads outside a transaction, that were reported. */
  readonly reportedCallSites: Set<string> = new Set()
  /** Savepoints that were opened with a callback. */
  readonly savepointsWithCallback: WeakSet<Transaction> = new WeakSet()

  constructor(sequelize: Sequelize) {
    this.sequelize = sequelize
    this.connector = connectorOf(sequelize.getDialect())
  }
}

const sessions = new WeakMap<Sequelize, Session>()

/**
 * The one session of a Sequelize instance.
 * @throws {UnsupportedDatabaseError} its dialect is not supported
 */
export function sessionOf(sequelize: Sequelize): Session {
  let session = sessions.get(sequelize)
  if (!session) sessions.set(sequelize, (session = new Session(sequelize)))
  return session
}

/** The session of the Sequelize instance of a model. */
export function sessionOfModel(model: RowModel): Session {
  return sessionOf(sequelizeOf(model))
}
