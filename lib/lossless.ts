import type { Model, ModelStatic, Sequelize, Transaction } from 'sequelize'
import { checkOptions } from './errors/check-options.js'
import { usage } from './errors/usage.js'
import type {
  Changes,
  Conditions,
  Fitting,
  JsonColumn,
  JsonDocument,
  JsonKey,
  JsonKeyValue,
  KeyCompletion,
  KeyCompletions,
  JsonValueAt,
  MethodName,
  ObjectPatch,
} from './json/document-types.js'
import type { Condition, Operation } from './json/operation.js'
import type { PathInput } from './json/values.js'
import { withLock } from './locking/lock.js'
import type { WithLockOptions } from './locking/lock.js'
import { withOptimisticLock } from './locking/optimistic.js'
import type { WithOptimisticLockOptions } from './locking/optimistic.js'
import { isModel, isSequelize } from './rows/row-ref.js'
import { attributeType, fieldOf, isScope, sequelizeInternals, sequelizeOf } from './sequelize/internals.js'
import type { RowModel } from './sequelize/internals.js'
import { hasMethod, mayHoldText, modelStateOf, policyOf } from './sequelize/model-state.js'
import type { LosslessOptions, ModelOptions } from './sequelize/options.js'
import { sessionOf } from './sequelize/session.js'
import { watchSession } from './transactions/watch.js'
import { atomicUpdate } from './writes/atomic-update.js'
import type { AtomicUpdateOptions } from './writes/atomic-update.js'
import type { Plus } from './writes/columns.js'
import { compareAndSetJson, mergeJson, mergeJsonKey, updateJson } from './writes/json-methods.js'
import type { JsonWriteOptions } from './writes/options.js'

/**
 * The instance methods that {@link lossless} attaches. A class model declares them in one line of TypeScript:
 *
 *     interface WorkflowRun extends Lossless<WorkflowRun> {}
 */
export interface Lossless<M extends Model> {
  /**
   * Runs `fn` while this row is locked, in one transaction: no other session can change it between the read and the write of
   * `fn`. Locks and refreshes this instance in one read, commits after `fn`, and rolls back and restores the instance if `fn`
   * throws. In `fn`, the row's own methods join the transaction; every other write needs `{ transaction }`. The function
   * {@link withLock} takes rows without an instance too.
   *
   * @returns the result of `fn`
   * @throws {UsageError} before any SQL: a row never saved, a model without primary key, a read-only transaction
   * @throws {UnsavedChangesError} before any SQL: the row has unsaved changes; or after a rollback: `fn` left some
   * @throws {RowNotFoundError} the row was deleted; `fn` does not run
   * @throws {OutsideTransactionError} a write in `fn` is not part of the transaction
   * @throws {ConflictError} the lock failed by a deadlock or a conflict; or, with `retry`, the last attempt of `fn`
   * @throws {LockTimeoutError} another session held the lock longer than `timeoutMs`, or the timeout of the server
   * @throws {RolledBackError} `fn` caught the error of a statement that ended the transaction
   * @throws {PendingStatementsError} `fn` did not await a statement; the transaction was rolled back
   * @throws {UnknownOutcomeError} the connection was lost after COMMIT was sent
   * @example
   *     await run.withLock(async (run) => {
   *       run.progress.step_a = 'done'
   *       await run.save()
   *     })
   */
  withLock<R>(fn: (row: this, transaction: Transaction) => R | Promise<R>, options?: WithLockOptions): Promise<R>

  /**
   * Reads this row, runs `fn` and saves its changes; if another session has written the row in between, starts again from a
   * fresh read. For models with `version: true`. `fn` may run several times. In a transaction, passed or ambient, this is
   * {@link withLock}. See the function {@link withOptimisticLock}.
   *
   * @returns the result of `fn`
   * @throws {UsageError} before any SQL: a model without `version: true`; a row never saved
   * @throws {UnsavedChangesError} before any SQL: the row has unsaved changes
   * @throws {RowNotFoundError} the row was deleted
   * @throws {StaleRowError} other sessions wrote the row in every attempt; nothing was written, the instance is restored
   * @throws {ConflictError} the database skipped the row: a trigger, a rule or a policy of row-level security
   * @throws {UnknownOutcomeError} the connection was lost after the UPDATE was sent
   * @example
   *     await run.withOptimisticLock((run) => {
   *       run.progress.step_a = 'done'
   *     })
   */
  withOptimisticLock<R>(fn: (row: this) => R | Promise<R>, options?: WithOptimisticLockOptions): Promise<R>

  /**
   * Changes several columns of this row in one atomic statement, all of them or none: JSON columns by operations, ordinary
   * columns by new values, through setters and validators, or by {@link plus}. Concurrent calls never lose a change of a
   * document or a sum. See the function {@link atomicUpdate}.
   *
   * @param changes by attribute: an array of operations for a JSON column, a value or {@link plus} for an ordinary one
   * @returns this row, with the changes in memory or, with `returning: true`, its changed columns as stored
   * @throws the errors of {@link updateJson}, for each JSON column
   * @throws {UsageError} before any SQL: no such attribute, a wrong type of change, a `where` whose values cannot be bound
   * @throws {ValidationError} of Sequelize, before any SQL: a validator of the model refuses a value
   * @throws {ConditionNotMetError} the row does not meet `where`, or a document does not meet `if`; nothing was written
   * @throws {UnsupportedValueError} a column cannot hold its new value; nothing was written
   * @example
   *     await run.atomicUpdate(
   *       { progress: [set('step_a', 'done')], status: 'finished', attempts: plus(1) },
   *       { where: { status: 'running' } },
   *     )
   */
  atomicUpdate<const G extends object, const I extends Conditions<M> = Conditions<M>>(
    changes: (G & Changes<M, G, Plus>) | KeyCompletions<M>,
    options?: AtomicUpdateOptions<M, I>,
  ): Promise<this>

  /**
   * Sets one key of a JSON column in one atomic UPDATE. Every other key keeps its value in the database, not its value in this
   * instance. `key` is literal, its value is replaced; a NULL becomes an object. See the function {@link mergeJsonKey}.
   *
   * @returns this row, with the key set in memory or, with `returning: true`, the whole stored document
   * @throws {UsageError} before any SQL: not a JSON column, not a JSON value, an unknown option
   * @throws {UnsupportedValueError} before the write: a key or value that this database cannot hold exactly
   * @throws {UnsavedChangesError} before any SQL: the column has unsaved changes on this row
   * @throws {OutsideTransactionError} before any SQL: inside `withLock`, without its transaction
   * @throws {RowNotFoundError} the row was deleted
   * @throws {JsonShapeError} the column holds an array or a scalar; nothing was written
   * @throws {ConditionNotMetError} the stored document does not meet the option `if`; nothing was written
   * @throws {ConflictError} a deadlock, or a row newer than the caller's snapshot; nothing was written
   * @throws {LockTimeoutError} another session held the lock longer than the timeout of the server; nothing was written
   * @throws {UnknownOutcomeError} the connection was lost after the write was sent
   * @example await run.mergeJsonKey('progress', 'step_a', 'done')
   */
  mergeJsonKey<
    C extends JsonColumn<M>,
    K extends JsonKey<M, C>,
    const I extends readonly Condition[] = readonly Condition[],
  >(
    column: C,
    key: K,
    value: JsonKeyValue<M, C, K>,
    options?: JsonWriteOptions<M, C, I>,
  ): Promise<this>

  /**
   * Merges a patch into a document in one atomic UPDATE, objects key by key; `null` removes a key, arrays are replaced: RFC
   * 7396 JSON Merge Patch. See the function {@link mergeJson}.
   *
   * @returns this row, with the patch merged in memory or, with `returning: true`, the whole stored document
   * @throws the errors of {@link mergeJsonKey}
   * @example await run.mergeJson('progress', { step_a: 'done', draft: null })
   */
  mergeJson<C extends JsonColumn<M>, const I extends readonly Condition[] = readonly Condition[]>(
    column: C,
    patch: ObjectPatch<JsonDocument<M, C>>,
    options?: JsonWriteOptions<M, C, I>,
  ): Promise<this>

  /**
   * Changes a document by several operations in one atomic statement: all of them, or none. Counters, arrays and sets are exact
   * under concurrent writers. Missing parents become objects; the paths must not overlap. See the function {@link updateJson}.
   *
   * @param operations {@link set}, {@link assign}, {@link setIfAbsent}, {@link remove}, {@link rename}, {@link increment},
   *   {@link min}, {@link max}, {@link append}, {@link prepend}, {@link addToSet}, {@link pull}, {@link replaceOrAppend},
   *   {@link merge}
   * @returns this row, with the operations applied in memory or, with `returning: true`, the whole stored document
   * @throws the errors of {@link mergeJsonKey}; {@link JsonShapeError} also if an operation needs a number or an array
   * @throws {ElementNotFoundError} the stored array has no element at an index, or none that is {@link matching}; nothing was
   *   written
   * @example
   *     await run.updateJson('progress', [increment(['steps', 'done']), append('log', 'step_a'), addToSet('tags', 'fast')])
   */
  updateJson<
    C extends JsonColumn<M>,
    const O extends readonly Operation[],
    const I extends readonly Condition[] = readonly Condition[],
  >(
    column: C,
    operations: (O & Fitting<M, C, O>) | KeyCompletion<M, C>,
    options?: JsonWriteOptions<M, C, I>,
  ): Promise<this>

  /**
   * Compare-and-set: sets the value at a path if the stored value equals `expected`, in one atomic statement. Of concurrent
   * calls that expect the same value, exactly one gets `true`. Equality is deep, in any order of keys; an absent value equals
   * nothing. See the function {@link compareAndSetJson}.
   *
   * @returns `true` if it was set, `false` if the stored value differed
   * @throws the errors of {@link updateJson}
   * @example
   *     if (await job.compareAndSetJson('state', 'phase', 'queued', 'running')) await work(job)
   */
  compareAndSetJson<
    C extends JsonColumn<M>,
    const P extends PathInput,
    const I extends readonly Condition[] = readonly Condition[],
  >(
    column: C,
    path: P,
    expected: JsonValueAt<M, C, P>,
    value: JsonValueAt<M, C, P>,
    options?: JsonWriteOptions<M, C, I>,
  ): Promise<boolean>
}

/** The functions that become row methods. The first parameter of each is the row. */
const functions: Record<MethodName, (row: never, ...args: never[]) => Promise<unknown>> = {
  withLock,
  withOptimisticLock,
  atomicUpdate,
  mergeJsonKey,
  mergeJson,
  updateJson,
  compareAndSetJson,
}

const attached = Symbol.for('sequelize-lossless')

/**
 * Adds the methods of {@link Lossless} to the rows of a model, and guards whole-column writes by Sequelize's own
 * methods. Changes the model in place and returns it: rows from finders and associations have the methods too. A second
 * call changes only the options. Sends no SQL.
 *
 * With `coalesce: true`, the JSON methods send concurrent calls for one row as a batch. With `onWrite`, a function runs in the
 * transaction of each atomic write, before COMMIT. With `jsonColumns`, columns of text that hold JSON are JSON columns too.
 *
 * For a Sequelize instance, does so for all its models, including models defined later by `define` or `init`; options of a
 * model have precedence. A method whose name a model already uses is left out there: call the function, or rename yours.
 *
 * The guard checks every write of a whole JSON column by `save`, `update`, `Model.update`, `upsert` and `bulkCreate`
 * with `updateOnDuplicate`. Exempt: rows locked in the same transaction by this library or by a finder with `lock` and
 * `transaction`; writes that compare the `version` column; values computed in SQL (`literal`, `fn`); and calls with the
 * option `{ wholeColumnWrites: 'allow' }`. With `'patch'`, a save sends only the changes, on MySQL:
 *
 *     UPDATE `workflow_runs` SET `updatedAt`=?,`progress`=JSON_SET(`progress`, ?, CAST(? AS JSON))
 *     WHERE (`id` = ? AND JSON_TYPE(`progress`) = 'OBJECT' AND …)
 *
 * @param model an initialised model: a class, a model from `sequelize.define`, or a sequelize-typescript model
 * @returns the same model. A model from `define` is typed with the methods; a class declares {@link Lossless}
 * @throws {UsageError} the model is not initialised, Sequelize is not version 6, the model already has an attribute or
 *   method with one of these names, or an option is wrong
 * @throws {UnsupportedDatabaseError} a dialect other than mysql, mariadb, postgres, sqlite
 * @example
 *     WorkflowRun.init({ progress: DataTypes.JSON }, { sequelize })
 *     lossless(WorkflowRun)
 *     lossless(sequelize, { wholeColumnWrites: 'warn' })
 */
export function lossless<S extends ModelStatic<Model>>(
  model: S,
  options?: ModelOptions<JsonColumn<InstanceType<S>>>,
): InstanceType<S> extends { mergeJsonKey: unknown } ? S : S & ModelStatic<InstanceType<S> & Lossless<InstanceType<S>>>
export function lossless<S extends Sequelize>(sequelize: S, options?: LosslessOptions): S
export function lossless(subject: ModelStatic<Model> | Sequelize, options?: ModelOptions): unknown {
  const method = 'lossless'
  if (!isModel(subject) && !isSequelize(subject)) throw usage.model(method, subject)
  const sequelize = isModel(subject) ? sequelizeOf(subject) : subject
  const { version } = sequelizeInternals(sequelize).constructor
  if (!version.startsWith('6.')) throw usage.host(method, version)
  const session = sessionOf(sequelize)
  if (options !== undefined) checkLosslessOptions(method, subject, options)
  const { jsonColumns } = options ?? {}
  if (jsonColumns !== undefined) checkJsonColumns(method, subject, jsonColumns)
  if (isModel(subject)) attach(subject, usage.taken)
  else attachToAll(subject)
  if (isModel(subject) && jsonColumns) modelStateOf(subject).jsonColumns = new Set(jsonColumns)
  watchSession(session)
  if (options) {
    // Loaded here: the guard is a sixth of the time to load this package.
    // eslint-disable-next-line @typescript-eslint/no-require-imports
    const { guard } = require('./guard/guard.js') as { guard: typeof import('./guard/guard.js').guard }
    guard(subject, options)
  }
  return subject
}

/** @throws {UsageError} an option is unknown or has an invalid value, or the model is a scope, which its model does not inherit */
function checkLosslessOptions(method: string, subject: RowModel | Sequelize, options: ModelOptions): void {
  const names = ['wholeColumnWrites', 'conflicts', 'coalesce', 'onWrite', 'onReport', 'jsonColumns'] as const
  const { wholeColumnWrites, conflicts, coalesce, onWrite, onReport } = checkOptions(method, options, names)
  if (isModel(subject) && isScope(subject)) throw usage.scopedModel(method, subject.name)
  if (wholeColumnWrites !== undefined && !areModes(method, wholeColumnWrites)) {
    throw usage.wholeColumnWrites(method, wholeColumnWrites)
  }
  if (!['undefined', 'boolean'].includes(typeof coalesce)) throw usage.coalesce(method, coalesce)
  if (typeof onWrite !== 'function' && (onWrite ?? null) !== null) throw usage.onWrite(method, onWrite)
  if (typeof onReport !== 'function' && (onReport ?? null) !== null) throw usage.onReport(method, onReport)
  const before = isModel(subject) ? policyOf(subject) : sessionOf(subject).options
  const modes = wholeColumnWrites ?? before?.wholeColumnWrites
  const modeOfSaves = typeof modes === 'object' ? modes.save : modes
  const isConflicts = ['overwrite', 'throw'].includes(conflicts as string) && modeOfSaves === 'patch'
  if (conflicts !== undefined && !isConflicts) throw usage.conflicts(method, conflicts)
}

/** @throws {UsageError} one of the names is no attribute of a text type, or is part of the primary key */
function checkJsonColumns(method: string, subject: ModelStatic<Model> | Sequelize, names: unknown): void {
  if (!isModel(subject)) throw usage.jsonColumnsOfAll(method)
  if (!Array.isArray(names)) throw usage.jsonColumns(method, names)
  for (const name of names as unknown[]) {
    if (!mayHoldText(subject, name)) {
      const isAttribute = typeof name === 'string' && Object.hasOwn(subject.getAttributes(), name)
      const type = isAttribute ? attributeType(subject, name) : undefined
      const field = isAttribute ? fieldOf(subject, name) : ''
      throw usage.jsonColumn(method, subject.name, name, field, type)
    }
    if (subject.primaryKeyAttributes.includes(name)) throw usage.jsonKey(method, subject.name, name)
  }
}

/** Whether an option is a mode, or an object with one for each kind of write. */
function areModes(method: string, modes: LosslessOptions['wholeColumnWrites']): boolean {
  const ofBulk = ['allow', 'warn', 'throw']
  if (typeof modes !== 'object' || (modes as unknown) === null) return [...ofBulk, 'patch'].includes(modes as string)
  checkOptions(method, modes, ['save', 'bulk', 'upsert'])
  return Object.entries(modes).every(
    ([kind, mode]) => mode === undefined || ofBulk.includes(mode as string) || (kind === 'save' && mode === 'patch'),
  )
}

/** Attaches the methods to the models of a Sequelize instance, and to those that are defined later. */
function attachToAll(sequelize: Sequelize): void {
  for (const model of Object.values(sequelize.models)) attach(model)
  const session = sessionOf(sequelize)
  if (session.attachesMethods) return
  session.attachesMethods = true
  sequelize.addHook('afterDefine', (model) => {
    attach(model as unknown as ModelStatic<Model>)
  })
}

/**
 * Attaches the methods whose names the model does not use.
 * @param refusal makes the error for a name that it uses; absent if such a method is left out
 * @throws {UsageError} the model has an attribute or method of one of the names
 */
function attach(model: ModelStatic<Model>, refusal?: typeof usage.taken): void {
  const prototype = model.prototype as object
  // A subclass inherits the methods.
  if (attached in prototype) return
  const names = Object.keys(functions).filter((name) => !hasMethod(model, name))
  const free = names.filter((name) => {
    const use = name in model.getAttributes() ? 'an attribute' : name in prototype ? 'a method' : undefined
    if (use && refusal) throw refusal(model.name, name, use)
    return use === undefined
  })
  for (const name of free) {
    const fn = functions[name as MethodName]
    const value = function (this: never, ...args: never[]): Promise<unknown> {
      return fn(this, ...args)
    }
    Object.defineProperty(prototype, name, { value, configurable: true, writable: true, enumerable: false })
    modelStateOf(model).methods.add(name)
  }
  if (free.length === names.length) Object.defineProperty(prototype, attached, { value: true })
}
