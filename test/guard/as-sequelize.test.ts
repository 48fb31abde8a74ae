import { expect } from 'chai'
import { DataTypes, Model } from 'sequelize'
import type { ModelOptions, Sequelize } from 'sequelize'
import { lossless } from 'sequelize-lossless'
import type { LosslessOptions } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'

type Document = Record<string, unknown>

class Entry extends Model {
  declare id: number
  declare title: string | null
  declare document: Document | null
  declare updatedAt: Date
  declare version: number
}

/** What is done with a model, and what its user sees of it. */
type Scenario = (Entries: typeof Entry, sequelize: Sequelize) => Promise<unknown>

const hooks = ['beforeValidate', 'afterValidate', 'beforeUpdate', 'beforeSave', 'afterUpdate', 'afterSave'] as const

async function created(Entries: typeof Entry): Promise<Entry> {
  const { id } = await Entries.create({ title: 'a', document: { a: 1, o: { b: [1] } } })
  return Entries.findByPk(id, { rejectOnEmpty: true })
}

async function stored({ id, constructor }: Entry): Promise<unknown> {
  const row = await (constructor as typeof Entry).unscoped().findByPk(id, { paranoid: false })
  const { title, document } = row!.get() as Document
  return { title, document }
}

async function outcome(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => 'resolved',
    (error: unknown) => (error as Error).name,
  )
}

/** Every promise of Sequelize about a save, as a row: what is seen must be the same, guarded or not. */
const scenarios: Record<string, Scenario> = {
  'hooks, in their order, with what they are told': async (Entries) => {
    const row = await created(Entries)
    const seen: unknown[] = []
    for (const name of hooks) {
      Entries.addHook(name as 'beforeSave', name, (entry, options) => {
        seen.push([name, entry.changed(), entry.previous('title'), options.fields, 'document' in entry.previous()])
      })
    }
    await row.update({ title: 'b', document: { a: 2 } })
    for (const name of hooks) Entries.removeHook(name, name)
    return [seen, await stored(row)]
  },
  'a document that a hook changes': async (Entries) => {
    const row = await created(Entries)
    Entries.addHook('beforeUpdate', 'change', (entry) => {
      entry.set('document', { ...(entry.get('document') as Document), hooked: true })
    })
    await row.update({ title: 'b' })
    Entries.removeHook('beforeUpdate', 'change')
    return [row.document, row.changed(), await stored(row)]
  },
  'hooks: false': async (Entries) => {
    const row = await created(Entries)
    let count = 0
    Entries.addHook('beforeSave', 'count', () => void count++)
    await row.update({ document: { a: 2 } }, { hooks: false })
    Entries.removeHook('beforeSave', 'count')
    return [count, await stored(row)]
  },
  validators: async (Entries) => {
    const row = await created(Entries)
    const refused = await outcome(row.update({ title: 'forbidden', document: { a: 2 } }))
    const left = [row.changed(), await stored(row)]
    await row.save({ validate: false })
    return [refused, left, await stored(row)]
  },
  'what is returned': async (Entries) => {
    const row = await created(Entries)
    return [(await row.update({ document: { a: 2 } })) === row, (await row.save()) === row]
  },
  'updatedAt, and silent': async (Entries) => {
    const row = await created(Entries)
    const before = new Date(2000, 0)
    row.set('updatedAt', before, { raw: true })
    await row.update({ document: { a: 2 } }, { silent: true })
    const silent = row.updatedAt.getTime() === before.getTime()
    await row.update({ document: { a: 3 } })
    return [silent, row.updatedAt > before, (await row.reload()).updatedAt > before]
  },
  'changed() and previous()': async (Entries) => {
    const row = await created(Entries)
    row.document = { a: 2 }
    const before = [row.changed(), row.changed('document'), row.previous('document')]
    await row.save()
    const after = row.previous('document') as unknown
    return [before, row.changed(), after, row.document]
  },
  'a save of nothing': async (Entries, sequelize) => {
    const row = await created(Entries)
    let count = 0
    sequelize.addHook('beforeQuery', 'count', () => void count++)
    row.document = { o: { b: [1] }, a: 1 }
    await row.save()
    sequelize.removeHook('beforeQuery', 'count')
    return [count, row.changed()]
  },
  fields: async (Entries) => {
    const row = await created(Entries)
    row.set({ title: 'b', document: { a: 2 } })
    await row.save({ fields: ['title'] })
    const first = [row.changed(), await stored(row)]
    await row.save({ fields: ['document'] })
    await row.update({ title: 'c', document: { a: 3 } }, { fields: ['title'] })
    return [first, row.changed(), await stored(row)]
  },
  returning: async (Entries) => {
    const row = await created(Entries)
    await row.update({ document: { a: 2, o: null } }, { returning: true })
    return [row.document, row.title, row.changed()]
  },
  'a transaction that commits, and one that is rolled back': async (Entries, sequelize) => {
    const row = await created(Entries)
    await sequelize.transaction((transaction) => row.update({ document: { a: 2 } }, { transaction }))
    const failed = sequelize.transaction(async (transaction) => {
      await row.update({ document: { a: 3 } }, { transaction })
      throw new RangeError('no')
    })
    return [await outcome(failed), row.document, await stored(row)]
  },
  'a transaction that is over': async (Entries, sequelize) => {
    const row = await created(Entries)
    const transaction = await sequelize.transaction()
    await transaction.commit()
    return [(await outcome(row.update({ document: { a: 2 } }, { transaction }))) !== 'resolved', await stored(row)]
  },
  'the version, and a save that comes too late': async (Entries) => {
    if (Entries.options.version !== true) return undefined
    const row = await created(Entries)
    const late = await Entries.findByPk(row.id, { rejectOnEmpty: true })
    await row.update({ document: { a: 2 } })
    return [row.version, await outcome(late.update({ document: { a: 3 } })), await stored(row)]
  },
  'an error of the database': async (Entries) => {
    const row = await created(Entries)
    await Entries.create({ title: 'unique' })
    const failed = await outcome(row.update({ title: 'unique', document: { a: 2 } }))
    return [failed, row.changed(), await stored(row)]
  },
  'getters and setters': async (Entries) => {
    const row = await created(Entries)
    row.set('shouted' as never, 'loud' as never)
    await row.save()
    return [row.get('shouted'), row.get('document'), await stored(row)]
  },
  'paranoid: destroy and restore': async (Entries) => {
    const row = await created(Entries)
    await row.destroy()
    const gone = (await Entries.findByPk(row.id)) === null
    await row.restore()
    return [gone, await stored(row)]
  },
  'increment and decrement': async (Entries) => {
    const row = await created(Entries)
    await row.increment('count' as never, { by: 2 })
    await row.decrement('count' as never)
    await row.reload()
    return [row.get('count'), row.document, row.changed()]
  },
  'create, findOrCreate, bulkCreate, and a save of what they made': async (Entries) => {
    const [made] = await Entries.findOrCreate({ where: { title: 'made' }, defaults: { document: { a: 1 } } })
    await made.update({ document: { a: 2 } })
    const built = Entries.build({ title: 'built', document: { a: 1 } })
    await built.save()
    await built.update({ document: { a: 1, b: 2 } })
    await Entries.bulkCreate([{ title: 'bulk', document: { a: 1 } }])
    const bulk = await Entries.findOne({ where: { title: 'bulk' }, rejectOnEmpty: true })
    await bulk.update({ document: { b: 1 } })
    return [await stored(made), await stored(built), await stored(bulk)]
  },
  'Model.update of other columns, with and without individualHooks': async (Entries) => {
    const row = await created(Entries)
    const seen: unknown[] = []
    Entries.addHook('beforeUpdate', 'see', (entry) => void seen.push(entry.changed('count' as never)))
    const [one] = await Entries.update({ count: 5 }, { where: { id: row.id } })
    const [many] = await Entries.update({ count: 6 }, { where: { id: row.id }, individualHooks: true })
    Entries.removeHook('beforeUpdate', 'see')
    return [one, many, seen, await stored(row)]
  },
  'raw rows, attributes and aliases': async (Entries) => {
    const row = await created(Entries)
    const [raw] = await Entries.findAll({ where: { id: row.id }, raw: true, attributes: ['title'] })
    const attributes = { exclude: ['document'], include: [['title', 'name'] as [string, string]] }
    const partly = await Entries.findByPk(row.id, { attributes, rejectOnEmpty: true })
    await partly.update({ count: 1 })
    return [raw, partly.get('name'), await stored(row)]
  },
  associations: async (Entries) => {
    const row = await created(Entries)
    const child = await Entries.create({ title: `child ${row.id}`, parentId: row.id, document: { c: 1 } })
    const found = await Entries.findByPk(row.id, { include: 'children', rejectOnEmpty: true })
    const [included] = found.get('children') as Entry[]
    await included!.update({ document: { c: 2 } })
    await found.reload()
    await found.update({ document: { a: 5 } })
    return [await stored(child), await stored(row)]
  },
}

function define(sequelize: Sequelize, name: string, version: boolean): typeof Entry {
  const Entries = class extends Entry {}
  const options: ModelOptions = { paranoid: true, ...(version && { version: true }) }
  Entries.init(
    {
      title: {
        type: DataTypes.STRING,
        unique: true,
        validate: { notIn: [['forbidden']] },
        get() {
          return this.getDataValue('title') as string
        },
      },
      document: DataTypes.JSON,
      count: { type: DataTypes.INTEGER, defaultValue: 0 },
      parentId: DataTypes.INTEGER,
      shouted: {
        type: DataTypes.VIRTUAL,
        get() {
          return (this.getDataValue('document') as Document | undefined)?.['shouted']
        },
        set(word: string) {
          this.set('document', { ...(this.getDataValue('document') as Document), shouted: word.toUpperCase() })
        },
      },
    },
    { sequelize, modelName: name, tableName: 'guarded_entries', ...options },
  )
  Entries.hasMany(Entries, { as: 'children', foreignKey: 'parentId', constraints: false })
  return Entries
}

eachDatabase('a guarded model behaves like a model of Sequelize', (database) => {
  const guards: Record<string, LosslessOptions> = {
    allow: { wholeColumnWrites: 'allow' },
    warn: { wholeColumnWrites: 'warn' },
    patch: { wholeColumnWrites: 'patch' },
    "patch, conflicts: 'throw'": { wholeColumnWrites: 'patch', conflicts: 'throw' },
  }
  for (const version of [false, true]) {
    describe(version ? 'with a version' : 'without a version', () => {
      let sequelize: Sequelize
      let Plain: typeof Entry

      before(() => {
        ;({ sequelize } = database.connect({ logging: () => undefined }))
        Plain = define(sequelize, 'Entry', version)
      })

      for (const [title, scenario] of Object.entries(scenarios)) {
        it(title, async () => {
          const seen = async (Entries: typeof Entry): Promise<string> => {
            await Entries.sync({ force: true })
            return JSON.stringify(await scenario(Entries, sequelize))
          }
          const plain = await seen(Plain)
          for (const [name, guard] of Object.entries(guards)) {
            expect(await seen(lossless(define(sequelize, 'Entry', version), guard)), name).to.equal(plain)
          }
        })
      }
    })
  }
})
