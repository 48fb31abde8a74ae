import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import {
  append,
  assign,
  ElementNotFoundError,
  increment,
  lossless,
  matching,
  pull,
  replaceOrAppend,
  updateJson,
} from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
import { connect } from '../connect.js'

interface Item {
  id: number
  name: string
  count: number
  isGift?: boolean
}

class Cart extends Model<InferAttributes<Cart>, InferCreationAttributes<Cart>> {
  declare id: CreationOptional<number>
  declare items: Item[] | null
}
interface Cart extends Lossless<Cart> {}

async function main(): Promise<void> {
  const sequelize = connect()
  Cart.init(
    { id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true }, items: DataTypes.JSON },
    { sequelize },
  )
  lossless(Cart)
  await Cart.sync({ force: true })
  const { id } = await Cart.create({ items: null })

  // The document is the list. It is still NULL, which counts as an empty one.
  await Promise.all(
    ['tea', 'jam', 'rye'].map((name, index) =>
      updateJson([Cart, id], 'items', [append([], { id: index + 1, name, count: 0 })]),
    ),
  )

  // 30 requests at once, 10 for each item.
  await Promise.all(
    Array.from({ length: 30 }, (_, request) =>
      updateJson([Cart, id], 'items', [increment([matching({ id: (request % 3) + 1 }), 'count'])]),
    ),
  )
  const cart = await Cart.findByPk(id, { rejectOnEmpty: true })
  await cart.updateJson('items', [assign([matching({ name: 'tea' })], { count: 2, isGift: true })])
  await cart.updateJson('items', [pull([], matching({ name: 'jam' }))])
  await cart.updateJson('items', [replaceOrAppend([], 'id', { id: 4, name: 'oil', count: 1 })], { returning: true })
  for (const { name, count, isGift = false } of cart.items!.toSorted((one, other) =>
    one.name < other.name ? -1 : 1,
  )) {
    console.log(`${name}: ${count}${isGift ? ', a gift' : ''}`)
  }

  const late = cart.updateJson('items', [increment([matching({ name: 'jam' }), 'count'])])
  const outcome = await late.catch((error: unknown) => error)
  if (outcome instanceof ElementNotFoundError) console.log(`jam: ${outcome.code}`)
  await sequelize.close()
}

void main()
