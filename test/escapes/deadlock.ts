import { mergeJsonKey } from 'sequelize-lossless'
import type { Transaction } from 'sequelize'
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
 * one that `transaction` holds, which then asks for the other one. PostgreSQL chooses the one that looks first, which
 * the settings of the two sessions have to see to. Not for SQLite, which has no two writers.
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
  const written = write()
  const failed = tables.Accounts.update({ title: 'victim' }, { where: { id: other.id }, transaction })
  return { written, failed }
}
