import type { Socket } from 'node:net'
import type { Gate } from '../gate.js'
import { ownerOf, patch } from '../patch.js'
import { unattended } from '../run.js'
import { asObjects, bound } from './driver.js'
import type { Callback, Driver } from './driver.js'

interface Mysql2Command extends NodeJS.EventEmitter {
  sql?: string
  query?: string
  options?: object
  readonly parameters?: unknown
  readonly statement?: { readonly query: string }
  onResult?: Callback
}

interface Mysql2Connection {
  readonly config: { readonly host?: string; readonly port?: number; readonly socketPath?: string }
  readonly _pool?: object
  readonly stream: Socket
  query(options: object, callback: Callback): unknown
  on(event: 'error', listener: () => void): unknown
  end(callback: () => void): void
  destroy(): void
}

type Mysql2Class = new (options: { config: object }) => Mysql2Connection

/**
 * mysql2. Every statement of the callback and of the promise interface becomes a command of `addCommand`, also those of
 * `beginTransaction` and `commit`, and those of a pool.
 */
export const mysql2: Driver = {
  dialect: 'mysql',

  isConnection: (value) => 'addCommand' in value && 'config' in value,

  addressOf(connection) {
    const { host, port, socketPath } = (connection as Mysql2Connection).config
    return socketPath ?? `${host}:${port}`
  },

  socketOf(connection) {
    const own = connection as Mysql2Connection
    own.on('error', () => undefined)
    return own.stream
  },

  async connect(connection) {
    const { config } = connection as Mysql2Connection
    // The class of single connections, from which the one of a pool's connections inherits.
    const Single = ownerOf(connection, 'addCommand').constructor as unknown as Mysql2Class
    const own = unattended(() => new Single({ config }))
    own.on('error', () => undefined)
    const query = <R extends object>(sql: string): Promise<R[]> =>
      new Promise((resolve, reject) =>
        unattended(() =>
          own.query({ sql, rowsAsArray: false, nestTables: false }, (error, rows) =>
            // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the driver's error
            error ? reject(error) : resolve(rows as R[]),
          ),
        ),
      )
    await query('SELECT 1')
    return { query, close: () => new Promise((resolve) => own.end(() => resolve())) }
  },

  install(connection, pool, gate) {
    const undo = [
      patch(connection, 'addCommand', gate, (original, gateFor) => {
        /** `execute` adds two commands one right after the other. */
        const prepares = new WeakMap<object, Mysql2Command>()
        return function (command: Mysql2Command) {
          const own = isMysql2Statement(command) ? gateFor(this as object) : undefined
          if (!own) return original.call(this, command)
          if ('parameterCount' in command) {
            prepares.set(this as object, command)
            const addAlone = (): void => {
              if (prepares.get(this as object) !== command) return
              prepares.delete(this as object)
              original.call(this, command)
            }
            queueMicrotask(addAlone)
          } else {
            const prepare = prepares.get(this as object)
            prepares.delete(this as object)
            keepMysql2(own, this as Mysql2Connection, command, prepare, (each) => original.call(this, each))
          }
          return command
        }
      }),
    ]
    const { _pool = pool } = connection as Mysql2Connection
    if ('getConnection' in _pool) {
      const bind = (original: (callback: Callback) => unknown) =>
        function (this: unknown, callback: Callback) {
          return original.call(this, bound(callback))
        }
      undo.push(patch(_pool, 'getConnection', gate, bind))
    }
    return () => {
      for (const each of undo) each()
    }
  },
}

/** Whether a command is a query, or prepares or executes one. */
function isMysql2Statement(command: object): boolean {
  return '_queryOptions' in command || '_executeOptions' in command || 'parameterCount' in command
}

/** What a caller has without a pool stays open. */
function giveUpLocks(connection: Mysql2Connection): Promise<void> {
  connection.query({ sql: 'ROLLBACK' }, () => undefined)
  return new Promise((resolve) => connection.query({ sql: 'DO RELEASE_ALL_LOCKS()' }, () => resolve()))
}

/** Passes a command to the gate, and calls back when the kit has recorded the result. */
function keepMysql2(
  gate: Gate,
  connection: Mysql2Connection,
  command: Mysql2Command,
  prepare: Mysql2Command | undefined,
  add: (command: Mysql2Command) => void,
): void {
  const { onResult: callback } = command
  const sql = command.sql ?? command.statement!.query
  let isSent = false
  const send = (text = sql): Promise<unknown> =>
    new Promise((resolve, reject) => {
      isSent = true
      const rows: unknown[] = []
      const done: Callback = (error, ...answer) =>
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the driver's error
        error ? reject(error) : resolve(answer)
      if (command.sql !== undefined) command.sql = text
      if (callback) command.onResult = done
      else {
        command.on('result', (row) => rows.push(row))
        command.once('error', done)
        command.once('end', () => done(undefined, rows))
      }
      if (prepare) {
        const { onResult: prepared } = prepare
        Object.assign(prepare, { query: text, options: { ...prepare.options, sql: text } })
        prepare.onResult = (error, ...answer) => {
          // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the driver's error
          if (error) reject(error)
          prepared!(error, ...answer)
        }
        add(prepare)
      }
      add(command)
    })
  const answer = bound((error, ...words) => {
    if (callback) callback(error, ...words)
    else if (error && !isSent) command.emit('error', error)
    // A pool takes the connection back at the end.
    if (error && !isSent) command.emit('end')
  })
  gate
    .keep({
      sql,
      parameters: command.parameters,
      connection,
      table: gate.tableOf(sql),
      send,
      rowsOf: (given) => {
        const [rows, fields] = given as [unknown, { name: string }[] | undefined]
        return asObjects(rows, fields)
      },
      discard: () => (connection._pool ? connection.destroy() : giveUpLocks(connection)),
      socket: () => mysql2.socketOf(connection),
      resend: (text) =>
        new Promise((resolve, reject) =>
          connection.query({ sql: text }, (error, ...words) =>
            // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the driver's error
            error ? reject(error) : resolve(words),
          ),
        ),
    })
    .then(
      (given) => process.nextTick(answer, undefined, ...(given as unknown[])),
      (error: unknown) => process.nextTick(answer, error),
    )
}
