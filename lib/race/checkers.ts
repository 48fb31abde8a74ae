import { isDeepStrictEqual } from 'node:util'
import { LostKeysError, NoFinalReadError } from './errors.js'
import type { LostKey } from './errors.js'
import type { Outcome } from './run.js'

/** Looks at the end of a schedule; what it throws says what is wrong there. */
export type Check<C> = (context: C, outcomes: Readonly<Record<string, Outcome>>) => unknown

/** A row, or anything else that has the column. */
type Found = object | null | undefined

/**
 * A check for the common case: every participant writes keys of its own to one JSON column.
 *
 * The keys of those that ended `ok` have to be there, with a value that one of the participants wrote; the keys of those
 * that `failed` must not be; of those whose end is `unknown`, either will do.
 *
 * @param read     reads the row at the end: `(id) => WorkflowRun.findByPk(id)`
 * @param column   the attribute that holds the document
 * @param expected by participant, the keys that it writes, and their values
 * @example checkers.jsonKeys((id) => WorkflowRun.findByPk(id), 'progress', { A: { step_a: 'done' }, B: { step_b: 'done' } })
 */
function jsonKeys<C>(
  read: (context: C) => Promise<Found>,
  column: string,
  expected: Readonly<Record<string, Readonly<Record<string, unknown>>>>,
): Check<C> {
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

/** As a document holds it: a Date as text, and an object of another realm as one of this. */
function asJson(value: unknown): unknown {
  const text = JSON.stringify(value, (_key, each: unknown) => (typeof each === 'bigint' ? Number(each) : each))
  return text === undefined ? undefined : JSON.parse(text)
}

/** Ready-made checks for {@link explore}. */
export const checkers: { readonly jsonKeys: typeof jsonKeys } = { jsonKeys }
