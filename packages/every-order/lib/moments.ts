/** The time of a run, in milliseconds since 1970. */
export interface Period {
  readonly start: number
  readonly end: number
}

/** A time that a run wrote: it differs in every run, so its distance from the start of the run is compared. */
class Moment {
  readonly time: number
  readonly period: Period

  constructor(time: number, period: Period) {
    this.time = time
    this.period = period
  }

  isSame({ time, period }: Moment): boolean {
    const distance = this.time - this.period.start - (time - period.start)
    const tolerance = roundingMs + Math.max(this.period.end - this.period.start, period.end - period.start)
    return this.time === time || Math.abs(distance) <= tolerance
  }

  toJSON(): string {
    return '‹time›'
  }
}

/** A column of whole seconds rounds the times of two runs in opposite directions. */
const roundingMs = 1_000
/** A time may be that of `setup`, or of a server with another clock. */
const earlierMs = 10_000

const isoTime = /^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d/

/** The value with each time from the run on as a moment, in documents too. An earlier time is a value as any other. */
export function momentsOf(value: unknown, period: Period): unknown {
  if (Array.isArray(value)) return value.map((each) => momentsOf(each, period))
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, momentsOf(each, period)]))
  const time = timeOf(value)
  return time !== undefined && time >= period.start - earlierMs ? new Moment(time, period) : value
}

/** The time that a text or a number of milliseconds stands for. */
function timeOf(value: unknown): number | undefined {
  const isMilliseconds = /^[12]\d{12}$/.test(String(value))
  if (!isMilliseconds && !(typeof value === 'string' && isoTime.test(value))) return undefined
  const time = isMilliseconds ? Number(value) : Date.parse(value as string)
  return Number.isNaN(time) ? undefined : time
}

/** Whether two values are deeply equal, and their times are the same moments of their runs. */
export function isSame(one: unknown, other: unknown): boolean {
  if (one instanceof Moment) return other instanceof Moment && one.isSame(other)
  if (typeof one !== 'object' || typeof other !== 'object' || one === null || other === null)
    return Object.is(one, other)
  if (other instanceof Moment || Array.isArray(one) !== Array.isArray(other)) return false
  const [ours, theirs] = [Object.entries(one), other as Readonly<Record<string, unknown>>]
  return (
    ours.length === Object.keys(theirs).length &&
    ours.every(([key, value]) => Object.hasOwn(theirs, key) && isSame(value, theirs[key]))
  )
}
