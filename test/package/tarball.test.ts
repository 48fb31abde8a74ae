import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { requestedDatabases } from '../databases/index.js'
import { allCodeBlocks, codeBlocks, promisedProgress, readme, root } from '../docs/readme.js'
import { servers } from '../each-database.js'
import { isThorough } from '../sample.js'

const run = promisify(execFile)

/** The first example of the README as a program of its own, that prints the document it ends with. */
function program(how: 'import' | 'require'): string {
  const { lostUpdate, cure, model } = readme()
  const body = `await sequelize.sync({ force: true })
    const { id } = await WorkflowRun.create({ progress: {} })
    ${lostUpdate}
    ${cure}
    console.log(JSON.stringify(a.progress))
    await sequelize.close()`
  const connected = model.replace(
    /new Sequelize\('[^']*'\)/,
    'new Sequelize(process.env.DATABASE_URL!, { logging: false })',
  )
  if (how === 'import') return `${connected}\nasync function main() {\n${body}\n}\nvoid main()`
  const plain = connected
    .replace(/^import type .*$|^export interface .*$|^ +declare .*$/gm, '')
    .replace(/^import (\{.*\}) from ('.*')$/gm, 'const $1 = require($2)')
    .replace(/^export class (\w+) extends Model<.*> \{/m, 'class $1 extends Model {')
    .replace('!,', ',')
  return `${plain}\nasync function main() {\n${body}\n}\nvoid main()`
}

/** The same with README's model in JavaScript. */
function programInJavaScript(): string {
  const [model] = codeBlocks('README.md', 'js')
  const body = program('require').slice(program('require').indexOf('\nasync function main()'))
  return `${model!.replace(url, 'process.env.DATABASE_URL, { logging: false }')}${body}`
}

/** The program of the page for JavaScript, in one of its two forms, with a row whose document it prints. */
function programOfPage(form: 'CommonJS' | 'ESM'): string {
  const { code } = allCodeBlocks('docs/start/javascript.md').find(({ name }) => name === form)!
  return `${code.replace(url, 'process.env.DATABASE_URL, { logging: false }')}
    async function main() {
      await sequelize.sync({ force: true })
      const { id } = await Job.create({ stats: {} })
      await start(id)
      const { stats, status } = await Job.findByPk(id)
      console.log(JSON.stringify({ stats, status }))
      await sequelize.close()
    }
    void main()`
}

const url = /'mysql:[^']*'/

/** The packages of this repository that run with the library. */
const packages = ['.', 'packages/every-order']

describe('the packed tarballs', function () {
  this.timeout(180_000)
  let folder: string
  let packed: { name: string; files: { path: string }[] }[]

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'sequelize-lossless-package-'))
    const npm = (...words: string[]): Promise<{ stdout: string }> => run('npm', words, { cwd: folder })
    const folders = packages.map((path) => join(root, path))
    const { stdout } = await npm('pack', ...folders, '--json', '--ignore-scripts')
    const tarballs = JSON.parse(stdout) as { name: string; filename: string; files: { path: string }[] }[]
    packed = tarballs
    const { devDependencies, peerDependencies } = JSON.parse(
      readFileSync(join(root, 'package.json'), 'utf8'),
    ) as Record<string, Record<string, string>>
    // The oldest Sequelize that is allowed.
    const sequelize = `sequelize@${peerDependencies!['sequelize']!.replace('^', '')}`
    const others = ['mysql2', 'typescript', '@types/node'].map((name) => `${name}@${devDependencies![name]!}`)
    writeFileSync(join(folder, 'package.json'), '{ "private": true }')
    await npm(
      'install',
      '--no-audit',
      '--no-fund',
      '--prefer-offline',
      ...tarballs.map(({ filename }) => `./${filename}`),
      sequelize,
      ...others,
    )
  })

  after(() => rmSync(folder, { recursive: true, force: true }))

  it('have only the build, the sources and the changelog', () => {
    for (const { name, files } of packed) {
      const paths = files.map(({ path }) => path)
      const documents = ['CHANGELOG.md', 'LICENSE', 'README.md', 'package.json']
      expect(paths, name).to.include.members([...documents, 'dist/index.js', 'dist/index.d.ts', 'lib/index.ts'])
      for (const path of paths)
        if (!documents.includes(path)) expect(path, name).to.match(/^(dist|lib)\/.*\.(js|ts|map)$/)
    }
  })

  it('have every-order for CommonJS and for ESM', async () => {
    const program = 'console.log(Object.keys(order).filter((name) => /^(explore|replay)$/.test(name)).sort().join())'
    writeFileSync(join(folder, 'order.cjs'), `const order = require('every-order')\n${program}`)
    writeFileSync(join(folder, 'order.mjs'), `import * as order from 'every-order'\n${program}`)
    for (const file of ['order.cjs', 'order.mjs']) {
      const { stdout } = await run(process.execPath, [file], { cwd: folder })
      expect(stdout.trim(), file).to.equal('explore,replay')
    }
  })

  const drivers = { mysql: 'mysql2', mariadb: 'mariadb', postgres: 'pg', sqlite: 'sqlite3' }
  for (const name of requestedDatabases()) {
    it(`runs the commands demo and doctor by npx, on ${name}`, async () => {
      const driver = join(folder, 'node_modules', drivers[name])
      // Compiling sqlite3 would take minutes.
      if (!existsSync(driver)) symlinkSync(join(root, 'node_modules', drivers[name]), driver)
      const { url } = servers.get(name)!
      const file = join(folder, 'database.sqlite')
      if (name === 'sqlite') writeFileSync(file, '')
      const options = ['--url', name === 'sqlite' ? `sqlite:${file}` : url]
      const npx = (...words: string[]): Promise<{ stdout: string }> =>
        run('npx', ['--no', 'sequelize-lossless', ...words], { cwd: folder })
      expect((await npx('demo', ...options)).stdout).to.match(/✗ a step is lost in .*✔ both steps are there/s)
      // It exits 1 on a server that is faster than safe.
      const { stdout } = await npx('doctor', ...options).catch((error: unknown) => error as { stdout: string })
      expect(stdout).to.match(/^✔ JSON writes: supported$/m)
      expect(stdout).to.match(/^\d to repair \(✗\), \d to know \(!\), \d+ good \(✔\)$/m)
    })
  }

  if (requestedDatabases().includes('mysql')) {
    async function print(file: string): Promise<unknown> {
      const environment = { ...process.env, DATABASE_URL: servers.get('mysql')!.url.replace(/^\w+:/, 'mysql:') }
      const { stdout } = await run(process.execPath, [file], { cwd: folder, env: environment })
      return JSON.parse(stdout)
    }
    const expected = promisedProgress(readme().cure)

    it('runs the README’s first example from CommonJS', async () => {
      writeFileSync(join(folder, 'example.cjs'), program('require'))
      expect(await print('example.cjs')).to.deep.equal(expected)
    })

    it('runs it from ESM', async () => {
      const imports = program('require').replace(/^const (\{.*\}) = require\(('.*')\)$/gm, 'import $1 from $2')
      writeFileSync(join(folder, 'example.mjs'), imports)
      expect(await print('example.mjs')).to.deep.equal(expected)
    })

    it('runs it with the model in JavaScript', async () => {
      writeFileSync(join(folder, 'javascript.cjs'), programInJavaScript())
      expect(await print('javascript.cjs')).to.deep.equal(expected)
    })

    for (const [form, file] of [
      ['CommonJS', 'page.cjs'],
      ['ESM', 'page.mjs'],
    ] as const) {
      it(`runs the program of the page for JavaScript, ${form}`, async () => {
        writeFileSync(join(folder, file), programOfPage(form))
        expect(await print(file)).to.deep.equal({ stats: { phase: 'first', attempts: 1 }, status: 'running' })
      })
    }

    for (const module of isThorough ? ['node16', 'nodenext', 'commonjs'] : ['nodenext']) {
      it(`runs it from TypeScript, module ${module}, strict`, async () => {
        writeFileSync(join(folder, 'example.ts'), program('import'))
        const options = [
          '--strict',
          '--skipLibCheck',
          '--exactOptionalPropertyTypes',
          '--target',
          'es2022',
          '--module',
          module,
        ]
        const resolution = module === 'commonjs' ? ['--moduleResolution', 'node10', '--ignoreDeprecations', '5.0'] : []
        const compiler = join(folder, 'node_modules', 'typescript', 'bin', 'tsc')
        await run(process.execPath, [compiler, ...options, ...resolution, 'example.ts'], { cwd: folder }).catch(
          (error: unknown) => {
            throw new Error((error as { stdout: string }).stdout)
          },
        )
        expect(await print('example.js')).to.deep.equal(expected)
      })
    }
  }
})
