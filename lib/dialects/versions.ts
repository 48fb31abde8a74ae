import { UnsupportedDatabaseError } from '../errors/errors.js'
import type { Dialect } from './dialect.js'

/** The least version of a server that supports a feature, why an older one does not, and how to get a newer one. */
interface Requirement {
  readonly least: string
  readonly because: string
  readonly get?: string
}

/** What JSON writes require, by the name of the dialect. A lock requires none of it. */
const json: Readonly<Record<string, Requirement>> = {
  MySQL: { least: '8.0.17', because: 'it has no MEMBER OF and no CAST(… AS DOUBLE)' },
  MariaDB: { least: '10.7', because: 'it has no JSON_EQUALS, and before 10.6 no JSON_TABLE' },
  SQLite: {
    least: '3.47',
    because: 'it misreads a quote or a backslash in a key, and would write another key or none',
    get: 'npm install sqlite3@6',
  },
}

/** What a locking read with a limited wait requires. */
const lockWait: Readonly<Record<string, Requirement>> = {
  MySQL: { least: '8.0.1', because: 'it has no FOR UPDATE NOWAIT' },
  MariaDB: { least: '10.3', because: 'it has no FOR UPDATE WAIT and no FOR UPDATE NOWAIT' },
}

/** What passing over locked rows requires. */
const skipLocked: Readonly<Record<string, Requirement>> = {
  MySQL: { least: '8.0.1', because: 'it has no FOR UPDATE SKIP LOCKED' },
  MariaDB: { least: '10.6', because: 'it has no FOR UPDATE SKIP LOCKED' },
}

/** The dialect of a server of this version, which refuses what an older version lacks or gets wrong. */
export function atVersion(dialect: Dialect, answer: unknown): Dialect {
  // MariaDB prefixes its version with 5.5.5- for replicas of old servers.
  const [version = ''] = /\d+(\.\d+)*/.exec(String(answer).replace(/^5\.5\.5-/, '')) ?? []
  const server = `${dialect.name} ${version || String(answer)}`
  const lacked = (table: Readonly<Record<string, Requirement>>): Requirement | undefined => {
    const requirement = table[dialect.name]
    return requirement && isOlder(version, requirement.least) ? requirement : undefined
  }
  const use = ({ least, get }: Requirement): string => `Use ${dialect.name} ${least} or newer${get ? `: ${get}` : ''}.`
  const noJson = lacked(json)
  const noWait = lacked(lockWait)
  const noSkip = lacked(skipLocked)
  return {
    ...dialect,
    ...(noJson && {
      refusesJson: [
        `${server} cannot write part of a JSON document safely: ${noJson.because}`,
        `${use(noJson)} Or write the whole document under a lock: await row.withLock(async (row) => { …; await row.save() }).`,
      ] as const,
    }),
    ...(noWait && {
      lockWait: () => {
        throw new UnsupportedDatabaseError(
          `${server} cannot limit the wait for a lock: ${noWait.because}`,
          `${use(noWait)} Or call without nowait and timeoutMs.`,
        )
      },
    }),
    ...(noSkip && {
      skipLocked: () => {
        throw new UnsupportedDatabaseError(
          `${server} cannot pass over locked rows: ${noSkip.because}`,
          `${use(noSkip)} Or lock one row after the other: await withLock([Model, id], fn, { nowait: true }).`,
        )
      },
    }),
  }
}

function isOlder(version: string, least: string): boolean {
  const numbers = version.split('.').map(Number)
  for (const [index, wanted] of least.split('.').map(Number).entries()) {
    const found = numbers[index] ?? 0
    if (found !== wanted) return found < wanted
  }
  return false
}
