import { expect } from 'chai'
import { assertNoLostUpdate, explore, replay, timeline } from 'every-order'
import type { ExploreOptions, Result } from 'every-order'

/** The columns of an account that the flows use. */
export interface Account {
  readonly balance: number
  readonly document: Readonly<Record<string, unknown>>
}

/** One way to send statements: a driver, or an ORM on a driver. `T` is its transaction. */
export interface Way<T> {
  /** What `explore` gets. */
  readonly connections: readonly object[]
  /** Runs a statement of the tests themselves. */
  run(sql: string): Promise<unknown>
  transaction(fn: (transaction: T) => Promise<void>): Promise<void>
  read(transaction: T, id: number, isLocking: boolean): Promise<Account>
  save(transaction: T, id: number, values: Partial<Account>): Promise<unknown>
  close(): Promise<unknown>
}

export type Dialect = 'mysql' | 'postgres'

const table = 'every_order_accounts'

/** The statements that make the table anew. */
function creation(dialect: Dialect): string[] {
  const id = dialect === 'mysql' ? 'INT AUTO_INCREMENT PRIMARY KEY' : 'SERIAL PRIMARY KEY'
  return [`DROP TABLE IF EXISTS ${table}`, `CREATE TABLE ${table} (id ${id}, balance INT, document JSON)`]
}

/** Adds a key to a document: the read takes a lock, or not. */
function addKey<T>(way: Way<T>, isLocking: boolean) {
  return (key: string): Promise<void> =>
    way.transaction(async (transaction) => {
      const { document } = await way.read(transaction, 1, isLocking)
      await way.save(transaction, 1, { document: { ...document, [key]: 1 } })
    })
}

/** Moves money between two accounts. */
function transfer<T>(way: Way<T>, isLocking: boolean) {
  return (_key: string, amount: number): Promise<void> =>
    way.transaction(async (transaction) => {
      const from = await way.read(transaction, 1, isLocking)
      const to = await way.read(transaction, 2, isLocking)
      await way.save(transaction, 1, { balance: from.balance - amount })
      await way.save(transaction, 2, { balance: to.balance + amount })
    })
}

/** Explores two participants that run the same flow. */
async function race<T>(
  way: Way<T>,
  flow: (key: string, amount: number) => unknown,
  options: Partial<ExploreOptions<void>> = {},
): Promise<Result & { options: ExploreOptions<void> }> {
  const setup = async (): Promise<void> => {
    await way.run(`DELETE FROM ${table}`)
    await way.run(`INSERT INTO ${table} (id, balance, document) VALUES (1, 100, '{}'), (2, 0, '{}')`)
  }
  const participants = { A: () => flow('a', 10), B: () => flow('b', 20) }
  const all = { connections: way.connections, setup, participants, ...options }
  return { ...(await explore(all)), options: all }
}

/** Defines the same lost updates and the same cures for a way, and faults if it has a pool of a driver. */
export function defineBank<T>(
  title: string,
  dialect: Dialect,
  open: () => Promise<Way<T>>,
  { hasFaults = false }: { readonly hasFaults?: boolean } = {},
): void {
  describe(title, () => {
    let way: Way<T>

    before(async () => {
      way = await open()
      for (const sql of creation(dialect)) await way.run(sql)
    })

    after(() => way.close())

    for (const [name, flow] of Object.entries({ 'a key of a document': addKey, 'a transfer': transfer })) {
      it(`loses ${name} without a lock, which a replay repeats`, async () => {
        const { verdict, reasons, schedules, first, options } = await race(way, flow(way, false))
        expect([verdict, reasons]).to.deep.equal(['lost', []])
        if (flow === addKey) {
          expect(schedules).to.equal(10)
          expect(timeline(first!)).to.match(/lost: "[ab]" of document, which [AB] wrote at \d+: [AB] overwrote it/)
        }
        expect((await replay(first!.token, options)).verdict).to.equal('lost')
      })

      it(`keeps ${name} with a locking read, in every order`, async () => {
        const result = await race(way, flow(way, true))
        assertNoLostUpdate(result)
        expect(result.isComplete).to.equal(true)
        expect(result.schedules).to.equal(flow === addKey ? 6 : 10)
      })
    }
    if (!hasFaults) return

    it('keeps or leaves out a key of a document in one transaction, after every fault', async () => {
      const result = await race(way, addKey(way, true), { faults: true, preemptions: 0 })
      assertNoLostUpdate(result)
      expect(result.faults).to.equal(84)
      for (const outcome of ['ok', 'failed', 'unknown', 'stopped'])
        expect(Object.keys(result.outcomes).join()).to.include(`A ${outcome}`)
    })

    it('finds a sum that a retry adds twice, since the answer of its COMMIT was lost', async () => {
      const change = way.transaction.bind(way, async (transaction) => {
        const { balance } = await way.read(transaction, 1, true)
        await way.save(transaction, 1, { balance: balance + 1 })
      })
      const { verdict, failures } = await race(way, () => change().catch(change), {
        faults: ['lost-commit-answer'],
        preemptions: 0,
      })
      expect(verdict).to.equal('lost')
      expect([...new Set(failures.map(({ anomaly }) => anomaly.name))]).to.deep.equal(['double write'])
    })
  })
}
