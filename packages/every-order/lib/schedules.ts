import { faultKinds } from './faults.js'
import type { Fault, FaultAt } from './faults.js'
import { Independence } from './independence.js'
import type { PlainTables } from './items.js'
import type { Pending } from './participant.js'
import { shapeOf } from './statement.js'

/** A schedule to run: its first choices, and the state of the search after them. */
interface Item {
  readonly choices: readonly Choice[]
  /** The sleep set: participants that need not come next, because other items of the frontier cover these schedules. */
  readonly asleep: readonly string[]
  readonly preemptions: number
  readonly switches: number
}

interface Choice {
  readonly participant: string
  /** The alternatives of the choice, to detect a repetition that diverges. */
  readonly among: string
}

/** Where the schedules to run come from. */
export interface Schedules {
  readonly isEmpty: boolean
  /** The number of schedules that are known and not run yet. */
  readonly size: number
  /** The least number of preemptions among them. */
  readonly preemptions: number
  /** What is left out, if that is not a number of known schedules. */
  readonly description: string | undefined
  next(): Chooser
}

export interface Bounds {
  readonly preemptions: number
  /** Skip orders that differ only in the order of independent statements. */
  readonly reduce: boolean
  readonly tables: PlainTables | undefined
}

/**
 * The schedules to run, in the order of the fewest preemptions.
 *
 * A preemption is a statement that interrupts, see `Independence`: two schedules that differ only in the order of adjacent
 * independent statements have the same number of preemptions. That makes sleep sets sound under the bound; with the
 * count of CHESS they are not.
 */
export class Frontier implements Schedules {
  readonly description = undefined
  readonly #bounds: Bounds
  readonly #items: Item[] = [{ choices: [], asleep: [], preemptions: 0, switches: 0 }]

  constructor(bounds: Bounds) {
    this.#bounds = bounds
  }

  get isEmpty(): boolean {
    return this.#items.length === 0
  }

  /** Each of them may lead to more. */
  get size(): number {
    return this.#items.length
  }

  get preemptions(): number {
    return Math.min(...this.#items.map(({ preemptions }) => preemptions))
  }

  /** The next schedule to run. */
  next(): Chooser {
    const rank = ({ preemptions, switches }: Item): number => preemptions * 1_000 + switches
    const least = this.#items.reduce((best, item, index) => (rank(item) <= rank(this.#items[best]!) ? index : best), 0)
    return new Walk(this.#items.splice(least, 1)[0]!, this.#bounds, (item) => this.#add(item))
  }

  #add(item: Item): void {
    if (item.preemptions <= this.#bounds.preemptions) this.#items.push(item)
  }
}

/** Chooses the next participant, in one run. */
export interface Chooser {
  /** How the run differed from its recording: the participants behave differently. `undefined` if it did not. */
  readonly divergence: string | undefined
  /** The number of choices that were as recorded. */
  readonly divergedAt: number | undefined
  /** Another item of the frontier covers this schedule. */
  readonly isRedundant: boolean
  choose(ready: readonly Pending[]): string
  /** What is to happen to the statement that was chosen last. */
  readonly fault?: Fault | undefined
  /** The same schedule from its start; absent if it follows no recording. */
  again?(): Chooser
}

/** Runs one schedule from start to end, and adds the schedules that branch off. */
class Walk implements Chooser {
  divergence: string | undefined
  divergedAt: number | undefined
  isRedundant = false
  readonly #item: Item
  readonly #bounds: Bounds
  readonly #branch: (item: Item) => void
  readonly #choices: Choice[] = []
  readonly #independence: Independence
  #asleep: readonly string[]
  /** The number of calls of `choose`, also of those with no alternative. */
  #place = 0
  #preemptions: number
  #switches: number
  #previous: string | undefined

  constructor(item: Item, bounds: Bounds, branch: (item: Item) => void) {
    this.#item = item
    this.#bounds = bounds
    this.#branch = branch
    this.#asleep = item.asleep
    this.#independence = new Independence(bounds.tables)
    this.#preemptions = item.preemptions
    this.#switches = item.switches
  }

  again(): Chooser {
    return new Walk(this.#item, this.#bounds, this.#branch)
  }

  choose(pending: readonly Pending[]): string {
    this.#place++
    // All participants start, in every order, before the first statement is sent.
    const starts = pending.filter(({ kind }) => kind === 'start')
    const ready = starts.length > 0 ? starts : pending
    const local = this.#bounds.reduce && ready.find(({ kind }) => kind === 'local')
    const name = local ? local.participant : this.#chooseAmong(ready)
    this.#independence.send(ready.find(({ participant }) => participant === name)!)
    return name
  }

  #chooseAmong(ready: readonly Pending[]): string {
    const among = ready.map(({ participant, sql }) => `${participant}: ${shapeOf(sql)}`).join('\n')
    const recorded = this.divergence === undefined ? this.#item.choices[this.#choices.length] : undefined
    const participant = recorded ? this.#follow(recorded, ready, among) : this.#explore(ready, among)
    this.#choices.push({ participant, among })
    this.#previous = participant
    return participant
  }

  #follow(recorded: Choice, ready: readonly Pending[], among: string): string {
    if (recorded.among === among) return recorded.participant
    this.divergedAt = this.#place - 1
    this.divergence = `at choice ${this.#choices.length + 1} one run could choose from\n${recorded.among}\nand another from\n${among}`
    return ready[0]!.participant
  }

  #explore(ready: readonly Pending[], among: string): string {
    if (this.divergence !== undefined || this.isRedundant) return ready[0]!.participant
    const awake = ready.filter(({ participant }) => !this.#asleep.includes(participant))
    const free = awake.filter((pending) => this.#cost(pending) === 0)
    const next = free.find(({ participant }) => participant === this.#previous) ?? free[0] ?? awake[0]
    const asleep = [...this.#asleep, ...(next ? [next.participant] : [])]
    for (const other of awake) {
      if (other === next) continue
      this.#branch({
        choices: [...this.#choices, { participant: other.participant, among }],
        asleep: this.#stillAsleep(asleep, other, ready),
        preemptions: this.#preemptions + this.#cost(other),
        switches: this.#switches + (this.#previous === undefined || this.#previous === other.participant ? 0 : 1),
      })
      asleep.push(other.participant)
    }
    this.#preemptions += next ? this.#cost(next) : 0
    if (!next || this.#preemptions > this.#bounds.preemptions) {
      this.isRedundant = true
      return ready[0]!.participant
    }
    this.#asleep = this.#stillAsleep(this.#asleep, next, ready)
    if (this.#previous !== undefined && this.#previous !== next.participant) this.#switches++
    return next.participant
  }

  #cost(pending: Pending): 0 | 1 {
    return this.#independence.interrupts(pending) ? 1 : 0
  }

  /** The sleep set after a statement: without the participants whose next statement depends on it. */
  #stillAsleep(asleep: readonly string[], sent: Pending, ready: readonly Pending[]): string[] {
    return asleep.filter((name) => {
      const next = ready.find(({ participant }) => participant === name)
      return this.#bounds.reduce && next !== undefined && this.#independence.isIndependent(next, sent)
    })
  }
}

/** Replays a schedule with all its choices known. */
export class Script implements Chooser {
  readonly isRedundant = false
  divergence: string | undefined
  divergedAt: number | undefined
  readonly #choices: readonly string[]
  readonly #fault: FaultAt | undefined
  #place = 0

  constructor(choices: readonly string[], fault?: FaultAt) {
    this.#choices = choices
    this.#fault = fault
  }

  get fault(): Fault | undefined {
    return this.#fault?.choice === this.#place - 1 ? this.#fault.kind : undefined
  }

  again(): Chooser {
    this.#place = 0
    this.divergence = undefined
    this.divergedAt = undefined
    return this
  }

  choose(ready: readonly Pending[]): string {
    const name = this.#choices[this.#place++]
    if (ready.some(({ participant }) => participant === name)) return name!
    const there = ready.map(({ participant, sql }) => `${participant}: ${sql}`).join(', ')
    this.divergedAt ??= this.#place - 1
    this.divergence ??= `at choice ${this.#place} it names ${name ?? 'no participant'}, but the next statements are ${there}`
    return ready[0]!.participant
  }
}

/**
 * The choices of a schedule as text, with one letter for each: in `v1:ABBA`, A is the first participant. In
 * `v1:ABBA/stopped@4`, the fault is at the fourth choice.
 */
export function tokenOf(
  names: readonly string[],
  choices: readonly string[],
  mutant?: string,
  fault?: FaultAt,
): string {
  const letters = choices.map((name) => String.fromCharCode(65 + names.indexOf(name)))
  const end = fault ? `/${fault.kind}@${fault.choice + 1}` : ''
  return `v1${mutant === undefined ? '' : `.${mutant}`}:${letters.join('')}${end}`
}

/** Parses a token; `undefined` if it is invalid. */
export function readToken(token: string, names: readonly string[]): Recording | undefined {
  const [, mutant, letters, kind, place] = /^v1(?:\.([a-z-]+))?:([A-Z]*)(?:\/([a-z-]+)@([1-9]\d*))?$/.exec(token) ?? []
  const choices = letters?.split('').map((letter) => names[letter.charCodeAt(0) - 65])
  if (!choices || choices.includes(undefined)) return undefined
  if (kind === undefined) return { choices: choices as string[], mutant, fault: undefined }
  const isFault = faultKinds.includes(kind as Fault)
  const fault = { kind: kind as Fault, choice: Number(place) - 1 }
  return isFault ? { choices: choices as string[], mutant, fault } : undefined
}

interface Recording {
  readonly choices: readonly string[]
  readonly mutant: string | undefined
  readonly fault: FaultAt | undefined
}
