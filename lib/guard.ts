import { channel } from 'node:diagnostics_channel'
import { Model, Op, Utils } from 'sequelize'
import type { Logging, Sequelize, Transaction } from 'sequelize'
import { captureCallSite, firstUserFrame } from './call-site.js'
import { fieldOf, jsonAttributes, sequelizeOf, versionAttribute } from './database.js'
import type { Row, RowModel } from './database.js'
import type { Column } from './dialects/dialect.js'
import { describeWrite, WholeColumnWriteError } from './errors/errors.js'
import type { WholeColumnWrite } from './errors/errors.js'
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
import type { JsonValue } from './json/values.js'
import type { Operation } from './json/operation.js'
import { difference } from './json/difference.js'
import { patch } from './patch.js'
import type { EditedColumn, RowUpdate } from './patch.js'
import { policyOf, setPolicy } from './policy.js'
import type { LosslessOptions, Policy, StatedIntent } from './policy.js'
import { attributeType } from './target.js'
import { ambientTransaction, outermostOf } from './transaction.js'

/** Sequelize's methods, as they are called here. */
type Method<This = unknown> = (this: This, ...words: never[]) => unknown

type Fields = Readonly<Record<string, unknown>>

/** Where a write was called from; Sequelize hands it on with the options. */
const callSite = Symbol('call site')

/** The options of Sequelize's calls, as far as they matter here. */
interface CallOptions extends Logging, StatedIntent {
  readonly transaction?: Transaction | null | undefined
  readonly lock?: unknown
  readonly fields?: readonly string[]
  readonly raw?: boolean
  readonly isNewRecord?: boolean
  readonly subQuery?: boolean
  readonly groupedLimit?: unknown
  readonly returning?: unknown
  readonly ignoreDuplicates?: boolean
  readonly individualHooks?: boolean
  readonly updateOnDuplicate?: readonly string[]
  readonly conflictFields?: readonly string[]
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
      const result = await original.apply(this, words as never)
      if (!activePolicy(modelOf(this))) return result
      const { attributes } = builtWith(this)
      const loaded = loadedColumns(this).filter((column) => attributes?.includes(column) ?? true)
      const { transaction, locksIncluded = false } = lockingReads.get(builtWith(this)) ?? {}
      rememberRead(this, loaded, transaction)
      for (const row of locksIncluded ? includedIn(this) : []) rememberLocked(row, loadedColumns(row), transaction!)
      for (const column of jsonAttributes(modelOf(this))) {
        if (!Object.hasOwn(valuesOf(this), column)) forgetStored(this, column)
      }
      return result
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
      const { fields, updateOnDuplicate, transaction = ambientTransaction(sequelizeOf(this)) } = options
      // With individualHooks each row was inserted by itself.
      for (const row of options.ignoreDuplicates || options.individualHooks ? [] : rows) {
        const isGiven = (name: string): boolean => fields?.includes(name) ?? true
        const given = [...jsonAttributes(this)]
          .filter(isGiven)
          .map((name) => [fieldOf(this, name), valuesOf(row)[name]])
        const values = Object.fromEntries(given) as Fields
        // A row that was there before keeps the columns that updateOnDuplicate leaves out.
        const columns = storedColumns(this, values).filter((name) => updateOnDuplicate?.includes(name) ?? true)
        observe(row, columns, values, { returning: true, ...options, transaction })()
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

/** What an instance was built with, when its row was read. */
function builtWith(instance: Row): { attributes?: readonly string[]; include?: readonly Included[] } {
  return (instance as unknown as { _options: ReturnType<typeof builtWith> })._options
}

interface Included {
  readonly as: string
  /** Read by a statement of its own. */
  readonly separate?: boolean
}

/** The rows that were read with a row, in the same statement. */
function includedIn(instance: Row): Row[] {
  const { include = [] } = builtWith(instance)
  const direct = include.flatMap(({ as, separate }) => (separate ? [] : [valuesOf(instance)[as]].flat()))
  return (direct.filter((each) => each instanceof Model) as Row[]).flatMap((row) => [row, ...includedIn(row)])
}

/** A read that locks its rows against every writer. */
interface LockingRead {
  readonly transaction: Transaction
  /** Whether it also locks the rows that are read with them. */
  readonly locksIncluded: boolean
}

/** By what an instance was built with, the locking read that it came from. */
const lockingReads = new WeakMap<object, LockingRead>()

function lockingRead(model: RowModel, options: CallOptions = {}): LockingRead | undefined {
  const { lock, transaction, subQuery, groupedLimit } = options
  // On MySQL and MariaDB, what a subquery reads may be that of an older snapshot.
  if (!lock || !transaction || subQuery || groupedLimit) return undefined
  const { level = lock, of }: { level?: unknown; of?: RowModel } = typeof lock === 'object' ? lock : {}
  if (level === 'KEY SHARE' || (of && of.name !== model.name)) return undefined
  return { transaction, locksIncluded: !of }
}

function withCallSite(options: CallOptions | undefined): CallOptions {
  return { ...options, [callSite]: captureCallSite(options?.[callSite]) }
}

/** The part of Sequelize's query interface that reads and writes rows. */
interface Statements {
  select(model: RowModel, table: unknown, options: CallOptions): Promise<unknown>
  insert(instance: Row | null, table: unknown, values: Fields, options: CallOptions): Promise<unknown>
  update(instance: Row, table: unknown, values: Fields, where: object, options: CallOptions): Promise<unknown>
  bulkUpdate(table: unknown, values: Fields, where: Fields, options?: CallOptions, more?: unknown): Promise<unknown>
  upsert(table: unknown, inserted: Fields, updated: Fields, where: object, options: CallOptions): Promise<unknown>
  bulkInsert(table: unknown, records: Fields[], options?: CallOptions, more?: unknown): Promise<unknown>
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

  wrap<Statements>(queryInterface, 'select', (original) => {
    return async function (...words: Parameters<Statements['select']>) {
      const [model, , options] = words
      const found = await original.apply(this, words as never)
      const read = lockingRead(model, options)
      for (const row of read ? [found].flat() : []) {
        if (!(row instanceof Model)) continue
        lockingReads.set(builtWith(row as Row), read!)
        const locked = [row as Row, ...(read!.locksIncluded ? includedIn(row as Row) : [])]
        for (const each of locked) rememberLocked(each, loadedColumns(each), read!.transaction)
      }
      return found
    }
  })

  /** Judges a write of rows that were not loaded. */
  const judge = (
    method: string,
    columns: (model: RowModel) => string[],
    where: object,
    options: CallOptions = {},
  ): void => {
    const { model } = options
    const policy = model && activePolicy(model, options)
    if (!policy) return
    const primaryKey = keyNamed(model, where)
    for (const column of columns(model)) {
      const isWhole = Object.keys(primaryKey).length === model.primaryKeyAttributes.length
      if (isWhole && isRowLocked(model, primaryKey, column, options.transaction)) continue
      const keys = model.primaryKeyAttributes.join(', ')
      const names = `${model.name}, ${model.primaryKeyAttributes.length > 1 ? `{ ${keys} }` : keys}`
      const instead = `await updateJson([${names}], ${JSON.stringify(column)}, [set(…)])`
      const details = { primaryKey, keys: undefined, instead }
      meet(sequelize, policy, options, { method, model: model.name, column }, () => details)
    }
  }
  wrap<Statements>(queryInterface, 'insert', (original) => {
    return async function (...words: Parameters<Statements['insert']>) {
      const [instance, , values, options] = words
      const model = instance && modelOf(instance)
      if (!model || !activePolicy(model)) return original.apply(this, words as never)
      const { updateOnDuplicate, ignoreDuplicates } = options
      if (updateOnDuplicate) {
        judge('save', () => wholeColumns(model, only(values, updateOnDuplicate)), {}, { ...options, model })
      }
      const isKnown = !ignoreDuplicates && !updateOnDuplicate
      // What is not given is NULL, or what the database itself puts there.
      const done = observe(instance, isKnown ? storedColumns(model, values) : [], values, options)
      const result = await original.apply(this, words as never)
      done()
      return result
    }
  })

  wrap<Statements>(queryInterface, 'update', (original) => {
    return async function (...words: Parameters<Statements['update']>) {
      const [instance, tableName, values, where, options] = words
      const model = modelOf(instance)
      if (!activePolicy(model)) return original.apply(this, words as never)
      const send = (changed: Fields): Promise<unknown> =>
        original.apply(this, [instance, tableName, changed, where, options] as never) as Promise<unknown>
      const write = (): Promise<unknown> => save({ instance, tableName, values, where, options, send })
      const isPatching = activePolicy(model, options)?.wholeColumnWrites === 'patch'
      return isPatching ? inTurn(instance, options.transaction, write) : write()
    }
  })

  wrap<Statements>(queryInterface, 'bulkUpdate', (original) => {
    return function (...words: Parameters<Statements['bulkUpdate']>) {
      const [, values, where, options] = words
      judge('update', (model) => wholeColumns(model, values), where, options)
      return original.apply(this, words as never)
    }
  })
  wrap<Statements>(queryInterface, 'upsert', (original) => {
    return function (...words: Parameters<Statements['upsert']>) {
      const [, inserted, updated, , options] = words
      // A row with the same value of another unique column may be the one that is updated.
      const { model, conflictFields } = options
      const isByPrimaryKey =
        !conflictFields?.length && model?.primaryKeyAttributes.every((name) => fieldOf(model, name) in updated)
      judge('upsert', () => wholeColumns(model!, updated), isByPrimaryKey ? inserted : {}, options)
      return original.apply(this, words as never)
    }
  })
  wrap<Statements>(queryInterface, 'bulkInsert', (original) => {
    return function (...words: Parameters<Statements['bulkInsert']>) {
      const [, records, options] = words
      const { updateOnDuplicate = [] } = options ?? {}
      const columns = (model: RowModel): string[] => [
        ...new Set(records.flatMap((record) => wholeColumns(model, only(record, updateOnDuplicate)))),
      ]
      judge('bulkCreate', columns, {}, options)
      return original.apply(this, words as never)
    }
  })
}

/** By instance, its save that is on its way, and the transaction of the server that it is part of. */
const saving = new WeakMap<Row, { readonly outermost: Transaction | undefined; readonly settled: Promise<unknown> }>()

/** Of patches of one instance that are on their way at once, each goes on from what the one before it has written. */
function inTurn<R>(instance: Row, transaction: Transaction | null | undefined, write: () => Promise<R>): Promise<R> {
  const outermost = transaction ? outermostOf(transaction) : undefined
  const before = saving.get(instance)
  // One of another transaction may wait for this one, by its lock.
  const written = before && before.outermost === outermost ? before.settled.then(write) : write()
  saving.set(instance, { outermost, settled: written.catch(() => undefined) })
  return written
}

/** Judges an UPDATE of a row that was loaded, and sends it, whole or patched. */
async function save(update: RowUpdate & { readonly options: CallOptions }): Promise<unknown> {
  const { instance, values, options, send } = update
  const model = modelOf(instance)
  const policy = activePolicy(model, options)
  const written = wholeColumns(model, values)
  const version = versionAttribute(model)
  // SQL finds no NULL equal to another.
  const isVersioned = version !== undefined && valuesOf(instance)[version] !== null
  const atRisk =
    policy && !isVersioned ? written.filter((column) => !isLockedSince(instance, column, options.transaction)) : []
  const isPatched = policy?.wholeColumnWrites === 'patch' && atRisk.length > 0
  const edits = isPatched ? atRisk.map((column) => editOf(instance, column, values)) : []
  for (const [index, column] of atRisk.entries()) {
    if (edits[index]) continue
    meet(sequelizeOf(model), policy!, options, { method: 'save', model: model.name, column }, () =>
      instanceWrite(instance, column, editOf(instance, column, values)),
    )
  }
  const done = observe(instance, written, values, options, !isPatched)
  const result = isPatched ? await patch(update, edits as EditedColumn[], policy.conflicts) : await send(values)
  done()
  return result
}

/** {@link observeWrite} of `columns`, by a statement with these values of fields. */
function observe(
  instance: Row,
  columns: readonly string[],
  values: Fields,
  { returning, transaction }: CallOptions,
  isWhole = true,
): () => void {
  const model = modelOf(instance)
  const { dialect } = sequelizeOf(model) as unknown as { dialect: { supports: { returnValues: unknown } } }
  const answered = dialect.supports.returnValues ? returning : false
  const written = columns.map((column) => [column, values[fieldOf(model, column)]] as const)
  return observeWrite(instance, Object.fromEntries(written), {
    transaction,
    isWhole,
    isAnswered: (column) => (Array.isArray(answered) ? answered.includes(fieldOf(model, column)) : Boolean(answered)),
  })
}

/** The JSON attributes that a new row holds as these values of fields say. */
function storedColumns(model: RowModel, values: Fields): string[] {
  return [...jsonAttributes(model)].filter((name) => !(values[fieldOf(model, name)] instanceof Utils.SequelizeMethod))
}

/** The JSON attributes that are written as a whole by these values of fields. */
function wholeColumns(model: RowModel, values: Fields): string[] {
  return storedColumns(model, values).filter((column) => Object.hasOwn(values, fieldOf(model, column)))
}

function only(values: Fields, fields: readonly string[]): Fields {
  return Object.fromEntries(fields.map((field) => [field, values[field]]))
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
  const { file, line } = firstUserFrame(options[callSite] ?? captureCallSite(undefined)) ?? {}
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
