import { reporters } from 'mocha'
import type { MochaOptions, Runner } from 'mocha'

/** Mocha's own report, ended by one line that a machine can read. */
module.exports = class extends reporters.Spec {
  constructor(runner: Runner, options: MochaOptions) {
    super(runner, options)
    runner.once('end', () => {
      const { passes, failures } = runner.stats!
      console.log(`${passes} passed, ${failures} failed`)
    })
  }
}
