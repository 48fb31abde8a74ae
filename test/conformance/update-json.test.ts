import { isDeepStrictEqual } from 'node:util'
import { expect } from 'chai'
import { DataTypes, Op, QueryTypes } from 'sequelize'
import type { Sequelize } from 'sequelize'
import {
  absent,
  addToSet,
  append,
  assign,
  atLeast,
  atMost,
  atomicUpdate,
  atomicUpsert,
  compareAndSetJson,
  ConditionNotMetError,
  contains,
  ElementNotFoundError,
  equals,
  exists,
  greaterThan,
  increment,
  JsonShapeError,
  lessThan,
  matching,
  max,
  merge,
  mergeJson,
  mergeJsonKey,
  min,
  not,
  prepend,
  pull,
  remove,
  rename,
  replaceOrAppend,
  RowNotFoundError,
  set,
  setIfAbsent,
  size,
  UnsupportedValueError,
  updateJson,
  updateWhere,
  UsageError,
  withLock,
} from 'sequelize-lossless'
import type { Condition, Operation, Path } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'
import { isThorough } from '../sample.js'
import { createRuns, defineRuns, documentText, storedText, storeText } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'
import { expected, isMet, noElement } from './expected.js'

/** Documents as text, since JavaScript has no NULL beside JSON null. */
const documents: readonly (string | null)[] = [
  null,
  'null',
  '{}',
  '{"a":null}',
  '{"a":1}',
  '{"a":-0.5}',
  '{"a":4294967296}',
  '{"a":9007199254740991}',
  '{"a":"text"}',
  '{"a":"1"}',
  '{"a":true}',
  '{"a":[]}',
  '{"a":[1,"1",null,[1],{"x":1,"y":2}]}',
  '{"a":[null,1,"text",true,{"x":1,"y":2},1,[],"text",[1],{},1.0]}',
  '{"a":{}}',
  '{"a":{"b":null}}',
  '{"a":{"b":1,"z":[1]}}',
  '{"a":{"a":1,"b":{}},"b":1}',
  '{"a":{"b":{"c":1}}}',
  '{"a":{"b":[1]},"c":{"d":1},"é":1,"":2}',
  // As other programs spell them: é, a.b, a"b, and a number that JavaScript would round.
  '{"\\u00e9":{"\\u00fc":5},"\\u0061":{"\\u0062":[1]},"a\\u0022b":["\\/"],"n":1234567890123456789}',
  // Keys that were stored twice: what is read is the last.
  '{"a":1,"b":2,"a":{"b":"x","b":[1]},"n":1234567890123456789}',
  '{"a":1,"\\u0061":{"b":2}}',
  // MariaDB's JSON_REMOVE of several paths passes over such keys from the third one on.
  '{"é":1,"ü":2,"ö":3,"ä":{"ß":1,"à":2,"ñ":3},"z":4}',
  // SQLite ends a key at NUL; PostgreSQL does not change such documents.
  '{"a\\u0000":1,"b":"\\u0000"}',
  '{"a\\u0000b":1,"a":{"b\\u0000":[1],"b":1}}',
  '[]',
  '[{"a":1}]',
  '"text"',
  '5',
  'false',
]

const paths: readonly (readonly string[])[] = [['a'], ['a', 'b'], ['a', 'b', 'c'], ['a"b'], ['é', 'ü']]
const operands: readonly unknown[] = [1, 'text', null, true, [1], [], {}, { y: 2, x: 1 }, { b: null }]
const keys = ['z', 'C', 'ü"']
const amounts = [1, -1, 0, 0.5, -2.25, 4294967296]
const patches = [
  {},
  { b: 1 },
  { b: null },
  { b: { c: 1, d: null } },
  { b: [1, { x: null }] },
  { a: null, z: {} },
  { b: { k: 1 }, a: null },
  { b: null, a: null },
]

const assigned = [
  { b: null, z: [null] },
  { b: { c: 1 }, 'ü"': 'x' },
]

/** Every kind of operation at every path with every operand, and lists of them. */
const lists: readonly (readonly Operation[])[] = [
  ...paths.flatMap((path) => [
    ...operands.flatMap((operand) => [
      [set(path, operand)],
      [setIfAbsent(path, operand)],
      [append(path, operand)],
      [prepend(path, operand)],
      [addToSet(path, operand)],
      [pull(path, operand)],
    ]),
    ...amounts.flatMap((by) => [[increment(path, by)], [min(path, by)], [max(path, by)]]),
    ...patches.map((patch) => [merge(path, patch)]),
    ...assigned.map((object) => [assign(path, object)]),
    [remove(path)],
    ...keys.map((key) => [rename(path, key)]),
  ]),
  ...patches.map((patch) => [merge([], patch)]),
  ...assigned.map((object) => [assign([], object)]),
  [assign(['a', 'b'], { c: 1, d: null }), set(['a', 'b', 'e'], 2), increment(['a', 'n'])],
  [remove('a', 'b')],
  [remove(['a', 'b'], ['a', 'z'], 'é', 'z', ['ä', 'ß'], ['ä', 'à'], ['ä', 'ñ'], 'ö')],
  [set(['a', 'b'], 1), set(['a', 'c'], 2)],
  [set(['a', 'b', 'c'], 1), remove(['a', 'z']), increment(['a', 'n'])],
  [remove(['a']), set(['b'], 1)],
  [remove(['a', 'b']), remove(['a', 'c'])],
  [remove('é'), remove('ü'), remove('ö'), remove(['ä', 'ß']), remove(['ä', 'à']), remove(['ä', 'ñ'])],
  [merge([], { é: null, ü: null, ö: null, ä: { ß: null, à: null, ñ: null } })],
  [rename(['a', 'b'], 'x'), rename(['a', 'c'], 'y'), set(['a', 'z'], 1)],
  [rename('a', 'z'), rename('é', 'e'), remove('b'), pull('log', 1)],
  [rename(['a', 'b'], 'x'), pull(['a', 'z'], 1)],
  [append('log', 'x', ['y'], { z: null }), append(['a', 'b'], null, 1)],
  [append(['log'], 'x'), addToSet(['tags'], 'y'), increment(['n'], 2), setIfAbsent(['first'], 'z')],
  [merge(['a'], { x: 1, b: null }), merge(['m'], { y: { z: null, w: 1 } }), set(['b'], [1])],
]

/** Documents with arrays of objects, for paths into arrays. */
const arrayDocuments: readonly (string | null)[] = [
  ...[null, 'null', '{}', '[]', '5', '{"a":null}', '{"a":{"0":[]}}', '[[1,2],["x"]]'],
  '[{"id":1,"a":{"b":[1]}},{"id":2,"a":null,"n":1},null,"x",{"id":1.0,"n":2.5}]',
  '{"a":[{"id":1,"é\\"":[1]},{"n":1,"id":2},null,[1],{"id":1e0,"n":4,"a":{"id":1}}],"z":12345678901234567890}',
  '{"a":[{"id":{"y":[2],"x":1},"a":"x"},{"\\\\":"\\u0061","id":null,"a":[{"id":3}]}]}',
]

const elementPaths: readonly Path[] = [
  ...[
    ['a', 0],
    ['a', -1],
    ['a', 7],
    ['a', 0, 'n'],
    ['a', -2, 'a', 'b'],
    ['a', matching({ id: 1 })],
  ],
  ...[
    ['a', matching({ id: 1 }), 'n'],
    ['a', matching({ id: 2, n: 1 }), 'a'],
    ['a', matching({ id: null }), 'a', 0],
  ],
  ...[
    ['a', matching({ id: { x: 1, y: [2] } }), 'a'],
    ['a', matching({ '\\': 'a' }), 'x"'],
    ['a', 0, 0],
  ],
  ...[[0], [-1, 'n'], [matching({ id: 1 }), 'a', 'b'], [0, 0]],
]

/** Every kind of operation through array elements and at a root that is an array, and lists of them. */
const arrayLists: readonly (readonly Operation[])[] = [
  ...elementPaths.flatMap((path): (readonly Operation[])[] => [
    [set(path, [null])],
    [remove(path)],
    [increment(path, 2)],
    [assign(path, { n: null, é: 1 })],
    [merge(path, { n: null, a: { b: 1 } })],
  ]),
  ...[[], ['a'], ['a', 0], [0, 'a', 'b']].flatMap((path): (readonly Operation[])[] => [
    [append(path, 1, [2])],
    [prepend(path, { id: 1 })],
    [addToSet(path, { n: 1, id: 2 })],
    [pull(path, null)],
    [pull(path, matching({ id: 1 }))],
    [replaceOrAppend(path, 'id', { id: 1, by: null })],
    [replaceOrAppend(path, 'id', { id: { y: [2], x: 1 } })],
  ]),
  [setIfAbsent(['a', 0], 1), min(['a', 1, 'id'], 0), rename(['a', 4, 'n'], 'm'), max('n', 1)],
  [
    set(['a', matching({ id: 1 }), 'n'], 1),
    set(['a', matching({ id: 1 }), 'm'], 2),
    remove(['a', matching({ id: 2 })]),
  ],
  [remove(['a', matching({ id: 1 })], ['a', matching({ id: 2 })]), append('log', 'x')],
  [replaceOrAppend('a', 'id', { id: 2 }), append('b', 1)],
]

const arrayConditions: readonly Condition[] = [
  ...elementPaths.flatMap((path) => [exists(path), equals(path, 1), greaterThan(path, 1), contains(path, 1)]),
  ...[contains([], null), equals([], []), size([], { atLeast: 1 }), absent(['a', matching({ id: 2 })])],
]

/** Numbers in ascending order, each with other spellings of it. */
const numbers: readonly (readonly [number: number | bigint, ...spelled: string[]])[] = [
  [-1e308],
  [-(2n ** 63n)],
  [-(2n ** 53n) - 1n],
  [-(2 ** 53), '-9007199254740992.0'],
  [-5, '-5.0', '-0.5e1'],
  [-0.5],
  [0, '-0', '0.0', '0e5'],
  [5e-324],
  [1e-75, '10E-76'],
  [1e-7, '0.0000001', '1.0E-07'],
  [0.1],
  [0.30000000000000004],
  [1n, '1.0', '1e0', '10e-1'],
  [1.5, '15e-1'],
  [999],
  [1000, '1e3', '1E+3', '1000.000'],
  [2 ** 53 - 1],
  [2 ** 53, '9007199254740992.0'],
  [2n ** 53n + 1n],
  [2n ** 63n - 1n],
  [1e21, '1000000000000000000000'],
  [1e308],
]

/** Texts in ascending order of their code points, each with other spellings of it. */
const texts: readonly (readonly [text: string, ...spelled: string[]])[] = [
  [''],
  ['\u0001'],
  ['\n', '"\\u000a"'],
  [' '],
  ['"', '"\\u0022"'],
  ['2026-11-28T09:00:00.000Z'],
  ['2026-11-28T10:00:00.000Z'],
  ['5'],
  ['B', '"\\u0042"'],
  ['\\', '"\\u005c"'],
  ['a', '"\\u0061"'],
  ['a '],
  ['a  '],
  ['a/b', '"a\\/b"'],
  ['aa'],
  ['e\u0301'],
  ['z'],
  ['É'],
  ['é', '"\\u00e9"', '"\\u00E9"'],
  ['\uff5e'],
  // As UTF-16 it would be before the one above.
  ['😀', '"\\ud83d\\ude00"'],
  ['😁'],
]

/** Values, the stored texts that equal them, and those that do not. */
const equalities: readonly (readonly [value: unknown, equal: readonly string[], unequal: readonly string[]])[] = [
  [1e-7, ['1e-7', '0.0000001', '1.0E-07', '10e-8'], ['1e-75', '1e-70', '1e-8', '"1e-7"', '0']],
  [1e-75, ['1e-75', '10E-76'], ['1e-7', '1e-755', '0']],
  [1e21, ['1e21', '1e+21', '1000000000000000000000', '1.0E+021'], ['1e20', '1e2', '1e210', '1']],
  [1, ['1', '1.0', '1e0', '10e-1', '1.000'], ['"1"', 'true', '[1]', '10', '1.5']],
  [0, ['0', '-0', '0.0', '-0.0', '0e5'], ['false', 'null', '""', '1e-300']],
  [-0, ['0', '-0'], ['false']],
  [2 ** 53, ['9007199254740992', '9007199254740992.0'], ['9007199254740991', '9007199254740993']],
  [2n ** 53n + 1n, ['9007199254740993'], ['9007199254740991', '9007199254740992', '9007199254740994']],
  [-(2n ** 53n) - 1n, ['-9007199254740993'], ['-9007199254740992', '9007199254740993']],
  [{ n: [2n ** 53n + 1n] }, ['{"n":[9007199254740993]}'], ['{"n":[9007199254740992]}', '{"n":[9007199254740994]}']],
  [5n, ['5', '5.0', '0.5e1'], ['"5"', '50']],
  [2n ** 63n - 1n, ['9223372036854775807'], ['9223372036854775806']],
  ['a/b', ['"a/b"', '"a\\/b"', '"\\u0061/b"'], ['"a\\\\/b"', '"A/b"']],
  ['é', ['"é"', '"\\u00e9"', '"\\u00E9"'], ['"e"', '"É"', '"\\\\u00e9"', '"é "']],
  ['😀', ['"😀"', '"\\ud83d\\ude00"', '"\\uD83D\\uDE00"'], ['"😁"']],
  ['\n\u0001"\\', ['"\\n\\u0001\\"\\\\"', '"\\u000a\\u0001\\u0022\\u005c"'], ['"n1"']],
  [{ 'é/': 1 }, ['{"é/":1}', '{"\\u00e9\\/":1.0}'], ['{"é":1}', '{"\\\\u00e9/":1}', '{"é/":"1"}', '{}']],
  [[{ a: { '😀"': [] } }], ['[{"a":{"😀\\"":[]}}]', '[{"\\u0061":{"\\ud83d\\ude00\\u0022":[]}}]'], ['[{"a":{}}]']],
  [
    { x: 1, y: { a: 1e-7, b: 'é' } },
    ['{"y":{"b":"é","a":1e-7},"x":1}', '{"y":{"b":"\\u00e9","a":0.0000001},"x":1e0}'],
    ['{"y":{"b":"é","a":1e-75},"x":1}', '{"x":1,"y":{"a":1e-7}}', '{"x":1,"y":{"a":1e-7,"b":"é","c":null}}'],
  ],
  [{ '10': 1, '9': 2, 'a.b': { '': null } }, ['{"a.b":{"":null},"9":2,"10":1}'], ['{"a":{"b":null},"9":2,"10":1}']],
  [null, ['null'], ['false', '"null"', '0', '[]', '{}']],
]

eachDatabase('updateJson', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun

  before(async () => {
    // Every connection prepares every statement for itself.
    ;({ sequelize } = database.connect({ pool: { max: 4 } }))
    Runs = await createRuns(sequelize)
  })

  const textOf = async (id: number): Promise<string> => (await storedText(Runs, id)) ?? 'null'

  async function stored(id: number): Promise<unknown> {
    return JSON.parse(await textOf(id))
  }

  interface Written {
    readonly text: string | null
    readonly before: Progress | null
    readonly outcome: unknown
    readonly after: unknown
  }

  /**
   * Stores each text in a row of its own. What it resolves to gives the rows these documents again, calls `write` for all
   * of them at once, and reads them all: two statements, however many texts there are.
   */
  async function rowsWith(
    texts: readonly (string | null)[],
  ): Promise<(write: (id: number, before: Progress | null) => Promise<unknown>) => Promise<Written[]>> {
    const Kept = await createRuns(sequelize, { modelName: 'Kept', tableName: 'kept_runs' })
    const ids: number[] = []
    for (const text of texts) {
      const { id } = await Runs.create()
      await Kept.create({ id })
      await sequelize.query('UPDATE kept_runs SET progress = $1 WHERE id = $2', { bind: [text, id] })
      ids.push(id)
    }
    const parsed = (text: string | null): unknown => JSON.parse(text ?? 'null')
    const kept = 'SELECT progress FROM kept_runs WHERE kept_runs.id = workflow_runs.id'
    const those = 'WHERE id IN (SELECT id FROM kept_runs)'
    return async (write) => {
      await sequelize.query(`UPDATE workflow_runs SET progress = (${kept}) ${those}`)
      const before = texts.map((text) => parsed(text) as Progress | null)
      const outcomes = await Promise.all(ids.map((id, index) => outcomeOf(write(id, before[index]!))))
      const rows = await sequelize.query<{ document: string | null }>(
        `SELECT ${documentText(sequelize, 'progress')} AS document FROM workflow_runs ${those} ORDER BY id`,
        { type: QueryTypes.SELECT },
      )
      return texts.map((text, index) => ({
        text,
        before: before[index]!,
        outcome: outcomes[index],
        after: parsed(rows[index]!.document),
      }))
    }
  }

  /** What operation lists do to documents, where it is not what the lists mean. */
  async function mismatches(
    connection: Sequelize,
    texts: readonly (string | null)[],
    lists: readonly (readonly Operation[])[],
  ): Promise<unknown[]> {
    const Own = defineRuns(connection)
    const writeAll = await rowsWith(texts)
    const found: unknown[] = []
    let count = 0
    for (const operations of lists) {
      const inMemory = new Map<number, Progress | null>()
      const all = await writeAll(async (id, before) => {
        const row = Own.build({ id, progress: before }, { isNewRecord: false, raw: true })
        const call = updateJson<WorkflowRun, 'progress', readonly Operation[]>(row, 'progress', operations)
        return call.finally(() => inMemory.set(id, row.progress))
      })
      const documentsInMemory = [...inMemory].sort(([one], [other]) => one - other).map(([, progress]) => progress)
      for (const [index, { text, before, outcome, after }] of all.entries()) {
        count++
        const wanted = expected(operations, before)
        const isRefused = wanted === undefined || wanted === noElement
        const refusal = wanted === undefined ? JsonShapeError : ElementNotFoundError
        const isTold = isRefused ? outcome instanceof refusal : outcome === 'written'
        const areAs = [after, documentsInMemory[index]].every((each) =>
          isDeepStrictEqual(each, isRefused ? before : wanted),
        )
        if (isTold && areAs) continue
        found.push({ text, operations, wanted, after, inMemory: documentsInMemory[index], outcome: String(outcome) })
      }
    }
    expect(count).to.equal(texts.length * lists.length)
    return found.slice(0, 3)
  }

  /** The documents that a write with conditions changes, or leaves, where it must not. */
  async function conditionMismatches(
    writeAll: Awaited<ReturnType<typeof rowsWith>>,
    listFor: (before: Progress | null) => readonly Condition[],
  ): Promise<unknown[]> {
    const all = await writeAll((id, before) =>
      updateJson([Runs, id], 'progress', [set('probe', 1)] as never, { if: listFor(before) as never }),
    )
    return all.flatMap(({ text, before, outcome, after }) => {
      const unmet = listFor(before).find((each) => !isMet(each, before))
      const isTold = unmet ? outcome instanceof ConditionNotMetError : outcome === 'written'
      const isNamed =
        !(outcome instanceof ConditionNotMetError) || isDeepStrictEqual({ ...outcome.condition }, { ...unmet })
      const isAsMeant = isDeepStrictEqual(after, unmet ? before : { ...before, probe: 1 })
      return isTold && isNamed && isAsMeant ? [] : [{ text, unmet, outcome: String(outcome), after }]
    })
  }

  type Texts = typeof documents
  const { isOtherWay } = database
  const isWhole = isThorough && !isOtherWay
  const parts = 20
  const table = (texts: Texts, all: typeof lists): string =>
    `on ${texts.length} documents × ${all.length} lists${isWhole ? '' : `, 1 of ${parts} pairs`}`

  /** Looks at every pair of a document and a list, or at a part of them that has every document and every list. */
  async function expectNoMismatch(
    texts: Texts,
    all: typeof lists,
    connection = sequelize,
    divisor = parts,
  ): Promise<void> {
    const count = isWhole ? 1 : Math.min(divisor, texts.length)
    for (let part = 0; part < count; part++) {
      const [some, those] = [texts, all].map((each) => each.filter((_, index) => index % count === part))
      expect(await mismatches(connection, some as Texts, those as typeof lists)).to.deep.equal([])
    }
  }

  const used = documents.filter((text) => database.name !== 'postgres' || !text?.includes('u0000'))

  it(`stores the result that its operations specify, ${table(used, lists)}`, async () => {
    await expectNoMismatch(used, lists)
  })

  it(`stores the result that its operations specify in arrays, ${table(arrayDocuments, arrayLists)}`, async () => {
    await expectNoMismatch(arrayDocuments, arrayLists)
  })

  if (database.name === 'mariadb' || database.name === 'mysql') {
    it('stores the same result if sql_mode is not strict, and functions return NULL instead of an error', async () => {
      const { sequelize: loose } = database.connect({ pool: { max: 1 } })
      await loose.query(`SET SESSION sql_mode = ''`)
      const isSampled = (_: unknown, index: number): boolean => database.isSampled(index, 3)
      await expectNoMismatch(used.slice(isOtherWay ? -1 : -8), lists.filter(isSampled), loose)
      await expectNoMismatch(arrayDocuments.slice(isOtherWay ? -1 : -3), arrayLists.filter(isSampled), loose)
    })
  }

  it('changes nothing with an empty list of operations, for every document', async () => {
    for (const text of ['[1]', '"text"', '5', 'null', '{"a":1}']) {
      const { id } = await Runs.create({ progress: {} })
      await storeText(Runs, id, text)
      for (const operations of [[], [append('list')]]) {
        const after = await updateJson([Runs, id], 'progress', operations as never, { returning: true })
        expect(after).to.deep.equal(JSON.parse(text))
        expect(await stored(id)).to.deep.equal(JSON.parse(text))
      }
    }
  })

  it('writes only if its conditions are met', async () => {
    const conditions: readonly Condition[] = paths.flatMap((path) => [
      ...operands.flatMap((value) => [equals(path, value), contains(path, value)]),
      ...[1, -0.5, 4294967296, 'text', '1', ''].flatMap((than) => [
        ...[greaterThan(path, than), atLeast(path, than)],
        ...[lessThan(path, than), atMost(path, than)],
      ]),
      ...[0, 2, { atLeast: 1 }, { atMost: 1 }, { atLeast: 1, atMost: 5 }].map((each) => size(path, each)),
      exists(path),
      absent(path),
    ])
    const writeAll = await rowsWith(used.filter((each) => expected([set('x', 1)], JSON.parse(each ?? 'null'))))
    const met = conditions.map((each) => (before: unknown) => (isMet(each, before) ? each : not(each)))
    const wrong = await conditionMismatches(writeAll, (before) => met.map((of) => of(before)))
    // Alone: a sample of them, and its negation.
    const alone = conditions.filter((_condition, index) => index % 15 === 0)
    for (const each of alone.filter((_condition, index) => database.isSampled(index, 3))) {
      wrong.push(...(await conditionMismatches(writeAll, () => [each])))
      wrong.push(...(await conditionMismatches(writeAll, () => [not(each)])))
    }
    expect(wrong.slice(0, 3)).to.deep.equal([])
  })

  for (const coalesce of [false, true]) {
    it(`loses no edit of concurrent ${coalesce ? 'coalesced ' : ''}callers of different elements, beside a merged key and an append`, async () => {
      const ids = Array.from({ length: 8 }, (_, id) => id)
      const { id } = await Runs.create({ progress: { list: ids.map((id) => ({ id, n: 0 })) } })
      const write = (operation: Operation): Promise<unknown> =>
        updateJson([Runs, id], 'progress', [operation] as never, { coalesce })
      await Promise.all([
        ...ids.map((each) => write(increment(['list', matching({ id: each }), 'n']))),
        ...ids.map((each) => write(replaceOrAppend('list', 'id', { id: `new ${each}` }))),
        ...ids.map((each) => write(increment(['list', each, 'n']))),
        mergeJsonKey([Runs, id], 'progress', 'key', 1, { coalesce }),
        write(append('list', 'last')),
      ])
      const { id: root } = await Runs.create()
      await Promise.all(
        ids.map((each) => updateJson([Runs, root], 'progress', [append([], each)] as never, { coalesce })),
      )
      expect(await stored(root)).to.have.members(ids)
      const { list, key } = (await stored(id)) as { list: unknown[]; key: unknown }
      expect(list.slice(0, 8)).to.deep.equal(ids.map((id) => ({ id, n: 2 })))
      expect(list.slice(8)).to.have.deep.members([...ids.map((each) => ({ id: `new ${each}` })), 'last'])
      expect(key).to.equal(1)
    })
  }

  it(`writes only if its ${arrayConditions.length} conditions on elements are met`, async () => {
    const wrong: unknown[] = []
    const writeAll = await rowsWith(arrayDocuments.slice(isOtherWay ? -2 : 0))
    for (const isMetBy of [
      (each: Condition) => each,
      (each: Condition, index: number) => (index === 9 ? not(each) : each),
    ]) {
      const listFor = (before: unknown): readonly Condition[] =>
        arrayConditions
          .filter(({ path: [first] }) => first === undefined || (typeof first === 'string') === !Array.isArray(before))
          .map((each) => (isMet(each, before) ? each : not(each)))
          .map(isMetBy)
      const all = await writeAll((id, before) =>
        updateJson([Runs, id], 'progress', [remove(Array.isArray(before) ? [0] : 'z')] as never, {
          if: listFor(before) as never,
        }),
      )
      for (const { text, before, outcome, after } of all) {
        const isRefused = expected([remove('z')], before) === undefined && !Array.isArray(before)
        if (isRefused) continue
        const unmet = listFor(before).find((each) => !isMet(each, before))
        const wanted = unmet ? before : expected([remove(Array.isArray(before) ? [0] : 'z')], before)
        const isTold = unmet ? outcome instanceof ConditionNotMetError : outcome === 'written'
        if (!isTold || !isDeepStrictEqual(after, wanted)) wrong.push({ text, unmet, outcome: String(outcome), after })
      }
    }
    expect(wrong.slice(0, 3)).to.deep.equal([])
  })

  it(`compares ${numbers.length} numbers and ${texts.length} texts in one order for every spelling`, async () => {
    const stored = [
      ...numbers.flatMap(([number, ...spelled], rank) =>
        [String(number), ...spelled].map((text) => ({ type: 'number', rank, text })),
      ),
      ...texts.flatMap(([text, ...spelled], rank) =>
        [JSON.stringify(text), ...spelled].map((text) => ({ type: 'string', rank, text })),
      ),
      ...['null', 'true', '[]', '[5]', '{}', '{"a":"a"}'].map((text) => ({ type: 'other', rank: 0, text })),
    ]
    const { id } = await Runs.create()
    const document = `{${stored.map(({ text }, index) => `"k${index}":${text}`).join()}}`
    const wrong: unknown[] = []
    for (const [index, [operand]] of [...numbers, ...texts].entries()) {
      if (isOtherWay && index % 4 > 0) continue
      const ownRank = index < numbers.length ? index : index - numbers.length
      const conditions = [...stored, undefined].flatMap((each, at) => {
        const order =
          each?.type === typeof (typeof operand === 'bigint' ? 0 : operand) ? each.rank - ownRank : undefined
        const given = (condition: Condition, isToBe: boolean): Condition => (isToBe ? condition : not(condition))
        const key = `k${at}`
        const strict = [
          given(greaterThan(key, operand), order !== undefined && order > 0),
          given(lessThan(key, operand), order !== undefined && order < 0),
        ]
        // The others are a sample.
        if (Math.abs(order ?? at) > 1) return at % 4 === 0 ? strict : []
        return [
          ...strict,
          given(atLeast(key, operand), order !== undefined && order >= 0),
          given(atMost(key, operand), order !== undefined && order <= 0),
        ]
      })
      await storeText(Runs, id, document)
      const outcome = await outcomeOf(updateJson([Runs, id], 'progress', [set('probe', 1)], { if: conditions }))
      if (outcome !== 'written') wrong.push({ operand, outcome: String(outcome) })
    }
    expect(wrong).to.deep.equal([])
  })

  // MySQL and MariaDB compare such numbers as doubles.
  if (database.name === 'sqlite' || database.name === 'postgres') {
    it('meets exactly one of a comparison and its negation, by the digits of the stored number', async () => {
      const { id } = await Runs.create()
      const isMet = async (text: string, condition: Condition): Promise<boolean> => {
        await storeText(Runs, id, text)
        return (
          (await outcomeOf(updateJson([Runs, id], 'progress', [set('probe', 1)], { if: [condition] }))) === 'written'
        )
      }
      for (const [stored, operand, order] of [
        // More digits than a double has.
        ['0.1000000000000000055', 0.1, 1],
        // The sum of 1.5 and 1e17 + 16 as SQLite writes it, and how JavaScript reads it.
        ['1.0000000000000002e+17', 100000000000000020, 0],
        ['9007199254740993.0', 9007199254740992, 1],
        ['8.99999999999999e18', 8999999999999990001n, -1],
      ] as const) {
        const conditions: readonly (readonly [Condition, boolean])[] = [
          [greaterThan('n', operand), order > 0],
          [atLeast('n', operand), order >= 0],
          [lessThan('n', operand), order < 0],
          [atMost('n', operand), order <= 0],
          [equals('n', operand), order === 0],
          [contains('list', operand), order === 0],
          [equals(['in', 'n'], operand), order === 0],
        ]
        const text = `{"n":${stored},"list":[0,${stored}],"in":{"n":${stored}}}`
        for (const [condition, expected] of conditions) {
          expect(await isMet(text, condition), `${stored} ${condition.kind} ${operand}`).to.equal(expected)
          expect(await isMet(text, not(condition)), `${stored} not ${condition.kind} ${operand}`).to.equal(!expected)
        }
      }
    })
  }

  it('refuses a column that holds no object, also if it only has conditions on it', async () => {
    const { id } = await Runs.create()
    for (const text of ['[]', '1', '"text"']) {
      await storeText(Runs, id, text)
      const changes = { title: 'changed' }
      const call = atomicUpdate([Runs, id], changes, { if: { progress: [absent('v')] } })
      expect((await rejection(call, JsonShapeError)).column).to.equal('progress')
      expect((await Runs.findByPk(id))!.title).to.equal(null)
    }
  })

  it('names the condition that was not met', async () => {
    const { id } = await Runs.create({ progress: { state: 'done', list: ['x'] } })
    const conditions = { if: [exists('state'), equals(['state'], 'new')] }
    const error = await rejection(mergeJsonKey([Runs, id], 'progress', 'owner', 'me', conditions), ConditionNotMetError)
    expect(error).to.deep.include({ code: 'CONDITION_NOT_MET', column: 'progress', condition: conditions.if[1] })
    expect(error.message)
      .to.include('does not meet equals(["state"], "new")')
      .and.include('await WorkflowRun.findOne({ where: { id: ')
    for (const [unmet, shown] of [
      [lessThan('state', 'd'), 'lessThan(["state"], "d")'],
      [not(contains('list', 'x')), 'not(contains(["list"], "x"))'],
      [not(not(size('list', { atMost: 0 }))), 'size(["list"], {"atMost":0})'],
      [not(exists('state')), 'absent(["state"])'],
    ] as const) {
      const refused = updateJson([Runs, id], 'progress', [set('k', 1)], { if: [exists('state'), unmet] })
      const { condition, message } = await rejection(refused, ConditionNotMetError)
      expect(condition).to.equal(unmet)
      expect(message).to.include(`"progress" of WorkflowRun id=${id} does not meet ${shown}, so nothing was written`)
    }
    const misused = mergeJsonKey([Runs, id], 'progress', 'k', 1, { if: equals('state', 1) as never })
    expect((await rejection(misused, UsageError)).message).to.include('options.if to be an array of conditions')
    expect(
      (await rejection(mergeJson([Runs, id], 'progress', {}, { if: [absent('state')] }), ConditionNotMetError)).message,
    ).to.include('absent(["state"])')
  })

  it('compareAndSetJson: of 20 callers that expect the same, exactly one sets it', async () => {
    const expectedValue = { phase: 'queued', tries: [1, 2] }
    const { id } = await Runs.create({ progress: { state: expectedValue } })
    const claim = (owner: number): Promise<boolean> =>
      compareAndSetJson([Runs, id], 'progress', 'state', { tries: [1, 2], phase: 'queued' }, { owner })
    const claims = await Promise.all(Array.from({ length: 20 }, (_, owner) => claim(owner)))
    expect(claims.filter(Boolean)).to.have.length(1)
    expect(await stored(id)).to.deep.equal({ state: { owner: claims.indexOf(true) } })
    const row = await Runs.findByPk(id, { rejectOnEmpty: true })
    expect(await row.compareAndSetJson('progress', ['state', 'owner'], -1, 'nobody')).to.equal(false)
    expect(await row.compareAndSetJson('progress', ['state', 'owner'], claims.indexOf(true), 'me')).to.equal(true)
    expect(row.progress).to.deep.equal({ state: { owner: 'me' } })
    const other = { if: [exists('missing')] }
    await rejection(row.compareAndSetJson('progress', ['state', 'owner'], 'me', 'you', other), ConditionNotMetError)
    await rejection(compareAndSetJson([Runs, -1], 'progress', 'state', 1, 2), RowNotFoundError)
  })

  it('writes all of its operations, or none', async () => {
    const { id } = await Runs.create({ progress: { n: 1, list: 'text' } })
    const error = await rejection(
      updateJson([Runs, id], 'progress', [increment('n'), set('k', 1), append('list', 'x')]),
      JsonShapeError,
    )
    expect(error).to.deep.include({ path: ['list'], needed: 'an array', found: 'string' })
    expect(error.message).to.include('holds a string, not an array')
    expect(await stored(id)).to.deep.equal({ n: 1, list: 'text' })
  })

  it('applies the operations to the document that the row had read, or returns the stored document', async () => {
    const run = await Runs.create({ progress: { n: 1 } })
    await Runs.update({ progress: { n: 1, theirs: 1 } }, { where: { id: run.id } })
    expect(await run.updateJson('progress', [increment('n', 2), append(['log'], 'x'), addToSet('tags', 'y')])).to.equal(
      run,
    )
    expect(run.progress).to.deep.equal({ n: 3, log: ['x'], tags: ['y'] })
    await run.mergeJson('progress', { tags: null, deep: { a: 1 } }, { returning: true })
    expect(run.progress).to.deep.equal({ n: 3, log: ['x'], theirs: 1, deep: { a: 1 } })
    expect(run.changed()).to.equal(false)
    const document = await updateJson([Runs, run.id], 'progress', [remove('deep')], { returning: true })
    expect(document).to.deep.equal({ n: 3, log: ['x'], theirs: 1 })
    const call: Promise<unknown> = mergeJson([Runs, run.id], 'progress', { n: null })
    expect(await call).to.equal(undefined)
  })

  it('succeeds for an operation that changes nothing, and rejects for a row that does not exist', async () => {
    const run = await Runs.create({ progress: { tags: ['a'], k: 1 } })
    await run.updateJson('progress', [addToSet('tags', 'a'), setIfAbsent('k', 2), remove('z')])
    expect(await stored(run.id)).to.deep.equal({ tags: ['a'], k: 1 })
    await run.destroy()
    await rejection(run.updateJson('progress', [remove('z')]), RowNotFoundError)
  })

  it('remove, rename and pull do not change NULL and JSON null', async () => {
    for (const text of [null, 'null']) {
      const run = await Runs.create()
      await storeText(Runs, run.id, text)
      const operations = [remove('a'), rename(['b', 'c'], 'd'), pull('e', 1)] as const
      await run.updateJson('progress', operations)
      expect(await storedText(Runs, run.id)).to.equal(text)
      expect(run.progress ?? null).to.equal(null)
      expect(await updateJson([Runs, run.id], 'progress', operations, { returning: true })).to.equal(null)
    }
  })

  it('changes keys that look like array indexes, in JSON null too', async () => {
    const run = await Runs.create()
    await storeText(Runs, run.id, 'null')
    await run.updateJson('progress', [increment('0'), append('1', 'x')] as never)
    expect(await stored(run.id)).to.deep.equal({ 0: 1, 1: ['x'] })
  })

  it('skips an operation in memory that does not fit the stale document of the row', async () => {
    const run = await Runs.create({ progress: { list: 'stale', n: 1 } })
    await Runs.update({ progress: { list: [], n: 1 } }, { where: { id: run.id } })
    await run.updateJson('progress', [append('list', 'x'), increment('n')])
    expect(run.progress).to.deep.equal({ list: 'stale', n: 2 })
    expect(await stored(run.id)).to.deep.equal({ list: ['x'], n: 2 })
  })

  describe('a key that may be stored twice', () => {
    // Texts around them look like the key: in strings, across two strings, and in longer keys.
    const keys = [
      ...[
        'a',
        '',
        ',',
        ':',
        ', ',
        '"',
        'a"',
        '\\',
        '\\"',
        'é',
        '😀',
        'a.b',
        '(a|b)',
        'a|b',
        '[^"]*',
        '\\E',
        '\\1',
        '$',
        '\n',
        '\u2028',
      ],
      ...['A', 'a ', '{}', '},{', '":"', 'x'.repeat(4096), '^'.repeat(4096)],
    ]
    const documents = (key: string, twin: string): readonly string[] => {
      const [k, t] = [JSON.stringify(key), twin]
      return [
        `{${k}:1,${t}:2}`,
        `{${k} :1, "z":{}, ${t}\n: 2 }`,
        `{"z":${k},${k}:${k},${t}:${t}}`,
        `{"z":"b",${k}:1,"y":"b",${t}:2}`,
        `{"z":${JSON.stringify(`${k}:${k}`)},${t}:2}`,
        `{"z":${JSON.stringify(`x${key}`)},${JSON.stringify(`x${key}`)}:[${k},${k}],${t}:[1]}`,
        `{"z":[{${k}:1},{${t}:2}]}`,
      ]
    }
    const escaped = (text: string): string =>
      `"${text.replace(/[^]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)}"`

    for (const [spelling, spelled] of [
      ['in one spelling', JSON.stringify],
      ['in two spellings', escaped],
    ] as const) {
      it(`is set and removed as JSON.parse reads it, ${spelling}`, async () => {
        const { id } = await Runs.create()
        for (const [turn, key] of keys.entries()) {
          for (const [index, text] of documents(key, spelled(key)).entries()) {
            if (!database.isSampled(index, 3, turn)) continue
            const loaded = JSON.parse(text) as Record<string, unknown>
            const what = `${key.slice(0, 20)} in document ${index}`
            await storeText(Runs, id, text)
            await updateJson([Runs, id], 'progress', [set(key, 'new'), set('other', 1)] as never)
            expect(await stored(id), what).to.deep.equal({ ...loaded, [key]: 'new', other: 1 })
            await storeText(Runs, id, text)
            await updateJson([Runs, id], 'progress', [remove(key)] as never)
            const rest = Object.entries(loaded).filter(([each]) => each !== key)
            expect(await stored(id), what).to.deep.equal(Object.fromEntries(rest))
          }
        }
      })
    }
  })

  describe('a value that holds a key twice', () => {
    const many = Object.fromEntries(Array.from({ length: 40 }, (_, index) => [`k${index}`, index]))
    const all = [
      '{"a":1,"a":2}',
      '{"a":2,"a":2}',
      '{ "a" : 1 , "\\u0061" : 2 }',
      '{"a":{"x":1},"a":{"y":2}}',
      '{"a":[1],"b":2,"a":[2],"b":2}',
      '[{"b":{"a":1,"a":2}}]',
      '{"a":null,"b":[{"k\\"":1,"k\\"":{}}],"a":"\\"a\\":1"}',
      '{"-1":1,"-1":2}',
      '{"a.b":0,"a":1,"a.b":{"é":1,"é":"ü"}}',
      '{"":0,"":{"":1,"":2}}',
      `{"k0":"twice",${JSON.stringify(many).slice(1)}`,
      // Each key once in its object.
      '{"a":{"a":2},"b":"{\\"a\\":1,\\"a\\":2}"}',
      '{"id":1,"a":2,"more":"text"}',
    ]
    const values = all.filter((_value, index) => !isOtherWay || index % 4 === 0)
    const operands = [
      ...all.map((each) => JSON.parse(each) as unknown),
      ...[1, 2].map((a) => ({ a })),
      ...[{ a: { x: 1, y: 2 } }, { a: [1], b: 2 }, [{ b: { a: 1 } }], { '-1': 1 }, { a: 2, b: 2 }, {}, []],
    ]

    it('is compared by pull, addToSet and matching as JSON.parse reads it', async () => {
      const texts = values.map((each) => `{"a":[${each},3,{"z":[${each}]}]}`)
      const lists = operands.flatMap((each) => [
        [pull('a', each)],
        [addToSet('a', each)],
        [pull('a', { z: [each] })],
        ...(Object.hasOwn(each as object, 'a') ? [[pull('a', matching(each as never))]] : []),
      ])
      await expectNoMismatch(texts, lists, sequelize, 4)
    })

    it('meets equals and contains, or their negations, as JSON.parse reads it', async () => {
      const writeAll = await rowsWith(values.map((each) => `{"value":${each},"in":{"list":[${each},3]}}`))
      const wrong: unknown[] = []
      const conditions = operands.flatMap((each): Condition[] => [
        ...[equals('value', each), contains(['in', 'list'], each)],
        ...[equals(['in', 'list'], [each, 3]), equals('in', { list: [each, 3] })],
      ])
      for (const [turn, condition] of conditions.entries()) {
        for (const [index, each] of [condition, not(condition)].entries()) {
          // The next operand has the other one.
          if (!database.isSampled(index, 2, turn + Math.floor(turn / 4))) continue
          wrong.push(...(await conditionMismatches(writeAll, () => [each])))
        }
      }
      expect(wrong.slice(0, 3)).to.deep.equal([])
    })

    it('gives increment, min and max its last number, where null counts as missing', async () => {
      const texts = [
        ...['{"a":1.5,"a":null}', '{"a":null,"a":1.5}', '{"a":1,"a":2}', '{"a":2,"a":1}', '{"a":1,"\\u0061":null}'],
        ...['{"a":"x","a":1}', '{"a":1,"a":"x"}', '{"a":{"n":1},"a":{"n":null}}', '{"a":null,"a":{}}'],
        ...['{"a":[{"n":1,"n":null}]}', '{"a":[{"n":null,"n":2}]}'],
      ]
      const lists = [['a'], ['a', 'n'], ['a', 0, 'n']].flatMap((path) => [
        ...[1, -0.5].map((by) => [increment(path, by)]),
        ...[0, 1.75].flatMap((bound) => [[min(path, bound)], [max(path, bound)]]),
      ])
      expect(await mismatches(sequelize, texts, lists)).to.deep.equal([])
    })
  })

  it('writes beside a text with a million backslashes, and beside a name that occurs 20,000 times', async () => {
    const { id } = await Runs.create()
    for (const document of [
      { path: '\\'.repeat(500_000) },
      { jobs: Array.from({ length: 20_000 }, (_, index) => ({ status: 'ok', index })) },
    ]) {
      await storeText(Runs, id, JSON.stringify(document))
      await updateJson([Runs, id], 'progress', [set('status', 'done'), set('path', 'C:\\')] as never)
      expect(await stored(id)).to.deep.equal({ ...document, status: 'done', path: 'C:\\' })
    }
  })

  if (database.name === 'mariadb' && !isOtherWay) {
    it('refuses a key that is stored twice, before and after ten million quotes, as the statement would be too large', async () => {
      const { id } = await Runs.create()
      const list = `REPEAT('"",', 5000000)`
      await Runs.sequelize!.query(
        `UPDATE workflow_runs SET progress = CONCAT('{"k":1,"list":[', ${list}, '""],"k":2}') WHERE id = ${id}`,
      )
      const { message } = await rejection(
        updateJson([Runs, id], 'progress', [set('k', 3)] as never),
        UnsupportedValueError,
      )
      expect(message).to.include('(max_allowed_packet)')
      const sql = `SELECT LEFT(progress, 6) AS first, RIGHT(progress, 6) AS last FROM workflow_runs WHERE id = ${id}`
      const [row] = await Runs.sequelize!.query(sql, { type: QueryTypes.SELECT })
      expect(row).to.deep.equal({ first: '{"k":1', last: '"k":2}' })
    })
  }

  if (database.name === 'mariadb') {
    it('refuses an invalid number that JSON_VALID accepts', async () => {
      const { id } = await Runs.create()
      for (const text of ['{"a":1e,"b":1}', '{"b":1,"a":-}', '{"a":1.5e+}']) {
        await storeText(Runs, id, text)
        for (const operation of [rename('a', 'z'), setIfAbsent('a', 1), increment('a')]) {
          const error = await rejection(updateJson([Runs, id], 'progress', [operation] as never), JsonShapeError)
          expect(error.found).to.equal('text that is not JSON')
        }
        expect(await storedText(Runs, id)).to.equal(text)
      }
    })
  }

  it('pulls from several lists at once', async () => {
    const lists = { a: ['x', 1, null, 'x'], b: [{ x: 1 }, 1.0], c: [] as unknown[] }
    const { id } = await Runs.create({ progress: lists })
    await updateJson([Runs, id], 'progress', [pull('a', 'x'), pull('b', 1), pull('c', 'x'), pull('none', 1)] as never)
    expect(await stored(id)).to.deep.equal({ a: [1, null], b: [{ x: 1 }], c: [] })
    const error = await rejection(
      updateJson([Runs, id], 'progress', [pull('a', 1), pull(['b'], 1), set('a2', 1), pull('d', 1)] as never).then(() =>
        updateJson([Runs, id], 'progress', [pull('a', null), pull('a2', 1)] as never),
      ),
      JsonShapeError,
    )
    expect(error.message).to.include('a2')
    expect(await stored(id)).to.deep.equal({ a: [null], b: [{ x: 1 }], c: [], a2: 1 })
  })

  it('adds to a stored number that the database spells differently without rounding it', async () => {
    const { id } = await Runs.create()
    for (const text of ['{"\\u00e9":9007199254740993}', '{"é":1,"é":9007199254740993}']) {
      await storeText(Runs, id, text)
      await updateJson([Runs, id], 'progress', [increment('é', 2)])
      expect(await textOf(id)).to.include('9007199254740995')
    }
  })

  it('keeps integers past 2^53 exact, also those of other writers', async () => {
    const { id } = await Runs.create()
    await storeText(Runs, id, '{"n":9007199254740993,"m":4294967295}')
    await updateJson([Runs, id], 'progress', [increment('n', 2), increment('m')])
    expect(await textOf(id))
      .to.match(/9007199254740995\b/)
      .and.match(/4294967296\b/)
  })

  it('accepts a bigint if the database keeps it exactly, else refuses it', async () => {
    const { id } = await Runs.create({ progress: { list: [] } })
    await updateJson([Runs, id], 'progress', [set('a', { n: 9007199254740993n }), append('list', -9007199254740993n)])
    await updateJson([Runs, id], 'progress', [
      increment('b', 9007199254740993n),
      merge('m', { small: 1n, big: 9007199254740993n, none: null }),
    ])
    await updateJson([Runs, id], 'progress', [increment('b', 1n << 60n)])
    const text = await textOf(id)
    expect(text.match(/\d{16}/g)).to.have.length(4)
    expect(text)
      .to.match(/"n":\s*9007199254740993\b/)
      .and.match(/-9007199254740993\b/)
      .and.match(/"small":\s*1\b/)
      .and.match(/"b":\s*1161928703861587969\b/)
    const huge = updateJson([Runs, id], 'progress', [set('huge', 12345678901234567890123n)])
    if (database.name === 'mysql' || database.name === 'sqlite') {
      expect((await rejection(huge, UnsupportedValueError)).message).to.include('it would be rounded')
    } else {
      await huge
      expect(await textOf(id)).to.include('12345678901234567890123')
    }
    await updateJson([Runs, id], 'progress', [set('double', 1.2345678901234568e20), addToSet('list', 2 ** 60)])
    expect(await stored(id)).to.include({ double: 1.2345678901234568e20 })
  })

  it(`compares values by one rule for every spelling: ${equalities.length} values`, async () => {
    const { id } = await Runs.create()
    const wrong: unknown[] = []
    for (const [value, equal, unequal] of equalities) {
      const check = async (title: string, operation: Operation, items: readonly string[], wanted: number) => {
        const before = `{"list":[${items.join()}]}`
        await storeText(Runs, id, before)
        const row = Runs.build({ id, progress: JSON.parse(before) as Progress }, { isNewRecord: false, raw: true })
        await updateJson<WorkflowRun, 'progress', Operation[]>(row, 'progress', [operation] as never)
        const text = await textOf(id)
        const { list } = JSON.parse(text) as { list: unknown[] }
        // The digits of an integer are kept, whether JavaScript can hold it or not.
        const lost = unequal.filter((each) => /^-?\d+$/.test(each) && !new RegExp(`[^.\\d]${each}[^.\\d]`).test(text))
        const inMemory = /\d{16}/.test(before) ? list : row.progress?.['list']
        const areAs = [list, inMemory].every((each) => (each as unknown[]).length === wanted)
        if (!areAs || lost.length > 0) wrong.push({ title, value, items, text, inMemory })
      }
      await check('pull', pull('list', value), [...equal, ...unequal, ...equal], unequal.length)
      await check('addToSet of a new value', addToSet('list', value), unequal, unequal.length + 1)
      for (const each of equal) {
        await check(`addToSet beside ${each}`, addToSet('list', value), [...unequal, each], unequal.length + 1)
      }
      for (const each of [...equal, ...unequal]) {
        await storeText(Runs, id, `{"value":${each}}`)
        const call = updateJson([Runs, id], 'progress', [set('probe', 1)], { if: [equals('value', value)] })
        const outcome = await call.then(
          () => 'written',
          (error: unknown) =>
            error instanceof ConditionNotMetError || error instanceof UnsupportedValueError ? 'refused' : String(error),
        )
        if (outcome !== (equal.includes(each) ? 'written' : 'refused'))
          wrong.push({ title: 'equals', value, each, outcome })
      }
      const keyed = [
        ...equal.map((each, at) => [`e${at}`, each]),
        ...unequal.map((each, at) => [`u${at}`, each]),
        ...equal.map((each, at) => [`le${at}`, `[${[...unequal, each].join()}]`]),
        ['lu', `[${unequal.join()}]`],
      ]
      const document = `{${keyed.map(([key, text]) => `"${key}":${text}`).join()}}`
      await storeText(Runs, id, document)
      const met = [
        ...unequal.map((_, at) => not(equals(`u${at}`, value))),
        ...equal.map((_, at) => contains(`le${at}`, value)),
        not(contains('lu', value)),
      ]
      const outcome = await outcomeOf(updateJson([Runs, id], 'progress', [set('probe', 1)], { if: met }))
      if (outcome !== 'written') wrong.push({ title: 'not(equals), contains', value, outcome: String(outcome) })
      for (const [at] of equal.entries()) {
        await storeText(Runs, id, document)
        const call = updateJson([Runs, id], 'progress', [set('probe', 1)], { if: [not(equals(`e${at}`, value))] })
        const told = await outcomeOf(call)
        if (!(told instanceof ConditionNotMetError))
          wrong.push({ title: 'not', value, each: equal[at], told: String(told) })
      }
    }
    expect(wrong.slice(0, 5)).to.deep.equal([])
  })

  it('finds small numbers that it has written with addToSet and pull', async () => {
    const numbers = Array.from({ length: 60 }, (_, index) => (index + 1) * 1.1 * 10 ** -(7 + index))
    const list = (kind: typeof addToSet | typeof pull): Operation[] =>
      numbers.map((each, index) => kind(`list ${index}`, each))
    const items = numbers.map((_, index) => numbers.slice(Math.max(index - 2, 0), index + 2))
    const before = Object.fromEntries(items.map((each, index) => [`list ${index}`, each]))
    const { id } = await Runs.create({ progress: before })
    await updateJson<WorkflowRun, 'progress', Operation[]>([Runs, id], 'progress', list(addToSet))
    expect(await stored(id)).to.deep.equal(before)
    await updateJson<WorkflowRun, 'progress', Operation[]>([Runs, id], 'progress', list(pull))
    const after = items.map((each, index) => [`list ${index}`, each.filter((item) => item !== numbers[index])] as const)
    expect(await stored(id)).to.deep.equal(Object.fromEntries(after))
  })

  it('compares integers past 2^53 exactly for min and max', async () => {
    const { id } = await Runs.create()
    for (const [start, operation, wanted] of [
      ['9007199254740993', min('n', 9007199254740992n), '9007199254740992'],
      ['9007199254740992', min('n', 9007199254740993n), '9007199254740992'],
      ['9007199254740992', max('n', 9007199254740993n), '9007199254740993'],
      ['-9007199254740993', max('n', -9007199254740992n), '-9007199254740992'],
      ['9223372036854775806', max('n', 9223372036854775807n), '9223372036854775807'],
      ['9007199254740993', max('n', 2 ** 53), '9007199254740993'],
      ['9007199254740993', min('n', 0.5), '0.5'],
      ['0.5', max('n', 9007199254740993n), '9007199254740993'],
      ['1e-75', min('n', 1e-7), '1e-75'],
      ['1e-7', min('n', 1e-75), '1e-75'],
      ['1e3', max('n', 999n), '1e3'],
    ] as const) {
      await storeText(Runs, id, `{"n":${start}}`)
      await updateJson([Runs, id], 'progress', [operation])
      const text = (await textOf(id)).replace(/^\{"n":\s*|\}$/g, '')
      const isAs = /^-?\d+$/.test(wanted) ? text === wanted : Number(text) === Number(wanted)
      expect(isAs, `${start}, ${operation.kind} ${operation.json}: ${text}`).to.equal(true)
    }
  })

  it('merges integers with all their digits and keys with escapes under their own names', async () => {
    // On Node 24 and 26, JSON.parse gives an escaped key the name of an earlier one of the same length.
    JSON.parse('{"\\\\":1}')
    const names = ['"', '\\', '\n', 'a\\b', 'a"b', 'a\tb']
    const named: Record<string, string> = Object.fromEntries(names.map((name) => [name, name]))
    const patch = { ...named, deep: { ...named, n: 9007199254740993n } }
    const calls = [
      (id: number) => mergeJson([Runs, id], 'progress', patch),
      (id: number) => updateJson([Runs, id], 'progress', [merge('at', patch)]),
      (id: number) => updateJson([Runs, id], 'progress', [merge('at', patch), set(['other', 'n'], 1)]),
    ]
    for (const call of calls) {
      const { id } = await Runs.create({ progress: { deep: 1 } })
      await call(id)
      const text = await textOf(id)
      expect(text).to.match(/"n":\s*9007199254740993\b/)
      // Each name has itself as its value, once in each of two objects.
      for (const name of names) {
        const own = JSON.stringify(name)
        const pairs = text.replaceAll(/:\s+/g, ':').split(`${own}:${own}`)
        expect(pairs, `${text} has ${own}`).to.have.length(3)
      }
    }
  })

  it('adds integers exactly, and other numbers as JavaScript does, or refuses to', async () => {
    const [two63, two64, digits64] = [2n ** 63n, 2n ** 64n, 10n ** 64n - 1n]
    // undefined: no database adds them.
    const sums: readonly (readonly [stored: string, by: number | bigint, sum: bigint | number | undefined])[] = [
      ['9007199254740993', 2, 9007199254740995n],
      [`${two63 - 2n}`, 1, two63 - 1n],
      [`${two63 - 1n}`, 1, two63],
      [`${-two63}`, 1n, 1n - two63],
      [`${-two63}`, -1, -two63 - 1n],
      [`${two64 - 1n}`, -1, two64 - 2n],
      [`${two64 - 1n}`, 1, two64],
      [`${digits64}`, two63 - 1n, digits64 + two63 - 1n],
      [`${digits64 + 1n}`, 1, digits64 + 2n],
      ['9007199254740993', 0.5, 2 ** 53],
      ['1.5', 9007199254740993n, 2 ** 53 + 2],
      ['0.1', 0.2, 0.1 + 0.2],
      ['0.1', 0.7, 0.1 + 0.7],
      ['1e3', 1, 1001],
      ['1e-7', 1, 1.0000001],
      ['5e-324', 5e-324, 1e-323],
      ['5', 1e21, 1e21],
      ['1e308', 1e307, 1e308 + 1e307],
      ['1.7e308', -1e308, 1.7e308 - 1e308],
      ['1e308', 1e308, undefined],
      ['-1e308', -1e308, undefined],
      ['1.5e308', 1.7e308, undefined],
      ['1e400', -1e308, undefined],
    ]
    const ranges: Partial<Record<typeof database.name, readonly [least: bigint, greatest: bigint]>> = {
      mysql: [-two63, two64 - 1n],
      mariadb: [-digits64, digits64],
      sqlite: [-two63, two63 - 1n],
    }
    const [least, greatest] = ranges[database.name] ?? []
    const isHeld = (each: bigint): boolean => (least ?? each) <= each && each <= (greatest ?? each)
    // MariaDB stores sums that it cannot add to.
    const isExact = (before: bigint, sum: bigint): boolean =>
      isHeld(before) && (database.name === 'mariadb' || isHeld(sum))
    const wrong: unknown[] = []
    for (const [before, by, sum] of sums) {
      // MySQL stores longer integers as doubles, and no greater numbers.
      const isStored = /^-?\d+$/.test(before) ? isHeld(BigInt(before)) : Number.isFinite(Number(before))
      if (database.name === 'mysql' && !isStored) continue
      const { id } = await Runs.create()
      await storeText(Runs, id, `{"in":{"n":${before}}}`)
      const stored = await textOf(id)
      const row = Runs.build({ id, progress: JSON.parse(stored) as Progress }, { isNewRecord: false, raw: true })
      const call = row.updateJson('progress', [increment(['in', 'n'], by), set('k', 1)])
      const outcome = await call.then(
        () => undefined,
        (error: unknown) => error,
      )
      const after = await textOf(id)
      const isRefused = sum === undefined || (typeof sum === 'bigint' && !isExact(BigInt(before), sum))
      const [number] = /(?<="n":\s*)[^\s}]+/.exec(after) ?? []
      const isAs = isRefused
        ? after === stored && outcome instanceof UnsupportedValueError && outcome.message.includes('["in","n"]')
        : outcome === undefined && (typeof sum === 'bigint' ? number === `${sum}` : Number(number) === sum)
      const inMemory = (row.progress as { in: { n: unknown } }).in.n
      const isSame = typeof sum !== 'number' || inMemory === sum
      if (!isAs || !isSame) wrong.push({ before, by, sum, after, inMemory, outcome: String(outcome) })
    }
    expect(wrong).to.deep.equal([])
  })

  it('adds 0.1 ten times as JavaScript does', async () => {
    const run = await Runs.create({ progress: {} })
    let sum = 0
    for (let round = 0; round < 10; round++) {
      await run.updateJson('progress', [increment('n', 0.1)])
      sum += 0.1
    }
    expect([run.progress, await stored(run.id)]).to.deep.equal([{ n: sum }, { n: sum }])
  })

  it('accepts a bigint if the prototype of bigint has a toJSON', async () => {
    const prototype = BigInt.prototype as unknown as { toJSON?: () => string }
    prototype.toJSON = () => 'text'
    try {
      const { id } = await Runs.create({ progress: { n: 1 } })
      await updateJson([Runs, id], 'progress', [increment('n', 5n), set('a', [2n])])
      expect(await stored(id)).to.deep.equal({ n: 6, a: [2] })
    } finally {
      delete prototype.toJSON
    }
  })

  if (database.name === 'mariadb') {
    it('never truncates an array that is longer than the server can aggregate', async () => {
      const items = Array.from({ length: 1500 }, (_, index) => `${index} ${'x'.repeat(1000)}`)
      const { id } = await Runs.create({ progress: { items } })
      const [row] = await sequelize.query<{ bytes: number }>('SELECT @@global.max_allowed_packet AS bytes', {
        type: QueryTypes.SELECT,
      })
      await sequelize.query('SET GLOBAL max_allowed_packet = 1048576')
      try {
        const { sequelize: loose } = database.connect({ pool: { max: 1 } })
        await loose.query(`SET SESSION sql_mode = ''`)
        const call = updateJson([defineRuns(loose), id], 'progress', [pull('items', items[7])])
        expect((await rejection(call, Error)).message).to.match(/max_allowed_packet/)
      } finally {
        await sequelize.query(`SET GLOBAL max_allowed_packet = ${row!.bytes}`)
      }
      expect(await stored(id)).to.deep.equal({ items })
    })
  }

  it('keeps all other items of a long array', async () => {
    // The last one is larger than the buffer in which MySQL sorts.
    const items = [...Array.from({ length: 3000 }, (_, index) => `${index} ${'x'.repeat(500)}`), 'y'.repeat(300_000)]
    const { id } = await Runs.create({ progress: { items } })
    await updateJson([Runs, id], 'progress', [pull('items', items[7])])
    expect(await stored(id)).to.deep.equal({ items: items.toSpliced(7, 1) })
    await updateJson([Runs, id], 'progress', [set('items', [...items, items[7]])])
    await updateJson([Runs, id], 'progress', [pull('items', items[7])])
    expect(await stored(id)).to.deep.equal({ items: items.toSpliced(7, 1) })
  })

  it('changes an array of 12,000 objects', async () => {
    const items = Array.from({ length: 12_000 }, (_, index) => ({ id: index, name: `item ${index}` }))
    const { id } = await Runs.create({ progress: { items: [...items, items[7]] } })
    await updateJson([Runs, id], 'progress', [pull('items', items[7])])
    await updateJson([Runs, id], 'progress', [pull('items', items[8])])
    await updateJson([Runs, id], 'progress', [addToSet('items', { id: -1 })])
    expect(await stored(id)).to.deep.equal({ items: [...items.toSpliced(7, 2), { id: -1 }] })
  })

  if (database.name === 'mysql' || database.name === 'mariadb') {
    it('refuses a statement that the server would answer by closing the connection', async () => {
      const { sequelize: own, log } = database.connect()
      const [row] = await own.query<{ bytes: number }>('SELECT @@max_allowed_packet AS bytes', {
        type: QueryTypes.SELECT,
      })
      const { id } = await Runs.create()
      const call = mergeJsonKey([defineRuns(own), id], 'progress', 'k', 'x'.repeat(row!.bytes))
      expect((await rejection(call, UnsupportedValueError)).message).to.match(
        / bytes, and this .* \(max_allowed_packet\)/,
      )
      const save = withLock([defineRuns(own), id], async (locked) => {
        locked.progress = { k: 'x'.repeat(row!.bytes) }
        await locked.save()
      })
      expect((await rejection(save, UnsupportedValueError)).message).to.match(
        /^save: .* bytes, and this .* \(max_allowed_packet\)/,
      )
      expect(log.filter((sql) => sql.startsWith('UPDATE'))).to.deep.equal([])
      expect(await stored(id)).to.equal(null)
    })
  }

  // Which length an expression of JavaScript can read does not depend on the database.
  const quotes = isWhole || database.name === 'sqlite' ? 3_500_000 : 350_000
  it(`reads and writes a document with a string of ${quotes} quotes`, async () => {
    const text = '"'.repeat(quotes)
    const { id } = await Runs.create({ progress: { list: [1, 'x'], n: 1, text } })
    const operations = [pull('list', 1), pull('none', 1), increment('n')]
    const after = { list: ['x'], n: 2, text }
    const answer = await updateJson([Runs, id], 'progress', operations as never, { returning: true })
    expect(isDeepStrictEqual(answer, after)).to.equal(true)
    expect((await rejection(updateJson([Runs, id], 'progress', [append('n', 1)]), JsonShapeError)).found).to.equal(
      'number',
    )
    await withLock([Runs, id], async (row) => {
      row.progress!['n'] = 3
      await row.save()
    })
    expect(isDeepStrictEqual(await stored(id), { ...after, n: 3 })).to.equal(true)
  })

  it('merges as in the examples of RFC 7396, appendix A', async () => {
    const { id } = await Runs.create()
    for (const [document, patch, result] of [
      ['{"a":"b"}', { a: 'c' }, { a: 'c' }],
      ['{"a":"b"}', { b: 'c' }, { a: 'b', b: 'c' }],
      ['{"a":"b"}', { a: null }, {}],
      ['{"a":"b","b":"c"}', { a: null }, { b: 'c' }],
      ['{"a":["b"]}', { a: 'c' }, { a: 'c' }],
      ['{"a":"c"}', { a: ['b'] }, { a: ['b'] }],
      ['{"a":{"b":"c"}}', { a: { b: 'd', c: null } }, { a: { b: 'd' } }],
      ['{"a":[{"b":"c"}]}', { a: [1] }, { a: [1] }],
      ['{"e":null}', { a: 1 }, { e: null, a: 1 }],
      ['{}', { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
    ] as const) {
      await storeText(Runs, id, document)
      expect(await mergeJson([Runs, id], 'progress', patch, { returning: true })).to.deep.equal(result)
    }
    // The rest of the appendix replaces the document by what is no object, or patches an array: refused here.
    await rejection(mergeJson([Runs, id], 'progress', ['c'] as never), UsageError)
    await storeText(Runs, id, '["a","b"]')
    await rejection(mergeJson([Runs, id], 'progress', { a: 'b' }), JsonShapeError)
  })

  it('changes no document with an empty list of operations, but checks the row and the conditions', async () => {
    const Plain = sequelize.define('PlainRun', { progress: DataTypes.JSON }, { timestamps: false })
    await Plain.sync({ force: true })
    for (const Model of [Runs, Plain] as (typeof Runs)[]) {
      const run = await Model.create({ progress: { a: 1 } })
      await updateJson([Model, run.id], 'progress', [])
      expect(await updateJson([Model, run.id], 'progress', [], { returning: true })).to.deep.equal({ a: 1 })
      expect(await updateJson(run, 'progress', [], { if: [exists('a')] })).to.equal(run)
      expect(await updateJson(run, 'progress', [], { coalesce: true })).to.equal(run)
      await rejection(updateJson(run, 'progress', [], { if: [exists('b')] }), ConditionNotMetError)
      await rejection(updateJson([Model, run.id + 1000], 'progress', []), RowNotFoundError)
      const none: number[] = []
      for (const path of ['a', 'b', ['b', 'c'], ['b', 0]]) {
        await updateJson<WorkflowRun, 'progress', Operation[]>(run, 'progress', [append(path, ...none)])
        await updateJson<WorkflowRun, 'progress', Operation[]>(run, 'progress', [append(path, ...none), remove('z')])
      }
      await rejection(
        updateJson([Model, run.id + 1000], 'progress', [append('a' as never, ...none)] as never),
        RowNotFoundError,
      )
      expect((await Model.findByPk(run.id, { rejectOnEmpty: true })).progress).to.deep.equal({ a: 1 })
    }
  })

  it('refuses an invalid list of operations, before any SQL', async () => {
    const run = await Runs.create({ progress: {} })
    const refused: Record<string, [() => unknown, RegExp]> = {
      'no list': [() => run.updateJson('progress', set('a', 1) as never), /expected an array of operations/],
      'other things in it': [() => run.updateJson('progress', [{ a: 1 }] as never), /expected an array of operations/],
      'a rename to itself': [
        () => run.updateJson('progress', [rename(['a', 'b'], 'b')]),
        /the new key "b" is the old one/,
      ],
      'a rename over another path': [
        () => run.updateJson('progress', [rename(['a', 'b'], 'c'), set(['a', 'c', 'd'], 1)]),
        /\["a","c"\] and \["a","c","d"\] overlap/,
      ],
      'the same path twice': [
        () => run.updateJson('progress', [set('a', 1), increment('a')]),
        /\["a"\] and \["a"\] overlap/,
      ],
      'a path inside another': [() => run.updateJson('progress', [set(['a', 'b'], 1), remove('a')]), /overlap/],
      'a merge of the root beside others': [() => run.updateJson('progress', [merge([], {}), set('a', 1)]), /overlap/],
      'a step that is none': [
        () => set(['a', true] as never, 1),
        /set: expected a path to be a key, or an array of keys/,
      ],
      'a copy of a matching step': [
        () => set(['a', { ...matching({ id: 1 }) }], 1),
        /set: .* from another source, such as a request body, is not a step/,
      ],
      'an index that is no whole number': [() => set(['a', 0.5], 1), /set: expected the index .* got 0\.5 \(number\)/],
      'an index past 2^53': [() => remove(['a', 2 ** 53]), /remove: expected the index/],
      'nothing to match': [() => matching({}), /matching: expected an object with at least one key/],
      'a value to match': [() => matching(7 as never), /matching: expected an object .* got 7 \(number\)/],
      'undefined to match': [() => matching({ id: undefined }), /matching: the value at "id" is undefined/],
      'an element that is renamed': [() => rename(['a', 0], 'b'), /\["a",0\] ends at an array element/],
      'an item without its key': [() => replaceOrAppend('a', 'id', { n: 1 }), /with the key "id"/],
      'a key of an item that is none': [
        () => replaceOrAppend('a', 5 as never, { n: 1 }),
        /expected a key to be a string/,
      ],
      'an index that may be another': [
        () => run.updateJson('progress', [set(['a', 0], 1), set(['a', -1], 2)]),
        /\["a",0\] and \["a",-1\] overlap, or may be of the same array element/,
      ],
      'an index that may match': [
        () => run.updateJson('progress', [set(['a', 0, 'n'], 1), set(['a', matching({ id: 1 }), 'm'], 2)]),
        /\["a",0,"n"\] and \["a",matching\(\{"id":1\}\),"m"\] overlap/,
      ],
      'two matching steps that may meet': [
        () => run.updateJson('progress', [remove(['a', matching({ id: 1 })]), set(['a', matching({ n: 1 }), 'm'], 2)]),
        /overlap/,
      ],
      'the same matching step twice': [
        () =>
          run.updateJson('progress', [
            set(['a', matching({ n: { x: 1, y: 2 } })], 1),
            pull('a', matching({ n: { y: 2.0, x: 1 } })),
          ]),
        /overlap/,
      ],
      'an index beside a removed one': [() => run.updateJson('progress', [remove(['a', 0], ['a', 1])]), /overlap/],
      'an array and its element': [() => run.updateJson('progress', [append('a', 1), set(['a', 0], 2)]), /overlap/],
      'a root array beside others': [
        () => run.updateJson('progress', [append([], 1), set([0], 2)] as never),
        /overlap/,
      ],
      'an empty path': [() => remove([]), /remove: the path is empty/],
      'an amount that is none': [
        () => increment('a', '1' as never),
        /expected the operand to be a number or a bigint, got "1" \(string\)/,
      ],
      'a patch that is no object': [() => merge('a', 5), /expected the patch to be an object, got 5 \(number\)/],
      'a value that is none': [() => append('a', undefined), /append: the value is undefined/],
      'nothing to assign': [() => assign('a', {}), /assign: expected an object with at least one key/],
      'an array that is assigned': [() => assign('a', [1]), /assign: .* got an array of 1/],
      'undefined that is assigned': [
        () => assign('a', { b: 1, c: undefined }),
        /assign: the value at "c" is undefined/,
      ],
      'an assigned key beside it': [
        () => run.updateJson('progress', [assign('a', { b: 1 }), set(['a', 'b'], 2)]),
        /\["a","b"\] and \["a","b"\] overlap/,
      ],
      'a path removed twice': [() => run.updateJson('progress', [remove(['a', 'b'], 'c', 'a')]), /overlap/],
      'a removed path that is none': [() => remove('a', 5 as never), /remove: expected a path/],
      'a boolean that is compared': [
        () => greaterThan('a', true as never),
        /greaterThan: expected the operand to be a number, a bigint or a string, got true \(boolean\)/,
      ],
      'null that is compared': [() => atMost('a', null as never), /atMost: expected the operand/],
      'a Date that is compared': [
        () => lessThan('a', new Date() as never),
        /lessThan\('expiresAt', date\.toISOString\(\)\)/,
      ],
      'a size below 0': [() => size('a', -1), /size: expected a whole number from 0/],
      'a size that is a text': [() => size('a', { atMost: '1' } as never), /size: expected a whole number from 0/],
      'bounds of a size in the wrong order': [
        () => size('a', { atLeast: 5, atMost: 3 }),
        /atLeast is not the greater one/,
      ],
      'a size without a bound': [() => size('a', {}), /an object of atLeast and atMost/],
      'a size with another bound': [() => size('a', { lessThan: 1 } as never), /an object of atLeast and atMost/],
      'no condition under not': [
        () => not({ ...exists('a') }),
        /not: expected a condition, got an object with the keys kind, /,
      ],
      'an empty path of a condition': [() => exists([]), /exists: the path is empty/],
    }
    for (const [title, [act, text]] of Object.entries(refused)) {
      const call = new Promise((resolve) => resolve(act()))
      expect((await rejection(call, UsageError)).message, title).to.match(text)
    }
    await rejection(new Promise((resolve) => resolve(increment('a', NaN))), UnsupportedValueError)
    expect(await stored(run.id)).to.deep.equal({})
  })

  // The table of the limits of one call, docs/reference/limits.md.
  const maxBinds = { mysql: 65_535, mariadb: undefined, postgres: 65_535, sqlite: 32_766 }[database.dialect]
  const maxPath = { mysql: 100, mariadb: 31, postgres: 256, sqlite: 1000 }[database.name]
  const keysOf = (count: number): string[] => Array.from({ length: count }, (_, index) => `k${index}`)
  const deepPath = (length: number): string[] => Array.from({ length }, () => 'k')

  if (!isOtherWay) {
    it('writes thousands of paths with one UPDATE', async () => {
      const { sequelize: own, log } = database.connect({ pool: { max: 1 } })
      const Own = defineRuns(own)
      const before = { k0: { a: { c: 1 } }, k2: 1 }
      const calls: readonly (readonly [title: string, operations: readonly Operation[], conditions?: Condition[]])[] = [
        ['flat sets', keysOf(520).map((key) => set(`new ${key}`, 1))],
        ['nested sets', keysOf(260).map((key) => set([`new ${key}`, 'a'], { b: 1 }))],
        ['merged objects', keysOf(1100).map((key) => merge(key === 'k2' ? 'other' : key, { a: { b: 1 } }))],
        ['merged keys', [merge([], Object.fromEntries(keysOf(3000).map((key) => [key, 1])))]],
        [
          'removed and renamed keys',
          keysOf(1100).map((key, at) => (at % 2 ? remove(key) : rename(key, `${key} moved`))),
        ],
        ['conditions', [set('k', 1)], keysOf(1100).map((key) => absent(`new ${key}`))],
        ['a path', [set(deepPath(Math.min(maxPath, 128)), 1)]],
        ['a path to the limit', database.name === 'postgres' ? [set('k', 1)] : [set(deepPath(maxPath), 1)]],
      ]
      for (const [title, operations, conditions = []] of calls) {
        const { id } = await Runs.create({ progress: before })
        log.length = 0
        const options = { if: conditions }
        await updateJson<WorkflowRun, 'progress', Operation[]>([Own, id], 'progress', operations as never, options)
        const updates = log.filter((sql) => sql.startsWith('UPDATE'))
        expect(updates, title).to.have.length(1)
        const wanted: unknown = JSON.parse(JSON.stringify(expected(operations, before)))
        expect(isDeepStrictEqual(await stored(id), wanted), title).to.equal(true)
      }
    })
  }

  it('refuses one bind, one key and one level more than the documented limits, before any SQL', async () => {
    const { sequelize: own, log } = database.connect({ pool: { max: 1 } })
    const Own = defineRuns(own)
    const { id } = await Runs.create({ progress: {} })
    await updateJson([Own, id], 'progress', [set('k', 1)])
    log.length = 0
    // Each condition has a bind for its value, and one for its path, which is shared on SQLite.
    const count = Math.ceil((maxBinds ?? 0) / (database.name === 'sqlite' ? 1 : 2))
    const conditions = new Array<Condition>(count).fill(equals('k', 1))
    const refused: readonly (readonly [number | undefined, readonly Operation[], Condition[], string])[] = [
      [maxBinds, [set('z', 1)], conditions, `accepts ${maxBinds}`],
      [maxPath, [set(deepPath(maxPath + 1), 1)], [], `more than ${maxPath} `],
      [maxPath, [merge(deepPath(maxPath), { k: 1 })], [], `more than ${maxPath} `],
    ]
    for (const [limit, operations, each, message] of refused) {
      if (limit === undefined) continue
      const options = { if: each }
      const call = updateJson<WorkflowRun, 'progress', Operation[]>([Own, id], 'progress', operations as never, options)
      expect((await rejection(call, UnsupportedValueError)).message).to.include(message)
    }
    expect(log).to.deep.equal([])
    expect(await stored(id)).to.deep.equal({ k: 1 })
  })

  it('removes and merges at many paths, or refuses to', async () => {
    const start = Object.fromEntries(Array.from({ length: 600 }, (_, index) => [`k${index}`, index]))
    const { id } = await Runs.create({ progress: start })
    const names = Object.keys(start)
    await updateJson([Runs, id], 'progress', [merge([], Object.fromEntries(names.map((name) => [name, 'merged'])))])
    await updateJson([Runs, id], 'progress', [
      ...names.slice(0, 85).map((name) => remove(name)),
      ...names.slice(100, 185).map((name) => rename(name, `${name} moved`)),
      ...names.slice(200, 242).map((name) => merge(name, { a: 1, b: null })),
    ])
    const after = (await stored(id)) as Progress
    expect(Object.keys(after)).to.have.length(515)
    expect([after['k0'], after['k100 moved'], after['k200'], after['k599']]).to.deep.equal([
      undefined,
      'merged',
      { a: 1 },
      'merged',
    ])
    await updateJson([Runs, id], 'progress', [merge([], Object.fromEntries(names.map((name) => [name, null])))])
    expect(Object.keys((await stored(id)) as Progress)).to.have.length(85)
  })

  // PostgreSQL has no limit. Past the documented limits of the others, a document is read under its lock and written as a whole.
  if (database.name !== 'postgres') {
    it('changes many keys by the same rules as a few keys', async () => {
      const many = (make: (key: string) => Operation): Operation[] => keysOf(70).map(make)
      const list = [1, '1', 1.5, { x: 1, y: [null] }, [1], 'é', 12345678901]
      const start = Object.fromEntries(keysOf(70).map((key, at) => [key, { n: at, list, o: { a: 1 }, none: null }]))
      const kinds: readonly Operation[][] = [
        many((key) => set([key, 'o', 'b'], 1)),
        many((key) => setIfAbsent([key, Number(key.slice(1)) % 2 ? 'n' : 'm'], 'new')),
        many((key) => rename([key, 'list'], 'n')),
        many((key) => rename([key, 'missing'], 'n')),
        many((key) => remove([key, 'none', 'inner'])),
        many((key) => pull([key, 'none', 'inner'], 1)),
        many((key) => increment([key, Number(key.slice(1)) % 2 ? 'n' : 'm'], 2)),
        many((key) => increment([key, 'n'], 0.25)),
        many((key) => min([key, 'n'], 30)),
        many((key) => max([key, 'n'], 30.5)),
        many((key) => max([key, 'm'], 1)),
        many((key) => append([key, 'list'], 1, { a: null })),
        many((key) => append([key, 'new'], [])),
        many((key) => prepend([key, 'list'], 'first')),
        many((key) => addToSet([key, 'list'], { y: [null], x: 1 })),
        many((key) => addToSet([key, 'new', 'list'], '1')),
        many((key) => pull([key, 'list'], 1)),
        many((key) => pull([key, 'list'], [1])),
        many((key) => merge(key, { o: { a: null, b: { c: null, d: 1 } }, list: { e: 1 }, n: null })),
      ]
      const { id } = await Runs.create({ progress: {} })
      for (const operations of kinds) {
        for (const before of [start, {}, null]) {
          await storeText(Runs, id, before && JSON.stringify(before))
          await updateJson<WorkflowRun, 'progress', Operation[]>([Runs, id], 'progress', operations)
          const title = `${operations[0]!.kind} ${JSON.stringify(operations[0]!.path)}`
          const wanted: unknown = JSON.parse(JSON.stringify(expected(operations, before)))
          expect(await stored(id), title).to.deep.equal(wanted)
        }
      }
    })
  }

  it('keeps digits, and refuses operations that do not fit, beside many changed keys', async () => {
    const sets = keysOf(70).map((key) => set(key, 1))
    const write = (operations: readonly Operation[], conditions: Condition[] = []): Promise<unknown> =>
      updateJson<WorkflowRun, 'progress', Operation[]>([Runs, id], 'progress', [...sets, ...operations] as never, {
        if: conditions,
      })
    const start = '{"long":9007199254740993,"a":"x","o":{"\\u00e9":1.5,"\\u0061":[9007199254740993]},"big":1e308}'
    const { id } = await Runs.create()
    await storeText(Runs, id, start)
    const before = await storedText(Runs, id)
    await rejection(write([increment('a')]), JsonShapeError)
    await rejection(write([set(['a', 'b'], 1)]), JsonShapeError)
    await rejection(write([increment('big', 1.5e308)]), UnsupportedValueError)
    await rejection(write([], [absent('a')]), ConditionNotMetError)
    expect(await storedText(Runs, id)).to.equal(before)
    await write([increment('long', 1), addToSet(['o', 'a'], 9007199254740993n)], [equals('a', 'x')])
    const after = await storedText(Runs, id)
    expect(after)
      .to.match(/9007199254740994/)
      .and.to.match(/\[9007199254740993\]/)
    // The same once more changes nothing, which some drivers count as no row.
    await write([addToSet(['o', 'a'], 9007199254740993n)])
    expect(await storedText(Runs, id)).to.equal(after)
    await rejection(updateJson([Runs, -1], 'progress', sets as never), RowNotFoundError)
  })

  it('writes many keys of one row for many concurrent callers, inside and outside transactions', async () => {
    const { id } = await Runs.create({ progress: { n: 0 } })
    const writes = Array.from({ length: 6 }, async (_, caller) => {
      const operations: Operation[] = [increment('n'), ...keysOf(70).map((key) => set(`${key} of ${caller}`, 1))]
      if (caller % 2) return updateJson([Runs, id], 'progress', operations as never)
      return Runs.sequelize!.transaction((transaction) =>
        updateJson([Runs, id], 'progress', operations as never, { transaction }),
      )
    })
    await Promise.all(writes)
    const after = (await stored(id)) as Progress
    expect([after['n'], Object.keys(after).length]).to.deep.equal([6, 1 + 6 * 70])
  })

  if (database.name === 'postgres') {
    // Each key that the statement spells out is one more copy of the document in the memory of the server.
    it('sends the same SQL text for 2 and for 300 keys', async () => {
      const { sequelize: own, log } = database.connect()
      const Own = defineRuns(own)
      const make: Record<string, (key: string) => Operation> = {
        setIfAbsent: (key) => setIfAbsent(key, 1),
        'set nested': (key) => set([key, 'a'], 1),
        remove: (key) => remove(key),
        rename: (key) => rename(key, `${key}'`),
        increment: (key) => increment(key),
        min: (key) => min(key, 1),
        max: (key) => max(key, 1),
        append: (key) => append(key, 1),
        prepend: (key) => prepend(key, 1),
        addToSet: (key) => addToSet(key, 1),
        pull: (key) => pull(key, 1),
        merge: (key) => merge(key, { a: { b: 1, c: null } }),
      }
      const keysOf = (count: number): string[] => Array.from({ length: count }, (_, index) => `k${index}`)
      const patchOf = (count: number): object =>
        Object.fromEntries(keysOf(count).map((key, index) => [key, [{ a: 1, b: null }, null, 1][index % 3]]))
      const forms: readonly (readonly [string, (count: number) => readonly Operation[]])[] = [
        ...Object.entries(make).map(([name, of]) => [name, (count: number) => keysOf(count).map(of)] as const),
        ['a patch', (count) => [merge([], patchOf(count + 1))]],
      ]
      const statements = (): string[] => log.filter((sql) => sql.includes('UPDATE')).map((sql) => sql.split('; ')[0]!)
      for (const [name, operationsOf] of forms) {
        for (const count of [2, 300]) {
          const operations = operationsOf(count)
          const { id } = await Own.create({ progress: { other: 1 } })
          await updateJson<WorkflowRun, 'progress', readonly Operation[]>([Own, id], 'progress', operations)
          expect(await stored(id), name).to.deep.equal(expected(operations, { other: 1 }))
        }
        const [few, many] = statements().slice(-2)
        expect(many, name).to.be.a('string').that.equals(few)
      }
    })
  }

  it('counts the path and the item into the depth that the database holds', async () => {
    const levels = { mysql: 100, mariadb: 31, postgres: undefined, sqlite: 1000 }[database.name]
    if (levels === undefined) return
    const { id } = await Runs.create({ progress: {} })
    const nested = (count: number): unknown => JSON.parse('['.repeat(count) + ']'.repeat(count))
    await updateJson([Runs, id], 'progress', [
      append(['a', 'b'], nested(levels - 3)),
      set(['c', 'd'], nested(levels - 2)),
    ])
    await updateJson([Runs, id], 'progress', [increment('still writable')])
    for (const tooDeep of [append(['a', 'b'], nested(levels - 2)), set(['c', 'd'], nested(levels - 1))]) {
      const error = await rejection(updateJson([Runs, id], 'progress', [tooDeep]), UnsupportedValueError)
      expect(error.message).to.include(`more than ${levels} levels deep`)
    }
  })

  it('refuses values that are too deep for JavaScript before any SQL', async () => {
    const { id } = await Runs.create({ progress: { l: [1] } })
    const { sequelize: own, log } = database.connect()
    const target = [defineRuns(own), id] as const
    const write = (operation: Operation, condition = equals('l', [1])): Promise<unknown> =>
      updateJson<WorkflowRun, 'progress', readonly Operation[]>(target, 'progress', [operation] as never, {
        if: [condition],
      })
    for (const levels of [3000, 100_000]) {
      let deep: unknown = 1
      for (let level = 0; level < levels; level++) deep = [deep]
      const calls: Readonly<Record<string, () => Promise<unknown>>> = {
        mergeJsonKey: async () => mergeJsonKey(target, 'progress', 'l' as never, deep as never),
        mergeJson: async () => mergeJson(target, 'progress', { l: deep } as never, { returning: true }),
        addToSet: async () => write(addToSet('l', deep)),
        pull: async () => write(pull('l', deep)),
        equals: async () => write(set('l', 1), equals('l', deep as never)),
        compareAndSetJson: async () => compareAndSetJson(target, 'progress', 'l' as never, 1 as never, deep as never),
      }
      for (const [name, call] of Object.entries(calls)) {
        const error = await rejection(call(), UnsupportedValueError)
        expect(error.message, name).to.match(/the value .*is too deep for JavaScript.* 2,000 levels/)
      }
      expect(log).to.deep.equal([])
    }
    expect(await stored(id)).to.deep.equal({ l: [1] })
  })

  it('refuses to change a stored document that is too deep for the database', async () => {
    if (database.name !== 'sqlite') return
    const { id } = await Runs.create()
    const deep = `{"l":[1],"d":${'['.repeat(3000)}${']'.repeat(3000)}}`
    await storeText(Runs, id, deep)
    const run = await Runs.findByPk(id, { rejectOnEmpty: true })
    for (const call of [
      () => mergeJsonKey([Runs, id], 'progress', 'a' as never, 1 as never),
      () => run.updateJson('progress', [pull('l', 1)] as never, { returning: true }),
      () => compareAndSetJson([Runs, id], 'progress', 'd' as never, 1 as never, 2 as never),
    ]) {
      const error = await rejection(call(), UnsupportedValueError)
      expect(error.message).to.include('holds a document of 3001 levels, and SQLite supports 1000')
    }
    expect(await storedText(Runs, id)).to.equal(deep)
  })

  it('applies all operations of 16 concurrent writers of one row exactly once, from NULL', async () => {
    const { id } = await Runs.create()
    const rounds = 10
    const writers = Array.from({ length: 16 }, (_, writer) => writer)
    await Promise.all(
      writers.map(async (writer) => {
        for (let round = 0; round < rounds; round++) {
          const item = `${writer}.${round}`
          await updateJson([Runs, id], 'progress', [increment('count'), append('log', item), addToSet('set', round)])
          await updateJson([Runs, id], 'progress', [set(['by', item], writer), setIfAbsent('first', item)])
          await mergeJson([Runs, id], 'progress', { merged: { [item]: true, gone: null } })
          await updateJson([Runs, id], 'progress', [remove(['by', item]), increment(['nested', 'sum'], -0.5)])
        }
      }),
    )
    const items = writers.flatMap((writer) => Array.from({ length: rounds }, (_, round) => `${writer}.${round}`))
    const after = (await stored(id)) as Record<string, unknown>
    expect(after).to.include({ count: 160 })
    expect(after['nested']).to.deep.equal({ sum: -80 })
    expect((after['log'] as string[]).toSorted()).to.deep.equal(items.toSorted())
    expect((after['set'] as number[]).toSorted()).to.deep.equal([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    expect(after['by']).to.deep.equal({})
    expect(after['merged']).to.deep.equal(Object.fromEntries(items.map((item) => [item, true])))
    expect(items).to.include(after['first'])
  })

  if (database.name === 'mysql') {
    it('is applied exactly once if another writer replaces the document before each of its statements', async () => {
      const { sequelize: own } = database.connect()
      const Own = defineRuns(own)
      const operations = [increment('n'), append('log', 'x')] as const
      const { id } = await Runs.create()
      await updateJson([Own, id], 'progress', operations)
      // undefined: the other writer does nothing at that moment.
      const moves = [undefined, null, '{"n":5,"log":["theirs"]}'] as const
      const orders = moves.flatMap((one) => moves.flatMap((two) => moves.map((three) => [one, two, three])))
      for (const start of [null, '{"n":1}'] as const) {
        for (const order of orders) {
          await storeText(Runs, id, start)
          let last: string | null = start
          let statement = 0
          own.addHook('beforeQuery', 'interfere', async (options: { type?: string }) => {
            const move = options.type === 'RAW' ? order[statement++] : undefined
            if (move === undefined) return
            last = move
            await storeText(Runs, id, move)
          })
          try {
            await updateJson([Own, id], 'progress', operations)
          } finally {
            own.removeHook('beforeQuery', 'interfere')
          }
          expect(await stored(id), JSON.stringify(order)).to.deep.equal(
            expected(operations, JSON.parse(last ?? 'null')),
          )
        }
      }
      expect(orders).to.have.length(27)
    })

    it('accesses its row by the primary key, in each kind of write', async () => {
      const { sequelize: own } = database.connect({ pool: { max: 1 } })
      const Own = await createRuns(own, { tableName: 'explained_runs', indexes: [{ fields: ['title'] }] })
      const progress = { n: 1, list: [{ id: 1 }], items: [1] }
      await Own.bulkCreate(Array.from({ length: 60 }, () => ({ title: 'x', progress })))
      const [{ id }, { id: second }] = (await Own.findAll({ order: ['id'], limit: 2 })) as [WorkflowRun, WorkflowRun]
      const target = [Own, id] as const
      const update = (operations: Operation[], options: object = {}): Promise<unknown> =>
        updateJson<WorkflowRun, 'progress', Operation[]>(target, 'progress', operations, options)
      const forms: Record<string, () => Promise<unknown>> = {
        mergeJsonKey: () => mergeJsonKey(target, 'progress', 'a', 1),
        mergeJson: () => mergeJson(target, 'progress', { a: null, b: 2 }),
        'updateJson, returning': () => update([append('items', 1), pull('list', 9)], { returning: true }),
        'updateJson by an index': () => update([set(['list', 0, 'a'], 1)]),
        'updateJson by members': () => update([set(['list', matching({ id: 1 }), 'a'], 2)]),
        'updateJson of nothing new': () => update([addToSet('items', 1)]),
        'updateJson with a condition': () => update([increment('n')], { if: [exists('list')] }),
        'updateJson, coalesced': () => update([increment('n')], { coalesce: true }),
        compareAndSetJson: () => compareAndSetJson(target, 'progress', 'b' as never, 2 as never, 3 as never),
        'atomicUpdate with a where': () => atomicUpdate(target, { title: 'y' }, { where: { title: 'x' } }),
        'atomicUpdate of a row by its columns': () =>
          atomicUpdate([Own, { where: { id, title: 'y' } }], { progress: [set('a', 1)] }),
        'atomicUpsert of a row that is there': () => atomicUpsert(target, { progress: [increment('n')] }),
        'atomicUpsert of a new row': () => atomicUpsert([Own, id + 1000], { progress: [increment('n')] }),
        'updateWhere of most rows': () =>
          updateWhere(Own, { id: { [Op.between]: [second, id + 59] } }, { progress: [increment('n')] }),
        withLock: () => withLock(target, (row) => row.update({ title: 'z' })),
      }
      const query = own.query.bind(own)
      for (const [name, write] of Object.entries(forms)) {
        const sent: [sql: string, bind: unknown][] = []
        own.query = ((sql: string, options: { bind?: unknown }) => {
          sent.push([sql, options.bind])
          return query(sql as never, options as never)
        }) as never
        await write()
        own.query = query
        const plans: string[] = []
        for (const [sql, bind] of sent.filter(([text]) => /^(SELECT .* FROM|UPDATE) /.test(text))) {
          const options = { type: QueryTypes.SELECT, bind: bind as never } as const
          const plan = await own.query<{ table: string; type: string; key: string }>(
            `EXPLAIN FORMAT = TRADITIONAL ${sql}`,
            options,
          )
          plans.push(...plan.filter(({ table }) => table === 'explained_runs').map(({ type, key }) => `${type} ${key}`))
        }
        expect(plans, name).to.have.length.greaterThan(0)
        expect(
          plans.filter((each) => !/^(const|range) PRIMARY$/.test(each)),
          name,
        ).to.deep.equal([])
      }
    })

    it('logs a change of one key or element of 1 MB in less than 1 KB, where the server keeps partial updates', async () => {
      const { sequelize: partial } = database.connect({ pool: { max: 1 } })
      await partial.query(`SET SESSION binlog_row_image = MINIMAL, binlog_row_value_options = PARTIAL_JSON`)
      const Partial = await createRuns(partial, { tableName: 'large_runs' })
      const large = Object.fromEntries(Array.from({ length: 230 }, (_, index) => [`key_${index}`, 'x'.repeat(1000)]))
      const items = Array.from({ length: 800 }, (_, id) => ({ id, text: 'x'.repeat(1000) }))
      const { id } = await Partial.create({ progress: { ...large, n: 0, list: [], items } })
      const { id: root } = await Partial.create({ progress: items as never })
      const end = async (): Promise<{ File: string; Position: number }> => {
        const [status] = await partial.query<{ File: string; Position: number }>('SHOW BINARY LOG STATUS', {
          type: QueryTypes.SELECT,
        })
        return status!
      }
      /** The bytes of the transactions that wrote this table: other sessions write to this log too. */
      const loggedSince = async ({ File, Position }: { File: string; Position: number }): Promise<number> => {
        const events = await partial.query<{ Event_type: string; Pos: number; End_log_pos: number; Info: string }>(
          `SHOW BINLOG EVENTS IN '${File}' FROM ${Position}`,
          { type: QueryTypes.SELECT },
        )
        const groups: { bytes: number; isOurs: boolean }[] = []
        for (const event of events) {
          if (event.Event_type.endsWith('Gtid')) groups.push({ bytes: 0, isOurs: false })
          const group = groups.at(-1)!
          group.bytes += event.End_log_pos - event.Pos
          group.isOurs ||= event.Info.includes(`(${partial.getDatabaseName()}.large_runs)`)
        }
        return groups.reduce((sum, { bytes, isOurs }) => sum + (isOurs ? bytes : 0), 0)
      }
      const forms: Record<string, Operation[]> = {
        set: [set('key_7', 'y'.repeat(200))],
        increment: [increment('n')],
        'append and set nested': [append('list', 1), set(['new', 'deep'], 1)],
        remove: [remove('key_9')],
        'elements by index': [set(['items', 3, 'text'], 'y'), assign(['items', 5], { isDone: true, n: null })],
        'the last element': [increment(['items', -1, 'n']), set('n', 1)],
        'elements by members': [set(['items', matching({ id: 7 }), 'n'], 1), pull('items', matching({ id: 8 }))],
        'replace or append': [replaceOrAppend('items', 'id', { id: 9 })],
        'root, append': [append([], { id: 'new' }, 1)],
        'root, an element': [merge([-3], { text: null })],
        'root, elements by members': [set([matching({ id: 7 }), 'n'], 1), remove([matching({ id: 8 })])],
      }
      for (const [name, operations] of Object.entries(forms)) {
        const before = await end()
        const target = [Partial, name.startsWith('root') ? root : id] as const
        await updateJson<WorkflowRun, 'progress', Operation[]>(target, 'progress', operations)
        const bytes = await loggedSince(before)
        expect(bytes, name).to.be.greaterThan(0).and.lessThan(1024)
      }
    })
  }
})
