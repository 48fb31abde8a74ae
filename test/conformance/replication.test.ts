import { expect } from 'chai'
import { DatabaseError } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import {
  absent,
  addToSet,
  append,
  compareAndSetJson,
  ConditionNotMetError,
  equals,
  increment,
  JsonShapeError,
  lock,
  mergeJson,
  mergeJsonKey,
  pull,
  remove,
  retryTransaction,
  RowNotFoundError,
  set,
  updateJson,
  UsageError,
  withLock,
  withLocks,
  withOptimisticLock,
} from 'sequelize-lossless'
import { randomName } from '../databases/lookup.js'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

/** The read replica is a database without any table, so that whatever is sent there fails, or is seen to have gone there. */
eachDatabase('with a read replica', (database) => {
  if (database.name === 'sqlite') return
  const replica = randomName()
  let Admin: typeof WorkflowRun

  before(async () => {
    Admin = await createRuns(database.connect().sequelize, { tableName: 'replicated_runs', version: true })
    await Admin.sequelize!.query(`CREATE DATABASE ${replica}`)
  })
  after(async () => {
    // Those of this suite are closed by now, and PostgreSQL drops no database that has a connection.
    const { sequelize } = database.connect()
    await sequelize.query(`DROP DATABASE ${replica}`)
    await sequelize.close()
  })

  interface Replicated {
    readonly Runs: typeof WorkflowRun
    readonly run: WorkflowRun
    readonly sequelize: Sequelize
    readonly log: string[]
    /** The databases that connections were opened to. */
    readonly opened: Set<string>
  }

  /** A Sequelize instance that has sent nothing but the INSERT of `run`, not even the question who the server is. */
  async function replicated(): Promise<Replicated> {
    const { sequelize, log } = database.connect({ replication: { read: [{ database: replica }], write: {} } })
    const opened = new Set<string>()
    sequelize.addHook('beforeConnect', (config) => void opened.add(config.database))
    const Runs = defineRuns(sequelize, { tableName: 'replicated_runs', version: true })
    const run = await Runs.create({ progress: { count: 1, list: [1] } })
    expect(opened.has(replica)).to.equal(false)
    log.length = 0
    return { Runs, run, sequelize, log, opened }
  }

  describe('Sequelize alone', () => {
    const reads: Record<string, (replicated: Replicated) => Promise<unknown>> = {
      'findByPk with lock: true': ({ Runs, run }) => Runs.findByPk(run.id, { lock: true }),
      'reload of what was just written': ({ run }) => run.reload(),
      'findByPk in a read-only transaction': ({ Runs, run, sequelize }) =>
        sequelize.transaction({ readOnly: true }, (transaction) =>
          Runs.findByPk(run.id, { transaction, lock: transaction.LOCK.SHARE }),
        ),
    }
    for (const [name, read] of Object.entries(reads)) {
      it(`${name} reads from the replica`, async () => {
        const one = await replicated()
        const error = await rejection(read(one), DatabaseError)
        expect(error.message).to.match(/replicated_runs.*(doesn't|does not) exist/)
        expect(one.opened.has(replica)).to.equal(true)
      })
    }
  })

  describe('every statement is sent to the writer:', () => {
    const operations = [
      increment('count'),
      append('list', 2),
      addToSet('tags', 'a'),
      remove('gone'),
      set(['deep', 'key'], 'value'),
    ] as const
    const inTransaction = ({ sequelize }: Replicated, fn: (transaction: Transaction) => Promise<unknown>) =>
      sequelize.transaction(fn)

    const calls: Record<string, (replicated: Replicated) => Promise<unknown>> = {
      'row.withLock, and the row’s own methods in it': ({ run }) =>
        run.withLock(async (row) => {
          await row.update({ title: 'x' })
          await row.reload()
          await row.increment('id', { by: 0 })
          await row.reload()
          await row.mergeJsonKey('progress', 'k', 1, { returning: true })
          await row.withLock(() => undefined)
          await row.destroy()
        }),
      'withLock by key': ({ Runs, run }) => withLock([Runs, run.id], (row) => row.update({ title: 'x' })),
      'withLock with timeoutMs': ({ run }) => run.withLock((row) => row.update({ title: 'x' }), { timeoutMs: 1000 }),
      'withLock with nowait': ({ run }) => run.withLock((row) => row.update({ title: 'x' }), { nowait: true }),
      'withLock with retry': ({ run }) => run.withLock((row) => row.update({ title: 'x' }), { retry: {} }),
      'withLock that joins a transaction': (one) =>
        inTransaction(one, (transaction) => one.run.withLock((row) => row.update({ title: 'x' }), { transaction })),
      'withLock of a row that is gone': async ({ Runs }) => {
        await rejection(
          withLock([Runs, -1], () => expect.fail('fn ran')),
          RowNotFoundError,
        )
      },
      withLocks: async ({ Runs, run }) => {
        const other = await Runs.create({ progress: {} })
        await withLocks([other, [Runs, run.id]], ([one]) => one.update({ title: 'x' }))
      },
      'lock in a transaction': (one) =>
        inTransaction(one, async (transaction) => {
          await lock(one.run, { transaction })
          await one.run.update({ title: 'x' })
          await one.run.reload()
        }),
      'retryTransaction around lock': ({ sequelize, run }) =>
        retryTransaction(sequelize, async (transaction) => {
          await lock(run, { transaction, timeoutMs: 1000 })
          await run.update({ title: 'x' })
        }),
      'row.withOptimisticLock': ({ run }) => run.withOptimisticLock((row) => void (row.title = 'x')),
      'withOptimisticLock by key, repeated': async ({ Runs, run }) => {
        let attempts = 0
        await withOptimisticLock([Runs, run.id], async (row) => {
          if (attempts++ === 0) await Admin.increment('version' as never, { by: 0, where: { id: run.id } })
          row.title = 'x'
        })
        expect(attempts).to.equal(2)
      },
      'withOptimisticLock in a transaction': (one) =>
        inTransaction(one, (transaction) =>
          one.run.withOptimisticLock((row) => void (row.progress!['k'] = 1), { transaction }),
        ),
      'mergeJsonKey on a row': ({ run }) => run.mergeJsonKey('progress', 'k', 1),
      'mergeJsonKey of a NULL column': async ({ Runs, run }) => {
        await storeNull(run)
        await mergeJsonKey([Runs, run.id], 'progress', 'k', 1)
      },
      'mergeJsonKey of a NULL column, returning': async ({ Runs, run }) => {
        await storeNull(run)
        const document = await mergeJsonKey([Runs, run.id], 'progress', 'k', 1, { returning: true })
        expect(document).to.deep.equal({ k: 1 })
      },
      'mergeJsonKey on a row, returning': async ({ run }) => {
        await run.mergeJsonKey('progress', 'k', 1, { returning: true })
        expect(run.progress).to.deep.equal({ count: 1, list: [1], k: 1 })
      },
      'mergeJsonKey in a transaction, returning': (one) =>
        inTransaction(one, (transaction) => one.run.mergeJsonKey('progress', 'k', 1, { transaction, returning: true })),
      'updateJson of several operations': ({ run }) => run.updateJson('progress', operations),
      'updateJson of several operations, returning': async ({ Runs, run }) => {
        const document = await updateJson([Runs, run.id], 'progress', operations, { returning: true })
        expect(document).to.deep.equal({ count: 2, list: [1, 2], tags: ['a'], deep: { key: 'value' } })
      },
      'updateJson of a pull, returning': async ({ run }) => {
        await run.updateJson('progress', [pull('list', 1)], { returning: true })
        expect(run.progress).to.deep.equal({ count: 1, list: [] })
      },
      mergeJson: ({ Runs, run }) => mergeJson([Runs, run.id], 'progress', { k: { l: 1 } }),
      'mergeJson, returning': async ({ run }) => {
        await run.mergeJson('progress', { count: null }, { returning: true })
        expect(run.progress).to.deep.equal({ list: [1] })
      },
      compareAndSetJson: async ({ run }) => {
        expect(await compareAndSetJson(run, 'progress', 'count', 1, 2)).to.equal(true)
        expect(await compareAndSetJson(run, 'progress', 'count', 1, 2)).to.equal(false)
      },
      'conditions that are met': ({ run }) =>
        run.updateJson('progress', [set('k', 1)], { if: [equals('count', 1), absent('k')] }),
      'the question which condition was not met': async ({ run }) => {
        for (const returning of [false, true]) {
          const write = run.mergeJsonKey('progress', 'k', 1, { if: [equals('count', 2)], returning })
          await rejection(write, ConditionNotMetError)
        }
      },
      'the question what does not fit': async ({ run }) => {
        for (const returning of [false, true]) {
          await rejection(run.updateJson('progress', [append('count', 1)], { returning }), JsonShapeError)
        }
      },
      'the question whether the row is there': async ({ Runs }) => {
        for (const returning of [false, true] as const) {
          const write: Promise<unknown> = mergeJsonKey([Runs, -1], 'progress', 'k', 1, { returning } as object)
          await rejection(write, RowNotFoundError)
        }
      },
    }
    for (const [name, call] of Object.entries(calls)) {
      it(name, async () => {
        const one = await replicated()
        await call(one)
        expect(one.log.filter((sql) => /version\(\)|server_version/i.test(sql))).to.have.length(1)
        expect(one.opened.has(replica)).to.equal(false)
      })
    }
  })

  it('a read-only transaction, which Sequelize opens on the replica, is refused before any SQL', async () => {
    const { Runs, run, sequelize, log, opened } = await replicated()
    await sequelize.transaction({ readOnly: true }, async (transaction) => {
      expect(opened.has(replica)).to.equal(true)
      log.length = 0
      const refused: readonly Promise<unknown>[] = [
        lock(run, { transaction }),
        run.withLock(() => expect.fail('fn ran'), { transaction }),
        withLocks([[Runs, run.id]], () => expect.fail('fn ran'), { transaction }),
        run.withOptimisticLock(() => expect.fail('fn ran'), { transaction }),
        run.mergeJsonKey('progress', 'k', 1, { transaction }),
        updateJson([Runs, run.id], 'progress', [increment('count')], { transaction, returning: true }),
        run.mergeJson('progress', { k: 1 }, { transaction }),
        compareAndSetJson(run, 'progress', 'count', 1, 2, { transaction }),
      ]
      const errors = await Promise.all(refused.map((call) => rejection(call, UsageError)))
      for (const { message } of errors) expect(message).to.include('read-only')
      expect(log).to.deep.equal([])
    })
  })

  function storeNull(run: WorkflowRun): Promise<unknown> {
    return Admin.update({ progress: null }, { where: { id: run.id } })
  }
})
