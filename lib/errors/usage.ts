import {
  argumentsOf,
  codeOf,
  codeOfFinder,
  codeOfKey,
  codeOfModel,
  codeOfWhere,
  describePath,
  describeRow,
  describeValue,
  keyOf,
  optionsOf,
  shorten,
  variableOf,
} from './describe.js'
import type { RowFacts } from './describe.js'

/** Types that keep the digits that other types round. */
const widerTypes: Readonly<Record<string, string>> = {
  DATE: 'DataTypes.DATE(3), which has milliseconds',
  DECIMAL: 'DataTypes.DECIMAL(20, 6)',
  FLOAT: 'DataTypes.DOUBLE',
  TIME: 'DataTypes.STRING',
}

/** How to have a driver read integers past 2^53 exactly. */
const exactKeys =
  'To load such rows, have mysql2 or mariadb read these keys as strings, with dialectOptions: { supportBigNumbers: true }; with sqlite3, which cannot, change the column to a text type.'

/** What to do about an expression of Sequelize in a where. */
const writeValues =
  'Write { column: value }; for an expression in SQL, find the rows with Model.findAll(), and name their primary keys in the where.'

function isRounded(value: unknown): boolean {
  return Number.isInteger(value) && !Number.isSafeInteger(value)
}

/** Whether a value is an object such as literal(), and no value of a column. */
function isExpression(value: unknown): boolean {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value)
  return isObject && !(value instanceof Date) && !(value instanceof Uint8Array)
}

/** Whether a text has half of a surrogate pair. */
function isHalf(value: unknown): boolean {
  return typeof value === 'string' && !value.isWellFormed()
}

function stringOf(key: unknown): string {
  return `'${String(key)}'`
}

/** The text of every usage error, by its reason. */
const texts = {
  target: (method: string, value: unknown): string =>
    `${method}: expected a row, [Model, primaryKey] or [Model, { where }], got ${describeValue(value)}. ` +
    `Write ${method}(row, …) with an instance, ${method}([WorkflowRun, id], …), or ${method}([User, { where: { email } }], …).`,
  targetWhere: (method: string, model: string, column: string): string =>
    `${method}: the where of [${codeOfModel(model)}, { where }] is empty, so it names no row. Name at least one column: [${codeOfModel(model)}, { where: { ${keyOf(column)}: … } }].`,
  targetKeys: (method: string, model: string, others: readonly string[]): string =>
    `${method}: [${codeOfModel(model)}, { where }] has other keys beside where: ${others.join(', ')}. Leave them out, or pass them in the options of ${method}().`,
  next: (method: string, model: string, value: unknown): string =>
    `${method}: expected { where, order }, and nothing else, with order absent or an array of at least one attribute, got ${typeof value === 'object' && value !== null ? `the keys ${Object.keys(value).join(', ')}` : describeValue(value)}. Write ${method}(${codeOfModel(model)}, { where: { status: 'queued' }, order: ['createdAt'] }, async (row) => { … }).`,
  order: (method: string, model: string, value: unknown, names: readonly string[]): string =>
    `${method}: expected each order to be an ordinary column of ${model}, or [column, 'ASC' or 'DESC'], got ${describeValue(value)}. Its ordinary columns: ${names.join(', ')}.`,
  targetSeveral: (method: string, model: string, columns: readonly string[], count: number): string =>
    `${method}: ${count} rows of ${model} meet the where of the target (${columns.join(', ')}), and it must be exactly one, so nothing was written. Name the columns of a unique key in where, or the primary key.`,
  model: (method: string, value: unknown): string =>
    `${method}: expected an initialised Sequelize model, got ${describeValue(value)}. ` +
    `Call ${method}() after sequelize.define(…), Model.init(…) or new Sequelize({ models: […] }).`,
  host: (method: string, version: string): string =>
    `${method}: Sequelize ${version} is not supported. Install version 6: npm install sequelize@^6.37.0`,
  scopedModel: (method: string, model: string): string =>
    `${method}: options of a scope of ${model}, such as ${model}.unscoped(), do not hold for the rows of ${model}. Write ${method}(${model}, { … }).`,
  taken: (model: string, name: string, what: string): string =>
    `lossless: ${model} already has ${what} named "${name}", which would be hidden. ` +
    `Keep it and call the function instead: import { ${name} } from 'sequelize-lossless'; await ${name}(row, …).`,
  noPrimaryKey: (method: string, model: string): string =>
    `${method}: ${model} has no primary key, so its rows cannot be identified. ` +
    `Mark the column that identifies a row: id: { type: DataTypes.INTEGER, primaryKey: true }.`,
  primaryKeyNotLoaded: (method: string, model: string, name: string): string =>
    `${method}: this ${model} was loaded without its primary key "${name}". Load it with attributes: ['${name}', …], or write ${method}([${codeOfModel(model)}, ${variableOf(name)}], …).`,
  primaryKeyShape: (method: string, model: string, names: readonly string[], value: unknown): string =>
    `${method}: expected the primary key of ${model}, got ${describeValue(value)}. Write ${method}([${codeOfModel(model)}, ` +
    (names.length === 1 ? variableOf(names[0]!) : `{ ${names.map((name) => `${keyOf(name)}: …`).join(', ')} }`) +
    `], …).`,
  primaryKeyType: (method: string, model: string, name: string, expected: string, value: unknown): string =>
    `${method}: expected "${name}", the primary key of ${model}, to be ${expected}, got ${describeValue(value)}. ` +
    ((value ?? undefined) === undefined
      ? `Pass the key of the row, which has no value here: ${method}([${codeOfModel(model)}, ${variableOf(name)}], …).`
      : isRounded(value)
        ? `An integer past 2^53 was rounded, by JavaScript or by the driver, and may be the key of another row: pass the exact key as a string or a bigint, ${method}([${codeOfModel(model)}, '9007199254740993'], …). ${exactKeys}`
        : isHalf(value)
          ? `The text has half of a surrogate pair, in place of which a driver sends U+FFFD: it may be the key of another row. Pass the key that the row holds.`
          : `Databases convert such values silently and can match other rows: convert the value first, for example ${expected === 'a string' ? `String(${variableOf(name)})` : expected === 'a date' ? `new Date(${variableOf(name)})` : `Number(${variableOf(name)})`}.`),
  keyFraction: (method: string, model: string, name: string, value: unknown): string =>
    `${method}: expected "${name}", a key of ${model}, to be an integer, got ${describeValue(value)}. ` +
    `A database may round it to the key of another row. Pass the key of the row that you mean, such as ${Math.trunc(Number(value))}.`,
  keyDigits: (method: string, model: string, name: string, type: string, value: unknown): string =>
    `${method}: "${name}", a key of ${model}, has the type ${type}, in which the database does not keep all digits of ${value instanceof Date ? value.toISOString() : describeValue(value)}. ` +
    `It may round the value to the key of another row. Pass the value that the row holds, or use a type that keeps it, in the table and in the model${Object.hasOwn(widerTypes, type) ? `, such as ${widerTypes[type]}` : ''}.`,
  roundedKey: (method: string, row: RowFacts, name: string, value: unknown): string =>
    `${method}: the driver has rounded "${name}", the primary key of ${describeRow(row)}, to ${describeValue(value)}, so a save would write another row. ` +
    `Write without an instance, by the key as a string: await updateJson(${argumentsOf(row.option, `[${codeOfModel(row.model)}, ${stringOf(row.primaryKey[name])}]`, '…')}). ${exactKeys}`,
  replacedKey: (method: string, row: RowFacts, name: string): string =>
    `${method}: the driver has read U+FFFD in "${name}", the primary key of ${describeRow(row)}, as it does in place of bytes that are not UTF-8, so a write could change another row. ` +
    `Write without an instance, by the key: await updateJson(${argumentsOf(row.option, `[${codeOfModel(row.model)}, ${codeOfKey(row)}]`, '…')}).`,
  newRecord: (method: string, model: string): string =>
    `${method}: this ${model} was built and never saved, so it has no row in the database. Call await row.save() first, or, in a transaction, await row.save({ transaction }).`,
  column: (method: string, model: string, column: unknown, columns: readonly string[], mayBeText: boolean): string =>
    `${method}: expected a JSON attribute of ${model}, got ${describeValue(column)}. ` +
    (columns.length > 0
      ? `Its JSON attributes: ${columns.map((name) => `'${name}'`).join(', ')}.`
      : `Declare one: progress: { type: DataTypes.JSON }.`) +
    (mayBeText
      ? ` If this text is JSON, declare it: lossless(${codeOfModel(model)}, { jsonColumns: ['${String(column)}'] }).`
      : ''),
  key: (method: string, value: unknown): string =>
    `${method}: expected a key to be a string, got ${describeValue(value)}. Write String(key).`,
  sameKey: (method: string, key: string): string =>
    `${method}: the new key "${shorten(key)}" is the old one. Write another name, as in ${method}(['steps', 'old'], 'new'), or leave the operation out.`,
  path: (method: string, value: unknown): string =>
    `${method}: expected a path to be a key, or an array of keys, of indexes and of matching({ … }), got ${describeValue(value)}. Write ${method}(['steps', 'a'], …), or ${method}(['items', matching({ id }), 'a'], …); an object from another source, such as a request body, is not a step.`,
  index: (method: string, value: unknown): string =>
    `${method}: expected the index of an array element to be a whole number, got ${describeValue(value)}. Write ${method}(['items', 0, …], …), or -1 for the last element; for an object key that is a number, String(key).`,
  emptyPath: (method: string): string =>
    `${method}: the path is empty, so it is the whole document, which ${method}() does not change. Pass a key; for a document that is an object, write merge([], { … }) or assign([], { … }); for one that is an array, append([], item).`,
  emptyConditionPath: (method: string): string =>
    `${method}: the path is empty, so it is the whole document. Pass a key; or write a condition on the whole document: equals([], value), contains([], item) or size([], { atLeast: 1 }).`,
  renamedElement: (method: string, path: readonly unknown[]): string =>
    `${method}: the path ${describePath(path)} ends at an array element, which has no name. End the path with the key: ${method}(['items', 0, 'old'], 'new').`,
  matching: (method: string, value: unknown): string =>
    `${method}: expected an object with at least one key, which an element must have, got ${describeValue(value)}. Write ${method}({ id: 7 }).`,
  identified: (method: string, key: string, value: unknown): string =>
    `${method}: expected the item to be an object with the key "${key}", got ${describeValue(value)}. Write ${method}('items', 'id', { id: 7, … }).`,
  amount: (method: string, value: unknown): string =>
    `${method}: expected the operand to be a number or a bigint, got ${describeValue(value)}. Write ${method}('attempts', 1).`,
  patch: (method: string, value: unknown): string =>
    `${method}: expected the patch to be an object, got ${describeValue(value)}. Write an object, such as { theme: 'dark' }; to replace a value, updateJson() with set(path, value).`,
  assigned: (method: string, value: unknown): string =>
    `${method}: expected an object with at least one key, got ${describeValue(value)}. Write ${method}('settings', { theme: 'dark' }), or leave out the operation if there is nothing to set.`,
  operations: (method: string, value: unknown): string =>
    `${method}: expected an array of operations, got ${describeValue(value)}. Write ${method}(column, [set('step_a', 'done'), increment('attempts')]); an object from another source, such as a request body, is not an operation.`,
  conditions: (method: string, value: unknown): string =>
    `${method}: expected options.if to be an array of conditions, got ${describeValue(value)}. Write { if: [equals('state', 'new'), absent('owner')] }; an object from another source, such as a request body, is not a condition.`,
  condition: (method: string, value: unknown): string =>
    `${method}: expected a condition, got ${describeValue(value)}. Write ${method}(exists('owner')); an object from another source, such as a request body, is not a condition.`,
  comparison: (method: string, value: unknown): string =>
    `${method}: expected the operand to be a number, a bigint or a string, got ${describeValue(value)}. Write ${method}('attempts', 5); for a Date, which JSON stores as text, ${method}('expiresAt', date.toISOString()); for a boolean, equals('isDone', true).`,
  size: (method: string, value: unknown): string =>
    `${method}: expected a whole number from 0, or an object of atLeast and atMost, of which atLeast is not the greater one, got ${describeValue(value)}. Write ${method}('guests', 3) or ${method}('guests', { atMost: 99 }).`,
  changes: (method: string, model: string, value: unknown): string =>
    `${method}: expected the changes to be an object of attributes of ${model}, with at least one, got ${describeValue(value)}. Write { progress: [set('step_a', 'done')], status: 'running' }: operations for a JSON column, values for others.`,
  attribute: (method: string, model: string, name: string, names: readonly string[]): string =>
    `${method}: ${model} has no attribute "${shorten(name)}". Its attributes: ${names.join(', ')}.`,
  keyChange: (method: string, model: string, name: string): string =>
    `${method}: "${name}" is part of the primary key of ${model}, which identifies the row of this call. Leave it out.`,
  movedColumn: (method: string, model: string, name: string): string =>
    `${method}: "${name}" of ${model} changes with every write. Leave it out of the changes; to require a value, pass it in the option where of atomicUpdate(): { where: { ${keyOf(name)}: … } }.`,
  columnValue: (method: string, model: string, name: string, value: unknown): string =>
    `${method}: expected a value that "${name}" of ${model} can hold, got ${describeValue(value)}. Write a value, null, or plus(1) for a number; SQL expressions are not bound: write them with ${codeOfModel(model)}.update().`,
  upsertTarget: (method: string, value: unknown): string =>
    `${method}: expected [Model, primaryKey] or [Model, { where }], got ${describeValue(value)}. Write ${method}([WorkflowRun, id], …); a row that you have as an instance is there: change it with row.atomicUpdate(…).`,
  upsertKey: (method: string, model: string, keys: readonly (readonly string[])[]): string =>
    `${method}: the where of [${codeOfModel(model)}, { where }] has to be exactly the values of a unique key, which no other row can have. The keys that ${model} declares: ${keys.map((names) => names.join(' + ')).join('; ')}. Write { where: { ${keys
      .at(-1)!
      .map((name) => `${keyOf(name)}: …`)
      .join(', ')} } }.`,
  keySetter: (method: string, model: string, name: string): string =>
    `${method}: the setter of "${name}" of ${model} changes the value of the key, so the new row would have another key. Pass the value that the setter stores.`,
  create: (method: string, model: string, value: unknown): string =>
    `${method}: expected options.create to be an object of attributes of ${model}, got ${describeValue(value)}. Write { create: { title: 'new' } }, or leave it out.`,
  upsertedKey: (method: string, model: string, name: string): string =>
    `${method}: "${name}" of ${model} is in the key of the call, which a new row has. Leave it out of the changes; to change it in a row that is there, write atomicUpdate().`,
  createdColumn: (method: string, model: string, name: string): string =>
    `${method}: "${name}" of ${model} has its value from the key or from this call. Leave it out of create.`,
  createdValue: (method: string, model: string, name: string, value: unknown): string =>
    `${method}: expected a value that "${name}" of ${model} can hold in create, got ${describeValue(value)}. Write a value or a whole document; operations and plus() belong to the changes, and SQL expressions are not bound.`,
  createdExpression: (method: string, model: string, name: string): string =>
    `${method}: the default of "${name}" of ${model} is an expression of SQL, from which a change of a new row cannot start: the database computes it. Pass the value that the row is created with: { create: { ${keyOf(name)}: … } }.`,
  createdText: (method: string, model: string, name: string, value: unknown): string =>
    `${method}: expected "${name}" of ${model} to be created with JSON, got the text ${describeValue(value)}. Pass null or the text of a document: { create: { ${keyOf(name)}: '{}' } }; or let a setter of the model call JSON.stringify.`,
  createdDocument: (method: string, model: string, name: string, path: readonly unknown[], found: string): string =>
    `${method}: the operations for "${name}" do not fit the document of a new ${model}, which has ${found} at ${describePath(path)}. Pass another document in create: { create: { ${keyOf(name)}: { … } } }.`,
  documentOperations: (method: string, model: string, name: string, value: unknown): string =>
    `${method}: expected an array of operations for the JSON column "${name}" of ${model}, got ${describeValue(value)}. Write { ${keyOf(name)}: [set('step_a', 'done')] }; to replace the whole document, use withLock().`,
  setterOfDocument: (method: string, model: string, name: string): string =>
    `${method}: a setter of ${model} assigns "${name}" as a whole, which could overwrite a concurrent change. Pass operations for it: { ${keyOf(name)}: [set('step_a', 'done')] }.`,
  setterOfColumn: (method: string, model: string, name: string): string =>
    `${method}: a setter of ${model} assigns "${name}", which this call changes itself or which identifies the row. Leave out the attribute of that setter, or write it in a call of its own.`,
  setterOfNothing: (method: string, model: string, name: string): string =>
    `${method}: the setter of "${name}" of ${model} assigns no column, so there is nothing to write. Pass a value that it stores, or leave the attribute out.`,
  plus: (method: string, value: unknown): string =>
    `${method}: expected a number, a bigint or a decimal text that can be added exactly, got ${describeValue(value)}. Write ${method}(1), ${method}(10n ** 18n) or ${method}('0.10').`,
  plusType: (method: string, model: string, name: string, type: string, by: string): string =>
    `${method}: plus(${by}) does not fit "${name}" of ${model}, which has the type ${type}. Add integers to integer columns, and fractions to DECIMAL, FLOAT or DOUBLE columns.`,
  documentConditions: (method: string, value: unknown): string =>
    `${method}: expected options.if to be an object of JSON columns and their conditions, got ${describeValue(value)}. Write { if: { progress: [exists('step_b')] } }.`,
  where: (method: string, value: unknown): string =>
    `${method}: expected where to be an object of columns, got ${describeValue(value)}. ` +
    (isExpression(value)
      ? writeValues
      : `Write ${method === 'updateWhere' ? `{ status: 'running' }` : `{ where: { status: 'running' } }`}.`),
  whereOfAll: (method: string, model: string, column: string): string =>
    `${method}: every row of ${model} meets the where. Name a column in it: { ${keyOf(column)}: … }; or pass the option { all: true } to change every row.`,
  all: (method: string, value: unknown): string =>
    `${method}: expected all to be true or false, got ${describeValue(value)}. Write { all: true } to change every row, or leave it out.`,
  whereColumn: (method: string, model: string, name: string, isJson: boolean, names: readonly string[]): string =>
    `${method}: "${shorten(name)}" is not an ordinary column of ${model}. ` +
    (isJson
      ? `A where has conditions on ordinary columns. For a document, the option if of an atomic write has them: { if: { ${keyOf(name)}: [equals('state', 'new')] } }.`
      : `Its ordinary columns: ${names.join(', ')}.`),
  whereOperator: (method: string, operator: string | symbol): string =>
    `${method}: where has ${typeof operator === 'symbol' ? `the operator ${operator.description}` : operator}, whose values this library does not bind. Use Op.eq, Op.ne, Op.gt, Op.gte, Op.lt, Op.lte, Op.in, Op.notIn, Op.is, Op.not, Op.between, Op.notBetween, Op.like, Op.notLike, Op.and, Op.or.`,
  whereValue: (method: string, name: string, value: unknown): string =>
    `${method}: where compares "${name}" with ${describeValue(value)}, which ` +
    (isExpression(value)
      ? `this library does not bind. ${writeValues}`
      : isRounded(value)
        ? `JavaScript or a driver has rounded: it may be the value of another row. Pass the exact number as a string or a bigint: { ${keyOf(name)}: '9007199254740993' }.`
        : isHalf(value)
          ? `has half of a surrogate pair, in place of which a driver sends U+FFFD: it may be the value of another row. Pass the text that the row holds, such as value.toWellFormed().`
          : `does not fit its type. Databases convert such values silently: convert it first, for example with String(…) or Number(…).`),
  scope: (method: string, model: string): string =>
    `${method}: the where of the scope of ${model} has more than ordinary columns and values, such as literal(), which this library does not bind. Pass ${codeOfModel(model)}.unscoped() in place of ${model}, and write the conditions of the scope in the where.`,
  whereType: (method: string, name: string, type: string): string =>
    `${method}: where names "${name}", whose type ${type} it does not compare. Find the rows with Model.findAll(), and name their primary keys in the where.`,
  whereList: (method: string, name: string): string =>
    `${method}: where has null in the list of values for "${name}", and SQL finds no NULL by a list. Write the two conditions: { [Op.or]: [{ ${keyOf(name)}: [ … ] }, { ${keyOf(name)}: null }] }.`,
  overlap: (method: string, one: readonly unknown[], other: readonly unknown[]): string =>
    `${method}: the paths ${describePath(one)} and ${describePath(other)} overlap, or may be of the same array element, so their order would matter. Write them as one operation, or as two calls.`,
  value: (method: string, place: string, what: string): string =>
    `${method}: ${shorten(place)} is ${what}, which JSON cannot represent. Use null, or omit the key.`,
  circular: (method: string): string =>
    `${method}: the value has a circular reference, which JSON cannot represent. Store an identifier instead of the inner reference.`,
  callback: (method: string, value: unknown, words: string = 'row, transaction'): string =>
    `${method}: expected a callback, got ${describeValue(value)}. Write ${method}(…, async (${words}) => { … }).`,
  targets: (method: string, value: unknown): string =>
    `${method}: expected an array of at least one row, [Model, primaryKey] or [Model, { where }], got ${describeValue(value)}. Write ${method}([from, to], async ([from, to], transaction) => { … }).`,
  targetsApart: (method: string): string =>
    `${method}: the rows belong to different Sequelize instances, and no transaction spans both. Lock the rows of one instance, and write the other rows through an outbox.`,
  targetTwice: (method: string, row: RowFacts): string =>
    `${method}: ${describeRow(row)} occurs twice. Pass each row once.`,
  timeout: (method: string, value: unknown): string =>
    `${method}: expected timeoutMs to be a whole number of milliseconds from 1 to ${2 ** 31 - 1}, got ${describeValue(value)}. Write { timeoutMs: 2000 }, or { nowait: true } to fail without waiting.`,
  nowait: (method: string, value: unknown): string =>
    `${method}: ${value === true ? 'nowait: true does not wait, so it has no timeoutMs' : `expected nowait to be true or false, got ${describeValue(value)}`}. Write { nowait: true } or { timeoutMs: 2000 }.`,
  logging: (method: string, value: unknown): string =>
    `${method}: expected logging to be a function, true or false, got ${describeValue(value)}. Write { logging: console.log }, or { logging: false } for none.`,
  retry: (method: string, value: unknown): string =>
    `${method}: expected the retry options to be an object, got ${describeValue(value)}. Write { maxAttempts: 5 }; { maxAttempts: 1 } disables retries.`,
  retryNumber: (method: string, name: string, value: unknown): string =>
    `${method}: expected ${name} to be ${name === 'maxAttempts' ? 'an integer from 1' : 'a number of milliseconds from 0'}, got ${describeValue(value)}. Write { maxAttempts: 5, baseDelayMs: 10, maxDelayMs: 1000 }.`,
  retrySignal: (method: string, value: unknown): string =>
    `${method}: expected signal to be an AbortSignal, got ${describeValue(value)}. Write { signal: controller.signal } with const controller = new AbortController().`,
  retryCallback: (method: string, value: unknown): string =>
    `${method}: expected onRetry to be a function, got ${describeValue(value)}. Write { onRetry: ({ error, attempt }) => { … } }.`,
  lockEachOther: (method: string): string =>
    `${method}: this call waits for the callback of another call in the same transaction, which waits for the callback around this one. Lock all rows in one call: await withLocks([…], async (rows) => { … }).`,
  retryJoined: (method: string): string =>
    `${method}: a transaction that is already open cannot be run again from here. Retry where it is opened: retryTransaction(sequelize, async (transaction) => { … }).`,
  noVersion: (method: string, model: string): string =>
    `${method}: ${model} has no version column, so a concurrent change cannot be detected. ` +
    `Declare ${model} with { version: true }, and migrate: await queryInterface.addColumn('<table>', 'version', { type: DataTypes.INTEGER, allowNull: false, defaultValue: 0 }).`,
  writeInside: (method: string, name: string): string =>
    `${method}: row.${name}() in the callback would bypass the version check after it. Assign the new values (row.title = …), which ${method}() saves, or use withLock().`,
  writeBeside: (method: string, name: string, row: RowFacts): string =>
    `${name}: ${method}() of this instance of ${describeRow(row)} is running, and its version check would not cover this write. ` +
    `Await ${method}() first, or use another instance: await ${codeOfFinder(row)}.findOne(${optionsOf(row.option, `where: ${codeOfWhere(row.primaryKey)}`)}).`,
  sequelize: (method: string, value: unknown, call: string): string =>
    `${method}: expected a Sequelize instance, got ${describeValue(value)}. Write ${call}.`,
  flushInside: (method: string): string =>
    `flush: in the callback of ${method}(), it would wait for calls that may wait for that callback. Call it after ${method}(): await ${method}(…); await flush(sequelize).`,
  option: (method: string, name: string, known: readonly string[]): string =>
    `${method}: there is no option "${shorten(name)}". Use: ${known.join(', ')}.`,
  options: (method: string, value: unknown, [first, ...others]: readonly string[]): string =>
    `${method}: expected the options to be an object, got ${describeValue(value)}. ` +
    ([first, ...others].includes('transaction')
      ? `Pass a transaction in an object: { transaction }.`
      : `Pass them in an object: { ${first}: … }.`),
  transaction: (method: string, value: unknown): string =>
    `${method}: expected options.transaction to be a transaction of this row's Sequelize instance, got ${describeValue(value)}. ` +
    `Pass a transaction from sequelize.transaction(), null for none, or omit the option.`,
  transactionMissing: (method: string): string =>
    `${method}: a lock lasts until its transaction ends, and no transaction was passed. ` +
    `Write await sequelize.transaction(async (transaction) => { await ${method}(row, { transaction }); … }), or use withLock().`,
  transactionFinished: (method: string, state: string): string =>
    `${method}: the transaction has ended (${state}). Write before the callback of sequelize.transaction() returns, or pass another transaction.`,
  transactionReadOnly: (method: string): string =>
    `${method}: the transaction is read-only, so it can neither lock nor write. Open it without readOnly: true.`,
  isolationLevelJoined: (method: string): string =>
    `${method}: isolationLevel cannot be set on a transaction that is already open. Set it where the transaction is opened: sequelize.transaction({ isolationLevel }, …).`,
  isolationLevel: (method: string, level: unknown, database: string): string =>
    `${method}: ${database} has no isolation level ${describeValue(level)}. ${database === 'SQL' ? 'Write one of Transaction.ISOLATION_LEVELS of Sequelize, or omit it' : 'Omit isolationLevel'}.`,
  wholeColumnWrites: (method: string, value: unknown): string =>
    `${method}: expected wholeColumnWrites to be 'allow', 'warn', 'throw' or 'patch', or one for each of save, bulk and upsert, of which only save can be 'patch', got ${typeof value === 'object' && value ? shorten(codeOf(value)) : describeValue(value)}. Write ${method}(WorkflowRun, { wholeColumnWrites: 'warn' }).`,
  returning: (method: string, value: unknown): string =>
    `${method}: expected returning to be true or false, got ${describeValue(value)}. Write { returning: true }, or omit it.`,
  intent: (method: string, value: unknown): string =>
    `${method}: expected the option wholeColumnWrites of a call to be 'allow', got ${describeValue(value)}. Write { wholeColumnWrites: 'allow' } for a call that overwrites on purpose, or omit it: the other modes are options of lossless().`,
  coalesce: (method: string, value: unknown): string =>
    `${method}: expected coalesce to be true or false, got ${describeValue(value)}. Write { coalesce: true }, or omit it.`,
  onWrite: (method: string, value: unknown): string =>
    `${method}: expected onWrite to be a function or null, got ${describeValue(value)}. Write { onWrite: async ({ model, primaryKey, changes, transaction }) => { … } }.`,
  onReport: (method: string, value: unknown): string =>
    `${method}: expected onReport to be a function or null, got ${describeValue(value)}. Write { onReport: ({ code, message, file, line }) => { … } }.`,
  jsonColumns: (method: string, value: unknown): string =>
    `${method}: expected jsonColumns to be an array of the names of attributes, got ${describeValue(value)}. Write ${method}(Job, { jsonColumns: ['stats'] }).`,
  jsonColumnsOfAll: (method: string): string =>
    `${method}: jsonColumns are attributes of one model. Write ${method}(Job, { jsonColumns: ['stats'] }).`,
  jsonColumn: (method: string, model: string, name: unknown, field: string, type: string | undefined): string =>
    `${method}: expected jsonColumns to name attributes of ${model} that hold JSON as text, got ${describeValue(name)}` +
    (type === undefined
      ? `, which it does not have. Write the name of an attribute: ${method}(${codeOfModel(model)}, { jsonColumns: ['stats'] }).`
      : type === 'JSONB'
        ? `, which has the type JSONB. Leave it out: every JSON column has the methods.`
        : `, which has the type ${type}. Migrate the column (PostgreSQL: ALTER TABLE … ALTER COLUMN ${field} TYPE jsonb USING …; MySQL and MariaDB: ALTER TABLE … MODIFY ${field} JSON), and declare DataTypes.JSON.`),
  jsonType: (method: string, model: string, name: string, type: string): string =>
    `${method}: "${name}" of ${model} is declared as text, and its column in the database has the type ${type}, so nothing was written. Declare it as it is, ${keyOf(name)}: { type: DataTypes.${type.toUpperCase()} }, and leave it out of jsonColumns.`,
  textColumn: (method: string, model: string, name: string, field: string, database: string): string =>
    `${method}: "${name}" of ${model} is declared as JSON, and its column in the database holds text, so nothing was written: ${database}'s JSON functions would round its numbers. Declare it: lossless(${codeOfModel(model)}, { jsonColumns: ['${name}'] }). Or migrate it: ALTER TABLE … MODIFY ${field} JSON.`,
  jsonKey: (method: string, model: string, name: string): string =>
    `${method}: "${name}" is the primary key of ${model}, which no write changes. Leave it out of jsonColumns.`,
  audited: (value: unknown): string =>
    `audit: expected a function to run, got ${describeValue(value)}. Write await audit(sequelize, async () => { … }); or, where the code is not one function, const running = audit(sequelize), and running.stop().`,
  auditIgnore: (value: unknown): string =>
    `audit: expected ignore to be a regular expression for file names, got ${describeValue(value)}. Write { ignore: /\\.test\\.[jt]s$/ }.`,
  auditColumns: (model: string, value: unknown): string =>
    `audit: expected columns to be attributes by the name of their model, got ${describeValue(value)} for ${describeValue(model)}. Write { columns: { WorkflowRun: ['attempts'] } }.`,
  audits: (method: string): string =>
    `${method}: another audit runs on this Sequelize instance. End it first, or give each its own instance.`,
  conflicts: (method: string, value: unknown): string =>
    `${method}: ${value === 'overwrite' || value === 'throw' ? `conflicts: '${value}' decides about saves under wholeColumnWrites: 'patch' only` : `expected conflicts to be 'overwrite' or 'throw', got ${describeValue(value)}`}. Write ${method}(WorkflowRun, { wholeColumnWrites: 'patch', conflicts: 'throw' }).`,
  searchPath: (method: string): string =>
    `${method}: with a searchPath, Sequelize inlines values into the SQL text, so the save cannot be patched. Set the schema instead: Model.schema('…').`,
  lockedElsewhere: (method: string, row: RowFacts): string =>
    `${method}: this instance of ${describeRow(row)} is already in use by another call, and two concurrent calls cannot share one instance. ` +
    `Use one instance for each call: withLock(${argumentsOf(row.option, `[${codeOfModel(row.model)}, primaryKey]`, 'fn')}), also for an instance that a cache shares; or load the row in each job.`,
  lockedAround: (method: string, row: RowFacts): string =>
    `${method}: ${describeRow(row)} is locked by the transaction of the enclosing callback, and { transaction: null } takes this call out of it: it would not see what the callback has written, or would wait for its lock. ` +
    `Leave the option out: the row's own methods join the transaction of its callback.`,
  notBegun: (method: string, value: unknown): string =>
    `${method}: the callback returned ${describeValue(value)}, which has not started to run, so none of its statements were in the transaction. The transaction was rolled back. ` +
    `Return a promise of its result: lastValueFrom(observable) for an Observable; iterate a generator to its end in the callback.`,
  commitInside: (method: string): string =>
    `${method}: commit() in the callback would end the transaction of a write that is not complete. Let the callback return: the write commits after it.`,
  committedByCallback: (method: string): string =>
    `${method}: the callback called transaction.commit(), so all its writes are committed. ` +
    `Remove the call: ${method}() commits when the callback returns, and rolls back when it throws.`,
  savepointsMixed: (method: string): string =>
    `${method}: a savepoint failed while a concurrent branch of the callback wrote in the same transaction. ` +
    `Its rollback would have undone the writes of that branch, so the whole transaction was rolled back and nothing was written. ` +
    `Await each savepoint before the next statement: await sequelize.transaction({ transaction }, …), one after the other. So each updateWhere(), and each write of a model with onWrite.`,
  transactionControl: (sql: string): string =>
    `${JSON.stringify(sql.slice(0, 60))} would end its transaction, so it was not sent. ` +
    `Let the callback return to commit, or throw to roll back; for a savepoint write sequelize.transaction({ transaction }, …); ` +
    `send DDL such as TRUNCATE before or after the transaction, and write Model.destroy({ where: {}, transaction }) for truncate: true.`,
} as const

/** The kind of mistake in a call: one for each text. */
export type UsageReason = keyof typeof texts

/** Enough frames to reach the caller's line, through this library and Sequelize; Node keeps 10. */
const stackFrames = 50

/**
 * Captures the stack of an error anew, up to the line of the caller. Call it in the constructor, after `super`.
 * @param maker the function that makes the error; the stack begins with its caller
 */
export function captureStack(
  error: Error,
  maker: (...args: never[]) => unknown = error.constructor as () => unknown,
): void {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = Math.max(stackTraceLimit, stackFrames)
  Error.captureStackTrace(error, maker)
  Error.stackTraceLimit = stackTraceLimit
}

/** A mistake in the code of the call, independent of the data: a `TypeError`. */
export class UsageError extends TypeError {
  readonly code = 'USAGE'
  override readonly name = 'UsageError'
  /** The kind of mistake; `undefined` in the errors of `sequelize-lossless/audit`. */
  readonly reason: UsageReason | undefined

  constructor(message: string, reason?: UsageReason) {
    super(message)
    captureStack(this)
    this.reason = reason
  }
}

type Usage = { readonly [R in UsageReason]: (...values: Parameters<(typeof texts)[R]>) => UsageError }

/** Creates the usage error for each reason: `throw usage.options(method, options)`. */
export const usage: Usage = Object.fromEntries(
  Object.entries(texts).map(([reason, text]) => [
    reason,
    (...values: never[]) => new UsageError((text as (...values: never[]) => string)(...values), reason as UsageReason),
  ]),
) as unknown as Usage
