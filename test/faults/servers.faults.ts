import { expect } from 'chai'
import { DatabaseError } from 'sequelize'
import type { Options } from 'sequelize'
import { RolledBackError } from 'sequelize-lossless'
import type { DurableServer } from '../databases/index.js'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import { endure, flaws } from './endure.js'
import type { Endured, Scene } from './endure.js'
import { coalesced, crossing, idPattern, lossless, naive } from './load.js'
import type { Way } from './load.js'
import { Operator } from './operator.js'
import { Proxy } from '../proxy.js'
import type { Held, Message } from '../proxy.js'
import { Random, seed } from './random.js'
import { durableServers } from './setup.js'

/** What a fault can lay its hands on. */
interface Means extends Scene {
  readonly server: DurableServer
  readonly operator: Operator
  readonly proxy: Proxy
  readonly random: Random
}

interface Fault {
  readonly title: string
  readonly times: number
  readonly inject: (means: Means) => Promise<void>
  readonly fails?: RegExp
  /** If it is certain to us, who made the fault: whether every write whose outcome the caller cannot know was written. */
  readonly written?: boolean
  readonly ways?: readonly Way[]
  readonly writers?: number
  readonly lockTimeoutSeconds?: number
  readonly options?: Options
}

const isWrite = ({ text, inTransaction }: Message): boolean => !inTransaction && idPattern.test(text)
const isCommit = ({ text }: Message): boolean => text.includes('COMMIT')

/** Does something to the connection of the next message that fits. */
function atMessage(fits: (message: Message) => boolean, act: (held: Held, means: Means) => void | Promise<void>) {
  return (means: Means) => means.proxy.hold(fits, (held) => act(held, means))
}

const howToCut = ['reset', 'end'] as const

function cutBefore(held: Held, { random }: Means): void {
  held.cut(random.pick(howToCut))
}

async function cutBeforeTheAnswer(held: Held, { random }: Means): Promise<void> {
  await held.answer()
  held.cut(random.pick(howToCut))
}

async function killBefore(held: Held, { operator }: Means): Promise<void> {
  const session = await operator.sessionAt(held.port)
  await operator.kill(session)
  await operator.gone(session)
  held.forward()
}

async function killMeanwhile(held: Held, { operator }: Means): Promise<void> {
  const session = await operator.sessionAt(held.port)
  held.forward()
  await operator.kill(session)
  await operator.gone(session)
}

async function killAfter(held: Held, { operator }: Means): Promise<void> {
  const session = await operator.sessionAt(held.port)
  await held.answer()
  held.deliver()
  await operator.kill(session)
  await operator.gone(session)
}

function killAndRestart({ server, load }: Means): Promise<void> {
  return load.around(server.kill().then(() => server.restart()))
}

const faults: readonly Fault[] = [
  {
    title: 'the connection is cut before a write arrives',
    times: 25,
    written: false,
    inject: atMessage(isWrite, cutBefore),
  },
  { title: 'the answer to a write is lost', times: 25, written: true, inject: atMessage(isWrite, cutBeforeTheAnswer) },
  {
    title: 'the connection is cut before COMMIT arrives',
    times: 25,
    written: false,
    inject: atMessage(isCommit, cutBefore),
  },
  { title: 'the answer to COMMIT is lost', times: 25, written: true, inject: atMessage(isCommit, cutBeforeTheAnswer) },
  { title: 'a session is killed before COMMIT', times: 15, written: false, inject: atMessage(isCommit, killBefore) },
  { title: 'a session is killed during COMMIT', times: 25, inject: atMessage(isCommit, killMeanwhile) },
  { title: 'a session is killed during a write', times: 25, inject: atMessage(isWrite, killMeanwhile) },
  { title: 'a session is killed after COMMIT', times: 15, inject: atMessage(isCommit, killAfter) },
  {
    title: 'a session is killed while it waits for the lock',
    times: 10,
    inject: ({ operator, hot }) =>
      operator.whileLocked(hot, async (waiting) => {
        const session = await waiting()
        await operator.kill(session)
        await operator.gone(session)
      }),
  },
  {
    title: 'a statement is interrupted while it waits for the lock',
    times: 10,
    fails: /ER_QUERY_INTERRUPTED|57014/,
    inject: ({ operator, hot, failures }) =>
      operator.whileLocked(hot, async (waiting) => {
        const failed = failures(/ER_QUERY_INTERRUPTED|57014/, 1)
        await operator.cancel(await waiting())
        await failed
      }),
  },
  {
    title: 'the wait for the lock times out',
    times: 10,
    fails: /ER_LOCK_WAIT_TIMEOUT|55P03/,
    lockTimeoutSeconds: 1,
    inject: ({ operator, hot, failures }) => operator.whileLocked(hot, () => failures(/ER_LOCK_WAIT_TIMEOUT|55P03/, 5)),
  },
  {
    title: 'transactions deadlock',
    times: 20,
    fails: /ER_LOCK_DEADLOCK|40P01/,
    ways: crossing,
    inject: ({ failures }) => failures(/ER_LOCK_DEADLOCK|40P01/, 1),
  },
  {
    title: 'the pool has no connection to give',
    times: 20,
    fails: /ConnectionAcquireTimeoutError/,
    options: { pool: { max: 3, acquire: 200 } },
    inject: ({ operator, hot, failures }) =>
      operator.whileLocked(hot, () => failures(/ConnectionAcquireTimeoutError/, 5)),
  },
  {
    title: 'the server is killed and started again',
    times: 5,
    inject: killAndRestart,
  },
  {
    title: 'the server is killed and started again, while calls share statements',
    times: 5,
    ways: coalesced,
    writers: 64,
    inject: killAndRestart,
  },
  {
    title: 'the answer to a statement that calls share is lost',
    times: 10,
    ways: coalesced,
    writers: 64,
    written: true,
    inject: atMessage(isWrite, cutBeforeTheAnswer),
  },
]

eachDatabase('faults', (database) => {
  if (database.name === 'sqlite') return
  const { name } = database
  const endured: Endured[] = []
  let Observed: typeof WorkflowRun
  let operator: Operator

  before(async () => {
    const { sequelize } = database.connect()
    Observed = await createRuns(sequelize)
    operator = new Operator(name, sequelize)
    await operator.findDeadlocks()
  })

  async function under(fault: Fault, ways: readonly Way[]): Promise<Endured> {
    const { times, fails, inject, lockTimeoutSeconds } = fault
    const random = new Random(seed)
    const server = durableServers.get(name)!
    const proxy = await Proxy.before(database.url())
    if (lockTimeoutSeconds !== undefined) await operator.setLockTimeout(lockTimeoutSeconds)
    try {
      const { sequelize } = database.connect({ pool: { max: 8, acquire: 60_000 }, ...fault.options }, proxy.url)
      return await endure({
        Runs: defineRuns(sequelize),
        Observed,
        ways,
        writers: fault.writers ?? 8,
        random,
        times,
        fails,
        acknowledged: 800,
        inject: (scene) => inject({ ...scene, server, operator, proxy, random }),
      })
    } finally {
      await proxy.stop()
      await operator.setLockTimeout(50)
    }
  }

  for (const fault of faults) {
    it(`loses nothing, and writes nothing that it denies, when ${fault.title}`, async () => {
      const result = await under(fault, fault.ways ?? lossless)
      endured.push(result)
      expect(flaws(result)).to.deep.equal([])
      if (fault.written !== undefined) expect(result.recovered).to.have.length(fault.written ? result.unknown : 0)
    })
  }

  it('was seen under 200 faults and 10,000 acknowledged writes', () => {
    const sum = (count: (each: Endured) => number): number => endured.reduce((total, each) => total + count(each), 0)
    expect(sum(({ landed }) => landed)).to.be.at.least(200)
    expect(sum(({ acknowledged }) => acknowledged)).to.be.at.least(10_000)
  })

  if (name !== 'postgres') {
    it('never commits half of a transaction that a swallowed timeout has rolled back', async () => {
      await operator.setLockTimeout(1)
      try {
        const Runs = defineRuns(database.connect().sequelize)
        const [run, other, third] = await Promise.all([1, 2, 3].map(() => Runs.create()))
        const call = run!.withLock(async (row, transaction) => {
          await row.update({ title: 'half' })
          await operator.whileLocked(other!, async () => {
            await rejection(other!.update({ title: 'late' }, { transaction }), DatabaseError)
          })
          await third!.update({ title: 'other half' }, { transaction }).catch(() => undefined)
        })
        await rejection(call, RolledBackError)
        expect(await Observed.count({ where: { title: ['half', 'other half'] } })).to.equal(0)
      } finally {
        await operator.setLockTimeout(50)
      }
    })
  }

  it('sees what read, merge and save lose', async () => {
    const { result, lost } = await under(faults[1]!, naive)
    expect(result).to.equal('invalid')
    expect(lost).to.not.deep.equal([])
  })
})
