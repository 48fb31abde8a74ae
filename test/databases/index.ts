import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { VERSION as sqliteVersion } from 'sqlite3'
import { startDurable, startFirst } from './lookup.js'
import { mysql } from './mysql.js'
import { mariadb } from './mariadb.js'
import { postgres } from './postgres.js'

export const databaseNames = ['mysql', 'mariadb', 'postgres', 'sqlite'] as const

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

/** A server of this run's own: what it acknowledged survives it, and only it is killed. */
export interface DurableServer extends Server {
  /** Sends SIGKILL and resolves once the server is gone. */
  kill(): Promise<void>
  /** Starts it again on the same data and port, and resolves once it answers. */
  restart(): Promise<void>
}

const lookups = { mysql, mariadb, postgres } as const

export function requestedDatabases(): DatabaseName[] {
  const requested = (process.env['DATABASES'] || 'mysql,sqlite').split(',').map((name) => name.trim())
  return [...new Set(requested)].map((name) => {
    const known = databaseNames.find((databaseName) => databaseName === name)
    if (!known) throw new Error(`DATABASES names '${name}', which is none of ${databaseNames.join(', ')}`)
    return known
  })
}

export async function startServer(name: DatabaseName): Promise<Server> {
  return { name, ...(name === 'sqlite' ? await startSqlite() : await startFirst(name, lookups[name])) }
}

export async function startDurableServer(name: keyof typeof lookups): Promise<DurableServer> {
  return { name, ...(await startDurable(name, lookups[name])) }
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
