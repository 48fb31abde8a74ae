import { resolve } from 'node:path'
import { expect } from 'chai'
import type { Finding, Settings } from '../../dist/dialects/checkup.js'

/* eslint-disable @typescript-eslint/no-require-imports */
const { checkupOf, supportOf } = require(
  resolve('dist/dialects/checkup.js'),
) as typeof import('../../dist/dialects/checkup.js')
const { mysql } = require(resolve('dist/dialects/mysql.js')) as typeof import('../../dist/dialects/mysql.js')
const { atVersion } = require(resolve('dist/dialects/versions.js')) as typeof import('../../dist/dialects/versions.js')
/* eslint-enable @typescript-eslint/no-require-imports */

const goodSettings: Readonly<Record<string, Settings>> = {
  mysql: {
    transaction_isolation: 'REPEATABLE-READ',
    sql_mode: 'STRICT_TRANS_TABLES',
    character_set_database: 'utf8mb4',
    innodb_flush_log_at_trx_commit: '1',
    innodb_doublewrite: 'ON',
    innodb_lock_wait_timeout: '50',
    innodb_print_all_deadlocks: 'ON',
    log_bin: 'ON',
    sync_binlog: '1',
    binlog_format: 'ROW',
    binlog_row_image: 'MINIMAL',
    binlog_row_value_options: 'PARTIAL_JSON',
    read_only: 'OFF',
  },
  postgres: {
    fsync: 'on',
    full_page_writes: 'on',
    synchronous_commit: 'on',
    server_encoding: 'UTF8',
    lock_timeout: '5000',
    log_lock_waits: 'on',
    default_transaction_isolation: 'read committed',
    default_transaction_read_only: 'off',
    in_hot_standby: 'off',
  },
  sqlite: { journal_mode: 'wal', synchronous: '2', busy_timeout: '1000' },
}

/** What the checkup says about good settings with some that are not. */
function findings(name: string, changed: Settings): Finding[] {
  return checkupOf(name).judge({ ...goodSettings[name], ...changed })
}

function lines(name: string, changed: Settings): string[] {
  const usual = new Set(findings(name, {}).map(({ level, topic }) => `${level} ${topic}`))
  return findings(name, changed)
    .map(({ level, topic }) => `${level} ${topic}`)
    .filter((line) => !usual.has(line))
}

describe('the doctor', () => {
  for (const name of Object.keys(goodSettings)) {
    it(`reports no data loss for the safe settings of ${name}`, () => {
      expect(findings(name, {}).filter(({ level }) => level === 'loses')).to.deep.equal([])
    })
  }

  const cases: readonly (readonly [name: string, changed: Settings, line: string])[] = [
    ['mysql', { sql_mode: '' }, 'loses sql_mode'],
    ['mysql', { innodb_flush_log_at_trx_commit: '2' }, 'loses durability'],
    ['mysql', { innodb_doublewrite: 'OFF' }, 'loses durability'],
    ['mysql', { sync_binlog: '0' }, 'loses binary log'],
    ['mysql', { log_bin: 'OFF' }, 'note binary log'],
    ['mysql', { binlog_format: 'STATEMENT' }, 'note binary log'],
    ['mysql', { binlog_row_image: 'FULL' }, 'note binary log'],
    ['mysql', { transaction_isolation: 'READ-UNCOMMITTED' }, 'note isolation'],
    ['mysql', { transaction_isolation: 'SERIALIZABLE' }, 'note isolation'],
    ['mysql', { character_set_database: 'latin1' }, 'note character set'],
    ['mysql', { innodb_print_all_deadlocks: 'OFF' }, 'note deadlocks'],
    ['mysql', { super_read_only: 'ON' }, 'note server'],
    ['postgres', { fsync: 'off' }, 'loses durability'],
    ['postgres', { synchronous_commit: 'off' }, 'loses durability'],
    ['postgres', { default_transaction_isolation: 'serializable' }, 'note isolation'],
    ['postgres', { server_encoding: 'LATIN1' }, 'note character set'],
    ['postgres', { lock_timeout: '0' }, 'note lock wait'],
    ['postgres', { log_lock_waits: 'off' }, 'note long waits'],
    ['postgres', { in_hot_standby: 'on' }, 'note server'],
    ['sqlite', { journal_mode: 'off' }, 'loses durability'],
    ['sqlite', { synchronous: '0' }, 'loses durability'],
    ['sqlite', { journal_mode: 'delete' }, 'note readers'],
  ]
  for (const [name, changed, line] of cases) {
    it(`reports for ${name} with ${JSON.stringify(changed)}: ${line}, with a remedy`, () => {
      expect(lines(name, changed)).to.include(line)
      for (const { level, remedy } of findings(name, changed)) if (level !== 'good') expect(remedy).to.be.a('string')
    })
  }

  it('reports the features that an old server lacks', () => {
    const levels = (version: string): string[] => supportOf(atVersion(mysql, version)).map(({ level }) => level)
    expect(levels('9.7.0')).to.deep.equal(['good', 'good', 'good'])
    expect(levels('5.7.44')).to.deep.equal(['loses', 'note', 'note'])
  })
})
