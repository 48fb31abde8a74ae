import { ProbeError } from './errors.js'
import type { DriverError, OpenDatabase, Row, Server, Session, Wait } from './gate.js'

/** Whether the server ended a deadlock with this error. It chooses the victim, and not always the same. */
export function isDeadlock({ code, errno }: DriverError): boolean {
  return errno === 1213 || code === '40P01'
}

type Ask = Session['query']

/**
 * Opens a second session to the server, or one of `admin`, and checks that it can read lock waits. With `admin`, waits and connections
 * of the participants are ended in sessions of their own accounts, which need no privilege for what is their own.
 */
export async function connectServer(databases: readonly OpenDatabase[], admin?: OpenDatabase): Promise<Server> {
  const [database] = databases
  if (database!.server) return database!.server()
  const session = await (admin ?? database!).connect!()
  const own: Session[] = []
  const server = database!.dialect === 'mysql' ? await mysqlOrMariadb(session, own) : postgres(session, own)
  if (admin) for (const each of databases) own.push(await each.connect!())
  else own.push(session)
  const close = async (): Promise<void> => {
    for (const each of new Set([session, ...own])) await each.close()
  }
  return { ...server, close }
}

/** Sends a statement in the first of these sessions whose account may. */
async function askOne([session, ...others]: readonly Session[], sql: string): Promise<void> {
  try {
    await session!.query(sql)
  } catch (error) {
    if (others.length === 0) throw error
    await askOne(others, sql)
  }
}

/** The rows of a query in all of these sessions: an account sees its own connections. */
async function askAll(sessions: readonly Session[], sql: string): Promise<Row[]> {
  const rows: Row[] = []
  for (const session of sessions) rows.push(...(await session.query(sql)))
  return rows
}

async function mysqlOrMariadb(session: Session, own: readonly Session[]): Promise<Omit<Server, 'close'>> {
  const ask: Ask = (sql) => session.query(sql)
  const [about] = await ask<{ version: string; account: string }>(
    'SELECT VERSION() AS version, CURRENT_USER() AS account',
  )
  const isMariadb = /mariadb/i.test(about!.version)
  const waits = isMariadb ? mariadbWaits(ask) : mysqlWaits(ask)
  const open = isMariadb ? mariadbOpen(ask) : mysqlOpen(ask)
  try {
    await waits([0])
  } catch (error) {
    await session.close()
    const account = about!.account.replace(/^(.*)@(.*)$/, `'$1'@'$2'`)
    const grants = isMariadb
      ? [`GRANT PROCESS ON *.* TO ${account}`]
      : lockTables.map((table) => `GRANT SELECT ON performance_schema.${table} TO ${account}`)
    const remedy = `Run as an administrator: ${grants.join('; ')}; or pass { admin } with a connection of an account that may.`
    throw new ProbeError(`${account} may not see the server's lock waits`, remedy, error)
  }
  return {
    connectionId: (connection) => (connection as { threadId: number }).threadId,
    waits,
    open,
    cancel: (id) => askOne(own, `KILL QUERY ${id}`),
    async kill(id) {
      // It leaves the list when it has been rolled back.
      const isThere = `SELECT id FROM information_schema.PROCESSLIST WHERE id = ${id}`
      while ((await askAll(own, isThere)).length > 0) await Promise.allSettled([askOne(own, `KILL ${id}`)])
    },
    isAnswer: ({ errno = 0, sqlState }) => sqlState !== undefined && errno >= 1000 && errno < 45_000,
    isBusy: () => false,
    prepare: () => undefined,
    hasQueue: false,
    computingMs: 200,
    deadlockMs: 3_000,
    // The server checks for a deadlock before a statement starts to wait.
    guessedDeadlockMs: 100,
    nothing: 'DO 1',
  }
}

function postgres(session: Session, own: readonly Session[]): Omit<Server, 'close'> {
  return {
    connectionId: (connection) => (connection as { processID: number }).processID,
    async waits(ids) {
      const list = ids.join(', ')
      return grouped(
        await session.query(
          `SELECT pid AS waiter, unnest(pg_blocking_pids(pid)) AS blocker FROM unnest(ARRAY[${list}]) AS pid`,
        ),
      )
    },
    async open(ids) {
      const rows = await askAll(
        own,
        `SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND pid IN (${ids.join(', ')})`,
      )
      return rows.map(({ pid }) => Number(pid))
    },
    cancel: (id) => askOne(own, `SELECT pg_cancel_backend(${id})`),
    async kill(id) {
      const end = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ${id} AND pg_has_role(usesysid, 'USAGE')`
      while ((await askAll(own, end)).length > 0);
    },
    isAnswer: ({ severity }) => severity !== undefined,
    isBusy: () => false,
    prepare: () => undefined,
    hasQueue: false,
    computingMs: 200,
    // The default of `deadlock_timeout` is 1 s.
    deadlockMs: 3_000,
    guessedDeadlockMs: 0,
    nothing: 'SELECT 1',
  }
}

const lockTables = ['data_lock_waits', 'data_locks', 'threads']

/**
 * `data_lock_waits` is live, and has no rows after the lock is granted; `sys.innodb_lock_waits` joins cached tables.
 * The thread of a row lock is unreliable: after a page is reorganised, it is the thread that reorganised the page. The
 * thread of the table lock, which every transaction with a row lock has, is reliable.
 */
function mysqlWaits(ask: Ask): Server['waits'] {
  const threadOf = (side: string): string =>
    `JOIN performance_schema.data_locks AS ${side}_lock
       ON ${side}_lock.ENGINE_TRANSACTION_ID = waits.${side}_ENGINE_TRANSACTION_ID AND ${side}_lock.LOCK_TYPE = 'TABLE'
     JOIN performance_schema.threads AS ${side} ON ${side}.THREAD_ID = ${side}_lock.THREAD_ID`
  return async (ids) =>
    grouped(
      await ask(
        `SELECT DISTINCT REQUESTING.PROCESSLIST_ID AS waiter, BLOCKING.PROCESSLIST_ID AS blocker
           FROM performance_schema.data_lock_waits AS waits ${threadOf('REQUESTING')} ${threadOf('BLOCKING')}
          WHERE REQUESTING.PROCESSLIST_ID IN (${ids.join(', ')})`,
      ),
    )
}

function mysqlOpen(ask: Ask): Server['open'] {
  return async (ids) => {
    const rows = await ask(
      `SELECT DISTINCT threads.PROCESSLIST_ID AS id FROM performance_schema.data_locks AS locks
         JOIN performance_schema.threads AS threads ON threads.THREAD_ID = locks.THREAD_ID
        WHERE locks.LOCK_TYPE = 'TABLE' AND threads.PROCESSLIST_ID IN (${ids.join(', ')})`,
    )
    return rows.map(({ id }) => Number(id))
  }
}

function mariadbOpen(ask: Ask): Server['open'] {
  return async (ids) => {
    const blocks = await mariadbTransactions(ask)
    return ids.filter((id) => blocks.some((block) => /\block struct/.test(block) && threadOf(block) === id))
  }
}

/** The transactions in the status. INNODB_LOCK_WAITS is a cache that is not refreshed while it is polled; the status text is live. */
async function mariadbTransactions(ask: Ask): Promise<string[]> {
  const [status] = await ask<{ Status: string }>('SHOW ENGINE INNODB STATUS')
  // The text before the first match describes the last deadlock, which may be old.
  return status!.Status.split(/^---TRANSACTION /m).slice(1)
}

function threadOf(transaction: string): number {
  return Number(/(?:MySQL|MariaDB) thread id (\d+)/.exec(transaction)?.[1])
}

function mariadbWaits(ask: Ask): Server['waits'] {
  return async (ids) =>
    (await mariadbTransactions(ask))
      .filter((block) => /^LOCK WAIT /m.test(block))
      .map((block) => ({ waiter: threadOf(block) }))
      .filter(({ waiter }) => ids.includes(waiter))
}

/** The waits by waiter. A connection may be configured to return large numbers as text. */
function grouped(rows: readonly { waiter: unknown; blocker: unknown }[]): Wait[] {
  const pairs = rows.map(({ waiter, blocker }) => [Number(waiter), Number(blocker)] as const)
  return [...new Set(pairs.map(([waiter]) => waiter))].map((waiter) => ({
    waiter,
    blockers: pairs.filter(([each]) => each === waiter).map(([, blocker]) => blocker),
  }))
}
