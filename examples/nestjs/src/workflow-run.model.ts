import type { Lossless } from 'sequelize-lossless'
import { AllowNull, AutoIncrement, Column, DataType, Default, Model, PrimaryKey, Table } from 'sequelize-typescript'

export interface Progress {
  [step: string]: 'done'
}

@Table({ tableName: 'lossless_nestjs' })
export class WorkflowRun extends Model {
  @PrimaryKey
  @AutoIncrement
  @Column(DataType.INTEGER)
  declare id: number

  @AllowNull(false)
  @Default({})
  @Column(DataType.JSON)
  declare progress: Progress

  @AllowNull(false)
  @Default(0)
  @Column(DataType.INTEGER)
  declare finished: number
}
export interface WorkflowRun extends Lossless<WorkflowRun> {}
