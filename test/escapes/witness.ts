import * as sqlite3 from 'sqlite3'
import { QueryTypes } from 'sequelize'
import type { Sequelize, Transaction } from 'sequelize'
import { connect } from '../connect.js'
import type { Database } from '../each-database.js'
import { until } from '../patience.js'
import { guardedTables } from './tables.js'

/** Knows, from the server itself, which statements of one Sequelize instance were part of which transaction. */
export interface Witness {
  /** Opens the connections that are watched, and others that are not. */
  connect(): { readonly sequelize: Sequelize; readonly others: Sequelize }
  /** Is called once the tables are there. */
  begin(): Promise<void>
  /** Tells the server that `transaction` is one of a callback: what is written in any other one has escaped. */
  mark(transaction: Transaction): Promise<void>
  /** The writes since the last time that were part of no transaction of a callback; nothing may be under way. */
  escapes(): Promise<string[]>
  /** How many writes in transactions it has seen. */
  seen(): number
  end(): Promise<void>
}

const pool = { max: 12 }
const markText = 'transaction of a callback'
const flush = "SELECT 'the end of program "

export function witnessOf(database: Database): Witness {
  if (database.name === 'postgres') return postgresWitness(database)
  return database.name === 'sqlite' ? sqliteWitness(database) : generalLogWitness(database)
}

/** One session of the server, as its statements tell. */
class Session {
  readonly #escaped: (statement: string) => void
  #open: { isMarked: boolean; readonly writes: string[] } | undefined
  writes = 0

  constructor(escaped: (statement: string) => void) {
    this.#escaped = escaped
  }

  /** Reads the next statement that the session was sent. */
  read(statement: string): void {
    const isWrite =
      /^\s*(INSERT|UPDATE|DELETE|REPLACE|WITH)\b/i.test(statement) &&
      guardedTables.some((name) => statement.includes(name))
    if (/^\s*(START TRANSACTION|BEGIN)\b/i.test(statement)) {
      this.#open = { isMarked: false, writes: [] }
    } else if (/^\s*COMMIT\b/i.test(statement)) {
      const { isMarked, writes } = this.#open ?? { isMarked: true, writes: [] }
      if (!isMarked) for (const each of writes) this.#escaped(`in a transaction that no callback was given: ${each}`)
      this.#open = undefined
    } else if (/^\s*ROLLBACK\b(?! TO\b)/i.test(statement)) {
      this.#open = undefined
    } else if (statement.includes(markText)) {
      if (this.#open) this.#open.isMarked = true
    } else if (isWrite && this.#open) {
      this.writes++
      this.#open.writes.push(statement)
    } else if (isWrite) {
      this.#escaped(`outside of any transaction: ${statement}`)
    }
  }

  /** The server ended the transaction, as no statement tells. */
  ended(): void {
    this.#open = undefined
  }
}

/** A session of MySQL or MariaDB, with those of its statements, counted from 1, at which the server ended the transaction. */
interface Thread extends Session {
  readonly deadlocks: Set<number>
  /** The statements read from the log; undefined before the first that was counted. */
  statements: number | undefined
}

interface Driver {
  readonly threadId: number
  query: Send
  execute?: Send
}
type Send = (this: unknown, ...words: unknown[]) => unknown

/** Reads `mysql.general_log`, to which the server writes every statement that it is sent. */
function generalLogWitness(database: Database): Witness {
  const firstText = 'counted from here'
  const threads = new Map<number, Thread>()
  const found: string[] = []
  let admin: Sequelize
  let before: { readonly log: string | number; readonly output: string } | undefined
  let offset = 0

  /** Counts what the driver is given, and takes note of the statements that met a deadlock. */
  function watch(connection: Driver): void {
    const thread = Object.assign(new Session((text) => found.push(text)), {
      deadlocks: new Set<number>(),
      statements: undefined,
    }) as Thread
    threads.set(connection.threadId, thread)
    let sent = 0
    for (const name of ['query', 'execute'] as const) {
      const original = connection[name]
      if (!original) continue
      connection[name] = (...words) => {
        const number = ++sent
        const note = (error: unknown): void => {
          if ((error as { errno?: number } | null)?.errno === 1213) thread.deadlocks.add(number)
        }
        const callback = words.at(-1)
        if (typeof callback === 'function') {
          words[words.length - 1] = (error: unknown, ...rest: unknown[]) => {
            note(error)
            return (callback as Send)(error, ...rest)
          }
        }
        const result = original.apply(connection, words)
        // The driver of MariaDB answers with a promise.
        if (result instanceof Promise) result.catch(note)
        return result
      }
    }
  }

  async function ask<Row extends object>(sql: string): Promise<Row[]> {
    return admin.query<Row>(sql, { type: QueryTypes.SELECT })
  }

  async function setGlobal(sql: string): Promise<void> {
    try {
      await admin.query(sql)
    } catch (error) {
      throw new Error(
        `This test reads the server's general log, and its account may not switch it on. ` +
          `Give it one that may: GRANT SUPER, SYSTEM_VARIABLES_ADMIN ON *.* TO …, and SELECT, DROP ON mysql.general_log`,
        { cause: error },
      )
    }
  }

  return {
    connect() {
      admin = connect(database.url(), { logging: false, pool: { max: 1 } })
      const { sequelize } = database.connect({ pool })
      sequelize.addHook('afterConnect', async (given: unknown) => {
        const connection = given as Driver
        watch(connection)
        await new Promise<unknown>((resolve, reject) => {
          const sent = connection.query(`DO '${firstText}'`, (error: Error | null) =>
            error ? reject(error) : resolve(1),
          )
          if (sent instanceof Promise) sent.then(resolve, reject)
        })
      })
      const { sequelize: others } = database.connect({ pool })
      for (const each of [admin, others]) {
        each.addHook('afterConnect', (given: unknown) => {
          // Only to spare the log; begin() tells an account that may not.
          const sent = (given as Driver).query('SET SESSION sql_log_off = ON', () => undefined)
          if (sent instanceof Promise) sent.catch(() => undefined)
        })
      }
      return { sequelize, others }
    },
    async begin() {
      const [row] = await ask<NonNullable<typeof before>>(
        'SELECT @@global.general_log AS log, @@global.log_output AS output',
      )
      await setGlobal(`SET GLOBAL log_output = 'TABLE'`)
      before = row!
      await setGlobal('SET GLOBAL general_log = ON')
    },
    async mark(transaction) {
      await sequelizeOf(transaction).query(`SELECT '${markText}'`, { transaction, type: QueryTypes.SELECT })
    },
    async escapes() {
      const rows = await ask<{ thread: number; kind: string; text: string }>(
        `SELECT thread_id AS thread, command_type AS kind, CONVERT(argument USING utf8mb4) AS text
         FROM mysql.general_log LIMIT 1000000 OFFSET ${offset}`,
      )
      offset += rows.length
      for (const { thread: id, kind, text } of rows) {
        const thread = threads.get(id)
        if (!thread || (kind !== 'Query' && kind !== 'Execute')) continue
        if (text.includes(firstText)) thread.statements = 0
        if (thread.statements === undefined) continue
        thread.read(text)
        if (thread.deadlocks.has(++thread.statements)) thread.ended()
      }
      if (offset > 5000) {
        await admin.query('TRUNCATE TABLE mysql.general_log')
        offset = 0
      }
      return found.splice(0)
    },
    seen: () => [...threads.values()].reduce((sum, { writes }) => sum + writes, 0),
    async end() {
      if (before) {
        await admin.query(`SET GLOBAL general_log = ${Number(before.log) === 1 ? 'ON' : 'OFF'}`)
        await admin.query(`SET GLOBAL log_output = '${before.output}'`)
        await admin.query('TRUNCATE TABLE mysql.general_log')
      }
      await admin.close()
    },
  }
}

/** Has triggers write down in which transaction each row was written. */
function postgresWitness(database: Database): Witness {
  const known = new Set<string>()
  let others: Sequelize
  let last = 0
  let count = 0
  return {
    connect() {
      // Of two sessions that wait for each other the one that looks first is the victim.
      const watched = { application_name: 'watched', options: '-c deadlock_timeout=20ms' }
      const { sequelize } = database.connect({ pool, dialectOptions: watched })
      ;({ sequelize: others } = database.connect({ pool, dialectOptions: { options: '-c deadlock_timeout=60s' } }))
      return { sequelize, others }
    },
    async begin() {
      await others.query(`
        CREATE TABLE IF NOT EXISTS escape_audit (id SERIAL PRIMARY KEY, transaction TEXT NOT NULL, written TEXT NOT NULL);
        TRUNCATE escape_audit;
        CREATE OR REPLACE FUNCTION escape_audit() RETURNS trigger LANGUAGE plpgsql AS $body$
          BEGIN
            IF current_setting('application_name') = 'watched' THEN
              INSERT INTO escape_audit (transaction, written)
              VALUES (pg_current_xact_id()::text, TG_OP || ' ' || TG_TABLE_NAME || ' ' || coalesce(to_jsonb(NEW), to_jsonb(OLD))::text);
            END IF;
            RETURN NULL;
          END $body$;`)
      for (const name of guardedTables) {
        await others.query(`CREATE TRIGGER escape_audit AFTER INSERT OR UPDATE OR DELETE ON ${name}
          FOR EACH ROW EXECUTE FUNCTION escape_audit()`)
      }
    },
    async mark(transaction) {
      const [row] = await sequelizeOf(transaction).query<{ id: string }>('SELECT pg_current_xact_id()::text AS id', {
        transaction,
        type: QueryTypes.SELECT,
      })
      known.add(row!.id)
    },
    async escapes() {
      const rows = await others.query<{ id: number; transaction: string; written: string }>(
        `SELECT id, transaction, written FROM escape_audit WHERE id > ${last} ORDER BY id`,
        { type: QueryTypes.SELECT },
      )
      last = rows.at(-1)?.id ?? last
      count += rows.length
      return rows
        .filter(({ transaction }) => !known.has(transaction))
        .map(({ written }) => `in a transaction that no callback was given: ${written}`)
    },
    seen: () => count,
    end: () => Promise.resolve(),
  }
}

/** Has the library itself tell what it executes. */
function sqliteWitness(database: Database): Witness {
  const sessions: Session[] = []
  const found: string[] = []
  const flushes = new Set<string>()
  let sequelize: Sequelize
  let programs = 0
  let open = 0
  const traced: object = {
    ...sqlite3,
    Database: class extends sqlite3.Database {
      constructor(...given: ConstructorParameters<typeof sqlite3.Database>) {
        super(...given)
        this.run('PRAGMA synchronous = OFF')
        const session = new Session((text) => found.push(text))
        sessions.push(session)
        this.on('trace', (statement: string) => {
          session.read(statement)
          if (statement.startsWith(flush)) flushes.add(statement)
        })
        open++
        this.on('close', () => void open--)
      }
    },
    verbose: () => traced,
  }
  return {
    connect() {
      ;({ sequelize } = database.connect({ pool, dialectModule: traced }))
      return { sequelize, others: database.connect({ pool }).sequelize }
    },
    begin: () => Promise.resolve(),
    async mark(transaction) {
      await sequelizeOf(transaction).query(`SELECT '${markText}'`, { transaction, type: QueryTypes.SELECT })
    },
    async escapes() {
      // What is traced is told later than what was asked.
      const last = `${flush}${++programs}'`
      await sequelize.query(last)
      await until('the driver has told of every statement', () => (open <= 1 && flushes.delete(last)) || undefined, 1)
      return found.splice(0)
    },
    seen: () => sessions.reduce((sum, { writes }) => sum + writes, 0),
    end: () => Promise.resolve(),
  }
}

function sequelizeOf(transaction: Transaction): Sequelize {
  return (transaction as unknown as { sequelize: Sequelize }).sequelize
}
