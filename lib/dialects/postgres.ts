import { notJson } from '../errors/errors.js'
import { greatestSum, isInteger, maskEscapes } from '../json/encode.js'
import { createsMissing, makesDocument, neededType, operators, sizes } from '../json/semantics.js'
import type { BasicOperation, Condition, Operation } from '../json/operation.js'
import type { BasicKind } from '../json/values.js'
import type {
  Bind,
  Column,
  Compared,
  Dialect,
  DriverError,
  Failure,
  IndexColumn,
  Misfit,
  UpdateVariant,
} from './dialect.js'
import { insertOnConflict } from './insert.js'
import { refuseNul } from './limits.js'
import { endsTransactionBySql } from './transaction-control.js'

/** The column as jsonb. */
const jsonb = (column: Column): string => (column.type === 'JSONB' ? column.sql : `${column.sql}::jsonb`)

const objectOrEmpty = (value: string): string =>
  `CASE WHEN jsonb_typeof(${value}) = 'object' THEN ${value} ELSE '{}'::jsonb END`

/** `old` and `operand` added as doubles. A number that is too small for a double is 0 in JavaScript, and an error here. */
const doubleSum = `to_jsonb(CASE WHEN abs(old::numeric) < 2.5e-324 THEN 0 ELSE old::float8 END + operand::float8)`

/** The new value at a key, computed from its value `old` and the `operand`; a missing entry does not compile. */
const results: Readonly<Record<Exclude<BasicKind, 'set' | 'remove' | 'rename' | 'merge'> | 'incrementDouble', string>> =
  {
    setIfAbsent: `COALESCE(old, operand)`,
    increment:
      `CASE WHEN scale(old::numeric) > 0 THEN ${doubleSum} ` +
      `ELSE to_jsonb(COALESCE(old::numeric, 0) + operand::numeric) END`,
    incrementDouble: `CASE WHEN old IS NULL THEN operand ELSE ${doubleSum} END`,
    // jsonb compares numbers by value, and keeps all their digits.
    min: `CASE WHEN old <= operand THEN old ELSE operand END`,
    max: `CASE WHEN old >= operand THEN old ELSE operand END`,
    prepend: `jsonb_build_array(operand) || COALESCE(old, '[]')`,
    append: `COALESCE(old, '[]') || operand`,
    addToSet:
      `CASE WHEN EXISTS (SELECT FROM jsonb_array_elements(old) AS item WHERE item = operand) ` +
      `THEN old ELSE COALESCE(old, '[]') || jsonb_build_array(operand) END`,
    pull:
      `COALESCE((SELECT '[' || string_agg(item::text, ',' ORDER BY position) || ']' FROM jsonb_array_elements(old) ` +
      `WITH ORDINALITY AS items(item, position) WHERE item <> operand), '[]')::jsonb`,
  }

/** Which old values an operation changes, for those that create nothing; other values stay as they are. */
const changesOnly: Readonly<Record<string, string>> = {
  rename: `old IS NOT NULL`,
  pull: `old IS NOT NULL`,
  inObject: `jsonb_typeof(old) = 'object'`,
}

/** The operations on a key and inside its value. */
type KeyOperations = readonly [key: string, operations: readonly [Operation, ...Operation[]]]

/** Groups operations by the first key of their path, without that key. */
function byKey(operations: readonly Operation[]): readonly KeyOperations[] {
  const groups = new Map<string, Operation[]>()
  for (const operation of operations) {
    const [key, ...path] = operation.path as readonly string[]
    const group = groups.get(key!) ?? []
    group.push({ ...operation, path })
    groups.set(key!, group)
  }
  return [...groups] as unknown as KeyOperations[]
}

/**
 * What a change does to a key. `incrementDouble` adds a number that is not spelled as an integer. `in` and `inObject`
 * change an inner object; `inObject` does not create it.
 */
type KeyKind = BasicKind | 'incrementDouble' | 'in' | 'inObject'

const comparesType = (kind: KeyKind): boolean =>
  kind === 'incrementDouble' || neededType(kind as BasicKind) !== undefined

const createsObject = (operations: readonly Operation[]): boolean => operations.some(({ kind }) => createsMissing(kind))

/** All objects at one depth of a change. */
interface Level {
  readonly kinds: Set<KeyKind>
  /** The greatest number of keys in one object. */
  keys: number
  /** The same for each level of the patches. */
  patchKeys: readonly number[]
}

/** Operations as JSON text, `{ kind: { key: operand } }`, and their levels from `depth` on. */
function changeText(operations: readonly Operation[], levels: Level[], depth = 0): string {
  const kinds = new Map<KeyKind, string[]>()
  const groups = byKey(operations)
  const level = (levels[depth] ??= { kinds: new Set(), keys: 0, patchKeys: [] })
  level.keys = Math.max(level.keys, groups.length)
  const put = (kind: KeyKind, key: string, operand: string): void => {
    const entries = kinds.get(kind) ?? []
    entries.push(`${JSON.stringify(key)}:${operand}`)
    kinds.set(kind, entries)
    level.kinds.add(kind)
  }
  for (const [key, inner] of groups) {
    const [{ kind, path, json }] = inner as readonly [BasicOperation]
    if (path.length > 0) {
      put(createsObject(inner) ? 'in' : 'inObject', key, changeText(inner, levels, depth + 1))
      continue
    }
    put(kind === 'increment' && !isInteger(json) ? 'incrementDouble' : kind, key, json)
    if (kind === 'rename') put('remove', key, 'null')
    if (kind === 'merge') level.patchKeys = greatest(level.patchKeys, patchKeys(json))
  }
  return `{${[...kinds].map(([kind, entries]) => `"${kind}":{${entries.join()}}`).join()}}`
}

const greatest = (some: readonly number[], others: readonly number[]): number[] =>
  Array.from({ length: Math.max(some.length, others.length) }, (_, index) =>
    Math.max(some[index] ?? 0, others[index] ?? 0),
  )

/** For each level of objects in a patch, the greatest number of keys in one of them. Parsing would round numbers. */
function patchKeys(patch: string): number[] {
  const greatestOf: number[] = []
  const open: number[] = []
  let arrays = 0
  for (const [token] of maskEscapes(patch).matchAll(/"[^"]*"|[{}[\]:]/g)) {
    if (token === '[') arrays++
    else if (token === ']') arrays--
    else if (arrays > 0) continue
    else if (token === '{') open.push(0)
    else if (token === ':') open[open.length - 1]!++
    else if (token === '}') {
      const keys = open.pop()!
      greatestOf[open.length] = Math.max(greatestOf[open.length] ?? 0, keys)
    }
  }
  return greatestOf
}

/** The object in `value` as `object`, computed once, and its change. */
const target = (value: string, change: string): string =>
  `(SELECT ${objectOrEmpty(value)} AS object, ${change} AS change OFFSET 0) AS target`

/** An expression of `stored`, the document, which is read once: the concatenation decompresses it. */
const ofDocument = (expression: string, document: string): string =>
  `(SELECT ${expression} FROM (SELECT ${document} || '{}'::jsonb AS stored OFFSET 0) AS document)`

/** The object of some keys and values. jsonb_object_agg takes minutes for a value that is a long array. */
const objectOf = (entries: string): string =>
  `COALESCE((SELECT '{' || string_agg(to_json(key)::text || ':' || value::text, ',') || '}' ` +
  `FROM (${entries}) AS entries(key, value)), '{}')::jsonb`

/**
 * A limit tells the planner how many rows there are. Without it, it expects 100 of each function, to the power of the
 * depth, and compiles the statement (JIT), which takes longer than all the rest.
 */
const limited = (rows: string, keys: number, bind: Bind): string => `(${rows} LIMIT ${bind(String(keys))}::bigint)`

/**
 * The object after operations inside it. The text does not depend on the number of keys, and each object is copied as a
 * whole, not key by key: its size must not be multiplied by the number of operations.
 */
function changed(value: string, change: string, [level, ...inner]: readonly Level[], bind: Bind): string {
  const { kinds, keys, patchKeys } = level!
  const results = [...kinds].flatMap((kind) => {
    if (kind === 'set' || kind === 'remove') return []
    // JSON null counts as a missing number or array.
    const old = comparesType(kind) ? `NULLIF(object -> key, 'null')` : 'object -> key'
    const rows = limited(`SELECT key, value AS operand, ${old} AS old FROM jsonb_each(change -> '${kind}')`, keys, bind)
    const only = changesOnly[kind] === undefined ? '' : ` WHERE ${changesOnly[kind]}`
    const key = kind === 'rename' ? `operand #>> '{}'` : 'key'
    return [`SELECT ${key}, ${result(kind, patchKeys, inner, bind)} FROM ${rows} AS entry${only}`]
  })
  const parts = [
    kinds.has('remove') ? `(object - ARRAY(SELECT jsonb_object_keys(change -> 'remove')))` : 'object',
    ...(kinds.has('set') ? [`COALESCE(change -> 'set', '{}')`] : []),
    ...(results.length > 0 ? [objectOf(results.join(' UNION ALL '))] : []),
  ]
  return `(SELECT ${parts.join(' || ')} FROM ${target(value, change)})`
}

function result(
  kind: Exclude<KeyKind, 'set' | 'remove'>,
  patchKeys: readonly number[],
  inner: readonly Level[],
  bind: Bind,
): string {
  if (kind === 'rename') return 'old'
  if (kind === 'merge') return merged('old', 'operand', patchKeys, bind)
  return kind === 'in' || kind === 'inObject' ? changed('old', 'operand', inner, bind) : results[kind]
}

/** RFC 7396. PostgreSQL has no function for it. The text depends on the depth of the patch only. */
function merged(value: string, patch: string, [keys, ...inner]: readonly number[], bind: Bind): string {
  const after =
    inner.length > 0
      ? `CASE WHEN jsonb_typeof(value) = 'object' THEN ${merged('(object -> key)', 'value', inner, bind)} ELSE value END`
      : 'value'
  const entries = limited('SELECT key, value FROM jsonb_each(change)', keys!, bind)
  return (
    `(SELECT (object - ARRAY(SELECT key FROM jsonb_each(change) WHERE value = 'null')) || ` +
    `${objectOf(`SELECT key, ${after} FROM ${entries} AS entry WHERE value <> 'null'`)} FROM ${target(value, patch)})`
  )
}

const child = (value: string, key: string): string => `(${value} -> ${key}::text)`

const withEntry = (value: string, key: string, after: string): string =>
  `(${objectOrEmpty(value)} || jsonb_build_object(${key}::text, ${after}))`

const withEntries = (value: string, json: string, bind: Bind): string =>
  `(${objectOrEmpty(value)} || ${bind(json)}::jsonb)`

/** The object after a patch. An object with one key needs no subquery: the planner takes long for many inside another. */
function patched(value: string, json: string, bind: Bind): string {
  const keys = patchKeys(json)
  if (keys.length === 1 && !json.includes('null')) return withEntries(value, json, bind)
  const [, name, inner] = (keys.length > 1 && keys[0] === 1 && onlyEntry.exec(json)) || []
  if (name === undefined || inner === undefined) return merged(value, `${bind(json)}::jsonb`, keys, bind)
  const key = bind(JSON.parse(name) as string)
  return withEntry(value, key, patched(child(value, key), inner, bind))
}

/** Matches the only key of an object, and its value. */
const onlyEntry = /^\s*\{\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:(.*)\}\s*$/s

/** The object after operations inside it. As in {@link patched}, an object with one key needs no subquery. */
function written(value: string, operations: readonly Operation[], bind: Bind): string {
  const [{ path, json }] = operations as readonly [Operation]
  if (path.length === 0) return patched(value, json, bind)
  if (operations.every(isPlainSet)) {
    return withEntries(
      value,
      `{${operations.map(({ path: [key], json }) => `${JSON.stringify(key)}:${json}`).join()}}`,
      bind,
    )
  }
  const [[name, inner], ...others] = byKey(operations) as [KeyOperations, ...KeyOperations[]]
  if (others.length > 0 || (inner[0].path.length === 0 && inner[0].kind !== 'merge') || !createsObject(inner)) {
    const levels: Level[] = []
    const text = changeText(operations, levels)
    return changed(value, `${bind(text)}::jsonb`, levels, bind)
  }
  const key = bind(name)
  return withEntry(value, key, written(child(value, key), inner, bind))
}

/** True if the sum of a stored number and `by` would be greater than the greatest double, which would be an error. */
const overflows =
  `CASE WHEN by IS NOT NULL AND jsonb_typeof(stored #> path) = 'number' ` +
  `THEN NOT (exact AND scale((stored #> path)::numeric) = 0) AND ` +
  `NOT (abs((stored #> path)::numeric) < 1.7976931348623158e308 AND abs((stored #> path)::numeric + by) < ${greatestSum}) END`

const isPlainSet = ({ kind, path }: Operation): boolean => kind === 'set' && path.length === 1

/** What the values at some paths must be, if they exist, for `operations`: JSON text; `undefined` if there is no need. */
function needsText(operations: readonly Operation[]): string | undefined {
  const needs = new Map<string, string>()
  for (const { kind, path, json } of operations) {
    for (let depth = 1; depth < path.length; depth++) {
      needs.set(JSON.stringify(path.slice(0, depth)), '"types":["object","null"]')
    }
    const needed = neededType(kind)
    const sum = kind === 'increment' ? `,"by":${json},"exact":${isInteger(json)}` : ''
    if (needed) needs.set(JSON.stringify(path), `"types":["${needed}","null"]${sum}`)
  }
  if (needs.size === 0) return undefined
  return `[${[...needs].map(([path, need]) => `{"path":${path},${need}}`).join()}]`
}

/** The SQL of a condition on a value, without its negation; never NULL. */
function conditionSql({ kind, json }: Condition, value: string, bind: Bind): string {
  switch (kind) {
    case 'exists':
      return `${value} IS NOT NULL`
    case 'absent':
      return `${value} IS NULL`
    case 'equals':
      return `COALESCE(${value} = ${bind(json)}::jsonb, FALSE)`
    case 'contains':
      return (
        `EXISTS (SELECT FROM jsonb_array_elements(CASE WHEN jsonb_typeof(${value}) = 'array' THEN ${value} ELSE '[]'::jsonb END) ` +
        `AS item WHERE item = ${bind(json)}::jsonb)`
      )
    case 'size': {
      const [least, greatest] = sizes(json).map((each) => `${bind(String(each))}::bigint`)
      return (
        `COALESCE(CASE jsonb_typeof(${value}) WHEN 'array' THEN jsonb_array_length(${value}) ` +
        `WHEN 'object' THEN (SELECT count(*) FROM jsonb_object_keys(${value})) END BETWEEN ${least} AND ${greatest}, FALSE)`
      )
    }
    default: {
      const [type, sides] = json.startsWith('"')
        ? ['string', [value, `${bind(json)}::jsonb`].map(bytes)]
        : ['number', [value, `${bind(json)}::jsonb`]]
      return `CASE WHEN jsonb_typeof(${value}) = '${type}' THEN ${sides.join(` ${operators[kind]} `)} ELSE FALSE END`
    }
  }
}

/** The bytes of a JSON string; jsonb would compare strings by the collation of the database. */
const bytes = (value: string): string => `convert_to(${value} #>> '{}', 'UTF8')`

/** @see https://www.postgresql.org/docs/18/functions-json.html */
const variant: UpdateVariant = ({ operations, conditions }, column, bind) => {
  const stored = jsonb(column)
  const changed = operations.every(isPlainSet)
    ? operations.length === 0
      ? stored
      : written(stored, operations, bind)
    : ofDocument(written('stored', operations, bind), stored)
  const document = makesDocument(operations)
    ? changed
    : `CASE WHEN jsonb_typeof(${stored}) = 'object' THEN ${changed} ELSE ${stored} END`
  const needs = needsText(operations)
  const met = conditions.map((condition) => {
    const keys = condition.path as readonly string[]
    const value = keys.reduce((parent, key) => child(parent, bind(key)), 'stored')
    const sql = conditionSql(condition, value, bind)
    return condition.isNegated ? `NOT (${sql})` : sql
  })
  if (needs !== undefined) {
    const isSum = operations.some(({ kind }) => kind === 'increment')
    // A path in text[] finds items of arrays too, but then a parent does not have the type that it needs.
    met.push(
      `NOT EXISTS (SELECT FROM jsonb_to_recordset(${bind(needs)}::jsonb) ` +
        `AS need(path text[], types text[], by numeric, exact boolean) ` +
        // Concatenated with an object, JSON null is an array.
        `WHERE jsonb_typeof(stored) = 'object' ` +
        `AND (jsonb_typeof(stored #> path) <> ALL (types)${isSum ? ` OR ${overflows}` : ''}))`,
    )
  }
  const isObject = `COALESCE(jsonb_typeof(${stored}), 'null') IN ('object', 'null')`
  return {
    document: column.type === 'JSONB' ? document : `(${document})::${column.type.toLowerCase()}`,
    guard: met.length > 0 ? `${isObject} AND ${ofDocument(met.join(' AND '), stored)}` : isObject,
  }
}

const failures: Readonly<Record<string, Failure>> = {
  '40P01': 'deadlock',
  '40001': 'conflict',
  '55P03': 'lock timeout',
  // Also by statement_timeout.
  '57014': 'cancelled',
}

/**
 * Shutdown, crash, lost connection or internal error, perhaps during a commit: with synchronous replication the
 * transaction can be committed although the server reports an error.
 */
const lost = /^(08|57P0|58|XX)/

function classify({ severity, code = '', message }: DriverError): Failure | undefined {
  if (severity !== undefined) return failures[code] ?? (lost.test(code) ? 'lost' : undefined)
  // The driver knew that the connection was lost and did not send the statement.
  return /not queryable/.test(message) ? undefined : 'lost'
}

/** The errors for a value that its column cannot hold, by their code; the others of their class are of another type. */
const misfits: Readonly<Record<string, Misfit>> = {
  '22001': 'too long',
  '22003': 'out of range',
  '22008': 'out of range',
}

/** PostgreSQL 14 and newer name the bind, in the server's own language: `unnamed portal parameter $2 = '…'`. */
function refusedBind({ code = '', where = '', message }: DriverError, binds: readonly unknown[]): number | undefined {
  if (!code.startsWith('22')) return undefined
  const bind = /^[^"\n]*\$(\d+)/.exec(where)?.[1]
  if (bind !== undefined) return Number(bind)
  // PostgreSQL 13 quotes the text of the bind, but not its number.
  const [, text] = /"([^"]*)"/.exec(message) ?? []
  return where === '' && text !== undefined ? binds.map(String).lastIndexOf(text) + 1 || undefined : undefined
}

const integerBits: Readonly<Record<string, number>> = {
  TINYINT: 16,
  SMALLINT: 16,
  MEDIUMINT: 32,
  INTEGER: 32,
  BIGINT: 64,
}

/** Whether a column of a type takes a value as a bind; else the server rejects the statement. */
function takes({ key, values }: Compared['type'], value: unknown): boolean {
  const text = String(value)
  const bits = integerBits[key]
  if (bits !== undefined) return /^-?\d+$/.test(text) && BigInt.asIntN(bits, BigInt(text)) === BigInt(text)
  // Math.fround is infinite, or 0, where a float4 is out of range.
  if (key === 'REAL')
    return Number.isFinite(Math.fround(Number(text))) && (Math.fround(Number(text)) !== 0 || Number(text) === 0)
  if (key === 'UUID') return /^(?:[\da-f]{4}-?){7}[\da-f]{4}$/i.test(text)
  if (key === 'TIME') return /^(?:[01]?\d|2[0-3]):/.test(text)
  return key !== 'ENUM' || values === undefined || values.includes(value)
}

/** Compares what a column cannot hold as a number or a text, as the other databases do. An index does not help there. */
export function postgresComparison({ column, operator, bind, value, type }: Compared): string {
  // No text has the NUL character.
  if (typeof value === 'string' && value.includes('\0')) {
    if (operator === '=' || operator === 'LIKE') return '1 = 0'
    if (operator === '<>' || operator === 'NOT LIKE') return `${column} IS NOT NULL`
  }
  // No row has such a value, and a cast of the column would scan the table.
  const isExact = type.key === 'UUID' || (type.key in integerBits && isInteger(String(value)))
  if (isExact && !takes(type, value)) {
    if (operator === '=') return '1 = 0'
    if (operator === '<>') return `${column} IS NOT NULL`
  }
  const bound = bind()
  const isText = ['STRING', 'CHAR', 'TEXT', 'CITEXT'].includes(type.key)
  if (operator.endsWith('LIKE')) return `${column}${isText ? '' : '::text'} ${operator} ${bound}`
  if (isText || takes(type, value)) return `${column} ${operator} ${bound}`
  if (type.key === 'REAL') return `${column} ${operator} ${bound}::float8`
  if (type.key in integerBits) return `${column} ${operator} ${bound}::numeric`
  return `${column}::text ${operator} ${bound}`
}

export const postgres: Dialect = {
  name: 'PostgreSQL',
  variants: [variant],
  holds: (column, text) => `COALESCE(${jsonb(column)}, 'null'::jsonb) = ${text}::jsonb`,
  document: (text) => text,
  documentText: (column) => `${column.sql}::text`,
  skipsRows: (statement) =>
    `a BEFORE ${statement} trigger that returns NULL, a policy of row-level security, or a rule`,
  insertIfAbsent: {
    sql: insertOnConflict('INSERT INTO'),
    listIndexes: {
      sql: ({ name, schema }, bind) =>
        `SELECT relname AS name, attname AS "column", indimmediate AND indisvalid AND indpred IS NULL AS "isUnique", ` +
        `NOT indimmediate AS "isDeferrable" FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid ` +
        `CROSS JOIN generate_series(0, indnkeyatts - 1) AS position ` +
        `LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[position] WHERE indisunique AND indrelid = ` +
        `to_regclass(${schema === undefined ? '' : `quote_ident(${bind(schema)}::text) || '.' || `}quote_ident(${bind(name)}::text)) ` +
        `ORDER BY relname, position`,
      read: (row) => row as unknown as IndexColumn,
    },
  },
  // FOR UPDATE would also block the foreign-key checks of rows that refer to this one.
  lockClause: 'FOR NO KEY UPDATE',
  skipLocked: () => 'FOR NO KEY UPDATE SKIP LOCKED',
  lockWait: (timeoutMs) =>
    timeoutMs === 0
      ? { clause: 'FOR NO KEY UPDATE NOWAIT' }
      : {
          setting: {
            value: `${timeoutMs}ms`,
            read: `SELECT current_setting('lock_timeout')`,
            write: (value) => [`SELECT set_config('lock_timeout', $1, true)`, value],
          },
        },
  lockHolders: 'SELECT * FROM pg_stat_activity WHERE xact_start IS NOT NULL ORDER BY xact_start',
  isolationLevels: ['READ UNCOMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'],
  // PostgreSQL stores deeper documents, but JSON.parse fails at a slightly greater depth.
  maxDepth: 5000,
  // The time to plan the statement grows with the square of the path or more: 4 s for 256 keys.
  maxPath: 256,
  refuseKey: refuseNul('text'),
  refuseText: refuseNul('text'),
  classify,
  refusedBind,
  unreadable({ code = '', message, detail = '' }) {
    const isUnread = code === '22P05' || (code === '22P02' && /\bjson\b/.test(message))
    if (!isUnread) return undefined
    // The server's own language has this word, too.
    return code === '22P05' || /Unicode/i.test(detail)
      ? 'the NUL character or half of a surrogate pair, which jsonb cannot represent'
      : notJson
  },
  hasDecimals: true,
  sum: (column, by) => `COALESCE(${column}, 0) + ${by}::numeric`,
  refusedValue(error, binds) {
    const { code = '' } = error
    const misfit = misfits[code] ?? (code.startsWith('22') ? 'of another type' : undefined)
    return misfit && { misfit, bind: refusedBind(error, binds) }
  },
  typeOfJson: ({ code, message }) => (code === '42804' ? /\bjsonb?\b/.exec(message)?.[0] : undefined),
  endsTransaction: [],
  endsTransactionBySql: endsTransactionBySql({ starts: '', isMysql: false }),
  // Raised by a function or a trigger, it has a context.
  isAfterError: (error) => error?.code === '25P02' && error.where === undefined,
  isDisconnected: ({ severity, code = '' }) => severity === undefined || lost.test(code),
  isRollback: (result) => (result as [unknown, { command?: string }])[1].command === 'ROLLBACK',
}
