import { resolve } from 'node:path'
import { expect } from 'chai'
import {
  absent,
  addToSet,
  append,
  contains,
  equals,
  exists,
  greaterThan,
  increment,
  lessThan,
  max,
  merge,
  min,
  not,
  prepend,
  pull,
  remove,
  rename,
  set,
  setIfAbsent,
  size,
} from 'sequelize-lossless'
import type { Operation } from 'sequelize-lossless'

/* eslint-disable @typescript-eslint/no-require-imports */
const { connectorOf } = require(
  resolve('dist/dialects/connector.js'),
) as typeof import('../../dist/dialects/connector.js')
const { mysql } = require(resolve('dist/dialects/mysql.js')) as typeof import('../../dist/dialects/mysql.js')
/* eslint-enable @typescript-eslint/no-require-imports */

/** The least version of MySQL that runs JSON writes. */
const floor = '8.0.17'

/**
 * The version of MySQL that brought each word, function, hint and variable of our SQL.
 * @see https://dev.mysql.com/doc/refman/8.0/en/json-function-reference.html
 * @see https://dev.mysql.com/doc/relnotes/mysql/8.0/en/news-8-0-17.html
 */
const words: Readonly<Record<string, string>> = {
  ...since(
    '5.1',
    'AND AS BETWEEN BY CASE CAST CHAR COALESCE DATETIME DECIMAL ELSE END FALSE FOR FROM IF IN IS NOT NULL OR ORDER SELECT',
  ),
  ...since('5.1', 'ABS SIGNED THEN TRUE UPDATE VERSION WHEN WHERE @@character_set_client @@innodb_rollback_on_timeout'),
  ...since('5.1', 'CHARSET @@autocommit @@character_set_connection @@character_set_results'),
  ...since('5.1', 'CONCAT COUNT GROUP_CONCAT HAVING LEAST MIN OCTET_LENGTH SEPARATOR'),
  ...since('5.1', 'INDEX LIKE SHOW @@max_allowed_packet @@sql_mode'),
  ...since('5.7.8', 'JSON JSON_ARRAY JSON_ARRAY_APPEND JSON_ARRAY_INSERT JSON_EXTRACT JSON_LENGTH JSON_OBJECT'),
  ...since('5.7.8', 'JSON_REMOVE JSON_SET JSON_TYPE JSON_UNQUOTE MAX_EXECUTION_TIME'),
  ...since('5.7.22', 'JSON_MERGE_PRESERVE'),
  ...since('8.0.1', 'LOCKED NOWAIT SKIP'),
  ...since('8.0.3', 'JSON_MERGE_PATCH'),
  ...since('8.0.4', 'COLUMNS JSON_TABLE ORDINALITY PATH'),
  // Before, CAST knows no DOUBLE, and no MEMBER OF exists.
  ...since('8.0.17', 'DOUBLE MEMBER OF'),
}

/** The version that brought each error number, of MySQL or (–) only of MariaDB. */
const errors: Readonly<Record<number, string>> = {
  1053: '5.1',
  1105: '5.1',
  1180: '5.1',
  1205: '5.1',
  1206: '5.1',
  1213: '5.1',
  1317: '5.1',
  1792: '5.6',
  1836: '5.6',
  3024: '5.7.8',
  3100: '5.7.17',
  3101: '5.7.17',
  3572: '8.0.1',
  1020: '–',
  1927: '–',
  1969: '–',
}

function since(version: string, list: string): Record<string, string> {
  return Object.fromEntries(list.split(' ').map((word) => [word, version]))
}

/**
 * Of each kind of operation one or more; one left out does not compile. An assignment is sent as several of `set`, and
 * `replaceOrAppend` as `set` or `append`.
 */
const operations: Readonly<Record<Operation['kind'], readonly Operation[]>> = {
  set: [set('a', 1), set(['a', 'b'], { c: [1] }), set(['a', 0, 'b'], 1)],
  assign: [],
  setIfAbsent: [setIfAbsent('a', 1)],
  remove: [remove(['a', 'b']), remove(['a', -1])],
  rename: [rename('a', 'b')],
  increment: [increment('a'), increment('a', 0.5)],
  min: [min('a', 1)],
  max: [max('a', 1)],
  append: [append('a', 1), append([], 1)],
  prepend: [prepend('a', 1)],
  addToSet: [addToSet('a', 1)],
  pull: [pull('a', 1)],
  replaceOrAppend: [],
  merge: [merge([], { a: { b: null } }), merge([0], { b: null })],
}

/** All SQL that the dialect makes, without its quoted names and texts. */
function allSql(): string[] {
  const column = { sql: '`progress`', type: 'JSON' } as const
  const bind = (): string => '?'
  const conditions = [
    ...[equals('x', 1), exists('y'), absent('z'), not(contains('x', 1)), size('x', 1)],
    ...[greaterThan('x', 1), lessThan('x', 'text')],
  ]
  const writes = Object.values(operations).flat()
  const changes = [...writes.map((each) => [each]), [set('p', 1), set('q', 2)]]
  const documents = mysql.variants.flatMap((variant) =>
    changes.flatMap((each) =>
      [true, false].flatMap((isPrepared) => {
        const { document, guard, prefix = '' } = variant({ operations: each, conditions, isPrepared }, column, bind)
        return [prefix, document, guard]
      }),
    ),
  )
  const waits = [0, 1000].flatMap((timeoutMs) => {
    const { hint = '', clause = '' } = mysql.lockWait(timeoutMs)
    return [hint, clause]
  })
  const { probe } = connectorOf('mysql')
  const table = { quoted: '`runs`', name: 'runs', schema: undefined }
  const catalog = [mysql.listShortColumns!, mysql.insertIfAbsent.listIndexes!].map(({ sql }) => sql(table, bind))
  const others = [probe, mysql.holds(column, '?'), mysql.documentText(column), mysql.lockClause, mysql.skipLocked()]
  return [...documents, ...waits, ...others, ...catalog, mysql.characterSet!.of(column)].map((sql) =>
    sql.replace(/'[^']*'|`[^`]*`/g, ''),
  )
}

describe('SQL for MySQL', () => {
  it(`has no keyword, function, hint or variable that is newer than ${floor}, or that the table does not name`, () => {
    const used = new Set(allSql().flatMap((sql) => sql.match(/@@\w+|\b[A-Z][A-Z_]+\b/g) ?? []))
    expect([...used].filter((word) => !(word in words))).to.deep.equal([])
    expect(Object.keys(words).filter((word) => !used.has(word))).to.deep.equal([])
    expect(Object.entries(words).filter(([, version]) => isNewer(version, floor))).to.deep.equal([])
    const refusing = connectorOf('mysql').recognise({
      version: '8.0.16',
      client: 'utf8mb4',
      connection: 'utf8mb4',
      results: 'utf8mb4',
      autocommit: 1,
      modes: '',
      echo: '["\\\\"]',
    })
    expect(refusing.refusesJson![1]).to.include(`MySQL ${floor}`)
  })

  it('classifies no error number that the table does not name', () => {
    const message = 'the server is running with the --read-only option'
    const numbers = Array.from({ length: 4500 }, (_, index) => index + 1000).filter(
      (errno) => errno < 2000 || errno >= 3000,
    )
    const classified = numbers.filter((errno) => errno !== 1290 && mysql.classify({ errno, message }) !== undefined)
    expect(classified.map(String).sort()).to.deep.equal(Object.keys(errors).sort())
    expect(Object.values(errors).filter((version) => version !== '–' && isNewer(version, floor))).to.deep.equal([])
  })
})

function isNewer(version: string, than: string): boolean {
  return version.localeCompare(than, 'en', { numeric: true }) > 0
}
