import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'chai'
import { lanes, lanesOfDay } from '../versions/lanes.js'
import { normalized, readResults, withTable } from '../versions/table.js'
import { root } from './readme.js'

describe("README's table of versions", () => {
  it('is of the lanes that exist, each of which has an outcome', () => {
    const names = lanes.map(({ name }) => name)
    expect(Object.keys(readResults()).sort(), 'run: npm run test:versions').to.deep.equal(names.sort())
  })

  it('is of lanes that take turns in CI, where nothing but npm has to be in reach', () => {
    const month = Array.from({ length: 31 }, (_, day) => lanesOfDay(20_000 + day).map(({ name }) => name))
    const names = lanes.flatMap(({ name, packages, tests }) =>
      packages && ['suites', 'smoke'].includes(tests) && !name.includes('latest') ? name : [],
    )
    expect([...new Set(month.flat())].sort()).to.deep.equal(names.sort())
    for (const pair of month) expect(new Set(pair)).to.have.property('size', 2)
  })

  it('is what the outcomes of the lanes and package.json make', () => {
    const readme = readFileSync(join(root, 'README.md'), 'utf8')
    expect(normalized(withTable(readme, readResults()))).to.equal(normalized(readme))
  })
})
