/** A method as Sequelize defines it, called with its own `this`. */
export type Method<This, Args extends unknown[] = unknown[]> = (this: This, ...args: Args) => unknown

/**
 * Replaces a method. The core changes Sequelize in no other way.
 * The new method is not enumerable: copies and comparisons of the object do not see it.
 *
 * @param replace takes the original method and returns its replacement, which calls the original
 */
export function override<This extends object, Args extends unknown[] = unknown[]>(
  subject: object,
  name: string,
  replace: (original: Method<This, Args>) => Method<This, Args>,
): void {
  const value = replace((subject as Record<string, Method<This, Args>>)[name]!)
  Object.defineProperty(subject, name, { value, configurable: true, writable: true, enumerable: false })
}

/**
 * {@link override} for a method that returns a promise: what the new method throws becomes a rejection. An `async` method would
 * make more promises for each call.
 */
export function overrideAsync<This extends object, Args extends unknown[] = unknown[]>(
  subject: object,
  name: string,
  replace: (original: Method<This, Args>) => Method<This, Args>,
): void {
  override<This, Args>(subject, name, (original) => {
    const replacement = replace(original)
    return function (...args) {
      try {
        return replacement.apply(this, args)
      } catch (error) {
        return rejection(error)
      }
    }
  })
}

// eslint-disable-next-line @typescript-eslint/require-await -- what it throws is the rejection
async function rejection(error: unknown): Promise<never> {
  throw error
}
