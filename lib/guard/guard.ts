import { Model } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import { captureCallSite } from '../call-site.js'
import { findRowState, rowStateOf } from '../rows/row-state.js'
import {
  attributesOfJsonType,
  buildOptionsOf,
  fieldOf,
  hasFindHooks,
  initValuesMethod,
  isChanged,
  modelOf,
  sequelizeOf,
  valuesOf,
  versionAttribute,
} from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { inheritedStates, jsonAttributes, modelStateOf, policyOf } from '../sequelize/model-state.js'
import { checkedBy, mergeOptions, modeOf } from '../sequelize/options.js'
import type { LosslessOptions, Policy } from '../sequelize/options.js'
import { override } from '../sequelize/override.js'
import { sessionOf, sessionOfModel } from '../sequelize/session.js'
import type { Session } from '../sequelize/session.js'
import { ambientTransaction, innermostScope, transactionOf, transactionOption } from '../transactions/join.js'
import { transactionStateOf } from '../transactions/transaction-state.js'
import { watchSession } from '../transactions/watch.js'
import { reloads, withCallSite } from './call-options.js'
import type { CallOptions } from './call-options.js'
import {
  activePolicy,
  asChecked,
  checkBulkWrite,
  isIdle,
  noteRead,
  noteWrite,
  pick,
  recordWrite,
  save,
  storedColumns,
  trackAnswer,
  unlockOutdated,
  watchedColumns,
} from './check-writes.js'
import type { Fields } from './check-writes.js'
import {
  includedRows,
  lockingReadOf,
  noteIneffectiveLock,
  noteLockingRead,
  toIneffectiveLock,
  toLockingRead,
} from './locking-reads.js'
import { rawWrites } from './raw-writes.js'
import { insteadOfQuery, reportOutsideRead } from './report.js'

/**
 * Sets the policy for whole-column writes of a model or of a Sequelize instance, and installs the guard.
 * @public `lossless()` loads it with its first options
 */
export function guard(subject: RowModel | Sequelize, options: LosslessOptions): void {
  const owner = typeof subject === 'function' ? modelStateOf(subject) : sessionOf(subject)
  owner.options = mergeOptions(owner.options, options)
  if (isIdle(options)) return
  if (typeof subject === 'function') {
    guardModel(subject)
    guardQueryInterface(sequelizeOf(subject))
    return
  }
  guardAll(subject)
}

/** Guards the models of a Sequelize instance, and those that are defined later. */
function guardAll(sequelize: Sequelize): void {
  for (const model of Object.values(sequelize.models)) guardModel(model)
  if (!sessionOf(sequelize).isGuardingModels) {
    sessionOf(sequelize).isGuardingModels = true
    sequelize.addHook('afterDefine', (model) => {
      guardModel(model as unknown as RowModel)
    })
  }
  guardQueryInterface(sequelize)
}

/** Installs the guard for an audit of all models of a Sequelize instance, whatever their options. */
export function guardForAudit(sequelize: Sequelize): void {
  guardAll(sequelize)
  const session = sessionOf(sequelize)
  if (session.isAudited) return
  session.isAudited = true
  override<Sequelize, [given: unknown, options?: QueryOptions]>(sequelize, 'query', (original) => {
    return function (...args) {
      if (session.audit) auditQuery(session, ...args)
      return original.apply(this, args)
    }
  })
}

/** The options of a statement. */
interface QueryOptions extends CallOptions {
  readonly bind?: unknown
  readonly replacements?: unknown
}

/** Records a statement that no other override of the guard has seen. */
function auditQuery(session: Session, given: unknown, options: QueryOptions = {}): void {
  if (options[checkedBy] === 'guard') return
  const { query: sql = given, values } = (typeof given === 'object' && given !== null ? given : {}) as Record<
    string,
    unknown
  >
  if (typeof sql !== 'string') return
  const models = Object.values(session.sequelize.models) as RowModel[]
  const { transaction = ambientTransaction(session), bind, replacements = values } = options
  const inTransaction = Boolean(transaction)
  const escapesByBackslash = session.sequelize.escape('\\').length > 3
  const raw = rawWrites({ sql, bind, replacements, inTransaction, escapesByBackslash }, models, (model) => [
    ...jsonAttributes(model),
    ...watchedColumns(model),
  ])
  const isOwn = options[checkedBy] === 'library'
  session.audit?.record({
    writes: raw.map(({ model, column, reason }) => ({
      method: 'query',
      model: model.name,
      column,
      primaryKey: {},
      reason: isOwn ? undefined : reason,
      instead: insteadOfQuery(model, column, transactionOption(session, transaction ?? undefined)),
    })),
    isAllowed: options.wholeColumnWrites === 'allow',
    site: captureCallSite(undefined),
    sql,
  })
}

/** Whether the methods of a model are overridden by {@link guardModel}. */
function isGuarded(model: RowModel): boolean {
  return inheritedStates(model).some((state) => state.isGuarded)
}

/** Overrides methods of a model to record loaded documents and the call sites of writes. */
function guardModel(model: RowModel): void {
  if (isGuarded(model)) return
  modelStateOf(model).isGuarded = true
  guardInstances(model.prototype as object)
  guardFinders(model)
  guardWriters(model)
}

/** Overrides the methods of the instances of a model. */
function guardInstances(prototype: object): void {
  override<Row, [given: unknown, options: CallOptions]>(prototype, initValuesMethod, (original) => {
    return function (...args) {
      original.apply(this, args)
      const [, options] = args
      const { raw, isNewRecord } = options
      // A row that the application built, new or not, holds values that are not stored yet. A finder names its attributes.
      if (raw && !isNewRecord && 'attributes' in options && guardedPolicy(modelOf(this)))
        rowStateOf(this).recordRead(loadedColumns(this))
    }
  })
  override<Row, [options?: CallOptions]>(prototype, 'save', (original) => {
    return function (...args) {
      const [options] = args
      const policy = guardedPolicy(modelOf(this), options)
      if (!policy || this.isNewRecord) return original.apply(this, args)
      if (modeOf(policy, 'save') === 'patch') rowStateOf(this).markChangesInPlace(options?.fields)
      const isConcerned = [...jsonAttributes(modelOf(this))].some(
        (column) => options?.fields?.includes(column) ?? isChanged(this, column),
      )
      if (isConcerned) args[0] = withCallSite(options)
      return original.apply(this, args)
    }
  })
  override<Row, [given?: Fields, options?: CallOptions]>(prototype, 'update', (original) => {
    return function (...args) {
      const [given = {}, options] = args
      const policy = guardedPolicy(modelOf(this), options)
      if (policy && !this.isNewRecord && modeOf(policy, 'save') === 'patch') args[0] = withChanges(this, given)
      return original.apply(this, args)
    }
  })
  override<Row, [options?: CallOptions]>(prototype, 'reload', (original) => {
    return async function (...args) {
      args[0] = { ...args[0], [reloads]: true }
      const result = await original.apply(this, args)
      if (isRecorded(this)) recordReload(this)
      return result
    }
  })
  for (const name of ['increment', 'decrement'] as const) {
    override<Row, [fields: unknown, options?: CallOptions]>(prototype, name, (original) => {
      return async function (...args) {
        const done = isRecorded(this) ? trackAnswer(this, { returning: true, ...args[1] }) : undefined
        const result = await original.apply(this, args)
        done?.()
        if (done) noteWrite(this, args[1]?.transaction)
        return result
      }
    })
  }
}

/** Overrides the method with which all finders of a model read. */
function guardFinders(model: RowModel): void {
  override<RowModel & object, [options?: CallOptions]>(model, 'findAll', (original) => {
    return async function (...args) {
      checkRead(this, args[0])
      const found = await original.apply(this, args)
      if (hasFindHooks(this) && activePolicy(this)) recordHooks(found)
      return found
    }
  })
}

/** Overrides the methods of a model that write rows without an instance. */
function guardWriters(model: RowModel): void {
  for (const name of ['update', 'upsert'] as const) {
    override<RowModel & object, [given: unknown, options?: CallOptions]>(model, name, (original) => {
      return function (...args) {
        if (guardedPolicy(this, args[1])) args[1] = withCallSite(args[1])
        return original.apply(this, args)
      }
    })
  }
  override<RowModel & object, [given: unknown, options?: CallOptions]>(model, 'bulkCreate', (original) => {
    return async function (...args) {
      const [, options = {}] = args
      if (!guardedPolicy(this)) return original.apply(this, args)
      args[1] = withCallSite(options)
      const rows = (await original.apply(this, args)) as Row[]
      // With individualHooks, each row was inserted by its own statement.
      if (!options.ignoreDuplicates && !options.individualHooks) recordBulkCreate(this, rows, options)
      return rows
    }
  })
}

/**
 * Marks the documents that update() is given as changed, if memory has another one than the row: Sequelize does not save a value
 * that equals the one in memory.
 * @returns the values for update(), which has to be given a document itself if it is given a key in it (`'progress.step_a'`)
 */
function withChanges(row: Row, given: Fields): Fields {
  const model = modelOf(row)
  const names = Object.keys(given)
  const attributes = model.getAttributes() as Readonly<Record<string, { readonly set?: unknown }>>
  const isInside = (column: string): boolean => names.some((name) => name.startsWith(`${column}.`))
  const documents = [...attributesOfJsonType(model)].filter(
    (column) => isInside(column) && !isChanged(row, column) && !attributes[column]?.set,
  )
  rowStateOf(row).markChangesInPlace([...names, ...documents])
  const changed = documents.filter((column) => isChanged(row, column))
  return changed.length > 0 ? { ...pick(valuesOf(row), changed), ...given } : given
}

/**
 * {@link activePolicy} of a guarded model, whose statements are checked from now on: its Sequelize instance may be another one
 * than that of the class that was given the options.
 */
function guardedPolicy(model: RowModel, options?: CallOptions): Policy | undefined {
  const policy = activePolicy(model, options)
  if (policy) guardQueryInterface(sequelizeOf(model))
  return policy
}

/** Whether the reads and writes of an instance are recorded: what it has recorded must not become stale under `'allow'`. */
function isRecorded(row: Row): boolean {
  return guardedPolicy(modelOf(row)) !== undefined || findRowState(row)?.hasStoredValues === true
}

/** Reports a read without a transaction in a callback of this library that has one. */
function checkRead(model: RowModel, options: CallOptions | undefined): void {
  if (options?.transaction !== undefined) return
  const session = sessionOfModel(model)
  const scope = innermostScope(session)
  if (scope?.method === undefined || scope.isOver || ambientTransaction(session)) return
  const policy = policyOf(model)
  if (modeOf(policy, 'save') !== 'warn') return
  reportOutsideRead(session, policy, model.name, scope.method, transactionOf(scope))
}

/** Records what the hooks of a finder have made of the documents in its result. */
function recordHooks(found: unknown): void {
  for (const row of [found].flat<unknown[]>()) if (row instanceof Model) findRowState(row as Row)?.recordHooks()
}

function recordReload(row: Row): void {
  const { attributes } = buildOptionsOf(row)
  const loaded = loadedColumns(row).filter((column) => attributes?.includes(column) ?? true)
  const { transaction, locksIncluded = false } = lockingReadOf(row) ?? {}
  rowStateOf(row).recordRead(loaded, transaction)
  const version = versionAttribute(modelOf(row))
  if (version !== undefined && (attributes?.includes(version) ?? true)) noteRead(row)
  if (transaction) transactionStateOf(transaction).addLockedRow(row, transaction)
  for (const each of locksIncluded ? includedRows(row) : []) recordLock(each, transaction!)
  for (const column of jsonAttributes(modelOf(row))) {
    if (!Object.hasOwn(valuesOf(row), column)) rowStateOf(row).forget(column)
  }
}

function recordLock(row: Row, transaction: Transaction): void {
  rowStateOf(row).recordLock(loadedColumns(row), transaction)
  transactionStateOf(transaction).addLockedRow(row, transaction)
}

function recordBulkCreate(model: RowModel, rows: readonly Row[], options: CallOptions): void {
  const { fields, updateOnDuplicate } = options
  const { transaction = ambientTransaction(sessionOfModel(model)) } = options
  for (const row of rows) {
    const given = [...jsonAttributes(model)]
      .filter((name) => fields?.includes(name) ?? true)
      .map((name) => [fieldOf(model, name), valuesOf(row)[name]])
    const values = Object.fromEntries(given) as Fields
    // An existing row keeps the columns that updateOnDuplicate omits.
    const columns = storedColumns(model, values).filter((name) => updateOnDuplicate?.includes(name) ?? true)
    recordWrite(row, columns, values, { returning: true, ...options, transaction })()
  }
}

function loadedColumns(row: Row): string[] {
  return [...jsonAttributes(modelOf(row))].filter((column) => Object.hasOwn(valuesOf(row), column))
}

/** The arguments of the methods of Sequelize's query interface that read and write rows. */
interface Statements {
  select: [model: RowModel, table: unknown, options?: CallOptions]
  insert: [instance: Row | null, table: unknown, values: Fields, options?: CallOptions]
  update: [instance: Row | null, table: unknown, values: Fields, where: object, options?: CallOptions]
  bulkUpdate: [table: unknown, values: Fields, where?: Fields, options?: CallOptions, more?: unknown]
  upsert: [table: unknown, inserted: Fields, updated: Fields, where: object, options?: CallOptions]
  bulkInsert: [table: unknown, records: Fields[], options?: CallOptions, more?: unknown]
}

/**
 * Overrides the query interface to check each write before it is sent: after hooks and validators, with the values that
 * will be stored. A `literal` or `fn` is an atomic write by the application.
 */
function guardQueryInterface(sequelize: Sequelize): void {
  const session = sessionOf(sequelize)
  if (session.isGuarded) return
  session.isGuarded = true
  // Before the guard: it sends a save after the one before it, and only then are its digits compared.
  watchSession(session)
  const queryInterface = sequelize.getQueryInterface()
  guardReads(queryInterface)
  guardRowWrites(queryInterface)
  guardBulkWrites(queryInterface)
}

/** Overrides the read of rows, to record the locks that it takes. */
function guardReads(queryInterface: object): void {
  override<object, Statements['select']>(queryInterface, 'select', (original) => {
    return async function (...args) {
      const [model, , options] = args
      const found = await original.apply(this, args)
      const ineffectiveLock = toIneffectiveLock(options)
      if (ineffectiveLock) for (const row of [found].flat<unknown[]>()) noteIneffectiveLock(row, ineffectiveLock)
      const read = toLockingRead(model, options)
      // A reload() may share the values of the instance that it finds, and is recorded after it.
      const { [reloads]: isOfReload, separate } = options ?? {}
      for (const row of read ? [found].flat<unknown[]>() : []) {
        if (!noteLockingRead(row, read!) || (isOfReload && !separate)) continue
        for (const each of [row, ...(read!.locksIncluded ? includedRows(row) : [])]) {
          if (isGuarded(modelOf(each))) recordLock(each, read!.transaction)
        }
      }
      return found
    }
  })
}

/** Overrides the writes of one instance. */
function guardRowWrites(queryInterface: object): void {
  override<object, Statements['insert']>(queryInterface, 'insert', (original) => {
    return async function (...args) {
      const [instance, , values, options = {}] = args
      if (!instance || !isRecorded(instance)) return original.apply(this, args)
      const model = modelOf(instance)
      const { updateOnDuplicate, ignoreDuplicates } = options
      const assigned = (): Fields[] => [pick(values, updateOnDuplicate!)]
      if (updateOnDuplicate) checkBulkWrite('save', assigned, { records: [values] }, { ...options, model })
      args[3] = asChecked(model, options)
      const isKnown = !ignoreDuplicates && !updateOnDuplicate
      // A column without a value is NULL, or the default of the database.
      const done = recordWrite(instance, isKnown ? storedColumns(model, values) : [], values, options)
      const result = await original.apply(this, args)
      done()
      if (updateOnDuplicate) unlockOutdated(assigned(), {}, { ...options, model })
      return result
    }
  })
  override<object, Statements['update']>(queryInterface, 'update', (original) => {
    return async function (...args) {
      const [instance, tableName, values, where, given = {}] = args
      if (!instance || !isRecorded(instance)) return original.apply(this, args)
      const options = asChecked(modelOf(instance), given)
      const send = (changed: Fields): Promise<unknown> =>
        original.apply(this, [instance, tableName, changed, where, options]) as Promise<unknown>
      return save({ instance, tableName, values, where, options, send })
    }
  })
}

/** Overrides the writes of rows that were not loaded. */
function guardBulkWrites(queryInterface: object): void {
  override<object, Statements['bulkUpdate']>(queryInterface, 'bulkUpdate', (original) => {
    return async function (...args) {
      const [, values, where = {}, options = {}] = args
      checkBulkWrite('update', () => [values], { where }, options)
      if (options.model) args[3] = asChecked(options.model, options)
      const result = await original.apply(this, args)
      if (result !== 0) unlockOutdated([values], where, options)
      return result
    }
  })
  override<object, Statements['upsert']>(queryInterface, 'upsert', (original) => {
    return async function (...args) {
      const [, inserted, updated, , options = {}] = args
      // A row with the same value of another unique column may be the one that is updated.
      const { model, conflictFields } = options
      const isByPrimaryKey =
        !conflictFields?.length && model?.primaryKeyAttributes.every((name) => fieldOf(model, name) in updated)
      const named = isByPrimaryKey ? inserted : {}
      checkBulkWrite('upsert', () => [updated], { where: named, records: [inserted] }, options)
      if (model) args[4] = asChecked(model, options)
      const result = await original.apply(this, args)
      unlockOutdated([updated], named, options)
      return result
    }
  })
  override<object, Statements['bulkInsert']>(queryInterface, 'bulkInsert', (original) => {
    return async function (...args) {
      const [, records, options = {}] = args
      const { updateOnDuplicate = [] } = options
      const assigned = (): Fields[] => records.map((record) => pick(record, updateOnDuplicate))
      checkBulkWrite('bulkCreate', assigned, { records }, options)
      if (options.model) args[2] = asChecked(options.model, options)
      const result = await original.apply(this, args)
      if (updateOnDuplicate.length > 0) unlockOutdated(assigned(), {}, options)
      return result
    }
  })
}
