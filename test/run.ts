import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { join, sep } from 'node:path'
import { requestedDatabases } from './databases/index.js'
import type { Counts } from './reporter.js'
import { isThorough } from './sample.js'
import { mochaGlobalTeardown, startServers } from './setup.js'

/** Tests change settings of a whole server, so a server that a URL names serves one process. */
const isOnGivenServer = requestedDatabases().some((name) => process.env[`${name.toUpperCase()}_URL`])

/**
 * How many processes run test files at once, each on servers of its own. With all databases, two of them wait for their
 * servers two fifths of the time.
 */
const jobs = isOnGivenServer ? 1 : isThorough ? 3 : 2

/**
 * Files that have the machine for themselves. The order of statements is chosen by the test, but which of two sessions a
 * server rolls back for a deadlock depends on when it looks, which other work delays.
 */
const alone = ['escapes/every-order.test.js']

/** Files that take minutes, begun first: else one process would run the last of them while the other ones have no work. */
const long = [
  'race/corpus.test.js',
  'race/report.test.js',
  'examples.test.js',
  'races/guarantees.test.js',
  'conformance/update-json.test.js',
]

/**
 * Tests of the packages beside the library, and those that install packages into folders of their own. Only a run that
 * names its databases has them, as CI.
 */
const besideLibrary = ['race/', 'eslint/', 'package/']

const isChosen = (name: string): boolean => isThorough || !besideLibrary.some((start) => name.startsWith(start))
// The sources are listed, since the compiler leaves the output of a deleted file.
const found = readdirSync(join(__dirname, '..', '..', 'test'), { recursive: true, encoding: 'utf8' })
  .map((name) => name.split(sep).join('/'))
  .filter((name) => name.endsWith('.test.ts') && !name.includes('node_modules/'))
  .map((name) => name.replace(/ts$/, 'js'))
  .filter(isChosen)
  .sort()
const together = [
  ...found.filter((name) => long.includes(name)),
  ...found.filter((name) => !long.includes(name) && !alone.includes(name)),
]

/** Runs test files by Mocha, with the options of the command line, and resolves to what it has counted. */
async function mocha(files: readonly string[], ...options: readonly string[]): Promise<Counts> {
  const paths = files.map((name) => join(__dirname, name))
  const child = fork(require.resolve('mocha/bin/mocha.js'), [...options, ...process.argv.slice(2), ...paths])
  let counts: Counts | undefined
  child.on('message', (message) => (counts = message as Counts))
  const [status] = (await once(child, 'exit')) as [number | null]
  // Mocha that ends before its report has run an unknown part of the files.
  if (!counts || (status !== 0) !== counts.failures > 0) throw new Error(`mocha ended with status ${status}`)
  return counts
}

async function main(): Promise<void> {
  const missing = [...alone, ...long.filter(isChosen)].filter((name) => !found.includes(name))
  if (missing.length > 0) throw new Error(`there is no ${missing.join(', no ')}`)
  try {
    await startServers(jobs)
    const counts = [await mocha(alone), await mocha(together, '--parallel', `--jobs=${jobs}`)]
    const sum = (of: keyof Counts): number => counts.reduce((total, each) => total + each[of], 0)
    console.log(`${sum('passes')} passed, ${sum('failures')} failed`)
    if (sum('failures') > 0) process.exitCode = 1
  } finally {
    await mochaGlobalTeardown()
  }
}

void main()
