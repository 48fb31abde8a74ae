import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { GenericContainer, getContainerRuntimeClient } from 'testcontainers'
import { createNetwork, startContainer } from '../databases/container.js'
import { randomName } from '../databases/lookup.js'
import { queryMysql, serverOptions } from '../databases/mysql.js'
import { freePort } from '../databases/process.js'

const image = process.env['MYSQL_IMAGE'] || 'mysql:9.7'
const database = 'lossless'
const patienceMilliseconds = 60_000
const sqlPort = 3306
const groupPort = 33_061
const numbers = [1, 2, 3]

/** A server of the cluster. */
export interface Node {
  readonly name: string
  /** Of a database that all nodes share; the same after a restart. */
  readonly url: string
  /** Sends SIGKILL to the server, and resolves once it is dead. */
  kill(): Promise<void>
  /** Starts the killed server, and resolves once it says that it is ONLINE: in the group, and caught up with it. */
  restart(): Promise<void>
}

export interface Cluster {
  readonly nodes: readonly Node[]
  /** Resolves once every node has applied every transaction that any of them knew when this was called. */
  caughtUp(): Promise<void>
  stop(): Promise<void>
}

/** Three MySQL servers in Group Replication that all take writes. They cannot outlive this process. */
export async function startCluster(): Promise<Cluster> {
  const group: Group = { network: randomName(), id: randomUUID(), password: randomName() }
  const removeNetwork = await createNetwork(group.network)
  const starts = await Promise.allSettled(numbers.map((number) => startMember(group, number)))
  const members = starts.flatMap((start) => (start.status === 'fulfilled' ? start.value : []))
  const stop = async (): Promise<void> => {
    await Promise.all(members.map((member) => member.remove()))
    await removeNetwork()
  }
  try {
    const [first, ...others] = starts.map(valueOf)
    await first!.join({ bootstrap: true })
    await Promise.all(others.map((member) => member.join({ bootstrap: false })))
    return { nodes: members, caughtUp: () => caughtUp(members), stop }
  } catch (error) {
    await stop()
    throw error
  }
}

function valueOf<Value>(settled: PromiseSettledResult<Value>): Value {
  if (settled.status === 'rejected') throw settled.reason
  return settled.value
}

async function caughtUp(members: readonly Member[]): Promise<void> {
  const executed = await Promise.all(members.map((member) => member.query('SELECT @@global.gtid_executed')))
  const hasAll = `SELECT GTID_SUBSET('${executed.join()}', @@global.gtid_executed)`
  await Promise.all(members.map((member) => member.answers(hasAll, '1')))
}

interface Group {
  readonly network: string
  readonly id: string
  readonly password: string
}

function nameOf(group: Group, number: number): string {
  return `${group.network}-${number}`
}

function memberOptions(group: Group, number: number): string[] {
  const address = (each: number): string => `${nameOf(group, each)}:${groupPort}`
  return [
    ...serverOptions(),
    '--performance-schema=ON',
    '--mysqlx=OFF',
    `--server-id=${number}`,
    `--report-host=${nameOf(group, number)}`,
    '--gtid-mode=ON',
    '--enforce-gtid-consistency=ON',
    '--plugin-load-add=group_replication.so',
    // The server that only makes the data directory does not know the plugin's options.
    ...[
      `group-name=${group.id}`,
      `group-seeds=${numbers.map(address).join()}`,
      `local-address=${address(number)}`,
      'single-primary-mode=OFF',
      'enforce-update-everywhere-checks=ON',
      'recovery-get-public-key=ON',
      'start-on-boot=OFF',
      // Every commit takes 0.3 s and more until a dead node is expelled: after 7 s with this, after 22 s by default.
      'member-expel-timeout=0',
    ].map((option) => `--loose-group-replication-${option}`),
  ]
}

interface Member extends Node {
  query(sql: string): Promise<string>
  /** Polls until the server gives this answer to this question. */
  answers(sql: string, expected: string): Promise<void>
  join(how: { bootstrap: boolean }): Promise<void>
  remove(): Promise<void>
}

async function startMember(group: Group, number: number): Promise<Member> {
  const name = nameOf(group, number)
  const { password } = group
  // A port of Docker's own choice is another one after a restart.
  const port = await freePort()
  const started = await startContainer(
    new GenericContainer(image)
      .withName(name)
      .withNetworkMode(group.network)
      .withExposedPorts({ container: sqlPort, host: port })
      .withEnvironment({ MYSQL_ROOT_PASSWORD: password, MYSQL_DATABASE: database })
      .withCommand(['mysqld', ...memberOptions(group, number)]),
  )
  const container = (await getContainerRuntimeClient()).container.getById(started.getId())
  const url = new URL(`mysql://root:${password}@${started.getHost()}:${port}/${database}`)
  const query = (sql: string): Promise<string> => queryMysql(url, sql)
  const answers = async (sql: string, expected: string): Promise<void> => {
    const deadline = Date.now() + patienceMilliseconds
    for (;;) {
      const answer = await query(sql).catch(String)
      if (answer === expected) return
      if (Date.now() >= deadline) {
        const log = String(await container.logs({ stdout: true, stderr: true, tail: 30 }))
        // Docker puts eight bytes before each line.
        throw new Error(`${name} answers ${answer}, not ${expected}, to ${sql}\n${log.replace(/[^\n -~]/g, '')}`)
      }
      await delay(50)
    }
  }
  const isOnline = (): Promise<void> =>
    answers(
      'SELECT member_state FROM performance_schema.replication_group_members WHERE member_id = @@server_uuid',
      'ONLINE',
    )
  return {
    name,
    url: url.href,
    query,
    answers,
    async join({ bootstrap }) {
      await answers('SELECT 1', '1')
      // What set this server up is no transaction of the group.
      await query('RESET BINARY LOGS AND GTIDS')
      await query(
        `CHANGE REPLICATION SOURCE TO SOURCE_USER = 'root', SOURCE_PASSWORD = '${password}' FOR CHANNEL 'group_replication_recovery'`,
      )
      if (bootstrap) await query('SET GLOBAL group_replication_bootstrap_group = ON')
      await query('START GROUP_REPLICATION')
      if (bootstrap) await query('SET GLOBAL group_replication_bootstrap_group = OFF')
      await isOnline()
      // Without it, a server that comes back acknowledges writes before it is in the group, which never gets them.
      await query('SET PERSIST group_replication_start_on_boot = ON')
    },
    async kill() {
      await container.kill({ signal: 'SIGKILL' })
      await container.wait()
    },
    async restart() {
      await container.start()
      await isOnline()
    },
    async remove() {
      await container.remove({ force: true, v: true })
    },
  }
}
