import { isDeepStrictEqual } from 'node:util'
import type { Transaction } from 'sequelize'
import type { Row, RowModel } from './database.js'
import { UnsavedChangesError } from './errors.js'
import { facts, jsonColumns } from './target.js'
import type { Identity } from './target.js'
import { isFinished, isInScope } from './transaction.js'

/** The lock that is held on an instance's row: its transaction, and the documents as the database has them. */
export interface Hold {
  readonly transaction: Transaction
  /** Only code inside the callback of withLock shares it; a lock() that was asked for by transaction is open to all. */
  readonly scoped: boolean
  readonly documents: Map<string, string>
}

const holds = new WeakMap<Row, Hold>()

/** The lock on this instance's row that is still held, whoever holds it. */
export function holdOn(instance: Row | undefined): Hold | undefined {
  const hold = instance && holds.get(instance)
  return hold && !isFinished(hold.transaction) ? hold : undefined
}

/** The transaction of the lock on this instance's row, if this code may share it. */
export function heldTransaction(instance: Row | undefined): Transaction | undefined {
  const hold = holdOn(instance)
  return hold && (!hold.scoped || isInScope(hold.transaction)) ? hold.transaction : undefined
}

/** Remembers that `transaction` holds the lock on this instance's row, and copies its documents. */
export function startHold(instance: Row, transaction: Transaction, scoped: boolean): void {
  // A lock taken again, perhaps inside a savepoint, is held as long as the first one.
  if (!holdOn(instance)) holds.set(instance, { transaction, scoped, documents: new Map() })
  rememberDocuments(instance)
}

/** Takes the documents in memory as those of the database, so that what is changed in place from here on is seen. */
export function rememberDocuments(instance: Row): void {
  const hold = holdOn(instance)
  if (!hold) return
  for (const column of jsonColumns(instance.constructor as RowModel)) {
    if (instance.changed(column as never)) continue
    const text = textOf(instance, column)
    if (text === undefined) continue
    hold.documents.set(column, text)
    // Sequelize shares one object between both, and then cannot see a change in it.
    previousValues(instance)[column] = JSON.parse(text)
  }
}

/** Marks the documents that were changed in place as changed, which Sequelize cannot see, so that a save writes them. */
export function markChangesInPlace(instance: Row): void {
  for (const [column, text] of holdOn(instance)?.documents ?? []) {
    const now = textOf(instance, column)
    if (now !== undefined && now !== text && !isDeepStrictEqual(JSON.parse(now), JSON.parse(text))) {
      instance.changed(column as never, true)
    }
  }
}

/** @throws {UnsavedChangesError} the instance, or only the `column` given, was changed and not saved */
export function refuseUnsavedChanges(method: string, row: Identity, when: 'before' | 'after', column?: string): void {
  const { instance } = row
  if (!instance) return
  markChangesInPlace(instance)
  const changed = (instance.changed() || []).filter((name) => column === undefined || name === column)
  if (changed.length > 0) throw new UnsavedChangesError(method, facts(row), changed, when)
}

function textOf(instance: Row, column: string): string | undefined {
  return JSON.stringify(values(instance)[column])
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

/** The way back to the instance as it is now. */
export function snapshot(instance: Row): () => void {
  const dataValues = { ...values(instance) }
  const previous = { ...previousValues(instance) }
  const changed = instance.changed() || []
  return () => {
    restore(values(instance), dataValues)
    restore(previousValues(instance), previous)
    for (const name of instance.changed() || []) instance.changed(name as never, false)
    for (const name of changed) instance.changed(name as never, true)
  }
}

function restore(target: Record<string, unknown>, source: Record<string, unknown>): void {
  for (const name of Object.keys(target)) if (!Object.hasOwn(source, name)) Reflect.deleteProperty(target, name)
  Object.assign(target, source)
}
