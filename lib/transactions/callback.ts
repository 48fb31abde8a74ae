import type { Transaction } from 'sequelize'
import { PendingStatementsError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { currentContext, runWith } from './async-context.js'
import type { Scope } from './async-context.js'
import type { Call } from './call.js'
import type { TransactionState } from './transaction-state.js'

/** How often to wait for the statements that a callback left in progress, before further statements are refused. */
const maxLateRounds = 100

// Bound when the module loads: fake timers in tests must not block a callback.
const nextTick = process.nextTick.bind(process)

/** Resolves after the pending microtasks have run. */
function microtasksDone(): Promise<void> {
  return new Promise((resolve) => {
    nextTick(resolve)
  })
}

/**
 * Runs a callback that has a transaction. Refuses a write in it outside the transaction, and every later statement of a
 * branch that the callback did not await.
 * @throws {PendingStatementsError} the callback returned while a statement of it was in progress
 * @throws {RolledBackError} the transaction was rolled back although the callback succeeded
 * @throws {UsageError} the callback returned a value that has not started to run, such as an Observable
 */
export async function runCallback<R>(
  { method, session: { sequelize }, transaction: joined }: Call,
  state: TransactionState,
  transaction: Transaction,
  fn: () => R | Promise<R>,
): Promise<R> {
  const scope: Scope = { method, sequelize, transaction, outer: currentContext().scope, isOver: false }
  const isJoined = joined !== undefined
  try {
    const result = await runWith({ scope }, fn)
    await microtasksDone()
    const around = isJoined ? scope : undefined
    const work = [...state.work.of(around), ...state.savepoints.of(around)]
    if (work.length > 0) {
      const own = work.filter(({ isPart }) => !isPart)
      // In onWrite, all statements are part of the write.
      const descriptions = (own.length > 0 ? own : work).map(({ description }) => description)
      await settleWork(state, scope, isJoined)
      throw new PendingStatementsError(method, descriptions, isJoined)
    }
    if (isNotBegun(result)) throw usage.notBegun(method, result)
    if (state.outcome === 'committed') throw usage.committedByCallback(method)
    if (state.outcome === 'rolled back' || state.isDoomed) throw state.rolledBackError(method)
    return result
  } catch (error) {
    scope.isOver = true
    // A row method that ends after the rollback would change the instance again.
    await settleWork(state, scope, isJoined)
    throw error
  } finally {
    scope.isOver = true
  }
}

async function settleWork(state: TransactionState, scope: Scope, isJoined: boolean): Promise<void> {
  for (let round = 0; round < maxLateRounds; round++) {
    const work = state.work.of(isJoined ? scope : undefined)
    if (work.length === 0) return
    await Promise.all(work.map(({ settled }) => settled))
    await microtasksDone()
  }
}

/** Whether a value is lazy: its work starts on subscription (Observable) or iteration (generator). */
function isNotBegun(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  if ('subscribe' in value && typeof value.subscribe === 'function') return true
  return /^\[object (Async)?Generator\]$/.test(Object.prototype.toString.call(value))
}
