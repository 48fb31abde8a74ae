import type { RandomOrders } from './options.js'
import type { Pending } from './participant.js'
import type { Chooser, Schedules } from './schedules.js'

export const defaultSeed = 1

/** The number of choices of a schedule, before one was run. */
const expectedLength = 20
/** The greatest number of places in a schedule where the participant that would continue must wait for the others. */
const mostChanges = 3

/**
 * Schedules at random, by probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010): the participants have random
 * priorities, and the first that can continue does; at a few random places it gets the lowest one. With n
 * participants and k choices, a failure that needs d changes is found in a schedule with a probability of at least 1 / (n · k^d),
 * for its number of changes.
 */
export class Sample implements Schedules {
  readonly preemptions = 0
  readonly #schedules: number
  readonly #seed: number
  /** The choices of each schedule. */
  readonly #chosen: string[][] = []

  constructor({ schedules, seed = defaultSeed }: RandomOrders) {
    this.#schedules = schedules
    this.#seed = seed
  }

  get isEmpty(): boolean {
    return this.#chosen.length >= this.#schedules
  }

  get size(): number {
    return this.#schedules - this.#chosen.length
  }

  get description(): string {
    const different = new Set(this.#chosen.map((choices) => choices.join('\n'))).size
    return `${this.#chosen.length} orders were chosen at random with the seed ${this.#seed}, ${different} of them different: others were not run`
  }

  next(): Chooser {
    const numbers = randomNumbers(this.#seed * 65_537 + this.#chosen.length)
    const length = Math.max(expectedLength, ...this.#chosen.map((choices) => choices.length))
    const changes = Math.floor(numbers() * (mostChanges + 1))
    const places = Array.from({ length: changes }, () => Math.floor(numbers() * length))
    const choices: string[] = []
    this.#chosen.push(choices)
    return new RandomWalk(numbers() * 2 ** 32, places, choices)
  }
}

class RandomWalk implements Chooser {
  readonly divergence = undefined
  readonly divergedAt = undefined
  readonly isRedundant = false
  readonly #places: readonly number[]
  readonly #numbers: () => number
  readonly #priorities = new Map<string, number>()
  readonly #choices: string[]

  constructor(seed: number, places: readonly number[], choices: string[]) {
    this.#places = places
    this.#choices = choices
    this.#numbers = randomNumbers(seed)
  }

  choose(ready: readonly Pending[]): string {
    const local = ready.find(({ kind }) => kind === 'local')
    const place = this.#choices.length
    if (!local && this.#places.includes(place)) this.#priorities.set(this.#first(ready), -place)
    const name = local?.participant ?? this.#first(ready)
    if (!local) this.#choices.push(name)
    return name
  }

  #first(ready: readonly Pending[]): string {
    const names = ready.map(({ participant }) => participant).sort()
    for (const name of names) this.#priorities.set(name, this.#priorities.get(name) ?? this.#numbers() + 1)
    return names.reduce((best, name) => (this.#priorities.get(name)! > this.#priorities.get(best)! ? name : best))
  }
}

/** Numbers from 0 to 1 that depend on the seed only (mulberry32). */
function randomNumbers(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
