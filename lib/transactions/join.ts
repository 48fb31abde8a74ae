import type { Model, Transaction } from 'sequelize'
import type { TransactionOption } from '../errors/describe.js'
import { OutsideTransactionError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { RowRef } from '../rows/row-ref.js'
import { findRowState, rowStateOf } from '../rows/row-state.js'
import {
  ambientOf,
  finishedState,
  isReadOnly,
  isSameDatabase,
  openAncestor,
  outermostOf,
  sequelizeOfTransaction,
} from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import type { Session } from '../sequelize/session.js'
import { currentContext, currentScopes, runWith } from './async-context.js'
import type { Scope } from './async-context.js'
import { findTransactionState, lateCallError } from './transaction-state.js'

/** Sequelize's ambient transaction, if it belongs to this Sequelize instance and is open. */
export function ambientTransaction({ sequelize }: Session): Transaction | undefined {
  const transaction = ambientOf(sequelize)
  if (!transaction || sequelizeOfTransaction(transaction) !== sequelize || !openAncestor(transaction)) return undefined
  return transaction
}

/**
 * Whether a statement with this option would join the ambient transaction of another database: all Sequelize instances share one
 * namespace, and Sequelize would send the statement there. For two instances of one database, an application may have passed it.
 */
export function isForeignAmbient(
  { sequelize, connector }: Session,
  transaction: Transaction | null | undefined,
): boolean {
  const ambient = ambientOf(sequelize)
  if (!ambient || (transaction ?? ambient) !== ambient || transaction === null) return false
  return !isSameDatabase(sequelizeOfTransaction(ambient), sequelize, connector.fileOf)
}

/** Whether the current code runs in a callback of `transaction` that has not ended. */
export function isInScope(transaction: Transaction): boolean {
  const outermost = outermostOf(transaction)
  return currentScopes(sequelizeOfTransaction(transaction)).some(
    (scope) => !scope.isOver && scope.outermost === outermost,
  )
}

/** The transaction that locks the row of this instance, if the current code joins it. */
export function lockTransaction(row: Row | undefined): Transaction | undefined {
  const lock = row && findRowState(row)?.lock
  return lock && (!lock.isScoped || isInScope(lock.transaction)) ? openAncestor(lock.transaction) : undefined
}

/**
 * The transaction that a call joins: the option `transaction`, else the transaction that locks its row, else
 * Sequelize's ambient transaction. `null` opts out.
 * @throws {UsageError} the transaction has ended, is read-only, or belongs to another Sequelize instance
 * @throws {RolledBackError} the server has ended the transaction
 * @throws {OutsideTransactionError} the call joins none, inside a callback that has a transaction
 */
export function transactionToJoin(
  method: string,
  session: Session,
  asked: Transaction | null | undefined,
  row: Row | undefined,
): Transaction | undefined {
  if (asked === null) return undefined
  if (asked !== undefined) {
    // A model has a Sequelize instance too.
    const isOwn = typeof asked.commit === 'function' && sequelizeOfTransaction(asked) === session.sequelize
    if (!isOwn) throw usage.transaction(method, asked)
    findTransactionState(asked)?.refuseIfOver(method)
    const finished = finishedState(asked)
    if (finished) throw usage.transactionFinished(method, finished)
  }
  const transaction = asked ?? lockTransaction(row) ?? ambientTransaction(session)
  if (!transaction) {
    refuseBrokenLock(method, row)
    refuseOutside(session, method, 'this call', row)
    return undefined
  }
  if (isReadOnly(transaction)) throw usage.transactionReadOnly(method)
  return transaction
}

/** The option with which another call takes part in the transaction of a call, or in none: for the code in error texts. */
export function transactionOption(
  session: Session,
  transaction: Transaction | undefined,
): TransactionOption | undefined {
  const ambient = ambientTransaction(session)
  if (transaction) return transaction === ambient ? undefined : 'transaction'
  const scope = innermostScope(session)
  return ambient || scope?.isOver === false ? 'transaction: null' : undefined
}

/**
 * Runs `fn` while the row refuses writes, by `fn` and by other code: they would bypass the version check that follows.
 */
export async function callWithoutWrites<M extends Model, R>(
  method: string,
  row: M,
  fn: (row: M) => R | Promise<R>,
): Promise<R> {
  const state = rowStateOf(row)
  const call = { method }
  state.writesRefusedBy = call
  try {
    return await runWith({ readOnly: [...(currentContext().readOnly ?? []), call] }, async () => await fn(row))
  } finally {
    state.writesRefusedBy = undefined
  }
}

/** @throws {UsageError} a callback that must not write the row is running */
export function refuseWriteBesideCheck(row: Row | undefined, name: string): void {
  const call = findRowState(row)?.writesRefusedBy
  if (!call) return
  if (currentContext().readOnly?.includes(call)) throw usage.writeInside(call.method, name)
  throw usage.writeBeside(call.method, name, RowRef.of(row!).facts)
}

/** @throws {RolledBackError} the server rolled back the transaction that locked the row; its owner has not ended it */
export function refuseBrokenLock(method: string, row: Row | undefined): void {
  const lock = row && findRowState(row)?.lastLock
  const state = lock && findTransactionState(lock.transaction)
  if (state?.isAborted && (!lock?.isScoped || isInScope(lock.transaction))) {
    throw state.rolledBackError(method)
  }
}

/** @throws {RolledBackError} the transaction of the callback around this code was rolled back */
export function refuseRolledBack(session: Session, method: string): void {
  const scope = innermostScope(session)
  const state = scope && !scope.isOver ? findTransactionState(scope.transaction) : undefined
  if (state?.outcome === 'rolled back') throw state.rolledBackError(method)
}

/** The innermost callback of this library around the current code; the callback may have ended. */
export function innermostScope({ sequelize }: Session): Scope | undefined {
  return currentScopes(sequelize).find(({ method }) => method !== undefined)
}

/** The text for the callback argument that holds the transaction. */
export function transactionOf({ method }: Scope): string {
  if (method === 'onWrite') return 'the transaction in the argument of onWrite()'
  if (method === 'withOptimisticLock') return 'the transaction that withOptimisticLock() has joined'
  const argument = method === 'retryTransaction' ? 'first' : 'second'
  return `the transaction that is the ${argument} argument of the callback of ${method}()`
}

function joinRemedy(scope: Scope, { connector }: Session): string {
  const pass = `Pass ${transactionOf(scope)}, as the option { transaction }`
  // SQLite has one writer, which is this transaction.
  return connector.busy
    ? `${pass}.`
    : `${pass}; or pass { transaction: null } to write outside the transaction on purpose.`
}

function nestRemedy(scope: Scope): string {
  return `Nest it in ${transactionOf(scope)}: sequelize.transaction({ transaction }, …), Model.findOrCreate({ …, transaction }); or open it before the callback.`
}

/**
 * Refuses a write, or a new transaction, outside the transaction of the enclosing callback. A branch that a callback
 * did not await may write after COMMIT, except to rows that the callback locked or wrote.
 * @param row the instance that is written
 * @throws {OutsideTransactionError} the callback is running, or it has ended and did not await the current code
 * @throws {RolledBackError} the transaction of the callback was rolled back, or can only be rolled back
 */
export function refuseOutside(
  session: Session,
  method: string | undefined,
  write: string,
  row?: Row,
  remedy: (scope: Scope, session: Session) => string = joinRemedy,
): void {
  const scope = scopeAround(session, row)
  if (scope?.method === undefined) return
  if (scope.isOver) throw lateCallError(scope.method, write)
  const state = findTransactionState(scope.transaction)
  if (state?.outcome === 'rolled back') throw state.rolledBackError(method ?? scope.method)
  if (state?.isDoomed) throw state.notSentError(method ?? scope.method)
  const what =
    state?.outcome === 'committed'
      ? `${write} comes after the callback of ${scope.method}() has committed its transaction, so it would run outside that transaction`
      : `${write} would run outside the transaction of the enclosing ${scope.method}(): it would commit separately, and could wait for that transaction's lock`
  throw new OutsideTransactionError(method ?? scope.method, what, remedy(scope, session))
}

/** {@link refuseOutside} for a new transaction. */
export function refuseOpening(session: Session): void {
  refuseOutside(session, undefined, 'a transaction that is opened in the callback', undefined, nestRemedy)
}

/** The innermost callback of this library that forbids a write outside its transaction. */
function scopeAround({ sequelize }: Session, row: Row | undefined): Scope | undefined {
  return currentScopes(sequelize).find(({ method, isOver, outermost }) => {
    if (method === undefined) return false
    const isFree = isOver && findTransactionState(outermost)?.outcome === 'committed'
    const used = isFree ? findRowState(row)?.lastTransaction : undefined
    return !isFree || (used !== undefined && outermostOf(used) === outermost)
  })
}

/** The running callback of Sequelize's own `transaction()` around the current code, if it is the innermost callback. */
export function innermostPlainScope({ sequelize }: Session): Scope | undefined {
  const [scope] = currentScopes(sequelize)
  return scope?.method === undefined && scope?.isOver === false ? scope : undefined
}
