import { expect } from 'chai'
import { DataTypes, Sequelize, Transaction } from 'sequelize'
import type { InferAttributes, InferCreationAttributes, Model } from 'sequelize'
import {
  atomicUpdate,
  ConflictError,
  lock,
  lossless,
  mergeJsonKey,
  OutsideTransactionError,
  plus,
  RolledBackError,
  RowNotFoundError,
  StaleRowError,
  UnsavedChangesError,
  UsageError,
  withLock,
  withLocks,
  withOptimisticLock,
} from 'sequelize-lossless'
import type { DatabaseName } from '../databases/index.js'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'

const select = (quote: string, text: string): string =>
  `SELECT ${['id', 'title', 'progress', 'updatedAt', 'createdAt'].map((name) => `${quote}${name}${quote} AS ${quote}${name}${quote}`).join(', ')}, ${text} AS ${quote}progress text${quote} FROM ${quote}workflow_runs${quote}`

/** What withLock sends around a save of one column. */
const statements: Record<DatabaseName, readonly string[]> = {
  mysql: [
    'START TRANSACTION;',
    `${select('`', 'CAST(`progress` AS CHAR)')} WHERE \`id\` = ? FOR UPDATE`,
    'UPDATE `workflow_runs` SET `progress`=?,`updatedAt`=? WHERE `id` = ?',
    'COMMIT;',
  ],
  mariadb: [
    'START TRANSACTION;',
    `${select('`', 'CAST(`progress` AS CHAR)')} WHERE \`id\` = ? FOR UPDATE`,
    'UPDATE `workflow_runs` SET `progress`=?,`updatedAt`=? WHERE `id` = ?',
    'COMMIT;',
  ],
  postgres: [
    'START TRANSACTION;',
    `${select('"', '"progress"::text')} WHERE "id" = $1 FOR NO KEY UPDATE`,
    'UPDATE "workflow_runs" SET "progress"=$1,"updatedAt"=$2 WHERE "id" = $3',
    'COMMIT;',
  ],
  sqlite: [
    'BEGIN IMMEDIATE TRANSACTION;',
    `${select('`', 'CAST(`progress` AS TEXT)')} WHERE \`id\` = $1`,
    'UPDATE `workflow_runs` SET `progress`=$1,`updatedAt`=$2 WHERE `id` = $3',
    'COMMIT;',
  ],
}

eachDatabase('withLock', (database) => {
  let sequelize: Sequelize
  let log: string[]
  let Runs: typeof WorkflowRun

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Runs = await createRuns(sequelize)
    await (await Runs.create()).withLock(() => undefined)
  })

  async function stored(id: number): Promise<Progress | null> {
    return (await Runs.findByPk(id, { rejectOnEmpty: true })).progress
  }

  describe('the lock', () => {
    it('is one transaction and one locking read, and commits what fn saved', async () => {
      const run = await Runs.create({ progress: { before: 1 } })
      log.length = 0
      const result = await run.withLock(async (row, transaction) => {
        expect(row).to.equal(run)
        expect(transaction).to.be.instanceOf(Transaction)
        row.progress = { ...row.progress, inside: 1 }
        await row.save()
        return 'what fn returned'
      })
      expect(result).to.equal('what fn returned')
      expect(log).to.deep.equal(statements[database.name])
      expect(await stored(run.id)).to.deep.equal({ before: 1, inside: 1 })
    })

    it('passes fn the row as it is stored, not as it was loaded', async () => {
      const run = await Runs.create({ title: 'old', progress: { mine: 1 } })
      await Runs.update({ title: 'new', progress: { theirs: 1 } }, { where: { id: run.id } })
      await run.withLock((row) => expect(row).to.deep.include({ title: 'new', progress: { theirs: 1 } }))
      expect(run.progress).to.deep.equal({ theirs: 1 })
      expect(run.changed()).to.equal(false)
    })

    it('needs no instance: [Model, primaryKey] loads the row with the lock', async () => {
      const { id } = await Runs.create({ progress: {} })
      log.length = 0
      const title = await withLock([Runs, id], async (row) => {
        row.progress!['step'] = 'done'
        row.title = 'named'
        await row.save()
        return row.title
      })
      expect(title).to.equal('named')
      expect(log).to.have.length(4)
      expect(await stored(id)).to.deep.equal({ step: 'done' })
    })

    it('serialises concurrent callers', async () => {
      const run = await Runs.create({ progress: {} })
      const events: string[] = []
      const caller = (name: string): Promise<void> =>
        withLock([Runs, run.id], async (row) => {
          events.push(`${name} in`)
          row.progress![name] = Object.keys(row.progress!).length
          await row.save()
          events.push(`${name} out`)
        })
      await Promise.all(['a', 'b', 'c', 'd', 'e'].map(caller))
      for (let index = 0; index < events.length; index += 2) {
        expect(events[index + 1]).to.equal(events[index]!.replace('in', 'out'))
      }
      expect(Object.values((await stored(run.id))!).sort()).to.deep.equal([0, 1, 2, 3, 4])
    })

    it('keeps 60 of 60 changes of one row', async () => {
      const run = await Runs.create({ progress: { count: 0 } })
      const add = (): Promise<unknown> =>
        withLock([Runs, run.id], async (row) => {
          ;(row.progress!['count'] as number)++
          await row.save()
        })
      await Promise.all(Array.from({ length: 60 }, add))
      expect(await stored(run.id)).to.deep.equal({ count: 60 })
    })

    it('rolls back when fn throws, and leaves the instance as it was', async () => {
      const run = await Runs.create({ title: 'before', progress: { before: 1 } })
      const before = run.toJSON()
      const error = new Error('on purpose')
      const thrown = await rejection(
        run.withLock(async (row) => {
          row.progress!['inside'] = 1
          await row.update({ title: 'inside' })
          throw error
        }),
        Error,
      )
      expect(thrown).to.equal(error)
      expect(run.toJSON()).to.deep.equal(before)
      expect(run.changed()).to.equal(false)
      expect(await stored(run.id)).to.deep.equal({ before: 1 })
      await run.update({ title: 'after' })
      expect((await run.reload()).title).to.equal('after')
    })
  })

  describe('documents changed in place', () => {
    it('are written by save()', async () => {
      const run = await Runs.create({ progress: { deep: { list: [1] } } })
      await run.withLock(async (row) => {
        ;(row.progress!['deep'] as { list: number[] }).list.push(2)
        await row.save()
      })
      expect(await stored(run.id)).to.deep.equal({ deep: { list: [1, 2] } })
    })

    it('are written by every save(), not only by the first', async () => {
      const run = await Runs.create({ progress: {} })
      await run.withLock(async (row) => {
        for (const key of ['one', 'two']) {
          row.progress![key] = 1
          await row.save()
        }
      })
      expect(await stored(run.id)).to.deep.equal({ one: 1, two: 1 })
    })

    it('are written by update() of the same column; of another column, as in Sequelize, only by save()', async () => {
      const run = await Runs.create({ progress: {} })
      await run.withLock(async (row) => {
        row.progress!['one'] = 1
        await row.update({ progress: row.progress })
        row.progress!['two'] = 2
        await row.update({ title: 'other' })
        expect(row.changed()).to.deep.equal(['progress'])
        await row.save()
      })
      expect(await stored(run.id)).to.deep.equal({ one: 1, two: 2 })
    })

    it('are refused if they were never saved, like any other unsaved change', async () => {
      const run = await Runs.create({ progress: {} })
      const inPlace = await rejection(
        run.withLock((row) => void (row.progress!['lost'] = 1)),
        UnsavedChangesError,
      )
      expect(inPlace).to.deep.include({ code: 'UNSAVED_CHANGES', columns: ['progress'] })
      expect(inPlace.message).to.include('Call await row.save() before the callback returns')
      const plain = await rejection(
        run.withLock((row) => void (row.title = 'lost')),
        UnsavedChangesError,
      )
      expect(plain.columns).to.deep.equal(['title'])
      expect(run.changed()).to.equal(false)
      expect(await stored(run.id)).to.deep.equal({})
    })

    it('are not dirty if the values are the same again, in any order of keys', async () => {
      const run = await Runs.create({ progress: { a: 1, b: 2 } })
      await run.withLock((row) => {
        const { a, b } = row.progress!
        delete row.progress!['a']
        Object.assign(row.progress!, { b, a })
      })
      expect(await stored(run.id)).to.deep.equal({ a: 1, b: 2 })
    })

    it('block mergeJsonKey on the same column until they are saved', async () => {
      const run = await Runs.create({ progress: {} })
      await run.withLock(async (row) => {
        row.progress!['mine'] = 1
        await rejection(row.mergeJsonKey('progress', 'k', 1), UnsavedChangesError)
        await row.save()
        await row.mergeJsonKey('progress', 'k', 1)
        row.progress!['more'] = 1
        await row.save()
      })
      expect(await stored(run.id)).to.deep.equal({ mine: 1, k: 1, more: 1 })
    })
  })

  describe('inside fn', () => {
    it('the methods of the row join the transaction without an option', async () => {
      const run = await Runs.create({ title: 'old', progress: {} })
      const doomed = await Runs.create()
      await run.withLock(async (row, transaction) => {
        log.length = 0
        await row.update({ title: 'new' })
        await row.reload()
        await row.mergeJsonKey('progress', 'k', 1)
        await doomed.withLock((other) => other.destroy(), { transaction })
        await row.save()
        for (const statement of log) expect(statement).to.not.match(/BEGIN|START|COMMIT/)
        if (database.name !== 'sqlite') expect(await stored(run.id)).to.deep.equal({})
      })
      expect(run.title).to.equal('new')
      expect(await stored(run.id)).to.deep.equal({ k: 1 })
      expect(await Runs.findByPk(doomed.id)).to.equal(null)
    })

    it('a write without the transaction is refused immediately: create, update, increment, with and without hooks: false', async () => {
      const run = await Runs.create({ progress: {} })
      const other = await Runs.create({ progress: {} })
      const writes: Record<string, () => Promise<unknown>> = {
        create: () => Runs.create({ title: 'lost' }),
        'create, hooks: false': () => Runs.create({ title: 'lost' }, { hooks: false }),
        save: () => other.update({ title: 'lost' }),
        'Model.update': () => Runs.update({ title: 'lost' }, { where: { id: run.id } }),
        'Model.destroy': () => Runs.destroy({ where: { id: run.id } }),
        'Model.increment': () => Runs.increment('id', { by: 0, where: { id: run.id } }),
        bulkCreate: () => Runs.bulkCreate([{ title: 'lost' }]),
        upsert: () => Runs.upsert({ id: run.id, title: 'lost' }),
        'mergeJsonKey by key': () => mergeJsonKey([Runs, run.id], 'progress', 'k', 1),
        'withLock of another row': () => other.withLock(() => undefined),
      }
      for (const [name, write] of Object.entries(writes)) {
        log.length = 0
        const error = await rejection(
          run.withLock(() => write()),
          OutsideTransactionError,
        )
        expect(error.code).to.equal('OUTSIDE_TRANSACTION')
        expect(error.message, name).to.include('{ transaction }')
        // SQLite has one writer.
        if (database.name !== 'sqlite') expect(error.message, name).to.include('{ transaction: null }')
        expect(log.at(-1), name).to.equal('ROLLBACK;')
      }
      expect(await Runs.count({ where: { title: 'lost' } })).to.equal(0)
    })

    it('a write with the transaction, and a read without it, are allowed', async () => {
      const run = await Runs.create({ progress: {} })
      const created = await run.withLock(async (row, transaction) => {
        await Runs.findByPk(row.id)
        return Runs.create({ title: 'child' }, { transaction })
      })
      expect((await created.reload()).title).to.equal('child')
    })

    it('transaction: null allows a write outside the transaction', async () => {
      const run = await Runs.create({ progress: {} })
      const other = await Runs.create({ progress: {} })
      const call = run.withLock(async () => {
        await mergeJsonKey([Runs, other.id], 'progress', 'audit', 1, { transaction: null })
        throw new Error('on purpose')
      })
      if (database.name === 'sqlite') {
        // One writer at a time: it could only wait for the lock around it.
        expect((await rejection(call, OutsideTransactionError)).message).to.include('one writer at a time')
        return
      }
      await rejection(call, Error)
      expect(await stored(other.id)).to.deep.equal({ audit: 1 })
    })

    it('code that fn starts may write without the transaction after the lock ends', async () => {
      const run = await Runs.create({ progress: {} })
      let go!: () => void
      const later = new Promise<void>((resolve) => (go = resolve))
      let background!: Promise<unknown>
      await run.withLock(() => {
        background = later.then(() => Runs.create({ title: 'background' }))
      })
      go()
      await background
      expect(await Runs.count({ where: { title: 'background' } })).to.equal(1)
    })

    it('a concurrent caller’s write of the same instance waits for the lock instead of joining it', async () => {
      const run = await Runs.create({ progress: {} })
      let entered!: () => void
      const inside = new Promise<void>((resolve) => (entered = resolve))
      const locking = run.withLock(async (row) => {
        entered()
        await row.mergeJsonKey('progress', 'inside', 1)
        throw new Error('on purpose')
      })
      const merging = inside.then(() => mergeJsonKey(run, 'progress', 'outside', 1))
      await rejection(locking, Error)
      await merging
      expect(await stored(run.id)).to.deep.equal({ outside: 1 })
    })

    it('one instance cannot be locked by two concurrent callers', async () => {
      const run = await Runs.create({ progress: {} })
      let entered!: () => void
      const inside = new Promise<void>((resolve) => (entered = resolve))
      const inner = inside.then(() =>
        rejection(
          run.withLock(() => undefined),
          UsageError,
        ),
      )
      await run.withLock(async () => {
        entered()
        await inner
      })
      expect((await inner).message).to.include('two concurrent calls cannot share one instance')
    })

    it('the same row can be locked again, in the same transaction', async () => {
      const run = await Runs.create({ progress: {} })
      log.length = 0
      await run.withLock(async (row) => {
        await row.withLock(async (again) => {
          again.progress!['inner'] = 1
          await again.save()
        })
        row.progress!['outer'] = 1
        await row.save()
      })
      expect(log.filter((statement) => /START|BEGIN/.test(statement))).to.have.length(1)
      expect(await stored(run.id)).to.deep.equal({ inner: 1, outer: 1 })
    })
  })

  describe('refuses before any SQL', () => {
    const refusals: Record<string, [(run: WorkflowRun) => Promise<unknown>, RegExp]> = {
      'a row never saved': [() => Runs.build().withLock(() => undefined), /never saved/],
      'no callback': [(run) => run.withLock(undefined as never), /expected a callback, got undefined/],
      'an unknown option': [(run) => run.withLock(() => undefined, { timeout: 5 } as never), /no option "timeout"/],
      'a model without primary key': [
        () => {
          const Keyless = sequelize.define<Model>('Keyless', { data: DataTypes.JSON })
          Keyless.removeAttribute('id')
          return withLock(Keyless.build({}, { isNewRecord: false }), () => undefined)
        },
        /Keyless has no primary key.*primaryKey: true/,
      ],
      'a row loaded without its key': [
        (run) => {
          const partial = Runs.build({ title: 'x' }, { isNewRecord: false, raw: true })
          delete (partial.dataValues as { id?: number }).id
          return withLock(partial, () => void run)
        },
        /loaded without its primary key "id"/,
      ],
      'neither row nor [Model, primaryKey]': [
        () => withLock({} as never, () => undefined),
        /a row, \[Model, primaryKey\] or \[Model, \{ where \}\]/,
      ],
      'lock() without a transaction': [(run) => lock(run, {} as never), /sequelize\.transaction\(async/],
    }
    for (const [title, [call, text]] of Object.entries(refusals)) {
      it(title, async () => {
        const run = await Runs.create({ progress: {} })
        log.length = 0
        expect((await rejection(call(run), UsageError)).message).to.match(text)
        expect(log).to.deep.equal([])
      })
    }

    it('unsaved changes, and names them', async () => {
      const run = await Runs.create({ progress: {} })
      run.set({ title: 'unsaved', progress: { unsaved: 1 } })
      log.length = 0
      const error = await rejection(
        run.withLock(() => undefined),
        UnsavedChangesError,
      )
      expect(error.message).to.match(/unsaved changes in "title", "progress".*row\.save\(\).*row\.reload\(\)/)
      expect(log).to.deep.equal([])
      expect(run.title).to.equal('unsaved')
    })

    it('a read-only transaction', async () => {
      const run = await Runs.create()
      await sequelize.transaction({ readOnly: true }, async (transaction) => {
        const error = await rejection(
          run.withLock(() => undefined, { transaction }),
          UsageError,
        )
        expect(error.message).to.include('read-only')
      })
    })

    it('an isolation level for a transaction that is open already, or that the database does not have', async () => {
      const run = await Runs.create()
      const isolationLevel = Transaction.ISOLATION_LEVELS.REPEATABLE_READ
      await sequelize.transaction(async (transaction) => {
        await rejection(
          run.withLock(() => undefined, { transaction, isolationLevel }),
          UsageError,
        )
      })
      log.length = 0
      if (database.name === 'sqlite') {
        await rejection(
          run.withLock(() => undefined, { isolationLevel }),
          UsageError,
        )
      } else {
        await run.withLock(() => undefined, { isolationLevel })
        expect(log.join('\n')).to.match(/ISOLATION LEVEL REPEATABLE READ/)
      }
    })
  })

  describe('locks exactly its row', () => {
    it('rejects with a RowNotFoundError if the row was deleted, and does not run fn', async () => {
      const run = await Runs.create()
      await Runs.destroy({ where: { id: run.id } })
      let ran = false
      const error = await rejection(
        run.withLock(() => void (ran = true)),
        RowNotFoundError,
      )
      expect(error).to.deep.include({ code: 'ROW_NOT_FOUND', model: 'WorkflowRun', primaryKey: { id: run.id } })
      expect(ran).to.equal(false)
    })

    it('also if it is outside the default scope, or soft-deleted', async () => {
      const Archived = await createRuns(sequelize, {
        tableName: 'archived_runs',
        paranoid: true,
        defaultScope: { where: { title: 'visible' }, attributes: { exclude: ['progress'] } },
      })
      const run = await Archived.create({ title: 'hidden', progress: { k: 1 } })
      await run.withLock((row) => expect(row.progress).to.deep.equal({ k: 1 }))
      await run.destroy()
      await run.withLock((row) => row.update({ title: 'soft-deleted' }))
      const found = await Archived.unscoped().findByPk(run.id, { paranoid: false, rejectOnEmpty: true })
      expect(found.title).to.equal('soft-deleted')
    })

    it('also if it was loaded from an unscoped model, which is another class of the same name', async () => {
      const { id } = await Runs.create({ progress: {} })
      const run = await Runs.unscoped().findByPk(id, { rejectOnEmpty: true })
      await run.withLock((row) => row.update({ progress: { k: 1 } }))
      expect(await stored(id)).to.deep.equal({ k: 1 })
    })

    it('by a composite key, with renamed columns', async () => {
      interface SettingModel extends Model<InferAttributes<SettingModel>, InferCreationAttributes<SettingModel>> {
        tenantId: number
        name: string
        value: Progress
      }
      const Setting = lossless(
        sequelize.define<SettingModel>(
          'Setting',
          {
            tenantId: { type: DataTypes.INTEGER, primaryKey: true, field: 'tenant_id' },
            name: { type: DataTypes.STRING, primaryKey: true, field: 'key_name' },
            value: { type: DataTypes.JSON, field: 'json_value' },
          },
          { tableName: 'settings' },
        ),
      )
      await Setting.sync({ force: true })
      const [one, two] = await Setting.bulkCreate([
        { tenantId: 1, name: 'theme', value: {} },
        { tenantId: 2, name: 'theme', value: {} },
      ])
      await one!.withLock((row) => row.update({ value: { dark: true } }))
      await withLock([Setting, { tenantId: 2, name: 'theme' }], (row) => row.update({ value: { dark: false } }))
      expect((await one!.reload()).value).to.deep.equal({ dark: true })
      expect((await two!.reload()).value).to.deep.equal({ dark: false })
    })

    it('in another schema', async () => {
      const schema = 'lossless_schema'
      await sequelize.createSchema(schema, {}).catch(() => undefined)
      const Elsewhere = await createRuns(sequelize, { schema, tableName: 'runs' })
      const run = await Elsewhere.create({ progress: {} })
      await run.withLock(async (row) => {
        row.progress!['locked'] = 1
        await row.save()
      })
      await run.mergeJsonKey('progress', 'merged', 1)
      expect((await run.reload()).progress).to.deep.equal({ locked: 1, merged: 1 })
      await sequelize.dropSchema(schema, {})
    })

    it('and keeps the associations it was loaded with, without joining or locking them', async () => {
      const Step = sequelize.define<Model & { name: string }>('Step', { name: DataTypes.STRING })
      Runs.hasMany(Step, { as: 'steps', foreignKey: 'runId' })
      await Step.sync({ force: true })
      const { id } = await Runs.create({ progress: {} })
      await Step.bulkCreate([{ name: 'a', runId: id } as never])
      const run = await Runs.findByPk(id, { include: 'steps', rejectOnEmpty: true })
      log.length = 0
      await run.withLock(async (row) => {
        expect(log.join()).to.not.include('JOIN')
        expect((row.get('steps') as { name: string }[])[0]!.name).to.equal('a')
        await row.reload()
      })
      expect(run.get('steps')).to.have.length(1)
      await Step.drop()
    })

    it('and runs afterFind hooks on what it read', async () => {
      const Hooked = await createRuns(sequelize, {
        tableName: 'hooked_runs',
        hooks: {
          afterFind(found) {
            for (const row of [found].flat() as WorkflowRun[]) row.setDataValue('title', `decoded ${row.title}`)
          },
        },
      })
      const { id } = await Hooked.create({ title: 'x' })
      await withLock([Hooked, id], (row) => {
        expect(row.title).to.equal('decoded x')
        row.changed('title', false)
      })
      await Hooked.drop()
    })
  })

  describe('in a transaction of the caller', () => {
    it('joins it, without savepoint or commit', async () => {
      const run = await Runs.create({ progress: {} })
      const error = new Error('on purpose')
      log.length = 0
      const outer = sequelize.transaction(async (transaction) => {
        await run.withLock((row) => row.update({ title: 'joined' }), { transaction })
        throw error
      })
      expect(await rejection(outer, Error)).to.equal(error)
      expect(log.join('\n')).to.not.match(/SAVEPOINT|COMMIT/)
      expect((await run.reload()).title).to.equal(null)
    })

    it('keeps the row joined until that transaction ends', async () => {
      const run = await Runs.create({ progress: {} })
      await sequelize.transaction(async (transaction) => {
        await lock(run, { transaction })
        run.progress!['k'] = 1
        await run.save()
        await run.mergeJsonKey('progress', 'm', 1)
      })
      expect(await stored(run.id)).to.deep.equal({ k: 1, m: 1 })
      await run.update({ title: 'after' })
      expect((await run.reload()).title).to.equal('after')
    })

    it('works inside a savepoint, and survives its rollback', async () => {
      const run = await Runs.create({ progress: {} })
      await sequelize.transaction(async (transaction) => {
        await run.withLock(
          async (row) => {
            const savepoint = sequelize.transaction({ transaction }, async (nested) => {
              await row.withLock((again) => again.update({ title: 'rolled back' }, { transaction: nested }), {
                transaction: nested,
              })
              throw new Error('on purpose')
            })
            await rejection(savepoint, Error)
            await row.reload()
            await row.update({ progress: { kept: 1 } })
          },
          { transaction },
        )
      })
      expect((await run.reload()).title).to.equal(null)
      expect(run.progress).to.deep.equal({ kept: 1 })
    })

    it('joins Sequelize’s ambient transaction, but never one of another Sequelize instance', async () => {
      const store = new Map<string, unknown>()
      Sequelize.useCLS({
        get: (key: string) => store.get(key),
        set: (key: string, value: unknown) => void store.set(key, value),
        run: (fn: (context: unknown) => unknown) => void fn(store),
        bind: (fn: unknown) => fn,
      })
      try {
        const run = await Runs.create({ progress: {} })
        log.length = 0
        await sequelize.transaction(async () => {
          await run.withLock((row) => row.update({ title: 'ambient' }))
          await run.mergeJsonKey('progress', 'k', 1)
        })
        expect(log.filter((statement) => /START|BEGIN|COMMIT/.test(statement))).to.have.length(2)
        const foreign = await createRuns(database.connect().sequelize, { tableName: 'foreign_runs' })
        const stranger = await foreign.create({ progress: {} }, { transaction: null })
        if (database.name !== 'sqlite') {
          await sequelize.transaction(async () => {
            await stranger.withLock((row) => row.update({ title: 'its own' }))
          })
          expect((await foreign.findByPk(stranger.id, { transaction: null }))!.title).to.equal('its own')
        }
      } finally {
        delete (Sequelize as unknown as { _cls?: unknown })._cls
      }
    })

    if (database.name === 'mysql' || database.name === 'mariadb') {
      it('does not commit after a deadlock whose error was caught', async () => {
        const [before, one, two] = await Runs.bulkCreate([{}, {}, {}])
        const deadlocked = await deadlock(sequelize, one!, two!, async (transaction, collide) => {
          await before!.update({ title: 'half' }, { transaction })
          await sequelize
            .transaction({ transaction }, (savepoint) =>
              withLock(one!, () => collide(savepoint), { transaction: savepoint }),
            )
            .catch(() => undefined)
          await Runs.create({ title: 'other half' }, { transaction }).catch(() => undefined)
        })
        expect(deadlocked).to.be.instanceOf(RolledBackError)
        expect(await Runs.count({ where: { title: ['half', 'other half'] } })).to.equal(0)
      })
    }

    if (database.name === 'mysql') {
      it('reads the newest row even if its snapshot is older', async () => {
        const run = await Runs.create({ progress: { old: 1 } })
        await sequelize.transaction(async (transaction) => {
          await Runs.findByPk(run.id, { transaction })
          await Runs.update({ progress: { new: 1 } }, { where: { id: run.id } })
          await run.withLock(
            async (row) => {
              expect(row.progress).to.deep.equal({ new: 1 })
              await row.reload()
              expect(row.progress).to.deep.equal({ new: 1 })
            },
            { transaction },
          )
        })
      })
    }

    if (database.name === 'postgres') {
      it('rejects with a ConflictError if its snapshot is older than the row', async () => {
        const run = await Runs.create({ progress: {} })
        const isolationLevel = Transaction.ISOLATION_LEVELS.REPEATABLE_READ
        const call = sequelize.transaction({ isolationLevel }, async (transaction) => {
          await Runs.findByPk(run.id, { transaction })
          await Runs.update({ title: 'newer' }, { where: { id: run.id } })
          await run.withLock(() => undefined, { transaction })
        })
        const error = await rejection(call, ConflictError)
        expect(error).to.have.nested.property('cause.parent.code', '40001')
      })

      it('does not commit after a failed statement whose error was caught', async () => {
        const run = await Runs.create({ progress: {} })
        const call = run.withLock(async (row, transaction) => {
          await row.update({ title: 'lost' })
          await sequelize.query('SELECT 1/0', { transaction }).catch(() => undefined)
        })
        expect((await rejection(call, RolledBackError)).code).to.equal('ROLLED_BACK')
        expect(run.title).to.equal(null)
        expect((await run.reload()).title).to.equal(null)
      })

      it('does not block the insert of a row that refers to the locked one', async () => {
        const Child = sequelize.define<Model>('Child', {
          runId: { type: DataTypes.INTEGER, references: { model: 'workflow_runs', key: 'id' } },
        })
        await Child.sync({ force: true })
        const run = await Runs.create()
        await run.withLock(() => Child.create({ runId: run.id }, { transaction: null }))
        expect(await Child.count()).to.equal(1)
        await Child.drop()
      })
    }

    if (database.name === 'mariadb') {
      it('rejects with a ConflictError, and rolls back, if the server reports that the snapshot is older than the row', async () => {
        const run = await Runs.create({ progress: {} })
        const call = sequelize.transaction(async (transaction) => {
          await sequelize.query('SET SESSION innodb_snapshot_isolation = ON', { transaction })
          await Runs.findByPk(run.id, { transaction })
          await Runs.create({ title: 'half' }, { transaction })
          await Runs.update({ title: 'newer' }, { where: { id: run.id } })
          expect(
            (
              await rejection(
                run.withLock(() => undefined, { transaction }),
                ConflictError,
              )
            ).cause,
          ).to.have.nested.property('parent.errno', 1020)
          await rejection(Runs.create({ title: 'other half' }, { transaction }), Error)
        })
        await rejection(call, RolledBackError)
        expect(await Runs.count({ where: { title: ['half', 'other half'] } })).to.equal(0)
        await sequelize.query('SET SESSION innodb_snapshot_isolation = OFF')
      })
    }
  })
})

/** Runs `work` in a transaction whose `collide` is the victim of a deadlock between the rows; resolves to its error. */
async function deadlock(
  sequelize: Sequelize,
  one: WorkflowRun,
  two: WorkflowRun,
  work: (transaction: Transaction, collide: (transaction: Transaction) => Promise<void>) => Promise<void>,
): Promise<Error> {
  // The session that has written more survives, so this one is never the victim.
  const survivor = await sequelize.transaction()
  for (let index = 0; index < 20; index++) {
    await (one.constructor as typeof WorkflowRun).create({ title: 'weight' }, { transaction: survivor })
  }
  await two.update({ title: 'survivor' }, { transaction: survivor })
  try {
    return await rejection(
      sequelize.transaction((transaction) =>
        work(transaction, async (inner) => {
          const crossing = one.constructor as typeof WorkflowRun
          const waiting = crossing.update({ title: 'survivor' }, { where: { id: one.id }, transaction: survivor })
          await rejection(crossing.update({ title: 'victim' }, { where: { id: two.id }, transaction: inner }), Error)
          await waiting
        }),
      ),
      Error,
    )
  } finally {
    await survivor.commit()
  }
}

eachDatabase('increment() of a locked row', (database) => {
  interface Counted extends Model {
    readonly id: number
    n: number | null
    big: string | number | null
    cents: string | number | null
  }

  for (const version of [false, true]) {
    it(`is kept by a save of the number after it${version ? ', of a model with a version' : ''}`, async () => {
      const { sequelize } = database.connect()
      const attributes = {
        n: { type: DataTypes.INTEGER, defaultValue: 0 },
        big: DataTypes.BIGINT,
        cents: DataTypes.DECIMAL(10, 2),
      }
      const options = { tableName: 'counted', timestamps: false, version }
      const Counters = sequelize.define<Counted>('Counted', attributes, options)
      await Counters.sync({ force: true })
      const { id } = await Counters.create({})
      await Counters.update({ cents: '10.50' }, { where: { id } })
      await withLock([Counters, id], async (row) => {
        await row.increment('cents', { by: 5 })
        await row.update({ cents: (Number(row.cents) + 1).toFixed(2) })
        await row.increment('n')
        row.n! += 1
        await row.save()
        await row.decrement({ n: 3, big: 1 })
        row.n! += 10
        await row.save()
      })
      const { n, big, cents } = await Counters.findByPk(id, { rejectOnEmpty: true })
      expect([n, big, Number(cents)]).to.deep.equal([9, null, 16.5])
    })
  }

  it('makes a number stale that was assigned before: the error of its save names the method', async () => {
    const { sequelize } = database.connect()
    const attributes = { n: { type: DataTypes.INTEGER, defaultValue: 0 } }
    const Counters = sequelize.define<Counted>('Counted', attributes, { tableName: 'counted', timestamps: false })
    await Counters.sync({ force: true })
    const { id } = await Counters.create({})
    const calls: Readonly<Record<string, (row: Counted) => Promise<unknown>>> = {
      increment: (row) => row.increment('n'),
      decrement: (row) => row.decrement({ n: 2 }),
    }
    for (const [name, call] of Object.entries(calls)) {
      const saving = withLock([Counters, id], async (row) => {
        row.n = 10
        await call(row)
        await row.save()
      })
      const { message } = await rejection(saving, StaleRowError)
      expect(message).to.include(`${name}() of the same instance`).and.not.include('another')
    }
    const written = withLock([Counters, id], async (row) => {
      const writing = atomicUpdate(row, { n: plus(1) })
      row.n = 10
      await writing
      await row.save()
    })
    expect((await rejection(written, StaleRowError)).message).to.include('atomicUpdate() of the same instance')
    const other = withLock([Counters, id], async (row, transaction) => {
      row.n = 10
      await row.increment('n')
      await Counters.increment('n', { where: { id }, transaction })
      await row.save()
    })
    expect((await rejection(other, StaleRowError)).message).to.include('another instance or statement')
    await withLock([Counters, id], async (row) => {
      row.n = 10
      await row.increment('n')
      await row.reload()
      row.n += 10
      await row.save()
    })
    expect((await Counters.findByPk(id, { rejectOnEmpty: true })).n).to.equal(11)
  })
})

eachDatabase('a callback in a transaction', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
  })

  it('is in its transaction with what a promise of another kind starts when it is awaited', async () => {
    const { id } = await Runs.create({ progress: {} })
    const lazy = <R>(start: () => Promise<R>): Promise<R> =>
      ({ then: (done: () => void, fail: () => void) => start().then(done, fail) }) as never
    await withLock([Runs, id], (row) => lazy(() => row.update({ title: 'own' })))
    await rejection(
      withLock([Runs, id], () => lazy(() => Runs.create({ title: 'outside' }))),
      OutsideTransactionError,
    )
    expect((await Runs.findAll()).map(({ title }) => title)).to.deep.equal(['own'])
  })

  it('does not save what it has read in a savepoint that was rolled back', async () => {
    const { id } = await Runs.create({ progress: { of: 'row' } })
    for (const change of [
      (row: WorkflowRun): unknown => (row.progress!['mine'] = 1),
      (row: WorkflowRun): unknown => (row.progress = { ...row.progress, mine: 1 }),
    ]) {
      const call = withLock([Runs, id], async (row, transaction) => {
        let inside: WorkflowRun | undefined
        const failed = sequelize.transaction({ transaction }, async (savepoint) => {
          await row.mergeJsonKey('progress', 'undone', 1, { transaction: savepoint })
          inside = await lock([Runs, id], { transaction: savepoint })
          throw new Error('undo')
        })
        await rejection(failed, Error)
        await row.mergeJsonKey('progress', 'kept', 1)
        change(inside!)
        await inside!.save({ transaction })
      })
      await rejection(call, StaleRowError)
    }
    expect((await Runs.findByPk(id))!.progress).to.deep.equal({ of: 'row' })
  })

  it('rejects a save of a row that it has deleted, also if the model has a version', async () => {
    for (const version of [false, true]) {
      const Own = await createRuns(sequelize, { tableName: 'deleted_runs', version })
      const { id } = await Own.create({ progress: {} })
      const call = withLock([Own, id], async (row, transaction) => {
        await Own.destroy({ where: { id }, transaction })
        row.progress = { a: 1 }
        await row.save()
      })
      await rejection(call, RowNotFoundError)
    }
  })

  it('sees what the callbacks before it wrote: those of one row in one transaction run one after the other', async () => {
    const Own = await createRuns(sequelize, { tableName: 'counted_runs', version: true })
    const { id } = await Own.create({ progress: { n: 0 }, title: '0' })
    const turn = (): Promise<void> => new Promise(setImmediate)
    const add = async (row: WorkflowRun): Promise<void> => {
      const n = Number(row.title)
      await turn()
      await row.update({ title: String(n + 1), progress: { n: n + 1 } })
    }
    await sequelize.transaction((transaction) =>
      Promise.all([
        withLock([Own, id], add, { transaction }),
        withLocks([[Own, id]], ([row]) => add(row), { transaction }),
        withOptimisticLock(
          [Own, id],
          async (row) => {
            const n = Number(row.title)
            await turn()
            row.title = String(n + 1)
          },
          { transaction },
        ),
        withLock([Own, id], (row) => withLock([Own, row.id], add, { transaction }), { transaction }),
      ]),
    )
    expect((await Own.findByPk(id))!.title).to.equal('4')
    await withLock([Own, id], (row, transaction) =>
      Promise.all([withLock([Own, row.id], add, { transaction }), withLock([Own, row.id], add, { transaction })]),
    )
    expect((await Own.findByPk(id))!.title).to.equal('6')
  })

  it('is refused if it and another one of the transaction would wait for each other', async () => {
    const rows = await Runs.bulkCreate([{ progress: {} }, { progress: {} }])
    const [one, other] = (await Runs.findAll({ where: { id: rows.map(({ id }) => id) } })).map(({ id }) => id)
    const outcomes = await sequelize.transaction((transaction) => {
      let begun = 0
      let begin: () => void
      const bothBegun = new Promise<void>((resolve) => (begin = resolve))
      const crossed = (first: number, second: number): Promise<unknown> =>
        withLock(
          [Runs, first],
          async () => {
            if (++begun === 2) begin()
            await bothBegun
            await withLock([Runs, second], (row) => row.update({ title: 'crossed' }), { transaction })
          },
          { transaction },
        )
      return Promise.allSettled([crossed(one!, other!), crossed(other!, one!)])
    })
    const refused = outcomes.filter(({ status }) => status === 'rejected') as PromiseRejectedResult[]
    expect(refused).to.have.length(1)
    expect(refused[0]!.reason).to.be.instanceOf(UsageError).and.include({ reason: 'lockEachOther' })
    expect(await Runs.count({ where: { title: 'crossed' } })).to.equal(1)
  })

  it('replaces a row that it has deleted', async () => {
    const { id } = await Runs.create({ progress: { before: 1 } })
    await withLock([Runs, id], async (row, transaction) => {
      await row.destroy()
      await Runs.create({ id, progress: { after: 1 } }, { transaction })
    })
    expect((await Runs.findByPk(id))!.progress).to.deep.equal({ after: 1 })
  })
})
