import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { addToSet, append, increment, lossless, remove, updateJson } from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
import { connect } from '../connect.js'

interface Stats {
  attempts?: number
  log?: string[]
  tags?: string[]
  draft?: boolean
}

class Job extends Model<InferAttributes<Job>, InferCreationAttributes<Job>> {
  declare id: CreationOptional<number>
  declare stats: CreationOptional<Stats | null>
}
interface Job extends Lossless<Job> {}

async function main(): Promise<void> {
  const sequelize = connect()
  Job.init(
    { id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true }, stats: DataTypes.JSON },
    { sequelize },
  )
  lossless(Job)
  await Job.sync({ force: true })
  const { id } = await Job.create()

  // 20 workers, each with one statement, on a column that is still NULL.
  await Promise.all(
    Array.from({ length: 20 }, (_, worker) =>
      updateJson([Job, id], 'stats', [
        increment('attempts'),
        append('log', `worker ${worker} was here`),
        addToSet('tags', worker % 2 === 0 ? 'even' : 'odd'),
      ]),
    ),
  )
  const job = await Job.findByPk(id, { rejectOnEmpty: true })
  console.log(
    `attempts: ${job.stats?.attempts}, log: ${job.stats?.log?.length} lines, tags: ${job.stats?.tags?.toSorted().join()}`,
  )

  await job.mergeJson('stats', { attempts: 0, tags: null, draft: true })
  await job.updateJson('stats', [remove('draft'), increment('attempts', 0.5)], { returning: true })
  console.log(
    `attempts: ${job.stats?.attempts}, keys: ${Object.keys(job.stats ?? {})
      .toSorted()
      .join()}`,
  )
  await sequelize.close()
}

void main()
