import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { format } from 'prettier'
import { page } from '../../bench/report.js'
import type { Result } from '../../bench/report.js'
import { root } from './readme.js'

describe('the page of measurements', () => {
  const text = readFileSync(join(root, 'docs', 'performance.md'), 'utf8')

  it('is what `npm run bench` generates from the result that it has written', async () => {
    const result = JSON.parse(readFileSync(join(root, 'docs', 'performance', 'result.json'), 'utf8')) as Result
    expect(text).to.equal(await format(page(result), { printWidth: 120, parser: 'markdown' }))
  })

  it('begins with a table of costs of seven rows, and then has a table of targets of ten rows', () => {
    const tables = text.split(/\n\n/).filter((part) => part.startsWith('|'))
    expect(tables.slice(0, 2).map((table) => table.split('\n').length - 2)).to.deep.equal([7, 10])
    expect(text.indexOf(tables[0]!)).to.be.below(200)
  })
})
