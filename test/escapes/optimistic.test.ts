import { AsyncResource } from 'node:async_hooks'
import { expect } from 'chai'
import type { Sequelize, Transaction } from 'sequelize'
import * as library from 'sequelize-lossless'
import { increment, mergeJsonKey, OutsideTransactionError, UsageError, withOptimisticLock } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'
import { createJobs, freshJobs, storedJobs, untouched } from './jobs.js'
import type { Job } from './jobs.js'
import { codeOf, signal } from './outcomes.js'

eachDatabase('the callback of withOptimisticLock', (database) => {
  let sequelize: Sequelize
  let log: string[]
  let Jobs: typeof Job
  let run: Job

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Jobs = await createJobs(sequelize, { version: true })
    await mergeJsonKey([Jobs, (await freshJobs(Jobs, 1))[0]!.id], 'progress', 'warm', 1)
  })
  beforeEach(async () => {
    ;[run] = (await freshJobs(Jobs, 1)) as [Job]
    await run.update({ progress: queued.progress })
  })

  const functions = library as unknown as Readonly<Record<string, (...words: unknown[]) => unknown>>
  const queued = { ...untouched, progress: { phase: 'queued' } }

  const methods: Readonly<Record<string, (row: Job) => Promise<unknown>>> = {
    mergeJsonKey: (row) => row.mergeJsonKey('progress', 'mine', 1),
    mergeJson: (row) => row.mergeJson('progress', { mine: 1 }),
    updateJson: (row) => row.updateJson('progress', [increment('mine')]),
    compareAndSetJson: (row) => row.compareAndSetJson('progress', 'phase', 'queued', 'running'),
  }

  for (const [name, call] of Object.entries(methods)) {
    for (const joined of [false, true]) {
      it(`cannot call row.${name}() ${joined ? 'in a joined transaction' : 'by itself'}, which is refused before any SQL`, async () => {
        let statements = -1
        const fn = async (row: Job): Promise<void> => {
          log.length = 0
          const code = await codeOf(() => call(row))
          statements = log.length
          expect(code).to.equal('USAGE')
          row.title = 'saved'
        }
        if (joined) await sequelize.transaction((transaction) => run.withOptimisticLock(fn, { transaction }))
        else await run.withOptimisticLock(fn)
        expect(statements).to.equal(0)
        expect(await storedJobs(Jobs)).to.deep.equal([{ ...queued, title: 'saved' }])
      })
    }

    it(`fails with the UsageError of row.${name}(), which names the method, and stores nothing`, async () => {
      const before = run.toJSON()
      const locking = run.withOptimisticLock(async (row) => {
        row.title = 'not saved'
        await call(row)
      })
      const error = await rejection(locking, UsageError)
      expect(error.message).to.include(`row.${name}() in the callback`)
      expect(run.toJSON()).to.deep.equal(before)
      expect(run.changed()).to.equal(false)
      expect(await storedJobs(Jobs)).to.deep.equal([queued])
      // It is refused in the callback only.
      await run.mergeJsonKey('progress', 'later', 1)
      expect(await storedJobs(Jobs)).to.deep.equal([{ ...queued, progress: { phase: 'queued', later: 1 } }])
    })

    it(`cannot call ${name} as a function of the row either`, async () => {
      const words: Readonly<Record<string, unknown[]>> = {
        mergeJsonKey: ['mine', 1],
        mergeJson: [{ mine: 1 }],
        updateJson: [[increment('mine')]],
        compareAndSetJson: ['phase', 'queued', 'running'],
      }
      const locking = run.withOptimisticLock((row) => functions[name]!(row, 'progress', ...words[name]!))
      await rejection(locking, UsageError)
      expect(await storedJobs(Jobs)).to.deep.equal([queued])
    })
  }

  it('is named in the error of a write outside the transaction that it has joined', async () => {
    const call = sequelize.transaction((transaction) =>
      withOptimisticLock(run, () => Jobs.update({ n: 1 }, { where: { id: run.id } }), { transaction }),
    )
    const { message } = await rejection(call, OutsideTransactionError)
    expect(message).to.include('Pass the transaction that withOptimisticLock() has joined').and.not.include('argument')
  })

  const writes: Readonly<Record<string, (row: Job) => Promise<unknown>>> = {
    save: (row) => row.save(),
    update: (row) => row.update({ n: 1 }),
    increment: (row) => row.increment('n'),
    ...methods,
  }
  for (const [name, write] of Object.entries(writes)) {
    for (const joined of [false, true]) {
      it(`${joined ? 'in a joined transaction ' : ''}refuses ${name}() of other code, whose error says that it runs`, async () => {
        const [begun, refused] = [signal(), signal()]
        const locking = (transaction?: Transaction): Promise<unknown> =>
          withOptimisticLock(
            run,
            async (row) => {
              row.title = 'saved'
              begun.give()
              await refused.given
            },
            transaction && { transaction },
          )
        const other = async (): Promise<Error> => {
          await begun.given
          const error = await rejection(
            Promise.resolve().then(() => write(run)),
            UsageError,
          )
          refused.give()
          return error
        }
        const [{ message }] = await Promise.all([
          other(),
          joined ? sequelize.transaction((transaction) => locking(transaction)) : locking(),
        ])
        expect(message).to.match(/^\w+: withOptimisticLock\(\) of this instance of Job id=\d+ is running/)
        expect(message).to.include('Await withOptimisticLock() first, or use another instance')
        expect(await storedJobs(Jobs)).to.deep.equal([{ ...queued, title: 'saved' }])
        await write(run)
      })
    }
  }

  it('is not taken for the callback of another row, nor for one that has ended', async () => {
    const other = await Jobs.create({ title: 'other' })
    let late!: () => Promise<unknown>
    await withOptimisticLock(run, async (row) => {
      late = AsyncResource.bind(() => outcomeOf(row.update({ n: 1 })))
      row.title = 'first'
      await withOptimisticLock(other, async (inner) => {
        inner.title = 'second'
        expect((await rejection(row.save(), UsageError)).message).to.include('in the callback')
      })
    })
    await withOptimisticLock(run, async (row) => {
      row.title = 'third'
      expect(String(await late())).to.include('is running')
    })
    expect((await storedJobs(Jobs)).map(({ title }) => title)).to.deep.equal(['third', 'second'])
  })

  describe('with a hook of its save that fails to save a stale row', () => {
    for (const hook of ['beforeUpdate', 'afterUpdate'] as const) {
      it(`is not called again, and gets the error of the hook: ${hook}`, async () => {
        const total = await Jobs.create({})
        const stale = (await Jobs.findByPk(total.id))!
        await total.update({ n: 1 })
        Jobs.addHook(hook, 'fails', async (row) => {
          if (row.get('id') === run.id) await stale.update({ n: 2 })
        })
        let calls = 0
        const call = withOptimisticLock([Jobs, run.id], (row) => {
          calls++
          row.n += 100
        })
        const error = await rejection(call, Error)
        Jobs.removeHook(hook, 'fails')
        expect([calls, error.name]).to.deep.equal([1, 'SequelizeOptimisticLockError'])
        // A hook that fails after the UPDATE does not undo it.
        expect((await Jobs.findByPk(run.id))!.n).to.equal(hook === 'afterUpdate' ? 100 : 0)
      })
    }

    it('leaves the instance as it is stored, so that it can be saved again', async () => {
      Jobs.addHook('afterUpdate', 'fails', () => {
        throw new Error('after the UPDATE')
      })
      const change = (row: Job): void => void (row.n += 1)
      await rejection(withOptimisticLock(run, change), Error)
      Jobs.removeHook('afterUpdate', 'fails')
      expect([run.n, run.changed()]).to.deep.equal([1, false])
      await withOptimisticLock(run, change)
      expect((await Jobs.findByPk(run.id))!.n).to.equal(2)
    })
  })

  it('runs again after a conflict, and its row is saved once', async () => {
    let attempts = 0
    await withOptimisticLock([Jobs, run.id], async (row) => {
      // Another flow, by the key of the row.
      if (attempts++ === 0) await mergeJsonKey([Jobs, run.id], 'progress', 'theirs', 1)
      row.title = 'saved'
    })
    expect(attempts).to.equal(2)
    expect(await storedJobs(Jobs)).to.deep.equal([{ n: 0, title: 'saved', progress: { phase: 'queued', theirs: 1 } }])
  })
})
