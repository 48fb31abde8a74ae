/**
 * JSON columns that never lose an update, for Sequelize.
 *
 * @module sequelize-lossless
 */
export { lossless } from './lossless.js'
export type { Lossless } from './lossless.js'
export type {
  BatchMessage,
  CallMessage,
  CallOrigin,
  LockMessage,
  RetryMessage,
  StatementMessage,
} from './sequelize/channels.js'
export type { LosslessOptions, ModelOptions, RowWrite, WriteMode, WriteModes } from './sequelize/options.js'
export { lock, withLock, withLocks } from './locking/lock.js'
export type { LockOptions, LockWaitOptions, WithLockOptions } from './locking/lock.js'
export { withNext } from './locking/next.js'
export type { NextRow, WithNextOptions } from './locking/next.js'
export { withOptimisticLock } from './locking/optimistic.js'
export type { WithOptimisticLockOptions } from './locking/optimistic.js'
export { retryTransaction } from './transactions/retry-transaction.js'
export type { RetryTransactionOptions } from './transactions/retry-transaction.js'
export { transactionNamespace } from './transactions/async-context.js'
export type { TransactionNamespace } from './transactions/async-context.js'
export type { FailedAttempt, RetryOptions } from './transactions/retry.js'
export { flush } from './writes/coalesce.js'
export { atomicUpdate } from './writes/atomic-update.js'
export type { AtomicUpdateOptions } from './writes/atomic-update.js'
export { atomicUpsert } from './writes/atomic-upsert.js'
export type { AtomicUpsertOptions } from './writes/atomic-upsert.js'
export { updateWhere } from './writes/update-where.js'
export type { UpdateWhereOptions } from './writes/update-where.js'
export { plus } from './writes/columns.js'
export type { Plus } from './writes/columns.js'
export { compareAndSetJson, mergeJson, mergeJsonKey, updateJson } from './writes/json-methods.js'
export type { JsonWriteOptions } from './writes/options.js'
export type { JsonColumn, JsonDocument, JsonKey, JsonKeyValue, Patch } from './json/document-types.js'
export type { PrimaryKey, RowWhere, Target } from './rows/row-ref.js'
export {
  absent,
  addToSet,
  append,
  assign,
  atLeast,
  atMost,
  contains,
  equals,
  exists,
  greaterThan,
  increment,
  lessThan,
  max,
  merge,
  min,
  not,
  prepend,
  pull,
  remove,
  rename,
  replaceOrAppend,
  set,
  setIfAbsent,
  size,
} from './json/operation.js'
export type { Condition, Operation } from './json/operation.js'
export { matching } from './json/matching.js'
export type { JsonValue, Matching, Path } from './json/values.js'
export {
  ConditionNotMetError,
  ConflictError,
  ElementNotFoundError,
  isLosslessError,
  JsonShapeError,
  LockTimeoutError,
  OutsideTransactionError,
  PendingStatementsError,
  RolledBackError,
  RowNotFoundError,
  StaleRowError,
  UnknownOutcomeError,
  UnsavedChangesError,
  UnsupportedDatabaseError,
  UnsupportedValueError,
  UsageError,
  WholeColumnWriteError,
} from './errors/errors.js'
export type {
  GuardReport,
  LosslessError,
  LosslessErrorCode,
  OutsideReadReport,
  RowError,
  UsageReason,
  WholeColumnReport,
  WholeColumnWrite,
} from './errors/errors.js'
