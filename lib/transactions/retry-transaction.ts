import type { Logging, Sequelize, Transaction } from 'sequelize'
import { usage } from '../errors/usage.js'
import { isSequelize } from '../rows/row-ref.js'
import { traceCall } from '../sequelize/channels.js'
import { sessionOf } from '../sequelize/session.js'
import { checkIsolationLevel, execute, runCallback, startCall } from './execute.js'
import { ambientTransaction, innermostScope, refuseOutside } from './join.js'
import { checkRetryOptions } from './retry.js'
import type { RetryOptions } from './retry.js'

export interface RetryTransactionOptions extends RetryOptions, Logging {
  /** The isolation level of each transaction. Default: Sequelize's own. */
  readonly isolationLevel?: Transaction.ISOLATION_LEVELS
}

/**
 * Runs `fn` in a transaction; after a conflict with another session it runs `fn` again, in a new transaction, from its
 * first read. A conflict is a deadlock, a serialization failure, a certification conflict of a cluster, or a stale `version`.
 *
 * Concurrent statements of `fn` are sent one at a time; none is sent after the server has ended the transaction. Pauses
 * between attempts: exponential backoff with full jitter. Never runs `fn` again if the transaction may have been
 * committed. Lock timeouts and lost connections are not retried: the lock may be held for long, and after COMMIT the
 * outcome is unknown. `fn` may run several times: it must read inside the transaction, and must have no side effects
 * that a rollback does not undo, such as mail. After each failed attempt, every instance that it wrote is restored:
 * values, changes, `isNewRecord`, version.
 *
 * @returns the result of `fn`, after COMMIT
 * @throws {UsageError} before any SQL: a wrong option; or a transaction is open already, which cannot be run again here
 * @throws {PendingStatementsError} `fn` returned while a statement of it was in progress; everything was rolled back
 * @throws {RolledBackError} `fn` caught the error of a statement that had ended the transaction
 * @throws {UnknownOutcomeError} the connection was lost after COMMIT was sent
 * @throws {ConflictError} the last attempt met a deadlock or a conflict
 * @throws every other error of `fn`; `signal.reason` after an abort
 * @example
 *     await retryTransaction(sequelize, async (transaction) => {
 *       const [from, to] = await Promise.all([1, 2].map((id) => Account.findByPk(id, { transaction, lock: true })))
 *       await from.decrement('cents', { by: 100, transaction })
 *       await to.increment('cents', { by: 100, transaction })
 *     }, { maxAttempts: 10, signal })
 * @see https://dev.mysql.com/doc/refman/9.7/en/innodb-deadlocks-handling.html
 */
export async function retryTransaction<R>(
  sequelize: Sequelize,
  fn: (transaction: Transaction) => R | Promise<R>,
  options: RetryTransactionOptions = {},
): Promise<R> {
  const method = 'retryTransaction'
  if (!isSequelize(sequelize)) {
    throw usage.sequelize(method, sequelize, `${method}(sequelize, async (transaction) => { … })`)
  }
  if (typeof fn !== 'function') throw usage.callback(method, fn, 'transaction')
  const retry = checkRetryOptions(method, options, ['isolationLevel', 'logging'])
  const { isolationLevel, logging } = retry
  checkIsolationLevel(method, isolationLevel)
  const session = sessionOf(sequelize)
  const scope = innermostScope(session)
  if (scope?.isOver === false || ambientTransaction(session)) throw usage.retryJoined(method)
  refuseOutside(session, method, 'this call')
  const call = await startCall({ method, session, row: undefined, transaction: undefined, logging })
  return traceCall(call, () =>
    execute(
      call,
      {
        statements: () => Promise.resolve(),
        callback: (_prepared, { transaction }, state) => runCallback(call, state, transaction!, () => fn(transaction!)),
      },
      { opensTransaction: true, isolationLevel, retry },
    ),
  )
}
