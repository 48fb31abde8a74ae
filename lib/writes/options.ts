import type { Logging, Transactionable } from 'sequelize'
import type { Condition } from '../json/operation.js'
import type { RetryOptions } from '../transactions/retry.js'

export interface JsonWriteOptions extends Logging, Transactionable {
  /**
   * Read the whole document as it stands right after this write, with the keys of other writers. Costs nothing on PostgreSQL and
   * SQLite (`RETURNING`); 4 round trips instead of 1 on MySQL and MariaDB. Default: false.
   */
  readonly returning?: boolean
  /**
   * Write only if all of these are true of the stored document, judged by the statement that writes; else a
   * `ConditionNotMetError`. `{ if: [equals('state', 'new'), absent('owner')] }`. Default: none.
   */
  readonly if?: readonly Condition[]
  /**
   * How often to try again after a deadlock, or a conflict in a cluster, which wrote nothing; refused in a transaction,
   * which has to be run again as a whole. Default: 3 attempts.
   */
  readonly retry?: RetryOptions
  /**
   * While a write of this row and column is on its way, wait and go out together with the others that wait, as one
   * statement: for a row that everybody writes. Resolves after the commit that holds the call's own operations, in the
   * order of calls; see the chapter "A row that everybody writes" of README. Does nothing in a transaction. Default: that
   * of the model, see {@link lossless}; else false.
   */
  readonly coalesce?: boolean
}
