export { assertCovered, UncoveredError } from './assertions.js'
export { audit } from './audit.js'
export type { AuditOptions, AuditReport, RunningAudit } from './audit.js'
export type { Finding, Reason } from './findings.js'
