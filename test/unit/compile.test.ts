import { resolve } from 'node:path'
import { expect } from 'chai'
import { addToSet, append, equals, increment, max, min, merge, prepend, pull } from 'sequelize-lossless'
import { remove, rename, set, setIfAbsent } from 'sequelize-lossless'
import type { Operation } from 'sequelize-lossless'
import type { Change, Column, Dialect, Form } from '../../dist/dialects/index.js'

/* eslint-disable @typescript-eslint/no-require-imports */
const { compile } = require(resolve('dist/compile.js')) as typeof import('../../dist/compile.js')
const { mysql } = require(resolve('dist/dialects/mysql.js')) as typeof import('../../dist/dialects/mysql.js')
const { mariadb } = require(resolve('dist/dialects/mariadb.js')) as typeof import('../../dist/dialects/mariadb.js')
const { postgres } = require(resolve('dist/dialects/postgres.js')) as typeof import('../../dist/dialects/postgres.js')
const { sqlite } = require(resolve('dist/dialects/sqlite.js')) as typeof import('../../dist/dialects/sqlite.js')
/* eslint-enable @typescript-eslint/no-require-imports */

// Some are equal to each other, or to what is made of them.
const keys = ['k', '1', '$', '$."k"', '"k"', 'a"b\\', '$1', "'; --", 'ключ', '']
const values = ['k', '1', 1, 0, -7, 1.5, 2n ** 63n, true, null, [1], { k: 1 }, '$."k"', "'; --"]

const paths = keys.flatMap((key) => [[key], [key, 'k'], [key, key, '1'], Array.from({ length: 9 }, () => key)])

const operations: readonly Operation[] = paths.flatMap((path) => [
  remove(path),
  rename(path, 'other'),
  merge(path, { a: { b: 1, c: null } }),
  increment(path, 1.5),
  increment(path, 2n ** 63n),
  min(path, 1),
  max(path, -1.5),
  ...values.flatMap((value) => [
    set(path, value),
    setIfAbsent(path, value),
    append(path, value, value),
    prepend(path, value),
    addToSet(path, value),
    pull(path, value),
  ]),
])

const columns: readonly Column[] = [
  { sql: '`progress`', type: 'JSON' },
  { sql: '`progress`', type: 'JSONB' },
  { sql: '"other"', type: 'JSON' },
]

/** What becomes of a change, and what is bound. */
function written(form: Form, change: Change, column: Column, make = form) {
  const binds: string[] = []
  const write = make(change, column, (value) => `$${binds.push(value)}`)
  return { ...write, binds }
}

describe('a form that was compiled for another operation of the same shape', () => {
  const dialects: readonly Dialect[] = [mysql, mariadb, postgres, sqlite]
  for (const { name, forms } of dialects) {
    it(`has the text and the binds that it has when it is compiled anew, on ${name}`, () => {
      const asked = [...operations, ...operations].map((operation) => ({ operations: [operation], conditions: [] }))
      const others = [
        { operations: [set('a', 1), set('b', 2)], conditions: [] },
        { operations: [set('a', 1)], conditions: [equals('b', 2)] },
        { operations: [merge([], { a: 1 })], conditions: [] },
      ]
      for (const form of forms) {
        const compiled: Form = (change, column, bind) => compile(form, change, column, bind)
        for (const column of columns) {
          for (const change of [...asked, ...others]) {
            expect(written(form, change, column, compiled)).to.deep.equal(written(form, change, column))
          }
        }
      }
    })
  }

  it('is compiled once, whatever its keys and values', () => {
    let compilations = 0
    const [form] = mysql.forms
    const counted: Form = (...all) => {
      compilations++
      return form!(...all)
    }
    for (const key of keys)
      compile(counted, { operations: [set([key], 'done')], conditions: [] }, columns[0]!, () => '')
    expect(compilations).to.equal(1)
  })
})
