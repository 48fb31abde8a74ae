import { QueryTypes } from 'sequelize'
import type { Transaction } from 'sequelize'
import type { Dialect } from '../dialects/dialect.js'
import { OutsideTransactionError, RolledBackError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { LockedRows } from '../rows/locked-rows.js'
import { rowStateOf } from '../rows/row-state.js'
import { UndoLog } from '../rows/undo-log.js'
import {
  dropAfterCommitHooks,
  finishedState,
  isSameTransaction,
  markRolledBack,
  outermostOf,
  sequelizeOfTransaction,
} from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { override } from '../sequelize/override.js'
import { isRefusedByServer, noteFailure, statementRetry } from '../sequelize/send.js'
import { currentContext, currentScopes, runWith } from './async-context.js'
import type { Scope, SendingStatement } from './async-context.js'
import { WorkInProgress } from './work-in-progress.js'

/** Sequelize's `query`, as it is called inside Sequelize. */
export type Query = (sql: unknown, options?: QueryOptions) => Promise<unknown>

/** The options of Sequelize's `query`, as far as they matter here. */
export interface QueryOptions {
  readonly type?: string
  readonly transaction?: Transaction | null
  readonly model?: RowModel
  readonly instance?: object
  readonly fields?: readonly string[]
  readonly completesTransaction?: boolean
  readonly retry?: object
}

/** Everything that this library knows of one transaction of the server. */
export class TransactionState {
  readonly transaction: Transaction
  /** The database, from the moment that the transaction is watched. */
  dialect: Dialect | undefined
  #isOurs = false
  outcome: 'open' | 'committed' | 'rolled back' = 'open'
  /** The server rolled it back by itself, and the code that owns the transaction has not ended it since. */
  isAborted = false
  /** An error has made every further statement fail, and COMMIT roll back, as on PostgreSQL; up to the last savepoint. */
  isDoomed = false
  /** The first error of a statement; a callback may have caught it. */
  firstError: unknown
  /** Why COMMIT failed. Hidden from Sequelize, which would log it and discard the connection. */
  commitError: unknown
  readonly work: WorkInProgress = new WorkInProgress()
  readonly lockedRows: LockedRows = new LockedRows()
  readonly #undo = new UndoLog()

  constructor(transaction: Transaction) {
    this.transaction = transaction
  }

  /** Notes, at its start, that a method of this library opened the transaction, and restores its rows if it fails. */
  own(): void {
    this.#isOurs = true
    this.#undo.coverTransaction()
  }

  /** Sends a statement when those before it are done; none is sent once the transaction is over. */
  async send(query: Query, sql: unknown, options: QueryOptions, dialect: Dialect): Promise<unknown> {
    const text = textOf(sql)
    // Gives the connection back after the server has ended the transaction.
    if (this.isAborted && options.completesTransaction) return query(sql, options)
    refuseTransactionControl(text, options, dialect)
    // Sent by a hook of a statement that is being sent, or by Sequelize's own ROLLBACK after a deadlock: that statement
    // waits for it.
    const { sending } = currentContext()
    if (sending && !sending.isOver && sending.transaction === this.transaction) {
      return this.#sendNow(query, sql, text, options, dialect)
    }
    const { completesTransaction = false } = options
    return this.work.enqueue(text, this.scope(), !completesTransaction, async () => {
      if (!completesTransaction) this.refuseIfOver()
      const own: SendingStatement = { transaction: this.transaction, isOver: false }
      try {
        return await runWith({ sending: own }, () => this.#sendNow(query, sql, text, options, dialect))
      } finally {
        own.isOver = true
      }
    })
  }

  /** The innermost callback that has this transaction and that the present code is part of. */
  scope(): Scope | undefined {
    return currentScopes(sequelizeOfTransaction(this.transaction)).find((scope) =>
      isSameTransaction(scope.transaction, this.transaction),
    )
  }

  /**
   * @throws {RolledBackError} the transaction was rolled back
   * @throws {UsageError} it was committed
   * @throws {OutsideTransactionError} the callback that the present code is part of is over
   */
  refuseIfOver(method?: string): void {
    const scope = this.scope()
    const name = method ?? scope?.method ?? 'sequelize-lossless'
    if (scope?.method !== undefined && scope.isOver) throw lateCallError(scope.method, method ?? 'this statement')
    if (this.outcome === 'rolled back') throw new RolledBackError(name, this.firstError)
    if (this.outcome === 'committed') throw usage.transactionFinished(name, 'commit')
  }

  async #sendNow(query: Query, sql: unknown, text: string, given: QueryOptions, dialect: Dialect): Promise<unknown> {
    // Sequelize would send one statement again, after the server has ended the transaction that it was part of.
    const retry = statementRetry(sequelizeOfTransaction(this.transaction), true)
    const options = dialect.writerQueue ? given : { ...given, retry }
    if (!given.completesTransaction) {
      try {
        const result = await query(sql, options)
        if (text.startsWith('SAVEPOINT')) {
          this.#undo.addSavepoint(given.transaction!, savepointIn(text), this.lockedRows.all())
        }
        return result
      } catch (error) {
        await this.#recordFailure(error, dialect, given.transaction!)
        throw error
      }
    }
    if (/^COMMIT/i.test(text)) return this.#commit(query, sql, options, dialect)
    const isToSavepoint = text.startsWith('ROLLBACK TO')
    if (!isToSavepoint) this.#end('rolled back')
    const result = await query(sql, options)
    if (isToSavepoint) this.#undo.rollBackTo(savepointIn(text))
    this.isDoomed = false
    return result
  }

  async #commit(query: Query, sql: unknown, options: QueryOptions, dialect: Dialect): Promise<unknown> {
    try {
      // Only a RAW result has the word that the database answers with.
      const result = await query(sql, { ...options, type: QueryTypes.RAW })
      if (dialect.isRollback(result)) throw new RolledBackError('sequelize-lossless', this.firstError)
      this.#end('committed')
      // The `afterCommit` hooks, which run now, can write again.
      if (this.#isOurs) currentContext().writerSlot?.release()
      return result
    } catch (error) {
      this.#end('rolled back')
      this.firstError ??= error
      dropAfterCommitHooks(this.transaction)
      const failure = noteFailure(error, dialect)
      // SQLite is still in the transaction, and would keep its file locked.
      if (failure !== 'lost') {
        await query('ROLLBACK;', { ...options, type: QueryTypes.RAW }).catch(() => undefined)
        if (failure !== undefined && this.#isOurs) {
          this.commitError = error
          return undefined
        }
      }
      throw error
    }
  }

  /** Notes the error of a statement. If the server ended the transaction on it, no further statement may be sent. */
  async #recordFailure(error: unknown, dialect: Dialect, transaction: Transaction): Promise<void> {
    const failure = noteFailure(error, dialect)
    this.firstError ??= error
    if (dialect.abortsOnError && isRefusedByServer(error)) this.isDoomed = true
    if (!failure || !dialect.endsTransaction.includes(failure) || this.outcome !== 'open') return
    this.isAborted = true
    this.#end('rolled back')
    await this.#giveConnectionBack()
    markRolledBack(transaction)
  }

  /** Ends the transaction on Sequelize's side, and has its owner's later `rollback()` succeed and `commit()` say what happened. */
  async #giveConnectionBack(): Promise<void> {
    // Whether the server still had something to roll back does not matter.
    if (!finishedState(this.transaction)) await this.transaction.rollback().catch(() => undefined)
    override(this.transaction, 'rollback', () => () => {
      this.isAborted = false
      return Promise.resolve()
    })
    override(this.transaction, 'commit', () => () => {
      this.isAborted = false
      return Promise.reject(new RolledBackError('sequelize-lossless', this.firstError))
    })
  }

  #end(outcome: 'committed' | 'rolled back'): void {
    this.outcome = outcome
    this.lockedRows.clear()
    // What this library opened is restored when the attempt has ended: statements may still be in progress.
    if (outcome === 'committed' || !this.#isOurs) this.#undo.clear()
  }

  /** Remembers an instance that is about to be written, to restore it after a rollback. */
  remember(row: Row): void {
    if (this.outcome !== 'open') return
    rowStateOf(row).lastTransaction = this.transaction
    this.#undo.remember(row)
  }

  /** Restores every remembered instance to its state before the transaction. */
  restoreRows(): void {
    this.#undo.rollBack()
  }

  /** Adds an instance whose row is locked in this transaction. */
  addLockedRow(row: Row): void {
    if (this.outcome === 'open') this.lockedRows.add(row)
  }
}

const transactionStates = new WeakMap<Transaction, TransactionState>()

/** The one state of the server's transaction, of which `transaction` may be a savepoint. */
export function transactionStateOf(transaction: Transaction): TransactionState {
  const outermost = outermostOf(transaction)
  let state = transactionStates.get(outermost)
  if (!state) transactionStates.set(outermost, (state = new TransactionState(outermost)))
  return state
}

/** The state of a transaction that this library has met before. */
export function findTransactionState(transaction: Transaction | null | undefined): TransactionState | undefined {
  return transaction ? transactionStates.get(outermostOf(transaction)) : undefined
}

/** The error of code that runs on after its callback has returned or thrown. */
export function lateCallError(method: string, what: string): OutsideTransactionError {
  return new OutsideTransactionError(
    method,
    `${what} comes from a branch of the callback of ${method}() that is still at work after the callback has ended, so it was not sent`,
    'Await every branch in the callback: await Promise.allSettled([…]) before an error leaves it. To write after it on purpose, outside of the transaction, pass { transaction: null }.',
  )
}

/** The name of the savepoint in a statement of Sequelize's. */
function savepointIn(text: string): string {
  return /\bSAVEPOINT\s+["`]?([^"`;]+)/.exec(text)?.[1] ?? ''
}

function textOf(sql: unknown): string {
  return typeof sql === 'string' ? sql : String((sql as { query?: unknown } | null)?.query)
}

/** Strings and quoted names, which can hold a semicolon. */
const literals = /'(?:[^'\\]|\\.)*'|"[^"]*"|`[^`]*`|\$(\w*)\$[^]*?\$\1\$/g

/** @throws {UsageError} SQL that would end the transaction without the knowledge of Sequelize */
function refuseTransactionControl(text: string, { completesTransaction }: QueryOptions, dialect: Dialect): void {
  if (completesTransaction) return
  const statements = text.includes(';') ? text.replace(literals, "''").split(';') : [text]
  if (statements.some((each) => dialect.endsTransactionBySql.test(each))) throw usage.transactionControl(text)
}
