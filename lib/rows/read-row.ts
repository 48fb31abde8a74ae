import type { Dialect } from '../dialects/dialect.js'
import { withRightKeys } from '../json/json-text.js'
import type { JsonValue } from '../json/values.js'
import { hasFindHooks, previousValuesOf, runAfterFind, valuesOf } from '../sequelize/internals.js'
import type { Row } from '../sequelize/internals.js'
import { documentType, modelStateOf } from '../sequelize/model-state.js'
import { sendForInstances } from '../sequelize/send.js'
import type { QueryContext } from '../sequelize/send.js'
import { Statement } from '../sequelize/statement.js'
import type { RowRef } from './row-ref.js'
import { assignStored } from './row-state.js'
import type { StoredTexts } from './row-state.js'

/** A row as the driver read it, and the stored texts of its JSON documents. */
export interface RowRead {
  readonly row: Row
  readonly texts: StoredTexts
}

/** Reads the row with all its attributes from the primary server. */
export function selectRow(
  ref: RowRef,
  dialect: Dialect,
  context: QueryContext,
  hint = '',
  clause = '',
): Promise<RowRead | undefined> {
  const select = new Statement(ref)
  const columns = rowSelection(ref, dialect, select)
  const sql = `SELECT ${hint}${columns} FROM ${select.table()} WHERE ${ref.sql(select)} ${clause}`
  return readRow(ref, sql, select, context)
}

/** The select list of {@link readRow}: every attribute, and the text of each document. */
export function rowSelection({ model }: RowRef, dialect: Dialect, statement: Statement): string {
  const { definition } = modelStateOf(model)
  if (definition.selection === undefined) {
    const texts = [...definition.documents].map((attribute) => {
      const column = { sql: statement.column(attribute), type: documentType(model, attribute) }
      return `, ${dialect.documentText(column)} AS ${statement.alias(textAlias(attribute))}`
    })
    definition.selection = `${statement.columns()}${texts.join('')}`
  }
  return definition.selection
}

/** Sends a statement that returns one row with the columns of {@link rowSelection}. */
export async function readRow(
  ref: RowRef,
  sql: string,
  { binds }: Statement,
  context: QueryContext,
): Promise<RowRead | undefined> {
  const { model } = ref
  const [row] = await sendForInstances(ref, sql, binds, context)
  if (!row) return undefined
  const texts = new Map<string, string>()
  const { documents, textsInMemory } = modelStateOf(model).definition
  for (const attribute of documents) {
    const text = takeValue(row, textAlias(attribute))
    if (typeof text !== 'string') continue
    texts.set(attribute, text)
    if (textsInMemory.has(attribute)) continue
    const read = valuesOf(row)[attribute] as JsonValue
    const document = withRightKeys(text, read)
    if (document !== read) assignStored(row, { [attribute]: document })
  }
  // An `afterFind` hook may decode values, so it must run for this read too.
  if (hasFindHooks(model)) await runAfterFind(row, context.transaction)
  return { row, texts }
}

/** The alias of the text of a document; no attribute has this name. */
function textAlias(attribute: string): string {
  return `${attribute} text`
}

/** Removes a value that is not an attribute from an instance, and returns it. */
function takeValue(row: Row, name: string): unknown {
  const { [name]: value } = valuesOf(row)
  Reflect.deleteProperty(valuesOf(row), name)
  Reflect.deleteProperty(previousValuesOf(row), name)
  return value
}
