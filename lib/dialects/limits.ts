import type { Change, Column, Dialect, Misfit, Refusal } from './dialect.js'
import { describePath, shorten } from '../errors/describe.js'
import { UnsupportedDatabaseError, UnsupportedValueError } from '../errors/errors.js'
import { usage } from '../errors/usage.js'
import { depthOf, greatestSum, isInteger, maskEscapes, stringOrNumber } from '../json/encode.js'
import { parseJson, scanJson } from '../json/json-text.js'
import type { Condition, Operation } from '../json/operation.js'
import { placed, textAt } from '../json/semantics.js'

/**
 * Checks the version of a database, and the keys, values and depth of a change against its limits.
 *
 * @throws {UnsupportedDatabaseError} the server's version cannot run the write
 * @throws {UnsupportedValueError} the database cannot store one of them exactly
 */
export function refuseUnsupported(
  method: string,
  column: string,
  { operations, conditions, type }: Change & { readonly type?: Column['type'] },
  dialect: Dialect,
): void {
  if (dialect.refusesJson) throw new UnsupportedDatabaseError(...dialect.refusesJson)
  const part: Part = { method, column, dialect, isText: type === 'TEXT' }
  for (const each of operations) refuseUnsupportedPart(part, each)
  for (const each of conditions) refuseUnsupportedPart(part, each)
}

/** What the checks of an operation or a condition need. */
interface Part {
  readonly method: string
  readonly column: string
  readonly dialect: Dialect
  /** The column is one of text, which keeps all digits. */
  readonly isText: boolean
}

function refuseUnsupportedPart(part: Part, each: Operation | Condition): void {
  const { kind, path, json } = each
  // A member of another database's limits matches nothing; no SQL has it.
  for (const step of path) if (typeof step === 'string') refuseKey(part, step)
  refusePath(part, path.length)
  const isKept = part.isText && kind !== 'increment' && !isCompared(each)
  if (!isKept && digits.test(json)) refuseInteger(part, json, isCompared(each))
  if (kind === 'rename') refuseKey(part, JSON.parse(json) as string)
  // The root is level 1; each key of the path adds one. An item is inside an array, which is the operand of `append`.
  const isItem =
    kind === 'prepend' || kind === 'addToSet' || kind === 'pull' || kind === 'replaceOrAppend' || kind === 'contains'
  if (json.startsWith('"'))
    refuseText(part, 'string', json.includes('\\') ? (JSON.parse(json) as string) : json.slice(1, -1))
  else if (/^[{[]/.test(json))
    refuseParts(part, parseJson(json) as object, path.length + (isItem ? 2 : 1), kind === 'merge')
}

/** Checks the parts of an object or an array. The keys of a patch are path keys, except inside arrays. */
function refuseParts(part: Part, value: object, depth: number, isPatch: boolean): void {
  refuseDepth(part, depth)
  const isKey = !Array.isArray(value)
  for (const [key, each] of Object.entries(value) as [string, unknown][]) {
    if (isKey && isPatch) {
      refusePath(part, depth)
      refuseKey(part, key)
    }
    if (isKey) refuseText(part, 'inner key', key)
    if (typeof each === 'string') refuseText(part, 'string', each)
    else if (typeof each === 'object' && each !== null) refuseParts(part, each, depth + 1, isKey && isPatch)
  }
}

function refuseText({ method, column, dialect }: Part, role: string, text: string): void {
  const refusal = text.isWellFormed() ? dialect.refuseText(text) : loneSurrogate
  if (refusal) throw unstorable(method, column, dialect, `the ${role} ${JSON.stringify(shorten(text, 40))}`, refusal)
}

function refuseKey(part: Part, key: string): void {
  refuseText(part, 'key', key)
  const { method, column, dialect } = part
  const refusal = dialect.refuseKey(key)
  if (refusal) throw unstorable(method, column, dialect, `the key ${JSON.stringify(shorten(key, 40))}`, refusal)
}

/** Refuses NUL in the texts or in the keys of a document. */
export function refuseNul(part: 'text' | 'key'): (text: string) => Refusal | undefined {
  const remedy = 'Encode it before storing it, for example with encodeURIComponent().'
  return (text) => (text.includes('\0') ? [`a ${part} may not contain the NUL character`, remedy] : undefined)
}

const loneSurrogate: Refusal = [
  'it has a lone surrogate',
  'Replace that by U+FFFD with text.toWellFormed(), or encode the text with JSON.stringify(text).',
]

/**
 * @throws {UnsupportedValueError} the new value of an ordinary column has a lone surrogate, in place of which a driver sends
 *   U+FFFD, or a character that the database cannot store
 */
export function refuseUnstorableText(method: string, column: string, value: unknown, dialect: Dialect): void {
  if (typeof value !== 'string') return
  const refusal = value.isWellFormed() ? dialect.refuseText(value) : loneSurrogate
  if (refusal) throw unstorable(method, column, dialect, `a new value of "${column}"`, refusal)
}

function unstorable(
  method: string,
  column: string,
  { name }: Dialect,
  what: string,
  [reason, remedy]: Refusal,
): UnsupportedValueError {
  return new UnsupportedValueError(method, `${what} cannot be stored by ${name}: ${reason}`, remedy, column)
}

function refuseDepth({ method, column, dialect }: Part, depth: number): void {
  if (depth <= dialect.maxDepth) return
  throw new UnsupportedValueError(
    method,
    `the document would be more than ${dialect.maxDepth} levels deep, which ${dialect.name} does not support`,
    'Store deep parts as text, or in a table of their own.',
    column,
  )
}

function refusePath(part: Part, keys: number): void {
  refuseDepth(part, keys)
  const { method, column, dialect } = part
  if (keys <= (dialect.maxPath ?? keys)) return
  throw new UnsupportedValueError(
    method,
    `a path has more than ${dialect.maxPath} keys, which ${dialect.name} does not support`,
    'Set the value of a shorter path as a whole, in withLock().',
    column,
  )
}

/** Matches every integer that JavaScript may round. */
const digits = /\d{16}/

/**
 * If JavaScript prints an integer differently, the integer came from a bigint. Stored as it is printed, any other integer is
 * what it was; but in a comparison, a stored integer that the database rounds would equal it.
 */
function refuseInteger({ method, column, dialect }: Part, json: string, isCompared: boolean): void {
  for (const token of maskEscapes(json).match(stringOrNumber) ?? []) {
    if (!/^-?\d{16,}$/.test(token) || (!isCompared && String(Number(token)) === token)) continue
    const [least, greatest] = dialect.integers ?? [BigInt(token), BigInt(token)]
    if (least <= BigInt(token) && BigInt(token) <= greatest) continue
    throw new UnsupportedValueError(
      method,
      `the integer ${shorten(token, 40)} cannot be stored by ${dialect.name}: it would be rounded`,
      'Store it as a string: String(value).',
      column,
    )
  }
}

/**
 * Checks the length of a statement: if it is too long, the server closes the connection without an error.
 *
 * @throws {UnsupportedValueError} the statement is longer than max_allowed_packet
 */
export function refuseTooLarge(method: string, column: string, bytes: number, dialect: Dialect): void {
  if (bytes <= (dialect.maxStatementBytes ?? Infinity)) return
  throw new UnsupportedValueError(
    method,
    `the statement would have ${bytes} bytes, and this ${dialect.name} server accepts ${dialect.maxStatementBytes} (max_allowed_packet)`,
    'Raise max_allowed_packet on the server, or store large values in rows of their own.',
    column,
  )
}

/**
 * Checks the number of binds of a statement.
 *
 * @throws {UnsupportedValueError} the protocol of the database cannot send as many
 */
export function refuseTooManyBinds(
  method: string,
  column: string,
  binds: number,
  maxBinds: number,
  dialect: Dialect,
): void {
  if (binds <= maxBinds) return
  throw new UnsupportedValueError(
    method,
    `the statement would have ${binds} binds, for its paths and values, and ${dialect.name} accepts ${maxBinds}`,
    'Split the write into several calls, inside withLock() if all of them must be written together.',
    column,
  )
}

/** An increment whose sum a database cannot hold exactly, and the stored number. */
interface InexactSum {
  readonly increment: Operation
  readonly before: string
  readonly reason: string
}

/** The first increment of a stored document whose sum the database cannot hold exactly, or whose double overflows. */
export function findInexactSum({ operations }: Change, stored: string, dialect: Dialect): InexactSum | undefined {
  const increments = operations.filter(({ kind }) => kind === 'increment')
  const root = increments.length > 0 ? scanJson(stored) : undefined
  for (const increment of placed(increments, stored)) {
    const before = textAt(stored, increment.path, root) ?? 'null'
    const reason = before === 'null' ? undefined : inexactSum(before, increment.json, dialect)
    if (reason !== undefined) return { increment, before, reason }
  }
  return undefined
}

/**
 * Checks the sums of increments with the numbers of a stored document that the UPDATE did not match.
 *
 * @throws {UnsupportedValueError} the database cannot hold a sum exactly, or its double overflows
 */
export function refuseInexactSums(
  method: string,
  column: string,
  change: Change,
  stored: string,
  dialect: Dialect,
): void {
  const found = findInexactSum(change, stored, dialect)
  if (!found) return
  const { increment, before, reason } = found
  throw new UnsupportedValueError(
    method,
    `the sum of ${before}, the number that "${column}" holds at ${describePath(increment.path)}, and ${increment.json} ${reason}`,
    'Store such numbers as strings, and add them in withLock(): String(BigInt(text) + amount).',
    column,
  )
}

/** @throws {UnsupportedValueError} a stored document has more levels than the JSON functions of the database read */
export function refuseTooDeep(method: string, column: string, stored: string, dialect: Dialect): void {
  const depth = depthOf(stored)
  if (depth <= dialect.maxDepth) return
  throw new UnsupportedValueError(
    method,
    `"${column}" holds a document of ${depth} levels, and ${dialect.name} supports ${dialect.maxDepth}`,
    'Store deep parts as text, or in a table of their own.',
    column,
  )
}

/** Why a database does not add two numbers; `undefined` if it does. */
function inexactSum(one: string, other: string, dialect: Dialect): string | undefined {
  if (!isInteger(one) || !isInteger(other)) {
    const [before, by] = [Number(one), Number(other)]
    const isFinite = Math.abs(before) < Number.MAX_VALUE && Math.abs(before + by) < greatestSum
    return isFinite ? undefined : 'is past the greatest double'
  }
  const [before, by] = [BigInt(one), BigInt(other)]
  const { integers, addends = integers } = dialect
  const isIn = (range: Dialect['integers'], each: bigint): boolean => !range || (range[0] <= each && each <= range[1])
  const isExact = isIn(addends, before) && isIn(addends, by) && isIn(integers, before + by)
  return isExact ? undefined : `has more digits than ${dialect.name} adds exactly`
}

/**
 * @throws {UsageError} the model declares a column of text as JSON, and the JSON functions would round its numbers
 * @throws {UnsupportedValueError} the character set of the column cannot represent every JSON text
 */
export function refuseCharacterSet(
  method: string,
  model: string,
  { column, field, type }: { readonly column: string; readonly field: string; readonly type: Column['type'] },
  set: string,
  dialect: Dialect,
): void {
  const { complete = [], ofJson = set } = dialect.characterSet ?? {}
  if (type !== 'TEXT' && set !== ofJson) throw usage.textColumn(method, model, column, field, dialect.name)
  if (complete.includes(set)) return
  throw new UnsupportedValueError(
    method,
    `"${column}" of ${model} has the character set ${set}, which cannot represent every JSON text`,
    `Migrate: ALTER TABLE … MODIFY ${field} … CHARACTER SET ${complete[0]}.`,
    column,
  )
}

/** @throws {UnsupportedValueError} the session would store another number than the sum, without an error */
export function refuseClampedSum(method: string, column: string, dialect: Dialect): void {
  if (!dialect.clampsValues) return
  throw new UnsupportedValueError(
    method,
    `sql_mode is not strict, so ${dialect.name} would store another number if a sum is out of the range of "${column}"`,
    'Add STRICT_TRANS_TABLES to sql_mode, on the server or in a hook such as afterConnect.',
    column,
  )
}

/** Whether only a text can misfit its column in this way. */
export function isOfText(misfit: Misfit): boolean {
  return misfit === 'too long' || misfit === 'outside the character set'
}

/** @throws {UnsupportedValueError} always: the session would store the start of a document that is longer than its column */
export function refuseShortColumn(method: string, column: string, dialect: Dialect): never {
  throw new UnsupportedValueError(
    method,
    `sql_mode is not strict, so ${dialect.name} would store the start of a document that is longer than "${column}" can hold`,
    'Add STRICT_TRANS_TABLES to sql_mode, on the server or in a hook such as afterConnect.',
    column,
  )
}

/** @throws {UnsupportedValueError} the session would store other values than those of a new row, or than those of its key */
export function refuseClampedRow(method: string, dialect: Dialect): void {
  if (!dialect.clampsValues) return
  throw new UnsupportedValueError(
    method,
    `sql_mode is not strict, so ${dialect.name} would store other values in place of those that do not fit their columns`,
    'Add STRICT_TRANS_TABLES to sql_mode, on the server or in a hook such as afterConnect.',
  )
}

/** @throws {UnsupportedValueError} a sum of a new row is out of the range of all integers of the database */
export function refuseInexactSum(method: string, column: string, sum: unknown, dialect: Dialect): void {
  const { integers } = dialect
  const text = String(sum)
  if (!integers || !isInteger(text) || (integers[0] <= BigInt(text) && BigInt(text) <= integers[1])) return
  throw UnsupportedValueError.ofNewValue(method, [column], 'out of range', undefined)
}

/**
 * Without strict sql_mode, the server returns NULL in place of a document that is too long.
 *
 * @throws {UnsupportedValueError} always
 */
export function refuseUnreturned(method: string, column: string, dialect: Dialect): never {
  throw new UnsupportedValueError(
    method,
    `"${column}" holds a document that this ${dialect.name} server does not return, since it is longer than max_allowed_packet (${dialect.maxStatementBytes} bytes)`,
    'Raise max_allowed_packet on the server, or store large values in rows of their own.',
    column,
  )
}

/** The kinds of operations and conditions whose operand is compared with stored values. */
const comparedKinds: ReadonlySet<string> = new Set([
  ...['min', 'max', 'addToSet', 'pull'],
  ...['equals', 'contains', 'greaterThan', 'atLeast', 'lessThan', 'atMost'],
])

/** Whether the database compares an operand with stored numbers; a loaded value is compared as it was read. */
function isCompared(each: Operation | Condition): boolean {
  return 'isLoaded' in each ? !each.isLoaded : comparedKinds.has(each.kind)
}
