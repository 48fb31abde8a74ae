import type { Rule, SourceCode } from 'eslint'
import { importsIn } from './imports.js'
import type { Imports } from './imports.js'
import { shownPath } from './operations.js'
import type { Changes, Operation } from './operations.js'
import { ancestorsOf, bodyOf, childrenOf, contains, isFunction, propertyOf, statementOf } from './syntax.js'
import type { Call, Node, NodeOf } from './syntax.js'

export interface Cure {
  readonly messageId: 'useAtomic' | 'useUpdateWhere' | 'useLock'
  readonly fix: (fixer: Rule.RuleFixer) => Rule.Fix[]
}

/** The name that a file uses for a function of the library. */
type Local = (name: string) => string

/** The code that takes the place of a range, with the functions of the library that it calls. */
interface Replacement {
  readonly range: readonly [number, number]
  readonly names: readonly string[]
  readonly text: (local: Local) => string
}

/** Writes code with the functions of the library in place of code of a file. */
export class Cures {
  readonly #source: SourceCode
  readonly #imports: Imports

  constructor(source: SourceCode) {
    this.#source = source
    this.#imports = importsIn(source)
  }

  /** `atomicUpdate(run, { progress: [set('a', 1)], status })` in place of a call. */
  atomicCall(call: Call, row: Node, changes: Changes, options: Node | undefined): Cure | undefined {
    return this.#atomic(call.range!, row, changes, options, (text) => text)
  }

  /** `await atomicUpdate(run, { progress: [set('a', 1)], status })` in place of statements. */
  atomicStatements(
    statements: readonly Node[],
    row: Node,
    changes: Changes,
    options: Node | undefined,
  ): Cure | undefined {
    const range = rangeOf(statements)
    return this.#atomic(range, row, changes, options, (text) => `await ${text}${this.#semicolon(range)}`)
  }

  #atomic(
    range: readonly [number, number],
    row: Node,
    changes: Changes,
    options: Node | undefined,
    asCode: (text: string) => string,
  ): Cure | undefined {
    const given = this.#transactionIn(options)
    if (!given || hasCommentBetween(this.#source, range)) return undefined
    return this.#cure('useAtomic', {
      range,
      names: ['atomicUpdate', ...namesIn(changes)],
      text: (local) =>
        asCode(
          shownCall(local('atomicUpdate'), this.#source.getText(row), this.#shownChanges(changes, local), ...given),
        ),
    })
  }

  /** `updateWhere(WorkflowRun, { id }, { progress: [set('a', 1)] })` in place of a call whose result is not used. */
  where(call: Call, model: Node, changes: Changes, options: NodeOf<'ObjectExpression'>): Cure | undefined {
    const given = this.#transactionIn(options, ['where'])
    if (!given || !statementOf(call)) return undefined
    const where = this.#source.getText(propertyOf(options, 'where'))
    return this.#cure('useUpdateWhere', {
      range: call.range!,
      names: ['updateWhere', ...namesIn(changes)],
      text: (local) =>
        shownCall(
          local('updateWhere'),
          this.#source.getText(model),
          where,
          this.#shownChanges(changes, local),
          ...given,
        ),
    })
  }

  /** `withLock(run, () => run.update(…))`: around one call. */
  lockCall(call: Call, row: Node, options: Node | undefined): Cure {
    const text = this.#source.getText(call)
    const arrow = /\bawait\b/.test(text) ? 'async () =>' : '() =>'
    return this.#cure('useLock', {
      range: call.range!,
      names: ['withLock'],
      text: (local) =>
        shownCall(local('withLock'), this.#source.getText(row), `${arrow} ${text}`, ...this.#lockOptionsOf(options)),
    })
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
    return this.#cure('useLock', {
      range,
      names: ['withLock'],
      text: (local) => {
        const given = [this.#source.getText(row), callback, ...this.#lockOptionsOf(options)]
        return `${isRest ? 'return' : 'await'} ${shownCall(local('withLock'), ...given)}${this.#semicolon(range)}`
      },
    })
  }

  #cure(messageId: Cure['messageId'], { range, names, text }: Replacement): Cure {
    return {
      messageId,
      fix: (fixer) => {
        const shown = text((name) => this.#imports.local(name))
        const edits = this.#imports.edits(fixer, names, { range, text: shown })
        return [fixer.replaceTextRange([...range], shown), ...edits].sort((one, other) => one.range[0] - other.range[0])
      },
    }
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

  #lockOptionsOf(options: Node | undefined): readonly string[] {
    return this.#transactionIn(options, ['fields', 'where', 'silent', 'hooks', 'validate']) ?? []
  }

  /** `{ progress: [set('a', 1)], status }`. */
  #shownChanges(changes: Changes, local: Local): string {
    const shown = [...changes].map(([column, change]) => {
      if (typeof change === 'string') return change === column ? column : `${column}: ${change}`
      return `${column}: [${change.map((each) => this.#shownOperation(each, local)).join(', ')}]`
    })
    return `{ ${shown.join(', ')} }`
  }

  #shownOperation({ name, path, operands, isMatching }: Operation, local: Local): string {
    const values = isMatching ? operands.map((each) => shownCall(local('matching'), each)) : operands
    return shownCall(local(name), shownPath(this.#source, path), ...values)
  }

  #indentOf(node: Node): string {
    return /^\s*/.exec(this.#source.lines[node.loc!.start.line - 1]!)![0]
  }

  /** The semicolon at the end of a range, if it has one. */
  #semicolon([, end]: readonly [number, number]): string {
    return this.#source.text[end - 1] === ';' ? ';' : ''
  }
}

function shownCall(name: string, ...parameters: readonly string[]): string {
  return `${name}(${parameters.join(', ')})`
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
