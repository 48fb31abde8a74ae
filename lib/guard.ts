import { channel } from 'node:diagnostics_channel'
import { Model, Op, Utils } from 'sequelize'
import type { Logging, Sequelize, Transaction } from 'sequelize'
import { fieldOf, jsonAttributes, sequelizeOf, versionAttribute } from './database.js'
import type { Row, RowModel } from './database.js'
import type { Column } from './dialects/index.js'
import { describeWrite, WholeColumnWriteError } from './errors.js'
import type { WholeColumnWrite } from './errors.js'
import {
  forgetStored,
  isLockedSince,
  isRowLocked,
  keyOf,
  markChangesInPlace,
  observeWrite,
  rememberLocked,
  rememberRead,
  storedText,
  values as valuesOf,
} from './instance.js'
import type { JsonValue, Operation } from './operation.js'
import { difference, patch } from './patch.js'
import type { EditedColumn } from './patch.js'
import { policyOf, setPolicy } from './policy.js'
import type { LosslessOptions, Policy, StatedIntent } from './policy.js'
import { attributeType } from './target.js'
import { ambientTransaction } from './transaction.js'

/** Sequelize's methods, as they are called here. */
type Method<This = unknown> = (this: This, ...words: never[]) => unknown

type Fields = Readonly<Record<string, unknown>>

/** Where a write was called from; Sequelize hands it on with the options, and formats its stack only if it is asked for. */
const callSite = Symbol('call site')

/** The options of Sequelize's calls, as far as they matter here. */
interface CallOptions extends Logging, StatedIntent {
  readonly transaction?: Transaction | null
  readonly lock?: unknown
  readonly fields?: readonly string[]
  readonly raw?: boolean
  readonly isNewRecord?: boolean
  readonly returning?: unknown
  readonly ignoreDuplicates?: boolean
  readonly updateOnDuplicate?: readonly string[]
  readonly model?: RowModel
  readonly [callSite]?: Error
}

/** Sets what is done about writes of whole JSON columns, of a model or of all models of a Sequelize instance. */
export function guard(subject: RowModel | Sequelize, options: LosslessOptions): void {
  setPolicy(subject, options)
  if (policyIsIdle(options)) return
  if (typeof subject === 'function') {
    attend(subject)
    intercept(sequelizeOf(subject))
    return
  }
  for (const model of Object.values(subject.models)) attend(model)
  if (!intercepted.has(subject)) {
    subject.addHook('afterDefine', (model) => {
      attend(model as unknown as RowModel)
    })
  }
  intercept(subject)
}

function policyIsIdle({ wholeColumnWrites = 'allow' }: LosslessOptions): boolean {
  return wholeColumnWrites === 'allow'
}

/** What is to be done about a model's writes; nothing where they are allowed. */
function activePolicy(model: RowModel, options?: CallOptions): Policy | undefined {
  const policy = policyOf(model)
  return !policyIsIdle(policy) && options?.wholeColumnWrites !== 'allow' ? policy : undefined
}

function wrap<This>(subject: object, name: string, around: (original: Method<This>) => Method<This>): void {
  const original = (subject as Record<string, Method<This>>)[name]!
  const value = around(original)
  Object.defineProperty(subject, name, { value, configurable: true, writable: true, enumerable: false })
}

const attended = new WeakSet<object>()

/** Takes note of what rows of a model were loaded with, and of who calls its writes. */
function attend(model: RowModel): void {
  for (let each = model as object | null; typeof each === 'function'; each = Object.getPrototypeOf(each) as object) {
    if (attended.has(each)) return
  }
  attended.add(model)
  const prototype = model.prototype as object

  wrap<Row>(prototype, '_initValues', (original) => {
    return function (...words: [given: never, options: CallOptions]) {
      original.apply(this, words as never)
      const [, { raw, isNewRecord }] = words
      // Rows that are built by hand, as new or as stored, hold what is still to be saved.
      if (raw && !isNewRecord && activePolicy(modelOf(this))) rememberRead(this, loadedColumns(this))
    }
  })
  wrap<Row>(prototype, 'save', (original) => {
    return function (...words: [options?: CallOptions]) {
      const [options] = words
      const policy = activePolicy(modelOf(this), options)
      if (!policy || this.isNewRecord) return original.apply(this, words as never)
      if (policy.wholeColumnWrites === 'patch') markChangesInPlace(this, options?.fields)
      const isConcerned = [...jsonAttributes(modelOf(this))].some(
        (column) => options?.fields?.includes(column) ?? this.changed(column as never),
      )
      if (isConcerned) words[0] = withCallSite(options)
      return original.apply(this, words as never)
    }
  })
  wrap<Row>(prototype, 'reload', (original) => {
    return async function (...words: [options?: CallOptions]) {
      const locked = lockingTransaction(modelOf(this), words[0])
      const result = await original.apply(this, words as never)
      if (!activePolicy(modelOf(this))) return result
      const { attributes } = (this as unknown as { _options: { attributes?: readonly string[] } })._options
      const loaded = loadedColumns(this).filter((column) => attributes?.includes(column) ?? true)
      rememberRead(this, loaded, locked)
      for (const column of jsonAttributes(modelOf(this))) {
        if (!Object.hasOwn(valuesOf(this), column)) forgetStored(this, column)
      }
      return result
    }
  })
  wrap<RowModel>(model, 'findAll', (original) => {
    return async function (...words: [options?: CallOptions]) {
      const locked = lockingTransaction(this, words[0])
      const found = await original.apply(this, words as never)
      for (const row of locked ? [found].flat() : []) {
        if (row instanceof Model) rememberLocked(row as Row, loadedColumns(row as Row), locked!)
      }
      return found
    }
  })
  for (const name of ['update', 'upsert'] as const) {
    wrap<RowModel>(model, name, (original) => {
      return function (...words: [given: unknown, options?: CallOptions]) {
        if (activePolicy(this, words[1])) words[1] = withCallSite(words[1])
        return original.apply(this, words as never)
      }
    })
  }
  wrap<RowModel>(model, 'bulkCreate', (original) => {
    return async function (...words: [given: unknown, options?: CallOptions]) {
      const [, options = {}] = words
      if (!activePolicy(this)) return original.apply(this, words as never)
      words[1] = withCallSite(options)
      const rows = (await original.apply(this, words as never)) as Row[]
      for (const row of options.ignoreDuplicates ? [] : rows) {
        // A row that was there before keeps the columns that updateOnDuplicate leaves out.
        const { updateOnDuplicate = loadedColumns(row) } = options
        rememberRead(
          row,
          loadedColumns(row).filter((column) => updateOnDuplicate.includes(column)),
        )
      }
      return rows
    }
  })
}

function modelOf(instance: Row): RowModel {
  return instance.constructor as RowModel
}

function loadedColumns(instance: Row): string[] {
  return [...jsonAttributes(modelOf(instance))].filter((column) => Object.hasOwn(valuesOf(instance), column))
}

/** The transaction in which a finder with these options locks the rows of `model` that it reads, against every writer. */
function lockingTransaction(model: RowModel, options: CallOptions = {}): Transaction | undefined {
  const { lock, transaction = ambientTransaction(sequelizeOf(model)) } = options
  if (!lock || !transaction) return undefined
  const { level = lock, of }: { level?: unknown; of?: RowModel } = typeof lock === 'object' ? lock : {}
  return level === 'KEY SHARE' || (of && of.name !== model.name) ? undefined : transaction
}

function withCallSite(options: CallOptions | undefined): CallOptions {
  return { ...options, [callSite]: captured(options?.[callSite]) }
}

/** Far enough to reach the caller's code through Sequelize's and a few wrappers. */
const stackFrames = 50

/** This place in the code; where one call of Sequelize's makes another, also that of the first. */
function captured(cause: Error | undefined): Error {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = stackFrames
  const error = new Error('', { cause })
  Error.stackTraceLimit = stackTraceLimit
  return error
}

const internal = /^node:|[\\/]node_modules[\\/]sequelize(-typescript)?[\\/]/

/** The first place on the stack that is neither Sequelize's nor this library's nor Node's. */
function placeOf(site: Error): { file: string; line: number } | undefined {
  for (let each: unknown = site; each instanceof Error; each = each.cause) {
    for (const frame of (each.stack ?? '').split('\n').slice(1)) {
      const place = /\((.*)\)$/.exec(frame)?.[1] ?? frame.trim().replace(/^at (async )?/, '')
      const [, file, line] = /^(.*):(\d+):\d+$/.exec(place) ?? []
      if (file !== undefined && !internal.test(file) && !file.startsWith(__dirname)) return { file, line: Number(line) }
    }
  }
  return undefined
}

/** The part of Sequelize's query interface that writes rows. */
interface Writes {
  insert(instance: Row | null, table: unknown, values: Fields, options: CallOptions): Promise<unknown>
  update(instance: Row, table: unknown, values: Fields, where: object, options: CallOptions): Promise<unknown>
  bulkUpdate(table: unknown, values: Fields, where: Fields, options: CallOptions, more: unknown): Promise<unknown>
  upsert(table: unknown, inserted: Fields, updated: Fields, where: object, options: CallOptions): Promise<unknown>
  bulkInsert(table: unknown, records: Fields[], options: CallOptions, more: unknown): Promise<unknown>
}

const intercepted = new WeakSet<Sequelize>()

/**
 * Judges the writes that Sequelize is about to send: past its hooks and validators, with what will be stored. A literal, or
 * a function of the database, is somebody's own atomic write.
 */
function intercept(sequelize: Sequelize): void {
  if (intercepted.has(sequelize)) return
  intercepted.add(sequelize)
  const queryInterface = sequelize.getQueryInterface()
  const { returnValues } = (sequelize as unknown as { dialect: { supports: { returnValues: unknown } } }).dialect
    .supports

  const observe = (instance: Row, columns: readonly string[], options: CallOptions, isWhole = true): (() => void) =>
    observeWrite(instance, columns, {
      transaction: options.transaction,
      isWhole,
      isAnswered: Boolean(returnValues && options.returning),
    })

  wrap<Writes>(queryInterface, 'insert', (original) => {
    return async function (...words: Parameters<Writes['insert']>) {
      const [instance, , values, options] = words
      const isKnown = instance && activePolicy(modelOf(instance)) && !options.ignoreDuplicates
      const done = isKnown && observe(instance, wholeColumns(modelOf(instance), values), options)
      const result = await original.apply(this, words as never)
      if (done) done()
      return result
    }
  })

  wrap<Writes>(queryInterface, 'update', (original) => {
    return async function (...words: Parameters<Writes['update']>) {
      const [instance, tableName, values, where, options] = words
      const model = modelOf(instance)
      if (!activePolicy(model)) return original.apply(this, words as never)
      const written = wholeColumns(model, values)
      const policy = activePolicy(model, options)
      const version = versionAttribute(model)
      // SQL finds no NULL equal to another.
      const isVersioned = version !== undefined && valuesOf(instance)[version] !== null
      const atRisk =
        policy && !isVersioned ? written.filter((column) => !isLockedSince(instance, column, options.transaction)) : []
      const isPatched = policy?.wholeColumnWrites === 'patch' && atRisk.length > 0
      const edits = isPatched ? atRisk.map((column) => editOf(instance, column, values)) : []
      for (const [index, column] of atRisk.entries()) {
        if (edits[index]) continue
        meet(sequelize, policy!, options, { method: 'save', model: model.name, column }, () =>
          instanceWrite(instance, column, editOf(instance, column, values)),
        )
      }
      const done = observe(instance, written, options, !isPatched)
      const send = (changed: Fields): Promise<unknown> =>
        original.apply(this, [instance, tableName, changed, where, options] as never) as Promise<unknown>
      const result = isPatched
        ? await patch({ instance, tableName, values, where, options, send }, edits as EditedColumn[], policy.conflicts)
        : await send(values)
      done()
      return result
    }
  })

  /** Judges a write of rows that were not loaded. */
  const judge = (method: string, columns: (model: RowModel) => string[], where: object, options: CallOptions): void => {
    const { model } = options
    const policy = model && activePolicy(model, options)
    if (!policy) return
    const primaryKey = keyNamed(model, where)
    for (const column of columns(model)) {
      const isWhole = Object.keys(primaryKey).length === model.primaryKeyAttributes.length
      if (isWhole && isRowLocked(model, primaryKey, column, options.transaction)) continue
      const names = [model.name, ...model.primaryKeyAttributes].join(', ')
      const instead = `await updateJson([${names}], ${JSON.stringify(column)}, [set(…)])`
      const details = { primaryKey, keys: undefined, instead }
      meet(sequelize, policy, options, { method, model: model.name, column }, () => details)
    }
  }
  wrap<Writes>(queryInterface, 'bulkUpdate', (original) => {
    return function (...words: Parameters<Writes['bulkUpdate']>) {
      const [, values, where, options] = words
      judge('update', (model) => wholeColumns(model, values), where, options)
      return original.apply(this, words as never)
    }
  })
  wrap<Writes>(queryInterface, 'upsert', (original) => {
    return function (...words: Parameters<Writes['upsert']>) {
      const [, inserted, updated, , options] = words
      judge('upsert', (model) => wholeColumns(model, updated), inserted, options)
      return original.apply(this, words as never)
    }
  })
  wrap<Writes>(queryInterface, 'bulkInsert', (original) => {
    return function (...words: Parameters<Writes['bulkInsert']>) {
      const [, records, options] = words
      const { updateOnDuplicate = [] } = options
      const updated = Object.fromEntries(updateOnDuplicate.map((field) => [field, records[0]?.[field]]))
      judge('bulkCreate', (model) => wholeColumns(model, updated), {}, options)
      return original.apply(this, words as never)
    }
  })
}

/** The JSON attributes that are written as a whole by these values of columns. */
function wholeColumns(model: RowModel, values: Fields): string[] {
  return [...jsonAttributes(model)].filter((column) => {
    const field = fieldOf(model, column)
    return Object.hasOwn(values, field) && !(values[field] instanceof Utils.SequelizeMethod)
  })
}

/** What was loaded and what is to be written; `undefined` if it is not known what was loaded. */
function editOf(instance: Row, column: string, values: Fields): EditedColumn | undefined {
  const text = storedText(instance, column)
  if (text === undefined) return undefined
  const model = modelOf(instance)
  const field = fieldOf(model, column)
  const type = attributeType(model, column) as Column['type']
  return { column, field, type, before: parsed(text), after: parsed(JSON.stringify(values[field] ?? null)) }
}

function parsed(text: string): JsonValue {
  return text === 'undefined' ? null : (JSON.parse(text) as JsonValue)
}

/** What of a write is told of its row. */
type Details = Pick<WholeColumnWrite, 'primaryKey' | 'keys' | 'instead'>

function instanceWrite(instance: Row, column: string, edit: EditedColumn | undefined): Details {
  const operations = edit && difference(edit)
  const keys = operations && [...new Set(operations.map(({ path }) => path[0]!))]
  const instead = operations?.length
    ? callOf(column, operations)
    : `await row.withLock(async (row) => { row.${column} = …; await row.save() })`
  return { primaryKey: keyOf(instance), keys, instead }
}

/** The call that writes no more than `operations`. */
function callOf(column: string, operations: readonly Operation[]): string {
  const [only] = operations
  if (operations.length === 1 && only!.kind === 'set' && only!.path.length === 1) {
    return `await row.mergeJsonKey(${JSON.stringify(column)}, ${JSON.stringify(only!.path[0])}, …)`
  }
  const shown = operations.slice(0, 5).map(({ kind, path }) => {
    return `${kind}(${JSON.stringify(path)}${kind === 'remove' ? '' : ', …'})`
  })
  return `await row.updateJson(${JSON.stringify(column)}, [${[...shown, ...(operations.length > 5 ? ['…'] : [])].join(', ')}])`
}

/** The primary key of the one row that a condition, or a row's values, can be about; without what it leaves open. */
function keyNamed(model: RowModel, where: object): Fields {
  const { [Op.and]: all = [], ...fields } = where as Record<string | symbol, unknown>
  const parts = [fields, ...[all].flat().filter((each) => typeof each === 'object' && each !== null)] as Fields[]
  const named = model.primaryKeyAttributes.flatMap((name) => {
    const value = parts.map((part) => part[fieldOf(model, name)]).find((each) => each !== undefined)
    const isOne = value !== null && value !== undefined && (typeof value !== 'object' || value instanceof Date)
    return isOne ? [[name, value] as const] : []
  })
  return Object.fromEntries(named)
}

const reports = channel('sequelize-lossless:whole-column-write')

/** The call sites that were reported; when there are too many, the oldest is forgotten, and may be reported again. */
const reported = new WeakMap<Sequelize, Set<string>>()
const maxReported = 1000

/** @throws {WholeColumnWriteError} unless such a write is only reported */
function meet(
  sequelize: Sequelize,
  { wholeColumnWrites }: Policy,
  options: CallOptions,
  call: Pick<WholeColumnWrite, 'method' | 'model' | 'column'>,
  detailsOf: () => Details,
): void {
  const { file, line } = placeOf(options[callSite] ?? captured(undefined)) ?? {}
  const known = reported.get(sequelize) ?? new Set()
  const site = JSON.stringify([file, line, call])
  if (wholeColumnWrites === 'warn' && known.has(site)) return
  const write = { ...call, ...detailsOf(), file, line }
  if (wholeColumnWrites !== 'warn') throw new WholeColumnWriteError(write)
  if (known.size === maxReported) known.delete([...known][0]!)
  reported.set(sequelize, known.add(site))
  reports.publish(write)
  const text = `sequelize-lossless: ${write.method} ${describeWrite(write)}`
  // With SQL that is not logged, a warning that was asked for still has to be seen.
  const own = sequelize as unknown as { options: Logging }
  const log = [options.logging, own.options.logging].find((each) => typeof each === 'function') ?? console.warn
  log(text)
}
