import type { Rule, SourceCode } from 'eslint'
import { argumentsOf, calledName, stringOf, unwrap } from './syntax.js'
import type { Node, NodeOf } from './syntax.js'

const library = 'sequelize-lossless'

/** The names that a file uses for the functions of sequelize-lossless, and the edits that import them. */
export interface Imports {
  /** Whether the file imports something of the library. */
  readonly isUsed: boolean
  local(name: string): string
  /** Imports these functions, and removes imports that only the replaced code uses. */
  edits(fixer: Rule.RuleFixer, names: readonly string[], replaced: Replaced): Rule.Fix[]
}

/** A range of the file, and the text that takes its place. */
interface Replaced {
  readonly range: readonly [number, number]
  readonly text: string
}

export function importsIn(source: SourceCode): Imports {
  const { body } = source.ast
  const declarations = body.filter((each) => each.type === 'ImportDeclaration')
  const own = declarations.find(
    (each) =>
      each.source.value === library &&
      (each as { importKind?: string }).importKind !== 'type' &&
      each.specifiers.length > 0 &&
      each.specifiers.every(({ type }) => type === 'ImportSpecifier'),
  )
  const required = body.filter(
    (each) => each.type === 'VariableDeclaration' && each.declarations.some(({ init }) => isRequire(init)),
  )
  const ownRequired = required
    .flatMap((each) => (each as NodeOf<'VariableDeclaration'>).declarations)
    .find(({ id, init }) => id.type === 'ObjectPattern' && id.properties.length > 0 && isRequire(init, library))
  const isCommonJs = declarations.length === 0 && required.length > 0

  const importedAs = (name: string): string | undefined => {
    const specifier = own?.specifiers.find(
      (each) => each.type === 'ImportSpecifier' && each.imported.type === 'Identifier' && each.imported.name === name,
    )
    if (specifier) return specifier.local.name
    const pattern = ownRequired?.id as NodeOf<'ObjectPattern'> | undefined
    for (const each of pattern?.properties ?? []) {
      if (each.type !== 'Property' || each.key.type !== 'Identifier' || each.key.name !== name) continue
      return each.value.type === 'Identifier' ? each.value.name : undefined
    }
    return undefined
  }
  const isTaken = (name: string): boolean =>
    source.scopeManager.scopes.some((scope) => scope.type !== 'global' && scope.set.has(name))
  const freeName = (name: string): string => {
    if (!isTaken(name)) return name
    let free = `${name}Json`
    for (let count = 2; isTaken(free); count++) free = `${name}Json${count}`
    return free
  }
  const local = (name: string): string => importedAs(name) ?? freeName(name)
  const spelled = (name: string): string => {
    const used = local(name)
    return used === name ? name : isCommonJs || ownRequired ? `${name}: ${used}` : `${name} as ${used}`
  }

  const insertion = (
    fixer: Rule.RuleFixer,
    missing: readonly string[],
    isKept: (node: Node) => boolean,
  ): Rule.Fix[] => {
    if (missing.length === 0) return []
    const members = own?.specifiers ?? (ownRequired?.id as NodeOf<'ObjectPattern'> | undefined)?.properties
    if (members) return [fixer.insertTextAfter(members.at(-1)!, `, ${missing.join(', ')}`)]
    const line = isCommonJs
      ? `const { ${missing.join(', ')} } = require('${library}')`
      : `import { ${missing.join(', ')} } from '${library}'`
    const others = isCommonJs ? required : declarations
    const end = others[0] && source.getText(others[0]).endsWith(';') ? ';' : ''
    const last = others.findLast(isKept)
    if (last) return [fixer.insertTextAfter(last, `\n${line}${end}`)]
    return [fixer.insertTextBeforeRange([others[0]?.range![0] ?? 0, 0], `${line}${end}\n`)]
  }

  /** The imports that only the replaced code uses: `omit` of `omit(run.progress, 'a')`. */
  const unusedOf = (declaration: NodeOf<'ImportDeclaration'>, { range, text }: Replaced): Node[] =>
    declaration.specifiers.filter((specifier) => {
      const [variable] = source.getDeclaredVariables(specifier)
      const isOnlyThere = variable?.references.every(
        ({ identifier }) => range[0] <= identifier.range![0] && identifier.range![1] <= range[1],
      )
      return variable && variable.references.length > 0 && isOnlyThere && !isNamed(variable.name, text)
    })
  /** An import without these specifiers, and with more names. */
  const rebuilt = (
    fixer: Rule.RuleFixer,
    declaration: NodeOf<'ImportDeclaration'>,
    unused: readonly Node[],
    added: readonly string[],
  ): Rule.Fix => {
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

  return {
    isUsed: Boolean(own ?? ownRequired),
    local,
    edits(fixer, names, replaced) {
      const unused = declarations
        .map((declaration) => ({ declaration, specifiers: unusedOf(declaration, replaced) }))
        .filter(({ specifiers }) => specifiers.length > 0)
      const missing = [...new Set(names)].filter((name) => importedAs(name) === undefined).map(spelled)
      const isRebuilt = unused.some(({ declaration }) => declaration === own)
      const isKept = (node: Node): boolean =>
        !unused.some(
          ({ declaration, specifiers }) => declaration === node && specifiers.length === declaration.specifiers.length,
        )
      return [
        ...insertion(fixer, isRebuilt ? [] : missing, isKept),
        ...unused.map(({ declaration, specifiers }) =>
          rebuilt(fixer, declaration, specifiers, declaration === own ? missing : []),
        ),
        ...uselessDeclarations(source, replaced).map((node) => fixer.removeRange(lineOf(source, node))),
      ]
    },
  }
}

function isRequire(init: Node | null | undefined, from?: string): boolean {
  const call = init && unwrap(init)
  if (call?.type !== 'CallExpression' || calledName(call) !== 'require') return false
  const name = stringOf(argumentsOf(call)[0])
  return from === undefined ? name !== undefined : name === from
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
      const isOnlyThere = uses.every(
        ({ identifier }) => range[0] <= identifier.range![0] && identifier.range![1] <= range[1],
      )
      return uses.length > 0 && isOnlyThere && !isNamed(name, text)
    })
  })
}

/** The range of a statement, with the rest of its line and the indent of the next one. */
function lineOf(source: SourceCode, node: Node): [number, number] {
  const [start, end] = node.range!
  const rest = /^\s*/.exec(source.text.slice(end))![0]
  return [start, end + rest.length]
}
