import { Sequelize } from 'sequelize'
import type { Options } from 'sequelize'

/** A Sequelize instance for a URL of the tests, also in a process which loads nothing else of them. */
export function connect(url: string, options: Options): Sequelize {
  const path = /^sqlite:(.*)$/.exec(url)?.[1]
  return path === undefined
    ? new Sequelize(url, options)
    : new Sequelize({ dialect: 'sqlite', storage: path, ...options })
}
