/**
 * Runs code under every order of its statements, on a real server.
 *
 * @module every-order
 */
export { assertNoLostUpdate, LostUpdateError, raceAssertions } from './assertions.js'
export { explore, replay } from './explore.js'
export type { Failure, MutantResult, Result } from './explore.js'
export type { ExploreOptions, RandomOrders } from './options.js'
export type { Anomaly, AnomalyName, Dependency } from './dependencies.js'
export { checkers } from './checkers.js'
export type { Check } from './checkers.js'
export {
  CommittedError,
  EndlessError,
  FailureError,
  HangError,
  LostKeysError,
  NoFinalReadError,
  OpenTransactionError,
  ProbeError,
  StuckError,
  UsageError,
} from './errors.js'
export type { Fault } from './faults.js'
export { htmlReport, markdownSummary } from './html.js'
export type { HtmlOptions } from './html.js'
export { explain, sequenceDiagram, timeline } from './report.js'
export type { Explanation } from './report.js'
export { NotSerialError, ResultsError } from './serial.js'
export type { Mutant } from './mutants.js'
export type { Outcome } from './run.js'
export { checkServer } from './laboratory.js'
export type { Step } from './step.js'
