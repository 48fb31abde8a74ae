import { isDeepStrictEqual } from 'node:util'
import { compileFunction } from 'node:vm'
import { expect } from 'chai'
import fc from 'fast-check'
import type { Sequelize } from 'sequelize'
import * as lossless from 'sequelize-lossless'
import {
  addToSet,
  append,
  assign,
  ElementNotFoundError,
  increment,
  JsonShapeError,
  matching,
  max,
  merge,
  min,
  prepend,
  pull,
  remove,
  rename,
  replaceOrAppend,
  set,
  setIfAbsent,
  UnsupportedValueError,
  updateJson,
} from 'sequelize-lossless'
import type { Operation, Path } from 'sequelize-lossless'
import { ScriptTarget, transpileModule } from 'typescript'
import { eachDatabase } from '../each-database.js'
import { outcomeOf, rejection } from '../rejection.js'
import { sample } from '../sample.js'
import { createRuns, createTextRuns, storeText } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'
import { expected, noElement } from './expected.js'
import { rowSource } from './row.js'

const hostile = [
  '',
  'a',
  'a.b',
  '"',
  "'",
  '\\',
  '$',
  '*',
  '[0]',
  '$1',
  '?',
  '__proto__',
  '-1',
  'é',
  '😀',
  '\0',
  '\ud800',
]
const key = fc.oneof(fc.constantFrom(...hostile), fc.string({ unit: 'binary', maxLength: 6 }))
const keyPath = fc.array(fc.oneof({ weight: 3, arbitrary: fc.constantFrom('a', 'b', 'c') }, key), {
  minLength: 1,
  maxLength: 3,
})
/** Hostile texts as keys and as values of elements, which the texts below have too. */
const text = fc.constantFrom(...hostile)
const element = fc.oneof(
  fc.integer({ min: -3, max: 3 }),
  fc.tuple(text, fc.oneof(text, fc.integer({ min: 1, max: 2 }))).map(([name, each]) => matching({ [name]: each })),
)
const path: fc.Arbitrary<Path> = fc.oneof(
  { weight: 3, arbitrary: keyPath },
  fc.tuple(keyPath, element).map(([keys, step]) => [...keys, step]),
  fc.tuple(fc.constantFrom('a', 'b', 'c'), element, key).map((steps) => steps),
)

const leaf = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 12 }),
  fc.double({ noNaN: true, noDefaultInfinity: true }).map((number) => (Object.is(number, -0) ? 0 : number)),
  fc.integer(),
  fc.constantFrom(null, true, false),
)
const value = fc.letrec((tie) => ({
  json: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    leaf,
    fc.array(tie('json'), { maxLength: 3 }),
    tie('object'),
  ),
  object: fc.dictionary(key, tie('json'), { maxKeys: 4, noNullPrototype: true }),
}))
const elements = fc.array(
  fc.dictionary(text, fc.oneof(text, fc.integer({ min: 1, max: 2 })), { maxKeys: 4, noNullPrototype: true }),
  { maxLength: 4 },
)
const lists = fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.oneof(elements, fc.record({ b: elements })), {
  noNullPrototype: true,
})
const document = fc.oneof(fc.constant(null), value.object, lists)

const operation: fc.Arbitrary<Operation> = fc.oneof(
  fc.tuple(fc.constantFrom(set, setIfAbsent, prepend, addToSet, pull), path, value.json).map(([make, at, operand]) =>
    // A constructor refuses what no database could hold, such as half a surrogate pair, only when it is written.
    make(at, operand),
  ),
  fc
    .tuple(path, value.json, fc.array(value.json, { maxLength: 2 }))
    .map(([at, item, more]) => append(at, item, ...more)),
  path.map((at) => remove(at)),
  fc
    .tuple(path, text, value.object)
    .map(([at, name, item]) => replaceOrAppend(at, name, { ...(item as object), [name]: 1 })),
  fc.tuple(path, text, text).map(([at, name, each]) => pull(at, matching({ [name]: each }))),
  fc
    .tuple(keyPath, key)
    .filter(([at, name]) => at.at(-1) !== name)
    .map(([at, name]) => rename(at, name)),
  fc.tuple(path, fc.integer({ min: -1000, max: 1000 })).map(([at, by]) => increment(at, by)),
  fc.tuple(path, value.object).map(([at, patch]) => merge(at, patch as object)),
  fc
    .tuple(path, value.object)
    .filter(([, object]) => Object.keys(object as object).length > 0)
    .map(([at, object]) => assign(at, object as object)),
)

// The same documents in every run; PROPERTY_SEED looks at others.
const seed = Number(process.env['PROPERTY_SEED'] ?? 1)

function isApart(one: Path, other: Path): boolean {
  const shared = Math.min(one.length, other.length)
  return !isDeepStrictEqual(one.slice(0, shared), other.slice(0, shared))
}

function written({ kind, path, json }: Operation): readonly Path[] {
  return kind === 'rename' ? [path, [...path.slice(0, -1), JSON.parse(json) as string]] : [path]
}

const operations = fc
  .uniqueArray(operation, { minLength: 1, maxLength: 4, selector: (each) => JSON.stringify(each.path) })
  .filter((list) => {
    const paths = list.flatMap(written)
    const enters = list.some(
      ({ kind, path }) => kind === 'replaceOrAppend' || path.some((step) => typeof step !== 'string'),
    )
    // Which steps into arrays overlap, a table says.
    return paths.every((one, index) =>
      paths.slice(index + 1).every((other) => (enters ? one[0] !== other[0] : isApart(one, other))),
    )
  })

/** Operations without effect, with which a call has more keys than MariaDB and SQLite compute. */
const unrelated = Array.from({ length: 65 }, (_, index) => remove(['unrelated', `${index}`]))

/** Whether to add them: to about every second list. */
function isManyKeys(list: readonly Operation[]): boolean {
  return JSON.stringify(list).length % 2 === 0 && list.every(({ path: [first] }) => first !== undefined)
}

type Claim = (before: unknown, list: readonly Operation[]) => boolean | Promise<boolean>

/** Looks for a document and operations of which `claim` is false; the error shows them as a row to be pasted. */
async function assertAlways(claim: Claim, numRuns: number): Promise<void> {
  const property = fc.asyncProperty(document, operations, async (before, list) => claim(before, list))
  const found = await fc.check(property, { seed, numRuns })
  if (!found.failed) return
  const report = fc.defaultReportMessage(found) ?? ''
  throw new Error(`${report}\n\nAs a row of the conformance table:\n${rowSource(...found.counterexample!)}`)
}

describe('a counterexample', () => {
  /** What TypeScript makes of the text of a row. */
  function evaluate(source: string): [document: string | null, operations: readonly Operation[]] {
    const compilerOptions = { target: ScriptTarget.ES2022 }
    const compiled = transpileModule(`return ${source}`, { reportDiagnostics: true, compilerOptions })
    expect(compiled.diagnostics).to.deep.equal([])
    const run = compileFunction(compiled.outputText, Object.keys(lossless)) as (...names: unknown[]) => unknown
    return run(...Object.values(lossless)) as ReturnType<typeof evaluate>
  }

  it('is printed as a row of the conformance table', () => {
    expect(rowSource({ a: 1 }, [increment('a', 1)])).to.equal(`['{"a":1}', [increment(['a'], 1)]]`)
    expect(rowSource(null, [remove(['a', -1, matching({ id: 1 })]), pull('a', matching({ n: "'" }))])).to.equal(
      `[null, [remove(['a', -1, matching({ 'id': 1 })]), pull(['a'], matching({ 'n': '\\'' }))]]`,
    )
    expect(rowSource(null, [replaceOrAppend([], 'id', { id: 1 })])).to.equal(
      `[null, [replaceOrAppend([], 'id', { 'id': 1 })]]`,
    )
    expect(rowSource(null, [remove(['a', "b'"]), merge([], { c: [null, '"'] })])).to.equal(
      `[null, [remove(['a', 'b\\'']), merge([], { 'c': [null, '"'] })]]`,
    )
    for (const key of [...hostile, "\\'", '\\"', '\n\u2028', '`${x}']) {
      const [start, list] = [{ [key]: [key] }, [set([key, key], { [key]: [key, {}] }), merge([], { [key]: true })]]
      expect(evaluate(rowSource(start, list))).to.deep.equal([JSON.stringify(start), list])
    }
  })

  it('of a wrong oracle is shrunk, and the printed row fails again', async () => {
    const wrong = (list: readonly Operation[], before: unknown): unknown =>
      expected(
        list.filter(({ kind }) => kind !== 'addToSet'),
        before,
      )
    const claim = (before: unknown, list: readonly Operation[]): boolean =>
      isDeepStrictEqual(wrong(list, before), expected(list, before))
    const { message } = await rejection(assertAlways(claim, sample(500, 500, 50)), Error)
    const [text, list] = evaluate(message.slice(message.lastIndexOf('\n') + 1))
    expect(claim(JSON.parse(text ?? 'null'), list)).to.equal(false)
    expect(list.map(({ kind }) => kind)).to.include('addToSet')
  })
})

eachDatabase('updateJson, on random documents', (database) => {
  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  let run: WorkflowRun
  const runs = sample(500, database.isOtherWay ? 150 : 500, 50)

  before(async () => {
    ;({ sequelize } = database.connect())
    Runs = await createRuns(sequelize)
    run = await Runs.create()
  })

  for (const column of ['JSON', 'TEXT'] as const) {
    it(`stores the result that its operations specify in a ${column} column, or refuses the value and changes nothing`, async () => {
      const Own = column === 'JSON' ? Runs : await createTextRuns(sequelize)
      await assertMeaning(Own, (await Own.create()).id)
    })
  }

  const assertMeaning = (Own: typeof WorkflowRun, id: number): Promise<void> =>
    assertAlways(async (before, list) => {
      const text = before === null ? null : JSON.stringify(before)
      // PostgreSQL's json keeps such text, and can do nothing with it.
      if (database.name === 'postgres') fc.pre(!/\\u(0000|d[89a-f])/.test(text ?? ''))
      const isStored = await sequelize
        .query(`UPDATE ${Own.tableName} SET progress = $1 WHERE id = $2`, { bind: [text, id] })
        .then(
          () => true,
          () => false,
        )
      // A document that the database cannot hold is no start.
      if (!isStored) return true
      const start = (await Own.findByPk(id, { rejectOnEmpty: true })).progress
      const sent = isManyKeys(list) ? [...list, ...unrelated] : list
      const call = updateJson<WorkflowRun, 'progress', readonly Operation[]>([Own, id], 'progress', sent)
      const outcome = await outcomeOf(call)
      const after: Progress | null = (await Own.findByPk(id, { rejectOnEmpty: true })).progress
      if (outcome instanceof UnsupportedValueError) return isDeepStrictEqual(after, start)
      const wanted = expected(list, start)
      if (wanted === undefined) return outcome instanceof JsonShapeError && isDeepStrictEqual(after, start)
      if (wanted === noElement) return outcome instanceof ElementNotFoundError && isDeepStrictEqual(after, start)
      return outcome === 'written' && isDeepStrictEqual(after, JSON.parse(JSON.stringify(wanted)))
    }, runs)

  it('has the same result for batched calls as for sequential calls', async () => {
    const few = fc.constantFrom('a', 'b', 'c')
    const places = fc.oneof(few, fc.tuple(few, few))
    const leaves = fc.oneof(fc.integer({ min: -9, max: 9 }), few, fc.constant([1]), fc.constantFrom(null, true))
    const patches = fc.dictionary(few, fc.oneof(leaves, fc.dictionary(few, leaves)), { noNullPrototype: true })
    const one: fc.Arbitrary<Operation> = fc.oneof(
      fc
        .tuple(fc.constantFrom(set, setIfAbsent, prepend, addToSet, pull), places, leaves)
        .map(([make, at, operand]) => make(at, operand)),
      fc
        .tuple(fc.constantFrom(increment, min, max), places, fc.integer({ min: -9, max: 9 }))
        .map(([make, at, by]) => make(at, by)),
      fc.tuple(places, leaves).map(([at, item]) => append(at, item)),
      places.map((at) => remove(at)),
      places.map((at) => rename(at, 'z')),
      fc.tuple(fc.oneof(places, fc.constant([])), patches).map(([at, patch]) => merge(at, patch)),
    )
    const starts = fc.dictionary(few, fc.oneof(leaves, patches), { noNullPrototype: true })
    const property = fc.asyncProperty(starts, fc.array(one, { minLength: 2, maxLength: 12 }), async (before, calls) => {
      await storeText(Runs, run.id, JSON.stringify(before))
      const outcomes = await Promise.all(
        calls.map((operation) =>
          outcomeOf(updateJson([Runs, run.id], 'progress', [operation] as never, { coalesce: true })),
        ),
      )
      let wanted: unknown = before
      for (const [index, operation] of calls.entries()) {
        const after = expected([operation], wanted)
        expect(outcomes[index] instanceof JsonShapeError, `call ${index}`).to.equal(after === undefined)
        expect(outcomes[index] === 'written', `call ${index}`).to.equal(after !== undefined)
        wanted = after ?? wanted
      }
      const { progress } = await Runs.findByPk(run.id, { rejectOnEmpty: true })
      expect(progress).to.deep.equal(JSON.parse(JSON.stringify(wanted)))
    })
    await fc.assert(property, { seed, numRuns: sample(200, database.isOtherWay ? 60 : 200, 20) })
  })
})
