import type { Rule } from 'eslint'
import type { Write } from './accesses.js'
import { changesOfStatements, changesOfValues, isFixable } from './changes.js'
import { Cures } from './cure.js'
import type { Cure } from './cure.js'
import { entriesOf } from './document.js'
import { factsIn } from './facts.js'
import type { Facts } from './facts.js'
import { findingOf, findingsOfSave, findingsOfUpdate } from './findings.js'
import type { Finding } from './findings.js'
import { remedyOfChanges } from './remedy.js'
import type { Remedy } from './remedy.js'
import { settingsOf } from './settings.js'
import { argumentsOf, calledName, contains, placeOf, propertyOf, receiverOf, resolved } from './syntax.js'
import type { Call, Node, NodeOf } from './syntax.js'

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
    const settings = settingsOf(context)
    if (settings.isIgnored) return {}
    const facts = factsIn(context.sourceCode, settings)
    const { model, protection, accesses } = facts
    const checks = new WriteChecks(context, facts)
    return {
      CallExpression(call) {
        model.seeCall(call)
        protection.seeCall(call)
        accesses.seeCall(call)
      },
      AssignmentExpression: (node) => accesses.seeAssignment(node),
      UpdateExpression: (node) => accesses.seeMutation(node),
      UnaryExpression: (node) => accesses.seeMutation(node),
      VariableDeclarator: (node) => accesses.seeDeclaration(node),
      'MethodDefinition, PropertyDefinition': (node: NodeOf<'MethodDefinition' | 'PropertyDefinition'>) =>
        accesses.seeMember(node),
      'Program:exit'() {
        for (const call of accesses.calls) checks.checkCall(call)
      },
    }
  },
}

/** The code that a report offers. */
interface Offer {
  readonly atomic: Cure | undefined
  /** Whether the atomic call is a fix, and not only a suggestion. */
  readonly isFix?: boolean
  readonly lock?: Cure | undefined
}

/** Checks the writes of a file, after its traversal. */
class WriteChecks {
  readonly #context: Rule.RuleContext
  readonly #facts: Facts
  readonly #cures: Cures
  readonly #reported = new Set<Node>()

  constructor(context: Rule.RuleContext, facts: Facts) {
    this.#context = context
    this.#facts = facts
    this.#cures = new Cures(facts.source)
  }

  checkCall(call: Call): void {
    const { source, model, protection, accesses } = this.#facts
    const name = calledName(call)
    const row = receiverOf(call)
    if (!row) return
    const given = argumentsOf(call)
    const [first, second] = given
    if (name === 'update' && first && second) this.#checkStatic(call, row, resolved(source, first), second)
    const isOwn = name === 'save' || name === 'update'
    if (!(isOwn || /save|update|persist|store|write|commit/i.test(name)) || !model.isRow(row)) return
    const method = isOwn ? undefined : accesses.methodOf(row, name)
    if (!isOwn && !method?.saves) return
    const options = name === 'save' ? first : isOwn ? second : given.at(-1)
    if (protection.mayCover(call, row, options)) return
    const values = name === 'update' ? first : method?.values === undefined ? undefined : given[method.values]
    const write = { call, row, options: isOwn ? options : undefined, isOwn }
    if (values) this.#checkUpdate(write, resolved(source, values))
    if (name !== 'update') this.#checkSave(write)
  }

  /** `WorkflowRun.update({ progress: … }, { where: { id } })`. */
  #checkStatic(call: Call, of: Node, values: Node, options: Node): void {
    const { model, protection, accesses } = this.#facts
    if (values.type !== 'ObjectExpression' || options.type !== 'ObjectExpression') return
    const where = propertyOf(options, 'where')
    if (where?.type !== 'ObjectExpression' || !model.isModel(of)) return
    for (const [column, value, node] of entriesOf(values)) {
      for (const { row, column: from } of accesses.read(value)) {
        if (from !== column || isCompared(where, column)) continue
        if (!model.isRowOf(row, of, where) || protection.mayCover(call, row, options)) continue
        const found = findingOf(this.#facts, { node, row, column, value }, call)
        if (!found) continue
        const changes = changesOfValues(this.#facts, row, values, call)
        const atomic = changes && this.#cures.where(call, of, changes, options)
        this.#report({ ...found, column }, found.remedy(), { atomic })
      }
    }
  }

  /** `run.update({ progress: … })`. */
  #checkUpdate(write: Write, values: Node): void {
    const { call, row, options, isOwn } = write
    if (values.type !== 'ObjectExpression') return
    const found = findingsOfUpdate(this.#facts, write, values)
    if (found.length === 0) return
    const columns = [...new Set(found.map(({ column }) => column))]
    const isInCall = contains(call, values)
    const changes = isOwn && isInCall ? changesOfValues(this.#facts, row, values, call) : undefined
    const offer = {
      atomic: changes && this.#cures.atomicCall(call, row, changes, options),
      isFix: changes !== undefined && isFixable(this.#facts, row, changes),
      lock: this.#lock(write, columns, isInCall ? [] : [values]),
    }
    for (const column of columns) {
      const finding = found.find((each) => each.column === column)!
      const remedy = changes && changes.size > 1 ? remedyOfChanges(this.#facts.source, row, changes) : finding.remedy()
      this.#report(finding, remedy, offer)
    }
  }

  /** `run.progress = …` and `run.save()`. All changes of a column that one save writes are one report. */
  #checkSave(write: Write): void {
    const { row, options, isOwn } = write
    const { source, accesses } = this.#facts
    const found = findingsOfSave(this.#facts, write)
    const unreported = found.filter(({ node }) => !this.#reported.has(node))
    if (unreported.length === 0) return
    const nodes = [...accesses.changingBefore(write), ...found.map(({ node }) => node)]
    const written = isOwn ? changesOfStatements(this.#facts, write, nodes) : undefined
    const atomic = written && this.#cures.atomicStatements(written.statements, row, written.changes, options)
    const isFix = written !== undefined && isFixable(this.#facts, row, written.changes)
    const lock = this.#lock(
      write,
      unreported.map(({ column }) => column),
      unreported.map(({ node }) => node),
    )
    const columns = new Set<string>()
    for (const finding of unreported) {
      if (columns.has(finding.column)) {
        this.#reported.add(finding.node)
        continue
      }
      columns.add(finding.column)
      const remedy = written ? remedyOfChanges(source, row, written.changes) : finding.remedy()
      // The atomic call would also write what the save does not.
      this.#report(finding, remedy, finding.isSeen ? { atomic, isFix, lock } : { atomic: undefined, lock })
    }
  }

  /** A lock around a write, these nodes, and all code before it that changes the row or reads these columns. */
  #lock(write: Write, columns: readonly string[], nodes: readonly Node[]): Cure | undefined {
    const { call, row, options } = write
    const { source, accesses } = this.#facts
    if (!placeOf(source, row)) return undefined
    const declared = columns.flatMap((column) => accesses.declaredBefore(write, column))
    const before = [...accesses.changingBefore(write), ...declared, ...nodes]
    return before.length === 0
      ? this.#cures.lockCall(call, row, options)
      : this.#cures.lockStatements([...before, call], row, options)
  }

  /** Reports a node, at most once. */
  #report({ node, column, isSeen }: Finding, { call, row, name }: Remedy, { atomic, isFix, lock }: Offer): void {
    if (this.#reported.has(node)) return
    this.#reported.add(node)
    const cures = [atomic, lock].filter((cure) => cure !== undefined)
    this.#context.report({
      node,
      messageId: isSeen ? (call ? 'key' : 'document') : call ? 'unseenKey' : 'unseenDocument',
      data: { column, row, name, ...(call && { call }) },
      suggest: cures.map(({ messageId, fix }) => ({ messageId, fix })),
      ...(atomic && isFix && { fix: atomic.fix }),
    })
  }
}

/** Whether a `where` compares a value that was read: the version of the row, or the document itself. */
function isCompared(where: NodeOf<'ObjectExpression'>, column: string): boolean {
  return entriesOf(where).some(([name]) => name === column || /version|revision|updated_?at|etag/i.test(name))
}
