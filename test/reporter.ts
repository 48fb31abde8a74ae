import { reporters } from 'mocha'
import type { MochaOptions, Runner } from 'mocha'

/** What a run sends to the process that began it. */
export interface Counts {
  readonly passes: number
  readonly failures: number
}

/** Mocha's own report, ended by one line that a machine can read, unless the process that began it adds the counts up. */
module.exports = class extends reporters.Spec {
  constructor(runner: Runner, options: MochaOptions) {
    super(runner, options)
    runner.once('end', () => {
      const { passes, failures } = runner.stats!
      const counts: Counts = { passes, failures }
      if (process.send) process.send(counts)
      else console.log(`${passes} passed, ${failures} failed`)
    })
    // Its servers end with the process that began this one.
    process.once('disconnect', () => process.exit(1))
    process.channel?.unref()
  }
}
