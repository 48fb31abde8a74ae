import { setTimeout as delay } from 'node:timers/promises'
import { isOptions, knownOptions } from '../errors/check-options.js'
import { usage } from '../errors/usage.js'
import { publishRetry } from '../sequelize/channels.js'
import type { CallFacts } from '../sequelize/channels.js'
import { failureOf } from '../sequelize/send.js'

/** How often a call is tried again, and after which pauses. */
export interface RetryOptions {
  /** The maximum number of attempts, including the first: an integer from 1. Default: 5. */
  readonly maxAttempts?: number
  /** The maximum pause before the second attempt, in milliseconds; it doubles with each attempt. Default: 10. */
  readonly baseDelayMs?: number
  /** The upper limit of every pause, in milliseconds. Default: 1000. */
  readonly maxDelayMs?: number
  /** Aborts before an attempt or in a pause, with the signal's reason. A started attempt is finished. Default: none. */
  readonly signal?: AbortSignal
  /** Called, and awaited, before each pause. An error that it throws ends the attempts. Default: none. */
  readonly onRetry?: (failed: FailedAttempt) => unknown
}

/** A failed attempt that will be retried. */
export interface FailedAttempt {
  readonly error: unknown
  /** The number of the attempt; the first is 1. */
  readonly attempt: number
  readonly maxAttempts: number
  /** The pause before the next attempt, in milliseconds: a random part of the maximum pause (full jitter). */
  readonly delayMs: number
}

const own: readonly (keyof RetryOptions)[] = ['maxAttempts', 'baseDelayMs', 'maxDelayMs', 'signal', 'onRetry']

/** @throws {UsageError} an option is unknown, or out of range */
export function checkRetryOptions<O extends RetryOptions | undefined>(
  method: string,
  options: O,
  others: readonly string[] = [],
): O {
  if (options === undefined) return options
  if (!isOptions(options)) throw usage.retry(method, options)
  const given = knownOptions(method, options, [...own, ...others])
  const { maxAttempts = 1, baseDelayMs = 0, maxDelayMs = 0, signal, onRetry } = given
  if (!Number.isSafeInteger(maxAttempts) || maxAttempts < 1) throw usage.retryNumber(method, 'maxAttempts', maxAttempts)
  for (const [name, milliseconds] of Object.entries({ baseDelayMs, maxDelayMs })) {
    const isDelay = Number.isFinite(milliseconds) && milliseconds >= 0 && milliseconds <= longestDelay
    if (!isDelay) throw usage.retryNumber(method, name, milliseconds)
  }
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw usage.retrySignal(method, signal)
  if (onRetry !== undefined && typeof onRetry !== 'function') throw usage.retryCallback(method, onRetry)
  return given
}

/** The maximum delay of a timer in Node. */
const longestDelay = 2 ** 31 - 1

/** The defaults of the options. */
const defaults = { maxAttempts: 5, baseDelayMs: 10, maxDelayMs: 1000 } as const

/** For this library's own statements that certainly wrote nothing, if the caller passed no `retry`. */
export const statementRetries: RetryOptions = { maxAttempts: 3 }

const clock = { random: Math.random, pause: delay }

/**
 * Runs `attempt` until it resolves, fails with an error that is not retryable, or has no attempts left.
 * @see https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
 */
export async function retry<R>(
  call: CallFacts,
  attempt: () => Promise<R>,
  isRetryable: (error: unknown) => boolean,
  options: RetryOptions,
  { random, pause }: { random: () => number; pause: typeof delay } = clock,
): Promise<R> {
  const { signal } = options
  for (let number = 1; ; number++) {
    signal?.throwIfAborted()
    try {
      return await attempt()
    } catch (error) {
      const { maxAttempts = defaults.maxAttempts, baseDelayMs = defaults.baseDelayMs } = options
      const { maxDelayMs = defaults.maxDelayMs, onRetry } = options
      if (number >= maxAttempts || !isRetryable(error)) throw error
      const delayMs = random() * Math.min(maxDelayMs, baseDelayMs * 2 ** (number - 1))
      const failed = { error, attempt: number, maxAttempts, delayMs }
      publishRetry(call, failed, () => failureOf(error) ?? 'stale row')
      await onRetry?.(failed)
      // The AbortError of the timer would hide the reason of the signal.
      await pause(delayMs, undefined, signal && { signal }).catch(() => undefined)
    }
  }
}
