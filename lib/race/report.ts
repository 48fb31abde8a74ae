import { LostKeysError } from './errors.js'
import type { Failure } from './explore.js'
import type { Step } from './run.js'
import { NotSerialError } from './serial.js'
import { assignments, nameOf, tableOf } from './statement.js'

/** What was lost, by whom, and why. */
export interface Explanation {
  /** The column, as the table has it. */
  readonly column: string
  /** The key of its document; `undefined` if it is not a document, or the whole of it. */
  readonly key: string | undefined
  /** The write of a value that was made before, or without, somebody else's. */
  readonly overwriter: Step
  /** What that value was made from. */
  readonly staleRead: Step | undefined
  /** The write that it undid. */
  readonly undone: Step | undefined
}

/** Finds the statement that overwrote, and the read that its value came from; `undefined` if it is another kind of failure. */
export function explain({ steps, error }: Pick<Failure, 'steps' | 'error'>): Explanation | undefined {
  const lost = whatIsLost(error)
  const done = steps.filter((step) => step.error === undefined)
  for (const overwriter of done.toReversed()) {
    const written = assignments(overwriter.sql, overwriter.binds).find(
      ({ column, value }) => value !== undefined && (lost ? column === lost.column : documentOf(value) !== undefined),
    )
    if (!written || (lost?.key !== undefined && Object.hasOwn(documentOf(written.value) ?? {}, lost.key))) continue
    const { column } = written
    const before = done.filter(
      ({ number, sql }) => number < overwriter.number && bareTable(sql) === bareTable(overwriter.sql),
    )
    const staleRead = before.findLast(
      ({ participant, rows }) => participant === overwriter.participant && rows.some((row) => column in row),
    )
    const undone = before.findLast(
      ({ kind, participant, sql, binds, number }) =>
        kind === 'write' &&
        participant !== overwriter.participant &&
        assignments(sql, binds).some((each) => each.column === column) &&
        (lost?.key !== undefined || number > (staleRead?.answeredAfter ?? 0) - 1),
    )
    if (undone) return { column, key: lost?.key, overwriter, staleRead, undone }
  }
  return undefined
}

function bareTable(sql: string): string {
  return nameOf(tableOf(sql) ?? '')
}

function documentOf(value: unknown): object | undefined {
  try {
    const document: unknown = typeof value === 'string' ? JSON.parse(value) : value
    return typeof document === 'object' && document !== null ? document : undefined
  } catch {
    return undefined
  }
}

function whatIsLost(error: unknown): { column: string; key: string | undefined } | undefined {
  if (error instanceof LostKeysError) return error.lost[0]
  return error instanceof NotSerialError ? error.difference : undefined
}

/** Which participant's statement, and in how many words. */
interface Entry {
  readonly number: number | undefined
  readonly participant: string
  readonly lines: readonly string[]
}

/**
 * The failure as a table with a column for each participant: what was sent, with its values shortened, what each read
 * returned, and who waited for whom; then what was lost, and the token to replay it.
 *
 * @param width in characters. Default: 120
 */
export function timeline(failure: Failure, width: number = 120): string {
  const names = Object.keys(failure.outcomes)
  const room = Math.floor((width - 4 - 3 * (names.length - 1)) / names.length)
  const row = (number: string, cells: readonly string[]): string =>
    `${number.padStart(3)} ${cells.map((cell) => cell.padEnd(room)).join(' │ ')}`.trimEnd()
  const heading = row(
    '',
    names.map((name) => `${name} (${failure.outcomes[name]!})`),
  )
  const lines = entries(failure.steps).flatMap(({ number, participant, lines }) =>
    lines
      .flatMap((line, index) => wrapped(line, room, index === 0 ? '  ' : '    '))
      .map((line, index) =>
        row(
          index === 0 ? String(number ?? '') : '',
          names.map((name) => (name === participant ? line : '')),
        ),
      ),
  )
  return [
    heading,
    row(
      '',
      names.map(() => '─'.repeat(room)),
    ),
    ...lines,
    ...wrapped(lastLine(failure), width, '  '),
    `replay: ${failure.token}`,
  ].join('\n')
}

/** What was lost, the statement that overwrote it, and the stale read that it came from. */
function lastLine({ steps, error }: Pick<Failure, 'steps' | 'error'>): string {
  const found = explain({ steps, error })
  if (!found) return `the check failed: ${error instanceof Error ? error.message : String(error)}`
  const { column, key, overwriter, staleRead, undone } = found
  const what = key === undefined ? `${column} as` : `"${key}" of ${column}, which`
  const from =
    staleRead && ` from its read at ${staleRead.number}${staleRead.kind === 'read' ? ', which took no lock' : ''}`
  return `lost: ${what} ${undone!.participant} wrote at ${undone!.number}: ${overwriter.participant} overwrote it at ${overwriter.number} with ${verb(overwriter)},${from ?? ' which it had not read'}`
}

function verb({ sql }: Step): string {
  return `${/^\w+/.exec(sql)![0]} ${bareTable(sql)}`
}

function entries(steps: readonly Step[]): Entry[] {
  const columns = new Set(steps.flatMap(({ sql, binds }) => assignments(sql, binds).map(({ column }) => column)))
  const all = steps.flatMap((step) => {
    const { number, participant, waitedFor, answeredAfter, error } = step
    const answer = [
      ...step.rows.map((row) => `→ ${shortened(JSON.stringify(interesting(row, columns)), 200)}`),
      ...(error === undefined ? [] : [`✗ ${error}`]),
    ]
    if (waitedFor.length === 0) return [{ at: number, entry: { number, participant, lines: [told(step), ...answer] } }]
    const waits = { number, participant, lines: [told(step), `⏳ waits for ${waitedFor.join(', ')}`] }
    const goesOn = { number: undefined, participant, lines: [`${number} goes on`, ...answer] }
    return [
      { at: number, entry: waits },
      { at: answeredAfter + 0.5, entry: goesOn },
    ]
  })
  return all.sort((one, other) => one.at - other.at).map(({ entry }) => entry)
}

/** Of a row that was read, what somebody writes in this schedule. */
function interesting(row: Readonly<Record<string, unknown>>, columns: ReadonlySet<string>): object {
  const some = Object.entries(row).filter(([column, value]) => columns.has(column) && !isTime(value))
  return some.length > 0 ? Object.fromEntries(some) : row
}

function isTime(value: unknown): boolean {
  return value instanceof Date || (typeof value === 'string' && /^\d{4}-\d\d-\d\d[ T]\d\d:/.test(value))
}

/** A statement without quotes and column lists, its binds in their places. */
function told({ sql, binds }: Step): string {
  let mark = 0
  return sql
    .replace(/[`"](\w+)[`"]/g, '$1')
    .replace(/^SELECT\b.*?\bFROM\b/is, 'SELECT … FROM')
    .replace(/\?|\$(\d+)/g, (_text, number?: string) => {
      const value = binds[number === undefined ? mark++ : Number(number) - 1]
      return isTime(value) ? '‹time›' : shortened(typeof value === 'string' ? value : JSON.stringify(value), 60)
    })
    .replace(/;$/, '')
}

function shortened(text: string, length: number): string {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text
}

function wrapped(line: string, width: number, indent: string): string[] {
  if (line.length <= width) return [line]
  const space = line.lastIndexOf(' ', width)
  const end = space > width / 2 ? space : width
  return [line.slice(0, end), ...wrapped(indent + line.slice(end).trimStart(), width, indent)]
}
