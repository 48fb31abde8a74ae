import { requestedDatabases, startDurableServer, startServer } from '../databases/index.js'
import type { DurableServer, Server } from '../databases/index.js'
import { servers } from '../each-database.js'
import type { ServerName } from './operator.js'

const started: Server[] = []

/** The servers of this run, which it may kill. */
export const durableServers = new Map<ServerName, DurableServer>()

// Sequelize warns of every transaction that it cannot end, which here is what is asked of it.
console.warn = () => {}

/** Starts every database that the run asked for, once; one that cannot be had fails the run. */
export async function mochaGlobalSetup(): Promise<void> {
  for (const name of requestedDatabases()) {
    const server = name === 'sqlite' ? await startServer(name) : await startDurable(name)
    started.push(server)
    servers.set(name, server)
    console.log(`${name}: ${server.version} (${server.source})`)
  }
}

async function startDurable(name: ServerName): Promise<DurableServer> {
  const server = await startDurableServer(name)
  durableServers.set(name, server)
  return server
}

export async function mochaGlobalTeardown(): Promise<void> {
  for (const server of started) await server.stop()
}
