import { channel, tracingChannel } from 'node:diagnostics_channel'
import type { Channel, TracingChannel } from 'node:diagnostics_channel'
import { performance } from 'node:perf_hooks'
import type { RowFacts } from '../errors/errors.js'

/** The call that a message is about. */
export interface CallOrigin {
  /** The method that the application called: `mergeJsonKey`. */
  readonly method: string
  /** The name of the model; `undefined` for `retryTransaction` and the detection of the server. */
  readonly model: string | undefined
  /** Of the first row of the call; empty for rows that are given by a `where`. */
  readonly primaryKey: Readonly<Record<string, unknown>>
}

/** The result of what was traced; set before `asyncEnd` is published. */
interface Outcome {
  /** From `start` to `asyncEnd`, in milliseconds. */
  readonly durationMs?: number
  /**
   * The error, if it failed. An error of the database has the bound values in its `parameters`, a `ConditionNotMetError` the
   * values of its `condition`.
   */
  readonly error?: unknown
}

/**
 * The message of the tracing channel `sequelize-lossless:call`: a call of a public function, from the end of the checks of its
 * arguments until its promise settles. The `code` of its `error` names conflicts, timeouts and unknown outcomes.
 */
export interface CallMessage extends CallOrigin, Outcome {}

/** The message of the tracing channel `sequelize-lossless:statement`: a statement that this library sends, until its result. */
export interface StatementMessage extends CallOrigin, Outcome {
  /** The dialect of the Sequelize instance: `mysql`. */
  readonly dialect: string
  /** The text, with placeholders for all values. */
  readonly sql: string
  readonly isInTransaction: boolean
  /** The number of rows that it returned or changed; `undefined` if it failed, or the driver does not say. */
  readonly rows?: number | undefined
}

/** The message of the tracing channel `sequelize-lossless:lock`: a wait for a lock, until it is granted. */
export interface LockMessage extends CallOrigin, Outcome {
  /** `'row'`: a locking read. `'writer queue'`: the turn of a writer of this process, on SQLite. */
  readonly kind: 'row' | 'writer queue'
  /** The maximum wait that the call allows; 0 does not wait, `undefined` is the timeout of the server. */
  readonly timeoutMs: number | undefined
}

/** The message of the channel `sequelize-lossless:retry`, before the pause after a failed attempt that will be retried. */
export interface RetryMessage extends CallOrigin {
  /** Why the attempt failed. */
  readonly reason: string
  /** The number of the attempt that failed; the first is 1. */
  readonly attempt: number
  readonly maxAttempts: number
  /** The pause before the next attempt, in milliseconds. */
  readonly delayMs: number
  readonly error: unknown
}

/** The message of the channel `sequelize-lossless:batch`, before a statement of `{ coalesce: true }` is sent. */
export interface BatchMessage extends CallOrigin {
  /** The JSON column. */
  readonly column: string
  /** The number of calls that share the statement. */
  readonly calls: number
}

/** What {@link CallOrigin} is made of. */
export interface CallFacts {
  readonly method: string
  readonly row: RowFacts | undefined
}

const calls = tracingChannel<unknown, CallMessage>('sequelize-lossless:call')
const statements = tracingChannel<unknown, StatementMessage>('sequelize-lossless:statement')
const locks = tracingChannel<unknown, LockMessage>('sequelize-lossless:lock')
const retries = channel('sequelize-lossless:retry') as Channel<unknown, RetryMessage>
const batches = channel('sequelize-lossless:batch') as Channel<unknown, BatchMessage>

/** Runs a call, and publishes it. Without a subscriber, no message is built; so in the functions below. */
export function traceCall<R>(call: CallFacts, run: () => Promise<R>): Promise<R> {
  return calls.hasSubscribers ? trace<CallMessage, R>(calls, messageOf(call), run) : run()
}

/**
 * Sends a statement, and publishes it.
 * @param rowsOf the number of rows in its result
 */
export function traceStatement<R>(
  call: CallFacts,
  facts: () => Pick<StatementMessage, 'dialect' | 'sql' | 'isInTransaction'>,
  send: () => Promise<R>,
  rowsOf: (result: R) => number | undefined,
): Promise<R> {
  if (!statements.hasSubscribers) return send()
  return trace(statements, { ...messageOf(call), ...facts() }, send, (result) => ({ rows: rowsOf(result) }))
}

/** Waits for a lock, and publishes the wait. */
export function traceLock<R>(
  call: CallFacts,
  facts: Pick<LockMessage, 'kind' | 'timeoutMs'>,
  wait: () => Promise<R>,
): Promise<R> {
  return locks.hasSubscribers ? trace(locks, { ...messageOf(call), ...facts }, wait) : wait()
}

export function publishRetry(
  call: CallFacts,
  failed: Omit<RetryMessage, keyof CallOrigin | 'reason'>,
  reasonOf: () => RetryMessage['reason'],
): void {
  if (retries.hasSubscribers) retries.publish({ ...messageOf(call), ...failed, reason: reasonOf() })
}

export function publishBatch(call: CallFacts, batch: Omit<BatchMessage, keyof CallOrigin>): void {
  if (batches.hasSubscribers) batches.publish({ ...messageOf(call), ...batch })
}

/** A copy, since a subscriber may change its message. */
function messageOf({ method, row }: CallFacts): CallOrigin {
  return { method, model: row?.model, primaryKey: structuredClone(row?.primaryKey ?? {}) }
}

/**
 * Publishes `start`, `end`, `asyncStart`, `asyncEnd` and `error` in the order of Node's `tracePromise`, which would put the
 * result on the message, with its values of documents, and would fail for a message that a subscriber has frozen.
 */
async function trace<M extends Outcome, R>(
  { start, end, asyncStart, asyncEnd, error: failed }: TracingChannel<unknown, M>,
  message: M,
  run: () => Promise<R>,
  resultOf?: (result: R) => Partial<M>,
): Promise<R> {
  const startedAt = performance.now()
  const settle = (facts: Partial<M>): void => {
    const durationMs = performance.now() - startedAt
    // Unlike an assignment, it does not throw for a frozen message.
    for (const [name, value] of Object.entries({ ...facts, durationMs })) Reflect.set(message, name, value)
    if ('error' in facts) failed.publish(message)
    asyncStart.publish(message)
    asyncEnd.publish(message)
  }
  // What `run` throws before it returns its promise is a rejection, too.
  const running = start.runStores(message, async () => run())
  end.publish(message)
  const result = await running.catch((error: unknown) => {
    settle({ error } as Partial<M>)
    throw error
  })
  settle(resultOf?.(result) ?? {})
  return result
}
