import { expect } from 'chai'
import type { Sequelize, Transaction } from 'sequelize'
import { mergeJsonKey, retryTransaction, UsageError, withLock, withLocks } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { until } from '../patience.js'
import { outcomeOf, rejection } from '../rejection.js'
import { createJobs, freshJobs, storedJobs, untouched } from './jobs.js'
import type { Job } from './jobs.js'
import { codeOf, unhandledRejections } from './outcomes.js'

eachDatabase('a forgotten await in a callback', (database) => {
  let sequelize: Sequelize
  let Jobs: typeof Job
  let Logs: typeof Job
  let run: Job

  before(async () => {
    ;({ sequelize } = database.connect())
    Jobs = await createJobs(sequelize)
    Logs = await createJobs(sequelize, { modelName: 'Log', tableName: 'logs' })
  })
  beforeEach(async () => {
    ;[run] = (await freshJobs(Jobs, 1)) as [Job]
    await Logs.destroy({ where: {} })
  })

  let begun: number
  let settled: number

  /** Calls without waiting. What becomes of it stays unhandled. */
  function forget(call: () => Promise<unknown>): void {
    begun++
    const forgotten = async (): Promise<void> => {
      try {
        await call()
      } finally {
        settled++
      }
    }
    void forgotten()
  }

  type Callback = (row: Job, transaction: Transaction) => unknown
  const ways: Readonly<Record<string, (fn: Callback) => Promise<unknown>>> = {
    'row.withLock()': (fn) => run.withLock(fn),
    'withLock([Model, id])': (fn) => withLock([Jobs, run.id], fn),
    withLocks: (fn) => withLocks([[Jobs, run.id]], ([row], transaction) => fn(row, transaction)),
    retryTransaction: (fn) => retryTransaction(sequelize, (transaction) => fn(run, transaction)),
    'a joined transaction': (fn) =>
      sequelize.transaction(async (transaction) => {
        await Logs.create({ title: 'outer' }, { transaction })
        await withLock([Jobs, run.id], fn, { transaction })
      }),
  }

  const forgotten: Readonly<Record<string, Callback>> = {
    'forEach with an async function': (_row, transaction) => {
      // eslint-disable-next-line @typescript-eslint/no-misused-promises -- the bug
      ;['a', 'b', 'c'].forEach(async (title) => {
        begun++
        try {
          await Logs.create({ title }, { transaction })
        } finally {
          settled++
        }
      })
    },
    'row.save()': async (row, transaction) => {
      await row.update({ n: 1 }, { transaction })
      row.title = 'forgotten'
      forget(() => row.save({ transaction }))
    },
    'row.update()': (row, transaction) => {
      forget(() => row.update({ title: 'forgotten' }, { transaction }))
    },
    'row.increment()': (row, transaction) => {
      forget(() => row.increment('n', { transaction }))
    },
    'row.mergeJsonKey()': (row, transaction) => {
      forget(() => row.mergeJsonKey('progress', 'forgotten', 1, { transaction }))
    },
    'mergeJsonKey([Model, id])': (row, transaction) => {
      forget(() => mergeJsonKey([Jobs, row.id], 'progress', 'forgotten', 1, { transaction }))
    },
    'Model.create()': (_row, transaction) => {
      forget(() => Logs.create({ title: 'forgotten' }, { transaction }))
    },
    'sequelize.query()': (row, transaction) => {
      forget(() => sequelize.query(`UPDATE jobs SET n = n + 1 WHERE id = ${row.id}`, { transaction }))
    },
    'the last of several': async (row, transaction) => {
      await Logs.create({ title: 'awaited' }, { transaction })
      await row.update({ title: 'awaited' }, { transaction })
      forget(() => Logs.create({ title: 'forgotten' }, { transaction }))
    },
  }

  for (const [name, call] of Object.entries(ways)) {
    for (const [what, fn] of Object.entries(forgotten)) {
      it(`of ${what} rolls back, with a PendingStatementsError: ${name}`, async () => {
        begun = settled = 0
        let outcome = ''
        const unhandled = await unhandledRejections(async () => {
          outcome = await codeOf(call(fn))
          await until('all that was forgotten is settled', () => settled === begun || undefined)
        })
        expect({
          outcome,
          stored: await storedJobs(Jobs),
          logs: await storedJobs(Logs),
          unhandled: unhandled.map(String),
        }).to.deep.equal({ outcome: 'PENDING_STATEMENTS', stored: [untouched], logs: [], unhandled: [] })
      })
    }

    it(`is not reported where the callback waits for concurrent statements: ${name}`, async () => {
      await call((row, transaction) =>
        Promise.all(['a', 'b', 'c'].map((title) => Logs.create({ title }, { transaction }))).then(() =>
          row.update({ title: 'awaited' }, { transaction }),
        ),
      )
      const titles = (await storedJobs(Logs)).map(({ title }) => title).filter((title) => title !== 'outer')
      expect(titles.toSorted()).to.deep.equal(['a', 'b', 'c'])
      expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, title: 'awaited' }])
    })
  }

  it('is reported by name: method, statement and remedy', async () => {
    begun = settled = 0
    const error = await rejection(
      run.withLock((_row, transaction) => {
        forget(() => Logs.create({ title: 'forgotten' }, { transaction }))
      }),
      Error,
    )
    await until('all that was forgotten is settled', () => settled === begun || undefined)
    expect([error.name, (error as Error & { code?: string }).code]).to.deep.equal([
      'PendingStatementsError',
      'PENDING_STATEMENTS',
    ])
    expect(error.message).to.match(/^withLock: /)
    expect(error.message).to.match(/await/)
    expect(error.message).to.match(/INSERT|logs|Log/)
  })

  it('leaves the row object as it was before', async () => {
    begun = settled = 0
    const before = run.toJSON()
    const locking = run.withLock(async (row) => {
      await row.update({ title: 'awaited', progress: { awaited: 1 } })
      forget(() => row.increment('n'))
    })
    const outcome = await codeOf(locking)
    await until('all that was forgotten is settled', () => settled === begun || undefined)
    expect(outcome).to.equal('PENDING_STATEMENTS')
    expect(run.toJSON()).to.deep.equal(before)
    expect(run.changed()).to.equal(false)
    await run.withLock((row) => row.update({ title: 'later' }))
    expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, title: 'later' }])
  })

  it('is not reported for a read that the callback awaits later', async () => {
    await run.withLock(async (row, transaction) => {
      const reading = Logs.findAll({ transaction })
      await row.update({ title: 'awaited' })
      await reading
    })
    expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, title: 'awaited' }])
  })

  const lazy: Readonly<Record<string, () => unknown>> = {
    'an Observable': () => ({ subscribe: () => undefined }),
    'a generator': () =>
      (function* () {
        yield 1
      })(),
    'an async generator': () =>
      (async function* () {
        yield await Promise.resolve(1)
      })(),
  }

  for (const [name, call] of Object.entries(ways)) {
    for (const [what, make] of Object.entries(lazy)) {
      it(`is refused, like a callback that returns ${what}: ${name}`, async () => {
        const outcome = await outcomeOf(
          call(async (row, transaction) => {
            await row.update({ title: 'rolled back' }, { transaction })
            return make()
          }),
        )
        expect(await storedJobs(Jobs)).to.deep.equal([untouched])
        expect(await storedJobs(Logs)).to.deep.equal([])
        expect(outcome).to.be.instanceOf(UsageError).and.have.property('code', 'USAGE')
      })
    }
  }

  it('is refused, like a generator function as the callback', async () => {
    let ran = false
    const outcome = await outcomeOf(
      withLock([Jobs, run.id], function* (row) {
        ran = true
        yield row.update({ title: 'never' })
      }),
    )
    expect(ran).to.equal(false)
    expect(outcome).to.be.instanceOf(UsageError)
  })
})
