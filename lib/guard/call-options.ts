import type { Logging, Transaction } from 'sequelize'
import { captureCallSite } from '../call-site.js'
import type { RowModel } from '../sequelize/internals.js'
import type { checkedBy, StatedIntent } from '../sequelize/options.js'

/** The option that holds the call site of a write. Sequelize passes it on to its inner calls. */
export const callSite: unique symbol = Symbol('call site')

/** The options of Sequelize's methods that the guard reads. */
export interface CallOptions extends Logging, StatedIntent {
  readonly transaction?: Transaction | null | undefined
  readonly lock?: unknown
  readonly fields?: readonly string[]
  readonly raw?: boolean
  readonly isNewRecord?: boolean
  readonly subQuery?: boolean
  readonly groupedLimit?: unknown
  readonly returning?: unknown
  readonly ignoreDuplicates?: boolean
  readonly individualHooks?: boolean
  readonly updateOnDuplicate?: readonly string[]
  readonly conflictFields?: readonly string[]
  readonly upsertKeys?: readonly string[]
  readonly model?: RowModel
  readonly [callSite]?: Error
  readonly [checkedBy]?: 'guard' | 'library'
}

/** Adds the current call site to options. If one Sequelize method calls another, its cause is the outer call site. */
export function withCallSite(options: CallOptions | undefined): CallOptions {
  return { ...options, [callSite]: captureCallSite(options?.[callSite]) }
}
