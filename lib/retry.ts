import { setTimeout as delay } from 'node:timers/promises'
import { usage } from './errors/usage.js'

/** How often, and after which pauses, something is tried again. */
export interface RetryOptions {
  /** Attempts in all, the first one included: an integer, 1 for no second one. Default: 5. */
  readonly maxAttempts?: number
  /** The longest pause before the second attempt, in milliseconds; it doubles from attempt to attempt. Default: 10. */
  readonly baseDelayMs?: number
  /** The longest pause of all, in milliseconds. Default: 1000. */
  readonly maxDelayMs?: number
  /** Ends the attempts with its reason: before one starts, or in a pause. One that has started is finished. Default: none. */
  readonly signal?: AbortSignal
  /** Told, and awaited, before each pause. What it throws ends the attempts. Default: none. */
  readonly onRetry?: (failed: FailedAttempt) => unknown
}

/** An attempt that will be followed by another one. */
export interface FailedAttempt {
  readonly error: unknown
  /** Which one it was; the first is 1. */
  readonly attempt: number
  readonly maxAttempts: number
  /** The pause before the next one, in milliseconds: a random part of the longest (full jitter). */
  readonly delayMs: number
}

const own: readonly (keyof RetryOptions)[] = ['maxAttempts', 'baseDelayMs', 'maxDelayMs', 'signal', 'onRetry']

/** @throws {UsageError} an option is unknown, or out of range */
export function checkRetryOptions(method: string, options: RetryOptions, others: readonly string[] = []): RetryOptions {
  if (typeof options !== 'object' || options === null) throw usage.retry(method, options)
  const names = [...own, ...others]
  for (const name of Object.keys(options)) if (!names.includes(name)) throw usage.option(method, name, names)
  const { maxAttempts = 1, baseDelayMs = 0, maxDelayMs = 0, signal, onRetry } = options
  if (!Number.isSafeInteger(maxAttempts) || maxAttempts < 1) throw usage.retryNumber(method, 'maxAttempts', maxAttempts)
  for (const [name, milliseconds] of Object.entries({ baseDelayMs, maxDelayMs })) {
    const isDelay = Number.isFinite(milliseconds) && milliseconds >= 0 && milliseconds <= longestDelay
    if (!isDelay) throw usage.retryNumber(method, name, milliseconds)
  }
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw usage.retrySignal(method, signal)
  if (onRetry !== undefined && typeof onRetry !== 'function') throw usage.retryCallback(method, onRetry)
  return options
}

/** What a timer can wait. */
const longestDelay = 2 ** 31 - 1

/**
 * Runs `attempt` until it resolves, or fails with what is not to be retried, or for the last time.
 * @see https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
 */
export async function retry<R>(
  attempt: () => Promise<R>,
  isRetryable: (error: unknown) => boolean,
  { maxAttempts = 5, baseDelayMs = 10, maxDelayMs = 1000, signal, onRetry }: RetryOptions,
  { random, pause }: { random: () => number; pause: typeof delay } = { random: Math.random, pause: delay },
): Promise<R> {
  for (let number = 1; ; number++) {
    signal?.throwIfAborted()
    try {
      return await attempt()
    } catch (error) {
      if (number >= maxAttempts || !isRetryable(error)) throw error
      const delayMs = random() * Math.min(maxDelayMs, baseDelayMs * 2 ** (number - 1))
      await onRetry?.({ error, attempt: number, maxAttempts, delayMs })
      // Its own AbortError would hide the reason.
      await pause(delayMs, undefined, signal && { signal }).catch(() => undefined)
    }
  }
}
