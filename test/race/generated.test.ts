import { expect } from 'chai'
import { DataTypes } from 'sequelize'
import type { Model, ModelStatic, Sequelize } from 'sequelize'
import { assertNoLostUpdate, explore } from 'every-order'
import type { Result } from 'every-order'
import { eachDatabase } from '../each-database.js'

type Row = Model & Record<string, unknown>

eachDatabase('explore() compares rows with generated keys', (database) => {
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
          preemptions: 1,
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
    })
  }
})
