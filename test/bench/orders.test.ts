import { expect } from 'chai'
import { measureOrders } from '../../bench/orders.js'
import { eachServer } from '../each-database.js'

eachServer('the cost of an order', (database) => {
  it('can be measured, with the expected verdicts', async () => {
    const costs = await measureOrders(database.url(), 1)
    expect(Math.min(...costs.map(({ orders }) => orders))).to.be.at.least(2)
  })
})
