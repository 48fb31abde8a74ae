import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { expect } from 'chai'
import { eachDatabase } from '../each-database.js'
import { sample } from '../sample.js'
import { createRuns, storedText } from '../workflow-run.js'
import type { Crowd } from './crowd.js'

const processes = 4
const calls = sample(25_000, 25_000, 2000)
const callers = 256

eachDatabase('a row with many concurrent writers', (database) => {
  // The second connector sends the same.
  if (database.title.endsWith('3.5')) return

  it(`keeps all keys of ${processes} processes with ${callers} callers each, in less than 200 MiB of memory`, async () => {
    // No other code changes a document in place.
    const each = database.name === 'mysql' ? calls : 1000
    const Runs = await createRuns(database.connect().sequelize)
    const { id } = await Runs.create()
    const names = Array.from({ length: processes }, (_, index) => `process_${index}`)
    const memory = await Promise.all(
      names.map(async (name) => {
        const worker = fork(join(__dirname, 'crowd.js'), { execArgv: [] })
        const task: Crowd = { url: database.url(), id, name, calls: each, callers }
        worker.send(task)
        const [message, exit] = await Promise.all([once(worker, 'message'), once(worker, 'exit')])
        expect(exit).to.deep.equal([0, null])
        return message[0] as number
      }),
    )
    const document = JSON.parse((await storedText(Runs, id))!) as Record<string, number>
    expect(Object.keys(document)).to.have.length(processes * each)
    for (const name of names) {
      for (let call = 0; call < each; call++) expect(document[`${name}_${call}`]).to.equal(call)
    }
    expect(Math.max(...memory)).to.be.below(200)
    console.log(`      ${processes * each} calls; the most memory of a process: ${Math.round(Math.max(...memory))} MiB`)
  })
})
