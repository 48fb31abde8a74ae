import { expect } from 'chai'
import { Contest } from '../../bench/measure.js'
import type { Cell } from '../../bench/measure.js'
import { bareQuery, byHand, libraries, ours } from '../../bench/variants.js'
import { eachDatabase } from '../each-database.js'

/** So often is it measured, on a machine that does other things too, until it was once as good as it has to be. */
const measurements = 5

const small = { documentBytes: 100, rounds: 5 } as const
const oneCaller: Cell = { ...small, rows: 'hot', callers: 1, calls: 60 }
const hotRow: Cell = { ...small, rows: 'hot', callers: 16, calls: 48 }

// Ratios alone, within a run, and generous: what is to be seen is a statement more than there was.
eachDatabase('the price of a call', (database) => {
  // The second connector is measured with the first one.
  if (database.title.endsWith('3.5')) return
  let contest: Contest

  before(async () => {
    contest = await Contest.open(database.url(), libraries)
  })

  after(() => contest.close())

  /** The best time of `variant` by that of ours, or the first that is as wanted. */
  async function ratio(cell: Cell, variant: string, isWanted: (ratio: number) => boolean): Promise<number> {
    const ratios: number[] = []
    while (ratios.length < measurements && !ratios.some(isWanted)) {
      const { variants } = await contest.measure(cell, [ours, variant])
      for (const { acknowledged, found } of variants) expect(found).to.equal(acknowledged)
      ratios.push(variants.find((each) => each.variant === variant)!.ratio)
    }
    return Math.max(...ratios)
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
