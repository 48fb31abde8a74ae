import type { Model, ModelStatic } from 'sequelize'
import type { AuditReport } from './audit.js'

/** A write of a whole JSON column that could overwrite a concurrent change. */
export interface Finding {
  readonly model: string
  /** The attribute that holds the document. */
  readonly column: string
  /** The primary key in the first occurrence, if the statement names exactly one row. */
  readonly primaryKey: Readonly<Record<string, unknown>> | undefined
  readonly reason: Reason
  /** The statement of the first occurrence, shortened. */
  readonly sql: string
  readonly file: string | undefined
  readonly line: number | undefined
  /** The number of occurrences. */
  readonly times: number
  /** The recommended code. */
  readonly instead: string
}

/** The missing protection. */
export type Reason = keyof typeof reasons

const reasons = {
  'no lock': 'no lock, version or condition prevents another write between the read and this write',
  'lock outside of a transaction': 'the lock was requested outside a transaction, where it ends with its SELECT',
  'lock of another transaction':
    'the transaction that locked the row has ended, or this write did not pass it as { transaction }',
  'lock of another row': 'its transaction has locked other rows of the table, but not this row',
  'lock does not reach the row':
    'Sequelize puts a query with include and limit into a subquery, and FOR UPDATE outside it locks no row of the subquery',
  'more rows than locked': 'it writes more rows than its transaction has locked',
  'column not read under the lock': 'the row is locked, but the column was read earlier, not by the locking read',
  'old snapshot':
    'the row is locked, but the column was read again without a lock, from a snapshot that is older than the lock',
  'loaded before the lock': 'the row is locked, but the saved instance was loaded before the lock, or without it',
  'version not compared': 'the model has a version, but this statement does not compare it',
} as const

/** Creates the finding for a first occurrence. */
export function findingOf({
  model,
  ...seen
}: Pick<Finding, 'column' | 'primaryKey' | 'reason' | 'sql' | 'file' | 'line'> & {
  model: ModelStatic<Model>
}): Finding {
  const keys = model.primaryKeyAttributes.join(', ')
  const target = `[${model.name}, ${model.primaryKeyAttributes.length > 1 ? `{ ${keys} }` : keys}]`
  const { column, reason, sql } = seen
  const instead =
    reason === 'no lock'
      ? `await updateJson(${target}, ${JSON.stringify(column)}, [set(…)])`
      : reason === 'version not compared'
        ? `await withOptimisticLock(${target}, (row) => { row.${column} = … })`
        : `await withLock(${target}, async (row) => { row.${column} = …; await row.save() })`
  return { model: model.name, ...seen, sql: sql.length > 200 ? `${sql.slice(0, 199)}…` : sql, times: 0, instead }
}

function findingText({ model, column, primaryKey, reason, file, line, times, sql, instead }: Finding): string {
  const row = [model, ...Object.entries(primaryKey ?? {}).map(([name, value]) => `${name}=${String(value)}`)].join(' ')
  const place = file === undefined ? 'somewhere' : `${file}:${line!}`
  return [
    `${place} writes the whole "${column}" of ${row}${times > 1 ? `, ${times} times` : ''}: ${reasons[reason]}.`,
    `  ${sql}`,
    `  Write: ${instead}; or allow this write on purpose: { wholeColumnWrites: 'allow' }.`,
  ].join('\n')
}

/** The findings of an audit, or the reason why it is inconclusive. */
export function reportText({ findings, writes, meant, verdict }: Omit<AuditReport<unknown>, 'result'>): string {
  if (verdict === 'unknown') {
    const apart = meant > 0 ? `apart from ${meant} allowed ${meant === 1 ? 'write' : 'writes'}, ` : ''
    return `the audit is inconclusive: ${apart}no statement wrote to a JSON column of an existing row. Run tests that do so inside the audit, on its Sequelize instance.`
  }
  const total = findings.reduce((sum, { times }) => sum + times, 0)
  return `${total} of ${writes} writes to a JSON column could overwrite a concurrent change:\n\n${findings.map(findingText).join('\n\n')}\n`
}
