import { DatabaseError } from 'sequelize'
import type { Attributes, Logging, Model, ModelStatic, Transactionable, WhereOptions } from 'sequelize'
import type { UpdateVariant } from '../dialects/dialect.js'
import { refuseTooLarge, refuseTooManyBinds } from '../dialects/limits.js'
import { checkOptions } from '../errors/check-options.js'
import { ConflictError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import type { Changes, KeyCompletions } from '../json/document-types.js'
import { conditionSql } from '../rows/row-conditions.js'
import { rowsWhere } from '../rows/row-query.js'
import type { RowQuery } from '../rows/row-query.js'
import { identifyRow, RowRef } from '../rows/row-ref.js'
import { refuseTruncation } from '../rows/short-columns.js'
import { attributeType, valuesOf } from '../sequelize/internals.js'
import type { RowModel } from '../sequelize/internals.js'
import { modelStateOf } from '../sequelize/model-state.js'
import { traceCall } from '../sequelize/channels.js'
import { sendForHeader, sendForInstances } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import { Statement } from '../sequelize/statement.js'
import { execute, factsOf, inSavepoint, startCall } from '../transactions/execute.js'
import type { Call } from '../transactions/execute.js'
import { transactionToJoin } from '../transactions/join.js'
import { lockingRead } from '../transactions/lock-wait.js'
import { checkRetryOptions } from '../transactions/retry.js'
import type { RetryOptions } from '../transactions/retry.js'
import type { TransactionState } from '../transactions/transaction-state.js'
import { splitChanges } from './atomic-update.js'
import { buildUpdate, changedColumns, refuseUnsupportedChanges, updateInTransaction } from './atomic-write.js'
import type { RowChanges } from './atomic-write.js'
import { validatedChanges } from './columns.js'
import type { Plus } from './columns.js'
import { notifyUpdate } from './on-write.js'
import { isReadFirst, toWriteError, variantsOf } from './update-document.js'
import type { DocumentChange } from './update-document.js'

export interface UpdateWhereOptions extends Logging, Transactionable {
  /** Allow a call that changes every row: neither the `where` nor a named scope restricts them. Default: false. */
  readonly all?: boolean
  /** As {@link JsonWriteOptions}: attempts after a deadlock or a conflict in a cluster. Default: 3 attempts. */
  readonly retry?: RetryOptions
}

const optionNames = ['transaction', 'all', 'retry', 'logging'] as const

/** The maximum number of rows of one UPDATE. */
const maxRows = 512

/**
 * Changes every row that meets a `where`, all of them or none: JSON columns by operations, ordinary columns by new values or by
 * {@link plus}, as {@link atomicUpdate} does for one row.
 *
 * A locking read of the primary keys, then one UPDATE for up to 512 rows of one kind of document (object, or NULL), in one
 * transaction. A concurrent write of one of the rows is before or after this call as a whole: never lost, never counted twice. A
 * row that comes to meet the `where` after the read is not changed. New values pass through setters and validators once; hooks do
 * not run. `updatedAt` and `version` of each row change. Sends, on MySQL:
 *
 *     START TRANSACTION
 *     SELECT `id` AS `id`, CASE WHEN JSON_TYPE(`progress`) = 'OBJECT' AND … THEN 0 … END AS `kind of row` FROM `workflow_runs`
 *     WHERE `status` = ? ORDER BY `id` FOR UPDATE
 *     UPDATE `workflow_runs` FORCE INDEX (PRIMARY) SET `progress` = JSON_SET(`progress`, ?, …), … WHERE `id` IN (?, …) AND …
 *     COMMIT
 *
 * In a transaction that the call joins, a savepoint takes the place of the transaction. On MySQL and MariaDB, a `where` without
 * an index locks every row of the table until the transaction ends. The conditions of the model's scope hold too, and rows that a
 * `paranoid` model has deleted do not match.
 *
 * @param where   conditions on ordinary columns in Sequelize's language, with the operators of {@link RowWhere}
 * @param changes by attribute, as in {@link atomicUpdate}
 * @returns the number of rows that met the `where`; all of them were changed
 * @throws the errors of {@link atomicUpdate}, which name the row; nothing was written
 * @throws {UsageError} before any SQL: neither the `where` nor a named scope restricts the rows, without `{ all: true }`
 * @throws {JsonShapeError} the first row with a document that does not fit; nothing was written
 * @example
 *     const count = await updateWhere(
 *       WorkflowRun,
 *       { status: 'running', startedAt: { [Op.lt]: yesterday } },
 *       { progress: [set('error', 'timeout')], status: 'failed', attempts: plus(1) },
 *     )
 * @see https://dev.mysql.com/doc/refman/9.7/en/innodb-locking-reads.html
 */
export async function updateWhere<M extends Model, const G extends object>(
  model: ModelStatic<M>,
  where: WhereOptions<Attributes<M>>,
  changes: (G & Changes<M, G, Plus>) | KeyCompletions<M>,
  options: UpdateWhereOptions = {},
): Promise<number> {
  const method = 'updateWhere'
  const { transaction, all, logging, ...checked } = checkOptions(method, options, optionNames)
  const retry = checkRetryOptions(method, checked.retry)
  const query = rowsWhere(method, model, where, all)
  const { session, facts } = query
  const { documents, changes: ordinary } = splitChanges(method, query.model, changes)
  const joined = transactionToJoin(method, session, transaction, undefined)
  if (joined && retry) throw usage.retryJoined(method)
  const columns = await validatedChanges(method, query, ordinary)
  const call = await startCall({ method, session, row: facts, transaction: joined, logging })
  refuseUnsupportedChanges(call, documents, columns)
  await refuseTruncation(call, query.model, changedColumns(documents))
  const write = async (context: QueryContext, state: TransactionState): Promise<number> => {
    const update = { documents, columns, where: [], calls: 1, now: new Date() }
    const refs = await state.runAlone(() => updateRows(call, query, update, context, state))
    for (const ref of refs) await notifyUpdate(call, ref, update, context, state)
    return refs.length
  }
  const statements = (context: QueryContext, state: TransactionState | undefined): Promise<number> => {
    // A save of one of these rows that is in progress has its document in its statement already.
    const rows = state!.lockedRows.ofTable(query.model)
    return state!.runBulkCall(rows, `${method}()`, () => inSavepoint(call, context, (own) => write(own, state!)))
  }
  return traceCall(call, () => execute(call, { statements }, { opensTransaction: true, retry }))
}

/** A locked row, and the combination of variants that matches it. */
interface FoundRow {
  readonly ref: RowRef
  /** `undefined` if none does, or if it is not known. */
  readonly variants: readonly UpdateVariant[] | undefined
}

/** Locks and changes the rows that meet the conditions of a query; returns them. */
async function updateRows(
  call: Call,
  query: RowQuery,
  changes: RowChanges,
  context: QueryContext,
  state: TransactionState,
): Promise<readonly RowRef[]> {
  const found = await lockRows(call, query, changes.documents, context)
  const rest: RowRef[] = []
  const alike = new Map<readonly UpdateVariant[], RowRef[]>()
  for (const { ref, variants } of found) {
    // A locked instance gets the change too. A document that no variant matches has to be read.
    if (variants === undefined || state.lockedRows.ofRow(ref.key).length > 0) rest.push(ref)
    else if (alike.has(variants)) alike.get(variants)!.push(ref)
    else alike.set(variants, [ref])
  }
  // First those that may not fit.
  for (const row of rest) {
    const own = { ...call, row: factsOf(call, row) }
    await updateInTransaction(own, { ...changes, row, answer: 'nothing' }, context, state)
  }
  for (const [variants, refs] of alike) {
    for (let start = 0; start < refs.length; start += maxRows) {
      await updateAlike(call, query, changes, variants, refs.slice(start, start + maxRows), context)
    }
  }
  return found.map(({ ref }) => ref)
}

/** The alias of the combination of variants that matches a row; no attribute has this name. */
const kindAlias = 'kind of row'

/** Locks the rows that meet the conditions of a query, in the order of their keys. */
async function lockRows(
  call: Call,
  query: RowQuery,
  documents: readonly DocumentChange[],
  context: QueryContext,
): Promise<readonly FoundRow[]> {
  const { method, dialect, session } = call
  const { model, conditions } = query
  const combinations = documents.some((each) => isReadFirst(each, dialect)) ? [] : variantsOf(documents, dialect)
  const select = new Statement(query)
  let prefix = ''
  const cases = combinations.map((variants, index) => {
    const guards = documents.map((each, place) => {
      const guard = guardOf(variants[place]!, each, select)
      prefix ||= guard.prefix
      return guard.sql
    })
    return `WHEN ${guards.join(' AND ') || '1 = 1'} THEN ${index}`
  })
  const kind = cases.length > 0 ? `CASE ${cases.join(' ')} END` : 'NULL'
  const order = model.primaryKeyAttributes.map((name) => select.column(name)).join(', ')
  const selected = `${select.keyColumns()}, ${kind} AS ${select.alias(kindAlias)}`
  const sql = `${selected} FROM ${select.table()} WHERE ${query.sql(select)} ORDER BY ${order}`
  const { maxBinds = Infinity } = session.connector
  const column = documents[0]?.column ?? model.primaryKeyAttributes[0]!
  refuseTooLarge(method, column, select.bytes(sql, dialect.maxStatementBytes), dialect)
  refuseTooManyBinds(method, column, select.countBinds(sql, maxBinds), maxBinds, dialect)
  try {
    return await lockingRead(call, query, context, async (hint, clause) => {
      const rows = await sendForInstances(query, `${prefix}SELECT ${hint}${sql} ${clause}`, select.binds, context)
      return rows.map((row) => {
        const found = valuesOf(row)[kindAlias] as number | string | null
        const { primaryKey } = identifyRow(method, row)
        const ref = new RowRef(model, primaryKey, undefined, conditions)
        return { ref, variants: found === null ? undefined : combinations[Number(found)] }
      })
    })
  } catch (error) {
    throw toWriteError(error, call, query, { documents, columns: [] }, context)
  }
}

/** The guard of a variant, without the binds of its document alone: PostgreSQL refuses a bind that the text does not have. */
function guardOf(
  variant: UpdateVariant,
  { column, type, ...change }: DocumentChange,
  select: Statement,
): { readonly sql: string; readonly prefix: string } {
  const values: string[] = []
  const { guard, prefix = '' } = variant(
    change,
    { sql: select.column(column), type },
    (value) => `\0${values.push(value)}\0`,
  )
  const placeholders = new Map<string, string>()
  const sql = guard.replace(/\0(\d+)\0/g, (_, number: string) => {
    const placeholder = placeholders.get(number) ?? select.bind(values[Number(number) - 1])
    placeholders.set(number, placeholder)
    return placeholder
  })
  return { sql, prefix }
}

/**
 * Sends the UPDATE of rows that the same variants match.
 * @throws {ConflictError} the database skips one of the rows, or does not find it by its key
 */
async function updateAlike(
  call: Call,
  query: RowQuery,
  changes: RowChanges,
  variants: readonly UpdateVariant[],
  refs: readonly RowRef[],
  context: QueryContext,
): Promise<void> {
  const { model, conditions } = query
  const { documents, columns } = changes
  const hasTimes = model.primaryKeyAttributes.some((name) => attributeType(model, name) === 'DATE')
  if (hasTimes) await refuseShortenedKeys(call, query, refs, context)
  const own = { ...changes, where: conditions }
  const build = (hint?: string): ReturnType<typeof buildUpdate> =>
    buildUpdate(call, model, own, variants, { sql: (each) => keysSql(model, refs, each), ...(hint && { hint }) })
  try {
    if (call.dialect.matched) await sendCounted(call, model, build, refs, context)
    else await sendReturning(call, model, build(), refs, changes, context)
  } catch (error) {
    throw toWriteError(error, call, { facts: call.row!, model }, { documents, columns }, context)
  }
}

/**
 * Sends the UPDATE of some rows on a database that counts the rows it has changed.
 * @param build builds it, with SQL after its table if given
 * @throws {ConflictError} the database does not find one of the rows by its key
 */
async function sendCounted(
  call: Call,
  model: RowModel,
  build: (hint?: string) => ReturnType<typeof buildUpdate>,
  refs: readonly RowRef[],
  context: QueryContext,
): Promise<void> {
  const { method, dialect, session } = call
  const { definition } = modelStateOf(model)
  const send = async (hint?: string): Promise<unknown> => {
    const { sql, statement } = build(hint)
    const [header] = await sendForHeader(session, sql, statement.binds, context)
    return header
  }
  const { hint, isMissing } = definition.lacksPrimaryIndex ? {} : (dialect.primaryIndex ?? {})
  const header = await send(hint).catch((error: unknown) => {
    if (!(error instanceof DatabaseError) || !isMissing?.(error.parent)) throw error
    definition.lacksPrimaryIndex = true
    return send()
  })
  const isMatched = dialect.matched!(header, refs.length)
  if (isMatched) return
  const select = new Statement({ session, model })
  const sql = `SELECT ${select.keyColumns()} FROM ${select.table()} WHERE ${keysSql(model, refs, select)} ${dialect.lockClause}`
  const found = await sendForInstances({ session, model }, sql, select.binds, context)
  const missing = missingOf(refs, found) ?? (isMatched === false ? refs[0] : undefined)
  if (missing) throw ConflictError.unmatchedKey(method, missing.facts)
}

/**
 * Sends the UPDATE of some rows on a database that returns the rows it has matched.
 * @throws {ConflictError} the database skips one of the rows
 */
async function sendReturning(
  { method, dialect, session }: Call,
  model: RowModel,
  { sql, statement }: ReturnType<typeof buildUpdate>,
  refs: readonly RowRef[],
  { documents, columns }: RowChanges,
  context: QueryContext,
): Promise<void> {
  const returning = `${sql} RETURNING ${statement.keyColumns()}`
  const missing = missingOf(refs, await sendForInstances({ session, model }, returning, statement.binds, context))
  if (!missing) return
  const names = [...documents.map(({ column }) => column), ...columns.map(({ attribute }) => attribute)]
  throw ConflictError.skipped(method, missing.facts, names, dialect.skipsRows!('UPDATE'))
}

/**
 * Drivers read a time without its microseconds, which may then be the key of another row.
 * @throws {ConflictError} a row that was found by the conditions of a query is not found by them and its key
 */
async function refuseShortenedKeys(
  { method, dialect, session }: Call,
  { model, conditions }: RowQuery,
  refs: readonly RowRef[],
  context: QueryContext,
): Promise<void> {
  const select = new Statement({ session, model })
  const where = [keysSql(model, refs, select), ...conditions.map((each) => conditionSql(each, select))]
  const sql = `SELECT ${select.keyColumns()} FROM ${select.table()} WHERE ${where.join(' AND ')} ${dialect.lockClause}`
  const found = await sendForInstances({ session, model }, sql, select.binds, context)
  const missing = missingOf(refs, found) ?? (found.length < refs.length ? refs[0] : undefined)
  if (missing) throw ConflictError.unmatchedKey(method, missing.facts)
}

function missingOf(refs: readonly RowRef[], rows: readonly Model[]): RowRef | undefined {
  const keys = new Set(rows.map((row) => RowRef.of(row as never).key))
  return refs.find(({ key }) => !keys.has(key))
}

/** The condition that matches rows by their keys: few texts, whatever their number. */
function keysSql(model: RowModel, refs: readonly RowRef[], statement: Statement): string {
  const padding = new Array<RowRef>(2 ** Math.ceil(Math.log2(refs.length)) - refs.length).fill(refs[0]!)
  const [name, ...others] = model.primaryKeyAttributes as [string, ...string[]]
  const all = [...refs, ...padding]
  if (others.length > 0) return `(${all.map(({ primaryKey }) => `(${statement.row(primaryKey)})`).join(' OR ')})`
  return `${statement.column(name)} IN (${all.map(({ primaryKey }) => statement.value(name, primaryKey[name])).join(', ')})`
}
