import { messageOf } from './errors.js'
import type { Outcome, Run } from './run.js'
import { shareRow } from './step.js'

/** What the schedules have shown of themselves: without some of it, that nothing was lost proves nothing. */
export class Evidence {
  schedules = 0
  /** What was there in place of what was recorded, where the server had no choice. */
  #divergence: string | undefined
  #sharesRow = false
  #anyOk = false
  #lastError: unknown

  /** Takes a schedule down; `divergence` tells how it went otherwise than before. */
  add(run: Run, outcomes: Readonly<Record<string, Outcome>>, divergence: string | undefined): void {
    this.schedules++
    this.#divergence ??= divergence
    this.#anyOk ||= Object.values(outcomes).includes('ok')
    this.#lastError = run.errors().at(-1)
    this.#sharesRow ||= shareRow(run.steps)
  }

  /** Why nothing is proved. */
  objections(): string[] {
    const { schedules } = this
    return [
      this.#divergence !== undefined &&
        `the participants do not do the same in every run, so not every order was seen: ${this.#divergence}. Take random values, clocks and timers out of them`,
      schedules === 1 && 'there was a single schedule: the participants never had a choice of who goes first',
      !this.#sharesRow && 'no row was touched by two participants, one of which wrote to it',
      !this.#anyOk && `every participant failed in every schedule: ${messageOf(this.#lastError)}`,
    ].filter((objection) => objection !== false)
  }
}
