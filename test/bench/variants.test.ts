import { expect } from 'chai'
import { Contest } from '../../bench/measure.js'
import { peers } from '../../bench/peers.js'
import { libraries } from '../../bench/variants.js'
import { eachServer } from '../each-database.js'

eachServer('the variants of the bench', (database) => {
  it('set the key of their row', async () => {
    const contest = await Contest.open(database.url(), [...libraries, ...peers])
    try {
      const { variants } = await contest.measure({
        documentBytes: 100,
        rows: 'spread',
        callers: 2,
        calls: 4,
        rounds: 1,
      })
      expect(variants.length).to.be.above(10)
      for (const { variant, acknowledged, found } of variants) expect(found, variant).to.equal(acknowledged)
    } finally {
      await contest.close()
    }
  })
})
