import { UniqueConstraintError } from 'sequelize'
import type { CreationAttributes, Logging, Model, Transactionable } from 'sequelize'
import type { DriverError, IndexColumn } from '../dialects/dialect.js'
import { refuseClampedRow, refuseTooLarge } from '../dialects/limits.js'
import { checkOptions, isOptions } from '../errors/check-options.js'
import {
  ConditionNotMetError,
  ConflictError,
  RowNotFoundError,
  UnsupportedDatabaseError,
  UnsupportedValueError,
} from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import type { Changes, KeyCompletions } from '../json/document-types.js'
import { isRoundedBy } from '../rows/operand-types.js'
import { rowConditions } from '../rows/row-conditions.js'
import { identifyTarget, RowQuery } from '../rows/row-query.js'
import type { TargetRow } from '../rows/row-query.js'
import { RowRef } from '../rows/row-ref.js'
import type { Target, TargetByKey } from '../rows/row-ref.js'
import { rowStateOf } from '../rows/row-state.js'
import { traceCall } from '../sequelize/channels.js'
import {
  attributeOfColumn,
  declaredType,
  fieldOf,
  isAutoIncrement,
  tableOf,
  uniqueKeysOf,
  whereNotDeleted,
} from '../sequelize/internals.js'
import type { RowModel } from '../sequelize/internals.js'
import { documentType, modelStateOf, policyOf } from '../sequelize/model-state.js'
import type { UniqueIndexes } from '../sequelize/model-state.js'
import { sendForHeader, sendForRows } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import { Statement } from '../sequelize/statement.js'
import { execute, factsOf, inSavepoint, startCall } from '../transactions/execute.js'
import type { Call } from '../transactions/execute.js'
import { selectKeys } from '../transactions/find-row.js'
import { transactionToJoin } from '../transactions/join.js'
import { checkRetryOptions } from '../transactions/retry.js'
import type { RetryOptions } from '../transactions/retry.js'
import type { TransactionState } from '../transactions/transaction-state.js'
import { splitChanges } from './atomic-update.js'
import { writeRow } from './atomic-write.js'
import { trackUnsettled } from './coalesce.js'
import type { Plus } from './columns.js'
import { createdValues, newRow } from './new-row.js'
import type { NewRow } from './new-row.js'
import { notifyInsert } from './on-write.js'
import { toWriteError } from './update-document.js'

export interface AtomicUpsertOptions<M extends Model = Model> extends Logging, Transactionable {
  /**
   * The values of a new row, as for `Model.create`: ordinary values and whole documents, to which the changes are then
   * applied. Without effect if the row is there. Example: `{ create: { title: 'new', progress: { steps: {} } } }`.
   * Default: the defaults of the model.
   */
  readonly create?: Partial<CreationAttributes<M>>
  /** As {@link JsonWriteOptions}: attempts after a deadlock or a conflict in a cluster. Default: 3 attempts. */
  readonly retry?: RetryOptions
}

const optionNames = ['create', 'transaction', 'retry', 'logging'] as const

/**
 * Changes one row as {@link atomicUpdate} does or, if it is not there, creates it: as `Model.create` with the key and the option
 * `create`, with the changes applied. So operations on a JSON column start from the document in `create` or from an empty
 * one, and {@link plus} from the value in `create` or from 0.
 *
 * Of concurrent calls for one key exactly one creates the row, and the changes of all are in it. Validators, setters and defaults
 * of the model apply to the new row, also if it turns out to be there; hooks do not run. A row that has another unique key of
 * the new row is an error, and never changed. Sends, on MySQL, for example for `{ progress: [increment('runs')] }`:
 *
 *     UPDATE `workflow_runs` SET `progress` = JSON_SET(`progress`, ?, …), `updatedAt` = ? WHERE `id` = ? AND …
 *     SELECT … FROM `workflow_runs` WHERE `id` = ?      -- this and the next one only if no row was changed
 *     INSERT INTO `workflow_runs` (`progress`, `createdAt`, `updatedAt`, `id`) VALUES (?, ?, ?, ?) ON DUPLICATE KEY UPDATE …
 *
 * If the row was created in between, the INSERT changes nothing, and the UPDATE is sent again. In a transaction on MySQL and
 * MariaDB the INSERT is the first statement, whose lock is exclusive: after an UPDATE that finds no row, two transactions would
 * wait for each other. There, an UPDATE trigger also sees an UPDATE without a change. An INSERT that adds no row can use up an
 * auto-increment number.
 *
 * @param target  `[Model, primaryKey]`; or `[Model, { where }]` with the values of another unique key that the model declares
 * @param changes by attribute: an array of operations for a JSON column, a value or {@link plus} for an ordinary one
 * @returns `true` if this call created the row, `false` if it changed the row that was there
 * @throws the errors of {@link atomicUpdate}, but no RowNotFoundError
 * @throws {UsageError} before any SQL: a `where` that is not a unique key, a key that its column would round, or a wrong
 *   option `create`. Before the INSERT: a change does not fit the new row; nothing was written
 * @throws {ValidationError} of Sequelize, before any SQL: the new row would lack a value, or a validator refuses one
 * @throws {UniqueConstraintError} of Sequelize: another row has another unique key of the new row; nothing was written
 * @throws {ConditionNotMetError} a `paranoid` model has deleted the row, which is still there; nothing was written
 * @throws {ConflictError} after each INSERT that found the row, another writer deleted it; or the database skips the INSERT
 * @throws {UnsupportedDatabaseError} the table lacks the unique key of the `where`
 * @example
 *     const isNew = await atomicUpsert(
 *       [DailyStats, { where: { day } }],
 *       { counts: [increment('logins')], total: plus(1) },
 *       { create: { source: 'web' } },
 *     )
 * @see https://dev.mysql.com/doc/refman/9.7/en/insert-on-duplicate.html
 */
export async function atomicUpsert<M extends Model, const G extends object>(
  target: TargetByKey<M>,
  changes: (G & Changes<M, G, Plus>) | KeyCompletions<M>,
  options: AtomicUpsertOptions<M> = {},
): Promise<boolean> {
  const method = 'atomicUpsert'
  const [row, key] = identifyUpsert(method, target)
  const { model, session, facts } = row
  const { create = {}, retry: policy, logging, transaction } = checkOptions(method, options, optionNames)
  const moved = isOptions(changes) ? Object.keys(changes).find((name) => name in key) : undefined
  if (moved !== undefined && !model.primaryKeyAttributes.includes(moved)) {
    throw usage.upsertedKey(method, model.name, moved)
  }
  const parts = {
    model,
    key,
    create: createdValues(method, model, key, create),
    ...splitChanges(method, model, changes),
  }
  const retry = checkRetryOptions(method, policy)
  const joined = transactionToJoin(method, session, transaction, undefined)
  if (joined && retry) throw usage.retryJoined(method)

  const perform = async (): Promise<boolean> => {
    const call = await startCall({ method, session, row: facts, transaction: joined, logging })
    refuseClampedRow(method, call.dialect)
    refuseZero(call, row, key)
    const added = await newRow(call, parts)
    const { documents, changes: values } = parts
    const where = whereNotDeleted(model).flatMap((each) => rowConditions(method, model, each))
    const own = { transaction: joined ?? null, ...(retry && { retry }), ...(logging !== undefined && { logging }) }
    const update = (): Promise<unknown> => writeRow({ method, row, documents, changes: values, where }, own, 'nothing')
    const upsert: Upsert = { row, key, added, retry, update }
    if (!joined) return writeOrInsert(call, upsert)
    const rowKey = row instanceof RowRef ? row.looseKey : undefined
    const statements = (_context: QueryContext, state: TransactionState | undefined): Promise<boolean> =>
      state!.runCall(rowKey, `${method}()`, () => writeOrInsert(call, upsert))
    return execute(call, { statements }, { opensTransaction: false })
  }
  const traced = (): Promise<boolean> => traceCall({ method, row: facts }, perform)
  return joined ? traced() : trackUnsettled(session, traced)
}

/** One call, after all checks that need no row. */
interface Upsert {
  readonly row: TargetRow
  readonly key: Readonly<Record<string, unknown>>
  readonly added: NewRow
  readonly retry: RetryOptions | undefined
  /** Sends the UPDATE. */
  readonly update: () => Promise<unknown>
}

/** The maximum number of rounds, each lost to a writer that created the row and one that deleted it. */
const maxRounds = 5

/** Changes the row, or inserts it; resolves to whether it was inserted. */
async function writeOrInsert(call: Call, upsert: Upsert): Promise<boolean> {
  const { method, dialect, transaction } = call
  const { row, added } = upsert
  const insertsFirst = transaction !== undefined && dialect.insertIfAbsent.locksGaps && !added.refusal
  for (let round = 1; round <= maxRounds; round++) {
    if (!(round === 1 && insertsFirst) && (await isUpdated(call, upsert))) return false
    if (added.refusal) throw added.refusal
    try {
      if (await isInserted(call, upsert, round)) return true
    } catch (error) {
      // The row may have been created since the UPDATE, with both keys.
      const isLast = transaction !== undefined && dialect.isAfterError !== undefined
      if (!(error instanceof UniqueConstraintError) || isLast || !(await isUpdated(call, upsert))) throw error
      return false
    }
  }
  const causes = dialect.skipsRows ? `, or ${dialect.skipsRows('INSERT')}` : ''
  throw new ConflictError(
    method,
    row.facts,
    `an INSERT that added no row and an UPDATE that found none, in each of ${maxRounds} attempts: another writer deletes the row each time${causes}`,
    ConflictError.remedy(method, transaction !== undefined),
  )
}

/** Sends the UPDATE; resolves to whether the row was there. */
async function isUpdated(call: Call, { key, update }: Upsert): Promise<boolean> {
  const { method } = call
  try {
    await update()
    return true
  } catch (error) {
    // The call has no conditions of its own.
    if (error instanceof ConditionNotMetError)
      throw ConditionNotMetError.ofDeleted(method, factsOf(call, { facts: error }), error.column)
    if (!(error instanceof RowNotFoundError)) throw error
    // The column cannot represent the key.
    if (error.cause !== undefined)
      throw UnsupportedValueError.ofNewValue(method, Object.keys(key), 'of another type', error.cause)
    return false
  }
}

/** Sends the INSERT; resolves to whether it added the row. */
async function isInserted(call: Call, upsert: Upsert, round: number): Promise<boolean> {
  const { row, retry } = upsert
  const { onWrite } = policyOf(row.model)
  const insert = async (context: QueryContext, state: TransactionState | undefined): Promise<boolean> => {
    try {
      const indexes = await uniqueIndexes(call, upsert, context)
      // A row of another transaction can have several keys of the new row: the first round waits for any of them, and
      // fails for none. A row that is there after it has another key than the new row.
      const isAdded = await sendInsert(call, upsert, round === 1 && indexes?.areDeferrable === false, context)
      if (!isAdded || !state) return isAdded
      const ref = row instanceof RowRef ? row : onWrite && (await addedRow(call, row, context))
      if (ref) forgetDeleted(state, ref)
      if (ref && onWrite) await notifyInsert(call, ref, upsert.added, context, state)
      return true
    } catch (error) {
      const { values, texts } = upsert.added
      const columns = [...values].map(([attribute, value]) => ({ attribute, value }))
      const documents = [...texts.keys()].map((column) => ({
        column,
        type: documentType(row.model, column) === 'TEXT' ? ('TEXT' as const) : ('JSONB' as const),
      }))
      throw toWriteError(error, call, row, { documents, columns }, context)
    }
  }
  const statements = (context: QueryContext, state: TransactionState | undefined): Promise<boolean> =>
    onWrite ? inSavepoint(call, context, (inner) => insert(inner, state)) : insert(context, state)
  return execute(call, { statements }, { opensTransaction: onWrite !== null, retry })
}

/** The row of a unique key that was inserted in this transaction. */
async function addedRow(call: Call, query: RowQuery, context: QueryContext): Promise<RowRef> {
  const [added] = await selectKeys(call, query, context, () => 'LIMIT 1')
  return added!
}

async function sendInsert(
  call: Call,
  { row, key, added }: Upsert,
  ofEveryKey: boolean,
  context: QueryContext,
): Promise<boolean> {
  const { method, session, dialect } = call
  const { model } = row
  const { values, texts, expressions } = added
  const insert = new Statement(row)
  const names = [...texts.keys(), ...expressions.keys(), ...values.keys()].filter((name) => !(name in key))
  // The key is the last part: the error for a value that its column cannot represent says which bind it is.
  const attributes = [...names, ...Object.keys(key)]
  const columns = attributes.map((name) => insert.column(name))
  const placeholders = attributes.map((name) => {
    if (expressions.has(name)) return insert.expression(expressions.get(name))
    const text = texts.get(name)
    return text === undefined ? insert.value(name, values.get(name)) : insert.bind(text)
  })
  const plainBinds = [...insert.binds]
  const { sql, isInserted, isOtherKey, isNoKey } = dialect.insertIfAbsent
  const text = sql({
    table: insert.table(),
    columns,
    values: placeholders,
    key: Object.keys(key).map((name) => insert.column(name)),
    isKey: () => insert.row(key),
    ofEveryKey,
  })
  refuseTooLarge(method, names[0] ?? attributes[0]!, insert.bytes(text, dialect.maxStatementBytes), dialect)
  try {
    if (!isInserted) return (await sendForRows(session, text, insert.binds, context, model)).length > 0
    return isInserted(await sendForHeader(session, text, insert.binds, context))
  } catch (error) {
    const { parent } = error as { parent?: DriverError }
    if (parent && isNoKey?.(parent)) throw noKey(method, model, Object.keys(key))
    if (!parent || !isOtherKey?.(parent)) throw error
    // Fails with the error that names the other key.
    const plain = `INSERT INTO ${insert.table()} (${columns.join(', ')}) VALUES (${placeholders.join(', ')})`
    await sendForHeader(session, plain, plainBinds, context, model)
    return true
  }
}

/** Locked instances of the row, which was deleted in this transaction, do not know the new one. */
function forgetDeleted(state: TransactionState, row: RowRef): void {
  const { mutable } = modelStateOf(row.model).definition
  for (const other of state.lockedRows.ofRow(row.key)) {
    state.remember(other)
    for (const column of mutable) rowStateOf(other).markStale(column)
  }
}

/**
 * Resolves a target to the row and to the values of its key.
 * @throws {UsageError} it is an instance, or its `where` is not exactly a unique key of the model
 */
function identifyUpsert(
  method: string,
  target: Target<Model>,
): readonly [TargetRow, Readonly<Record<string, unknown>>] {
  if (!Array.isArray(target)) throw usage.upsertTarget(method, target)
  const row = identifyTarget(method, target)
  // The key is unique among all rows, deleted ones too.
  if (row instanceof RowRef) return [row.byKey, unroundedKey(method, row, row.primaryKey)]
  const { model } = row
  const { where } = target[1] as unknown as { where: Readonly<Record<string, unknown>> }
  const conditions = rowConditions(method, model, where)
  const key = Object.fromEntries(
    conditions.flatMap((each) => (each.kind === '=' ? [[each.attribute, each.value] as const] : [])),
  )
  const names = Object.keys(key).sort()
  const keys = uniqueKeysOf(model)
  const isUnique = keys.some((each) => each.length === names.length && each.toSorted().join() === names.join())
  if (!isUnique || conditions.length !== names.length) throw usage.upsertKey(method, model.name, keys)
  // Without the conditions of the scope: the key is unique among all rows.
  return [new RowQuery(model, conditions), unroundedKey(method, row, key)]
}

/** @throws {UsageError} the INSERT would round a value of the key, maybe to the key of another row */
function unroundedKey<K extends Readonly<Record<string, unknown>>>(
  method: string,
  { model, session }: TargetRow,
  key: K,
): K {
  for (const [name, value] of Object.entries(key)) {
    const declared = declaredType(model, name)
    if (isRoundedBy(declared.key, value)) throw usage.keyFraction(method, model.name, name, value)
    if (session.connector.rounds?.(declared, value)) {
      throw usage.keyDigits(method, model.name, name, declared.key, value)
    }
  }
  return key
}

/** @throws {UnsupportedValueError} the database would give the new row another key */
function refuseZero({ method, dialect }: Call, { model }: TargetRow, key: Readonly<Record<string, unknown>>): void {
  if (!dialect.insertIfAbsent.countsZero) return
  const zero = Object.keys(key).find((name) => isAutoIncrement(model, name) && Number(key[name]) === 0)
  if (zero === undefined) return
  const reason = `"${zero}" is an auto-increment column, in which ${dialect.name} would store the next number in place of 0`
  throw new UnsupportedValueError(method, reason, 'Use another number as the key.', zero)
}

/**
 * The unique indexes of the table of a model.
 * @throws {UnsupportedDatabaseError} the table lacks the unique key, so each of concurrent calls would insert a row
 */
async function uniqueIndexes(
  { method, session, dialect }: Call,
  { row: { model }, key }: Upsert,
  context: QueryContext,
): Promise<UniqueIndexes | undefined> {
  const { listIndexes } = dialect.insertIfAbsent
  if (!listIndexes) return undefined
  const names = Object.keys(key).sort()
  const isOf = ({ keys }: UniqueIndexes): boolean => keys.some((each) => each.join() === names.join())
  const { definition } = modelStateOf(model)
  if (definition.uniqueIndexes && isOf(definition.uniqueIndexes)) return definition.uniqueIndexes
  const select = new Statement({ session, model })
  const sql = listIndexes.sql({ ...tableOf(model), quoted: select.table() }, select.bind)
  const columns = (await sendForRows<Record<string, unknown>>(session, sql, select.binds, context)).map(
    listIndexes.read,
  )
  const indexes = new Map<string, IndexColumn[]>()
  for (const each of columns) indexes.set(each.name, [...(indexes.get(each.name) ?? []), each])
  const unique = [...indexes.values()].filter((index) => index.every(({ isUnique }) => isUnique))
  const found: UniqueIndexes = {
    // No attribute: an expression, or a column that the model does not have.
    keys: unique.map((index) => index.map(({ column }) => attributeOfColumn(model, column) ?? '').sort()),
    areDeferrable: columns.some(({ isDeferrable }) => isDeferrable),
  }
  definition.uniqueIndexes = found
  if (isOf(found)) return found
  throw noKey(method, model, names)
}

function noKey(method: string, model: RowModel, names: readonly string[]): UnsupportedDatabaseError {
  const fields = names.map((name) => fieldOf(model, name))
  return new UnsupportedDatabaseError(
    `the table of ${model.name} has no unique index of exactly ${fields.join(' + ')}, so concurrent calls of ${method}() would each insert a row`,
    `Migrate: await queryInterface.addIndex('<table>', [${fields.map((field) => `'${field}'`).join(', ')}], { unique: true }).`,
  )
}
