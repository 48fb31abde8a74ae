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

export interface Model {
  /** Visits every call in the file. */
  see(call: Call): void
  isRow(node: Node): boolean
  isModel(node: Node): boolean
  /** Whether a row belongs to the model that is updated with this `where`. */
  isRowOf(row: Node, model: Node, where: NodeOf<'ObjectExpression'>): boolean
  isDocument(row: Node, column: string): boolean | undefined
  /** Whether the name is an association of the row, as far as this file shows. */
  isAssociation(row: Node, column: string): boolean
  loadingsOf(row: Node): Loading[]
}

/** Finds the Sequelize models and rows in a file; without types, only on strong evidence. */
export function modelIn(source: SourceCode, types: Types | undefined): Model {
  let isSequelizeUsed = source.ast.body.some(
    (statement) => statement.type === 'ImportDeclaration' && isSequelize(statement.source),
  )
  const rows: Place[] = []
  const updated: Place[] = []
  const saved: Node[] = []
  let associations: ReadonlySet<string> | undefined

  const loadingsOf = (node: Node, way: readonly string[] = [], seen = new Set<Scope.Variable>()): Loading[] => {
    const expression = awaited(node)
    // `let run = null`
    if (isOff(expression)) return []
    if (expression.type === 'Identifier') {
      const variable = variableOf(source, expression)
      const origins = variable && !seen.has(variable) ? originsOf(variable) : []
      if (variable) seen.add(variable)
      if (origins.length > 0) {
        return origins.flatMap((origin) => loadingsOf(origin.expression, [...origin.path, ...way], seen))
      }
    }
    if (expression.type === 'LogicalExpression') {
      return [expression.left, expression.right].flatMap((side) => loadingsOf(side, way, seen))
    }
    const receiver = expression.type === 'CallExpression' && receiverOf(expression)
    if (!receiver) return [{ expression, find: undefined }]
    const name = calledName(expression)
    const [first] = argumentsOf(expression)
    const [index, ...rest] = way
    const together = name === 'all' && first?.type === 'ArrayExpression' ? first.elements[Number(index)] : undefined
    if (together) return loadingsOf(together, rest, seen)
    // The finder of a list also finds its elements and its parts.
    if (elementMethods.has(name)) return loadingsOf(receiver, [anyElement, ...way], seen)
    if (partMethods.has(name)) return loadingsOf(receiver, way, seen)
    const finder = finders.get(name)
    if (!finder || String(finder.way) !== String(way)) return [{ expression, find: undefined }]
    return [
      { expression, find: { ...finder, name, model: receiver, written: argumentsOf(expression)[finder.options] } },
    ]
  }

  /** `WorkflowRun`, `models.WorkflowRun`, `db.runModel`, `WorkflowRun.unscoped()`. */
  const looksLikeModel = (node: Node): boolean => {
    if (node.type === 'CallExpression') return looksLikeModel(receiverOf(node) ?? node.callee)
    const name = lastName(node)
    return /^[A-Z]/.test(name) || wordsOf(name).includes('model')
  }
  return {
    see(call) {
      const name = calledName(call)
      const [first] = argumentsOf(call)
      if (name === 'require' && first) isSequelizeUsed ||= isSequelize(first)
      if (finders.get(name)?.isWeak === false) isSequelizeUsed = true
      const receiver = receiverOf(call)
      const place = receiver && placeOf(source, receiver)
      if (receiver && methodsOfAssociations.has(name)) saved.push(receiver)
      if (place && name === 'update') updated.push(place)
      if (place && methodsOfRows.has(name) && stringOf(first) !== undefined) rows.push(place)
    },
    isRow(node) {
      const isTyped = types?.isRow(node)
      if (isTyped !== undefined) return isTyped
      if (rows.some((row) => isSamePlace(row, placeOf(source, node)))) return true
      if (node.type === 'ThisExpression')
        return isSequelizeUsed && (isThisOfModel(source, node) || isThisOfPrototype(node))
      return loadingsOf(node).some(({ find }) => {
        if (!find) return false
        const { isWeak, model, written } = find
        if (!isWeak) return true
        const isUpdated = updated.some((row) => isSamePlace(row, placeOf(source, node)))
        const isByWhere = isUpdated && written?.type === 'ObjectExpression' && propertyOf(written, 'where')
        return looksLikeModel(model) && Boolean(isSequelizeUsed || isByWhere)
      })
    },
    isModel: (node) => types?.isModel(node) ?? looksLikeModel(node),
    isRowOf(row, model, where) {
      if (types?.isRowOf(row, model)) return true
      const name = source.getText(model)
      if (loadingsOf(row).some(({ find }) => find && source.getText(find.model) === name)) return true
      // `{ id: run.id }`; `{ runId: run.id }` is about another table.
      return entriesOf(where).some(
        ([key, value]) =>
          value.type === 'MemberExpression' &&
          nameOf(value) === key &&
          isSamePlace(placeOf(source, value.object), placeOf(source, row)),
      )
    },
    isDocument: (row, column) => types?.isDocument(row, column),
    isAssociation(row, column) {
      associations ??= new Set(saved.flatMap((node) => readingsOf(source, node)).map((reading) => reading.column))
      const name = column.toLowerCase().replace(/s$/, '')
      const isIncluded = loadingsOf(row).some(({ find }) => {
        const include = find?.written?.type === 'ObjectExpression' && propertyOf(find.written, 'include')
        return include && source.getText(include).toLowerCase().includes(name)
      })
      return associations.has(column) || isIncluded
    },
    loadingsOf: (row) => loadingsOf(row),
  }
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
