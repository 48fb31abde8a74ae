import { Model } from 'sequelize'
import type { Transaction } from 'sequelize'
import { buildOptionsOf, isSerializable, valuesOf } from '../sequelize/internals.js'
import type { BuildOptions, Row, RowModel } from '../sequelize/internals.js'
import type { CallOptions } from './call-options.js'

/** A read that locks its rows against every writer. */
interface LockingRead {
  readonly transaction: Transaction
  /** Whether it also locks the included rows. */
  readonly locksIncluded: boolean
}

/** The build option of an instance that holds its locking read. reload() copies it to another instance. */
const lockingRead = Symbol('locking read')

/** Why a lock that was requested has no effect. */
type IneffectiveLock = 'lock outside of a transaction' | 'lock does not reach the row'

const ineffectiveLock = Symbol('ineffective lock')

interface NotedOptions extends BuildOptions {
  [ineffectiveLock]?: IneffectiveLock
  [lockingRead]?: LockingRead
}

/**
 * The locking read that finder options request, or that the isolation level makes of each read; `undefined` if it does not lock
 * every row against all writers.
 */
export function toLockingRead(model: RowModel, options: CallOptions = {}): LockingRead | undefined {
  const { lock, transaction, subQuery, groupedLimit } = options
  if (transaction && isSerializable(transaction)) return { transaction, locksIncluded: true }
  // On MySQL and MariaDB a subquery may read an older snapshot.
  if (!lock || !transaction || subQuery || groupedLimit) return undefined
  const { level = lock, of }: { level?: unknown; of?: RowModel } = typeof lock === 'object' ? lock : {}
  if (level === 'KEY SHARE' || (of && of.name !== model.name)) return undefined
  return { transaction, locksIncluded: !of }
}

/** Stores the locking read on an instance. Returns whether `found` is an instance. */
export function noteLockingRead(found: unknown, read: LockingRead): found is Row {
  if (!(found instanceof Model)) return false
  const options: NotedOptions = buildOptionsOf(found as Row)
  options[lockingRead] = read
  return true
}

/** The locking read that an instance was last built from. */
export function lockingReadOf(row: Row): LockingRead | undefined {
  return (buildOptionsOf(row) as NotedOptions)[lockingRead]
}

/** Why the lock that finder options request has no effect; `undefined` if it has one, or if none is requested. */
export function toIneffectiveLock({ lock, transaction, subQuery, groupedLimit }: CallOptions = {}):
  IneffectiveLock | undefined {
  if (!lock) return undefined
  if (!transaction) return 'lock outside of a transaction'
  return subQuery || groupedLimit ? 'lock does not reach the row' : undefined
}

/** Stores on an instance why the lock of its read has no effect. */
export function noteIneffectiveLock(found: unknown, reason: IneffectiveLock): void {
  if (found instanceof Model) (buildOptionsOf(found as Row) as NotedOptions)[ineffectiveLock] = reason
}

/** Why the lock of the read that an instance was last built from has no effect. */
export function ineffectiveLockOf(row: Row): IneffectiveLock | undefined {
  return (buildOptionsOf(row) as NotedOptions)[ineffectiveLock]
}

/** The rows that the same statement read through `include`. */
export function includedRows(row: Row): Row[] {
  const { include = [] } = buildOptionsOf(row)
  const direct = include.flatMap(({ as, separate }) => (separate ? [] : [valuesOf(row)[as]].flat()))
  return (direct.filter((each) => each instanceof Model) as Row[]).flatMap((each) => [each, ...includedRows(each)])
}
