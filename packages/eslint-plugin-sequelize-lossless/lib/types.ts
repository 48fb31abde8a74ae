import type { SourceCode } from 'eslint'
import type ts from 'typescript'
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
  const instancesOf = (model: Node): ts.Type[] =>
    partsOf(services.getTypeAtLocation(model))
      .flatMap((part) => part.getConstructSignatures())
      .map((signature) => checker.getApparentType(signature.getReturnType()))

  return {
    isRow(node) {
      const type = services.getTypeAtLocation(node)
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
      const [property] = partsOf(services.getTypeAtLocation(row)).flatMap((part) => part.getProperty(column) ?? [])
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
  }
}
