import { connectorOf } from './connector.js'
import type { Dialect } from './dialect.js'

/** What a setting of a server means for the data. `'loses'`: a write that was acknowledged can be lost or changed. */
export interface Finding {
  readonly level: 'good' | 'note' | 'loses'
  readonly topic: string
  /** The setting and its effect. */
  readonly fact: string
  /** What to do. */
  readonly remedy?: string
}

/** Settings of a session, by name. One that the server does not have is absent. */
export type Settings = Readonly<Record<string, string>>

/** How to examine the settings of a server. */
interface Checkup {
  /** The npm package of the driver. */
  readonly driver: string
  /** A SELECT, or a SHOW, whose rows have two columns: the name and the value of a setting. */
  readonly query: string
  readonly judge: (settings: Settings) => Finding[]
}

const good = (topic: string, fact: string): Finding => ({ level: 'good', topic, fact })
const note = (topic: string, fact: string, remedy: string): Finding => ({ level: 'note', topic, fact, remedy })
const loses = (topic: string, fact: string, remedy: string): Finding => ({ level: 'loses', topic, fact, remedy })

/** What this library can do on a server. */
export function supportOf({ refusesJson, lockWait, skipLocked }: Dialect): Finding[] {
  const feature = (topic: string, use: () => unknown): Finding => {
    try {
      use()
      return good(topic, 'supported')
    } catch (error) {
      return { level: 'note', topic, fact: (error as Error).message }
    }
  }
  return [
    refusesJson ? loses('JSON writes', ...refusesJson) : good('JSON writes', 'supported'),
    feature('timeoutMs and nowait', () => lockWait(1)),
    feature('withNext()', skipLocked),
  ]
}

const powerLoss = 'writes that were acknowledged are lost when the machine loses power'

function judgeIsolation(level: string): Finding {
  const fact = `transactions are ${level}`
  if (level === 'READ UNCOMMITTED') {
    const remedy = 'Use READ COMMITTED or REPEATABLE READ.'
    return note('isolation', `${fact}: a read sees changes that are rolled back later`, remedy)
  }
  if (level === 'SERIALIZABLE') {
    const remedy = 'Pass retry: {} to withLock(), and run other transactions by retryTransaction().'
    return note('isolation', `${fact}: more of them conflict, and are rolled back by the server`, remedy)
  }
  return good('isolation', fact)
}

const mysqlSettings = [
  ['transaction_isolation', 'tx_isolation', 'sql_mode', 'character_set_database', 'read_only', 'super_read_only'],
  ['innodb_flush_log_at_trx_commit', 'innodb_doublewrite', 'innodb_lock_wait_timeout', 'innodb_print_all_deadlocks'],
  ['log_bin', 'sync_binlog', 'binlog_format', 'binlog_row_image', 'binlog_row_value_options'],
].flat()

const mysqlOrMariadb: Omit<Checkup, 'driver'> = {
  query: `SHOW SESSION VARIABLES WHERE Variable_name IN (${mysqlSettings.map((name) => `'${name}'`).join(', ')})`,
  judge(settings) {
    const { sql_mode: modes = '', innodb_flush_log_at_trx_commit: flush, innodb_doublewrite: doublewrite } = settings
    const isStrict = /\bSTRICT_(TRANS|ALL)_TABLES\b/.test(modes)
    const isReadOnly = [settings['read_only'], settings['super_read_only']].some((value) => value === 'ON')
    const charset = settings['character_set_database'] ?? ''
    return [
      isStrict
        ? good('sql_mode', 'strict: a value that does not fit its column is an error')
        : loses(
            'sql_mode',
            'not strict: the server stores another value in place of one that does not fit its column',
            'Add STRICT_TRANS_TABLES to sql_mode on the server.',
          ),
      flush === '1' && doublewrite !== 'OFF'
        ? good('durability', 'innodb_flush_log_at_trx_commit = 1')
        : loses(
            'durability',
            `innodb_flush_log_at_trx_commit = ${flush}, innodb_doublewrite = ${doublewrite}: ${powerLoss}`,
            'Set innodb_flush_log_at_trx_commit = 1 and innodb_doublewrite = ON.',
          ),
      ...judgeBinaryLog(settings),
      judgeIsolation((settings['transaction_isolation'] ?? settings['tx_isolation'] ?? '').replaceAll('-', ' ')),
      charset === 'utf8mb4'
        ? good('character set', 'the database is utf8mb4')
        : note(
            'character set',
            `the database is ${charset}: a column that names no character set of its own cannot hold every text`,
            'Create tables with DEFAULT CHARSET utf8mb4.',
          ),
      note(
        'lock wait',
        `a statement waits up to innodb_lock_wait_timeout = ${settings['innodb_lock_wait_timeout']} s for a lock`,
        'Pass timeoutMs or nowait to withLock() where a user waits.',
      ),
      settings['innodb_print_all_deadlocks'] === 'ON'
        ? good('deadlocks', 'each one is in the error log')
        : note(
            'deadlocks',
            'only the last one can be read, in SHOW ENGINE INNODB STATUS',
            'SET GLOBAL innodb_print_all_deadlocks = ON.',
          ),
      ...(isReadOnly ? [note('server', 'read-only: every write is refused', 'Connect to the primary server.')] : []),
    ]
  },
}

function judgeBinaryLog(settings: Settings): Finding[] {
  const { binlog_format: format, sync_binlog: sync, binlog_row_image: image } = settings
  const partial = settings['binlog_row_value_options']
  if (settings['log_bin'] !== 'ON') {
    const remedy = 'Set log_bin, or take backups that are as recent as you need.'
    return [note('binary log', 'off: no replica, and no recovery to a point in time', remedy)]
  }
  return [
    sync === '1'
      ? good('binary log', 'sync_binlog = 1')
      : loses(
          'binary log',
          `sync_binlog = ${sync}: after the machine loses power, the log and so a replica lack writes that were acknowledged`,
          'Set sync_binlog = 1.',
        ),
    ...(format === 'ROW'
      ? []
      : [
          note(
            'binary log',
            `binlog_format = ${format}: a replica runs statements again, and READ COMMITTED refuses some`,
            'Set binlog_format = ROW.',
          ),
        ]),
    ...(partial === undefined || (image === 'MINIMAL' && partial === 'PARTIAL_JSON')
      ? []
      : [
          note(
            'binary log',
            'a change of one key writes the whole document to the log, twice',
            "Set binlog_row_image = 'MINIMAL' and binlog_row_value_options = 'PARTIAL_JSON'.",
          ),
        ]),
  ]
}

const postgresSettings = [
  ['fsync', 'full_page_writes', 'synchronous_commit', 'server_encoding', 'lock_timeout', 'log_lock_waits'],
  ['default_transaction_isolation', 'default_transaction_read_only', 'in_hot_standby'],
].flat()

const postgres: Checkup = {
  driver: 'pg',
  query: `SELECT name, setting FROM pg_settings WHERE name IN (${postgresSettings.map((name) => `'${name}'`).join(', ')})`,
  judge(settings) {
    const { fsync, full_page_writes: pages, synchronous_commit: commit } = settings
    const { lock_timeout: lockTimeout, server_encoding: encoding } = settings
    const isReadOnly = settings['default_transaction_read_only'] === 'on' || settings['in_hot_standby'] === 'on'
    return [
      fsync === 'on' && pages === 'on' && commit !== 'off'
        ? good('durability', `fsync = on, synchronous_commit = ${commit}`)
        : loses(
            'durability',
            `fsync = ${fsync}, full_page_writes = ${pages}, synchronous_commit = ${commit}: ${powerLoss}`,
            'Set all three on.',
          ),
      judgeIsolation((settings['default_transaction_isolation'] ?? '').toUpperCase()),
      encoding === 'UTF8'
        ? good('character set', 'the database is UTF8')
        : note(
            'character set',
            `the database is ${encoding}, which cannot hold every text`,
            'Create it with ENCODING UTF8.',
          ),
      lockTimeout === '0'
        ? note(
            'lock wait',
            'lock_timeout = 0: a statement waits for a lock for ever',
            'Pass timeoutMs to withLock(), or ALTER ROLE … SET lock_timeout = 5000.',
          )
        : good('lock wait', `lock_timeout = ${lockTimeout} ms`),
      settings['log_lock_waits'] === 'on'
        ? good('long waits', 'waits for locks longer than deadlock_timeout are in the log')
        : note('long waits', 'waits for locks are not in the log', 'Set log_lock_waits = on.'),
      ...(isReadOnly ? [note('server', 'read-only: every write is refused', 'Connect to the primary server.')] : []),
    ]
  },
}

const sqlite: Checkup = {
  driver: 'sqlite3',
  query:
    `SELECT 'journal_mode' AS name, journal_mode AS value FROM pragma_journal_mode ` +
    `UNION ALL SELECT 'synchronous', synchronous FROM pragma_synchronous ` +
    `UNION ALL SELECT 'busy_timeout', timeout FROM pragma_busy_timeout`,
  judge({ journal_mode: journal = '', synchronous = '', busy_timeout: busy }) {
    const isUnsafe = /^(off|memory)$/i.test(journal)
    return [
      isUnsafe || synchronous === '0'
        ? loses(
            'durability',
            `journal_mode = ${journal}, synchronous = ${synchronous}: a process that is killed, or a machine that loses power, can ` +
              `leave a database that cannot be read`,
            'PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL.',
          )
        : good('durability', `journal_mode = ${journal}, synchronous = ${synchronous}`),
      /^wal$/i.test(journal)
        ? good('readers', 'readers do not block a writer')
        : note('readers', `journal_mode = ${journal}: a reader blocks a writer`, 'PRAGMA journal_mode = WAL.'),
      note(
        'lock wait',
        `a statement of another process waits up to busy_timeout = ${busy} ms for the lock of the file`,
        'Keep transactions short: a database has one writer at a time.',
      ),
    ]
  },
}

const checkups: Readonly<Record<string, Checkup>> = {
  mysql: { driver: 'mysql2', ...mysqlOrMariadb },
  mariadb: { driver: 'mariadb', ...mysqlOrMariadb },
  postgres,
  sqlite,
}

/**
 * How to examine the settings of a server that a Sequelize dialect reaches.
 * @throws {UnsupportedDatabaseError} the dialect is not supported
 */
export function checkupOf(name: string): Checkup {
  connectorOf(name)
  return checkups[name]!
}
