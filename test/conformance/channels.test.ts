import { AsyncLocalStorage } from 'node:async_hooks'
import { tracingChannel, subscribe, unsubscribe } from 'node:diagnostics_channel'
import { expect } from 'chai'
import * as sinon from 'sinon'
import {
  atomicUpdate,
  atomicUpsert,
  ConditionNotMetError,
  ConflictError,
  exists,
  lock,
  LockTimeoutError,
  lossless,
  mergeJsonKey,
  retryTransaction,
  set,
  UnknownOutcomeError,
  UnsavedChangesError,
  updateWhere,
  withLock,
  withLocks,
  withNext,
  withOptimisticLock,
} from 'sequelize-lossless'
import type { BatchMessage, CallMessage, LockMessage, RetryMessage, StatementMessage } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { Proxy } from '../proxy.js'
import { outcomeOf, rejection } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

interface Messages {
  call: CallMessage
  statement: StatementMessage
  lock: LockMessage
  retry: RetryMessage
  batch: BatchMessage
}

const traced = ['call', 'statement', 'lock'] as const
const published = ['retry', 'batch'] as const

/** Collects the messages of every channel of the library. */
class Listener {
  /** The events in their order: `call:start`. */
  readonly events: string[] = []
  readonly #messages: { name: keyof Messages; message: object }[] = []
  readonly #stops: (() => void)[] = []
  /** Called with each event, at once. */
  onEvent: (event: string, message: object) => void = () => undefined

  constructor() {
    for (const name of traced) {
      const own = tracingChannel<unknown, object>(`sequelize-lossless:${name}`)
      const handlers = {
        start: (message: object) => this.#note(`${name}:start`, message),
        end: (message: object) => this.#note(`${name}:end`, message),
        asyncStart: (message: object) => this.#note(`${name}:asyncStart`, message),
        asyncEnd: (message: object) => {
          this.#messages.push({ name, message })
          this.#note(`${name}:asyncEnd`, message)
        },
        error: (message: object) => this.#note(`${name}:error`, message),
      }
      own.subscribe(handlers)
      this.#stops.push(() => own.unsubscribe(handlers))
    }
    for (const name of published) {
      const handler = (message: unknown): void => {
        this.#messages.push({ name, message: message as object })
        this.#note(name, message as object)
      }
      subscribe(`sequelize-lossless:${name}`, handler)
      this.#stops.push(() => unsubscribe(`sequelize-lossless:${name}`, handler))
    }
  }

  #note(event: string, message: object): void {
    this.events.push(event)
    this.onEvent(event, message)
  }

  messages<N extends keyof Messages>(name: N): Messages[N][] {
    return this.#messages.filter((each) => each.name === name).map(({ message }) => message as Messages[N])
  }

  only<N extends keyof Messages>(name: N): Messages[N] {
    const found = this.messages(name)
    expect(found, name).to.have.length(1)
    return found[0]!
  }

  /** Everything that was published, as text. */
  get text(): string {
    return JSON.stringify(this.#messages)
  }

  stop(): void {
    for (const stop of this.#stops) stop()
  }
}

eachDatabase('the diagnostics channels', (database) => {
  let Runs: typeof WorkflowRun
  let id: number
  let other: number
  let listener: Listener

  before(async () => {
    Runs = await createRuns(database.connect().sequelize, { version: true })
    // Detects the server.
    const warm = await Runs.create({ progress: {} })
    await warm.mergeJsonKey('progress', 'warm', 1)
  })
  beforeEach(async () => {
    await Runs.destroy({ where: {} })
    ;({ id } = await Runs.create({ progress: {} }))
    ;({ id: other } = await Runs.create({ progress: {} }))
    listener = new Listener()
  })
  afterEach(() => {
    listener.stop()
    sinon.restore()
  })

  const isSqlite = database.name === 'sqlite'

  it('publish one call and one statement for a write, without the values of its document', async () => {
    await mergeJsonKey([Runs, id], 'progress', 'step_a', 'secret value')
    const origin = { method: 'mergeJsonKey', model: 'WorkflowRun', primaryKey: { id } }
    expect(listener.only('call')).to.deep.include(origin)
    expect(listener.only('call').durationMs).to.be.above(0)
    expect(listener.only('call')).to.not.have.property('error')
    const statement = listener.only('statement')
    expect(statement).to.deep.include({ ...origin, dialect: database.dialect, isInTransaction: false, rows: 1 })
    expect(statement.sql).to.match(/^(WITH .*)?UPDATE /)
    expect(statement.durationMs).to.be.within(0, listener.only('call').durationMs!)
    expect(listener.text).to.not.include('secret value')
    expect(listener.events.filter((event) => !event.endsWith(':end'))).to.deep.equal([
      'call:start',
      'statement:start',
      'statement:asyncStart',
      'statement:asyncEnd',
      'call:asyncStart',
      'call:asyncEnd',
    ])
  })

  it('publish the number of rows of every statement, and whether it is in a transaction', async () => {
    await withLock([Runs, id], (run) => run.mergeJsonKey('progress', 'step_a', 'done'))
    expect(
      listener.messages('statement').map(({ method, isInTransaction, rows }) => [method, isInTransaction, rows]),
    ).to.deep.equal([
      ['withLock', true, 1],
      ['mergeJsonKey', true, 1],
    ])
    expect(listener.only('lock')).to.deep.include({
      method: 'withLock',
      primaryKey: { id },
      kind: 'row',
      timeoutMs: undefined,
    })
    listener.events.length = 0
    expect(await updateWhere(Runs, { title: null }, { progress: [set('step_b', 'done')] })).to.equal(2)
    expect(
      listener
        .messages('statement')
        .slice(2)
        .map(({ rows }) => rows),
    ).to.deep.equal([2, 2])
  })

  it('publish one call for every public function', async () => {
    const key = { where: { id } }
    const patched = lossless(defineRuns(Runs.sequelize!), { wholeColumnWrites: 'patch' })
    const row = await patched.findByPk(id, { rejectOnEmpty: true })
    const calls: Readonly<Record<string, () => Promise<unknown>>> = {
      atomicUpdate: () => atomicUpdate([Runs, key], { title: 'new' }),
      atomicUpsert: () => atomicUpsert([Runs, id], { progress: [set('made', 1)] }),
      updateWhere: () => updateWhere(Runs, { id }, { title: 'new' }),
      lock: () => Runs.sequelize!.transaction((transaction) => lock([Runs, id], { transaction })),
      withLock: () => withLock([Runs, key], () => undefined),
      withLocks: () =>
        withLocks(
          [
            [Runs, id],
            [Runs, other],
          ],
          () => undefined,
        ),
      withNext: () => withNext(Runs, {}, () => undefined),
      withOptimisticLock: () => withOptimisticLock([Runs, id], () => undefined),
      retryTransaction: () => retryTransaction(Runs.sequelize!, () => undefined),
      save: () => row.update({ progress: { ...row.progress, k: 2 } }),
    }
    for (const [name, call] of Object.entries(calls)) {
      listener.stop()
      listener = new Listener()
      await call()
      const { method, model } = listener.only('call')
      expect([method, model]).to.deep.equal([name, name === 'retryTransaction' ? undefined : 'WorkflowRun'])
    }
    // In a transaction that is open, the first row is read by one locking read.
    await Runs.sequelize!.transaction((transaction) => withNext(Runs, {}, () => undefined, { transaction }))
    expect(listener.messages('call')).to.have.length(2)
  })

  it('publish the error of a call that is refused before any SQL', async () => {
    const row = await Runs.findByPk(id, { rejectOnEmpty: true })
    row.progress = { unsaved: 1 }
    await rejection(row.mergeJsonKey('progress', 'k', 1), UnsavedChangesError)
    const { method, error, durationMs } = listener.only('call')
    expect([method, error]).to.deep.equal(['mergeJsonKey', await outcomeOf(row.mergeJsonKey('progress', 'k', 1))])
    expect(durationMs).to.be.at.least(0)
    const own = ['call:start', 'call:end', 'call:error', 'call:asyncStart', 'call:asyncEnd']
    expect(listener.events).to.deep.equal([...own, ...own])
  })

  it('publish the UPDATE of a patched save', async () => {
    const patched = lossless(defineRuns(Runs.sequelize!), { wholeColumnWrites: 'patch' })
    const row = await patched.findByPk(id, { rejectOnEmpty: true })
    await row.update({ progress: { k: 2 } })
    const { sql, rows, method } = listener.only('statement')
    expect([/UPDATE/.test(sql), rows, method]).to.deep.equal([true, 1, 'save'])
  })

  it('publish each lock of withLocks with its row', async () => {
    await withLocks(
      [
        [Runs, other],
        [Runs, id],
      ],
      () => undefined,
    )
    const rows = listener.messages('lock').filter(({ kind }) => kind === 'row')
    expect(rows.map(({ primaryKey }) => primaryKey)).to.deep.equal([{ id }, { id: other }])
  })

  /** Locks the row until `release` is called. */
  async function hold(): Promise<() => Promise<void>> {
    let release!: () => void
    const released = new Promise<void>((resolve) => (release = resolve))
    let holding!: Promise<void>
    await new Promise<void>((resolve) => {
      holding = withLock([Runs, id], async () => {
        resolve()
        await released
      })
    })
    return () => {
      release()
      return holding
    }
  }

  const kind = isSqlite ? 'writer queue' : 'row'

  it('publish the duration of a wait for the lock of another session', async () => {
    const release = await hold()
    const asked = new Promise<number>((resolve) => {
      listener.onEvent = (event) => {
        if (event === 'lock:start') resolve(performance.now())
      }
    })
    const waiting = withLock([Runs, id], () => undefined)
    const askedAt = await asked
    listener.onEvent = () => undefined
    // The lock is held for the time of these statements, at least.
    for (let turn = 0; turn < 5; turn++) await Runs.findByPk(other)
    const heldMs = performance.now() - askedAt
    await release()
    await waiting
    const waits = listener.messages('lock').filter((each) => each.kind === kind)
    const waited = waits.at(-1)!
    expect(waited).to.deep.include({ method: 'withLock', model: 'WorkflowRun', primaryKey: { id }, kind })
    expect(waited.durationMs).to.be.at.least(heldMs)
    expect(waits).to.have.length(isSqlite ? 1 : 2)
  })

  it('publish a lock that was not granted', async () => {
    const release = await hold()
    listener.stop()
    listener = new Listener()
    const error = await rejection(
      withLock([Runs, id], () => undefined, { nowait: true }),
      LockTimeoutError,
    )
    await release()
    const { error: reason, ...lock } = listener.only('lock')
    expect(lock).to.deep.include({ method: 'withLock', primaryKey: { id }, timeoutMs: 0, kind })
    expect(reason).to.be.instanceOf(Error)
    expect(listener.messages('call').map((call) => call.error)).to.include(error)
    expect(error.code).to.equal('LOCK_TIMEOUT')
  })

  it('publish a condition that is not met', async () => {
    const write = mergeJsonKey([Runs, id], 'progress', 'k', 1, { if: [exists('owner')] })
    const error = await rejection(write, ConditionNotMetError)
    expect(listener.only('call')).to.deep.include({ method: 'mergeJsonKey', primaryKey: { id }, error })
    expect(listener.events.filter((event) => event === 'call:error')).to.have.length(1)
  })

  it('publish the error of a callback unchanged', async () => {
    const failure = new Error('of the callback')
    const fail = (): never => {
      throw failure
    }
    expect(await rejection(withOptimisticLock([Runs, id], fail), Error)).to.equal(failure)
    expect(listener.only('call').error).to.equal(failure)
  })

  it('publish every retry after a stale read, and the final conflict', async () => {
    const error = await rejection(
      withOptimisticLock(
        [Runs, id],
        async (run) => {
          run.title = 'mine'
          await Runs.sequelize!.query(`UPDATE workflow_runs SET version = version + 1 WHERE id = ${id}`)
        },
        { retry: { maxAttempts: 3, baseDelayMs: 0 } },
      ),
      Error,
    )
    const shared = {
      method: 'withOptimisticLock',
      model: 'WorkflowRun',
      primaryKey: { id },
      maxAttempts: 3,
      delayMs: 0,
    }
    const retries = listener.messages('retry')
    for (const [index, retry] of retries.entries()) {
      expect(retry).to.deep.include({ ...shared, attempt: index + 1, reason: 'stale row' })
    }
    expect(retries).to.have.length(2)
    expect(listener.only('call').error).to.equal(error)
    expect(error).to.have.property('code', 'STALE_ROW')
  })

  if (!isSqlite) {
    it('publish the retry after a deadlock', async () => {
      let arrived = 0
      let meet!: () => void
      const met = new Promise<void>((resolve) => (meet = resolve))
      const cross = (first: number, second: number): Promise<unknown> =>
        withLock(
          [Runs, first],
          async (_run, transaction) => {
            if (++arrived === 2) meet()
            await met
            await lock([Runs, second], { transaction })
          },
          { retry: {} },
        )
      await Promise.all([cross(id, other), cross(other, id)])
      const { method, reason, attempt, maxAttempts, error } = listener.only('retry')
      expect({ method, reason, attempt, maxAttempts }).to.deep.equal({
        method: 'withLock',
        reason: 'deadlock',
        attempt: 1,
        maxAttempts: 5,
      })
      expect(error).to.be.instanceOf(ConflictError)
      const failed = listener.messages('call').filter((call) => call.error !== undefined)
      expect(failed.map((call) => call.method)).to.deep.equal(['lock'])
    })

    it('publish an unknown outcome', async () => {
      sinon.stub(console, 'warn')
      const proxy = await Proxy.before(database.url())
      const Cut = defineRuns(database.connect({}, proxy.url).sequelize, { version: true })
      try {
        await mergeJsonKey([Cut, id], 'progress', 'before', 1)
        listener.stop()
        listener = new Listener()
        const cut = proxy.hold(
          ({ text }) => text.includes('probe'),
          (held) => {
            held.cut('reset')
          },
        )
        const error = await rejection(mergeJsonKey([Cut, id], 'progress', 'k', 'probe'), UnknownOutcomeError)
        await cut
        expect(listener.only('call').error).to.equal(error)
        expect(listener.only('statement')).to.include.keys('error', 'durationMs').and.not.have.keys('rows')
      } finally {
        await proxy.stop()
      }
    })
  }

  it('publish each batch with the number of its calls', async () => {
    const keys = Array.from({ length: 64 }, (_, index) => `key_${index}`)
    await Promise.all(keys.map((key) => mergeJsonKey([Runs, id], 'progress', key, 1, { coalesce: true })))
    const batches = listener.messages('batch')
    const shared = { method: 'mergeJsonKey', model: 'WorkflowRun', primaryKey: { id }, column: 'progress' }
    expect(batches).to.deep.equal([
      { ...shared, calls: 1 },
      { ...shared, calls: 63 },
    ])
    expect(listener.messages('call')).to.have.length(64)
    // MariaDB reads a document before it changes many keys.
    const updates = listener.messages('statement').filter(({ sql }) => !sql.startsWith('SELECT'))
    expect(updates.map(({ rows }) => rows)).to.deep.equal([1, 1])
  })

  const meddlers: Record<string, (message: { primaryKey?: object }) => unknown> = {
    'changes the primary key': ({ primaryKey }) => Object.assign(primaryKey!, { id: other }),
    'freezes its message': (message) => Object.freeze(message),
  }
  for (const [title, meddle] of Object.entries(meddlers)) {
    it(`change no write if a subscriber ${title}`, async () => {
      listener.onEvent = (_event, message) => meddle(message)
      const row = await Runs.findByPk(id, { rejectOnEmpty: true })
      await row.mergeJsonKey('progress', 'a', 1)
      await mergeJsonKey([Runs, id], 'progress', 'b', 1)
      await mergeJsonKey([Runs, id], 'progress', 'c', 1, { coalesce: true })
      await atomicUpsert([Runs, id], { progress: [set('d', 1)] })
      await withLock([Runs, id], (locked) => locked.update({ progress: { ...locked.progress, e: 1 } }))
      await rejection(mergeJsonKey([Runs, id], 'progress', 'f', 1, { if: [exists('owner')] }), ConditionNotMetError)
      const documents = (await Runs.findAll({ order: ['id'] })).map(({ progress }) => progress)
      expect(documents).to.deep.equal([{ a: 1, b: 1, c: 1, d: 1, e: 1 }, {}])
    })
  }

  it('bind an asynchronous context that links the statements of a call to the call', async () => {
    const calls = tracingChannel<unknown, object>('sequelize-lossless:call')
    const context = new AsyncLocalStorage<unknown>()
    const around: unknown[] = []
    listener.onEvent = (event) => {
      if (event === 'statement:start') around.push(context.getStore())
    }
    calls.start.bindStore(context, (message) => (message as CallMessage).method)
    try {
      await Promise.all([mergeJsonKey([Runs, id], 'progress', 'k', 1), withLock([Runs, other], () => undefined)])
      expect(around.sort()).to.deep.equal(['mergeJsonKey', 'withLock'])
      expect(context.getStore()).to.equal(undefined)
    } finally {
      calls.start.unbindStore(context)
    }
  })
})
