import { Utils } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import { captureCallSite } from '../call-site.js'
import { parseJson } from '../json/json-text.js'
import type { JsonValue } from '../json/values.js'
import { keyNamedIn, RowRef } from '../rows/row-ref.js'
import { rowStateOf } from '../rows/row-state.js'
import {
  attributesOf,
  buildOptionsOf,
  fieldOf,
  initValuesMethod,
  isChanged,
  isSameTransaction,
  modelOf,
  openAncestor,
  outermostOf,
  sequelizeInternals,
  sequelizeOf,
  uniqueKeysOf,
  valuesOf,
  versionAttribute,
} from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import {
  documentType,
  inheritedStates,
  isTextInMemory,
  jsonAttributes,
  modelStateOf,
  policyOf,
} from '../sequelize/model-state.js'
import { checkedBy, mergeOptions, modeOf } from '../sequelize/options.js'
import type { LosslessOptions, Policy, WriteModes } from '../sequelize/options.js'
import { override } from '../sequelize/override.js'
import { sessionOf } from '../sequelize/session.js'
import type { JudgedWrite, Session, WriteRecorder } from '../sequelize/session.js'
import { ambientTransaction, innermostScope, transactionOf, transactionOption } from '../transactions/join.js'
import { givenDocument, keepDigitsInSaves, tooDeepError, writtenDocument } from '../transactions/save-digits.js'
import { findTransactionState, transactionStateOf } from '../transactions/transaction-state.js'
import { callSite, withCallSite } from './call-options.js'
import type { CallOptions } from './call-options.js'
import {
  includedRows,
  lockingReadOf,
  noteLockingRead,
  noteVainLock,
  toLockingRead,
  toVainLock,
} from './locking-reads.js'
import { patchRow } from './patch.js'
import type { EditedColumn, RowUpdate } from './patch.js'
import { rawWrites } from './raw-writes.js'
import { reasonOfBulkWrite, reasonOfExpression, reasonOfSave } from './reasons.js'
import type { Reason } from './reasons.js'
import { detailsOfBulkWrite, detailsOfSave, insteadOfQuery, reportOrThrow, reportOutsideRead } from './report.js'
import type { BulkWrite } from './report.js'

/** Values by database column name. */
type Fields = Readonly<Record<string, unknown>>

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

/** The attributes other than JSON that an audit in progress looks at. */
function watchedColumns(model: RowModel): readonly string[] {
  return sessionOf(sequelizeOf(model)).audit?.columns[model.name] ?? []
}

function isIdle({ wholeColumnWrites = 'allow' }: LosslessOptions): boolean {
  return wholeColumnWrites === 'allow'
}

/** The policy for a model's writes, or for one kind of them; `undefined` where they are allowed, and not audited. */
function activePolicy(model: RowModel, options?: CallOptions, kind?: keyof WriteModes): Policy | undefined {
  const policy = policyOf(model)
  const isAllowed = kind ? modeOf(policy, kind) === 'allow' : isIdle(policy)
  if (options?.wholeColumnWrites === 'allow') return undefined
  return !isAllowed || sessionOf(sequelizeOf(model)).audit ? policy : undefined
}

/** Overrides methods of a model to record loaded documents and the call sites of writes. */
function guardModel(model: RowModel): void {
  if (inheritedStates(model).some(({ isGuarded }) => isGuarded)) return
  modelStateOf(model).isGuarded = true
  const prototype = model.prototype as object

  override<Row, [given: unknown, options: CallOptions]>(prototype, initValuesMethod, (original) => {
    return function (...args) {
      original.apply(this, args)
      const [, { raw, isNewRecord }] = args
      // A row that the application built, new or not, holds values that are not stored yet.
      if (raw && !isNewRecord && activePolicy(modelOf(this))) rowStateOf(this).recordRead(loadedColumns(this))
    }
  })
  override<Row, [options?: CallOptions]>(prototype, 'save', (original) => {
    return function (...args) {
      const [options] = args
      const policy = activePolicy(modelOf(this), options)
      if (!policy || this.isNewRecord) return original.apply(this, args)
      if (modeOf(policy, 'save') === 'patch') rowStateOf(this).markChangesInPlace(options?.fields)
      const isConcerned = [...jsonAttributes(modelOf(this))].some(
        (column) => options?.fields?.includes(column) ?? isChanged(this, column),
      )
      if (isConcerned) args[0] = withCallSite(options)
      return original.apply(this, args)
    }
  })
  override<Row, [options?: CallOptions]>(prototype, 'reload', (original) => {
    return async function (...args) {
      const result = await original.apply(this, args)
      if (activePolicy(modelOf(this))) recordReload(this)
      return result
    }
  })
  override<RowModel & object, [options?: CallOptions]>(model, 'findAll', (original) => {
    return function (...args) {
      checkRead(this, args[0])
      return original.apply(this, args)
    }
  })
  for (const name of ['update', 'upsert'] as const) {
    override<RowModel & object, [given: unknown, options?: CallOptions]>(model, name, (original) => {
      return function (...args) {
        if (activePolicy(this, args[1])) args[1] = withCallSite(args[1])
        return original.apply(this, args)
      }
    })
  }
  override<RowModel & object, [given: unknown, options?: CallOptions]>(model, 'bulkCreate', (original) => {
    return async function (...args) {
      const [, options = {}] = args
      if (!activePolicy(this)) return original.apply(this, args)
      args[1] = withCallSite(options)
      const rows = (await original.apply(this, args)) as Row[]
      // With individualHooks, each row was inserted by its own statement.
      if (!options.ignoreDuplicates && !options.individualHooks) recordBulkCreate(this, rows, options)
      return rows
    }
  })
}

/** Reports a read without a transaction in a callback of this library that has one. */
function checkRead(model: RowModel, options: CallOptions | undefined): void {
  if (options?.transaction !== undefined) return
  const session = sessionOf(sequelizeOf(model))
  const scope = innermostScope(session)
  if (scope?.method === undefined || scope.isOver || ambientTransaction(session)) return
  const policy = policyOf(model)
  if (modeOf(policy, 'save') !== 'warn') return
  reportOutsideRead(session, policy, model.name, scope.method, transactionOf(scope))
}

function recordReload(row: Row): void {
  const { attributes } = buildOptionsOf(row)
  const loaded = loadedColumns(row).filter((column) => attributes?.includes(column) ?? true)
  const { transaction, locksIncluded = false } = lockingReadOf(row) ?? {}
  rowStateOf(row).recordRead(loaded, transaction)
  if (transaction) transactionStateOf(transaction).addLockedRow(row)
  for (const each of locksIncluded ? includedRows(row) : []) recordLock(each, transaction!)
  for (const column of jsonAttributes(modelOf(row))) {
    if (!Object.hasOwn(valuesOf(row), column)) rowStateOf(row).forget(column)
  }
}

function recordLock(row: Row, transaction: Transaction): void {
  rowStateOf(row).recordLock(loadedColumns(row), transaction)
  transactionStateOf(transaction).addLockedRow(row)
}

function recordBulkCreate(model: RowModel, rows: readonly Row[], options: CallOptions): void {
  const { fields, updateOnDuplicate } = options
  const { transaction = ambientTransaction(sessionOf(sequelizeOf(model))) } = options
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
  select: [model: RowModel, table: unknown, options: CallOptions]
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
  // The guard sends a save after the one before it, and only then are its digits compared.
  keepDigitsInSaves(session)
  const queryInterface = sequelize.getQueryInterface()

  override<object, Statements['select']>(queryInterface, 'select', (original) => {
    return async function (...args) {
      const [model, , options] = args
      const found = await original.apply(this, args)
      const vainLock = toVainLock(options)
      if (vainLock) for (const row of [found].flat<unknown[]>()) noteVainLock(row, vainLock)
      const read = toLockingRead(model, options)
      for (const row of read ? [found].flat<unknown[]>() : []) {
        if (!noteLockingRead(row, read!)) continue
        for (const each of [row, ...(read!.locksIncluded ? includedRows(row) : [])]) recordLock(each, read!.transaction)
      }
      return found
    }
  })
  override<object, Statements['insert']>(queryInterface, 'insert', (original) => {
    return async function (...args) {
      const [instance, , values, options = {}] = args
      const model = instance && modelOf(instance)
      if (!model || !activePolicy(model)) return original.apply(this, args)
      const { updateOnDuplicate, ignoreDuplicates } = options
      if (updateOnDuplicate) {
        const assigned = (): Fields[] => [pick(values, updateOnDuplicate)]
        checkBulkWrite('save', assigned, { records: [values] }, { ...options, model })
      }
      args[3] = asChecked(model, options)
      const isKnown = !ignoreDuplicates && !updateOnDuplicate
      // A column without a value is NULL, or the default of the database.
      const done = recordWrite(instance, isKnown ? storedColumns(model, values) : [], values, options)
      const result = await original.apply(this, args)
      done()
      return result
    }
  })
  override<object, Statements['update']>(queryInterface, 'update', (original) => {
    return async function (...args) {
      const [instance, tableName, values, where, given = {}] = args
      const model = instance && modelOf(instance)
      if (!model || !activePolicy(model)) return original.apply(this, args)
      const options = asChecked(model, given)
      const send = (changed: Fields): Promise<unknown> =>
        original.apply(this, [instance, tableName, changed, where, options]) as Promise<unknown>
      const write = (): Promise<unknown> => save({ instance, tableName, values, where, options, send })
      const policy = activePolicy(model, options)
      const isPatching = policy && modeOf(policy, 'save') === 'patch'
      return isPatching ? afterPatchInFlight(instance, options.transaction, write) : write()
    }
  })
  override<object, Statements['bulkUpdate']>(queryInterface, 'bulkUpdate', (original) => {
    return function (...args) {
      const [, values, where, options] = args
      checkBulkWrite('update', () => [values], { where }, options)
      if (options?.model) args[3] = asChecked(options.model, options)
      return original.apply(this, args)
    }
  })
  override<object, Statements['upsert']>(queryInterface, 'upsert', (original) => {
    return function (...args) {
      const [, inserted, updated, , options = {}] = args
      // A row with the same value of another unique column may be the one that is updated.
      const { model, conflictFields } = options
      const isByPrimaryKey =
        !conflictFields?.length && model?.primaryKeyAttributes.every((name) => fieldOf(model, name) in updated)
      const named = isByPrimaryKey ? inserted : {}
      checkBulkWrite('upsert', () => [updated], { where: named, records: [inserted] }, options)
      if (model) args[4] = asChecked(model, options)
      return original.apply(this, args)
    }
  })
  override<object, Statements['bulkInsert']>(queryInterface, 'bulkInsert', (original) => {
    return function (...args) {
      const [, records, options] = args
      const { updateOnDuplicate = [] } = options ?? {}
      const assigned = (): Fields[] => records.map((record) => pick(record, updateOnDuplicate))
      checkBulkWrite('bulkCreate', assigned, { records }, options)
      if (options?.model) args[2] = asChecked(options.model, options)
      return original.apply(this, args)
    }
  })
}

/** The options of a statement that the guard has checked; an audit in progress passes it over. */
function asChecked<O extends CallOptions>(model: RowModel, options: O): O {
  return sessionOf(sequelizeOf(model)).audit ? { ...options, [checkedBy]: 'guard' } : options
}

/**
 * Checks a write of rows that were not loaded.
 * @param assigned the values that the statement assigns to existing rows
 */
function checkBulkWrite(
  method: BulkWrite['method'],
  assigned: () => readonly Fields[],
  { where = {}, records }: { readonly where?: object | undefined; readonly records?: readonly Fields[] },
  options: CallOptions = {},
): void {
  const { model, transaction } = options
  if (!model) return
  const session = sessionOf(sequelizeOf(model))
  const kind = method === 'update' ? 'bulk' : 'upsert'
  const policy = activePolicy(model, options, kind)
  if (!policy && !session.audit) return
  const primaryKey = keyNamedIn(model, where)
  const isWholeKey = Object.keys(primaryKey).length === model.primaryKeyAttributes.length
  const { key } = new RowRef(model, primaryKey)
  const lockedRows = findTransactionState(transaction)?.lockedRows
  const mode = policy ? modeOf(policy, kind) : 'allow'
  const values = assigned()
  const detailsOf = (column: string, option = transactionOption(session, transaction ?? undefined)) => {
    const upsertKey = records && keyOfRecords(model, records, options)
    const isOfAll = !records && Reflect.ownKeys(where).length === 0
    return detailsOfBulkWrite({ method, model, primaryKey, key: upsertKey, isOfAll, option }, column)
  }
  const isVersioned = method === 'update' && comparesVersion(model, where, values[0]!)
  const isCovered = (column: string): boolean =>
    isVersioned || Boolean(isWholeKey && transaction && lockedRows?.isCurrent(key, column, transaction))
  const columns = [...new Set(values.flatMap((each) => wholeColumns(model, each)))]
  for (const column of columns) {
    const call = { method, model: model.name, column }
    if (policy && mode !== 'allow' && !isCovered(column)) {
      reportOrThrow(session, { ...policy, mode }, options, call, (option) => detailsOf(column, option))
    }
  }
  if (!session.audit) return
  const reasonOf = (column: string): Reason | undefined =>
    isCovered(column) ? undefined : reasonOfBulkWrite(model, isWholeKey ? key : undefined, transaction)
  recordJudgement(session.audit, model, values, options, reasonOf, (column) => ({ method, ...detailsOf(column) }))
}

/** Passes the judgement of each watched column of a statement to an audit in progress. */
function recordJudgement(
  audit: WriteRecorder,
  model: RowModel,
  assigned: readonly Fields[],
  options: CallOptions,
  reasonOf: (column: string) => Reason | undefined,
  detailsOf: (column: string) => Pick<JudgedWrite, 'method' | 'primaryKey' | 'instead'>,
): void {
  const watched = new Set([...jsonAttributes(model), ...watchedColumns(model)])
  const written = [...watched].filter((column) => assigned.some((each) => Object.hasOwn(each, fieldOf(model, column))))
  const writes = written.map((column) => {
    const computed = assigned
      .map((each) => each[fieldOf(model, column)])
      .filter((value) => value instanceof Utils.SequelizeMethod)
    const isComputed = computed.length === assigned.length
    const ofExpression = jsonAttributes(model).has(column) ? computed.map(reasonOfExpression).find(Boolean) : undefined
    const { method, primaryKey, instead } = detailsOf(column)
    const reason = isComputed ? ofExpression : reasonOf(column)
    return { method, primaryKey, instead, model: model.name, column, reason }
  })
  audit.record({ writes, isAllowed: options.wholeColumnWrites === 'allow', site: options[callSite] })
}

/** Whether an UPDATE moves the version of a model from one that its condition names. */
function comparesVersion(model: RowModel, where: object, values: Fields): boolean {
  const version = versionAttribute(model)
  if (version === undefined) return false
  const field = fieldOf(model, version)
  const compared = (where as Fields)[field] ?? null
  const isOne = typeof compared === 'number' || typeof compared === 'string' || typeof compared === 'bigint'
  return isOne && Object.hasOwn(values, field)
}

/** The unique key by which the database finds the rows of an upsert, if all records have it. */
function keyOfRecords(
  model: RowModel,
  records: readonly Fields[],
  options: CallOptions,
): readonly string[] | undefined {
  const { conflictFields, upsertKeys } = options
  const given = [conflictFields, upsertKeys].find((names) => names && names.length > 0)
  const isKnown = (name: string): boolean => {
    const values = records.map((record) => record[fieldOf(model, name)] ?? null)
    return values.every((value) => value !== null && !(value instanceof Utils.SequelizeMethod))
  }
  const keys = [...(given ? [attributesOf(model, given)] : []), ...uniqueKeysOf(model)]
  return keys.find((names) => names.length > 0 && names.every(isKnown))
}

/** Runs concurrent patched saves of one instance one after the other: each starts from the result of the one before. */
function afterPatchInFlight<R>(
  instance: Row,
  transaction: Transaction | null | undefined,
  write: () => Promise<R>,
): Promise<R> {
  const state = rowStateOf(instance)
  const outermost = transaction ? outermostOf(transaction) : undefined
  const before = state.patchInFlight
  // Do not wait for a save in another transaction: it may wait for a lock that this transaction holds.
  const written = before && before.outermost === outermost ? before.settled.then(write) : write()
  state.patchInFlight = { outermost, settled: written.catch(() => undefined) }
  return written
}

/** Checks an UPDATE of a row that was loaded, and sends it, as a whole or as a patch. */
async function save(update: RowUpdate & { readonly options: CallOptions }): Promise<unknown> {
  const { instance, values, options, send } = update
  const model = modelOf(instance)
  const state = rowStateOf(instance)
  const policy = activePolicy(model, options, 'save')
  const mode = policy ? modeOf(policy, 'save') : 'allow'
  const written = wholeColumns(model, values)
  const version = versionAttribute(model)
  // In SQL, NULL equals no other NULL.
  const isVersioned = version !== undefined && valuesOf(instance)[version] !== null
  const isCovered = (column: string): boolean => isVersioned || state.isLockedSince(column, options.transaction)
  const atRisk = mode === 'allow' ? [] : written.filter((column) => !isCovered(column))
  const isPatched = mode === 'patch' && atRisk.length > 0
  const edits = isPatched ? atRisk.map((column) => editOf(instance, column, values)) : []
  for (const [index, column] of atRisk.entries()) {
    if (edits[index]) continue
    const call = { method: 'save', model: model.name, column }
    reportOrThrow(sessionOf(sequelizeOf(model)), { ...policy!, mode }, options, call, (option) =>
      detailsOfSave(instance, column, editOf(instance, column, values), option),
    )
  }
  const session = sessionOf(sequelizeOf(model))
  const { audit } = session
  if (audit) {
    const option = transactionOption(session, options.transaction ?? undefined)
    const isPatchedColumn = (column: string): boolean => isPatched && atRisk.includes(column)
    const reasonOf = (column: string): Reason | undefined => {
      const isSafe = jsonAttributes(model).has(column)
        ? isCovered(column) || isPatchedColumn(column)
        : isVersioned || isRowLockedSince(instance, options.transaction)
      return isSafe ? undefined : reasonOfSave(instance, options.transaction)
    }
    recordJudgement(audit, model, [values], options, reasonOf, (column) => {
      const edit = jsonAttributes(model).has(column) ? editOf(instance, column, values) : undefined
      return { method: 'save', ...detailsOfSave(instance, column, edit, option) }
    })
  }
  const done = recordWrite(instance, written, values, options, !isPatched)
  const result = isPatched ? await patchRow(update, edits as EditedColumn[], policy?.conflicts) : await send(values)
  done()
  return result
}

/** Whether `transaction` has kept other sessions from changing the row since this instance was read. */
function isRowLockedSince(instance: Row, transaction: Transaction | null | undefined): boolean {
  const lockedIn = lockingReadOf(instance)?.transaction ?? rowStateOf(instance).lock?.transaction
  return Boolean(lockedIn && openAncestor(lockedIn) && transaction && isSameTransaction(lockedIn, transaction))
}

/** Snapshots the sent values of `columns`. Call the returned function after the statement has succeeded. */
function recordWrite(
  instance: Row,
  columns: readonly string[],
  values: Fields,
  { returning, transaction }: CallOptions,
  isWhole = true,
): () => void {
  const model = modelOf(instance)
  const { returnValues } = sequelizeInternals(sequelizeOf(model)).dialect.supports
  const answered = returnValues ? returning : false
  const written = columns.map((column) => [column, values[fieldOf(model, column)]] as const)
  const done = rowStateOf(instance).recordWrite(Object.fromEntries(written), {
    transaction,
    isWhole,
    isAnswered: (column) => (Array.isArray(answered) ? answered.includes(fieldOf(model, column)) : Boolean(answered)),
  })
  return () => {
    done()
    if (isWhole && transaction && columns.length > 0) transactionStateOf(transaction).addLockedRow(instance)
  }
}

/** The JSON attributes with a known value in a new row: all that SQL does not compute. */
function storedColumns(model: RowModel, values: Fields): string[] {
  return [...jsonAttributes(model)].filter((name) => !(values[fieldOf(model, name)] instanceof Utils.SequelizeMethod))
}

/** The JSON attributes that these values write as a whole. */
function wholeColumns(model: RowModel, values: Fields): string[] {
  return storedColumns(model, values).filter((column) => Object.hasOwn(values, fieldOf(model, column)))
}

function pick(values: Fields, fields: readonly string[]): Fields {
  return Object.fromEntries(fields.map((field) => [field, values[field]]))
}

/** The loaded document and the document to write; `undefined` if one of them is unknown, or is not JSON. */
function editOf(instance: Row, column: string, values: Fields): EditedColumn | undefined {
  const text = rowStateOf(instance).storedText(column)
  if (text === undefined) return undefined
  const model = modelOf(instance)
  const field = fieldOf(model, column)
  const type = documentType(model, column)
  const written = writtenDocument(model, column, values[field])
  if (written === undefined) return undefined
  const given = givenDocument(model, column, values[field], rowStateOf(instance).givenText(column))
  const after = given?.document ?? written
  const value = isTextInMemory(model, column) ? values[field] : after
  if (rowStateOf(instance).isTooDeep(column)) throw tooDeepError('save', column)
  return { column, field, type, before: parsed(text), after, value, given }
}

function parsed(text: string): JsonValue {
  return text === 'undefined' ? null : parseJson(text)
}
