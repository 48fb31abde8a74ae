import { AsyncLocalStorage } from 'node:async_hooks'
import { expect } from 'chai'
import * as sinon from 'sinon'
import { BaseError, OptimisticLockError, QueryTypes } from 'sequelize'
import {
  absent,
  append,
  compareAndSetJson,
  ConditionNotMetError,
  equals,
  flush,
  increment,
  JsonShapeError,
  lossless,
  max,
  merge,
  mergeJsonKey,
  min,
  OutsideTransactionError,
  prepend,
  pull,
  addToSet,
  remove,
  rename,
  RowNotFoundError,
  set,
  setIfAbsent,
  updateJson,
  UsageError,
  withLock,
} from 'sequelize-lossless'
import type { Operation } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'
import { expected } from './expected.js'

const coalesce = { coalesce: true }

function list<T>(length: number, make: (index: number) => T): T[] {
  return Array.from({ length }, (_, index) => make(index))
}

eachDatabase('calls that are coalesced', (database) => {
  let Runs: typeof WorkflowRun
  let log: string[]
  let id: number

  before(async () => {
    const connection = database.connect()
    log = connection.log
    Runs = await createRuns(connection.sequelize)
    const warm = await Runs.create({ progress: {} })
    await warm.mergeJsonKey('progress', 'warm', 1)
  })

  beforeEach(async () => {
    ;({ id } = await Runs.create({ progress: {} }))
    log.length = 0
  })

  async function progress(): Promise<Progress> {
    return (await Runs.findByPk(id, { rejectOnEmpty: true })).progress!
  }

  const updates = (): string[] => log.filter((sql) => /UPDATE \S+ SET/.test(sql))

  async function write(operations: readonly Operation[], options: object = coalesce): Promise<void> {
    await updateJson<WorkflowRun, 'progress', readonly Operation[]>([Runs, id], 'progress', operations, options)
  }

  it('are two statements: the first call alone, then all later ones in the order of calls', async () => {
    const told: number[] = []
    const calls = list(100, async (index) => {
      await mergeJsonKey([Runs, id], 'progress', `step_${index}`, index, coalesce)
      told.push(index)
    })
    await Promise.all(calls)
    expect(updates()).to.have.length(2)
    expect(told).to.deep.equal(list(100, (index) => index))
    expect(await progress()).to.deep.equal(Object.fromEntries(list(100, (index) => [`step_${index}`, index])))
  })

  it('start from NULL', async () => {
    await Runs.update({ progress: null }, { where: { id } })
    await Promise.all(list(50, () => write([increment('count'), append('log', 'x')])))
    expect(await progress()).to.deep.equal({ count: 50, log: list(50, () => 'x') })
  })

  it('find a soft-deleted row by its instance, and not by its key beside it', async () => {
    const Kept = await createRuns(Runs.sequelize!, { tableName: 'coalesced_kept', timestamps: true, paranoid: true })
    const row = await Kept.create({ progress: {} })
    await row.destroy()
    const calls = ['a', 'b', 'c'].flatMap((key) => [
      row.mergeJsonKey('progress', `instance_${key}`, 1, coalesce),
      rejection(mergeJsonKey([Kept, row.id], 'progress', `key_${key}`, 1, coalesce), RowNotFoundError),
    ])
    await Promise.all(calls)
    await row.reload({ paranoid: false })
    expect(row.progress).to.deep.equal({ instance_a: 1, instance_b: 1, instance_c: 1 })
  })

  it('do to one path what calls one after the other do', async () => {
    const calls = list(60, (index) =>
      write([
        set(['last', 'call'], index),
        setIfAbsent('first', index),
        increment('count', index),
        increment('bytes', 100_000_000 + index),
        append('log', index, `${index}`),
        min('low', -index),
        max('high', index),
        remove('draft'),
        merge('state', { [`s${index % 7}`]: index, gone: null }),
      ]),
    )
    await Promise.all(calls)
    expect(updates()).to.have.length(2)
    expect(await progress()).to.deep.equal({
      last: { call: 59 },
      first: 0,
      count: (59 * 60) / 2,
      bytes: 60 * 100_000_000 + (59 * 60) / 2,
      log: list(60, (index) => [index, `${index}`]).flat(),
      low: -59,
      high: 59,
      state: Object.fromEntries(list(7, (rest) => [`s${rest}`, rest + 7 * Math.floor((59 - rest) / 7)])),
    })
  })

  it('wait for the next statement if they cannot share one', async () => {
    const calls: readonly (readonly Operation[])[] = [
      [set('alone', 1)],
      [set(['a', 'b'], 1)],
      [set(['a', 'c'], 1)],
      // Its parent.
      [merge('a', { d: [1] })],
      // Inside it.
      [append(['a', 'd'], 2)],
      // Of other kinds, and two ends of a rename.
      [rename('a', 'z')],
      [set('z', 2)],
      [increment('z', 0.5)],
      [increment('z', 0.25)],
      // A fraction that the sum would round off.
      [increment('long', 99_999_999_999_999)],
      [increment('long', 0.00001)],
      [addToSet('tags', 'x')],
      [addToSet('tags', 'y')],
      [pull('tags', 'x')],
      [prepend('tags', 'w')],
      // null, and then an object: no patch says both.
      [merge([], { y: null, gone: 1 })],
      [merge([], { y: { inner: 1 }, gone: null })],
    ]
    await Promise.all(calls.map((operations) => write(operations)))
    expect(await progress()).to.deep.equal({
      alone: 1,
      z: 2.75,
      long: 99_999_999_999_999,
      tags: ['w', 'y'],
      y: { inner: 1 },
    })
    expect(updates()).to.have.length(14)
  })

  it('fail alone for an error of their own, and the rest of the batch is written', async () => {
    await Runs.update({ progress: { count: 5 } }, { where: { id } })
    log.length = 0
    const calls = list(64, (index) =>
      index % 20 === 7 ? write([set(`k${index}`, 1), append('count', 1)]) : write([set(`k${index}`, 1)]),
    )
    const settled = await Promise.allSettled(calls)
    const failed = settled.flatMap((each, index) =>
      each.status === 'rejected' ? [[index, each.reason as unknown]] : [],
    )
    expect(failed.map(([index]) => index)).to.deep.equal([7, 27, 47])
    for (const [, error] of failed) expect(error).to.be.instanceOf(JsonShapeError)
    const good = list(64, (index) => index).filter((index) => index % 20 !== 7)
    expect(await progress()).to.deep.equal({ count: 5, ...Object.fromEntries(good.map((index) => [`k${index}`, 1])) })
    // Halves of halves, not each on its own.
    expect(updates().length).to.be.below(60)
  })

  it('form a new batch after some of them were sent alone', async () => {
    await Runs.update({ progress: { count: 5 } }, { where: { id } })
    const most = 999_999_999_999_999
    const calls = [set('first', 1), increment('n', -most), append('count', 1), ...list(3, () => increment('n', most))]
    const settled = await Promise.allSettled(calls.map((each) => write([each])))
    expect(settled.flatMap(({ status }, index) => (status === 'rejected' ? [index] : []))).to.deep.equal([2])
    // The last three have no sum that JavaScript holds for certain.
    expect(await progress()).to.deep.equal({ count: 5, first: 1, n: 2 * most })
  })

  it('fail alone if the database refuses them', async () => {
    const at = database.name === 'postgres' ? `progress->>'poison'` : `JSON_EXTRACT(progress, '$.poison')`
    if (database.name === 'sqlite') {
      await Runs.sequelize!.query(
        `CREATE TRIGGER no_poison BEFORE UPDATE ON workflow_runs WHEN json_extract(new.progress, '$.poison') IS NOT NULL ` +
          `BEGIN SELECT RAISE(ABORT, 'poisoned'); END`,
      )
    } else await Runs.sequelize!.query(`ALTER TABLE workflow_runs ADD CONSTRAINT no_poison CHECK (${at} IS NULL)`)
    try {
      const calls = list(20, (index) =>
        mergeJsonKey([Runs, id], 'progress', index === 11 ? 'poison' : `k${index}`, 1, coalesce),
      )
      const settled = await Promise.allSettled(calls)
      expect(settled.flatMap(({ status }, index) => (status === 'rejected' ? [index] : []))).to.deep.equal([11])
      expect((settled[11] as PromiseRejectedResult).reason).to.be.instanceOf(BaseError)
      expect(Object.keys(await progress())).to.have.length(19)
      // Its last call is in a batch that starts from the text of the batch before.
      const many = list(100, async (caller) => {
        for (const call of list(3, (each) => each)) {
          const key = caller === 50 && call === 2 ? 'poison' : `many_${caller}_${call}`
          await mergeJsonKey([Runs, id], 'progress', key, 1, coalesce)
        }
      })
      const ends = await Promise.allSettled(many)
      expect(ends.flatMap(({ status }, index) => (status === 'rejected' ? [index] : []))).to.deep.equal([50])
      expect(Object.keys(await progress())).to.have.length(19 + 299)
    } finally {
      const drop =
        database.name === 'sqlite' ? 'DROP TRIGGER no_poison' : 'ALTER TABLE workflow_runs DROP CONSTRAINT no_poison'
      await Runs.sequelize!.query(drop)
    }
  })

  if (database.name === 'mariadb' || database.name === 'postgres') {
    it('are not sent again after a lock timeout, which no call has caused', async () => {
      const { sequelize, log: sent } = database.connect({ pool: { max: 1 } })
      const limit = database.name === 'postgres' ? 'statement_timeout = 200' : 'max_statement_time = 0.2'
      await sequelize.query(`SET SESSION ${limit}`)
      const Hasty = defineRuns(sequelize)
      await mergeJsonKey([Hasty, id], 'progress', 'warm', 1)
      sent.length = 0
      await withLock([Runs, id], async () => {
        const settled = await Promise.allSettled(
          list(9, (index) => mergeJsonKey([Hasty, id], 'progress', `k${index}`, 1, coalesce)),
        )
        for (const each of settled) expect((each as PromiseRejectedResult).reason).to.be.instanceOf(BaseError)
      })
      expect(sent).to.have.length(2)
      expect(await progress()).to.deep.equal({ warm: 1 })
    })
  }

  it('to a missing row reject with RowNotFoundError, and are not sent again', async () => {
    await Runs.destroy({ where: { id } })
    log.length = 0
    const settled = await Promise.allSettled(list(40, (index) => write([set(`k${index}`, 1)])))
    for (const each of settled) expect((each as PromiseRejectedResult).reason).to.be.instanceOf(RowNotFoundError)
    expect(log.length).to.be.below(10)
  })

  it('keep their place in the order with a condition, or with an answer of their own', async () => {
    const before = [write([set('a', 1)]), write([set('b', 1)])]
    const claimed = compareAndSetJson([Runs, id], 'progress', 'b', 1, 2, coalesce)
    const answered = mergeJsonKey([Runs, id], 'progress', 'c', 1, { ...coalesce, returning: true })
    const refused = write([set('d', 1)], { ...coalesce, if: [absent('a')] })
    const after = write([set('e', 1)])
    expect(await claimed).to.equal(true)
    expect(await answered).to.deep.equal({ a: 1, b: 2, c: 1 })
    await rejection(refused, ConditionNotMetError)
    await Promise.all([...before, after])
    expect(await progress()).to.deep.equal({ a: 1, b: 2, c: 1, e: 1 })
  })

  it('share a statement only with calls of the same retries', async () => {
    const patient = { ...coalesce, retry: { maxAttempts: 10 } }
    await Promise.all(list(9, (index) => write([set(`k${index}`, 1)], index < 5 ? coalesce : { ...patient })))
    expect(updates()).to.have.length(3)
    const seen: unknown[] = []
    const watched = { ...coalesce, retry: { onRetry: () => seen.push(1) } }
    await Promise.all(list(4, (index) => write([set(`k${index}`, 2)], watched)))
    expect(updates()).to.have.length(7)
  })

  it('share a statement across scopes of the model, and with logging off', async () => {
    Runs.addScope('untitled', { where: { title: null } }, { override: true })
    const models = [Runs, Runs.unscoped(), Runs.scope('untitled')]
    const untold = list(3, (index) => mergeJsonKey([models[index]!, id], 'progress', `k${index}`, 1, coalesce))
    await Promise.all([...untold, ...models.map((each) => mergeJsonKey([each, id], 'progress', 'last', 1, coalesce))])
    expect(updates()).to.have.length(2)
    const sent: string[] = []
    Runs.sequelize!.addHook('beforeQuery', 'count', () => void sent.push('one'))
    await Promise.all(list(9, (index) => write([set(`quiet${index}`, 1)], { ...coalesce, logging: false })))
    Runs.sequelize!.removeHook('beforeQuery', 'count')
    expect(sent.length).to.be.below(3)
    expect(Object.keys(await progress())).to.have.length(13)
  })

  it('run each callback in the async context of its call', async () => {
    const request = new AsyncLocalStorage<number>()
    const seen: unknown[] = []
    const logging = (): void => void seen.push(request.getStore())
    await Promise.all(list(3, (index) => request.run(index, () => write([set('a', index)], { ...coalesce, logging }))))
    expect(seen).to.deep.equal([0, 1, 2])
  })

  it('to another row or column do not wait', async () => {
    const other = await Runs.create({ progress: {} })
    log.length = 0
    await Promise.all([write([set('a', 1)]), mergeJsonKey(other, 'progress', 'a', 1, coalesce)])
    expect(updates()).to.have.length(2)
    await other.reload()
    expect([await progress(), other.progress]).to.deep.equal([{ a: 1 }, { a: 1 }])
  })

  it('are as many as a statement may hold', async () => {
    await Promise.all(list(600, (index) => write([set(`k${index}`, index)])))
    expect(updates()).to.have.length(4)
    expect(Object.keys(await progress())).to.have.length(600)
    log.length = 0
    // Counted three times, since paths and values may be sent so often.
    await Promise.all(list(5, (index) => write([set(`long${index}`, 'x'.repeat(150_000))])))
    expect(updates()).to.have.length(3)
    expect(Object.values(await progress()).filter((each) => String(each).length === 150_000)).to.have.length(5)
  })

  it('are as many as a statement can hold, with each kind of operation', async () => {
    const kinds: Readonly<Record<string, (index: number) => Operation>> = {
      rename: (index) => rename(`k${index}`, `moved${index}`),
      remove: (index) => remove(`k${index}`),
      merge: (index) => merge(`k${index}`, { a: { b: index }, c: null }),
      'merge of the whole': (index) => merge([], { [`k${index}`]: null, [`n${index}`]: { a: index } }),
      'set at four keys': (index) => set([`p${index}`, 'q', 'r', 's'], index),
      pull: (index) => pull(`l${index}`, 1),
    }
    // A batch of so many keys is written as a whole, after a locking read.
    const isReadFirst = database.name === 'mariadb' || database.name === 'sqlite'
    const start: Progress = {}
    for (const index of list(300, (each) => each)) Object.assign(start, { [`k${index}`]: 1, [`l${index}`]: [1, 2] })
    for (const [name, make] of Object.entries(kinds)) {
      await Runs.update({ progress: start }, { where: { id } })
      log.length = 0
      await Promise.all(list(300, (index) => write([make(index)])))
      // None was refused and sent again in halves.
      expect(updates().length, name).to.be.below(name.startsWith('merge') ? 9 : 8)
      const reads = log.filter((sql) => sql.startsWith('SELECT')).length
      expect(reads, name).to.be.at.most(isReadFirst ? updates().length : 1)
      expect(await progress(), name).to.deep.equal(expected(list(300, make), start))
    }
  })

  /** Callers that each make some calls, one after the other; after one of its calls, one caller does something else. */
  async function callInTurn(
    callers: number,
    calls: number,
    between: (call: number) => Promise<unknown>,
  ): Promise<void> {
    const caller = async (number: number): Promise<void> => {
      for (const call of list(calls, (each) => each)) {
        await write([set(`step_${call * callers + number}`, call)])
        if (number === 0) await between(call)
      }
    }
    await Promise.all(list(callers, caller))
  }

  const reads = (): string[] => log.filter((sql) => sql.startsWith('SELECT'))

  it('of many keys read the document once, as long as no other statement writes it', async () => {
    await callInTurn(100, 5, () => Promise.resolve())
    expect(reads()).to.have.length(database.name === 'mariadb' || database.name === 'sqlite' ? 1 : 0)
    expect(Object.keys(await progress())).to.have.length(500)
  })

  it('of many keys keep what another statement has written since the last batch', async () => {
    await callInTurn(100, 5, (call) => write([set(`own_${call}`, 1)], {}))
    if (database.name === 'mariadb' || database.name === 'sqlite') expect(reads().length).to.be.above(1)
    expect(Object.keys(await progress())).to.have.length(505)
  })

  it('of many keys and of few ones fail alone for an error of their own', async () => {
    const failures: Promise<unknown>[] = []
    await callInTurn(100, 4, (call) => {
      failures.push(rejection(write([increment('count'), append('step_1', call)]), JsonShapeError))
      return call === 1 ? write([remove('step_2')], { if: [equals('step_2', 0)], ...coalesce }) : Promise.resolve()
    })
    await Promise.all(failures)
    const stored = await progress()
    expect(Object.keys(stored)).to.have.length(399)
    expect(stored).to.include({ step_0: 0, step_1: 0 })
  })

  it('inside a transaction are sent in it at once', async () => {
    const rolledBack = withLock([Runs, id], async (run) => {
      await run.mergeJsonKey('progress', 'inside', 1, coalesce)
      expect((await run.reload()).progress).to.deep.equal({ inside: 1 })
      throw new Error('rolled back')
    })
    await rejection(rolledBack, Error)
    expect(await progress()).to.deep.equal({})
    const outside = withLock([Runs, id], () => mergeJsonKey([Runs, id], 'progress', 'a', 1, coalesce))
    await rejection(outside, OutsideTransactionError)
  })

  if (database.name === 'sqlite') {
    it('do not wait for the call that contains them', async () => {
      const other = await Runs.create({ progress: {} })
      const call = withLock([Runs, id], () =>
        mergeJsonKey(other, 'progress', 'a', 1, { ...coalesce, transaction: null }),
      )
      await rejection(call, OutsideTransactionError)
    })
  } else {
    it('are sent for every caller, in whichever context the first one runs', async () => {
      const other = await Runs.create({ progress: {} })
      await withLock(other, async () => {
        const first = mergeJsonKey([Runs, id], 'progress', 'inside', 1, { ...coalesce, transaction: null })
        const more = list(5, (index) =>
          mergeJsonKey([Runs, id], 'progress', `k${index}`, 1, { ...coalesce, transaction: null }),
        )
        await Promise.all([first, ...more])
      })
      expect(Object.keys(await progress())).to.have.length(6)
    })
  }

  it('leave each instance with its own operations, and the row with all of them', async () => {
    const Versioned = await createRuns(database.connect().sequelize, { version: true, tableName: 'versioned_runs' })
    const stored = await Versioned.create({ progress: { start: 1 } })
    const runs = await Promise.all(list(10, () => Versioned.findByPk(stored.id, { rejectOnEmpty: true })))
    const before = Number(runs[0]!.get('version'))
    const returned = await Promise.all(runs.map((run, index) => run.mergeJsonKey('progress', `k${index}`, 1, coalesce)))
    for (const [index, run] of returned.entries()) {
      expect(run).to.equal(runs[index])
      expect(run.progress).to.deep.equal({ start: 1, [`k${index}`]: 1 })
      expect(run.changed()).to.equal(false)
    }
    await stored.reload()
    expect(stored.get('version')).to.equal(before + 10)
    expect(stored.updatedAt.getTime()).to.be.at.least(runs[0]!.updatedAt.getTime() - 1000)
    // It has not seen the keys of the others.
    await rejection(runs[3]!.update({ progress: { ...runs[3]!.progress, mine: 1 } }), OptimisticLockError)
    expect(Object.keys((await stored.reload()).progress!)).to.have.length(11)
  })

  it('go on in a test with fake timers', async () => {
    const clock = sinon.useFakeTimers({ toFake: ['setImmediate'] })
    try {
      for (const key of ['a', 'b', 'c']) await write([set(key, 1)])
    } finally {
      clock.restore()
    }
    expect(await progress()).to.deep.equal({ a: 1, b: 1, c: 1 })
  })

  it('are waited for by flush, also if they fail', async () => {
    await flush(Runs.sequelize!)
    const calls = [
      ...list(20, (index) => write([set(`k${index}`, 1)])),
      write([append('k1', 1)]).catch(() => undefined),
      write([set('apart', 1)], { coalesce: false }),
    ]
    await flush(Runs.sequelize!)
    expect(Object.keys(await progress())).to.include.members(list(20, (index) => `k${index}`))
    await Promise.all(calls)
    expect((await rejection(flush({} as never), UsageError)).message).to.include('await flush(sequelize)')
  })

  it('can be set for a model, or for all models of a Sequelize instance', async () => {
    const { sequelize, log: sent } = database.connect()
    const Own = await createRuns(sequelize, { tableName: 'coalesced_runs' })
    const { id: row } = await Own.create({ progress: {} })
    let value = 0
    const statements = async (options?: object): Promise<number> => {
      // A new value: MariaDB's connector counts changed rows only, and an UPDATE that changes none is sent again.
      value++
      await mergeJsonKey([Own, row], 'progress', 'warm', value, { coalesce: false })
      sent.length = 0
      await Promise.all(list(30, (index) => mergeJsonKey([Own, row], 'progress', `k${index}`, value, options)))
      return sent.filter((sql) => sql.includes('UPDATE')).length
    }
    expect(await statements()).to.equal(30)
    lossless(sequelize, { coalesce: true })
    expect(await statements()).to.equal(2)
    expect(await statements({ coalesce: false })).to.equal(30)
    lossless(Own, { coalesce: false })
    expect(await statements()).to.equal(30)
    lossless(Own, { wholeColumnWrites: 'warn' })
    expect(await statements()).to.equal(30)
    lossless(Own, { coalesce: true, wholeColumnWrites: 'allow' })
    expect(await statements()).to.equal(2)
  })

  it('reject each with an error of its own, with the line of its caller in the stack', async () => {
    const calls = list(6, () => rejection(mergeJsonKey([Runs, 0], 'progress', 'a', 1, coalesce), RowNotFoundError))
    const errors = await Promise.all(calls)
    expect(new Set(errors)).to.have.length(6)
    for (const error of errors) {
      expect(error.code).to.equal('ROW_NOT_FOUND')
      expect(error.primaryKey).to.deep.equal({ id: 0 })
      expect(error.stack)
        .to.match(/^RowNotFoundError: mergeJsonKey: /)
        .and.include(__filename)
    }
  })

  it('reject with the reason of a signal itself', async () => {
    const signal = AbortSignal.abort()
    const options = { ...coalesce, retry: { signal } }
    const error: unknown = await write([set('a', 1)], options).catch((reason: unknown) => reason)
    expect(error).to.equal(signal.reason)
  })

  it('need true, and refuse another value', async () => {
    const error = await rejection(write([set('a', 1)], { coalesce: 1 }), UsageError)
    expect(error.message).to.equal(
      'updateJson: expected coalesce to be true or false, got 1 (number). Write { coalesce: true }, or omit it.',
    )
    expect(() => lossless(Runs, { coalesce: 'yes' as never })).to.throw(
      UsageError,
      'expected coalesce to be true or false',
    )
  })

  if (database.name === 'mysql') {
    it('use few statement texts, each of which the server has to prepare', async () => {
      const all = list(256, (index): Operation => (index % 3 === 0 ? increment(`n${index}`) : set(`k${index}`, 1)))
      for (const length of [9, 10, 17, 33, 40, 63, 64, 65, 100, 128, 129, 200, 255]) {
        await Promise.all([write([set('first', 1)]), ...all.slice(0, length).map((each) => write([each]))])
      }
      // Of each kind 16, 32, 64, 128 or 256; and the first call alone.
      expect(new Set(updates()).size).to.be.below(12)
      const document = await progress()
      expect(document['n0']).to.equal(13)
    })

    it('are not refused because they use few statement texts', async () => {
      const { sequelize } = database.connect()
      const [row] = await sequelize.query<{ bytes: number }>('SELECT @@global.max_allowed_packet AS bytes', {
        type: QueryTypes.SELECT,
      })
      await sequelize.query('SET GLOBAL max_allowed_packet = 1048576')
      try {
        const Small = defineRuns(database.connect().sequelize)
        // Of 16 of them there would be more bytes than it takes.
        const all = list(9, (index) => set(`k${index}`, 'x'.repeat(100_000)))
        await updateJson<WorkflowRun, 'progress', readonly Operation[]>([Small, id], 'progress', all)
      } finally {
        await sequelize.query(`SET GLOBAL max_allowed_packet = ${row!.bytes}`)
      }
      expect(Object.keys(await progress())).to.have.length(9)
    })

    it('use few statement texts, whatever the calls have in common', async () => {
      const make = (index: number, user: string): readonly Operation[] =>
        [
          [increment(['users', user, 'clicks'])],
          [increment(['users', user, 'seconds'], 0.5)],
          [set(['users', user, 'last'], index), remove(['users', user, 'draft'])],
          [append(`log of ${user}`, index)],
        ][index % 4]!
      for (let round = 0; round < 30; round++) {
        // 97 is prime, so that other users and operations meet in every round.
        const calls = list(20 + round, (index) => write(make(index, `user${(((index + 1) * (round + 7)) % 97) % 31}`)))
        await Promise.all(calls)
      }
      expect(updates().length).to.be.within(40, 90)
      expect(new Set(updates()).size).to.be.below(26)
    })
  }
})
