import { createHash } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import type { Transaction } from 'sequelize'
import type { Row, RowModel } from './database.js'
import { UnsavedChangesError } from './errors/errors.js'
import { policyOf } from './policy.js'
import { attributeType, facts, keyText } from './target.js'
import type { Identity } from './target.js'
import { isInScope, isSameTransaction, live, outcomeOf, outermostOf } from './transaction.js'

/** The lock that is held on an instance's row. */
interface Hold {
  readonly transaction: Transaction
  /** Only code inside the callback of withLock shares it; otherwise everybody who has the instance does. */
  scoped: boolean
}

const holds = new WeakMap<Row, Hold>()

/** The lock on this instance's row that is still held, whoever holds it. */
function holdOn(instance: Row | undefined): Hold | undefined {
  const hold = instance && holds.get(instance)
  return hold && live(hold.transaction) ? hold : undefined
}

/** The transaction of the lock on this instance's row, whoever holds it. */
export function holderOf(instance: Row | undefined): Transaction | undefined {
  const hold = holdOn(instance)
  return hold && live(hold.transaction)
}

/** The transaction of the lock on this instance's row, if this code may take part in it. */
export function heldTransaction(instance: Row | undefined): Transaction | undefined {
  const hold = holdOn(instance)
  return hold && (!hold.scoped || isInScope(hold.transaction)) ? live(hold.transaction) : undefined
}

/** Remembers that `transaction` holds the lock on this instance's row, and what the row holds. */
export function startHold(instance: Row, transaction: Transaction, scoped: boolean): void {
  // A lock taken again, perhaps inside a savepoint, lasts as long as the first one.
  const hold = holdOn(instance) ?? { transaction, scoped }
  if (!scoped) hold.scoped = false
  holds.set(instance, hold)
  rememberStored(instance)
}

/** The callback of withLock is over, and its transaction is not: the lock is still held, by the code around it. */
export function endScope(instance: Row): void {
  const hold = holdOn(instance)
  if (hold && !isInScope(hold.transaction)) hold.scoped = false
}

/** What the database holds in a column whose value can be changed in place, as far as an instance knows. */
interface Copy {
  /** As JSON; `undefined` where it is too long to be kept. */
  readonly text: string | undefined
  /** Of a text that is not kept. */
  readonly digest?: string | undefined
  /** The read that it goes back to. */
  readonly read?: object | undefined
  /** The transaction that has kept others from changing it since. */
  readonly locked?: Transaction | undefined
  /** What it was before it was written, in a transaction that may be rolled back. */
  readonly before?: { readonly copy: Copy | undefined; readonly transaction: Transaction } | undefined
}

const copies = new WeakMap<Row, Map<string, Copy>>()

/** Of longer texts only a digest is kept, unless the row is locked, which is over soon. */
const maxCopyLength = 2 ** 20

function copyOf(instance: Row, column: string): Copy | undefined {
  return settled(copies.get(instance)?.get(column))
}

/** The copy that is true now, whatever became of the transactions that it was written in. */
function settled(copy: Copy | undefined): Copy | undefined {
  if (!copy?.before) return copy
  const outcome = outcomeOf(copy.before.transaction)
  if (outcome === 'rollback') return settled(copy.before.copy)
  return outcome === 'commit' ? { ...copy, before: undefined } : copy
}

function keepCopy(instance: Row, column: string, copy: Copy): void {
  const kept = copies.get(instance) ?? new Map<string, Copy>()
  copies.set(instance, kept.set(column, copy))
  if (!copy.locked) return
  const rows = lockedRows.get(outermostOf(copy.locked)) ?? new Map<string, Row>()
  const model = instance.constructor as RowModel
  lockedRows.set(outermostOf(copy.locked), rows.set(rowText(model, keyOf(instance)), instance))
}

/** By transaction, the rows that are locked in it, each by its place. */
const lockedRows = new WeakMap<Transaction, Map<string, Row>>()

/** A row as text: its table and its primary key. */
export function rowText(model: RowModel, primaryKey: Readonly<Record<string, unknown>>): string {
  return JSON.stringify([model.getTableName(), keyText(model, primaryKey)])
}

/** The primary key that an instance was loaded with. */
export function keyOf(instance: Row): Record<string, unknown> {
  const names = (instance.constructor as RowModel).primaryKeyAttributes
  return Object.fromEntries(names.map((name) => [name, values(instance)[name]]))
}

function copied(instance: Row, value: unknown): Pick<Copy, 'text' | 'digest'> {
  const text = textOf(value)
  return text.length <= maxCopyLength || holdOn(instance) ? { text } : { text: undefined, digest: digestOf(text) }
}

function digestOf(text: string): string {
  return createHash('sha256').update(text).digest('base64')
}

const mutableTypes = ['JSON', 'JSONB', 'ARRAY', 'HSTORE']

function mutableColumns(instance: Row): string[] {
  const model = instance.constructor as RowModel
  return Object.keys(model.getAttributes()).filter((name) => mutableTypes.includes(attributeType(model, name)))
}

/** Takes what an instance has just read, in a row that is locked or not, for what the database holds in `columns`. */
export function rememberRead(instance: Row, columns: readonly string[], locked?: Transaction): void {
  const read = {}
  for (const column of columns)
    keepCopy(instance, column, { ...copied(instance, values(instance)[column]), read, locked })
}

/** Takes what the instance, whose row is locked, has just read for what the database holds. */
export function rememberStored(instance: Row): void {
  const hold = holdOn(instance)
  if (hold) rememberRead(instance, mutableColumns(instance), hold.transaction)
}

/** The read that `columns` of this instance came from has locked the row. */
export function rememberLocked(instance: Row, columns: readonly string[], locked: Transaction): void {
  for (const column of columns) {
    const copy = copyOf(instance, column)
    if (copy) keepCopy(instance, column, { ...copy, locked })
  }
}

/** Nobody knows any longer what the database holds in a column. */
export function forgetStored(instance: Row, column: string): void {
  copies.get(instance)?.delete(column)
}

/** What the database holds in a column, as JSON text, as far as this instance knows; `undefined` if it does not. */
export function storedText(instance: Row, column: string): string | undefined {
  return copyOf(instance, column)?.text
}

/** Whether `transaction` has kept others from changing the column since this instance read or wrote it. */
export function isLockedSince(instance: Row, column: string, transaction: Transaction | null | undefined): boolean {
  const locked = copyOf(instance, column)?.locked
  return Boolean(locked && live(locked) && transaction && isSameTransaction(locked, transaction))
}

/** {@link isLockedSince} for whichever instance of the row has been read or written in `transaction`. */
export function isRowLocked(
  model: RowModel,
  primaryKey: Readonly<Record<string, unknown>>,
  column: string,
  transaction: Transaction | null | undefined,
): boolean {
  const row = transaction && lockedRows.get(outermostOf(transaction))?.get(rowText(model, primaryKey))
  return Boolean(row && isLockedSince(row, column, transaction))
}

/** Keeps the objects that may be changed in place; returns how to put them back where a statement's answer replaced them. */
export function keepMutable(instance: Row): () => void {
  const kept = mutableColumns(instance).map((column) => [column, values(instance)[column]] as const)
  return () => void Object.assign(values(instance), Object.fromEntries(kept))
}

/** How a write is sent, as far as it matters to what is known of the row after it. */
interface Sent {
  readonly transaction: Transaction | null | undefined
  /** The columns are written as they are; otherwise the database may hold more than this instance knows. */
  readonly isWhole: boolean
  /** The answer replaces the instance's own value of a column by that of the database. */
  readonly isAnswered: (column: string) => boolean
}

/** Takes note of what a statement writes as it is sent, since later changes are not part of it; returns what to do once it is done. */
export function observeWrite(
  instance: Row,
  written: Readonly<Record<string, unknown>>,
  { transaction, isWhole, isAnswered }: Sent,
): () => void {
  const sent = Object.entries(written).map(([column, value]) => {
    return [column, { ...copied(instance, value), read: copyOf(instance, column)?.read }] as const
  })
  return () => {
    for (const [column, copy] of sent) {
      const before = copyOf(instance, column)
      // Read meanwhile, perhaps from before the write: the instance goes on from that.
      if (before?.read !== copy.read) continue
      const isSame = transaction && before?.before && isSameTransaction(before.before.transaction, transaction)
      keepCopy(instance, column, {
        ...copy,
        ...(isAnswered(column) ? copied(instance, values(instance)[column]) : undefined),
        locked: isWhole ? (transaction ?? undefined) : undefined,
        before: transaction ? { transaction, copy: isSame ? before.before.copy : before } : undefined,
      })
    }
  }
}

/** {@link observeWrite} of a row that is locked. */
export function observeSent(instance: object, columns: readonly string[]): () => void {
  const row = instance as Row
  const hold = holdOn(row)
  const known = hold ? columns.filter((column) => copies.get(row)?.has(column)) : []
  const written = Object.fromEntries(known.map((column) => [column, values(row)[column]]))
  return observeWrite(row, written, { transaction: hold?.transaction, isWhole: true, isAnswered: () => false })
}

/**
 * Marks what was changed in place as changed, which Sequelize cannot see, so that a save writes it: where the row is
 * locked, or its model is patched.
 */
export function markChangesInPlace(instance: Row, columns?: readonly string[]): void {
  const isSeen = holdOn(instance) ?? policyOf(instance.constructor as RowModel).wholeColumnWrites === 'patch'
  if (!isSeen) return
  const kept = [...(copies.get(instance)?.keys() ?? [])].map((column) => [column, copyOf(instance, column)] as const)
  markChangesSince(instance, new Map(kept.filter(([column]) => columns?.includes(column) ?? true)))
}

/** Keeps what the instance holds now; returns how to mark what was changed in place since. */
export function trackChangesInPlace(instance: Row): () => void {
  const now = mutableColumns(instance).map((column) => [column, { text: textOf(values(instance)[column]) }] as const)
  return () => {
    markChangesSince(instance, new Map(now))
  }
}

function markChangesSince(instance: Row, kept: ReadonlyMap<string, Copy | undefined>): void {
  for (const [column, copy] of kept) {
    if (instance.changed(column as never)) continue
    const now = textOf(values(instance)[column])
    const isSame = copy?.text === undefined ? copy?.digest === digestOf(now) : isSameDocument(now, copy.text)
    if (!isSame) instance.changed(column as never, true)
  }
}

/** @throws {UnsavedChangesError} the instance, or only the `column` given, was changed and not saved */
export function refuseUnsavedChanges(
  method: string,
  row: Identity,
  when: 'before' | 'rolled back' | 'joined',
  column?: string,
): void {
  const { instance, model } = row
  if (!instance) return
  markChangesInPlace(instance)
  const changed = (instance.changed() || []).filter(
    (name) => (column === undefined || name === column) && attributeType(model, name) !== 'VIRTUAL',
  )
  if (changed.length === 0) return
  if (when === 'before') throw UnsavedChangesError.beforeCall(method, facts(row), changed)
  throw UnsavedChangesError.leftByCallback(method, facts(row), changed, { isJoined: when === 'joined' })
}

const notJson = 'not JSON'

// What JSON cannot write differs from all that it can; the save that follows tells the reason.
function textOf(value: unknown): string {
  try {
    return JSON.stringify(value) ?? 'undefined'
  } catch {
    return notJson
  }
}

function isSameDocument(one: string, other: string): boolean {
  if (one === other) return true
  try {
    return isDeepStrictEqual(JSON.parse(one), JSON.parse(other))
  } catch {
    return false
  }
}

/** The attributes' values past every getter and setter. */
export function values(instance: Row): Record<string, unknown> {
  return instance.dataValues as Record<string, unknown>
}

function previousValues(instance: Row): Record<string, unknown> {
  return (instance as unknown as { _previousDataValues: Record<string, unknown> })._previousDataValues
}

/** Puts what the database holds into the instance, as unchanged. */
export function adopt(instance: Row, stored: Readonly<Record<string, unknown>>): void {
  for (const [attribute, value] of Object.entries(stored)) {
    values(instance)[attribute] = value
    previousValues(instance)[attribute] = value
    instance.changed(attribute as never, false)
  }
}

/**
 * Puts a write of one document into the instance: `document`, the whole of it, if it was read; else `change` applied to
 * what the instance had seen. An instance that another flow has locked meanwhile is that flow's, and a column that was
 * not loaded stays so.
 */
export function adoptWrite(
  instance: Row,
  column: string,
  change: (document: unknown) => unknown,
  document?: unknown,
): void {
  if (holderOf(instance) && !heldTransaction(instance)) return
  const after = (before: unknown): unknown => (document === undefined ? change(before) : document)
  const copy = copyOf(instance, column)
  if (copy?.text !== undefined) {
    const text = textOf(after(copy.text === 'undefined' ? null : JSON.parse(copy.text)))
    keepCopy(instance, column, { ...copy, text })
  } else forgetStored(instance, column)
  const wasBuilt = (instance as unknown as { _options: { isNewRecord?: boolean } })._options.isNewRecord
  if (document === undefined && !wasBuilt && !Object.hasOwn(values(instance), column)) return
  // Assigned while the write was on its way: still to be saved, and not to be saved over the write.
  if (instance.changed(column as never)) values(instance)[column] = change(values(instance)[column])
  else adopt(instance, { [column]: after(values(instance)[column]) })
}

/** The way back to the instance as it is now, also out of changes in place, and to what is known of its row. */
export function snapshot(instance: Row): () => void {
  const dataValues = { ...values(instance) }
  const previous = { ...previousValues(instance) }
  const changed = instance.changed() || []
  const texts = new Map(mutableColumns(instance).map((column) => [column, textOf(dataValues[column])]))
  const kept = new Map(copies.get(instance))
  return () => {
    copies.set(instance, new Map(kept))
    restore(values(instance), dataValues)
    restore(previousValues(instance), previous)
    for (const [column, text] of texts) {
      const isAsItWas = textOf(dataValues[column]) === text || text === notJson
      if (!isAsItWas) values(instance)[column] = text === 'undefined' ? undefined : JSON.parse(text)
    }
    for (const name of instance.changed() || []) instance.changed(name as never, false)
    for (const name of changed) instance.changed(name as never, true)
  }
}

function restore(target: Record<string, unknown>, source: Record<string, unknown>): void {
  for (const name of Object.keys(target)) if (!Object.hasOwn(source, name)) Reflect.deleteProperty(target, name)
  Object.assign(target, source)
}
