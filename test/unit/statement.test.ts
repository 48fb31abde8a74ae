import { resolve } from 'node:path'
import { expect } from 'chai'

// How the race kit reads SQL is not public: the built file is loaded by its path.
// eslint-disable-next-line @typescript-eslint/no-require-imports
const { assignments, kindOf } = require(
  resolve('packages/every-order/dist/statement.js'),
) as typeof import('../../packages/every-order/dist/statement.js')

describe('the parser of statements in the race kit', () => {
  it('needs time that grows linearly with the length of a word', () => {
    for (const word of ['x'.repeat(500_000), '1.'.repeat(250_000)]) {
      expect(kindOf(`SELECT ${word}`)).to.equal('read')
      expect(kindOf(`SELECT ${word}(1)`)).to.equal('lock')
    }
  })

  it('finds no assignment if there is none', () => {
    expect(assignments('UPDATE a SET )', [])).to.deep.equal([])
    expect(assignments('UPDATE a SET = 1, b = 2', [])).to.deep.equal([{ column: 'b', value: 2 }])
  })
})
