import { resolve } from 'node:path'
import { respelled, write } from './json-set.js'
import type { Vocabulary } from './json-set.js'
import type { Dialect, Form } from './index.js'

const typeOf = (value: string): string => `json_type(${value})`

/** Deep equality of two JSON texts, whatever the order of keys: the same leaves at the same places. */
function equal(one: string, other: string): string {
  const leaves = (json: string): string =>
    `SELECT fullkey, replace(type, 'real', 'integer'), atom FROM json_tree(${json})`
  return `(NOT EXISTS (${leaves(one)} EXCEPT ${leaves(other)}) AND NOT EXISTS (${leaves(other)} EXCEPT ${leaves(one)}))`
}

const lesser = (value: string, bound: string, than: '<' | '>'): string =>
  `json(CASE WHEN ${value} IS NULL OR json_extract(${bound}, '$') ${than} json_extract(${value}, '$') THEN ${bound} ELSE ${value} END)`

/** @see https://www.sqlite.org/json1.html */
const words: Vocabulary = {
  // Not json_extract, which makes NULL of JSON null.
  at: (document, path) => `(${document} -> ${path})`,
  value: (text) => `json(${text})`,
  same: (value) => `json(${value})`,
  objectOrEmpty: (parent) => `json(CASE WHEN ${typeOf(parent)} = 'object' THEN ${parent} ELSE '{}' END)`,
  isObjectOrNull: (value) => `COALESCE(${typeOf(value)}, 'null') IN ('object', 'null')`,
  isUnique: (document, paths) => {
    const rest = `json_remove(${document}, ${paths.join(', ')})`
    return `COALESCE(json_remove(${rest}, ${paths.join(', ')}) = ${rest}, TRUE)`
  },
  equals: (value, text) => `(${value} IS NOT NULL AND ${equal(value, text)})`,
  set: (document, pairs) => `json_set(${document}, ${pairs.join(', ')})`,
  remove: (document, paths) => `json_remove(${document}, ${paths.join(', ')})`,
  patch: (document, text) => `json_patch(${document}, ${text})`,
  result: {
    setIfAbsent: (value, { bound }) => `json(COALESCE(${value}, ${bound}))`,
    increment: (value, { bound }) => `COALESCE(json_extract(${value}, '$'), 0) + json_extract(${bound}, '$')`,
    min: (value, { bound }) => lesser(value, bound, '<'),
    max: (value, { bound }) => lesser(value, bound, '>'),
    // No function inserts at the beginning: "[" and the item stand before what follows the "[" of the array.
    prepend: (value, { bound }) =>
      `json(CASE WHEN COALESCE(json_array_length(${value}), 0) = 0 THEN '[' || ${bound} || ']' ` +
      `ELSE '[' || ${bound} || ',' || substr(json(${value}), 2) END)`,
    append: (value, { bound }) =>
      `json(CASE WHEN COALESCE(json_array_length(${value}), 0) = 0 THEN ${bound} ` +
      `ELSE substr(json(${value}), 1, length(json(${value})) - 1) || ',' || substr(${bound}, 2) END)`,
    addToSet: (value, { bound }) =>
      `json(CASE WHEN EXISTS (SELECT 1 FROM json_each(COALESCE(${value}, '[]')) item ` +
      `WHERE ${equal(`(${value} -> item.fullkey)`, bound)}) THEN ${value} ` +
      `ELSE json_insert(COALESCE(${value}, '[]'), '$[#]', json(${bound})) END)`,
    pull: (value, { bound }) =>
      `(SELECT json_group_array(json(${value} -> item.fullkey) ORDER BY item.key) FROM json_each(${value}) item ` +
      `WHERE NOT ${equal(`(${value} -> item.fullkey)`, bound)})`,
  },
  accepts: {
    number: (value) => `COALESCE(${typeOf(value)}, 'integer') IN ('integer', 'real')`,
    array: (value) => `COALESCE(${typeOf(value)}, 'array') = 'array'`,
  },
}

const form: Form = (change, { sql }, bind) => {
  const root = `CASE WHEN json_type(${sql}) = 'object' THEN ${sql} ELSE '{}' END`
  const { document, guards, met } = write(words, root, sql, change, bind)
  const isDocument = `(${sql} IS NULL OR CASE WHEN json_valid(${sql}) THEN json_type(${sql}) END IN ('object', 'null'))`
  return { document, guard: [isDocument, ...guards, ...met].join(' AND ') }
}

export const sqlite: Dialect = {
  name: 'SQLite',
  forms: [form],
  holds: ({ sql }, text) =>
    `CASE WHEN json_valid(COALESCE(${sql}, 'null')) THEN ${equal(`COALESCE(${sql}, 'null')`, text)} END`,
  documentText: (column) => `CAST(${column.sql} AS TEXT)`,
  respell: { text: respelled, isText: (column, text) => `CAST(${column.sql} AS TEXT) = ${text}` },
  lockClause: '',
  // Waiting writers block the threads that the writer in front needs.
  writerQueue: ({ storage, host }) => {
    const path = storage ?? host ?? ':memory:'
    return path === ':memory:' || path === '' ? 'in memory' : resolve(path)
  },
  lockWait: (timeoutMs) => ({
    setting: {
      value: String(timeoutMs),
      // Not pragma_busy_timeout: a SELECT would take the read lock, and SQLite waits for no lock beyond that one.
      read: 'PRAGMA busy_timeout',
      write: (value) => [`PRAGMA busy_timeout = ${value}`],
    },
  }),
  lockHolders: 'another connection or process that has the file open',
  isolationLevels: ['SERIALIZABLE'],
  maxDepth: 1000,
  integers: [-(2n ** 63n), 2n ** 63n - 1n],
  // A path ends at NUL: "a\0b" would write the key "a".
  refuseKey: (key) => (key.includes('\0') ? 'a key may not contain the NUL character' : undefined),
  refuseText: () => undefined,
  classify: ({ code }) => (code === 'SQLITE_BUSY' ? 'lock timeout' : undefined),
  endsTransaction: [],
  isRollback: () => false,
}
