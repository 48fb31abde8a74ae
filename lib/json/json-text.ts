import { maskEscapes, stringOrNumber } from './encode.js'
import { isObject } from './values.js'
import type { JsonValue } from './values.js'

/** A value in a JSON text, by its position: the text keeps the digits that JavaScript would round. */
export interface JsonNode {
  readonly start: number
  readonly end: number
  /** The members of an object; of duplicate keys the last one, as in JSON.parse. */
  readonly members?: ReadonlyMap<string, JsonNode>
  /** The items of an array. */
  readonly items?: readonly JsonNode[]
}

/** Finds the values in a valid JSON text. A regular expression for each token would take five times as long. */
export function scanJson(text: string): JsonNode {
  const masked = maskEscapes(text)
  const scalar = /[\w.+-]+/y
  let [start, end] = [0, 0]
  /** Moves to the next token, and returns its first character. */
  const next = (): string => {
    start = end
    while (masked.charCodeAt(start) <= space) start++
    const first = masked[start] ?? ''
    if (first === '"') end = masked.indexOf('"', start + 1) + 1
    else if ('[]{},:'.includes(first)) end = start + first.length
    else {
      scalar.lastIndex = start
      scalar.test(masked)
      end = scalar.lastIndex
    }
    if (end <= start) throw new SyntaxError('the text is not JSON')
    return first
  }
  const key = (): string => {
    const token = text.slice(start, end)
    return token.includes('\\') ? (JSON.parse(token) as string) : token.slice(1, -1)
  }
  /** The value that begins with the current token. */
  const node = (first: string): JsonNode => {
    const from = start
    if (first === '{') {
      const members = new Map<string, JsonNode>()
      for (let each = next(); each !== '}'; each = next()) {
        if (each === ',') next()
        const name = key()
        next()
        members.set(name, node(next()))
      }
      return { start: from, end, members }
    }
    if (first === '[') {
      const items: JsonNode[] = []
      for (let each = next(); each !== ']'; each = next()) items.push(node(each === ',' ? next() : each))
      return { start: from, end, items }
    }
    return { start: from, end }
  }
  return node(next())
}

const space = ' '.charCodeAt(0)

/** Whether a key of a JSON text has an escape. */
function hasEscapedKey(text: string): boolean {
  if (!text.includes('\\')) return false
  // Every string is matched from its start, so the time is linear.
  const strings = maskEscapes(text).match(/"[^"]*"(?:\s*:)?/g) ?? []
  return strings.some((each) => each.endsWith(':') && each.includes('\\'))
}

/** JSON.parse gives a wrong name to some escaped keys: V8 since Node 23, nodejs/node#63785. */
const misreadsKeys: boolean =
  ['{"o":1,"\\\\":1}', '{"o":1,"\\"":1}'].map((text) => Object.keys(JSON.parse(text) as object)[1]).join('') !== '\\"'

/** Whether a driver may have read a key of a JSON text wrongly, since drivers use JSON.parse. */
export function mayBeMisread(text: string): boolean {
  return misreadsKeys && hasEscapedKey(text)
}

/**
 * The value of a JSON text, with the right names of its keys in every version of Node.js.
 * @throws {SyntaxError} the text is not JSON
 */
export function parseJson(text: string): JsonValue {
  const value = JSON.parse(text) as JsonValue
  return hasEscapedKey(text) ? readNode(text, scanJson(text)) : value
}

/** {@link parseJson}; `undefined` if the text is not JSON. */
export function tryParseJson(text: string): JsonValue | undefined {
  try {
    return parseJson(text)
  } catch {
    return undefined
  }
}

/** The value of a node. Scalars are those of `seen`, a reading of the same text by a driver, if it has them. */
function readNode(text: string, { start, end, members, items }: JsonNode, seen?: unknown): JsonValue {
  if (members) {
    const inner = isObject(seen) ? seen : {}
    const own = (key: string): unknown => (Object.hasOwn(inner, key) ? inner[key] : undefined)
    return Object.fromEntries([...members].map(([key, each]) => [key, readNode(text, each, own(key))]))
  }
  if (items) return items.map((each, index) => readNode(text, each, Array.isArray(seen) ? seen[index] : undefined))
  const token = text.slice(start, end)
  return isReadingOf(token, seen) ? seen : (JSON.parse(token) as JsonValue)
}

/** A document that a driver parsed, with the right names of its keys. */
export function withRightKeys(text: string, document: JsonValue): JsonValue {
  return mayBeMisread(text) ? readNode(text, scanJson(text), document) : document
}

/**
 * Whether a driver reads a scalar of a JSON text as `value`: perhaps rounded, a long integer as its digits, or a number
 * that is too large as Infinity.
 */
export function isReadingOf(token: string, value: unknown): value is JsonValue {
  const isNumber = /^[-\d]/.test(token)
  if (typeof value === 'number') return isNumber && Number(token) === value
  if (typeof value === 'string') return isNumber ? isTextOf(token, value) : isSameScalar(token, JSON.stringify(value))
  return (typeof value === 'boolean' || value === null) && token === String(value)
}

/** Whether a text is what some drivers read from an integer that JavaScript would round. */
function isTextOf(token: string, text: string): boolean {
  return token === text && !Number.isSafeInteger(Number(token))
}

/** Whether a JSON text has a number that a pattern matches; digits in strings are no numbers. */
export function hasNumber(text: string, pattern: RegExp): boolean {
  if (!pattern.test(text)) return false
  return (maskEscapes(text).match(stringOrNumber) ?? []).some((token) => !token.startsWith('"') && pattern.test(token))
}

/** Whether JavaScript would write a part of a JSON text with other digits, or may have read a key wrongly. */
export function isRespelled(text: string): boolean {
  if (mayBeMisread(text)) return true
  // Shorter integers are exact. A time in a string does not count: no quote, comma or bracket is before its digits.
  if (!/(?:^|"\s*:|[[,])\s*(?:-?\d+[.eE]|-?\d{16}|-0)/.test(text)) return false
  return (maskEscapes(text).match(stringOrNumber) ?? []).some(
    (token) => !token.startsWith('"') && String(Number(token)) !== token,
  )
}

/** A number as its significant digits and its exponent, equal for equal numbers. */
function decimal(token: string): string {
  const [, sign, integer = '', fraction = '', exponent = '0'] =
    /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(token) ?? []
  const digits = (integer + fraction).replace(/^0+/, '')
  const significant = digits.replace(/0+$/, '')
  if (significant === '') return '0'
  return `${sign}${significant}e${Number(exponent) - fraction.length + digits.length - significant.length}`
}

/** The order of two numbers of JSON texts, by all their digits: negative, 0 or positive. */
export function compareNumbers(one: string, other: string): number {
  if (Number(one) !== Number(other)) return Number(one) < Number(other) ? -1 : 1
  const [mine, theirs] = [placed(one), placed(other)]
  if (mine.sign !== theirs.sign) return mine.sign - theirs.sign
  const order =
    mine.magnitude - theirs.magnitude || (mine.digits < theirs.digits ? -1 : Number(mine.digits > theirs.digits))
  return mine.sign * order
}

/** A number as its sign, its significant digits, and the place of the first one. */
function placed(token: string): { readonly sign: number; readonly digits: string; readonly magnitude: number } {
  const [, sign, digits = '', exponent = '0'] = /^(-?)(\d+)(?:e(.*))?$/.exec(decimal(token)) ?? []
  return { sign: digits === '0' ? 0 : sign === '-' ? -1 : 1, digits, magnitude: digits.length + Number(exponent) }
}

/** Whether two scalars of JSON texts are equal; numbers by value, however they are spelled. */
export function isSameScalar(one: string, other: string): boolean {
  if (one === other) return true
  if (/^[-\d]/.test(one) && /^[-\d]/.test(other)) {
    return Number(one) === Number(other) && decimal(one) === decimal(other)
  }
  if (!one.startsWith('"') || !other.startsWith('"')) return false
  // Without escapes, other text is another string.
  return (one.includes('\\') || other.includes('\\')) && JSON.parse(one) === JSON.parse(other)
}

/** {@link isSameScalar}, or `operand` is the string that some drivers read from the long integer `stored`. */
export function isSameOrText(stored: string, operand: string): boolean {
  return isSameScalar(stored, operand) || (operand.startsWith('"') && isTextOf(stored, operand.slice(1, -1)))
}
