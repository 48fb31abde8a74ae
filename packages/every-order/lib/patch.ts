import type { Gate } from './gate.js'

const gatesOf = Symbol('the gates of every-order')

// eslint-disable-next-line @typescript-eslint/no-explicit-any -- a method of any driver
type Method = (this: any, ...words: any[]) => unknown

/** A method of a driver that asks the gates of all running explorations. */
interface Patched extends Method {
  [gatesOf]?: Set<Gate>
}

/**
 * Replaces a method of an object, or of the class that it inherits the method from, as long as there is a gate. `wrap` gets
 * the original method, and a function that finds the gate for a statement on a connection. Returns a function that takes
 * the gate out; the last one restores the method.
 */
export function patch(
  object: object,
  name: string,
  gate: Gate,
  wrap: (original: Method, gateFor: (connection: object) => Gate | undefined) => Method,
): () => void {
  const owner = ownerOf(object, name) as Record<string, Patched>
  const original = owner[name]!
  const gates = original[gatesOf] ?? new Set<Gate>()
  gates.add(gate)
  if (!original[gatesOf]) {
    const find = (connection: object): Gate | undefined => [...gates].find((each) => each.holds(connection))
    owner[name] = Object.assign(wrap(original, find), { [gatesOf]: gates, original })
  }
  return () => {
    gates.delete(gate)
    const current = owner[name] as Patched & { original?: Method }
    // Another tool may have wrapped the method since: then it stays, without a gate.
    if (gates.size === 0 && current[gatesOf] === gates) owner[name] = current.original!
  }
}

/** The object in the chain of prototypes that has the method itself. */
export function ownerOf(object: object, name: string): object {
  let owner = object
  while (!Object.hasOwn(owner, name)) owner = Object.getPrototypeOf(owner) as object
  return owner
}
