import { resolve } from 'node:path'
import { expect } from 'chai'
import * as sinon from 'sinon'

type JsonText = typeof import('../../dist/json/json-text.js')

// Not public: the built file is loaded by its path.
const path = require.resolve(resolve('dist/json/json-text.js'))
// eslint-disable-next-line @typescript-eslint/no-require-imports
const { compareNumbers, isReadingOf, isSameOrText, isSameScalar, scanJson } = require(path) as JsonText

describe('numbers of JSON texts', () => {
  /** Each is greater than the one before it. */
  const ascending = [
    ...['-1e400', '-1e399', '-9007199254740994', '-9007199254740993', '-9007199254740992', '-1.50000000000000000001'],
    ...['-1.5', '-1e-400', '-1e-401', '0', '1e-401', '1e-400', '0.1', '0.10000000000000000001', '1', '1.5'],
    ...['1.50000000000000000001', '9007199254740992', '9007199254740993', '9007199254740994', '1e399', '1e400'],
  ]
  it('are ordered by all their digits', () => {
    for (const [index, one] of ascending.entries()) {
      for (const [place, other] of ascending.entries()) {
        expect(Math.sign(compareNumbers(one, other)), `${one}, ${other}`).to.equal(Math.sign(index - place))
        expect(isSameScalar(one, other), `${one}, ${other}`).to.equal(index === place)
      }
    }
  })

  const equal = [
    ['0', '-0', '0.0', '-0e5', '0E-9'],
    ['1', '1.0', '1e0', '10e-1', '0.1E+1', '100.00e-2'],
    ['-120', '-1.2e2', '-120.0', '-0.12E3'],
    ['9007199254740993', '9007199254740993.0', '9.007199254740993e15', '90071992547409930e-1'],
  ]
  for (const spellings of equal) {
    it(`are equal in any spelling: ${spellings.join(' ')}`, () => {
      for (const one of spellings) {
        for (const other of spellings) {
          expect(isSameScalar(one, other), `${one}, ${other}`).to.equal(true)
          expect(compareNumbers(one, other), `${one}, ${other}`).to.equal(0)
        }
      }
    })
  }
})

describe('scalars of JSON texts', () => {
  const scalars = ['1', '"1"', 'true', 'false', 'null', '"null"', '""', '"a"', '"é"', '"\\\\u00e9"']
  it('are equal to themselves only', () => {
    for (const one of scalars) for (const other of scalars) expect(isSameScalar(one, other)).to.equal(one === other)
  })

  it('are equal strings in any spelling of their characters', () => {
    expect(isSameScalar('"é"', '"\\u00e9"')).to.equal(true)
    expect(isSameScalar('"\\u00e9"', '"é"')).to.equal(true)
    expect(isSameScalar('"\\/"', '"/"')).to.equal(true)
    expect(isSameScalar('"\\n"', '"n"')).to.equal(false)
  })

  it('are compared with the text that a driver reads from a long integer', () => {
    expect(isSameOrText('9007199254740993', '"9007199254740993"')).to.equal(true)
    expect(isSameOrText('9007199254740993', '"9007199254740994"')).to.equal(false)
    expect(isSameOrText('7', '"7"')).to.equal(false)
    expect(isSameOrText('"7"', '7')).to.equal(false)
    expect(isSameOrText('7', '7.0')).to.equal(true)
  })

  const readings: readonly (readonly [token: string, value: unknown, isReading: boolean])[] = [
    ['7', 7, true],
    ['7.0', 7, true],
    ['-7', -7, true],
    ['7', '7', false],
    ['7', 8, false],
    ['9007199254740993', 9007199254740992, true],
    ['9007199254740993', '9007199254740993', true],
    ['9007199254740993', '9007199254740992', false],
    ['1e999', Infinity, true],
    ['"7"', '7', true],
    ['"7"', 7, false],
    ['"\\u00e9"', 'é', true],
    ['"a"', 'b', false],
    ['true', true, true],
    ['true', false, false],
    ['null', null, true],
    ['null', undefined, false],
    ['"null"', null, false],
    ['"true"', true, false],
  ]
  for (const [token, value, isReading] of readings) {
    it(`${token} is ${isReading ? '' : 'not '}read as ${JSON.stringify(value)} (${typeof value})`, () => {
      expect(isReadingOf(token, value)).to.equal(isReading)
    })
  }
})

describe('the scan of a JSON text', () => {
  /** The text of each value, and of what it holds. */
  const parts = (text: string, node = scanJson(text)): unknown => {
    const { start, end, members, items } = node
    if (members) return Object.fromEntries([...members].map(([key, each]) => [key, parts(text, each)]))
    return items?.map((each) => parts(text, each)) ?? text.slice(start, end)
  }

  it('finds every value, in any layout', () => {
    const text = ' {"a" : 1.50 ,\n"b":[ ] , "c":{ },"d":[1,[-2e5,"x,]}"],{"e":null}],"":true,"f\\"\\\\":"\\u0022:{" } '
    expect(parts(text)).to.deep.equal({
      a: '1.50',
      b: [],
      c: {},
      d: ['1', ['-2e5', '"x,]}"'], { e: 'null' }],
      '': 'true',
      'f"\\': '"\\u0022:{"',
    })
    expect([' 7 ', '"x"', 'null'].map((each) => parts(each))).to.deep.equal(['7', '"x"', 'null'])
  })

  it('finds where objects and arrays begin and end, and the last of equal keys', () => {
    const text = '{"a":{"b":[1]},"a":[{}, 2]}'
    const { start, end, members } = scanJson(text)
    expect([start, end]).to.deep.equal([0, text.length])
    const { start: from, end: to } = members!.get('a')!
    expect(text.slice(from, to)).to.equal('[{}, 2]')
  })

  for (const text of ['', ' ', '{', '[1', '{"a"', '{"a":', '"a']) {
    it(`refuses a text that is not JSON: ${JSON.stringify(text)}`, () => {
      expect(() => scanJson(text)).to.throw(SyntaxError)
    })
  }
})

describe('the keys of a JSON text, where JSON.parse gives wrong names to those with escapes', () => {
  const parse = JSON.parse.bind(JSON) as (text: string) => unknown
  let own: JsonText

  /** As V8 since Node 23: the name of an escaped key is that of another key. */
  const misread = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(misread)
    if (typeof value !== 'object' || value === null) return value
    return Object.fromEntries(
      Object.entries(value).map(([key, each]) => [/["\\]/.test(key) ? 'wrong' : key, misread(each)]),
    )
  }

  before(() => {
    sinon.stub(JSON, 'parse').callsFake((text: string) => misread(parse(text)))
    Reflect.deleteProperty(require.cache, path)
    // eslint-disable-next-line @typescript-eslint/no-require-imports
    own = require(path) as JsonText
  })

  after(() => {
    sinon.restore()
    Reflect.deleteProperty(require.cache, path)
  })

  const text = '{"a":1.50,"\\"":{"b":[{"\\\\":9007199254740993},"c",{"k\\u0065y":null}]},"list":[true]}'
  const document = { a: 1.5, '"': { b: [{ '\\': 9007199254740992 }, 'c', { key: null }] }, list: [true] }

  it('are right after it is parsed', () => {
    expect(JSON.parse(text)).to.not.deep.equal(document)
    expect(own.parseJson(text)).to.deep.equal(document)
    expect(own.tryParseJson(text)).to.deep.equal(document)
    expect(own.tryParseJson('{')).to.equal(undefined)
    expect(own.mayBeMisread(text)).to.equal(true)
    expect(own.isRespelled('{"\\"":1}')).to.equal(true)
  })

  it('are right in what a driver read, whose scalars are kept', () => {
    const read = { a: 1.5, wrong: 'lost', list: [true], other: 1 }
    expect(own.withRightKeys(text, read)).to.deep.equal(document)
    const long = '{"\\"":1,"n":[9007199254740993],"o":{"p":9007199254740993}}'
    const asTexts = { wrong: 1, n: ['9007199254740993'], o: { p: '9007199254740993' } }
    expect(own.withRightKeys(long, asTexts)).to.deep.equal({ '"': 1, n: asTexts.n, o: asTexts.o })
  })

  it('of a text without an escape in a key are those of the driver', () => {
    const read = { a: '\\' }
    expect(own.mayBeMisread('{"a":"\\\\"}')).to.equal(false)
    expect(own.withRightKeys('{"a":"\\\\"}', read)).to.equal(read)
  })
})
