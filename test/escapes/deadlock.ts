import { mergeJsonKey } from 'sequelize-lossless'
import { QueryTypes } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import { until } from '../patience.js'
import type { Tables } from './tables.js'

/** What became of the two that met. */
interface Meeting {
  /** Resolves once the other session has committed a key of its own in the row; it may have to wait for the end of `transaction`. */
  readonly written: Promise<unknown>
  /** Rejects with the deadlock; resolves if there was none, since `transaction` did not hold the row. */
  readonly failed: Promise<unknown>
}

/**
 * A real deadlock, of which `transaction` is the victim: another session, too heavy to be it, holds a row and waits for the
 * one that `transaction` holds, which then asks for the other one. On PostgreSQL the victim is the session that looks for a
 * deadlock first: the settings of the two sessions have to see to that, and it looks only once, so the other one has to
 * wait by then. Not for SQLite, which has no two writers.
 */
export async function meetDeadlock(
  { tables, theirs }: { readonly tables: Tables; readonly theirs: Tables },
  id: number,
  transaction: Transaction,
  key: string,
): Promise<Meeting> {
  const sequelize = tables.Accounts.sequelize!
  await sequelize.query(`UPDATE escape_accounts SET title = 'held' WHERE id = ${id}`, { transaction })
  const other = await theirs.Accounts.create({})
  const survivor = await theirs.Accounts.sequelize!.transaction()
  await theirs.Weights.bulkCreate(
    Array.from({ length: 60 }, () => ({})),
    { transaction: survivor },
  )
  await theirs.Accounts.update({ title: 'survivor' }, { where: { id: other.id }, transaction: survivor })
  const write = async (): Promise<void> => {
    try {
      await mergeJsonKey([theirs.Accounts, id], 'progress', key, 1, { transaction: survivor })
    } catch (error) {
      await survivor.rollback()
      throw error
    }
    await survivor.commit()
  }
  const isWaiting = isPostgres(sequelize) ? await waitOf(survivor) : () => Promise.resolve(true)
  const written = write()
  let isWritten = false
  void written.then(
    () => (isWritten = true),
    () => (isWritten = true),
  )
  await until('the other session waits, or has written', async () => isWritten || (await isWaiting()) || undefined)
  const failed = tables.Accounts.update({ title: 'victim' }, { where: { id: other.id }, transaction })
  return { written, failed }
}

function isPostgres(sequelize: Sequelize): boolean {
  return sequelize.getDialect() === 'postgres'
}

/** How to ask whether a session waits for a lock. */
async function waitOf(session: Transaction): Promise<() => Promise<boolean>> {
  const sequelize = (session as unknown as { sequelize: Sequelize }).sequelize
  const select = async (sql: string, transaction: Transaction | null): Promise<number> => {
    const [row] = await sequelize.query<{ answer: number }>(sql, { type: QueryTypes.SELECT, transaction })
    return row!.answer
  }
  const id = await select('SELECT pg_backend_pid() AS answer', session)
  return async () => (await select(`SELECT cardinality(pg_blocking_pids(${id})) AS answer`, null)) > 0
}
