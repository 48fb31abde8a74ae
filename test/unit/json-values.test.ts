import { expect } from 'chai'
import { cast, col, DataTypes, fn, literal, Op, Sequelize, where } from 'sequelize'
import { append, equals, merge, set, UnsupportedValueError, UsageError } from 'sequelize-lossless'

describe('a JSON value', () => {
  const Note = new Sequelize({ dialect: 'sqlite', storage: ':memory:' }).define('Note', { text: DataTypes.STRING })

  const refused: Readonly<Record<string, unknown>> = {
    'a function of SQL': fn('NOW'),
    'a literal of SQL': literal('1'),
    'a column of SQL': col('id'),
    'a cast of SQL': cast(1, 'char'),
    'a condition of SQL': where(col('id'), '=', 1),
    'a model instance': Note.build({ text: 'x' }),
    'an object with symbol keys': { a: 1, [Op.gt]: 1 },
    'an array with symbol keys': Object.assign([1], { [Op.gt]: 1 }),
  }

  const patches: Readonly<Record<string, object>> = {
    'a date': new Date(0),
    'an object that is written as an array': { toJSON: () => [1] },
    'an object that is written as null': { toJSON: () => null },
  }
  for (const [name, patch] of Object.entries(patches)) {
    it(`that is ${name} is refused as a patch, since it would replace the document`, () => {
      expect(() => merge([], patch as never)).to.throw(UsageError, /expected the patch to be an object/)
    })
  }

  for (const [name, value] of Object.entries(refused)) {
    it(`that is ${name} is refused, at any depth`, () => {
      for (const make of [
        () => set('k', value),
        () => set('k', { deep: [value] }),
        () => append('k', 1, value),
        () => merge('k', { deep: value }),
        () => equals('k', value),
      ]) {
        expect(make).to.throw(UnsupportedValueError).with.property('code', 'UNSUPPORTED_VALUE')
      }
    })
  }

  it('with a toJSON method may have properties with symbols as keys', () => {
    const value = Object.assign(Object.create({ toJSON: () => 'text' }) as object, { [Symbol('state')]: 1 })
    expect(set('k', value).json).to.equal('"text"')
    const hidden = Object.defineProperty({ a: 1 }, Symbol('observer'), { value: 1, enumerable: false })
    expect(set('k', hidden).json).to.equal('{"a":1}')
  })
})
