import { QueryTypes } from 'sequelize'
import type { Transaction } from 'sequelize'
import type { Dialect } from '../dialects/dialect.js'
import { OutsideTransactionError, RolledBackError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { RowRef } from '../rows/row-ref.js'
import { findRowState, rowStateOf } from '../rows/row-state.js'
import {
  dropAfterCommitHooks,
  finishedState,
  isSameTransaction,
  markRolledBack,
  modelOf,
  outermostOf,
  savepointNamed,
  sequelizeOfTransaction,
} from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { override } from '../sequelize/override.js'
import { isRefusedByServer, noteFailure, statementRetry } from '../sequelize/send.js'
import { currentContext, currentScopes, runWith } from './async-context.js'
import type { Scope, SendingStatement } from './async-context.js'

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

/** A statement, or a call of a row's method, that is in progress in a transaction. */
interface Work {
  readonly description: string
  readonly scope: Scope | undefined
  readonly settled: Promise<unknown>
}

/** The rows as they were at a savepoint, or at the start of the transaction. */
interface UndoLevel {
  /** The savepoint, and its name on the server; `undefined` for the transaction itself. */
  readonly savepoint: { readonly name: string; readonly transaction: Transaction | undefined } | undefined
  readonly restores: Map<Row, () => void>
}

/** Everything that this library knows of one transaction of the server. */
export class TransactionState {
  readonly transaction: Transaction
  /** The database, from the moment that the transaction is watched. */
  dialect: Dialect | undefined
  /** A method of this library opened it. */
  isOurs = false
  outcome: 'open' | 'committed' | 'rolled back' = 'open'
  /** The server rolled it back by itself, and the code that owns the transaction has not ended it since. */
  isAborted = false
  /** An error has made every further statement fail, and COMMIT roll back, as on PostgreSQL; up to the last savepoint. */
  isDoomed = false
  /** The first error of a statement; a callback may have caught it. */
  firstError: unknown
  /** Why COMMIT failed. Hidden from Sequelize, which would log it and discard the connection. */
  commitError: unknown
  readonly #work = new Set<Work>()
  #lastStatement: Promise<void> | undefined
  readonly #undo: UndoLevel[] = [{ savepoint: undefined, restores: new Map() }]
  readonly #rows = new Map<string, Set<Row>>()

  constructor(transaction: Transaction) {
    this.transaction = transaction
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
    const before = this.#lastStatement
    let done!: () => void
    const settled = new Promise<void>((resolve) => (done = resolve))
    this.#lastStatement = settled
    const work = { description: text, scope: this.#scope(), settled }
    if (!options.completesTransaction) this.#work.add(work)
    const own: SendingStatement = { transaction: this.transaction, isOver: false }
    try {
      await before
      if (!options.completesTransaction) this.refuseIfOver()
      return await runWith({ sending: own }, () => this.#sendNow(query, sql, text, options, dialect))
    } finally {
      own.isOver = true
      this.#work.delete(work)
      if (this.#lastStatement === settled) this.#lastStatement = undefined
      done()
    }
  }

  /** The innermost callback that has this transaction and that the present code is part of. */
  #scope(): Scope | undefined {
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
    const scope = this.#scope()
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
        if (text.startsWith('SAVEPOINT')) this.#addSavepoint(given.transaction!, savepointIn(text))
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
    if (isToSavepoint) this.#rollBackTo(savepointIn(text))
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
      if (this.isOurs) currentContext().writerSlot?.release()
      return result
    } catch (error) {
      this.#end('rolled back')
      this.firstError ??= error
      dropAfterCommitHooks(this.transaction)
      const failure = noteFailure(error, dialect)
      // SQLite is still in the transaction, and would keep its file locked.
      if (failure !== 'lost') {
        await query('ROLLBACK;', { ...options, type: QueryTypes.RAW }).catch(() => undefined)
        if (failure !== undefined && this.isOurs) {
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
    this.#rows.clear()
    if (outcome === 'committed' || !this.isOurs) this.#undo.length = 0
  }

  /** Counts a call of a row's method among the work of this transaction, until it is settled. */
  async trackCall<R>(description: string, call: () => Promise<R>): Promise<R> {
    let done!: () => void
    const settled = new Promise<void>((resolve) => (done = resolve))
    const work = { description, scope: this.#scope(), settled }
    this.#work.add(work)
    try {
      return await call()
    } finally {
      this.#work.delete(work)
      done()
    }
  }

  /** Resolves once no statement is being sent or waits. */
  async whenIdle(): Promise<void> {
    while (this.#lastStatement) await this.#lastStatement
  }

  /** The statements and calls in progress that were made inside the callback `scope`; all of them, if no method is joined. */
  workOf(scope: Scope, isJoined: boolean): readonly Pick<Work, 'description' | 'settled'>[] {
    return [...this.#work].filter((work) => !isJoined || isInside(work.scope, scope))
  }

  /** Remembers an instance as it is before its first write since the last savepoint, to restore it after a rollback. */
  remember(row: Row): void {
    if (this.outcome !== 'open') return
    rowStateOf(row).lastTransaction = this.transaction
    this.#mergeReleasedSavepoints()
    const level = this.#undo.at(-1)!
    // A transaction that the caller opened is never restored as a whole.
    if (!this.isOurs && !level.savepoint) return
    if (!level.restores.has(row)) level.restores.set(row, rowStateOf(row).snapshot())
  }

  /** Restores every remembered instance to its state before the transaction. */
  restoreRows(): void {
    for (const { restores } of this.#undo.reverse()) for (const restore of restores.values()) restore()
    this.#undo.length = 0
  }

  #addSavepoint(parent: Transaction, name: string): void {
    this.#mergeReleasedSavepoints()
    const restores = new Map<Row, () => void>()
    // A change in place that follows is not seen before it is written: locked rows are restored to what they are now.
    for (const rows of this.#rows.values()) for (const row of rows) restores.set(row, rowStateOf(row).snapshot())
    this.#undo.push({ savepoint: { name, transaction: savepointNamed(parent, name) }, restores })
  }

  /** A savepoint that was released leaves its rows to the level around it, where an earlier state counts. */
  #mergeReleasedSavepoints(): void {
    for (let level = this.#undo.at(-1); level?.savepoint; level = this.#undo.at(-1)) {
      const { transaction } = level.savepoint
      if (!transaction || finishedState(transaction) !== 'commit') return
      this.#undo.pop()
      const around = this.#undo.at(-1)!
      if (!this.isOurs && !around.savepoint) continue
      for (const [row, restore] of level.restores) if (!around.restores.has(row)) around.restores.set(row, restore)
    }
  }

  #rollBackTo(name: string): void {
    const index = this.#undo.findLastIndex(({ savepoint }) => savepoint?.name === name)
    if (index < 0) return
    for (const { restores } of this.#undo.splice(index).reverse()) for (const restore of restores.values()) restore()
  }

  /** Adds an instance whose row is locked in this transaction. */
  addLockedRow(row: Row): void {
    if (this.outcome !== 'open') return
    const { key } = RowRef.of(row)
    const rows = this.#rows.get(key)
    if (rows) rows.add(row)
    else this.#rows.set(key, new Set([row]))
  }

  /** Whether an instance that is not `row` is locked in this transaction. */
  hasLockedBeside(row: Row): boolean {
    if (this.#rows.size !== 1) return this.#rows.size > 1
    const [instances] = this.#rows.values()
    return instances!.size > 1 || !instances!.has(row)
  }

  /** The other instances of a row that are locked in this transaction. */
  lockedInstances(key: string, except?: Row): readonly Row[] {
    return [...(this.#rows.get(key) ?? [])].filter((row) => row !== except)
  }

  /** The locked instances of the rows of a model's table: a scope of a model is another class for the same table. */
  lockedInstancesOf(model: RowModel): readonly Row[] {
    const table = JSON.stringify(model.getTableName())
    const all = [...this.#rows.values()].flatMap((rows) => [...rows])
    return all.filter((row) => JSON.stringify(modelOf(row).getTableName()) === table)
  }

  /** Whether some instance of the row was read or written under a lock of this transaction, and is current in `column`. */
  isRowLocked(key: string, column: string): boolean {
    return this.lockedInstances(key).some((row) => findRowState(row)?.isLockedSince(column, this.transaction))
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

/** Whether `scope` is the callback `around`, or inside it. */
function isInside(scope: Scope | undefined, around: Scope): boolean {
  for (let each = scope; each; each = each.outer) if (each === around) return true
  return false
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

/** @throws {UsageError} raw SQL that would end the transaction without the knowledge of Sequelize */
function refuseTransactionControl(text: string, { type, completesTransaction }: QueryOptions, dialect: Dialect): void {
  if (completesTransaction || (type !== undefined && type !== (QueryTypes.RAW as string))) return
  if (dialect.endsTransactionBySql.test(text)) throw usage.transactionControl('sequelize.query', text)
}
