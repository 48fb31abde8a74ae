import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import type { Sequelize, Transaction } from 'sequelize'
import type { StatementQueue } from './statement-queue.js'

/** One run of a callback that has a transaction. */
export interface Scope {
  /** The method whose callback it is; `undefined` for a callback of Sequelize's own `transaction()`. */
  readonly method: string | undefined
  readonly sequelize: Sequelize
  readonly transaction: Transaction
  readonly outer: Scope | undefined
  /** The callback has returned or thrown. */
  isOver: boolean
}

/** A place in the queue of a database that has one writer at a time. */
export interface WriterSlot {
  /** The database: its file, or the Sequelize instance of a database in memory. */
  readonly database: string | Sequelize
  isOver: boolean
  /** Lets the next writer in, before the call has ended: once it has committed. */
  release(): void
}

/** A statement that is being sent, whose hooks may send others. */
export interface SendingStatement {
  /** The server's transaction. */
  readonly transaction: Transaction
  isOver: boolean
}

/** A savepoint with its callback, or a call of a row's method, whose statements are not mixed with those of other branches. */
export interface Branch {
  /** The server's transaction. */
  readonly transaction: Transaction
  readonly queue: StatementQueue
  readonly outer: Branch | undefined
  isOver: boolean
}

/** What is known of the asynchronous flow that code runs in. */
interface AsyncContext {
  readonly scope?: Scope | undefined
  readonly writerSlot?: WriterSlot | undefined
  readonly sending?: SendingStatement | undefined
  readonly branch?: Branch | undefined
  /** What Sequelize keeps in the namespace of `Sequelize.useCLS`. */
  readonly ambient?: Map<string, unknown> | undefined
}

const storage = new AsyncLocalStorage<AsyncContext>()
const empty: AsyncContext = Object.freeze({})

export function currentContext(): AsyncContext {
  return storage.getStore() ?? empty
}

/** Runs `fn` in the present context with some of its entries replaced. */
export function runWith<R>(change: AsyncContext, fn: () => R): R {
  return storage.run({ ...currentContext(), ...change }, fn)
}

/** The scopes that this code runs in, innermost first; a branch of a callback stays in its scope after the callback is over. */
export function currentScopes(sequelize: Sequelize): Scope[] {
  const scopes: Scope[] = []
  for (let { scope } = currentContext(); scope; scope = scope.outer) {
    if (scope.sequelize === sequelize) scopes.push(scope)
  }
  return scopes
}

/** A namespace that `Sequelize.useCLS` takes for its ambient transaction. */
export interface TransactionNamespace {
  get(key: string): unknown
  set<V>(key: string, value: V): V
  run(fn: (context: Map<string, unknown>) => void): Map<string, unknown>
  bind<F extends (...args: unknown[]) => unknown>(fn: F): F
}

/**
 * A namespace for `Sequelize.useCLS`, on Node's own AsyncLocalStorage: code in the callback of `sequelize.transaction()`
 * then takes part in that transaction without `{ transaction }`.
 *
 * Call `useCLS` once, before the first `new Sequelize()`; it holds for all Sequelize instances. A transaction that was begun
 * without a callback is never ambient, and `{ transaction: null }` opts out.
 *
 * @example
 *     Sequelize.useCLS(transactionNamespace)
 *     await sequelize.transaction(async () => {
 *       await run.withLock(async (run) => run.update({ status: 'done' })) // joins it
 *     })
 * @see https://sequelize.org/docs/v6/other-topics/transactions/#automatically-pass-transactions-to-all-queries
 */
export const transactionNamespace: TransactionNamespace = {
  get: (key) => currentContext().ambient?.get(key),
  set(key, value) {
    currentContext().ambient?.set(key, value)
    return value
  },
  run(fn) {
    // A copy, so that the ambient transaction around a nested one is back after it.
    const ambient = new Map(currentContext().ambient)
    runWith({ ambient }, () => {
      fn(ambient)
    })
    return ambient
  },
  bind: <F extends (...args: unknown[]) => unknown>(fn: F) => AsyncResource.bind<F, unknown>(fn),
}
