import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes, ModelOptions, Sequelize } from 'sequelize'
import { lossless } from 'sequelize-lossless'
import type { Lossless, LosslessOptions } from 'sequelize-lossless'

/** A row with a number, a text and a document. */
export class Job extends Model<InferAttributes<Job>, InferCreationAttributes<Job>> {
  declare id: CreationOptional<number>
  declare n: CreationOptional<number>
  declare title: CreationOptional<string | null>
  declare progress: CreationOptional<Record<string, unknown>>
  declare updatedAt: CreationOptional<Date>
}

export interface Job extends Lossless<Job> {}

export interface JobsOptions extends ModelOptions<Job> {
  /** `false`: a model that `lossless()` was not called on. */
  readonly lossless?: LosslessOptions | false
}

/** Defines the model on a connection, as a class of its own, and creates its empty table. */
export async function createJobs(sequelize: Sequelize, options: JobsOptions = {}): Promise<typeof Job> {
  const Jobs = defineJobs(sequelize, options)
  await Jobs.sync({ force: true })
  return Jobs
}

export function defineJobs(sequelize: Sequelize, { lossless: guard, ...options }: JobsOptions = {}): typeof Job {
  const Jobs = class extends Job {}
  Jobs.init(
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      n: { type: DataTypes.INTEGER, allowNull: false, defaultValue: 0 },
      title: DataTypes.TEXT,
      progress: { type: DataTypes.JSON, allowNull: false, defaultValue: {} },
      updatedAt: DataTypes.DATE,
    },
    { sequelize, modelName: 'Job', tableName: 'jobs', ...options },
  )
  return guard === false ? Jobs : lossless(Jobs, guard)
}

/** What a row holds, as far as the tests say. */
export interface StoredJob {
  readonly n: number
  readonly title: string | null
  readonly progress: Record<string, unknown>
}

/** The rows of the table, in the order of their keys. */
export async function storedJobs(Jobs: typeof Job): Promise<StoredJob[]> {
  const rows = await Jobs.findAll({ order: ['id'], transaction: null })
  return rows.map(({ n, title, progress }) => ({ n, title, progress }))
}

/** Replaces the rows of the table by `count` new ones. */
export async function freshJobs(Jobs: typeof Job, count: number): Promise<Job[]> {
  await Jobs.destroy({ where: {}, force: true })
  const rows: Job[] = []
  while (rows.length < count) rows.push(await Jobs.create({ title: 'before' }))
  return rows
}

/** A row of {@link freshJobs} that no session has written since. */
export const untouched: StoredJob = { n: 0, title: 'before', progress: {} }
