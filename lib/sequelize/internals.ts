import { Utils } from 'sequelize'
import type { Logging, Model, ModelStatic, Sequelize, Transaction } from 'sequelize'
import type { DeclaredType } from '../dialects/rounding.js'
import { checkedBy } from './options.js'

// All untyped or private members of Sequelize 6 that the core uses. No other folder of the core accesses one.

/** An instance of a model: one row in memory. */
export type Row = Model<object, object>
export type RowModel = ModelStatic<Row>

interface ModelInternals {
  readonly _timestampAttributes: {
    readonly createdAt?: string
    readonly updatedAt?: string
    readonly deletedAt?: string
  }
  readonly _versionAttribute?: string
  readonly _jsonAttributes: ReadonlySet<string>
  readonly _scope?: { readonly where?: unknown }
  /** Made by `Model.scope()` or `Model.unscoped()`. */
  readonly scoped?: boolean
  readonly _indexes: readonly Index[]
  readonly uniqueKeys: Readonly<Record<string, { readonly fields: readonly string[] }>>
  runHooks(name: string, ...args: unknown[]): Promise<void>
}

interface Index {
  readonly unique?: boolean
  readonly where?: unknown
  readonly fields: readonly unknown[]
}

interface RowInternals {
  readonly dataValues: Record<string, unknown>
  readonly _previousDataValues: Record<string, unknown>
  readonly _options: BuildOptions
  isNewRecord: boolean
}

/** The options that an instance was built with. */
export interface BuildOptions {
  readonly isNewRecord?: boolean
  readonly attributes?: readonly string[]
  readonly include?: readonly IncludedModel[]
}

interface IncludedModel {
  readonly as: string
  /** Loaded by a separate statement. */
  readonly separate?: boolean
}

interface TransactionInternals {
  readonly sequelize: Sequelize
  readonly parent?: Transaction | null
  readonly options: {
    readonly readOnly?: boolean
    readonly type?: string
    readonly isolationLevel?: string
    readonly [checkedBy]?: 'library'
  }
  finished?: 'commit' | 'rollback'
  readonly savepoints: readonly Transaction[]
  readonly id: string
  name: string
  _afterCommitHooks: unknown[]
}

/** The part of Sequelize's query generator that quotes and formats. */
export interface QueryGenerator {
  quoteTable(table: unknown): string
  quoteIdentifier(name: string, force?: boolean): string
  escape(value: unknown, attribute?: unknown): string
  format(value: unknown, attribute: unknown, options: { context: string }, bind: (value: unknown) => string): string
  updateQuery(
    table: unknown,
    values: object,
    where: object,
    options: object,
    attributes: unknown,
  ): { query: string; bind?: unknown[] }
}

interface SequelizeInternals {
  readonly config: { readonly host?: string; readonly port?: unknown; readonly database?: string }
  readonly options: Logging & { readonly storage?: string; readonly host?: string }
  readonly dialect: { readonly supports: { readonly returnValues: unknown } }
  readonly constructor: { readonly version: string; readonly _cls?: { get(key: string): unknown } }
}

function modelInternals(model: RowModel): ModelInternals {
  return model as unknown as ModelInternals
}

function rowInternals(row: Row): RowInternals {
  return row as unknown as RowInternals
}

function transactionInternals(transaction: Transaction): TransactionInternals {
  return transaction as unknown as TransactionInternals
}

export function sequelizeInternals(sequelize: Sequelize): SequelizeInternals {
  return sequelize as unknown as SequelizeInternals
}

/**
 * Whether two Sequelize instances connect to one database, as far as their options say.
 * @param fileOf for a database in a file: its path, or `'in memory'` for one that no other instance has
 */
export function isSameDatabase(
  one: Sequelize,
  other: Sequelize,
  fileOf?: (options: SequelizeInternals['options']) => string,
): boolean {
  if (one === other) return true
  if (one.getDialect() !== other.getDialect()) return false
  const [first, second] = [sequelizeInternals(one), sequelizeInternals(other)]
  if (fileOf) return fileOf(first.options) !== 'in memory' && fileOf(first.options) === fileOf(second.options)
  const { host, port, database } = first.config
  return (
    host === second.config.host && String(port) === String(second.config.port) && database === second.config.database
  )
}

export function queryGeneratorOf(sequelize: Sequelize): QueryGenerator {
  return (sequelize.getQueryInterface() as unknown as { queryGenerator: QueryGenerator }).queryGenerator
}

export function sequelizeOf(model: RowModel): Sequelize {
  // The types say it may be missing; `identifyRow` and `lossless` reject a model without one.
  return model.sequelize!
}

export function modelOf(row: Row): RowModel {
  return row.constructor as RowModel
}

/** The attribute that holds the time of the last write, if the model has one. */
export function updatedAtAttribute(model: RowModel): string | undefined {
  return modelInternals(model)._timestampAttributes.updatedAt
}

/** The attribute that holds the time of the INSERT, if the model has one. */
export function createdAtAttribute(model: RowModel): string | undefined {
  return modelInternals(model)._timestampAttributes.createdAt
}

/** The attribute of Sequelize's optimistic lock (`version: true`), if the model has one. */
export function versionAttribute(model: RowModel): string | undefined {
  return modelInternals(model)._versionAttribute
}

/** Whether two versions are equal; NULL equals only NULL. */
export function isSameVersion(one: unknown, other: unknown): boolean {
  const isNull = (version: unknown): boolean => (version ?? null) === null
  return isNull(one) || isNull(other) ? isNull(one) && isNull(other) : Number(one) === Number(other)
}

/** The conditions that Sequelize adds to each `where`: that of the model's scope, and that the row is not deleted. */
export function whereOfModel(model: RowModel): unknown[] {
  return [...whereOfScope(model), ...whereNotDeleted(model)]
}

function whereOfScope(model: RowModel): unknown[] {
  const { _scope: scope } = modelInternals(model)
  return scope?.where === undefined ? [] : [scope.where]
}

/** Whether a scope of the model, such as its default scope, restricts the rows that finders find. */
export function hasScope(model: RowModel): boolean {
  return whereOfScope(model).length > 0
}

/** The condition of a scope that the caller has named, as in `Model.scope('open')`; none for the default scope. */
export function whereOfNamedScope(model: RowModel): unknown[] {
  return isScope(model) ? whereOfScope(model) : []
}

/** Whether a model is a scope of another one. */
export function isScope(model: RowModel): boolean {
  return modelInternals(model).scoped === true
}

export function isParanoid(model: RowModel): boolean {
  return modelInternals(model)._timestampAttributes.deletedAt !== undefined
}

/** The condition that a `paranoid` model has not deleted the row; none for another model. */
export function whereNotDeleted(model: RowModel): object[] {
  const { deletedAt } = modelInternals(model)._timestampAttributes
  if (deletedAt === undefined) return []
  const attributes = model.getAttributes() as Record<string, { readonly defaultValue?: unknown }>
  return [{ [deletedAt]: attributes[deletedAt]?.defaultValue ?? null }]
}

/** The names of a model's attributes of the types JSON and JSONB. */
export function attributesOfJsonType(model: RowModel): ReadonlySet<string> {
  return modelInternals(model)._jsonAttributes
}

/** The column that holds `attribute`. */
export function fieldOf(model: RowModel, attribute: string): string {
  const { field } = model.getAttributes()[attribute as never] as { field?: string }
  return field ?? attribute
}

/** The name of the table of a model, and its schema, if it has one. */
export function tableOf(model: RowModel): { readonly name: string; readonly schema: string | undefined } {
  const name = model.getTableName() as string | { readonly tableName: string; readonly schema?: string }
  return typeof name === 'string' ? { name, schema: undefined } : { name: name.tableName, schema: name.schema }
}

/** The attributes of each unique key that the model declares: its primary key, `unique: true` and unique indexes. */
export function uniqueKeysOf(model: RowModel): readonly (readonly string[])[] {
  const { uniqueKeys, _indexes } = modelInternals(model)
  const indexes = _indexes.flatMap(({ unique, where, fields }) => {
    const names = fields.map(nameOfIndexField)
    return unique === true && where === undefined && names.every((name) => name !== undefined) ? [names] : []
  })
  const columns = [...Object.values(uniqueKeys).map(({ fields }) => fields), ...indexes]
  const keys = columns.map((names) => names.map((name) => attributeOfColumn(model, name) ?? name))
  const attributes = model.getAttributes()
  return [model.primaryKeyAttributes, ...keys.filter((key) => key.every((name) => Object.hasOwn(attributes, name)))]
}

/** The attribute or column of a part of an index; `undefined` for an expression, a prefix, or another collation. */
function nameOfIndexField(field: unknown): string | undefined {
  if (typeof field !== 'object' || field === null) return typeof field === 'string' ? field : undefined
  const { name, attribute = name, length, collate } = field as Record<string, unknown>
  return typeof attribute === 'string' && length === undefined && collate === undefined ? attribute : undefined
}

/** Whether the database, or Sequelize, gives an attribute its number. */
export function isAutoIncrement(model: RowModel, attribute: string): boolean {
  return (model.getAttributes()[attribute as never] as { autoIncrement?: boolean }).autoIncrement === true
}

/** The attribute of a column, whose name another attribute may have; `undefined` if the model does not have the column. */
export function attributeOfColumn(model: RowModel, column: string | null): string | undefined {
  return Object.keys(model.getAttributes()).find((name) => fieldOf(model, name) === column)
}

/** The attributes with these names, or with columns of these names. */
export function attributesOf(model: RowModel, names: readonly string[]): string[] {
  return Object.keys(model.getAttributes()).filter(
    (name) => names.includes(name) || names.includes(fieldOf(model, name)),
  )
}

/** The name of an attribute's type: `'INTEGER'`, `'JSON'`, … */
export function attributeType(model: RowModel, attribute: string): string {
  return typeOf(model, attribute).key
}

/** The method of a type that turns a value into the text of a bind. */
export const stringifyMethod = '_stringify'

/** Whether Sequelize writes a value of an attribute in the same way without the type of the attribute. */
export function isSameUntyped(model: RowModel, attribute: string, value: unknown): boolean {
  if (!(value instanceof Date)) return true
  const generator = queryGeneratorOf(sequelizeOf(model))
  return generator.escape(value) === generator.escape(value, model.getAttributes()[attribute as never])
}

export function typeOf(model: RowModel, attribute: string): { readonly key: string } {
  return (model.getAttributes()[attribute as never] as { type: { key: string } }).type
}

/** The type of an attribute, and the digits that it declares. */
export function declaredType(model: RowModel, attribute: string): DeclaredType {
  const type = typeOf(model, attribute) as { key: string } & Readonly<Record<string, unknown>>
  const digits = (...names: readonly string[]): number | undefined =>
    names.map((name) => type[name]).find((each) => typeof each === 'number')
  return { key: type.key, precision: digits('_precision', '_length'), scale: digits('_scale', '_decimals') }
}

/** The digits after the point that a DECIMAL attribute declares. */
export function scaleOf(model: RowModel, attribute: string): number {
  return declaredType(model, attribute).scale ?? 0
}

export async function runAfterFind(row: Row, transaction: Transaction | undefined): Promise<void> {
  await modelInternals(modelOf(row)).runHooks('afterFind', row, { transaction, plain: true })
}

/** Whether the application may change the values that a finder has read. */
export function hasFindHooks(model: RowModel): boolean {
  return model.hasHook('afterFind') || sequelizeOf(model).hasHook('afterFind')
}

/** The attributes' values, without getters and setters. */
export function valuesOf(row: Row): Record<string, unknown> {
  return rowInternals(row).dataValues
}

/** The same instance with other values, into which Sequelize reads the answer of a statement. */
export function withValues(row: Row, values: Record<string, unknown>): Row {
  return Object.create(row, { dataValues: { value: values } }) as Row
}

/** The arguments of `fn()` or `cast()`; none of another value. */
export function argumentsOfSql(value: unknown): readonly unknown[] {
  if (value instanceof Utils.Fn) return (value as unknown as { readonly args: readonly unknown[] }).args
  return value instanceof Utils.Cast ? [(value as unknown as { readonly val: unknown }).val] : []
}

/** The values that Sequelize compares with to detect changes. */
export function previousValuesOf(row: Row): Record<string, unknown> {
  return rowInternals(row)._previousDataValues
}

export function buildOptionsOf(row: Row): BuildOptions {
  return rowInternals(row)._options
}

export function setNewRecord(row: Row, isNewRecord: boolean): void {
  rowInternals(row).isNewRecord = isNewRecord
}

/**
 * The option of save() that makes Sequelize format the primary key in WHERE by its type. Without it, SQLite's driver binds
 * a Date as a number, which matches no row.
 */
export function keyFormat(row: Row): { readonly model?: RowModel } {
  const model = modelOf(row)
  // Only then: hooks of the save see the option, and may pass it on to another model.
  const isTime = model.primaryKeyAttributes.some((name) => valuesOf(row)[name] instanceof Date)
  return isTime ? { model } : {}
}

/** The names of the changed attributes. */
export function changedAttributes(row: Row): readonly string[] {
  return row.changed() || []
}

export function setChanged(row: Row, attribute: string, isChanged: boolean): void {
  row.changed(attribute as never, isChanged)
}

export function isChanged(row: Row, attribute: string): boolean {
  return row.changed(attribute as never)
}

export function sequelizeOfTransaction(transaction: Transaction): Sequelize {
  return transactionInternals(transaction).sequelize
}

/** `transaction` and, if it is a savepoint, its ancestors; the last element is the server's transaction. */
export function nesting(transaction: Transaction): Transaction[] {
  const { parent } = transactionInternals(transaction)
  return parent ? [transaction, ...nesting(parent)] : [transaction]
}

/** The server's transaction: `transaction` itself, or its outermost ancestor if it is a savepoint. */
export function outermostOf(transaction: Transaction): Transaction {
  const { parent } = transactionInternals(transaction)
  return parent ? outermostOf(parent) : transaction
}

/** Whether both belong to one transaction of the server, directly or as savepoints. */
export function isSameTransaction(one: Transaction, other: Transaction): boolean {
  return outermostOf(one) === outermostOf(other)
}

/** The savepoints of a transaction, and those inside them. */
export function savepointsOf(transaction: Transaction): Transaction[] {
  return transactionInternals(transaction).savepoints.flatMap((each) => [each, ...savepointsOf(each)])
}

/** The savepoint of this name that was set last directly inside `transaction`. */
export function savepointNamed(transaction: Transaction, name: string): Transaction | undefined {
  return transactionInternals(transaction).savepoints.findLast((each) => transactionInternals(each).name === name)
}

/** The name of the method that gives a new instance its values, loaded or built. */
export const initValuesMethod = '_initValues'

/** The ambient transaction; `Sequelize.useCLS` is static, so it may belong to another Sequelize instance. */
export function ambientOf(sequelize: Sequelize): Transaction | null | undefined {
  return sequelizeInternals(sequelize).constructor._cls?.get('transaction') as Transaction | null | undefined
}

/** The id that a transaction of the server shares with all its savepoints. */
export function idOf(transaction: Transaction): string {
  return transactionInternals(transaction).id
}

/** The name of a savepoint on the server. */
export function nameOf(savepoint: Transaction): string {
  return transactionInternals(savepoint).name
}

export function renameSavepoint(savepoint: Transaction, name: string): void {
  transactionInternals(savepoint).name = name
}

export function finishedState(transaction: Transaction): 'commit' | 'rollback' | undefined {
  return transactionInternals(transaction).finished
}

/** Whether a transaction, or one around it, was rolled back. */
export function isRolledBack(transaction: Transaction): boolean {
  return nesting(transaction).some((each) => finishedState(each) === 'rollback')
}

/** Whether a method of this library has opened the server's transaction: a rollback restores its rows. */
export function isOfLibrary(transaction: Transaction): boolean {
  return transactionInternals(outermostOf(transaction)).options[checkedBy] === 'library'
}

/** The open transaction that owns this one's work: itself or, after RELEASE SAVEPOINT, the nearest open ancestor. */
export function openAncestor(transaction: Transaction): Transaction | undefined {
  const { finished, parent } = transactionInternals(transaction)
  if (finished === undefined) return transaction
  return finished === 'commit' && parent ? openAncestor(parent) : undefined
}

/** Whether the lock that `lockedIn` took is not released yet, and belongs to the server's transaction of `transaction`. */
export function holdsLock(transaction: Transaction | null | undefined, lockedIn: Transaction | undefined): boolean {
  return Boolean(transaction && lockedIn && openAncestor(lockedIn) && isSameTransaction(lockedIn, transaction))
}

/** Makes Sequelize refuse further statements of `transaction` and of its ancestors. */
export function markRolledBack(transaction: Transaction): void {
  for (const each of nesting(transaction)) transactionInternals(each).finished = 'rollback'
}

export function isReadOnly(transaction: Transaction): boolean {
  return nesting(transaction).some((each) => transactionInternals(each).options.readOnly)
}

/** Whether no other session can change what the transaction has read, or else the transaction fails. */
export function isSerializable(transaction: Transaction): boolean {
  return transactionInternals(outermostOf(transaction)).options.isolationLevel === 'SERIALIZABLE'
}

/** Whether the transaction was opened by BEGIN IMMEDIATE, which takes SQLite's write lock. */
export function beginsImmediate(transaction: Transaction): boolean {
  return /^(IMMEDIATE|EXCLUSIVE)$/.test(transactionInternals(outermostOf(transaction)).options.type ?? '')
}

/** Removes the `afterCommit` hooks, which Sequelize would call even after a failed COMMIT. */
export function dropAfterCommitHooks(transaction: Transaction): void {
  transactionInternals(transaction)._afterCommitHooks = []
}
