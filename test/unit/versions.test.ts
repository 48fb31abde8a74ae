import { resolve } from 'node:path'
import { expect } from 'chai'
import { UnsupportedDatabaseError } from 'sequelize-lossless'

/* eslint-disable @typescript-eslint/no-require-imports */
const { connectorOf, probeText } = require(
  resolve('dist/dialects/connector.js'),
) as typeof import('../../dist/dialects/connector.js')
const { refuseUnsupported } = require(
  resolve('dist/dialects/limits.js'),
) as typeof import('../../dist/dialects/limits.js')
/* eslint-enable @typescript-eslint/no-require-imports */

const mysql = (version: string): object => ({
  version,
  client: 'utf8mb4',
  connection: 'utf8mb4',
  results: 'utf8mb4',
  autocommit: 1,
  modes: 'STRICT_TRANS_TABLES',
  packet: 67_108_864,
  timeoutEnds: 0,
  echo: probeText,
})
const sqlite = (version: string): object => ({ version, echo: probeText })

/** What a server answers to the probe, and what it then refuses: a JSON write, a limited wait for a lock, passing over locks. */
const table: readonly (readonly [
  connector: string,
  answer: object,
  server: string,
  refusesJson?: string,
  refusesWait?: string | undefined,
  refusesSkip?: string,
])[] = [
  ['sqlite', sqlite('3.8.0'), 'SQLite', '3.47'],
  ['sqlite', sqlite('3.44.2'), 'SQLite', '3.47'],
  ['sqlite', sqlite('3.45.0'), 'SQLite', '3.47'],
  ['sqlite', sqlite('3.46.1'), 'SQLite', '3.47'],
  ['sqlite', sqlite('3.47.0'), 'SQLite'],
  ['sqlite', sqlite('3.52.0'), 'SQLite'],
  ['sqlite', sqlite('4.0.0'), 'SQLite'],
  ['mysql', mysql('5.7.44-log'), 'MySQL', '8.0.17', '8.0.1', '8.0.1'],
  ['mysql', mysql('8.0.16'), 'MySQL', '8.0.17'],
  ['mysql', mysql('8.0.17'), 'MySQL'],
  ['mysql', mysql('8.0.39-0ubuntu0.22.04.1'), 'MySQL'],
  ['mysql', mysql('8.4.0'), 'MySQL'],
  ['mysql', mysql('9.7.4-2'), 'MySQL'],
  ['mysql', mysql('8.0.11-TiDB-v7.5.0'), 'MySQL', '8.0.17'],
  ['mysql', mysql('10.5.23-MariaDB-0+deb11u1'), 'MariaDB', '10.7', undefined, '10.6'],
  ['mariadb', mysql('10.2.44-MariaDB'), 'MariaDB', '10.7', '10.3', '10.6'],
  ['mariadb', mysql('10.6.18-MariaDB-log'), 'MariaDB', '10.7'],
  ['mariadb', mysql('5.5.5-10.6.18-MariaDB'), 'MariaDB', '10.7'],
  ['mariadb', mysql('5.5.5-10.11.6-MariaDB'), 'MariaDB'],
  ['mariadb', mysql('10.7.1-MariaDB'), 'MariaDB'],
  ['mariadb', mysql('11.8.9-MariaDB-log'), 'MariaDB'],
  ['postgres', { version: 'PostgreSQL 13.23 on x86_64-pc-linux-gnu', charset: 'UTF8' }, 'PostgreSQL'],
]

describe('a session of PostgreSQL', () => {
  it('that rounds doubles is refused', () => {
    const { recognise } = connectorOf('postgres')
    expect(() => recognise({ charset: 'UTF8', floatDigits: '0' })).to.throw(UnsupportedDatabaseError, 'extra_float')
    expect(recognise({ charset: 'UTF8', floatDigits: '1' }).name).to.equal('PostgreSQL')
  })
})

describe('a driver that parses texts', () => {
  it('is refused', () => {
    const { recognise } = connectorOf('mysql')
    const parsed: object = { ...mysql('8.4.0'), echo: JSON.parse(probeText) as unknown }
    expect(() => recognise(parsed as never)).to.throw(UnsupportedDatabaseError, 'did not arrive as text')
  })
})

describe('a server of an old version', () => {
  for (const [connector, answer, server, json, wait, skip] of table) {
    const { version } = answer as { version: string }
    const refused =
      [...(json ? ['JSON writes'] : []), ...(wait ? ['limited waits'] : []), ...(skip ? ['SKIP LOCKED'] : [])].join(
        ' and ',
      ) || 'nothing'
    it(`${server} refuses ${refused}: ${version}`, () => {
      const dialect = connectorOf(connector).recognise(answer as Record<string, unknown>)
      expect(dialect.name).to.equal(server)
      const write = (): void => refuseUnsupported('updateJson', 'progress', { operations: [], conditions: [] }, dialect)
      const number = /\d+(\.\d+)+/.exec(version.replace(/^5\.5\.5-/, ''))![0]
      const check = (act: () => unknown, least: string | undefined): void => {
        if (least === undefined) {
          expect(act).to.not.throw()
        } else {
          expect(act).to.throw(UnsupportedDatabaseError, `${server} ${number} cannot`)
          expect(act).to.throw(UnsupportedDatabaseError, `Use ${server} ${least} or newer`)
        }
      }
      check(write, json)
      check(() => dialect.lockWait(0), wait)
      check(() => dialect.skipLocked(), skip)
    })
  }

  it('is refused with a driver that reads dates of bound statements wrongly', () => {
    const { recognise } = connectorOf('mysql')
    expect(() => recognise({ ...mysql('9.7.4'), midnight: new Date('2000-01-01T00:00:00Z') })).to.not.throw()
    expect(() => recognise({ ...mysql('9.7.4'), midnight: '2000-01-01 00:00:00' })).to.not.throw()
    // The answers of mysql2 3.9.7 and 3.14.1.
    for (const read of ['Ð\x07\x01\x01 +00:00', '2000-01-01 +00:00']) {
      const garbled = (): unknown => recognise({ ...mysql('9.7.4'), midnight: new Date(read) })
      expect(garbled).to.throw(UnsupportedDatabaseError, 'npm install mysql2@^3.14.2')
    }
  })
})
