import { UnsupportedDatabaseError } from '../errors/errors.js'
import type { Compared, Dialect } from './dialect.js'
import { mariadb } from './mariadb.js'
import { mysql } from './mysql.js'
import { postgres, postgresComparison } from './postgres.js'
import { roundsOnMysql, roundsOnPostgres } from './rounding.js'
import type { Rounds } from './rounding.js'
import { sqlite } from './sqlite.js'
import { atVersion } from './versions.js'

/** The driver of a Sequelize dialect, and how to detect the server behind it. */
export interface Connector {
  /** A SELECT of the server's `version` and, as `echo`, of the text bound to `$1`. */
  readonly probe: string
  /** The driver inlines bound text into the SQL, and escapes quotes and backslashes with a backslash. */
  readonly escapes?: true
  /** The server prepares each SQL text once and keeps it; the server limits the number of prepared statements. */
  readonly prepares?: true
  /** The maximum number of binds of one statement; absent if the driver inlines them. */
  readonly maxBinds?: number
  /** The driver reads U+FFFD in place of stored bytes that are no UTF-8, which the database does not refuse. */
  readonly replacesBytes?: true
  /** {@link Dialect.writerQueue}, before the dialect is detected. */
  readonly fileOf?: NonNullable<Dialect['writerQueue']>
  /** Matches an error after which nothing was written and a retry of the statement may succeed. */
  readonly busy?: RegExp
  /** SQL of a comparison with a value that the type of the column may be unable to represent; absent if it needs none. */
  readonly comparison?: (compared: Compared) => string
  /** Absent if each column keeps all digits that its type takes. */
  readonly rounds?: Rounds
  /** {@link Dialect.isAfterError}, of the probe itself. */
  readonly isAfterError?: NonNullable<Dialect['isAfterError']>
  /** Detects the dialect of the server from the result of the probe. */
  readonly recognise: (answer: Readonly<Record<string, unknown>>) => Dialect
}

/** @throws {UnsupportedDatabaseError} a setting of the connection changes texts on their way */
function refuseOtherCharset(setting: string, charset: unknown, expected: string, remedy: string): void {
  if (charset === expected) return
  throw new UnsupportedDatabaseError(
    `the connection's character set is ${String(charset)} (${setting}), which cannot represent every JSON text`,
    remedy,
  )
}

// Each of the two connectors can reach both servers, and the SQL depends on the server.
const mysqlOrMariadb: Connector = {
  rounds: roundsOnMysql,
  probe:
    'SELECT VERSION() AS version, @@character_set_client AS client, @@character_set_connection AS connection, ' +
    '@@character_set_results AS results, @@autocommit AS autocommit, @@sql_mode AS modes, ' +
    '@@max_allowed_packet AS packet, @@innodb_rollback_on_timeout AS timeoutEnds, ' +
    `CAST('2000-01-01 00:00:00' AS DATETIME) AS midnight, $1 AS echo`,
  recognise({ version, client, connection, results, autocommit, modes, packet, timeoutEnds, midnight, echo }) {
    if (typeof echo !== 'string') {
      throw new UnsupportedDatabaseError(
        'the driver returns the results of a query in another form: a text, which looks like JSON, did not arrive as text',
        'Remove typeCast and rowsAsArray from dialectOptions, or return such texts unchanged from the function typeCast.',
      )
    }
    // Without a character set for results, the server converts nothing.
    for (const [name, charset] of Object.entries({ client, connection, results: results ?? 'utf8mb4' })) {
      refuseOtherCharset(
        `character_set_${name}`,
        charset,
        'utf8mb4',
        `Connect with utf8mb4: new Sequelize({ …, dialectOptions: { charset: 'utf8mb4' } }), and remove SET statements for another one from hooks such as afterConnect.`,
      )
    }
    if (Number(autocommit) !== 1) {
      throw new UnsupportedDatabaseError(
        `the session has autocommit = 0, so a write outside a transaction would report success and be rolled back when the connection closes`,
        `Remove SET autocommit = 0 from hooks such as afterConnect, from init_connect and from the configuration of the server.`,
      )
    }
    if (String(modes).includes('EMPTY_STRING_IS_NULL')) {
      throw new UnsupportedDatabaseError(
        `sql_mode has EMPTY_STRING_IS_NULL, with which pull() of the last item would store null`,
        `Remove EMPTY_STRING_IS_NULL from sql_mode.`,
      )
    }
    if (echo !== probeText) {
      throw new UnsupportedDatabaseError(
        `the driver escapes bound text wrongly (sql_mode NO_BACKSLASH_ESCAPES, which mariadb before 3.5 ignores), so a value could be executed as SQL`,
        `Remove NO_BACKSLASH_ESCAPES from sql_mode, or use dialect: 'mysql' with mysql2, or npm install mariadb@^3.5.4.`,
      )
    }
    if (midnight instanceof Date && Number.isNaN(midnight.getTime())) {
      throw new UnsupportedDatabaseError(
        `the driver reads dates of a locked row as invalid Dates, as mysql2 3.9.0 to 3.14.1 do: the time midnight, and before 3.10.2 every time`,
        `Use another version: npm install mysql2@^3.14.2.`,
      )
    }
    const dialect = atVersion(/mariadb/i.test(String(version)) ? mariadb : mysql, version)
    return {
      ...dialect,
      clampsValues: !/\bSTRICT_(TRANS|ALL)_TABLES\b/.test(String(modes)),
      maxStatementBytes: Number(packet),
      endsTransaction: [...dialect.endsTransaction, ...(Number(timeoutEnds) === 1 ? (['lock timeout'] as const) : [])],
    }
  },
}

/** A text that a driver returns changed if it escapes bound text wrongly, or parses texts that look like JSON. */
export const probeText = '["\\\\"]'

const connectors: Readonly<Record<string, Connector>> = {
  mysql: { ...mysqlOrMariadb, prepares: true, maxBinds: 65_535 },
  mariadb: { ...mysqlOrMariadb, escapes: true },
  postgres: {
    maxBinds: 65_535,
    comparison: postgresComparison,
    rounds: roundsOnPostgres,
    isAfterError: postgres.isAfterError!,
    probe:
      `SELECT version() AS version, current_setting('client_encoding') AS charset, ` +
      `current_setting('extra_float_digits') AS "floatDigits", $1::text AS echo`,
    recognise({ charset, floatDigits }) {
      const remedy = 'Remove SET client_encoding from hooks such as afterConnect: the driver sends and reads UTF8.'
      refuseOtherCharset('client_encoding', charset, 'UTF8', remedy)
      if (Number(floatDigits) < 1) {
        throw new UnsupportedDatabaseError(
          `the session has extra_float_digits = ${String(floatDigits)}, with which increment() would round sums`,
          'Remove extra_float_digits from dialectOptions, from hooks such as afterConnect and from the configuration of the server.',
        )
      }
      return postgres
    },
  },
  sqlite: {
    maxBinds: 32_766,
    replacesBytes: true,
    busy: /SQLITE_BUSY/,
    probe: 'SELECT sqlite_version() AS version, $1 AS echo',
    fileOf: sqlite.writerQueue!,
    recognise: ({ version }) => atVersion(sqlite, version),
  },
}

/** The connector of a Sequelize dialect. */
export function connectorOf(name: string): Connector {
  const connector = Object.hasOwn(connectors, name) ? connectors[name] : undefined
  if (connector) return connector
  throw new UnsupportedDatabaseError(
    `the dialect "${name}" is not supported`,
    `Use one of: ${Object.keys(connectors).join(', ')}.`,
  )
}
