import { execFile } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { requestedDatabases } from '../databases/index.js'
import { root } from '../docs/readme.js'
import { servers } from '../each-database.js'

const run = promisify(execFile)

describe('examples/nestjs', function () {
  this.timeout(300_000)
  let folder: string

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'sequelize-lossless-nestjs-'))
    const filter = (path: string): boolean => !/[\\/](node_modules|build)$/.test(path)
    cpSync(join(root, 'examples', 'nestjs'), folder, { recursive: true, filter })
    const npm = (...words: string[]): Promise<{ stdout: string }> => run('npm', words, { cwd: folder })
    await npm('ci', '--ignore-scripts', '--no-audit', '--no-fund', '--prefer-offline')
    const [{ filename }] = JSON.parse((await npm('pack', root, '--json', '--ignore-scripts')).stdout) as [
      { filename: string },
    ]
    // Unpacked by tar, since another npm install would take as long as the first one.
    await run('tar', ['-xzf', filename], { cwd: folder })
    cpSync(join(folder, 'package'), join(folder, 'node_modules', 'sequelize-lossless'), { recursive: true })
    for (const driver of ['mariadb', 'pg', 'sqlite3']) {
      symlinkSync(join(root, 'node_modules', driver), join(folder, 'node_modules', driver))
    }
    await run(process.execPath, [join(folder, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', '.'], {
      cwd: folder,
    }).catch((error: unknown) => {
      throw new Error((error as { stdout: string }).stdout)
    })
  })

  after(() => rmSync(folder, { recursive: true, force: true }))

  it('passes its own tests', async () => {
    const [name] = requestedDatabases()
    const { url } = servers.get(name!)!
    const environment = {
      ...process.env,
      DATABASE_URL: name === 'sqlite' ? `sqlite:${join(folder, 'database.sqlite')}` : url,
    }
    const { stdout } = await run('npm', ['test'], { cwd: folder, env: environment }).catch((error: unknown) => {
      throw new Error((error as { stdout: string }).stdout)
    })
    expect(stdout).to.match(/^\S+ pass 6$/m)
  })
})
