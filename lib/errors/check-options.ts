import { usage } from './usage.js'

/**
 * Returns the options if they are an object with known names only.
 * @throws {UsageError} they are not: a misspelt `transaction` would silently write outside the transaction
 */
export function checkOptions<O extends object>(method: string, options: O, known: readonly (keyof O & string)[]): O {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw usage.options(method, options, known)
  }
  for (const name of Object.keys(options)) {
    if (!(known as readonly string[]).includes(name)) throw usage.option(method, name, known)
  }
  // Sequelize would call it after the statement was sent, and fail.
  const { logging } = options as { readonly logging?: unknown }
  if (logging && logging !== true && typeof logging !== 'function') throw usage.logging(method, logging)
  return options
}
