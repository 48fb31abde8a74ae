import { setTimeout as delay } from 'node:timers/promises'
import { QueryTypes } from 'sequelize'
import type { Model, Sequelize, Transaction } from 'sequelize'
import type { DatabaseName } from '../databases/index.js'
import { until } from '../patience.js'

export type ServerName = Exclude<DatabaseName, 'sqlite'>

/** The SQL with which an operator looks at sessions and ends them; sessions are numbers. */
interface Console {
  readonly sessionAt: (port: number) => string
  readonly exists: (session: number) => string
  /** Sessions that wait for a lock of the session that asks. */
  readonly waiting: string
  /** Asked more often, the answer would never change. */
  readonly pollMilliseconds: number
  readonly kill: (session: number) => string
  readonly cancel: (session: number) => string
  /** For sessions opened from now on. */
  readonly lockTimeout: (seconds: number) => string
  /** Has deadlocks found at once, where the server takes its time. */
  readonly findDeadlocks?: string
}

const mysql: Console = {
  sessionAt: (port) => `SELECT id AS session FROM information_schema.processlist WHERE host LIKE '%:${port}'`,
  exists: (session) => `SELECT id AS session FROM information_schema.processlist WHERE id = ${session}`,
  waiting: 'SELECT waiting_pid AS session FROM sys.innodb_lock_waits WHERE blocking_pid = CONNECTION_ID()',
  // What it says of transactions is a copy, renewed only when no session has read it for 100 ms.
  pollMilliseconds: 120,
  kill: (session) => `KILL CONNECTION ${session}`,
  cancel: (session) => `KILL QUERY ${session}`,
  lockTimeout: (seconds) => `SET GLOBAL innodb_lock_wait_timeout = ${seconds}`,
}

const consoles: Readonly<Record<ServerName, Console>> = {
  mysql,
  mariadb: {
    ...mysql,
    waiting:
      'SELECT waiter.trx_mysql_thread_id AS session FROM information_schema.innodb_lock_waits ' +
      'JOIN information_schema.innodb_trx waiter ON waiter.trx_id = requesting_trx_id ' +
      'JOIN information_schema.innodb_trx holder ON holder.trx_id = blocking_trx_id ' +
      'WHERE holder.trx_mysql_thread_id = CONNECTION_ID()',
  },
  postgres: {
    sessionAt: (port) => `SELECT pid AS session FROM pg_stat_activity WHERE client_port = ${port}`,
    exists: (session) => `SELECT pid AS session FROM pg_stat_activity WHERE pid = ${session}`,
    waiting: `SELECT pid AS session FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))`,
    pollMilliseconds: 5,
    kill: (session) => `SELECT pg_terminate_backend(${session})`,
    cancel: (session) => `SELECT pg_cancel_backend(${session})`,
    lockTimeout: (seconds) => `ALTER ROLE CURRENT_USER SET lock_timeout = '${seconds}s'`,
    findDeadlocks: `ALTER ROLE CURRENT_USER SET deadlock_timeout = '10ms'`,
  },
}

/** A connection of its own to the server, which lists the sessions and ends them. */
export class Operator {
  readonly #sequelize: Sequelize
  readonly #console: Console

  constructor(name: ServerName, sequelize: Sequelize) {
    this.#sequelize = sequelize
    this.#console = consoles[name]
  }

  /** The session whose connection comes from this port. */
  async sessionAt(port: number): Promise<number> {
    return until(`a session comes from port ${port}`, async () => (await this.#ask(this.#console.sessionAt(port)))[0])
  }

  kill(session: number): Promise<void> {
    return this.#tell(this.#console.kill(session))
  }

  /** Interrupts the statement of a session. */
  cancel(session: number): Promise<void> {
    return this.#tell(this.#console.cancel(session))
  }

  async gone(session: number): Promise<void> {
    await until(`session ${session} is gone`, async () => {
      const found = await this.#ask(this.#console.exists(session))
      return found.length === 0 ? 'gone' : undefined
    })
  }

  /** For sessions that are opened from now on. */
  async findDeadlocks(): Promise<void> {
    if (this.#console.findDeadlocks !== undefined) await this.#tell(this.#console.findDeadlocks)
  }

  /** How long sessions that are opened from now on wait for a lock. */
  setLockTimeout(seconds: number): Promise<void> {
    return this.#tell(this.#console.lockTimeout(seconds))
  }

  /** Keeps a row locked while `act` runs, which may ask for a session that waits for it. */
  whileLocked(row: Model, act: (waiting: () => Promise<number>) => Promise<void>): Promise<void> {
    const { waiting, pollMilliseconds } = this.#console
    return this.#sequelize.transaction(async (transaction) => {
      await row.reload({ transaction, lock: true })
      const ask = async (): Promise<number | undefined> => {
        await delay(pollMilliseconds)
        return (await this.#ask(waiting, transaction))[0]
      }
      await act(() => until('a session waits for the lock', ask))
    })
  }

  async #ask(sql: string, transaction?: Transaction): Promise<number[]> {
    const options = { type: QueryTypes.SELECT as const, ...(transaction && { transaction }) }
    const rows = await this.#sequelize.query<{ session: number | string }>(sql, options)
    return rows.map(({ session }) => Number(session))
  }

  async #tell(sql: string): Promise<void> {
    await this.#sequelize.query(sql, { type: QueryTypes.RAW })
  }
}
