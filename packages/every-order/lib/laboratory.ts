import { AsyncLocalStorage } from 'node:async_hooks'
import type { Sequelize } from 'sequelize'
import { StoppedError, usage } from './errors.js'
import { installGate, select } from './gate.js'
import type { Passing } from './gate.js'
import { poolMax } from './options.js'
import type { ExploreOptions } from './options.js'
import type { Mutate } from './mutants.js'
import type { Pending } from './participant.js'
import { Run, sender } from './run.js'
import type { Chooser } from './schedules.js'
import { connectServer } from './servers.js'
import { shapeOf } from './statement.js'
import type { Server } from './servers.js'

const defaultMaxStatements = 500

/** The last exploration of an instance that has started or waits: the next one waits for it. */
const queues = new WeakMap<Sequelize, Promise<unknown>>()

/** The instance whose exploration the current code belongs to. */
const explored = new AsyncLocalStorage<Sequelize>()

/** Runs the participants, as often as needed: behind the gate, on a server that reports lock waits. */
export class Laboratory<C> {
  readonly #options: ExploreOptions<C>
  readonly #server: Server
  readonly #names: readonly string[]
  /** Descriptions of statements that the kit did not control. */
  readonly strays: Set<string> = new Set()
  readonly #placesPassedOver = new Set<string>()
  #isRunning = false
  readonly #startedAt = performance.now()

  constructor(options: ExploreOptions<C>, server: Server) {
    this.#options = options
    this.#server = server
    this.#names = Object.keys(options.participants)
  }

  /** @throws {StoppedError} the time is over, or the signal is aborted */
  goOn(): void {
    const { timeoutMs = Infinity, signal } = this.#options
    if (signal?.aborted) throw new StoppedError(undefined)
    if (performance.now() - this.#startedAt > timeoutMs) throw new StoppedError(timeoutMs)
  }

  /** Opens the connections of the pool in advance: connecting can exceed the computing time of a participant. */
  async openConnections(): Promise<void> {
    const { sequelize } = this.#options
    const connections = Math.min(poolMax(sequelize), 2 * this.#names.length)
    const answers = Array.from({ length: connections }, () =>
      sequelize.query('SELECT 1', { type: select, logging: false, transaction: null }),
    )
    await Promise.all(answers)
  }

  /** Sends a statement of a running participant when it is released, and every other statement at once. */
  keep(passing: Passing): Promise<unknown> {
    const from = sender()
    const refusal = from?.run.refusal(passing.sql)
    if (refusal) return Promise.reject(refusal)
    const sql = shapeOf(passing.sql)
    if (from && (from.hasEnded || from.run.isOver))
      this.strays.add(
        `${from.name} sent a statement after it had ended (${sql}): make it await everything that it starts`,
      )
    else if (!from && this.#isRunning) {
      this.strays.add(
        `a statement came from outside the participants (${sql}), at an uncontrolled time: stop the code that sends it, or give it another Sequelize instance`,
      )
    }
    return from && !from.run.isOver ? from.run.pass(passing) : passing.send()
  }

  /** Runs the participants concurrently, with their statements in the order of `chooser`. */
  async run(context: C, chooser: Chooser, mutate?: Mutate): Promise<Run> {
    const run = new Run(this.#server, this.#placesPassedOver, mutate)
    this.#isRunning = true
    for (const name of this.#names) this.#start(run, name, context)
    await this.#finish(run, (ready) => chooser.choose(ready))
    this.#isRunning = false
    run.end()
    return run
  }

  /** Runs the participants one after the other. */
  async runSerially(context: C, order: readonly string[]): Promise<Run> {
    const run = new Run(this.#server, this.#placesPassedOver)
    for (const name of order) {
      this.#start(run, name, context)
      // An earlier participant may send a statement after it has ended.
      await this.#finish(
        run,
        (ready) => (ready.find(({ participant }) => participant === name) ?? ready[0]!).participant,
      )
    }
    run.end()
    return run
  }

  /** Releases statements until all participants that were started have ended; on an error, ends what they hold. */
  async #finish(run: Run, choose: (ready: readonly Pending[]) => string): Promise<void> {
    const { maxStatements = defaultMaxStatements } = this.#options
    try {
      for (let ready = await run.settle(); ready.length > 0; ready = await run.settle()) {
        this.goOn()
        run.release(choose(ready), maxStatements)
      }
    } catch (error) {
      await run.giveUp(error as Error)
      throw error
    }
  }

  #start(run: Run, name: string, context: C): void {
    run.start(name, () => this.#options.participants[name]!(context))
  }
}

/** Calls `fn` with the gate in place, and takes it out again. Explorations of one instance run one after the other. */
export async function withLaboratory<C, R>(
  options: ExploreOptions<C>,
  fn: (laboratory: Laboratory<C>) => Promise<R>,
): Promise<R> {
  const { sequelize } = options
  if (explored.getStore() === sequelize) throw usage.gated('explore')
  const run = (): Promise<R> => explored.run(sequelize, () => inLaboratory(options, fn))
  const result = (queues.get(sequelize) ?? Promise.resolve()).then(run)
  queues.set(
    sequelize,
    result.catch(() => undefined),
  )
  return result
}

async function inLaboratory<C, R>(
  options: ExploreOptions<C>,
  fn: (laboratory: Laboratory<C>) => Promise<R>,
): Promise<R> {
  const { sequelize, admin } = options
  // The kit's own queries must not pass the gate.
  const server = await connectServer(sequelize, admin === sequelize ? undefined : admin)
  const laboratory = new Laboratory(options, server)
  const uninstall = installGate(sequelize, (passing) => laboratory.keep(passing))
  try {
    return await fn(laboratory)
  } finally {
    uninstall()
    await server.close()
  }
}
