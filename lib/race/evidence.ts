import { messageOf } from './errors.js'
import type { Outcome, Run } from './run.js'
import { shareRow } from './step.js'

/** What the schedules have shown of themselves: without some of it, that nothing was lost proves nothing. */
export class Evidence {
  schedules = 0
  /** What was there in place of what was recorded, where the server had no choice. */
  #divergence: string | undefined
  #sharesRow = false
  readonly #ok = new Set<string>()
  readonly #errors = new Map<string, unknown>()

  /** Takes a schedule down; `divergence` tells how it went otherwise than before. */
  add(run: Run, outcomes: Readonly<Record<string, Outcome>>, divergence: string | undefined): void {
    this.schedules++
    this.#divergence ??= divergence
    for (const [name, outcome] of Object.entries(outcomes)) if (outcome === 'ok') this.#ok.add(name)
    for (const [name, error] of run.errors()) this.#errors.set(name, error)
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
      ...[...this.#errors]
        .filter(([name]) => !this.#ok.has(name))
        .map(([name, error]) => `${name} failed in every schedule: ${messageOf(error)}`),
    ].filter((objection) => objection !== false)
  }
}
