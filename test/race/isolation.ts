import { DataTypes, QueryTypes } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import { explore } from 'every-order'
import type { AnomalyName, Check, ExploreOptions, Result, Step } from 'every-order'

/** Sends a statement in the transaction of a participant; resolves to the rows of a SELECT. */
type Send = (sql: string) => Promise<readonly Row[]>

type Row = Readonly<Record<'id' | 'value', number>>

/** What one participant does in its transaction, and how the transaction ends. */
interface Flow {
  readonly run: (send: Send) => Promise<unknown>
  readonly end: 'COMMIT' | 'ROLLBACK'
}

/** Two or three transactions that show an anomaly if the isolation level permits it. */
export interface Program {
  /** The name in the literature on isolation levels, as Hermitage uses it. */
  readonly code: string
  readonly name: string
  /** It is the program before, written so that a low isolation level is enough. */
  readonly isCure?: boolean
  /** The statements of each participant, for the reader. */
  readonly shown: readonly string[]
  /** What the anomaly is here, for the reader. */
  readonly anomaly: string
  readonly flows: readonly Flow[]
  /** Given where orders may fail by another anomaly, too. Otherwise the end must be that of a serial order. */
  readonly check?: Check<void>
  /** The greatest number of interruptions, if it is not that of every-order. */
  readonly preemptions?: number
  /** The name that every-order gives it. */
  readonly called: AnomalyName
}

const commits = (run: Flow['run']): Flow => ({ run, end: 'COMMIT' })
const valueOf = (rows: readonly Row[]): number => rows[0]!.value
const idsOf = (rows: readonly Row[]): number[] => rows.map(({ id }) => id)

const read = (condition: string): string => `SELECT id, value FROM test WHERE ${condition}`
const one = read('id = 1')
const two = read('id = 2')
const both = 'SELECT id, value FROM test ORDER BY id'
const set = (id: number, value: number): string => `UPDATE test SET value = ${value} WHERE id = ${id}`

/** Adds to row 1 what it read before. */
const add = (amount: number, select: string = one): Flow =>
  commits(async (send) => {
    const value = valueOf(await send(select))
    await send(set(1, value + amount))
  })

/** Takes 25 from one of two rows, if both together have that. */
const withdraw = (id: number, select: string = both): Flow =>
  commits(async (send) => {
    const rows = await send(select)
    const total = rows.reduce((sum, { value }) => sum + value, 0)
    if (total >= 25) await send(set(id, rows[id - 1]!.value - 25))
  })

const multiples = read('value % 3 = 0')

/** Inserts a row, if there is none yet whose value is a multiple of 3. */
const book = (id: number, value: number, select: string = multiples): Flow =>
  commits(async (send) => {
    const found = await send(select)
    if (found.length === 0) await send(`INSERT INTO test (id, value) VALUES (${id}, ${value})`)
  })

const write = (first: number, second: number): Flow =>
  commits(async (send) => {
    await send(set(1, first))
    await send(set(2, second))
  })

/** Each anomaly, and after it the same program as one writes it for a low isolation level. */
export const programs: readonly Program[] = [
  {
    code: 'P4',
    name: 'lost update',
    shown: ['read row 1; `UPDATE` it to the value + 1', 'the same, + 2'],
    anomaly: 'one of the additions is overwritten',
    flows: [add(1), add(2)],
    called: 'lost update',
  },
  {
    code: 'P4-lock',
    name: 'with `FOR UPDATE`',
    isCure: true,
    shown: ['read row 1 `FOR UPDATE`; `UPDATE` it to the value + 1', 'the same, + 2'],
    anomaly: 'one of the additions is overwritten',
    flows: [add(1, `${one} FOR UPDATE`), add(2, `${one} FOR UPDATE`)],
    called: 'lost update',
  },
  {
    code: 'P4-one-statement',
    name: 'in one statement',
    isCure: true,
    shown: ['`UPDATE test SET value = value + 1 WHERE id = 1`', 'the same, + 2'],
    anomaly: 'one of the additions is overwritten',
    flows: [1, 2].map((amount) => commits((send) => send(`UPDATE test SET value = value + ${amount} WHERE id = 1`))),
    called: 'lost update',
  },
  {
    code: 'G2-item',
    name: 'write skew',
    shown: ['read both rows; if their sum is at least 25, take 25 from row 1', 'the same, from row 2'],
    anomaly: 'both take 25 from a sum of 30',
    flows: [withdraw(1), withdraw(2)],
    called: 'write skew',
  },
  {
    code: 'G2-item-lock',
    name: 'with `FOR UPDATE`',
    isCure: true,
    shown: ['read both rows `FOR UPDATE`; if their sum is at least 25, take 25 from row 1', 'the same, from row 2'],
    anomaly: 'both take 25 from a sum of 30',
    flows: [withdraw(1, `${both} FOR UPDATE`), withdraw(2, `${both} FOR UPDATE`)],
    called: 'write skew',
  },
  {
    code: 'G2',
    name: 'write skew on a set of rows',
    shown: ['look for rows with `value % 3 = 0`; if there is none, `INSERT` (3, 30)', 'the same, (4, 42)'],
    anomaly: 'both find none, and both insert',
    flows: [book(3, 30), book(4, 42)],
    called: 'write skew',
  },
  {
    code: 'G2-lock',
    name: 'with `FOR UPDATE`',
    isCure: true,
    shown: ['look for rows with `value % 3 = 0` `FOR UPDATE`; if there is none, `INSERT` (3, 30)', 'the same, (4, 42)'],
    anomaly: 'both find none, and both insert',
    flows: [book(3, 30, `${multiples} FOR UPDATE`), book(4, 42, `${multiples} FOR UPDATE`)],
    called: 'write skew',
  },
  {
    code: 'G-single',
    name: 'read skew',
    shown: ['read row 1; read row 2', 'write row 1; write row 2'],
    anomaly: 'A reads one row as before B, and one as after B',
    flows: [commits(async (send) => [valueOf(await send(one)), valueOf(await send(two))]), write(12, 18)],
    called: 'read skew',
  },
  {
    code: 'G-single-one-statement',
    name: 'in one `SELECT`',
    isCure: true,
    shown: ['read both rows', 'write row 1; write row 2'],
    anomaly: 'A reads one row as before B, and one as after B',
    flows: [commits(async (send) => (await send(both)).map(({ value }) => value)), write(12, 18)],
    called: 'dirty read',
  },
  {
    code: 'G-single-write',
    name: 'read skew of a write',
    shown: ['read row 1; `DELETE … WHERE value = 20`; read row 2', 'write row 1; write row 2'],
    anomaly: 'A reads row 1 as before B, and deletes as after B',
    flows: [
      commits(async (send) => {
        const first = await send(one)
        await send('DELETE FROM test WHERE value = 20')
        return [first, await send(two)].map((rows) => rows.map(({ value }) => value))
      }),
      write(12, 18),
    ],
    called: 'lost update',
  },
  {
    code: 'PMP',
    name: 'phantom',
    shown: ['look for `value = 30`; look for `value % 3 = 0`', '`INSERT` (3, 30)'],
    anomaly: 'only the second read finds the new row',
    flows: [
      commits(async (send) => {
        const first = await send(read('value = 30'))
        return [idsOf(first), idsOf(await send(multiples))]
      }),
      commits((send) => send('INSERT INTO test (id, value) VALUES (3, 30)')),
    ],
    called: 'phantom',
  },
  {
    code: 'PMP-write',
    name: 'phantom of a write',
    shown: [
      'look for `value = 20`; `DELETE … WHERE value = 20`; look for `value = 20`',
      '`UPDATE` all rows to the value + 10',
    ],
    anomaly: 'the `DELETE` finds other rows than the read',
    flows: [
      commits(async (send) => {
        const first = await send(read('value = 20'))
        await send('DELETE FROM test WHERE value = 20')
        return [idsOf(first), idsOf(await send(read('value = 20')))]
      }),
      commits((send) => send('UPDATE test SET value = value + 10')),
    ],
    called: 'check-then-act',
  },
  {
    code: 'G1a',
    name: 'dirty read, rolled back',
    shown: ['read row 1', 'write 101 to row 1; `ROLLBACK`'],
    anomaly: 'A reads 101',
    flows: [commits(async (send) => valueOf(await send(one))), { run: (send) => send(set(1, 101)), end: 'ROLLBACK' }],
    called: 'dirty read',
  },
  {
    code: 'G1b',
    name: 'dirty read, intermediate',
    shown: ['read row 1', 'write 101 to row 1; write 11 to row 1'],
    anomaly: 'A reads 101',
    flows: [
      commits(async (send) => valueOf(await send(one))),
      commits(async (send) => {
        await send(set(1, 101))
        await send(set(1, 11))
      }),
    ],
    called: 'dirty read',
  },
  {
    code: 'G1c',
    name: 'dirty read, circular',
    shown: ['write row 1; read row 2', 'write row 2; read row 1'],
    anomaly: 'each reads what the other one wrote',
    flows: [
      commits(async (send) => {
        await send(set(1, 11))
        return valueOf(await send(two))
      }),
      commits(async (send) => {
        await send(set(2, 22))
        return valueOf(await send(one))
      }),
    ],
    check(_context, _outcomes, { A, B }) {
      if (A === 22 && B === 11) throw new Error('A read what B wrote, and B read what A wrote')
    },
    called: 'dirty read',
  },
  {
    code: 'OTV',
    name: 'observed transaction vanishes',
    shown: ['write row 1; write row 2', 'the same, other values; C: read both rows'],
    anomaly: 'C reads row 1 of B, and row 2 of A',
    flows: [write(11, 19), write(12, 18), commits(async (send) => (await send(both)).map(({ value }) => value))],
    check(_context, _outcomes, { C }) {
      if (String(C) === '12,19') throw new Error('C read row 1 as B wrote it, and row 2 as A wrote it')
    },
    preemptions: 1,
    called: 'dirty read',
  },
  {
    code: 'G0',
    name: 'dirty write',
    shown: ['write row 1; write row 2', 'the same, other values'],
    anomaly: 'one row is of A, and one of B',
    flows: [write(11, 21), write(12, 22)],
    called: 'write cycle',
  },
]

/** Creates the table of the programs. */
export async function createTable(sequelize: Sequelize): Promise<void> {
  const id = { type: DataTypes.INTEGER, primaryKey: true }
  sequelize.define('test', { id, value: DataTypes.INTEGER }, { tableName: 'test', timestamps: false })
  await sequelize.sync({ force: true })
}

/** Explores a program on the connections of an instance, which have the isolation level. */
export async function exploreProgram(sequelize: Sequelize, program: Program): Promise<Result> {
  const { check } = program
  const result = await explore({ ...optionsOf(sequelize, program), ...(check && { check }) })
  if (result.verdict === 'unknown') throw new Error(`${program.code}: ${result.reasons.join('; ')}`)
  return result
}

function optionsOf(sequelize: Sequelize, { flows, preemptions = 2 }: Program): ExploreOptions<void> {
  const participant =
    ({ run, end }: Flow) =>
    async (): Promise<unknown> => {
      const transaction = (await sequelize.transaction()) as Transaction & { cleanup(): void }
      const send: Send = async (sql) => {
        if (/^SELECT/.test(sql)) return sequelize.query<Row>(sql, { type: QueryTypes.SELECT, transaction })
        await sequelize.query(sql, { transaction })
        return []
      }
      // Sequelize's own commit() prints a warning for each COMMIT that the server refuses.
      const finish = async (statement: 'COMMIT' | 'ROLLBACK'): Promise<void> => {
        await sequelize.query(statement, { transaction }).finally(() => transaction.cleanup())
      }
      let result: unknown
      try {
        result = await run(send)
      } catch (error) {
        await finish('ROLLBACK').catch(() => undefined)
        throw error
      }
      await finish(end)
      return result
    }
  return {
    sequelize,
    preemptions,
    setup: async () => {
      await sequelize.query('DELETE FROM test')
      await sequelize.query('INSERT INTO test (id, value) VALUES (1, 10), (2, 20)')
    },
    participants: Object.fromEntries(flows.map((flow, index) => ['ABC'[index]!, participant(flow)])),
  }
}

/** How a level prevents an anomaly: by errors, an older snapshot, or waits. A check that always throws makes every order available. */
export async function preventionOf(sequelize: Sequelize, program: Program): Promise<string> {
  const { failures } = await explore({
    ...optionsOf(sequelize, program),
    check() {
      throw new Error('recorded')
    },
  })
  const orders = failures.map(({ steps }) => steps)
  const errors = new Set(
    orders.flatMap((steps) => steps.flatMap(({ error }) => (error === undefined ? [] : errorOf(error)))),
  )
  if (errors.size > 0) return [...errors].sort().join(', ')
  if (orders.some((steps) => steps.some((step) => readsOlderRows(step, steps, orders)))) return 'older snapshot'
  return orders.some((steps) => steps.some(({ waitedFor }) => waitedFor.length > 0)) ? 'waits' : 'nothing conflicts'
}

const errorCodes: readonly (readonly [pattern: RegExp, code: string])[] = [
  [/Deadlock found/, 'error 1213'],
  [/Record has changed/, 'error 1020'],
  [/could not serialize/, 'error 40001'],
  [/deadlock detected/, 'error 40P01'],
  [/SQLITE_BUSY/, 'SQLITE_BUSY'],
]

function errorOf(message: string): string {
  const known = errorCodes.find(([pattern]) => pattern.test(message))
  if (!known) throw new Error(`an error that prevents no anomaly: ${message}`)
  return known[1]
}

/** Whether a read did not wait, and does not show a write of another participant that was made before, and stands. */
function readsOlderRows(read: Step, steps: readonly Step[], orders: readonly (readonly Step[])[]): boolean {
  const earlier = (step: Step, order: readonly Step[]): readonly Step[] =>
    order.filter(({ participant, number }) => participant === step.participant && number < step.number)
  // After a DELETE of its own, a read finds nothing either way.
  const isAfterDelete = earlier(read, steps).some(({ sql }) => sql.startsWith('DELETE'))
  if (read.kind !== 'read' || read.waitedFor.length > 0 || isAfterDelete || !followsWrite(read, steps)) return false
  const isSame = (step: Step, order: readonly Step[]): boolean =>
    step.participant === read.participant && earlier(step, order).length === earlier(read, steps).length
  const before = orders.flatMap((order) => order.filter((step) => isSame(step, order) && !followsWrite(step, order)))
  return before.some(({ rows }) => JSON.stringify(rows) === JSON.stringify(read.rows))
}

function followsWrite(read: Step, steps: readonly Step[]): boolean {
  const isBefore = ({ answeredAfter }: Step): boolean => answeredAfter < read.number
  return steps.some(
    (write) =>
      write.kind === 'write' &&
      write.participant !== read.participant &&
      isBefore(write) &&
      !steps.some((end) => /^ROLLBACK/.test(end.sql) && end.transaction === write.transaction && isBefore(end)),
  )
}
