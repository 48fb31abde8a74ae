import { expect } from 'chai'
import { DataTypes, Model, QueryTypes } from 'sequelize'
import type {
  CreationOptional,
  InferAttributes,
  InferCreationAttributes,
  ModelOptions,
  ModelStatic,
  Sequelize,
} from 'sequelize'
import {
  append,
  atLeast,
  atomicUpdate,
  atomicUpsert,
  compareAndSetJson,
  ConditionNotMetError,
  exists,
  increment,
  JsonShapeError,
  lossless,
  matching,
  mergeJson,
  mergeJsonKey,
  not,
  plus,
  remove,
  rename,
  set,
  setIfAbsent,
  StaleRowError,
  UnsupportedValueError,
  updateJson,
  updateWhere,
  UsageError,
  WholeColumnWriteError,
  withLock,
  withNext,
  withOptimisticLock,
} from 'sequelize-lossless'
import type { Lossless, LosslessOptions, Operation } from 'sequelize-lossless'
import { audit } from 'sequelize-lossless/audit'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { documentText } from '../workflow-run.js'

interface Doc {
  a?: number
  n?: number
  tags?: string[]
  items?: { id: number; done?: boolean }[]
  by?: Record<string, number>
}

/** A model as Sequelize's documentation had it: JSON in a TEXT column, behind a getter and a setter. */
class Note extends Model<InferAttributes<Note>, InferCreationAttributes<Note>> {
  declare id: CreationOptional<number>
  declare doc: CreationOptional<Doc | null>
  declare status: CreationOptional<string | null>
  declare hits: CreationOptional<number>
}

/** A model whose column holds JSON that its code parses itself. */
class TextRow extends Model<InferAttributes<TextRow>, InferCreationAttributes<TextRow>> {
  declare id: CreationOptional<number>
  declare doc: string
  declare status: CreationOptional<string | null>
}

interface TextRow extends Lossless<TextRow> {}

interface Note extends Lossless<Note> {}

const hostile = '{"z":1.10,"n":12345678901234567890123,"d":0.12345678901234567890123,"é\\"":[1e2,{"b":null}]}'

function thrown(act: () => unknown): Promise<UsageError> {
  return rejection(Promise.resolve().then(act), UsageError)
}

/** The numbers of a JSON text, by their digits. */
function numbersOf(text: string | null): readonly string[] {
  return (text?.match(/-?\d{2}[\d.eE+-]*|\d\.\d+/g) ?? []).sort()
}

eachDatabase('JSON in a TEXT column', (database) => {
  let sequelize: Sequelize
  let Notes: typeof Note

  before(async () => {
    ;({ sequelize } = database.connect())
    Notes = await notes({}, { modelName: 'Note', tableName: 'notes' })
  })

  function define(own: Sequelize, options: ModelOptions<Note> = {}): typeof Note {
    const Own = class extends Note {}
    Own.init(
      {
        id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
        doc: {
          type: DataTypes.TEXT,
          field: 'the_doc',
          get(): Doc | null {
            return JSON.parse((this.getDataValue('doc') ?? 'null') as string) as Doc | null
          },
          set(value: Doc | null) {
            this.setDataValue('doc', JSON.stringify(value) as never)
          },
        },
        status: DataTypes.STRING,
        hits: { type: DataTypes.INTEGER, defaultValue: 0 },
      },
      // The servers have other defaults.
      { sequelize: own, modelName: 'Note', tableName: 'notes', charset: 'utf8mb4', ...options },
    )
    return Own
  }

  async function notes(options: LosslessOptions, model: ModelOptions<Note>): Promise<typeof Note> {
    const Own = lossless(define(sequelize, model), { jsonColumns: ['doc'], ...options })
    await Own.sync({ force: true })
    return Own
  }

  /** A model without a getter: the value in memory is the text. */
  async function texts(
    own: { version?: true },
    model: ModelOptions<TextRow>,
    options: LosslessOptions = {},
  ): Promise<typeof TextRow> {
    const Own = class extends TextRow {}
    Own.init(
      {
        id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
        doc: { type: DataTypes.TEXT, field: 'the_doc' },
        status: DataTypes.STRING(20),
      },
      { sequelize, modelName: 'TextRow', charset: 'utf8mb4', ...own, ...model },
    )
    lossless(Own, { jsonColumns: ['doc'] as never, ...options })
    await Own.sync({ force: true })
    return Own
  }

  async function storedIn(table: string, id: number): Promise<string> {
    return (await stored(id, table))!
  }

  async function stored(id: number, table = 'notes'): Promise<string | null> {
    const [row] = await sequelize.query<{ text: string | null }>(
      `SELECT ${documentText(sequelize, 'the_doc')} AS text FROM ${table} WHERE id = $1`,
      { bind: [id], type: QueryTypes.SELECT },
    )
    return row!.text
  }

  async function storedDocument(id: number, table?: string): Promise<unknown> {
    return JSON.parse((await stored(id, table)) ?? 'null')
  }

  /** A row whose column holds a text. */
  async function noteWith(text: string | null, Own = Notes): Promise<Note> {
    const { id } = await Own.create()
    await sequelize.query(`UPDATE ${Own.tableName} SET the_doc = $1 WHERE id = $2`, { bind: [text, id] })
    return Own.findByPk(id, { rejectOnEmpty: true })
  }

  describe('is written by every method, and the row in memory keeps it as text', () => {
    it('mergeJsonKey, mergeJson, updateJson and compareAndSetJson', async () => {
      const note = await noteWith('{"a":1}')
      await note.mergeJsonKey('doc', 'n', 2)
      expect(note.doc).to.deep.equal({ a: 1, n: 2 })
      expect(note.getDataValue('doc')).to.be.a('string')
      await note.mergeJson('doc', { a: null, by: { x: 1 } })
      await note.updateJson('doc', [increment('n'), append('tags', 'é日😀'), append('items', { id: 1 }, { id: 2 })])
      await note.updateJson('doc', [set(['items', matching({ id: 2 }), 'done'], true)])
      expect(await note.compareAndSetJson('doc', 'n', 4, 5)).to.equal(false)
      expect(await note.compareAndSetJson('doc', 'n', 3, 5)).to.equal(true)
      const after = { by: { x: 1 }, n: 5, tags: ['é日😀'], items: [{ id: 1 }, { id: 2, done: true }] }
      expect(note.doc).to.deep.equal(after)
      expect(note.changed()).to.equal(false)
      expect(await storedDocument(note.id)).to.deep.equal(after)
    })

    it('with returning: true, which returns the document', async () => {
      const note = await noteWith('{"a":1}')
      expect(await updateJson([Notes, note.id], 'doc', [increment('a')], { returning: true })).to.deep.equal({ a: 2 })
      await note.mergeJsonKey('doc', 'n', 1, { returning: true })
      expect(note.doc).to.deep.equal({ a: 2, n: 1 })
      const row = await atomicUpdate([Notes, note.id], { doc: [increment('n')] }, { returning: true })
      expect(row.doc).to.deep.equal({ a: 2, n: 2 })
      await note.atomicUpdate({ doc: [increment('n')] }, { returning: true })
      expect(note.doc).to.deep.equal({ a: 2, n: 3 })
    })

    it('atomicUpdate, with other columns and conditions', async () => {
      const note = await noteWith('{"n":1}')
      const changes = { doc: [increment('n')], status: 'done', hits: plus(1) }
      await note.atomicUpdate(changes, { where: { status: null }, if: { doc: [exists('n'), not(atLeast('n', 2))] } })
      expect([note.doc, note.status, note.hits]).to.deep.equal([{ n: 2 }, 'done', 1])
      const refused = note.atomicUpdate({ status: 'again' }, { if: { doc: [not(atLeast('n', 2))] } })
      expect((await rejection(refused, ConditionNotMetError)).column).to.equal('doc')
      await note.updateJson('doc', [set('a', 1)], { if: [exists('n')] })
      expect(await storedDocument(note.id)).to.deep.equal({ n: 2, a: 1 })
    })

    it('atomicUpsert', async () => {
      const id = 100_000
      const upsert = (): Promise<boolean> =>
        atomicUpsert([Notes, id], { doc: [increment('n')] }, { create: { doc: { a: 1 } } })
      expect([await upsert(), await upsert()]).to.deep.equal([true, false])
      expect(await storedDocument(id)).to.deep.equal({ a: 1, n: 2 })
      await atomicUpsert([Notes, id + 1], { status: 'new' })
      expect(await stored(id + 1)).to.equal(null)
    })

    it('updateWhere, all rows or none', async () => {
      const [one, other] = [await noteWith('{"n":1}'), await noteWith(null)]
      await Notes.update({ status: 'group' }, { where: { id: [one.id, other.id] } })
      expect(await updateWhere(Notes, { status: 'group' }, { doc: [increment('n')] })).to.equal(2)
      expect([await storedDocument(one.id), await storedDocument(other.id)]).to.deep.equal([{ n: 2 }, { n: 1 }])
      await sequelize.query(`UPDATE notes SET the_doc = 'not JSON' WHERE id = $1`, { bind: [other.id] })
      await rejection(updateWhere(Notes, { status: 'group' }, { doc: [increment('n')] }), JsonShapeError)
      expect([await stored(one.id), await stored(other.id)].map((text) => text!.replace(' ', ''))).to.deep.equal([
        '{"n":2}',
        'notJSON',
      ])
    })

    it('withLock, withNext and a save', async () => {
      const note = await noteWith('{"a":1}')
      await mergeJsonKey([Notes, note.id], 'doc', 'n', 7)
      await note.withLock(async (row) => {
        row.doc = { ...row.doc, tags: ['x'] }
        await row.updateJson('doc', [increment('a')]).catch(() => undefined)
        await row.save()
        await row.updateJson('doc', [increment('n')])
        row.doc = { ...row.doc, a: 2 }
        await row.save()
      })
      expect(await storedDocument(note.id)).to.deep.equal({ a: 2, n: 8, tags: ['x'] })
      await note.update({ status: 'next' })
      await withNext(Notes, { where: { status: 'next' } }, async (row) => {
        row.doc = { ...row.doc, n: 9 }
        await row.save()
      })
      expect(await storedDocument(note.id)).to.deep.equal({ a: 2, n: 9, tags: ['x'] })
    })

    it('by many concurrent callers, also in batches', async () => {
      const note = await noteWith('{"n":0}')
      const write = (index: number, coalesce: boolean): Promise<unknown> =>
        updateJson([Notes, note.id], 'doc', [increment('n'), set(['by', `k${index}`], index)], {
          coalesce,
          retry: { maxAttempts: 100 },
        })
      await Promise.all(Array.from({ length: 40 }, (_, index) => write(index, index % 2 === 0)))
      const after = (await storedDocument(note.id)) as Doc
      expect(after.n).to.equal(40)
      expect(Object.keys(after.by!)).to.have.length(40)
    })

    it('of a scope, and of a subclass', async () => {
      const note = await noteWith('{"a":1}')
      Notes.addScope('any', { where: {} }, { override: true })
      const row = await Notes.scope('any').findByPk(note.id, { rejectOnEmpty: true })
      await row.mergeJsonKey('doc', 'n', 2)
      expect(row.doc).to.deep.equal({ a: 1, n: 2 })
      await mergeJsonKey([Notes.scope('any'), note.id], 'doc', 'a', 3)
      expect(await storedDocument(note.id)).to.deep.equal({ a: 3, n: 2 })
    })
  })

  describe('keeps', () => {
    it('every digit of what a write does not change', async () => {
      const writes: Record<string, (note: Note) => Promise<unknown>> = {
        mergeJsonKey: (note) => note.mergeJsonKey('doc', 'a', 1),
        mergeJson: (note) => mergeJson([Notes, note.id], 'doc', { a: 1 }),
        'updateJson by an element': (note) => note.updateJson('doc', [append('items', { id: 1 }), set('a', 1)]),
        'with a condition': (note) => note.updateJson('doc', [set('a', 1)], { if: [exists('n')] }),
        'a save under a lock': (note) =>
          note.withLock(async (row) => {
            row.doc = { ...row.doc, a: 1 }
            await row.save()
          }),
        'a write and a save under a lock': (note) =>
          note.withLock(async (row) => {
            await row.updateJson('doc', [set('a', 2)])
            row.doc = { ...row.doc, a: 1 }
            await row.save()
          }),
      }
      for (const [name, write] of Object.entries(writes)) {
        const note = await noteWith(hostile)
        await write(note)
        const text = await stored(note.id)
        expect(numbersOf(text), name).to.include.members([
          '1.10',
          '0.12345678901234567890123',
          '12345678901234567890123',
        ])
        expect((JSON.parse(text!) as Doc).a, name).to.equal(1)
      }
    })

    it('every digit of a text that the application assigns', async () => {
      const Own = await texts({ version: true }, { tableName: 'text_saves' })
      const Patched = await texts({}, { tableName: 'text_patches' }, { wholeColumnWrites: 'patch' })
      const long =
        '{"n": 12345678901234567890, "d": 1.10, "list": [12345678901234567890, 1e2], "other": 0.12345678901234567890}'
      const edit = (text: string): string =>
        text.replace('n": 12345678901234567890', 'n": 12345678901234567891').replace('1.10', '1.1000')
      const add = (text: string): string => text.replace('"n"', '"more": [12345678901234567892], "n"')
      const saves: Record<string, (row: TextRow) => Promise<unknown>> = {
        withLock: (row) =>
          row.withLock(async () => {
            row.doc = add(edit(row.doc))
            await row.save()
          }),
        'two saves under a lock': (row) =>
          row.withLock(async () => {
            row.doc = edit(row.doc)
            await row.save()
            row.doc = add(row.doc)
            await row.save()
          }),
        withOptimisticLock: (row) =>
          row.withOptimisticLock(() => {
            row.doc = add(edit(row.doc))
          }),
      }
      const changed = ['"n": 12345678901234567891', '1.1000', '[12345678901234567892]', '[12345678901234567890, 1e2]']
      for (const [name, save] of Object.entries(saves)) {
        const row = await Own.create({ doc: long })
        await save(await Own.findByPk(row.id, { rejectOnEmpty: true }))
        const text = await storedIn('text_saves', row.id)
        for (const each of [...changed, '0.12345678901234567890']) {
          expect(text.replaceAll(/\s/g, ''), name).to.include(each.replaceAll(/\s/g, ''))
        }
      }
      const { id } = await Patched.create({ doc: long })
      const row = await Patched.findByPk(id, { rejectOnEmpty: true })
      await updateJson([Patched, id], 'doc' as never, [set('other', 1)] as never)
      row.doc = edit(row.doc)
      await row.save()
      await updateJson([Patched, id], 'doc' as never, [set('d', 5)] as never)
      row.doc = row.doc.replace('[12345678901234567890,', '[12345678901234567893,')
      await row.save()
      const text = (await storedIn('text_patches', id)).replaceAll(/\s/g, '')
      expect(text).to.match(/^\{.*\}$/)
      for (const each of ['"n":12345678901234567891', '"d":5', '"list":[12345678901234567893,', '"other":1']) {
        expect(text, text).to.include(each)
      }
      const create = { doc: '{"n":12345678901234567890}' }
      await atomicUpsert([Own, 1000], { doc: [set('m', 12345678901234567891n)] } as never, { create })
      const created = await storedIn('text_saves', 1000)
      expect(numbersOf(created)).to.deep.equal(['12345678901234567890', '12345678901234567891'])
    })

    it('every digit of a text that the application assigns in another shape, with a key twice', async () => {
      const Own = await texts({}, { tableName: 'text_shapes' })
      const Patched = await texts({}, { tableName: 'text_patched_shapes' }, { wholeColumnWrites: 'patch' })
      const before = '{"o": 1.10, "l": 1.10, "deep": {"k": 1.10}, "t": "x"}'
      const after =
        '{"o": {"k": 2.50}, "l": [3.50, {"z": 4.50}], "deep": {"k": {"q": 5.50}}, "new": {"k": {"q": [9.50]}}, ' +
        '"n": 6.0, "u": 8.50, "n": 7.50, "t": "y", "s": "1.50"}'
      for (const [Texts, table] of [
        [Own, 'text_shapes'],
        [Patched, 'text_patched_shapes'],
      ] as const) {
        const { id } = await Texts.create({ doc: before })
        await (await Texts.findByPk(id, { rejectOnEmpty: true })).withLock((row) => row.update({ doc: after }))
        const text = await storedIn(table, id)
        expect(JSON.parse(text), table).to.deep.equal(JSON.parse(after))
        const numbers = ['1.50', '2.50', '3.50', '4.50', '5.50', '7.50', '8.50', '9.50']
        expect(numbersOf(text), table).to.have.members(numbers)
      }
    })

    it('every digit of a text in memory', async () => {
      const Own = await texts({}, { tableName: 'text_memory' })
      const { id } = await Own.create({ doc: '{"n":12345678901234567890,"a":[1.10]}' })
      const row = await Own.findByPk(id, { rejectOnEmpty: true })
      const write = (options: object): Promise<unknown> =>
        row.updateJson('doc' as never, [append('a' as never, 0.5)] as never, options)
      await write({})
      expect(numbersOf(row.doc)).to.deep.equal(['0.5', '1.10', '12345678901234567890'])
      await write({ returning: true })
      expect(numbersOf(row.doc)).to.deep.equal(['0.5', '0.5', '1.10', '12345678901234567890'])
      await row.atomicUpdate({ doc: [set('m', 12345678901234567891n)] } as never, { returning: true })
      expect(numbersOf(row.doc)).to.include.members(['1.10', '12345678901234567890', '12345678901234567891'])
      await row.withLock(() => write({}))
      expect(numbersOf(row.doc)).to.deep.equal(numbersOf(await storedIn('text_memory', id)))
      expect(row.changed()).to.equal(false)
    })

    if (database.name !== 'postgres') {
      it('half a surrogate pair, which a JSON column of some databases refuses', async () => {
        const text = String.raw`{"a":1,"by":{"\ud800":1},"n":"\u00e9"}`
        const note = await noteWith(text)
        await note.updateJson('doc', [increment('a'), set(['by', 'x'], 2)], { if: [exists('n')] })
        expect(await storedDocument(note.id)).to.deep.equal({ a: 2, by: { '\ud800': 1, x: 2 }, n: 'é' })
      })
    }

    it('the spelling and the order of keys, except on PostgreSQL', async function () {
      const note = await noteWith('{"zz": 1.0,"b": {"y":2 }}')
      await note.mergeJsonKey('doc', 'a', 1)
      const text = await stored(note.id)
      const keys = [...text!.matchAll(/"(\w+)":/g)].map(([, key]) => key)
      expect(keys).to.deep.equal(database.name === 'postgres' ? ['a', 'b', 'y', 'zz'] : ['zz', 'b', 'y', 'a'])
      expect(text).to.include('1.0')
    })
  })

  describe('that holds', () => {
    for (const text of [null, 'null', ' null ']) {
      it(`${JSON.stringify(text)} counts as an empty document`, async () => {
        const note = await noteWith(text)
        expect(note.doc).to.equal(null)
        await note.updateJson('doc', [increment('n')])
        expect([note.doc, await storedDocument(note.id)]).to.deep.equal([{ n: 1 }, { n: 1 }])
        const untouched = await noteWith(text)
        await untouched.updateJson('doc', [remove('n')], { returning: true })
        expect([untouched.doc, await storedDocument(untouched.id)]).to.deep.equal([null, null])
      })
    }

    // PostgreSQL, which reads the documents of many rows itself, does not say of which row it cannot read one.
    const id = database.name === 'postgres' ? '( id=\\d+)?' : ' id=\\d+'
    const named = new RegExp(`"doc" of Note${id} holds text that is not JSON`)

    for (const text of [
      ...['', 'not JSON', '{"a":1', '{"a":1}}'],
      ...[
        '{"a":1.}',
        '{"b":[1e],"a":1}',
        '{"b":{"c":-}}',
        '{"n":1.5e+,"a":"x"}',
        '{"\t":1,"a":1}',
        '{"b":{"\n":1}}',
        '{"a":01}',
        '{"\\"":"1.","a":-.5}',
      ],
    ]) {
      it(`${JSON.stringify(text)} is refused, and stays`, async () => {
        const { id } = await noteWith(text)
        const target = [Notes, id] as const
        const calls = [
          () => mergeJsonKey(target, 'doc', 'n', 1),
          () => updateJson(target, 'doc', [increment('n')], { if: [not(exists('a'))], returning: true }),
          () => atomicUpdate(target, { doc: [set('n', 1)], status: 'x' }),
          () => atomicUpsert(target, { doc: [set('n', 1)] }),
          () => withLock(target, (row) => row.updateJson('doc', [set('n', 1)])),
          () => updateJson(target, 'doc', [rename('a', 'z'), setIfAbsent('n', 1)] as never),
          () => updateWhere(Notes, { id }, { doc: [remove('b')] } as never),
        ]
        for (const call of calls) {
          const error = await rejection(call() as Promise<unknown>, JsonShapeError)
          expect(error.found).to.equal('text that is not JSON')
          expect(error.message).to.match(named)
        }
        expect(await stored(id)).to.equal(text)
        await withLock(target, async (row) => {
          row.doc = { n: 1 }
          await row.save()
        })
        expect(await storedDocument(id)).to.deep.equal({ n: 1 })
      })
    }

    it('an array or a scalar is refused like one in a JSON column', async () => {
      for (const text of ['[1]', '5', '"text"']) {
        const note = await noteWith(text)
        await rejection(note.mergeJsonKey('doc', 'n', 1), JsonShapeError)
        expect(await stored(note.id)).to.equal(text)
      }
      const list = await noteWith('[1]')
      await updateJson<Note, 'doc', readonly Operation[]>(list, 'doc', [append([], 2)])
      expect(list.doc).to.deep.equal([1, 2])
    })
  })

  describe('with wholeColumnWrites', () => {
    it('a save of it is refused by "throw", and allowed under a lock', async () => {
      const Own = await notes({ wholeColumnWrites: 'throw' }, { tableName: 'thrown_notes' })
      const note = await noteWith('{"a":1}', Own)
      const error = await rejection(note.update({ doc: { a: 2 } }), WholeColumnWriteError)
      expect(error.message).to.include(`row.updateJson("doc", [increment(["a"], 1)])`)
      const invalid = await Own.findByPk(note.id, { rejectOnEmpty: true })
      invalid.setDataValue('doc', 'not JSON' as never)
      await rejection(invalid.save(), WholeColumnWriteError)
      await rejection(Own.update({ doc: { a: 2 } }, { where: { id: note.id } }), WholeColumnWriteError)
      await withLock([Own, note.id], (row) => row.update({ doc: { a: 3 } }))
      expect(await storedDocument(note.id, 'thrown_notes')).to.deep.equal({ a: 3 })
    })

    it('a save of it is reduced to its changes by "patch"', async () => {
      const Own = await notes({ wholeColumnWrites: 'patch' }, { tableName: 'patched_notes' })
      const load = async (id: number): Promise<Note> => Own.findByPk(id, { rejectOnEmpty: true })
      const { id } = await noteWith(hostile, Own)
      const [one, other] = [await load(id), await load(id)]
      await one.update({ doc: { ...one.doc, a: 1 } })
      await other.update({ doc: { ...other.doc, tags: ['x'] }, status: 'y' })
      const after = JSON.parse(hostile) as object
      expect(await storedDocument(id, 'patched_notes')).to.deep.equal({ ...after, a: 1, tags: ['x'] })
      expect(numbersOf(await stored(id, 'patched_notes'))).to.include('12345678901234567890123')
      await one.reload()
      await mergeJsonKey([Own, id], 'doc', 'a', 5)
      await rejection(one.update({ doc: { ...one.doc, a: 2 } }), StaleRowError)
      const fresh = await load(id)
      await fresh.update({ doc: null })
      expect(await storedDocument(id, 'patched_notes')).to.equal(null)
      await (await load(id)).update({ doc: { a: 1 } })
      const replaced = await load(id)
      replaced.doc = [7] as never
      await replaced.save()
      expect(await stored(id, 'patched_notes')).to.equal('[7]')
      const empty = await noteWith('', Own)
      empty.setDataValue('doc', '{}' as never)
      await rejection(empty.save(), WholeColumnWriteError)
    })

    it('two saved instances of a locked row keep the changes of both', async () => {
      const { id } = await noteWith('{"a":1}')
      await withLock([Notes, id], async (row, transaction) => {
        const second = await Notes.findByPk(id, { transaction, rejectOnEmpty: true })
        second.doc = { ...second.doc, n: 1 }
        await second.save({ transaction })
        await row.updateJson('doc', [set('tags', ['x'])])
        expect(row.doc).to.deep.equal({ a: 1, n: 1, tags: ['x'] })
      })
      expect(await storedDocument(id)).to.deep.equal({ a: 1, n: 1, tags: ['x'] })
    })

    it('an attempt that was rolled back leaves the instance as it was', async () => {
      const note = await noteWith('{"a":1}')
      const call = note.withLock(async (row) => {
        row.doc = { ...row.doc, n: 1 }
        await row.save()
        await row.updateJson('doc', [set('tags', ['x'])])
        throw new Error('on purpose')
      })
      await rejection(call, Error)
      expect([note.doc, await storedDocument(note.id)]).to.deep.equal([{ a: 1 }, { a: 1 }])
    })

    it('is reported by an audit', async () => {
      const note = await noteWith('{"a":1}')
      const { verdict, findings } = await audit(sequelize, () => note.update({ doc: { a: 2 } }))
      expect(verdict).to.equal('uncovered')
      expect(findings.map(({ column, reason }) => [column, reason])).to.deep.equal([['doc', 'no lock']])
    })
  })

  it('that a subclass does not have, or has with another type, is no JSON column there', async () => {
    const Base = await notes({}, { modelName: 'Base', tableName: 'base_notes' })
    const attributes = { id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true } }
    for (const [index, doc] of [undefined, DataTypes.INTEGER, DataTypes.JSON].entries()) {
      const Sub = class extends Base {}
      const options = { sequelize, modelName: `Sub${index}`, tableName: `sub_notes_${index}`, timestamps: true }
      Sub.init({ ...attributes, status: DataTypes.STRING, ...(doc && { doc }) } as never, options)
      await Sub.sync({ force: true })
      const value = doc === DataTypes.INTEGER ? 7 : { a: 1 }
      const row = await Sub.create({ status: 'new', ...(doc && { doc: value }) } as never)
      await row.atomicUpdate({ status: 'old' } as never)
      await row.withLock((locked) => locked.update({ status: 'older' }))
      if (doc !== DataTypes.JSON) await rejection(row.mergeJsonKey('doc', 'b' as never, 1 as never), UsageError)
      const { status } = await Sub.findByPk(row.id, { rejectOnEmpty: true })
      expect(status).to.equal('older')
    }
    Base.removeAttribute('doc')
    const bare = await Base.create({ status: 'new' })
    await bare.atomicUpdate({ status: 'old' } as never)
    await bare.withLock((locked) => locked.update({ status: 'older' }))
  })

  it('may have the type JSON in the model', async () => {
    const Loose = lossless(
      sequelize.define<Model & { id: number; doc: Doc | null }>(
        'Loose',
        { doc: { type: DataTypes.JSON, field: 'the_doc' } },
        { tableName: 'notes', timestamps: false },
      ),
      { jsonColumns: ['doc'] },
    )
    const { id } = await noteWith(hostile)
    const row = await Loose.findByPk(id, { rejectOnEmpty: true })
    await row.updateJson('doc', [increment('a'), append('tags', 'x')])
    await withLock([Loose, id], (own) => own.updateJson('doc', [increment('a')]))
    expect(numbersOf(await stored(id))).to.include.members(['0.12345678901234567890123', '12345678901234567890123'])
    expect(await storedDocument(id)).to.include({ a: 2 })
    const empty = await noteWith('null')
    const loaded = await Loose.findByPk(empty.id, { rejectOnEmpty: true })
    await loaded.mergeJsonKey('doc', 'a', 1)
    const inMemory = loaded.doc as unknown
    expect(typeof inMemory === 'string' ? JSON.parse(inMemory) : inMemory).to.deep.equal({ a: 1 })
  })

  it('that is too short for the new document makes the write fail', async () => {
    const Short = lossless(
      sequelize.define<Model & { id: number; doc: Doc | null; status: string | null; hits: number }>(
        'Short',
        {
          doc: DataTypes.STRING(20),
          status: DataTypes.STRING(20),
          hits: { type: DataTypes.INTEGER, defaultValue: 0 },
        },
        { tableName: 'short_notes', timestamps: false, version: true, charset: 'utf8mb4' },
      ),
      { jsonColumns: ['doc'] as never },
    )
    await Short.sync({ force: true })
    const { id } = await Short.create({ doc: '{}' })
    await Short.create({ doc: '{}' })
    const operations = [set('tags', ['long', 'list', 'of', 'tags'])]
    const long = JSON.stringify({ tags: ['long', 'list', 'of', 'tags'] })
    const calls = {
      updateJson: () => updateJson([Short, id], 'doc', operations),
      atomicUpdate: () => atomicUpdate([Short, id], { doc: operations, status: 'x', hits: 1 }),
      updateWhere: () => updateWhere(Short, { hits: 0 }, { doc: operations, hits: 1, status: 'y' }),
      atomicUpsert: () => atomicUpsert([Short, 77], { doc: operations, hits: 1, status: 'z' }),
      'a save under a lock': () =>
        withLock([Short, id], async (row) => row.update({ doc: long, hits: 2, status: 'lock' } as never)),
      'a save with a version': async () =>
        withOptimisticLock(await Short.findByPk(id, { rejectOnEmpty: true }), (row) => {
          row.set({ doc: long, hits: 3 } as never)
        }),
    }
    for (const [name, call] of Object.entries(calls)) {
      // SQLite has no lengths.
      if (database.name === 'sqlite') await call()
      else {
        const error = await rejection(call() as Promise<unknown>, UnsupportedValueError)
        expect(error.message, name).to.match(
          /longer than the type of its column \((?:"status", )?"doc"(?:, "status")?\)/,
        )
        expect(error.column, name).to.be.oneOf(['doc', 'status'])
      }
    }
  })

  if (database.name === 'mysql' || database.name === 'mariadb') {
    it('is refused in a session that would truncate a document', async () => {
      const { id } = await noteWith('{"a":1}')
      const own = database.connect({ pool: { max: 1, min: 1 } }).sequelize
      await own.query(`SET SESSION sql_mode = ''`)
      const Own = lossless(define(own), { jsonColumns: ['doc'], wholeColumnWrites: 'patch' })
      const note = await Own.findByPk(id, { rejectOnEmpty: true })
      const Versioned = lossless(define(own, { version: 'hits' }), { jsonColumns: ['doc'] })
      const calls = [
        () => note.mergeJsonKey('doc', 'n', 1),
        () => note.update({ doc: { a: 2 } }),
        () => withLock([Own, id], (row) => row.update({ doc: { a: 2 } })),
        () => withOptimisticLock([Versioned, id], (row) => row.set({ doc: { a: 2 } })),
      ]
      for (const call of calls) {
        expect((await rejection(call() as Promise<unknown>, UnsupportedValueError)).message).to.include(
          'sql_mode is not strict',
        )
      }
      expect(await stored(id)).to.equal('{"a":1}')
    })

    it('is refused after the model was initialised again for a table whose column is shorter', async () => {
      const own = database.connect({ pool: { max: 1, min: 1 } }).sequelize
      await own.query(`SET SESSION sql_mode = ''`)
      for (const [table, type] of [
        ['long_papers', 'LONGTEXT'],
        ['short_papers', 'TINYTEXT'],
      ]) {
        await own.query(`DROP TABLE IF EXISTS ${table}`)
        await own.query(`CREATE TABLE ${table} (id INT PRIMARY KEY, doc ${type}) CHARSET utf8mb4`)
        await own.query(`INSERT INTO ${table} VALUES (1, '{"a":1}')`)
      }
      class Paper extends Model {}
      const initialise = (tableName: string): void =>
        void Paper.init({ doc: DataTypes.TEXT }, { sequelize: own, timestamps: false, tableName })
      initialise('long_papers')
      lossless(Paper, { jsonColumns: ['doc'] })
      await mergeJsonKey([Paper, 1], 'doc' as never, 'n' as never, 1 as never)
      initialise('short_papers')
      await rejection(mergeJsonKey([Paper, 1], 'doc' as never, 'n' as never, 2 as never), UnsupportedValueError)
    })

    it('that the model declares as JSON is refused in a session that would truncate it, unless it holds every document', async () => {
      const own = database.connect({ pool: { max: 1, min: 1 } }).sequelize
      await own.query(`SET SESSION sql_mode = ''`)
      // On MySQL, the model has to declare that a LONGTEXT holds JSON.
      for (const type of ['TEXT', 'VARCHAR(100)', 'JSON', ...(database.name === 'mariadb' ? ['LONGTEXT'] : [])]) {
        const isShort = type === 'TEXT' || type === 'VARCHAR(100)'
        await own.query('DROP TABLE IF EXISTS short_papers')
        await own.query(`CREATE TABLE short_papers (id INT PRIMARY KEY, the_doc ${type}, hits INT) CHARSET utf8mb4`)
        await own.query(`INSERT INTO short_papers VALUES (1, '{"a":1}', 0)`)
        const define = (options: ModelOptions): typeof Note =>
          own.define(
            'Paper',
            {
              id: { type: DataTypes.INTEGER, primaryKey: true },
              doc: { type: DataTypes.JSON, field: 'the_doc' },
              hits: DataTypes.INTEGER,
            },
            { tableName: 'short_papers', timestamps: false, ...options },
          ) as unknown as typeof Note
        const Paper = lossless(define({}), { wholeColumnWrites: 'patch' })
        const Versioned = lossless(define({ version: 'hits' }))
        const paper = await Paper.findByPk(1, { rejectOnEmpty: true })
        const long = 'x'.repeat(70_000)
        const calls: readonly (() => Promise<unknown>)[] = [
          () => mergeJsonKey([Paper, 1], 'doc', 'tags', [long]),
          () => updateWhere(Paper, { id: 1 }, { doc: [set('tags', [long])] }),
          () => withLock([Paper, 1], (row) => row.update({ doc: { tags: [long] } })),
          () => withLock([Paper, 1], async (row) => row.mergeJsonKey('doc', 'tags', [long])),
          () => withOptimisticLock([Versioned, 1], (row) => row.set({ doc: { tags: [long] } })),
          () => paper.update({ doc: { a: 1, tags: [long] } }),
          () => paper.update({ doc: null }),
        ]
        for (const [index, call] of calls.entries()) {
          await own.query(`UPDATE short_papers SET the_doc = '{"a":1}', hits = 0`)
          await paper.reload()
          if (!isShort) await call()
          else {
            const error = await rejection(call(), UnsupportedValueError)
            expect(error.message, `${type} ${index}`).to.include('sql_mode is not strict').and.include('"doc"')
            expect(await stored(1, 'short_papers')).to.equal('{"a":1}')
          }
        }
      }
    })

    it('of a character set that does not hold every text is refused', async () => {
      const Own = await notes({}, { tableName: 'latin_notes' })
      await sequelize.query('ALTER TABLE latin_notes MODIFY the_doc TEXT CHARACTER SET latin1')
      for (const text of [null, '{"a":1}']) {
        const { id } = await noteWith(text, Own)
        const error = await rejection(mergeJsonKey([Own, id], 'doc', 'a', 2), UnsupportedValueError)
        expect(error.message).to.include('has the character set latin1').and.include('MODIFY the_doc …')
        expect(await stored(id, 'latin_notes')).to.equal(text)
        const save = withLock([Own, id], (row) => row.update({ doc: { tags: ['日'] } }))
        expect((await rejection(save, UnsupportedValueError)).column).to.equal('doc')
      }
      const added = atomicUpsert([Own, 99], { doc: [set('tags', ['日'])] })
      expect((await rejection(added, UnsupportedValueError)).column).to.equal('doc')
      expect(await Own.findByPk(99)).to.equal(null)
    })
  }

  describe('is refused', () => {
    it('by a method of a model that does not name it', async () => {
      const Plain = lossless(define(sequelize, { modelName: 'Plain' }))
      const error = await rejection(mergeJsonKey([Plain, 1], 'doc', 'n', 1), UsageError)
      expect(error.message).to.include(`lossless(Plain, { jsonColumns: ['doc'] })`)
    })

    if (database.name === 'mysql') {
      type Paper = Model & { id: number; doc: Doc; status: string | null }

      it('by every write of a column that the model declares as JSON, until jsonColumns names it', async () => {
        await sequelize.query('DROP TABLE IF EXISTS papers')
        await sequelize.query('CREATE TABLE papers (id INT PRIMARY KEY, doc TEXT, status TEXT) CHARSET utf8mb4')
        const declare = (): ModelStatic<Paper> =>
          sequelize.define<Paper>(
            'Paper',
            { id: { type: DataTypes.INTEGER, primaryKey: true }, doc: DataTypes.JSON, status: DataTypes.STRING },
            { tableName: 'papers', timestamps: false },
          )
        const Paper = lossless(declare())
        const text =
          '"doc" of Paper is declared as JSON, and its column in the database holds text, so nothing was written: ' +
          "MySQL's JSON functions would round its numbers. Declare it: lossless(Paper, { jsonColumns: ['doc'] }). " +
          'Or migrate it: ALTER TABLE … MODIFY doc JSON.'
        const writes = (Own: ModelStatic<Paper>): Record<string, () => Promise<unknown>> => ({
          updateJson: () => updateJson([Own, 1], 'doc', [set('a', 1)]),
          atomicUpdate: () => atomicUpdate([Own, 1], { doc: [append('tags', 'x')], status: 'x' } as never),
          updateWhere: () => updateWhere(Own, { id: 1 } as never, { doc: [remove('a')] } as never),
          atomicUpsert: () => atomicUpsert([Own, 1], { doc: [increment('a')] } as never),
          compareAndSetJson: () => compareAndSetJson([Own, 1], 'doc', 'a', 1, 2),
        })
        for (const stored of [hostile, '[1.10]', 'no JSON', null]) {
          await sequelize.query('REPLACE INTO papers VALUES (1, $1, NULL)', { bind: [stored] })
          for (const [method, write] of Object.entries(writes(Paper))) {
            expect((await rejection(write(), UsageError)).message, method).to.equal(`${method}: ${text}`)
          }
          expect(await sequelize.query('SELECT * FROM papers', { type: QueryTypes.SELECT })).to.deep.equal([
            { id: 1, doc: stored, status: null },
          ])
        }
        const Declared = lossless(declare(), { jsonColumns: ['doc'] })
        await sequelize.query('REPLACE INTO papers VALUES (1, $1, NULL)', { bind: [hostile] })
        for (const write of Object.values(writes(Declared)).slice(0, 4)) await write()
        const [after] = await sequelize.query<{ doc: string }>('SELECT * FROM papers', { type: QueryTypes.SELECT })
        expect(numbersOf(after!.doc)).to.deep.equal(numbersOf(hostile))
      })
    }

    if (database.name === 'postgres') {
      it('by every write of a column that has a type of JSON in the database', async () => {
        await sequelize.query('DROP TABLE IF EXISTS sheets')
        await sequelize.query('CREATE TABLE sheets (id SERIAL PRIMARY KEY, doc JSONB, notes JSON)')
        await sequelize.query(`INSERT INTO sheets (doc, notes) VALUES ('{}', '{}')`)
        const Sheet = lossless(
          sequelize.define<Model & { doc: Doc; notes: Doc }>(
            'Sheet',
            { doc: DataTypes.TEXT, notes: DataTypes.TEXT },
            { tableName: 'sheets', timestamps: false },
          ),
          { jsonColumns: ['doc', 'notes'] },
        )
        const writes: readonly (() => Promise<unknown>)[] = [
          () => updateJson([Sheet, 1], 'doc', [set('n', 1)]),
          () => updateWhere(Sheet, { id: 1 } as never, { doc: [set('n', 1)] } as never),
          () => atomicUpsert([Sheet, 7], { doc: [set('n', 1)] } as never),
          () => updateJson([Sheet, 1], 'notes', [set('n', 1)]),
        ]
        const texts = await Promise.all(writes.map(async (write) => (await rejection(write(), UsageError)).message))
        const remedy = (method: string, column: string, type: string): string =>
          `${method}: "${column}" of Sheet is declared as text, and its column in the database has the type ${type}, so nothing was written. ` +
          `Declare it as it is, ${column}: { type: DataTypes.${type.toUpperCase()} }, and leave it out of jsonColumns.`
        expect(texts).to.deep.equal([
          remedy('updateJson', 'doc', 'jsonb'),
          remedy('updateWhere', 'doc', 'jsonb'),
          remedy('atomicUpsert', 'doc', 'jsonb'),
          remedy('updateJson', 'notes', 'json'),
        ])
      })
    }

    it('with text that is not JSON in a new row', async () => {
      const call = atomicUpsert([Notes, 5_000_000], { doc: [set('n', 1)] }, { create: {} })
      await call
      const Raw = lossless(
        sequelize.define<Model & { doc: Doc }>(
          'Raw',
          { doc: { type: DataTypes.TEXT, field: 'the_doc' } },
          { tableName: 'notes' },
        ),
        { jsonColumns: ['doc'] },
      )
      const created = (doc: string): Promise<boolean> =>
        atomicUpsert([Raw, 5_000_001], { doc: [set('n', 1)] }, { create: { doc: doc as never } })
      expect((await rejection(created('not JSON'), UsageError)).message).to.include('the text "not JSON"')
      expect(await created('{"a":1}')).to.equal(true)
      expect(await storedDocument(5_000_001)).to.deep.equal({ a: 1, n: 1 })
    })

    it('by lossless(), if the attribute cannot hold JSON text', async () => {
      const Odd = define(sequelize, { modelName: 'Odd' })
      expect(lossless(Odd, { jsonColumns: undefined } as never)).to.equal(Odd)
      const refusals: readonly (readonly [names: unknown, text: RegExp])[] = [
        ['doc', /array of the names of attributes, got "doc"/],
        [['other'], /got "other" .string., which it does not have/],
        [[1], /got 1 .number., which it does not have/],
        [['hits'], /got "hits" .string., which has the type INTEGER\. Migrate the column .*DataTypes\.JSON/],
      ]
      for (const [jsonColumns, text] of refusals) {
        expect((await thrown(() => lossless(Odd, { jsonColumns } as never))).message).to.match(text)
      }
      const all = await thrown(() => lossless(sequelize, { jsonColumns: ['doc'] } as never))
      expect(all.message).to.include('lossless(Job, { jsonColumns:')
      const Keyed = sequelize.define('Keyed', {
        id: { type: DataTypes.STRING, primaryKey: true },
        doc: DataTypes.JSONB,
      })
      const key = await thrown(() => lossless(Keyed, { jsonColumns: ['id'] } as never))
      expect(key.message).to.include('"id" is the primary key')
      const type = await thrown(() => lossless(Keyed, { jsonColumns: ['doc'] }))
      expect(type.message).to.include('JSONB. Leave it out')
    })
  })
})
