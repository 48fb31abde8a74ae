import { Model } from 'sequelize'
import { defaultPolicy } from './options.js'
import type { LosslessOptions, Policy } from './options.js'
import type { Column } from '../dialects/dialect.js'
import type { Accessors } from '../errors/describe.js'
import { attributesOfJsonType, attributeType } from './internals.js'
import type { RowModel } from './internals.js'
import { sessionOfModel } from './session.js'
import type { Session } from './session.js'

/** The attribute types with values that can be changed in place; Sequelize does not detect such a change. */
const mutableTypes = ['JSON', 'JSONB', 'ARRAY', 'HSTORE']

const noColumns: ReadonlySet<string> = new Set()

/** The formatted text of one second, for the timestamps of a model. */
export interface FormattedSecond {
  /** Milliseconds since the epoch. */
  readonly start: number
  /** The text of the start of the second, with `.000` for its milliseconds; `undefined` if the format has no `.000`. */
  readonly text: string | undefined
}

/** The types of attributes that may hold JSON as text. */
const textTypes: readonly string[] = ['TEXT', 'STRING', 'JSON']

/** The unique indexes of a table. */
export interface UniqueIndexes {
  /** The attributes of each, in alphabetical order. */
  readonly keys: readonly (readonly string[])[]
  readonly areDeferrable: boolean
}

/** What follows from the attributes of a model, and what is known of its table. */
interface Definition {
  /** Those of the types JSON and JSONB. */
  readonly ofJsonType: ReadonlySet<string>
  /** What `jsonColumns` says: a subclass may have no such attribute. */
  readonly jsonColumns: ReadonlySet<string>
  /** Those whose columns hold JSON as text. */
  readonly textDocuments: ReadonlySet<string>
  /** Those of them whose value in memory is the text of the document. */
  readonly textsInMemory: ReadonlySet<string>
  /** All attributes with documents. */
  readonly documents: ReadonlySet<string>
  /** Those whose values can be changed in place, and those whose text is a document. */
  readonly mutable: readonly string[]
  /** The select list of a row, once it was built. */
  selection?: string
  /** The second in which `updatedAt` was formatted last. */
  formattedSecond?: FormattedSecond
  /** The unique indexes of the table, once they were read. */
  uniqueIndexes?: UniqueIndexes
  /** The table lacks the index of a primary key, as a view does. */
  lacksPrimaryIndex?: true
}

/** The state that this library keeps for one model. */
export class ModelState {
  readonly #model: RowModel
  /** What `lossless(model, options)` set. */
  options: LosslessOptions | undefined
  /** What the option `jsonColumns` set: the attributes whose columns hold JSON as text. */
  jsonColumns: ReadonlySet<string> | undefined
  /** The row methods of its instances take part in a lock. */
  joinsLocks = false
  /** The row methods that were attached to it. */
  readonly methods: Set<string> = new Set()
  /** Its loads and writes are observed by the guard. */
  isGuarded = false
  #chain: readonly ModelState[] | undefined
  #session: Session | undefined
  #policy: Policy | undefined
  /** The options that the policy was made of. */
  #policySources: readonly unknown[] = []
  #definition: Definition | undefined

  constructor(model: RowModel) {
    this.#model = model
  }

  /** This state and those of the base classes. */
  get chain(): readonly ModelState[] {
    if (!this.#chain) {
      const base = Object.getPrototypeOf(this.#model) as RowModel
      const hasBase = base !== Model && typeof base.init === 'function'
      this.#chain = hasBase ? [this, ...modelStateOf(base).chain] : [this]
    }
    return this.#chain
  }

  /** The session of its Sequelize instance. */
  get session(): Session {
    // Another one after the model was initialised again.
    if (this.#session?.sequelize !== this.#model.sequelize) this.#session = sessionOfModel(this.#model)
    return this.#session!
  }

  /** The effective options: its own, else those of its base classes, else those of its Sequelize instance. */
  get policy(): Policy {
    const { session, chain } = this
    if (!this.#policy || !this.#isMadeOf(session.options, chain)) {
      this.#policy = { ...defaultPolicy, ...session.options }
      for (const { options } of chain.toReversed()) Object.assign(this.#policy, options)
      this.#policySources = [session.options, ...chain.map(({ options }) => options)]
    }
    return this.#policy
  }

  #isMadeOf(ofSession: LosslessOptions | undefined, chain: readonly ModelState[]): boolean {
    const sources = this.#policySources
    return sources[0] === ofSession && chain.every(({ options }, index) => options === sources[index + 1])
  }

  /** Made again after each change of the attributes, also if the model was initialised again, for another table. */
  get definition(): Definition {
    const ofJsonType = attributesOfJsonType(this.#model)
    const jsonColumns = this.chain.find((each) => each.jsonColumns)?.jsonColumns ?? noColumns
    // Sequelize makes a new set after each change.
    if (this.#definition?.ofJsonType !== ofJsonType || this.#definition.jsonColumns !== jsonColumns) {
      const isText = (name: string): boolean => mayHoldText(this.#model, name)
      const textDocuments = jsonColumns.size === 0 ? noColumns : new Set([...jsonColumns].filter(isText))
      const isMutable = (name: string): boolean =>
        textDocuments.has(name) || mutableTypes.includes(attributeType(this.#model, name))
      this.#definition = {
        ofJsonType,
        jsonColumns,
        textDocuments,
        textsInMemory: new Set([...textDocuments].filter((name) => !ofJsonType.has(name))),
        documents: textDocuments.size === 0 ? ofJsonType : new Set([...ofJsonType, ...textDocuments]),
        mutable: Object.keys(this.#model.getAttributes()).filter(isMutable),
      }
    }
    return this.#definition
  }
}

const modelStates = new WeakMap<RowModel, ModelState>()

/** The one state of a model; a scope or a subclass has its own. */
export function modelStateOf(model: RowModel): ModelState {
  let state = modelStates.get(model)
  if (!state) modelStates.set(model, (state = new ModelState(model)))
  return state
}

/** The states of a model and of its base classes (a scope has its model as base class), the model itself first. */
export function inheritedStates(model: RowModel): readonly ModelState[] {
  return modelStateOf(model).chain
}

/** The names of a model's attributes that hold documents: those of a JSON type, and those that `jsonColumns` names. */
export function jsonAttributes(model: RowModel): ReadonlySet<string> {
  return modelStateOf(model).definition.documents
}

/** Whether a name is an attribute of a type that may hold JSON as text. */
export function mayHoldText(model: RowModel, name: unknown): name is string {
  const isAttribute = typeof name === 'string' && Object.hasOwn(model.getAttributes(), name)
  return isAttribute && textTypes.includes(attributeType(model, name))
}

/** How the database stores the document of an attribute. */
export function documentType(model: RowModel, attribute: string): Column['type'] {
  const { textDocuments } = modelStateOf(model).definition
  return textDocuments.has(attribute) ? 'TEXT' : (attributeType(model, attribute) as Column['type'])
}

/** Whether the value of an attribute is the text of its document, which getters and setters of the model convert. */
export function isTextInMemory(model: RowModel, attribute: string): boolean {
  return modelStateOf(model).definition.textsInMemory.has(attribute)
}

/** Whether reads and assignments of an attribute have its document as a value, and not as text. */
export function accessorsOf(model: RowModel, attribute: string): Accessors {
  const { [attribute]: declared } = model.getAttributes() as Readonly<Record<string, Partial<PropertyDescriptor>>>
  const isValue = !isTextInMemory(model, attribute)
  return { isParsed: isValue || declared?.get !== undefined, isSpelled: isValue || declared?.set !== undefined }
}

/** Whether a row method of this library was attached to a model. */
export function hasMethod(model: RowModel, name: string): boolean {
  return inheritedStates(model).some(({ methods }) => methods.has(name))
}

/** The effective options of a model. */
export function policyOf(model: RowModel): Policy {
  return modelStateOf(model).policy
}
