import { requestedDatabases, startServer } from './databases/index.js'
import type { Server } from './databases/index.js'
import { servers } from './each-database.js'

/** Starts every database that the run asked for, once; one that cannot be had fails the run. */
export async function mochaGlobalSetup(): Promise<void> {
  for (const name of requestedDatabases()) {
    const server: Server = await startServer(name)
    servers.set(name, server)
    console.log(`${name}: ${server.version} (${server.source})`)
  }
}

export async function mochaGlobalTeardown(): Promise<void> {
  for (const server of servers.values()) await server.stop()
}
