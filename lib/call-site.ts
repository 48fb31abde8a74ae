/** Far enough to reach the caller's code through Sequelize's and a few wrappers. */
const stackFrames = 50

/** This place in the code; where one call of Sequelize's makes another, also that of the first. Formatted only if it is asked for. */
export function captured(cause: Error | undefined): Error {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = stackFrames
  const error = new Error('', { cause })
  Error.stackTraceLimit = stackTraceLimit
  return error
}

const internal = /^node:|[\\/]node_modules[\\/]sequelize(-typescript)?[\\/]/

interface Place {
  readonly file: string
  readonly line: number
}

/**
 * The first place on the stack that is neither Sequelize's nor this library's nor Node's. Who only awaits comes last: a
 * caller that handed a promise on is not on the stack by then, but on that of the call before.
 */
export function placeOf(site: Error): Place | undefined {
  let awaiting: Place | undefined
  for (let each: unknown = site; each instanceof Error; each = each.cause) {
    for (const frame of (each.stack ?? '').split('\n').slice(1)) {
      // The name of a function may have parentheses too.
      const place = / \(((?:[\\/]|\w+:).*)\)$/.exec(frame)?.[1] ?? frame.trim().replace(/^at (async )?/, '')
      const [, file, line] = /^(.*):(\d+):\d+$/.exec(place) ?? []
      if (file === undefined || internal.test(file) || file.startsWith(__dirname)) continue
      const found = { file, line: Number(line) }
      if (!/^\s*at async /.test(frame)) return found
      awaiting ??= found
    }
  }
  return awaiting
}
