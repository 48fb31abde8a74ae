import { existsSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { expect } from 'chai'
import mermaid from 'mermaid'
import * as lossless from 'sequelize-lossless'
import * as race from 'every-order'
import type { Result } from 'every-order'
import ts from 'typescript'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import { allCodeBlocks, codeBlocks, pages, problemsOf, promisedProgress, readme, root } from './readme.js'

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
  it('shows a bug that loses the key it names, and a cure that keeps both keys', async () => {
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
    it('shows the SQL that is sent, in the guides to documents and to locks', async () => {
      const { sequelize, log } = database.connect()
      const Runs = await createRuns(sequelize, { tableName: 'WorkflowRuns', createdAt: false })
      Runs.removeAttribute('title')
      const run = await Runs.create({ progress: {} })
      await run.withLock(() => undefined)
      log.length = 0
      await run.mergeJsonKey('progress', 'step_a', 'done')
      await run.withLock((row) => row.update({ progress: {} }))
      const sent = log.join(' ').replace('`updatedAt` AS `updatedAt`', '…')
      const shown = ['documents', 'locks']
        .flatMap((page) => codeBlocks(`docs/guides/${page}.md`, 'sql'))
        .join(' ')
        .replaceAll('-- MySQL', '')
      expect(words(shown)).to.equal(words(sent))
    })

    it('tests a handler in every order as the guide says: fails with the timeline shown, and passes with the cure', async () => {
      const { sequelize } = database.connect()
      const Runs = await createRuns(sequelize, { tableName: 'WorkflowRuns', createdAt: false })
      Runs.removeAttribute('title')
      const blocks = codeBlocks('docs/guides/race-testing.md', 'ts')
      const red = blocks.find((block) => block.includes('await explore({'))!
      const line = /^const finish.*$/m.exec(blocks[blocks.indexOf(red) + 1]!)![0]
      const green = red.replace(/^const finish[^]*?^}$/m, line)
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
      const result = (await rejection(prove(red), race.LostUpdateError)).result
      expect([result.failures.length, result.schedules]).to.deep.equal([2, 4])
      const shown = codeBlocks('docs/guides/race-testing.md', 'text').find((text) => text.includes('replay: v1:'))!
      const withoutKeys = (text: string): string =>
        text
          .replace(/\b(id =|row) \d+/g, '$1 1')
          .replace(/ +/g, ' ')
          .trim()
      expect(withoutKeys(race.timeline(result.first!, 100))).to.equal(withoutKeys(shown))
      expect(await prove(green)).to.deep.include({ verdict: 'kept', failures: [] })
    })
  }
})

describe('the README', () => {
  it('compiles, each block of TypeScript of README and of the site with the imports that stand before it on its page', () => {
    const { model } = readme()
    const job = `export declare class Job extends Model<InferAttributes<Job>, InferCreationAttributes<Job>> {
      stats: { attempts?: number; log?: { lines?: string[]; level?: string }; tags?: string[]; owner?: string; phase?: string; lockedUntil?: string; fence?: number; items?: { id: number; isDone?: boolean; notes?: string[] }[] }
      watchers: { id: number; role: string }[] | null
      status: string
      runs: number
    }
    export interface Job extends Lossless<Job> {}
    export { sequelize }`
    const files: Record<string, string> = { 'given.ts': `${model}\n${job}` }
    for (const page of pages()) Object.assign(files, modulesOf(page))
    expect(Object.keys(files)).to.have.length.greaterThan(50)
    expect(problemsOf(files)).to.deep.equal([])
  })

  it('parses, each block of JavaScript of README and of the site', () => {
    const blocks = pages().flatMap((page) => codeBlocks(page, 'js'))
    expect(blocks).to.have.length.greaterThan(4)
    const options = { reportDiagnostics: true, compilerOptions: { allowJs: true, module: ts.ModuleKind.ESNext } }
    const problems = blocks.flatMap(
      (code) => ts.transpileModule(code, { ...options, fileName: 'block.js' }).diagnostics,
    )
    expect(problems.map((problem) => problem?.messageText)).to.deep.equal([])
  })

  it('has at most 180 lines', () => {
    expect(readText().trimEnd().split('\n')).to.have.length.of.at.most(180)
  })

  it('links only to other sites and to its own chapters, which npm can show', () => {
    const anchors = anchorsOf(readText())
    for (const link of linksOf(readText())) {
      if (link.startsWith('#')) expect(anchors).to.include(link.slice(1))
      else expect(link).to.match(/^https:\/\//)
    }
  })

  it('links, as the changelog and every page do, to pages, chapters and files that exist', () => {
    const { homepage, repository } = JSON.parse(readText('docs/package.json')) as Record<string, string>
    const missing: string[] = []
    for (const page of [...pages(), 'CHANGELOG.md']) {
      for (const link of linksOf(readText(page))) {
        const isHere = !link.startsWith('https:')
        const isSite = link.startsWith(homepage!)
        if (!isHere && !isSite) {
          const [, path] = link.split(/\/(?:blob|tree)\/main\//)
          if (link.startsWith(`${repository!}/`) && !existsSync(join(root, path!))) missing.push(`${page}: ${link}`)
          continue
        }
        const [path, anchor] = (isSite ? link.slice(homepage!.length) : link).split('#')
        const target = isSite ? `docs/${path! || 'index'}.md` : path ? posix.join(dirname(page), path) : page
        // TypeDoc writes these pages when the site is built, which checks links to them.
        if (target.startsWith('docs/api/')) continue
        const exists = existsSync(join(root, target))
        if (!exists || (anchor !== undefined && !anchorsOf(readText(target)).includes(anchor)))
          missing.push(`${page}: ${link}`)
      }
    }
    expect(missing).to.deep.equal([])
  })

  it('has the bug, the fix and the databases in its first 40 lines', () => {
    const top = readText().split('\n').slice(0, 40).join('\n')
    expect(top)
      .to.include('step_a is gone')
      .and.include('mergeJsonKey')
      .and.include('withLock')
      .and.include('MySQL 9.7')
  })

  it('has diagrams that Mermaid can parse', async () => {
    const diagrams = pages().flatMap((page) => codeBlocks(page, 'mermaid'))
    expect(diagrams).to.have.length.of.at.least(1)
    for (const diagram of diagrams) await mermaid.parse(diagram)
  })

  it('lists every error class with its code', () => {
    const guide = readText('docs/guides/errors.md')
    const classes = Object.entries(lossless).filter(([name]) => /^[A-Z]\w*Error$/.test(name))
    expect(classes).to.have.length.greaterThan(8)
    for (const [name] of classes) expect(guide).to.match(new RegExp(`^### \`[A-Z_]+\`: \`${name}\`$`, 'm'))
  })

  it('runs only scripts that exist', () => {
    const { scripts } = JSON.parse(readText('package.json')) as { scripts: Record<string, string> }
    const commands = [...pages(), 'CONTRIBUTING.md'].flatMap((file) => [
      ...readText(file).matchAll(/`npm (?:run )?([\w:]+)|^npm (?:run )?([\w:]+)/gm),
    ])
    expect(commands).to.have.length.greaterThan(10)
    for (const [, inText, inBlock] of commands) {
      expect(['ci', 'install', 'publish', ...Object.keys(scripts)]).to.include(inText ?? inBlock)
    }
  })
})

/**
 * The modules of a page's TypeScript: a file for each block that has a name or exports something; any other block is the body of a
 * function, with the imports of this block and of those before it.
 */
function modulesOf(page: string): Record<string, string> {
  const folder = page.replace(/\.md$/, '')
  // Its blocks are parts of one module, which hot-rows.test.ts runs.
  if (page === 'docs/guides/hot-rows.md') {
    const given = `import { Model } from 'sequelize'
      import type { InferAttributes, InferCreationAttributes, Sequelize } from 'sequelize'
      export declare const sequelize: Sequelize
      export declare class WorkflowRun extends Model<InferAttributes<WorkflowRun>, InferCreationAttributes<WorkflowRun>> {
        progress: Record<string, string>
      }`
    const code = codeBlocks(page, 'ts').join('\n')
    const module = `import { sequelize, WorkflowRun } from './given.js'\n${code}`
    return { [join(folder, 'given.ts')]: given, [join(folder, 'module.ts')]: module }
  }
  const imports = new Map<string, Set<string>>()
  const modules: Record<string, string> = {}
  const [first, second, ...rest] = allCodeBlocks(page).filter(({ language }) => language === 'ts')
  // The cure continues the lost update.
  const isStory = first && second && first.code.includes('step_a is gone')
  const blocks = isStory ? [{ ...first, code: first.code + second.code }, ...rest] : [first, second, ...rest]
  for (const [index, block] of blocks.entries()) {
    if (!block) continue
    const { name, code } = block
    if (name || /^export /m.test(code)) {
      modules[join(folder, name ?? `block${index}.ts`)] = code
      continue
    }
    for (const [, names, source] of code.matchAll(/^import (?:type )?\{(.*)\} from '(.*)'$/gm)) {
      const known = imports.get(source!) ?? new Set<string>()
      imports.set(source!, known)
      for (const each of names!.split(',').map((name) => name.trim())) {
        // A later block may take the same name from another package.
        for (const others of imports.values()) others.delete(each)
        known.add(each)
      }
    }
    const own = [...imports].map(([source, names]) => `import { ${[...names].join(', ')} } from '${source}'`)
    const given = ['WorkflowRun', 'Job', 'sequelize'].join(', ')
    const up = '../'.repeat(folder.split('/').length)
    const needed =
      /\blossless\(/.test(code) && !imports.has('sequelize-lossless')
        ? ["import { lossless } from 'sequelize-lossless'"]
        : []
    modules[join(folder, `block${index}.ts`)] = [
      ...own,
      ...needed,
      `import { ${given} } from '${up}given.js'`,
      'export async function block(run: WorkflowRun, job: Job, id: number): Promise<void> {',
      code.replace(/^import .*$/gm, ''),
      '}',
    ].join('\n')
  }
  return modules
}

/** The targets of all links in Markdown, outside of code. */
function linksOf(markdown: string): string[] {
  const text = withoutCode(markdown)
  const inline = [...text.matchAll(/\]\(([^()\s]+)\)/g)].map(([, link]) => link!)
  const references = [...text.matchAll(/^\[\w+\]: (\S+)$/gm)].map(([, link]) => link!)
  return [...inline, ...references].map((link) => (link.startsWith('http:') ? link.replace('http:', 'https:') : link))
}

/** The anchors of all headings, as VitePress and GitHub make them for headings of ASCII. */
function anchorsOf(markdown: string): string[] {
  return [...withoutCode(markdown).matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/g, '-')
      .replaceAll(/^-|-$/g, ''),
  )
}

function withoutCode(markdown: string): string {
  return markdown.replaceAll(/^```[^]*?^```$/gm, '')
}

function readText(file = 'README.md'): string {
  return ts.sys.readFile(join(root, file))!
}

function words(sql: string): string {
  return sql.replaceAll(';', ' ').replace(/\s+/g, ' ').trim()
}
