import { expect } from 'chai'
import * as sinon from 'sinon'
import {
  atomicUpsert,
  lossless,
  mergeJsonKey,
  set,
  UnknownOutcomeError,
  withLock,
  withOptimisticLock,
} from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { Proxy } from '../proxy.js'
import type { Message } from '../proxy.js'
import { rejection } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

eachDatabase('a connection that is lost', (database) => {
  // It has none.
  if (database.name === 'sqlite') return

  let proxy: Proxy
  let Runs: typeof WorkflowRun
  /** Past the proxy. */
  let Observed: typeof WorkflowRun
  let id: number

  before(async () => {
    proxy = await Proxy.before(database.url())
    Observed = await createRuns(database.connect().sequelize, { version: true })
    // Sequelize is told to send what fails again, which it must not.
    const retry = { max: 3, match: [/./] }
    Runs = defineRuns(database.connect({ retry }, proxy.url).sequelize, { version: true })
  })
  after(() => proxy.stop())
  beforeEach(async () => {
    sinon.stub(console, 'warn')
    ;({ id } = await Observed.create({ progress: {} }))
    await mergeJsonKey([Runs, id], 'progress', 'before', 1)
  })
  afterEach(() => {
    sinon.restore()
  })

  const isWrite = ({ text }: Message): boolean => text.includes('probe')
  const isCommit = ({ text }: Message): boolean => text.includes('COMMIT')

  const writes: Readonly<Record<string, readonly [lastMessage: typeof isWrite, write: () => Promise<unknown>]>> = {
    // Only its INSERT has the title.
    atomicUpsert: [
      ({ text }) => text.includes('made'),
      async () => {
        await Observed.destroy({ where: { id } })
        return atomicUpsert([Runs, id], { progress: [set('k', 'probe')] }, { create: { title: 'made' } })
      },
    ],
    mergeJsonKey: [isWrite, () => mergeJsonKey([Runs, id], 'progress', 'k', 'probe')],
    withOptimisticLock: [isWrite, () => withOptimisticLock([Runs, id], (run) => void (run.progress!['k'] = 'probe'))],
    withLock: [isCommit, () => withLock([Runs, id], (run) => run.mergeJsonKey('progress', 'k', 'probe'))],
    'mergeJsonKey with returning': [
      database.name === 'postgres' ? isWrite : isCommit,
      () => mergeJsonKey([Runs, id], 'progress', 'k', 'probe', { returning: true }),
    ],
  }

  async function isStored(): Promise<boolean> {
    return 'k' in ((await Observed.findByPk(id))?.progress ?? {})
  }

  for (const [name, [isLast, write]] of Object.entries(writes)) {
    it(`makes ${name} reject with an UnknownOutcomeError, both if the write was stored and if not`, async () => {
      for (const isWritten of [false, true]) {
        const cut = proxy.hold(isLast, async (held) => {
          if (isWritten) await held.answer()
          held.cut('reset')
        })
        const error = await rejection(write(), UnknownOutcomeError)
        await cut
        expect(error.code).to.equal('UNKNOWN_OUTCOME')
        expect(error.message).to.match(/await withLock\(\[\w+, \d+\], \(row\) => …\)/)
        expect(error.cause).to.be.instanceOf(Error)
        expect(await isStored()).to.equal(isWritten)
      }
    })
  }

  it('makes every call of a batch reject with an UnknownOutcomeError, without a retry', async () => {
    for (const isWritten of [false, true]) {
      await Observed.update({ progress: {} }, { where: { id } })
      const first = mergeJsonKey([Runs, id], 'progress', 'first', 1, { coalesce: true })
      const cut = proxy.hold(isWrite, async (held) => {
        if (isWritten) await held.answer()
        held.cut('reset')
      })
      const keys = ['a', 'b', 'c', 'd']
      const calls = keys.map((key) => mergeJsonKey([Runs, id], 'progress', key, 'probe', { coalesce: true }))
      await first
      for (const call of calls) await rejection(call, UnknownOutcomeError)
      await cut
      await mergeJsonKey([Runs, id], 'progress', 'after', 1, { coalesce: true })
      const { progress } = await Observed.findByPk(id, { rejectOnEmpty: true })
      expect(progress).to.have.all.keys(['first', 'after', ...(isWritten ? keys : [])])
    }
  })

  it('makes a patched save reject with an UnknownOutcomeError, without a retry', async () => {
    const table = { tableName: 'patched_runs', modelName: 'Patched' }
    const Stored = await createRuns(Observed.sequelize!, table)
    const Patched = lossless(defineRuns(Runs.sequelize!, table), { wholeColumnWrites: 'patch' })
    const { id: patched } = await Stored.create({ progress: { log: [] } })
    const run = await Patched.findByPk(patched, { rejectOnEmpty: true })
    const cut = proxy.hold(isWrite, async (held) => {
      await held.answer()
      held.cut('reset')
    })
    await rejection(run.update({ progress: { log: ['probe'] } }), UnknownOutcomeError)
    await cut
    expect((await Stored.findByPk(patched, { rejectOnEmpty: true })).progress).to.deep.equal({ log: ['probe'] })
  })

  it('calls no afterCommit hook, and restores the row in memory', async () => {
    const hook = sinon.spy()
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    const cut = proxy.hold(isCommit, (held) => {
      held.cut('end')
    })
    const call = run.withLock(async (row, transaction) => {
      transaction.afterCommit(hook)
      await row.update({ title: 'unknown' })
    })
    await rejection(call, UnknownOutcomeError)
    await cut
    expect(hook.callCount).to.equal(0)
    expect(run.title).to.equal(null)
  })
})
