import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { lanes, lanesOfDay } from '../versions/lanes.js'
import { normalized, readResults, withTable } from '../versions/table.js'
import { root } from './readme.js'

describe("README's table of versions", () => {
  it('lists the lanes that exist, each with an outcome', () => {
    const names = lanes.map(({ name }) => name)
    expect(Object.keys(readResults()).sort(), 'run: npm run test:versions').to.deep.equal(names.sort())
  })

  it('has lanes that need only npm, each of which CI runs within a month', () => {
    const month = Array.from({ length: 31 }, (_, day) => lanesOfDay(20_000 + day).map(({ name }) => name))
    const names = lanes.flatMap(({ name, packages, tests }) =>
      packages && ['suites', 'smoke'].includes(tests) && !name.includes('latest') ? name : [],
    )
    expect([...new Set(month.flat())].sort()).to.deep.equal(names.sort())
    for (const pair of month) expect(new Set(pair)).to.have.property('size', 2)
  })

  it('is what is generated from the outcomes of the lanes and package.json', () => {
    const readme = readFileSync(join(root, 'README.md'), 'utf8')
    expect(normalized(withTable(readme, readResults()))).to.equal(normalized(readme))
  })
})
