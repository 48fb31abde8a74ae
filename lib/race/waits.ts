import type { Participant, Statement } from './participant.js'
import type { Server } from './servers.js'
import { endsTransaction } from './statement.js'

interface Transaction {
  readonly participant: Participant
  wrote: boolean
}

/** Who waits for whose lock, as far as the server tells, and who holds any. */
export class Waits {
  readonly #server: Server
  readonly #owners = new Map<number, Participant>()
  /** By connection, those that are open. */
  readonly #transactions = new Map<object, Transaction>()

  constructor(server: Server) {
    this.#server = server
  }

  /** A participant sends something on a connection. */
  use(connection: object, participant: Participant): void {
    this.#server.prepare(connection)
    this.#owners.set(this.#server.connectionId(connection), participant)
  }

  /** The transaction that is open on a connection. */
  transaction(connection: object): Readonly<Transaction> | undefined {
    return this.#transactions.get(connection)
  }

  /** Takes down what a statement that is answered means for the transaction on its connection. */
  answered({ sql, kind, connection, step }: Statement, participant: Participant): void {
    const open = this.#transactions.get(connection)
    if (endsTransaction(sql)) this.#transactions.delete(connection)
    else if (step.error !== undefined) return
    else if (/^(START|BEGIN)\b/i.test(sql)) this.#transactions.set(connection, { participant, wrote: false })
    else if (kind === 'write' && open) open.wrote = true
  }

  /** Asks the server which of these statements wait; `isLate` tells whether the answer is of no use any more. */
  async ask(inFlight: readonly Statement[], isLate: () => boolean): Promise<void> {
    const byId = new Map(inFlight.map((each) => [this.#server.connectionId(each.connection), each]))
    const waits = await this.#server.waits([...byId.keys()])
    // Whoever got an answer meanwhile may have been waited for.
    if (isLate()) return
    for (const each of inFlight) each.waiting = each.again !== undefined
    for (const { waiter, blockers } of waits) this.block(byId.get(waiter)!, blockers)
  }

  /** Takes down that a statement waits, for these connections, or for nobody knows whom. */
  block(statement: Statement, blockers?: readonly number[]): void {
    statement.waiting = true
    statement.waited = true
    statement.blockers = blockers
    const { step } = statement
    const known = blockers?.map((id) => this.#owners.get(id)?.name ?? `connection ${id}`)
    step.waitedFor = [...new Set([...step.waitedFor, ...(known ?? this.#likelyBlockers(statement))])]
  }

  /** How long the server may take, in milliseconds, to end one of a deadlock among these; `undefined` if there is none. */
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

  /** Where nobody can go on: the wait to end, after so many milliseconds if the server has not ended one by itself. */
  toEnd(live: readonly Participant[]): { readonly statement: Statement; readonly afterMs: number } | undefined {
    const waiting = waitingOf(live)
    // A COMMIT that SQLite has refused for good would leave its file locked.
    const own = waiting.findLast((each) => this.#waitsForItsOwn(each))
    const statement = own ?? waiting.findLast(({ kind }) => kind !== 'end') ?? waiting.at(-1)
    if (!statement) return undefined
    const isKnown = waiting.every(({ blockers }) => blockers?.every((id) => this.#owners.has(id)))
    const { computingMs, deadlockMs } = this.#server
    // Nobody but the participants holds what they wait for, so nothing but a participant that computes can end it.
    if (isKnown && this.deadlockMs(live) === undefined) return { statement, afterMs: computingMs }
    return { statement, afterMs: own ? 0 : deadlockMs }
  }

  /** Ends a wait, with an error for whoever waits. */
  async end(statement: Statement): Promise<void> {
    if (statement.again) statement.again(true)
    else await this.#server.cancel?.(this.#server.connectionId(statement.connection))
    statement.waiting = false
  }

  /** Where the server does not say: those others that have a transaction open, first of all those that do not wait. */
  #likelyBlockers({ participant }: Statement): string[] {
    const holders = [...this.#transactions.values()]
      .map((each) => each.participant)
      .filter(({ name }) => name !== participant)
    const working = holders.filter(({ sent }) => [...sent].every(({ waiting }) => !waiting))
    const likely = working.length > 0 ? working : holders
    return likely.length > 0 ? likely.map(({ name }) => name) : [participant]
  }

  /** Whether it waits for a lock that its own participant holds, on another connection. */
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

/** Whether a chain of waits leads from somebody over others back. */
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
