import { createPool } from 'mysql2/promise'
import type { ResultSetHeader, RowDataPacket } from 'mysql2/promise'
import { Pool } from 'pg'
import { DataTypes, Transaction } from 'sequelize'
import type { Model, ModelStatic, Sequelize } from 'sequelize'
import type { DatabaseName } from '../databases/index.js'

/** A row of any of the tables. */
export interface Row extends Model {
  readonly id: number
  readonly balance: number
  readonly status: string
  readonly paidAt: Date | null
  readonly leasedUntil: Date
  readonly lastInvoice: number
  readonly name: string
  readonly capacity: number
  readonly stock: number
  readonly total: number
  readonly price: number
  readonly comments: number
  readonly text: string
  readonly version: number
  readonly postId: number
  readonly orderId: number
  readonly values: Record<string, unknown>
  readonly Items: readonly Row[]
  addTag(tag: Row | null): Promise<unknown>
  setTags(tags: readonly (Row | null)[], options?: object): Promise<unknown>
}

/** A row as a driver returns it. */
interface Plain {
  readonly id: number
  readonly balance: number
  readonly name: string
}

/** Sends one statement, with `?` for its values; resolves to its rows, and to the number of rows that it changed. */
export type Send = (sql: string, values?: readonly unknown[]) => Promise<{ rows: Plain[]; count: number }>

/** A bare driver: mysql2 or pg. */
interface Bare {
  readonly pool: object
  readonly send: Send
  transaction<R>(fn: (send: Send) => Promise<R>, begin?: string): Promise<R>
  close(): Promise<void>
}

/** An application: its models, and a bare pool of the same database. */
export interface App {
  readonly database: DatabaseName
  readonly sequelize: Sequelize
  readonly bare: Bare
  readonly models: Models
  transaction<R>(fn: (transaction: Transaction) => Promise<R>, isolationLevel?: IsolationLevel): Promise<R>
}

type IsolationLevel = keyof typeof Transaction.ISOLATION_LEVELS

type Models = Record<
  | 'Account'
  | 'Booking'
  | 'Comment'
  | 'Document'
  | 'Event'
  | 'Invoice'
  | 'Item'
  | 'Job'
  | 'Line'
  | 'Order'
  | 'Post'
  | 'Product'
  | 'Reply'
  | 'Setting'
  | 'Tag'
  | 'Team'
  | 'Ticket'
  | 'User',
  ModelStatic<Row>
>

const { DATE, INTEGER, JSON: DOCUMENT, STRING, UUID, UUIDV4 } = DataTypes
// Sequelize changes the objects.
const number = () => ({ type: INTEGER, allowNull: false, defaultValue: 0 })
const status = () => ({ type: STRING, allowNull: false, defaultValue: 'new' })

function defineModels(sequelize: Sequelize): Models {
  const plain = { timestamps: false }
  const table = (tableName: string): object => ({ ...plain, tableName: `app_${tableName}` })
  const Account = sequelize.define<Row>(
    'Account',
    { balance: number(), status: status(), paidAt: DATE },
    table('accounts'),
  )
  const Document = sequelize.define<Row>(
    'Document',
    { text: { type: STRING, defaultValue: '' } },
    { tableName: 'app_documents', paranoid: true, version: true },
  )
  const Setting = sequelize.define<Row>('Setting', { values: DOCUMENT }, { tableName: 'app_settings' })
  const Job = sequelize.define<Row>(
    'Job',
    { name: STRING, status: status(), worker: STRING, leasedUntil: DATE },
    table('jobs'),
  )
  const Team = sequelize.define<Row>('Team', { name: STRING, lastInvoice: number() }, table('teams'))
  const User = sequelize.define<Row>(
    'User',
    { name: STRING, email: STRING, onCall: number() },
    {
      ...table('users'),
      indexes: [{ unique: true, fields: ['teamId', 'email'] }],
    },
  )
  const Invoice = sequelize.define<Row>('Invoice', { number: number() }, table('invoices'))
  const Event = sequelize.define<Row>('Event', { capacity: number() }, table('events'))
  const Booking = sequelize.define<Row>(
    'Booking',
    { guest: STRING, from: number(), until: number() },
    table('bookings'),
  )
  const key = { type: UUID, defaultValue: UUIDV4, primaryKey: true }
  const Ticket = sequelize.define<Row>(
    'Ticket',
    { id: key, seat: INTEGER, guest: STRING },
    {
      ...table('tickets'),
      indexes: [{ unique: true, fields: ['eventId', 'seat'] }],
    },
  )
  const Product = sequelize.define<Row>('Product', { stock: number(), status: status() }, table('products'))
  const Order = sequelize.define<Row>('Order', { customer: STRING, total: number(), status: status() }, table('orders'))
  const Item = sequelize.define<Row>('Item', { price: number() }, { tableName: 'app_items' })
  const Post = sequelize.define<Row>('Post', { title: STRING, comments: number(), views: number() }, table('posts'))
  const Comment = sequelize.define<Row>(
    'Comment',
    { text: STRING },
    {
      tableName: 'app_comments',
      hooks: {
        async afterCreate({ postId }) {
          const row = await Post.findByPk(postId, { rejectOnEmpty: true })
          await row.update({ comments: row.comments + 1 })
        },
      },
    },
  )
  const Reply = sequelize.define<Row>(
    'Reply',
    { text: STRING },
    {
      tableName: 'app_replies',
      hooks: {
        async afterCreate({ postId }, { transaction }) {
          await Post.increment({ comments: 1 }, { where: { id: postId }, transaction: transaction! })
        },
      },
    },
  )
  const Line = sequelize.define<Row>(
    'Line',
    { price: number() },
    {
      tableName: 'app_lines',
      hooks: {
        async afterCreate({ orderId }) {
          const total = await Line.sum('price', { where: { orderId } })
          await Order.update({ total }, { where: { id: orderId } })
        },
      },
    },
  )
  const Tag = sequelize.define<Row>('Tag', { name: STRING }, table('tags'))
  const models = { Account, Booking, Comment, Document, Event, Invoice, Item, Job, Order, Post, Product, Setting, Tag }
  for (const each of [User, Invoice]) each.belongsTo(Team, { foreignKey: 'teamId' })
  for (const each of [Booking, Ticket]) each.belongsTo(Event, { foreignKey: 'eventId' })
  Item.belongsTo(Order, { foreignKey: 'orderId' })
  Order.hasMany(Item, { foreignKey: 'orderId' })
  Order.belongsTo(Product, { foreignKey: 'productId' })
  for (const each of [Comment, Reply]) each.belongsTo(Post, { foreignKey: 'postId' })
  Line.belongsTo(Order, { foreignKey: 'orderId' })
  Post.belongsToMany(Tag, { through: 'app_post_tags', timestamps: false })
  Tag.belongsToMany(Post, { through: 'app_post_tags', timestamps: false })
  return { ...models, Line, Reply, Team, Ticket, User }
}

/** Creates the tables of the application. */
export async function createApp(database: DatabaseName, sequelize: Sequelize, url: string): Promise<App> {
  const models = defineModels(sequelize)
  await sequelize.sync({ force: true })
  return {
    database,
    sequelize,
    models,
    bare: bareOf(database, url),
    transaction: (fn, isolationLevel) =>
      sequelize.transaction(isolationLevel ? { isolationLevel: Transaction.ISOLATION_LEVELS[isolationLevel] } : {}, fn),
  }
}

/** Empties the tables: explorations read whole tables. */
export async function empty({ sequelize, models }: App): Promise<void> {
  const { Booking, Comment, Invoice, Item, Line, Order, Reply, Ticket, User, ...parents } = models
  await sequelize.models['app_post_tags']!.destroy({ where: {} })
  const children = [Booking, Comment, Invoice, Item, Line, Reply, Order, Ticket, User]
  for (const each of [...children, ...Object.values(parents)]) await each.destroy({ where: {}, force: true })
}

function bareOf(database: DatabaseName, url: string): Bare {
  if (database === 'postgres') {
    const pool = new Pool({ connectionString: url, max: 6 })
    const through =
      (client: Pick<Pool, 'query'>): Send =>
      async (sql, values = []) => {
        let mark = 0
        const { rows, rowCount } = await client.query<Plain>(
          sql.replace(/\?/g, () => `$${++mark}`),
          [...values],
        )
        return { rows, count: rowCount ?? 0 }
      }
    const connect = async (): Promise<[Send, () => void]> => {
      const client = await pool.connect()
      return [through(client), () => client.release()]
    }
    return { pool, send: through(pool), transaction: transactions(connect), close: () => pool.end() }
  }
  const pool = createPool({ uri: url.replace(/^\w+:/, 'mysql:'), connectionLimit: 6 })
  const through =
    (connection: Pick<typeof pool, 'query'>): Send =>
    async (sql, values = []) => {
      const [answer] = await connection.query<(Plain & RowDataPacket)[] | ResultSetHeader>(sql, [...values])
      return Array.isArray(answer) ? { rows: answer, count: 0 } : { rows: [], count: answer.affectedRows }
    }
  const connect = async (): Promise<[Send, () => void]> => {
    const connection = await pool.getConnection()
    return [through(connection), () => connection.release()]
  }
  return { pool, send: through(pool), transaction: transactions(connect), close: () => pool.end() }
}

function transactions(connect: () => Promise<[send: Send, release: () => void]>): Bare['transaction'] {
  return async (fn, begin = 'BEGIN') => {
    const [send, release] = await connect()
    try {
      await send(begin)
      const result = await fn(send)
      await send('COMMIT')
      return result
    } catch (error) {
      await send('ROLLBACK')
      throw error
    } finally {
      release()
    }
  }
}
