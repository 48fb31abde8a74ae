/** The error that `promise` rejects with; fails if it resolves, or rejects with another class. */
export async function rejection<E extends Error>(
  promise: Promise<unknown>,
  type: abstract new (...args: never[]) => E,
): Promise<E> {
  const error: unknown = await promise.then(
    (value) => new Resolved(`expected a ${type.name}, but it resolved to ${JSON.stringify(value)}`),
    (reason: unknown) => reason,
  )
  if (error instanceof Resolved || !(error instanceof type)) throw error
  return error
}

/** `'written'`, or what `promise` was rejected with. */
export function outcomeOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => 'written',
    (error: unknown) => error,
  )
}

class Resolved extends Error {}
