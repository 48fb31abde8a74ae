import { resolve } from 'node:path'
import { expect } from 'chai'

/* eslint-disable @typescript-eslint/no-require-imports */
const { mysql } = require(resolve('dist/dialects/mysql.js')) as typeof import('../../dist/dialects/mysql.js')
const { postgres } = require(resolve('dist/dialects/postgres.js')) as typeof import('../../dist/dialects/postgres.js')
/* eslint-enable @typescript-eslint/no-require-imports */

/** SQL, and whether it ends the transaction: on PostgreSQL and SQLite, and on MySQL and MariaDB. */
const table: readonly (readonly [sql: string, plain: boolean, mysql: boolean])[] = [
  ['COMMIT', true, true],
  ['TRUNCATE jobs', false, true],
  ['rollback work', true, true],
  ['ROLLBACK TO SAVEPOINT a', false, false],
  ['SELECT 1', false, false],
  ['', false, false],
  [';;', false, false],
  ['-- a comment', false, false],
  ['SELECT 1; COMMIT', true, true],
  ['/* a; b */ COMMIT', true, true],
  ['/* COMMIT', false, false],
  ['/*!50000 COMMIT */', false, true],
  ['# a\nCOMMIT', false, true],
  ["SELECT 'a; COMMIT'", false, false],
  ["SELECT 'it''s; COMMIT; '", false, false],
  ["SELECT 'open; COMMIT", false, false],
  ['SELECT "a; COMMIT", `b; COMMIT`', false, false],
  [String.raw`SELECT 'a\'; COMMIT; '`, true, false],
  [String.raw`SELECT 'a\\'; COMMIT`, true, true],
  [String.raw`SELECT E'a\'; COMMIT; '`, false, false],
  ['SELECT $$ a; COMMIT $$', false, true],
  ['SELECT $tag$ a; COMMIT $tag$; COMMIT', true, true],
  ['SELECT $1; COMMIT', true, true],
  ['CREATE TRIGGER t BEGIN UPDATE a SET b = 1; END', false, true],
  ['BEGIN NOT ATOMIC SELECT 1; SELECT 2; END', false, false],
  ['BEGIN NOT ATOMIC SELECT 1; COMMIT; END', true, true],
]

describe('SQL that ends a transaction', () => {
  for (const [sql, onPlain, onMysql] of table) {
    it(JSON.stringify(sql), () => {
      expect({ plain: postgres.endsTransactionBySql(sql), mysql: mysql.endsTransactionBySql(sql) }).to.deep.equal({
        plain: onPlain,
        mysql: onMysql,
      })
    })
  }
})
