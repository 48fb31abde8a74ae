type Pattern = readonly [title: string, code: string, errors?: number]

/** What public applications on Sequelize do, rebuilt: what must be silent, and what loses updates. */
export const applications: Readonly<
  Record<string, { readonly valid: readonly Pattern[]; readonly invalid: readonly Pattern[] }>
> = {
  'a knowledge base (sequelize-typescript, transactions in the request)': {
    valid: [
      [
        'a setter of one preference, which its caller saves',
        `import { Model } from 'sequelize-typescript'
        class Team extends Model {
          declare preferences: Record<string, unknown> | null
          public setPreference = (name: string, value: unknown) => {
            if (!this.preferences) {
              this.preferences = {}
            }
            this.preferences = { ...this.preferences, [name]: value }
            return this.preferences
          }
        }`,
      ],
      [
        'a row that is read with a lock, in the transaction of the request',
        `import { User } from './models'
        router.post('users.update', async (ctx) => {
          const { transaction } = ctx.state
          const user = await User.findByPk(ctx.input.id, { rejectOnEmpty: true, transaction, lock: transaction.LOCK.UPDATE })
          for (const [key, value] of Object.entries(ctx.input.preferences)) {
            user.preferences = { ...user.preferences, [key]: value }
          }
          await user.save({ transaction })
        })`,
      ],
      [
        'a row that is locked by a second read, after the request was checked',
        `import { Document } from './models'
        export default async function update(ctx, document) {
          const { transaction } = ctx.state
          document.preferences = { ...document.preferences, ...ctx.input.preferences }
          if (transaction) {
            await Document.unscoped().findOne({ where: { id: document.id }, transaction, lock: transaction.LOCK.UPDATE })
          }
          document.changed('preferences', true)
          return document.save({ transaction })
        }`,
      ],
      [
        'a reload that locks',
        `import { sequelize } from './storage'
        export async function cacheSources(id) {
          const integration = await Integration.findByPk(id)
          await sequelize.transaction(async (transaction) => {
            await integration.reload({ transaction, lock: transaction.LOCK.UPDATE })
            integration.sources = [...integration.sources.filter((source) => source.isMine), { id }]
            integration.changed('sources', true)
            await integration.save({ transaction })
          })
        }`,
      ],
      [
        'a hook that changes the row that is about to be saved',
        `import { BeforeSave, Model } from 'sequelize-typescript'
        class Document extends Model {
          declare collaborators: string[]
          @BeforeSave
          static collect(model: Document) {
            model.collaborators = [...new Set([...model.collaborators, 'me'])]
          }
        }`,
      ],
      [
        'state and answers of a web framework, which look like rows',
        `import { Event } from './models'
        router.post('events.list', async (ctx) => {
          const events = await Event.findAll({ where: {} })
          ctx.body = { ...ctx.body, pagination: { ...ctx.state.pagination, total: events.length } }
          ctx.state = { ...ctx.state, done: true }
          await ctx.cache.update({ data: { ...ctx.data, done: true } })
        })`,
      ],
      [
        'a bulk update of scalars',
        `import { Op } from 'sequelize'
        export async function archive(ids: string[], user) {
          const now = new Date()
          await Document.update({ archivedAt: now, lastModifiedById: user.id }, { where: { id: { [Op.in]: ids } } })
          const documents = await Document.findAll({ where: { id: ids } })
          await Promise.all(documents.map((document) => document.update({ title: document.title.trim() })))
        }`,
      ],
    ],
    invalid: [
      [
        'a task that fetches, changes in place and saves',
        `import { Integration } from './models'
        export async function perform(props) {
          const integration = await Integration.scope('withAuthentication').findByPk(props.id)
          const logo = await download(props.url)
          switch (integration.service) {
            case 'linear':
              integration.settings.linear!.workspace.logoUrl = logo.url
              break
            case 'figma':
              integration.settings.figma!.account.avatarUrl = logo.url
              break
          }
          integration.changed('settings', true)
          await integration.save()
        }`,
      ],
    ],
  },
  'a fundraising platform (models by name, documents called data)': {
    valid: [
      [
        'a finder of its own that is asked to lock',
        `import models, { sequelize } from './models'
        export const resolve = (_, args) => sequelize.transaction(async (dbTransaction) => {
          const account = await fetchAccount(args.account, { dbTransaction, lock: true, throwIfMissing: true })
          const settings = account.settings ? cloneDeep(account.settings) : {}
          set(settings, args.key, args.value)
          const updateFees = async (account) =>
            account.update({ data: { ...account.data, fee: args.fee } }, { transaction: dbTransaction })
          await updateFees(account)
          return account.update({ settings }, { transaction: dbTransaction })
        })`,
      ],
      [
        'findByPk with lock: true',
        `import { Expense, sequelize } from './models'
        export const lockExpense = (id) => sequelize.transaction(async (transaction) => {
          const expense = await Expense.findByPk(id, { lock: true, transaction })
          if (expense.data?.isLocked) throw new Error('busy')
          return expense.update({ data: { ...expense.data, isLocked: true } }, { transaction })
        })`,
      ],
      [
        'an association that is put back in memory',
        `import models from './models'
        export async function confirm(id) {
          const order = await models.Order.findByPk(id, { include: [{ model: models.Subscription }] })
          order.Subscription = Object.assign(order.Subscription, nextDates(order))
          order.Subscription.chargeNumber += 1
          await order.Subscription.save()
          await order.save()
        }`,
      ],
      [
        'the document of one row, copied into a new one of another table',
        `import models from './models'
        export async function duplicate(id) {
          const order = await models.Order.findByPk(id)
          await models.Activity.create({ type: 'paid', data: { ...order.data, order: order.info } })
          await models.Transaction.update({ data: { ...order.data } }, { where: { OrderId: order.id } })
          const expense = await models.Expense.findByPk(1)
          await expense.update({ status: 'PAID', data: { orderId: order.id } })
        }`,
      ],
      [
        'defaults for a row that is made here',
        `import models, { sequelize } from './models'
        export async function create(args) {
          const collective = models.Collective.build({ settings: { ...defaults, ...args.settings } })
          collective.data = { ...collective.data, ...args.data }
          await collective.save()
          return sequelize.transaction(async (transaction) => {
            const project = await models.Collective.create({ settings: { ...defaults } }, { transaction })
            await project.update({ data: { ...project.data, isNew: true } }, { transaction })
          })
        }`,
      ],
    ],
    invalid: [
      [
        'a spread under update, after a call of the network',
        `import models from './models'
        export async function charge(id) {
          const order = await models.Order.findOne({ where: { id } })
          const stripePaymentIntent = await stripe.retrieve(order.data.id)
          await order.update({ data: { ...order.data, stripePaymentIntent } })
          order.set('data', { ...order.data, tax: 1 })
          order.data = omit(order.data, ['error'])
          await order.save()
        }`,
        2,
      ],
      [
        'Object.assign under map',
        `import { ExportRequest } from './models'
        export async function retryAll() {
          const requests = await ExportRequest.findAll({ where: { status: 'FAILED' } })
          await Promise.all(requests.map(async (request) =>
            request.update({ data: Object.assign({}, request.data, { retryCount: (request.data?.retryCount || 0) + 1 }) }),
          ))
        }`,
      ],
      [
        'a bulk update by the row’s own id',
        `import models from './models'
        export async function merge(from, into, transaction) {
          const data = { ...(from.data || {}), mergedInto: into.id }
          await models.Collective.update({ deletedAt: new Date(), data }, { where: { id: from.id } })
        }`,
      ],
    ],
  },
  'a media server (JavaScript, rows in the request, changes in place)': {
    valid: [
      [
        'an association that is kept in step with the table',
        `class LibraryItemController {
          async removeFile(req, res) {
            const episode = req.libraryItem.media.podcastEpisodes.find((each) => each.ino === req.params.ino)
            await episode.destroy()
            req.libraryItem.media.podcastEpisodes = req.libraryItem.media.podcastEpisodes.filter((each) => each !== episode)
            if (req.libraryItem.media.changed('coverPath')) await req.libraryItem.media.save()
            res.sendStatus(200)
          }
        }`,
      ],
      [
        'a scalar that is marked, so that the update is forced',
        `async function updateCover(req) {
          req.item.media.coverPath = await download(req.body.url)
          req.item.media.changed('coverPath', true)
          await req.item.media.save()
          req.item.changed('updatedAt', true)
          await req.item.save()
        }`,
      ],
      [
        'a document that is replaced by what the request says',
        `async function updateChapters(req) {
          const chapters = []
          for (const chapter of req.body.chapters) chapters.push({ ...chapter })
          req.item.media.chapters = chapters
          req.item.media.changed('chapters', true)
          await req.item.media.save()
        }`,
      ],
      [
        'plain objects with a save of their own',
        `class Task {
          constructor() { this.data = {} }
          async finish(settings) {
            this.data = { ...this.data, done: true }
            await this.save()
            settings.values = { ...settings.values, done: true }
            await settings.save()
          }
        }`,
      ],
    ],
    invalid: [
      [
        'methods of the model that change in place',
        `const { DataTypes, Model } = require('sequelize')
        class User extends Model {
          async addBookmark(bookmark) {
            this.bookmarks.push(bookmark)
            this.changed('bookmarks', true)
            await this.save()
          }
          async removeBookmark(time) {
            this.bookmarks = this.bookmarks.filter((bookmark) => bookmark.time !== time)
            this.changed('bookmarks', true)
            await this.save()
          }
          async hideSeries(id) {
            if (!this.extraData) this.extraData = {}
            const hidden = this.extraData.hidden || []
            hidden.push(id)
            this.extraData.hidden = hidden
            this.changed('extraData', true)
            await this.save()
          }
        }`,
        3,
      ],
      [
        'a row of the request',
        `async function unlink(req, res) {
          req.reqUser.extraData.openId = null
          req.reqUser.changed('extraData', true)
          await req.reqUser.save()
          res.sendStatus(200)
        }`,
      ],
    ],
  },
}
