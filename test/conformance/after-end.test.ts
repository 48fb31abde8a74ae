import { expect } from 'chai'
import { OptimisticLockError } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import { RolledBackError, retryTransaction, withLock } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

eachDatabase('an error after the end of a transaction', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  let run: WorkflowRun
  let attempts: number
  /** One that would be tried again, had it come before. */
  let late: OptimisticLockError

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize, { version: true })
  })
  beforeEach(async () => {
    run = await Runs.create({ progress: {} })
    attempts = 0
    late = new OptimisticLockError({ message: 'late' })
  })

  async function stored(): Promise<WorkflowRun> {
    return Runs.findByPk(run.id, { rejectOnEmpty: true })
  }

  const ways: Readonly<Record<string, (fn: (transaction: Transaction) => Promise<unknown>) => Promise<unknown>>> = {
    withLock: (fn) => run.withLock((_row, transaction) => fn(transaction), { retry: {} }),
    retryTransaction: (fn) => retryTransaction(sequelize, fn),
  }

  for (const [name, call] of Object.entries(ways)) {
    it(`is rethrown unchanged, without a retry: ${name} with an afterCommit hook`, async () => {
      const outcome = await outcomeOf(
        call(async (transaction) => {
          attempts++
          await run.update({ title: 'committed' }, { transaction })
          transaction.afterCommit(() => {
            throw late
          })
        }),
      )
      expect(outcome).to.equal(late)
      expect(attempts).to.equal(1)
      expect([run.title, (await stored()).title]).to.deep.equal(['committed', 'committed'])
      await run.update({ title: 'later' })
    })

    it(`is rethrown unchanged, without a retry: ${name} with a callback that commits`, async () => {
      const outcome = await outcomeOf(
        call(async (transaction) => {
          attempts++
          await run.update({ title: 'committed' }, { transaction })
          await transaction.commit()
          throw late
        }),
      )
      expect(outcome).to.equal(late)
      expect(attempts).to.equal(1)
      expect((await stored()).title).to.equal('committed')
    })

    it(`is a RolledBackError, without a retry: ${name} with a callback that writes after its own rollback`, async () => {
      const outcome = await outcomeOf(
        call(async (transaction) => {
          attempts++
          await run.update({ title: 'rolled back' }, { transaction })
          await transaction.rollback()
          await run.update({ title: 'too late' }, { transaction })
        }),
      )
      expect(outcome)
        .to.be.instanceOf(RolledBackError)
        .and.have.property('message')
        .that.includes('update: the transaction')
      expect(attempts).to.equal(1)
      expect((await stored()).title).to.equal(null)
    })
  }

  it('is rethrown unchanged, without a retry: withOptimisticLock with an afterUpdate hook', async () => {
    const Hooked = await createRuns(sequelize, { version: true, tableName: 'hooked_runs' })
    Hooked.addHook('afterUpdate', () => {
      throw late
    })
    const hooked = await Hooked.create({ progress: {} })
    const outcome = await outcomeOf(
      hooked.withOptimisticLock((row) => {
        attempts++
        row.title = 'saved'
      }),
    )
    expect(outcome).to.equal(late)
    expect(attempts).to.equal(1)
    expect(hooked.title).to.equal('saved')
    expect((await Hooked.findByPk(hooked.id, { rejectOnEmpty: true })).title).to.equal('saved')
  })

  if (database.name !== 'sqlite') {
    it('a statement that fails in a transaction is not resent by the option retry of Sequelize', async () => {
      const { sequelize: repeating, log } = database.connect({ retry: { max: 3, match: [/./] } })
      const Repeated = await createRuns(repeating, { tableName: 'repeated_runs' })
      const { id } = await Repeated.create({ progress: {} })
      const call = withLock([Repeated, id], async (_row, transaction) => {
        log.length = 0
        await repeating.query('SELECT nothing', { transaction })
      })
      await rejection(call, Error)
      expect(log.filter((sql) => sql.includes('nothing'))).to.have.length(1)
    })
  }
})
