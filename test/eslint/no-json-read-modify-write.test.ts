import { rules } from 'eslint-plugin-sequelize-lossless'
import { applications } from './applications.js'
import { declarations, parsers } from './parsers.js'

const rule = rules['no-json-read-modify-write']
const lost = 'is read, changed and written back as a whole: a concurrent change is lost.'
const unseen = 'is changed in place, which save() does not detect: the change is lost.'
const withLock = 'await run.withLock(async (run) => { … })'

/** The message: what is wrong with the column, and the call to write instead, if there is one. */
function message(column: string, call: string | undefined, what = lost): string {
  const remedy = call ? `Write await ${call}, or do this inside ${withLock}.` : `Do this inside ${withLock}.`
  return `"${column}" ${what} ${remedy}`
}

type Case = readonly [code: string, call?: string | undefined, column?: string]

const a = "run.mergeJsonKey('progress', 'a', …)"

/** Naive forms, which lose updates wherever `run` comes from. */
const naive: readonly Case[] = [
  ['run.progress = { ...run.progress, a: 1 }; await run.save()', a],
  ['await run.update({ progress: { ...run.progress, a: 1 } })', a],
  ["run.progress.a = 1; run.changed('progress', true); await run.save()", a],
  ["run.set('progress', { ...run.progress, a: 1 }); await run.save()", a],
  ['run.set({ progress: { ...run.progress, a: 1 } }); await run.save()', a],
  ["run.setDataValue('progress', { ...run.progress, a: 1 }); await run.save()", a],
  ["run.set('progress.a', 1); await run.save()", a],
  ["run.set('progress.done.at', 1); await run.save()", "run.updateJson('progress', [set(['done', 'at'], …)])"],
  ["await run.update({ 'progress.a': 1 })", a],
  ['const progress = run.progress; progress.a = 1; await run.update({ progress })', a],
  ['let progress; progress = run.progress; progress.a = 1; await run.update({ progress })', a],
  ['const { progress } = run; await WorkflowRun.update({ progress: { ...progress, a: 1 } }, { where: { id } })', a],
  ['const { progress = {} } = run; await run.update({ progress: { ...progress, a: 1 } })', a],
  ['const { progress: stored } = run; await run.update({ progress: { ...stored, a: 1 } })', a],
  ['const { progress } = run.dataValues; await run.update({ progress: { ...progress, a: 1 } })', a],
  ['await WorkflowRun.update({ progress: Object.assign(run.progress, { a: 1 }) }, { where: { id } })', a],
  ["await run.update({ progress: { ...run.get('progress'), a: 1 } })", a],
  ["await run.update({ progress: { ...run.getDataValue('progress'), a: 1 } })", a],
  ['await run.update({ progress: { ...run.get().progress, a: 1 } })', a],
  ['await run.update({ progress: { ...run.toJSON().progress, a: 1 } })', a],
  ["const progress = run.get('progress'); progress.a = 1; await run.update({ progress })", a],
  ['await run.update({ progress: Object.assign({}, run.progress, { a: 1 }) })', a],
  ['Object.assign(run.progress, { a: 1 }); await run.update({ progress: run.progress })'],
  ['run.progress = _.merge({}, run.progress, { a: 1 }); await run.save()', a],
  ["_.set(run.progress, 'a', 1); run.changed('progress', true); await run.save()"],
  ["await run.update({ progress: _.omit(run.progress, 'a') })", "run.updateJson('progress', [remove('a')])"],
  ['const progress = JSON.parse(JSON.stringify(run.progress)); progress.a = 1; await run.update({ progress })', a],
  ['const progress = structuredClone(run.progress); progress.a = 1; run.progress = progress; await run.save()', a],
  ['const progress = { ...run.progress }; progress.a = 1; await run.update({ progress })', a],
  [
    'const key = String(id); await run.update({ progress: { ...run.progress, [key]: 1 } })',
    "run.mergeJsonKey('progress', key, …)",
  ],
  ["await run.update({ progress: { ...run.progress, 'a.b': 1 } })", "run.mergeJsonKey('progress', 'a.b', …)"],
  ["await run.update({ ['progress']: { ...run['progress'], a: 1 } })", a],
  [`await run.update({ progress: { ...run.progress, "it's": 1 } })`, "run.mergeJsonKey('progress', 'it\\'s', …)"],
  [
    `run.progress.done["it's"] = 1; run.changed('progress', true); await run.save()`,
    "run.updateJson('progress', [set(['done', 'it\\'s'], …)])",
  ],
  [`run.set("progress.done.it's", 1); await run.save()`, "run.updateJson('progress', [set(['done', 'it\\'s'], …)])"],
  [
    'await run.update({ progress: { ...run.progress, a: 1, b: 2 } })',
    "run.updateJson('progress', [set('a', …), set('b', …)])",
  ],
  [
    'const patch = { a: 1 }; await run.update({ progress: { ...run.progress, ...patch } })',
    "run.updateJson('progress', [assign([], …)])",
  ],
  [
    'await run.update({ progress: { ...run.progress, count: run.progress.count + 1 } })',
    "run.updateJson('progress', [increment('count')])",
  ],
  ['await run.update({ progress: { count: run.progress.count + 1 } })', "run.updateJson('progress', […])"],
  [
    "run.progress.count++; run.changed('progress', true); await run.save()",
    "run.updateJson('progress', [increment('count')])",
  ],
  [
    "run.progress.count += 1; run.changed('progress', true); await run.save()",
    "run.updateJson('progress', [increment('count')])",
  ],
  [
    "run.progress.count = run.progress.count + 1; run.changed('progress', true); await run.save()",
    "run.updateJson('progress', [increment('count')])",
  ],
  [
    'const progress = { ...run.progress }; progress.count = (progress.count ?? 0) + 2; await run.update({ progress })',
    "run.updateJson('progress', [increment('count', …)])",
  ],
  [
    "run.progress.log.lines = [...run.progress.log.lines, 'a']; run.changed('progress', true); await run.save()",
    "run.updateJson('progress', [append(['log', 'lines'], …)])",
  ],
  // No operation computes the value from the stored one.
  ["run.progress.count = run.progress.count * 2; run.changed('progress', true); await run.save()"],
  ['const progress = { ...run.progress }; progress.b = progress.a + 1; await run.update({ progress })'],
  ["run.progress.count *= 2; run.changed('progress', true); await run.save()", "run.updateJson('progress', […])"],
  [
    "delete run.progress.a; run.changed('progress', true); await run.save()",
    "run.updateJson('progress', [remove('a')])",
  ],
  [
    "run.progress.done.at = 1; run.changed('progress', true); await run.save()",
    "run.updateJson('progress', [set(['done', 'at'], …)])",
  ],
  [
    "run.progress.log.push('a'); run.changed('progress', true); await run.save()",
    "run.updateJson('progress', [append('log', …)])",
  ],
  [
    "const { log } = run.progress; log.push('a'); run.changed('progress', true); await run.save()",
    "run.updateJson('progress', [append('log', …)])",
  ],
  ['const [first] = run.tags; run.tags.push(first); await run.update({ tags: run.tags })', undefined, 'tags'],
  [
    "run.tags.push('a'); run.changed('tags', true); await run.save()",
    "run.updateJson('tags', [append([], …)])",
    'tags',
  ],
  ["run.tags = [...run.tags, 'a']; await run.save()", "run.updateJson('tags', [append([], …)])", 'tags'],
  ["await run.update({ tags: [...new Set([...run.tags, 'a'])] })", undefined, 'tags'],
  [
    "await run.update({ tags: run.tags.filter((tag) => tag !== 'a') })",
    "run.updateJson('tags', [pull([], …)])",
    'tags',
  ],
  ["run.tags.forEach((tag) => { tag.seen = true }); run.changed('tags', true); await run.save()", undefined, 'tags'],
  ["for (const tag of run.tags) tag.seen = true; run.changed('tags', true); await run.save()", undefined, 'tags'],
  [
    "const tag = run.tags.find(Boolean); tag.seen = true; run.changed('tags', true); await run.save()",
    undefined,
    'tags',
  ],
  ["const tag = run.tags[id]; tag.seen = true; run.changed('tags', true); await run.save()", undefined, 'tags'],
  ["run.tags[0].seen = true; run.changed('tags', true); await run.save()", undefined, 'tags'],
  ['if (!run.progress) run.progress = {}; run.progress = { ...run.progress, a: 1 }; await run.save()', a],
  ['run.progress = { ...(run.progress ?? {}), a: 1 }; await run.save()', a],
  ['await run.update({ progress: { ...(run.progress ? run.progress : {}), a: 1 } })', a],
  ['await run.update({ progress: { ...(run && run.progress), a: 1 } })', a],
  [
    "await run.save({ fields: [] }); run.progress = { ...run.progress, a: 1 }; await run.save({ fields: ['progress'] })",
    a,
  ],
  ['await run.update({ progress: { ...run.progress, a: 1 } }, { silent: true, transaction: null })', a],
  ['run.progress = { ...run.progress, a: 1 }; await run.save(); await run.save()', a],
  ['const progress = _.merge({}, run.progress); progress.a = 1; await run.update({ progress })', a],
  ["run.tags.pop(); run.changed('tags', true); await run.save()", undefined, 'tags'],
  [
    'const { [id]: other, progress } = run; await run.update({ progress: { ...progress, a: 1 }, title: other })',
    "run.atomicUpdate({ progress: [set('a', …)], title: … })",
  ],
  ["run.progress[id] = 1; run.changed('progress', true); await run.save()", "run.mergeJsonKey('progress', id, …)"],
  ['const values = { progress: { ...run.progress, a: 1 } }; await run.update(values)', a],
  ['const progress = { ...run.progress, a: 1 }; await run.update({ progress })', a],
  ['let progress; run.progress = progress = { ...run.progress, a: 1 }; await run.save(); void progress'],
  ['await Promise.all([1].map(async () => run.update({ progress: { ...run.progress, a: 1 } })))', a],
  [
    'await sequelize.transaction(async (t) => { await run.update({ progress: { ...run.progress, a: 1 } }, { transaction: t }) })',
    a,
  ],
  [
    'const t = await sequelize.transaction(); await run.update({ progress: { ...run.progress, a: 1 } }, { transaction: t })',
    a,
  ],
  ['await run.withLock(async () => {}); await run.update({ progress: { ...run.progress, a: 1 } })', a],
  ['await run.update({ progress: { ...run.progress, a: 1 } }); await run.reload({ lock: true, transaction })', a],
  [
    'const other = () => run.reload({ lock: true, transaction }); await run.update({ progress: { ...run.progress, a: 1 } })',
    a,
  ],
  ['await run.reload({ lock: true }); await run.update({ progress: { ...run.progress, a: 1 } })', a],
  [
    'await run.update({ progress: { ...run.progress,\n a: 1,\n [String(Math.max(...[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]))]: 2 } })',
    "run.updateJson('progress', [set('a', …), set(…, …)])",
  ],
]

/** What is silent, whatever is known of `run`. */
const silent: readonly string[] = [
  'await run.withLock(async (run) => { run.progress.a = 1; await run.save() })',
  'await run.withLock(async () => { await run.update({ progress: { ...run.progress, a: 1 } }) })',
  'await withLock(run, async (run) => { await run.update({ progress: { ...run.progress, a: 1 } }) })',
  'await withLocks([run], async ([run]) => { await run.update({ progress: { ...run.progress, a: 1 } }) })',
  'await withOptimisticLock(run, async (run) => { run.progress = { ...run.progress, a: 1 }; await run.save() })',
  'await mutex.runExclusive(() => run.update({ progress: { ...run.progress, a: 1 } }))',
  'const add = () => run.update({ progress: { ...run.progress, a: 1 } }); await withLock(run, add)',
  'await withLock(run, () => addStep()); async function addStep() { await run.update({ progress: { ...run.progress, a: 1 } }) }',
  'async function addStepLocked() { await run.update({ progress: { ...run.progress, a: 1 } }) }; await addStepLocked()',
  'await sequelize.transaction(async (t) => { await lock(run, { transaction: t }); await run.update({ progress: { ...run.progress, a: 1 } }, { transaction: t }) })',
  'await sequelize.transaction(async (t) => { await run.reload({ lock: t.LOCK.UPDATE, transaction: t }); await run.update({ progress: { ...run.progress, a: 1 } }, { transaction: t }) })',
  'await sequelize.transaction({ isolationLevel: Transaction.ISOLATION_LEVELS.SERIALIZABLE }, async (t) => { await run.update({ progress: { ...run.progress, a: 1 } }, { transaction: t }) })',
  'try { run.progress = { ...run.progress, a: 1 }; await run.save() } catch (error) { if (error.name !== "OptimisticLockError") throw error }',
  'await WorkflowRun.update({ progress: { ...run.progress, a: 1 } }, { where: { id: run.id, version: run.version } })',
  'await WorkflowRun.update({ progress: { ...run.progress, a: 1 } }, { where: { id: run.id, progress: run.progress } })',
  'const where = { id }; where.version = 1; await WorkflowRun.update({ progress: { ...run.progress, a: 1 } }, { where: String(where) })',
  'await WorkflowRun.update({ progress: { ...run.progress, a: 1 } }, {})',
  'await WorkflowRun.update({ progress: { ...run.progress, a: 1 } }, options)',
  'await Archive.update({ progress: { ...run.progress, a: 1 } }, { where: { runId: run.id } })',
  'await Archive.update({ progress: { ...run.progress, a: 1 } }, { where: String(id) })',
  'await run.update({ progress: { a: 1 } })',
  'const first = [run.title][0]; await run.update({ title: run[id](first), tags: id(run.tags)(run.tags) })',
  'await run.update({ tags: [, String(id)], title: `${run.title}`, progress: _(run.progress) })',
  'await run.update({ tags: Array.from({ length: 2 }), progress: structuredClone() })',
  'await run.update({ tags: id.concat(run.tags), title: new String(run.title), [id]: new (class {})() })',
  'require(id); await run.update({ progress: run[id] })',
  'await run.update({ progress: { ...load(run).progress, ...toJSON().progress, a: 1 } })',
  '_.set(); Object.assign(); (() => {})().push(id); undeclared.push(id); await run.save()',
  'await run.update(id)',
  'await run.update()',
  'await run.update({ progress: run.progress })',
  'await run.update({ progress: { ...run.progress } })',
  'await run.update({ tags: [...run.tags] })',
  'await run.update({ progress: { ...run.maybe, a: 1 } })',
  'await run.update({ title: run.title.slice(1) })',
  'await run.update({ title: run.title + "a", count: run.count + 1 })',
  'await run.update({ title: run.title.trim() })',
  "const values = { title: run.title || 'a', tags: [1] }; values.title = 'b'; await run.update(values)",
  'await run.withLock(() => {}, { transaction }); run.progress = { ...run.progress, a: 1 }; await run.save()',
  'await run.update({ ...run.progress })',
  'await run.update({ progress: unknown(run.progress), tags: run.tags.join() })',
  'run.progress = { ...run.progress, a: 1 }',
  "run.progress = { ...run.progress, a: 1 }; await run.save({ fields: ['title'] })",
  "run.progress.a = 1; run.changed('progress', true); await run.save({ fields: ['title', , ] })",
  'await run.save(); run.progress = { ...run.progress, a: 1 }',
  'run.progress = { b: 2 }; run.progress.a = 1; await run.save()',
  "run.progress = {}; run.progress.a = 1; run.changed('progress', true); await run.save()",
  "run.progress = {}; run.set('progress.a', 1); await run.save()",
  "run.startedAt = new Date(); run.changed('startedAt', true); await run.save()",
  'const progress = {}; progress.a = 1; await run.update({ progress })',
  'let key; [run.title, key] = ["a", "b"]; await run.save()',
  'run.changed("progress"); run.set("title"); run.set(); await run.save()',
  'const steps = run.steps; steps.push(await Step.create({})); await run.save()',
  'run.steps.push(1); run.first.title = "a"; await run.first.save(); await run.save()',
  'const other = { progress: { a: 1 } }; await run.update({ progress: { ...other.progress, a: 2 } })',
  'const other = {}; [other.x, ...other.y] = [1, 2]; delete other.x; void other; await run.update({ progress: other })',
  'let other = 1; other++; other = other || other; await run.update({ progress: other })',
  'function add() { run.progress = { ...run.progress, a: 1 } } const save = async () => { await run.save() }; add(); await save()',
]

/** Where a row comes from, for those who have no types: enough evidence, and too little. */
const write = 'await run.update({ progress: { ...run.progress, a: 1 } })'
const save = 'run.progress = { ...run.progress, a: 1 }; await run.save()'
const mark = "run.progress.a = 1; run.changed('progress', true); await run.save()"
const sequelize = "import { Model } from 'sequelize'\n"
const inModel = (code: string): string =>
  `${sequelize}class WorkflowRun extends Model { async step() { ${code.replaceAll('run.', 'this.')} } }`

/** A method of a model, and a function that calls it and saves the row. */
const withMethod = (body: string, use = 'run.reset(); await run.save()'): string =>
  `${sequelize}class WorkflowRun extends Model {\n${body}\n}\nasync function step(id) { const run = await WorkflowRun.findByPk(id); ${use} }`
const changingMethods = [
  'reset() {\n this.progress = {\n ...this.progress,\n a: 1\n }\n return 1\n}',
  'reset() {\n this.progress =\n Object.assign({}, this.progress)\n}',
  "reset() {\n this.set('progress', {\n ...this.get('progress'),\n a: ';'\n })\n}",
  'reset() {\n this.tags = [1]\n .concat(this.tags)\n}',
]
const resettingMethods = [
  'reset() {\n this.progress = {}\n return this.progress\n}',
  'reset() {\n this.progress = { a: 1 }\n if (this.progress.a) this.title = 1\n}',
  "reset() {\n this.set('progress', {})\n return this.progress\n}",
]

const convincing: readonly string[] = [
  `async function step() { const [run] = await WorkflowRun.findOrCreate({ where: {} }); ${save} }`,
  `async function step() { const { rows } = await WorkflowRun.findAndCountAll(); for (const run of rows) { ${save} } }`,
  `async function step(id) { let run = null; run = await WorkflowRun.unscoped().findByPk(id); ${save} }`,
  `async function step(id) { const run = (await cache(id)) ?? (await WorkflowRun.findByPk(id)); ${save} }`,
  `async function step(id) { const [, run] = await Promise.all([1, WorkflowRun.findByPk(id)]); ${save} }`,
  `async function step(id) { const found = await WorkflowRun.findByPk(id, { lock: false }); const run = found; ${save} }`,
  `${sequelize}async function step() { const run = await WorkflowRun.findOne({ where: {} }); ${save} }`,
  `const { Op } = require('sequelize')\nasync function step() { const run = await db.runModel.findOne(); ${save} }`,
  `${sequelize}async function step() { const run = await WorkflowRun.scope('all').findOne(); ${save} }`,
  `${sequelize}async function step() { for (const run of await WorkflowRun.findAll({ where: {} })) { ${save} } }`,
  `${sequelize}async function step() { const runs = await WorkflowRun.findAll(); await Promise.all(runs.map(async (run) => { ${save} })) }`,
  `${sequelize}async function step() { const runs = await WorkflowRun.findAll(); const run = runs.slice(1).find(Boolean); ${save} }`,
  `async function step() { const run = await WorkflowRun.findOne({ where: { id: 1 } }); ${write} }`,
  `async function step(run) { ${mark} }`,
  `async function step(run) { run.getDataValue('progress'); ${save} }`,
  'async function step(run) { await WorkflowRun.update({ progress: { ...run.progress, a: 1 } }, { where: { id: run.id } }) }',
  `async function step(id) { const run = await WorkflowRun.findByPk(id); const locked = await Archive.findByPk(id, { lock: true, transaction }); ${save} }`,
]
const unconvincing: readonly string[] = [
  `async function issueInvoiceLocked(run) { ${mark} }`,
  `async function settleLocked(run) { ${mark} }`,
  ...resettingMethods.map((code) => withMethod(code)),
  withMethod(
    'updateCount(values) {\n this.updateLabel(values)\n}\nupdateLabel() {}',
    'await run.updateCount({ progress: { ...run.progress, a: 1 } })',
  ),
  `${sequelize}async function step() { const run = await WorkflowRun.create({}, {}); ${save} }`,
  `${sequelize}async function step(t) { const run = await WorkflowRun.create({}, { transaction: t }); ${save} }`,
  `async function step(run) { ${save} }`,
  `async function step(run) { ${write} }`,
  `async function step() { ${save} }`,
  `async function step(id) { const run = await findByPk(id); ${save} }`,
  `async function step() { const run = await WorkflowRun.findOne({ where: {} }); ${save} }`,
  `import mongoose from 'mongoose'\nasync function step() { const run = await WorkflowRun.findOne({ a: 1 }); ${write} }`,
  `${sequelize}async function step() { const run = await repository.findOne({ where: {} }); ${save} }`,
  `${sequelize}async function step() { const run = await (await repositories()).findOne({ where: {} }); ${save} }`,
  `${sequelize}async function step() { const run = await repositories().findOne({ where: {} }); ${save} }`,
  `${sequelize}async function step() { const { run } = await WorkflowRun.findOne({ where: {} }); ${save} }`,
  `${sequelize}async function step() { const run = new WorkflowRun(); ${save} }`,
  `${sequelize}async function step() { const [run] = await WorkflowRun.findOrBuild({ where: {} }); ${save.replace('save', 'validate')} }`,
  `${sequelize}async function step() { const run = WorkflowRun.build({}); run.getDataValue('id'); ${save} }`,
  `${sequelize}async function step(t) { const run = await WorkflowRun.create({}, { transaction: t }); ${write.replace(' })', ' }, { transaction: t })')} }`,
  `async function step(id, options) { const run = await WorkflowRun.findByPk(id, options); ${save} }`,
  `async function step(id, t) { const options = t ? { lock: true, transaction: t } : undefined; const run = await WorkflowRun.findByPk(id, options); ${save} }`,
  `async function step(id, options) { const run = await WorkflowRun.findByPk(id, { ...options, raw: false }); ${save} }`,
  `async function step(id) { const run = await WorkflowRun.findByPk(id, { lock: true, transaction }); ${save} }`,
  `async function step(id) { const options = { lock: true, transaction }; const run = await WorkflowRun.findByPk(id, options); ${save} }`,
  `async function step(id, t) { const run = await WorkflowRun.findByPk(id, { lock: { level: t.LOCK.UPDATE, of: WorkflowRun }, transaction: t }); ${save} }`,
  `async function step(id) { await Job.findByPk(1, { lock: true, transaction }); const run = await WorkflowRun.findByPk(id); ${save} }`,
  `async function step(id) { const release = await mutex.acquire(); const run = await WorkflowRun.findByPk(id); ${save} }`,
  `async function step(reference, t) { const run = await fetchRun(reference, { lock: true, databaseTransaction: t }); ${mark} }`,
  `async function step(reference) { const run = await fetchRun(reference, { lock: true }); ${mark} }`,
  `async function step(reference) { const run = await fetchRun(reference); ${mark.replace('save()', 'save(options)')} }`,
  `async function step(run, transaction) { ${mark.replace('save()', 'save({ transaction })')} }`,
  `async function step(run) { ${mark.replace('save()', 'save({ transaction: state.transaction })')} }`,
  `async function step(run, t) { ${mark.replace('save()', 'save({ ...t })')} }`,
  `async function step(run) { ${mark.replace('save()', 'save({ transaction })')} }`,
  `async function step(lockedRun) { ${mark.replaceAll('run.', 'lockedRun.')} }`,
  `async function step(id) { const run = await WorkflowRun.findByPk(id, { include: [{ model: Step, as: 'progress' }] }); ${save} }`,
  `async function step(id) { const run = await WorkflowRun.findByPk(id); ${save}; await run.progress.save() }`,
  `async function step(id) { const run = await WorkflowRun.findByPk(id); run.progress.a = 1; await run.save() }`,
  `async function step(id) { const run = await WorkflowRun.findByPk(id); await run.update({ title: run.title.slice(1) + run.name.concat('a') }) }`,
  `async function step(id) { const run = await WorkflowRun.findByPk(id); await run.update({ title: run.title.slice(1), name: run.name.concat('a') }) }`,
  `class WorkflowRun extends Model { async step() { this.progress = { ...this.progress, a: 1 }; await this.save() } }`,
  `${sequelize}class WorkflowRun extends Base { async step() { this.progress = { ...this.progress, a: 1 }; await this.save() } }`,
  `${sequelize}class WorkflowRun { async step() { this.progress = { ...this.progress, a: 1 }; await this.save() } }`,
  `${sequelize}class WorkflowRun extends Model { static async step() { this.progress = { ...this.progress, a: 1 }; await this.save() } }`,
  `${sequelize}async function step() { this.progress = { ...this.progress, a: 1 }; await this.save() }`,
  `async function step(run, id) { await WorkflowRun.update({ progress: { ...run.progress, a: 1 } }, { where: { id } }) }`,
  `async function step(run, where) { await WorkflowRun.update({ progress: { ...run.progress, a: 1 } }, { where }) }`,
  `async function step(run, id) { await runs.update({ progress: { ...run.progress, a: 1 } }, { where: { id: run.id } }) }`,
]

const found = 'const run = await WorkflowRun.findByPk(id)'

function inFunction(code: string, before: string, parameters = 'id'): string {
  return `export async function step(${parameters}) {\n${before}\n${code}\n}`
}

const inRow = ', or do this inside await this.withLock(async (row) => { … }).'

describe('no-json-read-modify-write', () => {
  for (const name of ['javascript', 'typescript'] as const) {
    describe(`on ${name} without types`, () => {
      parsers[name].run('finds the naive form', rule, {
        valid: silent.map((code) => ({ name: code, code: inFunction(code, found) })),
        invalid: naive.map(([code, call, column = 'progress']) => ({
          name: code,
          code: inFunction(code, found),
          errors: [{ message: message(column, call) }],
        })),
      })
      parsers[name].run('wants evidence of the row', rule, {
        valid: unconvincing.map((code) => ({ name: code, code })),
        invalid: [
          ...changingMethods.map((code) => ({ name: code, code: withMethod(code), errors: 1 })),
          ...[`async function isLocked(run) { ${mark} }`, ...convincing].map((code) => ({
            name: code,
            code,
            errors: [{ message: message('progress', a) }],
          })),
          {
            name: 'a row that has no name',
            code: `async function step(id) { const { progress } = await WorkflowRun.findByPk(id); await WorkflowRun.update({ progress: { ...progress, a: 1 } }, { where: { id } }) }`,
            errors: [{ message: message('progress', a).replaceAll('run', 'row') }],
          },
          ...[save, mark, write].map(inModel).map((code) => ({
            name: code,
            code,
            errors: [{ message: `"progress" ${lost} Write await this.mergeJsonKey('progress', 'a', …)${inRow}` }],
          })),
        ],
      })
    })
  }

  describe('with types', () => {
    const typed = (code: string, parameters: string): { name: string; code: string } => ({
      name: code,
      code: declarations + inFunction(code, '', parameters),
    })
    parsers.types.run('finds the naive form', rule, {
      valid: silent.map((code) => typed(code, 'id: number, run: WorkflowRun')),
      invalid: naive.map(([code, call, column = 'progress']) => ({
        ...typed(code, 'id: number, run: WorkflowRun'),
        errors: [{ message: message(column, call) }],
      })),
    })
    const types: readonly (readonly [code: string, parameters: string])[] = [
      [save, 'run: WorkflowRun | null'],
      [save.replace('run.save', 'run!.save'), 'run?: WorkflowRun'],
      ['(run as WorkflowRun).progress = { ...run.progress, a: 1 }; await run.save()', 'run: WorkflowRun'],
      [write.replace('...run.progress', '...(<object>run.progress)'), 'run: WorkflowRun | Archive'],
      [write, 'run: Model & { progress: object }'],
      ['async function inner<M extends WorkflowRun>(run: M) { ' + write + ' }', ''],
      [save.replace('run.save()', 'run.save({ transaction: undefined })'), 'run: WorkflowRun'],
      ['await WorkflowRun.update({ progress: { ...run.progress, a: 1 } }, { where: { id: 1 } })', 'run: WorkflowRun'],
      [
        `const load = async () => run; const mine = await load(); ${write.replaceAll('run.', 'mine.')}`,
        'run: WorkflowRun',
      ],
    ]
    parsers.types.run('knows the row', rule, {
      valid: [
        typed(write, 'run: { update(values: object): Promise<void>; progress: object }'),
        typed(write, 'run: any'),
        typed(write, 'run: unknown'),
        typed(
          'await Archive.update({ progress: { ...run.progress, a: 1 } }, { where: { id: 1 } })',
          'run: WorkflowRun',
        ),
        typed(
          'await archive.update({ progress: { ...run.progress, a: 1 } }, { where: { id: run.id } })',
          'run: WorkflowRun, archive: { update(...all: unknown[]): void }',
        ),
        typed('await run.update({ steps: [...run.steps, 1], first: { ...run.first } })', 'run: WorkflowRun'),
        typed('await run.update({ startedAt: Object.assign(run.startedAt, { a: 1 }, { b: 1 }) })', 'run: WorkflowRun'),
        typed(
          'await run.update({ title: run.title.concat("a"), summarize: { ...run.summarize, a: 1 } })',
          'run: WorkflowRun',
        ),
        typed(
          "run.startedAt.setHours(1); run.title = run.title.slice(1); run.changed('startedAt', true); await run.save()",
          'run: WorkflowRun',
        ),
        typed("await run.update({ slug: [...run.slug, 'a'], stepId: { ...run.stepId, a: 1 } })", 'run: WorkflowRun'),
        typed('await run.update({ summary: { ...run.summary, a: 1 } })', 'run: WorkflowRun'),
        typed("run.set('first.title', 'a'); await run.save()", 'run: WorkflowRun'),
        typed("run.steps[0].title = 'a'; run.changed('steps', true); await run.save()", 'run: WorkflowRun'),
        typed('run.progress.a = 1; run.progress = {}; await run.save()', 'run: WorkflowRun'),
        typed("run.progress.a = 1; await run.save({ fields: ['title'] })", 'run: WorkflowRun'),
        typed(
          `const mine = await load(transaction); ${write.replaceAll('run.', 'mine.').replace(' })', ' }, { transaction })')}`,
          'load: (t: Transaction) => Promise<WorkflowRun>',
        ),
      ],
      invalid: [
        ...types.map(([code, parameters]) => ({ ...typed(code, parameters), errors: 1 })),
        { ...typed(write.replaceAll('progress', 'options'), 'run: WorkflowRun'), errors: 1 },
        { ...typed(write.replaceAll('progress', 'any'), 'run: WorkflowRun'), errors: 1 },
        { ...typed(write.replaceAll('progress', 'undeclared'), 'run: WorkflowRun'), errors: 1 },
        { ...typed(write.replaceAll('progress', 'maybe'), 'run: WorkflowRun'), errors: 1 },
        {
          ...typed("await run.update({ tags: run.tags.concat('a') })", 'run: WorkflowRun'),
          errors: [{ message: message('tags', undefined) }],
        },
        {
          ...typed('run.progress.a = 1; await run.save()', 'run: WorkflowRun'),
          errors: [{ message: message('progress', a, unseen) }],
        },
        {
          ...typed("run.tags.push('a'); await run.save()", 'run: WorkflowRun'),
          errors: [{ message: message('tags', "run.updateJson('tags', [append([], …)])", unseen) }],
        },
        {
          ...typed(
            'const held = { run }; await held.run.update({ progress: { ...held.run.progress, a: 1 } })',
            'run: WorkflowRun',
          ),
          errors: [
            {
              message: `"progress" ${lost} Write await held.run.mergeJsonKey('progress', 'a', …), or do this inside await held.run.withLock(async (row) => { … }).`,
            },
          ],
        },
        {
          ...typed(
            'await runs[index].update({ progress: { ...runs[index].progress, a: 1 } })',
            'runs: WorkflowRun[], index: number',
          ),
          errors: [
            {
              message: `"progress" ${lost} Write await runs[index].mergeJsonKey('progress', 'a', …), or do this inside await runs[index].withLock(async (row) => { … }).`,
            },
          ],
        },
        {
          ...typed(
            'const { progress } = await load(); await WorkflowRun.update({ progress: { ...progress, a: 1 } }, { where: { id: 1 } })',
            'load: () => Promise<WorkflowRun>',
          ),
          errors: 1,
        },
      ],
    })
  })

  for (const [application, { valid, invalid }] of Object.entries(applications)) {
    describe(`on code of ${application}`, () => {
      for (const name of ['typescript', 'types'] as const) {
        parsers[name].run(`on ${name}`, rule, {
          valid: valid.map(([title, code]) => ({ name: title, code })),
          invalid: invalid.map(([title, code, errors = 1]) => ({ name: title, code, errors })),
        })
      }
    })
  }
})
