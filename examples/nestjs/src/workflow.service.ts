import { Injectable, NotFoundException } from '@nestjs/common'
import { InjectModel } from '@nestjs/sequelize'
import { atomicUpdate, plus, RowNotFoundError, set } from 'sequelize-lossless'
import { WorkflowRun } from './workflow-run.model.js'
import type { Progress } from './workflow-run.model.js'

@Injectable()
export class WorkflowService {
  constructor(@InjectModel(WorkflowRun) private readonly runs: typeof WorkflowRun) {}

  async start(): Promise<number> {
    const { id } = await this.runs.create()
    return id
  }

  /** Records a step in one UPDATE. It needs no transaction of its own, and joins the one of the request if there is one. */
  async complete(id: number, step: string): Promise<void> {
    try {
      await atomicUpdate([this.runs, id], { progress: [set(step, 'done')], finished: plus(1) })
    } catch (error) {
      throw error instanceof RowNotFoundError ? new NotFoundException(`there is no run ${id}`) : error
    }
  }

  async progress(id: number): Promise<{ progress: Progress; finished: number }> {
    const run = await this.runs.findByPk(id)
    if (!run) throw new NotFoundException(`there is no run ${id}`)
    return { progress: run.progress, finished: run.finished }
  }
}
