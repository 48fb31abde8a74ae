import type { Rule, SourceCode } from 'eslint'
import { importsIn } from './imports.js'
import { shownPath } from './operations.js'
import type { Changes, Operation } from './operations.js'
import { ancestorsOf, bodyOf, childrenOf, contains, isFunction, propertyOf, statementOf } from './syntax.js'
import type { Call, Node, NodeOf } from './syntax.js'

export interface Cure {
  readonly messageId: 'useAtomic' | 'useUpdateWhere' | 'useLock'
  readonly fix: (fixer: Rule.RuleFixer) => Rule.Fix[]
}

/** The code that takes the place of a range, with the functions of the library that it calls. */
interface Replacement {
  readonly range: readonly [number, number]
  readonly names: readonly string[]
  readonly text: (local: (name: string) => string) => string
}

export interface Cures {
  readonly isLibraryUsed: boolean
  /** `await atomicUpdate(run, { progress: [set('a', 1)], status })` in place of a call, or of statements. */
  atomic(target: Call | readonly Node[], row: Node, changes: Changes, options: Node | undefined): Cure | undefined
  /** `await updateWhere(WorkflowRun, { id }, { progress: [set('a', 1)] })` in place of a call whose result is not used. */
  where(call: Call, model: Node, changes: Changes, options: NodeOf<'ObjectExpression'>): Cure | undefined
  /** `withLock(run, () => run.update(…))`: around one call. */
  lockCall(call: Call, row: Node, options: Node | undefined): Cure | undefined
  /** `await withLock(run, async () => { … })`: around the statements from the first of these nodes to the last. */
  lockStatements(nodes: readonly Node[], row: Node, options: Node | undefined): Cure | undefined
}

export function curesIn(source: SourceCode): Cures {
  const imports = importsIn(source)
  const indentOf = (node: Node): string => /^\s*/.exec(source.lines[node.loc!.start.line - 1]!)![0]

  const cure = (messageId: Cure['messageId'], { range, names, text }: Replacement): Cure => ({
    messageId,
    fix(fixer) {
      const shown = text((name) => imports.local(name))
      return [fixer.replaceTextRange([...range], shown), ...imports.edits(fixer, names, { range, text: shown })].sort(
        (one, other) => one.range[0] - other.range[0],
      )
    },
  })

  /** `{ transaction }` of the options: the only option that the atomic writes share; `none` if there are others. */
  const transactionIn = (options: Node | undefined, others: readonly string[] = []): string | undefined => {
    if (!options) return undefined
    if (options.type !== 'ObjectExpression') return 'none'
    const properties = options.properties.filter(
      (each) => each.type !== 'Property' || each.key.type !== 'Identifier' || !others.includes(each.key.name),
    )
    if (properties.length === 0) return undefined
    const isOnly = properties.length === 1 && propertyOf(options, 'transaction')
    return isOnly ? `{ ${source.getText(properties[0])} }` : 'none'
  }

  const shownOperation = ({ name, path, operands, isMatching }: Operation, local: (name: string) => string): string => {
    const values = isMatching ? operands.map((each) => `${local('matching')}(${each})`) : operands
    return `${local(name)}(${[shownPath(source, path), ...values].join(', ')})`
  }
  const shownChanges = (changes: Changes, local: (name: string) => string): string => {
    const shown = [...changes].map(([column, change]) => {
      if (typeof change === 'string') return change === column ? column : `${column}: ${change}`
      return `${column}: [${change.map((each) => shownOperation(each, local)).join(', ')}]`
    })
    return `{ ${shown.join(', ')} }`
  }
  const namesIn = (changes: Changes): string[] =>
    [...changes.values()].flatMap((change) =>
      typeof change === 'string'
        ? []
        : change.flatMap(({ name, isMatching }) => (isMatching ? [name, 'matching'] : [name])),
    )

  return {
    isLibraryUsed: imports.isUsed,
    atomic(target, row, changes, options) {
      const transaction = transactionIn(options)
      if (transaction === 'none') return undefined
      const nodes = Array.isArray(target) ? (target as readonly Node[]) : [target as Call]
      const range = [nodes[0]!.range![0], nodes.at(-1)!.range![1]] as const
      if (hasCommentBetween(source, range)) return undefined
      const end = source.text[range[1] - 1] === ';' ? ';' : ''
      const isStatement = Array.isArray(target)
      return cure('useAtomic', {
        range,
        names: ['atomicUpdate', ...namesIn(changes)],
        text(local) {
          const parameters = [source.getText(row), shownChanges(changes, local), ...(transaction ? [transaction] : [])]
          const call = `${local('atomicUpdate')}(${parameters.join(', ')})`
          return isStatement ? `await ${call}${end}` : call
        },
      })
    },
    where(call, model, changes, options) {
      const transaction = transactionIn(options, ['where'])
      if (transaction === 'none' || !statementOf(call)) return undefined
      const where = source.getText(propertyOf(options, 'where'))
      return cure('useUpdateWhere', {
        range: call.range!,
        names: ['updateWhere', ...namesIn(changes)],
        text(local) {
          const parameters = [
            source.getText(model),
            where,
            shownChanges(changes, local),
            ...(transaction ? [transaction] : []),
          ]
          return `${local('updateWhere')}(${parameters.join(', ')})`
        },
      })
    },
    lockCall(call, row, options) {
      const given = lockOptionsOf(options)
      return cure('useLock', {
        range: call.range!,
        names: ['withLock'],
        text(local) {
          const text = source.getText(call)
          const arrow = /\bawait\b/.test(text) ? 'async () =>' : '() =>'
          return `${local('withLock')}(${[source.getText(row), `${arrow} ${text}`, ...given].join(', ')})`
        },
      })
    },
    lockStatements(nodes, row, options) {
      const block = blockAround(nodes)
      if (!block) return undefined
      const statements = block.body as readonly Node[]
      const touched = statements.filter((statement) => nodes.some((node) => contains(statement, node)))
      const first = statements.indexOf(touched[0]!)
      let last = statements.indexOf(touched.at(-1)!)
      const owner = bodyOf(block)
      const isBody = isFunction(owner) && owner.body === block
      const within = (): readonly Node[] => statements.slice(first, last + 1)
      // What follows needs a variable of the range: all of it goes into the callback.
      const isWhole = isBody && (within().some((each) => isLeaving(each)) || isUsedAfter(within()))
      if (isWhole) last = statements.length - 1
      else if (within().some((each) => isLeaving(each)) || isUsedAfter(within())) return undefined
      if (!isWhole && !isAsync(owner)) return undefined
      if (isWhole && within().some(isGenerator)) return undefined
      const range = [statements[first]!.range![0], statements[last]!.range![1]] as const
      const indent = indentOf(statements[first]!)
      const end = source.text[range[1] - 1] === ';' ? ';' : ''
      const given = lockOptionsOf(options)
      return cure('useLock', {
        range,
        names: ['withLock'],
        text(local) {
          const body = source.text.slice(...range).replaceAll(/\n(?=.)/g, '\n  ')
          const rest = given.length > 0 ? `, ${given.join(', ')}` : ''
          const keyword = isWhole ? 'return' : 'await'
          return `${keyword} ${local('withLock')}(${source.getText(row)}, async () => {\n${indent}  ${body}\n${indent}}${rest})${end}`
        },
      })
    },
  }

  /** Whether the statements declare a variable that is used after them. */
  function isUsedAfter(statements: readonly Node[]): boolean {
    const end = statements.at(-1)!.range![1]
    return statements.some((statement) => {
      if (statement.type !== 'VariableDeclaration') return statement.type === 'FunctionDeclaration'
      return source
        .getDeclaredVariables(statement)
        .some(({ references }) => references.some(({ identifier }) => identifier.range![0] >= end))
    })
  }

  function lockOptionsOf(options: Node | undefined): string[] {
    const transaction = transactionIn(options, ['fields', 'where', 'silent', 'hooks', 'validate'])
    return transaction === undefined || transaction === 'none' ? [] : [transaction]
  }
}

function hasCommentBetween(source: SourceCode, [start, end]: readonly [number, number]): boolean {
  return source.getAllComments().some(({ range }) => range![0] > start && range![1] < end)
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
  return some(statement, (node) =>
    ['ReturnStatement', 'BreakStatement', 'ContinueStatement', 'YieldExpression'].includes(node.type),
  )
}

function isGenerator(statement: Node): boolean {
  return some(statement, ({ type }) => ['YieldExpression', 'BreakStatement', 'ContinueStatement'].includes(type))
}

function some(node: Node, test: (node: Node) => boolean): boolean {
  if (test(node)) return true
  if (isFunction(node)) return false
  return childrenOf(node).some((child) => some(child, test))
}

function isAsync(owner: Node): boolean {
  return owner.type === 'Program' || (isFunction(owner) && owner.async === true)
}
