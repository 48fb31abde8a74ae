import { types } from 'node:util'
import type { Check } from './checkers.js'
import { databaseOf } from './connections.js'
import { usage } from './errors.js'
import { faultKinds } from './faults.js'
import type { Fault } from './faults.js'
import { mutants } from './mutants.js'
import type { Mutant } from './mutants.js'

/** Orders that are chosen at random. */
export interface RandomOrders {
  /** How many orders are run. */
  readonly schedules: number
  /** An integer; the same seed chooses the same orders. Default: 1. */
  readonly seed?: number
}

export interface ExploreOptions<C> {
  /**
   * What the participants send their statements with: pools and connections of mysql2, pg and mariadb, Sequelize 6, Knex,
   * TypeORM's DataSource, Drizzle's database. For another ORM, the pool of its driver. All of them reach one database, and
   * have at least one connection for each participant. What a participant sends on another connection of the same
   * drivers is held, too.
   */
  readonly connections?: readonly object[]
  /** Short for `connections: [sequelize]`. */
  readonly sequelize?: object
  /** A connection of an account that may see the server's lock waits. Default: one with the credentials of the first. */
  readonly admin?: object
  /** Creates the rows before every schedule; its result is passed to the participants and to `check`. */
  readonly setup: () => C | Promise<C>
  /** Two or more functions, by name. Each runs many times; they must not share instances of models. */
  readonly participants: Readonly<Record<string, (context: C) => unknown>>
  /** Throws if the final state is wrong. Default: the rows, and what the participants return, must be those of a serial order. */
  readonly check?: Check<C>
  /**
   * Whether a participant may reject: `allow`; `forbid`, which makes each order with an error a failure; or a regular
   * expression of the messages that are allowed. Default: `allow`. A wait for a lock of its own is always a failure.
   */
  readonly failures?: 'allow' | 'forbid' | RegExp
  /**
   * The maximum number of preemptions per schedule: statements before which another participant has used what the
   * participant had used earlier. Default: 2, and all if there are no more than 300 schedules; `Infinity` for all.
   */
  readonly preemptions?: number
  /** The maximum number of schedules. An exploration that reaches the default is inconclusive. Default: 1000. */
  readonly maxSchedules?: number
  /** The maximum number of statements of one participant in one order, after which a loop counts as endless. Default: 500. */
  readonly maxStatements?: number
  /**
   * The time in milliseconds after which the exploration stops: `unknown`, with the number of orders that were run. Set it
   * below the timeout of the test runner. Default: none.
   */
  readonly timeoutMs?: number
  /** Stops the exploration when it is aborted, as `timeoutMs` does. */
  readonly signal?: AbortSignal
  /**
   * Chooses orders at random, in place of all of them: for four and more participants, or many statements. `preemptions`,
   * `maxSchedules` and `reduce` then have no effect, and the result is not complete. Default: none.
   */
  readonly random?: RandomOrders
  /**
   * Skips orders that differ only in the order of independent statements: of statements that read, that use other tables,
   * or other rows by their primary keys. Pass false for participants that share variables. Default: true.
   */
  readonly reduce?: boolean
  /** Explores again without a protection; each mutant must lose an update, else `unknown`. Default: none. */
  readonly mutants?: readonly Mutant[]
  /**
   * Explores again with one fault in each order, at each statement of each participant, if no order fails without one: `true` for all
   * kinds, or a list of them. A participant must then have its whole effect or none; its whole effect once, if it resolves. Connections
   * are lost, so all `connections` must be pools. Not for SQLite, whose file no network separates from the process. Default: none.
   */
  readonly faults?: boolean | readonly Fault[]
}

const optionNames = [
  'connections',
  'sequelize',
  'admin',
  'setup',
  'participants',
  'check',
  'failures',
  'preemptions',
  'maxSchedules',
  'maxStatements',
  'timeoutMs',
  'signal',
  'reduce',
  'random',
  'mutants',
  'faults',
]

/** @throws {UsageError} an option is missing, unknown or invalid */
export function checkOptions<C>(method: string, options: ExploreOptions<C>): void {
  if (typeof options !== 'object' || options === null) throw usage.options(method, options)
  for (const name of Object.keys(options))
    if (!optionNames.includes(name)) throw usage.unknownOption(method, name, optionNames)
  const { admin, setup, participants, check, preemptions = 2, maxSchedules = 1, maxStatements = 1 } = options
  const { timeoutMs = 1, random, signal, failures: allowed = 'allow' } = options
  const connections = connectionsOf(options)
  if (!Array.isArray(connections) || connections.length === 0) throw usage.connections(method, connections)
  for (const [index, each] of connections.entries())
    if (!databaseOf(each)) throw usage.connection(method, options.connections ? `connections[${index}]` : 'sequelize')
  if (admin !== undefined && !databaseOf(admin)) throw usage.connection(method, 'admin')
  if (typeof setup !== 'function') throw usage.callback(method, 'setup')
  if (check !== undefined && typeof check !== 'function') throw usage.callback(method, 'check')
  const functions = Object.values(participants ?? {})
  if (functions.length < 2 || functions.some((each) => typeof each !== 'function')) throw usage.participants(method)
  if (!(preemptions >= 0)) throw usage.count(method, 'preemptions', preemptions, 'a number from 0, or Infinity')
  if (!(maxSchedules >= 1)) throw usage.count(method, 'maxSchedules', maxSchedules, 'a number from 1')
  if (!(maxStatements >= 1)) throw usage.count(method, 'maxStatements', maxStatements, 'a number from 1')
  if (random !== undefined && !(random?.schedules >= 1))
    throw usage.count(method, 'random.schedules', random?.schedules, 'a number from 1')
  if (!Number.isInteger(random?.seed ?? 1)) throw usage.count(method, 'random.seed', random?.seed, 'an integer')
  if (!(timeoutMs > 0)) throw usage.count(method, 'timeoutMs', timeoutMs, 'a number of milliseconds above 0')
  if (signal !== undefined && typeof signal?.aborted !== 'boolean') throw usage.signal(method, signal)
  if (allowed !== 'allow' && allowed !== 'forbid' && !types.isRegExp(allowed)) throw usage.failures(method, allowed)
  const others = options.mutants ?? []
  if (!Array.isArray(others) || !others.every(isMutant)) throw usage.mutants(method, others, Object.keys(mutants))
  if (!isFaults(options.faults)) throw usage.faults(method, options.faults, faultKinds)
  const single = connections.findIndex((each) => databaseOf(each)!.max === 1)
  if (faultsOf(options).length > 0 && single >= 0) throw usage.faultsOfOne(method, `connections[${single}]`)
  const max = connections.reduce<number>((sum, each) => sum + databaseOf(each)!.max, 0)
  if (max < functions.length) throw usage.pool(method, max, functions.length)
}

/** The connections that are explored. */
export function connectionsOf<C>({ connections, sequelize }: ExploreOptions<C>): readonly unknown[] {
  return connections ?? [sequelize]
}

/** The kinds of faults to explore. */
export function faultsOf<C>({ faults = [] }: ExploreOptions<C>): readonly Fault[] {
  return faults === true ? faultKinds : faults || []
}

function isFaults(faults: unknown): boolean {
  const isList = Array.isArray(faults) && faults.every((each) => faultKinds.includes(each as Fault))
  return faults === undefined || typeof faults === 'boolean' || isList
}

export function isMutant(name: string): name is Mutant {
  return Object.hasOwn(mutants, name)
}
