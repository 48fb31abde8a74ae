import { chmod } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { unpack } from '../databases/debian.js'
import { randomName } from '../databases/lookup.js'
import { makeData } from '../databases/mariadb.js'
import { queryMysql, serverOptions } from '../databases/mysql.js'
import {
  freePort,
  inTemporaryFolder,
  nobody,
  runsAsRoot,
  runToEnd,
  superviseRestartable,
} from '../databases/process.js'
import { until } from '../patience.js'
import type { Cluster, Node } from './cluster.js'

const database = 'lossless'

interface Member extends Node {
  query(sql: string): Promise<string>
  start(): Promise<void>
  stop(): Promise<void>
}

interface Ports {
  readonly sql: number
  /** For messages of the group, for the copy of all data, for that of missed transactions. */
  readonly group: number
  readonly copy: number
  readonly missed: number
}

/** Three MariaDB servers in a Galera cluster, of Debian's packages. They cannot outlive this process. */
export async function startGalera(): Promise<Cluster> {
  const unpacked = await unpack('galera')
  const password = randomName()
  const ports = await Promise.all(
    Array.from({ length: 3 }, async () => {
      const [sql, group, copy, missed] = await Promise.all([freePort(), freePort(), freePort(), freePort()])
      return { sql, group, copy, missed }
    }),
  )
  const members: Member[] = []
  const stop = async (): Promise<void> => void (await Promise.all(members.map((member) => member.stop())))
  let command = unpacked
  try {
    for (const [index, own] of ports.entries()) {
      const member = await inTemporaryFolder(async (folder) => {
        // The account that runs the servers may have no access to the folder of root.
        if (index === 0 && runsAsRoot) {
          await runToEnd({ folder, command: 'cp', arguments: ['-RP', dirname(unpacked), folder] })
          command = join(folder, basename(dirname(unpacked)), basename(unpacked))
        }
        const addresses = index === 0 ? [] : ports.map(({ group }) => `127.0.0.1:${group}`)
        return makeMember({ folder, command, password, own, name: `node-${index + 1}`, addresses })
      })
      members.push(member)
      await member.start()
      if (index === 0) await member.query(`CREATE DATABASE ${database}`)
    }
  } catch (error) {
    await stop()
    throw error
  }
  return { nodes: members, caughtUp: () => caughtUp(members), stop }
}

async function caughtUp(members: readonly Member[]): Promise<void> {
  const position = async (member: Member): Promise<bigint> => BigInt(await member.query(statusQuery('last_committed')))
  const positions = await Promise.all(members.map(position))
  for (const member of members) {
    await until('every node has applied every transaction', async () =>
      (await position(member)) >= positions.reduce((one, other) => (one > other ? one : other)) ? true : undefined,
    )
  }
}

function statusQuery(name: string): string {
  return `SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'WSREP_${name.toUpperCase()}'`
}

async function makeMember({
  folder,
  command,
  password,
  own,
  name,
  addresses,
}: {
  folder: string
  command: string
  password: string
  own: Ports
  name: string
  /** Of the group; none for the node that begins it. */
  addresses: readonly string[]
}): Promise<Member> {
  const data = join(folder, 'data')
  const common = ['--no-defaults', `--datadir=${data}`]
  if (addresses.length === 0)
    await makeData(folder, command, [...common, ...(runsAsRoot ? ['--user=root'] : [])], data, password)
  else await runToEnd({ folder, command: 'mkdir', arguments: [data] })
  if (runsAsRoot) await runToEnd({ folder, command: 'chown', arguments: ['-R', `${nobody}:${nobody}`, folder] })
  await chmod(folder, 0o755)
  const provider = {
    base_port: own.group,
    'gmcast.listen_addr': `tcp://127.0.0.1:${own.group}`,
    'ist.recv_addr': `127.0.0.1:${own.missed}`,
    'gcache.size': '32M',
    // A dead node holds up every commit until it is suspected: for 5 s by default.
    'evs.keepalive_period': 'PT0.5S',
    'evs.suspect_timeout': 'PT2S',
    'evs.inactive_timeout': 'PT4S',
  }
  const options = {
    folder,
    command,
    // Started by root, the daemon of rsync writes under the account `nobody`.
    user: runsAsRoot ? nobody : undefined,
    arguments: [
      ...common,
      ...serverOptions(),
      '--bind-address=127.0.0.1',
      `--port=${own.sql}`,
      `--socket=${join(folder, 'socket')}`,
      `--pid-file=${join(folder, 'pid')}`,
      '--binlog-format=ROW',
      '--innodb-autoinc-lock-mode=2',
      '--wsrep-on=ON',
      '--wsrep-cluster-name=lossless',
      `--wsrep-node-name=${name}`,
      '--wsrep-node-address=127.0.0.1',
      '--wsrep-sst-method=rsync',
      `--wsrep-sst-receive-address=127.0.0.1:${own.copy}`,
      `--wsrep-cluster-address=gcomm://${addresses.join()}`,
      `--wsrep-provider-options=${Object.entries(provider)
        .map(([option, value]) => `${option}=${value}`)
        .join(';')}`,
    ],
  }
  let server: ReturnType<typeof superviseRestartable> | undefined
  const url = new URL(`mysql://root:${password}@127.0.0.1:${own.sql}/`)
  const query = (sql: string): Promise<string> => queryMysql(url, sql)
  const start = async (): Promise<void> => {
    if (server) server.restart()
    else server = superviseRestartable(options)
    await until(
      `${name} is synchronised`,
      async () => {
        const failure = server!.failure()
        if (failure !== undefined) throw new Error(failure)
        const state = await query(statusQuery('local_state_comment')).catch(String)
        return state === 'Synced' || undefined
      },
      50,
    )
  }
  return {
    name,
    url: Object.assign(new URL(url), { pathname: database }).href,
    query,
    start,
    restart: start,
    kill: () => server!.kill(),
    stop: async () => server?.stop(),
  }
}
