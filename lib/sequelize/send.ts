import { BaseError, ConnectionError, QueryTypes } from 'sequelize'
import type { Logging, Sequelize, Transaction } from 'sequelize'
import { connectorOf, probeText } from '../dialects/connector.js'
import type { Dialect, DriverError, Failure } from '../dialects/dialect.js'
import { sequelizeOf } from './internals.js'
import type { Row, RowModel } from './internals.js'
import type { Session } from './session.js'

/** How a statement is sent: in which transaction, and where its text is logged. */
export interface QueryContext {
  readonly transaction: Transaction | undefined
  readonly logging: Logging['logging'] | undefined
}

/** Sends a statement that answers with rows, to the server that takes writes. */
export async function sendForRows<R extends object>(
  sequelize: Sequelize,
  sql: string,
  binds: unknown[],
  context: QueryContext,
): Promise<R[]> {
  return sequelize.query<R>(sql, {
    bind: binds,
    ...queryOptions(sequelize, context),
    type: QueryTypes.SELECT,
    raw: true,
  })
}

/** Sends a SELECT of a whole row, and returns it as an instance, parsed as Sequelize's own finders parse it. */
export async function sendForInstance(
  model: RowModel,
  sql: string,
  binds: unknown[],
  context: QueryContext,
): Promise<Row | undefined> {
  const options = {
    bind: binds,
    ...queryOptions(sequelizeOf(model), context),
    type: QueryTypes.SELECT as const,
    model,
    // An object with a schema has a toString of its own.
    tableNames: [(model.getTableName() as { toString(): string }).toString()],
  }
  const [row] = await sequelizeOf(model).query<Row>(sql, options)
  return row
}

/** Sends a write, and returns the driver's answer. */
export async function sendForHeader(
  sequelize: Sequelize,
  sql: string,
  binds: unknown[],
  context: QueryContext,
): Promise<unknown> {
  const [header] = await sequelize.query(sql, {
    bind: binds,
    ...queryOptions(sequelize, context),
    type: QueryTypes.RAW,
  })
  return header
}

/**
 * Sequelize's option `retry`, which sends one statement again: never in a transaction, which the first error may have
 * ended; elsewhere only after an error that says that nothing was done.
 */
export function statementRetry(sequelize: Sequelize, inTransaction: boolean): { max: number; match?: RegExp[] } {
  const { busy } = connectorOf(sequelize.getDialect())
  return inTransaction || !busy ? { max: 1 } : { max: 20, match: [busy] }
}

function queryOptions(sequelize: Sequelize, { transaction, logging }: QueryContext) {
  return {
    // null, not undefined: the ambient transaction was considered before, and must not be picked up here.
    transaction: transaction ?? null,
    useMaster: true,
    retry: statementRetry(sequelize, transaction !== undefined),
    ...(logging === undefined ? {} : { logging }),
  }
}

/** The database behind a session. The first call asks the server, by a SELECT of its version. */
export async function recogniseDialect(session: Session, context: QueryContext): Promise<Dialect> {
  if (session.dialect) return session.dialect
  // In a transaction, never wait for another caller's question: it may wait for the connection that this transaction holds.
  if (context.transaction) return askServer(session, context)
  session.recognition ??= askServer(session, context).finally(() => (session.recognition = undefined))
  return session.recognition
}

async function askServer(session: Session, context: QueryContext): Promise<Dialect> {
  const { sequelize } = session
  const connector = connectorOf(sequelize.getDialect())
  const [answer] = await sendForRows<Record<string, unknown>>(sequelize, connector.probe, [probeText], context)
  return (session.dialect = connector.recognise(answer ?? {}))
}

/** Where an error carries the failure that it was classified as. */
const failureNote = Symbol('failure')

/** Classifies the error of a statement, where it was sent, and notes the result on the error. */
export function noteFailure(error: unknown, dialect: Dialect): Failure | undefined {
  // No connection could be opened, so nothing was sent.
  if (!(error instanceof Error) || error instanceof ConnectionError) return undefined
  const { parent } = error as { parent?: DriverError }
  const failure = parent && dialect.classify(parent)
  if (failure) Object.defineProperty(error, failureNote, { value: failure, configurable: true })
  return failure
}

/** The failure that was noted on an error, or on one of its causes. */
export function failureOf(error: unknown): Failure | undefined {
  for (let each = error; each instanceof Error; each = each.cause) {
    const { [failureNote]: failure } = each as { [failureNote]?: Failure }
    if (failure) return failure
  }
  return undefined
}

/**
 * Whether the database answered with an error, rather than that there was no connection, or a mistake before. PostgreSQL's
 * findOrCreate() catches the error on the server, and Sequelize makes one of its own of the answer.
 */
export function isRefusedByServer(error: unknown): boolean {
  return (
    error instanceof BaseError &&
    'parent' in error &&
    error.parent instanceof Error &&
    !(error instanceof ConnectionError)
  )
}
