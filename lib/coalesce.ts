import { AsyncResource } from 'node:async_hooks'
import { setImmediate } from 'node:timers/promises'
import type { Sequelize } from 'sequelize'
import type { RowModel } from './database.js'
import { usage } from './errors.js'
import { destination, fold } from './operation.js'
import type { Operation, Path } from './operation.js'
import { isSequelize } from './target.js'

/** A call that may share a statement with others of its row and column. */
export interface Call {
  readonly operations: readonly Operation[]
  /** Only calls of the same terms share one; a call without is sent alone. */
  readonly terms: string | undefined
}

/** How the calls of one row and column are sent. */
interface Sender<C extends Call, R> {
  /** One statement, from any caller's context. */
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

/** What waits, by model and place, while a statement is on its way; nothing is kept of a row that nobody writes. */
const lanes = new Map<RowModel, Map<string, Waiting[]>>()

// A statement that is many callers' is sent in the context of none: not in a transaction, a scope, or a turn of one of them.
const nobody = new AsyncResource('sequelize-lossless')

/**
 * Sends a call at once, or, while a statement for the same place is on its way, with those that wait like it: in the order
 * of calls, and so that each call is told the fate of its own operations.
 *
 * @param place the row and column, among those of its model
 */
export function coalesce<C extends Call, R>(model: RowModel, place: string, call: C, sender: Sender<C, R>): Promise<R> {
  return new Promise<R>((resolve, reject) => {
    const waiting = { call, sender, resolve, reject } as unknown as Waiting
    const places = lanes.get(model) ?? new Map<string, Waiting[]>()
    lanes.set(model, places)
    const lane = places.get(place)
    if (lane) {
      lane.push(waiting)
      return
    }
    const opened = [waiting]
    places.set(place, opened)
    const sendAll = async (): Promise<void> => {
      while (opened.length > 0) {
        await sendTogether(opened.splice(0, sharing(opened)))
        // Whoever was told calls again, if it does, before the event loop turns.
        await setImmediate()
      }
      places.delete(place)
      if (places.size === 0) lanes.delete(model)
    }
    void nobody.runInAsyncScope(sendAll)
  })
}

/** How many of the calls in front can share a statement. */
function sharing(lane: readonly Waiting[]): number {
  const [first] = lane as [Waiting]
  const { terms } = first.call
  const batch = new Batch(first.sender.maxBytes)
  let count = 0
  while (count < lane.length && lane[count]!.call.terms === terms && batch.add(lane[count]!.call.operations)) {
    count++
    if (terms === undefined) break
  }
  return count
}

/** Sends calls in one statement; if that is refused for what may be the fault of one of them, in two. */
async function sendTogether(batch: readonly Waiting[]): Promise<void> {
  const { send, isOfOneCall } = batch[0]!.sender
  const together = new Batch(Infinity)
  for (const { call } of batch) together.add(call.operations)
  try {
    const calls = batch.map(({ call }) => call)
    const result = await send(calls, batch.length === 1 ? calls[0]!.operations : together.operations)
    for (const { resolve } of batch) resolve(result)
  } catch (error) {
    if (batch.length > 1 && isOfOneCall(error)) {
      const middle = batch.length >> 1
      await sendTogether(batch.slice(0, middle))
      await sendTogether(batch.slice(middle))
    } else for (const { reject } of batch) reject(error)
  }
}

/** A key of a document that some operation is about, or that leads to one. */
interface Place {
  operation?: Operation
  readonly inner: Map<string, Place>
}

/** More would make the statement's own work, and its text, long. */
const maxOperations = 256

/** Operations for one statement: their paths do not overlap, or what they do to one path is folded into one operation. */
class Batch {
  readonly #root: Place = { inner: new Map() }
  readonly #maxBytes: number
  #count = 0
  #bytes = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  get operations(): Operation[] {
    const found = new Set<Operation>()
    const visit = ({ operation, inner }: Place): void => {
      if (operation) found.add(operation)
      for (const place of inner.values()) visit(place)
    }
    visit(this.#root)
    // What does not depend on the order of calls is a text that the server has seen before.
    return [...found].sort((one, other) =>
      one.kind === other.kind ? one.path.length - other.path.length : one.kind < other.kind ? -1 : 1,
    )
  }

  /** Takes all of these operations, or, if they do not go together with those that are there, none. */
  add(operations: readonly Operation[]): boolean {
    const folded = operations.map((each) => this.#folded(each))
    const more = operations.filter((each, index) => each === folded[index]).length
    const bytes = operations.reduce((sum, { path, json }) => sum + 3 * (json.length + path.join().length), 0)
    const isRoom = this.#count + more <= maxOperations && this.#bytes + bytes <= this.#maxBytes
    if (this.#count > 0 && !(isRoom && folded.every((each) => each !== undefined))) return false
    for (const each of folded) if (each) for (const path of pathsOf(each)) this.#make(path).operation = each
    this.#count += more
    this.#bytes += bytes
    return true
  }

  /** `operation`, with what another call does to the same path; `undefined` if it overlaps what others do. */
  #folded(operation: Operation): Operation | undefined {
    const found = pathsOf(operation).map((path) => this.#find(path))
    if (found.every((place) => place === undefined)) return operation
    const [place] = found as [Place | undefined]
    const isSame = found.length === 1 && place?.operation?.path.length === operation.path.length
    return isSame ? fold(place.operation!, operation) : undefined
  }

  /** The operation at `path`, or around it, or the place that leads to one inside it; `undefined` if there is none. */
  #find(path: Path): Place | undefined {
    let place: Place | undefined = this.#root
    for (const key of path) {
      if (place?.operation) return place
      place = place?.inner.get(key)
    }
    return place?.operation || place?.inner.size ? place : undefined
  }

  #make(path: Path): Place {
    let place = this.#root
    for (const key of path) {
      const inner: Place = place.inner.get(key) ?? { inner: new Map<string, Place>() }
      place.inner.set(key, inner)
      place = inner
    }
    return place
  }
}

function pathsOf(operation: Operation): Path[] {
  return operation.kind === 'rename' ? [operation.path, destination(operation)] : [operation.path]
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
