import type { Rule, SourceCode } from 'eslint'
import { entriesOf, mutationOf, readingsOf } from './document.js'
import type { Mutation, Reading } from './document.js'
import { curesIn } from './cure.js'
import type { Cure } from './cure.js'
import { methodOf } from './methods.js'
import type { Method } from './methods.js'
import { modelIn } from './model.js'
import { operation, operationsOfMutation, operationsOfValue, shownPath } from './operations.js'
import type { Change, Changes, Operation, Stored } from './operations.js'
import { protectionIn } from './protection.js'
import { remedyOf, remedyOfChanges, remedyOfKey, remedyOfMutation, remedyOfValue } from './remedy.js'
import type { Remedy } from './remedy.js'
import { settingsOf } from './settings.js'
import {
  argumentsOf,
  awaited,
  bodyOf,
  calledName,
  childrenOf,
  contains,
  isFunction,
  isSamePlace,
  keyOf,
  nameOf,
  parentOf,
  placeOf,
  propertyOf,
  receiverOf,
  resolved,
  startOf,
  statementOf,
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

/** A change in place, and the path in the document of what it writes into. */
interface MutationAt {
  readonly mutation: Mutation
  readonly path: readonly string[]
}

/** Reports a JSON document that is read, changed and written back as a whole without protection from other writers. */
export const noJsonReadModifyWrite: Rule.RuleModule = {
  meta: {
    type: 'problem',
    docs: {
      description: 'disallow writing back a JSON column that was read before, without a lock',
      recommended: true,
    },
    fixable: 'code',
    hasSuggestions: true,
    schema: [],
    messages: {
      useAtomic: 'Write it with atomicUpdate().',
      useUpdateWhere: 'Write it with updateWhere().',
      useLock: 'Do it inside withLock().',
      key: `${lost} Write await {{call}}, or do this inside ${lock}.`,
      document: `${lost} Do this inside ${lock}.`,
      unseenKey: `${unseen} Write await {{call}}, or do this inside ${lock}.`,
      unseenDocument: `${unseen} Do this inside ${lock}.`,
    },
  },
  create(context) {
    const source = context.sourceCode
    const settings = settingsOf(context)
    if (settings.isIgnored) return {}
    const types = typesOf(source)
    const model = modelIn(source, types)
    const protection = protectionIn(source, model, settings)
    const cures = curesIn(source)
    const methods = new Map<string, Method | undefined>()
    const calls: Call[] = []
    const assignments: Assignment[] = []
    const mutations: Mutation[] = []
    const marked: Assignment[] = []
    const declared: NodeOf<'VariableDeclarator'>[] = []
    const readings = new Map<Node, Reading[]>()
    const reported = new Set<Node>()

    const report = (
      node: Node,
      column: string,
      { call, row, name }: Remedy,
      { atomic, fixable, lock: locked }: { atomic?: Cure | undefined; fixable?: boolean; lock?: Cure | undefined },
      isSeen = true,
    ): void => {
      if (reported.has(node)) return
      reported.add(node)
      const suggest = [atomic, locked].filter((cure) => cure !== undefined)
      context.report({
        node,
        messageId: isSeen ? (call ? 'key' : 'document') : call ? 'unseenKey' : 'unseenDocument',
        data: { column, row, name, ...(call && { call }) },
        suggest: suggest.map(({ messageId, fix }) => ({ messageId, fix })),
        ...(atomic && fixable && { fix: atomic.fix }),
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
    const mutationsOf = (row: Node, column: string, write: Node): MutationAt[] =>
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

    const storedOf = (row: Node, column: string): Stored => {
      const isRead = (node: Node): boolean =>
        node.type === 'Identifier' || node.type === 'ThisExpression' || node.type === 'MemberExpression'
          ? isSame(node, row) || readFrom(node, row, column).length > 0
          : false
      const isUsedIn = (node: Node): boolean => {
        if (node.type === 'MemberExpression' && isSame(unwrap(node.object), row)) return nameOf(node) === column
        return isRead(node) || childrenOf(node).some(isUsedIn)
      }
      return {
        source,
        read: (value) => readFrom(value, row, column),
        isUsedIn,
        hasKeys: (node) => types?.hasKeys(node) ?? true,
      }
    }

    /** Adds a change of a column; false if the two changes together are not known. */
    const add = (changes: Map<string, Change>, column: string, change: Change | undefined): boolean => {
      const known = changes.get(column)
      if (change === undefined || (known !== undefined && (typeof known === 'string' || typeof change === 'string'))) {
        return false
      }
      const together = known === undefined || typeof change === 'string' ? change : [...known, ...change]
      changes.set(column, together)
      if (typeof together === 'string' || together.length === 1) return true
      const places = together.map(({ path }) =>
        path.map((key) => (typeof key === 'string' ? key : source.getText(key))),
      )
      return !places.some((one, index) =>
        places.some((other, at) => at !== index && one.every((key, step) => other[step] === key)),
      )
    }
    /** The change that a written value makes: operations if it comes from the stored document. */
    const changeOf = ({ row, column: name, value, node }: Assignment, write: Node): Change | undefined => {
      const [column, ...path] = name.split('.')
      const stored = storedOf(row, column!)
      if (path.length > 0) {
        const isKey = path.every((key) => /^[a-z_$][\w$]*$/i.test(key))
        return isKey && !stored.isUsedIn(value) ? [operation('set', path, stored, value)] : undefined
      }
      if (stored.isUsedIn(value)) {
        return mutationsOf(row, column!, write).length > 0 ? undefined : operationsOfValue(stored, value)
      }
      const isLiteral = value.type === 'ObjectExpression' || value.type === 'ArrayExpression'
      if (model.isDocument(row, column!) ?? isLiteral) return undefined
      return node.type === 'Property' && node.shorthand ? column! : source.getText(value)
    }
    const changesOfValues = (
      row: Node,
      values: NodeOf<'ObjectExpression'>,
      write: Node,
    ): Map<string, Change> | undefined => {
      const changes = new Map<string, Change>()
      const entries = entriesOf(values)
      if (entries.length < values.properties.length) return undefined
      for (const [name, value, node] of entries) {
        if (!add(changes, name.split('.')[0]!, changeOf({ node, row, column: name, value }, write))) return undefined
      }
      return changes
    }
    /** The statements that change the row and save it, if they follow each other, and what they change. */
    const changesOfStatements = (
      call: Call,
      row: Node,
      nodes: readonly Node[],
    ): { statements: Node[]; changes: Map<string, Change> } | undefined => {
      const last = statementOf(call)
      const block = last && parentOf(last)
      if (!last || (block?.type !== 'BlockStatement' && block?.type !== 'Program') || !isAwaited(call)) return undefined
      const body = block.body as Node[]
      const first = body.findIndex((each) => nodes.some((node) => contains(each, node)))
      const statements = body.slice(first, body.indexOf(last) + 1)
      if (first < 0 || !nodes.every((node) => statements.some((each) => contains(each, node)))) return undefined
      const changes = new Map<string, Change>()
      const prefix = `${source.getText(row)}.`
      for (const statement of statements.slice(0, -1)) {
        if (isDefault(source, statement, prefix)) continue
        const expression = statement.type === 'ExpressionStatement' ? statement.expression : undefined
        if (!expression) return undefined
        if (marked.some(({ node }) => node === expression)) continue
        const written = assignments.filter((each) => contains(expression, each.node) && isSame(each.row, row))
        const mutation = mutations.find(({ node }) => node === expression)
        if (written.length > 0) {
          if (!written.every((each) => add(changes, each.column.split('.')[0]!, changeOf(each, expression))))
            return undefined
          continue
        }
        const [reading] = mutation ? read(mutation.target).filter((each) => isSame(each.row, row)) : []
        const isDirect = mutation && source.getText(mutation.target).startsWith(prefix)
        if (!mutation || !reading || !isDirect) return undefined
        const stored = storedOf(row, reading.column)
        if (!add(changes, reading.column, operationsOfMutation(stored, mutation, reading.path))) return undefined
      }
      return changes.size > 0 ? { statements, changes } : undefined
    }
    /** Whether the atomic call makes the same change for certain: plain values, no hook and no validator. */
    const isFixable = (row: Node, changes: Changes): boolean => {
      const isPlain = (node: Node): boolean =>
        (node.type === 'Literal' && node.value !== undefined) ||
        node.type === 'TemplateLiteral' ||
        (types?.isPlain(node) ?? false)
      const isCertain = ({ name, path, values }: Operation): boolean =>
        name !== 'assign' && [...path.filter((key) => typeof key !== 'string'), ...values].every(isPlain)
      if (![...changes.values()].every((change) => typeof change === 'string' || change.every(isCertain))) return false
      if (!(types?.isRow(row) ?? model.loadingsOf(row).every(({ find }) => find && !find.isWeak))) return false
      const hooks = settings.hooks ?? !(types?.isWithoutHooks() ?? false)
      return !hooks
    }

    const methodOfRow = (row: Node, name: string): Method | undefined => {
      const text = types?.methodText(row, name)
      return text === undefined ? methods.get(name) : methodOf(text)
    }
    /** What changed the row in this function before it is written. */
    const changingBefore = (call: Call, row: Node): Node[] =>
      [
        ...assignments,
        ...mutations.flatMap((each) => read(each.target).map(({ row }) => ({ node: each.node, row }))),
        ...marked,
      ]
        .filter((each) => isSame(each.row, row) && startOf(each.node) < startOf(call) && isIn(each.node, call))
        .map(({ node }) => node)
    /** Where variables are read from the column before the row is written. */
    const readBefore = (call: Call, row: Node, column: string): Node[] =>
      declared.filter(
        ({ id, init }) =>
          init &&
          startOf(init) < startOf(call) &&
          isIn(id, call) &&
          readFrom(unwrap(init), row, column).length + patternReads(id, init, row, column) > 0,
      )
    const patternReads = (id: Node, init: Node, row: Node, column: string): number =>
      id.type === 'ObjectPattern' &&
      isSame(awaited(init), row) &&
      id.properties.some((each) => each.type === 'Property' && keyOf(each) === column)
        ? 1
        : 0

    interface Finding {
      readonly node: Node
      readonly column: string
      readonly remedy: () => Remedy
      readonly isSeen?: boolean
    }
    /** The call for a change in place. No call sets a value that was computed from the stored document. */
    const remedyInPlace = (row: Node, column: string, { mutation, path }: MutationAt): Remedy => {
      const stored = storedOf(row, column)
      if (mutation.kind !== 'set' || !mutation.value || !stored.isUsedIn(mutation.value)) {
        return remedyOfMutation(source, row, column, mutation, path)
      }
      const operations = operationsOfMutation(stored, mutation, path)
      return operations ? remedyOfChanges(source, row, new Map([[column, operations]])) : remedyOf(source, row, column)
    }
    /** What a written value does to the document that was read: nothing, or a whole-column write. */
    const findingOf = (written: Assignment, write: Node): Finding | undefined => {
      const { node, row, value } = written
      const [column, ...path] = written.column.split('.') as [string, ...string[]]
      if (path.length > 0) {
        // `run.set('progress.a', 1)`: Sequelize changes the document in memory, and writes the whole document.
        if (!isColumn(row, column) || isFresh(row, column, node)) return undefined
        const [key, ...more] = path
        const remedy = (): Remedy =>
          more.length > 0
            ? remedyOf(source, row, column, `set(${shownPath(source, path)}, …)`)
            : remedyOfKey(source, row, column, key)
        return { node, column, remedy }
      }
      const readings = readFrom(value, row, column)
      if (readings.length === 0 || !isDocument(row, column, readings) || isFresh(row, column, node)) return undefined
      const [inPlace] = mutationsOf(row, column, write)
      if (readings.some(({ isChanged }) => isChanged)) {
        const operations = inPlace ? undefined : operationsOfValue(storedOf(row, column), value)
        const remedy = (): Remedy =>
          operations
            ? remedyOfChanges(source, row, new Map([[column, operations]]))
            : remedyOfValue(source, row, column, value)
        return { node, column, remedy }
      }
      if (!inPlace) return undefined
      return { node, column, remedy: () => remedyInPlace(row, column, inPlace) }
    }

    const checkUpdate = (call: Call, row: Node, values: Node, options: Node | undefined, isOwn: boolean): void => {
      if (values.type !== 'ObjectExpression') return
      const found = entriesOf(values).flatMap(
        ([column, value, node]) => findingOf({ node, row, column, value }, call) ?? [],
      )
      if (found.length === 0) return
      const changes = isOwn && contains(call, values) ? changesOfValues(row, values, call) : undefined
      const atomic = changes && cures.atomic(call, row, changes, options)
      const before = [...new Set(found.map(({ column }) => column))].flatMap((column) => [
        ...mutationsOf(row, column, call).map(({ mutation }) => mutation.node),
        ...readBefore(call, row, column),
      ])
      const nodes = [...before, ...(contains(call, values) ? [] : [values]), ...changingBefore(call, row)]
      const locked = placeOf(source, row)
        ? nodes.length === 0
          ? cures.lockCall(call, row, options)
          : cures.lockStatements(inOrder([...nodes, call]), row, options)
        : undefined
      for (const [index, { node, column, remedy }] of found.entries()) {
        if (found.findIndex((each) => each.column === column) < index) continue
        const shown = changes && changes.size > 1 ? remedyOfChanges(source, row, changes) : remedy()
        const fixable = changes !== undefined && isFixable(row, changes)
        report(node, column, shown, { atomic, fixable, lock: locked })
      }
    }

    const checkSave = (call: Call, row: Node, options: Node | undefined, isOwn: boolean): void => {
      const isHere = (other: { node: Node; row: Node }): boolean =>
        isSame(other.row, row) && startOf(other.node) < startOf(call) && isIn(other.node, call)
      const fields = options?.type === 'ObjectExpression' ? propertyOf(options, 'fields') : undefined
      const isSaved = (column: string): boolean =>
        fields?.type !== 'ArrayExpression' || fields.elements.some((field) => stringOf(field ?? undefined) === column)
      const written = assignments.filter((each) => isHere(each) && isSaved(each.column))
      const found: Finding[] = written.flatMap((assignment) => findingOf(assignment, call) ?? [])
      // Sequelize does not detect a change in place: it saves the column only after changed(column, true).
      const markedColumns = new Set(marked.filter(isHere).map(({ column }) => column))
      const touched = mutations.flatMap(({ target }) => read(target)).filter((reading) => isSame(reading.row, row))
      const known = touched.map(({ column }) => column).filter((column) => model.isDocument(row, column))
      for (const column of new Set([...markedColumns, ...known])) {
        const isAssigned = written.some((assignment) => assignment.column === column)
        if (!isSaved(column) || (isAssigned && !markedColumns.has(column)) || !isColumn(row, column)) continue
        const changed = mutationsOf(row, column, call).find(({ mutation }) => !isFresh(row, column, mutation.node))
        if (!changed || found.some((each) => each.column === column)) continue
        const remedy = (): Remedy => remedyInPlace(row, column, changed)
        found.push({ node: changed.mutation.node, column, remedy, isSeen: markedColumns.has(column) })
      }
      for (const setter of calls) {
        const receiver = receiverOf(setter)
        if (!receiver || setter === call || !isHere({ node: setter, row: receiver })) continue
        for (const column of methodOfRow(row, calledName(setter))?.changes ?? []) {
          if (isColumn(row, column)) found.push({ node: setter, column, remedy: () => remedyOf(source, row, column) })
        }
      }
      const unreported = found.filter(({ node }) => !reported.has(node))
      if (unreported.length === 0) return
      const changing = changingBefore(call, row)
      const statements = isOwn
        ? changesOfStatements(call, row, [...changing, ...found.map(({ node }) => node)])
        : undefined
      const atomic = statements && cures.atomic(statements.statements, row, statements.changes, options)
      const reads = unreported.flatMap(({ column }) => readBefore(call, row, column))
      const nodes = inOrder([...changing, ...reads, ...unreported.map(({ node }) => node), call])
      const locked = placeOf(source, row) ? cures.lockStatements(nodes, row, options) : undefined
      const columns = new Set<string>()
      for (const { node, column, remedy, isSeen } of unreported) {
        // All changes of a column that one save() writes are one report.
        if (columns.has(column)) reported.add(node)
        columns.add(column)
        const fixable = statements !== undefined && isSeen !== false && isFixable(row, statements.changes)
        const shown = statements ? remedyOfChanges(source, row, statements.changes) : remedy()
        report(node, column, shown, { atomic: isSeen === false ? undefined : atomic, fixable, lock: locked }, isSeen)
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
          const found = findingOf({ node, row, column, value }, call)
          if (!found) continue
          const changes = changesOfValues(row, values, call)
          const atomic = changes && cures.where(call, of, changes, options)
          report(node, column, found.remedy(), { atomic })
        }
      }
    }

    const checkCall = (call: Call): void => {
      const name = calledName(call)
      const receiver = receiverOf(call)
      if (!receiver) return
      const [first, second] = argumentsOf(call)
      if (name === 'update' && first && second) checkStatic(call, receiver, resolved(source, first), second)
      const isOwn = name === 'save' || name === 'update'
      if (!(isOwn || /save|update|persist|store|write|commit/i.test(name)) || !model.isRow(receiver)) return
      const method = isOwn ? undefined : methodOfRow(receiver, name)
      if (!isOwn && !method?.saves) return
      const options = name === 'save' ? first : isOwn ? second : argumentsOf(call).at(-1)
      if (protection.mayCover(call, receiver, options)) return
      const values =
        name === 'update' ? first : method?.values === undefined ? undefined : argumentsOf(call)[method.values]
      if (values) checkUpdate(call, receiver, resolved(source, values), isOwn ? options : undefined, isOwn)
      if (name !== 'update') checkSave(call, receiver, isOwn ? options : undefined, isOwn)
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
      VariableDeclarator(node) {
        declared.push(node)
      },
      'MethodDefinition, PropertyDefinition'(node: NodeOf<'MethodDefinition' | 'PropertyDefinition'>) {
        const [{ value }, name] = [node, keyOfMember(node)]
        if (value && isFunction(value) && name !== undefined) methods.set(name, methodOf(source.getText(node)))
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

function inOrder(nodes: readonly Node[]): Node[] {
  return [...nodes].sort((one, other) => startOf(one) - startOf(other))
}

function isAwaited(call: Call): boolean {
  return parentOf(call)?.type === 'AwaitExpression'
}

function keyOfMember({ computed, key }: NodeOf<'MethodDefinition' | 'PropertyDefinition'>): string | undefined {
  return !computed && key.type === 'Identifier' ? key.name : undefined
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
