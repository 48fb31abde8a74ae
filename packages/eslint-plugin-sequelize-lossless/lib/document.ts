import type { Scope, SourceCode } from 'eslint'
import {
  anyElement,
  argumentsOf,
  awaited,
  calledName,
  keyOf,
  lastName,
  nameOf,
  originsOf,
  receiverOf,
  stringOf,
  unwrap,
  variableOf,
} from './syntax.js'
import type { Call, Node, NodeOf } from './syntax.js'

/** A document, or a part of one, and the column of a row that it was read from. */
export interface Reading {
  /** The expression of the row. */
  readonly row: Node
  readonly column: string
  /** The path in the document. */
  readonly path: readonly string[]
  /** Whether the value differs from what was read: `{ ...run.progress, a: 1 }`, and not `{ ...run.progress }`. */
  readonly isChanged: boolean
  /** Whether it is nested in a new object or array: `{ old: run.progress }`. */
  readonly isWrapped: boolean
  /** Whether it may be a string: `run.title.slice(1)`. */
  readonly isMaybeText: boolean
}

/** Functions that return their first argument, or a copy of it. */
const copies: ReadonlySet<string> = new Set([
  'JSON.parse',
  'JSON.stringify',
  'Object.entries',
  'Object.fromEntries',
  'Array.from',
  'structuredClone',
  'clone',
  'cloneDeep',
  'klona',
])

/** Functions that write into their first argument, and return it. */
const writers: ReadonlySet<string> = new Set([
  'Object.assign',
  'assign',
  'assignIn',
  'defaults',
  'defaultsDeep',
  'extend',
  'merge',
  'mergeWith',
  'pull',
  'pullAll',
  'remove',
  'set',
  'setWith',
  'unset',
  'update',
])

/** Functions that build a new value from their arguments. */
const makers: ReadonlySet<string> = new Set([
  'compact',
  'concat',
  'deepMerge',
  'deepmerge',
  'difference',
  'mapKeys',
  'mapValues',
  'omit',
  'omitBy',
  'orderBy',
  'pick',
  'pickBy',
  'produce',
  'sortBy',
  'union',
  'unionBy',
  'uniq',
  'uniqBy',
  'without',
])

const libraries: ReadonlySet<string> = new Set(['_', 'lodash', 'fp', 'R'])

/** Array methods: mutating, returning a new array, returning an element. */
const writingMethods = new Set(['push', 'unshift', 'splice', 'pop', 'shift', 'sort', 'reverse', 'fill'])
const makingMethods = new Set(['filter', 'map', 'flatMap', 'toSorted', 'toSpliced', 'toReversed'])
const makingMethodsOfTexts = new Set(['slice', 'concat'])
const findingMethods = new Set(['find', 'findLast', 'at'])

/** `set` of `_.set(…)` and `set(…)`, `Object.assign` of itself. */
function functionName(call: Call): string {
  const name = calledName(call)
  const receiver = receiverOf(call)
  if (!receiver || !name) return name
  const library = lastName(receiver)
  return libraries.has(library) ? name : `${library}.${name}`
}

/** The columns, and their rows, that the value of an expression comes from. */
export function readingsOf(source: SourceCode, node: Node, seen: Set<Scope.Variable> = new Set()): Reading[] {
  const read = (inner: Node): Reading[] => readingsOf(source, inner, seen)
  const inner = awaited(node)
  switch (inner.type) {
    case 'Identifier': {
      const variable = variableOf(source, inner)
      if (!variable || seen.has(variable)) return []
      seen.add(variable)
      return originsOf(variable).flatMap(({ expression, path }) => {
        const from = awaited(expression)
        const [column] = path
        const deeper = read(from).map((reading) => ({ ...reading, path: [...reading.path, ...path] }))
        return column === undefined || column === anyElement
          ? deeper
          : [...deeper, reading(from, column, path.slice(1))]
      })
    }
    case 'MemberExpression': {
      const name = nameOf(inner)
      const deeper = read(inner.object).map((reading) => ({ ...reading, path: [...reading.path, name ?? anyElement] }))
      return name === undefined ? deeper : [...deeper, reading(awaited(inner.object), name, [])]
    }
    case 'ObjectExpression': {
      const parts = inner.properties.flatMap((property) =>
        property.type === 'SpreadElement'
          ? read(property.argument)
          : operandsOf(property.value).flatMap(read).map(wrapped),
      )
      const isCopy = inner.properties.length === 1 && inner.properties[0]!.type === 'SpreadElement'
      return isCopy ? parts : parts.map(changed)
    }
    case 'ArrayExpression': {
      const [first] = inner.elements
      const parts = inner.elements.flatMap((element) =>
        element?.type === 'SpreadElement' ? read(element.argument) : element ? read(element).map(wrapped) : [],
      )
      return inner.elements.length === 1 && first?.type === 'SpreadElement' ? parts : parts.map(changed)
    }
    case 'ConditionalExpression':
      return [...read(inner.consequent), ...read(inner.alternate)]
    case 'LogicalExpression':
      return inner.operator === '&&' ? read(inner.right) : [...read(inner.left), ...read(inner.right)]
    case 'AssignmentExpression':
      return read(inner.right)
    case 'NewExpression':
      return ['Map', 'Set'].includes(lastName(inner.callee)) ? argumentsOf(inner).flatMap(read) : []
    case 'CallExpression':
      return readingsOfCall(inner, read)
    default:
      return []
  }
}

/** Both sides of `run.progress.count + 1`. */
function operandsOf(node: Node): Node[] {
  const inner = unwrap(node)
  return inner.type === 'BinaryExpression' ? [inner.left as Node, inner.right].flatMap(operandsOf) : [inner]
}

function readingsOfCall(call: Call, read: (node: Node) => Reading[]): Reading[] {
  const [name, method, receiver] = [functionName(call), calledName(call), receiverOf(call)]
  const parameters = argumentsOf(call)
  if (copies.has(name)) return parameters.slice(0, 1).flatMap(read)
  if (writers.has(name) || makers.has(name)) {
    const filled = parameters.filter(({ type }, index) => index > 0 || type !== 'ObjectExpression')
    return filled.flatMap(read).map((part) => (filled.length > 1 || makers.has(name) ? changed(part) : part))
  }
  if (!receiver) return []
  const column = stringOf(parameters[0])
  if (['get', 'getDataValue'].includes(method) && column !== undefined) return [reading(receiver, column, [])]
  if (makingMethods.has(method)) return read(receiver).map(changed)
  if (makingMethodsOfTexts.has(method)) return read(receiver).map((part) => ({ ...changed(part), isMaybeText: true }))
  if (findingMethods.has(method)) return read(receiver).map((part) => ({ ...part, path: [...part.path, anyElement] }))
  return []
}

function reading(row: Node, column: string, path: readonly string[]): Reading {
  return { row: rowOf(row), column, path, isChanged: false, isWrapped: false, isMaybeText: false }
}

function changed(reading: Reading): Reading {
  return { ...reading, isChanged: true }
}

function wrapped(reading: Reading): Reading {
  return { ...reading, isWrapped: true }
}

/** `run` of `run.dataValues`, `run.get()` and `run.toJSON()`. */
function rowOf(node: Node): Node {
  if (node.type === 'MemberExpression' && nameOf(node) === 'dataValues') return unwrap(node.object)
  if (node.type !== 'CallExpression' || !['get', 'toJSON'].includes(calledName(node))) return node
  return receiverOf(node) ?? node
}

/** A change of a document in place: every reference to the document sees it. */
export interface Mutation {
  readonly node: Node
  /** The object or array that is written into. */
  readonly target: Node
  /** The written key, if there is exactly one. */
  readonly key: Node | string | undefined
  readonly kind: 'set' | 'add' | 'remove' | 'append' | 'other'
  readonly value: Node | undefined
}

export function mutationOf(node: Node): Mutation | undefined {
  if (node.type === 'CallExpression') return mutationOfCall(node)
  const written = writtenBy(node)
  const place = written && unwrap(written)
  if (place?.type !== 'MemberExpression') return undefined
  const key = nameOf(place) ?? place.property
  const target = unwrap(place.object)
  if (node.type === 'AssignmentExpression') {
    const kind = node.operator === '=' ? 'set' : node.operator === '+=' ? 'add' : 'other'
    return { node, target, key, kind, value: node.right }
  }
  const kind = node.type === 'UnaryExpression' ? 'remove' : 'add'
  return { node, target, key, kind, value: undefined }
}

function writtenBy(node: Node): Node | undefined {
  if (node.type === 'AssignmentExpression') return node.left
  if (node.type === 'UpdateExpression') return node.argument
  return node.type === 'UnaryExpression' && node.operator === 'delete' ? node.argument : undefined
}

function mutationOfCall(call: Call): Mutation | undefined {
  const receiver = receiverOf(call)
  const [target] = argumentsOf(call)
  const method = calledName(call)
  if (target && writers.has(functionName(call))) {
    return { node: call, target, key: undefined, kind: 'other', value: undefined }
  }
  if (!receiver || !writingMethods.has(method)) return undefined
  return {
    node: call,
    target: receiver,
    key: undefined,
    kind: method === 'push' && call.arguments.length === 1 ? 'append' : 'other',
    value: target,
  }
}

/** The named properties of an object literal: `[column, value, node of the property]`. */
export function entriesOf(object: NodeOf<'ObjectExpression'>): [string, Node, Node][] {
  return object.properties.flatMap((property) => {
    if (property.type !== 'Property') return []
    const name = keyOf(property)
    return name === undefined ? [] : [[name, unwrap(property.value), property] as [string, Node, Node]]
  })
}
