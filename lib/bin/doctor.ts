import { existsSync } from 'node:fs'
import { QueryTypes } from 'sequelize'
import type { Sequelize } from 'sequelize'
import type * as EveryOrder from 'every-order'
import { checkupOf, supportOf } from '../dialects/checkup.js'
import type { Finding, Settings } from '../dialects/checkup.js'
import type { Dialect } from '../dialects/dialect.js'
import { recogniseDialect } from '../sequelize/send.js'
import { sessionOf } from '../sequelize/session.js'
import { ArgumentError, connect, load, withVersion } from './connect.js'

const marks: Readonly<Record<Finding['level'], string>> = { good: '✔', note: '!', loses: '✗' }

/** Prints what the version and the settings of a server mean for the data. Changes nothing. Sets the exit code. */
export async function examine(url: string | undefined): Promise<void> {
  if (url === undefined) throw new ArgumentError('write --url, or set DATABASE_URL')
  const file = /^sqlite:(.+)$/.exec(url)?.[1]
  if (file !== undefined && !existsSync(file)) throw new ArgumentError(`there is no file ${file}`)
  const sequelize = connect('doctor', url)
  try {
    const { driver, query, judge } = checkupOf(sequelize.getDialect())
    const server = `${sequelize.getDialect()} ${await sequelize.databaseVersion()}`
    const packages = ['sequelize-lossless', 'sequelize', driver].map(withVersion)
    console.log([server, ...packages, `Node ${process.version}`].join(', '))
    const findings = [
      ...(await judgeSupport(sequelize)),
      ...judge(await settingsOf(sequelize, query)),
      await judgeTests(sequelize),
    ]
    for (const { level, topic, fact, remedy } of findings) {
      console.log(`${marks[level]} ${topic}: ${fact}${remedy === undefined ? '' : `. ${remedy}`}`)
    }
    const count = (level: Finding['level']): number => findings.filter((finding) => finding.level === level).length
    console.log(`${count('loses')} to repair (✗), ${count('note')} to know (!), ${count('good')} good (✔)`)
    if (count('loses') > 0) process.exitCode = 1
  } finally {
    await sequelize.close()
  }
}

async function settingsOf(sequelize: Sequelize, query: string): Promise<Settings> {
  const rows = await sequelize.query<Record<string, unknown>>(query, { type: QueryTypes.SELECT, raw: true })
  return Object.fromEntries(rows.map((row) => Object.values(row).map(String) as [string, string]))
}

/** What this library can do on the server by this driver; or why it refuses both. */
async function judgeSupport(sequelize: Sequelize): Promise<Finding[]> {
  let dialect: Dialect
  try {
    dialect = await recogniseDialect(sessionOf(sequelize), {
      method: 'doctor',
      row: undefined,
      transaction: undefined,
      logging: false,
    })
  } catch (error) {
    return [{ level: 'loses', topic: 'connection', fact: (error as Error).message }]
  }
  return [
    { level: 'good', topic: 'connection', fact: 'its character set and its settings keep every document' },
    ...supportOf(dialect),
  ]
}

/** Whether the account can see lock waits, which tests with every-order need. */
async function judgeTests(sequelize: Sequelize): Promise<Finding> {
  const topic = 'tests with every-order'
  const kit = load('every-order') as typeof EveryOrder | undefined
  if (!kit) return { level: 'note', topic, fact: 'it is not installed', remedy: 'npm install --save-dev every-order' }
  try {
    await kit.checkServer(sequelize)
    return { level: 'good', topic, fact: 'the account can see which session waits for which' }
  } catch (error) {
    return { level: 'note', topic, fact: (error as Error).message }
  }
}
