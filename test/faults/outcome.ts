import { BaseError, DatabaseError } from 'sequelize'
import type { Outcome } from './history.js'

/** A driver's error, as Sequelize hands it on. */
interface DriverError {
  readonly errno?: number
  readonly code?: string
  readonly severity?: string
  readonly message: string
}

/**
 * What is known of a write that failed, by the phase in which it did: nothing is known once COMMIT, or a statement that
 * commits by itself, was sent and not answered.
 */
export function outcomeOf(error: unknown, inTransaction: boolean): Exclude<Outcome, 'acknowledged'> {
  // A mistake of the suite is no fault.
  if (!(error instanceof BaseError)) throw error
  // The library refused it, or there was no connection to send it on.
  if (!(error instanceof DatabaseError)) return 'failed'
  const parent = error.parent as DriverError
  if (isAnswer(parent) || isUnsent(parent)) return 'failed'
  return inTransaction && !error.sql.startsWith('COMMIT') ? 'failed' : 'unknown'
}

/** The server itself has said so. */
function isAnswer({ errno = 0, code = '', severity }: DriverError): boolean {
  // From 45000 on, connector mariadb numbers its own errors.
  return severity !== undefined || code.startsWith('SQLITE_') || (errno >= 1000 && errno < 45_000)
}

/** The driver knew that the connection was closed, and sent nothing. */
function isUnsent({ code, message }: DriverError): boolean {
  return code === 'ER_CMD_CONNECTION_CLOSED' || /in closed state$|is not queryable$/.test(message)
}
