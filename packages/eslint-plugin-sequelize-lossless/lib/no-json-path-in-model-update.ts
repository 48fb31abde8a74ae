import type { Rule } from 'eslint'
import { Cures } from './cure.js'
import { Model } from './model.js'
import { operation, shownPath } from './operations.js'
import type { Operation } from './operations.js'
import { settingsOf } from './settings.js'
import { argumentsOf, calledName, propertyOf, receiverOf, resolved, stringOf, unwrap } from './syntax.js'
import type { Call, NodeOf } from './syntax.js'
import { typesOf } from './types.js'

/** A key such as `'settings.theme'` or `` `settings.${name}` ``. */
interface DottedKey {
  readonly column: string
  readonly path: Operation['path']
}

/** Reports `Model.update({ 'settings.theme': … })`: Sequelize 6 writes `{ theme: … }` as the whole column. */
export const noJsonPathInModelUpdate: Rule.RuleModule = {
  meta: {
    type: 'problem',
    docs: {
      description: 'disallow a JSON path in the values of Model.update(), which overwrites the whole column',
      recommended: true,
    },
    hasSuggestions: true,
    schema: [],
    messages: {
      overwritten:
        '{{model}}.update() writes an object with only this key as the whole "{{column}}" column: all its other keys are ' +
        'lost. Write await updateWhere({{model}}, where, { {{column}}: [set({{key}}, …)] }).',
      useUpdateWhere: 'Write it with updateWhere().',
    },
  },
  create(context) {
    const source = context.sourceCode
    if (settingsOf(context).isIgnored) return {}
    const model = new Model(source, typesOf(source))
    const cures = new Cures(source)
    const calls: Call[] = []

    const check = (call: Call): void => {
      const of = receiverOf(call)
      const [first, options] = argumentsOf(call)
      if (!of || !first || options?.type !== 'ObjectExpression' || !propertyOf(options, 'where')) return
      const values = resolved(source, first)
      if (values.type !== 'ObjectExpression' || !model.isModel(of)) return
      for (const property of values.properties) {
        const dotted = property.type === 'Property' && dottedKeyOf(property)
        if (!dotted) continue
        const { column, path } = dotted
        // A name that is put together at run time may have dots.
        const isKnown = path.length > 0 && values.properties.length === 1
        const changes = new Map([[column, [operation('set', path, { source }, property.value)]]])
        const cure = isKnown ? cures.where(call, of, changes, options) : undefined
        context.report({
          node: property,
          messageId: 'overwritten',
          data: { model: source.getText(of), column, key: path.length > 0 ? shownPath(source, path) : '…' },
          suggest: cure ? [{ messageId: cure.messageId, fix: cure.fix }] : [],
        })
      }
    }

    return {
      CallExpression(call) {
        model.seeCall(call)
        calls.push(call)
      },
      'Program:exit'() {
        for (const call of calls) if (calledName(call) === 'update') check(call)
      },
    }
  },
}

/** `settings` and its key, of a key of an object literal. */
function dottedKeyOf({ key, computed }: NodeOf<'Property'>): DottedKey | undefined {
  const expression = unwrap(key)
  const [text, rest] =
    expression.type === 'TemplateLiteral'
      ? [expression.quasis[0]!.value.cooked ?? '', expression.expressions]
      : expression.type === 'BinaryExpression' && expression.operator === '+' && computed
        ? [stringOf(unwrap(expression.left)) ?? '', [expression.right]]
        : [stringOf(expression) ?? '', []]
  const [, column, first] = /^([a-z_]\w*)\.(.*)$/i.exec(text) ?? []
  if (column === undefined) return undefined
  const isOneName = rest.length === 1 && first === ''
  const isEnded = expression.type !== 'TemplateLiteral' || expression.quasis.at(-1)!.value.cooked === ''
  if (isOneName && isEnded) return { column, path: [rest[0]!] }
  return rest.length === 0 && first ? { column, path: first.split('.') } : { column, path: [] }
}
