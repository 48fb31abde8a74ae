import type { Passing } from './gate.js'

/** A protection removed from the SQL. If no update is lost without it, it has no effect, or was not tested. */
export type Mutant = 'strip-lock' | 'strip-version' | 'strip-transaction'

/** Returns the SQL to send in place of a statement; `nothing` is a statement without effect. */
export type Mutate = (passing: Passing, nothing: string) => string

const lockingClause =
  /\s(FOR (NO KEY UPDATE|KEY SHARE|UPDATE|SHARE)|LOCK IN SHARE MODE)(\s+OF \S+)?(\s+(NOWAIT|SKIP LOCKED|WAIT \d+))?\s*;?$/i

/** The replacement of each mutant. */
export const mutants: Readonly<Record<Mutant, Mutate>> = {
  'strip-lock': ({ sql }) => (/^SELECT\b/i.test(sql) ? sql.replace(lockingClause, '') : sql),

  'strip-version'({ sql, table }) {
    const column = table?.version
    if (column === undefined || !/^UPDATE\b/i.test(sql)) return sql
    const where = sql.search(/\bWHERE\b/i)
    // Keep the placeholder, because its bind stays.
    const comparison = new RegExp(`[\`"]${column}[\`"] = (\\?|\\$\\d+|\\d+)`)
    return sql.slice(0, where) + sql.slice(where).replace(comparison, (text) => `(${text} OR 1 = 1)`)
  },

  'strip-transaction': ({ sql }, nothing) =>
    /^(START TRANSACTION|BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)\b/i.test(sql) ? nothing : sql,
}
