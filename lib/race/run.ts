import { AsyncLocalStorage } from 'node:async_hooks'
import { messageOf, StuckError } from './errors.js'
import type { Passing } from './gate.js'
import type { Mutate } from './mutants.js'
import { isDone, newParticipant, nextOf } from './participant.js'
import type { Participant, Pending, Statement } from './participant.js'
import type { DriverError, Server } from './servers.js'
import { bindList, kindOf } from './statement.js'
import { copyOf, touchedBy } from './step.js'
import type { Step } from './step.js'
import { Waits } from './waits.js'

/** How a participant ended: `unknown` rejected after a write of its that lasts, or may. */
export type Outcome = 'ok' | 'failed' | 'unknown'

interface Context {
  readonly run: Run
  readonly participant: Participant
  readonly within: Statement | undefined
}

const contexts = new AsyncLocalStorage<Context>()

/** The run, and the participant of it, that the caller belongs to. */
export function sender(): { readonly run: Run; readonly name: string } | undefined {
  const context = contexts.getStore()
  return context && { run: context.run, name: context.participant.name }
}

function nothing(): void {
  // Until there is something to wake.
}

/** How long, in milliseconds. */
const limits = {
  /** until the server is asked whether a statement that has no answer yet waits */
  answer: 2,
  /** the others give one that waits outside of the database to come back, after each statement */
  comeBack: 5,
  /** between two looks at whether the server has ended a wait */
  resolve: 10,
  /** one that waits outside of the database may keep the others waiting */
  outside: 1_000,
  /** nothing at all may happen: nobody can tell a timer from what never comes, and other runners end a test after 5 s */
  stuck: 4_000,
} as const

/** One execution of the participants, whose statements go through one at a time, in an order that the caller chooses. */
export class Run {
  readonly steps: Step[] = []
  /** Who was let through, in order. */
  readonly choices: string[] = []
  /** The server may have chosen who went on: several waited for the same lock, or one of a deadlock was ended. */
  serverChose = false
  readonly #server: Server
  readonly #waits: Waits
  readonly #participants: Participant[] = []
  readonly #mutate: Mutate
  #events = 0
  #wake: () => void = nothing
  #isOver = false

  /** All of its participants have ended, or it was given up. */
  get isOver(): boolean {
    return this.#isOver
  }

  constructor(server: Server, mutate: Mutate = ({ sql }) => sql) {
    this.#server = server
    this.#waits = new Waits(server)
    this.#mutate = mutate
  }

  /** Starts a participant, which goes as far as its first statement; where callers queue in this process, when its turn comes. */
  start(name: string, fn: () => unknown): void {
    const participant = newParticipant(name)
    this.#participants.push(participant)
    const settle = (settled: NonNullable<Participant['settled']>): void => {
      participant.settled = settled
      this.#signal(participant)
    }
    const begin = (): void => {
      const started = contexts.run({ run: this, participant, within: undefined }, () => Promise.resolve().then(fn))
      void started.then(
        () => settle({ rejected: false }),
        (error: unknown) => settle({ error, rejected: true }),
      )
    }
    if (this.#server.hasQueue) participant.held = begin
    else begin()
  }

  /** Holds a participant's statement until it is let through, and takes down what became of it. */
  async pass(passing: Passing): Promise<unknown> {
    const { participant, within } = contexts.getStore()!
    const statement = this.#arrive(passing, participant)
    if (within) {
      // It failed, and the server has rolled back: Sequelize says so to itself before it tells us.
      this.#lockReleased()
      within.nested++
    }
    await new Promise<void>((resolve) => {
      statement.go = resolve
      participant.gates.push(statement)
      this.#signal(participant)
    })
    const { step } = statement
    this.#waits.use(statement.connection, participant)
    try {
      const send = (): Promise<unknown> => passing.send(step.sql)
      const answer = await contexts.run({ run: this, participant, within: statement }, () =>
        this.#untilNotBusy(statement, send),
      )
      if (statement.kind === 'read' || statement.kind === 'lock') step.rows = copyOf(answer)
      this.#answered(statement, participant, true)
      return answer
    } catch (error) {
      step.error = messageOf(error)
      this.#answered(statement, participant, !this.#server.isAnswer(driverError(error)))
      throw error
    } finally {
      step.touched = touchedBy(step, passing.model)
      step.answeredAfter = this.steps.length
      participant.sent.delete(statement)
      if (within) within.nested--
      this.#signal(participant)
    }
  }

  /** Waits until every participant is at the gate, waits, or has ended; returns the statements at the gate. */
  async settle(): Promise<readonly Pending[]> {
    const start = performance.now()
    for (;;) {
      const seen = this.#events
      const live = this.#participants.filter((each) => !isDone(each))
      const inFlight = live.flatMap(({ sent }) => [...sent]).filter(({ nested }) => nested === 0)
      const unsure = inFlight.filter(({ waiting }) => !waiting)
      const computing = live.filter(
        ({ held, gates, sent, outside }) => !held && gates.length + sent.size === 0 && !outside,
      )
      if (unsure.length + computing.length > 0) {
        const isKnown = computing.length === 0 && unsure.every(({ waited }) => waited)
        await this.#event(isKnown ? 0 : limits.answer)
        if (seen !== this.#events) continue
        if (unsure.length > 0) {
          // An answer from the statement itself makes this one needless.
          await Promise.race([this.#waits.ask(inFlight, () => seen !== this.#events), this.#event(limits.stuck)])
          this.#wake()
        }
        // Looks are counted too: where this process gets no processor, time alone says nothing.
        for (const each of seen === this.#events ? computing : []) {
          const { computingMs } = this.#server
          const isLong = performance.now() - each.lastEvent > computingMs
          each.outside = isLong && ++each.looks * limits.answer * 4 > computingMs
        }
      } else {
        const ready = live.filter(({ held, gates }) => held ?? gates.length > 0)
        if (live.length === 0) return []
        const sinceMs = performance.now() - start
        const deadlockMs = this.#waits.deadlockMs(live)
        const isDeadlock = deadlockMs !== undefined && sinceMs < deadlockMs
        const comeBack = live.some(({ outside }) => outside) ? limits.comeBack : 0
        const waitMs = isDeadlock || ready.length === 0 ? limits.resolve : comeBack
        this.serverChose ||= deadlockMs !== undefined
        if (waitMs > 0) await this.#event(waitMs)
        if (seen === this.#events && ready.length === 0) await this.#unblock(live, sinceMs)
        else if (seen === this.#events && !isDeadlock) return ready.map(nextOf)
      }
      if (seen === this.#events && performance.now() - start > limits.stuck) {
        this.#isOver = true
        throw new StuckError(
          live.map(({ name }) => name),
          limits.stuck,
        )
      }
    }
  }

  /** Lets the next statement of a participant through. */
  release(name: string): void {
    const participant = this.#participants.find((each) => each.name === name)!
    this.choices.push(name)
    if (participant.held) {
      this.#signal(participant)
      participant.held()
      participant.held = undefined
      return
    }
    const statement = participant.gates.shift()!
    statement.step.number = this.steps.push(statement.step)
    participant.sent.add(statement)
    statement.go()
  }

  /** All of them have ended: what is sent from now on is not held. */
  end(): void {
    this.#isOver = true
  }

  /** How each participant has ended. */
  outcomes(): Record<string, Outcome> {
    return Object.fromEntries(
      this.#participants.map(({ name, settled, lasting }) => [
        name,
        settled!.rejected ? (lasting ? 'unknown' : 'failed') : 'ok',
      ]),
    )
  }

  /** What the participants were rejected with. */
  errors(): ReadonlyMap<string, unknown> {
    const rejected = this.#participants.filter(({ settled }) => settled!.rejected)
    return new Map(rejected.map(({ name, settled }) => [name, settled!.error]))
  }

  #arrive(passing: Passing, { name }: Participant): Statement {
    const sql = this.#mutate(passing, this.#server.nothing)
    // Sent by a participant, it would fix the snapshot of a transaction.
    const kind = sql !== passing.sql && sql === this.#server.nothing ? 'local' : kindOf(sql)
    const step = {
      number: 0,
      participant: name,
      sql,
      binds: bindList(passing.parameters),
      kind,
      answeredAfter: 0,
      waitedFor: [],
      rows: [],
      error: undefined,
      touched: [],
    }
    const { connection, inTransaction } = passing
    const state = {
      go: nothing,
      again: undefined,
      waiting: false,
      waited: false,

      blockers: undefined,
      nested: 0,
    }
    return { participant: name, sql, kind, step, connection, inTransaction, ...state }
  }

  /** Sends a statement again and again, as long as the database is busy and somebody else may end that. */
  async #untilNotBusy(statement: Statement, send: () => Promise<unknown>): Promise<unknown> {
    for (;;) {
      try {
        return await send()
      } catch (error) {
        if (!this.#server.isBusy(driverError(error))) throw error
        this.#waits.block(statement)
        const givesUp = new Promise<boolean>((resolve) => (statement.again = resolve))
        this.#wake()
        if (await givesUp) throw error
        statement.again = undefined
      }
    }
  }

  /** Takes down that a statement is over, and that it is done, or may be. */
  #answered(statement: Statement, participant: Participant, mayBeDone: boolean): void {
    const { sql, kind, connection, inTransaction, step } = statement
    const open = this.#waits.transaction(connection)
    const isLastWord = /^COMMIT/i.test(sql) ? open?.wrote : kind === 'write' && !open
    if (isLastWord && mayBeDone) participant.lasting = true
    this.#waits.answered(statement, participant)
    const unlocks = kind === 'end' || !inTransaction || step.error !== undefined || /unlock|release/i.test(sql)
    if (unlocks) this.#lockReleased()
  }

  /** Those who waited may go on: the server has to be asked again. */
  #lockReleased(): void {
    for (const { sent } of this.#participants) {
      for (const statement of sent) {
        statement.waiting = false
        statement.again?.(false)
      }
    }
  }

  /** Nobody can go on: ends a wait, once the server has had time enough to do so. */
  async #unblock(live: readonly Participant[], sinceMs: number): Promise<void> {
    const wait = this.#waits.toEnd(live)
    if (!wait) return
    const outsideMs = wait.afterMs > 0 && live.some(({ outside }) => outside) ? limits.outside : 0
    if (sinceMs >= wait.afterMs + outsideMs) await this.#waits.end(wait.statement)
  }

  #signal(participant: Participant): void {
    this.#events++
    participant.lastEvent = performance.now()
    participant.looks = 0
    participant.outside = false
    this.#wake()
  }

  /** Resolves when something happens, or after so many milliseconds. */
  #event(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
}

/** What the driver said, which Sequelize hands on in `parent`. */
function driverError(error: unknown): DriverError {
  return (error as { parent?: DriverError }).parent ?? {}
}
