import type { Driver } from './driver.js'
import { mariadb } from './mariadb.js'
import { mysql2 } from './mysql2.js'
import { pg } from './pg.js'

export type { Borrowed, Driver } from './driver.js'

const drivers: readonly Driver[] = [mysql2, pg, mariadb]

/** The driver of a connection. */
export function driverOf(connection: object): Driver | undefined {
  return drivers.find((driver) => driver.isConnection(connection))
}

/** Whether two connections reach the same server, as far as the driver says. */
export function reachesSame(driver: Driver, one: object, other: object): boolean {
  return driver.isConnection(other) && driver.addressOf(one) === driver.addressOf(other)
}
