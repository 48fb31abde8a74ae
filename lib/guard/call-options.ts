import type { Logging, Transaction } from 'sequelize'
import { captureCallSite } from '../call-site.js'
import type { RowModel } from '../sequelize/internals.js'
import type { checkedBy, StatedIntent } from '../sequelize/options.js'

/** The option that holds the call site of a write. Sequelize passes it on to its inner calls. */
export const callSite: unique symbol = Symbol('call site')

/** The option that marks the finder of reload(), which takes the values of the instance that it finds; reload() drops symbols. */
export const reloads = 'sequelize-lossless reloads'

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
  /** The finder reads the rows of an `include` by a statement of their own. */
  readonly separate?: boolean
  readonly [callSite]?: Error
  readonly [reloads]?: boolean
  readonly [checkedBy]?: 'guard' | 'library'
}

/** Adds the current call site to options. If one Sequelize method calls another, its cause is the outer call site. */
export function withCallSite(options: CallOptions | undefined): CallOptions {
  return { ...options, [callSite]: captureCallSite(options?.[callSite]) }
}
