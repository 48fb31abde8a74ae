import { createsMissing, neededType } from '../json/semantics.js'
import type { Operation } from '../json/operation.js'
import { isObject } from '../json/values.js'
import type { Bind, Column, Dialect, DriverError, Failure, UpdateVariant } from './dialect.js'
import { endsTransactionBySql } from './transaction-control.js'

const refuseNul = (text: string): string | undefined =>
  text.includes('\0') ? 'a text may not contain the NUL character' : undefined

/** The column as jsonb. */
const jsonb = (column: Column): string => (column.type === 'JSONB' ? column.sql : `${column.sql}::jsonb`)

const objectOrEmpty = (value: string): string =>
  `CASE WHEN jsonb_typeof(${value}) = 'object' THEN ${value} ELSE '{}'::jsonb END`

/** An expression that binds its keys on first use: PostgreSQL refuses a bind that the SQL does not use. */
type Lazy = () => string

function lazy(make: Lazy): Lazy {
  let made: string | undefined
  return () => (made ??= make())
}

/** The new value at a path, computed from the old one; a missing entry does not compile. */
const results: Readonly<
  Record<Exclude<Operation['kind'], 'set' | 'remove' | 'rename'>, (value: Lazy, json: string, bind: Bind) => string>
> = {
  setIfAbsent: (value, json, bind) => `COALESCE(${value()}, ${bind(json)}::jsonb)`,
  increment: (value, json, bind) => `to_jsonb(COALESCE(${value()}::numeric, 0) + ${bind(json)}::numeric)`,
  min: (value, json, bind) => lesser(value(), json, bind, '<'),
  max: (value, json, bind) => lesser(value(), json, bind, '>'),
  prepend: (value, json, bind) => `jsonb_build_array(${bind(json)}::jsonb) || COALESCE(${value()}, '[]'::jsonb)`,
  append: (value, json, bind) => `COALESCE(${value()}, '[]'::jsonb) || ${bind(json)}::jsonb`,
  addToSet: (value, json, bind) =>
    `CASE WHEN EXISTS (SELECT 1 FROM jsonb_array_elements(${arrayOrEmpty(value())}) item WHERE item = ${bind(json)}::jsonb) ` +
    `THEN ${value()} ELSE ${results.append(value, `[${json}]`, bind)} END`,
  pull: (value, json, bind) =>
    `COALESCE((SELECT jsonb_agg(item ORDER BY position) FROM jsonb_array_elements(${arrayOrEmpty(value())}) ` +
    `WITH ORDINALITY AS items(item, position) WHERE item <> ${bind(json)}::jsonb), '[]'::jsonb)`,
  merge: (value, json, bind) => merged(value(), JSON.parse(json) as object, bind),
}

/** True if the value has the type that an operation needs. */
const accepts = {
  number: (value: string): string => `COALESCE(jsonb_typeof(${value}), 'number') = 'number'`,
  array: (value: string): string => `COALESCE(jsonb_typeof(${value}), 'array') = 'array'`,
}

// jsonb compares numbers by value, and keeps all their digits.
function lesser(value: string, json: string, bind: Bind, than: '<' | '>'): string {
  const operand = `${bind(json)}::jsonb`
  return `CASE WHEN ${value} IS NULL OR ${operand} ${than} ${value} THEN ${operand} ELSE ${value} END`
}

// jsonb_array_elements fails if its argument is not an array, even if the guard is false.
const arrayOrEmpty = (value: string): string =>
  `CASE WHEN jsonb_typeof(${value}) = 'array' THEN ${value} ELSE '[]'::jsonb END`

/** RFC 7396. PostgreSQL has no function for it, so each key of the patch becomes an expression. */
function merged(value: string, patch: object, bind: Bind): string {
  return Object.entries(patch).reduce(
    (object, [key, inner]: [string, unknown]) => {
      if (inner === null) return `(${object} - ${bind(key)}::text)`
      const after = isObject(inner)
        ? merged(child(value, key, bind), inner, bind)
        : `${bind(JSON.stringify(inner))}::jsonb`
      return `(${object} || jsonb_build_object(${bind(key)}::text, ${after}))`
    },
    `(${objectOrEmpty(value)})`,
  )
}

const child = (value: string, key: string, bind: Bind): string => `(${value} -> ${bind(key)}::text)`

/** The operations on a key and inside its value. */
type KeyOperations = readonly [key: string, operations: readonly [Operation, ...Operation[]]]

/** Groups operations by the first key of their path, without that key. */
function byKey(operations: readonly Operation[]): readonly KeyOperations[] {
  const groups = new Map<string, Operation[]>()
  for (const operation of operations) {
    const [key, ...path] = operation.path
    const group = groups.get(key!) ?? []
    group.push({ ...operation, path })
    groups.set(key!, group)
  }
  return [...groups] as unknown as KeyOperations[]
}

/** The object after operations inside it. jsonb_set does not create missing parents. */
function written(object: string, operations: readonly Operation[], bind: Bind): string {
  const all = byKey(operations)
  const sets = all.flatMap(([key, [{ kind, path, json }]]) =>
    kind === 'set' && path.length === 0 ? [`${JSON.stringify(key)}:${json}`] : [],
  )
  const start =
    sets.length > 0 ? `(${objectOrEmpty(object)} || ${bind(`{${sets.join()}}`)}::jsonb)` : `(${objectOrEmpty(object)})`
  return all.reduce((after, [key, inner]) => {
    const value = lazy(() => child(object, key, bind))
    const [{ kind, path, json }] = inner
    if (path.length === 0) {
      // `start` has all of them.
      if (kind === 'set') return after
      if (kind === 'remove') return `(${after} - ${bind(key)}::text)`
      const isRename = kind === 'rename'
      const rest = isRename ? `(${after} - ${bind(key)}::text)` : after
      const name = isRename ? bind(JSON.parse(json) as string) : bind(key)
      const entry = `jsonb_build_object(${name}::text, ${isRename ? value() : results[kind](value, json, bind)})`
      return `(${rest} || ${createsMissing(kind) ? entry : `CASE WHEN ${value()} IS NULL THEN '{}'::jsonb ELSE ${entry} END`})`
    }
    const entry = (): string => `jsonb_build_object(${bind(key)}::text, ${written(value(), inner, bind)})`
    if (inner.some((operation) => createsMissing(operation.kind))) return `(${after} || ${entry()})`
    return `(${after} || CASE WHEN jsonb_typeof(${value()}) = 'object' THEN ${entry()} ELSE '{}'::jsonb END)`
  }, start)
}

function guards(object: string, operations: readonly Operation[], bind: Bind): string[] {
  return [
    `COALESCE(jsonb_typeof(${object}), 'null') IN ('object', 'null')`,
    ...byKey(operations).flatMap(([key, inner]) => {
      const value = lazy(() => child(object, key, bind))
      const [{ kind, path }] = inner
      const needed = neededType(kind)
      return path.length > 0 ? guards(value(), inner, bind) : needed ? [accepts[needed](value())] : []
    }),
  ]
}

/** @see https://www.postgresql.org/docs/18/functions-json.html */
const variant: UpdateVariant = ({ operations, conditions }, column, bind) => {
  const stored = jsonb(column)
  const [only] = operations as [Operation]
  const isRoot = only.path.length === 0
  const met = conditions.map(({ kind, path, json }) => {
    const value = path.reduce((parent, key) => child(parent, key, bind), stored)
    if (kind === 'equals') return `COALESCE(${value} = ${bind(json)}::jsonb, FALSE)`
    return `${value} IS ${kind === 'exists' ? 'NOT ' : ''}NULL`
  })
  const document = isRoot ? results.merge(() => stored, only.json, bind) : written(stored, operations, bind)
  return {
    document: column.type === 'JSONB' ? document : `(${document})::json`,
    guard: [...guards(stored, isRoot ? [] : operations, bind), ...met].join(' AND '),
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

export const postgres: Dialect = {
  name: 'PostgreSQL',
  variants: [variant],
  holds: (column, text) => `COALESCE(${jsonb(column)}, 'null'::jsonb) = ${text}::jsonb`,
  documentText: (column) => `${column.sql}::text`,
  skipsRows: 'a BEFORE UPDATE trigger that returns NULL, a policy of row-level security, or a rule',
  // FOR UPDATE would also block the foreign-key checks of rows that refer to this one.
  lockClause: 'FOR NO KEY UPDATE',
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
  refuseKey: refuseNul,
  refuseText: refuseNul,
  classify,
  endsTransaction: [],
  endsTransactionBySql: endsTransactionBySql({ starts: '', isMysql: false }),
  abortsOnError: true,
  isRollback: (result) => (result as [unknown, { command?: string }])[1].command === 'ROLLBACK',
}
