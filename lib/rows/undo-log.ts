import type { Transaction } from 'sequelize'
import { finishedState } from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import { rowStateOf } from './row-state.js'

/** The instances as they were at a savepoint, or at the start of the transaction. */
interface UndoLevel {
  /** The name on the server and, unless raw SQL set it, the savepoint; `undefined` for the level of the transaction. */
  readonly savepoint: { readonly name: string; readonly transaction: Transaction | undefined } | undefined
  /** For each instance written since, the function that restores it. */
  readonly restores: Map<Row, () => void>
}

/** Snapshots of the instances that one transaction wrote. A rollback, full or to a savepoint, restores them. */
export class UndoLog {
  readonly #levels: UndoLevel[] = []

  /** Call at the start of a transaction to undo all of it; otherwise only its savepoints are undone. */
  coverTransaction(): void {
    this.#levels.push({ savepoint: undefined, restores: new Map() })
  }

  /** Snapshots an instance before its first write since the last savepoint. */
  remember(row: Row): void {
    this.#mergeReleased()
    const restores = this.#levels.at(-1)?.restores
    if (restores && !restores.has(row)) restores.set(row, rowStateOf(row).snapshot())
  }

  /** Starts a level. Snapshots `lockedRows` now, because a change in place is detected only when it is written. */
  addSavepoint(transaction: Transaction | undefined, name: string, lockedRows: readonly Row[]): void {
    this.#mergeReleased()
    const restores = new Map(lockedRows.map((row) => [row, rowStateOf(row).snapshot()] as const))
    this.#levels.push({ savepoint: { name, transaction }, restores })
  }

  /** Restores what was written since a savepoint. */
  rollBackTo(name: string): void {
    const index = this.#levels.findLastIndex(({ savepoint }) => savepoint?.name === name)
    if (index >= 0) restoreAll(this.#levels.splice(index))
  }

  /** Restores everything that was written. */
  rollBack(): void {
    restoreAll(this.#levels.splice(0))
  }

  /** Drops all snapshots, after COMMIT. */
  clear(): void {
    this.#levels.length = 0
  }

  /** Merges the levels of released savepoints into the enclosing level; the earlier snapshot of an instance wins. */
  #mergeReleased(): void {
    for (let level = this.#levels.at(-1); level?.savepoint; level = this.#levels.at(-1)) {
      const { transaction } = level.savepoint
      if (!transaction || finishedState(transaction) !== 'commit') return
      this.#levels.pop()
      const around = this.#levels.at(-1)?.restores
      for (const [row, restore] of level.restores) if (!around?.has(row)) around?.set(row, restore)
    }
  }
}

/** Restores the levels from last to first: the earliest snapshot of an instance wins. */
function restoreAll(levels: readonly UndoLevel[]): void {
  for (const { restores } of levels.toReversed()) for (const restore of restores.values()) restore()
}
