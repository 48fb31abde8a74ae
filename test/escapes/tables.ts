import { DataTypes, Model } from 'sequelize'
import type { CreationOptional, InferAttributes, InferCreationAttributes, ModelStatic, Sequelize } from 'sequelize'
import { lossless } from 'sequelize-lossless'
import type { Lossless } from 'sequelize-lossless'

/** A row with a document that has one key for each token, and a number in which each token is one bit. */
export class Account extends Model<InferAttributes<Account>, InferCreationAttributes<Account>> {
  declare id: CreationOptional<number>
  declare title: CreationOptional<string | null>
  declare bits: CreationOptional<number>
  declare progress: CreationOptional<Record<string, number>>
}

export interface Account extends Lossless<Account> {}

/** A token that was written as a row of its own. */
class Entry extends Model<InferAttributes<Entry>, InferCreationAttributes<Entry>> {
  declare id: CreationOptional<number>
  declare program: number
  declare token: string
}

export interface Tables {
  readonly Accounts: typeof Account
  /** Written in a transaction, always. */
  readonly Entries: ModelStatic<Entry>
  /** Written outside of any transaction, on purpose. */
  readonly Outside: ModelStatic<Entry>
  /** Holds id = 1, so that another one is a duplicate. */
  readonly Taken: ModelStatic<Model<{ id: number }>>
  /** Rows that make a transaction too heavy to be the victim of a deadlock. */
  readonly Weights: ModelStatic<Model>
}

/** The names of the tables that are written in transactions only. */
export const guardedTables: readonly string[] = ['escape_accounts', 'escape_entries']

/** Defines the models on a connection, as classes of its own. */
export function defineTables(sequelize: Sequelize): Tables {
  const id = { type: DataTypes.INTEGER, primaryKey: true, autoIncrement: true }
  const Accounts = class extends Account {}
  Accounts.init(
    {
      id,
      title: DataTypes.STRING,
      bits: { type: DataTypes.INTEGER, allowNull: false, defaultValue: 0 },
      progress: { type: DataTypes.JSON, allowNull: false, defaultValue: {} },
    },
    { sequelize, modelName: 'Account', tableName: 'escape_accounts' },
  )
  const entries = (modelName: string, tableName: string): ModelStatic<Entry> => {
    const Entries = class extends Entry {}
    return Entries.init(
      {
        id,
        program: { type: DataTypes.INTEGER, allowNull: false },
        token: { type: DataTypes.STRING, allowNull: false },
      },
      { sequelize, modelName, tableName, timestamps: false },
    )
  }
  const plain = { timestamps: false } as const
  return {
    Accounts: lossless(Accounts),
    Entries: entries('Entry', 'escape_entries'),
    Outside: entries('Outside', 'escape_outside'),
    Taken: sequelize.define('Taken', { id: { ...id, autoIncrement: false } }, { tableName: 'escape_taken', ...plain }),
    Weights: sequelize.define('Weight', { id }, { tableName: 'escape_weights', ...plain }),
  }
}

/** Makes the tables, empty. */
export async function createTables(sequelize: Sequelize): Promise<Tables> {
  const tables = defineTables(sequelize)
  await sequelize.sync({ force: true })
  await tables.Taken.create({ id: 1 })
  return tables
}
