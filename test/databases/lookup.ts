import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { DurableServer, Server } from './index.js'

const startupMilliseconds = 60_000

/** A server that was found or started, before this run has its own database on it. */
interface Instance {
  readonly source: string
  /** As an account that may create databases. */
  readonly url: URL
  /** Why the server will never answer, as soon as that is known. */
  failure?(): string | undefined
  /** Absent when the server is not ours to stop. */
  stop?(): Promise<void>
}

/** A server that this process runs itself, on data that outlive the server. */
export interface OwnInstance extends Instance {
  /** Sends SIGKILL and resolves once the server is gone. */
  kill(): Promise<void>
  /** Starts it again on what it left, without waiting for it to answer. */
  restart(): void
  stop(): Promise<void>
}

/** Whether a server acknowledges what a SIGKILL would take back. */
export type Durability = 'fast' | 'durable'

/** One place to look for a server. */
export interface Origin {
  readonly title: string
  readonly remedy: string
  /** Asked for by name, so that nothing else will do. */
  readonly demanded: boolean
  start(): Promise<Instance>
}

/** A place that has the server as a command to run. */
export interface OwnOrigin extends Origin {
  start(durability?: Durability): Promise<OwnInstance>
}

export interface Lookup {
  /** Servers that another process runs; looked for first. */
  readonly origins: () => readonly Origin[]
  readonly ownOrigins: () => readonly OwnOrigin[]
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
export function startFirst(name: string, lookup: Lookup): Promise<Omit<Server, 'name'>> {
  const origins = [...lookup.origins(), ...lookup.ownOrigins()]
  const demanded = origins.find((origin) => origin.demanded)
  return firstOf(name, demanded ? [demanded] : origins, async (origin) => createDatabase(lookup, await origin.start()))
}

/** As {@link startFirst}, on a server which loses nothing that it acknowledged when it is killed. */
export function startDurable(name: string, lookup: Lookup): Promise<Omit<DurableServer, 'name'>> {
  return firstOf(name, lookup.ownOrigins(), async (origin) => {
    const instance = await origin.start('durable')
    return {
      ...(await createDatabase(lookup, instance)),
      kill: () => instance.kill(),
      async restart() {
        instance.restart()
        await firstAnswer(lookup, instance)
      },
    }
  })
}

async function firstOf<O extends Origin, Result>(
  name: string,
  origins: readonly O[],
  start: (origin: O) => Promise<Result>,
): Promise<Result> {
  const failures: string[] = []
  for (const origin of origins) {
    try {
      return await start(origin)
    } catch (error) {
      failures.push(`- ${origin.title}: ${messageOf(error).trim()}\n  ${origin.remedy}`)
    }
  }
  throw new Error(`found no ${name} to test with:\n${failures.join('\n')}`)
}

/** A server that another process runs, with its address in an environment variable. */
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
