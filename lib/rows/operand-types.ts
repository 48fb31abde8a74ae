export const integerTypes: readonly string[] = ['TINYINT', 'SMALLINT', 'MEDIUMINT', 'INTEGER', 'BIGINT']
export const fractionTypes: readonly string[] = ['DECIMAL', 'FLOAT', 'REAL', 'DOUBLE PRECISION']
const numberTypes = [...integerTypes, ...fractionTypes]
const dateTypes = ['DATE', 'DATEONLY']
const stringTypes = ['STRING', 'CHAR', 'TEXT', 'UUID', 'ENUM', 'CITEXT']

/** Whether a database compares a value with a column of a type without converting it. */
export function fitsType(type: string, value: unknown): boolean {
  const isNumber =
    typeof value === 'bigint' ||
    // A rounded number would match another row.
    (Number.isInteger(value) ? Number.isSafeInteger(value) : Number.isFinite(value)) ||
    (typeof value === 'string' && /^-?\d+(\.\d+)?$/.test(value))
  const isOther = typeof value === 'boolean' || value instanceof Date || value instanceof Uint8Array
  const expected = expectedOperand(type)
  if (expected === 'a number') return isNumber
  if (expected === 'a string') return typeof value === 'string' || (value instanceof Uint8Array && type !== 'UUID')
  return (isNumber || isOther || typeof value === 'string') && (expected === 'a value' || isDate(value))
}

/** What a column of a type is compared with. */
export function expectedOperand(type: string): 'a number' | 'a string' | 'a date' | 'a value' {
  if (numberTypes.includes(type)) return 'a number'
  if (stringTypes.includes(type)) return 'a string'
  return dateTypes.includes(type) ? 'a date' : 'a value'
}

function isDate(value: unknown): boolean {
  return !Number.isNaN(new Date(value as Date | string | number).getTime())
}
