import { expect } from 'chai'
import { DatabaseError, QueryTypes, UniqueConstraintError } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import {
  lock,
  mergeJsonKey,
  retryTransaction,
  RolledBackError,
  set,
  updateWhere,
  withLock,
  withLocks,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { until } from '../patience.js'
import { outcomeOf, rejection } from '../rejection.js'
import { Collision, writeTheirs } from './collision.js'
import { fillDisk } from './full-disk.js'
import { createJobs, freshJobs, storedJobs, untouched } from './jobs.js'
import type { Job } from './jobs.js'
import { codeOf } from './outcomes.js'

eachDatabase('a callback whose transaction was rolled back', (database) => {
  let sequelize: Sequelize
  let rival: Sequelize
  let Jobs: typeof Job
  let first: Job
  let second: Job
  let collision: Collision | undefined

  before(async () => {
    ;({ sequelize } = database.connect())
    ;({ sequelize: rival } = database.connect())
    Jobs = await createJobs(sequelize)
  })
  beforeEach(async () => {
    ;[first, second] = (await freshJobs(Jobs, 2)) as [Job, Job]
    collision = undefined
  })
  afterEach(() => collision?.end())

  /** Each ends the transaction, which holds `first`, and has another session write its key there. */
  const endings: Readonly<Record<string, (transaction: Transaction) => Promise<void>>> = {
    [database.name === 'sqlite' ? 'a full disk' : 'a deadlock']: async (transaction) => {
      await collision!.arm(transaction)
      await collision!.strike(transaction).catch(() => undefined)
      await collision!.acknowledged
    },
    'rollback()': async (transaction) => {
      await transaction.rollback()
      await writeTheirs(database, rival, first.id)
    },
  }

  type Options = { transaction?: Transaction }
  const calls: Readonly<Record<string, (run: Job, options: Options) => Promise<unknown>>> = {
    'row.save()': (run, options) => {
      run.progress = { ...run.progress, mine: 1 }
      return run.save(options)
    },
    'row.save() of a change in place': (run, options) => {
      run.progress['mine'] = 1
      return run.save(options)
    },
    'row.update()': (run, options) => run.update({ progress: { ...run.progress, mine: 1 } }, options),
    'row.increment()': (run, options) => run.increment('n', options),
    'row.destroy()': (run, options) => run.destroy(options),
    'row.reload()': (run, options) => run.reload(options),
    'row.mergeJsonKey()': (run, options) => run.mergeJsonKey('progress', 'mine', 1, options),
    'mergeJsonKey([Model, id])': (_run, options) => mergeJsonKey([Jobs, first.id], 'progress', 'mine', 1, options),
    'Model.update()': (_run, options) => Jobs.update({ title: 'mine' }, { where: { id: second.id }, ...options }),
    'Model.create()': (_run, options) => Jobs.create({ title: 'mine' }, options),
  }

  const theirs = { ...untouched, progress: { theirs: 1 } }

  for (const [ending, end] of Object.entries(endings)) {
    describe(`by ${ending}`, () => {
      beforeEach(async () => {
        if (ending !== 'rollback()') collision = await Collision.begin(database, rival, Jobs, first.id, second.id)
      })

      for (const [name, call] of Object.entries(calls)) {
        for (const told of [false, true]) {
          it(`cannot call ${name} ${told ? 'with that transaction' : 'without a transaction'}, and stores nothing`, async () => {
            let code = 'was not called'
            const locking = withLock([Jobs, first.id], async (run, transaction) => {
              await end(transaction)
              code = await codeOf(() => call(run, told ? { transaction } : {}))
            })
            const outcome = await codeOf(locking)
            expect({ call: code, withLock: outcome, stored: await storedJobs(Jobs) }).to.deep.equal({
              call: 'ROLLED_BACK',
              withLock: 'ROLLED_BACK',
              stored: [theirs, untouched],
            })
          })
        }
      }

      it('fails with a RolledBackError, in withLock, withLocks and retryTransaction, though it returns a value', async () => {
        const work = async (transaction: Transaction): Promise<string> => {
          if (ending !== 'rollback()') {
            collision ??= await Collision.begin(database, rival, Jobs, first.id, second.id)
          }
          await Jobs.increment('n', { where: { id: first.id }, transaction })
          await end(transaction)
          await collision?.end()
          collision = undefined
          return 'what fn returned'
        }
        const ways = [
          () => withLock([Jobs, first.id], (_run, transaction) => work(transaction)),
          () => withLocks([[Jobs, first.id]], (_runs, transaction) => work(transaction)),
          () => retryTransaction(sequelize, work, { maxAttempts: 1 }),
        ]
        for (const way of ways) expect(await outcomeOf(way())).to.be.instanceOf(RolledBackError)
        expect(await storedJobs(Jobs)).to.deep.equal([theirs, untouched])
      })

      it('leaves the row object as it was before withLock', async () => {
        const run = await Jobs.findByPk(first.id, { rejectOnEmpty: true })
        const before = run.toJSON()
        const locking = run.withLock(async (row, transaction) => {
          await row.update({ title: 'mine', progress: { mine: 1 } })
          await end(transaction)
          await row.update({ title: 'mine again' }).catch(() => undefined)
        })
        expect(await codeOf(locking)).to.equal('ROLLED_BACK')
        expect(run.toJSON()).to.deep.equal(before)
        expect(run.changed()).to.equal(false)
      })

      it('ends a joined transaction too, which its owner cannot commit', async () => {
        const outer = sequelize.transaction(async (transaction) => {
          await Jobs.update({ title: 'outer' }, { where: { id: first.id }, transaction })
          await withLock(
            [Jobs, first.id],
            async (run) => {
              await end(transaction)
              await run.update({ title: 'mine' }).catch(() => undefined)
            },
            { transaction },
          ).catch(() => undefined)
        })
        expect(await codeOf(outer)).to.not.equal('written')
        expect(await storedJobs(Jobs)).to.deep.equal([theirs, untouched])
      })
    })
  }

  if (database.name === 'sqlite') {
    it('stores all or nothing after a full disk, if SQLite rolled back only one statement', async () => {
      const locking = withLock([Jobs, first.id], async (run, transaction) => {
        await Jobs.increment('n', { where: { id: second.id }, transaction })
        const title = await fillDisk(sequelize, transaction)
        // An insert of several rows has a journal of its own.
        const rows = [{ title }, { title }]
        await Jobs.bulkCreate(rows, { transaction }).catch(() => undefined)
        await run.update({ title: 'mine' })
      })
      const code = await codeOf(locking)
      expect(code).to.be.oneOf(['written', 'ROLLED_BACK'])
      const all = [
        { ...untouched, title: 'mine' },
        { ...untouched, n: 1 },
      ]
      expect(await storedJobs(Jobs)).to.deep.equal(code === 'written' ? all : [untouched, untouched])
      await writeTheirs(database, rival, first.id)
    })
  }

  it('can write outside the transaction with { transaction: null }', async () => {
    const locking = withLock([Jobs, first.id], async (_run, transaction) => {
      await transaction.rollback()
      await Jobs.update({ title: 'on purpose' }, { where: { id: second.id }, transaction: null })
    })
    expect(await codeOf(locking)).to.equal('ROLLED_BACK')
    expect(await storedJobs(Jobs)).to.deep.equal([untouched, { ...untouched, title: 'on purpose' }])
  })
})

eachDatabase('a callback that catches the error of a statement', (database) => {
  let sequelize: Sequelize
  let rival: Sequelize
  let log: string[]
  let Jobs: typeof Job
  let first: Job
  let second: Job

  before(async () => {
    ;({ sequelize, log } = database.connect())
    ;({ sequelize: rival } = database.connect())
    Jobs = await createJobs(sequelize)
  })
  beforeEach(async () => {
    ;[first, second] = (await freshJobs(Jobs, 2)) as [Job, Job]
  })

  const duplicate = (transaction: Transaction): Promise<unknown> =>
    outcomeOf(Jobs.create({ id: second.id }, { transaction }))

  /** A statement that fails in a savepoint. */
  const recovered = (transaction: Transaction): Promise<unknown> =>
    outcomeOf(
      sequelize.transaction({ transaction }, (inner) =>
        sequelize.query('SELECT no_such_column FROM jobs', { transaction: inner }),
      ),
    )

  type Ways = Readonly<Record<string, (fn: (transaction: Transaction) => Promise<unknown>) => Promise<unknown>>>
  const ways: Ways = {
    withLock: (fn) => first.withLock((_run, transaction) => fn(transaction)),
    retryTransaction: (fn) => retryTransaction(sequelize, fn),
    'sequelize.transaction': (fn) =>
      sequelize.transaction(async (transaction) => {
        await lock(first, { transaction })
        return fn(transaction)
      }),
  }
  const calls: Readonly<Record<string, (transaction: Transaction) => Promise<unknown>>> = {
    'row.update()': (transaction) => second.update({ title: 'mine' }, { transaction }),
    'row.mergeJsonKey()': (transaction) => second.mergeJsonKey('progress', 'mine', 1, { transaction }),
    'Model.findAll()': (transaction) => Jobs.findAll({ transaction }),
    'sequelize.query()': (transaction) => sequelize.query('SELECT 1', { type: QueryTypes.SELECT, transaction }),
    'a savepoint': (transaction) => sequelize.transaction({ transaction }, () => Promise.resolve()),
  }

  const rollbacksToSavepoint = [
    'ROLLBACK TO SAVEPOINT own',
    '/* a comment */ ROLLBACK TO SAVEPOINT own',
    // Sequelize does not send SQL to SQLite that begins with such a comment.
    ...(database.name === 'sqlite' ? [] : ['-- a comment\nROLLBACK TO own']),
    'ROLLBACK /* a ** comment */ TO own',
  ]

  for (const [name, inTransaction] of Object.entries(ways)) {
    for (const [what, call] of Object.entries(calls)) {
      it(`in ${name} can call ${what}; on PostgreSQL the call is refused before any SQL, with the remedy`, async () => {
        let error: unknown
        let later: unknown
        const whole = await outcomeOf(
          inTransaction(async (transaction) => {
            error = await duplicate(transaction)
            log.length = 0
            later = await outcomeOf(call(transaction))
          }),
        )
        if (database.name !== 'postgres') {
          expect([later, whole]).to.deep.equal(['written', 'written'])
          return
        }
        expect(log).to.deep.equal(log.filter((sql) => /^(COMMIT|ROLLBACK);$/.test(sql)))
        expect(whole).to.be.instanceOf(RolledBackError)
        expect(later).to.be.instanceOf(RolledBackError)
        expect((later as RolledBackError).cause).to.equal(error)
        expect((later as RolledBackError).message).to.equal(
          `${name}: an earlier statement of the transaction failed (SequelizeUniqueConstraintError, 23505). ` +
            'The database then takes no further statement of the transaction, so this one was not sent. ' +
            'Run the statement that may fail in a savepoint, await it before the next statement, and catch the error of the savepoint: ' +
            'await sequelize.transaction({ transaction }, (savepoint) => Model.create({ … }, { transaction: savepoint })).',
        )
      })
    }

    it(`in ${name} can continue after the savepoint that the remedy names`, async () => {
      await inTransaction(async (transaction) => {
        const savepoint = sequelize.transaction({ transaction }, (inner) =>
          Jobs.create({ id: second.id }, { transaction: inner }),
        )
        await rejection(savepoint, UniqueConstraintError)
        await second.update({ title: 'mine' }, { transaction })
      })
      expect((await storedJobs(Jobs)).map(({ title }) => title)).to.deep.equal(['before', 'mine'])
    })

    for (const rollback of rollbacksToSavepoint) {
      it(`in ${name} can continue after ${JSON.stringify(rollback)} in SQL`, async () => {
        await inTransaction(async (transaction) => {
          await sequelize.query('/* before */ SAVEPOINT own', { transaction })
          await second.update({ title: 'undone' }, { transaction })
          await duplicate(transaction)
          await sequelize.query(rollback, { transaction })
          if (name !== 'sequelize.transaction') expect(second.title).to.equal('before')
          await second.update({ n: 1 }, { transaction })
        })
        expect((await storedJobs(Jobs))[1]).to.deep.equal({ ...untouched, n: 1 })
      })
    }
  }

  it('inside a savepoint can continue only after the savepoint', async () => {
    await retryTransaction(sequelize, async (transaction) => {
      const savepoint = sequelize.transaction({ transaction }, async (inner) => {
        await duplicate(inner)
        await second.update({ title: 'inner' }, { transaction: inner })
      })
      expect(await codeOf(savepoint)).to.equal(database.name === 'postgres' ? 'ROLLED_BACK' : 'written')
      await first.update({ title: 'mine' }, { transaction })
    })
    expect((await storedJobs(Jobs))[0]!.title).to.equal('mine')
  })

  it('before a call of this library joins gets the same error, with the server’s error as its cause', async () => {
    const outer = sequelize.transaction(async (transaction) => {
      await duplicate(transaction)
      await mergeJsonKey([Jobs, second.id], 'progress', 'mine', 1, { transaction })
    })
    if (database.name !== 'postgres') return outer
    const error = await rejection(outer, RolledBackError)
    expect((error.cause as Error).message).to.include('current transaction is aborted')
    return undefined
  })

  if (database.name === 'postgres') {
    it('of a trigger that raises 25P02 by itself gets the message of the trigger', async () => {
      await sequelize.query(
        `CREATE FUNCTION refuse_job() RETURNS trigger AS $$ BEGIN RAISE 'no job today' USING ERRCODE = '25P02'; END $$ LANGUAGE plpgsql`,
      )
      await sequelize.query('CREATE TRIGGER refusing BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION refuse_job()')
      try {
        for (const call of [
          () => first.withLock((job) => job.update({ n: 1 })),
          () => updateWhere(Jobs, { id: first.id }, { progress: [set('a', 1)] }),
          () => mergeJsonKey([Jobs, first.id], 'progress', 'a', 1),
        ]) {
          expect((await rejection(call(), DatabaseError)).message).to.equal('no job today')
        }
      } finally {
        await sequelize.query('DROP TRIGGER refusing ON jobs')
      }
    })

    it('after the server closed its connection gets an error that names the lost connection', async () => {
      const locking = first.withLock(async (job, transaction) => {
        const [{ pid }] = (await sequelize.query<{ pid: number }>('SELECT pg_backend_pid() AS pid', {
          type: QueryTypes.SELECT,
          transaction,
          plain: false,
        })) as [{ pid: number }]
        await rival.query(`SELECT pg_terminate_backend(${pid})`)
        await until('the driver sees the end of the connection', () =>
          outcomeOf(job.reload({ transaction })).then((outcome) => outcome instanceof RolledBackError || undefined),
        )
      })
      const { message } = await rejection(locking, RolledBackError)
      expect(message).to.match(/^withLock: the connection of the transaction was lost/)
    })
  }

  if (database.name !== 'sqlite') {
    for (const isChanged of [false, true]) {
      it(`after its connection was killed is a RolledBackError${isChanged ? ', whatever it has not saved' : ''}`, async () => {
        const later: unknown[] = []
        const locking = first.withLock(async (job, transaction) => {
          const postgres = database.name === 'postgres'
          const own = postgres ? 'SELECT pg_backend_pid() AS session' : 'SELECT CONNECTION_ID() AS session'
          const [found] = await sequelize.query<{ session: number }>(own, { type: QueryTypes.SELECT, transaction })
          const { session } = found!
          await rival.query(postgres ? `SELECT pg_terminate_backend(${session})` : `KILL CONNECTION ${session}`)
          await until('the driver sees the end of the connection', () =>
            outcomeOf(sequelize.query('SELECT 1', { transaction })).then(
              (outcome) => outcome !== 'written' || undefined,
            ),
          )
          later.push(await outcomeOf(job.update({ n: 1 })))
          if (isChanged) job.progress['unsaved'] = 1
        })
        const { message } = await rejection(locking, RolledBackError)
        expect(message).to.match(/^withLock: the connection of the transaction was lost/)
        expect(later[0]).to.be.instanceOf(RolledBackError)
        expect(await storedJobs(Jobs)).to.deep.equal([untouched, untouched])
        expect([first.n, first.progress, first.changed()]).to.deep.equal([0, {}, false])
      })
    }
  }

  it('names the later error as the cause, if the server ends the transaction after a caught error', async () => {
    let struck: unknown
    const collision = await Collision.begin(database, rival, Jobs, first.id, second.id)
    try {
      const locking = first.withLock(async (_run, transaction) => {
        await recovered(transaction)
        await collision.arm(transaction)
        struck = await outcomeOf(collision.strike(transaction))
      })
      expect((await rejection(locking, RolledBackError)).cause).to.equal(struck)
    } finally {
      await collision.end()
    }
  })

  if (database.name !== 'sqlite') {
    it('before a deadlock that ends the transaction, is called again with retry', async () => {
      let attempts = 0
      const collision = await Collision.begin(database, rival, Jobs, first.id, second.id)
      try {
        await first.withLock(
          async (_run, transaction) => {
            if (++attempts > 1) return
            await recovered(transaction)
            await collision.arm(transaction)
            await outcomeOf(collision.strike(transaction))
          },
          { retry: { maxAttempts: 2 } },
        )
      } finally {
        await collision.end()
      }
      expect(attempts).to.equal(2)
    })
  }
})
