import { stringifyMethod, typeOf } from './internals.js'
import type { RowModel } from './internals.js'
import { isTextInMemory } from './model-state.js'
import { override } from './override.js'

/**
 * A document to write, with its text: the text has digits that JSON.stringify would change, or it is long and is not
 * made twice.
 */
export class SpelledDocument {
  readonly text: string
  readonly #document: unknown

  constructor(text: string, document: unknown) {
    this.text = text
    this.#document = document
  }

  toJSON(): unknown {
    return this.#document
  }
}

/** The value that Sequelize writes as this text of a document. */
export function spelledValue(
  model: RowModel,
  attribute: string,
  text: string,
  document: unknown,
): SpelledDocument | string {
  if (isTextInMemory(model, attribute)) return text
  writeSpelledDocuments(model, attribute)
  return new SpelledDocument(text, document)
}

/** Makes Sequelize write a {@link SpelledDocument} in a JSON column by its text. */
function writeSpelledDocuments(model: RowModel, attribute: string): void {
  const type = typeOf(model, attribute)
  if (Object.hasOwn(type, stringifyMethod)) return
  override<object, [value: unknown, options: object]>(type, stringifyMethod, (original) => {
    return function (...args) {
      const [value] = args
      return value instanceof SpelledDocument ? value.text : original.apply(this, args)
    }
  })
}
