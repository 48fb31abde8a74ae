import { usage } from './usage.js'

/**
 * The options, if they are an object of known names.
 * @throws {UsageError} they are not: a misspelt `transaction` would write outside it
 */
export function checkOptions<O extends object>(method: string, options: O, known: readonly (keyof O & string)[]): O {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) throw usage.options(method, options)
  for (const name of Object.keys(options)) {
    if (!(known as readonly string[]).includes(name)) throw usage.option(method, name, known)
  }
  return options
}
