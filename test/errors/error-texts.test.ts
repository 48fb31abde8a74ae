import { expect } from 'chai'
import { DataTypes, Sequelize } from 'sequelize'
import type { Model, ModelStatic, Transaction } from 'sequelize'
import * as library from 'sequelize-lossless'
import { isLosslessError, transactionNamespace } from 'sequelize-lossless'
import type { Lossless, LosslessErrorCode } from 'sequelize-lossless'
import { connect } from '../connect.js'
import { fillDisk } from '../escapes/full-disk.js'
import { outcomeOf } from '../rejection.js'

/** Functions of the library without their types, which refuse some of the calls below. */
type Untyped<T> = { readonly [K in keyof T]: (...values: unknown[]) => Promise<unknown> }

const {
  append,
  atomicUpdate,
  atomicUpsert,
  equals,
  exists,
  increment,
  lock,
  lossless,
  matching,
  mergeJsonKey,
  not,
  plus,
  rename,
  retryTransaction,
  set,
  updateJson,
  updateWhere,
  withLock,
  withOptimisticLock,
} = library as unknown as Untyped<typeof library>

/** The codes of errors that need another session or a server: see `server-texts.test.ts`. */
type OfServers = 'CONFLICT' | 'LOCK_TIMEOUT' | 'UNKNOWN_OUTCOME' | 'UNSUPPORTED_DATABASE'

describe('the text of an error', () => {
  type Row = Model & Lossless<Model> & { id: number; progress: unknown; title: string }
  let sequelize: Sequelize
  let WorkflowRun: ModelStatic<Row>
  /** With `paranoid: true` and `version: true`. */
  let Invoice: ModelStatic<Row>
  /** With JSON in a column of text. */
  let Job: ModelStatic<Row>
  /** With a composite key. */
  let Reading: ModelStatic<Model>
  const readingKey = { meter: '07fe', at: new Date('2026-01-02') }
  /** Guarded by `wholeColumnWrites: 'patch'`, and by `'throw'`. */
  let Patched: ModelStatic<Row>
  let Guarded: ModelStatic<Row>

  before(async () => {
    sequelize = connect('sqlite::memory:', { logging: false })
    const columns = { status: DataTypes.STRING, total: DataTypes.BIGINT, progress: DataTypes.JSON }
    WorkflowRun = sequelize.define<Row>('WorkflowRun', columns)
    Invoice = sequelize.define<Row>('Invoice', columns, { paranoid: true, version: true })
    Job = sequelize.define<Row>('Job', { stats: DataTypes.TEXT })
    Patched = sequelize.define<Row>('Patched', columns, { tableName: 'WorkflowRuns' })
    Guarded = sequelize.define<Row>('Guarded', columns, { tableName: 'WorkflowRuns' })
    Reading = sequelize.define('Reading', {
      meter: { type: DataTypes.STRING, primaryKey: true },
      at: { type: DataTypes.DATE, primaryKey: true },
      'last-value': DataTypes.JSON,
    })
    void lossless(WorkflowRun)
    void lossless(Invoice)
    void lossless(Job, { jsonColumns: ['stats'] })
    void lossless(Patched, { wholeColumnWrites: 'patch', conflicts: 'throw' })
    void lossless(Guarded, { wholeColumnWrites: 'throw' })
    await Promise.all([WorkflowRun.sync(), Invoice.sync(), Job.sync(), Reading.sync()])
    await Reading.create({ ...readingKey, 'last-value': { unit: 'kWh' } })
  })
  beforeEach(async () => {
    await WorkflowRun.truncate()
    await Invoice.destroy({ where: {}, force: true })
    await WorkflowRun.create({ id: 7, status: 'new', progress: { items: [1], name: 'a', on: true } })
    await Invoice.create({ id: 7, status: 'new', progress: {} })
  })
  after(() => sequelize.close())

  /** Runs a call in a transaction of Sequelize. */
  const joined = (call: (options: { transaction: Transaction }) => unknown): Promise<unknown> =>
    sequelize.transaction((transaction) => call({ transaction }) as Promise<unknown>)

  const stored = async <R>(model: ModelStatic<Model>): Promise<R> =>
    (await model.findByPk(7, { rejectOnEmpty: true })) as R

  /** For each class, calls that reject with it, and the whole text of each error. */
  const table: Readonly<
    Record<Exclude<LosslessErrorCode, 'USAGE' | OfServers>, readonly (readonly [call: () => unknown, text: string])[]>
  > = {
    ROW_NOT_FOUND: [
      [
        () => joined((options) => mergeJsonKey([Invoice, 8], 'progress', 'step_a', 'done', options)),
        "mergeJsonKey: Invoice id=8 does not exist, so nothing was written. It was deleted or never saved: create it with Invoice.create({ … }, { transaction }), or, if the paranoid model has deleted it, load it with Invoice.findOne({ where: { id: 8 }, paranoid: false, transaction }) and pass the instance, or handle the error code 'ROW_NOT_FOUND' in a catch.",
      ],
      [
        async () => {
          Sequelize.useCLS(transactionNamespace)
          try {
            await joined(() => mergeJsonKey([WorkflowRun, 8], 'progress', 'step_a', 'done'))
          } finally {
            delete (Sequelize as unknown as { _cls?: unknown })._cls
          }
        },
        "mergeJsonKey: WorkflowRun id=8 does not exist, so nothing was written. It was deleted or never saved: create it with WorkflowRun.create({ … }), or handle the error code 'ROW_NOT_FOUND' in a catch.",
      ],
      [
        () => joined((options) => lock([WorkflowRun, 8], options)),
        "lock: WorkflowRun id=8 does not exist, so nothing was written. It was deleted or never saved: create it with WorkflowRun.create({ … }, { transaction }), or handle the error code 'ROW_NOT_FOUND' in a catch.",
      ],
      [
        () =>
          withLock([WorkflowRun, 7], async (row: unknown, transaction: unknown) => {
            await WorkflowRun.destroy({ where: { id: 7 }, transaction: transaction as Transaction })
            await (row as Row).update({ status: 'done' })
          }),
        "save: WorkflowRun id=7 does not exist, so nothing was written. It was deleted or never saved: create it with WorkflowRun.create({ … }, { transaction }), or handle the error code 'ROW_NOT_FOUND' in a catch.",
      ],
      [
        () => mergeJsonKey([WorkflowRun, 8], 'progress', 'step_a', 'done'),
        "mergeJsonKey: WorkflowRun id=8 does not exist, so nothing was written. It was deleted or never saved: create it with WorkflowRun.create({ … }), or handle the error code 'ROW_NOT_FOUND' in a catch.",
      ],
      [
        () => mergeJsonKey([WorkflowRun, { where: { status: 'old' } }], 'progress', 'step_a', 'done'),
        `mergeJsonKey: no WorkflowRun meets the where of the target ("status"), so nothing was written. Check the values of the where, or handle the error code 'ROW_NOT_FOUND' in a catch.`,
      ],
      [
        () => mergeJsonKey([WorkflowRun, { where: { status: [] } }], 'progress', 'step_a', 'done'),
        `mergeJsonKey: no WorkflowRun can meet the where of the target ("status"), in which a list of values is empty, so nothing was written. Pass at least one value, or handle the error code 'ROW_NOT_FOUND' in a catch.`,
      ],
      [
        () => joined((options) => withOptimisticLock([Invoice, 8], () => 1, options)),
        "withOptimisticLock: Invoice id=8 does not exist, so nothing was written. It was deleted or never saved: create it with Invoice.create({ … }, { transaction }), or, if the paranoid model has deleted it, load it with Invoice.findOne({ where: { id: 8 }, paranoid: false, transaction }) and pass the instance, or handle the error code 'ROW_NOT_FOUND' in a catch.",
      ],
      [
        () => withLock([Invoice, 8], () => 1),
        "withLock: Invoice id=8 does not exist, so nothing was written. It was deleted or never saved: create it with Invoice.create({ … }), or, if the paranoid model has deleted it, load it with Invoice.findOne({ where: { id: 8 }, paranoid: false }) and pass the instance, or handle the error code 'ROW_NOT_FOUND' in a catch.",
      ],
    ],
    JSON_SHAPE: [
      [
        () => joined((options) => updateJson([WorkflowRun, 7], 'progress', [increment('name', 1)], options)),
        'updateJson: "progress" at ["name"] of WorkflowRun id=7 holds a string, not a number, so nothing was written. Look at the value first; if it is a number, convert it: await compareAndSetJson([WorkflowRun, 7], "progress", ["name"], value, Number(value), { transaction }).',
      ],
      [
        () => withLock([WorkflowRun, 7], (row: unknown) => updateJson(row, 'progress', [increment('on', 1)])),
        'updateJson: "progress" at ["on"] of WorkflowRun id=7 holds a boolean, not a number, so nothing was written. Look at the value first. To keep it, move it to another key: await updateJson(row, "progress", [rename(["on"], "on_old")], { transaction }).',
      ],
      [
        async () => (await stored<Row>(WorkflowRun)).updateJson('progress', [increment('name', 1)] as never),
        'updateJson: "progress" at ["name"] of WorkflowRun id=7 holds a string, not a number, so nothing was written. Look at the value first; if it is a number, convert it: await compareAndSetJson(row, "progress", ["name"], value, Number(value)).',
      ],
      [
        () => updateJson([Reading, readingKey], 'last-value', [increment('unit')]),
        `updateJson: "last-value" at ["unit"] of Reading meter="07fe" at=2026-01-02T00:00:00.000Z holds a string, not a number, so nothing was written. Look at the value first; if it is a number, convert it: await compareAndSetJson([Reading, { meter: '07fe', at: new Date('2026-01-02T00:00:00.000Z') }], "last-value", ["unit"], value, Number(value)).`,
      ],
      [
        () =>
          mergeJsonKey([WorkflowRun, 7], 'progress', 'a', 1).then(() =>
            updateJson([WorkflowRun, 7], 'progress', [set(['items', 'a'], 1)]),
          ),
        'updateJson: "progress" at ["items"] of WorkflowRun id=7 holds an array, not an object, so nothing was written. If the array is right, write to it: await updateJson([WorkflowRun, 7], "progress", [append(["items"], item)]), or to one of its elements, by its index or by matching({ id }): await updateJson([WorkflowRun, 7], "progress", [set(["items",0,"key"], value)]).',
      ],
      [
        () => updateJson([WorkflowRun, 7], 'progress', [set(['name', 'a'], 1)]),
        'updateJson: "progress" at ["name"] of WorkflowRun id=7 holds a string, not an object, so nothing was written. The operations need an object. Look at the value first. To keep it, store it under a key: await compareAndSetJson([WorkflowRun, 7], "progress", ["name"], value, { value }).',
      ],
      [
        () => updateJson([WorkflowRun, 7], 'progress', [append([], 1)]),
        'updateJson: "progress" of WorkflowRun id=7 holds an object, not an array, so nothing was written. If the object is right, name the key of an array in it, such as ["items"].',
      ],
      [
        () =>
          WorkflowRun.update({ progress: [1] }, { where: { id: 7 } }).then(() =>
            updateJson([WorkflowRun, 7], 'progress', [append([], 1)], { if: [not(equals('done', true))] }),
          ),
        'updateJson: "progress" of WorkflowRun id=7 holds an array, and not(equals(["done"], true)) needs an object, so nothing was written. Name an element of the array in its path, as in equals([0,"done"], …).',
      ],
      [
        () => updateJson([WorkflowRun, 7], 'progress', [set('a', 1)], { if: [exists([0, 'a'])] }),
        'updateJson: "progress" of WorkflowRun id=7 holds an object, and exists([0,"a"]) needs an array, so nothing was written. Name a key of the object in its path, as in exists(["items",0,"a"]).',
      ],
      [
        () =>
          WorkflowRun.update({ progress: 5 }, { where: { id: 7 } }).then(() =>
            atomicUpdate([WorkflowRun, 7], { status: 'x' }, { if: { progress: [exists('a')] } }),
          ),
        'atomicUpdate: "progress" of WorkflowRun id=7 holds a number, and exists(["a"]) needs an object, so nothing was written. Leave the condition out, or look at the value first.',
      ],
      [
        () => updateJson([WorkflowRun, 7], 'progress', [append('name', 1)]),
        'updateJson: "progress" at ["name"] of WorkflowRun id=7 holds a string, not an array, so nothing was written. Look at the value first. To keep it as the first item, put it into an array: await compareAndSetJson([WorkflowRun, 7], "progress", ["name"], value, [value]).',
      ],
      [
        () => updateJson([WorkflowRun, 7], 'progress', [increment('name', 1)]),
        'updateJson: "progress" at ["name"] of WorkflowRun id=7 holds a string, not a number, so nothing was written. Look at the value first; if it is a number, convert it: await compareAndSetJson([WorkflowRun, 7], "progress", ["name"], value, Number(value)).',
      ],
      [
        () => updateJson([WorkflowRun, 7], 'progress', [increment('on', 1)]),
        'updateJson: "progress" at ["on"] of WorkflowRun id=7 holds a boolean, not a number, so nothing was written. Look at the value first. To keep it, move it to another key: await updateJson([WorkflowRun, 7], "progress", [rename(["on"], "on_old")]).',
      ],
      [
        async () => {
          await sequelize.query(`INSERT OR REPLACE INTO Jobs VALUES (7, 'none', '2026-01-01', '2026-01-01')`)
          await mergeJsonKey([Job, 7], 'stats', 'a', 1)
        },
        'mergeJsonKey: "stats" of Job id=7 holds text that is not JSON, not an object, so nothing was written. Sequelize cannot parse the stored text: read it with a SELECT in SQL, and convert it to JSON with an UPDATE in SQL.',
      ],
    ],
    ELEMENT_NOT_FOUND: [
      [
        () => updateJson([WorkflowRun, 7], 'progress', [set(['items', 3, 'a'], 1)]),
        `updateJson: "progress" at ["items",3] of WorkflowRun id=7 has no element, so nothing was written. To add it, write append(["items"], item), or replaceOrAppend(["items"], "id", item) to replace one that is there; or handle the error code 'ELEMENT_NOT_FOUND' in a catch.`,
      ],
    ],
    UNSUPPORTED_VALUE: [
      [() => set('step_a', NaN), 'set: the value is NaN, so nothing was written. Store null, or a string.'],
      [
        () => mergeJsonKey([WorkflowRun, 7], 'progress', 'step_a', '\ud800'),
        'mergeJsonKey: the string "\\ud800" cannot be stored by SQLite: it has a lone surrogate, so nothing was written. Replace that by U+FFFD with text.toWellFormed(), or encode the text with JSON.stringify(text).',
      ],
      [
        () => mergeJsonKey([WorkflowRun, 7], 'progress', 'a\0', 1),
        'mergeJsonKey: the key "a\\u0000" cannot be stored by SQLite: a key may not contain the NUL character, so nothing was written. Encode it before storing it, for example with encodeURIComponent().',
      ],
      [
        () => atomicUpdate([WorkflowRun, 7], { status: 'a\ud800' }),
        'atomicUpdate: a new value of "status" cannot be stored by SQLite: it has a lone surrogate, so nothing was written. Replace that by U+FFFD with text.toWellFormed(), or encode the text with JSON.stringify(text).',
      ],
      [
        () => atomicUpsert([WorkflowRun, 9], { total: 1 }, { create: { status: 'a\ud800' } }),
        'atomicUpsert: a new value of "status" cannot be stored by SQLite: it has a lone surrogate, so nothing was written. Replace that by U+FFFD with text.toWellFormed(), or encode the text with JSON.stringify(text).',
      ],
      [
        async () => {
          await sequelize.query('UPDATE WorkflowRuns SET total = 9223372036854775807')
          await atomicUpdate([WorkflowRun, 7], { total: plus(1) })
        },
        'atomicUpdate: a new value is out of the range of its column ("total"), so nothing was written. Check the amount, or migrate the column to a type with a greater range.',
      ],
    ],
    CONDITION_NOT_MET: [
      [
        async () => {
          const run = await stored<Row>(WorkflowRun)
          await joined((options) => mergeJsonKey(run, 'progress', 'a', 1, { if: [exists('b')], ...options }))
        },
        `mergeJsonKey: "progress" of WorkflowRun id=7 does not meet exists(["b"]), so nothing was written. Read the row again with await row.reload({ transaction }) and decide again, or handle the error code 'CONDITION_NOT_MET' in a catch.`,
      ],
      [
        () =>
          joined((options) =>
            atomicUpdate([WorkflowRun, 7], { status: 'done' }, { where: { status: 'old' }, ...options }),
          ),
        `atomicUpdate: "status" of WorkflowRun id=7 does not meet the option where, so nothing was written. Read the row again with await WorkflowRun.findOne({ where: { id: 7 }, transaction }) and decide again, or handle the error code 'CONDITION_NOT_MET' in a catch.`,
      ],
      [
        async () => {
          await Invoice.destroy({ where: { id: 7 } })
          await joined((options) => atomicUpsert([Invoice, 7], { status: 'new' }, options))
        },
        `atomicUpsert: Invoice id=7 was deleted by its paranoid model ("deletedAt" is set) and is still there, so nothing was written. Restore it with await Invoice.restore({ where: { id: 7 }, transaction }) and call atomicUpsert() again, or handle the error code 'CONDITION_NOT_MET' in a catch.`,
      ],
      [
        async () => (await stored<Row>(WorkflowRun)).mergeJsonKey('progress', 'a', 1, { if: [exists('b')] } as object),
        `mergeJsonKey: "progress" of WorkflowRun id=7 does not meet exists(["b"]), so nothing was written. Read the row again with await row.reload() and decide again, or handle the error code 'CONDITION_NOT_MET' in a catch.`,
      ],
      [
        async () => {
          await Invoice.destroy({ where: { id: 7 } })
          await atomicUpsert([Invoice, 7], { status: 'new' })
        },
        `atomicUpsert: Invoice id=7 was deleted by its paranoid model ("deletedAt" is set) and is still there, so nothing was written. Restore it with await Invoice.restore({ where: { id: 7 } }) and call atomicUpsert() again, or handle the error code 'CONDITION_NOT_MET' in a catch.`,
      ],
      [
        () => mergeJsonKey([WorkflowRun, 7], 'progress', 'a', 1, { if: [equals('name', 'b')] }),
        `mergeJsonKey: "progress" of WorkflowRun id=7 does not meet equals(["name"], "b"), so nothing was written. Read the row again with await WorkflowRun.findOne({ where: { id: 7 } }) and decide again, or handle the error code 'CONDITION_NOT_MET' in a catch.`,
      ],
      [
        () => mergeJsonKey([WorkflowRun, 7], 'progress', 'a', 1, { if: [not(exists('name'))] }),
        `mergeJsonKey: "progress" of WorkflowRun id=7 does not meet absent(["name"]), so nothing was written. Read the row again with await WorkflowRun.findOne({ where: { id: 7 } }) and decide again, or handle the error code 'CONDITION_NOT_MET' in a catch.`,
      ],
      [
        () => atomicUpdate([WorkflowRun, 7], { status: 'done' }, { where: { status: 'old' } }),
        `atomicUpdate: "status" of WorkflowRun id=7 does not meet the option where, so nothing was written. Read the row again with await WorkflowRun.findOne({ where: { id: 7 } }) and decide again, or handle the error code 'CONDITION_NOT_MET' in a catch.`,
      ],
      [
        () => {
          const Open = WorkflowRun.scope({ where: { status: 'open' } })
          return atomicUpdate([Open, 7], { status: 'done' }, { where: { status: 'old' } })
        },
        `atomicUpdate: "status" of WorkflowRun id=7 does not meet the option where, so nothing was written. Read the row again with await WorkflowRun.unscoped().findOne({ where: { id: 7 } }) and decide again, or handle the error code 'CONDITION_NOT_MET' in a catch.`,
      ],
      [
        () => atomicUpdate([WorkflowRun, 7], { status: 'done' }, { where: { status: 'old', id: 8 } }),
        `atomicUpdate: "status" of WorkflowRun id=7 does not meet the option where, so nothing was written. Read the row again with await WorkflowRun.findOne({ where: { id: 7 } }) and decide again, or handle the error code 'CONDITION_NOT_MET' in a catch.`,
      ],
    ],
    UNSAVED_CHANGES: [
      [
        async () => {
          const run = await stored<Row>(WorkflowRun)
          run.set('progress', {})
          await joined((options) => mergeJsonKey(run, 'progress', 'a', 1, options))
        },
        'mergeJsonKey: WorkflowRun id=7 has unsaved changes in "progress". First save them with await row.save({ transaction }), or discard them with await row.reload({ transaction }).',
      ],
      [
        async () => {
          const run = await stored<Row>(WorkflowRun)
          run.set('progress', {})
          await joined((options) => withLock(run, () => 1, options))
        },
        'withLock: WorkflowRun id=7 has unsaved changes in "progress". First save them with await row.save({ transaction }), or discard them with await row.reload({ transaction }).',
      ],
      [
        async () => {
          const run = await stored<Row>(WorkflowRun)
          run.set('progress', {})
          await mergeJsonKey(run, 'progress', 'a', 1)
        },
        'mergeJsonKey: WorkflowRun id=7 has unsaved changes in "progress". First save them with await row.save(), or discard them with await row.reload().',
      ],
      [
        () => withLock([WorkflowRun, 7], (row: unknown) => void (row as Row).set('status', 'done')),
        'withLock: the callback left unsaved changes in "status" of WorkflowRun id=7, so its transaction was rolled back. Call await row.save() before the callback returns.',
      ],
      [
        () =>
          sequelize.transaction((transaction) =>
            withLock([WorkflowRun, 7], (row: unknown) => void (row as Row).set('status', 'done'), { transaction }),
          ),
        'withLock: the callback left unsaved changes in "status" of WorkflowRun id=7, and its other writes are in the joined transaction. Let this error roll back that transaction. Call await row.save() before the callback returns.',
      ],
    ],
    OUTSIDE_TRANSACTION: [
      [
        () => withLock([WorkflowRun, 7], () => WorkflowRun.update({ status: 'done' }, { where: { id: 7 } })),
        "withLock: a write of WorkflowRun (BULKUPDATE) would run outside the transaction of the enclosing withLock(): it would commit separately, and could wait for that transaction's lock. Pass the transaction that is the second argument of the callback of withLock(), as the option { transaction }.",
      ],
      [
        () => withLock([WorkflowRun, 7], () => mergeJsonKey([Invoice, 7], 'progress', 'a', 1)),
        "mergeJsonKey: this call would run outside the transaction of the enclosing withLock(): it would commit separately, and could wait for that transaction's lock. Pass the transaction that is the second argument of the callback of withLock(), as the option { transaction }.",
      ],
      [
        () => retryTransaction(sequelize, () => sequelize.transaction(() => Promise.resolve())),
        "retryTransaction: a transaction that is opened in the callback would run outside the transaction of the enclosing retryTransaction(): it would commit separately, and could wait for that transaction's lock. Nest it in the transaction that is the first argument of the callback of retryTransaction(): sequelize.transaction({ transaction }, …), Model.findOrCreate({ …, transaction }); or open it before the callback.",
      ],
      [
        async () => {
          let late!: Promise<unknown>
          await withLock([WorkflowRun, 7], (row: unknown) => {
            late = outcomeOf(new Promise(setImmediate).then(() => (row as Row).update({ status: 'done' })))
          })
          throw (await late) as Error
        },
        'withLock: update() of this WorkflowRun comes from a branch of the callback of withLock() that still runs after the callback has ended, so it was not sent. Await every branch in the callback: await Promise.allSettled([…]) before an error leaves it. To write after the callback on purpose, outside the transaction, pass { transaction: null }.',
      ],
    ],
    STALE_ROW: [
      [
        async () => {
          const run = await stored<Row>(Patched)
          await mergeJsonKey([WorkflowRun, 7], 'progress', 'name', 'b')
          await joined((options) => run.update({ progress: { items: [1], name: 'c', on: true } }, options))
        },
        'save: "progress" at ["name"] of Patched id=7 was changed by another writer since it was loaded, so nothing was written. Read it again with await row.reload({ transaction }) and decide again, or serialize the callers with a lock: await withLock(row, fn, { transaction }).',
      ],
      [
        async () => {
          const run = await stored<Row>(Patched)
          await mergeJsonKey([WorkflowRun, 7], 'progress', 'name', 'b')
          await run.update({ progress: { items: [1], name: 'c', on: true } })
        },
        'save: "progress" at ["name"] of Patched id=7 was changed by another writer since it was loaded, so nothing was written. Read it again with await row.reload() and decide again, or serialize the callers with a lock: await withLock(row, fn).',
      ],
      [
        () =>
          withLock([WorkflowRun, 7], async (row: unknown, opened: unknown) => {
            const transaction = opened as Transaction
            await WorkflowRun.update({ progress: { name: 'b' } }, { where: { id: 7 }, transaction })
            await (row as Row).update({ progress: { name: 'c' } })
          }),
        'save: "progress" of this instance of WorkflowRun id=7 is stale: its transaction wrote or locked the row through another instance or statement. Nothing was written. Call await row.reload({ transaction }) first and make the change again.',
      ],
      [
        () =>
          withLock([WorkflowRun, 7], async (row: unknown) => {
            const run = row as Row
            run.set('total' as never, 5 as never)
            await run.increment('total' as never)
            await run.save()
          }),
        'save: "total" of this instance of WorkflowRun id=7 was assigned, and increment() of the same instance has changed it in the database, so this save would overwrite that change. Nothing was written. Await increment() and then assign the value, or call await row.reload({ transaction }) first and make the change again.',
      ],
      [
        async () => {
          await withOptimisticLock(
            [Invoice, 7],
            async (row: unknown) => {
              await Invoice.increment('version', { where: { id: 7 } })
              ;(row as Row).set('status', 'done')
            },
            { retry: { maxAttempts: 2, baseDelayMs: 0 } },
          )
        },
        'withOptimisticLock: Invoice id=7 was written by another session in each of 2 attempts before "status" could be saved, so nothing was written. Raise retry: { maxAttempts }, or serialize the callers with a lock: await withLock([Invoice, 7], fn).',
      ],
    ],
    WHOLE_COLUMN_WRITE: [
      [
        async () => {
          const run = await stored<Row>(Guarded)
          await joined((options) => run.update({ progress: { items: [1], name: 'b', on: true } }, options))
        },
        `save: refused, because it writes the whole "progress" of Guarded id=7 at FILE:LINE, over whatever was written since. Changed since it was loaded: "name". Write only what changes: await row.mergeJsonKey("progress", "name", …, { transaction }); or allow this write with the option { wholeColumnWrites: 'allow' }. The change stays in the instance until await row.reload({ transaction }).`,
      ],
      [
        async () => {
          const run = await stored<Row>(Guarded)
          await joined((options) => run.update({ progress: {} }, options))
        },
        `save: refused, because it writes the whole "progress" of Guarded id=7 at FILE:LINE, over whatever was written since. Write only what changes: await row.withLock(async (row) => { row.progress = …; await row.save() }, { transaction }); or allow this write with the option { wholeColumnWrites: 'allow' }. The change stays in the instance until await row.reload({ transaction }).`,
      ],
      [
        () => joined((options) => Guarded.update({ progress: {} }, { where: { id: 7 }, ...options })),
        `update: refused, because it writes the whole "progress" of Guarded id=7 at FILE:LINE, over whatever was written since. Write only what changes: await updateWhere(Guarded, where, { "progress": [set(…)] }, { transaction }); or allow this write with the option { wholeColumnWrites: 'allow' }.`,
      ],
      [
        () => joined((options) => Guarded.update({ progress: {} }, { where: {}, ...options })),
        `update: refused, because it writes the whole "progress" of Guarded at FILE:LINE, over whatever was written since. Write only what changes: await updateWhere(Guarded, {}, { "progress": [set(…)] }, { all: true, transaction }); or allow this write with the option { wholeColumnWrites: 'allow' }.`,
      ],
      [
        () => joined((options) => Guarded.upsert({ id: 7, progress: {} } as never, options)),
        `upsert: refused, because it writes the whole "progress" of Guarded id=7 at FILE:LINE, over whatever was written since. Write only what changes: await atomicUpsert([Guarded, { id }], { "progress": [set(…)] }, { transaction }); or allow this write with the option { wholeColumnWrites: 'allow' }.`,
      ],
      [
        async () => (await stored<Row>(Guarded)).update({ progress: { name: 'b' } }),
        `save: refused, because it writes the whole "progress" of Guarded id=7 at FILE:LINE, over whatever was written since. Changed since it was loaded: "items", "on", "name". Write only what changes: await row.updateJson("progress", [remove(["items"]), remove(["on"]), set(["name"], …)]); or allow this write with the option { wholeColumnWrites: 'allow' }. The change stays in the instance until await row.reload().`,
      ],
      [
        () => Guarded.update({ progress: {} }, { where: { id: 7 } }),
        `update: refused, because it writes the whole "progress" of Guarded id=7 at FILE:LINE, over whatever was written since. Write only what changes: await updateWhere(Guarded, where, { "progress": [set(…)] }); or allow this write with the option { wholeColumnWrites: 'allow' }.`,
      ],
    ],
    ROLLED_BACK: [
      [
        () => retryTransaction(sequelize, (transaction: unknown) => (transaction as Transaction).rollback()),
        'retryTransaction: the transaction was rolled back in the callback, by transaction.rollback(), so nothing was written. Throw an error to leave the callback and roll back, or let the callback return to commit.',
      ],
      [
        async () => {
          const full = withLock([WorkflowRun, 7], async (_row: unknown, opened: unknown) => {
            const transaction = opened as Transaction
            const status = await fillDisk(sequelize, transaction)
            await outcomeOf(WorkflowRun.bulkCreate([{ status }, { status }], { transaction }))
          })
          return full.finally(() => sequelize.query('PRAGMA max_page_count = 1000000'))
        },
        'withLock: the database rolled back the transaction when a statement of it failed (SequelizeDatabaseError, SQLITE_FULL), so nothing was written. Let the error of that statement leave the callback, where a savepoint does not help. To run the whole transaction again after a deadlock or a conflict, open it with retryTransaction(sequelize, async (transaction) => { … }).',
      ],
    ],
    PENDING_STATEMENTS: [
      [
        () =>
          withLock([WorkflowRun, 7], (row: unknown) => {
            void (row as Row).update({ status: 'done' })
          }),
        'withLock: the callback returned while 1 statement of its transaction was still in progress (save() of a WorkflowRun), so the transaction was rolled back and nothing was written. Await it: await Promise.all(keys.map(async (key) => …)) in place of keys.forEach(…).',
      ],
    ],
  }

  it('repeats no long text of the call', async () => {
    const long = 'x'.repeat(10_000)
    const update = (operations: readonly unknown[], options?: object): Promise<unknown> =>
      updateJson([WorkflowRun, 7], 'progress', operations, options)
    const calls: readonly (() => unknown)[] = [
      () => update([set('a', 1)], { if: [equals('a', { long })] }),
      () => update([set('a', 1)], { if: [equals(long, 1)] }),
      () => update([set(['items', matching({ id: long }), 'a'], 1)]),
      () => update([set([long, 'a'], 1), set([long, 'a'], 2)]),
      () => update([set('a', 10n ** 1000n)]),
      () => update([set('a', 1)], { [long]: 1 }),
      () => update([set(long, 'text')]).then(() => update([increment(long)])),
      () => update([set(long, true)]).then(() => update([increment(long)])),
      () => rename(long, long),
      () => set('a', { [long]: () => 1 }),
      () => updateJson([WorkflowRun, 7], long, []),
      () => atomicUpdate([WorkflowRun, 7], { [long]: 1 }),
      () => atomicUpdate([WorkflowRun, 7], { progress: { [long]: 1 } }),
      () => updateWhere(WorkflowRun, { [long]: 1 }, { status: 'x' }),
      async () => (await stored<Row>(Guarded)).update({ progress: { name: 'a', [long]: 1 } }),
    ]
    for (const call of calls) {
      const error = await outcomeOf((async () => void (await call()))())
      if (!isLosslessError(error)) throw error
      expect(error.message.length, error.message.slice(0, 200)).to.be.below(2000)
    }
  })

  for (const [code, rows] of Object.entries(table)) {
    for (const [call, text] of rows) {
      it(`with the code ${code} says ${text.slice(0, 120)}`, async () => {
        const error = await outcomeOf(
          (async () => {
            await call()
          })(),
        )
        if (!isLosslessError(error)) throw error
        expect(error.code).to.equal(code)
        expect(error.message.replaceAll(/ at \S+:\d+/g, ' at FILE:LINE')).to.equal(text)
      })
    }
  }
})
