import { Module } from '@nestjs/common'
import { InjectConnection, SequelizeModule } from '@nestjs/sequelize'
import { Sequelize as PlainSequelize } from 'sequelize'
import { lossless, transactionNamespace } from 'sequelize-lossless'
import { Sequelize } from 'sequelize-typescript'
import { WorkflowModule } from './workflow.module.js'

// Once, before Nest connects: what a handler calls joins the transaction of TransactionInterceptor without { transaction }.
PlainSequelize.useCLS(transactionNamespace)

@Module({
  imports: [
    SequelizeModule.forRoot({
      uri: process.env['DATABASE_URL']!,
      autoLoadModels: true,
      synchronize: true,
      logging: false,
    }),
    WorkflowModule,
  ],
})
export class AppModule {
  constructor(@InjectConnection() sequelize: Sequelize) {
    // Attaches the methods to every model, those of feature modules too.
    lossless(sequelize, { wholeColumnWrites: 'throw' })
  }
}
