import type { Assignment, MutationAt, Write } from './accesses.js'
import { storedOf } from './changes.js'
import { entriesOf } from './document.js'
import type { Reading } from './document.js'
import type { Facts } from './facts.js'
import { operationsOfMutation, operationsOfValue, shownPath } from './operations.js'
import { remedyOf, remedyOfChanges, remedyOfKey, remedyOfMutation, remedyOfValue } from './remedy.js'
import type { Remedy } from './remedy.js'
import { calledName, propertyOf, receiverOf, stringOf } from './syntax.js'
import type { Node, NodeOf } from './syntax.js'

/** Code that loses a change of a column: one of another writer, or its own. */
export interface Finding {
  readonly node: Node
  readonly column: string
  readonly remedy: () => Remedy
  /** Whether Sequelize writes the column; it does not detect a change in place. */
  readonly isSeen: boolean
}

/** What `run.update(values)` loses. */
export function findingsOfUpdate(facts: Facts, { call, row }: Write, values: NodeOf<'ObjectExpression'>): Finding[] {
  return entriesOf(values).flatMap(
    ([column, value, node]) => findingOf(facts, { node, row, column, value }, call) ?? [],
  )
}

/** What `run.save()` loses of the changes before it. */
export function findingsOfSave(facts: Facts, write: Write): Finding[] {
  const assignments = facts.accesses.assignmentsBefore(write).filter(({ column }) => isSaved(write.options, column))
  const assigned = assignments.flatMap((each) => findingOf(facts, each, write.call) ?? [])
  const inPlace = findingsInPlace(facts, write, new Set(assignments.map(({ column }) => column)))
  const others = inPlace.filter(({ column }) => !assigned.some((each) => each.column === column))
  return [...assigned, ...others, ...findingsOfMethods(facts, write)]
}

/** Whether the options of a save let it write this column. */
function isSaved(options: Node | undefined, column: string): boolean {
  const fields = options?.type === 'ObjectExpression' ? propertyOf(options, 'fields') : undefined
  return fields?.type !== 'ArrayExpression' || fields.elements.some((field) => stringOf(field ?? undefined) === column)
}

/** What a write loses by an assigned value: nothing, unless the value was read before. */
export function findingOf(facts: Facts, assignment: Assignment, write: Node): Finding | undefined {
  const { source, accesses } = facts
  const { node, row, value } = assignment
  const [column, ...path] = assignment.column.split('.') as [string, ...string[]]
  if (path.length > 0) return findingOfPath(facts, node, row, column, path)
  const readings = accesses.readFrom(value, row, column)
  if (readings.length === 0 || !isDocument(facts, row, column, readings)) return undefined
  if (accesses.isFresh(row, column, node)) return undefined
  const [inPlace] = accesses.mutationsBefore(write, row, column)
  if (!readings.some(({ isChanged }) => isChanged)) {
    return inPlace && { node, column, remedy: () => remedyInPlace(facts, row, column, inPlace), isSeen: true }
  }
  const operations = inPlace ? undefined : operationsOfValue(storedOf(facts, row, column), value)
  const remedy = (): Remedy =>
    operations
      ? remedyOfChanges(source, row, new Map([[column, operations]]))
      : remedyOfValue(source, row, column, value)
  return { node, column, remedy, isSeen: true }
}

/** `run.set('progress.a', 1)`: Sequelize changes the document in memory, and writes the whole document. */
function findingOfPath(
  facts: Facts,
  node: Node,
  row: Node,
  column: string,
  path: readonly string[],
): Finding | undefined {
  const { source, accesses } = facts
  if (!isColumn(facts, row, column) || accesses.isFresh(row, column, node)) return undefined
  const remedy = (): Remedy =>
    path.length > 1
      ? remedyOf(source, row, column, `set(${shownPath(source, path)}, …)`)
      : remedyOfKey(source, row, column, path[0])
  return { node, column, remedy, isSeen: true }
}

/** The changes in place that a save writes, or should write. */
function findingsInPlace(facts: Facts, write: Write, assigned: ReadonlySet<string>): Finding[] {
  const { accesses, model } = facts
  const { call, row, options } = write
  const marked = accesses.markedBefore(write)
  const documents = accesses.mutatedOf(row).filter((column) => model.isDocument(row, column))
  return [...new Set([...marked, ...documents])].flatMap((column): Finding[] => {
    // Sequelize does not detect a change in place: it saves the column only after changed(column, true).
    const isMarked = marked.has(column)
    if (!isSaved(options, column) || (assigned.has(column) && !isMarked) || !isColumn(facts, row, column)) return []
    const changed = accesses
      .mutationsBefore(call, row, column)
      .find(({ mutation }) => !accesses.isFresh(row, column, mutation.node))
    if (!changed) return []
    const remedy = (): Remedy => remedyInPlace(facts, row, column, changed)
    return [{ node: changed.mutation.node, column, remedy, isSeen: isMarked }]
  })
}

/** The changes that methods of the row make, and leave to a save. */
function findingsOfMethods(facts: Facts, write: Write): Finding[] {
  const { source, accesses } = facts
  const { row } = write
  return accesses.calls.flatMap((node) => {
    const receiver = receiverOf(node)
    if (!receiver || node === write.call || !accesses.isBefore({ node, row: receiver }, write)) return []
    const columns = accesses.methodOf(row, calledName(node))?.changes ?? []
    return columns
      .filter((column) => isColumn(facts, row, column))
      .map((column) => ({ node, column, remedy: () => remedyOf(source, row, column), isSeen: true }))
  })
}

/** The call for a change in place. No call sets a value that was computed from the stored document. */
function remedyInPlace(facts: Facts, row: Node, column: string, { mutation, path }: MutationAt): Remedy {
  const { source } = facts
  const stored = storedOf(facts, row, column)
  if (mutation.kind !== 'set' || !mutation.value || !stored.isUsedIn(mutation.value)) {
    return remedyOfMutation(source, row, column, mutation, path)
  }
  const operations = operationsOfMutation(stored, mutation, path)
  return operations ? remedyOfChanges(source, row, new Map([[column, operations]])) : remedyOf(source, row, column)
}

/** Whether the column holds a document, as far as the file shows. */
function isDocument({ model }: Facts, row: Node, column: string, readings: readonly Reading[]): boolean {
  const isTyped = model.isDocument(row, column)
  return isTyped ?? (readings.some(({ isMaybeText }) => !isMaybeText) && !model.isAssociation(row, column))
}

/** Whether the name may be that of a column with a document. */
function isColumn({ model }: Facts, row: Node, column: string): boolean {
  return model.isDocument(row, column) ?? !model.isAssociation(row, column)
}
