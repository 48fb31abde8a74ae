import { isDeepStrictEqual } from 'node:util'
import type { Transaction } from 'sequelize'
import type { Row, RowModel } from './database.js'
import { UnsavedChangesError } from './errors.js'
import { attributeType, facts } from './target.js'
import type { Identity } from './target.js'
import { isInScope, live } from './transaction.js'

/** The lock that is held on an instance's row. */
interface Hold {
  readonly transaction: Transaction
  /** Only code inside the callback of withLock shares it; otherwise everybody who has the instance does. */
  scoped: boolean
  /** What the database holds in the columns whose values can be changed in place, as text. */
  readonly stored: Map<string, string>
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
  const hold = holdOn(instance) ?? { transaction, scoped, stored: new Map<string, string>() }
  if (!scoped) hold.scoped = false
  holds.set(instance, hold)
  rememberStored(instance)
}

/** The callback of withLock is over, and its transaction is not: the lock is still held, by the code around it. */
export function endScope(instance: Row): void {
  const hold = holdOn(instance)
  if (hold && !isInScope(hold.transaction)) hold.scoped = false
}

const mutableTypes = ['JSON', 'JSONB', 'ARRAY', 'HSTORE']

function mutableColumns(instance: Row): string[] {
  const model = instance.constructor as RowModel
  return Object.keys(model.getAttributes()).filter((name) => mutableTypes.includes(attributeType(model, name)))
}

/** Takes what the instance has just read for what the database holds. */
export function rememberStored(instance: Row): void {
  const stored = holdOn(instance)?.stored
  for (const column of mutableColumns(instance)) stored?.set(column, textOf(values(instance)[column]))
}

/** Keeps the objects that may be changed in place; returns how to put them back where a statement's answer replaced them. */
export function keepMutable(instance: Row): () => void {
  const kept = mutableColumns(instance).map((column) => [column, values(instance)[column]] as const)
  return () => void Object.assign(values(instance), Object.fromEntries(kept))
}

/** Takes note of what a statement writes as it is sent, since later changes are not part of it; returns what to do once it is done. */
export function observeSent(instance: object, columns: readonly string[]): () => void {
  const stored = holdOn(instance as Row)?.stored
  const sent = columns
    .filter((column) => stored?.has(column))
    .map((column) => [column, textOf(values(instance as Row)[column])] as const)
  return () => {
    for (const [column, text] of sent) stored?.set(column, text)
  }
}

/** Marks what was changed in place as changed, which Sequelize cannot see, so that a save writes it. */
export function markChangesInPlace(instance: Row): void {
  markChangesSince(instance, holdOn(instance)?.stored ?? new Map())
}

/** Keeps what the instance holds now; returns how to mark what was changed in place since. */
export function trackChangesInPlace(instance: Row): () => void {
  const texts = new Map(mutableColumns(instance).map((column) => [column, textOf(values(instance)[column])]))
  return () => {
    markChangesSince(instance, texts)
  }
}

function markChangesSince(instance: Row, texts: ReadonlyMap<string, string>): void {
  for (const [column, text] of texts) {
    const now = textOf(values(instance)[column])
    if (now !== text && !isSameDocument(now, text)) instance.changed(column as never, true)
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
  if (changed.length > 0) throw new UnsavedChangesError(method, facts(row), changed, when)
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
  const stored = holdOn(instance)?.stored
  const before = stored?.get(column)
  if (before !== undefined) stored?.set(column, textOf(after(before === 'undefined' ? null : JSON.parse(before))))
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
  const stored = new Map(holdOn(instance)?.stored)
  return () => {
    restore(values(instance), dataValues)
    restore(previousValues(instance), previous)
    for (const [column, text] of texts) {
      const isAsItWas = textOf(dataValues[column]) === text || text === notJson
      if (!isAsItWas) values(instance)[column] = text === 'undefined' ? undefined : JSON.parse(text)
    }
    for (const name of instance.changed() || []) instance.changed(name as never, false)
    for (const name of changed) instance.changed(name as never, true)
    const hold = holdOn(instance)
    for (const [column, text] of stored) hold?.stored.set(column, text)
  }
}

function restore(target: Record<string, unknown>, source: Record<string, unknown>): void {
  for (const name of Object.keys(target)) if (!Object.hasOwn(source, name)) Reflect.deleteProperty(target, name)
  Object.assign(target, source)
}
