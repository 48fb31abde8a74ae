import { statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Sequelize } from 'sequelize'
import type { Dialect } from 'sequelize'
import { checkupOf } from '../dialects/checkup.js'

/** A mistake in the arguments of the command. */
export class ArgumentError extends Error {}

/** Connects to the database of a URL, by the driver that is installed in the folder of the caller. */
export function connect(command: string, url: string): Sequelize {
  const [, scheme = '', rest = ''] =
    /^(mysql|mariadb|postgres|sqlite):(.+)$/s.exec(url.replace(/^postgresql:/, 'postgres:')) ?? []
  const storage = /^sqlite:(.+)$/s.exec(url)?.[1]
  if (!scheme || (storage === undefined && !rest.startsWith('//'))) {
    throw new ArgumentError(
      'the URL must be mysql://, mariadb:// or postgres://user:password@host:port/database, or sqlite:path/of/file',
    )
  }
  // A host has none of these characters, so they are those of a password.
  if (storage === undefined && (!URL.canParse(url) || !isDecodable(url) || /[/?#].*@/.test(rest.slice(2)))) {
    throw new ArgumentError(
      `the URL cannot be parsed. Encode the special characters of its password: node -p "encodeURIComponent('…')"`,
    )
  }
  if (storage !== undefined && statSync(storage, { throwIfNoEntry: false })?.isDirectory()) {
    throw new ArgumentError(`${storage} is a folder: write the path of a file in it`)
  }
  const { driver } = checkupOf(scheme)
  const dialectModule = loadFor(command, driver)
  const options = { logging: false, pool: { max: 4, acquire: 5_000 }, dialectModule } as const
  if (storage === undefined) return new Sequelize(url, options)
  return new Sequelize({ dialect: scheme as Dialect, storage, ...options })
}

/** Whether each `%` of a URL begins an encoded character. */
function isDecodable(url: string): boolean {
  try {
    decodeURIComponent(url)
    return true
  } catch {
    return false
  }
}

/** The packages that a command needs beside the driver of the database. */
const needed: Readonly<Record<string, readonly string[]>> = { demo: ['every-order'] }

/**
 * Loads a package that a command needs.
 * @throws {ArgumentError} it is not installed
 */
export function loadFor(command: string, name: string): object {
  const loaded = load(name)
  if (loaded) return loaded
  const others = (needed[command] ?? []).filter((each) => each !== name)
  const driver = needed[command]?.includes(name) ? ['sqlite3'] : []
  const packages = ['sequelize-lossless', 'sequelize', name, ...others, ...driver].map((each) => `-p ${each}`)
  throw new ArgumentError(
    `${name} cannot be loaded here. Write npm install ${name}, or without a project: ` +
      `npx ${packages.join(' ')} sequelize-lossless ${command}`,
  )
}

/** Loads a module of the project in whose folder the command runs, else one beside this package. */
export function load(name: string): object | undefined {
  for (const from of [join(process.cwd(), 'index.js'), __filename]) {
    const require = createRequire(from)
    try {
      return require(name) as object
    } catch {
      // The next place may have it.
    }
  }
  return undefined
}

/** The name of an installed package with its version, if it gives it. */
export function withVersion(name: string): string {
  const own = join(__dirname, '..', '..', 'package.json')
  const manifest = load(name === 'sequelize-lossless' ? own : `${name}/package.json`) as { version: string } | undefined
  return manifest ? `${name} ${manifest.version}` : name
}

/** The reason of an error in one line, without the password of the URL. */
export function reasonOf(error: unknown, url: string | undefined): string {
  // A driver may put its reason into `parent`, one per address, and leave its own message empty.
  const { message, parent } = error as { message: string; parent?: { code?: string; errors?: Error[] } }
  const reason = message || parent?.errors?.[0]?.message || parent?.code || String(error)
  const [line = ''] = reason.split('\n')
  const password = /:\/\/[^:/?#]*:(.*)@/.exec(url ?? '')?.[1]
  return password ? line.replaceAll(password, '***') : line
}
