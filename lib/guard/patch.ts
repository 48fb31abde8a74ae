import { literal, Op, QueryTypes } from 'sequelize'
import type { Logging, Transaction } from 'sequelize'
import { connectorOf } from '../dialects/connector.js'
import type { Change, Dialect, UpdateVariant } from '../dialects/dialect.js'
import { refuseTooLarge, refuseTooManyBinds, refuseUnsupported } from '../dialects/limits.js'
import { StaleRowError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { mayHoldInfinity, textWithInfinity } from '../json/encode.js'
import { difference } from '../json/difference.js'
import type { Edit } from '../json/difference.js'
import { mayBeMisread, parseJson, scanJson } from '../json/json-text.js'
import { condition } from '../json/operation.js'
import type { Condition, Operation } from '../json/operation.js'
import { isCopied, isReadingOfText } from '../json/respell.js'
import type { Rewrite } from '../json/respell.js'
import { textAt, valueAt } from '../json/semantics.js'
import type { JsonObject, JsonValue } from '../json/values.js'
import { identifyRow, RowRef } from '../rows/row-ref.js'
import { rowStateOf } from '../rows/row-state.js'
import { valuesOf } from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import type { Policy } from '../sequelize/options.js'
import { sendForHeader, statementRetry } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import { SpelledDocument, writeSpelledDocuments } from '../sequelize/spelled-document.js'
import { Statement } from '../sequelize/statement.js'
import { execute, startCall } from '../transactions/execute.js'
import type { Call } from '../transactions/execute.js'
import { transactionToJoin } from '../transactions/join.js'
import { lossError, notTooDeep, respelled, spellDocuments } from '../transactions/save-digits.js'
import { applyToOtherInstances } from '../transactions/other-instances.js'
import type { TransactionState } from '../transactions/transaction-state.js'
import { readDocument, updateDocuments } from '../writes/update-document.js'
import type { DocumentChange, DocumentColumn, UpdateResult } from '../writes/update-document.js'

const method = 'save'

/** An UPDATE of one row, as Sequelize is about to send it. */
export interface RowUpdate {
  readonly instance: Row
  readonly tableName: unknown
  readonly values: Readonly<Record<string, unknown>>
  readonly where: object
  readonly options: Logging & { readonly transaction?: Transaction | null | undefined }
  /** Sends it, with these values. */
  readonly send: (values: Readonly<Record<string, unknown>>) => Promise<unknown>
}

/** A document of a row, the name of its column in the database, and what changed in it since it was loaded. */
export interface EditedColumn extends DocumentColumn, Edit {
  readonly field: string
}

/** The change of a document; a whole document may have a spelling of its own. */
interface SpelledColumn extends EditedColumn, DocumentChange {
  readonly spelled?: SpelledDocument
}

/** The maximum number of operations in a patch, within the limits of every database; else the document is replaced. */
const maxOperations = 50

/**
 * Sends an UPDATE that writes only the changes of the edited documents; other columns are written as usual. If
 * operations cannot express a change, the whole document is replaced, if the column still holds the loaded document.
 * @throws {RowNotFoundError} the row does not exist
 * @throws {StaleRowError} another session changed a value that this change depends on
 */
export async function patchRow(
  update: RowUpdate,
  edits: readonly EditedColumn[],
  conflicts: Policy['conflicts'],
): Promise<unknown> {
  const { instance, values, options, send } = update
  // Another row may have a key that was rounded.
  const row = identifyRow(method, instance)
  const { session, facts } = row
  const changed = edits.map((edit) => ({ ...edit, ...notTooDeep(edit.column, () => changeOf(edit, conflicts)) }))
  const documents = changed.filter(({ operations, conditions }) => operations.length + conditions.length > 0)
  const plain = withoutEdits(values, edits)
  const sendPlain = async (): Promise<unknown> => (Object.keys(plain).length > 0 ? send(plain) : [instance, 1])
  if (documents.length === 0) return sendPlain()

  // A document of a locked column, which is written as a whole.
  const spelled = await spellDocuments(session, rowStateOf(instance), instance, plain, options)
  const transaction = transactionToJoin(method, session, options.transaction, undefined)
  const call = await startCall({ method, session, row: facts, transaction, logging: options.logging })
  for (const each of documents) refuseUnsupported(method, each.column, each, call.dialect)
  const statements = async (context: QueryContext, state: TransactionState | undefined): Promise<unknown> => {
    const exact: SpelledColumn[] = []
    for (const each of documents) exact.push(await withStoredDigits(call, row, each, context))
    const outcome = await updateDocuments(call, row, context, {
      documents: exact,
      send: (variants, conditions) => {
        const current = exact.map((each, index) => ({ ...each, conditions: conditions[index]! }))
        return sendPatch(call, update, spelled, current, variants, context)
      },
      refusal: ({ column }, { path }, text) => {
        const isMisread = mayBeMisread(textAt(text, path) ?? text)
        return isMisread ? lossError(column, 'key') : StaleRowError.changedSinceLoad(method, facts, column, path)
      },
    })
    for (const { column, operations } of state ? documents : []) {
      applyToOtherInstances(
        state!,
        row,
        column,
        operations,
        operations.length > 0 ? undefined : valuesOf(instance)[column],
      )
    }
    // The documents already have the new values; the other columns may not.
    return 'answer' in outcome ? outcome.answer : sendPlain()
  }
  return execute(call, { statements }, { opensTransaction: false })
}

/**
 * A change in which the unchanged parts of a replaced object or array, or of the whole document, are spelled as stored:
 * JavaScript cannot write all their digits. If another session has changed such a part, it is replaced.
 * @throws {UnsupportedValueError} the change depends on a number or key that JavaScript misread
 * @throws {StaleRowError} another session has changed a part that is replaced, and conflicts are refused
 */
async function withStoredDigits(
  call: Call,
  row: RowRef,
  document: EditedColumn & DocumentChange,
  context: QueryContext,
): Promise<SpelledColumn> {
  const { column, before, after, operations, conditions } = document
  const isWhole = operations.length === 0
  const mayLose = isWhole ? hasDigits(before) : operations.some((each) => mayLoseDigits(each, before))
  if (!mayLose || before === null || (isWhole && after === null)) return document
  const { text, loaded } = await readDocument(call, row, document, context)
  const spell = (rewrite: Rewrite): string => respelled(column, rewrite)
  if (isWhole) {
    if (!isReadingOfText(text, before)) return document
    writeSpelledDocuments(row.model, column)
    return { ...document, spelled: new SpelledDocument(spell({ stored: text, before, after }), after) }
  }
  const root = scanJson(text)
  const exact = operations.map((each) => {
    const [stored, from] = [textAt(text, each.path, root), valueAt(before, each.path)]
    if (from !== undefined && stored === undefined && mayBeMisread(text)) throw lossError(column, 'key')
    if (each.kind !== 'set' || stored === undefined || typeof from !== 'object') {
      const value = parseJson(each.json)
      if (hasLongNumber(each) && isCopied(text, value)) throw lossError(column, 'number')
      // A new Infinity is null, as in every save of Sequelize.
      return mayHoldInfinity(each.json) ? Object.freeze({ ...each, json: JSON.stringify(value) }) : each
    }
    const [earlier, to] = [from as JsonValue, parseJson(each.json)]
    if (isReadingOfText(stored, earlier) || mayBeMisread(stored)) {
      return Object.freeze({ ...each, json: spell({ stored, before: earlier, after: to }) })
    }
    if (conditions.length > 0) throw StaleRowError.changedSinceLoad(method, row.facts, column, each.path)
    const current = valueAt(loaded, each.path) as JsonValue
    return Object.freeze({ ...each, json: spell({ stored, before: current, after: to, earlier }) })
  })
  return { ...document, operations: exact }
}

/**
 * Whether an operation replaces a part that holds numbers, writes a number that JavaScript may have rounded, or has a key
 * that may have been misread.
 */
function mayLoseDigits({ kind, path, json }: Operation, before: JsonValue): boolean {
  const from = valueAt(before, path)
  const isReplaced = kind === 'set' && typeof from === 'object' && from !== null && hasDigits(from as JsonValue)
  return (
    isReplaced ||
    hasLongNumber({ json }) ||
    (from !== undefined && path.some((key) => mayBeMisread(`{${JSON.stringify(key)}:0}`)))
  )
}

function hasLongNumber({ json }: Pick<Operation, 'json'>): boolean {
  return /\d{16}/.test(json) || mayHoldInfinity(json)
}

function hasDigits(value: JsonValue): boolean {
  return /\d/.test(textWithInfinity(value)!)
}

async function sendPatch(
  { dialect, session: { sequelize } }: Call,
  { instance, tableName, where, options }: RowUpdate,
  plain: Readonly<Record<string, unknown>>,
  documents: readonly SpelledColumn[],
  variants: readonly UpdateVariant[],
  context: QueryContext,
): Promise<UpdateResult<unknown>> {
  const statement = new Statement(RowRef.of(instance).model)
  const { values, guard } = documentValues(documents, variants, dialect, statement)
  const sql = statement.update(tableName, { ...plain, ...values }, { [Op.and]: [where, literal(guard)] }, options)
  if (sql === undefined) throw usage.searchPath(method)
  const [{ column }] = documents as [SpelledColumn]
  refuseTooLarge(method, column, statement.bytes(sql, dialect.maxStatementBytes), dialect)
  const { maxBinds = Infinity } = connectorOf(sequelize.getDialect())
  refuseTooManyBinds(method, column, statement.countBinds(sql, maxBinds), maxBinds, dialect)
  if (dialect.matched) {
    const [header] = await sendForHeader(sequelize, sql, statement.binds, context)
    const isMatched = dialect.matched(header)
    if (isMatched) return { result: 'matched', answer: [instance, 1] }
    return { result: isMatched === undefined ? 'unknown' : 'unmatched' }
  }
  // Sent like Sequelize's own UPDATE: Sequelize then assigns the result of `returning` to the instance.
  const answer = (await sequelize.query(sql, {
    ...options,
    bind: statement.binds,
    type: QueryTypes.UPDATE,
    instance,
    transaction: context.transaction ?? null,
    retry: statementRetry(sequelize, context.transaction !== undefined),
  })) as unknown as [Row, number]
  return answer[1] > 0 ? { result: 'matched', answer } : { result: 'unmatched' }
}

/** The minimal change that writes an edit; without operations, the whole document is replaced. */
function changeOf(edit: Edit, conflicts: Policy['conflicts']): Change {
  const operations = difference(edit)
  if (!operations || operations.length > maxOperations) {
    return { operations: [], conditions: [equalsDocument(edit.before)] }
  }
  return { operations, conditions: conflicts === 'throw' ? unchangedSince(edit.before, operations) : [] }
}

/** The condition that a column holds this document. */
function equalsDocument(document: JsonValue): Condition {
  return { kind: 'equals', path: [], json: textWithInfinity(document)!, isLoaded: true }
}

/** The conditions that the values to change are as loaded, and that their parents still exist. */
function unchangedSince(before: JsonValue, operations: readonly Operation[]): Condition[] {
  const parents = new Map<string, Condition>()
  const own = operations.flatMap(({ kind, path }) => {
    let value: JsonValue | undefined = before ?? {}
    for (const [depth, key] of (path as readonly string[]).entries()) {
      const parent = path.slice(0, depth)
      if (depth > 0) parents.set(JSON.stringify(parent), condition(method, 'exists', parent, null))
      value = Object.hasOwn(value as JsonObject, key) ? (value as JsonObject)[key] : undefined
    }
    if (value === undefined) return condition(method, 'absent', path, null)
    return kind === 'append'
      ? condition(method, 'exists', path, null)
      : ({ kind: 'equals', path, json: textWithInfinity(value)!, isLoaded: true } as const)
  })
  return [...own, ...parents.values()]
}

function withoutEdits(
  values: Readonly<Record<string, unknown>>,
  edits: readonly EditedColumn[],
): Readonly<Record<string, unknown>> {
  const fields = edits.map(({ field }) => field)
  return Object.fromEntries(Object.entries(values).filter(([field]) => !fields.includes(field)))
}

/** The new values of the documents, by field, and the guard of the UPDATE. */
function documentValues(
  documents: readonly SpelledColumn[],
  variants: readonly UpdateVariant[],
  dialect: Dialect,
  statement: Statement,
): { readonly values: Record<string, unknown>; readonly guard: string } {
  const guards: string[] = []
  const values = documents.map((each, index) => {
    const target = { sql: statement.column(each.column), type: each.type }
    const [whole] = each.operations.length === 0 ? each.conditions : []
    const { document, guard } = whole
      ? { document: undefined, guard: dialect.holds(target, statement.bind(whole.json)) }
      : variants[index]!(each, target, statement.bind)
    guards.push(guard)
    return [each.field, document === undefined ? (each.spelled ?? each.after) : literal(document)] as const
  })
  return { values: Object.fromEntries(values), guard: guards.join(' AND ') }
}
