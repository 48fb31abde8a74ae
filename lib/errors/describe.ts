/** The model and the primary key of one row, for error texts. */
export interface RowFacts {
  readonly model: string
  readonly primaryKey: Readonly<Record<string, unknown>>
  /** The call passes over a row that its `paranoid` model has deleted. */
  readonly isParanoid?: boolean
}

/** The text for a row in an error: `WorkflowRun id=7`. */
export function describeRow(row: RowFacts): string {
  return [row.model, ...Object.entries(row.primaryKey).map(([name, value]) => `${name}=${shown(value)}`)].join(' ')
}

function shown(value: unknown): string {
  if (value instanceof Date) return value.toISOString()
  if (Buffer.isBuffer(value)) return `0x${value.toString('hex')}`
  return typeof value === 'string' ? JSON.stringify(value) : String(value)
}

/** The text for a wrong argument in a usage error: `"progress" (string)`, `an array of 2`, `an object with the keys a, b`. */
export function describeValue(value: unknown): string {
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
  return `an object with the key${keys.length === 1 ? '' : 's'} ${keys.slice(0, 5).join(', ')}${keys.length > 5 ? ', …' : ''}`
}

/** The text for a path in a document: `["items",matching({"id":7}),"isDone"]`. */
export function describePath(path: readonly unknown[]): string {
  const shownSteps = path.map((step) =>
    typeof step === 'object' ? `matching(${(step as { json: string }).json})` : JSON.stringify(step),
  )
  return `[${shownSteps.join()}]`
}
