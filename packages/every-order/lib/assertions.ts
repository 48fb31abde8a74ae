import type { Result } from './explore.js'
import { timeline } from './report.js'

/** An exploration lost an update, or is inconclusive. */
export class LostUpdateError extends Error {
  readonly code = 'LOST_UPDATE'
  override readonly name = 'LostUpdateError'
  readonly result: Result

  constructor(result: Result) {
    super(explored(result))
    this.result = result
  }
}

function explored({ verdict, first, failures, schedules, reasons }: Result): string {
  return first && verdict === 'lost'
    ? `expected every order to lose no update and to end without a failure, but ${failures.length} of ${schedules} did not. The one with the fewest switches:\n\n${timeline(first)}\n`
    : `expected every order to keep every update, but the exploration is inconclusive:\n${reasons.map((reason) => `- ${reason}`).join('\n')}`
}

/**
 * Asserts that an exploration proves that no schedule loses an update. For any test runner.
 *
 * @throws {LostUpdateError} with the timeline and the token of the first failure, or the reasons for an inconclusive
 *   result
 * @example assertNoLostUpdate(await explore({ … }))
 */
export function assertNoLostUpdate(result: Result): void {
  if (result.verdict !== 'kept') throw new LostUpdateError(result)
}

/** The part of chai's plugin API that is used here. */
interface Chai {
  readonly Assertion: { addMethod(name: string, method: (this: ChaiAssertion) => void): void }
}

interface ChaiAssertion {
  readonly _obj: unknown
  assert(isTrue: boolean, message: string, negated: string): void
}

/**
 * A chai plugin: `expect(await explore({ … })).to.loseNothing()`, and `.not.to.loseNothing()` for
 * code that must lose an update.
 * @example chai.use(raceAssertions)
 */
export function raceAssertions({ Assertion }: Chai): void {
  Assertion.addMethod('loseNothing', function () {
    const result = this._obj as Result
    const isKept = result.verdict === 'kept'
    const message = isKept ? '' : new LostUpdateError(result).message
    const negated = `expected an order that loses an update, but all ${result.schedules} kept every update`
    // An inconclusive result does not prove a lost update either.
    this.assert(isKept, message, negated)
    if (result.verdict === 'unknown') throw new LostUpdateError(result)
  })
}

declare global {
  // eslint-disable-next-line @typescript-eslint/no-namespace -- as chai's own types are extended
  namespace Chai {
    interface Assertion {
      /** Asserts that the result of `explore()` proves that no update is lost. */
      loseNothing(): void
    }
  }
}
