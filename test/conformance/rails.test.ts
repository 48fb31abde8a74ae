import { expect } from 'chai'
import { DataTypes, OptimisticLockError, QueryTypes } from 'sequelize'
import type {
  CreationOptional,
  InferAttributes,
  InferCreationAttributes,
  Model,
  Sequelize,
  Transaction,
} from 'sequelize'
import {
  compareAndSetJson,
  increment,
  lock,
  lossless,
  mergeJson,
  mergeJsonKey,
  retryTransaction,
  set,
  StaleRowError,
  UnsavedChangesError,
  UnsupportedValueError,
  updateJson,
  UsageError,
  withLock,
  withLocks,
  withOptimisticLock,
} from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
import type { DatabaseName } from '../databases/index.js'
import { eachDatabase } from '../each-database.js'
import { until } from '../patience.js'
import { rejection } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'

const tableName = 'rails_runs'

type Work = (row: WorkflowRun, transaction: Transaction) => Promise<unknown>

/** Every way to hold the lock of a row while `work` runs. */
const ways: Readonly<Record<string, (row: WorkflowRun, work: Work) => Promise<unknown>>> = {
  'row.withLock': (row, work) => row.withLock(work),
  'withLock by key': (row, work) => withLock([modelOf(row), row.id], work),
  withLocks: (row, work) => withLocks([row], ([locked], transaction) => work(locked, transaction)),
  'lock in a transaction': (row, work) => transactionOf(row, (transaction) => lock(row, { transaction }), work),
}

function transactionOf(
  row: WorkflowRun,
  begin: (transaction: Transaction) => Promise<unknown>,
  work: Work,
): Promise<unknown> {
  return row.sequelize.transaction(async (transaction) => {
    await begin(transaction)
    await work(row, transaction)
  })
}

function modelOf(row: WorkflowRun): typeof WorkflowRun {
  return row.constructor as typeof WorkflowRun
}

/** Counts the sessions that wait for a row; the writers of SQLite stand in line in this process, and are no sessions. */
const waitingQuery: Partial<Record<DatabaseName, string>> = {
  mysql: `SELECT COUNT(*) AS waiting FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE '%${tableName}%'`,
  mariadb: `SELECT COUNT(*) AS waiting FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE '%${tableName}%'`,
  postgres: `SELECT COUNT(*) AS waiting FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%${tableName}%'`,
}

/** What Rails tests of its locks, and what it gave up to test; docs/proof/rails-checklist.md says which of its tests is which. */
eachDatabase('the Rails checklist: pessimistic locks', (database) => {
  let sequelize: Sequelize
  let log: string[]
  let Runs: typeof WorkflowRun
  let run: WorkflowRun

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Runs = await createRuns(sequelize, { tableName })
    await (await Runs.create()).withLock(() => undefined)
  })
  beforeEach(async () => {
    run = await Runs.create({ progress: {} })
  })

  async function stored(): Promise<WorkflowRun> {
    return Runs.findByPk(run.id, { rejectOnEmpty: true })
  }

  async function isWaiting(): Promise<true | undefined> {
    const sql = waitingQuery[database.name]
    if (sql === undefined) return true
    const [answer] = await sequelize.query<{ waiting: number | string }>(sql, { type: QueryTypes.SELECT })
    return Number(answer!.waiting) > 0 || undefined
  }

  /**
   * Two callers with connections of their own: the second one asks while the first one is at work, and the first one goes
   * on once `meanwhile` has resolved.
   */
  async function duel(
    hold: (row: WorkflowRun, work: Work) => Promise<unknown>,
    work: Record<'first' | 'second', Work>,
    meanwhile: (second: Promise<unknown>) => Promise<unknown>,
  ): Promise<string[]> {
    const events: string[] = []
    const caller = async (name: string): Promise<WorkflowRun> => {
      const logging = (sql: string): void => void (sql.includes('COMMIT') && events.push(`${name} commits`))
      const Own = defineRuns(database.connect({ logging }).sequelize, { tableName })
      await (await Own.create()).withLock(() => undefined)
      const row = await Own.findByPk(run.id, { rejectOnEmpty: true })
      events.length = 0
      return row
    }
    const [first, second] = [await caller('first'), await caller('second')]
    let start!: () => void
    const started = new Promise<void>((resolve) => (start = resolve))
    let release!: () => void
    const released = new Promise<void>((resolve) => (release = resolve))
    const firstCall = hold(first, async (row, transaction) => {
      events.push('first starts')
      start()
      await released
      await work.first(row, transaction)
      events.push('first is done')
    })
    await started
    const secondCall = hold(second, async (row, transaction) => {
      events.push('second starts')
      await work.second(row, transaction)
      events.push('second is done')
    })
    events.push('second has asked')
    await meanwhile(secondCall)
    release()
    await Promise.all([firstCall, secondCall])
    return events
  }

  for (const [way, hold] of Object.entries(ways)) {
    it(`${way}: the second caller starts after the commit of the first, and reads its write`, async () => {
      const events = await duel(
        hold,
        {
          first: (row, transaction) => row.update({ progress: { first: 1 } }, { transaction }),
          second: async (row, transaction) => {
            expect((await stored()).progress).to.deep.equal({ first: 1 })
            expect(row.progress).to.deep.equal({ first: 1 })
            await row.update({ progress: { ...row.progress, second: 1 } }, { transaction })
          },
        },
        // MariaDB answers from a cache that is never refreshed while it is asked more often than every 100 ms.
        (second) => Promise.race([until('the second caller waits', isWaiting, 120), second]),
      )
      expect(events).to.deep.equal([
        'first starts',
        'second has asked',
        'first is done',
        'first commits',
        'second starts',
        'second is done',
        'second commits',
      ])
      expect((await stored()).progress).to.deep.equal({ first: 1, second: 1 })
    })
  }

  it('without a lock, the second caller finishes first', async () => {
    const read: Work = (row, transaction) => modelOf(row).findByPk(row.id, { transaction })
    const events = await duel(
      (row, work) => transactionOf(row, (transaction) => read(row, transaction), work),
      { first: read, second: read },
      (second) => second,
    )
    expect(events).to.deep.equal([
      'first starts',
      'second has asked',
      'second starts',
      'second is done',
      'second commits',
      'first is done',
      'first commits',
    ])
  })

  it('lock() locks a row without unsaved changes, and refuses unsaved changes by name', async () => {
    await sequelize.transaction(async (transaction) => {
      expect(await lock(run, { transaction })).to.equal(run)
    })
    run.title = 'unsaved'
    await sequelize.transaction(async (transaction) => {
      const error = await rejection(lock(run, { transaction }), UnsavedChangesError)
      expect(error.columns).to.deep.equal(['title'])
      expect(error.message).to.include('"title"')
    })
    expect(run.title).to.equal('unsaved')
  })

  it('an afterSave hook can lock the row that is being saved, in the transaction of the save', async () => {
    const Hooked = await createRuns(sequelize, {
      tableName: 'rails_hooked_runs',
      hooks: {
        async afterSave(saved, { transaction }) {
          await withLock([Hooked, saved.id], (row) => row.mergeJsonKey('progress', saved.title!, 1), {
            transaction: transaction ?? null,
          })
        },
      },
    })
    const row = await Hooked.create({ title: 'create', progress: {} })
    await row.update({ title: 'update' })
    await row.withLock((locked) => locked.update({ title: 'withLock' }))
    await sequelize.transaction((transaction) => row.update({ title: 'transaction' }, { transaction }))
    const error = new Error('on purpose')
    const rolledBack = row.withLock(async (locked) => {
      await locked.update({ title: 'rolled back' })
      throw error
    })
    expect(await rejection(rolledBack, Error)).to.equal(error)
    expect((await row.reload()).progress).to.deep.equal({ create: 1, update: 1, withLock: 1, transaction: 1 })
  })

  describe('in a read-only transaction', () => {
    const calls: Record<string, (transaction: Transaction) => Promise<unknown>> = {
      lock: (transaction) => lock(run, { transaction }),
      'lock with nowait': (transaction) => lock(run, { transaction, nowait: true }),
      'row.withLock': (transaction) => run.withLock(() => expect.fail('fn ran'), { transaction }),
      'withLock by key': (transaction) => withLock([Runs, run.id], () => expect.fail('fn ran'), { transaction }),
      'withLock with timeoutMs': (transaction) =>
        run.withLock(() => expect.fail('fn ran'), { transaction, timeoutMs: 100 }),
      withLocks: (transaction) => withLocks([run], () => expect.fail('fn ran'), { transaction }),
      mergeJsonKey: (transaction) => mergeJsonKey([Runs, run.id], 'progress', 'k', 1, { transaction }),
      updateJson: (transaction) => updateJson(run, 'progress', [set('k', 1)], { transaction, returning: true }),
      mergeJson: (transaction) => mergeJson(run, 'progress', { k: 1 }, { transaction }),
      compareAndSetJson: (transaction) => compareAndSetJson(run, 'progress', 'k', 1, 2, { transaction }),
    }

    it('every call is refused before any SQL, also in a savepoint', async () => {
      await sequelize.transaction({ readOnly: true }, async (outer) => {
        const refuse = async (transaction: Transaction): Promise<void> => {
          log.length = 0
          for (const [name, call] of Object.entries(calls)) {
            expect((await rejection(call(transaction), UsageError)).message, name).to.include('read-only')
          }
          expect(log).to.deep.equal([])
        }
        await refuse(outer)
        await sequelize.transaction({ transaction: outer }, refuse)
      })
      expect((await stored()).progress).to.deep.equal({})
    })

    it('a call with transaction: null, or with another transaction, writes', async () => {
      await sequelize.transaction({ readOnly: true }, async (transaction) => {
        await run.withLock((row) => row.update({ title: 'written' }), { transaction: null })
        await transactionOf(
          run,
          (own) => lock(run, { transaction: own }),
          (row) => row.update({ progress: { written: 1 } }),
        )
        await rejection(lock(run, { transaction }), UsageError)
      })
      expect((await stored()).toJSON()).to.deep.include({ title: 'written', progress: { written: 1 } })
    })
  })
})

interface Order extends Model<InferAttributes<Order>, InferCreationAttributes<Order>>, Lossless<Order> {
  code: string
  title: CreationOptional<string | null>
  count: CreationOptional<number>
  progress: CreationOptional<Progress>
}

eachDatabase('the Rails checklist: optimistic locks', (database) => {
  let sequelize: Sequelize

  before(() => {
    ;({ sequelize } = database.connect())
  })

  for (const version of ['version', 'lockVersion'] as const) {
    describe(`in the column ${version}, with a string key, in a table named by a reserved word`, () => {
      let Orders: ReturnType<typeof defineOrders>
      let order: Order
      let codes = 0

      before(async () => {
        Orders = defineOrders(sequelize, version)
        await Orders.sync({ force: true })
      })
      after(() => Orders.drop())
      beforeEach(async () => {
        order = await Orders.create({ code: `code ${codes++}`, progress: { count: 0 } })
      })

      async function stored(): Promise<Order> {
        return Orders.findByPk(order.code, { rejectOnEmpty: true })
      }

      const writes: Record<string, () => Promise<unknown>> = {
        save: () => order.set({ title: 'x' }).save(),
        update: () => order.update({ title: 'x' }),
        'save of updatedAt alone': () => {
          order.changed('updatedAt' as never, true)
          return order.save()
        },
        increment: () => order.increment('count'),
        decrement: () => order.decrement('count'),
        'Model.increment': () => Orders.increment('count', { where: { code: order.code } }),
        'Model.decrement': () => Orders.decrement('count', { where: { code: order.code } }),
        mergeJsonKey: () => order.mergeJsonKey('progress', 'k', 1),
        'mergeJsonKey by key': () => mergeJsonKey([Orders, order.code], 'progress', 'k', 1),
        'updateJson of several operations': () =>
          order.updateJson('progress', [increment('count'), set('k', 1)], { returning: true }),
        mergeJson: () => order.mergeJson('progress', { k: 1 }),
        compareAndSetJson: () => order.compareAndSetJson('progress', 'count', 0, 1),
        'save in withLock': () => order.withLock((row) => row.set({ title: 'x' }).save()),
        'increment in withLock': () => order.withLock((row) => row.increment('count')),
        'mergeJsonKey in withLock': () => order.withLock((row) => row.mergeJsonKey('progress', 'k', 1)),
        'lock and save': () =>
          sequelize.transaction(async (transaction) => {
            await lock(order, { transaction })
            await order.update({ title: 'x' })
          }),
        withOptimisticLock: () => order.withOptimisticLock((row) => void (row.title = 'x')),
        'withOptimisticLock in a transaction': () =>
          sequelize.transaction((transaction) =>
            order.withOptimisticLock((row) => void (row.progress['k'] = 1), { transaction }),
          ),
      }

      it('every write of one row increments the version by one', async () => {
        for (const [name, write] of Object.entries(writes)) {
          order = await Orders.create({ code: `${name} ${codes++}`, progress: { count: 0 } })
          await write()
          expect((await stored()).get(version), name).to.equal(1)
        }
      })

      it('a call that changes nothing does not increment the version', async () => {
        await order.save()
        await order.update({ title: order.title })
        await order.withLock((row) => row.save())
        await order.withOptimisticLock((row) => {
          row.progress = { count: 0 }
        })
        expect(await order.compareAndSetJson('progress', 'count', 1, 2)).to.equal(false)
        expect((await stored()).get(version)).to.equal(0)
      })

      it('the version of a new row is 0, or the one given to create()', async () => {
        expect(Orders.build({ code: 'unsaved' }).get(version)).to.equal(0)
        expect(order.get(version)).to.equal(0)
        expect((await stored()).get(version)).to.equal(0)
        order = await Orders.create({ code: `given ${codes++}`, progress: {}, [version]: 42 })
        expect((await stored()).get(version)).to.equal(42)
        await order.withLock((row) => row.update({ title: 'x' }))
        expect((await stored()).get(version)).to.equal(43)
      })

      it('an assigned version is ignored', async () => {
        for (const value of [7, null]) {
          order.set(version as never, value as never)
          await order.update({ title: `beside ${value}` })
        }
        expect((await stored()).get(version)).to.equal(2)
        await order.withLock((row) => row.update({ title: 'in withLock', [version]: 7 }))
        expect((await stored()).get(version)).to.equal(3)
      })

      it('every save of a stale instance is refused, and leaves its version and its change', async () => {
        const stale = await stored()
        await order.update({ title: 'fresh' })
        for (const title of ['once', 'twice']) {
          stale.title = title
          await rejection(stale.save(), OptimisticLockError)
          expect(stale.get(version)).to.equal(0)
          expect(stale.changed()).to.include('title')
        }
        await stale.reload()
        await stale.update({ title: 'last' })
        const touching = await stored()
        await order.mergeJsonKey('progress', 'k', 1)
        touching.changed('updatedAt' as never, true)
        await rejection(touching.save(), OptimisticLockError)
        expect((await stored()).title).to.equal('last')
      })

      it('withLock, mergeJsonKey and withOptimisticLock accept a stale instance, and keep the newer values of the row', async () => {
        const stale = [await stored(), await stored(), await stored()] as const
        await order.update({ title: 'fresh' })
        await stale[0].withLock((row) => row.update({ count: 1 }))
        await stale[1].mergeJsonKey('progress', 'k', 1)
        await stale[2].withOptimisticLock((row) => void (row.progress['last'] = 1))
        const { title, count, progress } = await stored()
        expect({ title, count, progress }).to.deep.equal({
          title: 'fresh',
          count: 1,
          progress: { count: 0, k: 1, last: 1 },
        })
      })

      it('withOptimisticLock names the row in its error, and restores the instance', async () => {
        const error = await rejection(
          order.withOptimisticLock(
            async (row) => {
              await mergeJsonKey([Orders, order.code], 'progress', 'theirs', 1)
              row.title = 'mine'
            },
            { retry: { maxAttempts: 1 } },
          ),
          StaleRowError,
        )
        expect(error).to.deep.include({ modelName: 'Order', primaryKey: { code: order.code }, columns: ['title'] })
        expect(order.get(version)).to.equal(0)
        expect(order.title ?? null).to.equal(null)
      })

      it('destroy() of a stale instance deletes nothing; of a fresh instance, or in withLock, it deletes the row', async () => {
        const stale = await stored()
        await order.update({ title: 'fresh' })
        await stale.destroy()
        expect((await stored()).title).to.equal('fresh')
        await order.destroy()
        expect(await Orders.count({ where: { code: order.code } })).to.equal(0)

        order = await Orders.create({ code: `locked ${codes++}`, progress: {} })
        const other = await stored()
        await order.mergeJsonKey('progress', 'k', 1)
        await other.withLock((row) => row.destroy())
        expect(await Orders.count({ where: { code: order.code } })).to.equal(0)
      })

      it('a write finds the row by the loaded key, not by one that was assigned later', async () => {
        const other = await Orders.create({ code: `other ${codes++}`, progress: {} })
        const { code } = order
        order.code = other.code
        expect(order.code).to.equal(code)
        order.setDataValue('code', other.code)
        await order.mergeJsonKey('progress', 'k', 1)
        await rejection(
          order.withLock(() => expect.fail('fn ran')),
          UnsavedChangesError,
        )
        await rejection(
          order.withOptimisticLock(() => expect.fail('fn ran')),
          UnsavedChangesError,
        )
        expect((await other.reload()).progress).to.deep.equal({})
        expect((await Orders.findByPk(code))!.progress).to.deep.equal({ count: 0, k: 1 })
      })

      it('the version survives JSON.stringify() and Model.build()', async () => {
        const sent = JSON.stringify(order)
        const received = (): Order => Orders.build(JSON.parse(sent) as never, { isNewRecord: false, raw: true })
        await received().update({ title: 'fresh' })
        await rejection(received().update({ title: 'stale' }), OptimisticLockError)
        await received().mergeJsonKey('progress', 'k', 1)
        await received().withLock((row) => {
          expect(row.get(version)).to.equal(2)
          expect(row.title).to.equal('fresh')
        })
      })

      it('withOptimisticLock refuses a NULL version, mergeJsonKey counts it as 0, and destroy() deletes the row', async () => {
        const Nullable = defineOrders(sequelize, version, 'rails_nullable')
        await Nullable.sync({ force: true })
        await sequelize
          .getQueryInterface()
          .changeColumn('rails_nullable', version, { type: DataTypes.INTEGER, allowNull: true })
        const [destroyed, locked, merged] = await Nullable.bulkCreate(
          ['a', 'b', 'c'].map((code) => ({ code, progress: {} })),
        )
        const column = sequelize.getQueryInterface().quoteIdentifier(version)
        await sequelize.query(`UPDATE rails_nullable SET ${column} = NULL`)
        await (await destroyed!.reload()).destroy()
        await locked!.withLock((row) => row.destroy())
        await rejection(
          merged!.withOptimisticLock((row) => void (row.title = 'x')),
          UnsupportedValueError,
        )
        await merged!.mergeJsonKey('progress', 'k', 1)
        const rows = await Nullable.findAll()
        expect(rows.map((row) => [row.code, row.title, row.get(version)])).to.deep.equal([['c', null, 1]])
        await Nullable.drop()
      })

      describe('after a rollback', () => {
        const undone = new Error('on purpose')
        const rollbacks: Record<string, () => Promise<unknown>> = {
          'of withLock': () =>
            order.withLock(async (row) => {
              await row.update({ title: 'undone' })
              await row.mergeJsonKey('progress', 'undone', 1)
              throw undone
            }),
          'of withLocks': () =>
            withLocks([order], async ([row]) => {
              await row.update({ title: 'undone' })
              throw undone
            }),
          'of retryTransaction around lock': () =>
            retryTransaction(sequelize, async (transaction) => {
              await lock(order, { transaction })
              await order.update({ title: 'undone' })
              throw undone
            }),
          'of withLock around a withLock that joined it': () =>
            order.withLock(async (_row, transaction) => {
              await order.withLock((row) => row.update({ title: 'undone' }), { transaction })
              throw undone
            }),
          'of withLock around a savepoint': () =>
            order.withLock(async (row, transaction) => {
              await sequelize.transaction({ transaction }, (savepoint) =>
                row.update({ title: 'undone' }, { transaction: savepoint }),
              )
              throw undone
            }),
          'of withOptimisticLock in a transaction of withLock': () =>
            order.withLock(async (row, transaction) => {
              await row.withOptimisticLock((again) => void (again.title = 'undone'), { transaction })
              throw undone
            }),
        }
        for (const [name, rollback] of Object.entries(rollbacks)) {
          it(`${name}, the version has its earlier value, and the row can be saved`, async () => {
            await order.update({ title: 'before' })
            expect(await rejection(rollback(), Error)).to.equal(undone)
            expect(order.get(version)).to.equal(1)
            expect(order.title).to.equal('before')
            await order.update({ title: 'undone' })
            expect((await stored()).title).to.equal('undone')
            expect((await stored()).get(version)).to.equal(2)
          })
        }

        it('of a savepoint, the version has its earlier value, and the outer transaction commits the rest', async () => {
          await order.withLock(async (row, transaction) => {
            await row.update({ title: 'outer' })
            const savepoint = sequelize.transaction({ transaction }, async (nested) => {
              await row.update({ title: 'undone' }, { transaction: nested })
              throw undone
            })
            expect(await rejection(savepoint, Error)).to.equal(undone)
            expect(row.get(version)).to.equal(1)
            expect(row.title).to.equal('outer')
            await row.update({ count: 1 })
          })
          await order.update({ count: 2 })
          const row = await stored()
          expect([row.title, row.count, row.get(version)]).to.deep.equal(['outer', 2, 3])
        })
      })
    })
  }

  it('destroy() of a stale instance of a paranoid model is refused, but not in withLock', async () => {
    const Paranoid = await createRuns(sequelize, { tableName: 'rails_paranoid_runs', version: true, paranoid: true })
    const row = await Paranoid.create({ progress: {} })
    const [one, other] = await Promise.all([1, 2].map(() => Paranoid.findByPk(row.id, { rejectOnEmpty: true })))
    await row.mergeJsonKey('progress', 'k', 1)
    await rejection(one!.destroy(), OptimisticLockError)
    expect(await Paranoid.count()).to.equal(1)
    await other!.withLock((locked) => locked.destroy())
    expect(await Paranoid.count()).to.equal(0)
    const deleted = await Paranoid.findByPk(row.id, { paranoid: false, rejectOnEmpty: true })
    await withOptimisticLock(deleted, (own) => void (own.title = 'deleted'))
  })
})

function defineOrders(sequelize: Sequelize, version: string, tableName = 'order') {
  return lossless(
    sequelize.define<Order>(
      'Order',
      {
        code: { type: DataTypes.STRING, primaryKey: true },
        title: DataTypes.STRING,
        count: { type: DataTypes.INTEGER, defaultValue: 0 },
        progress: DataTypes.JSON,
      },
      { tableName, version },
    ),
  )
}
