import type { Session, Table } from './gate.js'

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

const mysqlColumns = `
  SELECT columns.TABLE_NAME AS \`table\`, columns.COLUMN_NAME AS \`column\`, COLUMN_KEY = 'PRI' AS isKey,
         EXTRA LIKE '%auto_increment%' AS isGiven, CONCAT_WS(' ', EXTRA, COLUMN_DEFAULT) LIKE '%current_timestamp%' AS isTime,
         (SELECT MAX(REFERENCED_TABLE_NAME) FROM information_schema.KEY_COLUMN_USAGE AS keys_used
           WHERE keys_used.TABLE_SCHEMA = columns.TABLE_SCHEMA AND keys_used.TABLE_NAME = columns.TABLE_NAME
             AND keys_used.COLUMN_NAME = columns.COLUMN_NAME) AS target
    FROM information_schema.COLUMNS AS columns
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
export async function tablesOf(dialect: 'mysql' | 'postgres', session: Session): Promise<ReadonlyMap<string, Table>> {
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
