import { AsyncLocalStorage } from 'node:async_hooks'
import type { Model, ModelStatic, Sequelize } from 'sequelize'
import { captureCallSite } from '../call-site.js'

type Method = (this: unknown, ...words: unknown[]) => unknown

const sites = new AsyncLocalStorage<Error>()

/** The call site of the innermost running call; its causes are the call sites of the outer calls. */
export function callSite(): Error {
  return captureCallSite(sites.getStore())
}

/**
 * Records the call sites of methods that write a JSON column, until the returned function is called. When Sequelize
 * sends the statement, a caller that did not await is no longer on the stack. Other calls are not recorded.
 */
export function noteCallers(sequelize: Sequelize): () => void {
  const undo: (() => void)[] = []
  const fields = new Set<string>()
  let isOver = false

  /** Replaces a method until the end; `isWrite`: whether a call may write a JSON column. */
  const wrap = (
    subject: object,
    name: string,
    isWrite: (self: unknown, words: readonly unknown[]) => boolean,
  ): void => {
    const own = Object.getOwnPropertyDescriptor(subject, name)
    const wrapped: Method = function (this: unknown, ...words) {
      const original = (own?.value ?? Reflect.get(Object.getPrototypeOf(subject) as object, name)) as Method
      const call = (): unknown => original.apply(this, words)
      return isOver || !isWrite(this, words) ? call() : sites.run(captureCallSite(sites.getStore()), call)
    }
    Object.defineProperty(subject, name, {
      value: wrapped,
      configurable: true,
      writable: true,
      enumerable: own?.enumerable ?? false,
    })
    undo.push(() => {
      // If other code has replaced the method since, keep its replacement, which still calls this one.
      if (Object.getOwnPropertyDescriptor(subject, name)?.value !== wrapped) return
      if (own) Object.defineProperty(subject, name, own)
      else Reflect.deleteProperty(subject, name)
    })
  }

  const attend = (model: ModelStatic<Model>): void => {
    for (const { field } of jsonColumns(model)) fields.add(field)
    const columns = jsonColumns(model).map(({ attribute }) => attribute)
    if (columns.length === 0) return
    wrap(model.prototype as object, 'save', (self, [options]) => {
      const { fields } = (options ?? {}) as { fields?: readonly string[] }
      return columns.some((column) => fields?.includes(column) ?? (self as Model).changed(column as never))
    })
    for (const name of ['update', 'upsert']) {
      wrap(model, name, (_self, [values]) => columns.some((column) => Object.hasOwn(values ?? {}, column)))
    }
    wrap(model, 'bulkCreate', (_self, [, options]) => {
      const { updateOnDuplicate = [] } = (options ?? {}) as { updateOnDuplicate?: readonly string[] }
      return columns.some((column) => updateOnDuplicate.includes(column))
    })
  }

  const defined = (model: unknown): void => attend(model as ModelStatic<Model>)
  for (const model of Object.values(sequelize.models)) attend(model)
  sequelize.addHook('afterDefine', defined)
  wrap(sequelize, 'query', (_self, [given]) => {
    const sql = typeof given === 'string' ? given : (given as { query?: unknown } | null)?.query
    return typeof sql === 'string' && !/^\s*SELECT\b/i.test(sql) && [...fields].some((field) => sql.includes(field))
  })
  return () => {
    isOver = true
    sequelize.removeHook('afterDefine', defined as never)
    for (const each of undo.toReversed()) each()
  }
}

/** The JSON attributes of a model, and the columns that hold them. */
export function jsonColumns(model: ModelStatic<Model>): { readonly attribute: string; readonly field: string }[] {
  const attributes = model.getAttributes() as Record<string, { type: { key?: string }; field?: string }>
  return Object.entries(attributes)
    .filter(([, { type }]) => type.key === 'JSON' || type.key === 'JSONB')
    .map(([attribute, { field }]) => ({ attribute, field: field ?? attribute }))
}
