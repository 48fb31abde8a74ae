import { Utils } from 'sequelize'
import type { Transaction } from 'sequelize'
import { RowRef } from '../rows/row-ref.js'
import { findRowState } from '../rows/row-state.js'
import { argumentsOfSql, holdsLock, modelOf, openAncestor, versionAttribute } from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { findTransactionState } from '../transactions/transaction-state.js'
import { ineffectiveLockOf, lockingReadOf } from './locking-reads.js'

/** The missing protection of a write, or what cannot be known of it. */
export type Reason = keyof typeof reasons

export const reasons = {
  'no lock': 'no lock and no version prevents another write between the read and this write',
  'lock outside of a transaction': 'the lock was requested outside a transaction, where it ends with its SELECT',
  'lock does not reach the row':
    'Sequelize puts a query with include and limit into a subquery, and FOR UPDATE outside it locks no row of the subquery',
  'lock of another transaction':
    'the transaction that locked the row has ended, or this write did not pass it as { transaction }',
  'lock of another row': 'its transaction has locked other rows of the table, but not this row',
  'rows not named by primary key':
    'its transaction has locked rows of the table, but the write does not name its rows by their primary key',
  'column not read under the lock': 'the row is locked, but the column was read earlier, not by the locking read',
  'loaded before the lock': 'the row is locked, but the saved instance was loaded before the lock, or without it',
  'version not compared': 'the model has a version, but this statement does not compare it',
  'SQL that was not understood':
    'whether the SQL of the application computes the column from its stored value is unknown',
  'number in SQL': 'its SQL sets a number in the document, which may be computed from an earlier read',
} as const

/** The reasons that leave open whether an update can be lost. */
export const openReasons: readonly Reason[] = ['SQL that was not understood', 'number in SQL']

/** Why a save of a column that its transaction did not read under a lock is unprotected. */
export function reasonOfSave(instance: Row, transaction: Transaction | null | undefined): Reason {
  const lockedIn = lockedInOf(instance)
  if (lockedIn) {
    return holdsLock(transaction, lockedIn) ? 'column not read under the lock' : 'lock of another transaction'
  }
  const locked = transaction ? findTransactionState(transaction)?.lockedRows : undefined
  if (locked && locked.ofRow(RowRef.of(instance).key).length > 0) return 'loaded before the lock'
  if (locked && locked.ofTable(modelOf(instance)).length > 0) return 'lock of another row'
  return ineffectiveLockOf(instance) ?? 'no lock'
}

/** The transaction of the lock with which an instance was read last; it may have ended. */
function lockedInOf(instance: Row): Transaction | undefined {
  return lockingReadOf(instance)?.transaction ?? findRowState(instance)?.lastLock?.transaction
}

/** Why a write of rows that were not loaded is unprotected; `key` is that of the one row that it names. */
export function reasonOfBulkWrite(
  model: RowModel,
  key: string | undefined,
  transaction: Transaction | null | undefined,
): Reason {
  const locked = transaction ? findTransactionState(transaction)?.lockedRows : undefined
  const instances = key !== undefined && locked ? locked.ofRow(key) : []
  if (instances.length > 0) {
    // The rollback of a savepoint gives its locks back.
    const isHeld = instances.some((row) => openAncestor(lockedInOf(row) ?? transaction!))
    return isHeld ? 'column not read under the lock' : 'lock of another transaction'
  }
  if (locked && locked.ofTable(model).length > 0) {
    return key === undefined ? 'rows not named by primary key' : 'lock of another row'
  }
  return versionAttribute(model) === undefined ? 'no lock' : 'version not compared'
}

/** Why a value that SQL computes may lose an update: it has a number among its arguments. */
export function reasonOfExpression(value: unknown): Reason | undefined {
  const isOpen = value instanceof Utils.Literal ? setsNumber(String(value.val)) : hasNumber(value)
  return isOpen ? 'number in SQL' : undefined
}

/**
 * SQL with two other characters in place of each escape by a backslash, so that no literal holds a quote; of one with `''`, each
 * part counts as a literal. A regular expression that repeats a group exceeds its stack in a literal of millions of characters.
 */
export function maskQuotes(sql: string): string {
  return sql.includes('\\') ? sql.replace(/\\[\\']/g, '__') : sql
}

/** Whether SQL text, without its string literals, passes a number other than 0 to a function that sets a value. */
export function setsNumber(sql: string): boolean {
  const text = maskQuotes(sql).replace(/'[^']*'/g, "''")
  return /\b(jsonb?_(set|insert|replace|object|build_object))\s*\(.*,\s*(CAST\(|to_jsonb?\()?\s*-?(?!0\b)\d/is.test(
    text,
  )
}

function hasNumber(value: unknown): boolean {
  if (typeof value === 'number' || typeof value === 'bigint') return Number(value) !== 0
  return argumentsOfSql(value).some(hasNumber)
}
