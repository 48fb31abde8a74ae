import { AsyncResource } from 'node:async_hooks'
import { setImmediate as turn } from 'node:timers/promises'
import type { Sequelize } from 'sequelize'
import { usage } from './errors/usage.js'
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

/** A key of a document that some operation is about, or that leads to one. */
interface Place {
  operation?: Operation
  readonly inner: Map<string, Place>
}

/**
 * More would make the statement's own work, and its text, long. It is far from where databases end: functions of SQLite
 * take 1000 arguments, the stack of MariaDB 400 calls in each other.
 */
const maxKeys = 256

/** Operations for one statement: their paths do not overlap, or what they do to one path is folded into one operation. */
class Batch {
  readonly #root: Place = { inner: new Map() }
  readonly #operations = new Set<Operation>()
  readonly #maxBytes: number
  #keys = 0
  #bytes = 0

  /** @param first what is sent in any case, be it larger than a statement for several calls may be */
  constructor(first: readonly Operation[], maxBytes: number) {
    this.#maxBytes = maxBytes
    this.#put(first, first)
  }

  get operations(): Operation[] {
    return [...this.#operations]
  }

  /** Takes all of these operations, or, if they do not go together with those that are there, none. */
  add(operations: readonly Operation[]): boolean {
    const folded = operations.map((each) => this.#folded(each))
    const isRoom =
      this.#keys + this.#keysOf(operations) <= maxKeys && this.#bytes + bytesOf(operations) <= this.#maxBytes
    if (!isRoom || !folded.every((each) => each !== undefined)) return false
    this.#put(operations, folded)
    return true
  }

  #put(operations: readonly Operation[], folded: readonly Operation[]): void {
    this.#keys += this.#keysOf(operations)
    this.#bytes += bytesOf(operations)
    for (const each of folded) {
      for (const path of pathsOf(each)) {
        const place = this.#make(path)
        if (place.operation) this.#operations.delete(place.operation)
        place.operation = each
      }
      this.#operations.add(each)
    }
  }

  /** How many keys they add at most. */
  #keysOf(operations: readonly Operation[]): number {
    const ofPaths = operations.flatMap(pathsOf).map((path) => path.length - this.#known(path))
    // A colon for each key of a patch; those in strings count too.
    const ofPatches = operations.map(({ kind, json }) => (kind === 'merge' ? json.split(':').length - 1 : 0))
    return [...ofPaths, ...ofPatches].reduce((sum, each) => sum + each, 0)
  }

  /** How many keys of the path are those of others. */
  #known(path: Path): number {
    let place: Place | undefined = this.#root
    let known = 0
    while (known < path.length && (place = place.inner.get(path[known]!))) known++
    return known
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

/** What they take at most, in UTF-8. */
function bytesOf(operations: readonly Operation[]): number {
  return operations.reduce((sum, { path, json }) => sum + 3 * (json.length + path.join().length), 0)
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
