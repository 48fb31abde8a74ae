import type { Logging, Transaction } from 'sequelize'
import type { Dialect } from '../dialects/dialect.js'
import type { RowFacts } from '../errors/errors.js'
import { recogniseDialect } from '../sequelize/send.js'
import type { Session } from '../sequelize/session.js'
import { watchSession } from './watch.js'

/** One call of a public method, from its checked arguments to its result. */
export interface Call {
  readonly method: string
  readonly session: Session
  readonly dialect: Dialect
  /** The row that errors name; none for a call that is about no row. */
  readonly row: RowFacts | undefined
  /** The transaction that the call joins. */
  readonly transaction: Transaction | undefined
  readonly logging: Logging['logging'] | undefined
  /** How long a lock may be waited for, in milliseconds; 0 for not at all, `undefined` for as long as the server waits. */
  readonly timeoutMs?: number | undefined
}

/** Starts a call: from here on, the statements of its Sequelize instance are watched and its database is known. */
export async function startCall(call: Omit<Call, 'dialect'>): Promise<Call> {
  watchSession(call.session)
  return { ...call, dialect: await recogniseDialect(call.session, call) }
}
