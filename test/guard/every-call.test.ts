import { expect } from 'chai'
import { DataTypes, Model, QueryTypes } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import { lossless, WholeColumnWriteError } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { isSampled } from '../sample.js'

/** What a call is made with: models of which the tables have the same rows before each call. */
interface World {
  readonly sequelize: Sequelize
  readonly query: Loose
  /** Has a JSON column and associations; paranoid. */
  readonly Item: Loose
  /** A subclass of a model, without a JSON column. */
  readonly Tag: Loose
  /** The item with id 1. */
  readonly item: Loose
  readonly log: string[]
}

/** A part of Sequelize that is called as JavaScript does. */
type Loose = Record<string, (...args: unknown[]) => unknown>

const loose = (value: unknown): Loose => value as Loose

type Call = (world: World, options: object | undefined) => unknown

/** The ways to make each call. `undefined`: the argument is left out. */
const ways: readonly (readonly [title: string, options: object | undefined, isInTransaction?: true])[] = [
  ['without options', undefined],
  ['{}', {}],
  ['hooks: false', { hooks: false }],
  ['in a transaction', {}, true],
]

const where = { id: 1 }
const both = (one: object, options: object | undefined): object => ({ ...one, ...options })

const reads: Record<string, Call> = {
  'Model.findAll': ({ Item }, options) => Item['findAll']!(options),
  'Model.findAll of attributes': ({ Item }, options) => Item['findAll']!(both({ attributes: ['title'] }, options)),
  'Model.findAll with include': ({ Item }, options) => Item['findAll']!(both({ include: 'tags' }, options)),
  'Model.findByPk': ({ Item }, options) => Item['findByPk']!(1, options),
  'Model.findOne': ({ Item }, options) => Item['findOne']!(options),
  'Model.findAndCountAll': ({ Item }, options) => Item['findAndCountAll']!(options),
  'Model.count': ({ Item }, options) => Item['count']!(options),
  'Model.max': ({ Item }, options) => Item['max']!('count', options),
  'Model.sum': ({ Item }, options) => Item['sum']!('count', options),
  'Model.unscoped().findAll': ({ Item }, options) => loose(Item['unscoped']!())['findAll']!(options),
  'row.reload': ({ item }, options) => item['reload']!(options),
  'row.getTags': ({ item }, options) => item['getTags']!(options),
  'row.countTags': ({ item }, options) => item['countTags']!(options),
  'queryInterface.select': ({ query, Item }, options) => query['select']!(Item, 'every_items', options),
  'queryInterface.describeTable': ({ query }, options) => query['describeTable']!('every_items', options),
  'sequelize.query SELECT': ({ sequelize }, options) =>
    sequelize.query('SELECT id, title FROM every_items', both({ type: QueryTypes.SELECT }, options)),
}

/** Writes that leave the JSON column alone. */
const writes: Record<string, Call> = {
  'Tag.create': ({ Tag }, options) => Tag['create']!({ name: 'new' }, options),
  'Tag.bulkCreate': ({ Tag }, options) => Tag['bulkCreate']!([{ name: 'a' }, { name: 'b' }], options),
  'Tag.bulkCreate of duplicates': ({ Tag }, options) =>
    Tag['bulkCreate']!([{ id: 1, name: 'a' }], both({ updateOnDuplicate: ['name'] }, options)),
  'Tag.bulkCreate, ignoreDuplicates': ({ Tag }, options) =>
    Tag['bulkCreate']!([{ id: 1, name: 'a' }], both({ ignoreDuplicates: true }, options)),
  'Tag.upsert': ({ Tag }, options) => Tag['upsert']!({ id: 1, name: 'upserted' }, options),
  'Tag.findOrCreate': ({ Tag }, options) => Tag['findOrCreate']!(both({ where: { name: 'made' } }, options)),
  'Tag.findCreateFind': ({ Tag }, options) => Tag['findCreateFind']!(both({ where: { name: 'made' } }, options)),
  'Tag.findOrBuild': ({ Tag }, options) => Tag['findOrBuild']!(both({ where: { name: 'made' } }, options)),
  'Tag.update': ({ Tag }, options) => Tag['update']!({ name: 'x' }, both({ where }, options)),
  'Tag.update without a where': ({ Tag }, options) => Tag['update']!({ name: 'x' }, options),
  'Tag.destroy': ({ Tag }, options) => Tag['destroy']!(both({ where }, options)),
  'Tag.destroy without a where': ({ Tag }, options) => Tag['destroy']!(options),
  'Tag.truncate': ({ Tag }, options) => Tag['truncate']!(options),
  'Tag.increment': ({ Tag }, options) => Tag['increment']!('count', both({ where }, options)),
  'Model.increment without a where': ({ Item }, options) => Item['increment']!('count', options),
  'Item.create': ({ Item }, options) => Item['create']!({ title: 'new', document: { a: 1 } }, options),
  'Item.bulkCreate': ({ Item }, options) => Item['bulkCreate']!([{ title: 'new', document: [1] }], options),
  'Item.update of other columns': ({ Item }, options) => Item['update']!({ title: 'x' }, both({ where }, options)),
  'Item.update, individualHooks': ({ Item }, options) =>
    Item['update']!({ title: 'x' }, both({ where, individualHooks: true }, options)),
  'Item.update, limit': ({ Item }, options) => Item['update']!({ title: 'x' }, both({ where: {}, limit: 1 }, options)),
  'Item.destroy': ({ Item }, options) => Item['destroy']!(both({ where }, options)),
  'Item.destroy, force': ({ Item }, options) => Item['destroy']!(both({ where, force: true }, options)),
  'Item.restore': ({ Item }, options) => Item['restore']!(options),
  'Item.restore, where': ({ Item }, options) => Item['restore']!(both({ where: { id: 2 } }, options)),
  'Item.increment': ({ Item }, options) => Item['increment']!(['count'], both({ by: 2, where }, options)),
  'Item.decrement': ({ Item }, options) => Item['decrement']!({ count: 1 }, both({ where }, options)),
  'row.save of nothing': ({ item }, options) => item['save']!(options),
  'row.save': ({ item }, options) => loose(item['set']!({ title: 'x' }))['save']!(options),
  'row.save of fields': ({ item }, options) =>
    loose(item['set']!({ title: 'x', count: 4 }))['save']!(both({ fields: ['title'] }, options)),
  'row.update': ({ item }, options) => item['update']!({ title: 'x' }, options),
  'row.update, silent': ({ item }, options) => item['update']!({ title: 'x' }, both({ silent: true }, options)),
  'row.update of nothing': ({ item }, options) => item['update']!({}, options),
  'row.destroy': ({ item }, options) => item['destroy']!(options),
  'row.destroy, force': ({ item }, options) => item['destroy']!(both({ force: true }, options)),
  'row.restore': async ({ item }, options) => {
    await item['destroy']!()
    return item['restore']!(options)
  },
  'row.increment': ({ item }, options) => item['increment']!('count', options),
  'row.decrement': ({ item }, options) => item['decrement']!({ count: 2 }, options),
  'row.validate': ({ item }, options) => item['validate']!(options),
  'row.createTag': ({ item }, options) => item['createTag']!({ name: 'made' }, options),
  'row.addTag': ({ item }, options) => item['addTag']!(2, options),
  'row.setTags': ({ item }, options) => item['setTags']!([], options),
  'row.removeTag': ({ item }, options) => item['removeTag']!(1, options),
  'a row of a finder that is stubbed': async ({ Item, item }, options) => {
    const findOne = Item['findOne']!
    Item['findOne'] = () => Promise.resolve(item)
    try {
      return await item['reload']!(options)
    } finally {
      Item['findOne'] = findOne
    }
  },
  'a row that is built as stored': ({ Tag }, options) =>
    loose(Tag['build']!({ id: 1, name: 'x' }, { isNewRecord: false }))['save']!(options),
  'queryInterface.insert': ({ query }, options) =>
    query['insert']!(null, 'every_tags', { name: 'new', count: 1 }, options),
  'queryInterface.insert of a row': ({ query, Tag }, options) =>
    query['insert']!(Tag['build']!({ name: 'new' }), 'every_tags', { name: 'new', count: 1 }, options),
  'queryInterface.update': ({ query, Tag }, options) =>
    query['update']!(Tag['build']!({ id: 1 }), 'every_tags', { name: 'x' }, where, options),
  'queryInterface.update without a row': ({ query }, options) =>
    query['update']!(null, 'every_tags', { name: 'x' }, where, options),
  'queryInterface.bulkUpdate': ({ query }, options) =>
    query['bulkUpdate']!('every_tags', { name: 'x' }, where, options),
  'queryInterface.bulkUpdate without a where': ({ query }, options) =>
    query['bulkUpdate']!('every_tags', { name: 'x' }, undefined, options),
  'queryInterface.bulkInsert': ({ query }, options) =>
    query['bulkInsert']!('every_tags', [{ name: 'a', count: 0 }], options),
  'queryInterface.bulkDelete': ({ query }, options) => query['bulkDelete']!('every_tags', where, options),
  'queryInterface.delete': ({ query, item }, options) => query['delete']!(item, 'every_items', where, options),
  'queryInterface.upsert': ({ query, Tag }, options) =>
    query['upsert']!('every_tags', { id: 1, name: 'x', count: 1 }, { name: 'x' }, where, both({ model: Tag }, options)),
  'queryInterface.upsert without a model': ({ query }, options) =>
    query['upsert']!('every_tags', { id: 1, name: 'x' }, { name: 'x' }, where, options),
  'queryInterface.increment': ({ query, Tag }, options) =>
    query['increment']!(Tag, 'every_tags', where, { count: 1 }, {}, options),
  'sequelize.query UPDATE': ({ sequelize }, options) =>
    sequelize.query("UPDATE every_tags SET name = 'x' WHERE id = 1", options as never),
}

/** Writes of the JSON column as a whole, about which a guard has something to say. */
const documentWrites: Record<string, Call> = {
  'row.update': ({ item }, options) => item['update']!({ document: { a: 2 }, title: 'x' }, options),
  'row.save': ({ item }, options) => loose(item['set']!('document', { a: 1, b: 2 }))['save']!(options),
  'row.save of NULL': ({ item }, options) => loose(item['set']!('document', null))['save']!(options),
  'Item.update': ({ Item }, options) => Item['update']!({ document: { a: 2 } }, both({ where }, options)),
  'Item.upsert': ({ Item }, options) => Item['upsert']!({ id: 1, title: 'u', document: { a: 2 } }, options),
  'Item.bulkCreate of duplicates': ({ Item }, options) =>
    Item['bulkCreate']!([{ id: 1, title: 'b', document: {} }], both({ updateOnDuplicate: ['document'] }, options)),
  'queryInterface.update': ({ query, item }, options) =>
    query['update']!(item, 'every_items', { document: '{"a":2}' }, where, options),
  'queryInterface.bulkUpdate': ({ query }, options) =>
    query['bulkUpdate']!('every_items', { document: '{"a":2}' }, where, options),
}

function define(sequelize: Sequelize): Pick<World, 'Item' | 'Tag'> {
  class Item extends Model {}
  class Base extends Model {}
  class Tag extends Base {}
  Item['init'](
    { title: DataTypes.STRING, count: { type: DataTypes.INTEGER, defaultValue: 0 }, document: DataTypes.JSON },
    { sequelize, tableName: 'every_items', modelName: 'Item', paranoid: true },
  )
  Tag['init'](
    { name: { type: DataTypes.STRING, unique: true }, count: { type: DataTypes.INTEGER, defaultValue: 0 } },
    { sequelize, tableName: 'every_tags', modelName: 'Tag', timestamps: false },
  )
  Item['hasMany'](Tag, { as: 'tags', foreignKey: 'itemId', constraints: false })
  return { Item, Tag } as unknown as Pick<World, 'Item' | 'Tag'>
}

/** A text without what differs between two runs: times, ids of transactions, and objects of a driver. */
function settled(value: unknown): string {
  const shown = (_key: string, each: unknown): unknown => (isOfDriver(each) ? each.constructor.name : each)
  return JSON.stringify([value], shown)
    .replace(/\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*(Z| \+00:00)?/g, 'TIME')
    .replace(/[\da-f]{8}-[\da-f-]{27}/g, 'ID')
}

function isOfDriver(value: unknown): value is object {
  return (
    value !== null &&
    typeof value === 'object' &&
    !('toJSON' in value) &&
    ![Object, Array].includes(value.constructor as never)
  )
}

eachDatabase('every call of Sequelize under a guard', (database) => {
  if (!['MySQL', 'SQLite'].includes(database.title)) return
  const modes = ['plain', 'warn', 'throw', 'patch'] as const
  type Mode = (typeof modes)[number]
  const guarded = modes.slice(1)
  const worlds = new Map<Mode, Omit<World, 'item'>>()

  before(async () => {
    for (const mode of modes) {
      const { sequelize, log } = database.connect()
      const models = define(sequelize)
      if (mode !== 'plain') lossless(sequelize, { wholeColumnWrites: mode })
      await sequelize.sync({ force: true })
      worlds.set(mode, { sequelize, log, ...models, query: loose(sequelize.getQueryInterface()) })
    }
  })

  interface Seen {
    readonly outcome: string
    readonly sql: string
    readonly rows: string
    readonly error: unknown
  }

  async function seenIn(mode: Mode, call: Call, options: object | undefined): Promise<Seen> {
    const world = worlds.get(mode)!
    const { sequelize, Item, Tag, log } = world
    for (const model of [Item, Tag]) {
      const table = String(model['getTableName']!())
      await sequelize.query(`DELETE FROM ${table}`)
      const restart =
        database.name === 'sqlite'
          ? `DELETE FROM sqlite_sequence WHERE name = '${table}'`
          : `ALTER TABLE ${table} AUTO_INCREMENT = 1`
      await sequelize.query(restart)
    }
    const values = `'{"a":1}', 1, '2020-01-01 00:00:00', '2020-01-01 00:00:00'`
    await sequelize.query(
      `INSERT INTO every_items (id, title, document, count, createdAt, updatedAt) VALUES (1, 'one', ${values}), (2, 'two', ${values})`,
    )
    await sequelize.query('UPDATE every_items SET deletedAt = createdAt WHERE id = 2')
    await sequelize.query(
      `INSERT INTO every_tags (id, name, count, itemId) VALUES (1, 'one', 0, 1), (2, 'two', 0, NULL)`,
    )
    const item = loose(await Item['findByPk']!(1))
    log.length = 0
    const [result, error] = await Promise.resolve()
      .then(() => call({ ...world, item }, options))
      .then(
        (value: unknown) => [value, undefined] as const,
        (reason: unknown) => [undefined, reason] as const,
      )
    // A report of 'warn' goes to the log, too.
    const sql = settled(log.filter((line) => !line.startsWith('sequelize-lossless:')))
    const rows: unknown[] = []
    for (const table of ['every_items', 'every_tags']) {
      rows.push(await sequelize.query(`SELECT * FROM ${table} ORDER BY id`, { type: QueryTypes.SELECT, raw: true }))
    }
    const changed = settled([item['changed']!(), item['get']!()])
    return { outcome: settled([result, String(error), changed]), sql, rows: settled(rows), error }
  }

  const inTransaction =
    (call: Call): Call =>
    (world, options) =>
      world.sequelize.transaction(async (transaction: Transaction) => {
        await call(world, { ...options, transaction })
      })

  const calls = (table: Record<string, Call>): [string, Call, object | undefined][] =>
    Object.entries(table).flatMap(([title, call]) =>
      ways.map(([way, options, isInTransaction]): [string, Call, object | undefined] => [
        `${title} (${way})`,
        isInTransaction ? inTransaction(call) : call,
        options,
      ]),
    )

  const silent = [...calls(reads), ...calls(writes)]
  const reported = calls(documentWrites)

  it(`has the same result, SQL and rows for ${silent.length} calls that write no document, in 3 modes`, async () => {
    const different: object[] = []
    for (const [index, [title, call, options]] of silent.entries()) {
      const modes = guarded.filter((_, turn) => isSampled(index, 3 * guarded.length, turn))
      if (modes.length === 0) continue
      const plain = await seenIn('plain', call, options)
      for (const mode of modes) {
        const seen = await seenIn(mode, call, options)
        for (const part of ['outcome', 'sql', 'rows'] as const) {
          if (seen[part] !== plain[part]) different.push({ title, mode, part, plain: plain[part], seen: seen[part] })
        }
      }
    }
    expect(different).to.deep.equal([])
  })

  it(`has the same result and rows for ${reported.length} writes of a document, or refuses them`, async () => {
    const different: object[] = []
    for (const [title, call, options] of reported) {
      const plain = await seenIn('plain', call, options)
      for (const mode of guarded) {
        const seen = await seenIn(mode, call, options)
        if (mode !== 'warn' && seen.error instanceof WholeColumnWriteError) continue
        const parts = mode === 'patch' ? (['outcome', 'rows'] as const) : (['outcome', 'sql', 'rows'] as const)
        for (const part of parts) {
          if (seen[part] !== plain[part]) different.push({ title, mode, part, plain: plain[part], seen: seen[part] })
        }
      }
    }
    expect(different).to.deep.equal([])
  })
})
