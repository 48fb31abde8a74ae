import type { Scope, SourceCode } from 'eslint'
import { entriesOf, readingsOf } from './document.js'
import {
  ancestorsOf,
  anyElement,
  argumentsOf,
  awaited,
  calledName,
  isSamePlace,
  isOff,
  lastName,
  nameOf,
  originsOf,
  parentOf,
  placeOf,
  propertyOf,
  receiverOf,
  stringOf,
  thisOf,
  unwrap,
  variableOf,
  wordsOf,
} from './syntax.js'
import type { Call, Node, NodeOf, Place } from './syntax.js'
import type { Types } from './types.js'

interface Finder {
  /** The path from the result of the call to the row. */
  readonly way: readonly string[]
  /** Whether other libraries have a method of this name too. */
  readonly isWeak: boolean
  /** The index of the options argument. */
  readonly options: number
}

const finders: ReadonlyMap<string, Finder> = new Map([
  ['findByPk', { way: [], isWeak: false, options: 1 }],
  ['findOrCreate', { way: ['0'], isWeak: false, options: 0 }],
  ['findCreateFind', { way: ['0'], isWeak: false, options: 0 }],
  ['findOrBuild', { way: ['0'], isWeak: false, options: 0 }],
  ['findAndCountAll', { way: ['rows', anyElement], isWeak: false, options: 0 }],
  ['findOne', { way: [], isWeak: true, options: 0 }],
  ['findAll', { way: [anyElement], isWeak: true, options: 0 }],
  ['create', { way: [], isWeak: true, options: 1 }],
  ['upsert', { way: ['0'], isWeak: true, options: 1 }],
])

const elementMethods = new Set(['find', 'findLast', 'at', 'pop', 'shift'])
const partMethods = new Set(['filter', 'slice', 'toSorted', 'reverse'])

/** Methods that only an instance of a Sequelize model has. */
const methodsOfRows = new Set(['changed', 'previous', 'getDataValue', 'setDataValue'])

/** Methods that an associated row can have, but a document cannot. */
const methodsOfAssociations = new Set([...methodsOfRows, 'save', 'destroy', 'reload', 'restore'])

export interface Loading {
  /** The origin of a row: a call, `new`, or an unknown expression, such as a parameter. */
  readonly expression: Node
  /** The call, if it is one of Sequelize's own. */
  readonly find: Find | undefined
}

/** `WorkflowRun.findByPk(id, options)` */
interface Find extends Finder {
  readonly name: string
  readonly model: Node
  /** The options argument. */
  readonly written: Node | undefined
}

/** Finds the Sequelize models and rows in a file; without types, only on strong evidence. */
export class Model {
  readonly #source: SourceCode
  readonly #types: Types | undefined
  #isSequelizeUsed: boolean
  /** The receivers of methods that only rows have. */
  readonly #rows: Place[] = []
  /** The receivers of `update()`. */
  readonly #updated: Place[] = []
  /** The receivers of methods that associated rows can have. */
  readonly #saved: Node[] = []
  #associations: ReadonlySet<string> | undefined

  constructor(source: SourceCode, types: Types | undefined) {
    this.#source = source
    this.#types = types
    this.#isSequelizeUsed = source.ast.body.some(
      (statement) => statement.type === 'ImportDeclaration' && isSequelize(statement.source),
    )
  }

  /** Visits every call in the file, before the first question. */
  seeCall(call: Call): void {
    const name = calledName(call)
    const [first] = argumentsOf(call)
    if (name === 'require' && first) this.#isSequelizeUsed ||= isSequelize(first)
    if (finders.get(name)?.isWeak === false) this.#isSequelizeUsed = true
    const receiver = receiverOf(call)
    const place = receiver && placeOf(this.#source, receiver)
    if (receiver && methodsOfAssociations.has(name)) this.#saved.push(receiver)
    if (place && name === 'update') this.#updated.push(place)
    if (place && methodsOfRows.has(name) && stringOf(first) !== undefined) this.#rows.push(place)
  }

  isRow(node: Node): boolean {
    const isTyped = this.#types?.isRow(node)
    if (isTyped !== undefined) return isTyped
    if (this.#isAtOneOf(this.#rows, node)) return true
    if (node.type === 'ThisExpression') {
      return this.#isSequelizeUsed && (isThisOfModel(this.#source, node) || isThisOfPrototype(node))
    }
    return this.loadingsOf(node).some(({ find }) => {
      if (!find) return false
      if (!find.isWeak) return true
      const isByWhere =
        this.#isAtOneOf(this.#updated, node) &&
        find.written?.type === 'ObjectExpression' &&
        propertyOf(find.written, 'where') !== undefined
      return looksLikeModel(find.model) && (this.#isSequelizeUsed || isByWhere)
    })
  }

  #isAtOneOf(places: readonly Place[], node: Node): boolean {
    return places.some((place) => isSamePlace(place, placeOf(this.#source, node)))
  }

  isModel(node: Node): boolean {
    return this.#types?.isModel(node) ?? looksLikeModel(node)
  }

  /** Whether a row belongs to the model that is updated with this `where`. */
  isRowOf(row: Node, model: Node, where: NodeOf<'ObjectExpression'>): boolean {
    if (this.#types?.isRowOf(row, model)) return true
    const name = this.#source.getText(model)
    if (this.loadingsOf(row).some(({ find }) => find && this.#source.getText(find.model) === name)) return true
    // `{ id: run.id }`; `{ runId: run.id }` is about another table.
    return entriesOf(where).some(
      ([key, value]) =>
        value.type === 'MemberExpression' &&
        nameOf(value) === key &&
        isSamePlace(placeOf(this.#source, value.object), placeOf(this.#source, row)),
    )
  }

  /** Whether the column holds a document; undefined without types. */
  isDocument(row: Node, column: string): boolean | undefined {
    return this.#types?.isDocument(row, column)
  }

  /** Whether the name is an association of the row, as far as this file shows. */
  isAssociation(row: Node, column: string): boolean {
    this.#associations ??= new Set(
      this.#saved.flatMap((node) => readingsOf(this.#source, node)).map((reading) => reading.column),
    )
    const name = column.toLowerCase().replace(/s$/, '')
    const isIncluded = this.loadingsOf(row).some(({ find }) => {
      const include = find?.written?.type === 'ObjectExpression' && propertyOf(find.written, 'include')
      return include && this.#source.getText(include).toLowerCase().includes(name)
    })
    return this.#associations.has(column) || isIncluded
  }

  /** The origins of a row. */
  loadingsOf(row: Node): Loading[] {
    return loadingsAt(this.#source, row, [], new Set())
  }
}

/** The origins of the value at a path in an expression. */
function loadingsAt(source: SourceCode, node: Node, way: readonly string[], seen: Set<Scope.Variable>): Loading[] {
  const expression = awaited(node)
  // `let run = null`
  if (isOff(expression)) return []
  if (expression.type === 'Identifier') {
    const variable = variableOf(source, expression)
    const origins = variable && !seen.has(variable) ? originsOf(variable) : []
    if (variable) seen.add(variable)
    if (origins.length > 0) {
      return origins.flatMap((origin) => loadingsAt(source, origin.expression, [...origin.path, ...way], seen))
    }
  }
  if (expression.type === 'LogicalExpression') {
    return [expression.left, expression.right].flatMap((side) => loadingsAt(source, side, way, seen))
  }
  return expression.type === 'CallExpression'
    ? loadingsOfCall(source, expression, way, seen)
    : [{ expression, find: undefined }]
}

function loadingsOfCall(source: SourceCode, call: Call, way: readonly string[], seen: Set<Scope.Variable>): Loading[] {
  const unknown: Loading = { expression: call, find: undefined }
  const receiver = receiverOf(call)
  if (!receiver) return [unknown]
  const name = calledName(call)
  const parameters = argumentsOf(call)
  const [first] = parameters
  const [index, ...rest] = way
  const together = name === 'all' && first?.type === 'ArrayExpression' ? first.elements[Number(index)] : undefined
  if (together) return loadingsAt(source, together, rest, seen)
  // The finder of a list also finds its elements and its parts.
  if (elementMethods.has(name)) return loadingsAt(source, receiver, [anyElement, ...way], seen)
  if (partMethods.has(name)) return loadingsAt(source, receiver, way, seen)
  const finder = finders.get(name)
  if (!finder || String(finder.way) !== String(way)) return [unknown]
  return [{ expression: call, find: { ...finder, name, model: receiver, written: parameters[finder.options] } }]
}

/** `WorkflowRun`, `models.WorkflowRun`, `db.runModel`, `WorkflowRun.unscoped()`. */
function looksLikeModel(node: Node): boolean {
  if (node.type === 'CallExpression') return looksLikeModel(receiverOf(node) ?? node.callee)
  const name = lastName(node)
  return /^[A-Z]/.test(name) || wordsOf(name).includes('model')
}

function isSequelize(from: Node): boolean {
  return /^(@sequelize\/|sequelize$|sequelize[/-])/.test(stringOf(from) ?? '')
}

/** Whether `this` is an instance of a class with `extends Model`, or `extends` a class of this file that has it. */
function isThisOfModel(source: SourceCode, node: Node): boolean {
  for (const outer of ancestorsOf(node)) {
    if (outer.type === 'MethodDefinition' && outer.static) return false
    if (outer.type === 'ClassDeclaration' || outer.type === 'ClassExpression') return isModelClass(source, outer)
  }
  return false
}

function isModelClass(source: SourceCode, { superClass }: NodeOf<'ClassDeclaration' | 'ClassExpression'>): boolean {
  const base = superClass && unwrap(superClass)
  if (!base) return false
  if (wordsOf(lastName(base)).at(-1) === 'model') return true
  const [definition] = (base.type === 'Identifier' && variableOf(source, base)?.defs) || []
  return definition?.node.type === 'ClassDeclaration' && isModelClass(source, definition.node)
}

/** Whether `this` is that of `User.prototype.rename = function () { … }`. */
function isThisOfPrototype(node: Node): boolean {
  const assignment = parentOf(thisOf(node))
  if (assignment?.type !== 'AssignmentExpression' || assignment.left.type !== 'MemberExpression') return false
  const owner = unwrap(assignment.left.object)
  return owner.type === 'MemberExpression' && nameOf(owner) === 'prototype'
}

export function isFinder(name: string): boolean {
  return finders.has(name) || name === 'reload'
}
