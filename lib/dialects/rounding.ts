/** The type that a model declares for a column. */
export interface DeclaredType {
  readonly key: string
  /** All digits of a number; those after the point of a time. */
  readonly precision: number | undefined
  /** The digits of a number after the point. */
  readonly scale: number | undefined
}

/** Whether a column of a type stores another value than a new one, without an error, since that has too many digits. */
export type Rounds = (declared: DeclaredType, value: unknown) => boolean

/** A FLOAT with a greater precision is a DOUBLE. */
const maxSinglePrecision = 24

export const roundsOnMysql: Rounds = ({ key, precision = 0, scale }, value) => {
  switch (key) {
    case 'DECIMAL':
      return fractionDigits(value) > (scale ?? 0)
    case 'DATE':
    case 'TIME':
      return secondDigits(value) > (key === 'DATE' ? precision : 0)
    case 'FLOAT':
      if (scale === undefined && precision > maxSinglePrecision) return false
      return Math.fround(Number(value)) !== Number(value) || fractionDigits(value) > (scale ?? Infinity)
    case 'DOUBLE PRECISION':
    case 'REAL':
      return fractionDigits(value) > (scale ?? Infinity)
    default:
      return false
  }
}

/** A DECIMAL without a precision keeps all digits. */
export const roundsOnPostgres: Rounds = ({ key, precision, scale = 0 }, value) =>
  key === 'DECIMAL' && precision !== undefined && fractionDigits(value) > scale

/** The digits of a number after its point, without zeros at the end; negative for a large number with an exponent. */
function fractionDigits(value: unknown): number {
  const [, digits = '', exponent = 0] = /^-?\d+(?:\.(\d*?)0*)?(?:e([+-]\d+))?$/.exec(String(value)) ?? []
  return digits.length - Number(exponent)
}

/** The digits of a time after its second, without zeros at the end. */
function secondDigits(value: unknown): number {
  const isTime = value instanceof Date || typeof value === 'number'
  const text = isTime ? new Date(value).toISOString() : String(value)
  return /:\d\d\.(\d*?)0*(?!\d)/.exec(text)?.[1]?.length ?? 0
}
