import { QueryTypes } from 'sequelize'
import { append, increment, mergeJson, mergeJsonKey, remove, updateJson } from 'sequelize-lossless'
import { defineRun, documentOf, openSequelize } from './table.js'

/** What a change of a document adds to MySQL's binary log, which every replica reads and every backup keeps. */
export interface LoggedBytes {
  readonly documentBytes: number
  readonly operation: string
  /** As the server is set by default: it logs the document before, and the document after. */
  readonly byDefault: number
  /** With `binlog_row_image = MINIMAL` and `binlog_row_value_options = PARTIAL_JSON`. */
  readonly partial: number
}

const settings = {
  byDefault: `binlog_row_image = FULL, binlog_row_value_options = ''`,
  partial: `binlog_row_image = MINIMAL, binlog_row_value_options = PARTIAL_JSON`,
} as const

/** Each operation on documents of each size, alone on its connection. */
export async function measureBinaryLog(url: string, sizes: readonly number[]): Promise<LoggedBytes[]> {
  const bytes = new Map<string, { documentBytes: number; operation: string; byDefault: number; partial: number }>()
  for (const [name, setting] of Object.entries(settings)) {
    const sequelize = openSequelize(url, { pool: { max: 1 } })
    await sequelize.query(`SET SESSION ${setting}`)
    const Runs = defineRun(sequelize, 'runs')
    const position = async (): Promise<number> => {
      const [status] = await sequelize.query<{ Position: number }>('SHOW BINARY LOG STATUS', {
        type: QueryTypes.SELECT,
      })
      return status!.Position
    }
    for (const documentBytes of sizes) {
      const { id } = await Runs.create({ progress: { ...documentOf(documentBytes), n: 0, list: [], old: true } })
      const operations: Readonly<Record<string, () => Promise<unknown>>> = {
        mergeJsonKey: () => mergeJsonKey([Runs, id], 'progress', 'step_a', 'done'),
        increment: () => updateJson([Runs, id], 'progress', [increment('n')]),
        append: () => updateJson([Runs, id], 'progress', [append('list', 'done')]),
        remove: () => updateJson([Runs, id], 'progress', [remove('old')]),
        mergeJson: () => mergeJson([Runs, id], 'progress', { step_b: 'done' }),
        'read, change, save': async () => {
          const run = await Runs.findByPk(id, { rejectOnEmpty: true })
          await run.update({ progress: { ...run.progress, step_c: 'done' } })
        },
      }
      for (const [operation, run] of Object.entries(operations)) {
        const before = await position()
        await run()
        const row = `${documentBytes} ${operation}`
        const known = bytes.get(row) ?? { documentBytes, operation, byDefault: 0, partial: 0 }
        bytes.set(row, { ...known, [name]: (await position()) - before })
      }
      await Runs.destroy({ where: { id } })
    }
    await sequelize.close()
  }
  return [...bytes.values()]
}

/**
 * Drops the binary logs that were written so far, which a bench with large documents fills disks with. Only for a server
 * that is this run's own: others' backups need theirs.
 */
export async function dropBinaryLogs(url: string): Promise<void> {
  const sequelize = openSequelize(url, { pool: { max: 1 } })
  await sequelize.query('FLUSH BINARY LOGS')
  const [status] = await sequelize.query<{ File: string }>('SHOW BINARY LOG STATUS', { type: QueryTypes.SELECT })
  await sequelize.query('PURGE BINARY LOGS TO $1'.replace('$1', sequelize.escape(status!.File)))
  await sequelize.close()
}
