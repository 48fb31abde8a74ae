import { randomInt } from 'node:crypto'
import { DataTypes } from 'sequelize'
import type { Sequelize } from 'sequelize'
import { increment, mergeJsonKey, updateJson } from 'sequelize-lossless'
import { median } from './measure.js'
import { defineRun, openSequelize, Tables } from './table.js'

/** How fast many write to one way of storing it. */
export interface ShapeSpeed {
  readonly shape: string
  /** Writes in a second, for each of the numbers of callers: the median of the rounds. */
  readonly perSecond: readonly number[]
}

/** One way to store what many write at once. */
interface Shape {
  readonly name: string
  /** Empties it. */
  clear(): Promise<unknown>
  write(call: number): Promise<unknown>
  /** How many of the writes are there. */
  kept(): Promise<number>
}

const numbersOfSlots = [1, 16, 64] as const

/** Each shape with each number of callers in turn; the round before the first one is not counted. Fails if a write is lost. */
export async function measureShapes(
  url: string,
  { callers, calls, rounds }: { callers: readonly number[]; calls: number; rounds: number },
): Promise<ShapeSpeed[]> {
  const tables = await Tables.create(url)
  const sequelize = openSequelize(url)
  const shapes = [
    ...rowShapes(sequelize, tables, 'key'),
    await childTable(sequelize),
    ...rowShapes(sequelize, tables, 'count'),
    ...(await counterTables(sequelize)),
  ]
  const speeds = new Map(shapes.map(({ name }) => [name, [] as number[]]))
  for (const number of callers) {
    const turns = new Map(shapes.map(({ name }) => [name, [] as number[]]))
    for (let round = 0; round <= rounds; round++) {
      // The shape that comes first in one round comes last in the next.
      for (const shape of round % 2 === 0 ? shapes : shapes.toReversed()) {
        const perSecond = await turn(shape, number, calls)
        if (round > 0) turns.get(shape.name)!.push(perSecond)
      }
    }
    for (const [name, each] of turns) speeds.get(name)!.push(Math.round(median(each)))
  }
  await sequelize.close()
  await tables.close()
  return [...speeds].map(([shape, perSecond]) => ({ shape, perSecond }))
}

async function turn(shape: Shape, callers: number, calls: number): Promise<number> {
  await shape.clear()
  const caller = async (number: number): Promise<void> => {
    for (let call = number; call < calls; call += callers) await shape.write(call)
  }
  const start = process.hrtime.bigint()
  await Promise.all(Array.from({ length: callers }, (_, number) => caller(number)))
  const nanoseconds = Number(process.hrtime.bigint() - start)
  const kept = await shape.kept()
  if (kept !== calls) throw new Error(`${shape.name} has kept ${kept} of ${calls} writes of ${callers} callers`)
  return (calls * 1e9) / nanoseconds
}

/** All in the document of one row: keys of it, or one number. */
function rowShapes(sequelize: Sequelize, tables: Tables, task: 'key' | 'count'): Shape[] {
  const Runs = defineRun(sequelize, 'runs')
  const target = [Runs, 1] as const
  return [false, true].map((coalesce) => ({
    name: `${task}: one row${coalesce ? ', coalesce' : ''}`,
    clear: () => tables.fill('runs', 1, '{}'),
    write: (call) =>
      task === 'key'
        ? mergeJsonKey(target, 'progress', `step_${call}`, 'done', { coalesce })
        : updateJson(target, 'progress', [increment('views')], { coalesce }),
    async kept() {
      const { progress } = await Runs.findByPk(1, { rejectOnEmpty: true })
      return task === 'key' ? Object.keys(progress).length : Number(progress['views'])
    },
  }))
}

async function childTable(sequelize: Sequelize): Promise<Shape> {
  const Step = sequelize.define(
    'step',
    {
      runId: { type: DataTypes.INTEGER, primaryKey: true },
      name: { type: DataTypes.STRING(64), primaryKey: true },
      state: { type: DataTypes.STRING(16), allowNull: false },
    },
    { collate: 'utf8mb4_bin' },
  )
  await Step.sync({ force: true })
  return {
    name: 'key: child table',
    clear: () => Step.destroy({ truncate: true }),
    write: (call) => Step.upsert({ runId: 1, name: `step_${call}`, state: 'done' }),
    kept: () => Step.count(),
  }
}

async function counterTables(sequelize: Sequelize): Promise<Shape[]> {
  const CounterSlot = sequelize.define(
    'counter_slot',
    {
      name: { type: DataTypes.STRING(64), primaryKey: true },
      slot: { type: DataTypes.INTEGER, primaryKey: true },
      total: { type: DataTypes.BIGINT, allowNull: false, defaultValue: 0 },
    },
    { timestamps: false },
  )
  await CounterSlot.sync({ force: true })
  return numbersOfSlots.map((slots) => ({
    name: `count: counter table, ${slots === 1 ? '1 slot' : `${slots} slots`}`,
    async clear() {
      await CounterSlot.destroy({ truncate: true })
      await CounterSlot.bulkCreate(Array.from({ length: slots }, (_, slot) => ({ name: 'views', slot })))
    },
    write: () =>
      CounterSlot.update(
        { total: sequelize.literal('total + 1') },
        { where: { name: 'views', slot: randomInt(slots) } },
      ),
    kept: () => CounterSlot.sum('total'),
  }))
}
