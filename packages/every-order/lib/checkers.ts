import { isDeepStrictEqual } from 'node:util'
import { LostKeysError, NoFinalReadError } from './errors.js'
import type { LostKey } from './errors.js'
import type { Outcome } from './run.js'

/** Checks the final state of a schedule, and what the participants that did not reject have returned; throws if it is wrong. */
export type Check<C> = (
  context: C,
  outcomes: Readonly<Record<string, Outcome>>,
  results: Readonly<Record<string, unknown>>,
) => unknown

/** A row, or any object that has the column. */
type Found = object | null | undefined

/**
 * A check for the common case: every participant writes its own keys to one JSON column.
 *
 * Keys of participants that ended `ok` must be present, with a value that a participant wrote; keys of participants
 * that `failed` must be absent; keys of participants with the outcome `unknown` may be present or absent.
 *
 * @param read     reads the row at the end: `(id) => WorkflowRun.findByPk(id)`
 * @param column   the attribute that holds the document
 * @param expected the keys and values that each participant writes
 * @example checkers.jsonKeys((id) => WorkflowRun.findByPk(id), 'progress', { A: { step_a: 'done' }, B: { step_b: 'done' } })
 */
function jsonKeys<C>(
  read: (context: C) => Promise<Found>,
  column: string,
  expected: Readonly<Record<string, Readonly<Record<string, unknown>>>>,
): (context: C, outcomes: Readonly<Record<string, Outcome>>) => Promise<void> {
  return async (context, outcomes) => {
    const row = await read(context)
    if (!row) throw new NoFinalReadError()
    const document = asJson((row as Record<string, unknown>)[column] ?? {}) as Record<string, unknown>
    const lost: LostKey[] = []
    for (const [participant, keys] of Object.entries(expected)) {
      for (const [key, given] of Object.entries(keys)) {
        const value = asJson(given)
        const others = Object.entries(expected).filter(([name]) => name !== participant && outcomes[name] !== 'failed')
        const values = others.flatMap(([, theirs]) => (key in theirs ? [asJson(theirs[key])] : []))
        const isIts = isDeepStrictEqual(document[key], value)
        const isAnother = values.some((each) => isDeepStrictEqual(document[key], each))
        if (outcomes[participant] === 'ok' && !isIts && !isAnother) lost.push({ participant, column, key, is: 'lost' })
        if (outcomes[participant] === 'failed' && isIts && !isAnother) {
          lost.push({ participant, column, key, is: 'written by a participant that failed' })
        }
      }
    }
    if (lost.length > 0) throw new LostKeysError(lost, document)
  }
}

/** The value as plain JSON: a Date becomes text, and an object of another realm becomes one of this realm. */
function asJson(value: unknown): unknown {
  const text = JSON.stringify(value, (_key, each: unknown) => (typeof each === 'bigint' ? Number(each) : each))
  return text === undefined ? undefined : JSON.parse(text)
}

/** Ready-made checks for {@link explore}. */
export const checkers: { readonly jsonKeys: typeof jsonKeys } = { jsonKeys }
