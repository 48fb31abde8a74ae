import { AsyncLocalStorage } from 'node:async_hooks'
import { QueryTypes, Transaction } from 'sequelize'
import type { Sequelize, TransactionOptions } from 'sequelize'
import { conflictOf } from './database.js'
import type { Dialect } from './dialects/index.js'
import { ConflictError, OutsideTransactionError, RolledBackError, usage } from './errors.js'
import type { RowFacts } from './errors.js'

/** What Sequelize 6 keeps about a transaction and does not put in its types. */
interface TransactionInternals {
  readonly sequelize: Sequelize
  readonly parent?: Transaction | null
  readonly options: { readonly readOnly?: boolean; readonly type?: string }
  finished?: 'commit' | 'rollback'
  _afterCommitHooks: unknown[]
}

function internals(transaction: Transaction): TransactionInternals {
  return transaction as unknown as TransactionInternals
}

/** `transaction` and, if it is a savepoint, those around it; the last one is the server's transaction. */
function nesting(transaction: Transaction): Transaction[] {
  const { parent } = internals(transaction)
  return parent ? [transaction, ...nesting(parent)] : [transaction]
}

function outermostOf(transaction: Transaction): Transaction {
  return nesting(transaction).at(-1)!
}

/** Whether both are the same transaction of the server, seen through savepoints or not. */
export function isSameTransaction(one: Transaction, other: Transaction): boolean {
  return outermostOf(one) === outermostOf(other)
}

/** The transaction that holds what `transaction` did: itself, or those around a savepoint that was released; none if that is over. */
export function live(transaction: Transaction): Transaction | undefined {
  const { finished, parent } = internals(transaction)
  if (finished === undefined) return transaction
  return finished === 'commit' && parent ? live(parent) : undefined
}

/** A running callback of withLock. */
interface Scope {
  readonly sequelize: Sequelize
  readonly transaction: Transaction
  readonly outer: Scope | undefined
}

const scopes = new AsyncLocalStorage<Scope | undefined>()

/** The callbacks that this code runs in, innermost first. */
function runningScopes(): Scope[] {
  const running: Scope[] = []
  for (let scope = scopes.getStore(); scope; scope = scope.outer) running.push(scope)
  // Work that was started inside a callback and outlives it is free again.
  return running.filter((scope) => live(scope.transaction))
}

/** Runs `fn` as a callback of withLock: a model's write in it, without a transaction, is refused. */
export function runInScope<R>(sequelize: Sequelize, transaction: Transaction, fn: () => R): R {
  return scopes.run({ sequelize, transaction, outer: scopes.getStore() }, fn)
}

/** Whether this code runs in a callback that holds `transaction`. */
export function isInScope(transaction: Transaction): boolean {
  return runningScopes().some((scope) => isSameTransaction(scope.transaction, transaction))
}

function ambientTransaction(sequelize: Sequelize): Transaction | undefined {
  const { _cls } = sequelize.constructor as unknown as { _cls?: { get(key: string): unknown } }
  const transaction = _cls?.get('transaction') as Transaction | null | undefined
  // Sequelize.useCLS is static: the ambient transaction may belong to another Sequelize instance.
  if (!transaction || internals(transaction).sequelize !== sequelize || !live(transaction)) return undefined
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

const joinIt =
  'Pass the second argument of the callback, { transaction }; or, for rows that have nothing to do with the lock, { transaction: null } to write outside on purpose.'
const nestIt =
  'Nest it, with the second argument of the callback: sequelize.transaction({ transaction }, …), Model.findOrCreate({ …, transaction }); or open it before withLock().'

function refuseOutside(method: string, sequelize: Sequelize, what: string, remedy = joinIt): void {
  if (!runningScopes().some((scope) => scope.sequelize === sequelize)) return
  throw new OutsideTransactionError(
    method,
    `${what} would run outside the transaction of the withLock() around it: it would commit apart from it, and could wait for its lock`,
    remedy,
  )
}

/** Opens a transaction that may write, runs `fn` in it, and commits; rolls back if `fn` throws. */
export function openTransaction<R>(
  method: string,
  sequelize: Sequelize,
  dialect: Dialect,
  options: Pick<TransactionOptions, 'isolationLevel' | 'logging'>,
  fn: (transaction: Transaction) => Promise<R>,
): Promise<R> {
  // IMMEDIATE takes SQLite's write lock at once: a transaction that read first can never get it after another's write.
  const type = dialect.writerQueue ? { type: Transaction.TYPES.IMMEDIATE } : {}
  const scope = scopes.getStore()
  return oneWriter(method, sequelize, dialect, () =>
    // Asked for by us, so it is no transaction that somebody forgot to nest.
    scopes.run(undefined, () =>
      sequelize.transaction({ ...options, ...type }, async (transaction) => {
        const result = await scopes.run(scope, () => fn(transaction))
        // A statement was told so, and the callback caught its error.
        if (internals(transaction).finished === 'rollback') throw new RolledBackError()
        return result
      }),
    ),
  )
}

/** Whether the transaction was opened in the way that holds SQLite's write lock from its first moment. */
export function takesWriteLockFirst(transaction: Transaction): boolean {
  return /^(IMMEDIATE|EXCLUSIVE)$/.test(internals(outermostOf(transaction)).options.type ?? '')
}

type Queue = string | Sequelize

interface Turn {
  readonly queue: Queue
  over: boolean
}

const queues = new Map<Queue, Promise<void>>()
const turns = new AsyncLocalStorage<Turn>()

/** The queue that the writers of this database stand in, where it does not queue them itself. */
function queueOf(sequelize: Sequelize, dialect: Dialect): Queue | undefined {
  const { options } = sequelize as unknown as { options: { storage?: string; host?: string } }
  const database = dialect.writerQueue?.(options)
  return database === 'in memory' ? sequelize : database
}

function hasTurn(queue: Queue): boolean {
  const turn = turns.getStore()
  return turn?.queue === queue && !turn.over
}

/** Runs `fn` when no other write of this process holds the database, in the order of calls. */
export async function oneWriter<R>(
  method: string,
  sequelize: Sequelize,
  dialect: Dialect,
  fn: () => Promise<R>,
): Promise<R> {
  const queue = queueOf(sequelize, dialect)
  if (queue === undefined) return fn()
  if (hasTurn(queue)) {
    throw new OutsideTransactionError(
      method,
      `${dialect.name} has one writer at a time, and the withLock() around this call is it, so this write would wait for ever`,
      'Write after withLock() has returned; or, through the same Sequelize instance, pass the second argument of the callback, { transaction }.',
    )
  }
  return inTurn(queue, fn)
}

async function inTurn<R>(queue: Queue, fn: () => Promise<R>): Promise<R> {
  const before = queues.get(queue)
  let done!: () => void
  const mine = new Promise<void>((resolve) => (done = resolve))
  queues.set(queue, mine)
  await before
  const turn: Turn = { queue, over: false }
  try {
    return await turns.run(turn, fn)
  } finally {
    turn.over = true
    if (queues.get(queue) === mine) queues.delete(queue)
    done()
  }
}

/** An error of a statement of ours, in the words of this library if another session got in the way. */
export function translated(
  error: unknown,
  dialect: Dialect,
  method: string,
  row: RowFacts,
  transaction: Transaction | undefined,
): unknown {
  const conflict = conflictOf(error, dialect)
  if (!conflict) return error
  const reason =
    conflict === 'deadlock' ? 'a deadlock' : 'a change made by another session since this transaction began'
  return new ConflictError(method, row, reason, transaction !== undefined, error)
}

/** Told of what is sent for an instance, as it is sent; returns what to do once it was done. */
type Observer = (instance: object, columns: readonly string[]) => () => void

const watched = new WeakMap<Transaction, { readonly dialect: Dialect; readonly observe: Observer | undefined }>()

/**
 * From now on, `transaction` cannot commit half of its work: a statement in it that failed because the server rolled
 * the transaction back finishes it here too, and a COMMIT that the database turned into a rollback is an error.
 */
export function watch(transaction: Transaction, dialect: Dialect, observe?: Observer): void {
  const outermost = outermostOf(transaction)
  watched.set(outermost, { dialect, observe: observe ?? watched.get(outermost)?.observe })
  interceptQueries(internals(transaction).sequelize, dialect)
}

const intercepted = new WeakSet<Sequelize>()

interface SentOptions {
  readonly type?: string
  readonly transaction?: Transaction | null
  readonly model?: { readonly name: string }
  readonly instance?: object
  readonly fields?: readonly string[]
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
function interceptQueries(sequelize: Sequelize, dialect: Dialect): void {
  if (intercepted.has(sequelize)) return
  intercepted.add(sequelize)
  const query = sequelize.query.bind(sequelize) as (sql: unknown, options?: SentOptions) => Promise<unknown>
  const queue = queueOf(sequelize, dialect)

  const intercepting = async (sql: unknown, given: SentOptions = {}): Promise<unknown> => {
    // As Sequelize itself does for raw queries, only later.
    const transaction = given.transaction === undefined ? ambientTransaction(sequelize) : given.transaction
    const options = transaction === undefined ? given : { ...given, transaction }
    refuseUntold(sequelize, sql, options)
    if (transaction) {
      const watching = watched.get(outermostOf(transaction))
      if (!watching) return query(sql, options)
      const done = options.instance && watching.observe?.(options.instance, options.fields ?? [])
      const result = await sendWatched(query, sql, options, transaction, watching.dialect)
      done?.()
      return result
    }
    // One connection serves all who use a database in memory: a statement would fall into the transaction that is open.
    if (queue === sequelize && !hasTurn(queue)) return inTurn(queue, () => query(sql, options))
    return query(sql, options)
  }
  sequelize.query = intercepting as Sequelize['query']
}

function refuseUntold(sequelize: Sequelize, sql: unknown, { transaction, type, model, instance }: SentOptions): void {
  if (transaction === undefined && modelWrites.has(type)) {
    const name = model?.name ?? instance?.constructor.name ?? 'a model'
    refuseOutside('withLock', sequelize, `a write of ${name} (${type})`)
  }
  // findOrCreate() opens one of its own.
  const isOpened = transaction && !internals(transaction).parent && /^(START|BEGIN)\b/i.test(String(sql))
  if (isOpened) refuseOutside('withLock', sequelize, 'a transaction that is opened in the callback', nestIt)
}

async function sendWatched(
  query: (sql: unknown, options: SentOptions) => Promise<unknown>,
  sql: unknown,
  options: SentOptions,
  transaction: Transaction,
  dialect: Dialect,
): Promise<unknown> {
  const isCommit = options.completesTransaction === true && /^COMMIT/i.test(String(sql))
  try {
    // Only a RAW result carries the word that a database answers with.
    const result = await query(sql, isCommit ? { ...options, type: QueryTypes.RAW } : options)
    if (!isCommit || !dialect.isRollback(result)) return result
  } catch (error) {
    if (dialect.conflictEndsTransaction && conflictOf(error, dialect)) await finish(transaction)
    throw error
  }
  // Sequelize would call them although nothing was committed.
  internals(transaction)._afterCommitHooks = []
  throw new RolledBackError()
}

/** Marks a transaction that the server has rolled back, and all around it, as such: Sequelize alone would go on in autocommit. */
async function finish(transaction: Transaction): Promise<void> {
  const all = nesting(transaction)
  const outermost = all.at(-1)!
  // Gives the connection back; whether the server still had something to roll back does not matter.
  if (!internals(outermost).finished) await outermost.rollback().catch(() => undefined)
  for (const each of all) internals(each).finished = 'rollback'
}
