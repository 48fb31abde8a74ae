import { expect } from 'chai'
import fc from 'fast-check'
import { eachDatabase } from '../each-database.js'
import { sample } from '../sample.js'
import { execute } from './execution.js'
import type { Laboratory, Verdict } from './execution.js'
import { program, show } from './programs.js'
import type { Program } from './programs.js'
import { createTables, defineTables } from './tables.js'
import { witnessOf } from './witness.js'

// The same programs in every run; PROPERTY_SEED looks at others, and PROGRAM at one, as a failure prints it.
const seed = Number(process.env['PROPERTY_SEED'] ?? 1)
const only = process.env['PROGRAM']

/** How long to look for a smaller program that fails too. */
const shrinkMilliseconds = 20_000

eachDatabase('random callbacks', (database) => {
  const numRuns = sample(500, database.isOtherWay ? 150 : 500, 50)
  const witness = witnessOf(database)
  let laboratory: Laboratory

  before(async () => {
    const { sequelize, others } = witness.connect()
    const theirs = await createTables(others)
    laboratory = { database, sequelize, tables: defineTables(sequelize), theirs, witness }
    await witness.begin()
  })
  after(() => witness.end())

  it('write nothing outside their transaction, and lose no acknowledged write', async function () {
    this.timeout(300_000)
    const count = { programs: 0, resolved: 0, rejected: 0, deadlocks: 0, writes: 0 }
    let failing: { readonly program: Program; readonly verdict: Verdict } | undefined
    let shrunkUntil = Infinity
    const holds = async (given: Program): Promise<boolean> => {
      if (Date.now() > shrunkUntil) return true
      const verdict = await execute(laboratory, given)
      count.programs++
      count.writes += verdict.writes
      count.deadlocks += verdict.deadlocks
      for (const outcome of verdict.outcomes) count[outcome === 'resolved' ? 'resolved' : 'rejected']++
      if (verdict.violations.length === 0) return true
      if (!failing) shrunkUntil = Date.now() + shrinkMilliseconds
      failing = { program: given, verdict }
      return false
    }
    if (only === undefined) {
      await fc.check(fc.asyncProperty(program, holds), { seed, numRuns })
    } else {
      for (let run = 0; run < 20 && !failing; run++) await holds(JSON.parse(only) as Program)
    }
    if (failing) throw new Error(report(failing.program, failing.verdict))
    console.log(
      `      ${count.programs} programs: ${count.resolved} calls resolved, ${count.rejected} rejected, ` +
        `${count.deadlocks} deadlocks, ${count.writes} tokens; the server saw ${witness.seen()} writes in transactions`,
    )
    if (only !== undefined) return
    // Programs of which all fail, or none, would show little.
    expect(count.resolved).to.be.above(count.programs / 4)
    expect(count.rejected).to.be.above(count.programs / 8)
    expect(count.deadlocks).to.be.above(database.name === 'sqlite' ? -1 : 0)
    expect(witness.seen()).to.be.above(count.programs)
  })
})

function report(failing: Program, { violations, outcomes }: Verdict): string {
  return [
    `PROPERTY_SEED=${seed}: this program (the smallest found) went wrong:`,
    show(failing),
    '',
    ...outcomes.map((outcome, index) => `flow ${index}: ${outcome}`),
    ...violations.map((text) => `- ${text}`),
    '',
    `Run it alone, 20 times: PROGRAM='${JSON.stringify(failing)}'`,
  ].join('\n')
}
