import type { SourceCode } from 'eslint'
import { entriesOf } from './document.js'
import { isFinder } from './model.js'
import type { Loading, Model } from './model.js'
import type { Settings } from './settings.js'
import {
  ancestorsOf,
  argumentsOf,
  awaited,
  bodyOf,
  calledName,
  contains,
  hasSpread,
  isFunction,
  isOff,
  isSamePlace,
  originsOf,
  parentOf,
  placeOf,
  propertyOf,
  receiverOf,
  resolved,
  startOf,
  variableOf,
  wordsOf,
} from './syntax.js'
import type { Call, FunctionNode, Node } from './syntax.js'

const words: ReadonlySet<string> = new Set(['lock', 'locks', 'locked', 'mutex', 'acquire', 'exclusive', 'semaphore'])

function saysLock(name: string): boolean {
  return wordsOf(name).some((word) => words.has(word))
}

/** A name that starts with one of these says what the function does to a lock: `markLocked`, `isLocked`. */
const actions: ReadonlySet<string | undefined> = new Set(['mark', 'unmark', 'set', 'unset', 'is', 'get', 'check', 'un'])

/** Whether the name of a function says that it runs under a lock of its caller, and not that it locks something. */
function saysLocked(name: string): boolean {
  return /(?:Locked|(?:With|Under|In|Inside|Holding)\w*Lock)$/.test(name) && !actions.has(wordsOf(name)[0])
}

export interface Protection {
  /** Visits every call in the file. */
  see(call: Call): void
  /** Whether a write is protected from other writers, or may be, by code that is not visible here. */
  mayCover(write: Node, row: Node, options: Node | undefined): boolean
}

/** Finds the locks in a file: `withLock` or a similar call around a write, a locking read before it, a mutex. */
export function protectionIn(source: SourceCode, model: Model, { cls }: Settings): Protection {
  const locks: Call[] = []

  /** Whether a call runs its argument under a lock: `withLock(…)`, similar names, or a serializable transaction. */
  const isLockingCall = (node: Node, given: Node): boolean => {
    if (node.type !== 'CallExpression' || node.callee === given) return false
    const name = calledName(node)
    if (name === 'withNext' || saysLock(name) || saysLock(receiverName(node))) return true
    return name === 'transaction' && isSerializable(node)
  }
  const isSerializable = (call: Call): boolean =>
    argumentsOf(call).some((argument) => !isFunction(argument) && source.getText(argument).includes('SERIALIZABLE'))
  const receiverName = (call: Call): string => {
    const receiver = receiverOf(call)
    return receiver?.type === 'Identifier' ? receiver.name : ''
  }
  const isInsideLock = (node: Node): boolean => {
    let inner = node
    for (const outer of ancestorsOf(node)) {
      if (isLockingCall(outer, inner)) return true
      inner = outer
    }
    return false
  }
  const functionsAround = (node: Node): FunctionNode[] => [...ancestorsOf(node)].filter(isFunction)

  /** Whether the name of a function mentions a lock, or the same file calls it under a lock. */
  const isLockedFunction = (node: FunctionNode): boolean => {
    const outer = parentOf(node)!
    const name = node.type === 'FunctionDeclaration' ? node.id : outer.type === 'VariableDeclarator' ? outer.id : null
    if (name?.type !== 'Identifier') return false
    return (
      saysLocked(name.name) ||
      variableOf(source, name)!.references.some(({ identifier }) => isInsideLock(identifier as Node))
    )
  }

  /** A transaction that this function opens cannot have locked a row that the function received. */
  const isOpenedHere = (transaction: Node): boolean => {
    const variable = transaction.type === 'Identifier' && variableOf(source, transaction)
    if (!variable) return false
    const opened = variable.defs.map(({ type, node }) => (type === 'Parameter' ? parentOf(node)! : node))
    return [...opened, ...originsOf(variable).map(({ expression }) => awaited(expression))].some(
      (node) => node.type === 'CallExpression' && calledName(node) === 'transaction',
    )
  }
  /** The transaction that a call joins; the options themselves if that is unknown. */
  const transactionOf = (options: Node | undefined): Node | undefined => {
    if (options?.type !== 'ObjectExpression') return options
    const transaction = propertyOf(options, 'transaction')
    if (transaction) return isOff(transaction) ? undefined : transaction
    return hasSpread(options) ? options : undefined
  }
  /** Whether the row may have been locked at its origin, or is not visible to other sessions yet. */
  const isUnclear = ({ expression, find }: Loading, transaction: Node | undefined): boolean => {
    if (!find) return transaction !== undefined && (isCall(expression) || !isOpenedHere(transaction))
    const { written } = find
    const options = written && resolved(source, written)
    return options !== undefined && (options.type !== 'ObjectExpression' || hasSpread(options))
  }

  return {
    see(call) {
      const name = calledName(call)
      const objects = argumentsOf(call)
        .map((argument) => resolved(source, argument))
        .filter((argument) => argument.type === 'ObjectExpression')
      const joined = objects.filter(
        (object) => hasSpread(object) || entriesOf(object).some(([key]) => /transaction/i.test(key)),
      )
      const isReading = (isFinder(name) && !cls ? joined : objects).some((object) => {
        const lock = propertyOf(object, 'lock')
        return lock && !isOff(lock)
      })
      // A lock in the caller's transaction outlives the function that ran under it.
      const isTaking = saysLock(name) && (joined.length > 0 || !argumentsOf(call).some(isFunction))
      if (isReading || isTaking) locks.push(call)
    },
    mayCover(write, row, options) {
      const around = functionsAround(write)
      const loadings = model.loadingsOf(row)
      const place = placeOf(source, row)
      const isNew = loadings.every(
        ({ expression }) => expression.type === 'NewExpression' || isCreated(expression, write),
      )
      if (isNew || saysLock(source.getText(row)) || isInsideLock(write) || around.some(isLockedFunction)) return true
      if (around.some((outer) => source.getText(outer).includes('OptimisticLockError'))) return true
      if (loadings.some((loading) => isUnclear(loading, transactionOf(options)))) return true
      return locks.some((lock) => {
        if (startOf(lock) > startOf(write) || !contains(bodyOf(lock), write)) return false
        const receiver = receiverOf(lock)
        const own = [receiver, ...argumentsOf(lock)].some((node) => node && isSamePlace(placeOf(source, node), place))
        return own || loadings.every(({ expression }) => !isCall(expression) || startOf(lock) <= startOf(expression))
      })
    },
  }
}

function isCall({ type }: Node): boolean {
  return type === 'CallExpression'
}

/** Whether the flow of the write has built or created the row: `Run.create(…)`, `createRun(…)`, not `findOrCreate`. */
function isCreated(node: Node, write: Node): boolean {
  if (node.type !== 'CallExpression' || !contains(bodyOf(node), write)) return false
  const [first, ...words] = wordsOf(calledName(node))
  return (['build', 'create'].includes(first ?? '') && !words.includes('or')) || calledName(node) === 'bulkCreate'
}
