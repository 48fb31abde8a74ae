import { Injectable } from '@nestjs/common'
import type { CallHandler, ExecutionContext, NestInterceptor } from '@nestjs/common'
import { InjectConnection } from '@nestjs/sequelize'
import { from, lastValueFrom } from 'rxjs'
import type { Observable } from 'rxjs'
import { retryTransaction } from 'sequelize-lossless'
import { Sequelize } from 'sequelize-typescript'

/**
 * Runs a handler in one transaction, again after a deadlock or a conflict, which wrote nothing. So a handler that it is bound
 * to must do nothing that cannot be repeated, such as sending a mail.
 */
@Injectable()
export class TransactionInterceptor implements NestInterceptor {
  constructor(@InjectConnection() private readonly sequelize: Sequelize) {}

  intercept(_context: ExecutionContext, next: CallHandler): Observable<unknown> {
    // An Observable has not run yet when it is returned: the transaction would commit before the handler starts.
    const attempt = (): Promise<unknown> => lastValueFrom(next.handle(), { defaultValue: undefined })
    return from(retryTransaction(this.sequelize, attempt))
  }
}
