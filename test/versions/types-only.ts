import { execFile } from 'node:child_process'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { root } from '../docs/readme.js'

const run = promisify(execFile)

const program = `
import { DataTypes, Model, Sequelize } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import { increment, lossless, mergeJsonKey, updateJson, withLock } from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'
export * as audit from 'sequelize-lossless/audit'
export * as race from 'every-order'

class Run extends Model<InferAttributes<Run>, InferCreationAttributes<Run>> {
  declare id: CreationOptional<number>
  declare progress: { step?: 'done'; n?: number }
}
interface Run extends Lossless<Run> {}
Run.init(
  { id: { type: DataTypes.INTEGER, primaryKey: true }, progress: DataTypes.JSON },
  { sequelize: new Sequelize('sqlite::memory:') },
)
lossless(Run)

export async function main(run: Run): Promise<void> {
  await run.mergeJsonKey('progress', 'step', 'done')
  // @ts-expect-error -- there is no such key
  await run.mergeJsonKey('progress', 'other', 'done')
  // @ts-expect-error -- the value has another type
  await mergeJsonKey([Run, 1], 'progress', 'n', 'done')
  await updateJson([Run, 1], 'progress', [increment('n')])
  await withLock([Run, 1], (locked) => locked.save())
}
`

/** Files of test/types that are compiled, never run. */
const expectations = ['types.test.ts', 'operations.test.ts']

// Run by `npm run test:versions` with another version of TypeScript.
describe('the types of the packed tarballs', () => {
  let folder: string

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'sequelize-lossless-types-'))
    const npm = (...words: string[]): Promise<{ stdout: string }> => run('npm', words, { cwd: folder })
    const { stdout } = await npm('pack', root, join(root, 'packages/every-order'), '--json', '--ignore-scripts')
    const tarballs = (JSON.parse(stdout) as { filename: string }[]).map(({ filename }) => `./${filename}`)
    const { devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
      devDependencies: Record<string, string>
    }
    const others = ['sequelize', '@types/node', 'expect-type'].map((name) => `${name}@${devDependencies[name]!}`)
    writeFileSync(join(folder, 'package.json'), '{ "private": true }')
    await npm('install', '--no-audit', '--no-fund', '--prefer-offline', ...tarballs, ...others)
    writeFileSync(join(folder, 'program.ts'), program)
    for (const file of expectations) copyFileSync(join(root, 'test', 'types', file), join(folder, file))
  })

  after(() => rmSync(folder, { recursive: true, force: true }))

  for (const module of ['node16', 'nodenext']) {
    it(`have no error for module ${module}, with skipLibCheck: false`, async () => {
      const compiler = join(process.env['LANE_FOLDER']!, 'node_modules', 'typescript', 'bin', 'tsc')
      const options = ['--noEmit', '--strict', '--skipLibCheck', 'false', '--target', 'es2022', '--types', 'node']
      const files = ['program.ts', ...expectations]
      await run(process.execPath, [compiler, ...options, '--module', module, ...files], { cwd: folder }).catch(
        (error: unknown) => {
          throw new Error((error as { stdout: string }).stdout)
        },
      )
    })
  }
})
