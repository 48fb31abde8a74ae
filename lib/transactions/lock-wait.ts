import type { Setting } from '../dialects/dialect.js'
import type { RowFacts } from '../errors/errors.js'
import { traceLock } from '../sequelize/channels.js'
import { beginsImmediate } from '../sequelize/internals.js'
import type { RowModel } from '../sequelize/internals.js'
import { sendForHeader, sendForRows } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import type { Session } from '../sequelize/session.js'
import { Statement } from '../sequelize/statement.js'
import type { Call } from './execute.js'
import { transactionStateOf } from './transaction-state.js'

/**
 * Runs a locking read in a transaction, limits its wait as the call says, and publishes the wait.
 * @param target the row, or the query of rows
 * @param read gets the SQL after SELECT, and the SQL at the end of the statement
 */
export function lockingRead<R>(
  call: Call,
  { model, facts }: { readonly model: RowModel; readonly facts: RowFacts },
  context: QueryContext,
  read: (hint: string, clause: string) => Promise<R>,
): Promise<R> {
  const { method, dialect, session, timeoutMs } = call
  const { hint = '', clause = dialect.lockClause, setting } = timeoutMs === undefined ? {} : dialect.lockWait(timeoutMs)
  const wait = (): Promise<R> => {
    const taken = takeWriteLock(call, model, context)
    return taken ? taken.then(() => read(hint, clause)) : read(hint, clause)
  }
  const locked = (): Promise<R> => traceLock({ method, row: facts }, { kind: 'row', timeoutMs }, wait)
  if (!setting) return locked()
  // Otherwise a concurrent statement of the transaction would be sent under this setting.
  return transactionStateOf(context.transaction!).runAlone(() => withSetting(session, setting, context, locked))
}

/** Runs `fn` with a setting of the transaction's connection, then restores the former value. */
async function withSetting<R>(
  session: Session,
  { value, read, write }: Setting,
  context: QueryContext,
  fn: () => Promise<R>,
): Promise<R> {
  const set = async (text: string): Promise<void> => {
    const [sql, ...binds] = write(text)
    await sendForRows(session, sql, binds, context)
  }
  const [answer] = await sendForRows<Record<string, unknown>>(session, read, [], context)
  const [before] = Object.values(answer!)
  await set(value)
  try {
    return await fn()
  } finally {
    // After the transaction has ended, PostgreSQL has already restored the setting.
    await set(String(before)).catch(() => undefined)
  }
}

/**
 * Takes SQLite's write lock by an UPDATE without effect: a deferred transaction that reads first may never get it. `undefined`,
 * instead of a promise, if there is none to take.
 */
export function takeWriteLock(
  { dialect, session, timeoutMs }: Call,
  model: RowModel,
  context: QueryContext,
): Promise<unknown> | undefined {
  if (!dialect.writerQueue || beginsImmediate(context.transaction!)) return undefined
  const update = new Statement({ session, model })
  const column = update.column(model.primaryKeyAttributes[0]!)
  const sql = `UPDATE ${update.table()} SET ${column} = ${column} WHERE 1 = 0`
  return sendForHeader(session, sql, update.binds, { ...context, isSentOnce: timeoutMs !== undefined })
}
