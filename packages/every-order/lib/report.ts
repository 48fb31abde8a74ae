import { inspect, isDeepStrictEqual, stripVTControlCharacters } from 'node:util'
import { padded, visible, wrapped } from './columns.js'
import { documentOf, isEqual, isTime } from './dependencies.js'
import { CommittedError, FailureError, HangError, LostKeysError, messageOf, OpenTransactionError } from './errors.js'
import type { Failure } from './explore.js'
import { elementMissing, NotSerialError, ResultsError } from './serial.js'
import type { Lost } from './serial.js'
import { assignments, nameOf, tableOf } from './statement.js'
import type { Assignment } from './statement.js'
import type { Step } from './step.js'

/** The lost update, the statement that overwrote it, and the stale read. */
export interface Explanation {
  /** The column, by its name in the table. */
  readonly column: string
  /** The key of its document; `undefined` if the column has no document, or the whole document was lost. */
  readonly key: string | undefined
  /** The element that was lost of an array: of the column, or of the key. */
  readonly element: unknown
  /** The write of a value that does not include the lost update. */
  readonly overwriter: Step
  /** The read that the value comes from. */
  readonly staleRead: Step | undefined
  /** The write that was overwritten. */
  readonly undone: Step | undefined
}

/** Finds the overwriting statement and the read that its value comes from; `undefined` for other kinds of failures. */
export function explain({ steps, error }: Pick<Failure, 'steps' | 'error'>): Explanation | undefined {
  if (isNoLoss(error)) return undefined
  const lost = whatIsLost(error)
  const done = steps.filter((step) => step.error === undefined)
  for (const overwriter of done.toReversed()) {
    const written = assignments(overwriter.sql, overwriter.binds).find(
      ({ column, value }) => value !== undefined && (lost ? column === lost.column : documentOf(value) !== undefined),
    )
    if (!written || (lost && includes(written.value, lost))) continue
    const { column } = written
    const before = done.filter(
      ({ number, sql }) => number < overwriter.number && bareTable(sql) === bareTable(overwriter.sql),
    )
    const staleRead = before.findLast(
      ({ participant, rows }) =>
        participant === overwriter.participant && rows.some((row) => valueOf(row, column) !== undefined),
    )
    const theirsOf = ({ sql, binds }: Step): Assignment | undefined =>
      assignments(sql, binds).find((each) => each.column === column)
    const undone = before.findLast((step) => {
      const theirs = step.affected === 0 || step.kind !== 'write' ? undefined : theirsOf(step)
      if (!theirs || step.participant === overwriter.participant) return false
      const isLater = step.number > (staleRead?.answeredAfter ?? 0) - 1
      return lost?.key !== undefined || lost?.element !== undefined || isLater || isOlder(staleRead, theirs)
    })
    const theirs = undone && theirsOf(undone)
    // MySQL does not count a row that stays the same.
    if (!theirs || (overwriter.affected === 0 && !isEqual(theirs.value, written.value))) continue
    const { key, element } = lost?.key === undefined ? partUndone(theirs.value, written.value) : lost
    return { column, key, element: lost?.element ?? element, overwriter, staleRead, undone }
  }
  return undefined
}

/** Whether the failure is no lost update. */
function isNoLoss(error: unknown): boolean {
  const others = [ResultsError, HangError, OpenTransactionError, FailureError, CommittedError]
  return others.some((each) => error instanceof each)
}

/** The value of a column in a row; an ORM may put the alias of the table before its name. */
function valueOf(row: Readonly<Record<string, unknown>>, column: string): unknown {
  return row[Object.keys(row).find((name) => name === column || name.endsWith(`_${column}`)) ?? column]
}

/** Whether a read shows another value than that of a write: of an older snapshot. */
function isOlder(read: Step | undefined, { column, value }: Assignment): boolean {
  const values = read?.rows.map((row) => valueOf(row, column)) ?? []
  return read?.kind === 'read' && value !== undefined && !values.some((each) => isEqual(each, value))
}

function bareTable(sql: string): string {
  return nameOf(tableOf(sql) ?? '')
}

/** Whether a written document includes what was lost. */
function includes(written: unknown, { key, element, ...lost }: Lost): boolean {
  const document = documentOf(written) ?? {}
  const part = key === undefined ? document : (document as Record<string, unknown>)[key]
  if (element !== undefined) return Array.isArray(part) && part.some((each) => isEqual(each, element))
  if (key === undefined) return false
  return 'value' in lost ? isEqual(part, lost.value) : Object.hasOwn(document, key)
}

/** The first key of a written document that differs in the document that overwrote it, or the first element of an array. */
function partUndone(value: unknown, over: unknown): Pick<Explanation, 'key' | 'element'> {
  const [document, other] = [documentOf(value), documentOf(over)] as (Record<string, unknown> | undefined)[]
  if (Array.isArray(document) && Array.isArray(other))
    return { key: undefined, element: elementMissing(document, other) }
  const key = Object.keys(document ?? {}).find((each) => !isDeepStrictEqual(document![each], other?.[each]))
  return { key, element: undefined }
}

function whatIsLost(error: unknown): Lost | undefined {
  if (error instanceof LostKeysError) return error.lost[0]
  return error instanceof NotSerialError ? error.lost : undefined
}

/** An entry of the timeline: a participant sent a statement, or its waiting statement continued. */
export interface Entry {
  readonly step: Step
  readonly participant: string
  readonly number: number
  /** The statement; `undefined` if it continues. */
  readonly sent: string | undefined
  readonly waitsFor: readonly string[]
  readonly answers: readonly string[]
  readonly error: string | undefined
}

/** The minimum width of a column. */
const leastColumns = 16

/**
 * Formats a failure as a table with a column for each participant: its statements with shortened values, the results of
 * its reads, and its lock waits; then the lost update, and the token for `replay` on one line.
 *
 * @param width the width in terminal columns. Default: 120
 * @example console.log(timeline(result.first, process.stdout.columns))
 */
export function timeline(failure: Failure, width: number = 120): string {
  const names = Object.keys(failure.outcomes)
  const columns = Math.max(Math.floor((width - 4 - 3 * (names.length - 1)) / names.length), leastColumns)
  const row = (number: number | undefined, cells: readonly (readonly string[])[]): string[] =>
    Array.from({ length: Math.max(...cells.map(({ length }) => length)) }, (_line, index) => {
      const texts = cells.map((cell) => padded(cell[index] ?? '', columns))
      return `${(index === 0 ? String(number ?? '') : '').padStart(3)} ${texts.join(' │ ')}`.trimEnd()
    })
  const headings = names.map((name) => wrapped(heading(failure, name), columns, '  '))
  const rule = names.map(() => ['─'.repeat(columns)])
  const rows = entries(failure.steps).flatMap(({ participant, number, sent, waitsFor, answers, error }) => {
    const lines = [
      sent ?? `${number} continues`,
      ...(waitsFor.length > 0 ? [waiting(waitsFor)] : []),
      ...answers.map((answer) => `→ ${answer}`),
      ...(error === undefined ? [] : [`✗ ${error}`]),
    ].flatMap((line, index) => wrapped(line, columns, index === 0 ? '  ' : '    '))
    return row(
      sent === undefined ? undefined : number,
      names.map((name) => (name === participant ? lines : [])),
    )
  })
  return [
    ...row(undefined, headings),
    ...row(undefined, rule),
    ...rows,
    ...lastLines(failure).flatMap((line) => wrapped(line, width, '  ')),
    `replay: ${failure.token}`,
  ].join('\n')
}

/** The maximum width of a line in a diagram. */
const diagramColumns = 60

/**
 * Formats a failure as a Mermaid sequence diagram, with the database among the participants: for a pull request, an
 * issue, or any other Markdown page.
 *
 * @example `\`\`\`mermaid\n${sequenceDiagram(result.first)}\n\`\`\``
 */
export function sequenceDiagram(failure: Failure): string {
  const names = Object.keys(failure.outcomes)
  const idOf = (name: string): string => `p${names.indexOf(name) + 1}`
  const label = (text: string): string => wrapped(text, diagramColumns, '').map(escaped).join('<br/>')
  const participants = names.map((name) => `participant ${idOf(name)} as ${label(heading(failure, name))}`)
  const messages = entries(failure.steps).flatMap(({ participant, number, sent, waitsFor, answers, error }) => {
    const id = idOf(participant)
    return [
      sent === undefined ? `db-->>${id}: ${number} continues` : `${id}->>db: ${label(`${number} ${sent}`)}`,
      ...(waitsFor.length > 0 ? [`Note over ${id}: ${label(waiting(waitsFor))}`] : []),
      ...answers.map((answer) => `db-->>${id}: ${label(answer)}`),
      ...(error === undefined ? [] : [`db--x${id}: ${label(`✗ ${error}`)}`]),
    ]
  })
  const note = [...lastLines(failure), `replay: ${failure.token}`].map(label).join('<br/>')
  return [
    'sequenceDiagram',
    ...participants.toSpliced(Math.ceil(names.length / 2), 0, 'participant db as database'),
    ...messages,
    `Note over p1,p${names.length}: ${note}`,
  ].join('\n  ')
}

/** Escapes characters with a meaning in Mermaid. Mermaid drops the end of an entity that follows the word `style`. */
function escaped(text: string): string {
  const special = /[#;<>&%\\$ﬂ¶]|s(?=tyle)|c(?=lassDef)|(?<=^:?(?:no)?wrap):/g
  return text.replace(special, (character) => `#${character.charCodeAt(0)};`)
}

function heading({ outcomes }: Failure, name: string): string {
  return `${visible(name)} (${outcomes[name]!})`
}

function waiting(names: readonly string[]): string {
  return `⏳ waits for ${names.map(visible).join(', ')}`
}

/** The message of the failure, the name of the anomaly with its cycle, and the remedy. */
function lastLines({ steps, error, anomaly }: Failure): string[] {
  const { name, sentence, remedy } = anomaly
  const named = name === 'unnamed' ? [] : [`${name}: ${sentence}`, `remedy: ${remedy}`]
  return [...messageLines({ steps, error }), ...named.map(visible)]
}

/** The lost update, the statement that overwrote it, and its stale read; or the message of the check. */
export function messageLines({ steps, error }: Pick<Failure, 'steps' | 'error'>): string[] {
  const found = explain({ steps, error })
  if (!found) {
    const message = stripVTControlCharacters(messageOf(error)).slice(0, 1_000)
    const isOfCheck = !isNoLoss(error) && !(error instanceof NotSerialError)
    return `${isOfCheck ? 'the check failed: ' : ''}${message}`.split('\n').map(visible)
  }
  const { column, key, element, overwriter, staleRead, undone } = found
  const part = key === undefined ? '' : `"${key}" of `
  const what =
    element === undefined
      ? key === undefined
        ? `${column} as`
        : `${part}${column}, which`
      : `the element ${shortened(JSON.stringify(element), 60)} of ${part}${column}, which`
  const from = staleRead && ` from its read at ${staleRead.number}${lackOf(staleRead, undone!)}`
  return [
    visible(
      `lost: ${what} ${undone!.participant} wrote at ${undone!.number}: ${overwriter.participant} overwrote it at ${overwriter.number} with ${verb(overwriter)},${from ?? ' which it had not read'}`,
    ),
  ]
}

/** Why a read missed a write. */
function lackOf({ kind, number }: Step, undone: Step): string {
  if (kind !== 'read') return ''
  const isOld = undone.number < number
  const snapshot = ` and shows the snapshot that its transaction took before the write at ${undone.number}`
  return `, which took no lock${isOld ? snapshot : ''}`
}

function verb({ sql }: Step): string {
  return `${/^\w+/.exec(sql)![0]} ${bareTable(sql)}`
}

export function entries(steps: readonly Step[]): Entry[] {
  const columns = new Set(steps.flatMap(({ sql, binds }) => assignments(sql, binds).map(({ column }) => column)))
  const all = steps.flatMap((step): { at: number; entry: Entry }[] => {
    const { number, participant, waitedFor, answeredAfter } = step
    const sent = {
      step,
      participant,
      number,
      sent: describeStep(step),
      waitsFor: waitedFor,
      answers: [],
      error: undefined,
    }
    const answer = {
      answers: answersOf(step, columns),
      error: step.error === undefined ? undefined : shortened(step.error, 500),
    }
    if (waitedFor.length === 0) return [{ at: number, entry: { ...sent, ...answer } }]
    return [
      { at: number, entry: sent },
      { at: answeredAfter + 0.5, entry: { ...sent, sent: undefined, waitsFor: [], ...answer } },
    ]
  })
  return all.sort((one, other) => one.at - other.at).map(({ entry }) => entry)
}

/** The maximum number of rows shown; further rows are only counted. */
const shownRows = 3

function answersOf({ rows, kind, sql, affected }: Step, columns: ReadonlySet<string>): string[] {
  // One row is usual. Databases count an upsert in different ways.
  const isCounted = kind === 'write' && affected !== undefined && affected !== 1
  if (isCounted && (affected === 0 || /^(UPDATE|DELETE)\b/i.test(sql))) return [`${affected} rows changed`]
  const shown = rows.slice(0, shownRows).map((row) => shortened(JSON.stringify(interesting(row, columns)), 200))
  return rows.length > shownRows ? [...shown, `… and ${rows.length - shownRows} more`] : shown
}

/** The columns of a row that a statement of this schedule writes. */
function interesting(row: Readonly<Record<string, unknown>>, columns: ReadonlySet<string>): object {
  const some = Object.entries(row).filter(([column, value]) => columns.has(column) && !isTime(value))
  return some.length > 0 ? Object.fromEntries(some) : row
}

/** Matches a literal, an alias, a quoted name, a placeholder, or white space. */
const parts = /'(?:[^'\\]|\\.|'')*'|\sAS\s+[`"](\w+)[`"]|[`"](\w+)[`"](\.?)|\?|\$(\d+)|\s+/gs

/** A statement without quotes and column lists, with its binds inlined, and without the alias of a single table. */
function describeStep({ sql, binds }: Step): string {
  let mark = 0
  const alias = /\bJOIN\b/i.test(sql) ? undefined : /\bFROM\s+\S+\sAS\s+[`"](\w+)[`"]/i.exec(sql)?.[1]
  const plain = sql.replace(parts, (part, as?: string, name?: string, dot?: string, number?: string) => {
    if (as !== undefined) return as === alias ? '' : ` AS ${as}`
    if (name !== undefined) return name === alias && dot !== '' ? '' : `${name}${dot!}`
    if (part.startsWith("'")) return isTime(part.slice(1)) ? '‹time›' : shortened(part, 60)
    if (!/^[?$]/.test(part)) return ' '
    const value = binds[number === undefined ? mark++ : Number(number) - 1]
    return shortened(valueText(value), 60)
  })
  return plain.replace(/^SELECT\b.*?\bFROM\b/i, 'SELECT … FROM').replace(/;$/, '')
}

function valueText(value: unknown): string {
  if (isTime(value)) return '‹time›'
  return typeof value === 'string' ? value : inspect(value, { breakLength: Infinity })
}

export function shortened(text: string, length: number): string {
  return visible(text.length > length ? `${text.slice(0, length - 1)}…` : text)
}
