import type { Fault } from './faults.js'
import type { Passing } from './gate.js'
import type { Kind } from './statement.js'
import type { Step } from './step.js'

/** The next statement of a participant, held at the gate. */
export interface Pending {
  readonly participant: string
  readonly sql: string
  /** `start`: the participant has not started. */
  readonly kind: Kind | 'start'
  /** What becomes known of it; `undefined` for a start. */
  readonly step?: Step
  readonly connection?: object
}

export interface Statement extends Pending {
  readonly kind: Kind
  readonly step: { -readonly [Key in keyof Step]: Step[Key] }
  readonly connection: object
  /** Closes the connection. */
  readonly discard: () => unknown
  readonly socket: Passing['socket']
  /** What is to happen to it. */
  fault: Fault | undefined
  /** Releases it. */
  go: () => void
  /** For a statement that found the database busy: resends it, or gives up. */
  again: ((giveUp: boolean) => void) | undefined
  /** The server has reported it as waiting, since the last possible release of a lock. */
  waiting: boolean
  waited: boolean
  /** The kit has cancelled it, since nothing else would have ended its wait. */
  cancelled: boolean
  /** The connections that block it, if the server reports them. */
  blockers: readonly number[] | undefined
  /** The number of inner statements that it waits for, such as the ROLLBACK after a deadlock. */
  nested: number
}

export interface Participant {
  readonly name: string
  /** Starts it; `undefined` after the start. */
  held: (() => void) | undefined
  readonly gates: Statement[]
  readonly sent: Set<Statement>
  settled: { readonly value?: unknown; readonly error?: unknown; readonly rejected: boolean } | undefined
  /** It exceeded its computing time: it may wait for something other than a statement. */
  outside: boolean
  lastEvent: number
  /** The number of checks without an event since then. */
  looks: number
  /** A write of it is committed, or may be. */
  lasting: boolean
  /** The server has answered its last one. */
  acknowledged: boolean
  /** Its process has ended, in an order with this fault: it gets no answer any more. */
  stopped: boolean
}

export function newParticipant(name: string): Participant {
  return {
    name,
    held: undefined,
    gates: [],
    sent: new Set(),
    settled: undefined,
    outside: false,
    lastEvent: performance.now(),
    looks: 0,
    lasting: false,
    acknowledged: false,
    stopped: false,
  }
}

export function nextOf({ name, gates }: Participant): Pending {
  return gates[0] ?? { participant: name, sql: 'start', kind: 'start' }
}

export function isDone({ settled, gates, sent }: Participant): boolean {
  return settled !== undefined && gates.length + sent.size === 0
}
