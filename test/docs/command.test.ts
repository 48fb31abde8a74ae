import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { QueryTypes } from 'sequelize'
import { connect } from '../connect.js'
import { eachDatabase, servers } from '../each-database.js'
import { requestedDatabases } from '../databases/index.js'
import { root } from './readme.js'

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

function command(words: readonly string[], environment: Record<string, string> = {}): Promise<Ended> {
  return ended(process.execPath, [join(root, 'dist', 'bin', 'index.js'), ...words], environment)
}

function ended(program: string, words: readonly string[], environment: Record<string, string> = {}): Promise<Ended> {
  const child = spawn(program, words, { cwd: root, env: { ...process.env, ...environment } })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (text: Buffer) => (stdout += text.toString()))
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()))
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, stdout, stderr })))
}

describe('sequelize-lossless demo', () => {
  const ways = requestedDatabases().map((name): [name: string, run: () => Promise<Ended>] =>
    name === 'sqlite'
      ? ['sqlite, by npm run demo', () => ended('npm', ['run', '--silent', 'demo'])]
      : [name, () => command(['demo', '--url', servers.get(name)!.url])],
  )
  for (const [name, run] of ways) {
    it(`shows the lost update, and three fixes that lose no update in any order, on ${name}`, async () => {
      const { code, stdout, stderr } = await run()
      expect({ code, stderr }).to.deep.equal({ code: 0, stderr: '' })
      expect(stdout).to.match(/^Two jobs each add their step to one workflow run, on \w+ /)
      const [, lost, ...fixes] = stdout.split(/^(?=await )/m)
      expect(lost).to.match(/✗ a step is lost in \d+ of \d+ orders, and nothing is raised/)
      expect(lost).to.match(/^ {4}job A \(ok\) +│ job B \(ok\)$/m)
      expect(lost!.replace(/\s+/g, ' ')).to.match(
        /lost: "step_([ab])" of progress, which job \w wrote at 3: job \w overwrote it at 4 with UPDATE lossless_demo, from its read at \d, which took no lock lost update: .* remedy: .* replay: v1:[AB]+ The letters after "replay: v1:" are this order/,
      )
      expect(fixes).to.have.length(3)
      for (const fix of fixes) expect(fix).to.match(/\n✔ both steps are there, after each of \d+ orders\n/)
      // Plain where there is no terminal.
      expect(stdout).to.not.include('\u001b[')
    })
  }
})

describe('sequelize-lossless', () => {
  const secret = 'p-4-s-s'
  const urls =
    /^demo: the URL must be mysql:\/\/, mariadb:\/\/ or postgres:\/\/user:password@host:port\/database, or sqlite:/
  const onlyUrl = /^demo: the only option is --url, and a URL comes after it: --url mysql:\/\//
  const encode = /^demo: the URL cannot be parsed\. Encode the special characters of its password: /
  const refusals: readonly (readonly [title: string, words: readonly string[], reason: RegExp])[] = [
    ['a URL that is none', ['demo', '--url', secret], urls],
    ['a URL of another database', ['demo', '--url', `oracle://root:${secret}@127.0.0.1/test`], urls],
    ['a URL without slashes', ['demo', '--url', `mysql:root:${secret}@127.0.0.1/test`], urls],
    ['a URL without --url', ['demo', `mysql://root:${secret}@127.0.0.1/test`], onlyUrl],
    ['an option that there is not', ['demo', `--nonsense=${secret}`], onlyUrl],
    ['a password with a slash', ['demo', '--url', `mysql://root:${secret}/1@127.0.0.1/test`], encode],
    ['a password with a hash', ['demo', '--url', `mysql://root:12#${secret}@127.0.0.1/test`], encode],
    [
      'a server that does not answer',
      ['demo', '--url', `mysql://root:${secret}@127.0.0.1:1/none`],
      /^demo: .*ECONNREFUSED.*\n$/,
    ],
    [
      'a file that is not there',
      ['doctor', '--url', 'sqlite:no/such.file'],
      /^doctor: there is no file no\/such\.file\n$/,
    ],
    [
      'a folder',
      ['doctor', '--url', `sqlite:${tmpdir()}`],
      /^doctor: .* is a folder: write the path of a file in it\n$/,
    ],
    [
      'a password with a % that encodes nothing',
      ['doctor', '--url', `postgresql://user:${secret}%ZZ@127.0.0.1:1/none`],
      /^doctor: the URL cannot be parsed\. Encode the special characters of its password: node -p "encodeURIComponent\('…'\)"\n$/,
    ],
    ['no URL', ['doctor'], /^doctor: write --url, or set DATABASE_URL\n$/],
    ['no command', [], /^sequelize-lossless: there is no such command\.\n\nUsage: /],
    ['another command', ['toString'], /^sequelize-lossless: there is no such command\.\n\nUsage: /],
  ]
  for (const [title, words, reason] of refusals) {
    it(`ends with 1, and shows no password, for ${title}`, async () => {
      const { code, stdout, stderr } = await command(words, { DATABASE_URL: '' })
      expect({ code, stdout }).to.deep.equal({ code: 1, stdout: '' })
      expect(stderr).to.match(reason)
      expect(stderr).to.not.include(secret)
    })
  }

  it('names both commands for --help', async () => {
    const { code, stdout } = await command(['--help'])
    expect(code).to.equal(0)
    expect(stdout).to.match(/^Usage: sequelize-lossless <command>/)
  })

  it('prints the version of the package for --version', async () => {
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
    expect(await command(['--version'])).to.include({ code: 0, stdout: `${version}\n` })
  })

  it('says how to get a driver that is missing', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'sequelize-lossless-driver-'))
    const hook = join(folder, 'no-driver.cjs')
    writeFileSync(
      hook,
      `const module_ = require('node:module'), resolve = module_._resolveFilename
       module_._resolveFilename = function (name, ...rest) {
         return resolve.call(this, name === 'mysql2' ? 'mysql2-that-is-not-there' : name, ...rest)
       }`,
    )
    try {
      const words = ['doctor', '--url', 'mysql://root@127.0.0.1:1/none']
      const { code, stderr } = await command(words, { NODE_OPTIONS: `--require ${hook}` })
      expect(code).to.equal(1)
      expect(stderr).to.equal(
        'doctor: mysql2 cannot be loaded here. Write npm install mysql2, or without a project: ' +
          'npx -p sequelize-lossless -p sequelize -p mysql2 sequelize-lossless doctor\n',
      )
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
})

eachDatabase('sequelize-lossless doctor', (database) => {
  let sequelize: ReturnType<typeof connect>
  before(async () => {
    sequelize = database.connect().sequelize
    // SQLite makes the file.
    await sequelize.authenticate()
  })

  const ask = async (sql: string): Promise<string> => {
    const [row] = await sequelize.query<Record<string, unknown>>(sql, { type: QueryTypes.SELECT, raw: true })
    return String(Object.values(row!)[0])
  }

  const settings: Readonly<Record<string, readonly string[]>> = {
    mysql: ['@@sync_binlog = 1', '@@innodb_flush_log_at_trx_commit = 1'],
    mariadb: ['NOT @@log_bin OR @@sync_binlog = 1', '@@innodb_flush_log_at_trx_commit = 1'],
    postgres: [`current_setting('fsync') = 'on'`],
    sqlite: ['1'],
  }

  it('reports on the settings of the server', async () => {
    const { stdout, stderr, code } = await command(['doctor'], { DATABASE_URL: database.url() })
    expect(stderr).to.equal('')
    expect(stdout).to.match(/^\w+ \d+\.\d+.*, sequelize-lossless \d\S+, sequelize 6\.\S+, \w+( \d\S+)?, Node v\d/)
    expect(stdout).to.match(/^✔ connection: /m)
    expect(stdout).to.match(/^✔ JSON writes: supported$/m)
    expect(stdout).to.match(/^✔ tests with every-order: /m)
    const safe = await Promise.all(settings[database.name]!.map((setting) => ask(`SELECT ${setting} AS safe`)))
    const isSafe = safe.every((answer) => answer === '1' || answer === 'true')
    expect(code).to.equal(isSafe ? 0 : 1)
    expect(/^✗ (durability|binary log): /m.test(stdout)).to.equal(!isSafe)
  })

  it('ends with its usual status if the reader of its output closes the pipe, as head does', async () => {
    const options = { cwd: root, env: { ...process.env, DATABASE_URL: database.url() } }
    const child = spawn(process.execPath, [join(root, 'dist', 'bin', 'index.js'), 'doctor'], options)
    let stderr = ''
    child.stderr.on('data', (text: Buffer) => (stderr += text.toString()))
    child.stdout.destroy()
    const code = await new Promise((resolve) => child.on('close', resolve))
    expect({ stderr, isEnded: code === 0 || code === 1 }).to.deep.equal({ stderr: '', isEnded: true })
  })

  if (database.name === 'postgres') {
    it('accepts a URL of postgresql://', async () => {
      const { stdout, stderr } = await command(['doctor', '--url', database.url().replace(/^postgres:/, 'postgresql:')])
      expect(stderr).to.equal('')
      expect(stdout).to.match(/^postgres \d/)
    })
  }

  if (database.name === 'sqlite') return

  const harmful: Readonly<Record<string, readonly [parameter: string, line: RegExp]>> = {
    mysql: ['charset=latin1', /^✗ connection: .*character set is latin1/m],
    mariadb: ['charset=latin1', /^✗ connection: .*character set is latin1/m],
    postgres: ['options=-c%20extra_float_digits%3D0', /^✗ connection: .*extra_float_digits = 0/m],
  }

  it('ends with 1 for a session that changes documents', async () => {
    const [parameter, line] = harmful[database.dialect]!
    const { stdout, code } = await command(['doctor', '--url', `${database.url()}?${parameter}`])
    expect(stdout).to.match(line)
    expect(code).to.equal(1)
  })

  if (database.name === 'postgres') return

  it('reports the missing privileges of the account of the tests, and shows no password', async () => {
    const name = `doctor_${process.pid}`
    const url = new URL(database.url())
    await sequelize.query(`CREATE USER ${name}@'%' IDENTIFIED BY 'p-4-s-s'`)
    try {
      await sequelize.query(`GRANT ALL ON ${url.pathname.slice(1)}.* TO ${name}@'%'`)
      Object.assign(url, { username: name, password: 'p-4-s-s' })
      const { stdout } = await command(['doctor', '--url', String(url)])
      expect(stdout).to.match(/^! tests with every-order: .*Run as an administrator: GRANT /m)
      url.password = 'p-4-s-t'
      const { stderr, code } = await command(['doctor', '--url', String(url)])
      expect(code).to.equal(1)
      expect(stderr).to.match(/^doctor: .*Access denied/)
      expect(stderr).to.not.include('p-4-s-t')
    } finally {
      await sequelize.query(`DROP USER ${name}@'%'`)
    }
  })
})
