import { AsyncLocalStorage } from 'node:async_hooks'
import { plainTablesOf } from './catalog.js'
import { databaseOf } from './connections.js'
import { StoppedError, StuckError, usage } from './errors.js'
import type { Fault } from './faults.js'
import type { Database, Gate, OpenDatabase, Passing, Row, Server, Table } from './gate.js'
import type { PlainTables } from './items.js'
import { connectionsOf, faultsOf } from './options.js'
import type { ExploreOptions } from './options.js'
import type { Mutate } from './mutants.js'
import type { Pending } from './participant.js'
import { never, passed, Run, sender } from './run.js'
import type { Chooser } from './schedules.js'
import { connectServer } from './servers.js'
import { nameOf, shapeOf, tableOf } from './statement.js'

const defaultMaxStatements = 500

/** The least time in milliseconds for `setup`, after the first one; a slow one gets more. */
const leastSetupMs = 8_000
const setupFactor = 20

/** The longest time of a timer of Node. */
const maxTimerMs = 2 ** 31 - 1

/** The databases whose exploration the current code belongs to. */
const explored = new AsyncLocalStorage<readonly Database[]>()

/** Runs the participants, as often as needed: behind the gate, on a server that reports lock waits. */
export class Laboratory<C> implements Gate {
  readonly #options: ExploreOptions<C>
  readonly #databases: readonly OpenDatabase[]
  readonly #server: Server
  readonly #names: readonly string[]
  /** Descriptions of statements that the kit did not control. */
  readonly strays: Set<string> = new Set()
  readonly #placesPassedOver = new Set<string>()
  readonly #runs = new WeakSet<Run>()
  #isRunning = false
  readonly #startedAt = performance.now()
  #firstSetupMs: number | undefined

  constructor(options: ExploreOptions<C>, databases: readonly OpenDatabase[], server: Server) {
    this.#options = options
    this.#databases = databases
    this.#server = server
    this.#names = Object.keys(options.participants)
  }

  /** Sends a statement of the kit. */
  query<R extends object = Row>(sql: string): Promise<R[]> {
    return this.#databases[0]!.query(sql)
  }

  table(name: string): Table | undefined {
    for (const database of this.#databases) {
      const table = database.table(name)
      if (table) return table
    }
    return undefined
  }

  tableOf(sql: string): Table | undefined {
    return this.table(nameOf(tableOf(sql) ?? ''))
  }

  /** The tables whose statements show what they use; not on SQLite, where each write locks all of them. */
  plainTables(): Promise<PlainTables | undefined> {
    const { dialect } = this.#databases[0]!
    return dialect === 'sqlite' ? Promise.resolve(undefined) : plainTablesOf(dialect, this)
  }

  /** Statements of the participants on any connection, and of other code on the connections that are explored. */
  holds(connection: object): boolean {
    const from = sender()
    if (from) return !from.hasPassed && this.#runs.has(from.run) && this.#reaches(connection, from.name)
    return this.#isRunning && this.#databases.some(({ connections }) => connections.has(connection))
  }

  /** @throws {StoppedError} the time is over, or the signal is aborted */
  goOn(): void {
    const { timeoutMs = Infinity, signal } = this.#options
    if (signal?.aborted) throw new StoppedError(undefined)
    if (performance.now() - this.#startedAt > timeoutMs) throw new StoppedError(timeoutMs)
  }

  /**
   * Calls `setup`.
   *
   * @throws {StuckError} it takes much longer than before the participants ran for the first time
   */
  async setUp(): Promise<C> {
    const start = performance.now()
    const limitMs = this.#firstSetupMs && Math.max(leastSetupMs, Math.ceil(this.#firstSetupMs * setupFactor))
    const context = await this.inTime(this.#options.setup, limitMs)
    this.#firstSetupMs ??= performance.now() - start
    return context
  }

  /**
   * Waits for code of the caller that no gate holds.
   *
   * @throws {StoppedError} the time is over, or the signal is aborted; the code may still run
   * @throws {StuckError} it takes longer than `limitMs`
   */
  async inTime<T>(fn: () => T | Promise<T>, limitMs: number = Infinity): Promise<T> {
    this.goOn()
    const { timeoutMs = Infinity, signal } = this.#options
    const leftMs = timeoutMs - (performance.now() - this.#startedAt)
    const ended = new AbortController()
    const late = limitMs < leftMs ? StuckError.ofSetup(limitMs) : new StoppedError(timeoutMs)
    const stopped = new Promise<never>((_resolve, reject) => {
      const timer = setTimeout(() => reject(late), Math.min(leftMs, limitMs, maxTimerMs))
      ended.signal.addEventListener('abort', () => clearTimeout(timer))
      signal?.addEventListener('abort', () => reject(new StoppedError(undefined)), { signal: ended.signal })
    })
    try {
      return await Promise.race([fn(), stopped])
    } finally {
      ended.abort()
    }
  }

  /** Whether the connection reaches the server that is explored; records that, if not. */
  #reaches(connection: object, name: string): boolean {
    const isReached = this.#databases.some((database) => database.reaches?.(connection))
    if (!isReached) {
      this.strays.add(
        `${name} sent a statement to another server, or to this one by another address, where it was not held: write the same host and port everywhere, or test what concerns the other server by itself`,
      )
    }
    return isReached
  }

  goesAround(sql: string): void {
    const from = sender()
    this.strays.add(
      `${from?.name ?? 'other code'} sent a statement that cannot be held (${shapeOf(sql)}): send it with query() or execute()`,
    )
  }

  /** Sends a statement of a running participant when it is released, and every other statement at once. */
  async keep(passing: Passing): Promise<unknown> {
    const from = sender()
    if (from?.isStopped) {
      // The connection is not given back otherwise.
      await passing.discard()
      return never()
    }
    const refusal = from?.run.refusal(passing.sql)
    if (refusal) throw refusal
    const sql = shapeOf(passing.sql)
    if (from && (from.hasEnded || from.run.isOver))
      this.strays.add(
        `${from.name} sent a statement after it had ended (${sql}): make it await everything that it starts`,
      )
    else if (!from && this.#isRunning) {
      this.strays.add(
        `a statement came from outside the participants (${sql}), at an uncontrolled time: stop the code that sends it, or give it connections of its own`,
      )
    }
    if (from && !from.run.isOver) return from.run.pass(passing)
    return await passed(() => passing.send())
  }

  /** Runs the participants concurrently, with their statements in the order of `chooser`. */
  async run(context: C, chooser: Chooser, mutate?: Mutate): Promise<Run> {
    const run = new Run(this.#server, this.#placesPassedOver, mutate)
    this.#runs.add(run)
    this.#isRunning = true
    for (const name of this.#names) this.#start(run, name, context)
    await this.#finish(
      run,
      (ready) => chooser.choose(ready),
      () => chooser.fault,
    )
    this.#isRunning = false
    run.end()
    await run.discardLost()
    return run
  }

  /** Runs the participants one after the other. */
  async runSerially(context: C, order: readonly string[]): Promise<Run> {
    const run = new Run(this.#server, this.#placesPassedOver)
    this.#runs.add(run)
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
  async #finish(
    run: Run,
    choose: (ready: readonly Pending[]) => string,
    fault: () => Fault | undefined = () => undefined,
  ): Promise<void> {
    const { maxStatements = defaultMaxStatements } = this.#options
    try {
      for (let ready = await run.settle(); ready.length > 0; ready = await run.settle()) {
        this.goOn()
        run.release(choose(ready), maxStatements, fault())
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

/** Calls `fn` with the gate in place, and takes it out again. Explorations of one pool or instance run one after the other. */
export async function withLaboratory<C, R>(
  options: ExploreOptions<C>,
  fn: (laboratory: Laboratory<C>) => Promise<R>,
): Promise<R> {
  const databases = connectionsOf(options).map((each) => databaseOf(each)!)
  if (explored.getStore()?.some((each) => databases.includes(each))) throw usage.gated('explore')
  const run = (): Promise<R> => explored.run(databases, () => inLaboratory(options, databases, fn))
  const result = Promise.all(databases.map(({ last }) => last)).then(run)
  for (const database of databases) database.last = result.catch(() => undefined)
  return result
}

async function inLaboratory<C, R>(
  options: ExploreOptions<C>,
  databases: readonly Database[],
  fn: (laboratory: Laboratory<C>) => Promise<R>,
): Promise<R> {
  const participants = Object.keys(options.participants).length
  const toClose: { close(): unknown }[] = []
  const open = async (database: Database, count: number): Promise<OpenDatabase> => {
    const opened = await database.open(Math.min(database.max, count))
    toClose.push(opened)
    return opened
  }
  try {
    const opened: OpenDatabase[] = []
    for (const database of databases) opened.push(await open(database, 2 * participants))
    await checkSameServer(opened)
    if (faultsOf(options).length > 0 && opened[0]!.dialect === 'sqlite') throw usage.faultsOfFile('explore')
    const admin = options.admin && (await open(databaseOf(options.admin)!, 1))
    const server = await connectServer(opened, admin)
    toClose.push(server)
    const laboratory = new Laboratory(options, opened, server)
    for (const each of opened) toClose.push({ close: each.install(laboratory) })
    return await fn(laboratory)
  } finally {
    for (const each of toClose.toReversed()) await each.close()
  }
}

/**
 * Checks that an account can see which session waits for which, as `explore` needs.
 * @param connection a pool, a connection or an ORM, as in `connections` of `explore`
 * @throws {ProbeError} it cannot; the message has the GRANT to run
 */
export async function checkServer(connection: object): Promise<void> {
  const database = databaseOf(connection)
  if (!database) throw usage.connection('checkServer', 'its argument')
  const opened = await database.open(1)
  try {
    const server = await connectServer([opened])
    await server.close()
  } finally {
    await opened.close()
  }
}

/** @throws {UsageError} the connections reach several servers or databases: only one can say who waits for whom */
async function checkSameServer(opened: readonly OpenDatabase[]): Promise<void> {
  if (opened.length === 1) return
  const names = new Set<string>()
  for (const database of opened) names.add(`${database.dialect} ${await identityOf(database)}`)
  if (names.size > 1) throw usage.servers('explore', [...names])
}

const identities = {
  mysql: `SELECT CONCAT_WS(' ', @@hostname, @@port, @@datadir, DATABASE()) AS identity`,
  postgres: `SELECT CONCAT_WS(' ', pg_postmaster_start_time(), inet_server_port(), current_database()) AS identity`,
  sqlite: 'SELECT file AS identity FROM pragma_database_list',
} as const

async function identityOf(database: OpenDatabase): Promise<string> {
  const [row] = await database.query<{ identity: string }>(identities[database.dialect])
  return row!.identity
}
