import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { basename, delimiter, dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../docs/readme.js'
import { mochaGlobalTeardown, startServers } from '../setup.js'

/** Files of lib/, the databases and the tests that run on each mutant, and the share of functions that are mutated. */
interface Part {
  readonly name: string
  readonly mutate: readonly string[]
  readonly databases: string
  readonly tests: readonly string[]
  readonly share: number
}

/** Tests of each kind of write, the quick ones first: a mutant that one of them kills needs no other. */
const writes = [
  'unit/*',
  'conformance/forged-operations',
  'guard/patch',
  'conformance/digits',
  'conformance/merge-json-key',
  'conformance/text-columns',
  'conformance/atomic-update',
  'conformance/coalesce',
  'errors/*',
  'conformance/schema',
  'conformance/rails',
  'conformance/properties',
  'conformance/update-json',
]

const parts: readonly Part[] = [
  { name: 'json', mutate: ['lib/json/*.ts'], databases: 'sqlite', tests: writes, share: 1 },
  {
    name: 'dialects',
    mutate: ['lib/dialects/*.ts'],
    databases: 'mysql,mariadb,postgres,sqlite',
    tests: [...writes, 'conformance/tables', 'conformance/update-where', 'conformance/atomic-upsert'],
    share: 0.2,
  },
  {
    name: 'rest',
    mutate: ['lib/**/*.ts', '!lib/json/**', '!lib/dialects/**', '!lib/bin/**'],
    databases: 'sqlite',
    tests: [...writes, 'conformance/*', 'guard/*', 'escapes/*'],
    share: 0.05,
  },
]

/** Tests of limits, of random documents and of long races take seconds for each mutant. */
const longTests = [
  'on random documents',
  'any two edits',
  '3.5 million quotes',
  'million backslashes',
  'thousands of paths',
  'array of 12,000',
  'too deep for the database',
  'concurrent callers, one creates',
  'on 11 documents',
  'as many as a statement',
]

const usage = `Usage: npm run test:mutation -- [--share=0.1] [--seed=1] [${parts.map(({ name }) => name).join(' | ')} | FILE]…
Mutates a share of the functions of these parts of lib/, or of all parts, or whole files, and runs the tests on each mutant.`

/** The number of mutants that run at once, each on servers of its own. */
const workers = 2

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    options: { share: { type: 'string' }, seed: { type: 'string', default: '1' } },
    allowPositionals: true,
  })
  const chosen = positionals.length > 0 ? positionals.map(partOf) : parts
  process.env['DATABASES'] = [...new Set(chosen.flatMap(({ databases }) => databases.split(',')))].join()
  try {
    await startServers(workers)
    for (const part of chosen) await mutate({ ...part, share: Number(values.share ?? part.share) }, values.seed)
  } finally {
    await mochaGlobalTeardown()
  }
}

/** The part of a name, or of one file: `lib/json/combine.ts`. */
function partOf(word: string): Part {
  const part = parts.find(
    ({ name }) => name === (/^lib\/(json|dialects)\//.exec(word)?.[1] ?? (/^lib\//.test(word) ? 'rest' : word)),
  )
  if (!part) throw new Error(`there is no part ${word}.\n${usage}`)
  return part.name === word ? part : { ...part, name: basename(word, '.ts'), mutate: [word], share: 1 }
}

/** Runs Stryker on a part, and prints how many of its mutants have which end. */
async function mutate({ name, mutate: files, databases, tests, share }: Part, seed: string): Promise<void> {
  const report = join('build', 'mutation-report', `${name}.json`)
  const env = {
    ...process.env,
    DATABASES: databases,
    FEW: '1',
    MUTATE: files.join(delimiter),
    SPEC: filesOf(tests).join(delimiter),
    GREP: `^(?!.*(${longTests.join('|')}))`,
    SHARE: String(share),
    SEED: seed,
    WORKERS: String(workers),
    REPORT: report,
  }
  const stryker = join('test', 'mutation', 'node_modules', '@stryker-mutator', 'core', 'bin', 'stryker.js')
  await node(env, join('build', 'test', 'mutation', 'repeat.js'))
  await node(env, stryker, 'run', join('test', 'mutation', 'stryker.config.mjs'))
  const { files: mutated } = JSON.parse(readFileSync(join(root, report), 'utf8')) as Report
  const counts = new Map<string, number>()
  for (const { mutants } of Object.values(mutated)) {
    for (const { status: end } of mutants) counts.set(end, (counts.get(end) ?? 0) + 1)
  }
  console.log(`${name}, share ${share}, seed ${seed}: ${[...counts].map((each) => each.join(' ')).join(', ')}`)
}

/** The built files of some tests, in the same order; `unit/*` is all files of a folder. */
function filesOf(tests: readonly string[]): string[] {
  const all = tests.flatMap((test) => {
    if (!test.endsWith('/*')) return [`${test}.test.js`]
    const names = readdirSync(join(root, 'test', dirname(test))).filter((name) => name.endsWith('.test.ts'))
    return names.map((name) => `${dirname(test)}/${name.replace(/ts$/, 'js')}`)
  })
  return [...new Set(all)].map((name) => `build/test/${name}`)
}

async function node(env: NodeJS.ProcessEnv, ...words: readonly string[]): Promise<void> {
  const child = spawn(process.execPath, words, { cwd: root, env, stdio: 'inherit' })
  const [status] = (await once(child, 'exit')) as [number | null]
  if (status !== 0) throw new Error(`${words.join(' ')} ended with status ${status}`)
}

/** What is read of a report of Stryker. */
interface Report {
  readonly files: Readonly<Record<string, { readonly mutants: readonly { readonly status: string }[] }>>
}

void main()
