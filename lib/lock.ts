import type { Logging, Model, Sequelize, Transaction, Transactionable } from 'sequelize'
import {
  dialectOf,
  sendForHeader,
  sendForInstance,
  sendForRows,
  sequelizeOf,
  Statement,
  versionAttribute,
} from './database.js'
import type { Row, RowModel, Sending } from './database.js'
import type { Dialect, Setting } from './dialects/dialect.js'
import { LockTimeoutError, RowNotFoundError } from './errors/errors.js'
import { usage } from './errors/usage.js'
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
import { checkRetryOptions, retry } from './retry.js'
import type { RetryOptions } from './retry.js'
import { checkOptions, facts, identify } from './target.js'
import type { Identity, Target } from './target.js'
import {
  checkIsolationLevel,
  isRetryable,
  isSameTransaction,
  onRollback,
  openTransaction,
  runInScope,
  takesWriteLockFirst,
  transactionFor,
  translated,
  watch,
} from './transaction.js'

/** How long to wait for a row that another session has locked. */
export interface LockWaitOptions {
  /**
   * At most so many milliseconds, a whole number from 1; MariaDB counts in whole seconds, rounded up. A `LockTimeoutError`
   * then. Default: as long as the server waits (50 s on MySQL and MariaDB, for ever on PostgreSQL).
   */
  readonly timeoutMs?: number
  /** Not at all: a `LockTimeoutError` at once. Default: false. */
  readonly nowait?: boolean
}

export interface LockOptions extends LockWaitOptions, Logging {
  /** The transaction that keeps the lock until it ends. */
  readonly transaction: Transaction
}

export interface WithLockOptions extends LockWaitOptions, Logging, Transactionable {
  /** The isolation level of the transaction that is opened; refused where one is joined. Default: Sequelize's own. */
  readonly isolationLevel?: Transaction.ISOLATION_LEVELS
  /**
   * Run `fn` again, in a new transaction and with a fresh row, after a deadlock or a conflict; refused where a
   * transaction is joined. Default: `fn` runs once; a lock that could not be had before it is tried 3 times.
   */
  readonly retry?: RetryOptions
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
 * @throws {LockTimeoutError} another session holds the row: longer than `timeoutMs`, or than the server waits
 * @example
 *     await sequelize.transaction(async (transaction) => {
 *       await lock(run, { transaction })
 *       await run.update({ status: 'done' }, { transaction })
 *     })
 * @see https://dev.mysql.com/doc/refman/9.7/en/innodb-locking-reads.html
 */
export async function lock<M extends Model>(row: M, options: LockOptions): Promise<M> {
  const { transaction, logging, ...wait } = checkOptions('lock', options, [
    'transaction',
    'timeoutMs',
    'nowait',
    'logging',
  ])
  const timeoutMs = checkWait('lock', wait)
  const identity = identify('lock', row)
  if (!transaction) throw usage.transactionMissing('lock')
  transactionFor('lock', sequelizeOf(identity.model), transaction, undefined)
  refuseOtherHolder('lock', identity, transaction)
  refuseUnsavedChanges('lock', identity, 'before')
  const sending = { transaction, logging }
  const dialect = await dialectOf(sequelizeOf(identity.model), sending)
  await takeLock('lock', identity, dialect, sending, false, timeoutMs)
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
 * @throws {LockTimeoutError} another session holds the row: longer than `timeoutMs`, or than the server waits
 * @throws {UnknownOutcomeError} the connection was lost after COMMIT was sent
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
  return runLocked('withLock', [target], ([row], transaction) => fn(row as M, transaction), options, fn)
}

/** The rows that targets name, in their order. */
export type RowsOf<T extends readonly Target<Model>[]> = {
  [I in keyof T]: T[I] extends Target<infer M> ? M : never
}

/**
 * Runs `fn` while several rows are locked: {@link withLock} for more than one. Whatever order callers name them in, they
 * are locked in one order, by table and primary key, so that callers that cross each other do not deadlock on them; one
 * locking read each.
 *
 * What can still deadlock: other statements in `fn` and elsewhere, foreign keys, since an insert or update of a child row
 * locks its parent, and keys that callers spell differently and only the collation of the database takes for one, such as
 * 'é' and 'e'. With `retry` such a call is run again.
 *
 * @param targets rows, or `[Model, primaryKey]`, of one Sequelize instance, each row once
 * @param fn      gets the rows in the order of `targets`
 * @throws what {@link withLock} throws
 * @example
 *     await withLocks([[Account, 1], [Account, 2]], async ([from, to]) => {
 *       await from.decrement('cents', { by: 100 })
 *       await to.increment('cents', { by: 100 })
 *     })
 */
export async function withLocks<const T extends readonly Target<Model>[], R>(
  targets: T,
  fn: (rows: RowsOf<T>, transaction: Transaction) => R | Promise<R>,
  options: WithLockOptions = {},
): Promise<R> {
  return runLocked('withLocks', targets, (rows, transaction) => fn(rows as RowsOf<T>, transaction), options, fn)
}

async function runLocked<R>(
  method: string,
  targets: readonly Target<Model>[],
  fn: (rows: readonly Row[], transaction: Transaction) => R | Promise<R>,
  options: WithLockOptions,
  given: unknown,
): Promise<R> {
  const { transaction, isolationLevel, logging, ...checked } = checkOptions(method, options, [
    'transaction',
    'isolationLevel',
    'timeoutMs',
    'nowait',
    'retry',
    'logging',
  ])
  const timeoutMs = checkWait(method, checked)
  const policy = checked.retry === undefined ? undefined : checkRetryOptions(method, checked.retry)
  checkIsolationLevel(method, isolationLevel)
  if (typeof given !== 'function') throw usage.callback(method, given)
  const identities = identifyAll(method, targets)
  const sequelize = sequelizeOf(identities[0]!.model)
  const held = identities.map(({ instance }) => heldTransaction(instance))
  const joined = transactionFor(method, sequelize, transaction, held.find(Boolean))
  if (joined && isolationLevel !== undefined) throw usage.isolationLevelJoined(method)
  if (joined && policy) throw usage.retryJoined(method)
  for (const identity of identities) {
    refuseOtherHolder(method, identity, joined)
    refuseUnsavedChanges(method, identity, 'before')
  }

  // A lock inside the lock is released with the outer one.
  const own = identities.filter((_identity, index) => !held[index])
  const releases = own.map(({ instance }) => claim(instance))
  const rows: Row[] = []
  let phase: 'locking' | 'in the callback' | 'committing' = 'locking'
  const isInCallback = (): boolean => phase === 'in the callback'
  const run = async (transaction: Transaction, dialect: Dialect): Promise<R> => {
    for (const index of canonicalOrder(identities)) {
      const sending = { transaction, logging }
      rows[index] = await takeLock(method, identities[index]!, dialect, sending, true, timeoutMs)
    }
    // The database may take two spellings of a key for one.
    refuseTwice(
      method,
      rows.map((row) => identify(method, row)),
    )
    phase = 'in the callback'
    const result = await runInScope(method, sequelize, transaction, () => fn(rows, transaction))
    phase = 'committing'
    for (const [index, instance] of rows.entries()) {
      refuseUnsavedChanges(method, { ...identities[index]!, instance }, joined ? 'joined' : 'rolled back')
    }
    return result
  }
  try {
    const dialect = await dialectOf(sequelize, { transaction: joined, logging })
    if (joined) return await run(joined, dialect)
    const row = facts(identities[0]!)
    const error = (): Error => new LockTimeoutError(method, row, timeoutMs, dialect.lockHolders)
    const wait = timeoutMs === undefined ? undefined : { timeoutMs, error }
    const attempt = async (): Promise<R> => {
      phase = 'locking'
      try {
        return await openTransaction(method, sequelize, dialect, { isolationLevel, logging, wait }, (transaction) =>
          run(transaction, dialect),
        )
      } catch (error) {
        throw isInCallback() ? error : translated(error, dialect, method, row, undefined, timeoutMs)
      }
    }
    const isWorthIt = (error: unknown): boolean =>
      (policy !== undefined || phase === 'locking') && isRetryable(error, dialect)
    return await retry(attempt, isWorthIt, policy ?? { maxAttempts: 3 })
  } finally {
    for (const release of releases) release()
    for (const [index, row] of rows.entries()) if (!held[index]) endScope(row)
  }
}

function identifyAll(method: string, targets: readonly Target<Model>[]): readonly Identity[] {
  if (!Array.isArray(targets) || targets.length === 0) throw usage.targets(method, targets)
  const identities = targets.map((target: Target<Model>) => identify(method, target))
  for (const identity of identities) {
    if (sequelizeOf(identity.model) !== sequelizeOf(identities[0]!.model)) throw usage.targetsApart(method)
  }
  refuseTwice(method, identities)
  return identities
}

/** @throws {UsageError} two of them are one row */
function refuseTwice(method: string, identities: readonly Identity[]): void {
  const seen = new Set<string>()
  for (const identity of identities) {
    const place = JSON.stringify(
      [new Statement(identity.model).table(), identity.primaryKey],
      (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value),
    )
    if (seen.has(place)) throw usage.targetTwice(method, facts(identity))
    seen.add(place)
  }
}

/** The indexes of `identities` in the order that every caller locks them in. */
function canonicalOrder(identities: readonly Identity[]): readonly number[] {
  const places = identities.map(placeOf)
  return [...places.keys()].sort((one, other) => (places[one]! < places[other]! ? -1 : 1))
}

/** A row's table and primary key, as text that is the same however a caller writes the key. */
function placeOf({ model, primaryKey }: Identity): string {
  const values = Object.entries(primaryKey).sort(([one], [other]) => (one < other ? -1 : 1))
  return JSON.stringify([new Statement(model).table(), ...values.map(([, value]) => canonical(value))])
}

function canonical(value: unknown): string {
  if (value instanceof Date) return value.toISOString()
  const text = value instanceof Uint8Array ? Buffer.from(value).toString('latin1') : String(value)
  if (/^-?\d+$/.test(text)) return String(BigInt(text))
  if (/^-?\d+\.\d+$/.test(text)) return String(Number(text))
  const isDate = /^\d{4}-\d\d-\d\d[ T]/.test(text) && !Number.isNaN(Date.parse(text))
  return isDate ? new Date(text).toISOString() : text.toLowerCase()
}

/** @returns how long to wait for a lock in milliseconds, 0 for not at all; `undefined` for as long as the server waits */
function checkWait(method: string, { timeoutMs, nowait }: LockWaitOptions): number | undefined {
  if (nowait !== undefined && (typeof nowait !== 'boolean' || (nowait && timeoutMs !== undefined))) {
    throw usage.nowait(method, nowait)
  }
  if (nowait) return 0
  const isTimeout = Number.isSafeInteger(timeoutMs) && timeoutMs! >= 1 && timeoutMs! < 2 ** 31
  if (timeoutMs !== undefined && !isTimeout) throw usage.timeout(method, timeoutMs)
  return timeoutMs
}

/** Instances that a call of withLock is at work on, from its first moment, when nothing is locked yet. */
const claimed = new WeakSet<Row>()

export function claim(instance: Row | undefined): () => void {
  if (instance) claimed.add(instance)
  return () => void (instance && claimed.delete(instance))
}

/** @throws {UsageError} another flow, or another transaction, has locked this very instance, or is about to */
export function refuseOtherHolder(
  method: string,
  { instance, ...row }: Identity,
  transaction: Transaction | undefined,
): void {
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
  timeoutMs?: number,
): Promise<Row> {
  watch(sending.transaction, dialect, observeSent)
  const fresh = await readLocked(method, identity, dialect, sending, timeoutMs)
  if (!fresh) throw new RowNotFoundError(method, facts(identity))
  const instance = identity.instance ?? fresh
  // Again: whoever changed it while this call waited would lose that.
  refuseUnsavedChanges(method, identity, 'before')
  onRollback(sending.transaction, () => snapshot(instance))
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
  timeoutMs: number | undefined,
): Promise<Row | undefined> {
  const { hint = '', clause = dialect.lockClause, setting } = timeoutMs === undefined ? {} : dialect.lockWait(timeoutMs)
  const read = async (): Promise<Row | undefined> => {
    if (dialect.writerQueue && !takesWriteLockFirst(sending.transaction))
      await takeWriteLock({ model, primaryKey }, sending)
    return selectRow({ model, primaryKey }, sending, hint, clause)
  }
  try {
    return setting ? await withSetting(sequelizeOf(model), setting, sending, read) : await read()
  } catch (error) {
    throw translated(error, dialect, method, { model: model.name, primaryKey }, sending.transaction, timeoutMs)
  }
}

/** Runs `fn` with a setting of the transaction's connection, and puts back what it was. */
async function withSetting<R>(
  sequelize: Sequelize,
  { value, read, write }: Setting,
  sending: Sending,
  fn: () => Promise<R>,
): Promise<R> {
  const set = async (text: string): Promise<void> => {
    const [sql, ...binds] = write(text)
    await sendForRows(sequelize, sql, binds, sending)
  }
  const [answer] = await sendForRows<Record<string, unknown>>(sequelize, read, [], sending)
  const [before] = Object.values(answer!)
  await set(value)
  try {
    return await fn()
  } finally {
    // PostgreSQL puts it back itself, when it has ended the transaction.
    await set(String(before)).catch(() => undefined)
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

/** Reads the row with all its attributes, from the server that takes writes. */
export async function selectRow(
  { model, primaryKey }: Pick<Identity, 'model' | 'primaryKey'>,
  sending: Sending,
  hint = '',
  clause = '',
): Promise<Row | undefined> {
  const select = new Statement(model)
  const sql = `SELECT ${hint}${select.columns()} FROM ${select.table()} WHERE ${select.row(primaryKey)} ${clause}`
  const row = await sendForInstance(model, sql, select.binds, sending)
  if (!row) return undefined
  // A hook that decodes what was read must see this read too.
  const hooked = model as unknown as { runHooks(name: string, ...args: unknown[]): Promise<void> }
  await hooked.runHooks('afterFind', row, { transaction: sending.transaction, plain: true })
  return row
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
      const version = versionAttribute(instance.constructor as RowModel)
      const before = version === undefined ? undefined : values(instance)[version]
      const result = await original.apply(instance, args)
      putBack?.()
      // It is moved in the database, and in memory only where the row was read back.
      const isStale = putBack !== undefined && version !== undefined && values(instance)[version] === before
      if (isStale) adopt(instance, { [version]: Number(before) + 1 })
      if (name === 'reload') rememberStored(instance)
      return result
    }
    Object.defineProperty(instance, name, { value: method, configurable: true, writable: true, enumerable: false })
  }
}
