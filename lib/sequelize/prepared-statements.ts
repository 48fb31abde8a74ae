import type { Session } from './session.js'

/** The maximum number of prepared statements per connection. MySQL's default limit for all connections is 16,382. */
const maxPreparedStatements = 256

interface ConnectConfig {
  dialectOptions?: object
}

/**
 * Limits the prepared statements of each new connection: the driver closes the least recently used one. JSON writes
 * have an unlimited number of SQL texts. A limit in the application's own `dialectOptions` has precedence.
 * @see https://sidorares.github.io/node-mysql2/docs/documentation/prepared-statements
 */
export function limitPreparedStatements({ sequelize, connector }: Session): void {
  if (connector.prepares !== true) return
  sequelize.addHook('beforeConnect', (config) => {
    const own = config as ConnectConfig
    own.dialectOptions = { maxPreparedStatements, ...own.dialectOptions }
  })
}
