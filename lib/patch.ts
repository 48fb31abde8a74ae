import { literal, Op, QueryTypes } from 'sequelize'
import type { Logging, Transaction } from 'sequelize'
import { dialectOf, sendForHeader, sequelizeOf, statementRetry, Statement } from './database.js'
import type { Row, RowModel } from './database.js'
import { unchanged, unmatched, untilMatched } from './document.js'
import type { DocumentChange, DocumentColumn } from './document.js'
import type { Change, Dialect, UpdateVariant } from './dialects/dialect.js'
import { StaleRowError } from './errors/errors.js'
import { usage } from './errors/usage.js'
import { keyOf } from './instance.js'
import { refuseTooLarge, refuseUnsupported } from './dialects/limits.js'
import { difference } from './json/difference.js'
import type { Edit } from './json/difference.js'
import { condition } from './json/operation.js'
import type { Condition, Operation } from './json/operation.js'
import type { JsonObject, JsonValue } from './json/values.js'
import type { Policy } from './policy.js'
import { oneWriter } from './queue.js'
import { retry } from './retry.js'
import { facts } from './target.js'
import { isConflict, transactionFor, watch } from './transaction.js'

const method = 'save'

/** Past this many operations a statement grows beyond what every database takes. */
const maxOperations = 50

/** The change that writes an edit, and no more than that; without operations where the whole document is to be replaced. */
function changeOf(edit: Edit, conflicts: Policy['conflicts']): Change {
  const operations = difference(edit)
  if (!operations || operations.length > maxOperations) {
    return { operations: [], conditions: [{ kind: 'equals', path: [], json: JSON.stringify(edit.before) }] }
  }
  return { operations, conditions: conflicts === 'throw' ? unchangedSince(edit.before, operations) : [] }
}

/** That what the operations change is as it was, and what they go into still there. */
function unchangedSince(before: JsonValue, operations: readonly Operation[]): Condition[] {
  const there = new Map<string, Condition>()
  const own = operations.flatMap(({ kind, path }) => {
    let value: JsonValue | undefined = before ?? {}
    for (const [depth, key] of path.entries()) {
      const parent = path.slice(0, depth)
      if (depth > 0) there.set(JSON.stringify(parent), condition(method, 'exists', parent, null))
      value = Object.hasOwn(value as JsonObject, key) ? (value as JsonObject)[key] : undefined
    }
    if (value === undefined) return condition(method, 'absent', path, null)
    return kind === 'append' ? condition(method, 'exists', path, null) : condition(method, 'equals', path, value)
  })
  return [...own, ...there.values()]
}

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

/** A document of a row, its column's name in the database, and what was done to it. */
export interface EditedColumn extends DocumentColumn, Edit {
  readonly field: string
}

/**
 * Sends an UPDATE that, of the edited documents, writes only what changed, and all else as it was. What cannot be told as
 * operations is written if the column still holds what was loaded.
 * @throws {RowNotFoundError} the row does not exist
 * @throws {StaleRowError} others have changed what this needs to find as it was
 */
export async function patch(
  { instance, tableName, values, where, options, send }: RowUpdate,
  edits: readonly EditedColumn[],
  conflicts: Policy['conflicts'],
): Promise<unknown> {
  const model = instance.constructor as RowModel
  const sequelize = sequelizeOf(model)
  const identity = { model, primaryKey: keyOf(instance), instance }
  const changed = edits.map((edit) => ({ ...edit, ...changeOf(edit, conflicts) }))
  const documents = changed.filter(({ operations, conditions }) => operations.length + conditions.length > 0)
  const plain = without(values, edits)
  const sendPlain = async (): Promise<unknown> => (Object.keys(plain).length > 0 ? send(plain) : [instance, 1])
  if (documents.length === 0) return sendPlain()

  const joined = transactionFor(method, sequelize, options.transaction, undefined)
  const { logging } = options
  const dialect = await dialectOf(sequelize, { transaction: joined, logging })
  for (const each of documents) refuseUnsupported(method, each.column, each, dialect)
  const sending = { transaction: joined, logging }
  const write = async (): Promise<unknown> => {
    const outcome = await untilMatched({ method, identity, documents }, dialect, sending, {
      send: async (forms) => {
        const statement = new Statement(model)
        const made = updateOf(documents, forms, dialect, statement)
        const update = { ...plain, ...made.values }
        const sql = statement.update(tableName, update, { [Op.and]: [where, literal(made.guard)] }, options)
        if (sql === undefined) throw usage.searchPath(method)
        refuseTooLarge(method, documents[0]!.column, statement.bytes(sql, dialect.maxStatementBytes), dialect)
        if (dialect.matched) {
          const isMatched = dialect.matched(await sendForHeader(sequelize, sql, statement.binds, sending))
          return isMatched ? [instance, 1] : isMatched === undefined ? unchanged : unmatched
        }
        // As Sequelize sends it, which then takes the answer of `returning` into the instance.
        const answer = (await sequelize.query(sql, {
          ...options,
          bind: statement.binds,
          type: QueryTypes.UPDATE,
          instance,
          transaction: joined ?? null,
          retry: statementRetry(sequelize, joined !== undefined),
        })) as unknown as [Row, number]
        return answer[1] > 0 ? answer : unmatched
      },
      refusal: ({ column }, { path }) => StaleRowError.changedSinceLoad(method, facts(identity), column, path),
    })
    // Somebody has written the same into the documents; of the other columns nobody knows.
    return 'answer' in outcome ? outcome.answer : sendPlain()
  }
  if (joined) {
    watch(joined, dialect)
    return write()
  }
  return retry(
    () => oneWriter(method, sequelize, dialect, write),
    (error) => isConflict(error, dialect),
    { maxAttempts: 3 },
  )
}

function without(
  values: Readonly<Record<string, unknown>>,
  edits: readonly EditedColumn[],
): Readonly<Record<string, unknown>> {
  const fields = edits.map(({ field }) => field)
  return Object.fromEntries(Object.entries(values).filter(([field]) => !fields.includes(field)))
}

/** The values of the documents' columns, by field, and the condition to write them on. */
function updateOf(
  documents: readonly (EditedColumn & DocumentChange)[],
  forms: readonly UpdateVariant[],
  dialect: Dialect,
  statement: Statement,
): { readonly values: Record<string, unknown>; readonly guard: string } {
  const guards: string[] = []
  const values = documents.map((each, index) => {
    const target = { sql: statement.column(each.column), type: each.type }
    const [whole] = each.operations.length === 0 ? each.conditions : []
    const { document, guard } = whole
      ? { document: undefined, guard: dialect.holds(target, statement.bind(whole.json)) }
      : forms[index]!(each, target, statement.bind)
    guards.push(guard)
    return [each.field, document === undefined ? each.after : literal(document)] as const
  })
  return { values: Object.fromEntries(values), guard: guards.join(' AND ') }
}
