import { mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { compileFunction } from 'node:vm'
import { expect } from 'chai'
import type { Linter } from 'eslint'
import { rules } from 'eslint-plugin-sequelize-lossless'
import { DataTypes, Model, Sequelize } from 'sequelize'
import type { ModelStatic } from 'sequelize'
import ts from 'typescript'
import { root } from '../docs/readme.js'
import { filesOf, lossy, models, safe } from './corpus.js'
import { edited, lint, programOf, typedFile } from './parsers.js'

const requireInstalled = createRequire(__filename)

const lodash = `declare module 'lodash' {
  export function omit(object: object, keys: string | string[]): any
  export function cloneDeep<T>(value: T): T
  export function set(object: object, path: string | string[], value: unknown): any
  export function merge(...all: object[]): any
}`

interface File {
  readonly title: string
  readonly code: string
  readonly language: 'ts' | 'js'
  readonly line?: number | undefined
  readonly path: string
}

typedFile(models, 'models.ts')
typedFile(lodash, 'lodash.d.ts')
const files: readonly File[] = [...lossy, ...safe].flatMap(filesOf).map((file, index) => ({
  ...file,
  title: `${file.title} (${file.language})`,
  path: file.language === 'ts' ? typedFile(file.code) : join(root, `site-${index}.js`),
}))
const sites = files.filter(({ line }) => line !== undefined).length

function messagesOf({ code, language, path }: File, program?: ts.Program): Linter.LintMessage[] {
  return lint(rules, code, language === 'ts' ? 'types' : 'javascript', path, { program })
}

interface Program {
  run(id: number, k: string): Promise<unknown>
}

const stored = {
  status: 'new',
  settings: { count: 1, log: ['x'], nested: { x: 1 }, old: 1, older: 2, a: 0, b: 0 },
  tags: ['t', 'a', 'b'],
  items: ['a', 'b', 'c'].map((id) => ({ id, n: 0 })),
}

describe('the corpus of call sites', () => {
  let folder: string
  let sequelize: Sequelize
  let Account: ModelStatic<Model>
  let load: (code: string) => Program

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'sequelize-lossless-corpus-'))
    sequelize = new Sequelize({ dialect: 'sqlite', storage: join(folder, 'corpus.sqlite'), logging: false })
    const define = (model: ModelStatic<Model>): ModelStatic<Model> =>
      model.init(
        { status: DataTypes.STRING, settings: DataTypes.JSON, tags: DataTypes.JSON, items: DataTypes.JSON },
        { sequelize, modelName: 'Account', tableName: 'accounts', timestamps: false },
      )
    const evaluate = (code: string, own: Record<string, unknown> = {}): Record<string, unknown> => {
      const { outputText } = ts.transpileModule(code, {
        compilerOptions: { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2022 },
      })
      const exported: Record<string, unknown> = {}
      const requireOwn = (name: string): unknown => own[name] ?? requireInstalled(name)
      const body = compileFunction(outputText, ['require', 'exports']) as (...all: unknown[]) => void
      body(requireOwn, exported)
      return exported
    }
    const classes = evaluate(models)
    Account = define(classes['Account'] as ModelStatic<Model>)
    const own = { './models': { ...classes, sequelize, define } }
    load = (code) => evaluate(code, own) as unknown as Program
    await sequelize.sync()
    await sequelize.query('PRAGMA journal_mode = WAL')
    await sequelize.query('PRAGMA synchronous = OFF')
  })

  after(async () => {
    await sequelize.close()
    rmSync(folder, { recursive: true, force: true })
  })

  /** The row after these runs, one after the other or together. */
  async function rowAfter(program: Program, keys: readonly string[], isTogether = false): Promise<unknown> {
    const row = await Account.create(structuredClone(stored))
    const id = row.get('id') as number
    if (isTogether) await Promise.all(keys.map((key) => program.run(id, key)))
    else for (const key of keys) await program.run(id, key)
    const { status, settings, tags, items } = (await row.reload()).get() as typeof stored
    return { status, settings, tags, items }
  }

  const known = new Map<File, { alone: unknown; serial: unknown[] }>()
  async function naiveRows(file: File): Promise<{ alone: unknown; serial: unknown[] }> {
    const naive = load(file.code)
    const rows = known.get(file) ?? {
      alone: await rowAfter(naive, ['a']),
      serial: [await rowAfter(naive, ['a', 'b']), await rowAfter(naive, ['b', 'a'])],
    }
    known.set(file, rows)
    return rows
  }
  const reports = new Map<File, Linter.LintMessage[]>()
  const reportsIn = (file: File): Linter.LintMessage[] => {
    const found = reports.get(file) ?? messagesOf(file)
    reports.set(file, found)
    return found
  }

  it(`finds at least 90 % of ${sites} sites, and at least 95 % of its reports in ${files.length} files are right`, () => {
    const missed: string[] = []
    const wrong: string[] = []
    for (const file of files) {
      const found = reportsIn(file)
      if (file.line !== undefined && !found.some(({ line }) => line === file.line)) missed.push(file.title)
      for (const { line, message } of found) {
        if (line !== file.line) wrong.push(`${file.title}: line ${line}: ${message}`)
      }
    }
    const right = sites - missed.length
    expect(files.length).to.be.at.least(120)
    expect(right / sites, missed.join('\n')).to.be.at.least(0.9)
    expect(right / (right + wrong.length), wrong.join('\n')).to.be.at.least(0.95)
  })

  it('suggests code for every site that it reports, which compiles, is not reported again, and loses no update', async () => {
    const cured = files.flatMap((file) => {
      const messages = reportsIn(file).filter(({ line }) => line === file.line)
      return messages.flatMap(({ message, suggestions = [] }) => {
        expect(suggestions, `${file.title}: ${message}`).to.not.have.length(0)
        return suggestions.map(({ fix, messageId }) => ({ file, messageId, code: edited(file.code, fix) }))
      })
    })
    const typed = new Map(
      cured.flatMap(({ file, code }, index): [string, string][] =>
        file.language === 'ts' ? [[join(root, `cured-${index}.ts`), code]] : [],
      ),
    )
    typed.set(join(root, 'models.ts'), models).set(join(root, 'lodash.d.ts'), lodash)
    const program = programOf(typed, { noUnusedLocals: true })
    const problems: unknown[] = ts
      .getPreEmitDiagnostics(program)
      .map(({ file, messageText }) => [ts.flattenDiagnosticMessageText(messageText, '\n'), file?.text])
    for (const [index, { file, messageId, code }] of cured.entries()) {
      const path = file.language === 'ts' ? join(root, `cured-${index}.ts`) : file.path
      const again = messagesOf({ ...file, code, path }, program)
      const { alone: expected, serial } = await naiveRows(file)
      const cure = load(code)
      const problem = (what: string, found: unknown): void => {
        problems.push([file.title, messageId, what, found, code])
      }
      if (again.length > 0)
        problem(
          'is reported',
          again.map(({ message }) => message),
        )
      try {
        const alone = await rowAfter(cure, ['a'])
        if (!isSame(alone, expected)) problem('writes another document', { alone, expected })
        const together = await rowAfter(cure, ['a', 'b'], true)
        if (!serial.some((each) => isSame(each, together))) problem('loses an update', { together, serial })
      } catch (error) {
        problem('fails', String(error))
      }
    }
    expect(problems, `${problems.length} of ${cured.length} cures`).to.deep.equal([])
  })
})

function isSame(one: unknown, other: unknown): boolean {
  const text = (value: unknown): string =>
    JSON.stringify(value, (_, each: unknown) =>
      typeof each === 'object' && each !== null && !Array.isArray(each)
        ? Object.fromEntries(Object.entries(each).sort())
        : each,
    )
  return text(one) === text(other)
}
