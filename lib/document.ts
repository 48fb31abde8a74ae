import { isDeepStrictEqual } from 'node:util'
import { failureOf, sendForHeader, sendForRows, sequelizeOf, Statement, versionAttribute } from './database.js'
import type { Sending } from './database.js'
import type { Change, Column, Dialect, UpdateVariant } from './dialects/dialect.js'
import { ConflictError, JsonShapeError, RowNotFoundError, UnknownOutcomeError } from './errors/errors.js'
import { refuseRounded } from './dialects/limits.js'
import { parseJson } from './json/encode.js'
import { applyAll, findMismatch, meets } from './json/semantics.js'
import type { Condition } from './json/operation.js'
import type { JsonValue } from './json/values.js'
import type { Mismatch } from './json/semantics.js'
import { facts } from './target.js'
import type { Identity } from './target.js'
import { translated } from './transaction.js'

/** A JSON attribute and its type. */
export interface DocumentColumn {
  readonly column: string
  readonly type: Column['type']
}

/** What one UPDATE does to one of the documents of its row. */
export interface DocumentChange extends DocumentColumn, Change {}

/** One UPDATE of one row, and the documents that it changes. */
export interface RowWrite {
  readonly method: string
  readonly identity: Identity
  readonly documents: readonly DocumentChange[]
}

export const unmatched: unique symbol = Symbol('unmatched')
/** Not matched, or matched and left as it was: the answer counts changed rows only. */
export const unchanged: unique symbol = Symbol('unchanged')
export type Unmatched = typeof unmatched | typeof unchanged

/** How a write is sent, and what is made of its answers. */
interface Answers<R> {
  /** Sends it with a form for each document. */
  readonly send: (forms: readonly UpdateVariant[]) => Promise<R | Unmatched>
  readonly refusal: (document: DocumentChange, inTheWay: Mismatch | Condition) => Error
}

/** What the last statement answered; or, where nobody knows whether it matched, that the documents are as it would leave them. */
export type Outcome<R> = { readonly answer: R } | { readonly there: readonly { readonly document: JsonValue }[] }

const attempts = 5

/**
 * Sends a write until it matched its row, and finds out why it did not.
 * @throws {RowNotFoundError} the row does not exist
 * @throws {ConflictError} it was replaced in every attempt
 * @throws {UnsupportedValueError} it holds a number that cannot be compared with what JavaScript made of it
 * @throws {UnknownOutcomeError} the connection was lost after a write outside a transaction was sent
 */
export async function untilMatched<R>(
  { method, identity, documents }: RowWrite,
  dialect: Dialect,
  sending: Sending,
  { send, refusal }: Answers<R>,
): Promise<Outcome<R>> {
  let before: string | undefined
  let isSending = false
  try {
    for (let attempt = 1; attempt <= attempts; attempt++) {
      let isKnown = true
      for (const forms of eachForm(documents, dialect)) {
        isSending = true
        const answer = await send(forms)
        isSending = false
        if (answer !== unmatched && answer !== unchanged) return { answer }
        isKnown &&= answer === unmatched
      }
      const stored: { text: string; document: JsonValue }[] = []
      for (const each of documents) stored.push(await readDocument(method, identity, each, dialect, sending))
      for (const [index, each] of documents.entries()) {
        const inTheWay = mismatchOf(each, stored[index]!.document)
        if (inTheWay) throw refusal(each, inTheWay)
      }
      // This one may hold the values already. With a version it would have changed, and long numbers are rounded here.
      const isComparable =
        !isKnown && !versionAttribute(identity.model) && !stored.some(({ text }) => /\d{16}/.test(text))
      // One without operations is replaced as a whole, which its condition says has not been done.
      const isThere = documents.every(({ operations }, index) => {
        const { document } = stored[index]!
        return operations.length > 0 && isDeepStrictEqual(document, applyAll(operations, document))
      })
      if (isComparable && isThere) return { there: stored }
      const now = JSON.stringify(stored.map(({ text }) => text))
      for (const [index, { column, conditions }] of documents.entries()) {
        const isCompared = conditions.some(({ kind }) => kind === 'equals')
        if (isCompared && now === before) refuseRounded(method, column, stored[index]!.text)
      }
      before = now
      for (const [index, each] of documents.entries()) {
        await normalizeStoredText(identity, each, dialect, sending, stored[index]!.text)
      }
    }
  } catch (error) {
    const isUnknown = isSending && !sending.transaction && failureOf(error, dialect) === 'lost'
    if (isUnknown) throw new UnknownOutcomeError(method, 'the write', error)
    throw translated(error, dialect, method, facts(identity), sending.transaction)
  }
  const columns = documents.map(({ column }) => `"${column}"`).join(', ')
  throw new ConflictError(
    method,
    facts(identity),
    `other writers that replaced ${columns} as a whole in each of ${attempts} attempts`,
    sending.transaction !== undefined,
  )
}

/** Every way to choose a form for each of the documents; one that is replaced as a whole needs none. */
function eachForm(documents: readonly DocumentChange[], dialect: Dialect): UpdateVariant[][] {
  const formsOf = ({ operations }: DocumentChange): readonly UpdateVariant[] =>
    operations.length > 0 ? dialect.variants : dialect.variants.slice(0, 1)
  const [first, ...others] = documents
  return others.reduce<UpdateVariant[][]>(
    (chosen, each) => chosen.flatMap((before) => formsOf(each).map((form) => [...before, form])),
    formsOf(first!).map((form) => [form]),
  )
}

function mismatchOf({ operations, conditions }: Change, document: JsonValue): Mismatch | Condition | undefined {
  const inTheWay = operations.map((each) => findMismatch(each, document)).find((each) => each !== undefined)
  return inTheWay ?? conditions.find((each) => !meets(each, document))
}

/**
 * The document as the database has it, in a transaction by a locking read, which is never stale.
 * @throws {RowNotFoundError} the row does not exist
 * @throws {JsonShapeError} it is no JSON
 */
export async function readDocument(
  method: string,
  identity: Identity,
  { column, type }: DocumentColumn,
  dialect: Dialect,
  sending: Sending,
): Promise<{ text: string; document: JsonValue }> {
  const { model, primaryKey } = identity
  const select = new Statement(model)
  const stored = dialect.documentText({ sql: select.column(column), type })
  const sql = `SELECT ${stored} AS ${select.name('document')} FROM ${select.table()} WHERE ${select.row(primaryKey)}`
  const locked = sending.transaction ? `${sql} ${dialect.lockClause}` : sql
  const [row] = await sendForRows<{ document: string | null }>(sequelizeOf(model), locked, select.binds, sending)
  if (!row) throw new RowNotFoundError(method, facts(identity))
  const text = row.document ?? 'null'
  const document = parseJson(text)
  if (document !== undefined) return { text, document }
  const found = 'text that is not JSON'
  throw new JsonShapeError(method, facts(identity), column, { path: [], needed: 'an object', found })
}

/** Writes the same document in the spelling that this database reads, if nobody has changed it meanwhile. */
async function normalizeStoredText(
  { model, primaryKey }: Identity,
  { column, type }: DocumentColumn,
  dialect: Dialect,
  sending: Sending,
  text: string,
): Promise<void> {
  const normalized = dialect.normalizeStoredText?.text(text)
  if (!dialect.normalizeStoredText || normalized === undefined) return
  const update = new Statement(model)
  const target: Column = { sql: update.column(column), type }
  const sql = `UPDATE ${update.table()} SET ${target.sql} = ${update.bind(normalized)} WHERE ${update.row(primaryKey)} AND ${dialect.normalizeStoredText.isText(target, update.bind(text))}`
  await sendForHeader(sequelizeOf(model), sql, update.binds, sending)
}
