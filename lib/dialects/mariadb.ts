import { notJson } from '../errors/errors.js'
import { isInteger, pathText } from '../json/encode.js'
import { keyPaths, makesDocument } from '../json/semantics.js'
import { canonicalJson, otherEscapes, write } from './json-set.js'
import type { JsonFunctions } from './json-set.js'
import type { Dialect, UpdateVariant } from './dialect.js'
import {
  appended,
  arrayOrEmpty,
  characterSet,
  classify,
  decimalSum,
  holdsEveryText,
  isFiniteSum,
  isMissing,
  isMissingOr,
  matched,
  mysql,
  refuseLongKey,
} from './mysql.js'

/** Deep equality of two JSON texts, in any order of keys. Of a number alone, JSON_EQUALS reads an exponent past its end. */
const equal = (one: string, other: string): string =>
  `JSON_EQUALS(CONCAT('[', ${one}, ']'), CONCAT('[', ${other}, ']'))`

/** {@link equal} for each item of an array: JSON_EQUALS would normalize the operand again for each. */
function isItem(item: string, operand: string): string {
  const normalized = (json: string): string => `CAST(JSON_NORMALIZE(CONCAT('[', ${json}, ']')) AS BINARY)`
  return `${normalized(item)} = ${normalized(operand)}`
}

/** The text of a document as bytes, which REGEXP compares with upper and lower case. CAST copies more slowly. */
const textBytes = (document: string): string => `CONCAT(_binary'', ${document})`

const [otherCharacter, ...otherCodes] = otherEscapes.map((each) => each.replaceAll('?', '.').replaceAll('\\', '\\\\'))

/** The backslashes before one of {@link otherEscapes}, an odd number: each pair is an escaped backslash. */
const otherEscape =
  `\\\\(?<!\\\\\\\\)(?:\\\\\\\\)*+(?!\\\\)` +
  `(?:${otherCharacter}|u(?:${otherCodes.map((each) => each.slice(1)).join('|')}))`

/**
 * Matches a text, of which JSON_VALID is true, if it is JSON: JSON_VALID is also true of the numbers `1.`, `1e` and `-`, and of keys
 * with control characters.
 */
const validTokens = '^(?:[^".eE-]++|"(?:[^"\\\\\\x00-\\x1f]++|\\\\.)*+"|(?:[.]|[eE]?[+-]?)[0-9]|(?<=[us])e)*+$'

/** A longer regular expression might not compile. */
const maxPattern = 8192

/** In a longer text, a regular expression might reach its limit of 10 million steps, and would then not match. */
const maxMatchedBytes = 4_000_000

/**
 * Matches a JSON text in which one of the keys is written twice, perhaps in a string; without backtracking, so that the
 * time does not depend on what the text holds.
 */
function writtenTwice(keys: ReadonlySet<string>): string {
  const texts = [...keys].map((key) =>
    JSON.stringify(key)
      .slice(1, -1)
      .replaceAll(/[\\^$.|?*+()[\]{}]/g, '\\$&'),
  )
  return `"(${texts.join('|')})"[^"]*+(?:"(?!\\1")[^"]*+)*+"\\1"`
}

const numbers = `'INTEGER', 'DOUBLE', 'DECIMAL'`

/** DECIMAL has 65 digits; the sum of two integers can have one more than they. */
const maxDigits = 64

// JSON_TYPE of 1e2 is INTEGER.
const isLongInteger = (value: string): string => `${value} REGEXP '^-?[0-9]+$'`

/** The bytes of a JSON string, which no collation compares. */
const bytes = (value: string): string => `CAST(CONVERT(JSON_UNQUOTE(${value}) USING utf8mb4) AS BINARY)`

/** Compares as DECIMAL what it holds exactly: integers of up to 65 digits, and up to 30 digits after the point. */
const isOrderedNumber = (value: string, than: string, bound: string): string => {
  const are = (pattern: string): string => `${value} REGEXP '${pattern}' AND ${bound} REGEXP '${pattern}'`
  const as = (type: string): string => `CAST(${value} AS ${type}) ${than} CAST(${bound} AS ${type})`
  return (
    `CASE WHEN ${are('^-?[0-9]{1,65}$')} THEN ${as('DECIMAL(65, 0)')} ` +
    `WHEN ${are('^-?[0-9]{1,35}([.][0-9]{1,30})?$')} THEN ${as('DECIMAL(65, 30)')} ELSE ${as('DOUBLE')} END`
  )
}

const lesser = (value: string, bound: string, than: '<' | '>'): string =>
  `IF(${isMissing(value)} OR ${isOrderedNumber(bound, than, value)}, JSON_EXTRACT(${bound}, '$'), ${value})`

// JSON_REMOVE with three or more paths ignores the third one and later ones if their keys are not ASCII.
const removed = (document: string, paths: readonly string[]): string =>
  paths.reduce((before, path) => `JSON_REMOVE(${before}, ${path})`, document)

const quotes = (json: string): string => `LENGTH(${json}) - LENGTH(REPLACE(${json}, '"', ''))`

/** True if a JSON text has more quotes than another one, since it holds one of some keys twice. */
const holdsMore = (json: string, than: string, paths: string): string =>
  `${quotes(json)} > ${quotes(than)} AND EXISTS(SELECT 1 FROM JSON_TABLE(${paths}, '$[*]' ` +
  `COLUMNS(path LONGTEXT CHARACTER SET utf8mb4 PATH '$')) paths WHERE JSON_CONTAINS_PATH(JSON_REMOVE(${json}, path), 'one', path))`

/** @see https://mariadb.com/kb/en/json-functions/ */
const functions: JsonFunctions = {
  at: (document, path) => `JSON_EXTRACT(${document}, ${path})`,
  // MariaDB has no CAST AS JSON.
  value: (text) => `JSON_EXTRACT(${text}, '$')`,
  same: (value) => value,
  objectOrEmpty: (parent) => `IF(JSON_TYPE(${parent}) = 'OBJECT', ${parent}, JSON_OBJECT())`,
  isMissing,
  isObjectOrNull: (value) => isMissingOr(value, `'OBJECT'`),
  // To read the text once is many times faster than to write a document without a path and to read that.
  isUnique: (document, paths, bind) => {
    const all = paths
      .map(({ sql }) => `COALESCE(JSON_CONTAINS_PATH(JSON_REMOVE(${document}, ${sql}), 'one', ${sql}), 0) = 0`)
      .join(' AND ')
    const pattern = writtenTwice(new Set(paths.map(({ path }) => path.at(-1) as string)))
    if (pattern.length > maxPattern) return all
    const isUnwritten = `${textBytes(document)} NOT REGEXP ${bind(pattern)}`
    return `(LENGTH(${document}) <= ${maxMatchedBytes} AND ${isUnwritten} OR ${all})`
  },
  isUniqueInside: (value, of, { text, bound }, bind) => {
    const paths = bind(JSON.stringify(keyPaths(text).map(pathText)))
    return of === 'value'
      ? `NOT COALESCE(${holdsMore(value, bound, paths)}, FALSE)`
      : `NOT EXISTS(SELECT 1 FROM JSON_TABLE(${value}, '$[*]' COLUMNS(item JSON PATH '$')) items WHERE ${holdsMore('item', bound, paths)})`
  },
  equals: (value, text) => `COALESCE(${equal(value, text)}, 0) = 1`,
  isOrdered: (value, than, { text, bound }) =>
    text.startsWith('"')
      ? `IF(JSON_TYPE(${value}) = 'STRING', ${bytes(value)} ${than} ${bytes(bound)}, FALSE)`
      : `IF(JSON_TYPE(${value}) IN (${numbers}), ${isOrderedNumber(value, than, bound)}, FALSE)`,
  contains: (value, text) =>
    `EXISTS(SELECT 1 FROM JSON_TABLE(IF(JSON_TYPE(${value}) = 'ARRAY', ${value}, '[]'), '$[*]' COLUMNS(item JSON PATH '$')) items ` +
    `WHERE ${isItem('item', text)})`,
  // Of a key that is stored twice, JSON_KEYS returns one.
  hasSize: (value, least, greatest) =>
    `COALESCE(CASE JSON_TYPE(${value}) WHEN 'ARRAY' THEN JSON_LENGTH(${value}) WHEN 'OBJECT' THEN JSON_LENGTH(JSON_KEYS(${value})) END ` +
    `BETWEEN CAST(${least} AS SIGNED) AND CAST(${greatest} AS SIGNED), FALSE)`,
  set: (document, pairs) => `JSON_SET(${document}, ${pairs.join(', ')})`,
  remove: removed,
  patch: (document, text) => `JSON_MERGE_PATCH(${document}, ${text})`,
  // JSON_MERGE_PATCH skips the second key of an object if the patch removes the first one. A guard for each path that a
  // patch changes would scan the document each.
  patchesWithoutNull: true,
  result: {
    setIfAbsent: (value, { bound }) => `COALESCE(${value}, JSON_EXTRACT(${bound}, '$'))`,
    increment: (value, { text, bound }) =>
      isInteger(text)
        ? `JSON_EXTRACT(CASE WHEN ${isMissing(value)} THEN ${bound} ` +
          `WHEN ${isLongInteger(value)} THEN CAST(${decimalSum(value, bound)} AS CHAR) ` +
          `ELSE CAST(CAST(${value} AS DOUBLE) + CAST(${bound} AS DOUBLE) AS CHAR) END, '$')`
        : `IF(${isMissing(value)}, 0, CAST(${value} AS DOUBLE)) + CAST(${bound} AS DOUBLE)`,
    min: (value, { bound }) => lesser(value, bound, '<'),
    max: (value, { bound }) => lesser(value, bound, '>'),
    prepend: (value, { bound }) =>
      `IF(JSON_TYPE(${value}) = 'ARRAY', JSON_ARRAY_INSERT(${value}, '$[0]', JSON_EXTRACT(${bound}, '$')), JSON_ARRAY(JSON_EXTRACT(${bound}, '$')))`,
    append: (value, { bound }) =>
      `IF(JSON_TYPE(${value}) = 'ARRAY', JSON_MERGE_PRESERVE(${value}, ${bound}), JSON_EXTRACT(${bound}, '$'))`,
    addToSet: (value, { bound }) =>
      `IF(EXISTS(SELECT 1 FROM JSON_TABLE(${arrayOrEmpty(value, `'[]'`)}, '$[*]' COLUMNS(item JSON PATH '$')) items ` +
      `WHERE ${isItem('item', bound)}), ${value}, ${appended(value, `JSON_EXTRACT(${bound}, '$')`)})`,
    pull: (value, { bound }) =>
      `JSON_EXTRACT(CONCAT('[', COALESCE((SELECT GROUP_CONCAT(item ORDER BY position SEPARATOR ',') ` +
      `FROM JSON_TABLE(${value}, '$[*]' COLUMNS(position FOR ORDINALITY, item JSON PATH '$')) items ` +
      `WHERE NOT ${isItem('item', bound)}), ''), ']'), '$')`,
  },
  canAdd: (value, { text, bound }) => {
    const isExact =
      `WHEN ${isLongInteger(value)} THEN LENGTH(REPLACE(${value}, '-', '')) <= ${maxDigits} ` +
      `AND LENGTH(REPLACE(${bound}, '-', '')) <= ${maxDigits} `
    return (
      `CASE WHEN ${isMissing(value)} THEN TRUE ${isInteger(text) ? isExact : ''}` +
      // CAST turns a greater number into the greatest double.
      `WHEN JSON_TYPE(${value}) IN (${numbers}) ` +
      `THEN ABS(CAST(${value} AS DOUBLE)) < ${Number.MAX_VALUE} AND ${isFiniteSum(value, bound)} ELSE FALSE END`
    )
  },
  accepts: {
    number: (value) => isMissingOr(value, numbers),
    array: (value) => isMissingOr(value, `'ARRAY'`),
  },
}

/**
 * The guard validates operands, paths and the stored document, and EXP, out of its range, fails in place of a new document
 * that is NULL: without strict sql_mode, an invalid path, value or depth would set the column to NULL. In the guard, the
 * new document would be computed a second time. Also, reading functions compare keys as written, and writing functions compare
 * unescaped keys: only for the latter does "\u00e9" equal "é".
 */
const variant: UpdateVariant = (change, column, bind) => {
  const { sql } = column
  const isMade = makesDocument(change.operations)
  // JSON_TYPE would read the whole text.
  const isObject = `(LEFT(${sql}, 1) = '{' OR JSON_TYPE(${sql}) = 'OBJECT')`
  const root = isMade ? `IF(${isObject}, ${sql}, JSON_OBJECT())` : sql
  const { document, guards, met, read, operands } = write(functions, root, sql, change, bind)
  const proofs = [
    ...operands.map((operand) => `JSON_EXTRACT(${operand}, '$') IS NOT NULL`),
    ...read.map(
      (path) => `COALESCE(JSON_EXISTS(${sql}, ${path}), 0) = COALESCE(JSON_CONTAINS_PATH(${sql}, 'one', ${path}), 0)`,
    ),
  ]
  const isDocument = `(${sql} IS NULL OR JSON_VALID(${sql}) AND (${isObject} OR JSON_TYPE(${sql}) = 'NULL'))`
  // A key may be stored twice, in two spellings.
  const isCanonical = `COALESCE(${textBytes(sql)} NOT REGEXP ${bind(otherEscape)}, TRUE)`
  // A column of type JSON has such tokens only if SQL wrote them, and each write of a long document would take more time.
  const isJson = column.type === 'TEXT' ? [`COALESCE(${textBytes(sql)} REGEXP ${bind(validTokens)}, TRUE)`] : []
  const guard = [holdsEveryText(column), isDocument, ...isJson, isCanonical, ...guards, ...met, ...proofs].join(' AND ')
  // EXP of NULL is NULL, which stays NULL if the operations do not make a document.
  const length = isMade ? `COALESCE(LENGTH(${sql}), 0)` : `LENGTH(${sql})`
  const written = `COALESCE(${document}, EXP(710 + ${length}))`
  if (!change.operations.some(({ kind }) => kind === 'pull')) return { document: written, guard }
  // GROUP_CONCAT silently truncates a longer text.
  return {
    document: written,
    guard: `${guard} AND COALESCE(OCTET_LENGTH(${sql}), 0) <= LEAST(@@max_allowed_packet, @@group_concat_max_len)`,
    prefix: 'SET STATEMENT group_concat_max_len = 1073741824 FOR ',
  }
}

/** The maximum number of keys for which the server reads a document, once or more often for each of them. */
const maxKeys = 32

/** `$."-1"` is parsed as an array index from the end (error 4042). */
const refuseKey: Dialect['refuseKey'] = (key) =>
  key.startsWith('-')
    ? ['a key may not start with "-"', 'Start it with another character, such as "_".']
    : refuseLongKey(key)

export const mariadb: Dialect = {
  name: 'MariaDB',
  variants: [variant],
  normalizeStoredText: {
    text: canonicalJson,
    isText: (column, text) => `CAST(${column.sql} AS BINARY) = CAST(${text} AS BINARY)`,
    // Half of a surrogate pair.
    misreadEscape: /\\ud[89a-f]/i,
  },
  holds: ({ sql }, text) => functions.equals(`COALESCE(${sql}, 'null')`, text),
  document: (text) => text,
  // The connector would parse a JSON column and round its numbers.
  documentText: (column) => `CAST(${column.sql} AS CHAR)`,
  characterSet,
  listShortColumns: mysql.listShortColumns!,
  hasDecimals: true,
  sum: mysql.sum,
  refusedValue: mysql.refusedValue,
  // The JSON functions read a number that JSON_VALID does not check.
  unreadable: ({ errno }) => (errno === 4038 ? notJson : undefined),
  matched,
  lockClause: 'FOR UPDATE',
  skipLocked: mysql.skipLocked,
  primaryIndex: mysql.primaryIndex!,
  locksScannedRows: true,
  insertIfAbsent: mysql.insertIfAbsent,
  lockWait: (timeoutMs) => ({
    clause: timeoutMs === 0 ? 'FOR UPDATE NOWAIT' : `FOR UPDATE WAIT ${Math.ceil(timeoutMs / 1000)}`,
  }),
  lockHolders: 'SELECT * FROM information_schema.INNODB_TRX ORDER BY trx_started',
  isolationLevels: mysql.isolationLevels,
  maxDepth: 31,
  addends: [1n - 10n ** BigInt(maxDigits), 10n ** BigInt(maxDigits) - 1n],
  // Also, the server does not check its stack in JSON_REMOVE, and crashes at 500 nested calls (thread_stack 292 KiB).
  maxComputedKeys: maxKeys,
  // JSON_TABLE of each list takes more time than to read the document and write it.
  maxPulls: 1,
  readsToCompare(operand) {
    const paths = keyPaths(operand)
    return paths.length > maxKeys || paths.some((path) => refuseKey(path.at(-1) as string) !== undefined)
  },
  refuseKey,
  refuseText: () => undefined,
  classify,
  endsTransaction: mysql.endsTransaction,
  isDisconnected: mysql.isDisconnected!,
  endsTransactionBySql: mysql.endsTransactionBySql,
  isRollback: () => false,
}
