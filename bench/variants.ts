import { promisify } from 'node:util'
import { createPool as createMariadbPool } from 'mariadb'
import { createPool as createMysqlPool } from 'mysql2/promise'
import { Pool as PostgresPool } from 'pg'
import { QueryTypes } from 'sequelize'
import type { Sequelize } from 'sequelize'
import { lossless, mergeJsonKey, withLock, withOptimisticLock } from 'sequelize-lossless'
import { Database as SqliteDatabase } from 'sqlite3'
import { connections, defineRun, openSequelize } from './table.js'
import type { TableName } from './table.js'

/** One way to set a key of a row's document to `'done'`. */
export interface Variant {
  readonly name: string
  readonly table?: TableName
  /** More callers than these, on one row or on a row each, would do little but wait, or fail. */
  readonly maxCallers?: { readonly hot?: number; readonly spread?: number }
  /** A turn is so many times that of the others, where many callers write one row: it would be over before it had begun. */
  readonly times?: number
  readonly setKey: (id: number, key: string) => Promise<unknown>
}

/** Open connections, and what is written through them. */
export interface Library {
  readonly variants: readonly Variant[]
  close(): Promise<unknown>
}

/** What every other variant is compared with. */
export const ours = 'mergeJsonKey'
export const coalesced = 'mergeJsonKey, coalesced'
export const bareQuery = 'sequelize.query, the same SQL'
export const byHand = 'transaction, FOR UPDATE, save'
export const naive = 'read, change, save'
export const underLock = 'withLock'

/** The variants in the order of the tables. */
export const order: readonly string[] = [
  'driver, the same SQL',
  bareQuery,
  ours,
  coalesced,
  'mergeJsonKey, returning',
  'Model.update, JSON_SET',
  naive,
  byHand,
  underLock,
  'withOptimisticLock',
  'read, change, save, patched',
  'Knex, jsonSet',
  'TypeORM, JSON_SET',
]

/** The same statement, sent by more and more code; and what else one would write. */
export const price: readonly string[] = [...order.slice(0, 3), byHand, underLock]

export const value = 'done'
export const valueJson: string = JSON.stringify(value)

/** The statement that `mergeJsonKey` sends on this database. */
interface Statement {
  readonly sql: string
  readonly type: QueryTypes
  /** What is bound to `$1`, `$2` … */
  readonly binds: (id: number, key: string) => unknown[]
}

/** Listens to one call, and finds its row and its key among what it binds. */
async function statementOf(url: string): Promise<Statement> {
  const sequelize = openSequelize(url)
  const Runs = defineRun(sequelize, 'runs')
  const [id, key] = [2, 'the_key']
  await mergeJsonKey([Runs, id], 'progress', key, value)
  const sent: { sql: string; bind: unknown[]; type: QueryTypes }[] = []
  const query = sequelize.query.bind(sequelize) as (sql: string, options: object) => Promise<never>
  sequelize.query = ((sql: string, options: { bind: unknown[]; type: QueryTypes }) => {
    sent.push({ sql, ...options })
    return query(sql, options)
  }) as never
  await mergeJsonKey([Runs, id], 'progress', key, value)
  await sequelize.close()
  const { sql, bind, type } = sent.find((each) => /\bUPDATE\b/.test(each.sql))!
  // Some databases are sent the primary key as text.
  const isId = (each: unknown): boolean => each === id || each === String(id)
  const hasKey = (each: unknown): boolean => typeof each === 'string' && each.includes(key)
  if (!bind.some(isId) || !bind.some(hasKey)) throw new Error(`no row, or no key, is bound in ${sql}`)
  return {
    sql,
    type,
    binds: (ofId, ofKey) =>
      bind.map((each) => {
        if (isId(each)) return typeof each === 'string' ? String(ofId) : ofId
        return typeof each === 'string' ? each.replace(key, ofKey) : each
      }),
  }
}

type Send = (sql: string, binds: unknown[]) => Promise<unknown>

/** `?` for each `$1`, and what is bound to it as often as it stands there. */
function positional({ sql, ...statement }: Statement): Statement {
  const numbers = [...sql.matchAll(/\$(\d+)/g)].map(([, number]) => Number(number))
  const binds = (id: number, key: string): unknown[] => {
    const values = statement.binds(id, key)
    return numbers.map((number) => values[number - 1])
  }
  return { ...statement, sql: sql.replace(/\$\d+/g, '?'), binds }
}

/** Each database's driver, as one would use it without Sequelize. */
const drivers: Readonly<Record<string, (url: string) => { send: Send; close: () => Promise<unknown> }>> = {
  mysql(url) {
    const pool = createMysqlPool({ uri: url, connectionLimit: connections })
    return { send: (sql, binds) => pool.execute(sql, binds as never), close: () => pool.end() }
  },
  mariadb(url) {
    const pool = createMariadbPool(`${url}?connectionLimit=${connections}`)
    return { send: (sql, binds) => pool.query(sql, binds), close: () => pool.end() }
  },
  postgres(url) {
    const pool = new PostgresPool({ connectionString: url, max: connections, idleTimeoutMillis: 0 })
    return { send: (sql, binds) => pool.query(sql, binds), close: () => pool.end() }
  },
  sqlite(url) {
    const database = new SqliteDatabase(url.replace('sqlite:', ''))
    const all = promisify(database.all.bind(database)) as (sql: string, binds: object) => Promise<unknown>
    return {
      send: (sql, binds) => all(sql, Object.fromEntries(binds.map((each, index) => [`$${index + 1}`, each]))),
      close: promisify(database.close.bind(database)),
    }
  },
}

async function openDriver(url: string): Promise<Library> {
  const dialect = dialectOf(url)
  const asked = await statementOf(url)
  const { sql, binds } = /^(mysql|mariadb)$/.test(dialect) ? positional(asked) : asked
  const { send, close } = drivers[dialect]!(url)
  return {
    variants: [{ name: 'driver, the same SQL', setKey: (id, key) => send(sql, binds(id, key)) }],
    close,
  }
}

/** How JSON_SET is written through `sequelize.fn`. */
function jsonSet(sequelize: Sequelize, key: string): unknown {
  const column = sequelize.col('progress')
  if (sequelize.getDialect() !== 'postgres') return sequelize.fn('JSON_SET', column, `$.${key}`, value)
  return sequelize.fn('jsonb_set', column, `{${key}}`, sequelize.cast(valueJson, 'jsonb'))
}

/** What one writes with Sequelize alone. */
async function openSequelizeAlone(url: string): Promise<Library> {
  const sequelize = openSequelize(url)
  const Runs = defineRun(sequelize, 'runs')
  const { sql, type, binds } = await statementOf(url)
  // Where one file is one lock, those who wait for it in the driver's threads block the one who has it.
  const alone = sequelize.getDialect() === 'sqlite' && { maxCallers: { hot: 1, spread: 1 } }
  return {
    variants: [
      { name: bareQuery, setKey: (id, key) => sequelize.query(sql, { bind: binds(id, key), type: type as never }) },
      {
        name: 'Model.update, JSON_SET',
        setKey: (id, key) => Runs.update({ progress: jsonSet(sequelize, key) as never }, { where: { id } }),
      },
      {
        name: naive,
        async setKey(id, key) {
          const run = await Runs.findByPk(id, { rejectOnEmpty: true })
          await run.update({ progress: { ...run.progress, [key]: value } })
        },
      },
      {
        name: byHand,
        ...alone,
        setKey: (id, key) =>
          sequelize.transaction(async (transaction) => {
            const run = await Runs.findByPk(id, { rejectOnEmpty: true, transaction, lock: transaction.LOCK.UPDATE })
            run.progress = { ...run.progress, [key]: value }
            await run.save({ transaction })
          }),
      },
    ],
    close: () => sequelize.close(),
  }
}

/** What one writes with this library. */
// eslint-disable-next-line @typescript-eslint/require-await -- as the others are
async function openLossless(url: string): Promise<Library> {
  const sequelize = openSequelize(url)
  const Runs = defineRun(sequelize, 'runs')
  const Versioned = defineRun(sequelize, 'versioned_runs')
  const Patched = lossless(defineRun(sequelize, 'runs'), { wholeColumnWrites: 'patch' })
  return {
    variants: [
      {
        name: coalesced,
        times: 8,
        setKey: (id, key) => mergeJsonKey([Runs, id], 'progress', key, value, { coalesce: true }),
      },
      {
        name: 'read, change, save, patched',
        async setKey(id, key) {
          const run = await Patched.findByPk(id, { rejectOnEmpty: true })
          await run.update({ progress: { ...run.progress, [key]: value } })
        },
      },
      { name: ours, setKey: (id, key) => mergeJsonKey([Runs, id], 'progress', key, value) },
      {
        name: 'mergeJsonKey, returning',
        setKey: (id, key) => mergeJsonKey([Runs, id], 'progress', key, value, { returning: true }),
      },
      {
        name: 'withLock',
        setKey: (id, key) =>
          withLock([Runs, id], async (run) => {
            run.progress[key] = value
            await run.save()
          }),
      },
      {
        name: 'withOptimisticLock',
        table: 'versioned_runs',
        // For rows that are seldom fought for.
        maxCallers: { hot: 16 },
        setKey: (id, key) =>
          withOptimisticLock([Versioned, id], (run) => {
            run.progress[key] = value
          }),
      },
    ],
    close: () => sequelize.close(),
  }
}

/** The database of a URL. */
export function dialectOf(url: string): string {
  return url.slice(0, url.indexOf(':'))
}

export const libraries: readonly ((url: string) => Promise<Library>)[] = [openDriver, openSequelizeAlone, openLossless]
