import type { Socket } from 'node:net'
import type { Gate, Row } from '../gate.js'
import { patch } from '../patch.js'
import { unattended } from '../run.js'
import { asObjects, bound } from './driver.js'
import type { Callback, Driver } from './driver.js'

interface PgResult {
  readonly rows: readonly unknown[]
  readonly fields: readonly { readonly name: string }[]
}

interface PgClient {
  readonly connectionParameters: { readonly host: string; readonly port: number }
  readonly password: unknown
  readonly ssl: unknown
  readonly connection: { readonly stream: Socket }
  connect(): Promise<void>
  query(text: string): Promise<{ rows: Row[] }>
  on(event: 'error', listener: () => void): unknown
  end(): Promise<void>
  release?(isBroken: boolean): void
}

type PgClass = new (config: object) => PgClient

/** A query object with its own protocol, such as a cursor. */
interface PgSubmittable {
  readonly text?: string
  submit: unknown
  handleError(...words: unknown[]): unknown
  handleReadyForQuery(...words: unknown[]): unknown
}

/** pg. Every statement, also one of a pool, is a call of `Client.query`. */
export const pg: Driver = {
  dialect: 'postgres',

  isConnection: (value) => 'connectionParameters' in value && 'processID' in value,

  addressOf(connection) {
    const { host, port } = (connection as PgClient).connectionParameters
    return `${host}:${port}`
  },

  socketOf(connection) {
    const client = connection as PgClient
    client.on('error', () => undefined)
    return client.connection.stream
  },

  async connect(connection) {
    const { connectionParameters, password, ssl } = connection as PgClient
    const own = new (connection.constructor as PgClass)({ ...connectionParameters, password, ssl })
    own.on('error', () => undefined)
    await unattended(() => own.connect())
    // pg warns of a query that is sent before the one before it has ended.
    let last: Promise<unknown> = Promise.resolve()
    const query = <R extends object>(sql: string): Promise<R[]> => {
      const answer = last.then(() => unattended(() => own.query(sql)))
      last = answer.catch(() => undefined)
      return answer.then(({ rows }) => rows as R[])
    }
    return { query, close: () => own.end() }
  },

  install(connection, pool, gate) {
    const undo = [
      patch(connection, 'query', gate, (original, gateFor) => {
        return function (...words: unknown[]) {
          const own = words[0] ? gateFor(this as object) : undefined
          const send = (...given: unknown[]): unknown => original.apply(this, given)
          return own ? keepPg(own, this as PgClient, words, send) : send(...words)
        }
      }),
    ]
    if ('totalCount' in pool) {
      const bind = (original: (callback?: Callback) => unknown) =>
        function (this: unknown, callback?: Callback) {
          return original.call(this, callback && bound(callback))
        }
      undo.push(patch(pool, 'connect', gate, bind))
    }
    return () => {
      for (const each of undo) each()
    }
  },
}

/** Passes a call of `query` to the gate; calls back, or resolves, when the kit has recorded the result. */
function keepPg(
  gate: Gate,
  client: PgClient,
  words: readonly unknown[],
  query: (...words: unknown[]) => unknown,
): unknown {
  const [config, ...more] = words as [string | { text: string; values?: unknown; callback?: Callback }, ...unknown[]]
  const { text, ...options } = typeof config === 'string' ? { text: config } : config
  const callback = (more.find((each) => typeof each === 'function') ?? options.callback) as Callback | undefined
  const values = Array.isArray(more[0]) ? more[0] : options.values
  const submittable =
    typeof config === 'object' && 'submit' in config ? (config as unknown as PgSubmittable) : undefined
  let isSent = false
  const answer = gate.keep({
    sql: text ?? '',
    parameters: values,
    connection: client,
    table: gate.tableOf(text ?? ''),
    send(sql = text) {
      isSent = true
      return submittable
        ? submitted(submittable, () => query(config, ...more))
        : query({ ...options, text: sql, values, callback: undefined })
    },
    rowsOf(given) {
      const [first] = [given ?? []].flat() as (PgResult | undefined)[]
      return asObjects(first?.rows ?? [], first?.fields)
    },
    async discard() {
      try {
        client.release!(true)
      } catch {
        // It is a single client, or is back in its pool.
        await query('ROLLBACK')
        await query('DISCARD ALL')
      }
    },
    socket: () => pg.socketOf(client),
    resend: (sql) => query({ text: sql, values }),
  })
  if (submittable) {
    answer.catch((error: unknown) => {
      if (!isSent) submittable.handleError(error, client)
    })
    return config
  }
  if (!callback) return answer
  const call = bound(callback)
  answer.then(
    (given) => process.nextTick(call, undefined, given),
    (error: unknown) => process.nextTick(call, error),
  )
  return undefined
}

/** Sends a query object; resolves when the server is ready for the next one. */
function submitted(query: PgSubmittable, send: () => unknown): Promise<void> {
  return new Promise((resolve, reject) => {
    const handleReadyForQuery = query.handleReadyForQuery.bind(query)
    const handleError = query.handleError.bind(query)
    query.handleReadyForQuery = (...words) => {
      resolve()
      return handleReadyForQuery(...words)
    }
    query.handleError = (error, ...words) => {
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the driver's error
      reject(error)
      return handleError(error, ...words)
    }
    send()
  })
}
