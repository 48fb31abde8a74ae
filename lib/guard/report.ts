import { channel } from 'node:diagnostics_channel'
import type { Logging } from 'sequelize'
import { captureCallSite, firstUserFrame } from '../call-site.js'
import { describePath } from '../errors/describe.js'
import { describeWrite, WholeColumnWriteError } from '../errors/errors.js'
import type { WholeColumnWrite } from '../errors/errors.js'
import { difference } from '../json/difference.js'
import type { MethodName } from '../json/document-types.js'
import type { Operation } from '../json/operation.js'
import { RowRef } from '../rows/row-ref.js'
import { modelOf, sequelizeInternals } from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { hasMethod } from '../sequelize/model-state.js'
import type { WriteMode } from '../sequelize/options.js'
import type { Session } from '../sequelize/session.js'
import { callSite } from './call-options.js'
import type { CallOptions } from './call-options.js'
import type { EditedColumn } from './patch.js'

/** The part of a report that depends on the row. */
type Details = Pick<WholeColumnWrite, 'primaryKey' | 'keys' | 'instead'>

/** The row of a save, its changed keys, and the recommended call. */
export function detailsOfSave(instance: Row, column: string, edit: EditedColumn | undefined): Details {
  const operations = edit && difference(edit)?.map(({ operation }) => operation)
  const keys = operations && [...new Set(operations.flatMap(({ path: [key] }) => (typeof key === 'string' ? key : [])))]
  const instead = operations?.length
    ? suggestCall(modelOf(instance), column, operations)
    : `await ${callOf(modelOf(instance), 'withLock', `async (row) => { ${accessOf(column)} = …; await row.save() }`)}`
  return { primaryKey: RowRef.of(instance).primaryKey, keys, instead }
}

/** The known part of the primary key of a write of rows that were not loaded, and the recommended call. */
export function detailsOfBulkWrite(
  kind: 'bulk' | 'upsert',
  model: RowModel,
  column: string,
  primaryKey: Details['primaryKey'],
): Details {
  const changes = `{ ${JSON.stringify(column)}: [set(…)] }`
  const instead =
    kind === 'bulk'
      ? `await updateWhere(${model.name}, where, ${changes})`
      : `await atomicUpsert([${model.name}, { ${model.primaryKeyAttributes.join(', ')} }], ${changes})`
  return { primaryKey, keys: undefined, instead }
}

/** The code of a call that writes only `operations`. */
function suggestCall(model: RowModel, column: string, operations: readonly Operation[]): string {
  const [only] = operations
  if (operations.length === 1 && only!.kind === 'set' && only!.path.length === 1) {
    return `await ${callOf(model, 'mergeJsonKey', `${JSON.stringify(column)}, ${JSON.stringify(only!.path[0])}, …`)}`
  }
  const shown = operations.slice(0, 5).map(({ kind, path }) => {
    return `${kind}(${describePath(path)}${kind === 'remove' ? '' : ', …'})`
  })
  const list = [...shown, ...(operations.length > 5 ? ['…'] : [])].join(', ')
  return `await ${callOf(model, 'updateJson', `${JSON.stringify(column)}, [${list}]`)}`
}

/** The code of a call of a row method, or of the function of that name if the model does not have it. */
function callOf(model: RowModel, name: MethodName, args: string): string {
  return hasMethod(model, name) ? `row.${name}(${args})` : `${name}(row, ${args})`
}

function accessOf(attribute: string): string {
  return /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(attribute)
    ? `row.${attribute}`
    : `row[${JSON.stringify(attribute)}]`
}

const reports = channel('sequelize-lossless:whole-column-write')

/** The maximum number of remembered call sites; the oldest is dropped, and may be reported again. */
const maxReportedCallSites = 1000

/**
 * Reports a write of a whole column, once per call site; or refuses it.
 * @throws {WholeColumnWriteError} the policy is `'throw'`; or it is `'patch'`, and this write cannot be patched
 */
export function reportOrThrow(
  { sequelize, reportedCallSites }: Session,
  mode: WriteMode,
  options: CallOptions,
  call: Pick<WholeColumnWrite, 'method' | 'model' | 'column'>,
  details: () => Details,
): void {
  const { file, line } = firstUserFrame(options[callSite] ?? captureCallSite(undefined)) ?? {}
  const site = JSON.stringify([file, line, call])
  if (mode === 'warn' && reportedCallSites.has(site)) return
  const write = { ...call, ...details(), file, line }
  if (mode !== 'warn') throw new WholeColumnWriteError(write)
  const [oldest] = reportedCallSites
  if (reportedCallSites.size === maxReportedCallSites) reportedCallSites.delete(oldest!)
  reportedCallSites.add(site)
  reports.publish(write)
  const loggers: Logging['logging'][] = [options.logging, sequelizeInternals(sequelize).options.logging]
  // A warning must be visible even if SQL is not logged.
  const log = loggers.find((each) => typeof each === 'function') ?? console.warn
  log(`sequelize-lossless: ${write.method} ${describeWrite(write)}`)
}
