import Mocha from 'mocha'
import { delimiter } from 'node:path'
import { mochaHooks } from '../setup.js'

/**
 * Runs the tests twice in one process, as Stryker does for each mutant: a test that fails when it is repeated would count every
 * mutant as killed.
 */
async function main(): Promise<void> {
  const mocha = new Mocha({
    grep: new RegExp(process.env['GREP']!),
    reporter: 'dot',
    timeout: 0,
    rootHooks: mochaHooks,
  })
  mocha.cleanReferencesAfterRun(false)
  for (const file of process.env['SPEC']!.split(delimiter)) mocha.addFile(file)
  await mocha.loadFilesAsync()
  for (const run of ['first', 'second']) {
    const failures = await new Promise<number>((resolve) => mocha.run(resolve))
    if (failures > 0) throw new Error(`the ${run} run of the tests failed; no mutant was made`)
  }
  process.exit()
}

// Mocha's own handler of unhandled rejections would let the process end as if it had passed.
main().catch((error: unknown) => {
  console.error(error)
  process.exit(1)
})
