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

  /** Resolves when the calls before this one have had their turns. */
  async whenIdle(): Promise<void> {
    const turn = this.enter()
    if (turn) await turn
    this.leave()
  }
}
