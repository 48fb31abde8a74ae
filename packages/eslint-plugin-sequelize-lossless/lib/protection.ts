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

/** Finds the locks in a file: `withLock` or a similar call around a write, a locking read before it, a mutex. */
export class Protection {
  readonly #source: SourceCode
  readonly #model: Model
  readonly #settings: Settings
  readonly #locks: Call[] = []

  constructor(source: SourceCode, model: Model, settings: Settings) {
    this.#source = source
    this.#model = model
    this.#settings = settings
  }

  /** Visits every call in the file, before the first question. */
  seeCall(call: Call): void {
    const name = calledName(call)
    const objects = argumentsOf(call)
      .map((argument) => resolved(this.#source, argument))
      .filter((argument) => argument.type === 'ObjectExpression')
    const joined = objects.filter(
      (object) => hasSpread(object) || entriesOf(object).some(([key]) => /transaction/i.test(key)),
    )
    const isReading = (isFinder(name) && !this.#settings.cls ? joined : objects).some((object) => {
      const lock = propertyOf(object, 'lock')
      return lock && !isOff(lock)
    })
    // A lock in the caller's transaction outlives the function that ran under it.
    const isTaking = saysLock(name) && (joined.length > 0 || !argumentsOf(call).some(isFunction))
    if (isReading || isTaking) this.#locks.push(call)
  }

  /** Whether a write is protected from other writers, or may be, by code that is not visible here. */
  mayCover(write: Node, row: Node, options: Node | undefined): boolean {
    const loadings = this.#model.loadingsOf(row)
    const isNew = loadings.every(
      ({ expression }) => expression.type === 'NewExpression' || isCreated(expression, write),
    )
    if (isNew || saysLock(this.#source.getText(row)) || this.#isInsideLock(write)) return true
    const around = [...ancestorsOf(write)].filter(isFunction)
    if (around.some((each) => this.#isLockedFunction(each) || this.#handlesOptimisticLock(each))) return true
    if (loadings.some((loading) => this.#isUnclear(loading, transactionOf(options)))) return true
    return this.#locks.some((lock) => this.#isLockOf(lock, write, row, loadings))
  }

  /** Whether a call before a write locks its row, or may lock it. */
  #isLockOf(lock: Call, write: Node, row: Node, loadings: readonly Loading[]): boolean {
    if (startOf(lock) > startOf(write) || !contains(bodyOf(lock), write)) return false
    const place = placeOf(this.#source, row)
    const isOwn = [receiverOf(lock), ...argumentsOf(lock)].some(
      (node) => node && isSamePlace(placeOf(this.#source, node), place),
    )
    return isOwn || loadings.every(({ expression }) => !isCall(expression) || startOf(lock) <= startOf(expression))
  }

  #isInsideLock(node: Node): boolean {
    let inner = node
    for (const outer of ancestorsOf(node)) {
      if (this.#isLockingCall(outer, inner)) return true
      inner = outer
    }
    return false
  }

  /** Whether a call runs its argument under a lock: `withLock(…)`, similar names, or a serializable transaction. */
  #isLockingCall(node: Node, given: Node): boolean {
    if (node.type !== 'CallExpression' || node.callee === given) return false
    const name = calledName(node)
    const receiver = receiverOf(node)
    if (name === 'withNext' || saysLock(name)) return true
    if (receiver?.type === 'Identifier' && saysLock(receiver.name)) return true
    return name === 'transaction' && this.#isSerializable(node)
  }

  #isSerializable(call: Call): boolean {
    return argumentsOf(call).some(
      (argument) => !isFunction(argument) && this.#source.getText(argument).includes('SERIALIZABLE'),
    )
  }

  /** Whether the name of a function mentions a lock, or the same file calls it under a lock. */
  #isLockedFunction(node: FunctionNode): boolean {
    const outer = parentOf(node)!
    const name = node.type === 'FunctionDeclaration' ? node.id : outer.type === 'VariableDeclarator' ? outer.id : null
    if (name?.type !== 'Identifier') return false
    if (saysLocked(name.name)) return true
    return variableOf(this.#source, name)!.references.some(({ identifier }) => this.#isInsideLock(identifier as Node))
  }

  #handlesOptimisticLock(node: FunctionNode): boolean {
    return this.#source.getText(node).includes('OptimisticLockError')
  }

  /** Whether the row may have been locked at its origin, or is not visible to other sessions yet. */
  #isUnclear({ expression, find }: Loading, transaction: Node | undefined): boolean {
    if (!find) return transaction !== undefined && (isCall(expression) || !this.#isOpenedHere(transaction))
    const { written } = find
    const options = written && resolved(this.#source, written)
    return options !== undefined && (options.type !== 'ObjectExpression' || hasSpread(options))
  }

  /** A transaction that this function opens cannot have locked a row that the function received. */
  #isOpenedHere(transaction: Node): boolean {
    const variable = transaction.type === 'Identifier' && variableOf(this.#source, transaction)
    if (!variable) return false
    const opened = variable.defs.map(({ type, node }) => (type === 'Parameter' ? parentOf(node)! : node))
    return [...opened, ...originsOf(variable).map(({ expression }) => awaited(expression))].some(
      (node) => node.type === 'CallExpression' && calledName(node) === 'transaction',
    )
  }
}

/** The transaction that a call joins; the options themselves if that is unknown. */
function transactionOf(options: Node | undefined): Node | undefined {
  if (options?.type !== 'ObjectExpression') return options
  const transaction = propertyOf(options, 'transaction')
  if (transaction) return isOff(transaction) ? undefined : transaction
  return hasSpread(options) ? options : undefined
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
