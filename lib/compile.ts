import { randomUUID } from 'node:crypto'
import type { Bind, Change, Column, Form } from './dialects/index.js'
import { isInteger, pathText } from './json/encode.js'
import type { Kind } from './json/values.js'
import type { Operation } from './json/operation.js'

type Write = ReturnType<Form>

/** What a form makes of every operation of one shape: the text, and where its binds come from. */
interface Compiled {
  readonly write: Write
  /** `undefined` where the form binds something else than {@link sources} have. */
  readonly sources: readonly Source[] | undefined
}

type Source = (operation: Operation) => string

/** All that a form may bind of an operation at a path of `length` keys. */
function sources(length: number): Source[] {
  const ofPath = Array.from({ length }, (_, depth): Source[] => [
    ({ path }) => pathText(path.slice(0, depth + 1)),
    ({ path }) => path[depth]!,
  ])
  const ofOperand: Source[] = [
    ({ json }) => json,
    ({ json }) => `[${json}]`,
    ({ path, json }) => `{${JSON.stringify(path.at(-1))}:${json}}`,
  ]
  return [...ofOperand, ...ofPath.flat()]
}

/** Those whose operand has a part in the text. */
const spelledOut: readonly Kind[] = ['merge', 'rename']

const compiled = new WeakMap<Form, Map<string, Compiled>>()

/**
 * A form's text for a change, whose values are bound as the first ones of their statement. The text of a single operation
 * depends on its kind, the length of its path and whether its operand is an integer: it is compiled once, and used again
 * for other keys and values.
 */
export function compile(form: Form, change: Change, column: Column, bind: Bind): Write {
  const [operation] = change.operations
  if (!operation || !isKept(change, operation)) return form(change, column, bind)
  const { kind, path, json } = operation
  const shape = `${kind} ${path.length} ${isInteger(json)} ${column.type} ${column.sql}`
  const shapes = compiled.get(form) ?? new Map<string, Compiled>()
  const known = shapes.get(shape) ?? compileSpecimen(form, operation, column)
  if (!shapes.has(shape)) compiled.set(form, shapes.set(shape, known))
  if (!known.sources) return form(change, column, bind)
  for (const source of known.sources) bind(source(operation))
  return known.write
}

/** Longer paths are rare, and would be many. */
const maxKeys = 8

function isKept({ operations, conditions }: Change, { kind, path }: Operation): boolean {
  return operations.length === 1 && conditions.length === 0 && path.length <= maxKeys && !spelledOut.includes(kind)
}

/** By an operation of the same shape, in which nothing equals anything else, it is seen where each bind comes from. */
function compileSpecimen(form: Form, { kind, path, json }: Operation, column: Column): Compiled {
  const operand = isInteger(json) ? String(BigInt(`0x${randomUUID().replaceAll('-', '')}`)) : `"${randomUUID()}"`
  const specimen: Operation = { kind, path: path.map(() => randomUUID()), json: operand }
  const binds: string[] = []
  const write = form({ operations: [specimen], conditions: [] }, column, (text) => `$${binds.push(text)}`)
  const all = sources(path.length)
  const found = binds.map((text) => all.find((source) => source(specimen) === text))
  const isFound = (each: Source | undefined): each is Source => each !== undefined
  return { write, sources: found.every(isFound) ? found : undefined }
}
