import { literal, Op, QueryTypes } from 'sequelize'
import type { Logging, Transaction } from 'sequelize'
import type { Change, Dialect, UpdateVariant } from '../dialects/dialect.js'
import { refuseTooLarge, refuseTooManyBinds, refuseUnsupported } from '../dialects/limits.js'
import { ConflictError, StaleRowError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { mayHoldInfinity, textWithInfinity } from '../json/encode.js'
import { difference } from '../json/difference.js'
import type { Edit, EditedValue } from '../json/difference.js'
import { hasNumber, mayBeMisread, parseJson, scanJson } from '../json/json-text.js'
import type { JsonNode } from '../json/json-text.js'
import { condition, not, size } from '../json/operation.js'
import type { Condition, Operation } from '../json/operation.js'
import { isCopied, isReadingOfText } from '../json/respell.js'
import type { GivenDocument, Rewrite } from '../json/respell.js'
import { textAt } from '../json/semantics.js'
import type { JsonValue, Path } from '../json/values.js'
import { identifyRow, RowRef } from '../rows/row-ref.js'
import { refuseTruncation } from '../rows/short-columns.js'
import { rowStateOf } from '../rows/row-state.js'
import { traceCall } from '../sequelize/channels.js'
import { isSameVersion, valuesOf, versionAttribute } from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import { patchedColumns } from '../sequelize/options.js'
import type { Policy } from '../sequelize/options.js'
import { sendTraced, statementRetry } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import { spelledValue } from '../sequelize/spelled-document.js'
import type { SpelledDocument } from '../sequelize/spelled-document.js'
import { Statement } from '../sequelize/statement.js'
import { execute, factsOf, startCall } from '../transactions/execute.js'
import type { Call } from '../transactions/execute.js'
import { transactionToJoin } from '../transactions/join.js'
import { lossError, notTooDeep, respelled, spellDocuments } from '../transactions/save-digits.js'
import {
  applyToOtherInstances,
  findByKeys,
  markSameStale,
  refreshOtherInstances,
  refuseOlderValues,
} from '../transactions/other-instances.js'
import { findTransactionState } from '../transactions/transaction-state.js'
import type { TransactionState } from '../transactions/transaction-state.js'
import { isReadFirst, readDocument, sendMatching, updateDocuments } from '../writes/update-document.js'
import type { DocumentChange, DocumentColumn, UpdateResult } from '../writes/update-document.js'

const method = 'save'

/** An UPDATE of one row, as Sequelize is about to send it. */
export interface RowUpdate {
  readonly instance: Row
  readonly tableName: unknown
  readonly values: Readonly<Record<string, unknown>>
  readonly where: object
  readonly options: Logging & {
    readonly transaction?: Transaction | null | undefined
    readonly fields?: readonly string[]
  }
  /** Sends it with these values. */
  readonly send: (values: Readonly<Record<string, unknown>>) => Promise<unknown>
}

/** A document of a row, the name of its column in the database, and what changed in it since it was loaded. */
export interface EditedColumn extends DocumentColumn, Edit {
  readonly field: string
  /** The value of the column that has the document `after`. */
  readonly value: unknown
  /** Restores the digits of a text that the application assigned, in a text of the document `after`. */
  readonly given: Pick<GivenDocument, 'restore'> | undefined
}

/** The change of a document; a whole document may have a spelling of its own. */
interface SpelledColumn extends EditedColumn, DocumentChange {
  readonly spelled?: SpelledDocument | string
}

/**
 * The maximum number of operations in a patch, within the limits of every database for binds and nested expressions; else
 * the document is replaced.
 */
const maxOperations = 1000

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
  if (documents.length === 0) return Object.keys(plain).length > 0 ? send(plain) : [instance, 1]

  // A document of a locked column, which is written as a whole.
  const spelled = await spellDocuments(session, rowStateOf(instance), instance, plain, options)
  const transaction = transactionToJoin(method, session, options.transaction, undefined)
  const call = await startCall({ method, session, row: facts, transaction, logging: options.logging })
  for (const each of documents) refuseUnsupported(method, each.column, each, call.dialect)
  await refuseTruncation(
    call,
    row.model,
    documents.map(({ column }) => column),
  )
  const statements = async (context: QueryContext, state: TransactionState | undefined): Promise<unknown> => {
    const exact: SpelledColumn[] = []
    for (const each of documents) exact.push(await withStoredDigits(call, row, each, context))
    try {
      const answer = await updateDocuments(call, row, context, {
        documents: exact,
        send: (variants, current) => sendPatch(call, update, spelled, current, variants, context),
        refusal: ({ column }, { path }, text) => {
          const isMisread = mayBeMisread(textAt(text, path) ?? text)
          return isMisread
            ? lossError(column, 'key')
            : StaleRowError.changedSinceLoad(method, factsOf(call, row), column, path)
        },
      })
      if (state) await applyToOthers(state, row, update, documents, context)
      return answer
    } catch (error) {
      // Sequelize makes an OptimisticLockError of it.
      if (error instanceof ConflictError && (await hasOtherVersion(row, instance, context))) return [instance, 0]
      throw error
    }
  }
  const opensTransaction = documents.some((each) => isReadFirst(each, call.dialect))
  return traceCall(call, async () => {
    const answer = await execute(call, { statements }, { opensTransaction })
    return answer ?? execute(call, { statements }, { opensTransaction: true })
  })
}

/** Whether the stored version of a row is not the one of its instance, which the UPDATE compares. */
async function hasOtherVersion(row: RowRef, instance: Row, context: QueryContext): Promise<boolean> {
  const version = versionAttribute(row.model)
  const [stored] = version === undefined ? [] : await findByKeys(row.model, [row], [version], context)
  return stored !== undefined && !isSameVersion(stored[version!], valuesOf(instance)[version!])
}

/** Applies a patched save to the other locked instances of its row. */
async function applyToOthers(
  state: TransactionState,
  row: RowRef,
  { instance, options: { fields = [] } }: RowUpdate,
  documents: readonly (DocumentColumn & Change)[],
  context: QueryContext,
): Promise<void> {
  const columns = documents.map(({ column }) => column)
  refreshOtherInstances(
    state,
    instance,
    fields.filter((name) => !columns.includes(name)),
  )
  for (const { column, operations } of documents) {
    const whole = operations.length > 0 ? undefined : valuesOf(instance)[column]
    applyToOtherInstances(state, row, column, operations, whole)
  }
  await markSameStale(state, row, fields, context)
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
  document: EditedColumn & DocumentChange & EditChange,
  context: QueryContext,
): Promise<SpelledColumn> {
  const { column, before, after, operations, loaded, marked, given } = document
  const isWhole = operations.length === 0
  const mayLose = isWhole ? hasDigits(before) : operations.some((each, index) => mayLoseDigits(each, loaded[index]))
  if (!mayLose || before === null || (isWhole && after === null)) return document
  const { text } = await readDocument(call, row, document, context)
  const restored = (json: string): string => given?.restore(json) ?? json
  const spell = (rewrite: Rewrite): string => restored(respelled(column, rewrite))
  if (isWhole) {
    if (!isReadingOfText(text, before)) return document
    return { ...document, spelled: spelledValue(row.model, column, spell({ stored: text, before, after }), after) }
  }
  const root = scanJson(text)
  const exact = operations.map((each, index) => {
    const stored = textAt(text, each.path, root)
    const from = loaded[index]
    if (from !== undefined && stored === undefined && mayBeMisread(text)) throw lossError(column, 'key')
    if (each.kind !== 'set' || stored === undefined || typeof from !== 'object' || from === null) {
      const value = parseJson(marked[index]!)
      if (hasLongNumber(each) && isCopied(text, value)) throw lossError(column, 'number')
      // A new Infinity is null, as in every save of Sequelize.
      return mayHoldInfinity(marked[index]!) ? Object.freeze({ ...each, json: restored(JSON.stringify(value)) }) : each
    }
    const isUnchanged = isReadingOfText(stored, from) || mayBeMisread(stored)
    if (!isUnchanged) throw StaleRowError.changedSinceLoad(method, factsOf(call, row), column, each.path)
    return Object.freeze({ ...each, json: spell({ stored, before: from, after: parseJson(marked[index]!) }) })
  })
  return { ...document, operations: exact }
}

/**
 * Whether an operation replaces a part that holds numbers, writes a number that JavaScript may have rounded, or has a key
 * that may have been misread.
 */
function mayLoseDigits({ kind, path, json }: Operation, from: JsonValue | undefined): boolean {
  const isReplaced = kind === 'set' && typeof from === 'object' && from !== null && hasDigits(from)
  const isMisread = (step: Path[number]): boolean =>
    typeof step === 'string' && mayBeMisread(`{${JSON.stringify(step)}:0}`)
  return isReplaced || hasLongNumber({ json }) || (from !== undefined && path.some(isMisread))
}

function hasLongNumber({ json }: Pick<Operation, 'json'>): boolean {
  return hasNumber(json, /\d{16}/) || mayHoldInfinity(json)
}

function hasDigits(value: JsonValue): boolean {
  return hasNumber(textWithInfinity(value)!, /\d/)
}

async function sendPatch(
  call: Call,
  { instance, tableName, where, options }: RowUpdate,
  plain: Readonly<Record<string, unknown>>,
  documents: readonly SpelledColumn[],
  variants: readonly UpdateVariant[],
  context: QueryContext,
): Promise<UpdateResult<unknown>> {
  const { dialect, session } = call
  const row = RowRef.of(instance)
  const statement = new Statement(row)
  const { values, guard } = documentValues(documents, variants, dialect, statement)
  const sql = statement.update(tableName, { ...plain, ...values }, { [Op.and]: [where, literal(guard)] }, options)
  if (sql === undefined) throw usage.searchPath(method)
  const [{ column }] = documents as [SpelledColumn]
  refuseTooLarge(method, column, statement.bytes(sql, dialect.maxStatementBytes), dialect)
  const { maxBinds = Infinity } = session.connector
  refuseTooManyBinds(method, column, statement.countBinds(sql, maxBinds), maxBinds, dialect)
  if (dialect.matched) {
    const selection = (): string =>
      `SELECT 1 FROM ${statement.table()} WHERE ${statement.row(row.primaryKey)} AND ${guard}`
    const send = (): Promise<boolean | undefined> =>
      sendMatching(call, row, { sql, selection, binds: statement.binds }, context)
    const state = findTransactionState(context.transaction)
    const names = documents.map((each) => each.column)
    const ordinary = (options.fields ?? []).filter((name) => !names.includes(name))
    // This UPDATE is not sent as one of the instance, whose values its transaction would compare.
    const sendUnlessOlder = async (own: TransactionState): Promise<boolean | undefined> => {
      await refuseOlderValues(own, method, instance, ordinary, context)
      return send()
    }
    const isMatched = await (state ? state.runAlone(() => sendUnlessOlder(state)) : send())
    if (isMatched) return { result: 'matched', answer: [instance, 1] }
    return { result: isMatched === undefined ? 'unknown' : 'unmatched' }
  }
  // Sent like Sequelize's own UPDATE: Sequelize then assigns the result of `returning` to the instance.
  const own = {
    ...options,
    bind: statement.binds,
    type: QueryTypes.UPDATE,
    instance,
    transaction: context.transaction ?? null,
    retry: statementRetry(session, context),
    [patchedColumns]: documents.map((each) => each.column),
  } as const
  const send = async (): Promise<[Row, number]> => (await session.sequelize.query(sql, own)) as unknown as [Row, number]
  const answer = await sendTraced(session, sql, context, send, ([, rows]) => rows)
  return answer[1] > 0 ? { result: 'matched', answer } : { result: 'unmatched' }
}

/** The change that writes an edit, with the loaded value at the path of each operation. */
interface EditChange extends Change {
  readonly loaded: readonly (JsonValue | undefined)[]
  /** The JSON text of each operation, with the marks of a text that the application assigned. */
  readonly marked: readonly string[]
}

/** The minimal change that writes an edit; without operations, the whole document is replaced. */
function changeOf(edit: Edit & Pick<EditedColumn, 'given'>, conflicts: Policy['conflicts']): EditChange {
  const marked = difference(edit)
  if (!marked || marked.length > maxOperations) {
    return { operations: [], conditions: [isLoaded([], edit.before)], loaded: [], marked: [] }
  }
  const { given } = edit
  const edits = !given
    ? marked
    : marked.map(({ operation, loaded }) => {
        return { operation: Object.freeze({ ...operation, json: given.restore(operation.json) }), loaded }
      })
  return {
    operations: edits.map(({ operation }) => operation),
    conditions: unchangedSince(edit.before, edits, conflicts),
    loaded: edits.map(({ loaded }) => loaded),
    marked: marked.map(({ operation }) => operation.json),
  }
}

/** The condition that the value at a path is the loaded one. */
function isLoaded(path: Path, loaded: JsonValue): Condition {
  return { kind: 'equals', path, json: textWithInfinity(loaded)!, isLoaded: true }
}

/** The conditions that the values to change are as loaded, and that their parents still exist, as far as `conflicts` says. */
function unchangedSince(before: JsonValue, edits: readonly EditedValue[], conflicts: Policy['conflicts']): Condition[] {
  const isStrict = conflicts === 'throw'
  const parents = new Map<string, readonly Condition[]>()
  const text = textWithInfinity(before)!
  let root: JsonNode | undefined
  const own = edits.flatMap(({ operation: { kind, path, json }, loaded }): readonly Condition[] => {
    for (let depth = 0; isStrict && depth < path.length; depth++) {
      const parent = path.slice(0, depth)
      const stood = textAt(text, parent, (root ??= scanJson(text)))
      if (stood !== undefined && /^[[{]/.test(stood)) parents.set(JSON.stringify(parent), stillStands(parent))
    }
    if (kind === 'append') {
      const isInside = path.length > 0 && loaded !== undefined
      return isStrict && isInside ? stillStands(path) : []
    }
    if (!isStrict && mayOverwrite(loaded, json, conflicts)) return [not(size(path, { atLeast: 0 }))]
    return [loaded === undefined ? condition(method, 'absent', path, null) : isLoaded(path, loaded)]
  })
  return [...own, ...[...parents.values()].flat()]
}

/** The conditions that an object or array was neither removed nor set to null, which a write below it would create anew. */
function stillStands(path: Path): readonly Condition[] {
  const json = 'null'
  return [
    { kind: 'exists', path, json },
    { kind: 'equals', path, json, isNegated: true },
  ]
}

/** Whether the new value, or a removal, may overwrite another scalar at the same key. */
function mayOverwrite(loaded: JsonValue | undefined, json: string, conflicts: Policy['conflicts']): boolean {
  const isScalar = (typeof loaded !== 'object' || loaded === null) && !/^[[{]/.test(json)
  // A number may be computed from the loaded one, as a count is.
  const isNumber = typeof loaded === 'number' || /^[-\d]/.test(json)
  return isScalar && (conflicts === 'overwrite' || !isNumber)
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
    return [each.field, document === undefined ? (each.spelled ?? each.value) : literal(document)] as const
  })
  return { values: Object.fromEntries(values), guard: guards.join(' AND ') }
}
