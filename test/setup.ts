import type { RootHookObject } from 'mocha'
import { requestedDatabases, startServer } from './databases/index.js'
import type { Server } from './databases/index.js'
import { servers } from './each-database.js'

/** How many processes run test files at once: `--jobs` of `npm test`. */
const jobs = 2

/** Where a process that runs test files finds the servers of every job. */
const variable = 'SERVERS_OF_JOBS'

const started: Server[] = []

/**
 * Starts every database that the run asked for, once for each job: tests change settings of a whole server. One that
 * cannot be had fails the run.
 */
export async function mochaGlobalSetup(this: { isParallelMode(): boolean }): Promise<void> {
  const names = requestedDatabases()
  const first: Server[] = []
  for (const name of names) {
    const server = await startServer(name)
    first.push(server)
    console.log(`${name}: ${server.version} (${server.source})`)
  }
  const others = Array.from({ length: this.isParallelMode() ? jobs - 1 : 0 }, () =>
    Promise.all(names.map((name) => startServer(name))),
  )
  const all = [first, ...(await Promise.all(others))]
  started.push(...all.flat())
  process.env[variable] = JSON.stringify(all)
}

export const mochaHooks: RootHookObject = {
  beforeAll() {
    const all = JSON.parse(process.env[variable]!) as Pick<Server, 'name' | 'url' | 'version'>[][]
    // A worker in the place of one that crashed has a number of its own.
    const job = Number(process.env['MOCHA_WORKER_ID'] ?? 0) % all.length
    for (const server of all[job]!) servers.set(server.name, server)
  },
}

export async function mochaGlobalTeardown(): Promise<void> {
  await Promise.all(started.map((server) => server.stop()))
}
