import { rules } from 'eslint-plugin-sequelize-lossless'
import { applications } from './applications.js'
import { declarations, parsers } from './parsers.js'

const rule = rules['lock-needs-transaction']

function message(method: string, lock: string, transaction = 'transaction: t'): string {
  return `${method}() locks nothing: without a transaction the lock ends with the read itself. Pass { ${transaction}, lock: ${lock} }.`
}

const found: readonly (readonly [code: string, message: string])[] = [
  ['WorkflowRun.findByPk(1, { lock: true })', message('findByPk', 'true')],
  ["WorkflowRun.findOne({ where: {}, lock: 'UPDATE' })", message('findOne', "'UPDATE'")],
  ["WorkflowRun.findAndCountAll({ lock: 'SHARE' })", message('findAndCountAll', "'SHARE'")],
  [
    'WorkflowRun.findOne({ lock: transaction.LOCK.UPDATE })',
    message('findOne', 'transaction.LOCK.UPDATE', 'transaction'),
  ],
  ['WorkflowRun.findAll({ lock: Transaction.LOCK.UPDATE })', message('findAll', 'Transaction.LOCK.UPDATE')],
  [
    'WorkflowRun.findAll({ lock: {\n level: transaction.LOCK.UPDATE,\n of: WorkflowRun } })',
    message('findAll', '{ level: transaction.LOCK.UPDATE, of: WorkflowRun }', 'transaction'),
  ],
  ['WorkflowRun.findAll({ lock: { of: WorkflowRun } })', message('findAll', '{ of: WorkflowRun }')],
  ['run.reload({ lock: true, transaction: undefined })', message('reload', 'true')],
  ['run.reload({ lock: true, transaction: null })', message('reload', 'true')],
  ['WorkflowRun.unscoped().findByPk(1, { lock: true })', message('findByPk', 'true')],
]
const silent: readonly string[] = [
  'WorkflowRun.findByPk(1, { lock: true, transaction })',
  'WorkflowRun.findByPk(1, { lock: true, transaction: options.transaction })',
  'WorkflowRun.findByPk(1, { lock: true, ...options })',
  'WorkflowRun.findByPk(1, options)',
  'WorkflowRun.findByPk(1)',
  'WorkflowRun.findByPk()',
  'WorkflowRun.findByPk(1, { lock: false })',
  'WorkflowRun.findByPk(1, { lock: undefined })',
  'WorkflowRun.findByPk(1, { lock: options.lock })',
  "WorkflowRun.findOne({ lock: { mode: 'pessimistic_write' } })",
  'findByPk(1, { lock: true })',
  '_.findByKey(1, { lock: true })',
  'run.withLock(async (run) => { await run.reload({ lock: true }) })',
]
const typedFound: readonly (readonly [code: string, message: string])[] = [
  ['models.Run.findByPk(1, { lock: true })', message('findByPk', 'true')],
  ['any.findByPk(1, { lock: true })', message('findByPk', 'true')],
]
const typedSilent = ['repository.findOne({ lock: true })', 'page.reload({ lock: true })']

const more = `
declare const run: WorkflowRun
declare const models: { Run: typeof WorkflowRun }
declare const repository: { findOne(options: object): object }
declare const page: { reload(options: object): void }
declare const any: any
`

describe('lock-needs-transaction', () => {
  for (const name of ['javascript', 'typescript'] as const) {
    parsers[name].run(`on ${name} without types`, rule, {
      valid: silent.map((code) => ({ name: code, code })),
      invalid: found.map(([code, text]) => ({ name: code, code, errors: [{ message: text }] })),
    })
  }

  const typed = (code: string): { name: string; code: string } => ({
    name: code,
    code: declarations + more + code,
  })
  parsers.types.run('with types', rule, {
    valid: [...silent, ...typedSilent].map(typed),
    invalid: [...found, ...typedFound].map(([code, text]) => ({ ...typed(code), errors: [{ message: text }] })),
  })

  for (const [application, { valid, invalid }] of Object.entries(applications)) {
    parsers.typescript.run(`is silent on what ${application} does`, rule, {
      valid: [...valid, ...invalid].map(([title, code]) => ({ name: title, code })),
      invalid: [],
    })
  }
})
