import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import ts from 'typescript'

export const root = join(__dirname, '..', '..', '..')

/** A code block; one that is a whole file has its name: ```` ```ts [main.ts] ````. */
export interface CodeBlock {
  readonly language: string
  readonly name: string | undefined
  readonly code: string
}

/** README and every page of the site that is written by hand. */
export function pages(): string[] {
  const names = readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
  const isPage = (name: string): boolean => name.endsWith('.md') && !/^(node_modules|api|\.vitepress)\//.test(name)
  return ['README.md', ...names.filter(isPage).map((name) => join('docs', name))].sort()
}

/** All code blocks of a Markdown file. */
export function allCodeBlocks(file: string): CodeBlock[] {
  const text = readFileSync(join(root, file), 'utf8')
  return [...text.matchAll(/^```(\w+)(?: \[([^\]]+)\])?\n([^]*?)^```$/gm)].map(([, language, name, code]) => ({
    language: language!,
    name,
    code: code!,
  }))
}

/** The code blocks of a Markdown file, by their language. */
export function codeBlocks(file: string, language: string): string[] {
  return allCodeBlocks(file)
    .filter((block) => block.language === language)
    .map(({ code }) => code)
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

/** The compiler's messages about these files, which are written to a folder below `build/`. */
export function problemsOf(files: Readonly<Record<string, string>>): string[] {
  const path = join(root, 'build', 'pages')
  mkdirSync(path, { recursive: true })
  for (const [name, code] of Object.entries(files)) {
    mkdirSync(dirname(join(path, name)), { recursive: true })
    writeFileSync(join(path, name), code)
  }
  const program = ts.createProgram(
    Object.keys(files).map((name) => join(path, name)),
    {
      strict: true,
      noEmit: true,
      skipLibCheck: true,
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.Node20,
      types: ['node'],
      experimentalDecorators: true,
      emitDecoratorMetadata: true,
    },
  )
  return ts.getPreEmitDiagnostics(program).map(({ file, messageText }) => {
    const text = ts.flattenDiagnosticMessageText(messageText, '\n')
    return file ? `${relative(path, file.fileName)}: ${text}` : text
  })
}
