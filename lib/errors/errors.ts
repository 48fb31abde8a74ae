import { BaseError, OptimisticLockError } from 'sequelize'
import {
  accessOf,
  argumentsOf,
  callOf,
  codeOfFinder,
  codeOfModel,
  codeOfWhere,
  describeCondition,
  describePath,
  describeRow,
  optionsOf,
  replacementOf,
  shorten,
} from './describe.js'
import type { Accessors, ConditionFacts, RowFacts, TransactionOption } from './describe.js'
import { captureStack, UsageError } from './usage.js'

export type { RowFacts } from './describe.js'
export { UsageError } from './usage.js'
export type { UsageReason } from './usage.js'

/** An error about one row; has its model and primary key. */
export abstract class RowError extends BaseError {
  readonly model: string
  readonly primaryKey: Readonly<Record<string, unknown>>

  constructor(row: RowFacts, message: string) {
    super(message)
    captureStack(this)
    this.model = row.model
    this.primaryKey = row.primaryKey
  }
}

/** The row does not exist, or no row meets the `where` of the target; nothing was written. */
export class RowNotFoundError extends RowError {
  readonly code = 'ROW_NOT_FOUND'
  override readonly name = 'RowNotFoundError'

  /** @param cause the error of the database if its column cannot represent the primary key */
  constructor(
    method: string,
    row: RowFacts,
    cause?: unknown,
    what: string = `${describeRow(row)} does not exist`,
    remedy: string = `It was deleted or never saved: create it with ${codeOfModel(row.model)}.create(${argumentsOf(row.option, '{ … }')})` +
      (row.isParanoid
        ? `, or, if the paranoid model has deleted it, load it with ${codeOfFinder(row)}.findOne(${optionsOf(row.option, `where: ${codeOfWhere(row.primaryKey)}`, 'paranoid: false')}) and pass the instance`
        : ''),
  ) {
    super(
      row,
      `${method}: ${what}, so nothing was written. ${remedy}, or handle the error code 'ROW_NOT_FOUND' in a catch.`,
    )
    if (cause !== undefined) this.cause = cause
  }

  /**
   * No row meets the `where` of a target. The text has no values, which may be secret.
   * @param canBeMet `false` if a list of values in it is empty
   */
  static byWhere(method: string, row: RowFacts, columns: readonly string[], canBeMet: boolean): RowNotFoundError {
    const [what, remedy] = canBeMet
      ? [`no ${row.model} meets the where of the target (${quoted(columns)})`, 'Check the values of the where']
      : [
          `no ${row.model} can meet the where of the target (${quoted(columns)}), in which a list of values is empty`,
          'Pass at least one value',
        ]
    return new RowNotFoundError(method, row, undefined, what, remedy)
  }
}

/** What a {@link JsonShapeError} has found in a column of text that holds no JSON. */
export const notJson = 'text that is not JSON'

/** The stored value does not have the type that an operation, or the path of a condition, needs; nothing was written. */
export class JsonShapeError extends RowError {
  readonly code = 'JSON_SHAPE'
  override readonly name = 'JsonShapeError'
  readonly column: string
  /** The keys and indexes from the root of the document; empty for the root. */
  readonly path: readonly (string | number)[]
  readonly needed: 'an object' | 'a number' | 'an array'
  /** The stored type: `'array'`, `'string'`, `'number'`, `'boolean'`, `'null'`, `'object'` or `'text that is not JSON'`. */
  readonly found: string

  constructor(
    method: string,
    row: RowFacts,
    column: string,
    { path, needed, found }: Pick<JsonShapeError, 'path' | 'needed' | 'found'>,
    condition?: ConditionFacts,
    accessors?: Accessors,
  ) {
    const [what, remedy] = condition
      ? [`and ${describeCondition(condition)} needs ${needed}`, pathIn(found, condition)]
      : [`not ${needed}`, conversion(row, column, path, needed, found, accessors)]
    super(
      row,
      `${method}: ${placeIn(column, path)} of ${describeRow(row)} holds ${withArticle(found)}, ${what}, so nothing was written. ${remedy}`,
    )
    this.column = column
    this.path = path
    this.needed = needed
    this.found = found
  }
}

/** How to write the path of a condition for a document of another type. */
function pathIn(found: string, { kind, path }: ConditionFacts): string {
  const step = found === 'array' ? 0 : found === 'object' ? 'items' : undefined
  if (step === undefined) return 'Leave the condition out, or look at the value first.'
  return `Name ${step === 0 ? 'an element of the array' : 'a key of the object'} in its path, as in ${kind}(${describePath([step, ...path])}${['exists', 'absent'].includes(kind) ? '' : ', …'}).`
}

/** How to convert a value of another type, without losing it. */
function conversion(
  row: RowFacts,
  column: string,
  path: JsonShapeError['path'],
  needed: JsonShapeError['needed'],
  found: string,
  accessors: Accessors = { isParsed: true, isSpelled: true },
): string {
  if (found === notJson) {
    return `Sequelize cannot parse the stored text: read it with a SELECT in SQL, and convert it to JSON with an UPDATE in SQL.`
  }
  // A getter may return a copy of the document, or the model may have it as text: a change in memory would not be saved.
  const replacedBy = (after: (value: string) => string, inText = after): string => {
    if (path.length > 0) {
      return callOf(
        row,
        'compareAndSetJson',
        `${JSON.stringify(column)}, ${describePath(path)}, value, ${after('value')}`,
      )
    }
    const replacement = replacementOf(column, after, inText, accessors)
    return callOf(row, 'withLock', `async (row) => { ${replacement}; await row.save() }`)
  }
  const updateJson = (operation: string): string =>
    callOf(row, 'updateJson', `${JSON.stringify(column)}, [${operation}]`)
  if (needed === 'an object' && found === 'array') {
    const element = describePath([...path, 0, 'key'])
    return (
      `If the array is right, write to it: ${updateJson(`append(${describePath(path)}, item)`)}, ` +
      `or to one of its elements, by its index or by matching({ id }): ${updateJson(`set(${element}, value)`)}.`
    )
  }
  if (needed === 'an object') {
    return (
      `The operations need an object. Look at the value first. To keep it, store it under a key: ` +
      `${replacedBy(
        (value) => (path.length > 0 ? '{ value }' : `{ value: ${value} }`),
        (text) => `{"value":${text}}`,
      )}.`
    )
  }
  if (needed === 'an array' && found === 'object') {
    const inner = describePath([...path, 'items'])
    return `If the object is right, name the key of an array in it, such as ${inner}.`
  }
  if (needed === 'an array') {
    return `Look at the value first. To keep it as the first item, put it into an array: ${replacedBy((value) => `[${value}]`)}.`
  }
  if (found === 'string')
    return `Look at the value first; if it is a number, convert it: ${replacedBy((value) => `Number(${value})`)}.`
  if (typeof path.at(-1) === 'number') return 'Look at the value first, and name the key of a number.'
  const newKey = JSON.stringify(`${shorten(String(path.at(-1)))}_old`)
  return (
    `Look at the value first. To keep it, move it to another key: ` +
    `${updateJson(`rename(${describePath(path)}, ${newKey})`)}.`
  )
}

function keysOfMembers({ json }: { readonly json: string }): string[] {
  return Object.keys(JSON.parse(json) as object)
}

/** No stored array element is at an index of the path, or has the members of a `matching` step; nothing was written. */
export class ElementNotFoundError extends RowError {
  readonly code = 'ELEMENT_NOT_FOUND'
  override readonly name = 'ElementNotFoundError'
  readonly column: string
  /** The steps from the root of the document to the element, which is the last one. */
  readonly path: readonly (string | number | object)[]

  constructor(method: string, row: RowFacts, column: string, path: ElementNotFoundError['path']) {
    const array = describePath(path.slice(0, -1))
    const element = path.at(-1)
    const [key = 'id'] = typeof element === 'object' ? keysOfMembers(element as { readonly json: string }) : []
    super(
      row,
      `${method}: ${placeIn(column, path)} of ${describeRow(row)} has no element, so nothing was written. ` +
        `To add it, write append(${array}, item), or replaceOrAppend(${array}, ${JSON.stringify(key)}, item) to replace one that is there; ` +
        `or handle the error code 'ELEMENT_NOT_FOUND' in a catch.`,
    )
    this.column = column
    this.path = path
  }
}

/** What an operation needs at a path of a stored document, and the stored type. */
interface Mismatch {
  readonly path: ElementNotFoundError['path']
  readonly needed: JsonShapeError['needed'] | 'an element'
  readonly found: string
  /** The condition whose path needs it, if no operation does. */
  readonly condition?: ConditionFacts
}

/** The error for a stored document that an operation does not fit. */
export function mismatchError(
  method: string,
  row: RowFacts,
  column: string,
  mismatch: Mismatch,
  accessors?: Accessors,
): LosslessError {
  const { path, needed, found, condition } = mismatch
  return needed === 'an element'
    ? new ElementNotFoundError(method, row, column, path)
    : new JsonShapeError(
        method,
        row,
        column,
        { path: path as JsonShapeError['path'], needed, found },
        condition,
        accessors,
      )
}

/** `"progress" at ["steps",0]`. */
function placeIn(column: string, path: readonly unknown[]): string {
  return path.length === 0 ? `"${column}"` : `"${column}" at ${describePath(path)}`
}

/** What a new value is, beside its column, and what to do. */
const misfits = {
  'out of range': ['is out of the range', 'Check the amount, or migrate the column to a type with a greater range.'],
  'too long': [
    'is longer than the type',
    'Shorten it, or migrate the column to a longer type, such as DataTypes.TEXT.',
  ],
  'outside the character set': [
    'has characters that are not in the character set',
    'Migrate: ALTER TABLE … MODIFY … CHARACTER SET utf8mb4.',
  ],
  'of another type': [
    'does not fit the type',
    'Convert it to the type of the column, for example with Math.round(value), or migrate the column to a type that holds it.',
  ],
} as const

/**
 * JSON or this database cannot store a key or a value exactly; thrown before the write, or in place of the error with which the
 * database refused it.
 */
export class UnsupportedValueError extends BaseError {
  readonly code = 'UNSUPPORTED_VALUE'
  override readonly name = 'UnsupportedValueError'
  /** The column of the write; `undefined` if the constructor of an operation threw the error. */
  readonly column: string | undefined

  constructor(method: string, reason: string, remedy: string, column?: string, cause?: unknown) {
    super(`${method}: ${reason}, so nothing was written. ${remedy}`)
    captureStack(this)
    this.column = column
    if (cause !== undefined) this.cause = cause
  }

  /**
   * The database refused a new value that its column cannot hold. The text has no values, which may be secret.
   * @param columns the column, or those that the error of the database may mean
   */
  static ofNewValue(
    method: string,
    columns: readonly string[],
    misfit: keyof typeof misfits,
    cause: unknown,
  ): UnsupportedValueError {
    const [what, remedy] = misfits[misfit]
    return new UnsupportedValueError(
      method,
      `a new value ${what} of its column (${quoted(columns)})`,
      remedy,
      columns[0],
      cause,
    )
  }

  /** The database cannot read a stored document; `what` is in it. */
  static inStoredDocument(
    method: string,
    row: RowFacts,
    column: string,
    what: string,
    cause: unknown,
  ): UnsupportedValueError {
    return new UnsupportedValueError(
      method,
      `"${column}" of ${describeRow(row)} holds ${what}`,
      `Replace the document as a whole: ${callOf(row, 'withLock', `async (row) => { ${accessOf(column)} = …; await row.save() }`)}.`,
      column,
      cause,
    )
  }
}

/** The code that reads a row again: `row.reload()`. */
function rereadOf(row: RowFacts): string {
  const { primaryKey, hasInstance, option } = row
  if (hasInstance) return `row.reload(${argumentsOf(option)})`
  return `${codeOfFinder(row)}.findOne(${optionsOf(option, `where: ${codeOfWhere(primaryKey)}`)})`
}

/** The stored document does not meet a condition of the write, so nothing was written. */
export class ConditionNotMetError extends RowError {
  readonly code = 'CONDITION_NOT_MET'
  override readonly name = 'ConditionNotMetError'
  /** The attribute; the first one if a condition of the option `where` names several. */
  readonly column: string
  /** The condition on a document; `undefined` for a condition of the option `where`. */
  readonly condition: ConditionFacts | undefined

  constructor(
    method: string,
    row: RowFacts,
    column: string,
    condition: ConditionNotMetError['condition'],
    what?: string,
    remedy?: string,
  ) {
    super(
      row,
      `${method}: ${what ?? `"${column}" of ${describeRow(row)} does not meet ${describeCondition(condition!)}`}, so nothing was written. ` +
        `${remedy ?? `Read the row again with await ${rereadOf(row)} and decide again`}, or handle the error code 'CONDITION_NOT_MET' in a catch.`,
    )
    this.column = column
    this.condition = condition
  }

  /** A `paranoid` model has deleted the row, which is still there. */
  static ofDeleted(method: string, row: RowFacts, column: string): ConditionNotMetError {
    const what = `${describeRow(row)} was deleted by its paranoid model ("${column}" is set) and is still there`
    const remedy = `Restore it with await ${codeOfModel(row.model)}.restore(${optionsOf(row.option, `where: ${codeOfWhere(row.primaryKey)}`)}) and call ${method}() again`
    return new ConditionNotMetError(method, row, column, undefined, what, remedy)
  }

  /** The ordinary columns of the row do not meet the option `where`. The text has no values, which may be secret. */
  static ofColumns(method: string, row: RowFacts, columns: readonly string[]): ConditionNotMetError {
    const what = `${quoted(columns)} of ${describeRow(row)} ${columns.length === 1 ? 'does' : 'do'} not meet the option where`
    return new ConditionNotMetError(method, row, columns[0]!, undefined, what)
  }
}

/** The row has unsaved changes, which the call would lose or mix with its own write. */
export class UnsavedChangesError extends RowError {
  readonly code = 'UNSAVED_CHANGES'
  override readonly name = 'UnsavedChangesError'
  /** The attributes with unsaved changes. */
  readonly columns: readonly string[]

  constructor(row: RowFacts, columns: readonly string[], message: string) {
    super(row, message)
    this.columns = columns
  }

  /** The row had unsaved changes when the method was called; nothing was sent. */
  static beforeCall(method: string, row: RowFacts, columns: readonly string[]): UnsavedChangesError {
    return new UnsavedChangesError(
      row,
      columns,
      `${method}: ${describeRow(row)} has unsaved changes in ${quoted(columns)}. ` +
        `First save them with await row.save(${argumentsOf(row.option)}), or discard them with await row.reload(${argumentsOf(row.option)}).`,
    )
  }

  /** The callback returned without saving its changes to the row. */
  static leftByCallback(
    method: string,
    row: RowFacts,
    columns: readonly string[],
    { isJoined }: { readonly isJoined: boolean },
  ): UnsavedChangesError {
    return new UnsavedChangesError(
      row,
      columns,
      `${method}: the callback left unsaved changes in ${quoted(columns)} of ${describeRow(row)}, ` +
        (isJoined ? `${joinedRollback}. Call` : `so its transaction was rolled back. Call`) +
        ` await row.save() before the callback returns.`,
    )
  }
}

/** The end of an error text for a callback that runs in a joined transaction. */
const joinedRollback = 'and its other writes are in the joined transaction. Let this error roll back that transaction'

/** A write in a callback would run outside its transaction, and could wait for the callback's own lock. */
export class OutsideTransactionError extends BaseError {
  readonly code = 'OUTSIDE_TRANSACTION'
  override readonly name = 'OutsideTransactionError'

  constructor(method: string, what: string, remedy: string) {
    super(`${method}: ${what}. ${remedy}`)
    captureStack(this)
  }
}

/**
 * A conflict with another session: a deadlock, or a row newer than the transaction's snapshot; or a node that is not in its
 * cluster. Nothing was written. With `retry`, the last attempt ended in such a conflict.
 */
export class ConflictError extends OptimisticLockError {
  readonly code = 'CONFLICT'
  override readonly name = 'ConflictError'
  /** The key of the row; `undefined` for a conflict of `retryTransaction`, which is about no row. */
  readonly primaryKey: Readonly<Record<string, unknown>> | undefined
  #isSkipped = false

  constructor(method: string, row: RowFacts | undefined, reason: string, remedy: string, cause?: unknown) {
    super({
      ...(row && { modelName: row.model }),
      message: `${method}: ${row ? describeRow(row) : 'the transaction'} met ${reason}, so nothing was written. ${remedy}`,
    })
    captureStack(this)
    this.primaryKey = row?.primaryKey
    this.cause = cause
  }

  /**
   * An UPDATE or a DELETE did not write its row, although the row exists and did not change.
   * @param columns those of the UPDATE, if known; `undefined` for a DELETE
   */
  static skipped(method: string, row: RowFacts, columns: readonly string[] | undefined, causes: string): ConflictError {
    const update = ['an UPDATE', ...(columns?.length ? [quoted(columns)] : [])].join(' of ')
    const reason = `${columns ? update : 'a DELETE'} that did not write the row, although the row exists and did not change`
    const error = new ConflictError(method, row, reason, `Look for the cause in the database: ${causes}.`)
    error.#isSkipped = true
    return error
  }

  /** A search has found a row that a statement by its primary key does not match. */
  static unmatchedKey(method: string, row: RowFacts): ConflictError {
    const reason = 'a statement by its primary key that did not match it, although this call had found it'
    const remedy =
      'Its primary key must equal what a driver reads from it, which a FLOAT and a time with microseconds do not: change its type.'
    return new ConflictError(method, row, reason, remedy)
  }

  /** Whether the database skipped the row: another attempt would meet the same trigger, rule or policy. */
  static isSkipped(error: unknown): boolean {
    return error instanceof ConflictError && #isSkipped in error && error.#isSkipped
  }

  /** The remedy: run the whole transaction again, or make the single call again. */
  static remedy(method: string, inTransaction: boolean): string {
    return inTransaction ? 'Run the whole transaction again, from its first read.' : `Call ${method}() again.`
  }
}

/** The wait for a lock that another session holds timed out; nothing was written. */
export class LockTimeoutError extends RowError {
  readonly code = 'LOCK_TIMEOUT'
  override readonly name = 'LockTimeoutError'
  /** The maximum wait in milliseconds; 0 for `nowait`, `undefined` for the timeout of the server. */
  readonly timeoutMs: number | undefined

  constructor(
    method: string,
    row: RowFacts,
    timeoutMs: number | undefined,
    holders: string,
    cause?: unknown,
    isInOtherTransaction = false,
  ) {
    const [waited, remedy] =
      timeoutMs === undefined
        ? ['for longer than the lock timeout of the server', 'Try again later']
        : timeoutMs === 0
          ? ['and nowait is set', 'Try again later, omit nowait to wait']
          : [
              `for more than ${timeoutMs} ms, or the lock timeout of the server`,
              'Try again later, with a longer timeoutMs',
            ]
    super(
      row,
      isInOtherTransaction
        ? `${method}: ${describeRow(row)} is locked ${waited}, most likely by the enclosing sequelize.transaction(), which this call did not join, so nothing was written. ` +
            `Pass its transaction as the option { transaction }. Otherwise another session holds the lock: ${holders}.`
        : `${method}: ${describeRow(row)} is locked by another session ${waited}, so nothing was written. ` +
            `${remedy}, or find the session that holds the lock: ${holders}.`,
    )
    this.timeoutMs = timeoutMs
    this.cause = cause
  }
}

/** What is known of an instance that a save finds stale. */
interface StaleFacts {
  readonly writer?: string | undefined
  readonly isLocked?: boolean
  readonly isDocument?: boolean
}

/**
 * The row changed between its read and its save: in every attempt of `withOptimisticLock`, or in a column that a save
 * under `wholeColumnWrites: 'patch'` needs unchanged, or through another instance in the same transaction. Nothing was
 * written.
 */
export class StaleRowError extends OptimisticLockError {
  readonly code = 'STALE_ROW'
  override readonly name = 'StaleRowError'
  readonly primaryKey: Readonly<Record<string, unknown>>
  readonly attempts: number
  /** The attributes that the last attempt tried to save. */
  readonly columns: readonly string[]
  /** The path in the document that the other session changed, if known; empty for the root. */
  readonly path: readonly (string | number | object)[] | undefined

  constructor(
    row: RowFacts,
    message: string,
    { attempts, columns, path, cause }: Pick<StaleRowError, 'attempts' | 'columns' | 'path'> & { cause?: unknown },
  ) {
    super({ modelName: row.model, message })
    captureStack(this)
    this.primaryKey = row.primaryKey
    this.attempts = attempts
    this.columns = columns
    this.path = path
    this.cause = cause
  }

  /** A document differs at `path` from the one that was loaded. */
  static changedSinceLoad(
    method: string,
    row: RowFacts,
    column: string,
    path: readonly (string | number | object)[],
  ): StaleRowError {
    return new StaleRowError(
      row,
      `${method}: ${placeIn(column, path)} of ${describeRow(row)} was changed by another writer since it was loaded, so nothing was written. ` +
        `Read it again with await row.reload(${argumentsOf(row.option)}) and decide again, or serialize the callers with a lock: ${callOf({ ...row, hasInstance: true }, 'withLock', 'fn')}.`,
      { attempts: 1, columns: [column], path },
    )
  }

  /**
   * The row was changed in the same transaction, beside this instance or in spite of an assignment in it.
   * @param writer   the method of this instance that changed it; `undefined` for another instance or statement
   * @param isLocked the instance is the one that has locked the row
   * @param isDocument a change of the column in place cannot be told from an older document
   */
  static inTransaction(
    method: string,
    row: RowFacts,
    column: string,
    { writer, isLocked = false, isDocument = false }: StaleFacts = {},
  ): StaleRowError {
    const instance = `"${column}" of this instance of ${describeRow(row)}`
    const what = writer
      ? `${instance} was assigned, and ${writer}() of the same instance has changed it in the database, so this save would overwrite that change`
      : `${instance} is stale: its transaction wrote or locked the row through another instance or statement`
    const reload = 'all await row.reload({ transaction }) first'
    const again =
      isDocument && !isLocked
        ? `assign a changed copy: ${accessOf(column)} = { ...${accessOf(column)}, … }`
        : 'make the change again'
    const remedy = writer
      ? `Await ${writer}() and then assign the value, or c${reload} and ${again}.`
      : isLocked
        ? `C${reload} and ${again}.`
        : `Use the row that is passed to the callback, or c${reload} and ${again}.`
    return new StaleRowError(row, `${method}: ${what}. Nothing was written. ${remedy}`, {
      attempts: 1,
      columns: [column],
      path: undefined,
    })
  }

  /** The version of the row differed in every attempt; `cause` is the error of the last attempt. */
  static afterAttempts(
    method: string,
    row: RowFacts,
    attempts: number,
    columns: readonly string[],
    cause: unknown,
  ): StaleRowError {
    return new StaleRowError(
      row,
      `${method}: ${describeRow(row)} was written by another session in ${attempts === 1 ? 'the only attempt' : `each of ${attempts} attempts`} before ${quoted(columns)} could be saved, so nothing was written. ` +
        `Raise retry: { maxAttempts }, or serialize the callers with a lock: ${callOf(row, 'withLock', 'fn')}.`,
      { attempts, columns, path: undefined, cause },
    )
  }
}

/** A report of the guard under `wholeColumnWrites: 'warn'`. */
export type GuardReport = WholeColumnReport | OutsideReadReport

/** A read in a callback of this library that does not take part in the transaction of the callback. */
export interface OutsideReadReport {
  readonly code: 'READ_OUTSIDE_TRANSACTION'
  /** The text of the report. */
  readonly message: string
  /** `'findAll'`, which all finders call. */
  readonly method: string
  readonly model: string
  /** The call site; `undefined` if the stack has no application code. */
  readonly file: string | undefined
  readonly line: number | undefined
}

/** An unprotected write of a whole JSON column, which was let through. */
export interface WholeColumnReport extends WholeColumnWrite {
  readonly code: 'WHOLE_COLUMN_WRITE'
  /** The text of the report. */
  readonly message: string
}

/** An unprotected write of a whole JSON column: it can overwrite a concurrent change. */
export interface WholeColumnWrite extends RowFacts {
  /** The call: `'save'`, `'update'`, `'upsert'` or `'bulkCreate'`. */
  readonly method: string
  readonly column: string
  /** The keys of the document that changed since it was loaded; `undefined` if it is unknown, or an array. */
  readonly keys: readonly string[] | undefined
  /** The call site; `undefined` if the stack has no application code. */
  readonly file: string | undefined
  readonly line: number | undefined
  /** The recommended call. */
  readonly instead: string
}

/** The text of a report: `writes the whole "progress" of WorkflowRun id=7 at jobs.ts:12 …`, with a recommended call. */
export function describeWrite({ column, keys, file, line, instead, ...row }: WholeColumnWrite): string {
  const place = file === undefined ? '' : ` at ${file}:${line}`
  const changed =
    keys && ` Changed since it was loaded: ${shorten(keys.map((key) => JSON.stringify(key)).join(', ')) || 'nothing'}.`
  return (
    `writes the whole "${column}" of ${describeRow(row)}${place}, over whatever was written since.${changed ?? ''} ` +
    `Write only what changes: ${instead}; or allow this write with the option { wholeColumnWrites: 'allow' }.`
  )
}

/** An unprotected write of a whole JSON column, refused before any SQL. */
export class WholeColumnWriteError extends RowError implements WholeColumnWrite {
  readonly code = 'WHOLE_COLUMN_WRITE'
  override readonly name = 'WholeColumnWriteError'
  readonly method: string
  readonly column: string
  readonly keys: readonly string[] | undefined
  readonly file: string | undefined
  readonly line: number | undefined
  readonly instead: string

  constructor(write: WholeColumnWrite, option?: TransactionOption) {
    const kept =
      write.method === 'save' ? ` The change stays in the instance until await row.reload(${argumentsOf(option)}).` : ''
    super(write, `${write.method}: refused, because it ${describeWrite(write)}${kept}`)
    this.method = write.method
    this.column = write.column
    this.keys = write.keys
    this.file = write.file
    this.line = write.line
    this.instead = write.instead
  }
}

/** The connection was lost after a COMMIT, or a write outside a transaction, was sent: the outcome is unknown. */
export class UnknownOutcomeError extends BaseError {
  readonly code = 'UNKNOWN_OUTCOME'
  override readonly name = 'UnknownOutcomeError'

  constructor(method: string, row: RowFacts | undefined, sent: 'COMMIT' | 'the write', cause: unknown) {
    const read = row
      ? `the row with ${callOf(row, 'withLock', '(row) => …')}`
      : 'each row with await withLock([Model, primaryKey], (row) => …)'
    super(
      `${method}: the connection was lost after ${sent} was sent, so its outcome is unknown. ` +
        `Read ${read}, which waits for a COMMIT in progress. Idempotent operations (set, merge, addToSet) are safe to repeat; increment() and append() are not.`,
    )
    captureStack(this)
    this.cause = cause
  }
}

/** What a transaction that cannot be committed has met. */
export interface RollbackFacts {
  /** The error of the statement that failed; `undefined` if the callback rolled the transaction back itself. */
  readonly cause?: unknown
  /** The statement failed because the connection was lost. */
  readonly isLost?: boolean
  /** The statement that failed is in a savepoint. */
  readonly isInSavepoint?: boolean
  /** The call has joined the transaction, which is still open. */
  readonly isJoined?: boolean
}

const savepointCall =
  'await sequelize.transaction({ transaction }, (savepoint) => Model.create({ … }, { transaction: savepoint }))'

/** What to do after an error in a transaction on PostgreSQL. */
function afterError({ isLost, isInSavepoint }: RollbackFacts): string {
  if (isLost) {
    return 'Let the error of that statement leave the callback, where a savepoint does not help: it is lost too. Then run the whole transaction again, from its first read.'
  }
  return isInSavepoint
    ? `Let the error of that statement leave the callback of its savepoint, and await the savepoint before the next statement: ${savepointCall}.`
    : `Run the statement that may fail in a savepoint, await it before the next statement, and catch the error of the savepoint: ${savepointCall}.`
}

/** Why a transaction cannot be committed: what rolled it back, or did not take a further statement of it. */
type Rollback = 'by the callback' | 'ended' | 'doomed' | 'not sent' | 'refused'

/** What happened to the transaction, and what to do; `error` describes the error of a statement. */
const rollbacks: Readonly<
  Record<Rollback, (error: string, facts: RollbackFacts) => readonly [what: string, remedy: string]>
> = {
  'by the callback': () => [
    'the transaction was rolled back in the callback, by transaction.rollback(), so nothing was written',
    'Throw an error to leave the callback and roll back, or let the callback return to commit.',
  ],
  ended: (error) => [
    `the database rolled back the transaction when a statement of it failed (${error}), so nothing was written`,
    'Let the error of that statement leave the callback, where a savepoint does not help. ' +
      'To run the whole transaction again after a deadlock or a conflict, open it with retryTransaction(sequelize, async (transaction) => { … }).',
  ],
  doomed: (error, facts) => [
    facts.isLost
      ? `the connection of the transaction was lost when a statement of it failed (${error}), so the database rolled it back and nothing was written`
      : facts.isJoined
        ? `a statement of the joined transaction failed (${error}), and its error did not leave the callback. The transaction is still open, but the database can only roll it back`
        : `a statement of the transaction failed (${error}), and its error did not leave the callback, so the transaction was rolled back and nothing was written`,
    afterError(facts),
  ],
  'not sent': (error, facts) => [
    facts.isLost
      ? `the connection of the transaction was lost when an earlier statement failed (${error}), so the database rolled it back, and this statement was not sent`
      : `an earlier statement of the transaction failed (${error}). The database then takes no further statement of the transaction, so this one was not sent`,
    afterError(facts),
  ],
  refused: (_error, facts) => [
    'an earlier statement of the transaction failed. The database then takes no further statement of the transaction, and refused this one',
    afterError(facts),
  ],
}

/** `SequelizeUniqueConstraintError, 23505`: the class of an error, and the code of the database. */
function describeCause(cause: unknown): string {
  if (!(cause instanceof Error)) return 'an earlier error'
  const { parent } = cause as { parent?: { readonly code?: unknown } }
  return typeof parent?.code === 'string' ? `${cause.name}, ${parent.code}` : cause.name
}

/**
 * The transaction was rolled back although its callback succeeded, so nothing was written; or it can only be rolled back,
 * because the error of a statement did not leave the callback, and no further statement of it is sent.
 */
export class RolledBackError extends BaseError {
  readonly code = 'ROLLED_BACK'
  override readonly name = 'RolledBackError'

  /** @param how why it cannot be committed */
  constructor(method: string, how: Rollback = 'by the callback', facts: RollbackFacts = {}) {
    const [what, remedy] = rollbacks[how](describeCause(facts.cause), facts)
    super(`${method}: ${what}. ${remedy}`)
    captureStack(this)
    this.cause = facts.cause
  }
}

const maxStatements = 3
const maxStatementLength = 80

/** The callback returned while statements of its transaction were in progress; it was not committed. */
export class PendingStatementsError extends BaseError {
  readonly code = 'PENDING_STATEMENTS'
  override readonly name = 'PendingStatementsError'
  /** The SQL of the statements that were not awaited. */
  readonly statements: readonly string[]

  /** @param isJoined the callback ran in a transaction that it did not open */
  constructor(method: string, statements: readonly string[], isJoined: boolean) {
    const shown = statements
      .slice(0, maxStatements)
      .map((sql) => (sql.length > maxStatementLength ? `${sql.slice(0, maxStatementLength - 1)}…` : sql))
    const more = statements.length - shown.length
    const list = [...shown, ...(more > 0 ? [`and ${more} more`] : [])].join('; ')
    const what =
      statements.length === 1
        ? '1 statement of its transaction was'
        : `${statements.length} statements of its transaction were`
    super(
      `${method}: the callback returned while ${what} still in progress (${list}), ` +
        (isJoined ? `${joinedRollback}. ` : 'so the transaction was rolled back and nothing was written. ') +
        `Await ${statements.length === 1 ? 'it' : 'them'}: await Promise.all(keys.map(async (key) => …)) in place of keys.forEach(…).`,
    )
    captureStack(this)
    this.statements = statements
  }
}

/** This library does not support the database, its version or the settings of its connection. */
export class UnsupportedDatabaseError extends BaseError {
  readonly code = 'UNSUPPORTED_DATABASE'
  override readonly name = 'UnsupportedDatabaseError'

  constructor(what: string, remedy: string) {
    super(`sequelize-lossless: ${what}. ${remedy}`)
    captureStack(this)
  }
}

function withArticle(noun: string): string {
  return noun.startsWith('text') ? noun : /^[aeiou]/.test(noun) ? `an ${noun}` : `a ${noun}`
}

/** `"progress", "title"`. */
function quoted(columns: readonly string[]): string {
  return columns.map((column) => `"${column}"`).join(', ')
}

/** Any error of this library. */
export type LosslessError =
  | ConditionNotMetError
  | ConflictError
  | ElementNotFoundError
  | JsonShapeError
  | LockTimeoutError
  | OutsideTransactionError
  | PendingStatementsError
  | RolledBackError
  | RowNotFoundError
  | StaleRowError
  | UnknownOutcomeError
  | UnsavedChangesError
  | UnsupportedDatabaseError
  | UnsupportedValueError
  | UsageError
  | WholeColumnWriteError

/** The stable code of each error class: `error.code`. */
export type LosslessErrorCode = LosslessError['code']

/** Does not compile if a class is missing. */
const classes: { readonly [Name in LosslessError['name']]: abstract new (...values: never[]) => LosslessError } = {
  ConditionNotMetError,
  ConflictError,
  ElementNotFoundError,
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
}

/**
 * Whether an error has a class of this library.
 *
 * @example
 *     catch (error) {
 *       if (isLosslessError(error) && error.code === 'ROW_NOT_FOUND') return undefined
 *       throw error
 *     }
 */
export function isLosslessError(error: unknown): error is LosslessError {
  return Object.values(classes).some((type) => error instanceof type)
}
