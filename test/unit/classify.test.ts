import { resolve } from 'node:path'
import { expect } from 'chai'

// Proxies and shutdowns cannot be had on demand; what servers and drivers really answered is in the fault suite.
/* eslint-disable @typescript-eslint/no-require-imports */
const { mysql } = require(resolve('dist/dialects/mysql.js')) as typeof import('../../dist/dialects/mysql.js')
const { mariadb } = require(resolve('dist/dialects/mariadb.js')) as typeof import('../../dist/dialects/mariadb.js')
const { postgres } = require(resolve('dist/dialects/postgres.js')) as typeof import('../../dist/dialects/postgres.js')
/* eslint-enable @typescript-eslint/no-require-imports */

describe('what a failed statement died of', () => {
  for (const { name, classify } of [mysql, mariadb]) {
    it(`is told by its number on ${name}, and in doubt unknown`, () => {
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
      for (const errno of [1317, 1969]) expect(ofNumber(errno)).to.equal('cancelled')
      for (const errno of [1062, 4031, 45_013]) expect(ofNumber(errno)).to.equal(undefined)
      expect(classify({ message: 'Connection lost', code: 'PROTOCOL_CONNECTION_LOST' })).to.equal('lost')
      expect(classify({ message: "Can't add new command when connection is in closed state" })).to.equal(undefined)
    })
  }

  it('is told by its code on PostgreSQL, and in doubt unknown', () => {
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
