import { expect } from 'chai'
import fc from 'fast-check'
import { QueryTypes } from 'sequelize'
import type { Sequelize } from 'sequelize'
import {
  absent,
  addToSet,
  append,
  compareAndSetJson,
  ConditionNotMetError,
  equals,
  exists,
  increment,
  JsonShapeError,
  lossless,
  max,
  merge,
  mergeJson,
  min,
  prepend,
  pull,
  remove,
  rename,
  set,
  setIfAbsent,
  updateJson,
} from 'sequelize-lossless'
import type { Condition, Operation } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { outcomeOf } from '../rejection.js'
import { sample } from '../sample.js'
import { createRuns, defineRuns, storeText } from '../workflow-run.js'
import type { Progress, WorkflowRun } from '../workflow-run.js'

const seed = Number(process.env['PROPERTY_SEED'] ?? 1)

/** A call of any shape. */
type Call =
  | { readonly do: 'updateJson'; readonly operations: readonly Operation[]; readonly conditions: readonly Condition[] }
  | { readonly do: 'mergeJson'; readonly patch: Progress }
  | { readonly do: 'compareAndSetJson'; readonly path: readonly string[]; readonly conditions: readonly Condition[] }
  | { readonly do: 'save'; readonly changes: readonly (readonly [path: readonly string[], value: unknown])[] }
  | { readonly do: 'coalesced'; readonly operations: readonly Operation[] }

const names = fc.constantFrom('a', 'b', 'c')
const leaf = fc.oneof(fc.integer({ min: -9, max: 9 }), fc.string({ maxLength: 3 }), fc.constantFrom(null, true))
const value = fc.oneof(leaf, fc.array(leaf, { maxLength: 3 }), fc.dictionary(names, leaf, { noNullPrototype: true }))

/** A path of 1 to 5 steps that begins with `first`, so that it overlaps no other. */
function pathFrom(first: string): fc.Arbitrary<string[]> {
  return fc.array(names, { maxLength: 4 }).map((rest) => [first, ...rest])
}

function operationFrom(first: string): fc.Arbitrary<Operation> {
  const path = pathFrom(first)
  const number = fc.integer({ min: -9, max: 9 })
  return fc.oneof(
    fc
      .tuple(fc.constantFrom(set, setIfAbsent, prepend, addToSet, pull), path, value)
      .map(([make, at, operand]) => make(at, operand)),
    fc.tuple(fc.constantFrom(increment, min, max), path, number).map(([make, at, by]) => make(at, by)),
    fc.tuple(path, value, fc.array(value, { maxLength: 4 })).map(([at, item, more]) => append(at, item, ...more)),
    path.map((at) => remove(at)),
    path.filter(({ length }) => length > 1).map((at) => rename(at, 'z')),
    fc
      .tuple(path, fc.dictionary(names, value, { noNullPrototype: true }))
      .map(([at, patch]) => merge(at, patch as object)),
  )
}

function conditionFrom(first: string): fc.Arbitrary<Condition> {
  const path = pathFrom(first)
  return fc.oneof(
    path.map((at) => exists(at)),
    path.map((at) => absent(at)),
    fc.tuple(path, value).map(([at, operand]) => equals(at, operand)),
  )
}

/** Up to `most` of them, each of another key of the document. */
function each<T>(make: (first: string) => fc.Arbitrary<T>, fewest: number, most: number): fc.Arbitrary<T[]> {
  return fc
    .integer({ min: fewest, max: most })
    .chain((length) => fc.tuple(...Array.from({ length }, (_, index) => make(`key_${index}`))))
}

const conditions = fc.oneof(
  { weight: 3, arbitrary: fc.constant([]) },
  { weight: 1, arbitrary: each(conditionFrom, 1, 5) },
)
const call: fc.Arbitrary<Call> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('updateJson' as const),
      operations: each(operationFrom, 1, 20),
      conditions,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('mergeJson' as const),
      patch: fc.dictionary(names, value, { noNullPrototype: true }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('compareAndSetJson' as const), path: pathFrom('key_0'), conditions }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('save' as const),
      changes: each((first) => fc.tuple(pathFrom(first), value), 1, 12),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('coalesced' as const), operations: each(operationFrom, 1, 40) }),
  },
)

/** Sets a value at a path of a document, through objects that are made where there are none. */
function assign(document: Progress, [first, ...rest]: readonly string[], value: unknown): Progress {
  const inner = document[first!]
  const isObject = typeof inner === 'object' && inner !== null && !Array.isArray(inner)
  return { ...document, [first!]: rest.length === 0 ? value : assign(isObject ? (inner as Progress) : {}, rest, value) }
}

eachDatabase('calls of many shapes, on one connection', (database) => {
  // The others' drivers prepare nothing, or give it no name.
  if (database.dialect !== 'mysql') return

  let sequelize: Sequelize
  let Runs: typeof WorkflowRun
  /** The same table, whose saves are patched. */
  let Patched: typeof WorkflowRun
  let id: number

  before(async () => {
    ;({ sequelize } = database.connect({ pool: { max: 1 } }))
    Runs = await createRuns(sequelize)
    Patched = lossless(defineRuns(sequelize), { wholeColumnWrites: 'patch' })
    ;({ id } = await Runs.create({ progress: {} }))
  })

  /** The statements that the server keeps prepared for this connection; of a session, so others do not count. */
  async function prepared(): Promise<number> {
    const rows = await sequelize.query<{ Variable_name: string; Value: string }>(
      `SHOW SESSION STATUS WHERE Variable_name IN ('Com_stmt_prepare', 'Com_stmt_close')`,
      { type: QueryTypes.SELECT },
    )
    const status = new Map(rows.map(({ Variable_name: name, Value: value }) => [name, Number(value)]))
    return status.get('Com_stmt_prepare')! - status.get('Com_stmt_close')!
  }

  async function make(given: Call): Promise<unknown> {
    const target = [Runs, id] as const
    switch (given.do) {
      case 'updateJson':
        return updateJson(target, 'progress', given.operations as never, { if: given.conditions })
      case 'mergeJson':
        return mergeJson(target, 'progress', given.patch as object)
      case 'compareAndSetJson':
        return compareAndSetJson(target, 'progress', given.path as never, 1 as never, 2 as never, {
          if: given.conditions,
        })
      case 'save': {
        const row = await Patched.findByPk(id, { rejectOnEmpty: true })
        let document = row.progress ?? {}
        for (const [path, value] of given.changes) document = assign(document, path, value)
        return row.update({ progress: document })
      }
      case 'coalesced':
        return Promise.all(
          given.operations.map((operation) =>
            outcomeOf(updateJson(target, 'progress', [operation] as never, { coalesce: true })),
          ),
        )
    }
  }

  it('leave fewer than 300 prepared statements', async function () {
    this.timeout(600_000)
    const before = await prepared()
    const calls = fc.sample(call, { seed, numRuns: sample(10_000, 1000, 500) })
    const outcomes = new Map<string, number>()
    const growth: number[] = []
    for (const [index, each] of calls.entries()) {
      // Else the arrays grow, and more and more calls are refused.
      if (index % 50 === 0) await storeText(Runs, id, '{}')
      const outcome = await outcomeOf(make(each))
      const isMeant = outcome instanceof JsonShapeError || outcome instanceof ConditionNotMetError
      if (outcome instanceof Error && !isMeant) throw outcome
      const name = outcome instanceof Error ? outcome.name : 'written'
      outcomes.set(name, (outcomes.get(name) ?? 0) + 1)
      if (index % (calls.length / 20) > 0) continue
      growth.push((await prepared()) - before)
      // At once: a server that has no room for more fails every client.
      expect(growth.at(-1), `after ${index + 1} calls`).to.be.below(300)
    }
    const after = (await prepared()) - before
    const summary = [...outcomes].map(([name, number]) => `${number} ${name}`).join(', ')
    console.log(`      ${calls.length} calls (${summary}): prepared ${[...growth, after].join(', ')}`)
    expect(outcomes.get('written')).to.be.above(calls.length / 3)
    expect(after).to.be.below(300)
  })
})
