import { setTimeout as delay } from 'node:timers/promises'
import { QueryTypes } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import {
  increment,
  lock,
  mergeJson,
  mergeJsonKey,
  retryTransaction,
  set,
  updateJson,
  withLock,
  withLocks,
} from 'sequelize-lossless'
import type { Database } from '../each-database.js'
import { meetDeadlock } from './deadlock.js'
import type { Flow, Program, Step } from './programs.js'
import { isUntroubled } from './programs.js'
import type { Account, Tables } from './tables.js'
import type { Witness } from './witness.js'

/** Where the programs run. */
export interface Laboratory {
  readonly database: Database
  readonly sequelize: Sequelize
  readonly tables: Tables
  /** The same tables, for another session. */
  readonly theirs: Tables
  readonly witness: Witness
}

/** What one program did, and what was wrong with that. */
export interface Verdict {
  /** The first sentence of each tells its kind, and the rest of it which. */
  readonly violations: readonly string[]
  /** How each flow ended. */
  readonly outcomes: readonly string[]
  readonly writes: number
  readonly deadlocks: number
}

type Place = 'document' | 'bits' | 'entries' | 'outside'

/** A token that a step was to write. */
interface Write {
  readonly step: Step['do'] | 'theirs'
  readonly token: string
  readonly place: Place
  /** The row, of `document` and `bits`. */
  readonly id: number | undefined
  readonly bit: number
  readonly attempt: number
  /** Whether the call was over when the step began. */
  readonly isLate: boolean
  readonly savepoint: Savepoint | undefined
  state: 'pending' | 'resolved' | Error
}

interface Savepoint {
  readonly around: Savepoint | undefined
  isRolledBack: boolean
  /** Its callback has rolled it back and gone on: what a locked row saves then is part of the transaction around it. */
  isEndedByHand: boolean
}

/** What a step knows of the callback that it is part of. */
interface Context {
  readonly transaction: Transaction
  readonly attempt: number
  readonly savepoint: Savepoint | undefined
  /** The rows that are locked. */
  readonly locked: readonly Account[]
}

/** Steps that leave their token in the memory of the row when they fail, from which a later save writes it. */
const keptInMemory: ReadonlySet<string> = new Set<Step['do']>(['save', 'saveInPlace', 'update'])

/** How long a program may take, before it is said to hang. */
const patienceMilliseconds = 25_000

class ThrownByTheProgram extends Error {}

let programs = 0

/** Runs a program on rows of its own, waits until everything that it began is over, and judges what is stored. */
export async function execute(laboratory: Laboratory, program: Program): Promise<Verdict> {
  const execution = new Execution(laboratory, ++programs)
  const over = new AbortController()
  const late = delay(patienceMilliseconds, 'hangs', { signal: over.signal, ref: false }).catch(() => 'over')
  const running = execution.run(program)
  const first = await Promise.race([running, late])
  over.abort()
  if (typeof first !== 'string') return first
  return { violations: [`hangs: ${execution.pending()}`], outcomes: [], writes: 0, deadlocks: 0 }
}

class Execution {
  readonly #laboratory: Laboratory
  readonly #number: number
  /** The primary keys of its three rows. */
  #ids: readonly number[] = []
  readonly #flows: RunningFlow[] = []
  /** What other sessions were told is written. */
  readonly #acknowledged: { readonly token: string; readonly id: number }[] = []
  readonly #background: Promise<unknown>[] = []
  deadlocks = 0
  #bits = 0
  #tokens = 0

  constructor(laboratory: Laboratory, number: number) {
    this.#laboratory = laboratory
    this.#number = number
  }

  async run(program: Program): Promise<Verdict> {
    const { theirs, database } = this.#laboratory
    const rows = await Promise.all([0, 1, 2].map(() => theirs.Accounts.create({})))
    this.#ids = rows.map(({ id }) => id)
    for (const row of program.theirs) this.theirs(row)
    const run = async (flow: Flow, index: number): Promise<void> => {
      const running = new RunningFlow(this.#laboratory, this, flow, `t${this.#number}_${index}`)
      this.#flows.push(running)
      await running.run()
    }
    // A transaction of the user's takes no turn among SQLite's writers, and would fail for being second.
    const isInTurn = database.name === 'sqlite' && program.flows.some(({ way }) => way === 'joined')
    if (isInTurn) for (const [index, flow] of program.flows.entries()) await run(flow, index)
    else await Promise.all(program.flows.map(run))
    for (const flow of this.#flows) await flow.settle()
    await Promise.all(this.#background)
    return this.#judge(program)
  }

  pending(): string {
    const waiting = this.#flows.flatMap(({ writes }) => writes.filter(({ state }) => state === 'pending'))
    return waiting.map(({ step, token }) => `${step} ${token}`).join(', ') || 'no write is under way'
  }

  idOf(row: number): number {
    return this.#ids[row]!
  }

  token(prefix: string): string {
    return `${prefix}_${++this.#tokens}`
  }

  /** A bit that no other step has; 0 when there are none left. */
  bit(): number {
    return this.#bits < 30 ? 2 ** this.#bits++ : 0
  }

  background(work: Promise<unknown>): void {
    this.#background.push(work.catch(() => undefined))
  }

  /** Another session sets a key of its own, as soon as it can. */
  theirs(row: number): void {
    const { Accounts } = this.#laboratory.theirs
    const id = this.idOf(row)
    const token = this.token(`t${this.#number}_theirs`)
    const writing = mergeJsonKey([Accounts, id], 'progress', token, 1)
    this.background(writing.then(() => this.#acknowledged.push({ token, id })))
  }

  /** Another session writes a key of its own to the row, and has `transaction` rolled back by a deadlock. */
  async deadlock(id: number, transaction: Transaction): Promise<void> {
    const token = this.token(`t${this.#number}_survivor`)
    const { written, failed } = await meetDeadlock(this.#laboratory, id, transaction, token)
    this.background(written.then(() => this.#acknowledged.push({ token, id })))
    try {
      await failed
    } catch (error) {
      this.deadlocks++
      throw error
    }
  }

  async #judge(program: Program): Promise<Verdict> {
    const { theirs, witness } = this.#laboratory
    const free = this.#flows.flatMap((flow) => flow.writes.filter((write) => flow.isFree(write)))
    const violations = (await witness.escapes())
      .filter((text) => !free.some(({ token }) => new RegExp(`\\b${token}\\b`).test(text)))
      .map((text) => `escaped: ${text}`)
    const accounts = new Map(
      (await theirs.Accounts.findAll({ where: { id: [...this.#ids] } })).map((row) => [row.id, row]),
    )
    const count = async (table: string): Promise<Map<string, number>> => {
      const rows = await theirs.Entries.sequelize!.query<{ token: string; number: number | string }>(
        `SELECT token, COUNT(*) AS number FROM ${table} WHERE program = ${this.#number} GROUP BY token`,
        { type: QueryTypes.SELECT },
      )
      return new Map(rows.map(({ token, number }) => [token, Number(number)]))
    }
    const [entries, outside] = [await count('escape_entries'), await count('escape_outside')]
    const destroyed = new Set(this.#flows.flatMap((flow) => flow.destroyed() ?? []))
    for (const id of this.#ids) {
      if (!accounts.has(id) && !destroyed.has(id)) violations.push(`lost: row ${id} was deleted by a call that failed`)
    }
    for (const { token, id } of this.#acknowledged) {
      const row = accounts.get(id)
      if (row && row.progress[token] === undefined) violations.push(`lost: ${token} of another session, acknowledged`)
    }
    for (const flow of this.#flows) {
      violations.push(...flow.violations)
      for (const write of flow.writes) {
        if (write.place === 'bits') continue
        const { token, place, id } = write
        if (place === 'document' && !accounts.has(id!)) continue
        const stored =
          place === 'document'
            ? accounts.get(id!)!.progress[token]
            : (place === 'entries' ? entries : outside).get(token)
        const wanted = flow.expected(write)
        const text = flow.describe(write)
        if (stored !== undefined && stored !== 1) violations.push(`repeated: ${text} is stored ${stored} times`)
        if (wanted === 'stored' && stored === undefined) violations.push(`lost: ${text}`)
        if (wanted === 'absent' && stored !== undefined) violations.push(`stored, and must not be: ${text}`)
      }
    }
    for (const [id, row] of accounts) {
      const bits = this.#flows.flatMap((flow) =>
        flow.writes.filter((write) => write.place === 'bits' && write.id === id).map((write) => ({ flow, write })),
      )
      const sum = (which: string): number =>
        bits.reduce((total, { flow, write }) => total + (flow.expected(write) === which ? write.bit : 0), 0)
      const rest = row.bits - sum('stored')
      const isRight = rest >= 0 && (rest & ~sum('either')) === 0
      if (!isRight) {
        const texts = bits.map(({ flow, write }) => `${flow.expected(write)} ${write.bit}: ${flow.describe(write)}`)
        violations.push(`lost, repeated or stored: the bits of row ${id} are ${row.bits}\n${texts.join('\n')}`)
      }
    }
    const [failed] = this.#flows.filter(({ outcome }) => outcome instanceof Error)
    if (failed && isUntroubled(program))
      violations.push(`refused: a program in whose way nothing stands: ${failed.told()}`)
    return {
      violations,
      outcomes: this.#flows.map((flow) => flow.told()),
      writes: this.#flows.reduce((sum, { writes }) => sum + writes.length, 0),
      deadlocks: this.deadlocks,
    }
  }
}

class RunningFlow {
  readonly #laboratory: Laboratory
  readonly #execution: Execution
  readonly #flow: Flow
  readonly #prefix: string
  readonly writes: Write[] = []
  readonly violations: string[] = []
  outcome: 'resolved' | Error | undefined
  #attempt = 0
  /** What was begun, and may never be awaited. */
  readonly #begun: Promise<unknown>[] = []
  readonly #isOver: Promise<void>
  #end!: () => void
  #destroyed: { readonly id: number; readonly attempt: number } | undefined

  constructor(laboratory: Laboratory, execution: Execution, flow: Flow, prefix: string) {
    this.#laboratory = laboratory
    this.#execution = execution
    this.#flow = flow
    this.#prefix = prefix
    this.#isOver = new Promise((resolve) => (this.#end = resolve))
  }

  async run(): Promise<void> {
    try {
      await this.#call()
      this.outcome = 'resolved'
    } catch (error) {
      this.outcome = error as Error
      const { name } = error as Error
      if (name === 'UnknownOutcomeError') this.violations.push(`unknown outcome: ${this.told()}`)
    }
  }

  /** Lets the late branches go, and waits until everything is over. */
  async settle(): Promise<void> {
    this.#end()
    for (let index = 0; index < this.#begun.length; index++) await this.#begun[index]
  }

  told(): string {
    const { outcome } = this
    return outcome instanceof Error ? `${outcome.name}: ${outcome.message}` : String(outcome)
  }

  /** The row that it deleted for good. */
  destroyed(): number | undefined {
    const destroyed = this.#destroyed
    return this.outcome === 'resolved' && destroyed?.attempt === this.#attempt ? destroyed.id : undefined
  }

  describe({ step, token, attempt, state, isLate, savepoint }: Write): string {
    const facts = [
      `attempt ${attempt} of ${this.#attempt}`,
      ...(isLate ? ['begun after the call'] : []),
      ...(isRolledBack(savepoint) ? ['in a savepoint that was rolled back'] : []),
      state instanceof Error ? `rejected with ${state.name}: ${state.message.slice(0, 160)}` : state,
    ]
    return `${step} of ${token} (${facts.join(', ')}); the call: ${this.told().slice(0, 160)}`
  }

  /** After COMMIT, a branch may write without the transaction what the callback neither locked nor wrote: a new row. */
  isFree({ step, isLate }: Write): boolean {
    return step === 'untold' && isLate && this.outcome === 'resolved'
  }

  expected(write: Write): 'stored' | 'absent' | 'either' {
    const { step, place, attempt, state, isLate, savepoint } = write
    if (this.isFree(write)) return 'either'
    if (place === 'outside') return state === 'resolved' ? 'stored' : 'absent'
    if (this.outcome !== 'resolved' || attempt < this.#attempt) return 'absent'
    if (isRolledBack(savepoint)) return isEndedByHand(savepoint) ? 'either' : 'absent'
    if (state === 'resolved') return isLate ? 'either' : 'stored'
    return keptInMemory.has(step) ? 'either' : 'absent'
  }

  async #call(): Promise<void> {
    const { sequelize, tables } = this.#laboratory
    const { way, isRetried, rows } = this.#flow
    const { Accounts } = tables
    const quick = { baseDelayMs: 0, maxDelayMs: 0, maxAttempts: 4 }
    const options = isRetried ? { retry: quick } : {}
    const ids = rows.map((row) => this.#execution.idOf(row))
    const found = async (): Promise<Account> => Accounts.findByPk(ids[0]!, { rejectOnEmpty: true, transaction: null })
    if (way === 'withLock') {
      await (await found()).withLock((row, transaction) => this.#callback(transaction, [row]), options)
    } else if (way === 'withLock of a target') {
      await withLock([Accounts, ids[0]!], (row, transaction) => this.#callback(transaction, [row]), options)
    } else if (way === 'withLocks') {
      const targets = ids.map((id) => [Accounts, id] as const)
      await withLocks(targets, (locked, transaction) => this.#callback(transaction, locked), options)
    } else if (way === 'retryTransaction') {
      const row = await found()
      const run = async (transaction: Transaction): Promise<void> => {
        await lock(row, { transaction })
        await this.#callback(transaction, [row])
      }
      await retryTransaction(sequelize, run, isRetried ? quick : { maxAttempts: 1 })
    } else {
      await sequelize.transaction(async (transaction) => {
        await this.#laboratory.witness.mark(transaction)
        const context = { transaction, attempt: 1, savepoint: undefined, locked: [] }
        await this.#step(context, { do: 'create', row: 0 })
        const row = await found()
        await withLock(row, (locked) => this.#callback(transaction, [locked]), { transaction })
        await this.#step({ ...context, locked: [row] }, { do: 'raw', row: 0 })
      })
    }
  }

  async #callback(transaction: Transaction, locked: readonly Account[]): Promise<void> {
    const { witness } = this.#laboratory
    const attempt = ++this.#attempt
    await witness.mark(transaction)
    const { steps, isDestroyed } = this.#flow
    await this.#steps({ transaction, attempt, savepoint: undefined, locked }, steps)
    if (!isDestroyed) return
    await locked[0]!.destroy()
    this.#destroyed = { id: locked[0]!.id, attempt }
  }

  async #steps(context: Context, steps: readonly Step[]): Promise<void> {
    for (const step of steps) await this.#step(context, step)
  }

  /** Begins what may never be awaited. */
  #begin(work: Promise<void>): Promise<void> {
    this.#begun.push(work.catch(() => undefined))
    return work
  }

  async #step(context: Context, step: Step): Promise<void> {
    const begin = (steps: readonly Step[]): Promise<void> => this.#begin(this.#steps(context, steps))
    switch (step.do) {
      case 'caught':
        return this.#steps(context, step.steps).catch(() => undefined)
      case 'all':
        return void (await Promise.all(step.branches.map(begin)))
      case 'settled':
        return void (await Promise.allSettled(step.branches.map(begin)))
      case 'savepoint':
        return this.#savepoint(context, step.steps, step.isThrown)
      case 'late':
        return void this.#begin(this.#isOver.then(() => this.#steps(context, step.steps))).catch(() => undefined)
      case 'forgotten':
        return void begin(step.steps).catch(() => undefined)
      default:
        return this.#leaf(context, step)
    }
  }

  async #savepoint(context: Context, steps: readonly Step[], isThrown: boolean): Promise<void> {
    const savepoint: Savepoint = { around: context.savepoint, isRolledBack: false, isEndedByHand: false }
    const end = new ThrownByTheProgram('to roll the savepoint back')
    try {
      await this.#laboratory.sequelize.transaction({ transaction: context.transaction }, async (transaction) => {
        await this.#steps({ ...context, transaction, savepoint }, steps)
        if (isThrown) throw end
      })
    } catch (error) {
      savepoint.isRolledBack = true
      if (error !== end) throw error
    }
  }

  async #leaf(context: Context, { do: step, row }: Extract<Step, { row: number }>): Promise<void> {
    const { sequelize, tables, database } = this.#laboratory
    const { transaction, locked } = context
    const own = locked[row % Math.max(locked.length, 1)]!
    const any = this.#execution.idOf(row)
    const document = (id: number, send: (token: string) => Promise<unknown>): Promise<void> =>
      this.#write(context, step, 'document', id, send)
    const entry = (send: (token: { token: string; program: number }) => Promise<unknown>): Promise<void> =>
      this.#write(context, step, step === 'outside' ? 'outside' : 'entries', undefined, (token) =>
        send({ token, program: Number(/\d+/.exec(token)![0]) }),
      )
    switch (step) {
      case 'save':
        return document(own.id, (token) => {
          own.progress = { ...own.progress, [token]: 1 }
          return own.save()
        })
      case 'saveInPlace':
        return document(own.id, (token) => {
          own.progress[token] = 1
          return own.save()
        })
      case 'update':
        return document(own.id, (token) => own.update({ progress: { ...own.progress, [token]: 1 } }))
      case 'increment':
        return this.#write(context, step, 'bits', own.id, (_token, by) => own.increment('bits', { by }))
      case 'jsonOfRow':
        return document(own.id, (token) => {
          if (row === 0) return own.mergeJsonKey('progress', token, 1)
          if (row === 1) return own.updateJson('progress', [increment(token)], { returning: true })
          return own.mergeJson('progress', { [token]: 1 })
        })
      case 'jsonOfTarget':
        return document(any, (token) => {
          const target = [tables.Accounts, any] as const
          if (row === 0) return mergeJsonKey(target, 'progress', token, 1, { transaction })
          if (row === 1) return updateJson(target, 'progress', [increment(token), set('last', 0)], { transaction })
          return mergeJson(target, 'progress', { [token]: 1 }, { transaction })
        })
      case 'create':
        return entry((values) =>
          row === 0
            ? tables.Entries.bulkCreate([values], { transaction })
            : tables.Entries.create(values, { transaction }),
        )
      case 'raw':
        return entry(({ token, program }) =>
          sequelize.query('INSERT INTO escape_entries (program, token) VALUES ($program, $token)', {
            bind: { program, token },
            transaction,
          }),
        )
      case 'untold':
        return entry((values) => tables.Entries.create(values))
      case 'outside':
        // SQLite has one writer, for which this one would wait.
        if (database.name === 'sqlite') return
        return entry((values) => tables.Outside.create(values, { transaction: null }))
      case 'findOrCreate':
        return entry((values) =>
          tables.Entries.findOrCreate({ where: { token: values.token }, defaults: values, transaction }),
        )
      case 'nested':
        return document(any, (token) =>
          withLock([tables.Accounts, any], (other) => other.update({ progress: { ...other.progress, [token]: 1 } }), {
            transaction,
          }),
        )
      case 'second':
        return document(any, async (token) => {
          const other = await tables.Accounts.findByPk(any, { transaction, lock: true, rejectOnEmpty: true })
          await other.update({ progress: { ...other.progress, [token]: 1 } }, { transaction })
        })
      case 'duplicate':
        return void (await tables.Taken.create({ id: 1 }, { transaction }))
      case 'deadlock':
        if (database.name === 'sqlite') return void (await tables.Taken.create({ id: 1 }, { transaction }))
        // Else no attempt would get through.
        return context.attempt > 1 ? undefined : this.#execution.deadlock(own.id, transaction)
      case 'theirs':
        this.#execution.theirs(row)
        return
      case 'read':
        return void (await tables.Accounts.findByPk(any, { transaction }))
      case 'reload':
        return void (await own.reload())
      case 'throw':
        throw new ThrownByTheProgram('in the middle')
      case 'rollback':
        if (context.savepoint) context.savepoint.isEndedByHand = true
        return transaction.rollback()
    }
  }

  async #write(
    { attempt, savepoint }: Context,
    step: Step['do'],
    place: Place,
    id: number | undefined,
    send: (token: string, bit: number) => Promise<unknown>,
  ): Promise<void> {
    const token = this.#execution.token(`${this.#prefix}_${attempt}`)
    const bit = place === 'bits' ? this.#execution.bit() : 0
    if (place === 'bits' && bit === 0) return
    const isLate = this.outcome !== undefined
    const write: Write = { step, token, place, id, bit, attempt, isLate, savepoint, state: 'pending' }
    this.writes.push(write)
    try {
      await send(token, bit)
      write.state = 'resolved'
    } catch (error) {
      write.state = error as Error
      throw error
    }
    if (place === 'outside' || this.isFree(write)) return
    if (step === 'untold') this.violations.push(`not refused: ${this.describe(write)}`)
    if (isLate) this.violations.push(`resolved after the call: ${this.describe(write)}`)
  }
}

function isRolledBack(savepoint: Savepoint | undefined): boolean {
  return savepoint !== undefined && (savepoint.isRolledBack || isRolledBack(savepoint.around))
}

function isEndedByHand(savepoint: Savepoint | undefined): boolean {
  return savepoint !== undefined && (savepoint.isEndedByHand || isEndedByHand(savepoint.around))
}
