import type { LoggedBytes } from './binary-log.js'
import { barChart } from './chart.js'
import { rounded } from './measure.js'
import type { Cell, MeasuredCell, Measurement } from './measure.js'
import type { Shares } from './profile.js'
import type { ShapeSpeed } from './shapes.js'
import { bareQuery, byHand, coalesced, naive, order, ours } from './variants.js'

/** All that a run has found out. */
export interface Result {
  /** As `2026-01-31`. */
  readonly date: string
  readonly isQuick: boolean
  readonly machine: { readonly processor: string; readonly cores: number; readonly memoryGiB: number }
  readonly versions: Readonly<Record<string, string>>
  readonly databases: readonly DatabaseResult[]
}

export interface DatabaseResult extends Durable {
  readonly name: string
  readonly version: string
  readonly source: string
  readonly price: Price
}

/** On a server that waits for the disk. */
export interface Durable {
  readonly cells: readonly MeasuredCell[]
  /** Of MySQL only. */
  readonly binaryLog?: readonly LoggedBytes[]
}

/** On one that does not. */
export interface Price {
  readonly cells: readonly MeasuredCell[]
  readonly profile: Shares
}

const titles: Readonly<Record<string, string>> = {
  mysql: 'MySQL',
  mariadb: 'MariaDB',
  postgres: 'PostgreSQL',
  sqlite: 'SQLite',
}

/** The result as a page, in Markdown; the charts are beside it. */
export function page(result: Result): string {
  const { date, machine, versions, databases } = result
  const servers = databases.map(({ name, version }) => `${titles[name]} ${version}`)
  const packages = Object.entries(versions).map(([name, version]) => `${name} ${version}`)
  return [
    '# Performance',
    `Measured on ${date} by \`npm run bench\`, which wrote this page, on ${machineText(machine)}, ` +
      `shared by the servers and this process: ${servers.join(', ')}; ${packages.join(', ')}.`,
    ...(result.isQuick ? ['**A quick run: a few calls of each, good for nothing but to see that all works.**'] : []),
    howToRead,
    '## What was aimed at',
    table(['aim', 'measured', 'met'], targets(result)),
    ...databases.flatMap(databaseSection),
    '',
  ].join('\n\n')
}

function machineText({ processor, cores, memoryGiB }: Result['machine']): string {
  return `${processor}, ${cores} cores, ${memoryGiB} GiB`
}

/** What each shape takes on one server. */
export interface ShapeResult {
  readonly name: string
  readonly version: string
  readonly callers: readonly number[]
  readonly speeds: readonly ShapeSpeed[]
}

/** The part of the guide that `npm run bench -- --shapes` writes, in Markdown. */
export function shapesPart(
  { date, machine }: Pick<Result, 'date' | 'machine'>,
  results: readonly ShapeResult[],
): string {
  return [
    `Writes in a second, measured on ${date} on ${machineText(machine)}, shared by the server and the one process with all`,
    'callers, which have 16 connections. The server waits for the disk at every commit. A shape that loses a write fails the run.',
    ...results.flatMap(({ name, version, callers, speeds }) => [
      '',
      table(
        [`${titles[name]} ${version}`, ...callers.map(callersText)],
        speeds.map(({ shape, perSecond }) => [shape, ...perSecond.map((each) => each.toLocaleString('en'))]),
      ),
    ]),
  ].join('\n')
}

const howToRead = [
  'Each variant sets one new key of a JSON document to `"done"`. In a round all variants take their turn, each on fresh',
  'documents, and begin at another place in the next round; the first round, and 2000 calls before it (500 on SQLite), are',
  'not counted. Where many callers write one row, those that share statements do it 8 times over, each time on a fresh document.',
  '',
  'A time is that of a round by the calls that were acknowledged, the median of the rounds; behind it, in parentheses, how',
  'many times our `mergeJsonKey` it is, the median of the comparisons within a round. With many callers a time is what is left',
  'of a second for each call, not how long a caller waits. Absolute times are those of this machine; ratios travel better.',
  '',
  'After each round the documents are read: _kept_ is how many of the acknowledged keys are there, in the worst column.',
  'Less than 100 % are lost updates. _Failed_ calls ended in an error, which the caller was told of.',
  '',
  'Every library has 16 connections. The servers wait for the disk at every commit, as they do by default; only _the price of',
  'a call_ is measured on servers that do not (`innodb_flush_log_at_trx_commit=2`, `sync_binlog=0`, `fsync=off`), where there',
  'is little else to be seen. SQLite always waits.',
  '',
  'The first two variants send the SQL of a call of `mergeJsonKey` that was listened to, time and all: they neither build',
  'nor check anything.',
].join('\n')

function databaseSection({ name, cells, binaryLog, price }: DatabaseResult): string[] {
  const { profile } = price
  return [
    `## ${titles[name]}`,
    ...chartsOf({ name, cells }).map(({ file, title }) => `![${title}](performance/${file})`),
    ...grouped(cells).flatMap(([title, group]) => [`### ${title}`, cellTable(group)]),
    ...(binaryLog ? ['### Binary log', binaryLogText, binaryLogTable(binaryLog)] : []),
    '### The price of a call',
    ...grouped(price.cells).flatMap(([title, group]) => [`${title}:`, cellTable(group)]),
    `Where its time goes: one caller of \`mergeJsonKey\` on a document of 100 B, by whose code was running, in microseconds of each call (the profiler itself makes all of it slower):`,
    table(
      ['whose', 'µs', 'share'],
      Object.entries(profile)
        .filter(([, microseconds]) => microseconds >= 0.5)
        .map(([owner, microseconds]) => [owner, microseconds.toFixed(1), percent(microseconds / sum(profile))]),
    ),
  ]
}

function grouped(cells: readonly MeasuredCell[]): [title: string, group: MeasuredCell[]][] {
  const groups = new Map<string, MeasuredCell[]>()
  for (const cell of cells) groups.set(groupTitle(cell), [...(groups.get(groupTitle(cell)) ?? []), cell])
  return [...groups]
}

function sum(shares: Shares): number {
  return Object.values(shares).reduce((total, each) => total + each, 0)
}

function groupTitle({ documentBytes, rows }: Cell): string {
  return `${bytesText(documentBytes)}, ${rows === 'hot' ? 'all callers on one row' : 'each caller on a row of its own'}`
}

function cellTitle(cell: Cell): string {
  return `${groupTitle(cell)}, ${callersText(cell.callers)}`
}

function ratioOf({ variants }: MeasuredCell, variant: string): number {
  return variants.find((each) => each.variant === variant)?.ratio ?? NaN
}

function cellTable(group: readonly MeasuredCell[]): string {
  const header = ['variant', ...group.map(({ callers }) => callersText(callers)), 'kept', 'failed']
  const rows = order.flatMap((variant) => {
    const all = group.map(({ variants }) => variants.find((each) => each.variant === variant))
    const measured = all.filter((each) => each !== undefined)
    if (measured.length === 0) return []
    const kept = Math.min(...measured.map(({ found, acknowledged }) => found / acknowledged))
    const failed = Math.max(...measured.map((each) => each.failed / (each.failed + each.acknowledged)))
    const name = variant === ours ? `**${variant}**` : variant
    const times = all.map((each) => (each ? `${timeText(each.microseconds)} (${ratioText(each.ratio)})` : ''))
    return [[name, ...times, kept < 1 ? `**${percent(kept)}**` : '100 %', failed > 0 ? percent(failed) : '']]
  })
  return table(header, rows)
}

function ratioText(ratio: number): string {
  return ratio < 0.1 ? ratio.toPrecision(2) : ratio.toFixed(2)
}

const binaryLogText =
  'Bytes that one change adds to the log, with the default settings and with `binlog_row_image = MINIMAL`, `binlog_row_value_options = PARTIAL_JSON`:'

function binaryLogTable(logged: readonly LoggedBytes[]): string {
  return table(
    ['document', 'operation', 'default', 'MINIMAL, PARTIAL_JSON'],
    logged.map(({ documentBytes, operation, byDefault, partial }) => [
      bytesText(documentBytes),
      operation,
      byDefault.toLocaleString('en'),
      partial.toLocaleString('en'),
    ]),
  )
}

/** How many times as fast calls are to be if they share statements, by the number of callers. */
const coalescedTimes: Readonly<Record<number, number>> = { 64: 20, 256: 50 }

/** What this library aims at, what it reached, and whether that is enough. */
function targets({ databases }: Result): string[][] {
  return databases.flatMap(({ name, cells, binaryLog = [], price }) => {
    const rows: string[][] = []
    const aim = (text: string, measured: number, isMet: boolean, unit = '×'): void => {
      rows.push([`${titles[name]}: ${text}`, `${measured.toLocaleString('en')} ${unit}`, isMet ? 'yes' : '**no**'])
    }
    const aimAtPrice = (cell: MeasuredCell, where: string): void => {
      if (cell.documentBytes !== 100) return
      if (cell.callers <= 16) {
        const overhead = rounded(1 / ratioOf(cell, bareQuery))
        aim(`\`mergeJsonKey\` ≤ 1.15 × bare \`sequelize.query\` (${where})`, overhead, overhead <= 1.15)
      }
      const hand = ratioOf(cell, byHand)
      if (cell.rows === 'hot' && !Number.isNaN(hand))
        aim(`${byHand} ≥ 2 × \`mergeJsonKey\` (${where})`, hand, hand >= 2)
    }
    for (const cell of cells) {
      const ratio = (variant: string): number => ratioOf(cell, variant)
      const where = cellTitle(cell)
      aimAtPrice(cell, where)
      if (cell.rows === 'hot' && cell.documentBytes === 100 && cell.callers === 1) {
        aim(`${coalesced} ≤ 1.05 × \`mergeJsonKey\` (${where})`, ratio(coalesced), ratio(coalesced) <= 1.05)
      }
      const times = coalescedTimes[cell.callers]
      if (cell.rows === 'hot' && cell.documentBytes === 100 && times !== undefined) {
        const measured = rounded(1 / ratio(coalesced))
        aim(`\`mergeJsonKey\` ≥ ${times} × ${coalesced} (${where})`, measured, measured >= times)
      }
      if (cell.documentBytes >= 1_000_000 && cell.callers === 1) {
        const part = rounded(1 / ratio(naive))
        aim(`\`mergeJsonKey\` ≤ 0.5 × ${naive} (${where})`, part, part <= 0.5)
      }
    }
    // It was measured as all else.
    const others = name === 'sqlite' ? [] : price.cells
    for (const cell of others) aimAtPrice(cell, `${cellTitle(cell)}, no wait for the disk`)
    for (const { documentBytes, operation, partial } of binaryLog) {
      if (operation !== ours) continue
      const text = `binary log of \`mergeJsonKey\` < 1 KB with MINIMAL and PARTIAL_JSON (${bytesText(documentBytes)})`
      aim(text, partial, partial < 1024, 'B')
    }
    return rows
  })
}

/** The charts of a page: of a hot row, and of the largest document. */
export function charts({ databases }: Result): { readonly file: string; readonly svg: string }[] {
  return databases.flatMap((database) =>
    chartsOf(database).map(({ file, title, cell }) => ({ file, svg: barChart(title, cell.variants.map(bar)) })),
  )
}

function chartsOf({ name, cells }: Pick<DatabaseResult, 'name' | 'cells'>) {
  const hot = cells.find(
    ({ documentBytes, rows, callers }) => documentBytes === 100 && rows === 'hot' && callers === 16,
  )
  const large = cells.find(({ documentBytes, callers }) => documentBytes >= 1_000_000 && callers === 1)
  return Object.entries({ hot, large }).flatMap(([kind, cell]) => {
    if (!cell) return []
    const title = `${titles[name]}: time of one key, ${cellTitle(cell)}`
    return [{ file: `${name}-${kind}.svg`, title, cell }]
  })
}

function bar({ variant, microseconds, ratio, found, acknowledged }: Measurement) {
  const kept = found / acknowledged
  const text = `${timeText(microseconds)}, ${ratioText(ratio)} ×` + (kept < 1 ? `, keeps ${percent(kept)}` : '')
  return {
    label: variant,
    value: microseconds,
    text,
    kind: variant === ours ? 'ours' : kept < 1 ? 'loses' : 'sound',
  } as const
}

function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  return [line(header), line(header.map((_, index) => (index === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n')
}

export function callersText(callers: number): string {
  return callers === 1 ? '1 caller' : `${callers} callers`
}

export function bytesText(bytes: number): string {
  if (bytes >= 1_000_000) return `${bytes / 1_000_000} MB`
  return bytes >= 1000 ? `${bytes / 1000} KB` : `${bytes} B`
}

function timeText(microseconds: number): string {
  return microseconds < 10_000 ? `${microseconds} µs` : `${(microseconds / 1000).toFixed(1)} ms`
}

function percent(share: number): string {
  return `${share < 0.995 || share === 1 ? Math.round(share * 100) : 99} %`
}
