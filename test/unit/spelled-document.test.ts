import { resolve } from 'node:path'
import { expect } from 'chai'

// Not public: the built file is loaded by its path.
// eslint-disable-next-line @typescript-eslint/no-require-imports
const { SpelledDocument } = require(
  resolve('dist/sequelize/spelled-document.js'),
) as typeof import('../../dist/sequelize/spelled-document.js')

describe('a document with its stored text', () => {
  it('is serialised by other code, such as the guard, as the document', () => {
    const document = { n: 1, list: [{ a: null }] }
    const spelled = new SpelledDocument('{"n":1.0,"list":[{"a":null}]}', document)
    expect(JSON.parse(JSON.stringify(spelled))).to.deep.equal(document)
    expect(spelled.text).to.include('1.0')
  })
})
