import type { Transaction, Transactionable } from 'sequelize'
import { callOf, describeRow } from '../errors/describe.js'
import { UnsupportedValueError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { RowRef } from '../rows/row-ref.js'
import { assignStored, findRowState, rowStateOf } from '../rows/row-state.js'
import {
  fieldOf,
  isSameTransaction,
  isSameUntyped,
  keyFormat,
  modelOf,
  updatedAtAttribute,
  valuesOf,
  versionAttribute,
} from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { inheritedStates, modelStateOf } from '../sequelize/model-state.js'
import { overrideAsync } from '../sequelize/override.js'
import { sessionOfModel } from '../sequelize/session.js'
import {
  ambientTransaction,
  isInScope,
  lockTransaction,
  refuseBrokenLock,
  refuseOutside,
  refuseRolledBack,
  refuseWriteBesideCheck,
} from './join.js'
import { addInMemory, addToOtherInstances, findByKeys, refuseStaleSave } from './other-instances.js'
import { findTransactionState } from './transaction-state.js'
import type { TransactionState } from './transaction-state.js'

/** Sequelize's methods of an instance that send a statement, and which argument of each holds its options. */
const optionsIndex = { save: 0, update: 1, destroy: 0, reload: 0, increment: 1, decrement: 1, restore: 0 } as const

type RowMethod = keyof typeof optionsIndex
type Original = (this: Row, ...args: unknown[]) => unknown

/** Options of Sequelize's row methods; `update` also takes an array of fields. */
interface RowMethodOptions extends Transactionable {
  readonly fields?: readonly string[]
}

/**
 * Overrides Sequelize's row methods to join the lock on their row: in the callback of withLock, the methods of its row
 * run in its transaction without `{ transaction }`. For a row that is not locked, the methods are unchanged.
 */
export function joinRowMethods(model: RowModel): void {
  if (inheritedStates(model).some(({ joinsLocks }) => joinsLocks)) return
  modelStateOf(model).joinsLocks = true
  for (const name of Object.keys(optionsIndex) as RowMethod[]) {
    overrideAsync<Row>(
      model.prototype as object,
      name,
      (original) =>
        function (...args) {
          return callRowMethod(this, name, original, args)
        },
    )
  }
}

function callRowMethod(row: Row, name: RowMethod, original: Original, args: unknown[]): unknown {
  const index = optionsIndex[name]
  const given = args[index]
  const options = (Array.isArray(given) ? { fields: given as string[] } : given) as RowMethodOptions | undefined
  if (name !== 'reload') refuseWriteBesideCheck(row, name)
  const transaction = transactionOf(row, name, options?.transaction)
  const state = findTransactionState(transaction)
  if (!transaction || !state?.dialect) return original.apply(row, args)
  state.refuseIfOver(name)
  const rowState = findRowState(row)
  const isLocked = isLockedIn(row, transaction)
  const added = {
    ...(name === 'reload' && isLocked && lockOf(row, transaction)),
    ...(name === 'save' && keyFormat(row)),
  }
  args[index] = { ...added, ...options, transaction }
  if (name === 'update') {
    state.remember(row, transaction)
    rowState?.markChangesInPlace()
    // It assigns the values now, and calls save().
    return original.apply(row, args)
  }
  const key = row.isNewRecord ? undefined : RowRef.of(row).looseKey
  return state.runCall(key, `${name}() of a ${modelOf(row).name}`, async () => {
    state.remember(row, transaction)
    rowState?.markChangesInPlace()
    if (name === 'save' && !row.isNewRecord) refuseStaleSave(state, name, row, options?.fields)
    // decrement() calls increment(), so one case is enough.
    if (name === 'increment') return sendIncrement(state, row, original, args, isLocked)
    try {
      const result = await original.apply(row, args)
      if (name === 'reload') rowState?.recordReload()
      return result
    } finally {
      if (name === 'save') rowState?.endSave()
    }
  })
}

/**
 * The transaction that a row method joins: the one that is given, else the one that locks the row, else the ambient one.
 * @throws {UsageError} the row is locked, and the call takes part in no transaction, or in another one
 * @throws {RolledBackError} the transaction that locked the row, or that of the callback around the call, was rolled back
 * @throws {OutsideTransactionError} the call joins none, inside a callback that has a transaction
 */
function transactionOf(row: Row, name: RowMethod, asked: Transaction | null | undefined): Transaction | undefined {
  const session = sessionOfModel(modelOf(row))
  const held = asked === undefined ? lockTransaction(row) : undefined
  const transaction = asked === null ? undefined : (asked ?? held ?? ambientTransaction(session))
  refuseLockedElsewhere(row, name, transaction)
  if (transaction || asked === null) return transaction
  refuseBrokenLock(name, row)
  // Also if there is nothing to save: a change in place, which Sequelize cannot detect, would be lost silently.
  if (name === 'reload') refuseRolledBack(session, name)
  else refuseOutside(session, undefined, `${name}() of this ${modelOf(row).name}`, row)
  return undefined
}

function isLockedIn(row: Row, transaction: Transaction | undefined): boolean {
  const lock = findRowState(row)?.lock
  return lock !== undefined && transaction !== undefined && isSameTransaction(lock.transaction, transaction)
}

/** @throws {UsageError} a callback has locked the row, and the call is no part of its transaction */
function refuseLockedElsewhere(row: Row, name: RowMethod, transaction: Transaction | undefined): void {
  const lock = findRowState(row)?.lock
  if (!lock?.isScoped || isLockedIn(row, transaction)) return
  const isInside = isInScope(lock.transaction)
  const { facts } = RowRef.of(row)
  if (name === 'reload' && isInside && !transaction) throw usage.lockedAround(name, facts)
  // A save would write from memory what the callback that holds the lock may yet undo.
  if (name === 'reload' || (!isInside && (name === 'save' || name === 'update'))) {
    throw usage.lockedElsewhere(name, facts)
  }
}

/** The lock option for a reload of a locked row: a plain read could return a snapshot older than the lock. */
function lockOf(row: Row, { LOCK }: Transaction): object {
  return { lock: { level: LOCK.NO_KEY_UPDATE, of: row.constructor } }
}

/**
 * The columns that increment() and decrement() change. Without this list, PostgreSQL and SQLite return the whole row,
 * which would overwrite values that were assigned or changed in place in the meantime.
 */
function columnsMovedBy(row: Row, fields: unknown): string[] {
  const model = modelOf(row)
  const named = typeof fields === 'object' && !Array.isArray(fields) ? Object.keys(fields ?? {}) : [fields].flat()
  return [...named, updatedAtAttribute(model), versionAttribute(model)]
    .filter((name) => typeof name === 'string' && name in model.getAttributes())
    .map((name) => fieldOf(model, name as string))
}

/** Sends increment(), and updates the version of the row and the other locked instances of the row. */
async function sendIncrement(
  state: TransactionState,
  row: Row,
  original: Original,
  [fields, options]: unknown[],
  isLocked: boolean,
): Promise<unknown> {
  const own = isLocked && { returning: columnsMovedBy(row, fields) }
  const amounts = amountsOf(fields, options as IncrementOptions)
  refuseInexactKey(row, amounts, options as IncrementOptions, isLocked)
  const result = await original.call(row, fields, { ...own, ...(options as object) })
  if (!rowStateOf(row).isIncremented) return result
  const method = incrementMethod(options as IncrementOptions)
  const unknown = isLocked ? addToMemory(state, row, method, amounts) : []
  if (unknown.length > 0) {
    const [stored] = await findByKeys(modelOf(row), [RowRef.of(row)], unknown, options as RowMethodOptions)
    if (stored) assignStored(row, Object.fromEntries(unknown.map((column) => [column, stored[column]])))
  }
  addToOtherInstances(state, row, amounts)
  return result
}

/**
 * Sequelize writes the primary key in increment() without the type of its column: on MySQL, a time without milliseconds.
 * @throws {UnsupportedValueError} the statement would change another row, or none
 */
function refuseInexactKey(
  row: Row,
  amounts: Readonly<Record<string, number>>,
  options: IncrementOptions,
  isLocked: boolean,
): void {
  const { model, facts, primaryKey } = RowRef.of(row)
  const name = Object.keys(primaryKey).find((each) => !isSameUntyped(model, each, primaryKey[each]))
  if (name === undefined) return
  const option = isLocked ? undefined : 'transaction'
  const changes = Object.entries(amounts).map(([column, amount]) => `${column}: plus(${amount})`)
  const own = callOf({ ...facts, option }, 'atomicUpdate', `{ ${changes.join(', ')} }`)
  const reason = `Sequelize writes "${name}", the primary key of ${describeRow(facts)}, without its milliseconds: the key of another row, or of none`
  throw new UnsupportedValueError(incrementMethod(options), reason, `Write ${own}.`, name)
}

/**
 * Adds what increment() has added in the database to the numbers in memory, unless its answer has. A number that was assigned,
 * without its sum, becomes stale: its save is refused.
 * @returns the attributes whose sums the database has rounded
 */
function addToMemory(
  state: TransactionState,
  row: Row,
  method: string,
  amounts: Readonly<Record<string, number>>,
): readonly string[] {
  const version = versionAttribute(modelOf(row))
  const rowState = rowStateOf(row)
  const unknown: string[] = []
  for (const [column, amount] of Object.entries({ ...amounts, ...(version !== undefined && { [version]: 1 }) })) {
    if (valuesOf(row)[column] === undefined) continue
    if (rowState.isDirty(column)) {
      rowState.markStale(column, method)
      continue
    }
    const isKnown = rowState.answeredColumns.has(column) || addInMemory(state, row, column, amount)
    if (!isKnown && !rowState.staleColumns.has(column)) unknown.push(column)
  }
  return unknown
}

interface IncrementOptions {
  readonly by?: number
  /** `false` for decrement(). */
  readonly increment?: boolean
}

/** The method that was called: decrement() calls increment(). */
function incrementMethod({ increment = true }: IncrementOptions = {}): string {
  return increment ? 'increment' : 'decrement'
}

/** The amounts that increment() adds, by attribute. */
function amountsOf(fields: unknown, { by = 1, increment = true }: IncrementOptions): Record<string, number> {
  const isByName = typeof fields === 'object' && !Array.isArray(fields)
  const named = isByName ? Object.entries(fields ?? {}) : [fields].flat().map((field) => [String(field), by] as const)
  return Object.fromEntries(named.map(([field, amount]) => [field, (increment ? 1 : -1) * Number(amount)]))
}
