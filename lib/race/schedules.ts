import type { Pending } from './participant.js'
import { shapeOf } from './statement.js'

/** A schedule still to be run: the choices it begins with, and what has been seen already from there. */
interface Item {
  readonly choices: readonly Choice[]
  /** Statements that need not come next: the schedules in which they do are, or will be, run from elsewhere. */
  readonly asleep: readonly Pending[]
  readonly preemptions: number
  readonly switches: number
  /** The participant of the last statement that was more than a read. */
  readonly last: string | undefined
}

interface Choice {
  readonly participant: string
  /** What could be chosen from, to see whether a repetition goes the same way. */
  readonly among: string
}

export interface Bounds {
  readonly preemptions: number
  /** Leave out orders that differ only in what cannot be told apart. */
  readonly reduce: boolean
}

/**
 * The schedules that are still to be run, those with the fewest preemptions first.
 *
 * A preemption is a statement other than a read that comes while the participant of the last such statement could go on.
 * Reads are free, so two schedules that differ only in the order of neighbouring reads have equally many; that makes the
 * sleep sets sound under the bound, which with CHESS' own count they are not.
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

/** Chooses who goes next, in one run of the participants. */
export interface Chooser {
  /** In place of what was recorded, this was there: the participants do not do the same in every run. */
  readonly divergence: string | undefined
  /** It turned out to be a schedule that is run from elsewhere. */
  readonly isRedundant: boolean
  choose(ready: readonly Pending[]): string
  /** The same from its beginning. */
  again(): Chooser
}

/** One walk from the beginning to the end of a schedule; finds those that branch off from it. */
class Walk implements Chooser {
  divergence: string | undefined
  isRedundant = false
  readonly #item: Item
  readonly #bounds: Bounds
  readonly #branch: (item: Item) => void
  readonly #choices: Choice[] = []
  #asleep: readonly Pending[]
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
    // Nobody sends a statement before all are started, in whatever order.
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

/** A schedule that is known from its first choice to its last. */
export class Script implements Chooser {
  readonly isRedundant = false
  divergence: string | undefined
  readonly #choices: readonly string[]
  #place = 0

  constructor(choices: readonly string[]) {
    this.#choices = choices
  }

  again(): Chooser {
    this.#place = 0
    this.divergence = undefined
    return this
  }

  choose(ready: readonly Pending[]): string {
    const name = this.#choices[this.#place++]
    if (ready.some(({ participant }) => participant === name)) return name!
    const there = ready.map(({ participant, sql }) => `${participant}: ${sql}`).join(', ')
    this.divergence ??= `at place ${this.#place}, where ${name ?? 'it ends'}, the next statements are ${there}`
    return ready[0]!.participant
  }
}

/** The choices of a schedule as text, a letter for each: `v1:ABBA`, where A is the first participant, whatever its name. */
export function tokenOf(names: readonly string[], choices: readonly string[], mutant?: string): string {
  const letters = choices.map((name) => String.fromCharCode(65 + names.indexOf(name)))
  return `v1${mutant === undefined ? '' : `.${mutant}`}:${letters.join('')}`
}

/** What a token stands for; `undefined` if it is none. */
export function readToken(
  token: string,
  names: readonly string[],
): { readonly choices: readonly string[]; readonly mutant: string | undefined } | undefined {
  const [, mutant, letters] = /^v1(?:\.([a-z-]+))?:([A-Z]*)$/.exec(token) ?? []
  const choices = letters?.split('').map((letter) => names[letter.charCodeAt(0) - 65])
  return !choices || choices.includes(undefined) ? undefined : { choices: choices as string[], mutant }
}
