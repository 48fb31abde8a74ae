import { isDeepStrictEqual } from 'node:util'
import { expect } from 'chai'
import { DataTypes, QueryTypes } from 'sequelize'
import type { Model, ModelStatic, Sequelize } from 'sequelize'
import {
  absent,
  addToSet,
  append,
  assign,
  atLeast,
  compareAndSetJson,
  ConditionNotMetError,
  contains,
  equals,
  exists,
  greaterThan,
  increment,
  max,
  merge,
  mergeJson,
  mergeJsonKey,
  min,
  not,
  prepend,
  pull,
  remove,
  rename,
  replaceOrAppend,
  RowNotFoundError,
  set,
  setIfAbsent,
  UnsupportedDatabaseError,
  UnsupportedValueError,
  updateJson,
  withLock,
} from 'sequelize-lossless'
import type { Condition, Operation } from 'sequelize-lossless'
import type { DatabaseName } from '../databases/index.js'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'
import { isThorough } from '../sample.js'
import { createRuns, documentText, storedText, storeText } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'
import { expected } from './expected.js'
import { hostileTexts } from './hostile.js'

/** A text to do harm with, and a key: the same where the database can hold it as one. */
interface Sample {
  readonly text: string
  readonly key: string
}

function samplesOn(name: DatabaseName): Sample[] {
  const isHeld = (text: string): boolean => text.isWellFormed() && !(name === 'postgres' && text.includes('\0'))
  return hostileTexts
    .filter(([text]) => isHeld(text))
    .map(([text, refusedBy]) => ({ text, key: refusedBy.includes(name) ? 'key' : text }))
}

/** Each kind of operation on a path, and a value there that it fits; one left out does not compile. */
const kinds: Readonly<
  Record<Operation['kind'], (path: readonly string[], sample: Sample) => readonly [Operation, unknown]>
> = {
  set: (path, { text, key }) => [set(path, { [key]: [text] }), text],
  assign: (path, { text, key }) => [assign(path, { [key]: [text], other: text }), { [key]: 1 }],
  setIfAbsent: (path, { text }) => [setIfAbsent(path, text), null],
  remove: (path, { text, key }) => [remove(path), { [key]: text }],
  rename: (path, { text, key }) => [rename(path, `${key.slice(0, 60_000)}_`), { [key]: text }],
  increment: (path) => [increment(path, 2), 1.5],
  min: (path) => [min(path, -1), 1],
  max: (path) => [max(path, 9), 1],
  append: (path, { text }) => [append(path, text), [text]],
  prepend: (path, { text, key }) => [prepend(path, { [key]: text }), [text]],
  addToSet: (path, { text, key }) => [addToSet(path, { [key]: text, other: 1 }), [text, { other: 1, [key]: text }]],
  pull: (path, { text, key }) => [pull(path, { [key]: text }), [text, { [key]: text }, 'rest', { [key]: text }]],
  replaceOrAppend: (path, { text, key }) => [
    replaceOrAppend(path, key, { [key]: text, other: text }),
    [text, { other: 1, [key]: text }],
  ],
  merge: (path, { text, key }) => [merge(path, { [key]: { [key]: text }, gone: null }), { [key]: text, gone: 1 }],
}

/** A document, and operations that fit it. */
type Case = readonly [start: Progress | null, operations: readonly Operation[]]

/** Every kind of operation in one statement, except that which the document is read for. */
function together(sample: Sample): Case[] {
  const each = Object.entries(kinds)
    .filter(([kind]) => kind !== 'replaceOrAppend')
    .map(([kind, make]) => [kind, ...make([kind, sample.key], sample)] as const)
  const operations = each.map(([, operation]) => operation)
  return [
    [null, operations],
    [
      Object.fromEntries(each.map(([kind, , value]) => [kind, { other: sample.text, [sample.key]: value }])),
      operations,
    ],
  ]
}

/** Every kind of operation in a statement of its own. */
function oneByOne(sample: Sample): Case[] {
  const { text, key } = sample
  return [
    ...Object.values(kinds).map((make): Case => {
      const [operation, value] = make([key], sample)
      return [{ other: text, [key]: value }, [operation]]
    }),
    [{ [key]: { [key]: 1, other: text } }, [set([key, key], text)]],
    [{ [key]: { [key]: 1, other: text } }, [remove([key, key])]],
    [{ [key]: { other: text } }, [merge([], { [key]: { [key]: text }, gone: null })]],
  ]
}

/** Names of tables, columns and attributes; Sequelize leaves a database's own quotes out of them. */
const names: readonly string[] = [
  'pro"gress',
  'pro`gress',
  "pro'gress",
  '"',
  "'",
  'pro$1gress',
  '$1',
  '$name',
  'a $1 $$2 $',
  'pro?gress',
  '?',
  'a:b',
  ':a',
  'a::int',
  'a\\b',
  "a\\'b",
  '\\',
  'a -- b',
  '-- b',
  '#',
  '/* b',
  'a */ b',
  '; DROP TABLE workflow_runs; -- x',
  "'); DROP TABLE workflow_runs; -- x",
  '%s ${x}',
  'SELECT',
  'FROM t WHERE 1=1',
  'x FROM sqlite_master',
  'RETURNING',
  'a\nb\tc',
  '\u02bc\u2019\uff07',
  '->',
  '[0]',
].filter((name) => name.replace(/["`]/g, '') !== '')

/** Sequelize's own UPDATE takes what follows such a "$" for a bind. */
const isBindToSequelize = (name: string): boolean => /\B\$[$\w]/.test(`"${name}"`)

/** Settings that change what a quote or a backslash means. */
type Mode = readonly [title: string, statement: string]
const sqlModes = ['', 'ANSI_QUOTES', 'NO_BACKSLASH_ESCAPES', 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'].map((mode): Mode => [
  `under sql_mode '${mode}'`,
  `SET SESSION sql_mode = '${mode}'`,
])
const modes: Readonly<Record<DatabaseName, readonly Mode[]>> = {
  mysql: sqlModes,
  mariadb: sqlModes,
  postgres: [
    [
      'under standard_conforming_strings = off',
      // PostgreSQL 19 has no other way to read strings than the standard one.
      `SELECT set_config(name, 'off', false) FROM pg_settings
       WHERE name IN ('standard_conforming_strings', 'escape_string_warning')
       AND current_setting('server_version_num')::int < 190000`,
    ],
  ],
  sqlite: [],
}

/** Asks for the setting that a mode changes. */
const settingsQuery: Readonly<Record<DatabaseName, string>> = {
  mysql: 'SELECT @@sql_mode AS mode',
  mariadb: 'SELECT @@sql_mode AS mode',
  postgres: 'SHOW standard_conforming_strings',
  sqlite: 'PRAGMA synchronous',
}

eachDatabase('no text becomes SQL', (database) => {
  const settings: readonly (readonly [string, string | undefined])[] = [
    ['as the server is set', undefined],
    ...modes[database.name],
  ]
  for (const [turn, [title, statement]] of settings.entries()) {
    /** In plain `npm test`, MySQL gets each text once: as the server is set, or in one of the modes. */
    const isUsed = (_: unknown, index: number): boolean =>
      isThorough || database.isSampled(index, Math.max(settings.length, 3), turn)
    describe(title, () => {
      // It escapes in JavaScript what it should bind, and wrongly.
      const isRefused = database.title === 'MariaDB with its connector 3.0' && title.includes('NO_BACKSLASH_ESCAPES')
      // Length is a matter of the server alone.
      const samples = samplesOn(database.name)
        .filter(({ text }) => statement === undefined || text.length < 1000)
        .filter(isUsed)
      let sequelize: Sequelize
      let Runs: typeof WorkflowRun
      let id: number
      let tables: readonly string[]
      let found: unknown

      before(async () => {
        // One connection, and never another, since the mode is its own.
        ;({ sequelize } = database.connect({ pool: { max: 1, min: 1 } }))
        Runs = await createRuns(sequelize)
        id = (await Runs.create()).id
        for (const each of ['a', 'b']) await Runs.create({ title: each, progress: { a: 1, [each]: { a: [each] } } })
        tables = await readTables()
        if (statement !== undefined) await sequelize.query(statement)
        found = await readSettings()
      })

      after(async () => {
        expect(await readTables()).to.deep.equal(tables)
        expect(await readSettings()).to.deep.equal(found)
      })

      /** Sorted, since a server lists its tables in whatever order it last read them. */
      async function readTables(): Promise<readonly string[]> {
        return (await sequelize.getQueryInterface().showAllTables()).sort()
      }

      async function readSettings(): Promise<unknown> {
        return sequelize.query(settingsQuery[database.name], { type: QueryTypes.SELECT })
      }

      /** Every row but the one that is written. */
      async function others(): Promise<string> {
        const quoted = sequelize.getQueryInterface().quoteIdentifier('updatedAt')
        const sql = `SELECT id, title, ${documentText(sequelize, 'progress')} AS document, ${quoted} AS time FROM workflow_runs`
        return JSON.stringify(
          await sequelize.query(`${sql} WHERE id <> ${id} ORDER BY id`, { type: QueryTypes.SELECT }),
        )
      }

      async function write(operations: readonly Operation[], conditions: readonly Condition[] = []): Promise<void> {
        await updateJson<WorkflowRun, 'progress', readonly Operation[]>([Runs, id], 'progress', operations, {
          if: conditions,
        })
      }

      const stored = async (): Promise<unknown> => JSON.parse((await storedText(Runs, id)) ?? 'null')

      if (isRefused) {
        it('a write is refused, since the connector would send text as SQL', async () => {
          await storeText(Runs, id, '{}')
          const calls: Record<string, () => Promise<unknown>> = {
            mergeJsonKey: () => mergeJsonKey([Runs, id], 'progress', 'k', 1),
            mergeJson: () => mergeJson([Runs, id], 'progress', { k: 1 }),
            updateJson: () => write([set('k', 1)]),
            compareAndSetJson: () => compareAndSetJson([Runs, id], 'progress', 'k', 1, 2),
            withLock: () => withLock([Runs, id], (run) => run.update({ progress: { k: 1 } })),
          }
          for (const [name, call] of Object.entries(calls)) {
            const error = await rejection(call(), UnsupportedDatabaseError)
            expect(error.message, name).to.include('npm install mariadb@^3.5.4')
          }
          expect(await stored()).to.deep.equal({})
        })
        return
      }

      async function mismatches(cases: readonly Case[]): Promise<unknown[]> {
        const found: unknown[] = []
        const untouched = await others()
        for (const [start, operations] of cases) {
          await storeText(Runs, id, start && JSON.stringify(start))
          const outcome = await outcomeOf(write(operations))
          const after = await stored()
          const wanted = expected(operations, start)
          if (outcome === 'written' && isDeepStrictEqual(after, wanted)) continue
          found.push({ start, operations, wanted, after, outcome: String(outcome) })
        }
        expect(await others()).to.equal(untouched)
        return found.slice(0, 3)
      }

      it('every kind of operation, with such keys and values', async () => {
        expect(await mismatches(samples.flatMap(together))).to.deep.equal([])
      })

      // What one statement alone can look like does not depend on the mode.
      if (statement === undefined) {
        it('each kind of operation alone', async () => {
          expect(await mismatches(samples.flatMap(oneByOne))).to.deep.equal([])
        })
      } else if (database.name !== 'postgres') {
        it('a value that would be stored as NULL is refused', async () => {
          const deep = JSON.parse('['.repeat(200) + ']'.repeat(200)) as unknown
          await rejection(write([set('deep', deep)]), UnsupportedValueError)
        })
      }

      it('conditions, met and unmet', async () => {
        const untouched = await others()
        for (const { text, key } of samples) {
          const start = { [key]: { [key]: text, other: [text] }, text }
          const name = JSON.stringify(text.slice(0, 40))
          await storeText(Runs, id, JSON.stringify(start))
          await write(
            [set('probe', 1)],
            [
              equals([key], { other: [text], [key]: text }),
              equals('text', text),
              exists([key, key]),
              absent(['none', key]),
              contains([key, 'other'], text),
              atLeast('text', text),
              not(greaterThan('text', text)),
            ],
          )
          expect(await stored(), name).to.deep.equal({ ...start, probe: 1 })
          const unmet = [equals([key], text), equals('text', `${text}'`), exists(['none', key]), absent([key])]
          for (const condition of unmet) {
            const error = await rejection(write([set('probe', 2)], [condition]), ConditionNotMetError)
            expect(error.condition, name).to.equal(condition)
          }
          const claim = (): Promise<boolean> => compareAndSetJson([Runs, id], 'progress', [key, key], text, 1)
          expect([await claim(), await claim()], name).to.deep.equal([true, false])
          expect(await stored(), name).to.deep.equal({ ...start, [key]: { [key]: 1, other: [text] }, probe: 1 })
        }
        expect(await others()).to.equal(untouched)
      })

      it('primary keys', async () => {
        const keys = samples.map(({ text }) => text).filter((text) => text.length < 256)
        const Keyed = await createKeyed(sequelize, database.name, keys)
        const wanted = new Map<string, unknown>(keys.map((key) => [key, {}]))
        for (const key of keys) {
          await updateJson([Keyed, key], 'data', [set('k', key), append('log', key)])
          await withLock([Keyed, key], async (row) => {
            row.data['locked'] = key
            await row.save()
          })
          wanted.set(key, { k: key, log: [key], locked: key })
          expect(await documentsByKey(Keyed, 'data'), JSON.stringify(key)).to.deep.equal(wanted)
        }
        await rejection(updateJson([Keyed, "none' OR 1=1 -- "], 'data', [set('k', 1)]), RowNotFoundError)
        expect(await documentsByKey(Keyed, 'data')).to.deep.equal(wanted)
        await Keyed.drop()
      })

      it('names of tables, columns and attributes', async () => {
        for (const name of names.filter(isUsed)) {
          const { Named, attribute } = await createNamed(sequelize, name)
          const sample = { text: name, key: 'k' }
          let document: unknown = null
          const writeNamed = async (operations: readonly Operation[], returning: boolean): Promise<void> => {
            const options = { returning, if: [absent('never')] }
            const call: Promise<unknown> = updateJson([Named, 1], attribute, operations as never, options)
            const answer = await call
            document = expected(operations, document)
            expect(answer, name).to.deep.equal(returning ? document : undefined)
          }
          await writeNamed(
            Object.entries(kinds).map(([kind, make]) => make([kind], sample)[0]),
            true,
          )
          for (const [kind, make] of Object.entries(kinds)) await writeNamed([make(['alone', kind], sample)[0]], false)
          await withLock([Named, 1], async (row) => {
            expect(row.get(attribute), name).to.deep.equal(document)
            ;(row.get(attribute) as Progress)['locked'] = name
            if (isBindToSequelize(name)) await row.reload()
            else await row.save()
          })
          if (!isBindToSequelize(name)) document = { ...(document as object), locked: name }
          const rows = new Map([
            [1, document],
            [2, null],
          ])
          expect(await documentsByKey(Named, attribute), name).to.deep.equal(rows)
          await Named.drop()
        }
      })
    })
  }
})

/** A model whose primary key tells all texts apart, and a row of each key. */
async function createKeyed(
  sequelize: Sequelize,
  name: DatabaseName,
  keys: readonly string[],
): Promise<ModelStatic<Model & { data: Progress }>> {
  const Keyed = sequelize.define<Model & { data: Progress }>(
    'Keyed',
    { id: { type: DataTypes.STRING, primaryKey: true }, data: DataTypes.JSON },
    { tableName: 'hostile_keys', timestamps: false },
  )
  const type = {
    mysql: 'VARCHAR(255) COLLATE utf8mb4_0900_bin',
    mariadb: 'VARCHAR(255) COLLATE utf8mb4_nopad_bin',
    postgres: 'TEXT',
    sqlite: 'TEXT',
  }
  await Keyed.drop()
  await sequelize.query(`CREATE TABLE hostile_keys (id ${type[name]} NOT NULL PRIMARY KEY, data JSON)`)
  for (const key of keys) {
    await sequelize.query(`INSERT INTO hostile_keys (id, data) VALUES ($1, '{}')`, { bind: [key] })
  }
  return Keyed
}

/** A model whose table, columns and JSON attribute are named alike, and two rows with NULL. */
async function createNamed(
  sequelize: Sequelize,
  name: string,
): Promise<{ Named: ModelStatic<Model>; attribute: string }> {
  const quote = (text: string): string => sequelize.getQueryInterface().quoteIdentifier(text)
  // Sequelize finds no attribute of which it left something out.
  const attribute = quote(name).slice(1, -1)
  const field = (suffix: string): string => `${name} ${suffix}`
  const Named = sequelize.define(
    'Named',
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, field: field('id') },
      [attribute]: { type: DataTypes.JSON, field: name },
      version: { type: DataTypes.INTEGER, field: field('version'), defaultValue: 0 },
      updatedAt: { type: DataTypes.DATE, field: field('time') },
    },
    { tableName: name, createdAt: false, version: true },
  )
  const time = sequelize.getDialect() === 'postgres' ? 'TIMESTAMPTZ' : 'DATETIME'
  // Sequelize's own INSERT would take a "$" for a bind.
  await Named.drop()
  await sequelize.query(
    `CREATE TABLE ${quote(name)} (${quote(field('id'))} INTEGER NOT NULL PRIMARY KEY, ${quote(name)} JSON, ` +
      `${quote(field('version'))} INTEGER, ${quote(field('time'))} ${time})`,
  )
  await sequelize.query(`INSERT INTO ${quote(name)} (${quote(field('id'))}) VALUES (1), (2)`)
  return { Named, attribute }
}

/** The documents in a column, by primary key. */
async function documentsByKey(model: ModelStatic<Model>, attribute: string): Promise<Map<unknown, unknown>> {
  const sequelize = model.sequelize!
  const quote = (name: string): string => sequelize.getQueryInterface().quoteIdentifier(name)
  const column = (name: string): string => quote(model.getAttributes()[name]!.field!)
  const rows = await sequelize.query<{ id: unknown; document: string | null }>(
    `SELECT ${column('id')} AS id, ${documentText(sequelize, column(attribute))} AS document ` +
      `FROM ${quote(model.getTableName() as string)} ORDER BY 1`,
    { type: QueryTypes.SELECT },
  )
  return new Map(rows.map(({ id, document }) => [id, JSON.parse(document ?? 'null') as unknown]))
}
