import { parseJson } from '../json/json-text.js'
import { copied } from '../rows/operand-types.js'
import type { RowRef } from '../rows/row-ref.js'
import { policyOf } from '../sequelize/model-state.js'
import type { RowWrite } from '../sequelize/options.js'
import type { QueryContext } from '../sequelize/send.js'
import type { Call } from '../transactions/execute.js'
import { runCallback } from '../transactions/execute.js'
import type { TransactionState } from '../transactions/transaction-state.js'
import { plus } from './columns.js'
import type { ColumnChange } from './columns.js'
import type { NewRow } from './new-row.js'
import type { DocumentChange } from './update-document.js'

/** What a write has changed in its row. */
interface Changed {
  readonly documents: readonly DocumentChange[]
  readonly columns: readonly ColumnChange[]
}

/** Runs the function of the option `onWrite`, if the model has one, in the transaction of an UPDATE. */
export async function notifyUpdate(
  call: Call,
  row: RowRef,
  { documents, columns }: Changed,
  context: QueryContext,
  state: TransactionState,
): Promise<void> {
  const changes = Object.fromEntries([
    ...documents.filter(({ operations }) => operations.length > 0).map((each) => [each.column, [...each.operations]]),
    ...columns.map((each) => [each.attribute, 'plus' in each ? plus(each.plus) : copied(each.value)]),
  ]) as Record<string, unknown>
  await notify(call, row, { changes, isCreated: false }, context, state)
}

/** The same for an INSERT. */
export async function notifyInsert(
  call: Call,
  row: RowRef,
  { values, texts }: NewRow,
  context: QueryContext,
  state: TransactionState,
): Promise<void> {
  const documents = [...texts].map(([name, text]) => [name, parseJson(text)] as const)
  const changes = Object.fromEntries([...values, ...documents].filter(([name]) => !(name in row.primaryKey)))
  await notify(call, row, { changes, isCreated: true }, context, state)
}

async function notify(
  call: Call,
  { model, primaryKey }: RowRef,
  written: Pick<RowWrite, 'changes' | 'isCreated'>,
  context: QueryContext,
  state: TransactionState,
): Promise<void> {
  const { onWrite } = policyOf(model)
  if (!onWrite) return
  const transaction = context.transaction!
  // Copies: another attempt of the call must not depend on what the function does with them.
  const write = { method: call.method, model, primaryKey: { ...primaryKey }, ...written, transaction }
  // The write itself is still in progress.
  await runCallback({ ...call, method: 'onWrite' }, state, transaction, () => onWrite(write), true)
}
