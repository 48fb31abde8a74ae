import type { Logging, Model, Transactionable } from 'sequelize'
import type { FittingConditions, JsonColumn } from '../json/document-types.js'
import type { Condition } from '../json/operation.js'
import type { TargetByKey } from '../rows/row-ref.js'
import type { RetryOptions } from '../transactions/retry.js'

export interface JsonWriteOptions<
  M extends Model = Model,
  C extends JsonColumn<M> = JsonColumn<M>,
  I extends readonly Condition[] = readonly Condition[],
  R extends boolean = boolean,
>
  extends Logging, Transactionable {
  /**
   * Return the whole document as it is right after this write, with the keys of other writers. Free on PostgreSQL and
   * SQLite (`RETURNING`); 4 round trips instead of 1 on MySQL and MariaDB. Default: false.
   */
  readonly returning?: R
  /**
   * Write only if the stored document meets all conditions, which the UPDATE itself checks; else a
   * `ConditionNotMetError`. Example: `{ if: [equals('state', 'new'), absent('owner')] }`. Default: none.
   */
  readonly if?: I & FittingConditions<M, C, I>
  /**
   * The attempts after a deadlock or a conflict in a cluster, which wrote nothing; refused in a transaction, which can
   * only be retried as a whole. Default: 3 attempts.
   */
  readonly retry?: RetryOptions
  /**
   * While a write of this row and column is in flight, queue this call and send it with the other queued calls as one
   * batch: for rows with many concurrent writers. Resolves after the commit of the batch, in the order of calls; see
   * the guide "Batches for a row with many writers". No effect in a transaction. Default: the option of the model, see
   * {@link lossless}; else false.
   */
  readonly coalesce?: boolean
}

/** A target of which `Row` is inferred if it is an instance, and `Pair` if it is `[Model, …]`. */
export type TargetOf<M extends Model, Row extends boolean, Pair extends 2> =
  (M & { readonly isNewRecord: Or<Row, boolean> }) | (TargetByKey<M> & { readonly length: Or<Pair, 2> })

/** `T`, or `Other` if it was not inferred. */
type Or<T, Other> = [T] extends [never] ? Other : T

/** What a write resolves to: the caller's row for an instance, `Stored` for `[Model, …]`. */
export type Result<M extends Model, Stored, Row, Pair> = [Row | Pair] extends [never]
  ? unknown
  : ([Row] extends [never] ? never : M) | ([Pair] extends [never] ? never : Stored)
