import { AsyncResource } from 'node:async_hooks'
import { setImmediate as turn } from 'node:timers/promises'
import { BaseError } from 'sequelize'
import type { Sequelize } from 'sequelize'
import { isLosslessError } from '../errors/errors.js'
import { captureStack, usage } from '../errors/usage.js'
import { Batch } from '../json/combine.js'
import type { Operation } from '../json/operation.js'
import { isSequelize } from '../rows/row-ref.js'
import { BatchQueue, sessionOf } from '../sequelize/session.js'
import type { PendingCall, Session } from '../sequelize/session.js'
import { innermostScope } from '../transactions/join.js'

/** Sends the calls for one row and column. */
interface BatchWriter<C, R> {
  /** Sends one statement: a batch outside every caller's async context, a call without a batch key in its own. */
  readonly send: (calls: readonly C[], operations: readonly Operation[], queue: BatchQueue) => Promise<R>
  /** The maximum size of the operands of one batch, in bytes. */
  readonly maxBytes: number
  /** Whether a single call of the batch may have caused the error, and certainly nothing was written. */
  readonly isOfOneCall: (error: unknown) => boolean
}

/** A call that can go into a batch. */
export interface BatchableCall {
  readonly operations: readonly Operation[]
  /** Only calls with the same key go into one batch; a call without a key is sent alone. */
  readonly batchKey: string | undefined
}

/** A call in the queue, with the writer that sends it. */
interface QueuedCall<C, R> extends PendingCall {
  readonly call: C
  readonly writer: BatchWriter<C, R>
}

// Bound when the module loads: fake timers in tests must not stall writes.
const eventLoopTurn = turn

// Batches run outside every caller's async context: transaction, scope and writer slot of a single caller do not apply.
const detached = new AsyncResource('sequelize-lossless')

/**
 * Sends a call at once; or, while a statement for the same row and column is in flight, in a batch with the other
 * queued calls, in the order of calls. Each call settles with the outcome of its own operations.
 *
 * @param table the attributes object of the model, which all its scopes share
 * @param place the row and column in that table
 */
export async function coalesce<C extends BatchableCall, R>(
  { batchQueues }: Session,
  table: object,
  place: string,
  call: C,
  writer: BatchWriter<C, R>,
): Promise<R> {
  const settled = new Promise<R>((resolve, reject) => {
    const send = call.batchKey === undefined ? AsyncResource.bind(writer.send) : writer.send
    const { operations, batchKey } = call
    const queued = { operations, batchKey, call, writer: { ...writer, send }, resolve, reject } as QueuedCall<C, R>
    const places = batchQueues.get(table) ?? new Map<string, BatchQueue>()
    batchQueues.set(table, places)
    const queue = places.get(place)
    if (queue) {
      queue.calls.push(queued)
      return
    }
    const opened = new BatchQueue([queued])
    places.set(place, opened)
    const sendAll = async (): Promise<void> => {
      while (opened.calls.length > 0) {
        await sendNext(opened)
        // Resolved callers can enqueue their next call before the next batch is built.
        await eventLoopTurn()
      }
      places.delete(place)
      if (places.size === 0) batchQueues.delete(table)
    }
    void detached.runInAsyncScope(sendAll)
  })
  try {
    return await settled
  } catch (error) {
    throw ownError(error)
  }
}

/**
 * A copy of the error of a batch for one of its callers, with the caller's line in its stack. An error of another kind, such as
 * the reason of an AbortSignal, may have what no copy has.
 */
function ownError(error: unknown): unknown {
  if (!isLosslessError(error) && !(error instanceof BaseError)) return error
  const copy = new Error(error.message)
  Object.setPrototypeOf(copy, Object.getPrototypeOf(error) as object)
  Object.defineProperties(copy, Object.getOwnPropertyDescriptors(error))
  captureStack(copy, ownError)
  return copy
}

/**
 * Takes the compatible calls at the front of the queue and sends them in one statement; if a single call may have
 * caused an error, sends them again in halves.
 */
async function sendNext<C, R>(queue: BatchQueue<QueuedCall<C, R>>): Promise<void> {
  const { calls: waiting } = queue
  const taken = waiting.splice(0, 1)
  const [{ batchKey, operations, writer }] = taken as [QueuedCall<C, R>]
  try {
    const batch = new Batch(operations, writer.maxBytes)
    let more = 0
    while (batchKey !== undefined && waiting[more]?.batchKey === batchKey && batch.add(waiting[more]!.operations))
      more++
    taken.push(...waiting.splice(0, more))
    const calls = taken.map(({ call }) => call)
    const result = await writer.send(calls, more === 0 ? operations : batch.operations, queue)
    for (const { resolve } of taken) resolve(result)
  } catch (error) {
    if (taken.length === 1 || !writer.isOfOneCall(error)) for (const { reject } of taken) reject(error)
    else {
      const rest = taken.splice(taken.length >> 1)
      for (const calls of [taken, rest]) while (calls.length > 0) await sendNext(new BatchQueue(calls))
    }
  }
}

/** Runs a call that may be batched, or an `atomicUpsert`, for {@link flush} to wait for it. */
export async function trackUnsettled<R>({ unsettledCalls }: Session, run: () => Promise<R>): Promise<R> {
  const call = run()
  unsettledCalls.add(call)
  try {
    // Node follows a promise to its caller, for the stack of an error, only if one caller waits for it.
    return await call
  } finally {
    unsettledCalls.delete(call)
  }
}

/**
 * Waits until every batched write and every `atomicUpsert` that was called before, outside a transaction, has settled,
 * for an orderly shutdown. Resolves even if some writes failed: each failed call rejects at its call site. Sends no
 * SQL.
 *
 * @throws {UsageError} not a Sequelize instance; in a callback of this library, whose lock or write the calls may wait for
 * @example
 *     process.once('SIGTERM', async () => {
 *       server.close()
 *       await flush(sequelize)
 *       await sequelize.close()
 *     })
 */
export async function flush(sequelize: Sequelize): Promise<void> {
  if (!isSequelize(sequelize)) throw usage.sequelize('flush', sequelize, 'await flush(sequelize)')
  const session = sessionOf(sequelize)
  const scope = innermostScope(session)
  if (scope?.method !== undefined && !scope.isOver) throw usage.flushInside(scope.method)
  await Promise.allSettled(session.unsettledCalls)
}
