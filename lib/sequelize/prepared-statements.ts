import type { Sequelize } from 'sequelize'
import { connectorOf } from '../dialects/connector.js'

/** Statements that a connection keeps prepared. A server keeps a limited number for all its clients; MySQL's default is 16,382. */
const maxPreparedStatements = 256

interface ConnectConfig {
  dialectOptions?: object
}

/**
 * Has each new connection keep only so many statements prepared, and close the one that was used least recently: the
 * shapes of JSON writes are without number. A limit in the application's own `dialectOptions` stays.
 * @see https://sidorares.github.io/node-mysql2/docs/documentation/prepared-statements
 */
export function limitPreparedStatements(sequelize: Sequelize): void {
  if (connectorOf(sequelize.getDialect()).prepares !== true) return
  sequelize.addHook('beforeConnect', (config) => {
    const own = config as ConnectConfig
    own.dialectOptions = { maxPreparedStatements, ...own.dialectOptions }
  })
}
