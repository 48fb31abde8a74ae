import { expect } from 'chai'
import { DataTypes } from 'sequelize'
import type { Model, ModelStatic, Sequelize, Transaction } from 'sequelize'
import {
  append,
  atomicUpsert,
  increment,
  JsonShapeError,
  lossless,
  mergeJsonKey,
  RowNotFoundError,
  set,
  UnsupportedValueError,
  updateJson,
  updateWhere,
  UsageError,
  withLock,
  withNext,
  withOptimisticLock,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'

interface Doc {
  a?: number
  tags?: string[]
}

type Row = Model & { id: number; doc: Doc | null }

interface Place {
  readonly schema?: string
}

eachDatabase('views, temporary tables and schemas', (database) => {
  const { name } = database
  const isMysql = name === 'mysql' || name === 'mariadb'
  const quote = name === 'postgres' ? '"' : '`'
  let sequelize: Sequelize

  before(() => {
    ;({ sequelize } = database.connect())
  })

  function define(own: Sequelize, tableName: string, place: Place = {}): ModelStatic<Row> {
    const attributes = { id: { type: DataTypes.INTEGER, primaryKey: true }, doc: DataTypes.JSON }
    return own.define<Row>('Row', attributes, { tableName, timestamps: false, ...place })
  }

  const documentOf = async (Rows: ModelStatic<Row>, id: number, transaction?: Transaction): Promise<unknown> => {
    const row = await Rows.findByPk(id, { rejectOnEmpty: true, transaction: transaction ?? null })
    const text = row.doc as unknown
    return typeof text === 'string' && text !== 'text' ? (JSON.parse(text) as unknown) : text
  }

  it('quotes its own names if the application leaves out the quotes', async () => {
    const { sequelize: unquoted } = database.connect({ quoteIdentifiers: false })
    const attributes = { id: { type: DataTypes.INTEGER, primaryKey: true }, doc: DataTypes.JSON }
    const options = { tableName: 'unquoted_rows', timestamps: false, version: true }
    const Rows = lossless(unquoted.define<Row>('Row', attributes, options))
    await Rows.sync({ force: true })
    await Rows.create({ id: 1, doc: {} } as never)
    const setA = async (row: Row): Promise<void> => {
      row.doc!.a = (row.doc!.a ?? 0) + 1
      await row.save()
    }
    await withLock([Rows, 1], setA)
    await withNext(Rows, { where: { id: 1 } as never }, setA)
    await withOptimisticLock([Rows, 1], (row) => void (row.doc!.a = row.doc!.a! + 1))
    expect(await updateWhere(Rows, { id: 1 } as never, { doc: [append('tags', 'x')] } as never)).to.equal(1)
    expect(await updateJson([Rows, 1], 'doc', [increment('a')] as never, { returning: true })).to.deep.equal({
      a: 4,
      tags: ['x'],
    })
    await rejection(mergeJsonKey([Rows, { where: { id: 2 } as never }], 'doc', 'a', 1), RowNotFoundError)
    await Rows.drop()
  })

  // A view of SQLite cannot be updated.
  if (name !== 'sqlite') {
    it('writes the documents of a view', async () => {
      await define(sequelize, 'seen_rows').sync()
      await sequelize.query(`CREATE OR REPLACE VIEW row_view AS SELECT id, doc FROM seen_rows`)
      await sequelize.query(`CREATE OR REPLACE VIEW row_view_2 AS SELECT * FROM row_view WHERE id > 0`)
      for (const view of ['row_view', 'row_view_2']) {
        const Rows = lossless(define(sequelize, view))
        await sequelize.query('DELETE FROM seen_rows')
        await sequelize.query(
          `INSERT INTO seen_rows VALUES (1, '{"a":1}'), (2, NULL), (3, 'null'), (4, '[1]'), (5, '"text"')`,
        )
        for (const id of [1, 2, 3]) await mergeJsonKey([Rows, id], 'doc', 'a', 2)
        await updateJson([Rows, 4], 'doc', [append([], 2)] as never)
        await rejection(mergeJsonKey([Rows, 5], 'doc', 'a', 2), JsonShapeError)
        expect(await updateWhere(Rows, { id: [1, 2] }, { doc: [set('tags', ['x'])] })).to.equal(2)
        const documents = await Promise.all([1, 2, 3, 4, 5].map((id) => documentOf(Rows, id)))
        const both = { a: 2, tags: ['x'] }
        expect(documents).to.deep.equal([both, both, { a: 2 }, [1, 2], 'text'])
      }
    })
  }

  if (name === 'mysql') {
    it('refuses a column of a view or a table that has another type', async () => {
      await sequelize.query('DROP VIEW IF EXISTS loose_view, bytes_view')
      await sequelize.query('DROP TABLE IF EXISTS loose_rows, bytes_rows')
      await sequelize.query('CREATE TABLE loose_rows (id INT PRIMARY KEY, doc TEXT, bytes LONGBLOB)')
      await sequelize.query('CREATE VIEW loose_view AS SELECT id, doc FROM loose_rows')
      await sequelize.query('CREATE VIEW bytes_view AS SELECT id, bytes AS doc FROM loose_rows')
      await sequelize.query('CREATE TABLE bytes_rows (id INT PRIMARY KEY, doc LONGBLOB)')
      await sequelize.query(`INSERT INTO bytes_rows VALUES (1, '{"a":1.10}')`)
      for (const text of ['{"a":1.10}', 'no JSON', null]) {
        await sequelize.query('REPLACE INTO loose_rows VALUES (1, $1, $1)', { bind: [text] })
        for (const table of ['loose_view', 'bytes_view', 'bytes_rows']) {
          const Rows = lossless(define(sequelize, table))
          const error = await rejection(mergeJsonKey([Rows, 1], 'doc', 'a', 2), UsageError)
          expect(error.message).to.include('is declared as JSON, and its column in the database holds text')
        }
      }
    })
  }

  // For dialect mariadb, a schema is a database.
  const place: Place = database.dialect === 'mariadb' ? {} : { schema: 'other_rows' }

  it('writes a table in another schema', async () => {
    if (name === 'postgres') await sequelize.query('CREATE SCHEMA IF NOT EXISTS other_rows')
    const Rows = lossless(define(sequelize, 'far_rows', place))
    await Rows.sync({ force: true })
    expect(await atomicUpsert([Rows, 1], { doc: [set('a', 1)] })).to.equal(true)
    expect(await atomicUpsert([Rows, 1], { doc: [set('a', 2)] })).to.equal(false)
    await mergeJsonKey([Rows, 1], 'doc', 'tags', ['x'])
    expect(await documentOf(Rows, 1)).to.deep.equal({ a: 2, tags: ['x'] })
  })

  it('writes a temporary table', async () => {
    const own = database.connect({ pool: { max: 1, min: 1 } }).sequelize
    await own.transaction(async (transaction) => {
      await own.query(
        `CREATE TEMPORARY TABLE ${quote}own_rows${quote} (id INTEGER PRIMARY KEY, doc ${name === 'sqlite' ? 'TEXT' : 'JSON'})`,
        { transaction },
      )
      const Rows = lossless(define(own, 'own_rows'))
      expect(await atomicUpsert([Rows, 1], { doc: [set('a', 1)] }, { transaction })).to.equal(true)
      expect(await atomicUpsert([Rows, 1], { doc: [set('a', 2)] }, { transaction })).to.equal(false)
      await mergeJsonKey([Rows, 1], 'doc', 'tags', ['x'], { transaction })
      expect(await documentOf(Rows, 1, transaction)).to.deep.equal({ a: 2, tags: ['x'] })
    })
  })

  if (isMysql) {
    describe('refuses, where the server would truncate a document,', () => {
      const tags = ['x'.repeat(70_000)]

      for (const [kind, create, { schema }] of [
        ['a temporary table', 'CREATE TEMPORARY TABLE', {}],
        ['a table in another schema', 'CREATE TABLE', place],
        ['a table with quotes in its name', 'CREATE TABLE', {}],
      ] as readonly (readonly [string, string, Place])[]) {
        it(kind, async () => {
          const own = database.connect({ pool: { max: 1, min: 1 } }).sequelize
          await own.query(`SET SESSION sql_mode = ''`)
          const table = kind.includes('quotes') ? 'sh\'ort $1 "rows' : `short_${kind.length}`
          const Rows = define(own, table, schema === undefined ? {} : { schema })
          const quoted = `\`${schema === undefined ? '' : `${schema}.`}${table}\``
          await own.query(`DROP TABLE IF EXISTS ${quoted}`)
          await own.query(`${create} ${quoted} (id INT PRIMARY KEY, doc TEXT, long_doc LONGTEXT) CHARSET utf8mb4`)
          await own.query(`INSERT INTO ${quoted} VALUES (1, '{"a":1}', '{"a":1}')`)
          lossless(Rows, { jsonColumns: ['doc'] })
          await own.transaction(async (transaction) => {
            const calls = [
              () => mergeJsonKey([Rows, 1], 'doc', 'tags', tags, { transaction }),
              () => updateWhere(Rows, { id: 1 }, { doc: [set('tags', tags)] }, { transaction }),
              () => withLock([Rows, 1], (row) => row.update({ doc: { tags } }), { transaction }),
            ]
            for (const call of calls) {
              const error = await rejection(call() as Promise<unknown>, UnsupportedValueError)
              expect(error.message).to.include('sql_mode is not strict')
            }
            expect(await documentOf(Rows, 1, transaction)).to.deep.equal({ a: 1 })
          })
          await own.query(`ALTER TABLE ${quoted} DROP doc, CHANGE long_doc doc LONGTEXT`)
          await own.transaction((transaction) => mergeJsonKey([Rows, 1], 'doc', 'tags', tags, { transaction }))
          expect(await documentOf(Rows, 1)).to.deep.equal({ a: 1, tags })
        })
      }
    })
  }
})
