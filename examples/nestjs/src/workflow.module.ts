import { Module } from '@nestjs/common'
import { SequelizeModule } from '@nestjs/sequelize'
import { TransactionInterceptor } from './transaction.interceptor.js'
import { WorkflowRun } from './workflow-run.model.js'
import { WorkflowController } from './workflow.controller.js'
import { WorkflowService } from './workflow.service.js'

@Module({
  imports: [SequelizeModule.forFeature([WorkflowRun])],
  controllers: [WorkflowController],
  providers: [WorkflowService, TransactionInterceptor],
})
export class WorkflowModule {}
