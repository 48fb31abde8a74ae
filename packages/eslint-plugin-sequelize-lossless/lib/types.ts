import type { SourceCode } from 'eslint'
import type ts from 'typescript'
import { thisOf } from './syntax.js'
import type { Node } from './syntax.js'

/** Answers from TypeScript's types; undefined if unknown: `any`, `unknown`, an undeclared name. */
export interface Types {
  /** Whether this is an instance of a Sequelize model. */
  isRow(node: Node): boolean | undefined
  /** Whether this is a Sequelize model. */
  isModel(node: Node): boolean | undefined
  /** Whether the row is one of this model. */
  isRowOf(row: Node, model: Node): boolean
  /** Whether the column holds an object or an array, not a scalar, a date or an association. */
  isDocument(row: Node, column: string): boolean | undefined
  /** The text of a method of a row, wherever the application declares it. */
  methodText(row: Node, name: string): string | undefined
  /** Whether the type of an object names its keys: not `Record<string, unknown>`. */
  hasKeys(node: Node): boolean
  /** Whether a value is a string or a boolean for certain. */
  isPlain(node: Node): boolean
  /** Whether the application imports the library, and has no text of a hook or a validator. */
  readonly isWithoutHooks: () => boolean
}

/** The part of typescript-eslint's services that is used here. */
interface Services {
  readonly program?: ts.Program | null
  readonly getTypeAtLocation: (node: Node) => ts.Type
  readonly esTreeNodeToTSNodeMap: { get(node: Node): ts.Node }
}

const notDocuments: ReadonlySet<string | undefined> = new Set([
  ...['String', 'Number', 'Boolean', 'BigInt', 'Symbol'],
  ...['Date', 'Buffer', 'Uint8Array', 'Promise', 'Function'],
])

/** @returns undefined if the parser has no project */
export function typesOf(source: SourceCode): Types | undefined {
  const services = source.parserServices as unknown as Services
  const checker = services.program?.getTypeChecker()
  if (!checker) return undefined

  const isUnknown = (type: ts.Type): boolean => ['any', 'unknown'].includes(checker.typeToString(type))
  const partsOf = (type: ts.Type): ts.Type[] => {
    const known = checker.getNonNullableType(checker.getAwaitedType(type) ?? type)
    return (known.isUnion() ? known.types : [known]).map((part) => checker.getApparentType(part))
  }
  const isInstance = (type: ts.Type): boolean =>
    ['getDataValue', 'changed', 'isNewRecord'].every((name) => type.getProperty(name))
  /** Whether a class extends an untyped value. */
  const isUntyped = ({ symbol }: ts.Type): boolean =>
    // Only the declared type has base types; the type of `this` has none.
    (symbol &&
      checker
        .getDeclaredTypeOfSymbol(symbol)
        .getBaseTypes()
        ?.some((base) => isUnknown(base) || isUntyped(base))) ??
    false
  /** Methods are declared with their class; in `step = function () { … }`, TypeScript knows no type of `this`. */
  const typeOf = (node: Node): ts.Type => {
    const type = services.getTypeAtLocation(node)
    if (node.type !== 'ThisExpression' || !isUnknown(type)) return type
    const field = (thisOf(node) as { parent?: Node }).parent
    const owner =
      field?.type === 'PropertyDefinition' ? (field as { parent?: { parent?: Node } }).parent?.parent : undefined
    return owner ? services.getTypeAtLocation(owner) : type
  }
  const instancesOf = (model: Node): ts.Type[] =>
    partsOf(services.getTypeAtLocation(model))
      .flatMap((part) => part.getConstructSignatures())
      .map((signature) => checker.getApparentType(signature.getReturnType()))

  return {
    isRow(node) {
      const type = typeOf(node)
      const parts = partsOf(type)
      if (parts.some(isInstance)) return true
      return isUnknown(type) || parts.some(isUntyped) ? undefined : false
    },
    isModel(node) {
      return isUnknown(services.getTypeAtLocation(node)) ? undefined : instancesOf(node).some(isInstance)
    },
    isRowOf(row, model) {
      const classes = instancesOf(model).map(({ symbol }) => symbol)
      return partsOf(services.getTypeAtLocation(row)).some(({ symbol }) => symbol && classes.includes(symbol))
    },
    isDocument(row, column) {
      const [property] = partsOf(typeOf(row)).flatMap((part) => part.getProperty(column) ?? [])
      if (!property) return undefined
      const type = checker.getTypeOfSymbolAtLocation(property, services.esTreeNodeToTSNodeMap.get(row))
      if (isUnknown(type)) return undefined
      // Sequelize marks non-column properties, and wraps scalars in intersections: `CreationOptional<string>`.
      return partsOf(type).some((part) => {
        if (part.getProperties().some(({ name }) => name.includes('NonAttributeBrand'))) return false
        const isScalar = (part.isIntersection() ? part.types : [part]).some((each) =>
          notDocuments.has(checker.getApparentType(each).getSymbol()?.name),
        )
        return !isScalar && part.getCallSignatures().length === 0 && !isInstance(part.getNumberIndexType() ?? part)
      })
    },
    methodText(row, name) {
      const [method] = partsOf(typeOf(row)).flatMap((part) => part.getProperty(name) ?? [])
      const [declaration] = method?.declarations ?? []
      return declaration && !declaration.getSourceFile().isDeclarationFile ? declaration.getText() : undefined
    },
    hasKeys: (node) => !checker.getIndexInfosOfType(services.getTypeAtLocation(node)).length,
    isPlain: (node) =>
      partsOf(checker.getBaseTypeOfLiteralType(services.getTypeAtLocation(node))).every((part) =>
        ['String', 'Boolean'].includes(part.getSymbol()?.name ?? ''),
      ) && !hasUndefined(services.getTypeAtLocation(node)),
    isWithoutHooks() {
      const own = services.program!.getSourceFiles().filter(({ isDeclarationFile }) => !isDeclarationFile)
      return own.some(({ text }) => usesLibrary.test(text)) && !own.some(({ text }) => hooks.test(text))
    },
  }
}

const usesLibrary = /['"]sequelize-lossless['"]/
const hooks = /\b(?:(?:before|after)(?:Update|Save|Validate)|addHook|hooks|validate)\b/i

function hasUndefined(type: ts.Type): boolean {
  // Of TypeFlags: Undefined, Null, Void.
  return (type.isUnion() ? type.types : [type]).some(({ flags }) => (flags & (32768 | 65536 | 16384)) !== 0)
}
