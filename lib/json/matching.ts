import { usage } from '../errors/usage.js'
import { jsonText } from './encode.js'
import { isObject } from './values.js'
import type { Matching } from './values.js'

/** The class of every {@link Matching}. Parsed JSON, such as a request body, cannot forge its private member. */
class MadeMatching<V> implements Matching<V> {
  readonly #made = true
  readonly json: string
  declare readonly members?: V

  constructor(json: string) {
    this.json = json
    Object.freeze(this)
  }

  static isMatching(value: unknown): value is Matching {
    return typeof value === 'object' && value !== null && #made in value
  }
}

/** Whether {@link matching} created the value. Copies of it and parsed JSON are not steps of a path. */
export function isMatching(value: unknown): value is Matching {
  return MadeMatching.isMatching(value)
}

/**
 * A step of a path: every element of the array that is an object with these `members`, by the rule of `equals`: deep, in any
 * order of keys, numbers by value. The element may have other members too. As the operand of {@link pull}: the elements to remove.
 *
 * @throws {UsageError} not an object, an object without keys, which would match every object, or a value that is undefined
 * @example await order.updateJson('data', [set(['items', matching({ id: 7 }), 'isDone'], true)])
 */
export function matching<const V extends object>(members: V): Matching<V> {
  if (!isObject(members) || Object.keys(members).length === 0) throw usage.matching('matching', members)
  const missing = Object.entries(members).find(([, value]) => value === undefined)
  if (missing) throw usage.value('matching', `the value at "${missing[0]}"`, 'undefined')
  return new MadeMatching<V>(jsonText('matching', members))
}
