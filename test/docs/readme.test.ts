import { join } from 'node:path'
import { expect } from 'chai'
import mermaid from 'mermaid'
import * as lossless from 'sequelize-lossless'
import * as race from 'sequelize-lossless/race'
import type { Result } from 'sequelize-lossless/race'
import ts from 'typescript'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import { codeBlocks, problemsOf, promisedProgress, readme, root } from './readme.js'

type Runnable = (...values: unknown[]) => Promise<{ toJSON(): { progress: unknown } }>
const AsyncFunction = (async () => {}).constructor as new (...code: string[]) => Runnable

/** Turns a block of the page into a function of what the page takes for granted. */
function runnable(block: string): Runnable {
  const { outputText } = ts.transpileModule(`${block}\nreturn a`, {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
  })
  return new AsyncFunction('WorkflowRun', 'id', 'lossless', outputText)
}

eachDatabase('the README', (database) => {
  it('loses the key that it says is lost, and keeps both with the cure', async () => {
    const { lostUpdate, cure } = readme()
    const Runs = await createRuns(database.connect().sequelize)
    const { id } = await Runs.create({ progress: {} })
    const lost = await runnable(lostUpdate)(Runs, id, lossless.lossless)
    expect(promisedProgress(lostUpdate)).to.deep.equal({ step_b: 'done' })
    expect(lost.toJSON().progress).to.deep.equal(promisedProgress(lostUpdate))
    await Runs.update({ progress: {} }, { where: { id } })
    const kept = await runnable(lostUpdate + cure)(Runs, id, lossless.lossless)
    expect(promisedProgress(cure)).to.deep.equal({ step_a: 'done', step_b: 'done' })
    expect(kept.toJSON().progress).to.deep.equal(promisedProgress(cure))
  })

  if (database.name === 'mysql') {
    it('shows the SQL that is sent', async () => {
      const { sequelize, log } = database.connect()
      const Runs = await createRuns(sequelize, { tableName: 'WorkflowRuns', createdAt: false })
      Runs.removeAttribute('title')
      const run = await Runs.create({ progress: {} })
      await run.withLock(() => undefined)
      log.length = 0
      await run.mergeJsonKey('progress', 'step_a', 'done')
      await run.withLock((row) => row.update({ progress: {} }))
      const sent = log.join(' ').replace('`updatedAt` AS `updatedAt`', '…')
      const shown = codeBlocks('README.md', 'sql').join(' ').replaceAll('-- MySQL', '')
      expect(words(shown)).to.equal(words(sent))
    })

    it('ends the chapter on proofs as it says: red with the timeline shown, and green with the line that mends it', async () => {
      const { sequelize } = database.connect()
      const Runs = await createRuns(sequelize, { tableName: 'WorkflowRuns', createdAt: false })
      Runs.removeAttribute('title')
      const blocks = readme().rest
      const red = blocks.find((block) => block.includes('await explore({'))!
      const green = red.replace(/^const finish[^]*?^}$/m, blocks[blocks.indexOf(red) + 1]!.trim())
      const prove = (block: string): Promise<Result> => {
        const { outputText } = ts.transpileModule(block.replace(/^import .*$/gm, '') + '\nreturn result', {
          compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
        })
        const names = { sequelize, WorkflowRun: Runs, ...lossless, ...race }
        const run = new AsyncFunction(...Object.keys(names), outputText) as unknown as (
          ...values: unknown[]
        ) => Promise<Result>
        return run(...Object.values(names))
      }
      const result = (await rejection(prove(red), race.LostUpdateError)).result as Result
      expect([result.failures.length, result.schedules]).to.deep.equal([2, 4])
      const shown = codeBlocks('README.md', 'text').find((text) => text.includes('replay: v1:'))!
      const withoutKeys = (text: string): string =>
        text
          .replace(/\bid = \d+/g, 'id = 1')
          .replace(/ +/g, ' ')
          .trim()
      expect(withoutKeys(race.timeline(result.first!, 100))).to.equal(withoutKeys(shown))
      expect(await prove(green)).to.deep.include({ verdict: 'kept', failures: [] })
    })
  }
})

describe('the README', () => {
  it('compiles, each block with what stands before it', () => {
    const { lostUpdate, cure, model, rest } = readme()
    const isImport = /^import .*$/gm
    const code = [lostUpdate + cure, ...rest]
    const imports = code.flatMap((block) => block.match(isImport) ?? [])
    const blocks = code.map(
      (block, index) =>
        `export async function block${index}(run: WorkflowRun, job: Job, id: number): Promise<void> {\n${block.replace(isImport, '')}\n}`,
    )
    const job = `declare class Job extends Model<InferAttributes<Job>, InferCreationAttributes<Job>> {
      stats: { attempts?: number; log?: { lines?: string[] }; tags?: string[]; owner?: string; phase?: string; lockedUntil?: string; fence?: number; items?: { id: number; isDone?: boolean; notes?: string[] }[] }
      watchers: { id: number; role: string }[] | null
      status: string
      runs: number
    }
    interface Job extends Lossless<Job> {}`
    const problems = problemsOf('readme', { 'readme.ts': [...imports, model, job, ...blocks].join('\n') })
    expect(problems).to.deep.equal([])
    expect(blocks).to.have.length.greaterThan(4)
  })

  it('has the bug, the fix and the databases in its first 40 lines', () => {
    const top = readText().split('\n').slice(0, 40).join('\n')
    expect(top)
      .to.include('step_a is gone')
      .and.include('mergeJsonKey')
      .and.include('withLock')
      .and.include('MySQL 9.7')
  })

  it('quotes what the example prints', () => {
    const [quoted] = codeBlocks('README.md', 'text')
    const [printed] = codeBlocks('examples/7-test-it/README.md', 'text')
    expect(printed).to.include(quoted!.trim())
  })

  it('draws what Mermaid can read', async () => {
    const diagrams = codeBlocks('README.md', 'mermaid')
    expect(diagrams).to.have.length.of.at.least(1)
    for (const diagram of diagrams) await mermaid.parse(diagram)
  })

  it('lists every error class with its code', () => {
    const table = readText()
    const classes = Object.entries(lossless).filter(([name]) => /^[A-Z]\w*Error$/.test(name))
    expect(classes).to.have.length.greaterThan(8)
    for (const [name] of classes) expect(table).to.match(new RegExp(`^\\| \`[A-Z_]+\` +\\| \`${name}\``, 'm'))
  })

  it('runs only scripts that there are', () => {
    const { scripts } = JSON.parse(readText('package.json')) as { scripts: Record<string, string> }
    const commands = ['README.md', 'CONTRIBUTING.md'].flatMap((file) => [
      ...readText(file).matchAll(/npm (?:run )?(\w+)/g),
    ])
    for (const [, name] of commands) expect(['ci', 'install', ...Object.keys(scripts)]).to.include(name)
  })
})

function readText(file = 'README.md'): string {
  return ts.sys.readFile(join(root, file))!
}

function words(sql: string): string {
  return sql.replaceAll(';', ' ').replace(/\s+/g, ' ').trim()
}
