import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { expect } from 'chai'
import { Linter } from 'eslint'
import type { Rule } from 'eslint'
import ts from 'typescript'
import tseslint from 'typescript-eslint'
import { root } from '../docs/readme.js'

type Parser = 'javascript' | 'typescript' | 'types'

interface Case {
  readonly name: string
  readonly code: string
}

/** The expected reports: their number, or their messages. */
type Found = Case & { readonly errors: number | readonly { readonly message: string }[] }

const linter = new Linter({ cwd: root })
const typedFiles = new Map<string, string>()
/** The files of libraries, which all programs share. */
const parsedFiles = new Map<string, ts.SourceFile | undefined>()
let typed: ts.Program | undefined

/** One program of all files that {@link typedFile} was given. */
function typedProgram(): ts.Program {
  typed ??= programOf(typedFiles)
  return typed
}

/** A program whose files, in the root folder, exist in memory only. */
export function programOf(files: ReadonlyMap<string, string>, more: ts.CompilerOptions = {}): ts.Program {
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.Node20,
    types: ['node'],
    ...more,
  }
  const host = ts.createCompilerHost(options)
  const real = { ...host }
  host.readFile = (file) => files.get(file) ?? real.readFile(file)
  host.fileExists = (file) => files.has(file) || real.fileExists(file)
  host.getSourceFile = (file, language, ...others) => {
    const text = files.get(file)
    if (text !== undefined) return ts.createSourceFile(file, text, language, true)
    const parsed = parsedFiles.get(file) ?? real.getSourceFile(file, language, ...others)
    parsedFiles.set(file, parsed)
    return parsed
  }
  return ts.createProgram([...files.keys()], options, host)
}

/** Adds a file to the program that the typed cases share. */
export function typedFile(code: string, name = `case-${typedFiles.size}.ts`): string {
  const file = join(root, name)
  typedFiles.set(file, code)
  // A worker of `mocha --parallel` loads a test file after it has run another one.
  typed = undefined
  return file
}

/** What a rule reports in a file. */
export function lint(
  rules: Readonly<Record<string, Rule.RuleModule>>,
  code: string,
  parser: Parser,
  file: string,
  {
    settings = {},
    program = undefined as ts.Program | undefined,
  }: { settings?: Linter.Config['settings']; program?: ts.Program | undefined } = {},
): Linter.LintMessage[] {
  const config: Linter.Config = {
    files: ['**/*.ts', '**/*.js', '**/*.mjs'],
    plugins: { lossless: { rules } },
    rules: Object.fromEntries(Object.keys(rules).map((name) => [`lossless/${name}`, 'error'])),
    ...(settings && { settings }),
  }
  if (parser !== 'javascript') {
    const programs = parser === 'types' ? { programs: [program ?? typedProgram()] } : {}
    config.languageOptions = { parser: tseslint.parser, parserOptions: programs }
  }
  return linter.verify(code, [config], { filename: file })
}

/** The code with one edit applied. */
export function edited(code: string, { range, text }: Rule.Fix): string {
  return code.slice(0, range[0]) + text + code.slice(range[1])
}

function tester(parser: Parser): {
  run(title: string, rule: Rule.RuleModule, cases: { valid: readonly Case[]; invalid: readonly Found[] }): void
} {
  return {
    run(title, rule, { valid, invalid }) {
      const all: Found[] = [...valid.map((each) => ({ ...each, errors: 0 })), ...invalid]
      const cases = all.map((each) => ({
        ...each,
        file: parser === 'types' ? typedFile(each.code) : join(root, parser === 'javascript' ? 'case.js' : 'case.ts'),
      }))
      it(`${title}: ${valid.length} silent, ${invalid.length} found`, () => {
        const wrong: unknown[] = []
        for (const { name, code, errors, file } of cases) {
          const messages = lint({ rule }, code, parser, file)
          const found = messages.map(({ message }) => message)
          const isExpected =
            typeof errors === 'number'
              ? found.length === errors
              : isDeepStrictEqual(
                  found,
                  errors.map(({ message }) => message),
                )
          if (!isExpected) wrong.push({ name, errors, found })
          for (const { fix } of messages.flatMap(({ suggestions = [] }) => suggestions)) {
            const broken = lint({}, edited(code, fix), parser === 'javascript' ? parser : 'typescript', file)
            if (broken.length > 0) wrong.push({ name, broken, edited: edited(code, fix) })
          }
        }
        expect(wrong).to.deep.equal([])
      })
    },
  }
}

/** The three ways in which a file is read: as JavaScript, as TypeScript, and as TypeScript with its types. */
export const parsers: Readonly<Record<Parser, ReturnType<typeof tester>>> = {
  javascript: tester('javascript'),
  typescript: tester('typescript'),
  types: tester('types'),
}

/** What a typed case may name. */
export const declarations = `
import { Model, Transaction } from 'sequelize'
import type { CreationOptional, ForeignKey, NonAttribute, Sequelize } from 'sequelize'
import { lock, withLock, withLocks, withOptimisticLock } from 'sequelize-lossless'
declare class Step extends Model { id: CreationOptional<number>; title: string; settings: { open?: boolean } }
declare class WorkflowRun extends Model {
  id: number
  title: string
  count: number
  startedAt: Date
  progress: Record<string, unknown> & { done?: { at?: number }; log?: string[]; count?: number }
  maybe: { a?: number } | null
  tags: string[]
  any: any
  slug: CreationOptional<string>
  stepId: ForeignKey<Step['id']>
  options: CreationOptional<{ a?: number }>
  summary: NonAttribute<{ a?: number }>
  steps: Step[]
  first: Step
  summarize(): string
}
declare class Archive extends Model { progress: Record<string, unknown> }
declare const sequelize: Sequelize
declare const _: any
declare const mutex: any
declare const transaction: Transaction
declare const options: { transaction: Transaction }
`
