import type { Model } from 'sequelize'
import type { Column, UpdateVariant } from '../dialects/dialect.js'
import {
  refuseClampedSum,
  refuseUnstorableText,
  refuseTooLarge,
  refuseTooManyBinds,
  refuseUnsupported,
} from '../dialects/limits.js'
import { checkOptions } from '../errors/check-options.js'
import {
  ConditionNotMetError,
  isLosslessError,
  JsonShapeError,
  mismatchError,
  UnsupportedValueError,
} from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { isCondition } from '../json/operation.js'
import type { Condition, Operation } from '../json/operation.js'
import { needsElements } from '../json/semantics.js'
import type { JsonValue } from '../json/values.js'
import { readRow, rowSelection, selectRow } from '../rows/read-row.js'
import { refuseTruncation } from '../rows/short-columns.js'
import { conditionSql } from '../rows/row-conditions.js'
import type { RowCondition } from '../rows/row-conditions.js'
import { identifyTarget } from '../rows/row-query.js'
import type { TargetRow } from '../rows/row-query.js'
import { jsonColumnType, RowRef } from '../rows/row-ref.js'
import type { Target } from '../rows/row-ref.js'
import { refuseUnsavedChanges, rowStateOf } from '../rows/row-state.js'
import { publishBatch, traceCall } from '../sequelize/channels.js'
import { updatedAtAttribute, valuesOf, versionAttribute } from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { accessorsOf, isTextInMemory, policyOf } from '../sequelize/model-state.js'
import { failureOf, isRefusedByServer, sendForRows } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import type { BatchQueue } from '../sequelize/session.js'
import { Statement } from '../sequelize/statement.js'
import { execute, factsOf, inSavepoint, startCall } from '../transactions/execute.js'
import type { Call } from '../transactions/execute.js'
import { withRows } from '../transactions/find-row.js'
import { lockTransaction, refuseWriteBesideCheck, transactionOption, transactionToJoin } from '../transactions/join.js'
import { applyToOtherInstances, markSameStale, sharedColumns } from '../transactions/other-instances.js'
import { checkRetryOptions } from '../transactions/retry.js'
import type { TransactionState } from '../transactions/transaction-state.js'
import { refuseSelfDeadlock } from '../transactions/writer-queue.js'
import { coalesce, trackUnsettled } from './coalesce.js'
import type { BatchableCall } from './coalesce.js'
import { isValueKnown, validatedChanges, valueAfter } from './columns.js'
import type { ColumnChange } from './columns.js'
import { notifyUpdate } from './on-write.js'
import type { JsonWriteOptions } from './options.js'
import { asLoaded, isReadFirst, readDocument, sendMatching, updateDocuments } from './update-document.js'
import type { DocumentChange, StoredDocument, UpdateResult } from './update-document.js'

/** The options of a JSON method. */
interface CheckedOptions extends Omit<JsonWriteOptions, 'if'> {
  readonly if: readonly Condition[]
}

/** @throws {UsageError} an option is unknown or has a wrong type */
export function checkJsonOptions(method: string, options: Pick<JsonWriteOptions, 'if'>): CheckedOptions {
  const { if: conditions = [], ...given } = checkOptions<JsonWriteOptions>(method, options, jsonOptionNames)
  checkReturning(method, given.returning)
  return { ...given, if: conditionsOf(method, conditions) }
}

/** @throws {UsageError} it is neither true nor false */
export function checkReturning(method: string, returning: unknown): void {
  if (returning !== undefined && typeof returning !== 'boolean') throw usage.returning(method, returning)
}

/**
 * A copy of the conditions of a call.
 * @throws {UsageError} they are no array of conditions
 */
export function conditionsOf(method: string, value: unknown): readonly Condition[] {
  const conditions = Array.isArray(value) ? [...(value as readonly unknown[])] : undefined
  if (!conditions?.every(isCondition)) throw usage.conditions(method, value)
  return conditions
}

/**
 * Writes one document for a JSON method, and resolves to the result of the method.
 * @param operationsOf checks the operands, after the target and the column were checked
 */
export async function writeDocument(
  method: string,
  target: Target<Model>,
  column: string,
  options: JsonWriteOptions,
  operationsOf: () => readonly Operation[],
): Promise<unknown> {
  const row = identifyTarget(method, target)
  const type = jsonColumnType(method, row.model, column)
  const operations = operationsOf()
  const { if: conditions, returning, ...others } = checkJsonOptions(method, options)
  const request = { method, row, documents: [{ column, type, operations, conditions }], changes: {}, where: [] }
  const answer = returning ? 'documents' : 'nothing'
  const written = await traceCall({ method, row: row.facts }, () => writeRow(request, others, answer))
  return row.instance ?? (returning ? written.documents![0] : undefined)
}

/** What a call writes to one row. */
export interface RowRequest {
  readonly method: string
  readonly row: TargetRow
  readonly documents: readonly DocumentChange[]
  /** The changes of ordinary columns, which setters and validators have not seen yet. */
  readonly changes: Readonly<Record<string, unknown>>
  readonly where: readonly RowCondition[]
}

/** The changes of an UPDATE, checked by setters and validators. */
export interface RowChanges {
  readonly documents: readonly DocumentChange[]
  readonly columns: readonly ColumnChange[]
  readonly where: readonly RowCondition[]
  /** The number of calls in the batch; 1 without a batch. */
  readonly calls: number
  /** The time of the last call, for `updatedAt`. */
  readonly now: Date
}

/** One UPDATE of one row, for a call or for a batch of calls. */
interface AtomicWrite extends RowChanges {
  readonly row: RowRef
  /** What the call resolves to. */
  readonly answer: Answer
}

type Answer = 'nothing' | 'documents' | 'row'

/** What was stored, as far as the answer of the write has it. */
interface Written {
  /** In the order of the write's documents. */
  readonly documents?: readonly JsonValue[]
  /** Their stored texts. */
  readonly texts?: readonly (string | null)[]
  readonly row?: Row
}

type WriteOptions = Omit<JsonWriteOptions, 'if' | 'returning'>

const jsonOptionNames = ['transaction', 'returning', 'if', 'retry', 'coalesce', 'logging'] as const

/**
 * Writes changes to one row, all of them or none. The JSON methods, `atomicUpdate` and the UPDATE of `atomicUpsert` are
 * calls of this function.
 */
export function writeRow(request: RowRequest, options: WriteOptions, answer: Answer): Promise<Written> {
  const { method, row, documents, changes, where } = request
  const { session, model, instance } = row
  const { logging, coalesce: coalesced } = options
  const retry = checkRetryOptions(method, options.retry)
  if (coalesced !== undefined && typeof coalesced !== 'boolean') throw usage.coalesce(method, coalesced)
  refuseWriteBesideCheck(instance, method)
  const joined = transactionToJoin(method, session, options.transaction, instance)
  if (joined && retry) throw usage.retryJoined(method)
  const columnNames = Object.keys(changes)
  const hasColumns = columnNames.length > 0
  if (instance) {
    const columns = [...changedColumns(documents), ...columnNames]
    refuseUnsavedChanges(method, row, transactionOption(session, joined), columns)
  }
  const isOneDocument = documents.length === 1 && !hasColumns && where.length === 0
  const policy = policyOf(model)
  const isBatched = !joined && isOneDocument && row instanceof RowRef && (coalesced ?? policy.coalesce)

  const perform = async (): Promise<Written> => {
    const columns = hasColumns ? await validatedChanges(method, row, changes) : []
    const call = await startCall({ method, session, row: row.facts, transaction: joined, logging })
    refuseUnsupportedChanges(call, documents, columns)
    if (call.dialect.clampsValues) await refuseTruncation(call, model, changedColumns(documents))
    return withRows(call, [row], async ([ref], own) => {
      const needed = instance && !isKnown(call, model, columns) ? 'row' : answer
      const whole: AtomicWrite = { row: ref!, documents, columns, where, answer: needed, calls: 1, now: new Date() }
      const send = isBatched ? sendBatched : sendWrite
      const written = await send(own, whole, options)
      if (instance && !joined) applyToInstance(method, instance, whole, written)
      return written
    })
  }
  return isBatched ? trackUnsettled(session, perform) : perform()
}

/** Sends a write in the transaction that its call has joined; else as single statements, or in a transaction of its own. */
async function sendWrite(call: Call, write: AtomicWrite, { retry }: WriteOptions): Promise<Written> {
  const { method, dialect } = call
  const { row, documents, answer } = write
  const { onWrite } = policyOf(row.model)
  const opensTransaction =
    onWrite !== null ||
    (answer !== 'nothing' && dialect.matched !== undefined) ||
    documents.some((each) => !each.queue?.knowsText && isReadFirst(each, dialect))
  const statements = (context: QueryContext, state: TransactionState | undefined): Promise<Written | undefined> =>
    state
      ? state.runCall(row.looseKey, `${method}()`, () =>
          (onWrite ? updateAndNotify : updateInTransaction)(call, write, context, state),
        )
      : updateRow(call, write, context)
  const written = await execute(call, { statements }, { opensTransaction, retry })
  return written ?? (await execute(call, { statements }, { opensTransaction: true, retry }))
}

/** @throws {UnsupportedValueError} the database cannot hold a key, a value, a sum or a document exactly */
export function refuseUnsupportedChanges(
  { method, dialect }: Call,
  documents: readonly DocumentChange[],
  columns: readonly ColumnChange[],
): void {
  for (const each of documents) refuseUnsupported(method, each.column, each, dialect)
  for (const each of columns) {
    if ('plus' in each) refuseClampedSum(method, each.attribute, dialect)
    else refuseUnstorableText(method, each.attribute, each.value, dialect)
  }
}

/** The attributes whose documents a write changes, not those that it only compares. */
export function changedColumns(documents: readonly DocumentChange[]): readonly string[] {
  return documents.filter(({ operations }) => operations.length > 0).map(({ column }) => column)
}

/** Whether the new values of ordinary columns need no read: they are those of the call, or exact sums. */
function isKnown({ dialect }: Call, model: RowModel, columns: readonly ColumnChange[]): boolean {
  // Databases with RETURNING read the row in the same statement, and SQLite stores a DECIMAL as a double.
  return columns.every((each) => isValueKnown(model, each, dialect.matched !== undefined))
}

/** The write, with the row as its answer if a locked instance of the row cannot compute its new document, or a sum. */
function withNeededAnswer(call: Call, state: TransactionState, write: AtomicWrite): AtomicWrite {
  const { row, documents, columns, answer } = write
  if (answer !== 'nothing' && !row.instance) return write
  const locked = state.lockedRows.ofRow(row.key)
  const changed = documents.filter(({ operations }) => operations.length > 0)
  const canApply =
    (locked.length === 0 || isKnown(call, row.model, columns)) &&
    locked.every((each) => changed.every(({ column, operations }) => rowStateOf(each).canApply(column, operations)))
  return canApply ? write : { ...write, answer: 'row' }
}

/** A call that can go into a batch. */
interface JsonCall extends BatchableCall {
  readonly call: Call
  readonly request: AtomicWrite
}

/** The maximum size of the operands of a batch, in bytes; longer statements have no benefit. */
const maxBatchBytes = 2 ** 20

/** {@link sendWrite} for a call that may share its statement with others. */
async function sendBatched(call: Call, request: AtomicWrite, options: WriteOptions): Promise<Written> {
  const { session, dialect } = call
  const { row } = request
  const [{ column, operations }] = request.documents as readonly [DocumentChange]
  refuseSelfDeadlock(call)
  const own: JsonCall = { call, request, operations, batchKey: batchKey(request, options) }
  return coalesce(session, row.model.getAttributes(), `${column} ${row.key}`, own, {
    send: (calls, together, queue) => {
      const first = batchCall(calls)
      publishBatch(first, { column, calls: calls.length })
      return sendWrite(first, batchWrite(calls, together, queue), options)
    },
    maxBytes: Math.min(maxBatchBytes, (dialect.maxStatementBytes ?? Infinity) / 4),
    isOfOneCall: (error) =>
      error instanceof JsonShapeError ||
      error instanceof UnsupportedValueError ||
      (isRefusedByServer(error) && failureOf(error) === undefined),
  })
}

/** Steps into arrays, conditions, an answer, a log function and retry callbacks belong to one call, which is then sent alone. */
function batchKey({ row, documents, answer }: AtomicWrite, { logging, retry }: WriteOptions): string | undefined {
  const hasConditions = documents.some(({ conditions }) => conditions.length > 0)
  // The elements that a call finds depend on the calls before it.
  const findsElements = documents.some(({ operations }) => operations.some(needsElements))
  const isAlone =
    hasConditions ||
    findsElements ||
    answer !== 'nothing' ||
    typeof logging === 'function' ||
    retry?.signal ||
    retry?.onRetry
  // [Model, key] passes over a row that a paranoid model has deleted; an instance does not.
  return isAlone ? undefined : JSON.stringify({ ...retry, logging, passesOver: row.conditions.length > 0 })
}

/** The call that sends a batch: the first one. Error texts have its method, or `updateJson` if the methods differ. */
function batchCall(calls: readonly JsonCall[]): Call {
  const [{ call }] = calls as [JsonCall]
  return calls.every((each) => each.call.method === call.method) ? call : { ...call, method: 'updateJson' }
}

function batchWrite(calls: readonly JsonCall[], operations: readonly Operation[], queue: BatchQueue): AtomicWrite {
  const [{ request }] = calls as [JsonCall]
  const documents = request.documents.map((each) => ({ ...each, operations, queue }))
  return { ...request, documents, calls: calls.length, now: calls.at(-1)!.request.now }
}

/** {@link updateRow} in a transaction, whose locked instances of the row get the change before its next call. */
export async function updateInTransaction(
  call: Call,
  write: AtomicWrite,
  context: QueryContext,
  state: TransactionState,
): Promise<Written> {
  const { instance } = write.row
  const isJoined = call.transaction !== undefined
  const written = (await updateRow(call, isJoined ? withNeededAnswer(call, state, write) : write, context))!
  if (instance) state.remember(instance, context.transaction)
  applyToOthers(state, write, written)
  const columns = [...changedColumns(write.documents), ...write.columns.map(({ attribute }) => attribute)]
  if (isJoined) await markSameStale(state, write.row, columns, context)
  if (isJoined && instance) applyToInstance(call.method, instance, write, written)
  return written
}

/** {@link updateInTransaction}, and the option `onWrite` of the model: both are rolled back if one fails. */
async function updateAndNotify(
  call: Call,
  write: AtomicWrite,
  context: QueryContext,
  state: TransactionState,
): Promise<Written> {
  let refusal: Error | undefined
  const written = await inSavepoint(call, context, async (inner) => {
    let updated: Written
    try {
      updated = await updateInTransaction(call, write, inner, state)
    } catch (error) {
      // No statement has failed: a rollback would undo nothing but the writes of concurrent branches.
      if (!isLosslessError(error) || error.cause !== undefined || state.isDoomed) throw error
      refusal = error
      return {}
    }
    await notifyUpdate(call, write.row, write, inner, state)
    return updated
  })
  if (refusal) throw refusal
  return written
}

/** Sends the UPDATE until it matches the row; `undefined` as {@link updateDocuments}. */
function updateRow(call: Call, write: AtomicWrite, context: QueryContext): Promise<Written | undefined> {
  const { method } = call
  const { row, documents, columns, where } = write
  return updateDocuments(call, row, context, {
    documents,
    columns,
    where,
    send: (variants, current) =>
      sendUpdate(call, current === documents ? write : { ...write, documents: current }, variants, context),
    refusal: ({ column }, reason) =>
      'needed' in reason
        ? mismatchError(method, factsOf(call, row), column, reason, accessorsOf(row.model, column))
        : new ConditionNotMetError(method, factsOf(call, row), column, reason),
  })
}

/** An UPDATE without RETURNING. */
interface BuiltUpdate {
  readonly sql: string
  /** A SELECT of the rows on the conditions of the UPDATE. */
  readonly selection: () => string
  readonly statement: Statement
  /** The columns of its documents. */
  readonly targets: readonly Column[]
}

/**
 * Builds the UPDATE with one variant for each document.
 * @param rows its `sql` is the condition that names the rows, with binds before those of `where` only; its `hint` is SQL after
 *   the table. A {@link RowRef} has none
 */
export function buildUpdate(
  call: Call,
  model: RowModel,
  changes: RowChanges,
  variants: readonly UpdateVariant[],
  rows: { readonly sql: (statement: Statement) => string; readonly hint?: string },
  mayPad = true,
): BuiltUpdate {
  const { method, dialect, session } = call
  const { documents, columns, where } = changes
  const { prepares = false, maxBinds = Infinity } = session.connector
  const isPrepared = prepares && mayPad
  const statement = new Statement({ session, model })
  const ofDocuments = documentParts(documents, variants, isPrepared, statement)
  const { targets, prefix, hint } = ofDocuments
  let { guards } = ofDocuments
  const assignments = [...ofDocuments.assignments, ...columnAssignments(call, model, changes, statement)]
  if (assignments.length === 0) {
    // Nothing to change, in a table without updatedAt and version: the conditions are judged all the same.
    const key = statement.column(model.primaryKeyAttributes[0]!)
    assignments.push(`${key} = ${key}`)
  }
  for (const each of where) guards += ` AND ${conditionSql(each, statement)}`
  const table = rows.hint === undefined ? statement.table() : `${statement.table()} ${rows.hint}`
  const all = `${rows.sql(statement)}${guards}`
  const sql = `${prefix}UPDATE ${hint}${table} SET ${assignments.join(', ')} WHERE ${all}`
  const bytes = statement.bytes(sql, dialect.maxStatementBytes)
  const binds = statement.countBinds(sql, maxBinds)
  if (isPrepared && (bytes > (dialect.maxStatementBytes ?? Infinity) || binds > maxBinds)) {
    return buildUpdate(call, model, changes, variants, rows, false)
  }
  const named = documents[0]?.column ?? columns[0]!.attribute
  refuseTooLarge(method, named, bytes, dialect)
  refuseTooManyBinds(method, named, binds, maxBinds, dialect)
  return { sql, selection: () => `${prefix}SELECT 1 FROM ${statement.table()} WHERE ${all}`, statement, targets }
}

/** What the changes of documents add to an UPDATE, with one variant for each. */
function documentParts(
  documents: readonly DocumentChange[],
  variants: readonly UpdateVariant[],
  isPrepared: boolean,
  statement: Statement,
): Pick<BuiltUpdate, 'targets'> & {
  readonly assignments: readonly string[]
  readonly guards: string
  readonly prefix: string
  readonly hint: string
} {
  const targets: Column[] = []
  const assignments: string[] = []
  let [guards, prefix, hint] = ['', '', '']
  for (let index = 0; index < documents.length; index++) {
    const { column, type, operations, conditions } = documents[index]!
    const target = { sql: statement.column(column), type }
    targets.push(target)
    // Nothing to do, whatever the document is.
    if (operations.length + conditions.length === 0) continue
    const written = variants[index]!({ operations, conditions, isPrepared }, target, statement.bind)
    // Without operations, the write depends on the document and does not change it.
    if (operations.length > 0) assignments.push(`${target.sql} = ${written.document}`)
    guards += ` AND ${written.guard}`
    // The same for all documents that have one.
    prefix ||= written.prefix ?? ''
    hint ||= written.hint ?? ''
  }
  return { targets, assignments, guards, prefix, hint }
}

/** The assignments of an UPDATE to ordinary columns, to `updatedAt` and to the version. */
function columnAssignments(
  { dialect }: Call,
  model: RowModel,
  { columns, calls, now }: RowChanges,
  statement: Statement,
): string[] {
  const assignments = columns.map((change) => {
    const column = statement.column(change.attribute)
    const value =
      'plus' in change
        ? dialect.sum(column, statement.bind(change.plus), change.plus.includes('.') ? 'fraction' : 'integer')
        : statement.value(change.attribute, change.value)
    return `${column} = ${value}`
  })
  const updatedAt = updatedAtAttribute(model)
  if (updatedAt) assignments.push(`${statement.column(updatedAt)} = ${statement.time(updatedAt, now)}`)
  const version = versionAttribute(model)
  if (version) {
    // Each call of a batch counts: a row that has not seen the other calls is stale, and its save() must conflict.
    const by = calls === 1 ? '1' : statement.bind(calls)
    assignments.push(`${statement.column(version)} = COALESCE(${statement.column(version)}, 0) + ${by}`)
  }
  return assignments
}

async function sendUpdate(
  call: Call,
  write: AtomicWrite,
  variants: readonly UpdateVariant[],
  context: QueryContext,
): Promise<UpdateResult<Written>> {
  const { dialect, session } = call
  const { row, documents, answer } = write
  const { sql, selection, statement, targets } = buildUpdate(call, row.model, write, variants, row)
  const { binds } = statement
  if (dialect.matched) {
    const isMatched = await sendMatching(call, row, { sql, selection, binds }, context)
    if (!isMatched) return { result: isMatched === undefined ? 'unknown' : 'unmatched' }
    return { result: 'matched', answer: answer === 'nothing' ? {} : await readWritten(call, write, context) }
  }
  if (answer === 'row') {
    const read = await readRow(row, `${sql} RETURNING ${rowSelection(row, dialect, statement)}`, statement, context)
    return read ? { result: 'matched', answer: { row: read.row } } : { result: 'unmatched' }
  }
  const returned =
    answer === 'nothing'
      ? ['1']
      : targets.flatMap((target, index) => [
          `${dialect.documentText(target)} AS ${statement.alias(`text${index}`)}`,
          `${target.sql} AS ${statement.alias(`loaded${index}`)}`,
        ])
  const [found] = await sendForRows<Record<string, unknown>>(
    session,
    `${sql} RETURNING ${returned.join(', ')}`,
    binds,
    context,
  )
  if (!found) return { result: 'unmatched' }
  if (answer === 'nothing') return { result: 'matched', answer: {} }
  const stored = documents.map((_, index) => asLoaded(found[`text${index}`] as string | null, found[`loaded${index}`]))
  const texts = documents.map((_, index) => found[`text${index}`] as string | null)
  return { result: 'matched', answer: { documents: stored, texts } }
}

/** Reads what a write has stored, in its transaction, on a database without RETURNING. */
async function readWritten(
  call: Call,
  { row: { byKey: row }, documents, answer }: AtomicWrite,
  context: QueryContext,
): Promise<Written> {
  // Not from an older snapshot, if the UPDATE has changed nothing.
  if (answer === 'row') return { row: (await selectRow(row, call.dialect, context, '', call.dialect.lockClause))!.row }
  const stored: StoredDocument[] = []
  for (const each of documents) stored.push(await readDocument(call, row, each, context))
  return { documents: stored.map(({ loaded }) => loaded), texts: stored.map(({ text }) => text) }
}

/** Applies a write to the instance of the call, unless another call has locked it in the meantime, and read what was written. */
function applyToInstance(method: string, instance: Row, write: AtomicWrite, written: Written): void {
  const state = rowStateOf(instance)
  if (state.lock !== undefined && lockTransaction(instance) === undefined) return
  for (const { column, operations, document } of changedDocuments(write, written)) {
    state.applyWrite(column, operations, document)
  }
  assignMoved(write, instance, written.row, { method })
}

/** Applies a write to the other locked instances of its row. */
function applyToOthers(state: TransactionState, write: AtomicWrite, written: Written): void {
  const { row } = write
  for (const { column, operations, document } of changedDocuments(write, written)) {
    applyToOtherInstances(state, row, column, operations, document)
  }
  const moved = [...write.columns.map(({ attribute }) => attribute), ...movedAttributes(row.model)]
  for (const other of state.lockedRows.ofRow(row.key, row.instance)) {
    state.remember(other)
    assignMoved(write, other, written.row, { shared: sharedColumns(other, row.model, moved) })
  }
}

/** The attributes that every write moves. */
function movedAttributes(model: RowModel): string[] {
  return [updatedAtAttribute(model), versionAttribute(model)].filter((name) => name !== undefined)
}

/** The documents that a write changes, each as stored if the answer has it. */
function changedDocuments(
  write: AtomicWrite,
  { documents, texts, row }: Written,
): readonly (DocumentChange & { document: unknown })[] {
  return write.documents
    .map((each, index) => {
      const read = isTextInMemory(write.row.model, each.column) ? texts : documents
      return { ...each, document: row ? valuesOf(row)[each.column] : read?.[index] }
    })
    .filter(({ operations }) => operations.length > 0)
}

/**
 * Assigns the ordinary columns of an instance after a write, with `updatedAt` and the version.
 * @param shared the columns that the model of the instance declares as that of the write; `undefined`: all of them
 * @param method the method of the instance that has written the row; `undefined`: it is another instance
 */
function assignMoved(
  { row: { model }, columns, now }: AtomicWrite,
  instance: Row,
  stored: Row | undefined,
  { shared, method }: { readonly shared?: readonly string[]; readonly method?: string },
): void {
  const [updatedAt, version] = [updatedAtAttribute(model), versionAttribute(model)].map((name) =>
    name !== undefined && shared?.includes(name) === false ? undefined : name,
  )
  const seen = valuesOf(instance)
  const state = rowStateOf(instance)
  const values: Record<string, unknown> = updatedAt ? { [updatedAt]: now } : {}
  let isCurrent = true
  for (const change of columns) {
    const { attribute } = change
    if (shared?.includes(attribute) === false) continue
    const isUnknownSum = !stored && 'plus' in change && state.staleColumns.has(attribute)
    const after = stored ? valuesOf(stored)[attribute] : valueAfter(change, seen[attribute])
    if (after === undefined || isUnknownSum) continue
    // An assignment made while the write was in flight stays dirty, and its save must not overwrite the write.
    if (state.isDirty(attribute)) {
      state.markStale(attribute, method)
      isCurrent = false
    } else values[attribute] = after
  }
  // One more than in memory. It equals the stored version only if no other session wrote: a stale save() conflicts.
  const movesVersion = version && seen[version] !== undefined && (isCurrent || state.lock)
  if (movesVersion) values[version] = Number(seen[version] ?? 0) + 1
  state.assignWritten(values)
}
