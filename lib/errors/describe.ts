import { inspect } from 'node:util'

/** The model and the primary key of one row, for error texts. */
export interface RowFacts {
  readonly model: string
  readonly primaryKey: Readonly<Record<string, unknown>>
  /** The call passes over a row that its `paranoid` model has deleted. */
  readonly isParanoid?: boolean
  /** A scope of the model may hide the row from its finders; a call by key finds it. */
  readonly isScoped?: boolean
  /** The target of the call was an instance, which the code in error texts names `row`. */
  readonly hasInstance?: boolean
  readonly option?: TransactionOption | undefined
}

/** The option with which another call takes part in the transaction of the failed call; `undefined` if it needs none. */
export type TransactionOption = 'transaction' | 'transaction: null'

/** The text for a row in an error: `WorkflowRun id=7`. */
export function describeRow(row: RowFacts): string {
  return [row.model, ...Object.entries(row.primaryKey).map(([name, value]) => `${name}=${shown(value)}`)].join(' ')
}

/** The code of a call of a function on the row of a failed call: `await withLock([WorkflowRun, 7], async (row) => …)`. */
export function callOf(row: RowFacts, method: string, args: string): string {
  const target = row.hasInstance ? 'row' : `[${codeOfModel(row.model)}, ${codeOfKey(row)}]`
  return `await ${method}(${argumentsOf(row.option, target, args)})`
}

/** The code of arguments, with the options last: `row, fn, { transaction }`. */
export function argumentsOf(option: TransactionOption | undefined, ...args: readonly string[]): string {
  return [...args, ...(option === undefined ? [] : [`{ ${option} }`])].join(', ')
}

/** The code of options: `{ where: { id: 7 }, transaction }`. */
export function optionsOf(option: TransactionOption | undefined, ...others: readonly string[]): string {
  return `{ ${[...others, ...(option === undefined ? [] : [option])].join(', ')} }`
}

/** The code of the primary key of a row: `7`, or `{ tenantId: 1, name: 'theme' }`. */
export function codeOfKey({ primaryKey }: RowFacts): string {
  const [value, ...others] = Object.values(primaryKey)
  if (value === undefined) return 'primaryKey'
  return others.length === 0 ? codeOf(value) : codeOfWhere(primaryKey)
}

/** The code of conditions for a row by its primary key: `{ id: 7 }`. */
export function codeOfWhere(primaryKey: RowFacts['primaryKey']): string {
  return `{ ${Object.entries(primaryKey)
    .map(([name, value]) => `${keyOf(name)}: ${codeOf(value)}`)
    .join(', ')} }`
}

export function codeOf(value: unknown): string {
  if (value instanceof Date) return `new Date('${value.toISOString()}')`
  if (!(value instanceof Uint8Array)) return inspect(value)
  return `Buffer.from('${Buffer.from(value).toString('hex')}', 'hex')`
}

function isIdentifier(attribute: string): boolean {
  return /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(attribute)
}

/** The words that no variable can have as its name, in strict code and in async functions. */
const reservedWords: ReadonlySet<string> = new Set(
  (
    'arguments await break case catch class const continue debugger default delete do else enum eval export extends false ' +
    'finally for function if implements import in instanceof interface let new null package private protected public ' +
    'return static super switch this throw true try typeof var void while with yield'
  ).split(' '),
)

function isVariable(name: string): boolean {
  return isIdentifier(name) && !reservedWords.has(name)
}

/** The code of a model: `WorkflowRun`, `sequelize.models["workflow-run"]`. */
export function codeOfModel(name: string): string {
  return isVariable(name) ? name : `sequelize.models[${JSON.stringify(name)}]`
}

/** The code of the model of a row, whose finders find it: `User`, `User.unscoped()`. */
export function codeOfFinder({ model, isScoped = false }: RowFacts): string {
  return `${codeOfModel(model)}${isScoped ? '.unscoped()' : ''}`
}

/** The code that reads an attribute: `row.progress`, `row["last-run"]`. */
export function accessOf(attribute: string): string {
  return isIdentifier(attribute) ? `row.${attribute}` : `row[${JSON.stringify(attribute)}]`
}

/** Whether reads and assignments of an attribute convert the text of its document. */
export interface Accessors {
  readonly isParsed: boolean
  readonly isSpelled: boolean
}

/**
 * The code that changes the document of an attribute: `row.stats = { value: row.stats }`. If the attribute is the text itself, the
 * code puts it into another text, with all its digits.
 * @param change the code of the new document, from the code of the old one
 * @param inText the same for the text of a document
 */
export function replacementOf(
  attribute: string,
  change: (document: string) => string,
  inText: (text: string) => string,
  { isParsed, isSpelled }: Accessors,
): string {
  const value = accessOf(attribute)
  if (!isParsed && !isSpelled) return `${value} = \`${inText(`\${${value}}`)}\``
  const changed = change(isParsed ? value : `JSON.parse(${value})`)
  return `${value} = ${isSpelled ? changed : `JSON.stringify(${changed})`}`
}

/** The code of an attribute as the key of an object: `progress`, `"last-run"`. */
export function keyOf(attribute: string): string {
  return isIdentifier(attribute) ? attribute : JSON.stringify(attribute)
}

/** The code of a variable with the value of an attribute: `id`; `…` if no variable can have that name. */
export function variableOf(attribute: string): string {
  return isVariable(attribute) ? attribute : '…'
}

/** The code of an object with the values of attributes in variables: `{ tenantId, "order-id": orderId }`. */
export function variablesOf(attributes: readonly string[]): string {
  const used = new Set<string>()
  const members = attributes.map((attribute) => {
    const variable = newVariable(attribute, used)
    used.add(variable)
    return variable === attribute ? attribute : `${keyOf(attribute)}: ${variable}`
  })
  return `{ ${members.join(', ')} }`
}

/** A name for a variable with the value of an attribute, that is not in use. */
function newVariable(attribute: string, used: ReadonlySet<string>): string {
  const camelCase = attribute.replace(/[^\p{ID_Continue}$]+(.?)/gu, (_, first: string) => first.toUpperCase())
  let name = isIdentifier(camelCase) ? camelCase : `_${camelCase}`
  while (used.has(name) || !isVariable(name)) name += '_'
  return name
}

/** The start of a text that may have megabytes. */
export function shorten(text: string, length = 200): string {
  return text.length > length ? `${text.slice(0, length)}…` : text
}

function shown(value: unknown): string {
  if (value instanceof Date) return value.toISOString()
  if (value instanceof Uint8Array) return `0x${Buffer.from(value).toString('hex')}`
  return typeof value === 'string' ? JSON.stringify(shorten(value)) : String(value)
}

/** The text for a wrong argument in a usage error: `"progress" (string)`, `an array of 2`, `an object with the keys a, b`. */
export function describeValue(value: unknown): string {
  try {
    return describe(value)
  } catch {
    return 'an object that cannot be read'
  }
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (typeof value === 'function') return `the function ${value.name || '(anonymous)'}`
  if (Array.isArray(value)) return value.length === 0 ? 'an empty array' : `an array of ${value.length}`
  if (typeof value !== 'object') return `${shown(value)} (${typeof value})`
  const { name = 'Object' } = (value.constructor ?? {}) as { readonly name?: string }
  // Made by a constructor of this library, whose classes have no public name.
  if (/^Made(Condition|Operation)$/.test(name)) return `one ${name.slice('Made'.length).toLowerCase()}`
  if (name !== 'Object') return `an instance of ${name || Object.prototype.toString.call(value).slice(8, -1)}`
  const keys = Object.keys(value)
  if (keys.length === 0) return 'an empty object'
  return `an object with the key${keys.length === 1 ? '' : 's'} ${shorten(keys.slice(0, 5).join(', '))}${keys.length > 5 ? ', …' : ''}`
}

/** The text for a path in a document: `["items",matching({"id":7}),"isDone"]`. */
export function describePath(path: readonly unknown[]): string {
  const shownSteps = path.map((step) =>
    typeof step === 'object'
      ? `matching(${shorten((step as { json: string }).json)})`
      : JSON.stringify(typeof step === 'string' ? shorten(step) : step),
  )
  return `[${shownSteps.join()}]`
}

/** A condition on a document, for error texts. */
export interface ConditionFacts {
  readonly kind: string
  readonly path: readonly (string | number | object)[]
  readonly json: string
  readonly isNegated?: boolean
}

/** The text for a condition: `not(equals(["state"], "new"))`. */
export function describeCondition({ kind, path, json, isNegated }: ConditionFacts): string {
  const operand = kind === 'exists' || kind === 'absent' ? '' : `, ${shorten(json)}`
  const plain = `${kind}(${describePath(path)}${operand})`
  return isNegated ? `not(${plain})` : plain
}
