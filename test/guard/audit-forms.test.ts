import { expect } from 'chai'
import { col, DataTypes, fn, literal, Op, QueryTypes, Transaction } from 'sequelize'
import type {
  CreationOptional,
  InferAttributes,
  InferCreationAttributes,
  Model,
  ModelStatic,
  Sequelize,
} from 'sequelize'
import { lock, mergeJsonKey, withLock } from 'sequelize-lossless'
import { audit } from 'sequelize-lossless/audit'
import type { Reason } from 'sequelize-lossless/audit'
import { eachDatabase } from '../each-database.js'

interface Job extends Model<InferAttributes<Job>, InferCreationAttributes<Job>> {
  id: CreationOptional<number>
  name: string
  team: number
  revision: CreationOptional<number>
  attempts: CreationOptional<number>
  note: CreationOptional<string | null>
  data: Record<string, unknown> | null
  updatedAt: CreationOptional<Date>
  tasks?: Task[]
}

interface Task extends Model<InferAttributes<Task>, InferCreationAttributes<Task>> {
  id: CreationOptional<number>
  JobId: number
  data: Record<string, unknown>
}

interface Setting extends Model<InferAttributes<Setting>, InferCreationAttributes<Setting>> {
  owner: string
  name: string
  value: Record<string, unknown>
}

/** What a program works with: a job with two tasks, and a setting whose key has two columns. */
interface Rows {
  readonly job: Job
  readonly tasks: readonly Task[]
  readonly setting: Setting
}

type Program = (rows: Rows) => Promise<unknown>

/** Programs that lose nothing, and what the audit says of them: the guard does not see what protects them. */
const notSeen: Record<string, readonly Reason[]> = {
  'a lock by key, a write by another column': ['rows not named by primary key'],
  'a lock of several rows, a write of each, and of all': [
    'rows not named by primary key',
    'rows not named by primary key',
  ],
  'a lock of raw rows': ['no lock'],
  'SQL by hand, with comments': ['SQL that was not understood'],
  'a lock that reads the document as text': ['no lock'],
  'a lock of a join by hand': ['no lock'],
  'a row that the transaction has created': ['rows not named by primary key'],
  'a write that locks, and a read after it': ['no lock'],
  'a lock of the key, and a plain read of what is then the latest': ['loaded before the lock'],
  'a number that the driver rounds': ['rows not named by primary key'],
  'a document where there is none': ['no lock'],
  'the old text in the condition': ['no lock'],
  'a version, by another name': ['no lock'],
  'a counter that is compared and moved': ['SQL that was not understood'],
  'the time of the last write': ['no lock'],
  'an upsert under the lock': ['rows not named by primary key'],
  'a CASE over the column': ['SQL that was not understood'],
  'a claim that returns the row': ['no lock'],
}

eachDatabase('audit() of kinds of write', (database) => {
  const isPostgres = database.name === 'postgres'
  const isSqlite = database.name === 'sqlite'
  const locksDerived = isPostgres || isSqlite
  let sequelize: Sequelize
  let Jobs: ModelStatic<Job>
  let Tasks: ModelStatic<Task>
  let Settings: ModelStatic<Setting>

  before(async () => {
    ;({ sequelize } = database.connect())
    Jobs = sequelize.define<Job>(
      'Job',
      {
        id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
        name: { type: DataTypes.STRING, unique: true },
        team: DataTypes.INTEGER,
        revision: { type: DataTypes.INTEGER, defaultValue: 1 },
        attempts: { type: DataTypes.BIGINT, defaultValue: 0 },
        note: DataTypes.STRING,
        data: { type: DataTypes.JSON, field: 'job_data' },
        updatedAt: DataTypes.DATE,
      },
      { tableName: 'audited_jobs', createdAt: false },
    )
    Tasks = sequelize.define<Task>(
      'Task',
      {
        id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
        JobId: DataTypes.INTEGER,
        data: DataTypes.JSON,
      },
      { tableName: 'audited_tasks', timestamps: false },
    )
    Settings = sequelize.define<Setting>(
      'Setting',
      {
        owner: { type: DataTypes.STRING, primaryKey: true },
        name: { type: DataTypes.STRING, primaryKey: true },
        value: DataTypes.JSON,
      },
      { tableName: 'audited_settings', timestamps: false },
    )
    Jobs.hasMany(Tasks, { as: 'tasks', foreignKey: 'JobId', constraints: false })
    Tasks.belongsTo(Jobs, { as: 'job', foreignKey: 'JobId', constraints: false })
    for (const model of [Jobs, Tasks, Settings] as ModelStatic<Model>[]) await model.sync({ force: true })
  })

  let count = 0
  async function rows(): Promise<Rows> {
    const name = `job ${++count}`
    const job = await Jobs.create({ name, team: count, data: { a: { b: 1 } } })
    const create = (): Promise<Task> => Tasks.create({ JobId: job.id, data: {} })
    const setting = await Settings.create({ owner: `it's \\ ${name}`, name: 'theme', value: {} })
    return { job, tasks: [await create(), await create()], setting }
  }

  const within = (
    fn: (transaction: Transaction) => Promise<unknown>,
    level?: Transaction.ISOLATION_LEVELS,
  ): Promise<unknown> => sequelize.transaction(level === undefined ? {} : { isolationLevel: level }, fn)
  const send = (sql: string, transaction?: Transaction): Promise<unknown> =>
    sequelize.query(sql, {
      ...(transaction && { transaction }),
      ...(/^(\/\*.*\*\/ )?SELECT/.test(sql) && { type: QueryTypes.SELECT }),
    })
  /** A locking read, where there is such a clause. */
  const forUpdate = isSqlite ? '' : 'FOR UPDATE'
  const data = { data: { mine: 1 } }
  const json = (text: string): string =>
    database.name === 'mysql' ? `CAST('${text}' AS JSON)` : isPostgres ? `'${text}'::json` : `'${text}'`
  const merged = isPostgres
    ? `(job_data::jsonb || '{"c":1}')::json`
    : `${isSqlite ? 'json_patch' : 'JSON_MERGE_PATCH'}(job_data, '{"c":1}')`

  const covered: Record<string, Program> = {
    'a lock by another unique column': ({ job: { name } }) =>
      within(async (transaction) => {
        const job = await Jobs.findOne({ where: { name }, rejectOnEmpty: true, lock: true, transaction })
        await job.update(data, { transaction })
      }),
    'a lock by key, a write by another column': ({ job: { id, name } }) =>
      within(async (transaction) => {
        await Jobs.findByPk(id, { lock: true, transaction })
        await Jobs.update(data, {
          where: { name: name.toUpperCase(), note: null, team: { [Op.between]: [0, 1e6] } },
          transaction,
        })
      }),
    'a lock of several rows, a write of each, and of all': ({ tasks }) =>
      within(async (transaction) => {
        const id = tasks.map((task) => task.id)
        for (const task of await Tasks.findAll({ where: { id }, lock: true, transaction }))
          await task.update(data, { transaction })
        await Tasks.update({ data: {} }, { where: { id }, transaction })
        await Tasks.update({ data: { c: 1 } }, { where: { [Op.or]: [{ id: id[0]! }, { id: id[1]! }] }, transaction })
      }),
    'a lock of raw rows': ({ job: { id } }) =>
      within(async (transaction) => {
        await Jobs.findOne({ where: { id }, attributes: ['data'], raw: true, lock: true, transaction })
        await Jobs.update(data, { where: { id }, transaction })
      }),
    'SQL by hand, with comments': ({ job: { id } }) =>
      within(async (transaction) => {
        await send(`/* UPDATE */ SELECT * FROM audited_jobs AS j WHERE j.id = ${id} ${forUpdate} -- read`, transaction)
        await send(
          `-- write\nUPDATE audited_jobs SET job_data = ${json(`{"c":"it''s"}`)} /* WHERE id = 0 */ WHERE (id = ${id})`,
          transaction,
        )
      }),
    'a lock that reads the document as text': ({ job: { id } }) =>
      within(async (transaction) => {
        const text = `CAST(job_data AS ${isPostgres || isSqlite ? 'TEXT' : 'CHAR'})`
        await sequelize.query(`SELECT ${text} AS document FROM audited_jobs WHERE id = :id ${forUpdate}`, {
          replacements: { id },
          type: QueryTypes.SELECT,
          transaction,
        })
        await Jobs.update(data, { where: { id }, transaction })
      }),
    'a lock of a join by hand': ({ job: { id } }) =>
      within(async (transaction) => {
        const of = isPostgres ? 'OF j, t' : ''
        await send(
          `SELECT j.id, t.data, t.id AS task FROM audited_jobs j JOIN audited_tasks AS t ON t.${isPostgres ? '"JobId"' : 'JobId'} = j.id WHERE j.id = ${id} ${forUpdate} ${isSqlite ? '' : of}`,
          transaction,
        )
        await Jobs.findByPk(id, { transaction })
        await Tasks.update(data, { where: { JobId: id }, transaction })
      }),
    'a lock with an include': ({ job: { id } }) =>
      within(async (transaction) => {
        const include = { association: 'tasks', required: true }
        const job = await Jobs.findByPk(id, { include, rejectOnEmpty: true, lock: true, transaction })
        await job.tasks![1]!.update(data, { transaction })
        await job.update(data, { transaction })
      }),
    'a reload with a lock': async ({ job: { id } }) => {
      const job = await Jobs.findByPk(id, { rejectOnEmpty: true })
      await within(async (transaction) => {
        await job.reload({ lock: true, transaction })
        job.data = { ...job.data, c: 1 }
        await job.save({ transaction })
        await job.update({ data: { c: 2 } }, { transaction })
      })
    },
    'lock() of a loaded row': ({ job: { id } }) =>
      within(async (transaction) => {
        const job = await Jobs.findByPk(id, { rejectOnEmpty: true, transaction })
        await lock(job, { transaction })
        await job.update({ data: { ...job.data, c: 1 } }, { transaction })
      }),
    'withLock of a loaded row, in place': async ({ job: { id } }) => {
      const job = await Jobs.findByPk(id, { rejectOnEmpty: true, include: 'tasks' })
      await withLock(job, async (row) => {
        row.data!['c'] = 1
        await row.save()
      })
    },
    'a row that the transaction has created': () =>
      within(async (transaction) => {
        const job = await Jobs.create({ name: `job ${++count}`, team: 0, data: {} }, { transaction })
        await job.update(data, { transaction })
        const [task] = await Tasks.bulkCreate(
          [
            { JobId: job.id, data: {} },
            { JobId: job.id, data: {} },
          ],
          { transaction },
        )
        await Tasks.update({ data: { c: 1 } }, { where: { JobId: job.id }, transaction })
        expect(task).to.be.an('object')
      }),
    savepoints: ({ job: { id }, tasks: [task] }) =>
      within(async (transaction) => {
        const job = await sequelize.transaction({ transaction }, (inner) =>
          Jobs.findByPk(id, { rejectOnEmpty: true, lock: true, transaction: inner }),
        )
        await sequelize.transaction({ transaction }, (inner) => job.update(data, { transaction: inner }))
        const broken = sequelize.transaction({ transaction }, () => Promise.reject(new Error('on purpose')))
        await broken.catch(() => undefined)
        await job.update({ data: { c: 2 } }, { transaction })
        await Tasks.findByPk(task!.id, { lock: true, transaction })
        await Tasks.update(data, { where: { id: task!.id }, transaction })
      }),
    'a key of two columns': ({ setting: { owner, name } }) =>
      within(async (transaction) => {
        const setting = await Settings.findOne({ where: { owner, name }, rejectOnEmpty: true, lock: true, transaction })
        await setting.update({ value: { dark: true } }, { transaction })
      }),
    'a write that locks, and a read after it': ({ job: { id } }) =>
      within(async (transaction) => {
        await Jobs.update({ note: 'busy' }, { where: { id }, transaction })
        const job = await Jobs.findByPk(id, { rejectOnEmpty: true, transaction })
        await job.update({ data: { ...job.data, c: 1 } }, { transaction })
        await Jobs.update({ data: { c: 2 } }, { where: { note: 'busy', id }, transaction })
      }),
    'a lock of the key, and a plain read of what is then the latest': ({ job: { id }, tasks: [task] }) =>
      within(async (transaction) => {
        await Tasks.findByPk(task!.id, { transaction })
        await Jobs.findByPk(id, { attributes: ['id'], lock: true, transaction })
        const job = await Jobs.findByPk(id, { rejectOnEmpty: true, transaction })
        await job.update({ data: { ...job.data, c: 1 } }, { transaction })
      }, Transaction.ISOLATION_LEVELS.READ_COMMITTED),
    'FOR SHARE, of which one of two fails': ({ job: { id } }) =>
      within(async (transaction) => {
        const job = await Jobs.findByPk(id, { rejectOnEmpty: true, lock: transaction.LOCK.SHARE, transaction })
        await job.update({ data: { ...job.data, c: 1 } }, { transaction })
      }),
    SERIALIZABLE: ({ job: { id } }) =>
      within(async (transaction) => {
        const job = await Jobs.findByPk(id, { rejectOnEmpty: true, transaction })
        await job.update({ data: { ...job.data, c: 1 } }, { transaction })
      }, Transaction.ISOLATION_LEVELS.SERIALIZABLE),
    'a row that findOrCreate has made': () =>
      within(async (transaction) => {
        const name = `job ${++count}`
        const [job] = await Jobs.findOrCreate({ where: { name }, defaults: { name, team: 0, data: {} }, transaction })
        await job.update(data, { transaction })
      }),
    'a number that the driver rounds': ({ job: { name } }) =>
      within(async (transaction) => {
        const attempts = '9007199254740993' as never
        await Jobs.update({ attempts }, { where: { name }, transaction })
        await Jobs.findOne({ where: { name }, lock: true, transaction })
        await Jobs.update(data, { where: { name, attempts }, transaction })
      }),
    'a document where there is none': async ({ job: { id } }) => {
      await Jobs.update({ data: null }, { where: { id }, wholeColumnWrites: 'allow' })
      await Jobs.update(data, { where: { id, data: null } })
      await Jobs.update({ data: null }, { where: { id }, wholeColumnWrites: 'allow' })
      await mergeJsonKey([Jobs, id], 'data', 'c', 1)
    },
    'JSON_SET of a text': ({ job: { id } }) =>
      sequelize.query(
        `UPDATE audited_jobs SET job_data = ${isPostgres ? `jsonb_set(job_data::jsonb, '{state}', '"done"')::json` : `JSON_SET(job_data, '$.state', :state)`} WHERE id = :id`,
        { replacements: { id, state: 'done' } },
      ),
    'a function of the column': ({ job: { id } }) => Jobs.update({ data: literal(merged) }, { where: { id } }),
    'a copy of another column': ({ job: { id } }) =>
      Jobs.update({ note: 'x', data: col('job_data') }, { where: { id } }),
    'a subselect': ({ job, tasks: [task] }) =>
      Tasks.update(
        { data: literal(`(SELECT job_data FROM audited_jobs WHERE id = ${job.id})`) },
        { where: { id: task!.id } },
      ),
    'a CASE over the column': ({ job: { id } }) =>
      send(
        `UPDATE audited_jobs SET job_data = CASE WHEN job_data IS NULL THEN ${json('{}')} ELSE job_data END WHERE id = ${id}`,
      ),
    'the old text in the condition': ({ job: { id } }) => {
      const old =
        database.name === 'mysql'
          ? `job_data = ${json('{"a":{"b":1}}')}`
          : isPostgres
            ? `job_data::text = '{"a":{"b":1}}'`
            : `job_data = '{"a":{"b":1}}'`
      return Jobs.update(data, { where: { id, [Op.and]: literal(old) } })
    },
    'a version, by another name': ({ job: { id, revision } }) =>
      Jobs.update({ ...data, revision: revision + 1 }, { where: { id, revision } }),
    'a counter that is compared and moved': ({ job: { id } }) =>
      send(
        `UPDATE audited_jobs SET job_data = ${json('{}')}, attempts = attempts + 1 WHERE id = ${id} AND attempts = 0`,
      ),
    'the time of the last write': ({ job: { id, updatedAt } }) => Jobs.update(data, { where: { id, updatedAt } }),
    'an upsert that computes': ({ setting: { owner, name } }) => {
      const values = `INSERT INTO audited_settings (owner, name, value) VALUES (${sequelize.escape(owner)}, '${name}', '{"a":1}')`
      if (isPostgres)
        return send(
          `${values} ON CONFLICT (owner, name) DO UPDATE SET value = (audited_settings.value::jsonb || EXCLUDED.value::jsonb)::json`,
        )
      if (isSqlite)
        return send(`${values} ON CONFLICT (owner, name) DO UPDATE SET value = json_patch(value, excluded.value)`)
      return send(`${values} ON DUPLICATE KEY UPDATE value = JSON_MERGE_PATCH(value, VALUES(value))`)
    },
    'an upsert under the lock': ({ setting: { owner, name } }) =>
      within(async (transaction) => {
        const [first] = await Settings.findAll({ where: { owner, name }, lock: true, transaction })
        await Settings.upsert(
          { owner, name, value: { ...first!.value, text: `it's ON CONFLICT \\'` } },
          { transaction },
        )
        await Settings.bulkCreate([{ owner, name, value: { c: 1 } }], { updateOnDuplicate: ['value'], transaction })
      }),
    ...(isPostgres || isSqlite
      ? {
          'a claim that returns the row': ({ job: { team } }: Rows) =>
            within(async (transaction) => {
              const claimed = `SELECT id FROM audited_jobs WHERE team = ${team} LIMIT 1 ${isPostgres ? 'FOR UPDATE SKIP LOCKED' : ''}`
              await send(`UPDATE audited_jobs SET note = 'mine' WHERE id = (${claimed}) RETURNING *`, transaction)
              await Jobs.update(data, { where: { team }, returning: true, transaction })
            }),
        }
      : {}),
  }

  const uncovered: Record<string, readonly [Reason, Program]> = {
    'a constant': ['no lock', ({ job: { id } }) => Jobs.update({ data: null }, { where: { id } })],
    'all rows': ['no lock', () => Jobs.update(data, { where: {} })],
    'SQL by hand': [
      'no lock',
      ({ job: { id } }) => send(`update audited_jobs set job_data=(${json('{}')}) where id=-${id} or id = ${id}`),
    ],
    'a constant that the database makes': [
      'number in SQL',
      ({ job: { id } }) =>
        Jobs.update({ data: fn(isPostgres ? 'json_build_object' : 'JSON_OBJECT', 'a', 1) }, { where: { id } }),
    ],
    'JSON_SET of a number from a read': [
      'number in SQL',
      async ({ job: { id } }) => {
        const job = await Jobs.findByPk(id, { rejectOnEmpty: true })
        const hits = Number(job.data!['hits'] ?? 0) + 1
        const set = isPostgres
          ? `jsonb_set(job_data::jsonb, '{hits}', to_jsonb(${hits}))::json`
          : `JSON_SET(job_data, '$.hits', ${hits})`
        await Jobs.update({ data: literal(set) }, { where: { id } })
      },
    ],
    'JSON_SET of a number by a placeholder': [
      'number in SQL',
      ({ job: { id } }) =>
        sequelize.query(
          `UPDATE audited_jobs SET job_data = ${isPostgres ? `jsonb_set(job_data::jsonb, '{hits}', to_jsonb(:hits))::json` : `JSON_SET(job_data, '$.hits', :hits)`} WHERE id = :id`,
          { replacements: { id, hits: 3 } },
        ),
    ],
    'a CASE of constants': [
      'SQL that was not understood',
      ({ job: { id } }) =>
        send(
          `UPDATE audited_jobs SET job_data = CASE WHEN id = ${id} THEN ${json('{}')} ELSE job_data END WHERE id IN (${id}, ${id})`,
        ),
    ],
    'a literal that ends in a backslash': [
      'no lock',
      ({ job: { id } }) =>
        send(`UPDATE audited_jobs SET note = ${sequelize.escape('\\')}, job_data = ${json('{}')} WHERE id = ${id}`),
    ],
    'an upsert': ['no lock', ({ setting: { owner, name } }) => Settings.upsert({ owner, name, value: {} })],
    'an upsert of several': [
      'no lock',
      ({ setting: { owner, name } }) =>
        Settings.bulkCreate([{ owner, name, value: { text: `'ON CONFLICT DO NOTHING` } }], {
          updateOnDuplicate: ['value'],
        }),
    ],
    ...(isPostgres
      ? {}
      : {
          'a REPLACE': [
            'SQL that was not understood',
            ({ setting: { owner, name } }: Rows) =>
              send(
                `REPLACE INTO audited_settings (owner, name, value) VALUES (${sequelize.escape(owner)}, '${name}', '{}')`,
              ),
          ] as const,
        }),
    ...(database.name === 'mariadb'
      ? {}
      : {
          'a WITH': [
            'SQL that was not understood',
            ({ job: { id } }: Rows) =>
              send(`WITH one AS (SELECT 1) UPDATE audited_jobs SET job_data = ${json('{}')} WHERE id = ${id}`),
          ] as const,
        }),
    'a condition on one key': [
      'no lock',
      ({ job: { id } }) =>
        Jobs.update(data, {
          where: {
            id,
            [Op.and]: literal(
              isPostgres
                ? `job_data->>'z' IS NULL AND job_data->'a'->>'b' = '1'`
                : `JSON_EXTRACT(job_data, '$.a.b') = 1`,
            ),
          },
        }),
    ],
    'a state that is compared': [
      'no lock',
      ({ job: { id } }) => Jobs.update({ ...data, note: 'done' }, { where: { id, note: null } }),
    ],
    'a lock of another table': [
      'no lock',
      ({ job: { id }, tasks: [task] }) =>
        within(async (transaction) => {
          await Tasks.findByPk(task!.id, { lock: true, transaction })
          await Jobs.update(data, { where: { id }, transaction })
        }),
    ],
    'the transaction before': [
      'no lock',
      async ({ job: { id } }) => {
        const read = within((transaction) => Jobs.findByPk(id, { lock: true, transaction }))
        await read
        await within((transaction) => Jobs.update(data, { where: { id }, transaction }))
      },
    ],
    'fewer locks than rows': [
      'rows not named by primary key',
      ({ job, tasks: [task] }) =>
        within(async (transaction) => {
          await Tasks.findByPk(task!.id, { lock: true, transaction })
          await Tasks.update(data, { where: { JobId: job.id }, transaction })
        }),
    ],
    'an instance from before, and a lock that is not read': [
      'loaded before the lock',
      async ({ job: { id } }) => {
        const job = await Jobs.findByPk(id, { rejectOnEmpty: true })
        await within(async (transaction) => {
          await Jobs.findByPk(id, { lock: true, transaction })
          await job.update({ data: { ...job.data, c: 1 } }, { transaction })
        })
      },
    ],
    ...(isSqlite
      ? {}
      : {
          'a lock that does not read the column': [
            'loaded before the lock',
            async ({ job: { id } }: Rows) => {
              const job = await Jobs.findByPk(id, { rejectOnEmpty: true })
              await within(async (transaction) => {
                await Jobs.findByPk(id, { attributes: ['id'], lock: true, transaction })
                await job.update({ data: { ...job.data, c: 1 } }, { transaction })
              })
            },
          ] as const,
        }),
    ...(isPostgres
      ? {
          'values from a list': [
            'SQL that was not understood',
            ({ job: { id } }: Rows) =>
              send(
                `UPDATE ONLY audited_jobs AS j SET job_data = v.job_data FROM (VALUES (${id}, '{}'::json)) AS v (id, job_data) WHERE j.id = v.id`,
              ),
          ] as const,
          'two statements in one text': [
            'SQL that was not understood',
            ({ job: { id } }: Rows) =>
              send(`SELECT 1; UPDATE audited_jobs SET job_data = $x$[]$x$::json WHERE id = ${id}`),
          ] as const,
          'a lock that stops no writer': [
            'no lock',
            ({ job: { id } }: Rows) =>
              within(async (transaction) => {
                await Jobs.findByPk(id, { lock: transaction.LOCK.KEY_SHARE, transaction })
                await Jobs.update(data, { where: { id }, transaction })
              }),
          ] as const,
          'a lock of another table of the join': [
            'no lock',
            ({ job: { id }, tasks: [task] }: Rows) =>
              within(async (transaction) => {
                const include = { association: 'job', required: true }
                await Tasks.findByPk(task!.id, {
                  include,
                  lock: { level: transaction.LOCK.UPDATE, of: Tasks },
                  transaction,
                })
                await Jobs.update(data, { where: { id }, transaction })
              }),
          ] as const,
          'a lock that a savepoint gave back': [
            'lock of another transaction',
            ({ job: { id } }: Rows) =>
              within(async (transaction) => {
                const broken = sequelize.transaction({ transaction }, async (inner) => {
                  await Jobs.findByPk(id, { lock: true, transaction: inner })
                  throw new Error('on purpose')
                })
                await broken.catch(() => undefined)
                await Jobs.update(data, { where: { id }, transaction })
              }),
          ] as const,
        }
      : {}),
    ...(locksDerived
      ? {}
      : {
          'FOR UPDATE around a query in parentheses': [
            'lock does not reach the row',
            ({ job: { team } }: Rows) =>
              within(async (transaction) => {
                const job = await Jobs.findOne({
                  where: { team },
                  include: 'tasks',
                  rejectOnEmpty: true,
                  lock: true,
                  transaction,
                })
                await job.update(data, { transaction })
              }),
          ] as const,
          'a read of an old snapshot, after one that locks': [
            'loaded before the lock',
            ({ job: { id }, tasks: [task] }: Rows) =>
              within(async (transaction) => {
                await Tasks.findByPk(task!.id, { transaction })
                await Jobs.findByPk(id, { lock: true, transaction })
                const job = await Jobs.findByPk(id, { rejectOnEmpty: true, transaction })
                await job.update({ data: { ...job.data, c: 1 } }, { transaction })
              }),
          ] as const,
        }),
  }

  for (const [title, program] of Object.entries(covered)) {
    const expected = notSeen[title] ?? []
    it(`${title}: ${expected.length > 0 ? [...new Set(expected)].join(', ') : 'covered'}`, async () => {
      const all = await rows()
      const { findings, unknown } = await audit(sequelize, () => program(all))
      expect([...findings, ...unknown].map(({ reason }) => reason)).to.deep.equal(expected)
    })
  }

  for (const [title, [reason, program]] of Object.entries(uncovered)) {
    it(`${title}: ${reason}`, async () => {
      const all = await rows()
      const { findings, unknown } = await audit(sequelize, () => program(all))
      const seen = [...findings, ...unknown]
      expect(seen.map((finding) => [finding.reason, finding.file])).to.deep.equal([[reason, __filename]])
      expect(seen[0]!.instead).to.match(/await (mergeJsonKey|withLock|updateJson|updateWhere|atomicUpsert)\(/)
    })
  }

  it('does not report a row that is created, or a column that is not a document', async () => {
    const { job, setting } = await rows()
    const { verdict, writes } = await audit(sequelize, async () => {
      await Jobs.upsert({ id: job.id, name: job.name, team: 1, note: `job_data = '{}'` })
      await Settings.bulkCreate([{ owner: setting.owner, name: setting.name, value: {} }], { ignoreDuplicates: true })
      await job.increment('attempts')
      await Jobs.create({ name: `job ${++count}`, team: 1, data: {} })
    })
    expect([verdict, writes]).to.deep.equal(['unknown', 0])
  })
})
