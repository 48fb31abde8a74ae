export { lossless } from './lossless.js'
export type { Lossless } from './lossless.js'
export { lock, withLock } from './lock.js'
export type { LockOptions, WithLockOptions } from './lock.js'
export { compareAndSetJson, mergeJson, mergeJsonKey, updateJson } from './json.js'
export type { JsonWriteOptions } from './json.js'
export type { JsonColumn, JsonDocument, JsonKey, JsonKeyValue, Patch, PrimaryKey, Target } from './target.js'
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
} from './operation.js'
export type { Condition, JsonValue, Operation, Path } from './operation.js'
export {
  ConditionNotMetError,
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
