import type { Result } from './explore.js'
import { timeline } from './report.js'

/** An exploration that lost something, or proved nothing. */
export class LostUpdateError extends Error {
  readonly code = 'LOST_UPDATE'
  override readonly name = 'LostUpdateError'
  readonly result: Result

  constructor(result: Result) {
    const { verdict, first, failures, schedules, reasons } = result
    super(
      first && verdict === 'lost'
        ? `expected every order to keep every update, but ${failures.length} of ${schedules} lost one. The one with the fewest switches:\n\n${timeline(first)}\n`
        : `expected every order to keep every update, but the exploration proves nothing:\n${reasons.map((reason) => `- ${reason}`).join('\n')}`,
    )
    this.result = result
  }
}

/**
 * Asserts that nothing was lost in any schedule, and that the exploration proves so: for any test runner.
 *
 * @throws {LostUpdateError} with the timeline and the token of the first failure, or with why nothing is proved
 * @example assertNoLostUpdate(await explore({ … }))
 */
export function assertNoLostUpdate(result: Result): void {
  if (result.verdict !== 'kept') throw new LostUpdateError(result)
}

/** What chai hands to a plugin, as far as it is used here. */
interface Chai {
  readonly Assertion: { addMethod(name: string, method: (this: ChaiAssertion) => void): void }
}

interface ChaiAssertion {
  readonly _obj: unknown
  assert(isTrue: boolean, message: string, negated: string): void
}

/**
 * A chai plugin: `expect(await explore({ … })).to.loseNothing()`, and `.not.to.loseNothing()` for code that is to lose.
 * @example chai.use(raceAssertions)
 */
export function raceAssertions({ Assertion }: Chai): void {
  Assertion.addMethod('loseNothing', function () {
    const result = this._obj as Result
    const message = result.verdict === 'kept' ? '' : new LostUpdateError(result).message
    const negated = `expected some order to lose an update, but ${result.schedules} kept all`
    // What proves nothing proves no loss either.
    this.assert(result.verdict === 'kept', message, negated)
    if (result.verdict === 'unknown') throw new LostUpdateError(result)
  })
}

declare global {
  // eslint-disable-next-line @typescript-eslint/no-namespace -- as chai's own types are extended
  namespace Chai {
    interface Assertion {
      /** Of a result of `explore()`: in no schedule was anything lost, and that is proved. */
      loseNothing(): void
    }
  }
}
