import type { Matching, Operation } from 'sequelize-lossless'

/** A document and operations as a row of the conformance table, in TypeScript: `['{"a":1}', [increment(['a'], 1)]]`. */
export function rowSource(document: unknown, operations: readonly Operation[]): string {
  const text = document === null ? 'null' : literal(JSON.stringify(document))
  return `[${text}, [${operations.map(callSource).join(', ')}]]`
}

function callSource({ kind, path, json, key, matching: members }: Operation): string {
  const operand = members ?? (JSON.parse(json) as unknown)
  const at = `[${path.map(valueSource).join(', ')}]`
  const operands = kind === 'remove' ? [] : kind === 'append' ? (operand as unknown[]) : [operand]
  return `${kind}(${[at, ...[...(key === undefined ? [] : [key]), ...operands].map(valueSource)].join(', ')})`
}

function valueSource(value: unknown): string {
  if (typeof value === 'string') return literal(value)
  if (Array.isArray(value)) return `[${value.map(valueSource).join(', ')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  if (value.constructor.name === 'MadeMatching') return `matching(${valueSource(JSON.parse((value as Matching).json))})`
  // Written plainly, "__proto__" would set the prototype.
  const name = (key: string): string => (key === '__proto__' ? `['${key}']` : literal(key))
  const entries = Object.entries(value).map(([key, each]) => `${name(key)}: ${valueSource(each)}`)
  return `{ ${entries.join(', ')} }`
}

/** A string in single quotes. */
function literal(text: string): string {
  const inner = JSON.stringify(text).slice(1, -1)
  return `'${inner.replace(/\\.|'/g, (part) => ({ '\\"': '"', "'": "\\'" })[part] ?? part)}'`
}
