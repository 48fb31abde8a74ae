import type { SourceCode } from 'eslint'
import type { Assignment, Write } from './accesses.js'
import { entriesOf } from './document.js'
import type { Facts } from './facts.js'
import { operation, operationsOfMutation, operationsOfValue } from './operations.js'
import type { Change, Changes, Operation, Stored } from './operations.js'
import { childrenOf, contains, nameOf, parentOf, statementOf, unwrap } from './syntax.js'
import type { Call, Node, NodeOf } from './syntax.js'
import type { Types } from './types.js'

/** A column, and its change; undefined if no operations make the same change. */
type ColumnChange = readonly [column: string, change: Change | undefined]

/** Statements that follow each other, and what they change. */
interface ChangingStatements {
  readonly statements: readonly Node[]
  readonly changes: Changes
}

/** What is known of the document in this column of this row. */
export function storedOf({ source, types, accesses }: Facts, row: Node, column: string): Stored {
  const isRead = (node: Node): boolean =>
    node.type === 'Identifier' || node.type === 'ThisExpression' || node.type === 'MemberExpression'
      ? accesses.isSameRow(node, row) || accesses.readFrom(node, row, column).length > 0
      : false
  const isUsedIn = (node: Node): boolean => {
    if (node.type === 'MemberExpression' && accesses.isSameRow(unwrap(node.object), row)) return nameOf(node) === column
    return isRead(node) || childrenOf(node).some(isUsedIn)
  }
  return {
    source,
    read: (value) => accesses.readFrom(value, row, column),
    isUsedIn,
    hasKeys: (node) => types?.hasKeys(node) ?? true,
  }
}

/** What a call changes that writes these values; undefined if an atomic call cannot write the same. */
export function changesOfValues(
  facts: Facts,
  row: Node,
  values: NodeOf<'ObjectExpression'>,
  call: Call,
): Changes | undefined {
  const entries = entriesOf(values)
  if (entries.length < values.properties.length) return undefined
  const changes = entries.map(([column, value, node]) => changeOf(facts, { node, row, column, value }, call))
  return together(facts.source, changes)
}

/** The statements from the first of `nodes` to a save, and what they change, if they do nothing else. */
export function changesOfStatements(
  facts: Facts,
  { call, row }: Write,
  nodes: readonly Node[],
): ChangingStatements | undefined {
  const statements = statementsTo(call, nodes)
  if (!statements) return undefined
  const found: ColumnChange[] = []
  for (const statement of statements.slice(0, -1)) {
    const changes = changesOfStatement(facts, row, statement)
    if (!changes) return undefined
    found.push(...changes)
  }
  const changes = together(facts.source, found)
  return changes && changes.size > 0 ? { statements, changes } : undefined
}

/** The statements from the first of `nodes` to an awaited call, if they are in one block and hold all nodes. */
function statementsTo(call: Call, nodes: readonly Node[]): Node[] | undefined {
  const last = statementOf(call)
  const block = last && parentOf(last)
  if (!last || (block?.type !== 'BlockStatement' && block?.type !== 'Program')) return undefined
  if (parentOf(call)?.type !== 'AwaitExpression') return undefined
  const body = block.body as Node[]
  const first = body.findIndex((statement) => nodes.some((node) => contains(statement, node)))
  if (first < 0) return undefined
  const statements = body.slice(first, body.indexOf(last) + 1)
  return nodes.every((node) => statements.some((each) => contains(each, node))) ? statements : undefined
}

/** What a statement changes in a row; undefined if it may do something else. */
function changesOfStatement(facts: Facts, row: Node, statement: Node): ColumnChange[] | undefined {
  const { source, accesses } = facts
  const prefix = `${source.getText(row)}.`
  if (isDefault(source, statement, prefix)) return []
  if (statement.type !== 'ExpressionStatement') return undefined
  const { expression } = statement
  if (accesses.isMark(expression)) return []
  const assignments = accesses.assignmentsIn(expression, row)
  if (assignments.length > 0) return assignments.map((each) => changeOf(facts, each, expression))
  const mutation = accesses.mutationAt(expression)
  if (!mutation || !source.getText(mutation.target).startsWith(prefix)) return undefined
  const reading = accesses.read(mutation.target).find((each) => accesses.isSameRow(each.row, row))
  if (!reading) return undefined
  const { column, path } = reading
  return [[column, operationsOfMutation(storedOf(facts, row, column), mutation, path)]]
}

/** The change that an assigned value makes: operations if it comes from the stored document. */
function changeOf(facts: Facts, { row, column: name, value, node }: Assignment, write: Node): ColumnChange {
  const [column, ...path] = name.split('.') as [string, ...string[]]
  const stored = storedOf(facts, row, column)
  const isUsed = stored.isUsedIn(value)
  if (path.length > 0) {
    const isKey = path.every((key) => /^[a-z_$][\w$]*$/i.test(key))
    return [column, isKey && !isUsed ? [operation('set', path, stored, value)] : undefined]
  }
  if (isUsed) {
    const isMutated = facts.accesses.mutationsBefore(write, row, column).length > 0
    return [column, isMutated ? undefined : operationsOfValue(stored, value)]
  }
  const isLiteral = value.type === 'ObjectExpression' || value.type === 'ArrayExpression'
  if (facts.model.isDocument(row, column) ?? isLiteral) return [column, undefined]
  return [column, node.type === 'Property' && node.shorthand ? column : facts.source.getText(value)]
}

/** The changes by column; undefined if one of them is unknown, or two of one column cannot be one. */
function together(source: SourceCode, found: readonly ColumnChange[]): Changes | undefined {
  const changes = new Map<string, Change>()
  for (const [column, change] of found) {
    const known = changes.get(column)
    if (change === undefined || (known !== undefined && typeof change === 'string') || typeof known === 'string') {
      return undefined
    }
    const all = typeof change === 'string' ? change : [...(known ?? []), ...change]
    if (typeof all !== 'string' && isOverlapping(source, all)) return undefined
    changes.set(column, all)
  }
  return changes
}

/** Whether an operation writes what another one writes too, or a part of it. */
function isOverlapping(source: SourceCode, operations: readonly Operation[]): boolean {
  const places = operations.map(({ path }) => path.map((key) => (typeof key === 'string' ? key : source.getText(key))))
  return places.some((one, index) =>
    places.some((other, at) => at !== index && one.every((key, step) => other[step] === key)),
  )
}

/** Whether the atomic call makes the same change for certain: plain values, no hook and no validator. */
export function isFixable({ types, model, settings }: Facts, row: Node, changes: Changes): boolean {
  const isCertain = ({ name, path, values }: Operation): boolean =>
    name !== 'assign' &&
    [...path.filter((key) => typeof key !== 'string'), ...values].every((node) => isPlain(node, types))
  if (![...changes.values()].every((change) => typeof change === 'string' || change.every(isCertain))) return false
  if (!(types?.isRow(row) ?? model.loadingsOf(row).every(({ find }) => find && !find.isWeak))) return false
  const mayHaveHooks = settings.hooks ?? !(types?.isWithoutHooks() ?? false)
  return !mayHaveHooks
}

function isPlain(node: Node, types: Types | undefined): boolean {
  return (
    (node.type === 'Literal' && node.value !== undefined) ||
    node.type === 'TemplateLiteral' ||
    (types?.isPlain(node) ?? false)
  )
}

/** `if (!run.progress) run.progress = {}`, which an atomic write does by itself. */
function isDefault(source: SourceCode, statement: Node, prefix: string): boolean {
  if (statement.type !== 'IfStatement' || statement.alternate || statement.test.type !== 'UnaryExpression') return false
  const inner = statement.consequent.type === 'BlockStatement' ? statement.consequent.body : [statement.consequent]
  const [assignment] = inner.map((each) => (each.type === 'ExpressionStatement' ? each.expression : undefined))
  if (inner.length !== 1 || assignment?.type !== 'AssignmentExpression' || statement.test.operator !== '!') return false
  const place = source.getText(assignment.left)
  const isEmpty = /^(?:\{\s*\}|\[\s*\])$/.test(source.getText(assignment.right))
  return isEmpty && place.startsWith(prefix) && source.getText(statement.test.argument) === place
}
