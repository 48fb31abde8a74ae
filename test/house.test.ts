import { readdirSync, readFileSync } from 'node:fs'
import { join, posix, relative } from 'node:path'
import { expect } from 'chai'
import { root } from './docs/readme.js'

/** The rooms of lib/, from top to bottom, as CONTRIBUTING lists them. */
function rooms(): string[] {
  const text = readFileSync(join(root, 'CONTRIBUTING.md'), 'utf8')
  return [...text.matchAll(/^\s*\| `([\w./-]+)`/gm)].map(([, name]) => room(name!))
}

function files(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? files(join(folder, entry.name)) : [join(folder, entry.name)],
  )
}

/** The unit of the rule: a folder, or a file at the top level. */
function room(path: string): string {
  return /^\w+\//.exec(path)?.[0] ?? path.replace(/\.[jt]s$/, '')
}

describe('the house', () => {
  const lib = join(root, 'lib')
  const sources = files(lib).map((file) => ({ path: relative(lib, file), text: readFileSync(file, 'utf8') }))

  it('has every file in the list, and no other', () => {
    expect(rooms().sort()).to.deep.equal([...new Set(sources.map(({ path }) => room(path)))].sort())
  })

  it('has no circle of imports inside a folder', () => {
    const importsOf = new Map(
      sources.map(({ path, text }) => [
        path,
        [...text.matchAll(/from '(\.[^']*)\.js'/g)].map(([, from]) => `${posix.join(posix.dirname(path), from!)}.ts`),
      ]),
    )
    /** Everything that a file imports, and what that imports. */
    const reached = (path: string, seen = new Set<string>()): Set<string> => {
      for (const each of importsOf.get(path) ?? []) if (!seen.has(each)) reached(each, seen.add(each))
      return seen
    }
    const circular = [...importsOf.keys()].filter((path) => reached(path).has(path))
    // findings.ts uses a type of audit.ts, which calls it.
    expect(circular.sort()).to.deep.equal(['race/audit.ts', 'race/findings.ts'])
  })

  for (const { path, text } of sources) {
    it(`${path} imports only what stands below it`, () => {
      const imports = [...text.matchAll(/from '(\.[^']*)'/g)].map(([, from]) =>
        room(posix.join(posix.dirname(path), from!)),
      )
      const below = rooms().slice(rooms().indexOf(room(path)))
      for (const imported of imports) expect(below).to.include(imported)
      // It tests other people's code, and nothing of it is loaded with the rest.
      if (room(path) !== 'race/') expect(imports).to.not.include('race/')
    })

    it(`${path} names no dialect`, () => {
      if (path.startsWith('dialects/')) return
      const code = text.replace(/^\s*(\/?\*.*|\/\/.*)$/gm, '')
      expect(code).to.not.match(/'(mysql|mariadb|postgres|sqlite)'/i)
    })
  }
})
