import type { SourceCode } from 'eslint'
import { RowAccesses } from './accesses.js'
import { Model } from './model.js'
import { Protection } from './protection.js'
import type { Settings } from './settings.js'
import { typesOf } from './types.js'
import type { Types } from './types.js'

/** What is known of the file that is checked. */
export interface Facts {
  readonly source: SourceCode
  readonly settings: Settings
  readonly types: Types | undefined
  readonly model: Model
  readonly protection: Protection
  readonly accesses: RowAccesses
}

/** The facts of a file; what its code does is known after the traversal. */
export function factsIn(source: SourceCode, settings: Settings): Facts {
  const types = typesOf(source)
  const model = new Model(source, types)
  const protection = new Protection(source, model, settings)
  return { source, settings, types, model, protection, accesses: new RowAccesses(source, types) }
}
