import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { Server } from './index.js'

const startupMilliseconds = 60_000

/** A server that was found or started, before this run has its own database on it. */
export interface Instance {
  readonly source: string
  /** As an account that may create databases. */
  readonly url: URL
  /** Why the server will never answer, as soon as that is known. */
  failure?(): string | undefined
  /** Absent when the server is not ours to stop. */
  stop?(): Promise<void>
}

/** One place to look for a server. */
export interface Origin {
  readonly title: string
  readonly remedy: string
  /** Asked for by name, so that nothing else will do. */
  readonly demanded: boolean
  start(): Promise<Instance>
}

export interface Lookup {
  readonly origins: () => readonly Origin[]
  readonly versionQuery: string
  readonly dropDatabase: (database: string) => string
  /** Runs one statement on a connection of its own and resolves to the first value it returns. */
  readonly query: (url: URL, sql: string) => Promise<string>
}

export function randomName(): string {
  return `lossless_${randomBytes(6).toString('hex')}`
}

function messageOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(messageOf).join('; ')
  return error instanceof Error ? error.message : String(error)
}

/** Makes a database for this run on the server of the first origin that has one. */
export async function startFirst(name: string, lookup: Lookup): Promise<Omit<Server, 'name'>> {
  const origins = lookup.origins()
  const demanded = origins.find((origin) => origin.demanded)
  const failures: string[] = []
  for (const origin of demanded ? [demanded] : origins) {
    try {
      return await createDatabase(lookup, await origin.start())
    } catch (error) {
      failures.push(`- ${origin.title}: ${messageOf(error).trim()}\n  ${origin.remedy}`)
    }
  }
  throw new Error(`found no ${name} to test with:\n${failures.join('\n')}`)
}

/** The server that somebody else runs, with its address in an environment variable. */
export function givenServer(variable: string, protocol: string): Origin {
  const address = process.env[variable] || undefined
  return {
    title: variable,
    remedy: `Set ${variable} to ${protocol}://user:password@host:port, an account that may create databases.`,
    demanded: address !== undefined,
    start() {
      if (address === undefined) return Promise.reject(new Error('not set'))
      return Promise.resolve({ source: variable, url: new URL(address.replace(/^\w+:/, `${protocol}:`)) })
    },
  }
}

async function createDatabase(lookup: Lookup, instance: Instance): Promise<Omit<Server, 'name'>> {
  const { source, url } = instance
  const database = randomName()
  try {
    const version = await firstAnswer(lookup, instance)
    await lookup.query(url, `CREATE DATABASE ${database}`)
    const dropDatabase = async () => void (await lookup.query(url, lookup.dropDatabase(database)))
    return {
      url: Object.assign(new URL(url), { pathname: database }).href,
      version,
      source,
      stop: () => (instance.stop ?? dropDatabase)(),
    }
  } catch (error) {
    await instance.stop?.()
    throw error
  }
}

async function firstAnswer(lookup: Lookup, instance: Instance): Promise<string> {
  const deadline = Date.now() + (instance.stop ? startupMilliseconds : 0)
  for (;;) {
    try {
      return await lookup.query(instance.url, lookup.versionQuery)
    } catch (error) {
      const failure = instance.failure?.()
      if (failure !== undefined) throw new Error(failure, { cause: error })
      if (Date.now() >= deadline) throw error
    }
    await delay(50)
  }
}
