import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import { expect } from 'chai'
import { DataTypes, QueryTypes, Sequelize } from 'sequelize'
import type { Model, Transaction } from 'sequelize'
import {
  lock,
  lossless,
  mergeJsonKey,
  OutsideTransactionError,
  RolledBackError,
  set,
  UnsavedChangesError,
  UnsupportedValueError,
  updateWhere,
  UsageError,
  withLock,
  withLocks,
  withNext,
  withOptimisticLock,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'

/** The document in memory equals the one in the database, also where callers share the instance. */
eachDatabase('the instance in memory', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
  })

  async function stored(id: number): Promise<Progress | null> {
    return (await Runs.findByPk(id, { rejectOnEmpty: true, transaction: null })).progress
  }

  describe('a change made while a statement is in flight', () => {
    it('to a document, during save(), is written by the next save()', async () => {
      const run = await Runs.create({ progress: {} })
      await run.withLock(async (row) => {
        row.progress!['a'] = 1
        const saving = row.save()
        await new Promise(setImmediate)
        row.progress!['b'] = 2
        await saving
        await row.save()
      })
      expect(await stored(run.id)).to.deep.equal({ a: 1, b: 2 })
    })

    it('by concurrent steps of one callback, is never lost', async () => {
      for (let round = 0; round < 20; round++) {
        const run = await Runs.create({ progress: {} })
        await run.withLock(async (row, transaction) => {
          const step = async (key: string): Promise<void> => {
            await Runs.count({ transaction })
            row.progress![key] = 1
            await row.save()
          }
          await Promise.all(['a', 'b', 'c'].map(step))
          await row.save()
        })
        expect(await stored(run.id)).to.deep.equal({ a: 1, b: 1, c: 1 })
      }
    })

    it('during increment(), is written by the next save()', async () => {
      const run = await Runs.create({ progress: {} })
      await run.withLock(async (row) => {
        const incrementing = row.increment('id', { by: 0 })
        row.progress!['b'] = 2
        await incrementing
        await row.save()
      })
      expect(await stored(run.id)).to.deep.equal({ b: 2 })
    })

    it('by a hook, in place, is refused if no statement saves it', async () => {
      const Hooked = await createRuns(sequelize, {
        tableName: 'hooked_in_place',
        hooks: { beforeUpdate: (row) => void (row.progress!['audit'] = 1) },
      })
      const run = await Hooked.create({ progress: {} })
      const error = await rejection(
        run.withLock((row) => row.update({ title: 'x' })),
        UnsavedChangesError,
      )
      expect(error.columns).to.deep.equal(['progress'])
    })

    it('to the column, during mergeJsonKey(), stays dirty, and its save keeps the merged key', async () => {
      const run = await Runs.create({ progress: {} })
      const merging = run.mergeJsonKey('progress', 'a', 1)
      run.progress = { ...run.progress, b: 2 }
      await merging
      expect(run.changed()).to.deep.equal(['progress'])
      await run.save()
      expect(await stored(run.id)).to.deep.equal({ a: 1, b: 2 })
    })

    it('to the row, while withLock() waits, is refused and kept in memory', async () => {
      const run = await Runs.create({ progress: {} })
      const locking = run.withLock(() => undefined)
      run.title = 'meanwhile'
      await rejection(locking, UnsavedChangesError)
      expect(run.title).to.equal('meanwhile')
      await run.save()
      expect((await run.reload()).title).to.equal('meanwhile')
    })
  })

  describe('two concurrent callers that share it', () => {
    it('cannot both lock it, also while the lock is requested', async () => {
      const run = await Runs.create({ progress: {} })
      const [first, second] = await Promise.allSettled([
        run.withLock((row) => row.update({ progress: { first: 1 } })),
        run.withLock((row) => row.update({ progress: { second: 1 } })),
      ])
      expect(first.status).to.equal('fulfilled')
      expect(second).to.have.property('reason').that.is.instanceOf(UsageError)
      expect(await stored(run.id)).to.deep.equal({ first: 1 })
      await run.withLock((row) => row.update({ progress: { third: 1 } }))
      expect(await stored(run.id)).to.deep.equal({ third: 1 })
    })

    it('lose no update if one merges and the other saves', async () => {
      for (let round = 0; round < 50; round++) {
        const run = await Runs.create({ progress: {} })
        const results = await Promise.allSettled([
          run.mergeJsonKey('progress', 'b', 1, { returning: round % 2 === 0 }),
          run.withLock(async (row) => {
            row.progress!['a'] = 1
            await new Promise(setImmediate)
            await row.save()
          }),
        ])
        expect(results.map(({ status }) => status)).to.deep.equal(['fulfilled', 'fulfilled'])
        expect(await stored(run.id)).to.deep.equal({ a: 1, b: 1 })
      }
    })

    it('cannot lock it in different transactions', async () => {
      const run = await Runs.create({ progress: {} })
      const other = database.name === 'sqlite' ? undefined : await sequelize.transaction()
      if (!other) return
      await run.withLock(() => rejection(lock(run, { transaction: other }), UsageError))
      await other.rollback()
    })
  })

  it('a document without a JSON text makes the save fail, and rolls back', async () => {
    const run = await Runs.create({ progress: {} })
    for (const value of [1n, undefined]) {
      const saving = run.withLock(async (row) => {
        await row.update({ title: 'rolled back' })
        if (value === undefined) row.progress = value as never
        else row.progress!['big'] = value
        if (value !== undefined) await row.save()
      })
      await rejection<Error>(saving, value === undefined ? UnsavedChangesError : UnsupportedValueError)
      expect((await run.reload()).title).to.equal(null)
    }
  })

  describe('a column that was not loaded', () => {
    it('stays absent after a write without returning: true', async () => {
      const { id } = await Runs.create({ progress: { a: 1 } })
      const partial = await Runs.findByPk(id, { attributes: ['id'], rejectOnEmpty: true })
      await partial.mergeJsonKey('progress', 'c', 3)
      expect(partial.toJSON()).to.not.have.property('progress')
      await partial.mergeJsonKey('progress', 'd', 4, { returning: true })
      expect(partial.progress).to.deep.equal({ a: 1, c: 3, d: 4 })
    })
  })

  describe('in a joined transaction', () => {
    it('stays joined after withLock() has returned, until that transaction ends', async () => {
      const run = await Runs.create({ progress: {} })
      await sequelize.transaction(async (transaction) => {
        await run.withLock((row) => row.update({ progress: { a: 1 } }), { transaction })
        run.progress!['b'] = 1
        await run.save()
        const named = await withLock([Runs, run.id], (row) => row, { transaction })
        await named.update({ title: 'joined' })
        await sequelize.transaction({ transaction }, (nested) => lock(run, { transaction: nested }))
        // As code in JavaScript passes on what it was not given.
        const none = { transaction: undefined } as object
        await run.save(none)
        await run.mergeJsonKey('progress', 'c', 1, none)
      })
      expect(await stored(run.id)).to.deep.equal({ a: 1, b: 1, c: 1 })
    })

    it('the error of unsaved changes says that the transaction is still open', async () => {
      const run = await Runs.create({ progress: {} })
      await sequelize.transaction(async (transaction) => {
        const leaving = run.withLock(
          async (row) => {
            await row.update({ title: 'written' })
            row.progress!['lost'] = 1
          },
          { transaction },
        )
        const error = await rejection(leaving, UnsavedChangesError)
        expect(error.message).to.include('Let this error roll back that transaction').and.not.include('was rolled back')
      })
    })
  })

  it('a changed VIRTUAL attribute is not an unsaved change', async () => {
    const Virtual = lossless(
      sequelize.define<Model & { progress: Progress; shown: string }>(
        'Virtual',
        { progress: DataTypes.JSON, shown: DataTypes.VIRTUAL },
        { tableName: 'virtual_runs' },
      ),
    )
    await Virtual.sync({ force: true })
    const row = await Virtual.create({ progress: {} })
    row.shown = 'before'
    await row.withLock(async (locked) => {
      await locked.mergeJsonKey('progress', 'k', 1)
      locked.shown = 'after'
    })
    expect((await row.reload()).progress).to.deep.equal({ k: 1 })
  })

  it('a subclass of a lossless model has the methods too', () => {
    class Sub extends Runs {}
    expect(lossless(Sub)).to.equal(Sub)
    expect(lossless(Runs.unscoped())).to.have.property('prototype').with.property('withLock')
  })

  if (database.name === 'postgres') {
    it('an ARRAY column changed in place is saved, too', async () => {
      const Tagged = lossless(
        sequelize.define<Model & { tags: string[] }>('Tagged', { tags: DataTypes.ARRAY(DataTypes.TEXT) }),
      )
      await Tagged.sync({ force: true })
      const row = await Tagged.create({ tags: ['a'] })
      await row.withLock(async (locked) => {
        locked.tags.push('b')
        await locked.save()
      })
      expect((await row.reload()).tags).to.deep.equal(['a', 'b'])
    })
  }

  describe('a transaction opened in the callback', () => {
    it('is refused: it would commit separately, and could wait for the lock', async () => {
      const run = await Runs.create({ progress: {} })
      const opening: Record<string, () => Promise<unknown>> = {
        findOrCreate: () => Runs.findOrCreate({ where: { title: 'apart' } }),
        'sequelize.transaction': () => sequelize.transaction(() => Promise.resolve()),
      }
      for (const open of Object.values(opening)) {
        const error = await rejection(
          run.withLock(() => open()),
          database.name === 'sqlite' ? Error : OutsideTransactionError,
        )
        if (database.name !== 'sqlite') expect(error.message).to.include('sequelize.transaction({ transaction }, …)')
      }
      expect(await Runs.count({ where: { title: 'apart' } })).to.equal(0)
    })

    it('is allowed if it is nested, or opened with transaction: null', async () => {
      const run = await Runs.create({ progress: {} })
      const other = await Runs.create({ progress: {} })
      await run.withLock(async (_row, transaction) => {
        await sequelize.transaction({ transaction }, (nested) =>
          Runs.create({ title: 'nested' }, { transaction: nested }),
        )
        await Runs.findOrCreate({ where: { title: 'found' }, transaction })
        if (database.name !== 'sqlite') {
          await other.withLock((row) => row.update({ title: 'apart' }), { transaction: null })
        }
      })
      expect(await Runs.count({ where: { title: ['nested', 'found'] } })).to.equal(2)
    })
  })

  describe('with Sequelize.useCLS', () => {
    before(() => {
      const storage = new AsyncLocalStorage<Map<string, unknown>>()
      Sequelize.useCLS({
        get: (key: string) => storage.getStore()?.get(key),
        set: (key: string, value: unknown) => void storage.getStore()?.set(key, value),
        run: (fn: (context: unknown) => unknown) => {
          const context = new Map(storage.getStore() ?? [])
          storage.run(context, () => void fn(context))
          return context
        },
        bind: (fn: () => unknown) => AsyncResource.bind(fn),
      })
    })
    after(() => {
      delete (Sequelize as unknown as { _cls?: unknown })._cls
    })

    it('every write in the callback joins, with or without the option transaction', async () => {
      const run = await Runs.create({ progress: {} })
      const rolledBack = run.withLock(async (row) => {
        await Runs.create({ title: 'by the ambient transaction' })
        row.progress!['k'] = 1
        await row.save()
        throw new Error('on purpose')
      })
      await rejection(rolledBack, Error)
      expect(await Runs.count({ where: { title: 'by the ambient transaction' } })).to.equal(0)
      expect(await stored(run.id)).to.deep.equal({})
    })

    if (database.name === 'postgres') {
      it('a raw query whose error was caught prevents the commit', async () => {
        const run = await Runs.create({ progress: {} })
        const call = run.withLock(async (row) => {
          row.progress!['a'] = 1
          await row.save()
          await sequelize.query('select nonsense from nowhere').catch(() => undefined)
        })
        await rejection(call, RolledBackError)
        expect(await stored(run.id)).to.deep.equal({})
      })
    }
  })

  if (database.name === 'postgres') {
    it('an error before a statement reaches the server allows the commit; no afterCommit hook runs for a rollback', async () => {
      const run = await Runs.create({ progress: {} })
      let hooks = 0
      const withHook = (work: (transaction: Transaction) => Promise<unknown>): Promise<unknown> =>
        run.withLock(async (row, transaction) => {
          transaction.afterCommit(() => void hooks++)
          row.progress!['k'] = 1
          await row.save()
          await work(transaction).catch(() => undefined)
        })
      await withHook((transaction) => sequelize.query('select $2', { bind: [1], transaction }))
      expect(await stored(run.id)).to.deep.equal({ k: 1 })
      expect(hooks).to.equal(1)
      await rejection(
        withHook((transaction) => sequelize.query('select 1/0', { transaction })),
        RolledBackError,
      )
      expect(hooks).to.equal(1)
    })
  }

  if (database.name === 'mysql' || database.name === 'mariadb') {
    it('a deadlock whose error the callback caught ends in a RolledBackError', async () => {
      const [run, other] = await Runs.bulkCreate([{ progress: {} }, { progress: {} }])
      const survivor = await sequelize.transaction()
      for (let weight = 0; weight < 20; weight++) await Runs.create({}, { transaction: survivor })
      await other!.update({ title: 'survivor' }, { transaction: survivor })
      let waiting: Promise<unknown> | undefined
      const call = run!.withLock(async (_row, transaction) => {
        waiting = Runs.update({ title: 'survivor' }, { where: { id: run!.id }, transaction: survivor })
        await Runs.update({ title: 'victim' }, { where: { id: other!.id }, transaction }).catch(() => undefined)
      })
      expect((await rejection(call, RolledBackError)).code).to.equal('ROLLED_BACK')
      await waiting
      await survivor.commit()
    })
  }

  if (database.name === 'sqlite') {
    it('in memory, a statement of a concurrent caller does not join the transaction of the lock', async () => {
      const { sequelize: memory } = database.connect({ storage: ':memory:' })
      const Memory = await createRuns(memory)
      const run = await Memory.create({ progress: {} })
      let entered!: () => void
      const inside = new Promise<void>((resolve) => (entered = resolve))
      const others = inside.then(() =>
        Promise.all([
          Memory.create({ title: 'acknowledged' }),
          mergeJsonKey([Memory, run.id], 'progress', 'theirs', 1),
        ]),
      )
      const locking = run.withLock(async (row, transaction) => {
        entered()
        row.progress!['mine'] = 1
        await row.save()
        await Memory.count({ transaction })
        throw new Error('on purpose')
      })
      await rejection(locking, Error)
      await others
      expect(await Memory.count({ where: { title: 'acknowledged' } })).to.equal(1)
      expect((await Memory.findByPk(run.id))!.progress).to.deep.equal({ theirs: 1 })
    })

    it('a key that the driver has rounded does not write another row', async () => {
      const Big = lossless(
        sequelize.define<Model & { data: Progress }>(
          'Big',
          { id: { type: DataTypes.BIGINT, primaryKey: true }, data: DataTypes.JSON, version: DataTypes.INTEGER },
          { tableName: 'big_keys', version: true },
        ),
      )
      await Big.sync({ force: true })
      const keys = ['9007199254740992', '9007199254740993'] as const
      for (const key of keys) {
        await sequelize.query(`INSERT INTO big_keys VALUES (${key}, '{}', 0, '', '')`)
      }
      const [row] = await Big.findAll()
      await rejection(row!.mergeJsonKey('data', 'k', 1), UsageError)
      const change = async (own: Model & { data: Progress }): Promise<unknown> => {
        own.data = { mine: 1 }
        return own.save()
      }
      const [, key] = keys
      await rejection(withLock([Big, { where: { id: key } }], change), UsageError)
      const calls = (): Promise<unknown>[] => [
        withLock([Big, key], change),
        withLocks([[Big, key]], ([own]) => change(own)),
        withOptimisticLock([Big, key], (own) => void (own.data = { mine: 1 })),
        sequelize.transaction(async (transaction) => lock([Big, key], { transaction })),
      ]
      const refused = await Promise.all(calls().map((call) => rejection(call, UsageError)))
      for (const { message } of refused) expect(message).to.include('has rounded "id"')
      await mergeJsonKey([Big, key], 'data', 'k', 1)
      const stored = await sequelize.query('SELECT CAST(id AS TEXT) AS id, data FROM big_keys ORDER BY id', {
        type: QueryTypes.SELECT,
      })
      expect(stored).to.deep.equal([
        { id: keys[0], data: '{}' },
        { id: keys[1], data: '{"k":1}' },
      ])
    })

    it('a key that is not UTF-8 does not write the row whose key has U+FFFD', async () => {
      const Label = sequelize.define<Model & { data: Progress }>(
        'Label',
        { name: { type: DataTypes.STRING, primaryKey: true }, kind: DataTypes.INTEGER, data: DataTypes.JSON },
        { tableName: 'labels', timestamps: false },
      )
      await Label.sync({ force: true })
      await sequelize.query(`INSERT INTO labels VALUES (CAST(x'80' AS TEXT), 1, '{}'), ('\ufffd', 2, '{}')`)
      const row = (await Label.findOne({ where: { kind: 1 } }))!
      const where = { kind: 1 }
      for (const call of [
        () => mergeJsonKey(row, 'data', 'k', 1),
        () => mergeJsonKey([Label, { where }], 'data', 'k', 1),
        () => updateWhere(Label, where, { data: [set('k', 1)] }),
        () => withLock(row, (own) => own.update({ data: { k: 1 } })),
        () => withNext(Label, { where }, (own) => own.update({ data: { k: 1 } })),
      ]) {
        expect((await rejection(call(), UsageError)).message).to.include('U+FFFD in "name"')
      }
      await mergeJsonKey([Label, '\ufffd'], 'data', 'k', 2)
      const stored = await sequelize.query('SELECT hex(name) AS name, data FROM labels ORDER BY kind', {
        type: QueryTypes.SELECT,
      })
      expect(stored).to.deep.equal([
        { name: '80', data: '{}' },
        { name: 'EFBFBD', data: '{"k":2}' },
      ])
    })
  }
})
