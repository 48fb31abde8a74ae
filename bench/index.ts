import { readFileSync } from 'node:fs'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { cpus, totalmem } from 'node:os'
import { join } from 'node:path'
import { isDeepStrictEqual, parseArgs } from 'node:util'
import { format } from 'prettier'
import { databaseNames, requestedDatabases, startDurableServer, startServer } from '../test/databases/index.js'
import type { DatabaseName, Server } from '../test/databases/index.js'
import { dropBinaryLogs, measureBinaryLog } from './binary-log.js'
import { guardLines, measureGuard } from './guard-cost.js'
import { Contest, warmUpCalls } from './measure.js'
import type { Cell, MeasuredCell } from './measure.js'
import { peers } from './peers.js'
import { measureOrders } from './orders.js'
import type { OrderCost } from './orders.js'
import { profileCalls } from './profile.js'
import { bytesText, callersText, charts, ordersPart, page, shapesPart } from './report.js'
import type { DatabaseResult, Durable, OrderResult, Price, Result, Setting, ShapeResult } from './report.js'
import { measureShapes } from './shapes.js'
import { libraries, order, price } from './variants.js'

const root = join(__dirname, '..', '..')

const [small, middle, large] = [100, 10_000, 1_000_000]

/** Where the most is to be seen; MySQL, which this library began with, has all of it. */
const grid: readonly Cell[] = [
  { documentBytes: small, rows: 'hot', callers: 1, calls: 150, rounds: 9 },
  { documentBytes: small, rows: 'hot', callers: 16, calls: 192, rounds: 5 },
  { documentBytes: small, rows: 'hot', callers: 64, calls: 512, rounds: 3 },
  { documentBytes: small, rows: 'hot', callers: 256, calls: 1024, rounds: 3 },
  { documentBytes: small, rows: 'spread', callers: 16, calls: 480, rounds: 7 },
  { documentBytes: small, rows: 'spread', callers: 256, calls: 1024, rounds: 3 },
  { documentBytes: middle, rows: 'hot', callers: 1, calls: 100, rounds: 5 },
  { documentBytes: middle, rows: 'hot', callers: 16, calls: 128, rounds: 3 },
  { documentBytes: middle, rows: 'spread', callers: 16, calls: 320, rounds: 3 },
  { documentBytes: large, rows: 'hot', callers: 1, calls: 10, rounds: 5 },
  { documentBytes: large, rows: 'hot', callers: 16, calls: 32, rounds: 3 },
  { documentBytes: large, rows: 'spread', callers: 16, calls: 32, rounds: 3 },
]

const isEssential = ({ documentBytes, callers, rows }: Cell): boolean =>
  callers === 1 || (callers === 16 && documentBytes === small) || (callers === 64 && rows === 'hot')

const quickGrid: readonly Cell[] = [
  { documentBytes: small, rows: 'hot', callers: 1, calls: 50, rounds: 3 },
  { documentBytes: small, rows: 'hot', callers: 16, calls: 64, rounds: 3 },
  { documentBytes: large, rows: 'hot', callers: 1, calls: 3, rounds: 3 },
]

/** What a call costs is seen best where there is little else. */
const isPrice = ({ documentBytes, callers }: Cell): boolean => documentBytes === small && callers <= 16

const priceGrid: readonly Cell[] = [
  { documentBytes: small, rows: 'hot', callers: 1, calls: 600, rounds: 21 },
  { documentBytes: small, rows: 'hot', callers: 16, calls: 960, rounds: 11 },
  { documentBytes: small, rows: 'spread', callers: 16, calls: 960, rounds: 11 },
]

function cellsOf(name: DatabaseName, isQuick: boolean): readonly Cell[] {
  return isQuick ? quickGrid : name === 'mysql' ? grid : grid.filter(isEssential)
}

/** Says how far the run has come: on a terminal in one line, else in a line for each cell. */
class Progress {
  readonly #start = Date.now()
  #line = ''

  show(text: string, isLasting: boolean): void {
    const seconds = Math.round((Date.now() - this.#start) / 1000)
    const line = `${String(seconds).padStart(4)} s  ${text}`
    if (process.stderr.isTTY) {
      process.stderr.write(`\r${line.padEnd(this.#line.length)}${isLasting ? '\n' : ''}`)
      this.#line = isLasting ? '' : line
    } else if (isLasting) console.error(line)
  }
}

const progress = new Progress()

/** All that is asked of a server that waits for the disk at every commit, as each of them does by default. */
async function measureDurable(name: DatabaseName, url: string, isQuick: boolean): Promise<Durable> {
  // The server is this run's own, so its logs can be dropped.
  const betweenRounds = (): Promise<unknown> => (name === 'mysql' ? dropBinaryLogs(url) : Promise.resolve())
  const warmUp = isQuick ? 0 : warmUpCalls.durable[name === 'sqlite' ? 'sqlite' : 'server']
  const cells = await measureCells(name, url, cellsOf(name, isQuick), order, warmUp, betweenRounds)
  if (name !== 'mysql') return { cells }
  progress.show(`${name}: binary log`, true)
  return { cells, binaryLog: await measureBinaryLog(url, [small, middle, large]) }
}

/** What a call itself costs, of a server that waits for no disk, so that there is little else. */
async function measurePrice(name: DatabaseName, url: string, isQuick: boolean): Promise<Price> {
  const planned = isQuick ? quickGrid.filter(isPrice) : priceGrid
  const warmUp = isQuick ? 0 : warmUpCalls.price[name === 'sqlite' ? 'sqlite' : 'server']
  const cells = await measureCells(name, url, planned, price, warmUp)
  progress.show(`${name}: profile`, true)
  return {
    date: setting().date,
    cells,
    profile: await profileCalls(url, isQuick ? 300 : name === 'sqlite' ? 1000 : 5000),
  }
}

async function measureCells(
  name: DatabaseName,
  url: string,
  planned: readonly Cell[],
  variants: readonly string[],
  warmUp: number,
  betweenRounds?: () => Promise<unknown>,
): Promise<MeasuredCell[]> {
  const cells: MeasuredCell[] = []
  const contest = await Contest.open(url, [...libraries, ...peers])
  if (warmUp > 0) await contest.warmUp(variants, warmUp)
  for (const [index, cell] of planned.entries()) {
    const title = `${name} ${index + 1}/${planned.length}: ${bytesText(cell.documentBytes)}, ${cell.rows}, ${callersText(cell.callers)}`
    const onTurn = (variant: string, round: number): void => {
      progress.show(`${title}, round ${round} of ${cell.rounds}: ${variant}`, false)
    }
    const measured = await contest.measure(cell, variants, onTurn, betweenRounds)
    cells.push(measured)
    const brief = measured.variants.map(({ variant, ratio }) => `${variant} ${ratio}`)
    progress.show(`${title}: ${brief.join('; ')}`, true)
  }
  await contest.close()
  return cells
}

async function measureDatabase(
  name: DatabaseName,
  isQuick: boolean,
  earlier: DatabaseResult | undefined,
): Promise<DatabaseResult> {
  const { date } = setting()
  const durable =
    earlier ?? (await withServer(await startDurably(name), ({ url }) => measureDurable(name, url, isQuick)))
  return withServer(await startServer(name), async ({ url, version, source }) => {
    return { name, version, source, date, ...durable, price: await measurePrice(name, url, isQuick) }
  })
}

function versionsOf(packages: readonly string[]): Record<string, string> {
  const versions = packages.map((name) => {
    const text = readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8')
    return [name, (JSON.parse(text) as { version: string }).version]
  })
  return { node: process.versions.node, ...(Object.fromEntries(versions) as Record<string, string>) }
}

const style = { semi: false, singleQuote: true, printWidth: 120 }

async function write(result: Result, folder: string): Promise<void> {
  const chartFolder = join(folder, 'performance')
  await rm(chartFolder, { recursive: true, force: true })
  await mkdir(chartFolder, { recursive: true })
  for (const { file, svg } of charts(result)) await writeFile(join(chartFolder, file), svg)
  const json = await format(JSON.stringify(result), { ...style, parser: 'json' })
  await writeFile(join(chartFolder, 'result.json'), json)
  await writeFile(join(folder, 'performance.md'), await format(page(result), { ...style, parser: 'markdown' }))
}

/** What an earlier run has written, if it had the same packages, on this machine. */
async function earlierResult(folder: string, run: Omit<Result, 'databases'>): Promise<readonly DatabaseResult[]> {
  const text = await readFile(join(folder, 'performance', 'result.json'), 'utf8').catch(() => undefined)
  if (text === undefined) return []
  const { databases, ...earlier } = JSON.parse(text) as Result
  return isDeepStrictEqual(earlier, run) ? databases : []
}

/** A server as it is by default: it waits for the disk at every commit, as SQLite always does. */
function startDurably(name: DatabaseName): Promise<Server> {
  return name === 'sqlite' ? startServer(name) : startDurableServer(name)
}

/** Measures a server that was started for it, by its whole URL, and stops it. */
async function withServer<R>(server: Server, measure: (server: Server) => Promise<R>): Promise<R> {
  const { name, url, version, source } = server
  progress.show(`${name}: ${version} (${source})`, true)
  try {
    return await measure({ ...server, url: name === 'sqlite' ? `sqlite:${url}` : url })
  } finally {
    await server.stop()
  }
}

/** Prints what the guard costs; it is written nowhere. */
async function printGuardCost(isQuick: boolean): Promise<void> {
  const size = { documentBytes: middle, rounds: isQuick ? 3 : 11, callsPerRound: isQuick ? 50 : 1000 }
  for (const name of requestedDatabases()) {
    const costs = await withServer(await startServer(name), ({ url }) => measureGuard(url, size))
    console.log(`\n${name}, a document of ${bytesText(middle)}\n${guardLines(costs).join('\n')}\n`)
  }
}

/** Measures how what many write at once can be stored, on servers that wait for the disk, and puts it into the guide. */
async function writeShapes(isQuick: boolean): Promise<void> {
  const callers = [1, 16, 64]
  const results: ShapeResult[] = []
  for (const name of requestedDatabases()) {
    // It has one writer at a time, whatever the tables are.
    if (name === 'sqlite') continue
    const size = { callers, calls: isQuick ? 64 : 512, rounds: isQuick ? 1 : 5 }
    const result = await withServer(await startDurably(name), async ({ url, version }) => {
      return { name, version, callers, speeds: await measureShapes(url, size) }
    })
    results.push(result)
  }
  if (results.length === 0) throw new Error('--shapes needs one of mysql, mariadb and postgres in DATABASES')
  const part = shapesPart(setting(), results)
  // What a quick run measures is not worth keeping.
  if (isQuick) {
    console.log(part)
    return
  }
  await writePart(join(root, 'docs', 'guides', 'hot-rows.md'), 'shapes', part)
}

/** Measures what an order costs in every-order, on servers that wait for the disk and on those that do not. */
async function writeOrders(isQuick: boolean): Promise<void> {
  const rounds = isQuick ? 1 : 7
  const results: OrderResult[] = []
  for (const name of requestedDatabases()) {
    const measure = (server: Server): Promise<OrderCost[]> =>
      withServer(server, ({ url }) => measureOrders(url, rounds))
    const durable = await measure(await startDurably(name))
    const server = await startServer(name)
    results.push({ name, version: server.version, durable, fast: await measure(server) })
  }
  const part = ordersPart(setting(), results)
  // What a quick run measures is not worth keeping.
  if (isQuick) console.log(part)
  else await writePart(join(root, 'packages', 'every-order', 'README.md'), 'orders', part)
}

/** Replaces the part of a page between two comments. */
async function writePart(file: string, name: string, part: string): Promise<void> {
  const between = new RegExp(`(?<=<!-- ${name}\\b.*-->)[^]*(?=<!-- /${name} -->)`)
  const [before, after] = (await readFile(file, 'utf8')).split(between)
  await writeFile(file, await format(`${before!}\n\n${part}\n\n${after!}`, { ...style, parser: 'markdown' }))
  progress.show(`written: ${file}`, true)
}

function setting(): Setting {
  return {
    date: new Date().toISOString().slice(0, 10),
    machine: {
      processor: cpus()[0]!.model,
      cores: cpus().length,
      memoryGiB: Math.round(totalmem() / 2 ** 30),
    },
  }
}

async function main(): Promise<void> {
  const flag = { type: 'boolean', default: false } as const
  const { values } = parseArgs({
    options: { quick: flag, price: flag, guard: flag, shapes: flag, orders: flag, output: { type: 'string' } },
  })
  const isQuick = values.quick
  if (values.guard) return printGuardCost(isQuick)
  if (values.shapes) return writeShapes(isQuick)
  if (values.orders) return writeOrders(isQuick)
  // What a quick run measures is not worth keeping.
  const folder = values.output ?? join(root, isQuick ? join('build', 'bench', 'quick') : 'docs')
  const { machine } = setting()
  const versions = versionsOf(['sequelize', 'mysql2', 'mariadb', 'pg', 'sqlite3', 'knex', 'typeorm'])
  const earlier = await earlierResult(folder, { isQuick, machine, versions })
  const measured: DatabaseResult[] = []
  for (const name of requestedDatabases()) {
    const known = earlier.find((each) => each.name === name)
    if (values.price && !known) throw new Error(`--price needs what a whole run has measured for ${name}`)
    measured.push(await measureDatabase(name, isQuick, values.price ? known : undefined))
  }
  const databases = databaseNames.flatMap((name) => [...measured, ...earlier].find((each) => each.name === name) ?? [])
  await write({ isQuick, machine, versions, databases }, folder)
  progress.show(`written: ${join(folder, 'performance.md')}`, true)
}

void main()
