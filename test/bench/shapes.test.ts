import { expect } from 'chai'
import { measureShapes } from '../../bench/shapes.js'
import { eachDatabase } from '../each-database.js'

eachDatabase('the shapes of the guide', (database) => {
  // SQLite has no rows to fight for, and the second connector is measured with the first one.
  if (database.name === 'sqlite' || database.title.endsWith('3.5')) return

  it('can be measured, and lose no update', async () => {
    const speeds = await measureShapes(database.url(), { callers: [1, 16], calls: 32, rounds: 1 })
    expect(speeds.map(({ shape }) => shape)).to.include.members(['key: child table', 'count: counter table, 16 slots'])
    for (const { perSecond } of speeds) expect(Math.min(...perSecond)).to.be.above(0)
  })
})
