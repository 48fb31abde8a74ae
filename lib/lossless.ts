import type { Model, ModelStatic, Sequelize, Transaction } from 'sequelize'
import { connectorOf } from './dialects/connector.js'
import { checkOptions } from './errors/check-options.js'
import { usage } from './errors/usage.js'
import { guard } from './guard/guard.js'
import type {
  Fitting,
  JsonColumn,
  JsonDocument,
  JsonKey,
  JsonKeyValue,
  JsonValueAt,
  MethodName,
  Patch,
} from './json/document-types.js'
import type { Operation } from './json/operation.js'
import type { PathInput } from './json/values.js'
import { withLock } from './locking/lock.js'
import type { WithLockOptions } from './locking/lock.js'
import { withOptimisticLock } from './locking/optimistic.js'
import type { WithOptimisticLockOptions } from './locking/optimistic.js'
import { isModel, isSequelize } from './rows/row-ref.js'
import { sequelizeInternals, sequelizeOf } from './sequelize/internals.js'
import type { LosslessOptions } from './sequelize/options.js'
import { sessionOf } from './sequelize/session.js'
import { watchSession } from './transactions/watch.js'
import { compareAndSetJson, mergeJson, mergeJsonKey, updateJson } from './writes/json-methods.js'
import type { JsonWriteOptions } from './writes/options.js'

/**
 * The instance methods that {@link lossless} attaches, for the one line of TypeScript that a class model needs:
 *
 *     interface WorkflowRun extends Lossless<WorkflowRun> {}
 */
export interface Lossless<M extends Model> {
  /** Runs `fn` while this row is locked, with the row fresh from the locking read. See the function {@link withLock}. */
  withLock<R>(fn: (row: this, transaction: Transaction) => R | Promise<R>, options?: WithLockOptions): Promise<R>

  /** Runs `fn` on a fresh row, saves it unless somebody wrote it meanwhile, else again. See the function {@link withOptimisticLock}. */
  withOptimisticLock<R>(fn: (row: this) => R | Promise<R>, options?: WithOptimisticLockOptions): Promise<R>

  /** Sets one key of a JSON column in one atomic UPDATE. See the function {@link mergeJsonKey}. */
  mergeJsonKey<C extends JsonColumn<M>, K extends JsonKey<M, C>>(
    column: C,
    key: K,
    value: JsonKeyValue<M, C, K>,
    options?: JsonWriteOptions,
  ): Promise<this>

  /** Merges a patch into a JSON column, where null removes: RFC 7396, in one atomic UPDATE. See the function {@link mergeJson}. */
  mergeJson<C extends JsonColumn<M>>(
    column: C,
    patch: Patch<JsonDocument<M, C>>,
    options?: JsonWriteOptions,
  ): Promise<this>

  /** Changes a JSON column by several operations in one atomic UPDATE. See the function {@link updateJson}. */
  updateJson<C extends JsonColumn<M>, const O extends readonly Operation[]>(
    column: C,
    operations: O & Fitting<M, C, O>,
    options?: JsonWriteOptions,
  ): Promise<this>

  /** Sets the value at a path if the stored one equals `expected`; resolves to whether it did. See the function {@link compareAndSetJson}. */
  compareAndSetJson<C extends JsonColumn<M>, const P extends PathInput>(
    column: C,
    path: P,
    expected: JsonValueAt<M, C, P>,
    value: JsonValueAt<M, C, P>,
    options?: JsonWriteOptions,
  ): Promise<boolean>
}

/** The functions that become methods: each takes the row first. */
const functions: Record<MethodName, (row: never, ...args: never[]) => Promise<unknown>> = {
  withLock,
  withOptimisticLock,
  mergeJsonKey,
  mergeJson,
  updateJson,
  compareAndSetJson,
}

const attached = Symbol.for('sequelize-lossless')

/**
 * Gives a model's rows the methods of {@link Lossless}, and guards the whole-column writes of call sites that exist already.
 * Attaches to the model given and returns that same model, so that finders and associations have the methods too; a second
 * call changes nothing but the options. No statement is sent.
 *
 * With `coalesce: true` the JSON methods share statements on rows that many write at once.
 *
 * Given a Sequelize instance, it guards all its models, those defined later too, unless one has options of its own; the
 * methods are attached model by model.
 *
 * Guarded is every write of a whole JSON column by `save`, `update`, `Model.update`, `upsert` and `bulkCreate` with
 * `updateOnDuplicate`, but for those of a row that this library, or a finder with `lock` and `transaction`, has locked in
 * the same transaction; those that the `version` column guards; values made in SQL (`literal`, `fn`); and calls with the
 * option `{ wholeColumnWrites: 'allow' }`. With `'patch'` a save sends, on MySQL, what changed and no more:
 *
 *     UPDATE `workflow_runs` SET `updatedAt`=?,`progress`=JSON_SET(`progress`, ?, CAST(? AS JSON))
 *     WHERE (`id` = ? AND JSON_TYPE(`progress`) = 'OBJECT')
 *
 * @param model an initialised model: of a class, of `sequelize.define`, or of sequelize-typescript
 * @returns the same model; one from `define` is typed with the methods, a class declares `interface X extends Lossless<X> {}`
 * @throws {UsageError} not an initialised model, not Sequelize 6, it has an attribute or method of one of these names, or a
 *   wrong option
 * @throws {UnsupportedDatabaseError} a dialect other than mysql, mariadb, postgres, sqlite
 * @example
 *     WorkflowRun.init({ progress: DataTypes.JSON }, { sequelize })
 *     lossless(WorkflowRun)
 *     lossless(sequelize, { wholeColumnWrites: 'warn' })
 */
export function lossless<S extends ModelStatic<Model>>(
  model: S,
  options?: LosslessOptions,
): InstanceType<S> extends { mergeJsonKey: unknown } ? S : S & ModelStatic<InstanceType<S> & Lossless<InstanceType<S>>>
export function lossless<S extends Sequelize>(sequelize: S, options: LosslessOptions): S
export function lossless(subject: ModelStatic<Model> | Sequelize, options?: LosslessOptions): unknown {
  const method = 'lossless'
  if (!isModel(subject) && !isSequelize(subject)) throw usage.model(method, subject)
  const sequelize = isModel(subject) ? sequelizeOf(subject) : subject
  const { version } = sequelizeInternals(sequelize).constructor
  if (!version.startsWith('6.')) throw usage.host(method, version)
  connectorOf(sequelize.getDialect())
  // A Sequelize instance has nothing but options.
  if (options !== undefined || !isModel(subject)) checkLosslessOptions(method, options as LosslessOptions)
  if (isModel(subject)) attach(subject)
  watchSession(sessionOf(sequelize))
  if (options) guard(subject, options)
  return subject
}

/** @throws {UsageError} an option is unknown, or has no such value */
function checkLosslessOptions(method: string, options: LosslessOptions): void {
  const names = ['wholeColumnWrites', 'conflicts', 'coalesce'] as const
  const { wholeColumnWrites, conflicts, coalesce } = checkOptions(method, options, names)
  const isMode = ['allow', 'warn', 'throw', 'patch'].includes(wholeColumnWrites as string)
  const isLeftOut = wholeColumnWrites === undefined && coalesce !== undefined
  if (!isMode && !isLeftOut) throw usage.wholeColumnWrites(method, wholeColumnWrites)
  if (!['undefined', 'boolean'].includes(typeof coalesce)) throw usage.coalesce(method, coalesce)
  const isConflicts = ['overwrite', 'throw'].includes(conflicts as string) && wholeColumnWrites === 'patch'
  if (conflicts !== undefined && !isConflicts) throw usage.conflicts(method, conflicts)
}

/** @throws {UsageError} the model has an attribute or method of one of the names */
function attach(model: ModelStatic<Model>): void {
  const prototype = model.prototype as object
  // A subclass of a model that has them has them too.
  if (attached in prototype) return
  for (const name of Object.keys(functions)) {
    if (name in model.getAttributes()) throw usage.taken(model.name, name, 'an attribute')
    if (name in prototype) throw usage.taken(model.name, name, 'a method')
  }
  for (const [name, fn] of Object.entries(functions)) {
    const value = function (this: never, ...args: never[]): Promise<unknown> {
      return fn(this, ...args)
    }
    Object.defineProperty(prototype, name, { value, configurable: true, writable: true, enumerable: false })
  }
  Object.defineProperty(prototype, attached, { value: true })
}
