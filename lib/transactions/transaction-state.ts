import { QueryTypes } from 'sequelize'
import type { Logging, Sequelize, Transaction } from 'sequelize'
import type { Dialect, DriverError } from '../dialects/dialect.js'
import { OutsideTransactionError, RolledBackError, UsageError } from '../errors/errors.js'
import type { RollbackFacts } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { LockedRows } from '../rows/locked-rows.js'
import { RowRef } from '../rows/row-ref.js'
import { rowStateOf } from '../rows/row-state.js'
import { UndoLog } from '../rows/undo-log.js'
import {
  dropAfterCommitHooks,
  finishedState,
  idOf,
  nameOf,
  markRolledBack,
  nesting,
  outermostOf,
  renameSavepoint,
  savepointNamed,
  savepointsOf,
  sequelizeOfTransaction,
} from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { patchedColumns } from '../sequelize/options.js'
import { override, overrideAsync } from '../sequelize/override.js'
import { isRefusedByServer, noteFailure } from '../sequelize/send.js'
import { sessionOf } from '../sequelize/session.js'
import { currentContext, runWith } from './async-context.js'
import type { AsyncContext, Scope, SendingStatement, Turn } from './async-context.js'
import { SerialQueue, Turns, waitForTurn, WorkInProgress } from './work-in-progress.js'
import type { Work } from './work-in-progress.js'

/** Sequelize's `query`, as it is called inside Sequelize. */
export type Query = (sql: unknown, options?: QueryOptions) => Promise<unknown>

/** The options of Sequelize's `query` that this library reads or changes. */
export interface QueryOptions extends Logging {
  readonly type?: string
  readonly transaction?: Transaction | null
  readonly model?: RowModel
  readonly instance?: object
  readonly fields?: readonly string[]
  /** Only of increment() and decrement(): which of both. */
  readonly increment?: boolean
  readonly where?: object
  readonly lock?: unknown
  readonly updateOnDuplicate?: readonly string[]
  readonly returning?: unknown
  readonly completesTransaction?: boolean
  readonly retry?: { readonly max?: number }
  readonly [patchedColumns]?: readonly string[]
}

/** The state that this library keeps for one transaction of the server. */
export class TransactionState {
  readonly transaction: Transaction
  readonly #sequelize: Sequelize
  /** The database; set when the transaction is first watched. */
  dialect: Dialect | undefined
  #isOurs = false
  outcome: 'open' | 'committed' | 'rolled back' = 'open'
  /** The server rolled it back on its own, and its owner has not ended it since. */
  isAborted = false
  /** The error of a statement that ended the transaction, or doomed it; the callback may have caught it. */
  #fatal: (RollbackFacts & { readonly effect: 'ended' | 'doomed' }) | undefined
  /** Why COMMIT failed. Hidden from Sequelize, which would log it and discard the connection. */
  commitError: unknown
  readonly queue: SerialQueue = new SerialQueue()
  /** Statements and calls of row methods. */
  readonly work: WorkInProgress = new WorkInProgress()
  readonly savepoints: WorkInProgress = new WorkInProgress()
  readonly lockedRows: LockedRows = new LockedRows()
  readonly #undo = new UndoLog()
  readonly #turns = new Turns()
  #nestedSavepoints = 0
  /** The savepoints that the server knows, with their names there. */
  readonly #setSavepoints = new WeakMap<Transaction, string>()

  /** The last callback in a transaction or savepoint that must not commit it. */
  readonly #commitRefusedBy = new WeakMap<Transaction, Scope>()

  constructor(transaction: Transaction) {
    this.transaction = transaction
    this.#sequelize = sequelizeOfTransaction(transaction)
  }

  /** From now on, its statements come through {@link send}. */
  watch(dialect: Dialect): void {
    this.dialect = dialect
    const { savepointsWithCallback } = sessionOf(this.#sequelize)
    for (const savepoint of savepointsOf(this.transaction)) {
      this.#setSavepoints.set(savepoint, nameOf(savepoint))
      if (finishedState(savepoint)) continue
      this.#undo.addSavepoint(savepoint, nameOf(savepoint))
      if (savepointsWithCallback.has(savepoint)) this.startSavepoint(savepoint)
    }
  }

  /** Notes, at its start, that a method of this library opened the transaction, and restores its rows if it fails. */
  own(): void {
    this.#isOurs = true
    this.#undo.coverTransaction()
  }

  /** Sends a statement after all earlier statements have settled; sends none after the transaction has ended. */
  send(query: Query, sql: unknown, options: QueryOptions): Promise<unknown> {
    const dialect = this.dialect!
    const text = textOf(sql)
    // Sequelize gives a savepoint the name of one that begins or is rolled back inside it: its own rollback would miss it.
    const name = this.#setSavepoints.get(options.transaction!)
    if (name !== undefined) renameSavepoint(options.transaction!, name)
    const send = (): Promise<unknown> => this.#sendNow(query, sql, text, options)
    const context = currentContext()
    // Sent by a hook of a statement that is in flight, which waits for it.
    const isInStatement = this.#isInStatement(context)
    if (!options.completesTransaction) {
      refuseTransactionControl(text, dialect)
      if (isInStatement) return send()
      const sendUnlessOver = (): Promise<unknown> => {
        this.refuseIfOver(undefined, context)
        return send()
      }
      return this.#sendInTurn(context, sendUnlessOver, this.#startWork(text, context))
    }
    const isOfSavepoint = savepointSql.test(text)
    // A savepoint is gone with its transaction, and the connection may have been given to another one.
    if (this.isAborted) return isOfSavepoint ? nothing : giveBack(() => query(sql, options), dialect)
    // Sequelize's own rollback after a deadlock, when the server has no savepoint any more.
    if (isInStatement) return isOfSavepoint && dialect.endsTransaction.includes('deadlock') ? nothing : send()
    // Statements that wait are refused: they would be undone.
    if (/^ROLLBACK/i.test(text) && !isOfSavepoint) this.#end('rolled back')
    return this.#sendInTurn(context, send)
  }

  #isInStatement({ sending }: AsyncContext): boolean {
    return sending !== undefined && !sending.isOver && sending.transaction === this.transaction
  }

  /** Runs a call with several statements; no other branch of the callback sends a statement between them. */
  runAlone<R>(call: () => Promise<R>): Promise<R> {
    const context = currentContext()
    if (this.#isInStatement(context)) return call()
    return this.#sendInTurn(context, async () => {
      this.refuseIfOver(undefined, context)
      return call()
    })
  }

  /** Sends a statement while no other statement of the transaction is in flight, but for those of its hooks. */
  async #sendInTurn<R>(context: AsyncContext, send: () => Promise<R>, work?: Work): Promise<R> {
    const turn = this.queue.enter()
    const sending: SendingStatement = { transaction: this.transaction, isOver: false }
    try {
      if (turn) await turn
      return await runWith({ sending }, send, context)
    } finally {
      sending.isOver = true
      this.queue.leave()
      work?.end()
    }
  }

  /**
   * Runs a call that writes an instance and sends statements. Calls for one row run one at a time: a save that is called
   * beside a JSON method contains the change of that method.
   * @param key the loose key of the row; `undefined` for a row that is not stored
   */
  async runCall<R>(key: string | undefined, description: string, call: () => Promise<R>): Promise<R> {
    const context = currentContext()
    const work = this.#startWork(description, context)
    const isTurnless = key === undefined || this.#isInTurn(context, 'call', key)
    const turn = isTurnless ? undefined : this.#turn(context, 'call', key)
    const before = turn && this.#turns.enter(turn)
    try {
      // Of two calls whose hooks wait for each other, one does not wait. Their statements go out one at a time all the same.
      if (before && before !== 'deadlock') await waitForTurn(before, description)
      return await (turn ? runWith({ turn }, call, context) : call())
    } finally {
      if (turn) this.#endTurn(turn, before)
      work.end()
    }
  }

  /** {@link runCall} for a call that may write rows of which the transaction has instances: in turn with the calls for each. */
  runBulkCall<R>(rows: readonly Row[], description: string, call: () => Promise<R>): Promise<R> {
    const keys = [...new Set(rows.map((row) => RowRef.of(row).looseKey))].sort()
    const [first, ...others] = keys
    const inTurn = others.reduceRight<() => Promise<R>>((next, key) => () => this.runCall(key, description, next), call)
    return this.runCall(first, description, inTurn)
  }

  #turn({ turn: outer }: AsyncContext, kind: Turn['kind'], key: string): Turn {
    return { kind, transaction: this.transaction, key, outer, isOver: false }
  }

  #endTurn(turn: Turn, before: ReturnType<Turns['enter']>): void {
    turn.isOver = true
    if (before !== 'deadlock') this.#turns.leave(turn)
  }

  /**
   * Runs calls with a callback that uses rows, in the order of calls for each row: each reads what the callbacks before it wrote.
   * @param keys the loose keys of the rows, in the order of all calls
   */
  runCallbacks<R>(method: string, keys: readonly string[], call: () => Promise<R>): Promise<R> {
    return keys.reduceRight<() => Promise<R>>((next, key) => () => this.#runCallback(method, key, next), call)()
  }

  async #runCallback<R>(method: string, key: string, call: () => Promise<R>): Promise<R> {
    const context = currentContext()
    if (this.#isInTurn(context, 'callback', key)) return call()
    const turn = this.#turn(context, 'callback', key)
    const before = this.#turns.enter(turn)
    if (before === 'deadlock') throw usage.lockEachOther(method)
    const work = before && this.#startWork(`${method}()`, context)
    try {
      if (before) await before
      work?.end()
      return await runWith({ turn }, call, context)
    } finally {
      this.#endTurn(turn, before)
    }
  }

  /** Whether the current code is part of a call of a kind, for a row if given, such as a hook of `save()`. */
  #isInTurn({ turn: innermost }: AsyncContext, kind: Turn['kind'], key?: string): boolean {
    for (let turn = innermost; turn; turn = turn.outer) {
      const isOfKind = turn.kind === kind && !turn.isOver && turn.transaction === this.transaction
      if (isOfKind && (key === undefined || turn.key === key)) return true
    }
    return false
  }

  /** Runs a savepoint with its callback, which the callback around it must await. */
  async runSavepoint<R>(run: () => Promise<R>): Promise<R> {
    const context = currentContext()
    const isPart = this.#isInTurn(context, 'call')
    const work = this.savepoints.start('sequelize.transaction({ transaction }, …)', this.#scopeIn(context), isPart)
    try {
      return await run()
    } finally {
      work.end()
    }
  }

  /** Refuses a commit of the transaction, or of a savepoint in it, while a callback runs. */
  refuseCommit(transaction: Transaction, callback: Scope): void {
    const isFirst = !this.#commitRefusedBy.has(transaction)
    this.#commitRefusedBy.set(transaction, callback)
    if (!isFirst) return
    overrideAsync(transaction, 'commit', (original) => {
      return (...args) => {
        const { method, isOver } = this.#commitRefusedBy.get(transaction)!
        if (!isOver) throw usage.commitInside(method!)
        return original.apply(transaction, args)
      }
    })
  }

  /** Notes that the callback of a savepoint starts. */
  startSavepoint(savepoint: Transaction): void {
    const context = currentContext()
    const isBeside = (row: Row): boolean => {
      const { looseKey } = RowRef.of(row)
      return this.#turns.isTaken('callback', looseKey) && !this.#isInTurn(context, 'callback', looseKey)
    }
    this.#undo.startCallback(savepoint, this.lockedRows.all(), isBeside)
  }

  #startWork(description: string, context: AsyncContext): Work {
    return this.work.start(description, this.#scopeIn(context), this.#isInTurn(context, 'call'))
  }

  /** Whether the current code is part of a savepoint: it passes it, or runs in its callback. */
  #isInside(transaction: Transaction): (savepoint: Transaction) => boolean {
    return (savepoint) => {
      if (nesting(transaction).includes(savepoint)) return true
      return this.#findScope(currentContext(), (scope) => nesting(scope.transaction).includes(savepoint)) !== undefined
    }
  }

  /** The innermost callback of this transaction. */
  #scopeIn(context: AsyncContext): Scope | undefined {
    return this.#findScope(context, () => true)
  }

  /** The innermost callback of this transaction that meets a condition. */
  #findScope({ scope: innermost }: AsyncContext, isMet: (scope: Scope) => boolean): Scope | undefined {
    for (let scope = innermost; scope; scope = scope.outer) {
      if (scope.outermost === this.transaction && isMet(scope)) return scope
    }
    return undefined
  }

  /**
   * @throws {RolledBackError} the transaction was rolled back
   * @throws {UsageError} it was committed
   * @throws {OutsideTransactionError} a callback around the current code has ended
   */
  refuseIfOver(method?: string, context: AsyncContext = currentContext()): void {
    const late = this.#findScope(context, (scope) => scope.isOver && scope.method !== undefined)
    if (late) throw lateCallError(late.method!, method ?? 'this statement')
    if (this.outcome === 'open') return
    const name = method ?? this.#findScope(context, (scope) => scope.method !== undefined)?.method
    if (this.outcome === 'rolled back') throw this.rolledBackError(name ?? 'sequelize.transaction')
    throw usage.transactionFinished(name ?? 'sequelize.transaction', 'commit')
  }

  /**
   * Every statement fails, and so does COMMIT: the connection is lost; or there was an error (PostgreSQL), until a rollback to a
   * savepoint.
   */
  get isDoomed(): boolean {
    return this.#fatal?.effect === 'doomed'
  }

  /**
   * The error of a call that finds the transaction rolled back.
   * @param isJoined the call has joined the transaction, which may be open
   */
  rolledBackError(method: string, isJoined = false): Error {
    const { cause, effect } = this.#fatal ?? {}
    return cause instanceof UsageError ? cause : new RolledBackError(method, effect, { ...this.#fatal, isJoined })
  }

  /** The error of a call or a statement that comes after the one that doomed the transaction. */
  notSentError(method: string): RolledBackError {
    return new RolledBackError(method, 'not sent', this.#fatal)
  }

  #sendNow(query: Query, sql: unknown, text: string, given: QueryOptions): Promise<unknown> {
    // Otherwise Sequelize could resend a statement after the server has ended its transaction.
    const isSentOnce = this.dialect!.writerQueue !== undefined || given.retry?.max === 1
    const options = isSentOnce ? given : { ...given, retry: { max: 1 } }
    const savepoint = savepointSql.exec(text)
    const isRollback = given.completesTransaction || (savepoint && !isSet(savepoint[1]!))
    if (this.isDoomed && !isRollback) throw this.notSentError(this.#methodAround())
    if (savepoint) return this.#sendForSavepoint(query, savepoint, text, options)
    if (!given.completesTransaction) return this.#sendStatement(query, sql, options)
    return /^COMMIT/i.test(text) ? this.#commit(query, sql, options) : query(sql, options)
  }

  #methodAround(): string {
    return this.#scopeIn(currentContext())?.method ?? 'sequelize.transaction'
  }

  async #sendStatement(query: Query, sql: unknown, options: QueryOptions): Promise<unknown> {
    try {
      const result = await query(sql, options)
      if (!isRead(sql, options)) this.#undo.noteWrite(this.#isInside(options.transaction!))
      return result
    } catch (error) {
      await this.#recordFailure(error, options.transaction!)
      // An earlier error, of a statement that was sent before this library watched the transaction.
      throw this.dialect!.isAfterError?.((error as { parent?: DriverError }).parent)
        ? new RolledBackError(this.#methodAround(), 'refused', { cause: error })
        : error
    }
  }

  async #sendForSavepoint(
    query: Query,
    [, command, name]: RegExpExecArray,
    text: string,
    options: QueryOptions,
  ): Promise<unknown> {
    const parent = options.transaction!
    const savepoint = savepointNamed(parent, name!)
    if (!isSet(command!)) {
      // The transaction is over, and its connection may be in use by another one; or the savepoint was never set.
      const isGone = this.outcome !== 'open' || (savepoint && !this.#setSavepoints.has(savepoint))
      if (options.completesTransaction && isGone) return undefined
      if (options.completesTransaction && this.#undo.isMixed(name!)) {
        return this.#abort(usage.savepointsMixed(this.#methodAround()), parent)
      }
      const result = await this.#sendStatement(query, text, options)
      this.#undo.rollBackTo(name!)
      this.#markReadInside()
      this.#fatal = undefined
      return result
    }
    let ownName = name!
    if (savepoint && parent !== this.transaction) {
      // Sequelize gives it the name of the outer savepoint: a rollback to that name would reach only the inner one.
      ownName = `${idOf(this.transaction)}-nested-${++this.#nestedSavepoints}`
      renameSavepoint(savepoint, ownName)
    }
    const result = await this.#sendStatement(query, text.replace(name!, ownName), options)
    if (savepoint) this.#setSavepoints.set(savepoint, ownName)
    this.#undo.addSavepoint(savepoint, ownName)
    return result
  }

  async #commit(query: Query, sql: unknown, options: QueryOptions): Promise<unknown> {
    const dialect = this.dialect!
    try {
      // Only a RAW result has the command tag.
      const result = await query(sql, { ...options, type: QueryTypes.RAW })
      if (dialect.isRollback(result)) throw new RolledBackError('sequelize.transaction', 'doomed', this.#fatal)
      this.#end('committed')
      // The `afterCommit` hooks run next, and may write.
      if (this.#isOurs) currentContext().writerSlot?.release()
      return result
    } catch (error) {
      this.#end('rolled back')
      this.#fatal = { cause: error, effect: 'ended' }
      dropAfterCommitHooks(this.transaction)
      const failure = noteFailure(error, dialect, 'COMMIT')
      // After a failed COMMIT, SQLite is still in the transaction and keeps its file locked.
      if (failure !== 'lost') {
        const isRolledBack = await query('ROLLBACK;', { ...options, type: QueryTypes.RAW }).then(
          () => true,
          () => false,
        )
        // Otherwise Sequelize has to close the connection: its next transaction would commit this one.
        if (isRolledBack && failure !== undefined && this.#isOurs) {
          this.commitError = error
          return undefined
        }
      }
      throw error
    }
  }

  /** Records the error of a statement. If the server ended the transaction, all further statements are refused. */
  async #recordFailure(error: unknown, transaction: Transaction): Promise<void> {
    const dialect = this.dialect!
    const failure = noteFailure(error, dialect)
    const isLost =
      isRefusedByServer(error) && dialect.isDisconnected?.((error as { parent: DriverError }).parent) === true
    if (isLost || (dialect.isAfterError && isRefusedByServer(error))) {
      this.#fatal ??= { cause: error, effect: 'doomed', isLost, isInSavepoint: transaction !== this.transaction }
    }
    if (!failure || !dialect.endsTransaction.includes(failure) || this.outcome !== 'open') return
    await this.#abort(error, transaction)
  }

  /** Rolls the whole transaction back, or completes what the server has begun. No further statement is sent. */
  async #abort(error: unknown, transaction: Transaction): Promise<void> {
    this.#fatal = { cause: error, effect: 'ended' }
    this.isAborted = true
    this.#end('rolled back')
    await this.#giveConnectionBack()
    markRolledBack(transaction)
  }

  /** Ends the transaction in Sequelize. The owner's later `rollback()` succeeds; `commit()` rejects with the reason. */
  async #giveConnectionBack(): Promise<void> {
    // Ignore the error: the server may have nothing left to roll back.
    if (!finishedState(this.transaction)) await this.transaction.rollback().catch(() => undefined)
    override(this.transaction, 'rollback', () => () => {
      this.isAborted = false
      return Promise.resolve()
    })
    override(this.transaction, 'commit', () => () => {
      this.isAborted = false
      return Promise.reject(this.rolledBackError('sequelize.transaction'))
    })
  }

  #end(outcome: 'committed' | 'rolled back'): void {
    this.outcome = outcome
    this.lockedRows.clear()
    // A transaction of this library is restored after the attempt has ended: statements may still be in progress.
    if (outcome === 'committed' || !this.#isOurs) this.#undo.clear()
  }

  /** Marks the instances as stale that were read under a lock of a savepoint which is rolled back: its writes are in them. */
  #markReadInside(): void {
    for (const row of this.lockedRows.all()) {
      const rowState = rowStateOf(row)
      if (rowState.lastLock && !rowState.lock) rowState.markAllStale()
    }
  }

  /** Snapshots an instance before a write in `transaction`, which may be a savepoint. */
  remember(row: Row, transaction: Transaction = this.transaction): void {
    if (this.outcome !== 'open') return
    rowStateOf(row).lastTransaction = this.transaction
    this.#undo.remember(row, this.#isInside(transaction))
  }

  /** Restores every instance that was written to its state before the transaction. */
  restoreRows(): void {
    this.#undo.rollBack()
  }

  /** Registers an instance of a row that `transaction`, which may be a savepoint, has locked. */
  addLockedRow(row: Row, transaction: Transaction = this.transaction): void {
    if (this.outcome !== 'open') return
    this.lockedRows.add(row)
    this.#undo.noteLock(row, this.#isInside(transaction))
  }
}

const transactionStates = new WeakMap<Transaction, TransactionState>()

/** The one state of the server's transaction; a savepoint has the state of its outermost ancestor. */
export function transactionStateOf(transaction: Transaction): TransactionState {
  const outermost = outermostOf(transaction)
  let state = transactionStates.get(outermost)
  if (!state) transactionStates.set(outermost, (state = new TransactionState(outermost)))
  return state
}

/** The state of a transaction, if it has one. */
export function findTransactionState(transaction: Transaction | null | undefined): TransactionState | undefined {
  return transaction ? transactionStates.get(outermostOf(transaction)) : undefined
}

/** The error for code that still runs after its callback has returned or thrown. */
export function lateCallError(method: string, what: string): OutsideTransactionError {
  return new OutsideTransactionError(
    method,
    `${what} comes from a branch of the callback of ${method}() that still runs after the callback has ended, so it was not sent`,
    'Await every branch in the callback: await Promise.allSettled([…]) before an error leaves it. To write after the callback on purpose, outside the transaction, pass { transaction: null }.',
  )
}

/** Matches white space and comments of SQL. */
const gap = String.raw`(?:\s|--[^\n]*(?:\n|$)|/\*(?:[^*]|\*(?!/))*\*/)`

/** Matches SQL that sets a savepoint or rolls back to one: the command and the name. */
const savepointSql = new RegExp(
  `^(?:${gap}|;)*(SAVEPOINT|ROLLBACK(?:${gap}+(?:WORK|TRANSACTION))?${gap}+TO(?:${gap}+SAVEPOINT)?)${gap}+["\`]?([^"\`;\\s]+)`,
  'i',
)

function isSet(command: string): boolean {
  return /^SAVEPOINT/i.test(command)
}

const nothing: Promise<undefined> = Promise.resolve(undefined)

/** Releases a connection after the server has ended the transaction, with possibly nothing to roll back. */
async function giveBack(rollback: () => Promise<unknown>, dialect: Dialect): Promise<unknown> {
  try {
    return await rollback()
  } catch (error) {
    if (noteFailure(error, dialect) !== undefined || !isRefusedByServer(error)) throw error
    return undefined
  }
}

function textOf(sql: unknown): string {
  return typeof sql === 'string' ? sql : String((sql as { query?: unknown } | null)?.query)
}

function isRead(sql: unknown, { type, lock }: QueryOptions): boolean {
  return type === QueryTypes.SELECT && !lock && /^\s*SELECT/i.test(textOf(sql))
}

/** @throws {UsageError} SQL would end the transaction without Sequelize knowing it */
function refuseTransactionControl(text: string, dialect: Dialect): void {
  if (dialect.endsTransactionBySql(text)) throw usage.transactionControl(text)
}
