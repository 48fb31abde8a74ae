import { isDeepStrictEqual } from 'node:util'
import type { Change, Column, Dialect, UpdateVariant } from '../dialects/dialect.js'
import { refuseRounded } from '../dialects/limits.js'
import { ConflictError, JsonShapeError, RowNotFoundError, UnknownOutcomeError } from '../errors/errors.js'
import { parseJson } from '../json/encode.js'
import type { Condition } from '../json/operation.js'
import { applyAll, findMismatch, meets } from '../json/semantics.js'
import type { Mismatch } from '../json/semantics.js'
import type { JsonValue } from '../json/values.js'
import type { RowRef } from '../rows/row-ref.js'
import { versionAttribute } from '../sequelize/internals.js'
import { failureOf, sendForHeader, sendForRows } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import { Statement } from '../sequelize/statement.js'
import type { Call } from '../transactions/call.js'

/** A JSON attribute and its type. */
export interface DocumentColumn {
  readonly column: string
  readonly type: Column['type']
}

/** What one UPDATE does to one of the documents of its row. */
export interface DocumentChange extends DocumentColumn, Change {}

/**
 * What an UPDATE did to its row. `'unknown'`: it matched no row, or it matched one and left it as it was; the driver
 * counts changed rows only.
 */
export type UpdateResult<R> =
  { readonly result: 'matched'; readonly answer: R } | { readonly result: 'unmatched' | 'unknown' }

/** A stored document. */
export interface StoredDocument {
  /** As the database spells it: no driver has parsed or rounded it. */
  readonly text: string
  readonly document: JsonValue
}

/** An UPDATE of one row that changes some of its documents. */
interface DocumentUpdate<R> {
  readonly documents: readonly DocumentChange[]
  /** Sends the UPDATE, with one variant for each document. */
  readonly send: (variants: readonly UpdateVariant[]) => Promise<UpdateResult<R>>
  /** The error for a document that the UPDATE does not fit, or that does not meet a condition. */
  readonly refusal: (document: DocumentChange, reason: Mismatch | Condition) => Error
}

/** How often an UPDATE is sent that another writer's document keeps from matching. */
const maxRounds = 5

/**
 * Sends an UPDATE, in each variant, until it has matched its row; or finds out why it cannot.
 * @returns the answer of the UPDATE; or, if the driver cannot report a match, the stored documents, which already are as
 *   the UPDATE would leave them
 * @throws {RowNotFoundError} the row does not exist
 * @throws {ConflictError} another writer replaced the document in every round
 * @throws {UnsupportedValueError} it holds a number that cannot be compared with what JavaScript made of it
 * @throws {UnknownOutcomeError} the connection was lost after a write outside a transaction was sent
 */
export async function updateDocuments<R>(
  call: Call,
  ref: RowRef,
  context: QueryContext,
  { documents, send, refusal }: DocumentUpdate<R>,
): Promise<{ readonly answer: R } | { readonly stored: readonly StoredDocument[] }> {
  const { method, dialect } = call
  let before: string | undefined
  for (let round = 1; round <= maxRounds; round++) {
    let canTell = true
    for (const variants of variantsOf(documents, dialect)) {
      const sent = await sendOnce(method, context, () => send(variants))
      if (sent.result === 'matched') return sent
      canTell &&= sent.result === 'unmatched'
    }
    const stored: StoredDocument[] = []
    for (const each of documents) stored.push(await readDocument(call, ref, each, context))
    for (const [index, each] of documents.entries()) {
      const reason = reasonAgainst(each, stored[index]!.document)
      if (reason) throw refusal(each, reason)
    }
    if (!canTell && isAlreadyThere(ref, documents, stored)) return { stored }
    const now = JSON.stringify(stored.map(({ text }) => text))
    for (const [index, { column, conditions }] of documents.entries()) {
      const isCompared = conditions.some(({ kind }) => kind === 'equals')
      if (isCompared && now === before) refuseRounded(method, column, stored[index]!.text)
    }
    before = now
    for (const [index, each] of documents.entries()) {
      await normalizeDocument(call, ref, each, context, stored[index]!.text)
    }
  }
  const columns = documents.map(({ column }) => `"${column}"`).join(', ')
  throw new ConflictError(
    method,
    ref.facts,
    `other writers that replaced ${columns} as a whole in each of ${maxRounds} attempts`,
    ConflictError.remedy(method, context.transaction !== undefined),
  )
}

/** Sends a write; outside a transaction, a connection lost meanwhile leaves its outcome unknown. */
async function sendOnce<R>(method: string, { transaction }: QueryContext, send: () => Promise<R>): Promise<R> {
  try {
    return await send()
  } catch (error) {
    throw !transaction && failureOf(error) === 'lost' ? new UnknownOutcomeError(method, 'the write', error) : error
  }
}

/** Every way to choose a variant for each of the documents; a document that is replaced as a whole needs no choice. */
function variantsOf(documents: readonly DocumentChange[], dialect: Dialect): UpdateVariant[][] {
  const variants = ({ operations }: DocumentChange): readonly UpdateVariant[] =>
    operations.length > 0 ? dialect.variants : dialect.variants.slice(0, 1)
  const [first, ...rest] = documents
  return rest.reduce<UpdateVariant[][]>(
    (chosen, each) => chosen.flatMap((before) => variants(each).map((variant) => [...before, variant])),
    variants(first!).map((variant) => [variant]),
  )
}

function reasonAgainst({ operations, conditions }: Change, document: JsonValue): Mismatch | Condition | undefined {
  const mismatch = operations.map((each) => findMismatch(each, document)).find((each) => each !== undefined)
  return mismatch ?? conditions.find((each) => !meets(each, document))
}

/** Whether the stored documents are as the UPDATE would leave them: where that can be compared. */
function isAlreadyThere(
  { model }: RowRef,
  documents: readonly DocumentChange[],
  stored: readonly StoredDocument[],
): boolean {
  // A version would have moved; integers beyond 2^53 are rounded here.
  if (versionAttribute(model) || stored.some(({ text }) => /\d{16}/.test(text))) return false
  return documents.every(({ operations }, index) => {
    const { document } = stored[index]!
    // Without operations the document is replaced as a whole, and its condition says that this has not been done.
    return operations.length > 0 && isDeepStrictEqual(document, applyAll(operations, document))
  })
}

/**
 * The document as the database has it; in a transaction by a locking read, which is never stale.
 * @throws {RowNotFoundError} the row does not exist
 * @throws {JsonShapeError} it is no JSON
 */
export async function readDocument(
  { method, dialect, session }: Call,
  { model, primaryKey, facts }: RowRef,
  { column, type }: DocumentColumn,
  context: QueryContext,
): Promise<StoredDocument> {
  const select = new Statement(model)
  const stored = dialect.documentText({ sql: select.column(column), type })
  const sql = `SELECT ${stored} AS ${select.name('document')} FROM ${select.table()} WHERE ${select.row(primaryKey)}`
  const locked = context.transaction ? `${sql} ${dialect.lockClause}` : sql
  const [row] = await sendForRows<{ document: string | null }>(session.sequelize, locked, select.binds, context)
  if (!row) throw new RowNotFoundError(method, facts)
  const text = row.document ?? 'null'
  const document = parseJson(text)
  if (document !== undefined) return { text, document }
  throw new JsonShapeError(method, facts, column, { path: [], needed: 'an object', found: 'text that is not JSON' })
}

/** Writes the same document in the spelling that this database's functions read, if no other writer has changed it meanwhile. */
async function normalizeDocument(
  { dialect, session }: Call,
  { model, primaryKey }: RowRef,
  { column, type }: DocumentColumn,
  context: QueryContext,
  text: string,
): Promise<void> {
  const { normalizeStoredText: normalize } = dialect
  const normalized = normalize?.text(text)
  if (!normalize || normalized === undefined) return
  const update = new Statement(model)
  const target: Column = { sql: update.column(column), type }
  const sql = `UPDATE ${update.table()} SET ${target.sql} = ${update.bind(normalized)} WHERE ${update.row(primaryKey)} AND ${normalize.isText(target, update.bind(text))}`
  await sendForHeader(session.sequelize, sql, update.binds, context)
}
