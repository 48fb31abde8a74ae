import type { Session, Table } from './gate.js'
import { plainTables } from './items.js'
import type { PlainTables, TableFacts } from './items.js'

/** A column, as the catalog of the database describes it. Numbers are truth values. */
interface Column {
  readonly table: string
  readonly column: string
  readonly isKey: number | boolean
  readonly isGiven: number | boolean
  readonly isTime: number | boolean
  /** The table that it refers to. */
  readonly target: string | null
}

// Each view of information_schema is read once: MariaDB would read it anew for each row of a correlated subquery.
const mysqlColumns = `
  SELECT columns.TABLE_NAME AS \`table\`, columns.COLUMN_NAME AS \`column\`, COLUMN_KEY = 'PRI' AS isKey,
         EXTRA LIKE '%auto_increment%' AS isGiven, CONCAT_WS(' ', EXTRA, COLUMN_DEFAULT) LIKE '%current_timestamp%' AS isTime,
         target
    FROM information_schema.COLUMNS AS columns
    LEFT JOIN (SELECT TABLE_NAME, COLUMN_NAME, MAX(REFERENCED_TABLE_NAME) AS target
                 FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA = DATABASE()
                GROUP BY TABLE_NAME, COLUMN_NAME) AS keys_used
      ON keys_used.TABLE_NAME = columns.TABLE_NAME AND keys_used.COLUMN_NAME = columns.COLUMN_NAME
   WHERE columns.TABLE_SCHEMA = DATABASE()`

const postgresColumns = `
  SELECT class.relname AS "table", attname AS "column",
         EXISTS (SELECT FROM pg_index WHERE indrelid = class.oid AND indisprimary AND attnum = ANY (indkey)) AS "isKey",
         attidentity <> '' OR pg_get_expr(adbin, adrelid) LIKE 'nextval(%' AS "isGiven",
         COALESCE(pg_get_expr(adbin, adrelid) ~* 'now\\(\\)|current_timestamp', false) AS "isTime",
         (SELECT confrelid::regclass::text FROM pg_constraint
           WHERE conrelid = class.oid AND contype = 'f' AND attnum = ANY (conkey) LIMIT 1) AS target
    FROM pg_class AS class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace AND nspname !~ '^(pg_|information_schema)'
    JOIN pg_attribute ON attrelid = class.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef ON adrelid = class.oid AND adnum = attnum
   WHERE relkind IN ('r', 'p') AND pg_table_is_visible(class.oid)`

/** The tables of the current database, by name. */
export async function tablesOf(
  dialect: 'mysql' | 'postgres',
  session: Pick<Session, 'query'>,
): Promise<ReadonlyMap<string, Table>> {
  const columns = await session.query<Column>(dialect === 'mysql' ? mysqlColumns : postgresColumns)
  const names = new Set(columns.map(({ table }) => table))
  return new Map([...names].map((name) => [name, tableOf(columns.filter(({ table }) => table === name))]))
}

function tableOf(columns: readonly Column[]): Table {
  const those = (test: (column: Column) => unknown): string[] => columns.filter(test).map(({ column }) => column)
  const targets = columns.flatMap(({ column, target }) => (target === null ? [] : [[column, target] as const]))
  return {
    keys: those(({ isKey }) => Number(isKey)).map((field) => ({ attribute: field, field })),
    given: those(({ isGiven }) => Number(isGiven)),
    times: those(({ isTime }) => Number(isTime)),
    references: new Map(targets),
    version: undefined,
  }
}

const mysqlFacts = `
  SELECT tables.TABLE_NAME AS \`table\`,
         TABLE_TYPE = 'BASE TABLE' AND ENGINE = 'InnoDB' AND triggers.TABLE_NAME IS NULL AS isPlain,
         \`key\`, COALESCE(isUnique, 0) AS isUnique, targets
    FROM information_schema.TABLES AS tables
    LEFT JOIN (SELECT DISTINCT EVENT_OBJECT_TABLE AS TABLE_NAME
                 FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = DATABASE()) AS triggers
      ON triggers.TABLE_NAME = tables.TABLE_NAME
    LEFT JOIN (SELECT TABLE_NAME, GROUP_CONCAT(IF(INDEX_NAME = 'PRIMARY', COLUMN_NAME, NULL)) AS \`key\`,
                      MAX(NON_UNIQUE = 0 AND INDEX_NAME <> 'PRIMARY') AS isUnique
                 FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE()
                GROUP BY TABLE_NAME) AS indexes
      ON indexes.TABLE_NAME = tables.TABLE_NAME
    LEFT JOIN (SELECT TABLE_NAME, GROUP_CONCAT(REFERENCED_TABLE_NAME) AS targets
                 FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA = DATABASE()
                GROUP BY TABLE_NAME) AS keys_used
      ON keys_used.TABLE_NAME = tables.TABLE_NAME
   WHERE tables.TABLE_SCHEMA = DATABASE()`

const postgresFacts = `
  SELECT class.relname AS "table",
         relkind = 'r' AND NOT relhasrules AND NOT relrowsecurity
           AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = class.oid AND NOT tgisinternal)
           AND NOT EXISTS (SELECT FROM pg_inherits WHERE class.oid IN (inhrelid, inhparent)) AS "isPlain",
         (SELECT string_agg(attname, ',') FROM pg_index
            JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
           WHERE indrelid = class.oid AND indisprimary) AS "key",
         EXISTS (SELECT FROM pg_index
                  WHERE indrelid = class.oid AND NOT indisprimary AND (indisunique OR indisexclusion)) AS "isUnique",
         (SELECT string_agg(target.relname, ',') FROM pg_constraint JOIN pg_class AS target ON target.oid = confrelid
           WHERE conrelid = class.oid AND contype = 'f') AS targets
    FROM pg_class AS class
   WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(class.oid)
     AND relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)')`

const settings = {
  mysql: `SHOW SESSION VARIABLES WHERE Variable_name IN ('autocommit', 'transaction_isolation', 'tx_isolation')`,
  postgres: `SELECT current_setting('default_transaction_isolation') AS "Value"`,
} as const

/**
 * The tables whose statements show what they use; `undefined` if a session does not commit each statement, or is SERIALIZABLE,
 * where reads may lock. An account sees only the triggers that it may change.
 */
export async function plainTablesOf(
  dialect: 'mysql' | 'postgres',
  session: Pick<Session, 'query'>,
): Promise<PlainTables | undefined> {
  const values = await session.query<{ Value: string }>(settings[dialect])
  if (values.some(({ Value }) => /^(off|0|serializable)$/i.test(Value))) return undefined
  return plainTables(dialect, await session.query<TableFacts>(dialect === 'mysql' ? mysqlFacts : postgresFacts))
}
