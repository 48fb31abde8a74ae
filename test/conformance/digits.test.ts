import { expect } from 'chai'
import fc from 'fast-check'
import type { Sequelize, Transaction } from 'sequelize'
import {
  addToSet,
  append,
  ConditionNotMetError,
  equals,
  increment,
  lock,
  lossless,
  matching,
  max,
  mergeJsonKey,
  min,
  pull,
  remove,
  replaceOrAppend,
  set,
  setIfAbsent,
  StaleRowError,
  UnsupportedValueError,
  updateJson,
  withLock,
  withOptimisticLock,
} from 'sequelize-lossless'
import type { Operation, Target } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'
import { sample } from '../sample.js'
import { createRuns, defineRuns, storedText, storeText } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'

type Tree = Record<string, unknown>

/** A JSON text as a value that keeps every digit, and the names of all keys on every runtime. */
function exact(text: string): Tree {
  const hex = (token: string): string => `"s${Buffer.from(JSON.parse(token) as string).toString('hex')}"`
  const tagged = text.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, (token) =>
    token.startsWith('"') ? hex(token) : `"n${token}"`,
  )
  return JSON.parse(tagged) as Tree
}

type Change = (document: Tree, name: (key: string) => string) => void

/** The same change of a document in memory, and of an exact one, with the names that its keys have there. */
const changes: readonly (readonly [title: string, change: Change])[] = [
  ['a new key', (document, name) => (document[name('added')] = true)],
  ['a key inside an object', (document, name) => ((document[name('inner')] as Tree)[name('done')] = true)],
  ['a number', (document, name) => (document[name('gone')] = null)],
  ['a removed key', (document, name) => Reflect.deleteProperty(document, name('gone'))],
  ['an item of a list', (document, name) => ((document[name('list')] as Tree[])[1]![name('done')] = true)],
  ['a shorter list', (document, name) => (document[name('list')] as Tree[]).shift()],
  ['a longer list', (document, name) => (document[name('list')] as unknown[]).push(null)],
  ['an item in the middle of a list', (document, name) => (document[name('list')] as unknown[]).splice(1, 0, null)],
]

const items = '"list":[{"id":9007199254740993,"done":false},{"id":9007199254740992,"done":null}]'
const listOf = (document: Tree, name: (key: string) => string): Tree[] => document[name('list')] as Tree[]

/** Changes that JavaScript may not tell from others; those that must be written, and those that may be refused. */
const confusable: readonly (readonly [title: string, members: string, isWritten: boolean, change: Change])[] = [
  [
    'a shift, a change and a push',
    items,
    false,
    (document, name) => {
      const list = listOf(document, name)
      list.shift()
      list[0]![name('done')] = true
      list.push({})
    },
  ],
  [
    'a reverse and a change of each item',
    items,
    false,
    (document, name) => {
      for (const each of listOf(document, name).reverse()) each[name('done')] = [each[name('done')]]
    },
  ],
  [
    'a reverse and a change of one item',
    items,
    false,
    (document, name) => (listOf(document, name).reverse()[1]![name('done')] = true),
  ],
  ['a reverse', items, true, (document, name) => listOf(document, name).reverse()],
  ['a change of one item', items, true, (document, name) => (listOf(document, name)[0]![name('done')] = true)],
  [
    'a shift of a number',
    '"list":[9007199254740993,9007199254740992]',
    false,
    (document, name) => listOf(document, name).shift(),
  ],
  [
    'a copy of a number',
    '"list":[9007199254740993]',
    false,
    (document, name) => (document[name('k')] = listOf(document, name)[0]),
  ],
  [
    'another key beside a number that is too large',
    '"large":1e400,"list":[1e400,9007199254740993]',
    true,
    (document, name) => (document[name('k')] = true),
  ],
  [
    'a new key __proto__',
    '"list":[{"n":9007199254740993}]',
    true,
    (document, name) => {
      const value = { value: {}, enumerable: true, writable: true, configurable: true }
      Object.defineProperty(listOf(document, name)[0], name('__proto__'), value)
    },
  ],
]

const long = 12345678901234567890n

/** A document with long numbers beside array elements; its number of 20 digits is `n`, the next one `m`. */
const elements = '{"list":[{"id":n,"k":1},{"id":m,"k":2}],"n":n}'

/** Operations on those elements, and what they leave of the document. */
const elementWrites: readonly (readonly [operation: Operation, after: string])[] = [
  [set(['list', 0, 'k'], true), '{"list":[{"id":n,"k":true},{"id":m,"k":2}],"n":n}'],
  [set(['list', matching({ id: long }), 'k'], 3), '{"list":[{"id":n,"k":3},{"id":m,"k":2}],"n":n}'],
  [remove(['list', matching({ id: long + 1n })]), '{"list":[{"id":n,"k":1}],"n":n}'],
  [pull('list', matching({ id: long })), '{"list":[{"id":m,"k":2}],"n":n}'],
  [replaceOrAppend('list', 'k', { k: 2 }), '{"list":[{"id":n,"k":1},{"k":2}],"n":n}'],
  [append(['list', -1, 'more'], 0), '{"list":[{"id":n,"k":1},{"id":m,"k":2,"more":[0]}],"n":n}'],
]

const digits = (min: number, max: number): fc.Arbitrary<string> =>
  fc.string({ unit: fc.constantFrom(...Array.from('0123456789')), minLength: min, maxLength: max })
const number = fc.oneof(
  digits(16, 30).map((text) => `1${text}`),
  digits(1, 30).map((text) => `-1${text}`),
  fc.tuple(digits(1, 20), digits(1, 25)).map(([whole, part]) => `2${whole}.${part}`),
  fc.tuple(digits(0, 4), fc.integer({ min: -30, max: 30 })).map(([part, exponent]) => `3${part}e${exponent}`),
  fc.constantFrom('0', '-0', '1.0', '1e2', '0.1', '9007199254740993', '18446744073709551615', '-9223372036854775808'),
)
const key = fc.constantFrom('a', '"', '\\', '\\"', 'a"', 'a\\', '\n', '\t', 'é', '/')
const members = fc.uniqueArray(fc.tuple(key, number), { maxLength: 5, selector: ([name]) => name })
const inner = members.map((all) => all.map(([name, value]) => `,${JSON.stringify(name)}:${value}`).join(''))
const document = fc
  .tuple(inner, inner, inner, inner, number)
  .map(
    ([one, two, three, four, gone]) =>
      `{"gone":${gone},"inner":{"done":false${one}},"list":[{"done":false${two}},{"done":false${three}},${gone}]${four}}`,
  )

// The same documents in every run; PROPERTY_SEED looks at others.
const seed = Number(process.env['PROPERTY_SEED'] ?? 1)

eachDatabase('the digits and keys of a document', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  let Versioned: typeof WorkflowRun
  let Patched: typeof WorkflowRun
  let Checked: typeof WorkflowRun
  let PatchedVersioned: typeof WorkflowRun

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
    Versioned = await createRuns(sequelize, { tableName: 'versioned_runs', version: true })
    Patched = await createRuns(sequelize, { tableName: 'patched_runs' })
    Checked = await createRuns(sequelize, { tableName: 'checked_runs' })
    PatchedVersioned = await createRuns(sequelize, { tableName: 'patched_versioned_runs', version: true })
    lossless(PatchedVersioned, { wholeColumnWrites: 'patch' })
    lossless(Patched, { wholeColumnWrites: 'patch' })
    lossless(Checked, { wholeColumnWrites: 'patch', conflicts: 'throw' })
  })

  type Edit = (document: Tree) => void
  const save = async (run: WorkflowRun, edit: Edit): Promise<void> => {
    edit(run.progress as Tree)
    run.changed('progress', true)
    await run.save()
  }
  const ways: readonly (readonly [
    string,
    () => typeof WorkflowRun,
    (run: WorkflowRun, edit: Edit) => Promise<unknown>,
  ])[] = [
    ['withLock', () => Runs, (run, edit) => withLock([Runs, run.id], (locked) => save(locked, edit))],
    ['withLock of a loaded row', () => Runs, (run, edit) => withLock(run, () => save(run, edit))],
    [
      'withLock, after an atomic write',
      () => Runs,
      (run, edit) =>
        withLock(run, async () => {
          await mergeJsonKey(run, 'progress', 'gone' as never, 1 as never)
          await save(run, edit)
        }),
    ],
    [
      'two saves under a lock',
      () => Runs,
      (run, edit) =>
        withLock(run, async () => {
          await run.update({ title: 'new' })
          await save(run, () => undefined)
          await run.reload()
          await save(run, edit)
        }),
    ],
    [
      'lock() in a transaction',
      () => Runs,
      (run, edit) =>
        sequelize.transaction(async (transaction) => {
          await lock(run, { transaction })
          edit(run.progress as Tree)
          await run.save({ transaction })
        }),
    ],
    [
      'withOptimisticLock',
      () => Versioned,
      (run, edit) => withOptimisticLock(run, (read) => edit(read.progress as Tree)),
    ],
    ["a save under 'patch'", () => Patched, save],
    ["a save under 'patch' that refuses conflicts", () => Checked, save],
    [
      "a save under 'patch' of a row that a locking finder read",
      () => Patched,
      (run, edit) =>
        sequelize.transaction(async (transaction) => {
          const found = await Patched.findByPk(run.id, { transaction, lock: true, rejectOnEmpty: true })
          edit(found.progress as Tree)
          await found.save({ transaction })
        }),
    ],
    [
      "two saves under 'patch' of a row that a locking reload() read",
      () => Patched,
      (run, edit) =>
        sequelize.transaction(async (transaction) => {
          await run.reload({ transaction, lock: true })
          await run.update({ progress: { ...run.progress } }, { transaction })
          edit(run.progress as Tree)
          await run.save({ transaction })
        }),
    ],
    ["a save under 'patch' that compares the version", () => PatchedVersioned, save],
  ]

  for (const [turn, [way, modelOf, write]] of ways.entries()) {
    it(`are preserved by ${way}`, async function () {
      this.timeout(3_600_000)
      const { id } = await modelOf().create()
      const property = fc.asyncProperty(document, fc.constantFrom(...changes), async (text, [, change]) => {
        const { outcome, before, after, wanted } = await changed(id, text, change)
        const isMisread = outcome instanceof UnsupportedValueError && outcome.message.includes('misreads')
        if (isMisread && misreadsKeys) expect(after).to.equal(before)
        else {
          expect(outcome).to.equal('written')
          expect(exact(after)).to.deep.equal(wanted)
        }
      })
      await fc.assert(property, { seed, numRuns: sample(10_000, 25, 10) })
    })

    it(`are never those of another number after ${way}`, async () => {
      const { id } = await modelOf().create()
      for (const [index, [title, text, isWritten, change]] of confusable.entries()) {
        if (!database.isSampled(index, 3, turn)) continue
        // The number is too large for MySQL.
        if (text.includes('1e400') && database.dialect === 'mysql') continue
        const { outcome, before, after, wanted } = await changed(id, `{"gone":0,"k":1,${text}}`, change)
        if (isWritten || outcome === 'written') {
          expect(outcome, title).to.equal('written')
          expect(exact(after), title).to.deep.equal(wanted)
        } else {
          expect(outcome, title).to.be.instanceOf(UnsupportedValueError)
          expect(after, title).to.equal(before)
        }
      }
    })

    const changed = async (
      id: number,
      text: string,
      change: Change,
    ): Promise<{ outcome: unknown; before: string; after: string; wanted: Tree }> => {
      const Model = modelOf()
      const stored = async (): Promise<string> => (await storedText(Model, id))!
      await storeText(Model, id, text)
      // PostgreSQL's json spells the other members as jsonb does after the first atomic write.
      await updateJson<WorkflowRun, 'progress', readonly Operation[]>([Model, id], 'progress', keep)
      if (way.includes('atomic')) await mergeJsonKey([Model, id], 'progress', 'gone' as never, 1 as never)
      const before = await stored()
      const wanted = exact(before)
      change(wanted, nameOf)
      const loaded = await Model.findByPk(id, { rejectOnEmpty: true })
      const outcome = await outcomeOf(write(loaded, (read) => change(read, (name) => name)))
      return { outcome, before, after: await stored(), wanted }
    }
  }
})

/** Whether this runtime has the fault of V8 in JSON.parse: nodejs/node#63785. */
const misreadsKeys =
  ['{"o":1,"\\\\":1}', '{"o":1,"\\"":1}'].map((text) => Object.keys(JSON.parse(text) as Tree)[1]).join('') !== '\\"'

const many = Object.fromEntries(Array.from({ length: 60 }, (_, index) => [`k${index}`, index]))

/** Documents with a number that JavaScript reads as Infinity, an edit of each, and the document after it, if written. */
const tooLarge: readonly (readonly [title: string, text: string, edit: (read: Tree) => Progress, after?: string])[] = [
  ['another key', '{"v":1e400,"k":1}', (read) => ({ ...read, k: 2 }), '{"v":1e400,"k":2}'],
  ['its own key', '{"v":1e400,"k":1}', (read) => ({ ...read, v: 5 }), '{"v":5,"k":1}'],
  ['its own key, to null', '{"v":-1e400,"k":1}', (read) => ({ ...read, v: null }), '{"v":null,"k":1}'],
  ['its own key, removed', '{"v":-1e400,"k":1}', () => ({ k: 1 }), '{"k":1}'],
  ['a copy of it', '{"v":1e400}', (read) => ({ ...read, k: read['v'] })],
  ['a copy of it in a list', '{"v":1e400,"l":[true]}', ({ v }) => ({ v, l: [true, v] })],
  ['the object around it', '{"v":{"n":1e400}}', () => ({ v: 5 }), '{"v":5}'],
  ['the list around it', '{"v":[1e400]}', () => ({ v: [5] }), '{"v":[5]}'],
  ['an item beside it', '{"v":[1e400,{}]}', ({ v }) => ({ v: [(v as Tree[])[0], true] }), '{"v":[1e400,true]}'],
  ['an item that is null', '{"v":[1e400,null]}', ({ v }) => ({ v: (v as Tree[]).toReversed() }), '{"v":[null,1e400]}'],
  ['an item after it', '{"v":[1e400]}', ({ v }) => ({ v: [...(v as Tree[]), true] }), '{"v":[1e400,true]}'],
  ['many keys', '{"v":1e400}', (read) => ({ ...read, ...many }), JSON.stringify(many).replace('{', '{"v":1e400,')],
  ['a list', '[1e400,true]', (read) => [...(read as unknown as Tree[]), null] as never, '[1e400,true,null]'],
  ['the whole document', '1e400', () => ({ k: 1 }), '{"k":1}'],
]

const big = '{"n":12345678901234567890,"m":9007199254740993,"k":1}'

eachDatabase('a number that JavaScript rounds, or that the driver reads as text', (database) => {
  let Runs: typeof WorkflowRun
  let Checked: typeof WorkflowRun
  let run: WorkflowRun

  before(async () => {
    const { sequelize } = database.connect()
    Runs = await createRuns(sequelize)
    Checked = lossless(defineRuns(sequelize), { wholeColumnWrites: 'patch', conflicts: 'throw' })
  })

  beforeEach(async () => {
    const { id } = await Runs.create()
    await storeText(Runs, id, big)
    run = await Checked.findByPk(id, { rejectOnEmpty: true })
  })

  const stored = async (): Promise<Tree> => exact((await storedText(Runs, run.id))!)

  it("can be replaced by a save under conflicts: 'throw', and conflicts with a change of another writer", async () => {
    const second = await Checked.findByPk(run.id, { rejectOnEmpty: true })
    await run.update({ progress: { ...run.progress, m: 5 } })
    expect(await stored()).to.deep.equal({
      [nameOf('n')]: 'n12345678901234567890',
      [nameOf('m')]: 'n5',
      [nameOf('k')]: 'n1',
    })
    await rejection(second.update({ progress: { ...second.progress, m: 6 } }), StaleRowError)
  })

  it('is not equal to the rounded number that JavaScript reads', async () => {
    const target = [Runs, run.id] as const
    const read = Number('12345678901234567890')
    await storeText(Runs, run.id, '{"n":12345678901234567890,"l":[12345678901234567890,1]}')
    const outcomes = [
      await outcomeOf(updateJson(target, 'progress', [set('n', 1)] as never, { if: [equals('n', read)] })),
      await outcomeOf(updateJson(target, 'progress', [pull('l', read)] as never)),
      await outcomeOf(updateJson(target, 'progress', [addToSet('l', read)] as never)),
    ]
    // MySQL has no integer of this size either.
    const huge = await outcomeOf(updateJson(target, 'progress', [addToSet('l', 123456789012345680000)] as never))
    const hasHuge = !['mysql', 'sqlite'].includes(database.name)
    expect(huge instanceof UnsupportedValueError).to.equal(!hasHuge)
    // SQLite would compare them as doubles.
    const isExact = database.name !== 'sqlite'
    expect(outcomes.map((each) => each instanceof Error && each.name)).to.deep.equal(
      isExact ? ['ConditionNotMetError', false, false] : Array(3).fill('UnsupportedValueError'),
    )
    expect(await stored()).to.deep.equal({
      [nameOf('n')]: 'n12345678901234567890',
      [nameOf('l')]: [
        'n12345678901234567890',
        'n1',
        ...(isExact ? [`n${read}`] : []),
        ...(hasHuge ? ['n123456789012345680000'] : []),
      ],
    })
  })

  it('is kept or replaced if it is too large for a double, without a conflict with other writers', async () => {
    // MySQL cannot store it.
    if (database.name === 'mysql') return
    const Patched = lossless(defineRuns(Runs.sequelize!), { wholeColumnWrites: 'patch' })
    const saves: readonly ((edit: (document: Tree) => Progress) => Promise<unknown>)[] = [
      (edit) => withLock([Runs, run.id], (row) => row.update({ progress: edit(row.progress as Tree) })),
      ...[Patched, Checked].map((Model) => async (edit: (document: Tree) => Progress) => {
        const loaded = await Model.findByPk(run.id, { rejectOnEmpty: true })
        await loaded.update({ progress: edit(loaded.progress as Tree) })
      }),
    ]
    for (const [title, text, edit, after] of tooLarge) {
      // Sequelize cannot load it from SQLite.
      if (!/^[[{]/.test(text) && database.name === 'sqlite') continue
      for (const save of saves) {
        await storeText(Runs, run.id, text)
        const outcome = await outcomeOf(save(edit))
        if (after === undefined) expect(outcome, title).to.be.instanceOf(UnsupportedValueError)
        else expect(outcome, title).to.equal('written')
        expect(JSON.parse((await storedText(Runs, run.id))!), title).to.deep.equal(JSON.parse(after ?? text))
      }
    }
  })

  it(`is preserved by ${elementWrites.length} writes to array elements, in the row and in its locked instance`, async () => {
    const textOf = (template: string): string =>
      template.replace(/\bn\b(?!")/g, `${long}`).replace(/\bm\b/g, `${long + 1n}`)
    for (const [operation, after] of elementWrites) {
      await storeText(Runs, run.id, textOf(elements))
      await withLock([Runs, run.id], async (locked) => {
        await locked.updateJson('progress', [operation] as never)
        await locked.update({ progress: { ...locked.progress, saved: true } })
      })
      const stored = await storedText(Runs, run.id)
      const wanted = textOf(after.replace(/}$/, ',"saved":true}'))
      expect(exact(stored!), operation.kind).to.deep.equal(exact(wanted))
    }
  })

  it('is compared by the digits of its fraction that the database stores', async () => {
    const [above, below] = ['0.1000000000000000055', '0.09999999999999999999']
    const integer = '12345678901234567890123'
    const cases: readonly (readonly [stored: string, operation: Operation, after: string, onMysql?: string])[] = [
      [`[${above}]`, pull('k', 0.1), `[${above}]`, '[]'],
      [`["a",[{"b":${above}}]]`, pull('k', [{ b: 0.1 }]), `["a",[{"b":${above}}]]`, '["a"]'],
      [`[${above}]`, addToSet('k', 0.1), `[${above},0.1]`, '[0.1]'],
      [`[${integer}]`, pull('k', 1.2345678901234568e22), `[${integer}]`, '[]'],
      [below, max('k', 0.1), '0.1'],
      [above, min('k', 0.1), '0.1'],
      [below, min('k', 0.1), below],
      ['0.1000', min('k', 0.2), '0.1000'],
    ]
    for (const [stored, operation, after, onMysql = after] of cases) {
      await storeText(Runs, run.id, `{"before":${above},"k":${stored}}`)
      await updateJson([Runs, run.id], 'progress', [operation, set('beside', 1)] as never)
      const found = (await storedText(Runs, run.id))!
      const expected = (k: string): string => `{"before":${above},"k":${k},"beside":1}`
      const title = `${operation.kind} ${stored}`
      // MySQL stores doubles.
      if (database.name === 'mysql') expect(JSON.parse(found), title).to.deep.equal(JSON.parse(expected(onMysql)))
      else expect(exact(found), title).to.deep.equal(exact(expected(after)))
    }
  })

  it('is returned by returning: true as a finder reads it', async () => {
    const answer = await updateJson([Runs, run.id], 'progress', [set('k', 1)] as never, { returning: true })
    const { progress } = await Runs.findByPk(run.id, { rejectOnEmpty: true })
    // MariaDB's documents are text for mysql2.
    expect(answer).to.deep.equal(typeof progress === 'string' ? JSON.parse(progress) : progress)
    await run.mergeJsonKey('progress', 'k' as never, 2 as never, { returning: true })
    const { progress: after } = await Runs.findByPk(run.id, { rejectOnEmpty: true })
    expect(run.progress).to.deep.equal(after)
  })

  it('is not written as a bigint by a save', async () => {
    const write = withLock(run, async () => {
      ;(run.progress as Tree)['k'] = 5n
      await run.save()
    })
    expect((await rejection(write, UnsupportedValueError)).message).to.match(
      /"progress" cannot be written as JSON.*BigInt/,
    )
    expect(await storedText(Runs, run.id)).to.include('12345678901234567890')
  })

  it('is preserved in a document that is too deep for JavaScript', async () => {
    if (!['postgres', 'sqlite'].includes(database.name)) return
    const change = async (read: WorkflowRun): Promise<void> => {
      ;(read.progress as Tree)['k'] = 2
      await read.save()
    }
    for (const levels of [3000, 6000]) {
      const deep = `{"k":1,"n":12345678901234567890,"z":${'['.repeat(levels)}${']'.repeat(levels)}}`
      await storeText(Runs, run.id, deep)
      await rejection(withLock([Runs, run.id], change), UnsupportedValueError)
      const patched = await outcomeOf(change(await Checked.findByPk(run.id, { rejectOnEmpty: true })))
      // PostgreSQL may change one key beside 3000 levels, as far as the stack of JavaScript lets it compare them.
      if (patched !== 'written') expect(patched).to.be.instanceOf(UnsupportedValueError)
      const after = patched === 'written' ? deep.replace('"k":1', '"k":2') : deep
      expect((await storedText(Runs, run.id))!.replaceAll(' ', '')).to.equal(after)
    }
  })

  it('is removed by a save that replaces the whole document', async () => {
    await run.update({ progress: null })
    expect(await storedText(Runs, run.id)).to.equal(null)
  })

  it('is not needed for an atomic write of a guarded row whose document is too deep for JavaScript', async () => {
    if (!['postgres', 'sqlite'].includes(database.name)) return
    // SQLite refuses more than 1,000 levels in its JSON functions.
    const levels = database.name === 'postgres' ? 5500 : 900
    await storeText(Runs, run.id, `{"k":1,"z":${'['.repeat(levels)}${']'.repeat(levels)}}`)
    const row = await Checked.findByPk(run.id, { rejectOnEmpty: true })
    const outcome = await outcomeOf(row.mergeJsonKey('progress', 'k', 2).then(() => 'written'))
    if (outcome !== 'written') expect(outcome).to.be.instanceOf(UnsupportedValueError)
    const stored = await storedText(Runs, run.id)
    expect(stored!.replaceAll(' ', '')).to.include(outcome === 'written' ? '"k":2' : '"k":1')
  })

  it('is none of a long document, which a save under a lock writes as any other save does', async () => {
    const text = 'x'.repeat(10_000)
    const documents: unknown[] = [
      { text, at: new Date(0), none: undefined, list: [undefined, NaN, null] },
      { text, infinite: Infinity, none: null },
      { toJSON: () => [text] },
      [text],
      text,
    ]
    const byHand = await Runs.create({})
    for (const document of documents) {
      await byHand.update({ progress: document as Progress })
      await withLock(run, async (row) => {
        row.progress = document as Progress
        await row.save()
      })
      expect(await storedText(Runs, run.id)).to.equal(await storedText(Runs, byHand.id))
      expect((await run.reload()).progress).to.deep.equal((await byHand.reload()).progress)
    }
    await byHand.destroy()
  })

  it('is refused if a save copies it to another path', async () => {
    const copy = { ...run.progress, copy: [run.progress!['m']] }
    await rejection(
      withLock([Runs, run.id], (row) => row.update({ progress: copy })),
      UnsupportedValueError,
    )
    expect(await stored()).to.not.have.property(nameOf('copy'))
  })

  const operations: readonly (readonly [before: string, operation: Operation, after: string])[] = [
    ['9007199254740993', increment('n'), '9007199254740994'],
    ['9007199254740993', max('n', 2 ** 53), '9007199254740993'],
    ['[9007199254740992,9007199254740993]', pull('n', 9007199254740993n), '[9007199254740992]'],
    ['[9007199254740993]', addToSet('n', 2 ** 53), '[9007199254740993,9007199254740992]'],
  ]
  const targets: readonly (readonly [title: string, (transaction: Transaction) => Promise<Target<WorkflowRun>>])[] = [
    ['the instance', () => Promise.resolve(run)],
    ['the instance, reloaded', async (transaction) => run.reload({ transaction })],
    ['another instance', (transaction) => Runs.findByPk(run.id, { transaction, rejectOnEmpty: true })],
    ['the key', () => Promise.resolve([Runs, run.id])],
  ]
  for (const [title, target] of targets) {
    it(`keeps the result of an atomic write of ${title} after a save of the locked row`, async () => {
      for (const [before, operation, after] of operations) {
        await storeText(Runs, run.id, `{"n":${before},"k":1}`)
        run = await Runs.findByPk(run.id, { rejectOnEmpty: true })
        await Runs.sequelize!.transaction(async (transaction) => {
          await lock(run, { transaction })
          await updateJson(await target(transaction), 'progress', [operation] as never, { transaction })
          run.progress!['k'] = 2
          await run.save({ transaction })
        })
        expect(await stored()).to.deep.equal(exact(`{"n":${after},"k":2}`))
      }
    })
  }

  it('keeps its digits if a save is refused because another writer has changed its list', async () => {
    const list = '"n":1,"l":[{"id":12345678901234567891},1'
    const Patched = lossless(defineRuns(Runs.sequelize!), { wholeColumnWrites: 'patch' })
    for (const Model of [Patched, Checked]) {
      await storeText(Runs, run.id, `{${list}]}`)
      const loaded = await Model.findByPk(run.id, { rejectOnEmpty: true })
      await updateJson([Runs, run.id], 'progress', [append('l', 3)] as never)
      ;(loaded.progress!['l'] as unknown[])[1] = null
      await rejection(loaded.save(), StaleRowError)
      expect(await stored()).to.deep.equal(exact(`{${list},3]}`))
    }
  })

  it('is compared exactly by a condition', async () => {
    const check = (path: string, value: unknown): Promise<unknown> =>
      outcomeOf(updateJson([Runs, run.id], 'progress', [set('k', 2)] as never, { if: [equals(path, value)] }))
    expect(await check('m', 2 ** 53)).to.be.instanceOf(ConditionNotMetError)
    expect(await check('m', '9007199254740993')).to.equal('written')
    expect(await check('m', '9007199254740992')).to.be.instanceOf(ConditionNotMetError)
    expect(await check('k', '2')).to.be.instanceOf(ConditionNotMetError)
    expect(await check('k', 2)).to.equal('written')
  })
})

eachDatabase('a document that a hook decodes', (database) => {
  it('is read again after an atomic write under a lock', async () => {
    const Runs = await createRuns(database.connect().sequelize)
    Runs.addHook('afterFind', (row) => {
      const run = row as unknown as WorkflowRun
      run.progress = { decoded: run.progress }
      run.changed('progress', false)
    })
    Runs.addHook('beforeSave', (row) => {
      const run = row as unknown as WorkflowRun
      if (run.progress?.['decoded']) run.progress = run.progress['decoded'] as Progress
    })
    const { id } = await Runs.create({ progress: { a: 1 } })
    await withLock([Runs, id], async (run) => {
      await run.updateJson('progress', [set('b', 2)] as never)
      run.progress = { decoded: { ...(run.progress!['decoded'] as Progress), c: 3 } }
      await run.save()
    })
    expect(exact((await storedText(Runs, id))!)).to.deep.equal(exact('{"a":1,"b":2,"c":3}'))
  })
})

/** How a driver is made to leave documents as text. */
const asText: Readonly<Record<string, object | undefined>> = {
  mysql: { dialectOptions: { jsonStrings: true } },
  mariadb: { dialectOptions: { autoJsonMap: false } },
}

eachDatabase('a document that the driver returns as text', (database) => {
  const options = asText[database.dialect]
  // The other drivers always parse it.
  if (!options) return
  let Runs: typeof WorkflowRun
  let run: WorkflowRun

  before(async () => {
    const { sequelize } = database.connect(options)
    Runs = lossless(await createRuns(sequelize), { wholeColumnWrites: 'patch', conflicts: 'throw' })
  })

  beforeEach(async () => {
    const { id } = await Runs.create({ progress: { a: 1 } })
    await storeText(Runs, id, '{"a":1,"n":12345678901234567890}')
    run = await Runs.findByPk(id, { rejectOnEmpty: true })
    expect(run.progress).to.be.a('string')
  })

  const document = (): Progress => JSON.parse(run.progress as unknown as string) as Progress

  it('reflects an atomic write, as text', async () => {
    await run.mergeJsonKey('progress', 'b' as never, 2 as never)
    expect(document()).to.include({ a: 1, b: 2 })
    await run.mergeJsonKey('progress', 'c' as never, 3 as never, { returning: true })
    expect(document()).to.include({ a: 1, b: 2, c: 3 })
    expect(run.changed()).to.equal(false)
  })

  it('is not stale in a second instance of a locked row', async () => {
    await run.withLock(async (_row, transaction) => {
      const second = await Runs.findByPk(run.id, { transaction, rejectOnEmpty: true })
      second.progress = { ...(JSON.parse(second.progress as unknown as string) as Progress), b: 2 }
      await second.save({ transaction })
    })
    expect(await storedText(Runs, run.id)).to.match(/"b": ?2/)
  })

  it('reflects an atomic write that returns the row', async () => {
    await run.atomicUpdate({ progress: [set('b', 2)], title: 'x' }, { returning: true })
    expect(document()).to.include({ a: 1, b: 2 })
  })

  it('can be replaced by an object, of which only the changes are written', async () => {
    await mergeJsonKey([Runs, run.id], 'progress', 'other' as never, true as never)
    await run.update({ progress: { ...document(), b: 2 } })
    expect(exact((await storedText(Runs, run.id))!)).to.deep.equal({
      [nameOf('a')]: 'n1',
      [nameOf('n')]: 'n12345678901234567890',
      [nameOf('other')]: true,
      [nameOf('b')]: 'n2',
    })
  })

  it('keeps its digits under a lock', async () => {
    await run.withLock(async () => {
      await run.update({ progress: { ...document(), b: 2 } })
    })
    expect(await storedText(Runs, run.id)).to.include('12345678901234567890')
  })
})

/** Operations that change nothing. */
const keep: readonly Operation[] = [setIfAbsent('gone', 0)]

function nameOf(key: string): string {
  return `s${Buffer.from(key).toString('hex')}`
}
