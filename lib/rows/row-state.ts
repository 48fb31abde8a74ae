import { isDeepStrictEqual } from 'node:util'
import type { Transaction } from 'sequelize'
import type { TransactionOption } from '../errors/describe.js'
import { UnsavedChangesError } from '../errors/errors.js'
import { tooDeep as tooDeepError } from '../json/encode.js'
import { isRespelled, parseJson, tryParseJson } from '../json/json-text.js'
import type { Operation } from '../json/operation.js'
import { applyAll, computes } from '../json/semantics.js'
import type { JsonValue } from '../json/values.js'
import {
  attributeType,
  buildOptionsOf,
  changedAttributes,
  finishedState,
  hasFindHooks,
  holdsLock,
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
import type { Row, RowModel } from '../sequelize/internals.js'
import { documentType, modelStateOf } from '../sequelize/model-state.js'
import type { ModelState } from '../sequelize/model-state.js'
import { modeOf } from '../sequelize/options.js'
import { isPlain, isSameDocument, jsonOf, notJson, textAfter, tooDeep } from './document-text.js'
import { keyText } from './key-text.js'
import type { RowRef } from './row-ref.js'

/** The lock that a transaction holds on a row. */
interface RowLock {
  /** The transaction or savepoint that took it. */
  readonly transaction: Transaction
  /** Only code inside the callback of withLock joins the lock; if false, all code that has the instance does. */
  isScoped: boolean
}

/** A call that uses an instance exclusively, such as withLock: from the start of the call, before any row is locked. */
export interface Claim {
  /** The transaction of the current attempt. */
  transaction: Transaction | undefined
  /** The call has ended. */
  isReleased: boolean
}

/** A call that runs a callback and then saves the row itself, if its version is still the same. */
export interface ReadOnlyCall {
  readonly method: string
}

/** The last known stored value of a column of a mutable type, such as JSON. */
interface StoredValue {
  /** As JSON. */
  readonly text: string
  /**
   * The stored text of a JSON document, if JavaScript would spell a part of it otherwise; `null` if it has to be read to
   * know that.
   */
  readonly spelling?: string | null | undefined
  /** The text that the instance read or wrote, if it is text and JavaScript would spell a part of its document otherwise. */
  readonly given?: string | undefined
  /** As JSON, what hooks of the finder have made of it: only another value is a change of the application. */
  readonly afterHooks?: string | undefined
  /** Identifies the read that the value comes from. */
  readonly read?: object | undefined
  /** The transaction that has locked the row since that read or write. */
  readonly lockedIn?: Transaction | undefined
  /** The value before a write in a transaction that may still be rolled back. */
  readonly before?: { readonly value: StoredValue | undefined; readonly transaction: Transaction } | undefined
}

/** The properties of a write that determine the known stored values after it. */
interface SentWrite {
  readonly transaction: Transaction | null | undefined
  /** The write replaces whole columns; if false, the database may have changes that this instance has not read. */
  readonly isWhole: boolean
  /** Whether the result of the statement (RETURNING) replaces the instance's value of a column. */
  readonly isAnswered: (column: string) => boolean
  /** The texts of documents that are known already. */
  readonly texts?: ReadonlyMap<string, string>
}

/** The stored texts of a row's JSON documents, by attribute; NULL has none. */
export type StoredTexts = ReadonlyMap<string, string>

/** The state that this library keeps for one instance and its row. */
export class RowState {
  readonly #row: Row
  readonly #model: RowModel
  readonly #modelState: ModelState
  /** The last known stored values. */
  #stored = new Map<string, StoredValue>()
  /** The texts that the last save sent instead of JSON.stringify's. */
  readonly #sentTexts = new Map<string, string>()
  /** The texts of the documents that the save in progress writes from memory, as JSON.stringify has them. */
  #savedTexts: ReadonlyMap<string, string> = new Map()
  #lock: RowLock | undefined
  claim: Claim | undefined
  /**
   * Columns whose value in memory is not the stored one, with the method of this instance that has written them; `undefined` for
   * other code of the transaction. Their save is refused.
   */
  readonly staleColumns: Map<string, string | undefined> = new Map()
  /** The transaction in which the row was last locked or written; it may have ended. */
  lastTransaction: Transaction | undefined
  /** The call whose callback is running, and must not write this row; nor must other code meanwhile. */
  writesRefusedBy: ReadOnlyCall | undefined
  /** The save in progress writes only if no other session has changed the row: its version is part of the condition. */
  isSavingVersion = false
  /** The number of rows that the UPDATE of that save has matched; `undefined` before its answer. */
  versionedRows: number | undefined
  /** The columns that the save in progress has stored: for Sequelize, they are changed until its hooks have run. */
  savedColumns: ReadonlySet<string> = new Set()
  /** What the save in progress has sent for the columns that were assigned anew before its statement had ended. */
  assignedInFlight: ReadonlyMap<string, unknown> = new Map()
  /** The columns that the answer of the last statement (RETURNING) has changed. */
  answeredColumns: ReadonlySet<string> = new Set()
  /** Whether the last increment() or decrement() has matched the row: its `where` may not. */
  isIncremented = false
  /** The patched save in flight, and its transaction of the server. */
  patchInFlight: { readonly outermost: Transaction | undefined; readonly settled: Promise<unknown> } | undefined

  constructor(row: Row) {
    this.#row = row
    this.#model = modelOf(row)
    this.#modelState = modelStateOf(this.#model)
  }

  /** The lock on the row, if its transaction is open. */
  get lock(): RowLock | undefined {
    return this.#lock && openAncestor(this.#lock.transaction) ? this.#lock : undefined
  }

  /** The last acquired lock; its transaction may have ended. */
  get lastLock(): RowLock | undefined {
    return this.#lock
  }

  /** Records that `transaction` holds the lock on the row, and that the locking read has refreshed the instance. */
  acquire(transaction: Transaction, isScoped: boolean, texts: StoredTexts): void {
    // A lock taken again, perhaps inside a savepoint, lasts as long as the first one.
    const lock = this.lock ?? { transaction, isScoped }
    if (!isScoped) lock.isScoped = false
    this.#lock = lock
    this.lastTransaction = transaction
    this.staleColumns.clear()
    this.recordRead(this.#mutableColumns, lock.transaction, texts)
  }

  /** Records the values of a read of the whole row, before a save that compares its version. */
  recordVersionedRead(texts: StoredTexts): void {
    const respelled = [...texts].filter(([, text]) => isRespelled(text)).map(([column]) => column)
    this.recordRead(respelled, undefined, texts)
  }

  /**
   * Records that the callback of withLock has ended. In a joined transaction, its owner keeps the lock.
   * @param isInScope whether the enclosing code is a callback in a transaction
   */
  endCallback(isInScope: (transaction: Transaction) => boolean): void {
    const { lock } = this
    if (lock?.isScoped) lock.isScoped = isInScope(lock.transaction)
  }

  get #mutableColumns(): readonly string[] {
    return this.#modelState.definition.mutable
  }

  /** Whether this instance knows the stored value of a column. */
  get hasStoredValues(): boolean {
    return this.#stored.size > 0
  }

  #storedValue(column: string): StoredValue | undefined {
    return effectiveValue(this.#stored.get(column))
  }

  /** The stored JSON text of a column, as far as this instance knows. */
  storedText(column: string): string | undefined {
    const text = this.#storedValue(column)?.text
    return text === notJson ? undefined : text
  }

  /**
   * Records, as stored, the values that the instance has just read.
   * @param lockedIn the transaction of a locking read
   * @param texts    the stored texts of the documents, if they were read too
   */
  recordRead(columns: readonly string[], lockedIn?: Transaction, texts?: StoredTexts): void {
    const read = {}
    this.#forgetPlainColumns()
    for (const column of columns) {
      const stored = texts?.get(column)
      const value = valuesOf(this.#row)[column]
      const spelling = texts ? (stored !== undefined && isRespelled(stored) ? stored : undefined) : null
      const given = this.#spellingOf(column, value)
      this.#stored.set(column, { text: this.textOf(column, value), spelling, given, read, lockedIn })
      this.staleColumns.delete(column)
    }
  }

  /** Records the values that hooks of the finder have made of what it read. */
  recordHooks(): void {
    for (const [column, stored] of this.#stored) {
      const afterHooks = this.textOf(column, valuesOf(this.#row)[column])
      if (afterHooks !== stored.text) this.#stored.set(column, { ...stored, afterHooks })
    }
  }

  /** The value of a column may be out of date, because `method` of this instance, or other code, has written the column. */
  markStale(column: string, method?: string): void {
    this.staleColumns.set(column, method)
  }

  /** The values of all columns may be out of date. */
  markAllStale(): void {
    for (const column of Object.keys(this.#model.getAttributes())) {
      if (attributeType(this.#model, column) !== 'VIRTUAL') this.markStale(column)
    }
  }

  /** Whether a column has an unsaved change that Sequelize knows. */
  isDirty(column: string): boolean {
    return isChanged(this.#row, column) && !this.savedColumns.has(column)
  }

  /** Ends a save. A value that was assigned while the statement was in flight is an unsaved change again. */
  endSave(): void {
    for (const [column, sent] of this.assignedInFlight) {
      previousValuesOf(this.#row)[column] = sent
      setChanged(this.#row, column, true)
    }
    this.assignedInFlight = new Map()
    this.savedColumns = new Set()
  }

  /** Takes over the stored value of a column that other code of the transaction may have written. */
  refresh(column: string, stored: unknown): void {
    const isDirty = this.isDirty(column)
    if (this.#mutableColumns.includes(column)) {
      const known = this.storedText(column)
      if (known === undefined || !isSameDocument(this.textOf(column, stored), known)) this.markStale(column)
      return
    }
    if (this.#isStoredValue(column, stored)) return
    if (isDirty) this.markStale(column)
    else this.assignWritten({ [column]: stored })
  }

  /** Whether a value of an ordinary column is the stored one, as far as this instance knows. */
  #isStoredValue(column: string, value: unknown): boolean {
    const type = attributeType(this.#model, column)
    const stored = (this.isDirty(column) ? previousValuesOf(this.#row) : valuesOf(this.#row))[column]
    return isDeepStrictEqual(keyTextOf(type, stored), keyTextOf(type, value))
  }

  /** Assigns what a statement has stored in ordinary columns. */
  assignWritten(values: Readonly<Record<string, unknown>>): void {
    assignStored(this.#row, values)
    for (const name of Object.keys(values)) this.staleColumns.delete(name)
    const mutable = this.#mutableColumns.filter((name) => Object.hasOwn(values, name))
    if (mutable.length > 0) this.recordRead(mutable, this.lock?.transaction)
  }

  /** Whether a document was changed, also in place, since its stored value was recorded. */
  hasChanged(column: string): boolean {
    const text = this.storedText(column)
    const value = valuesOf(this.#row)[column]
    return isChanged(this.#row, column) || (text !== undefined && !isSameDocument(this.textOf(column, value), text))
  }

  /** Records that the read of `columns` has locked the row; without a transaction, that it is out of date. */
  recordLock(columns: readonly string[], lockedIn: Transaction | undefined): void {
    for (const column of columns) {
      const stored = this.#storedValue(column)
      if (stored) this.#stored.set(column, { ...stored, lockedIn })
    }
  }

  /** Records, as stored, the values of a locked row that was just reloaded, with all its attributes or some of them. */
  recordReload(): void {
    const { lock } = this
    if (!lock) return
    const { attributes } = buildOptionsOf(this.#row)
    const isRead = (column: string): boolean => attributes?.includes(column) ?? true
    for (const column of [...this.staleColumns.keys()].filter(isRead)) this.staleColumns.delete(column)
    this.recordRead(this.#mutableColumns.filter(isRead), lock.transaction)
  }

  /**
   * The columns of `written` whose stored text must be known before the save, and is not: this instance may not know all
   * digits of their numbers.
   */
  columnsToRead(written: readonly string[]): readonly string[] {
    return written.filter((column) => this.#storedValue(column)?.spelling === null)
  }

  /** Records the stored text of a document, read in the transaction of its save. */
  recordText(column: string, text: string): void {
    const stored = this.#storedValue(column)
    if (stored) this.#stored.set(column, { ...stored, spelling: isRespelled(text) ? text : undefined })
  }

  /** Records the text that a save is about to send for a document; `undefined` if it is JSON.stringify's. */
  recordSentText(column: string, text: string | undefined): void {
    if (text === undefined) this.#sentTexts.delete(column)
    else this.#sentTexts.set(column, text)
  }

  /** Records the texts of the documents that a save is about to send, so that they need not be made again. */
  recordSavedTexts(texts: ReadonlyMap<string, string>): void {
    this.#savedTexts = texts
  }

  /** The stored document, if JavaScript would spell a part of it otherwise: its text, and what the driver read from it. */
  respelledDocument(column: string): { readonly stored: string; readonly before: JsonValue } | undefined {
    const { spelling } = this.#storedValue(column) ?? {}
    const text = this.storedText(column)
    return typeof spelling === 'string' && text !== undefined
      ? { stored: spelling, before: parseJson(text) }
      : undefined
  }

  /** The text that the instance read or wrote, if it is text and JavaScript would spell a part of its document otherwise. */
  givenText(column: string): string | undefined {
    return this.#storedValue(column)?.given
  }

  /** Whether the stored document is too deep for JavaScript: no change of it can be found. */
  isTooDeep(column: string): boolean {
    return this.storedText(column) === tooDeep
  }

  /** Forgets columns that are no longer of a mutable type: `jsonColumns` has named them, and does not now. */
  #forgetPlainColumns(): void {
    const columns = this.#mutableColumns
    for (const column of this.#stored.keys()) if (!columns.includes(column)) this.#stored.delete(column)
  }

  /** The stored value of a column is no longer known. */
  forget(column: string): void {
    this.#stored.delete(column)
  }

  /** Whether `transaction` has kept other sessions from changing the column since this instance read or wrote it. */
  isLockedSince(column: string, transaction: Transaction | null | undefined): boolean {
    return holdsLock(transaction, this.#storedValue(column)?.lockedIn)
  }

  /**
   * Snapshots the values that a statement writes: later changes are not part of it. Call the returned function after
   * the statement has succeeded.
   */
  recordWrite(
    written: Readonly<Record<string, unknown>>,
    { transaction, isWhole, isAnswered, texts }: SentWrite,
  ): () => void {
    const sent = Object.entries(written).map(([column, value]) => {
      const known = typeof value === 'object' ? texts?.get(column) : undefined
      const text = known ?? this.textOf(column, value)
      return [column, { text, given: this.#spellingOf(column, value), read: this.#storedValue(column)?.read }] as const
    })
    return () => {
      this.#forgetPlainColumns()
      for (const [column, value] of sent) {
        const before = this.#storedValue(column)
        // The column was read again while the write was in flight, maybe before it took effect: keep that value.
        if (before?.read !== value.read) continue
        const isSame = transaction && before?.before && isSameTransaction(before.before.transaction, transaction)
        this.#stored.set(column, {
          ...value,
          ...(isAnswered(column) && { text: this.textOf(column, valuesOf(this.#row)[column]) }),
          spelling: isWhole ? (this.#sentTexts.get(column) ?? value.given) : null,
          lockedIn: isWhole ? (transaction ?? undefined) : undefined,
          before: transaction ? { transaction, value: isSame ? before.before.value : before } : undefined,
        })
      }
    }
  }

  /** {@link recordWrite} for a statement that writes `columns` of a locked row from memory. */
  recordLockedWrite(columns: readonly string[]): (() => void) | undefined {
    const { lock } = this
    const known = lock ? columns.filter((column) => this.#stored.has(column)) : []
    if (!lock || known.length === 0) return undefined
    const written = Object.fromEntries(known.map((column) => [column, valuesOf(this.#row)[column]]))
    const sent = { transaction: lock.transaction, isWhole: true, isAnswered: () => false, texts: this.#savedTexts }
    const recordStored = this.recordWrite(written, sent)
    this.#savedTexts = new Map()
    return recordStored
  }

  /** Marks columns that were changed in place as dirty, for a save; only if the row is locked or patched. */
  markChangesInPlace(columns?: readonly string[]): void {
    const isTracked = this.#stored.size > 0 && (this.lock ?? modeOf(this.#modelState.policy, 'save') === 'patch')
    if (!isTracked) return
    for (const column of this.#stored.keys()) {
      if (columns && !columns.includes(column)) continue
      this.#markChangeSince(column, this.#storedValue(column)?.afterHooks ?? this.storedText(column))
    }
  }

  /**
   * Whether memory can have the result of operations: not if a hook has changed the document that was read, nor if the
   * result depends on digits that JavaScript rounds.
   */
  canApply(column: string, operations: readonly Operation[]): boolean {
    const stored = this.#storedValue(column)
    if (!stored) return true
    if (stored.text === tooDeep || hasFindHooks(this.#model)) return false
    if (!operations.some(computes)) return true
    const before = documentOf(stored)
    return stored.spelling === undefined && isPlain(stored.text) && isPlain(jsonOf(applyAll(operations, before)))
  }

  /**
   * Applies a write of one document to the instance: assigns the whole document if it was `read`, else applies the
   * operations to the value in memory. A column that was not loaded stays unloaded.
   */
  applyWrite(column: string, operations: readonly Operation[], read?: unknown): void {
    // A change in place that was made while the write was on its way.
    this.markChangesInPlace([column])
    const parsed = this.#documentIn(column, read)
    const document = parsed === undefined ? read : parsed
    const change = (before: unknown): unknown => applyAll(operations, before)
    const after = (before: unknown): unknown => (document === undefined ? change(before) : document)
    const changeText = (before: string): string => textAfter(before, operations)
    const afterText = (before: string): string => {
      if (document === undefined) return changeText(before)
      return typeof read === 'string' ? read : jsonOf(document)
    }
    const isDirty = this.isDirty(column)
    const isInMemory = document !== undefined && !isDirty
    if (this.lock && !isInMemory && !this.canApply(column, operations)) this.markStale(column)
    const stored = this.#storedValue(column)
    if (stored?.text === tooDeep) this.forget(column)
    else if (stored) {
      const text = jsonOf(after(documentOf(stored)))
      const isKnown = stored.spelling === undefined && isPlain(text)
      const given = this.#spellingOf(column, afterText(stored.given ?? jsonOf(documentOf(stored))))
      this.#stored.set(column, { ...stored, text, spelling: isKnown ? undefined : null, given })
    }
    const row = this.#row
    const values = valuesOf(row)
    if (read === undefined && !buildOptionsOf(row).isNewRecord && !Object.hasOwn(values, column)) return
    if (isInMemory) this.staleColumns.delete(column)
    // An assignment made while the write was in flight stays dirty, and must not overwrite the write.
    if (isDirty) values[column] = this.#changedValue(column, values[column], change, changeText)
    else assignStored(row, { [column]: this.#changedValue(column, values[column], after, afterText) })
  }

  /** Snapshots the instance and its stored values. The returned function restores both, also after changes in place. */
  snapshot(): () => void {
    const row = this.#row
    const { isNewRecord } = row
    const values = { ...valuesOf(row) }
    const previous = { ...previousValuesOf(row) }
    const changed = changedAttributes(row)
    const texts = new Map(this.#mutableColumns.map((column) => [column, jsonOf(values[column])]))
    const stored = new Map(this.#stored)
    const stale = [...this.staleColumns]
    return () => {
      this.#stored = new Map(stored)
      this.staleColumns.clear()
      for (const [column, method] of stale) this.markStale(column, method)
      replaceValues(valuesOf(row), values)
      replaceValues(previousValuesOf(row), previous)
      for (const [column, text] of texts) {
        const isSame = jsonOf(values[column]) === text || text === notJson || text === tooDeep
        if (isSame) continue
        const value = text === 'undefined' ? undefined : parseJson(text)
        if (previous[column] === values[column]) previousValuesOf(row)[column] = value
        valuesOf(row)[column] = value
      }
      for (const name of changedAttributes(row)) setChanged(row, name, false)
      for (const name of changed) setChanged(row, name, true)
      setNewRecord(row, isNewRecord)
    }
  }

  /** Snapshots the mutable columns. The returned function marks the columns that were changed in place since. */
  trackChangesInPlace(): () => void {
    const texts = this.#mutableColumns.map(
      (column) => [column, this.textOf(column, valuesOf(this.#row)[column])] as const,
    )
    return () => {
      for (const [column, text] of texts) this.#markChangeSince(column, text)
    }
  }

  #markChangeSince(column: string, text: string | undefined): void {
    const row = this.#row
    if (text === undefined || isChanged(row, column)) return
    if (!isSameDocument(this.textOf(column, valuesOf(row)[column]), text)) setChanged(row, column, true)
  }

  /** {@link jsonOf} for the document in a value of a column: the driver may have left it as text, or the model keeps its text. */
  textOf(column: string, value: unknown): string {
    const document = this.#documentIn(column, value)
    if (document !== undefined) return jsonOf(document)
    return this.#isText(column) && typeof value === 'string' ? notJson : jsonOf(value)
  }

  /** The document in a text; `undefined` for a value that is a document, or is not JSON. */
  #documentIn(column: string, value: unknown): JsonValue | undefined {
    if (typeof value !== 'string') return undefined
    const isText = documentType(this.#model, column) === 'TEXT' && /^\s*null\s*$/.test(value)
    if (!isText && !this.#isText(column) && !/^\s*[{[]/.test(value)) return undefined
    return tryParseJson(value)
  }

  /** The value of a column after a change of its document, as text if it is text. */
  #changedValue(
    column: string,
    value: unknown,
    change: (document: unknown) => unknown,
    changeText: (text: string) => string,
  ): unknown {
    const text = this.#isText(column) ? (value ?? 'null') : undefined
    if (typeof text === 'string' && tryParseJson(text) !== undefined) {
      const changed = changeText(text)
      return changed === 'null' && (value ?? null) === null ? null : changed
    }
    const document = this.#documentIn(column, value)
    const after = change(document === undefined ? value : document)
    return document !== undefined || (this.#isText(column) && after !== null) ? jsonOf(after) : after
  }

  /** The text of a value of a column of text, if JavaScript would spell a part of its document otherwise. */
  #spellingOf(column: string, value: unknown): string | undefined {
    const isSpelled = this.#isText(column) && typeof value === 'string' && isRespelled(value)
    return isSpelled && tryParseJson(value) !== undefined ? value : undefined
  }

  #isText(column: string): boolean {
    return this.#modelState.definition.textsInMemory.has(column)
  }
}

/** The known document; null for one that is not loaded, and for text that is not JSON. */
function documentOf({ text }: StoredValue): JsonValue {
  return text === 'undefined' || text === notJson ? null : parseJson(text)
}

const rowStates = new WeakMap<Row, RowState>()

/** The one state of an instance. */
export function rowStateOf(row: Row): RowState {
  let state = rowStates.get(row)
  if (!state) rowStates.set(row, (state = new RowState(row)))
  return state
}

/** The state of an instance, if it has one. */
export function findRowState(row: Row | undefined): RowState | undefined {
  return row && rowStates.get(row)
}

/** The value after the outcome of its transaction: if the write was rolled back, the value before it. */
function effectiveValue(value: StoredValue | undefined): StoredValue | undefined {
  if (!value?.before) return value
  const all = nesting(value.before.transaction)
  if (all.some((each) => finishedState(each) === 'rollback')) return effectiveValue(value.before.value)
  return finishedState(all.at(-1)!) === 'commit' ? { ...value, before: undefined } : value
}

/** Assigns stored values to the instance, and marks them as unchanged. */
export function assignStored(row: Row, stored: Readonly<Record<string, unknown>>): void {
  const [values, previous] = [valuesOf(row), previousValuesOf(row)]
  for (const [attribute, value] of Object.entries(stored)) {
    values[attribute] = value
    previous[attribute] = value
    if (isChanged(row, attribute)) setChanged(row, attribute, false)
  }
}

/** The target of a call, which may have an instance. */
type Holder = Pick<RowRef, 'instance' | 'model' | 'facts'>

/** The attributes with unsaved changes; only those in `columns`, if given. */
export function unsavedColumns(
  { instance, model }: Omit<Holder, 'facts'>,
  columns?: readonly string[],
): readonly string[] {
  if (!instance) return []
  findRowState(instance)?.markChangesInPlace()
  return changedAttributes(instance).filter(
    (name) => (columns?.includes(name) ?? true) && attributeType(model, name) !== 'VIRTUAL',
  )
}

/**
 * @throws {UnsavedChangesError} the instance, or one of its `columns` if given, has unsaved changes
 * @throws {UnsupportedValueError} a document is too deep for the comparison that finds changes in place
 */
export function refuseUnsavedChanges(
  method: string,
  ref: Holder,
  option: TransactionOption | undefined,
  columns?: readonly string[],
): void {
  const changed = unsavedColumns(ref, columns)
  const deep = changed.find((column) => rowStateOf(ref.instance!).isTooDeep(column))
  if (deep !== undefined) throw tooDeepError(method, `"${deep}"`, deep)
  if (changed.length > 0) throw UnsavedChangesError.beforeCall(method, { ...ref.facts, option }, changed)
}

/** A value as in {@link keyText}; NULL stays NULL. */
function keyTextOf(type: string, value: unknown): unknown {
  return value === null || value === undefined ? null : keyText(type, value)
}

function replaceValues(target: Record<string, unknown>, source: Record<string, unknown>): void {
  for (const name of Object.keys(target)) if (!Object.hasOwn(source, name)) Reflect.deleteProperty(target, name)
  Object.assign(target, source)
}
