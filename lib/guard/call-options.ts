import type { Logging, Transaction } from 'sequelize'
import { captureCallSite } from '../call-site.js'
import type { RowModel } from '../sequelize/internals.js'
import type { StatedIntent } from '../sequelize/options.js'

/** Where a write was called from: Sequelize passes it on with the options. */
export const callSite: unique symbol = Symbol('call site')

/** The options of Sequelize's calls, as far as they matter to the guard. */
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
  readonly model?: RowModel
  readonly [callSite]?: Error
}

/** The options with the present call site; where one call of Sequelize's makes another, the first one's stays in it. */
export function withCallSite(options: CallOptions | undefined): CallOptions {
  return { ...options, [callSite]: captureCallSite(options?.[callSite]) }
}
