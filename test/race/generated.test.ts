import { randomUUID } from 'node:crypto'
import { expect } from 'chai'
import { DataTypes, QueryTypes } from 'sequelize'
import type { Model, ModelStatic, Sequelize } from 'sequelize'
import { assertNoLostUpdate, explore } from 'every-order'
import type { Result } from 'every-order'
import { eachServer } from '../each-database.js'

type Row = Model & Record<string, unknown>

eachServer('explore() compares rows with generated keys', (database) => {
  let sequelize: Sequelize

  before(() => {
    ;({ sequelize } = database.connect())
  })

  const keys = {
    'an autoIncrement key': { type: DataTypes.INTEGER, autoIncrement: true, primaryKey: true },
    'a UUID': { type: DataTypes.UUID, defaultValue: DataTypes.UUIDV4, primaryKey: true },
  }

  for (const [title, id] of Object.entries(keys)) {
    describe(title, () => {
      let Product: ModelStatic<Row>
      let Order: ModelStatic<Row>
      let Item: ModelStatic<Row>

      before(async () => {
        const options = { timestamps: false }
        const prefix = title.replace(/\W/g, '')
        Product = sequelize.define<Row>(`${prefix}Product`, { stock: DataTypes.INTEGER }, options)
        Order = sequelize.define<Row>(`${prefix}Order`, { id, customer: DataTypes.STRING }, options)
        Item = sequelize.define<Row>(`${prefix}Item`, { id, label: DataTypes.STRING }, options)
        Order.hasMany(Item, { foreignKey: 'orderId' })
        Item.belongsTo(Order, { foreignKey: 'orderId' })
        await Item.drop()
        for (const each of [Product, Order, Item]) await each.sync({ force: true })
      })

      const checkout = (take: (product: number) => Promise<unknown>): Promise<Result> => {
        const buy = async (product: number, customer: string): Promise<void> => {
          await take(product)
          const order = await Order.create({ customer })
          await Item.create({ orderId: order['id'], label: customer })
        }
        return explore({
          sequelize,
          setup: async () => (await Product.create({ stock: 5 }))['id'] as number,
          participants: { A: (product: number) => buy(product, 'a'), B: (product: number) => buy(product, 'b') },
        })
      }

      it('an order with its items that takes from the stock by one statement: kept', async () => {
        assertNoLostUpdate(await checkout((product) => Product.decrement('stock', { where: { id: product } })))
      })

      it('the same with a stock that is read and written back: lost', async () => {
        const { verdict, reasons } = await checkout(async (product) => {
          const row = await Product.findByPk(product, { rejectOnEmpty: true })
          await row.update({ stock: (row['stock'] as number) - 1 })
        })
        expect([verdict, reasons]).to.deep.equal(['lost', []])
      })

      it('an order that setup inserts again, and that two participants change', async () => {
        const setup = async (): Promise<unknown> => (await Order.create({ customer: 'a' }))['id']
        const rename = async (id: unknown): Promise<void> => {
          await Order.update({ customer: sequelize.literal("'b'") }, { where: { id: id as number } })
        }
        assertNoLostUpdate(await explore({ sequelize, setup, participants: { A: rename, B: rename } }))
      })

      it('items of an order that setup inserts again: compared by the order that they belong to', async () => {
        const setup = async (): Promise<unknown> => (await Order.create({ customer: 'ada' }))['id']
        const add = async (orderId: unknown, label: string): Promise<void> =>
          void (await Item.create({ orderId, label }))
        const addFirst = async (orderId: unknown, label: string): Promise<void> => {
          if ((await Item.count({ where: { orderId } as never })) === 0) await add(orderId, label)
        }
        const race = (fn: typeof add): Promise<Result> =>
          explore({ sequelize, setup, participants: { A: (order) => fn(order, 'a'), B: (order) => fn(order, 'b') } })
        const [free, limited] = [await race(add), await race(addFirst)]
        expect([free.outcomes, limited.verdict, limited.reasons]).to.deep.equal([
          { 'A ok, B ok: kept': free.schedules },
          'lost',
          [],
        ])
        expect((limited.first!.error as Error).message).to.match(
          /"orderId":("‹\w+ -1›"|{"‹\w+›":{"id":"‹uuid›","customer":"ada"}})/,
        )
      })
    })
  }

  it('tables without a model: with a UUID and no key, and with a key that the database generates', async () => {
    // SQLite has no catalog that is read, so a generated key would be a value as any other.
    const hasCatalog = database.name !== 'sqlite'
    const text = database.dialect === 'postgres' ? 'text' : 'varchar(36)'
    const key = database.dialect === 'postgres' ? 'serial primary key' : 'int auto_increment primary key'
    const creations = {
      generated_lines: `uid ${text}, label ${text}`,
      ...(hasCatalog && { generated_entries: `id ${key}, label ${text}` }),
    }
    for (const [table, columns] of Object.entries(creations)) {
      await sequelize.query(`DROP TABLE IF EXISTS ${table}`)
      await sequelize.query(`CREATE TABLE ${table} (${columns})`)
    }
    const line = (label: string): Promise<unknown> =>
      sequelize.query(`INSERT INTO generated_lines VALUES ('${randomUUID()}', '${label}')`)
    const setup = async (): Promise<void> => {
      await sequelize.query('DELETE FROM generated_lines')
      for (const label of ['one', 'two', 'three']) await line(label)
    }
    const add = async (label: string): Promise<void> => {
      const rows = await sequelize.query('SELECT label FROM generated_lines', { type: QueryTypes.SELECT })
      await line(`${label} of ${rows.length > 0}`)
      if (hasCatalog) await sequelize.query(`INSERT INTO generated_entries (label) VALUES ('${label}')`)
    }
    const participants = { A: () => add('a'), B: () => add('b') }
    const { verdict, reasons } = await explore({ sequelize, setup, participants })
    expect([verdict, reasons]).to.deep.equal(['kept', []])
  })
})
