import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { atomicUpsert, increment, plus, set } from 'sequelize-lossless'
import { connect } from '../connect.js'

interface Readers {
  [reader: string]: string
}

class Reading extends Model<InferAttributes<Reading>, InferCreationAttributes<Reading>> {
  declare id: CreationOptional<number>
  declare book: string
  declare title: CreationOptional<string>
  declare pages: CreationOptional<number>
  declare readers: CreationOptional<Readers>
  declare counts: CreationOptional<{ [chapter: string]: number }>
}

async function main(): Promise<void> {
  const sequelize = connect()
  Reading.init(
    {
      id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true },
      book: { type: DataTypes.STRING, allowNull: false, unique: true },
      title: { type: DataTypes.STRING, allowNull: false, defaultValue: 'untitled' },
      pages: { type: DataTypes.INTEGER, allowNull: false, defaultValue: 0 },
      readers: { type: DataTypes.JSON, allowNull: false, defaultValue: {} },
      counts: { type: DataTypes.JSON, allowNull: false, defaultValue: {} },
    },
    { sequelize },
  )
  await Reading.sync({ force: true })
  const workers = Array.from({ length: 20 }, (_, worker) => worker)

  // Read or create, then change and save, by two workers at once: the usual code, which loses one of them.
  const read = (): Promise<[Reading, boolean]> => Reading.findOrCreate({ where: { book: 'usual' } })
  const [[one], [two]] = [await read(), await read()]
  await one.update({ readers: { ...one.readers, 'reader 1': 'here' } })
  await two.update({ readers: { ...two.readers, 'reader 2': 'here' } })
  const { readers } = await Reading.findOne({ where: { book: 'usual' }, rejectOnEmpty: true })
  console.log(`findOrCreate and update: ${Object.keys(readers).length} of 2 readers`)

  // 20 workers, each with one call, on a row that is not there yet.
  const answers = await Promise.all(
    workers.map((worker) =>
      atomicUpsert(
        [Reading, { where: { book: 'atomic' } }],
        { readers: [set(`reader ${worker}`, 'here')], counts: [increment('chapter 1')], pages: plus(3) },
        { create: { title: 'Atomic Habits of Databases' } },
      ),
    ),
  )
  const row = await Reading.findOne({ where: { book: 'atomic' }, rejectOnEmpty: true })
  console.log(`atomicUpsert: ${answers.filter((isNew) => isNew).length} of ${answers.length} calls created the row`)
  console.log(`readers: ${Object.keys(row.readers).length}, counts: ${JSON.stringify(row.counts)}, pages: ${row.pages}`)
  console.log(`title: ${row.title}`)
  await sequelize.close()
}

void main()
