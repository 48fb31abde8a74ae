export { lossless } from './lossless.js'
export type { Lossless } from './lossless.js'
export { lock, withLock } from './lock.js'
export type { LockOptions, WithLockOptions } from './lock.js'
export { mergeJsonKey } from './json.js'
export type { JsonWriteOptions } from './json.js'
export type { JsonColumn, JsonDocument, JsonKey, JsonKeyValue, PrimaryKey, Target } from './target.js'
export type { JsonValue } from './operation.js'
export {
  ConflictError,
  JsonShapeError,
  OutsideTransactionError,
  RolledBackError,
  RowNotFoundError,
  UnsavedChangesError,
  UnsupportedDatabaseError,
  UnsupportedValueError,
  UsageError,
} from './errors.js'
