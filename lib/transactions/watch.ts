import { ConnectionAcquireTimeoutError, QueryTypes, Utils } from 'sequelize'
import type { Transaction } from 'sequelize'
import type { Dialect } from '../dialects/dialect.js'
import { ConflictError, RowNotFoundError, StaleRowError } from '../errors/errors.js'
import { dateTypes, numberTypes } from '../rows/operand-types.js'
import { keyNamedIn, RowRef } from '../rows/row-ref.js'
import { assignStored, rowStateOf } from '../rows/row-state.js'
import {
  attributesOf,
  attributeType,
  isChanged,
  isSameVersion,
  modelOf,
  outermostOf,
  sequelizeOfTransaction,
  valuesOf,
  versionAttribute,
  withValues,
} from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { checkedBy, patchedColumns } from '../sequelize/options.js'
import { override, overrideAsync } from '../sequelize/override.js'
import { limitPreparedStatements } from '../sequelize/prepared-statements.js'
import { noteFailure } from '../sequelize/send.js'
import { sessionOf } from '../sequelize/session.js'
import type { Session } from '../sequelize/session.js'
import { currentContext, runWith } from './async-context.js'
import type { Scope } from './async-context.js'
import {
  ambientTransaction,
  innermostScope,
  isForeignAmbient,
  refuseOpening,
  refuseOutside,
  transactionOption,
} from './join.js'
import {
  findByKeys,
  markSameStale,
  refreshOtherInstances,
  refuseOlderValues,
  refuseStaleSave,
  sharedColumns,
} from './other-instances.js'
import { joinRowMethods } from './row-methods.js'
import { keepDigitsInSaves } from './save-digits.js'
import { findTransactionState, transactionStateOf } from './transaction-state.js'
import type { Query, QueryOptions, TransactionState } from './transaction-state.js'
import { enqueueStatement } from './writer-queue.js'

/** The types of the statements that Sequelize's models write with. */
const modelWrites: ReadonlySet<string | undefined> = new Set([
  QueryTypes.INSERT,
  QueryTypes.UPDATE,
  QueryTypes.BULKUPDATE,
  QueryTypes.DELETE,
  QueryTypes.BULKDELETE,
  QueryTypes.UPSERT,
])

/** Sequelize's `transaction`. */
type Begin = (options?: BeginOptions | Callback, callback?: Callback) => Promise<unknown>
type Callback = (transaction: Transaction) => unknown
interface BeginOptions {
  readonly transaction?: Transaction | null
  /** Set by this library, which has checked that it may open the transaction, and gives the callback a scope of its own. */
  readonly [checkedBy]?: 'library'
}

/**
 * Watches every statement that a Sequelize instance sends, and every transaction that it opens, from now on.
 *
 * Sequelize's hooks are not sufficient: `hooks: false` and increment() skip them, they do not see errors, and
 * `beforeQuery` runs only after the wait for a connection.
 */
export function watchSession(session: Session): void {
  if (session.isWatched) return
  session.isWatched = true
  const { sequelize } = session
  limitPreparedStatements(session)
  keepDigitsInSaves(session)
  overrideAsync(sequelize, 'query', (original) => {
    const query = original.bind(sequelize) as Query
    return (sql, options) => sendStatement(session, query, sql, options as QueryOptions | undefined)
  })
  override(sequelize, 'transaction', (original) => {
    const begin = original.bind(sequelize) as Begin
    return (options, callback) => beginWatched(session, begin, options as BeginOptions, callback as Callback)
  })
  override(
    sequelize,
    'log',
    (original) =>
      function (...given) {
        try {
          original.apply(this, given)
        } catch (error) {
          if (!isSentByLibrary(given.at(-1) as QueryOptions | undefined)) throw error
          process.emitWarning(
            `sequelize-lossless: the function logging failed (${String(error)}); the statement was sent all the same.`,
            { type: 'SequelizeLosslessWarning', code: 'LOGGING_FAILED' },
          )
        }
      },
  )
  for (const model of Object.values(sequelize.models)) joinRowMethods(model)
  sequelize.addHook('afterDefine', (model) => {
    joinRowMethods(model as unknown as RowModel)
  })
}

/**
 * Whether a call of this library sends the statement. An error of the function `logging` must not reject such a call: its
 * statement is already sent.
 */
function isSentByLibrary({
  [checkedBy]: by,
  instance,
}: QueryOptions & Pick<BeginOptions, typeof checkedBy> = {}): boolean {
  return by === 'library' || (instance !== undefined && rowStateOf(instance as Row).isSavingVersion)
}

function sendStatement(session: Session, query: Query, sql: unknown, given: QueryOptions = {}): Promise<unknown> {
  // Sequelize also joins the ambient transaction, but of any instance, and only after it has chosen its retry options.
  const isForeign = isForeignAmbient(session, given.transaction)
  const asked = isForeign ? undefined : given.transaction
  const transaction = asked === undefined ? ambientTransaction(session) : asked
  const options = asked === transaction && !isForeign ? given : { ...given, transaction: transaction ?? null }
  if (transaction) {
    const state = findTransactionState(transaction)
    return state?.dialect ? sendInTransaction(state, query, sql, options) : query(sql, options)
  }
  const isLockingRead = options.type === QueryTypes.SELECT && Boolean(options.lock)
  if (transaction === undefined && (modelWrites.has(options.type) || isLockingRead)) {
    const name = options.model?.name ?? options.instance?.constructor.name ?? 'a model'
    const what = isLockingRead ? `a locking read of ${name}` : `a write of ${name} (${options.type})`
    refuseOutside(session, undefined, what, options.instance as Row | undefined)
  }
  const { dialect } = session
  return dialect ? sendAlone(session, dialect, query, sql, options) : query(sql, options)
}

/** Sends a statement without a transaction. */
async function sendAlone(
  session: Session,
  dialect: Dialect,
  query: Query,
  sql: unknown,
  options: QueryOptions,
): Promise<unknown> {
  try {
    return await enqueueStatement(session, dialect, () => query(sql, options))
  } catch (error) {
    noteFailure(error, dialect)
    explainAcquireTimeout(session, error, options.type)
    throw error
  }
}

function sendInTransaction(
  state: TransactionState,
  query: Query,
  sql: unknown,
  options: QueryOptions,
): Promise<unknown> {
  const { instance, model, type, updateOnDuplicate, increment } = options
  if (instance && modelWrites.has(type)) return sendRowWrite(state, query, sql, options, instance as Row)
  const isBulk = type === QueryTypes.BULKUPDATE || updateOnDuplicate !== undefined || increment !== undefined
  if (model && isBulk) return sendBulkWrite(state, query, sql, options, model)
  return state.send(query, sql, options)
}

/** Sends the write of several rows, whose locked instances are then out of date. */
function sendBulkWrite(
  state: TransactionState,
  query: Query,
  sql: unknown,
  options: QueryOptions,
  model: RowModel,
): Promise<unknown> {
  // Before the next statement: it may be a save of one of these rows.
  const sendAndRefresh: Query = async (...args) => {
    const result = await query(...args)
    if (!isNone(result)) await refreshLockedRows(state, model, options)
    return result
  }
  return state.send(sendAndRefresh, sql, options)
}

/** Sends the write of an instance. */
async function sendRowWrite(
  state: TransactionState,
  query: Query,
  sql: unknown,
  options: QueryOptions,
  row: Row,
): Promise<unknown> {
  const { type, fields: columns = [], [patchedColumns]: patched = [] } = options
  const fromMemory = columns.filter((column) => !patched.includes(column))
  const isIncrement = options.increment !== undefined
  const isSave = type === QueryTypes.UPDATE && !isIncrement
  state.remember(row, options.transaction!)
  const recordWrite = rowStateOf(row).recordLockedWrite(columns)
  const isDelete = type === QueryTypes.DELETE && rowStateOf(row).lock !== undefined
  const version = versionAttribute(modelOf(row))
  // A statement that is sent before this one may move it.
  const versionCompared = version === undefined ? undefined : valuesOf(row)[version]
  const isAnswered = isIncrement || (isSave && Boolean(options.returning))
  const before = isAnswered ? { ...valuesOf(row) } : {}
  const answered = { ...before }
  // Sequelize reads the answer (RETURNING) into the instance.
  const instance = isAnswered ? withValues(row, answered) : row
  // Sequelize reports the number of deleted rows for this type only.
  const own = { ...options, instance, ...(isDelete && { type: QueryTypes.BULKDELETE }) }
  const sendUnlessStale: Query = async (...args) => {
    // Here no statement comes between a check and the write. A hook, or a statement sent before, may have written the row.
    if (isSave) {
      refuseStaleSave(state, 'save', row, columns)
      const compared = refuseOlderValues(state, 'save', row, fromMemory, options)
      if (compared) await compared
    }
    return query(...args)
  }
  const written = isSave ? columns.map((column) => [column, valuesOf(row)[column]] as const) : []
  const sent = await (options.updateOnDuplicate
    ? sendBulkWrite(state, query, sql, own, modelOf(row))
    : state.send(sendUnlessStale, sql, own))
  const result: unknown = Array.isArray(sent) && sent[0] === instance ? [row, ...(sent.slice(1) as unknown[])] : sent
  const rowState = rowStateOf(row)
  const assigned = written.filter(([column, value]) => isChanged(row, column) && valuesOf(row)[column] !== value)
  if (isSave) rowState.assignedInFlight = new Map(assigned)
  rowState.answeredColumns = assignAnswer(row, before, answered, columns)
  const isUpdate = isSave ? columns.length > 0 : isIncrement
  const isUnmatched = (isDelete || isUpdate) && isNone(result)
  if (isUnmatched) await refuseUnmatchedRow(row, state.dialect!, options, versionCompared)
  // Sequelize throws an OptimisticLockError: nothing was written. Without a version, the row may have these values already.
  if (isSave && isUnmatched && version !== undefined) return result
  if (isIncrement) rowState.isIncremented = !isUnmatched
  recordWrite?.()
  const computed = isSave && rowState.lock ? columns.filter((column) => isExpression(valuesOf(row)[column])) : []
  if (computed.length > 0) await readComputed(row, computed, options)
  if (isSave) rowState.savedColumns = new Set(columns)
  refreshOtherInstances(state, row, fromMemory)
  if (!row.isNewRecord) await markSameStale(state, RowRef.of(row), columns, options)
  return isDelete ? row : result
}

function isExpression(value: unknown): boolean {
  return value instanceof Utils.SequelizeMethod
}

/** Reads the columns that a save has set by SQL: the instance has the SQL in place of their values. */
async function readComputed(row: Row, computed: readonly string[], options: QueryOptions): Promise<void> {
  const [stored] = await findByKeys(modelOf(row), [RowRef.of(row)], computed, options)
  if (stored) rowStateOf(row).assignWritten(Object.fromEntries(computed.map((column) => [column, stored[column]])))
}

/**
 * Assigns what the answer of a statement has changed, but to columns with unsaved changes, also those since it was sent.
 * @param sent the columns that the statement has written from memory
 * @returns the columns that the answer has changed
 */
function assignAnswer(
  row: Row,
  before: Readonly<Record<string, unknown>>,
  answered: typeof before,
  sent: readonly string[],
): ReadonlySet<string> {
  const values = valuesOf(row)
  const changed = Object.keys(answered).filter((attribute) => answered[attribute] !== before[attribute])
  for (const attribute of changed) {
    const { [attribute]: value } = answered
    if (!isChanged(row, attribute)) assignStored(row, { [attribute]: value })
    else if (sent.includes(attribute) && values[attribute] === before[attribute]) values[attribute] = value
  }
  return new Set(changed)
}

/** Whether a statement of a model found no row. */
function isNone(result: unknown): boolean {
  return result === 0 || (Array.isArray(result) && result[1] === 0)
}

/**
 * Reads what a bulk statement wrote into the locked instances, unless its WHERE names another row. Documents, and columns with
 * unsaved changes, become stale if they have another value now: a save of them is refused.
 */
async function refreshLockedRows(state: TransactionState, model: RowModel, options: QueryOptions): Promise<void> {
  const { where } = options
  const columns = writtenColumns(model, options)
  const primaryKey = where && keyNamedIn(model, where)
  const isOneRow = primaryKey && Object.keys(primaryKey).length === model.primaryKeyAttributes.length
  const ref = isOneRow ? new RowRef(model, primaryKey) : undefined
  const locked = ref ? state.lockedRows.ofRow(ref.key) : state.lockedRows.ofTable(model)
  for (const row of locked) state.remember(row, options.transaction!)
  const loadedColumns = (row: Row): string[] =>
    sharedColumns(row, model, columns).filter((column) => Object.hasOwn(valuesOf(row), column))
  const rows = locked.map((row) => ({ row, loaded: loadedColumns(row) })).filter(({ loaded }) => loaded.length > 0)
  const read = new Set(rows.flatMap(({ loaded }) => loaded))
  const keys = rows.map(({ row }) => RowRef.of(row))
  const stored = await findByKeys(model, keys, [...read], options)
  for (const [index, { row, loaded }] of rows.entries()) {
    const rowState = rowStateOf(row)
    const values = stored[index]
    // A save of a row that is gone is refused by itself.
    for (const column of values ? loaded : []) rowState.refresh(column, values![column])
  }
  if (ref) await markSameStale(state, ref, columns, options)
}

/** The attributes that a bulk statement may have written. */
function writtenColumns(model: RowModel, { fields, updateOnDuplicate, increment }: QueryOptions): readonly string[] {
  if (updateOnDuplicate) return attributesOf(model, updateOnDuplicate)
  if (fields) return fields
  const all = Object.keys(model.getAttributes())
  // increment(), and destroy() and restore() of a paranoid model, do not pass their columns.
  const types = increment === undefined ? dateTypes : [...numberTypes, ...dateTypes]
  return all.filter((name) => types.includes(attributeType(model, name)))
}

/**
 * Rejects a statement of a locked row that matched no row, which Sequelize reports as a success.
 * @param versionCompared the version in its condition
 * @throws {RowNotFoundError} the transaction that locked the row has deleted it
 * @throws {StaleRowError} the transaction that locked the row has moved the version that a DELETE compares
 * @throws {ConflictError} the database skipped the row
 */
async function refuseUnmatchedRow(
  row: Row,
  dialect: Dialect,
  options: QueryOptions,
  versionCompared: unknown,
): Promise<void> {
  if (!rowStateOf(row).lock) return
  const { transaction, type, fields = [], increment, where = {} } = options
  const method =
    type === QueryTypes.DELETE ? 'destroy' : increment === undefined ? 'save' : increment ? 'increment' : 'decrement'
  const version = increment === undefined ? versionAttribute(modelOf(row)) : undefined
  const ref = RowRef.of(row)
  const { model, primaryKey, facts } = ref
  const attributes = version === undefined ? Object.keys(primaryKey) : [version]
  // Depending on the flags of the connection, MySQL counts only changed rows, not matched rows.
  const [stored] = await findByKeys(model, [ref], attributes, options)
  if (!stored && method === 'destroy') return
  if (!stored) {
    const option = transactionOption(sessionOf(sequelizeOfTransaction(transaction!)), transaction!)
    throw new RowNotFoundError(method, { ...facts, option })
  }
  if (version !== undefined && !isSameVersion(stored[version], versionCompared)) {
    // Sequelize makes an OptimisticLockError of a save, and nothing of a DELETE.
    if (method === 'save') return
    throw StaleRowError.inTransaction(method, facts, version)
  }
  // As for Sequelize, a `where` of the application is a condition that may not be met.
  const isConditional = increment !== undefined && Reflect.ownKeys(where).length > Object.keys(primaryKey).length
  if (!dialect.skipsRows || isConditional) return
  const [statement, columns] = method === 'destroy' ? (['DELETE', undefined] as const) : (['UPDATE', fields] as const)
  throw ConflictError.skipped(method, facts, columns, dialect.skipsRows(statement))
}

/** Adds the likely cause of an exhausted pool to the error: a statement outside the transaction of its callback. */
function explainAcquireTimeout(session: Session, error: unknown, type: string | undefined): void {
  const scope = innermostScope(session)
  if (!(error instanceof ConnectionAcquireTimeoutError) || scope?.method === undefined || scope.isOver) return
  error.message =
    `this ${type === QueryTypes.SELECT ? 'read' : 'statement'} is not part of the transaction of the enclosing ${scope.method}(), so it waited for a second connection while that transaction held the first. ` +
    `Pass the option { transaction }, or raise pool.max. (${error.message})`
}

/** Sequelize's `transaction()`, whose callback gets a scope of its own; refused where the callback around it has a transaction. */
async function beginWatched(
  session: Session,
  begin: Begin,
  first: BeginOptions | Callback | undefined,
  second: Callback | undefined,
): Promise<unknown> {
  const [options, callback] = typeof first === 'function' ? [undefined, first] : [first, second]
  if (options?.[checkedBy] === 'library' && !options.transaction) return begin(options, callback)
  if (!options?.transaction) refuseOpening(session)
  if (!callback) return begin(options)
  const run = async (transaction: Transaction): Promise<unknown> => {
    const { sequelize } = session
    const scope: Scope = {
      method: undefined,
      sequelize,
      transaction,
      outermost: outermostOf(transaction),
      outer: currentContext().scope,
      isOver: false,
    }
    if (options?.transaction) {
      session.savepointsWithCallback.add(transaction)
      findTransactionState(transaction)?.startSavepoint(transaction)
    }
    try {
      return await runWith({ scope }, () => callback(transaction))
    } finally {
      scope.isOver = true
      // The owner of the transaction now knows its outcome.
      const state = findTransactionState(transaction)
      if (state?.transaction === transaction) state.isAborted = false
    }
  }
  const state = findTransactionState(options?.transaction)
  return state?.dialect ? state.runSavepoint(() => begin(options, run)) : begin(options, run)
}

/**
 * Watches a transaction from now on: sends its statements one at a time and none after the server has ended it, and
 * rejects a COMMIT that the database turned into a rollback.
 */
export function watchTransaction(transaction: Transaction, dialect: Dialect): TransactionState {
  const state = transactionStateOf(transaction)
  if (state.dialect) return state
  state.watch(dialect)
  watchSession(sessionOf(sequelizeOfTransaction(transaction)))
  // Once commit() is called, Sequelize refuses queued statements, even those that were called earlier.
  override(
    outermostOf(transaction),
    'commit',
    (original) =>
      function () {
        const idle = state.queue.whenIdle()
        return idle ? idle.then(() => original.call(this)) : original.call(this)
      },
  )
  return state
}
