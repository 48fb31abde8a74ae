import { ConflictError, RowNotFoundError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { columnsOf } from '../rows/row-conditions.js'
import { RowQuery } from '../rows/row-query.js'
import type { TargetRow } from '../rows/row-query.js'
import { identifyRow, RowRef } from '../rows/row-ref.js'
import { sendForInstances, sendForRows } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import { Statement } from '../sequelize/statement.js'
import type { Call } from './execute.js'
import { execute, factsOf, isConflict, toLibraryError } from './execute.js'
import { lockingRead } from './lock-wait.js'
import { retry, statementRetries } from './retry.js'

/** The maximum number of look-ups of one target, each lost to another writer. */
const maxRounds = 5

/**
 * Runs `fn` with the rows of targets. A row that is given by a `where` is looked up first; its statements match it only
 * while it meets the `where`, and once it does not, it is looked up again.
 * @throws {RowNotFoundError} no row meets the `where`
 * @throws {UsageError} several rows meet it
 * @throws {ConflictError} after each look-up another writer changed whether the row meets it
 */
export function withRows<R>(
  call: Call,
  targets: readonly TargetRow[],
  fn: (refs: readonly RowRef[], call: Call) => Promise<R>,
): Promise<R> {
  return targets.every((each) => each instanceof RowRef) ? fn(targets, call) : withFoundRows(call, targets, fn)
}

async function withFoundRows<R>(
  call: Call,
  targets: readonly TargetRow[],
  fn: (refs: readonly RowRef[], call: Call) => Promise<R>,
): Promise<R> {
  for (let round = 1; ; round++) {
    const refs: RowRef[] = []
    for (const each of targets) refs.push(each instanceof RowQuery ? await findRow(call, each) : each)
    const facts = factsOf(call, refs[0]!)
    try {
      return await fn(refs, { ...call, row: facts })
    } catch (error) {
      const { primaryKey } = error instanceof RowNotFoundError ? error : {}
      const isLost = targets.some((each, at) => each instanceof RowQuery && refs[at]!.primaryKey === primaryKey)
      if (!isLost) throw error
      if (round === maxRounds) {
        const reason = `other writers in each of ${maxRounds} attempts: after each look-up the row no longer met the where of the target`
        throw new ConflictError(
          call.method,
          facts,
          reason,
          ConflictError.remedy(call.method, call.transaction !== undefined),
        )
      }
    }
  }
}

/** Finds the one row that meets conditions; in a transaction by a locking read, which is never stale. */
async function findRow(call: Call, query: RowQuery): Promise<RowRef> {
  const { method, session } = call
  const { model, conditions, facts } = query
  const columns = [...new Set(conditions.flatMap(columnsOf))]
  const own = { ...call, row: facts }
  const read = <R>(statements: (context: QueryContext) => Promise<R>): Promise<R> =>
    call.transaction ? execute(own, { statements }, { opensTransaction: false }) : readOutside(own, statements)
  const search = (): Promise<RowRef[]> =>
    read((context) =>
      call.transaction
        ? lockingRead(own, query, context, (hint, clause) =>
            selectKeys(own, query, context, () => `LIMIT 2 ${clause}`, hint),
          )
        : selectKeys(own, query, context, () => 'LIMIT 2'),
    )
  let found = await search()
  // A locking read that waited has the snapshot from before its wait: on PostgreSQL it misses a row that meets the where since.
  if (found.length === 0 && call.transaction) found = await search()
  const [ref] = found
  if (!ref) throw RowNotFoundError.byWhere(method, facts, columns, query.canBeMet)
  if (found.length === 1) return ref
  const select = new Statement(query)
  const sql = `SELECT COUNT(*) AS ${select.alias('count')} FROM ${select.table()} WHERE ${query.sql(select)}`
  const [row] = await read((context) => sendForRows<{ count: unknown }>(session, sql, select.binds, context))
  throw usage.targetSeveral(method, model.name, columns, Math.max(Number(row!.count), found.length))
}

/** Reads outside of any transaction, again after a conflict. */
export async function readOutside<R>(call: Call, read: (context: QueryContext) => Promise<R>): Promise<R> {
  try {
    return await retry(call, () => read(call), isConflict, statementRetries)
  } catch (error) {
    throw toLibraryError(error, call)
  }
}

/** The rows that meet the conditions of a query, in the order and up to the number that `end` says. */
export async function selectKeys(
  { method }: Call,
  query: RowQuery,
  context: QueryContext,
  end: (statement: Statement) => string,
  hint = '',
): Promise<RowRef[]> {
  const { model, conditions } = query
  const select = new Statement(query)
  const sql = `SELECT ${hint}${select.keyColumns()} FROM ${select.table()} WHERE ${query.sql(select)} ${end(select)}`
  const rows = await sendForInstances(query, sql, select.binds, context)
  return rows.map((row) => {
    const { primaryKey } = identifyRow(method, row)
    return new RowRef(model, primaryKey, undefined, conditions)
  })
}
