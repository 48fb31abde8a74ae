import { expect } from 'chai'
import { BaseError, DataTypes } from 'sequelize'
import type { Model, ModelStatic, Sequelize } from 'sequelize'
import * as library from 'sequelize-lossless'
import {
  append,
  atomicUpdate,
  increment,
  lossless,
  mergeJsonKey,
  set,
  updateJson,
  UsageError,
} from 'sequelize-lossless'
import { eachServer } from '../each-database.js'
import { rejection } from '../rejection.js'

type Doc = Readonly<Record<string, unknown>>
type Row = Model & { doc: Doc }

eachServer('the code in the text of an error', (database) => {
  let sequelize: Sequelize
  let Readings: ModelStatic<Row>
  let Notes: ModelStatic<Row>
  const key = { 'tenant-id': 7, 'the name': "it's 1", bytes: new Uint8Array([7, 65]) }

  before(async () => {
    ;({ sequelize } = database.connect())
    const ofKey = (type: unknown): object => ({ type, primaryKey: true, allowNull: false })
    Readings = lossless(
      sequelize.define<Row>(
        'meter-reading',
        {
          'tenant-id': ofKey(DataTypes.INTEGER),
          'the name': ofKey(DataTypes.STRING(50)),
          bytes: ofKey(database.name === 'postgres' ? DataTypes.BLOB : DataTypes.STRING(16, true)),
          doc: DataTypes.JSON,
        } as never,
        { tableName: 'meter_readings', timestamps: false },
      ),
    )
    Notes = lossless(
      sequelize.define<Row>(
        'CodeNote',
        {
          doc: {
            type: DataTypes.TEXT,
            get(this: Row): Doc {
              return JSON.parse(String(this.getDataValue('doc'))) as Doc
            },
            set(this: Row, value: Doc): void {
              this.setDataValue('doc', JSON.stringify(value))
            },
          },
        },
        { timestamps: false, charset: 'utf8mb4' },
      ),
      { jsonColumns: ['doc'] },
    )
    await sequelize.sync({ force: true })
    const doc = { s: '5', n: 1 }
    await Readings.create({ ...key, bytes: Buffer.from(key.bytes), doc } as never)
    await Notes.create({ id: 1, doc } as never)
  })

  /** Runs the first call in the text of the error that a call rejects with. */
  async function runCodeOf(call: Promise<unknown>, value: unknown, models: object = {}): Promise<unknown> {
    const error = await rejection(call, BaseError)
    const [, code = error.message] = /\bawait (.*?)(?:\.$| and decide again)/s.exec(error.message) ?? []
    const own = { ...library, sequelize, CodeNote: Notes, value, ...models }
    // eslint-disable-next-line @typescript-eslint/no-implied-eval -- the code is that of an error text
    const run = new Function(...Object.keys(own), `return ${code}`) as (...given: unknown[]) => Promise<unknown>
    return run(...Object.values(own))
  }

  it('names a row by members and a model that need quotes', async () => {
    const target = [Readings, key] as never
    const failing = mergeJsonKey(target, 'doc' as never, 'x' as never, 1 as never, {
      if: [library.exists('y') as never],
    })
    const found = (await runCodeOf(failing, undefined)) as Row
    expect(found.doc).to.deep.equal({ s: '5', n: 1 })
    await runCodeOf(updateJson(target, 'doc', [increment('s')] as never), '5')
    await found.reload()
    expect(found.doc).to.deep.equal({ s: 5, n: 1 })
    const where = await rejection(
      Promise.resolve().then(() => atomicUpdate([Readings, { 'tenant-id': 7 }] as never, {} as never)),
      UsageError,
    )
    expect(where.message).to.include('{ "tenant-id": …, "the name": …, bytes: … }')
  })

  for (const [kind, accessors] of Object.entries<readonly string[]>({
    'neither a getter nor a setter': [],
    'a getter': ['get'],
    'a setter': ['set'],
  })) {
    it(`changes a document that the model holds as text, with ${kind}`, async () => {
      const { type, get, set: setter } = Notes.getAttributes().doc as { type: never; get: never; set: never }
      const own = { type, ...(accessors.includes('get') && { get }), ...(accessors.includes('set') && { set: setter }) }
      const table = { tableName: 'CodeNotes', timestamps: false }
      const Own = lossless(sequelize.define<Row>('OwnNote', { doc: own }, table), { jsonColumns: ['doc'] })
      const target = [Own, 1] as never
      const stored = async (): Promise<unknown> =>
        (await Notes.findByPk(1, { rejectOnEmpty: true })).getDataValue('doc')
      for (const [before, operation, after] of [
        ['"5"', set('a', 1), '{"value":"5"}'],
        ['true', append([], 1), '[true]'],
      ] as const) {
        await sequelize.query(
          `UPDATE ${sequelize.getQueryInterface().quoteIdentifier('CodeNotes')} SET doc = '${before}'`,
        )
        await runCodeOf(updateJson(target, 'doc', [operation] as never), undefined, { OwnNote: Own })
        expect(await stored()).to.equal(after)
      }
    })
  }

  it('keeps every digit of a document that the model has as text', async () => {
    const table = { tableName: 'CodeNotes', timestamps: false }
    const Own = lossless(sequelize.define<Row>('OwnNote', { doc: DataTypes.TEXT }, table), { jsonColumns: ['doc'] })
    await sequelize.query(
      `UPDATE ${sequelize.getQueryInterface().quoteIdentifier('CodeNotes')} SET doc = '12345678901234567890.50'`,
    )
    await runCodeOf(updateJson([Own, 1] as never, 'doc', [set('a', 1)] as never), undefined, { OwnNote: Own })
    expect((await Notes.findByPk(1, { rejectOnEmpty: true })).getDataValue('doc')).to.equal(
      '{"value":12345678901234567890.50}',
    )
    await Notes.update({ doc: { s: '5', n: 1 } }, { where: {} })
  })

  it('changes a document that the model holds as text', async () => {
    const target = [Notes, 1] as never
    await runCodeOf(updateJson(target, 'doc', [increment('s')] as never), '5')
    expect((await Notes.findByPk(1, { rejectOnEmpty: true })).doc).to.deep.equal({ s: 5, n: 1 })
    await runCodeOf(updateJson(target, 'doc', [append('s', 6)] as never), 5)
    expect((await Notes.findByPk(1, { rejectOnEmpty: true })).doc).to.deep.equal({ s: [5], n: 1 })
    await runCodeOf(updateJson(target, 'doc', [set(['n', 'a'], 1)] as never), 1)
    expect((await Notes.findByPk(1, { rejectOnEmpty: true })).doc).to.deep.equal({ s: [5], n: { value: 1 } })
  })
})
