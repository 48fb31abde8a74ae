import type { AuditReport } from './audit.js'
import type { Result } from './explore.js'
import { reportText } from './findings.js'
import { timeline } from './report.js'

/** The result of `explore()` or `audit()`. */
type Judged = Result | AuditReport<unknown>

/** An exploration lost an update, an audit has findings, or either is inconclusive. */
export class LostUpdateError extends Error {
  readonly code = 'LOST_UPDATE'
  override readonly name = 'LostUpdateError'
  readonly result: Judged

  constructor(result: Judged) {
    super('findings' in result ? `expected every write to be covered, but ${reportText(result)}` : explored(result))
    this.result = result
  }
}

function explored({ verdict, first, failures, schedules, reasons }: Result): string {
  return first && verdict === 'lost'
    ? `expected every order to keep every update, but ${failures.length} of ${schedules} lost one. The one with the fewest switches:\n\n${timeline(first)}\n`
    : `expected every order to keep every update, but the exploration is inconclusive:\n${reasons.map((reason) => `- ${reason}`).join('\n')}`
}

function isKept({ verdict }: Judged): boolean {
  return verdict === 'kept' || verdict === 'covered'
}

/**
 * Asserts that an exploration proves that no schedule loses an update, or that an audit saw writes and has no findings.
 * For any test runner.
 *
 * @throws {LostUpdateError} with the timeline and the token of the first failure, the findings, or the reasons for an
 *   inconclusive result
 * @example assertNoLostUpdate(await explore({ … }))
 */
export function assertNoLostUpdate(result: Judged): void {
  if (!isKept(result)) throw new LostUpdateError(result)
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
 * A chai plugin: `expect(await explore({ … })).to.loseNothing()`, the same for an audit, and `.not.to.loseNothing()`
 * for code that must lose an update.
 * @example chai.use(raceAssertions)
 */
export function raceAssertions({ Assertion }: Chai): void {
  Assertion.addMethod('loseNothing', function () {
    const result = this._obj as Judged
    const message = isKept(result) ? '' : new LostUpdateError(result).message
    const negated =
      'findings' in result
        ? `expected an uncovered write, but all ${result.writes} are covered`
        : `expected an order that loses an update, but all ${result.schedules} kept every update`
    // An inconclusive result does not prove a lost update either.
    this.assert(isKept(result), message, negated)
    if (result.verdict === 'unknown') throw new LostUpdateError(result)
  })
}

declare global {
  // eslint-disable-next-line @typescript-eslint/no-namespace -- as chai's own types are extended
  namespace Chai {
    interface Assertion {
      /** Asserts that the result of `explore()` or `audit()` proves that no update is lost. */
      loseNothing(): void
    }
  }
}
