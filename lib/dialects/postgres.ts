import type { Column, Dialect, Form } from './index.js'

const refuseNul = (text: string): string | undefined =>
  text.includes('\0') ? 'a text may not contain the NUL character' : undefined

/** A json column is read and written through jsonb. */
const jsonb = (column: Column): string => (column.type === 'JSONB' ? column.sql : `${column.sql}::jsonb`)

/** @see https://www.postgresql.org/docs/18/functions-json.html */
const form: Form = {
  set: (operation, column, bind) => {
    const stored = jsonb(column)
    const document =
      `CASE WHEN jsonb_typeof(${stored}) = 'object' THEN ${stored} ELSE '{}'::jsonb END ` +
      `|| jsonb_build_object(${bind(operation.key)}::text, ${bind(operation.json)}::jsonb)`
    return {
      document: column.type === 'JSONB' ? document : `(${document})::json`,
      guard: `COALESCE(jsonb_typeof(${stored}), 'null') IN ('object', 'null')`,
    }
  },
}

export const postgres: Dialect = {
  name: 'PostgreSQL',
  forms: [form],
  documentText: (column) => `${column.sql}::text`,
  // FOR UPDATE would also block the foreign-key checks of rows that refer to this one.
  lockClause: 'FOR NO KEY UPDATE',
  isolationLevels: ['READ UNCOMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'],
  // It holds more; JavaScript's own JSON gives up not far above.
  maxDepth: 5000,
  refuseKey: refuseNul,
  refuseText: refuseNul,
  classify: (error) => (error.code === '40P01' ? 'deadlock' : error.code === '40001' ? 'conflict' : undefined),
  conflictEndsTransaction: false,
  // The command tag: a failed statement before it dooms the transaction.
  isRollback: (result) => (result as [unknown, { command?: string }])[1].command === 'ROLLBACK',
}
