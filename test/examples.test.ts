import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { expect } from 'chai'
import { requestedDatabases } from './databases/index.js'
import { servers } from './each-database.js'
import { isSampled } from './sample.js'

interface Outcome {
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
}

const examples = readdirSync('examples').filter((name) => /^\d+-/.test(name))

/** Each command of an example's README, with the output that stands below it. */
function commandsOf(example: string): { command: string; output: string }[] {
  const readme = readFileSync(`examples/${example}/README.md`, 'utf8')
  const pairs = [...readme.matchAll(/^```bash\n(.*?)^```.*?^```text\n(.*?)^```/gms)]
  return pairs.map(([, command, output]) => ({ command: command!.trim(), output: output! }))
}

/** Runs a command as a reader would, from the root of the repository. */
function run(command: string, databaseUrl: string | undefined): Promise<Outcome> {
  const env = {
    ...process.env,
    DATABASE_URL: databaseUrl,
    COMPLETE_STEP: undefined,
    FORCE_COLOR: undefined,
    // Vitest has colours wherever CI is set.
    NO_COLOR: '1',
    // Jest and Vitest load modules in wrappers, whose coverage would be taken for that of the lines they wrap.
    NODE_V8_COVERAGE: '',
    // Without it npm prints the script's name and command before the output.
    npm_config_loglevel: 'silent',
  }
  return new Promise((resolve) => {
    const child = execFile('sh', ['-c', command], { env }, (_error, stdout, stderr) =>
      resolve({ exitCode: child.exitCode ?? -1, stdout, stderr }),
    )
  })
}

/** The output without what differs from run to run: times, and places in files. */
function steady(output: string): string {
  return output
    .replaceAll(/ \(?\d+(\.\d+)? ?m?s\)?$/gm, '')
    .replaceAll(/^( +at| RUN| +Start at| +Duration|Time:|ℹ duration_ms) .*$/gm, '')
    .trim()
}

describe('the examples', () => {
  const databases = requestedDatabases()
  for (const [turn, name] of databases.entries()) {
    describe(`on ${name}`, () => {
      for (const example of examples.filter((_, index) => isSampled(index, 3 * databases.length, turn))) {
        const commands = commandsOf(example)
        it(`${example} prints what its README says`, async () => {
          expect(commands.length).to.be.above(0)
          for (const { command, output } of commands) {
            const { exitCode, stdout, stderr } = await run(
              command,
              name === 'sqlite' ? undefined : servers.get(name)!.url,
            )
            // Jest reports to stderr.
            expect(steady(stdout || stderr), stderr).to.equal(steady(output))
            expect(exitCode, command).to.equal(command.startsWith('COMPLETE_STEP=naive ') ? 1 : 0)
          }
        })
      }
    })
  }

  it('are listed for a number that is wrong or missing', async () => {
    for (const command of ['npm run example 99', 'npm run example']) {
      const { exitCode, stderr } = await run(command, undefined)
      expect(exitCode).to.equal(1)
      for (const example of examples) expect(stderr).to.contain(example)
    }
  })
})
