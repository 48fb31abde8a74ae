import { expect } from 'chai'
import { DataTypes } from 'sequelize'
import type { DataType, Model, ModelStatic, Sequelize, Transaction } from 'sequelize'
import {
  atomicUpdate,
  ConflictError,
  plus,
  set,
  StaleRowError,
  UnsupportedValueError,
  updateJson,
  updateWhere,
  withLock,
  withLocks,
  withNext,
} from 'sequelize-lossless'
import type { DatabaseName } from '../databases/index.js'
import { eachDatabase } from '../each-database.js'
import { outcomeOf } from '../rejection.js'

interface Keyed extends Model {
  readonly k: unknown
  doc: Record<string, unknown>
}

/** A key, and other spellings of it that name the same row on some databases. */
interface Spellings {
  readonly type: DataType
  readonly stored: unknown
  readonly others: readonly unknown[]
  /** The databases on which they do; by default all. */
  readonly on?: readonly DatabaseName[]
  /** Only the database knows that they do. */
  readonly isByCollation?: true
  /** Calls with them do not wait for each other: they are not made at the same time. */
  readonly isOneByOne?: true
}

const noon = new Date('2024-01-05T12:00:00.001Z')
const midnight = new Date('2024-01-05T00:00:00.000Z')

const table: Readonly<Record<string, Spellings>> = {
  INTEGER: { type: DataTypes.INTEGER, stored: 7, others: ['7', '07', '7.0', 7n] },
  BIGINT: { type: DataTypes.BIGINT, stored: 7, others: ['7', '07', 7n] },
  DECIMAL: { type: DataTypes.DECIMAL(10, 2), stored: '1.50', others: ['1.500', '01.5'] },
  DOUBLE: { type: DataTypes.DOUBLE, stored: 0.5, others: ['0.50'] },
  DATE: {
    type: DataTypes.DATE(3),
    stored: noon,
    others: [noon.toISOString(), '2024-01-05T13:00:00.001+01:00', noon.getTime()],
  },
  DATEONLY: { type: DataTypes.DATEONLY, stored: '2024-01-05', others: [new Date(2024, 0, 5), '2024-1-5'] },
  BOOLEAN: { type: DataTypes.BOOLEAN, stored: true, others: [1] },
  TIME: {
    type: DataTypes.TIME,
    stored: '09:00:00',
    others: ['9:00:00', '09:00'],
    on: ['mysql', 'mariadb', 'postgres'],
  },
  'DATE, as text': { type: DataTypes.DATE, stored: midnight, others: ['2024-01-05 00:00:00'], isByCollation: true },
  'DATE without milliseconds': {
    type: DataTypes.DATE,
    stored: new Date('2024-01-05T12:00:00.000Z'),
    others: [new Date('2024-01-05T12:00:00.400Z')],
    on: ['mysql'],
    isByCollation: true,
  },
  'TIME without a fraction': {
    type: DataTypes.TIME,
    stored: '10:00:00',
    others: ['10:00:00.4'],
    on: ['mysql'],
    isByCollation: true,
    isOneByOne: true,
  },
  'STRING(16, true)': {
    type: DataTypes.STRING(16, true),
    stored: Buffer.from('abc'),
    others: ['abc'],
    on: ['mysql', 'mariadb'],
  },
  'STRING of other characters': {
    type: DataTypes.STRING(20),
    stored: 'ab',
    others: ['a\u200bb', 'a\u0001b'],
    on: ['mysql'],
    isByCollation: true,
    isOneByOne: true,
  },
  'STRING with letters that have a bar': {
    type: DataTypes.STRING(20),
    stored: 'Søren',
    others: ['Soren', 'soren'],
    on: ['mysql'],
    isByCollation: true,
    isOneByOne: true,
  },
  UUID: {
    type: DataTypes.UUID,
    stored: '0b5a6ec9-7a0e-4c22-9d9e-21c8d0c1f001',
    others: ['0B5A6EC9-7A0E-4C22-9D9E-21C8D0C1F001'],
    on: ['postgres'],
    isByCollation: true,
  },
  STRING: {
    type: DataTypes.STRING(20),
    stored: 'Ab',
    others: ['AB', 'áb', 'ab'],
    on: ['mysql', 'mariadb'],
    isByCollation: true,
  },
}

eachDatabase('a locked row that another call names by another spelling of its key', (database) => {
  let sequelize: Sequelize

  before(() => {
    ;({ sequelize } = database.connect())
  })

  async function create(name: string, { type, stored }: Spellings): Promise<ModelStatic<Keyed>> {
    const attributes = { k: { type, primaryKey: true }, doc: DataTypes.JSON }
    const options = { tableName: `spelled_${name.toLowerCase()}`, timestamps: false, charset: 'utf8mb4' }
    const Keys = sequelize.define<Keyed>(`Spelled${name}`, attributes, options)
    await Keys.sync({ force: true })
    await Keys.create({ k: stored, doc: {} })
    return Keys
  }

  for (const [name, spellings] of Object.entries(table)) {
    if (!(spellings.on?.includes(database.name) ?? true)) continue
    for (const other of spellings.others) {
      for (const isConcurrent of spellings.isOneByOne ? [false] : [false, true]) {
        it(`${name} ${String(other)}${isConcurrent ? ', at the same time' : ''}: keeps both changes, or refuses the save`, async () => {
          const Keys = await create(name, spellings)
          const row = await Keys.findOne({ rejectOnEmpty: true })
          const call = withLock(row, async (locked, transaction) => {
            const operations = [set('inner', 1)] as never
            const written = updateJson([Keys, other as string], 'doc' as never, operations, { transaction })
            if (!isConcurrent) await written
            locked.doc = { ...locked.doc, outer: 1 }
            await Promise.all([written, locked.save()])
          })
          const outcome = await outcomeOf(call)
          const isRefused = outcome instanceof StaleRowError
          // At the same time, the save may be the first.
          if (!isConcurrent) expect(isRefused).to.equal(spellings.isByCollation === true)
          if (!isRefused) expect(outcome).to.equal('written')
          const { doc } = await Keys.findOne({ rejectOnEmpty: true })
          expect(doc).to.deep.equal(isRefused ? {} : { inner: 1, outer: 1 })
        })
      }
    }
  }
})

eachDatabase('two locked rows whose keys differ by case', (database) => {
  if (['mysql', 'mariadb'].includes(database.name)) return

  it('are saved, and written by their keys, without an effect on each other', async () => {
    const { sequelize } = database.connect()
    const attributes = { k: { type: DataTypes.STRING(20), primaryKey: true }, doc: DataTypes.JSON }
    const Keys = sequelize.define<Keyed>('Cased', attributes, { tableName: 'cased', timestamps: false })
    await Keys.sync({ force: true })
    await Keys.bulkCreate(['ab', 'AB', 'aB'].map((k) => ({ k, doc: {} })))
    const write = (k: string, transaction: Transaction): Promise<unknown> =>
      updateJson([Keys, k], 'doc' as never, [set(`by_key`, k)] as never, { transaction })
    await withLocks([[Keys, 'ab'] as never, [Keys, 'AB'] as never], async (rows, transaction) => {
      for (const row of rows as unknown as readonly Keyed[]) {
        await write('aB', transaction)
        await write('AB', transaction)
        row.doc['mine'] = row.k
        await row.save()
      }
    })
    const stored = Object.fromEntries((await Keys.findAll()).map(({ k, doc }) => [String(k), doc])) as unknown
    expect(stored).to.deep.equal({
      ab: { mine: 'ab' },
      AB: { by_key: 'AB', mine: 'AB' },
      aB: { by_key: 'aB' },
    })
  })
})

eachDatabase('a key that the driver reads as that of another row', (database) => {
  interface Timed extends Model {
    readonly g: number
    n: number
  }
  let sequelize: Sequelize
  let Times: ModelStatic<Timed>

  beforeEach(async () => {
    ;({ sequelize } = database.connect())
    const attributes = {
      k: { type: DataTypes.DATE(6), primaryKey: true },
      g: DataTypes.INTEGER,
      n: { type: DataTypes.INTEGER, defaultValue: 0 },
    }
    Times = sequelize.define<Timed>('Timed', attributes, { tableName: 'timed', timestamps: false })
    await Times.sync({ force: true })
    const zone = { mysql: '', mariadb: '', postgres: '+00', sqlite: ' +00:00' }[database.name]
    for (const [g, fraction] of [
      [1, '123456'],
      [2, '123'],
    ]) {
      await sequelize.query(`INSERT INTO timed (k, g, n) VALUES ('2024-01-01 00:00:00.${fraction}${zone}', ${g}, 0)`)
    }
  })

  it('is not written by updateWhere, whose conditions it does not meet', async () => {
    const outcome = await outcomeOf(updateWhere(Times, { g: 1 } as never, { n: plus(1) } as never))
    // Some drivers and databases keep enough digits to find the row.
    if (outcome !== 'written') expect(outcome).to.be.instanceOf(ConflictError)
    const written = (await Times.findAll({ order: ['g'] })).map(({ n }) => n)
    expect(written).to.deep.equal([Number(outcome === 'written'), 0])
  })

  it('is not written by increment() of a locked row, which MySQL would send with the key of another row', async () => {
    const [before, after] = [new Date('2024-01-02T00:00:00Z'), new Date('2024-01-02T00:00:00.001Z')]
    await Times.bulkCreate([before, after].map((k) => ({ k, g: 3 })))
    const add = (row: Timed): Promise<unknown> => row.increment('n', { by: 7 })
    const outcome = await outcomeOf(withLock([Times, after], add))
    if (outcome !== 'written') {
      expect(outcome).to.be.instanceOf(UnsupportedValueError)
      expect(outcome).to.have.property('message').that.includes('Write await atomicUpdate(row, { n: plus(7) }).')
      await withLock([Times, after], (row) => atomicUpdate(row, { n: plus(7) }))
    }
    const written = await Times.findAll({ where: { g: 3 }, order: ['k'] })
    expect(written.map(({ n }) => n)).to.deep.equal([0, 7])
  })

  it('is not locked by withNext, which rejects', async () => {
    const outcome = await outcomeOf(withNext(Times, { where: { g: 1 } as never }, (row) => row.update({ n: 1 })))
    const written = (await Times.findAll({ order: ['g'] })).map(({ n }) => n)
    expect(written).to.deep.equal([Number(outcome === 'written'), 0])
  })
})
