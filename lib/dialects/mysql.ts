import { pathText } from '../operation.js'
import type { Dialect, Form } from './index.js'

/**
 * For a document that is an object. The column itself is the first argument, which keeps MySQL's partial update.
 * @see https://dev.mysql.com/doc/refman/9.7/en/json.html#json-partial-updates
 */
const partial: Form = {
  set: (operation, column, bind) => ({
    document: `JSON_SET(${column.sql}, ${bind(pathText(operation.key))}, CAST(${bind(operation.json)} AS JSON))`,
    guard: `JSON_TYPE(${column.sql}) = 'OBJECT'`,
  }),
}

/** For NULL and JSON null, where JSON_SET alone would answer NULL, or change nothing, and report success. */
const initialising: Form = {
  set: (operation, column, bind) => ({
    document: `JSON_SET(JSON_OBJECT(), ${bind(pathText(operation.key))}, CAST(${bind(operation.json)} AS JSON))`,
    guard: `COALESCE(JSON_TYPE(${column.sql}), 'NULL') = 'NULL'`,
  }),
}

/** Whether an UPDATE matched its row: `affectedRows` counts changed rows only, the header's text tells both. */
export function matched(header: unknown): boolean | undefined {
  const { affectedRows, info } = header as { affectedRows: number; info?: string }
  const count = /Rows matched: (\d+)/.exec(info ?? '')?.[1]
  if (count !== undefined) return count !== '0'
  return affectedRows > 0 ? true : undefined
}

const maxKeyBytes = 65_535

export function refuseLongKey(key: string): string | undefined {
  return Buffer.byteLength(key) > maxKeyBytes ? `a key may have ${maxKeyBytes} bytes at most` : undefined
}

export const mysql: Dialect = {
  name: 'MySQL',
  forms: [partial, initialising],
  documentText: (column) => `CAST(${column.sql} AS CHAR)`,
  matched,
  lockClause: 'FOR UPDATE',
  isolationLevels: ['READ UNCOMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'],
  maxDepth: 100,
  refuseKey: refuseLongKey,
  refuseText: () => undefined,
  classify: (error) => (error.errno === 1213 ? 'deadlock' : undefined),
  conflictEndsTransaction: true,
  isRollback: () => false,
}
