import { Utils } from 'sequelize'
import type { Transaction } from 'sequelize'
import { usage } from '../errors/usage.js'
import { parseJson } from '../json/json-text.js'
import type { JsonValue } from '../json/values.js'
import { isSameDocument } from '../rows/document-text.js'
import { keyNamedIn, RowRef } from '../rows/row-ref.js'
import { rowStateOf } from '../rows/row-state.js'
import {
  attributesOf,
  fieldOf,
  holdsLock,
  isChanged,
  isOfLibrary,
  isRolledBack,
  modelOf,
  outermostOf,
  sequelizeInternals,
  sequelizeOf,
  uniqueKeysOf,
  valuesOf,
  versionAttribute,
} from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { documentType, isTextInMemory, jsonAttributes, policyOf } from '../sequelize/model-state.js'
import { checkedBy, modeOf } from '../sequelize/options.js'
import type { LosslessOptions, Policy, WriteModes } from '../sequelize/options.js'
import { sessionOfModel } from '../sequelize/session.js'
import type { JudgedWrite, Session, WriteRecorder } from '../sequelize/session.js'
import { transactionOption } from '../transactions/join.js'
import { givenDocument, tooDeepError, writtenDocument } from '../transactions/save-digits.js'
import { findTransactionState, transactionStateOf } from '../transactions/transaction-state.js'
import { callSite } from './call-options.js'
import type { CallOptions } from './call-options.js'
import { lockingReadOf } from './locking-reads.js'
import { patchRow } from './patch.js'
import type { EditedColumn, RowUpdate } from './patch.js'
import { reasonOfBulkWrite, reasonOfExpression, reasonOfSave } from './reasons.js'
import type { Reason } from './reasons.js'
import { detailsOfBulkWrite, detailsOfSave, reportOrThrow } from './report.js'
import type { BulkWrite } from './report.js'

/** Values by database column name. */
export type Fields = Readonly<Record<string, unknown>>

/** The attributes other than JSON that an audit in progress looks at. */
export function watchedColumns(model: RowModel): readonly string[] {
  return sessionOfModel(model).audit?.columns[model.name] ?? []
}

export function isIdle({ wholeColumnWrites = 'allow' }: LosslessOptions): boolean {
  return wholeColumnWrites === 'allow'
}

/** The policy for a model's writes, or for one kind of them; `undefined` where they are allowed, and not audited. */
export function activePolicy(model: RowModel, options?: CallOptions, kind?: keyof WriteModes): Policy | undefined {
  const policy = policyOf(model)
  const isAllowed = kind ? modeOf(policy, kind) === 'allow' : isIdle(policy)
  if (options?.wholeColumnWrites === 'allow') return undefined
  return !isAllowed || sessionOfModel(model).audit ? policy : undefined
}

/** @throws {UsageError} a call has another mode than `'allow'`, which only `lossless()` takes */
function checkIntent(method: string, { wholeColumnWrites: intent }: CallOptions): void {
  if (intent !== undefined && intent !== 'allow') throw usage.intent(method, intent)
}

/** The options of a statement that the guard has checked; an audit in progress passes it over. */
export function asChecked<O extends CallOptions>(model: RowModel, options: O): O {
  return sessionOfModel(model).audit ? { ...options, [checkedBy]: 'guard' } : options
}

/**
 * Checks a write of rows that were not loaded.
 * @param assigned the values that the statement assigns to existing rows
 */
export function checkBulkWrite(
  method: BulkWrite['method'],
  assigned: () => readonly Fields[],
  { where = {}, records }: { readonly where?: object | undefined; readonly records?: readonly Fields[] },
  options: CallOptions = {},
): void {
  const { model, transaction } = options
  if (!model) return
  checkIntent(method, options)
  const session = sessionOfModel(model)
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

/** Whether an UPDATE increments the version of a model, from the one that its condition names. */
function comparesVersion(model: RowModel, where: object, values: Fields): boolean {
  const version = versionAttribute(model)
  if (version === undefined) return false
  const field = fieldOf(model, version)
  const compared = wholeNumber((where as Fields)[field])
  const { [field]: value } = values
  if (compared === undefined) return false
  return value instanceof Utils.Literal ? addsTo(field, String(value.val)) : (wholeNumber(value) ?? compared) > compared
}

function wholeNumber(value: unknown): bigint | undefined {
  const isText = typeof value === 'string' && /^-?\d+$/.test(value)
  return isText || typeof value === 'bigint' || Number.isSafeInteger(value) ? BigInt(value as string) : undefined
}

/** Whether SQL adds a positive number to a column, and does nothing else: `version + 1`, in any quotes. */
function addsTo(field: string, sql: string): boolean {
  const terms = sql.replace(/["`[\]()\s]/g, '').split('+')
  const others = terms.filter((term) => !/^0*[1-9]\d*$/.test(term))
  const [name] = others.map((term) => term.replace(/^([\w$]+\.)+/, ''))
  return terms.length === 2 && others.length === 1 && name!.toLowerCase() === field.toLowerCase()
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

/** A save, as the guard receives it. */
type Save = RowUpdate & { readonly options: CallOptions }

/** Checks an UPDATE of a row that was loaded, and sends it, as a whole or as a patch. */
export function save(update: Save): Promise<unknown> {
  const { instance, options } = update
  checkIntent('save', options)
  const policy = activePolicy(modelOf(instance), options, 'save')
  const send = (): Promise<unknown> => checkAndSend(update, policy)
  const isPatching = policy && modeOf(policy, 'save') === 'patch'
  return isPatching ? afterPatchInFlight(instance, options.transaction, send) : send()
}

/** Runs concurrent patched saves of one instance one after the other: each starts from the result of the one before. */
async function afterPatchInFlight<R>(
  instance: Row,
  transaction: Transaction | null | undefined,
  write: () => Promise<R>,
): Promise<R> {
  const state = rowStateOf(instance)
  const outermost = transaction ? outermostOf(transaction) : undefined
  const before = state.patchInFlight
  let settle: () => void
  const settled = new Promise<void>((resolve) => (settle = resolve))
  state.patchInFlight = { outermost, settled }
  try {
    // Do not wait for a save in another transaction: it may wait for a lock that this transaction holds.
    if (before && before.outermost === outermost) await before.settled
    return await write()
  } finally {
    settle!()
  }
}

async function checkAndSend(update: Save, policy: Policy | undefined): Promise<unknown> {
  const { instance, values, options, send } = update
  const model = modelOf(instance)
  const session = sessionOfModel(model)
  const state = rowStateOf(instance)
  const mode = policy ? modeOf(policy, 'save') : 'allow'
  const written = wholeColumns(model, values)
  const version = versionAttribute(model)
  // In SQL, NULL equals no other NULL.
  const isVersioned = version !== undefined && valuesOf(instance)[version] !== null && !holdsUndoneWrite(instance)
  const isCovered = (column: string): boolean => isVersioned || state.isLockedSince(column, options.transaction)
  const atRisk = mode === 'allow' ? [] : written.filter((column) => !isCovered(column))
  const isPatched = mode === 'patch' && atRisk.length > 0
  const edits = isPatched ? atRisk.map((column) => editOf(instance, column, values)) : []
  for (const [index, column] of atRisk.entries()) {
    if (edits[index]) continue
    const call = { method: 'save', model: model.name, column }
    reportOrThrow(session, { ...policy!, mode }, options, call, (option) =>
      detailsOfSave(instance, column, editOf(instance, column, values), option),
    )
  }
  auditSave(session, update, (column) => {
    if (!jsonAttributes(model).has(column)) return isVersioned || isRowLockedSince(instance, options.transaction)
    return isCovered(column) || (isPatched && atRisk.includes(column))
  })
  const done = recordWrite(instance, written, values, options, !isPatched)
  const recordAnswer = trackAnswer(instance, options, written)
  const result = isPatched ? await patchRow(update, edits as EditedColumn[], policy?.conflicts) : await send(values)
  // Sequelize rejects the save: nothing was written, and no row was locked.
  if (version !== undefined && (result as [unknown, number])[1] < 1) return result
  done()
  recordAnswer()
  if (!isPatched) unlockOthers(instance, values, options)
  // What the database has computed is not known. In a locked row, it was read.
  for (const column of state.lock ? [] : jsonAttributes(model)) {
    if (values[fieldOf(model, column)] instanceof Utils.SequelizeMethod) state.forget(column)
  }
  return result
}

/** What the answer of a statement (RETURNING) puts into an instance; false on a database without. */
function answeredBy(model: RowModel, returning: unknown): unknown {
  return sequelizeInternals(sequelizeOf(model)).dialect.supports.returnValues ? returning : false
}

/**
 * Snapshots which documents an instance has. The returned function records those that the answer of a statement has replaced
 * since, as read; if the application has changed one of them, too, its stored value is no longer known.
 * @param written the columns that the statement writes
 */
export function trackAnswer(
  instance: Row,
  { returning, transaction }: CallOptions,
  written: readonly string[] = [],
): () => void {
  const before = new Map<string, unknown>()
  if (answeredBy(modelOf(instance), returning)) {
    for (const column of jsonAttributes(modelOf(instance))) {
      if (!written.includes(column)) before.set(column, valuesOf(instance)[column])
    }
  }
  return () => {
    const state = rowStateOf(instance)
    for (const [column, value] of before) {
      if (valuesOf(instance)[column] === value) continue
      if (isChanged(instance, column)) state.forget(column)
      // The statement has locked the row until its transaction ends.
      else state.recordRead([column], transaction ?? state.lock?.transaction)
    }
  }
}

/** Passes a save to an audit in progress. */
function auditSave(session: Session, { instance, values, options }: Save, isSafe: (column: string) => boolean): void {
  if (!session.audit) return
  const model = modelOf(instance)
  const option = transactionOption(session, options.transaction ?? undefined)
  const reasonOf = (column: string): Reason | undefined =>
    isSafe(column) ? undefined : reasonOfSave(instance, options.transaction)
  recordJudgement(session.audit, model, [values], options, reasonOf, (column) => {
    const edit = jsonAttributes(model).has(column) ? editOf(instance, column, values) : undefined
    return { method: 'save', ...detailsOfSave(instance, column, edit, option) }
  })
}

/** Whether `transaction` has kept other sessions from changing the row since this instance was read. */
function isRowLockedSince(instance: Row, transaction: Transaction | null | undefined): boolean {
  const lockedIn = lockingReadOf(instance)?.transaction ?? rowStateOf(instance).lock?.transaction
  return holdsLock(transaction, lockedIn)
}

/** Snapshots the sent values of `columns`. Call the returned function after the statement has succeeded. */
export function recordWrite(
  instance: Row,
  columns: readonly string[],
  values: Fields,
  { returning, transaction }: CallOptions,
  isWhole = true,
): () => void {
  const model = modelOf(instance)
  const answered = answeredBy(model, returning)
  const written = columns.map((column) => [column, values[fieldOf(model, column)]] as const)
  const done = rowStateOf(instance).recordWrite(Object.fromEntries(written), {
    transaction,
    isWhole,
    isAnswered: (column) => (Array.isArray(answered) ? answered.includes(fieldOf(model, column)) : Boolean(answered)),
  })
  return () => {
    done()
    noteWrite(instance, transaction)
    if (isWhole && transaction && columns.length > 0)
      transactionStateOf(transaction).addLockedRow(instance, transaction)
  }
}

/** Remembers the transaction that has moved the version of an instance; one with a call of this library does it itself. */
export function noteWrite(instance: Row, transaction: Transaction | null | undefined): void {
  if (!transaction || findTransactionState(transaction)?.dialect || holdsUndoneWrite(instance)) return
  rowStateOf(instance).lastTransaction = transaction
}

/** Records that a read has replaced the version of an instance. */
export function noteRead(instance: Row): void {
  if (holdsUndoneWrite(instance)) rowStateOf(instance).lastTransaction = undefined
}

/** Whether the version of an instance may be of a write that was rolled back; another session may have stored the same. */
function holdsUndoneWrite(instance: Row): boolean {
  const { lastTransaction } = rowStateOf(instance)
  return lastTransaction !== undefined && isRolledBack(lastTransaction) && !isOfLibrary(lastTransaction)
}

/** {@link unlockOutdated} after a save of one of the instances. */
function unlockOthers(instance: Row, values: Fields, options: CallOptions): void {
  const { model, primaryKey } = RowRef.of(instance)
  const where = Object.fromEntries(Object.entries(primaryKey).map(([name, value]) => [fieldOf(model, name), value]))
  unlockOutdated([values], where, { ...options, model }, instance)
}

/**
 * Records, for the locked instances of rows, that a statement has stored other documents: a save of one, which would overwrite
 * them, is not protected by the lock. In a transaction with a call of this library, the instances are refreshed instead.
 * @param where the conditions of the statement, by column
 */
export function unlockOutdated(
  assigned: readonly Fields[],
  where: Fields,
  { model, transaction }: CallOptions,
  writer?: Row,
): void {
  const state = findTransactionState(transaction)
  if (!model || !state || state.dialect || modeOf(policyOf(model), 'save') === 'allow') return
  const primaryKey = keyNamedIn(model, where)
  const isOne = Object.keys(primaryKey).length === model.primaryKeyAttributes.length
  const { lockedRows } = state
  const rows = isOne ? lockedRows.ofRow(new RowRef(model, primaryKey).key, writer) : lockedRows.ofTable(model)
  for (const column of jsonAttributes(model)) {
    const field = fieldOf(model, column)
    const written = assigned.filter((each) => Object.hasOwn(each, field))
    for (const row of written.length > 0 ? rows : []) {
      const rowState = rowStateOf(row)
      const known = rowState.storedText(column)
      const isKnown =
        isOne && written.every((each) => isSameDocument(rowState.textOf(column, each[field]), known ?? ''))
      if (!isKnown) rowState.recordLock([column], undefined)
    }
  }
}

/** The JSON attributes with a known value in a new row: all that SQL does not compute. */
export function storedColumns(model: RowModel, values: Fields): string[] {
  return [...jsonAttributes(model)].filter((name) => !(values[fieldOf(model, name)] instanceof Utils.SequelizeMethod))
}

/** The JSON attributes that these values write as a whole. */
function wholeColumns(model: RowModel, values: Fields): string[] {
  return storedColumns(model, values).filter((column) => Object.hasOwn(values, fieldOf(model, column)))
}

export function pick(values: Fields, fields: readonly string[]): Fields {
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
