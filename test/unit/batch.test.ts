import { resolve } from 'node:path'
import { expect } from 'chai'
import {
  addToSet,
  append,
  increment,
  max,
  merge,
  min,
  pull,
  remove,
  rename,
  set,
  setIfAbsent,
} from 'sequelize-lossless'
import type { Operation } from 'sequelize-lossless'

// Not public: the built file is loaded by its path.
// eslint-disable-next-line @typescript-eslint/no-require-imports
const { Batch, disjointOperations } = require(
  resolve('dist/json/combine.js'),
) as typeof import('../../dist/json/combine.js')

type Own = ReturnType<typeof disjointOperations>

const own = (...operations: Operation[]): Own => disjointOperations('updateJson', operations)

/** The operands of the operations of a batch, as JSON; `undefined` if the second call does not fit into it. */
function operandsOf(first: Operation[], second: Operation[]): string[] | undefined {
  const batch = new Batch(own(...first), Infinity)
  return batch.add(own(...second)) ? batch.operations.map(({ json }) => json) : undefined
}

describe('a batch of the operations of several calls', () => {
  const long = 9_007_199_254_740_990

  const folded: readonly (readonly [title: string, one: Operation, other: Operation, json: string])[] = [
    ['two sets', set('k', 1), set('k', 2), '2'],
    ['two sets of long numbers', set('k', long), set('k', long + 1), String(long + 1)],
    ['two setIfAbsent', setIfAbsent('k', 1), setIfAbsent('k', 2), '1'],
    ['two appends', append('k', 1, 2), append('k', long), `[1,2,${long}]`],
    ['two increments', increment('k', 1), increment('k', -3), '-2'],
    ['two increments of fewer than 16 digits', increment('k', 1e14), increment('k', 1e14), String(2e14)],
    ['two minima', min('k', 1), min('k', 2), '1'],
    ['two maxima', max('k', 1), max('k', 2), '2'],
    ['two merges of other keys', merge('k', { a: 1 }), merge('k', { b: null }), '{"a":1,"b":null}'],
    ['two merges of one key', merge('k', { a: 1 }), merge('k', { a: 2 }), '{"a":2}'],
    ['two merges into one object', merge('k', { a: { b: 1 } }), merge('k', { a: { c: 2 } }), '{"a":{"b":1,"c":2}}'],
    ['a merge that replaces an object', merge('k', { a: { b: 1 } }), merge('k', { a: 2 }), '{"a":2}'],
  ]
  for (const [title, one, other, json] of folded) {
    it(`makes one operation of ${title}`, () => {
      expect(operandsOf([one], [other])).to.deep.equal([json])
    })
  }

  const apart: readonly (readonly [title: string, one: Operation, other: Operation])[] = [
    ['operations of two kinds', set('k', 1), increment('k', 1)],
    ['increments of fractions', increment('k', 0.5), increment('k', 1)],
    ['increments whose sum JavaScript rounds', increment('k', Number.MAX_SAFE_INTEGER - 10), increment('k', 20)],
    ['minima of long numbers', min('k', long), min('k', 1)],
    ['maxima of long numbers', max('k', 1), max('k', long)],
    ['merges of long numbers', merge('k', { a: 1 }), merge('k', { b: long })],
    ['a merge into a value that the other sets', merge('k', { a: 1 }), merge('k', { a: { b: 1 } })],
    ['a merge into a value that the other removes', merge('k', { a: null }), merge('k', { a: { b: 1 } })],
    ['a merge deep in a value that the other sets', merge('k', { a: { b: 1 } }), merge('k', { a: { b: { c: 1 } } })],
    ['two additions to a set', addToSet('k', 1), addToSet('k', 2)],
    ['two pulls', pull('k', 1), pull('k', 2)],
    ['an operation inside the value of another', set('k', {}), set(['k', 'a'], 1)],
    ['an operation on the parent of another', set(['k', 'a'], 1), set('k', {})],
    ['a removal of the parent of another', set(['k', 'a'], 1), remove('k')],
    ['two renames', rename('k', 'l'), rename('k', 'l')],
    ['a rename to the key of another', set('l', 1), rename('k', 'l')],
    ['an operation on the key of a rename', rename('k', 'l'), set('l', 1)],
  ]
  for (const [title, one, other] of apart) {
    it(`leaves ${title} to two statements`, () => {
      expect(operandsOf([one], [other])).to.equal(undefined)
    })
  }

  it('keeps operations on other keys as they are', () => {
    const first = [set('a', 1), rename('b', 'c')]
    expect(operandsOf(first, [set(['d', 'e'], 2), set('f', 3)])).to.deep.equal(['1', '"c"', '2', '3'])
    expect(operandsOf([set(['d', 'a'], 1)], [set(['d', 'b'], 2)])).to.deep.equal(['1', '2'])
    expect(operandsOf([remove('a')], [remove('a')])).to.have.length(1)
  })

  it('takes all operations of a call, or none', () => {
    const batch = new Batch(own(set('a', 1)), Infinity)
    expect(batch.add(own(set('b', 2), increment('a', 1)))).to.equal(false)
    expect(batch.operations.map(({ path }) => path)).to.deep.equal([['a']])
  })

  it('has up to 256 keys, of which shared parents count once, and the colons of a merge', () => {
    const sets = (from: number, count: number): Operation[] =>
      Array.from({ length: count }, (_, index) => set(['parent', `k${from + index}`], 1))
    const full = (): InstanceType<typeof Batch> => new Batch(own(...sets(0, 250)), Infinity)
    const isTaken = (...operations: Operation[]): boolean => full().add(own(...operations))
    // Before the first call, its 250 parents are not known: 500 keys.
    expect(isTaken(...sets(250, 1))).to.equal(false)
    const batch = new Batch(own(...sets(0, 1)), Infinity)
    expect(batch.add(own(...sets(1, 200)))).to.equal(true)
    expect(batch.add(own(...sets(201, 54)))).to.equal(true)
    expect(batch.add(own(set('last', 1)))).to.equal(false)
    expect(batch.add(own(set(['parent', 'k1'], 2)))).to.equal(true)
    const merges = new Batch(own(set('a', 1)), Infinity)
    const patchOf = (keys: number): object =>
      Object.fromEntries(Array.from({ length: keys }, (_, key) => [`p${key}`, 1]))
    expect(merges.add(own(merge('b', patchOf(255) as never)))).to.equal(false)
    expect(merges.add(own(merge('b', patchOf(254) as never)))).to.equal(true)
  })

  it('has up to a number of bytes, and the first call whatever it has', () => {
    // 3 bytes for each character of the path and of the operand.
    const bytes = 3 * ('["a"]'.length + '1'.length)
    for (const [max, isTaken] of [
      [2 * bytes, true],
      [2 * bytes - 1, false],
      [1, false],
    ] as const) {
      expect(new Batch(own(set('a', 1)), max).add(own(set('b', 1))), String(max)).to.equal(isTaken)
    }
  })
})
