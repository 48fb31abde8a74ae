import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Sequelize } from 'sequelize'

/** `DATABASE_URL` (mysql://, mariadb://, postgres://), or else a SQLite file that is gone when the process ends. */
export const databaseUrl = process.env['DATABASE_URL'] || temporaryFile()

/** DATABASE_URL may name a database in use: no example touches another table of it. */
export const tableName = 'lossless_example'

export function connect(): Sequelize {
  return new Sequelize(databaseUrl, { logging: false, define: { tableName } })
}

function temporaryFile(): string {
  const folder = mkdtempSync(join(tmpdir(), 'lossless-example-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  return `sqlite:${join(folder, 'database.sqlite')}`
}
