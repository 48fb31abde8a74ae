import { expect } from 'chai'
import type { Options, Sequelize } from 'sequelize'
import {
  atomicUpsert,
  compareAndSetJson,
  increment,
  mergeJsonKey,
  retryTransaction,
  set,
  updateJson,
  updateWhere,
  withLock,
  withNext,
  withOptimisticLock,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { createJobs, defineJobs } from '../escapes/jobs.js'
import type { Job } from '../escapes/jobs.js'
import { outcomeOf } from '../rejection.js'

eachDatabase('a logging function that throws', (database) => {
  let Stored: typeof Job
  let warnings: string[]
  /** Those of Node, which print every warning. */
  const printers = process.listeners('warning')
  const see = ({ message, name }: Error): void => {
    if (name === 'SequelizeLosslessWarning') warnings.push(message)
  }

  before(async () => {
    Stored = await createJobs(database.connect().sequelize, { version: true })
  })
  beforeEach(async () => {
    warnings = []
    process.removeAllListeners('warning').on('warning', see)
    await Stored.destroy({ where: {} })
    await Stored.create({ id: 1, progress: { count: 0 } })
  })
  afterEach(() => {
    process.removeListener('warning', see)
    for (const printer of printers) process.on('warning', printer)
  })

  const throwing = (): never => {
    throw new Error('the log is full')
  }
  const add = [increment('count')] as never
  type Given = { logging?: () => never }
  const calls: Readonly<Record<string, (Jobs: typeof Job, options: Given) => Promise<unknown>>> = {
    mergeJsonKey: (Jobs, options) => mergeJsonKey([Jobs, 1], 'progress', 'count', 1, options),
    'mergeJsonKey with returning': (Jobs, options) =>
      mergeJsonKey([Jobs, 1], 'progress', 'count', 1, { ...options, returning: true }),
    'mergeJsonKey with coalesce': (Jobs, options) =>
      mergeJsonKey([Jobs, 1], 'progress', 'count', 1, { ...options, coalesce: true }),
    updateJson: (Jobs, options) => updateJson([Jobs, 1], 'progress', add, options),
    compareAndSetJson: (Jobs, options) => compareAndSetJson([Jobs, 1], 'progress', 'count', 0, 1, options),
    atomicUpsert: async (Jobs, options) => {
      await Stored.destroy({ where: {} })
      await atomicUpsert([Jobs, 1], { progress: add }, options)
    },
    updateWhere: (Jobs, options) => updateWhere(Jobs, { id: 1 }, { progress: add }, options),
    'updateWhere in a transaction': (Jobs, options) =>
      retryTransaction(
        Jobs.sequelize!,
        (transaction) => updateWhere(Jobs, { id: 1 }, { progress: add }, { ...options, transaction }),
        options,
      ),
    withLock: (Jobs, options) =>
      withLock([Jobs, 1], (job) => job.updateJson('progress', [set('count', 1)] as never, options), options),
    withNext: (Jobs, options) =>
      withNext(Jobs, { where: { n: 0 } }, (job) => job.mergeJsonKey('progress', 'count', 1, options), options),
    withOptimisticLock: (Jobs, options) =>
      withOptimisticLock([Jobs, 1], (job) => void (job.progress = { count: 1 }), options),
    retryTransaction: (Jobs, options) =>
      retryTransaction(
        Jobs.sequelize!,
        (transaction) => mergeJsonKey([Jobs, 1], 'progress', 'count', 1, { ...options, transaction }),
        options,
      ),
  }
  const ways: Readonly<Record<string, readonly [of: Options, given: Given]>> = {
    'of the Sequelize instance': [{ logging: throwing }, {}],
    'of the Sequelize instance, with benchmark': [{ logging: throwing, benchmark: true }, {}],
    'of the call': [{}, { logging: throwing }],
  }

  for (const [way, [options, given]] of Object.entries(ways)) {
    describe(way, () => {
      let sequelize: Sequelize
      let Jobs: typeof Job
      before(() => {
        ;({ sequelize } = database.connect(options))
        Jobs = defineJobs(sequelize, { version: true })
      })

      for (const [name, call] of Object.entries(calls)) {
        it(`emits a warning, and ${name} writes`, async () => {
          const outcome = await outcomeOf(call(Jobs, given))
          const { progress } = await Stored.findByPk(1, { rejectOnEmpty: true })
          expect([outcome, progress]).to.deep.equal(['written', { count: 1 }])
          expect(warnings).to.include(
            'sequelize-lossless: the function logging failed (Error: the log is full); the statement was sent all the same.',
          )
        })
      }

      if (options.logging) {
        it('makes statements of Sequelize fail, as without this library', async () => {
          expect(String(await outcomeOf(Jobs.findAll()))).to.equal('Error: the log is full')
        })
      }
    })
  }

  it('throws if the application calls sequelize.log() without arguments', () => {
    const { sequelize } = database.connect({ logging: throwing })
    defineJobs(sequelize)
    // Sequelize has no type for it.
    const logger = sequelize as unknown as { log(): void }
    expect(() => logger.log()).to.throw('the log is full')
  })
})
