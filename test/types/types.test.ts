import { expectTypeOf } from 'expect-type'
import { DataTypes, Model } from 'sequelize'
import type {
  Attributes,
  CreationOptional,
  InferAttributes,
  InferCreationAttributes,
  Sequelize,
  Transaction,
} from 'sequelize'
import {
  absent,
  addToSet,
  append,
  assign,
  atLeast,
  atMost,
  atomicUpdate,
  atomicUpsert,
  compareAndSetJson,
  contains,
  equals,
  exists,
  greaterThan,
  increment,
  lessThan,
  lossless,
  matching,
  merge,
  mergeJsonKey,
  not,
  plus,
  prepend,
  pull,
  remove,
  rename,
  replaceOrAppend,
  set,
  setIfAbsent,
  size,
  updateJson,
  withLock,
} from 'sequelize-lossless'
import type { Condition, JsonColumn, JsonKey, JsonKeyValue, Lossless } from 'sequelize-lossless'

interface Progress {
  step_a?: 'done' | 'failed'
  attempts: number
  note: string | null
}

interface Item {
  id: number
  isDone?: boolean
  notes?: { by: string; stars: number }[]
}

class Run extends Model<InferAttributes<Run>, InferCreationAttributes<Run>> {
  declare id: CreationOptional<number>
  declare title: string
  declare progress: Progress | null
  declare anything: CreationOptional<any>
  declare unknown: unknown
  declare tags: CreationOptional<string[]>
  declare items: Item[] | null
  declare finishedAt: CreationOptional<Date>
  declare picture: CreationOptional<Buffer>
}
interface Run extends Lossless<Run> {}

/** Compiled, never run: every line is an expectation, and a wrong use that compiled would be an unused directive. */
export async function typed(run: Run, sequelize: Sequelize, transaction: Transaction): Promise<void> {
  // Right uses.
  await run.mergeJsonKey('progress', 'step_a', 'done')
  await run.mergeJsonKey('progress', 'attempts', 3, { transaction, returning: true })
  await run.mergeJsonKey('progress', 'note', null)
  await run.mergeJsonKey('anything', 'whatever', { deep: [1] })
  await run.mergeJsonKey('unknown', 'whatever', 'text')
  await mergeJsonKey([Run, 7], 'progress', 'step_a', 'failed')
  await mergeJsonKey(run, 'progress', 'attempts', 1)

  // Columns of text, by the type of the document that their getter returns.
  lossless(Run, { jsonColumns: ['progress', 'items'], wholeColumnWrites: 'warn' })
  // @ts-expect-error not declared as a document
  lossless(Run, { jsonColumns: ['title'] })
  // @ts-expect-error attributes of one model
  lossless(sequelize, { jsonColumns: ['progress'] })

  // Create or change.
  const isNew = await atomicUpsert(
    [Run, 7],
    { progress: [set('step_a', 'done'), increment('attempts')], title: 'x' },
    { create: { progress: { attempts: 0, note: null } }, transaction },
  )
  expectTypeOf(isNew).toEqualTypeOf<boolean>()
  await atomicUpsert([Run, { where: { title: 'x' } }], { progress: [remove('step_a')] })
  // @ts-expect-error a row that is loaded is there
  await atomicUpsert(run, { title: 'x' })
  // @ts-expect-error not a value of the document
  await atomicUpsert([Run, 7], { progress: [set('step_a', 1)] })
  // @ts-expect-error no such attribute
  await atomicUpsert([Run, 7], { title: 'x' }, { create: { nothing: 1 } })
  // @ts-expect-error not the type of the document
  await atomicUpsert([Run, 7], { title: 'x' }, { create: { progress: { attempts: 'x' } } })

  // What comes back.
  const same = await run.mergeJsonKey('progress', 'attempts', 1)
  expectTypeOf(same).toEqualTypeOf<Run>()
  const document = await mergeJsonKey([Run, 7], 'progress', 'attempts', 1, { returning: true })
  expectTypeOf(document).toEqualTypeOf<Progress>()
  const nothing = await mergeJsonKey([Run, 7], 'progress', 'attempts', 1)
  expectTypeOf(nothing).toBeUndefined()
  const number = await run.withLock(async (row, { afterCommit }) => {
    expectTypeOf(row).toEqualTypeOf<Run>()
    afterCommit(() => undefined)
    await row.save()
    return row.title.length
  })
  expectTypeOf(number).toEqualTypeOf<number>()
  const title = await withLock([Run, 7], (row) => row.title)
  expectTypeOf(title).toEqualTypeOf<string>()

  // Arrays.
  await run.updateJson('items', [append([], { id: 1 }, { id: 2, isDone: true })])
  await run.updateJson('items', [set([0, 'isDone'], true), increment([-1, 'notes', 0, 'stars'])])
  await run.updateJson('items', [assign([matching({ id: 7 })], { isDone: true })], { if: [size([], { atMost: 9 })] })
  await run.updateJson('items', [replaceOrAppend([], 'id', { id: 7, isDone: false })])
  await run.updateJson('items', [pull([], matching({ id: 7 }))], { if: [exists([matching({ id: 7 })])] })
  expectTypeOf(await updateJson([Run, 7], 'items', [prepend([], { id: 1 })], { returning: true })).toEqualTypeOf<
    Item[]
  >()
  await run.atomicUpdate({ items: [remove([matching({ id: 7 })])], title: 'x' })
  // @ts-expect-error not an item
  await run.updateJson('items', [append([], { id: '1' })])
  // @ts-expect-error not a value of that key
  await run.updateJson('items', [set([matching({ id: 7 }), 'isDone'], 1)])
  // @ts-expect-error no such key in an item
  await run.updateJson('items', [set([0, 'done'], true)])
  // @ts-expect-error a key of an array
  await run.updateJson('items', [set(['id'], 1)])
  // @ts-expect-error an index of an object
  await run.updateJson('progress', [set([0], 1)])
  // @ts-expect-error an object is no array
  await run.updateJson('progress', [append([], 1)])

  // Several columns.
  const changed = await run.atomicUpdate({ progress: [set('step_a', 'done'), increment('attempts')], title: 'x' })
  expectTypeOf(changed).toEqualTypeOf<Run>()
  const stored = await atomicUpdate([Run, 7], { progress: [set('note', null)] }, { returning: true })
  expectTypeOf(stored).toEqualTypeOf<Run>()
  const none = await atomicUpdate(
    [Run, 7],
    { title: 'x' },
    { where: { title: 'y' }, if: { progress: [absent('note')] } },
  )
  expectTypeOf(none).toBeUndefined()
  await run.atomicUpdate({ finishedAt: new Date(), tags: ['a'], anything: [set(['a', 'b'], 1)] })
  // @ts-expect-error not a value of that key
  await run.atomicUpdate({ progress: [set('step_a', 'finished')] })
  // @ts-expect-error a document takes operations
  await run.atomicUpdate({ progress: { attempts: 1, note: null } })
  // @ts-expect-error not a value of that column
  await run.atomicUpdate({ title: 7 })
  // @ts-expect-error a sum for a date
  await run.atomicUpdate({ finishedAt: plus(1) })
  // @ts-expect-error no such column
  await run.atomicUpdate({ titel: 'x' })
  await mergeJsonKey([Run, { where: { title: 'x', id: [1, 2] } }], 'progress', 'step_a', 'done')
  await withLock([Run, { where: { title: 'x' } }], (locked) => expectTypeOf(locked).toEqualTypeOf<Run>())
  // @ts-expect-error no such column in the where of a target
  await mergeJsonKey([Run, { where: { titel: 'x' } }], 'progress', 'step_a', 'done')
  // @ts-expect-error no such column in where
  await run.atomicUpdate({ title: 'x' }, { where: { titel: 'y' } })
  // @ts-expect-error conditions belong to a JSON column
  await run.atomicUpdate({ title: 'x' }, { if: { title: [absent('a')] } })

  // @ts-expect-error not a JSON column
  await run.mergeJsonKey('title', 'a', 1)
  // @ts-expect-error an array is not a document
  await run.mergeJsonKey('tags', 'length', 1)
  // @ts-expect-error a Date is not a document
  await run.mergeJsonKey('finishedAt', 'getTime', 1)
  // @ts-expect-error a Buffer is not a document
  await run.mergeJsonKey('picture', 'length', 1)
  // @ts-expect-error no such column
  await run.mergeJsonKey('progres', 'step_a', 'done')
  // @ts-expect-error no such key
  await run.mergeJsonKey('progress', 'step_z', 'done')
  // @ts-expect-error not a value of that key
  await run.mergeJsonKey('progress', 'step_a', 'finished')
  // @ts-expect-error undefined is not JSON
  await run.mergeJsonKey('progress', 'step_a', undefined)
  // @ts-expect-error null is not a value of that key
  await run.mergeJsonKey('progress', 'attempts', null)
  // @ts-expect-error a misspelt option
  await run.mergeJsonKey('progress', 'attempts', 1, { transation: transaction })
  // @ts-expect-error the same for the function
  await mergeJsonKey([Run, 7], 'progress', 'step_a', 'finished')
  // @ts-expect-error there is no form that takes a where
  await mergeJsonKey(Run, { where: { id: 7 } }, 'progress', 'attempts', 1)
  // @ts-expect-error fn is missing
  await run.withLock({ transaction })

  // create() stays strict, attributes stay what they were.
  // @ts-expect-error title is missing
  await Run.create({ progress: null, unknown: 1 })
  expectTypeOf<Attributes<Run>>().not.toHaveProperty('withLock')
  expectTypeOf<Attributes<Run>['title']>().toEqualTypeOf<string>()

  // A class keeps its own type, a defined model gains the methods.
  const same2 = lossless(Run)
  expectTypeOf(same2).toEqualTypeOf<typeof Run>()
  interface SettingModel extends Model<InferAttributes<SettingModel>, InferCreationAttributes<SettingModel>> {
    id: CreationOptional<number>
    value: { theme: 'dark' | 'light' }
  }
  const Setting = lossless(sequelize.define<SettingModel>('Setting', { id: DataTypes.INTEGER, value: DataTypes.JSON }))
  const setting = await Setting.findByPk(1, { rejectOnEmpty: true })
  await setting.withLock((row) => row.mergeJsonKey('value', 'theme', 'light'))
  await setting.mergeJsonKey('value', 'theme', 'dark')
  // @ts-expect-error not a value of that key
  await setting.mergeJsonKey('value', 'theme', 'blue')
  // @ts-expect-error create stays strict here too
  await Setting.create({})

  // Operations fit the document, path by path.
  class Job extends Model<InferAttributes<Job>, InferCreationAttributes<Job>> {
    declare id: CreationOptional<number>
    declare stats: {
      attempts?: number
      log: { lines: string[]; level: 'info' | 'error' }
      tags: { name: string }[]
      note: string | null
      deep: { a: { b: { c: { d: number } } } }
    }
    declare anything: CreationOptional<any>
    declare dictionary: Record<string, { count: number }>
  }
  interface Job extends Lossless<Job> {}
  const job = await Job.findByPk(1, { rejectOnEmpty: true })
  const lines: string[] = []
  await job.updateJson('stats', [
    increment('attempts'),
    append(['log', 'lines'], 'text'),
    set(['log', 'level'], 'error'),
  ])
  await job.updateJson('stats', [addToSet('tags', { name: 'x' }), setIfAbsent('note', null), remove('attempts')])
  await job.updateJson('stats', [set(['log', 'lines'], lines), increment(['deep', 'a', 'b', 'c', 'd'], 2)])
  await job.updateJson('stats', [merge('log', { level: 'info' }), merge('deep', { a: null })])
  await job.updateJson('stats', [pull('tags', { name: 'x' }), pull(['log', 'lines'], 'text')])
  await job.updateJson('anything', [rename(['a', 'b'], 'c'), pull('list', 1)])
  await job.updateJson('dictionary', [rename('anybody', 'somebody')])
  await job.updateJson('anything', [set(['a', 'b'], 1), increment('n'), append('list', 'x')])
  await job.updateJson('dictionary', [increment(['anybody', 'count'])])
  await job.mergeJson('stats', { attempts: null, log: { level: 'info' } })
  const stats = await updateJson([Job, 1], 'stats', [increment('attempts')], { returning: true })
  expectTypeOf(stats).toEqualTypeOf<Job['stats']>()
  const wasSet = await job.compareAndSetJson('stats', ['log', 'level'], 'info', 'error', { if: [absent('note')] })
  expectTypeOf(wasSet).toBeBoolean()
  await compareAndSetJson([Job, 1], 'stats', 'note', null, 'text')
  // @ts-expect-error not a value at that path
  await job.compareAndSetJson('stats', ['log', 'level'], 'info', 'warning')
  // @ts-expect-error no such key
  await job.updateJson('stats', [increment('attemps')])
  // @ts-expect-error no such path
  await job.updateJson('stats', [set(['log', 'lvl'], 'error')])
  // @ts-expect-error not a value at that path
  await job.updateJson('stats', [set(['log', 'level'], 'warning')])
  // @ts-expect-error not a number
  await job.updateJson('stats', [increment('note')])
  // @ts-expect-error not an array
  await job.updateJson('stats', [append('note', 'x')])
  // @ts-expect-error not an element
  await job.updateJson('stats', [append(['log', 'lines'], 5)])
  // @ts-expect-error not an element
  await job.updateJson('stats', [pull('tags', 'x')])
  // @ts-expect-error no such key
  await job.updateJson('stats', [rename(['log', 'level'], 'lvl')])
  // @ts-expect-error the value does not fit that key
  await job.updateJson('stats', [rename(['log', 'lines'], 'level')])
  // @ts-expect-error one of several does not fit
  await job.updateJson('stats', [increment('attempts'), addToSet('tags', 'x')])
  // @ts-expect-error the path of a dictionary ends in a number
  await job.updateJson('dictionary', [set(['anybody', 'count'], 'x')])
  // @ts-expect-error not a value of that key
  await job.mergeJson('stats', { attempts: 'x' })
  // @ts-expect-error the same for the function
  await updateJson([Job, 1], 'stats', [increment('note')])

  // Several keys.
  await job.updateJson('stats', [assign('log', { level: 'info', lines }), assign([], { attempts: 1, note: null })])
  await job.updateJson('anything', [assign(['a', 'b'], { c: [1] }), remove('x', ['a', 'z'])])
  await job.updateJson('dictionary', [assign([], { anybody: { count: 1 } })])
  await job.updateJson('stats', [remove('attempts', 'note', ['log', 'level'])])
  await updateJson([Job, 1], 'dictionary', [remove('anybody', ...lines)])
  // @ts-expect-error not a value of that key
  await job.updateJson('stats', [assign('log', { level: 'warning' })])
  // @ts-expect-error no such key
  await job.updateJson('stats', [assign('log', { level: 'info', lvl: 1 })])
  // @ts-expect-error not an object
  await job.updateJson('stats', [assign('note', { a: 1 })])
  // @ts-expect-error null is not a value of that key
  await job.updateJson('stats', [assign([], { attempts: null })])
  // @ts-expect-error no such key among several
  await job.updateJson('stats', [remove('attempts', 'note', ['log', 'lvl'])])

  // Conditions fit the document, path by path.
  await job.updateJson('stats', [increment('attempts')], {
    if: [
      atLeast('attempts', 1),
      not(greaterThan(['attempts'], 10n)),
      lessThan('note', 'text'),
      atMost(['deep', 'a', 'b', 'c', 'd'], 1.5),
      contains('tags', { name: 'x' }),
      not(contains(['log', 'lines'], 'text')),
      size(['log', 'lines'], { atMost: 9 }),
      size('log', 2),
      equals('note', null),
      not(exists('attempts')),
      absent(['log', 'level']),
    ],
  })
  const some: Condition[] = [exists('attempts')]
  await job.mergeJson('stats', {}, { if: some })
  await mergeJsonKey([Job, 1], 'anything', 'a', 1, { if: [lessThan(['a', 'b'], 1), contains('list', 1), size('x', 1)] })
  await atomicUpdate([Job, 1], { anything: [set('a', 1)] }, { if: { stats: [atLeast('attempts', 1)] } })
  const level: string = 'info'
  // @ts-expect-error no such key
  await job.updateJson('stats', [increment('attempts')], { if: [exists('attemps')] })
  // @ts-expect-error no such path
  await updateJson([Job, 1], 'stats', [increment('attempts')], { if: [exists('note'), lessThan(['log', 'lvl'], 1)] })
  // @ts-expect-error no such key, in a negation
  await job.mergeJsonKey('stats', 'note', 'x', { if: [not(exists('attemps'))] })
  // @ts-expect-error not a value at that path
  await job.updateJson('stats', [increment('attempts')], { if: [equals(['log', 'level'], level)] })
  // @ts-expect-error the same in a negation
  await job.updateJson('stats', [increment('attempts')], { if: [not(equals(['log', 'level'], 'warning'))] })
  // @ts-expect-error a number is not compared with a text
  await mergeJsonKey(job, 'stats', 'note', 'x', { if: [lessThan('attempts', '1')] })
  // @ts-expect-error an array has no order
  await job.mergeJson('stats', {}, { if: [atMost('tags', 1)] })
  // @ts-expect-error a boolean has no order
  greaterThan('attempts', true)
  // @ts-expect-error not an item
  await job.compareAndSetJson('stats', 'note', null, 'x', { if: [contains('tags', 'x')] })
  // @ts-expect-error not an array
  await job.mergeJson('stats', {}, { if: [contains('note', 'x')] })
  // @ts-expect-error a number has no size
  await job.mergeJson('stats', {}, { if: [size('attempts', 1)] })
  // @ts-expect-error a size has atLeast and atMost
  size('tags', { lessThan: 1 })
  // @ts-expect-error no such key of that column
  await job.atomicUpdate({ anything: [set('a', 1)] }, { if: { stats: [exists('attemps')] } })
  // @ts-expect-error the same for the function
  await atomicUpdate([Job, 1], { anything: [set('a', 1)] }, { if: { stats: [atLeast('attempts', '1')] } })
  // @ts-expect-error not a condition
  not('attempts')

  // Each member of a union has keys of its own; a numeric key is the text that JSON has.
  class Mixed extends Model<InferAttributes<Mixed>, InferCreationAttributes<Mixed>> {
    declare id: CreationOptional<number>
    declare event: { kind: 'a'; x: number } | { kind: 'b'; y: string }
    declare slots: { 1: 'free' | 'taken' }
    declare seen: CreationOptional<Map<string, string>>
  }
  interface Mixed extends Lossless<Mixed> {}
  const mixed = await Mixed.findByPk(1, { rejectOnEmpty: true })
  await mixed.mergeJsonKey('event', 'x', 1)
  await mixed.mergeJsonKey('event', 'y', 'text')
  await mixed.mergeJsonKey('slots', '1', 'taken')
  // @ts-expect-error not a value of that key
  await mixed.mergeJsonKey('event', 'x', 'text')
  // @ts-expect-error a Map is not a document
  await mixed.mergeJsonKey('seen', 'size', 1)

  // A row or its name, whichever the caller had.
  const either = Math.random() < 1 ? run : ([Run, 7] as const)
  expectTypeOf(await mergeJsonKey(either, 'progress', 'step_a', 'done')).toEqualTypeOf<Run | undefined>()
  await withLock(either, (row) => row.save())

  // What comes back if the compiler does not know the option.
  const returning = Math.random() < 1
  const maybe = await mergeJsonKey([Run, 7], 'progress', 'attempts', 1, { returning })
  expectTypeOf(maybe).toEqualTypeOf<Progress | undefined>()
  const kept = { returning: true }
  expectTypeOf(await updateJson([Run, 7], 'progress', [increment('attempts')], kept)).toEqualTypeOf<
    Progress | undefined
  >()
  expectTypeOf(await atomicUpdate([Run, 7], { title: 'x' }, kept)).toEqualTypeOf<Run | undefined>()
  expectTypeOf(await mergeJsonKey(run, 'progress', 'attempts', 1, { returning })).toEqualTypeOf<Run>()

  // A function as a value.
  const write: (row: Run, column: 'progress', key: 'step_a', value: 'done') => Promise<Run> = mergeJsonKey
  const stub = (...args: Parameters<typeof mergeJsonKey>): Promise<unknown> => Promise.resolve(args)
  await Promise.all([write(run, 'progress', 'step_a', 'done'), stub([Run, 7], 'progress', 'step_a', 'done')])

  // A helper for every model: passed through, or on rows without types.
  async function through<M extends Model, C extends JsonColumn<M>, K extends JsonKey<M, C>>(
    row: M,
    column: C,
    key: K,
    value: JsonKeyValue<M, C, K>,
  ): Promise<M> {
    return mergeJsonKey(row, column, key, value)
  }
  expectTypeOf(await through(run, 'progress', 'step_a', 'done')).toEqualTypeOf<Run>()
  // @ts-expect-error no such key
  await through(run, 'progress', 'step_z', 'done')
  async function touch<M extends Model>(row: M): Promise<M> {
    await mergeJsonKey(row as Model, 'progress', 'touched', true)
    await updateJson(row as Model, 'progress', [increment('touches')])
    return row
  }
  expectTypeOf(await touch(run)).toEqualTypeOf<Run>()

  // A model without any types is not checked.
  const Untyped = lossless(sequelize.define('Untyped', { data: DataTypes.JSON }))
  const untyped = await Untyped.findByPk(1, { rejectOnEmpty: true })
  await untyped.mergeJsonKey('data', 'k', 1)
  await mergeJsonKey([Untyped, 1], 'data', 'k', 1)

  // A model without declared attributes, as in sequelize-typescript, is checked by the fields of its class.
  class Loose extends Model {
    declare id: number
    declare data: { a: number }
  }
  const loose = await Loose.findByPk(1, { rejectOnEmpty: true })
  await mergeJsonKey(loose, 'data', 'a', 1)
  // @ts-expect-error not a JSON column
  await mergeJsonKey(loose, 'id', 'a', 1)
}
