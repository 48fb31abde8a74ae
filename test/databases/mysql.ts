import { MySqlContainer } from '@testcontainers/mysql'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createConnection } from 'mysql2/promise'
import type { RowDataPacket } from 'mysql2/promise'
import { containerOrigin } from './container.js'
import { unpackedServer } from './debian.js'
import { givenServer, randomName } from './lookup.js'
import type { Durability, Lookup, OwnInstance } from './lookup.js'
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

/**
 * What the tests ask of MySQL and MariaDB alike: many connections, and speed unless durability is asked for. A durable
 * server also rolls the transaction back when a lock wait times out, as some are told to.
 */
export function serverOptions(durability: Durability = 'fast'): string[] {
  return [
    '--max-connections=400',
    `--innodb-flush-log-at-trx-commit=${durability === 'durable' ? 1 : 2}`,
    `--sync-binlog=${durability === 'durable' ? 1 : 0}`,
    '--innodb-buffer-pool-size=64M',
    ...(durability === 'durable' ? ['--innodb-rollback-on-timeout=ON'] : []),
  ]
}

function mysqlOptions(durability?: Durability): string[] {
  return [...serverOptions(durability), '--performance-schema=ON']
}

export async function queryMysql(url: URL, sql: string): Promise<string> {
  const connection = await createConnection({ uri: url.href, rowsAsArray: true })
  try {
    const [rows] = await connection.query<RowDataPacket[]>(sql)
    return String(rows[0]?.[0])
  } finally {
    connection.destroy()
  }
}

export const mysql: Lookup = {
  versionQuery: 'SELECT VERSION()',
  dropDatabase: (database) => `DROP DATABASE ${database}`,
  query: queryMysql,
  origins: () => [
    givenServer('MYSQL_URL', 'mysql'),
    containerOrigin('mysql', 'MYSQL_IMAGE', 'mysql:9.7', (image, password) =>
      new MySqlContainer(image)
        .withRootPassword(password)
        .withTmpFs({ '/var/lib/mysql': 'rw' })
        .withCommand(['mysqld', ...mysqlOptions()]),
    ),
  ],
  ownOrigins: () => [
    {
      title: 'mysqld on the PATH',
      remedy: 'Install a MySQL server; it is run on a temporary folder, not as a service.',
      demanded: false,
      start: async (durability) => startPrivately(await genuineMysqld(), 'mysqld on the PATH', durability),
    },
    unpackedServer('mysql', startPrivately),
  ],
}

async function genuineMysqld(): Promise<string> {
  const command = findOnPath('mysqld')
  if (/mariadb/i.test(await execute(command, ['--no-defaults', '--version']))) throw new Error(`${command} is MariaDB`)
  return command
}

async function startPrivately(command: string, source: string, durability?: Durability): Promise<OwnInstance> {
  const parent = durability === 'durable' ? undefined : await quickFolder()
  return inTemporaryFolder(async (folder) => {
    const password = randomName()
    const port = await freePort()
    const common = [
      '--no-defaults',
      `--datadir=${join(folder, 'data')}`,
      '--secure-file-priv=NULL',
      ...(runsAsRoot ? ['--user=root'] : []),
    ]
    const accounts = join(folder, 'accounts.sql')
    await writeFile(accounts, `ALTER USER root@localhost IDENTIFIED BY '${password}';\n`)
    await runToEnd({ folder, command, arguments: [...common, '--initialize-insecure', `--init-file=${accounts}`] })
    const server = superviseRestartable({
      folder,
      command,
      arguments: [
        ...common,
        ...mysqlOptions(durability),
        '--bind-address=127.0.0.1',
        `--port=${port}`,
        '--mysqlx=OFF',
        `--socket=${join(folder, 'socket')}`,
        `--pid-file=${join(folder, 'pid')}`,
      ],
    })
    return { ...server, source, url: new URL(`mysql://root:${password}@127.0.0.1:${port}`) }
  }, parent)
}
