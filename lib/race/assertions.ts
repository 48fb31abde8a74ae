import type { AuditReport } from './audit.js'
import { reportText } from './findings.js'

/** An audit has findings, or is inconclusive. */
export class UncoveredError extends Error {
  readonly code = 'UNCOVERED'
  override readonly name = 'UncoveredError'
  readonly report: AuditReport<unknown>

  constructor(report: AuditReport<unknown>) {
    super(`expected every write to be covered, but ${reportText(report)}`)
    this.report = report
  }
}

/**
 * Asserts that an audit saw writes and has no findings. For any test runner.
 *
 * @throws {UncoveredError} with the findings, or the reason for an inconclusive result
 * @example assertCovered(await audit(sequelize, () => finishStep(run.id, 'step_a')))
 */
export function assertCovered(report: AuditReport<unknown>): void {
  if (report.verdict !== 'covered') throw new UncoveredError(report)
}
