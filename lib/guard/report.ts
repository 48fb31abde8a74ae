import { channel } from 'node:diagnostics_channel'
import { isDeepStrictEqual } from 'node:util'
import { captureCallSite, firstUserFrame } from '../call-site.js'
import { accessOf, argumentsOf, codeOfModel, describePath, optionsOf, variablesOf } from '../errors/describe.js'
import type { TransactionOption } from '../errors/describe.js'
import { describeWrite, WholeColumnWriteError } from '../errors/errors.js'
import type { GuardReport, WholeColumnWrite } from '../errors/errors.js'
import { difference } from '../json/difference.js'
import type { EditedValue } from '../json/difference.js'
import type { MethodName } from '../json/document-types.js'
import type { Operation } from '../json/operation.js'
import { parseJson } from '../json/json-text.js'
import { RowRef } from '../rows/row-ref.js'
import { hasScope, isScope, modelOf, sequelizeOf, tableOf, uniqueKeysOf } from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { hasMethod } from '../sequelize/model-state.js'
import type { Policy, WriteMode } from '../sequelize/options.js'
import type { Session } from '../sequelize/session.js'
import { transactionOption } from '../transactions/join.js'
import { callSite } from './call-options.js'
import type { CallOptions } from './call-options.js'
import type { EditedColumn } from './patch.js'

/** The part of a report that depends on the row. */
type Details = Pick<WholeColumnWrite, 'primaryKey' | 'keys' | 'instead'>

/** The row of a save, its changed keys, and the recommended call. */
export function detailsOfSave(
  instance: Row,
  column: string,
  edit: EditedColumn | undefined,
  option: TransactionOption | undefined,
): Details {
  const model = modelOf(instance)
  const changes = edit && difference(edit)
  const keys = changes && [...new Set(changes.map(({ operation: { path } }) => path[0]))]
  const instead =
    (changes && suggestCall(model, column, changes, option)) ??
    `await ${codeOfCall(model, 'withLock', `async (row) => { ${accessOf(column)} = …; await row.save() }`, option)}`
  return { primaryKey: RowRef.of(instance).primaryKey, keys: keys?.every(isKey) ? keys : undefined, instead }
}

/** A write of rows that were not loaded. */
export interface BulkWrite {
  readonly method: 'update' | 'upsert' | 'bulkCreate' | 'save'
  readonly model: RowModel
  /** The part of the primary key that the call gives. */
  readonly primaryKey: Details['primaryKey']
  /** The attributes that identify the rows on the call; `undefined` for a `where`. */
  readonly key: readonly string[] | undefined
  /** The `where` matches every row. */
  readonly isOfAll: boolean
  readonly option: TransactionOption | undefined
}

/** The known part of the primary key of a write of rows that were not loaded, and the recommended call. */
export function detailsOfBulkWrite(write: BulkWrite, column: string): Details {
  return { primaryKey: write.primaryKey, keys: undefined, instead: insteadOfBulkWrite(write, column) }
}

function insteadOfBulkWrite({ method, model, key, isOfAll, option }: BulkWrite, column: string): string {
  const changes = `{ ${JSON.stringify(column)}: [set(…)] }`
  const code = codeOfVariant(model)
  if (!key && isOfAll) return `await updateWhere(${code}, {}, ${changes}, ${optionsOf(option, 'all: true')})`
  if (!key) return insteadOfQuery(model, column, option)
  const names = variablesOf(key)
  const isSame = (other: readonly string[]): boolean => key.toSorted().join() === other.toSorted().join()
  const target = isSame(model.primaryKeyAttributes) ? names : `{ where: ${names} }`
  const write = uniqueKeysOf(model).some(isSame)
    ? `await atomicUpsert(${argumentsOf(option, `[${code}, ${target}]`, changes)})`
    : `if (!(await updateWhere(${argumentsOf(option, code, names, changes)}))) await ${code}.create(${argumentsOf(option, '…')})`
  return method === 'bulkCreate' ? `for (const ${names} of rows) ${write}` : write
}

/** The code to write in place of SQL of the application. */
export function insteadOfQuery(model: RowModel, column: string, option: TransactionOption | undefined): string {
  const changes = `{ ${JSON.stringify(column)}: [set(…)] }`
  return `await updateWhere(${argumentsOf(option, codeOfVariant(model), 'where', changes)})`
}

/** The code of a model, with its scope and its schema: `Job`, `Job.unscoped()`, `Job.schema("other").scope(…)`. */
function codeOfVariant(model: RowModel): string {
  const { schema } = tableOf(model)
  const defined = sequelizeOf(model).models[model.name] as RowModel | undefined
  const isOther = schema !== undefined && schema !== (defined && tableOf(defined).schema)
  const scope = !isScope(model) ? '' : hasScope(model) ? '.scope(…)' : '.unscoped()'
  return `${codeOfModel(model.name)}${isOther ? `.schema(${JSON.stringify(schema)})` : ''}${scope}`
}

const isKey = (step: unknown): step is string => typeof step === 'string'

/** The code of a call that makes only some changes, and keeps concurrent ones; `undefined` if there is none. */
function suggestCall(
  model: RowModel,
  column: string,
  changes: readonly EditedValue[],
  option: TransactionOption | undefined,
): string | undefined {
  const operations = changes.map(suggestOperation)
  const [first] = operations
  if (first === undefined || operations.includes(undefined)) return undefined
  const [{ operation }] = changes as readonly [EditedValue]
  const isOne = operations.length === 1
  if (isOne && first.kind === 'set' && operation.path.length === 1) {
    const args = `${JSON.stringify(column)}, ${describePath(operation.path).slice(1, -1)}, …`
    const { start } = first
    const call = codeOfCall(model, 'mergeJsonKey', args, option)
    return `await ${call}${start ? ` /* or updateJson() with ${start} */` : ''}`
  }
  const list = [...operations.slice(0, 5).map((each) => each!.code), ...(operations.length > 5 ? ['…'] : [])].join(', ')
  const call = `await ${codeOfCall(model, 'updateJson', `${JSON.stringify(column)}, [${list}]`, option)}`
  const isSum = operations.some((each) => each!.kind === 'increment')
  return isSum ? `${call} /* or set(), if the number does not depend on the stored one */` : call
}

/** An operation, and its code. */
interface Suggestion {
  readonly kind: Operation['kind']
  readonly code: string
  /** The operation, and the case for it, if the value may be the first of a count or of a list. */
  readonly start?: string
}

/** The operation that makes a change; `undefined` if a list changes in a way that only a lock keeps safe. */
function suggestOperation({ operation: { kind, path, json }, loaded }: EditedValue): Suggestion | undefined {
  const at = describePath(path)
  if (kind === 'remove') return { kind, code: `remove(${at})` }
  const value = kind === 'set' ? parseJson(json) : undefined
  if (typeof loaded === 'number' && typeof value === 'number') {
    const by = value - loaded
    return { kind: 'increment', code: `increment(${at}, ${Number.isSafeInteger(by) ? by : '…'})` }
  }
  const code = `${kind}(${at}, …)`
  if ((loaded ?? null) === null && typeof value === 'number') {
    return { kind, code, start: `increment(${at}, ${value}), if it is a count` }
  }
  if ((loaded ?? null) === null && Array.isArray(value)) {
    return { kind, code, start: `append(${at}, …), if the list grows` }
  }
  if (!Array.isArray(loaded) || !Array.isArray(value)) return { kind, code }
  const left = new Set(value.map((item) => JSON.stringify(item)))
  const kept = loaded.filter((item) => left.has(JSON.stringify(item)))
  return isDeepStrictEqual(kept, value) ? { kind: 'pull', code: `pull(${at}, …)` } : undefined
}

/** The code of a call of a row method, or of the function of that name if the model does not have it. */
function codeOfCall(model: RowModel, name: MethodName, args: string, option: TransactionOption | undefined): string {
  return hasMethod(model, name)
    ? `row.${name}(${argumentsOf(option, args)})`
    : `${name}(${argumentsOf(option, 'row', args)})`
}

const writes = channel('sequelize-lossless:whole-column-write')
const reads = channel('sequelize-lossless:read-outside-transaction')

/** The maximum number of remembered call sites; the oldest is dropped, and may be reported again. */
const maxReportedCallSites = 1000

/**
 * Reports a write of a whole column, once per call site; or refuses it.
 * @throws {WholeColumnWriteError} the policy is `'throw'`; or it is `'patch'`, and this write cannot be patched
 */
export function reportOrThrow(
  session: Session,
  { mode, onReport }: Pick<Policy, 'onReport'> & { readonly mode: WriteMode },
  options: CallOptions,
  call: Pick<WholeColumnWrite, 'method' | 'model' | 'column'>,
  details: (option: TransactionOption | undefined) => Details,
): void {
  const { file, line } = firstUserFrame(options[callSite] ?? captureCallSite(undefined)) ?? {}
  if (mode === 'warn' && !rememberSite(session, [file, line, call])) return
  const option = transactionOption(session, options.transaction ?? undefined)
  const write = { ...call, ...details(option), file, line }
  if (mode !== 'warn') throw new WholeColumnWriteError(write, option)
  const code = 'WHOLE_COLUMN_WRITE'
  const report = { ...write, code, message: `${write.method}: ${describeWrite(write)}` } as const
  writes.publish(report)
  send(report, onReport)
}

/**
 * Reports a read in a callback of this library without the transaction of the callback, once per call site.
 * @param transaction the text for that transaction
 */
export function reportOutsideRead(
  session: Session,
  { onReport }: Pick<Policy, 'onReport'>,
  model: string,
  callback: string,
  transaction: string,
): void {
  const code = 'READ_OUTSIDE_TRANSACTION'
  const method = 'findAll'
  const { file, line } = firstUserFrame(captureCallSite(undefined)) ?? {}
  if (!rememberSite(session, [file, line, code, model])) return
  const place = file === undefined ? '' : ` at ${file}:${line!}`
  const message =
    `${method}: this read of ${model}${place} runs outside the transaction of the enclosing ${callback}(), so it does not see what the callback has written, and its rows are not locked. ` +
    `Pass ${transaction}, as the option { transaction }, with { lock: true } for rows that are written; or pass { transaction: null } to read outside the transaction on purpose.`
  const report = { code, message, method, model, file, line } as const
  reads.publish(report)
  send(report, onReport)
}

/** Passes a report to `onReport`, or warns. An error of `onReport` becomes a warning, so that the statement is still sent. */
function send(report: GuardReport, onReport: Policy['onReport']): void {
  const { code, message } = report
  const warn = (text: string): void => {
    process.emitWarning(text, { type: 'SequelizeLosslessWarning', code })
  }
  if (!onReport) {
    warn(message)
    return
  }
  const fail = (error: unknown): void => {
    warn(`onReport failed (${String(error)}) for: ${message}`)
  }
  try {
    const result: unknown = onReport(report)
    if (result instanceof Promise) result.catch(fail)
  } catch (error) {
    fail(error)
  }
}

/** Remembers a call site; returns whether it was not reported before. */
function rememberSite({ reportedCallSites }: Session, site: readonly unknown[]): boolean {
  const key = JSON.stringify(site)
  if (reportedCallSites.has(key)) return false
  const [oldest] = reportedCallSites
  if (reportedCallSites.size === maxReportedCallSites) reportedCallSites.delete(oldest!)
  reportedCallSites.add(key)
  return true
}
