export { lossless } from './lossless.js'
export type { Lossless } from './lossless.js'
export type { LosslessOptions } from './policy.js'
export { lock, withLock, withLocks } from './lock.js'
export type { LockOptions, LockWaitOptions, WithLockOptions } from './lock.js'
export { withOptimisticLock } from './optimistic.js'
export type { WithOptimisticLockOptions } from './optimistic.js'
export { retryTransaction, transactionNamespace } from './transaction.js'
export type { RetryTransactionOptions, TransactionNamespace } from './transaction.js'
export type { FailedAttempt, RetryOptions } from './retry.js'
export { flush } from './coalesce.js'
export { compareAndSetJson, mergeJson, mergeJsonKey, updateJson } from './json.js'
export type { JsonWriteOptions } from './json.js'
export type { JsonColumn, JsonDocument, JsonKey, JsonKeyValue, Patch } from './json/document-types.js'
export type { PrimaryKey, Target } from './target.js'
export {
  absent,
  addToSet,
  append,
  equals,
  exists,
  increment,
  max,
  merge,
  min,
  prepend,
  pull,
  remove,
  rename,
  set,
  setIfAbsent,
} from './json/operation.js'
export type { Condition, Operation } from './json/operation.js'
export type { JsonValue, Path } from './json/values.js'
export {
  ConditionNotMetError,
  ConflictError,
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
export type { LosslessError, LosslessErrorCode, RowError, UsageReason, WholeColumnWrite } from './errors/errors.js'
