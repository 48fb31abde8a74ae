import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ESLint, Linter, Rule } from 'eslint'
import { lockNeedsTransaction } from './lock-needs-transaction.js'
import { noJsonPathInModelUpdate } from './no-json-path-in-model-update.js'
import { noJsonReadModifyWrite } from './no-json-read-modify-write.js'

const { name, version } = JSON.parse(readFileSync(join(__dirname, '..', 'package.json'), 'utf8')) as {
  name: string
  version: string
}

export const meta: { readonly name: string; readonly version: string } = { name, version }

export const rules: {
  readonly 'no-json-read-modify-write': Rule.RuleModule
  readonly 'no-json-path-in-model-update': Rule.RuleModule
  readonly 'lock-needs-transaction': Rule.RuleModule
} = {
  'no-json-read-modify-write': noJsonReadModifyWrite,
  'no-json-path-in-model-update': noJsonPathInModelUpdate,
  'lock-needs-transaction': lockNeedsTransaction,
}

/**
 * All rules, as errors; files in folders named `migrations` and `seeders` are left out:
 *
 *     import lossless from 'eslint-plugin-sequelize-lossless'
 *     export default [lossless.configs.recommended]
 */
export const configs: { readonly recommended: Linter.Config } = {
  recommended: {
    name: 'sequelize-lossless/recommended',
    // ESLint refuses two objects for one plugin, and a config with this plugin in `plugins` passes this module.
    plugins: { 'sequelize-lossless': module.exports as ESLint.Plugin },
    settings: { 'sequelize-lossless': { ignoredFolders: ['migrations', 'seeders'] } },
    rules: {
      'sequelize-lossless/no-json-read-modify-write': 'error',
      'sequelize-lossless/no-json-path-in-model-update': 'error',
      'sequelize-lossless/lock-needs-transaction': 'error',
    },
  },
}
