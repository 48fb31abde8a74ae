/** A method as Sequelize defines it, called with its own `this`. */
export type Method<This, Args extends unknown[] = unknown[]> = (this: This, ...args: Args) => unknown

/**
 * Replaces a method: the only way in which this library changes Sequelize.
 * The new method is not enumerable, so copies and comparisons of the object stay as they are.
 *
 * @param replace gets the original and returns the method that calls it
 */
export function override<This extends object, Args extends unknown[] = unknown[]>(
  subject: object,
  name: string,
  replace: (original: Method<This, Args>) => Method<This, Args>,
): void {
  const value = replace((subject as Record<string, Method<This, Args>>)[name]!)
  Object.defineProperty(subject, name, { value, configurable: true, writable: true, enumerable: false })
}
