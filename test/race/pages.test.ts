import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { DataTypes } from 'sequelize'
import type { Model, ModelStatic, Sequelize } from 'sequelize'
import { explore, htmlReport } from 'every-order'
import { root } from '../docs/readme.js'
import { eachDatabase } from '../each-database.js'

const folder = join(root, 'docs', 'public', 'races')

interface Row extends Model {
  id: number
  progress: Record<string, string>
  on_call: boolean
}

/** The recorded races of the documentation, by file. */
async function recordedPages(sequelize: Sequelize): Promise<Record<string, string>> {
  const define = (name: string, columns: Parameters<Sequelize['define']>[1]): ModelStatic<Row> =>
    sequelize.define<Row>(name, columns, { tableName: name, timestamps: false })
  const Runs = define('workflow_runs', { progress: DataTypes.JSON })
  const Doctors = define('doctors', { name: DataTypes.STRING, on_call: DataTypes.BOOLEAN })
  const Users = define('users', { email: DataTypes.STRING })
  await sequelize.sync({ force: true })
  const load = (id: number): Promise<Row> => Runs.findByPk(id, { rejectOnEmpty: true })

  const finish = (step: string) => async (id: number) => {
    const run = await load(id)
    await run.update({ progress: { ...run.progress, [step]: 'done' } })
  }
  const lostUpdate = await explore({
    sequelize,
    setup: async () => {
      await Runs.destroy({ where: {} })
      return (await Runs.create({ id: 1, progress: {} })).id
    },
    participants: { job_a: finish('step_a'), job_b: finish('step_b') },
  })

  const leave = (id: number) => () =>
    sequelize.transaction(async (transaction) => {
      const onCall = await Doctors.count({ where: { on_call: true }, transaction })
      if (onCall > 1) await Doctors.update({ on_call: false }, { where: { id }, transaction })
    })
  const writeSkew = await explore({
    sequelize,
    setup: async () => {
      await Doctors.destroy({ where: {} })
      await Doctors.bulkCreate([
        { id: 1, name: 'Alice', on_call: true },
        { id: 2, name: 'Bob', on_call: true },
      ])
    },
    participants: { alice: leave(1), bob: leave(2) },
  })

  const register = async (): Promise<void> => {
    const found = await Users.findOne({ where: { email: 'ada@example.com' } })
    if (!found) await Users.create({ email: 'ada@example.com' })
  }
  const doubleInsert = await explore({
    sequelize,
    setup: () => Users.truncate(),
    participants: { request_1: register, request_2: register },
  })

  return {
    'lost-update.html': htmlReport(lostUpdate, { title: 'Two jobs save one JSON column' }),
    'write-skew.html': htmlReport(writeSkew, { title: 'Two doctors go off call' }),
    'double-insert.html': htmlReport(doubleInsert, { title: 'Two requests register one address' }),
  }
}

eachDatabase('the recorded races of the documentation', (database) => {
  if (database.name !== 'mysql') return

  it('are the result of a run on MySQL (else npm run docs:races, and review them)', async () => {
    const pages = await recordedPages(database.connect().sequelize)
    for (const [name, html] of Object.entries(pages)) {
      const file = join(folder, name)
      if (process.env['RECORD']) {
        mkdirSync(folder, { recursive: true })
        writeFileSync(file, html)
      }
      expect(readFileSync(file, 'utf8'), name).to.equal(html)
    }
  })
})
