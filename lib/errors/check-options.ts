import { usage } from './usage.js'

/** Whether a value is an object of options; an array, a Promise, a Map or a Date has none. */
export function isOptions(value: unknown): value is object {
  return Object.prototype.toString.call(value) === '[object Object]'
}

/**
 * Returns the options if they are an object with known names only.
 * @throws {UsageError} they are not: a misspelt `transaction` would silently write outside the transaction
 */
export function checkOptions<O extends object>(method: string, options: O, known: readonly (keyof O & string)[]): O {
  if (!isOptions(options)) throw usage.options(method, options, known)
  for (const name of Object.keys(options)) {
    if (!(known as readonly string[]).includes(name)) throw usage.option(method, name, known)
  }
  // Sequelize would call it after the statement was sent, and fail.
  const { logging } = options as { readonly logging?: unknown }
  if (logging && logging !== true && typeof logging !== 'function') throw usage.logging(method, logging)
  return options
}
