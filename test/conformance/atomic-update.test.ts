import { expect } from 'chai'
import { DataTypes, fn, Model, Op, QueryTypes, ValidationError } from 'sequelize'
import type {
  CreationOptional,
  InferAttributes,
  InferCreationAttributes,
  ModelOptions,
  Sequelize,
  Transaction,
  WhereOptions,
} from 'sequelize'
import {
  absent,
  append,
  atLeast,
  atomicUpdate,
  ConditionNotMetError,
  ElementNotFoundError,
  equals,
  exists,
  greaterThan,
  increment,
  JsonShapeError,
  lossless,
  matching,
  mergeJsonKey,
  not,
  plus,
  RowNotFoundError,
  set,
  UnsavedChangesError,
  UnsupportedValueError,
  updateJson,
  updateWhere,
  UsageError,
  withLock,
} from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { documentText } from '../workflow-run.js'

type Document = Record<string, unknown>

class Job extends Model<InferAttributes<Job>, InferCreationAttributes<Job>> {
  declare id: CreationOptional<number>
  declare progress: CreationOptional<Document | null>
  declare stats: CreationOptional<Document | null>
  declare status: CreationOptional<string | null>
  declare attempts: CreationOptional<number | null>
  declare total: CreationOptional<number | string | null>
  declare balance: CreationOptional<string | null>
  declare ratio: CreationOptional<number | null>
  declare finishedAt: CreationOptional<Date | null>
  declare version: CreationOptional<number>
  declare note: CreationOptional<string | null>
  declare flag: CreationOptional<boolean | null>
  declare counted: CreationOptional<number>
  declare numbered: CreationOptional<number>
  declare named: CreationOptional<number>
  declare quiet: CreationOptional<number>
  declare maybe: CreationOptional<unknown>
  declare phase: CreationOptional<string>
  declare updatedAt: CreationOptional<Date>
}

interface Job extends Lossless<Job> {}

async function createJobs(sequelize: Sequelize, options: ModelOptions<Job> = {}): Promise<typeof Job> {
  const Jobs = class extends Job {}
  Jobs.init(
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      progress: DataTypes.JSON,
      stats: { type: DataTypes.JSON, field: 'job_stats' },
      status: {
        type: DataTypes.STRING,
        field: 'job_status',
        validate: { isLowercase: true },
        set(value: unknown) {
          this.setDataValue('status', typeof value === 'string' ? value.trim() : (value as null))
        },
      },
      attempts: { type: DataTypes.INTEGER, allowNull: true },
      total: DataTypes.BIGINT,
      balance: DataTypes.DECIMAL(20, 4),
      ratio: DataTypes.DOUBLE,
      finishedAt: DataTypes.DATE,
      version: DataTypes.INTEGER,
      note: DataTypes.TEXT,
      flag: DataTypes.BOOLEAN,
      counted: {
        type: DataTypes.VIRTUAL,
        set(value: number) {
          this.setDataValue('attempts', value)
        },
      },
      numbered: {
        type: DataTypes.VIRTUAL,
        set(value: number) {
          this.setDataValue('version', value)
        },
      },
      named: {
        type: DataTypes.VIRTUAL,
        set(value: number) {
          this.setDataValue('id', value)
        },
      },
      quiet: { type: DataTypes.VIRTUAL },
      maybe: {
        type: DataTypes.STRING,
        set(value: unknown) {
          if (value) this.setDataValue('maybe', value === 'now' ? fn('NOW') : value)
        },
      },
      phase: {
        type: DataTypes.VIRTUAL,
        set(value: string) {
          this.setDataValue('progress', { phase: value })
        },
      },
      updatedAt: DataTypes.DATE,
    },
    { sequelize, modelName: 'Job', tableName: 'jobs', ...options },
  )
  await Jobs.sync({ force: true })
  return lossless(Jobs)
}

/** A hook that makes a session of MySQL or MariaDB store the nearest number that a column can hold. */
async function setLoose(connection: unknown): Promise<void> {
  const { query } = connection as { query: (sql: string, done?: (error: unknown) => void) => unknown }
  const sql = `SET SESSION sql_mode = ''`
  // mysql2 takes a callback, and mariadb returns a promise.
  await new Promise<void>((resolve, reject) => {
    const result = query.call(connection, sql, (error) => (error instanceof Error ? reject(error) : resolve()))
    if (result instanceof Promise) result.then(() => resolve(), reject)
  })
}

eachDatabase('atomicUpdate', (database) => {
  let sequelize: Sequelize
  let log: string[]
  let Jobs: typeof Job

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Jobs = await createJobs(sequelize)
  })

  const stored = (id: number): Promise<Job> => Jobs.findByPk(id, { rejectOnEmpty: true })
  const writes = (): readonly string[] => log.filter((sql) => /UPDATE/.test(sql) && !/FOR UPDATE/.test(sql))

  it('changes array elements and other columns if conditions on elements are met, else nothing', async () => {
    const job = await Jobs.create({ progress: { items: [{ id: 7 }] }, status: 'new' })
    const byId = ['items', matching({ id: 7 })]
    await job.atomicUpdate(
      { progress: [set([...byId, 'n'], 1)], stats: [append('log', 'x')], status: 'done' },
      { where: { status: 'new' }, if: { progress: [exists(byId), not(greaterThan([...byId, 'n'], 0))] } },
    )
    const wanted = { progress: { items: [{ id: 7, n: 1 }] }, stats: { log: ['x'] }, status: 'done' }
    for (const each of [job, await stored(job.id)]) expect(each.get()).to.deep.include(wanted)

    const late = { status: 'late', stats: [append('log', 'y')] }
    const target = [Jobs, job.id] as const
    for (const path of [
      ['items', 1, 'n'],
      ['items', -2],
      ['items', matching({ id: 8 }), 'n'],
      ['none', 0],
    ]) {
      const error = await rejection(atomicUpdate(target, { progress: [set(path, 1)], ...late }), ElementNotFoundError)
      expect(error).to.include({ code: 'ELEMENT_NOT_FOUND', column: 'progress', model: 'Job' })
    }
    const element = { progress: [increment([...byId, 'n'])], ...late }
    for (const options of [
      { where: { status: 'new' } },
      { if: { progress: [absent(byId)] } },
      { if: { progress: [greaterThan(['items', 0, 'n'], 1)] } },
    ]) {
      await rejection(atomicUpdate(target, element, options as object), ConditionNotMetError)
      await rejection(atomicUpdate(target, late, { if: { progress: [absent(['items', -1])] } }), ConditionNotMetError)
    }
    await rejection(
      atomicUpdate(target, { progress: [append('items', 1)], stats: [set([0], 1) as never] }),
      JsonShapeError,
    )
    expect((await stored(job.id)).get()).to.deep.include(wanted)

    const found = await withLock(target, async (locked, transaction) => {
      const row = await atomicUpdate(target, element, { transaction, returning: true })
      expect(locked.progress).to.deep.equal(row?.progress)
      return row?.progress
    })
    expect(found).to.deep.equal({ items: [{ id: 7, n: 2 }] })
  })

  it('changes documents and ordinary columns in one statement, with all values bound', async () => {
    const job = await Jobs.create({ progress: { a: 1 }, stats: { n: 1 }, attempts: 2, status: 'new' })
    await job.atomicUpdate({ attempts: plus(0) })
    log.length = 0
    const finishedAt = new Date('2026-01-02T03:04:05.000Z')
    const returned = await job.atomicUpdate({
      progress: [set('secret_key', 'secret_value'), append('log', 'x')],
      stats: [increment('n', 2)],
      status: ' secret_status ',
      finishedAt,
      attempts: plus(3),
    })
    expect(log).to.have.length(1)
    expect(log[0]).to.not.match(/secret/)
    expect(returned).to.equal(job)
    const wanted = { secret_key: 'secret_value', a: 1, log: ['x'] }
    for (const each of [job, await stored(job.id)]) {
      expect(each.progress).to.deep.equal(wanted)
      expect(each.stats).to.deep.equal({ n: 3 })
      expect(each.status).to.equal('secret_status')
      expect(each.attempts).to.equal(5)
      expect(each.finishedAt!.getTime()).to.equal(finishedAt.getTime())
      expect(each.changed()).to.equal(false)
    }
  })

  it('writes all of it or nothing', async () => {
    const { id } = await Jobs.create({ progress: {}, stats: { n: 'text' }, attempts: 1 })
    const error = await rejection(
      atomicUpdate([Jobs, id], { progress: [set('a', 1)], stats: [increment('n')], attempts: plus(1) }),
      JsonShapeError,
    )
    expect(error.column).to.equal('stats')
    const { progress, attempts } = await stored(id)
    expect([progress, attempts]).to.deep.equal([{}, 1])
  })

  it('starts from an empty object where any of the documents is NULL', async () => {
    for (const [progress, stats] of [
      [null, { n: 1 }],
      [{ a: 1 }, null],
      [null, null],
    ] as const) {
      const { id } = await Jobs.create({ progress, stats })
      await atomicUpdate([Jobs, id], { progress: [set('b', 2)], stats: [increment('n')], status: 'x' })
      const job = await stored(id)
      expect([job.progress, job.stats, job.status]).to.deep.equal([
        { ...progress, b: 2 },
        { n: (stats?.n ?? 0) + 1 },
        'x',
      ])
    }
  })

  it('changes ordinary columns without a document', async () => {
    const job = await Jobs.create({ attempts: null, status: 'new' })
    await job.atomicUpdate({ attempts: plus(1), status: null })
    expect([job.attempts, job.status]).to.deep.equal([1, null])
    // The same values again.
    await atomicUpdate([Jobs, { id: job.id }], { status: null })
    await rejection(atomicUpdate([Jobs, { id: job.id, total: 1 }], { status: 'x' }), UsageError)
    const { attempts, status } = await stored(job.id)
    expect([attempts, status]).to.deep.equal([1, null])
    await rejection(atomicUpdate([Jobs, 10 ** 6], { attempts: plus(1) }), RowNotFoundError)
  })

  it('keeps every digit of a text after the same statement had a number on the same connection', async () => {
    // A server that prepares statements keeps the type of a bind: a text would be rounded to a double.
    const { sequelize: single } = database.connect({ pool: { max: 1, min: 1 } })
    const Own = await createJobs(single, { tableName: 'exact_jobs' })
    const [one, other] = await Promise.all([Own.create(), Own.create()])
    const digits = '123456789012345.6789'
    const balanceOf = async ({ id }: Job): Promise<string> => {
      const sql = `SELECT ${documentText(single, 'balance')} AS balance FROM exact_jobs WHERE id = ${id}`
      const [row] = await single.query<{ balance: string }>(sql, { type: QueryTypes.SELECT })
      return row!.balance
    }
    for (const balance of [1.5, digits]) await atomicUpdate([Own, one.id], { balance: balance as never })
    for (const balance of [1.5, digits]) await updateWhere(Own, { id: other.id }, { balance: balance as never })
    // SQLite stores doubles.
    const stored = database.name === 'sqlite' ? '123456789012345.67' : digits
    expect([await balanceOf(one), await balanceOf(other)]).to.deep.equal([stored, stored])
    for (const balance of [1.5, '123456789012345.6788', digits]) {
      await updateWhere(Own, { balance: balance as never }, { attempts: plus(1) })
    }
    await Promise.all([one.reload(), other.reload()])
    const isMet = database.name === 'sqlite' ? 2 : 1
    expect([one.attempts, other.attempts]).to.deep.equal([isMet, isMet])
  })

  it('never loses a change of concurrent callers', async () => {
    const { id } = await Jobs.create({ progress: {}, attempts: 0 })
    const keys = Array.from({ length: 20 }, (_, index) => `key_${index}`)
    await Promise.all(
      keys.map((key) => atomicUpdate([Jobs, id], { progress: [set(key, 1)], attempts: plus(1), total: plus(2n) })),
    )
    const job = await stored(id)
    expect(Object.keys(job.progress!).sort()).to.deep.equal([...keys].sort())
    expect([job.attempts, Number(job.total)]).to.deep.equal([20, 40])
  })

  describe('plus', () => {
    it('adds to integers past 2^53 and to decimals exactly, in the row and in memory', async () => {
      const job = await Jobs.create({ total: '9007199254740993', balance: '0.1000', ratio: 0.5 })
      await job.reload()
      await job.atomicUpdate({ total: plus(2), balance: plus('0.2'), ratio: plus(0.25) })
      const after = await stored(job.id)
      for (const each of [job, after]) {
        // The driver of SQLite reads integers as doubles, and SQLite stores decimals as doubles.
        const isExact = database.name !== 'sqlite'
        if (isExact) expect([String(each.total), Number(each.balance)]).to.deep.equal(['9007199254740995', 0.3])
        expect(Number(each.balance)).to.be.closeTo(0.3, 1e-12)
        expect(each.ratio).to.equal(0.75)
      }
      const [row] = await sequelize.query<{ digits: string }>(
        `SELECT CAST(total AS CHAR(30)) AS digits FROM jobs WHERE id = ${job.id}`,
        { type: QueryTypes.SELECT },
      )
      expect(row!.digits.trim()).to.equal('9007199254740995')
    })

    it('adds a number past 64 bits exactly, or refuses it', async () => {
      const { id } = await Jobs.create({ total: -10 })
      const sum = atomicUpdate([Jobs, id], { total: plus('9223372036854775810') })
      if (database.name === 'sqlite') await rejection(sum, UnsupportedValueError)
      else await sum
      await atomicUpdate([Jobs, id], { total: plus('-0007') })
      const [row] = await sequelize.query<{ digits: string }>(
        `SELECT CAST(total AS CHAR(30)) AS digits FROM jobs WHERE id = ${id}`,
        { type: QueryTypes.SELECT },
      )
      expect(row!.digits.trim()).to.equal(database.name === 'sqlite' ? '-17' : '9223372036854775793')
    })

    it('refuses a sum that the column cannot hold, and writes nothing', async () => {
      const { id } = await Jobs.create({ total: '9223372036854775807', progress: {} })
      const error = await rejection(
        atomicUpdate([Jobs, id], { total: plus(1), progress: [set('a', 1)] }),
        UnsupportedValueError,
      )
      expect(error.message).to.include('"total"').and.include('out of the range')
      expect((await stored(id)).progress).to.deep.equal({})
    })

    if (['mysql', 'mariadb'].includes(database.name)) {
      it('is refused if sql_mode is not strict, since the server would store the nearest number', async () => {
        const { sequelize: loose } = database.connect({ hooks: { afterConnect: setLoose } })
        const Loose = await createJobs(loose, { tableName: 'loose_jobs' })
        const { id } = await Loose.create({ attempts: 2_147_483_647 })
        const error = await rejection(atomicUpdate([Loose, id], { attempts: plus(1) }), UnsupportedValueError)
        expect(error.message).to.include('STRICT_TRANS_TABLES')
        await atomicUpdate([Loose, id], { status: 'x' })
        expect((await Loose.findByPk(id))!.attempts).to.equal(2_147_483_647)
      })
    }

    for (const [what, by] of [
      ['NaN', NaN],
      ['a rounded integer', 2 ** 60],
      ['a text', 'many'],
      ['an exponent', 1e-9],
      ['an object', {}],
    ] as const) {
      it(`refuses ${what}`, () => {
        const call = (): unknown => plus(by as number)
        expect(call).to.throw(UsageError, 'plus: ')
      })
    }
  })

  describe('where and if', () => {
    it('are checked by the statement, and the error names the condition that is not met, without values', async () => {
      const { id } = await Jobs.create({ status: 'secret', attempts: 3, progress: { a: 1 } })
      const changes = { attempts: plus(1), progress: [set('b', 2)] } as const
      const ofWhere = await rejection(
        atomicUpdate([Jobs, id], changes, { where: { attempts: 3, status: 'other_secret' } }),
        ConditionNotMetError,
      )
      expect([ofWhere.column, ofWhere.condition]).to.deep.equal(['status', undefined])
      expect(ofWhere.message).to.not.include('secret')
      const ofDocument = await rejection(
        atomicUpdate([Jobs, id], changes, { where: { attempts: 3 }, if: { progress: [absent('a')] } }),
        ConditionNotMetError,
      )
      expect([ofDocument.column, ofDocument.condition?.kind]).to.deep.equal(['progress', 'absent'])
      expect((await stored(id)).attempts).to.equal(3)
      await atomicUpdate([Jobs, id], changes, { where: { attempts: 3 }, if: { progress: [equals('a', 1)] } })
      expect((await stored(id)).attempts).to.equal(4)
    })

    it('can refer to a document that is not changed, or is NULL', async () => {
      const { id } = await Jobs.create({ progress: { a: 1 }, stats: null })
      await atomicUpdate(
        [Jobs, id],
        { status: 'x' },
        { if: { progress: [atLeast('a', 1)], stats: [not(exists('n'))] } },
      )
      await rejection(atomicUpdate([Jobs, id], { status: 'y' }, { if: { stats: [exists('n')] } }), ConditionNotMetError)
      const { status, progress, stats } = await stored(id)
      expect([status, progress, stats]).to.deep.equal(['x', { a: 1 }, null])
    })

    const conditions: readonly (readonly [where: WhereOptions<InferAttributes<Job>>, isMet: boolean])[] = [
      [{ status: 'on' }, true],
      [{ status: null }, false],
      [{ finishedAt: null }, true],
      [{ finishedAt: { [Op.ne]: null } }, false],
      [{ status: { [Op.ne]: 'off' } }, true],
      [{ status: ['off', 'on'] }, true],
      [{ status: [] }, false],
      [{ status: { [Op.in]: ['off'] } }, false],
      [{ status: { [Op.notIn]: ['off'] } }, true],
      [{ flag: { [Op.not]: true } }, true],
      [{ flag: { [Op.not]: false } }, true],
      [{ flag: { [Op.is]: true } }, false],
      [{ [Op.not]: { flag: { [Op.not]: true } } }, false],
      [{ status: { [Op.not]: ['on'] } }, false],
      [{ status: { [Op.like]: 'o%' } }, true],
      [{ status: { [Op.notLike]: 'o%' } }, false],
      [{ attempts: { [Op.gt]: 3, [Op.lte]: 5 } }, true],
      [{ attempts: { [Op.gte]: 6 } }, false],
      [{ attempts: { [Op.between]: [1, 5] } }, true],
      [{ attempts: { [Op.notBetween]: [1, 5] } }, false],
      [{ attempts: { [Op.and]: [{ [Op.gt]: 1 }, { [Op.lt]: 6 }] } }, true],
      [{ attempts: { [Op.and]: [{ [Op.gt]: 1 }, 4] } }, false],
      [{ attempts: { [Op.or]: [4, 5] } }, true],
      [{ attempts: { [Op.or]: { [Op.lt]: 5, [Op.gt]: 5 } } }, false],
      [{ attempts: { [Op.lt]: 5 } }, false],
      [{ [Op.or]: [{ status: 'off' }, { attempts: 5, status: 'on' }] }, true],
      [{ [Op.or]: { status: 'off', attempts: 4 } }, false],
      [{ [Op.and]: [] }, true],
      [{ [Op.not]: [] }, false],
      [{ [Op.and]: [{ status: 'on' }, { attempts: 5 }] }, true],
      [{ [Op.not]: { status: 'on', attempts: 4 } }, true],
      [{ balance: '1.5' }, true],
      [{ ratio: { [Op.gt]: 0.25 } }, true],
    ]

    it(`accept operators of Sequelize, with all values bound (${conditions.length} conditions)`, async () => {
      const { id } = await Jobs.create({ status: 'on', attempts: 5, balance: '1.5', ratio: 0.5 })
      for (const [where, isMet] of conditions) {
        log.length = 0
        const call = atomicUpdate([Jobs, id], { total: plus(1) }, { where })
        if (isMet) await call
        else await rejection(call, ConditionNotMetError)
        // The values are 'on' and 'off'; `off` of OFFSET is in no statement.
        for (const sql of writes()) expect(sql).to.not.match(/'o(n|ff|%)'|\b[0-9]\.[0-9]+\b/)
      }
    })

    it('compare the version, as an ETag does', async () => {
      const Versioned = await createJobs(sequelize, { tableName: 'versioned_jobs', version: true })
      const { id } = await Versioned.create({ progress: {}, version: 0 })
      const change = (version: number): Promise<unknown> =>
        atomicUpdate([Versioned, id], { progress: [set('a', 1)] }, { where: { version } })
      await change(0)
      await rejection(change(0), ConditionNotMetError)
      await change(1)
      expect((await Versioned.findByPk(id))!.version).to.equal(2)
    })
  })

  it('refuses a boolean, or bytes, for a time', async () => {
    const job = await Jobs.create({ progress: {} })
    for (const value of [true, false, Buffer.from('1')]) {
      const change = atomicUpdate([Jobs, job.id], { finishedAt: value as unknown as Date })
      expect((await rejection(change, UsageError)).reason).to.equal('columnValue')
      const where = updateWhere(Jobs, { finishedAt: value as unknown as Date }, { status: 'x' })
      expect((await rejection(where, UsageError)).reason).to.equal('whereValue')
    }
    expect((await job.reload()).finishedAt).to.be.oneOf([null, undefined])
  })

  describe('returning: true', () => {
    it('resolves to the stored row', async () => {
      const job = await Jobs.create({ progress: { a: 1 }, attempts: 1, status: 'x' })
      await mergeJsonKey([Jobs, job.id], 'progress', 'other', true)
      await Jobs.update({ status: 'changed' }, { where: { id: job.id } })
      const changes = { progress: [set('b', 2)], attempts: plus(1) } as const
      const row = await atomicUpdate([Jobs, job.id], changes, { returning: true })
      expect(row).to.be.instanceOf(Jobs)
      expect([row.progress, row.attempts, row.status]).to.deep.equal([{ a: 1, other: true, b: 2 }, 2, 'changed'])
      expect([row.changed(), row.isNewRecord]).to.deep.equal([false, false])
      await job.atomicUpdate({ attempts: plus(1), progress: [set('c', 3)] }, { returning: true })
      expect(job.progress).to.deep.equal({ a: 1, other: true, b: 2, c: 3 })
      expect([job.attempts, job.status]).to.deep.equal([3, 'x'])
    })

    if (['mysql', 'mariadb'].includes(database.name)) {
      it('does not return a row of an older snapshot, also if the UPDATE changed nothing', async () => {
        const Plain = await createJobs(sequelize, { tableName: 'plain_jobs', timestamps: false })
        const { id } = await Plain.create({ status: 'new', attempts: 1 })
        // Otherwise MariaDB 11.6.2 and newer refuse the UPDATE.
        const isolateSnapshots = async (value: 'OFF' | 'DEFAULT', transaction: Transaction): Promise<void> => {
          if (database.name === 'mysql') return
          await sequelize.query(`SET SESSION innodb_snapshot_isolation = ${value}`, { transaction })
        }
        await sequelize.transaction(async (transaction) => {
          await isolateSnapshots('OFF', transaction)
          await Plain.findByPk(id, { transaction })
          await Plain.update({ status: 'done', attempts: 9 }, { where: { id }, transaction: null })
          const row = await atomicUpdate([Plain, id], { status: 'done' }, { transaction, returning: true })
          expect([row.status, row.attempts]).to.deep.equal(['done', 9])
          await isolateSnapshots('DEFAULT', transaction)
        })
      })
    }

    it('is off by default: the call resolves to undefined', async () => {
      const { id } = await Jobs.create()
      expect(await Promise.all([atomicUpdate([Jobs, id], { attempts: plus(1) })])).to.deep.equal([undefined])
    })
  })

  it('joins the transaction of a locked row, and a rollback restores the row in memory', async () => {
    const job = await Jobs.create({ progress: {}, attempts: 1 })
    const failure = new Error('the callback failed')
    const call = job.withLock(async (row) => {
      await row.atomicUpdate({ progress: [set('a', 1)], attempts: plus(1) })
      expect([row.progress, row.attempts]).to.deep.equal([{ a: 1 }, 2])
      throw failure
    })
    expect(await call.catch((error: unknown) => error)).to.equal(failure)
    expect([job.progress, job.attempts]).to.deep.equal([{}, 1])
    await withLock([Jobs, job.id], async (row, transaction) => {
      await atomicUpdate([Jobs, job.id], { progress: [set('b', 1)], attempts: plus(5) }, { transaction })
      expect([row.progress, row.attempts]).to.deep.equal([{ b: 1 }, 6])
      row.progress!['c'] = 1
      await row.save()
    })
    const { progress, attempts } = await stored(job.id)
    expect([progress, attempts]).to.deep.equal([{ b: 1, c: 1 }, 6])
  })

  it('takes options that an object inherits, or does not enumerate', async () => {
    const job = await Jobs.create({ progress: {}, attempts: 1 })
    const rolledBack = new Error('rolled back')
    const call = sequelize.transaction(async (transaction) => {
      await job.atomicUpdate({ attempts: 2 }, Object.create({ transaction }) as object)
      await job.mergeJsonKey('progress', 'a', 1, Object.create({ transaction }) as object)
      const hidden = Object.defineProperty({}, 'transaction', { value: transaction })
      await atomicUpdate([Jobs, job.id], { attempts: plus(1) }, hidden)
      await updateWhere(Jobs, { id: job.id }, { attempts: plus(1) }, hidden)
      throw rolledBack
    })
    expect(await call.catch((error: unknown) => error)).to.equal(rolledBack)
    const { progress, attempts } = await stored(job.id)
    expect([progress, attempts]).to.deep.equal([{}, 1])
  })

  it('judges the conditions that it was called with, also if the caller changes the array after the call', async () => {
    const { id } = await Jobs.create({ progress: { a: 0 } })
    const conditions = [equals('a', 999)]
    const byDocument = atomicUpdate([Jobs, id], { attempts: 7 }, { if: { progress: conditions } })
    const byCall = updateJson([Jobs, id], 'progress', [increment('a')], { if: conditions })
    const inBatch = updateJson([Jobs, id], 'progress', [increment('a')], { if: conditions, coalesce: true })
    conditions.length = 0
    for (const call of [byDocument, byCall, inBatch]) await rejection(call, ConditionNotMetError)
    const holes = new Array<never>(1)
    await rejection((async () => updateJson([Jobs, id], 'progress', holes))(), UsageError)
    await rejection((async () => updateJson([Jobs, id], 'progress', [set('a', 1)], { if: holes }))(), UsageError)
    expect((await stored(id)).progress).to.deep.equal({ a: 0 })
  })

  it('writes the date that it was called with, also if the caller changes it after the call', async () => {
    const { id } = await Jobs.create({ finishedAt: new Date(0) })
    const [finishedAt, seen] = [new Date(1000), new Date(0)]
    const written = atomicUpdate([Jobs, id], { finishedAt }, { where: { finishedAt: seen } })
    finishedAt.setTime(9000)
    seen.setTime(9000)
    await written
    expect(+(await stored(id)).finishedAt!).to.equal(1000)
  })

  describe('refuses before any SQL', () => {
    const wrong: readonly (readonly [what: string, changes: object, options?: object, type?: typeof UsageError])[] = [
      ['no changes', {}],
      ['an attribute that does not exist', { nothing: 1 }],
      ['the primary key', { id: 7 }],
      ['updatedAt', { updatedAt: new Date() }],
      ['undefined', { status: undefined }],
      ['a text for a number', { ratio: 'many' }],
      ['a text for a date', { finishedAt: 'soon' }],
      ['NaN', { ratio: NaN }],
      ['NaN for a text', { note: NaN }],
      ['Infinity for a text', { note: -Infinity }],
      ['a symbol', { note: Symbol('x') }],
      ['a symbol for a date', { finishedAt: Symbol('x') }],
      ['an expression of SQL', { finishedAt: fn('NOW') }],
      ['a setter that assigns a document', { phase: 'x' }],
      ['a setter that assigns a summed column', { attempts: plus(5), counted: 1 }],
      ['a setter that assigns the primary key', { named: 7 }],
      ['a setter that assigns an expression of SQL', { maybe: 'now' }],
      ['a setter that assigns nothing', { maybe: '' }],
      ['a virtual attribute without a column', { quiet: 1 }],
      ['a whole document', { progress: { a: 1 } }],
      ['NULL for a document', { progress: null }],
      ['undefined for a document', { progress: undefined }],
      ['operations of a request body', { progress: [{ kind: 'set', path: ['a'], json: '1' }] }],
      ['operations for an ordinary column', { status: [set('a', 1)] }],
      ['overlapping paths', { progress: [set('a', 1), set(['a', 'b'], 1)] }],
      ['a fraction for an integer', { attempts: plus(0.5) }],
      ['a sum for a text', { status: plus(1) }],
      ['a where that is no object', { status: 'x' }, { where: 'status = 1' }],
      ['a JSON column in where', { status: 'x' }, { where: { progress: {} } }],
      ['an unknown column in where', { status: 'x' }, { where: { nothing: 1 } }],
      ['an operator that is not bound', { status: 'x' }, { where: { status: { [Op.startsWith]: 'x' } } }],
      ['SQL in where', { status: 'x' }, { where: { status: fn('USER') } }],
      ['a number compared with a text', { status: 'x' }, { where: { status: 0 } }],
      ['a text compared with a number', { status: 'x' }, { where: { attempts: 'x' } }],
      ['undefined in where', { status: 'x' }, { where: { status: undefined } }],
      ['a condition of a request body', { status: 'x' }, { if: { progress: [{ kind: 'exists', path: ['a'] }] } }],
      ['conditions without a column', { status: 'x' }, { if: [exists('a')] }],
      ['undefined for conditions', { status: 'x' }, { if: { progress: undefined } }],
      ['an unknown option', { status: 'x' }, { transactoin: null }],
      ['an unknown option that is inherited', { status: 'x' }, Object.create({ transactoin: null }) as object],
      ['an option with a symbol', { status: 'x' }, { [Symbol('transaction')]: null }],
      ['returning: "all"', { status: 'x' }, { returning: 'all' }],
    ]

    for (const [what, changes, options] of wrong) {
      it(what, async () => {
        const job = await Jobs.create({ status: 'before', progress: {} })
        log.length = 0
        const call = (): Promise<unknown> =>
          atomicUpdate([Jobs, job.id], changes as { status: string }, options as object)
        const error = await rejection((async () => call())(), UsageError)
        expect(error.message).to.match(/^atomicUpdate: /)
        expect(log).to.deep.equal([])
      })
    }

    it('a value that a validator refuses', async () => {
      const { id } = await Jobs.create()
      log.length = 0
      await rejection(atomicUpdate([Jobs, id], { status: 'UPPER', attempts: plus(1) }), ValidationError)
      expect(log).to.deep.equal([])
    })

    it('unsaved changes in one of the columns', async () => {
      const job = await Jobs.create({ attempts: 1 })
      job.attempts = 7
      await rejection(job.atomicUpdate({ attempts: plus(1) }), UnsavedChangesError)
      await job.atomicUpdate({ status: 'x' })
      expect(job.changed()).to.deep.equal(['attempts'])
    })
  })
})
