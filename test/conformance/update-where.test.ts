import { AsyncResource } from 'node:async_hooks'
import { expect } from 'chai'
import { DataTypes, Model, Op } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes, ModelOptions, Sequelize } from 'sequelize'
import {
  append,
  ConflictError,
  increment,
  JsonShapeError,
  lossless,
  merge,
  mergeJsonKey,
  OutsideTransactionError,
  plus,
  remove,
  set,
  UnsupportedValueError,
  updateWhere,
  UsageError,
  withLock,
} from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'

type Document = Record<string, unknown>

class Task extends Model<InferAttributes<Task>, InferCreationAttributes<Task>> {
  declare id: CreationOptional<number>
  declare status: CreationOptional<string>
  declare attempts: CreationOptional<number | null>
  declare progress: CreationOptional<Document | null>
  declare stats: CreationOptional<Document | null>
  declare version: CreationOptional<number>
  declare updatedAt: CreationOptional<Date>
}

interface Task extends Lossless<Task> {}

async function createTasks(
  sequelize: Sequelize,
  options: ModelOptions<Task> = {},
  id: object = { type: DataTypes.INTEGER, autoIncrement: true },
): Promise<typeof Task> {
  const Tasks = class extends Task {}
  Tasks.init(
    {
      id: { primaryKey: true, ...id } as never,
      status: {
        type: DataTypes.STRING,
        field: 'task_status',
        defaultValue: 'new',
        validate: { isLowercase: true },
        primaryKey: options.modelName === 'Composite',
      },
      attempts: DataTypes.INTEGER,
      progress: DataTypes.JSON,
      stats: DataTypes.JSON,
      version: { type: DataTypes.INTEGER, defaultValue: 0 },
      updatedAt: DataTypes.DATE,
    },
    { sequelize, modelName: 'Task', tableName: 'tasks', ...options },
  )
  await Tasks.sync({ force: true })
  return lossless(Tasks)
}

eachDatabase('updateWhere', (database) => {
  const isSqlite = database.name === 'sqlite'
  let sequelize: Sequelize
  let log: string[]
  let Tasks: typeof Task

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Tasks = await createTasks(sequelize)
    await updateWhere(Tasks, { id: 0 }, { attempts: plus(1) })
  })
  beforeEach(async () => {
    await Tasks.destroy({ where: {} })
  })

  const all = (): Promise<Task[]> => Tasks.findAll({ order: ['id'] })
  const documents = async (): Promise<unknown[]> => (await all()).map(({ progress }) => progress)
  const queued = { status: 'queued' } as const

  it('changes every row that meets the where, for different stored documents, with all values bound', async () => {
    await Tasks.bulkCreate([
      { ...queued, progress: { n: 1 }, stats: null, attempts: 2 },
      { ...queued, progress: null, stats: { m: 1 } },
      { ...queued, progress: null, stats: null },
      { ...queued, progress: { n: 5, log: ['a'] }, stats: { m: 2 } },
      { status: 'other', progress: { n: 1 } },
    ])
    const [{ id }] = (await all()) as [Task]
    await sequelize.query(`UPDATE tasks SET progress = 'null' WHERE id = ${id + 2}`)
    log.length = 0
    const count = await updateWhere(Tasks, queued, {
      progress: [increment('n'), append('log', 'secret')],
      stats: [set('secret', 1)],
      status: 'secret',
      attempts: plus(1),
    })
    expect(count).to.equal(4)
    expect(log.join()).to.not.include('secret').and.not.include('queued')
    const updates = log.filter((sql) => /^(SET STATEMENT .* FOR )?UPDATE/.test(sql))
    expect(updates).to.have.length(database.name === 'mysql' ? 4 : 1)
    const rows = await all()
    expect(rows.map(({ progress, stats, status, attempts }) => [progress, stats, status, attempts])).to.deep.equal([
      [{ n: 2, log: ['secret'] }, { secret: 1 }, 'secret', 3],
      [{ n: 1, log: ['secret'] }, { m: 1, secret: 1 }, 'secret', 1],
      [{ n: 1, log: ['secret'] }, { secret: 1 }, 'secret', 1],
      [{ n: 6, log: ['a', 'secret'] }, { m: 2, secret: 1 }, 'secret', 1],
      [{ n: 1 }, null, 'other', null],
    ])
    expect(await updateWhere(Tasks, queued, { progress: [set('a', 1)] })).to.equal(0)
    // Ordinary columns alone; values that the rows have already.
    expect(await updateWhere(Tasks, { status: 'secret' }, { status: 'secret' })).to.equal(4)
    expect(await updateWhere(Tasks, { status: 'secret' }, { progress: [remove('nothing')] })).to.equal(4)
  })

  for (const [what, stored, operations, needed] of [
    ['an array where an object is needed', '[1]', [set('a', 1)], 'an object'],
    ['a text where a number is needed', '{"n":"text"}', [increment('n')], 'a number'],
    ['a number where an array is needed', '{"n":1}', [append('n', 1)], 'an array'],
  ] as const) {
    it(`writes nothing if one row has ${what}, and names it`, async () => {
      await Tasks.bulkCreate([{ ...queued, progress: {} }, { ...queued, progress: null }, queued, { status: 'other' }])
      const rows = await all()
      for (const row of rows.slice(2)) {
        await sequelize.query(`UPDATE tasks SET progress = '${stored}' WHERE id = ${row.id}`)
      }
      const changes = { progress: operations as never, attempts: 1 }
      const refused = rejection(updateWhere(Tasks, queued, changes), JsonShapeError)
      expect(await refused)
        .to.include({ column: 'progress', needed })
        .and.have.deep.property('primaryKey', { id: rows[2]!.id })
      // The caller catches the error, writes again, and commits.
      await sequelize.transaction(async (transaction) => {
        await rejection(updateWhere(Tasks, queued, changes, { transaction }), JsonShapeError)
        await Tasks.update({ stats: { a: 1 } }, { where: { id: rows[0]!.id }, transaction })
      })
      const after = await all()
      expect(after.map(({ attempts }) => attempts)).to.deep.equal([null, null, null, null])
      expect(after.map(({ progress }) => progress).slice(0, 2)).to.deep.equal([{}, null])
      expect(after[0]!.stats).to.deep.equal({ a: 1 })
    })
  }

  it('writes nothing if a sum is out of the range of its column', async () => {
    await Tasks.bulkCreate([
      { ...queued, progress: {}, attempts: 1 },
      { ...queued, attempts: 2_147_483_647 },
    ])
    const changes = { attempts: plus(isSqlite ? 2n ** 63n - 1n : 1), progress: [set('a', 1)] } as const
    await rejection(updateWhere(Tasks, queued, changes), UnsupportedValueError)
    expect(await documents()).to.deep.equal([{}, null])
    await sequelize.transaction(async (transaction) => {
      await rejection(updateWhere(Tasks, queued, changes, { transaction }), UnsupportedValueError)
      await Tasks.update({ stats: { a: 1 } }, { where: queued, transaction })
    })
    const after = (await all()).map(({ progress, stats }) => [progress, stats])
    expect(after).to.deep.equal([
      [{}, { a: 1 }],
      [null, { a: 1 }],
    ])
  })

  it('loses no update and applies none twice beside concurrent writers of single rows', async () => {
    await Tasks.bulkCreate([{ progress: { n: 0 } }, { progress: null }, { progress: { n: 0 } }, { progress: null }])
    const ids = (await all()).map(({ id }) => id)
    const callers = Array.from({ length: 8 }, (_, index) => index)
    const bulk = callers.map(() =>
      updateWhere(
        Tasks,
        { id: ids },
        { progress: [increment('n')], attempts: plus(1) },
        { retry: { maxAttempts: 50 } },
      ),
    )
    const single = callers.flatMap((caller) =>
      ids.map((id) => mergeJsonKey([Tasks, id], 'progress', `key_${caller}`, caller, { retry: { maxAttempts: 50 } })),
    )
    const counts = await Promise.all(bulk)
    await Promise.all(single)
    expect(counts).to.deep.equal(callers.map(() => 4))
    const keys = Object.fromEntries(callers.map((caller) => [`key_${caller}`, caller]))
    expect(await documents()).to.deep.equal(ids.map(() => ({ n: 8, ...keys })))
    expect((await all()).map(({ attempts }) => attempts)).to.deep.equal([8, 8, 8, 8])
  })

  it('changes the instances that its transaction has locked, and their saves keep the change', async () => {
    await Tasks.bulkCreate([queued, { ...queued, progress: { a: 1 }, attempts: 1 }, { ...queued, progress: { a: 2 } }])
    const [first, second, third] = (await all()) as [Task, Task, Task]
    await second.withLock(async (row, transaction) => {
      row.progress!['mine'] = 1
      const count = updateWhere(Tasks, queued, { progress: [increment('a')], attempts: plus(1) }, { transaction })
      // A save that has begun, and one that begins later.
      await Promise.all([third.update({ stats: { saved: 1 } }, { transaction }), count, row.save()])
      expect(await count).to.equal(3)
      expect(row.progress).to.deep.equal({ a: 2, mine: 1 })
      expect(row.attempts).to.equal(2)
      row.stats = { ...row.progress }
      await row.save()
      await rejection(updateWhere(Tasks, queued, { attempts: plus(1) }), OutsideTransactionError)
      await rejection(updateWhere(Tasks, queued, { attempts: plus(1) }, { transaction, retry: {} }), UsageError)
    })
    const rows = await all()
    expect(rows.map(({ progress, stats, attempts }) => [progress, stats, attempts])).to.deep.equal([
      [{ a: 1 }, null, 1],
      [{ a: 2, mine: 1 }, { a: 2, mine: 1 }, 2],
      [{ a: 3 }, { saved: 1 }, 1],
    ])
    expect(first.progress).to.equal(null)
  })

  it('does not interleave with concurrent writes of the same callback', async () => {
    await Tasks.bulkCreate([queued, queued])
    const ids = (await all()).map(({ id }) => id)
    await sequelize.transaction(async (transaction) => {
      const key = (name: string): Promise<unknown>[] =>
        ids.map((id) => mergeJsonKey([Tasks, id], 'progress', name, 1, { transaction }))
      const bulk = updateWhere(Tasks, queued, { progress: [increment('n')] }, { transaction })
      await Promise.all([
        ...key('a'),
        bulk,
        ...key('b'),
        updateWhere(Tasks, queued, { progress: [increment('n')] }, { transaction }),
      ])
    })
    expect(await documents()).to.deep.equal([
      { a: 1, b: 1, n: 2 },
      { a: 1, b: 1, n: 2 },
    ])
  })

  it('sends its statements without interleaving: a write of a concurrent branch comes after them', async () => {
    await Tasks.bulkCreate([{ ...queued, progress: { n: 1 } }, queued])
    const [locked, { id }] = (await all()) as [Task, Task]
    await locked.withLock(async (row, transaction) => {
      const branches: Promise<unknown>[] = []
      // Outside of the context of the statement that is logged.
      const begin = AsyncResource.bind(() => {
        row.progress!['mine'] = 1
        branches.push(row.save(), mergeJsonKey([Tasks, id], 'progress', 'b', 1, { transaction }))
      })
      const logging = (sql: string): void => {
        if (sql.includes('kind of row')) begin()
      }
      await updateWhere(Tasks, queued, { progress: [increment('n')] }, { transaction, logging })
      expect(branches).to.have.length(2)
      await Promise.all(branches)
    })
    expect(await documents()).to.deep.equal([
      { n: 2, mine: 1 },
      { n: 1, b: 1 },
    ])
  })

  it('is rolled back with its transaction, in memory too', async () => {
    const task = await Tasks.create({ ...queued, progress: { n: 1 } })
    const undone = withLock(task, async (_row, transaction) => {
      await updateWhere(Tasks, queued, { progress: [increment('n')] }, { transaction })
      expect(task.progress).to.deep.equal({ n: 2 })
      throw new RangeError('undone')
    })
    await rejection(undone, RangeError)
    expect(task.progress).to.deep.equal({ n: 1 })
    expect(await documents()).to.deep.equal([{ n: 1 }])
  })

  it('changes the rows of the scope of a model that are not deleted, and updates updatedAt and version', async () => {
    const options = { paranoid: true, version: true, timestamps: true, createdAt: false } as const
    const Scoped = await createTasks(sequelize, {
      ...options,
      modelName: 'Scoped',
      tableName: 'scoped_tasks',
      scopes: { queued: { where: queued }, every: { where: {} } },
    })
    const DefaultScoped = await createTasks(sequelize, {
      ...options,
      modelName: 'DefaultScoped',
      tableName: 'default_scoped_tasks',
      defaultScope: { where: queued },
    })
    await Scoped.bulkCreate([queued, queued, { status: 'other' }])
    const updatedAt = new Date('2020-01-01')
    await Scoped.update({ updatedAt }, { where: {}, silent: true })
    const [, second] = (await Scoped.findAll({ order: ['id'] })) as [Task, Task]
    await second.destroy()
    const changes = { progress: [set('a', 1)] } as const
    for (const every of [Scoped, Scoped.unscoped(), DefaultScoped, Scoped.scope('every')] as (typeof Scoped)[]) {
      await rejection(updateWhere(every, {}, changes), UsageError)
    }
    expect(await updateWhere(Scoped.scope('queued') as typeof Scoped, {}, changes)).to.equal(1)
    expect(await updateWhere(Scoped, { id: { [Op.gt]: 0 } }, changes)).to.equal(2)
    const rows = await Scoped.findAll({ order: ['id'], paranoid: false })
    const [v] = rows as [Task]
    expect(rows.map(({ progress }) => progress)).to.deep.equal([{ a: 1 }, null, { a: 1 }])
    expect(v.version).to.equal(rows[2]!.version + 1)
    for (const row of [rows[0]!, rows[2]!]) expect(row.updatedAt.getTime()).to.be.greaterThan(updatedAt.getTime())
  })

  it('changes more rows than one statement names, rows of a composite key, and a document of many keys', async () => {
    const Composite = await createTasks(
      sequelize,
      { modelName: 'Composite', tableName: 'composite_tasks' },
      { type: DataTypes.INTEGER },
    )
    const few = 1030
    await Composite.bulkCreate(Array.from({ length: few }, (_, id) => ({ id, status: id % 2 ? 'odd' : 'even' })))
    expect(await updateWhere(Composite, { id: { [Op.gte]: 4 } }, { progress: [set('a', 1)] })).to.equal(few - 4)
    const rows = await Composite.findAll({ order: ['id'] })
    expect(rows.map(({ progress }) => progress)).to.deep.equal(rows.map(({ id }) => (id < 4 ? null : { a: 1 })))
    const patch = Object.fromEntries(Array.from({ length: 70 }, (_, key) => [`key_${key}`, key]))
    expect(await updateWhere(Composite, { id: [1, 2, 9] }, { progress: [merge([], patch)] })).to.equal(3)
    const changed = await Composite.findAll({ where: { id: [1, 2, 9] }, order: ['id'] })
    expect(changed.map(({ progress }) => progress)).to.deep.equal([patch, patch, { a: 1, ...patch }])
  })

  it('does not deadlock in concurrent calls whose rows overlap by their key', async () => {
    await Tasks.bulkCreate(Array.from({ length: 60 }, () => ({ progress: { n: 0 } })))
    const [{ id: first }] = (await all()) as [Task]
    const from = [0, 5, 11, 0]
    const calls = Array.from({ length: 5 }, () => from).flat()
    const counts = calls.map(async (start) =>
      updateWhere(
        Tasks,
        { id: { [Op.gte]: first + start } },
        { progress: [increment('n')] },
        { retry: { maxAttempts: 1 } },
      ),
    )
    expect(await Promise.all(counts)).to.deep.equal(calls.map((start) => 60 - start))
    const wanted = Array.from({ length: 60 }, (_, at) => ({ n: 5 * from.filter((start) => start <= at).length }))
    expect(await documents()).to.deep.equal(wanted)
  })

  if (database.name === 'mysql' || database.name === 'mariadb') {
    it('changes the rows of a table without the index of a primary key', async () => {
      const options = { modelName: 'Keyless', tableName: 'keyless_tasks' }
      const Keyless = await createTasks(sequelize, options, { type: DataTypes.INTEGER })
      await sequelize.query('ALTER TABLE keyless_tasks DROP PRIMARY KEY, ADD UNIQUE (id)')
      await Keyless.bulkCreate([{ id: 1 }, { id: 2 }])
      log.length = 0
      for (const n of [1, 2]) {
        expect(await updateWhere(Keyless, { id: [1, 2] }, { progress: [set('n', n)] })).to.equal(2)
        expect((await Keyless.findAll()).map(({ progress }) => progress)).to.deep.equal([{ n }, { n }])
      }
      expect(log.filter((sql) => sql.includes('FORCE INDEX'))).to.have.length(1)
    })
  }

  it('rejects if the database does not write one of the rows, and writes none', async () => {
    const changes = { progress: [set('a', 1)] } as const
    if (database.name === 'mysql' || database.name === 'mariadb') {
      // A FLOAT does not equal the number that is read from it.
      const Floats = await createTasks(
        sequelize,
        { modelName: 'Floats', tableName: 'float_tasks' },
        { type: DataTypes.FLOAT },
      )
      await Floats.bulkCreate([{ id: 1 }, { id: 0.1 }])
      const call = updateWhere(Floats, { status: 'new' }, changes)
      // mysql2 reads the double.
      const isFound = database.dialect === 'mysql'
      if (isFound) expect(await call).to.equal(2)
      else expect((await rejection(call, ConflictError)).primaryKey).to.deep.equal({ id: 0.1 })
      const after = isFound ? { a: 1 } : null
      expect((await Floats.findAll()).map(({ progress }) => progress)).to.deep.equal([after, after])
      return
    }
    const Skipped = await createTasks(sequelize, { modelName: 'Skipped', tableName: 'skipped_tasks' })
    await Skipped.bulkCreate([{}, { attempts: 7 }])
    await sequelize.query(
      isSqlite
        ? `CREATE TRIGGER skip_seven BEFORE UPDATE ON skipped_tasks WHEN OLD.attempts = 7 BEGIN SELECT RAISE(IGNORE); END`
        : `CREATE OR REPLACE FUNCTION skip_seven() RETURNS trigger AS $f$ BEGIN IF OLD.attempts = 7 THEN RETURN NULL; END IF; RETURN NEW; END $f$ LANGUAGE plpgsql;
           CREATE TRIGGER skip_seven BEFORE UPDATE ON skipped_tasks FOR EACH ROW EXECUTE FUNCTION skip_seven()`,
    )
    const error = await rejection(updateWhere(Skipped, { status: 'new' }, changes), ConflictError)
    expect(error.message).to.include('trigger')
    expect((await Skipped.findAll()).map(({ progress }) => progress)).to.deep.equal([null, null])
  })

  if (database.name === 'postgres') {
    it('rejects with a typed error if a document of the rows has a character that jsonb cannot represent', async () => {
      await Tasks.bulkCreate([{ ...queued, progress: {} }, queued])
      await sequelize.query(`UPDATE tasks SET progress = '{"x":"\\u0000"}' WHERE progress IS NULL`)
      const error = await rejection(updateWhere(Tasks, queued, { progress: [set('a', 1)] }), UnsupportedValueError)
      expect(error.message).to.include('"progress" of Task holds the NUL character')
      expect(await documents()).to.deep.equal([{}, { x: '\0' }])
    })
  }

  it('refuses wrong arguments before any SQL', async () => {
    log.length = 0
    const changes = { attempts: plus(1) }
    const wrong: readonly (readonly [unknown, unknown, unknown, object, RegExp])[] = [
      ['Tasks', queued, changes, {}, /expected an initialised Sequelize model/],
      [Tasks, undefined, changes, {}, /expected where to be an object of columns, got undefined/],
      [Tasks, {}, changes, {}, /every row of Task meets the where\. Name a column in it: \{ id: … \}/],
      [Tasks, { [Op.or]: [{}, { status: 'x' }] }, changes, { all: false }, /every row of Task meets the where/],
      [Tasks, { [Op.and]: [{}] }, changes, {}, /every row of Task meets the where/],
      [Tasks, { id: { [Op.notIn]: [] } }, changes, {}, /every row of Task meets the where/],
      [Tasks, { [Op.not]: { [Op.not]: { [Op.or]: [{}] } } }, changes, {}, /every row of Task meets the where/],
      [Tasks, { [Op.not]: { [Op.and]: [{ [Op.or]: [] }, queued] } }, changes, {}, /every row of Task meets the where/],
      [Tasks, { progress: {} }, changes, {}, /not an ordinary column/],
      [Tasks, queued, {}, {}, /with at least one/],
      [Tasks, queued, { id: 1 }, {}, /part of the primary key/],
      [Tasks, queued, changes, { all: 'yes' }, /expected all to be true or false, got "yes"/],
      [Tasks, queued, changes, { if: {} }, /no option "if"/],
      [Object.assign(class extends Tasks {}, { primaryKeyAttributes: [] }), queued, changes, {}, /has no primary key/],
    ]
    for (const [model, where, change, options, text] of wrong) {
      const error = await rejection(updateWhere(model as never, where as never, change as never, options), UsageError)
      expect(error.message).to.match(text)
    }
    expect(log).to.deep.equal([])
    expect(await updateWhere(Tasks, {}, changes, { all: true })).to.equal(0)
  })
})
