import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import ts from 'typescript'
import { root } from '../docs/readme.js'

/** A strict program; an editor completes the place that `|` marks. */
const program = (call: string): string => `
import { Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import * as lossless from 'sequelize-lossless'
import { append, increment, remove, set } from 'sequelize-lossless'
class Run extends Model<InferAttributes<Run>, InferCreationAttributes<Run>> {
  declare id: CreationOptional<number>
  declare title: string
  declare progress: { step_a?: 'done'; attempts: number; log?: string[] } | null
}
interface Run extends lossless.Lossless<Run> {}
declare const run: Run
${call}
`

const keys = ['attempts', 'log', 'step_a']

/** What an editor offers, of which the program itself has no name. */
const calls: readonly (readonly [call: string, offered: readonly string[]])[] = [
  [`run.updateJson('progress', [set('|', 1)])`, keys],
  [`run.updateJson('progress', [set('step_a', 'done'), increment('|')])`, keys],
  [`run.updateJson('progress', [append('|', 'x')])`, keys],
  [`lossless.updateJson(run, 'progress', [remove('|')])`, keys],
  [`lossless.updateJson([Run, 1], 'progress', [set('|', 1)], { returning: true })`, keys],
  [`run.atomicUpdate({ title: 'x', progress: [set('|', 1)] })`, keys],
  [`lossless.atomicUpdate([Run, 1], { progress: [set('|', 1)] })`, keys],
  [`lossless.atomicUpsert([Run, 1], { progress: [set('|', 1)] })`, keys],
  [`lossless.updateWhere(Run, { title: 'x' }, { progress: [set('|', 1)] })`, keys],
  [`run.mergeJsonKey('progress', '|', 1)`, keys],
  [`run.mergeJson('progress', { '|': 1 })`, keys],
  [`run.updateJson('|', [])`, ['progress']],
]

describe('an editor', () => {
  const file = join(root, 'build', 'test', 'types', 'completed.ts')
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.Node20,
    types: ['node'],
  }
  let text = ''
  let version = 0
  const { fileExists, readFile, directoryExists, getCurrentDirectory } = ts.sys
  const service = ts.createLanguageService({
    fileExists,
    readFile,
    directoryExists,
    getCurrentDirectory,
    getCompilationSettings: () => options,
    getScriptFileNames: () => [file],
    getScriptVersion: (name) => (name === file ? String(version) : '0'),
    getScriptSnapshot: (name) => ts.ScriptSnapshot.fromString(name === file ? text : readFileSync(name, 'utf8')),
    getDefaultLibFileName: ts.getDefaultLibFilePath,
  })

  function open(call: string): number {
    const position = program(call).indexOf(call) + call.indexOf('|')
    text = program(call.replace('|', ''))
    version++
    return position
  }

  for (const [call, offered] of calls) {
    it(`completes ${call}`, () => {
      const position = open(call)
      const { entries = [] } = service.getCompletionsAtPosition(file, position, {}) ?? {}
      const names = entries.map(({ name }) => name).filter((name) => name !== '')
      expect(names.sort()).to.deep.equal(offered)
    })
  }

  const methods: readonly (readonly [call: string, effect: string, throws: string, example: string])[] = [
    ['run.|withLock(() => 1)', 'while this row is locked', 'LockTimeoutError', 'run.withLock(async (run) =>'],
    ['run.|withOptimisticLock(() => 1)', 'starts again from a\nfresh read', 'StaleRowError', 'run.withOptimisticLock('],
    ['run.|atomicUpdate({ title: "x" })', 'in one atomic statement', 'ConditionNotMetError', 'run.atomicUpdate('],
    ['run.|mergeJsonKey("progress", "attempts", 1)', 'Sets one key', 'JsonShapeError', 'run.mergeJsonKey('],
    ['run.|mergeJson("progress", { attempts: 1 })', 'Merges a patch', 'errors of', 'run.mergeJson('],
    ['run.|updateJson("progress", [])', 'several operations', 'ElementNotFoundError', 'run.updateJson('],
    [
      'run.|compareAndSetJson("progress", "attempts", 1, 2)',
      'equals `expected`',
      'errors of',
      'job.compareAndSetJson(',
    ],
  ]
  for (const [call, effect, throws, example] of methods) {
    it(`shows the effect, the errors and an example of ${call.replace('|', '')}`, () => {
      const { documentation, tags = [], displayParts } = service.getQuickInfoAtPosition(file, open(call))!
      const tag = (name: string): string =>
        tags
          .filter((each) => each.name === name)
          .map(({ text }) => ts.displayPartsToString(text))
          .join('\n')
      expect(ts.displayPartsToString(displayParts)).to.match(
        /^\(method\) lossless\.Lossless<Run>\.|^\(method\) Lossless<Run>/,
      )
      expect(ts.displayPartsToString(documentation)).to.include(effect)
      expect(tag('returns')).to.not.equal('')
      expect(tag('throws')).to.include(throws)
      expect(tag('example')).to.include(example)
    })
  }

  it('names the path that does not fit, and the keys that do', () => {
    open(`void run.updateJson('progress', [set('step_b', 'done')])`)
    const [diagnostic, ...others] = service.getSemanticDiagnostics(file)
    expect(others).to.deep.equal([])
    const lines = ts.flattenDiagnosticMessageText(diagnostic!.messageText, '\n').split('\n')
    expect(lines).to.have.length(3)
    expect(lines[0]).to.include('Completion<"step_a" | "attempts" | "log">')
    expect(lines[2]).to.include('is not assignable to type \'"no such path: step_b"\'')
  })
})
