import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import ts from 'typescript'
import { root } from './readme.js'

const text = readFileSync(join(root, 'docs', 'proof', 'rails-checklist.md'), 'utf8')
const rows = [...text.matchAll(/^\| (.*) \|$/gm)].map(([, row]) => row!.split('|').map((cell) => cell.trim()))

/** Matches the titles of a test file; what is computed in a title can be anything. */
function titlesOf(file: string): RegExp[] {
  const titles: RegExp[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node) && node.expression.getText() === 'it') {
      const [title] = node.arguments
      if (title && ts.isStringLiteralLike(title)) titles.push(pattern([title.text]))
      if (title && ts.isTemplateExpression(title)) {
        const parts = [title.head.text, ...title.templateSpans.map(({ literal }) => literal.text)]
        // One without words of its own would match whatever is asked.
        if (/\w/.test(parts.join(''))) titles.push(pattern(parts))
      }
    }
    node.forEachChild(visit)
  }
  visit(ts.createSourceFile(file, readFileSync(join(root, file), 'utf8'), ts.ScriptTarget.ES2022, true))
  return titles
}

function pattern(parts: readonly string[]): RegExp {
  return new RegExp(`^${parts.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('.+')}$`)
}

function unquoted(cell: string): string {
  return cell.replace(/^`(.*)`$/, '$1')
}

describe('the Rails checklist', () => {
  it('names only tests that exist, in the files that it names', () => {
    const named = rows.filter((cells) => cells.at(-1)!.startsWith('`')).map((cells) => cells.slice(-2).map(unquoted))
    expect(named).to.have.length.greaterThan(50)
    const titles = new Map(named.map(([, file]) => [file, titlesOf(file!)]))
    const missing = named.filter(([title, file]) => !titles.get(file)!.some((each) => each.test(title!)))
    expect(missing).to.deep.equal([])
  })

  it('has each test of Rails once, with a test of this library or the reason why there is none', () => {
    const ofRails = rows.filter(([name]) => name!.startsWith('`test_'))
    expect(new Set(ofRails.map(([name]) => name))).to.have.property('size', ofRails.length)
    expect(ofRails).to.have.length(80)
    for (const [name, , test, file] of ofRails) {
      expect(test, name).to.match(file === '' ? /^does not apply: \S/ : /^`.+`$/)
    }
  })
})
