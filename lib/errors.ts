import { BaseError, OptimisticLockError } from 'sequelize'

/** The call was wrong, whatever the data: a `TypeError`, thrown before any SQL. */
export class UsageError extends TypeError {
  readonly code = 'USAGE'
  override readonly name = 'UsageError'
}

/** Facts that name one row: its model and its primary key. */
export interface RowFacts {
  readonly model: string
  readonly primaryKey: Readonly<Record<string, unknown>>
}

abstract class RowError extends BaseError {
  readonly model: string
  readonly primaryKey: Readonly<Record<string, unknown>>

  constructor(row: RowFacts, message: string) {
    super(message)
    this.model = row.model
    this.primaryKey = row.primaryKey
  }
}

/** The row is not in the table (any more); nothing was written. */
export class RowNotFoundError extends RowError {
  readonly code = 'ROW_NOT_FOUND'
  override readonly name = 'RowNotFoundError'

  constructor(method: string, row: RowFacts) {
    super(
      row,
      `${method}: ${describeRow(row)} does not exist, so nothing was written. ` +
        `It was deleted or never saved: create it with ${row.model}.create({ … }), or treat its absence in a catch by code 'ROW_NOT_FOUND'.`,
    )
  }
}

/** The document, or a parent in it, is an array or a scalar where an object is needed; nothing was written. */
export class JsonShapeError extends RowError {
  readonly code = 'JSON_SHAPE'
  override readonly name = 'JsonShapeError'
  readonly column: string
  /** Where in the document; empty for its root. */
  readonly path: readonly string[]
  readonly needed: 'an object' | 'a number' | 'an array'
  /** What stands there: `'array'`, `'string'`, `'number'`, `'boolean'`, `'null'`, `'object'` or `'text that is not JSON'`. */
  readonly found: string

  constructor(
    method: string,
    row: RowFacts,
    column: string,
    { path, needed, found }: Pick<JsonShapeError, 'path' | 'needed' | 'found'>,
  ) {
    const place = path.length === 0 ? `"${column}"` : `"${column}" at ${JSON.stringify(path)}`
    super(
      row,
      `${method}: ${place} of ${describeRow(row)} holds ${article(found)}, not ${needed}, so nothing was written. ` +
        `Repair the document first: await row.withLock(async (row) => { row.${column} = { … }; await row.save() }).`,
    )
    this.column = column
    this.path = path
    this.needed = needed
    this.found = found
  }
}

/** A key or a value which JSON, or this database, cannot hold exactly; thrown before the write. */
export class UnsupportedValueError extends BaseError {
  readonly code = 'UNSUPPORTED_VALUE'
  override readonly name = 'UnsupportedValueError'
  /** The column that was to be written; unknown to an operation that was made and not used yet. */
  readonly column: string | undefined

  constructor(method: string, reason: string, remedy: string, column?: string) {
    super(`${method}: ${reason}, so nothing was written. ${remedy}`)
    this.column = column
  }
}

/** The stored document does not meet a condition of the write, so nothing was written. */
export class ConditionNotMetError extends RowError {
  readonly code = 'CONDITION_NOT_MET'
  override readonly name = 'ConditionNotMetError'
  readonly column: string
  readonly condition: Readonly<{ kind: string; path: readonly string[]; json: string }>

  constructor(method: string, row: RowFacts, column: string, condition: ConditionNotMetError['condition']) {
    const { kind, path, json } = condition
    const told = kind === 'equals' ? `equals(${JSON.stringify(path)}, ${json})` : `${kind}(${JSON.stringify(path)})`
    super(
      row,
      `${method}: "${column}" of ${describeRow(row)} does not meet ${told}, so nothing was written. ` +
        `Read it again with await row.reload() and decide anew, or treat this in a catch by code 'CONDITION_NOT_MET'.`,
    )
    this.column = column
    this.condition = condition
  }
}

/** The row has changes that were not saved, and this call would lose or mix them. */
export class UnsavedChangesError extends RowError {
  readonly code = 'UNSAVED_CHANGES'
  override readonly name = 'UnsavedChangesError'
  /** The attributes that were changed and not saved. */
  readonly columns: readonly string[]

  constructor(method: string, row: RowFacts, columns: readonly string[], when: 'before' | 'rolled back' | 'joined') {
    const names = columns.map((column) => `"${column}"`).join(', ')
    super(
      row,
      when === 'before'
        ? `${method}: ${describeRow(row)} has unsaved changes in ${names}. ` +
            `Keep them with await row.save(), or drop them with await row.reload(), first.`
        : `${method}: the callback left unsaved changes in ${names} of ${describeRow(row)}, ` +
            (when === 'joined'
              ? `and its other writes are in the transaction that it joined. Let this error roll that one back, and end`
              : `so its transaction was rolled back. End`) +
            ` the callback with await row.save().`,
    )
    this.columns = columns
  }
}

/** A write inside `withLock` that would not be part of its transaction, and could wait for its own lock. */
export class OutsideTransactionError extends BaseError {
  readonly code = 'OUTSIDE_TRANSACTION'
  override readonly name = 'OutsideTransactionError'

  constructor(method: string, what: string, remedy: string) {
    super(`${method}: ${what}. ${remedy}`)
  }
}

/** Another session got there first (a deadlock, or a row newer than the transaction's snapshot); nothing was written. */
export class ConflictError extends OptimisticLockError {
  readonly code = 'CONFLICT'
  override readonly name = 'ConflictError'
  readonly primaryKey: Readonly<Record<string, unknown>>

  constructor(method: string, row: RowFacts, reason: string, inTransaction: boolean, cause?: unknown) {
    super({
      modelName: row.model,
      message:
        `${method}: ${describeRow(row)} met ${reason}, so nothing was written. ` +
        (inTransaction ? `Run the whole transaction again, from its first read.` : `Call ${method}() again.`),
    })
    this.primaryKey = row.primaryKey
    this.cause = cause
  }
}

/** The row was locked by another session for as long as this call could wait; nothing was written. */
export class LockTimeoutError extends RowError {
  readonly code = 'LOCK_TIMEOUT'
  override readonly name = 'LockTimeoutError'
  /** How long it waited at most, in milliseconds; 0 for `nowait`, `undefined` for as long as the server waits. */
  readonly timeoutMs: number | undefined

  constructor(method: string, row: RowFacts, timeoutMs: number | undefined, holders: string, cause?: unknown) {
    const [waited, remedy] =
      timeoutMs === undefined
        ? ['for longer than the server waits', 'Try again later']
        : timeoutMs === 0
          ? ['and nowait was asked for', 'Try again later, leave nowait out to wait']
          : [`for more than ${timeoutMs} ms, or than the server waits`, 'Try again later, with a longer timeoutMs']
    super(
      row,
      `${method}: ${describeRow(row)} is locked by another session ${waited}, so nothing was written. ` +
        `${remedy}, or find who holds the lock: ${holders}.`,
    )
    this.timeoutMs = timeoutMs
    this.cause = cause
  }
}

/**
 * Others wrote the row between its read and its save, in every attempt of `withOptimisticLock`, or changed what a save under
 * `wholeColumnWrites: 'patch'` needs to find as it was loaded; nothing was written.
 */
export class StaleRowError extends OptimisticLockError {
  readonly code = 'STALE_ROW'
  override readonly name = 'StaleRowError'
  readonly primaryKey: Readonly<Record<string, unknown>>
  readonly attempts: number
  /** The attributes that were to be saved, in the last attempt. */
  readonly columns: readonly string[]
  /** Where in the document others were first, if that is known; empty for its root. */
  readonly path: readonly string[] | undefined

  constructor(
    method: string,
    row: RowFacts,
    attempts: number,
    columns: readonly string[],
    cause: unknown,
    path?: readonly string[],
  ) {
    const names = columns.map((column) => `"${column}"`).join(', ')
    const place = path && path.length > 0 ? `${names} at ${JSON.stringify(path)}` : names
    super({
      modelName: row.model,
      message: path
        ? `${method}: ${place} of ${describeRow(row)} was changed by others since it was loaded, so nothing was written. ` +
          `Read it again with await row.reload() and decide anew, or let callers wait for each other instead: await row.withLock(fn).`
        : `${method}: ${describeRow(row)} was written by others in each of ${attempts} attempts, before the change of ${names} was saved, so nothing was written. ` +
          `Raise retry: { maxAttempts }, or let callers wait for each other instead: await row.withLock(fn).`,
    })
    this.path = path
    this.primaryKey = row.primaryKey
    this.attempts = attempts
    this.columns = columns
    this.cause = cause
  }
}

/** A write of a whole JSON column that nothing keeps from overwriting what others have written. */
export interface WholeColumnWrite extends RowFacts {
  /** The call: `'save'`, `'update'`, `'upsert'` or `'bulkCreate'`. */
  readonly method: string
  readonly column: string
  /** The keys of the document that changed since it was loaded; `undefined` where nobody knows. */
  readonly keys: readonly string[] | undefined
  /** Where the call stands; `undefined` if no code but Sequelize's is on the stack. */
  readonly file: string | undefined
  readonly line: number | undefined
  /** The call to write instead. */
  readonly instead: string
}

/** `jobs.ts:12 writes the whole "progress" of WorkflowRun id=7 …`: what is at risk, and the call to write instead. */
export function describeWrite({ column, keys, file, line, instead, ...row }: WholeColumnWrite): string {
  const place = file === undefined ? '' : ` at ${file}:${line}`
  const changed =
    keys && ` Changed since it was loaded: ${keys.map((key) => JSON.stringify(key)).join(', ') || 'nothing'}.`
  return (
    `writes the whole "${column}" of ${describeRow(row)}${place}, over what others have written since.${changed ?? ''} ` +
    `Write only what changes: ${instead}; or say that it is meant, with the option { wholeColumnWrites: 'allow' }.`
  )
}

/** A whole JSON column would have been written over what others have written; refused before any SQL. */
export class WholeColumnWriteError extends RowError implements WholeColumnWrite {
  readonly code = 'WHOLE_COLUMN_WRITE'
  override readonly name = 'WholeColumnWriteError'
  readonly method: string
  readonly column: string
  readonly keys: readonly string[] | undefined
  readonly file: string | undefined
  readonly line: number | undefined
  readonly instead: string

  constructor(write: WholeColumnWrite) {
    super(write, `${write.method}: was refused, since it ${describeWrite(write)}`)
    this.method = write.method
    this.column = write.column
    this.keys = write.keys
    this.file = write.file
    this.line = write.line
    this.instead = write.instead
  }
}

/** The connection was lost after a COMMIT, or a write outside a transaction, was sent: it is done, or it is not. */
export class UnknownOutcomeError extends BaseError {
  readonly code = 'UNKNOWN_OUTCOME'
  override readonly name = 'UnknownOutcomeError'

  constructor(method: string, sent: 'COMMIT' | 'the write', cause: unknown) {
    super(
      `${method}: the connection was lost after ${sent} was sent, so nobody knows whether it was done. ` +
        `Look under the lock, await withLock([Model, id], (row) => …), which waits for a COMMIT that is still under way: what has the same result twice (set, merge, addToSet) can be repeated, increment() and append() cannot.`,
    )
    this.cause = cause
  }
}

/** The transaction was rolled back although its callback succeeded: a statement in it had failed and the error was swallowed. */
export class RolledBackError extends BaseError {
  readonly code = 'ROLLED_BACK'
  override readonly name = 'RolledBackError'

  /** @param cause the first error of a statement in it, if it is known */
  constructor(cause: unknown) {
    super(
      'sequelize-lossless: the transaction was rolled back instead of committed, because a statement in it had failed and the error was caught. Nothing was written. ' +
        'Let that statement’s error leave the callback instead of catching it, or run the statement in its own savepoint: sequelize.transaction({ transaction }, …).',
    )
    this.cause = cause
  }
}

/** The database, its version or its connection cannot keep what this library promises. */
export class UnsupportedDatabaseError extends BaseError {
  readonly code = 'UNSUPPORTED_DATABASE'
  override readonly name = 'UnsupportedDatabaseError'

  constructor(what: string, remedy: string) {
    super(`sequelize-lossless: ${what}. ${remedy}`)
  }
}

/** `WorkflowRun id=7`: how every error text names a row. */
function describeRow(row: RowFacts): string {
  return [row.model, ...Object.entries(row.primaryKey).map(([name, value]) => `${name}=${shown(value)}`)].join(' ')
}

function shown(value: unknown): string {
  if (value instanceof Date) return value.toISOString()
  if (Buffer.isBuffer(value)) return `0x${value.toString('hex')}`
  return typeof value === 'string' ? JSON.stringify(value) : String(value)
}

function article(noun: string): string {
  return noun.startsWith('text') ? noun : /^[aeiou]/.test(noun) ? `an ${noun}` : `a ${noun}`
}

/** `"progress" (STRING)`, `42 (number)`: how a usage error shows what it was given. */
function given(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (typeof value === 'function') return `the function ${value.name || '(anonymous)'}`
  if (Array.isArray(value)) return `an array of ${value.length}`
  return typeof value === 'object'
    ? `an instance of ${value.constructor?.name ?? 'Object'}`
    : `${shown(value)} (${typeof value})`
}

/** Every usage error's text, by the mistake it tells of. */
export const usage = {
  target: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected a row or [Model, primaryKey], got ${given(value)}. ` +
        `Write ${method}(row, …) with an instance, or ${method}([WorkflowRun, id], …).`,
    ),
  model: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected an initialised Sequelize model, got ${given(value)}. ` +
        `Call ${method}() after sequelize.define(…), Model.init(…) or new Sequelize({ models: […] }).`,
    ),
  host: (method: string, version: string): UsageError =>
    new UsageError(`${method}: Sequelize ${version} is not supported. Install it with: npm install sequelize@^6.37.0`),
  taken: (model: string, name: string, what: string): UsageError =>
    new UsageError(
      `lossless: ${model} already has ${what} named "${name}", which would be hidden. ` +
        `Keep it and call the function instead: import { ${name} } from 'sequelize-lossless'; await ${name}(row, …).`,
    ),
  noPrimaryKey: (method: string, model: string): UsageError =>
    new UsageError(
      `${method}: ${model} has no primary key, so one row of it cannot be named. ` +
        `Mark the column that identifies a row: id: { type: DataTypes.INTEGER, primaryKey: true }.`,
    ),
  primaryKeyNotLoaded: (method: string, model: string, name: string): UsageError =>
    new UsageError(
      `${method}: this ${model} was loaded without its primary key "${name}". Load it with attributes: ['${name}', …], or write ${method}([${model}, ${name}], …).`,
    ),
  primaryKeyShape: (method: string, model: string, names: readonly string[], value: unknown): UsageError =>
    new UsageError(
      `${method}: expected the primary key of ${model}, got ${given(value)}. Write ${method}([${model}, ` +
        (names.length === 1 ? `${names[0]}` : `{ ${names.map((name) => `${name}: …`).join(', ')} }`) +
        `], …).`,
    ),
  primaryKeyType: (method: string, model: string, name: string, expected: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected "${name}", the primary key of ${model}, to be ${expected}, got ${given(value)}. ` +
        `Databases convert such values silently and can match other rows: convert it yourself, for example ${expected === 'a string' ? `String(${name})` : `Number(${name})`}.`,
    ),
  newRecord: (method: string, model: string): UsageError =>
    new UsageError(
      `${method}: this ${model} was built and never saved, so it has no row in the database. Call await row.save() first.`,
    ),
  column: (method: string, model: string, column: unknown, columns: readonly string[]): UsageError =>
    new UsageError(
      `${method}: expected a JSON attribute of ${model}, got ${given(column)}. ` +
        (columns.length > 0
          ? `Its JSON attributes: ${columns.map((name) => `'${name}'`).join(', ')}.`
          : `Declare one: progress: { type: DataTypes.JSON }.`),
    ),
  key: (method: string, value: unknown): UsageError =>
    new UsageError(`${method}: expected a key to be a string, got ${given(value)}. Write String(key).`),
  sameKey: (method: string, key: string): UsageError =>
    new UsageError(`${method}: the new key "${key}" is the old one. Write ${method}(['steps', 'old'], 'new').`),
  path: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected a path to be a key or an array of keys, got ${given(value)}. Write ${method}(['steps', 'a'], …), with String(key) for each.`,
    ),
  emptyPath: (method: string): UsageError =>
    new UsageError(
      `${method}: the path is empty, and the document itself is only merged into. Name a key, or write merge([], { … }).`,
    ),
  amount: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected the operand to be a number, got ${given(value)}. Write ${method}('attempts', 1).`,
    ),
  patch: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected the patch to be an object, got ${given(value)}. Write set(path, value) to replace a value.`,
    ),
  operations: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected an array of at least one operation, got ${given(value)}. Write ${method}(column, [set('step_a', 'done'), increment('attempts')]).`,
    ),
  conditions: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected options.if to be an array of conditions, got ${given(value)}. Write { if: [equals('state', 'new'), absent('owner')] }.`,
    ),
  overlap: (method: string, one: readonly string[], other: readonly string[]): UsageError =>
    new UsageError(
      `${method}: the paths ${JSON.stringify(one)} and ${JSON.stringify(other)} overlap, so their order would matter. Write them as one operation, or as two calls.`,
    ),
  value: (method: string, place: string, what: string): UsageError =>
    new UsageError(
      `${method}: ${place} is ${what}, which JSON does not have. Use null for "no value", or leave the key out.`,
    ),
  circular: (method: string): UsageError =>
    new UsageError(
      `${method}: the value refers to itself, which JSON cannot. Store an identifier in place of the inner reference.`,
    ),
  callback: (method: string, value: unknown, words: string = 'row, transaction'): UsageError =>
    new UsageError(
      `${method}: expected a callback, got ${given(value)}. Write ${method}(…, async (${words}) => { … }).`,
    ),
  targets: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected an array of at least one row or [Model, primaryKey], got ${given(value)}. Write ${method}([from, to], async ([from, to], transaction) => { … }).`,
    ),
  targetsApart: (method: string): UsageError =>
    new UsageError(
      `${method}: the rows belong to different Sequelize instances, and no transaction spans both. Lock those of one, and write the others by an outbox.`,
    ),
  targetTwice: (method: string, row: RowFacts): UsageError =>
    new UsageError(`${method}: ${describeRow(row)} is named twice. Name each row once.`),
  timeout: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected timeoutMs to be a whole number of milliseconds from 1 to ${2 ** 31 - 1}, got ${given(value)}. Write { timeoutMs: 2000 }, or { nowait: true } for none.`,
    ),
  nowait: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected nowait to be a boolean, and to be used without timeoutMs, got ${given(value)}. Write { nowait: true } or { timeoutMs: 2000 }.`,
    ),
  retry: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected the retry options to be an object, got ${given(value)}. Write { maxAttempts: 5 }; 1 is for no second attempt.`,
    ),
  retryNumber: (method: string, name: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected ${name} to be ${name === 'maxAttempts' ? 'an integer from 1' : 'a number of milliseconds from 0'}, got ${given(value)}. Write { maxAttempts: 5, baseDelayMs: 10, maxDelayMs: 1000 }.`,
    ),
  retrySignal: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected signal to be an AbortSignal, got ${given(value)}. Write { signal: controller.signal } of a new AbortController().`,
    ),
  retryCallback: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected onRetry to be a function, got ${given(value)}. Write { onRetry: ({ error, attempt }) => { … } }.`,
    ),
  retryJoined: (method: string): UsageError =>
    new UsageError(
      `${method}: a transaction that is already open cannot be run again from here. Retry where it is opened: retryTransaction(sequelize, async (transaction) => { … }).`,
    ),
  noVersion: (method: string, model: string): UsageError =>
    new UsageError(
      `${method}: ${model} has no version column to tell that a row was changed. ` +
        `Declare ${model} with { version: true }, and migrate: await queryInterface.addColumn('<table>', 'version', { type: DataTypes.INTEGER, allowNull: false, defaultValue: 0 }).`,
    ),
  writeInside: (method: string, name: string): UsageError =>
    new UsageError(
      `${method}: row.${name}() in the callback would write apart from the check that follows it. Assign what is to change, row.title = …, which ${method}() saves; or write in withLock().`,
    ),
  sequelize: (method: string, value: unknown, call: string): UsageError =>
    new UsageError(`${method}: expected a Sequelize instance, got ${given(value)}. Write ${call}.`),
  option: (method: string, name: string, known: readonly string[]): UsageError =>
    new UsageError(`${method}: there is no option "${name}". Use: ${known.join(', ')}.`),
  options: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected the options to be an object, got ${given(value)}. Write { transaction } around a transaction.`,
    ),
  transaction: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected options.transaction to be a transaction of this row's Sequelize instance, got ${given(value)}. ` +
        `Pass the one that sequelize.transaction() gave you, null for none, or leave the option out.`,
    ),
  transactionMissing: (method: string): UsageError =>
    new UsageError(
      `${method}: a lock lasts as long as its transaction, and none was given. ` +
        `Write await sequelize.transaction(async (transaction) => { await ${method}(row, { transaction }); … }), or use withLock().`,
    ),
  transactionFinished: (method: string, state: string): UsageError =>
    new UsageError(
      `${method}: the transaction given is over (${state}). Do the write before the callback of sequelize.transaction() returns, or pass another one.`,
    ),
  transactionReadOnly: (method: string): UsageError =>
    new UsageError(
      `${method}: the transaction is read-only, so it can neither lock nor write. Open it without readOnly: true.`,
    ),
  isolationLevelJoined: (method: string): UsageError =>
    new UsageError(
      `${method}: isolationLevel cannot be set on a transaction that is already open. Set it where the transaction is opened: sequelize.transaction({ isolationLevel }, …).`,
    ),
  isolationLevel: (method: string, level: unknown, database: string): UsageError =>
    new UsageError(`${method}: ${database} has no isolation level ${given(level)}. Leave isolationLevel out.`),
  wholeColumnWrites: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected wholeColumnWrites to be 'allow', 'warn', 'throw' or 'patch', got ${given(value)}. Write ${method}(WorkflowRun, { wholeColumnWrites: 'warn' }).`,
    ),
  coalesce: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected coalesce to be true or false, got ${given(value)}. Write { coalesce: true }, or leave it out.`,
    ),
  conflicts: (method: string, value: unknown): UsageError =>
    new UsageError(
      `${method}: expected conflicts to be 'overwrite' or 'throw', and to stand beside wholeColumnWrites: 'patch', got ${given(value)}. Write ${method}(WorkflowRun, { wholeColumnWrites: 'patch', conflicts: 'throw' }).`,
    ),
  searchPath: (method: string): UsageError =>
    new UsageError(
      `${method}: with a searchPath Sequelize puts values into the text of a statement, which cannot be patched. Name the schema instead: Model.schema('…').`,
    ),
  lockedElsewhere: (method: string, row: RowFacts): UsageError =>
    new UsageError(
      `${method}: this instance of ${describeRow(row)} is inside another withLock() already, and two flows cannot share one instance. ` +
        `Give each its own: withLock([${row.model}, primaryKey], fn), or load the row once per job.`,
    ),
} as const
