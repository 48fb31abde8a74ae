import type { Model, ModelStatic, QueryTypes, Sequelize } from 'sequelize'
import { nameOf, tableOf } from './statement.js'

/** The object that Sequelize 6 creates for every statement, including BEGIN and COMMIT. */
interface Query {
  readonly connection: object
  readonly options: QueryOptions
  run(sql: string, parameters?: unknown): Promise<unknown>
}

/** The options of the call that sends a statement. */
interface QueryOptions {
  readonly transaction?: object | null
  readonly type?: string
  readonly instance?: unknown
  readonly wholeColumnWrites?: unknown
}

type QueryClass = new (...words: unknown[]) => Query

/** A statement that has reached the gate. */
export interface Passing {
  readonly sql: string
  readonly parameters: unknown
  readonly connection: object
  readonly inTransaction: boolean
  readonly options: QueryOptions
  /** The model of its table. */
  readonly model: ModelStatic<Model> | undefined
  /** Sends the statement, or `sql` in its place. */
  readonly send: (sql?: string) => Promise<unknown>
}

/** The type of a query that returns rows. The package loads nothing of Sequelize, of which there may be several copies. */
export const select: QueryTypes.SELECT = 'SELECT' as never

/** Whether a value is an instance of Sequelize 6, of any copy of it. */
export function isSequelize(value: unknown): value is Sequelize {
  const { query, getDialect, dialect } = (value ?? {}) as {
    query: unknown
    getDialect: unknown
    dialect?: { Query?: unknown }
  }
  return [query, getDialect, dialect?.Query].every((each) => typeof each === 'function')
}

/**
 * Passes every statement of a Sequelize instance to `keep`, which sends it. Returns a function that removes the gate.
 *
 * Sequelize's hooks are not sufficient: `beforeQuery` has no SQL text, and `afterQuery` sees neither result nor error.
 * Only the class of this instance is replaced; other instances are unchanged.
 */
export function installGate(sequelize: Sequelize, keep: (passing: Passing) => Promise<unknown>): () => void {
  const { dialect } = sequelize as unknown as { dialect: { Query: QueryClass } }
  const Original = dialect.Query
  dialect.Query = class extends Original {
    override run(sql: string, parameters?: unknown): Promise<unknown> {
      return keep({
        sql,
        parameters,
        connection: this.connection,
        inTransaction: Boolean(this.options.transaction),
        options: this.options,
        model: modelOf(sequelize, nameOf(tableOf(sql) ?? '')),
        send: (text = sql) => super.run(text, parameters),
      })
    }
  }
  return () => void (dialect.Query = Original)
}

/** The model that is stored in a table of this name. */
export function modelOf(sequelize: Sequelize, table: string): ModelStatic<Model> | undefined {
  return Object.values(sequelize.models).find((model) => {
    const name = model.getTableName() as string | { tableName: string }
    return (typeof name === 'string' ? name : name.tableName) === table
  })
}
