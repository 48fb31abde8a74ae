import type { Comparison } from '../dialects/dialect.js'
import { fieldOf, queryGeneratorOf, typeOf } from './internals.js'
import type { QueryGenerator, RowModel } from './internals.js'
import { modelStateOf } from './model-state.js'
import type { FormattedSecond } from './model-state.js'
import type { Session } from './session.js'

/** Bytes that the protocol adds to each bound value: its type and its length. */
const bytesPerValueHeader = 16

/** An upper bound for the bytes of a bound value that is not a string: a number, or a binary key. */
const maxNonStringBytes = 20_000

/** The SQL of one statement for one model's table: names are quoted, values become binds. */
export class Statement {
  readonly binds: unknown[] = []
  readonly #model: RowModel
  readonly #session: Session
  readonly #generator: QueryGenerator

  constructor({ session, model }: { readonly session: Session; readonly model: RowModel }) {
    this.#model = model
    this.#session = session
    this.#generator = queryGeneratorOf(session.sequelize)
  }

  /**
   * The placeholder of `value`. A server that prepares a text keeps the type of its binds: after a number, it would round a text
   * with more digits. So numbers are bound as texts there.
   */
  readonly bind = (value: unknown): string => {
    const bound = typeof value === 'number' && this.#session.connector.prepares ? String(value) : value
    return `$${this.binds.push(bound)}`
  }

  /** The placeholder of a value for `attribute`, in the format that its type is stored in. */
  value(attribute: string, value: unknown): string {
    return this.#format(attribute, value, this.bind)
  }

  /** The SQL of an expression such as `fn('NOW')`, as Sequelize writes it. */
  expression(expression: unknown): string {
    return this.#generator.escape(expression)
  }

  /**
   * Binds a time for `updatedAt`, like {@link value}. Sequelize takes longer to format a time than to build the rest of
   * the statement, so the text is cached for each second.
   */
  time(attribute: string, time: Date): string {
    const { definition } = modelStateOf(this.#model)
    const milliseconds = time.getUTCMilliseconds()
    const start = time.getTime() - milliseconds
    if (definition.formattedSecond?.start !== start) definition.formattedSecond = this.#formatSecond(attribute, start)
    const { text } = definition.formattedSecond
    return text === undefined ? this.value(attribute, time) : this.bind(withMilliseconds(text, milliseconds))
  }

  #formatSecond(attribute: string, start: number): FormattedSecond {
    const [text, other] = [0, 123].map((milliseconds) => {
      const binds: unknown[] = []
      this.#format(attribute, new Date(start + milliseconds), (bound) => `$${binds.push(bound)}`)
      return binds[0]
    })
    const isKnown = typeof text === 'string' && withMilliseconds(text, 123) === other
    return { start, text: isKnown ? text : undefined }
  }

  #format(attribute: string, value: unknown, bind: (value: unknown) => string): string {
    // Sequelize and some drivers bind bytes only as a Buffer.
    const own = value instanceof Uint8Array ? Buffer.from(value.buffer, value.byteOffset, value.byteLength) : value
    return this.#generator.format(own, this.#model.getAttributes()[attribute as never], { context: 'WHERE' }, bind)
  }

  /**
   * An upper bound for the bytes of `sql` and its binds on the wire; a value counts once for each of its placeholders.
   * Far below `limit`, the bound is rough.
   */
  bytes(sql: string, limit: number = Infinity): number {
    let longest = 0
    for (const value of this.binds) {
      longest = Math.max(longest, typeof value === 'string' ? value.length : maxNonStringBytes)
    }
    // A placeholder has at least 2 characters; a character has at most 3 bytes, and one more where it is escaped.
    const upperBound = sql.length * (3 + (bytesPerValueHeader + 4 * longest) / 2)
    if (upperBound <= limit) return upperBound
    const { escapes } = this.#session.connector
    const sizes = this.binds.map((value) => {
      const text = String(value)
      return Buffer.byteLength(text) + (escapes ? (text.match(/["'\\]/g)?.length ?? 0) : 0)
    })
    const placeholders = [...sql.matchAll(/\$(\d+)/g)]
    return placeholders.reduce(
      (sum, [, number]) => sum + bytesPerValueHeader + (sizes[Number(number) - 1] ?? 0),
      Buffer.byteLength(sql),
    )
  }

  /**
   * The number of binds in `sql`; for MySQL, Sequelize makes a bind of each placeholder. Far below `limit`, it returns
   * a lower count without looking at the text.
   */
  countBinds(sql: string, limit: number): number {
    const { prepares } = this.#session.connector
    if (!prepares || sql.length / 2 <= limit) return this.binds.length
    return sql.match(/\$\d+/g)?.length ?? 0
  }

  table(): string {
    const name: unknown = this.#model.getTableName()
    const quote = (): string => this.#generator.quoteTable(name)
    return typeof name === 'string' ? quoted(this.#session.quotedTables, name, quote) : escapeDollars(quote())
  }

  /** The column that holds `attribute`. */
  column(attribute: string): string {
    return this.name(fieldOf(this.#model, attribute))
  }

  /** The select list: the column of every attribute, with the attribute's name as its alias. */
  columns(): string {
    let sql = ''
    for (const attribute of Object.keys(this.#model.getAttributes())) {
      if (typeOf(this.#model, attribute).key === 'VIRTUAL') continue
      sql += `${sql && ', '}${this.column(attribute)} AS ${this.alias(attribute)}`
    }
    return sql
  }

  /** The select list of the primary key. */
  keyColumns(): string {
    return this.#model.primaryKeyAttributes.map((name) => `${this.column(name)} AS ${this.alias(name)}`).join(', ')
  }

  /** The name of a column of a result, also if the option `quoteIdentifiers` of the application is false. */
  alias(name: string): string {
    return quoted(this.#session.quotedAliases, name, () => this.#generator.quoteIdentifier(name, true))
  }

  name(identifier: string): string {
    return quoted(this.#session.quotedNames, identifier, () => this.#generator.quoteIdentifier(identifier))
  }

  /** The UPDATE that Sequelize builds; `undefined` if it inlines values into the text, as for a `searchPath`. */
  update(table: unknown, values: object, where: object, options: object): string | undefined {
    const own = { ...options, model: this.#model, bindParam: this.bind }
    const { query, bind } = this.#generator.updateQuery(table, values, where, own, this.#model.getAttributes())
    return bind && query
  }

  /** The condition that matches one row. */
  row(primaryKey: Readonly<Record<string, unknown>>): string {
    let sql = ''
    for (const attribute of Object.keys(primaryKey)) {
      sql += `${sql && ' AND '}${this.comparison(attribute, '=', primaryKey[attribute])}`
    }
    return sql
  }

  /** The condition on one column; the value may be one that the type of the column cannot represent. */
  comparison(attribute: string, operator: Comparison, value: unknown): string {
    const { comparison } = this.#session.connector
    const column = this.column(attribute)
    if (!comparison) return `${column} ${operator} ${this.value(attribute, value)}`
    const bind = (): string => this.value(attribute, value)
    return comparison({ column, operator, bind, value, type: typeOf(this.#model, attribute) })
  }
}

/** The SQL of a name, from its cache. */
function quoted(cache: Map<string, string>, name: string, quote: () => string): string {
  let sql = cache.get(name)
  if (sql === undefined) cache.set(name, (sql = escapeDollars(quote())))
  return sql
}

/** The text of a time, from the text of its second. */
function withMilliseconds(text: string, milliseconds: number): string {
  return text.replace('.000', `.${String(milliseconds).padStart(3, '0')}`)
}

// Sequelize reads `$name` as a bind even inside a quoted identifier; `$$` is its escape.
function escapeDollars(sql: string): string {
  return sql.replace(/\B\$/g, '$$$$')
}
