import { expect } from 'chai'
import { check, History } from './history.js'
import type { Operation } from './history.js'

const noFaults = { landed: 0, demanded: 0 }

/** Two writers at once on one set: a and b acknowledged, c failed, d unknown. */
const operations: readonly Operation[] = [
  { id: 'a', writer: 1, key: 'row', outcome: 'acknowledged', startedAt: 1, endedAt: 3 },
  { id: 'b', writer: 2, key: 'row', outcome: 'acknowledged', startedAt: 2, endedAt: 4 },
  { id: 'c', writer: 1, key: 'row', outcome: 'failed', startedAt: 5, endedAt: 6 },
  { id: 'd', writer: 2, key: 'row', outcome: 'unknown', startedAt: 7, endedAt: 8 },
]

function judge(found: readonly string[], given = operations) {
  return check(given, new Map([['row', found]]), noFaults)
}

describe('the check of a history', () => {
  it('accepts the acknowledged writes, with or without the writes of unknown outcome', () => {
    expect(judge(['a', 'b'])).to.deep.include({ result: 'valid', recovered: [] })
    expect(judge(['b', 'a', 'd'])).to.deep.include({ result: 'valid', recovered: ['row: d'] })
  })

  for (const [violation, found, expected] of [
    ['lost', ['a'], ['row: b']],
    ['phantom', ['a', 'b', 'c'], ['row: c']],
    ['unexpected', ['a', 'b', 'x'], ['row: x']],
    ['duplicated', ['a', 'b', 'b'], ['row: b']],
  ] as const) {
    it(`finds an id that is ${violation}`, () => {
      expect(judge(found)).to.deep.include({ result: 'invalid', [violation]: expected })
    })
  }

  it('finds an id in another set than the one it was written to: lost in one, unexpected in the other', () => {
    const verdict = check(operations, new Map(Object.entries({ row: ['a'], other: ['b'] })), noFaults)
    expect(verdict).to.deep.include({ result: 'invalid', lost: ['row: b'], unexpected: ['other: b'] })
  })

  it('doubts a run without a final read', () => {
    expect(check(operations, undefined, noFaults)).to.deep.include({
      result: 'unknown',
      lost: [],
      doubts: ['there is no final read'],
    })
  })

  it('doubts a run in which nothing was acknowledged', () => {
    const failed = operations.map((operation) => ({ ...operation, outcome: 'failed' as const }))
    expect(judge([], failed)).to.deep.include({ result: 'unknown', doubts: ['no write was acknowledged'] })
  })

  it('doubts a run without concurrent writers of one set: sequential writes, one writer, or two sets', () => {
    const doubts = ['no two writers were at work on one set at once']
    const [a, b] = operations
    expect(judge(['a', 'b'], [a!, { ...b!, startedAt: 5, endedAt: 6 }])).to.deep.include({ result: 'unknown', doubts })
    expect(judge(['a', 'b'], [a!, { ...b!, writer: 1 }])).to.deep.include({ result: 'unknown', doubts })
    const apart = new Map(Object.entries({ row: ['a'], other: ['b'] }))
    expect(check([a!, { ...b!, key: 'other' }], apart, noFaults)).to.deep.include({ result: 'unknown', doubts })
  })

  it('doubts a run in which fewer faults occurred than were required', () => {
    const verdict = check(operations, new Map([['row', ['a', 'b']]]), { landed: 2, demanded: 3 })
    expect(verdict).to.deep.include({ result: 'unknown', doubts: ['2 of 3 faults landed'] })
  })

  it('reports a violation as invalid, also with doubts', () => {
    expect(check(operations, new Map(), { landed: 0, demanded: 1 })).to.deep.include({
      result: 'invalid',
      lost: ['row: a', 'row: b'],
    })
  })
})

describe('a history', () => {
  it('records the outcome and the time of each write', async () => {
    const history = new History()
    let finish!: () => void
    const slow = new Promise<void>((resolve) => (finish = resolve))
    const both = [
      history.attempt(
        { id: 'a', writer: 1, keys: ['row'] },
        () => slow,
        () => 'failed',
      ),
      history.attempt(
        { id: 'b', writer: 2, keys: ['row', 'other'] },
        () => Promise.reject(new Error('no')),
        () => 'unknown',
      ),
    ]
    expect(await both[1]).to.equal('unknown')
    const reached = history.reaches(1)
    finish()
    await reached
    expect(await both[0]).to.equal('acknowledged')
    expect(history.operations.map(({ id, key, startedAt, endedAt }) => [id, key, startedAt, endedAt])).to.deep.equal([
      ['b', 'row', 2, 3],
      ['b', 'other', 2, 3],
      ['a', 'row', 1, 4],
    ])
    expect(history.operations[0]).to.have.nested.property('error.message', 'no')
  })
})
