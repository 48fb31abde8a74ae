import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { expect } from 'chai'
import { ESLint } from 'eslint'
import type { Linter } from 'eslint'
import * as plugin from 'eslint-plugin-sequelize-lossless'
import { codeBlocks, root } from '../docs/readme.js'
import { edited } from './parsers.js'

const folder = join(root, 'packages', 'eslint-plugin-sequelize-lossless')
const code = `async function step(id) {
  const run = await WorkflowRun.findByPk(id, { lock: true })
  await run.update({ progress: { ...run.progress, a: 1 } })
}
void step(1)`
const page = 'packages/eslint-plugin-sequelize-lossless/README.md'
const both = ['sequelize-lossless/lock-needs-transaction', 'sequelize-lossless/no-json-read-modify-write']

const typed = `import { Model } from 'sequelize'
export class WorkflowRun extends Model { declare progress: { step_a?: 'done' } }
export async function finish(run: WorkflowRun) {
  await run.update({ progress: { ...run.progress, step_a: 'done' } })
}`

/** What ESLint reports in a new project that has this config and these files. */
async function lintProject(config: string, files: Readonly<Record<string, string>>): Promise<ESLint.LintResult[]> {
  const project = join(root, 'build', 'fresh-project')
  rmSync(project, { recursive: true, force: true })
  const tsconfig = JSON.stringify({ compilerOptions: { strict: true, module: 'node20' }, include: ['**/*.ts'] })
  for (const [name, text] of Object.entries({ 'eslint.config.mjs': config, 'tsconfig.json': tsconfig, ...files })) {
    mkdirSync(dirname(join(project, name)), { recursive: true })
    writeFileSync(join(project, name), text)
  }
  return new ESLint({ cwd: project }).lintFiles(['.'])
}

/** The names of the rules that a config finds broken. */
async function broken(text: string, ...config: Linter.Config[]): Promise<(string | null)[]> {
  const [result] = await new ESLint({ cwd: root, overrideConfigFile: true, overrideConfig: config }).lintText(text)
  return result!.messages.map(({ ruleId }) => ruleId)
}

describe('the plugin for ESLint', () => {
  it('has its rules in its recommended config', async () => {
    expect(await broken(code, plugin.configs.recommended)).to.deep.equal(both)
  })

  it('can be registered beside its config, which has the same plugin', async () => {
    // What `import lossless from` gives, in ESM.
    const lossless = (await import('eslint-plugin-sequelize-lossless')).default
    const named = {
      plugins: { 'sequelize-lossless': lossless as ESLint.Plugin },
      rules: { [both[0]!]: 'off' },
    } as const
    expect(await broken(code, lossless.configs.recommended, named)).to.deep.equal([both[1]])
  })

  it('has its name and version, by which ESLint distinguishes caches', () => {
    const { name, version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Record<string, string>
    expect(plugin.meta).to.deep.equal({ name, version })
  })

  it('loads no other package', () => {
    const loaded = (entry: string): string[] =>
      JSON.parse(
        execFileSync(
          process.execPath,
          ['-e', `require('${entry}'); console.log(JSON.stringify(Object.keys(require.cache)))`],
          { cwd: root, encoding: 'utf8' },
        ),
      ) as string[]
    const dist = join(folder, 'dist')
    expect(loaded('eslint-plugin-sequelize-lossless').filter((file) => !file.startsWith(dist))).to.deep.equal([])
  })

  it('reads its settings: CLS, hooks and folders that are left out', async () => {
    const settings = (own: object): Linter.Config => ({ settings: { 'sequelize-lossless': own } })
    expect(await broken(code, plugin.configs.recommended, settings({ cls: true }))).to.deep.equal([])
    const eslint = (own: object): ESLint =>
      new ESLint({
        cwd: root,
        overrideConfigFile: true,
        overrideConfig: [plugin.configs.recommended, settings(own)],
        fix: true,
      })
    const naive = code.replace(', { lock: true }', '')
    const filePath = join(root, 'migrations', 'one.js')
    for (const text of [naive, code, "Run.update({ 'data.a': 1 }, { where: {} })"]) {
      expect((await eslint({}).lintText(text, { filePath }))[0]!.messages).to.deep.equal([])
    }
    expect((await eslint({}).lintText(naive))[0]!.output).to.equal(undefined)
    const [fixed] = await eslint({ hooks: false }).lintText(naive)
    expect(fixed!.output).to.include("await atomicUpdate(run, { progress: [set('a', 1)] })")
    expect(fixed!.messages).to.deep.equal([])
  })

  it('writes the key of a dotted path in Model.update() as a string of JavaScript', async () => {
    const text = `async function pause(id) {
  await Account.update({ "settings.it's": 1 }, { where: { id } })
}
void pause(1)`
    const eslint = new ESLint({ cwd: root, overrideConfigFile: true, overrideConfig: plugin.configs.recommended })
    const [result] = await eslint.lintText(text)
    expect(result!.messages.map(({ message }) => message)).to.deep.equal([
      'Account.update() writes an object with only this key as the whole "settings" column: all its other keys are ' +
        "lost. Write await updateWhere(Account, where, { settings: [set('it\\'s', …)] }).",
    ])
  })

  it('adds and removes names in one import, and takes a name that is free', async () => {
    const fixed = async (imports: string, value: string): Promise<string> => {
      const text = `${imports}
export async function step(id) {
  const run = await WorkflowRun.findByPk(id)
  await run.update({ progress: ${value} })
}`
      const eslint = new ESLint({ cwd: root, overrideConfigFile: true, overrideConfig: plugin.configs.recommended })
      const [result] = await eslint.lintText(text)
      const { fix } = result!.messages[0]!.suggestions![0]!
      return edited(text, fix).split('\nexport ')[0]!
    }
    const omitted = "omit(cloneDeep(run.progress), 'a')"
    const own = "import { atomicUpdate, remove } from 'sequelize-lossless'"
    const names: readonly (readonly [before: string, after: string, value?: string])[] = [
      ["import { map, cloneDeep, omit } from 'lodash'\nmap()", "import { map } from 'lodash'\n" + own + '\nmap()'],
      ["import { cloneDeep, map, omit, } from 'lodash'\nmap()", "import { map } from 'lodash'\n" + own + '\nmap()'],
      ["import _, { cloneDeep, omit } from 'lodash'\n_()", "import _ from 'lodash'\n" + own + '\n_()'],
      ["import omit, { map, cloneDeep } from 'lodash'\nmap()", "import { map } from 'lodash'\n" + own + '\nmap()'],
      ["import omit, * as _ from 'lodash'\nconst { cloneDeep } = _", "import * as _ from 'lodash'\n" + own],
      [
        "import { cloneDeep, omit, matching } from 'sequelize-lossless'\nmatching()",
        "import { matching, atomicUpdate, remove } from 'sequelize-lossless'\nmatching()",
      ],
      ["import { cloneDeep, omit } from 'sequelize-lossless'", own],
      [
        "import { set } from './a'\nconst setJson = 1, setJson2 = set()",
        "import { set } from './a'\nimport { atomicUpdate, set as setJson3 } from 'sequelize-lossless'\nconst setJson = 1, setJson2 = set()",
        '{ ...run.progress, a: 1 }',
      ],
      [
        "const { atomicUpdate: write, append } = require('sequelize-lossless')",
        "const { atomicUpdate: write, append, set } = require('sequelize-lossless')",
        '{ ...run.progress, a: 1 }',
      ],
    ]
    for (const [before, after, value = omitted] of names) expect(await fixed(before, value)).to.equal(after)
  })

  it('reports in a fresh project with the config of its page, in .ts and in .js', async () => {
    const results = await lintProject(codeBlocks(page, 'js')[0]!, { 'typed.ts': typed, 'plain.js': code })
    const found = results.map(({ filePath, messages }) => [basename(filePath), ...messages.map(({ ruleId }) => ruleId)])
    expect(found.filter(([, ...ids]) => ids.length > 0)).to.deep.equal([
      ['plain.js', ...both],
      ['typed.ts', both[1]],
    ])
  })

  it('warns in a fresh project with the config and the text of the guide to existing code', async () => {
    const guide = 'docs/guides/existing-code.md'
    const results = await lintProject(codeBlocks(guide, 'js')[0]!, { 'src/finish.ts': typed })
    const printed = results.flatMap(({ filePath, messages }) =>
      messages.map(
        ({ line, column, severity, message, ruleId }) =>
          `src/${basename(filePath)}\n  ${line}:${column}  ${severity === 1 ? 'warning' : 'error'}  ${message.replace(/\.$/, '')}  ${ruleId}`,
      ),
    )
    expect(printed).to.deep.equal([codeBlocks(guide, 'text')[0]!.trimEnd()])
  })

  it('reports in the code blocks of its page what the page says', async () => {
    const [config, ...blocks] = codeBlocks(page, 'js')
    expect(config).to.include('lossless.configs.recommended')
    expect(blocks.length).to.be.above(3)
    for (const block of blocks) {
      const isFound = block.startsWith('// found')
      expect(block).to.match(/^\/\/ (found|silent)/)
      for (const part of block.split('\n\n')) {
        const messages = await broken(
          `async function step(id, step) {\n${part}\n}\nvoid step`,
          plugin.configs.recommended,
        )
        expect(messages, part).to.have.length(isFound ? 1 : 0)
      }
    }
  })
})
