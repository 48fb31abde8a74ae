import Module from 'node:module'
import { join } from 'node:path'

/** Preloaded in each process of a lane: requires the packages of the lane in place of those of the checkout. */
const folder = process.env['LANE_FOLDER']!
const overridden = process.env['LANE_PACKAGES']!.split(',')
const checkout = join(__dirname, '..', '..', '..')

type Resolve = (request: string, parent?: { filename?: string }, isMain?: boolean, options?: object) => string
const loader = Module as unknown as { _resolveFilename: Resolve }
const resolve = loader._resolveFilename.bind(loader)

const isIn = (path: string): boolean => overridden.some((name) => path === name || path.startsWith(`${name}/`))

loader._resolveFilename = (request, parent, isMain, options) => {
  if (isIn(request)) return resolve(request, parent, isMain, { paths: [folder] })
  try {
    return resolve(request, parent, isMain, options)
  } catch (error) {
    // Sequelize requires its driver, which may be only in the checkout.
    if (!parent?.filename?.startsWith(folder) || request.startsWith('.')) throw error
    return resolve(request, parent, isMain, { paths: [checkout] })
  }
}
