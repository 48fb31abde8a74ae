import { expect } from 'chai'
import { DataTypes } from 'sequelize'
import type { Model, ModelStatic, Sequelize, Transaction } from 'sequelize'
import {
  append,
  atomicUpdate,
  atomicUpsert,
  compareAndSetJson,
  increment,
  JsonShapeError,
  lossless,
  mergeJson,
  mergeJsonKey,
  OutsideTransactionError,
  PendingStatementsError,
  RolledBackError,
  RowNotFoundError,
  set,
  updateJson,
  updateWhere,
  UsageError,
  withLock,
} from 'sequelize-lossless'
import type { RowWrite } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

eachDatabase('onWrite', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  let Revisions: ModelStatic<Model>
  /** What the function does after its audit row. */
  let then: (write: RowWrite) => unknown
  let id: number

  const onWrite = async (write: RowWrite): Promise<void> => {
    const { method, model, primaryKey, changes, isCreated, transaction } = write
    const revision = { change: { method, model: model.name, primaryKey, changes, ...(isCreated && { isCreated }) } }
    await Revisions.create(revision, { transaction })
    await then(write)
  }

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
    Revisions = sequelize.define('Revision', { change: DataTypes.JSON }, { timestamps: false })
    await Revisions.sync({ force: true })
    lossless(Runs, { onWrite })
  })
  beforeEach(async () => {
    then = () => undefined
    await Runs.destroy({ where: {} })
    await Revisions.destroy({ where: {} })
    ;({ id } = await Runs.create({ title: 'new', progress: { n: 1 } }))
  })

  const stored = (): Promise<WorkflowRun> => Runs.findByPk(id, { rejectOnEmpty: true })
  const revisions = async (): Promise<unknown[]> =>
    (await Revisions.findAll({ order: ['id'] })).map((each) => each.get('change'))
  const failing = (error: Error) => () => {
    throw error
  }

  it('gets copies: what it does with them changes neither the row, nor another attempt, nor the memory', async () => {
    then = ({ changes, primaryKey }) => {
      ;(changes['progress'] as unknown[]).length = 0
      delete (changes as Record<string, unknown>)['title']
      ;(primaryKey as Record<string, unknown>)['id'] = -1
    }
    const run = await stored()
    await run.updateJson('progress', [increment('n'), set('b', 1)])
    expect(run.progress).to.deep.equal({ n: 2, b: 1 })
    await run.atomicUpdate({ progress: [set('c', 1)], title: 'new title' })
    expect([run.progress, run.title]).to.deep.equal([{ n: 2, b: 1, c: 1 }, 'new title'])
    expect((await stored()).progress).to.deep.equal(run.progress)
  })

  it('cannot commit the transaction of the write, which is rolled back with what it throws', async () => {
    let calls = 0
    then = async ({ transaction }) => {
      calls++
      await rejection(transaction.commit(), UsageError)
      throw new Error('no')
    }
    const failed = (transaction?: Transaction): Promise<Error> =>
      rejection(mergeJsonKey([Runs, id], 'progress', 'a', 1, transaction && { transaction }), Error)
    expect((await failed()).message).to.equal('no')
    await sequelize.transaction(async (transaction) => {
      expect((await failed(transaction)).message).to.equal('no')
    })
    expect(calls).to.equal(2)
    expect((await stored()).progress).to.deep.equal({ n: 1 })
  })

  it('rejects the write by rollback(), also of a write that has joined a transaction', async () => {
    then = ({ transaction }) => transaction.rollback()
    const write = (transaction?: Transaction): Promise<unknown> =>
      mergeJsonKey([Runs, id], 'progress', 'a', 1, transaction && { transaction })
    await rejection(write(), RolledBackError)
    await sequelize.transaction(async (transaction) => {
      await rejection(write(transaction), RolledBackError)
      await Runs.update({ title: 'kept' }, { where: { id }, transaction })
    })
    await rejection(
      withLock([Runs, id], (run) => run.mergeJsonKey('progress', 'a', 1)),
      RolledBackError,
    )
    const { title, progress } = await stored()
    expect([title, progress]).to.deep.equal(['kept', { n: 1 }])
  })

  it('commits an audit row with the row that atomicUpsert creates or changes, or neither of the two', async () => {
    const at = new Date(2026, 0)
    const changes = { title: 'up', progress: [increment('n')] }
    const create = { create: { progress: { n: 5, given: true }, createdAt: at } }
    const key = id + 1
    const upsert = (transaction?: Transaction): Promise<boolean> =>
      atomicUpsert([Runs, key], changes, { ...create, ...(transaction && { transaction }) })
    then = failing(new RangeError('no audit'))
    expect((await rejection(upsert(), RangeError)).message).to.equal('no audit')
    await sequelize.transaction(async (transaction) => {
      expect((await rejection(upsert(transaction), RangeError)).message).to.equal('no audit')
    })
    expect([await Runs.count(), await revisions()]).to.deep.equal([1, []])
    then = () => undefined
    expect(await sequelize.transaction((transaction) => upsert(transaction))).to.equal(true)
    expect(await upsert()).to.equal(false)
    expect((await Runs.findByPk(key))!.progress).to.deep.equal({ n: 7, given: true })
    const [created, changed] = (await revisions()) as RowWrite[]
    expect(created).to.deep.include({ method: 'atomicUpsert', primaryKey: { id: key }, isCreated: true })
    expect(created!.changes).to.deep.include({ title: 'up', progress: { n: 6, given: true } })
    expect(changed).to.deep.include({ primaryKey: { id: key } })
    expect(changed!.changes['progress']).to.deep.equal([{ kind: 'increment', path: ['n'], json: '1' }])
  })

  it('receives the primary key of a row that was created by another unique key', async () => {
    const Named = sequelize.define(
      'NamedRun',
      { name: { type: DataTypes.STRING, unique: true }, progress: DataTypes.JSON },
      { timestamps: false },
    )
    await Named.sync({ force: true })
    lossless(Named, { onWrite })
    expect(await atomicUpsert([Named, { where: { name: 'a' } }], { progress: [set('k', 1)] })).to.equal(true)
    const { id: key } = (await Named.findOne({ rejectOnEmpty: true })).get() as { id: number }
    const [created] = (await revisions()) as RowWrite[]
    expect(created!.primaryKey).to.deep.equal({ id: key })
    expect(created!.changes).to.deep.equal({ name: 'a', progress: { k: 1 } })
  })

  it('commits an audit row with each atomic write', async () => {
    const run = await stored()
    await run.mergeJsonKey('progress', 'a', 1)
    await mergeJson([Runs, id], 'progress', { a: null })
    await updateJson([Runs, { where: { title: 'new' } }], 'progress', [increment('n'), append('log', 'x')])
    expect(await compareAndSetJson(run, 'progress', 'n', 1, 9)).to.equal(false)
    expect(await compareAndSetJson(run, 'progress', 'n', 2, 9)).to.equal(true)
    await run.atomicUpdate({ title: 'done', progress: [] }, { returning: true })
    await Runs.create({ title: 'done' })
    await sequelize.transaction((transaction) =>
      updateWhere(Runs, { title: 'done' }, { progress: [set('b', 1)] }, { transaction }),
    )
    const operation = (kind: string, path: string[], value: unknown): object => ({
      kind,
      path,
      json: JSON.stringify(value),
    })
    const all = [
      ['mergeJsonKey', { progress: [operation('set', ['a'], 1)] }],
      ['mergeJson', { progress: [operation('merge', [], { a: null })] }],
      ['updateJson', { progress: [operation('increment', ['n'], 1), operation('append', ['log'], ['x'])] }],
      ['compareAndSetJson', { progress: [operation('set', ['n'], 9)] }],
      ['atomicUpdate', { title: 'done' }],
      ['updateWhere', { progress: [operation('set', ['b'], 1)] }],
    ] as const
    const written = all.map(([method, changes]) => ({ method, model: 'WorkflowRun', primaryKey: { id }, changes }))
    expect(await revisions()).to.deep.equal([...written, { ...written.at(-1), primaryKey: { id: id + 1 } }])
    expect((await stored()).progress).to.deep.equal({ n: 9, log: ['x'], b: 1 })
    // Not called for a write that failed.
    await rejection(mergeJsonKey([Runs, 0], 'progress', 'a', 1), RowNotFoundError)
    await rejection(updateJson([Runs, id], 'progress', [increment('log')] as never), JsonShapeError)
    expect(await revisions()).to.have.length(written.length + 1)
  })

  it('rolls the write back if it throws, and the call rejects with its error', async () => {
    const error = new RangeError('no')
    then = failing(error)
    const run = await stored()
    const calls: readonly (() => Promise<unknown>)[] = [
      () => run.mergeJsonKey('progress', 'a', 1),
      () => run.atomicUpdate({ title: 'x', progress: [set('a', 1)] }, { returning: true }),
      () => updateWhere(Runs, { id }, { progress: [set('a', 1)] }),
    ]
    for (const call of calls) expect(await rejection(call(), RangeError)).to.equal(error)
    expect([run.title, run.progress, run.changed()]).to.deep.equal(['new', { n: 1 }, false])
    const { title, progress } = await stored()
    expect([title, progress, await revisions()]).to.deep.equal(['new', { n: 1 }, []])
  })

  it('rolls back only the write if the caller catches the error and commits its transaction', async () => {
    then = failing(new RangeError('no'))
    const run = await stored()
    await run.withLock(async (_row, transaction) => {
      await rejection(run.mergeJsonKey('progress', 'a', 1), RangeError)
      await rejection(atomicUpdate([Runs, id], { title: 'x', progress: [set('a', 1)] }, { transaction }), RangeError)
      await rejection(updateWhere(Runs, { id }, { progress: [set('a', 1)] }, { transaction }), RangeError)
      // An error of the database.
      then = ({ transaction }) => sequelize.query('SELECT nothing FROM nowhere', { transaction })
      await rejection(run.mergeJsonKey('progress', 'a', 1), Error)
      expect([run.title, run.progress]).to.deep.equal(['new', { n: 1 }])
      then = () => undefined
      await run.mergeJsonKey('progress', 'b', 1)
      run.title = 'saved'
      await run.save()
    })
    const { title, progress } = await stored()
    expect([title, progress, run.progress]).to.deep.equal(['saved', { n: 1, b: 1 }, { n: 1, b: 1 }])
    expect(await revisions()).to.have.length(1)
  })

  it('does not roll back a concurrent write of the transaction if the row does not meet its own', async () => {
    const { id: other } = await Runs.create({})
    const writes: Readonly<Record<string, (transaction: Transaction) => Promise<unknown>>> = {
      mergeJsonKey: (transaction) => mergeJsonKey([Runs, other], 'progress', 'kept', 1, { transaction }),
      'Model.update()': (transaction) => Runs.update({ title: 'kept' }, { where: { id: other }, transaction }),
    }
    for (const write of Object.values(writes)) {
      await sequelize.transaction(async (transaction) => {
        let send!: () => void
        const sent = new Promise<void>((resolve) => (send = resolve))
        const logging = (sql: string): void => {
          if (sql.includes('UPDATE')) send()
        }
        const set = compareAndSetJson([Runs, id], 'progress', 'n', 7, 8, { transaction, logging })
        const [isSet] = await Promise.all([set, sent.then(() => write(transaction))])
        expect(isSet).to.equal(false)
      })
    }
    const run = await Runs.findByPk(other, { rejectOnEmpty: true })
    expect([run.progress, run.title]).to.deep.equal([{ kept: 1 }, 'kept'])
  })

  it('audits each of several concurrent writes of one transaction, or none of them', async () => {
    const { id: other } = await Runs.create({})
    const write = (key: string): Promise<unknown> =>
      sequelize.transaction((transaction) =>
        Promise.all([id, other].map((each) => mergeJsonKey([Runs, each], 'progress', key, 1, { transaction }))),
      )
    await write('a')
    then = ({ primaryKey }) => {
      if (primaryKey['id'] === other) throw new RangeError('no')
    }
    await rejection(write('b'), Error)
    const documents = (await Runs.findAll({ order: ['id'] })).map(({ progress }) => progress)
    expect(documents).to.deep.equal([{ n: 1, a: 1 }, { a: 1 }])
    expect(await revisions()).to.have.length(2)
  })

  it('rolls the write back if it has a statement outside the transaction or without an await', async () => {
    const before = await Runs.count()
    then = () => Runs.create({ title: 'outside' })
    const error = await rejection(mergeJsonKey([Runs, id], 'progress', 'a', 1), OutsideTransactionError)
    expect(error.message).to.include('Pass the transaction in the argument of onWrite()')
    then = ({ transaction }) => {
      void Runs.create({ title: 'not awaited' }, { transaction }).catch(() => undefined)
    }
    const pending = await rejection(mergeJsonKey([Runs, id], 'progress', 'a', 1), PendingStatementsError)
    expect(pending.statements.join()).to.include('WorkflowRun')
    expect(pending.message).to.include('rolled back and nothing was written').and.not.include('joined')
    const joined = sequelize.transaction(async (transaction) => {
      await rejection(mergeJsonKey([Runs, id], 'progress', 'a', 1, { transaction }), PendingStatementsError)
    })
    await joined
    expect([(await stored()).progress, await Runs.count(), await revisions()]).to.deep.equal([{ n: 1 }, before, []])
  })

  if (database.name !== 'sqlite') {
    it('runs again in the next attempt after a deadlock, without a trace of the first attempt', async () => {
      const other = await Runs.create({ progress: {} })
      const ids = [id, other.id]
      const transactions = new Set<unknown>()
      let openGate: (() => void) | undefined
      const bothHold = new Promise<void>((resolve) => (openGate = resolve))
      then = async ({ primaryKey, transaction }) => {
        transactions.add(transaction)
        if (transactions.size === 2) openGate!()
        await bothHold
        const [crossed] = ids.filter((each) => each !== primaryKey['id'])
        await Runs.update({ title: `by ${String(primaryKey['id'])}` }, { where: { id: crossed }, transaction })
      }
      await Promise.all(ids.map((each) => mergeJsonKey([Runs, each], 'progress', 'a', 1)))
      expect(transactions.size).to.equal(3)
      const rows = await Runs.findAll({ order: ['id'] })
      expect(rows.map(({ title, progress }) => [title, progress])).to.deep.equal([
        [`by ${other.id}`, { n: 1, a: 1 }],
        [`by ${id}`, { a: 1 }],
      ])
      expect(await revisions()).to.have.length(2)
    })
  }

  it('runs once for a batch of calls, with all operations', async () => {
    const calls = Array.from({ length: 9 }, () =>
      updateJson([Runs, id], 'progress', [increment('n')], { coalesce: true }),
    )
    await Promise.all(calls)
    expect((await stored()).progress).to.deep.equal({ n: 10 })
    const written = (await revisions()) as { changes: { progress: { json: string }[] } }[]
    expect(written.map(({ changes }) => changes.progress.map(({ json }) => json))).to.deep.equal([['1'], ['8']])
    then = failing(new RangeError('no'))
    const refused = calls.map(() => updateJson([Runs, id], 'progress', [increment('n')], { coalesce: true }))
    for (const call of refused) await rejection(call, RangeError)
    expect((await stored()).progress).to.deep.equal({ n: 10 })
  })

  it('is an option of a Sequelize instance, and null excepts a model', async () => {
    const connection = database.connect()
    const seen: string[] = []
    lossless(connection.sequelize, { onWrite: ({ model }) => seen.push(model.name) })
    const [One, Two] = [defineRuns(connection.sequelize), defineRuns(connection.sequelize, { modelName: 'Two' })]
    lossless(Two, { onWrite: null })
    // A call that changes other options keeps it.
    lossless(One, { coalesce: false })
    await mergeJsonKey([One, id], 'progress', 'a', 1)
    connection.log.length = 0
    await mergeJsonKey([Two, id], 'progress', 'b', 1)
    expect(connection.log).to.have.length(1)
    expect([seen, (await stored()).progress]).to.deep.equal([['WorkflowRun'], { n: 1, a: 1, b: 1 }])
    expect(() => lossless(One, { onWrite: 'audit' as never })).to.throw(UsageError, 'onWrite to be a function or null')
  })
})
