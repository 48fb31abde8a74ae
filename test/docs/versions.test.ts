import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { lanes } from '../versions/lanes.js'
import { normalized, readResults, withTable } from '../versions/table.js'
import { root } from './readme.js'

describe("README's table of versions", () => {
  it('is of the lanes that exist, each of which has an outcome', () => {
    const names = lanes.filter(({ tests }) => tests !== 'quick').map(({ name }) => name)
    expect(Object.keys(readResults()).sort(), 'run: npm run test:versions').to.deep.equal(names.sort())
  })

  it('is what the outcomes of the lanes and package.json make', () => {
    const readme = readFileSync(join(root, 'README.md'), 'utf8')
    expect(normalized(withTable(readme, readResults()))).to.equal(normalized(readme))
  })
})
