import type { Model } from 'sequelize'
import { connectorOf } from '../dialects/connector.js'
import type { Column, UpdateVariant } from '../dialects/dialect.js'
import { refuseTooLarge, refuseUnsupported } from '../dialects/limits.js'
import { checkOptions } from '../errors/check-options.js'
import { ConditionNotMetError, JsonShapeError, UnsupportedValueError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { isCondition } from '../json/operation.js'
import type { Operation } from '../json/operation.js'
import { applyAll } from '../json/semantics.js'
import type { JsonValue } from '../json/values.js'
import { identifyRow, jsonColumnType } from '../rows/row-ref.js'
import type { RowRef, Target } from '../rows/row-ref.js'
import { assignStored, findRowState, refuseUnsavedChanges, rowStateOf } from '../rows/row-state.js'
import { updatedAtAttribute, valuesOf, versionAttribute } from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import { policyOf } from '../sequelize/model-state.js'
import { failureOf, isRefusedByServer, sendForHeader, sendForRows } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import { Statement } from '../sequelize/statement.js'
import { startCall } from '../transactions/call.js'
import type { Call } from '../transactions/call.js'
import { execute } from '../transactions/execute.js'
import { lockTransaction, transactionToJoin } from '../transactions/join.js'
import { applyToOtherInstances } from '../transactions/other-instances.js'
import { checkRetryOptions } from '../transactions/retry.js'
import type { TransactionState } from '../transactions/transaction-state.js'
import { refuseSelfDeadlock } from '../transactions/writer-queue.js'
import { coalesce, trackUnsettled } from './coalesce.js'
import type { BatchableCall } from './coalesce.js'
import type { JsonWriteOptions } from './options.js'
import { asLoaded, readDocument, updateDocuments } from './update-document.js'
import type { DocumentChange, DocumentColumn, UpdateResult } from './update-document.js'

/** A reference to the document that a call changes. */
interface DocumentRef extends DocumentColumn {
  readonly method: string
  readonly row: RowRef
}

/** Resolves a target and a column to a document. */
export function identifyDocument(method: string, target: Target<Model>, column: string): DocumentRef {
  const row = identifyRow(method, target)
  return { method, row, column, type: jsonColumnType(method, row.model, column) }
}

/** One UPDATE of one document, for a call or for a batch of calls. */
interface JsonWrite extends DocumentChange {
  readonly row: RowRef
  /** The number of calls in the batch; 1 without a batch. */
  readonly calls: number
  /** The time of the last call, for `updatedAt`. */
  readonly now: Date
}

const optionNames = ['transaction', 'returning', 'if', 'retry', 'coalesce', 'logging'] as const

/** Checks the options of a JSON method, writes its operations, and resolves to the result of the method. */
export function write(
  { method, row, column, type }: DocumentRef,
  operations: readonly Operation[],
  options: JsonWriteOptions,
): Promise<unknown> {
  const { session, model, instance } = row
  const checked = checkOptions(method, options, optionNames)
  const { returning = false, logging, if: conditions = [] } = checked
  const retry = checked.retry === undefined ? undefined : checkRetryOptions(method, checked.retry)
  if (!Array.isArray(conditions) || !conditions.every(isCondition)) throw usage.conditions(method, conditions)
  if (!['undefined', 'boolean'].includes(typeof checked.coalesce)) throw usage.coalesce(method, checked.coalesce)
  const { writesRefusedBy } = findRowState(instance) ?? {}
  if (writesRefusedBy !== undefined) throw usage.writeInside(writesRefusedBy, method)
  const joined = transactionToJoin(method, session, checked.transaction, instance)
  if (joined && retry) throw usage.retryJoined(method)
  refuseUnsavedChanges(method, row, column)
  const isBatched = !joined && (checked.coalesce ?? policyOf(model).coalesce)
  const request: JsonWrite = { row, column, type, operations, conditions, calls: 1, now: new Date() }

  const perform = async (): Promise<unknown> => {
    const call = await startCall({ method, session, row: row.facts, transaction: joined, logging })
    refuseUnsupported(method, column, request, call.dialect)
    const send = (own: Call, write: JsonWrite): Promise<JsonValue | undefined> => {
      const opensTransaction = returning && call.dialect.matched !== undefined
      const update = async (
        context: QueryContext,
        state: TransactionState | undefined,
      ): Promise<JsonValue | undefined> => {
        const document = await updateDocument(own, write, context, returning)
        if (state && instance) state.remember(instance, context.transaction)
        for (const other of state ? applyToOtherInstances(state, row, column, operations, document) : []) {
          assignStored(other, movedAttributes(write, other))
        }
        // Before the next call in the transaction, which may save the instance.
        if (joined && instance) applyToInstance(instance, write, document)
        return document
      }
      const statements: typeof update = (context, state) =>
        state ? state.runCall(row.key, `${method}()`, () => update(context, state)) : update(context, state)
      return execute(own, { statements }, { opensTransaction, retry })
    }
    const document = isBatched ? await sendBatched(call, request, checked, send) : await send(call, request)
    if (!instance) return document
    if (!joined) applyToInstance(instance, request, document)
    return instance
  }
  return isBatched ? trackUnsettled(session, perform()) : perform()
}

/** A call of one of the JSON methods that can go into a batch. */
interface JsonCall extends BatchableCall {
  readonly call: Call
  readonly request: JsonWrite
}

/** The maximum size of the operands of a batch, in bytes; longer statements have no benefit. */
const maxBatchBytes = 2 ** 20

async function sendBatched(
  call: Call,
  request: JsonWrite,
  options: JsonWriteOptions,
  send: (call: Call, request: JsonWrite) => Promise<JsonValue | undefined>,
): Promise<JsonValue | undefined> {
  const { method, session, dialect } = call
  const { row, column, operations } = request
  refuseSelfDeadlock(method, session.sequelize, dialect)
  const own: JsonCall = { call, request, operations, batchKey: batchKey(request, options) }
  return coalesce(session, row.model.getAttributes(), `${column} ${row.key}`, own, {
    send: (calls, together) => send(batchCall(calls), batchWrite(calls, together)),
    maxBytes: Math.min(maxBatchBytes, (dialect.maxStatementBytes ?? Infinity) / 4),
    isOfOneCall: (error) =>
      error instanceof JsonShapeError ||
      error instanceof UnsupportedValueError ||
      (isRefusedByServer(error) && failureOf(error) === undefined),
  })
}

/** Conditions, `returning`, a log function and retry callbacks belong to one call, which is then sent alone. */
function batchKey({ conditions }: JsonWrite, { returning, logging, retry }: JsonWriteOptions): string | undefined {
  const isAlone = conditions.length > 0 || returning || typeof logging === 'function' || retry?.signal || retry?.onRetry
  return isAlone ? undefined : JSON.stringify({ ...retry, logging })
}

/** The call that sends a batch: the first one. Error texts have its method, or `updateJson` if the methods differ. */
function batchCall(calls: readonly JsonCall[]): Call {
  const [{ call }] = calls as [JsonCall]
  return calls.every((each) => each.call.method === call.method) ? call : { ...call, method: 'updateJson' }
}

function batchWrite(calls: readonly JsonCall[], operations: readonly Operation[]): JsonWrite {
  const [{ request }] = calls as [JsonCall]
  return { ...request, operations, calls: calls.length, now: calls.at(-1)!.request.now }
}

/** Sends the UPDATE until it matches the row; with `returning`, returns the document after it. */
async function updateDocument(
  call: Call,
  write: JsonWrite,
  context: QueryContext,
  returning: boolean,
): Promise<JsonValue | undefined> {
  const { method } = call
  const { row, column } = write
  const outcome = await updateDocuments(call, row, context, {
    documents: [write],
    send: ([variant], [conditions]) =>
      sendUpdate(call, { ...write, conditions: conditions! }, variant!, context, returning),
    refusal: (_document, reason) =>
      'needed' in reason
        ? new JsonShapeError(method, row.facts, column, reason)
        : new ConditionNotMetError(method, row.facts, column, reason),
  })
  return 'answer' in outcome ? outcome.answer : outcome.stored[0]!.loaded
}

async function sendUpdate(
  call: Call,
  write: JsonWrite,
  variant: UpdateVariant,
  context: QueryContext,
  returning: boolean,
): Promise<UpdateResult<JsonValue | undefined>> {
  const { method, dialect, session } = call
  const { sequelize } = session
  const { row, column, type, operations, conditions, calls, now } = write
  const { model, primaryKey } = row
  const statement = new Statement(model)
  const target: Column = { sql: statement.column(column), type }
  const { isPrepared = connectorOf(sequelize.getDialect()).prepares === true } = write
  const { document, guard, prefix = '' } = variant({ operations, conditions, isPrepared }, target, statement.bind)
  const assignments = [`${target.sql} = ${document}`]
  const updatedAt = updatedAtAttribute(model)
  if (updatedAt) assignments.push(`${statement.column(updatedAt)} = ${statement.time(updatedAt, now)}`)
  const version = versionAttribute(model)
  if (version) {
    // Each call of a batch counts: a row that has not seen the other calls is stale, and its save() must conflict.
    const by = calls === 1 ? '1' : statement.bind(calls)
    assignments.push(`${statement.column(version)} = COALESCE(${statement.column(version)}, 0) + ${by}`)
  }
  const sql = `${prefix}UPDATE ${statement.table()} SET ${assignments.join(', ')} WHERE ${statement.row(primaryKey)} AND ${guard}`
  const bytes = statement.bytes(sql, dialect.maxStatementBytes)
  if (isPrepared && bytes > (dialect.maxStatementBytes ?? Infinity)) {
    return sendUpdate(call, { ...write, isPrepared: false }, variant, context, returning)
  }
  refuseTooLarge(method, column, bytes, dialect)

  if (!dialect.matched) {
    const answer = returning
      ? `${dialect.documentText(target)} AS ${statement.name('document')}, ${target.sql} AS ${statement.name('loaded')}`
      : '1'
    const [found] = await sendForRows<{ document: string | null; loaded: unknown }>(
      sequelize,
      `${sql} RETURNING ${answer}`,
      statement.binds,
      context,
    )
    if (!found) return { result: 'unmatched' }
    return { result: 'matched', answer: returning ? asLoaded(found.document, found.loaded) : undefined }
  }
  const isMatched = dialect.matched(await sendForHeader(sequelize, sql, statement.binds, context))
  if (!isMatched) return { result: isMatched === undefined ? 'unknown' : 'unmatched' }
  const answer = returning ? (await readDocument(call, row, write, context)).loaded : undefined
  return { result: 'matched', answer }
}

/** Applies a write to the instance of the call; keeps its document if another call has locked it in the meantime. */
function applyToInstance(instance: Row, write: JsonWrite, document: JsonValue | undefined): void {
  const state = rowStateOf(instance)
  const isLockedElsewhere = state.lock !== undefined && lockTransaction(instance) === undefined
  if (!isLockedElsewhere) state.applyWrite(write.column, (before) => applyAll(write.operations, before), document)
  assignStored(instance, movedAttributes(write, instance))
}

/** `updatedAt` and the version of an instance after a write. */
function movedAttributes({ row: { model }, now }: JsonWrite, instance: Row): Record<string, unknown> {
  const updatedAt = updatedAtAttribute(model)
  const version = versionAttribute(model)
  const seen = valuesOf(instance)
  return {
    ...(updatedAt && { [updatedAt]: now }),
    // One more than in memory. It equals the stored version only if no other session wrote: a stale save() conflicts.
    ...(version && seen[version] !== undefined && { [version]: Number(seen[version] ?? 0) + 1 }),
  }
}
