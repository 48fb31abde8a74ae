import type { Transaction } from 'sequelize'
import { finishedState } from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import { rowStateOf } from './row-state.js'

/** The instances as they were at a savepoint, or at the start of the transaction. */
interface UndoLevel {
  /** The savepoint, unless raw SQL has set it, and its name on the server; `undefined` for the transaction. */
  readonly savepoint: { readonly name: string; readonly transaction: Transaction | undefined } | undefined
  /** The way back of each instance that was written since. */
  readonly restores: Map<Row, () => void>
}

/** The instances that one transaction wrote, as they were before: a rollback puts them back, whole or to a savepoint. */
export class UndoLog {
  readonly #levels: UndoLevel[] = []

  /** Has the whole transaction, which starts now, be restored by {@link rollBack}; without it, only its savepoints are. */
  coverTransaction(): void {
    this.#levels.push({ savepoint: undefined, restores: new Map() })
  }

  /** Remembers an instance as it is before its first write since the last savepoint. */
  remember(row: Row): void {
    this.#mergeReleased()
    const restores = this.#levels.at(-1)?.restores
    if (restores && !restores.has(row)) restores.set(row, rowStateOf(row).snapshot())
  }

  /** Starts a level. `lockedRows` are remembered now, since a change in place is seen only when it is written. */
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

  /** Forgets everything, since it is committed. */
  clear(): void {
    this.#levels.length = 0
  }

  /** A savepoint that was released leaves its instances to the level around it, where an earlier state counts. */
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

/** Restores the levels from the last one to the first, so that the earliest state of an instance wins. */
function restoreAll(levels: readonly UndoLevel[]): void {
  for (const { restores } of levels.toReversed()) for (const restore of restores.values()) restore()
}
