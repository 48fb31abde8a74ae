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
    it(`tells the lost update and three cures on ${name}`, async () => {
      const { code, stdout, stderr } = await demo(...options())
      expect({ code, stderr }).to.deep.equal({ code: 0, stderr: '' })
      const chapters = stdout.split(/\n\n(?=\S)/).slice(1)
      const ends = chapters.map((chapter) =>
        chapter
          .trimEnd()
          .split('\n')
          .slice(-2)
          .map((line) => line.trim()),
      )
      expect(ends.slice(0, 4)).to.deep.equal([
        ['→ progress = {"step_b":"done"}', '→ step_a is LOST, and nothing was raised'],
        ['→ progress = {"step_a":"done","step_b":"done"}', '→ both steps are there'],
        ['→ progress = {"step_a":"done","step_b":"done"}', '→ both steps are there'],
        ['→ progress = {"step_a":"done","step_b":"done"}', '→ both steps are there'],
      ])
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
