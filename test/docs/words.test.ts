import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import ts from 'typescript'
import { pages, root } from './readme.js'

/** The words of the glossary in CONTRIBUTING, and those that it forbids. */
const [, chapter] = readFileSync(join(root, 'CONTRIBUTING.md'), 'utf8').split(/^- \*\*(?:Glossary|The house)\./m)
const glossary = [...chapter!.matchAll(/^ {2}\| ([a-z ]+?) +\|[^|`]*(?:`[^`]*`[^|`]*)*\|([^|`]+)\|$/gm)].flatMap(
  ([, term, forbidden]) =>
    term === 'term' ? [] : { term: term!, forbidden: forbidden!.split(',').map((word) => word.trim()) },
)

/** The prose of a page: without code. */
function proseOf(page: string): string {
  const text = readFileSync(join(root, page), 'utf8')
  return text.replaceAll(/^ *```[^]*?^ *```$/gm, '').replaceAll(/`[^`\n]*`|\]\([^()\s]*\)/g, '')
}

/** All literal texts of a source file, without its comments and code. */
function textsOf(file: string): string {
  const texts: string[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isStringLiteralLike(node) || ts.isTemplateHead(node) || ts.isTemplateMiddleOrTemplateTail(node))
      texts.push(node.text)
    node.forEachChild(visit)
  }
  visit(ts.createSourceFile(file, readFileSync(join(root, file), 'utf8'), ts.ScriptTarget.ES2022, true))
  return texts.join('\n')
}

describe('the words of the documentation', () => {
  // It quotes the titles of Rails' tests and of ours.
  const prose = pages().filter((page) => !page.endsWith('rails-checklist.md'))
  const errors = readdirSync(join(root, 'lib', 'errors')).map((name) => join('lib', 'errors', name))
  const places: readonly (readonly [string, string])[] = [
    ...prose.map((page) => [page, proseOf(page)] as const),
    ...[...errors, join('packages', 'every-order', 'lib', 'errors.ts')].map((file) => [file, textsOf(file)] as const),
  ]

  it('have a glossary of some 25 terms', () => {
    expect(glossary.length).to.be.within(20, 35)
    for (const { forbidden } of glossary) expect(forbidden).to.not.include('')
  })

  it('include none that the glossary forbids', () => {
    const found = glossary.flatMap(({ term, forbidden }) =>
      forbidden.flatMap((word) => {
        const pattern = new RegExp(`.{0,30}\\b${word.replaceAll(' ', '\\s+')}\\b.{0,30}`, 'gi')
        return places.flatMap(([place, text]) =>
          [...text.matchAll(pattern)].map(([context]) => `${place}: "${word}", not "${term}": ${context}`),
        )
      }),
    )
    expect(found).to.deep.equal([])
  })

  it('that a reader searches for all occur in headings', () => {
    const headings = prose
      .flatMap((page) => readFileSync(join(root, page), 'utf8').match(/^#+ .*$/gm) ?? [])
      .join('\n')
      .toLowerCase()
    const searched = [
      'idempotent',
      'concurren',
      'batch',
      'dirty',
      'retry',
      'array',
      'upsert',
      'deadlock',
      'queue',
      'lease',
      'nestjs',
      'mock',
    ]
    for (const word of searched) expect(headings).to.include(word)
  })
})
