import type { Scope } from './async-context.js'

/** A statement, a call of a row's method, or a savepoint with its callback, that has begun and is not settled. */
export interface Work {
  readonly description: string
  /** The innermost callback that it was started in. */
  readonly scope: Scope | undefined
  /** Resolves when it has succeeded or failed. */
  readonly settled: Promise<void>
}

/** Work that has begun and is not settled. */
export class WorkInProgress {
  readonly #work = new Set<Work>()

  async track<R>(description: string, scope: Scope | undefined, call: () => Promise<R>): Promise<R> {
    let settle!: () => void
    const settled = new Promise<void>((resolve) => (settle = resolve))
    const work = { description, scope, settled }
    this.#work.add(work)
    try {
      return await call()
    } finally {
      this.#work.delete(work)
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
