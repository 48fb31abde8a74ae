import { AsyncResource } from 'node:async_hooks'
import { expect } from 'chai'
import { DataTypes, literal, Model, Op, Sequelize } from 'sequelize'
import type { ModelStatic, Transaction } from 'sequelize'
import * as library from 'sequelize-lossless'
import { UsageError } from 'sequelize-lossless'
import type { Lossless, RowWrite, UsageReason } from 'sequelize-lossless'
import * as auditing from 'sequelize-lossless/audit'
import { connect } from '../connect.js'
import { rejection } from '../rejection.js'

/** Functions of the library without their types, which refuse the wrong calls below. */
type Untyped<T> = { readonly [K in keyof T]: (...values: unknown[]) => Promise<unknown> }

const {
  append,
  assign,
  atomicUpdate,
  atomicUpsert,
  compareAndSetJson,
  equals,
  exists,
  flush,
  greaterThan,
  increment,
  lock,
  lossless,
  matching,
  merge,
  mergeJsonKey,
  not,
  plus,
  rename,
  replaceOrAppend,
  retryTransaction,
  set,
  size,
  updateJson,
  updateWhere,
  withLock,
  withLocks,
  withNext,
  withOptimisticLock,
} = library as unknown as Untyped<typeof library>
const { audit } = auditing as unknown as Untyped<typeof auditing>

describe('the text of a usage error', () => {
  type Row = Model & Lossless<Model>
  let sequelize: Sequelize
  let WorkflowRun: ModelStatic<Row>
  /** With `version: true`. */
  let Invoice: ModelStatic<Row>
  let User: ModelStatic<Row>
  let Place: ModelStatic<Row>
  /** With a key of text. */
  let Label: ModelStatic<Row>
  /** With names that are no identifiers. */
  let Order: ModelStatic<Row>
  /** Without a primary key. */
  let Entry: ModelStatic<Row>
  let run: Row

  before(async () => {
    sequelize = connect('sqlite::memory:', { logging: false })
    WorkflowRun = sequelize.define<Row>('WorkflowRun', {
      status: DataTypes.STRING,
      attempts: DataTypes.INTEGER,
      startedAt: DataTypes.DATE,
      notes: DataTypes.TEXT,
      progress: DataTypes.JSON,
      tries: {
        type: DataTypes.VIRTUAL,
        set(this: Model, value: number) {
          if (value > 0) this.setDataValue('attempts', value)
        },
      },
      step: {
        type: DataTypes.VIRTUAL,
        set(this: Model, value: unknown) {
          this.set('progress', { step: value })
        },
      },
    })
    Invoice = sequelize.define(
      'Invoice',
      { title: DataTypes.STRING, lines: DataTypes.JSON },
      { version: true },
    ) as never
    User = sequelize.define('User', {
      email: { type: DataTypes.STRING, unique: true },
      name: {
        type: DataTypes.STRING,
        unique: true,
        set(this: Model, value: string) {
          this.setDataValue('name', value.toLowerCase())
        },
      },
      settings: DataTypes.JSON,
    }) as never
    Place = sequelize.define('Place', {
      code: { type: DataTypes.INTEGER, unique: true },
      area: DataTypes.GEOMETRY,
      notes: DataTypes.JSON,
    }) as never
    Label = sequelize.define('Label', {
      name: { type: DataTypes.STRING, primaryKey: true },
      notes: DataTypes.JSON,
    }) as never
    Order = sequelize.define('Order', {
      'order-id': { type: DataTypes.STRING, primaryKey: true },
      'item-no': { type: DataTypes.INTEGER, unique: true },
      'last-value': DataTypes.JSON,
    }) as never
    Entry = sequelize.define('Entry', { lines: DataTypes.JSON }, { timestamps: false }) as never
    Entry.removeAttribute('id')
    await sequelize.sync()
  })
  beforeEach(async () => {
    await WorkflowRun.truncate()
    run = await WorkflowRun.create({ id: 7, status: 'new', progress: {} })
  })
  after(() => sequelize.close())

  /** Runs `fn` in a transaction of Sequelize. */
  const inTransaction = (fn: (transaction: Transaction) => Promise<unknown>, options: object = {}): Promise<unknown> =>
    sequelize.transaction(options, fn)

  /** For each reason, a wrong call and the whole text of its error. SQLite has no `searchPath`, `jsonType` and `textColumn`: see the tests of the guard and of columns of text. */
  const table: Readonly<
    Record<Exclude<UsageReason, 'searchPath' | 'jsonType' | 'textColumn'>, readonly [call: () => unknown, text: string]>
  > = {
    target: [
      () => mergeJsonKey(7, 'progress', 'step_a', 'done'),
      'mergeJsonKey: expected a row, [Model, primaryKey] or [Model, { where }], got 7 (number). Write mergeJsonKey(row, …) with an instance, mergeJsonKey([WorkflowRun, id], …), or mergeJsonKey([User, { where: { email } }], …).',
    ],
    targetWhere: [
      () => withLock([WorkflowRun, { where: {} }], () => 1),
      'withLock: the where of [WorkflowRun, { where }] is empty, so it names no row. Name at least one column: [WorkflowRun, { where: { id: … } }].',
    ],
    targetKeys: [
      () => withLock([WorkflowRun, { where: { id: 7 }, lock: true }], () => 1),
      'withLock: [WorkflowRun, { where }] has other keys beside where: lock. Leave them out, or pass them in the options of withLock().',
    ],
    next: [
      () => withNext(WorkflowRun, { status: 'queued' }, () => 1),
      "withNext: expected { where, order }, and nothing else, with order absent or an array of at least one attribute, got the keys status. Write withNext(WorkflowRun, { where: { status: 'queued' }, order: ['createdAt'] }, async (row) => { … }).",
    ],
    order: [
      () => withNext(WorkflowRun, { order: ['progress'] }, () => 1),
      `withNext: expected each order to be an ordinary column of WorkflowRun, or [column, 'ASC' or 'DESC'], got "progress" (string). Its ordinary columns: id, status, attempts, startedAt, notes, createdAt, updatedAt.`,
    ],
    targetSeveral: [
      async () => {
        await WorkflowRun.create({ status: 'new' })
        await mergeJsonKey([WorkflowRun, { where: { status: 'new' } }], 'progress', 'step_a', 'done')
      },
      'mergeJsonKey: 2 rows of WorkflowRun meet the where of the target (status), and it must be exactly one, so nothing was written. Name the columns of a unique key in where, or the primary key.',
    ],
    model: [
      () => lossless('WorkflowRun'),
      'lossless: expected an initialised Sequelize model, got "WorkflowRun" (string). Call lossless() after sequelize.define(…), Model.init(…) or new Sequelize({ models: […] }).',
    ],
    host: [
      () => {
        class Later extends Sequelize {
          static readonly version = '7.0.0'
        }
        return lossless(new Later({ dialect: 'sqlite' }))
      },
      'lossless: Sequelize 7.0.0 is not supported. Install version 6: npm install sequelize@^6.37.0',
    ],
    scopedModel: [
      () => lossless(WorkflowRun.unscoped(), { wholeColumnWrites: 'throw' }),
      'lossless: options of a scope of WorkflowRun, such as WorkflowRun.unscoped(), do not hold for the rows of WorkflowRun. Write lossless(WorkflowRun, { … }).',
    ],
    taken: [
      () => lossless(sequelize.define('Door', { withLock: DataTypes.BOOLEAN })),
      `lossless: Door already has an attribute named "withLock", which would be hidden. Keep it and call the function instead: import { withLock } from 'sequelize-lossless'; await withLock(row, …).`,
    ],
    noPrimaryKey: [
      () => withLock([Entry, 1], () => 1),
      'withLock: Entry has no primary key, so its rows cannot be identified. Mark the column that identifies a row: id: { type: DataTypes.INTEGER, primaryKey: true }.',
    ],
    primaryKeyNotLoaded: [
      async () => mergeJsonKey(await WorkflowRun.findOne({ attributes: ['progress'] }), 'progress', 'step_a', 'done'),
      `mergeJsonKey: this WorkflowRun was loaded without its primary key "id". Load it with attributes: ['id', …], or write mergeJsonKey([WorkflowRun, id], …).`,
    ],
    primaryKeyShape: [
      () => withLock([WorkflowRun, { uuid: 7 }], () => 1),
      'withLock: expected the primary key of WorkflowRun, got an object with the key uuid. Write withLock([WorkflowRun, id], …).',
    ],
    primaryKeyType: [
      () => withLock([WorkflowRun, '7a'], () => 1),
      'withLock: expected "id", the primary key of WorkflowRun, to be a number, got "7a" (string). Databases convert such values silently and can match other rows: convert the value first, for example Number(id).',
    ],
    keyFraction: [
      () => atomicUpsert([WorkflowRun, 7.5], { title: 'new' }),
      'atomicUpsert: expected "id", a key of WorkflowRun, to be an integer, got 7.5 (number). A database may round it to the key of another row. Pass the key of the row that you mean, such as 7.',
    ],
    keyDigits: [
      () => {
        const rounding = new Sequelize({ dialect: 'mysql', logging: false })
        const Price = rounding.define('Price', { amount: { type: DataTypes.DECIMAL(10, 2), primaryKey: true } })
        return atomicUpsert([Price, '1.505'], {})
      },
      'atomicUpsert: "amount", a key of Price, has the type DECIMAL, in which the database does not keep all digits of "1.505" (string). It may round the value to the key of another row. Pass the value that the row holds, or use a type that keeps it, in the table and in the model, such as DataTypes.DECIMAL(20, 6).',
    ],
    roundedKey: [
      async () => {
        await sequelize.query('INSERT INTO WorkflowRuns (id, createdAt, updatedAt) VALUES (9007199254740993, $1, $1)', {
          bind: ['2026-01-01 00:00:00.000 +00:00'],
        })
        await withLock([WorkflowRun, '9007199254740993'], () => 1)
      },
      `withLock: the driver has rounded "id", the primary key of WorkflowRun id="9007199254740993", to 9007199254740992 (number), so a save would write another row. Write without an instance, by the key as a string: await updateJson([WorkflowRun, '9007199254740993'], …). To load such rows, have mysql2 or mariadb read these keys as strings, with dialectOptions: { supportBigNumbers: true }; with sqlite3, which cannot, change the column to a text type.`,
    ],
    replacedKey: [
      async () => mergeJsonKey(await Label.create({ name: '\ufffd' }), 'notes', 'a', 1),
      `mergeJsonKey: the driver has read U+FFFD in "name", the primary key of Label name="\ufffd", as it does in place of bytes that are not UTF-8, so a write could change another row. Write without an instance, by the key: await updateJson([Label, '\ufffd'], …).`,
    ],
    newRecord: [
      () => mergeJsonKey(WorkflowRun.build(), 'progress', 'step_a', 'done'),
      'mergeJsonKey: this WorkflowRun was built and never saved, so it has no row in the database. Call await row.save() first, or, in a transaction, await row.save({ transaction }).',
    ],
    column: [
      () => mergeJsonKey(run, 'status', 'step_a', 'done'),
      `mergeJsonKey: expected a JSON attribute of WorkflowRun, got "status" (string). Its JSON attributes: 'progress'. If this text is JSON, declare it: lossless(WorkflowRun, { jsonColumns: ['status'] }).`,
    ],
    key: [
      () => mergeJsonKey(run, 'progress', 5, 'done'),
      'mergeJsonKey: expected a key to be a string, got 5 (number). Write String(key).',
    ],
    sameKey: [
      () => rename(['steps', 'a'], 'a'),
      `rename: the new key "a" is the old one. Write another name, as in rename(['steps', 'old'], 'new'), or leave the operation out.`,
    ],
    path: [
      () => set({ steps: 'a' }, 'done'),
      "set: expected a path to be a key, or an array of keys, of indexes and of matching({ … }), got an object with the key steps. Write set(['steps', 'a'], …), or set(['items', matching({ id }), 'a'], …); an object from another source, such as a request body, is not a step.",
    ],
    index: [
      () => set(['items', 1.5], 'done'),
      "set: expected the index of an array element to be a whole number, got 1.5 (number). Write set(['items', 0, …], …), or -1 for the last element; for an object key that is a number, String(key).",
    ],
    emptyPath: [
      () => set([], 'done'),
      'set: the path is empty, so it is the whole document, which set() does not change. Pass a key; for a document that is an object, write merge([], { … }) or assign([], { … }); for one that is an array, append([], item).',
    ],
    emptyConditionPath: [
      () => exists([]),
      'exists: the path is empty, so it is the whole document. Pass a key; or write a condition on the whole document: equals([], value), contains([], item) or size([], { atLeast: 1 }).',
    ],
    renamedElement: [
      () => rename(['items', 0], 'first'),
      `rename: the path ["items",0] ends at an array element, which has no name. End the path with the key: rename(['items', 0, 'old'], 'new').`,
    ],
    matching: [
      () => matching({}),
      'matching: expected an object with at least one key, which an element must have, got an empty object. Write matching({ id: 7 }).',
    ],
    identified: [
      () => replaceOrAppend('items', 'id', { name: 'a' }),
      `replaceOrAppend: expected the item to be an object with the key "id", got an object with the key name. Write replaceOrAppend('items', 'id', { id: 7, … }).`,
    ],
    amount: [
      () => increment('attempts', '1'),
      `increment: expected the operand to be a number or a bigint, got "1" (string). Write increment('attempts', 1).`,
    ],
    patch: [
      () => merge('settings', 'dark'),
      `merge: expected the patch to be an object, got "dark" (string). Write an object, such as { theme: 'dark' }; to replace a value, updateJson() with set(path, value).`,
    ],
    assigned: [
      () => assign('settings', {}),
      "assign: expected an object with at least one key, got an empty object. Write assign('settings', { theme: 'dark' }), or leave out the operation if there is nothing to set.",
    ],
    operations: [
      () => updateJson(run, 'progress', { kind: 'set' }),
      "updateJson: expected an array of operations, got an object with the key kind. Write updateJson(column, [set('step_a', 'done'), increment('attempts')]); an object from another source, such as a request body, is not an operation.",
    ],
    conditions: [
      () => mergeJsonKey(run, 'progress', 'step_a', 'done', { if: { state: 'new' } }),
      "mergeJsonKey: expected options.if to be an array of conditions, got an object with the key state. Write { if: [equals('state', 'new'), absent('owner')] }; an object from another source, such as a request body, is not a condition.",
    ],
    condition: [
      () => not({ state: 'new' }),
      "not: expected a condition, got an object with the key state. Write not(exists('owner')); an object from another source, such as a request body, is not a condition.",
    ],
    comparison: [
      () => greaterThan('expiresAt', new Date(0)),
      "greaterThan: expected the operand to be a number, a bigint or a string, got an instance of Date. Write greaterThan('attempts', 5); for a Date, which JSON stores as text, greaterThan('expiresAt', date.toISOString()); for a boolean, equals('isDone', true).",
    ],
    size: [
      () => size('guests', -1),
      "size: expected a whole number from 0, or an object of atLeast and atMost, of which atLeast is not the greater one, got -1 (number). Write size('guests', 3) or size('guests', { atMost: 99 }).",
    ],
    changes: [
      () => atomicUpdate(run, {}),
      "atomicUpdate: expected the changes to be an object of attributes of WorkflowRun, with at least one, got an empty object. Write { progress: [set('step_a', 'done')], status: 'running' }: operations for a JSON column, values for others.",
    ],
    attribute: [
      () => atomicUpdate(run, { state: 'done' }),
      'atomicUpdate: WorkflowRun has no attribute "state". Its attributes: id, status, attempts, startedAt, notes, progress, tries, step, createdAt, updatedAt.',
    ],
    keyChange: [
      () => atomicUpdate(run, { id: 8 }),
      'atomicUpdate: "id" is part of the primary key of WorkflowRun, which identifies the row of this call. Leave it out.',
    ],
    movedColumn: [
      () => atomicUpdate(run, { updatedAt: new Date() }),
      'atomicUpdate: "updatedAt" of WorkflowRun changes with every write. Leave it out of the changes; to require a value, pass it in the option where of atomicUpdate(): { where: { updatedAt: … } }.',
    ],
    columnValue: [
      () => atomicUpdate(run, { attempts: Sequelize.literal('attempts + 1') }),
      'atomicUpdate: expected a value that "attempts" of WorkflowRun can hold, got an instance of Literal. Write a value, null, or plus(1) for a number; SQL expressions are not bound: write them with WorkflowRun.update().',
    ],
    upsertTarget: [
      () => atomicUpsert(run, { status: 'new' }),
      'atomicUpsert: expected [Model, primaryKey] or [Model, { where }], got an instance of WorkflowRun. Write atomicUpsert([WorkflowRun, id], …); a row that you have as an instance is there: change it with row.atomicUpdate(…).',
    ],
    upsertKey: [
      () =>
        atomicUpsert([User, { where: { email: 'ada@example.org', name: 'ada' } }], {
          settings: [set('theme', 'dark')],
        }),
      'atomicUpsert: the where of [User, { where }] has to be exactly the values of a unique key, which no other row can have. The keys that User declares: id; email; name. Write { where: { name: … } }.',
    ],
    keySetter: [
      () => atomicUpsert([User, { where: { name: 'Ada' } }], { email: 'ada@example.org' }),
      'atomicUpsert: the setter of "name" of User changes the value of the key, so the new row would have another key. Pass the value that the setter stores.',
    ],
    create: [
      () => atomicUpsert([WorkflowRun, 8], { status: 'new' }, { create: 'new' }),
      `atomicUpsert: expected options.create to be an object of attributes of WorkflowRun, got "new" (string). Write { create: { title: 'new' } }, or leave it out.`,
    ],
    createdColumn: [
      () => atomicUpsert([WorkflowRun, 8], { status: 'new' }, { create: { id: 8 } }),
      'atomicUpsert: "id" of WorkflowRun has its value from the key or from this call. Leave it out of create.',
    ],
    createdValue: [
      () => atomicUpsert([WorkflowRun, 8], { status: 'new' }, { create: { attempts: plus(1) } }),
      'atomicUpsert: expected a value that "attempts" of WorkflowRun can hold in create, got an instance of Plus. Write a value or a whole document; operations and plus() belong to the changes, and SQL expressions are not bound.',
    ],
    createdExpression: [
      () => {
        const Job = sequelize.define(
          'Job',
          { runs: { type: DataTypes.INTEGER, defaultValue: literal('(1)') } },
          { tableName: 'expression_jobs' },
        )
        return Job.sync().then(() => atomicUpsert([Job, 8], { runs: plus(1) }))
      },
      'atomicUpsert: the default of "runs" of Job is an expression of SQL, from which a change of a new row cannot start: the database computes it. Pass the value that the row is created with: { create: { runs: … } }.',
    ],
    createdText: [
      () => {
        const Job = sequelize.define('Job', { stats: DataTypes.TEXT, state: DataTypes.STRING })
        void lossless(Job, { jsonColumns: ['stats'] })
        return atomicUpsert([Job, 8], { state: 'new' }, { create: { stats: 'none' } })
      },
      `atomicUpsert: expected "stats" of Job to be created with JSON, got the text "none" (string). Pass null or the text of a document: { create: { stats: '{}' } }; or let a setter of the model call JSON.stringify.`,
    ],
    createdDocument: [
      () => atomicUpsert([WorkflowRun, 8], { progress: [append('log', 1)] }, { create: { progress: { log: 'none' } } }),
      'atomicUpsert: the operations for "progress" do not fit the document of a new WorkflowRun, which has string at ["log"]. Pass another document in create: { create: { progress: { … } } }.',
    ],
    documentOperations: [
      () => atomicUpdate(run, { progress: { step_a: 'done' } }),
      `atomicUpdate: expected an array of operations for the JSON column "progress" of WorkflowRun, got an object with the key step_a. Write { progress: [set('step_a', 'done')] }; to replace the whole document, use withLock().`,
    ],
    setterOfDocument: [
      () => atomicUpdate(run, { step: 'a' }),
      `atomicUpdate: a setter of WorkflowRun assigns "progress" as a whole, which could overwrite a concurrent change. Pass operations for it: { progress: [set('step_a', 'done')] }.`,
    ],
    plus: [
      () => plus('many'),
      `plus: expected a number, a bigint or a decimal text that can be added exactly, got "many" (string). Write plus(1), plus(10n ** 18n) or plus('0.10').`,
    ],
    plusType: [
      () => atomicUpdate(run, { attempts: plus('0.5') }),
      'atomicUpdate: plus(0.5) does not fit "attempts" of WorkflowRun, which has the type INTEGER. Add integers to integer columns, and fractions to DECIMAL, FLOAT or DOUBLE columns.',
    ],
    documentConditions: [
      () => atomicUpdate(run, { status: 'done' }, { if: [equals('state', 'new')] }),
      "atomicUpdate: expected options.if to be an object of JSON columns and their conditions, got an array of 1. Write { if: { progress: [exists('step_b')] } }.",
    ],
    where: [
      () => atomicUpdate(run, { status: 'done' }, { where: 'running' }),
      `atomicUpdate: expected where to be an object of columns, got "running" (string). Write { where: { status: 'running' } }.`,
    ],
    whereOfAll: [
      () => updateWhere(WorkflowRun, {}, { status: 'done' }),
      'updateWhere: every row of WorkflowRun meets the where. Name a column in it: { id: … }; or pass the option { all: true } to change every row.',
    ],
    all: [
      () => updateWhere(WorkflowRun, {}, { status: 'done' }, { all: 'yes' }),
      'updateWhere: expected all to be true or false, got "yes" (string). Write { all: true } to change every row, or leave it out.',
    ],
    whereColumn: [
      () => atomicUpdate(run, { status: 'done' }, { where: { progress: {} } }),
      `atomicUpdate: "progress" is not an ordinary column of WorkflowRun. A where has conditions on ordinary columns. For a document, the option if of an atomic write has them: { if: { progress: [equals('state', 'new')] } }.`,
    ],
    whereOperator: [
      () => updateWhere(WorkflowRun, { status: { [Op.iLike]: 'n%' } }, { status: 'done' }),
      'updateWhere: where has the operator iLike, whose values this library does not bind. Use Op.eq, Op.ne, Op.gt, Op.gte, Op.lt, Op.lte, Op.in, Op.notIn, Op.is, Op.not, Op.between, Op.notBetween, Op.like, Op.notLike, Op.and, Op.or.',
    ],
    whereValue: [
      () => updateWhere(WorkflowRun, { attempts: 'many' }, { status: 'done' }),
      'updateWhere: where compares "attempts" with "many" (string), which does not fit its type. Databases convert such values silently: convert it first, for example with String(…) or Number(…).',
    ],
    whereList: [
      () => updateWhere(WorkflowRun, { status: ['new', null] }, { status: 'done' }),
      'updateWhere: where has null in the list of values for "status", and SQL finds no NULL by a list. Write the two conditions: { [Op.or]: [{ status: [ … ] }, { status: null }] }.',
    ],
    scope: [
      () => {
        const scoped = WorkflowRun.scope({ where: Sequelize.literal("status = 'new'") })
        return mergeJsonKey([scoped, { where: { id: 7 } }], 'progress', 'step_a', 'done')
      },
      'mergeJsonKey: the where of the scope of WorkflowRun has more than ordinary columns and values, such as literal(), which this library does not bind. Pass WorkflowRun.unscoped() in place of WorkflowRun, and write the conditions of the scope in the where.',
    ],
    overlap: [
      () => updateJson(run, 'progress', [set('a', {}), set(['a', 'b'], 1)]),
      'updateJson: the paths ["a"] and ["a","b"] overlap, or may be of the same array element, so their order would matter. Write them as one operation, or as two calls.',
    ],
    value: [
      () => set('step_a', { at: undefined, done: () => 1 }),
      'set: the value at "done" is a function, which JSON cannot represent. Use null, or omit the key.',
    ],
    circular: [
      () => {
        const parent: { child?: object } = {}
        parent.child = { parent }
        return set('tree', parent)
      },
      'set: the value has a circular reference, which JSON cannot represent. Store an identifier instead of the inner reference.',
    ],
    callback: [
      () => withLock(run),
      'withLock: expected a callback, got undefined. Write withLock(…, async (row, transaction) => { … }).',
    ],
    targets: [
      () => withLocks([], () => 1),
      'withLocks: expected an array of at least one row, [Model, primaryKey] or [Model, { where }], got an empty array. Write withLocks([from, to], async ([from, to], transaction) => { … }).',
    ],
    targetsApart: [
      () => {
        const Other = connect('sqlite::memory:', { logging: false }).define('Other', {})
        return withLocks([run, [Other, 1]], () => 1)
      },
      'withLocks: the rows belong to different Sequelize instances, and no transaction spans both. Lock the rows of one instance, and write the other rows through an outbox.',
    ],
    targetTwice: [
      () => withLocks([run, [WorkflowRun, 7]], () => 1),
      'withLocks: WorkflowRun id=7 occurs twice. Pass each row once.',
    ],
    timeout: [
      () => withLock(run, () => 1, { timeoutMs: 0.5 }),
      'withLock: expected timeoutMs to be a whole number of milliseconds from 1 to 2147483647, got 0.5 (number). Write { timeoutMs: 2000 }, or { nowait: true } to fail without waiting.',
    ],
    nowait: [
      () => withLock(run, () => 1, { nowait: true, timeoutMs: 5 }),
      'withLock: nowait: true does not wait, so it has no timeoutMs. Write { nowait: true } or { timeoutMs: 2000 }.',
    ],
    logging: [
      () => withLock(run, () => 1, { logging: 'x' }),
      'withLock: expected logging to be a function, true or false, got "x" (string). Write { logging: console.log }, or { logging: false } for none.',
    ],
    retry: [
      () => withLock(run, () => 1, { retry: 3 }),
      'withLock: expected the retry options to be an object, got 3 (number). Write { maxAttempts: 5 }; { maxAttempts: 1 } disables retries.',
    ],
    retryNumber: [
      () => withLock(run, () => 1, { retry: { maxAttempts: 0 } }),
      'withLock: expected maxAttempts to be an integer from 1, got 0 (number). Write { maxAttempts: 5, baseDelayMs: 10, maxDelayMs: 1000 }.',
    ],
    retrySignal: [
      () => withLock(run, () => 1, { retry: { signal: new AbortController() } }),
      'withLock: expected signal to be an AbortSignal, got an instance of AbortController. Write { signal: controller.signal } with const controller = new AbortController().',
    ],
    retryCallback: [
      () => withLock(run, () => 1, { retry: { onRetry: 'log' } }),
      'withLock: expected onRetry to be a function, got "log" (string). Write { onRetry: ({ error, attempt }) => { … } }.',
    ],
    retryJoined: [
      () => inTransaction((transaction) => withLock(run, () => 1, { transaction, retry: {} })),
      'withLock: a transaction that is already open cannot be run again from here. Retry where it is opened: retryTransaction(sequelize, async (transaction) => { … }).',
    ],
    noVersion: [
      () => withOptimisticLock(run, () => 1),
      "withOptimisticLock: WorkflowRun has no version column, so a concurrent change cannot be detected. Declare WorkflowRun with { version: true }, and migrate: await queryInterface.addColumn('<table>', 'version', { type: DataTypes.INTEGER, allowNull: false, defaultValue: 0 }).",
    ],
    writeInside: [
      async () => {
        const invoice = await Invoice.create({})
        await withOptimisticLock(invoice, (row: unknown) => (row as Row).save())
      },
      'withOptimisticLock: row.save() in the callback would bypass the version check after it. Assign the new values (row.title = …), which withOptimisticLock() saves, or use withLock().',
    ],
    writeBeside: [
      async () => {
        const invoice = await Invoice.create({ id: 9 })
        const save = AsyncResource.bind(() => invoice.save())
        await withOptimisticLock(invoice, save)
      },
      'save: withOptimisticLock() of this instance of Invoice id=9 is running, and its version check would not cover this write. Await withOptimisticLock() first, or use another instance: await Invoice.findOne({ where: { id: 9 } }).',
    ],
    sequelize: [
      () => flush(WorkflowRun),
      'flush: expected a Sequelize instance, got the function WorkflowRun. Write await flush(sequelize).',
    ],
    option: [
      () => mergeJsonKey(run, 'progress', 'step_a', 'done', { transation: null }),
      'mergeJsonKey: there is no option "transation". Use: transaction, returning, if, retry, coalesce, logging.',
    ],
    options: [
      () => inTransaction((transaction) => withLock(run, () => 1, [transaction])),
      'withLock: expected the options to be an object, got an array of 1. Pass a transaction in an object: { transaction }.',
    ],
    transaction: [
      () => mergeJsonKey(run, 'progress', 'step_a', 'done', { transaction: 'T1' }),
      `mergeJsonKey: expected options.transaction to be a transaction of this row's Sequelize instance, got "T1" (string). Pass a transaction from sequelize.transaction(), null for none, or omit the option.`,
    ],
    transactionMissing: [
      () => lock(run, {}),
      'lock: a lock lasts until its transaction ends, and no transaction was passed. Write await sequelize.transaction(async (transaction) => { await lock(row, { transaction }); … }), or use withLock().',
    ],
    transactionFinished: [
      async () => {
        const transaction = await sequelize.transaction()
        await transaction.commit()
        await withLock(run, () => 1, { transaction })
      },
      'withLock: the transaction has ended (commit). Write before the callback of sequelize.transaction() returns, or pass another transaction.',
    ],
    transactionReadOnly: [
      () => inTransaction((transaction) => withLock(run, () => 1, { transaction }), { readOnly: true }),
      'withLock: the transaction is read-only, so it can neither lock nor write. Open it without readOnly: true.',
    ],
    isolationLevelJoined: [
      () => inTransaction((transaction) => withLock(run, () => 1, { transaction, isolationLevel: 'READ COMMITTED' })),
      'withLock: isolationLevel cannot be set on a transaction that is already open. Set it where the transaction is opened: sequelize.transaction({ isolationLevel }, …).',
    ],
    isolationLevel: [
      () => withLock(run, () => 1, { isolationLevel: 'SNAPSHOT' }),
      'withLock: SQL has no isolation level "SNAPSHOT" (string). Write one of Transaction.ISOLATION_LEVELS of Sequelize, or omit it.',
    ],
    wholeColumnWrites: [
      () => lossless(WorkflowRun, { wholeColumnWrites: 'forbid' }),
      `lossless: expected wholeColumnWrites to be 'allow', 'warn', 'throw' or 'patch', or one for each of save, bulk and upsert, of which only save can be 'patch', got "forbid" (string). Write lossless(WorkflowRun, { wholeColumnWrites: 'warn' }).`,
    ],
    upsertedKey: [
      () => atomicUpsert([User, { where: { email: 'a' } }], { email: 'b', settings: [set('a', 1)] }),
      'atomicUpsert: "email" of User is in the key of the call, which a new row has. Leave it out of the changes; to change it in a row that is there, write atomicUpdate().',
    ],
    setterOfColumn: [
      () => atomicUpdate([WorkflowRun, 7], { attempts: plus(1), tries: 2 }),
      'atomicUpdate: a setter of WorkflowRun assigns "attempts", which this call changes itself or which identifies the row. Leave out the attribute of that setter, or write it in a call of its own.',
    ],
    setterOfNothing: [
      () => atomicUpdate([WorkflowRun, 7], { tries: 0 }),
      'atomicUpdate: the setter of "tries" of WorkflowRun assigns no column, so there is nothing to write. Pass a value that it stores, or leave the attribute out.',
    ],
    whereType: [
      () => atomicUpdate([Place, 7], { notes: [set('a', 1)] }, { where: { area: ['a'] } }),
      'atomicUpdate: where names "area", whose type GEOMETRY it does not compare. Find the rows with Model.findAll(), and name their primary keys in the where.',
    ],
    lockEachOther: [
      () =>
        sequelize.transaction((transaction: Transaction) => {
          let begin!: () => void
          const begun = new Promise<void>((resolve) => (begin = resolve))
          let count = 0
          const crossed = (first: number, second: number): Promise<unknown> =>
            withLock(
              [WorkflowRun, first],
              async () => {
                if (++count === 2) begin()
                await begun
                await withLock([WorkflowRun, second], () => 1, { transaction })
              },
              { transaction },
            )
          return WorkflowRun.create({ id: 8, progress: {} }, { transaction }).then(() =>
            Promise.all([crossed(7, 8), crossed(8, 7)]),
          )
        }),
      'withLock: this call waits for the callback of another call in the same transaction, which waits for the callback around this one. Lock all rows in one call: await withLocks([…], async (rows) => { … }).',
    ],
    returning: [
      () => mergeJsonKey([WorkflowRun, 7], 'progress', 'a', 1, { returning: 'all' }),
      'mergeJsonKey: expected returning to be true or false, got "all" (string). Write { returning: true }, or omit it.',
    ],
    intent: [
      async () => {
        void lossless(WorkflowRun, { wholeColumnWrites: 'throw' })
        await run.update({ progress: { a: 1 } }, { wholeColumnWrites: 'patch' as never }).finally(() => {
          void lossless(WorkflowRun, { wholeColumnWrites: 'allow' })
        })
      },
      "save: expected the option wholeColumnWrites of a call to be 'allow', got \"patch\" (string). Write { wholeColumnWrites: 'allow' } for a call that overwrites on purpose, or omit it: the other modes are options of lossless().",
    ],
    coalesce: [
      () => lossless(WorkflowRun, { coalesce: 1 }),
      'lossless: expected coalesce to be true or false, got 1 (number). Write { coalesce: true }, or omit it.',
    ],
    onWrite: [
      () => lossless(WorkflowRun, { onWrite: 'log' }),
      'lossless: expected onWrite to be a function or null, got "log" (string). Write { onWrite: async ({ model, primaryKey, changes, transaction }) => { … } }.',
    ],
    onReport: [
      () => lossless(WorkflowRun, { onReport: 'log' }),
      'lossless: expected onReport to be a function or null, got "log" (string). Write { onReport: ({ code, message, file, line }) => { … } }.',
    ],
    jsonColumns: [
      () => lossless(WorkflowRun, { jsonColumns: 'notes' }),
      `lossless: expected jsonColumns to be an array of the names of attributes, got "notes" (string). Write lossless(Job, { jsonColumns: ['stats'] }).`,
    ],
    jsonColumnsOfAll: [
      () => lossless(sequelize, { jsonColumns: ['notes'] }),
      "lossless: jsonColumns are attributes of one model. Write lossless(Job, { jsonColumns: ['stats'] }).",
    ],
    jsonColumn: [
      () => lossless(WorkflowRun, { jsonColumns: ['attempts'] }),
      'lossless: expected jsonColumns to name attributes of WorkflowRun that hold JSON as text, got "attempts" (string), which has the type INTEGER. Migrate the column (PostgreSQL: ALTER TABLE … ALTER COLUMN attempts TYPE jsonb USING …; MySQL and MariaDB: ALTER TABLE … MODIFY attempts JSON), and declare DataTypes.JSON.',
    ],
    jsonKey: [
      () =>
        lossless(sequelize.define('Page', { path: { type: DataTypes.TEXT, primaryKey: true } }), {
          jsonColumns: ['path'],
        }),
      'lossless: "path" is the primary key of Page, which no write changes. Leave it out of jsonColumns.',
    ],
    audited: [
      () => audit(sequelize, 'all'),
      'audit: expected a function to run, got "all" (string). Write await audit(sequelize, async () => { … }); or, where the code is not one function, const running = audit(sequelize), and running.stop().',
    ],
    auditIgnore: [
      () => audit(sequelize, { ignore: '*.test.ts' }),
      'audit: expected ignore to be a regular expression for file names, got "*.test.ts" (string). Write { ignore: /\\.test\\.[jt]s$/ }.',
    ],
    auditColumns: [
      () => audit(sequelize, { columns: { WorkflowRun: 'attempts' } }),
      `audit: expected columns to be attributes by the name of their model, got "attempts" (string) for "WorkflowRun" (string). Write { columns: { WorkflowRun: ['attempts'] } }.`,
    ],
    audits: [
      () => audit(sequelize, () => audit(sequelize, () => 1)),
      'audit: another audit runs on this Sequelize instance. End it first, or give each its own instance.',
    ],
    conflicts: [
      () => lossless(WorkflowRun, { wholeColumnWrites: 'warn', conflicts: 'throw' }),
      "lossless: conflicts: 'throw' decides about saves under wholeColumnWrites: 'patch' only. Write lossless(WorkflowRun, { wholeColumnWrites: 'patch', conflicts: 'throw' }).",
    ],
    lockedElsewhere: [
      () => Promise.all([withLock(run, () => 1), withLock(run, () => 1)]),
      'withLock: this instance of WorkflowRun id=7 is already in use by another call, and two concurrent calls cannot share one instance. Use one instance for each call: withLock([WorkflowRun, primaryKey], fn), also for an instance that a cache shares; or load the row in each job.',
    ],
    lockedAround: [
      () => withLock(run, () => withLock(run, () => 1, { transaction: null })),
      "withLock: WorkflowRun id=7 is locked by the transaction of the enclosing callback, and { transaction: null } takes this call out of it: it would not see what the callback has written, or would wait for its lock. Leave the option out: the row's own methods join the transaction of its callback.",
    ],
    notBegun: [
      () =>
        withLock(run, function* () {
          yield 1
        }),
      'withLock: the callback returned an instance of Generator, which has not started to run, so none of its statements were in the transaction. The transaction was rolled back. Return a promise of its result: lastValueFrom(observable) for an Observable; iterate a generator to its end in the callback.',
    ],
    flushInside: [
      () => withLock(run, () => flush(sequelize)),
      'flush: in the callback of withLock(), it would wait for calls that may wait for that callback. Call it after withLock(): await withLock(…); await flush(sequelize).',
    ],
    commitInside: [
      async () => {
        void lossless(WorkflowRun, { onWrite: ({ transaction }: RowWrite) => transaction.commit() })
        await mergeJsonKey([WorkflowRun, 7], 'progress', 'a', 1).finally(() => {
          void lossless(WorkflowRun, { onWrite: null })
        })
      },
      'onWrite: commit() in the callback would end the transaction of a write that is not complete. Let the callback return: the write commits after it.',
    ],
    committedByCallback: [
      () => withLock(run, (_row: unknown, transaction: unknown) => (transaction as Transaction).commit()),
      'withLock: the callback called transaction.commit(), so all its writes are committed. Remove the call: withLock() commits when the callback returns, and rolls back when it throws.',
    ],
    savepointsMixed: [
      () =>
        withLock(run, async (_row: unknown, opened: unknown) => {
          const transaction = opened as Transaction
          let give!: () => void
          const given = new Promise<void>((resolve) => (give = resolve))
          const savepoint = sequelize.transaction({ transaction }, async (inner) => {
            await User.create({ email: 'a' }, { transaction: inner })
            await given
            throw new Error('of the savepoint')
          })
          const beside = User.create({ email: 'b' }, { transaction }).then(give)
          await Promise.allSettled([savepoint, beside])
        }),
      'withLock: a savepoint failed while a concurrent branch of the callback wrote in the same transaction. Its rollback would have undone the writes of that branch, so the whole transaction was rolled back and nothing was written. Await each savepoint before the next statement: await sequelize.transaction({ transaction }, …), one after the other. So each updateWhere(), and each write of a model with onWrite.',
    ],
    transactionControl: [
      () =>
        retryTransaction(sequelize, (transaction: unknown) =>
          sequelize.query('COMMIT', { transaction: transaction as Transaction }),
        ),
      '"COMMIT" would end its transaction, so it was not sent. Let the callback return to commit, or throw to roll back; for a savepoint write sequelize.transaction({ transaction }, …); send DDL such as TRUNCATE before or after the transaction, and write Model.destroy({ where: {}, transaction }) for truncate: true.',
    ],
  }

  for (const [reason, [call, text]] of Object.entries(table)) {
    it(`of the reason ${reason} says what happened, and what to write`, async () => {
      const error = await rejection(
        (async () => {
          await call()
        })(),
        UsageError,
      )
      expect(error.reason).to.equal(reason)
      expect(error.message).to.equal(text)
    })
  }

  /** Other texts of a reason. */
  const others: readonly (readonly [call: () => unknown, text: string])[] = [
    [
      async () => {
        await sequelize.query(
          'INSERT OR IGNORE INTO WorkflowRuns (id, createdAt, updatedAt) VALUES (9007199254740993, $1, $1)',
          {
            bind: ['2026-01-01 00:00:00.000 +00:00'],
          },
        )
        const row = await WorkflowRun.findOne({ where: { status: null } })
        await mergeJsonKey(row, 'progress', 'step_a', 'done')
      },
      `mergeJsonKey: expected "id", the primary key of WorkflowRun, to be a number, got 9007199254740992 (number). An integer past 2^53 was rounded, by JavaScript or by the driver, and may be the key of another row: pass the exact key as a string or a bigint, mergeJsonKey([WorkflowRun, '9007199254740993'], …). To load such rows, have mysql2 or mariadb read these keys as strings, with dialectOptions: { supportBigNumbers: true }; with sqlite3, which cannot, change the column to a text type.`,
    ],
    [
      () => mergeJsonKey([WorkflowRun, { where: { id: 2 ** 53 } }], 'progress', 'step_a', 'done'),
      `mergeJsonKey: where compares "id" with 9007199254740992 (number), which JavaScript or a driver has rounded: it may be the value of another row. Pass the exact number as a string or a bigint: { id: '9007199254740993' }.`,
    ],
    [
      () => atomicUpsert([Place, { where: { code: 7.5 } }], { notes: [set('a', 1)] }),
      'atomicUpsert: expected "code", a key of Place, to be an integer, got 7.5 (number). A database may round it to the key of another row. Pass the key of the row that you mean, such as 7.',
    ],
    [
      () => compareAndSetJson(run, 'progress', 'a', 1, 2, { if: exists('a') }),
      `compareAndSetJson: expected options.if to be an array of conditions, got one condition. Write { if: [equals('state', 'new'), absent('owner')] }; an object from another source, such as a request body, is not a condition.`,
    ],
    [
      () => compareAndSetJson(run, 'progress', 'a', 1, 2, null),
      'compareAndSetJson: expected the options to be an object, got null. Pass a transaction in an object: { transaction }.',
    ],
    [
      () => mergeJsonKey(run, 'progress', 'a', 1, { transaction: WorkflowRun }),
      `mergeJsonKey: expected options.transaction to be a transaction of this row's Sequelize instance, got the function WorkflowRun. Pass a transaction from sequelize.transaction(), null for none, or omit the option.`,
    ],
    [
      () => updateWhere(WorkflowRun, { status: Sequelize.literal("'new'") }, { status: 'done' }),
      'updateWhere: where compares "status" with an instance of Literal, which this library does not bind. Write { column: value }; for an expression in SQL, find the rows with Model.findAll(), and name their primary keys in the where.',
    ],
    [
      () => updateWhere(WorkflowRun, Sequelize.literal("status = 'new'"), { status: 'done' }),
      'updateWhere: expected where to be an object of columns, got an instance of Literal. Write { column: value }; for an expression in SQL, find the rows with Model.findAll(), and name their primary keys in the where.',
    ],
    ...[Promise.resolve({}), new Map(), new Date()].map((options): readonly [() => unknown, string] => [
      () => lossless(WorkflowRun, options),
      `lossless: expected the options to be an object, got an instance of ${options.constructor.name}. Pass them in an object: { wholeColumnWrites: … }.`,
    ]),
    [
      () => atomicUpdate([WorkflowRun, 7], { status: 'new' }, { if: new Map([['progress', [exists('a')]]]) }),
      "atomicUpdate: expected options.if to be an object of JSON columns and their conditions, got an instance of Map. Write { if: { progress: [exists('step_b')] } }.",
    ],
    [
      () => atomicUpsert([WorkflowRun, 7], { status: 'new' }, { create: new Map() }),
      "atomicUpsert: expected options.create to be an object of attributes of WorkflowRun, got an instance of Map. Write { create: { title: 'new' } }, or leave it out.",
    ],
    [
      () => withLock([WorkflowRun, 7], () => 1, { retry: new Map() }),
      'withLock: expected the retry options to be an object, got an instance of Map. Write { maxAttempts: 5 }; { maxAttempts: 1 } disables retries.',
    ],
    [
      () => lossless(WorkflowRun, { wholeColumnWrites: { save: 'forbid' } }),
      `lossless: expected wholeColumnWrites to be 'allow', 'warn', 'throw' or 'patch', or one for each of save, bulk and upsert, of which only save can be 'patch', got { save: 'forbid' }. Write lossless(WorkflowRun, { wholeColumnWrites: 'warn' }).`,
    ],
    [
      () => updateJson([Order, { where: {} }], 'last-value', [set('a', 1)]),
      'updateJson: the where of [Order, { where }] is empty, so it names no row. Name at least one column: [Order, { where: { "order-id": … } }].',
    ],
    [
      () => withLock([Order, { id: 7 }], () => 1),
      'withLock: expected the primary key of Order, got an object with the key id. Write withLock([Order, …], …).',
    ],
    [
      () => atomicUpsert([Order, { where: { createdAt: new Date() } }], { 'last-value': [set('a', 1)] }),
      'atomicUpsert: the where of [Order, { where }] has to be exactly the values of a unique key, which no other row can have. The keys that Order declares: order-id; item-no. Write { where: { "item-no": … } }.',
    ],
    [
      () => atomicUpdate([Order, 'a'], { 'last-value': 1 }),
      `atomicUpdate: expected an array of operations for the JSON column "last-value" of Order, got 1 (number). Write { "last-value": [set('step_a', 'done')] }; to replace the whole document, use withLock().`,
    ],
  ]
  for (const [call, text] of others) {
    it(`says ${text.slice(0, 100)}`, async () => {
      const error = await rejection(
        (async () => {
          await call()
        })(),
        UsageError,
      )
      expect(error.message).to.equal(text)
    })
  }
})
