import type { Model, ModelStatic, Transaction } from 'sequelize'
import type { GuardReport } from '../errors/errors.js'

/** An atomic write of one row, for {@link LosslessOptions.onWrite}. */
export interface RowWrite {
  /** The function that wrote: `'mergeJsonKey'`, `'atomicUpdate'`, … */
  readonly method: string
  readonly model: ModelStatic<Model>
  readonly primaryKey: Readonly<Record<string, unknown>>
  /** Whether `atomicUpsert` has created the row. */
  readonly isCreated: boolean
  /**
   * The changes by attribute, as for `atomicUpdate`: the operations on a document, the new value of an ordinary column after its
   * setter, or what `plus()` made. If the row was created: its values by attribute, without those that
   * the database computes. `JSON.stringify` gives all of it:
   * `{"progress":[{"kind":"set","path":["step_a"],"json":"\"done\""}]}`.
   */
  readonly changes: Readonly<Record<string, unknown>>
  /** The transaction of the write, or a savepoint in it. */
  readonly transaction: Transaction
}

/** What to do with a write of a whole JSON column: see {@link LosslessOptions.wholeColumnWrites}. */
export type WriteMode = 'allow' | 'warn' | 'throw' | 'patch'

/** A {@link WriteMode} for each kind of write; one that is left out is allowed. Only saves can be patched. */
export interface WriteModes {
  /** `save()` and `update()` of an instance. */
  readonly save?: WriteMode
  /** `Model.update()`. */
  readonly bulk?: Exclude<WriteMode, 'patch'>
  /** `upsert`, and `bulkCreate` and `create` with `updateOnDuplicate`. */
  readonly upsert?: Exclude<WriteMode, 'patch'>
}

/** The options of a model, or of all models of a Sequelize instance: whole-column writes, conflicts, batching and `onWrite`. */
export interface LosslessOptions {
  /**
   * What to do with a write of a whole JSON column that could overwrite a concurrent change. `'allow'`: nothing. `'warn'`:
   * report it, once per call site: see {@link onReport}; and report, for saves, reads without the transaction of a
   * callback around them. `'throw'`: refuse it, before any SQL. `'patch'`: write only what changed since the row
   * was loaded, by atomic operations; writes that are no saves are refused. An object has one for each kind of write:
   * `{ save: 'patch', bulk: 'warn' }`. Default: the option of the Sequelize instance, else `'allow'`.
   */
  readonly wholeColumnWrites?: WriteMode | WriteModes
  /**
   * With `'patch'`, when another session changed the same key since the row was loaded. `'throw'`: a `StaleRowError`, and
   * nothing is written. `'overwrite'`: the last write of a string, number, boolean or null wins, and a change or removal of an
   * array or object, other than of its parts, is a `StaleRowError`. Default: as `'overwrite'`, and a number is compared too,
   * since it may be a count.
   */
  readonly conflicts?: 'overwrite' | 'throw'
  /**
   * Whether the JSON methods send concurrent calls for one row as a batch, unless a call says otherwise: see `coalesce` of
   * their options. So do `atomicUpdate` and `atomicUpsert`, which have no such option, if they change one JSON
   * column and nothing else, without `where`. Default: the option of the Sequelize instance, else false.
   */
  readonly coalesce?: boolean
  /**
   * Called, and awaited, for each atomic write of a row, after its statement and before COMMIT: what it writes in `transaction`
   * commits with the write, or not at all. If it throws, the write is rolled back, and the call rejects with its error. A call
   * that is tried again calls it again, in a new transaction. `null`: none for this model. Default: the option of the Sequelize
   * instance, else none.
   */
  readonly onWrite?: ((write: RowWrite) => unknown) | null
  /**
   * Called with each report of `'warn'`, before the statement is sent, in place of `process.emitWarning`: once per call site,
   * and not awaited. The statement is sent whatever it does: its error becomes a warning of the process. `null`: none for this
   * model. Default: the option of the Sequelize instance, else `process.emitWarning(message, { type: 'SequelizeLosslessWarning', code })`.
   */
  readonly onReport?: ((report: GuardReport) => unknown) | null
}

/** The options of one model: {@link LosslessOptions}, and its columns of text that hold JSON. */
export interface ModelOptions<C extends string = string> extends LosslessOptions {
  /**
   * The attributes whose columns are of a text type in the database, and hold JSON: of the type `TEXT` or `STRING` in the model,
   * with a getter that calls `JSON.parse` and a setter that calls `JSON.stringify`; or of the type `JSON` over such a column.
   * Every method, condition, lock and guard then treats them as JSON columns; the value in memory stays text. NULL counts as an
   * empty document, and text that is not JSON, such as `''`, is a `JsonShapeError`.
   *
   * MySQL's JSON functions round the numbers of a text, so there a write is a locking read and an UPDATE of the whole text in one
   * transaction. Default: those of the base class, else none.
   */
  readonly jsonColumns?: readonly C[]
}

/** The option of a statement that names the documents which a patched save changes by operations, not from memory. */
export const patchedColumns: unique symbol = Symbol('patchedColumns')

/** The option of a statement that was checked before: by the guard, or because this library has made it. */
export const checkedBy: unique symbol = Symbol('checked by')

/** The option of Sequelize's own methods that allows one call to write whole columns. */
export interface StatedIntent {
  wholeColumnWrites?: 'allow'
}

/* eslint-disable @typescript-eslint/no-explicit-any, @typescript-eslint/no-unused-vars -- as Sequelize declares them */
declare module 'sequelize/types/model' {
  interface SaveOptions<TAttributes = any> extends StatedIntent {}
  interface InstanceUpdateOptions<TAttributes = any> extends StatedIntent {}
  interface UpdateOptions<TAttributes = any> extends StatedIntent {}
  interface UpsertOptions<TAttributes = any> extends StatedIntent {}
  interface BulkCreateOptions<TAttributes = any> extends StatedIntent {}
}
/* eslint-enable */

/** {@link LosslessOptions} with defaults; `conflicts` is `undefined` for the default rule. */
export type Policy = Required<Omit<LosslessOptions, 'conflicts'>> & Pick<LosslessOptions, 'conflicts'>

export const defaultPolicy: Policy = {
  wholeColumnWrites: 'allow',
  coalesce: false,
  onWrite: null,
  onReport: null,
}

/** What the options say about one kind of write. */
export function modeOf({ wholeColumnWrites }: Policy, kind: keyof WriteModes): WriteMode {
  return typeof wholeColumnWrites === 'object' ? (wholeColumnWrites[kind] ?? 'allow') : wholeColumnWrites
}

/** Merges the options of another call of `lossless()`: it changes only the options that it passes. */
export function mergeOptions(before: LosslessOptions | undefined, options: LosslessOptions): LosslessOptions {
  const { wholeColumnWrites, conflicts, coalesce, onWrite, onReport } = options
  return {
    ...before,
    ...(wholeColumnWrites !== undefined && {
      wholeColumnWrites: typeof wholeColumnWrites === 'object' ? { ...wholeColumnWrites } : wholeColumnWrites,
    }),
    ...(conflicts !== undefined && { conflicts }),
    ...(coalesce !== undefined && { coalesce }),
    ...(onWrite !== undefined && { onWrite }),
    ...(onReport !== undefined && { onReport }),
  }
}
