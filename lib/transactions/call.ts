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
  /** The row for error texts; `undefined` for a call without one. */
  readonly row: RowFacts | undefined
  /** The transaction that the call joins. */
  readonly transaction: Transaction | undefined
  readonly logging: Logging['logging'] | undefined
  /** The maximum wait for a lock in milliseconds; 0 does not wait, `undefined` is the timeout of the server. */
  readonly timeoutMs?: number | undefined
}

/** Starts a call: watches the statements of its Sequelize instance, and detects its database. */
export async function startCall(started: Omit<Call, 'dialect'>): Promise<Call> {
  const { method, session, row, transaction, logging, timeoutMs } = started
  watchSession(session)
  const dialect = session.dialect ?? (await recogniseDialect(session, started))
  return { method, session, dialect, row, transaction, logging, timeoutMs }
}
