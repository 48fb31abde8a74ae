import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { expect } from 'chai'
import { eachDatabase } from '../each-database.js'
import { sample } from '../sample.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import type { Burden, Measured } from './burden.js'

eachDatabase('a long-running process', (database) => {
  // The others send the same, and hold the same.
  if (database.title !== 'SQLite' && database.title !== 'MySQL') return
  const isSqlite = database.name === 'sqlite'

  let Runs: typeof WorkflowRun

  before(async () => {
    Runs = await createRuns(database.connect().sequelize)
  })

  /** Measures a process that does `work` on a row whose document has about so many bytes. */
  async function measure(work: Burden['work'], times: number, bytes: number): Promise<Measured> {
    const words = Array.from({ length: bytes / 10 }, (_, index) => `word ${index}`.slice(0, 8))
    const { id } = await Runs.create({ progress: { n: 0, words } })
    const child = fork(join(__dirname, 'burden.js'), { execArgv: ['--expose-gc'] })
    const task: Burden = { url: database.url(), id, work, times }
    child.send(task)
    const exited = once(child, 'exit')
    const [measured] = (await Promise.race([once(child, 'message'), exited])) as [Measured | number]
    expect(await exited).to.deep.equal([0, null])
    const { heap, transactions, processor } = measured as Measured
    console.log(
      `      ${times} ${work}: heap ${heap.map((mebibytes) => mebibytes.toFixed(1)).join(' -> ')} MiB, ` +
        `${transactions} transactions, processor ${processor.map((each) => each.toFixed(0)).join(' -> ')} ms a quarter`,
    )
    return measured as Measured
  }

  const locks = isSqlite
    ? ([
        [sample(50_000, 1500, 400), 20, 'a small document'],
        [sample(2000, 500, 100), 20_000, 'a document of 20 KB'],
      ] as const)
    : ([
        [sample(3000, 1000, 200), 20, 'a small document'],
        [sample(1000, 400, 100), 20_000, 'a document of 20 KB'],
      ] as const)
  for (const [index, [times, bytes, title]] of locks.entries()) {
    if (!database.isSampled(index, 2)) continue
    it(`retains no memory of ${times} calls of withLock on one row object, with ${title}`, async function () {
      this.timeout(600_000)
      const { heap, transactions } = await measure('locks', times, bytes)
      expect(heap[1] - heap[0]).to.be.below(3)
      expect(transactions).to.be.below(20)
    })
  }

  if (database.isSampled(0, 2))
    it('retains little memory of thousands of JSON writes of one row in one transaction', async function () {
      this.timeout(600_000)
      const { heap, transactions } = await measure('merges', sample(8000, 2000, 400), 10_000)
      expect(heap[1] - heap[0]).to.be.below(10)
      expect(transactions).to.be.below(20)
    })

  if (database.isSampled(1, 2))
    it('needs no more time for the last of 400 savepoints than for the first', async function () {
      this.timeout(600_000)
      const { heap, processor } = await measure('savepoints', 400, 10_000)
      expect(processor[1] / processor[0]).to.be.below(3)
      expect(heap[1] - heap[0]).to.be.below(10)
    })
})
