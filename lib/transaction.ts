import { AsyncLocalStorage } from 'node:async_hooks'
import { resolve } from 'node:path'
import { QueryTypes, Transaction } from 'sequelize'
import type { Sequelize, TransactionOptions } from 'sequelize'
import { conflictOf } from './database.js'
import type { Dialect } from './dialects/index.js'
import { OutsideTransactionError, RolledBackError, usage } from './errors.js'

/** What Sequelize 6 keeps about a transaction and does not put in its types. */
interface TransactionInternals {
  readonly sequelize: Sequelize
  readonly parent?: Transaction | null
  readonly options: { readonly readOnly?: boolean; readonly type?: string }
  finished?: 'commit' | 'rollback'
}

function internals(transaction: Transaction): TransactionInternals {
  return transaction as unknown as TransactionInternals
}

/** `transaction` and, if it is a savepoint, those around it; the last one is the server's transaction. */
function nesting(transaction: Transaction): Transaction[] {
  const { parent } = internals(transaction)
  return parent ? [transaction, ...nesting(parent)] : [transaction]
}

/** Whether both are the same transaction of the server, seen through savepoints or not. */
export function isSameTransaction(one: Transaction, other: Transaction): boolean {
  return nesting(one).at(-1) === nesting(other).at(-1)
}

export function isFinished(transaction: Transaction): boolean {
  return internals(transaction).finished !== undefined
}

/** A running callback of withLock. */
interface Scope {
  readonly sequelize: Sequelize
  readonly transaction: Transaction
  readonly outer: Scope | undefined
}

const scopes = new AsyncLocalStorage<Scope>()

/** The callbacks that this code runs in, innermost first. */
function runningScopes(): Scope[] {
  const running: Scope[] = []
  for (let scope = scopes.getStore(); scope; scope = scope.outer) running.push(scope)
  // Work that was started inside a callback and outlives it is free again.
  return running.filter((scope) => !isFinished(scope.transaction))
}

/** Runs `fn` as a callback of withLock: a model's write in it, without a transaction, is refused. */
export function runInScope<R>(sequelize: Sequelize, transaction: Transaction, fn: () => R): R {
  return scopes.run({ sequelize, transaction, outer: scopes.getStore() }, fn)
}

/** Whether this code runs in the callback that holds `transaction`. */
export function isInScope(transaction: Transaction): boolean {
  return runningScopes().some((scope) => scope.transaction === transaction)
}

function ambientTransaction(sequelize: Sequelize): Transaction | undefined {
  const { _cls } = sequelize.constructor as unknown as { _cls?: { get(key: string): unknown } }
  const transaction = _cls?.get('transaction') as Transaction | null | undefined
  // Sequelize.useCLS is static: the ambient transaction may belong to another Sequelize instance.
  if (!transaction || internals(transaction).sequelize !== sequelize || isFinished(transaction)) return undefined
  return transaction
}

/**
 * The transaction that a call takes part in: the one asked for, else that of the lock held on its row, else Sequelize's
 * ambient one. `null` asks for none.
 * @throws {UsageError} it is not one of this Sequelize instance, is over, or is read-only
 * @throws {OutsideTransactionError} there is none, inside the callback of withLock
 */
export function transactionFor(
  method: string,
  sequelize: Sequelize,
  asked: Transaction | null | undefined,
  held: Transaction | undefined,
): Transaction | undefined {
  if (asked === null) return undefined
  if (asked !== undefined) {
    if (internals(asked).sequelize !== sequelize) throw usage.transaction(method, asked)
    const { finished } = internals(asked)
    if (finished) throw usage.transactionFinished(method, finished)
  }
  const transaction = asked ?? held ?? ambientTransaction(sequelize)
  if (!transaction) {
    refuseOutside(method, sequelize, 'this call')
    return undefined
  }
  if (nesting(transaction).some((each) => internals(each).options.readOnly)) throw usage.transactionReadOnly(method)
  return transaction
}

function refuseOutside(method: string, sequelize: Sequelize, what: string): void {
  if (!runningScopes().some((scope) => scope.sequelize === sequelize)) return
  throw new OutsideTransactionError(
    method,
    `${what} would run outside the transaction of the withLock() around it: it would commit apart from it, and could wait for its lock`,
    'Pass the second argument of the callback, { transaction }; or { transaction: null } to write outside on purpose.',
  )
}

/** Opens a transaction that may write, runs `fn` in it, and commits; rolls back if `fn` throws. */
export function openTransaction<R>(
  sequelize: Sequelize,
  dialect: Dialect,
  options: Pick<TransactionOptions, 'isolationLevel' | 'logging'>,
  fn: (transaction: Transaction) => Promise<R>,
): Promise<R> {
  // IMMEDIATE takes SQLite's write lock at once: a transaction that read first can never get it after another's write.
  const type = dialect.singleWriter ? { type: Transaction.TYPES.IMMEDIATE } : {}
  return oneWriter(sequelize, dialect, () => sequelize.transaction({ ...options, ...type }, fn))
}

/** Whether the transaction was opened in the way that holds SQLite's write lock from its first moment. */
export function takesWriteLockFirst(transaction: Transaction): boolean {
  return /^(IMMEDIATE|EXCLUSIVE)$/.test(internals(nesting(transaction).at(-1)!).options.type ?? '')
}

const queues = new Map<string | Sequelize, Promise<void>>()

/**
 * Runs `fn` when no other write of this process holds the database, in the order of calls; at once where the database
 * queues its writers itself. SQLite's does not: waiting writers block the threads that the writer in front needs.
 */
export async function oneWriter<R>(sequelize: Sequelize, dialect: Dialect, fn: () => Promise<R>): Promise<R> {
  if (!dialect.singleWriter) return fn()
  const database = databaseKey(sequelize)
  if (runningScopes().some((scope) => databaseKey(scope.sequelize) === database)) {
    throw new OutsideTransactionError(
      'transaction: null',
      `${dialect.name} has one writer at a time, and the withLock() around this call is it, so the write would wait for ever`,
      'Pass the second argument of the callback, { transaction }, or write after withLock() has returned.',
    )
  }
  const before = queues.get(database)
  let done!: () => void
  const turn = new Promise<void>((resolve) => (done = resolve))
  queues.set(database, turn)
  await before
  try {
    return await fn()
  } finally {
    if (queues.get(database) === turn) queues.delete(database)
    done()
  }
}

function databaseKey(sequelize: Sequelize): string | Sequelize {
  const { storage, host } = (sequelize as unknown as { options: { storage?: string; host?: string } }).options
  const path = storage ?? host ?? ':memory:'
  return path === ':memory:' || path === '' ? sequelize : resolve(path)
}

const watched = new WeakMap<Transaction, Dialect>()

/**
 * From now on, `transaction` cannot commit half of its work: a statement in it that failed because the server rolled
 * the transaction back finishes it here too, and a COMMIT that the database would turn into a rollback is an error.
 */
export function watch(transaction: Transaction, dialect: Dialect): void {
  watched.set(nesting(transaction).at(-1)!, dialect)
  interceptQueries(internals(transaction).sequelize)
}

/** Transactions whose last statement failed, where that dooms the whole; any statement that succeeds after it shows that a savepoint was restored. */
const aborted = new WeakSet<Transaction>()

const intercepted = new WeakSet<Sequelize>()

interface SentOptions {
  readonly type?: string
  readonly transaction?: Transaction | null
  readonly model?: { readonly name: string }
  readonly instance?: { readonly constructor: { readonly name: string } }
  readonly completesTransaction?: boolean
}

const modelWrites: ReadonlySet<string | undefined> = new Set([
  QueryTypes.INSERT,
  QueryTypes.UPDATE,
  QueryTypes.BULKUPDATE,
  QueryTypes.DELETE,
  QueryTypes.BULKDELETE,
  QueryTypes.UPSERT,
])

/**
 * Sequelize's hooks do not serve here: they are left out by `hooks: false` and for increment(), know no error, and
 * `beforeQuery` runs only once a connection was waited for.
 */
function interceptQueries(sequelize: Sequelize): void {
  if (intercepted.has(sequelize)) return
  intercepted.add(sequelize)
  const query = sequelize.query.bind(sequelize) as (sql: unknown, options?: SentOptions) => Promise<unknown>

  const intercepting = async (sql: unknown, options: SentOptions = {}): Promise<unknown> => {
    if (options.transaction === undefined && modelWrites.has(options.type) && !ambientTransaction(sequelize)) {
      const model = options.model?.name ?? options.instance?.constructor.name ?? 'a model'
      refuseOutside('withLock', sequelize, `a write of ${model} (${options.type})`)
    }
    const { transaction } = options
    const outermost = transaction && nesting(transaction).at(-1)!
    const dialect = outermost && watched.get(outermost)
    if (!dialect) return query(sql, options)
    if (options.completesTransaction && /^COMMIT/i.test(String(sql)) && aborted.has(outermost)) {
      // The database would answer COMMIT with success, and roll back.
      await query('ROLLBACK;', options)
      throw new RolledBackError()
    }
    try {
      const result = await query(sql, options)
      aborted.delete(outermost)
      return result
    } catch (error) {
      if (dialect.conflictEndsTransaction && conflictOf(error, dialect)) await finish(transaction)
      if (dialect.errorAbortsTransaction) aborted.add(outermost)
      throw error
    }
  }
  sequelize.query = intercepting as Sequelize['query']
}

/** Marks a transaction that the server has rolled back, and all around it, as such: Sequelize alone would go on in autocommit. */
async function finish(transaction: Transaction): Promise<void> {
  const all = nesting(transaction)
  const outermost = all.at(-1)!
  // Gives the connection back; whether the server still had something to roll back does not matter.
  if (!isFinished(outermost)) await outermost.rollback().catch(() => undefined)
  for (const each of all) internals(each).finished = 'rollback'
}
