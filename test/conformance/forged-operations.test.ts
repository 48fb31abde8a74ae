import { expect } from 'chai'
import { compareAndSetJson, equals, exists, mergeJsonKey, set, updateJson, UsageError } from 'sequelize-lossless'
import { eachDatabase } from '../each-database.js'
import { rejection } from '../rejection.js'
import { createRuns, storedText } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'

/** A copy as a request's body has it: what JSON can carry, and no more. */
function parsed(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value))
}

const operations: Readonly<Record<string, unknown>> = {
  'that replaces the whole document': parsed({ kind: 'merge', path: [], json: '"x"' }),
  'that a client encoded': parsed(set('a', 2)),
  'of a kind that every object has': parsed({ kind: 'toString', path: ['a'], json: '2' }),
  'of another such kind': parsed({ kind: 'constructor', path: ['a'], json: '2' }),
  'of a kind that is an accessor': parsed({ kind: '__proto__', path: ['a'], json: '2' }),
  'that was copied': { ...set('a', 2) },
  'that inherits from one': Object.create(set('a', 2)) as unknown,
  'that is a condition': exists('a'),
}

const conditions: Readonly<Record<string, unknown>> = {
  'that a client encoded': parsed(equals('a', 1)),
  'of a kind that every object has': parsed({ kind: 'toString', path: ['a'], json: '1' }),
  'of another such kind': parsed({ kind: 'constructor', path: ['a'], json: '1' }),
  'that was copied': { ...exists('a') },
  'that is an operation': set('a', 1),
}

eachDatabase('operations and conditions that were not made by this library', (database) => {
  let log: string[]
  let Runs: typeof WorkflowRun
  let run: WorkflowRun

  before(async () => {
    const connection = database.connect()
    log = connection.log
    Runs = await createRuns(connection.sequelize)
    run = await Runs.create({ progress: { a: 1 } })
    await mergeJsonKey(run, 'progress', 'b', 1)
  })

  /** Expects a usage error before any SQL, and the document as it was. */
  async function expectRefused(call: () => Promise<unknown>, reason: UsageError['reason']): Promise<void> {
    const before = await storedText(Runs, run.id)
    const sent = log.length
    const error = await rejection(call(), UsageError)
    expect(error).to.include({ reason })
    expect(log.slice(sent)).to.deep.equal([])
    expect(await storedText(Runs, run.id)).to.equal(before)
  }

  for (const [name, forged] of Object.entries(operations)) {
    it(`an operation ${name} is refused`, async () => {
      await expectRefused(() => updateJson(run, 'progress', [forged] as never), 'operations')
      await expectRefused(() => updateJson(run, 'progress', [set('b', 2), forged] as never), 'operations')
      await expectRefused(() => run.updateJson('progress', [forged] as never, { coalesce: true }), 'operations')
    })
  }

  for (const [name, forged] of Object.entries(conditions)) {
    it(`a condition ${name} is refused`, async () => {
      const options = { if: [exists('a'), forged] as never }
      await expectRefused(() => updateJson(run, 'progress', [set('b', 2)], options), 'conditions')
      await expectRefused(() => mergeJsonKey(run, 'progress', 'b', 2, options), 'conditions')
      await expectRefused(() => compareAndSetJson(run, 'progress', 'b', 1, 2, options), 'conditions')
    })
  }
})
