import type { Scope, Turn } from './async-context.js'

/** A statement, a call of a row method, or a savepoint with its callback, that has not settled. */
export class Work {
  readonly description: string
  /** The innermost callback that started it. */
  readonly scope: Scope | undefined
  /** It is part of other work, which is in progress too. */
  readonly isPart: boolean
  readonly #all: Set<Work>
  #onEnd: (() => void) | undefined
  #settled: Promise<void> | undefined

  constructor(all: Set<Work>, description: string, scope: Scope | undefined, isPart: boolean) {
    this.#all = all
    this.description = description
    this.scope = scope
    this.isPart = isPart
    all.add(this)
  }

  /** Ends the work, whether it has succeeded or failed. */
  end(): void {
    this.#all.delete(this)
    this.#onEnd?.()
  }

  /** Resolves when the work ends. Created on first use, since few calls wait for it. */
  get settled(): Promise<void> {
    return (this.#settled ??= new Promise((resolve) => (this.#onEnd = resolve)))
  }
}

/** The work of one transaction that has not settled. */
export class WorkInProgress {
  readonly #work = new Set<Work>()

  start(description: string, scope: Scope | undefined, isPart: boolean): Work {
    return new Work(this.#work, description, scope, isPart)
  }

  /** The work that was started in the callback `scope` or in a nested callback; without a scope, all work. */
  of(scope: Scope | undefined): readonly Work[] {
    return [...this.#work].filter((work) => !scope || isInside(work.scope, scope))
  }
}

/** Whether `scope` is `around` or nested in it. */
function isInside(scope: Scope | undefined, around: Scope): boolean {
  for (let each = scope; each; each = each.outer) if (each === around) return true
  return false
}

/** Gives turns one at a time, in the order of calls. */
export class SerialQueue {
  /** The calls that wait for their turn; `undefined` while no call has it. */
  #waiting: (() => void)[] | undefined

  /** Takes the next turn; {@link leave} ends it. `undefined`, instead of a promise, if the turn is here at once. */
  enter(): Promise<void> | undefined {
    const waiting = this.#waiting
    if (waiting) return new Promise((resolve) => waiting.push(resolve))
    this.#waiting = []
    return undefined
  }

  leave(): void {
    const next = this.#waiting?.shift()
    if (next) next()
    else this.#waiting = undefined
  }

  /** Resolves when the calls before this one have had their turns; `undefined`, instead of a promise, if there are none. */
  whenIdle(): Promise<void> | undefined {
    if (!this.#waiting) return undefined
    return this.enter()!.then(() => {
      this.leave()
    })
  }
}

/** Gives turns, one at a time for each kind and key, and finds those that would wait for each other. */
export class Turns {
  readonly #queues = new Map<string, SerialQueue>()
  /** The turns that are taken, by {@link nameOf}. */
  readonly #current = new Map<string, Turn>()
  readonly #waiting = new Set<Turn>()

  /** Takes the next turn; `undefined`, instead of a promise, if it is here at once. */
  enter(turn: Turn): Promise<void> | 'deadlock' | undefined {
    const name = nameOf(turn)
    let queue = this.#queues.get(name)
    if (!queue) this.#queues.set(name, (queue = new SerialQueue()))
    if (this.#waitsFor(this.#current.get(name), turn)) return 'deadlock'
    const before = queue.enter()
    if (!before) {
      this.#current.set(name, turn)
      return undefined
    }
    this.#waiting.add(turn)
    return before.then(() => {
      this.#waiting.delete(turn)
      this.#current.set(name, turn)
    })
  }

  /** Whether a turn of the kind and key is taken. */
  isTaken(kind: Turn['kind'], key: string): boolean {
    return this.#current.has(nameOf({ kind, key }))
  }

  leave(turn: Turn): void {
    const name = nameOf(turn)
    this.#current.delete(name)
    this.#queues.get(name)!.leave()
  }

  /** Whether a turn cannot end before `turn`, or before one that `turn` is part of. */
  #waitsFor(taken: Turn | undefined, turn: Turn): boolean {
    if (!taken) return false
    if (isPartOf(turn.outer, taken)) return true
    const inside = [...this.#waiting].filter(({ outer }) => isPartOf(outer, taken))
    return inside.some((each) => this.#waitsFor(this.#current.get(nameOf(each)), turn))
  }
}

/** The wait for a turn, in milliseconds, after which a warning names the likely cause: no database knows of that wait. */
const longWait = 30_000

/** Waits for the turn of a call, and warns if that takes long. */
export async function waitForTurn(turn: Promise<void>, call: string): Promise<void> {
  const timer = setTimeout(() => {
    process.emitWarning(
      `sequelize-lossless: ${call} has waited ${longWait / 1000} s for an earlier call for its row in the same transaction. ` +
        'If a hook of that call awaits this one, neither of them ends: make this call in the hook itself, with { transaction }.',
      { type: 'SequelizeLosslessWarning', code: 'LONG_WAIT' },
    )
  }, longWait)
  timer.unref()
  try {
    await turn
  } finally {
    clearTimeout(timer)
  }
}

function nameOf({ kind, key }: Pick<Turn, 'kind' | 'key'>): string {
  return `${kind} ${key}`
}

/** Whether `turn` is `around` or part of it. */
function isPartOf(turn: Turn | undefined, around: Turn): boolean {
  for (let each = turn; each; each = each.outer) if (each === around) return true
  return false
}
