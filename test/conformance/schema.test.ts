import { expect } from 'chai'
import { BaseError, DatabaseError, DataTypes, QueryTypes } from 'sequelize'
import type { CreationOptional, Model, ModelStatic, Sequelize, Transaction, UniqueConstraintError } from 'sequelize'
import {
  addToSet,
  append,
  assign,
  ConflictError,
  increment,
  lock,
  lossless,
  max,
  merge,
  min,
  prepend,
  pull,
  remove,
  rename,
  replaceOrAppend,
  set,
  setIfAbsent,
  updateJson,
  withLock,
} from 'sequelize-lossless'
import type { Lossless, Operation } from 'sequelize-lossless'
import type { DatabaseName } from '../databases/index.js'
import { eachDatabase, servers } from '../each-database.js'
import { rejection } from '../rejection.js'
import { expected } from './expected.js'

interface Progress {
  state: string
  total: number
  tags: string[]
  [other: string]: unknown
}

/** A row of which the database makes columns and index entries out of the document. */
interface IndexedRun extends Model {
  id: CreationOptional<number>
  progress: Progress
  state: string
  total: number
  copy: Progress
}

/** A table as a database can make it: its generated columns, its CHECK, and its indexes by the condition that uses each. */
interface Schema {
  readonly type: 'JSON' | 'JSONB'
  readonly columns: readonly string[]
  readonly check: string
  readonly indexes: Readonly<Record<string, readonly [on: string, where: (document: Progress) => string]>>
  /** What follows the table's name to use one index and no other. */
  readonly hint: (index: string) => string
}

function inPostgres(type: Schema['type']): Schema {
  const jsonb = type === 'JSONB' ? 'progress' : '(progress::jsonb)'
  return {
    type,
    columns: [
      `state TEXT GENERATED ALWAYS AS (progress ->> 'state') VIRTUAL`,
      `total INTEGER GENERATED ALWAYS AS ((progress ->> 'total')::int) STORED`,
      `copy ${type} GENERATED ALWAYS AS (progress) STORED`,
    ],
    check: `(progress ->> 'total')::int BETWEEN 0 AND 999 AND progress ->> 'state' IS NOT NULL AND jsonb_array_length(${jsonb} -> 'tags') BETWEEN 1 AND 3 AND progress -> 'banned' IS NULL`,
    indexes: {
      by_state: [`((progress ->> 'state'))`, ({ state }) => `progress ->> 'state' = '${state}'`],
      by_total: [`(total)`, ({ total }) => `total = ${total}`],
      by_tag: [`USING gin (${jsonb})`, ({ tags }) => `${jsonb} @> '{"tags":["${tags.at(-1)!}"]}'`],
    },
    hint: () => '',
  }
}

const schemas: Readonly<Record<DatabaseName, readonly Schema[]>> = {
  mysql: [
    {
      type: 'JSON',
      columns: [
        `state VARCHAR(100) AS (progress ->> '$.state') VIRTUAL`,
        `total INT AS (progress -> '$.total') STORED`,
        `copy JSON AS (progress) STORED`,
      ],
      check: `progress -> '$.total' BETWEEN 0 AND 999 AND progress -> '$.state' IS NOT NULL AND JSON_LENGTH(progress -> '$.tags') BETWEEN 1 AND 3 AND progress -> '$.banned' IS NULL`,
      indexes: {
        by_state: ['(state)', ({ state }) => `state = '${state}'`],
        by_total: ['(total)', ({ total }) => `total = ${total}`],
        by_expression: [
          `((CAST(progress -> '$.total' AS SIGNED)))`,
          ({ total }) => `CAST(progress -> '$.total' AS SIGNED) = ${total}`,
        ],
        by_tag: [
          `((CAST(progress -> '$.tags' AS CHAR(20) ARRAY)))`,
          ({ tags }) => `'${tags.at(-1)!}' MEMBER OF (progress -> '$.tags')`,
        ],
      },
      hint: (index) => `FORCE INDEX (${index})`,
    },
  ],
  mariadb: [
    {
      type: 'JSON',
      columns: [
        `state VARCHAR(100) AS (JSON_VALUE(progress, '$.state')) VIRTUAL`,
        `total INT AS (JSON_VALUE(progress, '$.total')) STORED`,
        `copy JSON AS (progress) STORED`,
      ],
      check: `JSON_VALUE(progress, '$.total') BETWEEN 0 AND 999 AND JSON_VALUE(progress, '$.state') IS NOT NULL AND JSON_LENGTH(progress, '$.tags') BETWEEN 1 AND 3 AND JSON_EXTRACT(progress, '$.banned') IS NULL`,
      indexes: {
        by_state: ['(state)', ({ state }) => `state = '${state}'`],
        by_total: ['(total)', ({ total }) => `total = ${total}`],
      },
      hint: (index) => `FORCE INDEX (${index})`,
    },
  ],
  postgres: [inPostgres('JSON'), inPostgres('JSONB')],
  sqlite: [
    {
      type: 'JSON',
      columns: [
        `state TEXT AS (progress ->> 'state') VIRTUAL`,
        `total INTEGER AS (progress ->> 'total') STORED`,
        `copy JSON AS (progress) STORED`,
      ],
      check: `progress ->> 'total' BETWEEN 0 AND 999 AND progress ->> 'state' IS NOT NULL AND json_array_length(progress, '$.tags') BETWEEN 1 AND 3 AND progress -> 'banned' IS NULL`,
      indexes: {
        by_state: ['(state)', ({ state }) => `state = '${state}'`],
        by_total: ['(total)', ({ total }) => `total = ${total}`],
        by_expression: [`(progress ->> 'total')`, ({ total }) => `progress ->> 'total' = ${total}`],
      },
      hint: (index) => `INDEXED BY ${index}`,
    },
  ],
}

const start: Progress = { state: 'new', total: 7, tags: ['a', 'b'], inner: { z: 1, list: ['x', 'y'] } }
const other: Progress = { state: 'other', total: 500, tags: ['other'] }

/** Of each kind of operation one that the CHECK allows, and one that it does not; one left out does not compile. */
const operations: Readonly<Record<Operation['kind'], readonly [allowed: Operation, violating: Operation]>> = {
  set: [set('state', 'done'), set('total', -1)],
  assign: [assign([], { state: 'done', total: 8 }), assign([], { total: -1 })],
  setIfAbsent: [setIfAbsent('first', 'x'), setIfAbsent('banned', null)],
  remove: [remove(['inner', 'z']), remove('state')],
  rename: [rename(['inner', 'z'], 'y'), rename('state', 'status')],
  increment: [increment('total', 2), increment('total', 993)],
  min: [min('total', 3), min('total', -1)],
  max: [max('total', 50), max('total', 1000)],
  append: [append('tags', 'last'), append('tags', 'one too many')],
  prepend: [prepend('tags', 'first'), prepend('tags', 'one too many')],
  addToSet: [addToSet('tags', 'new'), addToSet('tags', 'one too many')],
  pull: [pull(['inner', 'list'], 'x'), pull('tags', 'x')],
  replaceOrAppend: [replaceOrAppend(['inner', 'list'], 'id', { id: 1 }), replaceOrAppend('banned', 'id', { id: 1 })],
  merge: [merge([], { state: 'merged', total: 8, tags: ['c'] }), merge([], { state: null })],
}

eachDatabase('a table with columns and indexes derived from its document', (database) => {
  for (const schema of schemas[database.name]) {
    describe(`with a column of type ${schema.type}`, () => {
      let sequelize: Sequelize
      let log: string[]
      let Runs: ModelStatic<IndexedRun>
      let run: IndexedRun

      before(async () => {
        // One connection, since PostgreSQL is told on it to use indexes.
        ;({ sequelize, log } = database.connect({ pool: { max: 1, min: 1 } }))
        if (database.name === 'postgres') await sequelize.query('SET enable_seqscan = off')
        Runs = await createIndexed(sequelize, schema)
      })

      beforeEach(async () => {
        await Runs.destroy({ where: {} })
        run = await Runs.create({ progress: start })
        await Runs.create({ progress: other })
      })

      /** The row is as the document says, in its columns and in every index. */
      async function expectDerived(document: Progress): Promise<void> {
        const row = await Runs.findByPk(run.id, { rejectOnEmpty: true })
        const { state, total } = document
        // Sequelize does not know the type of SQLite's generated columns, and leaves them text.
        const read: unknown = row.copy
        const copy: unknown = typeof read === 'string' ? JSON.parse(read) : read
        expect({ ...row.get(), copy }).to.deep.equal({ id: run.id, progress: document, state, total, copy: document })
        for (const [index, [, where]] of Object.entries(schema.indexes)) {
          const sql = `SELECT id FROM indexed_runs ${schema.hint(index)} WHERE ${where(document)}`
          expect(await sequelize.query(sql, { type: QueryTypes.SELECT }), index).to.deep.equal([{ id: run.id }])
          const explain = database.name === 'sqlite' ? 'EXPLAIN QUERY PLAN' : 'EXPLAIN'
          const plan = await sequelize.query(`${explain} ${sql}`, { type: QueryTypes.SELECT })
          expect(JSON.stringify(plan)).to.include(index)
        }
      }

      for (const [kind, [allowed, violating]] of Object.entries(operations)) {
        it(`${kind} updates generated columns and indexes`, async () => {
          await updateJson([Runs, run.id], 'progress', [allowed] as never)
          await expectDerived(expected([allowed], start) as Progress)
        })

        it(`${kind} that violates a CHECK is an error, and writes nothing`, async () => {
          const full = { ...start, tags: ['x', 'x', 'x'] }
          await run.update({ progress: full })
          const call = updateJson([Runs, run.id], 'progress', [violating] as never)
          // Sequelize calls SQLite's CHECK a unique constraint.
          const error = await rejection<DatabaseError | UniqueConstraintError>(call, BaseError as never)
          expect(error.parent.message).to.match(/check|constraint/i)
          await expectDerived(full)
        })
      }

      it('withLock and save() write the document, and no generated column', async () => {
        log.length = 0
        await withLock([Runs, run.id], async (row) => {
          expect(row).to.deep.include({ state: 'new', total: 7 })
          row.progress.state = 'locked'
          row.progress.tags.push('z')
          await row.save()
        })
        expect(log.filter((sql) => sql.startsWith('UPDATE') && /state|total|copy/.test(sql))).to.deep.equal([])
        await expectDerived({ ...start, state: 'locked', tags: ['a', 'b', 'z'] })
      })

      it('a row in memory keeps its generated columns until it is read again', async () => {
        await updateJson(run, 'progress', [set('state', 'done')] as never)
        expect(run.changed()).to.equal(false)
        await run.save()
        expect((await run.reload()).state).to.equal('done')
      })

      it('a write to a generated column rejects with the error of the database', async () => {
        const error = await rejection(updateJson([Runs, run.id], 'copy', [set('k', 1)] as never), DatabaseError)
        expect(error.message).to.match(/generated|updated to DEFAULT/i)
        await expectDerived(start)
      })
    })
  }
})

/** SQL that makes a table skip every UPDATE and DELETE, without an error. */
const skipping: Partial<Record<DatabaseName, (event: string) => readonly string[]>> = {
  postgres: (event) => [
    `CREATE OR REPLACE FUNCTION skip_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`,
    `CREATE TRIGGER skip_${event} BEFORE ${event} ON counters FOR EACH ROW EXECUTE FUNCTION skip_row()`,
  ],
  sqlite: (event) => [`CREATE TRIGGER skip_${event} BEFORE ${event} ON counters BEGIN SELECT RAISE(IGNORE); END`],
}

interface Counter extends Model, Lossless<Counter> {
  progress: Record<string, unknown>
  count: number
}

/** Calls that write nothing in such a table, and the start of their errors; each runs with and without a version. */
const skipped: readonly (readonly [error: RegExp, call: (run: Counter) => Promise<unknown>, needsVersion?: true])[] = [
  [/^mergeJsonKey: .*UPDATE of "progress"/, (run) => run.mergeJsonKey('progress', 'b', 2)],
  [/^save: .*UPDATE of "progress"/, (run) => run.withLock((row) => row.update({ progress: { c: 3 } }), { retry: {} })],
  [/^destroy: .*DELETE/, (run) => run.withLock((row) => row.destroy(), { retry: {} })],
  [/^increment: .*UPDATE/, (run) => run.withLock((row) => row.increment('count'))],
  [/^decrement: .*UPDATE/, (run) => run.withLock((row) => row.decrement({ count: 2 }))],
  [/^save: .*UPDATE/, (run) => run.sequelize.transaction((transaction) => lockAndSave(run, transaction))],
  [/^withOptimisticLock: .*UPDATE of "count"/, (run) => run.withOptimisticLock((row) => row.set('count', 5)), true],
]

async function lockAndSave(run: Counter, transaction: Transaction): Promise<void> {
  await lock(run, { transaction })
  await run.update({ count: 5 }, { transaction })
}

eachDatabase('a table whose trigger skips every UPDATE and DELETE', (database) => {
  const triggers = skipping[database.name]
  if (!triggers) return

  for (const version of [false, true]) {
    it(`makes every write a ConflictError that names the trigger, ${version ? 'with' : 'without'} a version`, async () => {
      const { sequelize, log } = database.connect()
      const attributes = { progress: DataTypes.JSON, count: DataTypes.INTEGER }
      const Counters = lossless(sequelize.define<Counter>('Counter', attributes, { tableName: 'counters', version }))
      await Counters.sync({ force: true })
      const run = await Counters.create({ progress: { a: 1 }, count: 1 })
      for (const sql of [...triggers('UPDATE'), ...triggers('DELETE')]) await sequelize.query(sql)
      for (const [text, call, needsVersion] of skipped) {
        if (needsVersion && !version) continue
        await run.reload()
        log.length = 0
        const error = await rejection(call(run), ConflictError)
        expect(error.message)
          .to.match(text)
          .and.match(/that did not write the row.*BEFORE (UPDATE|DELETE) trigger/)
        // Another attempt would meet the same trigger. The lock of SQLite is an UPDATE of the key.
        const writes = log.filter((sql) => /^(UPDATE|DELETE)(?!.* SET `id`)/.test(sql))
        if (!log.some((sql) => sql.includes('RETURNING 1'))) expect(writes, String(text)).to.have.lengthOf(1)
      }
      expect((await run.reload()).get())
        .to.include({ count: 1 })
        .and.have.deep.property('progress', { a: 1 })
      await Counters.drop()
    })
  }
})

async function createIndexed(sequelize: Sequelize, schema: Schema): Promise<ModelStatic<IndexedRun>> {
  const Runs = sequelize.define<IndexedRun>(
    'IndexedRun',
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      progress: DataTypes[schema.type],
      state: DataTypes.STRING,
      total: DataTypes.INTEGER,
      copy: DataTypes[schema.type],
    },
    { tableName: 'indexed_runs', timestamps: false },
  )
  const id = {
    mysql: 'INT AUTO_INCREMENT PRIMARY KEY',
    mariadb: 'INT AUTO_INCREMENT PRIMARY KEY',
    postgres: 'SERIAL PRIMARY KEY',
    sqlite: 'INTEGER PRIMARY KEY AUTOINCREMENT',
  }[sequelize.getDialect() as DatabaseName]
  await Runs.drop()
  const isBefore18 = sequelize.getDialect() === 'postgres' && parseInt(servers.get('postgres')!.version) < 18
  // PostgreSQL before 18 has no virtual columns.
  const derived = schema.columns.map((column) => (isBefore18 ? column.replace('VIRTUAL', 'STORED') : column))
  const columns = [`id ${id}`, `progress ${schema.type}`, ...derived, `CHECK (${schema.check})`]
  await sequelize.query(`CREATE TABLE indexed_runs (${columns.join(', ')})`)
  for (const [index, [on]] of Object.entries(schema.indexes)) {
    await sequelize.query(`CREATE INDEX ${index} ON indexed_runs ${on}`)
  }
  return Runs
}
