import { severed } from './faults.js'
import { isDone } from './participant.js'
import type { Participant, Statement } from './participant.js'
import type { Server } from './gate.js'
import { beginsTransaction, endsTransaction } from './statement.js'

export interface Transaction {
  readonly participant: Participant
  /** The number of the statement that began it. */
  readonly begin: number
  wrote: boolean
}

/** A connection, and how to close it. */
type Used = Pick<Statement, 'connection' | 'discard' | 'socket'>

/** The wait to end if no participant can continue. */
export interface WaitToEnd {
  readonly statement: Statement
  /** When to end it, unless the server ends one first. */
  readonly afterMs: number
  /** It waits for a lock that its own participant holds on another connection. */
  readonly isOwn: boolean
  /** The waits have a cycle, which the server is to end. */
  readonly isDeadlock: boolean
}

/** The lock waits, as far as the server reports them, and the open transactions. */
export class Waits {
  readonly #server: Server
  readonly #owners = new Map<number, Participant>()
  /** How to close the connections that the participants used. */
  readonly #used = new Map<object, Used>()
  /** The open transactions, by connection. */
  readonly #transactions = new Map<object, Transaction>()

  constructor(server: Server) {
    this.#server = server
  }

  /** Records that a participant uses a connection. */
  use({ connection, discard, socket }: Used, participant: Participant): void {
    this.#server.prepare(connection)
    this.#used.set(connection, { connection, discard, socket })
    this.#owners.set(this.#server.connectionId(connection), participant)
  }

  /** The transaction that is open on a connection. */
  transaction(connection: object): Readonly<Transaction> | undefined {
    return this.#transactions.get(connection)
  }

  /** Whether participants that have ended left a transaction open, as far as their statements show. */
  get hasLeftOpen(): boolean {
    return this.#leftOpen().length > 0
  }

  /** Rolls back the transactions that participants left open when they ended; returns them. */
  async endLeftOpen(): Promise<Transaction[]> {
    const left = this.#leftOpen()
    const idOf = (connection: object): number => this.#server.connectionId(connection)
    const open = await this.#server.open(left.map(([connection]) => idOf(connection)))
    for (const [connection] of left) this.#transactions.delete(connection)
    const held = left.filter(([connection]) => open.includes(idOf(connection)))
    await Promise.allSettled(held.map(([connection]) => Promise.resolve().then(this.#used.get(connection)!.discard)))
    return held.map(([, transaction]) => transaction)
  }

  /** The transactions on connections that no other participant has used since. */
  #leftOpen(): [connection: object, Transaction][] {
    return [...this.#transactions].filter(([connection]) =>
      isDone(this.#owners.get(this.#server.connectionId(connection))!),
    )
  }

  /** Updates the transaction of a connection after the result of a statement. */
  answered({ sql, kind, connection, step }: Statement, participant: Participant): void {
    const open = this.#transactions.get(connection)
    if (endsTransaction(sql)) this.#transactions.delete(connection)
    else if (step.error !== undefined) return
    else if (beginsTransaction(sql))
      this.#transactions.set(connection, { participant, begin: step.number, wrote: false })
    else if (kind === 'write' && open) open.wrote = true
  }

  /** Asks the server which of these statements wait; `isLate`: the answer is outdated. */
  async ask(inFlight: readonly Statement[], isLate: () => boolean): Promise<void> {
    const byId = new Map(inFlight.map((each) => [this.#server.connectionId(each.connection), each]))
    const waits = await this.#server.waits([...byId.keys()])
    // A statement that ended in the meantime may have been a blocker.
    if (isLate()) return
    for (const each of inFlight) each.waiting = each.again !== undefined
    for (const { waiter, blockers } of waits) this.block(byId.get(waiter)!, blockers)
  }

  /** Records that a statement waits, for these connections or for unknown ones. */
  block(statement: Statement, blockers?: readonly number[]): void {
    statement.waiting = true
    statement.waited = true
    statement.blockers = blockers
    const { step } = statement
    const known = blockers?.map((id) => this.#owners.get(id)?.name ?? `connection ${id}`)
    step.waitedFor = [...new Set([...step.waitedFor, ...(known ?? this.#likelyBlockers(statement))])]
  }

  /** The maximum time in milliseconds until the server ends a deadlock among these; `undefined` if there is none. */
  deadlockMs(live: readonly Participant[]): number | undefined {
    const waiting = waitingOf(live)
    const connections = waiting.map(
      (each) => [this.#server.connectionId(each.connection), each.blockers ?? []] as const,
    )
    if (hasCircle(connections)) return this.#server.deadlockMs
    const guessed = waiting.filter(({ blockers }) => !blockers)
    const isGuessed = hasCircle(guessed.map(({ participant, step }) => [participant, step.waitedFor] as const))
    return isGuessed ? this.#server.guessedDeadlockMs : undefined
  }

  toEnd(live: readonly Participant[]): WaitToEnd | undefined {
    const waiting = waitingOf(live)
    // After a COMMIT that ends with an error, SQLite would keep its file locked.
    const own = waiting.findLast((each) => this.#waitsForItsOwn(each))
    const statement = own ?? waiting.findLast(({ kind }) => kind !== 'end') ?? waiting.at(-1)
    if (!statement) return undefined
    const isKnown = waiting.every(({ blockers }) => blockers?.every((id) => this.#owners.has(id)))
    const { computingMs, deadlockMs } = this.#server
    const isDeadlock = this.deadlockMs(live) !== undefined
    // Only participants hold these locks, so only a participant that still computes can end the wait.
    const afterMs = isKnown && !isDeadlock ? computingMs : own ? 0 : deadlockMs
    return { statement, afterMs, isOwn: own !== undefined, isDeadlock }
  }

  /** Ends a wait with an error of the waiting statement. */
  async end(statement: Statement): Promise<void> {
    if (statement.again) statement.again(true)
    else await this.#server.cancel?.(this.#server.connectionId(statement.connection))
    statement.waiting = false
  }

  /** Closes the connections that the participants used. The session of a connection may hold a lock without a transaction. */
  async discard(): Promise<void> {
    await Promise.allSettled([...this.#used.values()].map(({ discard }) => Promise.resolve().then(discard)))
  }

  /** Records that a connection was lost, and its transaction with it. */
  closed(connection: object): void {
    this.#transactions.delete(connection)
  }

  /** Closes the connections of a participant whose process ends; resolves when they have given up their locks. */
  async close(participant: Participant): Promise<void> {
    const open = [...this.#transactions].filter(([, transaction]) => transaction.participant === participant)
    const used = open.map(([connection]) => this.#used.get(connection)!)
    const held = new Map<object, Used>()
    for (const each of [...participant.gates, ...participant.sent, ...used]) held.set(each.connection, each)
    for (const { connection, discard, socket } of held.values()) {
      await severed(socket!(), () => undefined)
      // That gives its place in the pool back.
      await Promise.allSettled([Promise.resolve().then(discard)])
      await this.#server.kill!(this.#server.connectionId(connection))
      this.closed(connection)
    }
  }

  /** If the server reports no blockers: the others with an open transaction, preferably those that do not wait. */
  #likelyBlockers({ participant }: Statement): string[] {
    const holders = [...this.#transactions.values()]
      .map((each) => each.participant)
      .filter(({ name }) => name !== participant)
    const working = holders.filter(({ sent }) => [...sent].every(({ waiting }) => !waiting))
    const likely = working.length > 0 ? working : holders
    return likely.length > 0 ? likely.map(({ name }) => name) : [participant]
  }

  /** Whether a statement waits for a lock that its own participant holds on another connection. */
  #waitsForItsOwn({ step, participant, blockers }: Statement): boolean {
    if (blockers) return blockers.some((id) => this.#owners.get(id)?.name === participant)
    return step.waitedFor.every((name) => name === participant)
  }
}

/** The statements that wait, in the order in which they were sent. */
function waitingOf(live: readonly Participant[]): Statement[] {
  return live
    .flatMap(({ sent }) => [...sent])
    .filter(({ waiting }) => waiting)
    .sort((one, other) => one.step.number - other.step.number)
}

/** Whether the waits have a cycle of two or more. */
function hasCircle<N>(waits: readonly (readonly [waiter: N, blockers: readonly N[]])[]): boolean {
  return waits.some(([start]) => {
    const reached = new Set<N>()
    const visit = (node: N): void => {
      for (const [waiter, blockers] of waits) {
        for (const blocker of waiter === node ? blockers : []) {
          if (reached.has(blocker)) continue
          reached.add(blocker)
          visit(blocker)
        }
      }
    }
    visit(start)
    return reached.size > 1 && reached.has(start)
  })
}
