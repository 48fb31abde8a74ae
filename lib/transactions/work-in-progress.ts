import type { Scope } from './async-context.js'

/** A statement, or a call of a row's method, that has begun and is not settled. */
export interface Work {
  readonly description: string
  /** The innermost callback that it was started in. */
  readonly scope: Scope | undefined
  /** Resolves when it has succeeded or failed. */
  readonly settled: Promise<void>
}

/** What one transaction has in progress: its statements, one at a time, and the calls that send them. */
export class WorkInProgress {
  readonly #work = new Set<Work>()
  #lastStatement: Promise<void> | undefined

  /** Runs a call that may send statements. */
  async track<R>(description: string, scope: Scope | undefined, call: () => Promise<R>): Promise<R> {
    const { work, settle } = this.#begin(description, scope)
    this.#work.add(work)
    try {
      return await call()
    } finally {
      this.#work.delete(work)
      settle()
    }
  }

  /** Sends a statement once every statement before it is settled. `isTracked`: {@link of} lists it. */
  async enqueue<R>(
    description: string,
    scope: Scope | undefined,
    isTracked: boolean,
    send: () => Promise<R>,
  ): Promise<R> {
    const before = this.#lastStatement
    const { work, settle } = this.#begin(description, scope)
    this.#lastStatement = work.settled
    if (isTracked) this.#work.add(work)
    try {
      await before
      return await send()
    } finally {
      this.#work.delete(work)
      if (this.#lastStatement === work.settled) this.#lastStatement = undefined
      settle()
    }
  }

  /** Resolves once no statement is being sent, and none waits. */
  async whenIdle(): Promise<void> {
    while (this.#lastStatement) await this.#lastStatement
  }

  /** What was started in the callback `scope`, or inside it; without one, everything. */
  of(scope: Scope | undefined): readonly Work[] {
    return [...this.#work].filter((work) => !scope || isInside(work.scope, scope))
  }

  #begin(description: string, scope: Scope | undefined): { readonly work: Work; readonly settle: () => void } {
    let settle!: () => void
    const settled = new Promise<void>((resolve) => (settle = resolve))
    return { work: { description, scope, settled }, settle }
  }
}

/** Whether `scope` is the callback `around`, or inside it. */
function isInside(scope: Scope | undefined, around: Scope): boolean {
  for (let each = scope; each; each = each.outer) if (each === around) return true
  return false
}
