import { execFile } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import knex from 'knex'
import type { Knex } from 'knex'
import { DataTypes } from 'sequelize'
import type { Transaction } from 'sequelize'
import { DataSource, EntitySchema, EntitySchemaOptions } from 'typeorm'
import type { EntityManager } from 'typeorm'
import { connect } from '../../connect.js'
import { requestedDatabases } from '../../databases/index.js'
import { root } from '../../docs/readme.js'
import { servers } from '../../each-database.js'
import { defineBank } from './bank.js'
import type { Account, Dialect, Way } from './bank.js'

type Open = (dialect: Dialect, url: string) => Way<unknown> | Promise<Way<unknown>>

const tableName = 'every_order_accounts'

function sequelize(_dialect: Dialect, url: string): Way<Transaction> {
  const own = connect(url, { logging: false, pool: { max: 4 } })
  const columns = { balance: DataTypes.INTEGER, document: DataTypes.JSON }
  const Accounts = own.define('Account', columns, { tableName, timestamps: false })
  return {
    connections: [own],
    run: (sql) => own.query(sql),
    transaction: (fn) => own.transaction(fn),
    async read(transaction, id, lock) {
      const account = await Accounts.findByPk(id, { rejectOnEmpty: true, transaction, lock })
      return account.get() as Account
    },
    save: (transaction, id, values) => Accounts.update(values, { where: { id }, transaction }),
    close: () => own.close(),
  }
}

function knexWay(dialect: Dialect, url: string): Way<Knex.Transaction> {
  const own = knex({ client: dialect === 'mysql' ? 'mysql2' : 'pg', connection: url, pool: { min: 0, max: 4 } })
  return {
    connections: [own],
    run: (sql) => own.raw(sql),
    transaction: (fn) => own.transaction(fn),
    async read(transaction, id, isLocking) {
      const query = transaction<Account & { id: number }>(tableName).where({ id }).first()
      return (await (isLocking ? query.forUpdate() : query)) as Account
    },
    save: (transaction, id, { document, ...values }) =>
      transaction(tableName)
        .where({ id })
        .update({ ...values, ...(document && { document: JSON.stringify(document) }) }),
    close: () => own.destroy(),
  }
}

async function typeorm(dialect: Dialect, url: string): Promise<Way<EntityManager>> {
  const options = new EntitySchemaOptions<Account & { id: number }>()
  options.name = 'Account'
  options.tableName = tableName
  options.columns = { id: { type: 'int', primary: true }, balance: { type: 'int' }, document: { type: 'json' } }
  const Accounts = new EntitySchema(options)
  const own = new DataSource(
    dialect === 'mysql'
      ? { type: 'mysql', url, entities: [Accounts], poolSize: 4 }
      : { type: 'postgres', url, entities: [Accounts], poolSize: 4 },
  )
  await own.initialize()
  return {
    connections: [own],
    run: (sql) => own.query(sql),
    transaction: (fn) => own.transaction(fn),
    read: (manager, id, isLocking) =>
      manager.findOneOrFail(Accounts, {
        where: { id },
        ...(isLocking && { lock: { mode: 'pessimistic_write' as const } }),
      }),
    save: (manager, id, values) => manager.update(Accounts, id, values as object),
    close: () => own.destroy(),
  }
}

describe('explore() of ORMs', function () {
  this.timeout(300_000)
  const folder = mkdtempSync(join(tmpdir(), 'every-order-orms-'))

  /** Installs the ORMs that `npm ci` at the root does not. */
  const install = once(async () => {
    const filter = (path: string): boolean => !path.endsWith('node_modules')
    cpSync(join(root, 'test', 'race', 'orms'), folder, { recursive: true, filter })
    const words = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline']
    await promisify(execFile)('npm', words, { cwd: folder })
    return (await import(pathToFileURL(join(folder, 'ways.mjs')).href)) as Record<'kysely' | 'drizzle' | 'mikro', Open>
  })

  after(() => rmSync(folder, { recursive: true, force: true }))

  const ways: Record<string, Open> = {
    'Sequelize 6': sequelize,
    'Knex 3': knexWay as Open,
    'TypeORM 1': typeorm,
    'Kysely 0.28': async (...given) => (await install()).kysely(...given),
    'Drizzle 0.45': async (...given) => (await install()).drizzle(...given),
    'MikroORM 6': async (...given) => (await install()).mikro(...given),
  }
  for (const dialect of ['mysql', 'postgres'] as const) {
    if (!requestedDatabases().includes(dialect)) continue
    for (const [title, open] of Object.entries(ways)) {
      defineBank(`${title} (${dialect})`, dialect, async () => open(dialect, servers.get(dialect)!.url))
    }
  }
})

function once<R>(fn: () => Promise<R>): () => Promise<R> {
  let result: Promise<R> | undefined
  return () => (result ??= fn())
}
