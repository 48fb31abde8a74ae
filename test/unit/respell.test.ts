import { resolve } from 'node:path'
import { expect } from 'chai'
import * as sinon from 'sinon'

type Respell = typeof import('../../dist/json/respell.js')
type Value = Parameters<Respell['isCopied']>[1]
type Tree = Record<string, unknown>

// Not public: the built files are loaded by their paths.
const path = require.resolve(resolve('dist/json/respell.js'))
const textPath = require.resolve(resolve('dist/json/json-text.js'))
// eslint-disable-next-line @typescript-eslint/no-require-imports
const { GivenDocument, isCopied, isReadingOfText, isSameText, respell } = require(path) as Respell

/** What is written of a stored text after a change of what JavaScript read from it: a text, or the reason why there is none. */
function rewrite(stored: string, change: (document: Tree) => unknown, earlier?: Value): string {
  const after = JSON.parse(stored) as Tree
  const changed = change(after)
  const result = respell({
    stored,
    before: JSON.parse(stored) as Value,
    after: (changed === undefined ? after : changed) as Value,
    ...(earlier !== undefined && { earlier }),
  })
  return 'loss' in result ? `loss: ${result.loss}` : result.text
}

const list = (document: Tree): unknown[] => document['list'] as unknown[]
const ids = '{"list":[{"id":9007199254740993},{"id":9007199254740992}]}'

describe('the text of a changed document', () => {
  const cases: readonly (readonly [
    title: string,
    stored: string,
    change: (document: Tree) => unknown,
    text: string,
  ])[] = [
    ['is the stored one without a change', ' {"n": 1.50} ', (document) => document, '{"n": 1.50}'],
    ['has a new key at the end', '{"n": 1.50}', (document) => ((document['a'] = 1), undefined), '{"n":1.50,"a":1}'],
    ['has no removed key', '{"n":1.50,"m":1.0}', (document) => void Reflect.deleteProperty(document, 'n'), '{"m":1.0}'],
    ['has a changed number', '{"n":1.50,"m":1.0}', (document) => void (document['m'] = 2), '{"n":1.50,"m":2}'],
    [
      'keeps what is beside a change in an object',
      '{"o":{"a":1e2,"b":{"c":-0}},"n":[1.0]}',
      (document) => void ((document['o'] as Tree)['b'] = { c: 1 }),
      '{"o":{"a":1e2,"b":{"c":1}},"n":[1.0]}',
    ],
    ['is new, if it is replaced by a scalar', '{"n":1.50}', () => 7, '7'],
    ['is new, if it is replaced by an array', '{"n":1.50}', () => [1], '[1]'],
    ['is new, if an array is replaced by an object', '[1.50]', () => ({ n: 1 }), '{"n":1}'],
    [
      'has a key that is spelled as JSON.stringify does',
      '{"\\u0061":1.0}',
      (document) => void (document['b"'] = 1),
      '{"a":1.0,"b\\"":1}',
    ],
    ['has a longer list', '{"list":[1.0,2.0]}', (document) => void list(document).push(3), '{"list":[1.0,2.0,3]}'],
    ['has a shorter list', '{"list":[1.0,2.0,3.0]}', (document) => void list(document).shift(), '{"list":[2.0,3.0]}'],
    [
      'has an item in the middle',
      '{"list":[1.0,2.0]}',
      (document) => void list(document).splice(1, 0, 9),
      '{"list":[1.0,9,2.0]}',
    ],
    ['has another item', '{"list":[1.0,2.0,3.0]}', (document) => void (list(document)[1] = 9), '{"list":[1.0,9,3.0]}'],
    [
      'has a part of another item',
      '{"list":[{"a":1.0,"b":2.0}]}',
      (document) => void ((list(document)[0] as Tree)['b'] = 9),
      '{"list":[{"a":1.0,"b":9}]}',
    ],
    [
      'has its items in another order',
      '{"list":[1.0,2.00,3.000]}',
      (document) => void list(document).reverse(),
      '{"list":[3.000,2.00,1.0]}',
    ],
    [
      'has equal items in the order of the stored ones',
      '{"list":[1.0,1.00,2]}',
      (document) => void list(document).pop(),
      '{"list":[1.0,1.00]}',
    ],
    [
      'has an item that was moved, with its digits',
      '{"list":[{"id":9007199254740993},{"id":7.0}]}',
      (document) => void list(document).push(list(document).shift()),
      '{"list":[{"id":7.0},{"id":9007199254740993}]}',
    ],
    ['has null for a new Infinity', '{"n":1}', (document) => void (document['m'] = Infinity), '{"n":1,"m":null}'],
    [
      'has a new long fraction',
      '{"n":1.50}',
      (document) => void (document['m'] = 0.1234567890123456),
      '{"n":1.50,"m":0.1234567890123456}',
    ],
  ]
  for (const [title, stored, change, text] of cases) {
    it(`${title}: ${text}`, () => {
      expect(rewrite(stored, change)).to.equal(text)
    })
  }

  const losses: readonly (readonly [title: string, stored: string, change: (document: Tree) => unknown])[] = [
    [
      'a long number is copied to another key',
      '{"n":9007199254740993}',
      (document) => void (document['m'] = document['n']),
    ],
    [
      'a long fraction is copied to another key',
      '{"n":0.12345678901234567890}',
      (document) => void (document['m'] = document['n']),
    ],
    [
      'a number that is too large is copied to another key',
      '{"n":1e999}',
      (document) => void (document['m'] = document['n']),
    ],
    [
      'a long number is copied into an item',
      '{"n":9007199254740993,"list":[]}',
      (document) => void list(document).push({ id: document['n'] }),
    ],
    [
      'one of two items that read alike is removed',
      '{"list":[9007199254740993,9007199254740992,1]}',
      (document) => void list(document).shift(),
    ],
    [
      'both of two items that read alike are changed',
      ids,
      (document) => {
        for (const each of list(document)) (each as Tree)['done'] = true
      },
    ],
  ]
  for (const [title, stored, change] of losses) {
    it(`does not exist, since the digits are lost, if ${title}`, () => {
      expect(rewrite(stored, change)).to.equal('loss: number')
    })
  }

  it('does not exist, if a number of an earlier reading is written anew', () => {
    const add = (value: unknown) => (document: Tree) => void (document['m'] = value)
    expect(rewrite('{"n":1}', add(9007199254740992), { old: [9007199254740992] })).to.equal('loss: number')
    expect(rewrite('{"n":1}', add(9007199254740992), { old: [9007199254740994] })).to.equal(
      '{"n":1,"m":9007199254740992}',
    )
    expect(rewrite('{"n":1}', add(7), { old: [7] })).to.equal('{"n":1,"m":7}')
  })

  it('is that of JSON.stringify, if a hook has decoded what was read', () => {
    const result = respell({ stored: '{"n":1.50}', before: { n: 'one and a half' }, after: { n: 'two' } })
    expect(result).to.deep.equal({ text: '{"n":"two"}' })
  })
})

describe('a value', () => {
  it('is a copy of what was read from a number that JavaScript cannot hold', () => {
    expect(isCopied('{"n":[9007199254740993]}', { m: 9007199254740992 })).to.equal(true)
    expect(isCopied('{"n":[9007199254740992]}', { m: 9007199254740992 })).to.equal(false)
    expect(isCopied('{"n":"9007199254740993"}', { m: 9007199254740992 })).to.equal(false)
  })

  const readings: readonly (readonly [text: string, value: unknown, isReading: boolean])[] = [
    ['{"a":[1.0,{"b":null}]}', { a: [1, { b: null }] }, true],
    ['{"a":1}', { a: 1, b: 2 }, false],
    ['{"a":1,"b":2}', { a: 1 }, false],
    ['{"a":1}', { b: 1 }, false],
    ['{"a":1}', [1], false],
    ['{"a":1}', null, false],
    ['[1]', [1, 2], false],
    ['[1,2]', [1], false],
    ['[1,2]', [1, 3], false],
    ['[]', {}, false],
    ['{}', [], false],
    ['[]', 'x', false],
    ['7', 7, true],
  ]
  for (const [text, value, isReading] of readings) {
    it(`${JSON.stringify(value)} is ${isReading ? '' : 'not '}read from ${text}`, () => {
      expect(isReadingOfText(text, value as Value)).to.equal(isReading)
    })
  }
})

describe('two JSON texts', () => {
  const same = [
    ['{"a":1,"b":[2.0]}', '{ "b": [2], "a": 1e0 }'],
    ['"é"', '"\\u00e9"'],
    ['9007199254740993', '"9007199254740993"'],
    ['[]', '[ ]'],
    ['{}', '{ }'],
  ] as const
  for (const [one, other] of same) {
    it(`hold the same document: ${one} ${other}`, () => {
      expect(isSameText(one, other)).to.equal(true)
    })
  }
  const different = [
    ['{"a":1}', '{"a":2}'],
    ['{"a":1}', '{"b":1}'],
    ['{"a":1}', '{"a":1,"b":2}'],
    ['{"a":1,"b":2}', '{"a":1}'],
    ['{}', '[]'],
    ['[]', '{}'],
    ['{}', '1'],
    ['[]', '1'],
    ['1', '{}'],
    ['1', '[]'],
    ['[1]', '[1,2]'],
    ['[1,2]', '[1]'],
    ['[1,2]', '[1,3]'],
    ['9007199254740993', '9007199254740992'],
    ['"9007199254740993"', '9007199254740993'],
  ] as const
  for (const [one, other] of different) {
    it(`hold different documents: ${one} ${other}`, () => {
      expect(isSameText(one, other)).to.equal(false)
    })
  }
})

describe('a text that the application has given', () => {
  it('keeps the digits of its numbers, except of those that are stored at the same place', () => {
    const given = '{"a":1.50,"b":[9007199254740993,7],"c":{"d":1.0}}'
    const document = new GivenDocument(given, undefined)
    expect(document.restore(JSON.stringify(document.document))).to.equal(given)
    const stored = '{"b":[9007199254740993],"a":1.5,"c":{"d":1.0}}'
    const beside = new GivenDocument(given, stored)
    expect(beside.document).to.have.nested.property('b[0]', 9007199254740992)
    expect(beside.document).to.have.nested.property('c.d', 1)
    expect(beside.restore(JSON.stringify(beside.document))).to.equal('{"a":1.50,"b":[9007199254740992,7],"c":{"d":1}}')
  })
})

describe('the text of a changed document, where JSON.parse gives wrong names to keys with escapes', () => {
  const parse = JSON.parse.bind(JSON) as (text: string) => unknown
  let own: Respell

  before(() => {
    // As V8 since Node 23: an escaped key has the name of another key.
    sinon.stub(JSON, 'parse').callsFake((text: string) => parse(text.replaceAll('"\\"":', '"o":')))
    for (const each of [path, textPath]) Reflect.deleteProperty(require.cache, each)
    // eslint-disable-next-line @typescript-eslint/no-require-imports
    own = require(path) as Respell
  })

  after(() => {
    sinon.restore()
    for (const each of [path, textPath]) Reflect.deleteProperty(require.cache, each)
  })

  const write = (stored: string, before: unknown, after: unknown): string => {
    const result = own.respell({ stored, before: before as Value, after: after as Value })
    return 'loss' in result ? `loss: ${result.loss}` : result.text
  }

  it('keeps an escaped key that was not read', () => {
    expect(write('{"n":1.50,"\\"":2.0}', { n: 1.5, o: 2 }, { n: 1.5, o: 2, m: 3 })).to.equal(
      '{"n":1.50,"\\"":2.0,"m":3}',
    )
  })

  it('does not exist, if a value changed that was read under a wrong name', () => {
    expect(write('{"n":1.50,"\\"":2.0}', { n: 1.5, o: 2 }, { n: 1.5, o: 3 })).to.equal('loss: key')
    // The value of the key "o" is that of the escaped key.
    expect(write('{"o":1.50,"\\"":2.0}', { o: 2 }, { o: 3 })).to.equal('loss: key')
  })

  it('has a changed value that was read under its own name', () => {
    expect(write('{"n":1.50,"\\"":2.0}', { n: 1.5, o: 2 }, { n: 7, o: 2 })).to.equal('{"n":7,"\\"":2.0}')
    expect(write('{"n":{"k":1.50},"\\"":2.0}', { n: { k: 1.5 }, o: 2 }, { n: 7, o: 2 })).to.equal('{"n":7,"\\"":2.0}')
  })
})
