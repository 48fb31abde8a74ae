import { DataTypes, Model, QueryTypes } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes, ModelOptions, Sequelize } from 'sequelize'
import { lossless } from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'

export type Progress = Record<string, unknown>

/** The row that every test writes to, as a class model. */
export class WorkflowRun extends Model<InferAttributes<WorkflowRun>, InferCreationAttributes<WorkflowRun>> {
  declare id: CreationOptional<number>
  declare title: CreationOptional<string | null>
  declare progress: CreationOptional<Progress | null>
  declare updatedAt: CreationOptional<Date>
}

export interface WorkflowRun extends Lossless<WorkflowRun> {}

/** Defines the model on a connection, as a class of its own, and creates its empty table. */
export async function createRuns(
  sequelize: Sequelize,
  options: ModelOptions<WorkflowRun> = {},
): Promise<typeof WorkflowRun> {
  const Runs = defineRuns(sequelize, options)
  await Runs.sync({ force: true })
  return Runs
}

export function defineRuns(sequelize: Sequelize, options: ModelOptions<WorkflowRun> = {}): typeof WorkflowRun {
  const Runs = class extends WorkflowRun {}
  Runs.init(
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      title: DataTypes.STRING,
      progress: DataTypes.JSON,
      updatedAt: DataTypes.DATE,
    },
    { sequelize, modelName: 'WorkflowRun', tableName: 'workflow_runs', ...options },
  )
  return lossless(Runs)
}

/** The same with its documents as JSON in a TEXT column, behind a getter and a setter. */
export async function createTextRuns(sequelize: Sequelize): Promise<typeof WorkflowRun> {
  const Runs = class extends WorkflowRun {}
  Runs.init(
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      title: DataTypes.STRING,
      progress: {
        type: DataTypes.TEXT,
        get(): Progress | null {
          return JSON.parse((this.getDataValue('progress') ?? 'null') as string) as Progress | null
        },
        set(value: Progress | null) {
          this.setDataValue('progress', JSON.stringify(value) as never)
        },
      },
      updatedAt: DataTypes.DATE,
    },
    // The servers have other defaults.
    { sequelize, modelName: 'WorkflowRun', tableName: 'text_runs', charset: 'utf8mb4' },
  )
  await Runs.sync({ force: true })
  return lossless(Runs, { jsonColumns: ['progress'] })
}

/** Stores a document as the text given, past Sequelize, which turns null into NULL. */
export async function storeText(Runs: typeof WorkflowRun, id: number, text: string | null): Promise<void> {
  const sequelize = Runs.sequelize!
  await sequelize.query(`UPDATE ${Runs.tableName} SET progress = $1 WHERE id = $2`, { bind: [text, id] })
}

/** A stored document as text, which no driver has parsed. */
export async function storedText(Runs: typeof WorkflowRun, id: number): Promise<string | null> {
  const sequelize = Runs.sequelize!
  const [row] = await sequelize.query<{ document: string | null }>(
    `SELECT ${documentText(sequelize, 'progress')} AS document FROM ${Runs.tableName} WHERE id = $1`,
    { bind: [id], type: QueryTypes.SELECT },
  )
  return row!.document
}

/** The SQL for a JSON column's text; `column` is SQL already. */
export function documentText(sequelize: Sequelize, column: string): string {
  return `CAST(${column} AS ${sequelize.getDialect() === 'postgres' ? 'TEXT' : 'CHAR'})`
}
