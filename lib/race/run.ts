import { AsyncLocalStorage } from 'node:async_hooks'
import type { Model, ModelStatic } from 'sequelize'
import { messageOf, StuckError } from './errors.js'
import type { Passing } from './gate.js'
import type { Mutate } from './mutants.js'
import type { DriverError, Server } from './servers.js'
import { bindList, conditions, endsTransaction, kindOf, nameOf, tableOf } from './statement.js'
import type { Kind } from './statement.js'

/** How a participant ended: `unknown` rejected after a write of its that lasts, or may. */
export type Outcome = 'ok' | 'failed' | 'unknown'

/** One statement of a schedule. */
export interface Step {
  /** Its place in the order in which statements were let through, from 1. */
  readonly number: number
  readonly participant: string
  readonly sql: string
  readonly binds: readonly unknown[]
  readonly kind: Kind
  /** The last statement that had been let through when this one's answer came. */
  readonly answeredAfter: number
  /** The participants whose locks it waited for. */
  readonly waitedFor: readonly string[]
  /** What a read returned, as it was then. */
  readonly rows: readonly Readonly<Record<string, unknown>>[]
  readonly error: string | undefined
  /** The rows that it read or wrote, as `table#key`; `table#*` where they cannot be told. */
  readonly touched: readonly string[]
}

/** A statement at the gate: the next one of its participant. */
export interface Pending {
  readonly participant: string
  readonly sql: string
  /** `start`: it has not begun yet, and stands in no queue. */
  readonly kind: Kind | 'start'
}

interface Statement extends Pending {
  readonly kind: Kind
  readonly step: { -readonly [Key in keyof Step]: Step[Key] }
  readonly connection: object
  readonly inTransaction: boolean
  /** Lets it through. */
  go: () => void
  /** For a statement that the server did not even queue: sends it again, or gives up. */
  again: ((giveUp: boolean) => void) | undefined
  /** The server said that it waits, since the last time that a lock may have been released. */
  waiting: boolean
  waited: boolean
  /** Statements sent inside it, such as the ROLLBACK after a deadlock, which it waits for. */
  nested: number
}

interface Participant {
  readonly name: string
  /** How to start it, as long as it is not. */
  held: (() => void) | undefined
  readonly gates: Statement[]
  readonly sent: Set<Statement>
  settled: { readonly error?: unknown; readonly rejected: boolean } | undefined
  /** It computes, or waits for something that is no statement. */
  outside: boolean
  lastEvent: number
  /** A write of its lasts, or may last. */
  lasting: boolean
}

interface Context {
  readonly run: Run
  readonly participant: Participant
  readonly within: Statement | undefined
}

const contexts = new AsyncLocalStorage<Context>()

/** Sends what a participant of a running schedule asked for when its turn comes, and all else at once. */
export function keep(passing: Passing): Promise<unknown> {
  return contexts.getStore()?.run.pass(passing) ?? passing.send()
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
  /** nothing at all may happen */
  stuck: 5_000,
} as const

/** One execution of the participants, whose statements go through one at a time, in an order that the caller chooses. */
export class Run {
  readonly steps: Step[] = []
  /** Who was let through, in order. */
  readonly choices: string[] = []
  /** The server may have chosen who went on: several waited for the same lock, or one of a deadlock was ended. */
  serverChose = false
  readonly #server: Server
  readonly #participants: Participant[] = []
  readonly #mutate: Mutate
  readonly #owners = new Map<number, Participant>()
  /** Connections with an open transaction, and whether it has written. */
  readonly #open = new Map<object, { readonly participant: Participant; wrote: boolean }>()
  #events = 0
  #wake: () => void = nothing
  #isOver = false

  constructor(server: Server, mutate: Mutate = ({ sql }) => sql) {
    this.#server = server
    this.#mutate = mutate
  }

  /** Starts a participant, which goes as far as its first statement; where callers queue in this process, when its turn comes. */
  start(name: string, fn: () => unknown): void {
    const participant: Participant = {
      name,
      held: undefined,
      gates: [],
      sent: new Set(),
      settled: undefined,
      outside: false,
      lastEvent: performance.now(),
      lasting: false,
    }
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
    if (this.#isOver) return passing.send()
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
    const { step, connection } = statement
    this.#server.prepare(connection)
    this.#owners.set(this.#server.connectionId(connection), participant)
    try {
      const send = (): Promise<unknown> => passing.send(step.sql)
      const answer = await contexts.run({ run: this, participant, within: statement }, () =>
        this.#untilNotBusy(statement, send),
      )
      if (statement.kind === 'read' || statement.kind === 'lock') step.rows = copyOf(answer)
      this.#take(statement, participant)
      step.touched = touchedBy(step, passing.model)
      return answer
    } catch (error) {
      step.error = messageOf(error)
      step.touched = touchedBy(step, passing.model)
      this.#takeError(statement, participant, error)
      throw error
    } finally {
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
        if (unsure.length > 0) await this.#probe(inFlight)
        for (const each of computing) {
          each.outside = seen === this.#events && performance.now() - each.lastEvent > this.#server.computingMs
        }
      } else {
        const ready = live.filter(({ held, gates }) => held ?? gates.length > 0)
        if (live.length === 0) return []
        const sinceMs = performance.now() - start
        const isDeadlock = live.some((each) => this.#waitsForItself(each, live)) && sinceMs < this.#server.deadlockMs
        const comeBack = live.some(({ outside }) => outside) ? limits.comeBack : 0
        const waitMs = isDeadlock || ready.length === 0 ? limits.resolve : comeBack
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

  /** How each participant has ended. */
  outcomes(): Record<string, Outcome> {
    this.#isOver = true
    return Object.fromEntries(
      this.#participants.map(({ name, settled, lasting }) => [
        name,
        settled!.rejected ? (lasting ? 'unknown' : 'failed') : 'ok',
      ]),
    )
  }

  /** What the participants were rejected with. */
  errors(): unknown[] {
    return this.#participants.flatMap(({ settled }) => (settled!.rejected ? [settled!.error] : []))
  }

  #arrive(passing: Passing, { name }: Participant): Statement {
    const sql = this.#mutate(passing, this.#server.nothing)
    const kind = kindOf(sql)
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
    const state = { go: nothing, again: undefined, waiting: false, waited: false, nested: 0 }
    return { participant: name, sql, kind, step, connection, inTransaction, ...state }
  }

  /** Sends a statement again and again, as long as the database is busy and somebody else may end that. */
  async #untilNotBusy(statement: Statement, send: () => Promise<unknown>): Promise<unknown> {
    for (;;) {
      try {
        return await send()
      } catch (error) {
        if (!this.#server.isBusy(driverError(error))) throw error
        statement.waiting = true
        this.#nameBlockers(statement, undefined)
        const givesUp = new Promise<boolean>((resolve) => (statement.again = resolve))
        this.#wake()
        if (await givesUp) throw error
        statement.again = undefined
      }
    }
  }

  #take(statement: Statement, participant: Participant): void {
    const { sql, kind, connection, inTransaction } = statement
    const open = this.#open.get(connection)
    if (/^(START|BEGIN)\b/i.test(sql)) this.#open.set(connection, { participant, wrote: false })
    if (kind === 'write') {
      if (open) open.wrote = true
      else participant.lasting = true
    }
    if (endsTransaction(sql)) {
      if (/^COMMIT/i.test(sql) && open?.wrote) participant.lasting = true
      this.#open.delete(connection)
    }
    if (kind === 'end' || !inTransaction) this.#lockReleased()
  }

  #takeError(statement: Statement, participant: Participant, error: unknown): void {
    const { sql, kind, connection } = statement
    const open = this.#open.get(connection)
    const isLastWord = /^COMMIT/i.test(sql) ? open?.wrote : kind === 'write' && !open
    if (isLastWord && !this.#server.isAnswer(driverError(error))) participant.lasting = true
    if (endsTransaction(sql)) this.#open.delete(connection)
    this.#lockReleased()
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

  async #probe(inFlight: readonly Statement[]): Promise<void> {
    const seen = this.#events
    const byId = new Map(inFlight.map((each) => [this.#server.connectionId(each.connection), each]))
    const waits = await this.#server.waits([...byId.keys()])
    // Whoever got an answer meanwhile may have been waited for.
    if (seen !== this.#events) return
    for (const each of inFlight) each.waiting = each.again !== undefined
    for (const { waiter, blockers } of waits) this.#nameBlockers(byId.get(waiter)!, blockers)
  }

  #nameBlockers(statement: Statement, ids: readonly number[] | undefined): void {
    statement.waiting = true
    statement.waited = true
    const { step } = statement
    const known = ids?.map((id) => this.#owners.get(id)?.name ?? `connection ${id}`)
    step.waitedFor = [...new Set([...step.waitedFor, ...(known ?? this.#likelyBlockers(statement))])]
  }

  /** Where the server does not say: those others that have a transaction open, first of all those that do not wait. */
  #likelyBlockers({ participant }: Statement): string[] {
    const holders = [...this.#open.values()].map((each) => each.participant).filter(({ name }) => name !== participant)
    const working = holders.filter(({ sent }) => [...sent].every(({ waiting }) => !waiting))
    const likely = working.length > 0 ? working : holders
    return likely.length > 0 ? likely.map(({ name }) => name) : [participant]
  }

  /** Whether a chain of waits leads from a participant over others back to it: the server will end one of them. */
  #waitsForItself(participant: Participant, live: readonly Participant[]): boolean {
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
    const isChain = reached.size > 1 && reached.has(participant.name)
    if (isChain) this.serverChose = true
    return isChain
  }

  /** Nobody can go on, and the server has had time enough: ends the wait that began last. */
  async #unblock(live: readonly Participant[], sinceMs: number): Promise<void> {
    const waiting = live
      .flatMap(({ sent }) => [...sent])
      .filter((each) => each.waiting)
      .sort((one, other) => one.step.number - other.step.number)
    // A COMMIT that SQLite has refused for good would leave its file locked.
    const own = waiting.findLast(waitsForItsOwn)
    const last = own ?? waiting.findLast(({ kind }) => kind !== 'end') ?? waiting.at(-1)
    const patience = own ? 0 : this.#server.deadlockMs + (live.some(({ outside }) => outside) ? limits.outside : 0)
    if (!last || sinceMs < patience) return
    if (last.again) last.again(true)
    else await this.#server.cancel?.(this.#server.connectionId(last.connection))
    last.waiting = false
  }

  #signal(participant: Participant): void {
    this.#events++
    participant.lastEvent = performance.now()
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

function nextOf({ name, gates }: Participant): Pending {
  return gates[0] ?? { participant: name, sql: 'start', kind: 'start' }
}

function isDone({ settled, gates, sent }: Participant): boolean {
  return settled !== undefined && gates.length + sent.size === 0
}

/** Whether it waits for a lock that only its own participant holds, on another connection. */
function waitsForItsOwn({ step, waiting, participant }: Statement): boolean {
  return waiting && step.waitedFor.every((name) => name === participant)
}

/** What the driver said, which Sequelize hands on in `parent`. */
function driverError(error: unknown): DriverError {
  return (error as { parent?: DriverError }).parent ?? {}
}

/** The rows of an answer, copied: Sequelize goes on to change the instances that it has built. */
function copyOf(answer: unknown): Record<string, unknown>[] {
  const all: unknown[] = Array.isArray(answer)
    ? Array.isArray(answer[0])
      ? (answer[0] as unknown[])
      : answer
    : [answer]
  const rows = all.map((row) => (row as { dataValues?: unknown } | null)?.dataValues ?? row)
  const text = JSON.stringify(rows, (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value))
  return (JSON.parse(text) as unknown[]).filter((row) => typeof row === 'object' && row !== null) as Record<
    string,
    unknown
  >[]
}

function touchedBy({ sql, binds, kind, rows }: Step, model: ModelStatic<Model> | undefined): string[] {
  const table = tableOf(sql)
  const isNewRow = /^INSERT\b(?!.*\bON (CONFLICT|DUPLICATE)\b)/is.test(sql)
  if (table === undefined || isNewRow) return []
  const name = nameOf(table)
  const keys = (model?.primaryKeyAttributes ?? []).map((attribute) => ({
    attribute,
    field: model!.getAttributes()[attribute]!.field ?? attribute,
  }))
  if (kind !== 'write') {
    const isKnown = keys.length > 0 && rows.every((row) => keys.every(({ attribute }) => attribute in row))
    return isKnown
      ? rows.map((row) => `${name}#${keys.map(({ attribute }) => String(row[attribute])).join('#')}`)
      : [`${name}#*`]
  }
  const given = conditions(sql, binds)
  const values = keys.map(
    ({ field }) => given.find(({ column, value }) => column === field && value !== undefined)?.value,
  )
  const isOne = keys.length > 0 && values.every((value) => value !== undefined)
  return [`${name}#${isOne ? values.map(String).join('#') : '*'}`]
}
