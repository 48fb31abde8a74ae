import { pathText } from '../operation.js'
import type { Dialect, Form } from './index.js'
import { matched, mysql, refuseLongKey } from './mysql.js'

/**
 * There is no CAST AS JSON, and a bad path, value or depth makes the whole column NULL when sql_mode is not strict:
 * so the value, and the new document, are proved in the guard.
 * @see https://mariadb.com/kb/en/json_set/
 */
const form: Form = {
  set: (operation, column, bind) => {
    const document =
      `JSON_SET(IF(JSON_TYPE(${column.sql}) = 'OBJECT', ${column.sql}, JSON_OBJECT()), ` +
      `${bind(pathText(operation.key))}, JSON_EXTRACT(${bind(operation.json)}, '$'))`
    return {
      document,
      guard:
        `(${column.sql} IS NULL OR CASE WHEN JSON_VALID(${column.sql}) THEN JSON_TYPE(${column.sql}) END IN ('OBJECT', 'NULL')) ` +
        `AND JSON_EXTRACT(${bind(operation.json)}, '$') IS NOT NULL AND ${document} IS NOT NULL`,
    }
  },
}

export const mariadb: Dialect = {
  name: 'MariaDB',
  forms: [form],
  // The connector parses a JSON column on its own, and would round its numbers.
  documentText: (column) => `CAST(${column.sql} AS CHAR)`,
  matched,
  lockClause: 'FOR UPDATE',
  isolationLevels: mysql.isolationLevels,
  maxDepth: 31,
  // "$.\"-1\"" is read as an array index counted from the end (error 4042).
  refuseKey: (key) => (key.startsWith('-') ? 'a key may not start with "-"' : refuseLongKey(key)),
  refuseText: () => undefined,
  // 1020: innodb_snapshot_isolation, the default since MariaDB 11.6.2.
  classify: (error) => (error.errno === 1213 ? 'deadlock' : error.errno === 1020 ? 'conflict' : undefined),
  conflictEndsTransaction: true,
  isRollback: () => false,
}
