import { resolve } from 'node:path'
import { inspect } from 'node:util'
import { expect } from 'chai'

// Not public: the built file is loaded by its path.
// eslint-disable-next-line @typescript-eslint/no-require-imports
const { mayBeSameKey } = require(resolve('dist/rows/key-text.js')) as typeof import('../../dist/rows/key-text.js')

describe('two values of a primary key', () => {
  const noon = new Date('2024-01-05T12:00:00Z')
  const after = (milliseconds: number): Date => new Date(noon.getTime() + milliseconds)

  const cases: readonly (readonly [type: string, one: unknown, other: unknown, isMaybe: boolean])[] = [
    ['INTEGER', 7, '7', true],
    ['INTEGER', 7, 8, false],
    ['INTEGER', 7, '7.4', true],
    ['INTEGER', 7, ' 7', true],
    ['INTEGER', 7, 'seven', true],
    ['BIGINT', '9007199254740993', '9007199254740992', false],
    ['DECIMAL', '1.505', '1.51', true],
    ['DECIMAL', '1.5', '2.5', false],
    ['DATE', noon, after(400), true],
    ['DATE', noon, after(1000), false],
    ['DATE', noon, noon.toISOString(), true],
    ['DATE', noon, '2024-01-05 03:00:00', true],
    ['DATE', noon, '2024-01-09 12:00:00', false],
    ['DATE', noon, 'no time', true],
    ['DATEONLY', '2024-01-05', '2024-1-5', true],
    ['DATEONLY', '2024-01-05', '2024-01-06', false],
    ['DATEONLY', '2024-01-05', 'today', true],
    ['TIME', '10:00:00', '10:00:00.4', true],
    ['UUID', '0b5a6ec9-7a0e', '{0B5A6EC97A0E}', true],
    ['UUID', '0b5a6ec9-7a0e', '0b5a6ec9-7a0f', false],
    ['STRING', 'Ab', 'aB  ', true],
    ['STRING', 'ab', 'ac', false],
    ['STRING', 'Soren', 'Søren', true],
    ['STRING', 'ab', 'a\u0001b', true],
    ['STRING', Buffer.from('ab'), 'ab', true],
    ['BLOB', Buffer.from('ab'), Buffer.from('ac'), false],
    ['BOOLEAN', true, 1, true],
    ['BOOLEAN', true, false, false],
    ['BOOLEAN', true, 't', true],
    ['ENUM', 'one', 1, true],
  ]
  for (const [type, one, other, isMaybe] of cases) {
    const title = `of type ${type} ${isMaybe ? 'may be the same' : 'are different'}`
    it(`${title} for a database: ${inspect(one)} ${inspect(other)}`, () => {
      expect(mayBeSameKey(type, one, other)).to.equal(isMaybe)
      expect(mayBeSameKey(type, other, one)).to.equal(isMaybe)
    })
  }
})
