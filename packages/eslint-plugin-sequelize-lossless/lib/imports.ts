import type { Rule, SourceCode } from 'eslint'
import { argumentsOf, calledName, stringOf, unwrap } from './syntax.js'
import type { Node, NodeOf } from './syntax.js'

const library = 'sequelize-lossless'

type Import = NodeOf<'ImportDeclaration'>

/** A range of the file, and the text that takes its place. */
interface Replaced {
  readonly range: readonly [number, number]
  readonly text: string
}

/** The names that a file uses for the functions of sequelize-lossless, and the edits that import them. */
export class Imports {
  readonly #source: SourceCode
  readonly #imports: readonly Import[]
  /** The declarations with a `require()`. */
  readonly #requires: readonly NodeOf<'VariableDeclaration'>[]
  /** `import { set } from 'sequelize-lossless'`. */
  readonly #own: Import | undefined
  /** `{ set }` of `const { set } = require('sequelize-lossless')`. */
  readonly #ownPattern: NodeOf<'ObjectPattern'> | undefined

  constructor(source: SourceCode) {
    const { body } = source.ast
    this.#source = source
    this.#imports = body.filter((each) => each.type === 'ImportDeclaration')
    this.#requires = body
      .filter((each) => each.type === 'VariableDeclaration')
      .filter(({ declarations }) => declarations.some(({ init }) => isRequire(init)))
    this.#own = this.#imports.find(isOwn)
    this.#ownPattern = this.#requires
      .flatMap(({ declarations }) => declarations)
      .flatMap(({ id, init }) => (id.type === 'ObjectPattern' && isRequire(init, library) ? [id] : []))
      .find(({ properties }) => properties.length > 0)
  }

  /** The name of a function of the library in this file; a name that is free if the file does not import it. */
  local(name: string): string {
    return this.#importedAs(name) ?? this.#freeName(name)
  }

  /** Imports these functions, and removes imports that only the replaced code uses. */
  edits(fixer: Rule.RuleFixer, names: readonly string[], replaced: Replaced): Rule.Fix[] {
    const unused = this.#imports
      .map((declaration) => ({ declaration, specifiers: this.#unusedOf(declaration, replaced) }))
      .filter(({ specifiers }) => specifiers.length > 0)
    const missing = [...new Set(names)].filter((name) => this.#importedAs(name) === undefined)
    const added = missing.map((name) => this.#spelled(name))
    const isRebuilt = unused.some(({ declaration }) => declaration === this.#own)
    const isKept = (node: Node): boolean =>
      !unused.some(
        ({ declaration, specifiers }) => declaration === node && specifiers.length === declaration.specifiers.length,
      )
    return [
      ...(isRebuilt || added.length === 0 ? [] : [this.#insertion(fixer, added, isKept)]),
      ...unused.map(({ declaration, specifiers }) =>
        this.#rebuilt(fixer, declaration, specifiers, declaration === this.#own ? added : []),
      ),
      ...uselessDeclarations(this.#source, replaced).map((node) => fixer.removeRange(lineOf(this.#source, node))),
    ]
  }

  #importedAs(name: string): string | undefined {
    const specifier = this.#own?.specifiers.find(
      (each) => each.type === 'ImportSpecifier' && each.imported.type === 'Identifier' && each.imported.name === name,
    )
    if (specifier) return specifier.local.name
    const property = this.#ownPattern?.properties.find(
      (each) => each.type === 'Property' && each.key.type === 'Identifier' && each.key.name === name,
    )
    return property?.type === 'Property' && property.value.type === 'Identifier' ? property.value.name : undefined
  }

  #freeName(name: string): string {
    if (!this.#isTaken(name)) return name
    let free = `${name}Json`
    for (let count = 2; this.#isTaken(free); count++) free = `${name}Json${count}`
    return free
  }

  #isTaken(name: string): boolean {
    return this.#source.scopeManager.scopes.some((scope) => scope.type !== 'global' && scope.set.has(name))
  }

  get #isCommonJs(): boolean {
    return this.#imports.length === 0 && this.#requires.length > 0
  }

  /** `set`, or `set as setJson` if the name is taken. */
  #spelled(name: string): string {
    const used = this.local(name)
    if (used === name) return name
    return this.#isCommonJs || this.#ownPattern ? `${name}: ${used}` : `${name} as ${used}`
  }

  /** More names in the import of the library, or a new one. */
  #insertion(fixer: Rule.RuleFixer, names: readonly string[], isKept: (node: Node) => boolean): Rule.Fix {
    const shown = names.join(', ')
    const members = this.#own?.specifiers ?? this.#ownPattern?.properties
    if (members) return fixer.insertTextAfter(members.at(-1)!, `, ${shown}`)
    const line = this.#isCommonJs
      ? `const { ${shown} } = require('${library}')`
      : `import { ${shown} } from '${library}'`
    const others = this.#isCommonJs ? this.#requires : this.#imports
    const end = others[0] && this.#source.getText(others[0]).endsWith(';') ? ';' : ''
    const last = others.findLast(isKept)
    return last
      ? fixer.insertTextAfter(last, `\n${line}${end}`)
      : fixer.insertTextBeforeRange([others[0]?.range![0] ?? 0, 0], `${line}${end}\n`)
  }

  /** The imports that only the replaced code uses: `omit` of `omit(run.progress, 'a')`. */
  #unusedOf(declaration: Import, { range, text }: Replaced): Node[] {
    return declaration.specifiers.filter((specifier) => {
      const [variable] = this.#source.getDeclaredVariables(specifier)
      if (!variable || variable.references.length === 0) return false
      return variable.references.every(({ identifier }) => isWithin(range, identifier)) && !isNamed(variable.name, text)
    })
  }

  /** An import without these specifiers, and with more names. */
  #rebuilt(fixer: Rule.RuleFixer, declaration: Import, unused: readonly Node[], added: readonly string[]): Rule.Fix {
    const source = this.#source
    const [first] = declaration.specifiers
    const kept = declaration.specifiers.filter((specifier) => !unused.includes(specifier))
    if (kept.length + added.length === 0) {
      const [start, end] = declaration.range!
      return fixer.removeRange([start, source.text[end] === '\n' ? end + 1 : end])
    }
    const isMember = ({ type }: Node): boolean => type === 'ImportSpecifier'
    const members = [...kept.filter(isMember).map((each) => source.getText(each)), ...added]
    const shown = kept.filter((each) => !isMember(each)).map((each) => source.getText(each))
    if (members.length > 0) shown.push(`{ ${members.join(', ')} }`)
    const [start] = isMember(first!) ? source.getTokenBefore(first!)!.range : first!.range!
    const [, end] = source.getTokenBefore(source.getTokenBefore(declaration.source)!)!.range
    return fixer.replaceTextRange([start, end], shown.join(', '))
  }
}

/** Whether it is `import { … } from 'sequelize-lossless'`, and not of types. */
function isOwn(declaration: Import): boolean {
  return (
    declaration.source.value === library &&
    (declaration as { importKind?: string }).importKind !== 'type' &&
    declaration.specifiers.length > 0 &&
    declaration.specifiers.every(({ type }) => type === 'ImportSpecifier')
  )
}

function isRequire(init: Node | null | undefined, from?: string): boolean {
  const call = init && unwrap(init)
  if (call?.type !== 'CallExpression' || calledName(call) !== 'require') return false
  const name = stringOf(argumentsOf(call)[0])
  return from === undefined ? name !== undefined : name === from
}

function isWithin([start, end]: readonly [number, number], { range }: Pick<Node, 'range'>): boolean {
  return start <= range![0] && range![1] <= end
}

/** Whether a text uses this name, other than as a key: `progress` of `{ progress: 1 }`. */
function isNamed(name: string, text: string): boolean {
  return text
    .replaceAll(/[\w$]+:/g, '')
    .split(/[^\w$]+/)
    .includes(name)
}

/** `const { progress } = run` of which only the replaced code uses `progress`. */
function uselessDeclarations(source: SourceCode, { range, text }: Replaced): Node[] {
  const declarations = source.scopeManager.scopes.flatMap(({ variables }) => variables.flatMap(({ defs }) => defs))
  const statements = new Set(
    declarations.flatMap(({ type, parent }) => (type === 'Variable' && parent ? [parent as Node] : [])),
  )
  return [...statements].filter((statement) => {
    if (statement.type !== 'VariableDeclaration' || statement.declarations.length > 1) return false
    const [{ init }] = statement.declarations as [NodeOf<'VariableDeclarator'>]
    const isPure = init && ['Identifier', 'MemberExpression', 'ThisExpression'].includes(unwrap(init).type)
    if (!isPure || statement.range![1] > range[0]) return false
    return source.getDeclaredVariables(statement).every(({ name, references }) => {
      const uses = references.filter(({ init: isInit }) => !isInit)
      return uses.length > 0 && uses.every(({ identifier }) => isWithin(range, identifier)) && !isNamed(name, text)
    })
  })
}

/** The range of a statement, with the rest of its line and the indent of the next one. */
function lineOf(source: SourceCode, node: Node): [number, number] {
  const [start, end] = node.range!
  const rest = /^\s*/.exec(source.text.slice(end))![0]
  return [start, end + rest.length]
}
