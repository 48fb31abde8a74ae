import { anomalyOf } from './anomaly.js'
import type { Anomaly } from './dependencies.js'
import { FailureError, messageOf, NoFinalReadError, StoppedError, usage } from './errors.js'
import { Evidence } from './evidence.js'
import { faultPlaces, FaultWalk } from './fault-orders.js'
import type { Fault } from './faults.js'
import { withLaboratory } from './laboratory.js'
import type { Laboratory } from './laboratory.js'
import { mutants } from './mutants.js'
import type { Mutant } from './mutants.js'
import { checkOptions, faultsOf, isMutant } from './options.js'
import type { ExploreOptions } from './options.js'
import { Oracle } from './oracle.js'
import type { Judge } from './oracle.js'
import type { Outcome, Run } from './run.js'
import { defaultSeed, Sample } from './sample.js'
import { permutations } from './serial.js'
import { Frontier, readToken, Script, tokenOf } from './schedules.js'
import type { Chooser, Schedules } from './schedules.js'
import { shapeOf } from './statement.js'
import type { Step } from './step.js'

/** A schedule that failed. */
export interface Failure {
  /** The number of the schedule, from 1. */
  readonly schedule: number
  readonly steps: readonly Step[]
  readonly outcomes: Readonly<Record<string, Outcome>>
  /** What the check threw, or a `NotSerialError`, `ResultsError`, `HangError`, `OpenTransactionError` or `FailureError`. */
  readonly error: unknown
  /** Its name, its cycle and its remedy. */
  readonly anomaly: Anomaly
  /** The fault in it, and the participant that it happened to; `undefined` in an order without one. */
  readonly fault?: { readonly kind: Fault; readonly participant: string } | undefined
  /** Runs this very schedule again: `replay(token, options)`. */
  readonly token: string
  /** The number of switches from one participant to another. */
  readonly switches: number
}

export interface Result {
  /**
   * `kept`: no schedule failed. `lost`: one lost an update, returned what no serial order returns, hung, left a transaction
   * open, or ended with an error that `failures` does not allow. `unknown`: the exploration is inconclusive, see `reasons`.
   */
  readonly verdict: 'kept' | 'lost' | 'unknown'
  readonly reasons: readonly string[]
  /** The number of schedules that were run. */
  readonly schedules: number
  /**
   * Every schedule within `preemptions` was run; without that option, every schedule. False also if the server chose another order, or if the participants went
   * on without one that waited outside the database.
   */
  readonly isComplete: boolean
  /** What was left out, if the exploration is not complete: a sentence each. */
  readonly leftOut: readonly string[]
  readonly failures: readonly Failure[]
  /** The tokens of the schedules that did not fail. */
  readonly kept: readonly string[]
  /** The failure with the fewest switches. */
  readonly first: Failure | undefined
  /** The number of schedules by result: the outcome of each participant, and the message of the check. */
  readonly outcomes: Readonly<Record<string, number>>
  /**
   * The schedules that the server did not repeat, since it chose the victim of a deadlock, and not the same as before.
   * Schedules that follow from its other choice may be missing.
   */
  readonly serverChoices: number
  /** The number of `schedules` with a fault. */
  readonly faults: number
  /** The seed of the orders that were chosen at random. */
  readonly seed?: number
  readonly mutants: readonly MutantResult[]
}

export interface MutantResult {
  readonly mutant: Mutant
  /** `idle`: no update is lost without the protection either. */
  readonly verdict: 'lost' | 'idle'
  readonly schedules: number
  readonly first: Failure | undefined
}

const defaultMaxSchedules = 1_000
/** By default, orders with more preemptions are run only up to this number of orders. */
const defaultPreemptions = 2
const affordableSchedules = 300

/**
 * Runs the participants in every order of their statements, one order after the other, on a real server.
 *
 * Each statement of a participant, including BEGIN and COMMIT, is held at a gate; one at a time is released. The kit
 * reads the lock waits of the server: `performance_schema.data_lock_waits` on MySQL, `SHOW ENGINE INNODB STATUS` on
 * MariaDB, `pg_blocking_pids` on PostgreSQL; SQLite reports none, so they are inferred there. The code under test is
 * not changed. The result holds for these participants and rows, with statements as the smallest step; it covers the
 * orders within `preemptions`, and only code that was run. `setup` and the participants write: use a separate database.
 *
 * Explorations of one Sequelize instance run one after the other. `timeoutMs` and `signal` stop an exploration; `leftOut` then
 * counts the orders that were not run.
 *
 * @throws {UsageError} before any SQL: an option is wrong, or the pool is too small
 * @throws {ProbeError} the account may not read the server's lock waits; `remedy` is the GRANT to run
 * @throws {StuckError} a participant waits for an event outside the kit, such as a connection or a timer
 * @throws {EndlessError} a participant sends more than `maxStatements` in one order
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
 * @throws {UsageError} the token is invalid, or the participants no longer send the same statements
 * @example await replay('v1:ABBA', options)
 */
export async function replay<C>(token: string, options: ExploreOptions<C>): Promise<Result> {
  checkOptions('replay', options)
  const { choices, mutant, fault } = readToken(token, Object.keys(options.participants)) ?? {}
  if (!choices || (mutant !== undefined && !isMutant(mutant))) throw usage.token(token)
  return withLaboratory(options, (laboratory) =>
    new Exploration(options, laboratory, mutant).repeat(token, new Script(choices, fault)),
  )
}

/** Runs the schedules of the participants, and collects the results. */
class Exploration<C> {
  readonly #options: ExploreOptions<C>
  readonly #laboratory: Laboratory<C>
  readonly #oracle: Oracle<C>
  readonly #mutant: Mutant | undefined
  readonly #names: readonly string[]
  readonly #evidence = new Evidence()
  readonly #reasons = new Set<string>()
  readonly #failures: Failure[] = []
  readonly #kept: string[] = []
  readonly #outcomes = new Map<string, number>()
  readonly #mutants: MutantResult[] = []
  #serverChoices = 0
  #faults = 0
  #isComplete = false
  readonly #leftOut: string[] = []
  #isReplay = false
  #isStopped = false
  /** The kinds of failures that failed again: the outcomes and the message, without numbers and literals. */
  readonly #confirmed = new Set<string>()

  constructor(
    options: ExploreOptions<C>,
    laboratory: Laboratory<C>,
    mutant?: Mutant,
    oracle: Oracle<C> = new Oracle(options, laboratory),
  ) {
    this.#options = options
    this.#laboratory = laboratory
    this.#oracle = oracle
    this.#mutant = mutant
    this.#names = Object.keys(options.participants)
  }

  /** Runs every schedule, and then all schedules of each mutant. */
  async result(): Promise<Result> {
    await this.#untilStopped(() => this.#prepare())
    if (!this.#isStopped) await this.#visitAll()
    if (this.#failures.length + this.#reasons.size === 0) await this.#untilStopped(() => this.#visitFaults())
    if (this.#failures.length + this.#reasons.size === 0) await this.#exploreMutants()
    return this.#result()
  }

  async #visitAll(): Promise<void> {
    const { preemptions, maxSchedules = defaultMaxSchedules, reduce = true, random } = this.#options
    const tables = await this.#laboratory.plainTables()
    const frontier: Schedules = random
      ? new Sample(random)
      : new Frontier({ preemptions: preemptions ?? Infinity, reduce, tables })
    const isAffordable = (): boolean =>
      preemptions !== undefined ||
      this.#evidence.schedules < affordableSchedules ||
      frontier.preemptions <= defaultPreemptions
    // One lost update is enough for a mutant.
    const isFound = (): boolean => this.#mutant !== undefined && this.#failures.length > 0
    const isFull = (): boolean => !random && this.#evidence.schedules >= maxSchedules
    const goesOn = (): boolean => !isFound() && this.#reasons.size === 0 && !isFull()
    await this.#untilStopped(async () => {
      while (goesOn() && !frontier.isEmpty && isAffordable()) {
        await this.#visit(frontier.next())
        this.#laboratory.goOn()
      }
    })
    if (this.#evidence.schedules > 0 && !this.#isStopped) this.#object(frontier)
    const { passedOver, divergence } = this.#evidence
    const isWhole = this.#serverChoices === 0 && passedOver.size === 0 && divergence === undefined
    this.#isComplete = !random && frontier.isEmpty && isWhole
    const { schedules } = this.#evidence
    const victims = `the server chose a victim of a deadlock, and not always the same, in ${this.#serverChoices} of ${schedules} orders: orders that follow from its other choice may be missing`
    if (this.#serverChoices > 0) this.#leftOut.push(victims)
    const leftOut = frontier.size + (this.#isStopped ? 1 : 0)
    if (leftOut > 0) this.#leftOut.push(`${schedules} of at least ${schedules + leftOut} orders were run`)
    if (!isAffordable() && !isFound()) {
      this.#leftOut.push(
        `orders with more than ${defaultPreemptions} preemptions were run only up to ${affordableSchedules} orders: pass preemptions: Infinity and maxSchedules for more`,
      )
    }
    if (frontier.description !== undefined) this.#leftOut.push(frontier.description)
    this.#leftOut.push(...this.#evidence.passedOver)
  }

  /** Runs the orders with a fault. */
  async #visitFaults(): Promise<void> {
    const { maxSchedules = defaultMaxSchedules } = this.#options
    const kinds = faultsOf(this.#options)
    const orders = kinds.length > 0 ? permutations(this.#names) : []
    const plain: [order: readonly string[], steps: readonly Step[]][] = []
    for (const order of orders) plain.push([order, (await this.#execute(new FaultWalk(order))).run.steps])
    const places = faultPlaces(plain, kinds)
    try {
      for (const place of places) {
        if (this.#reasons.size > 0 || this.#faults >= maxSchedules) break
        this.#laboratory.goOn()
        await this.#visit(new FaultWalk(place.order, place))
        this.#faults++
      }
    } finally {
      for (const objection of this.#objections()) this.#reasons.add(objection)
      if (this.#faults < places.length) {
        this.#isComplete = false
        this.#leftOut.push(`${this.#faults} of ${places.length} orders with a fault were run`)
      }
    }
  }

  /** Calls `fn`; if the exploration is stopped within, that is a reason. */
  async #untilStopped(fn: () => Promise<void>): Promise<void> {
    try {
      await fn()
    } catch (error) {
      if (!(error instanceof StoppedError)) throw error
      this.#isStopped = true
      this.#reasons.add(`the exploration was ${error.message}`)
    }
  }

  /** Runs one schedule. */
  async repeat(token: string, script: Script): Promise<Result> {
    this.#isReplay = true
    await this.#untilStopped(async () => {
      await this.#prepare()
      await this.#visit(script)
    })
    if (script.divergence !== undefined) throw usage.tokenDiffers(token, script.divergence)
    return this.#result()
  }

  /** Runs the participants one after the other, to fill caches: otherwise the first schedule sends other statements. */
  async #prepare(): Promise<void> {
    const { check } = this.#options
    if (check) await this.#laboratory.runSerially(await this.#laboratory.setUp(), this.#names)
    else for (const reason of await this.#oracle.prepare()) this.#reasons.add(reason)
  }

  /** Runs one schedule; repeats it if it diverges from its recording. */
  async #visit(walk: Chooser): Promise<void> {
    let ended = await this.#execute(walk)
    for (let attempt = 1; walk.divergence !== undefined && attempt < 3; attempt++) {
      walk = walk.again!()
      ended = await this.#execute(walk)
    }
    if (walk.isRedundant) return
    const { run, error } = ended
    const outcomes = run.outcomes()
    const { serverChoseAt = Infinity } = run
    const isServerChoice = walk.divergedAt !== undefined && walk.divergedAt >= serverChoseAt
    if (isServerChoice) this.#serverChoices++
    this.#evidence.add(run, outcomes, isServerChoice ? undefined : walk.divergence)
    if (error === undefined) this.#kept.push(this.#tokenOf(run))
    else if (error instanceof NoFinalReadError) this.#reasons.add(error.message)
    else if (await this.#failsAgain(run, error)) this.#failures.push(this.#failure(run, error))
    else {
      this.#reasons.add(
        `an order failed once, but not when it was run again: ${messageOf(error)}. Remove random values and clocks from the participants and the check`,
      )
    }
    const ends = Object.entries(outcomes).map(([name, outcome]) => `${name} ${outcome}`)
    const said = error === undefined ? 'kept' : messageOf(error)
    const key = `${ends.join(', ')}: ${said}`
    this.#outcomes.set(key, (this.#outcomes.get(key) ?? 0) + 1)
  }

  /**
   * Whether the same schedule fails again; schedules that fail alike are run again once. The server may choose another
   * order, so that is tried up to three times.
   */
  async #failsAgain(run: Run, failure: unknown): Promise<boolean> {
    const kind = shapeOf(`${JSON.stringify(run.outcomes())} ${messageOf(failure)}`)
    if (this.#isReplay || this.#confirmed.has(kind)) return true
    for (let attempt = 0; attempt < 3; attempt++) {
      const script = new Script(run.choices, run.fault)
      const { error } = await this.#execute(script)
      if (error === undefined || script.divergence !== undefined) continue
      this.#confirmed.add(kind)
      return true
    }
    return false
  }

  async #execute(walk: Chooser): Promise<Ended> {
    const { check } = this.#options
    const context = await this.#laboratory.setUp()
    const judge: Judge = check
      ? (run) => this.#laboratory.inTime(() => check(context, run.outcomes(), run.results()))
      : await this.#oracle.judge()
    const run = await this.#laboratory.run(context, walk, this.#mutant && mutants[this.#mutant])
    if (run.finding) return { run, error: run.finding }
    try {
      await judge(run)
      for (const [name, error] of run.errors())
        if (name !== run.fault?.participant && !this.#isAllowed(error)) throw new FailureError(name, error)
      return { run, error: undefined }
    } catch (error) {
      if (error instanceof StoppedError) throw error
      return { run, error: error ?? new Error('the check threw nothing') }
    }
  }

  #isAllowed(error: unknown): boolean {
    const { failures = 'allow' } = this.#options
    return typeof failures === 'string' ? failures === 'allow' : failures.test(messageOf(error))
  }

  #failure(run: Run, error: unknown): Failure {
    const steps = run.steps.filter(({ kind }) => kind !== 'local')
    const switches = steps.filter(
      ({ participant }, index) => index > 0 && steps[index - 1]!.participant !== participant,
    )
    const ended = { steps: run.steps, outcomes: run.outcomes(), error }
    return {
      ...ended,
      schedule: this.#evidence.schedules,
      anomaly: anomalyOf(ended),
      fault: run.fault && { kind: run.fault.kind, participant: run.fault.participant },
      token: this.#tokenOf(run),
      switches: switches.length,
    }
  }

  #tokenOf({ choices, fault }: Run): string {
    return tokenOf(this.#names, choices, this.#mutant, fault)
  }

  /** Adds the reasons why the result is inconclusive. */
  #object(frontier: Schedules): void {
    for (const objection of this.#objections()) this.#reasons.add(objection)
    const isFull = this.#evidence.schedules >= defaultMaxSchedules && !frontier.isEmpty
    if (!isFull || this.#options.maxSchedules !== undefined) return
    this.#reasons.add(
      `there are more than ${defaultMaxSchedules} schedules: pass maxSchedules to stop there on purpose, or use fewer preemptions or fewer statements`,
    )
  }

  #objections(): string[] {
    const hasFailed = this.#failures.length > 0
    return [...this.#evidence.objections(hasFailed), ...this.#oracle.objections(), ...this.#laboratory.strays]
  }

  /** Explores each mutant until it loses an update. */
  async #exploreMutants(): Promise<void> {
    for (const mutant of this.#options.mutants ?? []) {
      const mutated = new Exploration(this.#options, this.#laboratory, mutant, this.#oracle)
      await mutated.#visitAll()
      const { first, schedules } = mutated.#result()
      if (mutated.#isStopped) {
        for (const reason of mutated.#reasons) this.#reasons.add(`${reason}, in the exploration of ${mutant}`)
        return
      }
      this.#mutants.push({ mutant, verdict: first ? 'lost' : 'idle', schedules, first })
      if (first) continue
      this.#reasons.add(
        `${mutant} loses no update in ${schedules} schedules: that protection has no effect here, or the participants do not test it. Remove it from mutants, or make the participants conflict`,
      )
    }
  }

  #result(): Result {
    const reasons = [...this.#reasons]
    const { random } = this.#options
    const [first] = this.#failures.toSorted((one, other) => one.switches - other.switches)
    return {
      verdict: first ? 'lost' : reasons.length > 0 ? 'unknown' : 'kept',
      reasons,
      schedules: this.#evidence.schedules,
      isComplete: this.#isComplete,
      leftOut: this.#leftOut,
      failures: this.#failures,
      kept: this.#kept,
      first,
      outcomes: Object.fromEntries(this.#outcomes),
      serverChoices: this.#serverChoices,
      faults: this.#faults,
      ...(random && { seed: random.seed ?? defaultSeed }),
      mutants: this.#mutants,
    }
  }
}

/** The result of one schedule. */
interface Ended {
  readonly run: Run
  /** The error of the check. */
  readonly error: unknown
}
