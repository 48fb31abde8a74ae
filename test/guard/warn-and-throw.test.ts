import { once } from 'node:events'
import { basename } from 'node:path'
import { runInThisContext, Script } from 'node:vm'
import { expect } from 'chai'
import type { ModelStatic, Sequelize } from 'sequelize'
import { col, DataTypes, fn, literal, Model, OptimisticLockError, Transaction } from 'sequelize'
import {
  ConflictError,
  lock,
  lossless,
  mergeJsonKey,
  retryTransaction,
  set,
  StaleRowError,
  UsageError,
  WholeColumnWriteError,
  withLock,
} from 'sequelize-lossless'
import type { GuardReport, LosslessOptions } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import { guardedRuns, hereLine, reports, warnings } from './guarded-runs.js'

/** A stored document, one that is saved, the call that keeps concurrent changes, and the changed keys. */
const advice: readonly (readonly [stored: unknown, saved: unknown, instead: string, keys?: readonly string[]])[] = [
  [{ tags: ['a'] }, { tags: ['a', 'b'] }, 'await row.updateJson("progress", [append(["tags"], …)])', ['tags']],
  [{ tags: ['a', { b: 1 }] }, { tags: ['a'] }, 'await row.updateJson("progress", [pull(["tags"], …)])', ['tags']],
  [{ tags: ['a', 'b'] }, { tags: ['b', 'a'] }, 'await row.withLock(fn)', ['tags']],
  [{ tags: ['a', 'a'] }, { tags: ['a'] }, 'await row.withLock(fn)', ['tags']],
  [{ tags: ['a'], b: 1 }, { tags: ['c'], b: 'x' }, 'await row.withLock(fn)', ['tags', 'b']],
  [
    { n: 2 },
    { n: 5 },
    'await row.updateJson("progress", [increment(["n"], 3)]) /* or set(), if the number does not depend on the stored one */',
    ['n'],
  ],
  [
    { n: { m: 0.5 } },
    { n: { m: 0.75 } },
    'await row.updateJson("progress", [increment(["n","m"], …)]) /* or set(), if the number does not depend on the stored one */',
    ['n'],
  ],
  [{ n: 2 }, { n: '5' }, 'await row.mergeJsonKey("progress", "n", …)', ['n']],
  [
    { a: 1 },
    { a: 1, n: 1 },
    'await row.mergeJsonKey("progress", "n", …) /* or updateJson() with increment(["n"], 1), if it is a count */',
    ['n'],
  ],
  [
    { tags: null },
    { tags: ['a'] },
    'await row.mergeJsonKey("progress", "tags", …) /* or updateJson() with append(["tags"], …), if the list grows */',
    ['tags'],
  ],
  [[1], [1, 2], 'await row.updateJson("progress", [append([], …)])'],
  [[1, 2], [2], 'await row.withLock(fn)'],
  [[{ id: 7 }], [{ id: 7, a: 1 }], 'await row.updateJson("progress", [set([matching({"id":7}),"a"], …)])'],
]

const allowed = { wholeColumnWrites: 'allow' } as const

eachDatabase('a guarded model', (database) => {
  let sequelize: Sequelize
  let log: string[]
  let Runs: typeof WorkflowRun
  let run: WorkflowRun

  /** The same table, guarded or not. */
  async function guarded(options: LosslessOptions): Promise<void> {
    Runs = await guardedRuns(sequelize, options)
    run = await Runs.create({ title: 'a', progress: { step_a: 'done' } })
    run = await load()
    log.length = 0
  }

  async function load(): Promise<WorkflowRun> {
    return Runs.findByPk(run.id, { rejectOnEmpty: true })
  }

  /** Every way to write the whole column, with the method that is named, and whether it is known what changed. */
  const writes: Record<string, readonly [method: string, hasKeys: boolean, write: () => Promise<unknown>]> = {
    'row.save()': ['save', true, () => run.set({ progress: { ...run.progress, step_b: 'done' } }).save()],
    'row.update()': ['save', true, () => run.update({ progress: { ...run.progress, step_b: 'done' } })],
    'a dotted set': ['save', true, () => run.set('progress.step_b' as never, 'done' as never).save()],
    'save of a field that did not change': [
      'save',
      true,
      () => run.set({ title: `${run.title}b` }).save({ fields: ['title', 'progress'] }),
    ],
    'a change by a hook': [
      'save',
      true,
      async () => {
        const change = (row: WorkflowRun): void => void row.set({ progress: { ...row.progress, step_b: 'done' } })
        Runs.addHook('beforeUpdate', 'change', change)
        await run.update({ title: 'b' })
      },
    ],
    'Model.update()': ['update', false, () => Runs.update({ progress: { step_b: 'done' } }, { where: { id: run.id } })],
    'a dotted Model.update()': [
      'update',
      false,
      () => Runs.update({ 'progress.step_b': 'done' } as object, { where: { id: run.id } }),
    ],
    'Model.update() with individualHooks': [
      'update',
      false,
      () => Runs.update({ progress: { step_b: 'done' } }, { where: { id: run.id }, individualHooks: true }),
    ],
    'Model.update() of many rows': [
      'update',
      false,
      () => Runs.update({ progress: { step_b: 'done' } }, { where: {} }),
    ],
    upsert: ['upsert', false, () => Runs.upsert({ id: run.id, progress: { step_b: 'done' } })],
    bulkCreate: [
      'bulkCreate',
      false,
      () => Runs.bulkCreate([{ id: run.id, progress: { step_b: 'done' } }], { updateOnDuplicate: ['progress'] }),
    ],
  }

  before(() => {
    ;({ sequelize, log } = database.connect())
  })

  for (const [title, [method, hasKeys, write]] of Object.entries(writes)) {
    it(`reports ${title}, once, and allows it`, async () => {
      await guarded({ wholeColumnWrites: 'warn' })
      const seen = await reports(async () => {
        const [warning, ...more] = await warnings(write)
        expect(warning).to.include({ name: 'SequelizeLosslessWarning', code: 'WHOLE_COLUMN_WRITE' })
        expect(warning!.message).to.include('"progress"').and.include('WorkflowRun')
        expect(warning!.message).to.include('warn-and-throw.test.js').and.include('over whatever was written since')
        expect([more, await warnings(write)]).to.deep.equal([[], []])
      })
      expect(seen).to.have.length(1)
      const [report] = seen
      expect(report).to.include({ code: 'WHOLE_COLUMN_WRITE' })
      expect(report).to.include({ method, model: 'WorkflowRun', column: 'progress' })
      if (title !== 'Model.update() of many rows' && title !== 'bulkCreate')
        expect(report!.primaryKey).to.deep.equal({ id: run.id })
      expect(report!.keys).to.deep.equal(hasKeys ? (title.includes('did not') ? [] : ['step_b']) : undefined)
      expect(basename(report!.file!)).to.equal('warn-and-throw.test.js')
      expect(report!.line).to.be.a('number')
      if (!title.includes('did not')) expect((await load()).progress).to.have.property('step_b', 'done')
    })

    it(`refuses ${title}, before any SQL`, async () => {
      await guarded({ wholeColumnWrites: 'throw' })
      const error = await rejection(write(), WholeColumnWriteError)
      expect(error).to.include({ code: 'WHOLE_COLUMN_WRITE', method, model: 'WorkflowRun', column: 'progress' })
      expect(error.message).to.include(`${error.file}:${error.line}`).and.include(error.instead)
      expect(log.filter((line) => !line.startsWith('SELECT'))).to.deep.equal([])
      expect((await load()).progress).to.deep.equal({ step_a: 'done' })
    })
  }

  it('names the line of the caller, and the call that replaces it', async () => {
    await guarded({ wholeColumnWrites: 'throw' })
    const line = hereLine() + 1
    const saved = rejection(run.update({ progress: { step_a: 'done', step_b: 'done' } }), WholeColumnWriteError)
    expect(await saved).to.include({ line, instead: `await row.mergeJsonKey("progress", "step_b", …)` })
    await mergeJsonKey([Runs, run.id], 'progress', 'kept', [{ id: 7 }])
    await run.reload()
    run.progress = { kept: [{ id: 7, a: 1 }], b: [1], c: { d: 1 }, e: 1, f: 1, g: 1 }
    expect((await rejection(run.save(), WholeColumnWriteError)).instead).to.equal(
      `await row.updateJson("progress", [remove(["step_a"]), set(["kept",matching({"id":7}),"a"], …), append(["b"], …), set(["c","d"], …), set(["e"], …), …])`,
    )
    for (const [stored, saved, instead, keys] of advice) {
      await Runs.update({ progress: stored as never }, { where: { id: run.id }, ...allowed })
      await run.reload()
      run.progress = saved as never
      const error = await rejection(run.save(), WholeColumnWriteError)
      expect(error.instead.replace('async (row) => { row.progress = …; await row.save() }', 'fn')).to.equal(instead)
      expect(error.keys).to.deep.equal(keys)
      expect(error.message).not.to.include('nothing')
    }
    run.progress = {}
    expect((await rejection(run.save(), WholeColumnWriteError)).instead).to.match(/^await row\.withLock\(/)
    run.progress = null
    expect((await rejection(run.save(), WholeColumnWriteError)).instead).to.match(/^await row\.withLock\(/)
  })

  it('has a mode for each kind of write', async () => {
    await guarded({ wholeColumnWrites: { save: 'patch', bulk: 'warn' }, conflicts: 'throw' })
    await mergeJsonKey([Runs, run.id], 'progress', 'other', 1)
    await run.update({ progress: { ...run.progress, mine: 1 } })
    expect((await load()).progress).to.deep.equal({ step_a: 'done', other: 1, mine: 1 })
    const updated = await reports(() => Runs.update({ progress: {} }, { where: { id: run.id } }))
    expect(updated.map(({ method }) => method)).to.deep.equal(['update'])
    expect(await reports(() => Runs.upsert({ id: run.id, progress: { a: 1 } }))).to.deep.equal([])
    expect((await load()).progress).to.deep.equal({ a: 1 })
    for (const wrong of [
      { bulk: 'patch' },
      { save: 'log' },
      { create: 'warn' },
      null,
      { save: 'throw', conflicts: 'throw' },
    ]) {
      expect(() => lossless(Runs, { wholeColumnWrites: wrong as never })).to.throw(UsageError)
    }
    expect(() => lossless(Runs, { wholeColumnWrites: { bulk: 'warn' }, conflicts: 'throw' })).to.throw(UsageError)
    await guarded({ wholeColumnWrites: { upsert: 'throw' } })
    await run.update({ progress: {} })
    await rejection(Runs.upsert({ id: run.id, progress: {} }), WholeColumnWriteError)
  })

  it('attaches the methods to every model of a Sequelize instance, and suggests no method that a model does not have', async () => {
    const { sequelize: whole } = database.connect()
    const definitions = { progress: DataTypes.JSON }
    const of = (tableName: string) => ({ tableName, timestamps: false, sequelize: whole })
    const Early = whole.define('Early', definitions, of('guarded_early'))
    expect(lossless(whole)).to.equal(whole)
    const Late = whole.define('Late', definitions, of('guarded_late'))
    class Own extends Model {
      declare id: number
      withLock(): string {
        return 'its own'
      }
    }
    Own.init(definitions, of('guarded_own'))
    lossless(whole, { wholeColumnWrites: 'throw' })
    expect(() => lossless(Own)).to.throw(UsageError, 'withLock')
    for (const Each of [Early, Late, Own] as (ModelStatic<Model> & typeof Own)[]) {
      await Each.sync({ force: true })
      const made = await Each.create({ progress: {} } as never)
      const row = await Each.findByPk(made.id, { rejectOnEmpty: true })
      await (row as unknown as WorkflowRun).mergeJsonKey('progress', 'a', 1)
      const { instead } = await rejection(row.update({ progress: null } as never), WholeColumnWriteError)
      const call = Each === Own ? 'withLock(row, async (row)' : 'row.withLock(async (row)'
      expect(instead).to.equal(`await ${call} => { row.progress = …; await row.save() })`)
      await Each.drop()
    }
    expect(Own.build().withLock()).to.equal('its own')
  })

  it('names a primary key of one attribute or of several as the suggested call takes it', async () => {
    await guarded({ wholeColumnWrites: 'throw' })
    const one = await rejection(Runs.update({ progress: {} }, { where: { id: run.id } }), WholeColumnWriteError)
    expect(one.instead).to.equal('await updateWhere(WorkflowRun, where, { "progress": [set(…)] })')
    const upserted = await rejection(Runs.upsert({ id: run.id, progress: {} }), WholeColumnWriteError)
    expect(upserted.instead).to.equal('await atomicUpsert([WorkflowRun, { id }], { "progress": [set(…)] })')
    const key = { type: DataTypes.STRING(20), primaryKey: true }
    const Setting = sequelize.define('Setting', { tenant: key, name: key, value: DataTypes.JSON })
    lossless(Setting, { wholeColumnWrites: 'throw' })
    const both = await rejection(Setting.upsert({ tenant: 'a', name: 'b', value: {} }), WholeColumnWriteError)
    expect(both.instead).to.equal('await atomicUpsert([Setting, { tenant, name }], { "value": [set(…)] })')
    const Order = sequelize.define('Order', { 'order-id': key, value: DataTypes.JSON })
    lossless(Order, { wholeColumnWrites: 'throw' })
    const quoted = await rejection(Order.upsert({ 'order-id': 'a', value: {} }), WholeColumnWriteError)
    expect(quoted.instead).to.equal('await atomicUpsert([Order, { "order-id": orderId }], { "value": [set(…)] })')
  })

  it('suggests a call that needs only the values of the refused call', async () => {
    const value = DataTypes.JSON
    const name = { type: DataTypes.STRING(20), unique: true }
    const Plugin = sequelize.define('Plugin', { name, kind: DataTypes.STRING(20), value })
    lossless(Plugin, { wholeColumnWrites: 'throw' })
    const instead = async (write: Promise<unknown>): Promise<string> =>
      (await rejection(write, WholeColumnWriteError)).instead
    const changes = '{ "value": [set(…)] }'
    const byName = `await atomicUpsert([Plugin, { where: { name } }], ${changes})`
    const updateOnDuplicate: never[] = ['value' as never]
    expect(await instead(Plugin.update({ value: {} }, { where: {} }))).to.equal(
      `await updateWhere(Plugin, {}, ${changes}, { all: true })`,
    )
    expect(await instead(Plugin.upsert({ name: 'a', value: {} }))).to.equal(byName)
    expect(await instead(Plugin.upsert({ kind: 'a', value: {} }))).to.equal(
      `await updateWhere(Plugin, where, ${changes})`,
    )
    expect(await instead(Plugin.bulkCreate([{ id: 1, value: {} }], { updateOnDuplicate }))).to.equal(
      `for (const { id } of rows) await atomicUpsert([Plugin, { id }], ${changes})`,
    )
    const byNames = Plugin.bulkCreate([{ name: 'a', value: {} }, { name: 'b' }], { updateOnDuplicate })
    expect(await instead(byNames)).to.equal(`for (const { name } of rows) ${byName}`)
    const noKey = Plugin.bulkCreate([{ id: 1, value: {} }, { name: 'b' }], { updateOnDuplicate })
    expect(await instead(noKey)).to.equal(`await updateWhere(Plugin, where, ${changes})`)
    const byKind = Plugin.bulkCreate([{ kind: 'a', value: {} }], { updateOnDuplicate, conflictAttributes: ['kind'] })
    expect(await instead(byKind)).to.equal(
      `for (const { kind } of rows) if (!(await updateWhere(Plugin, { kind }, ${changes}))) await Plugin.create(…)`,
    )
  })

  it('suggests code that names the scope and the schema of the refused call', async () => {
    const value = DataTypes.JSON
    const scopes = { of: (kind: string) => ({ where: { kind } }) }
    const kind = DataTypes.STRING(20)
    const Plugin = sequelize.define('Plugin', { kind, value }, { scopes, defaultScope: { where: { kind: 'a' } } })
    const Other = sequelize.define('Other', { kind, value }, { schema: 'own' })
    lossless(Plugin, { wholeColumnWrites: 'throw' })
    lossless(Other, { wholeColumnWrites: 'throw' })
    const scope = { method: ['of', 'b'] as [string, string] }
    const models = {
      Plugin,
      'Plugin.unscoped()': Plugin.unscoped(),
      'Plugin.scope(…)': Plugin.scope(scope),
      'Plugin.schema("other")': Plugin.schema('other'),
      'Plugin.schema("other").scope(…)': Plugin.schema('other').scope(scope),
      Other,
      'Other.schema("other")': Other.schema('other'),
    }
    for (const [code, Each] of Object.entries(models)) {
      const changes = '{ "value": [set(…)] }'
      const update = await rejection(Each.update({ value: {} }, { where: { kind: 'c' } }), WholeColumnWriteError)
      expect(update.instead).to.equal(`await updateWhere(${code}, where, ${changes})`)
      const upsert = await rejection(Each.upsert({ id: 1, value: {} }), WholeColumnWriteError)
      expect(upsert.instead).to.equal(`await atomicUpsert([${code}, { id }], ${changes})`)
    }
  })

  it('suggests code that JavaScript accepts, whatever the names of the attributes', async () => {
    const key = { type: DataTypes.STRING(20), primaryKey: true }
    const names = ['order-id', 'orderId', 'class', '1st', '-', 'await', 'größe']
    const keys = Object.fromEntries(names.map((name) => [name, key]))
    const Order = sequelize.define('my-order', { ...keys, value: DataTypes.JSON })
    lossless(Order, { wholeColumnWrites: 'throw' })
    const row = { ...Object.fromEntries(names.map((name) => [name, 'a'])), value: {} }
    const write = Order.bulkCreate([row], { updateOnDuplicate: ['value'] })
    const { instead } = await rejection(write, WholeColumnWriteError)
    const object =
      '{ "order-id": orderId, orderId: orderId_, class: class_, "1st": _1st, "-": _, await: await_, größe }'
    const model = 'sequelize.models["my-order"]'
    expect(instead).to.equal(
      `for (const ${object} of rows) await atomicUpsert([${model}, ${object}], { "value": [set(…)] })`,
    )
    expect(() => new Script(`(async () => { 'use strict'; ${instead.replace('…', '')} })`)).not.to.throw()
  })

  it('calls onReport in place of the warning', async () => {
    const seen: GuardReport[] = []
    await guarded({ wholeColumnWrites: 'warn', onReport: (report) => void seen.push(report) })
    const write = (): Promise<unknown> => run.update({ progress: { step_b: seen.length } })
    expect(await warnings(write)).to.deep.equal([])
    await write()
    expect(
      seen.map(({ code, message, line }) => [code, message.includes(`:${line} `) || message.includes(`:${line},`)]),
    ).to.deep.equal([['WHOLE_COLUMN_WRITE', true]])
    lossless(Runs, { onReport: null })
    expect(await warnings(() => Runs.update({ progress: {} }, { where: { id: run.id } }))).to.have.length(1)
    expect(() => lossless(Runs, { onReport: 'log' as never })).to.throw(
      UsageError,
      'expected onReport to be a function',
    )
  })

  for (const wholeColumnWrites of ['warn', 'throw', 'patch'] as const) {
    describe(`under '${wholeColumnWrites}'`, () => {
      beforeEach(() => guarded({ wholeColumnWrites }))

      /** Lets a write of the whole document through, as Sequelize sends it. */
      async function lets(write: () => Promise<unknown>, progress: object = { new: 'whole' }): Promise<void> {
        const other = await load()
        await mergeJsonKey(other, 'progress', 'other', 1)
        expect(await reports(write)).to.deep.equal([])
        expect((await load()).progress).to.deep.equal(progress)
      }

      it('allows a write with an option that allows it', async () => {
        const progress = { new: 'whole' }
        await lets(() => run.update({ progress }, allowed))
        await lets(() => run.set({ progress: { ...progress, b: 1 } }).save(allowed), { ...progress, b: 1 })
        const where = { id: run.id }
        await lets(() => Runs.update({ progress }, { where, ...allowed }))
        await lets(() => Runs.upsert({ id: run.id, progress }, allowed))
        await lets(() => Runs.bulkCreate([{ id: run.id, progress }], { updateOnDuplicate: ['progress'], ...allowed }))
      })

      it('allows a write of a row that this library has locked', async () => {
        await lets(() => run.withLock((row) => row.update({ progress: { new: 'whole' } })))
        await lets(() => withLock([Runs, run.id], (row) => row.update({ progress: { new: 'whole' } })))
        await lets(() =>
          sequelize.transaction(async (transaction) => {
            await lock(run, { transaction })
            await run.update({ progress: { new: 1 } }, { transaction })
            await run.update({ progress: { new: 'whole' } }, { transaction })
          }),
        )
      })

      it('allows a write of a row that a finder has locked, in the same transaction', async () => {
        const progress = { new: 'whole' }
        await lets(() =>
          sequelize.transaction(async (transaction) => {
            const [row] = await Runs.findAll({ where: { id: run.id }, lock: true, transaction })
            await row!.update({ progress: { new: 1 } }, { transaction })
            await row!.update({ progress }, { transaction })
          }),
        )
        await lets(() =>
          sequelize.transaction(async (transaction) => {
            const level = { level: Transaction.LOCK.UPDATE, of: Runs }
            await run.reload({ lock: level, transaction })
            await run.update({ progress }, { transaction })
          }),
        )
      })

      it('allows a bulk write that names a locked row, in the same transaction', async () => {
        const progress = { new: 'whole' }
        const where = { id: run.id }
        await lets(() => run.withLock((_row, transaction) => Runs.update({ progress }, { where, transaction })))
        await lets(() =>
          sequelize.transaction(async (transaction) => {
            await Runs.findByPk(run.id, { lock: true, transaction })
            await Runs.upsert({ id: run.id, progress }, { transaction })
          }),
        )
        const others = sequelize.transaction(async (transaction) => {
          await Runs.findByPk(run.id, { lock: true, transaction })
          await Runs.update({ progress }, { where: { id: [run.id] }, transaction })
        })
        if (wholeColumnWrites === 'warn') await others
        else await rejection(others, WholeColumnWriteError)
      })

      it('does not allow a write of a row that is not locked', async () => {
        const refused = async (write: () => Promise<unknown>): Promise<void> => {
          const before = await load()
          if (wholeColumnWrites === 'throw') await rejection(write(), WholeColumnWriteError)
          else expect(await reports(write)).to.have.length(wholeColumnWrites === 'warn' ? 1 : 0)
          const written = { ...before.progress, mine: 1 }
          expect((await load()).progress).to.deep.equal(wholeColumnWrites === 'throw' ? before.progress : written)
        }
        const progress = { ...run.progress, mine: 1 }
        await refused(async () => {
          const row = await sequelize.transaction(async (transaction) =>
            Runs.findByPk(run.id, { lock: true, transaction }),
          )
          await row!.update({ progress })
        })
        await Runs.update({ progress: { step_a: 'done' } }, { where: {}, ...allowed })
        await refused(async () => {
          const row = await Runs.findByPk(run.id, { lock: true })
          await row!.update({ progress })
        })
        await Runs.update({ progress: { step_a: 'done' } }, { where: {}, ...allowed })
        await refused(() =>
          sequelize.transaction(async (transaction) => {
            const row = await Runs.findByPk(run.id, { lock: Transaction.LOCK.KEY_SHARE, transaction })
            await row!.update({ progress }, { transaction })
          }),
        )
        await Runs.update({ progress: { step_a: 'done' } }, { where: {}, ...allowed })
        await refused(() =>
          sequelize.transaction(async (transaction) => {
            await run.reload({ attributes: ['title'], lock: true, transaction })
            await run.update({ progress }, { transaction })
          }),
        )
      })

      it('allows values that the database computes, and other columns', async () => {
        const document = fn('JSON_OBJECT')
        await run.update({ title: 'b' })
        if (database.name === 'postgres') await run.update({ progress: literal(`'{}'::json`) })
        else await run.update({ progress: document })
        expect((await load()).progress).to.deep.equal({})
      })
    })
  }

  it('refuses an INSERT that overwrites a row', async () => {
    await guarded({ wholeColumnWrites: 'throw' })
    const other = await Runs.create({ progress: {} })
    const progress = { mine: 1 }
    const updateOnDuplicate: 'progress'[] = ['progress']
    const literalFirst = [
      { id: other.id, progress: literal("'{}'") as never },
      { id: run.id, progress },
    ]
    await rejection(Runs.bulkCreate(literalFirst, { updateOnDuplicate }), WholeColumnWriteError)
    const hooked = Runs.bulkCreate([{ id: run.id, progress }], { updateOnDuplicate, individualHooks: true })
    await rejection(hooked, WholeColumnWriteError)
    // Not in Sequelize's types, and taken all the same.
    const options = { updateOnDuplicate, upsertKeys: ['id'] } as object
    await rejection(Runs.create({ id: run.id, progress }, options), WholeColumnWriteError)
    expect((await load()).progress).to.deep.equal({ step_a: 'done' })
  })

  it('refuses an upsert that may find another row than the locked one', async () => {
    await guarded({ wholeColumnWrites: 'throw' })
    await sequelize.transaction(async (transaction) => {
      await Runs.findByPk(run.id, { lock: true, transaction })
      const values = { id: run.id, title: 'of another', progress: {} }
      await rejection(Runs.upsert(values, { fields: ['title', 'progress'], transaction }), WholeColumnWriteError)
      await rejection(Runs.upsert(values, { conflictFields: ['title'], transaction }), WholeColumnWriteError)
    })
  })

  it('does not check the query interface, which has no model', async () => {
    await guarded({ wholeColumnWrites: 'throw' })
    const queryInterface = sequelize.getQueryInterface()
    const now = new Date()
    const times = Object.hasOwn(Runs.getAttributes(), 'createdAt') ? { createdAt: now, updatedAt: now } : {}
    await queryInterface.bulkInsert('workflow_runs', [{ title: 'inserted', progress: '{}', ...times }])
    await queryInterface.bulkUpdate('workflow_runs', { title: 'updated', progress: '{}' }, { title: 'inserted' })
    expect(await Runs.count({ where: { title: 'updated' } })).to.equal(1)
  })

  it('names the line of a function with parentheses in its name', async () => {
    await guarded({ wholeColumnWrites: 'throw' })
    const { 'save (all of it)': save } = { 'save (all of it)': () => run.update({ progress: {} }) }
    const line = hereLine() - 1
    const error = await rejection(save(), WholeColumnWriteError)
    expect(error).to.include({ file: __filename, line })
  })

  it('allows a write of a row that was created in the same transaction', async () => {
    await guarded({ wholeColumnWrites: 'throw' })
    await sequelize.transaction(async (transaction) => {
      const made = await Runs.create({ title: 'a' }, { transaction })
      await made.update({ progress: { a: 1 } }, { transaction })
      const [bulk] = await Runs.bulkCreate([{ id: made.id + 1000, progress: {} }], { transaction })
      await bulk!.update({ progress: { a: 1 } }, { transaction })
      await bulk!.destroy({ transaction })
    })
    await rejection(run.update({ progress: { a: 1 } }), WholeColumnWriteError)
  })

  it('reports a read without the transaction of the enclosing callback, once, and does not refuse it', async () => {
    const seen: GuardReport[] = []
    const onReport = (report: GuardReport): void => void seen.push(report)
    await guarded({ wholeColumnWrites: 'warn', onReport })
    const line = hereLine() + 1
    const read = (): Promise<unknown> => Runs.findByPk(run.id)
    await run.withLock(read)
    await run.withLock(read)
    expect(seen.map(({ code, model, file, line: at }) => [code, model, file, at])).to.deep.equal([
      ['READ_OUTSIDE_TRANSACTION', 'WorkflowRun', __filename, line],
    ])
    expect(seen[0]!.message).to.include('the second argument of the callback of withLock()')
    await read()
    await run.withLock(async (row, transaction) => {
      await row.reload()
      await Runs.findAll({ transaction })
      await Runs.findAll({ transaction: null as never })
    })
    await sequelize.transaction(() => Runs.findOne())
    expect(seen).to.have.length(1)
    await retryTransaction(sequelize, () => Runs.findAll())
    expect(seen[1]!.message).to.include('the first argument of the callback of retryTransaction()')
    for (const wholeColumnWrites of ['allow', 'throw', 'patch'] as const) {
      await guarded({ wholeColumnWrites })
      expect(await warnings(() => run.withLock(() => Runs.findOne()))).to.deep.equal([])
    }
  })

  it('writes if onReport fails, and emits a warning with the write and the error', async () => {
    const failure = new Error('no logger')
    const warned = async (onReport: () => unknown, write: () => Promise<unknown>): Promise<string> => {
      await guarded({ wholeColumnWrites: 'warn', onReport })
      const [[{ message }]] = (await Promise.all([once(process, 'warning'), write()])) as [[Error], unknown]
      return message
    }
    const thrown = await warned(
      () => {
        throw failure
      },
      () => run.update({ progress: { a: 1 } }),
    )
    expect(thrown).to.match(/^onReport failed \(Error: no logger\) for: save: writes the whole "progress"/)
    const rejected = await warned(
      () => Promise.reject(failure),
      () => run.update({ progress: { a: 2 } }),
    )
    expect(rejected).to.match(/^onReport failed \(Error: no logger\) for: save: writes the whole "progress"/)
    expect((await load()).progress).to.deep.equal({ a: 2 })
  })

  it('keeps the change of a refused save in the instance, and says how to discard it', async () => {
    await guarded({ wholeColumnWrites: 'throw' })
    const error = await rejection(run.update({ progress: { a: 1 } }), WholeColumnWriteError)
    expect(error.message).to.match(/ The change stays in the instance until await row\.reload\(\)\.$/)
    expect(run.changed('progress')).to.equal(true)
    await run.reload()
    expect(run.changed('progress')).to.equal(false)
    const bulk = await rejection(Runs.update({ progress: {} }, { where: { id: run.id } }), WholeColumnWriteError)
    expect(bulk.message).to.not.include('reload')
  })

  // Does not depend on the database.
  if (database.isSampled(1, 2))
    it('remembers 1000 call sites, and reports again what it has forgotten', async () => {
      await guarded({ wholeColumnWrites: 'warn', onReport: () => undefined })
      // In one that is over, a write is judged and not sent.
      const transaction = await sequelize.transaction()
      await transaction.commit()
      type Write = (Model: typeof Runs, options: object) => Promise<unknown>
      // A call site each, in a file of their own.
      const line = '(Model, options) => Model.update({ progress: {} }, options),'
      const sites = runInThisContext(`[${`${line}\n`.repeat(1001)}]`, { filename: '/sites.js' }) as Write[]
      const reported = async (first: number, last = first): Promise<unknown> => {
        const seen = await reports(async () => {
          for (const site of sites.slice(first, last + 1)) {
            await rejection(site(Runs, { where: { id: run.id }, transaction }), Error)
          }
        })
        return seen.map(({ line }) => line! - 1)
      }
      const all = Array.from({ length: 1000 }, (_, index) => index)
      expect(await reported(0, 999)).to.deep.equal(all)
      expect(await reported(0, 999)).to.deep.equal([])
      expect(await reported(1000)).to.deep.equal([1000])
      expect(await reported(1, 999)).to.deep.equal([])
      expect(await reported(0)).to.deep.equal([0])
      expect(await reported(2, 1000)).to.deep.equal([])
      expect(await reported(1)).to.deep.equal([1])
    })

  it('reports a write with only Sequelize on the stack', async () => {
    await guarded({ wholeColumnWrites: 'warn' })
    const saved = (): Promise<void> =>
      new Promise((resolve) => {
        Runs.addHook('afterSave', () => {
          resolve()
        })
        run.progress = { step_b: 'done' }
        setImmediate(run.save.bind(run) as () => void)
      })
    const [report] = await reports(saved)
    expect(report).to.include({ method: 'save', file: undefined, line: undefined })
    expect(report!.message).to.include(`id=${run.id}, over whatever was written since`)
  })

  it('allows saves of a model with a version, but not bulk writes', async () => {
    const Versioned = await guardedRuns(sequelize, { wholeColumnWrites: 'throw' }, { version: true })
    const { id } = await Versioned.create({ progress: {} })
    const row = await Versioned.findByPk(id, { rejectOnEmpty: true })
    await row.update({ progress: { a: 1 } })
    await rejection(Versioned.update({ progress: {} }, { where: { id } }), WholeColumnWriteError)
  })

  it('allows a bulk write that compares the version only if it also increments it', async () => {
    const Versioned = await guardedRuns(sequelize, { wholeColumnWrites: 'throw' }, { version: true })
    const { id } = await Versioned.create({ progress: {} })
    await Versioned.update({ version: 7 } as never, { where: { id } })
    const quoted = sequelize.getQueryInterface().quoteIdentifier('version')
    const refused = [7, 6, '7', null, undefined, 7.5, NaN, 'x', col('version'), fn('ABS', 8)]
    for (const sql of ['version', quoted, '0', '8', 'version + 0', 'version - 1', 'other + 1', '0 * version + 1']) {
      refused.push(literal(sql) as never)
    }
    for (const version of refused) {
      const write = Versioned.update({ progress: {}, version } as never, { where: { id, version: 7 } as never })
      await rejection(write, WholeColumnWriteError)
    }
    let version = 7
    const increments = [8, '10', literal('version + 1'), literal(`${quoted}+1`), literal(`( 2 + ${quoted} )`)]
    for (const moved of increments) {
      const where = { id, version } as never
      const [count] = await Versioned.update({ progress: { version }, version: moved } as never, { where })
      expect(count).to.equal(1)
      const row = await Versioned.findByPk(id, { rejectOnEmpty: true })
      expect(row.progress).to.deep.equal({ version })
      ;({ version } = row as unknown as { version: number })
    }
    expect(version).to.equal(14)
  })

  it('guards every model of a Sequelize instance, except models with their own options', async () => {
    const { sequelize: whole } = database.connect()
    const Early = await createRuns(whole)
    expect(lossless(whole, { wholeColumnWrites: 'throw' })).to.equal(whole)
    const Late = await createRuns(whole)
    const Own = lossless(await createRuns(whole), { wholeColumnWrites: 'allow' })
    for (const Model of [Early, Late, Late.unscoped(), Late.scope([])]) {
      const { id } = await Model.create({ progress: {} })
      const row = await Model.findByPk(id, { rejectOnEmpty: true })
      await rejection(row.update({ progress: { a: 1 } }), WholeColumnWriteError)
    }
    const row = await Own.create({ progress: {} })
    await row.update({ progress: { a: 1 } })
    lossless(whole, { wholeColumnWrites: 'allow' })
    await (await Early.create({ progress: {} })).update({ progress: { a: 1 } })
    lossless(whole, { wholeColumnWrites: { save: 'patch' } })
    const Strict = lossless(await createRuns(whole), { conflicts: 'throw' })
    const stale = await Strict.create({ progress: { a: 1 } })
    await mergeJsonKey([Strict, stale.id], 'progress', 'a', 'theirs')
    stale.progress!['a'] = 'mine'
    await rejection(stale.save(), StaleRowError)
  })

  it('keeps conflicts: "throw" of the Sequelize instance, and of an earlier call, beside modes for other kinds of write', async () => {
    const { sequelize: whole } = database.connect()
    lossless(whole, { wholeColumnWrites: 'patch', conflicts: 'throw' })
    const Own = lossless(await createRuns(whole), { wholeColumnWrites: { save: 'patch', bulk: 'throw' } })
    const Again = lossless(await createRuns(whole), { wholeColumnWrites: 'patch', conflicts: 'throw' })
    lossless(Again, { wholeColumnWrites: 'patch' })
    for (const Runs of [Own, Again]) {
      const row = await Runs.create({ progress: { a: 1 } })
      await mergeJsonKey([Runs, row.id], 'progress', 'a', 'theirs')
      await rejection(row.update({ progress: { a: 'mine' } }), StaleRowError)
    }
  })

  it('guards a subclass, and a model that is initialised again, in another Sequelize instance', async () => {
    const Base = await createRuns(sequelize)
    lossless(Base, { wholeColumnWrites: 'throw' })
    const Sub = class extends Base {}
    for (const Model of [Sub, Base]) {
      const { sequelize: other } = database.connect()
      const options = { sequelize: other, modelName: 'Other', tableName: Base.tableName }
      Model.init({ ...Base.getAttributes() }, options)
      const { id } = await Model.create({ progress: {} })
      const loaded = await Model.findByPk(id, { rejectOnEmpty: true })
      await rejection(loaded.update({ progress: { a: 1 } }), WholeColumnWriteError)
      await rejection(Model.update({ progress: { a: 1 } }, { where: { id } }), WholeColumnWriteError)
      await rejection(Model.upsert({ id, progress: { a: 1 } }), WholeColumnWriteError)
      const records = [{ id, progress: { a: 1 } }]
      await rejection(Model.bulkCreate(records, { updateOnDuplicate: ['progress'] }), WholeColumnWriteError)
      expect((await Model.findByPk(id))!.progress).to.deep.equal({})
    }
  })

  it('reports a write, and sends it, if Error.prepareStackTrace makes no text of a stack', async () => {
    // A new instance has reported no write without a call site.
    const Runs = await guardedRuns(database.connect().sequelize, { wholeColumnWrites: 'warn' })
    const { id } = await Runs.create({ progress: {} })
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    const errors = Error as { prepareStackTrace?: (error: Error, frames: NodeJS.CallSite[]) => unknown }
    const { prepareStackTrace } = errors
    errors.prepareStackTrace = (_error, frames) => frames
    try {
      const seen = await reports(() => run.update({ progress: { a: 1 } }))
      expect(seen.map(({ file }) => file)).to.deep.equal([undefined])
    } finally {
      errors.prepareStackTrace = prepareStackTrace!
    }
    expect((await Runs.findByPk(id))!.progress).to.deep.equal({ a: 1 })
  })

  it('refuses another mode than "allow" as the option of a call', async () => {
    const Runs = await guardedRuns(sequelize, { wholeColumnWrites: 'warn' })
    const { id } = await Runs.create({ progress: {} })
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    const options = { wholeColumnWrites: 'throw' as never }
    for (const call of [
      () => run.update({ progress: { a: 1 } }, options),
      () => Runs.update({ progress: { a: 1 } }, { where: { id }, ...options }),
      () => Runs.upsert({ id, progress: { a: 1 } }, options),
    ]) {
      await rejection(call(), UsageError)
    }
    expect((await Runs.findByPk(id))!.progress).to.deep.equal({})
  })

  it('keeps its modes if the object of the call is changed, and takes undefined for a mode that is left out', async () => {
    const modes = { save: 'throw', bulk: undefined, upsert: 'allow' } as { save: 'throw' | 'allow' }
    const Runs = await guardedRuns(sequelize, { wholeColumnWrites: modes })
    const { id } = await Runs.create({ progress: {} })
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    await Runs.update({ progress: { a: 1 } }, { where: { id } })
    modes.save = 'allow'
    await rejection(run.update({ progress: { b: 1 } }), WholeColumnWriteError)
  })

  it('guards a subclass by what its base class is given after the first call', async () => {
    const Base = await createRuns(sequelize, { charset: 'utf8mb4' })
    const Sub = class extends Base {}
    Sub.init({ ...Base.getAttributes() }, { sequelize, modelName: 'Sub', tableName: Base.tableName })
    const row = await Sub.create({ progress: {} })
    await row.mergeJsonKey('progress', 'a', 1)
    await row.update({ progress: { b: 1 } })
    lossless(Base, { wholeColumnWrites: 'throw' })
    await rejection(row.update({ progress: { c: 1 } }), WholeColumnWriteError)
    lossless(Sub, { wholeColumnWrites: 'allow' })
    await row.update({ progress: { d: 1 } })
    lossless(Base, { jsonColumns: ['title'] as never })
    await Sub.update({ title: '{}' }, { where: { id: row.id } })
    await row.mergeJsonKey('title' as 'progress', 'a', 1)
    const { title } = await Sub.findByPk(row.id, { rejectOnEmpty: true })
    expect(JSON.parse(title!)).to.deep.equal({ a: 1 })
  })
})

eachDatabase('the version of a guarded row after a rollback', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  let row: WorkflowRun

  before(() => {
    ;({ sequelize } = database.connect())
  })

  /** The writes that move the version in memory. */
  const writes: Record<string, (transaction: Transaction) => Promise<unknown>> = {
    'update()': (transaction) => row.update({ progress: { ...row.progress, b: 1 } }, { transaction }),
    'update() of another column': (transaction) => row.update({ title: 'b' }, { transaction }),
    'updateJson()': (transaction) => row.updateJson('progress', [set('b', 1)], { transaction }),
    'update() in a savepoint': (transaction) =>
      sequelize.transaction({ transaction }, (savepoint) =>
        row.update({ progress: { ...row.progress, b: 1 } }, { transaction: savepoint }),
      ),
  }

  const add = (key: string, options = {}): Promise<unknown> =>
    row.update({ progress: { ...row.progress, [key]: 1 } }, options)

  async function stored(): Promise<unknown> {
    return (await Runs.findByPk(row.id, { rejectOnEmpty: true })).progress
  }

  // Sequelize sends NaN as the next one after NULL, which the other drivers refuse.
  if (database.dialect === 'mysql' || database.dialect === 'sqlite') {
    it('differs, if only one of both is NULL', async () => {
      const attributes = { progress: DataTypes.JSON, version: DataTypes.INTEGER }
      const Nullable = sequelize.define('Nullable', attributes, { version: true, tableName: 'nullable_versions' })
      await lossless(Nullable, { wholeColumnWrites: 'patch' }).sync({ force: true })
      const { id } = (await Nullable.create({ progress: { a: 1 } })).get() as { id: number }
      const move = (version: number | null): Promise<unknown> => Nullable.update({ version }, { where: { id } })
      await move(null)
      const old = await Nullable.findByPk(id, { rejectOnEmpty: true })
      expect(old.get('version')).to.equal(null)
      await move(0)
      const error = await rejection(old.update({ progress: { a: 2 } }), OptimisticLockError)
      expect(error).not.to.be.instanceOf(ConflictError)
    })
  }

  for (const wholeColumnWrites of ['throw', 'patch'] as const) {
    describe(`'${wholeColumnWrites}'`, () => {
      beforeEach(async () => {
        Runs = await guardedRuns(sequelize, { wholeColumnWrites }, { version: true })
        const { id } = await Runs.create({ progress: { a: 1 } })
        row = await Runs.findByPk(id, { rejectOnEmpty: true })
      })

      async function undone(write: (transaction: Transaction) => Promise<unknown>): Promise<void> {
        const failed = sequelize.transaction(async (transaction) => {
          await write(transaction)
          throw new RangeError('undo')
        })
        await rejection(failed, RangeError)
      }

      for (const [title, write] of Object.entries(writes)) {
        it(`is not trusted after ${title}: another session may have stored the same`, async () => {
          await undone(write)
          await mergeJsonKey([Runs, row.id], 'progress', 'other', 1)
          if (wholeColumnWrites === 'throw') await rejection(add('c'), WholeColumnWriteError)
          else await add('c')
          expect(await stored()).to.include({ a: 1, other: 1 })
          await row.reload()
          await add('d')
          expect(await stored()).to.include({ a: 1, other: 1, d: 1 })
        })
      }

      it('is compared all the same, with another one that is stored', async () => {
        await undone((transaction) => add('b', { transaction }))
        for (const value of [1, 2]) await mergeJsonKey([Runs, row.id], 'progress', 'other', value)
        if (wholeColumnWrites === 'throw') await rejection(add('c'), WholeColumnWriteError)
        else expect(await rejection(add('c'), OptimisticLockError)).not.to.be.instanceOf(ConflictError)
        expect(await stored()).to.deep.equal({ a: 1, other: 2 })
      })

      it('is compared by an update() that repeats the undone one', async () => {
        await undone((transaction) => add('b', { transaction }))
        // Under 'throw' as for Sequelize: the document in memory is the same, so it sends nothing.
        if (wholeColumnWrites === 'throw') await add('b')
        else expect(await rejection(add('b'), OptimisticLockError)).not.to.be.instanceOf(ConflictError)
        expect(await stored()).to.deep.equal({ a: 1 })
        await row.reload()
        await add('b')
        expect(await stored()).to.deep.equal({ a: 1, b: 1 })
      })

      it('leaves the change to the next save, if it differs', async () => {
        await undone((transaction) => add('b', { transaction }))
        row.progress = { a: 1, c: 1 }
        if (wholeColumnWrites === 'throw') await rejection(row.save(), WholeColumnWriteError)
        else await rejection(row.save(), OptimisticLockError)
        await (await Runs.findByPk(row.id, { rejectOnEmpty: true })).update({ title: 'moves the version' })
        if (wholeColumnWrites === 'throw') await rejection(row.save(), WholeColumnWriteError)
        else await row.save()
        expect(await stored()).to.deep.equal(wholeColumnWrites === 'throw' ? { a: 1 } : { a: 1, c: 1 })
      })

      it('locks no row with a save that it refuses', async () => {
        await sequelize.transaction(async (transaction) => {
          await Runs.update({ title: 'b', version: 7 } as never, { where: { id: row.id }, transaction })
          await rejection(add('c', { transaction }), OptimisticLockError)
          const replace = Runs.update({ progress: {} }, { where: { id: row.id }, transaction })
          await rejection(replace, WholeColumnWriteError)
        })
        expect(await stored()).to.deep.equal({ a: 1 })
      })

      it('is trusted after a transaction of this library, which restores it', async () => {
        const failed = row.withLock(async () => {
          await add('b')
          throw new RangeError('undo')
        })
        await rejection(failed, RangeError)
        await add('c')
        expect(await stored()).to.deep.equal({ a: 1, c: 1 })
        await mergeJsonKey([Runs, row.id], 'progress', 'other', 1)
        await rejection(add('d'), OptimisticLockError)
      })

      it('is trusted after a commit, and not after a savepoint that was rolled back', async () => {
        await sequelize.transaction((transaction) => add('b', { transaction }))
        await add('c')
        await sequelize.transaction(async (transaction) => {
          const failed = sequelize.transaction({ transaction }, async (savepoint) => {
            await add('d', { transaction: savepoint })
            throw new RangeError('undo')
          })
          await rejection(failed, RangeError)
          if (wholeColumnWrites === 'throw') await rejection(add('e', { transaction }), WholeColumnWriteError)
        })
        expect(await stored()).to.deep.equal({ a: 1, b: 1, c: 1 })
      })
    })
  }
})
