import { DatabaseError, Utils } from 'sequelize'
import type { Logging, Transaction } from 'sequelize'
import { refuseTooLarge } from '../dialects/limits.js'
import { UnsupportedValueError } from '../errors/errors.js'
import { isTooDeep, mayHoldInfinity, textWithInfinity, tooDeep } from '../json/encode.js'
import { isRespelled, parseJson, tryParseJson } from '../json/json-text.js'
import { GivenDocument, respell } from '../json/respell.js'
import type { Loss, Rewrite } from '../json/respell.js'
import { refusedAttributes } from '../rows/operand-types.js'
import { RowRef } from '../rows/row-ref.js'
import { refuseTruncation } from '../rows/short-columns.js'
import type { Reader } from '../rows/short-columns.js'
import type { JsonValue } from '../json/values.js'
import { findRowState } from '../rows/row-state.js'
import type { RowState } from '../rows/row-state.js'
import { fieldOf, isSameTransaction, modelOf, valuesOf, versionAttribute } from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { documentType, isTextInMemory, jsonAttributes, policyOf } from '../sequelize/model-state.js'
import { modeOf } from '../sequelize/options.js'
import { override } from '../sequelize/override.js'
import { recogniseDialect, sendForRows } from '../sequelize/send.js'
import type { Session } from '../sequelize/session.js'
import { spelledValue } from '../sequelize/spelled-document.js'
import { Statement } from '../sequelize/statement.js'

type Values = Readonly<Record<string, unknown>>
type Update = [instance: Row | null, table: unknown, values: Values, where: object, options?: UpdateOptions]
type UpdateOptions = Logging & { readonly transaction?: Transaction | null | undefined }

/**
 * Overrides Sequelize's UPDATE of an instance: a document of a row that is locked, or whose version is compared, is
 * written with the stored digits of all numbers that did not change. JavaScript rounds them, and some drivers read a
 * long integer as a string.
 */
export function keepDigitsInSaves(session: Session): void {
  override<object, Update>(session.sequelize.getQueryInterface(), 'update', (original) => {
    return async function (...args) {
      const [instance, , values, , options = {}] = args
      const state = instance && findRowState(instance)
      if (!state) return original.apply(this, args)
      args[2] = await spellDocuments(session, state, instance, values, options)
      try {
        const answer = await original.apply(this, args)
        if (state.isSavingVersion) [, state.versionedRows] = answer as [unknown, number]
        return answer
      } catch (error) {
        throw toTextError(error, session, state, instance, values, options)
      }
    }
  })
}

/** Whether no other session can have changed the column, since it was read, when the UPDATE writes it. */
function isExclusive(state: RowState, instance: Row, column: string, { transaction }: UpdateOptions): boolean {
  const { lock, isSavingVersion } = state
  if (isSavingVersion || (lock && transaction && isSameTransaction(lock.transaction, transaction))) return true
  const model = modelOf(instance)
  if (modeOf(policyOf(model), 'save') !== 'patch') return false
  const version = versionAttribute(model)
  const isVersioned = version !== undefined && typeof valuesOf(instance)[version] === 'number'
  return isVersioned || state.isLockedSince(column, transaction)
}

/** The documents that an UPDATE writes exclusively. */
function documentsToWrite(state: RowState, instance: Row, values: Values, options: UpdateOptions): readonly string[] {
  const model = modelOf(instance)
  return [...jsonAttributes(model)].filter(
    (column) => Object.hasOwn(values, fieldOf(model, column)) && isExclusive(state, instance, column, options),
  )
}

/** The error for a column of text that cannot hold its document; any other error is that of Sequelize. */
function toTextError(
  error: unknown,
  { dialect }: Session,
  state: RowState,
  instance: Row,
  values: Values,
  options: UpdateOptions,
): unknown {
  const refused = error instanceof DatabaseError && dialect?.refusedValue(error.parent, [])
  if (!refused) return error
  const model = modelOf(instance)
  const texts = documentsToWrite(state, instance, values, options).filter(
    (column) => documentType(model, column) === 'TEXT',
  )
  const written = Object.keys(model.getAttributes()).filter((name) => Object.hasOwn(values, fieldOf(model, name)))
  const ordinary = written.filter((name) => !texts.includes(name))
  const columns = refusedAttributes(model, refused, ordinary, texts, texts)
  const own = texts.filter((name) => columns.includes(name))
  if (own.length === 0) return error
  return UnsupportedValueError.ofNewValue('save', [...new Set([...own, ...columns])], refused.misfit, error)
}

/** The length from which Sequelize does not make the text of a document again. */
const longText = 4096

/** The values of an UPDATE, with the stored spelling of all parts of its documents that did not change. */
export async function spellDocuments(
  session: Session,
  state: RowState,
  instance: Row,
  values: Values,
  options: UpdateOptions,
): Promise<Values> {
  const model = modelOf(instance)
  for (const column of jsonAttributes(model)) state.recordSentText(column, undefined)
  const written = documentsToWrite(state, instance, values, options)
  const texts = textsOf(model, written, values)
  const { dialect } = session
  // Most servers are strict: this read would cost each save some time.
  if (written.length > 0 && (!dialect || dialect.clampsValues)) {
    await refuseTruncation(await startRead(session, instance, options), model, written)
  }
  const unread = state.columnsToRead([...texts.keys()])
  for (const column of unread) {
    const text = await readText(session, instance, column, options)
    if (text !== undefined) state.recordText(column, text)
  }
  // During a read, a document can be changed in place.
  state.recordSavedTexts(unread.length === 0 ? texts : new Map())
  const sent = new Map(texts)
  const spelled: Record<string, unknown> = {}
  for (const [column, text] of texts) {
    const field = fieldOf(model, column)
    const after = values[field]
    const spelling = storedSpelling(state, model, column, text, after)
    if (spelling !== undefined) {
      state.recordSentText(column, spelling)
      sent.set(column, spelling)
    }
    const isSentAsText =
      spelling !== undefined || (typeof after === 'object' && text.length > longText && !mayHoldInfinity(text))
    if (isSentAsText) spelled[field] = spelledValue(model, column, spelling ?? text, after)
  }
  refuseLargeSave(session, instance, values, sent)
  return { ...values, ...spelled }
}

/** The documents that an UPDATE writes, as JSON text; SQL, NULL and text that is not JSON are none. */
function textsOf(model: RowModel, written: readonly string[], values: Values): ReadonlyMap<string, string> {
  const texts = new Map<string, string>()
  for (const column of written) {
    const value = values[fieldOf(model, column)] ?? null
    const isDocument = value !== null && !(value instanceof Utils.SequelizeMethod)
    const text = isDocument ? documentTextOf(model, column, value) : undefined
    if (text !== undefined) texts.set(column, text)
  }
  return texts
}

/** The text of a document with the stored spelling of all parts that did not change; `undefined` if it is JSON.stringify's. */
function storedSpelling(
  state: RowState,
  model: RowModel,
  column: string,
  text: string,
  value: unknown,
): string | undefined {
  const document = state.respelledDocument(column)
  if (!document) return undefined
  const given = givenDocument(model, column, value, document.stored)
  const spelling = respelled(column, { ...document, after: given?.document ?? parseJson(text) })
  return given?.restore(spelling) ?? spelling
}

/**
 * Checks the length of an UPDATE of Sequelize that writes a long document.
 * @throws {UnsupportedValueError} the statement is longer than max_allowed_packet
 */
function refuseLargeSave(session: Session, instance: Row, values: Values, texts: ReadonlyMap<string, string>): void {
  const { maxStatementBytes = Infinity } = session.dialect ?? {}
  const column = [...texts.keys()].find((each) => texts.get(each)!.length > maxStatementBytes / 16)
  if (column === undefined) return
  const { model, primaryKey } = RowRef.of(instance)
  const update = new Statement({ session, model })
  const byField = new Map([...texts].map(([name, text]) => [fieldOf(model, name), text]))
  const set = Object.entries(values).map(
    ([field, value]) => `${update.name(field)} = ${update.bind(byField.get(field) ?? value)}`,
  )
  const sql = `UPDATE ${update.table()} SET ${set.join(', ')} WHERE ${update.row(primaryKey)}`
  refuseTooLarge('save', column, update.bytes(sql, maxStatementBytes), session.dialect!)
}

/**
 * The text of a document that a save writes, in which unchanged parts are spelled as stored.
 * @throws {UnsupportedValueError} the change depends on a number or key that JavaScript misread, or is too deep
 */
export function respelled(column: string, rewrite: Rewrite): string {
  const result = notTooDeep(column, () => respell(rewrite))
  if ('loss' in result) throw lossError(column, result.loss)
  return result.text
}

/** @throws {UnsupportedValueError} the document is too deep for the comparisons of a save */
export function notTooDeep<R>(column: string, compare: () => R): R {
  try {
    return compare()
  } catch (error) {
    throw isTooDeep(error) ? tooDeepError('save', column, error) : error
  }
}

/**
 * The document that a save writes; `undefined` if it writes text that is not JSON.
 * @throws {UnsupportedValueError} JSON.stringify cannot write it
 */
export function writtenDocument(model: RowModel, column: string, value: unknown): JsonValue | undefined {
  const text = documentTextOf(model, column, value ?? null)
  return text === undefined ? undefined : parseJson(text)
}

/** The document of a text that the application assigned, if JavaScript would change digits of it. */
export function givenDocument(
  model: RowModel,
  column: string,
  value: unknown,
  stored: string | undefined,
): GivenDocument | undefined {
  const isGiven = isTextInMemory(model, column) && typeof value === 'string' && isRespelled(value)
  return isGiven ? new GivenDocument(value, stored) : undefined
}

/** The JSON text of a value to write; `undefined` for text that is not JSON. */
function documentTextOf(model: RowModel, column: string, value: unknown): string | undefined {
  if (!isTextInMemory(model, column) || typeof value !== 'string') return writtenText(column, value)
  return tryParseJson(value) === undefined ? undefined : value
}

function writtenText(column: string, value: unknown): string | undefined {
  try {
    return textWithInfinity(value)
  } catch (error) {
    throw unwritableError(column, error)
  }
}

/** The error for a document that is too deep for JavaScript. */
export function tooDeepError(method: string, column: string, cause?: unknown): UnsupportedValueError {
  return tooDeep(method, `"${column}"`, column, cause)
}

/** The error for a document that JavaScript cannot write as JSON. */
function unwritableError(column: string, error: unknown): unknown {
  if (isTooDeep(error)) return tooDeepError('save', column, error)
  if (!(error instanceof TypeError)) return error
  const reason = `"${column}" cannot be written as JSON (${error.message})`
  const remedy = 'Store a bigint as a string, or write it with updateJson(), and remove circular references.'
  return new UnsupportedValueError('save', reason, remedy, column, error)
}

/** The context of a read in the transaction of a save. */
async function startRead(session: Session, instance: Row, { transaction, logging }: UpdateOptions): Promise<Reader> {
  const { facts } = RowRef.of(instance)
  const context = { method: 'save', row: facts, transaction: transaction ?? undefined, logging }
  return { ...context, session, dialect: session.dialect ?? (await recogniseDialect(session, context)) }
}

async function readText(
  session: Session,
  instance: Row,
  column: string,
  options: UpdateOptions,
): Promise<string | undefined> {
  const { model, primaryKey } = RowRef.of(instance)
  const context = await startRead(session, instance, options)
  const { dialect } = context
  const select = new Statement({ session, model })
  const text = dialect.documentText({ sql: select.column(column), type: documentType(model, column) })
  const sql = `SELECT ${text} AS ${select.alias('document')} FROM ${select.table()} WHERE ${select.row(primaryKey)} ${dialect.lockClause}`
  const [row] = await sendForRows<{ document: string | null }>(session, sql, select.binds, context)
  return row?.document ?? undefined
}

const losses: Readonly<Record<Loss, string>> = {
  number: 'holds a number that JavaScript cannot represent, and this change moves or copies it',
  key: 'has a key that this version of Node.js misreads (nodejs/node#63785), and this change depends on it',
}

/** The error for a document that a save would write with lost digits or a wrong key. */
export function lossError(column: string, loss: Loss): UnsupportedValueError {
  const remedy = 'Change the document with updateJson(), which does not read it.'
  return new UnsupportedValueError('save', `"${column}" ${losses[loss]}`, remedy, column)
}
