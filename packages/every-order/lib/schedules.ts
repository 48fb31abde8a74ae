import { faultKinds } from './faults.js'
import type { Fault, FaultAt } from './faults.js'
import type { Pending } from './participant.js'
import { shapeOf } from './statement.js'

/** A schedule to run: its first choices, and the state of the search after them. */
interface Item {
  readonly choices: readonly Choice[]
  /** The sleep set: statements that need not come next, because other items of the frontier cover these schedules. */
  readonly asleep: readonly Pending[]
  readonly preemptions: number
  readonly switches: number
  /** The participant of the last statement other than a read. */
  readonly last: string | undefined
}

interface Choice {
  readonly participant: string
  /** The alternatives of the choice, to detect a repetition that diverges. */
  readonly among: string
}

export interface Bounds {
  readonly preemptions: number
  /** Skip orders that differ only in the order of reads. */
  readonly reduce: boolean
}

/**
 * The schedules to run, in the order of the fewest preemptions.
 *
 * A preemption is a statement other than a read, sent while the participant of the last such statement could continue.
 * Reads are free: two schedules that differ only in the order of adjacent reads have the same number of preemptions.
 * That makes sleep sets sound under the bound; with the count of CHESS they are not.
 */
export class Frontier {
  readonly #bounds: Bounds
  readonly #items: Item[] = [{ choices: [], asleep: [], preemptions: 0, switches: 0, last: undefined }]

  constructor(bounds: Bounds) {
    this.#bounds = bounds
  }

  get isEmpty(): boolean {
    return this.#items.length === 0
  }

  /** The number of schedules that are known and not run yet; each may lead to more. */
  get size(): number {
    return this.#items.length
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
  /** The same schedule from its start. */
  again(): Chooser
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
  #asleep: readonly Pending[]
  /** The number of calls of `choose`, also of those with no alternative. */
  #place = 0
  #last: string | undefined
  #preemptions: number
  #switches: number
  #previous: string | undefined

  constructor(item: Item, bounds: Bounds, branch: (item: Item) => void) {
    this.#item = item
    this.#bounds = bounds
    this.#branch = branch
    this.#asleep = item.asleep
    this.#last = item.last
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
    if (local) return local.participant
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
    const awake = ready.filter(({ participant }) => !this.#asleep.some((each) => each.participant === participant))
    const free = awake.filter((pending) => this.#cost(pending, ready) === 0)
    const preferred = [this.#previous, this.#last]
    const chosen = preferred.flatMap((name) => free.filter(({ participant }) => participant === name))[0] ?? free[0]
    const asleep = [...this.#asleep, ...(chosen ? [chosen] : [])]
    for (const other of awake) {
      if (other === chosen) continue
      this.#branch({
        choices: [...this.#choices, { participant: other.participant, among }],
        asleep: asleep.filter((each) => this.#isIndependent(each, other)),
        preemptions: this.#preemptions + this.#cost(other, ready),
        switches: this.#switches + (this.#previous === undefined || this.#previous === other.participant ? 0 : 1),
        last: isFree(other) ? this.#last : other.participant,
      })
      asleep.push(other)
    }
    if (!chosen) {
      this.isRedundant = true
      return ready[0]!.participant
    }
    this.#asleep = this.#asleep.filter((each) => this.#isIndependent(each, chosen))
    if (this.#previous !== undefined && this.#previous !== chosen.participant) this.#switches++
    if (!isFree(chosen)) this.#last = chosen.participant
    return chosen.participant
  }

  #cost(pending: Pending, ready: readonly Pending[]): 0 | 1 {
    if (isFree(pending)) return 0
    return this.#last !== pending.participant && ready.some((each) => each.participant === this.#last) ? 1 : 0
  }

  #isIndependent(one: Pending, other: Pending): boolean {
    return this.#bounds.reduce && one.kind === 'read' && other.kind === 'read'
  }
}

function isFree({ kind }: Pending): boolean {
  return kind === 'read' || kind === 'local' || kind === 'start'
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
