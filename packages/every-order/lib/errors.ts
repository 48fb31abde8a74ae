import { inspect, types } from 'node:util'
import type { Anomaly } from './dependencies.js'

/** Enough frames to reach the caller's line, through this package; Node keeps 10. */
const stackFrames = 50

/** A mistake in the code of the call, independent of the data: a `TypeError`. */
export class UsageError extends TypeError {
  readonly code = 'USAGE'
  override readonly name = 'UsageError'

  constructor(message: string) {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = Math.max(stackTraceLimit, stackFrames)
    super(message)
    Error.stackTraceLimit = stackTraceLimit
  }
}

/** The kit is not allowed to read the lock waits of the server. */
export class ProbeError extends Error {
  readonly code = 'RACE_PROBE'
  override readonly name = 'ProbeError'
  /** What to run on the server, as an administrator. */
  readonly remedy: string

  constructor(what: string, remedy: string, cause?: unknown) {
    super(`explore: ${what}, so the kit cannot detect which session waits for which. ${remedy}`, { cause })
    this.remedy = remedy
  }
}

/** The participants wait, or `setup` does, and neither the server nor another participant can end the wait. */
export class StuckError extends Error {
  readonly code = 'RACE_STUCK'
  override readonly name = 'StuckError'

  constructor(message: string) {
    super(`explore: ${message}`)
  }

  /** No participant has sent a statement for some time. */
  static ofParticipants(names: readonly string[], milliseconds: number): StuckError {
    return new StuckError(
      `${names.join(' and ')} sent no statement for ${milliseconds} ms and did not end, so the exploration cannot continue. ` +
        `A participant must not wait for a timer, a lock in this process, a connection that another participant holds, or a server lock that is not a row lock, such as GET_LOCK: shorten or fake the timer, and give the pool twice as many connections as participants.`,
    )
  }

  /** `setup` waits, although it ended soon before the participants had run. */
  static ofSetup(milliseconds: number): StuckError {
    return new StuckError(
      `setup did not end within ${milliseconds} ms, although it ended soon in earlier orders, so a participant has probably kept the connections or the locks that setup needs. ` +
        `Release each connection in a finally block of the participant that takes it.`,
    )
  }
}

/** A participant waits for a lock that it holds itself, on another connection: nothing but a timeout would end that. */
export class HangError extends Error {
  readonly code = 'RACE_HANG'
  override readonly name = 'HangError'
  /** The numbers of the statement that waits, and of the one that took the lock. */
  readonly waiting: number
  readonly holder: number

  constructor(name: string, waiting: Statement, holder: Statement) {
    super(
      `${name} waits for its own lock: statement ${waiting.number} (${brief(waiting.sql)}) waits for a row that statement ${holder.number} (${brief(holder.sql)}) has locked in another transaction of ${name}. ` +
        `Pass { transaction } to the call that sends statement ${waiting.number}.`,
    )
    this.waiting = waiting.number
    this.holder = holder.number
  }
}

/** A participant ended without the end of a transaction: its locks would stay. The exploration has rolled it back. */
export class OpenTransactionError extends Error {
  readonly code = 'RACE_OPEN_TRANSACTION'
  override readonly name = 'OpenTransactionError'
  readonly participant: string

  constructor(name: string, begin: Statement) {
    super(
      `${name} left a transaction open: it ended without a COMMIT or ROLLBACK after statement ${begin.number} (${brief(begin.sql)}). The exploration rolled it back, since its locks would stay. ` +
        `Call commit() or rollback() on every path of ${name}, and await it.`,
    )
    this.participant = name
  }
}

interface Statement {
  readonly number: number
  readonly sql: string
}

function brief(sql: string): string {
  return sql.length > 80 ? `${sql.slice(0, 79)}…` : sql
}

/** A participant rejected, and the option `failures` does not allow that. */
export class FailureError extends Error {
  readonly code = 'RACE_FAILURE'
  override readonly name = 'FailureError'
  readonly participant: string

  constructor(name: string, cause: unknown) {
    super(`${name} failed: ${messageOf(cause)}`, { cause })
    this.participant = name
  }
}

/** A participant rejected after a fault, although the server had answered that its writes are committed. */
export class CommittedError extends Error {
  readonly code = 'RACE_COMMITTED'
  override readonly name = 'CommittedError'
  readonly participant: string

  constructor(name: string) {
    super(
      `${name} failed after a fault, although its writes were committed before, so its caller takes them for undone. Let nothing that can fail follow the COMMIT, or resolve when it fails.`,
    )
    this.participant = name
  }
}

/** The exploration was stopped, by `timeoutMs` or by its signal. */
export class StoppedError extends Error {
  override readonly name = 'StoppedError'

  constructor(timeoutMs: number | undefined) {
    super(timeoutMs === undefined ? 'stopped by its signal' : `stopped after ${timeoutMs} ms, as timeoutMs says`)
  }
}

/** A participant sent more statements in one order than `maxStatements`: its loop may never end. */
export class EndlessError extends Error {
  readonly code = 'RACE_ENDLESS'
  override readonly name = 'EndlessError'
  /** `livelock`, if the loop reads an old snapshot; else `unnamed`. */
  readonly anomaly: Anomaly

  constructor(name: string, statements: number, last: string, repeated: number, anomaly: Anomaly) {
    super(
      `explore: ${name} sent ${statements} statements in one order and did not end; the last ${repeated} of them read ${last}. ` +
        (anomaly.name === 'unnamed' ? '' : `${anomaly.name}: ${anomaly.sentence} `) +
        `A loop that waits for a write of another participant never ends while that participant waits, or while its transaction reads an old snapshot: bound the loop, or pass a higher maxStatements.`,
    )
    this.anomaly = anomaly
  }
}

/** Acknowledged keys are missing from the document, or keys of a failed participant are in it. */
export class LostKeysError extends Error {
  override readonly name = 'LostKeysError'
  /** The keys with a wrong result, by participant. */
  readonly lost: readonly LostKey[]

  constructor(lost: readonly LostKey[], document: unknown) {
    const texts = lost.map(({ participant, column, key, is }) => `"${key}" of ${column} (${participant}): ${is}`)
    super(`${texts.join('; ')}. The document is ${JSON.stringify(document)}`)
    this.lost = lost
  }
}

export interface LostKey {
  readonly participant: string
  readonly column: string
  readonly key: string
  readonly is: 'lost' | 'written by a participant that failed'
}

/** The final read found no row. */
export class NoFinalReadError extends Error {
  override readonly name = 'NoFinalReadError'

  constructor() {
    super('the final read found no row. Return it: checkers.jsonKeys((id) => WorkflowRun.findByPk(id), …)')
  }
}

/** The message of a thrown value. In Jest, errors of Node are from another realm: `instanceof Error` is false. */
export function messageOf(error: unknown): string {
  return types.isNativeError(error) ? error.message : inspect(error)
}

/** The usage errors of the kit, by mistake. */
export const usage = {
  options: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected an object of options, got ${String(value)}. Write ${method}({ connections: [pool], setup, participants: { A: (context) => …, B: (context) => … } }).`,
    ),
  unknownOption: (method: string, name: string, names: readonly string[]): UsageError =>
    new UsageError(`${method}: there is no option "${name}". Use: ${names.join(', ')}.`),
  connections: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected connections to be an array of pools, connections or ORMs, got ${inspect(value, { depth: 0 })}. Write { connections: [pool] }.`,
    ),
  connection: (method: string, name: string): UsageError =>
    new UsageError(
      `${method}: expected ${name} to be a pool or a connection of mysql2, pg or mariadb, a Sequelize instance, Knex, an initialized DataSource of TypeORM, or a database of Drizzle. For another ORM, pass the pool of its driver.`,
    ),
  driver: (method: string, name: string): UsageError =>
    new UsageError(
      `${method}: the connections are of ${name}, and their statements cannot be held. Use mysql2, pg or mariadb, or Sequelize with SQLite.`,
    ),
  servers: (method: string, names: readonly string[]): UsageError =>
    new UsageError(
      `${method}: the connections reach different databases (${names.join('; ')}), and one server cannot report the lock waits of another one. Pass connections of one database, and check the other one in a test of its own.`,
    ),
  callback: (method: string, name: string): UsageError =>
    new UsageError(`${method}: expected ${name} to be a function. Write { ${name}: async () => { … } }.`),
  participants: (method: string): UsageError =>
    new UsageError(
      `${method}: expected participants to be an object of two functions or more. Write { participants: { A: (context) => …, B: (context) => … } }, where context is what setup() returned.`,
    ),
  count: (method: string, name: string, value: unknown, least: string): UsageError =>
    new UsageError(`${method}: expected ${name} to be ${least}, got ${String(value)}. Leave it out for the default.`),
  signal: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected signal to be an AbortSignal, got ${String(value)}. Write { signal: controller.signal }.`,
    ),
  failures: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected failures to be 'allow', 'forbid' or a regular expression, got ${String(value)}. Write { failures: /deadlock/i } to allow the errors that it matches.`,
    ),
  mutants: (method: string, value: unknown, names: readonly string[]): UsageError =>
    new UsageError(
      `${method}: expected mutants to be an array of ${names.join(', ')}, got ${String(value)}. Write { mutants: ['${names[0]!}'] }.`,
    ),
  faults: (method: string, value: unknown, kinds: readonly string[]): UsageError =>
    new UsageError(
      `${method}: expected faults to be true or an array of ${kinds.join(', ')}, got ${inspect(value)}. Write { faults: true }.`,
    ),
  faultsOfOne: (method: string, name: string): UsageError =>
    new UsageError(
      `${method}: ${name} is one connection, which the first fault ends, so there is none for the next order. Pass a pool in its place, or leave out faults.`,
    ),
  faultsOfFile: (method: string): UsageError =>
    new UsageError(
      `${method}: faults are lost connections to a server, and SQLite has none. Leave out faults, or explore on MySQL, MariaDB or PostgreSQL.`,
    ),
  pool: (method: string, max: number, participants: number): UsageError =>
    new UsageError(
      `${method}: there ${max === 1 ? 'is 1 connection' : `are ${max} connections`} for ${participants} participants, so they would wait for connections instead of locks. Give the pool ${participants * 2}: { connectionLimit: ${participants * 2} } for mysql2 and mariadb, { max: ${participants * 2} } for pg, { pool: { max: ${participants * 2} } } for Sequelize and Knex.`,
    ),
  inMemory: (method: string): UsageError =>
    new UsageError(
      `${method}: a database in memory has one connection, which all participants would share. Use a file: new Sequelize({ dialect, storage: './race.sqlite' }).`,
    ),
  token: (token: unknown): UsageError =>
    new UsageError(
      `replay: expected the token of a failure, got ${String(token)}. Write replay(result.first.token, options), with the options of that exploration.`,
    ),
  tokenDiffers: (token: string, difference: string): UsageError =>
    new UsageError(
      `replay: ${token} is not a schedule of these participants: ${difference}. Call explore() again for a token of the current code.`,
    ),
  gated: (method: string): UsageError =>
    new UsageError(
      `${method}: it is called by setup, a check or a participant of an exploration of the same connections, for which it would have to wait. Call it after that one, or give it connections of its own.`,
    ),
} as const
