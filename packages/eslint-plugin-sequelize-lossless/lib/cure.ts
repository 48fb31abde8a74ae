import type { Rule, SourceCode } from 'eslint'
import { Imports } from './imports.js'
import { shownPath } from './operations.js'
import type { Changes, Operation } from './operations.js'
import { ancestorsOf, bodyOf, childrenOf, contains, isFunction, propertyOf, statementOf } from './syntax.js'
import type { Call, Node, NodeOf } from './syntax.js'

export interface Cure {
  readonly messageId: 'useAtomic' | 'useUpdateWhere' | 'useLock'
  readonly fix: (fixer: Rule.RuleFixer) => Rule.Fix[]
}

/** A call of a function of the library in place of a range. */
interface Replacement {
  readonly range: readonly [number, number]
  readonly name: 'atomicUpdate' | 'updateWhere' | 'withLock'
  readonly parameters: readonly (string | Changes)[]
  /** The keyword in front of the call, if it takes the place of statements. */
  readonly keyword?: 'await' | 'return'
}

const messageIds = { atomicUpdate: 'useAtomic', updateWhere: 'useUpdateWhere', withLock: 'useLock' } as const

/** Writes calls of the library in place of code of a file. */
export class Cures {
  readonly #source: SourceCode
  readonly #imports: Imports

  constructor(source: SourceCode) {
    this.#source = source
    this.#imports = new Imports(source)
  }

  /** `atomicUpdate(run, { progress: [set('a', 1)], status })` in place of a call. */
  atomicCall(call: Call, row: Node, changes: Changes, options: Node | undefined): Cure | undefined {
    return this.#atomic({ range: call.range! }, row, changes, options)
  }

  /** `await atomicUpdate(run, { progress: [set('a', 1)], status })` in place of statements. */
  atomicStatements(
    statements: readonly Node[],
    row: Node,
    changes: Changes,
    options: Node | undefined,
  ): Cure | undefined {
    return this.#atomic({ range: rangeOf(statements), keyword: 'await' }, row, changes, options)
  }

  #atomic(
    place: Pick<Replacement, 'range' | 'keyword'>,
    row: Node,
    changes: Changes,
    options: Node | undefined,
  ): Cure | undefined {
    const given = this.#transactionIn(options)
    if (!given || hasCommentBetween(this.#source, place.range)) return undefined
    return this.#cure({ ...place, name: 'atomicUpdate', parameters: [this.#source.getText(row), changes, ...given] })
  }

  /** `updateWhere(WorkflowRun, { id }, { progress: [set('a', 1)] })` in place of a call whose result is not used. */
  where(call: Call, model: Node, changes: Changes, options: NodeOf<'ObjectExpression'>): Cure | undefined {
    const given = this.#transactionIn(options, ['where'])
    if (!given || !statementOf(call)) return undefined
    const where = this.#source.getText(propertyOf(options, 'where'))
    const parameters = [this.#source.getText(model), where, changes, ...given]
    return this.#cure({ range: call.range!, name: 'updateWhere', parameters })
  }

  /** `withLock(run, () => run.update(…))`: around one call. */
  lockCall(call: Call, row: Node, options: Node | undefined): Cure {
    const text = this.#source.getText(call)
    const callback = `${/\bawait\b/.test(text) ? 'async () =>' : '() =>'} ${text}`
    return this.#lock({ range: call.range! }, row, callback, options)
  }

  /** `await withLock(run, async () => { … })`: around the statements from the first of these nodes to the last. */
  lockStatements(nodes: readonly Node[], row: Node, options: Node | undefined): Cure | undefined {
    const locked = lockedStatements(this.#source, nodes)
    if (!locked) return undefined
    const { statements, isRest } = locked
    const range = rangeOf(statements)
    const indent = this.#indentOf(statements[0]!)
    const body = this.#source.text.slice(...range).replaceAll(/\n(?=.)/g, '\n  ')
    const callback = `async () => {\n${indent}  ${body}\n${indent}}`
    return this.#lock({ range, keyword: isRest ? 'return' : 'await' }, row, callback, options)
  }

  #lock(place: Pick<Replacement, 'range' | 'keyword'>, row: Node, callback: string, options: Node | undefined): Cure {
    const given = this.#transactionIn(options, ['fields', 'where', 'silent', 'hooks', 'validate']) ?? []
    return this.#cure({ ...place, name: 'withLock', parameters: [this.#source.getText(row), callback, ...given] })
  }

  #cure(replacement: Replacement): Cure {
    const { range, name, parameters } = replacement
    const names = [name, ...parameters.flatMap((each) => (typeof each === 'string' ? [] : namesIn(each)))]
    return {
      messageId: messageIds[name],
      fix: (fixer) => {
        const text = this.#textOf(replacement)
        const edits = this.#imports.edits(fixer, names, { range, text })
        return [fixer.replaceTextRange([...range], text), ...edits].sort((one, other) => one.range[0] - other.range[0])
      },
    }
  }

  #textOf({ range, name, parameters, keyword }: Replacement): string {
    const shown = parameters.map((each) => (typeof each === 'string' ? each : this.#shownChanges(each)))
    const call = this.#shownCall(name, shown)
    const end = this.#source.text[range[1] - 1] === ';' ? ';' : ''
    return keyword ? `${keyword} ${call}${end}` : call
  }

  /**
   * `{ transaction }` of the options, the only option that the functions of the library share, or nothing.
   * @param dropped the options that the new call does not need
   * @returns undefined if there are others
   */
  #transactionIn(options: Node | undefined, dropped: readonly string[] = []): readonly string[] | undefined {
    if (!options) return []
    if (options.type !== 'ObjectExpression') return undefined
    const properties = options.properties.filter(
      (each) => each.type !== 'Property' || each.key.type !== 'Identifier' || !dropped.includes(each.key.name),
    )
    if (properties.length === 0) return []
    const isOnly = properties.length === 1 && propertyOf(options, 'transaction')
    return isOnly ? [`{ ${this.#source.getText(properties[0])} }`] : undefined
  }

  /** `{ progress: [set('a', 1)], status }`. */
  #shownChanges(changes: Changes): string {
    const shown = [...changes].map(([column, change]) => {
      if (typeof change === 'string') return change === column ? column : `${column}: ${change}`
      return `${column}: [${change.map((each) => this.#shownOperation(each)).join(', ')}]`
    })
    return `{ ${shown.join(', ')} }`
  }

  #shownOperation({ name, path, operands, isMatching }: Operation): string {
    const values = isMatching ? operands.map((each) => this.#shownCall('matching', [each])) : operands
    return this.#shownCall(name, [shownPath(this.#source, path), ...values])
  }

  /** A call of a function of the library, by the name that the file uses for it. */
  #shownCall(name: string, parameters: readonly string[]): string {
    return `${this.#imports.local(name)}(${parameters.join(', ')})`
  }

  #indentOf(node: Node): string {
    return /^\s*/.exec(this.#source.lines[node.loc!.start.line - 1]!)![0]
  }
}

/** The functions of the library that make these changes. */
function namesIn(changes: Changes): string[] {
  const operations = [...changes.values()].flatMap((change) => (typeof change === 'string' ? [] : change))
  return operations.flatMap(({ name, isMatching }) => (isMatching ? [name, 'matching'] : [name]))
}

function rangeOf(nodes: readonly Node[]): [number, number] {
  return [nodes[0]!.range![0], nodes.at(-1)!.range![1]]
}

function hasCommentBetween(source: SourceCode, [start, end]: readonly [number, number]): boolean {
  return source.getAllComments().some(({ range }) => range![0] > start && range![1] < end)
}

/** Statements that a lock can enclose; `isRest` if they are all that follows in their function. */
interface LockedStatements {
  readonly statements: readonly Node[]
  readonly isRest: boolean
}

/** The statements that go into the callback of a lock that is to hold all nodes. */
function lockedStatements(source: SourceCode, nodes: readonly Node[]): LockedStatements | undefined {
  const block = blockAround(nodes)
  if (!block) return undefined
  const all = block.body as readonly Node[]
  const isTouched = (statement: Node): boolean => nodes.some((node) => contains(statement, node))
  const first = all.findIndex(isTouched)
  const statements = all.slice(first, all.findLastIndex(isTouched) + 1)
  const owner = bodyOf(block)
  if (!statements.some(isLeaving) && !isUsedAfter(source, statements)) {
    return isAsync(owner) ? { statements, isRest: false } : undefined
  }
  // They return, or what follows needs a variable of theirs: all of it goes into the callback, whose result is returned.
  const rest = all.slice(first)
  const isBody = isFunction(owner) && owner.body === block
  return isBody && !rest.some(isBound) ? { statements: rest, isRest: true } : undefined
}

/** Whether the statements declare a variable that is used after them. */
function isUsedAfter(source: SourceCode, statements: readonly Node[]): boolean {
  const [, end] = rangeOf(statements)
  return statements.some((statement) => {
    if (statement.type !== 'VariableDeclaration') return statement.type === 'FunctionDeclaration'
    return source
      .getDeclaredVariables(statement)
      .some(({ references }) => references.some(({ identifier }) => identifier.range![0] >= end))
  })
}

/** The innermost list of statements that holds all nodes. */
function blockAround(nodes: readonly Node[]): NodeOf<'BlockStatement' | 'Program'> | undefined {
  return [...ancestorsOf(nodes[0]!)].find(
    (outer): outer is NodeOf<'BlockStatement' | 'Program'> =>
      (outer.type === 'BlockStatement' || outer.type === 'Program') && nodes.every((node) => contains(outer, node)),
  )
}

/** Whether a statement returns from the function, or leaves a loop, in which it stands. */
function isLeaving(statement: Node): boolean {
  return some(statement, ({ type }) => type === 'ReturnStatement' || boundTypes.has(type))
}

/** Whether a statement can leave its function or its loop in a way that a callback cannot. */
function isBound(statement: Node): boolean {
  return some(statement, ({ type }) => boundTypes.has(type))
}

const boundTypes: ReadonlySet<string> = new Set(['BreakStatement', 'ContinueStatement', 'YieldExpression'])

function some(node: Node, test: (node: Node) => boolean): boolean {
  if (test(node)) return true
  if (isFunction(node)) return false
  return childrenOf(node).some((child) => some(child, test))
}

function isAsync(owner: Node): boolean {
  return owner.type === 'Program' || (isFunction(owner) && owner.async === true)
}
