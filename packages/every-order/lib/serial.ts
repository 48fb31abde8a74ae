import { isDeepStrictEqual, types } from 'node:util'
import type { OpenDatabase, Table } from './gate.js'
import { isSame, momentsOf } from './moments.js'
import type { Period } from './moments.js'
import type { Outcome, Run } from './run.js'
import { nameOf, tablesWritten } from './statement.js'
import type { Step } from './step.js'

/** The rows that a run changed, without values that differ in every run. */
export type Change = readonly RowChange[]

interface RowChange {
  readonly table: string
  readonly before: Readonly<Record<string, unknown>> | undefined
  readonly after: Readonly<Record<string, unknown>> | undefined
}

/** Where the tables are. */
type Tables = Pick<OpenDatabase, 'query' | 'table'>

/** The rows of some tables, by table and key. */
export type Rows = ReadonlyMap<string, { readonly table: string; readonly row: Readonly<Record<string, unknown>> }>

/** The tables that the participants wrote to, as their statements quote them. */
export function writtenTables(steps: readonly Step[]): string[] {
  const written = steps.filter(({ kind, error }) => kind === 'write' && error === undefined)
  return [...new Set(written.flatMap(({ sql }) => tablesWritten(sql)))].sort()
}

/** Reads whole tables; `tables` are quoted as in the statements of the participants. */
export async function readRows(database: Tables, tables: readonly string[]): Promise<Rows> {
  const all = new Map<string, { table: string; row: Record<string, unknown> }>()
  for (const quoted of tables) {
    const table = nameOf(quoted)
    const { keys, times } = database.table(table) ?? unknownTable
    const found = await database.query(`SELECT * FROM ${quoted}`)
    const rows = found.map((columns) =>
      Object.fromEntries(
        Object.entries(columns)
          .filter(([column]) => !times.includes(column))
          .map(([column, value]) => [column, plain(value)]),
      ),
    )
    // Without a key, equal rows are numbered: the server returns them in any order.
    const counts = new Map<string, number>()
    for (const row of rows) {
      const text = keys.length > 0 ? '' : JSON.stringify(row)
      const count = counts.get(text) ?? 0
      counts.set(text, count + 1)
      const key = keys.length > 0 ? keys.map(({ field }) => row[field]) : [text, count]
      all.set(JSON.stringify([table, ...key]), { table, row })
    }
  }
  return all
}

/** Reads the other tables that rows of these tables refer to, except those that cannot be read by their name alone. */
export async function readReferredRows(database: Tables, tables: readonly string[]): Promise<Rows> {
  const names = new Set(tables.map(nameOf))
  const referred = tables.flatMap((quoted) => {
    const name = nameOf(quoted)
    const start = quoted.lastIndexOf(name)
    const targets = [...(database.table(name)?.references.values() ?? [])].filter((target) => !names.has(target))
    return targets.map((target) => quoted.slice(0, start) + target + quoted.slice(start + name.length))
  })
  const all: (readonly [string, { table: string; row: Readonly<Record<string, unknown>> }])[] = []
  for (const quoted of new Set(referred)) {
    const [rows] = await Promise.allSettled([readRows(database, [quoted])])
    if (rows.status === 'fulfilled') all.push(...rows.value)
  }
  return new Map(all)
}

/** The rows with a generated key, by their place from the end of their table: `setup` may insert them anew each time. */
function placesOf(database: Tables, rows: Rows): ReadonlyMap<string, number> {
  const ids = new Map<string, [key: string, id: number][]>()
  for (const [key, { table, row }] of rows) {
    const { keys, given } = database.table(table) ?? unknownTable
    const [id] = keys
    if (!id || !given.includes(id.field)) continue
    const same = ids.get(table) ?? []
    ids.set(table, same)
    same.push([key, Number(row[id.field])])
  }
  const tables = [...ids.values()].map((each) => each.sort(([, one], [, other]) => other - one))
  return new Map(tables.flatMap((each) => each.map(([key], index) => [key, index + 1] as const)))
}

/**
 * The changes of the rows, with times as moments of the run, and without generated keys and UUIDs, which differ in every run.
 * A reference to a new row, or to one with a UUID, is compared by the content of that row; one to a generated key that was there
 * before by its place from the end of its table. `referred` are the rows that no participant wrote to.
 */
export function changeOf(database: Tables, before: Rows, after: Rows, referred: Rows, period: Period): Change {
  const known: Rows = new Map([...before, ...referred])
  const places = placesOf(database, known)
  const changed = [...new Set([...before.keys(), ...after.keys()])].filter(
    (key) => !isDeepStrictEqual(before.get(key)?.row, after.get(key)?.row),
  )
  const knownUuids = new Set([...known.values()].flatMap(({ row }) => Object.values(row).filter(isUuid)))
  const isNewUuid = (value: unknown): boolean => isUuid(value) && !knownUuids.has(value)
  /** A row without generated values; `depth` is the number of references to follow. */
  const comparable = (
    table: string,
    row: Readonly<Record<string, unknown>>,
    depth: number,
  ): Record<string, unknown> => {
    const { keys, given, references } = database.table(table) ?? unknownTable
    const entries = Object.entries(row).filter(([column]) => !given.includes(column))
    const isKey = (column: string): boolean => keys.some(({ field }) => field === column)
    return Object.fromEntries(
      entries.map(([column, value]) => {
        const target = references.get(column)
        const key = JSON.stringify([target, value])
        const place = places.get(key)
        if (target !== undefined && place !== undefined) return [column, `‹${target} -${place}›`]
        const isNew = !known.has(key)
        const referenced = isNew ? after.get(key) : isUuid(value) ? known.get(key) : undefined
        if (target !== undefined && referenced) {
          const what = isNew ? `new ${target}` : target
          return [column, depth > 0 ? { [`‹${what}›`]: comparable(target, referenced.row, depth - 1) } : `‹${what}›`]
        }
        const isOwnUuid = isKey(column) && isUuid(value)
        return [column, isOwnUuid || isNewUuid(value) ? '‹uuid›' : momentsOf(value, period)]
      }),
    )
  }
  return changed
    .map((key) => {
      const { table } = (before.get(key) ?? after.get(key))!
      const [old, now] = [before.get(key)?.row, after.get(key)?.row]
      return { table, before: old && comparable(table, old, 1), after: now && comparable(table, now, 1) }
    })
    .sort((one, other) => (JSON.stringify(one) < JSON.stringify(other) ? -1 : 1))
}

function isUuid(value: unknown): value is string {
  return typeof value === 'string' && /^[\da-f]{8}-(?:[\da-f]{4}-){3}[\da-f]{12}$/i.test(value)
}

const unknownTable: Table = { keys: [], given: [], times: [], references: new Map(), version: undefined }

/** A value as JSON, whether the driver has parsed it or not. */
function plain(value: unknown): unknown {
  if (typeof value === 'string' && /^\s*[[{]/.test(value)) {
    try {
      return JSON.parse(value)
    } catch {
      return value
    }
  }
  return JSON.parse(JSON.stringify(value, (_key, each: unknown) => (typeof each === 'bigint' ? String(each) : each)))
}

/** All serial orders: of every `ok` participant, no `failed` one, and any selection of the other ones. */
export function serialOrders(outcomes: Readonly<Record<string, Outcome>>): string[][] {
  const names = Object.keys(outcomes)
  const parts = names.reduce<string[][]>(
    (all, name) => {
      const withIt = all.map((part) => [...part, name])
      return outcomes[name] === 'ok' ? withIt : outcomes[name] === 'failed' ? all : [...withIt, ...all]
    },
    [[]],
  )
  return parts.flatMap(permutations)
}

/** Every order of some participants. */
export function permutations(names: readonly string[]): string[][] {
  if (names.length === 0) return [[]]
  return names.flatMap((name) => permutations(names.filter((each) => each !== name)).map((rest) => [name, ...rest]))
}

/** The changed rows of a run, and what its participants returned. */
export interface End {
  readonly change: Change
  readonly results: Readonly<Record<string, Result>>
}

/** What a participant returned, as JSON; `undefined` for nothing, and for what is no plain value, such as a model's instance. */
type Result = { readonly value: unknown } | 'rejected' | undefined

/** The results of a run, with times as moments of the run. */
export function resultsOf(run: Run, period: Period): End['results'] {
  const fulfilled = run.results()
  return Object.fromEntries(
    Object.keys(run.outcomes()).map((name): [string, Result] => {
      if (!(name in fulfilled)) return [name, 'rejected']
      const value = fulfilled[name]
      return [name, isPlain(value) ? { value: momentsOf(plain(value), period) } : undefined]
    }),
  )
}

/** Whether a value and all its parts are values of JSON or dates. In Jest, they are from another realm. */
function isPlain(value: unknown, depth = 0): boolean {
  if (typeof value !== 'object' || value === null) return /^(string|number|boolean|bigint|object)$/.test(typeof value)
  if (types.isDate(value)) return true
  const parent = Object.getPrototypeOf(value) as object | null
  const isOurs = Array.isArray(value) || parent === null || Object.getPrototypeOf(parent) === null
  return depth < 20 && isOurs && Object.values(value).every((each) => each === undefined || isPlain(each, depth + 1))
}

/** The rows are those of a serial order, but no participant would have returned this in such an order. */
export class ResultsError extends Error {
  override readonly name = 'ResultsError'

  constructor(
    actual: End['results'],
    serial: readonly (readonly [order: readonly string[], results: End['results']])[],
  ) {
    const text = (results: End['results']): string =>
      Object.entries(results)
        .filter(([, each]) => each !== undefined)
        .map(([name, each]) => `${name} ${each === 'rejected' ? each : `returns ${JSON.stringify(each?.value)}`}`)
        .join(', ')
    const orders = serial.map(([order, results]) => `${text(results)} (${order.join(', ')})`)
    super(
      `the participants return what they return in no serial order: ${text(actual)} instead of ${orders.join(' or ')}`,
    )
  }
}

/** The final rows differ from those of every serial order. */
export class NotSerialError extends Error {
  override readonly name = 'NotSerialError'
  /** The actual changes, and the changes of the serial `order` that was compared first. */
  readonly actual: Change
  readonly expected: Change
  readonly order: readonly string[]
  /** The first column, and the first key of its document, that differ between the two. */
  readonly difference: { readonly column: string; readonly key: string | undefined } | undefined

  constructor(orders: readonly (readonly string[])[], changes: readonly Change[], actual: Change) {
    const tables = new Set([...changes, actual].flatMap((change) => change.map(({ table }) => table)))
    const nameOfRow = ({ table }: RowChange): string => (tables.size > 1 ? `${table} ` : '')
    const finalValues = (change: Change): string =>
      `[${change.map((each) => `${nameOfRow(each)}${each.after ? JSON.stringify(each.after) : 'deleted'}`).join()}]`
    const instead = orders.map(
      (order, index) => `${finalValues(changes[index]!)} (${order.join(', ') || 'no participant'})`,
    )
    super(`the rows differ from those of every serial order: ${finalValues(actual)} instead of ${instead.join(' or ')}`)
    this.actual = actual
    this.expected = changes[0]!
    this.order = orders[0]!
    const column = columnsThatDiffer(this.expected, actual)[0]?.split('.').at(-1)
    this.difference = column === undefined ? undefined : { column, key: this.#documents(column)?.key }
  }

  /** The value of the column that is missing: all of it, a value of its document, or an element of an array. */
  get lost(): Lost | undefined {
    if (!this.difference) return undefined
    const { column, key } = this.difference
    const [expected, actual] = this.#documents(column)?.values ?? []
    const element = Array.isArray(expected) && Array.isArray(actual) ? elementMissing(expected, actual) : undefined
    return { column, key, element, ...(key !== undefined && element === undefined && { value: expected }) }
  }

  /** The first document of a column that differs: its key, and the values there. */
  #documents(column: string): { key: string | undefined; values: readonly unknown[] } | undefined {
    for (const [index, { after }] of this.expected.entries()) {
      const documents = [after?.[column], this.actual[index]?.after?.[column]]
      const [document, theirs] = documents
      if (typeof document !== 'object' || document === null) continue
      if (Array.isArray(document) && !isSame(document, theirs)) return { key: undefined, values: documents }
      const values = (theirs ?? {}) as Record<string, unknown>
      const [key, value] = Object.entries(document).find(([name, each]) => !isSame(each, values[name])) ?? []
      if (key !== undefined) return { key, values: [value, values[key]] }
    }
    return undefined
  }
}

/** What was overwritten. */
export interface Lost {
  readonly column: string
  /** The key of its document. */
  readonly key: string | undefined
  /** The element of its array, or of the array at the key. */
  readonly element?: unknown
  /** The value at the key. */
  readonly value?: unknown
}

/** The first element of an array that another one lacks. */
export function elementMissing(array: readonly unknown[], other: readonly unknown[]): unknown {
  return array.find((each) => !other.some((their) => isSame(each, their)))
}

export function columnsThatDiffer(one: Change, other: Change): string[] {
  const columns = one.flatMap(({ table, after }, index) =>
    Object.entries(after ?? {})
      .filter(([column, value]) => !isSame(value, other[index]?.after?.[column]))
      .map(([column]) => `${table}.${column}`),
  )
  return [...new Set(columns)]
}
