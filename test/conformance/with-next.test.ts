import { expect } from 'chai'
import { Op, Transaction } from 'sequelize'
import type { Sequelize } from 'sequelize'
import { OutsideTransactionError, UsageError, withNext } from 'sequelize-lossless'
import type { NextRow, WithNextOptions } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

const queued = { where: { title: 'queued' }, order: ['id'] } as const satisfies NextRow<WorkflowRun>

eachDatabase('withNext', (database) => {
  const hasRowLocks = database.name !== 'sqlite'
  let sequelize: Sequelize
  let log: string[]
  let Runs: typeof WorkflowRun
  let Others: typeof WorkflowRun

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Runs = await createRuns(sequelize)
    Others = defineRuns(database.connect().sequelize)
    await withNext(Runs, queued, () => undefined)
  })
  beforeEach(async () => {
    await Runs.destroy({ where: {} })
  })

  const fill = (count: number): Promise<WorkflowRun[]> =>
    Runs.bulkCreate(Array.from({ length: count }, (_, n) => ({ title: 'queued', progress: { n } })))
  const take = (options?: WithNextOptions): Promise<number | undefined> =>
    withNext(
      Runs,
      queued,
      async (row) => {
        await row.update({ title: 'done' })
        return Number(row.progress!['n'])
      },
      options,
    )
  const statusOf = async (): Promise<readonly (string | null)[]> =>
    (await Others.findAll({ order: ['id'] })).map(({ title }) => title)

  const size = database.title === 'MySQL' ? 200 : 24
  it(`lets 8 workers process a queue of ${size} rows, each row once${hasRowLocks ? ', without waits for each other' : ''}`, async () => {
    await fill(size)
    const taken: number[] = []
    let waiting = 0
    let openGate: (() => void) | undefined
    const gate = new Promise<void>((resolve) => (openGate = resolve))
    const work = async (): Promise<void> => {
      for (let isFirst = true; ; isFirst = false) {
        const n = await withNext(Runs, queued, async (row, transaction) => {
          expect(transaction).to.be.instanceOf(Transaction)
          // Each worker holds its first row until all of them hold one.
          if (isFirst && hasRowLocks) {
            if (++waiting === 8) openGate!()
            await gate
          }
          row.title = 'done'
          await row.save()
          return Number(row.progress!['n'])
        })
        if (n === undefined) return
        taken.push(n)
      }
    }
    await Promise.all(Array.from({ length: 8 }, work))
    expect(taken.toSorted((one, other) => one - other)).to.deep.equal(Array.from({ length: size }, (_, n) => n))
    expect(new Set(await statusOf())).to.deep.equal(new Set(['done']))
  })

  it('locks the first row of the order that meets the conditions, and resolves to undefined without one', async () => {
    await fill(4)
    expect(await take()).to.equal(0)
    const last = { where: { title: 'queued' }, order: [['id', 'DESC']] } as const
    expect(await withNext(Runs, last, ({ progress }) => progress)).to.deep.equal({ n: 3 })
    const byTitle = { order: ['title', ['id', 'DESC']] } as const
    expect(await withNext(Runs, byTitle, ({ progress }) => progress)).to.deep.equal({ n: 0 })
    expect(await withNext(Runs, {}, ({ progress }) => progress)).to.deep.equal({ n: 0 })
    const isCalled: boolean[] = []
    const none = { where: { title: { [Op.in]: ['x'] } } }
    expect(await withNext(Runs, none, () => isCalled.push(true))).to.equal(undefined)
    expect(isCalled).to.deep.equal([])
  })

  it('releases the row if the callback throws, and retries if asked to', async () => {
    await fill(1)
    const failing = withNext(Runs, queued, async (row) => {
      await row.update({ title: 'done' })
      throw new RangeError('no')
    })
    await rejection(failing, RangeError)
    expect(await statusOf()).to.deep.equal(['queued'])
    expect(
      await take({ retry: { maxAttempts: 2 }, isolationLevel: Transaction.ISOLATION_LEVELS.SERIALIZABLE }),
    ).to.equal(0)
  })

  it('joins a transaction', async () => {
    await fill(2)
    const undone = sequelize.transaction(async (transaction) => {
      expect(await take({ transaction })).to.equal(0)
      expect(await take({ transaction })).to.equal(1)
      expect(await take({ transaction })).to.equal(undefined)
      throw new RangeError('undone')
    })
    await rejection(undone, RangeError)
    expect(await statusOf()).to.deep.equal(['queued', 'queued'])
    const outside = withNext(Runs, queued, () => take())
    await rejection(outside, OutsideTransactionError)
    await sequelize.transaction(async (transaction) => {
      const { ISOLATION_LEVELS } = Transaction
      await rejection(take({ transaction, isolationLevel: ISOLATION_LEVELS.SERIALIZABLE }), UsageError)
      await rejection(take({ transaction, retry: {} }), UsageError)
    })
  })

  if (hasRowLocks) {
    it('skips any number of rows that other sessions hold', async () => {
      await fill(18)
      const held = await Others.sequelize!.transaction(async (transaction) => {
        await Others.findAll({ where: { title: 'queued' }, order: ['id'], limit: 17, lock: true, transaction })
        expect(await take()).to.equal(17)
        return take()
      })
      expect(held).to.equal(undefined)
      expect(await take()).to.equal(0)
    })
  }

  it('locks no row that another session has changed since the search', async () => {
    await fill(2)
    let isChanged = false
    sequelize.addHook('afterQuery', 'between', async (_options, query) => {
      const { sql } = query as unknown as { sql: string }
      if (isChanged || !/^SELECT .id. AS .id. FROM.*LIMIT 16/.test(sql)) return
      isChanged = true
      await Others.update({ title: 'done' }, { where: {}, limit: 1 })
    })
    try {
      expect(await take()).to.equal(database.dialect === 'mysql' || database.name === 'mariadb' ? 1 : 0)
    } finally {
      sequelize.removeHook('afterQuery', 'between')
    }
  })

  it('locks one row, by its primary key, with all values bound', async () => {
    await fill(2)
    log.length = 0
    await take()
    const locks = log.filter((sql) => /^SELECT/.test(sql) && /FOR (NO KEY )?UPDATE/.test(sql))
    expect(log.join()).to.not.match(/'queued'/)
    if (!hasRowLocks) return
    const [claim, read] = locks
    expect(locks).to.have.length(2)
    expect(claim).to.match(
      database.name === 'postgres'
        ? /^SELECT "id" AS "id" FROM "workflow_runs" WHERE "title" = \$1 ORDER BY "id" LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED$/
        : /^SELECT CASE WHEN `title` = \? THEN 1 ELSE 0 END AS `isNext` FROM `workflow_runs` WHERE `id` = \? FOR UPDATE SKIP LOCKED$/,
    )
    expect(read).to.match(/WHERE .id. = \S+ AND .title. = \S+ FOR (NO KEY )?UPDATE$/)
  })

  it('refuses wrong arguments before any SQL', async () => {
    log.length = 0
    const wrong: readonly (readonly [unknown, unknown, RegExp])[] = [
      ['Runs', queued, /expected an initialised Sequelize model/],
      [Runs, undefined, /expected \{ where, order \}.*got undefined/],
      [Runs, { limit: 1 }, /got the keys limit/],
      [Runs, { order: [] }, /order absent or an array of at least one attribute/],
      [Runs, { order: 'id' }, /order absent or an array of at least one attribute/],
      [Runs, { order: ['nothing'] }, /an ordinary column of WorkflowRun.*Its ordinary columns: id, title/],
      [Runs, { order: ['progress'] }, /an ordinary column of WorkflowRun/],
      [Runs, { order: [['id', 'desc; DROP TABLE']] }, /or \[column, 'ASC' or 'DESC'\], got an array of 2/],
      [Runs, { order: [['id', 'DESC', 'title']] }, /got an array of 3/],
      [Runs, { where: { progress: {} } }, /not an ordinary column/],
      [Object.assign(defineRuns(sequelize), { primaryKeyAttributes: [] }), queued, /has no primary key/],
    ]
    for (const [model, next, text] of wrong) {
      const error = await rejection(
        withNext(model as never, next as never, () => undefined),
        UsageError,
      )
      expect(error.message).to.match(text)
    }
    await rejection(withNext(Runs, queued, undefined as never), UsageError)
    await rejection(
      withNext(Runs, queued, () => undefined, { timeoutMs: 5 } as never),
      UsageError,
    )
    expect(log).to.deep.equal([])
  })
})
