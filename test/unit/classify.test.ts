import { resolve } from 'node:path'
import { expect } from 'chai'

// Proxies and shutdowns cannot be had on demand; what servers and drivers really answered is in the fault suite.
/* eslint-disable @typescript-eslint/no-require-imports */
const { mysql } = require(resolve('dist/dialects/mysql.js')) as typeof import('../../dist/dialects/mysql.js')
const { mariadb } = require(resolve('dist/dialects/mariadb.js')) as typeof import('../../dist/dialects/mariadb.js')
const { postgres } = require(resolve('dist/dialects/postgres.js')) as typeof import('../../dist/dialects/postgres.js')
const { sqlite } = require(resolve('dist/dialects/sqlite.js')) as typeof import('../../dist/dialects/sqlite.js')
/* eslint-enable @typescript-eslint/no-require-imports */

describe('the cause of a failed statement', () => {
  for (const { name, classify, endsTransaction } of [mysql, mariadb]) {
    it(`is recognised by its error number on ${name}, else unknown`, () => {
      const ofNumber = (errno: number, message = ''): unknown => classify({ errno, message })
      expect([1213, 3101, 1020, 1205, 3024, 3572].map((errno) => ofNumber(errno))).to.deep.equal([
        'deadlock',
        'conflict',
        'conflict',
        'lock timeout',
        'lock timeout',
        'lock timeout',
      ])
      expect(ofNumber(1180, "Got error 149 - 'Lock deadlock; Retry transaction' during COMMIT")).to.equal('conflict')
      for (const errno of [1180, 1053, 1927, 2006, 2013, 3100, 45_009, -104]) expect(ofNumber(errno)).to.equal('lost')
      expect(ofNumber(1206, 'The total number of locks exceeds the lock table size')).to.equal('resources')
      expect(endsTransaction).to.include('resources')
      for (const option of ['--read-only', '--super-read-only', '--innodb-read-only']) {
        const message = `The MySQL server is running with the ${option} option so it cannot execute this statement`
        expect(ofNumber(1290, message)).to.equal('read-only')
      }
      // The same number is given for other options.
      expect(ofNumber(1290, 'running with the --secure-file-priv option')).to.equal(undefined)
      for (const errno of [1792, 1836]) expect(ofNumber(errno)).to.equal('read-only')
      for (const errno of [1317, 1969]) expect(ofNumber(errno)).to.equal('cancelled')
      for (const errno of [1062, 4031, 45_013]) expect(ofNumber(errno)).to.equal(undefined)
      // A node of Galera that is not in its cluster; vtgate, whose target is not in reach or did not answer in time.
      expect(ofNumber(1047, 'WSREP has not yet prepared node for application use')).to.equal('not ready')
      expect(ofNumber(1047, 'Unknown command')).to.equal(undefined)
      expect(ofNumber(1105)).to.equal('lost')
      for (const errno of [1105, 1317]) expect(classify({ errno, message: '' }, 'COMMIT')).to.equal('lost')
      for (const errno of [1213, 3101]) {
        expect(classify({ errno, message: '' }, 'COMMIT')).to.equal(classify({ errno, message: '' }))
      }
      expect(classify({ message: 'Connection lost', code: 'PROTOCOL_CONNECTION_LOST' })).to.equal('lost')
      expect(classify({ message: "Can't add new command when connection is in closed state" })).to.equal(undefined)
    })
  }

  it('is recognised by its code, also an extended one, on SQLite', () => {
    const ofCode = (code: string): unknown => sqlite.classify({ code, message: '' })
    expect(ofCode('SQLITE_BUSY')).to.equal('lock timeout')
    const ended = ['SQLITE_FULL', 'SQLITE_IOERR', 'SQLITE_IOERR_WRITE', 'SQLITE_IOERR_NOMEM', 'SQLITE_NOMEM']
    for (const code of ended) expect(ofCode(code)).to.equal('resources')
    for (const code of ['SQLITE_CONSTRAINT', 'SQLITE_ERROR', 'SQLITE_FULLY']) expect(ofCode(code)).to.equal(undefined)
    expect(sqlite.endsTransaction).to.deep.equal(['resources'])
  })

  it('is recognised by its code on PostgreSQL, else unknown', () => {
    const ofCode = (code: string): unknown => postgres.classify({ code, severity: 'FEHLER', message: '' })
    const codes = ['40P01', '40001', '55P03', '57014']
    expect(codes.map(ofCode)).to.deep.equal(['deadlock', 'conflict', 'lock timeout', 'cancelled'])
    for (const code of ['57P01', '57P02', '08P01', '08006', '58030', 'XX000']) expect(ofCode(code)).to.equal('lost')
    for (const code of ['23505', '25P02']) expect(ofCode(code)).to.equal(undefined)
    expect(postgres.classify({ message: 'Connection terminated unexpectedly' })).to.equal('lost')
    const unsent = 'Client has encountered a connection error and is not queryable'
    expect(postgres.classify({ message: unsent })).to.equal(undefined)
  })
})

describe('the bind that PostgreSQL refuses', () => {
  it('is named in the error of version 14 and newer, and quoted in the error of version 13', () => {
    const refused = (where: string): unknown =>
      postgres.refusedBind!({ code: '22P02', message: 'invalid input syntax for type uuid: "b"', where }, ['a', 'b'])
    expect(refused("unnamed portal parameter $1 = '…'")).to.equal(1)
    expect(refused('')).to.equal(2)
    expect(postgres.refusedBind!({ code: '23505', message: '"b"' }, ['b'])).to.equal(undefined)
  })
})
