import type { Sequelize } from 'sequelize'
import { sequelizeOf } from './database.js'
import type { RowModel } from './database.js'

/** What is done about a write of a whole JSON column that could overwrite what others have written. */
export interface LosslessOptions {
  /**
   * `'allow'`: nothing. `'warn'`: it is reported, once per call site. `'throw'`: it is refused, before any SQL. `'patch'`:
   * what changed since the row was loaded is written, by atomic operations. Default: that of the Sequelize instance, else
   * `'allow'`.
   */
  readonly wholeColumnWrites?: 'allow' | 'warn' | 'throw' | 'patch'
  /**
   * With `'patch'`, what others have changed too since the row was loaded. `'overwrite'`: the last one wins. `'throw'`: a
   * `StaleRowError`, and nothing is written. Default: `'overwrite'`.
   */
  readonly conflicts?: 'overwrite' | 'throw'
  /**
   * Whether the JSON methods, unless a call says otherwise, share statements: see `coalesce` of their options. Default:
   * that of the Sequelize instance, else false.
   */
  readonly coalesce?: boolean
}

/** States that this one call is meant to write whole columns. */
export interface StatedIntent {
  wholeColumnWrites?: 'allow'
}

/* eslint-disable @typescript-eslint/no-explicit-any, @typescript-eslint/no-unused-vars -- as Sequelize declares them */
declare module 'sequelize/types/model' {
  interface SaveOptions<TAttributes = any> extends StatedIntent {}
  interface InstanceUpdateOptions<TAttributes = any> extends StatedIntent {}
  interface UpdateOptions<TAttributes = any> extends StatedIntent {}
  interface UpsertOptions<TAttributes = any> extends StatedIntent {}
  interface BulkCreateOptions<TAttributes = any> extends StatedIntent {}
}
/* eslint-enable */

export type Policy = Required<LosslessOptions>

const policies = new WeakMap<object, LosslessOptions>()

/** Sets the policy of a model, or of all models of a Sequelize instance that have none of their own. */
export function setPolicy(subject: RowModel | Sequelize, options: LosslessOptions): void {
  const { wholeColumnWrites, conflicts = 'overwrite', coalesce } = options
  policies.set(subject, {
    ...policies.get(subject),
    ...(wholeColumnWrites !== undefined && { wholeColumnWrites, conflicts }),
    ...(coalesce !== undefined && { coalesce }),
  })
}

const nothing: Policy = { wholeColumnWrites: 'allow', conflicts: 'overwrite', coalesce: false }

/** The policy of a model; a scope or a subclass has that of the model it is made of. */
export function policyOf(model: RowModel): Policy {
  const own: LosslessOptions[] = []
  for (let each = model as object | null; typeof each === 'function'; each = Object.getPrototypeOf(each) as object) {
    const options = policies.get(each)
    if (options) own.unshift(options)
  }
  return Object.assign({}, nothing, policies.get(sequelizeOf(model)), ...own) as Policy
}
