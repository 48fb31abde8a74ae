import { expect } from 'chai'
import type { Sequelize, Transaction } from 'sequelize'
import {
  addToSet,
  append,
  atomicUpdate,
  atomicUpsert,
  compareAndSetJson,
  increment,
  matching,
  max,
  merge,
  mergeJson,
  mergeJsonKey,
  min,
  prepend,
  pull,
  remove,
  rename,
  replaceOrAppend,
  set,
  setIfAbsent,
  updateJson,
  updateWhere,
  withLock,
  withLocks,
  withOptimisticLock,
} from 'sequelize-lossless'
import type { JsonWriteOptions, Operation } from 'sequelize-lossless'
import { explore } from 'every-order'
import type { Mutant } from 'every-order'
import { eachServer } from '../each-database.js'
import { isSampled } from '../sample.js'
import { createRuns } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'

type Who = 'a' | 'b'
type Target = readonly [typeof WorkflowRun, number]

/** A way to write, and what it means in plain JavaScript, which shares no code with the library. */
interface Writer {
  readonly write: (target: Target, who: Who, options?: JsonWriteOptions) => Promise<unknown>
  readonly means: (document: Progress, who: Who) => Progress
  /** It finds nothing to do in a document that is NULL. */
  readonly keepsNull?: true
}

/** Where a document starts, unless it is NULL. */
const start = {
  key: 'nobody',
  number: 5,
  list: ['a', 'b', 'c'],
  object: { old: true },
  items: [{ id: 'a' }, { id: 'b' }] as { id: string; isDone?: boolean }[],
}
type Start = Partial<typeof start>

const operation = (of: (who: Who) => Operation, means: (document: Start, who: Who) => Progress): Writer => ({
  ...(['remove', 'rename', 'pull'].includes(of('a').kind) && { keepsNull: true }),
  write: (target, who, options) => updateJson(target, 'progress', [of(who)] as never, options),
  means,
})

const step = (who: Who): number => (who === 'a' ? 1 : 10)
const without = (document: Progress, ...keys: string[]): Progress =>
  Object.fromEntries(Object.entries(document).filter(([key]) => !keys.includes(key)))
const patch = (who: Who): { readonly object: Record<string, 1 | null> } => ({ object: { [who]: 1, old: null } })
const patched = (document: Start, who: Who): Progress => ({
  ...document,
  object: { ...without(document.object ?? {}, 'old'), [who]: 1 },
})

/** Every one-statement write, each on what the other one of its kind writes too, wherever that matters. */
const writers: Record<string, Writer> = {
  set: operation(
    (who) => set('key', who),
    (document, who) => ({ ...document, key: who }),
  ),
  setIfAbsent: operation(
    (who) => setIfAbsent('first', who),
    (document, who) => ({ first: who, ...document }),
  ),
  remove: operation(
    (who) => remove(who === 'a' ? 'key' : 'number'),
    (document, who) => without(document, who === 'a' ? 'key' : 'number'),
  ),
  rename: operation(
    (who) => rename('key', who),
    ({ key, ...rest }, who) => (key === undefined ? rest : { ...rest, [who]: key }),
  ),
  increment: operation(
    (who) => increment('number', step(who)),
    (document, who) => ({ ...document, number: (document.number ?? 0) + step(who) }),
  ),
  min: operation(
    (who) => min('number', -step(who)),
    (document, who) => ({ ...document, number: Math.min(document.number ?? Infinity, -step(who)) }),
  ),
  max: operation(
    (who) => max('number', 5 + step(who)),
    (document, who) => ({ ...document, number: Math.max(document.number ?? -Infinity, 5 + step(who)) }),
  ),
  append: operation(
    (who) => append('list', who),
    (document, who) => ({ ...document, list: [...(document.list ?? []), who] }),
  ),
  prepend: operation(
    (who) => prepend('list', who),
    (document, who) => ({ ...document, list: [who, ...(document.list ?? [])] }),
  ),
  addToSet: operation(
    (who) => addToSet('list', `new ${who}`),
    (document, who) => ({ ...document, list: [...(document.list ?? []), `new ${who}`] }),
  ),
  pull: operation(
    (who) => pull('list', who),
    ({ list, ...rest }, who) => (list ? { ...rest, list: list.filter((item) => item !== who) } : rest),
  ),
  merge: operation((who) => merge([], patch(who)), patched),
  mergeJson: { write: (target, who, options) => mergeJson(target, 'progress', patch(who), options), means: patched },
  atomicUpdate: {
    write: async (target, who, options) => {
      const row = await atomicUpdate(
        target,
        { progress: [set('key', who)], title: who },
        options as { returning: true },
      )
      return (row as WorkflowRun | undefined)?.progress
    },
    means: (document, who) => ({ ...document, key: who }),
  },
  mergeJsonKey: {
    write: (target, who, options) => mergeJsonKey(target, 'progress', who, 1, options),
    means: (document, who) => ({ ...document, [who]: 1 }),
  },
}

const comparing: Writer = {
  write: (target, who) => compareAndSetJson(target, 'progress', 'key', 'nobody', who),
  means: (document, who) => (document.key === 'nobody' ? { ...document, key: who } : document),
}

const add = ({ progress }: WorkflowRun, who: Who): { progress: Progress } => ({
  progress: { ...progress, [who]: 'added' },
})
const added: Writer['means'] = (document, who) => ({ ...document, [who]: 'added' })

/** Writes that read the document under its lock first, to find the elements of an array. */
const elementWriters: Record<string, Writer> = {
  'an edit by matching': operation(
    (who) => set(['items', matching({ id: who }), 'isDone'], true),
    ({ items = [], ...rest }, who) => ({
      ...rest,
      items: items.map((item) => (item.id === who ? { ...item, isDone: true } : item)),
    }),
  ),
  replaceOrAppend: operation(
    (who) => replaceOrAppend('items', 'id', { id: `new ${who}` }),
    ({ items = [], ...rest }, who) => ({ ...rest, items: [...items, { id: `new ${who}` }] }),
  ),
  'an append to the array': operation(
    (who) => append('items', { id: who, isDone: false }),
    ({ items = [], ...rest }, who) => ({ ...rest, items: [...items, { id: who, isDone: false }] }),
  ),
}

/** Ways to read, decide and write; without one of these protections each of them loses something. */
const lockers: Record<string, Writer & { readonly mutants: readonly Mutant[] }> = {
  withLock: {
    write: (target, who) => withLock(target, (run) => run.update(add(run, who))),
    means: added,
    mutants: ['strip-lock', 'strip-transaction'],
  },
  'a locking read in a transaction': {
    write: ([Runs, id], who) =>
      Runs.sequelize!.transaction(async (transaction) => {
        const run = await Runs.findByPk(id, { rejectOnEmpty: true, lock: true, transaction })
        await run.update(add(run, who), { transaction })
      }),
    means: added,
    mutants: ['strip-lock', 'strip-transaction'],
  },
  withOptimisticLock: {
    write: (target, who) => withOptimisticLock(target, (run) => void run.set('progress', add(run, who).progress)),
    means: added,
    mutants: ['strip-version'],
  },
}

eachServer('the guarantees of this library, in every order', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  let Versioned: typeof WorkflowRun
  const isSqlite = database.name === 'sqlite'
  const isMysql = database.name === 'mysql'
  // `returning` is one statement there.
  const isPostgres = database.name === 'postgres'

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
    Versioned = await createRuns(sequelize, { version: true, modelName: 'Versioned', tableName: 'versioned_runs' })
  })

  interface Race {
    readonly from?: typeof start | null
    readonly mutants?: readonly Mutant[]
    readonly options?: JsonWriteOptions
    /** What the two calls resolved to, and the document that they left; throws if they cannot have. */
    readonly answered?: (answers: Readonly<Record<Who, unknown>>, document: Progress | null) => void
  }

  /** Every order of two writers of one row: the document is that of one after the other, and so are all the rows. */
  async function race(
    orders: number,
    [a, b]: readonly [Writer, Writer],
    { from = start, mutants = [], options = {}, answered = () => undefined }: Race = {},
  ): Promise<void> {
    const Model = mutants.includes('strip-version') ? Versioned : Runs
    await Model.destroy({ where: {} })
    const isKept = from === null && a.keepsNull && b.keepsNull
    const serial = isKept ? [null] : [b.means(a.means({ ...from }, 'a'), 'b'), a.means(b.means({ ...from }, 'b'), 'a')]
    const setup = async (): Promise<{ id: number; answers: Record<Who, unknown> }> => {
      const { id } = await Model.create({ progress: from })
      return { id, answers: { a: undefined, b: undefined } }
    }
    type Context = Awaited<ReturnType<typeof setup>>
    const check = async ({ id, answers }: Context): Promise<void> => {
      const { progress } = await Model.findByPk(id, { rejectOnEmpty: true })
      expect(serial).to.deep.include(progress)
      answered(answers, progress)
    }
    const part = (writer: Writer, who: Who) => async (context: Context) => {
      context.answers[who] = await writer.write([Model, context.id], who, options)
    }
    const participants = { A: part(a, 'a'), B: part(b, 'b') }
    const all = { sequelize, setup, participants, preemptions: Infinity }
    const checked = await explore({ ...all, check, mutants })
    expect([checked.failures.map(({ error }) => error), checked.reasons]).to.deep.equal([[], []])
    const compared = isSqlite ? checked : await explore(all)
    for (const result of [checked, compared]) {
      const { verdict, reasons, isComplete, outcomes, schedules } = result
      expect({ verdict, reasons, isComplete }).to.deep.equal({ verdict: 'kept', reasons: [], isComplete: true })
      expect(outcomes).to.deep.equal({ 'A ok, B ok: kept': schedules })
      // There the order in which they are started counts too.
      // The driver of MariaDB counts only changed rows: within one second a write that changes nothing reads the row too.
      if (!isSqlite && !(isKept && !isMysql && !isPostgres)) expect(schedules).to.equal(orders)
    }
  }

  for (const [turn, [title, writer]] of Object.entries(writers).entries()) {
    const isChosen = (variant: number): boolean => isSampled(variant, 3, turn)
    const pair = [writer, writer] as const
    it(`${title} beside ${title}: 2 orders`, () => race(2, pair))
    if (isSqlite) continue

    const fromNull = isMysql ? 6 : 2
    const count = (orders: number): string =>
      writer.keepsNull && !isMysql && !isPostgres ? 'every order' : `${orders} orders`
    if (isChosen(0)) {
      it(`${title} beside ${title}, from NULL: ${count(fromNull)}`, () => race(fromNull, pair, { from: null }))
    }

    const returning = isPostgres ? 2 : 6
    if (isChosen(1)) {
      it(`${title} beside ${title}, returning the document right after its own write: ${returning} orders`, async () => {
        const inOrder = (first: Who, last: Who): Progress => {
          const one = writer.means({ ...start }, first)
          const document = writer.means(one, last)
          return { [first]: one, [last]: document, document }
        }
        const answered: Race['answered'] = (answers, document) =>
          expect([inOrder('a', 'b'), inOrder('b', 'a')]).to.deep.include({ ...answers, document })
        await race(returning, pair, { options: { returning: true }, answered })
      })
    }

    const returningFromNull = isPostgres ? 2 : isMysql ? 8 : 6
    if (isChosen(2)) {
      it(`${title} beside ${title}, returning, from NULL: ${count(returningFromNull)}`, () =>
        race(returningFromNull, pair, { from: null, options: { returning: true } }))
    }
  }

  const upsert = (id: number, who: Who, transaction?: Transaction): Promise<boolean> =>
    atomicUpsert([Runs, id], { progress: [set(who, 1), increment('number')] }, transaction && { transaction })
  const raceToCreate = async (
    orders: number,
    [a, b]: readonly ((id: number) => Promise<unknown>)[],
    check: (answers: readonly unknown[], document: Progress | null | undefined) => void,
    isThere = false,
  ): Promise<void> => {
    let last = 100_000
    // The first INSERT of a process reads the indexes of the table.
    await upsert(++last, 'a')
    const result = await explore({
      sequelize,
      setup: async () => {
        await Runs.destroy({ where: {} })
        const id = ++last
        if (isThere) await upsert(id, 'b')
        return { id, answers: [] as unknown[] }
      },
      participants: {
        A: async (context) => (context.answers[0] = await a!(context.id)),
        B: async (context) => (context.answers[1] = await b!(context.id)),
      },
      preemptions: Infinity,
      check: async ({ id, answers }) => {
        check(answers, (await Runs.findByPk(id))?.progress)
      },
    })
    const { failures, verdict, reasons, isComplete, schedules } = result
    expect([failures.map(({ error }) => error), reasons]).to.deep.equal([[], []])
    expect([verdict, isComplete]).to.deep.equal(['kept', true])
    if (!isSqlite) expect(schedules).to.equal(orders)
  }
  const bothChange = (answers: readonly unknown[], document: Progress | null | undefined): void => {
    expect(answers.toSorted()).to.deep.equal([false, true])
    expect(document).to.deep.equal({ a: 1, b: 1, number: 2 })
  }

  // An UPDATE that finds no row, a read, and an INSERT; on MySQL, the UPDATE has a second form, for NULL.
  const ordersToCreate = isMysql ? 70 : isPostgres ? 16 : 20
  it(`atomicUpsert beside atomicUpsert: ${ordersToCreate} orders, in which one creates the row, and both change it`, () =>
    raceToCreate(ordersToCreate, [(id) => upsert(id, 'a'), (id) => upsert(id, 'b')], bothChange))

  const ordersInTransactions = isPostgres ? 50 : 4
  it(`atomicUpsert beside atomicUpsert, in transactions: ${ordersInTransactions} orders, without a conflict`, () => {
    const inTransaction =
      (who: Who) =>
      (id: number): Promise<boolean> =>
        sequelize.transaction((transaction) => upsert(id, who, transaction))
    return raceToCreate(ordersInTransactions, [inTransaction('a'), inTransaction('b')], bothChange)
  })

  it('atomicUpsert beside destroy: 2 orders, in which the row is changed and deleted, or deleted and created', () => {
    const check = ([isCreated, deleted]: readonly unknown[], document: Progress | null | undefined): void => {
      expect(deleted).to.equal(1)
      expect(document).to.deep.equal(isCreated === true ? { a: 1, number: 1 } : undefined)
    }
    return raceToCreate(2, [(id) => upsert(id, 'a'), (id) => Runs.destroy({ where: { id } })], check, true)
  })

  it('compareAndSetJson beside compareAndSetJson: 2 orders, and exactly one returns true', () =>
    race(2, [comparing, comparing], {
      answered: ({ a, b }, document) =>
        expect({ a, b }).to.deep.equal({ a: document?.key === 'a', b: document?.key === 'b' }),
    }))
  if (isSqlite) return

  const ofElements: readonly (readonly [one: string, other: string, orders: number])[] = [
    ['an edit by matching', 'an edit by matching', 6],
    ['an edit by matching', 'replaceOrAppend', 6],
    ['an edit by matching', 'mergeJsonKey', 4],
    ['an edit by matching', 'an append to the array', 4],
    ['replaceOrAppend', 'replaceOrAppend', 6],
  ]
  for (const [one, other, orders] of ofElements) {
    it(`${one} beside ${other}: ${orders} orders`, () =>
      race(orders, [elementWriters[one]!, elementWriters[other] ?? writers[other]!]))
  }

  for (const [turn, [title, writer]] of Object.entries({ ...writers, compareAndSetJson: comparing }).entries()) {
    for (const [index, [locker, { mutants, ...other }]] of Object.entries(lockers).entries()) {
      if (!isSampled(index, 3, turn)) continue
      const orders = locker === 'withOptimisticLock' ? 3 : 4
      it(`${title} beside ${locker}: ${orders} orders; with ${mutants.join(' or ')} it loses an update`, () =>
        race(orders, [writer, other], { mutants }))
    }
  }

  const pairs: readonly (readonly [one: string, other: string, orders: number, mutants: readonly Mutant[]])[] = [
    ['withLock', 'withLock', 6, ['strip-lock', 'strip-transaction']],
    ['withLock', 'a locking read in a transaction', 6, ['strip-lock', 'strip-transaction']],
    // There the version guards, and the lock need not.
    ['withLock', 'withOptimisticLock', 10, ['strip-version']],
    ['a locking read in a transaction', 'withOptimisticLock', 10, ['strip-version']],
    ['withOptimisticLock', 'withOptimisticLock', 4, ['strip-version']],
  ]
  for (const [one, other, orders, mutants] of pairs) {
    it(`${one} beside ${other}: ${orders} orders; with ${mutants.join(' or ')} it loses an update`, () =>
      race(orders, [lockers[one]!, lockers[other]!], { mutants }))
  }

  const bulk: Writer = {
    write: ([Model, id], who) =>
      updateWhere(Model, { id, title: null }, { progress: [increment('number', step(who))] }),
    means: writers['increment']!.means,
  }
  const bulkPairs: readonly (readonly [other: string, writer: Writer, orders: number, from: typeof start | null])[] = [
    ['updateWhere', bulk, 6, start],
    ['mergeJsonKey', writers['mergeJsonKey']!, isMysql ? 7 : 4, null],
    ['withLock', lockers['withLock']!, 6, start],
  ]
  for (const [other, writer, orders, from] of bulkPairs) {
    it(`updateWhere beside ${other}${from ? '' : ', from NULL'}: ${orders} orders`, () =>
      race(orders, [bulk, writer], { from }))
  }

  const move = (id: number, title: string): Promise<unknown> =>
    withLock([Runs, id], (run) => run.update({ title, progress: { ...run.progress, mine: 1 } }))
  const moves: Record<string, { from: string; to: string; move: (id: number) => Promise<unknown> }> = {
    'a row that comes to meet its where': { from: 'new', to: 'queued', move: (id) => move(id, 'queued') },
    'a row that ceases to meet its where': { from: 'queued', to: 'gone', move: (id) => move(id, 'gone') },
    'a new row': {
      from: 'new',
      to: 'queued',
      move: () => Runs.create({ title: 'queued', progress: { mine: 1 } }),
    },
  }
  for (const [what, { from, to, move }] of Object.entries(moves)) {
    const mutants: readonly Mutant[] = to === 'gone' ? ['strip-lock'] : []
    it(`updateWhere beside ${what}: changes the row once or not at all, as its count says`, async () => {
      const result = await explore({
        sequelize,
        setup: async () => {
          await Runs.destroy({ where: {} })
          return { id: (await Runs.create({ title: from })).id, count: 0 }
        },
        participants: {
          A: async (context: { id: number; count: number }) => {
            const changes = { title: 'done', progress: [increment('n')] } as const
            context.count = await updateWhere(Runs, { title: 'queued' }, changes)
          },
          B: ({ id }) => move(id),
        },
        check: async ({ count }) => {
          const [{ title, progress }] = (await Runs.findAll({ order: [['id', 'DESC']] })) as [WorkflowRun]
          expect(title).to.equal(count === 1 && to === 'queued' ? 'done' : to)
          expect(progress).to.deep.equal({ mine: 1, ...(count === 1 && { n: 1 }) })
        },
        mutants,
        preemptions: Infinity,
      })
      const { failures, isComplete, outcomes, schedules, reasons } = result
      expect([failures.map(({ error }) => error), isComplete]).to.deep.equal([[], true])
      if (mutants.length > 0) expect(reasons).to.deep.equal([])
      expect(outcomes).to.deep.equal({ 'A ok, B ok: kept': schedules })
    })
  }

  it('withLocks of two rows in opposite orders: 10 orders; with strip-lock or strip-transaction it loses an update', async () => {
    const result = await explore({
      sequelize,
      setup: async () => [await Runs.create({ progress: {} }), await Runs.create({ progress: {} })].map(({ id }) => id),
      participants: { A: (ids: number[]) => addToAll(ids, 'a'), B: (ids: number[]) => addToAll(ids.toReversed(), 'b') },
      preemptions: Infinity,
      mutants: ['strip-lock', 'strip-transaction'],
    })
    const { verdict, reasons, isComplete, outcomes, schedules } = result
    expect({ verdict, reasons, isComplete }).to.deep.equal({ verdict: 'kept', reasons: [], isComplete: true })
    expect([outcomes, schedules]).to.deep.equal([{ 'A ok, B ok: kept': schedules }, 10])
  })

  const addToAll = (ids: readonly number[], who: Who): Promise<unknown> =>
    withLocks(
      ids.map((id) => [Runs, id] as const),
      async (runs) => {
        for (const run of runs) await run.update(add(run, who))
      },
    )
})
