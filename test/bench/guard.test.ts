import { expect } from 'chai'
import { Contest } from '../../bench/measure.js'
import type { Cell } from '../../bench/measure.js'
import { bareQuery, byHand, libraries, ours } from '../../bench/variants.js'
import { eachDatabase } from '../each-database.js'

/** The most measurements; fewer are made if the bound is met before. */
const maxMeasurements = 10

const small = { documentBytes: 100, rounds: 5 } as const
const oneCaller: Cell = { ...small, rows: 'hot', callers: 1, calls: 60 }
const hotRow: Cell = { ...small, rows: 'hot', callers: 16, calls: 48 }

// Only ratios within one run, with a wide margin: the test must see one more statement in a call.
eachDatabase('the price of a call', (database) => {
  // The second connector is measured with the first one.
  if (database.title.endsWith('3.5')) return
  let contest: Contest

  before(async () => {
    contest = await Contest.open(database.url(), libraries)
  })

  after(() => contest.close())

  /**
   * The shortest time of `variant` divided by the shortest one of ours, of all rounds: what else runs on the machine only
   * adds to a time. Measures again until `isMet`.
   */
  async function ratio(cell: Cell, variant: string, isMet: (ratio: number) => boolean): Promise<number> {
    const least = { [ours]: Infinity, [variant]: Infinity }
    for (let count = 0; count < maxMeasurements; count++) {
      const { variants } = await contest.measure(cell, [ours, variant])
      for (const each of variants) {
        expect(each.found).to.equal(each.acknowledged)
        least[each.variant] = Math.min(least[each.variant]!, each.least)
      }
      if (isMet(least[variant]! / least[ours])) break
    }
    return least[variant]! / least[ours]
  }

  it('is below 1.75 times that of the same SQL through sequelize.query', async () => {
    expect(1 / (await ratio(oneCaller, bareQuery, (each) => 1 / each < 1.75))).to.be.below(1.75)
  })

  // SQLite has no row to fight for: its writers wait for the file.
  if (database.name !== 'sqlite') {
    it('is, on a hot row, that of transaction, FOR UPDATE and save divided by 1.3 or more', async () => {
      expect(await ratio(hotRow, byHand, (each) => each > 1.3)).to.be.above(1.3)
    })
  }
})
