import type { Kind } from './statement.js'
import type { Step } from './step.js'

/** A statement at the gate: the next one of its participant. */
export interface Pending {
  readonly participant: string
  readonly sql: string
  /** `start`: it has not begun yet, and stands in no queue. */
  readonly kind: Kind | 'start'
}

export interface Statement extends Pending {
  readonly kind: Kind
  readonly step: { -readonly [Key in keyof Step]: Step[Key] }
  readonly connection: object
  readonly inTransaction: boolean
  /** Lets it through. */
  go: () => void
  /** For a statement that the server did not even queue: sends it again, or gives up. */
  again: ((giveUp: boolean) => void) | undefined
  /** The server said that it waits, since the last time that a lock may have been released. */
  waiting: boolean
  waited: boolean
  /** The connections whose locks it waits for, where the server says. */
  blockers: readonly number[] | undefined
  /** Statements sent inside it, such as the ROLLBACK after a deadlock, which it waits for. */
  nested: number
}

export interface Participant {
  readonly name: string
  /** How to start it, as long as it is not. */
  held: (() => void) | undefined
  readonly gates: Statement[]
  readonly sent: Set<Statement>
  settled: { readonly error?: unknown; readonly rejected: boolean } | undefined
  /** It computes, or waits for something that is no statement. */
  outside: boolean
  lastEvent: number
  /** How often nothing was there since then. */
  looks: number
  /** A write of its lasts, or may last. */
  lasting: boolean
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
  }
}

export function nextOf({ name, gates }: Participant): Pending {
  return gates[0] ?? { participant: name, sql: 'start', kind: 'start' }
}

export function isDone({ settled, gates, sent }: Participant): boolean {
  return settled !== undefined && gates.length + sent.size === 0
}
