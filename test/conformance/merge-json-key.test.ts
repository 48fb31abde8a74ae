import { runInNewContext } from 'node:vm'
import { expect } from 'chai'
import { DatabaseError, DataTypes, literal } from 'sequelize'
import type { Model, ModelOptions, ModelStatic, Sequelize } from 'sequelize'
import { useFakeTimers } from 'sinon'
import {
  ConflictError,
  JsonShapeError,
  lossless,
  mergeJsonKey,
  rename,
  RowNotFoundError,
  set,
  UnsavedChangesError,
  UnsupportedValueError,
  updateJson,
  updateWhere,
  UsageError,
  withLock,
  withOptimisticLock,
} from 'sequelize-lossless'
import type { DatabaseName } from '../databases/index.js'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns, defineRuns, storedText, storeText } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'
import { everyDatabase, hostileTexts } from './hostile.js'

/** What the column holds before, and what setting the key "k" to 1 makes of it. */
const documents: Record<string, { text: string | null; after: object | 'array' | 'string' | 'number' | 'boolean' }> = {
  NULL: { text: null, after: { k: 1 } },
  'JSON null': { text: 'null', after: { k: 1 } },
  'an empty object': { text: '{}', after: { k: 1 } },
  'other keys': { text: '{"a":{"b":[1,null]},"c":0.1}', after: { a: { b: [1, null] }, c: 0.1, k: 1 } },
  'the key with another value': { text: '{"k":{"deep":true}}', after: { k: 1 } },
  'the key with the same value': { text: '{"k":1}', after: { k: 1 } },
  'the key with null': { text: '{"k":null}', after: { k: 1 } },
  'an array': { text: '[1]', after: 'array' },
  'a string': { text: '"text"', after: 'string' },
  'a number': { text: '5', after: 'number' },
  'a boolean': { text: 'false', after: 'boolean' },
}

/** Values whose text has a meaning in SQL or JSON, and the databases that cannot hold them. */
const jsonValues: readonly (readonly [value: unknown, refusedBy: readonly DatabaseName[]])[] = [
  [null, []],
  [true, []],
  [false, []],
  [0, []],
  [-1.5, []],
  [0.1, []],
  [1e21, []],
  [5e-324, []],
  [1.7976931348623157e308, []],
  [4294967296, []],
  [Number.MAX_SAFE_INTEGER, []],
  [Number.MIN_SAFE_INTEGER, []],
  ['', []],
  ['{"not":"an object"}', []],
  ["'; DROP TABLE workflow_runs; -- ", []],
  ['\\', []],
  ['$1 ? :name', []],
  ['😀', []],
  [[], []],
  [[null, [[]], {}], []],
  [{}, []],
  [{ '': { '$."a"': ["'"] } }, []],
  [JSON.parse('{"__proto__":{"polluted":true}}'), []],
  [new Date(0), []],
  // As those that fetch() and structuredClone() make in a test of Jest.
  [runInNewContext('({ another: [{ realm: new Date(0) }] })'), []],
  ['a\0b', ['postgres']],
  ['\udc00', everyDatabase],
  [{ inner: ['\ud800'] }, everyDatabase],
  [{ '\ud800': 1 }, everyDatabase],
  [nested(30), []],
  [nested(31), ['mariadb']],
  [nested(99), ['mariadb']],
  [nested(100), ['mysql', 'mariadb']],
  [nested(999), ['mysql', 'mariadb']],
  [nested(1000), ['mysql', 'mariadb', 'sqlite']],
]

function nested(levels: number): unknown {
  return levels === 0 ? 1 : [nested(levels - 1)]
}

/** The one statement that sets a key of an object, on each way to a database. */
const statements: Record<DatabaseName, string> = {
  mysql:
    "UPDATE `workflow_runs` SET `progress` = JSON_SET(`progress`, ?, CAST(? AS JSON)), `updatedAt` = ? WHERE `id` = ? AND COALESCE(JSON_OBJECT(), `progress`) = JSON_OBJECT() AND JSON_TYPE(`progress`) = 'OBJECT'",
  mariadb:
    "UPDATE `workflow_runs` SET `progress` = COALESCE(JSON_SET(IF((LEFT(`progress`, 1) = '{' OR JSON_TYPE(`progress`) = 'OBJECT'), `progress`, JSON_OBJECT()), ?, JSON_EXTRACT(?, '$')), EXP(710 + COALESCE(LENGTH(`progress`), 0))), `updatedAt` = ? WHERE `id` = ? AND CHARSET(`progress`) IN ('utf8mb4', 'binary') AND (`progress` IS NULL OR JSON_VALID(`progress`) AND ((LEFT(`progress`, 1) = '{' OR JSON_TYPE(`progress`) = 'OBJECT') OR JSON_TYPE(`progress`) = 'NULL')) AND COALESCE(CONCAT(_binary'', `progress`) NOT REGEXP ?, TRUE) AND (LENGTH(`progress`) <= 4000000 AND CONCAT(_binary'', `progress`) NOT REGEXP ? OR COALESCE(JSON_CONTAINS_PATH(JSON_REMOVE(`progress`, ?), 'one', ?), 0) = 0) AND JSON_EXTRACT(?, '$') IS NOT NULL",
  postgres:
    'UPDATE "workflow_runs" SET "progress" = ((CASE WHEN jsonb_typeof("progress"::jsonb) = \'object\' THEN "progress"::jsonb ELSE \'{}\'::jsonb END || $1::jsonb))::json, "updatedAt" = $2 WHERE "id" = $3 AND COALESCE(jsonb_typeof("progress"::jsonb), \'null\') IN (\'object\', \'null\') RETURNING 1',
  sqlite:
    "UPDATE `workflow_runs` SET `progress` = json_set(CASE WHEN json_type(`progress`) = 'object' THEN `progress` ELSE '{}' END, $2, json($1)), `updatedAt` = $3 WHERE `id` = $4 AND (`progress` IS NULL OR CASE WHEN json_valid(`progress`) THEN json_type(`progress`) END IN ('object', 'null')) AND COALESCE(`progress`, '') NOT GLOB '*\\u0000*' AND COALESCE(json_remove(json_remove(`progress`, $2), $2) = json_remove(`progress`, $2), TRUE) RETURNING 1",
}

eachDatabase('mergeJsonKey', (database) => {
  let sequelize: Sequelize
  let log: string[]
  let Runs: typeof WorkflowRun

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Runs = await createRuns(sequelize)
    // The first call asks the server who it is.
    await (await Runs.create()).mergeJsonKey('progress', 'first', 1)
  })

  async function stored(id: number): Promise<unknown> {
    return JSON.parse((await storedText(Runs, id)) ?? 'null')
  }

  describe('for every content of the column', () => {
    for (const [title, { text, after }] of Object.entries(documents)) {
      for (const returning of [false, true]) {
        it(`${title}${returning ? ', returning' : ''}`, async () => {
          const run = await Runs.create()
          await storeText(Runs, run.id, text)
          const call: Promise<unknown> = mergeJsonKey([Runs, run.id], 'progress', 'k', 1, { returning })
          if (typeof after === 'string') {
            const error = await rejection(call, JsonShapeError)
            expect(error).to.include({ code: 'JSON_SHAPE', column: 'progress', found: after, model: 'WorkflowRun' })
            expect(error.message)
              .to.include(`WorkflowRun id=${run.id} holds`)
              .and.include(after === 'array' ? 'append([], item)' : 'withLock')
            expect(await stored(run.id)).to.deep.equal(JSON.parse(text!))
          } else {
            expect(await call).to.deep.equal(returning ? after : undefined)
            expect(await stored(run.id)).to.deep.equal(after)
          }
        })
      }
    }
  })

  describe('sets exactly the key with this name', () => {
    for (const [key, refusedBy] of hostileTexts) {
      it(JSON.stringify(key.length > 40 ? `${key.slice(0, 8)}… ${key.length}` : key), async () => {
        const others = { a: 0, '': 0, b: { a: 0 } }
        const run = await Runs.create({ progress: others })
        log.length = 0
        for (const value of [1, 'two']) {
          const call = mergeJsonKey([Runs, run.id], 'progress', key, value)
          if (refusedBy.includes(database.name)) {
            expect(await rejection(call, UnsupportedValueError)).to.include({ code: 'UNSUPPORTED_VALUE' })
            expect(log).to.deep.equal([])
          } else {
            await call
            expect(await stored(run.id)).to.deep.equal({ ...others, [key]: value })
          }
        }
        const call = updateJson([Runs, run.id], 'progress', [rename('b', key)])
        if (refusedBy.includes(database.name)) {
          await rejection(call, UnsupportedValueError)
          expect(log).to.deep.equal([])
        } else {
          await call
          expect(await stored(run.id)).to.deep.equal({ a: others.a, '': others[''], [key]: others.b })
        }
      })
    }
  })

  describe('stores exactly the value', () => {
    for (const [value, refusedBy] of jsonValues) {
      it(JSON.stringify(value).slice(0, 60), async () => {
        const run = await Runs.create({ progress: { other: 1 } })
        const call = run.mergeJsonKey('progress', 'k', value)
        if (refusedBy.includes(database.name)) {
          await rejection(call, UnsupportedValueError)
          expect(await stored(run.id)).to.deep.equal({ other: 1 })
        } else {
          await call
          await run.mergeJsonKey('progress', 'other', 1)
          const expected = JSON.parse(JSON.stringify({ other: 1, k: value })) as object
          expect(await stored(run.id)).to.deep.equal(expected)
          expect(run.progress).to.deep.equal(expected)
        }
      })
    }
  })

  describe('refuses before any SQL', () => {
    const refusals: Record<
      string,
      [call: (run: WorkflowRun) => Promise<unknown>, type: new (...facts: never[]) => Error, text: RegExp]
    > = {
      undefined: [
        (run) => run.mergeJsonKey('progress', 'k', undefined),
        UsageError,
        /the value is undefined.*Use null/,
      ],
      'undefined in an array': [(run) => run.mergeJsonKey('progress', 'k', [undefined]), UsageError, /undefined/],
      'a function': [(run) => run.mergeJsonKey('progress', 'k', () => 1), UsageError, /a function/],
      'a symbol in an object': [
        (run) => run.mergeJsonKey('progress', 'k', { s: Symbol('x') }),
        UsageError,
        /"s" is a symbol/,
      ],
      NaN: [(run) => run.mergeJsonKey('progress', 'k', NaN), UnsupportedValueError, /NaN.*Store null/],
      'Infinity inside': [
        (run) => run.mergeJsonKey('progress', 'k', { a: [Infinity] }),
        UnsupportedValueError,
        /Infinity/,
      ],
      'a Map': [
        (run) => run.mergeJsonKey('progress', 'k', new Map()),
        UnsupportedValueError,
        /of class Map.*Object.fromEntries/,
      ],
      'a forgotten await': [
        (run) => run.mergeJsonKey('progress', 'k', Promise.resolve(1)),
        UnsupportedValueError,
        /a promise.*Write await/,
      ],
      'an Error inside': [
        (run) => run.mergeJsonKey('progress', 'k', { error: new Error('x') }),
        UnsupportedValueError,
        /"error" is of class Error/,
      ],
      'Headers inside': [
        (run) => run.mergeJsonKey('progress', 'k', { headers: [new Headers({ a: 'b' })] }),
        UnsupportedValueError,
        /of class Headers.*Object.fromEntries/,
      ],
      'an iterator': [
        (run) => run.mergeJsonKey('progress', 'k', [1].values()),
        UnsupportedValueError,
        /JSON.stringify would lose/,
      ],
      'a RegExp': [(run) => run.mergeJsonKey('progress', 'k', /x/), UnsupportedValueError, /of class RegExp/],
      'a typed array': [
        (run) => run.mergeJsonKey('progress', 'k', new Uint8Array(1)),
        UnsupportedValueError,
        /of class Uint8Array/,
      ],
      'a literal of SQL': [
        (run) => run.mergeJsonKey('progress', 'k', literal('1 + 1')),
        UnsupportedValueError,
        /an expression of SQL.*Compute the value/,
      ],
      'a model instance': [
        (run) => run.mergeJsonKey('progress', 'k', { run }),
        UnsupportedValueError,
        /"run" is an instance of the model WorkflowRun.*row.get\(\{ plain: true \}\)/,
      ],
      'an invalid Date': [
        (run) => run.mergeJsonKey('progress', 'k', new Date(NaN)),
        UnsupportedValueError,
        /an invalid Date/,
      ],
      'a toJSON that answers nothing': [
        (run) => run.mergeJsonKey('progress', 'k', { toJSON: () => undefined }),
        UsageError,
        /the value is undefined/,
      ],
      'a circle': [(run) => run.mergeJsonKey('progress', 'k', circle()), UsageError, /circular reference/],
      'a number as key': [
        (run) => run.mergeJsonKey('progress', 1 as never, 1 as never),
        UsageError,
        /expected a key to be a string, got 1 \(number\)/,
      ],
      'a column that is not JSON': [
        (run) => run.mergeJsonKey('title' as never, 'k' as never, 1 as never),
        UsageError,
        /got "title" \(string\).*'progress'/,
      ],
      'a misspelt option': [
        (run) => run.mergeJsonKey('progress', 'k', 1, { transation: 1 } as never),
        UsageError,
        /no option "transation"/,
      ],
      'options that are none': [
        (run) => run.mergeJsonKey('progress', 'k', 1, 5 as never),
        UsageError,
        /expected the options to be an object/,
      ],
      'a where': [
        (run) => mergeJsonKey<WorkflowRun, 'progress', string>({ where: { id: run.id } } as never, 'progress', 'k', 1),
        UsageError,
        /a row, \[Model, primaryKey\] or \[Model, \{ where \}\]/,
      ],
      'a row never saved': [() => Runs.build().mergeJsonKey('progress', 'k', 1), UsageError, /never saved.*save\(\)/],
      'a key that MySQL would convert': [
        (run) => mergeJsonKey([Runs, `${run.id}x`], 'progress', 'k', 1),
        UsageError,
        /to be a number, got/,
      ],
      'no primary key': [
        () => mergeJsonKey([Runs, undefined as never], 'progress', 'k', 1),
        UsageError,
        /got undefined/,
      ],
      'another transaction’s Sequelize': [
        async (run) => {
          const other = database.connect().sequelize
          return other.transaction((transaction) => run.mergeJsonKey('progress', 'k', 1, { transaction }))
        },
        UsageError,
        /a transaction of this row's Sequelize instance/,
      ],
      'a transaction that is over': [
        async (run) => {
          const transaction = await sequelize.transaction()
          await transaction.commit()
          log.length = 0
          return run.mergeJsonKey('progress', 'k', 1, { transaction })
        },
        UsageError,
        /has ended \(commit\)/,
      ],
    }
    for (const [title, [call, type, text]] of Object.entries(refusals)) {
      it(title, async () => {
        const run = await Runs.create({ progress: {} })
        log.length = 0
        const error = await rejection(call(run), type)
        expect(error.message)
          .to.match(/^mergeJsonKey: /)
          .and.match(text)
        expect(log).to.deep.equal([])
        expect(await stored(run.id)).to.deep.equal({})
      })
    }

    it('a read-only transaction', async () => {
      const run = await Runs.create({ progress: {} })
      await sequelize.transaction({ readOnly: true }, async (transaction) => {
        await rejection(run.mergeJsonKey('progress', 'k', 1, { transaction }), UsageError)
      })
    })

    it('a column with unsaved changes, with the calls that resolve them', async () => {
      const run = await Runs.create({ progress: { a: 1 } })
      run.progress = { a: 2 }
      log.length = 0
      const error = await rejection(run.mergeJsonKey('progress', 'k', 1), UnsavedChangesError)
      expect(error).to.deep.include({ code: 'UNSAVED_CHANGES', columns: ['progress'] })
      expect(error.message).to.include('row.save()').and.include('row.reload()')
      expect(log).to.deep.equal([])
      expect(run.progress).to.deep.equal({ a: 2 })
    })

    it('but not a row with unsaved changes in another column', async () => {
      const run = await Runs.create({ progress: {} })
      run.title = 'unsaved'
      await run.mergeJsonKey('progress', 'k', 1)
      expect(run.changed()).to.deep.equal(['title'])
    })
  })

  it('rejects for a row that does not exist, with and without a transaction', async () => {
    const gone = await Runs.create({ progress: {} })
    await Runs.destroy({ where: { id: gone.id } })
    const error = await rejection(gone.mergeJsonKey('progress', 'k', 1), RowNotFoundError)
    expect(error).to.deep.include({ code: 'ROW_NOT_FOUND', model: 'WorkflowRun', primaryKey: { id: gone.id } })
    await rejection(mergeJsonKey([Runs, gone.id], 'progress', 'k', 1, { returning: true }), RowNotFoundError)
    await sequelize.transaction(async (transaction) => {
      await rejection(gone.mergeJsonKey('progress', 'k', 1, { transaction }), RowNotFoundError)
    })
  })

  it('rethrows other errors unchanged', async () => {
    const Gone = await createRuns(sequelize, { tableName: 'gone_runs' })
    const run = await Gone.create({ progress: {} })
    await Gone.drop()
    const error = await rejection(run.mergeJsonKey('progress', 'k', 1), DatabaseError)
    expect(error.message).to.match(/gone_runs/)
    await rejection(
      run.withLock(() => undefined),
      DatabaseError,
    )
  })

  it('sends exactly one statement if the column holds an object, with all values bound', async () => {
    const run = await Runs.create({ progress: {} })
    log.length = 0
    await run.mergeJsonKey('progress', 'secret-key', 'secret-value')
    expect(log).to.deep.equal([statements[database.name]])
  })

  it('sends the same text for every key, so that prepared statements are reused', async () => {
    const run = await Runs.create({ progress: {} })
    log.length = 0
    for (const key of ['a', "b'", '$1']) await run.mergeJsonKey('progress', key, key)
    expect(new Set(log).size).to.equal(1)
  })

  it('returns the stored document with returning: true; without it, the row keeps the document that it had read', async () => {
    const [mine, theirs] = await twoCopies(Runs)
    await theirs.mergeJsonKey('progress', 'theirs', 1)
    expect(await mine.mergeJsonKey('progress', 'mine', 1)).to.equal(mine)
    expect(mine.progress).to.deep.equal({ mine: 1 })
    await mine.mergeJsonKey('progress', 'again', 1, { returning: true })
    expect(mine.progress).to.deep.equal({ theirs: 1, mine: 1, again: 1 })
    expect(mine.changed()).to.equal(false)
  })

  it('copies the value, so that a later change of it does not change the row', async () => {
    const run = await Runs.create({ progress: {} })
    const value = { list: [1] }
    const call = run.mergeJsonKey('progress', 'k', value)
    value.list.push(2)
    await call
    expect(run.progress).to.deep.equal({ k: { list: [1] } })
    expect(await stored(run.id)).to.deep.equal({ k: { list: [1] } })
  })

  it('sets updatedAt in the same statement, on the row too', async () => {
    const run = await Runs.create({ progress: {} })
    const now = new Date(Date.UTC(2042, 0, 1))
    const clock = useFakeTimers({ now, toFake: ['Date'] })
    try {
      await run.mergeJsonKey('progress', 'k', 1)
    } finally {
      clock.restore()
    }
    expect(run.updatedAt).to.deep.equal(now)
    expect((await run.reload()).updatedAt).to.deep.equal(now)
  })

  it('increments the version, so that a stale save() conflicts and a fresh one does not', async () => {
    const Versioned = await createVersioned(sequelize)
    const run = await Versioned.create({ progress: {} })
    const stale = (await Versioned.findByPk(run.get('id') as number))!
    await run.mergeJsonKey('progress', 'k', 1)
    await stale.update({ title: 'stale' }).then(
      () => expect.fail('the stale save went through'),
      (error: unknown) => expect((error as Error).name).to.equal('SequelizeOptimisticLockError'),
    )
    await run.update({ title: 'fresh' })
    expect((await run.reload()).get('version')).to.equal(2)
    // A NULL version, as in a table older than the model, counts as 0.
    await sequelize.query(`UPDATE versioned_runs SET version = NULL`)
    await run.mergeJsonKey('progress', 'k', 1)
    expect((await run.reload()).get('version')).to.equal(1)
  })

  it('joins the transaction that is passed, and is rolled back with it', async () => {
    const run = await Runs.create({ progress: {} })
    const error = new Error('on purpose')
    const rolledBack = sequelize.transaction(async (transaction) => {
      await run.mergeJsonKey('progress', 'k', 1, { transaction, returning: true })
      expect(run.progress).to.deep.equal({ k: 1 })
      throw error
    })
    expect(await rejection(rolledBack, Error)).to.equal(error)
    expect(await stored(run.id)).to.deep.equal({})
  })

  it('works for a composite key, renamed columns, a schema-like table name and names with a dollar', async () => {
    const Setting = lossless(
      sequelize.define<Model & { value: Progress }>(
        'Setting',
        {
          tenantId: { type: DataTypes.INTEGER, primaryKey: true, field: 'tenant $1' },
          name: { type: DataTypes.STRING, primaryKey: true, field: '$2' },
          value: { type: DataTypes.JSON, field: '$value' },
        },
        { tableName: '$1 settings', timestamps: false },
      ),
    )
    await Setting.sync({ force: true })
    // Sequelize's own INSERT takes "$2" for a bind, so it needs the finder-free way.
    const quote = (name: string): string => sequelize.getQueryInterface().quoteIdentifier(name)
    for (const tenant of [1, 2]) {
      await sequelize.query(
        `INSERT INTO ${quote('$1 settings')} (${quote('tenant $1')}, ${quote('$2')}, ${quote('$value')}) VALUES (${tenant}, '$x', '{}')`,
      )
    }
    const document = await mergeJsonKey([Setting, { tenantId: 1, name: '$x' }], 'value', '$1', '$2', {
      returning: true,
    })
    expect(document).to.deep.equal({ $1: '$2' })
    const other = await mergeJsonKey([Setting, { name: '$x', tenantId: 2 }], 'value', 'k', 1, { returning: true })
    expect(other).to.deep.equal({ k: 1 })
    const incomplete = await rejection(mergeJsonKey([Setting, { tenantId: 1 }], 'value', 'k', 1), UsageError)
    expect(incomplete.message).to.include('[Setting, { tenantId: …, name: … }]')
    await rejection(mergeJsonKey([Setting, 1], 'value', 'k', 1), UsageError)
    await rejection(mergeJsonKey([Setting, { tenantId: 1, name: 5 }], 'value', 'k', 1), UsageError)
  })

  it('finds the row by string, UUID and date keys', async () => {
    const id = 'it\'s "7" \\ $1 :x ?'
    const Text = await createKeyed(sequelize, 'text_keys', DataTypes.STRING, id)
    expect(await mergeJsonKey([Text, id], 'data', 'k', 1, { returning: true })).to.deep.equal({ k: 1 })
    // MySQL compares 'abc' = 0 as equal, which would write every row.
    await rejection(mergeJsonKey([Text, 0], 'data', 'k', 2), UsageError)
    const Time = sequelize.define('Time', { id: { type: DataTypes.DATE, primaryKey: true }, data: DataTypes.JSON })
    for (const key of ['no date', new Date('no date')])
      await rejection(mergeJsonKey([Time, key], 'data', 'k', 1), UsageError)
    const uuid = '7c9e6679-7425-40de-944b-e07fc1f90ae7'
    const Uuid = await createKeyed(sequelize, 'uuid_keys', DataTypes.UUID, uuid)
    expect(await mergeJsonKey([Uuid, uuid], 'data', 'k', 1, { returning: true })).to.deep.equal({ k: 1 })
    const Day = await createKeyed(sequelize, 'day_keys', DataTypes.DATEONLY, '2026-02-03')
    expect(await mergeJsonKey([Day, '2026-02-03'], 'data', 'k', 1, { returning: true })).to.deep.equal({ k: 1 })
  })

  for (const version of [false, true]) {
    it(`finds the row by a time in every notation${version ? ', with a version' : ''}`, async () => {
      const at = new Date('2026-02-03T04:05:06.789Z')
      const Times = await createKeyed(sequelize, 'time_keys', DataTypes.DATE(3), at, { version })
      await mergeJsonKey([Times, at], 'data', 'merged', 1)
      await withLock([Times, at], (row) => row.update({ data: { ...row.data, locked: 1 } }))
      if (version) await withOptimisticLock([Times, at], (row) => void (row.data = { ...row.data, optimistic: 1 }))
      else {
        lossless(Times, { wholeColumnWrites: 'patch' })
        const row = await Times.findOne({ rejectOnEmpty: true })
        await row.update({ data: { ...row.data, patched: 1 } })
      }
      const { data } = await Times.findOne({ rejectOnEmpty: true })
      expect(data).to.deep.equal({ merged: 1, locked: 1, [version ? 'optimistic' : 'patched']: 1 })
    })
  }

  const impossibleKeys: readonly (readonly [type: DataTypes.DataType, key: string | number])[] = [
    [DataTypes.INTEGER, 2 ** 40],
    [DataTypes.BIGINT, '99999999999999999999'],
    [DataTypes.INTEGER, 1.5],
    [DataTypes.UUID, 'not a UUID'],
  ]
  it('finds no row for a key that the type of its column cannot represent', async () => {
    for (const [type, key] of impossibleKeys) {
      const Keyed = sequelize.define<Model & { data: Progress; version: number }>(
        'Keyed',
        { id: { type, primaryKey: true }, data: DataTypes.JSON },
        { tableName: 'impossible_keys', version: true },
      )
      await Keyed.sync({ force: true })
      const calls = [
        () => mergeJsonKey([Keyed, key], 'data', 'k', 1),
        () => withLock([Keyed, key], () => undefined),
        () => withOptimisticLock([Keyed, key], () => undefined),
      ]
      for (const call of calls)
        expect((await rejection(call(), RowNotFoundError)).primaryKey).to.deep.equal({ id: key })
    }
  })

  it('sets an updatedAt whose type is declared as text', async () => {
    const Plain = sequelize.define<Model & { data: Progress }>(
      'Plain',
      { data: DataTypes.JSON, updatedAt: { type: 'TIMESTAMP(3)' } },
      { tableName: 'text_types' },
    )
    await Plain.sync({ force: true })
    const row = await Plain.create({ data: {} })
    await mergeJsonKey(row, 'data', 'k', 1)
    await withLock(row, (locked) => locked.update({ data: { ...locked.data, locked: 1 } }))
    expect((await row.reload()).data).to.deep.equal({ k: 1, locked: 1 })
  })

  it('keeps 200 of 200 keys that 20 connections write concurrently to a NULL column', async () => {
    const run = await Runs.create()
    const numbers = Array.from({ length: 200 }, (_, index) => index)
    await inParallel(20, numbers, (number) => mergeJsonKey([Runs, run.id], 'progress', `key_${number}`, number))
    expect(await stored(run.id)).to.deep.equal(Object.fromEntries(numbers.map((number) => [`key_${number}`, number])))
  })

  if (database.name === 'mysql' || database.name === 'mariadb') {
    it('rejects with a ConflictError after a deadlock, with the driver’s error as its cause', async () => {
      const [one, two] = [await Runs.create({ progress: {} }), await Runs.create({ progress: {} })]
      const [first, second] = await Promise.all([sequelize.transaction(), sequelize.transaction()])
      await one.mergeJsonKey('progress', 'first', 1, { transaction: first })
      await two.mergeJsonKey('progress', 'second', 1, { transaction: second })
      const crossed = await Promise.allSettled([
        two.mergeJsonKey('progress', 'first', 1, { transaction: first }).then(() => first.commit()),
        one.mergeJsonKey('progress', 'second', 1, { transaction: second }).then(() => second.commit()),
      ])
      const failed = crossed.filter((result) => result.status === 'rejected')
      expect(failed).to.have.length(1)
      const error = failed[0]!.reason as ConflictError
      expect(error).to.be.instanceOf(ConflictError).and.have.property('code', 'CONFLICT')
      expect(error.cause).to.have.nested.property('parent.errno', 1213)
      expect([await stored(one.id), await stored(two.id)]).to.be.deep.oneOf([
        [{ first: 1 }, { first: 1 }],
        [{ second: 1 }, { second: 1 }],
      ])
    })
  }

  if (database.name === 'mysql') {
    describe('between its two statements', () => {
      /** Stores `texts` one by one, each right before one of the UPDATEs of the call. */
      async function interfere(run: WorkflowRun, texts: (string | null)[]): Promise<void> {
        const { sequelize: other } = database.connect()
        const Others = defineRuns(other)
        let updates = 0
        sequelize.addHook('beforeQuery', 'interfere', async (options: { type?: string }) => {
          if (options.type === 'RAW' && updates < texts.length) await storeText(Others, run.id, texts[updates++]!)
        })
        try {
          await mergeJsonKey([Runs, run.id], 'progress', 'k', 1)
        } finally {
          sequelize.removeHook('beforeQuery', 'interfere')
        }
      }

      it('another writer fills the column: both keys are kept', async () => {
        const run = await Runs.create()
        await interfere(run, [null, '{"theirs":1}'])
        expect(await stored(run.id)).to.deep.equal({ theirs: 1, k: 1 })
      })

      it('another writer stores the same key and value: the call succeeds', async () => {
        const run = await Runs.create()
        await interfere(run, [null, '{"k":1}'])
        expect(await stored(run.id)).to.deep.equal({ k: 1 })
      })

      it('another writer replaces the column in each attempt: the call rejects with a ConflictError and writes nothing', async () => {
        const run = await Runs.create()
        const texts = Array.from({ length: 10 }, (_, index) => (index % 2 === 0 ? null : '{"theirs":1}'))
        const error = await rejection(interfere(run, texts), ConflictError)
        expect(error.message).to.include('replaced "progress" as a whole in each of 5 attempts')
        expect(await stored(run.id)).to.deep.equal({ theirs: 1 })
      })
    })
  }

  if (database.name === 'postgres') {
    it('writes a jsonb column without casting it', async () => {
      const Document = lossless(sequelize.define<Model & { data: Progress }>('Document', { data: DataTypes.JSONB }))
      await Document.sync({ force: true })
      const document = await Document.create()
      log.length = 0
      await document.mergeJsonKey('data', 'k', 1)
      expect(log).to.have.length(1)
      expect(log[0]).to.include('"data" = (CASE WHEN jsonb_typeof("data")')
      expect((await document.reload()).data).to.deep.equal({ k: 1 })
    })

    for (const text of ['{"x":"\\u0000"}', '{"\\u0000":1}', '{"x":"\\ud800"}']) {
      it(`refuses a json document that jsonb cannot represent, and leaves it unchanged: ${text}`, async () => {
        const { id } = await Runs.create()
        await storeText(Runs, id, text)
        const error = await rejection(mergeJsonKey([Runs, id], 'progress', 'k', 1), UnsupportedValueError)
        expect(error.message).to.match(
          /"progress" of WorkflowRun id=\d+ holds the NUL character or half of a surrogate/,
        )
        expect(error.column).to.equal('progress')
        expect(error.cause).to.be.instanceOf(DatabaseError)
        expect(await storedText(Runs, id)).to.equal(text)
      })
    }
  }

  if (database.name === 'mariadb' || database.name === 'sqlite') {
    const looseRuns = async (): Promise<typeof Runs> => {
      const Loose = await createRuns(sequelize, { tableName: 'loose_runs' })
      if (database.name === 'mariadb')
        await sequelize.query('ALTER TABLE loose_runs MODIFY progress LONGTEXT CHARACTER SET utf8mb4')
      return Loose
    }

    it('keeps half a surrogate pair in a stored document', async () => {
      const Loose = await looseRuns()
      const { id } = await Loose.create()
      const text = String.raw`{"x":["\ud800"],"k":1}`
      for (const write of [
        () => mergeJsonKey([Loose, id], 'progress', 'k', 2),
        () => updateWhere(Loose, { id }, { progress: [set('k', 2)] }),
      ]) {
        await sequelize.query('UPDATE loose_runs SET progress = $1', { bind: [text] })
        await write()
        const [row] = await sequelize.query<{ progress: string }>('SELECT progress FROM loose_runs', {
          type: 'SELECT' as never,
          raw: true,
        })
        expect(row!.progress).to.equal(text.replace('1}', '2}'))
      }
    })

    it('rejects stored text that is not JSON with a JsonShapeError, and leaves it unchanged', async () => {
      const Loose = await looseRuns()
      const { id } = await Loose.create()
      await sequelize.query(`UPDATE loose_runs SET progress = 'not JSON'`)
      const error = await rejection(mergeJsonKey([Loose, id], 'progress', 'k', 1), JsonShapeError)
      expect(error.found).to.equal('text that is not JSON')
      const [row] = await sequelize.query<{ progress: string }>('SELECT progress FROM loose_runs', {
        type: 'SELECT' as never,
        raw: true,
      })
      expect(row!.progress).to.equal('not JSON')
    })
  }
})

function circle(): object {
  const value: Record<string, unknown> = {}
  value['self'] = value
  return value
}

async function twoCopies(Runs: typeof WorkflowRun): Promise<[WorkflowRun, WorkflowRun]> {
  const run = await Runs.create({ progress: {} })
  return [run, (await Runs.findByPk(run.id))!]
}

async function createVersioned(sequelize: Sequelize) {
  const Versioned = lossless(
    sequelize.define<Model & { progress: Progress }>(
      'VersionedRun',
      { title: DataTypes.STRING, progress: DataTypes.JSON, version: { type: DataTypes.INTEGER, defaultValue: 0 } },
      { tableName: 'versioned_runs', version: true },
    ),
  )
  await Versioned.sync({ force: true })
  return Versioned
}

async function createKeyed(
  sequelize: Sequelize,
  tableName: string,
  type: DataTypes.DataType,
  id: string | Date,
  options: ModelOptions = {},
): Promise<ModelStatic<Model & { data: Progress }>> {
  const Keyed = sequelize.define<Model & { data: Progress }>(
    'Keyed',
    { id: { type, primaryKey: true }, data: DataTypes.JSON },
    { tableName, ...options },
  )
  await Keyed.sync({ force: true })
  await Keyed.create({ id })
  return Keyed
}

/** Runs `work` on every item, on `width` at a time. */
async function inParallel<T>(width: number, items: readonly T[], work: (item: T) => Promise<unknown>): Promise<void> {
  const queue = [...items]
  const worker = async (): Promise<void> => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item)
  }
  await Promise.all(Array.from({ length: width }, worker))
}
