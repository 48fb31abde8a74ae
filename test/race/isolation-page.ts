import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { format } from 'prettier'
import type { DatabaseName } from '../databases/index.js'
import { root } from '../docs/readme.js'
import { rows } from '../versions/lanes.js'
import { programs } from './isolation.js'
import type { Program } from './isolation.js'

/** What a database permits: `permitted`, or how it prevents an anomaly, by level and code of the program. */
export type Cells = Record<string, Record<string, string>>

/** The cells by section and by version of the server. */
export type Data = Record<string, Record<string, Cells>>

/** A table of the page: a database, with one setting of it. */
export interface Section {
  readonly id: string
  readonly database: DatabaseName
  readonly title: string
  /** From the lowest to the highest. */
  readonly levels: readonly string[]
  readonly standard: string
  readonly note: string
  /** What makes a connection use a level. */
  readonly statements: (level: string) => readonly string[]
}

const levels = ['READ UNCOMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE']
const setLevel = (level: string): string => `SET SESSION TRANSACTION ISOLATION LEVEL ${level}`
const setSnapshot = (value: 'ON' | 'OFF'): string => `SET SESSION innodb_snapshot_isolation = ${value}`

export const sections: readonly Section[] = [
  {
    id: 'mysql',
    database: 'mysql',
    title: 'MySQL',
    levels,
    standard: 'REPEATABLE READ',
    note: 'At REPEATABLE READ, plain reads show one snapshot. `UPDATE`, `DELETE` and `SELECT … FOR UPDATE` use the newest rows instead, so a transaction that reads and then writes mixes the two. A locking read that has no index locks each row it scans and the gaps between them: so `FOR UPDATE` on an empty set waits there.',
    statements: (level) => [setLevel(level)],
  },
  {
    id: 'mariadb',
    database: 'mariadb',
    title: 'MariaDB, innodb_snapshot_isolation=OFF',
    levels,
    standard: 'REPEATABLE READ',
    note: 'The default before MariaDB 11.6.2. It permits what MySQL permits.',
    statements: (level) => [setLevel(level), setSnapshot('OFF')],
  },
  {
    id: 'mariadb-snapshot',
    database: 'mariadb',
    title: 'MariaDB, innodb_snapshot_isolation=ON',
    levels,
    standard: 'REPEATABLE READ',
    note: 'The default since MariaDB 11.6.2; older releases have the setting, and it may be set for a session. A write to a row that is newer than the snapshot of its transaction is refused with error 1020, at REPEATABLE READ and SERIALIZABLE.',
    statements: (level) => [setLevel(level), setSnapshot('ON')],
  },
  {
    id: 'postgres',
    database: 'postgres',
    title: 'PostgreSQL',
    levels,
    standard: 'READ COMMITTED',
    note: 'READ UNCOMMITTED is READ COMMITTED. At REPEATABLE READ and SERIALIZABLE, a write to a row that is newer than the snapshot is refused with error 40001, also where nothing would be lost; so may be the COMMIT, at SERIALIZABLE.',
    statements: (level) => [`SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL ${level}`],
  },
  {
    id: 'sqlite',
    database: 'sqlite',
    title: 'SQLite',
    levels: ['DEFERRED', 'DEFERRED, WAL', 'IMMEDIATE'],
    standard: 'DEFERRED',
    note: 'SQLite has one isolation level, and one writer at a time. The columns are the ways to begin a transaction: `BEGIN DEFERRED`, the same with `journal_mode=WAL`, and `BEGIN IMMEDIATE`. `SQLITE_BUSY` is the error of a transaction that would wait for one that waits for it, or, with WAL, that writes after another one has written what it has read. There is no `FOR UPDATE`.',
    statements: (level) => [`PRAGMA journal_mode = ${level.endsWith('WAL') ? 'WAL' : 'DELETE'}`],
  },
]

/** The version of a server as far as the page distinguishes it. */
export function versionOf({ database }: Section, version: string): string {
  return version.split('.', database === 'postgres' ? 1 : 2).join('.')
}

/** The version that every run of CI tests, and that the tables of the page show. */
export function shownVersion({ database }: Section): string {
  const row = rows.find(({ title }) => title.toLowerCase() === (database === 'postgres' ? 'postgresql' : database))!
  return (row.tested as { version: string }).version
}

/** The programs that a database can run. */
export function programsOf({ database }: Section): readonly Program[] {
  return programs.filter(({ code }) => database !== 'sqlite' || !code.endsWith('-lock'))
}

export const dataFile = join(root, 'docs', 'proof', 'isolation-levels.json')
export const pageFile = join(root, 'docs', 'proof', 'isolation-levels.md')
export const racesFolder = join(root, 'docs', 'public', 'races', 'isolation')

export function readData(): Data {
  return JSON.parse(readFileSync(dataFile, 'utf8')) as Data
}

/** The highest level that permits an anomaly, whose race is recorded. */
export function recordedLevel(cells: Cells | undefined, { levels }: Section, { code }: Program): string | undefined {
  return levels.findLast((level) => cells?.[level]?.[code] === 'permitted')
}

/** The section whose recording a section shows: the other one of MariaDB, if it permits the anomaly up to the same level. */
export function recordedSection(data: Data, section: Section, program: Program): Section {
  const other = sections.find(({ database }) => database === section.database)!
  const [level, same] = [section, other].map((each) => recordedLevel(cellsOf(data, each), each, program))
  return level === same ? other : section
}

export function raceName({ id }: Section, { code }: Program): string {
  return `${id}-${code.toLowerCase()}.html`
}

function cellsOf(data: Data, section: Section): Cells | undefined {
  return data[section.id]?.[shownVersion(section)]
}

function table(head: readonly string[], body: readonly (readonly string[])[]): string {
  return [head, head.map(() => '---'), ...body].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

function labelOf({ name, code, isCure }: Program): string {
  return isCure ? `↳ ${name}` : `${name}, ${codeOf(code)}`
}

/** The name of a program, and for one that is written for a low level also that of the anomaly. */
export function nameOf(program: Program): string {
  const { name, isCure } = program
  const anomaly = programs.slice(0, programs.indexOf(program)).findLast((each) => !each.isCure)!
  return (isCure ? `${anomaly.name}, ${name}` : name).replaceAll('`', '')
}

function codeOf(code: string): string {
  return code.replace(/-write$/, '')
}

/** The table of a database, each permitted cell with a link to its race. */
function sectionOf(data: Data, section: Section): string {
  const cells = cellsOf(data, section)!
  const head = section.levels.map((level) => `${level}${level === section.standard ? ' ★' : ''}`)
  const body = programsOf(section).map((program) => [
    labelOf(program),
    ...section.levels.map((level) => {
      const outcome = cells[level]![program.code]!
      if (outcome !== 'permitted') return outcome.replaceAll('error ', 'error&nbsp;')
      const name = raceName(recordedSection(data, section, program), program)
      return `<a class="permitted" href="../races/isolation/${name}" target="_blank">permitted</a>`
    }),
  ])
  const version = shownVersion(section)
  return `### ${section.title.replace(/^\w+/, (name) => `${name} ${version}`)}

${table(['anomaly', ...head], body)}

${section.note}${otherVersions(data, section)}`
}

/** What the other versions that were measured permit. */
function otherVersions(data: Data, section: Section): string {
  const cells = cellsOf(data, section)!
  const product = section.database === 'postgres' ? 'PostgreSQL' : 'MariaDB'
  const others = Object.entries(data[section.id]!).filter(([version]) => version !== shownVersion(section))
  const all = others.map(([version, theirs]) => ({
    version,
    differing: section.levels.flatMap((level) =>
      programsOf(section).flatMap((program) => {
        const [here, there] = [cells[level]![program.code]!, theirs[level]![program.code]!]
        return here === there ? [] : [`${nameOf(program)} at ${level} (${there})`]
      }),
    ),
  }))
  const same = all.filter(({ differing }) => differing.length === 0).map(({ version }) => version)
  return [
    ...(same.length > 0 ? [` On ${product} ${same.join(', ')} each cell is the same.`] : []),
    ...all
      .filter(({ differing }) => differing.length > 0)
      .map(
        ({ version, differing }) => ` On ${product} ${version} each cell is the same, but for ${differing.join(', ')}.`,
      ),
  ].join('')
}

/**
 * Hermitage's table, of MySQL 5.6.21 and PostgreSQL 9.3.5: what a level prevents (✓), and what only for plain reads (R).
 * https://github.com/ept/hermitage at 000346f, by Martin Kleppmann, CC BY 4.0.
 */
const hermitage: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  mysql: {
    'READ UNCOMMITTED': '✓---------',
    'READ COMMITTED': '✓✓✓✓✓-----',
    'REPEATABLE READ': '✓✓✓✓✓R-R--',
    SERIALIZABLE: '✓✓✓✓✓✓✓✓✓✓',
  },
  postgres: {
    'READ COMMITTED': '✓✓✓✓✓-----',
    'REPEATABLE READ': '✓✓✓✓✓✓✓✓--',
    SERIALIZABLE: '✓✓✓✓✓✓✓✓✓✓',
  },
}
const hermitageCodes = ['G0', 'G1a', 'G1b', 'G1c', 'OTV', 'PMP', 'P4', 'G-single', 'G2-item', 'G2']

/** The cells that differ from Hermitage's, and the number of those that were compared. */
export function differences(data: Data): { readonly compared: number; readonly differing: readonly string[] } {
  let compared = 0
  const differing = sections.flatMap((section) =>
    Object.entries(hermitage[section.id] ?? {}).flatMap(([level, marks]) =>
      hermitageCodes.flatMap((code, index) => {
        const cells = cellsOf(data, section)![level]!
        const isPrevented = (name: string): boolean | undefined =>
          cells[name] === undefined ? undefined : cells[name] !== 'permitted'
        const [reads, writes = reads] = [isPrevented(code), isPrevented(`${code}-write`)]
        const ours = reads && writes ? '✓' : reads ? 'R' : '-'
        compared++
        return ours === marks[index] ? [] : [`${section.title}, ${level}, ${code}: ${ours}, not ${marks[index]!}`]
      }),
    ),
  )
  return { compared, differing }
}

/** The page that the data make. */
export async function pageOf(data: Data): Promise<string> {
  const { compared } = differences(data)
  const text = `# Isolation levels: what your database permits

Is READ COMMITTED enough for my code?

- **No, if it reads a row, decides, and writes.** At READ COMMITTED, MySQL, MariaDB and PostgreSQL permit lost updates (P4) and write skew (G2).
- **Yes, if it decides in one statement, or under \`SELECT … FOR UPDATE\`** on rows that exist. Rows that do not exist yet cannot be locked there: add a unique key.
- **REPEATABLE READ depends on the database.** PostgreSQL, and MariaDB with \`innodb_snapshot_isolation=ON\`, refuse the write that would lose an update. MySQL, and MariaDB without it, let it pass: there only plain reads are consistent.
- **SERIALIZABLE is the only level that prevents write skew.** It prevents all twelve anomalies on this page, and refuses transactions with an error: [retry](../guides/transactions-and-retries.md) them. SQLite is always serializable.
- **READ UNCOMMITTED reads what is rolled back later,** on MySQL and MariaDB. On PostgreSQL it is READ COMMITTED.

## What each level permits and prevents

Each cell was measured on a real server, with two or three transactions of a few statements. Its words mean:

- <span class="permitted">permitted</span>: at least one order of the statements has the anomaly. The link opens such an order, through which you step with the arrow keys. It was recorded at the highest level that permits the anomaly, and is the same for the whole row.
- waits: a transaction waits until another one has ended.
- older snapshot: a read does not wait, and returns rows as they were before the write of another transaction.
- error: in some order the server refuses a statement or a COMMIT, with this code. 1213 is a deadlock; 1020, 40001 and \`SQLITE_BUSY\` say that another transaction has written. The transaction is rolled back: run it again.

★ is the default. A line that begins with ↳ is the same program, written so that a low level may be enough for it.

${sections.map((section) => sectionOf(data, section)).join('\n\n')}

## How it was measured

[every-order](../guides/race-testing.md) runs the transactions on a server under every order of their statements with at
most two [preemptions](../guides/race-testing.md); one, where there are three. An anomaly is permitted if an order ends with rows, or has returned
rows, that no serial order gives, and does so again when it is repeated. G1c and OTV have a check of their own, since their programs may fail
by other anomalies, too. The table is \`test (id, value)\` with (1, 10) and (2, 20). A prevented cell holds for this program and these orders; it is no proof for every program.

${table(
  ['anomaly', 'transaction A', 'transaction B', 'it fails if'],
  programs.map((program) => [labelOf(program), ...program.shown, program.anomaly]),
)}

\`npm run docs:races\` measures the cells anew, and writes this page and its recordings. A test compares the verdicts with a run on each database, and the recordings byte for byte.
The two tables of MariaDB share a recording where both permit the anomaly up to the same level.

## Compared with Hermitage

The codes are those of [Hermitage](https://github.com/ept/hermitage), which Martin Kleppmann measured by hand on MySQL 5.6 and PostgreSQL 9.3 in 2014. All ${compared} of its
cells for these two databases are the same here. Its “R/O” for MySQL, prevented for plain reads only, is two lines here: phantom and read skew are prevented
at REPEATABLE READ, and permitted where the transaction writes. The programs differ in these ways:

- Hermitage writes constants. For P4, G2-item and G2 the programs here compute what they write from what they have read, so that a serial order has another end.
- Hermitage tries one order, chosen for the anomaly; here each order is run, so a cell names every error that occurs.
- At SERIALIZABLE on MySQL, Hermitage shows a deadlock for G-single with a write, and here it waits: B does not read first, so there is no lock to share.
- Hermitage has neither MariaDB, nor SQLite, nor READ UNCOMMITTED on PostgreSQL, nor the lines that begin with ↳.
`
  return format(text, { printWidth: 120, parser: 'markdown' })
}
