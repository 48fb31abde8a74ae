import type { Setting } from '../dialects/dialect.js'
import { RowNotFoundError } from '../errors/errors.js'
import { selectRow } from '../rows/read-row.js'
import type { RowRead } from '../rows/read-row.js'
import type { RowRef } from '../rows/row-ref.js'
import { assignStored, refuseUnsavedChanges, rowStateOf } from '../rows/row-state.js'
import { beginsImmediate, valuesOf } from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import { sendForHeader, sendForRows } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import type { Session } from '../sequelize/session.js'
import { Statement } from '../sequelize/statement.js'
import type { Call } from '../transactions/call.js'
import { toMissingRow } from '../transactions/execute.js'
import { unwritableError } from '../transactions/save-digits.js'
import type { TransactionState } from '../transactions/transaction-state.js'

/**
 * Locks and reads a row; returns the instance of `ref`, refreshed, or a new one.
 * @param isScoped only code in the callback of withLock joins the lock
 * @throws {RowNotFoundError} the row does not exist
 */
export async function acquireLock(
  call: Call,
  ref: RowRef,
  context: QueryContext,
  state: TransactionState,
  isScoped: boolean,
): Promise<Row> {
  let read: RowRead | undefined
  try {
    read = await readLocked(call, ref, context)
  } catch (error) {
    throw toMissingRow(error, call, ref.facts)
  }
  if (!read) throw new RowNotFoundError(call.method, ref.facts)
  const { row: fresh, texts } = read
  const instance = ref.instance ?? fresh
  if (instance !== fresh) {
    // Checked again: a change that was made while this call waited would be lost.
    refuseUnsavedChanges(call.method, ref)
    state.remember(instance, context.transaction)
    assignStored(instance, valuesOf(fresh))
  }
  rowStateOf(instance).acquire(context.transaction!, isScoped, texts)
  state.addLockedRow(instance)
  for (const column of texts.keys()) {
    if (rowStateOf(instance).isTooDeep(column))
      throw unwritableError(call.method, column, new RangeError('stored document'))
  }
  return instance
}

function readLocked(
  { dialect, session, timeoutMs }: Call,
  ref: RowRef,
  context: QueryContext,
): Promise<RowRead | undefined> {
  const { hint = '', clause = dialect.lockClause, setting } = timeoutMs === undefined ? {} : dialect.lockWait(timeoutMs)
  const read = async (): Promise<RowRead | undefined> => {
    if (dialect.writerQueue && !beginsImmediate(context.transaction!)) await takeWriteLock(ref, session, context)
    return selectRow(ref, dialect, context, hint, clause)
  }
  return setting ? withSetting(session, setting, context, read) : read()
}

/** Runs `fn` with a setting of the transaction's connection, then restores the former value. */
async function withSetting<R>(
  { sequelize }: Session,
  { value, read, write }: Setting,
  context: QueryContext,
  fn: () => Promise<R>,
): Promise<R> {
  const set = async (text: string): Promise<void> => {
    const [sql, ...binds] = write(text)
    await sendForRows(sequelize, sql, binds, context)
  }
  const [answer] = await sendForRows<Record<string, unknown>>(sequelize, read, [], context)
  const [before] = Object.values(answer!)
  await set(value)
  try {
    return await fn()
  } finally {
    // After the transaction has ended, PostgreSQL has already restored the setting.
    await set(String(before)).catch(() => undefined)
  }
}

/** Takes SQLite's write lock by an UPDATE without effect: a deferred transaction that reads first may never get it. */
async function takeWriteLock(
  { model, primaryKey }: RowRef,
  { sequelize }: Session,
  context: QueryContext,
): Promise<void> {
  const update = new Statement(model)
  const [attribute] = Object.keys(primaryKey)
  const column = update.column(attribute!)
  const sql = `UPDATE ${update.table()} SET ${column} = ${column} WHERE ${update.row(primaryKey)}`
  await sendForHeader(sequelize, sql, update.binds, context)
}
