import type { Rule, Scope, SourceCode } from 'eslint'

/** A node of the syntax tree, as ESLint's own types name it. */
export type Node = Parameters<SourceCode['getScope']>[0]
export type NodeOf<T extends Node['type']> = Extract<Node, { type: T }>
export type Call = NodeOf<'CallExpression'>

/** Nodes that only wrap an operand: `run!`, `run as WorkflowRun`, `run?.progress`. ESLint's types lack TypeScript's. */
const wrappers: ReadonlySet<string> = new Set([
  'ChainExpression',
  'TSNonNullExpression',
  'TSAsExpression',
  'TSSatisfiesExpression',
  'TSTypeAssertion',
])

export function unwrap(node: Node): Node {
  return wrappers.has(node.type) ? unwrap((node as unknown as { expression: Node }).expression) : node
}

/** {@link unwrap}, also for `await run`. */
export function awaited(node: Node): Node {
  const inner = unwrap(node)
  return inner.type === 'AwaitExpression' ? awaited(inner.argument) : inner
}

export function parentOf(node: Node): Node | null {
  return (node as Rule.Node).parent
}

export function startOf(node: Node): number {
  return node.range![0]
}

export function contains(outer: Node, inner: Node): boolean {
  return outer.range![0] <= inner.range![0] && inner.range![1] <= outer.range![1]
}

export function childrenOf(node: Node): Node[] {
  return Object.entries(node).flatMap(([key, value]) => {
    if (key === 'parent' || typeof value !== 'object' || value === null) return []
    return (Array.isArray(value) ? value : [value]).filter(
      (each): each is Node => typeof (each as Node | null)?.type === 'string' && 'range' in (each as object),
    )
  })
}

/** The value of a string literal. */
export function stringOf(node: Node | undefined): string | undefined {
  return node?.type === 'Literal' && typeof node.value === 'string' ? node.value : undefined
}

/** The name after the dot, or in the brackets; undefined if it is computed. */
export function nameOf({ computed, property }: NodeOf<'MemberExpression'>): string | undefined {
  if (computed) return property.type === 'Literal' ? String(property.value) : undefined
  return (property as NodeOf<'Identifier'>).name
}

export function keyOf({ computed, key }: NodeOf<'Property'>): string | undefined {
  if (key.type === 'Literal') return String(key.value)
  return computed || key.type !== 'Identifier' ? undefined : key.name
}

/** `findByPk` of `WorkflowRun.findByPk(id)`, `lock` of `lock(run)`. */
export function calledName({ callee }: Call): string {
  return lastName(unwrap(callee))
}

/** `WorkflowRun` of `WorkflowRun.findByPk(id)`. */
export function receiverOf({ callee }: Call): Node | undefined {
  const called = unwrap(callee)
  return called.type === 'MemberExpression' ? unwrap(called.object) : undefined
}

export function argumentsOf(call: Call | NodeOf<'NewExpression'>): Node[] {
  return call.arguments.map((argument) => (argument.type === 'SpreadElement' ? argument : unwrap(argument)))
}

/** The last name of an expression: `Run` of `models.Run`; empty if it has none. */
export function lastName(node: Node): string {
  if (node.type === 'Identifier') return node.name
  return (node.type === 'MemberExpression' && nameOf(node)) || ''
}

export function propertyOf(object: NodeOf<'ObjectExpression'>, name: string): Node | undefined {
  for (const property of object.properties) {
    if (property.type === 'Property' && keyOf(property) === name) return unwrap(property.value)
  }
  return undefined
}

export function hasSpread(object: NodeOf<'ObjectExpression'>): boolean {
  return object.properties.some(({ type }) => type === 'SpreadElement')
}

/** Whether a node is the literal `false`, `null` or `undefined`. */
export function isOff(node: Node): boolean {
  return (
    (node.type === 'Literal' && (node.value === false || node.value === null)) ||
    (node.type === 'Identifier' && node.name === 'undefined')
  )
}

/** `with`, `locks` of `withLocks`. */
export function wordsOf(name: string): string[] {
  return (name.match(/[A-Z]?[a-z]+|[A-Z]+(?![a-z])/g) ?? []).map((word) => word.toLowerCase())
}

const functions: ReadonlySet<string> = new Set(['FunctionDeclaration', 'FunctionExpression', 'ArrowFunctionExpression'])

export type FunctionNode = NodeOf<'FunctionDeclaration' | 'FunctionExpression' | 'ArrowFunctionExpression'>

export function isFunction(node: Node): node is FunctionNode {
  return functions.has(node.type)
}

export function* ancestorsOf(node: Node): Generator<Node> {
  for (let outer = parentOf(node); outer; outer = parentOf(outer)) yield outer
}

/** The function or the file that contains a node. */
export function bodyOf(node: Node): Node {
  let last = node
  for (const outer of ancestorsOf(node)) {
    last = outer
    if (isFunction(outer)) break
  }
  return last
}

/** The statement that is nothing but a call, awaited or not: the result of the call is not used. */
export function statementOf(call: Call): Node | undefined {
  let outer = parentOf(call)
  while (outer && (outer.type === 'AwaitExpression' || unwrap(outer) === call)) outer = parentOf(outer)
  return outer?.type === 'ExpressionStatement' ? outer : undefined
}

export function variableOf(source: SourceCode, node: NodeOf<'Identifier'>): Scope.Variable | undefined {
  for (let scope: Scope.Scope | null = source.getScope(node); scope; scope = scope.upper) {
    const variable = scope.set.get(node.name)
    if (variable) return variable
  }
  return undefined
}

/** A variable, `this`, or a member of one of them: `job.run`. Equal places hold the same row. */
export interface Place {
  readonly root: object
  readonly path: string
}

export function placeOf(source: SourceCode, node: Node): Place | undefined {
  const inner = unwrap(node)
  if (inner.type === 'ThisExpression') return { root: thisOf(inner), path: '' }
  if (inner.type === 'Identifier') {
    const variable = variableOf(source, inner)
    return variable && { root: variable, path: '' }
  }
  if (inner.type !== 'MemberExpression') return undefined
  const outer = placeOf(source, inner.object)
  return outer && { root: outer.root, path: `${outer.path}.${nameOf(inner) ?? source.getText(inner.property)}` }
}

export function isSamePlace(one: Place | undefined, other: Place | undefined): boolean {
  return one !== undefined && one.root === other?.root && one.path === other.path
}

/** The owner of `this`: a method, a field of a class, or the file. */
export function thisOf(node: Node): Node {
  let last = node
  for (const outer of ancestorsOf(node)) {
    last = outer
    if (outer.type === 'PropertyDefinition' || (isFunction(outer) && outer.type !== 'ArrowFunctionExpression')) break
  }
  return last
}

/** An expression that a variable gets its value from, and the path to it: `progress` in `{ progress } = run`. */
export interface Origin {
  readonly expression: Node
  readonly path: readonly string[]
}

/** Any element of a list, in a path. */
export const anyElement = '*'

/** Array methods that pass each element to a function. */
const iterating = new Set(['forEach', 'map', 'flatMap', 'filter', 'find', 'some', 'every'])

export function originsOf(variable: Scope.Variable): Origin[] {
  const origins: Origin[] = []
  for (const { identifier, writeExpr } of variable.references) {
    if (writeExpr) origins.push(originOf(identifier as Node, writeExpr))
  }
  for (const { type, node, name } of variable.defs) {
    if (type !== 'Parameter' || node.params[0] !== name) continue
    const call = parentOf(node)
    if (call?.type !== 'CallExpression' || call.arguments[0] !== node) continue
    const list = receiverOf(call)
    if (list && iterating.has(calledName(call))) origins.push({ expression: list, path: [anyElement] })
  }
  return origins
}

/** The value of a variable that is written once; otherwise the node itself. */
export function resolved(source: SourceCode, node: Node): Node {
  const variable = node.type === 'Identifier' && variableOf(source, node)
  const [origin, ...others] = variable ? originsOf(variable) : []
  return origin && others.length === 0 && origin.path.length === 0 ? unwrap(origin.expression) : node
}

function originOf(identifier: Node, expression: Node): Origin {
  const path: string[] = []
  let inner = identifier
  for (const outer of ancestorsOf(identifier)) {
    // A default in a pattern, `{ progress = {} } = run`, is a separate write, as is the value of the pattern.
    if (outer.type === 'AssignmentPattern' && outer.right === expression) return { expression, path: [] }
    if (outer.type === 'Property') path.unshift(keyOf(outer) ?? anyElement)
    if (outer.type === 'ArrayPattern') path.unshift(String(outer.elements.indexOf(inner as never)))
    if (outer.type === 'ForOfStatement' && outer.right === expression) path.unshift(anyElement)
    if (contains(outer, expression)) break
    inner = outer
  }
  return { expression, path }
}
