import { literal, OptimisticLockError, Transaction } from 'sequelize'
import type { Sequelize } from 'sequelize'
import {
  append,
  compareAndSetJson,
  increment,
  lock,
  mergeJson,
  mergeJsonKey,
  retryTransaction,
  updateJson,
  withLock,
  withLocks,
  withOptimisticLock,
} from 'sequelize-lossless'
import type { Progress, WorkflowRun } from '../workflow-run.js'

/** What a program works with: rows 0 to 2 of the run, and row 3, which is that of a model with `version: true`. */
interface Rows {
  readonly sequelize: Sequelize
  readonly Runs: typeof WorkflowRun
  readonly Versioned: typeof WorkflowRun
  readonly ids: readonly number[]
}

/** Adds its key to the document of row 0; or does not, in some order. */
type Program = (rows: Rows, key: string) => Promise<unknown>

const withKey = (progress: Progress | null, key: string): { progress: Progress } => ({
  progress: { ...progress, [key]: 1 },
})

async function load(Runs: typeof WorkflowRun, id: number, transaction?: Transaction): Promise<WorkflowRun> {
  return Runs.findByPk(id, { rejectOnEmpty: true, ...(transaction && { transaction }) })
}

/** Programs that lose a key in some order of their statements. */
export const bad: Record<string, Program> = {
  async 'read, change, save'({ Runs, ids }, key) {
    const run = await load(Runs, ids[0]!)
    await run.update(withKey(run.progress, key))
  },
  'the same in a transaction': ({ sequelize, Runs, ids }, key) =>
    sequelize.transaction(async (transaction) => {
      const run = await load(Runs, ids[0]!, transaction)
      await run.update(withKey(run.progress, key), { transaction })
    }),
  async 'a lock outside of a transaction'({ Runs, ids }, key) {
    const run = await Runs.findByPk(ids[0]!, { rejectOnEmpty: true, lock: true })
    await run.update(withKey(run.progress, key))
  },
  async 'a read before the lock'({ Runs, ids }, key) {
    const before = await load(Runs, ids[0]!)
    await withLock([Runs, ids[0]!], (run) => run.update(withKey(before.progress, key)))
  },
  'a plain read of an old snapshot under the lock': ({ sequelize, Runs, ids }, key) =>
    sequelize.transaction({ isolationLevel: Transaction.ISOLATION_LEVELS.REPEATABLE_READ }, async (transaction) => {
      await load(Runs, ids[1]!, transaction)
      await Runs.findByPk(ids[0], { attributes: ['id'], lock: true, transaction })
      const run = await load(Runs, ids[0]!, transaction)
      await run.update(withKey(run.progress, key), { transaction })
    }),
  'a locking read that was not told of its transaction': ({ sequelize, Runs, ids }, key) =>
    sequelize.transaction(async (transaction) => {
      const run = await Runs.findByPk(ids[0]!, { rejectOnEmpty: true, lock: transaction.LOCK.UPDATE })
      await run.update(withKey(run.progress, key), { transaction })
    }),
  async 'a retry with what was read first'({ Versioned, ids }, key) {
    const run = await load(Versioned, ids[3]!)
    await run.update(withKey(run.progress, key)).catch(async (error: unknown) => {
      if (!(error instanceof OptimisticLockError)) throw error
      const fresh = await load(Versioned, ids[3]!)
      await fresh.update(
        withKey((run as unknown as { _previousDataValues: WorkflowRun })._previousDataValues.progress, key),
      )
    })
  },
  async 'a write after the commit'({ sequelize, Runs, ids }, key) {
    const run = await sequelize.transaction(async (transaction) =>
      Runs.findByPk(ids[0]!, { rejectOnEmpty: true, lock: true, transaction }),
    )
    await run.update(withKey(run.progress, key))
  },
  async 'a version check that ignores its row count'({ Versioned, ids }, key) {
    const run = await load(Versioned, ids[3]!)
    const { version } = run as unknown as { version: number }
    await Versioned.update({ ...withKey(run.progress, key), version: version + 1 } as never, {
      where: { id: run.id, version } as never,
    })
  },
  'a lock on the wrong row': ({ sequelize, Runs, ids }, key) =>
    sequelize.transaction(async (transaction) => {
      await Runs.findByPk(ids[key === 'a' ? 1 : 2], { lock: true, transaction })
      const run = await load(Runs, ids[0]!, transaction)
      await run.update(withKey(run.progress, key), { transaction })
    }),
  'a swallowed deadlock': ({ sequelize, Runs, ids }, key) =>
    sequelize
      .transaction(async (transaction) => {
        for (const index of key === 'a' ? [0, 1] : [1, 0]) {
          await mergeJsonKey([Runs, ids[index]!], 'progress', key, 1, { transaction })
        }
      })
      .catch(() => undefined),
  async 'a bulk update that skips the version'({ Versioned, ids }, key) {
    const run = await load(Versioned, ids[3]!)
    await Versioned.update(withKey(run.progress, key), { where: { id: run.id } })
  },
  async 'a save of the instance from outside of the lock'({ sequelize, Runs, ids }, key) {
    const outer = await load(Runs, ids[0]!)
    await sequelize.transaction(async (transaction) => {
      await Runs.findByPk(ids[0], { transaction, lock: true })
      await outer.update(withKey(outer.progress, key), { transaction })
    })
  },
}

/** Programs that lose nothing in any order; some look as if they did. */
export const good: Record<string, Program> = {
  withLock: ({ Runs, ids }, key) => withLock([Runs, ids[0]!], (run) => run.update(withKey(run.progress, key))),
  mergeJsonKey: ({ Runs, ids }, key) => mergeJsonKey([Runs, ids[0]!], 'progress', key, 1),
  mergeJson: ({ Runs, ids }, key) => mergeJson([Runs, ids[0]!], 'progress', { [key]: 1 }),
  updateJson: ({ Runs, ids }, key) => updateJson([Runs, ids[0]!], 'progress', [increment(key), append('log', key)]),
  'mergeJsonKey, returning': ({ Runs, ids }, key) =>
    mergeJsonKey([Runs, ids[0]!], 'progress', key, 1, { returning: true }),
  async compareAndSetJson({ Runs, ids }, key) {
    const isFirst = await compareAndSetJson([Runs, ids[0]!], 'progress', 'owner', 'nobody', key)
    await mergeJsonKey([Runs, ids[0]!], 'progress', key, 1)
    return isFirst
  },
  'lock in a transaction': ({ sequelize, Runs, ids }, key) =>
    sequelize.transaction(async (transaction) => {
      const run = Runs.build({ id: ids[0]! }, { isNewRecord: false, raw: true })
      await lock(run, { transaction })
      await run.update(withKey(run.progress, key), { transaction })
    }),
  withOptimisticLock: ({ Versioned, ids }, key) =>
    withOptimisticLock([Versioned, ids[3]!], (run) => run.set(withKey(run.progress, key))),
  'withLocks of rows that cross': ({ Runs, ids }, key) =>
    withLocks(
      key === 'a'
        ? [
            [Runs, ids[0]!],
            [Runs, ids[1]!],
          ]
        : [
            [Runs, ids[1]!],
            [Runs, ids[0]!],
          ],
      async (rows) => {
        for (const run of rows) await run.update(withKey(run.progress, key))
      },
    ),
  'Sequelize’s own locking read': ({ sequelize, Runs, ids }, key) =>
    sequelize.transaction(async (transaction) => {
      const run = await Runs.findByPk(ids[0]!, { rejectOnEmpty: true, lock: transaction.LOCK.UPDATE, transaction })
      await run.update(withKey(run.progress, key), { transaction })
    }),
  async 'a read, and another one under the lock'({ Runs, ids }, key) {
    const run = await load(Runs, ids[0]!)
    await run.withLock((fresh) => fresh.update(withKey(fresh.progress, key)))
  },
  'SERIALIZABLE, again on conflict': ({ sequelize, Runs, ids }, key) =>
    retryTransaction(
      sequelize,
      async (transaction) => {
        const run = await load(Runs, ids[0]!, transaction)
        await run.update(withKey(run.progress, key), { transaction })
      },
      { isolationLevel: Transaction.ISOLATION_LEVELS.SERIALIZABLE },
    ),
  async 'a version, and a fresh read on conflict'({ Versioned, ids }, key) {
    for (;;) {
      try {
        const run = await load(Versioned, ids[3]!)
        return await run.update(withKey(run.progress, key))
      } catch (error) {
        if (!(error instanceof OptimisticLockError)) throw error
      }
    }
  },
  async 'a statement that computes'({ Runs, ids }, key) {
    await Runs.update({ title: literal(`CONCAT(title, '${key}')`) }, { where: { id: ids[0]! } })
    await mergeJsonKey([Runs, ids[0]!], 'progress', key, 1)
  },
}
