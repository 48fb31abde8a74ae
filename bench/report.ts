import type { LoggedBytes } from './binary-log.js'
import { barChart } from './chart.js'
import { rounded, warmUpCalls } from './measure.js'
import type { Cell, MeasuredCell, Measurement } from './measure.js'
import type { OrderCost } from './orders.js'
import type { Shares } from './profile.js'
import type { ShapeSpeed } from './shapes.js'
import { bareQuery, byHand, coalesced, naive, order, ours, underLock } from './variants.js'

/** All that the runs on one machine have found out. */
export interface Result {
  readonly isQuick: boolean
  readonly machine: Machine
  readonly versions: Readonly<Record<string, string>>
  readonly databases: readonly DatabaseResult[]
}

interface Machine {
  readonly processor: string
  readonly cores: number
  readonly memoryGiB: number
}

export interface DatabaseResult extends Durable {
  readonly name: string
  readonly version: string
  readonly source: string
  /** As `2026-01-31`. */
  readonly date: string
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
  /** As `2026-01-31`. */
  readonly date: string
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
  const { machine, versions, databases } = result
  const servers = databases.map(({ name, version, date }) => `${titles[name]} ${version} on ${date}`)
  const packages = Object.entries(versions).map(([name, version]) => `${name} ${version}`)
  return [
    '# Performance',
    'What it costs to set one key of a JSON document, when all callers write one row: the latency of a call, and its overhead as a ratio of two times.',
    costs(result),
    `Measured by \`npm run bench\`, which wrote this page, on ${machineText(machine)}, ` +
      `shared by the servers and this process: ${servers.join(', ')}; ${packages.join(', ')}.`,
    ...(result.isQuick ? ['**A quick run: a few calls of each, good for nothing but to see that all works.**'] : []),
    '## How to read the tables',
    howToRead,
    '## Aims',
    'The worst measurement of each database; one that misses its aim is **bold**.',
    aimTable(result),
    ...databases.flatMap(databaseSection),
    '',
  ].join('\n\n')
}

function machineText({ processor, cores, memoryGiB }: Machine): string {
  return `${processor}, ${cores} cores, ${memoryGiB} GiB`
}

/** When and where something was measured. */
export interface Setting {
  readonly date: string
  readonly machine: Machine
}

/** What each shape takes on one server. */
export interface ShapeResult {
  readonly name: string
  readonly version: string
  readonly callers: readonly number[]
  readonly speeds: readonly ShapeSpeed[]
}

export interface OrderResult {
  readonly name: string
  readonly version: string
  /** On a server that waits for the disk at every commit. */
  readonly durable: readonly OrderCost[]
  /** On one that does not. */
  readonly fast: readonly OrderCost[]
}

/** The part of the guide that `npm run bench -- --shapes` writes, in Markdown. */
export function shapesPart({ date, machine }: Setting, results: readonly ShapeResult[]): string {
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

/** The costs of orders, as the README of every-order states them. */
export function ordersPart({ date, machine }: Setting, results: readonly OrderResult[]): string {
  const rows = results.flatMap(({ name, version, durable, fast }) =>
    durable.map(({ participant, orders, milliseconds }, index) => [
      `${titles[name]} ${version}, ${participant}`,
      String(orders),
      milliseconds.toFixed(1),
      fast[index]!.milliseconds.toFixed(1),
    ]),
  )
  const head = ['each of two participants', 'orders', 'ms an order, durable', 'ms an order, not durable']
  return [
    `Measured on ${date} on ${machineText(machine)}, shared by the server and the exploration. A durable server waits for the disk`,
    'at every commit, as it does by default.',
    '',
    table(head, rows),
  ].join('\n')
}

const { durable, price: priceCalls } = warmUpCalls

const howToRead = [
  'Each variant sets one new key of a JSON document to `"done"`. In a round all variants take their turn, each on fresh',
  'documents, and the next round begins with another variant. The first round is not counted, nor are the calls of each variant',
  `before it: ${durable.server} (${durable.sqlite} on SQLite), and ${priceCalls.server} (${priceCalls.sqlite}) for _the price of a call_.`,
  'Where many callers write one row, variants that send batches do it 8 times, each time on a fresh document.',
  '',
  'A time is the duration of a round divided by the number of acknowledged calls: the median of the rounds. A ratio is the time',
  'of the variant divided by the time of our `mergeJsonKey`: the median of the comparisons within a round. With many callers a time',
  'is a second divided by the calls of that second, not how long a caller waits. Times are of this machine; ratios are comparable.',
  '',
  'After each round the documents are read: _kept_ is the share of the acknowledged keys that are there, in the worst column.',
  'Less than 100 % are lost updates. _Failed_ calls ended in an error that the caller received.',
  '',
  'Every library has 16 connections. The servers wait for the disk at every commit, as they do by default. Only _the price of',
  'a call_ is measured on servers that do not (`innodb_flush_log_at_trx_commit=2`, `sync_binlog=0`, `fsync=off`), where the',
  'work of the client is a larger share. SQLite always waits.',
  '',
  'The first two variants send the recorded SQL of a call of `mergeJsonKey`, including its time: they neither build nor check',
  'anything.',
].join('\n')

function databaseSection({ name, cells, binaryLog, price }: DatabaseResult): string[] {
  const { profile } = price
  return [
    `## ${titles[name]}`,
    ...chartsOf({ name, cells }).map(({ file, title }) => `![${title}](performance/${file})`),
    ...grouped(cells).flatMap(([title, group]) => [`### ${title}`, ...cellTables(group)]),
    ...(binaryLog ? ['### Binary log', binaryLogText, binaryLogTable(binaryLog)] : []),
    '### The price of a call',
    `Measured on ${price.date}.`,
    ...grouped(price.cells).flatMap(([title, group]) => [`${title}:`, ...cellTables(group)]),
    ...cpuTables(price.cells),
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

/** The times of the variants, and a table of their ratios. */
function cellTables(group: readonly MeasuredCell[]): string[] {
  const callers = group.map((cell) => callersText(cell.callers))
  const measurements = order.flatMap((variant) => {
    const all = group.map(({ variants }) => variants.find((each) => each.variant === variant))
    return all.some((each) => each !== undefined) ? [{ name: nameOf(variant), all }] : []
  })
  const times = measurements.map(({ name, all }) => {
    const measured = all.filter((each) => each !== undefined)
    const kept = Math.min(...measured.map(({ found, acknowledged }) => found / acknowledged))
    const failed = Math.max(...measured.map((each) => each.failed / (each.failed + each.acknowledged)))
    return [
      name,
      ...all.map((each) => (each ? timeText(each.microseconds) : '')),
      kept < 1 ? `**${percent(kept)}**` : '100 %',
      failed > 0 ? percent(failed) : '',
    ]
  })
  const ratios = measurements.map(({ name, all }) => [name, ...all.map((each) => (each ? ratioText(each.ratio) : ''))])
  return [
    table(['time of a call', ...callers, 'kept', 'failed'], times),
    table(['ratio to `mergeJsonKey`', ...callers], ratios),
  ]
}

function nameOf(variant: string): string {
  return variant === ours ? `**${variant}**` : variant
}

/** The processor time of one caller, which a busy machine does not blur as it does the time of a call. */
function cpuTables(cells: readonly MeasuredCell[]): string[] {
  return cells.flatMap((cell) => {
    const rows = order.flatMap((variant) => {
      const { cpuMicroseconds, cpuRatio } = cell.variants.find((each) => each.variant === variant) ?? {}
      if (cell.callers > 1 || cpuMicroseconds === undefined || cpuRatio === undefined) return []
      return [[nameOf(variant), timeText(cpuMicroseconds), ratioText(cpuRatio)]]
    })
    return rows.length > 0 ? [`${cellTitle(cell)}:`, table(['variant', 'processor time', 'ratio'], rows)] : []
  })
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

/** How many times as fast calls have to be in batches, by the number of callers. */
const coalescedTimes: Readonly<Record<number, number>> = { 64: 20, 256: 50 }

/** The lines at the top, with a column for each database. */
function costs({ databases }: Result): string {
  const line = (text: string, measure: (cell: (documentBytes: number, callers: number) => MeasuredCell) => string) => [
    text,
    ...databases.map(({ cells }) =>
      measure((documentBytes, callers) => {
        const isWanted = (cell: Cell): boolean => cell.documentBytes === documentBytes && cell.callers === callers
        return cells.find((cell) => cell.rows === 'hot' && isWanted(cell)) ?? { ...cells[0]!, variants: [] }
      }),
    ),
  ]
  const times = (ratio: number): string => (Number.isNaN(ratio) ? '–' : `${ratioText(ratio)} ×`)
  return table(
    ['', ...databases.map(({ name }) => titles[name]!)],
    [
      line('keys that read, change, save keeps, 16 callers', (cell) => keptText(cell(100, 16), naive)),
      line('keys that `mergeJsonKey` keeps, 16 callers', (cell) => keptText(cell(100, 16), ours)),
      line('time of `mergeJsonKey`, 100 B', (cell) => {
        const own = cell(100, 1).variants.find(({ variant }) => variant === ours)
        return own ? timeText(own.microseconds) : '–'
      }),
      line('`mergeJsonKey` / bare `sequelize.query`, 100 B', (cell) => times(1 / ratioOf(cell(100, 1), bareQuery))),
      line('`mergeJsonKey` / read, change, save, 1 MB', (cell) => times(1 / ratioOf(cell(1_000_000, 1), naive))),
      line('`withLock` / transaction, FOR UPDATE, save', (cell) =>
        times(ratioOf(cell(100, 1), underLock) / ratioOf(cell(100, 1), byHand)),
      ),
      line('`mergeJsonKey` / the same with `coalesce`, 64 callers', (cell) =>
        times(1 / ratioOf(cell(100, 64), coalesced)),
      ),
    ],
  )
}

function keptText({ variants }: MeasuredCell, name: string): string {
  const measured = variants.find(({ variant }) => variant === name)
  return measured ? percent(measured.found / measured.acknowledged) : '–'
}

/** An aim of this library on one database, in one cell of the measurements. */
interface Aim {
  readonly text: string
  readonly database: string
  readonly measured: number
  /** Above 1 if the aim is missed. */
  readonly excess: number
  readonly unit: string
}

/** A row for each aim, a column for each database. */
function aimTable(result: Result): string {
  const all = aims(result)
  const texts = [...new Set(all.map(({ text }) => text))]
  const rows = texts.map((text) => [
    text,
    ...result.databases.map(({ name }) => {
      const own = all.filter((aim) => aim.text === text && aim.database === name)
      const [worst] = own.sort((one, other) => other.excess - one.excess)
      if (!worst) return '–'
      const measured = `${worst.measured.toLocaleString('en')} ${worst.unit}`
      return worst.excess > 1 ? `**${measured}**` : measured
    }),
  ])
  return table(['aim', ...result.databases.map(({ name }) => titles[name]!)], rows)
}

/** What this library aims at, and what it reached. */
function aims({ databases }: Result): Aim[] {
  return databases.flatMap(({ name, cells, binaryLog = [], price }) => {
    const found: Aim[] = []
    const atMost = (text: string, measured: number, bound: number, unit = '×'): void => {
      found.push({ text, database: name, measured, excess: measured / bound, unit })
    }
    const atLeast = (text: string, measured: number, bound: number): void => {
      found.push({ text, database: name, measured, excess: bound / measured, unit: '×' })
    }
    const aimAtPrice = (cell: MeasuredCell, where: string): void => {
      if (cell.documentBytes !== 100) return
      if (cell.callers <= 16) {
        const text = `\`mergeJsonKey\` takes at most 1.15 × the time of bare \`sequelize.query\`, ${where}`
        atMost(text, rounded(1 / ratioOf(cell, bareQuery)), 1.15)
      }
      const hand = ratioOf(cell, byHand)
      if (cell.rows !== 'hot' || Number.isNaN(hand)) return
      const callers = cell.callers === 1 ? '1 caller' : '16 callers or more'
      atLeast(`${byHand}: takes at least 2 × the time of \`mergeJsonKey\`, ${callers}`, hand, 2)
    }
    for (const cell of cells) {
      const ratio = (variant: string): number => ratioOf(cell, variant)
      aimAtPrice(cell, cell.rows === 'hot' ? 'one row' : 'each caller on a row of its own')
      const isSmallHot = cell.rows === 'hot' && cell.documentBytes === 100
      if (isSmallHot && cell.callers === 1)
        atMost(`\`coalesce\` takes at most 1.05 × the time without it, 1 caller`, ratio(coalesced), 1.05)
      const times = coalescedTimes[cell.callers]
      if (isSmallHot && times !== undefined) {
        atLeast(
          `\`coalesce\` is at least ${times} × as fast, ${cell.callers} callers of one row`,
          rounded(1 / ratio(coalesced)),
          times,
        )
      }
      if (cell.documentBytes >= 1_000_000 && cell.callers === 1) {
        atMost(`\`mergeJsonKey\` takes at most 0.5 × the time of ${naive}, 1 MB`, rounded(1 / ratio(naive)), 0.5)
      }
    }
    // SQLite is measured once, since it always waits for the disk.
    const withoutWait = name === 'sqlite' ? [] : price.cells
    for (const cell of withoutWait) aimAtPrice(cell, 'no wait for the disk')
    for (const { operation, partial } of binaryLog) {
      if (operation === ours)
        atMost(
          '`mergeJsonKey` adds less than 1 KB to the binary log, with MINIMAL and PARTIAL_JSON',
          partial,
          1023,
          'B',
        )
    }
    return found
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
