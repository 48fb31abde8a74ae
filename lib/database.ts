import { BaseError, ConnectionError, QueryTypes } from 'sequelize'
import type { Logging, Model, ModelStatic, Sequelize, Transaction } from 'sequelize'
import { connectorOf, probeText } from './dialects/connector.js'
import type { Dialect, DriverError, Failure } from './dialects/dialect.js'

/** What Sequelize 6 keeps about a model and does not put in its types. */
interface ModelInternals {
  readonly _timestampAttributes: { readonly updatedAt?: string }
  readonly _versionAttribute?: string
  readonly _jsonAttributes: ReadonlySet<string>
}

/** The part of Sequelize's query generator that quotes and formats. */
interface QueryGenerator {
  quoteTable(table: unknown): string
  quoteIdentifier(name: string): string
  format(value: unknown, attribute: unknown, options: { context: string }, bind: (value: unknown) => string): string
  updateQuery(
    table: unknown,
    values: object,
    where: object,
    options: object,
    attributes: unknown,
  ): { query: string; bind?: unknown[] }
}

export type Row = Model<object, object>
export type RowModel = ModelStatic<Row>

/** How a statement is sent: in which transaction, and where its text is logged. */
export interface Sending {
  readonly transaction: Transaction | undefined
  readonly logging: Logging['logging'] | undefined
}

/** The name of the attribute that Sequelize keeps the time of the last write in, if the model has one. */
export function updatedAtAttribute(model: RowModel): string | undefined {
  return (model as unknown as ModelInternals)._timestampAttributes.updatedAt
}

/** The name of the attribute of Sequelize's optimistic lock (`version: true`), if the model has one. */
export function versionAttribute(model: RowModel): string | undefined {
  return (model as unknown as ModelInternals)._versionAttribute
}

/** The names of a model's JSON attributes, which every loaded row asks for. */
export function jsonAttributes(model: RowModel): ReadonlySet<string> {
  return (model as unknown as ModelInternals)._jsonAttributes
}

/** The name of the column that holds `attribute`. */
export function fieldOf(model: RowModel, attribute: string): string {
  const { field } = model.getAttributes()[attribute as never] as { field?: string }
  return field ?? attribute
}

export function sequelizeOf(model: RowModel): Sequelize {
  // The types say it may be missing; `identify` and `lossless` refuse a model that has none.
  return model.sequelize!
}

/** The type and length that stand before a value. */
const perValue = 16

/** What is no text is a number, or a key. */
const longestOther = 20_000

/** Names that were quoted before: by generator, each by what it was. */
const quotedNames = new WeakMap<QueryGenerator, Map<string, string>>()

/** How the times of one second are written in an attribute's type. */
interface Second {
  readonly start: number
  /** At its start; the thousandths stand in it as `.000`, if it has them. `undefined` where that is not so. */
  readonly text: string | undefined
}

/** By an attribute's type, the second that was formatted last. */
const seconds = new WeakMap<object, Second>()

/** A statement in the making for one model's table: names are quoted, values become binds. */
export class Statement {
  readonly #binds: unknown[] = []
  readonly #model: RowModel
  readonly #generator: QueryGenerator

  constructor(model: RowModel) {
    this.#model = model
    this.#generator = (
      sequelizeOf(model).getQueryInterface() as unknown as { queryGenerator: QueryGenerator }
    ).queryGenerator
  }

  get binds(): unknown[] {
    return this.#binds
  }

  /** The placeholder of `value`. */
  readonly bind = (value: unknown): string => `$${this.#binds.push(value)}`

  /** The placeholder of a value for `attribute`, in the form its type is stored in. */
  value(attribute: string, value: unknown): string {
    return this.#format(attribute, value, this.bind)
  }

  /** {@link value} of a time of now: Sequelize, which takes as long for it as for all else, is asked once in a second. */
  time(attribute: string, time: Date): string {
    const { type } = this.#model.getAttributes()[attribute as never] as { type: object }
    const milliseconds = time.getUTCMilliseconds()
    const start = time.getTime() - milliseconds
    const known = seconds.get(type)
    const second = known?.start === start ? known : this.#second(attribute, start)
    if (second !== known) seconds.set(type, second)
    if (second.text === undefined) return this.value(attribute, time)
    return this.bind(inSecond(second.text, milliseconds))
  }

  #second(attribute: string, start: number): Second {
    const [text, other] = [0, 123].map((milliseconds) => {
      const binds: unknown[] = []
      this.#format(attribute, new Date(start + milliseconds), (bound) => `$${binds.push(bound)}`)
      return binds[0]
    })
    const isKnown = typeof text === 'string' && inSecond(text, 123) === other
    return { start, text: isKnown ? text : undefined }
  }

  #format(attribute: string, value: unknown, bind: (value: unknown) => string): string {
    return this.#generator.format(value, this.#model.getAttributes()[attribute as never], { context: 'WHERE' }, bind)
  }

  /**
   * What `sql` takes on its way, at most: a value is sent as often as its placeholder stands there. Only roughly, where it
   * is far from `limit`.
   */
  bytes(sql: string, limit: number = Infinity): number {
    const longest = this.#binds.reduce<number>(
      (length, value) => Math.max(length, typeof value === 'string' ? value.length : longestOther),
      0,
    )
    // A placeholder has 2 characters at least; a character has 3 bytes at most, and one more where it is escaped.
    const roughly = sql.length * (3 + (perValue + 4 * longest) / 2)
    if (roughly <= limit) return roughly
    const { escapes } = connectorOf(sequelizeOf(this.#model).getDialect())
    const sizes = this.#binds.map((value) => {
      const text = String(value)
      return Buffer.byteLength(text) + (escapes ? (text.match(/["'\\]/g)?.length ?? 0) : 0)
    })
    const placeholders = [...sql.matchAll(/\$(\d+)/g)]
    return placeholders.reduce(
      (sum, [, number]) => sum + perValue + (sizes[Number(number) - 1] ?? 0),
      Buffer.byteLength(sql),
    )
  }

  table(): string {
    const name: unknown = this.#model.getTableName()
    const quote = (): string => this.#generator.quoteTable(name)
    return typeof name === 'string' ? this.#quoted(`table ${name}`, quote) : escapeDollars(quote())
  }

  /** The column that holds `attribute`. */
  column(attribute: string): string {
    return this.name(fieldOf(this.#model, attribute))
  }

  /** Every column that holds an attribute, by the attribute's name. */
  columns(): string {
    return Object.entries(this.#model.getAttributes() as Record<string, { type: { key?: string } }>)
      .filter(([, { type }]) => type.key !== 'VIRTUAL')
      .map(([attribute]) => `${this.column(attribute)} AS ${this.name(attribute)}`)
      .join(', ')
  }

  name(identifier: string): string {
    return this.#quoted(`name ${identifier}`, () => this.#generator.quoteIdentifier(identifier))
  }

  #quoted(what: string, quote: () => string): string {
    const known = quotedNames.get(this.#generator)?.get(what)
    if (known !== undefined) return known
    const names = quotedNames.get(this.#generator) ?? new Map<string, string>()
    const quoted = escapeDollars(quote())
    quotedNames.set(this.#generator, names.set(what, quoted))
    return quoted
  }

  /** Sequelize's own UPDATE; `undefined` where it would put values into the text, as it does for a `searchPath`. */
  update(table: unknown, values: object, where: object, options: object): string | undefined {
    const own = { ...options, bindParam: this.bind }
    const { query, bind } = this.#generator.updateQuery(table, values, where, own, this.#model.getAttributes())
    return bind && query
  }

  /** The condition that matches one row. */
  row(primaryKey: Readonly<Record<string, unknown>>): string {
    return Object.entries(primaryKey)
      .map(([attribute, value]) => `${this.column(attribute)} = ${this.value(attribute, value)}`)
      .join(' AND ')
  }
}

/** A time in a second, from the text of its start. */
function inSecond(text: string, milliseconds: number): string {
  return text.replace('.000', `.${String(milliseconds).padStart(3, '0')}`)
}

// Sequelize reads `$name` as a bind even inside a quoted identifier; `$$` is its escape.
function escapeDollars(sql: string): string {
  return sql.replace(/\B\$/g, '$$$$')
}

/** Sends a statement that answers with rows, to the server that takes writes. */
export async function sendForRows<R extends object>(
  sequelize: Sequelize,
  sql: string,
  binds: unknown[],
  sending: Sending,
): Promise<R[]> {
  return sequelize.query<R>(sql, {
    bind: binds,
    ...queryOptions(sequelize, sending),
    type: QueryTypes.SELECT,
    raw: true,
  })
}

/** Sends a SELECT of a whole row and returns it built as an instance, parsed as Sequelize's own finders do. */
export async function sendForInstance(
  model: RowModel,
  sql: string,
  binds: unknown[],
  sending: Sending,
): Promise<Row | undefined> {
  const options = {
    bind: binds,
    ...queryOptions(sequelizeOf(model), sending),
    type: QueryTypes.SELECT as const,
    model,
    // An object with a schema has a toString of its own.
    tableNames: [(model.getTableName() as { toString(): string }).toString()],
  }
  const [row] = await sequelizeOf(model).query<Row>(sql, options)
  return row
}

/** Sends a write and returns the driver's answer. */
export async function sendForHeader(
  sequelize: Sequelize,
  sql: string,
  binds: unknown[],
  sending: Sending,
): Promise<unknown> {
  const [header] = await sequelize.query(sql, {
    bind: binds,
    ...queryOptions(sequelize, sending),
    type: QueryTypes.RAW,
  })
  return header
}

/**
 * Sequelize's option to send a statement again: not in a transaction, which the first error may have ended, and
 * elsewhere only if it is certain that nothing was done.
 */
export function statementRetry(sequelize: Sequelize, inTransaction: boolean): { max: number; match?: RegExp[] } {
  const { busy } = connectorOf(sequelize.getDialect())
  return inTransaction || !busy ? { max: 1 } : { max: 20, match: [busy] }
}

function queryOptions(sequelize: Sequelize, { transaction, logging }: Sending) {
  return {
    // null, not undefined: the ambient transaction was considered before, and must not be picked up here.
    transaction: transaction ?? null,
    useMaster: true,
    retry: statementRetry(sequelize, transaction !== undefined),
    ...(logging === undefined ? {} : { logging }),
  }
}

const dialects = new WeakMap<Sequelize, Dialect>()
const recognitions = new WeakMap<Sequelize, Promise<Dialect>>()

/** The database behind a Sequelize instance. Asked once who it is, by a SELECT of its version. */
export async function dialectOf(sequelize: Sequelize, sending: Sending): Promise<Dialect> {
  const known = dialects.get(sequelize)
  if (known) return known
  // In a transaction nobody waits for another caller's answer, who may wait for the connection that the transaction holds.
  if (sending.transaction) return recognise(sequelize, sending)
  const asked = recognitions.get(sequelize) ?? recognise(sequelize, sending)
  recognitions.set(sequelize, asked)
  return asked.finally(() => recognitions.delete(sequelize))
}

async function recognise(sequelize: Sequelize, sending: Sending): Promise<Dialect> {
  const connector = connectorOf(sequelize.getDialect())
  const [answer] = await sendForRows<Record<string, unknown>>(sequelize, connector.probe, [probeText], sending)
  const dialect = connector.recognise(answer ?? {})
  dialects.set(sequelize, dialect)
  return dialect
}

/** Whether the database answered with an error, rather than that there was no connection, or a mistake before. */
export function isRefused(error: unknown): boolean {
  return error instanceof BaseError && 'parent' in error && !(error instanceof ConnectionError)
}

/** What a failed statement died of, also if its error is the cause of another one. */
export function failureOf(error: unknown, dialect: Dialect): Failure | undefined {
  for (let each = error; each instanceof Error; each = each.cause) {
    // No connection could be opened, so nothing was sent.
    if (each instanceof ConnectionError) return undefined
    const { parent } = each as { parent?: DriverError }
    if (parent) return dialect.classify(parent)
  }
  return undefined
}
