import { AsyncResource } from 'node:async_hooks'
import type { Socket } from 'node:net'
import type { Gate, Session } from '../gate.js'

/** What the kit does with the connections of one driver. */
export interface Driver {
  readonly dialect: 'mysql' | 'postgres'
  /** Whether this is a connection of the driver, not a pool. */
  isConnection(value: object): boolean
  /** The host and the port, as the connection was given them; empty if it does not say. */
  addressOf(connection: object): string
  /** The socket of a connection, unless it is closed; from then on, an error of the connection that no listener gets does not end the process. */
  socketOf(connection: object): Socket | undefined
  /** Opens another connection with the same credentials. */
  connect(connection: object, borrow: () => Promise<Borrowed>): Promise<Session>
  /** Passes the statements of all connections of the driver to the gate; returns a function that undoes that. */
  install(connection: object, pool: object, gate: Gate): () => void
}

export interface Borrowed {
  readonly connection: object
  readonly giveBack: () => unknown
}

export type Callback = (error: unknown, ...answer: unknown[]) => void

/** A function that is called with the async context of now: a pool calls back in the context of the one who gave back. */
export function bound(callback: Callback): Callback {
  return AsyncResource.bind((error: unknown, ...answer: unknown[]) => callback(error, ...answer))
}

/** Rows as objects, also those that the driver returns as arrays. */
export function asObjects(rows: unknown, fields: readonly { readonly name: string }[] | undefined): readonly unknown[] {
  const all: readonly unknown[] = Array.isArray(rows) ? rows : [rows]
  if (!fields) return all
  return all.map((row): unknown =>
    Array.isArray(row)
      ? Object.fromEntries(row.map((value: unknown, index) => [fields[index]?.name, value] as const))
      : row,
  )
}
