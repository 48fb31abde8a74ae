import { col, fn, literal, Op, OptimisticLockError, UniqueConstraintError } from 'sequelize'
import type { Transaction } from 'sequelize'
import { mergeJsonKey, retryTransaction } from 'sequelize-lossless'
import type { AnomalyName, ExploreOptions } from 'every-order'
import type { App, Row, Send } from './app.js'

/** What an exploration of a program finds: the anomaly of the order with the fewest switches; or nothing. */
type Expected = AnomalyName | 'kept'

/** A program as applications have it. */
export interface Application {
  readonly expected: Expected
  readonly race: (app: App) => Partial<ExploreOptions<never>> & Pick<ExploreOptions<never>, 'setup' | 'participants'>
}

type Race<C> = Partial<ExploreOptions<C>> & Pick<ExploreOptions<C>, 'setup' | 'participants'>

function bad<C>(expected: AnomalyName, race: (app: App) => Race<C>): Application {
  return { expected, race: race as never }
}

function good<C>(race: (app: App) => Race<C>): Application {
  return { expected: 'kept', race: race as never }
}

/** Two participants, or three, that run the same flow. */
function each<C>(
  setup: () => Promise<C>,
  flow: (context: C, key: string, index: number) => unknown,
  names: readonly string[] = ['A', 'B'],
): Race<C> {
  const participants = names.map((name, index) => {
    return [name, (context: C) => flow(context, name.toLowerCase(), index)] as const
  })
  return { setup, participants: Object.fromEntries(participants) }
}

/** Participants that run different flows. */
function unlike<C>(
  setup: () => Promise<C>,
  participants: Readonly<Record<string, (context: C) => unknown>>,
  options: Partial<Race<C>> = {},
): Race<C> {
  return { setup, participants, ...options }
}

const three = ['A', 'B', 'C']

async function id(row: Promise<Row>): Promise<number> {
  return (await row).id
}

const required = { rejectOnEmpty: true } as const

/* Accounts */

const account =
  ({ models }: App) =>
  () =>
    id(models.Account.create({ balance: 100 }))
const pair = (app: App) => async () => [await account(app)(), await account(app)()] as const
type Pair = readonly [first: number, second: number]

function locked(app: App, where: number, transaction: Transaction): Promise<Row> {
  return app.models.Account.findByPk(where, { ...required, transaction, lock: true })
}

const money: Record<string, Application> = {
  'a deposit that is read and written back': bad('lost update', (app) =>
    each(account(app), async (own, _key, index) => {
      const row = await app.models.Account.findByPk(own, required)
      await row.update({ balance: row.balance + 10 * (index + 1) })
    }),
  ),
  'a deposit by save() in a transaction': bad('lost update', (app) =>
    each(account(app), (own, _key, index) =>
      app.transaction(async (transaction) => {
        const row = await app.models.Account.findByPk(own, { ...required, transaction })
        row.set({ balance: row.balance + 10 * (index + 1) })
        await row.save({ transaction })
      }),
    ),
  ),
  'three deposits that are read and written back': bad('lost update', (app) => ({
    ...each(
      account(app),
      async (own, _key, index) => {
        const row = await app.models.Account.findByPk(own, required)
        await row.update({ balance: row.balance + 10 ** index })
      },
      three,
    ),
    preemptions: 1,
  })),
  'a deposit by increment()': good((app) =>
    each(account(app), (own, _key, index) =>
      app.models.Account.increment({ balance: 10 * (index + 1) }, { where: { id: own } }).then(() => undefined),
    ),
  ),
  'three deposits by increment()': good((app) =>
    each(
      account(app),
      (own, _key, index) =>
        app.models.Account.increment({ balance: 10 ** index }, { where: { id: own } }).then(() => undefined),
      three,
    ),
  ),
  'a transfer without locks': bad('lost update', (app) =>
    each(pair(app), ([from, to], _key, index) =>
      app.transaction(async (transaction) => {
        const source = await app.models.Account.findByPk(from, { ...required, transaction })
        const target = await app.models.Account.findByPk(to, { ...required, transaction })
        await source.update({ balance: source.balance - 10 - index }, { transaction })
        await target.update({ balance: target.balance + 10 + index }, { transaction })
      }),
    ),
  ),
  'a transfer with locking reads': good((app) =>
    each(pair(app), (ids, _key, index) =>
      app.transaction(async (transaction) => {
        const [source, target] = [await locked(app, ids[0], transaction), await locked(app, ids[1], transaction)]
        await source.update({ balance: source.balance - 10 - index }, { transaction })
        await target.update({ balance: target.balance + 10 + index }, { transaction })
      }),
    ),
  ),
  'a transfer and its reverse, which deadlock': bad('deadlock', (app) => ({
    ...each(pair(app), (ids, _key, index) =>
      app.transaction(async (transaction) => {
        for (const one of index === 0 ? ids : ids.toReversed())
          await app.models.Account.increment({ balance: 1 }, { where: { id: one }, transaction })
      }),
    ),
    failures: 'forbid',
  })),
  'a transfer and its reverse, which lock in the order of their ids': good((app) => ({
    ...each(pair(app), (ids, _key, index) =>
      app.transaction(async (transaction) => {
        for (const one of ids) await locked(app, one, transaction)
        const [from, to] = index === 0 ? ids : (ids.toReversed() as unknown as Pair)
        await app.models.Account.decrement({ balance: 10 }, { where: { id: from }, transaction })
        await app.models.Account.increment({ balance: 10 }, { where: { id: to }, transaction })
      }),
    ),
    failures: 'forbid',
  })),
  'a withdrawal that checks the balance before': bad('check-then-act', (app) =>
    each(account(app), async (own) => {
      const { balance } = await app.models.Account.findByPk(own, required)
      if (balance < 60) return 'declined'
      await app.models.Account.decrement({ balance: 60 }, { where: { id: own } })
      return 'paid'
    }),
  ),
  'a withdrawal with the balance in its WHERE': good((app) =>
    each(account(app), async (own) => {
      const enough = { id: own, balance: { [Op.gte]: 60 } }
      const [count] = await app.models.Account.update({ balance: literal('balance - 60') }, { where: enough })
      return count === 1 ? 'paid' : 'declined'
    }),
  ),
  'a withdrawal under a lock': good((app) =>
    each(account(app), (own) =>
      app.transaction(async (transaction) => {
        const row = await locked(app, own, transaction)
        if (row.balance < 60) return 'declined'
        await row.decrement({ balance: 60 }, { transaction })
        return 'paid'
      }),
    ),
  ),
  'two accounts whose sum is not to be negative': bad('write skew', (app) =>
    each(pair(app), (ids, _key, index) =>
      app.transaction(async (transaction) => {
        const rows = await app.models.Account.findAll({ where: { id: [...ids] }, transaction })
        const sum = rows.reduce((total, row) => total + row.balance, 0)
        if (sum < 150) return 'declined'
        await app.models.Account.decrement({ balance: 150 }, { where: { id: ids[index]! }, transaction })
        return 'paid'
      }),
    ),
  ),
  'two accounts whose sum is not to be negative, locked together': good((app) =>
    each(pair(app), (ids, _key, index) =>
      app.transaction(async (transaction) => {
        const options = { where: { id: [...ids] }, transaction, lock: true }
        const rows = await app.models.Account.findAll({ ...options, order: ['id'] })
        const sum = rows.reduce((total, row) => total + row.balance, 0)
        if (sum < 150) return 'declined'
        await app.models.Account.decrement({ balance: 150 }, { where: { id: ids[index]! }, transaction })
        return 'paid'
      }),
    ),
  ),
  'two accounts under SERIALIZABLE, and again on conflict': good((app) =>
    each(pair(app), (ids, _key, index) =>
      retryTransaction(
        app.sequelize,
        async (transaction) => {
          const rows = await app.models.Account.findAll({ where: { id: [...ids] }, transaction })
          const sum = rows.reduce((total, row) => total + row.balance, 0)
          if (sum < 150) return 'declined'
          await app.models.Account.decrement({ balance: 150 }, { where: { id: ids[index]! }, transaction })
          return 'paid'
        },
        { isolationLevel: 'SERIALIZABLE' as never },
      ),
    ),
  ),
  'SERIALIZABLE, and again with a value that was read outside': bad('lost update', (app) =>
    each(account(app), async (own, _key, index) => {
      const { balance } = await app.models.Account.findByPk(own, required)
      await retryTransaction(
        app.sequelize,
        (transaction) =>
          app.models.Account.update({ balance: balance + 10 + index }, { where: { id: own }, transaction }),
        { isolationLevel: 'SERIALIZABLE' as never },
      )
    }),
  ),
  'a payment that two requests make': bad('check-then-act', (app) =>
    each(account(app), async (own) => {
      const row = await app.models.Account.findByPk(own, required)
      if (row.paidAt) return 'already paid'
      await row.update({ paidAt: new Date(), status: 'paid' })
      return 'charged'
    }),
  ),
  'a payment that its row decides': good((app) =>
    each(account(app), async (own) => {
      const [count] = await app.models.Account.update(
        { paidAt: new Date(), status: 'paid' },
        { where: { id: own, paidAt: null } },
      )
      return count === 1 ? 'charged' : 'already paid'
    }),
  ),
  'a payment under a lock, with its time': good((app) =>
    each(account(app), (own) =>
      app.transaction(async (transaction) => {
        const row = await locked(app, own, transaction)
        if (row.paidAt) return 'already paid'
        await row.update({ paidAt: new Date(), status: 'paid' }, { transaction })
        return 'charged'
      }),
    ),
  ),
  'a call that is not given its transaction': bad('self-deadlock', (app) =>
    unlike(account(app), {
      A: (own) =>
        app.transaction(async (transaction) => {
          await locked(app, own, transaction)
          await app.models.Account.increment({ balance: 1 }, { where: { id: own } })
        }),
      B: (own) => app.models.Account.increment({ balance: 2 }, { where: { id: own } }).then(() => undefined),
    }),
  ),
}

/* Reports */

const moveMoney =
  (app: App) =>
  ([from, to]: Pair): Promise<unknown> =>
    app.transaction(async (transaction) => {
      await app.models.Account.decrement({ balance: 10 }, { where: { id: from }, transaction })
      await app.models.Account.increment({ balance: 10 }, { where: { id: to }, transaction })
    })

const order =
  ({ models }: App) =>
  async () => {
    const own = await id(models.Order.create({ customer: 'ada', total: 5 }))
    await models.Item.create({ orderId: own, price: 5 })
    return own
  }
const addItem = (app: App) => (own: number) =>
  app.transaction(async (transaction) => {
    await app.models.Item.create({ orderId: own, price: 3 }, { transaction })
    await app.models.Order.increment({ total: 3 }, { where: { id: own }, transaction })
  })

const reports: Record<string, Application> = {
  'a report of two accounts, one after the other': bad('read skew', (app) =>
    unlike(pair(app), {
      report: async ([first, second]) => {
        const one = await app.models.Account.findByPk(first, required)
        const other = await app.models.Account.findByPk(second, required)
        return one.balance + other.balance
      },
      transfer: moveMoney(app),
    }),
  ),
  'a report of two accounts in one statement': good((app) =>
    unlike(pair(app), {
      report: (ids) => app.models.Account.sum('balance', { where: { id: [...ids] } }).then(Number),
      transfer: moveMoney(app),
    }),
  ),
  'a report of two accounts in one snapshot': good((app) =>
    unlike(pair(app), {
      report: ([first, second]) =>
        app.transaction(async (transaction) => {
          const one = await app.models.Account.findByPk(first, { ...required, transaction })
          const other = await app.models.Account.findByPk(second, { ...required, transaction })
          return one.balance + other.balance
        }, 'REPEATABLE_READ'),
      transfer: moveMoney(app),
    }),
  ),
  'a report between two transfers': bad('read skew', (app) =>
    unlike(
      pair(app),
      {
        report: async ([first, second]) => {
          const one = await app.models.Account.findByPk(first, required)
          const other = await app.models.Account.findByPk(second, required)
          return one.balance + other.balance
        },
        one: moveMoney(app),
        other: moveMoney(app),
      },
      { preemptions: 1 },
    ),
  ),
  'an invoice of an order and of its items': bad('read skew', (app) =>
    unlike(order(app), {
      A: async (own) => {
        const { total } = await app.models.Order.findByPk(own, required)
        const items = await app.models.Item.findAll({ where: { orderId: own } })
        return [total, items.map((item) => item.price)]
      },
      B: addItem(app),
    }),
  ),
  'an invoice of an order with its items by JOIN': good((app) =>
    unlike(order(app), {
      A: async (own) => {
        const found = await app.models.Order.findByPk(own, { ...required, include: [app.models.Item] })
        return [found.total, found.Items.map((item) => item.price).toSorted()]
      },
      B: addItem(app),
    }),
  ),
  'a page and the number of pages, by findAndCountAll()': bad('phantom', (app) =>
    unlike(order(app), {
      A: async (own) => {
        const { count, rows } = await app.models.Item.findAndCountAll({ where: { orderId: own }, limit: 5 })
        return [count, rows.length]
      },
      B: addItem(app),
    }),
  ),
  'a page and the number of pages in one snapshot': good((app) =>
    unlike(order(app), {
      A: (own) =>
        app.transaction(async (transaction) => {
          const count = await app.models.Item.count({ where: { orderId: own }, transaction })
          const rows = await app.models.Item.findAll({ where: { orderId: own }, transaction })
          return [count, rows.length]
        }, 'REPEATABLE_READ'),
      B: addItem(app),
    }),
  ),
}

/* Queues and leases */

const jobs =
  ({ models }: App, count: number) =>
  async () => {
    await models.Job.destroy({ where: {} })
    for (let index = 0; index < count; index++) await models.Job.create({ name: `job ${index}` })
  }
const expired =
  ({ models }: App) =>
  () =>
    id(models.Job.create({ name: 'report', leasedUntil: new Date('2020-01-01T00:00:00Z') }))
const inAMinute = (): Date => new Date(Date.now() + 60_000)

/** The first job that is new, locked; without those that another transaction has locked, if `skipLocked`. */
const takeNext =
  (app: App, skipLocked: boolean) =>
  (_context: unknown, worker: string): Promise<string> =>
    app.transaction(async (transaction) => {
      const options = { where: { status: 'new' }, transaction, lock: true, ...(skipLocked && { skipLocked }) }
      const job = await app.models.Job.findOne({ ...options, order: ['id'] })
      if (!job) return 'idle'
      await job.update({ status: 'taken', worker }, { transaction })
      return job.name
    })

const queues: Record<string, Application> = {
  'a job that two workers take': bad('lost update', (app) =>
    each(jobs(app, 1), async (_context, worker) => {
      const job = await app.models.Job.findOne({ where: { status: 'new' } })
      if (!job) return 'idle'
      await job.update({ status: 'taken', worker })
      return job.name
    }),
  ),
  'a job that is taken by an UPDATE that ignores its row count': bad('lost update', (app) =>
    each(jobs(app, 1), async (_context, worker) => {
      const job = await app.models.Job.findOne({ where: { status: 'new' } })
      if (!job) return 'idle'
      await app.models.Job.update({ status: 'taken', worker }, { where: { id: job.id, status: 'new' } })
      return job.name
    }),
  ),
  'a job that is taken by an UPDATE, with its row count': good((app) =>
    each(jobs(app, 1), async (_context, worker) => {
      const job = await app.models.Job.findOne({ where: { status: 'new' } })
      if (!job) return 'idle'
      const where = { id: job.id, status: 'new' }
      const [count] = await app.models.Job.update({ status: 'taken', worker }, { where })
      return count === 1 ? job.name : 'idle'
    }),
  ),
  'a queue with SKIP LOCKED': good((app) => each(jobs(app, 2), takeNext(app, true))),
  'a queue with SKIP LOCKED, and three workers': good((app) => ({
    ...each(jobs(app, 3), takeNext(app, true), three),
    preemptions: 1,
  })),
  'a queue with FOR UPDATE, of one job': good((app) => each(jobs(app, 1), takeNext(app, false))),
  'a queue whose lock ends before the job is marked': bad('lost update', (app) =>
    each(jobs(app, 1), async (_context, worker) => {
      const job = await app.transaction((transaction) =>
        app.models.Job.findOne({ where: { status: 'new' }, transaction, lock: true, skipLocked: true }),
      )
      if (!job) return 'idle'
      await job.update({ status: 'taken', worker })
      return job.name
    }),
  ),
  'a lease that is checked before it is taken': bad('lost update', (app) =>
    each(expired(app), async (own, worker) => {
      const job = await app.models.Job.findByPk(own, required)
      if (job.leasedUntil > new Date()) return 'busy'
      await job.update({ worker, leasedUntil: inAMinute() })
      return 'mine'
    }),
  ),
  'a lease that is taken by one UPDATE': good((app) =>
    each(expired(app), async (own, worker) => {
      const where = { id: own, leasedUntil: { [Op.lt]: new Date() } }
      const [count] = await app.models.Job.update({ worker, leasedUntil: inAMinute() }, { where })
      return count === 1 ? 'mine' : 'busy'
    }),
  ),
  'a lease of three workers under a lock': good((app) => ({
    ...each(
      expired(app),
      (own, worker) =>
        app.transaction(async (transaction) => {
          const job = await app.models.Job.findByPk(own, { ...required, transaction, lock: true })
          if (job.leasedUntil > new Date()) return 'busy'
          await job.update({ worker, leasedUntil: inAMinute() }, { transaction })
          return 'mine'
        }),
      three,
    ),
    preemptions: 1,
  })),
}

/* Unique keys */

const team =
  ({ models }: App) =>
  () =>
    id(models.Team.create({ name: 'team' }))
const email = 'ada@example.com'

const unique: Record<string, Application> = {
  'a tag that is looked up and made, without a unique key': bad('double insert', (app) =>
    each(
      () => app.models.Tag.destroy({ where: {} }),
      async () => {
        const found = await app.models.Tag.findOne({ where: { name: 'sale' } })
        if (!found) await app.models.Tag.create({ name: 'sale' })
      },
    ),
  ),
  'findOrCreate() without a unique key': bad('double insert', (app) =>
    each(team(app), async (teamId) => {
      await app.models.Invoice.findOrCreate({ where: { teamId, number: 1 } })
    }),
  ),
  'a registration that a unique key refuses': bad('double insert', (app) => ({
    ...each(team(app), async (teamId, key) => {
      const found = await app.models.User.findOne({ where: { teamId, email } })
      if (!found) await app.models.User.create({ teamId, email, name: key })
    }),
    failures: 'forbid',
  })),
  'a registration that a unique key refuses, which is allowed': good((app) =>
    each(team(app), async (teamId, key) => {
      const found = await app.models.User.findOne({ where: { teamId, email } })
      if (!found) await app.models.User.create({ teamId, email, name: key })
    }),
  ),
  'a registration that looks again when it is refused': good((app) => ({
    ...each(team(app), async (teamId) => {
      const where = { teamId, email }
      if (await app.models.User.findOne({ where })) return 'known'
      try {
        await app.models.User.create({ ...where, name: 'ada' })
        return 'made'
      } catch (error) {
        if (!(error instanceof UniqueConstraintError)) throw error
        return 'known'
      }
    }),
    failures: 'forbid',
  })),
  'findOrCreate() with a unique key': good((app) =>
    each(team(app), async (teamId) => {
      const [, isNew] = await app.models.User.findOrCreate({ where: { teamId, email }, defaults: { name: 'ada' } })
      return isNew
    }),
  ),
  'the next invoice number, by MAX': bad('double insert', (app) =>
    each(team(app), async (teamId) => {
      const last = await app.models.Invoice.max('number', { where: { teamId } })
      await app.models.Invoice.create({ teamId, number: Number(last) + 1 })
    }),
  ),
  'the next invoice number, of a row that is locked': good((app) =>
    each(team(app), (teamId) =>
      app.transaction(async (transaction) => {
        const row = await app.models.Team.findByPk(teamId, { ...required, transaction, lock: true })
        const number = row.lastInvoice + 1
        await row.update({ lastInvoice: number }, { transaction })
        await app.models.Invoice.create({ teamId, number }, { transaction })
      }),
    ),
  ),
  'the next invoice number, of a row that is read': bad('lost update', (app) =>
    each(team(app), (teamId) =>
      app.transaction(async (transaction) => {
        const row = await app.models.Team.findByPk(teamId, { ...required, transaction })
        const number = row.lastInvoice + 1
        await row.update({ lastInvoice: number }, { transaction })
        await app.models.Invoice.create({ teamId, number }, { transaction })
      }),
    ),
  ),
}

/* Capacities */

const event = (app: App, capacity: number) => () => id(app.models.Event.create({ capacity }))

const shift = (app: App, count: number) => async () => {
  const teamId = await team(app)()
  const ids: number[] = []
  for (let index = 0; index < count; index++)
    ids.push(await id(app.models.User.create({ teamId, email: `${index}@example.com`, onCall: 1 })))
  return [teamId, ids] as const
}

const capacities: Record<string, Application> = {
  'the last seat, by COUNT': bad('write skew', (app) =>
    each(event(app, 1), async (eventId, guest) => {
      if ((await app.models.Booking.count({ where: { eventId } })) > 0) return 'full'
      await app.models.Booking.create({ eventId, guest })
      return 'booked'
    }),
  ),
  'the last seat, by COUNT in a transaction': bad('write skew', (app) =>
    each(event(app, 1), (eventId, guest) =>
      app.transaction(async (transaction) => {
        const { capacity } = await app.models.Event.findByPk(eventId, { ...required, transaction })
        if ((await app.models.Booking.count({ where: { eventId }, transaction })) >= capacity) return 'full'
        await app.models.Booking.create({ eventId, guest }, { transaction })
        return 'booked'
      }),
    ),
  ),
  'the last seat, with the event locked': good((app) =>
    each(event(app, 1), (eventId, guest) =>
      app.transaction(async (transaction) => {
        const found = await app.models.Event.findByPk(eventId, { ...required, transaction, lock: true })
        if ((await app.models.Booking.count({ where: { eventId }, transaction })) >= found.capacity) return 'full'
        await app.models.Booking.create({ eventId, guest }, { transaction })
        return 'booked'
      }),
    ),
  ),
  'two seats for three guests, by COUNT': bad('write skew', (app) => ({
    ...each(
      event(app, 2),
      async (eventId, guest) => {
        if ((await app.models.Booking.count({ where: { eventId } })) >= 2) return 'full'
        await app.models.Booking.create({ eventId, guest })
        return 'booked'
      },
      three,
    ),
    preemptions: 1,
  })),
  'two seats for three guests, with the event locked': good((app) => ({
    ...each(
      event(app, 2),
      (eventId, guest) =>
        app.transaction(async (transaction) => {
          await app.models.Event.findByPk(eventId, { ...required, transaction, lock: true })
          if ((await app.models.Booking.count({ where: { eventId }, transaction })) >= 2) return 'full'
          await app.models.Booking.create({ eventId, guest }, { transaction })
          return 'booked'
        }),
      three,
    ),
    preemptions: 1,
  })),
  'a room that is booked twice at overlapping times': bad('write skew', (app) =>
    each(event(app, 1), async (eventId, guest, index) => {
      const [from, until] = [10 + index, 12 + index]
      const where = { eventId, from: { [Op.lt]: until }, until: { [Op.gt]: from } }
      if (await app.models.Booking.findOne({ where })) return 'taken'
      await app.models.Booking.create({ eventId, guest, from, until })
      return 'booked'
    }),
  ),
  'a seat with a UUID that a unique key decides': good((app) =>
    each(event(app, 1), async (eventId, guest) => {
      try {
        await app.models.Ticket.create({ eventId, seat: 1, guest })
        return 'booked'
      } catch (error) {
        if (!(error instanceof UniqueConstraintError)) throw error
        return 'taken'
      }
    }),
  ),
  'the next free seat with a UUID, by MAX': bad('double insert', (app) => ({
    ...each(event(app, 1), async (eventId, guest) => {
      const last = await app.models.Ticket.max('seat', { where: { eventId } })
      await app.models.Ticket.create({ eventId, seat: Number(last) + 1, guest })
    }),
    failures: 'forbid',
  })),
  'two doctors that leave while the other one stays': bad('write skew', (app) =>
    each(shift(app, 2), async ([teamId, ids], _key, index) => {
      if ((await app.models.User.count({ where: { teamId, onCall: 1 } })) < 2) return 'stays'
      await app.models.User.update({ onCall: 0 }, { where: { id: ids[index]! } })
      return 'leaves'
    }),
  ),
  'three doctors, of whom one is to stay': bad('write skew', (app) => ({
    ...each(
      shift(app, 3),
      async ([teamId, ids], _key, index) => {
        if ((await app.models.User.count({ where: { teamId, onCall: 1 } })) < 2) return 'stays'
        await app.models.User.update({ onCall: 0 }, { where: { id: ids[index]! } })
        return 'leaves'
      },
      three,
    ),
    preemptions: 1,
  })),
  'two doctors whose team is locked': good((app) =>
    each(shift(app, 2), ([teamId, ids], _key, index) =>
      app.transaction(async (transaction) => {
        await app.models.Team.findByPk(teamId, { ...required, transaction, lock: true })
        if ((await app.models.User.count({ where: { teamId, onCall: 1 }, transaction })) < 2) return 'stays'
        await app.models.User.update({ onCall: 0 }, { where: { id: ids[index]! }, transaction })
        return 'leaves'
      }),
    ),
  ),
}

/* Associations, hooks and soft deletes */

const post =
  ({ models }: App) =>
  () =>
    id(models.Post.create({ title: 'new' }))
const tagged = (app: App) => async () => {
  const own = await post(app)()
  await app.models.Tag.destroy({ where: {} })
  for (const name of ['red', 'green', 'blue']) await app.models.Tag.create({ name })
  return own
}
const tag = (app: App, name: string, transaction?: Transaction): Promise<Row | null> =>
  app.models.Tag.findOne({ where: { name }, ...(transaction && { transaction }) })

const checkout =
  (app: App, take: (product: number, transaction: Transaction) => Promise<boolean>) =>
  (productId: number, customer: string): Promise<string> =>
    app.transaction(async (transaction) => {
      if (!(await take(productId, transaction))) return 'sold out'
      const own = await app.models.Order.create({ productId, customer }, { transaction })
      await app.models.Item.create({ orderId: own.id, price: 5 }, { transaction })
      return 'ordered'
    })
const product = (app: App) => () => id(app.models.Product.create({ stock: 1 }))

const document =
  ({ models }: App) =>
  () =>
    id(models.Document.create({ text: 'new' }))

const associations: Record<string, Application> = {
  'an order with items of the last product': bad('check-then-act', (app) =>
    each(
      product(app),
      checkout(app, async (own, transaction) => {
        const { stock } = await app.models.Product.findByPk(own, { ...required, transaction })
        if (stock < 1) return false
        await app.models.Product.decrement({ stock: 1 }, { where: { id: own }, transaction })
        return true
      }),
    ),
  ),
  'an order with items of the last product, by a condition': good((app) =>
    each(
      product(app),
      checkout(app, async (own, transaction) => {
        const where = { id: own, stock: { [Op.gt]: 0 } }
        const [count] = await app.models.Product.update({ stock: literal('stock - 1') }, { where, transaction })
        return count === 1
      }),
    ),
  ),
  'an order with items of the last product, under a lock': good((app) =>
    each(
      product(app),
      checkout(app, async (own, transaction) => {
        const row = await app.models.Product.findByPk(own, { ...required, transaction, lock: true })
        if (row.stock < 1) return false
        await row.decrement({ stock: 1 }, { transaction })
        return true
      }),
    ),
  ),
  'addTag() of two tags to a post': good((app) =>
    each(tagged(app), async (own, _key, index) => {
      const row = await app.models.Post.findByPk(own, required)
      await row.addTag(await tag(app, ['red', 'green'][index]!))
    }),
  ),
  'addTag() of the same tag': good((app) =>
    each(tagged(app), async (own) => {
      const row = await app.models.Post.findByPk(own, required)
      await row.addTag(await tag(app, 'red'))
    }),
  ),
  'setTags() by two': bad('write skew', (app) =>
    each(tagged(app), async (own, _key, index) => {
      const row = await app.models.Post.findByPk(own, required)
      await row.setTags([await tag(app, ['red', 'green'][index]!)])
    }),
  ),
  'setTags() by two under a lock of the post': good((app) =>
    each(tagged(app), (own, _key, index) =>
      app.transaction(async (transaction) => {
        const row = await app.models.Post.findByPk(own, { ...required, transaction, lock: true })
        await row.setTags([await tag(app, ['red', 'green'][index]!, transaction)], { transaction })
      }),
    ),
  ),
  'a number of comments that a hook reads and writes back': bad('lost update', (app) =>
    each(post(app), async (postId, text) => {
      await app.models.Comment.create({ postId, text })
    }),
  ),
  'a number of replies that a hook increments': good((app) =>
    each(post(app), (postId, text) =>
      app.transaction(async (transaction) => {
        await app.models.Reply.create({ postId, text }, { transaction })
      }),
    ),
  ),
  'a total that a hook computes from the lines': bad('lost update', (app) =>
    each(order(app), async (orderId, _key, index) => {
      await app.models.Line.create({ orderId, price: index + 1 })
    }),
  ),
  'a post that is removed when it has no comments': bad('write skew', (app) =>
    unlike(() => app.models.Tag.destroy({ where: {} }).then(document(app)), {
      remove: (own) =>
        app.transaction(async (transaction) => {
          if ((await app.models.Tag.count({ where: { name: 'comment' }, transaction })) > 0) return 'kept'
          await app.models.Document.destroy({ where: { id: own }, transaction })
          return 'removed'
        }),
      comment: (own) =>
        app.transaction(async (transaction) => {
          if (!(await app.models.Document.findByPk(own, { transaction }))) return 'gone'
          await app.models.Tag.create({ name: 'comment' }, { transaction })
          return 'commented'
        }),
    }),
  ),
  'a document that two remove softly': good((app) =>
    each(document(app), (own) => app.models.Document.destroy({ where: { id: own } }).then(() => undefined)),
  ),
  'a document that is removed softly under a lock': good((app) =>
    unlike(document(app), {
      remove: (own) =>
        app.transaction(async (transaction) => {
          const found = await app.models.Document.findByPk(own, { transaction, lock: true })
          await found?.destroy({ transaction })
        }),
      edit: (own) =>
        app.transaction(async (transaction) => {
          const found = await app.models.Document.findByPk(own, { transaction, lock: true })
          if (!found) return 'gone'
          await found.update({ text: 'edited' }, { transaction })
          return 'edited'
        }),
    }),
  ),
}

/* Documents and versions */

const setting =
  ({ models }: App) =>
  () =>
    id(models.Setting.create({ values: {} }))

const versions: Record<string, Application> = {
  'a setting in a JSON column': bad('lost update', (app) =>
    each(setting(app), async (own, key) => {
      const row = await app.models.Setting.findByPk(own, required)
      await row.update({ values: { ...row.values, [key]: true } })
    }),
  ),
  'a list in a JSON column': bad('lost update', (app) =>
    each(setting(app), async (own, key) => {
      const row = await app.models.Setting.findByPk(own, required)
      await row.update({ values: { list: [...((row.values['list'] as string[] | undefined) ?? []), key] } })
    }),
  ),
  'a setting in a JSON column, by one statement': good((app) =>
    each(setting(app), async (own, key) => {
      await mergeJsonKey([app.models.Setting, own], 'values', key, true)
    }),
  ),
  'a setting in a JSON column, under a lock': good((app) =>
    each(setting(app), (own, key) =>
      app.transaction(async (transaction) => {
        const row = await app.models.Setting.findByPk(own, { ...required, transaction, lock: true })
        await row.update({ values: { ...row.values, [key]: true } }, { transaction })
      }),
    ),
  ),
  'a form whose version is not compared': bad('lost update', (app) =>
    each(document(app), async (own, key) => {
      const { text } = await app.models.Document.findByPk(own, required)
      await app.models.Document.update({ text: `${text} ${key}` }, { where: { id: own } })
    }),
  ),
  'a form whose version is compared, and whose row count is not': bad('lost update', (app) =>
    each(document(app), async (own, key) => {
      const { text, version } = await app.models.Document.findByPk(own, required)
      const values = { text: `${text} ${key}`, version: version + 1 }
      await app.models.Document.update(values, { where: { id: own, version } })
    }),
  ),
  'a form that a version refuses': good((app) =>
    each(document(app), async (own, key) => {
      const row = await app.models.Document.findByPk(own, required)
      await row.update({ text: `${row.text} ${key}` })
    }),
  ),
  'a form that is read again when a version refuses it': good((app) => ({
    ...each(document(app), async (own, key) => {
      for (;;) {
        const row = await app.models.Document.findByPk(own, required)
        try {
          await row.update({ text: `${row.text} ${key}` })
          return
        } catch (error) {
          if (!(error instanceof OptimisticLockError)) throw error
        }
      }
    }),
    failures: 'forbid',
  })),
  'a page view that the database counts, by fn()': good((app) =>
    each(post(app), async (own, key) => {
      await app.models.Post.update({ title: fn('CONCAT', col('title'), key) }, { where: { id: own } })
      await app.models.Post.increment({ views: 1 }, { where: { id: own } })
    }),
  ),
}

/* Bare mysql2 and pg */

const insertAccount = (app: App) => async () => {
  const { send } = app.bare
  await send('DELETE FROM app_accounts')
  await send('INSERT INTO app_accounts (id, balance, status) VALUES (1, 100, ?), (2, 100, ?)', ['new', 'new'])
}
const insertJobs = (app: App) => async () => {
  const { send } = app.bare
  await send('DELETE FROM app_jobs')
  await send("INSERT INTO app_jobs (id, name, status) VALUES (1, 'one', 'new'), (2, 'two', 'new')")
}
const onBare =
  <C>(race: (app: App) => Race<C>) =>
  (app: App): Race<C> => ({ ...race(app), connections: [app.bare.pool] })

const balanceOf = async (send: Send, suffix = ''): Promise<number> =>
  (await send(`SELECT balance FROM app_accounts WHERE id = 1${suffix}`)).rows[0]!.balance

const drivers: Record<string, Application> = {
  'bare: a deposit that is read and written back': bad(
    'lost update',
    onBare((app) =>
      each(insertAccount(app), async (_context, _key, index) => {
        const balance = await balanceOf(app.bare.send)
        await app.bare.send('UPDATE app_accounts SET balance = ? WHERE id = 1', [balance + index + 1])
      }),
    ),
  ),
  'bare: a deposit that the database computes': good(
    onBare((app) =>
      each(insertAccount(app), async (_context, _key, index) => {
        await app.bare.send('UPDATE app_accounts SET balance = balance + ? WHERE id = 1', [index + 1])
      }),
    ),
  ),
  'bare: a deposit with FOR UPDATE': good(
    onBare((app) =>
      each(insertAccount(app), (_context, _key, index) =>
        app.bare.transaction(async (send) => {
          const balance = await balanceOf(send, ' FOR UPDATE')
          await send('UPDATE app_accounts SET balance = ? WHERE id = 1', [balance + index + 1])
        }),
      ),
    ),
  ),
  'bare: a withdrawal that checks the balance before': bad(
    'check-then-act',
    onBare((app) =>
      each(insertAccount(app), () =>
        app.bare.transaction(async (send) => {
          if ((await balanceOf(send)) < 60) return 'declined'
          await send('UPDATE app_accounts SET balance = balance - 60 WHERE id = 1')
          return 'paid'
        }),
      ),
    ),
  ),
  'bare: a queue with FOR UPDATE SKIP LOCKED': good(
    onBare((app) =>
      each(insertJobs(app), (_context, worker) =>
        app.bare.transaction(async (send) => {
          const { rows } = await send(
            "SELECT id, name FROM app_jobs WHERE status = 'new' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
          )
          if (!rows[0]) return 'idle'
          await send("UPDATE app_jobs SET status = 'taken', worker = ? WHERE id = ?", [worker, rows[0].id])
          return rows[0].name
        }),
      ),
    ),
  ),
  'bare: a queue without a lock': bad(
    'lost update',
    onBare((app) =>
      each(insertJobs(app), async (_context, worker) => {
        const { rows } = await app.bare.send("SELECT id, name FROM app_jobs WHERE status = 'new' ORDER BY id LIMIT 1")
        if (!rows[0]) return 'idle'
        await app.bare.send("UPDATE app_jobs SET status = 'taken', worker = ? WHERE id = ?", [worker, rows[0].id])
        return rows[0].name
      }),
    ),
  ),
  'bare: a transfer without locks': bad(
    'lost update',
    onBare((app) =>
      each(insertAccount(app), (_context, _key, index) =>
        app.bare.transaction(async (send) => {
          const { rows } = await send('SELECT id, balance FROM app_accounts ORDER BY id')
          const amount = index + 1
          await send('UPDATE app_accounts SET balance = ? WHERE id = 1', [rows[0]!.balance - amount])
          await send('UPDATE app_accounts SET balance = ? WHERE id = 2', [rows[1]!.balance + amount])
        }),
      ),
    ),
  ),
  'bare: a setting that is looked up and made': bad(
    'double insert',
    onBare((app) =>
      each(
        () => app.bare.send('DELETE FROM app_tags'),
        async () => {
          const { rows } = await app.bare.send("SELECT id FROM app_tags WHERE name = 'sale'")
          if (rows.length === 0) await app.bare.send("INSERT INTO app_tags (name) VALUES ('sale')")
        },
      ),
    ),
  ),
  'bare: a row that is made or counted up in one statement': good(
    onBare((app) => {
      const update =
        app.database === 'postgres'
          ? 'ON CONFLICT (id) DO UPDATE SET balance = app_accounts.balance + 1'
          : 'ON DUPLICATE KEY UPDATE balance = balance + 1'
      return each(
        () => app.bare.send('DELETE FROM app_accounts'),
        async () => {
          await app.bare.send(`INSERT INTO app_accounts (id, balance, status) VALUES (7, 1, 'new') ${update}`)
        },
      )
    }),
  ),
}

export const applications: Readonly<Record<string, Application>> = {
  ...money,
  ...reports,
  ...queues,
  ...unique,
  ...capacities,
  ...associations,
  ...versions,
  ...drivers,
}
