import type { CallbackTurn, Scope } from './async-context.js'

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

/** Whether code runs in a turn for a key. */
export function isInTurn(turn: CallbackTurn | undefined, key: string): boolean {
  for (let each = turn; each; each = each.outer) if (each.key === key) return true
  return false
}

/** Gives turns to callbacks, one at a time for each key, and finds those that would wait for each other. */
export class CallbackTurns {
  readonly #queues = new Map<string, SerialQueue>()
  /** The callbacks whose turn it is, by key. */
  readonly #current = new Map<string, CallbackTurn>()
  readonly #waiting = new Set<CallbackTurn>()

  /** Takes the next turn; `undefined`, instead of a promise, if it is here at once. */
  enter(turn: CallbackTurn): Promise<void> | 'deadlock' | undefined {
    const { key } = turn
    let queue = this.#queues.get(key)
    if (!queue) this.#queues.set(key, (queue = new SerialQueue()))
    if (this.#waitsFor(this.#current.get(key), turn)) return 'deadlock'
    const before = queue.enter()
    if (!before) {
      this.#current.set(key, turn)
      return undefined
    }
    this.#waiting.add(turn)
    return before.then(() => {
      this.#waiting.delete(turn)
      this.#current.set(key, turn)
    })
  }

  /** Whether the callback whose turn it is for a key is neither that of `turn` nor around it. */
  isBeside(turn: CallbackTurn | undefined, key: string): boolean {
    return this.#current.has(key) && !isInTurn(turn, key)
  }

  leave({ key }: CallbackTurn): void {
    this.#current.delete(key)
    this.#queues.get(key)!.leave()
  }

  /** Whether a callback cannot end before that of `turn`, or of one around it. */
  #waitsFor(callback: CallbackTurn | undefined, turn: CallbackTurn): boolean {
    if (!callback) return false
    const inside = [...this.#waiting].filter(({ outer }) => isAround(callback, outer))
    return inside.some(({ key }) => {
      const next = this.#current.get(key)
      return isAround(next, turn.outer) || this.#waitsFor(next, turn)
    })
  }
}

/** Whether `turn` is `around` or inside it. */
function isAround(around: CallbackTurn | undefined, turn: CallbackTurn | undefined): boolean {
  for (let each = turn; each; each = each.outer) if (each === around) return true
  return false
}
