import { isDeepStrictEqual } from 'node:util'
import { Op, Utils } from 'sequelize'
import type { FindOptions, Logging, Transaction } from 'sequelize'
import { StaleRowError } from '../errors/errors.js'
import { tryParseJson } from '../json/json-text.js'
import type { Operation } from '../json/operation.js'
import { isSameDocument, jsonOf } from '../rows/document-text.js'
import { integerTypes, isSumKnown, sumOf } from '../rows/operand-types.js'
import { RowRef } from '../rows/row-ref.js'
import { assignStored, findRowState, rowStateOf } from '../rows/row-state.js'
import {
  attributeType,
  fieldOf,
  hasFindHooks,
  isChanged,
  modelOf,
  previousValuesOf,
  updatedAtAttribute,
  valuesOf,
  versionAttribute,
} from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { isTextInMemory, modelStateOf } from '../sequelize/model-state.js'
import type { TransactionState } from './transaction-state.js'

// One transaction can have several instances of one row: the row of the callback, and an instance that a helper loaded.

/** Copies `columns`, which `writer` has just written from memory, to the other locked instances of the row. */
export function refreshOtherInstances(state: TransactionState, writer: Row, columns: readonly string[]): void {
  if (!state.lockedRows.hasOtherThan(writer)) return
  const ref = RowRef.of(writer)
  const version = versionAttribute(modelOf(writer))
  for (const other of state.lockedRows.ofRow(ref.key, writer)) {
    const otherState = rowStateOf(other)
    state.remember(other)
    const shared = sharedColumns(other, modelOf(writer), columns)
    otherState.markChangesInPlace(shared)
    for (const column of shared) {
      const value = valuesOf(writer)[column]
      if (otherState.isDirty(column) || value instanceof Utils.SequelizeMethod) {
        otherState.markStale(column)
        continue
      }
      otherState.staleColumns.delete(column)
      // Sequelize increments the version in the instance only after the statement.
      assignStored(other, { [column]: column === version ? Number(value) + 1 : copyOf(value) })
    }
    const { mutable } = modelStateOf(modelOf(other)).definition
    otherState.recordRead(
      shared.filter((column) => mutable.includes(column) && !otherState.staleColumns.has(column)),
      state.transaction,
    )
  }
}

/** Applies the operations of a JSON write to the other locked instances of the row. */
export function applyToOtherInstances(
  state: TransactionState,
  row: RowRef,
  column: string,
  operations: readonly Operation[],
  document?: unknown,
): readonly Row[] {
  const others = state.lockedRows.ofRow(row.key, row.instance)
  for (const other of others) {
    state.remember(other)
    if (sharedColumns(other, row.model, [column]).length === 0) continue
    rowStateOf(other).markChangesInPlace([column])
    rowStateOf(other).applyWrite(column, operations, copyOf(document))
  }
  return others
}

/**
 * Marks columns, which were written by a key, as stale in the locked instances of the row that the database takes for the one of
 * that key: their keys are spelled as stored.
 */
export async function markSameStale(
  state: TransactionState,
  ref: RowRef,
  columns: readonly string[],
  options: ReadOptions,
): Promise<void> {
  const { lockedRows } = state
  const { model, key } = ref
  const similar = lockedRows.ofRow(key).length > 0 ? [] : lockedRows.ofSimilarKeys(ref)
  if (similar.length === 0) return
  const [found] = await findByKeys(model, [ref], model.primaryKeyAttributes, options)
  const stored = found && new RowRef(model, found).key
  for (const other of similar) {
    if (RowRef.of(other).key !== stored) continue
    state.remember(other, options.transaction ?? undefined)
    for (const column of sharedColumns(other, model, columns)) rowStateOf(other).markStale(column)
  }
}

/**
 * Of the columns that a statement of `model` has written, those that the model of an instance declares alike. Those that it declares
 * by another name or type become stale.
 */
export function sharedColumns(instance: Row, model: RowModel, columns: readonly string[]): readonly string[] {
  const own = modelOf(instance)
  if (own.getAttributes() === model.getAttributes()) return columns
  const shared = columns.filter((column) => isDeclaredAlike(own, model, column))
  const others = columns.filter((column) => !shared.includes(column)).map((column) => fieldOf(model, column))
  for (const name of Object.keys(own.getAttributes())) {
    if (others.includes(fieldOf(own, name))) rowStateOf(instance).markStale(name)
  }
  return shared
}

function isDeclaredAlike(one: RowModel, other: RowModel, attribute: string): boolean {
  return (
    Object.hasOwn(one.getAttributes(), attribute) &&
    Object.hasOwn(other.getAttributes(), attribute) &&
    fieldOf(one, attribute) === fieldOf(other, attribute) &&
    attributeType(one, attribute) === attributeType(other, attribute) &&
    isTextInMemory(one, attribute) === isTextInMemory(other, attribute)
  )
}

/** The options of the statement after which rows are read. */
interface ReadOptions {
  readonly transaction?: Transaction | null | undefined
  readonly logging?: Logging['logging'] | undefined
}

/** The maximum number of rows that one statement reads by their keys. */
const maxKeys = 200

/**
 * Reads attributes of rows by their primary keys; without scopes and hooks.
 * @returns the values of each row, in the order of the rows; `undefined` for one that does not exist
 */
export async function findByKeys(
  model: RowModel,
  rows: readonly RowRef[],
  attributes: readonly string[],
  { transaction, logging }: ReadOptions,
): Promise<readonly (Readonly<Record<string, unknown>> | undefined)[]> {
  const read = [...new Set([...model.primaryKeyAttributes, ...attributes])]
  const options = { attributes: read, raw: false, transaction, paranoid: false, hooks: false }
  const find = (some: readonly RowRef[]): Promise<Row[]> => {
    const where = { [Op.or]: some.map((row) => row.keyIn(model)) }
    return model.unscoped().findAll({ ...options, ...(logging !== undefined && { logging }), where } as FindOptions)
  }
  const found = new Map<string, Row>()
  for (let start = 0; rows.length > 1 && start < rows.length; start += maxKeys) {
    for (const row of await find(rows.slice(start, start + maxKeys))) found.set(RowRef.of(row).key, row)
  }
  const values: (Readonly<Record<string, unknown>> | undefined)[] = []
  for (const row of rows) {
    // The key in memory may be spelled otherwise than the stored one.
    const stored = found.get(row.key) ?? (await find([row]))[0]
    values.push(stored && valuesOf(stored))
  }
  return values
}

/** Applies an increment() of `writer` to the other locked instances of its row. */
export function addToOtherInstances(
  state: TransactionState,
  writer: Row,
  amounts: Readonly<Record<string, number>>,
): void {
  if (!state.lockedRows.hasOtherThan(writer)) return
  const version = versionAttribute(modelOf(writer))
  const moved = { ...amounts, ...(version !== undefined && { [version]: 1 }) }
  for (const other of state.lockedRows.ofRow(RowRef.of(writer).key, writer)) {
    state.remember(other)
    const otherState = rowStateOf(other)
    for (const [column, amount] of Object.entries(moved)) {
      if (sharedColumns(other, modelOf(writer), [column]).length === 0) continue
      if (!addInMemory(state, other, column, amount)) otherState.markStale(column)
    }
  }
}

/**
 * Adds to a number in memory what a statement has added to it in the database; NULL stays NULL.
 * @returns `false` if the sum is not known: the number is not loaded, has an unsaved change, or the database rounds it
 */
export function addInMemory({ dialect }: TransactionState, row: Row, column: string, amount: number): boolean {
  const { [column]: value } = valuesOf(row)
  if (value === null) return true
  const state = rowStateOf(row)
  if (value === undefined || state.isDirty(column) || state.staleColumns.has(column)) return false
  const declared = attributeType(modelOf(row), column)
  const type = declared === 'DECIMAL' && !dialect!.hasDecimals ? 'DOUBLE PRECISION' : declared
  const isExact = integerTypes.includes(type) || type === 'DECIMAL'
  if (isExact && !isSumKnown(modelOf(row), column, String(amount))) return false
  assignStored(row, { [column]: sumOf(type, value, String(amount)) })
  return true
}

/** A copy of a document or an array; a date, bytes or a scalar is returned itself. */
function copyOf(value: unknown): unknown {
  const isShared = typeof value !== 'object' || value === null || value instanceof Date || value instanceof Uint8Array
  return isShared ? value : (tryParseJson(jsonOf(value)) ?? structuredClone(value))
}

/**
 * Refuses to save an instance that would overwrite, or silently lose, a change of its row in this transaction.
 * @throws {StaleRowError} another instance, or another statement, wrote a changed column in this transaction; or the row is
 *   locked through another instance, and this one holds an older document or was changed in place, which Sequelize cannot detect
 */
export function refuseStaleSave(state: TransactionState, method: string, row: Row, fields?: readonly string[]): void {
  const rowState = rowStateOf(row)
  if (!state.lockedRows.hasOtherThan(row) && rowState.staleColumns.size === 0) return
  const ref = RowRef.of(row)
  const instances = state.lockedRows.ofRow(ref.key)
  if (instances.length === 0) return
  const { staleColumns } = rowState
  const { mutable } = modelStateOf(ref.model).definition
  const isLockedItself = rowState.lock !== undefined && instances.includes(row)
  const columns = new Set([...staleColumns.keys(), ...(isLockedItself ? [] : mutable)])
  // Sequelize itself assigns these.
  const own = [updatedAtAttribute(ref.model), versionAttribute(ref.model)]
  for (const column of columns) {
    if (own.includes(column) || fields?.includes(column) === false) continue
    const isWritten = staleColumns.has(column) && rowState.hasChanged(column)
    if (!isWritten && (isLockedItself || !isBehind(row, column, instances))) continue
    const facts = {
      writer: staleColumns.get(column),
      isLocked: isLockedItself,
      isDocument: mutable.includes(column),
    }
    throw StaleRowError.inTransaction(method, ref.facts, column, facts)
  }
}

/** The text of a document that one of the locked instances of a row knows to be stored. */
function currentText(model: RowModel, column: string, instances: readonly Row[]): string | undefined {
  const current = instances.filter(
    (each) => isDeclaredAlike(modelOf(each), model, column) && !rowStateOf(each).staleColumns.has(column),
  )
  return current.map((each) => findRowState(each)?.storedText(column)).find((text) => text !== undefined)
}

/** Whether the document that an instance was loaded with differs from what the locked instances know to be stored. */
function isBehind(row: Row, column: string, instances: readonly Row[]): boolean {
  const values = valuesOf(row)
  const stored = Object.hasOwn(values, column) ? currentText(modelOf(row), column, instances) : undefined
  return stored !== undefined && !isSameDocument(loadedText(row, column), stored)
}

/** The text of the document that an instance was loaded with; after a change in place, only as far as the instance knows. */
function loadedText(row: Row, column: string): string {
  const state = rowStateOf(row)
  const { [column]: value } = valuesOf(row)
  if (!isChanged(row, column)) return state.textOf(column, value)
  const { [column]: previous } = previousValuesOf(row)
  return (previous === value ? state.storedText(column) : undefined) ?? state.textOf(column, previous)
}

/** The types whose stored value can be compared with the one that was sent. Others are rounded, so that a comparison could mislead. */
const exactTypes = [...integerTypes, 'BOOLEAN', 'STRING', 'TEXT', 'CHAR', 'CITEXT', 'ENUM', 'UUID']

/**
 * Refuses to save columns of an instance of a locked row that is not locked itself, such as one that a finder read, if they have
 * another value in the database now than the one that it was loaded with. `undefined`, instead of a promise, if it has none of them.
 * @throws {StaleRowError} other code of the transaction wrote one of the columns in the meantime
 */
export function refuseOlderValues(
  state: TransactionState,
  method: string,
  row: Row,
  fields: readonly string[],
  options: ReadOptions,
): Promise<void> | undefined {
  if (!state.lockedRows.hasOtherThan(row)) return undefined
  const ref = RowRef.of(row)
  const instances = state.lockedRows.ofRow(ref.key)
  const rowState = rowStateOf(row)
  if (instances.length === 0 || (rowState.lock && instances.includes(row))) return undefined
  const { model } = ref
  const { mutable } = modelStateOf(model).definition
  const isCompared = (column: string): boolean => {
    // The others were compared with the locked instances.
    if (mutable.includes(column)) return currentText(model, column, instances) === undefined
    // A hook may have changed the form of a value that was read.
    const isStored = column !== versionAttribute(model) && !hasFindHooks(model)
    return isStored && exactTypes.includes(attributeType(model, column)) && isExact(loadedValue(row, column))
  }
  const isSame = (column: string, stored: unknown): boolean =>
    mutable.includes(column)
      ? isSameDocument(loadedText(row, column), rowState.textOf(column, stored))
      : isSameValue(attributeType(model, column), loadedValue(row, column), stored)
  const columns = fields.filter((column) => Object.hasOwn(valuesOf(row), column) && isCompared(column))
  if (columns.length === 0) return undefined
  return findByKeys(model, [ref], columns, options).then(([stored]) => {
    const older = columns.find((column) => stored && !isSame(column, stored[column]))
    if (older === undefined) return
    throw StaleRowError.inTransaction(method, ref.facts, older, { isDocument: mutable.includes(older) })
  })
}

/** The value that a column was loaded with. */
function loadedValue(row: Row, column: string): unknown {
  return (isChanged(row, column) ? previousValuesOf(row) : valuesOf(row))[column]
}

/** Whether a value was loaded, and is none that a column of integers rounds. */
function isExact(value: unknown): boolean {
  return value !== undefined && (typeof value !== 'number' || Number.isInteger(value))
}

/** Whether two values of a type are the same, whether a driver has read them or the application has assigned them. */
function isSameValue(type: string, one: unknown, other: unknown): boolean {
  const plain = (value: unknown): unknown => {
    if (typeof value === 'boolean') return String(Number(value))
    // A database pads a CHAR with spaces, and may write a UUID in small letters.
    if (typeof value === 'string' && type === 'CHAR') return value.trimEnd()
    if (typeof value === 'string' && type === 'UUID') return value.toLowerCase()
    return typeof value === 'number' || typeof value === 'bigint' ? String(value) : (value ?? null)
  }
  return isDeepStrictEqual(plain(one), plain(other))
}
