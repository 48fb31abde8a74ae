import { BaseError, ConnectionError, QueryTypes } from 'sequelize'
import type { Logging, QueryOptionsWithType, Transaction } from 'sequelize'
import { probeText } from '../dialects/connector.js'
import type { Dialect, DriverError, Failure } from '../dialects/dialect.js'
import { RolledBackError } from '../errors/errors.js'
import { traceStatement } from './channels.js'
import type { CallFacts } from './channels.js'
import type { Row, RowModel } from './internals.js'
import { checkedBy } from './options.js'
import type { Session } from './session.js'

/** The call that sends a statement, its transaction and its logger. */
export interface QueryContext extends CallFacts {
  readonly transaction: Transaction | undefined
  readonly logging: Logging['logging'] | undefined
  /** A statement is not sent again while a lock is held: the call limits its wait. */
  readonly isSentOnce?: boolean
}

/**
 * Sends a statement to the primary server and returns its rows.
 * @param model if given, the error for a duplicate names its attributes
 */
export function sendForRows<R extends object>(
  session: Session,
  sql: string,
  binds: unknown[],
  context: QueryContext,
  model?: RowModel,
): Promise<R[]> {
  const options = {
    ...queryOptions(session, binds, context, QueryTypes.SELECT),
    raw: true,
    ...(model && { model }),
  } as QueryOptionsWithType<QueryTypes.SELECT>
  return sendTraced(session, sql, context, () => session.sequelize.query<R>(sql, options), countRows)
}

/** Sends a SELECT of whole rows and returns instances, parsed as by Sequelize's own finders. */
export function sendForInstances(
  { session, model }: { readonly session: Session; readonly model: RowModel },
  sql: string,
  binds: unknown[],
  context: QueryContext,
): Promise<Row[]> {
  const options = {
    ...queryOptions(session, binds, context, QueryTypes.SELECT as const),
    // Overrides a default of the application: new Sequelize({ query: { raw: true } }).
    raw: false,
    model,
    // The name of a table with a schema is an object with its own toString.
    tableNames: [(model.getTableName() as { toString(): string }).toString()],
  }
  return sendTraced(session, sql, context, () => session.sequelize.query<Row>(sql, options), countRows)
}

/**
 * Sends a write and returns the driver's result header, as the first item; of an INSERT, its number and the affected rows.
 * @param model if given, the error for a duplicate names its attributes
 */
export function sendForHeader(
  session: Session,
  sql: string,
  binds: unknown[],
  context: QueryContext,
  model?: RowModel,
): Promise<[header: unknown, rest: unknown]> {
  const options = queryOptions(session, binds, context, QueryTypes.RAW)
  if (model) Object.assign(options, { model })
  return sendTraced(session, sql, context, () => session.sequelize.query(sql, options), countWrittenRows)
}

/**
 * Sends a statement, and publishes it.
 * @param rowsOf the number of rows in its result
 */
export function sendTraced<R>(
  { sequelize }: Session,
  sql: string,
  context: QueryContext,
  query: () => Promise<R>,
  rowsOf: (result: R) => number | undefined,
): Promise<R> {
  const isInTransaction = context.transaction !== undefined
  return traceStatement(context, () => ({ dialect: sequelize.getDialect(), sql, isInTransaction }), query, rowsOf)
}

function countRows({ length }: readonly unknown[]): number {
  return length
}

/** The affected rows in the result of {@link sendForHeader}. */
function countWrittenRows([header, rest]: [header: unknown, rest: unknown]): number | undefined {
  return typeof rest === 'number' ? rest : (header as { affectedRows?: number } | undefined)?.affectedRows
}

/**
 * The value of Sequelize's option `retry`, which resends one statement: only on SQLite, whose driver has few threads. Statements
 * that wait for a lock can keep them from the COMMIT that they wait for. The error guarantees that nothing was written, and ends no
 * transaction.
 */
export function statementRetry(
  { connector: { busy } }: Session,
  { transaction, isSentOnce = false }: Partial<QueryContext> = {},
): { max: number; match?: RegExp[] } {
  return isSentOnce || !busy ? { max: 1 } : { max: transaction ? 5 : 20, match: [busy] }
}

function queryOptions<T extends QueryTypes>(
  session: Session,
  bind: unknown[],
  context: QueryContext,
  type: T,
): QueryOptionsWithType<T> {
  const { transaction, logging } = context
  const options = {
    bind,
    type,
    // null, not undefined: the call has already decided whether to join the ambient transaction.
    transaction: transaction ?? null,
    useMaster: true,
    [checkedBy]: 'library',
    retry: statementRetry(session, context),
  }
  return logging === undefined ? options : { ...options, logging }
}

/** Detects the database of a session by the version of its server. */
export async function recogniseDialect(session: Session, context: QueryContext): Promise<Dialect> {
  // In a transaction, do not wait for another caller's probe: it may wait for the connection of this transaction.
  if (context.transaction) return askServer(session, context)
  session.recognition ??= askServer(session, context).finally(() => (session.recognition = undefined))
  return session.recognition
}

async function askServer(session: Session, context: QueryContext): Promise<Dialect> {
  const { connector } = session
  const [answer] = await sendForRows<Record<string, unknown>>(session, connector.probe, [probeText], context).catch(
    (error: unknown) => {
      const isAfterError = connector.isAfterError?.((error as { parent?: DriverError }).parent) === true
      throw isAfterError ? new RolledBackError(context.method, 'refused', { cause: error }) : error
    },
  )
  return (session.dialect = connector.recognise(answer ?? {}))
}

/** The property of an error that holds its {@link Failure}. */
const failureNote = Symbol('failure')

/** Classifies the error of a statement, and stores the result on the error. */
export function noteFailure(error: unknown, dialect: Dialect, statement?: 'COMMIT'): Failure | undefined {
  // No connection could be opened, so nothing was sent.
  if (!(error instanceof Error) || error instanceof ConnectionError) return undefined
  const { parent } = error as { parent?: DriverError }
  const failure = parent && dialect.classify(parent, statement)
  if (failure) Object.defineProperty(error, failureNote, { value: failure, configurable: true })
  return failure
}

/** The failure that was stored on an error, or on one of its causes. */
export function failureOf(error: unknown): Failure | undefined {
  const seen = new Set<unknown>()
  // The causes of an error of the application may be a cycle.
  for (let each = error; each instanceof Error && !seen.has(each); each = each.cause) {
    seen.add(each)
    const { [failureNote]: failure } = each as { [failureNote]?: Failure }
    if (failure) return failure
  }
  return undefined
}

/**
 * Whether the database returned the error; false for a failed connection, or an error before the statement was sent.
 * Also false for findOrCreate() on PostgreSQL: the server catches the error, and Sequelize creates its own from the
 * result.
 */
export function isRefusedByServer(error: unknown): boolean {
  return (
    error instanceof BaseError &&
    'parent' in error &&
    error.parent instanceof Error &&
    !(error instanceof ConnectionError)
  )
}
