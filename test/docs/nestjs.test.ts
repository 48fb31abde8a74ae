import { execFile } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect } from 'chai'
import ts from 'typescript'
import { requestedDatabases } from '../databases/index.js'
import { servers } from '../each-database.js'
import { allCodeBlocks, root } from './readme.js'

const run = promisify(execFile)

/** Starts the application of the page, and prints what its service and its interceptor do. */
const program = `
import 'reflect-metadata'
import { defer, lastValueFrom } from 'rxjs'
import { OptimisticLockError } from 'sequelize'
import { Sequelize } from 'sequelize-typescript'
import { start } from './main.js'
import { RetryTransactionInterceptor } from './retry-transaction.interceptor.js'
import { RunsService } from './runs.service.js'
import { WorkflowRun } from './workflow-run.model.js'

async function main() {
  const application = await start()
  const sequelize = application.get(Sequelize)
  sequelize.options.logging = false
  await WorkflowRun.sync({ force: true })
  const { id } = await WorkflowRun.create({ progress: {} })
  const service = application.get(RunsService)
  await service.finish(id, 'step_a')
  const missing = await service.finishAndCount(id, 'step_b')
  let attempts = 0
  const handler = async () => {
    attempts += 1
    await WorkflowRun.create({ progress: {} })
    const run = await WorkflowRun.findByPk(id, { rejectOnEmpty: true })
    if (attempts === 1) throw new OptimisticLockError({ modelName: 'WorkflowRun' })
    return run.progress
  }
  const interceptor = new RetryTransactionInterceptor(sequelize)
  const progress = await lastValueFrom(interceptor.intercept(undefined, { handle: () => defer(handler) }))
  console.log(JSON.stringify({ missing, attempts, progress, rows: await WorkflowRun.count() }))
  await application.close()
}
void main()`

describe('the page for NestJS', () => {
  const folder = join(root, 'build', 'nestjs')

  before(() => {
    mkdirSync(folder, { recursive: true })
    const files = allCodeBlocks('docs/start/nestjs.md').filter(({ language }) => language === 'ts')
    expect(files).to.have.length(5)
    for (const { name, code } of [...files, { name: 'program.ts', code: program }]) {
      const { outputText } = ts.transpileModule(code, {
        compilerOptions: {
          target: ts.ScriptTarget.ES2022,
          module: ts.ModuleKind.CommonJS,
          experimentalDecorators: true,
          emitDecoratorMetadata: true,
        },
      })
      writeFileSync(join(folder, name!.replace(/ts$/, 'js')), outputText)
    }
  })

  after(() => rmSync(folder, { recursive: true }))

  for (const name of requestedDatabases()) {
    it(`has an application that keeps both steps, and retries a handler in a new transaction, on ${name}`, async () => {
      const url = name === 'sqlite' ? `sqlite:${join(folder, 'test.sqlite')}` : servers.get(name)!.url
      const env = { ...process.env, DATABASE_URL: url }
      const { stdout } = await run(process.execPath, [join(folder, 'program.js')], { cwd: root, env })
      expect(JSON.parse(stdout.trim().split('\n').at(-1)!)).to.deep.equal({
        missing: 0,
        attempts: 2,
        progress: { step_a: 'done', step_b: 'done' },
        rows: 2,
      })
    })
  }
})
