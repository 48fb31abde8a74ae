import { inspect } from 'node:util'
import { expect } from 'chai'
import { DatabaseError, DataTypes, Op } from 'sequelize'
import type { Model, ModelStatic, Sequelize, Transaction } from 'sequelize'
import {
  atomicUpdate,
  atomicUpsert,
  ConditionNotMetError,
  plus,
  RowNotFoundError,
  set,
  UnsupportedValueError,
  updateWhere,
  UsageError,
  withLock,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'

type Item = Model<Record<string, unknown>>
type Items = ModelStatic<Item>

/** Columns, and values that databases store in another form: rounded, padded, or converted to the type of the column. */
const columns: Readonly<Record<string, readonly [type: unknown, ...values: unknown[]]>> = {
  float: [DataTypes.FLOAT, 0.1, '0.1', 16777217, 1e20, null],
  real: [DataTypes.REAL, 0.1, 1e20],
  double: [DataTypes.DOUBLE, 0.1, '0.30000000000000000001', 1e20, -1e300, 2 ** 53, Number.MAX_VALUE],
  decimal: [DataTypes.DECIMAL(10, 2), '1.239', 1.239, '-0.005'],
  integer: [DataTypes.INTEGER, '7', 7],
  bigint: [DataTypes.BIGINT, '9007199254740993', 5n],
  second: [DataTypes.DATE, new Date('2026-01-02T03:04:05.678Z'), '2026-01-02T03:04:05.999Z'],
  millisecond: [DataTypes.DATE(3), new Date('2026-01-02T03:04:05.678Z'), new Date('2026-01-02T03:04:05.678Z')],
  day: [DataTypes.DATEONLY, '2026-01-02', new Date('2026-01-02T03:04:05.678Z')],
  time: [DataTypes.TIME, '10:00:00.7'],
  char: [DataTypes.CHAR(8), 'a  ', 'A', ''],
  string: [DataTypes.STRING(8), 'a  ', 'A'],
  text: [DataTypes.TEXT, 'a  '],
  uuid: [DataTypes.UUID, 'F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6'],
  enum: [DataTypes.ENUM('one', 'two'), 'two'],
  boolean: [DataTypes.BOOLEAN, true, 1, false],
  blob: [DataTypes.BLOB, Buffer.from('a ')],
}

/** Values that all databases but SQLite refuse, or only some of them. */
const refused: Readonly<Record<string, readonly unknown[]>> = {
  integer: ['1.5', 2 ** 40],
  bigint: ['1.5', 2n ** 70n],
  decimal: ['123456789.00'],
  float: [1e300],
  real: ['1' + '0'.repeat(60), 1e300],
  char: ['too long for it'],
  string: ['too long for it', 'nul \0'],
  uuid: ['no uuid'],
  enum: ['three'],
  time: ['900:00:00'],
  boolean: ['maybe'],
}

const all = Object.entries(columns).map(([name, [, ...values]]) => ({ name, values }))
const cases = [...all, ...Object.entries(refused).map(([name, values]) => ({ name, values }))].flatMap(
  ({ name, values }) => values.map((value) => ({ name, value })),
)

/** Each writes `changes` to the row of `id`. */
const calls: Readonly<
  Record<string, (items: Items, id: number, changes: never, options: { transaction?: Transaction }) => Promise<unknown>>
> = {
  atomicUpdate: (items, id, changes, options) => atomicUpdate([items, id], changes, options as never),
  'atomicUpdate with where': (items, id, changes, options) =>
    atomicUpdate([items, id], changes, { where: { name: 'x' }, ...options }),
  'atomicUpdate, returning': (items, id, changes, options) =>
    atomicUpdate([items, id], changes, { returning: true, ...options } as never),
  'atomicUpdate by where': (items, id, changes, options) =>
    atomicUpdate([items, { where: { id, name: 'x' } }] as never, changes, options as never),
  atomicUpsert: (items, id, changes, options) =>
    atomicUpsert([items, id], changes, { create: { name: 'x' }, ...options }),
  updateWhere: (items, id, changes, options) => updateWhere(items, { id }, changes, options as never),
}

eachDatabase('a value that its column rounds', (database) => {
  let sequelize: Sequelize
  let log: string[]
  let Items: Items
  let id = 0
  // Model.update() stores two other characters for NUL there; this library refuses it before any SQL.
  const own = cases.filter(({ value }) => database.name !== 'postgres' || value !== 'nul \0')

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Items = sequelize.define<Item>(
      'Item',
      {
        id: { type: DataTypes.INTEGER, primaryKey: true },
        name: DataTypes.STRING,
        document: DataTypes.JSON,
        ...Object.fromEntries(Object.entries(columns).map(([name, [type]]) => [name, type as never])),
      },
      { timestamps: false, tableName: 'items' },
    )
    await Items.sync({ force: true })
  })

  const make = async (): Promise<number> => (await Items.create({ id: ++id, name: 'x', document: { a: 1 } }), id)
  const stored = async (key: number, name: string): Promise<unknown> =>
    (await Items.findByPk(key, { attributes: [name], raw: true }))![name as never]

  for (const [turn, [title, call]] of Object.entries(calls).entries()) {
    for (const isJoined of [false, true]) {
      const some = own.filter((_, index) => database.isSampled(index, 3, turn + Number(isJoined)))
      it(`is stored as by Model.update() in repeated calls of ${title}${isJoined ? ' in a transaction' : ''}: ${some.length} values`, async () => {
        const write = (key: number, changes: object): Promise<unknown> =>
          isJoined
            ? sequelize.transaction((transaction) => call(Items, key, changes as never, { transaction }))
            : call(Items, key, changes as never, {})
        const [plain, own] = [await make(), await make()]
        for (const { name, value } of some) {
          const at = `${name} ${inspect(value)}`
          const expected = await outcomeOf(Items.update({ [name]: value }, { where: { id: plain } }))
          const changes = { [name]: value, document: [set('a', 1)] }
          for (const round of [1, 2, 3]) {
            const written = await outcomeOf(write(own, round === 3 ? { [name]: value } : changes))
            if (expected === 'written') {
              expect(written, `${at}, call ${round}`).to.equal('written')
              continue
            }
            expect(written, `${at}: ${String(written)}`).to.be.instanceOf(UnsupportedValueError)
            expect(written).to.deep.include({ column: name })
            expect((written as Error).message, at)
              .to.include(`("${name}")`)
              .and.not.include(String(value))
            expect((written as Error).cause, at).to.be.instanceOf(DatabaseError)
            expect(await stored(own, 'document'), at).to.deep.equal({ a: 1 })
          }
          expect(await stored(own, name), at).to.deep.equal(await stored(plain, name))
        }
      })
    }
  }

  /** MySQL sends a FLOAT with 6 digits to a finder, and with all of them where a statement has binds. */
  const shown = (value: unknown): unknown => (typeof value === 'number' ? Number(value.toPrecision(6)) : value)
  const sums = { decimal: ['0.005', '-0.015', '0.1', 2], float: [0.1, 0.2], real: [0.1, 0.2], double: [0.1, 0.2] }

  for (const [way, run] of Object.entries({
    'outside a transaction': (_row: Item, write: () => Promise<unknown>) => write(),
    'in withLock': (row: Item, write: () => Promise<unknown>) => withLock(row, write),
  })) {
    it(`is the same in memory and in the row after plus(), ${way}`, async () => {
      for (const [name, summands] of Object.entries(sums)) {
        const row = (await Items.findByPk(await make()))!
        const key = row.get('id') as number
        await Items.update({ [name]: 1.1 }, { where: { id: key } })
        await row.reload()
        for (const by of summands) {
          await run(row, () => atomicUpdate(row, { [name]: plus(by) } as never))
          const read = (await Items.findByPk(key))!
          expect(shown(row.get(name)), `${name} plus ${by}`).to.equal(shown(read.get(name)))
          // Another instance, which the transaction has locked.
          await withLock([Items, key], async (locked, transaction) => {
            await atomicUpdate([Items, key], { [name]: plus(by) } as never, { transaction })
            const inside = (await Items.findByPk(key, { transaction }))!
            expect(shown(locked.get(name)), `${name} plus ${by}, locked`).to.equal(shown(inside.get(name)))
          })
          await row.reload()
        }
      }
    })
  }

  it('is a whole number of any size in a column of doubles: as a value, in a where, as a key, and in a new row', async () => {
    const Points = sequelize.define<Item>(
      'Point',
      { x: { type: DataTypes.DOUBLE, primaryKey: true }, y: DataTypes.DOUBLE, document: DataTypes.JSON },
      { timestamps: false, tableName: 'points' },
    )
    await Points.sync({ force: true })
    for (const x of [2 ** 53, 1e20, -1e21, 1e300]) {
      const doubled = { y: 2 * x, document: { a: 1 } }
      for (const isNew of [true, false]) {
        const changes = { y: plus(0), document: [set('a', 1)] } as never
        expect(await atomicUpsert([Points, x], changes, { create: { y: x } }), String(x)).to.equal(isNew)
      }
      expect(await updateWhere(Points, { x, y: { [Op.in]: [x] } }, { y: 2 * x } as never)).to.equal(1)
      expect(await updateWhere(Points, { x: { [Op.eq]: x }, y: { [Op.ne]: 2 * x } }, { y: 0 } as never)).to.equal(0)
      await withLock([Points, x], (row) => void expect(row.get()).to.deep.equal({ x, ...doubled }))
      const row = (await Points.findByPk(x))!
      await atomicUpdate(row, { y: x } as never)
      expect(await Points.findByPk(x, { raw: true })).to.deep.include({ x, y: x })
    }
    for (const [name, value] of [
      ['decimal', 1e20],
      ['bigint', 2 ** 53],
      ['double', Infinity],
    ] as const) {
      const { reason } = await rejection(updateWhere(Items, { [name]: value }, { name: 'x' } as never), UsageError)
      expect(reason, name).to.equal('whereValue')
      const written = atomicUpdate([Items, await make()], { [name]: value } as never)
      expect((await rejection(written, UsageError)).reason, name).to.equal('columnValue')
    }
  })

  it('is not read back after a sum of a DECIMAL within its scale: one statement', async () => {
    const row = (await Items.findByPk(await make()))!
    await row.update({ decimal: '1.10' })
    await row.reload()
    // Asks for the version of the server, once.
    await atomicUpdate(row, { decimal: plus(0) } as never)
    log.length = 0
    await atomicUpdate(row, { decimal: plus('0.25') } as never)
    expect(log).to.have.length(1)
    expect(Number(row.get('decimal'))).to.equal(1.35)
  })

  it('leaves the transaction that it joins to its owner, in a savepoint on PostgreSQL too', async () => {
    if (database.name === 'sqlite') return
    const key = await make()
    await sequelize.transaction(async (transaction) => {
      await atomicUpdate([Items, key], { integer: 1 } as never, { transaction })
      const inner = sequelize.transaction({ transaction }, (savepoint) =>
        atomicUpdate([Items, key], { string: 'too long for it' } as never, { transaction: savepoint }),
      )
      await rejection(inner, UnsupportedValueError)
      await atomicUpdate([Items, key], { bigint: 2 } as never, { transaction })
    })
    expect([await stored(key, 'integer'), Number(await stored(key, 'bigint'))]).to.deep.equal([1, 2])
  })

  it('does not hide that the row does not exist, or does not meet a condition', async () => {
    const key = await make()
    for (const [index, { name, value }] of own.entries()) {
      if (!database.isSampled(index, 2)) continue
      if ((await outcomeOf(Items.update({ [name]: value }, { where: { id: key } }))) !== 'written') continue
      const changes = { [name]: value } as never
      await rejection(atomicUpdate([Items, key], changes, { where: { name: 'y' } }), ConditionNotMetError)
      await rejection(atomicUpdate([Items, 0], changes), RowNotFoundError)
      await sequelize.transaction(async (transaction) => {
        const options = { where: { name: 'y' }, transaction }
        await rejection(atomicUpdate([Items, key], changes, options), ConditionNotMetError)
        await rejection(atomicUpdate([Items, 0], changes, { transaction }), RowNotFoundError)
      })
    }
  })
})
