import { usage } from './usage.js'

/** Whether a value is an object of options; an array, a Promise, a Map or a Date has none. */
export function isOptions(value: unknown): value is object {
  return Object.prototype.toString.call(value) === '[object Object]'
}

/**
 * Returns a copy with the options that are set, also those that the object inherits: what the caller changes in the object after
 * the call has no effect.
 * @throws {UsageError} an option is not known: a misspelt `transaction` would silently write outside the transaction; or
 *   `logging` is wrong
 */
export function knownOptions<O extends object>(method: string, options: O, known: readonly string[]): O {
  const names: (string | symbol)[] = Reflect.ownKeys(options)
  // Those that it inherits, too.
  for (const name in options) names.push(name)
  for (const name of names) {
    if (!known.includes(name as string)) throw usage.option(method, String(name), known)
  }
  const given: Record<string, unknown> = {}
  for (const name of known) {
    const value = (options as Record<string, unknown>)[name]
    if (value !== undefined) given[name] = value
  }
  // Sequelize would call it after the statement was sent, and fail.
  const { logging = false } = given
  if (typeof logging !== 'boolean' && typeof logging !== 'function') throw usage.logging(method, logging)
  return given as O
}

/**
 * {@link knownOptions} for what may not be an object.
 * @throws {UsageError} it is no object, or as {@link knownOptions}
 */
export function checkOptions<O extends object>(method: string, options: O, known: readonly (keyof O & string)[]): O {
  if (!isOptions(options)) throw usage.options(method, options, known)
  return knownOptions(method, options, known)
}
