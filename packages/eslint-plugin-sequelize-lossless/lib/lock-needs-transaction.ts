import type { Rule } from 'eslint'
import { settingsOf } from './settings.js'
import {
  ancestorsOf,
  argumentsOf,
  calledName,
  hasSpread,
  isOff,
  lastName,
  propertyOf,
  receiverOf,
  unwrap,
} from './syntax.js'
import type { Node } from './syntax.js'
import { typesOf } from './types.js'

const finders = new Set(['findByPk', 'findOne', 'findAll', 'findAndCountAll', 'findOrCreate', 'count', 'reload'])

/** Reports a `lock` option without a `transaction`: the lock ends with the read. */
export const lockNeedsTransaction: Rule.RuleModule = {
  meta: {
    type: 'problem',
    docs: {
      description: 'require a transaction beside `lock`, which ends with the read without one',
      recommended: true,
    },
    schema: [],
    messages: {
      missing:
        '{{method}}() locks nothing: without a transaction the lock ends with the read itself. ' +
        'Pass { {{transaction}}, lock: {{lock}} }.',
    },
  },
  create(context) {
    const source = context.sourceCode
    const { cls, isIgnored } = settingsOf(context)
    if (cls || isIgnored) return {}
    const types = typesOf(source)
    return {
      CallExpression(call) {
        const method = calledName(call)
        const receiver = receiverOf(call)
        if (!receiver || !finders.has(method)) return
        const options = argumentsOf(call).at(-1)
        if (options?.type !== 'ObjectExpression' || hasSpread(options)) return
        const lock = propertyOf(options, 'lock')
        const transaction = propertyOf(options, 'transaction')
        if (!lock || !isLock(lock) || (transaction && !isOff(transaction))) return
        const isTyped = method === 'reload' ? types?.isRow(receiver) : types?.isModel(receiver)
        if (isTyped === false || (method === 'reload' && isInWithLock(call))) return
        const transactionName = transactionOf(lock) ?? 't'
        const text = source.getText(lock).replace(/\s+/g, ' ')
        context.report({
          node: lock,
          messageId: 'missing',
          data: {
            method,
            lock: text,
            transaction: transactionName === 'transaction' ? transactionName : `transaction: ${transactionName}`,
          },
        })
      },
    }
  },
}

/** In these, the row's own methods join the transaction of its lock. */
const lockingMethods: readonly string[] = ['withLock', 'withLocks', 'withNext']

function isInWithLock(node: Node): boolean {
  return [...ancestorsOf(node)].some(
    (outer) => outer.type === 'CallExpression' && lockingMethods.includes(calledName(outer)),
  )
}

/** `true`, `t.LOCK.UPDATE`, `{ level: t.LOCK.UPDATE, of: Job }`, but not `{ mode: … }` of another library. */
function isLock(lock: Node): boolean {
  if (lock.type === 'Literal') return lock.value === true || lock.value === 'UPDATE' || lock.value === 'SHARE'
  if (lock.type === 'ObjectExpression') return Boolean(propertyOf(lock, 'level') ?? propertyOf(lock, 'of'))
  return lock.type === 'MemberExpression' && lastName(unwrap(lock.object)) === 'LOCK'
}

/** `t` of `t.LOCK.UPDATE`. */
function transactionOf(lock: Node): string | undefined {
  if (lock.type === 'ObjectExpression') return transactionOf(propertyOf(lock, 'level') ?? lock.properties[0]!)
  const locks = lock.type === 'MemberExpression' && unwrap(lock.object)
  const owner = locks && locks.type === 'MemberExpression' && unwrap(locks.object)
  return owner && owner.type === 'Identifier' && /^[a-z]/.test(owner.name) ? owner.name : undefined
}
