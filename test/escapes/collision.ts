import { QueryTypes } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import type { Database } from '../each-database.js'
import { until } from '../patience.js'
import { fillDisk } from './full-disk.js'
import type { Job } from './jobs.js'

/**
 * Makes the server end a transaction. MySQL, MariaDB and PostgreSQL by a deadlock with another session, of which that
 * transaction is certain to be the victim; SQLite, which has one writer, by a full disk.
 *
 *     const collision = await Collision.begin(database, rival, Jobs, first.id, second.id)
 *     await withLock([Jobs, first.id], async (run, transaction) => {
 *       await collision.arm(transaction)
 *       await collision.strike(transaction) // rejects: the transaction is over, and `first` holds { theirs: 1 }
 *     })
 */
export class Collision {
  /** Resolves once the other session's write of the row that the transaction held is acknowledged. */
  readonly acknowledged: Promise<void>
  readonly #acknowledge: () => void
  readonly #database: Database
  readonly #Jobs: typeof Job
  readonly #rival: Sequelize
  readonly #held: number
  readonly #wanted: number
  #session: Transaction | undefined
  #isArmed = false
  #title = 'struck'

  private constructor(database: Database, Jobs: typeof Job, rival: Sequelize, held: number, wanted: number) {
    let acknowledge!: () => void
    this.acknowledged = new Promise((resolve) => (acknowledge = resolve))
    this.#acknowledge = acknowledge
    this.#database = database
    this.#Jobs = Jobs
    this.#rival = rival
    this.#held = held
    this.#wanted = wanted
  }

  /** Another session takes the row `wanted`. */
  static async begin(
    database: Database,
    rival: Sequelize,
    Jobs: typeof Job,
    held: number,
    wanted: number,
  ): Promise<Collision> {
    const collision = new Collision(database, Jobs, rival, held, wanted)
    if (database.name !== 'sqlite') await collision.#takeWanted()
    return collision
  }

  async #takeWanted(): Promise<void> {
    // The session that has written more survives a deadlock on MySQL and MariaDB.
    await this.#rival.query('CREATE TABLE IF NOT EXISTS weights (id INTEGER)')
    this.#session = await this.#rival.transaction()
    const rows = Array.from({ length: 40 }, (_, index) => `(${index})`).join()
    await this.#rival.query(`INSERT INTO weights VALUES ${rows}`, { transaction: this.#session })
    await this.#rival.query(`UPDATE jobs SET n = n WHERE id = ${this.#wanted}`, { transaction: this.#session })
  }

  /** From now on, {@link strike} ends `transaction`, which holds the row `held`; but on SQLite, any write of `wanted` does. */
  async arm(transaction: Transaction): Promise<void> {
    const sequelize = this.#Jobs.sequelize!
    if (!this.#session) {
      this.#title = await fillDisk(sequelize, transaction)
      return
    }
    // On PostgreSQL the victim is who looks for a deadlock first; the other session never does.
    if (this.#database.name === 'postgres') {
      await this.#rival.query(`SET LOCAL deadlock_timeout = '1h'`, { transaction: this.#session })
      await sequelize.query(`SET LOCAL deadlock_timeout = '1ms'`, { transaction })
    }
    const isWaiting = await this.#waitOf(this.#session)
    this.#isArmed = true
    void this.#writeHeld(this.#session)
    await until('the other session waits for the transaction', async () => (await isWaiting()) || undefined)
  }

  /** How to ask whether a session waits for a lock. */
  async #waitOf(session: Transaction): Promise<() => Promise<boolean>> {
    const select = async (sql: string, transaction?: Transaction): Promise<unknown> => {
      const options = { type: QueryTypes.SELECT as const, ...(transaction && { transaction }) }
      const [row] = await this.#rival.query<{ answer: unknown }>(sql, options)
      return row!.answer
    }
    if (this.#database.name === 'postgres') {
      const id = Number(await select('SELECT pg_backend_pid() AS answer', session))
      return async () => Number(await select(`SELECT cardinality(pg_blocking_pids(${id})) AS answer`)) > 0
    }
    const id = Number(await select('SELECT CONNECTION_ID() AS answer', session))
    if (this.#database.name === 'mysql') {
      const waits =
        'SELECT COUNT(*) AS answer FROM performance_schema.data_lock_waits JOIN performance_schema.threads ' +
        `ON THREAD_ID = REQUESTING_THREAD_ID WHERE PROCESSLIST_ID = ${id}`
      return async () => Number(await select(waits)) > 0
    }
    return async () => {
      // Unlike information_schema.INNODB_TRX, it is not a copy of 100 ms ago.
      const answer = await this.#rival.query('SHOW ENGINE INNODB STATUS', { type: QueryTypes.SELECT })
      const transactions = JSON.stringify(answer).split('---TRANSACTION')
      return transactions.some((text) => text.includes('LOCK WAIT') && text.includes(` thread id ${id},`))
    }
  }

  /** Sends the statement that the server answers by ending the transaction. */
  async strike(transaction: Transaction): Promise<unknown> {
    try {
      // Plain SQL is on its way at once, before the statements of models that are called after it.
      const sql = `UPDATE jobs SET title = $1 WHERE id = ${this.#wanted}`
      return await this.#Jobs.sequelize!.query(sql, { bind: [this.#title], transaction })
    } finally {
      if (!this.#session) void this.#writeHeld()
    }
  }

  async #writeHeld(session?: Transaction): Promise<void> {
    await writeTheirs(this.#database, this.#rival, this.#held, session)
    await session?.commit()
    this.#acknowledge()
  }

  /** Ends the other session, also after a test that has failed. */
  async end(): Promise<void> {
    if (this.#isArmed) await this.acknowledged
    else await this.#session?.rollback()
  }
}

/** Another session sets the key "theirs" of a row: by plain SQL, in the same process. */
export async function writeTheirs(
  database: Database,
  rival: Sequelize,
  id: number,
  transaction: Transaction | null = null,
): Promise<void> {
  const document =
    database.name === 'postgres'
      ? `jsonb_set(progress::jsonb, '{theirs}', '1')::json`
      : `JSON_SET(progress, '$.theirs', 1)`
  await rival.query(`UPDATE jobs SET progress = ${document} WHERE id = ${id}`, { transaction })
}
