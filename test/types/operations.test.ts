import { expectTypeOf } from 'expect-type'
import { Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes } from 'sequelize'
import {
  addToSet,
  append,
  assign,
  atomicUpdate,
  contains,
  equals,
  exists,
  increment,
  lessThan,
  matching,
  max,
  merge,
  mergeJsonKey,
  not,
  plus,
  prepend,
  pull,
  remove,
  rename,
  set,
  setIfAbsent,
  updateJson,
} from 'sequelize-lossless'
import type { Condition, Lossless, Operation } from 'sequelize-lossless'

type Event = { kind: 'created'; by: string } | { kind: 'paid'; amount: number }
type Json = string | number | boolean | null | Json[] | { [key: string]: Json }
interface Document {
  last?: Event
  events: Event[]
  items: { a: number }[]
  names: string[]
  geo?: { lat: number; lng: number }
  balance: bigint
  ids: bigint[]
  count: number | null
  either: number | string
  level: 'info' | 'error'
  at: Date
  log: { lines?: string[]; level: 'info' | 'error' }
}

class Account extends Model<InferAttributes<Account>, InferCreationAttributes<Account>> {
  declare id: CreationOptional<number>
  declare title: string
  declare document: Document
  declare loose: { [key: string]: Json }
  declare record: Record<string, Json> | null
  declare json: Json
  declare object: CreationOptional<object>
  declare tags: CreationOptional<string[]>
  declare events: Event[] | null
}
interface Account extends Lossless<Account> {}

/** Compiled, never run: correct code, as applications have it. */
export async function correct(account: Account, event: Event, isNorth: boolean, items: { a: number }[]): Promise<void> {
  // A value whose type is a union of objects.
  await account.updateJson('document', [set('last', event), append('events', event)])
  await account.updateJson('document', [append('events', event, { kind: 'paid', amount: 1 })])
  await account.updateJson('document', [set('geo', isNorth ? { lat: 1, lng: 2 } : { lat: 3, lng: 4 })])
  await account.updateJson('document', [append('items', { a: 1 }, { a: 2 }), prepend('events', event)])
  await account.updateJson('document', [addToSet('events', event), setIfAbsent('last', event)])
  await account.updateJson('document', [pull('events', event)], { if: [equals('last', event)] })
  await account.compareAndSetJson('document', 'last', event, event)
  await account.mergeJsonKey('document', 'last', event)
  const key = isNorth ? 'level' : 'count'
  await account.updateJson('document', [remove(key)])
  await account.updateJson('document', [isNorth ? set('level', 'info') : increment('count')])

  // A list of operations.
  const operations: Operation[] = [increment('count')]
  if (isNorth) operations.push(set('level', 'error'))
  const made = (): readonly Operation[] => operations
  const write = (given: Operation[]): Promise<Account> => account.updateJson('document', given)
  await write(operations)
  await account.updateJson('document', operations)
  await updateJson([Account, 1], 'document', made())
  await updateJson([Account, 1], 'document', [...operations, increment('count')])
  await account.updateJson('document', [])
  await account.atomicUpdate({ document: operations, loose: made(), title: 'x' })
  const untyped: Operation = set(['a', 'path'], 'that the type does not have')
  await account.updateJson('document', [untyped, increment('count')])
  const path: string[] = ['log', 'lines']
  await account.updateJson('document', [set(path, 'text'), append(path, 'x'), increment([...path, 'n'])])
  const conditions: Condition[] = [exists('level')]
  await account.updateJson('document', operations, { if: conditions })
  await account.updateJson('document', operations, { if: [...conditions, not(equals('level', 'info'))] })

  // An array of any length.
  await account.updateJson('document', [append('items', ...items), append(['log', 'lines'], ...path)])
  await account.updateJson('document', [append('events', event, ...[event])])

  // Documents of any JSON.
  await account.updateJson('loose', [set('a', 1), increment('b'), append('c', 'x', 1), prepend(['d', 'e'], null)])
  await account.updateJson('loose', [
    addToSet('f', { g: [1] }),
    pull('h', 1),
    max(['i', 'j'], 5),
    assign('k', { l: 1 }),
  ])
  await account.updateJson('record', [increment(['a', 'b']), merge('c', { d: null }), rename('e', 'f'), remove('g')])
  await account.updateJson('record', [increment('n')], {
    if: [lessThan('n', 5), contains('l', 'x'), exists(['a', 'b'])],
  })
  await account.mergeJsonKey('json', 'a', { b: [1] })
  await account.updateJson('json', [increment('n'), append(['a', 'b'], 1)])
  await account.mergeJson('json', { a: 1 })
  await account.mergeJson('record', { a: { b: null } })
  await account.updateJson('object', [increment('n'), set(['a', 'b'], 'x')])
  await mergeJsonKey([Account, 1], 'object', 'a', 1)
  const json: Json = { a: [1] }
  await account.mergeJsonKey('loose', 'a', json)
  await account.updateJson('loose', [set(['a', 'b'], json), append('c', json)])

  // Numbers.
  await account.updateJson('document', [
    increment('balance', 5n),
    increment('count'),
    increment('either'),
    max('balance', 1),
  ])
  await account.updateJson('document', [append('ids', 1n), prepend('ids', 10n ** 18n)])
  await account.updateJson('document', [set('balance', 1n)])

  // An array as the document of a column, or as an ordinary value.
  await account.atomicUpdate({ tags: ['a'], title: 'x' })
  const given: Operation[] = []
  await account.updateJson('tags', given)
  await account.updateJson('events', given, { returning: true })
  await account.atomicUpdate({ tags: given, events: given })
  const events = await updateJson([Account, 1], 'events', given, { returning: true })
  expectTypeOf(events).toEqualTypeOf<Event[]>()

  // Elements by their members.
  await account.updateJson('document', [set(['items', matching({ a: 1 }), 'a'], 2), remove('last')])
  await account.updateJson('document', [pull('events', matching({ kind: 'paid' })), pull('items', matching({ a: 1 }))])
  await account.updateJson('events', [set([matching({ kind: 'paid', amount: 1 }), 'amount'], 2)])
  await account.updateJson('loose', [set(['a', matching({ any: [1] }), 'b'], 1), pull('c', matching({ d: 1 }))])
  await account.updateJson('document', [increment('count')], { if: [exists(['items', matching({ a: 1 })])] })

  // Targets.
  await mergeJsonKey([Account, { where: { title: 'x' } }], 'document', 'count', 1)
  await mergeJsonKey([Account, { id: 1 }], 'document', 'count', 1)
  const byTitle = await atomicUpdate([Account, { where: { title: 'x' } }], { title: 'y' }, { returning: true })
  expectTypeOf(byTitle).toEqualTypeOf<Account>()
}

/** Compiled, never run: a wrong use that compiled would be an unused directive. */
export async function wrong(account: Account, event: Event, path: string[]): Promise<void> {
  // @ts-expect-error not an event
  await account.updateJson('document', [set('last', { kind: 'paid', by: 'x' })])
  // @ts-expect-error not an event
  await account.updateJson('document', [append('events', event, { kind: 'paid' })])
  // @ts-expect-error one of two operations does not fit
  await account.updateJson('document', [event.kind === 'paid' ? set('level', 'info') : increment('level')])
  // @ts-expect-error an array has no key
  await account.updateJson('document', [set(['names', 'length'], 1)])
  // @ts-expect-error a string has no key
  await account.updateJson('document', [set(['level', 'length'], 1)])
  // @ts-expect-error a Date, which JSON holds as text, has no key
  await account.updateJson('document', [remove(['at', 'getTime'])])
  // @ts-expect-error an array has no key
  await account.mergeJsonKey('tags', 'length', 1)
  // @ts-expect-error no such key before the part that is not known
  await account.updateJson('document', [remove(['lag', ...path])])
  // @ts-expect-error nothing to append
  await account.updateJson('document', [append('events')])
  // @ts-expect-error an item that is not known to be one
  await account.updateJson('document', [append('items', ...path)])
  // @ts-expect-error no such member of an element
  await account.updateJson('document', [set(['items', matching({ b: 1 }), 'a'], 2)])
  // @ts-expect-error one of two members is none of an element
  await account.updateJson('document', [remove(['items', matching({ a: 1, b: 1 })])])
  // @ts-expect-error not the type of the member
  await account.updateJson('document', [set(['items', matching({ a: '1' }), 'a'], 2)])
  // @ts-expect-error members of two kinds of events
  await account.updateJson('events', [remove([matching({ kind: 'created', amount: 1 })])])
  // @ts-expect-error not the type of the member
  await account.updateJson('document', [pull('items', matching({ a: '1' }))])
  // @ts-expect-error no such member in a condition
  await account.updateJson('document', [increment('count')], { if: [exists(['items', matching({ b: 1 })])] })
  // @ts-expect-error an array has no keys to merge
  await account.mergeJson('tags', { a: 1 })
  // @ts-expect-error an array is no patch
  await account.mergeJson('tags', ['a'])
  // @ts-expect-error the document is an array
  await account.updateJson('events', [merge([], {})])
  // @ts-expect-error a text is no patch
  await account.updateJson('document', [merge('level', 'info')])
  // @ts-expect-error neither operations nor a value of the column
  await account.atomicUpdate({ tags: [1] })
  // @ts-expect-error a sum for an array
  await account.atomicUpdate({ tags: plus(1) })
  // @ts-expect-error no such column in a target
  await mergeJsonKey([Account, { where: { titel: 'x' } }], 'document', 'count', 1)
  // @ts-expect-error not a value
  await account.mergeJsonKey('loose', 'a', undefined)
  // @ts-expect-error a string is not counted
  await account.updateJson('document', [increment('level')])
}
