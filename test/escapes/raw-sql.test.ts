import { expect } from 'chai'
import type { Sequelize, Transaction } from 'sequelize'
import { UsageError, withLock } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf } from '../rejection.js'
import { createJobs, freshJobs, storedJobs, untouched } from './jobs.js'
import type { Job } from './jobs.js'

eachDatabase('a statement that would end the transaction it is sent in', (database) => {
  let sequelize: Sequelize
  let Jobs: typeof Job
  let id: number
  const isMysql = database.name === 'mysql' || database.name === 'mariadb'

  before(async () => {
    ;({ sequelize } = database.connect())
    Jobs = await createJobs(sequelize)
  })
  beforeEach(async () => {
    ;({ id } = (await freshJobs(Jobs, 1))[0]!)
  })

  const texts = [
    'COMMIT',
    'commit work',
    ' \n-- why\nCOMMIT',
    '/* why */ ROLLBACK',
    'BEGIN',
    'START TRANSACTION',
    ';COMMIT',
    `UPDATE jobs SET title = 'a; b'; COMMIT`,
  ]
  const implicit = [
    'CREATE TABLE ended (id INTEGER)',
    'DROP TABLE IF EXISTS ended',
    'ALTER TABLE jobs COMMENT = "ended"',
    'TRUNCATE jobs',
    '# why\nTRUNCATE jobs',
    'SET autocommit = 1',
    'SET @@session.autocommit=ON',
    'SET @a = 1, autocommit = 1',
    'LOCK TABLES jobs WRITE',
    'UNLOCK TABLES',
    'ANALYZE TABLE jobs',
    'OPTIMIZE TABLE jobs',
    'CHECK TABLE jobs',
    'REPAIR TABLE jobs',
    'FLUSH TABLES',
    '/*!50000 COMMIT */',
    'XA START "a"',
  ]
  const hidden = [`UPDATE jobs SET title = 'C:\\'; COMMIT; SELECT ''`, `SELECT 1 -- don't stop\n; COMMIT; -- won't`]
  type Call = readonly [title: string, call: (transaction: Transaction) => Promise<unknown>]
  const raw = [...texts, ...(isMysql ? implicit : hidden)].map((sql): Call => [
    JSON.stringify(sql),
    (transaction) => sequelize.query(sql, { transaction }),
  ])
  const calls: readonly Call[] = [
    ...raw,
    ...(isMysql
      ? ([
          ['Model.truncate()', (transaction) => Jobs.truncate({ transaction })],
          ['Model.destroy({ truncate })', (transaction) => Jobs.destroy({ truncate: true, transaction })],
        ] satisfies readonly Call[])
      : []),
  ]

  for (const [title, call] of calls) {
    it(`is refused: ${title}`, async () => {
      let outcome: unknown
      const locking = withLock([Jobs, id], async (job, transaction) => {
        await job.increment('n')
        outcome = await outcomeOf(call(transaction))
        throw new Error('undo')
      })
      expect(await outcomeOf(locking)).to.have.property('message', 'undo')
      expect(outcome).to.be.instanceOf(UsageError).and.have.property('reason', 'transactionControl')
      expect(await storedJobs(Jobs)).to.deep.equal([untouched])
    })
  }

  it('does not include a savepoint, to which each rollback restores the row', async () => {
    await withLock([Jobs, id], async (job, transaction) => {
      const send = (sql: string): Promise<unknown> => sequelize.query(sql, { transaction })
      await send('SAVEPOINT own')
      for (const title of ['first', 'second']) {
        await job.update({ title })
        await send('ROLLBACK TO SAVEPOINT own')
        expect(job.title).to.equal(untouched.title)
      }
      await job.update({ title: 'third' })
      await send('RELEASE SAVEPOINT own')
      expect(job.title).to.equal('third')
    })
    expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, title: 'third' }])
  })

  it('does not include a statement that only mentions such a keyword', async () => {
    const isPlain = !isMysql
    const harmless = [
      `UPDATE jobs SET n = n /* first; end of it */ WHERE id = ${id}`,
      `UPDATE jobs SET n = n -- don't stop; commit comes later\n WHERE id = ${id}`,
      ...(isMysql ? [`# start; commit\nUPDATE jobs SET n = n WHERE id = ${id}`, `SET @mode = 'autocommit'`] : []),
      ...(isPlain ? [`UPDATE jobs SET title = 'C:\\' WHERE title = 'buy milk; commit'`] : []),
      `UPDATE jobs SET title = 'it''s; commit' WHERE id = ${id}`,
      `UPDATE jobs SET title = 'COMMIT; BEGIN' WHERE id = ${id}`,
      'SAVEPOINT own',
      'ROLLBACK TO SAVEPOINT own',
      'RELEASE SAVEPOINT own',
      ...(isMysql ? ['CREATE TEMPORARY TABLE beside (id INTEGER)', 'DROP TEMPORARY TABLE beside', 'SET @a = 1'] : []),
    ]
    await withLock([Jobs, id], async (job, transaction) => {
      for (const sql of harmless) await sequelize.query(sql, { transaction })
      await Jobs.findAll({ where: { title: 'x;'.repeat(6_000_000) }, transaction })
      await job.increment('n')
    })
    expect(await storedJobs(Jobs)).to.deep.equal([{ ...untouched, n: 1, title: 'COMMIT; BEGIN' }])
  })
})
