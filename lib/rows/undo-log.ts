import type { Transaction } from 'sequelize'
import { finishedState } from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import { rowStateOf } from './row-state.js'

/** Whether the current code is part of a savepoint. */
type IsInside = (savepoint: Transaction) => boolean

/** The instances that were written since a savepoint, or since the start of the transaction. */
interface UndoLevel {
  /** The name on the server; `undefined` for the level of the transaction. */
  readonly name: string | undefined
  /** The savepoint, unless raw SQL set it. */
  readonly savepoint: Transaction | undefined
  /** The savepoint has a callback, so that statements of concurrent branches are no part of it. */
  hasCallback: boolean
  /** A concurrent branch has written since, which a rollback to the savepoint would undo too. */
  isMixed: boolean
  /** The rows that concurrent branches have locked: they may hold what a rollback undoes, and changes that it must not undo. */
  readonly lockedBeside: Set<Row>
  /** For each row that was locked at the start, the function that restores it. */
  readonly atStart: Map<Row, () => void>
  /** For each instance written since, the function that restores it. */
  readonly restores: Map<Row, () => void>
}

/** Snapshots of the instances that one transaction wrote. A rollback, full or to a savepoint, restores them. */
export class UndoLog {
  readonly #levels: UndoLevel[] = []

  /** Call at the start of a transaction to undo all of it; otherwise only its savepoints are undone. */
  coverTransaction(): void {
    this.#addLevel(undefined, undefined)
  }

  /** Starts the level of a savepoint. */
  addSavepoint(savepoint: Transaction | undefined, name: string): void {
    this.#mergeReleased()
    // Begun when this library started to watch the transaction, and set only now.
    const begun = savepoint ? this.#levels.findIndex((level) => level.savepoint === savepoint) : -1
    if (begun >= 0) this.#levels.splice(begun, 1)
    this.#addLevel(savepoint, name)
  }

  #addLevel(savepoint: Transaction | undefined, name: string | undefined): void {
    const maps = {
      atStart: new Map<Row, () => void>(),
      restores: new Map<Row, () => void>(),
      lockedBeside: new Set<Row>(),
    }
    this.#levels.push({ name, savepoint, hasCallback: false, isMixed: false, ...maps })
  }

  /**
   * Notes that the callback of a savepoint starts. Snapshots `lockedRows` now, because a change in place is detected only
   * when it is written.
   * @param isBeside whether the callback of a concurrent branch uses a row
   */
  startCallback(savepoint: Transaction, lockedRows: readonly Row[], isBeside: (row: Row) => boolean): void {
    const level = this.#levels.find((each) => each.savepoint === savepoint)
    if (!level) return
    level.hasCallback = true
    for (const row of lockedRows) {
      if (isBeside(row)) level.lockedBeside.add(row)
      else level.atStart.set(row, rowStateOf(row).snapshot())
    }
  }

  /** Snapshots an instance before its first write since the innermost savepoint that the current code is part of. */
  remember(row: Row, isInside: IsInside): void {
    this.#mergeReleased()
    const around = this.#levels.filter(({ hasCallback, savepoint }) => !hasCallback || isInside(savepoint!))
    const level = around.at(-1)
    if (!level || level.restores.has(row)) return
    level.restores.set(row, level.atStart.get(row) ?? rowStateOf(row).snapshot())
    // A savepoint without a callback may never end, as that of findOrCreate(): a rollback undoes the one around it, too.
    const callback = around.findLast(({ hasCallback }) => hasCallback)
    const atStart = callback?.atStart.get(row)
    if (atStart && !callback!.restores.has(row)) callback!.restores.set(row, atStart)
  }

  /** Notes a statement that writes, or sets a savepoint. */
  noteWrite(isInside: IsInside): void {
    for (const level of this.#levelsBeside(isInside)) level.isMixed = true
  }

  /** Notes a locking read of a row. */
  noteLock(row: Row, isInside: IsInside): void {
    for (const level of this.#levelsBeside(isInside)) level.lockedBeside.add(row)
  }

  /** The levels of the savepoints that concurrent branches have open. */
  #levelsBeside(isInside: IsInside): UndoLevel[] {
    // Sequelize marks one as rolled back before it sends the rollback, which waits for the statement in flight.
    return this.#levels.filter(
      ({ savepoint, hasCallback }) => hasCallback && finishedState(savepoint!) !== 'commit' && !isInside(savepoint!),
    )
  }

  /** Whether a rollback to the savepoint would undo writes of a concurrent branch. */
  isMixed(name: string): boolean {
    return this.#levels.findLast((level) => level.name === name)?.isMixed ?? false
  }

  /** Restores every instance written since the savepoint. */
  rollBackTo(name: string): void {
    const index = this.#levels.findLastIndex((level) => level.name === name)
    if (index < 0) return
    const undone = this.#levels.splice(index)
    restoreAll(undone)
    for (const { lockedBeside } of undone) for (const row of lockedBeside) rowStateOf(row).markAllStale()
    // The server keeps a savepoint that raw SQL has rolled back to.
    if (!undone[0]!.savepoint) this.#addLevel(undefined, name)
  }

  /** Restores every instance written in the transaction. */
  rollBack(): void {
    restoreAll(this.#levels.splice(0))
  }

  /** Discards all snapshots after a commit. */
  clear(): void {
    this.#levels.length = 0
  }

  /** Moves the instances of a released savepoint to the level around it, which keeps its own earlier snapshots. */
  #mergeReleased(): void {
    for (let level = this.#levels.at(-1); level?.savepoint; level = this.#levels.at(-1)) {
      if (finishedState(level.savepoint) !== 'commit') return
      this.#levels.pop()
      const around = this.#levels.at(-1)?.restores
      for (const [row, restore] of level.restores) if (!around?.has(row)) around?.set(row, restore)
    }
  }
}

/** Restores the levels from the last to the first: the earliest snapshot of an instance takes effect. */
function restoreAll(levels: readonly UndoLevel[]): void {
  for (const { restores, lockedBeside } of levels.toReversed()) {
    for (const [row, restore] of restores) if (!lockedBeside.has(row)) restore()
  }
}
