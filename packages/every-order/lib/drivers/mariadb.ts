import type { Socket } from 'node:net'
import type { Gate } from '../gate.js'
import { patch } from '../patch.js'
import { unattended } from '../run.js'
import { asObjects } from './driver.js'
import type { Driver } from './driver.js'

interface MariadbConnection {
  query(sql: string): Promise<unknown>
  destroy(): void
  on(event: 'error', listener: () => void): unknown
  once(event: 'newListener', listener: (this: { readonly socket: Socket | undefined }) => void): unknown
}

type MariadbStatement = string | { readonly sql: string }

/** The methods that send one statement each; the text of those without one. */
const mariadbMethods = {
  query: undefined,
  execute: undefined,
  batch: undefined,
  beginTransaction: 'START TRANSACTION',
  commit: 'COMMIT',
  rollback: 'ROLLBACK',
} as const

/**
 * MariaDB's connector, with promises. A pool sends its own statements on connections that it does not hand out, so here it
 * takes one for each.
 */
export const mariadb: Driver = {
  dialect: 'mysql',

  isConnection: (value) => 'threadId' in value && 'batch' in value,

  // It does not say.
  addressOf: () => '',

  socketOf(connection) {
    const own = connection as MariadbConnection
    let socket: Socket | undefined
    // The connection proper, which has the socket, is what emits the events.
    own.once('newListener', function () {
      socket = this.socket
    })
    own.on('error', () => undefined)
    return socket
  },

  async connect(_connection, borrow) {
    const { connection, giveBack } = await borrow()
    return {
      query: <R extends object>(sql: string) =>
        unattended(() => (connection as MariadbConnection).query(sql)) as Promise<R[]>,
      close: async () => void (await giveBack()),
    }
  },

  install(connection, pool, gate) {
    const undo = Object.entries(mariadbMethods).map(([name, text]) =>
      patch(
        connection,
        name,
        gate,
        (original, gateFor) =>
          function (given?: MariadbStatement, values?: unknown) {
            const own = gateFor(this as object)
            const send = (statement = given): unknown => original.call(this, statement, values)
            return own ? keepMariadb(own, this as MariadbConnection, text ?? given!, values, send) : send()
          },
      ),
    )
    for (const name of ['queryStream', 'prepare']) {
      undo.push(
        patch(
          connection,
          name,
          gate,
          (original, gateFor) =>
            function (given: MariadbStatement, ...more: unknown[]) {
              gateFor(this as object)?.goesAround(sqlOf(given))
              return original.call(this, given, ...more)
            },
        ),
      )
    }
    for (const name of 'getConnection' in pool ? (['query', 'execute', 'batch'] as const) : []) {
      undo.push(
        patch(
          pool,
          name,
          gate,
          () =>
            async function (this: MariadbPool, ...words: unknown[]) {
              const own = await this.getConnection()
              try {
                return await own[name](...words)
              } finally {
                await own.release()
              }
            },
        ),
      )
    }
    return () => {
      for (const each of undo) each()
    }
  },
}

type MariadbPool = Record<
  'getConnection',
  () => Promise<Record<'query' | 'execute' | 'batch' | 'release', (...words: unknown[]) => unknown>>
>

function sqlOf(given: MariadbStatement): string {
  return typeof given === 'string' ? given : given.sql
}

/** Passes a call to the gate. */
function keepMariadb(
  gate: Gate,
  connection: MariadbConnection,
  given: MariadbStatement,
  values: unknown,
  send: (statement: MariadbStatement) => unknown,
): Promise<unknown> {
  const sql = sqlOf(given)
  return gate.keep({
    sql,
    parameters: values,
    connection,
    table: gate.tableOf(sql),
    send: (text = sql) => send(typeof given === 'string' ? text : { ...given, sql: text }),
    rowsOf: (answer) => asObjects(answer, undefined),
    discard: () => connection.destroy(),
    socket: () => mariadb.socketOf(connection),
    resend: (text) => connection.query(text),
  })
}
