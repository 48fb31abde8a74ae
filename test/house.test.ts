import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, posix, relative } from 'node:path'
import { expect } from 'chai'
import { root } from './docs/readme.js'

/** The layers of lib/ from top to bottom, each with the layers that it imports, as the map in CONTRIBUTING says. */
const layers = new Map(
  [...readFileSync(join(root, 'CONTRIBUTING.md'), 'utf8').matchAll(/^\s*\| `([\w./-]+)`\s*\|[^|]*\|([^|]*)\|$/gm)].map(
    ([, name, imports]) => [layerOf(name!), imports!.match(/[\w-]+/g) ?? []] as const,
  ),
)

function files(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? files(join(folder, entry.name)) : [join(folder, entry.name)],
  )
}

/** A folder of lib/, or a file at its top level. */
function layerOf(path: string): string {
  return /^(\w+)\//.exec(path)?.[1] ?? path.replace(/\.[jt]s$/, '')
}

/** The layers that a file imports. */
function importsOf(path: string, text: string): string[] {
  return [...text.matchAll(/(?:from |require\()'(\.[^']*)'/g)].map(([, from]) =>
    layerOf(posix.join(posix.dirname(path), from!)),
  )
}

interface Source {
  readonly path: string
  readonly text: string
}

function sourcesOf(folder: string): Source[] {
  return files(folder).map((file) => ({ path: relative(folder, file), text: readFileSync(file, 'utf8') }))
}

/** The files that import themselves, by way of other files. */
function circular(sources: readonly Source[]): string[] {
  const filesImportedBy = new Map(
    sources.map(({ path, text }) => [
      path,
      [...text.matchAll(/(?:from |require\()'(\.[^']*)\.js'/g)].map(
        ([, from]) => `${posix.join(posix.dirname(path), from!)}.ts`,
      ),
    ]),
  )
  /** Everything that a file imports, and what that imports. */
  const reached = (path: string, seen = new Set<string>()): Set<string> => {
    for (const each of filesImportedBy.get(path) ?? []) if (!seen.has(each)) reached(each, seen.add(each))
    return seen
  }
  return [...filesImportedBy.keys()].filter((path) => reached(path).has(path))
}

describe('the house', () => {
  const sources = sourcesOf(join(root, 'lib'))

  it('has the same layers as the map', () => {
    expect([...layers.keys()].sort()).to.deep.equal([...new Set(sources.map(({ path }) => layerOf(path)))].sort())
  })

  it('imports only what the map allows', () => {
    for (const [layer, named] of layers) {
      const imported = sources.flatMap(({ path, text }) => (layerOf(path) === layer ? importsOf(path, text) : []))
      const others = new Set(imported.filter((each) => each !== layer))
      expect([...others].sort(), layer).to.deep.equal([...named].sort())
    }
  })

  it('has no circular imports inside a folder', () => {
    expect(circular(sources)).to.deep.equal([])
  })

  for (const { path, text } of sources) {
    it(`${path} imports only layers below its own`, () => {
      const order = [...layers.keys()]
      const below = order.slice(order.indexOf(layerOf(path)))
      for (const imported of importsOf(path, text)) expect(below).to.include(imported)
    })

    it(`${path} touches no private member of Sequelize`, () => {
      if (/^(sequelize|race)\//.test(path)) return
      const code = text.replace(/^\s*(\/?\*.*|\/\/.*)$/gm, '')
      expect(code).to.not.match(/[.'"`{,]\s?_[a-z]/i)
    })

    it(`${path} names no dialect`, () => {
      if (path.startsWith('dialects/')) return
      const code = text.replace(/^\s*(\/?\*.*|\/\/.*)$/gm, '')
      expect(code).to.not.match(/'(mysql|mariadb|postgres|sqlite)'/i)
    })
  }

  it('has packages that import no file of the library and have no circular imports', () => {
    for (const name of readdirSync(join(root, 'packages'))) {
      const package_ = sourcesOf(join(root, 'packages', name, 'lib'))
      expect(circular(package_), name).to.deep.equal([])
      for (const { path, text } of package_) {
        const all = [...text.matchAll(/\bfrom '([^']*)'/g)].map(([, from]) => from!)
        const loaded = [...text.matchAll(/^(?:import|export) (?!type )[\w$\s{},*]*from '([^']*)'/gm)].map(
          ([, from]) => from!,
        )
        const isOutside = (from: string): boolean =>
          from.startsWith('.') && join('lib', dirname(path), from).startsWith('..')
        expect(
          [...all.filter(isOutside), ...loaded.filter((from) => !/^(node:|\.)/.test(from))],
          `${name}/lib/${path}`,
        ).to.deep.equal([])
      }
    }
  })
})
