import type { SourceCode } from 'eslint'
import { entriesOf, mutationOf, readingsOf } from './document.js'
import type { Mutation, Reading } from './document.js'
import { methodOf } from './methods.js'
import type { Method } from './methods.js'
import {
  argumentsOf,
  awaited,
  bodyOf,
  calledName,
  contains,
  isFunction,
  isSamePlace,
  keyOf,
  nameOf,
  parentOf,
  placeOf,
  receiverOf,
  startOf,
  stringOf,
  unwrap,
} from './syntax.js'
import type { Call, Node, NodeOf } from './syntax.js'
import type { Types } from './types.js'

/** Code that uses a row: `node` is all of it, `row` the expression of the row. */
interface Access {
  readonly node: Node
  readonly row: Node
}

/** An assignment to a column of a row, in memory: `run.progress = …`, `run.set('progress', …)`. */
export interface Assignment extends Access {
  /** The column, with a path in its document if there is one: `progress.a` of `run.set('progress.a', …)`. */
  readonly column: string
  readonly value: Node
}

/** A note that a column was changed in place, which makes Sequelize save it: `run.changed('progress', true)`. */
interface Mark extends Access {
  readonly column: string
}

/** A change in place, and the path in the document of what it writes into. */
export interface MutationAt {
  readonly mutation: Mutation
  readonly path: readonly string[]
}

/** A call that writes a row to the database. */
export interface Write {
  readonly call: Call
  readonly row: Node
  readonly options: Node | undefined
  /** Whether it is a method of Sequelize, and not one of the application that calls it. */
  readonly isOwn: boolean
}

type Member = NodeOf<'MethodDefinition' | 'PropertyDefinition'>

/** The code of a file that reads and changes rows in memory. All questions come after the traversal of the file. */
export class RowAccesses {
  readonly calls: Call[] = []
  readonly #assignments: Assignment[] = []
  readonly #mutations: Mutation[] = []
  readonly #marks: Mark[] = []
  readonly #declarations: NodeOf<'VariableDeclarator'>[] = []
  /** The methods of the classes in this file, by name. */
  readonly #methods = new Map<string, Method | undefined>()
  readonly #readings = new Map<Node, Reading[]>()
  readonly #source: SourceCode
  readonly #types: Types | undefined

  constructor(source: SourceCode, types: Types | undefined) {
    this.#source = source
    this.#types = types
  }

  seeCall(call: Call): void {
    this.calls.push(call)
    this.seeMutation(call)
    const row = receiverOf(call)
    const [first, value] = argumentsOf(call)
    if (!row || !first) return
    const name = calledName(call)
    const column = stringOf(first)
    if (name === 'changed' && column !== undefined && value?.type === 'Literal' && value.value === true) {
      this.#marks.push({ node: call, row, column })
    }
    if (name !== 'set' && name !== 'setDataValue' && name !== 'setAttributes') return
    if (column !== undefined && value) this.#assignments.push({ node: call, row, column, value })
    if (first.type !== 'ObjectExpression') return
    for (const [key, each, node] of entriesOf(first)) this.#assignments.push({ node, row, column: key, value: each })
  }

  seeAssignment(node: NodeOf<'AssignmentExpression'>): void {
    this.seeMutation(node)
    const left = unwrap(node.left)
    if (left.type !== 'MemberExpression') return
    const column = nameOf(left)
    if (column === undefined) return
    this.#assignments.push({ node, row: unwrap(left.object), column, value: unwrap(node.right) })
  }

  seeMutation(node: Node): void {
    const mutation = mutationOf(node)
    if (mutation) this.#mutations.push(mutation)
  }

  seeDeclaration(node: NodeOf<'VariableDeclarator'>): void {
    this.#declarations.push(node)
  }

  seeMember(node: Member): void {
    const { computed, key, value } = node
    if (computed || key.type !== 'Identifier' || !value || !isFunction(value)) return
    this.#methods.set(key.name, methodOf(this.#source.getText(node)))
  }

  isSameRow(row: Node, other: Node): boolean {
    return row === other || isSamePlace(placeOf(this.#source, row), placeOf(this.#source, other))
  }

  /** The readings of all columns that the value comes from. */
  read(value: Node): Reading[] {
    const known = this.#readings.get(value) ?? readingsOf(this.#source, value)
    this.#readings.set(value, known)
    return known
  }

  /** The readings of this column of this row that the value comes from. */
  readFrom(value: Node, row: Node, column: string): Reading[] {
    return this.read(value).filter((reading) => reading.column === column && this.isSameRow(reading.row, row))
  }

  /** What a method of a row does, wherever the application declares it. */
  methodOf(row: Node, name: string): Method | undefined {
    const text = this.#types?.methodText(row, name)
    return text === undefined ? this.#methods.get(name) : methodOf(text)
  }

  /** Whether code uses the row of a write before the write, in the same function. */
  isBefore({ node, row }: Access, write: Write): boolean {
    return this.isSameRow(row, write.row) && startOf(node) < startOf(write.call) && isInOneBody(node, write.call)
  }

  assignmentsBefore(write: Write): Assignment[] {
    return this.#assignments.filter((each) => this.isBefore(each, write))
  }

  /** The columns that the code before a write marks as changed. */
  markedBefore(write: Write): ReadonlySet<string> {
    return new Set(this.#marks.filter((each) => this.isBefore(each, write)).map(({ column }) => column))
  }

  /** The columns of a row that the file changes in place, anywhere. */
  mutatedOf(row: Node): string[] {
    const readings = this.#mutations.flatMap(({ target }) => this.read(target))
    return readings.filter((reading) => this.isSameRow(reading.row, row)).map(({ column }) => column)
  }

  /** The changes of a column in place before a node, in the same function. */
  mutationsBefore(node: Node, row: Node, column: string): MutationAt[] {
    return this.#mutations
      .filter((each) => startOf(each.node) < startOf(node) && isInOneBody(each.node, node))
      .flatMap((mutation) => {
        const reading = this.readFrom(mutation.target, row, column).find(({ isWrapped }) => !isWrapped)
        return reading ? [{ mutation, path: reading.path }] : []
      })
  }

  /** All code that changes the row before a write. */
  changingBefore(write: Write): Node[] {
    const mutations = this.#mutations.flatMap(({ node, target }) =>
      this.read(target).map(({ row }): Access => ({ node, row })),
    )
    return [...this.#assignments, ...mutations, ...this.#marks]
      .filter((each) => this.isBefore(each, write))
      .map(({ node }) => node)
  }

  /** The declarations before a write whose variables are read from the column. */
  declaredBefore({ call, row }: Write, column: string): Node[] {
    return this.#declarations.filter(
      ({ id, init }) =>
        init &&
        startOf(init) < startOf(call) &&
        isInOneBody(id, call) &&
        (this.readFrom(unwrap(init), row, column).length > 0 || this.#isTakenFrom(id, init, row, column)),
    )
  }

  /** Whether it is `{ progress } = run`. */
  #isTakenFrom(id: Node, init: Node, row: Node, column: string): boolean {
    return (
      id.type === 'ObjectPattern' &&
      this.isSameRow(awaited(init), row) &&
      id.properties.some((each) => each.type === 'Property' && keyOf(each) === column)
    )
  }

  /** Whether the column was assigned a new document before `node`; a change of that document is not a stale write. */
  isFresh(row: Node, column: string, node: Node): boolean {
    return this.#assignments.some(
      (assignment) =>
        assignment.column === column &&
        this.isSameRow(assignment.row, row) &&
        startOf(assignment.node) < startOf(node) &&
        this.readFrom(assignment.value, row, column).length === 0 &&
        isAlwaysBefore(assignment.node, node),
    )
  }

  /** The assignments to a row in an expression. */
  assignmentsIn(expression: Node, row: Node): Assignment[] {
    return this.#assignments.filter(({ node, row: own }) => contains(expression, node) && this.isSameRow(own, row))
  }

  /** The change in place that this node makes. */
  mutationAt(node: Node): Mutation | undefined {
    return this.#mutations.find((mutation) => mutation.node === node)
  }

  /** Whether a node marks a column as changed. */
  isMark(node: Node): boolean {
    return this.#marks.some((mark) => mark.node === node)
  }
}

/** Whether one of two nodes is in the function of the other, or in a function inside it. */
function isInOneBody(node: Node, other: Node): boolean {
  const [body, otherBody] = [bodyOf(node), bodyOf(other)]
  return contains(body, otherBody) || contains(otherBody, body)
}

/** Whether the block of the statement of `first` encloses `second`. */
function isAlwaysBefore(first: Node, second: Node): boolean {
  const statement = parentOf(first)
  const block = statement?.type === 'ExpressionStatement' && parentOf(statement)
  return block ? ['BlockStatement', 'Program'].includes(block.type) && contains(block, second) : false
}
