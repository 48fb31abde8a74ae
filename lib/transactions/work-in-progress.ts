import type { Scope } from './async-context.js'

/** A statement, a call of a row's method, or a savepoint with its callback, that has begun and is not settled. */
export interface Work {
  readonly description: string
  /** The innermost callback that it was started in. */
  readonly scope: Scope | undefined
  /** It is part of other work, which is in progress too. */
  readonly isPart: boolean
  /** Resolves when it has succeeded or failed. */
  readonly settled: Promise<void>
}

/** Work that has begun and is not settled. */
export class WorkInProgress {
  readonly #work = new Set<Work>()

  async track<R>(work: Omit<Work, 'settled'>, call: () => Promise<R>): Promise<R> {
    let settle!: () => void
    const settled = new Promise<void>((resolve) => (settle = resolve))
    const tracked = { ...work, settled }
    this.#work.add(tracked)
    try {
      return await call()
    } finally {
      this.#work.delete(tracked)
      settle()
    }
  }

  /** What was started in the callback `scope`, or inside it; without one, everything. */
  of(scope: Scope | undefined): readonly Work[] {
    return [...this.#work].filter((work) => !scope || isInside(work.scope, scope))
  }
}

/** Whether `scope` is the callback `around`, or inside it. */
function isInside(scope: Scope | undefined, around: Scope): boolean {
  for (let each = scope; each; each = each.outer) if (each === around) return true
  return false
}
