import { inspect } from 'node:util'
import { expect } from 'chai'
import * as sinon from 'sinon'
import {
  BaseError,
  col,
  DataTypes,
  fn,
  literal,
  Model,
  QueryTypes,
  Transaction,
  UniqueConstraintError,
  ValidationError,
} from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes, ModelOptions, Sequelize } from 'sequelize'
import {
  append,
  atomicUpdate,
  atomicUpsert,
  ConditionNotMetError,
  ConflictError,
  flush,
  increment,
  lossless,
  matching,
  merge,
  mergeJsonKey,
  plus,
  pull,
  remove,
  retryTransaction,
  set,
  StaleRowError,
  UnsupportedDatabaseError,
  UnsupportedValueError,
  updateWhere,
  UsageError,
  withLock,
} from 'sequelize-lossless'
import type { AtomicUpsertOptions, Lossless } from 'sequelize-lossless'
import type { DatabaseName } from '../databases/index.js'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'

type Document = Record<string, unknown>

class Counter extends Model<InferAttributes<Counter>, InferCreationAttributes<Counter>> {
  declare id: CreationOptional<number>
  declare name: CreationOptional<string | null>
  declare day: CreationOptional<string | null>
  declare doc: CreationOptional<Document | null>
  declare log: CreationOptional<Document | null>
  declare status: CreationOptional<string>
  declare attempts: CreationOptional<number | null>
  declare total: CreationOptional<bigint | number | string | null>
  declare title: CreationOptional<string>
  declare createdAt: CreationOptional<Date>
  declare updatedAt: CreationOptional<Date>
  declare version: CreationOptional<number>
}

interface Counter extends Lossless<Counter> {}

async function createCounters(sequelize: Sequelize, options: ModelOptions<Counter> = {}): Promise<typeof Counter> {
  const Counters = class extends Counter {}
  Counters.init(
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      name: { type: DataTypes.STRING(40), unique: 'by_name', field: 'counter_name' },
      day: { type: DataTypes.STRING(40) },
      doc: DataTypes.JSON,
      log: { type: DataTypes.JSON, field: 'counter_log', defaultValue: { lines: [] } },
      status: { type: DataTypes.STRING, allowNull: false, validate: { isLowercase: true }, defaultValue: 'new' },
      attempts: DataTypes.INTEGER,
      total: DataTypes.BIGINT,
      title: {
        type: DataTypes.STRING,
        set(value: string) {
          this.setDataValue('title', value.trim())
        },
      },
      createdAt: DataTypes.DATE,
      updatedAt: DataTypes.DATE,
      version: { type: DataTypes.INTEGER, defaultValue: 0 },
    },
    {
      sequelize,
      modelName: 'Counter',
      tableName: 'counters',
      version: true,
      indexes: [{ unique: true, fields: ['day'] }],
      ...options,
    },
  )
  await Counters.sync({ force: true })
  return lossless(Counters)
}

/** A hook that makes a session of MySQL or MariaDB store the nearest value that a column can hold. */
async function setLoose(connection: unknown): Promise<void> {
  const { query } = connection as { query: (sql: string, done?: (error: unknown) => void) => unknown }
  // mysql2 takes a callback, and mariadb returns a promise.
  await new Promise<void>((resolve, reject) => {
    const result = query.call(connection, `SET SESSION sql_mode = ''`, (error) => {
      if (error instanceof Error) reject(error)
      else resolve()
    })
    if (result instanceof Promise) result.then(() => resolve(), reject)
  })
}

eachDatabase('atomicUpsert', (database) => {
  const isMysqlServer = ['mysql', 'mariadb'].includes(database.name)
  const isSqlite = database.name === 'sqlite'
  let sequelize: Sequelize
  let log: string[]
  let Counters: typeof Counter
  let next = 100_000

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Counters = await createCounters(sequelize)
  })

  const stored = (id: number): Promise<Counter> => Counters.findByPk(id, { rejectOnEmpty: true })
  /** A key that no row has, nor gets from an auto-increment column. */
  const free = (): number => (next += 1000)
  const text = async (id: number): Promise<string> => {
    const sql = `SELECT CAST(doc AS CHAR(999)) AS doc FROM counters WHERE id = ${id}`
    const row = await sequelize.query<{ doc: string }>(sql, { type: QueryTypes.SELECT, plain: true })
    return row!.doc.replaceAll(/([:,]) /g, '$1').trimEnd()
  }

  it('refuses operations that do not fit a new row, and applies them to an existing row', async () => {
    const [id, changes] = [free(), { doc: [set(['items', matching({ id: 1 }), 'n'], 2)] }]
    const nested = { doc: [set(['a', 'b'], 1)] }
    const inTransaction = (key: number): Promise<boolean> =>
      sequelize.transaction((transaction) => atomicUpsert([Counters, key], changes as { doc: [] }, { transaction }))
    for (const [call, expected] of [
      [() => atomicUpsert([Counters, id], changes as { doc: [] }), /which has nothing at \["items"/],
      [() => inTransaction(id), /which has nothing at \["items"/],
      [
        () => atomicUpsert([Counters, id], nested as { doc: [] }, { create: { doc: { a: [] } } }),
        /which has array at \["a"\]/,
      ],
    ] as const) {
      expect((await rejection(call(), UsageError)).message).to.match(expected)
    }
    expect(await Counters.findByPk(id)).to.equal(null)
    await Counters.create({ id, doc: { items: [{ id: 1 }, { id: 2 }] } })
    expect(await inTransaction(id)).to.equal(false)
    expect(JSON.parse(await text(id))).to.deep.equal({ items: [{ id: 1, n: 2 }, { id: 2 }] })
  })

  it('creates the row in the first call, and changes it in the second', async () => {
    const id = free()
    const upsert = (): Promise<boolean> =>
      atomicUpsert(
        [Counters, id],
        { doc: [set('a', 'new'), append('list', id)], log: [append('lines', 'x')], attempts: plus(2), title: ' t ' },
        { create: { doc: { b: 1 }, attempts: 40, status: 'made' } },
      )
    expect(await upsert()).to.equal(true)
    const made = await stored(id)
    expect(made.doc).to.deep.equal({ b: 1, a: 'new', list: [id] })
    expect(made.log).to.deep.equal({ lines: ['x'] })
    expect([made.attempts, made.status, made.title, made.version]).to.deep.equal([42, 'made', 't', 0])
    expect(made.createdAt.getTime()).to.equal(made.updatedAt.getTime()).and.be.closeTo(Date.now(), 60_000)
    await made.update({ status: 'changed' })
    expect(await upsert()).to.equal(false)
    const changed = await stored(id)
    expect(changed.doc).to.deep.equal({ b: 1, a: 'new', list: [id, id] })
    expect([changed.attempts, changed.status, changed.version]).to.deep.equal([44, 'changed', 2])
  })

  const cases: readonly (readonly [
    what: string,
    changes: object,
    create: AtomicUpsertOptions<Counter>['create'],
    row: Partial<InferAttributes<Counter>>,
  ])[] = [
    ['operations on no document', { doc: [increment('n', 3), remove('x')] }, {}, { doc: { n: 3 } }],
    ['operations that find nothing', { doc: [remove('x'), pull('l', 1)] }, {}, { doc: null }],
    ['no operations', { doc: [], title: 'x' }, {}, { doc: null, title: 'x' }],
    ['a patch', { doc: [merge([], { a: { b: null, c: 1 } })] }, { doc: { a: { b: 1 } } }, { doc: { a: { c: 1 } } }],
    ['a document only in create', { attempts: plus(1) }, { doc: { a: [] } }, { doc: { a: [] }, attempts: 1 }],
    ['NULL in create', { doc: [set('a', 1)] }, { doc: null, log: null }, { doc: { a: 1 }, log: null }],
    ['a value in both', { status: 'later' }, { status: 'earlier' }, { status: 'later' }],
    ['a sum past 2^53', { total: plus(1) }, { total: 9_007_199_254_740_993n }, { total: '9007199254740994' }],
    ['undefined in create', { attempts: plus(-1) }, { attempts: undefined }, { attempts: -1, status: 'new' }],
  ]
  it(`stores the same as Model.create followed by atomicUpdate (${cases.length} cases)`, async () => {
    for (const [what, changes, create, row] of cases) {
      const [id, other] = [free(), free()]
      expect(await atomicUpsert([Counters, id], changes as { title: string }, { create: create! }), what).to.equal(true)
      await Counters.create({ ...create, id: other })
      await atomicUpdate([Counters, other], changes as { title: string })
      const [made, twice] = [await stored(id), await stored(other)]
      for (const [name, value] of Object.entries(row)) {
        const shown = (each: Counter): unknown => {
          const found: unknown = each.get(name)
          return name === 'total' ? String(found) : found
        }
        expect(shown(made), what).to.deep.equal(value)
        // The driver rounds the total.
        if (name !== 'total') expect(shown(twice), what).to.deep.equal(value)
      }
    }
  })

  it('stores every digit and every key', async () => {
    const id = free()
    const key = `a"\\'.$[0]é😀\n`
    await atomicUpsert(
      [Counters, id],
      { doc: [set([key], 9_007_199_254_740_993n), increment('n', 1)] },
      { create: { doc: { n: 2 ** 53 - 2, big: 12_345_678_901_234_567n, [`${key}2`]: 1 } } },
    )
    const document = await text(id)
    for (const part of ['9007199254740993', '"n":9007199254740991', '"big":12345678901234567'])
      expect(document).to.include(part)
    expect(Object.keys((await stored(id)).doc!).sort()).to.deep.equal([key, `${key}2`, 'big', 'n'].sort())
  })

  it('sends these statements, with all values bound', async () => {
    const id = free()
    const upsert = (transaction?: Transaction): Promise<boolean> =>
      atomicUpsert(
        [Counters, id],
        { doc: [set('secret', 'secret')] },
        { create: { day: 'secret' }, ...(transaction && { transaction }) },
      )
    log.length = 0
    await upsert()
    const insert = {
      mysql:
        'INSERT INTO `counters` (`doc`, `counter_log`, `day`, `status`, `createdAt`, `updatedAt`, `version`, `id`) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ' +
        'ON DUPLICATE KEY UPDATE `id` = IF(LAST_INSERT_ID(IF(`id` = ?, 9007199254740881, EXP(710 + IFNULL(LENGTH(`id`), 0)))) = 0, `id`, `id`);',
      postgres:
        'INSERT INTO "counters" ("doc", "counter_log", "day", "status", "createdAt", "updatedAt", "version", "id") VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ' +
        'ON CONFLICT DO NOTHING RETURNING 1',
      sqlite:
        'INSERT OR ABORT INTO `counters` (`doc`, `counter_log`, `day`, `status`, `createdAt`, `updatedAt`, `version`, `id`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ' +
        'ON CONFLICT (`id`) DO NOTHING RETURNING 1',
    }
    const expected = isMysqlServer ? insert.mysql : insert[database.name as 'postgres' | 'sqlite']
    expect(log.at(-1)!.replace(/;?$/, '')).to.equal(expected.replace(/;?$/, ''))
    expect(log.map((sql) => sql.slice(0, 6))).to.deep.equal([
      ...Array.from({ length: database.name === 'mysql' ? 2 : 1 }, () => 'UPDATE'),
      'SELECT',
      'INSERT',
    ])
    log.length = 0
    await upsert()
    expect(log.map((sql) => sql.slice(0, 6))).to.deep.equal(['UPDATE'])
    expect(log.join()).to.not.include('secret')
    log.length = 0
    await sequelize.transaction((transaction) => upsert(transaction))
    const inTransaction = log.map((sql) => sql.slice(0, 6)).filter((word) => /UPDATE|INSERT/.test(word))
    expect(inTransaction).to.deep.equal(isMysqlServer ? ['INSERT', 'UPDATE'] : ['UPDATE'])
  })

  describe('with 50 concurrent callers, one creates the row and all change it', () => {
    const { READ_COMMITTED, REPEATABLE_READ } = Transaction.ISOLATION_LEVELS
    type Upsert = (options?: AtomicUpsertOptions<Counter>) => Promise<boolean>
    const inTransaction =
      (isolationLevel?: Transaction.ISOLATION_LEVELS, attempts = 1) =>
      (upsert: Upsert): Promise<boolean> =>
        retryTransaction(sequelize, (transaction) => upsert({ transaction }), {
          ...(isolationLevel && !isSqlite && { isolationLevel }),
          maxAttempts: attempts,
          maxDelayMs: 20,
        })
    const ways: Record<string, (upsert: Upsert, n: number) => Promise<boolean>> = {
      'outside of a transaction': (upsert) => upsert(),
      'in transactions, READ COMMITTED': inTransaction(READ_COMMITTED),
      // There PostgreSQL refuses a row that is newer than the snapshot.
      'in transactions, REPEATABLE READ': inTransaction(REPEATABLE_READ, database.name === 'postgres' ? 50 : 1),
      'in the lock on another row': (upsert, n) =>
        withLock([Counters, n], (_row, transaction) => upsert({ transaction })),
    }
    for (const [what, way] of Object.entries(ways)) {
      const isSingle = what.startsWith('outside') || what.endsWith('READ')
      for (const by of isSingle ? (['primary key', 'another unique key'] as const) : (['primary key'] as const)) {
        it(`${what}, by ${by}`, async () => {
          const id = free()
          const callers = Array.from({ length: 50 }, (_, n) => 10_000_000 + n)
          if (what.includes('lock')) {
            await Counters.destroy({ where: { id: callers } })
            await Counters.bulkCreate(callers.map((n) => ({ id: n, status: 'other' })))
          }
          const name = `name ${id}`
          const target = by === 'primary key' ? ([Counters, id] as const) : ([Counters, { where: { name } }] as const)
          const answers = await Promise.all(
            callers.map((n) =>
              way(
                (options) =>
                  atomicUpsert(
                    target,
                    { doc: [set(String(n), n), increment('count')], attempts: plus(1) },
                    { create: { day: `day ${id}` }, ...options },
                  ),
                n,
              ),
            ),
          )
          expect(answers.filter(Boolean)).to.have.length(1)
          const [row, ...more] = await Counters.findAll({ where: by === 'primary key' ? { id } : { name } })
          expect(more).to.deep.equal([])
          expect(Object.keys(row!.doc!)).to.have.length(51)
          expect([row!.doc!['count'], row!.attempts, row!.version]).to.deep.equal([50, 50, 49])
        })
      }
    }

    it('while concurrent callers merge keys and delete the row', async () => {
      const id = free()
      const isGone = (error: unknown): boolean => {
        const { code } = error as { code?: string }
        if (code === 'ROW_NOT_FOUND') return false
        throw error
      }
      const results = await Promise.all(
        Array.from({ length: 60 }, (_, n): Promise<number | boolean> => {
          if (n % 3 === 0) return Counters.destroy({ where: { id } })
          if (n % 3 === 1) return mergeJsonKey([Counters, id], 'doc', `m${n}`, n).then(() => true, isGone)
          return atomicUpsert([Counters, id], { doc: [set(`u${n}`, n)] })
        }),
      )
      const deleted = results.filter((each) => each === 1).length
      const created = results.filter((each, n) => n % 3 === 2 && each === true).length
      expect(created - deleted).to.equal(await Counters.count({ where: { id } }))
    })
  })

  describe('a duplicate of another unique key', () => {
    for (const isInside of [false, true]) {
      it(`is a UniqueConstraintError, and no row changes${isInside ? ', in a transaction' : ''}`, async () => {
        const [id, other] = [free(), free()]
        await Counters.create({ id: other, name: `taken ${other}`, day: `taken ${other}`, doc: {} })
        const before = (await stored(other)).toJSON()
        for (const create of [{ name: `taken ${other}` }, { day: `taken ${other}` }]) {
          const upsert = (transaction: Transaction | null): Promise<boolean> =>
            atomicUpsert([Counters, id], { doc: [set('a', 1)] }, { create, transaction })
          const call = isInside ? sequelize.transaction(upsert) : upsert(null)
          const own = await rejection(call, UniqueConstraintError)
          const usual = await rejection(Counters.create({ id, ...create }), UniqueConstraintError)
          expect([own.message, own.fields]).to.deep.equal([usual.message, usual.fields])
        }
        expect((await stored(other)).toJSON()).to.deep.equal(before)
        expect(await Counters.count({ where: { id } })).to.equal(0)
      })
    }

    it('is a UniqueConstraintError also if its row has NULL in the key of the call', async () => {
      await Counters.create({ name: null, day: 'taken' })
      const call = atomicUpsert([Counters, { where: { name: 'free' } }], { attempts: 1 }, { create: { day: 'taken' } })
      await rejection(call, UniqueConstraintError)
    })

    it('has no effect if the row exists', async () => {
      const [id, other] = [free(), free()]
      await Counters.bulkCreate([
        { id, doc: {} },
        { id: other, name: `taken ${other}` },
      ])
      const options = { create: { name: `taken ${other}` } }
      expect(await atomicUpsert([Counters, id], { doc: [set('a', 1)] }, options)).to.equal(false)
      await sequelize.transaction(async (transaction) => {
        expect(await atomicUpsert([Counters, id], { doc: [set('b', 1)] }, { ...options, transaction })).to.equal(false)
      })
      expect((await stored(id)).doc).to.deep.equal({ a: 1, b: 1 })
    })
  })

  if (isMysqlServer) {
    it('is retried if another writer deletes the other row, or creates this one, before the INSERT that fails', async () => {
      const other = free()
      for (const isRemoved of [true, false]) {
        const id = free()
        const day = `day ${id}`
        await Counters.create({ id: other, day })
        const send = sequelize.query.bind(sequelize)
        const query = sinon.stub(sequelize, 'query').callsFake((async (sql: string, options: object) => {
          if (/^INSERT(?!.* ON DUPLICATE KEY)/.test(sql)) {
            query.restore()
            if (isRemoved) await Counters.destroy({ where: { id: other } })
            else await Counters.create({ id })
          }
          return send(sql, options)
        }) as never)
        const call = atomicUpsert([Counters, id], { doc: [set('a', 1)] }, { create: { day } })
        expect(await call).to.equal(isRemoved)
        expect((await stored(id)).doc).to.deep.equal({ a: 1 })
        await Counters.destroy({ where: { id: other } })
      }
    })

    it('refuses a key that the server would store as another key', async () => {
      const error = await rejection(atomicUpsert([Counters, 0], { attempts: plus(1) }), UnsupportedValueError)
      expect(error.message).to.include('would store the next number in place of 0')
      const { sequelize: loose } = database.connect({ hooks: { afterConnect: setLoose } })
      const Loose = await createCounters(loose, { tableName: 'loose_counters' })
      const clamped = await rejection(atomicUpsert([Loose, 2 ** 40], { status: 'x' }), UnsupportedValueError)
      expect(clamped.message).to.include('STRICT_TRANS_TABLES')
      expect(await Loose.count()).to.equal(0)
    })
  }

  it('takes a unique index of a column, in either order, for a key; not one of a prefix or of other letters', async () => {
    const withIndex = (field: object): typeof Counter => {
      const Own = class extends Counter {}
      Own.init(Counters.getAttributes(), {
        sequelize,
        tableName: 'counters',
        indexes: [{ unique: true, fields: [field as { name: string }] }],
      })
      return Own
    }
    const upsert = (Own: typeof Counter, day: string): Promise<unknown> =>
      atomicUpsert([Own, { where: { day } }], { doc: [set('a', 1)] })
    for (const field of [{ name: 'day' }, { name: 'day', order: 'DESC' }, { attribute: 'day' }]) {
      const Own = withIndex(field)
      expect(await upsert(Own, JSON.stringify(field))).to.equal(true)
      expect(await upsert(Own, JSON.stringify(field))).to.equal(false)
    }
    for (const field of [{ name: 'day', length: 5 }, { name: 'day', collate: 'any' }, fn('lower', col('day'))]) {
      expect((await rejection(upsert(withIndex(field), 'x'), UsageError)).reason).to.equal('upsertKey')
    }
  })

  describe('with expressions of SQL as defaults of the model', () => {
    class Job extends Model<Record<string, unknown>> {}
    let Jobs: typeof Job
    const changes: object[] = []
    const find = async (id: number): Promise<Record<string, unknown>> =>
      (await Jobs.findByPk(id, { rejectOnEmpty: true })).get()

    before(async () => {
      Jobs = class extends Job {}
      Jobs.init(
        {
          id: { type: DataTypes.INTEGER, primaryKey: true },
          name: { type: DataTypes.STRING, unique: true, defaultValue: () => fn('LOWER', "JOB $1 '?'") },
          doc: { type: DataTypes.JSON, defaultValue: literal(`'{"by":"default"}'`) },
          log: DataTypes.JSON,
          seenAt: { type: DataTypes.DATE, allowNull: false, defaultValue: literal('CURRENT_TIMESTAMP') },
          priority: { type: DataTypes.INTEGER, defaultValue: literal('(3 + 4)') },
          createdAt: { type: DataTypes.DATE, defaultValue: literal('CURRENT_TIMESTAMP') },
          slug: {
            type: DataTypes.STRING,
            set(value: string) {
              this.setDataValue('slug', fn('LOWER', value))
            },
          },
        },
        { sequelize, modelName: 'Job', tableName: 'default_jobs', updatedAt: false },
      )
      await Jobs.sync({ force: true })
      lossless(Jobs, { onWrite: (write) => void changes.push(write.changes) })
    })

    beforeEach(async () => {
      await Jobs.destroy({ where: {} })
      changes.length = 0
    })

    it('creates the row with them, as Model.create does', async () => {
      for (const isNew of [true, false]) {
        expect(await atomicUpsert([Jobs, 1], { log: [increment('n')] } as never)).to.equal(isNew)
      }
      const { seenAt, createdAt, ...row } = await find(1)
      expect(row).to.deep.equal({
        ...{ id: 1, name: "job $1 '?'", doc: { by: 'default' }, log: { n: 2 }, priority: 7, slug: null },
      })
      for (const time of [seenAt, createdAt]) expect(time).to.be.an.instanceof(Date)
      // The database computes their values.
      expect(Object.keys(changes[0]!)).to.deep.equal(['log'])
    })

    it('takes the value of the call in place of an expression', async () => {
      const create = { name: 'own', doc: { by: 'create' }, seenAt: new Date(0) }
      await atomicUpsert([Jobs, 2], { doc: [increment('n')], priority: plus(1) } as never, {
        create: { ...create, priority: 1 },
      })
      const row = await find(2)
      expect(row).to.deep.include({ ...create, doc: { by: 'create', n: 1 }, priority: 2 })
    })

    it('refuses to create a row whose changes start from an expression; changes the row that is there', async () => {
      const calls = [{ doc: [increment('n')] }, { priority: plus(1) }] as never[]
      for (const call of calls) {
        const error = await rejection(atomicUpsert([Jobs, 3], call), UsageError)
        expect(error.reason).to.equal('createdExpression')
      }
      expect(await Jobs.count()).to.equal(0)
      await Jobs.create({ id: 3 })
      for (const call of calls) expect(await atomicUpsert([Jobs, 3], call)).to.equal(false)
      expect(await find(3)).to.deep.include({ doc: { by: 'default', n: 1 }, priority: 8 })
    })

    it('refuses an expression of the call, or of a setter', async () => {
      const create = { seenAt: literal('CURRENT_TIMESTAMP') }
      const given = atomicUpsert([Jobs, 4], { log: [increment('n')] } as never, { create })
      expect((await rejection(given, UsageError)).reason).to.equal('createdValue')
      const changed = atomicUpsert([Jobs, 4], { seenAt: literal('CURRENT_TIMESTAMP') } as never)
      expect((await rejection(changed, UsageError)).reason).to.equal('columnValue')
      const set = atomicUpsert([Jobs, 4], { log: [increment('n')] } as never, { create: { slug: 'x' } })
      expect((await rejection(set, UsageError)).reason).to.equal('createdValue')
      expect(await Jobs.count()).to.equal(0)
    })
  })

  it('refuses a key with a fraction, also of more digits than a number has', async () => {
    for (const key of [1.5, '1.5', '9007199254740993.5']) {
      const upsert = atomicUpsert([Counters, key], { doc: [set('a', 1)] })
      expect((await rejection(upsert, UsageError)).reason, String(key)).to.equal('keyFraction')
    }
  })

  describe('with a key that its column may round', () => {
    const ms = (milliseconds: number): Date => new Date(Date.UTC(2026, 0, 2, 3, 4, 5, milliseconds))
    const onMysql = isMysqlServer ? 'rounds' : 'keeps'
    const inDecimals = isSqlite ? 'keeps' : 'rounds'
    const cases: readonly (readonly [type: unknown, key: unknown, 'rounds' | 'keeps'])[] = [
      [DataTypes.DECIMAL(10, 2), '1.505', inDecimals],
      [DataTypes.DECIMAL(10, 2), 1.505, inDecimals],
      [DataTypes.DECIMAL(10, 2), 1e-7, inDecimals],
      [DataTypes.DECIMAL(10, 2), '1.500', 'keeps'],
      [DataTypes.DECIMAL(10, 2), 2.25, 'keeps'],
      [DataTypes.DECIMAL(30, 10), 1.5e-7, 'keeps'],
      [DataTypes.DECIMAL(10), '1.5', inDecimals],
      [DataTypes.DECIMAL(10), '1.0', 'keeps'],
      [DataTypes.DECIMAL, '1.5', onMysql],
      [DataTypes.DATE, ms(600), onMysql],
      [DataTypes.DATE, ms(600).toISOString(), onMysql],
      [DataTypes.DATE, ms(0), 'keeps'],
      [DataTypes.DATE, ms(0).toISOString(), 'keeps'],
      [DataTypes.DATE(1), ms(650), onMysql],
      [DataTypes.DATE(1), ms(600), 'keeps'],
      [DataTypes.DATE(3), ms(678), 'keeps'],
      [DataTypes.DATE(6), ms(678), 'keeps'],
      [DataTypes.TIME, '10:00:00.6', onMysql],
      [DataTypes.TIME, '10:00:00.000', 'keeps'],
      [DataTypes.TIME, '10:00', 'keeps'],
      [DataTypes.FLOAT, 0.1, onMysql],
      [DataTypes.FLOAT, '16777217', onMysql],
      [DataTypes.FLOAT, 0.5, 'keeps'],
      [DataTypes.FLOAT, Math.fround(0.1), 'keeps'],
      [DataTypes.FLOAT(53), 0.1, 'keeps'],
      [DataTypes.DOUBLE, 0.1, 'keeps'],
      ...(isMysqlServer
        ? ([
            [DataTypes.DOUBLE(10, 2), 1.505, 'rounds'],
            [DataTypes.DOUBLE(10, 2), 1.5, 'keeps'],
            [DataTypes.FLOAT(10, 1), 0.25, 'rounds'],
            [DataTypes.FLOAT(10, 1), 0.5, 'keeps'],
          ] as const)
        : []),
    ]

    for (const [index, [type, key, expected]] of cases.entries()) {
      for (const isPrimary of [true, false]) {
        const name = `${(type as { key: string }).key} ${index}, ${inspect(key)}, ${isPrimary ? 'primary' : 'unique'}`
        it(`${expected === 'rounds' ? 'refuses it before any SQL' : 'takes one that it keeps'}: ${name}`, async () => {
          const column = {
            type: type as never,
            allowNull: false,
            ...(isPrimary ? { primaryKey: true } : { unique: true }),
          }
          const id = { id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true } }
          const attributes = { ...(isPrimary ? {} : id), key: column, doc: DataTypes.JSON }
          // A table of its own: MySQL keeps the types of the binds of a prepared statement.
          const tableName = `rounded_${index}_${isPrimary ? 'primary' : 'unique'}`
          const Rounded = sequelize.define('Rounded', attributes, { tableName, timestamps: false })
          await Rounded.sync({ force: true })
          const upsert = (): Promise<boolean> =>
            atomicUpsert(
              (isPrimary ? [Rounded, key] : [Rounded, { where: { key } }]) as never,
              {
                doc: [increment('n')],
              } as never,
            )
          if (expected === 'rounds') {
            log.length = 0
            expect((await rejection(upsert(), UsageError)).reason).to.equal('keyDigits')
            expect(log).to.have.length(0)
            return
          }
          expect([await upsert(), await upsert()]).to.deep.equal([true, false])
          expect(await Rounded.findAll({ attributes: ['doc'], raw: true })).to.have.length(1)
        })
      }
    }
  })

  it('finds the keys of a table in which the column of an attribute has the name of another attribute', async () => {
    const key = (field: string): object => ({ type: DataTypes.INTEGER, allowNull: false, field })
    const Crossed = sequelize.define(
      'Crossed',
      {
        id: { ...key('owner'), primaryKey: true } as never,
        day: { ...key('id'), primaryKey: true } as never,
        one: { ...key('two'), unique: true } as never,
        two: { ...key('three'), unique: 'pair' } as never,
        three: { ...key('one'), unique: 'pair' } as never,
        doc: DataTypes.JSON,
      },
      { tableName: 'crossed', timestamps: false, indexes: [{ unique: true, fields: ['two', 'id'] }] },
    )
    await Crossed.sync({ force: true })
    const values = { id: 3, day: 1, one: 4, two: 5, three: 6 }
    const { id, day, one, two, three } = values
    const upsert = (target: object, create: object = {}): Promise<boolean> =>
      atomicUpsert([Crossed, target] as never, { doc: [increment('n')] } as never, { create })
    expect(await upsert({ id, day }, { one, two, three })).to.equal(true)
    for (const where of [{ id, day }, { one }, { two, three }, { one, day }]) {
      const others = Object.fromEntries(Object.entries(values).filter(([name]) => !(name in where)))
      expect(await upsert('id' in where ? where : { where }, others), Object.keys(where).join()).to.equal(false)
    }
    expect((await Crossed.findAll()).map((row): unknown => row.get())).to.deep.equal([{ ...values, doc: { n: 5 } }])
    for (const where of [{ two }, { three }, { one, id }, { two, day }]) {
      const call = upsert({ where }, {})
      expect((await rejection(call, UsageError)).reason, Object.keys(where).join()).to.equal('upsertKey')
    }
  })

  it('refuses a key that the table does not have as a unique index, or that its column cannot hold', async () => {
    const Keyless = await createCounters(sequelize, { tableName: 'keyless_counters', indexes: [] })
    const Declared = class extends Counter {}
    Declared.init(Counters.getAttributes(), {
      sequelize,
      tableName: 'keyless_counters',
      indexes: [{ unique: true, fields: ['day'] }],
    })
    const upsert = atomicUpsert([Declared, { where: { day: 'x' } }], { doc: [set('a', 1)] })
    const { message } = await rejection(upsert, UnsupportedDatabaseError)
    expect(message).to.include('no unique index of exactly day').and.include(`['day'], { unique: true }`)
    expect(await Keyless.count()).to.equal(0)
    if (isSqlite) return
    const long = atomicUpsert([Counters, 2 ** 40], { doc: [set('a', 1)] })
    expect((await rejection(long, BaseError)).message).to.match(/out of (the )?range/i)
  })

  it('refuses a sum that its column cannot hold', async () => {
    const id = free()
    const call = atomicUpsert([Counters, id], { total: plus(1) }, { create: { total: 2n ** 63n - 1n } })
    const error = await rejection(call, UnsupportedValueError)
    expect(error.message).to.include('"total"').and.include('out of the range')
    expect(await Counters.count({ where: { id } })).to.equal(0)
  })

  it('refuses a row that a paranoid model has deleted', async () => {
    const Paranoid = await createCounters(sequelize, { tableName: 'paranoid_counters', paranoid: true, indexes: [] })
    for (const isInside of [false, true]) {
      const row = await Paranoid.create({ doc: {}, name: `name ${free()}` })
      await row.destroy()
      for (const target of [[Paranoid, row.id] as const, [Paranoid, { where: { name: row.name } }] as const]) {
        const upsert = (transaction: Transaction | null): Promise<boolean> =>
          atomicUpsert(target, { doc: [set('a', 1)] }, { transaction })
        const error = await rejection(isInside ? sequelize.transaction(upsert) : upsert(null), ConditionNotMetError)
        expect(error.message).to.include('"deletedAt" is set').and.include('.restore({ where: { id:')
      }
      await row.restore()
      expect(await atomicUpsert([Paranoid, row.id], { doc: [set('a', 1)] })).to.equal(false)
    }
  })

  it('is committed or rolled back with the transaction that it joins', async () => {
    const id = free()
    const failure = new RangeError('undone')
    const upsert = (transaction: Transaction): Promise<boolean> =>
      atomicUpsert([Counters, id], { doc: [increment('n')] }, { transaction })
    const undone = sequelize.transaction(async (transaction) => {
      expect(await Promise.all([upsert(transaction), upsert(transaction)])).to.deep.equal([true, false])
      const row = await Counters.findByPk(id, { transaction, rejectOnEmpty: true })
      expect(row.doc).to.deep.equal({ n: 2 })
      throw failure
    })
    await rejection(undone, RangeError)
    expect(await Counters.count({ where: { id } })).to.equal(0)
    await Counters.create({ id, doc: { n: 5 } })
    await withLock([Counters, id], async (row, transaction) => {
      expect(await upsert(transaction)).to.equal(false)
      expect(row.doc).to.deep.equal({ n: 6 })
      await row.destroy()
      expect(await upsert(transaction)).to.equal(true)
      row.doc = { n: 0 }
      await rejection(row.save(), StaleRowError)
      await row.reload()
      expect(row.doc).to.deep.equal({ n: 1 })
    })
    expect((await stored(id)).doc).to.deep.equal({ n: 1 })
  })

  it('is batched with coalesce', async () => {
    const Coalesced = lossless(class extends Counters {}, { wholeColumnWrites: 'allow', coalesce: true })
    const id = free()
    const calls = Array.from({ length: 20 }, () => atomicUpsert([Coalesced, id], { doc: [increment('n')] }))
    await flush(sequelize)
    expect((await Promise.all(calls)).filter(Boolean)).to.have.length(1)
    expect((await stored(id)).doc).to.deep.equal({ n: 20 })
  })

  const skipping: Partial<Record<DatabaseName, readonly string[]>> = {
    postgres: [
      `CREATE OR REPLACE FUNCTION skip_new() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`,
      `CREATE TRIGGER skip_insert BEFORE INSERT ON skipped_counters FOR EACH ROW EXECUTE FUNCTION skip_new()`,
    ],
    sqlite: [`CREATE TRIGGER skip_insert BEFORE INSERT ON skipped_counters BEGIN SELECT RAISE(IGNORE); END`],
  }
  const triggers = skipping[database.name]
  if (triggers) {
    it('names the trigger that skips its INSERT', async () => {
      const Skipped = await createCounters(sequelize, { tableName: 'skipped_counters', indexes: [] })
      for (const sql of triggers) await sequelize.query(sql)
      const { message } = await rejection(atomicUpsert([Skipped, 7], { doc: [set('a', 1)] }), ConflictError)
      expect(message).to.include('a BEFORE INSERT trigger')
      await Skipped.drop()
    })
  }

  it('waits for the end of a transaction that creates the row, and creates it if that is rolled back', async () => {
    const id = free()
    let second: Promise<boolean> | undefined
    const first = sequelize.transaction(async (transaction) => {
      await atomicUpsert([Counters, id], { doc: [set('first', 1)] }, { transaction })
      second = atomicUpsert([Counters, id], { doc: [set('second', 1)] }, { transaction: null })
      if (isSqlite) second.catch(() => undefined)
      throw new RangeError('undone')
    })
    await rejection(first, RangeError)
    expect(await second).to.equal(true)
    expect((await stored(id)).doc).to.deep.equal({ second: 1 })
  })

  describe('refuses before any SQL', () => {
    const upsert = { doc: [set('a', 1)] }
    const wrong: readonly (readonly [
      what: string,
      text: RegExp,
      changes: object,
      options?: object,
      target?: unknown,
    ])[] = [
      ['an instance', /a row that you have as an instance is there/, upsert, {}, 'instance'],
      [
        'a where without a unique key',
        /exactly the values of a unique key.*id; counter|exactly/,
        upsert,
        {},
        { where: { status: 'x' } },
      ],
      ['a where of more than the key', /exactly the values/, upsert, {}, { where: { name: 'x', status: 'x' } }],
      ['a where of several values', /exactly the values/, upsert, {}, { where: { name: ['x', 'y'] } }],
      ['NULL in a key', /exactly the values/, upsert, {}, { where: { name: null } }],
      ['a key that a setter changes', /the setter of "title"/, upsert, {}, { where: { title: ' x' } }],
      ['no changes', /expected the changes/, {}],
      ['a where', /no option "where"/, upsert, { where: { status: 'x' } }],
      ['a condition', /no option "if"/, upsert, { if: { doc: [] } }],
      ['returning', /no option "returning"/, upsert, { returning: true }],
      ['retry in a transaction', /cannot be run again/, upsert, { retry: {}, transaction: true }],
      ['no object in create', /options.create to be an object/, upsert, { create: [1] }],
      ['an unknown attribute in create', /no attribute "nothing"/, upsert, { create: { nothing: 1 } }],
      ['the key in create', /Leave it out of create/, upsert, { create: { id: 7 } }],
      ['the version in create', /Leave it out of create/, upsert, { create: { version: 7 } }],
      ['the version in the changes', /changes with every write/, { version: 7 }],
      [
        'operations in create',
        /operations and plus\(\) belong to the changes/,
        upsert,
        { create: { doc: [set('a', 1)] } },
      ],
      ['a sum in create', /belong to the changes/, upsert, { create: { attempts: plus(1) } }],
      ['SQL in create', /SQL expressions are not bound/, upsert, { create: { attempts: fn('PI') } }],
      ['a text for a number in create', /expected a value that "attempts"/, upsert, { create: { attempts: 'x' } }],
      [
        'a text for a sum in create',
        /expected a value that "attempts"/,
        { attempts: plus(1) },
        { create: { attempts: 'x' } },
      ],
      ['a function in a document', /JSON cannot represent/, upsert, { create: { doc: { a: () => 1 } } }],
    ]
    for (const [what, expected, changes, options = {}, target] of wrong) {
      it(what, async () => {
        const Titled = class extends Counters {}
        Titled.init(Counters.getAttributes(), { sequelize, indexes: [{ unique: true, fields: ['title'] }] })
        const row = target === 'instance' ? await Counters.create({}) : [Titled, target ?? 7]
        const transaction = 'transaction' in options ? await sequelize.transaction() : undefined
        log.length = 0
        const call = atomicUpsert(row as never, changes as { doc: [] }, {
          ...options,
          ...(transaction && { transaction }),
        })
        const error = await rejection(call, UsageError)
        expect(error.message)
          .to.match(/^atomicUpsert: /)
          .and.match(expected)
        expect(log).to.deep.equal([])
        await transaction?.rollback()
      })
    }

    it('a row without a required value, or with a value that a validator refuses, also if the row exists', async () => {
      const { id } = await Counters.create({})
      log.length = 0
      await rejection(
        atomicUpsert([Counters, id], upsert as { doc: [] }, { create: { status: 'UPPER' } }),
        ValidationError,
      )
      await rejection(atomicUpsert([Counters, id], { status: 'UPPER' }), ValidationError)
      await rejection(
        atomicUpsert([Counters, id], upsert as { doc: [] }, { create: { status: null as never } }),
        ValidationError,
      )
      expect(log).to.deep.equal([])
    })

    it('a value that the database cannot store exactly', async () => {
      const id = free()
      const deep = JSON.parse('['.repeat(6000) + ']'.repeat(6000)) as unknown
      const lone = '\ud800'
      for (const doc of [{ deep }, { lone }]) {
        await rejection(atomicUpsert([Counters, id], { attempts: plus(1) }, { create: { doc } }), UnsupportedValueError)
      }
      if (database.name === 'postgres') {
        // Sequelize would send two other characters.
        const title = 'a\0b'
        await rejection(atomicUpsert([Counters, { where: { name: title } }], { attempts: 1 }), UnsupportedValueError)
        await rejection(atomicUpsert([Counters, id], { title }), UnsupportedValueError)
        const { id: there } = await Counters.create({})
        await rejection(atomicUpdate([Counters, there], { title }), UnsupportedValueError)
        await rejection(updateWhere(Counters, { id: there }, { title }), UnsupportedValueError)
      }
      const huge = { doc: { n: 1.7976931348623157e308 } }
      await rejection(
        atomicUpsert([Counters, id], { doc: [increment('n', 1e308)] }, { create: huge }),
        UnsupportedValueError,
      )
    })
  })
})
