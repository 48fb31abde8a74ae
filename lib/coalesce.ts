import { AsyncResource } from 'node:async_hooks'
import { setImmediate as turn } from 'node:timers/promises'
import type { Sequelize } from 'sequelize'
import { usage } from './errors/usage.js'
import { Batch } from './json/combine.js'
import type { Operation } from './json/operation.js'
import { isSequelize } from './target.js'

/** A call that may share a statement with others of its row and column. */
export interface Call {
  readonly operations: readonly Operation[]
  /** Only calls of the same terms share one; a call without is sent alone. */
  readonly terms: string | undefined
}

/** How the calls of one row and column are sent. */
interface Sender<C extends Call, R> {
  /** One statement, from any caller's context; a call that is alone is sent from its own. */
  readonly send: (calls: readonly C[], operations: readonly Operation[]) => Promise<R>
  /** What a statement may hold. */
  readonly maxBytes: number
  /** Whether the error can be that of one call alone, and it is certain that nothing was written. */
  readonly isOfOneCall: (error: unknown) => boolean
}

interface Waiting {
  readonly call: Call
  readonly sender: Sender<Call, unknown>
  readonly resolve: (result: unknown) => void
  readonly reject: (error: unknown) => void
}

/** What waits while a statement is on its way, by table and place; nothing is kept of a row that nobody writes. */
const lanes = new Map<object, Map<string, Waiting[]>>()

// Tests that replace the timers of a process stop no writes.
const eventLoopTurn = turn

// A statement that is many callers' is sent in the context of none: not in a transaction, a scope, or a turn of one of them.
const nobody = new AsyncResource('sequelize-lossless')

/**
 * Sends a call at once, or, while a statement for the same place is on its way, with those that wait like it: in the order
 * of calls, and so that each call is told the fate of its own operations.
 *
 * @param table whose columns they are; the same object for every scope of a model
 * @param place the row and column in it
 */
export function coalesce<C extends Call, R>(table: object, place: string, call: C, sender: Sender<C, R>): Promise<R> {
  return new Promise<R>((resolve, reject) => {
    const send = call.terms === undefined ? AsyncResource.bind(sender.send) : sender.send
    const waiting = { call, sender: { ...sender, send }, resolve, reject } as unknown as Waiting
    const places = lanes.get(table) ?? new Map<string, Waiting[]>()
    lanes.set(table, places)
    const lane = places.get(place)
    if (lane) {
      lane.push(waiting)
      return
    }
    const opened = [waiting]
    places.set(place, opened)
    const sendAll = async (): Promise<void> => {
      while (opened.length > 0) {
        await sendNext(opened)
        // Whoever was told calls again, if it does, before the event loop turns.
        await eventLoopTurn()
      }
      places.delete(place)
      if (places.size === 0) lanes.delete(table)
    }
    void nobody.runInAsyncScope(sendAll)
  })
}

/**
 * Takes the calls in front that go together out of the lane, and sends them in one statement; if that is refused for what
 * may be the fault of one of them, in halves.
 */
async function sendNext(lane: Waiting[]): Promise<void> {
  const taken = lane.splice(0, 1)
  const [{ call, sender }] = taken as [Waiting]
  try {
    const batch = new Batch(call.operations, sender.maxBytes)
    let more = 0
    while (
      call.terms !== undefined &&
      lane[more]?.call.terms === call.terms &&
      batch.add(lane[more]!.call.operations)
    ) {
      more++
    }
    taken.push(...lane.splice(0, more))
    const calls = taken.map((each) => each.call)
    const result = await sender.send(calls, more === 0 ? call.operations : batch.operations)
    for (const { resolve } of taken) resolve(result)
  } catch (error) {
    if (taken.length === 1 || !sender.isOfOneCall(error)) for (const { reject } of taken) reject(error)
    else {
      const rest = taken.splice(taken.length >> 1)
      for (const half of [taken, rest]) while (half.length > 0) await sendNext(half)
    }
  }
}

/** The calls that were made and are not settled. */
const unsettled = new Map<Sequelize, Set<Promise<unknown>>>()

/** Counts a coalesced call, from the moment it is made, among those that {@link flush} waits for. */
export function untilSettled<R>(sequelize: Sequelize, call: Promise<R>): Promise<R> {
  const calls = unsettled.get(sequelize) ?? new Set()
  unsettled.set(sequelize, calls.add(call))
  const leave = (): void => {
    calls.delete(call)
    if (calls.size === 0) unsettled.delete(sequelize)
  }
  call.then(leave, leave)
  return call
}

/**
 * Waits until every coalesced write that was called before is settled, for an orderly shutdown. It resolves whatever
 * became of them: each failed call has rejected where it was made. Sends nothing of its own.
 *
 * @throws {UsageError} not a Sequelize instance
 * @example
 *     process.once('SIGTERM', async () => {
 *       server.close()
 *       await flush(sequelize)
 *       await sequelize.close()
 *     })
 */
export async function flush(sequelize: Sequelize): Promise<void> {
  if (!isSequelize(sequelize)) throw usage.sequelize('flush', sequelize, 'await flush(sequelize)')
  await Promise.allSettled([...(unsettled.get(sequelize) ?? [])])
}
