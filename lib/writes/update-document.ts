import { DatabaseError } from 'sequelize'
import type { Change, Column, Dialect, RefusedValue, UpdateVariant } from '../dialects/dialect.js'
import {
  findInexactSum,
  refuseCharacterSet,
  refuseInexactSums,
  refuseTooDeep,
  refuseUnreturned,
  refuseTooLarge,
} from '../dialects/limits.js'
import {
  ConditionNotMetError,
  ConflictError,
  JsonShapeError,
  notJson,
  RowNotFoundError,
  UnknownOutcomeError,
  UnsupportedValueError,
} from '../errors/errors.js'
import type { RowFacts } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { textAfterOperations, countKeys } from '../json/change-text.js'
import { parseJson, tryParseJson, withRightKeys } from '../json/json-text.js'
import type { Condition } from '../json/operation.js'
import {
  comparesInside,
  entersArray,
  findMismatch,
  findsElements,
  inStoredSpelling,
  isOfRootArray,
  meets,
  placed,
} from '../json/semantics.js'
import type { Mismatch } from '../json/semantics.js'
import { jsonType } from '../json/values.js'
import type { JsonValue } from '../json/values.js'
import { refusedAttributes } from '../rows/operand-types.js'
import { columnsOf, conditionSql } from '../rows/row-conditions.js'
import type { RowCondition } from '../rows/row-conditions.js'
import type { RowRef } from '../rows/row-ref.js'
import { fieldOf, versionAttribute } from '../sequelize/internals.js'
import { failureOf, sendForHeader, sendForRows } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import type { BatchQueue } from '../sequelize/session.js'
import { Statement } from '../sequelize/statement.js'
import { factsOf } from '../transactions/execute.js'
import type { Call } from '../transactions/execute.js'
import { takeWriteLock } from '../transactions/lock-wait.js'
import type { ColumnChange } from './columns.js'

/** An attribute that holds documents, and the type of its column. */
export interface DocumentColumn {
  readonly column: string
  readonly type: Column['type']
}

/** The change of one document in an UPDATE. */
export interface DocumentChange extends DocumentColumn, Change {
  /** The queue of the batch, which keeps the text that a batch wrote for the next one. */
  readonly queue?: BatchQueue
}

/**
 * The result of an UPDATE. `'unknown'`: outside a transaction it matched no row, or it matched a row and changed nothing, and
 * the driver counts only changed rows.
 */
export type UpdateResult<R> =
  { readonly result: 'matched'; readonly answer: R } | { readonly result: 'unmatched' | 'unknown' }

/** A stored document. */
export interface StoredDocument {
  /** The stored text, which no driver has parsed or rounded. */
  readonly text: string
  readonly document: JsonValue
  /** The document as a finder of Sequelize reads it: some drivers read long integers as text. */
  readonly loaded: JsonValue
}

/** An UPDATE of one row that changes some of its documents. */
interface DocumentUpdate<R, D extends DocumentChange> {
  readonly documents: readonly D[]
  /** The changes of ordinary columns. */
  readonly columns?: readonly ColumnChange[]
  /** The conditions on ordinary columns. */
  readonly where?: readonly RowCondition[]
  /** Sends the UPDATE of the documents, whose conditions may be spelled as stored, with one variant for each. */
  readonly send: (variants: readonly UpdateVariant[], documents: readonly D[]) => Promise<UpdateResult<R>>
  /** The error for a document, stored as `text`, that an operation does not fit, or that does not meet a condition. */
  readonly refusal: (document: DocumentChange, reason: Mismatch | Condition, text: string) => Error
}

/** The maximum number of rounds, each lost to another writer that replaced the document. */
const maxRounds = 5

/**
 * Sends the variants of an UPDATE until one matches its row, or finds the reason why none does.
 * @returns the answer of the UPDATE; outside a transaction `undefined` if the driver cannot say whether the UPDATE matched the
 *   row, which meets every condition, or if a batch has to read its document first: then call again in a transaction
 * @throws {RowNotFoundError} the row does not exist
 * @throws {ConditionNotMetError} the row does not meet a condition on its ordinary columns
 * @throws {ConflictError} another writer replaced the document in every round, or the database skips the row
 * @throws {UnsupportedValueError} the database cannot hold the sum of an increment exactly, or cannot read the stored
 *   document
 * @throws {UnknownOutcomeError} the connection was lost after a write outside a transaction was sent
 */
export async function updateDocuments<R, D extends DocumentChange>(
  call: Call,
  ref: RowRef,
  context: QueryContext,
  { documents, columns: changes = [], where = [], send, refusal }: DocumentUpdate<R, D>,
): Promise<R | undefined> {
  const { method, dialect } = call
  const queue = documents[0]?.queue
  if (queue?.knowsText) {
    const sent = await sendAfterBatch(call, ref, context, { documents, columns: changes, send })
    if (sent.result === 'matched') return sent.answer
  }
  // The document has another text, the change does not fit it, or this is a second attempt: a locking read comes first.
  if (queue && !context.transaction && isReadFirst(documents[0]!, dialect)) return undefined
  let current = documents
  const replaced = new Map<DocumentChange, UpdateVariant>()
  let before: string | undefined
  let isUnchanged = true
  for (let round = 1; round <= maxRounds; round++) {
    let canTell = true
    const readFirst = context.transaction ? documents.filter((each) => isReadFirst(each, dialect)) : []
    const whole = readFirst.length > 0 ? await wholeDocuments(call, ref, readFirst, context, replaced) : replaced
    for (const variants of whole ? variantsOf(documents, dialect, whole) : []) {
      let sent: UpdateResult<R>
      try {
        sent = await send(variants, current)
      } catch (error) {
        throw toWriteError(error, call, ref, { documents, columns: changes }, context)
      }
      if (sent.result === 'matched') return sent.answer
      canTell &&= sent.result === 'unmatched'
    }
    if (documents.length === 0 || where.length > 0) await checkColumns(call, ref, where, context)
    const stored = await readFitting(call, ref, documents, context, refusal)
    if (!canTell) return undefined
    current = documents.map((each, index) => ({
      ...each,
      conditions: each.conditions.map((condition) => inStoredSpelling(condition, stored[index]!.text)),
    }))
    const now = JSON.stringify(stored.map(({ text }) => text))
    isUnchanged &&= before === undefined || now === before
    before = now
    for (const [index, each] of documents.entries()) {
      const { text } = stored[index]!
      if (isComputedHere(each, text, dialect) && text !== 'null') {
        replaced.set(each, replacementOf(textAfterOperations(text, each.operations), text, dialect))
      } else await normalizeDocument(call, ref, each, context, text)
    }
  }
  const columns = [...documents.map(({ column }) => column), ...changes.map(({ attribute }) => attribute)]
  if (isUnchanged && dialect.skipsRows) {
    throw ConflictError.skipped(method, ref.facts, columns, dialect.skipsRows('UPDATE'))
  }
  throw new ConflictError(
    method,
    ref.facts,
    `other writers that replaced ${columns.map((column) => `"${column}"`).join(', ')} as a whole in each of ${maxRounds} attempts`,
    ConflictError.remedy(method, context.transaction !== undefined),
  )
}

/**
 * Reads the stored documents that an UPDATE did not match.
 * @returns the documents, if another writer must have changed one in the meantime
 * @throws the error of `refusal` for the first document that a change does not fit
 */
async function readFitting(
  call: Call,
  ref: RowRef,
  documents: readonly DocumentChange[],
  context: QueryContext,
  refusal: DocumentUpdate<unknown, DocumentChange>['refusal'],
): Promise<readonly StoredDocument[]> {
  const { method, dialect } = call
  const stored: StoredDocument[] = []
  for (const each of documents) stored.push(await readDocument(call, ref, each, context))
  for (const [index, each] of documents.entries()) {
    const { text } = stored[index]!
    refuseTooDeep(method, each.column, text, dialect)
    const reason = reasonAgainst(each, stored[index]!)
    if (reason) throw refusal(each, reason, text)
    refuseInexactSums(method, each.column, each, text, dialect)
  }
  return stored
}

/**
 * Translates the error of a write: the connection was lost outside a transaction, a column cannot hold its new value, or the
 * database cannot read the stored document.
 */
export function toWriteError(
  error: unknown,
  call: Call,
  row: Pick<RowRef, 'facts' | 'model'>,
  changes: { documents: readonly DocumentColumn[]; columns: readonly ColumnChange[] },
  { transaction }: QueryContext,
): unknown {
  const { method, dialect } = call
  const facts = factsOf(call, row)
  if (!transaction && failureOf(error) === 'lost') return new UnknownOutcomeError(method, facts, 'the write', error)
  if (!(error instanceof DatabaseError)) return error
  const binds = (error as { parameters?: readonly unknown[] }).parameters ?? []
  const refused = dialect.refusedValue(error.parent, binds)
  const columns = refused ? refusedColumns(row, refused, changes, binds) : []
  if (refused && columns.length > 0) return UnsupportedValueError.ofNewValue(method, columns, refused.misfit, error)
  const type = dialect.typeOfJson?.(error.parent)
  const texts = changes.documents.filter((each) => each.type === 'TEXT').map((each) => each.column)
  const mistyped = texts.find((each) => error.message.includes(fieldOf(row.model, each)))
  if (type !== undefined && mistyped !== undefined) return usage.jsonType(method, facts.model, mistyped, type)
  const what = dialect.unreadable?.(error.parent)
  // A document of type JSONB was read when it was stored.
  const unread = changes.documents.find(({ type }) => type !== 'JSONB')
  if (what === undefined || !unread) return error
  if (what === notJson) return notJsonError(method, facts, unread.column)
  return UnsupportedValueError.inStoredDocument(method, facts, unread.column, what, error)
}

/** The attributes whose new values a database may have refused; none if it refused another value. */
function refusedColumns(
  { model }: Pick<RowRef, 'model'>,
  refused: RefusedValue,
  { documents, columns }: { documents: readonly DocumentColumn[]; columns: readonly ColumnChange[] },
  binds: readonly unknown[],
): readonly string[] {
  const { column, bind } = refused
  const names = documents.map((each) => each.column)
  const ordinary = columns.map(({ attribute }) => attribute)
  const isNamed = [...ordinary, ...names].some((name) => fieldOf(model, name) === column)
  if (bind !== undefined && !isNamed) {
    const value = String(binds[bind - 1])
    return columns.flatMap((each) => ('value' in each && String(each.value) === value ? [each.attribute] : []))
  }
  const texts = documents.filter(({ type }) => type === 'TEXT').map((each) => each.column)
  return refusedAttributes(model, refused, ordinary, names, texts)
}

/**
 * Whether a document is read before it is written: the database would scan it for each key of the change, or round its
 * numbers, or the stored elements of its arrays decide where the change writes.
 */
export function isReadFirst({ type, operations, conditions }: DocumentChange, dialect: Dialect): boolean {
  const { maxComputedKeys = Infinity, maxPulls = Infinity, readsToCompare, writesElements = false } = dialect
  return (
    (type === 'TEXT' && dialect.roundsTexts === true) ||
    operations.some(findsElements) ||
    (!writesElements && (isOfRootArray(operations) || operations.some(({ path }) => entersArray(path)))) ||
    conditions.some(({ path, isLoaded }) => entersArray(path) || (path.length === 0 && !isLoaded)) ||
    (maxComputedKeys < Infinity && countKeys(operations) > maxComputedKeys) ||
    (operations.length > maxPulls && operations.filter(({ kind }) => kind === 'pull').length > maxPulls) ||
    (readsToCompare !== undefined &&
      [...operations, ...conditions].some((each) => comparesInside(each) && readsToCompare(each.json)))
  )
}

/**
 * Adds to `replaced` the variants that write documents as a whole, computed from what a locking read returns; `undefined` if
 * one of the changes does not fit its document.
 */
async function wholeDocuments(
  call: Call,
  ref: RowRef,
  documents: readonly DocumentChange[],
  context: QueryContext,
  replaced: ReadonlyMap<DocumentChange, UpdateVariant>,
): Promise<ReadonlyMap<DocumentChange, UpdateVariant> | undefined> {
  const { dialect } = call
  const whole = new Map(replaced)
  await takeWriteLock(call, ref.model, context)
  for (const each of documents) {
    const stored = await readDocument(call, ref, each, context)
    if (reasonAgainst(each, stored) || findInexactSum(each, stored.text, dialect)) return undefined
    const hasElements = dialect.writesElements && each.type !== 'TEXT'
    whole.set(each, hasElements ? atElements(each, stored, dialect) : asText(each, stored, dialect))
  }
  return whole
}

/**
 * Whether the result of a change that matched no document is computed here: it depends on numbers that the database may be
 * unable to compare, or the JSON functions may be unable to read the text, which the column has not checked.
 */
function isComputedHere({ type, operations }: DocumentChange, text: string, dialect: Dialect): boolean {
  const { comparesDoubles = [], normalizeStoredText } = dialect
  return (
    (normalizeStoredText !== undefined && (type === 'TEXT' || normalizeStoredText.misreadEscape.test(text))) ||
    operations.some(({ kind }) => comparesDoubles.includes(kind))
  )
}

/** The variant that replaces a document by another text, while it has the text that was read. */
function replacementOf(after: string, text: string, { normalizeStoredText }: Dialect): UpdateVariant {
  return (_change, column, bind) => ({
    document: bind(after),
    guard: normalizeStoredText!.isText(column, bind(text)),
  })
}

/** Sends a batch on the condition that its document still has the text that the last batch wrote, if it is known. */
async function sendAfterBatch<R, D extends DocumentChange>(
  call: Call,
  ref: RowRef,
  context: QueryContext,
  { documents, columns, send }: Required<Pick<DocumentUpdate<R, D>, 'documents' | 'columns' | 'send'>>,
): Promise<UpdateResult<R>> {
  const { dialect } = call
  const replacement = replacementAfterBatch(documents, dialect, context)
  if (!replacement) return { result: 'unmatched' }
  try {
    const sent = await send([replacement.variant], documents)
    if (sent.result === 'matched') keepText(documents[0]!, replacement.text, dialect)
    return sent
  } catch (error) {
    throw toWriteError(error, call, ref, { documents, columns }, context)
  }
}

/**
 * The text of the document after a batch, and the variant that writes it while the document has the text that the last batch
 * wrote; `undefined` if that text is not known, or if the change does not fit it: then the document has to be read.
 */
function replacementAfterBatch(
  [change]: readonly DocumentChange[],
  dialect: Dialect,
  { transaction }: QueryContext,
): { readonly text: string; readonly variant: UpdateVariant } | undefined {
  const lastText = change?.queue?.takeText()
  if (!change || lastText === undefined) return undefined
  const stored = { text: lastText, document: parseJson(lastText) }
  if (transaction || reasonAgainst(change, stored) || findInexactSum(change, lastText, dialect)) return undefined
  const text = textAfterOperations(lastText, change.operations)
  return isShort(text, dialect) ? { text, variant: replacementOf(text, lastText, dialect) } : undefined
}

/** The maximum length of a text that is kept for the next batch, which has both texts in its statement. */
const maxKeptLength = 2 ** 16

function isShort({ length }: string, { maxStatementBytes = Infinity }: Dialect): boolean {
  return length <= Math.min(maxKeptLength, maxStatementBytes / 16)
}

/**
 * Keeps the text that a batch writes for the next one, which is written only if the document has this text: it may be kept
 * before the UPDATE is sent.
 */
function keepText({ queue }: DocumentChange, text: string, dialect: Dialect): void {
  if (queue && dialect.normalizeStoredText && isShort(text, dialect)) queue.keepText(text)
}

/** The UPDATE of a document, which was read under its lock, as a whole. */
function asText(change: DocumentChange, stored: StoredDocument, dialect: Dialect): UpdateVariant {
  const { document } = dialect
  const text = textAfterOperations(stored.text, change.operations)
  keepText(change, text, dialect)
  return (_change, { sql, type }, bind) => {
    const after = (): string => (type === 'TEXT' ? bind(text) : document(bind(text)))
    return { document: text === stored.text ? sql : after(), guard: '1 = 1' }
  }
}

/** The same at the elements that the read has found, so that the database changes a part of the document. */
function atElements(change: DocumentChange, stored: StoredDocument, dialect: Dialect): UpdateVariant {
  const operations = placed(change.operations, stored.text)
  if (operations.length === 0 || operations.length > maxPlaced) return asText(change, stored, dialect)
  const [ofDocument, ofNull = ofDocument] = dialect.variants
  const variant = stored.document === null ? ofNull! : ofDocument!
  // The read has checked the conditions.
  return ({ isPrepared = false }, column, bind) => variant({ operations, conditions: [], isPrepared }, column, bind)
}

/** Above it, a statement for the elements would be longer than it is worth. */
const maxPlaced = 64

/** All combinations of one variant per document; a document that is replaced as a whole has only one variant. */
export function variantsOf(
  documents: readonly DocumentChange[],
  dialect: Dialect,
  whole?: ReadonlyMap<DocumentChange, UpdateVariant>,
): UpdateVariant[][] {
  const variants = (each: DocumentChange): readonly UpdateVariant[] => {
    const own = whole?.get(each)
    if (own) return [own]
    return isReplacedAsWhole(each) ? dialect.variants.slice(0, 1) : dialect.variants
  }
  const [first, ...rest] = documents
  if (!first) return [[]]
  return rest.reduce<UpdateVariant[][]>(
    (chosen, each) => chosen.flatMap((before) => variants(each).map((variant) => [...before, variant])),
    variants(first).map((variant) => [variant]),
  )
}

/** Whether the whole document is replaced, on the condition that it is a known one. */
function isReplacedAsWhole({ operations, conditions }: Change): boolean {
  return operations.length === 0 && conditions.some(({ path, isLoaded }) => path.length === 0 && isLoaded)
}

/**
 * Checks the conditions of an UPDATE on ordinary columns.
 * @throws {RowNotFoundError} the row does not exist
 * @throws {ConditionNotMetError} the row does not meet a condition
 */
async function checkColumns(
  call: Call,
  ref: RowRef,
  where: readonly RowCondition[],
  context: QueryContext,
): Promise<void> {
  const { method, session, dialect } = call
  const facts = factsOf(call, ref)
  const select = new Statement(ref)
  const flags = where.map(
    (each, index) => `CASE WHEN ${conditionSql(each, select)} THEN 1 ELSE 0 END AS ${select.alias(`met${index}`)}`,
  )
  const sql = `SELECT ${flags.join(', ') || '1'} FROM ${select.table()} WHERE ${ref.sql(select)}`
  const locked = context.transaction ? `${sql} ${dialect.lockClause}` : sql
  const [row] = await sendForRows<Record<string, unknown>>(session, locked, select.binds, context)
  if (!row) throw new RowNotFoundError(method, facts)
  const unmet = where.find((_, index) => !Number(row[`met${index}`]))
  if (unmet) throw ConditionNotMetError.ofColumns(method, facts, columnsOf(unmet))
}

/**
 * Sends an UPDATE of one row on a database without RETURNING.
 * @param selection a SELECT of the row on the conditions of the UPDATE, with the same binds
 * @returns whether the UPDATE matched the row; `undefined` if the driver counts only changed rows, and no transaction can lock
 *   the row
 */
export async function sendMatching(
  { dialect, session }: Call,
  { model }: Pick<RowRef, 'model'>,
  { sql, selection, binds }: { readonly sql: string; readonly selection: () => string; readonly binds: unknown[] },
  context: QueryContext,
): Promise<boolean | undefined> {
  const [header] = await sendForHeader(session, sql, binds, context)
  const isMatched = dialect.matched!(header)
  if (isMatched !== undefined || !context.transaction) return isMatched
  const [row] = await sendForRows(session, `${selection()} ${dialect.lockClause}`, binds, context)
  if (row === undefined) return false
  // The lock keeps the conditions met. An UPDATE with a version changes each row that it matches.
  const [again] = await sendForHeader(session, sql, binds, context)
  return dialect.matched!(again) ?? versionAttribute(model) === undefined
}

function reasonAgainst(
  { operations, conditions }: Change,
  { text, document }: Pick<StoredDocument, 'text' | 'document'>,
): Mismatch | Condition | undefined {
  const mismatch = findMismatch(operations, document, text) ?? rootMismatch(conditions, jsonType(document))
  if (mismatch) return mismatch
  return conditions.find((each) => !meets(each, text))
}

/** A condition on a part of a document needs the type of document that has such parts, as an operation does. */
function rootMismatch(conditions: Change['conditions'], found: string): Mismatch | undefined {
  if (found === 'null') return undefined
  for (const condition of conditions) {
    const [first] = condition.path
    const type = typeof first === 'string' ? 'object' : 'array'
    if (first !== undefined && type !== found) return { path: [], needed: `an ${type}`, found, condition }
  }
  return undefined
}

/**
 * Reads the stored document; in a transaction by a locking read, which is never stale.
 * @throws {RowNotFoundError} the row does not exist
 * @throws {JsonShapeError} the stored text is not JSON
 * @throws {UnsupportedValueError} the character set of the column cannot represent every text, or the document is too long
 */
export async function readDocument(
  call: Call,
  ref: RowRef,
  document: DocumentColumn,
  context: QueryContext,
): Promise<StoredDocument> {
  const { method, dialect, session } = call
  const { model } = ref
  const facts = factsOf(call, ref)
  const { column, type } = document
  const select = new Statement(ref)
  const target: Column = { sql: select.column(column), type }
  const set = dialect.characterSet ? `, ${dialect.characterSet.of(target)} AS ${select.alias('characterSet')}` : ''
  const isNull = `${target.sql} IS NULL AS ${select.alias('isNull')}`
  const stored = `${dialect.documentText(target)} AS ${select.alias('document')}, ${target.sql} AS ${select.alias('loaded')}, ${isNull}${set}`
  const sql = `SELECT ${stored} FROM ${select.table()} WHERE ${ref.sql(select)}`
  const locked = context.transaction ? `${sql} ${dialect.lockClause}` : sql
  const [row] = await sendForRows<{
    document: string | null
    loaded: unknown
    isNull: unknown
    characterSet?: string
  }>(session, locked, select.binds, context)
  if (!row) throw new RowNotFoundError(method, facts)
  if (row.characterSet !== undefined) {
    const named = { ...document, field: fieldOf(model, column) }
    refuseCharacterSet(method, model.name, named, row.characterSet, dialect)
  }
  if (row.document === null && !Number(row.isNull)) refuseUnreturned(method, column, dialect)
  const text = row.document ?? 'null'
  const value = tryParseJson(text)
  if (value !== undefined) return { text, document: value, loaded: asLoaded(text, row.loaded) }
  throw notJsonError(method, facts, column)
}

function notJsonError(method: string, row: RowFacts, column: string): JsonShapeError {
  return new JsonShapeError(method, row, column, { path: [], needed: 'an object', found: notJson })
}

/**
 * What a driver read, with the right names of its keys; its text parsed if the driver leaves documents as text.
 * @param text `null` for a column that is NULL
 */
export function asLoaded(text: string | null, loaded: unknown): JsonValue {
  if (text === null) return null
  return typeof loaded === 'object' && loaded !== null ? withRightKeys(text, loaded as JsonValue) : parseJson(text)
}

/** Rewrites the document in the form that the JSON functions read, unless another writer has changed it. */
async function normalizeDocument(
  { method, dialect, session }: Call,
  ref: RowRef,
  { column, type }: DocumentColumn,
  context: QueryContext,
  text: string,
): Promise<void> {
  const { normalizeStoredText: normalize } = dialect
  const normalized = normalize?.text(text)
  if (!normalize || normalized === undefined) return
  const update = new Statement(ref)
  const target: Column = { sql: update.column(column), type }
  const sql = `UPDATE ${update.table()} SET ${target.sql} = ${update.bind(normalized)} WHERE ${ref.sql(update)} AND ${normalize.isText(target, update.bind(text))}`
  refuseTooLarge(method, column, update.bytes(sql, dialect.maxStatementBytes), dialect)
  await sendForHeader(session, sql, update.binds, context)
}
