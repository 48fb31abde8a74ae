/** Runs functions one at a time, in the order of calls; the first one at once. */
export class SerialQueue {
  #last: Promise<void> | undefined

  async add<R>(run: () => Promise<R>): Promise<R> {
    const before = this.#last
    let settle!: () => void
    const settled = new Promise<void>((resolve) => (settle = resolve))
    this.#last = settled
    try {
      if (before) await before
      return await run()
    } finally {
      if (this.#last === settled) this.#last = undefined
      settle()
    }
  }

  /** Resolves when nothing runs or waits. */
  async whenIdle(): Promise<void> {
    while (this.#last) await this.#last
  }
}
