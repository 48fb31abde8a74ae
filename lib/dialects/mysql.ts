import { greatestSum, isInteger } from '../json/encode.js'
import { createsMissing, entersArray, isOfRootArray, makesDocument } from '../json/semantics.js'
import { write, writeRoot } from './json-set.js'
import type { JsonFunctions } from './json-set.js'
import type {
  Bind,
  Change,
  CharacterSet,
  Column,
  Dialect,
  DriverError,
  Failure,
  Misfit,
  Refusal,
  UpdateVariant,
} from './dialect.js'
import { endsTransactionBySql } from './transaction-control.js'

const integers = [-(2n ** 63n), 2n ** 64n - 1n] as const

const numbers = `'INTEGER', 'UNSIGNED INTEGER', 'DOUBLE', 'DECIMAL'`
export const isMissing = (value: string): string => `COALESCE(JSON_TYPE(${value}), 'NULL') = 'NULL'`

export const isMissingOr = (value: string, types: string): string =>
  `COALESCE(JSON_TYPE(${value}), 'NULL') IN ('NULL', ${types})`

export const arrayOrEmpty = (value: string, empty: string): string =>
  `IF(JSON_TYPE(${value}) = 'ARRAY', ${value}, ${empty})`

export const appended = (value: string, item: string): string =>
  `IF(JSON_TYPE(${value}) = 'ARRAY', JSON_ARRAY_APPEND(${value}, '$', ${item}), JSON_ARRAY(${item}))`

const lesser = (value: string, bound: string, than: '<' | '>'): string =>
  `IF(${isMissing(value)} OR CAST(${bound} AS JSON) ${than} ${value}, CAST(${bound} AS JSON), ${value})`

export const decimalSum = (value: string, bound: string): string =>
  `CAST(${value} AS DECIMAL(65, 0)) + CAST(${bound} AS DECIMAL(65, 0))`

/** True if a sum of doubles does not overflow, which would be an error: compared after a division. */
export const isFiniteSum = (value: string, bound: string): string =>
  `ABS(CAST(${value} AS DOUBLE) / 4 + CAST(${bound} AS DOUBLE) / 4) < ${greatestSum / 4}`

/** @see https://dev.mysql.com/doc/refman/9.7/en/json-modification-functions.html */
const functions: JsonFunctions = {
  at: (document, path) => `JSON_EXTRACT(${document}, ${path})`,
  value: (text) => `CAST(${text} AS JSON)`,
  same: (value) => value,
  objectOrEmpty: (parent) => `IF(JSON_TYPE(${parent}) = 'OBJECT', ${parent}, JSON_OBJECT())`,
  isMissing,
  isObjectOrNull: (value) => isMissingOr(value, `'OBJECT'`),
  equals: (value, text) => `COALESCE(${value} = CAST(${text} AS JSON), FALSE)`,
  // JSON compares strings by their bytes in utf8mb4, and numbers exactly.
  isOrdered: (value, than, { text, bound }) =>
    `IF(JSON_TYPE(${value}) IN (${text.startsWith('"') ? `'STRING'` : numbers}), ${value} ${than} CAST(${bound} AS JSON), FALSE)`,
  contains: (value, text) => `IF(JSON_TYPE(${value}) = 'ARRAY', CAST(${text} AS JSON) MEMBER OF (${value}), FALSE)`,
  hasSize: (value, least, greatest) =>
    `IF(JSON_TYPE(${value}) IN ('ARRAY', 'OBJECT'), JSON_LENGTH(${value}) BETWEEN CAST(${least} AS SIGNED) AND CAST(${greatest} AS SIGNED), FALSE)`,
  set: (document, pairs) => `JSON_SET(${document}, ${pairs.join(', ')})`,
  remove: (document, paths) => `JSON_REMOVE(${document}, ${paths.join(', ')})`,
  patch: (document, text) => `JSON_MERGE_PATCH(${document}, ${text})`,
  result: {
    setIfAbsent: (value, { bound }) => `COALESCE(${value}, CAST(${bound} AS JSON))`,
    increment: (value, { text, bound }) =>
      isInteger(text)
        ? // DECIMAL adds integers past 2^53 exactly; JSON_UNQUOTE, since CAST turns the largest ones into 0.
          `CAST(CASE WHEN ${isMissing(value)} THEN ${bound} ` +
          `WHEN JSON_TYPE(${value}) IN ('INTEGER', 'UNSIGNED INTEGER') ` +
          `THEN CAST(${decimalSum(`JSON_UNQUOTE(${value})`, bound)} AS CHAR) ` +
          `ELSE CAST(CAST(${value} AS DOUBLE) + CAST(${bound} AS DOUBLE) AS CHAR) END AS JSON)`
        : `CAST(IF(${isMissing(value)}, 0, CAST(${value} AS DOUBLE)) + CAST(${bound} AS DOUBLE) AS JSON)`,
    min: (value, { bound }) => lesser(value, bound, '<'),
    max: (value, { bound }) => lesser(value, bound, '>'),
    prepend: (value, { bound }) =>
      `IF(JSON_TYPE(${value}) = 'ARRAY', JSON_ARRAY_INSERT(${value}, '$[0]', CAST(${bound} AS JSON)), JSON_ARRAY(CAST(${bound} AS JSON)))`,
    append: (value, { bound }) =>
      `IF(JSON_TYPE(${value}) = 'ARRAY', JSON_MERGE_PRESERVE(${value}, CAST(${bound} AS JSON)), CAST(${bound} AS JSON))`,
    addToSet: (value, { bound }) =>
      `IF(CAST(${bound} AS JSON) MEMBER OF (${arrayOrEmpty(value, 'JSON_ARRAY()')}), ${value}, ${appended(value, `CAST(${bound} AS JSON)`)})`,
    // JSON_TABLE turns JSON null into NULL. JSON_REMOVE keeps the types of the other items, and JSON_ARRAYAGG has no order.
    pull: (value, { bound }) => {
      const items = `JSON_TABLE(${value}, '$[*]' COLUMNS(position FOR ORDINALITY, item JSON PATH '$')) items`
      const isItem = (than: '=' | '<>'): string => `COALESCE(item, CAST('null' AS JSON)) ${than} CAST(${bound} AS JSON)`
      return (
        `COALESCE((SELECT COALESCE(JSON_REMOVE(${value}, CONCAT('$[', MIN(position) - 1, ']')), ${value}) ` +
        `FROM ${items} WHERE ${isItem('=')} HAVING COUNT(*) < 2), ` +
        `CAST(CONCAT('[', COALESCE((SELECT GROUP_CONCAT(COALESCE(item, 'null') ORDER BY position SEPARATOR ',') ` +
        `FROM ${items} WHERE ${isItem('<>')}), ''), ']') AS JSON))`
      )
    },
  },
  canAdd: (value, { text, bound }) => {
    const isExact =
      `WHEN JSON_TYPE(${value}) IN ('INTEGER', 'UNSIGNED INTEGER') THEN ` +
      `${decimalSum(`JSON_UNQUOTE(${value})`, bound)} BETWEEN ${integers.join(' AND ')} `
    return (
      `CASE WHEN ${isMissing(value)} THEN TRUE ${isInteger(text) ? isExact : ''}` +
      `WHEN JSON_TYPE(${value}) IN (${numbers}) THEN ${isFiniteSum(value, bound)} ELSE FALSE END`
    )
  },
  elements: {
    isArray: (value) => `COALESCE(JSON_TYPE(${value}), 'NULL') = 'ARRAY'`,
    isArrayOrNull: (value) => isMissingOr(value, `'ARRAY'`),
    // JSON_SET appends at an index past the end, and keeps the partial update.
    appended: (document, values) =>
      `JSON_SET(${document}, ${values.map((each) => `'$[4294967295]', ${each}`).join(', ')})`,
  },
  accepts: {
    number: (value) => isMissingOr(value, numbers),
    array: (value) => isMissingOr(value, `'ARRAY'`),
  },
}

export const characterSet: CharacterSet = {
  of: ({ sql }) => `CHARSET(${sql})`,
  complete: ['utf8mb4', 'binary'],
}

/** What {@link mysql} reports as the character set of a column of the type JSON. */
const ofJson = 'JSON'

/**
 * True for a column of the type JSON, in a view too. The JSON functions would read the numbers of a text as doubles. COALESCE has
 * the type JSON if both its arguments have; else it is a text, which equals no object.
 */
function isJson({ sql }: Column): string {
  return `COALESCE(JSON_OBJECT(), ${sql}) = JSON_OBJECT()`
}

const completeSets = characterSet.complete.map((name) => `'${name}'`).join(', ')

/** The maximum length of the text of a list that `pull` rebuilds, in bytes. */
const maxConcatenated = 2 ** 30

/** True for a column that holds every text. Others replace characters by '?', or store the bytes of UTF-8 as Latin. */
export function holdsEveryText(column: Column): string {
  return `${characterSet.of(column)} IN (${completeSets})`
}

/**
 * For a document that is an object, or an array if the operations need one. The column is the first argument, as MySQL's
 * partial update requires.
 * @see https://dev.mysql.com/doc/refman/9.7/en/json.html#json-partial-updates
 */
const partial: UpdateVariant = (change, column, bind) => {
  const { sql } = column
  const { operations, conditions } = change
  const type = isOfRootArray(operations) ? 'ARRAY' : 'OBJECT'
  const { document, guards, met } = writtenDocument(sql, sql, change, bind)
  // JSON_SET would ignore a key of an array.
  const isFitting =
    type === 'OBJECT' || ![...operations, ...conditions].some(({ path: [first] }) => typeof first === 'string')
  const all = [isJson(column), `JSON_TYPE(${sql}) = '${type}'`, ...guards, ...met]
  const guard = (isFitting ? all : [...all, '1 = 0']).join(' AND ')
  if (!operations.some(({ kind }) => kind === 'pull')) return { document, guard }
  // GROUP_CONCAT truncates a longer text, and CONCAT returns NULL for it: without strict sql_mode, only with a warning.
  const isShort = `OCTET_LENGTH(${sql}) <= LEAST(@@max_allowed_packet, ${maxConcatenated})`
  return {
    document,
    guard: `${guard} AND ${isShort}`,
    hint: `/*+ SET_VAR(group_concat_max_len = ${maxConcatenated}) */ `,
  }
}

/** For NULL and JSON null: JSON_SET would return the former as NULL and the latter unchanged, without an error. */
const initialising: UpdateVariant = (change, column, bind) => {
  const { operations } = change
  const isMade = makesDocument(operations)
  const empty = isMade && isOfRootArray(operations) ? 'JSON_ARRAY()' : 'JSON_OBJECT()'
  const [root, applied] = isMade ? [empty, change] : [column.sql, { ...change, operations: [] }]
  const { document, met } = writtenDocument(root, empty, applied, bind)
  // There is no element to write.
  const needsElement = operations.some(({ kind, path }) => createsMissing(kind) && entersArray(path))
  const isNull = `COALESCE(JSON_TYPE(${column.sql}), 'NULL') = 'NULL'`
  const guard = [isJson(column), isNull, ...met, ...(needsElement ? ['1 = 0'] : [])].join(' AND ')
  return { document, guard }
}

/** {@link write}, or the change of a document that is an array, at its root. */
function writtenDocument(
  root: string,
  document: string,
  change: Change,
  bind: Bind,
): { readonly document: string; readonly guards: readonly string[]; readonly met: readonly string[] } {
  const [operation] = change.operations
  if (!operation || operation.path.length > 0 || !isOfRootArray([operation])) {
    return write(functions, root, document, change, bind)
  }
  const { met } = write(functions, root, document, { ...change, operations: [] }, bind)
  return { document: writeRoot(functions, root, operation, bind), guards: [], met }
}

/** Whether an UPDATE matched its rows. `affectedRows` counts only changed rows; `info` also has the matched rows. */
export function matched(header: unknown, rows: number = 1): boolean | undefined {
  const { affectedRows, info } = header as { affectedRows: number; info?: string }
  const count = /Rows matched: (\d+)/.exec(info ?? '')?.[1]
  if (count !== undefined) return Number(count) >= rows
  return affectedRows >= rows ? true : undefined
}

/** Marks a duplicate in the result of an INSERT, in place of the number of an auto-increment column. */
const duplicateMark = '9007199254740881'

/**
 * On a duplicate the INSERT takes an exclusive lock; after a failed one without this clause, the lock would be shared, and
 * two transactions that then write the row would wait for each other. The clause applies to every unique key: for another
 * one than `key` it fails, out of the range of EXP, before it writes.
 * @see https://dev.mysql.com/doc/refman/9.7/en/insert-on-duplicate.html
 */
const insertIfAbsent: Dialect['insertIfAbsent'] = {
  sql: ({ table, columns, values, key: [column], isKey }) =>
    `INSERT INTO ${table} (${columns.join(', ')}) VALUES (${values.join(', ')}) ON DUPLICATE KEY UPDATE ` +
    `${column} = IF(LAST_INSERT_ID(IF(${isKey()}, ${duplicateMark}, EXP(710 + IFNULL(LENGTH(${column}), 0)))) = 0, ${column}, ${column})`,
  // With the flag FOUND_ROWS, a duplicate counts as an affected row too.
  isInserted(result) {
    const [id, affectedRows] = result as [unknown, number]
    return affectedRows === 1 && String(id) !== duplicateMark
  },
  isOtherKey: ({ errno }) => errno === 1690,
  locksGaps: true,
  countsZero: true,
  // information_schema has no temporary tables.
  listIndexes: {
    sql: ({ quoted }) => `SHOW INDEX FROM ${quoted}`,
    read: ({ Key_name: name, Column_name: column, Non_unique: duplicates, Sub_part: prefix }) => ({
      name: name as string,
      column: column as string | null,
      isUnique: Number(duplicates) === 0 && prefix === null,
      isDeferrable: false,
    }),
  },
}

/** The errors of the server, by their number. */
const failures: Readonly<Record<number, Failure>> = {
  1213: 'deadlock',
  // Another node of the cluster committed first.
  3101: 'conflict',
  // innodb_snapshot_isolation, the default since MariaDB 11.6.2.
  1020: 'conflict',
  1205: 'lock timeout',
  3024: 'lock timeout',
  3572: 'lock timeout',
  // KILL QUERY, and MariaDB's max_statement_time.
  1317: 'cancelled',
  1969: 'cancelled',
  // The lock table is full: InnoDB rolls back the whole transaction.
  1206: 'resources',
  // A transaction, or a server, that is read-only; for a server option see classify().
  1792: 'read-only',
  1836: 'read-only',
  // The server shut down, or a proxy closed the connection, perhaps during a commit.
  1053: 'lost',
  1927: 'lost',
  // Vitess: the primary of the shard is out of reach.
  1105: 'lost',
  // The node has lost the majority: it rolls back, but the other nodes may apply the write.
  3100: 'lost',
}

/** The server closes the connection: it shuts down, or the session was killed. */
const disconnections: readonly number[] = [1053, 1927]

/** Whether the connection is lost. The driver for MariaDB takes each interrupted statement for that. */
function isDisconnected({ errno = 0, fatal = false }: DriverError): boolean {
  return isServerError(errno) ? disconnections.includes(errno) : fatal
}

/** The errors for a value that its column cannot hold, by their number. */
const misfits: Readonly<Record<number, Misfit>> = {
  1264: 'out of range',
  1690: 'out of range',
  1406: 'too long',
  3988: 'outside the character set',
  // A number, a date, an item of an ENUM, or characters that the character set of the column lacks.
  1265: 'of another type',
  1292: 'of another type',
  1366: 'of another type',
}

/** Whether the server assigned an error number: client libraries use 2000 to 2999, and drivers use other numbers. */
const isServerError = (errno: number): boolean => (errno >= 1000 && errno < 2000) || (errno >= 3000 && errno < 45_000)

/** Both drivers report a connection that was closed before sending; after any other loss the outcome is unknown. */
export function classify({ errno, message }: DriverError, statement?: 'COMMIT'): Failure | undefined {
  // Vitess, after its deadline: the COMMIT may be done.
  if (errno === 1317 && statement === 'COMMIT') return 'lost'
  // A node of Galera that joins its cluster, or is in a part of it without the majority. Otherwise an unknown command.
  if (errno === 1047) return message.includes('WSREP') ? 'not ready' : undefined
  // InnoDB's error 149 is a conflict with another node; after another error of a COMMIT the outcome is unknown.
  if (errno === 1180) return /\b149\b/.test(message) ? 'conflict' : 'lost'
  // A server option forbids the statement, for example --read-only on a replica, or --secure-file-priv.
  if (errno === 1290) return /read-only/.test(message) ? 'read-only' : undefined
  if (errno !== undefined && isServerError(errno)) return failures[errno]
  const isUnsent = errno === 45_013 || /closed state/.test(message)
  return isUnsent ? undefined : 'lost'
}

const maxKeyBytes = 65_535

export function refuseLongKey(key: string): Refusal | undefined {
  if (Buffer.byteLength(key) <= maxKeyBytes) return undefined
  return [`a key may have ${maxKeyBytes} bytes at most`, 'Shorten it, or store it as a value.']
}

/** @see https://dev.mysql.com/doc/refman/9.7/en/implicit-commit.html */
const implicitCommit = [
  '(?:CREATE(?:\\s+OR\\s+REPLACE)?|DROP)(?!\\s+TEMPORARY|\\s+OR\\b)',
  'ALTER|TRUNCATE|RENAME|GRANT|REVOKE|INSTALL|UNINSTALL|IMPORT|OPTIMIZE|REPAIR|FLUSH|RESET|CHANGE|XA',
  '(?:ANALYZE|CHECK)\\s+(?:(?:LOCAL|NO_WRITE_TO_BINLOG)\\s+)?TABLES?',
  '(?:UN)?LOCK\\s+TABLES?|(?:CACHE|LOAD)\\s+INDEX|(?:START|STOP)\\s+\\w+',
  // autocommit = 0 would also leave the next user of the pooled connection without a COMMIT.
  'SET\\s+PASSWORD|SET\\s[^;]*\\bautocommit',
].join('|')

export const mysql: Dialect = {
  name: 'MySQL',
  variants: [partial, initialising],
  // A text would be compared as a JSON string.
  holds: ({ sql }, text) => `COALESCE(CAST(${sql} AS JSON), CAST('null' AS JSON)) = CAST(${text} AS JSON)`,
  document: (text) => `CAST(${text} AS JSON)`,
  documentText: (column) => `CAST(${column.sql} AS CHAR)`,
  characterSet: {
    of: (column) => `IF(${isJson(column)}, '${ofJson}', ${characterSet.of(column)})`,
    complete: [...characterSet.complete, ofJson],
    ofJson,
  },
  matched,
  lockClause: 'FOR UPDATE',
  skipLocked: () => 'FOR UPDATE SKIP LOCKED',
  primaryIndex: { hint: 'FORCE INDEX (PRIMARY)', isMissing: ({ errno }) => errno === 1176 },
  locksScannedRows: true,
  insertIfAbsent,
  // SET_VAR cannot set innodb_lock_wait_timeout.
  lockWait: (timeoutMs) =>
    timeoutMs === 0 ? { clause: 'FOR UPDATE NOWAIT' } : { hint: `/*+ MAX_EXECUTION_TIME(${timeoutMs}) */ ` },
  lockHolders: `SELECT * FROM performance_schema.data_locks WHERE LOCK_TYPE = 'RECORD'`,
  isolationLevels: ['READ UNCOMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'],
  maxDepth: 100,
  writesElements: true,
  roundsTexts: true,
  maxPulls: 64,
  integers,
  listShortColumns: {
    sql: ({ quoted }) => `SHOW COLUMNS FROM ${quoted} WHERE Type NOT LIKE 'json%' AND Type NOT LIKE 'longtext%'`,
    read: ({ Field: name }) => name as string,
  },
  // The driver binds numbers as doubles.
  hasDecimals: true,
  sum: (column, by, kind) => `COALESCE(${column}, 0) + CAST(${by} AS DECIMAL(65, ${kind === 'integer' ? 0 : 30}))`,
  refusedValue({ errno = 0, message }) {
    const { [errno]: misfit } = misfits
    // 'title', or `database`.`runs`.`title`.
    const [, quoted, named] = /column (?:'([^']+)'|\S*`([^`]+)`) at row/.exec(message) ?? []
    return misfit && { misfit, column: quoted ?? named }
  },
  refuseKey: refuseLongKey,
  refuseText: () => undefined,
  classify,
  endsTransaction: ['deadlock', 'conflict', 'resources'],
  isDisconnected,
  endsTransactionBySql: endsTransactionBySql({ starts: implicitCommit, isMysql: true }),
  isRollback: () => false,
}
