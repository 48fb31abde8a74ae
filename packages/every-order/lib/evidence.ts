import { dependOnEachOther } from './dependencies.js'
import { messageOf } from './errors.js'
import type { Outcome, Run } from './run.js'
import { shareRow } from './step.js'

/** Collects evidence that the schedules tested something: without it, a result without losses is inconclusive. */
export class Evidence {
  schedules = 0
  /** The first divergence from a recorded schedule that no choice of the server explains. */
  divergence: string | undefined
  #sharesRow = false
  /** Where a participant was passed over, since it waited outside the database. */
  readonly passedOver: Set<string> = new Set()
  readonly #cancelled = new Set<string>()
  readonly #ok = new Set<string>()
  readonly #errors = new Map<string, unknown>()

  /** Adds a schedule; `divergence` describes how it differed from its recording. */
  add(run: Run, outcomes: Readonly<Record<string, Outcome>>, divergence: string | undefined): void {
    this.schedules++
    this.divergence ??= divergence
    for (const [name, outcome] of Object.entries(outcomes)) if (outcome === 'ok') this.#ok.add(name)
    for (const [name, error] of run.errors()) this.#errors.set(name, error)
    for (const place of run.passedOver) this.passedOver.add(place)
    for (const wait of run.cancelled) this.#cancelled.add(wait)
    this.#sharesRow ||= shareRow(run.steps) || dependOnEachOther(run.steps)
  }

  /** The reasons why the result is inconclusive; `hasFailed`: some order failed. */
  objections(hasFailed: boolean): string[] {
    const { schedules } = this
    return [
      this.divergence !== undefined &&
        `the participants behave differently in different runs, so not every order was run: ${this.divergence}. Remove random values, clocks and timers from them`,
      ...[...this.passedOver].map(
        (place) =>
          `${place}, and the others went on without it, so orders are missing: shorten or fake the timer or the request that it waits for`,
      ),
      ...this.#cancelled,
      schedules === 1 && 'there was only one schedule: the participants never competed for the next statement',
      !this.#sharesRow && !hasFailed && 'no two participants used the same row with at least one write to it',
      ...[...this.#errors]
        .filter(([name]) => !this.#ok.has(name))
        .map(([name, error]) => `${name} failed in every schedule: ${messageOf(error)}`),
    ].filter((objection) => objection !== false)
  }
}
