import { resolve } from 'node:path'
import { greatestSum } from '../json/encode.js'
import { makesDocument } from '../json/semantics.js'
import type { Kind } from '../json/values.js'
import { canonicalJson, otherEscapes, write } from './json-set.js'
import type { JsonFunctions } from './json-set.js'
import type { Dialect, UpdateVariant } from './dialect.js'
import { insertOnConflict } from './insert.js'
import { refuseNul } from './limits.js'
import { endsTransactionBySql } from './transaction-control.js'

const typeOf = (value: string): string => `json_type(${value})`

const isMissing = (value: string): string => `COALESCE(${typeOf(value)}, 'null') = 'null'`

const arrayOrEmpty = (value: string): string => `CASE WHEN ${typeOf(value)} = 'array' THEN ${value} ELSE '[]' END`

/** Deep equality of two JSON texts, in any order of keys: the same leaves at the same paths. */
function equal(one: string, other: string): string {
  const leaves = (json: string): string =>
    `SELECT fullkey, replace(type, 'real', 'integer'), atom FROM json_tree(${json})`
  const differs = (some: string, than: string): string => `EXISTS (${leaves(some)} EXCEPT ${leaves(than)})`
  return `(${summary(one)} IS ${summary(other)} AND NOT ${differs(one, other)} AND NOT ${differs(other, one)})`
}

/** The number of values in a JSON text, which no text has with a key twice that equals one without, and two of its atoms. */
const summary = (json: string): string => `(SELECT count(*), min(atom), max(atom) FROM json_tree(${json}))`

/** True if a JSON text has more values than another one, since it holds a key twice. */
const holdsMore = (json: string, than: string): string =>
  `((SELECT count(*) FROM json_tree(${json})) > (SELECT count(*) FROM json_tree(${than})) ` +
  `AND EXISTS (SELECT 1 FROM json_tree(${json}) WHERE key IN (SELECT key FROM json_tree(${than})) GROUP BY parent, key HAVING count(*) > 1))`

const sixteenDigits = `'*${'[0-9]'.repeat(16)}*'`

/**
 * True if a JSON value may hold a number that no double holds as it is spelled, and that is no integer of 64 bits. SQLite compares
 * the double, and would find it equal to other numbers, or unlike the number that JavaScript reads.
 */
const isInexact = (value: string): string =>
  `EXISTS (SELECT 1 FROM json_tree(${value}) WHERE typeof(atom) = 'real' ` +
  `AND (abs(atom) > ${Number.MAX_SAFE_INTEGER} OR replace(${value}, '.', '') GLOB ${sixteenDigits}))`

/** A comparison of numbers; NULL, which its negation is too, if only the digits of the stored text can decide it. */
const ifExact = (value: string, comparison: string): string =>
  `CASE WHEN ${isInexact(value)} THEN NULL ELSE ${comparison} END`

const isExact = (value: string): string => `NOT ${isInexact(value)}`
const isComparable = { addToSet: isExact, pull: isExact, min: isExact, max: isExact }

/** The texts with one of {@link otherEscapes}, as JSON. */
const globs = JSON.stringify(otherEscapes.map((escape) => `*\\${escape}*`))

/**
 * Whether a row `item` of json_each equals a JSON text. An item at a path of the document would cost a scan of the document
 * each.
 */
const isItem = (bound: string): string =>
  `CASE WHEN item.type IN ('array', 'object') THEN item.type = json_type(${bound}) AND ${equal('item.value', bound)} ` +
  `ELSE replace(item.type, 'real', 'integer') = replace(json_type(${bound}), 'real', 'integer') ` +
  `AND item.atom IS json_extract(${bound}, '$') END`

const lesser = (value: string, bound: string, than: '<' | '>'): string =>
  `json(CASE WHEN ${isMissing(value)} OR json_extract(${bound}, '$') ${than} json_extract(${value}, '$') THEN ${bound} ELSE ${value} END)`

/** Calls of `name`, one inside another, each with at most as many arguments as a function had before SQLite 3.48. */
function nested(name: 'set' | 'remove', document: string, items: readonly string[]): string {
  const most = name === 'set' ? 63 : 126
  const chunks = Array.from({ length: Math.ceil(items.length / most) }, (_, call) =>
    items.slice(call * most, (call + 1) * most),
  )
  return chunks.reduce(
    (inner, some, call) => `json${call < chunks.length - 1 ? 'b' : ''}_${name}(${inner}, ${some.join(', ')})`,
    document,
  )
}

/** A conjunction as a balanced tree: an expression may be 1000 deep, and a chain of AND is as deep as it is long. */
function all(conditions: readonly string[]): string {
  if (conditions.length <= 2) return conditions.join(' AND ')
  const half = Math.ceil(conditions.length / 2)
  return `(${all(conditions.slice(0, half))}) AND (${all(conditions.slice(half))})`
}

/** @see https://www.sqlite.org/json1.html */
const functions: JsonFunctions = {
  // json_extract would turn JSON null into NULL.
  at: (document, path) => `(${document} -> ${path})`,
  value: (text) => `json(${text})`,
  same: (value) => `json(${value})`,
  objectOrEmpty: (parent) => `json(CASE WHEN ${typeOf(parent)} = 'object' THEN ${parent} ELSE '{}' END)`,
  isMissing,
  isObjectOrNull: (value) => `COALESCE(${typeOf(value)}, 'null') IN ('object', 'null')`,
  isUnique: (document, bound) => {
    const paths = bound.map(({ sql }) => sql)
    const rest = nested('remove', document, paths)
    return `COALESCE(${nested('remove', rest, paths)} = ${rest}, TRUE)`
  },
  isUniqueInside: (value, of, { bound }) =>
    of === 'value'
      ? `NOT ${holdsMore(value, bound)}`
      : `NOT EXISTS (SELECT 1 FROM json_each(${value}) item WHERE item.type = json_type(${bound}) AND ${holdsMore('item.value', bound)})`,
  // Only in keys, json_tree and json_each do not decode escapes.
  isCanonical: (value, bind) =>
    `(instr(COALESCE(${value}, ''), '\\') = 0 OR NOT EXISTS (SELECT 1 FROM json_each(${bind(globs)}) glob ` +
    `WHERE replace(${value}, '\\\\', '') GLOB glob.value))`,
  isComparable,
  equals: (value, text) =>
    `(${value} IS NOT NULL AND (${value} = json(${text}) OR ${ifExact(value, equal(value, text))}))`,
  // The collation of an expression is BINARY.
  isOrdered: (value, than, { text, bound }) => {
    const comparison = `json_extract(${value}, '$') ${than} json_extract(${bound}, '$')`
    return text.startsWith('"')
      ? `CASE WHEN ${typeOf(value)} = 'text' THEN ${comparison} ELSE FALSE END`
      : `CASE WHEN ${typeOf(value)} IN ('integer', 'real') THEN ${ifExact(value, comparison)} ELSE FALSE END`
  },
  contains: (value, text) => {
    const list = arrayOrEmpty(value)
    return ifExact(list, `EXISTS (SELECT 1 FROM json_each(${list}) item WHERE ${isItem(text)})`)
  },
  // A key may be stored twice.
  hasSize: (value, least, greatest) =>
    `COALESCE(CASE ${typeOf(value)} WHEN 'array' THEN json_array_length(${value}) ` +
    `WHEN 'object' THEN (SELECT count(DISTINCT key) FROM json_each(${value})) END ` +
    `BETWEEN CAST(${least} AS INTEGER) AND CAST(${greatest} AS INTEGER), FALSE)`,
  set: (document, pairs) => nested('set', document, pairs),
  remove: (document, paths) => nested('remove', document, paths),
  patch: (document, text) => `json_patch(${document}, ${text})`,
  result: {
    setIfAbsent: (value, { bound }) => `json(COALESCE(${value}, ${bound}))`,
    increment: (value, { bound }) => `COALESCE(json_extract(${value}, '$'), 0) + json_extract(${bound}, '$')`,
    min: (value, { bound }) => lesser(value, bound, '<'),
    max: (value, { bound }) => lesser(value, bound, '>'),
    // No function inserts at the beginning, so the item is inserted into the text, after its "[".
    prepend: (value, { bound }) =>
      `json(CASE WHEN COALESCE(json_array_length(${value}), 0) = 0 THEN '[' || ${bound} || ']' ` +
      `ELSE '[' || ${bound} || ',' || substr(json(${value}), 2) END)`,
    append: (value, { bound }) =>
      `json(CASE WHEN COALESCE(json_array_length(${value}), 0) = 0 THEN ${bound} ` +
      `ELSE substr(json(${value}), 1, length(json(${value})) - 1) || ',' || substr(${bound}, 2) END)`,
    addToSet: (value, { bound }) =>
      `json(CASE WHEN EXISTS (SELECT 1 FROM json_each(${arrayOrEmpty(value)}) item ` +
      `WHERE ${isItem(bound)}) THEN ${value} ` +
      `ELSE json_insert(${arrayOrEmpty(value)}, '$[#]', json(${bound})) END)`,
    // A number has its digits only in the text at its path. Without a backslash in the list, a string has no escapes.
    pull: (value, { bound }) =>
      `json((WITH list(source, isPlain) AS MATERIALIZED (SELECT ${value}, instr(${value}, '\\') = 0) ` +
      `SELECT '[' || COALESCE(group_concat(CASE WHEN item.type IN ('array', 'object') THEN item.value ` +
      `WHEN item.type IN ('true', 'false', 'null') THEN item.type WHEN item.type = 'text' AND isPlain THEN '"' || item.atom || '"' ` +
      `WHEN typeof(item.atom) = 'integer' THEN item.atom ELSE source -> item.fullkey END, ',' ORDER BY item.key), '') || ']' ` +
      `FROM list, json_each(source) item WHERE NOT ${isItem(bound)}))`,
  },
  // SQLite adds integers past 64 bits as doubles, and prints an infinite sum as 9e999.
  canAdd: (value, { bound }) => {
    const sum = `(json_extract(${value}, '$') + json_extract(${bound}, '$'))`
    return (
      `CASE WHEN ${isMissing(value)} THEN TRUE WHEN ${typeOf(value)} = 'integer' AND ${typeOf(bound)} = 'integer' ` +
      `THEN typeof(${sum}) = 'integer' ELSE ${sum} BETWEEN ${-greatestSum} AND ${greatestSum} END`
    )
  },
  accepts: {
    number: (value) => `COALESCE(${typeOf(value)}, 'null') IN ('null', 'integer', 'real')`,
    array: (value) => `COALESCE(${typeOf(value)}, 'null') IN ('null', 'array')`,
  },
}

/** True if a document has no escape of NUL, which ends a stored key: a path takes "a\0b" for "a". GLOB is faster than instr. */
const hasNoNul = (document: string): string => `COALESCE(${document}, '') NOT GLOB '*\\u0000*'`

const variant: UpdateVariant = (change, { sql }, bind) => {
  const root = makesDocument(change.operations)
    ? `CASE WHEN json_type(${sql}) = 'object' THEN ${sql} ELSE '{}' END`
    : sql
  const { document, guards, met } = write(functions, root, sql, change, bind)
  const isDocument = `(${sql} IS NULL OR CASE WHEN json_valid(${sql}) THEN json_type(${sql}) END IN ('object', 'null'))`
  return { document, guard: all([`${isDocument} AND ${hasNoNul(sql)}`, ...guards, ...met]) }
}

/** No disk space, a failed read or write, or no memory; also as an extended result code. */
const outOfResources = /^SQLITE_(FULL|IOERR|NOMEM)(_|$)/

/** A number past 64 bits would be clamped, and a sum a double, without an error; abs() of the least integer is an error. */
const integerSum = (column: string, by: string): string => {
  const sum = `COALESCE(${column}, 0) + CAST(${by} AS INTEGER)`
  const isClamped = `CAST(CAST(${by} AS INTEGER) AS TEXT) <> ${by}`
  return `CASE WHEN ${isClamped} OR typeof(${sum}) = 'real' AND typeof(${column}) <> 'real' THEN abs(-9223372036854775807 - 1) ELSE ${sum} END`
}

export const sqlite: Dialect = {
  name: 'SQLite',
  variants: [variant],
  holds: ({ sql }, text) =>
    `CASE WHEN json_valid(COALESCE(${sql}, 'null')) THEN ${equal(`COALESCE(${sql}, 'null')`, text)} END`,
  document: (text) => text,
  documentText: (column) => `CAST(${column.sql} AS TEXT)`,
  skipsRows: (statement) => `a BEFORE ${statement} trigger that calls RAISE(IGNORE)`,
  comparesDoubles: Object.keys(isComparable) as Kind[],
  // Sequelize returns no rows of a statement that begins with INSERT INTO.
  insertIfAbsent: {
    sql: insertOnConflict('INSERT OR ABORT INTO'),
    isNoKey: ({ message }) => /ON CONFLICT clause does not match/.test(message),
  },
  normalizeStoredText: {
    text: canonicalJson,
    isText: (column, text) => `CAST(${column.sql} AS TEXT) = ${text}`,
    // NUL in a key.
    misreadEscape: /\\u0000/,
  },
  lockClause: '',
  skipLocked: () => '',
  // Waiting writers block the threads that the current writer needs.
  writerQueue: ({ storage, host }) => {
    const path = storage ?? host ?? ':memory:'
    return path === ':memory:' || path === '' ? 'in memory' : resolve(path)
  },
  lockWait: (timeoutMs) => ({
    setting: {
      value: String(timeoutMs),
      // A SELECT of pragma_busy_timeout would take the read lock, and SQLite does not wait to upgrade it.
      read: 'PRAGMA busy_timeout',
      write: (value) => [`PRAGMA busy_timeout = ${value}`],
    },
  }),
  lockHolders: 'another connection or process that has the file open',
  isolationLevels: ['SERIALIZABLE'],
  maxDepth: 1000,
  maxComputedKeys: 64,
  integers: [-(2n ** 63n), 2n ** 63n - 1n],
  // NUL terminates a path: "a\0b" would write the key "a".
  refuseKey: refuseNul('key'),
  refuseText: () => undefined,
  classify: ({ code = '' }) =>
    code === 'SQLITE_BUSY' ? 'lock timeout' : outOfResources.test(code) ? 'resources' : undefined,
  // @see https://www.sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction
  sum: (column, by, kind) =>
    kind === 'integer' ? integerSum(column, by) : `COALESCE(${column}, 0) + CAST(${by} AS REAL)`,
  refusedValue: ({ message }) => (/integer overflow/.test(message) ? { misfit: 'out of range' } : undefined),
  endsTransaction: ['resources'],
  endsTransactionBySql: endsTransactionBySql({ starts: '', isMysql: false }),
  isRollback: () => false,
}
