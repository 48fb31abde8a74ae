import { QueryTypes } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'

/**
 * Forbids a database of SQLite to grow, for the connection of `transaction`.
 * @returns a text for which it has no room: it is longer than the pages that deleted rows have left free
 */
export async function fillDisk(sequelize: Sequelize, transaction: Transaction): Promise<string> {
  // At least as many pages as there are.
  await sequelize.query('PRAGMA max_page_count = 1', { transaction })
  const sql = 'SELECT (freelist_count + 1) * page_size AS bytes FROM pragma_freelist_count, pragma_page_size'
  const [free] = await sequelize.query<{ bytes: number }>(sql, { type: QueryTypes.SELECT, transaction })
  return 'x'.repeat(free!.bytes)
}
