import { randomUUID } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { textWithInfinity } from './encode.js'
import { isReadingOf, isSameOrText, isSameScalar, mayBeMisread, parseJson, scanJson } from './json-text.js'
import type { JsonNode } from './json-text.js'
import { isObject } from './values.js'
import type { JsonValue } from './values.js'

/** A stored text, the document that a driver read from it, and the document to write. */
export interface Rewrite {
  readonly stored: string
  readonly before: JsonValue
  readonly after: JsonValue
  /** An earlier reading, of a text that another writer has replaced: the digits of its numbers are unknown. */
  readonly earlier?: JsonValue
}

/** Why a document cannot be written: its new part holds a number that JavaScript rounded, or a key that it misread. */
export type Loss = 'number' | 'key'

/**
 * The JSON text of `after`, in which each part that equals `before` is spelled as stored, with all digits of its numbers;
 * or why there is none.
 */
export function respell({
  stored,
  before,
  after,
  earlier,
}: Rewrite): { readonly text: string } | { readonly loss: Loss } {
  const root = scanJson(stored)
  const isRead = isReadingOfNode(stored, root, before)
  const isMisread = !isRead && mayBeMisread(stored)
  const writer = new Writer(stored, root, isMisread, scalarsOf(earlier))
  // Else a hook has decoded the document.
  const text = isRead || isMisread ? writer.write(root, before, after) : writer.create(after)
  return writer.loss ? { loss: writer.loss } : { text }
}

/**
 * The document of a text that an application wrote. Each number that JavaScript would spell otherwise, and that is not stored
 * at the same place, is a marked string in it: {@link GivenDocument.restore} puts its digits in a text of the document.
 */
export class GivenDocument {
  readonly #mark = randomUUID()
  readonly document: JsonValue

  /** @param stored the stored text, if it is known to have other digits than JavaScript reads */
  constructor(given: string, stored: string | undefined) {
    let marked = ''
    let end = 0
    for (const token of this.#givenNumbers(given, scanJson(given), stored, stored ? scanJson(stored) : undefined)) {
      marked += `${given.slice(end, token.start)}"${this.#mark}${given.slice(token.start, token.end)}"`
      end = token.end
    }
    this.document = parseJson(marked + given.slice(end))
  }

  restore(json: string): string {
    return json.replace(new RegExp(`"${this.#mark}([^"]*)"`, 'g'), '$1')
  }

  /** The numbers to mark, in the order of the text. */
  #givenNumbers(given: string, node: JsonNode, stored: string | undefined, other: JsonNode | undefined): JsonNode[] {
    if (node.members) {
      return [...node.members]
        .flatMap(([key, each]) => this.#givenNumbers(given, each, stored, other?.members?.get(key)))
        .sort((one, another) => one.start - another.start)
    }
    if (node.items) {
      return node.items.flatMap((each, index) => this.#givenNumbers(given, each, stored, other?.items?.[index]))
    }
    const token = given.slice(node.start, node.end)
    const isExact = /^[-\d]/.test(token) && String(Number(token)) !== token
    const isStored = other !== undefined && stored!.slice(other.start, other.end) === token
    return isExact && !isStored ? [node] : []
  }
}

/** Whether a new value holds what JavaScript read from a number in a stored text that it cannot represent. */
export function isCopied(stored: string, value: JsonValue): boolean {
  const root = scanJson(stored)
  const writer = new Writer(stored, root, false, [])
  writer.create(value)
  return writer.loss !== undefined
}

class Writer {
  readonly #stored: string
  readonly #root: JsonNode
  /** The document was read with wrong names of keys. */
  readonly #isMisread: boolean
  readonly #earlier: readonly unknown[]
  loss: Loss | undefined

  constructor(stored: string, root: JsonNode, isMisread: boolean, earlier: readonly unknown[]) {
    this.#stored = stored
    this.#root = root
    this.#isMisread = isMisread
    this.#earlier = earlier
  }

  write(node: JsonNode, before: JsonValue, after: JsonValue): string {
    if (isDeepStrictEqual(before, after)) return this.#textOf(node)
    if (node.members && isObject(before) && isObject(after)) {
      const kept = [...node.members].flatMap(([key, each]) => {
        const [isRead, isWritten] = [Object.hasOwn(before, key), Object.hasOwn(after, key)]
        // A key that the runtime misread is in neither document.
        if (!isRead && !isWritten) return [[key, this.#textOf(each)]]
        if (isRead && !isDeepStrictEqual(before[key], after[key])) this.#refuseMisread(each, before[key]!)
        if (!isWritten) return []
        return [[key, isRead ? this.write(each, before[key]!, after[key]!) : this.create(after[key]!)]]
      })
      const added = Object.keys(after)
        .filter((key) => {
          if (node.members!.has(key)) return false
          return !Object.hasOwn(before, key) || !isDeepStrictEqual(before[key], after[key])
        })
        .map((key) => {
          if (Object.hasOwn(before, key)) this.loss = 'key'
          return [key, this.create(after[key]!)]
        })
      return `{${[...kept, ...added].map(([key, text]) => `${JSON.stringify(key)}:${text}`).join()}}`
    }
    if (node.items && Array.isArray(before) && Array.isArray(after)) return this.#array(node, before, after)
    return this.create(after)
  }

  /** Items that are unchanged at the start, at the end, or elsewhere keep their spelling; the rest is paired in order. */
  #array(node: JsonNode, before: readonly JsonValue[], after: readonly JsonValue[]): string {
    const items = node.items!
    const shortest = Math.min(before.length, after.length)
    let start = 0
    while (start < shortest && isDeepStrictEqual(before[start], after[start])) start++
    let end = 0
    while (end < shortest - start && isDeepStrictEqual(before.at(-1 - end), after.at(-1 - end))) end++
    const free = new Map<string, number[]>()
    for (let index = before.length - end - 1; index >= start; index--) {
      const key = textWithInfinity(before[index])!
      const equal = free.get(key)
      if (equal) equal.push(index)
      else free.set(key, [index])
    }
    const sources = after.map((item, index) => {
      if (index < start) return index
      const fromEnd = after.length - index
      return fromEnd <= end ? items.length - fromEnd : free.get(textWithInfinity(item)!)?.pop()
    })
    const gone = new Set(before.keys())
    for (const source of sources) if (source !== undefined) gone.delete(source)
    const isEdited = (index: number): boolean =>
      before.length === after.length && sources[index] === undefined && gone.has(index)
    const edited = after.filter((_, index) => isEdited(index))
    if (this.#mayBeMistaken(node, before, gone, edited)) this.loss = 'number'
    const texts = after.map((item, index) => {
      const source = sources[index]
      if (source !== undefined) return this.#textOf(items[source]!)
      return isEdited(index) ? this.write(items[index]!, before[index]!, item) : this.create(item)
    })
    return `[${texts.join()}]`
  }

  /**
   * Whether two items of an array may be mistaken for each other, because numbers of them read alike and have other
   * digits: an item that is gone and an equal one that is not, or two items that are gone, whose places have new values.
   */
  #mayBeMistaken(
    node: JsonNode,
    before: readonly JsonValue[],
    gone: ReadonlySet<number>,
    edited: readonly JsonValue[],
  ): boolean {
    if (gone.size === 0 || inexactNumbers(this.#stored, node).length === 0) return false
    const items = node.items!.map((each) => this.#textOf(each))
    const keys = before.map((each) => textWithInfinity(each)!)
    const kept = new Map(keys.flatMap((key, index) => (gone.has(index) ? [] : [[key, items[index]!]])))
    for (const index of gone) {
      const equal = kept.get(keys[index]!)
      if (equal !== undefined && !isSameText(items[index]!, equal)) return true
    }
    const read = new Set(edited.flatMap(scalarsOf))
    const first = new Map<number, { readonly index: number; readonly token: string }>()
    for (const index of gone) {
      for (const token of numbersIn(this.#stored, node.items![index]!)) {
        const number = Number(token)
        const alike = first.get(number)
        if (alike && alike.index !== index && !isSameScalar(alike.token, token)) return true
        if (read.has(number)) first.set(number, { index, token })
      }
    }
    return false
  }

  /** A value changed that was perhaps read under the name of another key. */
  #refuseMisread(node: JsonNode, before: JsonValue): void {
    const isScalar = !node.members && !node.items
    if (this.#isMisread && isScalar && !isReadingOfNode(this.#stored, node, before)) this.loss = 'key'
  }

  #textOf({ start, end }: JsonNode): string {
    return this.#stored.slice(start, end)
  }

  /** The text of a new value. */
  create(value: JsonValue): string {
    // A new Infinity is null, as in every save of Sequelize.
    const text = JSON.stringify(value)
    const scalars = mayBeRounded.test(text) ? scalarsOf(value).filter((each) => mayBeRounded.test(String(each))) : []
    if (scalars.length === 0) return text
    const numbers = inexactNumbers(this.#stored, this.#root)
    const isRounded = (scalar: unknown): boolean =>
      numbers.some((token) => isReadingOf(token, scalar)) ||
      (Number.isInteger(scalar) && !Number.isSafeInteger(scalar) && this.#earlier.includes(scalar))
    if (scalars.some(isRounded)) this.loss = 'number'
    return text
  }
}

/** Matches what JavaScript may have read from a number that it cannot hold; JSON.stringify writes Infinity as null. */
const mayBeRounded = /\d(?:\.?\d){15}|\de\+|null|Infinity/

/** The numbers in a node that JavaScript would change. */
function inexactNumbers(text: string, node: JsonNode): string[] {
  return numbersIn(text, node).filter((token) => !isSameScalar(token, String(Number(token))))
}

function numbersIn(text: string, node: JsonNode): string[] {
  const inner = node.members?.values() ?? node.items
  if (inner) return [...inner].flatMap((each) => numbersIn(text, each))
  const token = text.slice(node.start, node.end)
  return /^[-\d]/.test(token) ? [token] : []
}

function scalarsOf(value: unknown): unknown[] {
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(scalarsOf) : [value]
}

/** Whether a driver reads a JSON text as `document`: see {@link isReadingOf}. */
export function isReadingOfText(text: string, document: JsonValue): boolean {
  return isReadingOfNode(text, scanJson(text), document)
}

function isReadingOfNode(text: string, { start, end, members, items }: JsonNode, value: unknown): boolean {
  if (members) {
    return (
      isObject(value) &&
      Object.keys(value).length === members.size &&
      [...members].every(([key, each]) => Object.hasOwn(value, key) && isReadingOfNode(text, each, value[key]))
    )
  }
  if (!items) return isReadingOf(text.slice(start, end), value)
  return (
    Array.isArray(value) &&
    value.length === items.length &&
    items.every((each, index) => isReadingOfNode(text, each, value[index]))
  )
}

/**
 * Whether a stored text and an operand are equal, in any order of keys; numbers are compared by all their digits.
 * @param isSame compares two scalars; by default, an operand may be the string that some drivers read from a long integer
 */
export function isSameText(stored: string, operand: string, isSame: typeof isSameScalar = isSameOrText): boolean {
  return isSameNode(stored, scanJson(stored), operand, scanJson(operand), isSame)
}

/** Whether a part of one JSON text equals a part of another one, in any order of keys. */
export function isSameNode(
  one: string,
  node: JsonNode,
  other: string,
  otherNode: JsonNode,
  isSame: typeof isSameScalar,
): boolean {
  if (node.members || otherNode.members) {
    const [mine, theirs] = [node.members, otherNode.members]
    if (!mine || mine.size !== theirs?.size) return false
    return [...mine].every(([key, each]) => theirs.has(key) && isSameNode(one, each, other, theirs.get(key)!, isSame))
  }
  if (node.items || otherNode.items) {
    const [mine, theirs] = [node.items, otherNode.items]
    if (!mine || mine.length !== theirs?.length) return false
    return mine.every((each, index) => isSameNode(one, each, other, theirs[index]!, isSame))
  }
  return isSame(one.slice(node.start, node.end), other.slice(otherNode.start, otherNode.end))
}
