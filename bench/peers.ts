import { knex } from 'knex'
import { Column, DataSource, Entity, PrimaryGeneratedColumn, UpdateDateColumn } from 'typeorm'
import type { DataSourceOptions } from 'typeorm'
import { connections } from './table.js'
import { dialectOf, value, valueJson } from './variants.js'
import type { Library } from './variants.js'

const knexClients: Readonly<Record<string, string>> = {
  mysql: 'mysql2',
  mariadb: 'mysql2',
  postgres: 'pg',
  sqlite: 'sqlite3',
}

// eslint-disable-next-line @typescript-eslint/require-await -- as the others are
async function openKnex(url: string): Promise<Library> {
  const dialect = dialectOf(url)
  const isSqlite = dialect === 'sqlite'
  const client = knex({
    client: knexClients[dialect]!,
    connection: isSqlite ? { filename: url.replace('sqlite:', '') } : url.replace('mariadb:', 'mysql:'),
    useNullAsDefault: true,
    pool: { min: 0, max: isSqlite ? 1 : connections, idleTimeoutMillis: 3_600_000 },
  })
  const json = dialect === 'postgres' ? valueJson : value
  return {
    variants: [
      {
        name: 'Knex, jsonSet',
        async setKey(id, key) {
          // As a value: the builder's own jsonSet() is left out of an UPDATE in silence.
          const progress = client.jsonSet('progress', `$.${key}`, json)
          await client('runs')
            .where({ id })
            .update({ progress, updatedAt: isSqlite ? new Date().toISOString() : new Date() })
        },
      },
    ],
    close: () => client.destroy(),
  }
}

@Entity('runs')
class RunEntity {
  @PrimaryGeneratedColumn()
  declare id: number

  @Column('json')
  declare progress: object

  @UpdateDateColumn()
  declare updatedAt: Date
}

async function openTypeorm(url: string): Promise<Library> {
  const dialect = dialectOf(url)
  // Version 1 has no driver on the package sqlite3.
  if (dialect === 'sqlite') return { variants: [], close: () => Promise.resolve() }
  const isPostgres = dialect === 'postgres'
  const source = new DataSource({
    type: dialect,
    url,
    entities: [RunEntity],
    ...(isPostgres
      ? { extra: { max: connections, idleTimeoutMillis: 0 } }
      : { extra: { connectionLimit: connections } }),
  } as DataSourceOptions)
  await source.initialize()
  const expression = isPostgres
    ? 'jsonb_set(progress, CAST(:path AS text[]), CAST(:json AS jsonb))'
    : dialect === 'mysql'
      ? 'JSON_SET(progress, :path, CAST(:json AS JSON))'
      : `JSON_SET(progress, :path, JSON_EXTRACT(:json, '$'))`
  const repository = source.getRepository(RunEntity)
  return {
    variants: [
      {
        name: 'TypeORM, JSON_SET',
        setKey: (id, key) =>
          repository
            .createQueryBuilder()
            .update()
            .set({ progress: () => expression })
            .setParameters({ path: isPostgres ? `{${key}}` : `$.${key}`, json: valueJson })
            .where('id = :id', { id })
            .execute(),
      },
    ],
    close: () => source.destroy(),
  }
}

/** What others would take instead of Sequelize. */
export const peers: readonly ((url: string) => Promise<Library>)[] = [openKnex, openTypeorm]
