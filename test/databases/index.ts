import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { VERSION as sqliteVersion } from 'sqlite3'
import { startFirst } from './lookup.js'
import { mysql } from './mysql.js'
import { mariadb } from './mariadb.js'
import { postgres } from './postgres.js'

const databaseNames = ['mysql', 'mariadb', 'postgres', 'sqlite'] as const

export type DatabaseName = (typeof databaseNames)[number]

/** A database made for this run alone, on a server that is really there. */
export interface Server {
  readonly name: DatabaseName
  /** For SQLite the path of a file. */
  readonly url: string
  /** As the server says. */
  readonly version: string
  /** Where the server was found. */
  readonly source: string
  stop(): Promise<void>
}

export function requestedDatabases(): DatabaseName[] {
  const requested = (process.env['DATABASES'] || 'mysql,sqlite').split(',').map((name) => name.trim())
  return [...new Set(requested)].map((name) => {
    const known = databaseNames.find((databaseName) => databaseName === name)
    if (!known) throw new Error(`DATABASES names '${name}', which is none of ${databaseNames.join(', ')}`)
    return known
  })
}

export async function startServer(name: DatabaseName): Promise<Server> {
  return {
    name,
    ...(name === 'sqlite' ? await startSqlite() : await startFirst(name, { mysql, mariadb, postgres }[name])),
  }
}

async function startSqlite(): Promise<Omit<Server, 'name'>> {
  const folder = await mkdtemp(join(tmpdir(), 'lossless-sqlite-'))
  return {
    url: join(folder, 'database.sqlite'),
    version: sqliteVersion,
    source: 'the npm package sqlite3',
    stop: () => rm(folder, { recursive: true, force: true }),
  }
}
