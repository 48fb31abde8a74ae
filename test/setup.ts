import type { RootHookObject } from 'mocha'
import { requestedDatabases, startServer } from './databases/index.js'
import type { Server } from './databases/index.js'
import { servers } from './each-database.js'

type Started = Pick<Server, 'name' | 'url' | 'version'>

/** Where a process that runs test files finds the servers of every job. */
const variable = 'SERVERS_OF_JOBS'

const started: Server[] = []

/**
 * Starts every database that the run asked for, once for each job: tests change settings of a whole server. One that
 * cannot be had fails the run.
 */
export async function startServers(jobs: number): Promise<void> {
  const all: Server[][] = Array.from({ length: jobs }, () => [])
  for (const name of requestedDatabases()) {
    // What one of them fetches, the others wait for.
    const servers = await Promise.all(all.map(() => startServer(name).then((server) => (started.push(server), server))))
    for (const [job, server] of servers.entries()) all[job]!.push(server)
    const { version, source } = servers[0]!
    console.log(`${name}: ${version} (${source})`)
  }
  process.env[variable] = JSON.stringify(all)
}

/** Starts the servers of a run of Mocha alone; `npm test` has started those of its jobs. */
export async function mochaGlobalSetup(this: { isParallelMode(): boolean }): Promise<void> {
  if (process.env[variable] !== undefined) return
  if (this.isParallelMode()) throw new Error('Files that run at once need servers of their own. Run `npm test`.')
  await startServers(1)
}

export const mochaHooks: RootHookObject = {
  beforeAll() {
    const all = JSON.parse(process.env[variable]!) as Started[][]
    // A worker in the place of one that crashed has a number of its own.
    const job = Number(process.env['MOCHA_WORKER_ID'] ?? process.env['STRYKER_MUTATOR_WORKER'] ?? 0) % all.length
    for (const server of all[job]!) servers.set(server.name, server)
  },
}

export async function mochaGlobalTeardown(): Promise<void> {
  await Promise.all(started.map((server) => server.stop()))
}
