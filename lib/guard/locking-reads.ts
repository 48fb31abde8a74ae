import { Model } from 'sequelize'
import type { Transaction } from 'sequelize'
import { buildOptionsOf, valuesOf } from '../sequelize/internals.js'
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

interface NotedOptions extends BuildOptions {
  [lockingRead]?: LockingRead
}

/** The locking read that finder options request; `undefined` if it does not lock every row against all writers. */
export function toLockingRead(model: RowModel, options: CallOptions = {}): LockingRead | undefined {
  const { lock, transaction, subQuery, groupedLimit } = options
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

/** The rows that the same statement read through `include`. */
export function includedRows(row: Row): Row[] {
  const { include = [] } = buildOptionsOf(row)
  const direct = include.flatMap(({ as, separate }) => (separate ? [] : [valuesOf(row)[as]].flat()))
  return (direct.filter((each) => each instanceof Model) as Row[]).flatMap((each) => [each, ...includedRows(each)])
}
