import type { Transaction } from 'sequelize'
import { usage } from '../errors/usage.js'
import type { RowRef } from '../rows/row-ref.js'
import { findRowState, rowStateOf } from '../rows/row-state.js'
import type { Claim } from '../rows/row-state.js'
import { finishedState, isSameTransaction, outermostOf } from '../sequelize/internals.js'
import { isInScope, lockTransaction, transactionOption } from '../transactions/join.js'

/**
 * Claims the instances of `refs` for one call before any row is locked: two concurrent calls must not share an
 * instance. A nested call, inside the callback that holds the instance, needs no claim.
 */
export function claimInstances(refs: readonly Pick<RowRef, 'instance'>[]): Claim {
  const claim: Claim = { transaction: undefined, isReleased: false }
  for (const { instance } of refs) if (instance && !lockTransaction(instance)) rowStateOf(instance).claim = claim
  return claim
}

/** @throws {UsageError} another concurrent call or another transaction uses this instance */
export function refuseOtherHolder(
  method: string,
  { instance, facts, session }: Pick<RowRef, 'instance' | 'facts' | 'session'>,
  transaction: Transaction | undefined,
): void {
  const state = findRowState(instance)
  if (!state) return
  const { lock, claim } = state
  const isHeldElsewhere = lock && !(transaction && isSameTransaction(lock.transaction, transaction))
  const isClaimed = claim !== undefined && !isOver(claim)
  if (isHeldElsewhere && !transaction && isInScope(lock.transaction)) throw usage.lockedAround(method, facts)
  if (isHeldElsewhere || (isClaimed && !lockTransaction(instance))) {
    throw usage.lockedElsewhere(method, { ...facts, option: transactionOption(session, transaction) })
  }
}

/** Whether the claim has ended: at COMMIT, before the `afterCommit` hooks of the call. */
function isOver({ isReleased, transaction }: Claim): boolean {
  return isReleased || (transaction !== undefined && finishedState(outermostOf(transaction)) === 'commit')
}
