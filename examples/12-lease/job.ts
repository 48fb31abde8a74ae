import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { atLeast, ConditionNotMetError, increment, not, set, updateJson } from 'sequelize-lossless'
import { connect } from '../connect.js'

export class Job extends Model<InferAttributes<Job>, InferCreationAttributes<Job>> {
  declare id: CreationOptional<number>
  declare state: { lockedUntil?: string; fence?: number; phase?: 'finished' }
}

export const sequelize = connect()

Job.init(
  { id: { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true }, state: DataTypes.JSON },
  { sequelize },
)

const leaseMs = 1000

/** Takes the lease of a job; resolves to its fence, or to undefined while another process holds it. */
export async function acquire(id: number): Promise<number | undefined> {
  const now = new Date()
  const until = new Date(now.getTime() + leaseMs)
  try {
    const state = await updateJson(
      [Job, id],
      'state',
      [set('lockedUntil', until.toISOString()), increment('fence')],
      // Met if there is no lease, and if it has expired.
      { if: [not(atLeast('lockedUntil', now.toISOString()))], returning: true },
    )
    return state.fence
  } catch (error) {
    if (error instanceof ConditionNotMetError) return undefined
    throw error
  }
}
