import type { Transaction } from 'sequelize'
import { modelOf } from '../sequelize/internals.js'
import type { Row, RowModel } from '../sequelize/internals.js'
import { RowRef } from './row-ref.js'
import { findRowState } from './row-state.js'

/** The instances of the rows that one transaction has locked. A row can have several instances. */
export class LockedRows {
  readonly #instances = new Map<string, Set<Row>>()

  add(row: Row): void {
    const { key } = RowRef.of(row)
    const instances = this.#instances.get(key)
    if (instances) instances.add(row)
    else this.#instances.set(key, new Set([row]))
  }

  clear(): void {
    this.#instances.clear()
  }

  all(): readonly Row[] {
    return [...this.#instances.values()].flatMap((instances) => [...instances])
  }

  /** The instances of one row, without `except`. */
  ofRow(key: string, except?: Row): readonly Row[] {
    return [...(this.#instances.get(key) ?? [])].filter((row) => row !== except)
  }

  /** The instances of rows with another key that the database may take for that of `ref`. */
  ofSimilarKeys(ref: RowRef): readonly Row[] {
    return this.ofTable(ref.model).filter((row) => {
      const own = RowRef.of(row)
      return own.key !== ref.key && own.mayBeSame(ref)
    })
  }

  /** The instances of all rows of a model's table. A scope of a model is another class for the same table. */
  ofTable(model: RowModel): readonly Row[] {
    return this.all().filter((row) => isSameTable(modelOf(row).getTableName(), model.getTableName()))
  }

  /** Whether there is an instance other than `row`. */
  hasOtherThan(row: Row): boolean {
    if (this.#instances.size !== 1) return this.#instances.size > 1
    const [instances] = this.#instances.values()
    return instances!.size > 1 || !instances!.has(row)
  }

  /** Whether an instance of the row is current in `column`: read or written under the lock of `transaction`. */
  isCurrent(key: string, column: string, transaction: Transaction): boolean {
    return this.ofRow(key).some((row) => findRowState(row)?.isLockedSince(column, transaction))
  }
}

/** Whether two names of tables are the same; that of a table with a schema is an object with methods of its own. */
function isSameTable(one: unknown, other: unknown): boolean {
  return one === other || (typeof one !== 'string' && JSON.stringify(one) === JSON.stringify(other))
}
