import type { SourceCode } from 'eslint'
import type ts from 'typescript'
import { parentOf, thisOf } from './syntax.js'
import type { Node } from './syntax.js'

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
  return services.program ? new Types(services, services.program) : undefined
}

/** Answers from TypeScript's types; undefined if unknown: `any`, `unknown`, an undeclared name. */
export class Types {
  readonly #services: Services
  readonly #program: ts.Program
  readonly #checker: ts.TypeChecker

  constructor(services: Services, program: ts.Program) {
    this.#services = services
    this.#program = program
    this.#checker = program.getTypeChecker()
  }

  /** Whether this is an instance of a Sequelize model. */
  isRow(node: Node): boolean | undefined {
    const type = this.#typeOf(node)
    const parts = this.#partsOf(type)
    if (parts.some(isInstance)) return true
    return this.#isUnknown(type) || parts.some((part) => this.#isUntyped(part)) ? undefined : false
  }

  /** Whether this is a Sequelize model. */
  isModel(node: Node): boolean | undefined {
    return this.#isUnknown(this.#at(node)) ? undefined : this.#instancesOf(node).some(isInstance)
  }

  /** Whether the row is one of this model. */
  isRowOf(row: Node, model: Node): boolean {
    const classes = this.#instancesOf(model).map(({ symbol }) => symbol)
    return this.#partsOf(this.#at(row)).some(({ symbol }) => symbol && classes.includes(symbol))
  }

  /** Whether the column holds an object or an array, not a scalar, a date or an association. */
  isDocument(row: Node, column: string): boolean | undefined {
    const [property] = this.#propertiesOf(row, column)
    if (!property) return undefined
    const type = this.#checker.getTypeOfSymbolAtLocation(property, this.#services.esTreeNodeToTSNodeMap.get(row))
    if (this.#isUnknown(type)) return undefined
    // Sequelize marks non-column properties, and wraps scalars in intersections: `CreationOptional<string>`.
    return this.#partsOf(type).some((part) => {
      if (part.getProperties().some(({ name }) => name.includes('NonAttributeBrand'))) return false
      const isScalar = (part.isIntersection() ? part.types : [part]).some((each) =>
        notDocuments.has(this.#checker.getApparentType(each).getSymbol()?.name),
      )
      return !isScalar && part.getCallSignatures().length === 0 && !isInstance(part.getNumberIndexType() ?? part)
    })
  }

  /** The text of a method of a row, wherever the application declares it. */
  methodText(row: Node, name: string): string | undefined {
    const [method] = this.#propertiesOf(row, name)
    const [declaration] = method?.declarations ?? []
    return declaration && !declaration.getSourceFile().isDeclarationFile ? declaration.getText() : undefined
  }

  /** Whether the type of an object names its keys: not `Record<string, unknown>`. */
  hasKeys(node: Node): boolean {
    return this.#checker.getIndexInfosOfType(this.#at(node)).length === 0
  }

  /** Whether a value is a string or a boolean for certain. */
  isPlain(node: Node): boolean {
    const type = this.#at(node)
    const isPlain = this.#partsOf(this.#checker.getBaseTypeOfLiteralType(type)).every((part) =>
      ['String', 'Boolean'].includes(part.getSymbol()?.name ?? ''),
    )
    return isPlain && !hasUndefined(type)
  }

  /** Whether the application imports the library, and has no text of a hook or a validator. */
  isWithoutHooks(): boolean {
    const own = this.#program.getSourceFiles().filter(({ isDeclarationFile }) => !isDeclarationFile)
    return own.some(({ text }) => usesLibrary.test(text)) && !own.some(({ text }) => hooks.test(text))
  }

  #at(node: Node): ts.Type {
    return this.#services.getTypeAtLocation(node)
  }

  /** The type of a row. In `step = function () { … }`, TypeScript knows no type of `this`: it is that of the class. */
  #typeOf(node: Node): ts.Type {
    const type = this.#at(node)
    if (node.type !== 'ThisExpression' || !this.#isUnknown(type)) return type
    const field = parentOf(thisOf(node))
    const body = field?.type === 'PropertyDefinition' ? parentOf(field) : undefined
    const owner = body && parentOf(body)
    return owner ? this.#at(owner) : type
  }

  /** The types of a union, without `null`, `undefined` and promises. */
  #partsOf(type: ts.Type): ts.Type[] {
    const known = this.#checker.getNonNullableType(this.#checker.getAwaitedType(type) ?? type)
    return (known.isUnion() ? known.types : [known]).map((part) => this.#checker.getApparentType(part))
  }

  #propertiesOf(row: Node, name: string): ts.Symbol[] {
    return this.#partsOf(this.#typeOf(row)).flatMap((part) => part.getProperty(name) ?? [])
  }

  /** The types of the instances of a class. */
  #instancesOf(model: Node): ts.Type[] {
    return this.#partsOf(this.#at(model))
      .flatMap((part) => part.getConstructSignatures())
      .map((signature) => this.#checker.getApparentType(signature.getReturnType()))
  }

  #isUnknown(type: ts.Type): boolean {
    return ['any', 'unknown'].includes(this.#checker.typeToString(type))
  }

  /** Whether a class extends an untyped value. */
  #isUntyped({ symbol }: ts.Type): boolean {
    // Only the declared type has base types; the type of `this` has none.
    const bases = symbol && this.#checker.getDeclaredTypeOfSymbol(symbol).getBaseTypes()
    return bases?.some((base) => this.#isUnknown(base) || this.#isUntyped(base)) ?? false
  }
}

function isInstance(type: ts.Type): boolean {
  return ['getDataValue', 'changed', 'isNewRecord'].every((name) => type.getProperty(name))
}

const usesLibrary = /['"]sequelize-lossless['"]/
const hooks = /\b(?:(?:before|after)(?:Update|Save|Validate)|addHook|hooks|validate)\b/i

function hasUndefined(type: ts.Type): boolean {
  // Of TypeFlags: Undefined, Null, Void.
  return (type.isUnion() ? type.types : [type]).some(({ flags }) => (flags & (32768 | 65536 | 16384)) !== 0)
}
