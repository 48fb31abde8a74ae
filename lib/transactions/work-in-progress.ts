import type { Scope } from './async-context.js'

/** A statement, a call of a row method, or a savepoint with its callback, that has not settled. */
export interface Work {
  readonly description: string
  /** The innermost callback that started it. */
  readonly scope: Scope | undefined
  /** It is part of other work, which is in progress too. */
  readonly isPart: boolean
  /** Resolves when it has succeeded or failed. */
  readonly settled: Promise<void>
}

/** The work of one transaction that has not settled. */
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
