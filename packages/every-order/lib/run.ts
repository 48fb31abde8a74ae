import { AsyncLocalStorage, createHook } from 'node:async_hooks'
import { livelockOf } from './livelock.js'
import { EndlessError, HangError, messageOf, OpenTransactionError, StuckError } from './errors.js'
import { describeFault, severed } from './faults.js'
import type { Fault, FaultAt } from './faults.js'
import type { DriverError, Passing, Server } from './gate.js'
import type { Mutate } from './mutants.js'
import { isDone, newParticipant, nextOf } from './participant.js'
import type { Participant, Pending, Statement } from './participant.js'
import { isDeadlock } from './servers.js'
import { beginsTransaction, bindList, kindOf, shapeOf } from './statement.js'
import { affectedBy, copyOf, touchedBy } from './step.js'
import type { Step } from './step.js'
import { Waits } from './waits.js'
import type { WaitToEnd } from './waits.js'

/**
 * The outcome of a participant. `unknown`: it rejected after a write that is, or may be, committed. `stopped`: its process ended,
 * in an order with that fault.
 */
export type Outcome = 'ok' | 'failed' | 'unknown' | 'stopped'

/** The fault that has happened in a run. */
interface Happened extends FaultAt {
  readonly participant: string
}

interface Context {
  readonly run: Run
  readonly participant: Participant
  readonly within: Statement | undefined
  /** The code sends a statement that has passed the gate: its driver is not to hold it again. */
  readonly hasPassed?: boolean
}

/** What Node keeps of a timer. */
interface Timer {
  readonly _idleTimeout: number
  /** It has fired for the last time, or was cleared. */
  readonly _destroyed: boolean
}

const contexts = new AsyncLocalStorage<Context>()

/** The run and the participant that the current code belongs to. */
export function sender(): Sender | undefined {
  const context = contexts.getStore()
  if (!context) return undefined
  const { run, participant, hasPassed = false } = context
  const { name, settled, stopped } = participant
  return { run, name, hasEnded: settled !== undefined, hasPassed, isStopped: stopped }
}

interface Sender {
  readonly run: Run
  readonly name: string
  readonly hasEnded: boolean
  readonly hasPassed: boolean
  /** Its process has ended, so its code runs no further. */
  readonly isStopped: boolean
}

/** Calls `fn` as code that belongs to no participant. */
export function unattended<T>(fn: () => T): T {
  return contexts.exit(fn)
}

/** Calls `fn`, whose statements no gate of a driver is to hold. */
export function passed<T>(fn: () => T): T {
  const context = contexts.getStore()
  return context ? contexts.run({ ...context, hasPassed: true }, fn) : fn()
}

function nothing(): void {
  // A placeholder until a caller waits.
}

/** Time limits in milliseconds. */
const limits = {
  /** The wait for the result of a statement, before the server is asked for lock waits. */
  answer: 2,
  /** The wait, after each statement, for a participant that waits outside the database. */
  comeBack: 5,
  /** The interval between checks whether the server has ended a wait. */
  resolve: 10,
  /** How long a participant that waits outside the database may block the other participants. */
  outside: 1_000,
  /** How long the others wait for a participant that waits outside the database, for no timer of its own. */
  patience: 2_000,
  /** The same for a timer of its own, which no other participant can end. */
  timer: 3_500,
  /** The maximum time without an event: a timer looks like an endless wait, and test runners stop a test after 5 s. */
  stuck: 4_000,
  /** How long a participant that has ended may still go on, before its open transaction is rolled back. */
  late: 50,
  /** How long a run that is given up waits for its participants to roll back, and for its connections to close. */
  giveUp: 500,
} as const

/** One execution of the participants. Their statements are released one at a time, in the order of the caller. */
export class Run {
  readonly steps: Step[] = []
  /** The fault, if there is one and it has happened. */
  fault: Happened | undefined
  /** The participants that were released, in order. */
  readonly choices: string[] = []
  /** The number of choices after which the server first chose who continues, since it ended a deadlock. */
  serverChoseAt: number | undefined
  /** Descriptions of choices that were made while a participant waited outside the database. */
  readonly passedOver: Set<string> = new Set()
  /** A participant waits for its own lock, on another of its connections, or left a transaction open. */
  finding: HangError | OpenTransactionError | undefined
  /** Descriptions of the waits that the kit ended, and that may be deadlocks with something outside the database. */
  readonly cancelled: Set<string> = new Set()
  readonly #released: Statement[] = []
  readonly #server: Server
  readonly #waits: Waits
  readonly #participants: Participant[] = []
  readonly #mutate: Mutate
  #events = 0
  #wake: () => void = nothing
  #isOver = false
  /** The places where a participant was waited for in vain, in this exploration. */
  readonly #placesPassedOver: Set<string>
  /** The timers that participants have started. */
  readonly #timers: [timer: Timer, participant: Participant][] = []
  // A hook of the end of resources would have Node follow each promise.
  readonly #hook = createHook({ init: (_id, type, _trigger, resource) => this.#timerStarted(type, resource as Timer) })
  /** Why the run was given up. */
  #refusal: Error | undefined
  #faultChoice = 0
  /** Takes the connection that was lost out of its pool. */
  #lost: () => unknown = nothing

  /** All participants have ended, or the run was aborted. */
  get isOver(): boolean {
    return this.#isOver
  }

  constructor(server: Server, placesPassedOver: Set<string>, mutate: Mutate = ({ sql }) => sql) {
    this.#server = server
    this.#waits = new Waits(server)
    this.#placesPassedOver = placesPassedOver
    this.#mutate = mutate
    this.#hook.enable()
  }

  /** Starts a participant, which runs to its first statement. If writers queue in this process, `release` starts it. */
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
        (value: unknown) => settle({ value, rejected: false }),
        (error: unknown) => settle({ error, rejected: true }),
      )
    }
    if (this.#server.hasQueue) participant.held = begin
    else begin()
  }

  /** Holds the statement of a participant until it is released, and records its result. */
  async pass(passing: Passing): Promise<unknown> {
    const { participant, within } = contexts.getStore()!
    const statement = this.#arrive(passing, participant)
    if (within) {
      // The outer statement failed and the server rolled back: Sequelize sends its own ROLLBACK before it rejects.
      this.#lockReleased()
      within.nested++
    }
    await new Promise<void>((resolve) => {
      statement.go = resolve
      participant.gates.push(statement)
      this.#signal(participant)
    })
    if (this.#refusal) throw this.#refusal
    const { step } = statement
    this.#waits.use(statement, participant)
    if (statement.fault === 'stopped') await this.#stop(statement, participant)
    const begin = this.#waits.transaction(statement.connection)?.begin
    step.transaction = beginsTransaction(step.sql) ? step.number : begin
    try {
      const send = (): unknown => passing.send(step.sql)
      const answer = await contexts.run({ run: this, participant, within: statement, hasPassed: true }, () =>
        statement.fault ? this.#lose(statement, passing) : this.#untilNotBusy(statement, send),
      )
      if (statement.kind === 'read' || statement.kind === 'lock') step.rows = copyOf(passing.rowsOf(answer))
      if (statement.kind === 'write') step.affected = affectedBy(answer)
      this.#answered(statement, participant, true)
      return answer
    } catch (error) {
      step.error = statement.cancelled ? `the exploration ended this wait (${messageOf(error)})` : messageOf(error)
      if (step.fault) step.error = describeFault(step.fault, step.error)
      // The server may end a deadlock before the kit asks who waits.
      if (isDeadlock(driverError(error))) this.#serverChooses()
      const isCertain = step.fault ? step.fault === 'killed-before' : this.#server.isAnswer(driverError(error))
      this.#answered(statement, participant, !isCertain)
      if (step.fault) this.#waits.closed(statement.connection)
      throw error
    } finally {
      step.touched = touchedBy(step, passing.table)
      step.answeredAfter = this.steps.length
      participant.sent.delete(statement)
      if (within) within.nested--
      this.#signal(participant)
      if (participant.stopped) await never()
    }
  }

  /** Loses the connection of a statement, before the server gets the statement, or after it has executed it. */
  async #lose({ fault, step, connection }: Statement, passing: Passing): Promise<void> {
    if (fault !== 'killed-before') step.affected = affectedBy(await passing.send(step.sql))
    this.#happened(step, fault!)
    this.#lost = passing.discard
    const severance = severed(passing.socket!(), () => passing.resend(step.sql))
    return severance.finally(() => this.#server.kill!(this.#server.connectionId(connection)))
  }

  /** Ends the process of a participant: its connections are closed, and what it awaits never ends. */
  async #stop(statement: Statement, participant: Participant): Promise<never> {
    const { step } = statement
    participant.stopped = true
    this.#happened(step, 'stopped')
    step.error = describeFault('stopped', undefined)
    await this.#waits.close(participant)
    participant.settled = { rejected: true }
    participant.gates.length = 0
    participant.sent.clear()
    step.answeredAfter = this.steps.length
    this.#lockReleased()
    this.#signal(participant)
    return never()
  }

  #happened(step: Statement['step'], kind: Fault): void {
    step.fault = kind
    this.fault = { kind, choice: this.#faultChoice, participant: step.participant }
  }

  /** Waits until every participant is at the gate, waits, or has ended; returns the statements held at the gate. */
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
          // The result of the statement itself makes the server's answer unnecessary.
          await Promise.race([this.#waits.ask(inFlight, () => seen !== this.#events), this.#event(limits.stuck)])
          this.#wake()
        }
        // Count checks too: if this process gets no processor time, elapsed time alone proves nothing.
        for (const each of seen === this.#events ? computing : []) {
          const outsideWaitMs = this.#outsideWaitMs(each)
          const isLong = performance.now() - each.lastEvent > outsideWaitMs
          each.outside = isLong && ++each.looks * limits.answer * 4 > Math.min(outsideWaitMs, this.#server.computingMs)
        }
      } else {
        const ready = live.filter(({ held, gates }) => held ?? gates.length > 0)
        if (live.length === 0 && !(await this.#endLeftOpen())) return []
        if (live.length === 0) continue
        const sinceMs = performance.now() - start
        const deadlockMs = this.#waits.deadlockMs(live)
        const isDeadlock = deadlockMs !== undefined && sinceMs < deadlockMs
        const comeBack = live.some(({ outside }) => outside) ? limits.comeBack : 0
        const waitMs = isDeadlock || ready.length === 0 ? limits.resolve : comeBack
        if (deadlockMs !== undefined) this.#serverChooses()
        if (waitMs > 0) await this.#event(waitMs)
        if (seen === this.#events && ready.length === 0) {
          if (!(await this.#endLeftOpen())) await this.#unblock(live, sinceMs)
        } else if (seen === this.#events && !isDeadlock) {
          for (const each of live) if (each.outside) this.#passOver(each)
          return ready.map(nextOf)
        }
      }
      if (seen === this.#events && performance.now() - start > limits.stuck) {
        throw StuckError.ofParticipants(
          live.map(({ name }) => name),
          limits.stuck,
        )
      }
    }
  }

  /**
   * Releases the next statement of a participant, to which a fault may happen.
   *
   * @throws {EndlessError} the participant has sent `maxStatements`
   */
  release(name: string, maxStatements: number, fault?: Fault): void {
    const participant = this.#participants.find((each) => each.name === name)!
    this.choices.push(name)
    if (participant.held) {
      this.#signal(participant)
      participant.held()
      participant.held = undefined
      return
    }
    const sent = this.steps.filter((step) => step.participant === name).map(({ sql }) => shapeOf(sql))
    if (sent.length >= maxStatements) {
      const different = sent.findLastIndex((shape) => shape !== sent.at(-1))
      throw new EndlessError(name, sent.length, sent.at(-1)!, sent.length - 1 - different, livelockOf(name, this.steps))
    }
    const statement = participant.gates.shift()!
    statement.step.number = this.steps.push(statement.step)
    this.#released.push(statement)
    statement.fault = fault
    if (fault) this.#faultChoice = this.choices.length - 1
    participant.sent.add(statement)
    statement.go()
  }

  /** Gives the place of a lost connection in its pool back, if its participant has not. */
  async discardLost(): Promise<void> {
    await Promise.resolve().then(this.#lost).catch(nothing)
  }

  /** Marks the run as ended: statements of participants that had ended go on, and later ones are not held. */
  end(): void {
    this.#isOver = true
    for (const { gates } of this.#participants) for (const { go } of gates.splice(0)) go()
    this.#hook.disable()
  }

  /**
   * Ends a run that cannot be completed: refuses the statements at the gate, and cancels those that were sent, so that
   * the participants roll back; then closes the connections that they used, with the locks that are left.
   */
  async giveUp(cause: Error): Promise<void> {
    this.#refusal = cause
    this.end()
    const start = performance.now()
    const sent = this.#participants.flatMap((each) => [...each.sent])
    await Promise.allSettled(sent.map((statement) => this.#waits.end(statement)))
    const goesOn = (): boolean => this.#participants.some((each) => !each.held && !isDone(each))
    while (goesOn() && performance.now() - start < limits.giveUp) await this.#event(limits.resolve)
    const closed = this.#waits.discard().then(() => this.#wake())
    await Promise.race([closed, this.#event(limits.giveUp)])
  }

  /** The error of a statement that comes after the run was given up; a ROLLBACK may still be sent. */
  refusal(sql: string): Error | undefined {
    return /^ROLLBACK/i.test(sql) ? undefined : this.#refusal
  }

  /** The outcome of each participant. */
  outcomes(): Record<string, Outcome> {
    return Object.fromEntries(
      this.#participants.map(({ name, settled, lasting, stopped }) => [
        name,
        stopped ? 'stopped' : settled!.rejected ? (lasting ? 'unknown' : 'failed') : 'ok',
      ]),
    )
  }

  /** The participant that rejected after its connection was lost, although the server had answered that its writes are committed. */
  get failedAfterCommit(): string | undefined {
    const found = this.#participants.find(({ name, settled, acknowledged, stopped }) => {
      return name === this.fault?.participant && settled!.rejected && acknowledged && !stopped
    })
    return found?.name
  }

  /** What each participant that did not reject has returned. */
  results(): Record<string, unknown> {
    const fulfilled = this.#participants.filter(({ settled }) => !settled!.rejected)
    return Object.fromEntries(fulfilled.map(({ name, settled }) => [name, settled!.value]))
  }

  /** The errors of the participants that rejected. */
  errors(): ReadonlyMap<string, unknown> {
    const rejected = this.#participants.filter(({ settled, stopped }) => settled!.rejected && !stopped)
    return new Map(rejected.map(({ name, settled }) => [name, settled!.error]))
  }

  #arrive(passing: Passing, participant: Participant): Statement {
    const { name } = participant
    const sql = this.#mutate(passing, this.#server.nothing)
    // The same SQL from a participant would be a read, which can fix the snapshot of a transaction.
    const kind = sql !== passing.sql && sql === this.#server.nothing ? 'local' : kindOf(sql)
    const step = {
      number: 0,
      participant: name,
      sql,
      binds: bindList(passing.parameters),
      kind,
      answeredAfter: 0,
      waitedFor: [],
      transaction: undefined,
      affected: undefined,
      rows: [],
      error: undefined,
      fault: undefined,
      touched: [],
    }
    const { connection } = passing
    const discard = (): unknown =>
      contexts.run({ run: this, participant, within: undefined, hasPassed: true }, passing.discard)
    const state = {
      go: nothing,
      again: undefined,
      waiting: false,
      waited: false,
      cancelled: false,
      blockers: undefined,
      nested: 0,
      fault: undefined,
    }
    return { participant: name, sql, kind, step, connection, discard, socket: passing.socket, ...state }
  }

  /** Resends a statement while the database is busy and another participant may end that. */
  async #untilNotBusy(statement: Statement, send: () => unknown): Promise<unknown> {
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

  /** Records that a statement has ended, and whether its write is, or may be, committed. */
  #answered(statement: Statement, participant: Participant, mayBeDone: boolean): void {
    const { sql, kind, connection, step } = statement
    const open = this.#waits.transaction(connection)
    const isLastWord = /^COMMIT/i.test(sql) ? open?.wrote : kind === 'write' && !open
    if (isLastWord && mayBeDone) {
      participant.lasting = true
      participant.acknowledged = step.error === undefined
    }
    this.#waits.answered(statement, participant)
    const isAlone = !open && kind !== 'local' && !beginsTransaction(sql)
    const unlocks = kind === 'end' || isAlone || step.error !== undefined || /unlock|release/i.test(sql)
    if (unlocks) this.#lockReleased()
    // A server that ends a deadlock within the statement that would close it answers that one perhaps before its victim.
    else if (kind !== 'read' && kind !== 'local') this.#askAgain()
  }

  #serverChooses(): void {
    this.serverChoseAt ??= this.choices.length
  }

  /** The server must be asked again which statements wait. */
  #askAgain(): void {
    const sent = this.#participants.flatMap((each) => [...each.sent])
    for (const statement of sent) if (!statement.again) statement.waiting = false
  }

  /** Waiting statements may continue: the server must be asked again. */
  #lockReleased(): void {
    for (const { sent } of this.#participants) {
      for (const statement of sent) {
        statement.waiting = false
        statement.again?.(false)
      }
    }
  }

  /** No participant can continue: ends a wait, if the server has not ended one in time. */
  async #unblock(live: readonly Participant[], sinceMs: number): Promise<void> {
    const wait = this.#waits.toEnd(live)
    if (!wait) return
    const outsideMs = wait.afterMs > 0 && live.some(({ outside }) => outside) ? limits.outside : 0
    if (sinceMs < wait.afterMs + outsideMs) return
    this.#recordCancelled(wait, live)
    await this.#waits.end(wait.statement)
  }

  /** Records that the kit ends a wait that the server would not have ended soon. SQLite itself says that it is busy. */
  #recordCancelled({ statement, isOwn, isDeadlock }: WaitToEnd, live: readonly Participant[]): void {
    if (statement.again) return
    statement.cancelled = true
    const { participant, connection, step } = statement
    const hasTimer = this.#waitsForTimer(participant)
    const holder = this.#released.findLast(
      (each) =>
        each.participant === participant &&
        each.connection !== connection &&
        (each.kind === 'lock' || each.kind === 'write') &&
        each.step.error === undefined,
    )
    if (isOwn && holder && !hasTimer) this.finding ??= new HangError(participant, step, holder.step)
    else if (!isDeadlock && live.some(({ outside }) => outside)) {
      const outside = live.filter((each) => each.outside).map(({ name }) => name)
      this.cancelled.add(
        `${participant} waited for a lock of ${step.waitedFor.join(', ')} (statement ${step.number}) until the exploration ended the wait, while ${outside.join(', ')} waited outside the database: if that is a lock of this process that ${participant} holds, this is a deadlock that the server does not see`,
      )
    }
  }

  /** Rolls back what participants left open when they ended; returns whether there was something. */
  async #endLeftOpen(): Promise<boolean> {
    if (!this.#waits.hasLeftOpen) return false
    const seen = this.#events
    await this.#event(limits.late)
    if (seen !== this.#events) return true
    for (const { participant, begin } of await this.#waits.endLeftOpen())
      this.finding ??= new OpenTransactionError(participant.name, this.steps[begin - 1]!)
    this.#lockReleased()
    return true
  }

  #timerStarted(type: string, timer: Timer): void {
    const context = type === 'Timeout' ? contexts.getStore() : undefined
    if (context?.run === this && timer._idleTimeout <= limits.timer) this.#timers.push([timer, context.participant])
  }

  #waitsForTimer(participant: string): boolean {
    return this.#timers.some(([{ _destroyed: hasEnded }, { name }]) => name === participant && !hasEnded)
  }

  /** How long the others wait for a participant that has sent no statement and not ended. */
  #outsideWaitMs(participant: Participant): number {
    const { hasQueue, computingMs } = this.#server
    if (this.#placesPassedOver.has(this.#placeOf(participant))) return computingMs
    if (this.#waitsForTimer(participant.name)) return limits.timer
    return hasQueue ? computingMs : limits.patience
  }

  /** Where a participant is: after how many of its statements. */
  #placeOf({ name }: Participant): string {
    const sent = this.steps.filter(({ participant }) => participant === name)
    return `${name} waited outside the database after ${sent.length} of its statements`
  }

  /** Records that the others go on without a participant. If writers queue in this process, that is usual. */
  #passOver(participant: Participant): void {
    if (this.#server.hasQueue && !this.#waitsForTimer(participant.name)) return
    const place = this.#placeOf(participant)
    this.#placesPassedOver.add(place)
    this.passedOver.add(place)
  }

  #signal(participant: Participant): void {
    this.#events++
    participant.lastEvent = performance.now()
    participant.looks = 0
    participant.outside = false
    this.#wake()
  }

  /** Resolves at the next event, or after a timeout in milliseconds. */
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

/** Never resolves: the code that awaits it has no process any more. */
export function never(): Promise<never> {
  return new Promise(nothing)
}

/** The error of the driver, which Sequelize keeps in `parent`. */
function driverError(error: unknown): DriverError {
  return (error as { parent?: DriverError } | undefined)?.parent ?? (error as DriverError | undefined) ?? {}
}
