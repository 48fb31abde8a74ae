import { expect } from 'chai'
import { DataTypes, Model, Sequelize } from 'sequelize'
import type { ModelStatic } from 'sequelize'
import { useFakeTimers } from 'sinon'
import {
  lossless,
  mergeJsonKey,
  UnsupportedDatabaseError,
  UnsupportedValueError,
  UsageError,
  withLock,
  withOptimisticLock,
} from 'sequelize-lossless'
import type { DatabaseName } from '../databases/index.js'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns, defineRuns, storedText } from '../workflow-run.js'

/** What `act` throws, of the class given. */
function thrown<E extends Error>(act: () => unknown, type: abstract new (...args: never[]) => E): Promise<E> {
  return rejection(new Promise((resolve) => resolve(act())), type)
}

type Setting = readonly [sql: string, error: RegExp]

const sessionSettings: readonly Setting[] = [
  ['SET NAMES latin1', /latin1 \(character_set_client\).*charset: 'utf8mb4'/],
  ['SET character_set_connection = latin1', /latin1 \(character_set_connection\)/],
  ['SET character_set_results = latin1', /latin1 \(character_set_results\)/],
  ['SET autocommit = 0', /autocommit = 0.*Remove SET autocommit/],
]

/** SQL that sets what would lose a write or a text in silence, and the error for it. */
const refusedSettings: Readonly<Record<DatabaseName, readonly Setting[]>> = {
  mysql: sessionSettings,
  mariadb: [
    ...sessionSettings,
    [`SET sql_mode = CONCAT(@@sql_mode, ',EMPTY_STRING_IS_NULL')`, /EMPTY_STRING_IS_NULL.*pull/],
  ],
  postgres: [[`SET client_encoding = 'LATIN1'`, /LATIN1 \(client_encoding\)/]],
  sqlite: [],
}

eachDatabase('lossless', (database) => {
  it('attaches non-enumerable methods to the model, once, and returns the same model', () => {
    const { sequelize, log } = database.connect()
    class Run extends Model {}
    Run.init({ progress: DataTypes.JSON }, { sequelize })
    expect(lossless(Run, {})).to.equal(Run)
    expect(lossless(sequelize, { wholeColumnWrites: undefined } as object)).to.equal(sequelize)
    const { withLock } = Run.prototype as unknown as Record<string, unknown>
    expect(lossless(Run)).to.equal(Run)
    expect(Run.prototype).to.have.property('withLock', withLock)
    expect(Object.keys(Run.prototype)).to.not.include.members(['withLock'])
    expect(Model.prototype).to.not.have.property('withLock')
    expect(Run.build()).to.have.property('mergeJsonKey')
    expect(log).to.deep.equal([])
  })

  it('refuses a target to which it cannot attach, with the code to write', async () => {
    const { sequelize } = database.connect()
    class Early extends Model {}
    expect((await thrown(() => lossless(Early), UsageError)).message).to.match(
      /initialised Sequelize model.*Model\.init/,
    )
    expect((await thrown(() => lossless(5 as never), UsageError)).message).to.include('got 5 (number)')
    expect((await thrown(() => lossless(null as never), UsageError)).message).to.include('got null')
    expect((await thrown(() => lossless([] as never), UsageError)).message).to.include('got an empty array')
    expect((await thrown(() => lossless({} as never), UsageError)).message).to.include('got an empty object')
    class Run extends Model {}
    Run.init({ progress: DataTypes.JSON }, { sequelize })
    expect((await thrown(() => lossless(Run, null as never), UsageError)).message).to.equal(
      'lossless: expected the options to be an object, got null. Pass them in an object: { wholeColumnWrites: … }.',
    )
    expect((await thrown(() => lossless(Run, { coalesced: true } as never), UsageError)).message).to.equal(
      'lossless: there is no option "coalesced". Use: wholeColumnWrites, conflicts, coalesce, onWrite, onReport, jsonColumns.',
    )
    const Taken = sequelize.define('Taken', { withLock: DataTypes.BOOLEAN })
    expect((await thrown(() => lossless(Taken), UsageError)).message).to.match(
      /an attribute named "withLock".*await withLock\(row/,
    )
    class Owner extends Model {
      mergeJsonKey(): string {
        return 'mine'
      }
    }
    Owner.init({}, { sequelize })
    expect((await thrown(() => lossless(Owner), UsageError)).message).to.include('a method named "mergeJsonKey"')
    expect(Owner.prototype).to.not.have.property('withLock')
    expect(Owner.build().mergeJsonKey()).to.equal('mine')
  })

  it('is not needed by the functions: they accept a model without attached methods', async () => {
    const { sequelize } = database.connect()
    const Plain = sequelize.define<Model & { data: Record<string, number> }>('Plain', { data: DataTypes.JSON })
    await Plain.sync({ force: true })
    const row = await Plain.create()
    await mergeJsonKey(row, 'data', 'k', 1)
    expect((await row.reload()).data).to.deep.equal({ k: 1 })
  })

  it('works if the application sets raw: true for every query', async () => {
    const { sequelize } = database.connect({ query: { raw: true } })
    const Runs = await createRuns(sequelize, { version: true })
    const run = await Runs.create({ progress: {} })
    expect(await mergeJsonKey([Runs, run.id], 'progress', 'a', 1, { returning: true })).to.deep.equal({ a: 1 })
    await run.withLock(async (locked) => {
      await locked.mergeJsonKey('progress', 'b', 2)
      await locked.update({ progress: { ...locked.progress, c: 3 } })
    })
    await withOptimisticLock([Runs, run.id], (row) => void (row.progress = { ...row.progress, d: 4 }))
    expect(JSON.parse((await storedText(defineRuns(database.connect().sequelize), run.id))!)).to.deep.equal({
      a: 1,
      b: 2,
      c: 3,
      d: 4,
    })
  })

  for (const [setting, message] of refusedSettings[database.name]) {
    it(`refuses a session with ${setting}, and writes nothing`, async () => {
      const { sequelize } = database.connect()
      const Runs = await createRuns(sequelize)
      const { id } = await Runs.create({ progress: {} })
      // One connection, on which the setting stays.
      const own = database.connect({ pool: { max: 1, min: 1 } }).sequelize
      await own.query(setting)
      const error = await rejection(mergeJsonKey([defineRuns(own), id], 'progress', 'k', 1), UnsupportedDatabaseError)
      expect(error.code).to.equal('UNSUPPORTED_DATABASE')
      expect(error.message).to.match(message)
      expect(await storedText(Runs, id)).to.equal('{}')
    })
  }

  for (const set of database.name === 'mysql' || database.name === 'mariadb' ? ['latin1', 'utf8mb3', 'utf16'] : []) {
    it(`refuses a column of CHARACTER SET ${set}, and writes nothing`, async () => {
      const { sequelize } = database.connect()
      const Runs = lossless(await createRuns(sequelize), { jsonColumns: ['progress'] })
      await sequelize.query(`ALTER TABLE workflow_runs MODIFY progress TEXT CHARACTER SET ${set}`)
      for (const progress of [null, { a: 1 }]) {
        const { id } = await Runs.create({ progress })
        const error = await rejection(mergeJsonKey([Runs, id], 'progress', 'k', 'é日'), UnsupportedValueError)
        expect(error.message).to.match(new RegExp(`"progress" of WorkflowRun has the character set ${set}`))
        expect(await storedText(Runs, id)).to.equal(progress && '{"a":1}')
      }
      await Runs.drop()
    })
  }

  it('locks rows of a model that another definition of its name has replaced', async () => {
    const { sequelize } = database.connect()
    const define = (): ModelStatic<Model & { progress: { n: number } }> =>
      sequelize.define('Replaced', { progress: DataTypes.JSON }, { tableName: 'replaced', version: true })
    const Replaced = define()
    define()
    await Replaced.sync({ force: true })
    const row = await Replaced.create({ progress: { n: 1 } })
    const key = row.get('id') as number
    await withLock([Replaced, key], async (locked) => {
      locked.progress.n++
      await locked.save()
    })
    await withOptimisticLock([Replaced, key], (read) => {
      read.progress.n++
    })
    await row.reload()
    expect(row.progress).to.deep.equal({ n: 3 })
    await Replaced.drop()
  })

  if (database.name === 'mysql') {
    it('queries the server again if it did not answer', async () => {
      const { sequelize } = database.connect()
      const Runs = await createRuns(sequelize)
      const run = await Runs.create({ progress: {} })
      const failing = (): never => {
        throw new Error('no connection')
      }
      sequelize.addHook('beforeQuery', 'failing', failing)
      expect((await rejection(run.mergeJsonKey('progress', 'k', 1), Error)).message).to.equal('no connection')
      sequelize.removeHook('beforeQuery', 'failing')
      await run.mergeJsonKey('progress', 'k', 1)
    })
  }

  if (database.name !== 'sqlite') {
    it('writes updatedAt in the time zone of the Sequelize instance in which a model is initialised again', async () => {
      const now = new Date('2026-01-02T03:04:05Z')
      const { sequelize: west } = database.connect({ timezone: '-07:00' })
      const { sequelize: east } = database.connect({ timezone: '+05:00' })
      const Runs = await createRuns(west)
      const { id } = await Runs.create({ progress: {} })
      const clock = useFakeTimers({ now, toFake: ['Date'] })
      try {
        for (const sequelize of [west, east]) {
          Runs.init({ ...Runs.getAttributes() }, { sequelize, tableName: Runs.tableName, createdAt: false })
          await mergeJsonKey([Runs, id], 'progress', 'a', 1)
          expect((await Runs.findByPk(id))!.updatedAt).to.deep.equal(now)
        }
      } finally {
        clock.restore()
      }
    })
  }

  it('saves a change in place of an attribute that the model was given after the first call', async () => {
    const { sequelize } = database.connect()
    const Whole = await createRuns(sequelize)
    const { id } = await Whole.create({ progress: {} })
    const Runs = lossless(
      sequelize.define('Part', { title: DataTypes.STRING }, { tableName: Whole.tableName, createdAt: false }),
    ) as unknown as typeof Whole
    await withLock([Runs, id], () => undefined)
    Object.assign(Runs.getAttributes(), { progress: { type: DataTypes.JSON } })
    ;(Runs as unknown as { refreshAttributes(): void }).refreshAttributes()
    await withLock([Runs, id], async (row) => {
      row.progress!['step'] = 'done'
      await row.save()
    })
    expect((await Whole.findByPk(id, { rejectOnEmpty: true })).progress).to.deep.equal({ step: 'done' })
  })
})

describe('lossless', () => {
  it('refuses an object that cannot be read like any other wrong argument', () => {
    const hostile = Object.defineProperty({}, 'constructor', {
      get() {
        throw new Error('read')
      },
    })
    expect(() => lossless(hostile as never)).to.throw(UsageError, 'got an object that cannot be read')
  })

  it('refuses a dialect whose SQL it does not know', async () => {
    const sequelize = new Sequelize({ dialect: 'mssql', dialectModule: { TYPES: {} }, logging: false })
    const Run = sequelize.define('Run', { progress: DataTypes.TEXT })
    const error = await thrown(() => lossless(Run), UnsupportedDatabaseError)
    expect(error.message).to.match(/"mssql" is not supported.*mysql, mariadb, postgres, sqlite/)
  })

  it('refuses another major version of Sequelize', async () => {
    class Sequelize7 extends Sequelize {
      static version = '7.0.0'
    }
    const Run = new Sequelize7({ dialect: 'sqlite', logging: false }).define('Run', { progress: DataTypes.JSON })
    expect((await thrown(() => lossless(Run), UsageError)).message).to.include('npm install sequelize@^6.37.0')
  })
})
