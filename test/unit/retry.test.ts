import { resolve } from 'node:path'
import { expect } from 'chai'
import * as sinon from 'sinon'
import type { FailedAttempt } from 'sequelize-lossless'
import { rejection } from '../rejection.js'

// Not part of the package's face, where only its clock and its dice can be put in.
// eslint-disable-next-line @typescript-eslint/no-require-imports
const { retry } = require(resolve('dist/transactions/retry.js')) as typeof import('../../dist/transactions/retry.js')

describe('the pauses between attempts', () => {
  const conflict = new Error('conflict')
  const call = { method: 'withLock', row: undefined }

  /** Runs attempts that all fail, and returns the pauses that were made. */
  async function pauses(options: Parameters<typeof retry>[3], dice: number): Promise<number[]> {
    const pause = sinon.stub<[number], Promise<void>>().resolves()
    const attempt = sinon.stub().rejects(conflict)
    const time = { random: () => dice, pause: pause as never }
    expect(
      await rejection(
        retry(call, attempt, () => true, options, time),
        Error,
      ),
    ).to.equal(conflict)
    return pause.args.map(([milliseconds]) => milliseconds)
  }

  it('double from attempt to attempt, up to maxDelayMs', async () => {
    expect(await pauses({}, 1)).to.deep.equal([10, 20, 40, 80])
    expect(await pauses({ maxAttempts: 6, baseDelayMs: 300 }, 1)).to.deep.equal([300, 600, 1000, 1000, 1000])
    expect(await pauses({ maxAttempts: 3, maxDelayMs: 5 }, 1)).to.deep.equal([5, 5])
    expect(await pauses({ maxAttempts: 1 }, 1)).to.deep.equal([])
    expect(await pauses({ maxAttempts: 2000 }, 1)).to.have.length(1999)
  })

  it('are multiplied by a random factor', async () => {
    expect(await pauses({}, 0.5)).to.deep.equal([5, 10, 20, 40])
    expect(await pauses({}, 0)).to.deep.equal([0, 0, 0, 0])
  })

  it('are passed to onRetry before they begin, and an error of onRetry ends the attempts', async () => {
    const told: FailedAttempt[] = []
    const pause = sinon.spy(() => {
      expect(told).to.have.length(pause.callCount)
      return Promise.resolve()
    })
    const attempt = sinon.stub().onThirdCall().resolves('done').rejects(conflict)
    const time = { random: () => 1, pause: pause as never }
    expect(await retry(call, attempt, () => true, { onRetry: (failed) => told.push(failed) }, time)).to.equal('done')
    expect(told).to.deep.equal([
      { error: conflict, attempt: 1, maxAttempts: 5, delayMs: 10 },
      { error: conflict, attempt: 2, maxAttempts: 5, delayMs: 20 },
    ])
    const enough = new Error('enough')
    const onRetry = sinon.stub().throws(enough)
    expect(
      await rejection(
        retry(call, sinon.stub().rejects(conflict), () => true, { onRetry }, time),
        Error,
      ),
    ).to.equal(enough)
  })

  it('follow only an error that is worth a retry', async () => {
    const attempt = sinon.stub().rejects(conflict)
    await rejection(
      retry(call, attempt, (error) => error !== conflict, {}),
      Error,
    )
    expect(attempt.callCount).to.equal(1)
  })
})
