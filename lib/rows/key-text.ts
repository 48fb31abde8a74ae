import { isDeepStrictEqual } from 'node:util'
import { doubleTypes, integerTypes, numberTypes } from './operand-types.js'

/** A value of a primary key as text: the same for every spelling that each database takes for the same value of a type. */
export function keyText(type: string, value: unknown): unknown {
  // Every spelling of one double.
  if (doubleTypes.includes(type)) return String(Number(value))
  if (type === 'DECIMAL' || integerTypes.includes(type)) {
    return typeof value === 'number' ? String(value) : decimalText(String(value))
  }
  switch (type) {
    case 'DATE':
      return instantOf(value)
    case 'DATEONLY':
      return value instanceof Date ? localDate(value) : dateText(String(value))
    case 'TIME':
      return timeText(String(value))
    case 'BOOLEAN':
      return Number(value)
    default:
      if (value instanceof Date) return [value.getTime()]
      if (value instanceof Uint8Array) return [Buffer.from(value).toString('base64')]
      return type === 'BLOB' ? [Buffer.from(String(value)).toString('base64')] : String(value)
  }
}

/**
 * {@link keyText} without case, accents, spaces at the end, the dashes of a UUID and the milliseconds of a time: two keys that
 * some database or collation considers equal have the same text.
 */
export function looseKeyText(type: string, value: unknown): unknown {
  const text = keyText(type, value)
  const time = type === 'DATE' ? timeOf(value) : NaN
  if (!Number.isNaN(time)) return [Math.floor(time / 1000)]
  if (typeof text !== 'string' || typeof value !== 'string') return text
  return (type === 'UUID' ? text.replace(/[-{}]/g, '') : text)
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toUpperCase()
    .toLowerCase()
    .trimEnd()
}

/**
 * Whether a database may take two values of a type for the same, although their {@link keyText} differs: text that a collation
 * considers equal, a number or a time that the column rounds, and a value of another type than the column.
 */
export function mayBeSameKey(type: string, one: unknown, other: unknown): boolean {
  if (isDeepStrictEqual(looseKeyText(type, one), looseKeyText(type, other))) return true
  if (numberTypes.includes(type)) {
    return !(Math.abs(Number(one) - Number(other)) >= 1) && !(isInteger(one) && isInteger(other))
  }
  if (type === 'DATE' || type === 'DATEONLY') {
    const isExact = [one, other].every((value) => isExactTime(type, value))
    // A column rounds to a second. The time zone of a text without one is that of the server.
    return !(Math.abs(timeOf(one) - timeOf(other)) >= (isExact ? 1 : 2 * secondsOfDay) * 1000)
  }
  if (typeof one !== 'string' || typeof other !== 'string') return typeof one !== typeof other
  return type === 'TIME' || !isPlain(one) || !isPlain(other)
}

const secondsOfDay = 24 * 60 * 60

/** Whether a value names one instant, or one day, on every server. */
function isExactTime(type: string, value: unknown): boolean {
  const text = keyText(type, value)
  return typeof text !== 'string' || (type === 'DATEONLY' && /^\d{4}-\d\d-\d\d$/.test(text))
}

function timeOf(value: unknown): number {
  return new Date(value as Date | string | number).getTime()
}

function isInteger(value: unknown): boolean {
  return /^-?\d+$/.test(String(value))
}

/** Whether every collation tells a text from others that differ in more than case and spaces at the end. */
function isPlain(text: string): boolean {
  return /^[\x20-\x7e]*$/.test(text)
}

/** A decimal number without the zeros that do not count. */
function decimalText(text: string): string {
  const [, sign = '', whole, fraction = ''] = /^(-?)0*(\d+)(?:\.(\d+))?$/.exec(text) ?? []
  if (whole === undefined) return text
  const digits = fraction.replace(/0+$/, '')
  const number = digits ? `${whole}.${digits}` : whole
  return number === '0' ? number : `${sign}${number}`
}

/** A time in milliseconds; a text without a time zone, or with more digits, stays. */
function instantOf(value: unknown): unknown {
  if (typeof value === 'string' && !/^[^.]*(?:\.\d{1,3})?(?:Z|[+-]\d\d:?\d\d)$/i.test(value)) return value
  const time = new Date(value as Date | string | number).getTime()
  return Number.isNaN(time) ? String(value) : [time]
}

/** The date of a time in the time zone of the process, as Sequelize writes it. */
function localDate(value: Date): string {
  return dateText(`${value.getFullYear()}-${value.getMonth() + 1}-${value.getDate()}`)
}

function dateText(text: string): string {
  const [, year, month, day] = /^(\d{4})-(\d\d?)-(\d\d?)$/.exec(text) ?? []
  if (year !== undefined) return [year, month!.padStart(2, '0'), day!.padStart(2, '0')].join('-')
  return Number.isNaN(Date.parse(text)) ? text : localDate(new Date(text))
}

function timeText(text: string): string {
  const [, hours, minutes, seconds = '0', fraction = ''] = /^(\d+):(\d\d)(?::(\d\d)(?:\.(\d+))?)?$/.exec(text) ?? []
  if (hours === undefined) return text
  return [Number(hours), Number(minutes), Number(seconds), fraction.replace(/0+$/, '')].join(':')
}
