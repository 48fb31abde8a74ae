import { expect } from 'chai'
import {
  ElementNotFoundError,
  isLosslessError,
  JsonShapeError,
  matching,
  PendingStatementsError,
  RolledBackError,
  set,
  UsageError,
  withLock,
} from 'sequelize-lossless'
import type { LosslessErrorCode } from 'sequelize-lossless'
import { rejection } from '../rejection.js'

const row = { model: 'WorkflowRun', primaryKey: { id: 7 } }

describe('isLosslessError', () => {
  it('recognises the classes of this library, not other errors with their texts and codes', () => {
    const error: unknown = new RolledBackError('withLock')
    if (!isLosslessError(error)) throw error
    const code: LosslessErrorCode = error.code
    expect(code).to.equal('ROLLED_BACK')
    expect(isLosslessError(Object.assign(new Error(error.message), { code, name: error.name }))).to.equal(false)
    for (const other of [undefined, null, 'ROLLED_BACK', { code }]) expect(isLosslessError(other)).to.equal(false)
  })
})

describe('UsageError', () => {
  it('has a reason that distinguishes its mistake from other mistakes', async () => {
    expect(
      await rejection(
        withLock(7 as never, () => undefined),
        UsageError,
      ),
    ).to.include({ reason: 'target' })
    expect(() => set([], 1))
      .to.throw(UsageError)
      .with.property('reason', 'emptyPath')
  })
})

describe('JsonShapeError', () => {
  const text = (path: (string | number)[], needed: JsonShapeError['needed'], found: string): string =>
    new JsonShapeError('updateJson', row, 'progress', { path, needed, found }).message

  it('advises to look at the stored value and to convert it, never to overwrite it', () => {
    expect(text([], 'an object', 'array')).to.equal(
      'updateJson: "progress" of WorkflowRun id=7 holds an array, not an object, so nothing was written. ' +
        'If the array is right, write to it: await updateJson([WorkflowRun, 7], "progress", [append([], item)]), ' +
        'or to one of its elements, by its index or by matching({ id }): ' +
        'await updateJson([WorkflowRun, 7], "progress", [set([0,"key"], value)]).',
    )
    expect(text(['a', 'b'], 'an object', 'string')).to.include(
      'await compareAndSetJson([WorkflowRun, 7], "progress", ["a","b"], value, { value })',
    )
    expect(text(['a', 1], 'an array', 'object')).to.include('name the key of an array in it, such as ["a",1,"items"]')
    expect(text(['a', 1], 'an array', 'string')).to.include(
      'await compareAndSetJson([WorkflowRun, 7], "progress", ["a",1], value, [value])',
    )
    expect(text(['a', 1], 'a number', 'boolean')).to.include('holds a boolean, not a number')
    expect(text(['a'], 'a number', 'string')).to.include(
      'await compareAndSetJson([WorkflowRun, 7], "progress", ["a"], value, Number(value))',
    )
    expect(text(['a'], 'a number', 'boolean')).to.include(
      'await updateJson([WorkflowRun, 7], "progress", [rename(["a"], "a_old")])',
    )
    expect(text([], 'an object', 'text that is not JSON'))
      .to.include('SELECT')
      .and.not.include('row.progress')
  })
})

describe('ElementNotFoundError', () => {
  it('names the element, and how to add it', () => {
    const error = new ElementNotFoundError('updateJson', row, 'progress', ['items', matching({ sku: 7 })])
    expect(error).to.include({ code: 'ELEMENT_NOT_FOUND', name: 'ElementNotFoundError', column: 'progress' })
    expect(error.message).to.equal(
      'updateJson: "progress" at ["items",matching({"sku":7})] of WorkflowRun id=7 has no element, so nothing was written. ' +
        `To add it, write append(["items"], item), or replaceOrAppend(["items"], "sku", item) to replace one that is there; ` +
        `or handle the error code 'ELEMENT_NOT_FOUND' in a catch.`,
    )
  })
})

describe('PendingStatementsError', () => {
  it('names the statements, three at most and each truncated, and how to await them', () => {
    const insert = `INSERT INTO \`logs\` (${'x'.repeat(100)})`
    const error = new PendingStatementsError('withLock', [insert, 'UPDATE `a`', 'UPDATE `b`', 'UPDATE `c`'], false)
    expect(error).to.include({ code: 'PENDING_STATEMENTS', name: 'PendingStatementsError' })
    expect(error.statements).to.have.length(4)
    expect(error.message).to.equal(
      'withLock: the callback returned while 4 statements of its transaction were still in progress ' +
        `(${insert.slice(0, 79)}…; UPDATE \`a\`; UPDATE \`b\`; and 1 more), so the transaction was rolled back and nothing was written. ` +
        'Await them: await Promise.all(keys.map(async (key) => …)) in place of keys.forEach(…).',
    )
  })

  it('says which transaction has to be rolled back if the callback joined one', () => {
    const { message } = new PendingStatementsError('withLock', ['UPDATE `a`'], true)
    expect(message).to.include('(UPDATE `a`), and its other writes are in the joined transaction.')
    expect(message)
      .to.include('Let this error roll back that transaction. Await it: ')
      .and.not.include('nothing was written')
  })
})
