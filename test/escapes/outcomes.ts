import { outcomeOf } from '../rejection.js'

/** A promise, and how to fulfil it from outside. */
export interface Signal {
  readonly given: Promise<void>
  readonly give: () => void
}

export function signal(): Signal {
  let give!: () => void
  const given = new Promise<void>((resolve) => (give = resolve))
  return { given, give }
}

/** `'written'` if `act` resolves; else the `code` of its error, or the whole of an error that has none of ours. */
export async function codeOf(act: Promise<unknown> | (() => unknown)): Promise<string> {
  const outcome = await outcomeOf(typeof act === 'function' ? Promise.resolve().then(act) : act)
  if (outcome === 'written') return outcome
  const { code } = outcome as { code?: unknown }
  return typeof code === 'string' ? code : String(outcome)
}

/** What `act` leaves unhandled; Mocha, which would fail the test, does not hear of it. */
export async function unhandledRejections(act: () => Promise<unknown>): Promise<unknown[]> {
  const unhandled: unknown[] = []
  const see = (reason: unknown): void => void unhandled.push(reason)
  const listeners = process.listeners('unhandledRejection')
  process.removeAllListeners('unhandledRejection').on('unhandledRejection', see)
  try {
    await act()
    // Node tells of a rejection after the microtasks that follow it.
    await new Promise((resolve) => setImmediate(resolve))
  } finally {
    process.removeListener('unhandledRejection', see)
    for (const listener of listeners) process.on('unhandledRejection', listener)
  }
  return unhandled
}
