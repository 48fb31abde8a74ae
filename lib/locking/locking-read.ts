import { RowNotFoundError } from '../errors/errors.js'
import { selectRow } from '../rows/read-row.js'
import type { RowRead } from '../rows/read-row.js'
import type { RowRef } from '../rows/row-ref.js'
import { assignStored, refuseUnsavedChanges, rowStateOf } from '../rows/row-state.js'
import { valuesOf } from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import type { QueryContext } from '../sequelize/send.js'
import type { Call } from '../transactions/call.js'
import { toMissingRow } from '../transactions/execute.js'
import { lockingRead } from '../transactions/lock-wait.js'
import { tooDeepError } from '../transactions/save-digits.js'
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
    read = await lockingRead(call, ref.model, context, (hint, clause) =>
      selectRow(ref, call.dialect, context, hint, clause),
    )
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
    if (rowStateOf(instance).isTooDeep(column)) throw tooDeepError(call.method, column)
  }
  return instance
}
