import type { Fault } from './faults.js'
import type { Pending } from './participant.js'
import type { Chooser } from './schedules.js'
import { endsTransaction } from './statement.js'
import type { Step } from './step.js'

/** One order with a fault. */
interface Place {
  /** The participants in the order in which they run. */
  readonly order: readonly string[]
  readonly participant: string
  /** The number of statements of the participant before the one with the fault. */
  readonly before: number
  readonly kind: Fault
  /** When the later participants run: after this one, or right before or after its fault. */
  readonly others: 'last' | 'before' | 'after'
}

/**
 * The orders with one fault: each kind, at each statement of each participant, in each serial order; and with the later
 * participants right before the fault, and right after it.
 *
 * @param orders each serial order, with the statements that were sent in it
 */
export function faultPlaces(
  orders: readonly (readonly [order: readonly string[], steps: readonly Step[]])[],
  kinds: readonly Fault[],
): Place[] {
  return orders.flatMap(([order, steps]) =>
    order.flatMap((participant, place) =>
      steps
        .filter((step) => step.participant === participant)
        .flatMap((step, before) =>
          kinds
            .filter((kind) => mayHappen(kind, step))
            .flatMap((kind) =>
              (['last', 'before', 'after'] as const)
                .filter((others) => others === 'last' || (place < order.length - 1 && before > 0))
                .map((others) => ({ order, participant, before, kind, others })),
            ),
        ),
    ),
  )
}

function mayHappen(kind: Fault, { sql }: Step): boolean {
  const isCommit = endsTransaction(sql) && /^COMMIT/i.test(sql)
  return kind === 'lost-commit-answer' ? isCommit : kind !== 'killed-after' || !isCommit
}

/** Runs the participants one after the other, with a fault at one place, or without one. */
export class FaultWalk implements Chooser {
  readonly isRedundant = false
  readonly divergence = undefined
  readonly divergedAt = undefined
  fault: Fault | undefined
  readonly #place: Place | undefined
  #order: readonly string[]
  #sent = 0
  #hasMoved = false

  constructor(order: readonly string[], place?: Place) {
    this.#place = place
    this.#order = order
  }

  choose(ready: readonly Pending[]): string {
    const { participant, before, kind, others } = this.#place ?? {}
    const next = (): string => this.#order.find((name) => ready.some((each) => each.participant === name))!
    const isThere = (): boolean => next() === participant && this.#sent === before
    if (others === 'before' && isThere()) this.#moveBack(participant!)
    this.fault = isThere() ? kind : undefined
    const name = next()
    if (this.fault !== undefined && others === 'after') this.#moveBack(participant!)
    if (name === participant) this.#sent++
    return name
  }

  /** Lets the later participants run first. */
  #moveBack(participant: string): void {
    if (this.#hasMoved) return
    this.#hasMoved = true
    this.#order = [...this.#order.filter((name) => name !== participant), participant]
  }
}
