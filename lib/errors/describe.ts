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

/** The text for a wrong argument in a usage error: `"progress" (string)`, `an array of 2`. */
export function describeValue(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (typeof value === 'function') return `the function ${value.name || '(anonymous)'}`
  if (Array.isArray(value)) return `an array of ${value.length}`
  return typeof value === 'object'
    ? `an instance of ${value.constructor?.name ?? 'Object'}`
    : `${shown(value)} (${typeof value})`
}

/** The text for a path in a document: `["items",matching({"id":7}),"isDone"]`. */
export function describePath(path: readonly unknown[]): string {
  const shownSteps = path.map((step) =>
    typeof step === 'object' ? `matching(${(step as { json: string }).json})` : JSON.stringify(step),
  )
  return `[${shownSteps.join()}]`
}
