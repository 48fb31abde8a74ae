import { join, sep } from 'node:path'
import { unescape } from 'node:querystring'

/** Enough frames to reach the application's code through Sequelize and a few wrappers. */
const stackFrames = 50

/**
 * Captures the stack of this call. If one Sequelize method calls another, `cause` is the stack of the outer call. V8
 * formats a stack only when it is read.
 */
export function captureCallSite(cause: Error | undefined): Error {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = stackFrames
  const error = new Error('', { cause })
  Error.stackTraceLimit = stackTraceLimit
  return error
}

const internal = /^node:|[\\/]node_modules[\\/]sequelize(-typescript|-lossless)?[\\/]/

/** The build of this package, and its sources, which a stack names in place of the build under `--enable-source-maps`. */
const ownFolders = [__dirname, join(__dirname, '..', 'lib')].map((folder) => folder + sep)

/** A position in the application's code. */
export interface CallSite {
  readonly file: string
  readonly line: number
}

/**
 * The first frame that belongs to neither Sequelize, nor this library, nor Node. Prefers synchronous frames to `async`
 * ones: a caller that returned the promise is no longer on this stack, only on the earlier one.
 */
export function firstUserFrame(site: Error): CallSite | undefined {
  let awaiting: CallSite | undefined
  for (let each: unknown = site; each instanceof Error; each = each.cause) {
    const { stack } = each as { readonly stack?: unknown }
    // Error.prepareStackTrace may make another value of it.
    for (const frame of typeof stack === 'string' ? stack.split('\n').slice(1) : []) {
      // The name of a function can contain parentheses, too.
      const location = / \(((?:[\\/]|\w+:).*)\)$/.exec(frame)?.[1] ?? frame.trim().replace(/^at (async )?/, '')
      const [, place, line] = /^(.*):(\d+):\d+$/.exec(location) ?? []
      if (place === undefined) continue
      const file = pathOf(place)
      if (internal.test(file) || ownFolders.some((folder) => file.startsWith(folder))) continue
      const found = { file, line: Number(line) }
      if (!/^\s*at async /.test(frame)) return found
      awaiting ??= found
    }
  }
  return awaiting
}

/** The path of a file. A stack names ES modules by URL. It never throws, as fileURLToPath() does for a URL with a host. */
function pathOf(place: string): string {
  return place.startsWith('file://') ? unescape(place.replace(/^file:\/\/(\/(?=\w:))?/, '')) : place
}
