import * as sqlite3 from 'sqlite3'
import type { Options, Sequelize } from 'sequelize'
import { connect } from './connect.js'
import { requestedDatabases } from './databases/index.js'
import type { DatabaseName, Server } from './databases/index.js'
import { isSampled, isThorough } from './sample.js'

/** The servers of this process's tests, started before the first one. */
export const servers = new Map<DatabaseName, Pick<Server, 'name' | 'url' | 'version'>>()

/** A way to reach a database; a MariaDB server is reached through both of Sequelize's dialects for it. */
export interface Database {
  readonly title: string
  readonly name: DatabaseName
  readonly dialect: DatabaseName
  /** Whether an earlier way sends the same SQL to the same server, so that a sample is enough. With EVERY=1, never. */
  readonly isOtherWay: boolean
  /**
   * Whether a test looks at a case here: at each one in a thorough run in the first way, else at one of `divisor`, which
   * `turn` chooses. The next database, or way, looks at other cases.
   */
  isSampled(index: number, divisor: number, turn?: number): boolean
  /** A new Sequelize instance, closed when the suite ends; its statements are collected in `log`. */
  connect(options?: Options, url?: string): Connection
  /** What a process of its own connects with. */
  url(): string
}

interface Connection {
  readonly sequelize: Sequelize
  /** The statements sent, without their prefix. */
  readonly log: string[]
}

const ways: readonly (readonly [title: string, name: DatabaseName, dialect: DatabaseName, driver?: string])[] = [
  ['MySQL', 'mysql', 'mysql'],
  ['MariaDB with its connector 3.0', 'mariadb', 'mariadb'],
  ['MariaDB with its connector 3.5', 'mariadb', 'mariadb', 'mariadb-3.5'],
  ['MariaDB through dialect mysql', 'mariadb', 'mysql'],
  ['PostgreSQL', 'postgres', 'postgres'],
  ['SQLite', 'sqlite', 'sqlite'],
]

/** The driver, which leaves it to the system when to write to the disk: no test cuts the power. */
const quickSqlite: object = {
  ...sqlite3,
  Database: class extends sqlite3.Database {
    constructor(...given: ConstructorParameters<typeof sqlite3.Database>) {
      super(...given)
      this.run('PRAGMA synchronous = OFF')
    }
  },
  verbose: () => quickSqlite,
}

const isFirst = ([, name]: (typeof ways)[number], index: number): boolean =>
  ways.findIndex((way) => way[1] === name) === index

/** Defines a suite for each database that the run asked for, in each way to reach it. */
export function eachDatabase(title: string, define: (database: Database) => void): void {
  defineSuites(title, ways, define)
}

/**
 * Defines a suite for each database that the run asked for, in the first way to reach it; with EVERY=1 in each way. For
 * tests of what the server does with the same SQL.
 */
export function eachServer(title: string, define: (database: Database) => void): void {
  defineSuites(title, process.env['EVERY'] ? ways : ways.filter(isFirst), define)
}

function defineSuites(title: string, chosen: typeof ways, define: (database: Database) => void): void {
  const requested = requestedDatabases()
  for (const each of chosen) {
    const [way, name, dialect, driver] = each
    if (!requested.includes(name)) continue
    describe(`${title} (${way})`, () => {
      const open: Sequelize[] = []
      const url = (): string => {
        const server = servers.get(name)
        if (!server) throw new Error(`${name} was not started`)
        return name === 'sqlite' ? `sqlite:${server.url}` : server.url.replace(/^\w+:/, `${dialect}:`)
      }
      after(async () => {
        // Mutation tests run a suite more than once.
        for (const sequelize of open.splice(0)) await sequelize.close()
      })
      const place = ways.indexOf(each)
      const isOtherWay = !process.env['EVERY'] && !isFirst(each, place)
      define({
        title: way,
        name,
        dialect,
        isOtherWay,
        isSampled: (index, divisor, turn = 0) => isSampled(index, divisor, place + turn, isThorough && !isOtherWay),
        url,
        connect(options = {}, address = url()) {
          const log: string[] = []
          const logging = (sql: string): void => void log.push(sql.replace(/^Executing \([^)]*\): /, ''))
          // eslint-disable-next-line @typescript-eslint/no-require-imports -- Sequelize takes the loaded module
          const loaded = driver === undefined ? undefined : (require(driver) as object)
          const module = name === 'sqlite' ? quickSqlite : loaded
          const dialectModule = module && { dialectModule: module }
          const sequelize = connect(address, { logging, pool: { max: 25 }, ...dialectModule, ...options })
          open.push(sequelize)
          return { sequelize, log }
        },
      })
    })
  }
}
