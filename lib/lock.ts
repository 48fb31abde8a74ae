import { Transaction } from 'sequelize'
import type { Logging, Model, Transactionable } from 'sequelize'
import { dialectOf, sendForHeader, sendForInstance, sequelizeOf, Statement } from './database.js'
import type { Row, Sending } from './database.js'
import type { Dialect } from './dialects/index.js'
import { RowNotFoundError, usage } from './errors.js'
import {
  adopt,
  endScope,
  heldTransaction,
  holderOf,
  keepMutable,
  markChangesInPlace,
  observeSent,
  refuseUnsavedChanges,
  rememberStored,
  snapshot,
  startHold,
  values,
} from './instance.js'
import { checkOptions, facts, identify } from './target.js'
import type { Identity, Target } from './target.js'
import {
  isSameTransaction,
  openTransaction,
  runInScope,
  takesWriteLockFirst,
  transactionFor,
  translated,
  watch,
} from './transaction.js'

export interface LockOptions extends Logging {
  /** The transaction that keeps the lock until it ends. */
  readonly transaction: Transaction
}

export interface WithLockOptions extends Logging, Transactionable {
  /** The isolation level of the transaction that is opened; refused where one is joined. Default: Sequelize's own. */
  readonly isolationLevel?: Transaction.ISOLATION_LEVELS
}

/**
 * Locks this row until the transaction ends, and refreshes the instance from the very read that locks: Rails' `lock!`.
 *
 * The read is by primary key alone: no scope, `paranoid` or `include` can hide the row or lock others; `beforeFind`
 * hooks do not run, `afterFind` hooks do. All attributes are refreshed, associations stay as they are. Sends, on MySQL:
 *
 *     SELECT `id` AS `id`, `progress` AS `progress`, … FROM `workflow_runs` WHERE `id` = ? FOR UPDATE
 *
 * @returns the same instance
 * @throws {UsageError} before any SQL: no transaction, or a finished or read-only one; a row never saved
 * @throws {UnsavedChangesError} before any SQL: the row has unsaved changes
 * @throws {RowNotFoundError} the row was deleted
 * @throws {ConflictError} a deadlock, or a row newer than the transaction's snapshot
 * @example
 *     await sequelize.transaction(async (transaction) => {
 *       await lock(run, { transaction })
 *       await run.update({ status: 'done' }, { transaction })
 *     })
 * @see https://dev.mysql.com/doc/refman/9.7/en/innodb-locking-reads.html
 */
export async function lock<M extends Model>(row: M, options: LockOptions): Promise<M> {
  const { transaction, logging } = checkOptions('lock', options, ['transaction', 'logging'])
  const identity = identify('lock', row)
  if (!transaction) throw usage.transactionMissing('lock')
  transactionFor('lock', sequelizeOf(identity.model), transaction, undefined)
  refuseOtherHolder('lock', identity, transaction)
  refuseUnsavedChanges('lock', identity, 'before')
  const sending = { transaction, logging }
  const dialect = await dialectOf(sequelizeOf(identity.model), sending)
  await takeLock('lock', identity, dialect, sending, false)
  return row
}

/**
 * Runs `fn` while this row is locked: nobody else can change it between what `fn` reads and what it writes. Rails'
 * `with_lock`.
 *
 * Opens a transaction (or joins the one given, or Sequelize's ambient one), locks and refreshes the row in one read,
 * runs `fn(row, transaction)`, commits, and returns what `fn` returned. Two callers run one after the other, each with
 * what the other has written. Sends, on MySQL:
 *
 *     START TRANSACTION
 *     SELECT `id` AS `id`, `progress` AS `progress`, … FROM `workflow_runs` WHERE `id` = ? FOR UPDATE
 *     UPDATE `workflow_runs` SET `progress`=?,`updatedAt`=? WHERE `id` = ?      -- what fn does
 *     COMMIT
 *
 * Inside `fn`, the row's own methods (`save`, `update`, `destroy`, `reload`, `increment`, `decrement`, `restore`, and
 * those of this library) take part in the transaction without being told; every other write needs `{ transaction }`,
 * and is refused without. A document changed in place (`run.progress.step_a = 'done'`) is written by `save()`. If `fn`
 * throws, everything is rolled back and the instance is as it was before; a joined transaction is left to its owner.
 *
 * @param target a row, or `[Model, primaryKey]`, which saves the read before
 * @throws {UsageError} before any SQL: a row never saved, a model without primary key, a read-only transaction
 * @throws {UnsavedChangesError} before any SQL: the row has unsaved changes; or, rolling back: `fn` left some
 * @throws {RowNotFoundError} the row was deleted; `fn` does not run
 * @throws {OutsideTransactionError} a write in `fn` is not part of the transaction
 * @throws {ConflictError} the lock could not be had: a deadlock, or a row newer than the joined transaction's snapshot
 * @example
 *     await run.withLock(async (run) => {
 *       run.progress.step_a = 'done'
 *       await run.save()
 *     })
 * @see https://dev.mysql.com/doc/refman/9.7/en/innodb-locking-reads.html
 */
export async function withLock<M extends Model, R>(
  target: Target<M>,
  fn: (row: M, transaction: Transaction) => R | Promise<R>,
  options: WithLockOptions = {},
): Promise<R> {
  const method = 'withLock'
  const checked = checkOptions(method, options, ['transaction', 'isolationLevel', 'logging'])
  if (typeof fn !== 'function') throw usage.callback(method, fn)
  const identity = identify(method, target)
  const sequelize = sequelizeOf(identity.model)
  const held = heldTransaction(identity.instance)
  const joined = transactionFor(method, sequelize, checked.transaction, held)
  if (joined && checked.isolationLevel !== undefined) throw usage.isolationLevelJoined(method)
  const level = checked.isolationLevel
  if (level !== undefined && !isolationLevels.includes(level)) throw usage.isolationLevel(method, level, 'SQL')
  refuseOtherHolder(method, identity, joined)
  refuseUnsavedChanges(method, identity, 'before')

  const { logging } = checked
  // A lock inside the lock is released with the outer one.
  const release = held === undefined ? claim(identity.instance) : undefined
  let row = identity.instance
  let restore: (() => void) | undefined
  const run = async (transaction: Transaction, dialect: Dialect): Promise<R> => {
    const beforeRefresh = (instance: Row): void => {
      row = instance
      if (!joined) restore = snapshot(instance)
    }
    const locked = await takeLock(method, identity, dialect, { transaction, logging }, true, beforeRefresh)
    const result = await runInScope(sequelize, transaction, () => fn(locked as M, transaction))
    refuseUnsavedChanges(method, { ...identity, instance: locked }, joined ? 'joined' : 'rolled back')
    return result
  }
  try {
    const dialect = await dialectOf(sequelize, { transaction: joined, logging })
    if (joined) return await run(joined, dialect)
    if (level !== undefined && !dialect.isolationLevels.includes(level)) {
      throw usage.isolationLevel(method, level, dialect.name)
    }
    const set = { ...(level && { isolationLevel: level }), ...(logging !== undefined && { logging }) }
    return await openTransaction(method, sequelize, dialect, set, (transaction) => run(transaction, dialect))
  } catch (error) {
    restore?.()
    throw error
  } finally {
    release?.()
    if (release && row) endScope(row)
  }
}

const isolationLevels: readonly string[] = Object.values(Transaction.ISOLATION_LEVELS)

/** Instances that a call of withLock is at work on, from its first moment, when nothing is locked yet. */
const claimed = new WeakSet<Row>()

function claim(instance: Row | undefined): () => void {
  if (instance) claimed.add(instance)
  return () => void (instance && claimed.delete(instance))
}

/** @throws {UsageError} another flow, or another transaction, has locked this very instance, or is about to */
function refuseOtherHolder(method: string, { instance, ...row }: Identity, transaction: Transaction | undefined): void {
  if (!instance) return
  const holder = holderOf(instance)
  const isOther = holder ? !transaction || !isSameTransaction(holder, transaction) : claimed.has(instance)
  if (isOther || (claimed.has(instance) && !heldTransaction(instance))) {
    throw usage.lockedElsewhere(method, facts({ instance, ...row }))
  }
}

/** Locks and reads the row in `sending.transaction`; returns the instance given, refreshed, or a new one. */
async function takeLock(
  method: string,
  identity: Identity,
  dialect: Dialect,
  sending: Sending & { transaction: Transaction },
  scoped: boolean,
  beforeRefresh?: (instance: Row) => void,
): Promise<Row> {
  watch(sending.transaction, dialect, observeSent)
  const fresh = await readLocked(method, identity, dialect, sending)
  if (!fresh) throw new RowNotFoundError(method, facts(identity))
  const instance = identity.instance ?? fresh
  // Again: whoever changed it while this call waited would lose that.
  refuseUnsavedChanges(method, identity, 'before')
  beforeRefresh?.(instance)
  adopt(instance, values(fresh))
  startHold(instance, sending.transaction, scoped)
  joinOwnMethods(instance)
  return instance
}

async function readLocked(
  method: string,
  { model, primaryKey }: Identity,
  dialect: Dialect,
  sending: Sending & { transaction: Transaction },
): Promise<Row | undefined> {
  try {
    if (dialect.writerQueue && !takesWriteLockFirst(sending.transaction))
      await takeWriteLock({ model, primaryKey }, sending)
    const select = new Statement(model)
    const columns = Object.entries(model.getAttributes() as Record<string, { type: { key?: string } }>)
      .filter(([, { type }]) => type.key !== 'VIRTUAL')
      .map(([attribute]) => `${select.column(attribute)} AS ${select.name(attribute)}`)
    const sql = `SELECT ${columns.join(', ')} FROM ${select.table()} WHERE ${select.row(primaryKey)} ${dialect.lockClause}`
    const row = await sendForInstance(model, sql, select.binds, sending)
    if (row) await runAfterFind(row, sending)
    return row
  } catch (error) {
    throw translated(error, dialect, method, { model: model.name, primaryKey }, sending.transaction)
  }
}

/** A write that changes nothing, where only a write takes the lock: a deferred transaction that reads first may never get it. */
async function takeWriteLock({ model, primaryKey }: Omit<Identity, 'instance'>, sending: Sending): Promise<void> {
  const update = new Statement(model)
  const [attribute] = Object.keys(primaryKey)
  const column = update.column(attribute!)
  const sql = `UPDATE ${update.table()} SET ${column} = ${column} WHERE ${update.row(primaryKey)}`
  await sendForHeader(sequelizeOf(model), sql, update.binds, sending)
}

// A hook that decodes what was read must see this read too.
async function runAfterFind(row: Row, sending: Sending): Promise<void> {
  const model = row.constructor as unknown as { runHooks(name: string, ...args: unknown[]): Promise<void> }
  await model.runHooks('afterFind', row, { transaction: sending.transaction, plain: true })
}

const ownMethods = ['save', 'update', 'destroy', 'reload', 'increment', 'decrement', 'restore'] as const
type OwnMethod = (this: Row, ...args: unknown[]) => Promise<unknown>

/** Which argument of each method holds its options. */
const optionsIndex: Readonly<Record<(typeof ownMethods)[number], 0 | 1>> = {
  save: 0,
  update: 1,
  destroy: 0,
  reload: 0,
  increment: 1,
  decrement: 1,
  restore: 0,
}

/** Makes the instance's own methods take part in the transaction of its lock; once that is over, they are as before. */
function joinOwnMethods(instance: Row): void {
  for (const name of ownMethods) {
    if (Object.hasOwn(instance, name)) continue
    const method = async function (this: Row, ...args: unknown[]): Promise<unknown> {
      const original = (Object.getPrototypeOf(instance) as Record<string, OwnMethod>)[name]!
      const transaction = heldTransaction(instance)
      if (!transaction) return original.apply(instance, args)
      markChangesInPlace(instance)
      const given = args[optionsIndex[name]]
      const options = Array.isArray(given) ? { fields: given as string[] } : (given as object | undefined)
      // A plain read could see a snapshot older than the lock.
      const lock =
        name === 'reload' ? { lock: { level: transaction.LOCK.NO_KEY_UPDATE, of: instance.constructor } } : {}
      const asked = (options as Transactionable | undefined)?.transaction
      args[optionsIndex[name]] = { ...lock, ...options, transaction: asked === undefined ? transaction : asked }
      // On PostgreSQL they read the whole row back, over what was changed in place meanwhile.
      const putBack = name === 'increment' || name === 'decrement' ? keepMutable(instance) : undefined
      const result = await original.apply(instance, args)
      putBack?.()
      if (name === 'reload') rememberStored(instance)
      return result
    }
    Object.defineProperty(instance, name, { value: method, configurable: true, writable: true, enumerable: false })
  }
}
