import { expect } from 'chai'
import { DataTypes, QueryTypes, Transaction } from 'sequelize'
import type { Model, ModelStatic, Sequelize } from 'sequelize'
import { EndlessError, explore } from 'every-order'
import type { AnomalyName, ExploreOptions, Failure, Result } from 'every-order'
import { eachServer } from '../each-database.js'
import { rejection } from '../rejection.js'
import { expectReadable } from './readable.js'

interface Account extends Model {
  id: number
  balance: number
  status: string
  settings: Record<string, unknown>
}

interface User extends Model {
  id: number
  email: string
}

type Ids = readonly [first: number, second: number]

eachServer('the name of an anomaly', (database) => {
  // One writer at a time, which waits in this process: nearly nothing can go wrong in these ways.
  if (database.name === 'sqlite') return
  let sequelize: Sequelize
  let Accounts: ModelStatic<Account>
  let Users: ModelStatic<User>
  let UniqueUsers: ModelStatic<User>
  const { READ_UNCOMMITTED, REPEATABLE_READ, SERIALIZABLE } = Transaction.ISOLATION_LEVELS

  before(async () => {
    const sooner = { dialectOptions: { options: '-c deadlock_timeout=1ms' } }
    ;({ sequelize } = database.connect(database.name === 'postgres' ? sooner : {}))
    const options = { timestamps: false }
    const account = {
      balance: { type: DataTypes.INTEGER, allowNull: false, defaultValue: 100 },
      status: { type: DataTypes.STRING, allowNull: false, defaultValue: 'new' },
      settings: DataTypes.JSON,
    }
    Accounts = sequelize.define<Account>('account', account, { ...options, tableName: 'anomaly_accounts' })
    const email = { type: DataTypes.STRING, allowNull: false }
    Users = sequelize.define<User>('user', { email }, { ...options, tableName: 'anomaly_users' })
    UniqueUsers = sequelize.define<User>(
      'uniqueUser',
      { email: { ...email, unique: true } },
      { ...options, tableName: 'anomaly_unique_users' },
    )
    await sequelize.sync({ force: true })
  })

  const setup = async (): Promise<Ids> => {
    await Users.destroy({ where: {} })
    await UniqueUsers.destroy({ where: {} })
    const create = async (): Promise<number> => (await Accounts.create({ settings: {} })).id
    return [await create(), await create()]
  }

  function race(
    A: (ids: Ids) => unknown,
    B: (ids: Ids) => unknown = A,
    options: Partial<ExploreOptions<Ids>> = {},
  ): Promise<Result> {
    return explore({ sequelize, setup, participants: { A, B }, ...options })
  }

  /** Expects that the first failure has this name, and that its sentence names the statements of its cycle. */
  async function expectAnomaly(result: Result, name: AnomalyName, sentence: RegExp): Promise<Failure> {
    // A participant that waits for itself fails in every order.
    if (name !== 'self-deadlock') expect(result.reasons).to.deep.equal([])
    const { anomaly, steps } = result.first!
    expect(anomaly.name, JSON.stringify([anomaly, steps], undefined, 1)).to.equal(name)
    expect(anomaly.sentence).to.match(sentence)
    for (const { from, to } of anomaly.cycle) {
      expect(steps).to.include(from).and.include(to)
      expect(anomaly.sentence).to.include(String(from.number)).and.include(String(to.number))
    }
    expect(anomaly.remedy === '').to.equal(name === 'unnamed')
    await expectReadable(result.first!)
    return result.first!
  }

  const load = (id: number, transaction?: Transaction, lock = false): Promise<Account> =>
    Accounts.findByPk(id, { rejectOnEmpty: true, ...(transaction && { transaction }), ...(lock && { lock }) })
  const set = (id: number, values: object, transaction?: Transaction): Promise<[number]> =>
    Accounts.update(values, { where: { id }, ...(transaction && { transaction }) })
  const inTransaction = <R>(fn: (transaction: Transaction) => Promise<R>, isolationLevel?: string): Promise<R> =>
    sequelize.transaction({ ...(isolationLevel && { isolationLevel: isolationLevel as never }) }, fn)

  const lost = /^([AB]) read at \d before [AB] wrote row \d+ of anomaly_accounts at \d, and \1 overwrote that at \d\.$/

  it('lost update: a save of a document that was read before', async () => {
    const add =
      (key: string) =>
      async ([id]: Ids) => {
        const account = await load(id)
        await account.update({ settings: { ...account.settings, [key]: true } })
      }
    const { anomaly } = await expectAnomaly(await race(add('a'), add('b')), 'lost update', lost)
    expect(anomaly.cycle.map(({ kind }) => kind)).to.deep.equal(['rw', 'ww'])
  })

  it('lost update: a read under a lock that is not used', async () => {
    const add =
      (key: string) =>
      async ([id]: Ids) => {
        const { settings } = await load(id)
        await inTransaction(async (transaction) => {
          await load(id, transaction, true)
          await set(id, { settings: { ...settings, [key]: true } }, transaction)
        })
      }
    await expectAnomaly(
      await race(add('a'), add('b')),
      'lost update',
      /^([AB]) read at \d+ .*, and \1 overwrote that at \d+\.$/,
    )
  })

  it('lost update: an UPDATE whose version no longer matches, without a check of its count', async () => {
    const add =
      (amount: number) =>
      async ([id]: Ids) => {
        const { balance } = await load(id)
        await Accounts.update({ balance: balance + amount }, { where: { id, balance } })
      }
    await expectAnomaly(await race(add(10), add(20)), 'lost update', /at \d then matched no row, which [AB] took for/)
  })

  it('check-then-act: a withdrawal that checks the balance before', async () => {
    const withdraw = async ([id]: Ids): Promise<void> => {
      const { balance } = await load(id)
      if (balance >= 60) await Accounts.decrement({ balance: 60 }, { where: { id } })
    }
    await expectAnomaly(
      await race(withdraw),
      'check-then-act',
      /^([AB]) read at .*, and \1 wrote to it without another read at \d\.$/,
    )
  })

  it('check-then-act: a charge that two participants both make', async () => {
    const pay = async ([id]: Ids): Promise<string> => {
      if ((await load(id)).status === 'paid') return 'already paid'
      await set(id, { status: 'paid' })
      return 'charged'
    }
    await expectAnomaly(await race(pay), 'check-then-act', /wrote to it without another read/)
  })

  it('write skew: two participants that each may leave if the other one stays', async () => {
    const leave = (own: 0 | 1) => (ids: Ids) =>
      inTransaction(async (transaction) => {
        const present = await Accounts.findAll({ where: { id: [...ids], status: 'new' }, transaction })
        if (present.length > 1) await set(ids[own], { status: 'gone' }, transaction)
      })
    const { anomaly } = await expectAnomaly(
      await race(leave(0), leave(1)),
      'write skew',
      /^([AB]) read at \d before ([AB]) wrote row \d+ of anomaly_accounts at \d+, and \2 read at \d before \1 wrote row \d+ of anomaly_accounts at \d+\.$/,
    )
    expect(anomaly.cycle.map(({ kind }) => kind)).to.deep.equal(['rw', 'rw'])
  })

  it('write skew: of three participants, each of which reads what the next one writes', async () => {
    const copy = (from: number, to: number) => async (ids: readonly number[]) => {
      const { balance } = await load(ids[from]!)
      await set(ids[to]!, { balance: balance + 1 })
    }
    const { failures } = await explore({
      sequelize,
      setup: async () => [...(await setup()), (await Accounts.create({})).id],
      participants: { A: copy(0, 1), B: copy(1, 2), C: copy(2, 0) },
    })
    const skews = failures.filter(({ anomaly }) => anomaly.name === 'write skew')
    expect(skews.length).to.be.above(0)
    for (const { anomaly } of skews) expect(anomaly.cycle).to.have.length(3)
  })

  it('read skew: a sum of two rows while a transfer commits', async () => {
    const sum = async ([first, second]: Ids): Promise<number> =>
      (await load(first)).balance + (await load(second)).balance
    const transfer = ([first, second]: Ids): Promise<unknown> =>
      inTransaction(async (transaction) => {
        await Accounts.decrement({ balance: 10 }, { where: { id: first }, transaction })
        await Accounts.increment({ balance: 10 }, { where: { id: second }, transaction })
      })
    await expectAnomaly(
      await race(sum, transfer),
      'read skew',
      /^A read at \d before B wrote row \d+ of anomaly_accounts at \d, and A read at \d what B wrote to row \d+ of/,
    )
  })

  it('non-repeatable read: a row that is read twice', async () => {
    const twice = async ([id]: Ids): Promise<string[]> => [(await load(id)).status, (await load(id)).status]
    await expectAnomaly(
      await race(twice, ([id]) => set(id, { status: 'paid' }).then(() => 'done')),
      'non-repeatable read',
      /^A read/,
    )
  })

  it('phantom: rows that are counted twice', async () => {
    const twice = async (): Promise<number[]> => [await Users.count(), await Users.count()]
    const insert = async (): Promise<void> => void (await Users.create({ email: 'b' }))
    const result = await race(twice, insert)
    await expectAnomaly(
      result,
      'phantom',
      /^A read at \d before B inserted into anomaly_users at \d, and A read at \d what B/,
    )
  })

  it('phantom: rows that one condition does not find, and another one with an expression does', async () => {
    const count = async (condition: string): Promise<number> => {
      const sql = `SELECT id, balance FROM anomaly_accounts WHERE ${condition}`
      return (await sequelize.query(sql, { type: QueryTypes.SELECT })).length
    }
    // It compares the remainder, and no column of the name 5.
    const twice = async (): Promise<number[]> => [await count('balance = 3'), await count('balance % 5 = 3')]
    const insert = async (): Promise<void> => {
      await sequelize.query("INSERT INTO anomaly_accounts (balance, status) VALUES (3, 'new')")
    }
    const result = await race(twice, insert, { setup: () => Accounts.destroy({ where: {} }).then(() => [0, 0]) })
    await expectAnomaly(result, 'phantom', /^A read at 1 before B inserted .* at 2, and A read at 3 what B/)
  })

  it('intermediate read: a value that its writer replaces', async () => {
    const twice = async ([id]: Ids): Promise<void> => {
      await set(id, { status: 'half' })
      await set(id, { status: 'whole' })
    }
    const read = async ([id]: Ids): Promise<string> => (await load(id)).status
    await expectAnomaly(await race(twice, read), 'intermediate read', /^B read at \d (what|before) A wrote/)
  })

  it('write cycle: two writes of each, of two rows', async () => {
    const both =
      (status: string) =>
      async ([first, second]: Ids) => {
        await set(first, { status })
        await set(second, { status })
      }
    await expectAnomaly(await race(both('a'), both('b')), 'write cycle', /^([AB]) overwrote .*, and [AB] overwrote at/)
  })

  it('double insert: of a row that both participants looked up', async () => {
    const register = async (): Promise<void> => {
      const found = await Users.findOne({ where: { email: 'ada@example.com' } })
      if (!found) await Users.create({ email: 'ada@example.com' })
    }
    await expectAnomaly(
      await race(register),
      'double insert',
      /^A read at \d before B inserted into anomaly_users at \d, and/,
    )
    const counted = async (): Promise<void> => {
      if ((await Users.count({ where: { email: 'ada@example.com' } })) === 0)
        await Users.create({ email: 'ada@example.com' })
    }
    await expectAnomaly(await race(counted), 'double insert', /inserted into/)
  })

  it('write skew: inserts beyond a limit that both counted', async () => {
    const book = (email: string) => async () => {
      if ((await Users.count()) < 2) await Users.create({ email })
    }
    const full = async (): Promise<Ids> => {
      const ids = await setup()
      await Users.create({ email: 'first' })
      return ids
    }
    await expectAnomaly(await race(book('a'), book('b'), { setup: full }), 'write skew', /inserted into anomaly_users/)
  })

  it('double insert: refused by a unique key', async () => {
    const register = async (): Promise<void> => {
      const found = await UniqueUsers.findOne({ where: { email: 'ada@example.com' } })
      if (!found) await UniqueUsers.create({ email: 'ada@example.com' })
    }
    await expectAnomaly(
      await race(register, register, { failures: 'forbid' }),
      'double insert',
      /^[AB] inserted into anomaly_unique_users at \d, and a unique key refused the insert of [AB] at \d\.$/,
    )
  })

  it('partial write: a deadlock after a write that is already committed', async () => {
    const both = (key: string) => async (ids: readonly number[]) => {
      await Users.create({ email: key })
      await inTransaction(async (transaction) => {
        for (const id of ids) await set(id, key === 'a' ? { status: key } : { balance: 0 }, transaction)
      })
    }
    await expectAnomaly(
      await race(both('a'), (ids) => both('b')(ids.toReversed())),
      'partial write',
      /^[AB] wrote anomaly_users at \d, which was committed, and failed at \d+\.$/,
    )
  })

  it('deadlock: two rows in different orders', async () => {
    const both = (status: string) => (ids: readonly number[]) =>
      inTransaction(async (transaction) => {
        for (const id of ids) await set(id, { status }, transaction)
      })
    const result = await race(both('a'), (ids) => both('b')(ids.toReversed()), { failures: 'forbid' })
    const { anomaly } = await expectAnomaly(
      result,
      'deadlock',
      /^([AB]) waited at \d+ for the lock that ([AB]) took at \d+, and \2 waited at \d+ for the lock that \1 took at \d+\.$/,
    )
    expect(anomaly.cycle.map(({ kind }) => kind)).to.deep.equal(['waits', 'waits'])
  })

  it('self-deadlock: a call without its transaction', async () => {
    const hang = ([id]: Ids): Promise<unknown> =>
      inTransaction(async (transaction) => {
        await load(id, transaction, true)
        await set(id, { status: 'a' })
      })
    const result = await race(hang, ([id]) => set(id, { status: 'b' }).then(() => undefined))
    await expectAnomaly(result, 'self-deadlock', /^A waited at \d for a lock that it had itself taken at \d/)
  })

  if (database.name === 'postgres') {
    it('serialization failure: a statement that SERIALIZABLE refuses', async () => {
      const add = ([id]: Ids): Promise<unknown> =>
        inTransaction(async (transaction) => {
          const { balance } = await load(id, transaction)
          await set(id, { balance: balance + 1 }, transaction)
        }, SERIALIZABLE)
      const result = await race(add, add, { failures: 'forbid' })
      await expectAnomaly(
        result,
        'serialization failure',
        /^The server refused statement \d+ of [AB], since it conflicts/,
      )
    })
  } else {
    it('dirty read: of a write that is rolled back', async () => {
      const read = ([id]: Ids): Promise<string> =>
        inTransaction(async (transaction) => (await load(id, transaction)).status, READ_UNCOMMITTED)
      const undone = ([id]: Ids): Promise<void> =>
        inTransaction(async (transaction) => {
          await set(id, { status: 'wrong' }, transaction)
          await transaction.rollback()
          throw new Error('on purpose')
        }).catch((error: unknown) => {
          if ((error as Error).message !== 'on purpose') throw error
        })
      const other = ([, second]: Ids): Promise<unknown> => set(second, { status: 'right' })
      const result = await race(read, async (ids) => {
        await undone(ids)
        await other(ids)
      })
      await expectAnomaly(
        result,
        'dirty read',
        /^A read at \d what B wrote to row \d+ of anomaly_accounts at \d, which B rolled back only at \d\.$/,
      )
    })
  }

  it('livelock: a loop that reads an old snapshot', async () => {
    const compareAndSet = ([id]: Ids): Promise<void> =>
      inTransaction(async (transaction) => {
        for (;;) {
          const { balance } = await load(id, transaction)
          const [count] = await Accounts.update({ balance: balance + 1 }, { where: { id, balance } })
          if (count === 1) return
        }
      }, REPEATABLE_READ)
    const error = await rejection(race(compareAndSet, compareAndSet, { maxStatements: 20 }), EndlessError)
    expect(error.anomaly.name).to.equal('livelock')
    expect(error.anomaly.remedy).to.include('in a new transaction')
    expect(error.message).to.match(
      /livelock: The transaction that [AB] began at \d+ still reads at \d+ what was there before [AB] wrote row \d+ of anomaly_accounts at \d+\./,
    )
    const poll = async ([id]: Ids): Promise<void> => {
      while ((await load(id)).status === 'new');
    }
    const polls = race(poll, ([id]) => set(id, { status: 'done' }), { maxStatements: 20 })
    expect((await rejection(polls, EndlessError)).anomaly).to.deep.include({ name: 'unnamed', cycle: [] })
  })

  it('unnamed: a failed check that the statements do not explain', async () => {
    const read = async ([id]: Ids): Promise<void> => {
      await load(id)
      await Accounts.increment({ balance: 1 }, { where: { id } })
    }
    const result = await race(read, read, { check: () => expect.fail('on purpose') })
    const serial = result.failures.find(({ switches }) => switches === 1)!
    expect(serial.anomaly).to.deep.equal({
      name: 'unnamed',
      cycle: [],
      sentence: 'The recorded statements do not show a cycle.',
      remedy: '',
    })
    const refused = await race(
      ([id]) => set(id, { status: 'a' }).then(() => Promise.reject(new Error('on purpose'))),
      ([id]) => set(id, { status: 'b' }),
      { failures: /nothing/ },
    )
    expect(refused.first!.anomaly.name).to.equal('unnamed')
  })

  it('none: programs that are correct', async () => {
    const withdraw = async ([id]: Ids): Promise<boolean> => {
      const where = { id, balance: 100 }
      return (await Accounts.update({ balance: 40 }, { where }))[0] === 1
    }
    const locked = ([id]: Ids): Promise<void> =>
      inTransaction(async (transaction) => {
        const account = await load(id, transaction, true)
        await account.update({ balance: account.balance - 10 }, { transaction })
      })
    for (const program of [withdraw, locked]) {
      const { verdict, failures } = await race(program)
      expect([verdict, failures]).to.deep.equal(['kept', []])
    }
  })
})
