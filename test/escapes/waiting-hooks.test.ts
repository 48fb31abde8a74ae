import { expect } from 'chai'
import type { Sequelize, Transaction } from 'sequelize'
import { useFakeTimers } from 'sinon'
import {
  atomicUpdate,
  mergeJsonKey,
  plus,
  retryTransaction,
  updateWhere,
  withLock,
  withLocks,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { warnings } from '../guard/guarded-runs.js'
import { createJobs, freshJobs, storedJobs, untouched } from './jobs.js'
import type { Job } from './jobs.js'
import { codeOf, signal } from './outcomes.js'

// Each call holds its row until its hooks have run. A bound shorter than that of Mocha would fail on a busy machine.
eachDatabase('two calls of one transaction, whose hooks write the row of the other call,', (database) => {
  let sequelize: Sequelize
  let Jobs: typeof Job
  let one: number
  let two: number

  before(async () => {
    ;({ sequelize } = database.connect())
    Jobs = await createJobs(sequelize)
  })
  beforeEach(async () => {
    ;[{ id: one }, { id: two }] = (await freshJobs(Jobs, 2)) as [Job, Job]
  })
  afterEach(() => {
    Jobs.removeHook('afterSave', 'waits')
    Jobs.removeHook('beforeSave', 'waits')
  })

  const targets = () => [[Jobs, one] as const, [Jobs, two] as const] as const

  it('do not wait for each other: two saves, each with a hook that saves the other row', async () => {
    await withLocks(targets(), async ([first, second]) => {
      Jobs.addHook('afterSave', 'waits', async (row, { fields }) => {
        if (!fields?.includes('n')) return
        const other = row.get('id') === one ? second : first
        await other.update({ title: `beside ${String(row.get('n'))}` })
      })
      await Promise.all([first.update({ n: 1 }), second.update({ n: 2 })])
    })
    expect(await storedJobs(Jobs)).to.deep.equal([
      { ...untouched, n: 1, title: 'beside 2' },
      { ...untouched, n: 2, title: 'beside 1' },
    ])
  })

  it('do not wait for each other: a save with a hook, and updateWhere() of both rows', async () => {
    await withLocks(targets(), async ([parent, child], transaction) => {
      Jobs.addHook('afterSave', 'waits', async (row) => {
        if (row === child) await parent.increment('n')
      })
      const all = updateWhere(Jobs, { id: [one, two] }, { n: plus(10) }, { transaction })
      await Promise.all([child.update({ title: 'done' }), all])
      expect([parent.n, child.n]).to.deep.equal([11, 10])
    })
    expect(await storedJobs(Jobs)).to.deep.equal([
      { ...untouched, n: 11 },
      { ...untouched, n: 10, title: 'done' },
    ])
  })

  const bulk: Readonly<Record<string, (id: number[], transaction: Transaction) => Promise<unknown>>> = {
    'Model.update()': (id, transaction) => Jobs.update({ title: 'touched' }, { where: { id }, transaction }),
    'Model.increment()': (id, transaction) => Jobs.increment('n', { where: { id }, transaction }),
  }
  for (const [name, write] of Object.entries(bulk)) {
    it(`do not wait for each other: two saves whose hooks share one batch of ${name}`, async () => {
      const ids: number[] = []
      const complete = signal()
      let batch: Promise<unknown> | undefined
      await withLocks(targets(), async ([first, second], transaction) => {
        Jobs.addHook('afterSave', 'waits', async (row) => {
          if (ids.push(row.get('id') as number) === 2) complete.give()
          batch ??= complete.given.then(() => write(ids, transaction))
          await batch
        })
        await Promise.all([first.update({ n: 1 }), second.update({ n: 1 })])
      })
      expect((await storedJobs(Jobs)).map(({ n }) => n > 0)).to.deep.equal([true, true])
    })

    it(`do not wait for each other: a hook that awaits ${name} of the callback`, async () => {
      await withLock([Jobs, one], async (row, transaction) => {
        const writes: Promise<unknown>[] = []
        Jobs.addHook('beforeSave', 'waits', async () => void (await Promise.all(writes)))
        const saved = row.update({ progress: { k: 1 } })
        writes.push(write([one], transaction))
        await Promise.all([saved, ...writes])
      })
      expect((await storedJobs(Jobs))[0]!.progress).to.deep.equal({ k: 1 })
    })
  }

  it('warn if one waits long for the other, whose hook awaits it through other code', async () => {
    const [asked, released] = [signal(), signal()]
    const printed = await warnings(() =>
      withLock([Jobs, one], async (row) => {
        const beside = asked.given.then(() => row.update({ title: 'beside' }))
        Jobs.addHook('afterSave', 'waits', async (_row, { fields }) => {
          if (fields?.includes('title')) return
          asked.give()
          await Promise.race([beside, released.given])
        })
        const clock = useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
        try {
          const saved = row.update({ n: 1 })
          while (clock.countTimers() === 0) await new Promise(setImmediate)
          clock.tick(30_000)
          released.give()
          await Promise.all([saved, beside])
        } finally {
          clock.restore()
        }
      }),
    )
    expect(printed.map(({ code }) => code)).to.deep.equal(['LONG_WAIT'])
    expect(printed[0]!.message).to.match(/^sequelize-lossless: save\(\) of a Job has waited 30 s for an earlier call/)
    expect((await storedJobs(Jobs))[0]).to.deep.equal({ ...untouched, n: 1, title: 'beside' })
  })

  it('do not wait for each other: two atomic writes, whose function onWrite writes the other row', async () => {
    const Written = await createJobs(sequelize, {
      modelName: 'Written',
      tableName: 'written_jobs',
      lossless: {
        async onWrite({ primaryKey, method, transaction }) {
          if (method !== 'mergeJsonKey') return
          await atomicUpdate([Written, 3 - Number(primaryKey['id'])], { n: plus(1) }, { transaction })
        },
      },
    })
    await Written.bulkCreate([{ id: 1 }, { id: 2 }])
    const code = await codeOf(
      sequelize.transaction((transaction) =>
        Promise.all([1, 2].map((id) => mergeJsonKey([Written, id], 'progress', 'k', 1, { transaction }))),
      ),
    )
    const rows = await storedJobs(Written)
    // A savepoint of one that fails may have the write of the other in it.
    const all = { n: 1, title: null, progress: { k: 1 } }
    const none = { n: 0, title: null, progress: {} }
    expect(rows).to.deep.equal(code === 'written' ? [all, all] : [none, none])
  })

  it('end: a callback of withLock that saves a row, beside a save of it with a hook that calls withLock', async () => {
    const code = await codeOf(
      retryTransaction(sequelize, async (transaction) => {
        const item = await Jobs.findByPk(two, { transaction, rejectOnEmpty: true })
        Jobs.addHook('afterSave', 'waits', async (row, { fields }) => {
          if (row !== item || !fields?.includes('n')) return
          await withLock([Jobs, one], (order) => order.update({ title: 'by the hook' }), { transaction })
        })
        const locked = withLock(
          [Jobs, one],
          async (order) => {
            await order.update({ n: 1 })
            await item.update({ title: 'by the callback' }, { transaction })
          },
          { transaction },
        )
        await Promise.all([locked, item.update({ n: 2 }, { transaction })])
      }),
    )
    const all = [
      { ...untouched, n: 1, title: 'by the hook' },
      { ...untouched, n: 2, title: 'by the callback' },
    ]
    expect(code).to.be.oneOf(['written', 'USAGE'])
    expect(await storedJobs(Jobs)).to.deep.equal(code === 'written' ? all : [untouched, untouched])
  })
})
