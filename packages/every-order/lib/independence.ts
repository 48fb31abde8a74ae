import { itemsOf } from './items.js'
import type { PlainTables } from './items.js'
import type { Pending } from './participant.js'
import { beginsTransaction, endsTransaction, isSeveral } from './statement.js'
import { isSameRow } from './step.js'

/** What a statement uses, as far as other sessions notice it; items are `table#key`, or `table#*`. */
interface Footprint {
  /** What it reads without a lock. */
  readonly reads: readonly string[]
  /** What it writes or locks; for the end of a transaction, what that had written or locked. */
  readonly uses: readonly string[]
  /** It may be the first statement of a transaction that needs a snapshot. */
  readonly takesSnapshot: boolean
  /** It makes a write visible to new snapshots. */
  readonly commits: boolean
}

/** A statement that was sent in a run, and what happened before it. */
interface Sent {
  readonly pending: Pending
  readonly footprint: Footprint | undefined
  /** For each participant, how many of its statements must come before the next one after this. */
  readonly clock: Readonly<Record<string, number>>
}

interface Transaction {
  /** `undefined`: not surely known. */
  uses: readonly string[] | undefined
  hasSnapshot: boolean
  wrote: boolean
}

/**
 * Which statements of one run may swap places without an effect: they use other tables, both only read, or they name other
 * rows by primary key. The end of a transaction depends on every statement that uses what the transaction wrote or locked, and
 * a write that becomes visible on the first statement of a transaction, whose snapshot may include it. What is not
 * surely known depends on everything.
 */
export class Independence {
  readonly #tables: PlainTables | undefined
  readonly #sent = new Map<string, Sent[]>()
  readonly #open = new Map<object, Transaction>()
  /** Participants whose transactions cannot be followed any more. */
  readonly #unsure = new Set<string>()

  constructor(tables: PlainTables | undefined) {
    this.#tables = tables
  }

  /** Whether the next statements of two participants may swap places now. */
  isIndependent(one: Pending, other: Pending): boolean {
    if (one.kind === 'read' && other.kind === 'read') return true
    // Each of them may end the wait of a third statement, also by an error.
    return !this.#isWaiting && areIndependent(this.#footprintOf(one), this.#footprintOf(other))
  }

  /**
   * Whether a statement interrupts: since the last statement of its participant, another participant has used what the participant
   * had used before, and this statement depends on that. Equivalent orders have the same interruptions.
   */
  interrupts(pending: Pending): boolean {
    const { participant: name } = pending
    const last = this.#sent.get(name)?.at(-1)?.clock ?? {}
    return Object.entries(this.#clockOf(pending, this.#footprintOf(pending))).some(([other, count]) => {
      if (other === name || count <= (last[other] ?? 0)) return false
      const { clock, pending: between } = this.#sent.get(other)![count - 1]!
      return (clock[name] ?? 0) > 0 && between.step?.waitedFor.length === 0
    })
  }

  /** Records that a statement is sent. */
  send(pending: Pending): void {
    const { participant, sql, kind, connection } = pending
    if (kind === 'start' || !connection) return
    const footprint = this.#footprintOf(pending)
    if (kind !== 'local') {
      const sent = this.#sent.get(participant) ?? []
      sent.push({ pending, footprint, clock: this.#clockOf(pending, footprint) })
      this.#sent.set(participant, sent)
    }
    const isBegin = beginsTransaction(sql)
    if (isSeveral(sql) || /\bSERIALIZABLE\b/i.test(sql) || (kind === 'other' && !isBegin)) this.#unsure.add(participant)
    const open = this.#open.get(connection)
    if (isBegin) this.#open.set(connection, { uses: [], hasSnapshot: false, wrote: false })
    else if (endsTransaction(sql)) this.#open.delete(connection)
    else if (open && kind !== 'local') {
      open.uses = footprint && open.uses ? [...new Set([...open.uses, ...footprint.uses])] : undefined
      open.hasSnapshot ||= kind === 'read' && (footprint?.reads.length ?? 0) > 0
      open.wrote ||= kind === 'write'
    }
  }

  /** Whether a statement that was sent waits for a lock. */
  get #isWaiting(): boolean {
    return [...this.#sent.values()].some((sent) => sent.some(({ pending }) => pending.step?.answeredAfter === 0))
  }

  #footprintOf({ participant, sql, kind, connection, step }: Pending): Footprint | undefined {
    if (!this.#tables || !connection || this.#unsure.has(participant) || kind === 'start' || kind === 'other')
      return undefined
    const open = this.#open.get(connection)
    if (kind === 'end') {
      const commits = endsTransaction(sql) && /^COMMIT/i.test(sql) && open?.wrote === true
      return open?.uses && { reads: [], uses: open.uses, takesSnapshot: false, commits }
    }
    const items = kind === 'local' ? [] : itemsOf(sql, step!.binds, this.#tables)
    const takesSnapshot = open !== undefined && !open.hasSnapshot && kind !== 'local'
    if (!items || kind === 'read' || kind === 'local')
      return items && { reads: items, uses: [], takesSnapshot, commits: false }
    // An error of it may end the transaction, with its locks.
    const uses = open ? open.uses && [...open.uses, ...items] : items
    return uses && { reads: [], uses, takesSnapshot, commits: !open && kind === 'write' }
  }

  #clockOf({ participant, kind }: Pending, footprint: Footprint | undefined): Record<string, number> {
    const own = this.#sent.get(participant) ?? []
    const clock = { ...own.at(-1)?.clock, [participant]: own.length + 1 }
    for (const [other, sent] of this.#sent) {
      const isBefore = (each: Sent): boolean =>
        each.pending.step?.answeredAfter !== 0 &&
        !(kind === 'read' && each.pending.kind === 'read') &&
        !areIndependent(footprint, each.footprint)
      const before = other === participant ? undefined : sent.findLast(isBefore)
      for (const [name, count] of Object.entries(before?.clock ?? {})) clock[name] = Math.max(clock[name] ?? 0, count)
    }
    return clock
  }
}

function areIndependent(one: Footprint | undefined, other: Footprint | undefined): boolean {
  if (!one || !other) return false
  const isApart = (items: readonly string[], others: readonly string[]): boolean =>
    !items.some((item) => others.some((each) => isSameRow(item, each)))
  return (
    isApart(one.uses, [...other.uses, ...other.reads]) &&
    isApart(other.uses, one.reads) &&
    !(one.takesSnapshot && other.commits) &&
    !(other.takesSnapshot && one.commits)
  )
}
