import { expect } from 'chai'
import { Sequelize } from 'sequelize'
import { ConflictError, mergeJsonKey, withLock } from 'sequelize-lossless'
import type { FailedAttempt } from 'sequelize-lossless'
import { until } from '../patience.js'
import { rejection } from '../rejection.js'
import { createRuns } from '../workflow-run.js'
import type { WorkflowRun } from '../workflow-run.js'
import { startGalera } from './galera.js'
import { describeWriters } from './writers.js'

describeWriters('three MariaDB servers in a Galera cluster', startGalera, (cluster) => {
  it('refuse every statement on a node without the majority, which may be repeated: nothing was written', async () => {
    const [survivor, ...others] = cluster().nodes
    const sequelize = new Sequelize(survivor!.url, { logging: false })
    const Runs = await createRuns(sequelize, { tableName: 'runs_of_minority' })
    const { id } = await Runs.create({ progress: { count: 0 } })
    const target = [Runs, id] as const
    const isRefused = (): Promise<true | undefined> =>
      Runs.count().then(
        () => undefined,
        (error: unknown) => (/WSREP/.test(String(error)) ? true : undefined),
      )
    const count = async (run: WorkflowRun): Promise<void> => {
      run.progress = { count: Number(run.progress!['count']) + 1 }
      await run.save()
    }

    // A transaction is open while the majority is lost; the node then refuses its COMMIT, and its ROLLBACK.
    let isMajorityLost = false
    const messages: string[] = []
    const onRetry = async ({ error }: FailedAttempt): Promise<void> => {
      messages.push(String((error as Error).cause))
      const refused = await rejection(mergeJsonKey(target, 'progress', 'k', 1), ConflictError)
      expect(refused.message).to.include('a node that is not in its cluster at the moment, so nothing was written')
      await sequelize.query(`SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'`)
      await until('the node is a cluster of its own', async () => (await isRefused()) === undefined || undefined)
    }
    await withLock(
      target,
      async (run) => {
        await count(run)
        if (isMajorityLost) return
        isMajorityLost = true
        await Promise.all(others.map((node) => node.kill()))
        await until('the node has lost the majority', isRefused)
      },
      { retry: { maxAttempts: 2, onRetry } },
    )
    expect(messages).to.have.length(1)
    expect(messages[0]).to.include('WSREP has not yet prepared node')
    // Connections of the pool that are used again commit nothing that was refused.
    await Promise.all(Array.from({ length: 10 }, () => withLock(target, count)))
    expect((await Runs.findByPk(id))!.progress).to.deep.equal({ count: 11 })
    await sequelize.close()
  })
})
