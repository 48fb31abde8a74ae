import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import ts from 'typescript'

export const root = join(__dirname, '..', '..', '..')

/** The code blocks of a Markdown file, by their language. */
export function codeBlocks(file: string, language: string): string[] {
  const text = readFileSync(join(root, file), 'utf8')
  return [...text.matchAll(/^```(\w+)\n([^]*?)^```$/gm)]
    .filter((match) => match[1] === language)
    .map((match) => match[2]!)
}

/** The README's TypeScript: the lost update, its cure, the model, and the rest, in the order of the page. */
export function readme(): { lostUpdate: string; cure: string; model: string; rest: string[] } {
  const [lostUpdate, cure, model, ...rest] = codeBlocks('README.md', 'ts')
  return { lostUpdate: lostUpdate!, cure: cure!, model: model!, rest }
}

/** The document that a comment of a code block promises at its end: `// progress: { step_b: 'done' }: …`. */
export function promisedProgress(block: string): unknown {
  const promise = [...block.matchAll(/\/\/ progress: (\{.*?\})/g)].at(-1)![1]!
  return JSON.parse(promise.replace(/(\w+):/g, '"$1":').replaceAll("'", '"'))
}

/** What the compiler has against these files, in a folder of their own below `build/`. */
export function problemsOf(folder: string, files: Readonly<Record<string, string>>): string[] {
  const path = join(root, 'build', folder)
  mkdirSync(path, { recursive: true })
  for (const [name, code] of Object.entries(files)) writeFileSync(join(path, name), code)
  const program = ts.createProgram(
    Object.keys(files).map((name) => join(path, name)),
    {
      strict: true,
      noEmit: true,
      skipLibCheck: true,
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.Node20,
      types: ['node'],
    },
  )
  return ts.getPreEmitDiagnostics(program).map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, '\n'))
}
