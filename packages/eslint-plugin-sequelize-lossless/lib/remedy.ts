import type { SourceCode } from 'eslint'
import type { Mutation } from './document.js'
import { quoted, shownPath } from './operations.js'
import type { Change, Changes, Operation } from './operations.js'
import { argumentsOf, keyOf, placeOf, resolved, unwrap } from './syntax.js'
import type { Node, NodeOf } from './syntax.js'

/** The recommended code for a reported write. */
export interface Remedy {
  readonly call: string | undefined
  /** `run` or `this.run`, or `row` if the row has no name. */
  readonly row: string
  /** The parameter name in a callback: `run`, or `row` if the row is not a variable. */
  readonly name: string
}

type Key = Node | string | undefined

/** A write of the whole document: `{ ...run.progress, a: 1 }`, `Object.assign({}, run.progress, { a: 1 })`. */
export function remedyOfValue(source: SourceCode, row: Node, column: string, value: Node): Remedy {
  const inner = resolved(source, unwrap(value))
  const objects = inner.type === 'CallExpression' ? argumentsOf(inner) : [inner]
  const written = objects.findLast(isObject)?.properties ?? []
  const entries = written.filter((property) => property.type === 'Property')
  if (entries.length === 0) return remedyOf(source, row, column)
  const keys = entries.map((property): Key => keyOf(property) ?? property.key)
  // A value that is computed from the document, or merged from another source, has no known operation.
  const isSimple =
    written.length - entries.length <= 1 &&
    entries.length <= 3 &&
    !entries.some((property) => source.getText(property.value).includes(column))
  if (isSimple && keys.length === 1) return remedyOfKey(source, row, column, keys[0])
  const operations = keys.map((key) => `set(${shownKey(source, key)}, …)`)
  return remedyOf(source, row, column, isSimple ? operations.join(', ') : '…')
}

/** A write of one key of the document: `run.progress.a = 1`. */
export function remedyOfMutation(
  source: SourceCode,
  row: Node,
  column: string,
  { kind, key }: Mutation,
  path: readonly string[],
): Remedy {
  // The index of an element may be another one when the write runs: no operation is suggested.
  const isElement = [...path, key].some((each) => typeof each === 'string' && /^(\*|\d+)$/.test(each))
  if (isElement) return remedyOf(source, row, column)
  if (kind === 'append') {
    return remedyOf(source, row, column, path.length > 0 ? `append(${shownPath(source, path)}, …)` : undefined)
  }
  if (key === undefined) return remedyOf(source, row, column)
  if (kind === 'set' && path.length === 0) return remedyOfKey(source, row, column, key)
  const at = shownPath(source, [...path, key], (node) => textOf(source, node))
  const operations = { set: `set(${at}, …)`, add: `increment(${at})`, remove: `remove(${at})`, other: '…' }
  return remedyOf(source, row, column, operations[kind])
}

/** The call that makes known changes, with `…` in place of values. */
export function remedyOfChanges(source: SourceCode, row: Node, changes: Changes): Remedy {
  const [[column, change], ...others] = [...changes] as [[string, Change], ...[string, Change][]]
  const shown = (operations: readonly Operation[]): string => {
    const texts = operations.map((each) => outlined(source, each))
    return texts.length > 3 ? '…' : texts.join(', ')
  }
  if (others.length > 0) {
    const columns = [...changes].map(([name, each]) => {
      return typeof each === 'string' ? (each === name ? name : `${name}: …`) : `${name}: [${shown(each)}]`
    })
    const remedy = remedyOf(source, row, column)
    return { ...remedy, call: `${remedy.row}.atomicUpdate({ ${columns.join(', ')} })` }
  }
  const operations = change as readonly Operation[]
  const [{ name, path }] = operations as [Operation]
  if (operations.length === 1 && name === 'set' && path.length === 1) return remedyOfKey(source, row, column, path[0])
  return remedyOf(source, row, column, shown(operations))
}

/** An operation, with `…` in place of its value. */
function outlined(source: SourceCode, { name, path, operands, isMatching }: Operation): string {
  const keys = path.map((key) => (typeof key === 'string' ? key : textOf(source, key)))
  const at = keys.includes('…') ? '…' : shownPath(source, path)
  if (name === 'remove') return `remove(${[at, ...operands].join(', ')})`
  if (operands.length === 0) return `${name}(${at})`
  return isMatching ? `${name}(${at}, matching(${operands[0]!}))` : `${name}(${at}, …)`
}

export function remedyOfKey(source: SourceCode, row: Node, column: string, key: Key): Remedy {
  const remedy = remedyOf(source, row, column)
  return { ...remedy, call: `${remedy.row}.mergeJsonKey(${quoted(column)}, ${shownKey(source, key)}, …)` }
}

export function remedyOf(source: SourceCode, row: Node, column: string, operations?: string): Remedy {
  const named = placeOf(source, row) ? source.getText(row) : 'row'
  return {
    call: operations && `${named}.updateJson(${quoted(column)}, [${operations}])`,
    row: named,
    name: row.type === 'Identifier' ? row.name : 'row',
  }
}

function shownKey(source: SourceCode, key: Key): string {
  return typeof key === 'string' ? quoted(key) : textOf(source, key!)
}

/** The source text if it is a short single line, else `…`. */
function textOf(source: SourceCode, node: Node): string {
  const text = source.getText(node)
  return text.length > 40 || text.includes('\n') ? '…' : text
}

function isObject(node: Node): node is NodeOf<'ObjectExpression'> {
  return node.type === 'ObjectExpression'
}
