import { resolve } from 'node:path'
import { expect } from 'chai'

// Not public: the built file is loaded by its path.
// eslint-disable-next-line @typescript-eslint/no-require-imports
const { isRespelled } = require(resolve('dist/json/json-text.js')) as typeof import('../../dist/json/json-text.js')

describe('a JSON text', () => {
  const spelledOtherwise = [
    ...['1.50', ' 1.50', '1E5', '[1,2.10]', '[[1.10]]', '{"a":{"b":[{"c":1.10}]}}', '{"a":\n1e3}'],
    ...['-0', '[-0]', '{"a" : -0}', '\t-0.0', '[1, 12345678901234567]'],
  ]
  const spelledAlike = [
    ...['1.5', '0.1', '-1', '{"a":1234567890123456}', '"-0"', '{"x":"a,1.50"}', '{"x":"[1.50"}', '{"\\":":1}'],
    ...['{"at":"2026-01-01T00:00:30.500Z"}', '{"at": "2026-10-07"}', '["1.50", "e:1.50"]'],
  ]

  for (const text of spelledOtherwise) {
    it(`of which JavaScript would write a number otherwise: ${JSON.stringify(text)}`, () => {
      expect(isRespelled(text)).to.equal(true)
    })
  }
  for (const text of spelledAlike) {
    it(`that JavaScript would write alike: ${JSON.stringify(text)}`, () => {
      expect(isRespelled(text)).to.equal(false)
    })
  }
})
