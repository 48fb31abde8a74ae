// Makes a release of all packages, which have one version, or says whether a tag is one. It sends nothing: pushing the tag
// does, by .github/workflows/release.yml.
//
//   node scripts/release.mjs 0.2.0            writes the version and the date into the packages and changelogs, commits, tags
//   node scripts/release.mjs --check v0.2.0   exits 1 unless the packages and changelogs have the version of the tag
//   node scripts/release.mjs --notes v0.2.0   prints what CHANGELOG.md has about the version
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const packages = ['eslint-plugin-sequelize-lossless', 'every-order']
const manifests = ['package.json', ...packages.map((name) => `packages/${name}/package.json`)]
const changelogs = ['CHANGELOG.md', ...packages.map((name) => `packages/${name}/CHANGELOG.md`)]
const unreleased = '## [Unreleased]'

const read = (path) => readFileSync(join(root, path), 'utf8')
const write = (path, text) => writeFileSync(join(root, path), text)
const git = (...words) => execFileSync('git', words, { cwd: root, encoding: 'utf8' })

/** The text between the heading of a version and the next heading of a version. */
function sectionOf(changelog, heading) {
  const lines = read(changelog).split('\n')
  const start = lines.findIndex((line) => line.startsWith(heading))
  if (start < 0) return undefined
  const end = lines.findIndex((line, index) => index > start && line.startsWith('## '))
  return lines
    .slice(start + 1, end < 0 ? undefined : end)
    .join('\n')
    .trim()
}

function release(version) {
  if (!/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version)) throw new Error(`"${version}" is no version. Write 1.2.3.`)
  if (git('status', '--porcelain') !== '') throw new Error('the work tree has changes. Commit them.')
  if (git('tag', '--list', `v${version}`) !== '') throw new Error(`there is a tag v${version}. Choose another version.`)
  for (const changelog of changelogs) {
    if (!sectionOf(changelog, unreleased)) throw new Error(`${changelog} has nothing under "${unreleased}". Write it.`)
  }
  for (const path of manifests) {
    const manifest = JSON.parse(read(path))
    manifest.version = version
    for (const name of packages) if (manifest.devDependencies?.[name]) manifest.devDependencies[name] = version
    write(path, `${JSON.stringify(manifest, null, 2)}\n`)
  }
  const lock = JSON.parse(read('package-lock.json'))
  lock.version = version
  lock.packages[''].version = version
  for (const name of packages) {
    lock.packages[''].devDependencies[name] = version
    lock.packages[`packages/${name}`].version = version
  }
  write('package-lock.json', `${JSON.stringify(lock, null, 2)}\n`)
  const today = new Date().toISOString().slice(0, 10)
  for (const changelog of changelogs)
    write(changelog, read(changelog).replace(unreleased, `## [${version}] - ${today}`))
  git('commit', '--all', '--message', `Release ${version}`)
  git('tag', '--annotate', `v${version}`, '--message', `Release ${version}`)
  return `Committed and tagged. To publish: git push origin HEAD v${version}`
}

function check(tag) {
  const version = tag.replace(/^v/, '')
  for (const path of manifests) {
    const manifest = JSON.parse(read(path))
    const needed = packages.flatMap((name) => manifest.devDependencies?.[name] ?? [])
    for (const own of [manifest.version, ...needed]) {
      if (own !== version)
        throw new Error(`${path} has ${own}, not the ${version} of the tag. Make tags by this script.`)
    }
  }
  for (const changelog of changelogs) {
    if (!sectionOf(changelog, `## [${version}]`)) throw new Error(`${changelog} has nothing under "## [${version}]".`)
  }
  return `${tag} is the version of the packages and of the changelogs.`
}

function notes(tag) {
  const text = sectionOf('CHANGELOG.md', `## [${tag.replace(/^v/, '')}]`)
  if (!text) throw new Error(`CHANGELOG.md has nothing about ${tag}.`)
  return text
}

const [first = '', second = ''] = process.argv.slice(2)
try {
  const line = first === '--check' ? check(second) : first === '--notes' ? notes(second) : release(first)
  process.stdout.write(`${line}\n`)
} catch (error) {
  process.stderr.write(`release: ${error.message}\n`)
  process.exitCode = 1
}
