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
  block(statement: Statement, ids?: readonly number[]): void {
    statement.waiting = true
    statement.waited = true
    const { step } = statement
    const known = ids?.map((id) => this.#owners.get(id)?.name ?? `connection ${id}`)
    step.waitedFor = [...new Set([...step.waitedFor, ...(known ?? this.#likelyBlockers(statement))])]
  }

  /** Whether a chain of waits leads from one of these over others back to it: the server will end one of them. */
  hasCircle(live: readonly Participant[]): boolean {
    return live.some((participant) => {
      const reached = new Set<string>()
      const visit = ({ sent }: Participant): void => {
        for (const { step, waiting } of sent) {
          for (const name of waiting ? step.waitedFor : []) {
            if (reached.has(name)) continue
            reached.add(name)
            const next = live.find((each) => each.name === name)
            if (next) visit(next)
          }
        }
      }
      visit(participant)
      return reached.size > 1 && reached.has(participant.name)
    })
  }

  /** Where nobody can go on: the wait to end, after so many milliseconds if the server has not ended one by itself. */
  toEnd(live: readonly Participant[]): { readonly statement: Statement; readonly afterMs: number } | undefined {
    const waiting = live
      .flatMap(({ sent }) => [...sent])
      .filter((each) => each.waiting)
      .sort((one, other) => one.step.number - other.step.number)
    // A COMMIT that SQLite has refused for good would leave its file locked.
    const own = waiting.findLast(waitsForItsOwn)
    const statement = own ?? waiting.findLast(({ kind }) => kind !== 'end') ?? waiting.at(-1)
    return statement && { statement, afterMs: own ? 0 : this.#server.deadlockMs }
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
}

/** Whether it waits for a lock that only its own participant holds, on another connection. */
function waitsForItsOwn({ step, waiting, participant }: Statement): boolean {
  return waiting && step.waitedFor.every((name) => name === participant)
}
