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

const policies = new WeakMap<object, Policy>()

/** Sets the policy of a model, or of all models of a Sequelize instance that have none of their own. */
export function setPolicy(
  subject: RowModel | Sequelize,
  { wholeColumnWrites = 'allow', conflicts = 'overwrite' }: LosslessOptions,
): void {
  policies.set(subject, { wholeColumnWrites, conflicts })
}

/** The policy of a model; a scope or a subclass has that of the model it is made of. */
export function policyOf(model: RowModel): Policy | undefined {
  for (let each = model as object | null; typeof each === 'function'; each = Object.getPrototypeOf(each) as object) {
    const policy = policies.get(each)
    if (policy) return policy
  }
  return policies.get(sequelizeOf(model))
}
