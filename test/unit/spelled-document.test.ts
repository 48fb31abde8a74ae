import { resolve } from 'node:path'
import { expect } from 'chai'

// Not public: the built file is loaded by its path.
// eslint-disable-next-line @typescript-eslint/no-require-imports
const { SpelledDocument } = require(
  resolve('dist/sequelize/spelled-document.js'),
) as typeof import('../../dist/sequelize/spelled-document.js')

describe('a document with a spelling of its own', () => {
  it('is for every other reader the document, as when the guard compares it', () => {
    const document = { n: 1, list: [{ a: null }] }
    const spelled = new SpelledDocument('{"n":1.0,"list":[{"a":null}]}', document)
    expect(JSON.parse(JSON.stringify(spelled))).to.deep.equal(document)
    expect(spelled.text).to.include('1.0')
  })
})
