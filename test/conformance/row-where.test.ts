import { inspect } from 'node:util'
import { expect } from 'chai'
import { DatabaseError, DataTypes, Op } from 'sequelize'
import type { Model, Sequelize, WhereOptions } from 'sequelize'
import {
  atomicUpdate,
  compareAndSetJson,
  ConditionNotMetError,
  ConflictError,
  increment,
  JsonShapeError,
  lock,
  mergeJson,
  mergeJsonKey,
  RowNotFoundError,
  set,
  updateJson,
  UsageError,
  withLock,
  withLocks,
  withOptimisticLock,
} from 'sequelize-lossless'
import type { Target } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { until } from '../patience.js'
import { outcomeOf, rejection } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'

type RunTarget = Target<WorkflowRun>
interface Options {
  readonly transaction?: never
}

/** Each function that takes a target sets `k` to 1. */
const calls: Readonly<Record<string, (target: RunTarget, options?: Options) => Promise<unknown>>> = {
  mergeJsonKey: (target, options) => mergeJsonKey(target, 'progress', 'k', 1, options),
  mergeJson: (target, options) => mergeJson(target, 'progress', { k: 1 }, options),
  updateJson: (target, options) => updateJson(target, 'progress', [set('k', 1)], options),
  'updateJson, returning': (target) => updateJson(target, 'progress', [set('k', 1)], { returning: true }),
  'updateJson, coalesced': (target) => updateJson(target, 'progress', [set('k', 1)], { coalesce: true }),
  compareAndSetJson: (target, options) =>
    compareAndSetJson(target, 'progress', 'n', 0, 7, options).then(() =>
      mergeJsonKey(target, 'progress', 'k', 1, options),
    ),
  atomicUpdate: (target: RunTarget, options) =>
    atomicUpdate(target as readonly [typeof WorkflowRun, never], { progress: [set('k', 1)] }, options),
  withLock: (target, options) => withLock(target, saveK, options),
  withLocks: (target, options) => withLocks([target], ([row]) => saveK(row), options),
  lock: (target) => {
    const [{ sequelize }] = target as readonly [typeof WorkflowRun, never]
    return sequelize!.transaction(async (transaction) => {
      const row = await lock(target, { transaction })
      await row.update({ progress: { ...row.progress, k: 1 } }, { transaction })
    })
  },
}

async function saveK(row: WorkflowRun): Promise<void> {
  row.progress = { ...row.progress, k: 1 }
  await row.save()
}

eachDatabase('a target with a where', (database) => {
  let sequelize: Sequelize
  let log: string[]
  let Runs: typeof WorkflowRun
  let Others: typeof WorkflowRun

  before(async () => {
    ;({ sequelize, log } = database.connect())
    Runs = await createRuns(sequelize)
    Others = defineRuns(database.connect().sequelize)
    await (await Runs.create()).mergeJsonKey('progress', 'a', 1)
  })
  beforeEach(async () => {
    await Runs.destroy({ where: {} })
  })

  const make = (titles: readonly string[]): Promise<WorkflowRun[]> =>
    Promise.all(titles.map((title) => Runs.create({ title, progress: { n: 0 } })))
  const stored = async (): Promise<Record<string, Progress | null>> => {
    const rows = await Others.findAll({ order: ['id'] })
    return Object.fromEntries(rows.map(({ title, progress }) => [String(title), progress] as const))
  }

  /** Runs `between` after the first statement of `call`, which is the look-up outside of a transaction. */
  async function interrupted(
    call: () => Promise<unknown>,
    between: readonly (() => Promise<unknown>)[],
  ): Promise<unknown> {
    let lookUps = 0
    sequelize.addHook('afterQuery', 'between', async (_options, query) => {
      const { sql } = query as unknown as { sql: string }
      if (!/^SELECT .id. AS .id. FROM/.test(sql)) return
      await between[lookUps++]?.()
    })
    try {
      return await call()
    } finally {
      sequelize.removeHook('afterQuery', 'between')
    }
  }

  for (const [name, call] of Object.entries(calls)) {
    it(`makes ${name} write the one row that meets it, and refuse no row or several rows`, async () => {
      await make(['a', 'b', 'b'])
      await call([Runs, { where: { title: 'a' } }])
      expect((await stored())['a']).to.include({ k: 1 })
      const missing = await rejection(call([Runs, { where: { title: 'secret' } }]), RowNotFoundError)
      expect(missing.message).to.match(
        /no WorkflowRun meets the where of the target \("title"\), so nothing was written/,
      )
      const several = await rejection(call([Runs, { where: { title: 'b' } }]), UsageError)
      expect(several.message).to.match(/2 rows of WorkflowRun meet the where of the target \(title\)/)
      expect(several.reason).to.equal('targetSeveral')
      expect((await stored())['b']).to.deep.equal({ n: 0 })
    })

    if (!/^(mergeJsonKey|updateJson, returning|atomicUpdate|withLock)$/.test(name)) continue
    it(`makes ${name} write no row that no longer meets it, but the row that has begun to meet it`, async () => {
      const [a] = await make(['a', 'b'])
      const swap = async (): Promise<void> => {
        await Others.update({ title: 'c' }, { where: { title: 'a' } })
        await Others.update({ title: 'a' }, { where: { title: 'b' } })
      }
      await interrupted(() => call([Runs, { where: { title: 'a' } }]), [swap])
      const { a: written, c: passed } = await stored()
      expect([written, passed]).to.satisfy(([one, other]: Progress[]) => one!['k'] === 1 && other!['k'] === undefined)

      const drop = (): Promise<unknown> => Others.update({ title: 'd' }, { where: { title: 'a' } })
      await rejection(
        interrupted(() => call([Runs, { where: { title: 'a' } }]), [drop]),
        RowNotFoundError,
      )
      expect(await stored()).to.not.have.property('a')
      expect((await Others.findByPk(a!.id))!.progress).to.deep.equal({ n: 0 })
    })
  }

  it('joins the transaction of the call, in which its look-up locks', async () => {
    await make(['a'])
    const target = [Runs, { where: { title: 'a' } }] as const
    const undone = sequelize.transaction(async (transaction) => {
      await mergeJsonKey(target, 'progress', 'k', 1, { transaction })
      await withLock(target, (row) => row.mergeJsonKey('progress', 'l', 1), { transaction, timeoutMs: 2000 })
      await rejection(
        mergeJsonKey([Runs, { where: { title: 'x' } }], 'progress', 'k', 1, { transaction }),
        RowNotFoundError,
      )
      expect((await Runs.findOne({ transaction }))!.progress).to.deep.equal({ n: 0, k: 1, l: 1 })
      throw new Error('undone')
    })
    await rejection(undone, Error)
    expect(await stored()).to.deep.equal({ a: { n: 0 } })
    if (database.name === 'sqlite') return
    log.length = 0
    await sequelize.transaction((transaction) => mergeJsonKey(target, 'progress', 'k', 1, { transaction }))
    expect(log.find((sql) => sql.includes('LIMIT 2'))).to.match(/LIMIT 2 FOR (NO KEY )?UPDATE$/)
  })

  it('is sent in one look-up and in the write, which repeats the conditions, with all values bound', async () => {
    const [a] = await make(['a'])
    log.length = 0
    const where = { title: { [Op.in]: ['a'] }, id: { [Op.gt]: 0 } }
    await updateJson([Runs, { where }], 'progress', [increment('n')])
    expect(log).to.have.length(2)
    expect(log.join()).to.not.match(/'a'/)
    for (const sql of log) expect(sql).to.match(/.title. = \S+.* AND .id. > /)
    expect((await stored())['a']).to.deep.equal({ n: 1 })
    await withOptimisticLockOf(a!.id)
  })

  async function withOptimisticLockOf(id: number): Promise<void> {
    const Versioned = await createRuns(sequelize, { tableName: 'versioned_runs', version: true })
    await Versioned.create({ title: 'v', progress: {}, version: 1 } as never)
    await withOptimisticLock([Versioned, { where: { title: 'v' } }], (row) => {
      row.progress = { k: id }
    })
    expect((await Versioned.findOne())!.progress).to.deep.equal({ k: id })
  }

  it('lets one of 8 concurrent callers claim the row by a change of its condition', async () => {
    await make(['queued'])
    const target = [Runs, { where: { title: 'queued' } }] as const
    const claim = (): Promise<unknown> =>
      atomicUpdate(target, { title: 'running', progress: [increment('n')] }, { returning: true })
    const outcomes = await Promise.allSettled(Array.from({ length: 8 }, claim))
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).to.have.length(1)
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).to.be.instanceOf(RowNotFoundError)
      else expect((outcome.value as WorkflowRun).title).to.equal('running')
    }
    expect(await stored()).to.deep.equal({ running: { n: 1 } })
  })

  it('rejects after five look-ups if another writer changes the row after each', async () => {
    await make(['a', 'b'])
    const swap = async (): Promise<void> => {
      await Others.update({ title: 'c' }, { where: { title: 'a' } })
      await Others.update({ title: 'a' }, { where: { title: 'b' } })
      await Others.update({ title: 'b' }, { where: { title: 'c' } })
    }
    const call = (): Promise<unknown> => mergeJsonKey([Runs, { where: { title: 'a' } }], 'progress', 'k', 1)
    const error = await rejection(interrupted(call, [swap, swap, swap, swap, swap]), ConflictError)
    expect(error.message).to.match(/in each of 5 attempts/)
    expect(await stored()).to.deep.equal({ a: { n: 0 }, b: { n: 0 } })
  })

  it('finds only rows in the scope of the model that are not deleted', async () => {
    const options = {
      tableName: 'scoped_runs',
      timestamps: true,
      paranoid: true,
      defaultScope: { where: { id: { [Op.lt]: 3 } } },
    }
    const Scoped = await createRuns(sequelize, options)
    const [first] = await Scoped.bulkCreate(['a', 'b', 'a'].map((title) => ({ title, progress: {} })))
    await mergeJsonKey([Scoped, { where: { title: 'a' } }], 'progress', 'k', 1)
    const several = mergeJsonKey([Scoped.unscoped(), { where: { title: 'a' } }], 'progress', 'k', 2)
    await rejection(several, UsageError)
    expect((await Scoped.unscoped().findAll({ order: ['id'] })).map(({ progress }) => progress)).to.deep.equal([
      { k: 1 },
      {},
      {},
    ])
    await first!.reload()
    await first!.destroy()
    await rejection(mergeJsonKey([Scoped, { where: { title: 'a' } }], 'progress', 'k', 3), RowNotFoundError)
  })

  it('finds no row that its paranoid model has deleted, by a primary key or by a where, but by its instance', async () => {
    const options = { tableName: 'paranoid_runs', timestamps: true, paranoid: true, version: true }
    const Kept = await createRuns(sequelize, options)
    const optimistic = (target: RunTarget): Promise<unknown> =>
      withOptimisticLock(target, (row) => {
        row.progress = { ...row.progress, k: 1 }
      })
    for (const [name, call] of Object.entries({ ...calls, withOptimisticLock: optimistic })) {
      const row = await Kept.create({ progress: { n: 0 } })
      await row.destroy()
      for (const target of [[Kept, row.id] as const, [Kept, { where: { id: row.id } }] as const]) {
        const error = await rejection(call(target), RowNotFoundError)
        expect(error.message, name).to.match(/so nothing was written\./)
        const option = name === 'lock' ? ', transaction' : ''
        if (typeof target[1] === 'number')
          expect(error.message).to.include(
            `WorkflowRun.findOne({ where: { id: ${row.id} }, paranoid: false${option} })`,
          )
      }
      expect((await row.reload({ paranoid: false })).progress, name).to.deep.equal({ n: 0 })
      if (name !== 'lock') await call(row)
      else await sequelize.transaction(async (transaction) => lock(row, { transaction }))
      await row.restore()
      await call([Kept, row.id])
      expect((await row.reload()).progress, name).to.include({ k: 1 })
    }
  })

  it('finds keys of other types, and composite ones', async () => {
    const Settings = sequelize.define<
      Model<{ tenant: string; at: Date; name: string; document: Record<string, unknown> }>
    >(
      'Setting',
      {
        tenant: { type: DataTypes.BIGINT, primaryKey: true },
        at: { type: DataTypes.DATE, primaryKey: true },
        name: DataTypes.STRING,
        document: DataTypes.JSON,
      },
      { timestamps: false },
    )
    await Settings.sync({ force: true })
    const at = new Date('2026-01-02T03:04:05.000Z')
    await Settings.create({ tenant: '7', at, name: 'x', document: {} })
    await mergeJsonKey([Settings, { where: { name: 'x' } }], 'document', 'k', 1)
    await withLock([Settings, { where: { name: 'x', tenant: '7', at } }], (row) =>
      mergeJsonKey(row, 'document', 'l', 2),
    )
    expect((await Settings.findOne())!.get('document')).to.deep.equal({ k: 1, l: 2 })
  })

  it('is refused before any SQL if it is not a valid condition', async () => {
    log.length = 0
    const wrong: readonly (readonly [unknown, RegExp])[] = [
      [{ where: {} }, /the where of \[WorkflowRun, \{ where \}\] is empty.*\{ where: \{ id: … \} \}/],
      [{ where: { title: 'a' }, order: ['id'] }, /has other keys beside where: order\. Leave them out/],
      [{ where: undefined }, /expected where to be an object of columns, got undefined/],
      [
        { where: { progress: {} } },
        /"progress" is not an ordinary column of WorkflowRun\. A where has conditions on ordinary columns/,
      ],
      [{ where: { nothing: 1 } }, /"nothing" is not an ordinary column/],
      [{ where: { id: 'abc' } }, /where compares "id" with "abc" \(string\)/],
      [{ where: { title: ['a', null] } }, /null in the list of values for "title".*\[Op\.or\]: \[\{ title: \[ … \] \}/],
      [{ where: { title: { [Op.notIn]: ['a', null] } } }, /null in the list/],
      [{ where: { id: undefined } }, /where compares "id" with undefined/],
      [{ where: { title: { [Op.regexp]: 'a' } } }, /where has the operator regexp, whose values/],
    ]
    for (const [value, text] of wrong) {
      for (const call of Object.values(calls)) {
        const error = await rejection(call([Runs, value] as never), UsageError)
        expect(error.message).to.match(text)
      }
    }
    const typo = { retry: { maxAttempts: 0 } }
    await rejection(mergeJsonKey([Runs, { where: { title: 'a' } }], 'progress', 'k', 1, typo), UsageError)
    const keyless = Object.assign(defineRuns(sequelize), { primaryKeyAttributes: [] })
    await rejection(mergeJsonKey([keyless, { where: { title: 'a' } }], 'progress', 'k', 1), UsageError)
    expect(log.filter((sql) => !/^(START|BEGIN|ROLLBACK)/.test(sql))).to.deep.equal([])
  })

  it('has the same result on every database for a value that its column cannot hold', async () => {
    const { INTEGER, SMALLINT, BIGINT, UUID, ENUM, REAL, DOUBLE, DECIMAL, DATE, DATEONLY, TIME, BOOLEAN, STRING } =
      DataTypes
    const id = { type: INTEGER, primaryKey: true }
    const columns = { id, small: SMALLINT, big: BIGINT, uuid: UUID, choice: ENUM('a', 'b'), real: REAL, double: DOUBLE }
    const others = { decimal: DECIMAL(10, 2), at: DATE, day: DATEONLY, time: TIME, flag: BOOLEAN, text: STRING }
    const Typed = sequelize.define<Model>(
      'Typed',
      { ...columns, ...others, document: DataTypes.JSON },
      { tableName: 'typed', timestamps: false },
    )
    await Typed.sync({ force: true })
    const uuid = '7c9e6679-7425-40de-944b-e07fc1f90ae7'
    const text = database.name === 'mariadb' ? '?' : '\ufffd'
    const numbers = { id: 1, small: 1, big: 1, real: 1.5, double: 1, decimal: 1 }
    const rest = { uuid, choice: 'a', at: new Date(), day: '2026-01-02', time: '10:00:00', flag: false, text }
    await Typed.create({ ...numbers, ...rest, document: {} })
    const [past, digits] = [2 ** 40, '99999999999999999999']
    const met: readonly WhereOptions[] = [
      ...[{ id: { [Op.lt]: past } }, { id: { [Op.ne]: 1.5 } }, { id: [1, past] }, { id: { [Op.between]: [0, past] } }],
      ...[{ id: { [Op.notIn]: [past] } }, { id: { [Op.not]: past } }, { small: { [Op.gt]: -70_000 } }],
      ...[{ big: { [Op.lt]: digits } }, { decimal: { [Op.lt]: digits } }, { real: { [Op.lt]: `1${digits}${digits}` } }],
      ...[{ uuid }, { uuid: { [Op.ne]: 'x' } }, { uuid: { [Op.like]: '7c9%' } }],
      ...[{ choice: ['x', 'a'] }, { choice: { [Op.like]: 'a%' } }, { real: 1.5 }, { real: { [Op.gt]: 1e-300 } }],
      ...[{ time: '10:00:00' }, { flag: 0 }, { flag: false }, { text: { [Op.ne]: 'a\0' } }],
      ...[{ text: { [Op.gt]: '!\0b' } }, { text: { [Op.gte]: '!\0' } }],
    ]
    const unmet: readonly WhereOptions[] = [
      ...[{ id: past }, { id: 1.5 }, { id: [past, past + 1] }, { small: 70_000 }, { big: digits }, { uuid: 'x' }],
      ...[{ choice: 'x' }, { real: 1e-300 }, { time: '25:00:00' }, { id: { [Op.gt]: past } }],
      ...[
        { text: 'a\0' },
        { text: { [Op.like]: 'a\0' } },
        { text: { [Op.lt]: '!\0b' } },
        { text: { [Op.lte]: '!\0' } },
      ],
    ]
    const wrong: readonly WhereOptions[] = [
      ...[{ double: '9'.repeat(400) }, { at: new Date(8.64e15) }, { at: { [Op.lt]: new Date(-8.64e15) } }],
      // For Node a day in March, for Sequelize 'Invalid date', which SQLite would compare.
      ...[{ day: '2024-02-31' }, { at: '2023-02-29T00:00:00Z' }, { day: '2024-13-01' }],
      ...[{ day: '12024-01-01' }, { time: '25:99' }, { time: 'x' }, { flag: 'true' }, { flag: [0, 2] }],
      // A driver replaces half of a surrogate pair by U+FFFD, which the row has.
      ...[{ text: '\ud800' }],
    ]
    const check = async (where: WhereOptions): Promise<readonly unknown[]> => [
      await outcomeOf(mergeJsonKey([Typed, { where }], 'document', 'k', 1)),
      await outcomeOf(atomicUpdate([Typed, 1], { document: [set('k', 1)] }, { where })),
    ]
    for (const where of met) expect(await check(where), inspect(where)).to.deep.equal(['written', 'written'])
    for (const [all, classes] of [
      [unmet, [RowNotFoundError, ConditionNotMetError]],
      [wrong, [UsageError, UsageError]],
    ] as const) {
      for (const where of all) {
        const outcomes = await check(where)
        expect(
          outcomes.map((each) => (each as object).constructor),
          inspect(where),
        ).to.deep.equal(classes)
      }
    }
    for (const call of [
      () => withLock([Typed, '\ud800'], () => undefined),
      () => withLock([Typed, { where: { text: '\ud800' } }], () => undefined),
    ]) {
      expect((await rejection(call(), UsageError)).message).to.include(
        'has half of a surrogate pair, in place of which',
      )
    }
    // PostgreSQL would end the transaction by an error.
    await sequelize.transaction(async (transaction) => {
      await rejection(mergeJsonKey([Typed, past], 'document', 'k', 2, { transaction }), RowNotFoundError)
      await mergeJsonKey([Typed, 1], 'document', 'k', 2, { transaction })
    })
    expect((await Typed.findOne())!.get('document')).to.deep.equal({ k: 2 })
  })

  if (database.name === 'postgres') {
    it('finds the row that has begun to meet it while the look-up waited for another row', async () => {
      const [a, b] = await make(['a', 'b'])
      const other = await Others.sequelize!.transaction()
      await Others.update({ title: 'b' }, { where: { id: a!.id }, transaction: other })
      await Others.update({ title: 'a' }, { where: { id: b!.id }, transaction: other })
      const write = sequelize.transaction((transaction) =>
        mergeJsonKey([Runs, { where: { title: 'a' } }], 'progress', 'k', 1, { transaction }),
      )
      await until('the look-up waits', async () => {
        const waiting = `SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%LIMIT 2%'`
        return (await Others.sequelize!.query(waiting))[0][0]
      })
      await other.commit()
      await write
      expect((await Runs.findByPk(b!.id))!.progress).to.deep.equal({ n: 0, k: 1 })
    })
  }

  if (database.name === 'postgres') {
    it('finds no row for a key that its column cannot hold, though the type of the attribute can', async () => {
      await sequelize.query('DROP TABLE IF EXISTS uuid_runs')
      await sequelize.query('CREATE TABLE uuid_runs (id uuid PRIMARY KEY, title text, progress jsonb, version int)')
      const { STRING, JSONB } = DataTypes
      const attributes = { id: { type: STRING, primaryKey: true }, title: STRING, progress: JSONB }
      const options = { tableName: 'uuid_runs', timestamps: false, version: true }
      const Declared = sequelize.define('WorkflowRun', attributes, options)
      const target = [Declared, 'x'] as unknown as RunTarget
      for (const name of ['mergeJsonKey', 'updateJson, returning', 'withLock']) {
        await rejection(calls[name]!(target), RowNotFoundError)
      }
      await rejection(withOptimisticLock(target, saveK), RowNotFoundError)
    })
  }

  it('rejects with the error of a look-up that the database refuses', async () => {
    const target = [defineRuns(sequelize, { tableName: 'no_such_table' }), { where: { title: 'a' } }] as const
    await rejection(mergeJsonKey(target, 'progress', 'k', 1), DatabaseError)
  })

  it('refuses a document that does not fit, and writes nothing', async () => {
    await make(['a'])
    const call = updateJson([Runs, { where: { title: 'a' } }], 'progress', [set('k', 1), increment(['n', 'deep'])])
    await rejection(call, JsonShapeError)
    expect(await stored()).to.deep.equal({ a: { n: 0 } })
  })
})
