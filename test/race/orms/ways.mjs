// The ORMs of this package, each as a `Way` of ../drivers/bank.ts.
import { EntitySchema, LockMode, MikroORM as Core } from '@mikro-orm/core'
import { MySqlDriver } from '@mikro-orm/mysql'
import { PostgreSqlDriver } from '@mikro-orm/postgresql'
import { eq, sql as drizzleSql } from 'drizzle-orm'
import * as mysqlCore from 'drizzle-orm/mysql-core'
import { drizzle as drizzleMysql } from 'drizzle-orm/mysql2'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import * as pgCore from 'drizzle-orm/pg-core'
import { Kysely, MysqlDialect, PostgresDialect, sql as kyselySql } from 'kysely'
import { createPool } from 'mysql2'
import pg from 'pg'

const table = 'every_order_accounts'

const poolOf = {
  mysql: (url) => createPool({ uri: url, connectionLimit: 4 }),
  postgres: (url) => new pg.Pool({ connectionString: url, max: 4 }),
}

/** Kysely. Its pool is what `explore` gets. */
export function kysely(dialect, url) {
  const pool = poolOf[dialect](url)
  const Dialect = dialect === 'mysql' ? MysqlDialect : PostgresDialect
  const db = new Kysely({ dialect: new Dialect({ pool }) })
  return {
    connections: [pool],
    run: (text) => kyselySql.raw(text).execute(db),
    transaction: (fn) => db.transaction().execute(fn),
    read(transaction, id, isLocking) {
      const query = transaction.selectFrom(table).selectAll().where('id', '=', id)
      return (isLocking ? query.forUpdate() : query).executeTakeFirstOrThrow()
    },
    save(transaction, id, { document, ...values }) {
      const text = document && { document: JSON.stringify(document) }
      return transaction
        .updateTable(table)
        .set({ ...values, ...text })
        .where('id', '=', id)
        .execute()
    },
    close: () => db.destroy(),
  }
}

/** Drizzle. */
export function drizzle(dialect, url) {
  const { int, json, mysqlTable } = mysqlCore
  const columns = {
    mysql: () => mysqlTable(table, { id: int().primaryKey(), balance: int(), document: json() }),
    postgres: () =>
      pgCore.pgTable(table, { id: pgCore.integer().primaryKey(), balance: pgCore.integer(), document: pgCore.json() }),
  }
  const accounts = columns[dialect]()
  const pool = poolOf[dialect](url)
  const db = dialect === 'mysql' ? drizzleMysql({ client: pool }) : drizzlePg({ client: pool })
  return {
    connections: [db],
    run: (text) => db.execute(drizzleSql.raw(text)),
    transaction: (fn) => db.transaction(fn),
    async read(transaction, id, isLocking) {
      const query = transaction.select().from(accounts).where(eq(accounts.id, id))
      const [row] = await (isLocking ? query.for('update') : query)
      return row
    },
    save: (transaction, id, values) => transaction.update(accounts).set(values).where(eq(accounts.id, id)),
    close: () => (dialect === 'mysql' ? pool.promise().end() : pool.end()),
  }
}

/** MikroORM, with its unit of work. */
export async function mikro(dialect, url) {
  const Account = new EntitySchema({
    name: 'Account',
    tableName: table,
    properties: {
      id: { type: 'integer', primary: true },
      balance: { type: 'integer' },
      document: { type: 'json' },
    },
  })
  const orm = await Core.init({
    driver: dialect === 'mysql' ? MySqlDriver : PostgreSqlDriver,
    clientUrl: url,
    entities: [Account],
    pool: { min: 0, max: 4 },
  })
  const connection = orm.em.getConnection()
  return {
    connections: [connection.getKnex()],
    run: (text) => connection.execute(text),
    transaction: (fn) => orm.em.fork().transactional(fn),
    read: (em, id, isLocking) =>
      em.findOneOrFail(Account, id, isLocking ? { lockMode: LockMode.PESSIMISTIC_WRITE } : {}),
    save(em, id, values) {
      Object.assign(em.getReference(Account, id), values)
      return em.flush()
    },
    close: () => orm.close(),
  }
}
