import type { Dialect } from './dialect.js'

/**
 * An INSERT that returns a row if it adds one, and adds none if a row has its key, or one of its unique keys. Otherwise, a
 * duplicate of another unique key is an error, as in any INSERT.
 * @see https://www.postgresql.org/docs/18/sql-insert.html#SQL-ON-CONFLICT
 */
export function insertOnConflict(insertInto: string): Dialect['insertIfAbsent']['sql'] {
  return ({ table, columns, values, key, ofEveryKey }) =>
    `${insertInto} ${table} (${columns.join(', ')}) VALUES (${values.join(', ')}) ` +
    `ON CONFLICT ${ofEveryKey ? '' : `(${key.join(', ')}) `}DO NOTHING RETURNING 1`
}
