import { DataTypes, Model, QueryTypes } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes, Options, Sequelize } from 'sequelize'
import { connect } from '../test/connect.js'
import { documentText } from '../test/workflow-run.js'

/** So many connections has each library, whatever the number of callers. */
export const connections = 16

/** So many rows has each table. */
export const rowCount = 256

/** A row with a JSON document, to which every variant adds a key. */
export class Run extends Model<InferAttributes<Run>, InferCreationAttributes<Run>> {
  declare id: CreationOptional<number>
  declare progress: Record<string, unknown>
  declare updatedAt: CreationOptional<Date>
}

/** The one that all variants write to, and the one with a `version` for those that need it. */
export type TableName = 'runs' | 'versioned_runs'

export function defineRun(sequelize: Sequelize, tableName: TableName): typeof Run {
  const Runs = class extends Run {}
  // Sequelize forgets a model when another one takes its name.
  const modelName = `Run${Object.keys(sequelize.models).length}`
  Runs.init(
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      progress: { type: sequelize.getDialect() === 'postgres' ? DataTypes.JSONB : DataTypes.JSON, allowNull: false },
      updatedAt: DataTypes.DATE,
    },
    { sequelize, modelName, tableName, createdAt: false, version: tableName === 'versioned_runs' },
  )
  return Runs
}

/** A Sequelize instance that opens its connections once and keeps them. */
export function openSequelize(url: string, options: Options = {}): Sequelize {
  const pool = { max: connections, idle: 3_600_000, acquire: 600_000 }
  return connect(url, { logging: false, pool, ...options })
}

/** The rows that are measured, as seen from outside. */
export class Tables {
  readonly #sequelize: Sequelize

  private constructor(sequelize: Sequelize) {
    this.#sequelize = sequelize
  }

  /** Makes the tables anew. */
  static async create(url: string): Promise<Tables> {
    const sequelize = openSequelize(url)
    for (const name of ['runs', 'versioned_runs'] as const) {
      const Runs = defineRun(sequelize, name)
      await Runs.sync({ force: true })
      await Runs.bulkCreate(Array.from({ length: rowCount }, () => ({ progress: {} })))
    }
    return new Tables(sequelize)
  }

  /** Has the first rows hold the same document. */
  async fill(table: TableName, rows: number, document: string): Promise<void> {
    await this.#sequelize.query(`UPDATE ${table} SET progress = $1 WHERE id <= $2`, { bind: [document, rows] })
  }

  /** The keys of the documents in the first rows. */
  async keys(table: TableName, rows: number): Promise<Set<string>> {
    const stored = await this.#sequelize.query<{ document: string }>(
      `SELECT ${documentText(this.#sequelize, 'progress')} AS document FROM ${table} WHERE id <= $1`,
      { bind: [rows], type: QueryTypes.SELECT },
    )
    return new Set(stored.flatMap(({ document }) => Object.keys(JSON.parse(document) as object)))
  }

  close(): Promise<void> {
    return this.#sequelize.close()
  }
}

/** A document of about so many bytes. */
export function documentOf(bytes: number): Record<string, string> {
  const length = Math.max(10, Math.min(1000, bytes / 10))
  const count = Math.floor(bytes / (length + '"key_000":"",'.length))
  return Object.fromEntries(Array.from({ length: count }, (_, index) => [`key_${index}`, 'x'.repeat(length)]))
}
