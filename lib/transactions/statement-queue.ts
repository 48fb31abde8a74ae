/** Sends statements one at a time, in the order of calls. */
export class StatementQueue {
  #last: Promise<void> | undefined

  async add<R>(send: () => Promise<R>): Promise<R> {
    const before = this.#last
    let settle!: () => void
    const settled = new Promise<void>((resolve) => (settle = resolve))
    this.#last = settled
    try {
      await before
      return await send()
    } finally {
      if (this.#last === settled) this.#last = undefined
      settle()
    }
  }

  /** Resolves when no statement is in flight or queued. */
  async whenIdle(): Promise<void> {
    while (this.#last) await this.#last
  }
}
