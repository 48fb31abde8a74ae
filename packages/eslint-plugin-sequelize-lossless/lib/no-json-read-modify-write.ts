import type { Rule } from 'eslint'
import { entriesOf, mutationOf, readingsOf } from './document.js'
import type { Mutation, Reading } from './document.js'
import { modelIn } from './model.js'
import { protectionIn } from './protection.js'
import { remedyOf, remedyOfKey, remedyOfMutation, remedyOfValue } from './remedy.js'
import type { Remedy } from './remedy.js'
import {
  argumentsOf,
  bodyOf,
  calledName,
  contains,
  isSamePlace,
  nameOf,
  parentOf,
  placeOf,
  propertyOf,
  receiverOf,
  resolved,
  startOf,
  stringOf,
  unwrap,
} from './syntax.js'
import type { Call, Node, NodeOf } from './syntax.js'
import { typesOf } from './types.js'

/** An assignment to a column of a row, in memory: `run.progress = …`, `run.set('progress', …)`. */
interface Assignment {
  readonly node: Node
  readonly row: Node
  readonly column: string
  readonly value: Node
}

const lost = '"{{column}}" is read, changed and written back as a whole: a concurrent change is lost.'
const unseen = '"{{column}}" is changed in place, which save() does not detect: the change is lost.'
const lock = 'await {{row}}.withLock(async ({{name}}) => { … })'

/** Reports a JSON document that is read, changed and written back as a whole without protection from other writers. */
export const noJsonReadModifyWrite: Rule.RuleModule = {
  meta: {
    type: 'problem',
    docs: {
      description: 'disallow writing back a JSON column that was read before, without a lock',
      recommended: true,
    },
    schema: [],
    messages: {
      key: `${lost} Write await {{call}}, or do this inside ${lock}.`,
      document: `${lost} Do this inside ${lock}.`,
      unseenKey: `${unseen} Write await {{call}}, or do this inside ${lock}.`,
      unseenDocument: `${unseen} Do this inside ${lock}.`,
    },
  },
  create(context) {
    const source = context.sourceCode
    const types = typesOf(source)
    const model = modelIn(source, types)
    const protection = protectionIn(source, model)
    const calls: Call[] = []
    const assignments: Assignment[] = []
    const mutations: Mutation[] = []
    const marked: Assignment[] = []
    const readings = new Map<Node, Reading[]>()
    const reported = new Set<Node>()

    const report = (node: Node, column: string, { call, row, name }: Remedy, isSeen = true): void => {
      if (reported.has(node)) return
      reported.add(node)
      context.report({
        node,
        messageId: isSeen ? (call ? 'key' : 'document') : call ? 'unseenKey' : 'unseenDocument',
        data: { column, row, name, ...(call && { call }) },
      })
    }

    const read = (value: Node): Reading[] => {
      const known = readings.get(value) ?? readingsOf(source, value)
      readings.set(value, known)
      return known
    }
    const isSame = (row: Node, other: Node): boolean =>
      row === other || isSamePlace(placeOf(source, row), placeOf(source, other))
    /** The readings of this column of this row that the value comes from. */
    const readFrom = (value: Node, row: Node, column: string): Reading[] =>
      read(value).filter((reading) => reading.column === column && isSame(reading.row, row))
    const isDocument = (row: Node, column: string, readings: readonly Reading[]): boolean => {
      const isTyped = model.isDocument(row, column)
      return isTyped ?? (readings.some(({ isMaybeText }) => !isMaybeText) && !model.isAssociation(row, column))
    }
    const isColumn = (row: Node, column: string): boolean =>
      model.isDocument(row, column) ?? !model.isAssociation(row, column)
    const isIn = (node: Node, other: Node): boolean => {
      const [body, otherBody] = [bodyOf(node), bodyOf(other)]
      return contains(body, otherBody) || contains(otherBody, body)
    }
    /** The changes of a column in place, before `write`. */
    const mutationsOf = (row: Node, column: string, write: Node): { mutation: Mutation; path: readonly string[] }[] =>
      mutations
        .filter(({ node }) => startOf(node) < startOf(write) && isIn(node, write))
        .flatMap((mutation) => {
          const reading = readFrom(mutation.target, row, column).find(({ isWrapped }) => !isWrapped)
          return reading ? [{ mutation, path: reading.path }] : []
        })
    /** Whether the column was assigned a new document before `node`; a change of that document is not a stale write. */
    const isFresh = (row: Node, column: string, node: Node): boolean =>
      assignments.some(
        (assignment) =>
          assignment.column === column &&
          isSame(assignment.row, row) &&
          startOf(assignment.node) < startOf(node) &&
          readFrom(assignment.value, row, column).length === 0 &&
          isAlwaysBefore(assignment.node, node),
      )

    /** Checks a value that is written to a column: reports a changed value of the same column. */
    const check = (written: Assignment, write: Node): void => {
      const { node, row, column, value } = written
      const readings = readFrom(value, row, column)
      if (readings.length === 0 || !isDocument(row, column, readings) || isFresh(row, column, node)) return
      const changed = readings.some(({ isChanged }) => isChanged)
      const [inPlace] = mutationsOf(row, column, write)
      if (changed) report(node, column, remedyOfValue(source, row, column, value))
      else if (inPlace) report(node, column, remedyOfMutation(source, row, column, inPlace.mutation, inPlace.path))
    }

    const checkWritten = (written: Assignment, write: Node): void => {
      const [column, ...path] = written.column.split('.')
      if (path.length === 0) check(written, write)
      else checkPath(written, column!, path)
    }
    /** `run.set('progress.a', 1)`: Sequelize changes the document in memory, and writes the whole document. */
    const checkPath = ({ node, row }: Assignment, column: string, path: readonly string[]): void => {
      if (!isColumn(row, column) || isFresh(row, column, node)) return
      const [key, ...more] = path
      const keys = path.map((each) => `'${each}'`).join(', ')
      const remedy = more.length > 0 ? remedyOf(source, row, column, `set([${keys}], …)`) : undefined
      report(node, column, remedy ?? remedyOfKey(source, row, column, key))
    }

    const checkUpdate = (call: Call, row: Node, values: Node): void => {
      if (values.type !== 'ObjectExpression') return
      for (const [column, value, node] of entriesOf(values)) checkWritten({ node, row, column, value }, call)
    }

    const checkSave = (call: Call, row: Node, options: Node | undefined): void => {
      const isHere = (other: { node: Node; row: Node }): boolean =>
        isSame(other.row, row) && startOf(other.node) < startOf(call) && isIn(other.node, call)
      const fields = options?.type === 'ObjectExpression' ? propertyOf(options, 'fields') : undefined
      const isSaved = (column: string): boolean =>
        fields?.type !== 'ArrayExpression' || fields.elements.some((field) => stringOf(field ?? undefined) === column)
      const written = assignments.filter((each) => isHere(each) && isSaved(each.column))
      for (const assignment of written) checkWritten(assignment, call)
      // Sequelize does not detect a change in place: it saves the column only after changed(column, true).
      const markedColumns = new Set(marked.filter(isHere).map(({ column }) => column))
      const touched = mutations.flatMap(({ target }) => read(target)).filter((reading) => isSame(reading.row, row))
      const known = touched.map(({ column }) => column).filter((column) => model.isDocument(row, column))
      for (const column of new Set([...markedColumns, ...known])) {
        const isAssigned = written.some((assignment) => assignment.column === column)
        if (!isSaved(column) || (isAssigned && !markedColumns.has(column)) || !isColumn(row, column)) continue
        const found = mutationsOf(row, column, call).find(({ mutation }) => !isFresh(row, column, mutation.node))
        if (!found || written.some(({ column: each, node }) => each === column && reported.has(node))) continue
        const remedy = remedyOfMutation(source, row, column, found.mutation, found.path)
        report(found.mutation.node, column, remedy, markedColumns.has(column))
      }
    }

    /** `WorkflowRun.update({ progress: … }, { where: { id } })`. */
    const checkStatic = (call: Call, of: Node, values: Node, options: Node): void => {
      if (values.type !== 'ObjectExpression' || options.type !== 'ObjectExpression') return
      const where = propertyOf(options, 'where')
      if (where?.type !== 'ObjectExpression' || !model.isModel(of)) return
      for (const [column, value, node] of entriesOf(values)) {
        for (const { row, column: from } of read(value)) {
          if (from !== column || isCompared(where, column)) continue
          if (!model.isRowOf(row, of, where) || protection.mayCover(call, row, options)) continue
          check({ node, row, column, value }, call)
        }
      }
    }

    const checkCall = (call: Call): void => {
      const name = calledName(call)
      const receiver = receiverOf(call)
      if (!receiver) return
      const [first, second] = argumentsOf(call)
      if (name === 'update' && first && second) checkStatic(call, receiver, resolved(source, first), second)
      const options = name === 'save' ? first : second
      if ((name !== 'save' && name !== 'update') || !model.isRow(receiver)) return
      if (protection.mayCover(call, receiver, options)) return
      if (name === 'save') checkSave(call, receiver, options)
      else if (first) checkUpdate(call, receiver, resolved(source, first))
    }

    const seeAssignment = (call: Call): void => {
      const name = calledName(call)
      const row = receiverOf(call)
      const [first, value] = argumentsOf(call)
      if (!row || !first) return
      const column = stringOf(first)
      if (name === 'changed' && column !== undefined && value?.type === 'Literal' && value.value === true) {
        marked.push({ node: call, row, column, value })
      }
      if (name !== 'set' && name !== 'setDataValue' && name !== 'setAttributes') return
      if (column !== undefined && value) assignments.push({ node: call, row, column, value })
      if (first.type !== 'ObjectExpression') return
      for (const [key, each, node] of entriesOf(first)) assignments.push({ node, row, column: key, value: each })
    }

    const seeMutation = (node: Node): void => {
      const mutation = mutationOf(node)
      if (mutation) mutations.push(mutation)
    }

    return {
      CallExpression(call) {
        model.see(call)
        protection.see(call)
        calls.push(call)
        seeAssignment(call)
        seeMutation(call)
      },
      AssignmentExpression(node) {
        seeMutation(node)
        const left = unwrap(node.left)
        if (left.type !== 'MemberExpression') return
        const column = nameOf(left)
        const row = unwrap(left.object)
        if (column !== undefined) assignments.push({ node, row, column, value: unwrap(node.right) })
      },
      UpdateExpression: seeMutation,
      UnaryExpression: seeMutation,
      'Program:exit'() {
        for (const call of calls) checkCall(call)
      },
    }
  },
}

/** Whether a `where` compares a value that was read: the version of the row, or the document itself. */
function isCompared(where: NodeOf<'ObjectExpression'>, column: string): boolean {
  return entriesOf(where).some(([name]) => name === column || /version|revision|updated_?at|etag/i.test(name))
}

/** Whether the block of the statement of `first` encloses `second`. */
function isAlwaysBefore(first: Node, second: Node): boolean {
  const statement = parentOf(first)
  const block = statement?.type === 'ExpressionStatement' && parentOf(statement)
  return (
    block !== null && block !== false && ['BlockStatement', 'Program'].includes(block.type) && contains(block, second)
  )
}
