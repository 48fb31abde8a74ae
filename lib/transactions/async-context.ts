import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import type { Sequelize, Transaction } from 'sequelize'
import type { ReadOnlyCall } from '../rows/row-state.js'

/** One execution of a callback that has a transaction. */
export interface Scope {
  /** The method whose callback it is; `undefined` for a callback of Sequelize's own `transaction()`. */
  readonly method: string | undefined
  readonly sequelize: Sequelize
  readonly transaction: Transaction
  /** The server's transaction. */
  readonly outermost: Transaction
  readonly outer: Scope | undefined
  /** The callback has returned or thrown. */
  isOver: boolean
}

/** A slot in the writer queue of a database with a single writer. */
export interface WriterSlot {
  /** The database: its file, or the Sequelize instance of a database in memory. */
  readonly database: string | Sequelize
  isOver: boolean
  /** Admits the next writer: after COMMIT, which may be before the call ends. */
  release(): void
}

/** A statement in flight. Its hooks may send further statements. */
export interface SendingStatement {
  /** The server's transaction. */
  readonly transaction: Transaction
  isOver: boolean
}

/** The turn of a call for a row, among those of its transaction. Hooks of the call, and calls in them, are part of it. */
export interface Turn {
  /** `'call'`: it writes an instance. `'callback'`: it runs a callback that uses the row, such as that of withLock. */
  readonly kind: 'call' | 'callback'
  /** The server's transaction. */
  readonly transaction: Transaction
  /** The loose key of the row. */
  readonly key: string
  /** The turn that this one is part of. */
  readonly outer: Turn | undefined
  isOver: boolean
}

/** The entries of AsyncLocalStorage for the current asynchronous flow. */
export interface AsyncContext {
  readonly scope?: Scope | undefined
  readonly writerSlot?: WriterSlot | undefined
  readonly sending?: SendingStatement | undefined
  readonly turn?: Turn | undefined
  /** The calls whose callbacks, around the current code, must not write their row. */
  readonly readOnly?: readonly ReadOnlyCall[] | undefined
  /** What Sequelize keeps in the namespace of `Sequelize.useCLS`. */
  readonly ambient?: Map<string, unknown> | undefined
}

const storage = new AsyncLocalStorage<AsyncContext>()
const empty: AsyncContext = Object.freeze({})

export function currentContext(): AsyncContext {
  return storage.getStore() ?? empty
}

/** Runs `fn` in a context with the entries of `change` replaced. */
export function runWith<R>(change: AsyncContext, fn: () => R, context: AsyncContext = currentContext()): R {
  return storage.run({ ...context, ...change }, fn)
}

/** The scopes of the current code, innermost first. A branch that was not awaited keeps the scope of its callback. */
export function currentScopes(sequelize: Sequelize): Scope[] {
  const scopes: Scope[] = []
  for (let { scope } = currentContext(); scope; scope = scope.outer) {
    if (scope.sequelize === sequelize) scopes.push(scope)
  }
  return scopes
}

/** The interface that `Sequelize.useCLS` needs to store its ambient transaction. */
export interface TransactionNamespace {
  get(key: string): unknown
  set<V>(key: string, value: V): V
  run(fn: (context: Map<string, unknown>) => void): Map<string, unknown>
  bind<F extends (...args: unknown[]) => unknown>(fn: F): F
}

/**
 * A namespace for `Sequelize.useCLS`, based on Node's AsyncLocalStorage: code in the callback of
 * `sequelize.transaction()` then joins that transaction without `{ transaction }`.
 *
 * Call `useCLS` once, before the first `new Sequelize()`; it applies to all Sequelize instances. A transaction without
 * a callback is never ambient, and `{ transaction: null }` opts out.
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
    // A copy: after a nested transaction, the outer transaction is ambient again.
    const ambient = new Map(currentContext().ambient)
    runWith({ ambient }, () => {
      fn(ambient)
    })
    return ambient
  },
  bind: <F extends (...args: unknown[]) => unknown>(fn: F) => AsyncResource.bind<F, unknown>(fn),
}
