import type { Dialect } from '../dialects/dialect.js'
import { OutsideTransactionError } from '../errors/errors.js'
import { traceLock } from '../sequelize/channels.js'
import type { CallFacts } from '../sequelize/channels.js'
import { sequelizeInternals } from '../sequelize/internals.js'
import type { Session } from '../sequelize/session.js'
import { currentContext, runWith } from './async-context.js'
import type { WriterSlot } from './async-context.js'

/** The key of a writer queue: the file of a database, or the Sequelize instance of a database in memory. */
type Database = WriterSlot['database']

/** The last queued writer of each database. Process-wide: several Sequelize instances can open one file. */
const queues = new Map<Database, Promise<void>>()

interface Writer {
  readonly session: Session
  readonly dialect: Dialect
}

/** A call that writes. */
interface WriterCall extends Writer, CallFacts {}

/** The key of the writer queue; `undefined` if the database itself queues its writers. */
function queueOf({ session: { sequelize }, dialect }: Writer): Database | undefined {
  const database = dialect.writerQueue?.(sequelizeInternals(sequelize).options)
  return database === 'in memory' ? sequelize : database
}

function holdsSlot(database: Database): boolean {
  const { writerSlot } = currentContext()
  return writerSlot?.database === database && !writerSlot.isOver
}

/** The maximum wait for a slot, and the error after it. */
export interface SlotWait {
  readonly timeoutMs: number
  readonly error: () => Error
}

/** Runs `fn`; on a database with one writer, when no other writer of this process has a slot, in the order of calls. */
export function enqueueWriter<R>(call: WriterCall, fn: () => Promise<R>, wait?: SlotWait): Promise<R> {
  const database = queueOf(call)
  if (database === undefined) return fn()
  refuseSelfDeadlock(call)
  return runInQueue(database, fn, wait, (turn) =>
    traceLock(call, { kind: 'writer queue', timeoutMs: wait?.timeoutMs }, turn),
  )
}

/** @throws {OutsideTransactionError} the current code runs in the call that holds the slot */
export function refuseSelfDeadlock(call: WriterCall): void {
  const database = queueOf(call)
  if (database === undefined || !holdsSlot(database)) return
  throw new OutsideTransactionError(
    call.method,
    `${call.dialect.name} has one writer at a time, which is the enclosing call, so this write would wait for ever`,
    'Write after that call has returned; or pass { transaction }, the transaction of its callback, through the same Sequelize instance.',
  )
}

/**
 * Sends a statement without a transaction. A database in memory has one connection: there the statement waits until no
 * transaction is open, since it would become part of it.
 */
export function enqueueStatement<R>(session: Session, dialect: Dialect, send: () => Promise<R>): Promise<R> {
  const { sequelize } = session
  return queueOf({ session, dialect }) === sequelize && !holdsSlot(sequelize) ? runInQueue(sequelize, send) : send()
}

async function runInQueue<R>(
  database: Database,
  fn: () => Promise<R>,
  wait?: SlotWait,
  trace: (turn: () => Promise<void>) => Promise<void> = (turn) => turn(),
): Promise<R> {
  const before = queues.get(database)
  let done!: () => void
  const mine = new Promise<void>((resolve) => (done = resolve))
  queues.set(database, mine)
  const leave = (): void => {
    if (queues.get(database) === mine) queues.delete(database)
    done()
  }
  if (before) {
    await trace(async () => {
      if (!wait || (await endsWithin(before, wait.timeoutMs))) return before
      // Later writers still wait for the earlier ones.
      void before.then(leave)
      throw wait.error()
    })
  }
  const writerSlot: WriterSlot = {
    database,
    isOver: false,
    release() {
      this.isOver = true
      leave()
    },
  }
  try {
    return await runWith({ writerSlot }, fn)
  } finally {
    writerSlot.release()
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
