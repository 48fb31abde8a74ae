import { Session } from 'node:inspector/promises'
import type { Profiler } from 'node:inspector'
import { mergeJsonKey } from 'sequelize-lossless'
import { rounded } from './measure.js'
import { defineRun, documentOf, openSequelize, Tables } from './table.js'
import { value } from './variants.js'

/** Where the time of one call goes, in microseconds, by whose code was running. */
export type Shares = Readonly<Record<string, number>>

/** Code of these packages counts as that of the package which brings them. */
const packages: Readonly<Record<string, string>> = {
  lodash: 'sequelize',
  'retry-as-promised': 'sequelize',
  'sequelize-pool': 'sequelize',
  validator: 'sequelize',
  moment: 'sequelize',
  'moment-timezone': 'sequelize',
  uuid: 'sequelize',
  debug: 'sequelize',
  'lru.min': 'mysql2',
  denque: 'mysql2',
  long: 'mysql2',
  'iconv-lite': 'mysql2',
  'pg-protocol': 'pg',
  'pg-pool': 'pg',
  'pg-types': 'pg',
}

/** The time of a call of `mergeJsonKey` with one caller, by package. */
export async function profileCalls(url: string, calls: number): Promise<Shares> {
  const tables = await Tables.create(url)
  await tables.fill('runs', 1, JSON.stringify(documentOf(100)))
  const sequelize = openSequelize(url)
  const Runs = defineRun(sequelize, 'runs')
  const run = async (): Promise<void> => {
    for (let call = 0; call < calls; call++) await mergeJsonKey([Runs, 1], 'progress', `step_${call % 10}`, value)
  }
  await run()
  const session = new Session()
  session.connect()
  await session.post('Profiler.enable')
  await session.post('Profiler.setSamplingInterval', { interval: 100 })
  await session.post('Profiler.start')
  await run()
  const { profile } = await session.post('Profiler.stop')
  session.disconnect()
  await sequelize.close()
  await tables.close()
  return shares(profile, calls)
}

function shares({ nodes, samples = [], timeDeltas = [] }: Profiler.Profile, calls: number): Shares {
  const owners = new Map<number, string>()
  const parents = new Map(nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id] as const)))
  // A node stands behind its parent in the list.
  for (const { id, callFrame } of nodes) owners.set(id, ownerOf(callFrame) ?? owners.get(parents.get(id)!) ?? 'Node.js')
  const totals = new Map<string, number>()
  for (const [index, sample] of samples.entries()) {
    const owner = owners.get(sample)!
    totals.set(owner, (totals.get(owner) ?? 0) + timeDeltas[index]!)
  }
  const sorted = [...totals].toSorted(([, one], [, other]) => other - one)
  return Object.fromEntries(sorted.map(([owner, total]) => [owner, rounded(total / calls)]))
}

/** Whose code a function is; `undefined` for what belongs to its caller. */
function ownerOf({ functionName, url }: { functionName: string; url: string }): string | undefined {
  if (functionName === '(idle)') return 'waiting for the database'
  if (functionName === '(garbage collector)') return 'garbage collector'
  if (/^write(v|Buffer|Utf8String)$/.test(functionName) && url === '') return 'the system call that sends'
  // A built-in such as JSON.stringify.
  if (url === '') return functionName.startsWith('(') ? 'Node.js' : undefined
  if (url.startsWith('node:')) return 'Node.js'
  const name = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(url)?.[1]
  if (name !== undefined) return packages[name] ?? name
  return url.includes('/dist/') ? 'sequelize-lossless' : 'the bench'
}
