import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { expect } from 'chai'
import { servers } from '../each-database.js'
import { requestedDatabases } from '../databases/index.js'
import { root } from './readme.js'

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

function demo(...options: string[]): Promise<Ended> {
  const child = spawn(process.execPath, [join(root, 'build', 'examples', 'demo', 'index.js'), ...options], {
    cwd: root,
  })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (text: Buffer) => (stdout += text.toString()))
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()))
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, stdout, stderr })))
}

describe('npm run demo', () => {
  const ways = requestedDatabases().map(
    (name) => [name, () => (name === 'sqlite' ? [] : ['--url', servers.get(name)!.url])] as const,
  )
  for (const [name, options] of ways) {
    it(`shows the lost update, and that three cures hold in every order, on ${name}`, async () => {
      const { code, stdout, stderr } = await demo(...options())
      expect({ code, stderr }).to.deep.equal({ code: 0, stderr: '' })
      const [, lost, ...cures] = stdout.split(/^(?=await )/m)
      expect(lost).to.match(/✗ a step is lost in \d+ of \d+ orders, and nothing is raised/)
      expect(lost).to.match(/^ {4}job A \(ok\) +│ job B \(ok\)$/m)
      expect(lost!.replace(/\s+/g, ' ')).to.match(
        /lost: "step_([ab])" of progress, which job \w wrote at 3: job \w overwrote it at 4 with UPDATE lossless_demo, from its read at \d, which took no lock replay: v1:[AB]+ $/,
      )
      expect(cures).to.have.length(3)
      for (const cure of cures) expect(cure).to.match(/\n✔ both steps are there, after each of \d+ orders\n/)
      // Plain where there is no terminal.
      expect(stdout).to.not.include('\u001b[')
    })
  }

  for (const [title, options, reason] of [
    ['a URL that is none', ['--url', 'nonsense'], /^demo: --url must be mysql:\/\/.*got "nonsense"\n$/],
    ['a server that does not answer', ['--url', 'mysql://root@127.0.0.1:1/none'], /^demo: .*ECONNREFUSED.*\n$/],
    ['an option that there is not', ['--nonsense'], /^demo: Unknown option '--nonsense'.*\n$/],
  ] as const) {
    it(`ends with 1 and one line for ${title}`, async () => {
      const { code, stderr } = await demo(...options)
      expect(code).to.equal(1)
      expect(stderr).to.match(reason)
    })
  }
})
