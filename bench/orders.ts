import { DataTypes, Transaction } from 'sequelize'
import type { Model } from 'sequelize'
import { explore } from 'every-order'
import { median } from './measure.js'
import { openSequelize } from './table.js'

/** What one order of two equal participants costs in every-order. */
export interface OrderCost {
  /** What each participant does. */
  readonly participant: string
  readonly orders: number
  /** The duration of the exploration divided by the number of its orders: the median of the rounds. */
  readonly milliseconds: number
}

/**
 * Explores two deposits to one account, read and written back, and the same with a lock. The round before the first one is
 * not counted. Fails if a verdict is wrong.
 */
export async function measureOrders(url: string, rounds: number): Promise<OrderCost[]> {
  const sequelize = openSequelize(url)
  const Account = sequelize.define<Model<{ id: number; balance: number }>>(
    'account',
    { id: { type: DataTypes.INTEGER, primaryKey: true }, balance: DataTypes.INTEGER },
    { timestamps: false },
  )
  await Account.sync({ force: true })
  const deposit = async (transaction?: Transaction): Promise<void> => {
    const lock = transaction && { transaction, lock: Transaction.LOCK.UPDATE }
    const account = await Account.findByPk(1, { rejectOnEmpty: true, ...lock })
    const { balance } = account.get()
    await account.update({ balance: balance + 1 }, transaction && { transaction })
  }
  const programs = [
    { participant: 'read and write back: 2 statements', deposit, verdict: 'lost' },
    {
      participant: 'the same with a lock in a transaction: 4 statements',
      deposit: () => sequelize.transaction(deposit),
      verdict: 'kept',
    },
  ] as const
  const setup = async (): Promise<void> => {
    await Account.destroy({ where: {} })
    await Account.create({ id: 1, balance: 0 })
  }
  const costs: OrderCost[] = []
  for (const { participant, deposit, verdict } of programs) {
    const times: number[] = []
    let orders = 0
    for (let round = 0; round <= rounds; round++) {
      const start = performance.now()
      const result = await explore({ sequelize, setup, participants: { A: () => deposit(), B: () => deposit() } })
      if (result.verdict !== verdict) throw new Error(`${participant}: ${result.verdict} instead of ${verdict}`)
      orders = result.schedules
      if (round > 0) times.push((performance.now() - start) / orders)
    }
    costs.push({ participant, orders, milliseconds: median(times) })
  }
  await sequelize.close()
  return costs
}
