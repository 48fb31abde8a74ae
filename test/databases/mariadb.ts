import { readdir, readFile, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { GenericContainer } from 'testcontainers'
import { containerOrigin } from './container.js'
import { unpackedServer } from './debian.js'
import { givenServer, randomName } from './lookup.js'
import type { Durability, Lookup, OwnInstance } from './lookup.js'
import { queryMysql, serverOptions } from './mysql.js'
import {
  execute,
  findOnPath,
  freePort,
  inTemporaryFolder,
  quickFolder,
  runsAsRoot,
  runToEnd,
  superviseRestartable,
} from './process.js'

export const mariadb: Lookup = {
  versionQuery: 'SELECT VERSION()',
  dropDatabase: (database) => `DROP DATABASE ${database}`,
  query: queryMysql,
  origins: () => [
    givenServer('MARIADB_URL', 'mariadb'),
    containerOrigin('mariadb', 'MARIADB_IMAGE', 'mariadb:10.11', (image, password) =>
      new GenericContainer(image)
        .withEnvironment({ MARIADB_ROOT_PASSWORD: password })
        .withTmpFs({ '/var/lib/mysql': 'rw' })
        .withCommand(['mariadbd', ...serverOptions()]),
    ),
  ],
  ownOrigins: () => [
    {
      title: 'mariadbd on the PATH',
      remedy: 'Install a MariaDB server; it is run on a temporary folder, not as a service.',
      demanded: false,
      start: async (durability) => startPrivately(findOnPath('mariadbd'), 'mariadbd on the PATH', durability),
    },
    unpackedServer('mariadb', startPrivately, process.env['MARIADB_RELEASE'] || undefined),
  ],
}

async function startPrivately(command: string, source: string, durability?: Durability): Promise<OwnInstance> {
  const parent = durability === 'durable' ? undefined : await quickFolder()
  return inTemporaryFolder(async (folder) => {
    const password = randomName()
    const port = await freePort()
    const data = join(folder, 'data')
    const common = ['--no-defaults', `--datadir=${data}`, ...(runsAsRoot ? ['--user=root'] : [])]
    await makeData(folder, command, common, data, password)
    const server = superviseRestartable({
      folder,
      command,
      arguments: [
        ...common,
        ...serverOptions(durability),
        '--bind-address=127.0.0.1',
        `--port=${port}`,
        `--socket=${join(folder, 'socket')}`,
        `--pid-file=${join(folder, 'pid')}`,
      ],
    })
    return { ...server, source, url: new URL(`mariadb://root:${password}@127.0.0.1:${port}`) }
  }, parent)
}

/** Makes the data of a server whose only account is root, with this password. */
export async function makeData(
  folder: string,
  command: string,
  options: readonly string[],
  data: string,
  password: string,
): Promise<void> {
  const bootstrap = join(folder, 'bootstrap.sql')
  await writeFile(bootstrap, await bootstrapStatements(command, password))
  await mkdir(join(data, 'mysql'), { recursive: true })
  await runToEnd({ folder, command, arguments: [...options, '--bootstrap'], input: bootstrap })
}

// `mariadb-install-db` looks for its files where the package would have been installed.
async function bootstrapStatements(command: string, password: string): Promise<string> {
  const help = await execute(command, ['--no-defaults', '--verbose', '--help'])
  const folder = /^lc-messages-dir\s+(.+)$/m.exec(help)?.[1]
  if (folder === undefined) throw new Error(`${command} does not say where its files are`)
  const files = await readdir(folder)
  const statements = ['system_tables', 'performance_tables', 'system_tables_data'].map((part) => {
    const file = files.find((name) => /^(mysql|mariadb)_/.test(name) && name.endsWith(`_${part}.sql`))
    if (file === undefined) throw new Error(`${folder} has no ${part}.sql`)
    return readFile(join(folder, file), 'utf8')
  })
  return [
    'CREATE DATABASE IF NOT EXISTS mysql;',
    'USE mysql;',
    'SET @auth_root_socket = NULL;',
    ...(await Promise.all(statements)),
    `DELETE FROM global_priv WHERE host <> 'localhost' OR user <> 'root';`,
    `UPDATE global_priv SET priv = JSON_SET(priv, '$.plugin', 'mysql_native_password', '$.authentication_string', PASSWORD('${password}'));`,
    '',
  ].join('\n')
}
