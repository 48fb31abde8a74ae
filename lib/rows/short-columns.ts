import type { Dialect } from '../dialects/dialect.js'
import { refuseShortColumn } from '../dialects/limits.js'
import { fieldOf, tableOf } from '../sequelize/internals.js'
import type { RowModel } from '../sequelize/internals.js'
import { sendForRows } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import type { Session } from '../sequelize/session.js'
import { Statement } from '../sequelize/statement.js'

/** A call that can send statements. */
export interface Reader extends QueryContext {
  readonly session: Session
  readonly dialect: Dialect
}

/**
 * Refuses to write documents into columns of text that the server would fill with the start of a longer document. Reads the
 * catalog where `sql_mode` is not strict, once for each column that holds every document.
 * @throws {UnsupportedValueError} the column of a document is shorter than the longest document
 */
export async function refuseTruncation(call: Reader, model: RowModel, columns: readonly string[]): Promise<void> {
  const { session, dialect, method } = call
  const { longColumns } = session
  const select = new Statement({ session, model })
  const nameOf = (column: string): string => `${select.table()}.${select.column(column)}`
  if (!dialect.clampsValues || columns.every((column) => longColumns.has(nameOf(column)))) return
  const { sql, read } = dialect.listShortColumns!
  const text = sql({ ...tableOf(model), quoted: select.table() }, select.bind)
  const short = new Set((await sendForRows<Record<string, unknown>>(session, text, select.binds, call)).map(read))
  for (const column of columns) {
    if (short.has(fieldOf(model, column))) refuseShortColumn(method, column, dialect)
    longColumns.add(nameOf(column))
  }
}
