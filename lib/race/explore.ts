import { isDeepStrictEqual } from 'node:util'
import { QueryTypes, Sequelize } from 'sequelize'
import type { Check } from './checkers.js'
import { messageOf, NoFinalReadError, usage } from './errors.js'
import { gated, installGate } from './gate.js'
import { mutants } from './mutants.js'
import type { Mutant } from './mutants.js'
import { keep, Run } from './run.js'
import type { Outcome, Step } from './run.js'
import { Frontier, readToken, Script, tokenOf } from './schedules.js'
import type { Chooser } from './schedules.js'
import { changeOf, columnsThatDiffer, NotSerialError, readRows, serialOrders, writtenTables } from './serial.js'
import type { Change } from './serial.js'
import { connectServer } from './servers.js'
import type { Server } from './servers.js'

export interface ExploreOptions<C> {
  /** The instance that the participants use; its pool needs a connection for each of them at least. */
  readonly sequelize: Sequelize
  /** An instance of an account that may see the server's lock waits. Default: the credentials of `sequelize`. */
  readonly admin?: Sequelize
  /** Makes the rows anew, before every schedule; the participants and `check` get what it returns. */
  readonly setup: () => C | Promise<C>
  /** Two or more, by name. They run again and again, and must not share instances. */
  readonly participants: Readonly<Record<string, (context: C) => unknown>>
  /** Throws if something is wrong at the end. Default: the rows have to be as if the participants had run one after the other. */
  readonly check?: Check<C>
  /** How often, in one schedule, a participant that could go on is interrupted; reads are not counted. Default: 2; `Infinity` for all. */
  readonly preemptions?: number
  /** Ends the exploration; one that is cut off without being asked to proves nothing. Default: 1000. */
  readonly maxSchedules?: number
  /** Leave out orders of reads that cannot be told apart. Default: true. */
  readonly reduce?: boolean
  /** Explores again without a protection: each of these has to lose something, else it proves nothing. Default: none. */
  readonly mutants?: readonly Mutant[]
}

/** A schedule after which the check failed. */
export interface Failure {
  /** The how-manieth schedule it was. */
  readonly schedule: number
  readonly steps: readonly Step[]
  readonly outcomes: Readonly<Record<string, Outcome>>
  /** What the check threw. */
  readonly error: unknown
  /** Runs this very schedule again: `replay(token, options)`. */
  readonly token: string
  /** How often one participant followed on another. */
  readonly switches: number
}

export interface Result {
  /** `kept`: nothing was lost in any schedule. `unknown`: the exploration proves nothing, for the `reasons` given. */
  readonly verdict: 'kept' | 'lost' | 'unknown'
  readonly reasons: readonly string[]
  /** How many schedules were run. */
  readonly schedules: number
  /** Every schedule was run that has no more preemptions than asked for. */
  readonly isComplete: boolean
  readonly failures: readonly Failure[]
  /** The failure with the fewest switches. */
  readonly first: Failure | undefined
  /** What came out, and how often: how each participant ended, and what the check said. */
  readonly outcomes: Readonly<Record<string, number>>
  /** Places where the server, not the kit, chose who goes on: more than one waited, or a deadlock was ended. */
  readonly serverChoices: number
  readonly mutants: readonly MutantResult[]
}

export interface MutantResult {
  readonly mutant: Mutant
  /** `idle`: without the protection nothing is lost either. */
  readonly verdict: 'lost' | 'idle'
  readonly schedules: number
  readonly first: Failure | undefined
}

const defaultMaxSchedules = 1_000

/**
 * Runs the participants under every order of their statements, one order after the other, on a real server.
 *
 * Each statement of a participant, BEGIN and COMMIT included, stops at a gate; one at a time goes through. Who waits for a
 * lock is asked of the server: `performance_schema.data_lock_waits` on MySQL, `SHOW ENGINE INNODB STATUS` on MariaDB,
 * `pg_blocking_pids` on PostgreSQL; SQLite, which reports nothing, is served as well as can be. The code under test is not
 * changed. What it says holds for these participants, these rows, and statements as the smallest step; it is a proof of
 * every order within `preemptions`, not of code that was not run. `setup` and the participants write: use a database of
 * its own.
 *
 * @throws {UsageError} before any SQL: an option is wrong, or the pool too small
 * @throws {ProbeError} the account may not see the server's lock waits; `remedy` is the GRANT to run
 * @throws {StuckError} a participant waits for what never comes, such as a connection or a timer
 * @example
 *     const result = await explore({
 *       sequelize,
 *       setup: async () => (await WorkflowRun.create({ progress: {} })).id,
 *       participants: { A: (id) => completeStep(id, 'a'), B: (id) => completeStep(id, 'b') },
 *     })
 *     expect(result.verdict).to.equal('kept')
 */
export async function explore<C>(options: ExploreOptions<C>): Promise<Result> {
  checkOptions('explore', options)
  return withLaboratory(options, (laboratory) => new Exploration(options, laboratory).result())
}

/**
 * Runs one schedule again: the one that a failure of {@link explore} names by its `token`, with the same options.
 *
 * @throws {UsageError} the token is none, or the participants do not send what they sent then
 * @example await replay('v1:ABBA', options)
 */
export async function replay<C>(token: string, options: ExploreOptions<C>): Promise<Result> {
  checkOptions('replay', options)
  const { choices, mutant } = readToken(token, Object.keys(options.participants)) ?? {}
  if (!choices || (mutant !== undefined && !isMutant(mutant))) throw usage.token(token)
  return withLaboratory(options, (laboratory) => new Exploration(options, laboratory, mutant).repeat(token, choices))
}

const optionNames = [
  'sequelize',
  'admin',
  'setup',
  'participants',
  'check',
  'preemptions',
  'maxSchedules',
  'reduce',
  'mutants',
]

/** @throws {UsageError} an option is missing, unknown, or of no use */
function checkOptions<C>(method: string, options: ExploreOptions<C>): void {
  if (typeof options !== 'object' || options === null) throw usage.options(method, options)
  for (const name of Object.keys(options))
    if (!optionNames.includes(name)) throw usage.unknownOption(method, name, optionNames)
  const { sequelize, admin, setup, participants, check, preemptions = 2, maxSchedules = 1 } = options
  if (!(sequelize instanceof Sequelize)) throw usage.sequelize(method, 'sequelize')
  if (admin !== undefined && !(admin instanceof Sequelize)) throw usage.sequelize(method, 'admin')
  if (typeof setup !== 'function') throw usage.callback(method, 'setup')
  if (check !== undefined && typeof check !== 'function') throw usage.callback(method, 'check')
  const functions = Object.values(participants ?? {})
  if (functions.length < 2 || functions.some((each) => typeof each !== 'function')) throw usage.participants(method)
  if (!(preemptions >= 0)) throw usage.count(method, 'preemptions', preemptions, 'a number from 0, or Infinity')
  if (!(maxSchedules >= 1)) throw usage.count(method, 'maxSchedules', maxSchedules, 'a number from 1')
  const others = options.mutants ?? []
  if (!Array.isArray(others) || !others.every(isMutant)) throw usage.mutants(method, others, Object.keys(mutants))
  const max = poolMax(sequelize)
  if (max < functions.length) throw usage.pool(method, max, functions.length)
}

function poolMax(sequelize: Sequelize): number {
  const { pool } = (sequelize as unknown as { options: { pool?: { max?: number } } }).options
  return pool?.max ?? 5
}

function isMutant(name: string): name is Mutant {
  return Object.hasOwn(mutants, name)
}

/** What all schedules of an exploration run in. */
interface Laboratory {
  readonly server: Server
}

async function withLaboratory<C, R>(
  { sequelize, admin }: ExploreOptions<C>,
  fn: (laboratory: Laboratory) => Promise<R>,
): Promise<R> {
  if (gated.has(sequelize)) throw usage.gated('explore')
  gated.add(sequelize)
  try {
    const server = await connectServer(sequelize, admin)
    const uninstall = installGate(sequelize, keep)
    try {
      return await fn({ server })
    } finally {
      uninstall()
      await server.close()
    }
  } finally {
    gated.delete(sequelize)
  }
}

/** What came of one schedule. */
interface Ended {
  readonly run: Run
  readonly outcomes: Readonly<Record<string, Outcome>>
  readonly error: unknown
}

class Exploration<C> {
  readonly #options: ExploreOptions<C>
  readonly #laboratory: Laboratory
  readonly #server: Server
  readonly #mutant: Mutant | undefined
  readonly #names: readonly string[]
  readonly #reasons = new Set<string>()
  readonly #failures: Failure[] = []
  readonly #outcomes = new Map<string, number>()
  readonly #serial = new Map<string, Promise<Change>>()
  readonly #mutants: MutantResult[] = []
  #tables: readonly string[] = []
  #schedules = 0
  #serverChoices = 0
  #sharesRow = false
  #anyOk = false
  #lastError: unknown
  #divergence: string | undefined

  constructor(options: ExploreOptions<C>, laboratory: Laboratory, mutant?: Mutant) {
    this.#options = options
    this.#laboratory = laboratory
    this.#server = laboratory.server
    this.#mutant = mutant
    this.#names = Object.keys(options.participants)
  }

  async result(): Promise<Result> {
    const { preemptions = 2, maxSchedules, reduce = true } = this.#options
    await this.#prepare()
    const frontier = new Frontier({ preemptions, reduce })
    // A mutant need lose only once.
    const isFound = (): boolean => this.#mutant !== undefined && this.#failures.length > 0
    while (
      !isFound() &&
      this.#reasons.size === 0 &&
      !frontier.isEmpty &&
      this.#schedules < (maxSchedules ?? defaultMaxSchedules)
    ) {
      await this.#visit(frontier.next())
    }
    if (this.#schedules > 0) this.#judge(frontier)
    if (this.#failures.length + this.#reasons.size === 0) await this.#exploreMutants()
    return this.#result(frontier.isEmpty)
  }

  /** Explores again without each of the protections, until something is lost. */
  async #exploreMutants(): Promise<void> {
    for (const mutant of this.#options.mutants ?? []) {
      const options = { ...this.#options, mutants: [] }
      const { first, schedules } = await new Exploration(options, this.#laboratory, mutant).result()
      this.#mutants.push({ mutant, verdict: first ? 'lost' : 'idle', schedules, first })
      if (first) continue
      this.#reasons.add(
        `${mutant} loses nothing either, in ${schedules} schedules: that protection does nothing here, or the participants do not put it to the test. Take it out of mutants, or let them collide`,
      )
    }
  }

  /** Runs one schedule. */
  async repeat(token: string, choices: readonly string[]): Promise<Result> {
    await this.#prepare()
    const script = new Script(choices)
    await this.#visit(script)
    if (script.divergence !== undefined) throw usage.tokenDiffers(token, script.divergence)
    return this.#result(false)
  }

  #result(isComplete: boolean): Result {
    const reasons = [...this.#reasons]
    const [first] = this.#failures.toSorted((one, other) => one.switches - other.switches)
    return {
      verdict: first ? 'lost' : reasons.length > 0 ? 'unknown' : 'kept',
      reasons,
      schedules: this.#schedules,
      isComplete,
      failures: this.#failures,
      first,
      outcomes: Object.fromEntries(this.#outcomes),
      serverChoices: this.#serverChoices,
      mutants: this.#mutants,
    }
  }

  /** Runs the participants one after the other: fills caches, so that the first schedule sends what the others send. */
  async #prepare(): Promise<void> {
    const { sequelize } = this.#options
    // Opens the connections, which can take longer than a participant may compute.
    const connections = Math.min(poolMax(sequelize), 2 * this.#names.length)
    const answers = Array.from({ length: connections }, () =>
      sequelize.query('SELECT 1', { type: QueryTypes.SELECT, logging: false, transaction: null }),
    )
    await Promise.all(answers)
    const { run } = await this.#serially(this.#names)
    if (!this.#options.check) await this.#prepareOracle(writtenTables(run.steps))
  }

  /** Makes sure that the rows of a serial run are always the same, but for what {@link changeOf} leaves out. */
  async #prepareOracle(tables: readonly string[]): Promise<void> {
    this.#tables = tables
    if (this.#tables.length === 0) {
      this.#reasons.add('no participant wrote to a table, so there is nothing to compare: pass a check')
      return
    }
    const [one, other] = [await this.#serialChange(this.#names), (await this.#serially(this.#names)).change]
    if (!isDeepStrictEqual(one, other)) {
      const differing = [...columnsThatDiffer(one, other)].join(', ')
      this.#reasons.add(
        `two runs of the same order ended with different rows (${differing}), so rows cannot be compared: make setup() and the participants write the same each time, or pass a check`,
      )
    }
  }

  async #serialChange(order: readonly string[]): Promise<Change> {
    const key = order.join('\n')
    const known = this.#serial.get(key) ?? this.#serially(order).then(({ change }) => change)
    this.#serial.set(key, known)
    return known
  }

  async #serially(order: readonly string[]): Promise<{ run: Run; change: Change }> {
    const { sequelize, setup, participants } = this.#options
    const context = await setup()
    const before = await readRows(sequelize, this.#tables)
    const run = new Run(this.#server)
    for (const name of order) {
      run.start(name, () => participants[name]!(context))
      for (let ready = await run.settle(); ready.length > 0; ready = await run.settle()) run.release(name)
    }
    run.outcomes()
    return { run, change: changeOf(sequelize, before, await readRows(sequelize, this.#tables)) }
  }

  /** Runs one schedule; again, if it did not go as it went before. */
  async #visit(walk: Chooser): Promise<void> {
    let ended = await this.#execute(walk)
    for (let attempt = 1; walk.divergence !== undefined && attempt < 3; attempt++) {
      walk = walk.again()
      ended = await this.#execute(walk)
    }
    if (walk.isRedundant) return
    this.#schedules++
    const { run, outcomes, error } = ended
    const token = tokenOf(this.#names, run.choices, this.#mutant)
    if (walk.divergence !== undefined && run.serverChose) this.#serverChoices++
    else this.#divergence ??= walk.divergence
    this.#anyOk ||= Object.values(outcomes).includes('ok')
    this.#lastError = run.errors().at(-1)
    this.#sharesRow ||= shareRow(run.steps)
    if (error instanceof NoFinalReadError) this.#reasons.add(error.message)
    else if (error !== undefined) {
      const steps = run.steps.filter(({ kind }) => kind !== 'local')
      const switches = steps.filter(
        ({ participant }, index) => index > 0 && steps[index - 1]!.participant !== participant,
      )
      this.#failures.push({
        schedule: this.#schedules,
        steps: run.steps,
        outcomes,
        error,
        token,
        switches: switches.length,
      })
    }
    const ends = Object.entries(outcomes).map(([name, outcome]) => `${name} ${outcome}`)
    const said = error === undefined ? 'kept' : messageOf(error)
    const key = `${ends.join(', ')}: ${said}`
    this.#outcomes.set(key, (this.#outcomes.get(key) ?? 0) + 1)
  }

  async #execute(walk: Chooser): Promise<Ended> {
    const { sequelize, setup, participants, check } = this.#options
    const context = await setup()
    const before = check ? undefined : await readRows(sequelize, this.#tables)
    const run = new Run(this.#server, this.#mutant && mutants[this.#mutant])
    for (const name of this.#names) run.start(name, () => participants[name]!(context))
    for (let ready = await run.settle(); ready.length > 0; ready = await run.settle()) run.release(walk.choose(ready))
    const outcomes = run.outcomes()
    try {
      if (check) await check(context, outcomes)
      else await this.#compare(outcomes, changeOf(sequelize, before!, await readRows(sequelize, this.#tables)))
      return { run, outcomes, error: undefined }
    } catch (error) {
      return { run, outcomes, error: error ?? new Error('the check threw nothing') }
    }
  }

  /** @throws {Error} the participants cannot have run one after the other, in any order */
  async #compare(outcomes: Readonly<Record<string, Outcome>>, change: Change): Promise<void> {
    const orders = serialOrders(outcomes)
    const changes: Change[] = []
    for (const order of orders) {
      const serial = await this.#serialChange(order)
      if (isDeepStrictEqual(serial, change)) return
      changes.push(serial)
    }
    throw new NotSerialError(orders, changes, change)
  }

  #judge(frontier: Frontier): void {
    const { maxSchedules } = this.#options
    if (this.#divergence !== undefined) {
      this.#reasons.add(
        `the participants do not do the same in every run, so not every order was seen: ${this.#divergence}. Take random values, clocks and timers out of them`,
      )
    }
    if (!frontier.isEmpty && maxSchedules === undefined) {
      this.#reasons.add(
        `there are more than ${defaultMaxSchedules} schedules: pass maxSchedules to stop there on purpose, fewer preemptions, or fewer statements`,
      )
    }
    if (this.#schedules === 1) {
      this.#reasons.add('there was a single schedule: the participants never had a choice of who goes first')
    }
    if (!this.#sharesRow) this.#reasons.add('no row was touched by two participants, one of which wrote to it')
    if (!this.#anyOk) this.#reasons.add(`every participant failed in every schedule: ${messageOf(this.#lastError)}`)
  }
}

/** Whether two participants touched the same row, and one of them wrote to it; or one waited for the other. */
function shareRow(steps: readonly Step[]): boolean {
  const writes = steps.filter(({ kind }) => kind === 'write')
  return steps.some(
    ({ participant, touched, waitedFor }) =>
      waitedFor.some((name) => name !== participant) ||
      writes.some(
        (write) =>
          write.participant !== participant &&
          touched.some((row) => write.touched.some((their) => isSameRow(row, their))),
      ),
  )
}

function isSameRow(one: string, other: string): boolean {
  const [[table, key], [theirs, itsKey]] = [one.split(/#(.*)/s), other.split(/#(.*)/s)]
  return table === theirs && (key === itsKey || key === '*' || itsKey === '*')
}
