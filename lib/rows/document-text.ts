import { isDeepStrictEqual } from 'node:util'
import { textAfterOperations } from '../json/change-text.js'
import { isTooDeep, textWithInfinity } from '../json/encode.js'
import { hasNumber, isRespelled, parseJson, tryParseJson } from '../json/json-text.js'
import type { Operation } from '../json/operation.js'
import { applyAll, findMismatch } from '../json/semantics.js'

// The documents of instances as text, to compare them: what a hook or an application has put into a column may be anything.

/** The text of {@link jsonOf} for a value that is not JSON. */
export const notJson = 'not JSON'

/** The text of {@link jsonOf} for a value that is too deep for JSON.stringify; it equals no other value. */
export const tooDeep = 'too deep'

/** A value as JSON text, for comparisons. A value that is not JSON gets a fixed text; its save reports the reason. */
export function jsonOf(value: unknown): string {
  try {
    return textWithInfinity(value) ?? 'undefined'
  } catch (error) {
    return isTooDeep(error) ? tooDeep : notJson
  }
}

/** Whether two texts of {@link jsonOf} hold the same document, in any order of keys. */
export function isSameDocument(one: string, other: string): boolean {
  if (one === tooDeep || other === tooDeep) return false
  if (one === other) return true
  // Another order of keys has the same characters.
  const maySame = one.length === other.length && sumOfCharacters(one) === sumOfCharacters(other)
  return maySame && isDeepStrictEqual(tryParseJson(one), tryParseJson(other))
}

/** A number that depends on the characters of a text, but not on their order. */
function sumOfCharacters(text: string): number {
  let sum = 0
  for (let index = 0; index < text.length; index++) sum += text.charCodeAt(index) ** 2
  return sum
}

/** The text of a document after the operations that fit it. */
export function textAfter(text: string, operations: readonly Operation[]): string {
  const document = parseJson(text)
  return findMismatch(operations, document, text)
    ? jsonOf(applyAll(operations, document))
    : textAfterOperations(text, operations)
}

/** Whether JavaScript holds every number of a JSON text exactly. */
export function isPlain(text: string): boolean {
  return !isRespelled(text) && !hasNumber(text, /\d{16}/)
}
