import { resolve } from 'node:path'
import { pathText } from '../operation.js'
import type { Dialect, Form } from './index.js'

/** @see https://www.sqlite.org/json1.html#jset */
const form: Form = {
  set: (operation, column, bind) => ({
    document:
      `json_set(CASE WHEN json_type(${column.sql}) = 'object' THEN ${column.sql} ELSE '{}' END, ` +
      `${bind(pathText(operation.key))}, json(${bind(operation.json)}))`,
    guard: `(${column.sql} IS NULL OR CASE WHEN json_valid(${column.sql}) THEN json_type(${column.sql}) END IN ('object', 'null'))`,
  }),
}

export const sqlite: Dialect = {
  name: 'SQLite',
  forms: [form],
  documentText: (column) => `CAST(${column.sql} AS TEXT)`,
  lockClause: '',
  // Waiting writers block the threads that the writer in front needs.
  writerQueue: ({ storage, host }) => {
    const path = storage ?? host ?? ':memory:'
    return path === ':memory:' || path === '' ? 'in memory' : resolve(path)
  },
  isolationLevels: ['SERIALIZABLE'],
  maxDepth: 1000,
  // A path ends at NUL: "a\0b" would write the key "a".
  refuseKey: (key) => (key.includes('\0') ? 'a key may not contain the NUL character' : undefined),
  refuseText: () => undefined,
  classify: () => undefined,
  conflictEndsTransaction: false,
  isRollback: () => false,
}
