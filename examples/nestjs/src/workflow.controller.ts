import { Controller, Get, Param, ParseIntPipe, Post, UseInterceptors } from '@nestjs/common'
import { TransactionInterceptor } from './transaction.interceptor.js'
import { WorkflowService } from './workflow.service.js'

@Controller('runs')
export class WorkflowController {
  constructor(private readonly workflow: WorkflowService) {}

  @Post()
  async start(): Promise<{ id: number }> {
    return { id: await this.workflow.start() }
  }

  @Post(':id/steps/:step')
  async complete(@Param('id', ParseIntPipe) id: number, @Param('step') step: string): Promise<void> {
    await this.workflow.complete(id, step)
  }

  /** Two steps: both are recorded, or neither. */
  @Post(':id/steps/:first/and/:second')
  @UseInterceptors(TransactionInterceptor)
  async completeBoth(
    @Param('id', ParseIntPipe) id: number,
    @Param('first') first: string,
    @Param('second') second: string,
  ): Promise<void> {
    await this.workflow.complete(id, first)
    if (second === 'fail') throw new Error('the second step failed')
    await this.workflow.complete(id, second)
  }

  @Get(':id')
  progress(@Param('id', ParseIntPipe) id: number): Promise<object> {
    return this.workflow.progress(id)
  }
}
