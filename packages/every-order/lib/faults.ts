import type { Socket } from 'node:net'

/** What happens to one statement of a participant; the meaning, as the reports say it. */
const meanings = {
  'killed-before': 'the connection was lost before the statement reached the server',
  'killed-after': 'the connection was lost after the statement was executed, before its answer',
  'lost-commit-answer': 'the transaction was committed, and the connection was lost before the answer',
  stopped: 'the participant stopped here, before the statement was sent',
} as const

/**
 * A fault at one statement of a participant. `killed-before`: its connection is lost before the statement reaches the server.
 * `killed-after`: the server executes it, and the connection is lost before the answer; `lost-commit-answer`: the same at
 * COMMIT. `stopped`: the process of the participant ends before the statement, and its connections with it.
 */
export type Fault = keyof typeof meanings

export const faultKinds = Object.keys(meanings) as readonly Fault[]

/** What happened to a statement, with the message of the driver. */
export function describeFault(fault: Fault, message: string | undefined): string {
  return message === undefined ? meanings[fault] : `${meanings[fault]} (${message})`
}

/** Where the fault of an order is: at which choice. */
export interface FaultAt {
  readonly kind: Fault
  readonly choice: number
}

/** How a statement ended. */
interface Ended {
  readonly error: string | undefined
  readonly fault?: Fault | undefined
}

/** Whether the server executed a statement. */
export function tookEffect({ error, fault }: Ended): boolean {
  return error === undefined || fault === 'killed-after' || fault === 'lost-commit-answer'
}

/**
 * Calls `fn`, which gives a statement to the driver; then ends the connection, as a server does that goes away, before the
 * statement has left this process. A driver has no socket for a connection that is closed already.
 */
export async function severed(socket: Socket | undefined, fn: () => unknown): Promise<void> {
  if (!socket) return void (await fn())
  socket.write = () => true
  const answer = Promise.resolve().then(fn)
  answer.catch(() => undefined)
  const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
  // Until the driver has written.
  await nextTurn()
  if (!socket.readableEnded && !socket.destroyed) socket.push(null)
  socket.resume()
  while (!socket.readableEnded && !socket.destroyed) await nextTurn()
  socket.destroy()
  while (!socket.closed) await nextTurn()
  // Until the driver has seen that.
  await nextTurn()
  await answer
}
