/** A call site, as the body of a function that has read `account` and gets a key `k`; or a whole file. */
export interface Site {
  readonly title: string
  readonly code: string
  /** Whether this file runs as it is; otherwise it is a body, read as TypeScript with types and as plain JavaScript. */
  readonly language?: 'ts' | 'js'
  /** The line of the code that must be reported, from 1; undefined if none may be. */
  readonly line?: number | undefined
}

/** The model of every site, as the module `./models`. */
export const models = `
import { Model } from 'sequelize'
import type { Transaction } from 'sequelize'
export class Base extends Model {
  declare id: number
  saveWithCtx(ctx: { transaction?: Transaction }) {
    return this.save(ctx.transaction ? { transaction: ctx.transaction } : {})
  }
  updateWithCtx(ctx: { transaction?: Transaction }, values: object) {
    this.set(values)
    return this.saveWithCtx(ctx)
  }
}
export class Account extends Base {
  declare status: string
  declare settings: Record<string, any>
  declare tags: string[]
  declare items: { id: string; n: number; done?: boolean }[]
  setOption(name: string, value: unknown) {
    this.settings = { ...this.settings, [name]: value }
  }
}
export class Activity extends Base { declare data: Record<string, any> }
export declare const sequelize: import('sequelize').Sequelize
export declare function define(model: typeof Model): void
export declare const mutex: { runExclusive<R>(fn: () => Promise<R>): Promise<R> }
`

const saved = (code: string): string => `${code}\n  account.changed('settings', true)\n  await account.save()`

const bodies: readonly (readonly [title: string, code: string, line?: number])[] = [
  ['a key by spread', 'await account.update({ settings: { ...account.settings, [k]: 1 } })'],
  [
    'a key and a status',
    "await account.update({ settings: { ...account.settings, [k]: { by: k } }, status: 'active' })",
  ],
  ['a document that may be empty, ||', 'await account.update({ settings: { ...(account.settings || {}), [k]: k } })'],
  ['a document that may be empty, ??', 'await account.update({ settings: { ...(account.settings ?? {}), [k]: k } })'],
  [
    'a conditional base',
    'await account.update({ settings: { ...(account.settings ? account.settings : {}), [k]: k } })',
  ],
  ['a template key', 'await account.update({ settings: { ...account.settings, [`${k}_done`]: true } })'],
  ['two keys', "await account.update({ settings: { ...account.settings, [k]: 1, [k + '2']: 2 } })"],
  ['omit of one key', "await account.update({ settings: omit(account.settings, 'old'), status: k })"],
  ['omit of two keys', "await account.update({ settings: omit(account.settings, ['old', 'older']) })"],
  ['omit of a computed key', 'await account.update({ settings: omit(account.settings, [k]) })'],
  [
    'a patch',
    'const patch = { [k]: 1, seen: true }\n  await account.update({ settings: { ...account.settings, ...patch } })',
    2,
  ],
  [
    'a patch and a key',
    'const patch = { [k]: 1 }\n  await account.update({ settings: { ...account.settings, ...patch, seen: true } })',
    2,
  ],
  [
    'Object.assign of a literal',
    'await account.update({ settings: Object.assign({}, account.settings, { [k]: true }) })',
  ],
  [
    'Object.assign of a patch',
    'const patch = { [k]: 1 }\n  await account.update({ settings: Object.assign({}, account.settings, patch) })',
    2,
  ],
  ['Object.assign in place', saved('Object.assign(account.settings, { [k]: 1 })')],
  ['assignment and save', 'account.settings = { ...account.settings, [k]: 1 }\n  await account.save()'],
  [
    'assignment of two columns and save',
    "account.settings = { ...account.settings, [k]: 1 }\n  account.status = 'active'\n  await account.save()",
  ],
  ['a key in place', saved('account.settings[k] = 1')],
  ['a counter, +=', saved('account.settings.count += 1')],
  ['a counter, ++', saved('account.settings.count++')],
  ['a counter by five', saved('account.settings.count += 5')],
  [
    'a counter by spread',
    'await account.update({ settings: { ...account.settings, count: (account.settings.count || 0) + 1 } })',
  ],
  [
    'a counter and a key',
    'await account.update({ settings: { ...account.settings, count: account.settings.count + 1, [k]: true } })',
  ],
  ['delete of a key', saved('delete account.settings[k]')],
  ['a log in a document', saved('account.settings.log.push(k)')],
  [
    'a nested key by spread',
    'await account.update({ settings: { ...account.settings, nested: { ...account.settings.nested, [k]: 1 } } })',
  ],
  ['a nested key in place', saved('account.settings.nested[k] = 1')],
  [
    'a nested log by spread',
    'await account.update({ settings: { ...account.settings, log: [...account.settings.log, k] } })',
  ],
  ['a list: push', "account.tags.push(k)\n  account.changed('tags', true)\n  await account.save()"],
  ['a list: spread and save', 'account.tags = [...account.tags, k]\n  await account.save()'],
  ['a list: append', 'await account.update({ tags: [...account.tags, k] })'],
  ['a list: append to one that may be empty', 'await account.update({ tags: [...(account.tags || []), k] })'],
  ['a list: prepend', 'await account.update({ tags: [k, ...account.tags] })'],
  ['a list: append two', "await account.update({ tags: [...account.tags, k, 'x'] })"],
  ['a list: concat', 'await account.update({ tags: account.tags.concat(k) })'],
  ['a list: a set of values', 'await account.update({ tags: [...new Set([...account.tags, k])] })'],
  ['a list: unshift', "account.tags.unshift(k)\n  account.changed('tags', true)\n  await account.save()"],
  [
    'a list: sorted',
    "account.tags.push(k)\n  account.tags.sort()\n  account.changed('tags', true)\n  await account.save()",
  ],
  ['elements: removed by id', 'await account.update({ items: account.items.filter((item) => item.id !== k) })'],
  [
    'elements: removed by id, and save',
    'account.items = account.items.filter((item) => item.id !== k)\n  await account.save()',
  ],
  ['elements: added', "await account.update({ items: [...account.items, { id: k + '2', n: 0 }] })"],
  [
    'elements: edited by map',
    'await account.update({ items: account.items.map((item) => (item.id === k ? { ...item, n: item.n + 1 } : item)) })',
  ],
  [
    'elements: edited in place',
    "account.items.find((item) => item.id === k)!.n += 1\n  account.changed('items', true)\n  await account.save()",
  ],
  [
    'elements: edited after a check',
    "const item = account.items.find((each) => each.id === k)\n  if (!item) return\n  item.done = true\n  account.changed('items', true)\n  await account.save()",
    3,
  ],
  ['values of a list: removed', 'await account.update({ tags: account.tags.filter((tag) => tag !== k) })'],
  [
    'a copy: cloneDeep',
    'const settings = cloneDeep(account.settings)\n  settings[k] = 1\n  await account.update({ settings })',
    3,
  ],
  [
    'a copy: JSON',
    'const settings = JSON.parse(JSON.stringify(account.settings))\n  settings[k] = 1\n  await account.update({ settings })',
    3,
  ],
  [
    'a copy: structuredClone, assigned',
    'const settings = structuredClone(account.settings)\n  settings[k] = 1\n  account.settings = settings\n  await account.save()',
    3,
  ],
  [
    'a copy that is used later',
    'const settings = { ...account.settings }\n  settings[k] = 1\n  await account.update({ settings })\n  return settings',
    3,
  ],
  [
    'a destructured document',
    'const { settings } = account\n  await account.update({ settings: { ...settings, [k]: 1 } })',
    2,
  ],
  [
    'set of a clone, a literal path',
    "await account.update({ settings: set(cloneDeep(account.settings), 'nested.y', 1) })",
  ],
  [
    'set of a clone, a computed path',
    "const settings = set(cloneDeep(account.settings), ['nested', k], 1)\n  await account.update({ settings })",
    2,
  ],
  ['merge', 'await account.update({ settings: merge({}, account.settings, { nested: { [k]: 1 } }) })'],
  ['row.set', "account.set('settings', { ...account.settings, [k]: 1 })\n  await account.save()"],
  [
    'row.set of two columns',
    "account.set({ settings: { ...account.settings, [k]: 1 }, status: 'active' })\n  await account.save()",
  ],
  [
    'setDataValue',
    "account.setDataValue('settings', { ...account.getDataValue('settings'), [k]: 1 })\n  await account.save()",
  ],
  ['row.get', "await account.update({ settings: { ...account.get('settings') as object, [k]: 1 } })"],
  [
    'a default and an assignment',
    'if (!account.settings) account.settings = {}\n  account.settings = { ...account.settings, [k]: 1 }\n  await account.save()',
    2,
  ],
  [
    'a bulk update by the id of the row',
    'await Account.update({ settings: { ...account.settings, [k]: 1 } }, { where: { id: account.id } })',
  ],
  ['two documents', 'await account.update({ settings: { ...account.settings, [k]: 1 }, tags: [...account.tags, k] })'],
  ['a result that is returned', 'return account.update({ settings: { ...account.settings, [k]: 1 } })'],
  [
    'a result that is used',
    'const updated = await account.update({ settings: { ...account.settings, [k]: 1 } })\n  return updated.id',
  ],
  [
    'in a branch',
    "if (k !== 'z') {\n    account.settings = { ...account.settings, [k]: 1 }\n    await account.save()\n  }",
    2,
  ],
  [
    'in try and catch',
    'try {\n    await account.update({ settings: { ...account.settings, [k]: 1 } })\n  } catch (error) {\n    throw new Error(String(error))\n  }',
    2,
  ],
  [
    'in a loop of rows',
    'for (const each of await Account.findAll({ where: { id } })) {\n    await each.update({ settings: { ...each.settings, [k]: 1 } })\n  }\n  return account.id',
    2,
  ],
  [
    'in a map of rows',
    'const all = await Account.findAll({ where: { id } })\n  await Promise.all(all.map(async (each) => each.update({ settings: { ...each.settings, [k]: 1 } })))\n  return account.id',
    2,
  ],
  [
    'four changes of one save',
    "account.settings = { ...account.settings, [k]: 1 }\n  account.settings = { ...account.settings, [k + '2']: 2 }\n  account.settings = { ...account.settings, [k + '3']: 3 }\n  account.settings = { ...account.settings, [k + '4']: 4 }\n  await account.save()",
  ],
  ['two functions of one import', "await account.update({ settings: omit(cloneDeep(account.settings), 'old') })"],
]

/** What loses updates: each is run before and after its cure. */
export const lossy: readonly Site[] = [
  ...bodies.map(([title, code, line = 1]) => ({ title, code, line })),
  {
    title: 'a lease that is called a lock',
    line: 3,
    language: 'ts',
    code: `import { Account } from './models'
export const lockAccount = async (account: Account, k: string) => {
  await account.update({ settings: { ...account.settings, [k]: 'locked' } })
}
export async function run(id: number, k: string) {
  await lockAccount(await Account.findByPk(id, { rejectOnEmpty: true }), k)
}`,
  },
  {
    title: 'a method of the class that changes, and save()',
    line: 4,
    language: 'ts',
    code: `import { Account } from './models'
export async function run(id: number, k: string) {
  const account = await Account.findByPk(id, { rejectOnEmpty: true })
  account.setOption(k, true)
  await account.save()
}`,
  },
  {
    title: 'a save wrapper of another file',
    line: 4,
    language: 'ts',
    code: `import { Account } from './models'
export async function run(id: number, k: string) {
  const account = await Account.findByPk(id, { rejectOnEmpty: true })
  account.settings = { ...account.settings, [k]: true }
  await account.saveWithCtx({})
}`,
  },
  {
    title: 'a setter and a save wrapper of the same file',
    line: 10,
    language: 'js',
    code: `import { define } from './models'
import { Model } from 'sequelize'
class Account extends Model {
  rename(name, value) { this.settings = { ...this.settings, [name]: value } }
  async persist() { await this.save() }
}
define(Account)
export async function run(id, k) {
  const account = await Account.findByPk(id)
  account.rename(k, 1)
  await account.persist()
}`,
  },
  {
    title: 'a function of the prototype',
    line: 4,
    language: 'js',
    code: `import { Account } from './models'
import { DataTypes } from 'sequelize'
Account.prototype.enable = async function (name) {
  await this.update({ settings: { ...this.settings, [name]: DataTypes.UUIDV4.key } })
}
export async function run(id, k) {
  const account = await Account.findByPk(id)
  await account.enable(k)
}`,
  },
  {
    title: 'a row that is a parameter',
    line: 3,
    language: 'ts',
    code: `import { Account } from './models'
async function enable(account: Account, name: string) {
  account.settings[name] = true
  account.changed('settings', true)
  await account.save()
}
export async function run(id: number, k: string) {
  await enable(await Account.findByPk(id, { rejectOnEmpty: true }), k)
}`,
  },
  {
    title: 'a row of an outer variable',
    line: 5,
    language: 'ts',
    code: `import { Account } from './models'
export async function run(id: number, k: string) {
  let account: Account | null = null
  const load = async () => { account = await Account.findByPk(id) }
  const enable = async (row: Account) => { await row.update({ settings: { ...row.settings, [k]: 1 } }) }
  await load()
  await enable(account!)
}`,
  },
  {
    title: 'a dotted path in update',
    line: 4,
    language: 'js',
    code: `import { Account } from './models'
export async function run(id, k) {
  const account = await Account.findByPk(id)
  await account.update({ 'settings.flag': k === 'z' ? 1 : 2 })
}`,
  },
  {
    title: 'a dotted path in set',
    line: 4,
    language: 'js',
    code: `import { Account } from './models'
export async function run(id, k) {
  const account = await Account.findByPk(id)
  account.set('settings.nested.flag', 1)
  await account.save()
}`,
  },
  {
    title: 'a class property that is a function',
    line: 5,
    language: 'ts',
    code: `import { Base, define } from './models'
class Account extends Base {
  declare settings: Record<string, any>
  enable = async function (this: any, name: string) {
    await this.update({ settings: { ...this.settings, [name]: 1 } })
  }
}
define(Account)
export async function run(id: number, k: string) {
  const account = await Account.findByPk(id, { rejectOnEmpty: true })
  await account.enable(k)
}`,
  },
  {
    title: 'an update wrapper of another file',
    line: 4,
    language: 'ts',
    code: `import { Account } from './models'
export async function run(id: number, k: string) {
  const account = await Account.findByPk(id, { rejectOnEmpty: true })
  await account.updateWithCtx({}, { settings: { ...account.settings, [k]: true } })
}`,
  },
]

const quiet: readonly (readonly [title: string, code: string])[] = [
  [
    'inside withLock',
    'await withLock(account, async () => {\n    await account.update({ settings: { ...account.settings, [k]: 1 } })\n  })',
  ],
  [
    'a locking read',
    'await sequelize.transaction(async (transaction) => {\n    const row = await Account.findByPk(id, { transaction, lock: true, rejectOnEmpty: true })\n    await row.update({ settings: { ...row.settings, [k]: 1 } }, { transaction })\n  })',
  ],
  [
    'a reload that locks',
    'await sequelize.transaction(async (transaction) => {\n    await account.reload({ transaction, lock: transaction.LOCK.UPDATE })\n    await account.update({ settings: { ...account.settings, [k]: 1 } }, { transaction })\n  })',
  ],
  ['a mutex', 'await mutex.runExclusive(async () => account.update({ settings: { ...account.settings, [k]: 1 } }))'],
  [
    'a row that was created just now',
    'const made = await Account.create({ settings: {} })\n  await made.update({ settings: { ...made.settings, [k]: 1 } })',
  ],
  [
    'a row that a function created',
    'const createAccount = () => Account.create({ settings: {} })\n  const made = await createAccount()\n  await made.update({ settings: { ...made.settings, [k]: 1 } })',
  ],
  [
    'a row that was built',
    'const made = Account.build({ settings: {} })\n  made.settings = { ...made.settings, [k]: 1 }\n  await made.save()',
  ],
  ['a new document', 'await account.update({ settings: { [k]: 1 } })'],
  [
    'a document of the request',
    'const body = { settings: { [k]: 1 } }\n  await account.update({ settings: { ...body.settings, seen: true } })',
  ],
  ['scalars', "await account.update({ status: account.status.trim() + 'x' })"],
  ['the same document', 'await account.update({ settings: account.settings })'],
  ['a copy for the response', 'const response = { ...account.settings, [k]: 1 }\n  return response'],
  ['the document of another table', 'await Activity.create({ data: { ...account.settings, [k]: 1 } })'],
  [
    'a compared version',
    'await Account.update({ settings: { ...account.settings, [k]: 1 } }, { where: { id, version: 3 } as object })',
  ],
  [
    'a serializable transaction',
    "await sequelize.transaction({ isolationLevel: 'SERIALIZABLE' as never }, async (transaction) => {\n    await account.update({ settings: { ...account.settings, [k]: 1 } }, { transaction })\n  })",
  ],
  ['a scalar and a save', "account.status = 'done'\n  await account.save()"],
  ['a document replaced in place', 'account.settings = {}\n  account.settings[k] = 1\n  await account.save()'],
  ['a change that is not saved', 'account.settings = { ...account.settings, [k]: 1 }\n  return account'],
  ['a save of another column', "account.settings[k] = 1\n  await account.save({ fields: ['status'] })"],
  [
    'a filter for reading',
    'const tags = account.tags.filter((tag) => tag !== k)\n  await account.update({ status: String(tags.length) })',
  ],
  [
    'a map that is not a row',
    'const cache = { data: { a: 1 }, update(_: object) {} }\n  cache.update({ data: { ...cache.data, [k]: 1 } })',
  ],
  [
    'a finder and a check',
    "if (account.settings[k]) throw new Error('busy')\n  await account.update({ status: 'busy' })",
  ],
  [
    'an optimistic lock',
    "try {\n    await account.update({ settings: { ...account.settings, [k]: 1 } })\n  } catch (error) {\n    if ((error as Error).name !== 'OptimisticLockError') throw error\n  }",
  ],
]

/** What loses nothing, or only what it is meant to lose. */
export const safe: readonly Site[] = quiet.map(([title, code]) => ({ title, code }))

/** A site as a file, with its language. */
export function filesOf({ code, language, line, ...site }: Site): (Site & { language: 'ts' | 'js' })[] {
  if (language) return [{ ...site, code, language, line }]
  const imported = ['omit', 'cloneDeep', 'set', 'merge'].filter(
    (name) => new RegExp(`\\b${name}\\(`).test(code) && !code.includes(`.${name}(`),
  )
  const named = ['Account', 'Activity', 'sequelize', 'mutex'].filter(
    (name) => name === 'Account' || code.includes(`${name}.`),
  )
  const imports = [
    `import { ${named.join(', ')} } from './models'`,
    ...(imported.length > 0 ? [`import { ${imported.join(', ')} } from 'lodash'`] : []),
    ...(code.includes('withLock(') ? ["import { withLock } from 'sequelize-lossless'"] : []),
  ].join('\n')
  const untyped = code
    .replaceAll(/ as (?:object|never)\b/g, '')
    .replaceAll(/\((\w+) as Error\)/g, '$1')
    .replaceAll(')!.', ').')
    .replaceAll('_: object', '_')
  const file = (parameters: string, options: string, body: string): string =>
    `${imports}\nexport async function run(${parameters}) {\n  const account = await Account.findByPk(id${options})\n  ${body}\n}\n`
  const shifted = line && imports.split('\n').length + 2 + line
  return [
    { ...site, line: shifted, language: 'ts', code: file('id: number, k: string', ', { rejectOnEmpty: true }', code) },
    { ...site, line: shifted, language: 'js', code: file('id, k', '', untyped) },
  ]
}
