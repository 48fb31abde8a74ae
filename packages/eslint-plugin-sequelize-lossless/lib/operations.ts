import type { SourceCode } from 'eslint'
import type { Mutation, Reading } from './document.js'
import { argumentsOf, awaited, calledName, isFunction, keyOf, nameOf, receiverOf, stringOf, unwrap } from './syntax.js'
import type { Call, Node, NodeOf } from './syntax.js'

/** An operation of sequelize-lossless that makes the same change as a piece of code: `set('a', 1)`. */
export interface Operation {
  readonly name: 'set' | 'increment' | 'remove' | 'append' | 'prepend' | 'assign' | 'pull'
  /** The keys; a node is a computed key. */
  readonly path: readonly (string | Node)[]
  /** The source text of the arguments after the path. */
  readonly operands: readonly string[]
  /** Whether the operand is `matching(…)` of this text. */
  readonly isMatching: boolean
  /** The nodes that become operands. */
  readonly values: readonly Node[]
}

/** The new value of a column: operations on its document, or the source text of an ordinary value. */
export type Change = readonly Operation[] | string

/** The changes of a row, by column. */
export type Changes = ReadonlyMap<string, Change>

/** What is known of the document that a piece of code changes. */
export interface Stored {
  readonly source: SourceCode
  /** The readings of this column of this row that a value comes from. */
  readonly read: (value: Node) => Reading[]
  /** Whether the value of an expression depends on the stored document. */
  readonly isUsedIn: (node: Node) => boolean
  /** Whether the type of an object names its keys, as `assign()` needs them. */
  readonly hasKeys: (node: Node) => boolean
}

type Path = Operation['path']

/** The operations that write this value to a column, or undefined if none make the same change. */
export function operationsOfValue(stored: Stored, value: Node, at: Path = []): Operation[] | undefined {
  const inner = awaited(value)
  if (inner.type === 'ObjectExpression') return operationsOfMembers(stored, inner.properties, at)
  if (inner.type === 'ArrayExpression') return operationsOfElements(stored, inner, at)
  if (inner.type !== 'CallExpression') return undefined
  return operationsOfCall(stored, inner, at)
}

/** The operations of a change in place: `run.progress.a = 1`, `run.tags.push('urgent')`. */
export function operationsOfMutation(
  stored: Stored,
  mutation: Mutation,
  path: readonly string[],
): Operation[] | undefined {
  const { kind, key, value, node } = mutation
  if ([...path, key].some((each) => typeof each === 'string' && /^(\*|-?\d+)$/.test(each))) return undefined
  if (value && stored.isUsedIn(value)) {
    return kind === 'set' && key !== undefined ? operationsOfPart(stored, unwrap(value), [...path, key]) : undefined
  }
  if (kind === 'append')
    return value?.type === 'SpreadElement' ? undefined : [operation('append', path, stored, value!)]
  if (key === undefined) return undefined
  const place = [...path, key]
  if (kind === 'set') return [operation('set', place, stored, value!)]
  if (kind === 'remove') return [operation('remove', place, stored)]
  if (kind !== 'add') return undefined
  if (value && isOne(value)) return [operation('increment', place, stored)]
  if (value) return isNumber(value) ? [operation('increment', place, stored, value)] : undefined
  return node.type === 'UpdateExpression' && node.operator === '++'
    ? [operation('increment', place, stored)]
    : undefined
}

export function operation(
  name: Operation['name'],
  path: Path,
  { source }: Pick<Stored, 'source'>,
  ...values: Node[]
): Operation {
  return { name, path, operands: values.map((value) => source.getText(value)), isMatching: false, values }
}

/** Whether an expression is the stored document itself, or its part at this path, or an empty one in place of none. */
function isStored({ read, source }: Stored, node: Node, at: Path): boolean {
  const names = at.map((key) => (typeof key === 'string' ? key : undefined))
  const isExact = (inner: Node): boolean => {
    if (
      inner.type === 'CallExpression' &&
      !['cloneDeep', 'structuredClone', 'get', 'getDataValue'].includes(calledName(inner))
    )
      return false
    return read(inner).some(
      ({ path, isChanged, isWrapped }) => !isChanged && !isWrapped && String(path) === String(names),
    )
  }
  const inner = awaited(node)
  if (inner.type === 'LogicalExpression')
    return inner.operator !== '&&' && isStored({ read, source } as Stored, inner.left, at) && isEmpty(inner.right)
  if (inner.type === 'ConditionalExpression') return isExact(awaited(inner.consequent)) && isEmpty(inner.alternate)
  return isExact(inner)
}

function isEmpty(node: Node): boolean {
  const inner = unwrap(node)
  if (inner.type === 'ObjectExpression') return inner.properties.length === 0
  return inner.type === 'ArrayExpression' && inner.elements.length === 0
}

function operationsOfMembers(
  stored: Stored,
  [base, ...written]: readonly NodeOf<'ObjectExpression'>['properties'][number][],
  at: Path,
): Operation[] | undefined {
  if (base?.type !== 'SpreadElement' || !isStored(stored, base.argument, at) || written.length === 0) return undefined
  if (written.some(({ type }) => type === 'SpreadElement')) {
    if (written.some((each) => stored.isUsedIn(each))) return undefined
    const [only] = written
    if (only?.type === 'SpreadElement' && written.length === 1)
      return stored.hasKeys(only.argument) ? [operation('assign', at, stored, only.argument)] : undefined
    const text = `{ ${written.map((each) => stored.source.getText(each)).join(', ')} }`
    return [{ name: 'assign', path: at, operands: [text], isMatching: false, values: written }]
  }
  const keys = new Set<string>()
  const operations: Operation[] = []
  for (const property of written) {
    if (property.type !== 'Property' || property.kind !== 'init' || property.method) return undefined
    const key = keyOf(property)
    const name = key ?? property.key
    const shown = key ?? stored.source.getText(property.key)
    if (keys.has(shown)) return undefined
    keys.add(shown)
    const value = property.value
    const found = stored.isUsedIn(value)
      ? operationsOfPart(stored, unwrap(value), [...at, name])
      : [operation('set', [...at, name], stored, value)]
    if (!found) return undefined
    operations.push(...found)
  }
  return operations
}

/** `{ ...run.progress.a, b: 1 }`, `(run.progress.count || 0) + 1`. */
function operationsOfPart(stored: Stored, value: Node, at: Path): Operation[] | undefined {
  if (value.type !== 'BinaryExpression') return operationsOfValue(stored, value, at)
  const left = unwrap(value.left)
  const read =
    left.type === 'LogicalExpression' && left.operator !== '&&' && isZero(left.right) ? unwrap(left.left) : left
  if (value.operator !== '+' || !isNumber(value.right) || !isStored(stored, read, at)) return undefined
  return [isOne(value.right) ? operation('increment', at, stored) : operation('increment', at, stored, value.right)]
}

function isNumber(node: Node): boolean {
  return node.type === 'Literal' && typeof node.value === 'number'
}

function isZero(node: Node): boolean {
  return node.type === 'Literal' && node.value === 0
}

function isOne(node: Node): boolean {
  return node.type === 'Literal' && node.value === 1
}

function operationsOfElements(
  stored: Stored,
  { elements }: NodeOf<'ArrayExpression'>,
  at: Path,
): Operation[] | undefined {
  const isBase = (element: (typeof elements)[number] | undefined): boolean =>
    element?.type === 'SpreadElement' && isStored(stored, element.argument, at)
  const name = isBase(elements[0]) ? 'append' : isBase(elements.at(-1)) ? 'prepend' : undefined
  const added = name === 'append' ? elements.slice(1) : elements.slice(0, -1)
  if (!name || added.length === 0) return undefined
  const items: Node[] = []
  for (const item of added) {
    if (!item || stored.isUsedIn(item)) return undefined
    items.push(item)
  }
  return [operation(name, at, stored, ...items)]
}

function operationsOfCall(stored: Stored, call: Call, at: Path): Operation[] | undefined {
  const name = calledName(call)
  const receiver = receiverOf(call)
  const [first, ...others] = argumentsOf(call)
  if (name === 'filter' && receiver && first) return operationsOfFilter(stored, receiver, first, at)
  if (!first || others.length === 0) return undefined
  if (name === 'omit' && isStored(stored, first, at)) {
    const keys = others.flatMap((each): (Node | null)[] => (each.type === 'ArrayExpression' ? each.elements : [each]))
    const names = keys.map((key) => stringOf(key ?? undefined))
    if (!names.every((key) => key !== undefined && !/[.[\]]/.test(key))) return undefined
    const [path, ...more] = names as string[]
    const operands = more.map((key) => shownPath(stored.source, [...at, key]))
    return [{ name: 'remove', path: [...at, path!], operands, isMatching: false, values: [] }]
  }
  if (name === 'assign' && isEmpty(first) && others.length === 2 && isStored(stored, others[0]!, at)) {
    const patch = others[1]!
    if (patch.type === 'ObjectExpression') {
      const base = { type: 'SpreadElement', argument: others[0]! } as NodeOf<'SpreadElement'>
      return operationsOfMembers(stored, [base, ...patch.properties], at)
    }
    return stored.isUsedIn(patch) || !stored.hasKeys(patch) ? undefined : [operation('assign', at, stored, patch)]
  }
  const path = stringOf(others[0])
  if (name === 'set' && others.length === 2 && path !== undefined && isStored(stored, first, at)) {
    const keys = path.split('.')
    if (stored.isUsedIn(others[1]!) || keys.some((key) => !/^[a-z_$][\w$]*$/i.test(key))) return undefined
    return [operation('set', [...at, ...keys], stored, others[1]!)]
  }
  return undefined
}

/** `items.filter((item) => item.id !== id)`, `tags.filter((tag) => tag !== 'urgent')`. */
function operationsOfFilter(stored: Stored, list: Node, keep: Node, at: Path): Operation[] | undefined {
  if (!isFunction(keep) || keep.params.length !== 1 || !isStored(stored, list, at)) return undefined
  const [parameter] = keep.params
  const test = unwrap(keep.body)
  if (test.type !== 'BinaryExpression' || test.operator !== '!==' || parameter?.type !== 'Identifier') return undefined
  const [left, right] = [unwrap(test.left), unwrap(test.right)]
  const isElement = (node: Node): boolean => node.type === 'Identifier' && node.name === parameter.name
  const { source } = stored
  if (stored.isUsedIn(right) || new RegExp(`\\b${parameter.name}\\b`).test(source.getText(right))) return undefined
  if (isElement(left)) return [operation('pull', at, stored, right)]
  const key = left.type === 'MemberExpression' && isElement(unwrap(left.object)) ? nameOf(left) : undefined
  if (key === undefined || !/^[a-z_$][\w$]*$/i.test(key)) return undefined
  const text = source.getText(right)
  return [
    {
      name: 'pull',
      path: at,
      operands: [`{ ${key === text ? key : `${key}: ${text}`} }`],
      isMatching: true,
      values: [right],
    },
  ]
}

export function shownPath(
  source: SourceCode,
  path: Path,
  textOf = (node: Node): string => source.getText(node),
): string {
  const keys = path.map((key) => (typeof key === 'string' ? quoted(key) : textOf(key)))
  return keys.length === 1 ? keys[0]! : `[${keys.join(', ')}]`
}

/** A string literal of JavaScript. */
export function quoted(text: string): string {
  return `'${JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"').replaceAll("'", "\\'")}'`
}
