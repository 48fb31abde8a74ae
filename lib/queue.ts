import { AsyncLocalStorage } from 'node:async_hooks'
import type { Sequelize } from 'sequelize'
import type { Dialect } from './dialects/dialect.js'
import { OutsideTransactionError } from './errors/errors.js'

/** What the writers of one database stand in line for: its file, or the one connection of a database in memory. */
type Queue = string | Sequelize

interface Turn {
  readonly queue: Queue
  over: boolean
}

const queues = new Map<Queue, Promise<void>>()
const turns = new AsyncLocalStorage<Turn>()

/** The queue that the writers of this database stand in, where it does not queue them itself. */
function queueOf(sequelize: Sequelize, dialect: Dialect): Queue | undefined {
  const { options } = sequelize as unknown as { options: { storage?: string; host?: string } }
  const database = dialect.writerQueue?.(options)
  return database === 'in memory' ? sequelize : database
}

function hasTurn(queue: Queue): boolean {
  const turn = turns.getStore()
  return turn?.queue === queue && !turn.over
}

/** How long a writer waits for its turn, and the error if that was not enough. */
export interface TurnWait {
  readonly timeoutMs: number
  readonly error: () => Error
}

/** Runs `fn` when no other write of this process holds the database, in the order of calls. */
export function oneWriter<R>(
  method: string,
  sequelize: Sequelize,
  dialect: Dialect,
  fn: () => Promise<R>,
  wait?: TurnWait,
): Promise<R> {
  refuseOwnTurn(method, sequelize, dialect)
  const queue = queueOf(sequelize, dialect)
  return queue === undefined ? fn() : inTurn(queue, fn, wait)
}

/** @throws {OutsideTransactionError} the writer that this code would wait for is the call around it */
export function refuseOwnTurn(method: string, sequelize: Sequelize, dialect: Dialect): void {
  const queue = queueOf(sequelize, dialect)
  if (queue === undefined || !hasTurn(queue)) return
  throw new OutsideTransactionError(
    method,
    `${dialect.name} has one writer at a time, and it is the call around this one, so this write would wait for ever`,
    'Write after that call has returned; or, through the same Sequelize instance, pass the second argument of the callback, { transaction }.',
  )
}

/** Runs a statement in its turn, where one connection serves all: else it would fall into the transaction that is open. */
export function alone<R>(sequelize: Sequelize, dialect: Dialect, send: () => Promise<R>): Promise<R> {
  return queueOf(sequelize, dialect) === sequelize && !hasTurn(sequelize) ? inTurn(sequelize, send) : send()
}

async function inTurn<R>(queue: Queue, fn: () => Promise<R>, wait?: TurnWait): Promise<R> {
  const before = queues.get(queue)
  let done!: () => void
  const mine = new Promise<void>((resolve) => (done = resolve))
  queues.set(queue, mine)
  const leave = (): void => {
    if (queues.get(queue) === mine) queues.delete(queue)
    done()
  }
  if (before && wait && !(await endsWithin(before, wait.timeoutMs))) {
    // Those behind still wait for those in front.
    void before.then(leave)
    throw wait.error()
  }
  await before
  const turn: Turn = { queue, over: false }
  try {
    return await turns.run(turn, fn)
  } finally {
    turn.over = true
    leave()
  }
}

function endsWithin(promise: Promise<void>, milliseconds: number): Promise<boolean> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      resolve(false)
    }, milliseconds)
    void promise.then(() => {
      clearTimeout(timer)
      resolve(true)
    })
  })
}
