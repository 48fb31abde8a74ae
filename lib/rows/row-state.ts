import { isDeepStrictEqual } from 'node:util'
import type { Transaction } from 'sequelize'
import { UnsavedChangesError } from '../errors/errors.js'
import {
  attributeType,
  buildOptionsOf,
  changedAttributes,
  finishedState,
  isChanged,
  isSameTransaction,
  modelOf,
  nesting,
  openAncestor,
  previousValuesOf,
  setChanged,
  setNewRecord,
  valuesOf,
} from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import { modelStateOf, policyOf } from '../sequelize/model-state.js'
import type { RowRef } from './row-ref.js'

/** The lock that a transaction holds on a row. */
export interface RowLock {
  /** The transaction or savepoint that took it. */
  readonly transaction: Transaction
  /** Only code inside the callback of withLock takes part in it; otherwise all code that has the instance. */
  isScoped: boolean
}

/** A call of withLock that works on an instance, from its first moment, when nothing is locked yet. */
export interface Claim {
  /** The transaction of its present attempt. */
  transaction: Transaction | undefined
  /** The call has ended. */
  isReleased: boolean
}

/** The value that the database holds in a column whose value can be changed in place, as far as an instance knows. */
interface StoredValue {
  /** As JSON. */
  readonly text: string
  /** The read that it goes back to. */
  readonly read?: object | undefined
  /** The transaction that has kept other sessions from changing it since. */
  readonly lockedIn?: Transaction | undefined
  /** The value before a write in a transaction that may still be rolled back. */
  readonly before?: { readonly value: StoredValue | undefined; readonly transaction: Transaction } | undefined
}

/** How a write is sent, as far as it matters to what is known of the row after it. */
export interface SentWrite {
  readonly transaction: Transaction | null | undefined
  /** The columns are written as they are; otherwise the database may hold more than this instance knows. */
  readonly isWhole: boolean
  /** The answer replaces the instance's own value of a column by that of the database. */
  readonly isAnswered: (column: string) => boolean
}

/** Everything that this library knows of one instance, and of its row in the database. */
export class RowState {
  readonly #row: Row
  /** The last known stored values. */
  #stored = new Map<string, StoredValue>()
  #lock: RowLock | undefined
  claim: Claim | undefined
  /** Columns that another instance of the row wrote in the same transaction, while this one had unsaved changes in them. */
  readonly staleColumns: Set<string> = new Set()
  /** The transaction in which the row was locked or written last, though it may be over. */
  lastTransaction: Transaction | undefined
  /** The method whose callback must not write this row. */
  writesRefusedBy: string | undefined
  /** The patched save that is on its way, and the server's transaction that it is part of. */
  patchInFlight: { readonly outermost: Transaction | undefined; readonly settled: Promise<unknown> } | undefined

  constructor(row: Row) {
    this.#row = row
  }

  /** The lock on the row, if its transaction is open. */
  get lock(): RowLock | undefined {
    return this.#lock && openAncestor(this.#lock.transaction) ? this.#lock : undefined
  }

  /** The lock that was taken last, though its transaction may be over. */
  get lastLock(): RowLock | undefined {
    return this.#lock
  }

  /** Notes that `transaction` holds the lock on the row, and that the instance was just refreshed by the locking read. */
  acquire(transaction: Transaction, isScoped: boolean): void {
    // A lock taken again, perhaps inside a savepoint, lasts as long as the first one.
    const lock = this.lock ?? { transaction, isScoped }
    if (!isScoped) lock.isScoped = false
    this.#lock = lock
    this.lastTransaction = transaction
    this.staleColumns.clear()
    this.recordRead(this.#mutableColumns, lock.transaction)
  }

  /**
   * Notes that the callback of withLock has ended. If its transaction is still open, the code that opened it holds the lock.
   * @param isScoped the code around it is a callback of withLock in the same transaction
   */
  endCallback(isScoped: boolean): void {
    if (this.lock) this.lock.isScoped = isScoped
  }

  get #mutableColumns(): readonly string[] {
    return modelStateOf(modelOf(this.#row)).mutableColumns
  }

  #storedValue(column: string): StoredValue | undefined {
    return effectiveValue(this.#stored.get(column))
  }

  /** The stored JSON text of a column, as far as this instance knows. */
  storedText(column: string): string | undefined {
    return this.#storedValue(column)?.text
  }

  /** Takes what the instance has just read as the stored values of `columns`; `lockedIn` is the transaction of a locking read. */
  recordRead(columns: readonly string[], lockedIn?: Transaction): void {
    const read = {}
    for (const column of columns) {
      this.#stored.set(column, { text: jsonOf(valuesOf(this.#row)[column]), read, lockedIn })
      this.staleColumns.delete(column)
    }
  }

  /** Notes that the read which `columns` came from has locked the row. */
  recordLock(columns: readonly string[], lockedIn: Transaction): void {
    for (const column of columns) {
      const stored = this.#storedValue(column)
      if (stored) this.#stored.set(column, { ...stored, lockedIn })
    }
  }

  /** Takes the locked row's values, which were just read again, as the stored ones. */
  recordReload(): void {
    const { lock } = this
    if (lock) this.recordRead(this.#mutableColumns, lock.transaction)
  }

  /** The stored value of a column is no longer known. */
  forget(column: string): void {
    this.#stored.delete(column)
  }

  /** Whether `transaction` has kept other sessions from changing the column since this instance read or wrote it. */
  isLockedSince(column: string, transaction: Transaction | null | undefined): boolean {
    const lockedIn = this.#storedValue(column)?.lockedIn
    return Boolean(lockedIn && openAncestor(lockedIn) && transaction && isSameTransaction(lockedIn, transaction))
  }

  /**
   * Takes the values of `written` as they are sent, since later changes are not part of the statement. Call the returned
   * function once the statement has succeeded.
   */
  recordWrite(written: Readonly<Record<string, unknown>>, { transaction, isWhole, isAnswered }: SentWrite): () => void {
    const sent = Object.entries(written).map(([column, value]) => {
      return [column, { text: jsonOf(value), read: this.#storedValue(column)?.read }] as const
    })
    return () => {
      for (const [column, value] of sent) {
        const before = this.#storedValue(column)
        // The column was read again while the write was on its way, perhaps before the write: keep what was read.
        if (before?.read !== value.read) continue
        const isSame = transaction && before?.before && isSameTransaction(before.before.transaction, transaction)
        this.#stored.set(column, {
          ...value,
          ...(isAnswered(column) && { text: jsonOf(valuesOf(this.#row)[column]) }),
          lockedIn: isWhole ? (transaction ?? undefined) : undefined,
          before: transaction ? { transaction, value: isSame ? before.before.value : before } : undefined,
        })
      }
    }
  }

  /** {@link recordWrite} of a statement for a locked row that writes `columns` as they are in memory. */
  recordLockedWrite(columns: readonly string[]): (() => void) | undefined {
    const { lock } = this
    const known = lock ? columns.filter((column) => this.#stored.has(column)) : []
    if (!lock || known.length === 0) return undefined
    const written = Object.fromEntries(known.map((column) => [column, valuesOf(this.#row)[column]]))
    return this.recordWrite(written, { transaction: lock.transaction, isWhole: true, isAnswered: () => false })
  }

  /** Marks columns that were changed in place as changed, so that a save writes them: where the row is locked, or patched. */
  markChangesInPlace(columns?: readonly string[]): void {
    const isTracked = this.#stored.size > 0 && (this.lock ?? policyOf(modelOf(this.#row)).wholeColumnWrites === 'patch')
    if (!isTracked) return
    for (const column of this.#stored.keys()) {
      if (columns && !columns.includes(column)) continue
      markChangeSince(this.#row, column, this.storedText(column))
    }
  }

  /**
   * Applies a write of one document to the instance: `document`, the whole of it, if it was read; else `change` applied to
   * what the instance has seen. A column that was not loaded stays so.
   */
  applyWrite(column: string, change: (document: unknown) => unknown, document?: unknown): void {
    // A change in place that was made while the write was on its way.
    this.markChangesInPlace([column])
    const after = (before: unknown): unknown => (document === undefined ? change(before) : document)
    const stored = this.#storedValue(column)
    if (stored) {
      const text = jsonOf(after(stored.text === 'undefined' ? null : JSON.parse(stored.text)))
      this.#stored.set(column, { ...stored, text })
    }
    const row = this.#row
    const values = valuesOf(row)
    if (document === undefined && !buildOptionsOf(row).isNewRecord && !Object.hasOwn(values, column)) return
    // An assignment made while the write was on its way stays dirty, and must not overwrite the write.
    if (isChanged(row, column)) values[column] = change(values[column])
    else assignStored(row, { [column]: after(values[column]) })
  }

  /** The way back to the instance as it is now, also out of changes in place, and to what is known of its row. */
  snapshot(): () => void {
    const row = this.#row
    const { isNewRecord } = row
    const values = { ...valuesOf(row) }
    const previous = { ...previousValuesOf(row) }
    const changed = changedAttributes(row)
    const texts = new Map(this.#mutableColumns.map((column) => [column, jsonOf(values[column])]))
    const stored = new Map(this.#stored)
    return () => {
      this.#stored = new Map(stored)
      this.staleColumns.clear()
      replaceValues(valuesOf(row), values)
      replaceValues(previousValuesOf(row), previous)
      for (const [column, text] of texts) {
        const isSame = jsonOf(values[column]) === text || text === notJson
        if (!isSame) valuesOf(row)[column] = text === 'undefined' ? undefined : JSON.parse(text)
      }
      for (const name of changedAttributes(row)) setChanged(row, name, false)
      for (const name of changed) setChanged(row, name, true)
      setNewRecord(row, isNewRecord)
    }
  }

  /** Remembers the values of now; call the returned function to mark what was changed in place since. */
  trackChangesInPlace(): () => void {
    const texts = this.#mutableColumns.map((column) => [column, jsonOf(valuesOf(this.#row)[column])] as const)
    return () => {
      for (const [column, text] of texts) markChangeSince(this.#row, column, text)
    }
  }
}

const rowStates = new WeakMap<Row, RowState>()

/** The one state of an instance. */
export function rowStateOf(row: Row): RowState {
  let state = rowStates.get(row)
  if (!state) rowStates.set(row, (state = new RowState(row)))
  return state
}

/** The state of an instance that this library has met before. */
export function findRowState(row: Row | undefined): RowState | undefined {
  return row && rowStates.get(row)
}

/** The value after the transactions that it was written in: that before the write, if that was rolled back. */
function effectiveValue(value: StoredValue | undefined): StoredValue | undefined {
  if (!value?.before) return value
  const all = nesting(value.before.transaction)
  if (all.some((each) => finishedState(each) === 'rollback')) return effectiveValue(value.before.value)
  return finishedState(all.at(-1)!) === 'commit' ? { ...value, before: undefined } : value
}

/** Puts values that the database holds into the instance, as unchanged. */
export function assignStored(row: Row, stored: Readonly<Record<string, unknown>>): void {
  const [values, previous] = [valuesOf(row), previousValuesOf(row)]
  for (const [attribute, value] of Object.entries(stored)) {
    values[attribute] = value
    previous[attribute] = value
    if (isChanged(row, attribute)) setChanged(row, attribute, false)
  }
}

/** The attributes that were changed and not saved; those of `columns`, if they are given. */
export function unsavedColumns(ref: RowRef, columns?: readonly string[]): readonly string[] {
  const { instance, model } = ref
  if (!instance) return []
  findRowState(instance)?.markChangesInPlace()
  return changedAttributes(instance).filter(
    (name) => (columns?.includes(name) ?? true) && attributeType(model, name) !== 'VIRTUAL',
  )
}

/** @throws {UnsavedChangesError} the instance, or only the `column` given, was changed and not saved */
export function refuseUnsavedChanges(method: string, ref: RowRef, column?: string): void {
  const changed = unsavedColumns(ref, column === undefined ? undefined : [column])
  if (changed.length > 0) throw UnsavedChangesError.beforeCall(method, ref.facts, changed)
}

function markChangeSince(row: Row, column: string, text: string | undefined): void {
  if (text === undefined || isChanged(row, column)) return
  if (!isSameDocument(jsonOf(valuesOf(row)[column]), text)) setChanged(row, column, true)
}

const notJson = 'not JSON'

/** A value as JSON text. What JSON cannot write differs from all that it can; the save that follows tells the reason. */
export function jsonOf(value: unknown): string {
  try {
    return JSON.stringify(value) ?? 'undefined'
  } catch {
    return notJson
  }
}

/** Whether two JSON texts hold the same document, whatever the order of keys. */
export function isSameDocument(one: string, other: string): boolean {
  if (one === other) return true
  try {
    return isDeepStrictEqual(JSON.parse(one), JSON.parse(other))
  } catch {
    return false
  }
}

function replaceValues(target: Record<string, unknown>, source: Record<string, unknown>): void {
  for (const name of Object.keys(target)) if (!Object.hasOwn(source, name)) Reflect.deleteProperty(target, name)
  Object.assign(target, source)
}
