import { expect } from 'chai'
import { BaseError, DatabaseError, Sequelize } from 'sequelize'
import { ConflictError, mergeJsonKey, UnknownOutcomeError, withLock, withOptimisticLock } from 'sequelize-lossless'
import type { FailedAttempt } from 'sequelize-lossless'
import { outcomeOf } from '../rejection.js'
import { createRuns, defineRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import { Account } from './account.js'
import type { Write } from './account.js'
import type { Cluster, Node } from './cluster.js'

type Counted = Record<string, unknown> & { count: number }

/** Tests the library on a cluster of three nodes that all take writes. `more` defines tests that end the cluster. */
export function describeWriters(
  title: string,
  startCluster: () => Promise<Cluster>,
  more?: (cluster: () => Cluster) => void,
): void {
  describe(title, () => {
    let cluster: Cluster
    /** The same table on each node, with a version. */
    let models: (typeof WorkflowRun)[] = []
    /** Another one, without. */
    let plain: (typeof WorkflowRun)[] = []

    before(async () => {
      cluster = await startCluster()
      const [first, ...others] = cluster.nodes.map(({ url }) => new Sequelize(url, { logging: false }))
      const [versioned, unversioned] = [{ version: true }, { tableName: 'plain_runs' }]
      models = [await createRuns(first!, versioned), ...others.map((sequelize) => defineRuns(sequelize, versioned))]
      plain = [await createRuns(first!, unversioned), ...others.map((sequelize) => defineRuns(sequelize, unversioned))]
    })

    after(async () => {
      for (const Runs of models) await Runs.sequelize!.close()
      await cluster?.stop()
    })

    it('lose acknowledged writes of jobs that load, change and save, and raise nothing', async () => {
      const { id } = await plain[0]!.create({ progress: {} })
      await cluster.caughtUp()
      const acknowledged: string[] = []

      async function saveAll(Runs: typeof WorkflowRun, node: number): Promise<void> {
        for (let step = 0; step < 30; step++) {
          const run = await Runs.findByPk(id, { rejectOnEmpty: true })
          const key = `${node}_${step}`
          if ((await outcomeOf(run.update({ progress: { ...run.progress, [key]: 'done' } }))) === 'written') {
            acknowledged.push(key)
          }
        }
      }

      await Promise.all(plain.map(saveAll))
      await cluster.caughtUp()
      const { progress } = await plain[0]!.findByPk(id, { rejectOnEmpty: true })
      expect(acknowledged.filter((key) => !(key in progress!))).to.not.deep.equal([])
    })

    for (const isWritten of [false, true]) {
      it(`let two nodes hold the lock of one row, and ${isWritten ? 'refuse one of them' : 'commit both'} if the row is ${isWritten ? '' : 'not '}written`, async () => {
        const { id } = await plain[0]!.create({ progress: {} })
        await cluster.caughtUp()
        let [missing, proceed] = [2, (): void => undefined]
        const bothLocked = new Promise<void>((resolve) => (proceed = resolve))

        const lockAndAdd = (Runs: typeof WorkflowRun): Promise<unknown> =>
          withLock([Runs, id], async (run, transaction) => {
            if (--missing === 0) proceed()
            await bothLocked
            await Runs.create({ title: 'another row' }, { transaction })
            if (isWritten) await run.update({ title: 'the locked one' })
          })
        const outcomes = await Promise.all(plain.slice(0, 2).map((Runs) => outcomeOf(lockAndAdd(Runs))))

        const refused = outcomes.filter((outcome) => outcome !== 'written')
        if (isWritten) {
          expect(refused).to.have.length(1)
          // Refused at its COMMIT, or before by a statement of the callback, whose error without `retry` is the driver's.
          if (refused[0] instanceof ConflictError) return
          expect(refused[0]).to.be.an.instanceOf(DatabaseError).with.nested.property('parent.errno', 1213)
        } else expect(refused).to.deep.equal([])
      })
    }

    it('lose no acknowledged write, and make none twice, while one is killed and comes back', async () => {
      const account = new Account({ before: 300, dead: 200, returning: 200, after: 300 })
      const { id } = await models[0]!.create({ progress: { count: 0 } })
      await cluster.caughtUp()

      const victim = cluster.nodes[2]!
      const retry = {
        maxAttempts: 1000,
        maxDelayMs: 50,
        onRetry: ({ error }: FailedAttempt): void => {
          account.repeat(error)
        },
      }

      async function keepWriting(
        node: Node,
        kind: Write['kind'],
        call: (key: string) => Promise<unknown>,
      ): Promise<void> {
        for (let number = 0; ; number++) {
          const phase = await account.turn()
          if (!phase) return
          const write = { kind, node: node.name, phase, key: `${node.name}_${kind}_${number}` }
          try {
            await call(write.key)
            account.acknowledge(write)
          } catch (error) {
            expect(error).to.be.an.instanceOf(BaseError)
            if (node !== victim) throw error
            if (error instanceof UnknownOutcomeError) account.unknown.push(write)
            else account.failed.push(write)
            await account.begun('after')
          }
        }
      }

      const writers = cluster.nodes.flatMap((node, index) => {
        const target = [models[index]!, id] as const
        return [
          keepWriting(node, 'merge', (key) => mergeJsonKey(target, 'progress', key, 'done', { retry })),
          keepWriting(node, 'optimistic', (key) =>
            withOptimisticLock(target, (run) => void (run.progress![key] = 'done'), { retry }),
          ),
          keepWriting(node, 'count', () =>
            withLock(
              target,
              async (run) => {
                const progress = run.progress as Counted
                progress.count += 1
                await run.save()
              },
              { retry },
            ),
          ),
        ]
      })

      async function outage(): Promise<void> {
        await account.filled('before')
        await victim.kill()
        await account.filled('dead')
        await Promise.all([victim.restart(), account.filled('returning')])
        await account.filled('after')
        account.end()
      }

      await Promise.all([outage(), ...writers])
      console.log(account.report())
      await cluster.caughtUp()

      const [document, ...copies] = await Promise.all(
        models.map(async (Runs) => (await Runs.findByPk(id, { rejectOnEmpty: true })).progress as Counted),
      )
      for (const copy of copies) expect(copy).to.deep.equal(document)

      const { count, ...keys } = document!
      const keysOf = (writes: readonly Write[]): string[] =>
        [...of('merge', writes), ...of('optimistic', writes)].map(({ key }) => key)
      const told = keysOf(account.acknowledged)
      const possible = new Set([...told, ...keysOf(account.unknown)])
      expect(told.filter((key) => !(key in keys))).to.deep.equal([])
      expect(Object.keys(keys).filter((key) => !possible.has(key))).to.deep.equal([])

      const counted = of('count', account.acknowledged).length
      expect(count).to.be.within(counted, counted + of('count', account.unknown).length)

      // Else it was no test: everyone wrote before and after, there was enough to lose, and they got in each other's way.
      for (const phase of ['before', 'after'] as const) {
        const names = new Set(account.in(phase).map(({ node }) => node))
        expect([...names]).to.have.members(cluster.nodes.map(({ name }) => name))
      }
      expect(account.acknowledged).to.have.lengthOf.at.least(1_000)
      expect(counted).to.be.above(0)
      expect(account.repeats).to.be.above(0)
    })

    more?.(() => cluster)
  })
}

function of(kind: Write['kind'], writes: readonly Write[]): Write[] {
  return writes.filter((write) => write.kind === kind)
}
